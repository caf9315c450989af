"""Strategies become conditions: single ones, all of several, any of several."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Protocol

from pycontainer import wait
from pycontainer.errors import InvalidState, LaunchError
from pycontainer.readiness.answered import Answers
from pycontainer.readiness.condition import Condition, Hopeless, Waiting
from pycontainer.readiness.executed import Succeeds
from pycontainer.readiness.healthy import IsHealthy
from pycontainer.readiness.logged import Logged
from pycontainer.readiness.ports import Listens
from pycontainer.readiness.watched_file import FileThere

_CONDITIONS: dict[type[wait.Strategy], Any] = {
    wait.Exec: Succeeds,
    wait.File: FileThere,
    wait.Healthy: IsHealthy,
    wait.Http: Answers,
    wait.Listening: Listens,
    wait.Log: Logged,
}
_AGAIN_SECONDS = 0.025
_LONGEST_REASON = 200


class Node(Protocol):
    """`met` is None as long as nobody knows."""

    met: bool | None

    def update(self, now: float) -> None: ...

    def pending(self) -> Iterator[Leaf]: ...

    def missing(self) -> str: ...

    def close(self) -> None: ...


class Leaf:
    """A single condition, with its time."""

    def __init__(self, strategy: Any, waiting: Waiting, began: float) -> None:
        self.met: bool | None = None
        self.deadline: float = began + strategy.timeout
        self._strategy = strategy
        self._why = ""
        self.condition: Condition = _CONDITIONS[type(strategy)](strategy, waiting)

    def update(self, now: float) -> None:
        if self.met is not None:
            return
        try:
            self.met = self.condition.look(now) or None
            self._why = self.condition.missing
        except Hopeless as error:
            self.met = False
            self._why = str(error)
        except (InvalidState, LaunchError) as error:
            # The container is ending, which is noticed elsewhere, or is paused.
            self._why = str(error)
            self.condition.due = now + _AGAIN_SECONDS
        if self.met is None and now >= self.deadline:
            self.met = False
            self._why = f"not within {self._strategy.timeout:g} s" + (f": {self._why}" if self._why else "")
        if self.met is not None:
            self.close()

    def pending(self) -> Iterator[Leaf]:
        if self.met is None:
            yield self

    @property
    def due(self) -> float:
        return min(self.deadline, self.condition.due)

    def missing(self) -> str:
        why = self._why if len(self._why) <= _LONGEST_REASON else self._why[: _LONGEST_REASON - 3] + "..."
        return f"{self._strategy!r} ({why})" if why else repr(self._strategy)

    def close(self) -> None:
        self.condition.close()


class Several:
    """All of its members (`wanted` True: the first that fails decides), or any (False: the first that is
    met does)."""

    def __init__(self, members: list[Node], *, wanted: bool) -> None:
        self.met: bool | None = None
        self._members = members
        self._wanted = wanted

    def update(self, now: float) -> None:
        if self.met is not None:
            return
        for member in self._members:
            member.update(now)
        known = {member.met for member in self._members}
        if (not self._wanted) in known:
            self.met = not self._wanted
        elif None not in known:
            self.met = self._wanted

    def pending(self) -> Iterator[Leaf]:
        if self.met is None:
            for member in self._members:
                yield from member.pending()

    def missing(self) -> str:
        return (" and " if self._wanted else " or ").join(
            [member.missing() for member in self._members if not member.met]
        )

    def close(self) -> None:
        for member in self._members:
            member.close()


def plant(strategy: wait.Strategy, waiting: Waiting, began: float) -> Node:
    """The conditions of `strategy`, whose times began then (time.monotonic). Raises what they raise."""
    if not isinstance(strategy, (wait.AllOf, wait.AnyOf)):
        return Leaf(strategy, waiting, began)
    members: list[Node] = []
    try:
        for member in strategy.members:
            members.append(plant(member, waiting, began))
    except BaseException:
        for node in members:
            node.close()
        raise
    return Several(members, wanted=isinstance(strategy, wait.AllOf))


def due(leaves: list[Leaf]) -> float:
    """When the first of them wants to be looked at."""
    return min([leaf.due for leaf in leaves], default=math.inf)
