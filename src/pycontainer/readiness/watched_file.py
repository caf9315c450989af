"""A path in the container: its directory is watched, where the kernel lets us (inotify(7))."""

from __future__ import annotations

import math
import os
import select
from typing import TYPE_CHECKING

from pycontainer import _sys
from pycontainer.readiness.condition import Condition, Pause, Waiting

if TYPE_CHECKING:
    from pycontainer.supervisor.served import Served
    from pycontainer.wait import File

_LONGEST_PAUSE = 0.025
_WATCHED_SECONDS = 0.25
"""A look without an event: what is mounted, or lies behind a link, makes none in the directory."""
_LEAST_SECONDS = 0.005
"""Between two looks, however many files are made in that directory."""


class FileThere(Condition):
    def __init__(self, wanted: File, waiting: Waiting) -> None:
        self._path = wanted.path
        self._container = waiting.container
        self._pause = Pause(_LONGEST_PAUSE)
        self._watch = -1
        self._looked = -math.inf

    @property
    def fds(self) -> list[tuple[int, int]]:
        return [] if self._watch < 0 else [(self._watch, select.POLLIN)]

    def look(self, now: float) -> bool:
        if now < self.due and not self._changed():
            return False
        if now < self._looked + _LEAST_SECONDS:
            self.close()
            self.due = self._looked + _LEAST_SECONDS
            return False
        self._looked = now
        self.close()
        served = self._container._serving()
        if self._is_there(served):
            return True
        self._watch = _watch_nearest(served, self._path)
        self.due = now + (self._pause() if self._watch < 0 else _WATCHED_SECONDS)
        # It may have been made before it was watched.
        return self._is_there(served)

    def close(self) -> None:
        fd, self._watch = self._watch, -1
        if fd >= 0:
            os.close(fd)

    def _changed(self) -> bool:
        if self._watch < 0:
            return False
        poll = select.poll()
        poll.register(self._watch, select.POLLIN)
        return bool(poll.poll(0))

    def _is_there(self, served: Served) -> bool:
        try:
            served.stat(self._path)
        except OSError as error:
            self.missing = os.strerror(error.errno or 0)
            return False
        return True


def _watch_nearest(served: Served, path: str) -> int:
    """A watch on the deepest directory of the path that is there; -1 where it cannot be watched."""
    while path != "/":
        path = os.path.dirname(path.rstrip("/")) or "/"
        try:
            fd = served.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            continue
        try:
            return _sys.watch_directory(fd)
        except OSError:
            return -1
        finally:
            os.close(fd)
    return -1
