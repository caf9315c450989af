"""Pushing: what is missing is mounted or sent, each blob once, the manifest last; faults, and other tools."""

from __future__ import annotations

import contextlib
import gc
import gzip
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

import images_made
from conftest import need, unchanged
from fault_registry import FaultRegistry
from pycontainer.distribution.client import Client
from pycontainer.distribution.patience import Patience
from pycontainer.errors import (
    DigestMismatch,
    ImageNotFound,
    InvalidOption,
    NotFound,
    RegistryError,
    StoreCorrupt,
)
from pycontainer.image import Image
from pycontainer.oci.descriptor import Descriptor
from pycontainer.oci.digest import Digest
from pycontainer.oci.manifest import Manifest
from pycontainer.oci.reference import Reference
from pycontainer.store import Store
from pycontainer.store.compressed import Compressed, CompressedLayers
from pycontainer.transfer.events import Progress
from pycontainer.transfer.pull import pull
from pycontainer.transfer.push import push
from registries import RealRegistry, unique
from registry_faults import Action, Close, CutUpload, LostAnswer, Stall, Status, digest_header
from scripted_http import Request

HURRIED = Patience(first=0.01)
GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as store:
        yield store


@pytest.fixture
def registry() -> Iterator[FaultRegistry]:
    with FaultRegistry() as registry:
        yield registry


@contextlib.contextmanager
def nothing_left() -> Iterator[tuple[FaultRegistry, Client]]:
    """A registry and its client, of which nothing may be left at the end; our threads go before that."""
    gc.collect()
    # Pushing knows nothing of these, and other programs on the machine change them.
    others = ("mounts", "cgroups", "processes", "keys", "files")
    with (
        unchanged(ignore=others),
        FaultRegistry() as registry,
        Client(registry.host, patience=HURRIED) as client,
    ):
        yield registry, client
        assert [t.name for t in threading.enumerate() if t.name.startswith("pycontainer")] == []


@pytest.fixture
def client(registry: FaultRegistry) -> Iterator[Client]:
    with Client(registry.host, patience=HURRIED) as client:
        yield client


@attrs.define
class Wait(Action):
    """Waits for something else before the actions after it."""

    event: threading.Event

    def instead(self, service: Any, request: Request) -> None:
        assert self.event.wait(20)


@attrs.define
class Forget(Action):
    """A registry that has less of an upload, when it is asked, than it has said before."""

    keep: int

    def instead(self, service: Any, request: Request) -> None:
        (upload,) = service.repositories["team/app"].uploads.values()
        del upload.data[self.keep :]


def directory(path: Path, size: int = 3000, seed: int = 1) -> Path:
    """A tree with one file that does not compress."""
    path.mkdir(parents=True)
    (path / "data").write_bytes(random.Random(seed).randbytes(size))
    os.utime(path / "data", (1, 1))
    os.utime(path, (1, 1))
    return path


def made(store: Store, size: int = 3000, seed: int = 1) -> Image:
    path = Path(store.path).parent / f"tree-{size}-{seed}"
    return Image.from_directory(path if path.exists() else directory(path, size, seed), store=store)


def pulled(store: Store, client: Client, repository: str, tag: str = "1") -> Image:
    found = pull(store, client, Reference(repository, client.registry, tag))
    return Image(store, found.entry, found)


def pushed(image: Image, client: Client, repository: str, *tags: str, **options: Any) -> Descriptor:
    options.setdefault("report", None)
    manifest = image._manifest
    return push(image._store, client, manifest, image.config, repository, tags or ("1",), **options)


def layer_blob(registry: FaultRegistry, repository: str, tag: str = "1", number: int = 0) -> bytes:
    kept = registry.repositories[repository]
    manifest = json.loads(kept.manifests[kept.tags[tag]].raw)
    return kept.blobs[manifest["layers"][number]["digest"]]


