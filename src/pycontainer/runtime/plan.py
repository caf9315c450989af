"""From a container's shape to the plan that the supervisor's child carries out.

The order is the one SECURITY.md and docs/architecture.md explain: mounts, pivot, masks, names,
sysctls; then, in the program's own process: session, descriptors, limits, bounding set, ids,
working directory, capabilities, no_new_privs, seccomp, exec.

What stays the same from one start to the next (all but names, control groups, arguments and the
environment) is encoded once and kept.
"""

from __future__ import annotations

import functools
import itertools
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from pycontainer.runtime import isolation
from pycontainer.runtime.isolation import MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY
from pycontainer.snapshot import overlay
from pycontainer.supervisor import plan
from pycontainer.supervisor.plan import (
    BENEATH,
    CREATE,
    EXISTS,
    IGNORE,
    MS_PRIVATE,
    NO_SYMLINKS,
    OPTIONAL,
    RECURSIVE,
    Data,
    Ops,
)

if TYPE_CHECKING:
    from pycontainer.runtime.cgroups import CgroupMount, CgroupPlan

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWNET = 0x40000000

OWN_FILES = ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf")
"""hosts(5), hostname(5), resolv.conf(5)."""

STDIO = 3
"""A request's descriptors begin with the three standard streams; what else is passed follows."""


@attrs.frozen
class BindMount:
    """A tree of the host; `missing_ok` where only some hosts have it."""

    source: str
    target: str
    flags: int = 0
    propagation: int = MS_PRIVATE
    recursive: bool = True
    missing_ok: bool = False


@attrs.frozen
class TmpfsMount:
    target: str
    flags: int
    data: str


@attrs.frozen
class FileMount:
    target: str
    content: bytes
    mode: int
    uid: int
    gid: int


Mount = BindMount | TmpfsMount | FileMount


@attrs.frozen(unsafe_hash=True, cache_hash=True)
class Program:
    """What the program's process becomes, apart from its arguments."""

    uid: int
    gid: int
    groups: tuple[int, ...] | None
    """None where setgroups(2) is not there to be called: a user namespace of one id."""
    cwd: str
    umask: int
    capabilities: int
    seccomp: bytes | None
    no_new_privileges: bool
    rlimits: tuple[tuple[int, int, int], ...]
    tty: bool


@attrs.frozen
class Place:
    """Where the scratch file system is (`base`), and those of sealed layers in memory that the container
    stands on (`below`, topmost first). One that is `kept` outlives the program."""

    base: str = overlay.BASE
    below: tuple[str, ...] = ()
    kept: bool = False


@attrs.frozen(unsafe_hash=True, cache_hash=True)
class Shape:
    """Everything about a container that may be the same for the next one."""

    program: Program
    host: overlay.HostView | None
    """The host image; None for layers."""
    mounts: tuple[Mount, ...]
    cgroup_mounts: tuple[CgroupMount, ...]
    cgroup_links: tuple[tuple[str, str], ...]
    cgroup_beside: bool
    masked: tuple[str, ...]
    readonly: tuple[str, ...]
    sysctls: tuple[tuple[str, str], ...]
    devices: tuple[tuple[str, str], ...]
    """(source on the host, path in the container)."""
    nodes: tuple[tuple[str, int, int], ...]
    """More devices to make: path, mode with type, number."""
    shm_size: int | None
    read_only: bool
    own_network: bool
    rootless: bool
    bind_devices: bool
    """Devices are bound, not made: where mknod(2) is refused or its capability handed out."""
    writable_sys: bool
    root_flags: int
    place: Place
    volumes: tuple[str, ...] = ()
    """Directories of layers that are not part of the container's own (an image's VOLUME)."""
    joins_network: bool = False
    """Its network namespace is there already."""
    own_files: tuple[str, ...] = ()
    """Where it has files that tell it who and where it is; what they say differs from start to start."""
    floor: str = ""
    """A layer below all others that has them as mount points."""


@attrs.frozen
class Network:
    """What differs between two containers of one shape: their network's part."""

    own_files: tuple[bytes, ...] = ()
    """The contents for `Shape.own_files`."""
    descriptors: tuple[int, ...] = ()
    """The network namespace, where one is joined; then a socket for those of the files that are to be
    rewritten, where there are any. They are the last of the request's."""
    gives: tuple[int, ...] = ()
    """Which files those are."""


