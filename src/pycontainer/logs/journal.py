"""What one container says, over all its starts: kept by a log, and told to those who listen."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

from pycontainer.logs.lines import Cursor, Entry, Stream, ends
from pycontainer.minding import minder

if TYPE_CHECKING:
    from pycontainer.logs.forwarding import Forward
    from pycontainer.supervisor.client import Job

_SLICE_SECONDS = 0.05


class Kept(Protocol):
    """What was in a log at one time; any number of iterations give the same."""

    lost: int

    def __iter__(self) -> Iterator[Entry]: ...


class Log(Protocol):
    """Where it is kept: `MemoryLog` or `FileLog`."""

    def append(self, time: float, stream: Stream, data: bytes) -> None: ...

    def end(self) -> Cursor: ...

    def read(self, cursor: Cursor) -> tuple[list[Entry], Cursor, int]: ...

    def kept(self) -> tuple[Kept, Cursor]: ...

    def remove(self) -> None: ...


class Journal:
    """The streams of one container. Any number of threads follow it; none of them holds up the writer."""

    def __init__(self, log: Log, more: Callable[[], bool], forward: Forward | None = None) -> None:
        """`more` says whether more may come; `poke` must be called when its answer may have changed.
        `forward` is told everything, and may make the container wait."""
        self.log = log
        self.more = more
        self.forward = forward
        self._lock = threading.Lock()
        self._listeners: tuple[Callable[[], None], ...] = ()
        self._minded: Job | None = None

    def write(self, stream: Stream, data: bytes) -> None:
        """Called by the thread that takes output in."""
        now = time.time()
        self.log.append(now, stream, data)
        if self.forward is not None:
            self.forward.put(Entry(now, stream, data))
        self.poke()

    @property
    def full(self) -> bool:
        """Whether the container should wait."""
        return self.forward is not None and self.forward.full

    def begin(self, again: bool) -> None:
        """A start: a line that the program before did not end is over."""
        if again:
            for entry in ends(time.time()):
                self.log.append(*entry)
        if self.forward is not None:
            self.forward.lift(False)

    def at_end(self) -> None:
        """All streams of the program are at their end; `poke` is still to be called."""
        if self.forward is not None:
            for entry in ends(time.time()):
                self.forward.put(entry)

    def poke(self) -> None:
        """Has everybody look again."""
        for call in self._listeners:
            call()

    def mind(self, job: Job) -> None:
        """Has everybody look again when this job has ended."""
        with self._lock:
            if self._minded is job:
                return
            self._minded = job
        minder().after_end(job, self.poke)

    def listen(self, call: Callable[[], None]) -> None:
        """Has `call` called after each change, in whatever thread that is; it must not block or raise."""
        with self._lock:
            self._listeners += (call,)

    def leave(self, call: Callable[[], None]) -> None:
        """The opposite of `listen`."""
        with self._lock:
            self._listeners = tuple([one for one in self._listeners if one != call])


class Follower:
    """Gives what comes, and waits for it without polling."""

    def __init__(self, journal: Journal, cursor: Cursor) -> None:
        self._journal = journal
        self._cursor = cursor
        self._changed = threading.Event()
        self._closed = False
        self.lost = 0
        """Bytes that were gone before they could be read here."""

    def close(self) -> None:
        """From any thread: there is no more."""
        self._closed = True
        self._changed.set()

    def __iter__(self) -> Iterator[list[Entry]]:
        """Ends when nothing can come any more, or after `close`."""
        self._journal.listen(self._changed.set)
        try:
            while not self._closed:
                self._changed.clear()
                # Asked before reading: what came before the end was written before it.
                more = self._journal.more()
                found = self._read()
                if found:
                    yield found
                elif not more:
                    return
                else:
                    self._wait()
        finally:
            self._journal.leave(self._changed.set)

    def _read(self) -> list[Entry]:
        found, self._cursor, lost = self._journal.log.read(self._cursor)
        self.lost += lost
        return found

    def _wait(self) -> None:
        # In the main thread in slices, for the reason that `_sys.poll` has them.
        main = threading.current_thread() is threading.main_thread()
        while not self._changed.wait(_SLICE_SECONDS if main else None):
            continue
