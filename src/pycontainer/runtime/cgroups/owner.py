"""The directories of one owner (one supervisor): made once, below which every job has its own.

v2's is made at once, v1's in each hierarchy when it is first used. sweeping.py takes them away.
"""

from __future__ import annotations

import os
import re
import threading
from typing import TYPE_CHECKING

from pycontainer.errors import CapabilityUnavailable, InvalidOption, LaunchError
from pycontainer.runtime.cgroups import files
from pycontainer.runtime.cgroups.discover import Hierarchy, Host

if TYPE_CHECKING:
    from pycontainer.runtime.cgroups.planning import Template

PREFIX = "pycontainer-"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")

_EAGER = ("memory", "pids", "io")
"""Enabled at once on v2, for what usage reports and for the default limit. `cpu` and `cpuset` change
how the machine schedules its other groups, so they wait until somebody asks for them."""


def check_name(name: str, what: str) -> str:
    if not _NAME.fullmatch(name):
        raise InvalidOption(f"{what} {name!r} cannot be the name of a control group")
    return name


class Owner:
    """One supervisor's place in the hierarchies. Safe from any thread; not for a forked child."""

    def __init__(self, host: Host, name: str) -> None:
        self.host = host
        self.name = check_name(name, "owner")
        self.lock = threading.RLock()
        self.templates: dict[object, Template] = {}
        self._made: dict[str, str] = {}
        self._refused: dict[str, str] = {}

    @property
    def directories(self) -> tuple[str, ...]:
        """The directories made so far, absolute host paths."""
        return tuple(self._made.values())

    @property
    def places(self) -> tuple[str, ...]:
        """Every directory that it may ever make: who removes them must know before one is made."""
        return tuple([self._path(one) for one in self.host.hierarchies if one.parent is not None])

    def _path(self, hierarchy: Hierarchy) -> str:
        return f"{hierarchy.parent}/{PREFIX}{self.name}"

    def __repr__(self) -> str:
        return f"<Owner {self.name} {self.host.version} {' '.join(self.directories)}>"

    def directory(self, hierarchy: Hierarchy) -> str:
        """Our directory there, made when it is missing. Raises `LaunchError`."""
        found = self._made.get(hierarchy.mount)
        if found is not None:
            return found
        with self.lock:
            path = self._path(hierarchy)
            _make(path)
            if "cpuset" in hierarchy.names:
                _fill_cpuset(hierarchy.parent or hierarchy.mount, path)
            self._made[hierarchy.mount] = path
            return path

    def controlled(self, controller: str) -> str | None:
        """Our directory with `controller` on for what is below it; None where it cannot be."""
        hierarchy = self.host.controllers[controller].hierarchy
        if hierarchy is None:
            return None
        directory = self.directory(hierarchy)
        if hierarchy.version == 2 and controller != "freezer":
            with self.lock:
                if controller not in self._refused and not self._enable(hierarchy, directory, controller):
                    return None
            if controller in self._refused:
                return None
        return directory

    def unavailable(self, controller: str, limit: str) -> CapabilityUnavailable:
        """The error for a limit whose controller we cannot have."""
        found = self.host.controllers[controller]
        reason = self._refused.get(controller, found.reason)
        remedy = found.remedy or f"echo +{controller} > .../cgroup.subtree_control in each group above"
        return CapabilityUnavailable(f"{limit} limit: {reason}", remedy=remedy)

    def _enable(self, hierarchy: Hierarchy, directory: str, controller: str) -> bool:
        for level in (hierarchy.parent, directory):
            control = f"{level}/cgroup.subtree_control"
            try:
                if controller not in files.read(control).split():
                    files.write(control, b"+" + controller.encode("ascii"))
            except OSError as error:
                # Kept as the reason why a limit is refused; without one nobody needs it.
                self._refused[controller] = f"enabling {controller} in {control}: {error.strerror}"
                return False
        return True


def prepare_owner(host: Host, owner: str) -> Owner:
    """The owner's place; idempotent. Raises `LaunchError` where a promised directory is refused."""
    found = Owner(host, owner)
    if host.unified is not None and host.unified.parent is not None:
        found.directory(host.unified)
        for controller in _EAGER:
            found.controlled(controller)
    return found


def _make(path: str) -> None:
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        return
    except OSError as error:
        raise LaunchError("creating control group", errno=error.errno, path=path) from error


def _fill_cpuset(parent: str, path: str) -> None:
    """v1: a cpuset starts empty, and takes no process until it has CPUs and memory nodes."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        try:
            files.write(f"{path}/{name}", files.read(f"{parent}/{name}").strip().encode("ascii"))
        except OSError as error:
            raise LaunchError("setting limits", errno=error.errno, path=f"{path}/{name}") from error
