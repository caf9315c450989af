"""What the collected files say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pycontainer.runtime.cgroups.files import read_once
from pycontainer.runtime.cgroups.model import CgroupPlan, CgroupUsage

CAP = 4096
"""Bytes that are collected of each file; a file that long was cut, and its sums are not known."""


def collect(plan: CgroupPlan) -> list[bytes | None]:
    """What the files of `plan.collect` hold now. Raises OSError."""
    return [read_once(path) for path in plan.collect]


def usage(plan: CgroupPlan, collected: Sequence[bytes | None]) -> CgroupUsage:
    """`collected` is what the files of `plan.collect` held, in order; None for one that was not read.

    On v1 CPU time is not measured here (rusage has it): a hierarchy more would cost each start.
    """
    found: dict[str, Any] = {}
    for path, data in zip(plan.collect, collected, strict=True):
        if data is not None and len(data) < CAP:
            found |= _READERS[path.rpartition("/")[2]](data)
    return CgroupUsage(**found)


def _peak(data: bytes) -> dict[str, Any]:
    return {"peak_memory": int(data)}


def _flat(data: bytes) -> dict[bytes, int]:
    pairs = (line.split() for line in data.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}


def _oom(data: bytes) -> dict[str, Any]:
    return {"oom_kills": _flat(data).get(b"oom_kill")}


def _cpu(data: bytes) -> dict[str, Any]:
    values = _flat(data)
    if b"user_usec" not in values or b"system_usec" not in values:
        return {}
    return {"user_cpu": values[b"user_usec"] / 1e6, "system_cpu": values[b"system_usec"] / 1e6}


def _io_v2(data: bytes) -> dict[str, Any]:
    totals = {b"rbytes": 0, b"wbytes": 0}
    for line in data.splitlines():
        for word in line.split()[1:]:
            name, _, value = word.partition(b"=")
            if name in totals:
                totals[name] += int(value)
    return {"io_read": totals[b"rbytes"], "io_write": totals[b"wbytes"]}


def _io_v1(data: bytes) -> dict[str, Any]:
    totals = {b"Read": 0, b"Write": 0}
    for line in data.splitlines():
        words = line.split()
        if len(words) == 3 and words[1] in totals:
            totals[words[1]] += int(words[2])
    return {"io_read": totals[b"Read"], "io_write": totals[b"Write"]}


_READERS: dict[str, Callable[[bytes], dict[str, Any]]] = {
    "memory.max_usage_in_bytes": _peak,
    "memory.peak": _peak,
    "memory.oom_control": _oom,
    "memory.events": _oom,
    "cpu.stat": _cpu,
    "io.stat": _io_v2,
    "blkio.throttle.io_service_bytes_recursive": _io_v1,
}
