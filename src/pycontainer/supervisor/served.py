"""Files beneath a container's root, as the supervisor's child serves them (protocol.h, SERVE).

The child resolves every path within that root and acts as the root of the container's user namespace,
so this works the same for root and for ordinary users, and no link inside leads out.

Paths begin at the root, and links on the way are followed. With `at`, the descriptor of a directory that
`open` gave, they begin there, no link on the way is followed, and `..` leads nowhere: what holds on to a
directory so cannot be sent elsewhere by who renames things meanwhile.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence

import attrs

from pycontainer import _sys, in_time
from pycontainer.errors import LaunchError, SupervisorError
from pycontainer.supervisor import client, failure, plan

VERB = _sys.constants("pctr_file_verb", "PCTR_FILE_")
_FLAG = _sys.constants("pctr_file_flag", "PCTR_FILE_")
_REQUEST = struct.Struct("=IIIIIIqq")
_SERIAL = 5
"""Where in both is the number that tells which question an answer is for."""
_REPLY = struct.Struct("=iIIIIIQQQQQQqqq")
_FD = struct.Struct("=i")
_FD_SPACE = socket.CMSG_LEN(_FD.size)
_KEEP = 0xFFFFFFFF
_MAX_REPLY = 8192
_PATH_MAX = 4096
_PATIENCE_SECONDS = 1.0
_MOMENT_SECONDS = 0.1

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


@attrs.frozen
class _Reply:
    error: int
    serial: int
    status: tuple[int, ...]
    """In the order of `Status`."""
    text: bytes
    fd: int
    truncated: bool

    def descriptor(self, path: str) -> int:
        """Of an answer that must bring one. Raises EMFILE where this process has no room for it."""
        if self.fd < 0:
            number = errno.EMFILE if self.truncated else errno.EPROTO
            raise OSError(number, os.strerror(number), path)
        return self.fd


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
        self._serial = 0
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
                    flags=client.START["WORK"]
                    | client.START["SERVES"]
                    | (client.START["OUTSIDE"] if target else 0),
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
        """Ends the child; waits until it is gone, and with it what it held of the root.

        What another thread has asked is answered before, unless that takes long.
        """
        job = getattr(self, "_job", None)
        if not self._lock.acquire(timeout=_PATIENCE_SECONDS):
            with contextlib.suppress(OSError):  # it was closed, or nobody is there any more
                self._socket.shutdown(socket.SHUT_RDWR)
            if job is not None:
                job.end()
            self._lock.acquire()
        try:
            self._socket.close()
            # One thread alone may wait for a job: whoever asks does so with the lock, too.
            if job is not None and job.final is None and not job.lost:
                job.end()
                job.wait()
        finally:
            self._lock.release()

    def open(self, path: str, flags: int, mode: int = 0o666, *, at: int = -1) -> int:
        """A descriptor of a regular file or directory (open(2)); others give ENXIO. No umask is applied."""
        return self._ask("OPEN", path, flags=flags, mode=mode, at=at).descriptor(path)

    def stat(self, path: str, *, follow: bool = True, at: int = -1) -> Status:
        return Status(*self._ask("STAT", path, flags=_follow(follow), at=at).status)

    def readlink(self, path: str, *, at: int = -1) -> str:
        return os.fsdecode(self._ask("READLINK", path, at=at).text)

    def mkdir(self, path: str, mode: int, *, at: int = -1) -> None:
        self._ask("MKDIR", path, mode=mode, at=at)

    def mkfifo(self, path: str, mode: int, *, at: int = -1) -> None:
        self._ask("MKFIFO", path, mode=mode, at=at)

    def unlink(self, path: str, *, at: int = -1) -> None:
        self._ask("UNLINK", path, at=at)

    def rmdir(self, path: str) -> None:
        self._ask("RMDIR", path)

    def remove_tree(self, path: str) -> None:
        """Whatever it is, with all that is in it; nothing there is fine, a mount in there is not."""
        self._ask("REMOVE_TREE", path)

    def symlink(self, path: str, content: str, *, at: int = -1) -> None:
        self._ask("SYMLINK", path, content, at=at)

    def link(self, path: str, existing: str, *, at: int = -1, existing_at: int = -1) -> None:
        """`existing` begins at `existing_at`, or at `at` as well."""
        self._ask("LINK", path, existing, at=at, other_at=existing_at)

    def rename(self, path: str, to: str, *, exclusive: bool = False, at: int = -1) -> None:
        """Both begin at `at`."""
        self._ask("RENAME", path, to, flags=_FLAG["EXCLUSIVE"] if exclusive else 0, at=at)

    def chmod(self, path: str, mode: int, *, follow: bool = True, at: int = -1) -> None:
        self._ask("CHMOD", path, mode=mode, flags=_follow(follow), at=at)

    def chown(self, path: str, uid: int, gid: int, *, follow: bool = True, at: int = -1) -> None:
        """-1 leaves an id as it is."""
        self._ask("CHOWN", path, flags=_follow(follow), uid=uid & _KEEP, gid=gid & _KEEP, at=at)

    def utime(self, path: str, atime_ns: int, mtime_ns: int, *, follow: bool = True, at: int = -1) -> None:
        self._ask("UTIME", path, flags=_follow(follow), times=(atime_ns, mtime_ns), at=at)

    def socket(self, family: int, kind: int) -> int:
        """A descriptor of a new socket in the network namespace that `prepare` joined (socket(2))."""
        return self._ask("SOCKET", "", flags=family, mode=kind).descriptor("a socket")

    def connect(self, path: str) -> int:
        """A descriptor of a stream socket, connected to the Unix socket at `path` (unix(7))."""
        return self._ask("CONNECT", path).descriptor(path)

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
        at: int = -1,
        other_at: int = -1,
    ) -> _Reply:
        names = os.fsencode(path), os.fsencode(other)
        if any(b"\0" in name for name in names):
            raise ValueError("embedded null byte")
        if any(len(name) >= _PATH_MAX for name in names):
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), path)
        fds = [fd for fd in (at, other_at) if fd >= 0]
        head = (VERB[verb], flags, mode, uid, gid, 0, *times)
        reply = self._converse(head, b"".join((names[0], b"\0", names[1], b"\0")), fds)
        if reply.error != 0:
            shown = os.path.join(path, os.fsdecode(reply.text)) if reply.text else path
            raise OSError(reply.error, os.strerror(reply.error), shown, None, other or None)
        return reply

    def forward(self, message: bytes, fds: Sequence[int], asker: int) -> tuple[bytes, int]:
        """Answers what another process's `Served` asks; gives the answer in that one's form, and its
        descriptor, which is the caller's, or -1. Raises OSError for what is no question, and when the
        `asker` hangs up before there is an answer."""
        if len(message) < _REQUEST.size:
            raise OSError(errno.EPROTO, os.strerror(errno.EPROTO))
        head = _REQUEST.unpack_from(message)
        reply = self._converse(head, message[_REQUEST.size :], fds, asker)
        mode, uid, gid, *more = reply.status
        return _REPLY.pack(reply.error, 0, mode, uid, gid, head[_SERIAL], *more) + reply.text, reply.fd

    def _converse(self, head: tuple[int, ...], names: bytes, fds: Sequence[int], asker: int = -1) -> _Reply:
        with in_time.locked(self._lock):
            in_time.check()
            self._serial = (self._serial + 1) & _KEEP
            fields = (*head[:_SERIAL], self._serial, *head[_SERIAL + 1 :])
            self._send(_REQUEST.pack(*fields) + names, fds)
            # Who was interrupted between question and answer left the answer here.
            while (reply := self._receive(asker)).serial != self._serial:
                if reply.fd >= 0:
                    os.close(reply.fd)
            return reply

    def _send(self, message: bytes, fds: Sequence[int]) -> None:
        if self._socket.fileno() < 0:
            raise self._ended()
        try:
            socket.send_fds(self._socket, [message], list(fds), socket.MSG_NOSIGNAL)
        except (BrokenPipeError, ConnectionResetError):
            raise self._ended() from None

    def _receive(self, asker: int) -> _Reply:
        try:
            self._await_answer(asker)
        except (in_time.TimeIsUp, ConnectionResetError):
            # One that answers in a moment is needed, to tidy up.
            if not self._answers(_MOMENT_SECONDS):
                self._give_up()
            raise
        try:
            # `socket.recv_fds` ignores its flags.
            data, got, flags, _ = self._socket.recvmsg(_MAX_REPLY, _FD_SPACE, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            raise self._ended() from None
        if len(data) < _REPLY.size:
            raise self._ended()
        error, _, mode, uid, gid, serial, *more = _REPLY.unpack_from(data)
        truncated = bool(flags & socket.MSG_CTRUNC)
        fd = _FD.unpack_from(got[0][2])[0] if got else -1
        return _Reply(error, serial, (mode, uid, gid, *more), data[_REPLY.size :], fd, truncated)

    def _await_answer(self, asker: int) -> None:
        """As long as there is time, and somebody to hear it: where there is not, raises TimeIsUp and
        ConnectionResetError. Else receiving it may wait."""
        if asker < 0:
            return _sys.await_input(self._socket.fileno())
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(asker, select.POLLRDHUP)
        if self._socket.fileno() not in dict(_sys.poll(poll, None)):
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))

    def _answers(self, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(_sys.poll(poll, time.monotonic() + seconds))

    def _give_up(self) -> None:
        """Ends a child that does not answer; whoever else asks it goes on with the next one."""
        self._job.stop()

    def _ended(self) -> LaunchError:
        """Why there is no answer."""
        record = self._job.wait()
        if record is not None and record.kind == client.RECORD["FAILED"]:
            return failure.launch_error(record, rootless=self._rootless, encoded=self._encoded)
        return SupervisorError("asking for a file of the container", errno=errno.EPIPE)


def _follow(follow: bool) -> int:
    return _FLAG["FOLLOW"] if follow else 0
