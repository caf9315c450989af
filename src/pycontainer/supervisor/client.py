"""One supervisor per process: started at first use, gone with the process.

Requests go over one socket, from any thread. Each job has a channel of its own for its records,
so no thread ever reads another one's, and the end of a channel without a final record means that
the supervisor is gone.
"""

from __future__ import annotations

import errno
import itertools
import os
import select
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from pycontainer import _sys
from pycontainer.errors import PycontainerError, SupervisorError
from pycontainer.supervisor import failure, idmap
from pycontainer.supervisor import plan as plans

if TYPE_CHECKING:
    from pycontainer._sys import Record

VERB = _sys.constants("pctr_verb", "PCTR_VERB_")
START = _sys.constants("pctr_start_flag", "PCTR_START_")
RECORD = _sys.constants("pctr_record_kind", "PCTR_RECORD_")

_REQUEST = struct.Struct("=IIQQIiII")
_CAP_SYS_ADMIN = 1 << 21
_FIRST_JOB = 16
_SIGKILL = 9
_HELLO_SECONDS = 10.0

if _REQUEST.size != _sys.REQUEST_SIZE:
    raise ImportError("the compiled module was built from another protocol.h: build it again")


class Job:
    """One thing the supervisor does for us; its records arrive on `channel`.

    Whoever waits polls the channel for reading and then calls `take`. The job owns the channel and lets go
    of it at the final record. Until somebody calls `keep`, the job ends with this object: an
    exception out of a signal's handler, wherever it comes, leaves nobody else to end it.
    """

    __slots__ = (
        "_channel",
        "_ended",
        "_kept",
        "_lock",
        "_pid",
        "_telling",
        "final",
        "id",
        "lost",
        "started",
        "supervisor",
    )

    def __init__(self, supervisor: Supervisor, job: int) -> None:
        self._channel = _sys.Held()
        self._kept = False
        self._pid = os.getpid()
        self.supervisor = supervisor
        self.id = job
        self.started: Record | None = None
        self.final: Record | None = None
        self.lost = False
        """The supervisor died before it said how the job ended."""
        self._ended: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        # What is called may ask for the final record.
        self._telling = threading.RLock()

    @property
    def channel(self) -> int:
        """-1 after the final record."""
        return self._channel.fd

    @property
    def held(self) -> _sys.Held:
        """The channel for who polls it: its number stays what it is as long as this is referred to.
        Another thread may take the final record in meanwhile, and a closed descriptor's number is soon
        another file's, at which nobody would hear of the end; the record itself stays in the channel."""
        return self._channel

    def send(self, message: bytes, fds: Sequence[int]) -> Job:
        """Ask for it."""
        try:
            self.supervisor.send(message, fds, self._channel)
        except BaseException:
            self.abandon()
            raise
        return self

    def keep(self) -> None:
        """From here on somebody has this job in hand, who ends it."""
        self._kept = True

    def abandon(self) -> None:
        """End it, without waiting for that; its records go nowhere."""
        if self.channel < 0:
            return
        if self.final is None and self._pid == os.getpid():
            with suppress(SupervisorError):
                self.signal(_SIGKILL)
        self._channel.close()

    def __del__(self) -> None:
        # The exception may have come in the midst of `__init__`.
        with suppress(AttributeError):
            if not self._kept:
                self.abandon()

    def on_end(self, call: Callable[[], None]) -> None:
        """Has `call` called once, by whoever takes the final record in or finds the supervisor dead;
        at once where that was before. A signal's handler that raises in the midst has it called again."""
        with self._lock:
            if self.final is None and not self.lost:
                self._ended.append(call)
                return
        call()

    def take(self) -> Record | None:
        """Takes in what has arrived; gives the final record (EXITED or FAILED) once it is there.

        Raises `SupervisorError` when the supervisor died; the job's processes died with it.
        """
        try:
            return self._take()
        finally:
            if self.final is not None or self.lost:
                self.tell_end()

    def tell_end(self) -> None:
        """After the end: returns when all that `on_end` was given has been called, by whichever thread, so
        that nobody goes on as after an end that others have not heard of."""
        with self._telling:
            with self._lock:
                calls, self._ended = self._ended, []
            _call_all(calls)

    def _take(self) -> Record | None:
        with self._lock:
            while self.final is None:
                if self.channel < 0:
                    raise self._lost()
                try:
                    record = _sys.receive(self.channel, peek=True)
                except BlockingIOError:
                    return None
                except ConnectionResetError:
                    record = None
                if record is None:
                    self._channel = _sys.Held()
                    raise self._lost()
                if record.kind == RECORD["STARTED"]:
                    self.started = record
                    _sys.receive(self.channel)
                    return None
                self.final = record
                self._channel = _sys.Held()
            return self.final

    def wait(self, seconds: float | None = None) -> Record | None:
        """Waits for the final record; None when time ran out. Raises `SupervisorError`."""
        deadline = None if seconds is None else time.monotonic() + seconds
        channel = self.held
        while (record := self.take()) is None:
            poll = select.poll()
            poll.register(channel.fd, select.POLLIN)
            if not _sys.poll(poll, deadline):
                return None
        return record

    def signal(self, number: int) -> None:
        """Deliver a signal; one to a job that has ended goes nowhere."""
        if self.final is None and not self.lost:
            self.supervisor.signal(self.id, number)

    def end(self) -> None:
        """Kill everything that the job started, also what its program left behind in a container
        that it had joined. Raises nothing: a dead supervisor has taken all of it along."""
        if not self.lost:
            with suppress(SupervisorError):
                self.supervisor.signal(self.id, _SIGKILL)

    def stop(self) -> None:
        """Kill it, unless it has ended, and wait until it is gone: what it worked on is left alone then."""
        if self.final is None and self.channel >= 0 and self._pid == os.getpid():
            self.end()
            with suppress(SupervisorError):
                self.wait()
        self.abandon()

    def _lost(self) -> SupervisorError:
        self.lost = True
        self.supervisor.died()
        return SupervisorError("waiting for the supervisor, which died", errno=errno.ECONNRESET)


