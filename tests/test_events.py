"""`events()`: what happens is told while it does, with nobody waiting for it."""

from __future__ import annotations

import copy
import datetime
import gc
import os
import pickle
import signal
import threading
import time

import pytest

import pycontainer as pc
from conftest import need
from containers import PYTHON, nothing_left, sleeper
from pycontainer import happenings
from pycontainer.runtime import cgroups

SECONDS = 30.0


def types(events: pc.Events) -> list[str]:
    """Of all that happened so far."""
    found = []
    while (event := events.get(0)) is not None:
        found.append(event.type)
    return found


def until_type(events: pc.Events, wanted: str) -> pc.Event:
    while (event := events.get(SECONDS)) is not None:
        if event.type == wanted:
            return event
    raise AssertionError(f"no {wanted!r}")


def test_a_life() -> None:
    with nothing_left(), pc.events() as events:
        with pc.start("host", ["sleep", "1000"], name="life") as container:
            container.exec(["true"])
            container.restart(timeout=0)
            container.kill("TERM")
            container.wait(60)
            container.start()
            container.stop()
        assert types(events) == [
            *("create", "start", "exec"),
            *("die", "stop", "start", "restart"),
            *("kill", "die"),
            *("start", "die", "stop", "remove"),
        ]


def test_the_life_of_what_run_runs() -> None:
    image = pc.Image.host()
    with pc.events() as events:
        pc.run("host", ["sh", "-c", "exit 3"], name="short")
        told = [event for event in iter(lambda: events.get(0), None)]
        assert [event.type for event in told] == ["create", "start", "die", "remove"]
        assert {(event.name, event.image) for event in told} == {("short", image.id)}
        (container,) = {event.id for event in told}
        assert len(container) == 32
        assert told[2].attributes == {"exit_code": 3, "cause": "exited"}
        assert told[0].time <= told[1].time <= told[2].time <= told[3].time
        with pytest.raises(pc.LaunchError):
            pc.run("host", ["/does/not/exist"])
        assert types(events) == ["create", "remove"]
        with pytest.raises(pc.Timeout):
            pc.run("host", ["sleep", "1000"], timeout=0.2)
        assert types(events) == ["create", "start", "die", "remove"]


def test_what_an_event_says() -> None:
    before = datetime.datetime.now(datetime.timezone.utc)
    with pc.events(["create", "die", "exec", "kill"]) as events:
        with sleeper(name="said") as container:
            container.exec(["echo", "x"])
            container.kill("USR1")
        create, ran, kill, die = (events.get(SECONDS) for _ in range(4))
        assert create is not None
        assert ran is not None
        assert kill is not None
        assert die is not None
        assert (create.type, create.id, create.name, create.image) == (
            *("create", container.id, "said"),
            container.image.id,
        )
        assert dict(ran.attributes) == {"args": ["echo", "x"]}
        assert dict(kill.attributes) == {"signal": signal.SIGUSR1}
        assert dict(die.attributes)["exit_code"] in (-signal.SIGUSR1, -signal.SIGKILL)
        assert before <= create.time <= die.time <= datetime.datetime.now(datetime.timezone.utc)
        with pytest.raises(TypeError):
            create.attributes["x"] = 1  # type: ignore[index]


def test_events_are_values() -> None:
    """For a queue to another process, say."""
    event = pc.Event(
        time=datetime.datetime.now(datetime.timezone.utc), type="die", id="x", attributes={"exit_code": 3}
    )
    for again in (pickle.loads(pickle.dumps(event)), copy.copy(event), copy.deepcopy(event)):
        assert again == event
        with pytest.raises(TypeError):
            again.attributes["exit_code"] = 4


def test_an_end_is_told_with_nobody_waiting() -> None:
    with (
        nothing_left(),
        pc.start("host", ["sh", "-c", "sleep 0.3; exit 4"]) as early,
        pc.events("die") as events,
        pc.start("host", ["sh", "-c", "sleep 0.6; kill $$"]) as late,
    ):
        found = [next(events), next(events)]
        assert [event.id for event in found] == [early.id, late.id]
        assert [dict(event.attributes) for event in found] == [
            {"exit_code": 4, "cause": "exited"},
            {"exit_code": -signal.SIGTERM, "cause": "signaled"},
        ]
        assert (early.finished_at, late.finished_at) == (found[0].time, found[1].time)


