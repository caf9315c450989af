"""`Stats`: what a running container uses, read from its control groups.

Documentation/admin-guide/cgroup-v2.rst, and cgroup-v1/memory.rst, pids.rst and cpuacct.rst beside it.
"""

from __future__ import annotations

import datetime
import threading
import time
from typing import TYPE_CHECKING

import attrs

from pycontainer.lives import now
from pycontainer.processes import Found, cpu_times, in_memory
from pycontainer.runtime import cgroups
from pycontainer.runtime.cgroups.files import read_once

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pycontainer.logs.journal import Journal
    from pycontainer.runtime.cgroups import CgroupPlan

_UNLIMITED_V1 = 2**62
"""What is above has no meaning on any machine: v1 says "unlimited" so, rounded to pages."""
_SLICE_SECONDS = 0.05


@attrs.frozen(kw_only=True)
class Stats:
    """What a container uses at one time. None is what this host cannot tell; for limits, no limit."""

    time: datetime.datetime
    user_cpu: float | None = None
    """Seconds; of all its processes since its start, those that have ended included."""
    system_cpu: float | None = None
    memory: int | None = None
    """Bytes, with the page cache that it fills; without a control group, what its processes have in memory,
    each by itself."""
    peak_memory: int | None = None
    memory_limit: int | None = None
    pids: int | None = None
    """Processes and their threads."""
    pids_limit: int | None = None
    io_read: int | None = None
    """Bytes from and to disks."""
    io_write: int | None = None
    oom_kills: int | None = None

    @property
    def cpu(self) -> float | None:
        """Seconds, user and system together."""
        if self.user_cpu is None or self.system_cpu is None:
            return None
        return self.user_cpu + self.system_cpu


def measure(groups: CgroupPlan | None, found: Callable[[], list[Found]]) -> Stats:
    """Of a container whose processes `found` gives, where only they can tell."""
    if groups is None or not groups.directories:
        there = found()
        user, system = cpu_times(there)
        memory, pids = in_memory(there), sum([one.threads for one in there])
        return Stats(time=now(), user_cpu=user, system_cpu=system, memory=memory, pids=pids)
    places = dict(groups.places)
    used = cgroups.usage(groups, cgroups.collect(groups))
    user_cpu, system_cpu = used.user_cpu, used.system_cpu
    if user_cpu is None or system_cpu is None:
        # v1: the controller that counts would be one hierarchy more for each start to join.
        user_cpu, system_cpu = cpu_times(found())
    memory_at, pids_at = places.get("memory"), places.get("pids")
    v2 = groups.version == 2
    current, limit = (
        ("memory.current", "memory.max") if v2 else ("memory.usage_in_bytes", "memory.limit_in_bytes")
    )
    return Stats(
        time=now(),
        user_cpu=user_cpu,
        system_cpu=system_cpu,
        memory=_number(memory_at, current),
        peak_memory=used.peak_memory,
        memory_limit=_number(memory_at, limit),
        pids=_number(pids_at, "pids.current"),
        pids_limit=_number(pids_at, "pids.max"),
        io_read=used.io_read,
        io_write=used.io_write,
        oom_kills=used.oom_kills,
    )


def _number(directory: str | None, name: str) -> int | None:
    """None where there is none: "max", and what v1 has for it."""
    text = None if directory is None else read_once(f"{directory}/{name}")
    if text is None or not text.strip().isdigit():
        return None
    number = int(text)
    return None if number >= _UNLIMITED_V1 else number


def stream(
    measured: Callable[[], Stats | None], more: Callable[[], bool], journal: Journal, interval: float
) -> Iterator[Stats]:
    """One at once and one each `interval` seconds, until there is no `more`; none while the container
    is between two starts (`measured` gives None). The container's end is noticed at once."""
    changed = threading.Event()
    journal.listen(changed.set)
    try:
        due = time.monotonic()
        while more():
            left = due - time.monotonic()
            if left > 0:
                # Whatever the container writes wakes this up, too.
                changed.wait(min(left, _SLICE_SECONDS) if _in_main_thread() else left)
                changed.clear()
                continue
            due += interval * max(1.0, -left // interval)
            found = measured()
            if found is not None:
                yield found
    finally:
        journal.leave(changed.set)


def _in_main_thread() -> bool:
    """In slices there, for the reason that `_sys.poll` has them."""
    return threading.current_thread() is threading.main_thread()