NO_NETWORK = Network()


@attrs.frozen
class Root:
    """What differs between two containers of one shape: layers and their writable layer on disk;
    nothing of it for the host image."""

    lower: tuple[str, ...] = ()
    upper: str = ""
    work: str = ""
    unmade: str = ""
    """The directory that both lie in, where nobody has made any of them yet."""
    used: bool = False
    """A program ran on it before."""
    durable: bool = False
    """What a program wrote there and synced survives a crash of the machine."""
    joins: bool = False
    """The scratch file system, or one that it stands on, lies in a mount namespace that a descriptor
    of the request keeps: the first one after the program's."""
    volumes: str = ""
    """The directory of another writable layer, above the same layers, for `Shape.volumes`."""
    volumes_lower: tuple[str, ...] = ()
    """Layers of that kind that are sealed, topmost first, between it and the others."""
    gives: bool = False
    """The mount namespace that will keep the scratch file system is handed over, through a socket
    that is the last of the request's descriptors."""
    inodes: tuple[tuple[int, int], ...] = ()
    """Device and inode of each layer, where they are known."""


@attrs.frozen
class _Template:
    data: Data
    before_scratch: bytes
    before_joining: bytes
    """The same where the container goes on in a copy of a mount namespace that is there already."""
    furnishing: bytes
    after_files: bytes
    after_root: bytes
    tail_head: bytes
    tail_end: bytes
    volumes: tuple[int, ...]


@attrs.frozen
class ContainerPlan:
    """The plan of one container, all but what it executes."""

    _data: Data
    _prepare: bytes
    _setup: bytes
    _tail: bytes

    def set_up(self) -> bytes:
        """As much of it as can be carried out before there is a program."""
        return plan.encode(self._data, self._prepare, self._setup)

    def whole(self, argv: Sequence[bytes], paths: Sequence[str], env: Mapping[str, str]) -> bytes:
        """With a program, for which `paths` are tried in turn."""
        data = self._data.copy()
        tail = Ops(data, self._tail)
        tail.exec(paths, argv, env)
        return plan.encode(data, self._prepare, self._setup, tail.encode())


def container(
    shape: Shape,
    root: Root,
    cgroup: CgroupPlan | None,
    *,
    hostname: str,
    pass_fds: Sequence[int],
    tty: tuple[int, int] | None,
    network: Network = NO_NETWORK,
    network_fd: int = 0,
    once: bool = False,
) -> ContainerPlan:
    """The plan of one container, which is removed with its program where it runs `once`. Descriptor numbers
    in `pass_fds` follow the standard streams in the request, then the terminal's socket, and the layer's.
    `network`'s begin at the index `network_fd`. `tty` is (rows, columns)."""
    template = _template(shape)
    data = template.data.copy()
    prepare, setup = Ops(data), Ops(data)
    if cgroup is not None:
        _make_cgroup(prepare, cgroup)
    mine = STDIO + len(pass_fds)
    setup.extend(template.before_joining if root.joins else template.before_scratch)
    if once and not _shared(shape):
        setup.linger()
    if shape.joins_network:
        setup.join_fd(network_fd, CLONE_NEWNET)
    _scratch(setup, shape, root, first_fd=mine + (tty is not None))
    setup.extend(template.furnishing)
    for index, content in enumerate(network.own_files):
        setup.make_file(_own_file(index), content)
    for index in network.gives:
        setup.give(network_fd + shape.joins_network, f"{shape.place.base}/{_own_file(index)}", os.O_RDWR)
    setup.extend(template.after_files)
    if shape.host is None:
        if root.unmade:
            # An unused one may be there already (`reuses`).
            for path, mode in ((root.unmade, 0o700), (root.upper, 0o755), (root.work, 0o700)):
                setup.mkdir(path, mode, flags=EXISTS)
        _open_volumes(setup, shape, root, template.volumes)
        _layered_root(setup, shape, root, floor=shape.floor, stack=_stack(shape, root))
    setup.extend(template.after_root)
    setup.hostname(hostname)
    if tty is not None:
        setup.tty(mine, *tty, shape.program.uid, console=True)
    tail = _tail(data, template, shape.program, pass_fds)
    return ContainerPlan(data, prepare.encode(), setup.encode(), tail.encode())


