"""A log in files of one directory, which other processes can read, too, while it is written and later.

<number>.log    the oldest has the lowest number; a new one is begun at `SIZE` and by each writer, and the
                oldest goes when there are more than `COUNT`

A file is a header (`_HEADER`: a mark, and how many bytes the log had before it) and frames (`_FRAME`: time
in nanoseconds since 1970, length, stream), each followed by its bytes. Numbers are little-endian. What is cut
off at a file's end was being written when its writer was killed.
"""

from __future__ import annotations

import errno
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress

from pycontainer.blobs.failures import store_errors
from pycontainer.logs.lines import START, Cursor, Entry, Stream

SIZE = 8 * 2**20
COUNT = 8

_HEADER = struct.Struct("<8sQ")
_MARK = b"pclog 1\n"
_FRAME = struct.Struct("<QIB3x")
_LONGEST = 2**20
_COUNTED = struct.Struct("<Q")
_LOST = 0
"""A frame in the place of bytes that could not be written: how many they were."""
_STREAMS: dict[int, Stream] = {1: "stdout", 2: "stderr"}
_NUMBERS: dict[Stream, int] = {name: number for number, name in _STREAMS.items()}
_NAME = "{:08d}.log"
_AT_ONCE = 2**20

_Found = tuple[Entry | None, Cursor, int]
"""One frame: what it says, the cursor after it, and how many bytes it says are missing."""


