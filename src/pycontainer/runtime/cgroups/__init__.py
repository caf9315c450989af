"""Control groups, version 1, 2 and hybrid, as data.

    host()            what this machine gives, found once by looking
    prepare_owner()   one directory per supervisor; below it each container has its own
    plan()            limits -> what to make, write, join, read back and remove, for the supervisor
    usage()           what was read back -> peak memory, CPU time, io, out-of-memory kills
    freeze(), write() stop all processes; write control files
    widen(), join()   controllers that a running container's new limits need
    changes()         which limits of a running container are set anew, and which are lifted
    update(), lift()  the same, as writes
    sweep()           after an owner died: its processes and directories; `remove_owner` is the normal end
    describe()        for doctor()

Nothing here touches the kernel while a container starts, except for limits seen for the first time.
"""

from __future__ import annotations

from pycontainer.runtime.cgroups.accounting import collect, usage
from pycontainer.runtime.cgroups.describing import describe
from pycontainer.runtime.cgroups.discover import Controller, Hierarchy, Host, discover, host
from pycontainer.runtime.cgroups.freezing import freeze, write
from pycontainer.runtime.cgroups.lifting import changes, lift
from pycontainer.runtime.cgroups.model import CgroupMount, CgroupPlan, CgroupUsage, Limits
from pycontainer.runtime.cgroups.owner import Owner, prepare_owner
from pycontainer.runtime.cgroups.planning import plan, update, widen
from pycontainer.runtime.cgroups.sweeping import owners, remove_owner, sweep
from pycontainer.runtime.cgroups.widening import join, remove

__all__ = [
    "CgroupMount",
    "CgroupPlan",
    "CgroupUsage",
    "Controller",
    "Hierarchy",
    "Host",
    "Limits",
    "Owner",
    "changes",
    "collect",
    "describe",
    "discover",
    "freeze",
    "host",
    "join",
    "lift",
    "owners",
    "plan",
    "prepare_owner",
    "remove",
    "remove_owner",
    "sweep",
    "update",
    "usage",
    "widen",
    "write",
]
