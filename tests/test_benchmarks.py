"""The benchmark harness: its statistics on made-up competitors, and the floor as a program."""

# ruff: noqa: E402 - the checkout, which holds `benchmarks`, is not on the path before the first statement.
from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import need

CHECKOUT = Path(__file__).parents[1]
sys.path.insert(0, str(CHECKOUT))

from benchmarks import harness, machine
from benchmarks.competitors import NAMES, competitor_class
from benchmarks.competitors.floor import compile_floor
from benchmarks.competitors.floor_settings import Settings
from benchmarks.harness import Result, Summary, Table, Target, Unavailable
from benchmarks.measures import life, network
from benchmarks.roots import HOST, make_busybox
from benchmarks.seccomp_filter import write as write_filter
from benchmarks.streams import PORT, Plain, compile_stream, send
from benchmarks.workers import Entry, field_of


def quick(turns: dict[str, harness.Turn], *, rounds: int, warmups: int = 1) -> dict[str, Result]:
    order = random.Random(7)
    return harness.measure(turns, rounds=rounds, warmups=warmups, order=order, sleep=lambda seconds: None)


def test_percentiles_lie_between_their_neighbours() -> None:
    figures = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert Summary.of(figures) == Summary(count=5, median=3.0, p10=1.4, p90=4.6)
    assert harness.percentile([1.0, 2.0], 50) == 1.5
    assert harness.percentile([7.0], 90) == 7.0
    with pytest.raises(ValueError, match="nothing"):
        Summary.of([])


def test_everybody_has_one_turn_in_each_round_and_warm_ups_do_not_count() -> None:
    turns: list[str] = []

    def competitor(name: str) -> harness.Turn:
        def turn() -> list[float]:
            turns.append(name)
            return [float(len(turns))] * 2

        return turn

    results = quick({name: competitor(name) for name in "abc"}, rounds=20, warmups=3)
    rounds = ["".join(turns[i : i + 3]) for i in range(0, len(turns), 3)]
    assert len(rounds) == 23
    assert all(sorted(one) == ["a", "b", "c"] for one in rounds)
    assert len(set(rounds)) > 1, "the order is the same in each round"
    assert all(len(results[name].figures) == 40 for name in "abc")
    assert min(min(result.figures) for result in results.values()) > 3 * 3


def test_who_fails_is_left_out_with_the_reason_and_the_others_go_on() -> None:
    tries: list[int] = []

    def failing() -> list[float]:
        tries.append(1)
        if len(tries) == 3:
            raise Unavailable("it broke")
        return [1.0]

    results = quick({"failing": failing, "good": lambda: [2.0]}, rounds=10)
    assert len(tries) == 3
    assert results["failing"].unavailable == "it broke"
    assert results["failing"].summary is None
    assert results["failing"].ratio(results["good"]) is None
    assert results["good"].ratio(results["failing"]) is None
    assert len(results["good"].figures) == 10


def test_ratios_are_of_medians() -> None:
    assert Result((2.0, 4.0, 60.0)).ratio(Result((2.0,))) == 2.0
    assert Result((2.0,)).ratio(None) is None


def test_targets() -> None:
    assert Target("t", 1.3, 1.3).reached is True
    assert Target("t", 1.3, 1.31).reached is False
    assert Target("t", 1.6, 1.5, at_least=True).reached is False
    assert str(Target("t", 1.3, None)) == "not measured: t"
    assert str(Target("t", 1.3, 2.0)) == "MISSED: t; measured 2.00"


def test_tables_are_aligned_and_valid_markdown() -> None:
    table = Table("n", "Title", ("", "ms", "remark"), (("one", "1.00", "a|b"), ("eleven", "11.00", "")))
    lines = table.as_text().splitlines()
    assert lines[2:] == [
        "           ms  remark",
        "------  -----  ------",
        "one      1.00  a|b",
        "eleven  11.00",
    ]
    assert "| one | 1.00 | a\\|b |" in table.as_markdown().splitlines()
    assert "| :-- | --: | :-- |" in table.as_markdown().splitlines()


def test_the_machine_is_described() -> None:
    described = machine.describe({"crun": "1.8"})
    line = machine.as_line(described)
    assert os.uname().release in line
    assert "crun 1.8" in line
    assert described["cores"] >= 1


@pytest.mark.parametrize("name", NAMES)
def test_every_competitor_says_what_it_does(name: str) -> None:
    competitor = competitor_class(name)
    assert competitor.name == name
    assert competitor.does
    assert set(competitor.roots) <= {"busybox", "host"}


