"""Reading one small file out of a stack of layers, without mounting it.

The layers are what a hostile image unpacks to: directories that overlay would merge, topmost
first, with its whiteouts (character device 0:0) and opaque directories
(Documentation/filesystems/overlayfs.rst of the kernel). Every step is one name below a directory
that was looked at before, with links not followed; links are read and followed here, beneath the
stack's own root, so that nothing outside the layers is ever opened. A layer never changes, so what was
a directory stays one, and none has to be kept open: there may be 500 of each.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence

from pycontainer.errors import InvalidImage, LaunchError

MAX_LINKS = 40
"""As many links as the kernel follows (path_resolution(7))."""
MAX_STEPS = 1024
"""Names looked up in all. Without it, a few long links full of `..` cost minutes."""

# A FIFO would block its reader, a terminal would become the host's controlling one.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque")


def read_layered_file(layers: Sequence[str], path: str, *, limit: int) -> bytes | None:
    """The bytes of the regular file `path` in the merged `layers`; None where there is none.

    `InvalidImage` when it is no regular file, longer than `limit` bytes, or reached by a loop of
    links; `LaunchError` when the host does not let it be read.
    """
    try:
        for layer in layers:
            os.stat(layer)  # one that is gone is an error, not a layer without the file
        return _Reader(layers, path, limit).read()
    except OSError as error:
        where = error.filename if isinstance(error.filename, str) else path
        raise LaunchError("reading the image's file", errno=error.errno, path=where) from error


class _Reader:
    """One read: the layers' roots, and what is left of the bounds."""

    def __init__(self, roots: Sequence[str], path: str, limit: int) -> None:
        self._roots = list(roots)
        self._path = path
        self._limit = limit
        self._links = MAX_LINKS
        self._steps = MAX_STEPS

    def read(self) -> bytes | None:
        names = _names(self._path)
        while True:
            outcome = self._walk(names)
            if not isinstance(outcome, list):
                return outcome
            names = outcome

    def _walk(self, names: list[str]) -> bytes | list[str] | None:
        """From the root along `names`: the file, None, or the names to walk instead of these."""
        parents = self._roots
        for index, name in enumerate(names):
            self._spend()
            if name == "..":
                # All names before this one are directories and no links: a link restarts the walk.
                return names[: max(index - 1, 0)] + names[index + 1 :]
            entry = self._look_up(parents, name)
            if entry is None:
                return None
            if isinstance(entry, list):
                parents = entry
            elif stat.S_ISLNK(entry[1]):
                return self._follow(os.readlink(entry[0]), names, index)
            elif index == len(names) - 1:
                return self._read(*entry)
            else:
                return None  # a name below something that is no directory
        raise self._refused("is a directory")

    def _look_up(self, parents: list[str], name: str) -> list[str] | tuple[str, int] | None:
        """What overlay shows as `name`: directories to merge, or the path and mode of something else."""
        merged: list[str] = []
        for parent in parents:
            path = f"{parent}/{name}"
            try:
                found = os.stat(path, follow_symlinks=False)
            except FileNotFoundError:
                continue
            if stat.S_ISCHR(found.st_mode) and found.st_rdev == 0:
                break
            if not stat.S_ISDIR(found.st_mode):
                if merged:
                    break
                return path, found.st_mode
            merged.append(path)
            if _is_opaque(merged[-1]):
                break
        return merged or None

    def _follow(self, target: str, names: list[str], index: int) -> list[str]:
        self._links -= 1
        if self._links < 0:
            raise self._refused("is behind too many links")
        before = [] if target.startswith("/") else names[:index]
        return before + _names(target) + names[index + 1 :]

    def _read(self, path: str, mode: int) -> bytes:
        if not stat.S_ISREG(mode):
            raise self._refused("is no regular file")
        fd = os.open(path, _FILE)
        try:
            return read_regular(fd, self._path, self._limit)
        finally:
            os.close(fd)

    def _spend(self) -> None:
        self._steps -= 1
        if self._steps < 0:
            raise self._refused("is behind too long a path")

    def _refused(self, why: str) -> InvalidImage:
        return InvalidImage(f"/{self._path.lstrip('/')} in the image {why}")


def read_regular(fd: int, path: str, limit: int) -> bytes:
    """All of an open regular file of at most `limit` bytes; `InvalidImage` for anything else."""
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise InvalidImage(f"{path} is no regular file")
    parts: list[bytes] = []
    left = limit + 1
    while left > 0 and (part := os.read(fd, left)):
        parts.append(part)
        left -= len(part)
    if left <= 0:
        raise InvalidImage(f"{path} is longer than {limit} bytes")
    return b"".join(parts)


def _names(path: str) -> list[str]:
    return [name for name in path.split("/") if name not in ("", ".")]


def _is_opaque(path: str) -> bool:
    for name in _OPAQUE:
        try:
            if os.getxattr(path, name, follow_symlinks=False) == b"y":
                return True
        except OSError as error:
            # No such attribute, or a file system without any.
            if error.errno not in (errno.ENODATA, errno.ENOTSUP):
                raise
    return False
