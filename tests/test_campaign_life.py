"""SIGKILL of the host at any moment of a container's life, and eight processes that live on one store while
they are killed at random.

A process forks a child for each attempt; the child kills itself at the n-th change of the file system that
the interpreter's audit events tell of, or is killed after a time, since most is done by others: its
supervisor, and the containers' own processes.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

import host_process
import pycontainer as pc
import shell_root
from conftest import need

SERVER = """
import contextlib, itertools, os, signal, sys, time, traceback
import pycontainer as pc
from pycontainer import session
import pycontainer.changes, pycontainer.committing, pycontainer.files.copy, pycontainer.filling, sqlite3
import pycontainer.store.check, pycontainer.store.collect, pycontainer.templates, pycontainer.volume

CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.link", "sqlite3.connect",
           "fcntl.flock", "open"}
SLEEP = ["sleep", "1000"]

def image():
    return pc.Image.get("base:1")

def made(base=image, **options):
    return base().create(SLEEP, stop_timeout=20, **options)

def changed(base=image):
    container = made(base)
    container.path("/tmp/changed").write_bytes(bytes(300_000))
    return container

def copied(container):
    container.copy_in(os.environ["TREE"], "/tmp/tree")
    if not container.path("/tmp/tree").exists():
        raise SystemExit("nothing was copied")

def filled(_):
    volume = pc.Volume.get("data") if any(v.name == "data" for v in pc.Volume.list()) else \\
        pc.Volume.create("data")
    container = made(mounts=[volume.at("/seed")]).start()
    done = container.exec(["sh", "-c", "ls /seed | wc -l"], capture_output=True, text=True, check=True)
    if done.stdout.strip() != "40":
        raise SystemExit(f"the volume holds {done.stdout.strip()} files")

def committed(container):
    if pc.Image.get(container.commit("made:1").id).tags != ["made:1"]:
        raise SystemExit("not committed")

def executed(container):
    container.exec(["true"], check=True)

# What comes before the step that is broken off, and the step.
STEPS = {
    "create": (lambda: None, lambda _: made()),
    "start": (made, lambda container: container.start()),
    "start on the host image": (lambda: made(pc.Image.host), lambda container: container.start()),
    "exec": (lambda: made().start(), executed),
    "stop": (lambda: made().start(), lambda container: container.stop()),
    "commit": (changed, committed),
    "seal": (lambda: changed().start(), lambda container: container.seal()),
    "fork": (lambda: changed().seal(), lambda template: template.fork()),
    "fork on the host image": (lambda: changed(pc.Image.host).seal(), lambda template: template.fork()),
    "remove": (lambda: changed().start(), lambda container: container.remove(force=True)),
    "copy_in": (made, copied),
    "volume": (lambda: None, filled),
}

def run(step, place, point):
    session.current()
    before, broken_off = STEPS[step]
    subject = before()
    count = itertools.count()
    def trap(event, args):
        if event in CHANGES and (event != "open" or str(args[0]).startswith(place)):
            if next(count) == point:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(trap)
    print("armed", session.current().supervisor.pid, flush=True)
    began = time.monotonic()
    if point < 0:
        signal.setitimer(signal.ITIMER_REAL, -point / 1e6)
    outcome = broken_off(subject)
    signal.setitimer(signal.ITIMER_REAL, 0)
    print("passed", next(count), int((time.monotonic() - began) * 1e6), flush=True)

def again(step, place):
    # As the next process finds it.
    began = time.monotonic()
    store = pc.Store.default()
    session.current()
    took = time.monotonic() - began
    while left := os.listdir(place + "/containers"):
        if time.monotonic() > began + 1:
            raise SystemExit(f"left: {left}")
        time.sleep(0.005)
    left = os.listdir(place + "/staging") + os.listdir(place + "/mounts")
    left += [name for name in os.listdir(place + "/layers") if "." in name]
    if left or store.check():
        raise SystemExit(f"left: {left} {store.check()}")
    gone = time.monotonic() - began
    before, broken_off = STEPS[step]
    broken_off(before())
    if problems := store.check():
        raise SystemExit(f"afterwards: {problems}")
    for container in pc.Container.list(all=True):
        container.remove(force=True)
    for volume in pc.Volume.list():
        volume.remove()
    print("again", int(took * 1e6), int(gone * 1e6), flush=True)

