"""Small images made in memory for the tests of registries, archives and the store.

image = Image.make([layer({"hello": b"hello"}), layer({}, whiteouts=["hello"])], compression="zstd")
index = Index.make([image, Image.make([...], platform="linux/arm64")])
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"

HOST = "linux/amd64"


def digest_of(data: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def dump(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def layer(
    files: Mapping[str, bytes] | None = None,
    *,
    directories: Sequence[str] = (),
    links: Mapping[str, str] | None = None,
    hard_links: Mapping[str, str] | None = None,
    whiteouts: Sequence[str] = (),
    opaque: Sequence[str] = (),
    modes: Mapping[str, int] | None = None,
) -> bytes:
    """A layer's tar archive; every entry is root's, of the year 2020; `modes` by name, 0o755 else.

    Links map a name to its target. `whiteouts` are names that the layer takes away, `opaque`
    directories whose older content it hides.
    """
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:

        def add(name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", target: str = "") -> None:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname, info.mtime = kind, len(data), target, 1_577_836_800
            info.mode = (modes or {}).get(name, 0o755)
            tar.addfile(info, io.BytesIO(data))

        for name in directories:
            add(name, tarfile.DIRTYPE)
        for name in opaque:
            add(f"{name}/.wh..wh..opq")
        for name in whiteouts:
            head, slash, last = name.rpartition("/")
            add(f"{head}{slash}.wh.{last}")
        for name, data in (files or {}).items():
            add(name, data=data)
        for name, target in (links or {}).items():
            add(name, tarfile.SYMTYPE, target=target)
        for name, target in (hard_links or {}).items():
            add(name, tarfile.LNKTYPE, target=target)
    return stream.getvalue()


def compressed(data: bytes, compression: str | None) -> bytes:
    """By "gzip", "zstd", or not at all (None); the same bytes every time."""
    if compression is None:
        return data
    if compression == "gzip":
        return gzip.compress(data, 1, mtime=0)
    if compression == "zstd":
        import zstandard

        return zstandard.ZstdCompressor(level=1).compress(data)
    raise ValueError(compression)


def split_platform(platform: str) -> dict[str, str]:
    return dict(zip(("os", "architecture", "variant"), platform.split("/"), strict=False))


def descriptor(media_type: str, data: bytes, algorithm: str = "sha256", **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "size": len(data), "digest": digest_of(data, algorithm), **more}


@attrs.frozen
class Image:
    """A manifest (`raw`), the bytes of its config and layers by digest, its layers' tar files (`diffs`)."""

    raw: bytes = attrs.field(repr=False)
    media_type: str
    digest: str
    blobs: dict[str, bytes] = attrs.field(repr=False, eq=False)
    diffs: tuple[bytes, ...] = attrs.field(repr=False, eq=False)
    platform: str = HOST

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.raw)
        return found

    @property
    def config_digest(self) -> str:
        return str(self.document["config"]["digest"])

    @property
    def config(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.blobs[self.config_digest])
        return found

    @property
    def layer_digests(self) -> list[str]:
        return [part["digest"] for part in self.document["layers"]]

    @property
    def layer_sizes(self) -> list[int]:
        return [part["size"] for part in self.document["layers"]]

    @classmethod
    def make(
        cls,
        layers: Sequence[bytes],
        *,
        compression: str | Sequence[str | None] | None = "gzip",
        platform: str = HOST,
        docker: bool = False,
        algorithm: str = "sha256",
        config: Mapping[str, Any] | None = None,
        annotations: Mapping[str, str] | None = None,
        artifact_type: str | None = None,
        subject: Mapping[str, Any] | None = None,
        change: Mapping[str, Any] | None = None,
    ) -> Image:
        """An image of these tar archives.

        `compression` is one for all layers, or one for each. `config` is merged into the config's
        "config" object. `docker` uses the media types of Docker's schema 2. `change` replaces keys
        of the manifest at last, to make it wrong. `algorithm` is that of every digest but diff_ids.
        """
        each = (
            [compression] * len(layers)
            if compression is None or isinstance(compression, str)
            else compression
        )
        packed = [compressed(data, how) for data, how in zip(layers, each, strict=True)]
        about = {
            "created": "2020-01-01T00:00:00Z",
            **{key: value for key, value in split_platform(platform).items()},
            "config": {"Env": ["PATH=/usr/bin:/bin"], **(config or {})},
            "rootfs": {"type": "layers", "diff_ids": [digest_of(data) for data in layers]},
            "history": [{"created_by": f"layer {number}"} for number in range(len(layers))],
        }
        about_raw = dump(about)
        media_type = DOCKER_MANIFEST if docker else OCI_MANIFEST
        document: dict[str, Any] = {"schemaVersion": 2, "mediaType": media_type}
        if artifact_type is not None:
            document["artifactType"] = artifact_type
        document["config"] = descriptor(DOCKER_CONFIG if docker else OCI_CONFIG, about_raw, algorithm)
        document["layers"] = [
            descriptor(layer_type(how, docker=docker), data, algorithm)
            for data, how in zip(packed, each, strict=True)
        ]
        for key, value in (("subject", subject), ("annotations", annotations)):
            if value is not None:
                document[key] = dict(value)
        raw = dump({**document, **(change or {})})
        blobs = {digest_of(data, algorithm): data for data in (about_raw, *packed)}
        return cls(raw, media_type, digest_of(raw, algorithm), blobs, tuple(layers), platform)

    def describe(self) -> dict[str, Any]:
        """The descriptor of this image's manifest in an index."""
        found = {"mediaType": self.media_type, "size": len(self.raw), "digest": self.digest}
        return {**found, "platform": split_platform(self.platform)}


