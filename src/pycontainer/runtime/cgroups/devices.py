"""Block devices as control groups name them, and whether anything shares them by weight."""

from __future__ import annotations

import glob
import os
import stat

from pycontainer.errors import InvalidOption
from pycontainer.runtime.cgroups import files

_IO_COST = "/sys/fs/cgroup/io.cost.qos"


def number(device: str) -> str:
    """MAJOR:MINOR of a whole disk given as "/dev/NAME" or as that. Raises `InvalidOption`."""
    found = _of_path(device) if device.startswith("/") else device
    known = f"/sys/dev/block/{found}"
    if not os.path.isdir(known):
        raise InvalidOption(f"io_max: {device} is not a block device of this host")
    if os.path.exists(f"{known}/partition"):
        disk = files.read(f"{known}/../dev").strip()
        raise InvalidOption(f"io_max: {device} is a partition, io is limited by whole disk: {disk}")
    return found


def weighted_by_bfq() -> bool:
    """Whether some disk's scheduler is bfq (Documentation/block/bfq-iosched.rst)."""
    paths = glob.iglob("/sys/block/*/queue/scheduler")
    return any("[bfq]" in (files.read_or_none(path) or "") for path in paths)


def weighted_by_cost(*, unknown: bool) -> bool:
    """Whether the cost model is on for some disk; `unknown` where only the real root could tell."""
    settings = files.read_or_none(_IO_COST)
    if settings is None:
        return unknown
    return any("enable=1" in line.split() for line in settings.splitlines())


def _of_path(path: str) -> str:
    try:
        found = os.stat(path)
    except OSError as error:
        raise InvalidOption(f"io_max: {path}: {error.strerror}") from error
    if not stat.S_ISBLK(found.st_mode):
        raise InvalidOption(f"io_max: {path} is not a block device")
    return f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
