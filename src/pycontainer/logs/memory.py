"""A log in memory: the newest megabyte of each stream."""

from __future__ import annotations

import heapq
import threading
from collections import deque
from operator import attrgetter

from pycontainer.logs.lines import START, Cursor, Entry, Stream

KEEP = 2**20
"""Bytes per stream."""

_LEAST = 32
"""Each piece counts for that much at least, so that single bytes take no memory without a bound."""
_JOINED = 4096
_TOGETHER_SECONDS = 0.01


class _Piece:
    __slots__ = ("data", "number", "stream", "time")

    def __init__(self, number: int, time: float, stream: Stream, data: bytes) -> None:
        self.number = number
        self.time = time
        self.stream = stream
        self.data = data


class Kept(list[Entry]):
    """What was there at one time; `lost` bytes had come before it."""

    def __init__(self, entries: list[Entry], lost: int) -> None:
        super().__init__(entries)
        self.lost = lost


class MemoryLog:
    """The newest of each stream, in order of arrival; a quiet stream is not pushed out by a loud one.

    A cursor is (the number of a piece, bytes of it that were read, bytes of the log up to there).
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pieces: dict[Stream, deque[_Piece]] = {"stdout": deque(), "stderr": deque()}
        self._sizes: dict[Stream, int] = {"stdout": 0, "stderr": 0}
        self._newest: _Piece | None = None
        self._number = 0
        self._total = 0

    def append(self, time: float, stream: Stream, data: bytes) -> None:
        """Keeps it, and gives up the oldest for it."""
        with self._lock:
            self._total += len(data)
            newest = self._newest
            if newest is not None and _one(newest, time, stream, data):
                self._sizes[stream] -= max(_LEAST, len(newest.data))
                newest.data += data
            else:
                self._number += 1
                newest = self._newest = _Piece(self._number, time, stream, data)
                self._pieces[stream].append(newest)
            size = self._sizes[stream] + max(_LEAST, len(newest.data))
            pieces = self._pieces[stream]
            while size - (oldest := max(_LEAST, len(pieces[0].data))) >= KEEP:
                size -= oldest
                pieces.popleft()
            self._sizes[stream] = size

    def end(self) -> Cursor:
        """The cursor of what comes next."""
        with self._lock:
            return self._end()

    def read(self, cursor: Cursor) -> tuple[list[Entry], Cursor, int]:
        """What came after `cursor`, the cursor after that, and how many bytes between are not kept any
        more."""
        number, offset, before = cursor
        with self._lock:
            end = self._end()
            streams = [_since(pieces, number) for pieces in self._pieces.values()]
            found = [
                Entry(piece.time, piece.stream, piece.data[offset:] if piece.number == number else piece.data)
                for piece in heapq.merge(*streams, key=attrgetter("number"))
                if piece.number > number or len(piece.data) > offset
            ]
        return found, end, end[2] - before - sum([len(entry.data) for entry in found])

    def kept(self) -> tuple[Kept, Cursor]:
        """All that is there now, and the cursor of what comes next."""
        found, end, lost = self.read(START)
        return Kept(found, lost), end

    def remove(self) -> None:
        """It goes with the last one who has it."""

    def _end(self) -> Cursor:
        newest = self._newest
        return START if newest is None else (newest.number, len(newest.data), self._total)


def _one(newest: _Piece, time: float, stream: Stream, data: bytes) -> bool:
    """Whether `data` goes on with the newest piece: it is of the same line, or came at the same time."""
    if newest.stream != stream or not newest.data or not data or len(newest.data) + len(data) > _JOINED:
        return False
    return time - newest.time < _TOGETHER_SECONDS or newest.data[-1] != 0x0A


def _since(pieces: deque[_Piece], number: int) -> list[_Piece]:
    """Those from `number` on, found from the new end."""
    found = []
    for piece in reversed(pieces):
        if piece.number < number:
            break
        found.append(piece)
    found.reverse()
    return found
