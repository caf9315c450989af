"""Ports of a network namespace, reached through sockets of this process's (protocol.h, FORWARD).

A child of the supervisor joins the namespace, takes the sockets over and carries the bytes; no process
of Python's is on the way.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Sequence
from typing import Literal

from pycontainer import _sys
from pycontainer.errors import LaunchError, SupervisorError
from pycontainer.network import addresses as addressing
from pycontainer.network.jobs import CLONE_NEWNET
from pycontainer.supervisor import client, plan
from pycontainer.supervisor.conversation import HEAD, REPLY, Conversation

_VERB = _sys.constants("pctr_forward_verb", "PCTR_FORWARD_")
_PROTOCOL = _sys.constants("pctr_forward_protocol", "PCTR_FORWARD_")
_FIELDS = struct.Struct("=IIII")
_MAX_ADDRESSES = _sys.FORWARD_ADDRESSES

if (HEAD.size + _FIELDS.size + _MAX_ADDRESSES * addressing.SIZE, REPLY.size) != (
    _sys.FORWARD_REQUEST_SIZE,
    _sys.FORWARD_REPLY_SIZE,
):
    raise ImportError("the compiled module was built from another protocol.h: build it again")


class Forwarder(Conversation):
    """One child of the supervisor that forwards to ports of one network namespace; ends with `close`, or
    with this process. Safe from any thread. What has arrived by then is delivered as far as the other side
    takes it at once; connections that are not over are reset.

    `add` and `remove` raise the `OSError` that the kernel gave, `LaunchError` where the namespace could
    not be joined, and `SupervisorError` where the supervisor is gone.
    """

    _last = 0

    def __init__(self, supervisor: client.Supervisor, *, target: int = 0, namespace: int = -1) -> None:
        """Into the network namespace at the descriptor `namespace`, or else into that of the job `target`.

        Does not wait for the child: what keeps it from its work is told to who asks first."""

        def prepare(ops: plan.Ops, sock: int) -> None:
            if namespace >= 0:
                ops.join_fd(0, CLONE_NEWNET)
            else:
                ops.join(CLONE_NEWNET)
            # It needs no right from here on, and speaks with everybody.
            ops.no_new_privs()
            ops.caps(0)
            ops.forward(sock)

        fds = [namespace] if namespace >= 0 else []
        super().__init__(supervisor, "asking the forwarder of a container", prepare, fds=fds, target=target)

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
        packed = addressing.packed(addresses, _MAX_ADDRESSES)
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
                    self._say(_VERB["REMOVE"], _FIELDS.pack(number, 0, 0, 0) + bytes(len(packed)))
                raise
        return number

    def remove(self, number: int) -> None:
        """Forwards no more what `add` gave this number, and resets its connections. Raises ENOENT for a
        number that it did not give, or that is removed already."""
        with self._lock:
            self._ask("REMOVE", (number, 0, 0, 0), addressing.packed((), _MAX_ADDRESSES), [])

    def _ask(self, verb: str, fields: tuple[int, ...], addresses: bytes, fds: Sequence[int]) -> None:
        self._say(_VERB[verb], _FIELDS.pack(*fields) + addresses, fds)
        error = self._hear()
        if error:
            raise OSError(error, os.strerror(error), f"forwarding ({verb.lower()})")
