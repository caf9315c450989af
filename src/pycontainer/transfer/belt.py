"""A bounded way for pieces of data from one thread to another, with an end that may be a failure."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator

from pycontainer.transfer.crew import Cancelled

# Bytes under way: enough that neither side waits for the other's short breaks.
_ROOM = 4 << 20


class Belt:
    """One thread puts pieces on and calls `end`, another one iterates; anybody may cancel."""

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._ended = False
        self._failure: BaseException | None = None
        self._changed = threading.Condition()

    def put(self, piece: bytes) -> None:
        """Waits for room. Raises Cancelled."""
        with self._changed:
            while self._size >= _ROOM and self._failure is None:
                self._changed.wait()
            if self._failure is not None:
                raise Cancelled
            self._pieces.append(piece)
            self._size += len(piece)
            self._changed.notify_all()

    def end(self, failure: BaseException | None = None) -> None:
        """Nothing more comes; the reader meets `failure` after all that came before it."""
        with self._changed:
            self._ended = True
            self._failure = self._failure or failure
            self._changed.notify_all()

    def cancel(self) -> None:
        """Both sides meet Cancelled at once; nothing happens where all has been put on already."""
        with self._changed:
            if not self._ended:
                self._pieces.clear()
                self._failure = self._failure or Cancelled()
                self._changed.notify_all()

    def __iter__(self) -> Iterator[bytes]:
        while True:
            with self._changed:
                while not self._pieces and not self._ended and self._failure is None:
                    self._changed.wait()
                if not self._pieces:
                    if self._failure is not None:
                        raise self._failure
                    return
                piece = self._pieces.popleft()
                self._size -= len(piece)
                self._changed.notify_all()
            yield piece
