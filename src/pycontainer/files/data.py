"""A file's bytes from one descriptor to another: by the kernel where it can, with holes left as holes."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator

from pycontainer import in_time

_PIECE = 4 * 2**20
_BUFFER = 2**20
_UNSIZED = 64 * 2**20
"""What is read at most of a file that says it is empty, as the kernel's own do."""
_NOT_HERE = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.ETXTBSY)


class Mover:
    """Remembers which way works between two file systems."""

    def __init__(self) -> None:
        self._ways: list[Callable[[int, int, int, int], int]] = [_clone, _send, _copy]

    def move(self, source: int, target: int) -> None:
        """Copies as many bytes as the file has now into a new one; what is added meanwhile is left out.

        Raises OSError.
        """
        status = os.fstat(source)
        if status.st_size == 0:
            self._range(source, target, 0, _UNSIZED)
            return
        if status.st_blocks * 512 >= status.st_size:
            self._range(source, target, 0, status.st_size)
            return
        for start, end in _extents(source, status.st_size):
            self._range(source, target, start, end)
        os.ftruncate(target, status.st_size)

    def _range(self, source: int, target: int, start: int, end: int) -> None:
        while start < end:
            in_time.check()
            try:
                moved = self._ways[0](source, target, start, min(end - start, _PIECE))
            except OSError as error:
                if error.errno not in _NOT_HERE or len(self._ways) == 1:
                    raise
                del self._ways[0]
                continue
            # Some files have an end for those calls alone.
            moved = moved or _copy(source, target, start, min(end - start, _PIECE))
            if moved == 0:
                return
            start += moved


def _clone(source: int, target: int, offset: int, size: int) -> int:
    """Shares blocks where the file system can."""
    return os.copy_file_range(source, target, size, offset, offset)


def _send(source: int, target: int, offset: int, size: int) -> int:
    os.lseek(target, offset, os.SEEK_SET)
    return os.sendfile(target, source, offset, size)


def _copy(source: int, target: int, offset: int, size: int) -> int:
    data = os.pread(source, min(size, _BUFFER), offset)
    done = 0
    while done < len(data):
        done += os.pwrite(target, data[done:], offset + done)
    return done


def _extents(source: int, size: int) -> Iterator[tuple[int, int]]:
    """Where the file has data, below `size`."""
    end = 0
    while end < size:
        try:
            start = os.lseek(source, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return
        end = os.lseek(source, start, os.SEEK_HOLE)
        if start < size:
            yield start, min(end, size)
