"""Healthchecks: what they are, what runs them, and what becomes of a container's health."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

import pycontainer as pc
from containers import nothing_left, sleeper, unique_seconds, until, with_argument
from pycontainer import healthcheck

FLAG = "/run/pc-well"


def flagged(**options: Any) -> pc.Healthcheck:
    """One that asks for the flag; quick, so that tests are."""
    chosen: dict[str, Any] = {"interval": 0.05, "start_interval": 0.05, "retries": 2} | options
    return pc.Healthcheck(["test", "-e", FLAG], **chosen)


def checked(check: Any, **options: Any) -> pc.Container:
    return sleeper(healthcheck=check, mounts=[pc.tmpfs("/run")], **options)


def becomes(container: pc.Container, health: str | None) -> None:
    until(lambda: container.health == health, f"it is {health}")


# As values.


def test_the_defaults_are_dockers() -> None:
    check = pc.Healthcheck(["a"])
    assert (check.interval, check.timeout, check.retries) == (30.0, 30.0, 3)
    assert (check.start_period, check.start_interval) == (0.0, 5.0)
    assert attrs.evolve(check) == check
    assert repr(check).count("\n") == 0


def test_forms_of_a_command() -> None:
    assert pc.Healthcheck("a b").test == ("/bin/sh", "-c", "a b")
    assert pc.Healthcheck(["a", "b"]).test == ("a", "b")
    assert pc.Healthcheck(("CMD", "a", "b")).test == ("a", "b")
    assert pc.Healthcheck(["CMD-SHELL", "a b"]).test == ("/bin/sh", "-c", "a b")
    assert pc.Healthcheck("x", interval="1m30s", timeout=2).interval == 90.0


@pytest.mark.parametrize(
    "given",
    [
        {"test": []},
        {"test": ""},
        {"test": None},
        {"test": ["CMD"]},
        {"test": ["CMD-SHELL", "a", "b"]},
        {"test": ["NONE"]},
        {"test": ["a\0b"]},
        {"test": "x", "interval": 0},
        {"test": "x", "interval": -1},
        {"test": "x", "timeout": 0.0001},
        {"test": "x", "timeout": float("nan")},
        {"test": "x", "start_period": -1},
        {"test": "x", "start_interval": 0},
        {"test": "x", "interval": 1e12},
        {"test": "x", "retries": 0},
        {"test": "x", "retries": 1.5},
        {"test": "x", "retries": True},
    ],
    ids=str,
)
def test_what_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(pc.InvalidOption):
        pc.Healthcheck(**given)


def test_what_images_say() -> None:
    document = {
        "Test": ["CMD-SHELL", "a b"],
        "Interval": 1_500_000_000,
        "Timeout": 2_000_000_000,
        "StartPeriod": 3_000_000_000,
        "StartInterval": 4_000_000_000,
        "Retries": 5,
    }
    assert healthcheck.of_image(document) == pc.Healthcheck(
        "a b", interval=1.5, timeout=2, start_period=3, start_interval=4, retries=5
    )
    zeros = {"Test": ["CMD", "a"], "Interval": 0, "Timeout": 0, "StartPeriod": 0, "Retries": 0}
    assert healthcheck.of_image(zeros) == pc.Healthcheck(["a"])
    for none in (None, {}, {"Test": []}, {"Test": ["NONE"]}, {"Test": None}, {"Interval": 5}):
        assert healthcheck.of_image(none) is None


@pytest.mark.parametrize(
    "document",
    [
        {"Test": "true"},
        {"Test": ["true"]},
        {"Test": ["CMD"]},
        {"Test": ["CMD-SHELL"]},
        {"Test": ["CMD", 5]},
        {"Test": ["CMD", "a\0b"]},
        {"Test": {"CMD": "a"}},
        {"Test": ["CMD", "a"], "Interval": "30s"},
        {"Test": ["CMD", "a"], "Interval": -1},
        {"Test": ["CMD", "a"], "Interval": 1},
        {"Test": ["CMD", "a"], "Interval": 2**70},
        {"Test": ["CMD", "a"], "Timeout": 1.5},
        {"Test": ["CMD", "a"], "StartPeriod": True},
        {"Test": ["CMD", "a"], "Retries": -1},
        {"Test": ["CMD", "a"], "Retries": 2**63},
        {"Test": ["CMD", "a"], "Retries": "3"},
    ],
    ids=str,
)
def test_images_that_say_nonsense(document: dict[str, Any]) -> None:
    with pytest.raises(pc.InvalidImage, match="Healthcheck"):
        healthcheck.of_image(document)
    image = pc.Image.host().configure(healthcheck=document)
    with nothing_left():
        with pytest.raises(pc.InvalidImage, match="Healthcheck"):
            image.create(["true"])
        with image.create(["true"], healthcheck=False) as container:
            assert container.healthcheck is None


def test_mappings() -> None:
    """They would be taken for lists of their keys otherwise."""
    wanted = pc.Healthcheck("a b", interval=2, retries=5)
    document = {"Test": ["CMD-SHELL", "a b"], "Interval": 2_000_000_000, "Retries": 5}
    for given in ({"test": "a b", "interval": 2, "retries": 5}, document):
        assert pc.Options(healthcheck=given).healthcheck == wanted
    assert pc.Options(healthcheck={"Test": ["NONE"]}).healthcheck is False
    assert pc.Options(healthcheck={"Interval": 5}).healthcheck is None
    nanoseconds = {"test": ["CMD", "a"], "interval": 30_000_000_000}
    nonsense: list[dict[str, Any]] = [{"interval": 2}, {"test": "a", "tries": 3}, {"Test": "a"}, nanoseconds]
    for bad in nonsense:
        with pytest.raises(pc.InvalidOption, match="healthcheck"):
            pc.Options(healthcheck=bad)
    with pytest.raises(pc.InvalidOption, match="entrypoint"):
        pc.Options(entrypoint={"a": "b"})


@pytest.mark.parametrize(
    "check", [pc.Healthcheck(["a"], start_period=0.5, retries=7), pc.Healthcheck("a b", timeout=1.25)]
)
def test_an_image_is_given_one_as_a_container_is(check: pc.Healthcheck) -> None:
    assert healthcheck.of_image(check.document()) == check
    host = pc.Image.host()
    assert host.configure(healthcheck=check).config.healthcheck == check.document()
    assert host.configure(healthcheck="x").config.healthcheck == pc.Healthcheck("x").document()
    assert host.configure(healthcheck=False).config.healthcheck == {"Test": ["NONE"]}
    assert host.configure(healthcheck=check).configure(healthcheck=None).config.healthcheck is None
    with pytest.raises(pc.InvalidOption, match="healthcheck"):
        host.configure(healthcheck=["CMD"])


def test_run_refuses_one() -> None:
    with pytest.raises(pc.InvalidOption, match="healthcheck"):
        pc.run("host", ["true"], healthcheck="true")


# What becomes of it.


def test_none_without_a_healthcheck() -> None:
    with sleeper() as container:
        assert (container.health, container.health_log, container.healthcheck) == (None, [], None)
        with pytest.raises(pc.InvalidOption, match="healthy"):
            container.wait_until(pc.wait.healthy())
    with pytest.raises(pc.InvalidOption, match="healthy"):
        sleeper(wait=pc.wait.file("/x") | pc.wait.healthy())


def test_starting_healthy_unhealthy_and_back() -> None:
    with nothing_left(), checked(flagged(start_period=1000)) as container:
        until(lambda: len(container.health_log) >= 3, "it is asked")
        assert container.health == "starting"
        container.exec(["touch", FLAG], check=True)
        becomes(container, "healthy")
        container.exec(["rm", FLAG], check=True)
        becomes(container, "unhealthy")
        container.exec(["touch", FLAG], check=True)
        becomes(container, "healthy")
        container.kill()
        assert container.health is None
        assert container.health_log


def test_it_is_asked_at_once() -> None:
    with checked("true") as container:
        container.wait_until(pc.wait.healthy(), timeout=5)
        assert len(container.health_log) == 1


def test_failures_count_after_the_start_period_only() -> None:
    with checked(flagged(start_period=0.6, retries=1)) as container:
        began = time.monotonic()
        becomes(container, "unhealthy")
        assert time.monotonic() - began > 0.4


def test_the_interval_is_a_grace_as_well() -> None:
    with checked(flagged(interval=0.5, start_interval=0.05, retries=1)) as container:
        began = time.monotonic()
        becomes(container, "unhealthy")
        assert time.monotonic() - began > 0.3
        assert len(container.health_log) >= 3


def test_it_takes_so_many_failures_in_a_row() -> None:
    script = "n=$(cat /run/n || echo 0); echo $((n+1)) > /run/n; echo run $n; exit $((n % 3 != 0))"
    with checked(pc.Healthcheck(script, interval=0.03, retries=3)) as container:
        while b"run 12\n" not in [result.output for result in container.health_log]:
            assert container.health != "unhealthy"
            time.sleep(0.002)
        assert container.health == "healthy"
        codes = [result.exit_code for result in container.health_log]
        assert 0 in codes
        assert 1 in codes


def test_the_log_holds_the_last_results() -> None:
    with checked(pc.Healthcheck("echo out; echo err >&2; exit 3", interval=0.02)) as container:
        until(lambda: len(container.health_log) == 10, "ten results")
        time.sleep(0.2)
        results = container.health_log
        assert len(results) == 10
        assert {(result.exit_code, result.output) for result in results} == {(3, b"out\nerr\n")}
        assert [result.started_at for result in results] == sorted(result.started_at for result in results)
        assert all(0 < result.seconds < 10 for result in results)
        assert results[0].started_at >= container.started_at  # type: ignore[operator]


def test_much_output_is_cut() -> None:
    with checked(pc.Healthcheck("head -c 1000000 /dev/zero; echo end", interval=1000)) as container:
        becomes(container, "healthy")
        output = container.health_log[0].output
        assert (len(output), output[-4:]) == (4096, b"end\n")


def test_one_that_hangs_is_killed_with_all_that_it_started() -> None:
    seconds = unique_seconds()
    script = f"echo before; setsid -f sleep {seconds}; sleep {seconds}"
    with checked(pc.Healthcheck(script, interval=0.1, timeout=0.2, retries=1)) as container:
        becomes(container, "unhealthy")
        result = container.health_log[0]
        assert result.exit_code is None
        assert b"longer than 0.2 s" in result.output
        assert b"before" in result.output
        time.sleep(0.5)
        assert len(with_argument(seconds)) <= 4, "never two at a time"
        assert container.exec(["true"]).returncode == 0


def test_a_command_that_is_not_there() -> None:
    with checked(pc.Healthcheck(["/nonexistent"], interval=0.05, retries=1)) as container:
        becomes(container, "unhealthy")
        assert container.health_log[-1].exit_code is None
        assert b"ENOENT" in container.health_log[-1].output


def test_waiting_for_it() -> None:
    script = f"sleep 0.2; touch {FLAG}; exec sleep 1000"
    options = {"healthcheck": flagged(start_period=1000), "mounts": [pc.tmpfs("/run")]}
    with pc.start("host", ["sh", "-c", script], wait=pc.wait.healthy(), **options) as container:
        assert container.health == "healthy"


def test_waiting_ends_when_it_is_unhealthy() -> None:
    check = pc.Healthcheck("echo broken; exit 4", interval=0.05, retries=2)
    began = time.monotonic()
    with nothing_left(), pytest.raises(pc.WaitFailed, match="exit status 4: broken"):
        checked(check, wait=pc.wait.healthy())
    assert time.monotonic() - began < 10


def test_the_images_is_used_and_options_come_first() -> None:
    document = {"Test": ["CMD", "true"], "Interval": 50_000_000}
    image = pc.Image.host().configure(healthcheck=document)
    assert image.config.healthcheck == document
    with image.start(["sleep", "1000"], wait=pc.wait.healthy()) as container:
        assert container.healthcheck == pc.Healthcheck(["true"], interval=0.05)
    with image.start(["sleep", "1000"], healthcheck=False) as container:
        assert container.health is None
    with image.start(["sleep", "1000"], healthcheck=["false"]) as container:
        until(lambda: container.health_log, "it is asked")
        assert container.health_log[0].exit_code == 1


def test_it_starts_anew_with_the_container() -> None:
    with checked(flagged()) as container:
        container.exec(["touch", FLAG], check=True)
        becomes(container, "healthy")
        container.kill()
        asked = container.health_log
        time.sleep(0.2)
        assert container.health_log == asked
        container.start()
        assert container.health in ("starting", "unhealthy")
        becomes(container, "unhealthy")


def test_a_restart_policy_starts_it_anew() -> None:
    with checked(pc.Healthcheck("true", interval=0.05), restart="always") as container:
        becomes(container, "healthy")
        container.exec(["kill", "-9", "-1"])
        until(lambda: container.restarts == 1, "it was started again")
        becomes(container, "healthy")


def test_a_paused_container_is_not_asked() -> None:
    with checked(flagged(interval=0.05, timeout=0.2)) as container:
        container.exec(["touch", FLAG], check=True)
        becomes(container, "healthy")
        try:
            container.pause()
        except pc.CapabilityUnavailable as error:
            pytest.skip(str(error))
        time.sleep(0.3)
        asked = container.health_log
        time.sleep(0.4)
        assert container.health_log == asked
        assert container.health == "healthy"
        container.unpause()
        until(lambda: container.health_log != asked, "it is asked again")
        assert container.health == "healthy"


def health_threads() -> int:
    return sum(thread.name == "pycontainer-health" for thread in threading.enumerate())


def test_one_thread_for_all_of_them_and_only_while_there_are_any() -> None:
    with nothing_left():
        many = [checked(flagged(start_period=1000)) for _ in range(12)]
        assert health_threads() == 1
        for container in many[:6]:
            container.exec(["touch", FLAG], check=True)
        for container in many[:6]:
            becomes(container, "healthy")
        assert {container.health for container in many[6:]} == {"starting"}
        for container in many:
            container.remove(force=True)
        until(lambda: health_threads() == 0, "the thread ended")


def test_one_that_hangs_holds_up_no_other() -> None:
    hanging = [checked(pc.Healthcheck("sleep 1000", timeout=1000)) for _ in range(4)]
    try:
        with checked(flagged(start_period=1000)) as container:
            container.exec(["touch", FLAG], check=True)
            becomes(container, "healthy")
    finally:
        for one in hanging:
            one.remove(force=True)
    until(lambda: health_threads() == 0, "the thread ended")


def test_timers_do_not_pile_up() -> None:
    """Each check's time-out is far away: without care, its timer would stay as long."""
    from pycontainer import health

    until(lambda: health_threads() == 0, "the thread of earlier ones ended")
    check = pc.Healthcheck("true", interval=0.001, timeout=1000)
    loops: list[Any] = []
    begun: list[int] = []
    begin: Callable[..., None] = health._Loop.__init__
    begin_check: Callable[..., None] = health.Health._begin

    def noted(self: Any, *arguments: Any) -> None:
        begin(self, *arguments)
        loops.append(self)

    def counted(self: Any, now: float) -> None:
        begin_check(self, now)
        begun.append(len(loops[0]._timers))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(health._Loop, "__init__", noted)
        patch.setattr(health.Health, "_begin", counted)
        with checked(check) as container:
            until(lambda: len(begun) >= 150, "many checks", seconds=60)
            assert max(begun) < 100
            assert container.health == "healthy"


def test_without_anybody_looking_it_leaves_nothing(tmp_path: Path) -> None:
    with checked("true"):
        pass
    with nothing_left():
        for _ in range(5):
            with checked(pc.Healthcheck("sleep 1000", timeout=1000)):
                time.sleep(0.02)
