"""`run`: results, errors, timeouts, and the options that shape the program's process."""

from __future__ import annotations

import os
import pickle
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import pycontainer as pc
from containers import ROOT, as_root, nothing_left, out, python, sh, unique_seconds, until, with_argument


@pytest.fixture(scope="module", autouse=True)
def warm() -> None:
    """The supervisor and the store's catalog are there before anything is counted."""
    pc.run("host", ["true"])
    with pytest.raises(pc.ImageNotFound):
        pc.Image.get("no-such-image")


# Results.


def test_gives_a_completed_process_with_cause_and_usage() -> None:
    result = pc.run("host", ["sh", "-c", "echo out; echo err >&2; exit 3"], capture_output=True, text=True)
    assert isinstance(result, pc.Completed)
    assert isinstance(result, subprocess.CompletedProcess)
    assert (result.returncode, result.cause) == (3, "exited")
    assert (result.stdout, result.stderr) == ("out\n", "err\n")
    assert result.args == ["sh", "-c", "echo out; echo err >&2; exit 3"]
    assert 0 < result.usage.wall < 60


def test_a_stream_that_is_not_captured_is_empty_and_never_none(capfd: pytest.CaptureFixture[str]) -> None:
    result = pc.run("host", ["echo", "seen"])
    assert (result.stdout, result.stderr) == (b"", b"")
    assert capfd.readouterr().out == "seen\n"


def test_the_wall_time_is_the_programs_own() -> None:
    assert 0.2 <= sh("sleep 0.2").usage.wall < 30
    assert 0.2 <= sh("sleep 0.2", init=False).usage.wall < 30


@pytest.mark.parametrize("init", [True, False])
def test_the_wall_time_of_a_program_that_was_killed(init: bool) -> None:
    with pytest.raises(pc.Timeout) as caught:
        sh("sleep 60", timeout=2, init=init)
    assert 1 <= caught.value.result.usage.wall < 30
    with pc.start("host", ["sleep", "60"], init=init) as container:
        time.sleep(0.3)
        container.kill()
        assert 0.3 <= container.wait().usage.wall < 30


def test_cpu_time_is_counted_by_kind() -> None:
    usage = sh("i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done").usage
    assert usage.user_cpu + usage.system_cpu > 0.01
    assert usage.user_cpu + usage.system_cpu <= usage.wall * (os.cpu_count() or 1) + 0.5


def test_cpu_time_of_what_was_killed_is_counted() -> None:
    """Children, and what has left its parent behind, too."""
    script = "busy() { while :; do :; done; }; setsid -f sh -c 'while :; do :; done'; busy & busy"
    with nothing_left(), pytest.raises(pc.Timeout) as caught:
        sh(script, timeout=2)
    assert caught.value.result.usage.user_cpu > 0.3
    with pc.start("host", ["sh", "-c", script]) as container:
        time.sleep(2)
        container.kill()
        assert container.wait().usage.user_cpu > 0.3


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_death_by_a_signal_is_its_negative_number(number: signal.Signals) -> None:
    result = sh(f"kill -{int(number)} $$")
    assert (result.returncode, result.cause) == (-number, "signaled")


def test_an_exit_status_above_128_is_no_signal() -> None:
    result = sh("exit 137")
    assert (result.returncode, result.cause) == (137, "exited")


def test_arguments_may_be_text_bytes_and_paths() -> None:
    result = pc.run("host", [Path("/bin/echo"), b"\xff", "x y", ""], capture_output=True)
    assert result.stdout == b"\xff x y \n"


def test_a_single_string_is_a_program_and_no_command_line() -> None:
    assert pc.run("host", "true").returncode == 0
    with pytest.raises(pc.LaunchError, match="echo hello"):
        pc.run("host", "echo hello", capture_output=True)


def test_without_arguments_the_images_own_command_runs() -> None:
    image = pc.Image.host().configure(cmd=["echo", "its own"])
    assert image.run(capture_output=True).stdout == b"its own\n"


