"""Running healthchecks: one thread for all containers of this process that have one."""

from __future__ import annotations

import datetime
import heapq
import itertools
import math
import os
import select
import threading
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Literal

import attrs

from pycontainer.errors import PycontainerError
from pycontainer.happenings import tell
from pycontainer.minding import minder
from pycontainer.probing import Probe
from pycontainer.readiness.condition import Pause

if TYPE_CHECKING:
    from pycontainer.container import Container
    from pycontainer.healthcheck import Healthcheck
    from pycontainer.lives import Run

State = Literal["starting", "healthy", "unhealthy"]

KEPT = 10
"""How many results are kept."""
_FIRST_PAUSE = 0.1
_PAUSED_SECONDS = 1.0
_LONGEST_SUMMARY = 200
_FEW = 64


@attrs.frozen
class HealthResult:
    """One run of a healthcheck. `exit_code` is None where it was killed at its time-out or could not be
    started; `output` is the last 4 KiB of what it wrote, or the error."""

    started_at: datetime.datetime
    seconds: float
    exit_code: int | None
    output: bytes = attrs.field(repr=False)

    @property
    def summary(self) -> str:
        """One line."""
        said = self.output.decode("utf-8", "replace").strip().rpartition("\n")[2][:_LONGEST_SUMMARY]
        ended = "no exit status" if self.exit_code is None else f"exit status {self.exit_code}"
        return f"{ended}: {said}" if said else ended


class Health:
    """The health of one start of a container, from its begin to its end."""

    def __init__(self, container: Container, run: Run, check: Healthcheck) -> None:
        """Begins to run `check`."""
        self.state: State = "starting"
        self.results: deque[HealthResult] = deque(maxlen=KEPT)
        self.check = check
        self._container = container
        self._run = run
        self._probe: Probe | None = None
        self._failures = 0
        self._grace_ends = time.monotonic() + max(check.start_period, check.interval)
        longest = min(check.start_interval, check.interval)
        self._early = Pause(longest, first=min(longest, _FIRST_PAUSE))
        self._began = 0.0
        self._began_at = datetime.datetime.now(datetime.timezone.utc)
        self._killed = False
        self._due = 0.0
        _checker.add(self)
        minder().after_end(run.job, self.end)

    def end(self) -> None:
        """The container has ended, or nobody wants to know any more. Does not block."""
        _checker.drop(self)

    # Called by the checker's thread alone.

    @property
    def fds(self) -> list[int]:
        return [] if self._probe is None else self._probe.fds

    def step(self, now: float) -> float:
        """Does what is to be done; gives the time of the next step (time.monotonic), infinity for none but
        what `fds` bring."""
        if self._probe is None:
            if now < self._due:
                return self._due
            if self._container.status == "paused":
                self._due = now + _PAUSED_SECONDS
                return self._due
            self._begin(now)
        if self._probe is not None:
            self._ask(now)
        return self._due

    def close(self) -> None:
        """Ends what is under way; the container has ended, or is about to."""
        probe, self._probe = self._probe, None
        if probe is not None:
            probe.abandon()

    def _begin(self, now: float) -> None:
        self._began = now
        self._began_at = datetime.datetime.now(datetime.timezone.utc)
        self._killed = False
        self._due = now + self.check.timeout
        try:
            self._probe = Probe(self._container, self.check.test)
        except (PycontainerError, OSError) as error:
            self._note(None, str(error).encode())

    def _ask(self, now: float) -> None:
        assert self._probe is not None
        try:
            answer = self._probe.answer()
        except PycontainerError as error:
            self._probe = None
            return self._note(None, str(error).encode())
        if answer is not None:
            self._probe = None
            if self._killed:
                return self._note(None, b"took longer than %g s\n" % self.check.timeout + answer.output)
            return self._note(answer.code, answer.output)
        if now >= self._due and self._container.status == "paused":
            # Time stood still for it.
            self._due = now + self.check.timeout
        elif now >= self._due:
            # Its end makes an answer.
            self._killed = True
            self._probe.kill()
            self._due = math.inf

    def _note(self, code: int | None, output: bytes) -> None:
        now = time.monotonic()
        if not self._run.running():
            # It died with the container.
            self._due = math.inf
            return
        self.results.append(HealthResult(self._began_at, now - self._began, code, output))
        before = self.state
        if code == 0:
            self._failures = 0
            self.state = "healthy"
        elif before != "starting" or now >= self._grace_ends:
            self._failures += 1
            if self._failures >= self.check.retries:
                self.state = "unhealthy"
        pause = self.check.interval
        if self.state == "starting" and now < self._grace_ends:
            pause = min(self._early(), self._grace_ends - now)
        self._due = now + pause
        if self.state != before:
            tell(self._container, "health", health=self.state)
            self._container._journal.poke()


