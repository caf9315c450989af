"""A persistent container as any process has it: the whole of `Container`, asked of its keeper."""

from __future__ import annotations

import builtins
import datetime
import io
import os
import socket
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, BinaryIO

import attrs

from pycontainer import known, runner
from pycontainer.blobs.locks import Lock, try_lock
from pycontainer.completed import Completed
from pycontainer.container import Container, Status
from pycontainer.errors import (
    ContainerNotFound,
    InvalidState,
    StoreBusy,
    SupervisorError,
    Timeout,
)
from pycontainer.keeping import control, plain, spawning
from pycontainer.keeping import record as records
from pycontainer.keeping.joining import Joints
from pycontainer.keeping.kept import KILLED, of_image, to_image
from pycontainer.keeping.links import Links, NoKeeper
from pycontainer.keeping.proxy import Proxied
from pycontainer.keeping.record import Record
from pycontainer.keeping.written import WatchedJournal
from pycontainer.lives import LIMITS, now
from pycontainer.options import Options
from pycontainer.output import Output
from pycontainer.store import HostRoot, LayeredRoot, Store
from pycontainer.store.persistent import HELD, Persistent, discard
from pycontainer.supervisor import files
from pycontainer.units import parse_duration, parse_signal

if TYPE_CHECKING:
    from pycontainer.attaching import Attachment
    from pycontainer.changes import Change
    from pycontainer.execution import Execution
    from pycontainer.health import HealthResult, State
    from pycontainer.image import Image
    from pycontainer.lives import Run
    from pycontainer.measuring import Stats
    from pycontainer.supervisor.served import Served
    from pycontainer.templates import Preparing, Template
    from pycontainer.wait import Strategy

_SIGKILL = 9
_QUICK_SECONDS = 30.0
"""How long a keeper may take for what needs no waiting."""
_BEGIN_SECONDS = 15.0
"""How long a keeper may take to begin, or what one that died has left to end."""
_RETRY_SECONDS = 0.005
_END_SECONDS = 30.0


