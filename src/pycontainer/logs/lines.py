"""Entries of a log, and the lines that they make up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

Stream = Literal["stdout", "stderr"]

LONGEST_LINE = 2**20

Cursor = tuple[int, int, int]
"""A place in a log; its parts are the log's own business."""

START: Cursor = (0, 0, 0)
"""Before everything."""


class Entry(NamedTuple):
    """Bytes that were written together, or one line. An empty entry ends its stream's line: what comes
    after it was written by the program of another start."""

    time: float
    """Seconds since 1970, when they arrived; a line's is that of its beginning."""
    stream: Stream
    data: bytes


class Lines:
    """Puts the lines of each stream together, however they arrived.

    A line that is longer than `LONGEST_LINE` comes in pieces of that length, so that memory stays flat.
    """

    def __init__(self) -> None:
        self._open: dict[Stream, tuple[float, list[bytes], int]] = {}

    def feed(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """The lines that are complete with `entries`, in the order of their ends."""
        for entry in entries:
            if not entry.data:
                yield from self._flush(entry.stream)
            for piece in entry.data.splitlines(keepends=True) if _plain(entry.data) else _split(entry.data):
                yield from self._take(entry.time, entry.stream, piece)

    def rest(self) -> Iterator[Entry]:
        """What has no end yet, in the order of the beginnings."""
        for stream in sorted(self._open, key=lambda stream: self._open[stream][0]):
            yield from self._flush(stream)

    def _take(self, time: float, stream: Stream, piece: bytes) -> Iterator[Entry]:
        begun = self._open.get(stream)
        whole = piece.endswith(b"\n")
        if begun is None and whole and len(piece) <= LONGEST_LINE:
            yield Entry(time, stream, piece)
            return
        time, parts, size = begun or (time, [], 0)
        parts.append(piece)
        self._open[stream] = (time, parts, size + len(piece))
        while self._open[stream][2] > LONGEST_LINE:
            joined = b"".join(self._open[stream][1])
            yield Entry(time, stream, joined[:LONGEST_LINE])
            self._open[stream] = (time, [joined[LONGEST_LINE:]], len(joined) - LONGEST_LINE)
        if whole:
            yield from self._flush(stream)

    def _flush(self, stream: Stream) -> Iterator[Entry]:
        begun = self._open.pop(stream, None)
        if begun is not None:
            yield Entry(begun[0], stream, b"".join(begun[1]))


class Blocks:
    """Puts whole lines together, as many as came together: for who need not look at each."""

    def __init__(self) -> None:
        self._open: dict[Stream, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}

    def feed(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """As `Lines.feed`; a line that is longer than `LONGEST_LINE` comes in pieces, too."""
        for time, stream, data in entries:
            held = self._open[stream]
            end = data.rfind(b"\n") + 1
            if end == 0 and (not data or len(held) + len(data) > LONGEST_LINE):
                end = len(data)
            if end or not data:
                block = bytes(held) + data[:end]
                held.clear()
                if block:
                    yield Entry(time, stream, block)
            held += data[end:]


def _plain(data: bytes) -> bool:
    """Whether only a newline ends a line for `splitlines`, too, which is several times faster."""
    return b"\r" not in data


def _split(data: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(data):
        end = data.find(b"\n", start) + 1 or len(data)
        yield data[start:end]
        start = end


def ends(time: float) -> list[Entry]:
    """What ends the lines of all streams."""
    streams: tuple[Stream, ...] = ("stdout", "stderr")
    return [Entry(time, stream, b"") for stream in streams]
