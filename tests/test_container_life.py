"""`create`, `start` and what a `Container` goes through until it is removed."""

from __future__ import annotations

import datetime
import os
import signal
import threading
import time
from pathlib import Path

import pytest

import pycontainer as pc
from containers import nothing_left, sleeper, unique_seconds, until, with_argument


def test_created_running_stopped() -> None:
    seconds = unique_seconds()
    with nothing_left(), pc.create("host", ["sleep", seconds]) as container:
        assert (container.status, container.pid, container.exit_code) == ("created", None, None)
        assert container.started_at is None
        assert container.start() is container
        assert container.status == "running"
        assert container.exit_code is None
        # Its arguments are seen a moment after it was executed.
        until(lambda: with_argument(seconds), "it runs")
        container.kill()
        assert (container.status, container.pid, container.exit_code) == ("stopped", None, -signal.SIGKILL)
        assert not with_argument(seconds)
        assert container.created_at <= container.started_at <= container.finished_at  # type: ignore[operator]


def test_times_know_their_zone() -> None:
    with sleeper() as container:
        assert isinstance(container.started_at, datetime.datetime)
        assert container.started_at.tzinfo is not None


def test_the_id_is_what_the_hostname_begins_with() -> None:
    with sleeper() as container:
        assert len(container.id) >= 12
        done = container.exec(["hostname"], capture_output=True, text=True)
        assert done.stdout.strip() == container.id[:12]


def test_the_pid_is_the_hosts() -> None:
    with sleeper() as container:
        assert container.pid is not None
        assert Path(f"/proc/{container.pid}").exists()


def test_the_repr_is_one_line() -> None:
    with sleeper() as container:
        shown = repr(container)
        assert "\n" not in shown
        assert container.id[:12] in shown
        assert "running" in shown


def test_entering_starts_nothing_and_leaving_kills() -> None:
    seconds = unique_seconds()
    with nothing_left():
        with pc.create("host", ["sleep", seconds]) as container:
            assert container.status == "created"
            container.start()
        assert container.status == "stopped"
        assert not with_argument(seconds)


def test_wait_gives_the_result() -> None:
    with pc.start("host", ["sh", "-c", "echo out; echo err >&2; exit 3"]) as container:
        done = container.wait(60)
        assert isinstance(done, pc.Completed)
        assert (done.returncode, done.cause, done.stdout, done.stderr) == (3, "exited", b"out\n", b"err\n")
        assert container.exit_code == 3
        assert container.wait().returncode == 3


def test_wait_keeps_the_last_megabyte() -> None:
    with pc.start("host", ["sh", "-c", "head -c 3000000 /dev/zero; echo end"]) as container:
        done = container.wait(60)
        assert len(done.stdout) == 2**20
        assert done.stdout.endswith(b"\0end\n")


def test_a_container_whose_output_nobody_reads_is_not_held_up() -> None:
    with pc.start("host", ["sh", "-c", "head -c 10000000 /dev/zero; exit 7"]) as container:
        assert container.wait(60).returncode == 7


def test_wait_times_out_and_the_container_goes_on() -> None:
    script = "echo early; echo wrong >&2; while ! test -e /tmp/end; do sleep 0.02; done; exit 3"
    with nothing_left(), pc.start("host", ["sh", "-c", script]) as container:
        until(lambda: len(container.logs().read()) == len("early\nwrong\n"), "its words")
        for _ in range(2):
            with pytest.raises(pc.Timeout) as caught:
                container.wait(0.5)
            result = caught.value.result
            assert (result.stdout, result.stderr, result.cause) == (b"early\n", b"wrong\n", "timeout")
            assert result.returncode is None
            assert result.usage.wall >= 0.5
            assert result.usage.user_cpu + result.usage.system_cpu >= 0
            assert (container.status, container.exit_code) == ("running", None)
        container.path("/tmp/end").touch()
        assert container.wait(60).returncode == 3
        assert container.wait(0).cause == "exited"


def test_stop_asks_first() -> None:
    script = "trap 'echo asked; exit 9' TERM; echo ready; while :; do sleep 0.02; done"
    with pc.start("host", ["sh", "-c", script]) as container:
        until(lambda: container.exec(["true"]).returncode == 0, "it runs")
        time.sleep(0.2)
        began = time.monotonic()
        done = container.stop()
        assert time.monotonic() - began < 8
        assert (done.returncode, done.stdout) == (9, b"ready\nasked\n")
        assert container.stop().returncode == 9


def test_stop_kills_who_does_not_listen() -> None:
    with pc.start("host", ["sh", "-c", "trap '' TERM; sleep 1000"]) as container:
        time.sleep(0.2)
        began = time.monotonic()
        assert container.stop(timeout=0.3).returncode == -signal.SIGKILL
        assert 0.3 <= time.monotonic() - began < 8


def test_stop_timeout_is_the_default() -> None:
    with pc.start("host", ["sh", "-c", "trap '' TERM; sleep 1000"], stop_timeout=0.4) as container:
        time.sleep(0.2)
        began = time.monotonic()
        container.stop()
        assert 0.4 <= time.monotonic() - began < 8