def reuses(shape: Shape, root: Root) -> bool:
    """Whether the writable layer's directory may be one that another container did not write to, and be
    another's afterwards."""
    return bool(root.unmade) and not shape.volumes and _alone(shape)


def _stack(shape: Shape, root: Root) -> int:
    """What its layers are called where it may be mounted for the next container, too."""
    if not root.inodes or not reuses(shape, root) or not _has_usual_rights(shape):
        return 0
    return overlay.stack_of(root.lower, root.inodes, shape.floor, shape.root_flags, shape.rootless)


def files(ops: Ops, shape: Shape, root: Root) -> None:
    """The operations that put a container's root together and no more: its layers and what is mounted
    there from outside, for who looks into it while it does not run. `root`'s descriptors are the
    request's first."""
    ops.unshare(CLONE_NEWNS)
    first = 0 if shape.host is None else overlay.open_host_trees(ops, shape.host)
    slots = itertools.count(first)
    mounts = tuple(_open_mounts(ops, shape, slots))
    trees = _Trees(None, (), mounts, tuple(itertools.islice(slots, len(shape.volumes))), ())
    ops.propagation(MS_PRIVATE)
    _scratch(ops, shape, root, first_fd=0)
    overlay.furnish(ops, shape.place.base, _more_directories(shape))
    _make_files(ops, shape, trees)
    if shape.host is None:
        _open_volumes(ops, shape, root, trees.volumes)
        _layered_root(ops, shape, root)
    else:
        _host_root(ops, shape)
    _volumes(ops, shape, trees)
    _user_mounts(ops, shape.mounts, trees, tmpfs=False)


def image_files(ops: Ops, host: overlay.HostView | None, lower: Sequence[str], *, userxattr: bool) -> None:
    """The operations that show what an image holds and no more, in a mount namespace of the child's own:
    its layers, topmost first, or the `host` image."""
    if host is not None:
        overlay.open_host_trees(ops, host)
    ops.propagation(MS_PRIVATE)
    overlay.scratch(ops)
    overlay.furnish(ops, overlay.BASE)
    if host is not None:
        overlay.host_root(ops, host, flags=MS_NODEV, userxattr=userxattr)
        return
    # Without a writable layer the kernel wants two, and a single one holds whiteouts, too.
    layers = lower if len(lower) > 1 else (*lower, overlay.empty_at(overlay.BASE))
    overlay.many_layers(ops, "root", layers, flags=MS_RDONLY | MS_NODEV, userxattr=userxattr)
    ops.root(overlay.root_at(overlay.BASE))


def _scratch(ops: Ops, shape: Shape, root: Root, *, first_fd: int) -> None:
    """The scratch file system: a new one, or that of the program which ran before."""
    if root.joins:
        # A copy, so that what is mounted from here on goes with the program.
        ops.join_fd(first_fd, CLONE_NEWNS)
        ops.unshare(CLONE_NEWNS)
    if not root.used or not shape.place.kept:
        overlay.scratch(ops, shape.place.base)
    if root.gives:
        ops.give(first_fd + root.joins, "/proc/self/ns/mnt")
        ops.unshare(CLONE_NEWNS)
    if root.used and shape.place.kept:
        for name in ("work", "cgroup", "files"):
            ops.remove_tree(shape.place.base, name)


def _layered_root(ops: Ops, shape: Shape, root: Root, *, floor: str = "", stack: int = 0) -> None:
    if root.used:
        # overlay marks a volatile layer's work directory, and takes it only once.
        ops.remove_tree(*os.path.split(root.work))
        ops.mkdir(root.work, 0o700)
    overlay.layered_root(
        ops,
        (*root.lower, floor) if floor and len(root.lower) < overlay.MAX_LAYERS else root.lower,
        root.upper,
        root.work,
        base=shape.place.base,
        flags=shape.root_flags,
        userxattr=shape.rootless,
        durable=root.durable,
        stack=stack,
    )