def test_check_raises_with_the_whole_result() -> None:
    with pytest.raises(pc.ExitError) as caught:
        pc.run("host", ["sh", "-c", "echo why; exit 4"], capture_output=True, text=True, check=True)
    error = caught.value
    assert isinstance(error, subprocess.CalledProcessError)
    assert isinstance(error, pc.PycontainerError)
    assert (error.returncode, error.stdout, error.output, error.stderr) == (4, "why\n", "why\n", "")
    assert error.cmd == ["sh", "-c", "echo why; exit 4"]
    assert error.result.cause == "exited"
    assert "exit status 4" in str(error)


def test_check_names_the_signal() -> None:
    with pytest.raises(pc.ExitError, match="SIGTERM"):
        sh("kill -TERM $$", check=True)


def test_check_lets_success_through() -> None:
    assert sh("exit 0", check=True).returncode == 0
    sh("exit 0").check_returncode()


def test_results_and_errors_can_be_pickled() -> None:
    result = sh("echo x; exit 2")
    assert repr(pickle.loads(pickle.dumps(result))) == repr(result)
    again = pickle.loads(pickle.dumps(pc.ExitError(result)))
    assert type(again) is pc.ExitError
    assert (again.result.stdout, again.result.usage) == ("x\n", result.usage)
    with pytest.raises(pc.Timeout) as caught:
        sh("echo x; sleep 100", timeout=0.5)
    late = pickle.loads(pickle.dumps(caught.value))
    assert (type(late), late.timeout, late.result.cause, str(late)) == (
        pc.Timeout, 0.5, "timeout", str(caught.value),
    )  # fmt: skip


def test_launch_errors_can_be_pickled() -> None:
    with pytest.raises(pc.LaunchError) as caught:
        pc.run("host", ["/no/such/program"])
    error = pickle.loads(pickle.dumps(caught.value))
    assert type(error) is type(caught.value)
    assert (str(error), error.stage, error.errno, error.path, error.hint) == (
        str(caught.value), caught.value.stage, caught.value.errno, caught.value.path, caught.value.hint,
    )  # fmt: skip


def test_unavailable_capabilities_can_be_pickled() -> None:
    error = pc.CapabilityUnavailable("a thing", remedy="a remedy")
    again = pickle.loads(pickle.dumps(error))
    assert (again.missing, again.remedy, str(again)) == (error.missing, error.remedy, str(error))


def test_the_repr_is_one_line_with_what_matters() -> None:
    shown = repr(sh("echo first; echo second; exit 5"))
    assert "\n" not in shown
    assert all(part in shown for part in ("returncode=5", "cause='exited'", "first"))
    assert len(repr(sh("yes | head -c 100000"))) < 500


def test_secrets_in_the_environment_stay_out_of_sight() -> None:
    options = pc.Options(env={"TOKEN": "swordfish"})
    assert "swordfish" not in repr(options)
    assert "TOKEN" in repr(options)
    with pytest.raises(pc.LaunchError) as caught:
        pc.run("host", ["/no/such/program"], options=options)
    assert "swordfish" not in str(caught.value)


# Errors, which leave nothing.


def test_a_missing_program_is_named() -> None:
    with nothing_left(), pytest.raises(pc.LaunchError) as caught:
        pc.run("host", ["no-such-program-anywhere"])
    assert "no-such-program-anywhere" in str(caught.value)
    assert caught.value.errno == 2
    assert caught.value.hint


