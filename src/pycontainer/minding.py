"""Noticing that programs ended, for those who do not wait: one thread for all of them."""

from __future__ import annotations

import heapq
import itertools
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from pycontainer.errors import SupervisorError

if TYPE_CHECKING:
    from pycontainer.supervisor.client import Job

Call = Callable[[], None]


class Minder:
    """Calls what is to be done after a job's end, or at a time; its thread runs while there is anything
    to wait for. What it calls must not block for long, and must not raise."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: dict[int, Job] = {}
        self._due: deque[Call] = deque()
        self._timers: list[tuple[float, int, Call]] = []
        self._numbers = itertools.count()
        self._epoll: select.epoll | None = None
        self._wake = -1

    def after_end(self, job: Job, call: Call) -> None:
        """Calls `call` once when the job has ended, whoever finds that out."""
        held = job.held
        channel = held.fd

        def ended() -> None:
            with self._lock:
                # Its number may be another job's channel by now.
                if self._jobs.get(channel) is job:
                    del self._jobs[channel]
                self._due.append(call)
                self._run_thread()

        job.on_end(ended)
        with self._lock:
            if job.final is None and not job.lost and channel >= 0:
                self._jobs[channel] = job
                self._run_thread()
                assert self._epoll is not None
                # Where it ended meanwhile, whoever took the end in calls `ended` next. Once: a copy of the
                # channel in a forked child would be reported for ever.
                with suppress(OSError):
                    self._epoll.register(channel, select.EPOLLIN | select.EPOLLONESHOT)

    def after(self, seconds: float, call: Call) -> Call:
        """Calls `call` in so many seconds, unless what this gives is called before."""
        with self._lock:
            timer = (time.monotonic() + seconds, next(self._numbers), call)
            heapq.heappush(self._timers, timer)
            self._run_thread()

        def cancel() -> None:
            with self._lock:
                if timer in self._timers:
                    self._timers.remove(timer)
                    heapq.heapify(self._timers)
                    # It may have nothing left to wait for.
                    self._run_thread()

        return cancel

    def _run_thread(self) -> None:
        """The caller holds the lock."""
        if self._epoll is not None:
            os.eventfd_write(self._wake, 1)
            return
        try:
            self._epoll = epoll = select.epoll()
            self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            epoll.register(self._wake, select.EPOLLIN)
            thread = threading.Thread(target=self._run, args=(epoll,), daemon=True)
            thread.name = "pycontainer-minder"
            thread.start()
        except BaseException:
            # Ctrl-C, say, which may come after the thread's start, too: that sees then that it has
            # nothing to do.
            self._epoll = None
            if self._wake >= 0:
                os.close(self._wake)
                self._wake = -1
            raise

    def _run(self, epoll: select.epoll) -> None:
        with self._lock:
            if self._epoll is not epoll:
                epoll.close()
                return
        while True:
            for fd, _ in epoll.poll(self._patience()):
                self._look(fd)
            for call in self._ready():
                call()
            with self._lock:
                if not self._jobs and not self._timers and not self._due:
                    self._stop()
                    return

    def _stop(self) -> None:
        epoll, self._epoll = self._epoll, None
        wake, self._wake = self._wake, -1
        assert epoll is not None
        epoll.close()
        os.close(wake)

    def _patience(self) -> float:
        with self._lock:
            if self._due:
                return 0.0
            return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else -1.0

    def _look(self, fd: int) -> None:
        if fd == self._wake:
            with suppress(BlockingIOError):
                os.eventfd_read(fd)
            return
        with self._lock:
            job = self._jobs.get(fd)
        if job is None:
            return
        # Its end calls `ended` above; the supervisor's death is one, too.
        with suppress(SupervisorError):
            if job.take() is None:
                with self._lock, suppress(OSError):
                    assert self._epoll is not None
                    self._epoll.modify(fd, select.EPOLLIN | select.EPOLLONESHOT)

    def _ready(self) -> list[Call]:
        with self._lock:
            found = list(self._due)
            self._due.clear()
            while self._timers and self._timers[0][0] <= time.monotonic():
                found.append(heapq.heappop(self._timers)[2])
            return found


_current = Minder()


def minder() -> Minder:
    """This process's."""
    return _current


def _after_fork_in_child() -> None:
    """The thread is the parent's, and so are the containers."""
    global _current
    _current = Minder()


os.register_at_fork(after_in_child=_after_fork_in_child)
