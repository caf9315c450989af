"""One program under way, from its start to its result: what `run`, `exec` and `start` share."""

from __future__ import annotations

import codecs
import functools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import attrs

from pycontainer import launch, network_options
from pycontainer.completed import Cause, Completed, Usage
from pycontainer.errors import InvalidOption, LaunchError, SupervisorError, Timeout
from pycontainer.runtime import cgroups, plan
from pycontainer.streams import STDOUT, Pump, Streams, is_open
from pycontainer.supervisor import failure
from pycontainer.supervisor.client import RECORD, START
from pycontainer.units import refuse

if TYPE_CHECKING:
    from pycontainer._sys import Record
    from pycontainer.image import Image
    from pycontainer.launch import Command
    from pycontainer.options import Options
    from pycontainer.runtime.cgroups import CgroupPlan
    from pycontainer.runtime.plan import ContainerPlan
    from pycontainer.runtime.user import Identity
    from pycontainer.session import Session
    from pycontainer.store import ContainerDir
    from pycontainer.supervisor.client import Job
    from pycontainer.wiring import Wiring

_DEFAULT_TERMINAL = (24, 80)
_END_SECONDS = 30.0
_SETTLE_SECONDS = 0.001
_FIRST = plan.Place()


@attrs.frozen
class Text:
    """How captured bytes become text, as `subprocess` has it; None of it leaves them bytes."""

    on: bool = False
    encoding: str | None = None
    errors: str | None = None

    @classmethod
    def of(cls, text: bool, encoding: str | None, errors: str | None) -> Text:
        """Raises InvalidOption for what Python does not know, which it looks up when there are bytes only."""
        if encoding:
            with _named("encoding", encoding):
                " ".encode(encoding)
        if errors:
            with _named("errors", errors):
                codecs.lookup_error(errors)
        return cls(bool(text or encoding or errors), encoding, errors)

    def decode(self, data: bytes, *, cut: bool = False) -> Any:
        """`cut` off anywhere, within a character too, which must not hide that."""
        if not self.on:
            return data
        errors = self.errors or "strict"
        text = data.decode(self.encoding or "utf-8", "replace" if cut and errors == "strict" else errors)
        return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text

    def encode(self, data: Any) -> bytes:
        """Input for a program; text where text is on, else anything bytes-like."""
        if data is None:
            return b""
        if isinstance(data, str):
            if not self.on:
                raise InvalidOption("input: must be bytes, or text with text=True")
            return data.encode(self.encoding or "utf-8", self.errors or "strict")
        try:
            return bytes(memoryview(data))
        except TypeError:
            raise InvalidOption(f"input: must be bytes, not {type(data).__name__}") from None


BYTES = Text()


@contextmanager
def _named(option: str, name: object) -> Iterator[None]:
    try:
        yield
    except UnicodeError:
        pass  # a text encoding that has no space
    except (LookupError, TypeError, ValueError) as error:
        raise refuse(option, name, str(error)) from error