def test_help_names_every_benchmark() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--help"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT / "src")},
        check=True,
    )
    for name in ("start", "exec", "memory", "threads", "many", "pull", "push", "life", "network"):
        assert re.search(rf"^ +{name} +\S", done.stdout, re.MULTILINE)


def test_what_life_asks_its_worker(tmp_path: Path) -> None:
    need(os.geteuid() == 0, "root")
    need(shutil.which("busybox") is not None, "busybox")
    root = make_busybox(tmp_path)
    with field_of([Entry("pycontainer", root, "pycontainer")], tmp_path) as field:
        assert not field.unavailable
        worker = field.ready["pycontainer"]
        for question in life.questions(["busybox"], 10, 500):
            figures = question.ready(worker)()
            assert len(figures) == 5 and min(figures) > 0, question.label
        crowd = worker.ask("life", what="crowd", count=6, threads=2, listed=3)
        assert crowd["alive"] == crowd["count"] == 6
        assert crowd["before"] == crowd["after"]
        assert crowd["during"]["processes"] >= crowd["before"]["processes"] + 12
        worker.ask("change", tar=str(root.tar))
        assert worker.ask("commit", reference="bench/changed:latest")[0] > 0


def test_the_targets_of_what_was_not_measured() -> None:
    nobody = {"unavailable": "no root"}
    asked = life.questions(["busybox", "host"], 10, 500)
    targets = [*life._targets(asked, {}, 10, 500), *life._crowd_targets(nobody)]
    assert [target.reached for target in targets] == [None] * len(targets)
    assert life._crowd_rows(nobody) == []


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need(shutil.which("cc") is not None, "a C compiler (cc)")
    return compile_stream(tmp_path_factory.mktemp("stream") / "stream")


def test_bytes_that_are_sent_arrive(stream: Path) -> None:
    need(os.geteuid() == 0, "root")
    need(shutil.which("ip") is not None, "ip (iproute2)")
    devices = sorted(os.listdir("/sys/class/net"))
    with contextlib.closing(Plain(stream)) as plain:
        assert plain.loopback(0.05) > 0
        assert plain.veth(0.05) > 0
        if shutil.which("docker-proxy") is not None:
            plain.start_proxy()
            assert plain.proxy(0.05) > 0
    assert sorted(os.listdir("/sys/class/net")) == devices
    with pytest.raises(Unavailable, match="refused"):
        send(stream, "127.0.0.1", PORT, 0.05)


