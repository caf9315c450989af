"""Containers that are set up in advance.

Who runs one thing in a fresh container again and again (a test suite, a build tool) waits mostly for mounts
and namespaces, which are the same each time. So when `run` was asked for the same kind of container twice in
a row, the supervisor sets the next one up as soon as nothing else is under way, as far as its last mount. The
next `run` of that kind brings the program. When nobody asks for it within `READY_SECONDS`, it is removed.

It is used only where it is what would be set up now: its plan is compared with the one that is wanted. What a
plan names but does not hold (a directory of the host that is bound in) might have become another one, so
containers with such things are not set up in advance; layers are known by their inodes, which nobody else
gets while they are mounted.
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
    from pycontainer.execution import Request
    from pycontainer.options import Options
    from pycontainer.store import LayeredRoot
    from pycontainer.supervisor.client import Supervisor


@attrs.frozen
class Kind:
    """What the containers of two runs have in common."""

    lower: tuple[str, ...]
    """The image's layers; none for the host's own root."""
    options: Options


def kind(root: LayeredRoot | None, options: Options) -> Kind | None:
    """None where there may be no second one, or not in advance."""
    whole = options.init and not options.tty and options.network == "none"
    outside = options.ports or options.pass_fds or options.devices or options.name is not None
    if not whole or outside or not all(isinstance(mount, (Content, Tmpfs)) for mount in options.mounts):
        return None
    if root is not None:
        return Kind(root.lower, options)
    # What is missing would be made, and hide what the host makes there meanwhile.
    there = [options.cwd or "/", *(os.path.dirname(mount.dst) for mount in options.mounts)]
    return Kind((), options) if all(map(os.path.isdir, there)) else None


@attrs.frozen
class Order:
    """A container to be set up."""

    kind: Kind
    container: str
    """Its id."""
    request: Request


@attrs.frozen
class Ready:
    """A container that the supervisor was asked to set up."""

    kind: Kind
    inodes: tuple[tuple[int, int], ...]
    container: str
    """Its id."""
    job: int
    """The number of its job."""
    plan: bytes


class Advance:
    """What one supervisor has been asked to set up, at most one container at a time. Safe between threads."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._lock = threading.Lock()
        self._ready: Ready | None = None
        self._last: Kind | None = None
        self._under_way = 0
        self._idle_since = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Around each `run`, whatever its kind."""
        with self._lock:
            self._under_way += 1
        try:
            yield
        finally:
            with self._lock:
                self._under_way -= 1
                self._idle_since = time.monotonic()

    def take(self, kind: Kind | None) -> Ready | None:
        """The one of that kind, where there is one; it is the caller's alone from here on."""
        with self._lock:
            found = self._ready
            if found is None or found.kind != kind:
                return None
            self._ready = None
        return found if found.inodes == _inodes(found.kind.lower) else None

    def worthwhile(self, kind: Kind | None) -> bool:
        """Whether one more of the kind that is being run is likely to be wanted. To be asked once a run."""
        with self._lock:
            again = kind is not None and kind == self._last and self._under_way == 1
            self._last = kind
            return again and time.monotonic() - self._idle_since < _sys.READY_SECONDS

    def order(self, order: Order) -> None:
        """Has it set up once nothing else is under way. Raises `SupervisorError`."""
        request, inodes = order.request, _inodes(order.kind.lower)
        plan, cleanup = request.encoded.set_up, request.cleanup
        if inodes is None or len(plan) + len(cleanup) > _sys.MAX_INLINE:
            return
        job = self._supervisor.reserve()
        self._supervisor.make_ready(job, plan, cleanup, request.lock, flags=request.flags)
        with self._lock:
            self._ready = Ready(order.kind, inodes, order.container, job, plan)


def _inodes(paths: tuple[str, ...]) -> tuple[tuple[int, int], ...] | None:
    """What lies there; None where one of them is gone."""
    try:
        found = [os.stat(path) for path in paths]
    except OSError:
        return None
    return tuple([(status.st_dev, status.st_ino) for status in found])
