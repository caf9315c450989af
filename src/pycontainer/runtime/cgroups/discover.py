"""What this machine gives: which version, which controllers, and where we may make groups.

Found by looking at /proc/self/mountinfo and /proc/self/cgroup (proc(5), cgroups(7)), never by
assuming /sys/fs/cgroup. A process in a container sees other paths in these two files than the host:
both are taken relative to the root of its cgroup namespace or of the bind mount.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import attrs

from pycontainer.runtime.cgroups import files, parents

CONTROLLERS = ("memory", "pids", "cpu", "cpuset", "io", "freezer")
"""By their v2 names; v1 calls `io` "blkio", and v2 freezes without a controller."""

Version = Literal["v1", "v2", "hybrid", "none"]

_V1_NAMES = {"blkio": "io"} | {name: name for name in CONTROLLERS if name != "io"}
_OCTAL = re.compile(r"\\([0-7]{3})")


@attrs.frozen
class Hierarchy:
    """One mounted tree of control groups."""

    version: int
    mount: str
    """The mount point."""
    own: str | None
    """The directory of this process; None where it lies outside of what is mounted here."""
    parent: str | None
    """The directory below which we may make groups; None where there is no such place."""
    names: tuple[str, ...]
    """v1: the kernel's names of the controllers that share this hierarchy."""


@attrs.frozen
class Controller:
    """One resource: where it is controlled, or why it cannot be."""

    name: str
    hierarchy: Hierarchy | None
    reason: str = ""
    remedy: str = ""

    @property
    def available(self) -> bool:
        return self.hierarchy is not None


@attrs.frozen
class Host:
    """This machine's control groups as this process may use them. Immutable; see `host`."""

    version: Version
    controllers: Mapping[str, Controller]
    unified: Hierarchy | None
    """The v2 hierarchy where it is the one in use; None on v1 and hybrid hosts."""

    @property
    def hierarchies(self) -> tuple[Hierarchy, ...]:
        """Each hierarchy that holds one of our controllers, or the unified one; once each."""
        found = [c.hierarchy for c in self.controllers.values() if c.hierarchy is not None]
        if self.unified is not None:
            found.append(self.unified)
        return tuple(dict.fromkeys(found))


@attrs.frozen
class _Mount:
    root: str
    point: str
    fstype: str
    options: frozenset[str]


@functools.lru_cache(maxsize=1)
def host() -> Host:
    """Looks once per process; a forked child inherits the answer, which holds for it too."""
    return discover()


def discover(*, proc: str = "/proc/self", prefix: str = "", uid: int | None = None) -> Host:
    """Looks now. `prefix` stands before each mount point (a made-up tree in tests)."""
    mounts = _mounts(files.read_or_none(f"{proc}/mountinfo") or "")
    paths = _paths(files.read_or_none(f"{proc}/cgroup") or "")
    user = os.geteuid() if uid is None else uid
    v1 = _v1(mounts, paths, prefix)
    unified = next((m for m in mounts if m.fstype == "cgroup2"), None)
    if v1:
        return Host(
            version="v1" if unified is None else "hybrid",
            controllers=MappingProxyType(_complete(v1, "no v1 hierarchy of this host has it")),
            unified=None,
        )
    if unified is None:
        return Host("none", MappingProxyType(_complete({}, "no control groups are mounted")), None)
    return _v2(unified, paths.get(""), prefix, user)


def _mounts(text: str) -> list[_Mount]:
    """The control group mounts, the topmost of those on one mount point alone, in order."""
    found: dict[str, _Mount] = {}
    for line in text.splitlines():
        left, separator, right = line.partition(" - ")
        fields, rest = left.split(" "), right.split(" ")
        if not separator or len(fields) < 6 or len(rest) < 3:
            continue
        point = _unescape(fields[4])
        found.pop(point, None)
        if rest[0] in ("cgroup", "cgroup2"):
            found[point] = _Mount(_unescape(fields[3]), point, rest[0], frozenset(rest[2].split(",")))
    return list(found.values())


def _unescape(field: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), field)


def _paths(text: str) -> dict[str, str]:
    """/proc/self/cgroup: the controllers of each hierarchy ("" for v2) and our group in it."""
    found = {}
    for line in text.splitlines():
        _, _, rest = line.partition(":")
        controllers, separator, path = rest.partition(":")
        if separator:
            found[controllers] = path
    return found


def _own(mount: _Mount, path: str | None, prefix: str) -> str | None:
    """Where `path` is below the mount point; None where the mount does not show it."""
    if path is None or "/.." in path or "/.." in mount.root:
        return None
    base = mount.root.rstrip("/")
    if path != mount.root and not path.startswith(base + "/"):
        return None
    below = path[len(base) :].strip("/")
    point = prefix + mount.point.rstrip("/")
    directory = f"{point}/{below}" if below else point
    # A group that was removed while we are in it has " (deleted)" in its name: take what is above it.
    while directory != point and not os.path.isdir(directory):
        directory = os.path.dirname(directory)
    return directory


def _v1(mounts: list[_Mount], paths: Mapping[str, str], prefix: str) -> dict[str, Controller]:
    found: dict[str, Controller] = {}
    for names, path in paths.items():
        kernel = tuple(names.split(","))
        ours = [_V1_NAMES[name] for name in kernel if name in _V1_NAMES]
        mount = next((m for m in mounts if m.fstype == "cgroup" and m.options >= frozenset(kernel)), None)
        if not ours or mount is None:
            continue
        own = _own(mount, path, prefix)
        point = prefix + mount.point
        # Below our own group, so that limits set on this process from outside keep holding.
        parent, why = parents.v1(point if own is None else own)
        hierarchy = Hierarchy(1, point, own, parent, kernel)
        for name in ours:
            found[name] = Controller(name, hierarchy if parent else None, why.reason, why.remedy)
    return found


def _complete(found: Mapping[str, Controller], reason: str) -> dict[str, Controller]:
    remedy = "mount the controller, or boot with systemd.unified_cgroup_hierarchy=1 for cgroup v2"
    return {name: found.get(name, Controller(name, None, reason, remedy)) for name in CONTROLLERS}


def _v2(mount: _Mount, path: str | None, prefix: str, uid: int) -> Host:
    point = prefix + mount.point
    own = _own(mount, path, prefix)
    place = parents.v2(point, own, uid)
    hierarchy = Hierarchy(2, point, own, place.directory, ())
    controllers = {}
    for name in CONTROLLERS:
        # Freezing and killing are the group's own, without any controller (cgroup-v2.rst).
        given = name in place.controllers or (name == "freezer" and place.directory is not None)
        why = parents.NO_REASON if given else parents.why_not(place, point, name)
        controllers[name] = Controller(name, hierarchy if given else None, why.reason, why.remedy)
    return Host("v2", MappingProxyType(controllers), hierarchy)
