"""The standard streams of a program: where they come from, and moving their bytes without deadlock.

The words are those of `subprocess`: PIPE, STDOUT, DEVNULL, a descriptor, a file, None for this
process's own. Two differences keep a container from its host's terminal: a stream that would be
that terminal goes through a pipe and is written on from here, and stdin None is empty.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import termios
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import chain
from subprocess import DEVNULL as DEVNULL
from subprocess import PIPE as PIPE
from subprocess import STDOUT as STDOUT
from typing import Any

from pycontainer import _sys
from pycontainer.errors import InvalidOption
from pycontainer.supervisor.client import Job

_CHUNK = 256 * 1024
_KILLED_SECONDS = 30.0
"""How long the end of a killed job may take; a kernel that tears down a huge tree is slow."""

_CONTROL_D = b"\x04"
_DISABLED = b"\0"
_MOST_ENDS = 64
"""So often an end of file is typed: a program that only repeats what is typed would go on for ever."""

Sink = Callable[[bytes], object]


class Streams:
    """The descriptors of one start: those that the program gets, and our ends of the pipes."""

    __slots__ = (
        "_owned",
        "_terminal_input",
        "_terminal_sink",
        "capture",
        "child",
        "console",
        "console_child",
        "master",
        "readers",
        "stdin",
        "tty",
        "typed",
    )

    def __init__(self, *, tty: bool) -> None:
        self.tty = tty
        self.child: list[int] = []
        self._owned: list[int] = []
        self.stdin: int | None = None
        """Our end of the program's input."""
        self.typed: int | None = None
        """A terminal of the host's, whose input is passed on; the caller's."""
        self.readers: dict[int, Sink] = {}
        """Our ends of its outputs, and where their bytes go."""
        self.capture: dict[str, list[bytes]] = {}
        self.console: socket.socket | None = None
        """The terminal arrives here."""
        self.master: int | None = None

    def open(self, stdin: Any, stdout: Any, stderr: Any, *, pumped: bool = False) -> None:
        """Opens everything; on failure nothing stays open. `pumped` says that a `Pump` moves the bytes."""
        try:
            if self.tty:
                self._open_terminal(stdin, stdout, stderr, pumped)
                return
            self.child.append(self._input(stdin, pumped))
            self.child.append(self._output("stdout", stdout))
            self.child.append(self.child[1] if stderr == STDOUT else self._output("stderr", stderr))
        except BaseException:
            self.close_child()
            self.close()
            raise

    def close_child(self) -> None:
        """Closes the program's ends here, so that its exit is an end of file for us."""
        while self._owned:
            os.close(self._owned.pop())

    def close(self) -> None:
        """Closes our ends."""
        self.close_stdin()
        while self.readers:
            os.close(self.readers.popitem()[0])
        if self.console is not None:
            self.console.close()
            self.console = None
        self.master = None

    def __del__(self) -> None:
        """After an exception out of a signal's handler, which may come anywhere, `__init__` too."""
        with suppress(AttributeError):
            self.close_child()
            self.close()

    def close_stdin(self) -> None:
        fd, self.stdin = self.stdin, None
        if fd is not None and fd != self.master:
            os.close(fd)

    def take_back(self, name: str, fd: int, read_ahead: bytes) -> int:
        """Makes a copy of `fd` the reader of an output whose beginning is there already."""
        parts = self.capture.setdefault(name, [])
        parts.append(read_ahead)
        own = self._copy(fd)
        self.readers[own] = parts.append
        os.set_blocking(own, False)
        return own

    def take_back_stdin(self, fd: int) -> None:
        """Makes a copy of `fd` our end of the program's input."""
        self.stdin = self._copy(fd)

    def drop(self, fd: int) -> None:
        """An output is at its end."""
        del self.readers[fd]
        if fd == self.master:
            self.master = None
            if self.stdin == fd:
                self.stdin = None
        os.close(fd)

    def take_master(self) -> int | None:
        """Takes the terminal in from the container's set-up, once it is there."""
        assert self.console is not None
        received = _sys.Held()
        try:
            came = _sys.receive_fd(self.console.fileno(), received)
        except BlockingIOError:
            return None
        console, self.console = self.console, None
        console.close()
        if came is None:
            return None
        master = self._copy(received.fd)
        self.master = master
        self.readers[master] = self._terminal_sink
        os.set_blocking(master, False)
        if self.stdin is None and self._terminal_input:
            self.stdin = master
        return master

    def _open_terminal(self, stdin: Any, stdout: Any, stderr: Any, pumped: bool) -> None:
        if stderr not in (None, STDOUT, PIPE, DEVNULL):
            raise InvalidOption("stderr with tty=True: a terminal has one output, which is stdout")
        if stdin not in (None, PIPE, DEVNULL):
            raise InvalidOption("stdin with tty=True: write to the terminal instead (stdin=PIPE)")
        # What is empty is at its end. Where nobody pumps, the terminal is the caller's to type into.
        self._terminal_input = stdin == PIPE or pumped
        self._terminal_sink = self._sink_for("stdout", stdout)
        null = self._null(os.O_RDWR)
        self.child += [null, null, null]
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.console = ours
        self.console.setblocking(False)
        self._owned.append(theirs.detach())
        self.console_child = self._owned[-1]

    def _input(self, source: Any, pumped: bool) -> int:
        if source is None or source == DEVNULL:
            return self._null(os.O_RDONLY)
        if source != PIPE:
            fd = _fileno("stdin", source)
            if not os.isatty(fd):
                return fd
            if not pumped:
                raise InvalidOption(
                    "stdin: a terminal of the host's is not handed over; pass on what is typed (stdin=PIPE), "
                    "or give the program one of its own (tty=True)"
                )
            self.typed = fd
        self._pipe()
        self.stdin = self._owned.pop()
        return self._owned[-1]

    def _output(self, name: str, target: Any) -> int:
        if target == DEVNULL:
            return self._null(os.O_WRONLY)
        if target is None:
            fd = 1 if name == "stdout" else 2
            if is_standard(fd) and not os.isatty(fd):
                return fd
        elif target != PIPE:
            fd = _fileno(name, target)
            if not os.isatty(fd):
                return fd
        sink = self._sink_for(name, target)
        self._pipe()
        self.readers[self._owned.pop(-2)] = sink
        return self._owned[-1]

    def _sink_for(self, name: str, target: Any) -> Sink:
        if target == PIPE:
            return self.capture.setdefault(name, []).append
        if target == DEVNULL:
            return len
        if target is None:
            fd = 1 if name == "stdout" else 2
            if not is_standard(fd):
                return len
        else:
            fd = _fileno(name, target)
        return _Relay(fd)

    # One call into C makes descriptors and keeps them: a signal's handler that raises (Ctrl-C) comes
    # before or after, and who waits for the interpreter's lock meanwhile is hit just there.

    def _null(self, flags: int) -> int:
        self._owned.extend(map(os.open, (os.devnull,), (flags | os.O_CLOEXEC,)))
        return self._owned[-1]

    def _pipe(self) -> None:
        """The end to read from and the end to write to become the last two that are owned."""
        self._owned.extend(chain.from_iterable(map(os.pipe2, (os.O_CLOEXEC,))))

    def _copy(self, fd: int) -> int:
        self._owned.extend(map(os.dup, (fd,)))
        return self._owned.pop()