def _open_volumes(ops: Ops, shape: Shape, root: Root, slots: Sequence[int]) -> None:
    """Opens what the container has at its volumes: those directories of the same layers, beneath another
    writable layer. So they begin as the image has them, whatever their size, and what is written there
    is no change of the container's own."""
    if not slots:
        return
    upper, work = f"{root.volumes}/upper", f"{root.volumes}/work"
    for path, mode in ((root.volumes, 0o700), (upper, 0o755)):
        ops.mkdir(path, mode, flags=IGNORE)
    ops.remove_tree(root.volumes, "work")
    ops.mkdir(work, 0o700)
    overlay.writable_layers(
        ops,
        _VOLUMES,
        [*root.volumes_lower, *root.lower],
        upper,
        work,
        flags=shape.root_flags,
        userxattr=shape.rootless,
        durable=root.durable,
    )
    ops.root(f"{shape.place.base}/{_VOLUMES}")
    for slot, path in zip(slots, shape.volumes, strict=True):
        ops.open_tree(slot, path, how=BENEATH)
    ops.root(shape.place.base)


def _volumes(ops: Ops, shape: Shape, trees: _Trees) -> None:
    for slot, path in zip(trees.volumes, shape.volumes, strict=True):
        ops.bind(slot, path, how=CREATE)


def _host_root(ops: Ops, shape: Shape) -> None:
    assert shape.host is not None
    overlay.host_root(
        ops,
        shape.host,
        base=shape.place.base,
        below=shape.place.below,
        flags=shape.root_flags,
        userxattr=shape.rootless,
    )


def joining(
    program: Program,
    cgroup: CgroupPlan | None,
    *,
    argv: Sequence[bytes],
    paths: Sequence[str],
    env: Mapping[str, str],
    pass_fds: Sequence[int],
    tty: tuple[int, int] | None,
    own_network: bool,
) -> bytes:
    """The plan of a program in the namespaces and control groups of a running container."""
    template = _joining_template(program, own_network)
    data = template.data.copy()
    prepare, setup = Ops(data), Ops(data)
    if cgroup is not None:
        if cgroup.into is not None:
            prepare.cgroup_into(cgroup.into)
        for procs in cgroup.procs:
            setup.cgroup_open(procs)
        setup.cgroup_join(opened_beside=False)
    setup.extend(template.before_scratch)
    if tty is not None:
        setup.tty(STDIO + len(pass_fds), *tty, program.uid, console=False)
    tail = _tail(data, template, program, pass_fds)
    tail.exec(paths, argv, env)
    return plan.encode(data, prepare.encode(), setup.encode(), tail.encode())


def cleanup(
    cgroup: CgroupPlan | None, trees: Sequence[str] = (), *, remove: bool = True, reused: bool = False
) -> bytes:
    """What the supervisor does after the end: read the usage, remove control groups and trees; `reused` as
    `reuses` says."""
    ops = Ops(Data())
    if cgroup is not None:
        for path in cgroup.collect:
            ops.collect(path)
        if remove:
            for path in cgroup.remove:
                ops.rmdir(path)
    for tree in trees:
        parent, name = os.path.split(tree)
        ops.remove_tree(parent, name, reused=reused)
    return plan.encode(ops.data, setup=ops.encode())


def made_beside(cgroup: CgroupPlan) -> bool:
    """v2: the clone itself goes into the group, so that must be there before. v1: the supervisor
    makes the groups while the child makes its mounts (START_BESIDE)."""
    return cgroup.into is None


def _make_cgroup(ops: Ops, cgroup: CgroupPlan) -> None:
    for path in cgroup.directories:
        ops.mkdir(path)
    for path, value in cgroup.writes:
        ops.write(path, value)
    if cgroup.into is not None:
        ops.cgroup_into(cgroup.into)
    for procs in cgroup.procs:
        ops.cgroup_open(procs)


