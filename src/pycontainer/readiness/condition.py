"""What all conditions have in common."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from pycontainer.container import Container
    from pycontainer.lives import Run

FIRST_PAUSE = 0.001
ATTEMPT_SECONDS = 10.0
"""How long one attempt of those that ask may take."""


class Hopeless(Exception):
    """The condition can never be met; the text says why. It does not leave this package."""


@attrs.frozen
class Waiting:
    """The container, and the start of it that is to become ready."""

    container: Container
    run: Run


class Condition:
    """One thing that is waited for; used by one thread. Whoever makes it calls `close`."""

    missing = ""
    """Why it is not met, as far as that is known."""
    due = -math.inf
    """When it wants to be looked at, whatever happens (time.monotonic)."""

    @property
    def fds(self) -> list[tuple[int, int]]:
        """Descriptors, with events of poll(2), that are a reason to look."""
        return []

    def look(self, now: float) -> bool:
        """Whether it is met. Called at any time, not only for its own reasons. Raises Hopeless."""
        raise NotImplementedError

    def close(self) -> None:
        """Twice does no harm."""


class Pause:
    """Seconds between two looks: more and more, up to `longest`."""

    def __init__(self, longest: float, first: float = FIRST_PAUSE) -> None:
        self._next = first
        self._longest = longest

    def __call__(self) -> float:
        pause, self._next = self._next, min(2 * self._next, self._longest)
        return pause


Maker = Callable[[Waiting], Condition]
