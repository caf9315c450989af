"""Plans: the operations that the supervisor's child carries out, encoded as protocol.h says."""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from pycontainer import _sys

OP = _sys.constants("pctr_op_code", "PCTR_OP_")
FLAG = _sys.constants("pctr_op_flag", "PCTR_OPF_")

OPTIONAL = FLAG["OPTIONAL"]
NO_SYMLINKS = FLAG["NO_SYMLINKS"]
RECURSIVE = FLAG["RECURSIVE"]
CREATE = FLAG["CREATE"]
IGNORE = FLAG["IGNORE"]
BENEATH = FLAG["BENEATH"]
EXISTS = FLAG["EXISTS"]

MS_PRIVATE = 0x40000
"""mount(2)."""

_OP = struct.Struct("=HHiIIIIQQ")
_HEADER = struct.Struct("=IIII")
if _OP.size != _sys.OP_SIZE or _HEADER.size != _sys.PLAN_SIZE:
    raise ImportError("the compiled module was built from another protocol.h: build it again")

_POINTER = struct.calcsize("P")


class Data:
    """A plan's strings and bytes; equal strings are kept once. Offset 0 is the empty string."""

    __slots__ = ("_offsets", "_parts", "size")

    def __init__(self) -> None:
        self._parts: list[bytes] = [b"\0"]
        self._offsets: dict[str, int] = {"": 0}
        self.size = 1

    def copy(self) -> Data:
        new = Data.__new__(Data)
        new._parts = self._parts.copy()
        new._offsets = self._offsets.copy()
        new.size = self.size
        return new

    def text(self, text: str) -> int:
        """The offset of a string, which may not hold NUL (the caller has checked that)."""
        offset = self._offsets.get(text)
        if offset is None:
            offset = self._offsets[text] = self._append(os.fsencode(text) + b"\0")
        return offset

    def raw(self, data: bytes, align: int = 1) -> int:
        """The offset of binary data, which begins at a multiple of `align`."""
        if padding := -self.size % align:
            self._append(bytes(padding))
        return self._append(data)

    def table(self, strings: Sequence[bytes]) -> int:
        """The offset of a pointer table that C fills in, followed by its strings."""
        return self.raw(bytes(_POINTER * (len(strings) + 1)) + b"\0".join([*strings, b""]), _POINTER)

    def encode(self) -> bytes:
        """All of it, NUL at the end, padded so that a plan may follow."""
        return b"".join(self._parts) + bytes(8 - self.size % 8)

    def _append(self, data: bytes) -> int:
        offset = self.size
        self._parts.append(data)
        self.size += len(data)
        return offset


