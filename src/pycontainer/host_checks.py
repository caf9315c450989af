"""The checks of `doctor()`: each looks at one part of the host and yields what it found."""

from __future__ import annotations

import errno
import os
import platform
import re
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from pycontainer.diagnosis import Check
from pycontainer.errors import CapabilityUnavailable, LaunchError, PycontainerError
from pycontainer.runtime.isolation import CAPABILITIES, DEFAULT_CAPABILITIES
from pycontainer.store.store import default_path

if TYPE_CHECKING:
    from pycontainer.network.usermode import Finding

MIN_KERNEL = (5, 11)
MIN_SPACE = 2**30
"""Free bytes of the store's file system below which an image of usual size does not fit."""
NAMESPACES = ("mnt", "pid", "ipc", "uts", "net", "cgroup", "user")
SYSTEM_CALLS = {"clone3": (5, 3), "pidfd_open": (5, 3), "openat2": (5, 6), "close_range": (5, 9)}
SECCOMP_ACTIONS = frozenset({"allow", "errno", "kill_process"})
ROOT_CAPABILITIES = DEFAULT_CAPABILITIES | {"SYS_ADMIN", "MKNOD", "NET_ADMIN"}
"""What root needs to set a container up, and to leave it its default capabilities."""
NO_UPPER = frozenset(
    {"overlay", "nfs", "nfs4", "cifs", "smb3", "vfat", "exfat", "ntfs3", "9p", "ramfs", "ecryptfs"}
)
"""File systems that cannot hold overlay's writable layer: no xattrs, no whiteouts, or overlay itself."""

_OUTER = "the container or sandbox around this process"
_ABOVE = "the checks above say what is missing"
_VERSION_SECONDS = 5.0
_NO_SUCH_KIND = {errno.EOPNOTSUPP, errno.ENOENT, errno.EPROTONOSUPPORT}
"""What the kernel answers for a kind of link, a rule or a protocol that it does not have."""


def _helpers() -> Sequence[Finding]:
    from pycontainer.network import usermode

    return usermode.findings()


def _need_tap() -> None:
    from pycontainer.network import usermode

    usermode.need_device()


