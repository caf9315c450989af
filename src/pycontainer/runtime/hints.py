"""What would help when a start fails: remedies by stage and errno, as one table.

The words for stages are those of `LaunchError.stage`. A row may depend on a sysctl, which is read
only now, after the failure. The first row that fits is the answer, so special ones come first.
"""

from __future__ import annotations

from errno import (
    E2BIG,
    EACCES,
    EAGAIN,
    EBADF,
    EBUSY,
    EDQUOT,
    EEXIST,
    EFAULT,
    EINVAL,
    EIO,
    EISDIR,
    ELIBBAD,
    ELOOP,
    EMFILE,
    ENAMETOOLONG,
    ENFILE,
    ENODEV,
    ENOENT,
    ENOEXEC,
    ENOMEM,
    ENOSPC,
    ENOSYS,
    ENOTDIR,
    ENXIO,
    EOPNOTSUPP,
    EPERM,
    ERANGE,
    EROFS,
    ESTALE,
    ETXTBSY,
    EUSERS,
    EXDEV,
)
from pathlib import Path

import attrs

PROC_SYS = "/proc/sys"


@attrs.frozen
class Hint:
    """One remedy: for these stages (`*` at the end stands for any rest) and errno values.

    `rootless` limits it to ordinary users (True) or root (False); `sysctl` to hosts where the file
    below /proc/sys holds that text. `{path}` in `text` is the file or directory concerned.
    """

    stages: tuple[str, ...]
    errors: tuple[int, ...]
    text: str
    rootless: bool | None = None
    sysctl: tuple[str, str] | None = None


_NEW = ("creating process", "creating namespaces", "creating user namespace")
_OVERLAY = ("mounting overlay",)
_MOUNT = ("mounting*", "bind mounting", "remounting", "making read-only", "masking")
_CGROUP = ("creating control group", "opening control group", "joining control group", "setting limits")
_USERNS_OFF = ("kernel/unprivileged_userns_clone", "0")
_USERNS_NONE = ("user/max_user_namespaces", "0")
_APPARMOR = ("kernel/apparmor_restrict_unprivileged_userns", "1")
_APPARMOR_TEXT = (
    "AppArmor keeps ordinary users' programs from using user namespaces: give this Python an "
    "AppArmor profile "
    "with 'userns,', or run: sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0"
)
_OUTER = "an outer container or sandbox around this process"
_ONE_KIND = "source and target of a bind must be of one kind: two directories, or two files"

