"""`Process`: a program in a running container, in the shape of `subprocess.Popen`."""

from __future__ import annotations

import errno
import io
import os
import select
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any

from pycontainer import _sys, execution
from pycontainer.errors import InvalidOption, InvalidState, Timeout
from pycontainer.output import Taking, set_size
from pycontainer.streams import Pump, Streams
from pycontainer.units import check_timeout, parse_signal
from pycontainer.waiting import Watch

if TYPE_CHECKING:
    from types import TracebackType

    from pycontainer.completed import Completed
    from pycontainer.execution import Execution, Text

_SIGTERM = 15
_SIGKILL = 9
_END_SECONDS = 30.0
_SLICE_SECONDS = 0.05


class Process:
    """Made by `Container.popen`; it was executed when you get it.

    `stdin`, `stdout` and `stderr` are files where PIPE was asked for, else None. With a terminal,
    `stdin` and `stdout` are the terminal. Iterating gives the lines of `stdout` as they come.
    Leaving it as a context manager closes the files and waits.
    """

    def __init__(self, begun: Execution, text: Text, bufsize: int) -> None:
        """Waits for the exec. Raises `LaunchError` where there was none."""
        self.args = begun.command.shown
        self.stdin: IO[Any] | None = None
        self.stdout: IO[Any] | None = None
        self.stderr: IO[Any] | None = None
        self._execution = begun
        self._text = text
        self._watch = Watch(begun)
        self._result: Completed | None = None
        self._pumping = threading.Lock()
        self._pump: Pump | None = None
        """Of a `communicate` whose time ran out."""
        self._communicating = False
        try:
            self._watch.started(None)
            if begun.streams.console is not None:
                self._wait_for_terminal()
            self._open_files(begun.streams, bufsize)
            begun.job.keep()
        except BaseException:
            begun.job.end()
            begun.streams.close()
            raise

    @property
    def pid(self) -> int | None:
        """The host's number of the process that waits for the program; None without one."""
        started = self._execution.job.started
        return None if started is None else started.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, -N after signal N, once `poll` or `wait` has seen the end; else None."""
        return None if self._result is None else self._result.returncode

    def poll(self) -> int | None:
        """The exit status if the program has ended, without waiting."""
        if self._result is None and not self._watch.running():
            # Its end is known even where what it wrote is no text.
            self._result = self._execution.completed(execution.BYTES)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and give the exit status. When `timeout` (seconds) runs out, `Timeout` is
        raised and the program goes on."""
        began = time.monotonic()
        timeout = check_timeout(timeout)
        if not self._watch.ended(None if timeout is None else began + timeout):
            assert timeout is not None
            raise Timeout(self._so_far(), timeout)
        code = self.poll()
        assert code is not None
        return code

    def communicate(self, input: Any = None, timeout: float | None = None) -> tuple[Any, Any]:
        """Send `input`, read everything to the end and wait, without deadlock at any size.

        Gives (stdout, stderr), empty where there is no pipe. `timeout` as for `wait`: the exception's
        result has what was read so far, and nothing is lost. Called again, it goes on, with the rest of
        the first call's `input` too, and gives everything from the beginning; a new `input` is an
        InvalidOption then. From the first call on the files belong to it, and are closed.
        """
        began = time.monotonic()
        timeout = check_timeout(timeout)
        deadline = None if timeout is None else began + timeout
        data = self._text.encode(input)
        if data and self._communicating:
            raise InvalidOption("input: communicate() has begun, and goes on with what it was given first")
        if data and self.stdin is None:
            raise InvalidState("communicate: input needs stdin=PIPE")
        if not self._communicate(data, deadline):
            assert timeout is not None
            raise Timeout(self._so_far(), timeout)
        self.poll()
        self._result = self._execution.completed(self._text)
        return self._result.stdout, self._result.stderr

    def send_signal(self, signal: int | str) -> None:
        """Send the program a signal, by name or number; one that has ended gets none."""
        number = parse_signal(signal, option="signal")
        if self.poll() is None:
            self._execution.job.signal(number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(_SIGTERM)

    def kill(self) -> None:
        """Kill the program with everything that it started; where that has ended and `communicate` has not,
        what it left behind, which may hold its output open."""
        if self._pump is not None:
            self._execution.job.end()
        else:
            self.send_signal(_SIGKILL)

    def resize(self, rows: int, columns: int) -> None:
        """Give the program's terminal another size (ioctl_tty(2), TIOCSWINSZ)."""
        terminal = self._execution.streams.master
        if terminal is None and self._execution.streams.tty:
            assert self.stdout is not None
            terminal = None if self.stdout.closed else self.stdout.fileno()
        if terminal is None:
            raise InvalidState("resize: the program has no terminal, or it was closed")
        set_size(terminal, rows, columns)

    def __iter__(self) -> Iterator[Any]:
        if self.stdout is None:
            raise InvalidState("iterating over lines needs stdout=PIPE")
        return iter(self.stdout)

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self._execution.job.end()
        self._close_files()
        self.wait()

    def __repr__(self) -> str:
        state = "running" if self.returncode is None else f"returncode={self.returncode}"
        return f"<Process {self.args!r} {state}>"

    def _communicate(self, data: bytes, deadline: float | None) -> bool:
        """Moves the bytes, one thread at a time; False when time ran out first."""
        while not self._pumping.acquire(timeout=_SLICE_SECONDS):
            if deadline is not None and time.monotonic() >= deadline:
                return False
        ended = True
        try:
            if self._pump is None:
                self._communicating = True
                self._reclaim()
                self._pump = self._execution.pump(data)
            ended = self._pump.run(deadline)
        except BaseException:
            execution.abort(self._execution.job)
            raise
        finally:
            if ended:
                self._close_streams()
            self._pumping.release()
        return ended

    def _so_far(self) -> Completed:
        """For a time-out: the program has not ended, or something that it left holds its output open."""
        if self.poll() is None:
            return self._execution.so_far(self._text)
        return self._execution.completed(self._text, timed_out=True)

    def _wait_for_terminal(self) -> None:
        """The terminal was sent before the exec, so it is there."""
        streams = self._execution.streams
        assert streams.console is not None
        poll = select.poll()
        poll.register(streams.console, select.POLLIN)
        _sys.poll(poll, time.monotonic() + _END_SECONDS)
        streams.take_master()

    def _open_files(self, streams: Streams, bufsize: int) -> None:
        """Our ends become files; from here on they are the caller's."""
        if streams.master is not None:
            self._open_terminal(streams, bufsize)
            return
        # Never two owners at once, one of which would close another's descriptor of that number.
        if streams.stdin is not None:
            fd, streams.stdin = streams.stdin, None
            self.stdin = self._file(fd, "w", bufsize)
        captured = [fd for fd, sink in streams.readers.items() if _is_capture(streams, sink)]
        for name, fd in zip(streams.capture, captured, strict=True):
            del streams.readers[fd]
            setattr(self, name, self._file(fd, "r", bufsize))
        # What goes on to this process's own terminal is nobody's to read.
        readers = dict(streams.readers)
        streams.readers.clear()
        Taking(readers)

    def _open_terminal(self, streams: Streams, bufsize: int) -> None:
        master = streams.master
        assert master is not None
        os.set_blocking(master, True)
        self.stdin = self._file(os.dup(master), "w", bufsize)
        self.stdout = self._file(master, "r", bufsize)
        streams.readers.clear()
        streams.master = streams.stdin = None

    def _file(self, fd: int, mode: str, bufsize: int) -> IO[Any]:
        raw = _Terminal(fd, mode) if self._execution.streams.tty else io.FileIO(fd, mode)
        if bufsize == 0 and not self._text.on:
            return raw
        size = io.DEFAULT_BUFFER_SIZE if bufsize < 2 else bufsize
        buffered: Any = io.BufferedReader(raw, size) if mode == "r" else io.BufferedWriter(raw, size)
        if not self._text.on:
            return buffered  # type: ignore[no-any-return]
        return io.TextIOWrapper(
            buffered,
            encoding=self._text.encoding or "utf-8",
            errors=self._text.errors,
            line_buffering=bufsize == 1,
            write_through=mode == "w",
        )

    def _reclaim(self) -> None:
        """Takes the descriptors back from the files, what those have buffered included."""
        streams = self._execution.streams
        for name in ("stdout", "stderr"):
            file = getattr(self, name)
            if file is None or file.closed:
                continue
            fd = streams.take_back(name, file.fileno(), _buffered(file))
            if streams.tty and name == "stdout":
                streams.master = fd
            file.close()
        if self.stdin is not None and not self.stdin.closed:
            # What the program does not want, `Popen` loses just so.
            with suppress(BrokenPipeError):
                self.stdin.flush()
            if streams.tty:
                streams.stdin = streams.master
            else:
                streams.take_back_stdin(self.stdin.fileno())
            with suppress(BrokenPipeError):
                self.stdin.close()

    def _close_streams(self) -> None:
        """What `communicate` took; a pump would wait for descriptors that are others' now."""
        self._pump = None
        self._execution.streams.close()

    def _close_files(self) -> None:
        self._close_streams()
        for file in (self.stdin, self.stdout, self.stderr):
            if file is not None and not file.closed:
                try:
                    file.close()
                except BrokenPipeError:
                    # Input that the program did not want; `Popen` does the same.
                    continue


class _Terminal(io.FileIO):
    """A terminal's end of file is EIO: its last user has gone (pty(7))."""

    def readinto(self, buffer: Any) -> int | None:
        try:
            return super().readinto(buffer)
        except OSError as error:
            if error.errno == errno.EIO:
                return 0
            raise

    def readall(self) -> bytes:
        """FileIO's own would not come through `readinto`."""
        parts = []
        while part := self.read(io.DEFAULT_BUFFER_SIZE):
            parts.append(part)
        return b"".join(parts)

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0:
            return self.readall()
        buffer = bytearray(size)
        return bytes(buffer[: self.readinto(buffer)])


def _is_capture(streams: Streams, sink: Any) -> bool:
    return any(sink == parts.append for parts in streams.capture.values())


def _buffered(file: IO[Any]) -> bytes:
    """What was read ahead into a file's buffer and not given to anybody yet."""
    binary = getattr(file, "buffer", file)
    peek = getattr(binary, "peek", None)
    if peek is None:
        return b""
    os.set_blocking(file.fileno(), False)
    return bytes(peek(0) or b"")
