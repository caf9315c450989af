"""Files beneath a container's root, as the supervisor's child serves them (protocol.h, SERVE).

The child resolves every path within that root and acts as the root of the container's user namespace,
so this works the same for root and for ordinary users, and no link inside leads out.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from collections.abc import Callable, Sequence

import attrs

from pycontainer import _sys
from pycontainer.errors import LaunchError, SupervisorError
from pycontainer.supervisor import client, failure, plan

VERB = _sys.constants("pctr_file_verb", "PCTR_FILE_")
_FLAG = _sys.constants("pctr_file_flag", "PCTR_FILE_")
_REQUEST = struct.Struct("=IIIIIIqq")
_REPLY = struct.Struct("=iIIIIIQQQQQqqq")
_KEEP = 0xFFFFFFFF
_MAX_REPLY = 8192

if (_REQUEST.size, _REPLY.size) != (_sys.FILE_REQUEST_SIZE, _sys.FILE_REPLY_SIZE):
    raise ImportError("the compiled module was built from another protocol.h: build it again")


@attrs.frozen
class Status:
    """What stat(2) says; times in nanoseconds since 1970."""

    mode: int
    uid: int
    gid: int
    links: int
    inode: int
    device: int
    rdev: int
    length: int
    blocks: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int


class Served:
    """One child of the supervisor that serves one root; ends with `close`, or with this process.

    Every method raises the `OSError` that the kernel gave, with the container's path in it, and
    `SupervisorError` where the supervisor is gone. Safe from any thread.
    """

    def __init__(
        self,
        supervisor: client.Supervisor,
        prepare: Callable[[plan.Ops], None],
        *,
        fds: Sequence[int] = (),
        target: int = 0,
    ) -> None:
        """`prepare` adds the operations that make the root (they may use `fds`, from index 0 on); `target`
        is the job whose mount namespace they join. Raises `LaunchError` naming the operation."""
        self._lock = threading.Lock()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket = ours
        try:
            with theirs:
                ops = plan.Ops(plan.Data())
                prepare(ops)
                ops.serve(len(fds))
                self._encoded = plan.encode(ops.data, setup=ops.encode())
                self._job = supervisor.start(
                    self._encoded,
                    fds=[*fds, theirs.fileno()],
                    flags=client.START["WORK"] | (client.START["OUTSIDE"] if target else 0),
                    target=target,
                )
            self._rootless = supervisor.rootless
            # Its first answer says that the root is there.
            self.stat("/")
        except BaseException:
            self.close()
            raise

    @property
    def ended(self) -> bool:
        """Whether nobody answers any more."""
        return self._job.final is not None or self._job.lost or self._socket.fileno() < 0

    def close(self) -> None:
        """Ends the child; waits until it is gone, and with it what it held of the root."""
        self._socket.close()
        job = getattr(self, "_job", None)
        if job is not None and job.final is None and not job.lost:
            job.end()
            job.wait()

    def open(self, path: str, flags: int, mode: int = 0o666) -> int:
        """A descriptor of a regular file or directory (open(2)); others give ENXIO."""
        _, _, fd = self._ask("OPEN", path, flags=flags, mode=mode)
        if fd < 0:
            raise OSError(errno.EPROTO, os.strerror(errno.EPROTO), path)
        return fd

    def stat(self, path: str, *, follow: bool = True) -> Status:
        fields, _, _ = self._ask("STAT", path, flags=_FLAG["FOLLOW"] if follow else 0)
        return Status(*fields[2:])

    def readlink(self, path: str) -> str:
        _, text, _ = self._ask("READLINK", path)
        return os.fsdecode(text)

    def mkdir(self, path: str, mode: int) -> None:
        self._ask("MKDIR", path, mode=mode)

    def mkfifo(self, path: str, mode: int) -> None:
        self._ask("MKFIFO", path, mode=mode)

    def unlink(self, path: str) -> None:
        self._ask("UNLINK", path)

    def rmdir(self, path: str) -> None:
        self._ask("RMDIR", path)

    def remove_tree(self, path: str) -> None:
        self._ask("REMOVE_TREE", path)

    def symlink(self, path: str, content: str) -> None:
        self._ask("SYMLINK", path, content)

    def link(self, path: str, existing: str) -> None:
        self._ask("LINK", path, existing)

    def rename(self, path: str, to: str, *, exclusive: bool = False) -> None:
        self._ask("RENAME", path, to, flags=_FLAG["EXCLUSIVE"] if exclusive else 0)

    def chmod(self, path: str, mode: int, *, follow: bool = True) -> None:
        self._ask("CHMOD", path, mode=mode, flags=_FLAG["FOLLOW"] if follow else 0)

    def chown(self, path: str, uid: int, gid: int, *, follow: bool = True) -> None:
        """-1 leaves an id as it is."""
        flags = _FLAG["FOLLOW"] if follow else 0
        self._ask("CHOWN", path, flags=flags, uid=uid & _KEEP, gid=gid & _KEEP)

    def utime(self, path: str, atime_ns: int, mtime_ns: int, *, follow: bool = True) -> None:
        flags = _FLAG["FOLLOW"] if follow else 0
        self._ask("UTIME", path, flags=flags, times=(atime_ns, mtime_ns))

    def socket(self, family: int, kind: int) -> int:
        """A descriptor of a new socket in the network namespace that `prepare` joined (socket(2))."""
        return self._ask("SOCKET", "", flags=family, mode=kind)[2]

    def connect(self, path: str) -> int:
        """A descriptor of a stream socket, connected to the Unix socket at `path` (unix(7))."""
        return self._ask("CONNECT", path)[2]

    def _ask(
        self,
        verb: str,
        path: str,
        other: str = "",
        *,
        flags: int = 0,
        mode: int = 0,
        uid: int = _KEEP,
        gid: int = _KEEP,
        times: tuple[int, int] = (0, 0),
    ) -> tuple[tuple[int, ...], bytes, int]:
        names = os.fsencode(path), os.fsencode(other)
        if any(b"\0" in name for name in names):
            raise ValueError("embedded null byte")
        if any(len(name) >= os.pathconf("/", "PC_PATH_MAX") for name in names):
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), path)
        head = _REQUEST.pack(VERB[verb], flags, mode, uid, gid, 0, *times)
        with self._lock:
            fields, text, fd = self._converse(b"".join((head, names[0], b"\0", names[1], b"\0")))
        if fields[0] != 0:
            shown = os.path.join(path, os.fsdecode(text)) if text else path
            raise OSError(fields[0], os.strerror(fields[0]), shown, None, other or None)
        return fields, text, fd

    def _converse(self, message: bytes) -> tuple[tuple[int, ...], bytes, int]:
        try:
            self._socket.send(message, socket.MSG_NOSIGNAL)
            data, fds, _, _ = socket.recv_fds(self._socket, _MAX_REPLY, 1)
        except (BrokenPipeError, ConnectionResetError):
            data, fds = b"", []
        except BaseException:
            # Broken off between question and answer, the next answer would be this one's.
            self._socket.close()
            raise
        if len(data) < _REPLY.size:
            raise self._ended()
        return _REPLY.unpack_from(data), data[_REPLY.size :], fds[0] if fds else -1

    def _ended(self) -> LaunchError:
        """Why there is no answer."""
        record = self._job.wait()
        if record is not None and record.kind == client.RECORD["FAILED"]:
            return failure.launch_error(record, rootless=self._rootless, encoded=self._encoded)
        return SupervisorError("asking for a file of the container", errno=errno.EPIPE)