class Attached(Container):
    """Belongs to nobody: threads, processes and forked children may use it at once.

    Leaving it as a context manager kills and removes it, as with any container; the end of this process
    does neither.
    """

    def __init__(self, store: Store, record: Record, image: Image | None = None) -> None:
        """For a container that is there. Raises StoreError."""
        self.id = record.id
        self.name = record.name
        self.args = record.args
        self._store = store
        self._persistent = Persistent(store.path)
        self._path = self._persistent.path(record.id)
        self._changing = threading.RLock()
        self._image = image
        self._links = Links(self._path)
        self._joints = Joints(self._links)
        self._journal: WatchedJournal = WatchedJournal(self._path, self._more_to_come, self._watch)
        self._files: Proxied | None = None
        self._network: Proxied | None = None
        self._removed = False
        self.created_at = records.known_time(record.created_at)
        _attached.add(self)

    @classmethod
    def make(cls, image: Image, args: Any, options: Options, store: Store | None) -> Attached:
        """A new container, with a keeper of its own. Raises InvalidOption for what cannot be written down,
        NameInUse, CapabilityUnavailable, StoreError, and what `Container` raises."""
        if options.log == "memory":
            options = Options.merge(options, {"log": "file"})
        root = image.rootfs()
        store = root.store if isinstance(root, LayeredRoot) else store or Store.default()
        record = Record(
            "", options.name, of_image(image), plain.of_args(args), plain.of_options(options),
            now().isoformat(), spawning.environ(),
        )  # fmt: skip
        making = Persistent(store.path).begin()
        try:
            record = attrs.evolve(record, id=making.id)
            record.write(making.path)
            with known.naming(options.name):
                making.publish(options.name)
        except BaseException:
            with making.held:
                discard(making.path, files.remove_tree)
            raise
        made = cls(store, record, image)
        try:
            made._links.keep(spawning.begin(store.path, making.id, making.path, making.held, record.environ))
        except BaseException:
            made.remove(force=True)
            raise
        return made

    # State.

    @property
    def image(self) -> Image:  # type: ignore[override]
        """What it was made from."""
        if self._image is None:
            self._image = to_image(self._store, self._record().image)
        return self._image

    @property
    def options(self) -> Options:  # type: ignore[override]
        """Its options now."""
        return self._record().read_options()

    @property
    def status(self) -> Status:
        """ "created", "running", "paused" or "stopped", as it is now."""
        try:
            return self._record().status  # type: ignore[return-value]
        except ContainerNotFound:
            return "stopped"

    @property
    def pid(self) -> int | None:
        """The host's number of the container's first process while it runs."""
        return self._record().pid

    @property
    def exit_code(self) -> int | None:
        """The program's exit status, -N after signal N; None before its end, and where it ended with
        its keeper."""
        record = self._record()
        return None if record.ended is None or record.status != "stopped" else record.ended.code

    @property
    def started_at(self) -> datetime.datetime | None:
        """When its program was started the last time."""
        return records.time_of(self._record().started_at)

    @property
    def finished_at(self) -> datetime.datetime | None:
        """When its program ended; None while it runs, before, and where it ended with its keeper."""
        return records.time_of(self._record().finished_at)

    @property
    def health(self) -> State | None:
        """What its healthcheck says while it runs: "starting", "healthy" or "unhealthy"; else None."""
        return self._record().health  # type: ignore[return-value]

    @property
    def health_log(self) -> builtins.list[HealthResult]:
        """How its healthcheck ended the last times since its last start, oldest first."""
        from pycontainer.health import HealthResult

        try:
            document, _ = self._ask("health_log")
        except NoKeeper:
            return []
        return [
            HealthResult(records.known_time(began), seconds, code, os.fsencode(output))
            for began, seconds, code, output in document["results"]
        ]

    @property
    def restarts(self) -> int:
        """How often its restart policy started it again."""
        return self._record().restarts

    def __repr__(self) -> str:
        name = "" if self.name is None else f" {self.name}"
        return f"<Container {self.id[:12]}{name} {self.status} persistent>"

    # Life.

    def start(self) -> Container:
        self._ask("start", revive=True)
        return self

    def wait(self, timeout: float | None = None) -> Completed:
        """As `Container.wait`; waiting that is broken off leaves the container alone."""
        timeout = runner.check_timeout(timeout)
        deadline = control.deadline_in(timeout)
        try:
            return self._result("wait", deadline=deadline)
        except NoKeeper as gone:
            return self._left(gone.record, "wait")
        except TimeoutError:
            assert timeout is not None
        self._kill_now()
        found = self._result("wait", deadline=time.monotonic() + _END_SECONDS)
        late = Completed(
            found.args, found.returncode, found.stdout, found.stderr, cause="timeout", usage=found.usage
        )
        raise Timeout(late, timeout)

    def kill(self, signal: int | str = "KILL") -> None:
        number = parse_signal(signal, option="signal")
        try:
            self._ask("kill", signal=number)
        except NoKeeper as gone:
            raise self._not_now("kill", gone.record) from None

    def stop(self, timeout: float | None = None) -> Completed:
        if timeout is not None:
            timeout = parse_duration(timeout, option="timeout")
        try:
            return self._result("stop", timeout=timeout)
        except NoKeeper as gone:
            return self._left(gone.record, "stop")

    def restart(self, timeout: float | None = None) -> Container:
        if timeout is not None:
            timeout = parse_duration(timeout, option="timeout")
        self._ask("restart", revive=True, timeout=timeout)
        return self

    def pause(self) -> None:
        self._of_running("pause")

    def unpause(self) -> None:
        self._of_running("unpause")

    def update(self, **limits: Any) -> None:
        for name in limits:
            if name not in LIMITS:
                raise TypeError(f"update() got an unexpected keyword argument {name!r}")
        chosen = Options.merge(self.options, limits)
        data = {name: plain.of_value(getattr(chosen, name), name) for name in limits}
        self._ask("update", revive=True, limits=data)

    def remove(self, force: bool = False) -> None:
        """Remove a container that does not run, or with `force` any; twice does no harm."""
        try:
            self._ask("remove", force=force)
        except ContainerNotFound:
            pass
        except NoKeeper:
            self._remove_here()
        self._removed = True
        self._links.close()
        self._joints.close()
        self._close_files()

    @property
    def stdin(self) -> BinaryIO | None:
        """As `Container.stdin`. Its descriptor is the keeper's, too: closing it is the program's end of
        file, the end of this process is not."""
        try:
            _, fds = self._ask("stdin")
        except NoKeeper:
            return None
        return _Input(fds[0], self) if fds else None

    def close_stdin(self) -> None:
        """The program's end of file."""
        try:
            self._ask("close_stdin")
        except (ContainerNotFound, NoKeeper):
            return

    def attach(self) -> Attachment:
        from pycontainer.attaching import Attachment

        if not self._more_to_come():
            raise self._not_in("attach", "created or running")
        return Attachment(self.options.tty, self._journal, self._output)

    def resize(self, rows: int, columns: int) -> None:
        self._of_running("resize", rows=rows, columns=columns)

    def wait_until(self, strategy: Strategy, timeout: float | None = None) -> None:
        """As `Container.wait_until`; functions and TLS contexts cannot be asked in another process, so a
        strategy with one is an InvalidOption."""
        data = plain.of_value(strategy, "strategy")
        self._of_running("wait_until", strategy=data, timeout=runner.check_timeout(timeout))

    def prepare(self, fn_or_args: Preparing, *, timeout: float | None = None) -> Container:
        timeout = runner.check_timeout(timeout)
        if callable(fn_or_args):
            fn_or_args(self)
        else:
            self._ask("prepare", revive=True, args=plain.of_args(fn_or_args), timeout=timeout)
        return self

    def diff(self) -> builtins.list[Change]:
        document, _ = self._ask("diff", revive=True)
        return [*plain.to_value(document["changes"])]

    def export(self, path: str | os.PathLike[str]) -> None:
        self._ask("export", revive=True, path=os.path.abspath(path))

    def commit(
        self,
        ref: str | None = None,
        *,
        author: str | None = None,
        message: str | None = None,
        pause: bool = True,
        **config: Any,
    ) -> Image:
        data = plain.of_value(config, "config")
        how = {"ref": ref, "author": author, "message": message, "pause": pause, "config": data}
        document, _ = self._ask("commit", revive=True, **how)
        image = to_image(self._store, document["image"])
        image.rootfs()  # from here on it is kept here
        return image

    def seal(self, timeout: float | None = None) -> Template:
        """A template ends with its process, so this one cannot become one: raises InvalidState."""
        raise InvalidState(f"seal: {self._shown()} is persistent; commit it to an image and fork that")

    # How.

    @property
    def _root(self) -> HostRoot | LayeredRoot:  # type: ignore[override]
        return self.image.rootfs()

    def _record(self) -> Record:
        """How it stands. Raises ContainerNotFound where it was removed."""
        try:
            document, _ = self._ask("status", deadline=time.monotonic() + _QUICK_SECONDS)
        except NoKeeper as gone:
            return gone.record
        return Record.of(document["record"], self._path)

    def _ask(
        self, verb: str, *, deadline: float | None = None, revive: bool = False, **fields: Any
    ) -> tuple[dict[str, Any], list[int]]:
        """Raises `NoKeeper` where nobody keeps it, unless one is to begin (`revive`)."""
        while True:
            try:
                return self._links.ask(verb, fields, deadline)
            except NoKeeper:
                if not revive:
                    raise
            self._revive()

    def _result(self, verb: str, **fields: Any) -> Completed:
        document, _ = self._ask(verb, **fields)
        return control.result_of(document["completed"])

    def _of_running(self, verb: str, **fields: Any) -> None:
        try:
            self._ask(verb, **fields)
        except NoKeeper as gone:
            raise self._not_now(verb, gone.record) from None

    def _not_now(self, verb: str, record: Record) -> InvalidState:
        return InvalidState(f"{verb}: {self._shown()} is {record.status}, not running")

    def _left(self, record: Record, verb: str) -> Completed:
        """What is known of the end of one that nobody keeps any more."""
        if record.started_at is None:
            raise self._not_now(verb, record)
        if record.ended is not None and record.ended.code is not None:
            return record.ended.completed(self.args, self._path)
        if verb == "stop":
            return KILLED.completed(self.args, self._path)
        raise SupervisorError(f"{verb}: {self._shown()} ended with its keeper, which died")

    def _kill_now(self) -> None:
        try:
            self.kill()
        except InvalidState:
            # It ended meanwhile.
            return

    def _revive(self) -> None:
        """Begins a new keeper, unless another process does. Raises ContainerNotFound and StoreBusy."""
        held = self._held()
        if held is not None:
            record = Record.read(self._path)
            self._links.keep(spawning.begin(self._store.path, self.id, self._path, held, record.environ))

    def _remove_here(self) -> None:
        held = self._held()
        if held is None:
            # Another process began a keeper meanwhile.
            return self.remove(force=True)
        with held:
            discard(self._persistent.hide(self.id, self.name), files.remove_tree)

    def _held(self) -> Lock | None:
        """The lock of the keeper, once what the last one left has ended; None where there is a new one.
        Raises ContainerNotFound and StoreBusy."""
        deadline = time.monotonic() + _BEGIN_SECONDS
        while (held := try_lock(os.path.join(self._path, HELD))) is None:
            Record.read(self._path)
            try:
                self._links.keep(self._links.fresh())
                return None
            except NoKeeper:
                if time.monotonic() >= deadline:
                    raise StoreBusy(f"{self._shown()}: what its keeper left does not end") from None
            time.sleep(_RETRY_SECONDS)
        return held

    def _stats_if_running(self) -> Stats | None:
        try:
            return self._measured(self._require_alive("stats"))
        except (InvalidState, ContainerNotFound):
            return None

    def _more_to_come(self) -> bool:
        try:
            return bool(self._ask("more")[0]["more"])
        except NoKeeper as gone:
            return gone.record.status == "created"
        except (ContainerNotFound, SupervisorError):
            return False

    def _watch(self) -> socket.socket | None:
        """A connection on which the keeper tells of news. One that was not started yet may get a keeper
        that nobody would hear of, so it gets one now."""
        try:
            self._ask("more", revive=self._record().status == "created")
            link = self._links.fresh()
        except (ContainerNotFound, NoKeeper):
            return None
        control.send(link, {"protocol": control.PROTOCOL, "verb": "watch"})
        return link

    def _output(self) -> Output | None:
        return _Streams(self) if self.status in ("running", "paused") else None

    def terminal(self) -> int | None:
        """A descriptor of its terminal, the caller's; None without one, and when it does not run."""
        try:
            _, fds = self._ask("terminal")
        except NoKeeper:
            return None
        return fds[0] if fds else None

    def _check_process(self) -> None:
        """It belongs to no process."""

    def _started(self, verb: str) -> Run:
        return self._require_running(verb)

    def _require_alive(self, verb: str) -> Run:
        try:
            return self._joints.run(paused=True)
        except NoKeeper as gone:
            raise self._not_now(verb, gone.record) from None

    def _require_running(self, verb: str) -> Run:
        try:
            return self._joints.run()
        except NoKeeper as gone:
            raise self._not_now(verb, gone.record) from None

    def _join(self, *args: Any, **kwargs: Any) -> Execution:
        begun = super()._join(*args, **kwargs)
        self._joints.began(begun.job)
        return begun

    def _served(self) -> Served:
        with self._changing:
            if self._files is None or self._files.ended:
                self._files = self._proxied(running=False)
            return self._files

    def _serving(self) -> Served:
        with self._changing:
            if self._network is None or self._network.ended:
                self._network = self._proxied(running=True)
            return self._network

    def _proxied(self, *, running: bool) -> Proxied:
        try:
            _, fds = self._ask("files", revive=not running, running=running)
        except NoKeeper as gone:
            raise self._not_now("connect", gone.record) from None
        return Proxied(socket.socket(fileno=fds[0]))

    def _close_files(self) -> None:
        for one in (self._files, self._network):
            if one is not None:
                one.close()
        self._files = self._network = None

    def __del__(self) -> None:
        self._close_files()

    def _not_in(self, verb: str, state: str) -> InvalidState:
        return InvalidState(f"{verb}: {self._shown()} is {self.status}, not {state}")

    def forget(self) -> None:
        """In a forked child: the connections are the parent's."""
        self._changing = threading.RLock()
        self._links.forget()
        self._joints.forget()
        self._journal.forget()
        for one in (self._files, self._network):
            if one is not None:
                one.forget()
        self._files = self._network = None


class _Streams(Output):
    """Its program's, as far as an attachment needs them."""

    def __init__(self, container: Attached) -> None:
        self._container = container

    @property
    def stdin(self) -> BinaryIO | None:  # type: ignore[override]
        return self._container.stdin

    def terminal(self) -> int | None:
        return self._container.terminal()

    def resize(self, rows: int, columns: int) -> None:
        self._container.resize(rows, columns)


class _Input(io.FileIO):
    """Closing it closes the keeper's, too; being thrown away does not."""

    def __init__(self, fd: int, container: Attached) -> None:
        super().__init__(fd, "w")
        self._container = container

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._container.close_stdin()

    def __del__(self) -> None:
        super().close()


_attached: weakref.WeakSet[Attached] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for container in list(_attached):
        container.forget()


os.register_at_fork(after_in_child=_after_fork_in_child)
