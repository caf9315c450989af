"""`persist=True`: containers that outlive their process, and are every later one's."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import ordinary_user
import pycontainer as pc
import shell_root
from containers import as_root, nothing_left, unique_seconds, until, with_argument
from keepers import (
    alive,
    all_removed,
    begun,
    elsewhere,
    keeper_of,
    persistent,
    persistent_directories,
    state,
    supervisor_of,
)
from pycontainer.keeping import control, plain
from pycontainer.store.persistent import Persistent


@pytest.fixture(autouse=True)
def removed() -> Iterator[None]:
    with all_removed():
        yield


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> pc.Image:
    """With a shell and some tools."""
    return pc.Image.from_directory(shell_root.make(tmp_path_factory.mktemp("root") / "files"))


def test_it_outlives_its_process_and_is_found_by_name() -> None:
    seconds = unique_seconds()
    (found,) = elsewhere(f"print(pc.start('host', ['sleep', {seconds!r}], persist=True, name='lasting').id)")
    until(lambda: with_argument(seconds), "it runs")
    container = pc.Container.get("lasting")
    assert (container.id, container.name, container.status) == (found, "lasting", "running")
    assert pc.Container.get(found) is container
    assert pc.Container.get(found[:8]) is container
    assert isinstance(container, pc.Container)
    assert [one.id for one in pc.Container.list()] == [found]
    assert elsewhere("print([c.name for c in pc.Container.list(status='running')])") == ["['lasting']"]
    container.remove(force=True)
    assert not with_argument(seconds)
    with pytest.raises(pc.ContainerNotFound):
        pc.Container.get("lasting")


def test_nothing_is_left_of_one_that_was_removed() -> None:
    persistent(name="warm").remove(force=True)
    with nothing_left():
        for _ in range(2):
            container = persistent(name="gone")
            keeper = keeper_of(container)
            container.exec(["true"])
            container.path("/etc/hostname").exists()
            container.remove(force=True)
            container.remove()
            until(lambda keeper=keeper: not alive(keeper), "the keeper to end")
            del container
    assert persistent_directories() == []


def test_a_process_that_is_killed_leaves_it_running() -> None:
    creator = begun(
        """
        pc.start("host", ["sleep", "1000"], persist=True, name="left")
        print("up", flush=True)
        time.sleep(60)
        """
    )
    assert creator.stdout is not None
    assert creator.stdout.readline() == "up\n"
    creator.kill()
    creator.communicate()
    container = pc.Container.get("left")
    assert container.status == "running"
    assert container.exec(["echo", "here"], capture_output=True, text=True).stdout == "here\n"


def test_the_keeper_is_nobodys_child_and_in_a_session_of_its_own() -> None:
    keeper = keeper_of(persistent())
    fields = Path(f"/proc/{keeper}/stat").read_text().rpartition(")")[2].split()
    assert int(fields[1]) != os.getpid()
    assert int(fields[3]) != os.getsid(0)
    assert os.readlink(f"/proc/{keeper}/cwd") == "/"
    assert keeper not in map(int, Path("/proc/thread-self/children").read_text().split())


def test_leaving_it_as_a_context_manager_removes_it() -> None:
    with persistent(name="inside") as container:
        assert container.status == "running"
    assert container.status == "stopped"
    assert persistent_directories() == []


def test_logs_exec_files_and_streams_are_there_in_another_process() -> None:
    script = "echo first; echo second >&2; exec cat"
    container = persistent(
        "sh", "-c", script, name="all", stdin=pc.PIPE, labels={"a": "b"}, env={"SECRET": "x"}
    )
    lines = elsewhere(
        """
        c = pc.Container.get("all")
        print(c.labels, c.pid is not None, c.options.name, "SECRET" in repr(c.options))
        while b"second" not in c.logs():
            time.sleep(0.01)
        print(sorted(c.logs(text=True)))
        script = ["sh", "-c", "read x; echo $x $SECRET; exit 3"]
        done = c.exec(script, input="given\\n", capture_output=True, text=True)
        print(done.returncode, done.stdout)
        with c.popen(["cat"], stdin=pc.PIPE, stdout=pc.PIPE) as process:
            print(process.communicate(b"through"))
        c.path("/tmp/new").write_text("content")
        print(c.path("/tmp/new").read_text(), c.path("/tmp/new").stat().st_uid)
        print([one.command[0] for one in c.top()][-1], c.stats().memory is None)
        c.stdin.write(b"typed\\n")
        c.stdin.close()
        print(c.wait(10).returncode)
        """
    )
    assert lines[:3] == ["{'a': 'b'} True all True", "['first\\n', 'second\\n']", "3 given x"]
    assert lines[4:6] == ["(b'through', b'')", "content 0"]
    assert lines[6].startswith("cat ")
    assert lines[7] == "0"
    assert container.path("/tmp/new").read_text() == "content"
    assert container.wait().stdout == b"first\ntyped\n"
    assert container.wait().stderr == b"second\n"
    assert (container.exit_code, container.status) == (0, "stopped")
    assert container.created_at <= container.started_at <= container.finished_at  # type: ignore[operator]


def test_following_its_log_ends_with_it() -> None:
    container = persistent("sh", "-c", "echo one; sleep 0.3; echo two")
    assert list(container.logs(follow=True, text=True)) == ["one\n", "two\n"]


def test_everybody_who_waits_is_told() -> None:
    container = persistent("sh", "-c", "read line; exit $line", stdin=pc.PIPE, name="awaited")
    others = [begun("print(pc.Container.get('awaited').wait().returncode)") for _ in range(2)]
    results: list[int] = []
    threads = [
        threading.Thread(target=lambda: results.append(container.wait(30).returncode)) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    assert container.stdin is not None
    container.stdin.write(b"7\n")
    for thread in threads:
        thread.join(30)
    assert results == [7, 7]
    assert [other.communicate(timeout=30) for other in others] == [("7\n", "")] * 2
    assert elsewhere("print(pc.Container.get('awaited').wait().returncode)") == ["7"]


def test_waiting_that_is_interrupted_leaves_it_alone() -> None:
    container = persistent(name="patient")
    other = begun(
        """
        print("waiting", flush=True)
        try:
            pc.Container.get("patient").wait()
        except KeyboardInterrupt:
            print("interrupted", pc.Container.get("patient").status)
        """
    )
    assert other.stdout is not None
    other.stdout.readline()
    time.sleep(0.5)
    other.send_signal(signal.SIGINT)
    assert other.communicate(timeout=10)[0] == "interrupted running\n"
    assert container.status == "running"


def test_time_that_runs_out_leaves_it_alone() -> None:
    container = persistent("sh", "-c", "echo said; read line; exit 3", stdin=pc.PIPE, name="lasting")
    until(lambda: b"said" in container.logs(), "its word")
    script = """
        for _ in range(2):
            try:
                c.wait(timeout=0.1)
            except pc.Timeout as error:
                found = error.result
                print(found.returncode, found.cause, found.stdout, found.usage.wall > 0, c.status)
    """
    assert (
        elsewhere("c = pc.Container.get('lasting')" + script.replace("\n        ", "\n"))
        == ["None timeout b'said\\n' True running"] * 2
    )
    with pytest.raises(pc.Timeout) as caught:
        container.wait(0.1)
    result = caught.value.result
    assert (result.stdout, result.cause, result.returncode) == (b"said\n", "timeout", None)
    assert (container.status, container.exit_code) == ("running", None)
    assert container.stdin is not None
    container.stdin.write(b"\n")
    assert container.wait(30).returncode == 3
    # Who has no time is told of an end that was.
    assert (container.wait(0).returncode, container.wait(-1).cause) == (3, "exited")


def test_states_and_what_they_forbid() -> None:
    container = pc.create("host", ["sleep", "1000"], persist=True)
    assert (container.status, container.pid, container.exit_code) == ("created", None, None)
    for forbidden in (container.wait, container.stop, container.kill, container.pause):
        with pytest.raises(pc.InvalidState, match="created"):
            forbidden()
    with pytest.raises(pc.InvalidState):
        container.exec(["true"])
    container.start()
    with pytest.raises(pc.InvalidState, match="running"):
        container.start()
    with pytest.raises(pc.InvalidState, match="running"):
        container.remove()
    pid = container.pid
    container.restart()
    assert (container.status, container.pid != pid) == ("running", True)
    assert container.stop().returncode == -signal.SIGTERM
    assert container.stop().returncode == -signal.SIGTERM
    with pytest.raises(pc.InvalidState, match="persistent"):
        container.seal()
    with pytest.raises(pc.LaunchError, match="missing"):
        pc.start("host", ["/missing"], persist=True)
    assert [path.name for path in persistent_directories()] == [container.id]


@as_root
def test_pausing_and_other_limits() -> None:
    container = persistent(name="slow")
    container.pause()
    assert elsewhere("print(pc.Container.get('slow').status)") == ["paused"]
    with pytest.raises(pc.InvalidState):
        container.exec(["true"])
    container.unpause()
    container.update(pids=77)
    assert container.options.pids == 77
    container.restart()
    assert container.stats().pids_limit == 77


def test_two_processes_stop_it_at_once() -> None:
    container = persistent(name="both")
    script = "print(pc.Container.get('both').stop(5).returncode)"
    others = [begun(script) for _ in range(2)]
    assert [other.communicate(timeout=30) for other in others] == [("-15\n", "")] * 2
    assert container.status == "stopped"


def test_two_processes_remove_and_start_it_at_once() -> None:
    for _ in range(3):
        container = pc.create("host", ["sleep", "1000"], persist=True, name="race")
        script = """
            try:
                c = pc.Container.get("race")
                {}
            except (pc.InvalidState, pc.ContainerNotFound, pc.SupervisorError) as error:
                print(type(error).__name__)
        """
        others = [begun(script.format(step)) for step in ("c.start()", "c.remove(force=True)")]
        assert all(not other.communicate(timeout=30)[1] for other in others)
        assert container.status == "stopped"
        assert persistent_directories() == []


def test_names_are_unique_between_processes() -> None:
    script = """
        try:
            print(pc.create("host", ["true"], persist=True, name="only").id)
        except pc.NameInUse:
            print("taken")
    """
    others = [begun(script) for _ in range(4)]
    said = [other.communicate(timeout=60)[0].strip() for other in others]
    assert said.count("taken") == 3
    assert len(persistent_directories()) == 1
    with pytest.raises(pc.NameInUse):
        pc.create("host", ["true"], name="only")
    with pytest.raises(pc.NameInUse):
        pc.run("host", ["true"], name="only")
    pc.Container.get("only").remove()
    with pc.create("host", ["true"], name="only"), pytest.raises(pc.NameInUse):
        pc.create("host", ["true"], persist=True, name="only")
    assert persistent_directories() == []
    pc.create("host", ["true"], persist=True, name="only").remove()


def test_a_killed_keeper_takes_the_program_along_and_another_begins(image: pc.Image) -> None:
    seconds = unique_seconds()
    container = pc.start(image, ["sleep", seconds], persist=True, name="kept")
    container.path("/mine").write_text("kept")
    keeper = keeper_of(container)
    waiting: list[Exception] = []

    def wait() -> None:
        try:
            container.wait()
        except pc.SupervisorError as error:
            waiting.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.2)
    os.kill(keeper, signal.SIGKILL)
    thread.join(5)
    assert len(waiting) == 1
    until(lambda: not with_argument(seconds), "the program to end")
    assert (container.status, container.exit_code, container.pid) == ("stopped", None, None)
    assert elsewhere("print(pc.Container.get('kept').status)") == ["stopped"]
    with pytest.raises(pc.InvalidState):
        container.exec(["true"])
    pc.Store.default().prune()
    assert container.path("/mine").read_text() == "kept"
    assert container.stop().returncode == -9
    assert container.start().status == "running"
    assert container.path("/mine").read_text() == "kept"
    assert container.exec(["cat", "/mine"], capture_output=True).stdout == b"kept"
    assert [change.path for change in container.diff()] == ["/mine"]


def test_several_begin_a_new_keeper_at_once() -> None:
    container = persistent(name="several")
    os.kill(keeper_of(container), signal.SIGKILL)
    script = """
        try:
            print(pc.Container.get("several").start().status)
        except pc.InvalidState as error:
            print("late")
    """
    others = [begun(script) for _ in range(3)]
    said = sorted(other.communicate(timeout=60)[0].strip() for other in others)
    assert said == ["late", "late", "running"]
    assert container.status == "running"


def test_one_without_keeper_is_removed() -> None:
    container = persistent(name="orphan")
    os.kill(keeper_of(container), signal.SIGKILL)
    container.remove(force=True)
    assert persistent_directories() == []
    assert container.status == "stopped"


def test_a_dead_supervisor_is_noticed_and_replaced(image: pc.Image) -> None:
    container = pc.start(image, ["sleep", "1000"], persist=True)
    container.exec(["true"])
    keeper = keeper_of(container)
    os.kill(supervisor_of(keeper), signal.SIGKILL)
    until(lambda: container.status == "stopped", "the end")
    with pytest.raises(pc.SupervisorError):
        container.wait(5)
    assert container.exit_code is None
    container.start()
    assert keeper_of(container) == keeper
    assert container.exec(["true"]).returncode == 0


def test_sigterm_to_the_keeper_stops_the_program_as_it_wants() -> None:
    container = persistent("sh", "-c", "trap 'echo bye; exit 4' TERM; echo up; while :; do sleep 0.05; done")
    until(lambda: b"up" in container.logs(), "the trap")
    keeper = keeper_of(container)
    os.kill(keeper, signal.SIGTERM)
    until(lambda: not alive(keeper), "the keeper to end")
    assert (container.status, container.exit_code) == ("stopped", 4)
    assert container.wait().stdout == b"up\nbye\n"
    assert container.start().status == "running"


def test_after_a_reboot_nothing_runs_whoever_has_its_numbers() -> None:
    container = persistent(name="before")
    path = persistent_directories()[0]
    said = state(container)
    os.kill(said["keeper"][0], signal.SIGKILL)
    until(lambda: container.status == "stopped", "the end")
    # As the file was when the power went, its numbers now being those of somebody else.
    said |= {"boot": "another", "status": "running", "pid": 1, "keeper": [os.getpid(), 1]}
    (path / "state.json").write_text(json.dumps(said))
    assert elsewhere("c = pc.Container.get('before'); print(c.status, c.pid, c.exit_code)") == [
        "stopped None None"
    ]
    assert pc.Container.list() == []
    container.start()
    assert state(container)["boot"] != "another"


def test_its_image_is_there_as_long_as_it_is(image: pc.Image, tmp_path: Path) -> None:
    made = image.configure(labels={"only": "this"})
    container = pc.create(made, ["cat", "/etc/only"], persist=True, name="stands")
    os.kill(keeper_of(container), signal.SIGKILL)
    until(lambda: not alive(keeper_of(container)), "the keeper to end")
    made.remove()
    del made
    pc.Store.default().prune()
    container.path("/etc").mkdir(exist_ok=True)
    container.path("/etc/only").write_text("content")
    assert container.labels["only"] == "this"
    assert container.start().wait(10).stdout == b"content"


def test_what_it_syncs_survives_a_crash_of_the_machine(image: pc.Image) -> None:
    """overlayfs.rst, "Volatile mount": such a layer ignores fsync(2)."""
    look = ["/bin/busybox", "grep", "^overlay / ", "/proc/mounts"]
    lasting = pc.start(image, look, persist=True)
    passing = pc.run(image, look, capture_output=True)
    assert [b"volatile" in done.stdout for done in (lasting.wait(), passing)] == [False, True]


def test_a_restart_policy_works_without_anybody() -> None:
    elsewhere(
        """
        pc.start("host", ["sh", "-c", "echo try; exit 1"], persist=True, restart="on-failure:2", name="again")
        """
    )
    container = pc.Container.get("again")
    assert container.wait(30).returncode == 1
    assert container.restarts == 2
    assert list(container.logs()) == [b"try\n"] * 3


def test_what_cannot_be_written_down_is_refused() -> None:
    with open(os.devnull, "rb") as file:
        for options in ({"stdin": file}, {"pass_fds": [file.fileno()]}, {"log": "inherit"}):
            with pytest.raises(pc.InvalidOption, match="persist=True"):
                pc.create("host", ["true"], persist=True, **options)
    with pytest.raises(pc.InvalidOption, match="persist"):
        pc.run("host", ["true"], persist=True)
    assert persistent_directories() == []


def test_one_that_was_removed_says_how_it_was() -> None:
    container = persistent("sh", "-c", "exit 3", labels={"a": "b"})
    container.wait()
    container.remove()
    assert (container.status, container.exit_code, container.labels) == ("stopped", 3, {"a": "b"})
    with pytest.raises(pc.ContainerNotFound):
        container.start()
    with pytest.raises(pc.ContainerNotFound):
        container.path("/x").exists()


def test_a_template_makes_none() -> None:
    with (
        pc.create("host", ["true"]) as sealed,
        sealed.seal() as template,
        pytest.raises(pc.InvalidOption, match="fork"),
    ):
        template.fork(persist=True)


def test_readiness_health_and_preparing_are_the_keepers(image: pc.Image) -> None:
    container = pc.create(image, ["sh", "-c", "echo ready; sleep 1000"], persist=True, healthcheck=["true"])
    container.prepare(["sh", "-c", "echo made > /made"])
    container.prepare(lambda one: one.path("/called").write_text("x"))
    assert {change.path for change in container.diff()} == {"/made", "/called"}
    container.start()
    container.wait_until(pc.wait.log("ready") & pc.wait.healthy() & pc.wait.file("/made"))
    assert container.health == "healthy"
    assert container.health_log[0].exit_code == 0
    assert container.healthcheck is not None
    with pytest.raises(pc.WaitFailed) as caught:
        container.wait_until(pc.wait.log("never"), timeout=0.1)
    assert caught.value.logs == b"ready\n"
    with pytest.raises(pc.ExitError) as failed:
        container.prepare(["sh", "-c", "echo why; exit 3"])
    assert failed.value.result.stdout == b"why\n"
    with pytest.raises(pc.InvalidOption, match="persist"):
        container.wait_until(pc.wait.http("http://:80/", status=lambda status: True))
    made = container.commit("persist/committed:1")
    assert made.run(["cat", "/made"], capture_output=True).stdout == b"made\n"
    made.remove()


def test_its_terminal_is_there_in_another_process() -> None:
    persistent("sh", "-c", "stty size; read x; stty size; echo got $x", tty=True, name="screen")
    lines = elsewhere(
        """
        c = pc.Container.get("screen")
        while b"24 80" not in c.logs():
            time.sleep(0.01)
        c.resize(30, 100)
        with c.attach() as screen:
            screen.write(b"typed\\n")
            while b"got typed" not in c.logs():
                time.sleep(0.01)
        print(c.wait().returncode, b"30 100" in c.logs())
        """
    )
    assert lines == ["0 True"]


def test_connecting_from_another_process() -> None:
    code = (
        "import socket; s = socket.create_server(('127.0.0.1', 80)); print('up', flush=True); "
        "c, _ = s.accept(); c.sendall(b'hello'); c.close()"
    )
    persistent(sys.executable, "-I", "-S", "-c", code, name="server")
    lines = elsewhere(
        """
        c = pc.Container.get("server")
        while b"up" not in c.logs():
            time.sleep(0.01)
        with c.connect(80, timeout=5) as link:
            print(link.recv(100))
        """
    )
    assert lines == ["b'hello'"]


def test_options_come_back_as_they_were(tmp_path: Path) -> None:
    options = pc.Options(
        env={"A": "1", "B": None, "C": os.fsdecode(b"\xff")},
        mounts=[pc.bind(tmp_path, "/x", ro=True), pc.tmpfs("/y", size="1M"), pc.content(b"\0\xff", "/z")],
        seccomp={"syscalls": []},
        devices=["/dev/null"],
        io_max={"8:0": {"rbps": 1}},
        cpus=1.5,
        restart="on-failure:3",
        healthcheck=["true"],
        wait=pc.wait.log("a.*b", timeout=3) & (pc.wait.file("/f") | pc.wait.http("http://:80/")),
        ulimits={"nofile": (5, "unlimited")},
    )
    assert plain.to_options(json.loads(json.dumps(plain.of_options(options)))) == options


def test_secrets_are_nobody_elses() -> None:
    container = persistent(env={"TOKEN": "hunter2"})
    path = persistent_directories()[0]
    assert path.stat().st_mode & 0o777 == 0o700
    for name in ("state.json", "control.sock", "held"):
        assert (path / name).stat().st_mode & 0o777 == 0o600, name
    assert "hunter2" not in repr(container)
    assert b"hunter2" not in Path(f"/proc/{keeper_of(container)}/cmdline").read_bytes()
    assert b"hunter2" not in Path(f"/proc/{keeper_of(container)}/environ").read_bytes()


@pytest.mark.parametrize(
    "message",
    [
        b"\0",
        b"\0{",
        b"\0[]",
        b"\1",
        b"\0" + b"[" * 30000,
        b"\0{}",
        b'\0{"protocol": 1}',
        b'\0{"protocol": 1, "verb": "_ring"}',
        b'\0{"protocol": 1, "verb": "kill"}',
        b'\0{"protocol": 1, "verb": "stop", "timeout": []}',
    ],
)
def test_nonsense_harms_no_keeper(message: bytes) -> None:
    container = persistent()
    link = control.connect(str(persistent_directories()[0]))
    assert link is not None
    with link:
        link.settimeout(5)
        link.send(message)
        answer = link.recv(65536)
        assert answer == b"" or b"error" in answer
    assert container.status == "running"


def test_another_version_is_told_so() -> None:
    container = persistent()
    link = control.connect(str(persistent_directories()[0]))
    assert link is not None
    with link:
        control.send(link, {"protocol": control.PROTOCOL + 1, "verb": "stop", "timeout": 0})
        answer = control.receive(link)
    assert answer is not None
    with pytest.raises(pc.InvalidState, match="replaced"):
        raise control.error_of(answer[0]["error"])
    assert container.status == "running"


def test_what_a_process_began_in_it_ends_with_that_process() -> None:
    container = persistent(name="host-of-all")
    seconds = unique_seconds()
    other = begun(
        f"""
        quiet = {{"stdout": pc.DEVNULL, "stderr": pc.DEVNULL}}
        p = pc.Container.get("host-of-all").popen(["sleep", {seconds!r}], **quiet)
        print("up", flush=True)
        time.sleep(60)
        """
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "up\n"
    until(lambda: with_argument(seconds), "it runs")
    other.kill()
    other.communicate()
    until(lambda: not with_argument(seconds), "what it began to end", seconds=5)
    assert container.status == "running"


def test_a_forked_child_may_use_it() -> None:
    container = persistent()
    container.exec(["true"])
    container.path("/tmp").exists()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            container.path("/tmp/child").write_text("was here")
            code = container.exec(["sh", "-c", "exit 5"]).returncode
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
    assert container.exec(["cat", "/tmp/child"], capture_output=True).stdout == b"was here"


def test_what_died_half_way_is_removed_by_the_next_opener() -> None:
    store = Path(os.environ["PYCONTAINER_STORE"])
    making = Persistent(str(store)).begin()
    assert Path(making.path).exists()
    pc.Store(store)
    assert Path(making.path).exists(), "its maker lives"
    making.held.release()
    pc.Store(store)
    assert not Path(making.path).exists()


def test_a_store_that_was_removed_takes_it_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    seconds = unique_seconds()
    store = pc.Store(tmp_path / "store")
    container = pc.start("host", ["sleep", seconds], persist=True, store=store)
    path = tmp_path / "store" / "persistent" / container.id
    keeper = int(json.loads((path / "state.json").read_text())["keeper"][0])
    assert pc.Container.get(container.id, store=store).status == "running"
    with pytest.raises(pc.ContainerNotFound):
        pc.Container.get(container.id)
    shutil.rmtree(tmp_path / "store")
    until(lambda: not alive(keeper), "the keeper to end", seconds=20)
    assert not with_argument(seconds)


def test_an_ordinary_user_has_them_too(as_user: ordinary_user.OrdinaryUser) -> None:
    as_user(
        """
        import pycontainer as pc
        pc.start("host", ["sh", "-c", "echo mine; exec sleep 1000"], persist=True, name="u")
        """
    )
    said = as_user(
        """
        import os, signal, json, time
        import pycontainer as pc
        c = pc.Container.get("u")
        try:
            while b"mine" not in c.logs():
                time.sleep(0.01)
            print(c.status, c.exec(["id", "-u"], capture_output=True, text=True).stdout)
            c.path("/tmp/x").write_text("data")
            print(c.path("/tmp/x").read_text())
            print(c.stop(1).returncode, c.path("/tmp/x").read_text())
            c.start()
            with open(os.environ["PYCONTAINER_STORE"] + "/persistent/" + c.id + "/state.json") as file:
                keeper = json.load(file)["keeper"][0]
            os.kill(keeper, signal.SIGKILL)
            while c.status != "stopped":
                time.sleep(0.01)
            print(c.start().status)
        finally:
            c.remove(force=True)
        """
    )
    assert said.stdout.split() == ["running", "0", "data", "-15", "data", "running"]


@pytest.mark.rootless
def test_users_of_an_ordinary_users_processes(as_user: ordinary_user.OrdinaryUser) -> None:
    """As they are called inside, not on the host."""
    said = as_user(
        """
        import pycontainer as pc
        with pc.start("host", ["sleep", "1000"], persist=True) as c:
            print(*{one.user for one in c.top()})
        """
    )
    assert said.stdout.split() == ["root"]


# Events.


def told(events: pc.Events, last: str) -> list[str]:
    """The types of what is told, up to and with `last`."""
    found: list[str] = []
    while found[-1:] != [last]:
        event = events.get(30)
        assert event is not None, found
        found.append(event.type)
    return found


def test_what_happens_to_it_is_told() -> None:
    with pc.events() as events:
        with persistent(name="told", healthcheck=["true"]) as container:
            assert told(events, "health") == ["create", "start", "exec", "health"]
            container.kill("TERM")
            assert container.wait(60).returncode == -15
            assert told(events, "die") == ["kill", "die"]
            container.start()
            container.stop()
        assert told(events, "remove")[-3:] == ["die", "stop", "remove"]


def test_what_others_do_to_it_is_told() -> None:
    with persistent(name="told") as container:
        script = "c = pc.Container.get('told'); c.stop(); c.start(); c.kill('HUP'); c.wait()"
        with pc.events(["die", "stop", "kill"]) as events, pc.events("remove") as removed:
            elsewhere(script)
            kinds = [events.get(30) for _ in range(4)]
            elsewhere("pc.Container.get('told').remove()")
            assert told(removed, "remove") == ["remove"]
        assert [event and event.type for event in kinds] == ["die", "stop", "kill", "die"]
        for event in filter(None, kinds):
            assert (event.id, event.name, event.image) == (container.id, "told", "host")
        died = kinds[-1]
        assert died is not None and dict(died.attributes) == {"exit_code": -1, "cause": "signaled"}


def test_a_new_keeper_tells_on() -> None:
    with persistent() as container, pc.events() as events:
        os.kill(keeper_of(container), signal.SIGKILL)
        until(lambda: container.status == "stopped", "it has ended")
        container.start()
        container.kill()
        assert told(events, "die") == ["start", "kill", "die"]


def test_who_listens_no_more_leaves_nothing() -> None:
    with persistent() as container:
        for _ in range(3):
            with pc.events():
                names = {thread.name for thread in threading.enumerate()}
                assert "pycontainer-events" in names
                child = os.fork()
                if child == 0:
                    # What it does is told to nobody here.
                    with contextlib.suppress(BaseException):
                        container.kill("WINCH")
                        os._exit(0)
                    os._exit(1)
                assert os.waitpid(child, 0)[1] == 0
        until(
            lambda: all(thread.name != "pycontainer-events" for thread in threading.enumerate()),
            "the threads have ended",
        )


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "a" * 300, "a\0b", "ü" * 200])
def test_what_can_be_nobodys_name_finds_nobody(name: str) -> None:
    with persistent(name="somebody"), pytest.raises(pc.ContainerNotFound):
        pc.Container.get(name)