def test_a_program_that_may_not_be_executed_is_named() -> None:
    with nothing_left(), pytest.raises(pc.LaunchError, match="/etc/passwd") as caught:
        pc.run("host", ["/etc/passwd"])
    assert caught.value.errno == 13


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"user": "nobody-like-that"}, "nobody-like-that"),
        ({"user": "0:nothing-like-that"}, "nothing-like-that"),
        ({"user": "-1"}, "-1"),
        ({"memory": -1}, "memory"),
        ({"memory": "lots"}, "lots"),
        ({"cpus": 0}, "cpus"),
        ({"cwd": "relative"}, "cwd"),
        ({"env": {"A=B": "x"}}, "env"),
        ({"hostname": "no good"}, "hostname"),
        ({"mounts": ["/tmp"]}, "mounts"),
        ({"network": "bridges"}, "network"),
        ({"ulimits": {"colour": 1}}, "colour"),
        ({"cap_add": ["FLY"]}, "FLY"),
        ({"stop_signal": "SIGNOTHING"}, "SIGNOTHING"),
        ({"timeout": "soon"}, "timeout"),
        ({"timeout": 10**400}, "timeout"),
        ({"encoding": "klingon"}, "encoding='klingon'"),
        ({"encoding": "hex"}, "encoding='hex'"),
        ({"encoding": 8}, "encoding=8"),
        ({"errors": "forgive"}, "errors='forgive'"),
        ({"stdout": True}, "stdout=True"),
        ({"stderr": False}, "stderr=False"),
        ({"sysctls": {"vm.swappiness": 1}}, "vm.swappiness"),
    ],
)
def test_a_bad_option_is_refused_by_name_and_leaves_nothing(options: dict[str, object], named: str) -> None:
    with nothing_left(), pytest.raises(pc.InvalidOption, match=named):
        pc.run("host", ["true"], **options)  # type: ignore[arg-type]


def test_no_healthcheck_is_how_a_run_is() -> None:
    assert pc.run("host", ["true"], options=pc.Options(healthcheck=False)).returncode == 0
    with pytest.raises(pc.InvalidOption, match="healthcheck"):
        pc.run("host", ["true"], healthcheck=["true"])


def test_an_unknown_option_is_a_type_error_with_a_suggestion() -> None:
    with pytest.raises(TypeError, match="memory"):
        pc.run("host", ["true"], memmory="1M")


@pytest.mark.parametrize("args", [[], [""], ["a\0b"], 3, [3]])
def test_bad_arguments_are_refused(args: object) -> None:
    with nothing_left(), pytest.raises(pc.InvalidOption, match="args"):
        pc.run("host", args)


@pytest.mark.parametrize("image", [None, 5, b"host", Path("host")])
def test_what_is_no_image_is_refused(image: Any) -> None:
    for verb in (pc.run, pc.create, pc.start):
        with pytest.raises(pc.InvalidOption, match=r"^image="):
            verb(image, ["true"])


def test_an_image_that_is_not_there_is_named() -> None:
    with nothing_left(), pytest.raises(pc.ImageNotFound, match="no-such-image"):
        pc.run("no-such-image:1", ["true"], pull="never")


def test_a_registry_that_is_not_there_is_named() -> None:
    name = "127.0.0.1:1/no-such-image:1"
    with pytest.raises(pc.TransportError, match=f"^{name}: .*refused"):
        pc.run(name, ["true"])


def test_arguments_beyond_the_kernels_limit_are_an_error() -> None:
    with nothing_left(), pytest.raises(pc.LaunchError, match="E2BIG"):
        pc.run("host", ["true", *["x" * 100_000] * 80])


# Timeouts.


def test_a_timeout_kills_everything_and_carries_what_was_captured() -> None:
    seconds = unique_seconds()
    script = f"echo early; echo bad >&2; sleep {seconds} & setsid -f sleep {seconds}; sleep {seconds}"
    with nothing_left(), pytest.raises(pc.Timeout) as caught:
        sh(script, timeout=1)
    assert with_argument(seconds) == []
    error = caught.value
    assert isinstance(error, subprocess.TimeoutExpired)
    assert (error.stdout, error.stderr, error.timeout) == ("early\n", "bad\n", 1)
    assert (error.result.cause, error.result.returncode) == ("timeout", -9)
    assert "timed out after 1" in str(error)


def test_a_timeout_within_a_character_is_a_timeout() -> None:
    with pytest.raises(pc.Timeout) as caught:
        sh("printf 'a\\303'; sleep 60", timeout=1)
    assert caught.value.stdout == "a\N{REPLACEMENT CHARACTER}"


def test_a_timeout_counts_while_output_flows() -> None:
    with nothing_left(), pytest.raises(pc.Timeout) as caught:
        pc.run("host", ["yes"], stdout=pc.PIPE, timeout=0.5)
    assert caught.value.stdout.startswith(b"y\ny\n")


def test_a_program_that_ends_in_time_is_no_timeout() -> None:
    assert sh("exit 1", timeout=60).cause == "exited"


