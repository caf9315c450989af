"""Memory and counts with many containers alive, taken in the worker that holds them."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from benchmarks.competitors.base import Competitor

_PROC = Path("/proc")
_SETTLE_SECONDS = 5.0
# What is kept for the next container goes after 0.3 s.
_QUIET_SECONDS = 0.6


def measure_alive(competitor: Competitor, count: int) -> dict[str, Any]:
    """Starts `count` containers, weighs our processes, ends the containers. Memory in bytes."""
    # The first start brings the supervisor, and whatever else is made once.
    first = competitor.hold()
    supervisor = supervisor_of(competitor.pid_of(first))
    competitor.release(first)
    before = settled_counts(supervisor, competitor.place, None)
    host_before = private_bytes(os.getpid())
    held: list[Any] = []
    begun = time.perf_counter()
    try:
        for _ in range(count):
            held.append(competitor.hold())
        started = time.perf_counter() - begun
        weighed = {
            "count": count,
            "start_seconds": started,
            **_weigh(supervisor),
            "host_growth_bytes": private_bytes(os.getpid()) - host_before,
        }
    finally:
        begun = time.perf_counter()
        for container in held:
            competitor.release(container)
        stopped = time.perf_counter() - begun
    after = settled_counts(supervisor, competitor.place, before)
    return {**weighed, "stop_seconds": stopped, "before": before, "after": after}


def _weigh(supervisor: int) -> dict[str, int]:
    """Processes of the supervisor's own executable are the library's, the others are programs."""
    own = _executable(supervisor)
    everything = [supervisor, *_descendants(supervisor)]
    ours = [pid for pid in everything if _executable(pid) == own]
    programs = [pid for pid in everything if pid not in set(ours)]
    return {
        "own_processes": len(ours),
        "own_bytes": sum(map(private_bytes, ours)),
        "own_proportional_bytes": sum(map(proportional_bytes, ours)),
        "program_processes": len(programs),
        "program_bytes": sum(map(private_bytes, programs)),
    }


def supervisor_of(pid: int) -> int:
    """Whose container `pid` is the first process of: the topmost ancestor with the same executable."""
    executable = _executable(pid)
    while executable and _executable(parent := _parent(pid)) == executable:
        pid = parent
    return pid


def _executable(pid: int) -> str:
    try:
        return os.readlink(_PROC / str(pid) / "exe")
    except OSError:
        # A zombie has none, nor has a process that went meanwhile.
        return ""


def _parent(pid: int) -> int:
    return _parent_in((_PROC / str(pid) / "stat").read_text())


def _parent_in(stat: str) -> int:
    """The name before it may hold spaces and parentheses (proc_pid_stat(5))."""
    return int(stat.rpartition(")")[2].split()[1])


def _descendants(top: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            children.setdefault(_parent_in(stat), []).append(int(entry.name))
    found, todo = [], [top]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def private_bytes(pid: int) -> int:
    """What would come free if the process ended: Private_Clean and Private_Dirty (proc_pid_smaps(5))."""
    return _rollup(pid, ("Private_Clean:", "Private_Dirty:"))


def proportional_bytes(pid: int) -> int:
    """The same with the process's share of what it shares with others."""
    return _rollup(pid, ("Pss:",))


def _rollup(pid: int, names: tuple[str, ...]) -> int:
    lines = (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(names))


def settled_counts(supervisor: int, place: Path, wanted: dict[str, int] | None) -> dict[str, int]:
    """What there is of everything that could be left behind; waits a little for `wanted`, or without it
    until nothing changes any more."""
    changed = time.monotonic()
    deadline = changed + _SETTLE_SECONDS
    counts = _counts(supervisor, place)
    while time.monotonic() < deadline and counts != wanted:
        time.sleep(0.05)
        before, counts = counts, _counts(supervisor, place)
        if counts != before:
            changed = time.monotonic()
        if wanted is None and time.monotonic() - changed > _QUIET_SECONDS:
            break
    return counts


def _counts(supervisor: int, place: Path) -> dict[str, int]:
    own = _PROC / "self"
    return {
        "processes": len(_descendants(os.getpid())) + len(_descendants(supervisor)),
        "descriptors": len(os.listdir(own / "fd")),
        "supervisor's descriptors": len(os.listdir(_PROC / str(supervisor) / "fd")),
        "threads": len(os.listdir(own / "task")),
        "mounts": len((own / "mountinfo").read_text().splitlines()),
        "cgroups": _cgroups(place),
        "files": sum(len(names) for _, *pair in os.walk(place) for names in pair),
    }


def _cgroups(place: Path) -> int:
    """Control groups of the owners that the store in `place` has marks of, with all below them: others of
    this machine come and go."""
    names = {f"pycontainer-{owner}" for owner in os.listdir(place / "store/hosts")}
    tops = [
        Path(directory) / name
        for directory, below, _ in os.walk("/sys/fs/cgroup")
        for name in below
        if name in names
    ]
    return sum(1 for top in tops for _ in os.walk(top))
