"""The default profile: what a container's programs may ask of the kernel.

An allow-list with the reach of Docker's default profile, so that images which run there run here.  What
is in no list is refused with EPERM; calls that the tables do not know, with ENOSYS (`select.unlisted`).
What is left out on purpose, and why:

- io_uring_*: a second, large interface to most other calls, which no filter sees into.
- add_key, request_key, keyctl: keyrings are not part of any namespace.
- userfaultfd: lets a program stop the kernel in the middle of a copy, a tool of many exploits.
- kexec_*, swapon, swapoff, migrate_pages, move_pages: the machine's, whatever the capabilities.
- uselib, ustat, sysfs, _sysctl, nfsservctl and the like: obsolete, kept by the kernel for old programs.
"""

from __future__ import annotations

import functools
from typing import Final

from pycontainer.runtime.seccomp.profile import (
    ALLOW,
    EAFNOSUPPORT,
    ENOSYS,
    EPERM,
    ERRNO,
    Condition,
    Profile,
    Rule,
)

ALLOWED: Final = (
    (
        "programs and processes: a new program, its threads, its end",
        "execve execveat exit exit_group fork vfork wait4 waitid kill tkill tgkill set_tid_address "
        "set_robust_list get_robust_list rseq rseq_slice_yield restart_syscall prctl arch_prctl "
        "modify_ldt set_thread_area get_thread_area pidfd_open pidfd_send_signal process_mrelease",
    ),
    (
        "who it is: the kernel checks each change against the process's own capabilities and limits",
        "getpid getppid gettid getuid geteuid getgid getegid getresuid getresgid getgroups setuid "
        "setgid setreuid setregid setresuid setresgid setfsuid setfsgid setgroups getpgid getpgrp "
        "setpgid getsid setsid capget capset getrlimit setrlimit prlimit64 getrusage times umask "
        "getpriority setpriority ioprio_get ioprio_set",
    ),
    (
        "what the machine is",
        "uname sysinfo getcpu getrandom",
    ),
    (
        "scheduling of its own threads",
        "sched_yield sched_getaffinity sched_setaffinity sched_getattr sched_setattr sched_getparam "
        "sched_setparam sched_getscheduler sched_setscheduler sched_get_priority_max "
        "sched_get_priority_min sched_rr_get_interval",
    ),
    (
        "memory",
        "brk mmap munmap mremap mprotect madvise mincore msync mlock mlock2 mlockall munlock munlockall "
        "mseal remap_file_pages pkey_alloc pkey_free pkey_mprotect memfd_create memfd_secret membarrier "
        "map_shadow_stack",
    ),
    (
        "waiting for each other: futexes",
        "futex futex_wait futex_wake futex_waitv futex_requeue",
    ),
    (
        "opening, creating and naming files, beneath the container's own root",
        "open openat openat2 creat close close_range name_to_handle_at mkdir mkdirat mknod mknodat "
        "rmdir link linkat symlink symlinkat unlink unlinkat rename renameat renameat2 chdir fchdir "
        "getcwd getdents getdents64",
    ),
    (
        "reading and writing",
        "read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 lseek readahead "
        "fadvise64 sendfile splice tee vmsplice copy_file_range fallocate truncate ftruncate sync "
        "syncfs fsync fdatasync sync_file_range cachestat",
    ),
    (
        "what files are: attributes, owners, times, locks; file_getattr and file_setattr do what ioctl "
        "did before",
        "stat fstat lstat newfstatat statx statfs fstatfs access faccessat faccessat2 readlink "
        "readlinkat chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat utime utimes futimesat "
        "utimensat file_getattr file_setattr getxattr lgetxattr fgetxattr getxattrat setxattr lsetxattr "
        "fsetxattr setxattrat listxattr llistxattr flistxattr listxattrat removexattr lremovexattr "
        "fremovexattr removexattrat flock fcntl",
    ),
    (
        "the mounts it has, read only",
        "statmount listmount",
    ),
    (
        "descriptors: copies, pipes, events",
        "dup dup2 dup3 pipe pipe2 eventfd eventfd2 signalfd signalfd4 inotify_init inotify_init1 "
        "inotify_add_watch inotify_rm_watch fanotify_mark ioctl",
    ),
    (
        "waiting for descriptors",
        "select pselect6 poll ppoll epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait "
        "epoll_pwait2 epoll_ctl_old epoll_wait_old",
    ),
    (
        "asynchronous input and output of the old kind",
        "io_setup io_destroy io_submit io_cancel io_getevents io_pgetevents",
    ),
    (
        "sockets, in the container's own network namespace",
        "socket socketpair bind listen accept accept4 connect shutdown getsockname getpeername "
        "getsockopt setsockopt sendto sendmsg sendmmsg recvfrom recvmsg recvmmsg",
    ),
    (
        "System V and POSIX messages, in the container's own IPC namespace",
        "msgget msgsnd msgrcv msgctl semget semop semtimedop semctl shmget shmat shmdt shmctl mq_open "
        "mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr",
    ),
    (
        "signals",
        "rt_sigaction rt_sigprocmask rt_sigpending rt_sigreturn rt_sigsuspend rt_sigtimedwait "
        "rt_sigqueueinfo rt_tgsigqueueinfo sigaltstack pause",
    ),
    (
        "time; setting the machine's clock takes SYS_TIME, which adjtimex and clock_adjtime check themselves",
        "time gettimeofday clock_gettime clock_getres clock_nanosleep nanosleep alarm getitimer "
        "setitimer timer_create timer_delete timer_gettime timer_settime timer_getoverrun "
        "timerfd_create timerfd_gettime timerfd_settime adjtimex clock_adjtime",
    ),
    (
        "confining itself further",
        "seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self",
    ),
    (
        "debugging within the container: its PID namespace and the same user bound what can be reached, "
        "and since Linux 4.8 a tracer cannot get around a filter",
        "ptrace process_vm_readv process_vm_writev uretprobe uprobe",
    ),
)
"""(reason, calls): allowed to every container, with the exceptions in REFUSED."""

