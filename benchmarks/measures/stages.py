"""The stages of a pull alone, on the same bytes: no pull can be faster than the slowest of them.

They run in a process of their own, one layer after another, without network, store or any other stage.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

STAGES = ("inflate", "sha256", "write files")

_PIECE = 256 << 10


def run_stage(name: str, layers: list[list[str]], place: Path) -> int:
    """Nanoseconds that the stage takes. A layer is two paths: of the archive, and the same compressed."""
    stage: Callable[[str, str, Path], int] = {
        "inflate": _inflate,
        "sha256": _sha256,
        "write files": _write_files,
    }[name]
    return sum(stage(tar, gz, place / f"stage-{number}") for number, (tar, gz) in enumerate(layers))


def _pieces(path: str) -> Iterator[bytes]:
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(_PIECE):
            yield piece


def _inflate(_: str, gz: str, __: Path) -> int:
    from pycontainer.layer.compression import decompress

    begun = time.perf_counter_ns()
    for _piece in decompress(_pieces(gz), "gzip"):
        pass
    return time.perf_counter_ns() - begun


def _sha256(tar: str, _: str, __: Path) -> int:
    begun = time.perf_counter_ns()
    hashed = hashlib.sha256()
    for piece in _pieces(tar):
        hashed.update(piece)
    hashed.digest()
    return time.perf_counter_ns() - begun


def _write_files(tar: str, _: str, directory: Path) -> int:
    """Our own extraction, which reads the archive from a file."""
    from pycontainer.layer.limits import Limits
    from pycontainer.supervisor import files

    limits = Limits().within(str(directory.parent))
    directory.mkdir()
    try:
        with open(tar, "rb", buffering=0) as file:
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