def test_stop_signal() -> None:
    script = "trap 'exit 1' TERM; trap 'exit 2' USR1; while :; do sleep 0.02; done"
    with pc.start("host", ["sh", "-c", script], stop_signal="SIGUSR1") as container:
        time.sleep(0.2)
        assert container.stop().returncode == 2
    image = pc.Image.host().configure(stop_signal="SIGUSR1")
    with image.start(["sh", "-c", script]) as container:
        time.sleep(0.2)
        assert container.stop().returncode == 2


def test_a_process_one_that_handles_no_signal_is_stopped_as_well() -> None:
    with sleeper(init=False, stop_timeout=0.3) as container:
        assert container.stop().returncode == -signal.SIGKILL


@pytest.mark.parametrize("init", [True, False])
def test_kill_sends_any_signal(init: bool) -> None:
    script = "trap 'echo hup' HUP; trap 'exit 4' INT; while :; do sleep 0.02; done"
    with pc.start("host", ["sh", "-c", script], init=init) as container:
        time.sleep(0.2)
        container.kill("HUP")
        time.sleep(0.1)
        assert container.status == "running"
        container.kill(signal.SIGINT)
        done = container.wait(60)
        assert (done.returncode, done.stdout) == (4, b"hup\n")


def test_states_that_forbid() -> None:
    with pc.create("host", ["sleep", "1000"]) as container:
        for action in (container.kill, container.stop, container.wait):
            with pytest.raises(pc.InvalidState, match="not started"):
                action()
        container.start()
        with pytest.raises(pc.InvalidState, match="is running, not created"):
            container.start()
        with pytest.raises(pc.InvalidState, match="force"):
            container.remove()
        container.kill()
        with pytest.raises(pc.InvalidState, match="not running"):
            container.kill()
        container.remove()
        container.remove()
        with pytest.raises(pc.InvalidState):
            container.start()


def test_remove_by_force() -> None:
    seconds = unique_seconds()
    with nothing_left():
        container = pc.start("host", ["sleep", seconds])
        container.remove(force=True)
        assert not with_argument(seconds)


def test_a_start_that_fails_leaves_nothing() -> None:
    with nothing_left():
        with pytest.raises(pc.LaunchError, match="/no/such"):
            pc.start("host", ["/no/such"])
        with pc.create("host", ["/no/such"]) as container, pytest.raises(pc.LaunchError):
            container.start()


def test_a_container_that_nobody_removes_goes_with_its_last_reference() -> None:
    """Or at the latest with the process; nothing is held by a created one."""
    seconds = unique_seconds()
    container = pc.start("host", ["sleep", seconds])
    pid = container.pid
    container.kill()
    del container
    assert pid is not None
    until(lambda: not with_argument(seconds), "it is gone")


def test_two_containers_see_nothing_of_each_other() -> None:
    with sleeper() as one, sleeper() as two:
        one.exec(["sh", "-c", "echo mine > /tmp/mine; echo mine > /dev/shm/mine"], check=True)
        assert two.exec(["ls", "/tmp/mine"], capture_output=True).returncode != 0
        assert two.exec(["ls", "/dev/shm/mine"], capture_output=True).returncode != 0
        assert one.id != two.id


def test_stdin_of_a_container() -> None:
    with pc.start("host", ["cat"], stdin=pc.PIPE) as container:
        assert container.stdin is not None
        container.stdin.write(b"first ")
        container.stdin.write(b"second")
        container.stdin.close()
        assert container.wait(60).stdout == b"first second"
    with sleeper() as container:
        assert container.stdin is None


def test_stdin_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"file")
    with (tmp_path / "in").open("rb") as file, pc.start("host", ["cat"], stdin=file) as container:
        assert container.wait(60).stdout == b"file"


def test_waiting_from_many_threads() -> None:
    with pc.start("host", ["sh", "-c", "sleep 0.3; exit 5"]) as container:
        codes: list[int] = []
        threads = [
            threading.Thread(target=lambda: codes.append(container.wait(60).returncode)) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert codes == [5] * 8


def test_a_wait_in_one_thread_and_a_kill_in_another() -> None:
    with sleeper() as container:
        timer = threading.Timer(0.3, container.kill)
        timer.start()
        assert container.wait(60).returncode == -signal.SIGKILL
        timer.join()


def test_methods_of_the_image_are_the_same() -> None:
    image = pc.Image.host()
    assert image.run(["echo", "x"], capture_output=True).stdout == b"x\n"
    with image.create(["true"]) as container:
        assert container.image == image
        assert container.start().wait(60).returncode == 0
    with image.start(["sh", "-c", "exit 3"]) as container:
        assert container.wait(60).returncode == 3


def test_many_at_once() -> None:
    with nothing_left():
        containers = [sleeper() for _ in range(20)]
        assert {container.status for container in containers} == {"running"}
        for container in containers:
            container.remove(force=True)
        del containers, container


def test_a_forked_process_leaves_its_parents_containers_alone() -> None:
    with sleeper() as container:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                container.remove(force=True)
                container.exec(["true"])
            except pc.InvalidState:
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert container.status == "running"
        assert container.exec(["true"]).returncode == 0


def test_a_forked_process_starts_its_own() -> None:
    pc.run("host", ["true"])
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = pc.run("host", ["sh", "-c", "exit 42"], timeout=30).returncode
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42
    assert pc.run("host", ["true"]).returncode == 0


def test_what_its_network_has() -> None:
    for network in ("none", "host"):
        with pc.create("host", ["true"], network=network) as container:
            assert (container.ports, container.ip_address) == ({}, None)