def test_what_a_program_leaves_behind_ends_with_it() -> None:
    seconds = unique_seconds()
    with nothing_left():
        result = sh(f"setsid -f sleep {seconds} >/dev/null 2>&1; echo done")
    assert (result.stdout, with_argument(seconds)) == ("done\n", [])


def test_a_left_behind_writer_does_not_hold_the_result_up() -> None:
    began = time.monotonic()
    assert sh("sleep 1000 & echo done", timeout=30).stdout == "done\n"
    assert time.monotonic() - began < 20


# Options of the process.


def test_entrypoint_precedes_the_arguments() -> None:
    result = pc.run("host", ["b", "c"], entrypoint=["echo", "a"], capture_output=True)
    assert result.stdout == b"a b c\n"


def test_an_entrypoint_replaces_the_images_and_drops_its_command() -> None:
    image = pc.Image.host().configure(entrypoint=["false"], cmd=["wrong"])
    assert image.run(entrypoint="echo", capture_output=True).stdout == b"\n"


def test_an_empty_entrypoint_drops_the_images() -> None:
    image = pc.Image.host().configure(entrypoint=["false"])
    assert image.run(["echo", "x"], entrypoint="", capture_output=True).stdout == b"x\n"


def test_env_adds_changes_and_removes() -> None:
    image = pc.Image.host().configure(env={"KEPT": "1", "CHANGED": "1", "REMOVED": "1"})
    lines = out("env", image=image, env={"CHANGED": "2", "REMOVED": None, "NEW": "a=b c"}).splitlines()
    assert {"KEPT=1", "CHANGED=2", "NEW=a=b c"} <= set(lines)
    assert not any(line.startswith("REMOVED") for line in lines)


def test_env_may_be_a_list() -> None:
    assert out("echo $A-$B", env=["A=1", "B=2"]) == "1-2"


def test_the_hosts_environment_stays_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_HOST", "x")
    names = {line.partition("=")[0] for line in out("env").splitlines()}
    assert "SECRET_OF_THE_HOST" not in names
    assert {"PATH", "HOME", "HOSTNAME"} <= names


def test_a_program_is_looked_up_in_the_containers_path() -> None:
    tool = pc.content("#!/bin/sh\necho found", "/opt/tools/my-tool", mode=0o755)
    result = pc.run("host", ["my-tool"], env={"PATH": "/opt/tools"}, mounts=[tool], capture_output=True)
    assert result.stdout == b"found\n"


@pytest.mark.parametrize("cwd", ["/usr", "/not/there/yet", Path("/etc")])
def test_cwd(cwd: str | Path) -> None:
    assert out("pwd", cwd=cwd) == str(cwd)


def test_a_cwd_that_is_a_file_is_an_error_that_names_it() -> None:
    with nothing_left(), pytest.raises(pc.LaunchError, match=r"/etc/passwd, .* is no directory"):
        sh("pwd", cwd="/etc/passwd")


def test_user_by_number_name_and_group() -> None:
    assert out("id -u; id -g; id -G", user="1234:2345").split() == ["1234", "2345", "2345"]
    assert out("id -u; id -g", user="1234").split() == ["1234", "0"]
    assert out("id -u; id -g", user=1234).split() == ["1234", "0"]
    assert out("id -un; id -gn", user="daemon").split() == ["daemon", "daemon"]
    assert out("id -un; id -gn; id -G", user="daemon:mail").split() == ["daemon", "mail", "8"]


def test_a_user_has_its_home_and_no_capabilities() -> None:
    lines = out("echo $HOME; grep -E 'Cap(Prm|Eff|Inh|Amb)' /proc/self/status", user="daemon").splitlines()
    assert lines[0] == "/usr/sbin"
    assert {line.split()[1] for line in lines[1:]} == {"0" * 16}


def test_a_user_may_write_to_its_own_streams() -> None:
    assert out("echo to-file > /dev/stdout; echo bad > /dev/stderr", user="1234:1234") == "to-file"


def test_root_in_the_container_is_the_default() -> None:
    assert out("id -u; id -g; id -G; echo $HOME").split() == ["0", "0", "0", "/root"]


