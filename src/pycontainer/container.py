"""`Container`: one running instance of an image, with a writable layer of its own."""

from __future__ import annotations

import builtins
import datetime
import errno
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, get_args

from pycontainer import execution, in_time, inside, known, launch, option_values, runner
from pycontainer.errors import (
    ContainerError,
    ContainerNotFound,
    InvalidOption,
    InvalidState,
    LaunchError,
    Timeout,
)
from pycontainer.execution import Execution, Text
from pycontainer.happenings import tell, watch
from pycontainer.lives import LIMITS, Restarts, Run, now
from pycontainer.logs.choosing import forward_for, log_for
from pycontainer.logs.journal import Journal
from pycontainer.network import jobs
from pycontainer.options import Options
from pycontainer.publishing import HostPort, Ports
from pycontainer.units import check_timeout, parse_duration, parse_signal, refuse
from pycontainer.wiring import Wiring
from pycontainer.writable import WritableLayer, new_layer

if TYPE_CHECKING:
    import socket
    from types import TracebackType

    from pycontainer.attaching import Attachment
    from pycontainer.changes import Change
    from pycontainer.completed import Completed
    from pycontainer.files.paths import ContainerPath
    from pycontainer.filling import Used
    from pycontainer.health import Health, HealthResult, State
    from pycontainer.healthcheck import Healthcheck
    from pycontainer.image import Image
    from pycontainer.logs.reading import Logs
    from pycontainer.measuring import Stats
    from pycontainer.networks import Network
    from pycontainer.process import Process
    from pycontainer.processes import Found, ProcessInfo
    from pycontainer.store import Store
    from pycontainer.supervisor.served import Served
    from pycontainer.templates import Preparing, Template
    from pycontainer.wait import Strategy

Status = Literal["created", "running", "paused", "stopped"]

_SIGTERM = 15
_SIGKILL = 9
_END_SECONDS = 30.0
_GONE_SECONDS = 1.0