def _version(path: str) -> str:
    """The first line of what a program says of itself; "" where it says nothing."""
    try:
        done = subprocess.run(
            [path, "--version"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_VERSION_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    return "".join(filter(str.isprintable, lines[0][:100])) if lines else ""


@attrs.frozen
class NetworkProbe:
    """What is tried for real, in a namespace that is gone afterwards. Each raises PycontainerError."""

    links: Callable[[], None]
    """A bridge, and a pair of links."""
    masquerading: Callable[[], None]


@attrs.frozen
class HostView:
    """The host as the checks see it; a test shows them another one."""

    proc: str = "/proc"
    etc: str = "/etc"
    modules: str = "/lib/modules"
    store: str = attrs.field(factory=default_path)
    uid: int = attrs.field(factory=os.geteuid)
    release: str = attrs.field(factory=platform.release)
    machine: str = attrs.field(factory=platform.machine)
    find_program: Callable[[str], str | None] = shutil.which
    helpers: Callable[[], Sequence[Finding]] = _helpers
    """The programs that carry a network's traffic to the outside, the better first."""
    need_tap: Callable[[], None] = _need_tap
    """Raises CapabilityUnavailable where these can make no tap device."""
    version: Callable[[str], str] = _version

    def read(self, path: str) -> str | None:
        """The text of a small file; None where it is not there or not to be read."""
        try:
            return Path(path).read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return None

    def sysctl(self, name: str) -> str | None:
        return self.read(f"{self.proc}/sys/{name}")

    def status(self, field: str) -> str:
        """A field of /proc/self/status, proc_pid_status(5); "" where the kernel lacks it."""
        match = re.search(rf"^{field}:\s*(\S+)", self.read(f"{self.proc}/self/status") or "", re.MULTILINE)
        return match[1] if match else ""

    @property
    def kernel(self) -> tuple[int, int]:
        match = re.match(r"(\d+)\.(\d+)", self.release)
        return (int(match[1]), int(match[2])) if match else (0, 0)


def run_checks(
    host: HostView, probe: Callable[[], str | None] | None = None, networks: NetworkProbe | None = None
) -> Iterator[Check]:
    """All checks, in the order of the table."""
    yield from _kernel(host)
    yield from _namespaces(host)
    yield _user_namespaces(host, probe)
    yield _overlay(host)
    yield from _control_groups()
    yield from _privileges(host) if host.uid == 0 else _mappings(host)
    yield _seccomp(host)
    yield _memfd(host)
    yield _keys(host)
    yield from _store(host)
    yield _networks(networks)
    yield _outside(host)
    yield _masquerading(networks)


def _kernel(host: HostView) -> Iterator[Check]:
    wanted = ".".join(map(str, MIN_KERNEL))
    new_enough = host.kernel >= MIN_KERNEL
    yield Check(
        "kernel", new_enough, host.release, None if new_enough else f"Linux {wanted} or newer is needed"
    )
    known = host.machine in ("x86_64", "aarch64")
    yield Check("machine", known, host.machine, None if known else "x86-64 and aarch64 are supported")
    missing = [name for name, since in SYSTEM_CALLS.items() if host.kernel < since]
    yield Check(
        "system calls",
        not missing,
        f"not in this kernel: {', '.join(missing)}" if missing else ", ".join(SYSTEM_CALLS),
        f"Linux {wanted} or newer is needed" if missing else None,
    )


def _namespaces(host: HostView) -> Iterator[Check]:
    for name in NAMESPACES:
        needed = name != "user" or host.uid != 0
        limit = host.sysctl(f"user/max_{name}_namespaces")
        if not Path(f"{host.proc}/self/ns/{name}").exists():
            option = {"mnt": "NAMESPACES", "cgroup": "CGROUPS"}.get(name, f"{name.upper()}_NS")
            detail, remedy = "not in this kernel", f"a kernel built with CONFIG_{option} is needed"
        elif limit == "0":
            detail, remedy = "none allowed", f"run: sudo sysctl user.max_{name}_namespaces=15000"
        else:
            yield Check(
                f"namespace {name}", True, f"at most {limit}" if limit else "available", needed=needed
            )
            continue
        yield Check(f"namespace {name}", False, detail, remedy, needed)


def _user_namespaces(host: HostView, probe: Callable[[], str | None] | None) -> Check:
    name, needed = "user namespaces", host.uid != 0
    if not needed:
        inside = (host.read(f"{host.proc}/self/uid_map") or "").split() not in ([], ["0", "0", "4294967295"])
        return Check(
            name, True, "this root is in one already" if inside else "not needed by root", needed=False
        )
    failure = probe() if probe is not None else None
    if probe is not None and failure is None:
        return Check(name, True, "tried: it works")
    if host.sysctl("kernel/unprivileged_userns_clone") == "0":
        remedy = "run: sudo sysctl kernel.unprivileged_userns_clone=1"
        return Check(name, False, failure or "switched off for ordinary users", remedy)
    if host.sysctl("kernel/apparmor_restrict_unprivileged_userns") == "1":
        remedy = (
            "give this Python an AppArmor profile with 'userns,', or run: "
            "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0"
        )
        return Check(name, False, failure or "restricted by AppArmor", remedy)
    if failure is not None:
        return Check(name, False, failure, f"{_OUTER} must allow them (seccomp, AppArmor, SELinux)")
    return Check(name, True, "not switched off (not tried)")


def _overlay(host: HostView) -> Check:
    if "overlay" in (host.read(f"{host.proc}/filesystems") or "").split():
        return Check("overlay", True, "in the kernel")
    modules = Path(host.modules, host.release, "kernel/fs/overlayfs")
    if any(modules.glob("overlay.ko*")):
        return Check("overlay", True, "as a module, loaded by the first mount")
    return Check("overlay", False, "not in this kernel", "run: sudo modprobe overlay (CONFIG_OVERLAY_FS)")


def _control_groups() -> Iterator[Check]:
    from pycontainer.runtime.cgroups import host as cgroup_host

    found = cgroup_host()
    there = found.version != "none"
    yield Check(
        "control groups",
        there,
        found.version,
        None if there else "mount them: sudo mount -t cgroup2 none /sys/fs/cgroup",
        needed=False,
    )
    for name, controller in found.controllers.items():
        if controller.hierarchy is not None:
            yield Check(f"limits: {name}", True, controller.hierarchy.mount, needed=False)
        else:
            yield Check(f"limits: {name}", False, controller.reason, controller.remedy or None, needed=False)


def _privileges(host: HostView) -> Iterator[Check]:
    """Root's own rights, which an outer container may have cut."""
    effective, bounding = (int(host.status(field) or "0", 16) for field in ("CapEff", "CapBnd"))
    missing = sorted(name for name in ROOT_CAPABILITIES if not effective >> CAPABILITIES[name] & 1)
    yield Check(
        "root's capabilities",
        not missing,
        f"lacks {', '.join(missing)}" if missing else "what a container's set-up needs",
        f"{_OUTER} must allow them, or run as an ordinary user" if missing else None,
    )
    beyond = sorted(name for name in CAPABILITIES if not bounding >> CAPABILITIES[name] & 1)
    beyond = [name for name in beyond if name not in missing]
    yield Check(
        "bounding set",
        not beyond,
        f"lacks {', '.join(beyond)}" if beyond else "complete",
        "no container can be given these, and without SYS_RESOURCE no hard limit (ulimits) can be raised"
        if beyond
        else None,
        needed=False,
    )


def _mappings(host: HostView) -> Iterator[Check]:
    """What an ordinary user needs to have more than one identity in a container, user_namespaces(7)."""
    names = {str(host.uid), _user_name(host)}
    for file, program, capability in (
        ("subuid", "newuidmap", "SETUID"),
        ("subgid", "newgidmap", "SETGID"),
    ):
        count = sum(size for owner, size in _ranges(host.read(f"{host.etc}/{file}") or "") if owner in names)
        add = f"sudo usermod --add-{file}s 100000-165535 {_user_name(host)}"
        yield Check(
            f"/etc/{file}",
            count > 0,
            f"{count} identities" if count else "no range for this user: containers have one identity",
            None if count else f"run: {add}",
            needed=False,
        )
        path = host.find_program(program)
        if path is None:
            detail, remedy = "not installed", "install the package uidmap (or shadow-utils)"
        elif not _may_map(path):
            detail, remedy = (
                f"{path} is not set-user-ID",
                f"run: sudo setcap cap_{capability.lower()}+ep {path}",
            )
        else:
            detail, remedy = path, ""
        yield Check(program, not remedy, detail, remedy or None, needed=False)
    blocked = host.status("NoNewPrivs") == "1"
    yield Check(
        "no_new_privs",
        not blocked,
        "set on this process: newuidmap cannot work" if blocked else "not set on this process",
        f"start this program without it (NoNewPrivileges= of systemd, or {_OUTER})" if blocked else None,
        needed=False,
    )


def _user_name(host: HostView) -> str:
    for line in (host.read(f"{host.etc}/passwd") or "").splitlines():
        fields = line.split(":")
        if len(fields) > 2 and fields[2] == str(host.uid):
            return fields[0]
    return str(host.uid)


def _ranges(text: str) -> Iterator[tuple[str, int]]:
    """(owner, count) of each line of subuid(5)."""
    for line in text.splitlines():
        owner, *numbers = line.strip().split(":")
        if len(numbers) == 2 and all(number.isdigit() for number in numbers):
            yield owner, int(numbers[1])


def _may_map(path: str) -> bool:
    """Whether the program runs with its owner's rights: set-user-ID root, or file capabilities."""
    try:
        info = os.stat(path)
        if info.st_mode & stat.S_ISUID and info.st_uid == 0:
            return True
        return bool(os.getxattr(path, "security.capability"))
    except OSError:
        return False


def _seccomp(host: HostView) -> Check:
    actions = (host.sysctl("kernel/seccomp/actions_avail") or "").split()
    missing = sorted(SECCOMP_ACTIONS - set(actions))
    if missing:
        detail = f"actions missing: {', '.join(missing)}" if actions else "not in this kernel"
        return Check("seccomp", False, detail, "a kernel built with CONFIG_SECCOMP_FILTER is needed")
    filtered = "; this process is filtered already" if host.status("Seccomp") == "2" else ""
    return Check("seccomp", True, f"filters{filtered}")


def _memfd(host: HostView) -> Check:
    if host.sysctl("vm/memfd_noexec") == "2":
        return Check(
            "memfd exec",
            False,
            "forbidden: the supervisor runs from its installed file instead",
            "run: sudo sysctl vm.memfd_noexec=0",
            needed=False,
        )
    return Check("memfd exec", True, "allowed", needed=False)


def _keys(host: HostView) -> Check:
    """Each container has a session keyring, which counts for the user (/proc/key-users, keyrings(7))."""
    for line in (host.read(f"{host.proc}/key-users") or "").splitlines():
        match = re.fullmatch(r"\s*(\d+):\s+\d+\s+\S+\s+(\d+)/(\d+)\s+(\d+)/(\d+)\s*", line)
        if match and int(match[1]) == host.uid:
            used, most = int(match[2]), int(match[3])
            if used >= most * 9 // 10:
                remedy = f"run: sudo sysctl kernel.keys.maxkeys={max(most * 10, 2000)}"
                return Check("keys", False, f"{used} of {most} in use", remedy, needed=False)
            return Check("keys", True, f"{used} of {most} in use", needed=False)
    return Check("keys", True, "none in use", needed=False)


def _store(host: HostView) -> Iterator[Check]:
    path = _existing(os.path.abspath(host.store))
    info = os.statvfs(path)
    free = info.f_bavail * info.f_frsize
    # Some file systems (btrfs) have no fixed number of inodes and say 0 of 0.
    no_inodes = info.f_files > 0 and info.f_favail == 0
    detail = f"{free / 2**30:.1f} GiB free at {path}" + (", no inode left" if no_inodes else "")
    enough = free >= MIN_SPACE and not no_inodes
    remedy = None if enough else "free some space, or set PYCONTAINER_STORE to a directory on a larger disk"
    yield Check("store's space", enough, detail, remedy, needed=False)
    fstype, options = _mount_of(path, host.read(f"{host.proc}/self/mountinfo") or "")
    elsewhere = "set PYCONTAINER_STORE to a directory on ext4, xfs, btrfs or tmpfs"
    if fstype in NO_UPPER:
        yield Check("store's file system", False, f"{fstype} cannot hold a writable layer", elsewhere)
    elif "ro" in options or not os.access(path, os.W_OK):
        yield Check("store's file system", False, f"{path} is not writable", elsewhere)
    else:
        yield Check("store's file system", True, fstype or "unknown")


def _existing(path: str) -> str:
    """The nearest directory above `path`, or itself, that is there."""
    while not os.path.isdir(path) and path != "/":
        path = os.path.dirname(path)
    return path


def _mount_of(path: str, mountinfo: str) -> tuple[str, set[str]]:
    """(type, options) of the mount that `path` is on, proc_pid_mountinfo(5); the last one on top wins."""
    best, found = "", ("", set[str]())
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        if len(fields) < 6 or not after:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4])
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, found = point, (after.split()[0], set(fields[5].split(",")))
    return found


