"""The two sides of a copy, with one way to speak to both: this process's files, and a container's.

Everything is done to one name in an open directory (`at`), and no link is followed: who swaps names
meanwhile sends nothing elsewhere. Methods raise OSError.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Protocol

import attrs

from pycontainer.files.following import resolve
from pycontainer.files.serving import stat_result

if TYPE_CHECKING:
    from pycontainer.supervisor.served import Served

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PRIVATE = 0o600
_TIMES = -(1 << 63), (1 << 63) - 1


@attrs.frozen
class Looks:
    """What a copy gets; ids of -1 are whatever who makes it has."""

    mode: int
    uid: int
    gid: int
    atime_ns: int
    mtime_ns: int


class Side(Protocol):
    """See the module; `top`, `resolve` and `look` take whole absolute paths, and follow links."""

    def resolve(self, path: str) -> str: ...

    def look(self, path: str) -> os.stat_result: ...

    def top(self, path: str) -> int:
        """A descriptor of the directory."""

    def directory(self, at: int, name: str) -> int: ...

    def file(self, at: int, name: str) -> int:
        """A descriptor of a regular file, for reading."""

    def status(self, at: int, name: str) -> os.stat_result: ...

    def readlink(self, at: int, name: str) -> str: ...

    def create(self, at: int, name: str) -> int:
        """A descriptor of a new file, for writing; nobody else may look into it so far."""

    def mkdir(self, at: int, name: str) -> None:
        """A new directory, for its owner alone so far."""

    def mkfifo(self, at: int, name: str) -> None: ...

    def symlink(self, at: int, name: str, content: str) -> None: ...

    def link(self, at: int, name: str, existing_at: int, existing: str) -> None: ...

    def rename(self, at: int, name: str, to: str) -> None: ...

    def unlink(self, at: int, name: str) -> None: ...

    def dress_file(self, fd: int, at: int, name: str, looks: Looks) -> None:
        """Sets what `looks` says of the file that `create` gave."""

    def dress_directory(self, fd: int, looks: Looks) -> None: ...

    def dress_name(self, at: int, name: str, looks: Looks) -> None:
        """Of a link, whose mode stays, or a named pipe."""


class HostSide:
    """This process's own files. What is made belongs to who makes it: ids in `Looks` are not used."""

    def resolve(self, path: str) -> str:
        return os.path.realpath(path)

    def look(self, path: str) -> os.stat_result:
        return os.stat(path)

    def top(self, path: str) -> int:
        return os.open(path, _DIRECTORY)

    def directory(self, at: int, name: str) -> int:
        return os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=at)

    def file(self, at: int, name: str) -> int:
        return regular(os.open(name, _READ, dir_fd=at))

    def status(self, at: int, name: str) -> os.stat_result:
        return os.stat(name, dir_fd=at, follow_symlinks=False)

    def readlink(self, at: int, name: str) -> str:
        return os.readlink(name, dir_fd=at)

    def create(self, at: int, name: str) -> int:
        return os.open(name, _CREATE, _PRIVATE, dir_fd=at)

    def mkdir(self, at: int, name: str) -> None:
        os.mkdir(name, 0o700, dir_fd=at)

    def mkfifo(self, at: int, name: str) -> None:
        os.mkfifo(name, _PRIVATE, dir_fd=at)

    def symlink(self, at: int, name: str, content: str) -> None:
        os.symlink(content, name, dir_fd=at)

    def link(self, at: int, name: str, existing_at: int, existing: str) -> None:
        os.link(existing, name, src_dir_fd=existing_at, dst_dir_fd=at, follow_symlinks=False)

    def rename(self, at: int, name: str, to: str) -> None:
        os.rename(name, to, src_dir_fd=at, dst_dir_fd=at)

    def unlink(self, at: int, name: str) -> None:
        os.unlink(name, dir_fd=at)

    def dress_file(self, fd: int, at: int, name: str, looks: Looks) -> None:
        self.dress_directory(fd, looks)

    def dress_directory(self, fd: int, looks: Looks) -> None:
        os.fchmod(fd, looks.mode)
        os.utime(fd, ns=(looks.atime_ns, looks.mtime_ns))

    def dress_name(self, at: int, name: str, looks: Looks) -> None:
        if stat.S_ISFIFO(self.status(at, name).st_mode):
            fd = os.open(name, _READ, dir_fd=at)
            try:
                self.dress_directory(fd, looks)
            finally:
                os.close(fd)
        else:
            times = looks.atime_ns, looks.mtime_ns
            os.utime(name, ns=times, dir_fd=at, follow_symlinks=False)


