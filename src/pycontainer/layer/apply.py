"""Unpacking a layer: a thread decompresses and hashes into a pipe, the supervisor untars the other end."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator

import attrs

from pycontainer import _sys, in_time
from pycontainer.blobs.failures import translate
from pycontainer.errors import NoSpace, UnsafeLayer
from pycontainer.layer.batch import work_in_batches
from pycontainer.layer.hashing import Hashing
from pycontainer.layer.limits import Limits
from pycontainer.oci.digest import Digest

# Large enough that both ends seldom wait for each other; the default is 64 KiB.
_PIPE = 1 << 20
# Pieces of this size are lent to the pipe, smaller ones copied.
_LENT = 64 << 10


@attrs.frozen
class Measured:
    """A tar stream's digest (the layer's diff_id) and length in bytes."""

    diff_id: Digest
    size: int


def measure(
    chunks: Iterator[bytes],
    limits: Limits,
    deliver: Callable[[bytes], None] | None = None,
    *,
    algorithm: str = "sha256",
) -> Measured:
    """Reads a tar stream to its end, handing each piece to `deliver`. UnsafeLayer or, where they are
    what is free, NoSpace beyond `limits`."""
    size = 0
    with Hashing(algorithm) as hashing:
        for chunk in chunks:
            in_time.check()
            size += len(chunk)
            if size > limits.max_stream:
                kind = NoSpace if limits.scarce else UnsafeLayer
                raise kind(f"the layer is longer than {limits.max_stream} bytes when decompressed")
            hashing.update(chunk)
            if deliver is not None:
                deliver(chunk)
    return Measured(hashing.digest, size)


def apply(
    chunks: Iterator[bytes],
    directory: str,
    limits: Limits,
    *,
    algorithm: str = "sha256",
    notes: str | None = None,
) -> Measured:
    """Untars the stream `chunks` into the existing, empty `directory`; `algorithm` is the digest's.

    `notes` is the path of a file to be made where the layers below have a say (`files.apply_layer`).
    Raises what the stream raises; UnsafeLayer, InvalidImage and NoSpace from the extraction. The
    directory is then in any state, and the caller removes it.
    """
    from pycontainer.supervisor import files

    feeder = _Feeder(chunks, limits, algorithm)
    try:
        files.apply_layer(
            feeder.reader,
            directory,
            max_bytes=limits.max_bytes,
            max_entries=limits.max_entries,
            scarce=limits.scarce,
            notes=notes,
        )
    except BaseException:
        feeder.stop()
        # A stream that broke off is the cause where the extraction only saw it end.
        if feeder.failure is not None:
            raise feeder.failure from None
        raise
    return feeder.finish()


# Who reads a pipe waits until all copies of the other end are closed, a forked child's included.
_open: set[int] = set()


def _close_after_fork() -> None:
    while _open:
        os.close(_open.pop())


os.register_at_fork(after_in_child=_close_after_fork)


def _close(fd: int) -> None:
    _open.discard(fd)
    os.close(fd)


class _Feeder:
    """The thread that writes a stream into a pipe; `reader` is the other end."""

    def __init__(self, chunks: Iterator[bytes], limits: Limits, algorithm: str) -> None:
        try:
            self.reader, self._writer = os.pipe()
        except OSError as error:
            raise translate(error, "unpacking a layer", "through a pipe") from error
        _open.update((self.reader, self._writer))
        # Refused where the user's share of pipe buffers is used up: slower, not wrong (pipe(7)).
        with contextlib.suppress(PermissionError):
            fcntl.fcntl(self._writer, fcntl.F_SETPIPE_SZ, _PIPE)
        self.failure: BaseException | None = None
        self._chunks = chunks
        self._limits = limits
        self._algorithm = algorithm
        self._measured: Measured | None = None
        self._stopped = False
        self._reading = True
        self._lent: deque[bytes] = deque()
        """What the pipe may still hold; until the end, for the last of them."""
        self._held = 0
        self._thread = threading.Thread(target=self._run, name="pycontainer-layer", daemon=True)
        self._thread.start()

    def finish(self) -> Measured:
        """Closes the pipe, waits for the stream's end (an archive may end before it) and says what it was."""
        _close(self.reader)
        try:
            in_time.join(self._thread)
        except BaseException:
            self._stopped = True
            self._thread.join()
            raise
        if self.failure is not None:
            raise self.failure
        assert self._measured is not None
        return self._measured

    def stop(self) -> None:
        """Closes the pipe and waits for the thread, which stops at its next write."""
        self._stopped = True
        _close(self.reader)
        self._thread.join()

    def _run(self) -> None:
        # The host program may have set SIGPIPE to kill it; blocked here, it goes with the thread.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})
        work_in_batches()
        try:
            self._measured = measure(self._chunks, self._limits, self._deliver, algorithm=self._algorithm)
        except _Stopped:
            pass
        except BaseException as error:
            self.failure = error
        finally:
            _close(self._writer)

    def _deliver(self, chunk: bytes) -> None:
        # What might change under its reader is copied, too.
        give: Callable[[int, memoryview], int] = os.write
        if len(chunk) >= _LENT and type(chunk) is bytes:
            self._lent.append(chunk)
            self._held += len(chunk)
            give = _sys.lend
        view = memoryview(chunk)
        while view and self._reading:
            try:
                view = view[give(self._writer, view) :]
            except BrokenPipeError:
                self._reading = False
        self._let_go()
        if self._stopped:
            raise _Stopped

    def _let_go(self) -> None:
        """Of what has been read: as much as the pipe takes has followed it."""
        while self._lent and self._held - len(self._lent[0]) >= _PIPE:
            self._held -= len(self._lent.popleft())


class _Stopped(Exception):
    """The extraction ended with an error; nobody wants the rest of the stream."""
