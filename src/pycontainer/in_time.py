"""`timeout=` of calls that do much: time that runs out comes up where Ctrl-C would.

`limited` says once how long all within it may take, in this thread. What may wait (`_sys.poll`, locks, the
answers of agents) or takes many steps (the pieces of a stream, the names of a tree) looks whether time is up,
and then `TimeIsUp` unwinds everything, as KeyboardInterrupt does. It comes once, so that what tidies up after
it has the time that it needs.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

from pycontainer.errors import Timeout
from pycontainer.units import check_timeout

if TYPE_CHECKING:
    from pycontainer.completed import Completed

_ends: ContextVar[float | None] = ContextVar("pycontainer_ends", default=None)


class TimeIsUp(BaseException):
    """Never seen outside of `limited`."""

    result: Completed | None = None
    """What was captured until then, where there is something."""


class _Lock(Protocol):
    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool: ...

    def release(self) -> None: ...


class limited:
    """Gives all within `timeout` seconds (None: any time). Raises InvalidOption, and, for the words `what`,
    Timeout where time is up: all that was begun is over by then."""

    def __init__(self, timeout: float | None, *what: Any) -> None:
        self._timeout = check_timeout(timeout)
        self._what = what

    def __enter__(self) -> None:
        if self._timeout is not None:
            self._began = time.monotonic()
            self._before = _ends.set(self._began + self._timeout)

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: Any) -> None:
        if self._timeout is None:
            return
        _ends.reset(self._before)
        if kind is TimeIsUp:
            if error.result is not None:
                raised = Timeout(error.result, self._timeout)
            else:
                raised = timed_out(self._timeout, time.monotonic() - self._began, *map(str, self._what))
            # It refers to all that was unwound, which may hold descriptors: no reason to live on.
            del error, trace
            try:
                raise raised
            finally:
                raised.__context__ = None


def timed_out(timeout: float, spent: float, *what: str) -> Timeout:
    """The error of a call that has no output; `spent` is what it took."""
    from pycontainer.completed import Completed, Usage

    return Timeout(Completed(what, -9, cause="timeout", usage=Usage(spent, 0.0, 0.0)), timeout)


def ends() -> float | None:
    """When time is up (time.monotonic); None for never, and once that was told."""
    return _ends.get()


def check() -> None:
    """Raises TimeIsUp where it is."""
    end = _ends.get()
    if end is not None and time.monotonic() >= end:
        _ends.set(None)
        raise TimeIsUp


@contextmanager
def handed_over() -> Iterator[float | None]:
    """Within, somebody else works for this, who is told the seconds that are left (None for any time), and
    whose Timeout tells that time is up."""
    seconds = left()
    before = _ends.set(None)
    try:
        yield seconds
    except Timeout as late:
        if seconds is None:
            raise
        up = TimeIsUp()
        up.result = late.result
        raise up from None
    except BaseException:
        _ends.reset(before)
        raise
    else:
        _ends.reset(before)


def sleep(seconds: float) -> None:
    """Waits, not beyond the end."""
    check()
    end = _ends.get()
    time.sleep(seconds if end is None else max(0.0, min(seconds, end - time.monotonic())))
    check()


def join(thread: threading.Thread) -> None:
    """Waits for the thread's end."""
    while thread.is_alive():
        check()
        thread.join(left())


@contextmanager
def locked(lock: _Lock) -> Iterator[None]:
    """`with lock`, waiting for others as long as there is time."""
    while not lock.acquire(timeout=-1 if (seconds := left()) is None else seconds):
        check()
    try:
        yield
    finally:
        lock.release()


def opener(path: str, flags: int) -> int:
    """Opens `path` for reading, as `open` has it done. Where time is limited, a named pipe that nobody writes
    to is not waited for here, but by who reads it (`_sys.await_input`). Raises OSError."""
    return os.open(path, flags if ends() is None else flags | os.O_NONBLOCK)


def left() -> float | None:
    """How many seconds there are; None for any time."""
    end = _ends.get()
    return None if end is None else min(max(0.0, end - time.monotonic()), threading.TIMEOUT_MAX)