@attrs.define
class Execution:
    """A job of the supervisor that runs a program, and what its result needs."""

    job: Job
    streams: Streams
    command: Command
    session: Session
    cgroup: CgroupPlan | None
    encoded: bytes
    """The plan, for an error that names its operation."""
    oom_before: int = 0
    """Kills in the container before this program joined it."""
    joined: bool = False

    def pump(self, data: bytes = b"") -> Pump:
        return Pump(self.job, self.streams, data, alone=not self.joined)

    def final(self) -> Record:
        """The last record, once it is there. Raises `LaunchError` where there was no start, and
        `SupervisorError` where the supervisor died before it."""
        record = self.job.take()
        assert record is not None
        if record.kind == RECORD["FAILED"]:
            raise failure.launch_error(record, rootless=self.session.rootless, encoded=self.encoded)
        return record

    def completed(self, text: Text, *, timed_out: bool = False) -> Completed:
        """The result, from the final record and what was captured."""
        record = self.final()
        measured = self._measured(record)
        code = os.waitstatus_to_exitcode(record.status)
        cause: Cause = "exited" if code >= 0 else "signaled"
        if timed_out:
            cause = "timeout"
        elif code != 0 and (measured.oom_kills or 0) > self.oom_before:
            cause = "oom"
        return Completed(
            self.command.shown,
            code,
            self._captured("stdout", text, cut=timed_out),
            self._captured("stderr", text, cut=timed_out),
            cause=cause,
            usage=_usage(record, measured),
        )

    def so_far(self, text: Text) -> Completed:
        """Of a program that goes on: what was captured and used until now, and no `returncode`."""
        return Completed(
            self.command.shown,
            None,
            self._captured("stdout", text, cut=True),
            self._captured("stderr", text, cut=True),
            cause="timeout",
            usage=self._used() if self.job.final is None else self.completed(BYTES).usage,
        )

    def _used(self) -> Usage:
        from pycontainer import processes

        started = self.job.started
        if started is None:
            return Usage(0.0, 0.0, 0.0)
        measured = cgroups.CgroupUsage()
        if self.cgroup is not None:
            # It may end meanwhile.
            with suppress(OSError):
                measured = cgroups.usage(self.cgroup, cgroups.collect(self.cgroup))
        user, system = measured.user_cpu, measured.system_cpu
        if user is None or system is None:
            own = processes.below(processes.find(self.cgroup, started.pid), started.pid)
            user, system = processes.cpu_times(own)
        wall = max(0.0, time.monotonic() - started.started) if started.started else 0.0
        return Usage(wall, user, system, measured.peak_memory, measured.io_read, measured.io_write)

    def _measured(self, record: Record) -> cgroups.CgroupUsage:
        if self.cgroup is None or not record.collected:
            return cgroups.CgroupUsage()
        return cgroups.usage(self.cgroup, record.collected)

    def _captured(self, name: str, text: Text, *, cut: bool) -> Any:
        return text.decode(b"".join(self.streams.capture.get(name, ())), cut=cut)

    def run(self, data: bytes, text: Text, timeout: float | None, *, began: float) -> Completed:
        """Moves all bytes and waits. However it ends, nothing of the program is left."""
        deadline = None if timeout is None else began + timeout
        pump = self.pump(data)
        try:
            ended = pump.run(deadline)
            if not ended:
                pump.kill()
        except BaseException:
            abort(self.job)
            raise
        finally:
            self.streams.close()
        if ended:
            return self.completed(text)
        assert timeout is not None
        raise Timeout(self.completed(text, timed_out=True), timeout)


def abort(job: Job) -> None:
    """Ends a program whose caller is being interrupted; that exception goes on afterwards.

    Nobody reads its streams any more, and whoever moved their bytes may have been broken off
    anywhere."""
    job.end()
    # The supervisor's death has ended the program, too.
    with suppress(SupervisorError):
        job.wait(_END_SECONDS)


def settle(job: Job) -> None:
    """After a start that failed or was broken off anywhere: nothing of it is there when this returns."""
    if job.channel >= 0:
        abort(job)
        return
    with suppress(SupervisorError):
        # Asked for or not; nobody will say how it ended.
        job.end()
        while job.final is None and job.supervisor.has(job.id):
            time.sleep(_SETTLE_SECONDS)


def _usage(record: Record, measured: cgroups.CgroupUsage) -> Usage:
    return Usage(
        max(0.0, record.exited - record.started) if record.started else 0.0,
        record.user if measured.user_cpu is None else measured.user_cpu,
        record.system if measured.system_cpu is None else measured.system_cpu,
        measured.peak_memory,
        record.input_bytes if measured.io_read is None else measured.io_read,
        record.output_bytes if measured.io_write is None else measured.io_write,
    )


_Given = ParamSpec("_Given")
_Made = TypeVar("_Made")


def launching(step: Callable[_Given, _Made]) -> Callable[_Given, _Made]:
    """A start's system calls in this process fail (no descriptor is left, say) as `LaunchError`."""

    @functools.wraps(step)
    def typed(*args: _Given.args, **kwargs: _Given.kwargs) -> _Made:
        try:
            return step(*args, **kwargs)
        except OSError as error:
            raise LaunchError("preparing a start", errno=error.errno, path=error.filename) from error

    return typed


@launching
def open_streams(options: Options, stdin: Any, stdout: Any, stderr: Any, *, pumped: bool = False) -> Streams:
    # Before anything is opened here that could take the number of a closed one.
    for fd in options.pass_fds:
        if not is_open(fd):
            raise InvalidOption(f"pass_fds={fd}: is not an open descriptor")
    streams = Streams(tty=options.tty)
    streams.open(stdin, stdout, None if options.tty and stderr == STDOUT else stderr, pumped=pumped)
    return streams


@attrs.frozen
class Request:
    """What the supervisor is asked for one container, but for its streams."""

    plan: bytes
    cleanup: bytes
    flags: int
    command: Command
    groups: CgroupPlan
    lock: tuple[int, ...] = ()
    """The descriptor of what stays locked as long as anything of the container is there."""
    network: tuple[int, ...] = ()