# A template holds some ten kilobytes, most of them the seccomp filter.
@functools.lru_cache(maxsize=64)
def _template(shape: Shape) -> _Template:
    data = Data()
    before, joining, furnishing, within, after = Ops(data), Ops(data), Ops(data), Ops(data), Ops(data)
    trees = _before_scratch(before, shape)
    if shape.place.kept:
        _before_scratch(joining, shape, joins=True)
    overlay.furnish(furnishing, shape.place.base, [*_cgroup_directories(shape), *_more_directories(shape)])
    _make_files(within, shape, trees)
    if shape.host is not None:
        _host_root(after, shape)
    _default_mounts(after, shape, trees)
    _volumes(after, shape, trees)
    flags = MS_NOSUID | MS_NODEV | MS_NOEXEC | (MS_RDONLY if shape.read_only else 0)
    for slot, path in zip(trees.own_files, shape.own_files, strict=True):
        after.bind(slot, path, flags, how=CREATE)
    _user_mounts(after, shape.mounts, trees)
    _working_directory(after, shape.program)
    # Before /proc/sys becomes read-only.
    for name, value in shape.sysctls:
        after.sysctl(name, value)
    for path in shape.masked:
        after.mask(path, overlay.empty_at(shape.place.base))
    for path in shape.readonly:
        after.readonly(path)
    after.pivot()
    if shape.read_only:
        for path in _root_mounts(shape):
            after.remount(path, MS_RDONLY)
    # Above the program, too, and here, where it may be ahead of time: each capability is a call.
    after.bounding(shape.program.capabilities)
    head, end = _program(data, shape.program)
    return _Template(
        data,
        before.encode(),
        joining.encode(),
        furnishing.encode(),
        within.encode(),
        after.encode(),
        head,
        end,
        trees.volumes,
    )


def _before_scratch(ops: Ops, shape: Shape, *, joins: bool = False) -> _Trees:
    """Namespaces, and the host's trees while they can be seen. One that `joins` a mount namespace makes none
    that it would leave at once, which is dear, and mounts nothing before it is in that."""
    ops.keyring()
    # Not in the clone: the child makes them itself, so that several do it at once.
    ops.unshare(CLONE_NEWUTS | CLONE_NEWIPC | (0 if joins else CLONE_NEWNS))
    if shape.own_network and not shape.joins_network:
        ops.network(unchanging=_cannot_change_network(shape))
    first = 0 if shape.host is None else overlay.open_host_trees(ops, shape.host)
    trees = _open_trees(ops, shape, first)
    if not joins:
        # Only now: what a bind shares with the host's mounts, it has from the tree it was copied from.
        ops.propagation(MS_PRIVATE)
    return trees


_MAY_HAVE = isolation.capability_mask(isolation.DEFAULT_CAPABILITIES)


def _shared(shape: Shape) -> bool:
    """Whether it has something of the host's that others have, too: they may wait for the container to let
    go of it (umount(2)), or take from it what is handed on."""
    return bool(shape.devices) or any(isinstance(mount, BindMount) for mount in shape.mounts)


def _alone(shape: Shape) -> bool:
    """Whether nobody has anything together with it, through which it could hand on what it has opened: a
    descriptor of its root, say, which would be a way into the next container's (unix(7), SCM_RIGHTS)."""
    return not _shared(shape) and shape.own_network and not shape.joins_network


def _cannot_change_network(shape: Shape) -> bool:
    """Whether nothing in such a container has the right to change its network namespace, or a way to hand
    something of it to others."""
    sysctls = shape.sysctls or "/proc/sys" not in shape.readonly or shape.writable_sys
    return _has_usual_rights(shape) and not sysctls and not _shared(shape)


def _has_usual_rights(shape: Shape) -> bool:
    return shape.program.capabilities & ~_MAY_HAVE == 0 and shape.program.seccomp is not None


def _root_mounts(shape: Shape) -> list[str]:
    """The mounts that the root consists of, but those that the caller covered."""
    parts = () if shape.host is None else shape.host.parts or ()
    covered = {mount.target for mount in shape.mounts}
    return ["/", *(f"/{name}" for name, kind, *_ in parts if kind == "overlay" and f"/{name}" not in covered)]


@functools.lru_cache(maxsize=64)
def _joining_template(program: Program, own_network: bool) -> _Template:
    data = Data()
    setup = Ops(data)
    setup.keyring()
    flags = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWCGROUP
    # The host's network cannot be joined from a user namespace, nor does it have to be.
    setup.join(flags | CLONE_NEWNET if own_network else flags)
    setup.enter()
    setup.bounding(program.capabilities)
    head, end = _program(data, program)
    return _Template(data, setup.encode(), b"", b"", b"", b"", head, end, ())


@attrs.frozen
class _Trees:
    """The slots of what was opened on the host, for those who bind it."""

    sysfs: int | None
    devices: tuple[tuple[int, str], ...]
    mounts: tuple[int, ...]
    """For each bind and file among the shape's mounts, in their order."""
    volumes: tuple[int, ...]
    own_files: tuple[int, ...]


