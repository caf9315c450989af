"""Files in the making: named and locked, so that what a dead process left is known by its free lock."""

from __future__ import annotations

import fcntl
import os

from pycontainer.blobs.failures import store_errors
from pycontainer.blobs.locks import Lock, try_lock


class StagedFile:
    """A locked temporary file. `commit` renames it into place; otherwise `close` deletes it."""

    def __init__(self, directory: str) -> None:
        """Makes the file in `directory`, which is on the file system of the target.

        Raises NoSpace and StoreError.
        """
        with store_errors("making a temporary file in", directory):
            while True:
                path = os.path.join(directory, os.urandom(12).hex())
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                # Between these two calls somebody's sweep may take the lock, and the file.
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if os.fstat(fd).st_nlink:
                        break
                except BlockingIOError:
                    pass
                os.close(fd)
        self._lock = Lock(fd, path, shared=False)
        self._placed = False

    @property
    def fd(self) -> int:
        return self._lock.fd

    @property
    def path(self) -> str:
        return self._lock.path

    def write(self, chunk: bytes | memoryview) -> None:
        """Appends all of `chunk`. Raises NoSpace and StoreError."""
        with store_errors("writing", self.path):
            view = memoryview(chunk)
            while view:
                view = view[os.write(self.fd, view) :]

    def commit(self, target: str) -> None:
        """Renames the file to `target`, whatever was there. Raises NoSpace and StoreError."""
        with store_errors("placing", target):
            os.rename(self.path, target)
        self._placed = True

    def close(self) -> None:
        """Deletes the file unless it was committed; does nothing the second time."""
        if self._lock.fd < 0:
            return
        if not self._placed:
            with store_errors("deleting", self.path):
                os.unlink(self.path)
        self._lock.release()

    def __enter__(self) -> StagedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def write_file(target: str, data: bytes, staging: str) -> None:
    """Replaces `target` by a file of `data`, whole or not at all. Raises NoSpace and StoreError."""
    with StagedFile(staging) as staged:
        staged.write(data)
        staged.commit(target)


def sweep(directory: str) -> None:
    """Deletes the staged files of processes that died. Raises StoreError."""
    with store_errors("sweeping", directory):
        for name in os.listdir(directory):
            path = os.path.join(directory, name)
            lock = try_lock(path)
            if lock is not None:
                with lock:
                    os.unlink(path)