def _call_all(calls: list[Callable[[], None]]) -> None:
    """Each of them; again, and the rest, where a signal's handler raised in the midst."""
    try:
        _call_each(calls)
    except BaseException:
        _call_each(calls)
        raise


def _call_each(calls: list[Callable[[], None]]) -> None:
    while calls:
        calls[0]()
        del calls[0]


class Supervisor:
    """The connection to one running supervisor."""

    def __init__(self, *, rootless: bool | None = None) -> None:
        """Start one. `rootless` None: a user namespace is entered where this process cannot
        mount (user_namespaces(7)). Raises `SupervisorError` naming the stage."""
        self.pid = 0
        self.on_death: Callable[[], None] | None = None
        self._lock = threading.Lock()
        self._jobs: Iterator[int] = itertools.count(_FIRST_JOB)
        try:
            self._sock = _sys.Held()
            self.in_memory = _sys.start_supervisor(self._sock)
        except OSError as error:
            raise SupervisorError(
                "starting the supervisor", errno=error.errno, path=error.filename
            ) from error
        self.rootless = not _can_mount() if rootless is None else rootless
        self.idmap = idmap.find() if self.rootless else None
        try:
            if self.idmap is not None:
                self._enter_userns(self.idmap)
            self.hello(b"")
        except BaseException:
            self.close()
            raise

    def hello(self, final: bytes, lock: int | None = None) -> None:
        """Check the protocol, and leave a cleanup plan for the supervisor's own end and the
        descriptor of a lock that it holds until then (the caller's copy stays the caller's)."""
        message = self._message(VERB["HELLO"], cleanup=final) + final
        record = self._converse(message, () if lock is None else (lock,))
        if record is None:
            raise SupervisorError("starting the supervisor, which ended at once", errno=errno.EPIPE)
        if record.kind != RECORD["HELLO"]:
            raise failure.launch_error(record, rootless=self.rootless)
        self.pid = record.pid

    def new_job(self, number: int | None = None) -> Job:
        """One to be started: who has it in hand before can end it wherever the start was broken off. `number`
        where that is one of `reserve`."""
        return Job(self, next(self._jobs) if number is None else number)

    def start(
        self,
        plan: bytes,
        cleanup: bytes = b"",
        fds: Sequence[int] = (),
        *,
        flags: int = 0,
        target: int = 0,
        job: Job | None = None,
    ) -> Job:
        """Start a job. The descriptors are copied; the caller's stay the caller's."""
        job = job or self.new_job()
        number = job.id
        body = plan + cleanup
        if len(body) <= _sys.MAX_INLINE:
            message = self._message(VERB["START"], number, target, flags, plan=plan, cleanup=cleanup)
            return job.send(message + body, fds)
        memory: list[int] = []
        try:
            # Made and kept in one call into C, between whose parts no signal's handler can raise.
            memory.extend(map(os.memfd_create, ("pycontainer-plan",), (os.MFD_CLOEXEC,)))
            with open(memory[0], "wb", closefd=False) as file:
                file.write(body)
            flags |= START["PLAN_IN_FD"]
            message = self._message(VERB["START"], number, target, flags, plan=plan, cleanup=cleanup)
            return job.send(message, [*fds, *memory])
        finally:
            for fd in memory:
                os.close(fd)

    def make_ready(
        self,
        number: int,
        plan: bytes,
        cleanup: bytes,
        fds: Sequence[int] = (),
        *,
        flags: int,
        at_once: bool = False,
    ) -> None:
        """Have a container set up in advance, `at_once` or when nothing else is to be done: what `plan`
        says, without a program. A `start` of the job of that `number`, with the same set-up, goes on with it
        where it is still there; it is removed when nobody asks within `_sys.READY_SECONDS`, or that long
        after the end of what is under way now."""
        flags |= START["READY"] | (START["AT_ONCE"] if at_once else 0)
        message = self._message(VERB["START"], number, flags=flags, plan=plan, cleanup=cleanup)
        self.send(message + plan + cleanup, fds)

    def work(self, plan: bytes, fds: Sequence[int] = ()) -> Record:
        """Run a plan's set-up operations in a child and wait for it; gives the final record. A wait that is
        broken off ends the child."""
        job = self.start(plan, fds=fds, flags=START["WORK"])
        try:
            record = job.wait()
        except BaseException:
            job.stop()
            raise
        assert record is not None
        return record

    def has(self, job: int) -> bool:
        """Whether anything of a job is there. Raises `SupervisorError`."""
        record = self.start(
            plans.encode(plans.Data()), flags=START["WORK"] | START["OUTSIDE"], target=job
        ).wait()
        return record is None or record.kind != RECORD["FAILED"]

    def signal(self, job: int, number: int) -> None:
        self.send(self._message(VERB["SIGNAL"], job, signal=number))

    def reserve(self) -> int:
        """A job's number for later, or for another process that has a copy of the connection."""
        return next(self._jobs)

    def copy_connection(self) -> int:
        """A descriptor for such a process. Raises `SupervisorError` where the supervisor is gone."""
        with self._lock:
            if self.closed:
                raise SupervisorError("asking the supervisor", errno=errno.EPIPE)
            return os.dup(self._sock.fd)

    def died(self) -> None:
        """Called by whoever finds out: hangs up, and has its leavings removed, once."""
        with self._lock:
            tidy, self.on_death = self.on_death, None
            self.close()
        if tidy is not None:
            # What cannot be removed now (no descriptor is left, say), the store's next opener removes:
            # the caller's own error is the news.
            with suppress(OSError, PycontainerError):
                tidy()

    @property
    def closed(self) -> bool:
        return self._sock.fd < 0

    def close(self) -> None:
        """Hang up: the supervisor kills what it started and ends. A thread that is just sending keeps the
        descriptor until it has: its number may be that of a socket which this very request makes."""
        self._sock = _sys.Held()

    def __repr__(self) -> str:
        kind = "rootless" if self.rootless else "root"
        return f"<Supervisor pid={self.pid} {kind}{' closed' if self.closed else ''}>"

    def _enter_userns(self, maps: idmap.IdMap) -> None:
        body = maps.encode()
        record = self._converse(self._message(VERB["USERNS"]) + body)
        if record is not None:
            raise failure.launch_error(record, rootless=True)

    def _message(
        self,
        verb: int,
        job: int = 0,
        target: int = 0,
        flags: int = 0,
        signal: int = 0,
        plan: bytes = b"",
        cleanup: bytes = b"",
    ) -> bytes:
        return _REQUEST.pack(_sys.PROTOCOL_VERSION, verb, job, target, flags, signal, len(plan), len(cleanup))

    def send(self, message: bytes, fds: Sequence[int] = (), channel: _sys.Descriptor | None = None) -> None:
        """One request; what the supervisor has to say about it arrives on `channel`."""
        while True:
            sock = self._sock
            try:
                return _sys.request(sock.fd, message, fds, channel)
            except InterruptedError:
                continue
            except OSError as error:
                # EBADF may be a descriptor that the caller passes on, which is no reason to hang up.
                if error.errno in (errno.EPIPE, errno.ECONNRESET) or self.closed:
                    self.died()
                raise SupervisorError("asking the supervisor", errno=error.errno) from error

    def _converse(self, message: bytes, fds: Sequence[int] = ()) -> Record | None:
        """Sends a request and gives the one record that answers it, None for a closed channel."""
        channel = _sys.Descriptor()
        try:
            self.send(message, fds, channel)
            poll = select.poll()
            poll.register(channel.fd, select.POLLIN)
            if not _sys.poll(poll, time.monotonic() + _HELLO_SECONDS):
                raise SupervisorError("waiting for the supervisor", errno=errno.ETIMEDOUT)
            return _sys.receive(channel.fd)
        finally:
            channel.close()


def _can_mount() -> bool:
    """Whether this process has CAP_SYS_ADMIN where it is (capabilities(7))."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        for line in status:
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) & _CAP_SYS_ADMIN)
    return False


_lock = threading.Lock()
_current: Supervisor | None = None


def default() -> Supervisor:
    """This process's supervisor, started at first use; a forked child gets one of its own."""
    global _current
    supervisor = _current
    if supervisor is not None and not supervisor.closed:
        return supervisor
    with _lock:
        if _current is None or _current.closed:
            _current = Supervisor()
        return _current


def _after_fork_in_child() -> None:
    """Drops the parent's connection: using or, by exiting, closing it is the parent's business."""
    global _current, _lock
    _lock = threading.Lock()
    if _current is not None:
        _current.close()
        _current = None


os.register_at_fork(after_in_child=_after_fork_in_child)
