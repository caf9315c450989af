"""`Container`: one running instance of an image, with a writable layer of its own."""

from __future__ import annotations

import datetime
import os
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from pycontainer import execution, launch, output, runner, session
from pycontainer.errors import InvalidState, LaunchError, Timeout
from pycontainer.execution import Execution, Text
from pycontainer.options import Options
from pycontainer.runtime import cgroups
from pycontainer.streams import PIPE
from pycontainer.units import parse_duration, parse_signal
from pycontainer.waiting import Watch

if TYPE_CHECKING:
    from types import TracebackType

    from pycontainer.completed import Completed
    from pycontainer.image import Image
    from pycontainer.process import Process
    from pycontainer.store import ContainerDir

Status = Literal["created", "running", "stopped"]

_SIGTERM = 15
_SIGKILL = 9
_END_SECONDS = 30.0


class Container:
    """A container of this process; made by `create` and `start`. Safe from any thread.

    It never outlives the process. As a context manager, leaving it kills and removes it.
    """

    def __init__(self, image: Image, args: Any, options: Options) -> None:
        self.image = image
        self.args = args
        self.options = options
        self.created_at = _now()
        self.started_at: datetime.datetime | None = None
        self.finished_at: datetime.datetime | None = None
        self._owner_pid = os.getpid()
        self._lock = threading.RLock()
        # Kept as long as this one: its layers stay, even when the image is removed.
        self._root = image.rootfs()
        self._directory: ContainerDir | None = runner.new_directory(image)
        self.id = os.urandom(16).hex() if self._directory is None else self._directory.id
        self._execution: Execution | None = None
        self._watch: Watch | None = None
        self._output: output.Output | None = None
        self._removed = False

    # State.

    @property
    def status(self) -> Status:
        """ "created", "running" or "stopped", as it is now."""
        if self._execution is None:
            return "stopped" if self._removed else "created"
        return "running" if self._running() else "stopped"

    @property
    def pid(self) -> int | None:
        """The host's number of the container's first process while it runs."""
        if self._execution is None or not self._running():
            return None
        started = self._execution.job.started
        return None if started is None else started.pid

    @property
    def exit_code(self) -> int | None:
        """The program's exit status, -N after signal N; None before its end."""
        if self._execution is None or self._running() or self._execution.job.lost:
            return None
        return os.waitstatus_to_exitcode(self._execution.final().status)

    def __repr__(self) -> str:
        return f"<Container {self.id[:12]} {self.image!r} {self.status}>"

    # Life.

    def start(self) -> Container:
        """Start the program and return once it was executed; gives the container itself.

        Raises `LaunchError` where it could not be (the container is removed then), and
        `InvalidState` for a container that was started before.
        """
        with self._lock:
            self._check_process()
            if self._execution is not None or self._removed:
                raise InvalidState(f"start: container {self.id[:12]} was {self.status} already")
            self._begin()
        assert self._watch is not None and self._output is not None
        try:
            self._watch.started(None)
            self.started_at = _now()
            self._output.drain()
            self._watch.job.keep()
        except OSError as error:
            self.remove(force=True)
            raise LaunchError("taking in output", errno=error.errno) from error
        except BaseException:
            self.remove(force=True)
            raise
        return self

    def wait(self, timeout: float | None = None) -> Completed:
        """Wait for the program's end. `stdout` and `stderr` hold the last megabyte of each.

        When `timeout` (seconds) runs out the container is killed and `Timeout` raised.
        """
        began = time.monotonic()
        timeout = runner.check_timeout(timeout)
        watch = self._started("wait")
        if not watch.ended(None if timeout is None else began + timeout):
            self._kill_and_wait()
            assert timeout is not None
            raise Timeout(self._completed(timed_out=True), timeout)
        return self._completed()

    def kill(self, signal: int | str = "KILL") -> None:
        """Send the program a signal (a name or number); KILL ends everything in the container.

        Raises `InvalidState` unless it runs.
        """
        number = parse_signal(signal, option="signal")
        self._require_running("kill")
        assert self._execution is not None
        self._execution.job.signal(number)
        if number == _SIGKILL:
            self._kill_and_wait()

    def stop(self, timeout: float | None = None) -> Completed:
        """Ask the program to end with its stop signal, and kill the container when `timeout`
        seconds (the option `stop_timeout` by default) have passed. A stopped one stays so."""
        watch = self._started("stop")
        grace = self.options.stop_timeout if timeout is None else parse_duration(timeout, option="timeout")
        if self._running():
            assert self._execution is not None
            self._execution.job.signal(self._stop_signal())
            if not watch.ended(time.monotonic() + grace):
                self._kill_and_wait()
        return self._completed()

    def remove(self, force: bool = False) -> None:
        """Remove a container that does not run, or with `force` any; twice does no harm."""
        if self._owner_pid != os.getpid():
            # The lock may have been another thread's at the fork.
            return
        with self._lock:
            if self._removed:
                return
            if self._execution is not None and self._running():
                if not force:
                    raise InvalidState(
                        f"remove: container {self.id[:12]} is running; stop it, or remove(force=True)"
                    )
                self._kill_and_wait()
            self._removed = True
            if self._output is not None:
                self._output.close()
            if self._directory is not None:
                self._directory.remove()
                self._directory = None

    @property
    def stdin(self) -> BinaryIO | None:
        """The program's input, unbuffered, for a container made with `stdin=PIPE`; else None.
        Closing it is the program's end of file."""
        return None if self._output is None else self._output.stdin

    def resize(self, rows: int, columns: int) -> None:
        """Give the terminal of a container with `tty=True` another size."""
        self._require_running("resize")
        assert self._output is not None
        self._output.resize(rows, columns)

    def __enter__(self) -> Container:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.remove(force=True)

    # Inside.

    def exec(
        self,
        args: launch.Arguments | str,
        *,
        input: Any = None,
        capture_output: bool = False,
        stdout: Any = None,
        stderr: Any = None,
        stdin: Any = None,
        text: bool = False,
        encoding: str | None = None,
        errors: str | None = None,
        check: bool = False,
        timeout: float | None = None,
        **overrides: Any,
    ) -> Completed:
        """Run one more program in the running container and wait for it.

        Parameters as for `run`; options are the process ones (`env, cwd, user, tty, pass_fds,
        umask, ulimits, cap_add, cap_drop, privileged`). `timeout` kills the program with
        everything that it started. Raises `InvalidState` unless the container runs.
        """
        began = time.monotonic()
        timeout = runner.check_timeout(timeout)
        stdout, stderr = runner.capture(capture_output, stdout, stderr)
        how = Text.of(text, encoding, errors)
        data = how.encode(input)
        if input is not None:
            stdin = runner.with_input(stdin, input)
        begun = self._join(args, stdin, stdout, stderr, overrides, report=False)
        result = begun.run(data, how, timeout, began=began)
        if check:
            result.check_returncode()
        return result

    def popen(
        self,
        args: launch.Arguments | str,
        *,
        stdin: Any = None,
        stdout: Any = None,
        stderr: Any = None,
        text: bool = False,
        encoding: str | None = None,
        errors: str | None = None,
        bufsize: int = -1,
        **overrides: Any,
    ) -> Process:
        """Start one more program in the running container; gives a `Process`, in Popen's shape."""
        from pycontainer.process import Process

        begun = self._join(args, stdin, stdout, stderr, overrides, report=True)
        return Process(begun, Text.of(text, encoding, errors), bufsize)

    # How.

    def _begin(self) -> None:
        streams = execution.open_streams(self.options, self.options.stdin, PIPE, PIPE)
        try:
            here = session.current()
            self._execution = execution.begin_container(
                here,
                self.image,
                self.args,
                self.options,
                streams,
                container=self.id,
                report=True,
                **runner.in_directory(self.image, self._directory),
            )
        except BaseException:
            streams.close()
            raise
        finally:
            streams.close_child()
        if self._directory is not None:
            # The supervisor removes it after the container's end.
            self._directory.hand_over()
            self._directory = None
        self._watch = Watch(self._execution)
        self._output = output.Output(streams)

    def _join(
        self, args: Any, stdin: Any, stdout: Any, stderr: Any, overrides: dict[str, Any], *, report: bool
    ) -> Execution:
        self._require_running("exec")
        assert self._execution is not None
        here, target = self._execution.session, self._execution
        options = _joining_options(self.options, overrides)
        who = launch.identity(self.image, options.user, here, self._root)
        command = launch.joining_command(args, options, who, target.command.env)
        streams = execution.open_streams(options, stdin, stdout, stderr)
        try:
            return execution.begin_joining(
                here,
                target.job.id,
                options,
                who,
                command,
                streams,
                target.cgroup,
                cwd=options.cwd or self.image.config.cwd or "/",
                report=report,
                oom_before=_oom_kills(target),
            )
        except BaseException:
            streams.close()
            raise
        finally:
            streams.close_child()

    def _check_process(self) -> None:
        if self._owner_pid != os.getpid():
            raise InvalidState(
                f"container {self.id[:12]} belongs to process {self._owner_pid}, which forked this one"
            )

    def _started(self, verb: str) -> Watch:
        self._check_process()
        if self._watch is None:
            raise InvalidState(f"{verb}: container {self.id[:12]} was not started")
        return self._watch

    def _require_running(self, verb: str) -> None:
        self._started(verb)
        if not self._running():
            raise InvalidState(f"{verb}: container {self.id[:12]} is {self.status}, not running")

    def _running(self) -> bool:
        assert self._watch is not None
        if self._owner_pid != os.getpid():
            return self._watch.job.final is None
        running = self._watch.running()
        if not running and self.finished_at is None:
            self.finished_at = _now()
        return running

    def _kill_and_wait(self) -> None:
        assert self._execution is not None and self._watch is not None
        self._execution.job.end()
        self._watch.ended(time.monotonic() + _END_SECONDS)

    def _stop_signal(self) -> int:
        if self.options.stop_signal is not None:
            return self.options.stop_signal
        named = self.image.config.stop_signal
        return _SIGTERM if named is None else parse_signal(named, option="the image's stop signal")

    def _completed(self, *, timed_out: bool = False) -> Completed:
        assert self._execution is not None and self._output is not None
        if self.finished_at is None:
            self.finished_at = _now()
        self._output.finish()
        result = self._execution.completed(execution.BYTES, timed_out=timed_out)
        result.stdout, result.stderr = self._output.tail("stdout"), self._output.tail("stderr")
        return result


_JOINING = frozenset(
    {
        "env",
        "cwd",
        "user",
        "tty",
        "pass_fds",
        "umask",
        "ulimits",
        "cap_add",
        "cap_drop",
        "privileged",
        "seccomp",
        "no_new_privileges",
    }
)


def _joining_options(own: Options, overrides: dict[str, Any]) -> Options:
    """The container's options with those that make sense for a program that joins it. Its
    terminal, descriptors and environment are the container's first program's alone."""
    for name in overrides:
        if name not in _JOINING:
            raise TypeError(f"exec() got an unexpected keyword argument {name!r}")
    fresh: dict[str, Any] = {"tty": False, "pass_fds": (), "env": (), "entrypoint": None}
    return Options.merge(own, fresh | overrides)


@execution.launching
def _oom_kills(target: Execution) -> int:
    """Kills in the container so far, so that a program's own can be told from them."""
    if target.cgroup is None:
        return 0
    texts: Sequence[bytes | None] = [_read(path) for path in target.cgroup.collect]
    return cgroups.usage(target.cgroup, texts).oom_kills or 0


def _read(path: str) -> bytes | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return os.read(fd, 4096)
    finally:
        os.close(fd)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)
