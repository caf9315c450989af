"""Several processes pull one image into one store: each blob comes once, and a killed one harms nobody."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import images_made
from fault_registry import FaultRegistry
from pycontainer.distribution.client import Client
from pycontainer.image import Image
from pycontainer.oci.reference import Reference
from pycontainer.store import Store
from pycontainer.transfer.pull import pull
from registry_faults import Slow

ENV = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
NAME = "team/app"
PULL = """
import sys
from pycontainer.distribution.client import Client
from pycontainer.image import Image
from pycontainer.oci.reference import Reference
from pycontainer.store import Store
from pycontainer.transfer.pull import pull
host, path = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
with Store(path) as store, Client(host) as client:
    made = pull(store, client, Reference.complete(host + "/team/app:1"))
    print(made.entry.manifest.digest, flush=True)
"""


@pytest.fixture
def registry() -> Iterator[FaultRegistry]:
    with FaultRegistry() as running:
        yield running


@contextmanager
def pullers(registry: FaultRegistry, store: Path, count: int) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that are about to pull, and start when they are told to."""
    command = [sys.executable, "-W", "error", "-c", PULL, registry.host, str(store)]
    started = [
        subprocess.Popen(
            command,
            env=ENV,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(count)
    ]
    try:
        for one in started:
            assert one.stdout is not None and one.stdout.readline() == "ready\n"
        yield started
    finally:
        for one in started:
            one.kill()
            one.communicate()


def go(processes: list[subprocess.Popen[str]]) -> None:
    for one in processes:
        assert one.stdin is not None
        one.stdin.write("\n")
        one.stdin.flush()


def is_clean(store: Store) -> bool:
    """Nothing half-made: neither files nor layers nor locks."""
    layers = [name for name in os.listdir(store.layers.root) if "." in name]
    return os.listdir(store.layout.staging) == layers == []


def test_each_blob_crosses_the_network_once(registry: FaultRegistry, tmp_path: Path) -> None:
    image = images_made.many_layers(20, 20_000, compression=["gzip", "zstd"] * 10)
    registry.put(NAME, "1", image)
    with pullers(registry, tmp_path / "store", 8) as processes:
        go(processes)
        for one in processes:
            out, errors = one.communicate(timeout=60)
            assert (one.returncode, out) == (0, image.digest + "\n"), errors
    asked = sorted(request.path[-71:] for request in registry.requests("GET", "/blobs/"))
    assert asked == sorted(image.blobs)
    with Store(tmp_path / "store") as store:
        assert is_clean(store) and store.check() == []
        assert len(store.layers.chains()) == 20 and len(Image.list(store=store)) == 1


def test_the_others_finish_when_one_is_killed(registry: FaultRegistry, tmp_path: Path) -> None:
    """What the dead one was fetching is begun anew by one of the others, and nothing else."""
    image = images_made.many_layers(12, 200_000, compression=None)
    registry.put(NAME, "1", image)
    fault = registry.fault(Slow(2_000_000), path="/blobs/", after=1, times=None)
    with pullers(registry, tmp_path / "store", 4) as processes:
        go(processes)
        assert fault.hit.wait(30)
        time.sleep(0.1)
        processes[random.randrange(4)].kill()
        codes = []
        for one in processes:
            _, errors = one.communicate(timeout=60)
            codes.append(one.returncode)
            assert one.returncode in (0, -signal.SIGKILL), errors
    assert codes.count(0) == 3
    assert len(image.blobs) <= registry.count("GET", "/blobs/") <= len(image.blobs) + 3
    with Store(tmp_path / "store") as store:
        assert is_clean(store) and store.check() == []
        assert len(store.layers.chains()) == 12


def test_killed_at_any_moment(registry: FaultRegistry, tmp_path: Path) -> None:
    """The next who opens the store finds nothing half-made, and pulls the rest."""
    image = images_made.many_layers(6, 400_000)
    registry.put(NAME, "1", image)
    # Nobody who begins with nothing is through before he is killed.
    registry.fault(Slow(8_000), path="/blobs/", times=None)
    path = tmp_path / "store"
    ends = set()
    for number in range(12):
        with pullers(registry, path, 1) as (one,):
            go([one])
            time.sleep(random.uniform(0, 0.25))
            one.kill()
            one.wait()
            ends.add(one.returncode)
        started = time.monotonic()
        with Store(path) as store:
            assert time.monotonic() - started < 1
            assert is_clean(store) and store.check() == [], number
            if number % 4 == 3:
                with Client(registry.host) as client:
                    made = pull(store, client, Reference.complete(f"{registry.host}/{NAME}:1"))
                found = Image(store, made.entry, made)
                assert found.digest == image.digest and len(store.layers.chains()) == 6
                found.remove()
                del made, found
                store.prune()
                assert store.layers.chains() == [] and list(store.layout.blobs.names()) == []
    assert -signal.SIGKILL in ends