class _Checker:
    """Runs the steps of all; its thread lives while there is any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._all: set[Health] = set()
        self._added: list[Health] = []
        self._dropped: list[Health] = []
        self._wake = -1

    def add(self, health: Health) -> None:
        with self._lock:
            self._all.add(health)
            self._added.append(health)
            if self._wake < 0:
                self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
                loop = _Loop(self, self._wake)
                threading.Thread(target=loop.run, name="pycontainer-health", daemon=True).start()
            else:
                os.eventfd_write(self._wake, 1)

    def drop(self, health: Health) -> None:
        with self._lock:
            if health in self._all:
                self._all.remove(health)
                self._dropped.append(health)
                os.eventfd_write(self._wake, 1)

    def changes(self) -> tuple[list[Health], list[Health], bool]:
        """Who came and who went since the last time, and whether that was all: the thread ends then."""
        with self._lock:
            added, self._added = self._added, []
            dropped, self._dropped = self._dropped, []
            done = not self._all
            if done:
                os.close(self._wake)
                self._wake = -1
            return added, dropped, done


class _Loop:
    """What only the thread has."""

    def __init__(self, checker: _Checker, wake: int) -> None:
        self._checker = checker
        self._wake = wake
        self._numbers = itertools.count()
        self._timers: list[tuple[float, int, Health]] = []
        self._next: dict[Health, float] = {}
        self._fds: dict[int, Health] = {}
        self._held: dict[Health, list[int]] = {}

    def run(self) -> None:
        with select.epoll() as epoll:
            epoll.register(self._wake, select.EPOLLIN)
            while True:
                added, dropped, done = self._checker.changes()
                for health in added:
                    self._step(epoll, health)
                for health in dropped:
                    self._forget(epoll, health)
                    health.close()
                if done:
                    return
                self._turn(epoll)

    def _turn(self, epoll: select.epoll) -> None:
        for fd, _ in epoll.poll(self._patience()):
            if fd == self._wake:
                with suppress(BlockingIOError):
                    os.eventfd_read(fd)
            elif fd in self._fds:
                self._step(epoll, self._fds[fd])
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            due, _, health = heapq.heappop(self._timers)
            if self._next.get(health) == due:
                self._step(epoll, health)

    def _patience(self) -> float:
        # Those that were put off stand on top until their old time has come.
        return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else -1.0

    def _step(self, epoll: select.epoll, health: Health) -> None:
        self._ignore(epoll, health)
        due = health.step(time.monotonic())
        if self._next.get(health) != due:
            self._next[health] = due
            if due < math.inf:
                heapq.heappush(self._timers, (due, next(self._numbers), health))
        if len(self._timers) > 2 * len(self._next) + _FEW:
            self._timers = [timer for timer in self._timers if self._next.get(timer[2]) == timer[0]]
            heapq.heapify(self._timers)
        self._held[health] = health.fds
        for fd in self._held[health]:
            self._fds[fd] = health
            epoll.register(fd, select.EPOLLIN)

    def _ignore(self, epoll: select.epoll, health: Health) -> None:
        for fd in self._held.pop(health, ()):
            del self._fds[fd]
            with suppress(FileNotFoundError, OSError):
                epoll.unregister(fd)

    def _forget(self, epoll: select.epoll, health: Health) -> None:
        self._ignore(epoll, health)
        self._next.pop(health, None)


_checker = _Checker()


def _after_fork_in_child() -> None:
    """The thread is the parent's, and so are the containers."""
    global _checker
    _checker = _Checker()


os.register_at_fork(after_in_child=_after_fork_in_child)
