"""From an image, arguments and options to what the supervisor is asked."""

from __future__ import annotations

import functools
import json
import os
import stat
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from pycontainer import naming, network_options
from pycontainer.errors import CapabilityUnavailable, InvalidImage, InvalidOption
from pycontainer.mounts import Bind, Mount, Tmpfs, VolumeMount
from pycontainer.option_values import RLIMITS, Device, SeccompProfile
from pycontainer.runtime import devices, isolation, plan
from pycontainer.runtime.seccomp import compile_filter
from pycontainer.runtime.user import Identity, host_account_files, read_account_files, resolve, user_name
from pycontainer.snapshot import overlay
from pycontainer.store import HostRoot, LayeredRoot

if TYPE_CHECKING:
    from pycontainer.filling import Used
    from pycontainer.image import Image
    from pycontainer.options import Options
    from pycontainer.runtime.cgroups import CgroupMount, CgroupPlan
    from pycontainer.session import Session
    from pycontainer.store import RootFS

Arguments = Sequence["str | bytes | os.PathLike[Any]"]

_FIRST = plan.Place()
_MAX_VOLUMES = 256
_SHAPE_OPTIONS = (
    "tty",
    "init",
    "umask",
    "ulimits",
    "mounts",
    "read_only",
    "shm_size",
    "privileged",
    "no_new_privileges",
    "sysctls",
    "masked_paths",
    "readonly_paths",
)

_JOINING = frozenset(
    {
        "env",
        "cwd",
        "user",
        "tty",
        "pass_fds",
        "umask",
        "ulimits",
        "cap_add",
        "cap_drop",
        "privileged",
        "seccomp",
        "no_new_privileges",
    }
)
"""The options of a program that joins a container."""


@attrs.frozen
class Command:
    """A program to run: its arguments, where it may lie, and its environment."""

    argv: tuple[bytes, ...]
    paths: tuple[str, ...]
    env: Mapping[str, str]
    shown: Any
    """The arguments as the caller gave them, for results and errors."""


def arguments(value: str | bytes | os.PathLike[Any] | Arguments) -> tuple[bytes, ...]:
    """Arguments for execve(2). A single string is a program's name, as in `subprocess`."""
    if isinstance(value, (str, bytes, os.PathLike)):
        value = (value,)
    try:
        found = tuple([os.fsencode(word) for word in value])
    except TypeError as error:
        raise InvalidOption(f"args={value!r}: must be a list of text, bytes and paths") from error
    for word in found:
        if b"\0" in word:
            raise InvalidOption(f"args={value!r}: must not contain a NUL byte")
    return found


def command(image: Image, args: Any, options: Options, identity: Identity, hostname: str) -> Command:
    """What to execute: `entrypoint` and `args`, or the image's own (image-spec, config.md)."""
    config = image.config
    entrypoint = (config.entrypoint or ()) if options.entrypoint is None else options.entrypoint
    if args is None:
        # An entry point of the caller's own gets none of the image's arguments, as with docker.
        args = (config.cmd or ()) if options.entrypoint is None else ()
    argv = tuple(map(os.fsencode, entrypoint)) + arguments(args)
    if not argv or not argv[0]:
        raise InvalidOption(f"args: nothing to run, and {image!r} names no program of its own")
    env = dict(config.env)
    env.setdefault("PATH", isolation.DEFAULT_PATH)
    env["HOSTNAME"] = hostname
    env.setdefault("HOME", identity.home or "/")
    if options.tty:
        env.setdefault("TERM", "xterm")
    env = merge_env(env, options.env)
    return Command(argv, program_paths(argv[0], env), env, shown(args, argv))


def joining_options(own: Options, overrides: dict[str, Any]) -> Options:
    """The container's options with those that make sense for a program that joins it. Its
    terminal, descriptors and environment are the container's first program's alone."""
    for name in overrides:
        if name not in _JOINING:
            raise TypeError(f"exec() got an unexpected keyword argument {name!r}")
    fresh: dict[str, Any] = {"tty": False, "pass_fds": (), "env": (), "entrypoint": None}
    return own.merge(own, fresh | overrides)


