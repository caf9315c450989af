"""Digests, references, descriptors, manifests and platforms."""

from __future__ import annotations

import json
import pickle

import pytest

from pycontainer.errors import InvalidImage, InvalidReference
from pycontainer.oci import media_types
from pycontainer.oci.descriptor import Descriptor
from pycontainer.oci.digest import Digest
from pycontainer.oci.manifest import Index, Manifest
from pycontainer.oci.platform import Platform
from pycontainer.oci.reference import Reference
from pycontainer.oci.times import format_time, parse_time

EMPTY = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_digest_is_its_own_text() -> None:
    digest = Digest.of(b"")
    assert digest == EMPTY and str(digest) == EMPTY
    assert (digest.algorithm, digest.hex) == ("sha256", EMPTY[7:])
    assert digest.verify(b"") and not digest.verify(b"x")
    assert pickle.loads(pickle.dumps(digest)) == digest
    assert Digest.of(b"", "sha512").hex.startswith("cf83e135")


@pytest.mark.parametrize(
    "text", ["", "sha256:", "sha256:00", EMPTY.upper(), EMPTY + "0", "md5:" + "0" * 32, EMPTY + "\n", "../x"]
)
def test_not_a_digest(text: str) -> None:
    with pytest.raises(InvalidReference, match="not a digest"):
        Digest(text)


@pytest.mark.parametrize(
    ("text", "complete", "familiar"),
    [
        ("debian", "docker.io/library/debian:latest", "debian:latest"),
        ("debian:12", "docker.io/library/debian:12", "debian:12"),
        ("team/app", "docker.io/team/app:latest", "team/app:latest"),
        ("index.docker.io/debian", "docker.io/library/debian:latest", "debian:latest"),
        ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
        ("127.0.0.1:5000/t/a:1.0", "127.0.0.1:5000/t/a:1.0", "127.0.0.1:5000/t/a:1.0"),
        ("[::1]:5000/x", "[::1]:5000/x:latest", "[::1]:5000/x:latest"),
        ("UPPER/x", "UPPER/x:latest", "UPPER/x:latest"),
        ("docker.io/localhost/x", "docker.io/localhost/x:latest", "docker.io/localhost/x:latest"),
        (f"ghcr.io/a/b@{EMPTY}", f"ghcr.io/a/b@{EMPTY}", f"ghcr.io/a/b@{EMPTY}"),
        (f"a:1@{EMPTY}", f"docker.io/library/a:1@{EMPTY}", f"a:1@{EMPTY}"),
    ],
)
def test_reference(text: str, complete: str, familiar: str) -> None:
    assert str(Reference.parse(text)) == text
    assert str(Reference.complete(text)) == complete
    assert Reference.complete(text).familiar() == familiar


@pytest.mark.parametrize(
    "text",
    [
        "", ":", "@", "UPPER", "a//b", "/a", "a/", "x:", "x:" + "t" * 129, "a" * 64, "h:0/x", "h:99999/x",
        "-a", "a@b", "a@sha256:00", "é", "a\n", "a b", "a..b", "../x", "a" * 256, "a" * 100_000, "x:-t",
    ],
)  # fmt: skip
def test_bad_reference(text: str) -> None:
    with pytest.raises(InvalidReference):
        Reference.complete(text)


def test_reference_names_what_is_wrong() -> None:
    with pytest.raises(InvalidReference, match="lower case"):
        Reference.parse("Debian")


