"""The stages of a pull alone, on the same bytes: no pull can be faster than the slowest of them.

They run in a process of their own, one layer after another, without store or any other stage.
"""

from __future__ import annotations

import hashlib
import http.client
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs

STAGES = ("download", "inflate", "sha256", "write files")

_PIECE = 256 << 10


@attrs.frozen
class Blob:
    """A layer as the stages get it: paths of the archive and of the same compressed, host and path of the
    latter in a registry."""

    tar: str
    gz: str
    host: str
    url: str


def run_stage(name: str, blobs: list[list[str]], place: Path) -> int:
    """Nanoseconds that the stage takes for all `blobs` (the fields of `Blob`s)."""
    stage: Callable[[Blob, Path], int] = {
        "download": _download,
        "inflate": _inflate,
        "sha256": _sha256,
        "write files": _write_files,
    }[name]
    return sum(stage(Blob(*blob), place / f"stage-{number}") for number, blob in enumerate(blobs))


def _pieces(path: str) -> Iterator[bytes]:
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(_PIECE):
            yield piece


def _download(blob: Blob, target: Path) -> int:
    """From the registry into a file, hashed."""
    begun = time.perf_counter_ns()
    connection = http.client.HTTPConnection(blob.host)
    try:
        connection.request("GET", blob.url)
        answer = connection.getresponse()
        hashed = hashlib.sha256()
        with target.open("xb", buffering=0) as file:
            while piece := answer.read(_PIECE):
                hashed.update(piece)
                file.write(piece)
        hashed.digest()
        return time.perf_counter_ns() - begun
    finally:
        connection.close()
        target.unlink(missing_ok=True)


def _inflate(blob: Blob, _: Path) -> int:
    from pycontainer.layer.compression import decompress

    begun = time.perf_counter_ns()
    for _piece in decompress(_pieces(blob.gz), "gzip"):
        pass
    return time.perf_counter_ns() - begun


def _sha256(blob: Blob, _: Path) -> int:
    begun = time.perf_counter_ns()
    hashed = hashlib.sha256()
    for piece in _pieces(blob.tar):
        hashed.update(piece)
    hashed.digest()
    return time.perf_counter_ns() - begun


def _write_files(blob: Blob, directory: Path) -> int:
    """Our own extraction, which reads the archive from a file."""
    from pycontainer.layer.limits import Limits
    from pycontainer.supervisor import files

    limits = Limits().within(str(directory.parent))
    directory.mkdir()
    try:
        with open(blob.tar, "rb", buffering=0) as file:
            begun = time.perf_counter_ns()
            files.apply_layer(
                file.fileno(),
                str(directory),
                max_bytes=limits.max_bytes,
                max_entries=limits.max_entries,
            )
            return time.perf_counter_ns() - begun
    finally:
        files.remove_tree(str(directory))
