"""Copying between repositories and registries: the same bytes, all that a tag stands for, nothing twice."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

import images_made
from conftest import need
from fault_registry import FaultRegistry
from images_made import Image, Index, layer
from pycontainer.distribution.client import Client
from pycontainer.distribution.patience import Patience
from pycontainer.errors import DigestMismatch, InvalidImage, NotFound
from pycontainer.oci.descriptor import Descriptor
from pycontainer.transfer.copy import copy
from pycontainer.transfer.events import Progress
from registries import RealRegistry, unique
from registry_faults import CutUpload, Flip, Status, Truncate

HURRIED = Patience(first=0.01)


class Registries:
    """Where from and where to, with a client each."""

    def __init__(self, source: FaultRegistry, target: FaultRegistry, clients: tuple[Client, Client]) -> None:
        self.source = source
        self.target = target
        self.clients = clients

    def copy(self, reference: str, *tags: str, **options: Any) -> Descriptor:
        options.setdefault("report", None)
        source, target = self.clients
        return copy(source, "from/app", reference, target, "to/app", tags, **options)


@pytest.fixture
def two() -> Iterator[Registries]:
    with (
        FaultRegistry() as source,
        FaultRegistry() as target,
        Client(source.host, patience=HURRIED) as reader,
        Client(target.host, patience=HURRIED) as writer,
    ):
        yield Registries(source, target, (reader, writer))


def platforms() -> list[Image]:
    """One image for two platforms, with a layer that both have."""
    shared = layer({"shared": b"s" * 5000})
    own = {platform: layer({"own": platform.encode()}) for platform in ("linux/amd64", "linux/arm64/v8")}
    return [Image.make([shared, data], platform=platform) for platform, data in own.items()]


@pytest.mark.parametrize("docker", [False, True])
def test_one_image(two: Registries, docker: bool) -> None:
    image = two.source.put_image(
        "from/app", "1", [layer({"a": b"a"})] * 2, docker=docker, annotations={"a": "b"}, change={"x": 1}
    )
    there = two.copy("1", "1", "latest")
    assert (there.digest, there.media_type, there.size) == (image.digest, image.media_type, len(image.raw))
    kept = two.target.repositories["to/app"]
    assert kept.tags == {"1": image.digest, "latest": image.digest}
    assert kept.blobs == image.blobs
    assert kept.manifests[image.digest].raw == image.raw
    assert kept.manifests[image.digest].media_type == image.media_type


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("docker", [False, True])
def test_index_with_all_platforms(two: Registries, docker: bool, algorithm: str) -> None:
    images = platforms()
    index = Index.make([Index.make(images, docker=docker), images[0]], docker=docker)
    if algorithm == "sha512":
        made = Image.make([layer({"a": b"a"})], algorithm=algorithm)
        index = Index.make([made], algorithm=algorithm)
        two.source.put("from/app", None, index)
    two.source.put("from/app", "1", index)
    there = two.copy("1" if algorithm == "sha256" else index.digest, "1")
    kept = two.target.repositories["to/app"]
    assert there.digest == index.digest
    assert {name: (m.raw, m.media_type) for name, m in kept.manifests.items() if ":" in name}.items() >= {
        part.digest: (part.raw, part.media_type) for part in index.images
    }.items()
    assert kept.blobs == two.source.repositories["from/app"].blobs
    for digest in kept.blobs:
        assert two.source.count("GET", f"/blobs/{digest}") == 1
        assert two.target.count("HEAD", f"/blobs/{digest}") == 1
    # Who asks for the tag meanwhile finds the old one, or all of the new one.
    assert two.target.log[-1].path == "/v2/to/app/manifests/1"


def test_by_digest_without_a_tag(two: Registries) -> None:
    image = two.source.put_image("from/app", None, [layer({"a": b"a"})])
    assert two.copy(image.digest).digest == image.digest
    kept = two.target.repositories["to/app"]
    assert kept.tags == {} and image.digest in kept.manifests


def test_second_time_nothing_moves(two: Registries) -> None:
    images = platforms()
    two.source.put_index("from/app", "1", images)
    two.copy("1", "1")
    two.source.forget(), two.target.forget()
    two.copy("1", "1")
    assert [request.method for request in two.source.log] == ["GET"]
    assert {request.method for request in two.target.log} == {"HEAD"}
    # A platform more: only what it brings along.
    more = Image.make([images[0].diffs[0], layer({"own": b"more"})], platform="linux/s390x")
    two.source.put_index("from/app", "2", [*images, more])
    two.target.forget()
    two.copy("2", "2")
    assert two.target.count("PUT", "/manifests/") == 2
    new = set(more.blobs) - set(images[0].blobs) - set(images[1].blobs)
    assert two.target.bytes_received("PUT|PATCH", "/blobs/") == sum(len(more.blobs[digest]) for digest in new)


def test_within_a_registry_nothing_is_sent(two: Registries) -> None:
    image = two.source.put_image("from/app", "1", [layer({"a": bytes(9000)})])
    client, _ = two.clients
    there = copy(client, "from/app", "1", client, "other/app", ["2"], report=None)
    assert there.digest == image.digest
    assert two.source.repositories["other/app"].blobs == image.blobs
    assert not two.source.count("GET", "/blobs/") and not two.source.bytes_received("PUT|PATCH", "/blobs/")
    two.source.mounts = False
    copy(client, "from/app", "1", client, "third/app", ["2"], report=None)
    assert two.source.repositories["third/app"].blobs == image.blobs


def test_signatures_stay_behind(two: Registries) -> None:
    image = two.source.put_image("from/app", "1", [layer({"a": b"a"})])
    signature = Image.make([], subject=image.describe(), artifact_type="application/x-signature")
    two.source.put("from/app", None, signature)
    two.copy("1", "1")
    assert set(two.target.repositories["to/app"].manifests) == {image.digest}
    two.copy(signature.digest)
    assert signature.digest in two.target.repositories["to/app"].manifests


def test_layer_that_is_not_distributed(two: Registries) -> None:
    """Its URLs are for those who trust them: nobody is asked for it but the source."""
    image = Image.make([layer({"a": b"a"}), layer({"b": b"b"})])
    document = image.document
    foreign = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
    document["layers"][1].update(mediaType=foreign, urls=["http://127.0.0.1:9/layer"])
    raw = images_made.dump(document)
    two.source.put("from/app", None, image)
    two.source.put_manifest("from/app", "1", raw, image.media_type)
    digest = document["layers"][1]["digest"]
    del two.source.repositories["from/app"].blobs[digest]
    two.copy("1", "1")
    kept = two.target.repositories["to/app"]
    assert kept.manifests[kept.tags["1"]].raw == raw and digest not in kept.blobs


def test_progress(two: Registries) -> None:
    image = two.source.put_image("from/app", "1", [layer({"a": b"a"})])
    seen: list[Progress] = []
    two.copy("1", "1", report=seen.append)
    assert {event.digest for event in seen if event.step == "done"} == set(image.blobs)
    assert all(event.done == event.total for event in seen if event.step == "done")


# Faults


def test_broken_connections_on_both_sides(two: Registries) -> None:
    size = 12 << 20
    data = bytes(range(256)) * (size // 256)
    image = two.source.put_image("from/app", "1", [layer({"a": data})], compression=None)
    digest = image.layer_digests[0]
    two.source.fault(Truncate(5 << 20), method="GET", path=digest)
    two.target.fault(CutUpload(1 << 20), method="PATCH")
    two.copy("1", "1")
    assert two.target.repositories["to/app"].blobs[digest] == image.blobs[digest]
    assert two.source.bytes_sent("GET", digest) < 1.3 * size
    assert two.target.bytes_received("PATCH|PUT") < 1.1 * size


def test_wrong_content_gets_nowhere(two: Registries) -> None:
    image = two.source.put_image("from/app", "1", [layer({"a": b"a"})])
    two.source.fault(Flip(20), method="GET", path=image.layer_digests[0], times=None)
    with pytest.raises(DigestMismatch):
        two.copy("1", "1")
    kept = two.target.repositories["to/app"]
    assert not kept.manifests and image.layer_digests[0] not in kept.blobs


def test_missing_parts(two: Registries) -> None:
    with pytest.raises(NotFound):
        two.copy("1", "1")
    image = two.source.put_image("from/app", "1", [layer({"a": b"a"})])
    del two.source.repositories["from/app"].blobs[image.layer_digests[0]]
    with pytest.raises(NotFound, match=image.layer_digests[0]):
        two.copy("1", "1")
    assert not two.target.repositories["to/app"].manifests


def test_refused_upload(two: Registries) -> None:
    two.source.put_image("from/app", "1", [layer({str(n): b"a"}) for n in range(5)])
    two.target.fault(Status(500), method="POST", times=None)
    with pytest.raises(Exception, match="500"):
        two.copy("1", "1")


def test_manifest_is_not_what_its_index_says(two: Registries) -> None:
    image = Image.make([layer({"a": b"a"})])
    two.source.put("from/app", None, image)
    for change in ({"size": 1}, {"mediaType": images_made.OCI_INDEX}):
        index = Index.make([], extra=[{**image.describe(), **change}])
        two.source.put("from/app", "1", index)
        with pytest.raises(InvalidImage):
            two.copy("1", "1")
    assert not two.target.repositories.get("to/app")


def test_bounded_depth_and_number(two: Registries) -> None:
    image = Image.make([layer({"a": b"a"})])
    two.source.put("from/app", "1", images_made.nested(5, image))
    with pytest.raises(InvalidImage, match="deeper"):
        two.copy("1", "1")
    two.source.put("from/app", "2", images_made.nested(3, image))
    two.copy("2", "2")


def test_too_large(two: Registries, monkeypatch: pytest.MonkeyPatch) -> None:
    import pycontainer.transfer.copy as module

    two.source.put_index("from/app", "1", platforms())
    with monkeypatch.context() as patch:
        patch.setattr(module, "_MAX_MANIFESTS", 2)
        with pytest.raises(InvalidImage, match="more manifests"):
            two.copy("1", "1")
    with monkeypatch.context() as patch:
        patch.setattr(module, "_MAX_BYTES", 700)
        with pytest.raises(InvalidImage, match="more manifests"):
            two.copy("1", "1")
    assert not two.target.repositories.get("to/app")


def test_index_that_lists_itself(two: Registries) -> None:
    """Only a lying registry can have one; its digest gives it away."""
    digest = "sha256:" + "1" * 64
    raw = images_made.self_index(digest)
    two.source.put_manifest("from/app", None, raw, images_made.OCI_INDEX, digest=digest)
    two.source.put_manifest("from/app", "1", raw, images_made.OCI_INDEX)
    with pytest.raises((DigestMismatch, InvalidImage)):
        two.copy("1", "1")


def test_real_registries(plain_registry: RealRegistry, fresh_registry: RealRegistry) -> None:
    """Into a true registry, within it, and on to another one; skopeo sees the same."""
    need(shutil.which("skopeo") is not None, "skopeo")
    name, other = unique(), unique()
    with (
        FaultRegistry() as first,
        Client(first.host) as source,
        Client(plain_registry.host) as middle,
        Client(fresh_registry.host) as last,
    ):
        index = first.put_index("from/app", "1", platforms())
        for there in (
            copy(source, "from/app", "1", middle, name, ["1"], report=None),
            copy(middle, name, "1", middle, other, ["1", "2"], report=None),
            copy(middle, other, "2", last, name, ["1"], report=None),
        ):
            assert there.digest == index.digest
    command = ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{fresh_registry.host}/{name}:1"]
    raw = subprocess.run(command, check=True, capture_output=True).stdout
    assert raw == index.raw and json.loads(raw)
