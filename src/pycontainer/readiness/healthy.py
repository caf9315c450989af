"""The container's own healthcheck."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pycontainer.readiness.condition import Condition, Hopeless, Waiting

if TYPE_CHECKING:
    from pycontainer.wait import Healthy


class IsHealthy(Condition):
    """The health tells everybody who listens to the container's journal when it changes."""

    def __init__(self, wanted: Healthy, waiting: Waiting) -> None:
        self._container = waiting.container
        self.due = math.inf

    def look(self, now: float) -> bool:
        health = self._container.health
        self.missing = f"it is {health}"
        if health == "unhealthy":
            last = self._container.health_log[-1:]
            raise Hopeless(f"unhealthy: {last[0].summary}" if last else "unhealthy")
        return health == "healthy"
