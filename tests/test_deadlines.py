"""`timeout=` of whole transfers: time runs out, everything has ended, and the next attempt goes on."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import images_made
import pycontainer as pc
from fault_registry import FaultRegistry
from pycontainer.oci.digest import Digest
from registry_faults import Redirect, Slow, SlowUpload, Stall, Status

SECONDS = 0.4
LATE = 8.0
"""Seconds beyond that which a busy machine is given; what hangs would take 30."""


@pytest.fixture
def registry() -> Iterator[FaultRegistry]:
    with FaultRegistry() as running:
        yield running


@pytest.fixture
def store(tmp_path: Path) -> Iterator[pc.Store]:
    with pc.Store(tmp_path / "store") as store:
        yield store
        assert store.check() == []
        assert os.listdir(store.layout.staging) == []


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("pycontainer")]


def runs_out(call: Callable[[], object], *words: str) -> None:
    """`call`, which is given SECONDS, comes to no end, and has ended all that it began."""
    before = threads()
    began = time.monotonic()
    with pytest.raises(pc.Timeout) as caught:
        call()
    took = time.monotonic() - began
    assert threads() == before
    assert SECONDS <= took < SECONDS + LATE
    assert caught.value.timeout == SECONDS
    assert caught.value.result.cause == "timeout"
    assert caught.value.result.args == words
    assert (caught.value.output, caught.value.stderr) == (b"", b"")
    assert SECONDS <= caught.value.result.usage.wall <= took


def test_a_run_that_has_to_pull(registry: FaultRegistry, store: pc.Store) -> None:
    registry.put("team/app", "1", images_made.many_layers(1, 1000, compression=None))
    registry.fault(Stall(), path="/blobs/", times=None)
    name = f"{registry.host}/team/app:1"
    runs_out(lambda: pc.run(name, ["true"], timeout=SECONDS, store=store), "true")
    runs_out(lambda: pc.create(name, timeout=SECONDS, store=store), "create", name)
    runs_out(lambda: pc.start(name, ["true"], timeout=SECONDS, pull="always", store=store), "start", name)


@pytest.mark.parametrize("when", ["resolve", "config", "layers", "drip", "again"])
def test_pull(registry: FaultRegistry, store: pc.Store, when: str) -> None:
    registry.put("team/app", "1", images_made.many_layers(6, 500_000, compression=None))
    faults = {
        "resolve": lambda: registry.fault(Stall(), path="/manifests/"),
        "config": lambda: registry.fault(Stall(), path="/blobs/"),
        "layers": lambda: registry.fault(Stall(after_bytes=100_000), path="/blobs/", after=1, times=None),
        "drip": lambda: registry.fault(Slow(100_000), path="/blobs/", after=1, times=None),
        "again": lambda: registry.fault(Status(429, headers={"Retry-After": "20"}), times=None),
    }
    name = f"{registry.host}/team/app:1"
    fault = faults[when]()
    runs_out(lambda: pc.pull(name, timeout=SECONDS, store=store), "pull", name)
    fault.stop()
    assert pc.Image.list(store=store) == []
    assert pc.Image.pull(name, timeout=60, store=store).tags == [name]


@pytest.fixture
def image(store: pc.Store, tmp_path: Path) -> pc.Image:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/data").write_bytes(os.urandom(3_000_000))
    return pc.Image.from_directory(tmp_path / "tree", store=store)


@pytest.mark.parametrize("when", ["HEAD", "POST", "PATCH", "PUT", "manifest", "drip"])
def test_push(registry: FaultRegistry, image: pc.Image, when: str) -> None:
    name = f"{registry.host}/team/app:1"
    if when == "drip":
        fault = registry.fault(SlowUpload(100_000), method="PATCH|PUT", times=None)
    elif when == "manifest":
        fault = registry.fault(Stall(), method="PUT", path="/manifests/")
    else:
        fault = registry.fault(Stall(), method="PATCH|PUT" if when == "PATCH" else when, times=None)
    runs_out(lambda: image.push(name, timeout=SECONDS), "push", name)
    fault.stop()
    image.push(name, timeout=60)


def test_a_repository(registry: FaultRegistry, store: pc.Store, image: pc.Image) -> None:
    """Its registry's other users, and its own next calls, are not harmed."""
    with pc.Registry(registry.host) as reg:
        app, other = reg.repository("team/app"), reg.repository("team/other")
        app.push(image, "1")
        words = f"{registry.host}/team/app:1"
        fault = registry.fault(Stall(), path="/team/", times=None)
        runs_out(lambda: app.push(image, "1", timeout=SECONDS), "push", words)
        runs_out(lambda: app.pull("1", timeout=SECONDS, store=store), "pull", words)
        runs_out(lambda: app.copy("1", other, timeout=SECONDS), "copy", words)
        fault.stop()
        assert app.copy("1", other, timeout=60) == app.resolve("1")
        with pc.Store(Path(store.path).parent / "second") as second:
            assert other.pull("1", timeout=60, store=second).config == image.config