for line in sys.stdin:
    step, place, point = line.rstrip("\\n").split("\\t")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.environ["PYCONTAINER_STORE"] = place
            if point == "again":
                again(step, place)
            else:
                run(step, place, int(point))
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    print("ended", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
STEPS = (
    "create",
    "start",
    "start on the host image",
    "exec",
    "stop",
    "commit",
    "seal",
    "fork",
    "fork on the host image",
    "remove",
    "copy_in",
    "volume",
)
NEVER = 10**9
# A timer's signal ends the child as abruptly.
KILLED = (-signal.SIGKILL, -signal.SIGALRM)
POINTS = int(os.environ.get("PYCONTAINER_CAMPAIGN_POINTS", "2"))
TIMES = int(os.environ.get("PYCONTAINER_CAMPAIGN_TIMES", "4"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with an image, "base:1"."""
    base = tmp_path_factory.mktemp("life")
    root = shell_root.make(base / "root")
    for directory, count in ((root / "seed", 40), (base / "tree", 30)):
        directory.mkdir()
        for number in range(count):
            (directory / str(number)).write_bytes(os.urandom(5_000))
    with pc.Store(base / "store") as store:
        pc.Image.from_directory(root, tag="base:1", store=store)
    return base / "store"


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[subprocess.Popen[str]]:
    variables = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "TREE": str(place.with_name("tree")),
        "PYCONTAINER_STORE": str(place),
    }
    with subprocess.Popen(
        [sys.executable, "-c", SERVER],
        env=variables,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


@attrs.define
class Campaign:
    server: subprocess.Popen[str]
    place: Path
    step: str

    def ask(self, point: int | str) -> tuple[int, dict[str, list[int]], host_process.Traces | None]:
        """The child's status, what it said, and what it had outside of itself when it was killed."""
        assert self.server.stdin is not None and self.server.stdout is not None
        self.server.stdin.write(f"{self.step}\t{self.place}\t{point}\n")
        self.server.stdin.flush()
        said: dict[str, list[int]] = {}
        while "ended" not in said:
            word, *numbers = self.server.stdout.readline().split()
            said[word] = [int(number) for number in numbers]
        (supervisor,) = said.get("armed", [None])
        traces = None if supervisor is None else host_process.Traces(self.place, supervisor=supervisor)
        return said["ended"][0], said, traces

    def recover(self, traces: host_process.Traces | None) -> float:
        """What the next process finds; the seconds until nothing of the dead one was left."""
        began = time.monotonic()
        status, said, _ = self.ask("again")
        assert status == 0
        opened, clean = said["again"]
        assert opened < 1e6, opened
        if traces is not None:
            traces.await_nothing(max(0.0, began + 1.0 - time.monotonic()), hosts=False)
        return clean / 1e6


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_moment_of_a_life(server: subprocess.Popen[str], place: Path, step: str) -> None:
    campaign = Campaign(server, place, step)
    status, said, traces = campaign.ask(NEVER)
    assert status == 0
    campaign.recover(traces)
    points, took = said["passed"]
    chance = random.Random()
    moments = chance.sample(range(points), min(points, POINTS))
    moments += [-chance.randint(1, max(2, took)) for _ in range(TIMES)]
    killed, slowest = 0, 0.0
    for moment in moments:
        status, _, traces = campaign.ask(moment)
        assert status in (0, *KILLED), moment
        killed += status in KILLED
        slowest = max(slowest, campaign.recover(traces))
    assert killed >= len(moments) // 3
    # For docs/reliability.md; shown by pytest -rP.
    print(f"{step}: {killed} of {len(moments)} killed, slowest recovery {slowest * 1000:.0f} ms")


WORKER = """
import os, random, sys, time
import pycontainer as pc

def changed(store):
    with pc.Image.get("base:1", store=store).create(["sleep", "1000"]) as container:
        container.path("/tmp/changed").write_bytes(os.urandom(2_000))
        yield container

def create(store):
    for container in changed(store):
        assert container.status == "created"

def start(store):
    for container in changed(store):
        assert container.start().exec(["cat", "/tmp/changed"], capture_output=True).returncode == 0

def commit(store):
    for container in changed(store):
        container.commit(random.choice(NAMES))

def fork(store):
    for container in changed(store):
        with container.seal() as template, template.fork() as made:
            assert made.exec(["ls", "/tmp/changed"], capture_output=True).returncode == 0

def remove(store):
    try:
        pc.Image.get(random.choice(NAMES), store=store).remove(force=True)
    except pc.ImageNotFound:
        pass

def prune(store):
    store.prune()

NAMES = [f"made:{number}" for number in range(4)]
VERBS = [create, start, commit, fork, remove, prune]
store = pc.Store.default()
end = time.monotonic() + float(sys.argv[1])
number = 0
while time.monotonic() < end:
    # Everybody does everything, each in an order of its own.
    if number % len(VERBS) == 0:
        random.shuffle(VERBS)
    verb = VERBS[number % len(VERBS)]
    began = time.monotonic()
    verb(store)
    os.write(1, f"{verb.__name__} {int((time.monotonic() - began) * 1e6)}\\n".encode())
    number += 1
"""
WORKERS = 8
SECONDS = float(os.environ.get("PYCONTAINER_CAMPAIGN_SECONDS", "6"))
STARVED = 5.0
"""Seconds that no single verb takes, whoever else is at it."""


def test_eight_processes_on_one_store(place: Path, tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYCONTAINER_STORE": str(place)}
    chance, until = random.Random(), time.monotonic() + SECONDS

    def work(number: int) -> subprocess.Popen[bytes]:
        seconds = str(max(0.1, until - time.monotonic()))
        with (
            (tmp_path / f"out{number}").open("wb") as out,
            (tmp_path / f"errors{number}").open("wb") as errors,
        ):
            return subprocess.Popen(
                [sys.executable, "-W", "error", str(script), seconds],
                env=variables,
                stdout=out,
                stderr=errors,
            )

    everybody = [work(number) for number in range(WORKERS)]
    working = list(everybody)
    while time.monotonic() < until:
        time.sleep(chance.uniform(0.05, 0.4))
        place_of_one = chance.randrange(WORKERS)
        working[place_of_one].kill()
        working[place_of_one] = work(len(everybody))
        everybody.append(working[place_of_one])
    statuses = [one.wait(60) for one in everybody]
    complaints = [
        text for number in range(len(everybody)) if (text := (tmp_path / f"errors{number}").read_text())
    ]
    assert not complaints, complaints[0]
    assert set(statuses) <= {0, -signal.SIGKILL}, statuses
    counts, longest = Counter[str](), 0
    for number in range(len(everybody)):
        for line in (tmp_path / f"out{number}").read_text().splitlines():
            verb, took = line.split()
            counts[verb] += 1
            longest = max(longest, int(took))
    assert len(counts) == 6 and min(counts.values()) >= 3, counts
    assert longest < STARVED * 1e6, longest
    with pc.Store(place) as store:
        assert store.check() == []
        for image in pc.Image.list(store=store):
            if image.tags != ["base:1"]:
                image.remove(force=True)
        store.prune()
        assert store.check() == []
        # The base image's config and manifest, its one layer.
        assert len(list(store.layout.blobs.names())) == 3
        assert len(os.listdir(store.layers.root)) == 1
    for part in ("containers", "mounts", "staging"):
        host_process.eventually(lambda part=part: not os.listdir(place / part), 2.0, f"nothing in {part}")
    killed = statuses.count(-signal.SIGKILL)
    print(f"{sum(counts.values())} verbs, {killed} killed, longest {longest / 1000:.0f} ms: {dict(counts)}")


CROWD = """
number=0
while [ $number -lt 5000 ]; do sleep 1000 & number=$((number + 1)); done
echo done
wait
"""


def test_five_thousand_children(place: Path) -> None:
    """They are all there at once, and killed at once."""
    need(int(Path("/proc/sys/kernel/pid_max").read_text()) > 10_000, "room for 5,000 processes")
    with pc.Store(place) as store:
        image = pc.Image.get("base:1", store=store)
        with image.start(["sh", "-c", CROWD], pids=6_000, log="memory") as container:
            host_process.eventually(lambda: b"done" in container.logs().read(), 60, "5,000 children")
            crowd = len(host_process.family(container.pid or 0))
            began = time.monotonic()
            container.kill()
            ended = time.monotonic() - began
            assert container.wait(30).cause == "signaled"
        assert crowd > 5_000 and ended < 1, (crowd, ended)
    print(f"{crowd} processes killed in {ended * 1000:.0f} ms")
