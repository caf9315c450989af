"""What a started container writes: taken in by one thread for all of them, the newest kept.

So a container is never held up by a pipe that nobody reads, and memory stays bounded.
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
import select
import struct
import termios
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pycontainer.streams import Sink, Streams, type_end

if TYPE_CHECKING:
    from pycontainer.logs.journal import Journal
    from pycontainer.logs.lines import Stream

_KEEP = 2**20
_CHUNK = 64 * 1024
_FINISH_SECONDS = 10.0


class Ring:
    """The last megabyte that was written."""

    def __init__(self) -> None:
        self._chunks: deque[bytes] = deque()
        self._size = 0

    def append(self, data: bytes) -> None:
        self._chunks.append(data)
        self._size += len(data)
        while self._size - len(self._chunks[0]) >= _KEEP:
            self._size -= len(self._chunks.popleft())

    def value(self) -> bytes:
        return b"".join(tuple(self._chunks))[-_KEEP:]


class Taking:
    """Descriptors that the thread reads to their end, and where each one's bytes go."""

    def __init__(
        self, sinks: dict[int, Sink], journal: Journal | None = None, *, terminal: int | None = None
    ) -> None:
        """`journal` is told when all of them are at their end, and may ask to wait with reading. All are
        closed there but `terminal`, which would hang up a program that is about to end."""
        self._sinks = sinks
        self._terminal = terminal
        self._journal = journal
        self.held: list[int] = []
        """Those that are not read until there is room for what they give."""
        self._finished = threading.Event()
        if not sinks:
            self._finished.set()
            return
        for fd in sinks:
            os.set_blocking(fd, False)
        if journal is not None and journal.forward is not None:
            journal.forward.room = self._go_on
        try:
            _drain.add(self, list(sinks))
        except BaseException:
            # Ctrl-C may come when the thread has them already, which closes them at their end.
            if not _drain.has(self):
                for fd in sinks:
                    os.close(fd)
                self._finished.set()
            raise

    def __contains__(self, fd: int | None) -> bool:
        return fd in self._sinks

    @property
    def finished(self) -> bool:
        return self._finished.is_set()

    def finish(self) -> None:
        """Waits until everything is in: the writers are dead, so the pipes are at their end."""
        forward = None if self._journal is None else self._journal.forward
        if forward is not None:
            forward.lift(True)
        self._finished.wait(_FINISH_SECONDS)
        if forward is not None:
            forward.flush()

    @property
    def full(self) -> bool:
        """Whether reading has to wait."""
        return self._journal is not None and self._journal.full

    def _go_on(self) -> None:
        _drain.go_on(self)

    def read(self, fd: int) -> bool:
        """Takes in what there is; False at the end."""
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return True
        except OSError as error:
            # A terminal whose last user is gone.
            if error.errno != errno.EIO:
                raise
            data = b""
        if data:
            self._sinks[fd](data)
        return bool(data)

    def ended(self, fd: int) -> None:
        del self._sinks[fd]
        if fd != self._terminal:
            os.close(fd)
        if not self._sinks:
            # Whoever waits for the end finds the last line told on, too.
            if self._journal is not None:
                self._journal.at_end()
            self._finished.set()
            if self._journal is not None:
                self._journal.poke()


class Output:
    """The streams of one started container."""

    def __init__(self, streams: Streams, journal: Journal | None = None) -> None:
        """What comes is kept here, and goes to `journal`, too."""
        self._streams = streams
        self._journal = journal
        self._rings = {name: Ring() for name in ("stdout", "stderr")}
        self._taking: Taking | None = None
        self._master: int | None = None
        self.stdin: io.FileIO | None = None
        _outputs.add(self)

    def drain(self) -> None:
        """Begins to take in what is written; the container has been started."""
        streams = self._streams
        if streams.console is not None:
            self._master = streams.take_master()
        names: Iterator[Stream] = iter(("stdout", "stderr"))
        sinks: dict[int, Sink] = {fd: self._sink(next(names)) for fd in streams.readers}
        streams.readers.clear()
        if streams.stdin is not None:
            own = os.dup(streams.stdin) if streams.stdin == self._master else streams.stdin
            os.set_blocking(own, True)
            self.stdin = io.FileIO(own, "w") if self._master is None else TerminalInput(own)
            streams.stdin = None
        self._taking = Taking(sinks, self._journal, terminal=self._master)

    def _sink(self, name: Stream) -> Sink:
        keep = self._rings[name].append
        if self._journal is None:
            return keep
        tell = self._journal.write

        def take(data: bytes) -> None:
            keep(data)
            tell(name, data)

        return take

    @property
    def finished(self) -> bool:
        """Whether everything is in."""
        return self._taking is None or self._taking.finished

    def tail(self, name: str) -> bytes:
        """The newest megabyte of "stdout" or "stderr"."""
        return self._rings[name].value()

    def finish(self) -> None:
        """Waits until everything that the dead container wrote is in."""
        if self._taking is not None:
            self._taking.finish()

    def terminal(self) -> int | None:
        """A descriptor of the terminal, the caller's to close; None without one, and after its end."""
        if self._master is None or self._taking is None:
            return None
        return _drain.duplicate(self._taking, self._master)

    def resize(self, rows: int, columns: int) -> None:
        """ioctl_tty(2), TIOCSWINSZ. Raises OSError for a container without a terminal."""
        if self._master is None or self._taking is None or self._master not in self._taking:
            raise OSError(errno.ENOTTY, "the container has no terminal")
        set_size(self._master, rows, columns)

    def close(self) -> None:
        if self.stdin is not None:
            self.stdin.close()
            self.stdin = None
        self.finish()
        self._streams.close()
        master, self._master = self._master, None
        if master is not None:
            os.close(master)


