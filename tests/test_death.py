"""Death and interruption: of the host, of the supervisor, of both, and of containers that resist.

SECURITY.md's campaigns: everything is gone within a second, a waiter learns of the supervisor's death
within two, and Ctrl-C is raised at once and leaves nothing.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

import host_process
from host_process import Host, Traces, eventually

TWENTY = """
containers = [pc.start("host", ["sh", "-c", "sleep 1000 & exec sleep 1000"]) for _ in range(20)]
say("ready", client.default().pid)
"""


def ready(host: Host) -> int:
    """The supervisor's number, once the host says that all is up."""
    word, pid = host.line().split()
    assert word == "ready"
    return int(pid)


def traces(host: Host, supervisor: int, *, at_least: int) -> Traces:
    eventually(lambda: len(host_process.family(supervisor)) >= at_least, 10, f"{at_least} processes")
    found = Traces(host.store, supervisor=supervisor)
    assert found.owners and found.cgroups()
    return found


def recovers(base: Path, before: Traces) -> None:
    """The next one to open the store removes the marks too, and just works."""
    script = "say(pc.run('host', ['echo', 'fine'], capture_output=True, text=True).stdout.strip())"
    with Host(script, base) as host:
        assert host.finish() == ["fine"]
    left = [entry for entry in os.listdir(before.store / "hosts") if entry in before.owners]
    assert left == []
    assert before.left() == []


def test_sigkill_of_the_host(tmp_path: Path) -> None:
    with Host(TWENTY + "signal.pause()", tmp_path) as host:
        found = traces(host, ready(host), at_least=61)
        host.process.kill()
        found.await_nothing(1.0)
    recovers(tmp_path, found)


def test_sigkill_of_the_host_with_layers(tmp_path: Path) -> None:
    """Containers with a directory in the store, which the supervisor removes."""
    script = """
        image = pc.Image.from_directory(os.environ["ROOT"])
        containers = [pc.start(image, ["/busy"]) for _ in range(20)]
        say("ready", client.default().pid)
        signal.pause()
    """
    root = tmp_path / "root"
    make_root(root)
    with Host(script, tmp_path, env={"ROOT": str(root)}) as host:
        found = traces(host, ready(host), at_least=41)
        assert len(os.listdir(host.store / "containers")) == 20
        host.process.kill()
        found.await_nothing(1.0)
    recovers(tmp_path, found)


def make_root(root: Path) -> None:
    """A root whose one program waits for ever: a static one, so there is nothing beside it."""
    import shutil
    import subprocess

    from conftest import need

    need(shutil.which("gcc") is not None, "gcc")
    root.mkdir()
    source = "#include <unistd.h>\nint main(void) { for (;;) pause(); }\n"
    argv = ["gcc", "-static", "-x", "c", "-", "-o", str(root / "busy")]
    subprocess.run(argv, input=source.encode(), check=True)


def test_sigkill_of_the_supervisor(tmp_path: Path) -> None:
    """Each waiter gets its typed error, whatever it was waiting for, and the next run has a new one."""
    script = (
        TWENTY
        + """
def outcome(call):
    began = time.monotonic()
    try:
        call()
    except pc.PycontainerError as error:
        say(type(error).__name__, time.monotonic() - began < 30)
    else:
        say("returned")

calls = [
    lambda: containers[0].wait(),
    lambda: containers[0].wait(timeout=100),
    lambda: containers[1].exec(["sleep", "1000"], capture_output=True),
    lambda: containers[2].popen(["sleep", "1000"]).wait(),
    lambda: containers[3].popen(["sleep", "1000"], stdin=pc.PIPE, stdout=pc.PIPE).communicate(b"x" * 10),
    lambda: pc.run("host", ["sleep", "1000"]),
    lambda: pc.run("host", ["sleep", "1000"], capture_output=True, timeout=100),
    lambda: containers[4].stop(timeout=100),
]
containers.append(None)
containers[4] = pc.start("host", ["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"])
threads = [threading.Thread(target=outcome, args=(call,)) for call in calls]
for thread in threads:
    thread.start()
time.sleep(0.7)
say("waiting")
for thread in threads:
    thread.join()
say("joined")
outcome(lambda: containers[10].wait())
outcome(lambda: containers[11].exec(["true"]))
for container in containers[:-1]:
    container.remove(force=True)
say(pc.run("host", ["echo", "fine"], capture_output=True, text=True).stdout.strip())
say(client.default().pid)
"""
    )
    with Host(script, tmp_path) as host:
        supervisor = ready(host)
        assert host.line() == "waiting"
        found = traces(host, supervisor, at_least=65)
        os.kill(supervisor, signal.SIGKILL)
        killed = time.monotonic()
        assert [host.line() for _ in range(8)] == ["SupervisorError True"] * 8
        assert host.line() == "joined"
        assert time.monotonic() - killed < 2.0
        found.await_nothing(2.0)
        assert host.line() == "SupervisorError True"
        assert host.line().split()[0] in ("SupervisorError", "InvalidState")
        assert host.line() == "fine"
        assert int(host.line()) != supervisor
        assert host.finish() == []
        assert host.errors() == ""
    Traces(host.store).await_nothing(1.0)


def test_sigkill_of_host_and_supervisor(tmp_path: Path) -> None:
    with Host(TWENTY + "signal.pause()", tmp_path) as host:
        supervisor = ready(host)
        found = traces(host, supervisor, at_least=61)
        os.kill(supervisor, signal.SIGSTOP)
        host.process.kill()
        os.kill(supervisor, signal.SIGKILL)
        deadline = time.monotonic() + 1.0
        while any(host_process.started(pid) == born for pid, born in found.processes):
            assert time.monotonic() < deadline, found.left()
            time.sleep(0.01)
    recovers(tmp_path, found)


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("pass", 0),
        ("sys.exit(3)", 3),
        ("os._exit(4)", 4),
        ("os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
        ("os.abort()", -signal.SIGABRT),
        ("threading.Thread(target=containers[0].wait, daemon=True).start()", 0),
        ("raise SystemExit(5)", 5),
    ],
)
def test_ends_of_the_host(tmp_path: Path, end: str, status: int) -> None:
    script = TWENTY.replace("range(20)", "range(3)") + f"sys.stdin.readline()\n{end}\n"
    with Host(script, tmp_path, stdin=-1) as host:
        found = traces(host, ready(host), at_least=10)
        assert host.process.stdin is not None
        host.process.stdin.close()
        assert host.process.wait(timeout=10) == status, host.errors()
        found.await_nothing(1.0)
        host.process.stdin = None
    recovers(tmp_path, found)
