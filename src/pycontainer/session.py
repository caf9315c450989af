"""What one host process has for all its containers: a supervisor, control groups, a place in the store."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from pycontainer.advance import Advance
from pycontainer.errors import LaunchError, PycontainerError
from pycontainer.runtime import cgroups, isolation
from pycontainer.store import Store
from pycontainer.supervisor import client, plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pycontainer.recipes import Recipe
    from pycontainer.runtime.cgroups import CgroupPlan
    from pycontainer.supervisor.client import Supervisor

_ALL_CAPABILITIES = isolation.capability_mask(isolation.CAPABILITIES)


class Session:
    """The supervisor of this process and what belongs to it.

    `capabilities` is the mask of what a container can be given at all.
    """

    def __init__(self, store: Store) -> None:
        """Raises `SupervisorError`, `LaunchError` and `StoreError`."""
        self.store = store
        self._sweep_dead()
        owner = store.owner()
        self.owner_id = owner.id
        self._mark = owner.path
        self.supervisor: Supervisor = client.default()
        self.advance = Advance(self.supervisor)
        self.recipes: list[Recipe] = []
        """The kinds of containers that were run last, the latest one first; replaced, never changed."""
        self.rootless = self.supervisor.rootless
        self.many_ids = self.supervisor.idmap is None or self.supervisor.idmap.many
        self.capabilities = _ALL_CAPABILITIES if self.rootless else _own_capabilities()
        self.cgroups = cgroups.prepare_owner(cgroups.host(), owner.id)
        self._trees: tuple[str, ...] = ()
        self._groups: tuple[str, ...] = ()
        self.supervisor.hello(self._final_plan(), owner.fd)
        owner.hand_over()
        self.supervisor.on_death = self._tidy

    @property
    def closed(self) -> bool:
        return self.supervisor.closed

    def limits(
        self, job: str, limits: cgroups.Limits, *, defaults: bool, freezer: bool = False
    ) -> CgroupPlan:
        """The control groups of one container. `defaults`: nobody asked for the limit on processes,
        so an ordinary user without control groups goes without it. `freezer`: it can be paused, where
        the host can do that."""
        optional = frozenset({"pids"}) if defaults and self.rootless else frozenset()
        return cgroups.plan(self.cgroups, job, limits, optional=optional, freezer=freezer)

    def answer_for(self, tree: str) -> None:
        """Has the supervisor remove `tree` at its end, whatever becomes of this process."""
        if tree not in self._trees:
            self._trees += (tree,)
            self.supervisor.hello(self._final_plan())

    def answer_for_groups(self, directories: Sequence[str]) -> None:
        """The same for control groups that a running container was given later."""
        self._groups += tuple(directories)
        self.supervisor.hello(self._final_plan())

    def forget_groups(self, directories: Sequence[str]) -> None:
        """Once they are removed."""
        self._groups = tuple([one for one in self._groups if one not in directories])

    def _final_plan(self) -> bytes:
        ops = plan.Ops(plan.Data())
        for tree in self._trees:
            ops.remove_tree(*os.path.split(tree))
        # The mark goes last: while anything bears its id, the next opener must find it.
        for path in (*self._groups, *self.cgroups.places, self._mark):
            ops.rmdir(path, flags=plan.IGNORE)
        return plan.encode(ops.data, setup=ops.encode())

    def _tidy(self) -> None:
        """After the supervisor's death: its containers died with it, their leavings go now."""
        cgroups.sweep(cgroups.host(), self.owner_id)
        self._sweep_dead()
        self.store.recover()

    def _sweep_dead(self) -> None:
        for dead in self.store.dead_owners():
            # What could not be removed now (a process that will not die yet) is the next one's.
            if not cgroups.sweep(cgroups.host(), dead.id):
                dead.forget()


def _own_capabilities() -> int:
    """What this process may hand on: its permitted set within its bounding set (capabilities(7))."""
    masks = {}
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        for line in status:
            name, _, value = line.partition(":")
            if name in ("CapPrm", "CapBnd"):
                masks[name] = int(value, 16)
    if len(masks) != 2:
        raise PycontainerError("/proc/self/status does not tell this process's capabilities")
    return masks["CapPrm"] & masks["CapBnd"]


_lock = threading.Lock()
_current: Session | None = None


def current() -> Session:
    """This process's session, begun at first use, and anew after the supervisor died."""
    global _current
    session = _current
    if session is not None and not session.closed:
        return session
    with _lock:
        if _current is None or _current.closed:
            try:
                _current = Session(Store.default())
            except OSError as error:
                raise LaunchError("preparing a start", errno=error.errno, path=error.filename) from error
        return _current


def _after_fork_in_child() -> None:
    global _current, _lock
    _lock = threading.Lock()
    _current = None


os.register_at_fork(after_in_child=_after_fork_in_child)