class Container:
    """A container; made by `create` and `start`. Safe from any thread.

    It is there until `remove`, and outlives the process only with `persist=True`: then every process of
    this user finds it by `get` and `list`. As a context manager, leaving it kills and removes it.
    """

    def __init__(
        self,
        image: Image,
        args: Any,
        options: Options,
        layer: WritableLayer | None = None,
        *,
        home: str | None = None,
    ) -> None:
        """`layer` is the container's own from here on; a new one by default. `home` is the path of a store,
        for an image that is in none (the host's). Raises NameInUse."""
        self.image = image
        self.args = args
        self.options = options
        self.name = options.name
        self.created_at = now()
        self._owner_pid = os.getpid()
        self._changing = threading.RLock()
        """Held while the state changes. Who waits for a program does not hold it."""
        self._restarting = threading.RLock()
        # Kept as long as this one: its layers stay, even when the image is removed.
        self._root = image.rootfs()
        self.home = known.home_of(self._root, home)
        """The path of the store that it belongs to."""
        self.healthcheck = healthcheck_of(image, options)
        """What is asked while it runs; the option's, or else the image's."""
        self._layer: WritableLayer = layer or new_layer(self._root)
        self.id = self._layer.id
        self._wiring = Wiring(options, self.id)
        self._run: Run | None = None
        self._files: Served | None = None
        self._files_of: Run | None = None
        self._paused = False
        self._removed = False
        self._beginning = False
        self._sealed = False
        self._journal = Journal(
            log_for(options.log, self._layer.directory),
            self._more_to_come,
            forward_for(options.log, self.name or self.id[:12]),
        )
        self._restarts = Restarts(options.restart, self._journal.poke)
        self._health: Health | None = None
        self._volumes: Used | None = None
        try:
            known.add(self)
            self._volumes = launch.use_volumes(options, self._root, self._layer.lower, self.id)
        except BaseException:
            known.drop(self)
            self._journal.log.remove()
            self._layer.remove()
            raise
        tell(self, "create")

    @staticmethod
    def list(
        all: bool = False,
        *,
        labels: Mapping[str, str] | str | Sequence[str] | None = None,
        status: Status | None = None,
        store: Store | None = None,
    ) -> builtins.list[Container]:
        """The containers that run (or are paused), or with `all` every one: those of this process, and
        those of the store that persist, each in the order of their making. With `store`, none of others.

        `labels` keeps those that have all these labels (a mapping, or texts: "name" with any value,
        "name=value"), `status` those in that state, whatever `all` says. Raises InvalidOption.
        """
        from pycontainer.keeping import finding

        wanted = wanted_labels(labels)
        if status is not None and status not in get_args(Status):
            raise refuse("status", status, f"must be one of {', '.join(get_args(Status))}")
        found = []
        here = known.everyone(None if store is None else store.path)
        for container in [*here, *finding.everyone(store)]:
            now_is = container.status
            if status is None and not all and now_is not in ("running", "paused"):
                continue
            if status is not None and now_is != status:
                continue
            own = container.labels
            if all_labels(own, wanted):
                found.append(container)
        return found

    @staticmethod
    def get(id_or_name: str, *, store: Store | None = None) -> Container:
        """The container of that name or id, or whose id alone begins so: one of this process, or one of
        the store that persists, whoever made it; with `store`, none of others. Raises ContainerNotFound."""
        from pycontainer.keeping import finding

        here = known.find(id_or_name, None if store is None else store.path)
        found = here or finding.find(id_or_name, store)
        if found is None:
            raise ContainerNotFound(f"no container {id_or_name!r}")
        return found

    # State.

    @property
    def status(self) -> Status:
        """ "created", "running", "paused" or "stopped", as it is now."""
        run = self._run
        if run is None:
            return "stopped" if self._removed or self._sealed else "created"
        if not self._running():
            return "stopped"
        return "paused" if self._paused else "running"

    @property
    def labels(self) -> dict[str, str]:
        """The image's labels with its own."""
        return {**self.image.config.labels, **dict(self.options.labels)}

    @property
    def annotations(self) -> dict[str, str]:
        """Its own notes, for which nothing is looked up."""
        return dict(self.options.annotations)

    @property
    def pid(self) -> int | None:
        """The host's number of the container's first process while it runs."""
        run = self._run
        if run is None or not self._running():
            return None
        started = run.job.started
        return None if started is None else started.pid

    @property
    def exit_code(self) -> int | None:
        """The program's exit status, -N after signal N; None before its end."""
        run = self._run
        return None if run is None or self._running() else run.exit_code

    @property
    def started_at(self) -> datetime.datetime | None:
        """When its program was started the last time."""
        return None if self._run is None else self._run.started_at

    @property
    def finished_at(self) -> datetime.datetime | None:
        """When its program ended; None while it runs, and before."""
        run = self._run
        return None if run is None or self._running() else run.finished_at

    @property
    def health(self) -> State | None:
        """What its healthcheck says while it runs: "starting", "healthy" or "unhealthy"; else None."""
        run = self._run
        return None if self._health is None or run is None or not self._running() else self._health.state

    @property
    def health_log(self) -> builtins.list[HealthResult]:
        """How its healthcheck ended the last times since its last start, oldest first."""
        return [] if self._health is None else [*tuple(self._health.results)]

    @property
    def restarts(self) -> int:
        """How often its restart policy started it again."""
        return self._restarts.count

    @property
    def ports(self) -> Ports:
        """Its published ports while it runs: where the host has them, by "80/tcp" or 80; see `Ports`."""
        return self._wiring.ports

    @property
    def ip_address(self) -> str | None:
        """Its IPv4 address on its first network while it runs; None without a network."""
        return next((one for found in self.addresses.values() for one in found), None)

    @property
    def addresses(self) -> dict[str, tuple[str, ...]]:
        """All its addresses while it runs, by the names of its networks."""
        return self._wiring.addresses

    def __repr__(self) -> str:
        name = "" if self.name is None else f" {self.name}"
        return f"<Container {self.id[:12]}{name} {self.image!r} {self.status}>"

    # Life.

    def start(self, timeout: float | None = None) -> Container:
        """Start the program and return once it was executed, or with the option `wait` once it is ready;
        gives the container itself.

        One that stopped starts again with the files that it had. Raises `LaunchError` where the program
        cannot be started (the container stays as it was), `InvalidState` for one that runs, and `WaitFailed`
        for one that is not ready in the time of what it waits for: it is left running then, or as it ended.
        After `timeout` seconds it is killed, and `Timeout` raised with what it has written.
        """
        with in_time.limited(timeout, "start", self._called()):
            self._start()
            try:
                self._wait_until_ready()
            except in_time.TimeIsUp as up:
                self._end_now()
                up.result = self._started("start").completed(timed_out=True)
                raise
        return self

    def wait(self, timeout: float | None = None) -> Completed:
        """Wait for the program's end, which a restart policy may put off. `stdout` and `stderr` hold
        the last megabyte of each.

        When `timeout` (seconds) runs out, `Timeout` is raised and the container goes on as it was; the
        exception's `result` holds what it has written and used so far, and no `returncode`.
        """
        began = time.monotonic()
        timeout = check_timeout(timeout)
        deadline = None if timeout is None else began + timeout
        run = self._started("wait")
        while run.ended(deadline):
            after = self._restarts.after(run, deadline)
            if after is None:
                return run.completed()
            if after is run:
                break
            run = after
        assert timeout is not None
        raise Timeout(run.so_far(), timeout)

    def wait_until(self, strategy: Strategy, timeout: float | None = None) -> None:
        """Wait until what `pycontainer.wait` describes is so in the running container, since its last start.

        Raises `WaitFailed` (with the end of its log in `logs`) at once when the container ends and no restart
        policy starts it again, when one that is needed took longer than its own `timeout`, and after
        `timeout` (seconds); the container goes on running. Raises `InvalidState` for one that never ran.
        """
        from pycontainer.readiness.waiting import wait_until

        wait_until(self, strategy, check_timeout(timeout))

    def kill(self, signal: int | str = "KILL") -> None:
        """Send the program a signal (a name or number); KILL ends everything in the container. After KILL and
        its stop signal no restart policy starts it again, as docker has it. Raises `InvalidState` unless it
        runs."""
        number = parse_signal(signal, option="signal")
        run = self._require_alive("kill")
        tell(self, "kill", signal=number)
        if number == _SIGKILL:
            self._end_now()
            return
        if number == self._stop_signal():
            self._restarts.end()
        run.job.signal(number)

    def stop(self, timeout: float | None = None) -> Completed:
        """Ask the program to end with its stop signal, and kill the container when `timeout`
        seconds (the option `stop_timeout` by default) have passed. A stopped one stays so."""
        run = self._started("stop")
        grace = self.options.stop_timeout if timeout is None else parse_duration(timeout, option="timeout")
        self._restarts.end()
        with self._changing:
            run = self._run or run
            ran = self._running()
            if ran:
                run.job.signal(self._stop_signal())
                self._thaw()
        if not run.ended(time.monotonic() + grace):
            self._end_now()
        if ran:
            tell(self, "stop")
        return run.completed()

    def restart(self, timeout: float | None = None) -> Container:
        """Stop the container if it runs, as `stop` does, and start it again."""
        # Who kills it meanwhile does not have to wait.
        with self._restarting:
            if self._run is not None:
                self.stop(timeout)
            self._start()
            tell(self, "restart")
        self._wait_until_ready()
        return self

    def pause(self) -> None:
        """Freeze every process in it (cgroups: freezer). Raises `InvalidState` unless it runs, and
        `CapabilityUnavailable` where it has no control group that can."""
        with self._changing:
            run = self._require_running("pause")
            self._paused = True
            try:
                run.freeze()
            except BaseException as error:
                self._thaw()
                # Its control group goes a moment before its end is told.
                gone = isinstance(error, LaunchError) and error.errno in (errno.ENOENT, errno.ENODEV)
                if gone and run.ended(time.monotonic() + _GONE_SECONDS):
                    raise self._not_in("pause", "running") from error
                raise
            tell(self, "pause")

    def unpause(self) -> None:
        """Let a paused container go on. Raises `InvalidState` unless it is paused."""
        with self._changing:
            self._started("unpause")
            if self.status != "paused":
                raise self._not_in("unpause", "paused")
            self._thaw()
            tell(self, "unpause")

    def update(self, **limits: Any) -> None:
        """Give it other limits, now and for its next start: `memory, memory_swap, cpus, cpuset,
        cpu_weight, pids, io_weight, io_max` as in `Options`. None brings back the default, which is no limit
        but for `pids`; rates of `io_max` that are left out are lifted.

        Raises `InvalidOption`, `InvalidState` for a removed one, and `CapabilityUnavailable` for what
        this host cannot enforce; then nothing is changed.
        """
        for name in limits:
            if name not in LIMITS:
                raise TypeError(f"update() got an unexpected keyword argument {name!r}")
        with self._changing:
            self._check_process()
            self._check_there("update")
            options = Options.merge(self.options, limits)
            if self._run is not None and self._running():
                self._run.update(self.options, options, limits)
            self.options = options

    def remove(self, force: bool = False) -> None:
        """Remove a container that does not run, or with `force` any; twice does no harm."""
        if self._owner_pid != os.getpid():
            # The lock may have been another thread's at the fork.
            return
        self._restarts.end()
        with self._changing:
            if self._removed:
                return
            if self._run is not None and self._running():
                if not force:
                    raise InvalidState(f"remove: {self._shown()} is running; stop it, or remove(force=True)")
                self._end_now()
            self._removed = True
            self._close_files()
            if self._run is not None:
                self._run.close()
            self._journal.log.remove()
            if not self._sealed:
                self._layer.remove()
            if self._volumes is not None:
                self._volumes.release()
            self._wiring.close()
            known.drop(self)
        tell(self, "remove")
        self._journal.poke()

    @property
    def stdin(self) -> BinaryIO | None:
        """The program's input, unbuffered, for a container made with `stdin=PIPE`; else None.
        Closing it is the program's end of file."""
        return None if self._run is None else self._run.output.stdin

    def logs(
        self,
        *,
        tail: int | None = None,
        since: float | str | datetime.datetime | datetime.timedelta | None = None,
        follow: bool = False,
        text: bool = False,
    ) -> Logs:
        """What it has written, over all its starts; with `follow` also what it writes from now on.

        `tail` is a number of lines at the end; `since` a datetime or its text ("2026-01-31T12:00:00Z"), how
        long ago that was (seconds, a timedelta, or text such as "5m") or seconds since 1970. `text=True`
        gives str instead of bytes. Raises InvalidOption.
        """
        from pycontainer.logs.reading import Logs

        self._check_process()
        return Logs(self._journal, self._shown(), tail=tail, since=since, follow=follow, text=text)

    def attach(self) -> Attachment:
        """Take part in its streams from now on: input, output and, with `tty=True`, its terminal.

        It may be called before the first start, so that nothing is missed. Raises `InvalidState` for a
        container that has ended.
        """
        from pycontainer.attaching import Attachment

        self._check_process()
        if not self._more_to_come():
            raise self._not_in("attach", "created or running")
        return Attachment(
            self.options.tty, self._journal, lambda: None if self._run is None else self._run.output
        )

    def resize(self, rows: int, columns: int) -> None:
        """Give the terminal of a container with `tty=True` another size."""
        self._require_alive("resize").output.resize(rows, columns)

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
        timeout = check_timeout(timeout)
        stdout, stderr = runner.capture(capture_output, stdout, stderr)
        how = Text.of(text, encoding, errors)
        data = how.encode(input)
        stdin = runner.with_input(option_values.stdin(stdin), input)
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

        how = Text.of(text, encoding, errors)
        if isinstance(bufsize, bool) or not isinstance(bufsize, int):
            raise InvalidOption(f"bufsize={bufsize!r}: must be an integer")
        begun = self._join(args, option_values.stdin(stdin), stdout, stderr, overrides, report=True)
        return Process(begun, how, bufsize)

    def top(self) -> builtins.list[ProcessInfo]:
        """Its processes, as the host sees them. Raises `InvalidState` unless it runs or is paused."""
        from pycontainer import processes

        run = self._require_alive("top")
        here = run.execution.session
        return processes.describe(
            self._processes(run), lambda uid: launch.user_name_of(self._root, here, uid)
        )

    def stats(self) -> Stats:
        """What it uses now. Raises `InvalidState` unless it runs or is paused."""
        return self._measured(self._require_alive("stats"))

    def stats_stream(self, interval: float = 1.0) -> Iterator[Stats]:
        """`stats` now and each `interval` seconds; ends with the container. Raises `InvalidState` unless it
        runs or is paused."""
        from pycontainer import measuring

        self._require_alive("stats_stream")
        seconds = parse_duration(interval, option="interval")
        if seconds == 0:
            raise InvalidOption("interval=0: must be more than 0 seconds")
        return measuring.stream(self._stats_if_running, self._more_to_come, self._journal, seconds)

    # Network.

    def connect(
        self, target: int | str | os.PathLike[str] | ContainerPath, *, timeout: float | None = None
    ) -> socket.socket:
        """A socket connected to a TCP port (at 127.0.0.1, else ::1, else its own addresses) or to a Unix
        socket's path, both as the running container has them; nothing needs to be published.

        `timeout` (seconds) limits the connecting; the socket itself is as `socket.socket()` makes it.
        Raises what sockets raise (`ConnectionRefusedError`, `FileNotFoundError`, `TimeoutError`, all of
        them OSError), and `InvalidState` unless the container runs.
        """
        from pycontainer import connecting

        wanted = connecting.parse_target(target)
        own = [one for found in self.addresses.values() for one in found]
        return connecting.connect(self._serving, wanted, check_timeout(timeout), own)

    def listen(self, port: int) -> socket.socket:
        """A socket that listens for TCP connections at all addresses of the running container, so that what
        runs there reaches this process at 127.0.0.1 and `port` (0: any that is free).

        Raises `PortInUse`, and `InvalidState` unless the container runs.
        """
        from pycontainer import listening

        return listening.listen(self._serving, port)

    def forward(self, port: int | str, *, host: str | None = None, host_port: int = 0) -> HostPort:
        """Publish one more port of the running container, until it ends: by default on the host's loopback at
        any port that is free; gives (host, port). `port` is a number, or such as "53/udp".

        Raises `InvalidOption`, `PortInUse`, and `InvalidState` unless the container runs and has a network of
        its own.
        """
        from pycontainer import network_options, publishing

        with self._changing:
            run = self._require_alive("forward")
            wanted = network_options.ports({port: (host, host_port) if host else host_port})
            if self._wiring.hosts_network:
                raise InvalidOption('forward: with network="host" its ports are the host\'s already')
            listeners = publishing.listen(wanted)
            try:
                self._wiring.publish(listeners, run.job)
            except BaseException:
                publishing.close(listeners)
                raise
        return HostPort(*listeners[0].socket.getsockname()[:2])

    # Files.

    def path(self, path: str | os.PathLike[str] | ContainerPath) -> ContainerPath:
        """A path of the container's, with what `pathlib.Path` does to files; in every state."""
        from pycontainer.files.paths import ContainerPath

        return ContainerPath(self, path)

    def copy_in(
        self,
        src: str | os.PathLike[str],
        dst: str | os.PathLike[str] | ContainerPath,
        *,
        user: str | int | None = None,
        timeout: float | None = None,
    ) -> None:
        """Copy a file or tree of this host's into the container, in every state, as `docker cp` does (the
        rules on names are in `pycontainer.files.copy`).

        Copies belong to the container's root, or to `user` ("uid[:gid]", or names of the container's);
        modes and times are kept, set-id bits only where the owner is the same, links stay links, and
        names of one file one file. Sockets and devices are left out, and named by a `ContainerError`
        in the end. No file is there half; of a copy that failed, or that Ctrl-C or `timeout`
        (seconds) broke off, what was copied before stays. Raises `ContainerError` that names the file, with
        the OSError as its cause, `InvalidState` and `Timeout`.
        """
        from pycontainer.files.copy import copy_in

        with in_time.limited(timeout, "copy_in", src, dst):
            copy_in(self, src, dst, user=user)

    def copy_out(
        self,
        src: str | os.PathLike[str] | ContainerPath,
        dst: str | os.PathLike[str],
        *,
        timeout: float | None = None,
    ) -> None:
        """Copy a file or tree of the container's to this host, as `copy_in` does.

        Copies belong to this process's user, without set-id bits. Nothing outside `dst` is written to,
        and nothing outside the container read, whatever is done to names in there meanwhile.
        """
        from pycontainer.files.copy import copy_out

        with in_time.limited(timeout, "copy_out", src, dst):
            copy_out(self, src, dst)

    # What becomes of its files.

    def prepare(self, fn_or_args: Preparing, *, timeout: float | None = None) -> Container:
        """Call a function with the container, or run a command in it; gives the container itself.

        A command is executed in a container that runs; in one that does not it is run by itself, with
        the container's options, and the container is as it was afterwards. `timeout` (seconds) is for
        commands. Raises `ExitError` for one that fails, with what it wrote, `LaunchError` and `Timeout`.
        """
        timeout = check_timeout(timeout)
        if callable(fn_or_args):
            fn_or_args(self)
            return self
        with self._changing:
            self._check_process()
            alone = self.status in ("created", "stopped")
            if alone:
                self._prepare_alone(fn_or_args, timeout)
        if not alone:
            self.exec(fn_or_args, capture_output=True, check=True, timeout=timeout)
        return self

    def diff(self, *, timeout: float | None = None) -> builtins.list[Change]:
        """What was added, modified and deleted in its files since it was made, sorted by path: against its
        image's, or its template's. What is mounted in it is not looked at.

        Raises `InvalidState` for one that was removed, `ImageError` for what cannot be read, and `Timeout`
        after `timeout` seconds.
        """
        from pycontainer import changes

        with in_time.limited(timeout, "diff", self._called()), in_time.locked(self._changing):
            self._check_process()
            self._check_there("diff")
            return [*changes.of_layer(self._layer).changes]

    def export(self, path: str | os.PathLike[str], *, timeout: float | None = None) -> None:
        """Write its files as one flat tar archive, as `Image.export` does: the image's with its changes,
        without what is mounted in it. A container that runs is read as it is; pause it to have all files
        of one moment.

        Raises `ImageError` where the archive cannot be written, and on the host image, `NoSpace`, and
        `Timeout` after `timeout` seconds; what was at `path` before is there then.
        """
        from pycontainer import committing

        with in_time.limited(timeout, "export", path), in_time.locked(self._changing):
            committing.export(self._layer, self._for_reading("export"), os.fspath(path))

    def commit(
        self,
        ref: str | None = None,
        *,
        author: str | None = None,
        message: str | None = None,
        pause: bool = True,
        timeout: float | None = None,
        **config: Any,
    ) -> Image:
        """Make an image of its files, and name it `ref`: its image's layers and one of what it changed,
        or no further one where it changed nothing. `config` changes the image's as `Image.configure` does;
        `author` and `message` go into its history.

        A container that runs is paused meanwhile, unless `pause` is False or it has no control group. With
        SOURCE_DATE_EPOCH set, the same changes always give the same layer. Raises `ImageError` on the
        host image, `InvalidOption`, `InvalidReference`, `InvalidState`, `NoSpace`, `StoreError`, and
        `Timeout` after `timeout` seconds: then there is no new image, and the container goes on.
        """
        from pycontainer import committing

        with in_time.limited(timeout, "commit", self._called()), in_time.locked(self._changing):
            run = self._for_reading("commit")
            command = committing.created_by(self.image, self.args, self.options)
            with committing.standing_still(run if pause and not self._paused else None):
                return committing.commit(
                    self.image, self._layer, command, ref=ref, author=author, message=message, config=config
                )

    def seal(self, timeout: float | None = None) -> Template:
        """Stop the container if it runs, as `stop` does, and freeze its files; gives the template that
        new containers are forked from. This one stays stopped for good.

        Raises `InvalidState` for one that was sealed or removed before.
        """
        from pycontainer.templates import Template

        with self._changing:
            self._check_process()
            self._check_layer("seal")
            if self._run is not None:
                self.stop(timeout)
            else:
                # A layer in memory is there from its first use on.
                self._served()
            self._restarts.end()
            self._close_files()
            self._sealed = True
            return Template(self.image, self.args, self.options, self._root, self._layer, self.home)

    # How.

    def _connect_to(self, network: Network, aliases: Sequence[str], addresses: Sequence[str]) -> None:
        """`Network.connect`."""
        with self._changing:
            self._check_process()
            self._check_there("connect")
            run = self._run if self._run is not None and self._running() else None
            hostname = execution.hostname_of(self.options, self.id)
            self._wiring.join(network, aliases, addresses, None if run is None else run.job, hostname)

    def _disconnect_from(self, network: Network) -> None:
        """`Network.disconnect`."""
        with self._changing:
            self._check_process()
            self._wiring.leave(network)

    def _lend_network(self) -> jobs.Namespace:
        """Its network namespace for another container. Raises InvalidState unless it runs."""
        with self._changing:
            run = self._require_alive("sharing its network")
            return self._wiring.lend(run.job)

    def _start(self) -> None:
        if self.options.wait is not None:
            from pycontainer.readiness import waiting

            waiting.check(self, self.options.wait)
        with in_time.locked(self._changing):
            self._check_process()
            if self._removed or self.status not in ("created", "stopped"):
                raise self._not_in("start", "created or stopped")
            self._restarts.begin()
            try:
                self._begin()
            except BaseException:
                # Nobody waits for one that the policy would start.
                self._restarts.end()
                raise

    def _wait_until_ready(self) -> None:
        if self.options.wait is not None:
            self.wait_until(self.options.wait)

    def _prepare_alone(self, args: Any, timeout: float | None) -> None:
        from pycontainer import templates

        self._check_layer("prepare")
        self._close_files()
        templates.run_once(self.image, args, self.options, self._layer, timeout)

    def _for_reading(self, verb: str) -> Run | None:
        """For who reads all of its files: its program, where that runs; else nobody writes to them."""
        self._check_process()
        self._check_there(verb)
        if self._run is not None and self._running():
            return self._run
        self._close_files()
        return None

    def _check_there(self, verb: str) -> None:
        if self._removed:
            raise self._not_in(verb, "there any more")

    def _check_layer(self, verb: str) -> None:
        """Whether its writable layer is there, and its own."""
        self._check_there(verb)
        if self._sealed:
            raise InvalidState(f"{verb}: {self._shown()} is sealed; fork its template")

    def _keep(self, run: Run) -> None:
        self._run = run

    def _begin(self, before: Run | None = None) -> None:
        """Starts the program, the first time or again, or by its policy after `before`; the caller holds
        the lock."""
        # Meanwhile nobody knows whether its policy goes on after it.
        self._beginning = True
        try:
            self._begin_run(before)
        finally:
            self._beginning = False
            self._journal.poke()

    def _begin_run(self, before: Run | None) -> None:
        self._check_layer("start")
        # Two mounts with one writable layer would ruin it.
        self._close_files()
        if self._run is not None:
            self._run.close()
        self._journal.begin(again=self._run is not None)
        self._paused = False
        last = self._run
        try:
            run = Run.begin(
                self.image, self.args, self.options, self._layer, self._wiring, self._journal, self._keep
            )
        except BaseException:
            # Broken off after it was kept: done where it runs, else undone.
            if self._run is not None and not self._running():
                self._run = last
            raise
        tell(self, "start")
        watch(self)
        self._restarts.watch(run, self._again, before)
        if self.healthcheck is not None:
            from pycontainer.health import Health

            self._health = Health(self, run, self.healthcheck)

    def _processes(self, run: Run) -> builtins.list[Found]:
        from pycontainer import processes

        started = run.job.started
        return [] if started is None else processes.find(run.execution.cgroup, started.pid)

    def _stats_if_running(self) -> Stats | None:
        run = self._run
        return self._measured(run) if run is not None and self._running() else None

    def _measured(self, run: Run) -> Stats:
        from pycontainer import measuring

        return measuring.measure(run.execution.cgroup, lambda: self._processes(run))

    def _more_to_come(self) -> bool:
        """Whether it may write more: before its first start, while it runs, and before a restart."""
        run = self._run
        if self._removed or self._owner_pid != os.getpid():
            return False
        if run is None or self._beginning:
            return True
        if self._running():
            self._journal.mind(run.job)
            return True
        return not run.output.finished or self._restarts.pending(run)

    def _again(self, run: Run) -> None:
        """Called when a program has ended that its restart policy wants again."""
        with self._changing:
            if self._removed or self._run is not run or not self._restarts.wanted:
                return
            self._begin(before=run)

    def _join(
        self, args: Any, stdin: Any, stdout: Any, stderr: Any, overrides: dict[str, Any], *, report: bool
    ) -> Execution:
        target = self._require_running("exec").execution
        here = target.session
        options = launch.joining_options(self.options, overrides)
        who = launch.identity(self.image, options.user, here, self._root)
        command = launch.joining_command(args, options, who, target.command.env)
        streams = execution.open_streams(options, stdin, stdout, stderr, pumped=not report)
        tell(self, "exec", args=command.shown)
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
                oom_before=execution.oom_kills(target),
            )
        except BaseException:
            streams.close()
            raise
        finally:
            streams.close_child()

    def _served(self) -> Served:
        """What serves its files (and sockets, while it runs), as it is now."""
        with in_time.locked(self._changing):
            self._check_process()
            self._check_layer("files")
            run = self._run if self._run is not None and self._running() else None
            if self._files is not None and (self._files.ended or self._files_of is not run):
                self._close_files()
            if self._files is None:
                self._files = (
                    inside.serve_running(run)
                    if run is not None
                    else inside.serve_layer(self.image, self.options, self._layer)
                )
                self._files_of = run
            return self._files

    def _serving(self) -> Served:
        """What serves the running container, never what serves the files of one that does not run: that
        is in the host's network."""
        with self._changing:
            self._require_alive("connect")
            served = self._served()
            if self._files_of is None:
                raise self._not_in("connect", "running")
            return served

    def _close_files(self) -> None:
        files, self._files, self._files_of = self._files, None, None
        if files is not None:
            files.close()

    def _thaw(self) -> None:
        if self._paused and self._run is not None:
            self._run.thaw()
        self._paused = False

    def _check_process(self) -> None:
        if self._owner_pid != os.getpid():
            raise InvalidState(f"{self._shown()} belongs to process {self._owner_pid}, which forked this one")

    def _shown(self) -> str:
        return f"container {self._called()}"

    def _called(self) -> str:
        return self.id[:12] if self.name is None else self.name

    def _not_in(self, verb: str, state: str) -> InvalidState:
        actual = "removed" if self._removed else self.status
        return InvalidState(f"{verb}: {self._shown()} is {actual}, not {state}")

    def _started(self, verb: str) -> Run:
        self._check_process()
        if self._run is None:
            raise self._not_in(verb, "started")
        return self._run

    def _require_alive(self, verb: str) -> Run:
        run = self._started(verb)
        if not self._running():
            raise self._not_in(verb, "running")
        return run

    def _require_running(self, verb: str) -> Run:
        run = self._require_alive(verb)
        if self._paused:
            raise self._not_in(verb, "running")
        return run

    def _running(self) -> bool:
        assert self._run is not None
        if self._owner_pid != os.getpid():
            return self._run.job.final is None
        return self._run.running()

    def _end_now(self) -> None:
        self._restarts.end()
        with self._changing:
            if self._run is not None:
                self._run.job.end()
                self._thaw()
                if not self._run.ended(time.monotonic() + _END_SECONDS):
                    raise ContainerError(
                        f"{self._shown()} was killed {_END_SECONDS:g} s ago and does not die: "
                        "a process in it waits in the kernel"
                    )

    def _stop_signal(self) -> int:
        if self.options.stop_signal is not None:
            return self.options.stop_signal
        named = self.image.config.stop_signal
        return _SIGTERM if named is None else parse_signal(named, option="the image's stop signal")


def healthcheck_of(image: Image, options: Options) -> Healthcheck | None:
    """The option's, or else the image's. Raises InvalidImage, which `healthcheck=False` avoids."""
    if options.healthcheck is not None:
        return options.healthcheck or None
    if image.config.healthcheck is None:
        return None
    from pycontainer import healthcheck

    return healthcheck.of_image(image.config.healthcheck)


def wanted_labels(
    labels: Mapping[str, str | None] | str | Iterable[str] | None,
) -> dict[str, str | None]:
    """What a list is asked for: names and their values, None for any. Raises InvalidOption."""
    if labels is None or isinstance(labels, Mapping):
        return dict(labels or {})
    wanted: dict[str, str | None] = {}
    for label in [labels] if isinstance(labels, str) else option_values.items(labels, "labels"):
        if not isinstance(label, str):
            raise refuse("labels", label, "must be a name, or name=value")
        name, separator, value = label.partition("=")
        wanted[name] = value if separator else None
    return wanted


def all_labels(own: Mapping[str, str], wanted: Mapping[str, str | None]) -> bool:
    """Whether all that is wanted is there; None wants any value."""
    return all(name in own and value in (None, own[name]) for name, value in wanted.items())
