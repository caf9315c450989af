"""A child of the supervisor that carries a network's frames, as badly as it is told (protocol.h, IMPAIR).

A port is two links of the network's namespace. Whatever comes in by one is sent out by the other, so for the
network the child is a cable; nobody else may forward between the two, or take in what arrives there.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import itertools
import math
import socket
import struct
import threading
from typing import SupportsIndex

from pycontainer import _sys
from pycontainer.errors import LaunchError, SupervisorError
from pycontainer.network.impairment import Impairment
from pycontainer.network.jobs import CLONE_NEWNET
from pycontainer.supervisor import client, failure, plan

_VERB = _sys.constants("pctr_impair_verb", "PCTR_IMPAIR_")
_REQUEST = struct.Struct("=IIIiiIQQQ")
_REPLY = struct.Struct("=Ii")
_U32 = 0xFFFFFFFF
_ALL = 0
"""No port's id."""
_STAGE = "impairing the network"
_PATIENCE_SECONDS = 1.0

if (_REQUEST.size, _REPLY.size) != (_sys.IMPAIR_REQUEST_SIZE, _sys.IMPAIR_REPLY_SIZE):
    raise ImportError("the compiled module was built from another protocol.h: build it again")


class Impairer:
    """One such child, for all ports of a network; ends with `close`, or with this process.

    Every method raises `LaunchError` with the errno that the kernel gave, and `SupervisorError` where the
    child or the supervisor is gone. Safe from any thread.
    """

    def __init__(self, supervisor: client.Supervisor, namespace: int) -> None:
        """`namespace` is a descriptor of the network namespace. Raises `LaunchError`."""
        self._lock = threading.Lock()
        self._serial = 0
        self._ids = itertools.count(1)
        self._rootless = supervisor.rootless
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket = ours
        try:
            with theirs:
                ops = plan.Ops(plan.Data())
                ops.join_fd(0, CLONE_NEWNET)
                ops.impair(1)
                self._encoded = plan.encode(ops.data, setup=ops.encode())
                self._job = supervisor.start(
                    self._encoded, fds=[namespace, theirs.fileno()], flags=client.START["WORK"]
                )
            # Its first answer says that it is there.
            self.set()
        except BaseException:
            self.close()
            raise

    @property
    def ended(self) -> bool:
        """Whether nobody carries anything any more."""
        return self._job.final is not None or self._job.lost or self._socket.fileno() < 0

    def add(self, a: int, b: int) -> int:
        """Begins to carry between the links with these indexes; gives the port's id.

        Late or lost is what comes in by `a`; the rate holds both ways. It is impaired as the last `set` for
        all has said. ENODEV: there is no such link; ENOSPC: there are 1024 ports.
        """
        id = next(self._ids)
        try:
            self._ask("ADD", id=id, links=(a, b))
        except LaunchError:
            raise
        except BaseException:
            with contextlib.suppress(LaunchError):  # it was not there yet
                self.remove(id)
            raise
        return id

    def set(
        self,
        *,
        delay: float | str | datetime.timedelta = 0,
        jitter: float | str | datetime.timedelta = 0,
        loss: float = 0,
        rate: SupportsIndex | str = 0,
        id: int | None = None,
    ) -> None:
        """How frames are carried from now on, also those that wait, by one port or by all, those included
        that will be added. What is not named is not impaired. See `Impairment`; raises `InvalidOption`."""
        how = Impairment(delay=delay, jitter=jitter, loss=loss, rate=rate)
        self._ask("SET", id=_ALL if id is None else id, how=how)

    def remove(self, id: int) -> None:
        """Carries nothing more for that port; what waits there is lost. ENOENT: there is none."""
        self._ask("REMOVE", id=id)

    def close(self) -> None:
        """Ends the child, and waits until it is gone. From then on nothing is carried."""
        job = getattr(self, "_job", None)
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
                with contextlib.suppress(SupervisorError):  # it died, and the child with it
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

    def _ask(
        self, verb: str, *, id: int, links: tuple[int, int] = (0, 0), how: Impairment | None = None
    ) -> None:
        how = how or Impairment()
        fields = (
            id,
            *links,
            _of_all(how.loss),
            _nanoseconds(how.delay),
            _nanoseconds(how.jitter),
            how.rate,
        )
        with self._lock:
            self._serial = (self._serial + 1) & _U32
            self._send(_REQUEST.pack(_VERB[verb], self._serial, *fields))
            # Who was interrupted between question and answer left the answer here.
            while (reply := self._receive())[0] != self._serial:
                pass
        if reply[1] != 0:
            raise LaunchError(_STAGE, errno=reply[1])

    def _send(self, message: bytes) -> None:
        if self._socket.fileno() < 0:
            raise self._gone()
        try:
            self._socket.send(message, socket.MSG_NOSIGNAL)
        except (BrokenPipeError, ConnectionResetError):
            raise self._gone() from None

    def _receive(self) -> tuple[int, int]:
        """Serial and errno of the next answer."""
        try:
            data = self._socket.recv(_REPLY.size)
        except ConnectionResetError:
            raise self._gone() from None
        if len(data) < _REPLY.size:
            raise self._gone()
        serial, error = _REPLY.unpack(data)
        return serial, error

    def _gone(self) -> LaunchError:
        """Why there is no answer."""
        record = self._job.wait()
        if record is not None and record.kind == client.RECORD["FAILED"]:
            return failure.launch_error(record, rootless=self._rootless, encoded=self._encoded)
        return SupervisorError(_STAGE, errno=errno.EPIPE)


def _of_all(fraction: float) -> int:
    """In units of the request. What is more than nothing stays more than nothing."""
    return math.ceil(fraction * _U32)


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
