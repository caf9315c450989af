"""The states of a container and what leads from one to the next, from any thread and in bad company."""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import os
import random
import select
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pycontainer as pc
from conftest import need
from containers import as_root, nothing_left, sleeper, unique_seconds, until, with_argument
from host_process import Host
from pycontainer import _sys, session

BUSYBOX = Path("/bin/busybox")
FOREVER = "while :; do sleep 0.02; done"


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> pc.Image:
    need(BUSYBOX.exists(), "busybox-static")
    path = tmp_path_factory.mktemp("rootfs")
    (path / "bin").mkdir()
    (path / "tmp").mkdir()
    shutil.copy(BUSYBOX, path / "bin/busybox")
    for name in ("sh", "cat", "sleep", "rm", "true", "dd", "ls", "mv"):
        (path / "bin" / name).symlink_to("busybox")
    return pc.Image.from_directory(path)


@pytest.fixture(params=["memory", "disk"])
def base(request: pytest.FixtureRequest) -> pc.Image:
    """The host image, whose writable layer is in memory, and one whose layer is on disk."""
    return pc.Image.host() if request.param == "memory" else request.getfixturevalue("image")


def freezer() -> bool:
    return session.current().limits("0" * 32, pc.Options().limits(), defaults=True, freezer=True).freeze != ()


needs_freezer = pytest.mark.usefixtures("frozen")


@pytest.fixture
def frozen() -> None:
    need(freezer(), "a freezer control group", of_root=True)


# States.

VERBS: dict[str, Callable[[pc.Container], object]] = {
    "start": lambda container: container.start(),
    "stop": lambda container: container.stop(0),
    "kill": lambda container: container.kill(),
    "kill HUP": lambda container: container.kill("HUP"),
    "wait": lambda container: container.wait(0.01),
    "pause": lambda container: container.pause(),
    "unpause": lambda container: container.unpause(),
    "restart": lambda container: container.restart(0),
    "exec": lambda container: container.exec(["true"], check=True),
    "remove": lambda container: container.remove(),
    "remove by force": lambda container: container.remove(force=True),
    "update": lambda container: container.update(),
}

EXPECTED = {
    # what comes of the verb in the state: the state after it, or None for InvalidState
    "created": {
        "start": "running", "stop": None, "kill": None, "kill HUP": None, "wait": None, "pause": None,
        "unpause": None, "restart": "running", "exec": None, "remove": "stopped",
        "remove by force": "stopped", "update": "created",
    },
    "running": {
        "start": None, "stop": "stopped", "kill": "stopped", "kill HUP": "running", "wait": "running",
        "pause": "paused", "unpause": None, "restart": "running", "exec": "running", "remove": None,
        "remove by force": "stopped", "update": "running",
    },
    "paused": {
        "start": None, "stop": "stopped", "kill": "stopped", "kill HUP": "paused", "wait": "paused",
        "pause": None, "unpause": "running", "restart": "running", "exec": None, "remove": None,
        "remove by force": "stopped", "update": "paused",
    },
    "stopped": {
        "start": "running", "stop": "stopped", "kill": None, "kill HUP": None, "wait": "stopped",
        "pause": None, "unpause": None, "restart": "running", "exec": None, "remove": "stopped",
        "remove by force": "stopped", "update": "stopped",
    },
    "removed": {
        "start": None, "stop": "stopped", "kill": None, "kill HUP": None, "wait": "stopped", "pause": None,
        "unpause": None, "restart": None, "exec": None, "remove": "stopped", "remove by force": "stopped",
        "update": None,
    },
}  # fmt: skip


def bring(container: pc.Container, state: str) -> None:
    if state != "created":
        container.start()
    if state == "paused":
        container.pause()
    if state in ("stopped", "removed"):
        container.stop(0)
    if state == "removed":
        container.remove()


@needs_freezer
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("state", EXPECTED)
def test_every_verb_in_every_state(state: str, verb: str) -> None:
    with pc.create("host", ["sh", "-c", f"trap '' HUP; {FOREVER}"]) as container:
        bring(container, state)
        before = container.status
        after = EXPECTED[state][verb]
        if after is None:
            with pytest.raises(pc.InvalidState) as caught:
                VERBS[verb](container)
            assert container.id[:12] in str(caught.value)
            assert container.status == before
            return
        if verb == "wait" and state in ("running", "paused"):
            with pytest.raises(pc.Timeout):
                VERBS[verb](container)
        else:
            VERBS[verb](container)
        assert container.status == after


