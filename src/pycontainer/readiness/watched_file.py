"""A path in the container: its directory is watched, where the kernel lets us (inotify(7))."""

from __future__ import annotations

import math
import os
import select
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from pycontainer import _sys
from pycontainer.readiness.condition import Condition, Pause, Waiting

if TYPE_CHECKING:
    from pycontainer.supervisor.served import Served
    from pycontainer.wait import File

_LONGEST_PAUSE = 0.025
_WATCHED_SECONDS = 0.25
"""A look without an event: what is mounted, or lies behind a link, makes none in the directory."""
_EVENTS = 64 * 1024
_LEAST_SECONDS = 0.005
"""Between two looks, however many files are made in that directory."""


class FileThere(Condition):
    def __init__(self, wanted: File, waiting: Waiting) -> None:
        self._path = wanted.path
        self._container = waiting.container
        self._pause = Pause(_LONGEST_PAUSE)
        self._watch = -1
        self._watched: tuple[int, int] | None = None
        self._looked = -math.inf

    @property
    def fds(self) -> list[tuple[int, int]]:
        resting = self.due == self._looked + _LEAST_SECONDS
        return [] if self._watch < 0 or resting else [(self._watch, select.POLLIN)]

    def look(self, now: float) -> bool:
        if now < self.due and not self._changed():
            return False
        if now < self._looked + _LEAST_SECONDS:
            self.due = self._looked + _LEAST_SECONDS
            return False
        self._looked = now
        served = self._container._serving()
        if self._is_there(served):
            return True
        self._watch_nearest(served)
        self.due = now + (self._pause() if self._watch < 0 else _WATCHED_SECONDS)
        # It may have been made before it was watched.
        return self._is_there(served)

    def close(self) -> None:
        fd, self._watch = self._watch, -1
        self._watched = None
        if fd >= 0:
            # Closing takes the kernel some 15 ms: it waits until nobody can be looking at the watch.
            threading.Thread(target=os.close, args=(fd,), name="pycontainer-unwatch", daemon=True).start()

    def _changed(self) -> bool:
        """Whether something was made in the directory; asked once for each."""
        if self._watch < 0:
            return False
        try:
            os.read(self._watch, _EVENTS)
        except BlockingIOError:
            return False
        return True

    def _is_there(self, served: Served) -> bool:
        try:
            served.stat(self._path)
        except OSError as error:
            self.missing = os.strerror(error.errno or 0)
            return False
        return True

    def _watch_nearest(self, served: Served) -> None:
        """Watches the deepest directory of the path that is there, where it can be watched."""
        fd = _open_nearest(served, self._path)
        if fd is None:
            return self.close()
        try:
            status = os.fstat(fd)
            if (status.st_dev, status.st_ino) == self._watched:
                return
            self.close()
            # No permission, or this user's limit is reached: it goes without.
            with suppress(OSError):
                self._watch = _sys.watch_directory(fd)
                self._watched = (status.st_dev, status.st_ino)
        finally:
            os.close(fd)


def _open_nearest(served: Served, path: str) -> int | None:
    while path != "/":
        path = os.path.dirname(path.rstrip("/")) or "/"
        with suppress(OSError):
            return served.open(path, os.O_RDONLY | os.O_DIRECTORY)
    return None