class _Relay:
    """Writes on what a program wrote, to a descriptor that the program shall not hold itself."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __call__(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:
                poll = select.poll()
                poll.register(self._fd, select.POLLOUT)
                _sys.poll(poll, None)


def is_standard(fd: int) -> bool:
    """Whether this standard stream is there. A service may have closed its own; what has taken
    the number since (a socket of ours, say) is closed on exec, which a standard stream is not."""
    return is_open(fd) and os.get_inheritable(fd)


def is_open(fd: int) -> bool:
    """Whether there is such a descriptor."""
    try:
        os.fstat(fd)
    except OSError as error:
        if error.errno == errno.EBADF:
            return False
        raise
    return True


def _fileno(name: str, source: Any) -> int:
    """The descriptor behind an int or a file, as `subprocess` takes it."""
    if isinstance(source, bool):
        # True is 1 to Python, and would mean this process's standard output.
        raise InvalidOption(f"{name}={source!r}: must be PIPE, DEVNULL, a descriptor or an open file")
    if isinstance(source, int):
        fd = source
    else:
        try:
            fd = source.fileno()
        except (AttributeError, OSError, ValueError) as error:
            raise InvalidOption(f"{name}={source!r}: is neither a descriptor nor an open file") from error
    if fd < 0 or not is_open(fd):
        raise InvalidOption(f"{name}={source!r}: is not an open descriptor")
    return fd


class Pump:
    """Moves the bytes of one job's streams until its end, or until time runs out.

    It can be run again where it stopped (`communicate()` after a time-out); one thread at a time.
    """

    def __init__(self, job: Job, streams: Streams, data: bytes = b"", *, alone: bool = False) -> None:
        """`alone`: with the job all writers of its streams are dead, unless a process that this one
        forked during the start holds a copy."""
        self._job = job
        self._alone = alone
        self._streams = streams
        self._input = memoryview(data)
        self._in_line = not data.endswith(b"\n") and data != b""
        self._ends = 0
        self._hung_up = False
        """Nobody had the terminal open, but the program may not have ended yet."""
        self._offered = False
        self._poll = select.poll()
        # Others may take the end in meanwhile.
        self._channel = job.held
        if self._channel.fd >= 0:
            self._poll.register(self._channel.fd, select.POLLIN)
        for fd in streams.readers:
            self._poll.register(fd, select.POLLIN)
        if streams.console is not None:
            self._poll.register(streams.console.fileno(), select.POLLIN)
        if streams.typed is not None:
            self._poll.register(streams.typed, select.POLLIN)
        elif streams.stdin is not None:
            self._offer_input()

    def run(self, deadline: float | None) -> bool:
        """Pumps until the job is over and all its output is in; False when time ran out first."""
        late = False
        while self._job.final is None or self._streams.readers or self._streams.console is not None:
            if late:
                return False
            # Who comes again and again with no time gets on, too.
            late = deadline is not None and time.monotonic() >= deadline
            over = self._alone and self._job.final is not None
            ready = self._poll.poll(0) if over else _sys.poll(self._poll, deadline)
            for fd, events in ready:
                self._handle(fd, events)
            if over and not ready:
                break
        self._channel = _sys.Held()
        return True

    def kill(self) -> None:
        """Ends the job with everything that it started, and waits for that."""
        self._job.end()
        self._streams.close_stdin()
        if not self._job.lost:
            self.run(time.monotonic() + _KILLED_SECONDS)

    def _handle(self, fd: int, events: int) -> None:
        streams = self._streams
        if fd == self._channel.fd:
            if self._job.take() is not None:
                self._poll.unregister(fd)
                self._channel = _sys.Held()
                self._drop_console()
                if self._hung_up and self._streams.master is not None:
                    self._poll.register(self._streams.master, select.POLLIN)
        elif fd == streams.stdin and events & (select.POLLOUT | select.POLLERR) and self._input:
            self._feed(fd)
            if fd in streams.readers and events & (select.POLLIN | select.POLLHUP):
                self._read(fd)
        elif streams.console is not None and fd == streams.console.fileno():
            self._poll.unregister(fd)
            master = streams.take_master()
            if master is not None:
                self._poll.register(master, select.POLLIN)
                if streams.stdin == master:
                    self._offer_input()
        elif fd in streams.readers:
            self._read(fd)
        elif fd == streams.stdin:
            self._end_input(fd)
        elif fd == streams.typed:
            self._take_typed(fd)

    def _drop_console(self) -> None:
        """A container that failed before it had a terminal will not send one."""
        if self._streams.console is not None:
            self._poll.unregister(self._streams.console.fileno())
            master = self._streams.take_master()
            if master is not None:
                self._poll.register(master, select.POLLIN)
            elif self._streams.console is not None:
                self._streams.console.close()
                self._streams.console = None

    def _read(self, fd: int) -> None:
        data = _read_some(fd)
        if data is None:
            return
        if data:
            self._streams.readers[fd](data)
            if 0 < self._ends < _MOST_ENDS:
                self._type_end(fd)
            return
        self._poll.unregister(fd)
        if fd == self._streams.master and self._job.final is None and not self._job.lost:
            # Closed now, it would send SIGHUP to a program that is about to end.
            self._hung_up = True
            return
        self._streams.drop(fd)

    def _take_typed(self, terminal: int) -> None:
        """A line at a time, so that most of what the program does not want stays for others."""
        data = _read_some(terminal)
        if data is None:
            return
        self._poll.unregister(terminal)
        if not data:
            self._streams.typed = None
        if self._streams.stdin is not None:
            self._input = memoryview(data)
            self._offer_input()

    def _offer_input(self) -> None:
        fd = self._streams.stdin
        assert fd is not None
        if not self._input:
            self._end_input(fd)
            return
        os.set_blocking(fd, False)
        self._offered = True
        self._poll.register(fd, select.POLLOUT | (select.POLLIN if fd in self._streams.readers else 0))

    def _feed(self, fd: int) -> None:
        try:
            written = os.write(fd, self._input[:_CHUNK])
        except BlockingIOError:
            return
        except OSError as error:
            # The program does not want any more of it, as with `subprocess`.
            if error.errno not in (errno.EPIPE, errno.EIO):
                raise
            written = len(self._input)
            self._streams.typed = None
        self._input = self._input[written:]
        if self._input:
            return
        if self._streams.typed is None:
            self._end_input(fd)
        else:
            self._poll.unregister(fd)
            self._offered = False
            self._poll.register(self._streams.typed, select.POLLIN)

    def _end_input(self, fd: int) -> None:
        if fd in self._streams.readers:
            # A terminal stays open: its end would be the end of the program's output, too.
            self._poll.register(fd, select.POLLIN)
            self._streams.close_stdin()
            self._type_end(fd)
            return
        if self._offered:
            self._poll.unregister(fd)
        self._streams.close_stdin()

    def _type_end(self, terminal: int) -> None:
        """Again, when the program writes after it: one that takes its terminal over itself (a shell with
        line editing) does not see as an end of file what was typed before that."""
        self._ends += 1
        type_end(terminal, in_line=self._in_line)
        self._in_line = False


def _read_some(fd: int) -> bytes | None:
    """What is there, empty at its end; None where there is nothing yet."""
    try:
        return os.read(fd, _CHUNK)
    except BlockingIOError:
        return None
    except OSError as error:
        # A terminal whose last user is gone answers so: its end of file.
        if error.errno != errno.EIO:
            raise
        return b""


def type_end(terminal: int, *, in_line: bool) -> None:
    """Types the end of file (termios(3), VEOF); `in_line` after part of a line, which the first one ends."""
    try:
        key: bytes = termios.tcgetattr(terminal)[6][termios.VEOF]
    except termios.error:
        key = _CONTROL_D
    if key == _DISABLED:
        return
    try:
        os.write(terminal, key * (2 if in_line else 1))
    except OSError as error:
        # Its last user has gone, or has not read what was typed before.
        if error.errno not in (errno.EIO, errno.EAGAIN, errno.EPIPE):
            raise
