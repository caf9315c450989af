"""Below which directory we may make groups, and why not.

v1: our own group in each hierarchy. v2 knows two more rules (cgroup-v2.rst): a group that holds
processes cannot hand controllers on ("no internal processes", all but the real root), and moving
into a group needs write permission on `cgroup.procs` of the common ancestor ("delegation").
"""

from __future__ import annotations

import os

import attrs

from pycontainer.runtime.cgroups import files

_DELEGATION = (
    "run the program under `systemd-run --user --scope -p Delegate=yes`; for controllers beyond "
    "memory and pids put `[Service] Delegate=cpu cpuset io memory pids` into "
    "/etc/systemd/system/user@.service.d/delegate.conf and log in again"
)


@attrs.frozen
class Why:
    reason: str
    remedy: str


NO_REASON = Why("", "")


@attrs.frozen
class Place:
    """A directory for our groups and the controllers that it can hand on to them."""

    directory: str | None
    controllers: frozenset[str]
    why: Why
    """Why the place is missing or hands nothing on; NO_REASON where it does."""


def v1(directory: str) -> tuple[str | None, Why]:
    if _writable(directory, "tasks"):
        return directory, NO_REASON
    if _read_only(directory):
        return None, _read_only_reason(directory)
    return None, Why(
        f"uid {os.geteuid()} may not make groups in {directory}",
        f"run as root, or give the user that directory: chown -R USER {directory}",
    )


def v2(mount: str, own: str | None, uid: int) -> Place:
    """The directory that hands on the most, the nearest to us among equals.

    For root that is the nearest one that systemd marked as delegated, else the visible root,
    where container engines without systemd put theirs.
    """
    chain = _chain(mount, own)
    places = [_look(directory) for directory in chain if _writable(directory, "cgroup.procs")]
    if not places:
        return Place(None, frozenset(), _no_place(mount, own, uid))
    if uid == 0:
        for place in places:
            if place.controllers and _delegated(place.directory):
                return place
        if places[-1].controllers:
            return places[-1]
    return max(places, key=lambda place: len(place.controllers))


def why_not(place: Place, mount: str, controller: str) -> Why:
    """Why `place` does not hand on `controller`."""
    if place.why != NO_REASON or controller == "freezer":
        return place.why
    at_root = (files.read_or_none(f"{mount}/cgroup.controllers") or "").split()
    if controller in at_root:
        return Why(f"the {controller} controller is not delegated to {place.directory}", _DELEGATION)
    return Why(
        f"the v2 hierarchy at {mount} has no {controller} controller",
        "use a kernel that has it, without cgroup_disable= for it on its command line",
    )


def _chain(mount: str, own: str | None) -> list[str]:
    """Our own group and those above it, up to the mount point."""
    if own is None:
        return [mount]
    chain = [own]
    while chain[-1] != mount and len(chain[-1]) > len(mount):
        chain.append(os.path.dirname(chain[-1]))
    return chain


def _look(directory: str) -> Place:
    controllers = frozenset((files.read_or_none(f"{directory}/cgroup.controllers") or "").split())
    # Only the real root of the hierarchy is without cgroup.type, and free of the rule.
    if not os.path.exists(f"{directory}/cgroup.type"):
        return Place(directory, controllers, NO_REASON)
    inside = files.read_or_none(f"{directory}/cgroup.procs")
    if inside == "":
        return Place(directory, controllers, NO_REASON)
    remedy = (
        f"move them into a group of their own: mkdir {directory}/init && "
        f"for p in $(cat {directory}/cgroup.procs); do echo $p > {directory}/init/cgroup.procs; done"
    )
    return Place(
        directory,
        frozenset(),
        Why(f"{directory} holds processes itself, so it cannot hand on controllers", remedy),
    )


def _delegated(directory: str | None) -> bool:
    """systemd.resource-control(5), Delegate=: the extended attribute that it sets for others."""
    for name in ("user.delegate", "trusted.delegate"):
        try:
            if directory is not None and os.getxattr(directory, name) == b"1":
                return True
        except OSError:
            continue
    return False


def _writable(directory: str, control: str) -> bool:
    return os.access(directory, os.W_OK | os.X_OK) and os.access(f"{directory}/{control}", os.W_OK)


def _read_only(directory: str) -> bool:
    try:
        return bool(os.statvfs(directory).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def _read_only_reason(directory: str) -> Why:
    return Why(
        f"{directory} is mounted read-only",
        f"mount -o remount,rw,bind {directory}; in a container of docker or podman, run that one "
        "with --privileged or with a writable /sys/fs/cgroup",
    )


def _no_place(mount: str, own: str | None, uid: int) -> Why:
    if _read_only(mount):
        return _read_only_reason(mount)
    if own is None:
        return Why(f"this process is outside of what is mounted at {mount}", "mount the whole hierarchy")
    return Why(f"no group from {own} upward is delegated to uid {uid}", _DELEGATION)
