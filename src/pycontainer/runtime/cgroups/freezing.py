"""Stopping and going on: version 1's freezer and version 2's cgroup.freeze.

Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst and cgroup-v2.rst, "cgroup.freeze".
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterable

from pycontainer.runtime.cgroups.model import CgroupPlan

_SLEEP = 0.001


def write(writes: Iterable[tuple[str, bytes]]) -> None:
    """Control files take a value whole or not at all. A group that is gone has nothing to be told.

    Raises OSError with the file's name.
    """
    for path, value in writes:
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            os.write(fd, value)
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise OSError(error.errno, error.strerror, path) from None
        finally:
            os.close(fd)


def freeze(plan: CgroupPlan, deadline: float) -> None:
    """Returns when every process of the container stands still, which takes the kernel a moment.

    Raises OSError, and TimeoutError at `deadline` (time.monotonic).
    """
    write(plan.freeze)
    path, _ = plan.freeze[0]
    while not _frozen(path, plan.version):
        if time.monotonic() >= deadline:
            raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT), path)
        time.sleep(_SLEEP)
        if plan.version == 1:
            # A process that was forked meanwhile leaves it at FREEZING until it is asked again.
            write(plan.freeze)


def _frozen(path: str, version: int) -> bool:
    if version == 1:
        with open(path, encoding="ascii") as file:
            return file.read().strip() == "FROZEN"
    with open(os.path.join(os.path.dirname(path), "cgroup.events"), encoding="ascii") as file:
        return "frozen 1" in file.read().splitlines()
