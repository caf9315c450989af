"""A container's files for another process: its requests go through the keeper to whoever serves them now.

So the same connection works while the container is created, running and stopped, and the keeper alone
decides when its writable layer is mounted.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

from pycontainer.errors import LaunchError, PycontainerError, SupervisorError
from pycontainer.keeping import control, forks
from pycontainer.supervisor.served import Served

_EPIPE = 32
_MAX_REQUEST = 16384
_MAX_FDS = 4


def relay(connection: socket.socket, served: Callable[[], Served]) -> None:
    """In the keeper: until the other end hangs up, or there is nobody to answer it."""
    with connection, suppress(OSError, PycontainerError):
        while True:
            message, fds, _ = control.receive_raw(connection, _MAX_REQUEST, _MAX_FDS)
            if not message:
                return
            try:
                answer, fd = served().forward(message, fds, connection.fileno())
            finally:
                for given in fds:
                    os.close(given)
            found = [fd] if fd >= 0 else []
            try:
                socket.send_fds(connection, [answer], found, socket.MSG_NOSIGNAL)
            finally:
                for given in found:
                    os.close(given)


class Proxied(Served):
    """In another process: the same as `Served`, through the keeper."""

    def __init__(self, connection: socket.socket, check: Callable[[], object]) -> None:
        """`check` is called when nobody answers any more, and may raise why."""
        self._lock = threading.Lock()
        self._serial = 0
        self._socket = connection
        self._check = check
        forks.remember(self)

    @property
    def ended(self) -> bool:
        if self._socket.fileno() < 0:
            return True
        try:
            return not self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def close(self) -> None:
        with self._lock:
            self._socket.close()

    def __del__(self) -> None:
        self._socket.close()

    def forget(self) -> None:
        """In a forked child: the parent's lock may be held for ever."""
        self._lock = threading.Lock()
        self._socket.close()

    def _give_up(self) -> None:
        self._socket.close()

    def _ended(self) -> LaunchError:
        self._socket.close()
        self._check()
        return SupervisorError("asking for a file of the container", errno=_EPIPE)
