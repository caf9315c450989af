"""The default isolation of a container, as data: what it may do, what it sees, what is hidden from it.

Every default lives here and nowhere else; the plan turns it into operations and a test reads it back from
inside a container.  The names are those of capabilities(7), mount(2) and the OCI runtime specification.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Collection, Iterable
from types import MappingProxyType
from typing import Final

import attrs

from pycontainer.errors import CapabilityUnavailable, InvalidOption

# linux/capability.h, in its order: the position is the number.
_CAPABILITY_ORDER: Final = (
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
)

CAPABILITIES: Final = MappingProxyType({name: number for number, name in enumerate(_CAPABILITY_ORDER)})
"""Every capability's number by its name without `CAP_`."""

DEFAULT_CAPABILITIES: Final = frozenset(
    {
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    }
)
"""Bounding, permitted and effective set of a container's first process; inheritable and ambient are empty."""

# mount(2) flags (linux/mount.h); the standard library names none of them.
MS_RDONLY: Final = 1
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_STRICTATIME: Final = 1 << 24


@attrs.frozen
class DefaultMount:
    """A mount that every container has; `flags` and `data` are arguments of mount(2)."""

    destination: str
    fstype: str
    flags: int
    data: str = ""


@attrs.frozen
class Device:
    """A character device below /dev; `mode` holds the permission bits."""

    name: str
    major: int
    minor: int
    mode: int = 0o666


DEFAULT_MOUNTS: Final = (
    DefaultMount("/proc", "proc", MS_NOSUID | MS_NOEXEC | MS_NODEV),
    DefaultMount("/dev", "tmpfs", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k"),
    DefaultMount("/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"),
    DefaultMount("/dev/shm", "tmpfs", MS_NOSUID | MS_NOEXEC | MS_NODEV, "mode=1777,size=65536k"),
    DefaultMount("/dev/mqueue", "mqueue", MS_NOSUID | MS_NOEXEC | MS_NODEV),
    DefaultMount("/sys", "sysfs", MS_RDONLY | MS_NOSUID | MS_NOEXEC | MS_NODEV),
    # What "cgroup" means, one v2 mount or a directory of v1 mounts, depends on the host: the plan decides.
    DefaultMount("/sys/fs/cgroup", "cgroup", MS_RDONLY | MS_NOSUID | MS_NOEXEC | MS_NODEV),
)
"""In the order in which they are mounted: a mount point comes after what it lies in."""

DEVICES: Final = (
    Device("null", 1, 3),
    Device("zero", 1, 5),
    Device("full", 1, 7),
    Device("random", 1, 8),
    Device("urandom", 1, 9),
    Device("tty", 5, 0),
)
"""linux/Documentation/admin-guide/devices.txt."""

DEVICE_LINKS: Final = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
)
"""Symbolic links below /dev: (name, target)."""

MASKED_PATHS: Final = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs/selinux",
)
"""Covered by an empty file or directory where the kernel has them; `masked_paths()` is the whole list."""

READONLY_PATHS: Final = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
"""Remounted read-only."""

DEFAULT_PIDS: Final = 4096
"""Processes and threads a container may have at once."""

DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""PATH for an image whose config sets none."""

_PROCESSORS: Final = "/sys/devices/system/cpu"


@functools.cache
def masked_paths() -> tuple[str, ...]:
    """MASKED_PATHS and the processors' thermal counters that this host has (looked up once).

    The counters, one directory for each processor and on real hardware only, tell of the heat that the
    neighbours' work makes.
    """
    try:
        names = os.listdir(_PROCESSORS)
    except FileNotFoundError:  # no sysfs here, so there will be none in a container either
        names = []
    numbers = sorted(int(name[3:]) for name in names if name.startswith("cpu") and name[3:].isdecimal())
    thermal = (f"{_PROCESSORS}/cpu{number}/thermal_throttle" for number in numbers)
    return (*MASKED_PATHS, *filter(os.path.isdir, thermal))


def capability_mask(names: Iterable[str]) -> int:
    """The set as capset(2) and /proc/self/status write it: bit N for capability number N."""
    mask = 0
    for name in names:
        mask |= 1 << CAPABILITIES[name]
    return mask


def resolve_capabilities(
    add: Collection[str], drop: Collection[str], *, privileged: bool, bounding: int
) -> frozenset[str]:
    """The capabilities of a container, as names without `CAP_`.

    `add` and `drop` take "CAP_X", "x" or "ALL".  The order is Docker's: without ALL, `drop` is taken from
    the defaults and then `add` put on top, so a capability in both is added; with ALL in `add`, everything
    but `drop`; with ALL in `drop`, nothing but `add`.  `privileged` starts from everything.

    `bounding` is the bounding set that the host process has, as a mask (PR_CAPBSET_READ, capabilities(7)):
    nobody can give what is not in it.  Sets (the defaults, ALL, privileged) are cut down to it; a capability
    that `add` names and it lacks raises CapabilityUnavailable.  An unknown name raises InvalidOption.
    """
    if not add and not drop:
        return _available(bounding, everything=privileged)
    added, dropped = _parse(add, "cap_add"), _parse(drop, "cap_drop")
    if "ALL" in added and "ALL" in dropped:
        raise InvalidOption('cap_add and cap_drop both name "ALL": there is nothing that could mean')
    _require(added - {"ALL"}, bounding)
    if "ALL" in dropped:
        return added
    if "ALL" in added or privileged:
        # `add` cannot be on top of everything, so here `drop` has the last word.
        return _available(bounding, everything=True) - dropped
    return (_available(bounding, everything=False) - dropped) | added


@functools.cache
def _available(bounding: int, *, everything: bool) -> frozenset[str]:
    wanted = CAPABILITIES.keys() if everything else DEFAULT_CAPABILITIES
    return frozenset(name for name in wanted if bounding >> CAPABILITIES[name] & 1)


def _parse(names: Collection[str], option: str) -> frozenset[str]:
    if isinstance(names, str):
        raise InvalidOption(f"{option} takes a list of capabilities, not the string {names!r}")
    return frozenset(_parse_one(name, option) for name in names)


def _parse_one(name: str, option: str) -> str:
    if not isinstance(name, str):
        raise InvalidOption(f"{option}: {name!r} is not a capability's name")
    short = name.strip().upper().removeprefix("CAP_")
    if short in CAPABILITIES or short == "ALL":
        return short
    import difflib  # only for the error: 2 ms

    near = difflib.get_close_matches(short, CAPABILITIES, n=1)
    suggestion = f"; did you mean {near[0]}?" if near else ""
    raise InvalidOption(f"{option}: no capability is called {name!r}{suggestion}")


def _require(names: Iterable[str], bounding: int) -> None:
    missing = sorted(name for name in names if not bounding >> CAPABILITIES[name] & 1)
    if missing:
        raise CapabilityUnavailable(
            "capability " + ", ".join(f"CAP_{name}" for name in missing),
            remedy="the host process's own bounding set lacks it: give it to the surrounding service or "
            "container, or leave it out of cap_add",
        )
