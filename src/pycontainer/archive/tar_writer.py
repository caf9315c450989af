"""An uncompressed tar archive, written member by member; the same members give the same bytes."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterable

from pycontainer.errors import StoreCorrupt

_BLOCK = 512
# tar(1) pads archives to whole records, and some readers expect it.
_RECORD = 20 * _BLOCK


class TarWriter:
    """Hands an archive to `write`. Every member is root's, from 1970, and readable for all."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self._size = 0

    def directory(self, name: str) -> None:
        member = tarfile.TarInfo(name)
        member.type = tarfile.DIRTYPE
        member.mode = 0o755
        self._put(_header(member))

    def file(self, name: str, size: int, chunks: Iterable[bytes]) -> None:
        """A file of `size` bytes. Raises StoreCorrupt where `chunks` has another length."""
        member = tarfile.TarInfo(name)
        member.size = size
        self._put(_header(member))
        seen = 0
        for chunk in chunks:
            seen += len(chunk)
            if seen > size:
                break
            self._put(chunk)
        if seen != size:
            raise StoreCorrupt(f"{name}: has not the {size} bytes that it should have")
        self._put(bytes(-size % _BLOCK))

    def finish(self) -> None:
        """Ends the archive: two blocks of zeros, and what fills the last record."""
        self._put(bytes(2 * _BLOCK + -(self._size + 2 * _BLOCK) % _RECORD))

    def _put(self, data: bytes) -> None:
        self._write(data)
        self._size += len(data)


def _header(member: tarfile.TarInfo) -> bytes:
    # Plain ustar, with an extended header where a name or size does not fit.
    return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")
