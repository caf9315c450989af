"""What a persistent container wrote, for processes that do not keep it: its log's files, and word of news."""

from __future__ import annotations

import os
import socket
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from pycontainer.keeping import control, forks
from pycontainer.logs.files import LogFiles
from pycontainer.logs.journal import Journal
from pycontainer.logs.lines import Stream

DIRECTORY = "log"

_KEEP = 2**20


def tails(path: str) -> tuple[bytes, bytes]:
    """The last megabyte of each stream, of the container in the directory `path`. Raises StoreError."""
    found: dict[Stream, deque[bytes]] = {"stdout": deque(), "stderr": deque()}
    sizes: dict[Stream, int] = {"stdout": 0, "stderr": 0}
    for entry in LogFiles(os.path.join(path, DIRECTORY)).kept()[0]:
        chunks = found[entry.stream]
        chunks.append(entry.data)
        sizes[entry.stream] += len(entry.data)
        while sizes[entry.stream] - len(chunks[0]) >= _KEEP:
            sizes[entry.stream] -= len(chunks.popleft())
    return b"".join(found["stdout"])[-_KEEP:], b"".join(found["stderr"])[-_KEEP:]


class _ReadOnly(LogFiles):
    """The keeper writes it."""

    def append(self, time: float, stream: Stream, data: bytes) -> None:
        raise NotImplementedError

    def remove(self) -> None:
        raise NotImplementedError


class WatchedJournal(Journal):
    """Its listeners are told by the keeper, over a connection that is there while there are any."""

    def __init__(
        self, path: str, more: Callable[[], bool], watch: Callable[[], socket.socket | None]
    ) -> None:
        """`watch` gives a connection on which the keeper tells of news; None without a keeper."""
        super().__init__(_ReadOnly(os.path.join(path, DIRECTORY)), more)
        self._watch = watch
        self._connecting = threading.Lock()
        self._connection: socket.socket | None = None
        forks.remember(self)

    def listen(self, call: Callable[[], None]) -> None:
        super().listen(call)
        with self._connecting:
            if self._connection is None:
                self._connection = connection = self._watch()
                if connection is not None:
                    thread = threading.Thread(target=self._hear, args=(connection,), daemon=True)
                    thread.name = "pycontainer-watch"
                    thread.start()

    def leave(self, call: Callable[[], None]) -> None:
        super().leave(call)
        with self._connecting:
            if not self._listeners and self._connection is not None:
                connection, self._connection = self._connection, None
                # Its thread closes it; the keeper may have hung up before.
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def forget(self) -> None:
        """In a forked child: the thread is the parent's."""
        self._lock, self._connecting = threading.Lock(), threading.Lock()
        self._listeners = ()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _hear(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while control.receive(connection) is not None:
                self.poke()
        with self._connecting:
            if self._connection is connection:
                self._connection = None
        # Whether there is more to come is another answer now.
        self.poke()
