"""Directories that belong to somebody alive: containers, and the supervisors that own them.

The lock is on the directory itself, so there is no file to make beside it, and no moment in which
a directory without its lock file has to be explained.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress

import attrs

from pycontainer.blobs.failures import store_errors
from pycontainer.blobs.locks import Lock, try_lock
from pycontainer.layer.apart import spread


def claim(parent: str) -> Lock:
    """Makes a directory with a fresh random name in `parent` and locks it. Raises NoSpace and StoreError."""
    while True:
        path = os.path.join(parent, os.urandom(16).hex())
        try:
            with store_errors("making", path):
                os.mkdir(path, 0o700)
                # Until the lock is held a sweep may take the directory for a dead process's.
                lock = try_lock(path)
        except BaseException:
            with suppress(OSError):
                os.rmdir(path)
            raise
        if lock is not None:
            return lock


def abandoned(parent: str) -> list[Lock]:
    """The directories in `parent` whose owner is dead, locked, so that only one process deals with each."""
    with store_errors("listing", parent):
        names = sorted(os.listdir(parent))
        locks = [try_lock(os.path.join(parent, name)) for name in names]
    return [lock for lock in locks if lock is not None]


class Containers:
    """The directories of one process's containers, in a directory of their own whose lock says that it
    lives: copies that are handed to the supervisor keep it held. What is in it is removed container by
    container, by the supervisor at its end, or by the next process that opens the store and finds the
    lock free.
    """

    temporary = True
    """Whether they go with their process."""

    def __init__(self, parent: str) -> None:
        """Raises NoSpace and StoreError."""
        self._lock = claim(parent)
        self.path = self._lock.path
        spread(self.path)

    @property
    def alive(self) -> bool:
        """False in a forked child, whose copy of the lock was closed."""
        return self._lock.fd >= 0

    @property
    def fd(self) -> int:
        return self._lock.fd

    def unmade(self, container: str) -> ContainerDir:
        """The directory of a container of that id, which its start is to make."""
        path = f"{self.path}/{container}"
        return ContainerDir(container, path, path + "/upper", path + "/work", self)

    def make(self) -> ContainerDir:
        """A new container's directory. Raises NoSpace and StoreError."""
        made = self.unmade(os.urandom(16).hex())
        path = made.path
        with store_errors("making", path):
            os.mkdir(path, 0o700)
            os.mkdir(made.upper, 0o755)
            os.mkdir(made.work, 0o700)
        return made


@attrs.frozen
class ContainerDir:
    """A container's own directory: `upper` and `work` for overlay."""

    id: str
    path: str
    upper: str
    work: str
    group: Containers = attrs.field(repr=False)

    @property
    def volumes(self) -> str:
        """A directory for what the image's volumes hold; made where it is needed."""
        return self.path + "/volumes"

    def discard(self) -> None:
        """Removes the directory if nothing ever ran in it; what a start that was broken off left is the
        supervisor's to remove, which may be doing so. Raises StoreError."""
        with store_errors("removing", self.path):
            for path in (self.work, self.upper, self.path):
                try:
                    os.rmdir(path)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    if error.errno not in (errno.ENOTEMPTY, errno.EBUSY):
                        raise
                    break


@attrs.frozen
class MountPoint:
    """A directory `target` to mount an image on, in one that nobody else may enter.

    `fd` holds the lock that says the mount is in use: a copy handed to the supervisor keeps it held as
    long as that has the mount in hand. After both it and this process died, the next process that
    opens the store finds the lock free, unmounts and removes.
    """

    path: str
    target: str
    _lock: Lock = attrs.field(repr=False)

    @classmethod
    def make(cls, parent: str) -> MountPoint:
        """Raises NoSpace and StoreError."""
        lock = claim(parent)
        made = cls(lock.path, lock.path + "/root", lock)
        with store_errors("making", made.target):
            os.mkdir(made.target, 0o700)
        return made

    def __del__(self) -> None:
        """Nothing was mounted on what was not handed over, unless the supervisor removes it."""
        if self._lock.fd >= 0:
            for path in (self.target, self.path):
                with suppress(OSError):
                    os.rmdir(path)
            self.hand_over()

    @property
    def fd(self) -> int:
        return self._lock.fd

    def hand_over(self) -> None:
        """Closes this process's descriptor without giving the lock up for the supervisor's copy."""
        os.close(self._lock.detach())


def sweep_mounts(parent: str, unmount: Callable[..., None]) -> None:
    """Unmounts what nobody has in hand any more. Raises StoreError and what `unmount` raises."""
    for lock in abandoned(parent):
        target = lock.path + "/root"
        with lock:
            unmount(target, target, lock.path)


@attrs.frozen
class Owner:
    """A supervisor's mark in the store: `id` goes into the names of what it makes outside (cgroups).

    `fd` is closed on exec. Give the supervisor a copy and then call `hand_over`: from there on the
    mark lives exactly as long as the supervisor, whatever happens to this process and its children.
    """

    id: str
    path: str
    _lock: Lock = attrs.field(repr=False)

    @property
    def fd(self) -> int:
        return self._lock.fd

    def hand_over(self) -> None:
        """Closes this process's descriptor without giving the lock up for the supervisor's copy."""
        os.close(self._lock.detach())


@attrs.frozen
class DeadOwner:
    """A supervisor that is gone; its lock is held here, so that nobody else tidies up after it."""

    id: str
    path: str
    _lock: Lock = attrs.field(repr=False)

    def forget(self) -> None:
        """Removes the mark, once everything that bears its `id` is gone. Raises StoreError."""
        with store_errors("removing", self.path):
            os.rmdir(self.path)
        self._lock.release()


def sweep_containers(parent: str, remove_tree: Callable[[str], None]) -> None:
    """Removes the directories of containers that nobody holds. Raises StoreError."""
    dead = abandoned(parent)
    if not dead:
        return
    # Each removal is a process of the supervisor's; moved together first, hundreds need only one.
    with claim(parent) as heap:
        with store_errors("sweeping", parent):
            for lock in dead:
                # Its supervisor may be at its own end, in which it removes the same.
                with suppress(FileNotFoundError):
                    os.rename(lock.path, os.path.join(heap.path, os.path.basename(lock.path)))
        remove_tree(heap.path)
    for lock in dead:
        lock.release()