def test_descriptor_round_trip() -> None:
    document = {
        "mediaType": media_types.OCI_LAYER,
        "digest": EMPTY,
        "size": 0,
        "annotations": {"a": "b"},
        "platform": {"architecture": "arm64", "os": "linux", "variant": "v8", "os.version": "1"},
        "urls": ["https://example.org"],
    }
    descriptor = Descriptor.check(document, "here")
    assert str(descriptor.platform) == "linux/arm64/v8"
    assert descriptor.document() == document


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"size": -1}, "size"),
        ({"size": True}, "size"),
        ({"size": 2**63}, "size"),
        ({"digest": "sha256:zz"}, "digest"),
        ({"digest": 1}, "digest"),
        ({"mediaType": None}, "mediaType"),
        ({"mediaType": "x" * 256}, "mediaType"),
        ({"annotations": {"a": 1}}, "annotations"),
        ({"platform": {"os": "linux"}}, "architecture"),
    ],
)
def test_bad_descriptor(change: dict[str, object], field: str) -> None:
    document = {"mediaType": "a/b", "digest": EMPTY, "size": 0, **change}
    with pytest.raises(InvalidImage, match=f"here: .*{field}"):
        Descriptor.check(document, "here")


def manifest(**changes: object) -> bytes:
    part = {"mediaType": "a/b", "digest": EMPTY, "size": 0}
    return json.dumps({"schemaVersion": 2, "config": part, "layers": [part], **changes}).encode()


def test_manifest_keeps_its_bytes() -> None:
    raw = manifest(annotations={"x": "y"}, unknown=[1])
    parsed = Manifest.parse(raw)
    assert parsed.raw == raw and parsed.digest == Digest.of(raw)
    assert Manifest.parse(Manifest.make(parsed.config, parsed.layers).raw).layers == parsed.layers


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "Expecting value"),
        (b"[]", "JSON object"),
        (b"\xff", "utf-8"),
        (b'{"a":1,"a":2}', "twice"),
        (b'{"a":NaN}', "NaN"),
        (b"[" * 100_000, "deep"),
        (b'{"a":' + b"9" * 10_000 + b"}", "digits|schemaVersion"),
        (b" " * (5 << 20), "more than"),
        (manifest(schemaVersion=1), "schemaVersion"),
        (manifest(manifests=[]), "manifests"),
        (manifest(mediaType=media_types.OCI_INDEX), "mediaType"),
        (manifest(layers={}), "layers: must be a list"),
        (manifest(layers=[{}]), r"layers\[0\]: mediaType"),
        (manifest(layers=[{"mediaType": "a/b", "digest": EMPTY, "size": 0}] * 501), "501"),
        (manifest(config=None), "config: is missing"),
        (b'{"schemaVersion":2,"x":"\\ud800"}', "surrogates"),
    ],
)
def test_bad_manifest(raw: bytes, message: str) -> None:
    with pytest.raises(InvalidImage, match=message):
        Manifest.parse(raw)


def test_index_is_no_manifest() -> None:
    raw = Index.make((Descriptor("a/b", Digest(EMPTY), 0),), {"k": "v"}).raw
    assert Index.parse(raw).annotations == {"k": "v"}
    with pytest.raises(InvalidImage):
        Manifest.parse(raw)
    with pytest.raises(InvalidImage):
        Index.parse(manifest(manifests=[]))


def test_host_platform() -> None:
    assert Platform.host().os == "linux"
    assert Platform.host().architecture in {"amd64", "arm64"}


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("2020-01-02T03:04:05Z", "2020-01-02T03:04:05+00:00"),
        ("2020-01-02T03:04:05.123456789+02:30", "2020-01-02T03:04:05.123456+02:30"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00+00:00"),
        ("2016-12-31T23:59:60Z", "2016-12-31T23:59:59+00:00"),
    ],
)
def test_times(text: str, same: str) -> None:
    assert parse_time(text, "created").isoformat() == same


@pytest.mark.parametrize("text", ["", "2020", "2020-13-01T00:00:00Z", "2020-01-01T00:00:00", "x" * 10_000])
def test_bad_times(text: str) -> None:
    with pytest.raises(InvalidImage, match="created"):
        parse_time(text, "created")


def test_time_is_written_as_it_is_read() -> None:
    assert format_time(1_600_000_000) == "2020-09-13T12:26:40Z"
    assert parse_time(format_time(-1), "x").timestamp() == -1