def joining_command(args: Any, options: Options, who: Identity, env: Mapping[str, str]) -> Command:
    """What to execute in a running container: in its first program's environment."""
    argv = arguments(args)
    if not argv or not argv[0]:
        raise InvalidOption("args: nothing to run")
    merged = dict(env)
    if options.user is not None:
        merged["HOME"] = who.home or "/"
    if options.tty:
        merged.setdefault("TERM", "xterm")
    merged = merge_env(merged, options.env)
    return Command(argv, program_paths(argv[0], merged), merged, args)


def merge_env(env: dict[str, str], changes: Sequence[tuple[str, str | None]]) -> dict[str, str]:
    """`env` with the changes; None takes a variable away."""
    for name, value in changes:
        if value is None:
            env.pop(name, None)
        else:
            env[name] = value
    return env


def program_paths(program: bytes, env: Mapping[str, str]) -> tuple[str, ...]:
    """Where execvp(3) would look, with the container's PATH. Empty and relative entries mean the
    working directory there; here they are left out, as container engines do."""
    name = os.fsdecode(program)
    if "/" in name:
        return (name,)
    found = tuple([f"{where}/{name}" for where in env.get("PATH", "").split(":") if where.startswith("/")])
    return found or (f"/{name}",)


def shown(args: Any, argv: tuple[bytes, ...]) -> Any:
    return args if args else [os.fsdecode(word) for word in argv]


def identity(image: Image, user: str | None, session: Session, root: RootFS | None = None) -> Identity:
    """Who the program is, looked up in the image's own account files; `root` where the image may
    have been removed since."""
    root = root or image.rootfs()
    asked = image.config.user if user is None else user
    passwd, group = account_files(root)
    found = resolve(asked or None, passwd, group, image=repr(image))
    if not session.many_ids and (found.uid != 0 or found.gid != 0):
        raise CapabilityUnavailable(
            f"user={asked!r}: this user's namespace holds root alone",
            remedy="install newuidmap (package uidmap) and give this user a range in /etc/subuid "
            "and /etc/subgid",
        )
    return found


def account_files(root: RootFS) -> tuple[bytes, bytes]:
    """The texts of /etc/passwd and /etc/group that a container on `root` begins with."""
    return host_account_files() if isinstance(root, HostRoot) else _account_files(root.lower)


def user_name_of(root: RootFS, session: Session, uid: int) -> str:
    """What the number `uid` of the host is called in a container on `root`: a name, else the number there."""
    idmap = session.supervisor.idmap
    for inside, outside, count in () if idmap is None else idmap.uids:
        if outside <= uid < outside + count:
            uid = inside + uid - outside
            break
    return user_name(account_files(root)[0], uid) or str(uid)


@functools.lru_cache(maxsize=64)
def _account_files(lower: tuple[str, ...]) -> tuple[bytes, bytes]:
    return read_account_files(lower)


def program(session: Session, options: Options, who: Identity, cwd: str) -> plan.Program:
    """The program's process, apart from its arguments."""
    if options.userns == "host" and session.rootless:
        raise CapabilityUnavailable(
            'userns="host": an ordinary user mounts and maps ids only in a user namespace',
            remedy='leave it at "auto", or run as root',
        )
    capabilities = isolation.resolve_capabilities(
        options.cap_add, options.cap_drop, privileged=options.privileged, bounding=session.capabilities
    )
    return plan.Program(
        uid=who.uid,
        gid=who.gid,
        groups=who.groups if session.many_ids else None,
        cwd=cwd,
        umask=0o022 if options.umask is None else options.umask,
        capabilities=isolation.capability_mask(capabilities),
        seccomp=_seccomp(options, capabilities),
        no_new_privileges=(
            not options.privileged if options.no_new_privileges is None else options.no_new_privileges
        ),
        rlimits=tuple([(RLIMITS[name], soft, hard) for name, soft, hard in options.ulimits]),
        tty=options.tty,
    )


