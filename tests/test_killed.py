"""SIGKILL in the midst of pull, push, load, save, mount, remove and prune: nothing half-done is left.

A process forks a child for each attempt; the child kills itself at the n-th change of the file system
or connection that the interpreter's audit events tell of, or is killed after a time.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import pytest

import host_process
import images_made
import pycontainer as pc
from fault_registry import FaultRegistry
from registry_faults import Slow

ENV = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "HOME": "/nonexistent"}
SERVER = """
import itertools, os, signal, sys, traceback
import pycontainer as pc
import pycontainer.archive.export, pycontainer.archive.load, pycontainer.archive.save, sqlite3
import pycontainer.distribution.client, pycontainer.snapshot.mounted, pycontainer.transfer.clients
import pycontainer.layer.compress, pycontainer.store.check, pycontainer.store.collect
import pycontainer.transfer.pull, pycontainer.transfer.push, pycontainer.supervisor.files

def run(step, place, ref, point):
    count = itertools.count()
    def trap(event, args):
        named = event == "open" and str(args[0]).startswith(place)
        if named or event in CHANGES:
            if next(count) == point:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(trap)
    if point < 0:
        signal.setitimer(signal.ITIMER_REAL, -point / 1000)
    with pc.Store(place + "/store") as store:
        STEPS[step](store, place, ref)
    # What is said of it is not cut short.
    signal.setitimer(signal.ITIMER_REAL, 0)
    return next(count)

CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.link", "sqlite3.connect",
           "fcntl.flock", "socket.connect"}

def mount(store, place, ref):
    with pc.Image.get("two:1", store=store).mount() as path:
        os.listdir(path)