def test_what_is_told_in_each_state() -> None:
    with pc.create("host", ["sh", "-c", "exit 3"], labels={"a": "b"}) as container:
        assert (container.exit_code, container.started_at, container.finished_at) == (None, None, None)
        container.start()
        assert container.wait(60).returncode == 3
        first = container.finished_at
        assert (container.status, container.exit_code, container.pid) == ("stopped", 3, None)
        assert container.started_at is not None and first is not None
        assert (
            container.created_at
            <= container.started_at
            <= first
            <= datetime.datetime.now(datetime.timezone.utc)
        )
        container.start().wait(60)
        assert container.finished_at is not None and container.finished_at > first
        assert container.labels == {"a": "b"}
        assert container.restarts == 0


# Starting again.


def test_files_are_kept_from_start_to_start(base: pc.Image) -> None:
    script = "echo x >> /tmp/starts; cat /tmp/starts"
    with base.create(["sh", "-c", script]) as container:
        for count in range(1, 5):
            assert container.start().wait(60).stdout == b"x\n" * count
        container.restart()
        assert container.wait(60).stdout == b"x\n" * 5
    with base.create(["sh", "-c", script]) as container:
        assert container.start().wait(60).stdout == b"x\n"


def test_a_killed_container_starts_again_with_its_files(base: pc.Image) -> None:
    with base.start(["sh", "-c", f"echo x >> /tmp/starts; cat /tmp/starts; {FOREVER}"]) as container:
        for count in range(1, 4):
            has_written(container, count * (count + 1))
            container.kill()
            assert container.wait().stdout == b"x\n" * count
            container.start()


def has_written(container: pc.Container, size: int) -> None:
    until(lambda: len(b"".join(container.logs())) == size, "it wrote")


def test_restart_by_hand() -> None:
    with sleeper() as container:
        first = container.pid
        assert container.restart(0) is container
        assert container.status == "running" and container.pid != first
    with pytest.raises(pc.InvalidState):
        container.restart()


def test_who_kills_does_not_wait_for_a_restart() -> None:
    with pc.start("host", ["sh", "-c", f"trap '' TERM; echo up; {FOREVER}"]) as container:
        until(lambda: b"up" in b"".join(container.logs()), "it ignores the signal")
        thread = threading.Thread(target=lambda: container.restart(30))
        thread.start()
        time.sleep(0.3)
        began = time.monotonic()
        container.kill()
        assert time.monotonic() - began < 5
        thread.join(10)
        assert not thread.is_alive()


# Restart policies.


def counted(container: pc.Container, count: int) -> None:
    until(lambda: container.restarts >= count, f"{count} restarts", seconds=20)


def test_always(base: pc.Image) -> None:
    # It may be stopped between its last two steps, or before the first.
    script = "trap '' TERM; echo x >> /tmp/starts; exit 0"
    with base.start(["sh", "-c", script], restart="always") as container:
        counted(container, 2)
        done = container.stop()
        assert done.returncode in (0, -15)
        settled = container.restarts
        time.sleep(0.6)
        assert (container.restarts, container.status) == (settled, "stopped")
        assert container.start().status in ("running", "stopped")
        assert container.restarts == 0
        container.stop()


@pytest.mark.parametrize("signal", ["TERM", "USR1"])
def test_the_stop_signal_ends_it_for_good(signal: str) -> None:
    """Any other is the program's own business."""
    script = "trap 'exit 3' TERM USR1; echo up; while :; do sleep 0.05; done"
    with pc.start("host", ["sh", "-c", script], restart="always", wait=pc.wait.log("up")) as container:
        container.kill(signal)
        if signal == "TERM":
            assert container.wait(20).returncode == 3
            assert (container.restarts, container.status) == (0, "stopped")
        else:
            counted(container, 1)


def test_on_failure_so_many_times() -> None:
    with pc.start(
        "host", ["sh", "-c", "echo x >> /tmp/n; cat /tmp/n; exit 3"], restart="on-failure:2"
    ) as container:
        done = container.wait(30)
        assert (done.returncode, done.stdout) == (3, b"x\n" * 3)
        assert container.restarts == 2
        assert container.wait().returncode == 3


def test_on_failure_until_it_succeeds() -> None:
    script = "test -e /tmp/once || { touch /tmp/once; exit 1; }; echo fine"
    with pc.start("host", ["sh", "-c", script], restart="on-failure") as container:
        assert container.wait(30).stdout == b"fine\n"
        assert container.restarts == 1