def _seccomp(options: Options, capabilities: frozenset[str]) -> bytes | None:
    if options.privileged and options.seccomp == "default":
        return None
    profile: Any = options.seccomp
    if isinstance(profile, SeccompProfile):
        profile = json.loads(profile.document)
    return compile_filter(profile, capabilities)


def shape(
    session: Session,
    image: Image,
    options: Options,
    who: Identity,
    groups: CgroupPlan,
    place: plan.Place = _FIRST,
    *,
    joins_network: bool = False,
) -> plan.Shape:
    """Everything about the container that does not change from one start to the next. `place` is its
    writable layer's, where that is in memory; with `joins_network` its network namespace is there already."""
    root = image.rootfs()
    host = isinstance(root, HostRoot)
    cwd = options.cwd or image.config.cwd or "/"
    wanted = tuple([getattr(options, name) for name in _SHAPE_OPTIONS])
    declared = image.config.volumes
    return _shape(
        program(session, options, who, cwd),
        host,
        session.store.path if host else "",
        session.rootless,
        groups.mounts,
        groups.links,
        plan.made_beside(groups),
        place,
        # What is written on the host image is in memory and goes with the container, all of it.
        _volumes(declared, options.mounts) if declared and not host else (),
        not network_options.is_hosts(options.network),
        joins_network,
        _own_files(options, host),
        root.store.floor(plan.OWN_FILES) if isinstance(root, LayeredRoot) else "",
        _devices(options.devices) if options.devices else (),
        wanted,
    )


@functools.lru_cache(maxsize=64)
def _shape(
    program: plan.Program,
    host: bool,
    store: str,
    rootless: bool,
    cgroup_mounts: tuple[CgroupMount, ...],
    cgroup_links: tuple[tuple[str, str], ...],
    cgroup_beside: bool,
    place: plan.Place,
    volumes: tuple[str, ...],
    own_network: bool,
    joins_network: bool,
    own_files: tuple[str, ...],
    floor: str,
    given: tuple[tuple[str, str], ...],
    wanted: tuple[Any, ...],
) -> plan.Shape:
    options = dict(zip(_SHAPE_OPTIONS, wanted, strict=True))
    privileged = options["privileged"]
    masked, readonly = options["masked_paths"], options["readonly_paths"]
    if masked is None:
        masked = () if privileged else isolation.masked_paths()
    if readonly is None:
        readonly = () if privileged else isolation.READONLY_PATHS
    # With CAP_MKNOD a program could make any device; where no file system takes one, it is of no use.
    nodev = isolation.MS_NODEV if _can_make_devices(program) and not privileged else 0
    # As container engines do: what lies in another mount comes after it, in whatever order they are given.
    ordered = sorted(options["mounts"], key=lambda mount: mount.dst.count("/"))
    mounts = tuple([_mount(mount, nodev) for mount in ordered])
    everything = _all_devices() if privileged else ()
    return plan.Shape(
        program=program,
        host=overlay.host_view((store,), whole=not rootless) if host else None,
        mounts=(*(() if own_network else _resolver(host, own_files)), *mounts),
        cgroup_mounts=cgroup_mounts,
        cgroup_links=cgroup_links,
        cgroup_beside=cgroup_beside,
        masked=masked,
        readonly=readonly,
        # The host name is set by its own call: its sysctl is the real root's alone.
        sysctls=tuple([pair for pair in options["sysctls"] if pair[0] != "kernel/hostname"]),
        devices=(*given, *([(p, p) for p, _, _ in everything] if rootless else ())),
        nodes=() if rootless else everything,
        shm_size=options["shm_size"],
        read_only=options["read_only"],
        own_network=own_network,
        rootless=rootless,
        bind_devices=rootless or (_can_make_devices(program) and not privileged),
        writable_sys=privileged,
        root_flags=0 if privileged else isolation.MS_NODEV,
        place=place,
        volumes=volumes,
        joins_network=joins_network,
        own_files=own_files,
        floor=floor,
    )


