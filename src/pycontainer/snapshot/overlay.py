"""Operations that mount a root: layers, or this machine's own, below one writable layer.

See the kernel's Documentation/filesystems/overlayfs.rst for the options. All of it happens in the
container's own mount namespace, so it is gone with the container whatever happens.
"""

from __future__ import annotations

import functools
import hashlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path

import attrs

from pycontainer.errors import InvalidImage
from pycontainer.supervisor.plan import CREATE, IGNORE, NO_SYMLINKS, OPTIONAL, RECURSIVE, Ops

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4

BASE = "/sys"
"""Where the root is put together. It exists on every machine, nothing that a root is made of lies
in it, and a new mount on it is seen by the container's set-up alone."""

_MAX_DATA = 4000
"""mount(2) takes one page of options, the terminating NUL included."""

MAX_LAYERS = 500
"""OVL_MAX_STACK in the kernel's fs/overlayfs/params.h."""

_VOLATILE = "volatile"
"""Nothing of a container's layer has to survive a crash of the machine, and its sync would take half
of the container's end."""

_USERXATTR = "userxattr"
"""Marks of overlay's own are user.* attributes, which an ordinary user's namespace may set."""

_PLAIN = "redirect_dir=off,metacopy=off"
"""Some kernels are built with these on: a writable layer would then not be a changeset in itself."""

_FRESH = ("proc", "sys", "dev", "run")
"""Top-level directories that are the container's own: the host's hold its sockets and devices."""


NEXT = "next"
"""In a scratch file system that is kept: where the one of a container that stands on it is mounted."""

SPARE_SLOT = 1023
"""For a tree that is opened and bound at once."""


def scratch(ops: Ops, base: str = BASE) -> None:
    """The file system in memory at `base` that holds a container's small things: the writable layer
    where that is in memory, what hides other directories, files of given content, mount points.
    One for all of them, since each file system costs at its making and at its end."""
    ops.mount(base, "tmpfs", MS_NODEV, "mode=755")


def furnish(ops: Ops, base: str, directories: Sequence[str] = ()) -> None:
    """The directories in it, where they are not there yet."""
    ops.root(base)
    for name in ("upper", "work", "root", "run", *directories):
        ops.make_dir(name)
    ops.make_dir("empty", 0o555)


def root_at(base: str) -> str:
    """Where the container's root is put together."""
    return f"{base}/root"


def empty_at(base: str) -> str:
    """A directory without anything in it: what is hidden is covered by it."""
    return f"{base}/empty"


def layered_root(
    ops: Ops,
    lower: Sequence[str],
    upper: str,
    work: str,
    *,
    base: str = BASE,
    flags: int,
    userxattr: bool,
    durable: bool = False,
    stack: int = 0,
) -> None:
    """The layers `lower` (topmost first) with the writable layer `upper`; what is synced in a `durable` one
    survives a crash of the machine. `stack` as in `Ops.mount`.

    Raises InvalidImage for more than `MAX_LAYERS`.
    """
    writable_layers(
        ops, "root", lower, upper, work, flags=flags, userxattr=userxattr, durable=durable, stack=stack
    )
    ops.root(root_at(base))


