"""Sockets to what listens in a container, with nothing published: made inside its network namespace."""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from typing import TYPE_CHECKING, TypeAlias

from pycontainer import _sys
from pycontainer.files.pure import PureContainerPath
from pycontainer.units import parse_int, refuse

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pycontainer.supervisor.served import Served

Target: TypeAlias = "int | str | os.PathLike[str] | PureContainerPath"

_LOOPBACKS = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))
_NOT_THERE = {errno.ECONNREFUSED, errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.ENETUNREACH}
"""With one of these another address may still answer."""
_SLICE_SECONDS = 0.05
_SHORTEST = 0.001
_LONGEST = 0.025


def parse_target(value: Target) -> int | str:
    """A port's number, or an absolute path in the container, also one that `Container.path` gave. Raises
    InvalidOption."""
    if isinstance(value, PureContainerPath):
        value = str(value)
    if isinstance(value, (str, os.PathLike)):
        path = os.fspath(value)
        if not isinstance(path, str) or not path.startswith("/") or "\0" in path:
            raise refuse("path", value, "must be an absolute path in the container, or a port's number")
        return path
    return parse_int(value, option="port", low=1, high=65535)


def connect(
    served: Callable[[], Served], target: int | str, timeout: float | None, own: Sequence[str] = ()
) -> socket.socket:
    """A stream socket that is connected to `target`. Raises OSError as connect(2) does, and TimeoutError.

    `served` gives what works inside the container, and raises where that no longer runs. `own` are the
    container's addresses: its servers may listen at one of them alone.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    if isinstance(target, str):
        return _connect_path(served, target, deadline)
    refused: OSError | None = None
    others = [(socket.AF_INET6 if ":" in one else socket.AF_INET, one) for one in own]
    for family, address in (*_LOOPBACKS, *others):
        try:
            return _connect_port(served, family, (address, target), deadline)
        except OSError as error:
            if error.errno not in _NOT_THERE:
                raise
            refused = refused or error
    assert refused is not None
    raise refused


def _connect_port(
    served: Callable[[], Served], family: int, address: tuple[str, int], deadline: float | None
) -> socket.socket:
    connection = socket.socket(fileno=served().socket(family, socket.SOCK_STREAM))
    try:
        usual = connection.gettimeout()
        connection.setblocking(False)
        failure = connection.connect_ex(address)
        if failure == errno.EINPROGRESS:
            # Where the queue of the one who listens is full, the kernel tries again after a second.
            _wait_until_writable(connection, served, deadline)
            failure = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if failure != 0:
            raise OSError(failure, f"{os.strerror(failure)}: {address[0]} port {address[1]} in the container")
        connection.settimeout(usual)
    except BaseException:
        connection.close()
        raise
    return connection


def _wait_until_writable(
    connection: socket.socket, served: Callable[[], Served], deadline: float | None
) -> None:
    poll = select.poll()
    poll.register(connection, select.POLLOUT)
    while True:
        now = time.monotonic()
        if deadline is not None and now >= deadline:
            raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
        slice_end = now + _SLICE_SECONDS
        if _sys.poll(poll, slice_end if deadline is None else min(slice_end, deadline)):
            return
        # Nobody answers for a container that has ended meanwhile.
        served()


def _connect_path(served: Callable[[], Served], path: str, deadline: float | None) -> socket.socket:
    pause = _SHORTEST
    while True:
        try:
            return socket.socket(fileno=served().connect(path))
        except BlockingIOError:
            # Its queue is full: somebody has to accept first.
            left = _LONGEST if deadline is None else deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT), path) from None
            time.sleep(min(pause, left))
            pause = min(2 * pause, _LONGEST)
