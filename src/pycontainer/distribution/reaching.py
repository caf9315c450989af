"""Connecting to a server in a way that another thread can put an end to."""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from collections.abc import Callable, Iterable
from typing import Any

# Between two looks at whether anybody still wants it; what comes wakes us at once.
_SLICE = 0.05


def connected(
    host: str,
    port: int,
    timeout: float,
    check: Callable[[], None],
    options: Iterable[tuple[int, int, int | bytes]] = (),
) -> socket.socket:
    """A socket that is connected to `host` by the first of its addresses that can be reached, each tried for
    `timeout` seconds, which is the socket's own time-out then.

    `check` is called while that takes time, and what it raises ends it. Raises socket.gaierror, TimeoutError
    and OSError as connect(2) does, of the last address.
    """
    failure = OSError(f"{host} has no address")
    for family, kind, protocol, _, address in socket.getaddrinfo(
        host.strip("[]"), port, type=socket.SOCK_STREAM
    ):
        check()
        sock = None
        try:
            sock = socket.socket(family, kind, protocol)
            for option in options:
                sock.setsockopt(*option)
            _connect(sock, address, timeout, check)
            sock.settimeout(timeout)
            return sock
        except BaseException as error:
            if sock is not None:
                sock.close()
            if not isinstance(error, OSError):
                raise
            failure = error
    try:
        raise failure
    finally:
        # It knows this frame, which would know it.
        del failure


def wait_for(sock: socket.socket, events: int, timeout: float, check: Callable[[], None]) -> None:
    """Waits for one of poll(2)'s `events`. Raises TimeoutError, and what `check` raises."""
    deadline = time.monotonic() + timeout
    poll = select.poll()
    poll.register(sock, events)
    while not poll.poll(1000 * max(0.0, min(_SLICE, deadline - time.monotonic()))):
        check()
        if time.monotonic() >= deadline:
            raise TimeoutError("timed out")


def _connect(sock: socket.socket, address: Any, timeout: float, check: Callable[[], None]) -> None:
    sock.setblocking(False)
    error = sock.connect_ex(address)
    if error == errno.EINPROGRESS:
        wait_for(sock, select.POLLOUT, timeout, check)
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error:
        raise OSError(error, os.strerror(error))
