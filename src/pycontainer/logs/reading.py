"""`Logs`: what a container has written, as lines, as one text, and as they come."""

from __future__ import annotations

import datetime
import re
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, overload

from pycontainer.logs.journal import Follower
from pycontainer.logs.lines import Entry, Lines
from pycontainer.units import parse_duration, parse_int, refuse

if TYPE_CHECKING:
    from types import TracebackType

    from pycontainer.logs.journal import Journal

_DATE = re.compile(r"\s*\d{4}-\d\d-\d\d")
_FRACTION = re.compile(r"\.\d+")
_EPOCH = 10**9
"""Seconds: as a time before now it would be 31 years."""


class Logs:
    """Lines of a container's streams in the order of their arrival: bytes with their newline, or text.

    Without `follow` it is what was there when `logs()` was called: iterate over it as often as you like,
    compare it, search it (`b"ready" in container.logs()`), take it as a whole (`read`, `bytes`, `str`).
    With `follow` it is an iterator of what is there and what comes, until the container has ended and no
    restart policy starts it again, or until `close`; `read` gives everything up to then.

    A line that is not complete yet is given as it is, without `follow`; with it, when it is complete
    or the container has ended. Lines of more than a megabyte come in pieces of one.
    """

    def __init__(
        self,
        journal: Journal,
        shown: str,
        *,
        tail: int | None,
        since: float | str | datetime.datetime | datetime.timedelta | None,
        follow: bool,
        text: bool,
    ) -> None:
        self._shown = shown
        self._text = text
        self._tail = None if tail is None else parse_int(tail, option="tail", low=0)
        self._since = _time_of(since)
        self._kept, cursor = journal.log.kept()
        self._follower = Follower(journal, cursor) if follow else None
        self._lines: Iterator[bytes | str] | None = None

    @property
    def lost(self) -> int:
        """Bytes that came before what is kept, or faster than they were read: a log holds the newest
        megabyte of each stream (in memory), and never makes the container wait."""
        return self._kept.lost + (0 if self._follower is None else self._follower.lost)

    def entries(self) -> Iterator[Entry]:
        """The lines with their time and stream; as iterating gives them."""
        lines = Lines()
        if self._follower is None:
            return self._chosen(_complete(lines, self._kept))
        return self._coming(lines, self._follower)

    def close(self) -> None:
        """Ends an iteration with `follow`, from any thread."""
        if self._follower is not None:
            self._follower.close()

    def read(self) -> Any:
        """All of it in one: bytes, or text."""
        return ("" if self._text else b"").join(self)

    def decode(self, encoding: str = "utf-8", errors: str = "replace") -> str:
        """All of it as text."""
        return str(self.read() if self._text else self.read().decode(encoding, errors))

    def splitlines(self, keepends: bool = False) -> list[Any]:
        """The lines, without their ends unless `keepends`."""
        return list(self.read().splitlines(keepends))

    def split(self, sep: Any = None, maxsplit: int = -1) -> list[Any]:
        """All of it in parts, as bytes and text have it."""
        return list(self.read().split(sep, maxsplit))

    def strip(self, chars: Any = None) -> Any:
        """All of it, without the white space at both ends."""
        return self.read().strip(chars)

    def startswith(self, prefix: Any) -> bool:
        """Whether all of it begins so."""
        return bool(self.read().startswith(prefix))

    def endswith(self, suffix: Any) -> bool:
        """Whether all of it ends so."""
        return bool(self.read().endswith(suffix))

    def count(self, wanted: Any) -> int:
        """How often it is part of it all."""
        return int(self.read().count(wanted))

    def __iter__(self) -> Iterator[Any]:
        return self if self._follower is not None else self._given()

    def __next__(self) -> Any:
        if self._lines is None:
            self._lines = self._given()
        return next(self._lines)

    def __contains__(self, wanted: Any) -> bool:
        """Whether it is part of it all; with `follow`, of a line, and then without waiting for more."""
        if self._follower is not None:
            return any(wanted in line for line in self)
        return wanted in self.read()

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        """A line, or several; of one that is followed nobody knows which is the last (TypeError)."""
        if self._follower is not None:
            raise TypeError("logs that are followed are no sequence")
        return list(self)[index]

    def __len__(self) -> int:
        """The number of lines; nobody knows that of one that is followed (TypeError)."""
        if self._follower is not None:
            raise TypeError("logs that are followed have no length")
        return sum(1 for _ in self.entries())

    def __bool__(self) -> bool:
        return self._follower is not None or any(True for _ in self.entries())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Logs):
            return bool(self.read() == other.read())
        if isinstance(other, (bytes, str)):
            return bool(self.read() == other)
        if isinstance(other, (list, tuple)):
            return list(self) == list(other)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __bytes__(self) -> bytes:
        return bytes(self.read().encode() if self._text else self.read())

    def __str__(self) -> str:
        return self.decode()

    def __repr__(self) -> str:
        return f"<Logs of {self._shown}{'' if self._follower is None else ', followed'}>"

    def __enter__(self) -> Logs:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _given(self) -> Iterator[bytes | str]:
        entries = self.entries()
        return (_text(entry.data) for entry in entries) if self._text else (entry.data for entry in entries)

    def _coming(self, lines: Lines, follower: Follower) -> Iterator[Entry]:
        yield from self._chosen(lines.feed(self._kept))
        for entries in follower:
            yield from self._late_enough(lines.feed(entries))
        yield from self._late_enough(lines.rest())

    def _chosen(self, lines: Iterator[Entry]) -> Iterator[Entry]:
        chosen = self._late_enough(lines)
        return chosen if self._tail is None else iter(deque(chosen, self._tail))

    def _late_enough(self, lines: Iterator[Entry]) -> Iterator[Entry]:
        since = self._since
        return lines if since is None else (line for line in lines if line.time >= since)


def _complete(lines: Lines, entries: Iterable[Entry]) -> Iterator[Entry]:
    yield from lines.feed(entries)
    yield from lines.rest()


def _text(line: bytes) -> str:
    text = line.decode("utf-8", "replace")
    return text[:-2] + "\n" if text.endswith("\r\n") else text


def _date(text: str) -> float:
    """RFC 3339, or a part of it: what has no zone is this machine's time, as docker takes it."""
    try:
        # Python 3.10 knows no Z, and wants six digits of a second.
        plain = _FRACTION.sub(lambda found: f"{found[0][:7]:0<7}", text.strip().replace("Z", "+00:00"))
        return datetime.datetime.fromisoformat(plain).timestamp()
    except (ValueError, OverflowError) as error:
        raise refuse("since", text, f"is no time: {error}") from None


def _time_of(since: Any) -> float | None:
    """Seconds since 1970. Raises InvalidOption."""
    if since is None:
        return None
    if isinstance(since, datetime.datetime):
        return since.timestamp()
    if isinstance(since, str) and _DATE.match(since):
        return _date(since)
    seconds = parse_duration(since, option="since")
    if isinstance(since, (int, float)) and seconds >= _EPOCH:
        return seconds
    if seconds > time.time():
        raise refuse("since", since, "must be a time, seconds since 1970, or how long ago that was")
    return time.time() - seconds
