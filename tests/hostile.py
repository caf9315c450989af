"""Begins every program that the tests of attacks run inside a container; the standard library only."""

# ruff: noqa: F401 - what is imported here is for the attacks that follow this text

import ctypes
import errno
import fcntl
import json
import os
import platform
import signal
import struct
import sys
import time

NUMBERS = {
    "x86_64": {
        "ptrace": 101, "mount": 165, "umount2": 166, "unshare": 272, "setns": 308, "clone": 56, "clone3": 435,
        "add_key": 248, "request_key": 249, "keyctl": 250, "bpf": 321, "perf_event_open": 298,
        "open_by_handle_at": 304, "init_module": 175, "kexec_load": 246, "process_vm_readv": 310,
        "userfaultfd": 323, "pivot_root": 155, "swapon": 167, "reboot": 169, "open_tree": 428, "fsopen": 430,
        "move_mount": 429, "mount_setattr": 442, "settimeofday": 164, "rt_sigqueueinfo": 129, "ioctl": 16,
        "socket": 41, "io_uring_setup": 425, "pidfd_open": 434, "pidfd_getfd": 438, "syslog": 103,
    },
    "aarch64": {
        "ptrace": 117, "mount": 40, "umount2": 39, "unshare": 97, "setns": 268, "clone": 220, "clone3": 435,
        "add_key": 217, "request_key": 218, "keyctl": 219, "bpf": 280, "perf_event_open": 241,
        "open_by_handle_at": 265, "init_module": 105, "kexec_load": 104, "process_vm_readv": 270,
        "userfaultfd": 282, "pivot_root": 41, "swapon": 224, "reboot": 142, "open_tree": 428, "fsopen": 430,
        "move_mount": 429, "mount_setattr": 442, "settimeofday": 170, "rt_sigqueueinfo": 138, "ioctl": 29,
        "socket": 198, "io_uring_setup": 425, "pidfd_open": 434, "pidfd_getfd": 438, "syslog": 116,
    },
}[platform.machine()]  # fmt: skip

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
PTRACE_ATTACH, PTRACE_DETACH = 16, 17

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


def call(name, *arguments):
    """A system call's result, -errno for a failure; integers go as the machine's whole words."""
    words = [ctypes.c_ulong(word) if isinstance(word, int) else word for word in arguments]
    result = libc.syscall(ctypes.c_long(NUMBERS[name]), *words)
    return result if result != -1 else -ctypes.get_errno()


def attempt(function, *arguments, **named):
    """0, or the errno of what it raised."""
    try:
        function(*arguments, **named)
    except OSError as error:
        return error.errno
    return 0


def opening(path, flags):
    try:
        os.close(os.open(path, flags))
    except OSError as error:
        return error.errno
    return 0


def answer(value):
    print(json.dumps(value), flush=True)
