"""Asking a container's file agent, and once more where it went meanwhile."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from pycontainer.errors import LaunchError
from pycontainer.runtime.layered_file import read_regular
from pycontainer.runtime.user import MAX_ACCOUNTS

if TYPE_CHECKING:
    from pycontainer.container import Container
    from pycontainer.supervisor.served import Served, Status

T = TypeVar("T")

_TRIES = 4
_SECONDS = 10.0


class Patience:
    """With agents that go away under one call: several may, and on a slow machine, where a call takes longer
    than a container that is started and stopped all the time stays as it is, more of them."""

    def __init__(self) -> None:
        self._tries = 0
        self._deadline = time.monotonic() + _SECONDS

    def over(self) -> bool:
        """Whether the call is to be given up; to be asked after each try."""
        self._tries += 1
        return self._tries >= _TRIES and time.monotonic() >= self._deadline


def serving(container: Container, call: Callable[[Served], T]) -> T:
    """What `call` makes of the container's agent, as the container is now.

    A start or an end in the middle of it takes the agent away: then `call` is made again, with the next
    one. Raises what it raises, and InvalidState for a container without files.
    """
    patience = Patience()
    while True:
        served = container._served()
        try:
            return call(served)
        except LaunchError:
            if not served.ended or patience.over():
                raise


def umask(container: Container) -> int:
    """What is taken from the mode of new files, as for the container's own programs."""
    given = container.options.umask
    return 0o022 if given is None else given


def working_directory(container: Container) -> str:
    """Where relative paths begin."""
    return container.options.cwd or container.image.config.cwd or "/"


def stat_result(status: Status) -> os.stat_result:
    """In the shape of os.stat; numbers of users and groups are the container's."""
    times = (status.atime_ns, status.mtime_ns, status.ctime_ns)
    first = (
        status.mode,
        status.inode,
        status.device,
        status.links,
        status.uid,
        status.gid,
        status.length,
        *(ns // 10**9 for ns in times),
    )
    more: dict[str, float] = {"st_blocks": status.blocks, "st_rdev": status.rdev, "st_blksize": 4096}
    for name, ns in zip(("st_atime", "st_mtime", "st_ctime"), times, strict=True):
        more |= {name: ns / 1e9, f"{name}_ns": ns}
    return os.stat_result(first, more)


def scan(served: Served, path: str) -> list[tuple[str, str]]:
    """The names in a directory, each with "directory", "link", "file" or "other"."""
    fd = served.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with os.scandir(fd) as entries:
            return [(entry.name, kind_of(entry)) for entry in entries]
    finally:
        os.close(fd)


def kind_of(entry: os.DirEntry[str]) -> str:
    """From the listing alone, where the file system says it there; overlay does."""
    try:
        if entry.is_symlink():
            return "link"
        if entry.is_dir(follow_symlinks=False):
            return "directory"
        return "file" if entry.is_file(follow_symlinks=False) else "other"
    except OSError:
        # Looked up by this process, which may not enter every directory that the agent opens.
        return "other"


def account_file(served: Served, path: str) -> bytes:
    """The container's /etc/passwd or /etc/group; b"" where there is none. Raises InvalidImage and OSError."""
    try:
        fd = served.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return b""
    try:
        return read_regular(fd, path, MAX_ACCOUNTS)
    finally:
        os.close(fd)
