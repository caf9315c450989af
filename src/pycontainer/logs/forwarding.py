"""Telling on what containers write: to this process's own streams, or to a `logging.Logger`.

Nothing is lost on the way: where those are slow, the container waits (and no other one), once a megabyte
is on its way.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from collections.abc import Callable, Sequence
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING

from pycontainer.logs.lines import Blocks, Entry, Lines
from pycontainer.streams import is_standard

if TYPE_CHECKING:
    import logging

Target = Callable[[Sequence[Entry]], None]
"""Takes lines; may block."""

_MOST = 2**20
_IDLE_SECONDS = 0.2
_FLUSH_SECONDS = 10.0
_LEVELS = {"stdout": 20, "stderr": 30}
"""logging.INFO and logging.WARNING: programs write more than errors to their second stream."""


class Forward:
    """Tells one container's lines on, in a thread that is there while there is something to tell."""

    def __init__(self, target: Target, lines: Lines | Blocks) -> None:
        self._target = target
        self._lines = lines
        self._changed = threading.Condition()
        self._queue: deque[Entry] = deque()
        self._size = 0
        self._untold = 0
        """Entries, of which some, those at an end, have no size."""
        self._busy = False
        self._lifted = False
        self._broken = False
        self.room: Callable[[], None] | None = None
        """Called when there is room again."""

    @property
    def full(self) -> bool:
        """Whether the container should wait."""
        return self._size >= _MOST and not self._lifted

    def put(self, entry: Entry) -> None:
        """Never blocks. A target that raised hears no more."""
        with self._changed:
            if self._broken:
                return
            self._queue.append(entry)
            self._size += len(entry.data)
            self._untold += 1
            if not self._busy:
                self._busy = True
                threading.Thread(target=self._run, name="pycontainer-log", daemon=True).start()
            self._changed.notify_all()

    def lift(self, on: bool) -> None:
        """With `on`, takes whatever comes: of a dead container that is not much."""
        self._lifted = on
        self._tell_room()

    def flush(self) -> None:
        """Waits until all is told, or some seconds, where the target blocks."""
        with self._changed:
            self._changed.wait_for(lambda: self._untold == 0, _FLUSH_SECONDS)

    def _run(self) -> None:
        told = False
        try:
            while entries := self._next():
                self._target(list(self._lines.feed(entries)))
                with self._changed:
                    self._size -= sum([len(entry.data) for entry in entries])
                    self._untold -= len(entries)
                    self._changed.notify_all()
                self._tell_room()
            told = True
        finally:
            if not told:
                with self._changed:
                    self._broken = True
                    self._queue.clear()
                    self._size = self._untold = 0
                    self._changed.notify_all()
                self._tell_room()

    def _next(self) -> list[Entry]:
        with self._changed:
            self._changed.wait_for(lambda: self._queue, _IDLE_SECONDS)
            entries = list(self._queue)
            self._queue.clear()
            self._busy = bool(entries)
            return entries

    def _tell_room(self) -> None:
        if self.room is not None and not self.full:
            self.room()


def inherit(lines: Sequence[Entry]) -> None:
    """Writes whole lines to this process's own streams, as far as it has them and they are read."""
    for stream, found in groupby(lines, key=attrgetter("stream")):
        _write(1 if stream == "stdout" else 2, b"".join([line.data for line in found]))


def _write(fd: int, data: bytes) -> None:
    if not is_standard(fd):
        return
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            poll.poll()
        except BrokenPipeError:
            # Nobody reads it any more; what the container does is not changed by that.
            return


def to_logger(logger: logging.Logger, container: str) -> Target:
    """Each line becomes a record with the attributes `container` and `stream`: INFO for stdout, WARNING
    for stderr."""

    def tell(lines: Sequence[Entry]) -> None:
        for line in lines:
            text = line.data.decode("utf-8", "replace").rstrip("\r\n")
            extra: dict[str, str] = {"container": container, "stream": line.stream}
            logger.log(_LEVELS[line.stream], text, extra=extra)

    return tell
