"""Hashing a long stream beside the thread that makes it: decompression and hash take two cores, not turns."""

from __future__ import annotations

import hashlib
import threading
from queue import SimpleQueue
from types import TracebackType

from pycontainer.oci.digest import Digest

# Small layers come several at once, and keep all cores busy without this.
_ALONE = 16 << 20
# Pieces that wait to be hashed: memory stays flat, and they are still in a processor's cache.
_AHEAD = 4


class Hashing:
    """A digest of all that `update` gets; `digest` is there after the `with` block."""

    def __init__(self, algorithm: str) -> None:
        self._hash = hashlib.new(algorithm)
        self._seen = 0
        self._thread: threading.Thread | None = None
        # Both are written in C: neither a lock nor a wait in Python for each piece.
        self._pieces: SimpleQueue[bytes | None] = SimpleQueue()
        self._room: SimpleQueue[None] = SimpleQueue()

    @property
    def digest(self) -> Digest:
        return Digest.from_hash(self._hash)

    def update(self, piece: bytes) -> None:
        """Appends `piece`; waits while too many others are to be hashed before it."""
        if self._thread is None:
            if self._seen < _ALONE:
                self._seen += len(piece)
                self._hash.update(piece)
                return
            self._start()
        self._room.get()
        self._pieces.put(piece)

    def _start(self) -> None:
        for _ in range(_AHEAD):
            self._room.put(None)
        thread = threading.Thread(target=self._run, name="pycontainer-hash", daemon=True)
        thread.start()
        self._thread = thread

    def _run(self) -> None:
        while (piece := self._pieces.get()) is not None:
            self._hash.update(piece)
            self._room.put(None)

    def __enter__(self) -> Hashing:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pieces.put(None)
        if self._thread is not None:
            self._thread.join()