@attrs.frozen
class Decided:
    """Everything about one container but its program."""

    plan: ContainerPlan
    cleanup: bytes
    flags: int
    groups: CgroupPlan
    who: Identity
    hostname: str
    lock: tuple[int, ...]
    network: tuple[int, ...]

    def request(self, image: Image, args: Any, options: Options) -> Request:
        """With its program. Raises InvalidOption."""
        command = launch.command(image, args, options, self.who, self.hostname)
        whole = self.plan.whole(command.argv, command.paths, command.env)
        return Request(whole, self.cleanup, self.flags, command, self.groups, self.lock, self.network)


@launching
def decide(
    session: Session,
    image: Image,
    options: Options,
    *,
    container: str,
    root: plan.Root,
    place: plan.Place = _FIRST,
    layer_fds: Sequence[int] = (),
    directory: ContainerDir | None = None,
    once: bool,
    wiring: Wiring,
) -> Decided:
    """`container` is its id, `root` its writable layer, with `place` and `layer_fds` where that is in memory,
    and `directory` where it is on disk; that is removed with a container that runs `once`. The others get a
    STARTED record. What `wiring` makes for it is given up by its end, or the caller."""
    who = launch.identity(image, options.user, session)
    hostname = hostname_of(options, container)
    limits = options.limits()
    groups = session.limits(container, limits, defaults=options.pids is None, freezer=not once)
    network = wiring.begin(session.supervisor, hostname)
    joins = wiring.namespace >= 0
    shape = launch.shape(session, image, options, who, groups, place, joins_network=joins)
    encoded = plan.container(
        shape,
        root,
        groups,
        hostname=hostname,
        pass_fds=options.pass_fds,
        tty=_DEFAULT_TERMINAL if options.tty else None,
        network=network,
        network_fd=plan.STDIO + len(options.pass_fds) + options.tty + len(layer_fds),
        once=once,
    )
    flags = START["NEW_PIDNS"] | (START["INIT"] if options.init else 0)
    flags |= (0 if once else START["REPORT"]) | (START["HOLD"] if directory is not None else 0)
    flags |= START["BESIDE"] if plan.made_beside(groups) else 0
    lock, trees = [], []
    if directory is not None:
        if directory.group.temporary:
            session.answer_for(directory.group.path)
        lock = [directory.group.fd]
        trees = [directory.path] if once else []
    cleanup = plan.cleanup(groups, trees, reused=plan.reuses(shape, root))
    return Decided(encoded, cleanup, flags, groups, who, hostname, tuple(lock), network.descriptors)


@launching
def begin_container(
    session: Session,
    request: Request,
    options: Options,
    streams: Streams,
    *,
    layer_fds: Sequence[int] = (),
    job: Job | None = None,
) -> Execution:
    """Ask for a container. It is under way when this returns; how it went is in the job's records."""
    fds = _descriptors([*request.lock], streams, options)
    fds += layer_fds
    fds += request.network
    job = session.supervisor.start(request.plan, request.cleanup, fds, flags=request.flags, job=job)
    return Execution(job, streams, request.command, session, request.groups, request.plan)


@launching
def oom_kills(target: Execution) -> int:
    """Kills in its container so far, so that a program's own can be told from them."""
    groups = target.cgroup
    return 0 if groups is None else cgroups.usage(groups, cgroups.collect(groups)).oom_kills or 0


def hostname_of(options: Options, container: str) -> str:
    return options.hostname or dict(options.sysctls).get("kernel/hostname") or container[:12]


@launching
def begin_joining(
    session: Session,
    target: int,
    options: Options,
    who: Identity,
    command: Command,
    streams: Streams,
    cgroup: CgroupPlan | None,
    *,
    cwd: str,
    report: bool,
    oom_before: int,
) -> Execution:
    """Ask for a program in the container of the job `target`."""
    encoded = plan.joining(
        launch.program(session, options, who, cwd),
        cgroup,
        argv=command.argv,
        paths=command.paths,
        env=command.env,
        pass_fds=options.pass_fds,
        tty=_DEFAULT_TERMINAL if options.tty else None,
        own_network=not network_options.is_hosts(options.network),
    )
    flags = START["INIT"] | (START["REPORT"] if report else 0)
    job = session.supervisor.start(
        encoded,
        plan.cleanup(cgroup, remove=False),
        _descriptors([], streams, options),
        flags=flags,
        target=target,
    )
    return Execution(job, streams, command, session, cgroup, encoded, oom_before, joined=True)


def _descriptors(fds: list[int], streams: Streams, options: Options) -> list[int]:
    """In the order that the plan counts on: streams, what is passed on, the terminal's socket."""
    fds += streams.child
    fds += options.pass_fds
    if streams.tty:
        fds.append(streams.console_child)
    return fds