class LogFiles:
    """The log in `directory`, for reading. Where there is none, it is empty.

    A cursor is (the number of a file, bytes of it that were read, bytes of the log up to there).
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory

    def end(self) -> Cursor:
        """The cursor of what comes next. Raises StoreError."""
        with store_errors("reading the log in", self.directory):
            return self._newest()

    def read(self, cursor: Cursor, until: Cursor | None = None) -> tuple[list[Entry], Cursor, int]:
        """What came after `cursor` (about a megabyte at most), the cursor after that, and how many bytes
        between are not there; nothing that is after `until`. Raises StoreError."""
        lost = 0
        with store_errors("reading the log in", self.directory):
            while True:
                # Listed before reading: nothing comes to a file after the next one was begun.
                following = self._following(cursor[0])
                found, cursor, missing = self._some(cursor, until)
                lost += missing
                if found or following is None or (until is not None and following > until[0]):
                    return found, cursor, lost
                before = self._before(following)
                lost += max(0, before - cursor[2])
                cursor = (following, 0, max(before, cursor[2]))

    def kept(self) -> tuple[Kept, Cursor]:
        """All that is there now, and the cursor of what comes next. Raises StoreError."""
        end = self.end()
        return Kept(self, end), end

    def begin(self) -> Cursor:
        """The cursor of the oldest that is there. Raises StoreError."""
        with store_errors("reading the log in", self.directory):
            numbers = self._numbers()
            return (numbers[0], 0, self._before(numbers[0])) if numbers else START

    def _newest(self) -> Cursor:
        numbers = self._numbers()
        end = (numbers[-1], 0, self._before(numbers[-1])) if numbers else START
        for _, after, _ in self._frames(end):
            end = after
        return end

    def _some(self, cursor: Cursor, until: Cursor | None) -> tuple[list[Entry], Cursor, int]:
        found: list[Entry] = []
        lost = size = 0
        for entry, after, missing in self._frames(cursor):
            if until is not None and after[:2] > until[:2]:
                break
            cursor = after
            lost += missing
            if entry is not None:
                found.append(entry)
                size += len(entry.data)
            if size >= _AT_ONCE:
                break
        return found, cursor, lost

    def _frames(self, cursor: Cursor) -> Iterator[_Found]:
        """Those of one file, as far as they are whole."""
        number, offset, total = cursor
        try:
            file = open(self._path(number), "rb")  # noqa: SIM115  closed below
        except FileNotFoundError:
            return
        with file:
            file.seek(offset or _HEADER.size)
            offset = file.tell()
            while len(head := file.read(_FRAME.size)) == _FRAME.size:
                nanoseconds, length, stream = _FRAME.unpack(head)
                if length > _LONGEST or len(data := file.read(length)) < length:
                    return
                offset += _FRAME.size + length
                lost = _COUNTED.unpack(data)[0] if stream == _LOST else 0
                total += lost or length
                name = _STREAMS.get(stream)
                entry = None if name is None else Entry(nanoseconds / 1e9, name, data)
                yield entry, (number, offset, total), lost

    def _before(self, number: int) -> int:
        """How many bytes the log had before this file; 0 where its writer was killed in the first moment."""
        try:
            with open(self._path(number), "rb") as file:
                header = file.read(_HEADER.size)
        except FileNotFoundError:
            return 0
        return int(_HEADER.unpack(header)[1]) if len(header) == _HEADER.size else 0

    def _following(self, number: int) -> int | None:
        """The next file's number; the oldest one's for who fell behind."""
        return next((later for later in self._numbers() if later > number), None)

    def _numbers(self) -> list[int]:
        """Of the files that are there, oldest first."""
        try:
            names = os.listdir(self.directory)
        except FileNotFoundError:
            return []
        return sorted(int(name[:-4]) for name in names if name.endswith(".log") and name[:-4].isdecimal())

    def _path(self, number: int) -> str:
        return os.path.join(self.directory, _NAME.format(number))


class Kept:
    """What was in the files at one time, read anew by each iteration; what is gone by then is `lost`."""

    def __init__(self, files: LogFiles, end: Cursor) -> None:
        self._files = files
        self._end = end
        self.lost = files.begin()[2]

    def __iter__(self) -> Iterator[Entry]:
        cursor = self._files.begin()
        lost = cursor[2]
        while cursor[:2] < self._end[:2]:
            found, cursor, missing = self._files.read(cursor, self._end)
            lost += missing
            if not found:
                break
            yield from found
        self.lost = lost


class FileLog(LogFiles):
    """The log for who writes it: one at a time. The directory is made by the first write."""

    def __init__(self, directory: str) -> None:
        super().__init__(directory)
        self._lock = threading.Lock()
        self._fd = -1
        self._end: Cursor = START
        self._unwritten = 0
        """Bytes that are missing and were not told of in a file yet."""

    def append(self, time: float, stream: Stream, data: bytes) -> None:
        """Writes it, if that can be done: a full disk holds up no container. What is missing is counted,
        and told to the readers as lost as soon as there is room again."""
        with self._lock:
            try:
                if self._fd < 0 or self._end[1] >= SIZE:
                    self._begin_file()
                if self._unwritten:
                    self._write(time, _LOST, _COUNTED.pack(self._unwritten), self._unwritten)
                    self._unwritten = 0
                self._write(time, _NUMBERS[stream], data, len(data))
            except OSError:
                self._unwritten += len(data)

    def end(self) -> Cursor:
        """The cursor of what comes next. Raises StoreError."""
        with self._lock:
            if self._fd >= 0:
                return self._end
        return super().end()

    def remove(self) -> None:
        """Ends it and removes its files. Raises StoreError."""
        self.close()
        with store_errors("removing", self.directory):
            for number in self._numbers():
                os.unlink(self._path(number))
            with suppress(FileNotFoundError):
                os.rmdir(self.directory)

    def close(self) -> None:
        """The files stay."""
        with self._lock:
            fd, self._fd = self._fd, -1
            if fd >= 0:
                os.close(fd)

    def _begin_file(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        else:
            os.makedirs(self.directory, 0o700, exist_ok=True)
            self._end = self._newest()
        number, total = self._end[0] + 1, self._end[2]
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._fd = os.open(self._path(number), flags, 0o600)
        self._end = (number, 0, total)
        try:
            self._put(_HEADER.pack(_MARK, total))
        except OSError:
            os.close(self._fd)
            self._fd = -1
            os.unlink(self._path(number))
            raise
        for old in self._numbers()[:-COUNT]:
            os.unlink(self._path(old))

    def _write(self, time: float, stream: int, data: bytes, counted: int) -> None:
        self._put(_FRAME.pack(int(time * 1e9), len(data), stream) + data)
        number, offset, total = self._end
        self._end = (number, offset, total + counted)

    def _put(self, data: bytes) -> None:
        """Whole or not at all."""
        number, offset, total = self._end
        if os.pwrite(self._fd, data, offset) < len(data):
            os.ftruncate(self._fd, offset)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._path(number))
        self._end = (number, offset + len(data), total)
