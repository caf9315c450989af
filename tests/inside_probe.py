"""Runs inside a container, alone and with the standard library only: what this process is and sees.

Prints one JSON object. Its only argument is JSON too: paths that should be `masked`, and `readonly`.
"""

import ctypes
import fcntl
import json
import os
import platform
import resource
import socket
import stat
import struct
import sys

GET_KEYRING_ID, SESSION_KEYRING = 0, -3  # keyctl(2)
KEYCTL = {"x86_64": 250, "aarch64": 219}[platform.machine()]
CONTROL_FILES = ("/proc/sysrq-trigger", "/proc/sys/kernel/domainname")
IFF_UP, SIOCGIFFLAGS = 1, 0x8913  # netdevice(7)


def status():
    with open("/proc/self/status") as file:
        return {name: value.strip() for name, _, value in (line.partition(":") for line in file)}


def namespaces():
    return {name: os.readlink("/proc/self/ns/" + name) for name in os.listdir("/proc/self/ns")}


def mounts():
    """All of them, in order; octal escapes do not occur in what is looked for.  proc_pid_mountinfo(5)"""
    found = []
    with open("/proc/self/mountinfo") as file:
        for line in file:
            left, _, right = line.partition(" - ")
            fields, (fstype, _, data) = left.split(), right.strip().split(None, 2)
            flags = fields[5].split(",")
            found.append({"at": fields[4], "root": fields[3], "type": fstype, "flags": flags, "data": data})
            found[-1]["shared"] = any(word.startswith(("shared:", "master:")) for word in fields[6:])
    return found


def describe(path):
    try:
        found = os.lstat(path)
    except OSError as error:
        return {"kind": "absent", "errno": error.errno}
    if stat.S_ISDIR(found.st_mode):
        return {"kind": "directory", "entries": os.listdir(path)}
    if stat.S_ISLNK(found.st_mode):
        return {"kind": "link", "target": os.readlink(path)}
    device = [os.major(found.st_rdev), os.minor(found.st_rdev)]
    kind = "node" if stat.S_ISCHR(found.st_mode) else "file"
    return {"kind": kind, "device": device, "mode": found.st_mode}


def content(path):
    if not os.path.isfile(path) and not describe(path).get("device"):
        return None
    try:
        with open(path, "rb") as file:
            return len(file.read(4096))
    except PermissionError:
        return None


def write_error(path):
    """The errno of opening a file for writing; 0 where that works."""
    try:
        os.close(os.open(path, os.O_WRONLY))
    except OSError as error:
        return error.errno
    return 0


def file_system_is_read_only(path):
    try:
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except FileNotFoundError:
        return None


def descriptors():
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink("/proc/self/fd/" + name)
        except FileNotFoundError:  # the listing's own
            continue
    return found


def session_keyring():
    """Its serial number, or the refusal's errno below zero."""
    libc = ctypes.CDLL(None, use_errno=True)
    number = libc.syscall(KEYCTL, GET_KEYRING_ID, ctypes.c_int(SESSION_KEYRING), 0)
    return number if number >= 0 else -ctypes.get_errno()


def interfaces():
    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for _, name in socket.if_nameindex():
            request = struct.pack("16sH14x", name.encode(), 0)
            flags = struct.unpack("16sH14x", fcntl.ioctl(any_socket, SIOCGIFFLAGS, request))[1]
            found[name] = bool(flags & IFF_UP)
    return found


def pids_limit():
    for path in ("/sys/fs/cgroup/pids.max", "/sys/fs/cgroup/pids/pids.max"):
        if os.path.exists(path):
            with open(path) as file:
                return file.read().strip()
    return None


def loops_back():
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname(), timeout=5),
    ):
        return True


def main():
    asked = json.loads(sys.argv[1])
    mask = os.umask(0)
    os.umask(mask)
    with open("/proc/self/cgroup") as file:
        cgroups = file.read().split()
    print(
        json.dumps(
            {
                "status": status(),
                "namespaces": namespaces(),
                "mounts": mounts(),
                "dev": {name: describe("/dev/" + name) for name in os.listdir("/dev")},
                "masked": {path: describe(path) | {"bytes": content(path)} for path in asked["masked"]},
                "readonly": {path: file_system_is_read_only(path) for path in asked["readonly"]},
                "writes": {path: write_error(path) for path in CONTROL_FILES},
                "descriptors": descriptors(),
                "terminal": os.ttyname(0) if os.isatty(0) else None,
                "keyring": session_keyring(),
                "limits": {
                    name: resource.getrlimit(getattr(resource, name))
                    for name in dir(resource)
                    if name.startswith("RLIMIT_")
                },
                "interfaces": interfaces(),
                "loops_back": loops_back(),
                "pids_limit": pids_limit(),
                "cgroups": cgroups,
                "cwd": os.getcwd(),
                "umask": mask,
                "hostname": socket.gethostname(),
                "pid": os.getpid(),
                "session": os.getsid(0),
                "ids": [os.getresuid(), os.getresgid(), os.getgroups()],
                "root": os.listdir("/"),
            }
        )
    )


if __name__ == "__main__":
    main()
