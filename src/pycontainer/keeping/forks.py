"""After os.fork() in the host: what the child has of its parent's connections."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forgets(Protocol):
    def forget(self) -> None:
        """In a forked child: connections are the parent's, and its locks may be held for ever."""


_all: weakref.WeakSet[Forgets] = weakref.WeakSet()


def remember(one: Forgets) -> None:
    """Has `forget` called in each forked child."""
    _all.add(one)


def _after_fork_in_child() -> None:
    for one in list(_all):
        one.forget()


os.register_at_fork(after_in_child=_after_fork_in_child)
