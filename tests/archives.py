"""Archives of images for tests: well-formed ones, and parts from which broken ones are made."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import layer_tars as tars
from pycontainer.oci.platform import Platform

Parts = dict[str, bytes]
"""The files of an archive by name, in their order."""

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
REF_NAME = "org.opencontainers.image.ref.name"
CONTAINERD_NAME = "io.containerd.image.name"


def layer(text: str = "hello") -> bytes:
    """The tar stream of a layer with one file."""
    return tars.archive(tars.entry(b"file-" + text.encode(), text.encode()))


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def dump(document: Any) -> bytes:
    return json.dumps(document).encode()


def config(*streams: bytes, **more: Any) -> bytes:
    """A config for layers whose uncompressed streams are these."""
    platform = Platform.host()
    document = {
        "architecture": platform.architecture,
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [sha256(stream) for stream in streams]},
        **more,
    }
    return dump(document)


def docker(*streams: bytes, tags: list[str] | None = None, blobs: tuple[bytes, ...] | None = None) -> Parts:
    """A docker-archive of one image; `blobs` are its layers where they are compressed."""
    raw = config(*streams)
    names = [f"{number}/layer.tar" for number in range(len(streams))]
    entry = {"Config": f"{sha256(raw)[7:]}.json", "RepoTags": tags, "Layers": names}
    return {
        "manifest.json": dump([entry]),
        entry["Config"]: raw,  # type: ignore[dict-item]
        **dict(zip(names, blobs or streams, strict=True)),
    }


def descriptor(media_type: str, data: bytes, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": sha256(data), "size": len(data), **more}


def blob(data: bytes) -> Parts:
    return {f"blobs/sha256/{sha256(data)[7:]}": data}


class Layout:
    """An OCI layout in the making; `parts()` are its files."""

    def __init__(self) -> None:
        self.blobs: Parts = {}
        self.entries: list[dict[str, Any]] = []

    def add(self, data: bytes) -> bytes:
        self.blobs.update(blob(data))
        return data

    def image(self, *streams: bytes, compressed: tuple[bytes, ...] | None = None, **more: Any) -> bytes:
        """The manifest of a new image of these layers; `more` goes into its config."""
        raw = self.add(config(*streams, **more))
        layers = [
            descriptor(OCI_LAYER + ("" if compressed is None else "+gzip"), self.add(data))
            for data in compressed or streams
        ]
        document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST}
        return self.add(dump({**document, "config": descriptor(OCI_CONFIG, raw), "layers": layers}))

    def index(self, *entries: dict[str, Any]) -> bytes:
        return self.add(dump({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}))

    def list(
        self, data: bytes, name: str | None = None, *, media_type: str = OCI_MANIFEST, **more: Any
    ) -> None:
        """Adds an entry to `index.json`."""
        annotations = {} if name is None else {"annotations": {REF_NAME: name}}
        self.entries.append(descriptor(media_type, data, **annotations, **more))

    def parts(self) -> Parts:
        return {
            "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
            "index.json": dump({"schemaVersion": 2, "manifests": self.entries}),
            **self.blobs,
        }


def layout(*streams: bytes, name: str | None = None) -> Parts:
    """A layout of one image."""
    made = Layout()
    made.list(made.image(*streams), name)
    return made.parts()


def tar(parts: Parts) -> bytes:
    return tars.archive(*(tars.entry(name.encode(), data) for name, data in parts.items()))


def directory(path: Path, parts: Parts) -> Path:
    for name, data in parts.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path
