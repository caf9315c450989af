"""Ports of a network namespace, reached through sockets of this process's (protocol.h, FORWARD).

A child of the supervisor joins the namespace, takes the sockets over and carries the bytes; no process
of Python's is on the way.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import threading
from collections.abc import Sequence
from typing import Literal

from pycontainer import _sys
from pycontainer.errors import LaunchError, SupervisorError
from pycontainer.supervisor import client, failure, plan

_VERB = _sys.constants("pctr_forward_verb", "PCTR_FORWARD_")
_PROTOCOL = _sys.constants("pctr_forward_protocol", "PCTR_FORWARD_")
_ADDRESS = struct.Struct("=I16s")
_REQUEST = struct.Struct("=IIIIII")
_REPLY = struct.Struct("=Ii")
_MAX_ADDRESSES = 4
_U32 = 0xFFFFFFFF
_CLONE_NEWNET = 0x40000000
_PATIENCE_SECONDS = 1.0

if (_REQUEST.size + _MAX_ADDRESSES * _ADDRESS.size, _REPLY.size) != (
    _sys.FORWARD_REQUEST_SIZE,
    _sys.FORWARD_REPLY_SIZE,
):
    raise ImportError("the compiled module was built from another protocol.h: build it again")


class Forwarder:
    """One child of the supervisor that forwards to ports of one network namespace; ends with `close`, or
    with this process. Safe from any thread.

    `add` and `remove` raise the `OSError` that the kernel gave, `LaunchError` where the namespace could
    not be joined, and `SupervisorError` where the supervisor is gone.
    """

    def __init__(self, supervisor: client.Supervisor, *, target: int = 0, namespace: int = -1) -> None:
        """Into the network namespace at the descriptor `namespace`, or else into that of the job `target`.

        Does not wait for the child: what keeps it from its work is told to who asks first."""
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._serial = 0
        self._last = 0
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket = ours
        try:
            with theirs:
                fds = [theirs.fileno(), *([namespace] if namespace >= 0 else [])]
                self._encoded = _plan(namespace >= 0)
                self._job = supervisor.start(
                    self._encoded,
                    fds=fds,
                    flags=client.START["WORK"] | (client.START["OUTSIDE"] if target else 0),
                    target=target,
                )
            self._rootless = supervisor.rootless
        except BaseException:
            self.close()
            raise

    @property
    def ended(self) -> bool:
        """Whether nobody forwards any more."""
        return self._job.final is not None or self._job.lost or self._socket.fileno() < 0

    def add(
        self,
        listener: socket.socket,
        port: int,
        addresses: Sequence[str],
        *,
        protocol: Literal["tcp", "udp"],
    ) -> int:
        """Forwards what comes to `listener`, which listens (TCP) or is bound (UDP), to a port of the
        namespace, at the first of one to four addresses that takes it; gives a number for `remove`.

        The socket becomes non-blocking. It stays the caller's, who closes it when the port shall be free.
        Raises ENOSPC when the child has as many as its descriptors allow (4096, or an eighth of the hard
        limit).
        """
        if not 1 <= len(addresses) <= _MAX_ADDRESSES:
            raise ValueError(f"one to {_MAX_ADDRESSES} addresses, not {len(addresses)}")
        packed = b"".join(map(_packed, addresses)).ljust(_MAX_ADDRESSES * _ADDRESS.size, b"\0")
        with self._lock:
            self._last += 1
            number = self._last
            fields = (number, _PROTOCOL[protocol.upper()], port, len(addresses))
            try:
                self._ask("ADD", fields, packed, [listener.fileno()])
            except OSError:
                raise
            except BaseException:
                # Interrupted before the answer came: the caller will not know the number.
                with contextlib.suppress(OSError, LaunchError, SupervisorError):
                    self._send("REMOVE", (number, 0, 0, 0), bytes(len(packed)), [])
                raise
        return number

    def remove(self, number: int) -> None:
        """Forwards no more what `add` gave this number, and resets its connections. Raises ENOENT for a
        number that it did not give, or that is removed already."""
        with self._lock:
            self._ask("REMOVE", (number, 0, 0, 0), bytes(_MAX_ADDRESSES * _ADDRESS.size), [])

    def close(self) -> None:
        """Ends the child; waits until it is gone. What has arrived is delivered as far as the other side
        takes it at once; connections that are not over then are reset."""
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
                    if job.wait(_PATIENCE_SECONDS) is None:
                        job.end()
                        job.wait()
        finally:
            self._lock.release()

    def _hang_up(self) -> None:
        """For the child, even where a fork has a copy of the socket."""
        with contextlib.suppress(OSError):  # it was closed, or nobody is there any more
            self._socket.shutdown(socket.SHUT_RDWR)

    def _ask(self, verb: str, fields: tuple[int, ...], addresses: bytes, fds: Sequence[int]) -> None:
        self._send(verb, fields, addresses, fds)
        # Who was interrupted between question and answer left the answer here.
        while (answer := self._receive())[0] != self._serial:
            pass
        if answer[1] != 0:
            raise OSError(answer[1], os.strerror(answer[1]), f"forwarding ({verb.lower()})")

    def _send(self, verb: str, fields: tuple[int, ...], addresses: bytes, fds: Sequence[int]) -> None:
        if self._socket.fileno() < 0:
            raise self._ended()
        self._serial = (self._serial + 1) & _U32
        message = _REQUEST.pack(_VERB[verb], self._serial, *fields) + addresses
        try:
            socket.send_fds(self._socket, [message], list(fds), socket.MSG_NOSIGNAL)
        except (BrokenPipeError, ConnectionResetError):
            raise self._ended() from None

    def _receive(self) -> tuple[int, int]:
        try:
            data = self._socket.recv(_REPLY.size)
        except ConnectionResetError:
            raise self._ended() from None
        if len(data) < _REPLY.size:
            raise self._ended()
        serial, error = _REPLY.unpack(data)
        return serial, error

    def _ended(self) -> LaunchError:
        """Why there is no answer."""
        record = self._job.wait()
        if record is not None and record.kind == client.RECORD["FAILED"]:
            return failure.launch_error(record, rootless=self._rootless, encoded=self._encoded)
        return SupervisorError("asking the forwarder of a container", errno=errno.EPIPE)


def _plan(given: bool) -> bytes:
    ops = plan.Ops(plan.Data())
    if given:
        ops.join_fd(1, _CLONE_NEWNET)
    else:
        ops.join(_CLONE_NEWNET)
    # It needs no right from here on, and speaks with everybody.
    ops.no_new_privs()
    ops.caps(0)
    ops.forward(0)
    return plan.encode(ops.data, setup=ops.encode())


def _packed(address: str) -> bytes:
    """Raises OSError for what is no IP address."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return _ADDRESS.pack(family, socket.inet_pton(family, address))
