"""Loads the filter that it reads from standard input and tries what is refused; prints what it found.

A program of its own because a filter stays until the process ends.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

PR_SET_NO_NEW_PRIVS = 38
PR_SET_SECCOMP = 22
SECCOMP_MODE_FILTER = 2
CLONE_NEWUSER = 0x10000000
HIGH = 1 << 32

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def load(packed: bytes) -> None:
    program = _Program(len(packed) // 8, packed)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "no_new_privs")
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "seccomp")


def call(number: int, *arguments: int) -> int:
    """The error number, or 0; a child that came of it ends at once."""
    parent = os.getpid()
    result = libc.syscall(ctypes.c_long(number), *(ctypes.c_ulong(argument) for argument in arguments))
    if os.getpid() != parent:
        os._exit(0)
    return ctypes.get_errno() if result == -1 else 0


def refusals(numbers: dict[str, int]) -> dict[str, int]:
    def by_name(name: str, *arguments: int) -> int:
        return call(numbers[name], *arguments)

    null = os.open("/dev/null", os.O_RDWR)
    found = {
        "clone NEWUSER": by_name("clone", CLONE_NEWUSER | signal.SIGCHLD, 0, 0, 0, 0),
        "clone NEWUSER and a high bit": by_name("clone", HIGH | CLONE_NEWUSER | signal.SIGCHLD, 0, 0, 0, 0),
        "clone3": by_name("clone3", 0, 0),
        "unshare nothing": by_name("unshare", 0),
        "setns": by_name("setns", null, 0),
        "AF_ALG": by_name("socket", 38, 5, 0),
        "AF_ALG and a high bit": by_name("socket", HIGH | 38, 5, 0),
        "AF_VSOCK": by_name("socket", 40, 1, 0),
        "TIOCSTI": by_name("ioctl", null, 0x5412, 0),
        "TIOCSTI and a high bit": by_name("ioctl", null, HIGH | 0x5412, 0),
        "TIOCLINUX": by_name("ioctl", null, 0x541C, 0),
        "TCGETS": by_name("ioctl", null, 0x5401, 0),
        "keyctl": by_name("keyctl", 0, 0, 0, 0, 0),
        "io_uring_setup": by_name("io_uring_setup", 1, 0),
        "personality without randomisation": by_name("personality", 0x40000),
        "personality query": by_name("personality", 0xFFFFFFFF),
        "unknown number": call(1000),
        "AF_INET": by_name("socket", 2, 1, 0),
        "AF_UNIX": by_name("socket", 1, 1, 0),
        "AF_NETLINK": by_name("socket", 16, 3, 0),
        "fork": by_name("clone", signal.SIGCHLD, 0, 0, 0, 0),
    }
    return found


PYTHON = """
import concurrent.futures, os, socket, subprocess, tempfile, threading
together = threading.Barrier(4)
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    threads = len(set(pool.map(lambda _: (together.wait(10), threading.get_ident())[1], range(4))))
child = subprocess.run(["true"]).returncode
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname())
with tempfile.TemporaryDirectory() as directory:
    os.rename(directory, directory + "2")
    os.rename(directory + "2", directory)
print(f"threads {threads}, child {child}, socket {client.fileno() > 0}, tmp {not os.path.exists(directory)}")
"""


def programs(_: dict[str, int]) -> dict[str, Any]:
    with open("/proc/self/status") as status:
        mode = next(line.split()[1] for line in status if line.startswith("Seccomp:"))
    done = subprocess.run([sys.executable, "-c", PYTHON], capture_output=True, text=True)
    return {
        "mode": mode,
        "ls": subprocess.run(["ls", "-l", "/"], stdout=subprocess.DEVNULL).returncode,
        "python": (done.stdout + done.stderr).strip(),
    }


def foreign(_: dict[str, int]) -> dict[str, str]:
    """getpid by the i386 convention: mov $20, %eax; int $0x80; ret."""
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")
    address = ctypes.addressof(ctypes.c_char.from_buffer(code))
    child = os.fork()
    if child == 0:
        ctypes.CFUNCTYPE(ctypes.c_int)(address)()
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    return {"killed by": signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else "nobody"}


def main() -> None:
    request = json.load(sys.stdin)
    checks: dict[str, Callable[[dict[str, int]], Any]] = {
        "refusals": refusals,
        "programs": programs,
        "foreign": foreign,
    }
    load(bytes.fromhex(request["filter"]))
    json.dump(checks[request["check"]](request["numbers"]), sys.stdout)


if __name__ == "__main__":
    main()
