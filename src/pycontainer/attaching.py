"""`Attachment`: taking part in a container's streams while it runs, without being part of it."""

from __future__ import annotations

import io
import os
import select
import socket
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, BinaryIO

from pycontainer import _sys
from pycontainer.errors import InvalidState
from pycontainer.logs.lines import Entry, Lines, Stream
from pycontainer.output import TerminalInput

if TYPE_CHECKING:
    from types import TracebackType

    from pycontainer.logs.journal import Journal
    from pycontainer.output import Output

_CHUNK = 64 * 1024
_MOST = 2**20
"""Bytes of each stream that wait for a slow reader, beside what the pipe takes."""


class Attachment:
    """A container's streams from now on, made by `Container.attach`. There may be several; closing one
    (or leaving it as a context manager) leaves the container as it is.

    Without a terminal `stdout` and `stderr` are files that end with the container, and `stdin` is
    `Container.stdin`, the same for all: None unless it was made with `stdin=PIPE`, and the program's end
    of file once it is closed. With a terminal `stdin` and `stdout` are the terminal, `stderr` is None, and
    `fileno` is a descriptor to read and write, for `pexpect.fdpexpect.fdspawn`, say; closing `stdin` types
    an end of file. Iterating gives the lines of all streams as they come; do that, or use the files.
    """

    def __init__(self, terminal: bool, journal: Journal, output: Callable[[], Output | None]) -> None:
        """`output` gives the streams of the program that runs, None where none does."""
        self._output = output
        self._journal = journal
        self._closed = False
        self.stderr: BinaryIO | None = None
        self._typed: TerminalInput | None = None
        self._own: tuple[int, object] | None = None
        """The terminal's descriptor and what it is."""
        if terminal:
            ours, theirs = socket.socketpair()
            fd = theirs.detach()
            self._own = (fd, _identity(fd))
            self._typed = TerminalInput(fd, closefd=False)
            self.stdout: io.FileIO | io.BufferedReader = io.FileIO(fd, "r", closefd=False)
            self._pump = _Pump(journal, {"stdout": ours.detach()}, lambda: _terminal(output()))
        else:
            out, out_end = os.pipe2(os.O_CLOEXEC)
            err, err_end = os.pipe2(os.O_CLOEXEC)
            self.stdout, self.stderr = _reader(out), _reader(err)
            self._pump = _Pump(journal, {"stdout": out_end, "stderr": err_end}, None)
        self._pump.start()

    @property
    def stdin(self) -> BinaryIO | None:
        """Where the program's input is written, unbuffered."""
        if self._typed is not None:
            return self._typed
        output = self._output()
        return None if output is None else output.stdin

    @property
    def lost(self) -> int:
        """Bytes that were not read in time: a reader that falls behind by more than a megabyte never makes
        the container wait."""
        return self._pump.lost

    def read(self, size: int = -1) -> bytes:
        """From `stdout`: what there is, up to `size` bytes; by default everything to the end."""
        if size < 0 or isinstance(self.stdout, io.FileIO):
            return self.stdout.read(size)
        return self.stdout.read1(size)

    def write(self, data: Any) -> int:
        """To `stdin`, all of it. Raises InvalidState where there is none."""
        stdin = self.stdin
        if stdin is None:
            raise InvalidState("write: the container has no input; make it with stdin=PIPE, or tty=True")
        view = memoryview(data).cast("B")
        size = len(view)
        while view:
            view = view[stdin.write(view) :]
        return size

    def fileno(self) -> int:
        """The descriptor of `stdout`; a terminal's is for reading and writing."""
        return self.stdout.fileno()

    def resize(self, rows: int, columns: int) -> None:
        """Give the terminal another size. Raises OSError where there is none."""
        output = self._output()
        if output is None:
            raise InvalidState("resize: the container does not run")
        output.resize(rows, columns)

    def close(self) -> None:
        """Detaches; twice does no harm."""
        if self._closed:
            return
        self._closed = True
        self._pump.stop()
        if self._typed is not None:
            # Not as the user's own closing, which ends the program's input.
            self._typed.hang_up()
        for file in (self.stdout, self.stderr):
            if file is not None:
                file.close()
        # Whoever was given the descriptor may have closed it, and its number may be another's now.
        if self._own is not None and _identity(self._own[0]) == self._own[1]:
            os.close(self._own[0])

    def __iter__(self) -> Iterator[bytes]:
        lines = Lines()
        names: dict[int, Stream] = {self.stdout.fileno(): "stdout"}
        if self.stderr is not None:
            names[self.stderr.fileno()] = "stderr"
        poll = select.poll()
        for fd in names:
            poll.register(fd, select.POLLIN)
        while names:
            for fd, _ in _sys.poll(poll, None):
                data = os.read(fd, _CHUNK)
                if not data:
                    poll.unregister(fd)
                    del names[fd]
                    continue
                for line in lines.feed([Entry(0.0, names[fd], data)]):
                    yield line.data
        for line in lines.rest():
            yield line.data

    def __enter__(self) -> Attachment:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        with suppress(AttributeError):
            self.close()

    def __repr__(self) -> str:
        kind = "streams" if self._typed is None else "terminal"
        return f"<Attachment {kind}{' closed' if self._closed else ''}>"


