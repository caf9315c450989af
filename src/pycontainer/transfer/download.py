"""One blob on its way: a thread takes it from the network onto disk while somebody reads it from memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing

from pycontainer.blobs.staging import StagedFile
from pycontainer.layer.batch import work_in_batches
from pycontainer.transfer.belt import Belt
from pycontainer.transfer.crew import Cancelled, block_sigpipe

_LAST = 0.05  # seconds that a thread has to end; one that waits for a connection that was cut needs less


class Download:
    """Reads `pieces()`, a verified stream, into `staged`; `received` is told how many bytes are there.

    `chunks` gives the same pieces; it ends only when all of them are there, verified and written.
    """

    def __init__(
        self,
        pieces: Callable[[], Generator[bytes, None, None]],
        staged: StagedFile,
        received: Callable[[int], None],
    ) -> None:
        self._pieces = pieces
        self._staged = staged
        self._received = received
        self._belt = Belt()
        self._writing = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="pycontainer-download", daemon=True)
        self._thread.start()

    def chunks(self) -> Iterator[bytes]:
        """The pieces. Raises what reading and writing them raise."""
        return iter(self._belt)

    def cancel(self) -> None:
        """Ends it, without waiting for that."""
        self._belt.cancel()

    def close(self) -> None:
        """Ends it, and waits for the thread; what it writes to is nobody's any more then.

        A thread that is still connecting somewhere is left to its time-out.
        """
        self._belt.cancel()
        self._thread.join(_LAST)
        with self._writing:
            self._closed = True

    def _run(self) -> None:
        block_sigpipe()
        work_in_batches()
        try:
            done = 0
            with closing(self._pieces()) as pieces:
                for piece in pieces:
                    self._write(piece)
                    done += len(piece)
                    self._belt.put(piece)
                    self._received(done)
        except BaseException as error:
            self._belt.end(error)
        else:
            self._belt.end()

    def _write(self, piece: bytes) -> None:
        with self._writing:
            if self._closed:
                raise Cancelled
            self._staged.write(piece)
