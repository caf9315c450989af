"""A child of the supervisor that does what it is asked, one thing after the other, until it is hung up on.

The questions go over a socket of its own (protocol.h: FORWARD, IMPAIR, RESOLVE). Each begins with a verb and
a serial number, and its answer is that number and an errno.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import threading
from collections.abc import Callable, Sequence

from pycontainer.errors import LaunchError, SupervisorError
from pycontainer.supervisor import client, failure, plan

HEAD = struct.Struct("=II")
REPLY = struct.Struct("=Ii")
_U32 = 0xFFFFFFFF
_PATIENCE_SECONDS = 1.0


class Conversation:
    """Ends with `close`, or with this process. Safe from any thread."""

    def __init__(
        self,
        supervisor: client.Supervisor,
        stage: str,
        prepare: Callable[[plan.Ops, int], None],
        *,
        fds: Sequence[int] = (),
        target: int = 0,
    ) -> None:
        """`prepare` adds the operations, which may use `fds` from index 0 on, and is told the socket's index;
        `target` is the job whose namespaces they join. `stage` says in errors what the child is there for.

        Does not wait for the child: what keeps it from its work is told to who asks first.
        """
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._serial = 0
        self._stage = stage
        self._rootless = supervisor.rootless
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket = ours
        try:
            with theirs:
                ops = plan.Ops(plan.Data())
                prepare(ops, len(fds))
                self._encoded = plan.encode(ops.data, setup=ops.encode())
                self._job = supervisor.start(
                    self._encoded,
                    fds=[*fds, theirs.fileno()],
                    flags=client.START["WORK"]
                    | client.START["SERVES"]
                    | (client.START["OUTSIDE"] if target else 0),
                    target=target,
                )
        except BaseException:
            self.close()
            raise

    @property
    def ended(self) -> bool:
        """Whether nobody answers any more."""
        return self._job.final is not None or self._job.lost or self._socket.fileno() < 0

    def close(self) -> None:
        """Ends the child; waits until it is gone."""
        if self._pid != os.getpid():
            # Of a fork, which has a copy of the socket, and no child.
            self._socket.close()
            return
        job: client.Job | None = getattr(self, "_job", None)
        if not self._lock.acquire(timeout=_PATIENCE_SECONDS):
            self._hang_up()
            if job is not None:
                job.end()
            self._lock.acquire()
        try:
            self._hang_up()
            self._socket.close()
            # One thread alone may wait for a job: whoever asks does so with the lock, too.
            if job is not None and job.final is None and not job.lost:
                with contextlib.suppress(SupervisorError):  # it has taken the child along
                    # One that is killed ends later: it closes its sockets faster than the kernel for it.
                    if job.wait(_PATIENCE_SECONDS) is None:
                        job.end()
                        job.wait()
        finally:
            self._lock.release()

    def _hang_up(self) -> None:
        """For the child, even where a fork has a copy of the socket."""
        with contextlib.suppress(OSError):  # it was closed, or nobody is there any more
            self._socket.shutdown(socket.SHUT_RDWR)

    def _converse(self, verb: int, rest: bytes, fds: Sequence[int] = ()) -> int:
        """The errno that the child answers, or 0; `rest` is what follows the serial number. Raises
        `LaunchError` where the child could not begin, `SupervisorError` where it is gone.

        Who has the lock already says `_say` and `_hear`."""
        with self._lock:
            self._say(verb, rest, fds)
            return self._hear()

    def _say(self, verb: int, rest: bytes, fds: Sequence[int] = ()) -> None:
        if self._socket.fileno() < 0:
            raise self._gone()
        self._serial = (self._serial + 1) & _U32
        message = HEAD.pack(verb, self._serial) + rest
        try:
            socket.send_fds(self._socket, [message], list(fds), socket.MSG_NOSIGNAL)
        except (BrokenPipeError, ConnectionResetError):
            raise self._gone() from None

    def _hear(self) -> int:
        # Who was interrupted between question and answer left the answer here.
        while (reply := self._receive())[0] != self._serial:
            pass
        return reply[1]

    def _receive(self) -> tuple[int, int]:
        """Serial number and errno of the next answer."""
        try:
            data = self._socket.recv(REPLY.size)
        except ConnectionResetError:
            raise self._gone() from None
        if len(data) < REPLY.size:
            raise self._gone()
        serial, error = REPLY.unpack(data)
        return serial, error

    def _gone(self) -> LaunchError:
        """Why there is no answer."""
        record = self._job.wait()
        if record is not None and record.kind == client.RECORD["FAILED"]:
            return failure.launch_error(record, rootless=self._rootless, encoded=self._encoded)
        return SupervisorError(self._stage, errno=errno.EPIPE)
