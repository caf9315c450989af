"""Taking away what an owner leaves: its processes, then its directories, in every hierarchy.

Whoever sweeps may sit in other groups than the owner did, so the owner's directories are looked for
in the whole of each hierarchy. Sweeping what is not there is success.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Iterator

from pycontainer.errors import InvalidState
from pycontainer.runtime.cgroups import files
from pycontainer.runtime.cgroups.discover import Host
from pycontainer.runtime.cgroups.owner import PREFIX, Owner, check_name

_MOST_DIRECTORIES = 50_000
_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.05


def sweep(host: Host, owner: str, *, timeout: float = 5.0) -> tuple[str, ...]:
    """Kill everything in the groups of `owner`, dead already, and remove them; idempotent.

    Gives the directories that are still there after `timeout` seconds (a process that does not
    die, or that another user owns); empty when all is gone. Raises `InvalidState` when this very
    process is in there.
    """
    name = PREFIX + check_name(owner, "owner")
    return _clear(host, [path for path in _owned(host) if os.path.basename(path) == name], timeout)


def remove_owner(owner: Owner, *, timeout: float = 5.0) -> tuple[str, ...]:
    """The normal end, when all jobs are gone; one that is not is killed as `sweep` does it."""
    return _clear(owner.host, list(owner.directories), timeout)


def owners(host: Host) -> frozenset[str]:
    """The names of all owners, alive or dead, that have a directory anywhere."""
    return frozenset(os.path.basename(path)[len(PREFIX) :] for path in _owned(host))


def _owned(host: Host) -> Iterator[str]:
    for hierarchy in host.hierarchies:
        waiting = [hierarchy.mount]
        for _ in range(_MOST_DIRECTORIES):
            if not waiting:
                break
            for path in files.subdirectories(waiting.pop()):
                if os.path.basename(path).startswith(PREFIX):
                    yield path
                else:
                    waiting.append(path)


def _clear(host: Host, trees: list[str], timeout: float) -> tuple[str, ...]:
    for hierarchy in host.hierarchies:
        for tree in trees:
            if hierarchy.own is not None and f"{hierarchy.own}/".startswith(f"{tree}/"):
                raise InvalidState(f"this process is itself in the control group {tree}")
    deadline, pause = time.monotonic() + timeout, _FIRST_PAUSE
    while trees := [tree for tree in trees if not _remove(tree)]:
        for tree in trees:
            _kill(tree)
        if time.monotonic() >= deadline:
            break
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
    return tuple(trees)


def _remove(tree: str) -> bool:
    """Removes what is empty, from the leaves up; whether the tree is gone."""
    for directory in reversed(_all(tree)):
        try:
            os.rmdir(directory)
        except FileNotFoundError:
            continue
        except OSError as error:
            # Busy: processes or groups in it. Refused: another user's. Both show in the answer.
            if error.errno not in (errno.EBUSY, errno.ENOTEMPTY, errno.EACCES, errno.EPERM):
                raise
    return not os.path.isdir(tree)


def _all(tree: str) -> list[str]:
    """The tree's directories, each before those below it."""
    found = [tree] if os.path.isdir(tree) else []
    for directory in found:  # grows while we go
        if len(found) > _MOST_DIRECTORIES:
            break
        found += files.subdirectories(directory)
    return found


def _kill(tree: str) -> None:
    try:
        files.write(f"{tree}/cgroup.kill", b"1")
        return
    except OSError:
        pass  # v1, or before Linux 5.14, or gone meanwhile: one by one below
    for directory in _all(tree):
        _thaw(directory)
        _kill_members(f"{directory}/cgroup.procs")


def _thaw(directory: str) -> None:
    """A process frozen by v1 does not die before it is thawed."""
    if os.path.exists(f"{directory}/freezer.state"):
        try:
            files.write(f"{directory}/freezer.state", b"THAWED")
        except (FileNotFoundError, PermissionError):
            return  # gone, or another user's: then its group stays, and the answer says so


def _kill_members(procs: str) -> None:
    """Through descriptors, looked at twice: a number may have become somebody else's meanwhile."""
    held: dict[int, int] = {}
    try:
        for pid in _members(procs):
            try:
                held[pid] = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
        still = _members(procs)
        for pid, fd in held.items():
            if pid in still:
                _send_kill(fd)
    finally:
        for fd in held.values():
            os.close(fd)


def _send_kill(fd: int) -> None:
    try:
        signal.pidfd_send_signal(fd, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return  # dead already, or not ours: then its group stays, and the answer says so


def _members(procs: str) -> set[int]:
    """The processes of a group; 0 stands for one of a PID namespace that we cannot see."""
    text = files.read_or_none(procs) or ""
    return {int(line) for line in text.split()} - {0, os.getpid()}