def _networks(probe: NetworkProbe | None) -> Check:
    """Whether containers can have a network together."""
    remedy = "run: sudo modprobe -a bridge veth (CONFIG_BRIDGE, CONFIG_VETH)"
    return _tried("networks", None if probe is None else probe.links, "a bridge and links", remedy)


def _masquerading(probe: NetworkProbe | None) -> Check:
    """Whether a network's containers can share its one way out."""
    remedy = "run: sudo modprobe -a nf_tables nft_masq nft_ct (CONFIG_NF_TABLES_INET, CONFIG_NFT_MASQ)"
    return _tried("masquerading", None if probe is None else probe.masquerading, "nf_tables", remedy)


def _tried(name: str, attempt: Callable[[], None] | None, what: str, remedy: str) -> Check:
    if attempt is None:
        return Check(name, True, f"{what}: not tried", needed=False)
    try:
        attempt()
    except PycontainerError as error:
        lacks = isinstance(error, LaunchError) and error.errno in _NO_SUCH_KIND
        return Check(name, False, str(error), remedy if lacks else _ABOVE, needed=False)
    return Check(name, True, f"{what}: tried, it works", needed=False)


def _outside(host: HostView) -> Check:
    """Whether networks that are not internal reach what this host reaches."""
    found = host.helpers()
    used = next((one for one in found if one.problem is None), None)
    if used is not None and used.path is not None:
        shown = host.version(used.path) or used.name
        return Check("outside", True, f"{shown} ({used.path})", needed=False)
    detail = "; ".join(f"{one.name}: {one.problem}" for one in found)
    remedy = "run: sudo apt-get install passt (or the like, of pasta or slirp4netns)"
    if any(one.path is not None for one in found):
        try:
            host.need_tap()
        except CapabilityUnavailable as error:
            remedy = error.remedy or remedy
    return Check("outside", False, detail, remedy, needed=False)