class Ops:
    """A run of operations whose strings lie in one `Data`; each method adds one."""

    __slots__ = ("_encoded", "data")

    def __init__(self, data: Data, encoded: bytes = b"") -> None:
        self.data = data
        self._encoded: list[bytes] = [encoded] if encoded else []

    def encode(self) -> bytes:
        return b"".join(self._encoded)

    def extend(self, encoded: bytes) -> None:
        """Adds operations that were encoded before, over the same data."""
        self._encoded.append(encoded)

    def add(
        self,
        code: int,
        flags: int = 0,
        arg: int = 0,
        s1: int = 0,
        s2: int = 0,
        s3: int = 0,
        size: int = 0,
        n1: int = 0,
        n2: int = 0,
    ) -> None:
        self._encoded.append(_OP.pack(code, flags, arg, s1, s2, s3, size, n1, n2))

    # Files of the host.

    def mkdir(self, path: str, mode: int = 0o755, *, flags: int = 0) -> None:
        self.add(OP["MKDIR"], flags, s1=self.data.text(path), n1=mode)

    def write(self, path: str, value: bytes, *, flags: int = 0) -> None:
        data = self.data
        self.add(OP["WRITE"], flags, s1=data.text(path), s2=data.raw(value), size=len(value))

    def rmdir(self, path: str, *, flags: int = 0) -> None:
        self.add(OP["RMDIR"], flags, s1=self.data.text(path))

    def remove_tree(self, parent: str, name: str, *, reused: bool = False) -> None:
        self.add(OP["REMOVE_TREE"], s1=self.data.text(parent), s2=self.data.text(name), n1=reused)

    def collect(self, path: str) -> None:
        self.add(OP["COLLECT"], s1=self.data.text(path))

    def apply_layer(
        self, fd: int, directory: str, *, notes: str, flags: int, max_bytes: int, max_entries: int
    ) -> None:
        self.add(
            OP["APPLY_LAYER"],
            arg=fd,
            s1=self.data.text(directory),
            s2=self.data.text(notes),
            size=flags,
            n1=max_bytes,
            n2=max_entries,
        )

    def adopt_looks(self, notes: str, directory: str, lower: Sequence[str], *, flags: int) -> None:
        names = b"".join(os.fsencode(path) + b"\0" for path in (directory, *lower))
        data = self.data
        self.add(OP["ADOPT_LOOKS"], s1=data.text(notes), s2=data.raw(names), size=len(names), n1=flags)

    def write_tar(
        self,
        fd: int,
        directory: str = "",
        *,
        flags: int,
        uid: int = -1,
        gid: int = -1,
        latest: int | None,
        without: Sequence[str] = (),
    ) -> None:
        """Without a `directory`, the descriptor after `fd` is the one. `without` are paths in it."""
        left_out = b"".join(os.fsencode(path) + b"\0" for path in without)
        self.add(
            OP["WRITE_TAR"],
            arg=fd,
            s1=self.data.text(directory),
            s2=self.data.raw(left_out + b"\0") if without else 0,
            size=flags,
            n1=(uid & _U32) << 32 | gid & _U32,
            n2=(_LATEST if latest is None else latest) & _U64,
        )

    def write_changes(self, fd: int, upper: str, *, flags: int) -> None:
        self.add(OP["WRITE_CHANGES"], arg=fd, s1=self.data.text(upper), size=flags)

    # Namespaces and control groups.

    def cgroup_into(self, directory: str) -> None:
        self.add(OP["CGROUP_INTO"], s1=self.data.text(directory))

    def cgroup_open(self, tasks: str) -> None:
        self.add(OP["CGROUP_OPEN"], s1=self.data.text(tasks))

    def cgroup_join(self, *, opened_beside: bool) -> None:
        self.add(OP["CGROUP_JOIN"], n1=opened_beside)

    def unshare(self, flags: int) -> None:
        self.add(OP["UNSHARE"], n1=flags)

    def join(self, flags: int) -> None:
        self.add(OP["JOIN"], n1=flags)

    def join_fd(self, fd: int, flag: int) -> None:
        self.add(OP["JOIN_FD"], arg=fd, n1=flag)

    def give(self, fd: int, path: str, access: int = os.O_RDONLY) -> None:
        self.add(OP["GIVE"], arg=fd, s1=self.data.text(path), n1=access)

    def linger(self) -> None:
        self.add(OP["LINGER"])

    def netlink(
        self,
        messages: bytes,
        what: str,
        *,
        namespace: int = -1,
        own_at: int = 0,
        protocol: int = 0,
        flags: int = 0,
    ) -> None:
        """`namespace` is the index of a descriptor, or -1 for the process's own network namespace; at
        `own_at` in the messages a descriptor of that goes in. `what` names in errors what they are about."""
        data = self.data
        self.add(
            OP["NETLINK"],
            flags,
            arg=namespace,
            s1=data.text(what),
            s2=data.raw(messages),
            size=len(messages),
            n1=own_at,
            n2=protocol,
        )

    def serve(self, fd: int) -> None:
        self.add(OP["SERVE"], arg=fd)

    def forward(self, fd: int) -> None:
        self.add(OP["FORWARD"], arg=fd)

    def impair(self, fd: int) -> None:
        self.add(OP["IMPAIR"], arg=fd)

    def resolve(self, fd: int) -> None:
        self.add(OP["RESOLVE"], arg=fd)

    def keyring(self) -> None:
        self.add(OP["KEYRING"])

    def network(self, *, unchanging: bool = False) -> None:
        self.add(OP["NETWORK"], n1=unchanging)

    def hostname(self, name: str) -> None:
        self.add(OP["HOSTNAME"], s1=self.data.text(name))

    def sysctl(self, name: str, value: str) -> None:
        """`name` is a path below /proc/sys."""
        encoded = os.fsencode(value)
        data = self.data
        self.add(OP["SYSCTL"], s1=data.text(name), s2=data.raw(encoded), size=len(encoded))

    # The file system.

    def propagation(self, flags: int) -> None:
        self.add(OP["PROPAGATION"], n1=flags)

    def root(self, path: str) -> None:
        self.add(OP["ROOT"], s1=self.data.text(path))

    def mount(
        self, target: str, fstype: str, flags: int = 0, data: str = "", *, how: int = 0, stack: int = 0
    ) -> None:
        """With a `stack`, another container's of that number may take its place, and it that of others."""
        text = self.data.text
        self.add(OP["MOUNT"], how, s1=text(target), s2=text(fstype), s3=text(data), n1=flags, n2=stack)

    def overlay(
        self,
        target: str,
        lower: Sequence[str],
        upper: str = "",
        work: str = "",
        flags: int = 0,
        more: str = "",
        stack: int = 0,
    ) -> None:
        """Any number of layers, topmost first; `more` are further mount options. Without `upper` it is
        read-only. `stack` is as in `mount`."""
        data = self.data
        names = b"".join(os.fsencode(path) + b"\0" for path in (upper, work, *lower))
        self.add(
            OP["OVERLAY"],
            s1=data.text(target),
            s2=data.raw(names),
            s3=data.text(more),
            size=len(names),
            n1=flags,
            n2=stack,
        )

    def unmount(self, path: str, *, flags: int = 0) -> None:
        self.add(OP["UNMOUNT"], flags, s1=self.data.text(path))

    def stay(self) -> None:
        self.add(OP["STAY"])

    def open_tree(self, slot: int, source: str, *, how: int = RECURSIVE) -> None:
        self.add(OP["OPEN_TREE"], how, arg=slot, s1=self.data.text(source))

    def bind(
        self,
        slot: int,
        target: str,
        flags: int = 0,
        *,
        propagation: int = MS_PRIVATE,
        how: int = RECURSIVE | CREATE,
    ) -> None:
        self.add(OP["BIND"], how, arg=slot, s1=self.data.text(target), n1=flags, n2=propagation)

    def make_dir(self, path: str, mode: int = 0o755, *, how: int = 0) -> None:
        self.add(OP["MAKE_DIR"], how, s1=self.data.text(path), n1=mode)

    def make_file(self, path: str, content: bytes, mode: int = 0o644, *, uid: int = 0, gid: int = 0) -> None:
        data = self.data
        self.add(
            OP["MAKE_FILE"],
            s1=data.text(path),
            s2=data.raw(content),
            size=len(content),
            n1=mode,
            n2=uid << 32 | gid,
        )

    def make_link(self, path: str, points_at: str, *, how: int = 0) -> None:
        self.add(OP["MAKE_LINK"], how, s1=self.data.text(path), s2=self.data.text(points_at))

    def make_node(self, path: str, mode: int, device: int) -> None:
        self.add(OP["MAKE_NODE"], s1=self.data.text(path), n1=mode, n2=device)

    def mask(self, path: str, empty: str) -> None:
        """`empty` is a directory of the host, shown where `path` is one."""
        self.add(OP["MASK"], OPTIONAL, s1=self.data.text(path), s2=self.data.text(empty))

    def readonly(self, path: str) -> None:
        self.add(OP["READONLY"], OPTIONAL | RECURSIVE, s1=self.data.text(path))

    def remount(self, path: str, flags: int) -> None:
        self.add(OP["REMOUNT"], s1=self.data.text(path), n1=flags)

    def pivot(self) -> None:
        self.add(OP["PIVOT"])

    def enter(self) -> None:
        self.add(OP["ENTER"])

    def tty(self, fd: int, rows: int, columns: int, owner: int, *, console: bool) -> None:
        self.add(OP["TTY"], CREATE if console else 0, arg=fd, n1=rows << 16 | columns, n2=owner)

    # The process.

    def fd(self, index: int, number: int, *, owner: int | None = None) -> None:
        self.add(OP["FD"], arg=index, n1=number, n2=0 if owner is None else owner + 1)

    def setsid(self) -> None:
        self.add(OP["SETSID"])

    def rlimit(self, resource: int, soft: int, hard: int) -> None:
        self.add(OP["RLIMIT"], arg=resource, n1=soft & _U64, n2=hard & _U64)

    def umask(self, mask: int) -> None:
        self.add(OP["UMASK"], n1=mask)

    def bounding(self, mask: int) -> None:
        self.add(OP["BOUNDING"], n1=mask)

    def groups(self, groups: Iterable[int]) -> None:
        packed = b"".join(group.to_bytes(4, _ORDER) for group in groups)
        self.add(OP["GROUPS"], s1=self.data.raw(packed, 4), size=len(packed))

    def ids(self, uid: int, gid: int) -> None:
        self.add(OP["IDS"], n1=uid, n2=gid)

    def chdir(self, path: str) -> None:
        self.add(OP["CHDIR"], s1=self.data.text(path))

    def caps(self, mask: int) -> None:
        self.add(OP["CAPS"], n1=mask)

    def no_new_privs(self) -> None:
        self.add(OP["NO_NEW_PRIVS"])

    def seccomp(self, program: bytes) -> None:
        self.add(OP["SECCOMP"], s1=self.data.raw(program, 8), size=len(program))

    def lifeline(self) -> None:
        self.add(OP["LIFELINE"])

    def exec(self, paths: Sequence[str], argv: Sequence[bytes], env: Mapping[str, str]) -> None:
        data = self.data
        variables = [os.fsencode(f"{name}={value}") for name, value in env.items()]
        self.add(
            OP["EXEC"],
            arg=len(paths),
            s1=data.table([os.fsencode(path) for path in paths]),
            s2=data.table(argv),
            s3=data.table(variables),
            n1=len(argv),
            n2=len(variables),
        )


def encode(data: Data, prepare: bytes = b"", setup: bytes = b"", tail: bytes = b"") -> bytes:
    """One plan: the operations of its three phases over one `Data`."""
    encoded = data.encode()
    size = _OP.size
    header = _HEADER.pack(len(prepare) // size, len(setup) // size, len(tail) // size, len(encoded))
    return b"".join((header, prepare, setup, tail, encoded))


def mount_at(encoded: bytes, index: int) -> tuple[str, str]:
    """Target and type of a MOUNT operation in an encoded plan, for an error that names them."""
    prepare, setup, tail, _ = _HEADER.unpack_from(encoded)
    fields = _OP.unpack_from(encoded, _HEADER.size + index * _OP.size)
    data = _HEADER.size + (prepare + setup + tail) * _OP.size

    def text(offset: int) -> str:
        start = data + offset
        return os.fsdecode(encoded[start : encoded.index(b"\0", start)])

    return text(fields[3]), text(fields[4])


_U32 = (1 << 32) - 1
_U64 = (1 << 64) - 1
_LATEST = (1 << 63) - 1
_ORDER: Literal["little", "big"] = sys.byteorder
