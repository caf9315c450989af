"""Waiting for a job from any number of threads: one of them polls, the others wait for it."""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from pycontainer import _sys
from pycontainer.errors import SupervisorError

_SLICE_SECONDS = 0.05

if TYPE_CHECKING:
    from pycontainer.execution import Execution
    from pycontainer.supervisor.client import Job


class Watch:
    """The start and the end of one execution."""

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        self._polling = threading.Lock()

    @property
    def job(self) -> Job:
        return self._execution.job

    def started(self, deadline: float | None) -> bool:
        """Waits until the program was executed. Raises `LaunchError` where it could not be."""
        job = self.job
        done = self._until(lambda: job.started is not None or job.final is not None, deadline)
        if job.started is None and job.final is not None:
            self._execution.final()
        return done

    def ended(self, deadline: float | None) -> bool:
        """Waits for the end; False when time runs out before. Raises `SupervisorError`."""
        job = self.job
        done = self._until(lambda: job.final is not None, deadline)
        if done:
            job.tell_end()
        return done

    def running(self) -> bool:
        """Whether it still runs, without waiting. Who is polling meanwhile will notice the end."""
        job = self.job
        if job.final is None and not job.lost and self._polling.acquire(blocking=False):
            try:
                # A dead supervisor took the program with it, which is an answer; waiting raises it.
                with suppress(SupervisorError):
                    job.take()
            finally:
                self._polling.release()
        if job.final is None and not job.lost:
            return True
        job.tell_end()
        return False

    def _until(self, done: Callable[[], bool], deadline: float | None) -> bool:
        job = self.job
        # Others may take the end in, who do not wait for it: the minder.
        channel = job.held
        late = False
        while not done():
            if late:
                return False
            # Who has no time asks whether it has ended, so it is looked once more.
            late = deadline is not None and time.monotonic() >= deadline
            # In slices, for the reason that `_sys.poll` has them.
            if not self._polling.acquire(timeout=0 if late else _SLICE_SECONDS):
                continue
            try:
                if not done() and job.take() is None and not done():
                    poll = select.poll()
                    poll.register(channel.fd, select.POLLIN)
                    _sys.poll(poll, deadline)
                    job.take()
            finally:
                self._polling.release()
        return True