def test_success_is_no_failure() -> None:
    with pc.start("host", ["true"], restart="on-failure") as container:
        container.wait(30)
        time.sleep(0.3)
        assert (container.restarts, container.status) == (0, "stopped")


def test_killed_from_inside_is_a_failure_and_kill_is_the_end() -> None:
    with pc.start("host", ["sh", "-c", "sleep 0.05; kill -9 $$"], restart="on-failure") as container:
        counted(container, 1)
        while True:
            with contextlib.suppress(pc.InvalidState):
                container.kill()
                break
        settled = container.restarts
        time.sleep(0.5)
        assert (container.restarts, container.status) == (settled, "stopped")


def test_stop_while_it_waits_to_be_started_again() -> None:
    with pc.start("host", ["false"], restart="always") as container:
        until(lambda: container.restarts >= 3 and container.status == "stopped", "it waits long enough")
        began = time.monotonic()
        container.stop()
        assert time.monotonic() - began < 1
        count = container.restarts
        time.sleep(1)
        assert container.restarts == count


def test_removed_while_it_waits_to_be_started_again() -> None:
    with nothing_left(ignore=("threads", "descriptors")):
        for _ in range(5):
            ended_and_removed(pc.start("host", ["false"], restart="always"))


def ended_and_removed(container: pc.Container) -> None:
    until(lambda: container.status == "stopped", "it ended")
    container.remove()
    assert container.status == "stopped"


def test_a_policy_outlives_a_restart_by_hand() -> None:
    """The end that the restart made is not taken for the new program's."""
    with pc.start(
        "host", ["sh", "-c", "trap 'exit 0' TERM; sleep 0.3; exit 1"], restart="on-failure"
    ) as container:
        for _ in range(3):
            container.restart(5)
        counted(container, 1)


def test_waiting_goes_on_with_what_the_policy_starts_and_ends_with_a_restart_by_hand() -> None:
    with pc.start("host", ["sh", "-c", f"trap 'exit 7' TERM; {FOREVER}"], restart="always") as container:
        codes: list[int] = []
        thread = threading.Thread(target=lambda: codes.append(container.wait(60).returncode))
        thread.start()
        time.sleep(0.3)
        container.restart(5)
        thread.join(10)
        assert codes == [7]
        assert container.status == "running"


def test_waiting_times_out_between_two_programs() -> None:
    with pc.start("host", ["false"], restart="always") as container:
        with pytest.raises(pc.Timeout) as caught:
            container.wait(1)
        result = caught.value.result
        assert (result.cause, result.returncode) == ("timeout", None)
        # The policy goes on.
        counted(container, container.restarts + 1)


def test_waiting_that_times_out_leaves_the_policy_alone() -> None:
    script = "while ! test -e /tmp/end; do sleep 0.02; done; exit 3"
    with pc.start("host", ["sh", "-c", script], restart="on-failure:1") as container:
        with pytest.raises(pc.Timeout):
            container.wait(0.1)
        assert (container.status, container.restarts) == ("running", 0)
        container.path("/tmp/end").touch()
        assert container.wait(60).returncode == 3
        assert container.restarts == 1


def test_a_start_that_fails_ends_the_policy(tmp_path: Path) -> None:
    """Nobody waits for a program that never comes."""
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o755)
    mounts = [pc.bind(program, "/tmp/program")]
    with pc.create("host", ["/tmp/program"], mounts=mounts, restart="always") as container:
        container.start()
        counted(container, 1)
        container.stop()
        program.unlink()
        with pytest.raises(pc.LaunchError, match="program"):
            container.start()
        assert container.status == "stopped"
        container.wait(5)
        program.write_text("#!/bin/sh\nexit 5\n")
        program.chmod(0o755)
        container.start()
        counted(container, 1)


def test_a_program_that_vanishes_ends_the_policy(image: pc.Image) -> None:
    args = ["/tmp/sh", "-c", "exit 4"]
    with image.create(args, restart="always") as container:
        container.prepare(["sh", "-c", "cat /bin/busybox > /tmp/sh; chmod 755 /tmp/sh"])
        container.start()
        counted(container, 1)
        # Between two programs its files are there all the same.
        until(lambda: gone(container), "it was removed")
        assert container.wait(30).returncode == 4
        assert container.status == "stopped"


def gone(container: pc.Container) -> bool:
    with contextlib.suppress(FileNotFoundError, pc.PycontainerError):
        container.path("/tmp/sh").unlink()
        return True
    return False


# Pausing.