def stack_of(lower: Sequence[str], inodes: Sequence[tuple[int, int]], *about: object) -> int:
    """A number for these layers, with their (device, inode), and what else there is to be said `about` a
    mount of them. Nobody else gets an inode that is mounted."""
    text = repr((*lower, *inodes, *about)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") or 1


def writable_layers(
    ops: Ops,
    target: str,
    lower: Sequence[str],
    upper: str,
    work: str,
    *,
    flags: int,
    userxattr: bool,
    durable: bool = False,
    stack: int = 0,
) -> None:
    """The same, on `target` in the scratch file system, which is the root while this is done."""
    data = _options(lower, upper, work, userxattr=userxattr, durable=durable)
    if len(os.fsencode(data)) <= _MAX_DATA:
        ops.mount(target, "overlay", flags, data, stack=stack)
    else:
        many_layers(
            ops, target, lower, upper, work, flags=flags, userxattr=userxattr, durable=durable, stack=stack
        )


def many_layers(
    ops: Ops,
    target: str,
    lower: Sequence[str],
    upper: str = "",
    work: str = "",
    *,
    flags: int,
    userxattr: bool,
    durable: bool = False,
    stack: int = 0,
) -> None:
    """The same on `target` for any number of layers, and without a writable one where `upper` is not
    given; `lower` then needs two. Raises InvalidImage for more than `MAX_LAYERS`."""
    if len(lower) > MAX_LAYERS:
        raise InvalidImage(f"an image of {len(lower)} layers: the kernel stacks at most {MAX_LAYERS}")
    more = ([_VOLATILE] if upper and not durable else []) + [_USERXATTR if userxattr else _PLAIN]
    ops.overlay(target, lower, upper, work, flags=flags, more=",".join(more), stack=stack)


_LOOKED_INTO = MS_RDONLY | MS_NOSUID | MS_NODEV


def merged(ops: Ops, lower: Sequence[str], *, userxattr: bool) -> None:
    """The layers `lower` (topmost first) as one tree that is only read, the root of what follows. It is in
    a scratch file system of its own. Raises InvalidImage for more than `MAX_LAYERS`."""
    scratch(ops)
    furnish(ops, BASE)
    _merged(ops, "root", lower, BASE, userxattr=userxattr)
    ops.root(root_at(BASE))


def merged_host(ops: Ops, view: HostView, place: str, below: Sequence[str], *, userxattr: bool) -> None:
    """What a layer in memory is above, as one tree that is only read, the root of what follows: this
    machine's own root below sealed layers with the bases `below`, topmost first. `place` is the base of
    that layer, and stays as it is."""
    ops.root(place)
    if view.parts is None:
        _merged(ops, "root", [*(f"{base}/upper" for base in below), "/"], place, userxattr=userxattr)
    else:
        ops.mount("root", "tmpfs", MS_NODEV, "mode=755")
    for name, kind, _ in view.parts or ():
        if kind == "overlay":
            ops.make_dir(f"root/{name}")
            lower = [*(f"{base}/upper/{name}" for base in below), f"/{name}"]
            _merged(ops, f"root/{name}", lower, place, userxattr=userxattr)
    ops.root(root_at(place))


def merged_top(ops: Ops, place: str, below: Sequence[str], *, userxattr: bool) -> None:
    """The same for what is at the top of a root that is assembled from its directories, in `top_of`."""
    if not below:
        ops.root(empty_at(place))
        return
    ops.root(place)
    _merged(ops, "root", _tops(below), place, userxattr=userxattr)
    ops.root(root_at(place))


def top_of(place: str, below: Sequence[str]) -> str:
    """Where a layer with the base `place` has what was written at the top of an assembled root."""
    return f"{place}/{_TOP}" if below else root_at(place)


def made_at_top(view: HostView) -> list[str]:
    """The names at the top of an assembled root that are there from the start."""
    return [*_FRESH, *(name for name, _, _ in view.parts or ())]


def _tops(below: Sequence[str]) -> list[str]:
    return [top_of(base, below[number + 1 :]) for number, base in enumerate(below)]


_TOP = "top"
_TOP_WORK = "proc"
"""Beside those of the parts, none of which is called so."""


def _merged(ops: Ops, target: str, lower: Sequence[str], base: str, *, userxattr: bool) -> None:
    # Without a writable layer the kernel wants two, and a single one holds whiteouts, too.
    two = lower if len(lower) > 1 else [*lower, empty_at(base)]
    many_layers(ops, target, two, flags=_LOOKED_INTO, userxattr=userxattr)


def host_root(
    ops: Ops,
    view: HostView,
    *,
    base: str = BASE,
    below: Sequence[str] = (),
    flags: int,
    userxattr: bool,
) -> None:
    """This machine's own root, copy-on-write in memory, after `open_host_trees` with the same view.
    `below` are the bases of sealed layers between the two, topmost first."""
    if view.parts is None:
        lower = [*(f"{sealed}/upper" for sealed in below), "/"]
        upper, work = f"{base}/upper", f"{base}/work"
        layered_root(ops, lower, upper, work, base=base, flags=flags, userxattr=userxattr)
    else:
        _assembled_root(ops, view.parts, base=base, below=below, flags=flags, userxattr=userxattr)
    for slot, target in enumerate(view.binds):
        # A separate /usr is part of the machine's root for everybody but the kernel.
        ops.bind(slot, target, MS_RDONLY | MS_NODEV, how=RECURSIVE)
    bind_from_scratch(ops, base, "run", "/run", MS_NOSUID | MS_NODEV, how=CREATE | NO_SYMLINKS)
    for path in view.hidden:
        flags = MS_RDONLY | MS_NOSUID | MS_NODEV
        bind_from_scratch(ops, base, "empty", path, flags, how=OPTIONAL)


def bind_from_scratch(ops: Ops, base: str, name: str, target: str, flags: int, *, how: int = CREATE) -> None:
    """Shows a directory or file of the scratch file system at `target`."""
    ops.open_tree(SPARE_SLOT, f"{base}/{name}", how=0)
    ops.bind(SPARE_SLOT, target, flags, how=how)


def open_host_trees(ops: Ops, view: HostView) -> int:
    """Opens what `host_root` binds, into slots from 0 on; gives the first free slot."""
    for slot, source in enumerate(view.binds):
        ops.open_tree(slot, source)
    return len(view.binds)


@attrs.frozen(unsafe_hash=True, cache_hash=True)
class HostView:
    """What of this machine's root a container sees, beside what it always hides.

    `binds`: mount points of the host that belong to its root (a separate /usr), read-only.
    `hidden`: directories shown empty. `parts`: None where the whole root can be one lower layer;
    an ordinary user's namespace may not see beneath the host's mounts, so there the root is
    assembled from its top-level directories (name, kind and mode).
    """

    binds: tuple[str, ...]
    hidden: tuple[str, ...]
    parts: tuple[tuple[str, str, int], ...] | None


@functools.lru_cache(maxsize=4)
def host_view(hidden: tuple[str, ...], *, whole: bool) -> HostView:
    """Looked up once per process: a machine's root does not change its shape under a program."""
    mounted = _mount_points()
    if whole:
        system = tuple(path for path in mounted if _within(path, ("/usr", "/etc", "/opt", "/boot")))
        return HostView(_outermost(system), hidden, None)
    parts = tuple(sorted(_top_level(mounted)))
    bound = tuple(f"/{name}" for name, kind, _ in parts if kind == "bind")
    return HostView(bound, hidden, parts)


def _top_level(mounted: frozenset[str]) -> list[tuple[str, str, int]]:
    found = []
    with os.scandir("/") as entries:
        for entry in entries:
            if entry.name in _FRESH or entry.name == "lost+found":
                continue
            if entry.is_symlink():
                found.append((entry.name, "link:" + os.readlink(entry.path), 0))
            elif entry.is_dir(follow_symlinks=False):
                mode = stat.S_IMODE(entry.stat(follow_symlinks=False).st_mode)
                found.append((entry.name, _kind(entry.path, mounted), mode))
    return found


def _kind(path: str, mounted: frozenset[str]) -> str:
    """An overlay for what the user may write somewhere in, so that the host never sees it; a
    read-only bind for the system's own (cheaper), and for what has mounts in it, which the kernel
    lets no overlay of a user namespace hide."""
    if path in ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/boot"):
        return "bind"
    if any(point != path and _within(point, (path,)) for point in mounted):
        # Programs count on a /tmp that they can write to, and on nothing in it.
        return "fresh" if path == "/tmp" else "bind"
    return "overlay" if os.access(path, os.R_OK | os.X_OK) else "skip"


def _assembled_root(
    ops: Ops,
    parts: Sequence[tuple[str, str, int]],
    *,
    base: str,
    below: Sequence[str],
    flags: int,
    userxattr: bool,
) -> None:
    if below:
        # What was written at the top is in the sealed ones' own directories: the first one's is plain.
        for name in (_TOP, f"work/{_TOP_WORK}"):
            ops.make_dir(name)
        upper, work = f"{base}/{_TOP}", f"{base}/work/{_TOP_WORK}"
        writable_layers(ops, "root", _tops(below), upper, work, flags=flags, userxattr=userxattr)
    for name, kind, mode in parts:
        if kind.startswith("link:"):
            # It is there from the start before, or is what a program made of it.
            ops.make_link(f"root/{name}", kind.removeprefix("link:"), how=IGNORE)
            continue
        ops.make_dir(f"root/{name}", mode if kind == "fresh" else 0o755)
        if kind == "overlay":
            # The upper directory is what the merged one looks like.
            ops.make_dir(f"upper/{name}", mode)
            ops.make_dir(f"work/{name}")
            lower = [*(f"{sealed}/upper/{name}" for sealed in below), f"/{name}"]
            upper, work = f"{base}/upper/{name}", f"{base}/work/{name}"
            writable_layers(ops, f"root/{name}", lower, upper, work, flags=flags, userxattr=userxattr)
    # pivot_root(2) wants a mount of its own.
    ops.open_tree(SPARE_SLOT, root_at(base))
    ops.bind(SPARE_SLOT, "root")
    ops.root(root_at(base))
    for name in _FRESH:
        ops.make_dir(name)


def _options(lower: Sequence[str], upper: str, work: str, *, userxattr: bool, durable: bool = False) -> str:
    """What names everything in one call, the quickest way where it fits."""
    below = ":".join(_escape(path, ":") for path in lower)
    data = f"lowerdir={below},upperdir={_escape(upper)},workdir={_escape(work)}"
    data = data if durable else f"{data},{_VOLATILE}"
    return f"{data},{_USERXATTR if userxattr else _PLAIN}"


def _escape(path: str, also: str = "") -> str:
    for character in "\\," + also:
        path = path.replace(character, "\\" + character)
    return path


def _within(path: str, parents: tuple[str, ...]) -> bool:
    return any(path == parent or path.startswith(parent + "/") for parent in parents)


def _outermost(paths: tuple[str, ...]) -> tuple[str, ...]:
    """Those that lie in no other one: binding one takes along what is mounted in it."""
    return tuple(
        path
        for path in sorted(paths)
        if not any(path != other and _within(path, (other,)) for other in paths)
    )


def _mount_points() -> frozenset[str]:
    """Where something is mounted, from proc_pid_mountinfo(5), which writes spaces as octal."""
    text = Path("/proc/self/mountinfo").read_bytes()
    points = (line.split(b" ")[4] for line in text.splitlines())
    return frozenset(os.fsdecode(point.decode("unicode_escape").encode("latin-1")) for point in points)
