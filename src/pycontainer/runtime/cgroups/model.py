"""The values of this package: what is asked for, what is to be done about it, what came of it.

cgroups(7), Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/ in the kernel's source.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

UNLIMITED = -1


Rates = tuple[tuple[str, int], ...]
"""Pairs of rbps, wbps, riops or wiops and a rate per second."""


def _as_pairs(
    value: Mapping[str, Mapping[str, int]] | tuple[tuple[str, Rates], ...] | None,
) -> tuple[tuple[str, Rates], ...]:
    """Mappings as sorted pairs, which have a hash: equal limits share one template."""
    if not isinstance(value, Mapping):
        return value or ()
    return tuple(sorted((device, tuple(sorted(rates.items()))) for device, rates in value.items()))


@attrs.frozen(cache_hash=True)
class Limits:
    """What a container may use; None asks for nothing. Already normalised by the options layer.

    `memory` is bytes; `memory_swap` the total of memory and swap in bytes, as docker has it: -1 is
    unlimited, None twice `memory` where the host accounts swap. `cpus` is CPU seconds per second,
    `cpuset` a list such as "0-2,5", `cpu_weight` and `io_weight` are 1 to 10000 with 100 as
    everybody's default (the v2 scale), `pids` counts threads (-1: no limit). `io_max` maps a
    device ("/dev/vda" or "8:0") to any of rbps, wbps (bytes a second), riops, wiops (a second).
    """

    memory: int | None = None
    memory_swap: int | None = None
    cpus: float | None = None
    cpuset: str | None = None
    cpu_weight: int | None = None
    pids: int | None = None
    io_weight: int | None = None
    io_max: tuple[tuple[str, Rates], ...] = attrs.field(default=(), converter=_as_pairs)


@attrs.frozen
class CgroupMount:
    """A mount to be made inside the container, read-only; mount(2)'s target, type and data."""

    destination: str
    fstype: str
    data: str


@attrs.frozen
class CgroupPlan:
    """Everything a container's start, end and pause do to control groups. Host paths, absolute.

    A container without `freeze` cannot be paused, one without `kill` has no kill file. A frozen
    v1 container must be thawed before a kill takes effect.
    """

    directories: tuple[str, ...]
    """Made in this order, mode 0755; one that exists already is an error."""
    writes: tuple[tuple[str, bytes], ...]
    """Files and values, in order, after the directories."""
    procs: tuple[str, ...]
    """v1: the files into which a new, single-threaded process writes "0" to join.

    They are `tasks` files. Joining by `cgroup.procs` takes a lock over all forks of the machine
    and waits for an RCU grace period, milliseconds; a thread that moves itself by `tasks` does
    not (cgroup_procs_write_start in kernel/cgroup/cgroup.c, Linux 5.4 and newer).
    """
    into: str | None
    """v2: the directory for clone3's CLONE_INTO_CGROUP."""
    collect: tuple[str, ...]
    """Files to be read after the exit, for `usage`."""
    remove: tuple[str, ...]
    """Directories, removed in this order."""
    mounts: tuple[CgroupMount, ...]
    """What the container sees at /sys/fs/cgroup, from a cgroup namespace made after joining."""
    links: tuple[tuple[str, str], ...]
    """v1: symbolic links (path, what it points at) for controllers that share a hierarchy."""
    freeze: tuple[tuple[str, bytes], ...]
    thaw: tuple[tuple[str, bytes], ...]
    kill: str | None
    """v2, Linux 5.14: writing "1" kills everything in the container."""
    places: tuple[tuple[str, str], ...]
    """Each controller that the container is under, and its directory there."""
    version: int
    """1 or 2: whose files these are; 0 where no group is made at all."""


@attrs.frozen
class CgroupUsage:
    """What a container used; None where this host did not measure it. Bytes and seconds."""

    peak_memory: int | None = None
    user_cpu: float | None = None
    system_cpu: float | None = None
    io_read: int | None = None
    io_write: int | None = None
    oom_kills: int | None = None