def _identity(fd: int) -> object:
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _reader(fd: int) -> io.BufferedReader:
    return io.BufferedReader(io.FileIO(fd, "r"))


def _terminal(output: Output | None) -> int | None:
    return None if output is None else output.terminal()


class _Pump:
    """Moves what is written to the pipes (or the socket) of one attachment, and what is typed to the
    terminal, in a thread of its own."""

    def __init__(
        self, journal: Journal, ends: dict[Stream, int], terminal: Callable[[], int | None] | None
    ) -> None:
        """Owns `ends`. `terminal` gives a descriptor of the program's terminal, a new one each time."""
        self._journal = journal
        self._ends = ends
        self._terminal = terminal
        self._cursor = journal.log.end()
        self._waiting: dict[Stream, bytearray] = {name: bytearray() for name in ends}
        self._typed = bytearray()
        self._master: int | None = None
        self._stopped = False
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._lock = threading.Lock()
        self.lost = 0
        for fd in ends.values():
            os.set_blocking(fd, False)
        _pumps.add(self)

    def start(self) -> None:
        self._journal.listen(self._ring)
        threading.Thread(target=self._run, name="pycontainer-attach", daemon=True).start()

    def stop(self) -> None:
        self._stopped = True
        self._ring()

    def close(self) -> None:
        """Closes everything of its own."""
        while self._ends:
            os.close(self._ends.popitem()[1])
        self._drop_master()
        with self._lock:
            wake, self._wake = self._wake, -1
        if wake >= 0:
            os.close(wake)

    def _ring(self) -> None:
        with self._lock:
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    def _run(self) -> None:
        try:
            while self._ends and not self._stopped:
                more = self._journal.more()
                self._take()
                if not more:
                    self._end()
                if self._ends:
                    self._move()
        finally:
            self._journal.leave(self._ring)
            self.close()

    def _take(self) -> None:
        """What was written since; there is room for a megabyte of each stream."""
        entries, self._cursor, lost = self._journal.log.read(self._cursor)
        self.lost += lost
        for entry in entries:
            waiting = self._waiting.get(entry.stream)
            if waiting is None or entry.stream not in self._ends:
                continue
            if len(waiting) + len(entry.data) > _MOST:
                self.lost += len(entry.data)
            else:
                waiting += entry.data

    def _end(self) -> None:
        """Nothing comes any more: closes what has all been moved, however slow another reader is."""
        for name, waiting in self._waiting.items():
            if not waiting and name in self._ends:
                os.close(self._ends.pop(name))

    def _move(self) -> None:
        """Waits until something can be moved, and moves it."""
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        for name, fd in self._ends.items():
            typing = self._terminal is not None and len(self._typed) < _CHUNK
            poll.register(
                fd, (select.POLLOUT if self._waiting[name] else 0) | (select.POLLIN if typing else 0)
            )
        # Opened anew each time: after a restart it is another one.
        self._master = self._terminal() if self._typed and self._terminal is not None else None
        if self._master is not None:
            poll.register(self._master, select.POLLOUT)
        ready = dict(poll.poll())
        if self._wake in ready:
            with suppress(BlockingIOError):
                os.eventfd_read(self._wake)
        if self._master in ready:
            self._type()
        self._drop_master()
        for name, fd in list(self._ends.items()):
            if fd in ready:
                self._serve(name, fd, ready[fd])

    def _serve(self, name: Stream, fd: int, events: int) -> None:
        try:
            if events & select.POLLIN:
                self._typed += os.read(fd, _CHUNK)
            if events & select.POLLOUT:
                del self._waiting[name][: os.write(fd, self._waiting[name][:_CHUNK])]
        except (BrokenPipeError, ConnectionResetError):
            events |= select.POLLERR
        except BlockingIOError:
            return
        if events & (select.POLLERR | select.POLLHUP):
            # Its reader has closed it.
            self._waiting[name].clear()
            os.close(self._ends.pop(name))

    def _type(self) -> None:
        assert self._master is not None
        try:
            del self._typed[: os.write(self._master, self._typed[:_CHUNK])]
        except BlockingIOError:
            return
        except OSError:
            # That terminal's last user is gone.
            self._typed.clear()

    def _drop_master(self) -> None:
        master, self._master = self._master, None
        if master is not None:
            os.close(master)


_pumps: weakref.WeakSet[_Pump] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    """The threads are the parent's; a copy of a pipe that stays open here would keep its reader from the
    end."""
    for pump in list(_pumps):
        pump._lock = threading.Lock()
        pump.close()
    _pumps.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