def test_an_end_is_told_once_to_each_who_listens_then() -> None:
    with pc.start("host", ["sleep", "0.5"]) as container:
        pc.events().close()
        with pc.events("die") as one, pc.events("die") as two:
            container.wait(60)
            assert [one.get(SECONDS) is not None, two.get(SECONDS) is not None] == [True, True]
            assert (one.get(0.1), two.get(0.1)) == (None, None)
        with pc.events() as late:
            assert late.get(0.1) is None


def test_nobody_goes_on_before_an_end_is_told() -> None:
    telling, told = threading.Event(), []

    def slowly() -> None:
        telling.set()
        time.sleep(0.3)
        told.append(True)

    with sleeper() as container:
        job = container._run.job  # type: ignore[union-attr]
        job.on_end(slowly)
        other = threading.Thread(target=job.wait, args=(SECONDS,))
        other.start()
        job.end()
        assert telling.wait(SECONDS)
        # The other thread has the end in hand, and is still at it.
        assert container.status == "stopped"
        assert told == [True]
        container.wait(SECONDS)
        other.join()


def test_restarts_by_a_policy() -> None:
    with (
        pc.events(["start", "die"]) as events,
        pc.start("host", ["sh", "-c", "exit 3"], restart="on-failure:2") as container,
    ):
        container.wait(60)
        assert types(events) == ["start", "die"] * 3


def test_types_are_chosen() -> None:
    with pc.events("start") as events, sleeper():
        assert types(events) == ["start"]
    for wrong in ("starts", ["start", "x"], [5]):
        with pytest.raises(pc.InvalidOption, match="types"):
            pc.events(wrong)  # type: ignore[arg-type]


def test_only_from_the_call_on() -> None:
    with sleeper() as container:
        with pc.events() as events:
            assert events.get(0.05) is None
        container.kill()
        assert events.get(0) is None
        assert list(events) == []


def test_closing_ends_a_wait_in_another_thread() -> None:
    events = pc.events()
    found: list[list[pc.Event]] = []
    thread = threading.Thread(target=lambda: found.append(list(events)))
    thread.start()
    time.sleep(0.1)
    events.close()
    events.close()
    thread.join(SECONDS)
    assert found == [[]]
    assert not happenings.anybody()
    assert "closed" in repr(events)


def test_one_that_is_left_in_a_loop_is_closed() -> None:
    with sleeper() as container:
        for _ in range(3):
            iterator = iter(pc.events())
            container.kill("WINCH")
            for event in iterator:
                assert event.type == "kill"
                break
            assert len(happenings._listening) == 1
            del iterator
            gc.collect()
            assert not happenings.anybody()


def test_who_does_not_take_them_loses_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(happenings, "_MOST", 3)
    with pc.events("pull") as events:
        for number in range(5):
            happenings.emit("pull", str(number))
        assert events.lost == 2
        assert [events.get(0).id for _ in range(3)] == ["0", "1", "2"]  # type: ignore[union-attr]
        assert events.get(0) is None


@pytest.mark.cgroup
def test_out_of_memory() -> None:
    need(cgroups.host().controllers["memory"].available, "the memory controller", of_root=True)
    code = "[bytearray(1 << 20) for _ in range(100)]"
    with pc.events(["oom", "die"]) as events, pc.start("host", [*PYTHON, code], memory="20M"):
        assert next(events).type == "oom"
        die = next(events)
        assert dict(die.attributes) == {"exit_code": -signal.SIGKILL, "cause": "oom"}


@pytest.mark.cgroup
def test_pausing() -> None:
    need(cgroups.host().controllers["freezer"].available, "the freezer", of_root=True)
    with sleeper() as container, pc.events() as events:
        container.pause()
        container.unpause()
        assert types(events) == ["pause", "unpause"]


def test_a_forked_child_hears_nothing() -> None:
    with pc.events() as events:
        child = os.fork()
        if child == 0:
            os._exit(len(happenings._listening))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        happenings.emit("pull", "x")
        assert types(events) == ["pull"]