def test_what_is_made_here_is_compressed_on_the_way(
    store: Store, registry: FaultRegistry, client: Client
) -> None:
    image = made(store)
    there = pushed(image, client, "team/app", "1", "latest")
    kept = registry.repositories["team/app"]
    assert kept.tags == {"1": there.digest, "latest": there.digest}
    raw = kept.manifests[there.digest].raw
    assert len(raw) == there.size and kept.manifests[there.digest].media_type == there.media_type
    document = json.loads(raw)
    assert document["config"]["digest"] == image.id
    assert document["layers"][0]["mediaType"] == GZIP
    blob = layer_blob(registry, "team/app")
    assert "sha256:" + hashlib.sha256(gzip.decompress(blob)).hexdigest() == image.config.diff_ids[0]
    assert document["layers"][0]["size"] == len(blob)
    # The manifest comes after everything that it refers to.
    assert [r.method for r in registry.requests(path="/manifests/")] == ["PUT", "PUT"]
    assert registry.log[-1].path.endswith("/manifests/latest")


@pytest.mark.parametrize(("form", "media_type"), [("zstd", ZSTD), ("none", "")])
def test_other_forms(
    store: Store, registry: FaultRegistry, client: Client, form: str, media_type: str
) -> None:
    image = made(store)
    there = pushed(image, client, "team/app", compression=form)
    with Store(Path(store.path).parent / "other") as other:
        back = pulled(other, client, "team/app")
        assert back.config == image.config
        assert back.layers[0].media_type == media_type or back.layers == image.layers
        assert back.digest == there.digest
    assert (there.digest == image.digest) == (form == "none")


def test_unknown_form(store: Store, client: Client) -> None:
    with pytest.raises(InvalidOption, match="compression='xz'"):
        pushed(made(store), client, "team/app", compression="xz")


def test_second_push_is_questions_alone(store: Store, registry: FaultRegistry, client: Client) -> None:
    image = made(store)
    first = pushed(image, client, "team/app", "1", "2")
    registry.forget()
    assert pushed(image, client, "team/app", "1", "2") == first
    assert {request.method for request in registry.log} == {"HEAD"}
    assert len(registry.log) == 4
    # Another tag needs the manifest alone.
    registry.forget()
    pushed(image, client, "team/app", "3")
    assert registry.count("PUT", "/manifests/3") == 1 and not registry.count("POST|PATCH")


def test_tag_that_stands_for_something_else_is_moved(
    store: Store, registry: FaultRegistry, client: Client
) -> None:
    one, other = made(store, seed=1), made(store, seed=2)
    first = pushed(one, client, "team/app")
    second = pushed(other, client, "team/app")
    assert registry.repositories["team/app"].tags["1"] == second.digest != first.digest
    pushed(one, client, "team/app")
    assert registry.repositories["team/app"].tags["1"] == first.digest


@pytest.mark.parametrize("docker", [False, True])
def test_round_trip_changes_nothing(
    store: Store, registry: FaultRegistry, client: Client, docker: bool
) -> None:
    """Whatever a registry gave us, uncompressed layers and unknown fields included."""
    layers = [images_made.layer({f"file-{n}": bytes([n]) * 999}) for n in range(3)]
    forms = ["gzip", None, "gzip"] if docker else ["gzip", None, "zstd"]
    image = registry.put_image(
        "team/app", "1", layers, compression=forms, docker=docker, annotations={"a": "b"}, change={"x": [1]}
    )
    mine = pulled(store, client, "team/app")
    registry.mounts = False
    there = pushed(mine, client, "copy/app")
    assert there.digest == image.digest and there.media_type == image.media_type
    kept = registry.repositories["copy/app"]
    assert kept.manifests[image.digest].raw == image.raw
    assert kept.manifests[image.digest].media_type == image.media_type
    assert kept.blobs == image.blobs


def test_configured_image_keeps_its_layers(store: Store, registry: FaultRegistry, client: Client) -> None:
    registry.put_image("team/app", "1", [images_made.layer({"a": b"a"}), images_made.layer({"b": b"b"})])
    image = pulled(store, client, "team/app").configure(cmd=["/a"])
    registry.forget()
    pushed(image, client, "team/app", "2")
    assert registry.count("POST") == 1  # the config
    assert registry.bytes_received("PUT|PATCH", "/blobs/") == len(image.config.raw)


