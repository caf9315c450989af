"""Limits as the kernel's files take them: which file of a group gets which value.

Each function takes the limits and the names of the files that this kernel has in such a group, and
gives (file name, value) pairs in the order of writing. A limit without its file is
`CapabilityUnavailable`: nothing that was asked for is dropped. The files are described in
Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/*.rst.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from pycontainer.errors import CapabilityUnavailable, InvalidOption
from pycontainer.runtime.cgroups import devices
from pycontainer.runtime.cgroups.model import UNLIMITED, Limits

Writes = list[tuple[str, bytes]]

CPU_PERIOD = 100_000
"""Microseconds: what a new group has, so v1 needs no write for it."""
_MIN_QUOTA = 1_000
_MAX_PIDS = 4_194_304
"""PID_MAX_LIMIT of include/linux/threads.h: the largest number that pids.max takes."""
_SWAP_REMEDY = "boot with swapaccount=1 on a kernel with CONFIG_SWAP, or leave memory_swap out"


def memory_v1(limits: Limits, names: Collection[str]) -> Writes:
    memory, swap = limits.memory, swap_total(limits)
    found: Writes = []
    if memory is not None:
        found.append(("memory.limit_in_bytes", b"%d" % memory))
    if swap is not None:
        if "memory.memsw.limit_in_bytes" in names:
            # The total may not be below the memory limit, so it comes second in a new group.
            found.append(("memory.memsw.limit_in_bytes", b"%d" % swap))
        elif limits.memory_swap not in (None, UNLIMITED):
            raise CapabilityUnavailable("memory_swap limit: no swap accounting", remedy=_SWAP_REMEDY)
    return found


def memory_v2(limits: Limits, names: Collection[str]) -> Writes:
    """`memory.oom.group` stays 0, as runc and crun leave it: the kernel kills one process, and
    what then happens to the others is for the container's init to decide."""
    memory, swap = limits.memory, swap_total(limits)
    found: Writes = []
    if memory is not None:
        found.append(("memory.max", _or_max(memory)))
    if swap is not None:
        if "memory.swap.max" in names:
            # Here swap is counted by itself, not together with memory.
            alone = UNLIMITED if swap == UNLIMITED or memory is None else swap - memory
            found.append(("memory.swap.max", _or_max(alone)))
        elif limits.memory_swap not in (None, UNLIMITED):
            raise CapabilityUnavailable("memory_swap limit: no swap accounting", remedy=_SWAP_REMEDY)
    return found


def pids(limits: Limits, names: Collection[str]) -> Writes:
    if limits.pids is None:
        return []
    return [("pids.max", b"max" if not 0 <= limits.pids <= _MAX_PIDS else b"%d" % limits.pids)]


def cpu_v1(limits: Limits, names: Collection[str]) -> Writes:
    found: Writes = []
    if limits.cpu_weight is not None:
        # The scheduler's own scale: 100 is 1024 shares (sched_weight_from_cgroup).
        shares = min(max(round(limits.cpu_weight * 1024 / 100), 2), 262_144)
        found.append(("cpu.shares", b"%d" % shares))
    if limits.cpus is not None:
        _require("cpus limit", "cpu.cfs_quota_us", names, "use a kernel with CONFIG_CFS_BANDWIDTH")
        found.append(("cpu.cfs_quota_us", b"%d" % _quota(limits.cpus)))
    return found


def cpu_v2(limits: Limits, names: Collection[str]) -> Writes:
    found: Writes = []
    if limits.cpu_weight is not None:
        found.append(("cpu.weight", b"%d" % limits.cpu_weight))
    if limits.cpus is not None:
        _require("cpus limit", "cpu.max", names, "use a kernel with CONFIG_CFS_BANDWIDTH")
        found.append(("cpu.max", b"%d %d" % (_quota(limits.cpus), CPU_PERIOD)))
    return found


def cpuset(limits: Limits, names: Collection[str]) -> Writes:
    return [] if limits.cpuset is None else [("cpuset.cpus", limits.cpuset.encode("ascii"))]


def io_v1(limits: Limits, names: Collection[str]) -> Writes:
    """Rates hold for direct and synchronous io only: v1 cannot attribute written-back pages."""
    found: Writes = []
    if limits.io_weight is not None:
        name = _weight_file(names, "blkio.bfq.weight", "blkio.weight")
        found.append((name, b"%d" % _bfq_weight(limits.io_weight)))
    for device, rates in limits.io_max:
        number = devices.number(device)
        for rate, value in rates:
            name = throttle_file(rate)
            _require("io_max limit", name, names, "use a kernel with CONFIG_BLK_DEV_THROTTLING")
            found.append((name, f"{number} {value}".encode("ascii")))
    return found


def throttle_file(rate: str) -> str:
    """v1's file for rbps, wbps, riops or wiops."""
    return f"blkio.throttle.{'read' if rate[0] == 'r' else 'write'}_{rate[1:]}_device"


def io_v2(limits: Limits, names: Collection[str]) -> Writes:
    found: Writes = []
    if limits.io_weight is not None:
        name = _weight_file(names, "io.bfq.weight", "io.weight")
        weight = _bfq_weight(limits.io_weight) if name == "io.bfq.weight" else limits.io_weight
        found.append((name, b"default %d" % weight))
    for device, rates in limits.io_max:
        _require("io_max limit", "io.max", names, "use a kernel with CONFIG_BLK_DEV_THROTTLING")
        line = " ".join(f"{rate}={value}" for rate, value in rates)
        found.append(("io.max", f"{devices.number(device)} {line}".encode("ascii")))
    return found


WRITERS: dict[tuple[int, str], Callable[[Limits, Collection[str]], Writes]] = {
    (1, "memory"): memory_v1,
    (2, "memory"): memory_v2,
    (1, "pids"): pids,
    (2, "pids"): pids,
    (1, "cpu"): cpu_v1,
    (2, "cpu"): cpu_v2,
    (1, "cpuset"): cpuset,
    (2, "cpuset"): cpuset,
    (1, "io"): io_v1,
    (2, "io"): io_v2,
}
"""By version and controller."""


def asked(limits: Limits) -> dict[str, str]:
    """The controllers that these limits need, each with the option's name for messages."""
    found = {}
    if limits.memory is not None:
        found["memory"] = "memory"
    if limits.memory_swap not in (None, UNLIMITED):
        found.setdefault("memory", "memory_swap")
    if limits.pids is not None and limits.pids >= 0:
        found["pids"] = "pids"
    if limits.cpus is not None or limits.cpu_weight is not None:
        found["cpu"] = "cpus" if limits.cpus is not None else "cpu_weight"
    if limits.cpuset is not None:
        found["cpuset"] = "cpuset"
    if limits.io_max or limits.io_weight is not None:
        found["io"] = "io_max" if limits.io_max else "io_weight"
    return found


def swap_total(limits: Limits) -> int | None:
    """Memory and swap together; None to leave it alone. Raises InvalidOption."""
    memory, swap = limits.memory, limits.memory_swap
    if swap is None:
        if memory is None:
            return None
        return UNLIMITED if memory == UNLIMITED else 2 * memory
    if swap != UNLIMITED and (memory is None or memory == UNLIMITED or swap < memory):
        raise InvalidOption(f"memory_swap={swap} limits memory and swap together: not below memory={memory}")
    return swap


def _or_max(value: int) -> bytes:
    return b"max" if value == UNLIMITED else b"%d" % value


def _quota(cpus: float) -> int:
    return max(round(cpus * CPU_PERIOD), _MIN_QUOTA)


def _bfq_weight(weight: int) -> int:
    """From 1..10000 to bfq's 1..1000, where 100 is the default of both."""
    return weight if weight <= 100 else 100 + round((weight - 100) * 900 / 9900)


def _weight_file(names: Collection[str], bfq: str, other: str) -> str:
    """The file that takes a weight which some disk's scheduler heeds."""
    if bfq in names and devices.weighted_by_bfq():
        return bfq
    if other in names and (other == "blkio.weight" or devices.weighted_by_cost(unknown=True)):
        return other
    raise CapabilityUnavailable(
        "io_weight limit: no block device here shares by weight",
        remedy="echo bfq > /sys/block/DISK/queue/scheduler"
        + ("" if other == "blkio.weight" else ", or enable io.cost.qos for the disk"),
    )


def _require(limit: str, name: str, names: Collection[str], remedy: str) -> None:
    if name not in names:
        raise CapabilityUnavailable(f"{limit}: the kernel has no {name}", remedy=remedy)
