"""Every document that we write is what the image specification says, by its own schemas."""

from __future__ import annotations

import json
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import images_made
import schemas
from fault_registry import FaultRegistry
from images_made import layer
from pycontainer.distribution.client import Client
from pycontainer.image import Image
from pycontainer.oci.manifest import Manifest
from pycontainer.oci.reference import Reference
from pycontainer.store import Store
from pycontainer.transfer.pull import pull
from pycontainer.transfer.push import push

EVERYTHING = {
    "env": {"A": "b", "EMPTY": ""},
    "cmd": ["sh", "-c", "true"],
    "entrypoint": ["/init"],
    "user": "1:2",
    "cwd": "/srv",
    "labels": {"org.example.word": "ü"},
    "ports": ["80/tcp", "53/udp"],
    "volumes": ["/data"],
    "stop_signal": "SIGTERM",
    "author": "somebody",
    "created": "2020-01-02T03:04:05.678Z",
}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as opened:
        yield opened


def scratch(store: Store, path: Path) -> Image:
    return Image.scratch(store=store)


def directory(store: Store, path: Path) -> Image:
    (path / "tree").mkdir()
    (path / "tree" / "file").write_text("text")
    return Image.from_directory(path / "tree", store=store)


def tar(store: Store, path: Path) -> Image:
    (path / "layer.tar").write_bytes(layer({"file": b"text"}))
    return Image.from_tar(path / "layer.tar", store=store)


def configured(store: Store, path: Path) -> Image:
    return directory(store, path).configure(**EVERYTHING)


def configured_twice(store: Store, path: Path) -> Image:
    return configured(store, path).configure(env={"A": None}, labels={"more": "x"}, cmd=None)


def oci_layout(path: Path, image: images_made.Image) -> Path:
    """The image as others would write it, in a layout directory."""
    root = path / "given"
    (root / "blobs" / "sha256").mkdir(parents=True)
    for digest, data in {**image.blobs, image.digest: image.raw}.items():
        root.joinpath("blobs", *digest.split(":")).write_bytes(data)
    (root / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    part = {**image.describe(), "annotations": {"org.opencontainers.image.ref.name": "x:1"}}
    (root / "index.json").write_bytes(images_made.dump({"schemaVersion": 2, "manifests": [part]}))
    return root


def loaded(store: Store, path: Path) -> Image:
    made = images_made.Image.make([layer({"a": b"b"}), layer({}, whiteouts=["a"])])
    return Image.load(oci_layout(path, made), store=store)[0]


def loaded_docker_archive(store: Store, path: Path) -> Image:
    """Here the manifest is our own: the archive has none that a registry would know."""
    with Store(path / "source") as source:
        image = directory(source, path)
        image.tag("x:1")
        image.save(path / "docker.tar", format="docker-archive")
    return Image.load(path / "docker.tar", store=store)[0]


MAKERS = [scratch, directory, tar, configured, configured_twice, loaded, loaded_docker_archive]
"""Every way to an image; a further one is added here."""

Maker = Callable[[Store, Path], Image]
every_image = pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)


@every_image
def test_the_store(store: Store, tmp_path: Path, make: Maker) -> None:
    image = make(store, tmp_path)
    root = Path(store.path)
    assert image.digest is not None
    schemas.check("manifest", schemas.blob(root, image.digest))
    schemas.check("config", schemas.blob(root, image.id))
    for name in ("example:1", "127.0.0.1:5000/team/app:2"):
        image.tag(name)
    found = schemas.check_layout(root)
    assert found[:2] == ["layout", "index"] and found.count("manifest") == found.count("config") >= 2


@every_image
def test_what_is_saved(store: Store, tmp_path: Path, make: Maker) -> None:
    image = make(store, tmp_path)
    image.tag("example:1")
    image.save(tmp_path / "layout", format="oci")
    assert {"manifest", "config"} <= set(schemas.check_layout(tmp_path / "layout"))
    image.save(tmp_path / "archive.tar")
    subprocess.run(
        ["tar", "--one-top-level=out", "-xf", "archive.tar"], cwd=tmp_path, check=True, capture_output=True
    )
    assert {"manifest", "config"} <= set(schemas.check_layout(tmp_path / "out"))
    image.save(tmp_path / "saved.tar", format="docker-archive")
    with tarfile.open(tmp_path / "saved.tar") as archive:
        listed = archive.extractfile("manifest.json")
        assert listed is not None
        config = archive.extractfile(json.load(listed)[0]["Config"])
        assert config is not None
        schemas.check("config", config.read())


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
@every_image
def test_what_is_pushed(store: Store, tmp_path: Path, make: Maker, compression: str) -> None:
    image = make(store, tmp_path)
    assert image.digest is not None
    manifest = Manifest.parse(schemas.blob(Path(store.path), image.digest))
    with FaultRegistry() as registry, Client(registry.host) as client, Store(tmp_path / "other") as other:
        push(store, client, manifest, image.config, "team/app", ["1"], compression=compression, report=None)
        kept = registry.repository("team/app")
        raw = kept.manifests[kept.tags["1"]].raw
        schemas.check("manifest", raw)
        schemas.check("config", kept.blobs[json.loads(raw)["config"]["digest"]])
        pull(other, client, Reference.parse(f"{registry.host}/team/app:1"))
        assert schemas.check_layout(Path(other.path)) == ["layout", "index", "manifest", "config"]


@pytest.mark.parametrize(
    ("kind", "document", "said"),
    [
        ("layout", {"imageLayoutVersion": "9"}, "$.imageLayoutVersion"),
        ("index", {"schemaVersion": 2}, "'manifests' is a required property"),
        ("index", {"schemaVersion": 2, "manifests": [{"size": "1"}]}, "$.manifests[0]"),
        ("manifest", {"schemaVersion": 2, "layers": []}, "'config' is a required property"),
        ("config", {"architecture": "amd64", "os": "linux"}, "'rootfs' is a required property"),
        ("descriptor", {"mediaType": "a/b", "size": 1, "digest": "x"}, "$.digest"),
    ],
)
def test_the_schemas_complain(kind: str, document: dict[str, object], said: str) -> None:
    """Otherwise the tests above would mean nothing."""
    assert any(said in text for text in schemas.complaints(kind, json.dumps(document).encode()))