def _own_files(options: Options, host: bool) -> tuple[str, ...]:
    """Where a container has what `naming` says. On the host image a link may lead into /run, of which a
    container has one of its own."""
    found = naming.own_files(options, hosts_network=network_options.is_hosts(options.network))
    return tuple([_real(path) for path in found]) if host else found


@functools.lru_cache(maxsize=8)
def _real(path: str) -> str:
    return os.path.realpath(path)


def _can_make_devices(program: plan.Program) -> bool:
    return bool(program.capabilities >> isolation.CAPABILITIES["MKNOD"] & 1)


def _volumes(declared: Sequence[str], mounts: Sequence[Mount]) -> tuple[str, ...]:
    """Where an image wants volumes: neither in what every container has of its own, nor at or beneath
    what the caller mounts, nor twice (one in another one lies in that already).

    Raises InvalidImage for the root itself and for very many.
    """
    taken = ["/proc", "/sys", "/dev", *(mount.dst for mount in mounts)]
    found: list[str] = []
    # A directory comes right before what lies in it.
    for path in sorted({os.path.normpath("/" + name.lstrip("/")) for name in declared}):
        if path == "/":
            raise InvalidImage("the image's config makes its whole root a volume")
        if not any(path == other or path.startswith(other + "/") for other in (*taken, *found)):
            found.append(path)
    if len(found) > _MAX_VOLUMES:
        raise InvalidImage(f"the image's config names {len(found)} volumes; at most {_MAX_VOLUMES} are made")
    return tuple(found)


def use_volumes(options: Options, root: RootFS, lower: Sequence[str], container: str) -> Used | None:
    """Begins to use the volumes among the mounts, where there are any; see `filling.use`."""
    if not any(isinstance(mount, VolumeMount) for mount in options.mounts):
        return None
    from pycontainer import filling

    return filling.use(options.mounts, root, lower, container, options.name)


def _mount(mount: Mount, nodev: int) -> plan.Mount:
    if isinstance(mount, Bind):
        flags = mount.flags | nodev
        return plan.BindMount(mount.src, mount.dst, flags, mount.propagation_flags, mount.recursive)
    if isinstance(mount, VolumeMount):
        return plan.BindMount(mount.source, mount.dst, mount.flags, recursive=False)
    if isinstance(mount, Tmpfs):
        return plan.TmpfsMount(mount.dst, mount.flags, mount.data)
    return plan.FileMount(mount.dst, mount.data, mount.mode, mount.uid, mount.gid)


def _resolver(host: bool, own: Sequence[str]) -> tuple[plan.Mount, ...]:
    """In the host's network its resolver counts. On the host image the files are there already,
    but for a link into /run, which a container has of its own."""
    found = []
    for path in ("/etc/resolv.conf", "/etc/hosts"):
        real = os.path.realpath(path)
        target = real if host else path
        if target not in own and (not host or real.startswith("/run/")):
            found.append(plan.BindMount(real, target, isolation.MS_RDONLY, recursive=False, missing_ok=True))
    return tuple(found)


def _devices(wanted: Sequence[Device]) -> tuple[tuple[str, str], ...]:
    for device in wanted:
        if not {"r", "w"} <= set(device.access):
            raise CapabilityUnavailable(
                f"device {device.src} with access {device.access!r}: nodes are given for reading and writing",
                remedy="ask for 'rw' or 'rwm'",
            )
    return tuple([node for device in wanted for node in devices.nodes(device.src, device.dst)])


def _all_devices() -> tuple[tuple[str, int, int], ...]:
    """Every node directly in the host's /dev, but those that each container has of its own: path,
    mode with type, number."""
    own = {device.name for device in isolation.DEVICES} | {name for name, _ in isolation.DEVICE_LINKS}
    own |= {"console"}
    found = []
    with os.scandir("/dev") as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            status = entry.stat(follow_symlinks=False)
            if entry.name not in own and (stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)):
                found.append((f"/dev/{entry.name}", status.st_mode, status.st_rdev))
    return tuple(found)


def root_of(image: Image) -> LayeredRoot | None:
    """The layers of an image, None for the host's own root."""
    root = image.rootfs()
    return root if isinstance(root, LayeredRoot) else None