HINTS: tuple[Hint, ...] = (
    # Processes and namespaces.
    Hint(
        _NEW,
        (EPERM, EACCES),
        "ordinary users may not create user namespaces here; run: sudo sysctl "
        "kernel.unprivileged_userns_clone=1",
        rootless=True,
        sysctl=_USERNS_OFF,
    ),
    Hint((*_NEW, *_MOUNT, "mapping users and groups"), (EPERM, EACCES), _APPARMOR_TEXT, True, _APPARMOR),
    Hint(
        _NEW,
        (EPERM,),
        f"user namespaces are refused, most often by {_OUTER}; pycontainer.doctor() tells what this "
        "host allows",
        rootless=True,
    ),
    Hint(
        _NEW,
        (EPERM,),
        f"root lacks CAP_SYS_ADMIN or a seccomp filter forbids new namespaces: allow them in {_OUTER}",
        rootless=False,
    ),
    Hint(
        _NEW,
        (ENOSPC, EUSERS),
        "user namespaces are switched off; run: sudo sysctl user.max_user_namespaces=15000",
        sysctl=_USERNS_NONE,
    ),
    Hint(
        _NEW,
        (ENOSPC, EUSERS),
        "a limit of namespaces is reached: raise the sysctls user.max_*_namespaces, or nest less deeply",
    ),
    Hint(
        _NEW,
        (EAGAIN,),
        "a limit of processes is reached: the option pids (the container's init process counts, too), this "
        "user's (ulimit -u), the surrounding control group's (pids.max) or the machine's "
        "(kernel.threads-max, kernel.pid_max)",
    ),
    Hint(_NEW, (ENOMEM,), "no memory for a new process: the host, or the control group around it, is full"),
    Hint(
        _NEW,
        (EBUSY,),
        "the control group holds processes or controllers of its own: only a leaf can be joined",
    ),
    Hint(
        _NEW,
        (EINVAL, ENOSYS),
        f"the kernel was built without one of the namespaces, or {_OUTER} hides them; see "
        "pycontainer.doctor()",
    ),
    Hint(
        ("mapping users and groups",),
        (ENOENT,),
        "newuidmap or newgidmap is missing: install the package uidmap (or shadow-utils)",
    ),
    Hint(
        ("mapping users and groups",),
        (EPERM, EACCES, EINVAL),
        "the range in /etc/subuid or /etc/subgid was refused: check that it belongs to this user, and that "
        "newuidmap and newgidmap are set-user-ID root and not blocked by no_new_privs",
    ),
    Hint(
        ("joining namespaces", "joining a container that is gone"),
        (ENOENT, EINVAL),
        "the container ended meanwhile: its namespaces are gone",
    ),
    Hint(
        ("joining session keyring",),
        (EDQUOT,),
        "this user's quota of keys is used up: raise the sysctls kernel.keys.maxkeys and "
        "kernel.keys.maxbytes",
    ),
    Hint(
        ("joining session keyring",),
        (ENOSYS, EPERM),
        f"the kernel has no keyrings, or {_OUTER} forbids keyctl(2)",
    ),
    # Control groups.
    Hint(
        ("creating control group",),
        (EACCES, EPERM, EROFS),
        "no control group is delegated to this user: start the program with "
        "'systemd-run --user --scope -p Delegate=yes', or leave the limits out",
        rootless=True,
    ),
    Hint(
        ("creating control group",),
        (EROFS, EACCES, EPERM),
        f"the control groups are read-only here: {_OUTER} must mount them writable",
        rootless=False,
    ),
    Hint(
        ("creating control group",),
        (ENOSPC, EAGAIN),
        "no more control groups allowed: see cgroup.max.descendants and cgroup.max.depth above, "
        "and remove those left behind (65535 memory groups at most)",
    ),
    Hint(
        ("creating control group", "opening control group", "setting limits"),
        (ENOENT,),
        "the controller is not enabled in the group above: write it to that group's cgroup.subtree_control",
    ),
    Hint(
        ("joining control group",),
        (ENOSPC,),
        "the cpuset of that group is empty: set cpuset.cpus and cpuset.mems of the groups above it",
    ),
    Hint(
        ("joining control group",),
        (EBUSY, EOPNOTSUPP),
        "the control group holds controllers for groups below it: processes may be in leaves only",
    ),
    Hint(
        ("joining control group",),
        (EACCES, EPERM, ENOENT),
        "a process may move only within the part of the tree delegated to its user: start the program in a "
        "delegated scope ('systemd-run --user --scope -p Delegate=yes')",
    ),
    Hint(
        ("setting limits",),
        (EINVAL, ERANGE),
        "the kernel refuses this value: a CPU that is not there, or more than the group above allows",
    ),
    Hint(("setting limits",), (ENODEV, ENXIO), "io_max names a block device that this host does not have"),
    Hint(("setting limits",), (EBUSY,), "more memory is in use already than the new limit allows"),
    Hint(
        ("setting limits",),
        (EACCES, EPERM, EROFS),
        "this user may not write the limit: the control group is not delegated, or mounted read-only",
    ),
    # Mounts, by type.
    Hint(_OVERLAY, (ENODEV,), "the kernel has no overlay file system; run: sudo modprobe overlay"),
    Hint(
        _OVERLAY,
        (EPERM,),
        "ordinary users can mount overlay from Linux 5.11 on, and only where the host allows it; "
        "see pycontainer.doctor()",
        rootless=True,
    ),
    Hint(
        _OVERLAY,
        (EINVAL, EOPNOTSUPP),
        "the store's file system cannot carry overlay (it is overlay itself, NFS, or lacks what "
        "overlay needs): "
        "set PYCONTAINER_STORE to a directory on ext4, xfs, btrfs or tmpfs",
    ),
    Hint(
        _OVERLAY, (EBUSY, ESTALE), "another mount uses the same upper directory: one container at a time can"
    ),
    Hint(_OVERLAY, (ELOOP,), "the writable layer lies inside the image: put the store outside of it"),
    Hint(
        _OVERLAY,
        (EACCES,),
        "the container's user may not read a layer: the store and all directories above it need "
        "search permission",
    ),
    Hint(
        ("mounting proc",),
        (EPERM, EACCES),
        "parts of this host's own /proc are covered, so the kernel refuses a new one: give the outer "
        "container "
        "an uncovered /proc (docker: --security-opt systempaths=unconfined; podman: --security-opt "
        "unmask=ALL)",
    ),
    Hint(
        ("mounting sysfs",),
        (EPERM, EACCES),
        'an ordinary user can mount sysfs only with an own network namespace (not with network="host"), '
        "and only where /sys is not covered by an outer container",
        rootless=True,
    ),
    Hint(
        ("mounting devpts",),
        (EINVAL,),
        "group 5 (tty) is not mapped: give this user a range in /etc/subgid",
        rootless=True,
    ),
    Hint(("mounting mqueue",), (ENODEV,), "the kernel was built without POSIX message queues"),
    Hint(
        ("mounting cgroup*",),
        (EPERM, EACCES, EBUSY),
        "control groups can be mounted only in a control group namespace of the container's own",
    ),
    Hint(("mounting tmpfs",), (EINVAL,), "the kernel refuses the size, mode or owner given for this tmpfs"),
    Hint(
        ("bind mounting",),
        (ENOENT,),
        "{path} does not exist: a bind's source is never created, make it on the host first",
    ),
    Hint(
        ("bind mounting",),
        (ENOTDIR, EISDIR),
        _ONE_KIND,
    ),
    Hint(("bind mounting",), (EINVAL,), _ONE_KIND, rootless=False),
    Hint(
        ("bind mounting",),
        (EACCES,),
        "the container's user may not reach {path}: all directories above it need search permission for it",
    ),
    Hint(
        ("bind mounting", "remounting", "making read-only"),
        (EPERM, EINVAL),
        "source and target are a file and a directory; or the host's mount has flags that a user namespace "
        "may not change (nosuid, nodev, noexec, ro), or mounts below it that may not be uncovered: bind the "
        "inner directory, or ask for the same flags",
        rootless=True,
    ),
    Hint(
        ("mounting*", "bind mounting", "creating directory", "creating file", "creating device"),
        (ELOOP,),
        "a link in the image lies on the way to {path}: targets are never reached through links",
    ),
    Hint(
        ("mounting*", "bind mounting", "creating directory", "creating file", "creating device"),
        (EXDEV,),
        "a link in the image leads from {path} into /proc, /sys or /dev, and is not followed there",
    ),
    Hint(
        _MOUNT,
        (ENOSPC,),
        "a mount namespace has its limit of mounts: raise the sysctl fs.mount-max, or mount less recursively",
    ),
    Hint(("mounting*",), (ENODEV,), "the kernel does not have this file system"),
    Hint(
        _MOUNT,
        (EPERM, EACCES),
        f"mounting is forbidden: {_OUTER}, or a security module (AppArmor, SELinux), must allow mount(2)",
    ),
    Hint(
        ("mounting*", "creating directory"),
        (ENOTDIR, EEXIST),
        "{path}, or what it lies in, is no directory in the container",
    ),
    Hint(("creating device",), (EPERM,), "device nodes cannot be made in a user namespace", rootless=True),
    Hint(
        ("creating directory", "creating file", "mounting*"),
        (EROFS,),
        "{path} is missing in the image, and what it lies in is read-only",
    ),
    Hint(("opening root",), (ENOENT, ENOTDIR), "the image's directory {path} is not there any more"),
    Hint(("opening root",), (EACCES,), "the container's user may not enter {path}, the image's directory"),
    Hint(
        ("pivot_root",),
        (EINVAL,),
        "the host's root is the initial ramfs, which cannot be left by pivot_root(2): switch to a "
        "real root first",
    ),
    Hint(("pivot_root",), (EPERM,), f"pivot_root(2) is forbidden by {_OUTER}"),
    # The process.
    Hint(
        ("changing directory",),
        (ENOENT, ENOTDIR),
        "the container has no directory {path}: choose another cwd (or WORKDIR of the image)",
    ),
    Hint(("changing directory",), (EACCES,), "the container's user may not enter {path}"),
    Hint(("setting hostname",), (EINVAL, ENAMETOOLONG), "a host name has at most 64 bytes"),
    Hint(("setting sysctl",), (ENOENT,), "the container's namespaces have no sysctl {path}"),
    Hint(("setting sysctl",), (EINVAL, ERANGE), "the kernel refuses this value for {path}"),
    Hint(("setting sysctl",), (EACCES, EPERM, EROFS), "{path} may not be written from inside this container"),
    Hint(
        ("setting resource limits",),
        (EPERM,),
        "a hard limit above the host process's own needs CAP_SYS_RESOURCE: raise it for the host process "
        "(ulimit -H, LimitNOFILE= of systemd), or ask for less",
    ),
    Hint(
        ("setting resource limits",),
        (EINVAL,),
        "the soft limit exceeds the hard one, or the sysctl fs.nr_open",
    ),
    Hint(
        ("setting user and groups",),
        (EINVAL, EPERM),
        "this user or group number is not mapped in the user namespace: give this account ranges in "
        "/etc/subuid "
        "and /etc/subgid, or run as user 0",
        rootless=True,
    ),
    Hint(("setting user and groups",), (EPERM,), "root lacks CAP_SETUID or CAP_SETGID", rootless=False),
    Hint(
        ("setting user and groups", "executing"),
        (EAGAIN,),
        "the user has as many processes as RLIMIT_NPROC (ulimits nproc) allows",
    ),
    Hint(
        ("setting capabilities", "dropping capabilities"),
        (EPERM,),
        "the host process's bounding set lacks one of these capabilities: leave it out of cap_add",
    ),
    Hint(
        ("installing seccomp filter",),
        (EACCES,),
        "a filter without no_new_privileges=True needs CAP_SYS_ADMIN: leave no_new_privileges on",
    ),
    Hint(
        ("installing seccomp filter",),
        (EINVAL, EFAULT, ENOSYS, EOPNOTSUPP),
        "the kernel refuses the filter: an action it does not know, too long a profile, or no "
        "CONFIG_SECCOMP_FILTER; see pycontainer.doctor()",
    ),
    Hint(("installing seccomp filter",), (ENOMEM,), "the filters around this process are too long together"),
    Hint(("passing descriptors",), (EBADF,), "a descriptor in pass_fds is not open"),
    Hint(
        ("executing",),
        (ENOENT,),
        "the container has no program {path}, or what it needs to start is missing: the interpreter "
        "in a script's "
        "first line, or the dynamic loader of a program built for another libc",
    ),
    Hint(
        ("executing",),
        (EACCES, EPERM, EISDIR),
        "{path} is no executable file for the container's user: check its mode (chmod +x), the directories "
        "above it, and that its mount is not noexec",
    ),
    Hint(
        ("executing",),
        (ENOEXEC,),
        "{path} is built for another processor, or is a script without '#!' in its first line",
    ),
    Hint(("executing",), (ENOTDIR,), "a part of the path {path} is no directory in the container"),
    Hint(
        ("executing",),
        (E2BIG,),
        "arguments and environment are too long together: at most a quarter of the stack limit",
    ),
    Hint(
        ("executing",), (ELOOP,), "{path} goes through too many links, or scripts that interpret each other"
    ),
    Hint(("executing",), (ETXTBSY,), "{path} is open for writing: close it before it is run"),
    Hint(("executing",), (ELIBBAD, EINVAL), "{path} or its dynamic loader is damaged"),
    Hint(
        ("executing",),
        (ENOMEM,),
        "the program does not fit into the container's memory limit: raise memory",
    ),
    # Whatever was being done.
    Hint(
        ("*",),
        (EMFILE,),
        "too many open files: raise the limit (ulimit -n, RLIMIT_NOFILE) of the host process",
    ),
    Hint(("*",), (ENFILE,), "the whole machine has too many open files: raise the sysctl fs.file-max"),
    Hint(
        ("*",), (ENOMEM,), "the kernel is out of memory, or the control group around the host process is full"
    ),
    Hint(
        ("*",),
        (ENOSPC,),
        "the file system is full, or out of inodes: free some space (Store.prune() may help)",
    ),
    Hint(("*",), (EDQUOT,), "this user's disk quota is used up"),
    Hint(("*",), (EIO,), "the disk reported an error: see the kernel's log"),
    Hint(("*",), (EROFS,), "the file system is read-only"),
)


def hint_for(stage: str, errno: int, path: str | None, *, rootless: bool) -> str | None:
    """The remedy for a failure of `stage` with `errno`, or None where the cause is not known."""
    for hint in HINTS:
        if (
            errno in hint.errors
            and any(_fits(pattern, stage) for pattern in hint.stages)
            and hint.rootless in (None, rootless)
            and (hint.sysctl is None or _sysctl(hint.sysctl[0]) == hint.sysctl[1])
        ):
            return hint.text.replace("{path}", path or "it")
    return None


def _fits(pattern: str, stage: str) -> bool:
    return stage.startswith(pattern[:-1]) if pattern.endswith("*") else stage == pattern


def _sysctl(name: str) -> str | None:
    """The text of a file below /proc/sys; None where this kernel does not have it or hides it."""
    try:
        return Path(PROC_SYS, name).read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None
