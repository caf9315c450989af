"""`top()`, `stats()` and `stats_stream()`."""

from __future__ import annotations

import datetime
import time

import pytest

import pycontainer as pc
from conftest import need
from containers import PYTHON, nothing_left, sleeper, unique_seconds, until, with_argument
from pycontainer import measuring, processes
from pycontainer.runtime import cgroups

MIB = 2**20


def busy(code: str, **options: object) -> pc.Container:
    return pc.start("host", [*PYTHON, code], **options)  # type: ignore[arg-type]


def test_the_processes_are_the_containers_alone() -> None:
    seconds = unique_seconds()
    script = f"sleep {seconds} & wait"
    with sleeper(), pc.start("host", ["sh", "-c", script]) as container:
        until(lambda: with_argument(seconds), "it runs")
        found = container.top()
        by_pid = {process.pid: process for process in found}
        assert (found[0].inner_pid, found[0].pid) == (1, container.pid)
        assert found[1].command == ("sh", "-c", script)
        assert found[2].command == ("sleep", seconds)
        assert [found[2].pid] == with_argument(seconds)
        assert by_pid[found[2].parent] == found[1]
        assert found[2].inner_pid == 3
        assert all(process.memory > 0 for process in found)
        assert {process.user for process in found} == {"root"}


def test_programs_that_joined_are_among_them() -> None:
    with sleeper() as container, container.popen(["sleep", "999"]) as joined:
        assert ("sleep", "999") in {process.command for process in container.top()}
        joined.kill()


def test_users_are_named_as_inside() -> None:
    need(pc.run("host", ["true"], user="nobody").returncode == 0, "a user nobody")
    with sleeper(user="nobody") as container:
        assert container.top()[-1].user == "nobody"
    with sleeper(user="54321") as container:
        assert container.top()[-1].user == "54321"


def test_what_has_no_arguments_is_named_in_brackets() -> None:
    code = "import os, time; os.fork() or os._exit(0); time.sleep(1000)"
    with busy(code) as container:
        first = container.pid
        assert first is not None

        def brackets() -> bool:
            # Control groups do not list those that have ended.
            found = processes.describe(processes.find(None, first), str)
            return any(process.command[0].startswith("[python") for process in found)

        until(brackets, "a zombie is there")


def test_processor_time_is_counted() -> None:
    with busy("while True: pass") as container:
        until(lambda: container.top()[-1].cpu >= 0.1, "it was used", seconds=30)
        until(lambda: (container.stats().cpu or 0) >= 0.1, "it was used", seconds=30)
        stats = container.stats()
        assert stats.user_cpu is not None
        assert stats.user_cpu > 0.05
        assert stats.cpu is not None
        assert stats.user_cpu <= stats.cpu


def test_time_of_children_that_have_ended_counts() -> None:
    code = """
import os, time
if not (pid := os.fork()):
    end = time.process_time() + 0.3
    while time.process_time() < end: pass
    os._exit(0)
os.waitpid(pid, 0)
print('waited', flush=True)
time.sleep(1000)
"""
    with busy(code) as container:
        assert b"waited\n" in container.logs(follow=True)
        assert (container.stats().cpu or 0) >= 0.25


def test_without_control_groups_the_namespace_tells() -> None:
    with sleeper() as container:
        assert container.pid is not None
        found = processes.find(None, container.pid)
        assert [one.pid for one in found] == [process.pid for process in container.top()]


def test_without_control_groups_the_processes_are_measured() -> None:
    code = """
import threading, time
threading.Thread(target=time.sleep, args=(999,)).start()
print(1, flush=True)
"""
    with busy(code) as container:
        assert b"1\n" in container.logs(follow=True)
        first = container.pid
        assert first is not None
        stats = measuring.measure(None, lambda: processes.find(None, first))
        assert stats.pids == 3, "its init, and two threads"
        assert MIB < (stats.memory or 0) < 500 * MIB
        assert (stats.memory_limit, stats.peak_memory) == (None, None)


def test_a_name_may_hold_anything() -> None:
    code = "import ctypes; ctypes.CDLL(None).prctl(15, b') R 1 (x', 0, 0, 0); print(1, flush=True); input()"
    with busy(code, stdin=pc.PIPE) as container:
        assert b"1\n" in container.logs(follow=True)
        assert container.top()[-1].parent == container.top()[0].pid


