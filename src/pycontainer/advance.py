"""Containers that are set up in advance.

Who runs one thing in a fresh container again and again (a test suite, a build tool) waits mostly for mounts
and namespaces, which are the same each time. So when `run` was asked for the same kind of container twice in
a row, the supervisor sets the next one up as far as its last mount: as soon as nothing else is under way, or,
where there was no time between these two, beside the program. The next `run` of that kind brings the program.
When nobody asks for it within `READY_SECONDS`, it is removed.

It is used only where it is what would be set up now: it comes from the same recipe. What a plan names but
does not hold (a directory of the host that is bound in) might have become another one, so containers with
such things are not set up in advance; a recipe knows its layers by their inodes, which nobody else gets while
they are mounted.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import attrs

from pycontainer import _sys
from pycontainer.mounts import Content, Tmpfs

if TYPE_CHECKING:
    from pycontainer.recipes import Recipe
    from pycontainer.supervisor.client import Supervisor


# Seconds between two runs in which nothing can be set up: it begins a millisecond after the first and takes
# about another one.
_SHORT = 0.002


def possible(recipe: Recipe) -> bool:
    """Whether such a container may be set up in advance."""
    options = recipe.options
    whole = options.init and not options.tty and not options.pass_fds and options.name is None
    if (
        not whole
        or options.devices
        or not all(isinstance(mount, (Content, Tmpfs)) for mount in options.mounts)
    ):
        return False
    # On the host image, what is missing would be made, and hide what the host makes there meanwhile.
    there = [options.cwd or "/", *(os.path.dirname(mount.dst) for mount in options.mounts)]
    return recipe.lower != () or all(map(os.path.isdir, there))


@attrs.frozen
class Ready:
    """A container that the supervisor was asked to set up."""

    recipe: Recipe
    container: str
    """Its id."""
    job: int
    """The number of its job."""


class Advance:
    """What one supervisor has been asked to set up, at most one container at a time. Safe between threads."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._lock = threading.Lock()
        self._ready: Ready | None = None
        self._last: Recipe | None = None
        self._under_way = 0
        self._idle_since = 0.0
        self._idle = 0.0
        """Seconds, before the latest."""

    @contextmanager
    def running(self) -> Iterator[None]:
        """Around each `run`, whatever its kind."""
        with self._lock:
            self._under_way += 1
            self._idle = time.monotonic() - self._idle_since
        try:
            yield
        finally:
            with self._lock:
                self._under_way -= 1
                self._idle_since = time.monotonic()

    def take(self, recipe: Recipe) -> Ready | None:
        """The one of that kind, where there is one; it is the caller's alone from here on."""
        with self._lock:
            found = self._ready
            if found is None or found.recipe is not recipe:
                return None
            self._ready = None
        return found

    def worthwhile(self, recipe: Recipe | None) -> bool:
        """Whether one more of the kind that is being run is likely to be wanted. To be asked once a run."""
        with self._lock:
            again = recipe is not None and recipe is self._last and self._under_way == 1
            self._last = recipe
            return again and self._idle < _sys.READY_SECONDS

    def order(self, recipe: Recipe, container: str) -> None:
        """Has one set up, of that id; not where the program that is under way ends with a signal, or never
        began. Raises `SupervisorError`."""
        if not possible(recipe):
            return
        plan, cleanup = recipe.set_up(container), recipe.cleanup(container)
        if len(plan) + len(cleanup) > _sys.MAX_INLINE:
            return
        job = self._supervisor.reserve()
        decided, at_once = recipe.decided, self._idle < _SHORT
        self._supervisor.make_ready(job, plan, cleanup, decided.lock, flags=decided.flags, at_once=at_once)
        with self._lock:
            self._ready = Ready(recipe, container, job)
