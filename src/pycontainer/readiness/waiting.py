"""The waiting itself."""

from __future__ import annotations

import math
import os
import select
import threading
import time
from typing import TYPE_CHECKING

from pycontainer import _sys, wait
from pycontainer.errors import InvalidOption, WaitFailed
from pycontainer.readiness import tree
from pycontainer.readiness.condition import Waiting

if TYPE_CHECKING:
    from pycontainer.container import Container
    from pycontainer.lives import Run

_LINES = 100
_TAIL = 64 * 1024
_LONGEST_LINE = 200
_AGAIN = 0.025
"""Seconds until it is looked whether a restart policy has started the program again."""


def check(container: Container, strategy: wait.Strategy) -> None:
    """Whether it can be waited for at all. Raises InvalidOption."""
    if any(isinstance(one, wait.Healthy) for one in wait.each(strategy)) and container.healthcheck is None:
        raise InvalidOption("wait.healthy(): neither the image nor the options have a healthcheck")


def wait_until(container: Container, strategy: wait.Strategy, timeout: float | None) -> None:
    """Returns when it is met. Raises WaitFailed, and InvalidState for a container that does not run."""
    began = time.monotonic()
    deadline = math.inf if timeout is None else began + timeout
    check(container, strategy)
    run: Run | None = container._started("wait_until")
    with _Bell() as bell:
        container._journal.listen(bell.ring)
        try:
            while run is not None:
                run = _wait_for(container, run, strategy, bell, began, deadline)
        finally:
            container._journal.leave(bell.ring)


def _wait_for(
    container: Container, run: Run, strategy: wait.Strategy, bell: _Bell, began: float, deadline: float
) -> Run | None:
    """Waits for this start to become ready; gives the next one where a restart policy made one."""
    container._journal.mind(run.job)
    root = tree.plant(strategy, Waiting(container, run), began)
    try:
        while True:
            bell.silence()
            over = not run.running()
            if over:
                # Its last words may be what is waited for.
                run.output.finish()
            now = time.monotonic()
            root.update(now)
            if root.met:
                return None
            # Asked before the next line: a next start is announced after it is there.
            restarting = over and container._restarts.pending(run)
            if container._run is not run:
                # Whoever starts it lets go when all that a start changes is done.
                with container._changing:
                    return container._run
            if over and not restarting:
                raise _failed(container, f"ended ({_how(run)}) before it was ready", root)
            if root.met is False or now >= deadline:
                raise _failed(container, "is not ready", root)
            _sleep(
                bell, [] if over else list(root.pending()), min(deadline, now + _AGAIN) if over else deadline
            )
    finally:
        root.close()


def _sleep(bell: _Bell, leaves: list[tree.Leaf], deadline: float) -> None:
    poll = select.poll()
    poll.register(bell.fd, select.POLLIN)
    for leaf in leaves:
        for fd, events in leaf.condition.fds:
            poll.register(fd, events)
    until = min(deadline, tree.due(leaves))
    _sys.poll(poll, None if until == math.inf else until)


def _how(run: Run) -> str:
    code = run.exit_code
    if code is None:
        return "its supervisor died"
    return f"exit status {code}" if code >= 0 else f"signal {-code}"


def _failed(container: Container, what: str, root: tree.Node) -> WaitFailed:
    tail = container.logs(tail=_LINES).read()[-_TAIL:]
    last = tail.decode("utf-8", "replace").strip().rpartition("\n")[2][-_LONGEST_LINE:]
    ending = f"; its log ends with {last!r}" if last else "; its log is empty"
    return WaitFailed(f"{container._shown()} {what}: waiting for {root.missing()}{ending}", logs=tail)


class _Bell:
    """Rung from any thread when there may be something new."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def ring(self) -> None:
        with self._lock:
            # Who rings may have been told to before we left.
            if self.fd >= 0:
                os.eventfd_write(self.fd, 1)

    def silence(self) -> None:
        try:
            os.eventfd_read(self.fd)
        except BlockingIOError:
            return

    def __enter__(self) -> _Bell:
        return self

    def __exit__(self, *error: object) -> None:
        with self._lock:
            fd, self.fd = self.fd, -1
            os.close(fd)