def test_made_and_pulled_layers_in_one_image(store: Store, registry: FaultRegistry, client: Client) -> None:
    """Only the layer that was made here changes its descriptor; the others keep theirs, twice the same."""
    below = images_made.layer({"a": b"a"})
    registry.put_image("team/app", "1", [below, below], compression=None)
    base, own = pulled(store, client, "team/app"), made(store)
    layers = (*base.layers, *own.layers, *own.layers)
    manifest = Manifest.make(own._manifest.config, layers)
    diff_ids = (*base.config.diff_ids, *own.config.diff_ids, *own.config.diff_ids)
    config = type(own.config).parse(own.config.raw.replace(b'"diff_ids":[', _json_list(base.config.diff_ids)))
    assert set(config.diff_ids) == set(diff_ids)
    registry.forget()
    push(store, client, manifest, config, "team/app", ["2"], report=None)
    kept = registry.repositories["team/app"]
    there = json.loads(kept.manifests[kept.tags["2"]].raw)["layers"]
    assert [part["mediaType"] for part in there[:2]] == [base.layers[0].media_type] * 2
    assert [part["mediaType"] for part in there[2:]] == [GZIP] * 2
    assert there[2] == there[3]
    assert registry.count("POST") == 2  # the own layer, once, and the config


def _json_list(digests: Any) -> bytes:
    return ('"diff_ids":[' + "".join(f'"{digest}",' for digest in digests)).encode()


def test_mounting_what_another_repository_has(store: Store, registry: FaultRegistry, client: Client) -> None:
    registry.put_image("base/os", "1", [images_made.layer({"a": bytes(10_000)})], compression=None)
    base = pulled(store, client, "base/os")
    base.tag("other.example.com/base/os:1")
    own = made(store)
    for repository in ("team/one", "team/two"):
        pushed(base, client, repository)
        pushed(own, client, repository, "own")
    mounts = [r for r in registry.requests("POST", "/team/") if "mount=" in r.target]
    assert [
        (r.path.split("/")[3], r.query["from"]) for r in mounts if r.query["mount"] == base.layers[0].digest
    ] == [
        ("one", "base/os"),
        ("two", "base/os"),
    ]
    assert [r.query["from"] for r in mounts if r.query["mount"] not in _content(base)] == ["team/one"]
    configs = len(own.config.raw) + base._manifest.config.size
    assert registry.bytes_received("PUT|PATCH", "/team/two/blobs/") == configs


def test_mounting_is_tried_from_images_with_that_blob_alone(
    store: Store, registry: FaultRegistry, client: Client
) -> None:
    layers = [images_made.layer({name: bytes(5000)}) for name in ("a", "b")]
    for number, name in enumerate(("base/one", "base/two", "base/three")):
        registry.put_image(name, "1", layers[number : number + 1] or layers)
        image = pulled(store, client, name)
    registry.mounts = False
    pushed(image, client, "team/app")
    posts = [r.query for r in registry.requests("POST", "/team/app/") if "mount" in r.query]
    first, second = (layer.digest for layer in image.layers)
    assert {(query["mount"], query["from"]) for query in posts} == {
        (first, "base/one"),
        (second, "base/two"),
        (first, "base/three"),
        (second, "base/three"),
    }


def _content(image: Image) -> set[str]:
    return {image.id, *(layer.digest for layer in image.layers)}


def test_mount_that_is_refused_is_no_failure(store: Store, registry: FaultRegistry, client: Client) -> None:
    registry.put_image("base/os", "1", [images_made.layer({"a": b"a"})])
    image = pulled(store, client, "base/os")
    registry.mounts = False
    pushed(image, client, "team/one")
    registry.fault(
        Status(403), method="POST", path="/team/two/", where=lambda r: "mount" in r.query, times=None
    )
    pushed(image, client, "team/two")
    assert registry.repositories["team/one"].blobs == registry.repositories["team/two"].blobs
    assert registry.repositories["team/one"].uploads == {}


