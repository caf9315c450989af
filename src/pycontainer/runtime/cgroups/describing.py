"""What `doctor()` says about control groups."""

from __future__ import annotations

from pycontainer.runtime.cgroups import devices
from pycontainer.runtime.cgroups.discover import CONTROLLERS, Host

_WHAT = {
    "memory": "memory limit, peak memory, out-of-memory detection",
    "pids": "limit of processes",
    "cpu": "cpus and cpu_weight",
    "cpuset": "cpuset",
    "io": "io_max, io_weight, io bytes",
    "freezer": "pause()",
}


def describe(host: Host) -> list[tuple[str, bool, str, str]]:
    """One (controller, available, detail, remedy) per controller, and one for the weight of io."""
    rows = []
    for name in CONTROLLERS:
        found = host.controllers[name]
        if found.hierarchy is None:
            rows.append((name, False, f"{_WHAT[name]}: {found.reason}", found.remedy))
        else:
            where = f"v{found.hierarchy.version} below {found.hierarchy.parent}"
            rows.append((name, True, f"{_WHAT[name]}: {where}", ""))
    weighted = devices.weighted_by_bfq() or (
        host.unified is not None and devices.weighted_by_cost(unknown=False)
    )
    shared = host.controllers["io"].available and weighted
    detail = "io_weight: some disk shares by weight" if shared else "io_weight: no disk shares by weight"
    remedy = "" if shared else "echo bfq > /sys/block/DISK/queue/scheduler"
    rows.append(("io_weight", shared, detail, remedy))
    return rows
