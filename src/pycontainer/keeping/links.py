"""Connections of this process to the keeper of one container."""

from __future__ import annotations

import errno
import socket
import threading
from collections import deque
from contextlib import suppress
from typing import Any

from pycontainer.errors import SupervisorError
from pycontainer.keeping import control, forks
from pycontainer.keeping.record import Record

_IDLE = 4
_TRIES = 10
"""More than there are free connections, each of which may have lost its other end."""


class NoKeeper(Exception):
    """Nobody keeps the container; what is written down says how it stands."""

    def __init__(self, record: Record) -> None:
        super().__init__(f"{record.id}: no keeper")
        self.record = record


class Links:
    """Each request has a connection for itself; those that are free are used again."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._idle: deque[socket.socket] = deque()
        forks.remember(self)

    def ask(
        self, verb: str, fields: dict[str, Any], deadline: float | None, *, again: bool
    ) -> tuple[dict[str, Any], list[int]]:
        """Raises NoKeeper, and as `control.ask`. Where the keeper dies meanwhile, one that may be asked
        `again` is: then nobody keeps the container, which is an answer, too."""
        for left in reversed(range(_TRIES)):
            with self._lock:
                used = self._idle.popleft() if self._idle else None
            link = used or self.fresh()
            try:
                return control.ask(link, verb, fields, deadline)
            except SupervisorError as error:
                if link.fileno() >= 0 or not left or not (again or error.errno == errno.EPIPE):
                    raise
            finally:
                self.keep(link)
        raise AssertionError

    def fresh(self) -> socket.socket:
        """A new connection; the caller closes it. Raises NoKeeper, and ContainerNotFound."""
        with suppress(FileNotFoundError):
            link = control.connect(self._path)
            if link is not None:
                return link
        raise NoKeeper(Record.read(self._path).without_keeper())

    def keep(self, link: socket.socket) -> None:
        """Takes a free connection back."""
        if link.fileno() < 0:
            return
        with self._lock:
            if len(self._idle) < _IDLE:
                self._idle.append(link)
                return
        link.close()

    def close(self) -> None:
        with self._lock:
            while self._idle:
                self._idle.pop().close()

    def forget(self) -> None:
        """In a forked child: they are the parent's, whose lock may be held for ever."""
        self._lock = threading.Lock()
        self.close()

    def __del__(self) -> None:
        for link in self._idle:
            link.close()