def test_forgotten_compression_is_done_again(store: Store, registry: FaultRegistry, client: Client) -> None:
    image = made(store)
    first = pushed(image, client, "team/app")
    for file in (Path(store.path) / "compressed").iterdir():
        file.write_bytes(b'{"gzip":{"digest":"sha256:00"}}')
    registry.forget()
    assert pushed(image, client, "team/app") == first
    assert registry.bytes_received("PUT|PATCH", "/blobs/") > 3000


def test_what_is_remembered_goes_with_the_layer(store: Store, client: Client) -> None:
    image, other = made(store), made(store, seed=2)
    other.tag("kept:1")
    for each in (image, other):
        pushed(each, client, "team/app")
    layers = CompressedLayers(store)
    assert layers.find(image.layers[0].digest, "gzip") is not None
    image.remove()
    assert not layers.is_made(image.layers[0].digest)
    assert layers.find(other.layers[0].digest, "gzip") is not None
    assert store.check() == []


def test_only_the_last_places_are_remembered(store: Store) -> None:
    layers, diff_id = CompressedLayers(store), Digest.of(b"layer")
    compressed = Compressed(Digest.of(b"blob"), 4)
    for number in range(6):
        compressed = compressed.at(f"127.0.0.1:1/app-{number}")
    layers.remember(diff_id, "gzip", compressed.at("127.0.0.1:1/app-3"))
    found = layers.find(diff_id, "gzip")
    assert found is not None and found.digest == Digest.of(b"blob") and found.size == 4
    assert [place[-1] for place in found.places] == ["3", "5", "4", "2"]


def test_progress(store: Store, registry: FaultRegistry, client: Client) -> None:
    image = made(store, 6 << 20)
    for round in range(2):
        seen: list[Progress] = []
        pushed(image, client, "team/app", report=seen.append)
        for digest in (image.layers[0].digest, image._manifest.config.digest):
            steps = [event for event in seen if event.digest == digest]
            assert steps[-1].step == ("exists" if round else "done")
            assert steps[-1].done == steps[-1].total
            uploading = [event.done for event in steps if event.step == "uploading"]
            assert uploading == sorted(uploading) and bool(uploading) != bool(round)


def test_what_the_listener_raises_ends_it(store: Store) -> None:
    def listener(event: Progress) -> None:
        if event.step == "uploading":
            raise ZeroDivisionError

    image = made(store)
    with nothing_left() as (registry, client):
        with pytest.raises(ZeroDivisionError):
            pushed(image, client, "team/app", report=listener)
        assert not registry.repositories["team/app"].manifests


# Faults


def test_damaged_blob(store: Store, registry: FaultRegistry, client: Client) -> None:
    image = made(store)
    path = Path(store.layout.blobs.path(image.layers[0].digest))
    content = bytearray(path.read_bytes())
    content[700] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreCorrupt, match=str(image.layers[0].digest)):
        pushed(image, client, "team/app")
    assert not registry.repositories["team/app"].manifests
    assert image.layers[0].digest not in registry.repositories["team/app"].blobs


@pytest.mark.parametrize("change", ["missing", "cut"])
def test_missing_blob(store: Store, registry: FaultRegistry, client: Client, change: str) -> None:
    image = made(store)
    path = Path(store.layout.blobs.path(image.layers[0].digest))
    if change == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StoreCorrupt, match=str(image.layers[0].digest)):
        pushed(image, client, "team/app")
    assert registry.log == []


def test_removed_image(store: Store, client: Client) -> None:
    image = made(store)
    manifest, config = image._manifest, image.config
    image.remove()
    with pytest.raises(ImageNotFound, match="was removed"):
        push(store, client, manifest, config, "team/app", ["1"], report=None)