STEPS = {
    "pull": lambda store, place, ref: pc.pull(ref, store=store),
    "push": lambda store, place, ref: pc.Image.get("own:1", store=store).push(ref),
    "load": lambda store, place, ref: pc.Image.load(place + "/archive", store=store),
    "save": lambda store, place, ref: pc.Image.get("two:1", store=store).save(place + "/out/saved"),
    "save oci": lambda store, place, ref: pc.Image.get("two:1", store=store).save(
        place + "/out/saved", "oci"
    ),
    "mount": mount,
    "remove": lambda store, place, ref: pc.Image.get("two:1", store=store).remove(),
    "prune": lambda store, place, ref: (pc.Image.get("two:1", store=store).untag("two:1"), store.prune()),
}
for line in sys.stdin:
    step, place, ref, point = line.rstrip("\\n").split("\\t")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            print("passed", run(step, place, ref, int(point)), flush=True)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    print("ended", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
STEPS = ["pull", "push", "load", "save", "save oci", "mount", "remove", "prune"]
NEVER = 10**9
# A timer's signal ends the child as abruptly.
KILLED = (-signal.SIGKILL, -signal.SIGALRM)
POINTS, TIMES = 8, 3


@pytest.fixture(scope="module")
def server() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", SERVER]
    with subprocess.Popen(
        command, env=ENV, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture(scope="module")
def registry() -> Iterator[FaultRegistry]:
    """Slow, so that there is time to be killed in."""
    with FaultRegistry() as running:
        running.put("team/app", "1", images_made.many_layers(4, 50_000))
        running.fault(Slow(3_000_000), path="/blobs/", times=None)
        yield running


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with "two:1", which shares layers with "kept:1", and "own:1"; an archive of another image."""
    place = tmp_path_factory.mktemp("template")
    (place / "out").mkdir()
    (place / "tree").mkdir()
    (place / "tree/file").write_bytes(random.Random(1).randbytes(300_000))
    two = images_made.many_layers(3, 40_000)
    kept = images_made.Image.make(two.diffs[:2])
    with FaultRegistry() as registry, pc.Store(place / "store") as store, pc.Store(place / "other") as other:
        for name, image in (("two", two), ("kept", kept)):
            registry.put(f"team/{name}", "1", image)
            pulled = pc.pull(f"{registry.host}/team/{name}:1", store=store)
            pulled.tag(f"{name}:1")
            pulled.untag(f"{registry.host}/team/{name}:1")
        pc.Image.from_directory(place / "tree", tag="own:1", store=store)
        registry.put("team/new", "1", images_made.many_layers(4, 30_000, compression="zstd"))
        new = pc.pull(f"{registry.host}/team/new:1", store=other)
        new.tag("new:1")
        new.untag(f"{registry.host}/team/new:1")
        new.save(place / "archive")
    shutil.rmtree(place / "other")
    return place


@attrs.define
class Campaign:
    """One step, tried again and again from the same beginning."""

    server: subprocess.Popen[str]
    registry: FaultRegistry
    template: Path
    place: Path
    step: str

    @property
    def ref(self) -> str:
        return f"{self.registry.host}/team/{'pushed' if self.step == 'push' else 'app'}:1"

    def run(self, point: int) -> tuple[int, int | None]:
        """The child's status, and how many points it has passed where it came to its end."""
        shutil.rmtree(self.place, ignore_errors=True)
        shutil.copytree(self.template, self.place)
        self.registry.repositories.pop("team/pushed", None)
        assert self.server.stdin is not None and self.server.stdout is not None
        self.server.stdin.write("\t".join([self.step, str(self.place), self.ref, str(point)]) + "\n")
        self.server.stdin.flush()
        passed = None
        while True:
            word, number = self.server.stdout.readline().split()
            if word == "ended":
                return int(number), passed
            passed = int(number)

    @contextmanager
    def opened(self) -> Iterator[pc.Store]:
        """The store as the next process finds it, within a second."""
        started = time.monotonic()
        with pc.Store(self.place / "store") as store:
            took = time.monotonic() - started
            assert took < 1, took
            yield store


def left(store: pc.Store) -> list[str]:
    """What is half-made."""
    place = Path(store.path)
    found = [str(path) for name in ("containers", "mounts") for path in (place / name).glob("*")]
    found += [name for name in os.listdir(store.layers.root) if "." in name]
    found += os.listdir(store.layout.staging)
    return [*found, *(point for point in host_process.mounts() if point.startswith(str(place)))]


def again(campaign: Campaign, store: pc.Store) -> None:
    """The same step, which succeeds now and gives what it would have given."""
    step, place = campaign.step, campaign.place
    if step == "pull":
        assert len(pc.pull(campaign.ref, store=store).layers) == 4
    elif step == "load":
        (image,) = pc.Image.load(place / "archive", store=store)
        assert image.tags == ["new:1"] and len(image.layers) == 4
    elif step == "push":
        there = pc.Image.get("own:1", store=store).push(campaign.ref)
        kept = campaign.registry.repositories["team/pushed"]
        assert kept.tags == {"1": there.digest}
    elif step.startswith("save"):
        with pc.Store(place / "fresh") as fresh:
            saved = place / "out/saved"
            if saved.is_file() or (saved / "index.json").exists():
                # Whole, or with nothing in it yet.
                whole = saved.is_file() or b'"manifests":[]' not in (saved / "index.json").read_bytes()
                assert not whole or [one.tags for one in pc.Image.load(saved, store=fresh)] == [["two:1"]]
            image = pc.Image.get("two:1", store=store)
            image.save(saved, "oci" if step == "save oci" else "oci-archive")
            assert pc.Image.load(saved, store=fresh) == [image]
        assert [path for path in (place / "out").rglob("*") if path.name.startswith(".")] == []
    elif step == "mount":
        with pc.Image.get("two:1", store=store).mount() as path:
            assert len(os.listdir(path)) == 4
    else:
        if "two:1" in [tag for image in pc.Image.list(store=store) for tag in image.tags]:
            pc.Image.get("two:1", store=store).remove()
        store.prune()
        assert [image.tags for image in pc.Image.list(store=store)].count(["kept:1"]) == 1
        # Two configs, manifests of "kept:1" and "own:1", and their layers.
        assert len(list(store.layout.blobs.names())) == 2 + 2 + 2 + 1


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_moment(
    server: subprocess.Popen[str], registry: FaultRegistry, template: Path, tmp_path: Path, step: str
) -> None:
    campaign = Campaign(server, registry, template, tmp_path / "place", step)
    began = time.monotonic()
    status, points = campaign.run(NEVER)
    took = int((time.monotonic() - began) * 1000)
    assert status == 0 and points is not None and points > 3
    chance = random.Random()
    moments = chance.sample(range(points), min(points, POINTS))
    moments += [-chance.randint(1, max(2, took)) for _ in range(TIMES)]
    killed = 0
    for moment in moments:
        status, _ = campaign.run(moment)
        assert status in (0, *KILLED), moment
        killed += status in KILLED
        with campaign.opened() as store:
            # The dead one's supervisor may be at it still.
            host_process.eventually(lambda store=store: not left(store), 1.0, f"nothing left, {moment}")
            assert store.check() == [], moment
            again(campaign, store)
            assert left(store) == [] and store.check() == [], moment
    assert killed >= POINTS // 2
