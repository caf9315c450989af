"""More controllers for a container that runs already: what its new limits need, and its start did not."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress

from pycontainer.runtime.cgroups import files
from pycontainer.runtime.cgroups.freezing import write
from pycontainer.runtime.cgroups.model import CgroupPlan


def join(plan: CgroupPlan, added: CgroupPlan) -> None:
    """v1: makes the groups of `added`, and moves the container's processes into them. Raises OSError.

    Here `cgroup.procs` is right, which waits for forks under way: nobody is held up but this caller, and
    whole processes are moved, whatever their threads do.
    """
    for directory in added.directories:
        # It is there where this was broken off before.
        os.makedirs(directory, 0o755, exist_ok=True)
    write(added.writes)
    for directory in added.directories:
        tried: set[int] = set()
        # Who is forked by one that was moved is in there; by one that was not yet, it comes next time.
        while left := _members(plan.directories[0]) - _members(directory) - tried:
            for pid in left:
                with suppress(ProcessLookupError):
                    files.write(f"{directory}/cgroup.procs", b"%d" % pid)
            tried |= left


def remove(directories: Sequence[str]) -> None:
    """After the container's end. What is left behind goes with its owner's own groups."""
    for directory in directories:
        with suppress(OSError):
            os.rmdir(directory)


def _members(directory: str) -> set[int]:
    return set(map(int, (files.read_or_none(f"{directory}/cgroup.procs") or "").split()))
