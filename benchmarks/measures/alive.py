"""Memory and counts with many containers alive, taken in the worker that holds them."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from benchmarks.competitors.base import Competitor

_PROC = Path("/proc")
_SETTLE_SECONDS = 5.0


def measure_alive(competitor: Competitor, count: int) -> dict[str, Any]:
    """Starts `count` containers, weighs our processes, ends the containers. Memory in bytes."""
    # The first start brings the supervisor, and whatever else is made once.
    competitor.release(competitor.hold())
    before = settled_counts(None)
    host_before = private_bytes(os.getpid())
    held: list[Any] = []
    begun = time.perf_counter()
    try:
        for _ in range(count):
            held.append(competitor.hold())
        started = time.perf_counter() - begun
        ours, programs = _own_and_programs()
        weighed = {
            "count": count,
            "start_seconds": started,
            "own_processes": len(ours),
            "own_bytes": sum(map(private_bytes, ours)),
            "program_processes": len(programs),
            "program_bytes": sum(map(private_bytes, programs)),
            "host_growth_bytes": private_bytes(os.getpid()) - host_before,
        }
    finally:
        begun = time.perf_counter()
        for container in held:
            competitor.release(container)
        stopped = time.perf_counter() - begun
    return {**weighed, "stop_seconds": stopped, "before": before, "after": settled_counts(before)}


def _own_and_programs() -> tuple[list[int], list[int]]:
    """Every process below this one: those of the library's own executable, and those of the containers."""
    below = _descendants(os.getpid())
    ours = [pid for pid in below if not _executable(pid).endswith("/busybox")]
    return ours, [pid for pid in below if pid not in set(ours)]


def _executable(pid: int) -> str:
    try:
        return os.readlink(_PROC / str(pid) / "exe")
    except OSError:
        # A zombie has none.
        return ""


def _descendants(top: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            children.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry.name))
    found, todo = [], [top]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def private_bytes(pid: int) -> int:
    """What would come free if the process ended: Private_Clean and Private_Dirty (proc_pid_smaps(5))."""
    total = 0
    for line in (_PROC / str(pid) / "smaps_rollup").read_text().splitlines():
        if line.startswith(("Private_Clean:", "Private_Dirty:")):
            total += int(line.split()[1]) * 1024
    return total


def settled_counts(wanted: dict[str, int] | None) -> dict[str, int]:
    """What there is of everything that could be left behind; waits a little for `wanted`."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    while True:
        counts = _counts()
        if wanted is None or counts == wanted or time.monotonic() > deadline:
            return counts
        time.sleep(0.05)


def _counts() -> dict[str, int]:
    own = _PROC / "self"
    return {
        "processes": len(_descendants(os.getpid())),
        "descriptors": len(os.listdir(own / "fd")),
        "threads": len(os.listdir(own / "task")),
        "mounts": len((own / "mountinfo").read_text().splitlines()),
        "cgroups": _cgroups(),
    }


def _cgroups() -> int:
    """Control groups beneath this process's own (others on the machine come and go)."""
    total = 0
    for line in (_PROC / "self/cgroup").read_text().splitlines():
        number, controllers, path = line.split(":", 2)
        mount = Path("/sys/fs/cgroup") / controllers.removeprefix("name=")
        if number == "0" and (mount / "unified").is_dir():
            mount = mount / "unified"
        top = mount / path.lstrip("/")
        total += sum(1 for _ in os.walk(top))
    return total