@needs_freezer
def test_a_paused_container_stands_still() -> None:
    with pc.start("host", ["sh", "-c", "while :; do echo x; sleep 0.01; done"]) as container:
        until(lambda: len(b"".join(container.logs())) > 10, "it writes")
        container.pause()
        time.sleep(0.1)
        before = b"".join(container.logs())
        time.sleep(0.3)
        assert b"".join(container.logs()) == before
        assert (container.status, container.pid is None) == ("paused", False)
        container.unpause()
        until(lambda: len(b"".join(container.logs())) > len(before), "it goes on")


@needs_freezer
def test_ways_out_of_a_pause() -> None:
    for end in (
        lambda container: container.stop(5),
        lambda container: container.kill(),
        lambda container: container.restart(5).stop(0),
        lambda container: container.remove(force=True),
    ):
        with nothing_left(ignore=("threads", "descriptors")), sleeper(stop_timeout=5) as container:
            container.pause()
            began = time.monotonic()
            end(container)
            assert time.monotonic() - began < 4
            assert container.status == "stopped"


@needs_freezer
def test_stopping_a_paused_container_asks_it_first() -> None:
    with pc.start("host", ["sh", "-c", f"trap 'exit 8' TERM; echo up; {FOREVER}"]) as container:
        until(lambda: b"up" in b"".join(container.logs()), "it listens")
        container.pause()
        assert container.stop(10).returncode == 8


@needs_freezer
def test_pausing_what_ends_meanwhile() -> None:
    for turn in range(30):
        with pc.start("host", ["sh", "-c", f"sleep 0.0{turn % 10}"]) as container:
            with contextlib.suppress(pc.InvalidState):
                container.pause()
                assert container.status in ("paused", "stopped")
                with contextlib.suppress(pc.InvalidState):
                    container.unpause()
            container.wait(30)


@as_root
def test_pausing_without_a_freezer_is_an_error() -> None:
    with sleeper() as container:
        run = container._run
        assert run is not None and run.execution.cgroup is not None
        import attrs

        run.execution.cgroup = attrs.evolve(run.execution.cgroup, freeze=())
        with pytest.raises(pc.CapabilityUnavailable, match="freezer"):
            container.pause()
        assert container.status == "running"


# Limits of a container that runs.


@as_root
def test_limits_are_changed_while_it_runs() -> None:
    with sleeper(pids=20, memory="64M") as container:
        container.update(pids=6, memory="32M")
        forks = "for i in 1 2 3 4 5 6 7 8; do sleep 1 & done; wait"
        done = container.exec(["sh", "-c", forks], capture_output=True, timeout=30)
        assert done.returncode != 0 and b"fork" in done.stderr
        assert (container.options.pids, container.options.memory) == (6, 32 * 2**20)
        container.restart(0)
        assert container.exec(["sh", "-c", forks], capture_output=True, timeout=30).returncode != 0


@as_root
def test_limits_are_lifted_while_it_runs() -> None:
    """None is what an option is where nobody names it."""
    with sleeper(pids=6, memory="32M") as container:
        forks = ["sh", "-c", "for i in 1 2 3 4 5 6 7 8; do sleep 0.1 & done; wait"]
        much = ["python3", "-c", "print(len(b'x' * (100 << 20)))"]
        assert container.exec(forks, capture_output=True, timeout=30).returncode != 0
        assert container.exec(much, capture_output=True, timeout=30).returncode != 0
        container.update(pids=None, memory=None)
        assert (container.options.pids, container.options.memory) == (None, None)
        container.exec(forks, check=True, timeout=30)
        container.exec(much, check=True, timeout=30)
        container.update(memory="300M")
        container.exec(much, check=True, timeout=30)


def used_cpu(container: pc.Container, seconds: float) -> float:
    """CPU seconds a second, of a program that takes what it gets."""
    before, began = container.stats().cpu, time.monotonic()
    time.sleep(seconds)
    after = container.stats().cpu
    assert before is not None and after is not None
    return (after - before) / (time.monotonic() - began)


def test_limits_that_nobody_thought_of_at_the_start() -> None:
    with nothing_left(), pc.start("host", ["sh", "-c", "sleep 1000 & while :; do :; done"]) as container:
        try:
            container.update(cpus=0.1)
        except pc.CapabilityUnavailable as error:
            pytest.skip(str(error))
        time.sleep(0.3)
        assert used_cpu(container, 1.5) < 0.25
        groups = container.exec(["cat", "/proc/self/cgroup"], capture_output=True, text=True).stdout
        first = Path(f"/proc/{container.pid}/cgroup").read_text()
        assert groups.count(container.id) <= first.count(container.id)
        # A kernel may lack this one, and no more CPUs may be had.
        with contextlib.suppress(pc.CapabilityUnavailable):
            container.update(cpuset="0")
            assert container.exec(["nproc"], capture_output=True).stdout == b"1\n"
            container.update(cpuset="0-1")
            assert container.exec(["nproc"], capture_output=True).stdout == b"2\n"
        container.update(cpus=0.2)
        container.restart(timeout=0)
        assert (container.options.cpus, container.status) == (0.2, "running")


