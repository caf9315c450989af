"""The way down a tree as open directories: no name on it is looked up twice as part of a path."""

from __future__ import annotations

import os
from collections.abc import Callable

from pycontainer.errors import ContainerError

MAX_DEPTH = 4096
"""Levels of directories in one tree."""
_SPACING = 64
"""As many levels are kept open, and of those beneath them every so many-th."""


class Trail:
    """From a tree's top to a directory in it. Closes what it opened; a context manager."""

    def __init__(self, top: int, open_in: Callable[[int, str], int]) -> None:
        """Takes the descriptor `top`; `open_in(at, name)` opens a directory in another one."""
        self._open_in = open_in
        self._fds = [top]
        self._ids = [identity(top)]
        self.names: list[str] = []

    @property
    def fd(self) -> int:
        return self._fds[-1]

    @property
    def top_id(self) -> tuple[int, int]:
        return self._ids[0]

    @property
    def id(self) -> tuple[int, int]:
        """Device and inode of the directory."""
        return self._ids[-1]

    def enter(self, name: str) -> None:
        """Raises OSError, and ContainerError for more than `MAX_DEPTH` levels."""
        if len(self.names) >= MAX_DEPTH:
            raise ContainerError(f"a tree of more than {MAX_DEPTH} levels of directories")
        fd = self._open_in(self.fd, name)
        above = len(self.names)
        self._fds.append(fd)
        self._ids.append(identity(fd))
        self.names.append(name)
        if above > _SPACING and above % _SPACING:
            os.close(self._fds[above])
            self._fds[above] = -1

    def leave(self) -> None:
        """Back to the directory above. Raises OSError, and ContainerError where it is another one now."""
        self.names.pop()
        self._ids.pop()
        os.close(self._fds.pop())
        if self._fds[-1] < 0:
            self._open_again()

    def way(self, names: list[str]) -> int:
        """A new descriptor of the directory that one gets to from the top."""
        fd = os.dup(self._fds[0])
        for name in names:
            try:
                deeper = self._open_in(fd, name)
            finally:
                os.close(fd)
            fd = deeper
        return fd

    def _open_again(self) -> None:
        last = len(self._fds) - 1
        start = max(level for level in range(last) if self._fds[level] >= 0)
        for level in range(start, last):
            # All of them: the next ones to be left are these.
            self._fds[level + 1] = self._open_in(self._fds[level], self.names[level])
        if identity(self.fd) != self._ids[last]:
            raise ContainerError(f"{'/'.join(self.names)!r} was moved away while it was being copied")

    def __enter__(self) -> Trail:
        return self

    def __exit__(self, *failure: object) -> None:
        for fd in self._fds:
            if fd >= 0:
                os.close(fd)
        self._fds.clear()


def identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino
