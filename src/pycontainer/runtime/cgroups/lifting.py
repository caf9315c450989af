"""Limits that a running container had and has no more: its groups are as if they had never been set."""

from __future__ import annotations

import os
from collections.abc import Collection

from pycontainer.runtime.cgroups import devices, files, values
from pycontainer.runtime.cgroups.model import UNLIMITED, CgroupPlan, Limits, Rates

_Writes = list[tuple[str, bytes]]


def changes(before: Limits, now: Limits, names: Collection[str]) -> tuple[Limits, Limits]:
    """Of the limits in `names`: those that are to be set, and those of `before` that are to be lifted. Raises
    InvalidOption where those of `now` contradict each other."""
    values.swap_total(now)
    wanted = {name: getattr(now, name) for name in names}
    if "memory_swap" in wanted and now.memory_swap is None and now.memory is not None:
        # Without a limit of its own it follows that of memory.
        wanted |= {"memory": now.memory, "memory_swap": 2 * now.memory}
    over = {name: getattr(before, name) for name, value in wanted.items() if value is None}
    if "io_max" in wanted:
        over["io_max"] = _left_out(before.io_max, now.io_max)
    return Limits(**wanted), Limits(**over)


def lift(plan: CgroupPlan, over: Limits) -> tuple[tuple[str, bytes], ...]:
    """The writes that take the limits `over` from a running container. Raises OSError where it is gone."""
    found: list[tuple[str, bytes]] = []
    for controller, directory in plan.places:
        if controller in values.asked(over):
            names = files.names(directory)
            writes = _lifting(controller, plan.version, over, os.path.dirname(directory))
            found += [(f"{directory}/{name}", value) for name, value in writes if name in names]
    return tuple(found)


def _lifting(controller: str, version: int, over: Limits, parent: str) -> _Writes:
    """File names, where this kernel has them, and what they hold in a new group."""
    if controller == "memory":
        if version == 2:
            return [("memory.max", b"max"), ("memory.swap.max", b"max")]
        # The total may not be below the other.
        return [("memory.memsw.limit_in_bytes", b"-1"), ("memory.limit_in_bytes", b"-1")]
    if controller == "cpuset":
        # The older version has no group without a list of its own.
        every = "" if version == 2 else files.read(f"{parent}/cpuset.effective_cpus").strip()
        return [("cpuset.cpus", every.encode("ascii") + b"\n")]
    if controller == "cpu":
        return _cpu(version, over)
    return _io(version, over)


def _cpu(version: int, over: Limits) -> _Writes:
    found: _Writes = []
    if over.cpu_weight is not None:
        found += [("cpu.weight", b"100")] if version == 2 else [("cpu.shares", b"1024")]
    if over.cpus is not None:
        unlimited = b"max %d" % values.CPU_PERIOD
        found += [("cpu.max", unlimited)] if version == 2 else [("cpu.cfs_quota_us", b"%d" % UNLIMITED)]
    return found


def _io(version: int, over: Limits) -> _Writes:
    found: _Writes = []
    if over.io_weight is not None:
        weights = ("io.bfq.weight", "io.weight") if version == 2 else ("blkio.bfq.weight",)
        found += [(name, b"default 100" if version == 2 else b"100") for name in weights]
    for device, rates in over.io_max:
        number = devices.number(device)
        for rate, _ in rates:
            if version == 2:
                found.append(("io.max", f"{number} {rate}=max".encode("ascii")))
            else:
                found.append((values.throttle_file(rate), f"{number} 0".encode("ascii")))
    return found


def _left_out(
    before: tuple[tuple[str, Rates], ...], now: tuple[tuple[str, Rates], ...]
) -> dict[str, dict[str, int]]:
    """The rates of `before` that `now` says nothing of."""
    kept = {(device, rate) for device, rates in now for rate, _ in rates}
    left = {
        device: {rate: value for rate, value in rates if (device, rate) not in kept}
        for device, rates in before
    }
    return {device: rates for device, rates in left.items() if rates}