def test_a_host_that_is_killed_leaves_no_group_that_came_later(tmp_path: Path) -> None:
    script = """
    import time
    container = pc.start("host", ["sleep", "1000"])
    try:
        container.update(cpus=0.5)
        say(container.id)
    except pc.CapabilityUnavailable:
        say("no")
    time.sleep(1000)
    """
    with Host(script, tmp_path) as host:
        container = host.line()
        if container == "no":
            pytest.skip("no limits on cpus here")
        groups = [*Path("/sys/fs/cgroup").glob(f"*/pycontainer-*/{container}")]
        groups += Path("/sys/fs/cgroup").glob(f"pycontainer-*/{container}")
        assert groups
        os.kill(host.pid, signal.SIGKILL)
        until(lambda: not any(group.parent.exists() for group in groups), "its groups are gone")


def test_limits_that_cannot_be() -> None:
    with sleeper() as container:
        with pytest.raises(pc.InvalidOption, match="memory"):
            container.update(memory="nonsense")
        with pytest.raises(TypeError, match="name"):
            container.update(name="x")
        with pytest.raises(TypeError, match="mounts"):
            container.update(mounts=[])
        assert container.options.memory is None


# Finding.


def test_listed_and_found() -> None:
    for other in pc.Container.list(all=True):
        other.remove(force=True)  # what tests before this one kept
    with (
        sleeper(name="one", labels={"app": "db", "tier": "back"}) as one,
        pc.create("host", ["true"], labels={"app": "web"}) as two,
        pc.start("host", ["true"], labels={"app": "web"}) as three,
    ):
        three.wait(30)
        assert pc.Container.list() == [one]
        assert pc.Container.list(all=True) == [one, two, three]
        assert pc.Container.list(labels={"app": "web"}) == []
        assert pc.Container.list(all=True, labels={"app": "web"}) == [two, three]
        for given in (["tier"], "tier", "tier=back", ["app=db", "tier"], {"tier": None}):
            assert pc.Container.list(all=True, labels=given) == [one]
        assert pc.Container.list(labels="tier=front") == []
        assert pc.Container.list(status="created") == [two]
        assert pc.Container.list(status="stopped") == [three]
        assert pc.Container.get("one") is pc.Container.get(one.id) is pc.Container.get(one.id[:12]) is one
        for bad in ({"status": "exited"}, {"status": ["running"]}, {"labels": 5}, {"labels": [5]}):
            with pytest.raises(pc.InvalidOption, match=next(iter(bad))):
                pc.Container.list(**bad)
        for wrong in ("on", "", one.id[:3], "nobody", one.id + "0"):
            with pytest.raises(pc.ContainerNotFound):
                pc.Container.get(wrong)
    assert pc.Container.list(all=True) == []
    with pytest.raises(pc.ContainerNotFound):
        pc.Container.get(one.id)


def test_a_name_belongs_to_one() -> None:
    with nothing_left():
        with sleeper(name="mine"):
            with pytest.raises(pc.NameInUse, match="mine"):
                pc.create("host", ["true"], name="mine")
            with pytest.raises(pc.NameInUse):
                pc.run("host", ["true"], name="mine")
            assert pc.run("host", ["true"], name="other").returncode == 0
        with pc.create("host", ["true"], name="mine"):
            pass
        with pytest.raises(pc.LaunchError):
            pc.start("host", ["/no/such"], name="mine")
        pc.create("host", ["true"], name="mine").remove()