UNLOCKED: Final = (
    ("DAC_READ_SEARCH", "open_by_handle_at"),
    (
        "SYS_ADMIN",
        "clone clone3 unshare setns mount umount2 pivot_root mount_setattr move_mount open_tree "
        "open_tree_attr fsopen fsconfig fsmount fspick listns sethostname setdomainname quotactl "
        "quotactl_fd syslog bpf perf_event_open fanotify_init lookup_dcookie lsm_get_self_attr "
        "lsm_set_self_attr lsm_list_modules",
    ),
    ("SYS_BOOT", "reboot"),
    ("SYS_CHROOT", "chroot"),
    ("SYS_MODULE", "init_module finit_module delete_module"),
    ("SYS_NICE", "get_mempolicy set_mempolicy mbind set_mempolicy_home_node"),
    ("SYS_PACCT", "acct"),
    ("SYS_PTRACE", "kcmp pidfd_getfd process_madvise"),
    ("SYS_RAWIO", "ioperm iopl"),
    ("SYS_TIME", "settimeofday clock_settime"),
    ("SYS_TTY_CONFIG", "vhangup"),
    ("SYSLOG", "syslog"),
    ("BPF", "bpf"),
    ("PERFMON", "perf_event_open"),
)
"""(capability, calls): allowed where the container has the capability."""

# The kernel takes these arguments as 32-bit numbers while the filter sees the whole register: a comparison
# that looked at the upper half could be evaded by setting a bit there (CVE-2019-10063 of flatpak).
_INT: Final = 0xFFFFFFFF

# linux/sched.h: NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.  (NEWTIME is a flag of clone3 and
# unshare only: clone has the exit signal in those bits.)
_NEW_NAMESPACES: Final = 0x7E020000

_AF_ALG: Final = 38  # the kernel's cryptography, a large attack surface that programs do without
_AF_VSOCK: Final = 40  # reaches the hypervisor and other machines, past the network namespace

_TIOCSTI: Final = 0x5412  # types into the terminal, as if its user had
_TIOCLINUX: Final = 0x541C  # the same by the console's selection

# personality(2): ordinary Linux, 32-bit uname, a 2.6 version, both, and the question what it is.  The others
# turn protections off (no address randomisation, mappable page 0, readable is executable).
_PERSONALITIES: Final = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)


def _masked(index: int, value: int, mask: int = _INT) -> tuple[Condition, ...]:
    return (Condition(index, "MASKED_EQ", value, mask),)


def _for_arguments() -> list[Rule]:
    """What depends on a call's arguments; a refusal here overrides the permission above."""
    no_admin = frozenset({"SYS_ADMIN"})
    return [
        Rule(("clone",), ALLOW, _masked(0, 0, _NEW_NAMESPACES), without_capabilities=no_admin),
        # Its flags are behind a pointer, where no filter can look; at ENOSYS libraries take clone instead.
        Rule(("clone3",), ERRNO | ENOSYS, without_capabilities=no_admin),
        *(Rule(("personality",), ALLOW, _masked(0, value)) for value in _PERSONALITIES),
        # The error of a kernel that was built without the family.
        *(
            Rule(("socket", "socketpair"), ERRNO | EAFNOSUPPORT, _masked(0, family))
            for family in (_AF_ALG, _AF_VSOCK)
        ),
        *(Rule(("ioctl",), ERRNO | EPERM, _masked(1, request)) for request in (_TIOCSTI, _TIOCLINUX)),
    ]


@functools.cache
def default_profile() -> Profile:
    rules = [Rule(tuple(names.split()), ALLOW) for _, names in ALLOWED]
    rules += [
        Rule(tuple(names.split()), ALLOW, with_capabilities=frozenset({capability}))
        for capability, names in UNLOCKED
    ]
    return Profile(default=ERRNO | EPERM, rules=(*rules, *_for_arguments()))