class TerminalInput(io.FileIO):
    """What is written is typed into a terminal, and closing it types an end of file."""

    def __init__(self, fd: int, *, closefd: bool = True) -> None:
        super().__init__(fd, "w", closefd=closefd)
        self._in_line = False

    def write(self, data: Any) -> int:
        """As many bytes as it takes now."""
        view = memoryview(data).cast("B")
        written = super().write(view)
        if written:
            self._in_line = view[written - 1] != 0x0A
        return written

    def close(self) -> None:
        """Twice does no harm."""
        if not self.closed:
            try:
                type_end(self.fileno(), in_line=self._in_line)
            finally:
                super().close()

    def hang_up(self) -> None:
        """Closes it without an end of file."""
        super().close()


def set_size(terminal: int, rows: int, columns: int) -> None:
    """ioctl_tty(2), TIOCSWINSZ."""
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


class _Drain:
    """The one thread; it lives while there is something to take in."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._outputs: dict[int, Taking] = {}
        self._epoll: select.epoll | None = None

    def add(self, output: Taking, fds: list[int]) -> None:
        with self._lock:
            before = self._epoll
            try:
                self._register(output, fds)
                if before is None:
                    thread = threading.Thread(target=self._run, args=(self._epoll,), daemon=True)
                    thread.name = "pycontainer-output"
                    thread.start()
            except BaseException:
                # Ctrl-C, say, which may come after the thread's start, too: that sees then that it has
                # nothing to do.
                for fd in fds:
                    self._outputs.pop(fd, None)
                    if before is not None:
                        with suppress(OSError):
                            before.unregister(fd)
                if before is None and self._epoll is not None:
                    self._epoll.close()
                self._epoll = before
                raise

    def _register(self, output: Taking, fds: list[int]) -> None:
        if self._epoll is None:
            self._epoll = select.epoll()
        for fd in fds:
            self._outputs[fd] = output
            self._epoll.register(fd, select.EPOLLIN)

    def has(self, output: Taking) -> bool:
        with self._lock:
            return output in self._outputs.values()

    def duplicate(self, output: Taking, fd: int) -> int | None:
        """A copy of a descriptor that is still read for `output`: here, nobody closes it meanwhile."""
        with self._lock:
            return os.dup(fd) if self._outputs.get(fd) is output else None

    def _hold(self, output: Taking, fd: int) -> None:
        with self._lock:
            assert self._epoll is not None
            self._epoll.unregister(fd)
            output.held.append(fd)
        if not output.full:
            self.go_on(output)

    def go_on(self, output: Taking) -> None:
        """Reads on where `_hold` left off."""
        with self._lock:
            while output.held:
                assert self._epoll is not None
                self._epoll.register(output.held.pop(), select.EPOLLIN)

    def _run(self, epoll: select.epoll) -> None:
        with self._lock:
            if self._epoll is not epoll:
                return
        with epoll:
            while True:
                for fd, _ in epoll.poll():
                    output = self._outputs[fd]
                    if not output.read(fd):
                        with self._lock:
                            epoll.unregister(fd)
                            del self._outputs[fd]
                            output.ended(fd)
                    elif output.full:
                        self._hold(output, fd)
                with self._lock:
                    if not self._outputs:
                        self._epoll = None
                        return


_drain = _Drain()
_outputs: weakref.WeakSet[Output] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    """The thread is the parent's, and so are the containers: a copy of a program's input that stays
    open in a child would keep the program from its end of file."""
    global _drain
    _drain = _Drain()
    for output in list(_outputs):
        if isinstance(output.stdin, TerminalInput):
            output.stdin.hang_up()
        elif output.stdin is not None:
            output.stdin.close()
    _outputs.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
