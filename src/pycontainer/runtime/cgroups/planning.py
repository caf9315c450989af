"""From limits to a plan. The kernel is asked once per set of limits; each start fills in a name."""

from __future__ import annotations

import os

import attrs

from pycontainer.errors import CapabilityUnavailable, LaunchError
from pycontainer.runtime.cgroups import cpus, files, values
from pycontainer.runtime.cgroups.discover import Hierarchy
from pycontainer.runtime.cgroups.model import CgroupMount, CgroupPlan, Limits
from pycontainer.runtime.cgroups.owner import Owner, check_name

_MOST_TEMPLATES = 256
_ROOT = "/sys/fs/cgroup"
_COLLECT_V1 = {
    "memory": ("memory.max_usage_in_bytes", "memory.oom_control"),
    "io": ("blkio.throttle.io_service_bytes_recursive",),
}
_COLLECT_V2 = ("memory.peak", "memory.events", "cpu.stat", "io.stat")

_Write = tuple[str, str, bytes]
_Path = tuple[str, str]


@attrs.frozen
class Template:
    """A plan with a hole for the job's name: each path is what stands before and after it."""

    directories: tuple[str, ...] = ()
    writes: tuple[_Write, ...] = ()
    procs: tuple[_Path, ...] = ()
    into: str | None = None
    collect: tuple[_Path, ...] = ()
    mounts: tuple[CgroupMount, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    freeze: tuple[_Write, ...] = ()
    thaw: tuple[_Write, ...] = ()
    kill: str | None = None
    places: tuple[tuple[str, str], ...] = ()
    version: int = 0

    def fill(self, job: str) -> CgroupPlan:
        directories = tuple([before + job for before in self.directories])
        return CgroupPlan(
            directories,
            tuple([(before + job + after, value) for before, after, value in self.writes]),
            tuple([before + job + after for before, after in self.procs]),
            None if self.into is None else self.into + job,
            tuple([before + job + after for before, after in self.collect]),
            directories,  # siblings in different hierarchies, or one: any order removes them
            self.mounts,
            self.links,
            tuple([(before + job + after, value) for before, after, value in self.freeze]),
            tuple([(before + job + after, value) for before, after, value in self.thaw]),
            None if self.kill is None else f"{self.directories[0]}{job}{self.kill}",
            tuple([(controller, before + job) for controller, before in self.places]),
            self.version,
        )


def plan(
    owner: Owner,
    job: str,
    limits: Limits,
    *,
    optional: frozenset[str] = frozenset(),
    freezer: bool = False,
) -> CgroupPlan:
    """What a start with these limits does to control groups; touches the kernel only once per `limits`.

    `optional` names limits ("pids", ...) that may be left out where the host cannot enforce them:
    the defaults that nobody asked for. `freezer` asks v1 for a container that can be paused, where
    the host has it; that costs one hierarchy more. v2 can always. Memory is accounted without a limit
    where it can be.
    Raises `CapabilityUnavailable` for a limit that this host cannot enforce, `InvalidOption` for a
    device or CPU that does not exist, `LaunchError` where the owner's directory is refused.
    """
    key = (limits, optional, freezer)
    template = owner.templates.get(key)
    if template is None:
        with owner.lock:
            if len(owner.templates) >= _MOST_TEMPLATES:
                owner.templates.clear()
            try:
                template = _template(owner, limits, optional, freezer)
            except OSError as error:
                raise LaunchError(
                    "preparing control groups", errno=error.errno, path=error.filename
                ) from error
            owner.templates[key] = template
    return template.fill(check_name(job, "job"))


def widen(plan: CgroupPlan, owner: Owner, limits: Limits) -> tuple[CgroupPlan, CgroupPlan | None]:
    """A running container's plan with the controllers that new limits need, and for v1 what is to be made
    and joined first (`join`), where that is anything; v2 has turned them on for it by then.

    Raises `CapabilityUnavailable` for a limit that this host cannot enforce, and what `plan` raises.
    """
    there = dict(plan.places)
    asked = {
        controller: limit for controller, limit in values.asked(limits).items() if controller not in there
    }
    needed = {controller: _place(owner, controller, limit, False) for controller, limit in asked.items()}
    places = {controller: directory for controller, directory in needed.items() if directory is not None}
    if not places:
        return plan, None
    if plan.into is not None:
        return attrs.evolve(plan, places=(*plan.places, *((name, plan.into) for name in places))), None
    if not plan.directories:
        raise CapabilityUnavailable(f"{', '.join(asked.values())} limit: the container has no control group")
    added = _template_v1(owner, limits, places).fill(os.path.basename(plan.directories[0]))
    # Several controllers may share a hierarchy, which it is in already.
    made = tuple([directory for directory in added.directories if directory not in plan.directories])
    wider = attrs.evolve(
        plan,
        directories=(*plan.directories, *made),
        procs=(*plan.procs, *(f"{directory}/tasks" for directory in made)),
        places=(*plan.places, *added.places),
    )
    return wider, attrs.evolve(added, directories=made) if made else None


def update(plan: CgroupPlan, limits: Limits) -> tuple[tuple[str, bytes], ...]:
    """The writes that give a running container new limits; what is None in `limits` stays as it is.

    Each needs its controller in the plan (`widen`). Memory below what is in use makes v1 refuse (EBUSY)
    and v2 reclaim and, if need be, kill. Raises OSError where the container is gone.
    """
    places = dict(plan.places)
    found: list[tuple[str, bytes]] = []
    for controller in values.asked(limits):
        directory = places[controller]
        names = files.names(directory)
        # What it was given so far says nothing of what it can have.
        _check(controller, os.path.dirname(directory), limits, plan.version)
        writes = values.WRITERS[plan.version, controller](limits, names)
        if controller == "memory":
            writes = _ordered(directory, writes, limits)
        writes = _bounded(os.path.dirname(directory), writes)
        found += [(f"{directory}/{name}", value) for name, value in writes]
    if limits.pids == -1 and "pids" in places:
        found.append((f"{places['pids']}/pids.max", b"max"))
    return tuple(found)


def _template(owner: Owner, limits: Limits, optional: frozenset[str], freezer: bool) -> Template:
    needed = {
        controller: directory
        for controller, limit in values.asked(limits).items()
        if (directory := _place(owner, controller, limit, limit in optional)) is not None
    }
    if "memory" not in needed and (directory := owner.controlled("memory")) is not None:
        needed["memory"] = directory
    unified = owner.host.unified
    if unified is not None:
        return _template_v2(owner, unified, limits, needed)
    if freezer and (directory := _place(owner, "freezer", "pausing", True)) is not None:
        needed["freezer"] = directory
    return _template_v1(owner, limits, needed)


def _place(owner: Owner, controller: str, limit: str, optional: bool) -> str | None:
    directory = owner.controlled(controller)
    if directory is None and not optional:
        raise owner.unavailable(controller, limit)
    return directory


def _template_v1(owner: Owner, limits: Limits, needed: dict[str, str]) -> Template:
    if not needed:
        return Template()
    writes: list[_Write] = []
    collect: list[_Path] = []
    hierarchies: dict[str, Hierarchy] = {}
    for controller, directory in needed.items():
        hierarchy = owner.host.controllers[controller].hierarchy
        assert hierarchy is not None  # a directory came from it
        hierarchies[directory] = hierarchy
        names = files.names(directory)
        _check(controller, directory, limits, 1)
        if controller == "cpuset":
            mems = files.read(f"{directory}/cpuset.mems").strip().encode("ascii")
            writes.append((f"{directory}/", "/cpuset.mems", mems))
        if controller != "freezer":
            for name, value in _bounded(directory, values.WRITERS[1, controller](limits, names)):
                writes.append((f"{directory}/", f"/{name}", value))
        collect += [(f"{directory}/", f"/{n}") for n in _COLLECT_V1.get(controller, ()) if n in names]
    mounts, links = _mounts_v1(list(hierarchies.values()))
    state = f"{needed['freezer']}/" if "freezer" in needed else None
    return Template(
        directories=tuple(f"{directory}/" for directory in hierarchies),
        writes=tuple(writes),
        procs=tuple((f"{directory}/", "/tasks") for directory in hierarchies),
        collect=tuple(collect),
        mounts=mounts,
        links=links,
        freeze=() if state is None else ((state, "/freezer.state", b"FROZEN"),),
        thaw=() if state is None else ((state, "/freezer.state", b"THAWED"),),
        places=tuple((controller, f"{directory}/") for controller, directory in needed.items()),
        version=1,
    )


def _mounts_v1(
    hierarchies: list[Hierarchy],
) -> tuple[tuple[CgroupMount, ...], tuple[tuple[str, str], ...]]:
    mounts = [CgroupMount(_ROOT, "tmpfs", "mode=0755,size=64k")]
    links = []
    for hierarchy in hierarchies:
        joined = ",".join(hierarchy.names)
        mounts.append(CgroupMount(f"{_ROOT}/{joined}", "cgroup", joined))
        if len(hierarchy.names) > 1:
            links += [(f"{_ROOT}/{name}", joined) for name in hierarchy.names]
    return tuple(mounts), tuple(links)


def _template_v2(owner: Owner, unified: Hierarchy, limits: Limits, needed: dict[str, str]) -> Template:
    mounts = (CgroupMount(_ROOT, "cgroup2", ""),)
    if unified.parent is None:
        return Template(mounts=mounts)
    base = owner.directory(unified)
    names = files.names(base)
    writes: list[_Write] = []
    for controller in needed:
        _check(controller, base, limits, 2)
        writes += [
            (f"{base}/", f"/{name}", value) for name, value in values.WRITERS[2, controller](limits, names)
        ]
    return Template(
        directories=(f"{base}/",),
        writes=tuple(writes),
        into=f"{base}/",
        collect=tuple((f"{base}/", f"/{name}") for name in _COLLECT_V2 if name in names),
        mounts=mounts,
        freeze=((f"{base}/", "/cgroup.freeze", b"1"),),
        thaw=((f"{base}/", "/cgroup.freeze", b"0"),),
        kill="/cgroup.kill" if "cgroup.kill" in names else None,
        places=tuple((controller, f"{base}/") for controller in _enabled(base)),
        version=2,
    )


def _enabled(base: str) -> list[str]:
    return files.read(f"{base}/cgroup.subtree_control").split()


def _check(controller: str, directory: str, limits: Limits, version: int) -> None:
    """What the kernel would take and then not do."""
    if controller == "cpuset" and limits.cpuset is not None:
        name = "cpuset.cpus.effective" if version == 2 else "cpuset.effective_cpus"
        cpus.check(limits.cpuset, files.read(f"{directory}/{name}"))


def _bounded(parent: str, writes: values.Writes) -> values.Writes:
    return [
        (name, b"%d" % cpus.most_quota(parent, int(value)) if name == "cpu.cfs_quota_us" else value)
        for name, value in writes
    ]


def _ordered(directory: str, writes: values.Writes, limits: Limits) -> values.Writes:
    """v1: the total of memory and swap never may be below memory, so which is first depends on
    what holds now. Swap that was not asked for stays as it is, as far as that rule lets it."""
    swap_file = "memory.memsw.limit_in_bytes"
    swap = dict(writes).get(swap_file)
    if swap is None or limits.memory is None:
        if limits.memory_swap is None:
            writes = [pair for pair in writes if pair[0] != "memory.swap.max"]
        return writes
    now = int(files.read(f"{directory}/{swap_file}"))
    if limits.memory_swap is None and limits.memory <= now and limits.memory != -1:
        return [pair for pair in writes if pair[0] != swap_file]
    rising = int(swap) == -1 or int(swap) > now
    return writes[::-1] if rising else writes