def _open_trees(ops: Ops, shape: Shape, first: int) -> _Trees:
    """Opens every tree of the host before anything is mounted where it might lie."""
    slots = itertools.count(first)
    devices = []
    for source, target in _bound_devices(shape):
        devices.append((next(slots), target))
        ops.open_tree(devices[-1][0], source, how=0)
    sysfs = None
    if _sysfs_is_the_hosts(shape):
        sysfs = next(slots)
        ops.open_tree(sysfs, "/sys")
    mounts = tuple(_open_mounts(ops, shape, slots))
    volumes = tuple(itertools.islice(slots, len(shape.volumes)))
    own_files = tuple(itertools.islice(slots, len(shape.own_files)))
    return _Trees(sysfs, tuple(devices), mounts, volumes, own_files)


def _open_mounts(ops: Ops, shape: Shape, slots: Iterator[int]) -> Iterator[int]:
    for mount in shape.mounts:
        if isinstance(mount, TmpfsMount):
            continue
        slot = next(slots)
        if isinstance(mount, BindMount):
            how = (RECURSIVE if mount.recursive else 0) | (OPTIONAL if mount.missing_ok else 0)
            ops.open_tree(slot, mount.source, how=how)
        yield slot


def _make_files(ops: Ops, shape: Shape, trees: _Trees) -> None:
    """Files of given content are made in the scratch file system and opened for their binds. What
    a control group's directory shows on v1 is made there, too."""
    bound = [mount for mount in shape.mounts if not isinstance(mount, TmpfsMount)]
    for slot, file in zip(trees.mounts, bound, strict=True):
        if isinstance(file, FileMount):
            ops.make_file(_file(slot), file.content, file.mode, uid=file.uid, gid=file.gid)
            ops.open_tree(slot, f"{shape.place.base}/{_file(slot)}", how=0)
    for index, slot in enumerate(trees.own_files):
        ops.open_tree(slot, f"{shape.place.base}/{_own_file(index)}", how=0)
    for path, target in shape.cgroup_links:
        ops.make_link("cgroup" + path.removeprefix(_CGROUP), target)


_CGROUP = "/sys/fs/cgroup"
_VOLUMES = "volumes"
"""In the scratch file system: where the layers for volumes are mounted."""


def _more_directories(shape: Shape) -> list[str]:
    files = bool(shape.own_files) or any(isinstance(mount, FileMount) for mount in shape.mounts)
    return [
        *(["files"] if files else []),
        *([overlay.NEXT] if shape.place.kept else []),
        *([_VOLUMES] if shape.volumes else []),
    ]


def _file(slot: int) -> str:
    """A mount's file of given content, in the scratch file system."""
    return f"files/{slot}"


def _own_file(index: int) -> str:
    """What `Shape.own_files` names, likewise."""
    return f"files/own{index}"


def _cgroup_directories(shape: Shape) -> list[str]:
    """v1: a directory of mount points, one for each hierarchy the container is in."""
    if not any(mount.fstype == "tmpfs" for mount in shape.cgroup_mounts):
        return []
    return ["cgroup" + mount.destination.removeprefix(_CGROUP) for mount in shape.cgroup_mounts]


def _bound_devices(shape: Shape) -> list[tuple[str, str]]:
    bound = list(shape.devices)
    if shape.bind_devices:
        bound += [(f"/dev/{device.name}", f"/dev/{device.name}") for device in isolation.DEVICES]
    return bound


def _sysfs_is_the_hosts(shape: Shape) -> bool:
    """sysfs shows a network's devices, so only who owns the network namespace may mount it."""
    return shape.rootless and not shape.own_network


def _default_mounts(ops: Ops, shape: Shape, trees: _Trees) -> None:
    for mount in isolation.DEFAULT_MOUNTS:
        flags, data = mount.flags, mount.data
        if mount.destination == "/sys" and shape.writable_sys:
            flags &= ~MS_RDONLY
        if mount.destination == "/sys" and trees.sysfs is not None:
            ops.bind(trees.sysfs, "/sys", flags, propagation=MS_PRIVATE)
            # It brings the host's control groups along, which stay out of sight.
            overlay.bind_from_scratch(
                ops, shape.place.base, "empty", _CGROUP, MS_RDONLY | MS_NOSUID, how=OPTIONAL
            )
            continue
        if mount.fstype == "cgroup":
            _cgroup_mounts(ops, shape)
            continue
        if mount.destination == "/dev":
            flags |= MS_NODEV if shape.bind_devices else 0
        if mount.destination == "/dev/shm" and shape.shm_size is not None:
            data = f"mode=1777,size={shape.shm_size}"
        if mount.fstype == "devpts" and shape.program.groups is None:
            # gid=5 (tty) means nobody in a namespace of one id.
            data = data.replace(",gid=5", "")
        ops.mount(mount.destination, mount.fstype, flags, data, how=CREATE | NO_SYMLINKS)
        if mount.destination == "/dev":
            _fill_dev(ops, shape, trees)