@pytest.mark.parametrize("fault", ["lost", "5xx", "closed"])
@pytest.mark.parametrize("where", ["POST", "PATCH", "PUT"])
def test_single_failures_are_got_over(
    store: Store, registry: FaultRegistry, client: Client, fault: str, where: str
) -> None:
    image = made(store, 8 << 20)
    action = {"lost": LostAnswer(), "5xx": Status(503), "closed": Close()}[fault]
    registry.fault(action, method=where, times=1)
    if where == "PUT":
        registry.fault(action, method=where, path="/manifests/", times=1)
    there = pushed(image, client, "team/app")
    kept = registry.repositories["team/app"]
    assert kept.tags == {"1": there.digest}
    assert (
        hashlib.sha256(gzip.decompress(layer_blob(registry, "team/app"))).hexdigest()
        == Digest(image.config.diff_ids[0]).hex
    )


def test_cut_upload_goes_on_where_it_was(store: Store, registry: FaultRegistry, client: Client) -> None:
    size = 40 << 20
    image = made(store, size)
    registry.fault(CutUpload(1 << 20), method="PATCH", times=1, after=1)
    registry.fault(CutUpload(3 << 20), method="PATCH", times=1, after=3)
    there = pushed(image, client, "team/app")
    assert registry.bytes_received("PATCH|PUT", "/blobs/") < 1.1 * size
    assert registry.repositories["team/app"].tags == {"1": there.digest}
    content = gzip.decompress(layer_blob(registry, "team/app"))
    assert Digest.of(content) == image.config.diff_ids[0]


@pytest.mark.parametrize("form", ["gzip", "zstd", "none"])
def test_what_the_registry_lost_is_sent_again(
    store: Store, registry: FaultRegistry, client: Client, form: str
) -> None:
    """From a place in the middle of what was compressed before."""
    image = made(store, 16 << 20)
    registry.fault(Status(503), method="PATCH", times=1, after=2)
    registry.fault(Forget(1_234_567), method="GET", path="/uploads/", times=1)
    pushed(image, client, "team/app", compression=form)
    assert registry.count("POST", "/uploads/") == 2  # the config's and the layer's
    with Store(Path(store.path).parent / "other") as other:
        assert pulled(other, client, "team/app").config == image.config


def test_registry_that_fails_for_good(store: Store) -> None:
    image = made(store)
    with nothing_left() as (registry, client):
        registry.fault(Status(500), method="PUT", path="/blobs/", times=None)
        with pytest.raises(RegistryError) as caught:
            pushed(image, client, "team/app")
        assert caught.value.status == 500
        assert not registry.repositories["team/app"].manifests
        registry.clear_faults()
        pushed(image, client, "team/app")


def test_first_failure_ends_the_others(store: Store, registry: FaultRegistry, client: Client) -> None:
    """One layer is refused while another one's request hangs."""
    registry.put_image("base/os", "1", [images_made.layer({str(n): bytes(n)}) for n in range(2)])
    image = pulled(store, client, "base/os")
    client.close()
    refused, hanging = (layer.digest for layer in image.layers)
    with nothing_left() as (registry, client):
        hang = registry.fault(Stall(), method="HEAD", path=f"/team/app/blobs/{hanging}")
        forbidden = [Wait(hang.hit), Status(403)]
        registry.fault(forbidden, method="HEAD", path=f"/team/app/blobs/{refused}", times=None)
        begin = time.monotonic()
        with pytest.raises(RegistryError) as caught:
            pushed(image, client, "team/app")
        assert caught.value.status == 403
        assert time.monotonic() - begin < 15  # the hanging request's own time-out is 30


@pytest.mark.parametrize(("method", "path"), [("PUT", "/blobs/"), ("PUT", "/manifests/")])
def test_registry_that_says_it_has_something_else(
    store: Store, registry: FaultRegistry, client: Client, method: str, path: str
) -> None:
    registry.fault(digest_header(images_made.digest_of(b"")), method=method, path=path, times=None)
    with pytest.raises(DigestMismatch, match="something else"):
        pushed(made(store), client, "team/app")


def test_missing_rights(store: Store, registry: FaultRegistry, client: Client) -> None:
    registry.fault(Status(404, error="NAME_UNKNOWN"), method="POST", times=None)
    with pytest.raises(NotFound):
        pushed(made(store), client, "team/app")


