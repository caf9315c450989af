"""Hashing a long stream beside the thread that makes it: decompression and hash take two cores, not turns."""

from __future__ import annotations

import hashlib
import os
import threading
from queue import SimpleQueue
from types import TracebackType

from pycontainer.layer.batch import work_in_batches
from pycontainer.oci.digest import Digest

# Bytes for which a thread is not worth its while.
_FEW = 1 << 20
# The same while others are hashed: small layers come several at once, and keep all cores busy without this.
_FEW_AMONG_OTHERS = 16 << 20
# Pieces (of 256 KiB) that wait to be hashed: memory stays flat, and a hash that is behind for a moment stops
# nobody.
_AHEAD = 16

_under_way: set[Hashing] = set()
os.register_at_fork(after_in_child=_under_way.clear)


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
            if self._seen < (_FEW if len(_under_way) == 1 else _FEW_AMONG_OTHERS):
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
        work_in_batches()
        while (piece := self._pieces.get()) is not None:
            self._hash.update(piece)
            self._room.put(None)

    def __enter__(self) -> Hashing:
        _under_way.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _under_way.discard(self)
        self._pieces.put(None)
        if self._thread is not None:
            self._thread.join()
