"""How long a whole transfer may take."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pycontainer import in_time
from pycontainer.errors import RegistryError, TransportError
from pycontainer.transfer.crew import block_sigpipe
from pycontainer.units import parse_duration

if TYPE_CHECKING:
    from pycontainer.distribution.client import Client


class Deadline:
    """When a transfer has to be over: in `timeout` seconds from now; None for when all that it is part of has
    to (`in_time`), or never."""

    def __init__(self, timeout: float | None) -> None:
        self._began = time.monotonic()
        self._ends = in_time.ends() if timeout is None else self._began + timeout
        self._cut = False

    @property
    def passed(self) -> bool:
        """Whether time is up."""
        return self._cut or (self._ends is not None and time.monotonic() >= self._ends)

    @property
    def spent(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began

    def check(self) -> None:
        """Raises TransportError when time is up; `ended_after` makes a Timeout of it."""
        if self.passed:
            raise TransportError("time is up")

    def sleep(self, seconds: float) -> None:
        """Waits, not beyond the end. Raises as `check` does."""
        self.check()
        left = seconds if self._ends is None else self._ends - time.monotonic()
        time.sleep(max(0.0, min(seconds, left)))
        self.check()

    @contextmanager
    def over(self, *clients: Client) -> Iterator[tuple[Client, ...]]:
        """`clients`, with connections of their own, which are cut when time is up: whoever waits for an
        answer then, in whichever thread, meets TransportError."""
        if self._ends is None:
            yield clients
            return
        own = tuple(client.branch() for client in clients)
        over = threading.Event()
        thread = threading.Thread(
            target=self._watch, args=(own, over), name="pycontainer-deadline", daemon=True
        )
        try:
            thread.start()
            yield own
        finally:
            over.set()
            if thread.ident is not None:
                thread.join()
            for client in own:
                client.close()

    def _watch(self, clients: tuple[Client, ...], over: threading.Event) -> None:
        block_sigpipe()
        assert self._ends is not None
        if not over.wait(min(max(0.0, self._ends - time.monotonic()), threading.TIMEOUT_MAX)):
            self._cut = True
            for client in clients:
                client.close()


@contextmanager
def ended_after(timeout: float | None, *what: str) -> Iterator[Deadline]:
    """The deadline of the transfer within. Raises Timeout, for the words `what`, where time is up: all that
    the transfer has begun is over by then. Raises InvalidOption."""
    if timeout is not None:
        timeout = parse_duration(timeout, option="timeout")
    deadline = Deadline(timeout)
    try:
        yield deadline
        return
    except RegistryError:
        if not deadline.passed:
            raise
        if timeout is None:
            in_time.check()
            raise
    raise in_time.timed_out(timeout, deadline.spent, *what)
