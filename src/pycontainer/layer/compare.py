"""Two unpacked layers: whether they are the same, and where not."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Iterator
from contextlib import closing
from itertools import zip_longest
from typing import Any

from pycontainer.layer.diff import of_upper


def difference(tree: str, wanted: str) -> str | None:
    """What is other in the layer `tree` than in `wanted`, both absolute paths; None where nothing is.

    Raises ImageError where one cannot be read, InvalidImage for what no layer holds, and LaunchError.
    """
    if _root(tree) != _root(wanted):
        return "its root directory was changed"
    if _digest(tree) == _digest(wanted):
        return None
    with closing(of_upper(tree).chunks()) as one, closing(of_upper(wanted).chunks()) as other:
        return _first_difference(_archive(one), _archive(other))


def _first_difference(found: tarfile.TarFile, wanted: tarfile.TarFile) -> str:
    for one, other in zip_longest(found, wanted):
        if one is None or (other is not None and other.name < one.name):
            return f"{other.name} is missing"
        if other is None or one.name < other.name:
            return f"{one.name} does not belong to it"
        if _look(found, one) != _look(wanted, other):
            return f"{one.name} was changed"
    return "it was changed"  # back again already, it seems


def _root(tree: str) -> tuple[int, int, int]:
    """An archive has no entry for it."""
    stat = os.stat(tree)
    return stat.st_mode, stat.st_uid, stat.st_gid


def _digest(tree: str) -> bytes:
    hashed = hashlib.sha256()
    for chunk in of_upper(tree).chunks():
        hashed.update(chunk)
    return hashed.digest()


def _archive(chunks: Iterator[bytes]) -> tarfile.TarFile:
    return tarfile.open(fileobj=_File(chunks), mode="r|")


def _look(archive: tarfile.TarFile, member: tarfile.TarInfo) -> tuple[Any, ...]:
    hashed = hashlib.sha256()
    content = archive.extractfile(member) if member.isreg() else None
    while content is not None and (piece := content.read(1 << 20)):
        hashed.update(piece)
    info = member.get_info()
    return (*sorted(info.items()), sorted(member.pax_headers.items()), hashed.digest())


class _File(io.RawIOBase):
    """Pieces, as the file that tarfile wants."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._left = piece
        count = min(len(buffer), len(self._left))
        buffer[:count], self._left = self._left[:count], self._left[count:]
        return count