def layer_type(compression: str | None, *, docker: bool = False) -> str:
    if docker:
        return DOCKER_LAYER + (f".{compression}" if compression else "")
    return OCI_LAYER + (f"+{compression}" if compression else "")


@attrs.frozen
class Index:
    """An index (`raw`) and the images, or indexes, in it."""

    raw: bytes = attrs.field(repr=False)
    media_type: str
    digest: str
    images: tuple[Image | Index, ...] = attrs.field(repr=False, eq=False)

    blobs: dict[str, bytes] = attrs.field(init=False, factory=dict, repr=False, eq=False)

    @classmethod
    def make(
        cls,
        images: Sequence[Image | Index],
        *,
        docker: bool = False,
        algorithm: str = "sha256",
        annotations: Mapping[str, str] | None = None,
        extra: Sequence[Mapping[str, Any]] = (),
    ) -> Index:
        """An index of these; `extra` are further descriptors, of things that need not exist."""
        media_type = DOCKER_INDEX if docker else OCI_INDEX
        parts = [*(image.describe() for image in images), *extra]
        document: dict[str, Any] = {"schemaVersion": 2, "mediaType": media_type, "manifests": parts}
        if annotations:
            document["annotations"] = dict(annotations)
        raw = dump(document)
        return cls(raw, media_type, digest_of(raw, algorithm), tuple(images))

    def describe(self) -> dict[str, Any]:
        return {"mediaType": self.media_type, "size": len(self.raw), "digest": self.digest}


def many_layers(count: int = 20, size: int = 2000, **options: Any) -> Image:
    """An image of `count` layers: each has a file of its own, and each writes the file "last" anew."""
    layers = [
        layer({f"file-{number:03d}": bytes([number % 256]) * size, "last": str(number).encode()})
        for number in range(count)
    ]
    return Image.make(layers, **options)


def nested(depth: int, image: Image) -> Index:
    """An index in an index in an index …, `depth` deep, with `image` at the bottom."""
    found = Index.make([image])
    for _ in range(depth - 1):
        found = Index.make([found])
    return found


def self_index(digest: str) -> bytes:
    """An index that lists `digest`, under which a lying registry gives out the index itself."""
    part = {"mediaType": OCI_INDEX, "digest": digest, "size": 300, "platform": split_platform(HOST)}
    return dump({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [part]})


def with_key_twice(raw: bytes, key: str, value: Any) -> bytes:
    """The JSON object in `raw` with `key` once more, at its end."""
    return raw.rstrip()[:-1] + f",{json.dumps(key)}:{json.dumps(value)}}}".encode()