def test_bytes_that_do_not_arrive_are_no_figure(stream: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def answer() -> None:
            connection = listener.accept()[0]
            with connection, connection.makefile("rb") as received:
                received.read()
                connection.sendall(bytes(8))

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(Unavailable, match="0 bytes of"):
            send(stream, "127.0.0.1", port, 0.01)
        thread.join()


def test_what_network_asks_its_worker(tmp_path: Path, stream: Path) -> None:
    need(os.geteuid() == 0, "root")
    need(shutil.which("busybox") is not None, "busybox")
    need(any(map(shutil.which, ("pasta", "slirp4netns"))), "pasta or slirp4netns")
    entries = [Entry("pycontainer", root, root.name) for root in (make_busybox(tmp_path), HOST)]
    with field_of(entries, tmp_path) as field:
        assert not field.unavailable
        worker = field.ready["busybox"]
        for published in (False, True):
            assert min(worker.ask("appear", published=published, times=2)) > 0
        worker.ask("network", what="receive", program=str(stream))
        for way in ("port", "connect"):
            assert worker.ask("network", what="carry", way=way, seconds=0.05) > 0
        crowd = field.ready["host"].ask("network", what="crowd", count=6, threads=2)
        assert crowd["names"] == crowd["addresses"] == crowd["count"] == 6
        assert 0 < crowd["start"] < crowd["resolved"]
        assert [target.text for target in network._crowd_targets(crowd) if not target.reached] == []


def test_the_targets_of_a_network_that_was_not_measured() -> None:
    nobody = {"unavailable": "no root"}
    targets = [
        *network._start_targets({}),
        *network._stream_targets({}),
        *network._crowd_targets(nobody),
    ]
    assert [target.reached for target in targets] == [None] * len(targets)
    (row,) = network._crowd_rows(nobody)
    assert "no root" in row[-1]


def test_the_targets_of_a_network() -> None:
    def figures(**medians: float) -> dict[str, Result]:
        return {getattr(network, name): Result((median,)) for name, median in medians.items()}

    starts = figures(ALONE=2.0, PUBLISHED=11.0) | {network._engine("docker"): Result((100.0,))}
    assert [target.measured for target in network._start_targets(starts)] == [9.0, None, 0.11]
    streams = figures(PORT=0.7, PROXY=1.0, VETH=1.0, CONNECT=2.0, LOOPBACK=2.0)
    assert [target.reached for target in network._stream_targets(streams)] == [False, True, True]
    assert network._baseline_of(network.LOOPBACK, streams) == 1.0
    assert network._baseline_of(network.PROXY, streams) == 0.7
    assert network._baseline_of(network.PORT, streams) is None
    assert (
        network._baseline_of(network._engine("docker"), {network._engine("docker"): Result((1.0,))}) is None
    )


@pytest.fixture(scope="module")
def floor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need(shutil.which("cc") is not None, "a C compiler (cc)")
    return compile_floor(tmp_path_factory.mktemp("floor") / "floor")


@pytest.fixture
def command(floor: Path, tmp_path: Path) -> Iterator[list[str]]:
    need(os.geteuid() == 0, "root")
    settings = Settings(f"floortest{os.getpid()}")
    program = write_filter(tmp_path / "filter")
    # It stands for the store, so it lies on the same file system: not every one is seen in a container.
    hidden = Path(os.environ["PYCONTAINER_STORE"]).with_name(f"floortest{os.getpid()}")
    hidden.mkdir(parents=True)
    try:
        yield [
            *(str(floor), "--lower", "/", "--filter", str(program)),
            *settings.root(HOST, hidden),
            *settings.options("test"),
        ]
    finally:
        settings.remove()
        hidden.rmdir()


@pytest.mark.cgroup
def test_the_floor_starts_three_containers(command: list[str]) -> None:
    """-Wall -Wextra -Werror are among the options that the harness compiles it with."""
    done = subprocess.run(
        [*command, "--count", "3", "--", "/bin/true"], capture_output=True, text=True, check=True, timeout=60
    )
    figures = [int(line) for line in done.stdout.splitlines()]
    assert len(figures) == 3
    assert all(0 < nanoseconds < 60e9 for nanoseconds in figures)


@pytest.mark.cgroup
def test_the_floor_starts_one_for_each_line(command: list[str]) -> None:
    done = subprocess.run(
        [*command, "--", "/bin/true"], input="\n\n", capture_output=True, text=True, check=True, timeout=60
    )
    assert len(done.stdout.splitlines()) == 2


@pytest.mark.cgroup
def test_a_failing_program_is_the_floors_failure(command: list[str]) -> None:
    done = subprocess.run(
        [*command, "--count", "1", "--", "/bin/false"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "status" in done.stderr


@pytest.mark.cgroup
def test_the_floors_container_is_pycontainers(command: list[str]) -> None:
    """What is faster must not be so because it does less, nor slower because it does more."""
    import pycontainer as pc

    # The mounts of a container, its credentials and limits, as far as they do not name one container.
    look = [
        "/bin/sh",
        "-c",
        "cut -d' ' -f4-6,9- /proc/self/mountinfo | sed 's/lowerdir=.*//';"
        "grep -E '^(Cap|NoNewPrivs|Seccomp|Groups|Uid|Gid|Umask|SigBlk|SigIgn|SigCgt)' /proc/self/status;"
        "cut -d: -f2 /proc/self/cgroup; ls -l /dev /dev/pts | grep -v ^total | tr -s ' ' | cut -d' ' -f1-6;"
        "readlink /proc/self/fd/0; cat /sys/class/net/*/flags /proc/1/comm > /dev/null; ulimit -a",
    ]
    done = subprocess.run(
        [*command, "--count", "1", "--", *look], capture_output=True, text=True, check=True, timeout=60
    )
    ours = pc.run("host", look, memory=256 << 20, pids=4096, capture_output=True, text=True, check=True)
    # The floor's last line is its own: the time.
    floors = [_neutral(line) for line in done.stdout.splitlines()[:-1]]
    assert floors == [_neutral(line) for line in ours.stdout.splitlines()]
    assert len(floors) > 40


def _neutral(line: str) -> str:
    """Without the name of the directory that is hidden: the store, or what stands for it; and without the C
    library's own two signals, 32 and 33, which Python 3.13 leaves ignored in what it starts."""
    if line.startswith("SigIgn:"):
        return f"SigIgn: {int(line.split()[1], 16) & ~(3 << 31):x}"
    return re.sub(r"^/empty \S+( ro,nosuid,nodev,relatime tmpfs )", r"/empty HIDDEN\1", line)
