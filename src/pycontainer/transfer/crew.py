"""Threads that do the parts of one transfer: the first failure, or Ctrl-C, ends them all."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")

# A signal that comes just before a wait begins is noticed at its end only.
_SLICE = 0.05


class Cancelled(Exception):
    """Something else failed first; nobody wants this part any more. Never leaves the crew."""


class Crew(Generic[T]):
    """Up to `size` threads that take `tasks` in their order.

    Leaving the `with` block cancels what is still going on (`cancel` is called to that end), waits for
    the threads, and hands what they made and nobody took to `drop`.
    """

    def __init__(
        self,
        tasks: Sequence[Callable[[], T]],
        size: int,
        drop: Callable[[T], None],
        cancel: Callable[[], None],
    ) -> None:
        self._tasks = tasks
        self._next = 0
        self._drop = drop
        self._done: dict[int, T] = {}
        self._failure: BaseException | None = None
        self._changed = threading.Condition()
        self._stopped = threading.Event()
        self._cancels = {cancel}
        self._threads = [
            threading.Thread(target=self._work, name=f"pycontainer-transfer-{number}", daemon=True)
            for number in range(min(size, len(tasks)))
        ]

    def __enter__(self) -> Crew[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.cancel()
            for thread in self._threads:
                # One that has not begun yet, as Ctrl-C came in the midst of its start, finds nothing to do.
                if thread.ident is not None:
                    thread.join()
        finally:
            while self._done:
                self._drop(self._done.popitem()[1])

    def results(self, check: Callable[[], None]) -> Iterator[T]:
        """What the tasks give, in their order: the caller's when the next one is asked for. Raises the
        first failure of any as soon as it is there, and what `check` raises, which is called meanwhile."""
        for thread in self._threads:
            thread.start()
        for number in range(len(self._tasks)):
            with self._changed:
                while number not in self._done and self._failure is None:
                    check()
                    self._changed.wait(_SLICE)
                if self._failure is not None:
                    raise self._failure
            yield self._done[number]
            del self._done[number]

    def sleep(self, seconds: float) -> None:
        """Waits, for the threads; raises Cancelled as soon as there is no reason to wait any more."""
        if self._stopped.wait(seconds):
            raise Cancelled

    @contextmanager
    def cancelling(self, cancel: Callable[[], None]) -> Iterator[None]:
        """Calls `cancel`, from any thread, when the crew is cancelled within the block."""
        with self._changed:
            self._cancels.add(cancel)
        try:
            if self._stopped.is_set():
                raise Cancelled
            yield
        finally:
            with self._changed:
                self._cancels.discard(cancel)

    def cancel(self) -> None:
        """Ends all tasks; none is begun any more."""
        with self._changed:
            self._stopped.set()
            cancels = list(self._cancels)
            self._changed.notify_all()
        for cancel in cancels:
            cancel()

    def _take(self) -> int | None:
        with self._changed:
            if self._stopped.is_set() or self._next == len(self._tasks):
                return None
            self._next += 1
            return self._next - 1

    def _work(self) -> None:
        block_sigpipe()
        while (number := self._take()) is not None:
            try:
                made = self._tasks[number]()
            except BaseException as error:
                with self._changed:
                    if self._failure is None and not self._stopped.is_set():
                        self._failure = error
                self.cancel()
                return
            with self._changed:
                self._done[number] = made
                self._changed.notify_all()


def block_sigpipe() -> None:
    """The host program may have set SIGPIPE to kill it; blocked, it goes with this thread."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})