def test_hostname() -> None:
    assert out("hostname; cat /proc/sys/kernel/hostname; echo $HOSTNAME", hostname="box-7").split() == [
        "box-7", "box-7", "box-7",
    ]  # fmt: skip
    first, second = out("hostname"), out("hostname")
    assert len(first) == 12
    assert first != second
    assert first != os.uname().nodename


ORPHAN = """
import os, sys, time
alive, other_end = os.pipe()
if os.fork() == 0:
    os.fork()
    os._exit(0)
os.close(other_end)
os.wait()
os.read(alive, 1)  # until the orphan has ended
def zombies():
    found = 0
    for name in os.listdir('/proc'):
        if name.isdigit():
            try: found += open(f'/proc/{name}/stat').read().rpartition(')')[2].split()[0] == 'Z'
            except OSError: pass
    return found
end = time.monotonic() + 5
while zombies() != int(sys.argv[1]) and time.monotonic() < end: time.sleep(0.01)
print(os.getpid() == 1, zombies())
"""


def test_init_is_process_one_and_reaps() -> None:
    assert python(ORPHAN, 0).stdout.split() == ["False", "0"]


def test_without_init_the_program_is_process_one() -> None:
    assert sh("echo $$", init=False).stdout == "1\n"
    assert python(ORPHAN, 1, init=False).stdout.split() == ["True", "1"]


def test_without_init_status_and_timeout_work_the_same() -> None:
    assert sh("exit 7", init=False).returncode == 7
    seconds = unique_seconds()
    with nothing_left(), pytest.raises(pc.Timeout) as caught:
        sh(f"echo early; setsid -f sleep {seconds}; sleep {seconds}", init=False, timeout=2)
    assert (caught.value.stdout, with_argument(seconds)) == ("early\n", [])
    with nothing_left(), pytest.raises(pc.LaunchError):
        pc.run("host", ["/no/such/program"], init=False)


def test_without_init_death_by_a_signal_is_told() -> None:
    # The kernel protects a namespace's first process from its own signals, but not from faults.
    result = python("import ctypes; ctypes.string_at(0)", init=False)
    assert (result.returncode, result.cause) == (-signal.SIGSEGV, "signaled")


def test_pass_fds_keep_their_numbers() -> None:
    read, write = os.pipe()
    with os.fdopen(read, "rb") as reader:
        try:
            python(f"import os; os.write({write}, b'through')", pass_fds=[write], check=True)
        finally:
            os.close(write)
        assert reader.read() == b"through"


def test_no_other_descriptor_gets_in() -> None:
    read, write = os.pipe()
    os.set_inheritable(write, True)
    try:
        listed = out("ls /proc/self/fd", pass_fds=[read]).split()
        assert set(listed) == {"0", "1", "2", "3", str(read)} or set(listed) == {
            "0",
            "1",
            "2",
            "4",
            str(read),
        }
    finally:
        os.close(read)
        os.close(write)


def test_passing_a_closed_descriptor_is_an_error() -> None:
    read, write = os.pipe()
    os.close(read)
    os.close(write)
    with nothing_left(), pytest.raises((pc.LaunchError, pc.InvalidOption), match=str(write)):
        pc.run("host", ["true"], pass_fds=[write])


def test_umask() -> None:
    assert out("umask") == "0022"
    assert out("umask", umask=0o077) == "0077"
    assert out("umask", umask="027") == "0027"


def test_ulimits() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    soft = min(100, hard)
    script = "ulimit -Sn; ulimit -Hn; ulimit -Sc"
    assert out(script, ulimits={"nofile": (soft, 123), "core": 0}).split() == [str(soft), "123", "0"]
    assert out("ulimit -Sn; ulimit -Hn", ulimits={"nofile": 50}).split() == ["50", "50"]


def test_a_file_size_limit_is_enforced() -> None:
    result = sh("head -c 10000 /dev/zero > /tmp/file", ulimits={"fsize": 4096})
    assert result.returncode != 0
    assert sh("head -c 10000 /dev/zero > /tmp/file").returncode == 0


@as_root
def test_a_hard_limit_above_the_hosts_is_an_error_or_holds() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    try:
        found = out("ulimit -Hn", ulimits={"nofile": hard + 1})
    except (pc.LaunchError, pc.CapabilityUnavailable) as error:
        assert "limit" in str(error)
    else:
        assert found == str(hard + 1)


