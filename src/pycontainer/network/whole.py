"""What must not be half done, whatever a signal's handler raises meanwhile (Ctrl-C, say)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

_Result = TypeVar("_Result")


def whole(call: Callable[[], _Result]) -> _Result:
    """What `call` gives, or raises. Interrupted, it is done to its end first, or was never begun.

    For what takes a few milliseconds. Handlers run in the main thread, and are kept out by another one, so
    `call` must not need a lock that the caller holds.
    """
    if threading.current_thread() is not threading.main_thread():
        return call()
    step = _Step(call)
    try:
        step.begin()
        step.over.wait()
    except BaseException:
        # Nobody begins it any more, or else it comes to its end.
        if not step.claim.acquire(blocking=False):
            step.over.wait()
        raise
    if step.error is not None:
        raise step.error
    return step.result  # type: ignore[no-any-return]


class _Step:
    """The call, for one thread."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.claim = threading.Lock()
        self.over = threading.Event()
        self.result: Any = None
        self.error: BaseException | None = None
        self._call = call

    def begin(self) -> None:
        thread = threading.Thread(target=self._run, name="pycontainer-whole")
        try:
            thread.start()
        except RuntimeError:
            # There is no thread to be had: then it must do without.
            self._run()

    def _run(self) -> None:
        if not self.claim.acquire(blocking=False):
            return
        try:
            self.result = self._call()
        except BaseException as error:
            self.error = error
        finally:
            self.over.set()