def test_a_store_of_its_own(tmp_path: Path) -> None:
    """Names are a store's, and who asks for one store's containers is told of no other's."""
    store = pc.Store(tmp_path / "store")
    (tmp_path / "root").mkdir()
    image = pc.Image.from_directory(tmp_path / "root", store=store)
    with (
        pc.create("host", ["true"], name="twin") as here,
        image.create(["true"], name="twin") as there,
        pc.create("host", ["true"], name="hosts", store=store) as hosts,
    ):
        assert pc.Container.list(all=True, store=store) == [there, hosts]
        assert pc.Container.list(all=True, store=pc.Store.default()) == [here]
        assert pc.Container.list(all=True) == [here, there, hosts]
        assert pc.Container.get("twin") is here
        assert pc.Container.get("twin", store=store) is there
        assert pc.Container.get("hosts") is hosts
        for wanted in ("hosts", hosts.id, hosts.id[:12]):
            with pytest.raises(pc.ContainerNotFound):
                pc.Container.get(wanted, store=pc.Store.default())
        with hosts.seal() as template, pytest.raises(pc.NameInUse):
            template.fork(name="twin")
        with pytest.raises(pc.NameInUse):
            image.run(["true"], name="twin")
        assert pc.run("host", ["true"], name="hosts").returncode == 0


def test_the_name_of_a_run_is_taken_until_its_end() -> None:
    with nothing_left(ignore=("processes",)):
        for end in (["sleep", "1"], ["sh", "-c", "sleep 1; kill -9 $$"]):
            thread = threading.Thread(target=pc.run, args=("host", end), kwargs={"name": "running"})
            thread.start()
            # Looking is taking for a moment, which the run must not meet.
            time.sleep(0.5)
            assert taken("running")
            thread.join()
            assert not taken("running")
        with pytest.raises(pc.LaunchError):
            pc.run("host", ["/no/such"], name="running")
        with pytest.raises(pc.Timeout):
            pc.run("host", ["sleep", "100"], name="running", timeout=0.2)
        assert not taken("running")


def taken(name: str) -> bool:
    try:
        pc.create("host", ["true"], name=name).remove()
    except pc.NameInUse:
        return True
    return False


def test_one_name_wanted_by_many_threads() -> None:
    made: list[pc.Container] = []
    refused: list[BaseException] = []

    def make() -> None:
        try:
            made.append(pc.create("host", ["true"], name="wanted"))
        except pc.NameInUse as error:
            refused.append(error)

    threads = [threading.Thread(target=make) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(made), len(refused)) == (1, 15)
    made[0].remove()


# What `run` is not for.


def test_run_takes_no_options_of_containers_that_last() -> None:
    with pytest.raises(pc.InvalidOption, match=r"restart=.*run\(\).*start\(\)"):
        pc.run("host", ["true"], restart="always")
    with pytest.raises(pc.InvalidOption, match="restart"):
        pc.run("host", ["true"], options=pc.Options(restart="on-failure"))
    others = {"persist": True, "log": "file", "healthcheck": ["true"], "wait": pc.wait.file("/x")}
    for name, value in others.items():
        with pytest.raises(pc.InvalidOption, match=rf"{name}=.*not for run\(\)"):
            pc.run("host", ["true"], **{name: value})
    done = pc.run("host", ["true"], name="a-run", labels={"a": "b"}, annotations={"c": "d"}, restart=None)
    assert done.returncode == 0


# From all sides.