@pytest.mark.parametrize("where", ["HEAD of the config", "HEAD", "POST", "PATCH", "PUT"])
def test_ctrl_c(store: Store, where: str) -> None:
    """While a request hangs: raised soon, nothing left, no manifest there, and the client still usable."""
    image = made(store, 12 << 20)
    main = threading.get_ident()
    interrupted = 0.0

    def interrupt() -> None:
        nonlocal interrupted
        assert hang.hit.wait(20)
        time.sleep(0.1)
        interrupted = time.monotonic()
        signal.pthread_kill(main, signal.SIGINT)

    with nothing_left() as (registry, client):
        if where == "HEAD":
            # Known to be compressed, so it is asked for.
            pushed(image, client, "other/app")
            registry.mounts = False
        hang = registry.fault(Stall(), method=where.split()[0], path="/team/app/", after=int(where == "HEAD"))
        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            pushed(image, client, "team/app")
        late = time.monotonic() - interrupted
        thread.join()
        kept = registry.repositories.get("team/app")
        assert kept is None or not kept.manifests
        hang.stop()
        pushed(image, client, "team/app")
    assert late < 1.0  # 0.1 on a quiet machine


# The real thing


def test_real_registry_round_trip(store: Store, plain_registry: RealRegistry, tmp_path: Path) -> None:
    """A directory of our own, pushed; skopeo reads it, and what we pull and push again is the same."""
    need(shutil.which("skopeo") is not None, "skopeo")
    name, again = unique(), unique()
    image = made(store, 12 << 20)
    with Client(plain_registry.host) as client:
        there = pushed(image, client, name, "1")
        url = f"docker://{plain_registry.host}/{name}:1"
        seen = json.loads(_skopeo("inspect", "--tls-verify=false", url))
        assert seen["Digest"] == there.digest
        _skopeo("copy", "--src-tls-verify=false", url, f"oci:{tmp_path}/layout:1")
        blobs = tmp_path / "layout" / "blobs" / "sha256"
        copied = json.loads((blobs / Digest(there.digest).hex).read_bytes())
        layer = blobs / Digest(copied["layers"][0]["digest"]).hex
        assert Digest.of(gzip.decompress(layer.read_bytes())) == image.config.diff_ids[0]
        with Store(tmp_path / "other") as other:
            back = pulled(other, client, name)
            assert back.config == image.config and back.digest == there.digest
            assert pushed(back, client, again) == there
            assert client.manifest(again, "1").raw == client.manifest(name, "1").raw
        log = plain_registry.log.read_bytes()
        assert pushed(image, client, name, "1") == there
        assert b"PATCH /v2/" not in plain_registry.log.read_bytes()[len(log) :]


def test_skopeo_images_come_back_the_same(store: Store, plain_registry: RealRegistry) -> None:
    """Docker's schema 2, as skopeo writes it."""
    need(shutil.which("skopeo") is not None, "skopeo")
    name, docker, back = unique(), unique(), unique()
    with Client(plain_registry.host) as client:
        pushed(made(store), client, name)
        _skopeo(
            "copy",
            "--src-tls-verify=false",
            "--dest-tls-verify=false",
            "--format=v2s2",
            f"docker://{plain_registry.host}/{name}:1",
            f"docker://{plain_registry.host}/{docker}:1",
        )
        original = client.manifest(docker, "1")
        assert original.media_type == images_made.DOCKER_MANIFEST
        there = pushed(pulled(store, client, docker), client, back)
        assert there.digest == original.digest and client.manifest(back, "1") == original


def test_real_registry_with_users(store: Store, basic_registry: RealRegistry) -> None:
    assert basic_registry.user is not None and basic_registry.password is not None
    name = unique()
    with Client(basic_registry.host, auth=(basic_registry.user, basic_registry.password)) as client:
        there = pushed(made(store), client, name)
        assert client.resolve(name, "1").digest == there.digest


def _skopeo(*args: str) -> bytes:
    return subprocess.run(["skopeo", *args], check=True, capture_output=True, timeout=60).stdout