def test_options_can_be_reused_and_overridden() -> None:
    options = pc.Options(env={"A": "1"}, hostname="reused")
    assert out("echo $A; hostname", options=options).split() == ["1", "reused"]
    assert out("echo $A; hostname", options=options, hostname="other").split() == ["1", "other"]


def test_the_program_has_a_session_of_its_own() -> None:
    assert python("import os; print(os.getsid(0) == os.getpid())").stdout == "True\n"


def test_signals_are_as_a_program_expects_them() -> None:
    """CPython ignores SIGPIPE for itself, and `subprocess` undoes that for its children."""
    lines = dict(line.split(":\t") for line in out("grep -E '^Sig(Blk|Ign)' /proc/self/status").splitlines())
    assert lines == {"SigBlk": "0" * 16, "SigIgn": "0" * 16}


# Threads.


def test_sixteen_threads_at_once() -> None:
    with pc.start("host", ["sleep", "1000"]) as container:

        def work(number: int) -> None:
            for step in range(3):
                word = f"{number}-{step}"
                assert pc.run("host", ["echo", word], capture_output=True).stdout == f"{word}\n".encode()
                done = container.exec(["sh", "-c", f"cat; echo {word}"], input=b"in ", capture_output=True)
                assert done.stdout == f"in {word}\n".encode()

        with nothing_left(ignore=("threads",)), ThreadPoolExecutor(16) as pool:
            list(pool.map(work, range(16)))


def test_a_container_survives_the_thread_that_started_it() -> None:
    found: list[pc.Container] = []
    thread = threading.Thread(target=lambda: found.append(pc.start("host", ["sleep", "1000"])))
    thread.start()
    thread.join()
    with found[0] as container:
        assert container.exec(["true"]).returncode == 0
        assert container.status == "running"


def test_the_host_may_wait_for_any_child_of_its_own() -> None:
    """Nothing of a container is this process's child for `os.waitpid(-1)`, once the supervisor runs."""
    script = """
        import os
        import pycontainer as pc
        pc.run("host", ["true"])
        with pc.start("host", ["sleep", "1000"]):
            try:
                found = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                raise SystemExit(0)
            raise SystemExit(f"a child: {found}")
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=60, env=environment)


def test_runs_do_not_pile_anything_up() -> None:
    with nothing_left():
        for _ in range(20):
            sh("echo x; exit 1", user="daemon", mounts=[pc.tmpfs("/x")])


def test_an_interrupt_leaves_nothing_behind() -> None:
    seconds = unique_seconds()

    def interrupt() -> None:
        until(lambda: with_argument(seconds), "the program runs")
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    with nothing_left():
        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            pc.run("host", ["sleep", seconds])
        thread.join()
    assert with_argument(seconds) == []


def test_the_hosts_files_do_not_change_hands(tmp_path: Path) -> None:
    """Streams of a user that is not root become its own where they are pipes, and only there."""
    before = os.stat("/dev/null")
    with (tmp_path / "out").open("wb") as file:
        pc.run("host", ["echo", "x"], user="1234:1234", stdout=file, stderr=pc.DEVNULL, check=True)
    assert (tmp_path / "out").stat().st_uid == os.getuid()
    assert (os.stat("/dev/null").st_uid, os.stat("/dev/null").st_mode) == (before.st_uid, before.st_mode)
    assert os.stat("/dev/null").st_ctime_ns == before.st_ctime_ns


def test_public_names_stay_when_modules_of_the_same_name_are_loaded() -> None:
    assert pc.Image.host()
    assert callable(pc.content)


def test_rootlessness_is_what_it_should_be() -> None:
    """The ids outside: nobody of the host's, where an ordinary user runs this file."""
    seconds = unique_seconds()
    with pc.start("host", ["sleep", seconds]):
        # The kernel tells of an execve(2) a moment before it shows the new arguments.
        until(lambda: with_argument(seconds), "the program shows")
        (pid,) = with_argument(seconds)
        assert Path(f"/proc/{pid}").stat().st_uid == (0 if ROOT else os.getuid())