def _fill_dev(ops: Ops, shape: Shape, trees: _Trees) -> None:
    if not shape.bind_devices:
        for device in isolation.DEVICES:
            mode = stat.S_IFCHR | device.mode
            ops.make_node(f"/dev/{device.name}", mode, os.makedev(device.major, device.minor))
    for path, mode, number in shape.nodes:
        ops.make_node(path, mode, number)
    for slot, target in trees.devices:
        # The host's own node: who may write to the device shall not change the node's mode and owner.
        ops.bind(slot, target, MS_RDONLY | MS_NOSUID | MS_NOEXEC, how=CREATE)
    for name, target in isolation.DEVICE_LINKS:
        ops.make_link(f"/dev/{name}", target)


def _cgroup_mounts(ops: Ops, shape: Shape) -> None:
    flags = MS_NOSUID | MS_NODEV | MS_NOEXEC | (0 if shape.writable_sys else MS_RDONLY)
    if shape.cgroup_beside:
        ops.cgroup_join(opened_beside=True)
    # The namespace has its root where the process is when it is made.
    ops.unshare(CLONE_NEWCGROUP)
    for mount in shape.cgroup_mounts:
        if mount.fstype == "tmpfs":
            overlay.bind_from_scratch(ops, shape.place.base, "cgroup", mount.destination, flags)
        else:
            ops.mount(mount.destination, mount.fstype, flags, mount.data, how=NO_SYMLINKS)


def _user_mounts(ops: Ops, mounts: Sequence[Mount], trees: _Trees, *, tmpfs: bool = True) -> None:
    """In the order given; a mount below another one must come after it, as in mount(8)."""
    slots = iter(trees.mounts)
    for mount in mounts:
        if isinstance(mount, TmpfsMount):
            if tmpfs:
                ops.mount(mount.target, "tmpfs", mount.flags, mount.data, how=CREATE)
        elif isinstance(mount, FileMount):
            ops.bind(next(slots), mount.target, MS_NOSUID | MS_NODEV, how=CREATE)
        else:
            how = CREATE | (RECURSIVE if mount.recursive else 0) | (OPTIONAL if mount.missing_ok else 0)
            ops.bind(next(slots), mount.target, mount.flags, propagation=mount.propagation, how=how)


def _working_directory(ops: Ops, program: Program) -> None:
    if program.cwd != "/":
        ops.make_dir(program.cwd, how=CREATE)


def _tail(data: Data, template: _Template, program: Program, pass_fds: Sequence[int]) -> Ops:
    tail = Ops(data, template.tail_head)
    for index, number in enumerate(pass_fds):
        tail.fd(STDIO + index, number)
    tail.extend(template.tail_end)
    return tail


def _program(data: Data, program: Program) -> tuple[bytes, bytes]:
    """What comes before and after the descriptors that the caller passes on."""
    head, end = Ops(data), Ops(data)
    head.setsid()
    if not program.tty:
        owner = program.uid if program.uid != 0 else None
        for number in range(STDIO):
            head.fd(number, number, owner=owner)
    for resource, soft, hard in program.rlimits:
        end.rlimit(resource, soft, hard)
    end.umask(program.umask)
    if program.seccomp is not None and not program.no_new_privileges:
        # Without no_new_privs only CAP_SYS_ADMIN may install a filter (seccomp(2)).
        end.seccomp(program.seccomp)
    if program.groups is not None:
        end.groups(program.groups)
    end.ids(program.uid, program.gid)
    end.chdir(program.cwd)
    end.caps(program.capabilities)
    end.lifeline()
    if program.no_new_privileges:
        end.no_new_privs()
        if program.seccomp is not None:
            end.seccomp(program.seccomp)
    return head.encode(), end.encode()
