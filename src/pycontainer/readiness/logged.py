"""Lines in the container's log."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from pycontainer.readiness.condition import Condition, Waiting

if TYPE_CHECKING:
    from pycontainer.logs.lines import Stream
    from pycontainer.wait import Log

_LONGEST_LINE = 64 * 1024
"""What is longer is looked at in pieces of that length, bytes."""


class Logged(Condition):
    """Looks at what was written since the start, each line once."""

    def __init__(self, wanted: Log, waiting: Waiting) -> None:
        self._wanted = wanted
        self._journal = waiting.container._journal
        self._cursor = waiting.run.log_start
        self._open: dict[Stream, bytes] = {}
        self._found = 0
        self.due = math.inf

    def look(self, now: float) -> bool:
        entries, self._cursor, _ = self._journal.log.read(self._cursor)
        while entries:
            for entry in entries:
                if self._wanted.stream in (None, entry.stream):
                    self._take(entry.stream, entry.data)
            entries, self._cursor, _ = self._journal.log.read(self._cursor)
        found = self._found + sum(map(self._matches, self._open.values()))
        self.missing = f"seen {found} times" if self._wanted.times > 1 else "not seen"
        return found >= self._wanted.times

    def _take(self, stream: Stream, data: bytes) -> None:
        lines = (self._open.pop(stream, b"") + data).split(b"\n")
        rest = lines.pop()
        while len(rest) > _LONGEST_LINE:
            lines.append(rest[:_LONGEST_LINE])
            rest = rest[_LONGEST_LINE:]
        self._found += sum(map(self._matches, lines))
        self._open[stream] = rest

    def _matches(self, line: bytes) -> bool:
        pattern: re.Pattern[Any] = self._wanted.pattern
        text = line if isinstance(pattern.pattern, bytes) else line.decode("utf-8", "replace")
        return pattern.search(text) is not None