def test_only_of_one_that_runs() -> None:
    with pc.create("host", ["true"]) as container:
        for call in (container.stats, container.top, container.stats_stream):
            with pytest.raises(pc.InvalidState):
                call()
        container.start().wait(60)
        for call in (container.stats, container.top, container.stats_stream):
            with pytest.raises(pc.InvalidState):
                call()


def test_the_stream_ends_with_the_container() -> None:
    with nothing_left(), pc.start("host", ["sleep", "0.5"]) as container:
        began = time.monotonic()
        found = list(container.stats_stream(interval=0.1))
        assert 3 <= len(found) <= 7
        assert 0.3 < time.monotonic() - began < 5
        assert found == sorted(found, key=lambda stats: stats.time)
    with pc.start("host", ["sleep", "0.3"]) as container:
        began = time.monotonic()
        assert len(list(container.stats_stream(interval=1000))) == 1
        assert time.monotonic() - began < 30


def test_the_stream_is_not_disturbed_by_output() -> None:
    script = "for i in $(seq 50); do echo x; sleep 0.01; done"
    with pc.start("host", ["sh", "-c", script]) as container:
        began = time.monotonic()
        found = list(container.stats_stream(interval=0.3))
        assert len(found) <= (time.monotonic() - began) / 0.3 + 2


def test_the_stream_can_be_left() -> None:
    with sleeper() as container:
        for _ in container.stats_stream(interval=0.01):
            break
        assert container._journal._listeners == ()
        for wrong in (0, -1, "x"):
            with pytest.raises(pc.InvalidOption, match="interval"):
                container.stats_stream(interval=wrong)  # type: ignore[arg-type]


def test_they_know_when() -> None:
    with sleeper() as container:
        before = datetime.datetime.now(datetime.timezone.utc)
        assert before <= container.stats().time <= datetime.datetime.now(datetime.timezone.utc)


def controlled(*controllers: str) -> None:
    for controller in controllers:
        need(cgroups.host().controllers[controller].available, f"the {controller} controller", of_root=True)


@pytest.mark.cgroup
def test_memory() -> None:
    controlled("memory")
    code = "x = bytearray(50 << 20); print(1, flush=True); y = input(); del x; print(2, flush=True); input()"
    with busy(code, memory="200M", stdin=pc.PIPE) as container:
        assert b"1\n" in container.logs(follow=True)
        stats = container.stats()
        assert stats.memory is not None
        assert 50 * MIB < stats.memory < 120 * MIB
        assert stats.memory_limit == 200 * MIB
        assert container.stdin is not None
        container.stdin.write(b"\n")
        assert b"2\n" in container.logs(follow=True)
        later = container.stats()
        assert later.memory is not None
        assert later.memory < 40 * MIB
        # v2 has it since Linux 6.5.
        assert later.peak_memory is None or later.peak_memory >= 50 * MIB
        container.update(memory="100M")
        assert container.stats().memory_limit == 100 * MIB
    with sleeper() as container:
        assert container.stats().memory_limit is None


@pytest.mark.cgroup
def test_processes_are_counted() -> None:
    controlled("pids")
    with pc.start("host", ["sh", "-c", "sleep 1000 & sleep 1000 & echo 1; wait"], pids=50) as container:
        assert b"1\n" in container.logs(follow=True)
        stats = container.stats()
        assert (stats.pids, stats.pids_limit) == (4, 50)
        assert len(container.top()) == 4
    with sleeper(pids=-1) as container:
        assert container.stats().pids_limit is None


@pytest.mark.cgroup
def test_kills_for_memory_are_counted() -> None:
    controlled("memory")
    code = "[bytearray(1 << 20) for _ in range(100)]"
    with sleeper(memory="20M") as container:
        assert container.stats().oom_kills == 0
        container.exec([*PYTHON, code])
        assert (container.stats().oom_kills or 0) >= 1


@pytest.mark.cgroup
def test_a_paused_container_has_them_too() -> None:
    controlled("freezer")
    with sleeper() as container:
        container.pause()
        assert container.stats().cpu is not None
        assert container.top()[-1].command == ("sleep", "1000")
