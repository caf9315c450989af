"""Locks on files and directories: flock(2), which belongs to an open description and dies with it.

Never fcntl's POSIX locks: those vanish when any descriptor of the file is closed, anywhere in the
process. A held lock means "alive"; nothing here looks at process ids to decide that.
"""

from __future__ import annotations

import fcntl
import os
import weakref
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any

from pycontainer import in_time

_LONGEST_SLEEP = 0.04  # seconds between two tries

# Exclusive locks belong to the process that took them. A child made by os.fork() shares their open
# descriptions and would keep them held after that process is gone, so it closes its copies.
_exclusive: weakref.WeakSet[Lock] = weakref.WeakSet()


class Lock:
    """A held lock. `release()` gives it up, as do the end of a `with` block and of the object."""

    __slots__ = ("__weakref__", "_owner", "fd", "path")

    def __init__(self, fd: int, path: str, *, shared: bool) -> None:
        self.fd = fd
        self.path = path
        self._owner = os.getpid()
        if not shared:
            _exclusive.add(self)

    def __repr__(self) -> str:
        return f"<Lock {self.path} {'released' if self.fd < 0 else self.fd}>"

    def release(self) -> None:
        """Gives the lock up; does nothing the second time."""
        fd, self.fd = self.fd, -1
        if fd < 0:
            return
        # Unlocking reaches every copy of the description, such as one in a forked child that knows
        # nothing of it; for the same reason a forked child only closes.
        if self._owner == os.getpid():
            fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)

    def unlink(self) -> None:
        """Gives the lock up and deletes its file, whose name then stands for nothing. Raises OSError."""
        if self.fd < 0:
            return
        # Gone already where a signal's handler broke off the call before this one.
        with suppress(FileNotFoundError):
            os.unlink(self.path)
        self.release()

    def detach(self) -> int:
        """The descriptor; from now on its new owner closes it, which gives the lock up."""
        fd, self.fd = self.fd, -1
        return fd

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: TracebackType | None) -> None:
        self.release()

    # The modules' names may be gone when the interpreter ends.
    def __del__(self, _close: Any = os.close) -> None:
        if self.fd >= 0:
            _close(self.fd)


def lock_file(path: str, *, shared: bool = False, wait: bool = True) -> Lock | None:
    """Locks the file `path`, made where missing; None when it is held elsewhere and `wait` is false.

    Waits otherwise, as long as there is time (`in_time`): whoever holds it is alive, and Ctrl-C interrupts
    the wait.
    The file may be deleted by whoever holds its lock; the name then stands for a new file.
    Raises OSError.
    """
    return _lock(path, os.O_RDWR | os.O_CREAT, shared, wait)


def wait_for(path: str, sleep: Callable[[float], None]) -> Lock:
    """Locks the file `path`, made where missing, trying again and again: in a thread that no Ctrl-C
    reaches, `sleep` may raise to give the wait up. Raises OSError."""
    seconds = 0.001
    while (lock := lock_file(path, wait=False)) is None:
        sleep(seconds)
        seconds = min(2 * seconds, _LONGEST_SLEEP)
    return lock


def try_lock(path: str) -> Lock | None:
    """Locks the existing file or directory `path`; None when it is held elsewhere or gone."""
    try:
        return _lock(path, os.O_RDONLY, shared=False, wait=False)
    except FileNotFoundError:
        return None


def share(path: str) -> Lock | None:
    """A shared lock on the existing file or directory `path`, after waiting; None when it is gone."""
    try:
        return _lock(path, os.O_RDONLY, shared=True, wait=True)
    except FileNotFoundError:
        return None


def flock(fd: int, operation: int, *, wait: bool = True) -> None:
    """flock(2); waits as long as there is time (`in_time`). Raises OSError, BlockingIOError where it does not
    `wait`."""
    if not wait:
        return fcntl.flock(fd, operation | fcntl.LOCK_NB)
    if in_time.ends() is None:
        return fcntl.flock(fd, operation)
    seconds = 0.001
    while True:
        with suppress(BlockingIOError):
            return fcntl.flock(fd, operation | fcntl.LOCK_NB)
        in_time.sleep(seconds)
        seconds = min(2 * seconds, _LONGEST_SLEEP)


def _lock(path: str, flags: int, shared: bool, wait: bool) -> Lock | None:
    operation = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    while True:
        fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            flock(fd, operation, wait=wait)
            if _still_named(fd, path):
                return Lock(fd, path, shared=shared)
        except BlockingIOError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _still_named(fd: int, path: str) -> bool:
    """Whether `path` is still the file that was locked, not deleted or replaced during the wait."""
    try:
        named = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    opened = os.fstat(fd)
    return (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)


def _close_exclusive_after_fork() -> None:
    for lock in list(_exclusive):
        lock.release()
    _exclusive.clear()


os.register_at_fork(after_in_child=_close_exclusive_after_fork)