class ContainerSide:
    """A container's files, through its agent; ids are the container's."""

    def __init__(self, served: Served) -> None:
        self._served = served

    def resolve(self, path: str) -> str:
        return resolve(self._served, path, strict=False)

    def look(self, path: str) -> os.stat_result:
        return stat_result(self._served.stat(path))

    def top(self, path: str) -> int:
        return self._served.open(path, os.O_RDONLY | os.O_DIRECTORY)

    def directory(self, at: int, name: str) -> int:
        return self._served.open(name, os.O_RDONLY | os.O_DIRECTORY, at=at)

    def file(self, at: int, name: str) -> int:
        return regular(self._served.open(name, os.O_RDONLY | os.O_NOFOLLOW, at=at))

    def status(self, at: int, name: str) -> os.stat_result:
        return stat_result(self._served.stat(name, follow=False, at=at))

    def readlink(self, at: int, name: str) -> str:
        return self._served.readlink(name, at=at)

    def create(self, at: int, name: str) -> int:
        return self._served.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE, at=at)

    def mkdir(self, at: int, name: str) -> None:
        self._served.mkdir(name, 0o700, at=at)

    def mkfifo(self, at: int, name: str) -> None:
        self._served.mkfifo(name, _PRIVATE, at=at)

    def symlink(self, at: int, name: str, content: str) -> None:
        self._served.symlink(name, content, at=at)

    def link(self, at: int, name: str, existing_at: int, existing: str) -> None:
        self._served.link(name, existing, at=at, existing_at=existing_at)

    def rename(self, at: int, name: str, to: str) -> None:
        self._served.rename(name, to, at=at)

    def unlink(self, at: int, name: str) -> None:
        self._served.unlink(name, at=at)

    def dress_file(self, fd: int, at: int, name: str, looks: Looks) -> None:
        self._dress(fd, at, name, looks)

    def dress_directory(self, fd: int, looks: Looks) -> None:
        self._dress(fd, fd, "", looks)

    def dress_name(self, at: int, name: str, looks: Looks) -> None:
        self._give(at, name, looks)
        if stat.S_ISFIFO(self.status(at, name).st_mode):
            self._served.chmod(name, looks.mode, follow=False, at=at)
        self._served.utime(name, *_times(looks), follow=False, at=at)

    def _dress(self, fd: int, at: int, name: str, looks: Looks) -> None:
        if looks.uid <= 0 and looks.gid <= 0:
            # The container's root is this user, or this is root: no need to ask.
            os.fchmod(fd, looks.mode)
            os.utime(fd, ns=_times(looks))
            return
        # Another owner takes the set-id bits away: so the mode comes after.
        self._give(at, name, looks)
        self._served.chmod(name, looks.mode, follow=False, at=at)
        self._served.utime(name, *_times(looks), follow=False, at=at)

    def _give(self, at: int, name: str, looks: Looks) -> None:
        if looks.uid > 0 or looks.gid > 0:
            self._served.chown(name, looks.uid, looks.gid, follow=False, at=at)


def _times(looks: Looks) -> tuple[int, int]:
    low, high = _TIMES
    return min(max(looks.atime_ns, low), high), min(max(looks.mtime_ns, low), high)


def regular(fd: int) -> int:
    """The descriptor, if it is one of a regular file. Raises OSError with ENXIO, and closes it."""
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
