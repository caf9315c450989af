"""A program in the container that must succeed."""

from __future__ import annotations

import math
import select
from typing import TYPE_CHECKING

from pycontainer.errors import InvalidState, LaunchError
from pycontainer.probing import Probe
from pycontainer.readiness.condition import ATTEMPT_SECONDS, Condition, Pause, Waiting

if TYPE_CHECKING:
    from pycontainer.wait import Exec

_FIRST_PAUSE = 0.005
_LONGEST_PAUSE = 0.1


class Succeeds(Condition):
    def __init__(self, wanted: Exec, waiting: Waiting) -> None:
        self._wanted = wanted
        self._container = waiting.container
        self._pause = Pause(_LONGEST_PAUSE, _FIRST_PAUSE)
        self._probe: Probe | None = None
        self._killed = False
        self.missing = "not tried yet"

    @property
    def fds(self) -> list[tuple[int, int]]:
        return [] if self._probe is None else [(fd, select.POLLIN) for fd in self._probe.fds]

    def look(self, now: float) -> bool:
        try:
            return self._look(now)
        except (LaunchError, InvalidState) as error:
            # The program may come to be there yet, and a paused container goes on one day.
            self._probe = None
            self.missing = str(error)
            self.due = now + self._pause()
            return False

    def _look(self, now: float) -> bool:
        if self._probe is None:
            if now < self.due:
                return False
            self._probe = Probe(self._container, self._wanted.args, **dict(self._wanted.overrides))
            self._killed = False
            self.due = now + ATTEMPT_SECONDS
        answer = self._probe.answer()
        if answer is None:
            if now >= self.due and not self._killed:
                self._killed = True
                self._probe.kill()
                self.due = math.inf
            return False
        self._probe = None
        if answer.code == 0 and not self._killed:
            return True
        said = answer.output.decode("utf-8", "replace").strip().rpartition("\n")[2]
        ended = "took too long" if self._killed else f"exit status {answer.code}"
        self.missing = f"{ended}: {said}" if said else ended
        self.due = now + self._pause()
        return False

    def close(self) -> None:
        probe, self._probe = self._probe, None
        if probe is not None:
            probe.abandon()
