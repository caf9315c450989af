"""CPU lists ("0-2,5", cpuset(7)) and what the groups above leave of the CPUs."""

from __future__ import annotations

import os

from pycontainer.errors import CapabilityUnavailable, InvalidOption
from pycontainer.runtime.cgroups import files
from pycontainer.runtime.cgroups.values import CPU_PERIOD

_MOST = 8192
"""NR_CPUS of the largest kernels."""


def parse(text: str) -> frozenset[int]:
    """The numbers in a list. Raises `InvalidOption`."""
    found: set[int] = set()
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        first, dash, last = part.partition("-")
        if not (first.isdecimal() and (last.isdecimal() if dash else True)):
            raise InvalidOption(f"cpuset={text!r} is not a list of CPUs such as '0-2,5'")
        low, high = int(first), int(last or first)
        if low > high or high >= _MOST:
            raise InvalidOption(f"cpuset={text!r} has an empty or impossible range: {part}")
        found.update(range(low, high + 1))
    return frozenset(found)


def check(wanted: str, given: str) -> None:
    """v2 takes a list of CPUs that are not there and then ignores it, so this looks first."""
    numbers = parse(wanted)
    missing = numbers - parse(given)
    if not numbers:
        raise InvalidOption(f"cpuset={wanted!r} names no CPU")
    if missing:
        raise CapabilityUnavailable(
            f"cpuset limit: CPU {', '.join(map(str, sorted(missing)))} is not among those given to us",
            remedy=f"choose from {given.strip()}",
        )


def most_quota(directory: str, wanted: int) -> int:
    """v1: `wanted` microseconds a period, or less where `directory` or a group above it has less.

    There the kernel refuses a larger quota than the parent's (EINVAL); v2 takes it and lets the
    parent's hold, which is the same outcome.
    """
    while True:
        quota = files.read_or_none(f"{directory}/cpu.cfs_quota_us")
        period = files.read_or_none(f"{directory}/cpu.cfs_period_us")
        if quota is None or period is None:
            return wanted  # above the mount point
        if int(quota) > 0:
            wanted = min(wanted, int(quota) * CPU_PERIOD // int(period))
        directory = os.path.dirname(directory)
