"""How long to go on after failures: exponential backoff with jitter, and what the registry asks for."""

from __future__ import annotations

import random
from collections.abc import Callable

import attrs

from pycontainer.distribution.failures import Failure


@attrs.frozen
class Patience:
    """At most `attempts` tries; `first` seconds after the first failure, doubled after each one more.

    A wait above `longest` seconds, or `total` in one operation, is left to the caller to decide on.
    """

    attempts: int = 5
    first: float = 0.25
    longest: float = 30.0
    total: float = 60.0


class Pauses:
    """The waiting of one operation. `wait` sleeps, or raises where the client was closed meanwhile."""

    def __init__(self, patience: Patience, wait: Callable[[float], None]) -> None:
        self._patience = patience
        self._wait = wait
        self._failures = 0
        self._waited = 0.0

    def after(self, failure: Failure) -> None:
        """Waits as long as is right after `failure`; raises its error where trying again is not."""
        refusal = self.refusal(failure)
        if refusal is not None:
            raise refusal.error

    def refusal(self, failure: Failure) -> Failure | None:
        """Waits as long as is right after `failure`; gives it back at once where trying again is not."""
        self._failures += 1
        patience = self._patience
        if not failure.again or self._failures >= patience.attempts:
            return failure
        delay = patience.first * 2.0 ** (self._failures - 1) * random.uniform(0.5, 1.0)
        # Asked for less than that, all clients would still come back at the same moment.
        delay = max(min(delay, patience.longest), failure.wait or 0.0)
        self._waited += delay
        if delay > patience.longest or self._waited > patience.total:
            return failure
        self._wait(delay)
        return None

    def progress(self) -> None:
        """What was begun got further: failures before that no longer count."""
        self._failures = 0
