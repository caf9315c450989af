"""What engines need from this machine, prepared in the competitor's own mount namespace.

Nothing here is seen outside it, and it ends with the competitor's process; only control groups are the
machine's, and those that an engine leaves behind are removed again.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import time
from pathlib import Path

from benchmarks.programs import find_program, output_of

CGROUPS = Path("/sys/fs/cgroup")
PARENT = f"pycontainer-bench-{os.getpid()}"
"""The control group that engines are told to work beneath; each worker has its own."""

_LEFT_BEHIND = (PARENT, "libpod_parent", "docker")
_REMOVE_SECONDS = 3.0
_MNT_DETACH = 2
_CLONE_NEWNET = 0x40000000
_DISK = 8 << 30  # bytes, of which only those take place that are written
_INODES = 400_000


def hide_unified() -> None:
    """Some engines refuse a hybrid of cgroup v1 and v2: without its v2 mount it is a plain v1."""
    if (CGROUPS / "unified/cgroup.procs").exists():
        unmount(CGROUPS / "unified")


def make_disk(image: Path, where: Path) -> None:
    """Mounts a file system of its own, new and with a journal, at `where`; `image` is the file it is in.

    On the machine's own, what others do counts, and what was done before: without a journal, ext4 looks at
    each inode that was freed within the last minute before it takes another one (`recently_deleted` in
    fs/ext4/ialloc.c), so that unpacking takes 5 to 30 times as long where trees were removed. Raises
    `Unavailable`.
    """
    with image.open("xb") as file:
        file.truncate(_DISK)
    # What would be done later, in the background, is done now.
    options = ["-q", "-F", "-N", str(_INODES), "-E", "lazy_itable_init=0,lazy_journal_init=0"]
    where.mkdir()
    output_of([find_program("mkfs.ext4"), *options, str(image)])
    output_of([find_program("mount"), "-o", "loop", str(image), str(where)])


def enter_network() -> None:
    """Moves this process, which must have one thread only, to a network namespace of its own with
    loopback: bridges, rules and sysctls that an engine makes there are nobody else's and end with it.
    What engines note about networks in /run and /var/lib lands in memory. Raises `Unavailable`, OSError.
    """
    _call("unshare", _CLONE_NEWNET)
    output_of([find_program("ip"), "link", "set", "lo", "up"])
    for directory in ("/run", "/var/lib"):
        output_of([find_program("mount"), "-t", "tmpfs", "tmpfs", directory])


def unmount(path: Path) -> None:
    """Raises OSError (umount2(2)); a mount that is still in use goes when its last user does."""
    _call("umount2", os.fsencode(path), _MNT_DETACH)


def _call(name: str, *arguments: int | bytes) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def engine_cgroups() -> set[Path]:
    """The control groups that engines make beside the machine's own, in every hierarchy."""
    return {path for name in _LEFT_BEHIND for path in (*CGROUPS.glob(f"*/{name}"), *CGROUPS.glob(name))}


def remove_cgroups(tops: set[Path]) -> None:
    """Tries for a while: the last process in a group may be on its way out."""
    deadline = time.monotonic() + _REMOVE_SECONDS
    while True:
        for top in tops:
            for directory, _, _ in os.walk(top, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(directory)
        if time.monotonic() > deadline or not any(top.exists() for top in tops):
            return
        time.sleep(0.05)


def ulimits() -> dict[str, tuple[int, int]]:
    """Limits that may be set here: an engine's defaults can lie above our hard limits, and raising those
    takes CAP_SYS_RESOURCE."""
    return {"nofile": _capped(resource.RLIMIT_NOFILE, 1024), "nproc": _capped(resource.RLIMIT_NPROC, 4096)}


def _capped(which: int, wanted: int) -> tuple[int, int]:
    _, hard = resource.getrlimit(which)
    value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    return value, value


def raise_descriptors(wanted: int) -> int:
    """The limit on open files that counts from here on; a supervisor that was started before has its
    hard limit anyway."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    limit = max(soft, wanted)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return limit