def test_a_token_server_that_stalls(store: pc.Store) -> None:
    with FaultRegistry(auth="bearer") as registry:
        registry.put_image("team/app", "1", [images_made.layer({"a": b"a"})])
        fault = registry.tokens.fault(Stall(), times=None)
        name = f"{registry.host}/team/app:1"
        me = ("user", "secret")
        runs_out(lambda: pc.pull(name, auth=me, timeout=SECONDS, store=store), "pull", name)
        fault.stop()
        pc.pull(name, auth=me, timeout=60, store=store)


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def unreachable() -> Iterator[str]:
    """A port that nobody gets through to: its queue is full, and what else comes is dropped."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        with socket.create_connection(address):
            with pytest.raises(TimeoutError):
                socket.create_connection(address, timeout=0.2)
            yield f"127.0.0.1:{address[1]}"


@pytest.mark.parametrize("insecure", [None, True, False])
@pytest.mark.parametrize("kind", ["silent", "unreachable"])
def test_nobody_there(
    request: pytest.FixtureRequest, store: pc.Store, kind: str, insecure: bool | None
) -> None:
    """While it is found out whether TLS is spoken, or at its handshake."""
    host = request.getfixturevalue(kind)
    with pc.Registry(host, insecure=insecure) as registry:
        app = registry.repository("team/app")
        runs_out(lambda: app.pull("1", timeout=SECONDS, store=store), "pull", f"{host}/team/app:1")


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("kind", ["silent", "unreachable"])
def test_storage_that_does_not_answer(
    request: pytest.FixtureRequest, registry: FaultRegistry, store: pc.Store, kind: str, scheme: str
) -> None:
    """The registry sends on to it: the crew's threads are making connections then."""
    storage = request.getfixturevalue(kind)
    registry.put("team/app", "1", images_made.many_layers(6))
    fault = registry.fault(
        Redirect(f"{scheme}://{storage}/x"), method="GET", path="/blobs/", after=1, times=None
    )
    name = f"{registry.host}/team/app:1"
    runs_out(lambda: pc.pull(name, timeout=SECONDS, store=store), "pull", name)
    fault.stop()
    pc.pull(name, timeout=60, store=store)


@pytest.mark.parametrize("kind", ["silent", "unreachable"])
def test_uploads_that_are_sent_on_to_nobody(
    request: pytest.FixtureRequest, registry: FaultRegistry, image: pc.Image, kind: str
) -> None:
    storage = request.getfixturevalue(kind)
    registry.fault(Redirect(f"http://{storage}/x"), method="PATCH|PUT", path="/blobs/", times=None)
    name = f"{registry.host}/team/app:1"
    runs_out(lambda: image.push(name, timeout=SECONDS), "push", name)


def test_another_process_that_fetches_the_same(registry: FaultRegistry, store: pc.Store) -> None:
    """Its locks are waited for, no longer than there is time."""
    made = registry.put_image("team/app", "1", [images_made.layer({"a": b"a"})])
    name = f"{registry.host}/team/app:1"
    for digest in (made.config_digest, made.layer_digests[0]):
        with store.layout.blobs.lock(Digest(digest), time.sleep) as lock:
            runs_out(lambda: pc.pull(name, timeout=SECONDS, store=store), "pull", name)
            lock.unlink()
    with store._exclusive(0):
        runs_out(lambda: pc.pull(name, timeout=SECONDS, store=store), "pull", name)
    pc.pull(name, timeout=60, store=store)


def test_what_fails_in_time_is_told(registry: FaultRegistry, store: pc.Store) -> None:
    with pytest.raises(pc.NotFound):
        pc.pull(f"{registry.host}/team/none", timeout=60, store=store)


@pytest.mark.parametrize("timeout", [-1, "soon", float("nan"), True])
def test_what_is_no_time(store: pc.Store, timeout: float) -> None:
    with pytest.raises(pc.InvalidOption, match="timeout"):
        pc.pull("example.com/a", timeout=timeout, store=store)
