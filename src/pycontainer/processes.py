"""`ProcessInfo`: the processes of a container, looked up from outside in /proc (proc(5))."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import attrs

if TYPE_CHECKING:
    from pycontainer.runtime.cgroups import CgroupPlan

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_LONGEST = 2**20


class Found(NamedTuple):
    """What /proc/PID/stat says of a process that is there."""

    pid: int
    name: str
    parent: int
    times: tuple[int, int, int, int]
    """Ticks: user, system, and those of the children that it has waited for."""
    resident: int
    """Pages."""
    threads: int


@attrs.frozen
class ProcessInfo:
    """One process of a container: who it is on the host and inside, and what it uses."""

    pid: int
    """The host's number."""
    inner_pid: int
    """The number that it has in the container; its first process has 1."""
    parent: int
    """The host's number of its parent."""
    user: str
    """Its effective user inside: a name that the image knows, or the number."""
    cpu: float
    """Seconds that it has used, user and system together."""
    memory: int
    """Bytes of it that are in memory (RSS)."""
    command: tuple[str, ...]
    """Its arguments; of one that has none, because it has ended, say, its name in brackets."""


def find(groups: CgroupPlan | None, first: int) -> list[Found]:
    """The processes of the container whose first one has the host's number `first`, ordered by number.

    They are in its control group; where there is none, in its PID namespace.
    """
    pids: Iterable[int]
    if groups is not None and groups.directories:
        pids = _members(groups.directories[0])
    else:
        pids = _in_namespace(first)
    return [found for pid in sorted(pids) if (found := _look(pid)) is not None]


def below(found: Sequence[Found], first: int) -> list[Found]:
    """Of these processes the one with the number `first`, and its descendants."""
    children: dict[int, list[Found]] = {}
    for one in found:
        children.setdefault(one.parent, []).append(one)
    tree = [one for one in found if one.pid == first]
    for one in tree:
        tree += children.get(one.pid, ())
    return tree


def cpu_times(found: Sequence[Found]) -> tuple[float, float]:
    """Seconds, user and system, of processes and of those that they have waited for."""
    user = sum([one.times[0] + one.times[2] for one in found])
    system = sum([one.times[1] + one.times[3] for one in found])
    return user / _TICKS, system / _TICKS


def in_memory(found: Sequence[Found]) -> int:
    """Bytes that they have in memory; what they share counts for each."""
    return _PAGE * sum([one.resident for one in found])


def describe(found: Sequence[Found], user: Callable[[int], str]) -> list[ProcessInfo]:
    """`user` gives the name inside of a number outside. Those that have gone meanwhile are left out."""
    described = []
    for one in found:
        status = _status(one.pid)
        command = _read(f"/proc/{one.pid}/cmdline")
        if status is None or command is None:
            continue
        arguments = tuple([os.fsdecode(part) for part in command.rstrip(b"\0").split(b"\0")])
        described.append(
            ProcessInfo(
                one.pid,
                status[0],
                one.parent,
                user(status[1]),
                (one.times[0] + one.times[1]) / _TICKS,
                one.resident * _PAGE,
                arguments if command else (f"[{one.name}]",),
            )
        )
    return described


def _members(directory: str) -> set[int]:
    """Of a control group and those that were made below it. One that has gone has none."""
    found: set[int] = set()
    for path, _, _ in os.walk(directory):
        text = _read(f"{path}/cgroup.procs")
        found.update(int(line) for line in (text or b"").split())
    # Processes of other PID namespaces than this one's ancestors show as 0.
    return found - {0}


def _in_namespace(first: int) -> set[int]:
    try:
        wanted = os.readlink(f"/proc/{first}/ns/pid")
    except OSError:
        return set()
    return {int(name) for name in os.listdir("/proc") if name.isdigit() and _namespace(name) == wanted}


def _namespace(pid: str) -> str | None:
    """None where it may not be known: then it is none of ours."""
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return None


def _look(pid: int) -> Found | None:
    text = _read(f"/proc/{pid}/stat")
    if not text:
        return None
    # The name may hold anything; the last bracket closes it.
    head, _, tail = text.rpartition(b")")
    fields = tail.split()
    times = (int(fields[11]), int(fields[12]), int(fields[13]), int(fields[14]))
    name = os.fsdecode(head.partition(b"(")[2])
    return Found(pid, name, int(fields[1]), times, int(fields[21]), int(fields[17]))


def _status(pid: int) -> tuple[int, int] | None:
    """The number inside and the effective user, outside."""
    inner = user = None
    for line in (_read(f"/proc/{pid}/status") or b"").splitlines():
        name, _, value = line.partition(b":")
        if name == b"NSpid":
            inner = int(value.split()[-1])
        elif name == b"Uid":
            user = int(value.split()[1])
    return None if inner is None or user is None else (inner, user)


def _read(path: str) -> bytes | None:
    """The start of a file; None where its process or group has gone."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read(_LONGEST)
    except OSError:
        return None