@pytest.mark.parametrize("restart", [None, "always"])
def test_threads_hammer_one_container(restart: str | None) -> None:
    """Each answer is one that the documentation names, and the end is clean."""
    seconds = unique_seconds()
    failures: list[BaseException] = []
    allowed = (pc.InvalidState, pc.Timeout, pc.CapabilityUnavailable, pc.LaunchError)
    verbs = [verb for name, verb in VERBS.items() if not name.startswith("remove")]
    container = pc.create("host", ["sh", "-c", f"sleep {seconds}"], restart=restart)
    end = time.monotonic() + 3

    def hammer(seed: int) -> None:
        choose = random.Random(seed)
        while time.monotonic() < end:
            try:
                choose.choice(verbs)(container)
                assert container.status in ("created", "running", "paused", "stopped")
                _ = container.pid, container.exit_code, container.finished_at, repr(container)
            except pc.ExitError as error:
                # The exec above, whose container was killed.
                assert error.returncode != 0
            except allowed:
                pass
            except BaseException as error:
                failures.append(error)
                raise

    threads = [threading.Thread(target=hammer, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a thread hangs"
    container.remove(force=True)
    assert failures == []
    assert not with_argument(seconds)


def test_removed_while_it_starts() -> None:
    """Whoever comes first: it is removed, and nothing of it is left."""
    seconds = unique_seconds()
    with nothing_left(ignore=("threads", "descriptors")):
        for turn in range(20):
            container = pc.create("host", ["sleep", seconds])
            thread = threading.Thread(target=begin, args=(container,))
            thread.start()
            time.sleep(turn / 5000)
            container.remove(force=True)
            thread.join()
            assert container.status == "stopped"
            assert not with_argument(seconds)


def begin(container: pc.Container) -> None:
    with contextlib.suppress(pc.InvalidState, pc.LaunchError):
        container.start()


@pytest.mark.parametrize("turn", range(5))
def test_removed_while_others_wait(turn: int) -> None:
    container = sleeper()
    codes: list[int] = []
    threads = [threading.Thread(target=lambda: codes.append(container.wait().returncode)) for _ in range(4)]
    for thread in threads:
        thread.start()
    container.remove(force=True)
    for thread in threads:
        thread.join(10)
    assert codes == [-signal.SIGKILL] * 4


def test_the_supervisor_dies() -> None:
    """What ran in it is dead, which is told; a new start works."""
    with sleeper(restart="always") as container:
        os.kill(session.current().supervisor.pid, signal.SIGKILL)
        with pytest.raises(pc.SupervisorError):
            container.wait(10)
        assert container.status == "stopped"
        assert (container.exit_code, container.pid) == (None, None)
        assert pc.run("host", ["true"]).returncode == 0


# Interrupted, and forked.


@pytest.mark.parametrize("call", ["container.wait()", "container.stop(60)", "container.restart(60)"])
def test_ctrl_c(tmp_path: Path, call: str) -> None:
    """At once; and the container is as usable as before."""
    script = f"""
        import signal
        container = pc.start("host", ["sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.02; done"])
        while not b"".join(container.logs()):
            time.sleep(0.01)
        say("go")
        try:
            {call}
        except KeyboardInterrupt:
            say("interrupted", time.monotonic())
        say(container.status, container.exec(["true"]).returncode)
        container.remove(force=True)
        say("removed", threading.active_count())
    """
    with Host(script, tmp_path) as host:
        assert host.line() == "go"
        time.sleep(0.3)
        sent, waited = time.monotonic(), host.kept_waiting()
        os.kill(host.pid, signal.SIGINT)
        word, when = host.line().split()
        assert word == "interrupted" and float(when) - sent - (host.kept_waiting() - waited) < 0.1
        assert host.line() == "running 0"
        assert host.line().startswith("removed")
        host.finish()


def test_interrupted_at_any_moment_of_a_start(tmp_path: Path) -> None:
    """Done or undone: it can be started, or removed, and nothing is left."""
    script = """
        import contextlib, signal
        pc.run("host", ["true"])
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        for turn in range(60):
            container = pc.create("host", ["sleep", "1000"])
            try:
                try:
                    signal.setitimer(signal.ITIMER_REAL, 0.00005 + turn * 0.0001)
                    container.start()
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                pass
            if container.status != "running":
                container.start()
            assert container.exec(["true"]).returncode == 0
            container.remove(force=True)
        say("done")
    """
    with Host(script, tmp_path) as host:
        assert host.line(60) == "done", host.errors()
        host.finish()


def test_forks_of_the_host_meanwhile() -> None:
    """They see that the containers are not theirs, and their ends change nothing."""
    with (
        pc.start("host", ["sh", "-c", "exit 1"], restart="always") as restarting,
        sleeper(name="kept") as container,
    ):
        for _ in range(10):
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    with contextlib.suppress(pc.ContainerNotFound):
                        pc.Container.get("kept")
                        os._exit(2)
                    assert pc.Container.list(all=True) == []
                    for call in (container.start, container.stop, restarting.restart, container.unpause):
                        with contextlib.suppress(pc.InvalidState):
                            call()
                            os._exit(3)
                    container.remove(force=True)
                    code = 0
                finally:
                    os._exit(code)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        counted(restarting, 1)
        assert container.exec(["true"]).returncode == 0
        assert pc.Container.get("kept") is container


def test_the_thread_that_minds_ends_when_there_is_nothing_to_mind() -> None:
    def minders() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name == "pycontainer-minder"]

    before = len(os.listdir("/proc/self/fd"))
    with sleeper(restart="always") as container:
        container.exec(["true"])
        assert minders() == ["pycontainer-minder"]
    until(lambda: not minders(), "its thread is gone")
    for _ in range(20):
        with pc.start("host", ["true"], restart="on-failure") as container:
            container.wait(30)
    until(lambda: not minders(), "its thread is gone")
    del container
    until(lambda: len(os.listdir("/proc/self/fd")) <= before, "no descriptor is left")


# Bad company.


def test_what_vanishes_between_create_and_start(tmp_path: Path) -> None:
    program = tmp_path / "program"
    shutil.copy("/bin/true", program)
    with pc.create("host", ["/tmp/program"], mounts=[pc.bind(program, "/tmp/program")]) as container:
        program.rename(tmp_path / "elsewhere")
        for _ in range(2):
            with pytest.raises(pc.LaunchError, match=str(program)):
                container.start()
            assert (container.status, container.exit_code) == ("created", None)
        (tmp_path / "elsewhere").rename(program)
        assert container.start().wait(30).returncode == 0


def test_one_that_ignores_being_asked_with_a_policy() -> None:
    with pc.start("host", ["sh", "-c", f"trap '' TERM; echo up; {FOREVER}"], restart="always") as container:
        until(lambda: b"up" in b"".join(container.logs()), "it ignores the signal")
        began = time.monotonic()
        assert container.stop(0.3).returncode == -signal.SIGKILL
        assert 0.3 <= time.monotonic() - began < 5
        time.sleep(0.4)
        assert (container.status, container.restarts) == ("stopped", 0)


BOMB = """
import os, time
made = 0
for _ in range(5000):
    try:
        pid = os.fork()
    except OSError:
        break
    if pid == 0:
        time.sleep(1000)
    made += 1
print(made, flush=True)
time.sleep(1000)
"""


@as_root
def test_one_that_forks_without_end() -> None:
    with nothing_left(ignore=("threads", "descriptors")):
        with pc.start("host", ["python3", "-I", "-S", "-c", BOMB], pids=200) as container:
            until(lambda: b"\n" in b"".join(container.logs()), "it has its children", seconds=30)
            assert 150 < int(b"".join(container.logs())) < 200
            began = time.monotonic()
            container.kill()
            assert time.monotonic() - began < 1
        assert pc.run("host", ["true"]).returncode == 0


@as_root
def test_one_that_fills_its_disk(tmp_path: Path, image: pc.Image) -> None:
    """It gets ENOSPC, like anybody else there; it can be stopped, started again and removed."""
    with small_disk(tmp_path / "disk", "300m") as path, pc.Store(path / "store") as store:
        image.save(tmp_path / "image.tar")
        (small,) = pc.Image.load(tmp_path / "image.tar", store=store)
        fill = "dd if=/dev/zero of=/tmp/big bs=1M count=400; echo status $?; sleep 1000"
        container = small.start(["sh", "-c", fill])
        until(lambda: b"status" in b"".join(container.logs()), "the disk is full")
        assert b"status 1" in b"".join(container.logs()) and b"No space" in b"".join(container.logs())
        assert container.exec(["true"]).returncode == 0
        container.stop(0)
        container.start()
        container.remove(force=True)
        with small.start(["sh", "-c", "echo x > /tmp/x; cat /tmp/x"]) as other:
            assert other.wait(30).stdout == b"x\n"
        small.remove(force=True)


def test_one_that_fills_its_memory_file_system() -> None:
    with pc.start(
        "host", ["sh", "-c", "head -c 10M /dev/zero > /t/big; echo $?"], mounts=[pc.tmpfs("/t", size="1M")]
    ) as container:
        done = container.wait(30)
        assert (done.returncode, done.stdout) == (0, b"1\n")
        assert b"No space" in done.stderr


@contextlib.contextmanager
def small_disk(path: Path, size: str) -> Iterator[Path]:
    path.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", os.fsencode(path), b"tmpfs", 0, f"size={size}".encode()) != 0:
        raise OSError(ctypes.get_errno(), "mount")
    try:
        yield path
    finally:
        libc.umount2(os.fsencode(path), 2)


@pytest.mark.parametrize("way", ["Container.wait", "Job.wait"])
def test_an_end_that_another_thread_takes_in_before_the_waiting_begins(
    monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """As the minder may, at the worst moment: the number of the channel is another file's at once."""
    with contextlib.ExitStack() as rest, sleeper() as container:
        run = container._run
        assert run is not None
        job, poll = run.job, _sys.poll

        def late(poller: select.poll, deadline: float | None) -> list[tuple[int, int]]:
            monkeypatch.setattr(_sys, "poll", poll)
            job.end()
            until(lambda: job.take() is not None, "its end is taken in")
            for _ in range(8):
                for sock in socket.socketpair():
                    rest.enter_context(sock)
            return poll(poller, deadline)

        monkeypatch.setattr(_sys, "poll", late)
        began = time.monotonic()
        if way == "Job.wait":
            job.wait(10)
        else:
            container.wait(10)
        assert time.monotonic() - began < 5
        assert _sys.poll is poll
