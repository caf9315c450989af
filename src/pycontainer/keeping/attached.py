"""A persistent container as any process has it: the whole of `Container`, asked of its keeper."""

from __future__ import annotations

import builtins
import datetime
import io
import os
import socket
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

import attrs

from pycontainer import in_time, known
from pycontainer.container import Container, Status, healthcheck_of
from pycontainer.errors import (
    ContainerNotFound,
    InvalidState,
    Timeout,
)
from pycontainer.happenings import tell
from pycontainer.keeping import control, forks, plain, spawning, telling
from pycontainer.keeping import record as records
from pycontainer.keeping.joining import Joints
from pycontainer.keeping.kept import of_image, to_image
from pycontainer.keeping.links import NoKeeper
from pycontainer.keeping.peer import Peer
from pycontainer.keeping.proxy import Proxied
from pycontainer.keeping.record import Record
from pycontainer.keeping.written import WatchedJournal
from pycontainer.lives import LIMITS, now
from pycontainer.options import Options
from pycontainer.output import Output
from pycontainer.publishing import HostPort, Ports
from pycontainer.store import HostRoot, LayeredRoot, Store
from pycontainer.store.persistent import Persistent, discard
from pycontainer.supervisor import files
from pycontainer.units import check_timeout, parse_duration, parse_signal

if TYPE_CHECKING:
    from pycontainer.attaching import Attachment
    from pycontainer.changes import Change
    from pycontainer.completed import Completed
    from pycontainer.execution import Execution
    from pycontainer.health import HealthResult, State
    from pycontainer.healthcheck import Healthcheck
    from pycontainer.image import Image
    from pycontainer.lives import Run
    from pycontainer.measuring import Stats
    from pycontainer.networks import Network
    from pycontainer.supervisor.served import Served
    from pycontainer.templates import Preparing, Template
    from pycontainer.wait import Strategy

_SIGKILL = 9
_QUICK_SECONDS = 30.0
"""How long a keeper may take for what needs no waiting."""
_BEGIN_SECONDS = 15.0
"""How long a keeper may take to begin, or what one that died has left to end."""
_RETRY_SECONDS = 0.005


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
        self.home = store.path
        self._changing = threading.RLock()
        self._image = image
        self._latest = record
        self._peer = Peer(store.path, record)
        self._joints = Joints(self._peer.links)
        self._journal: WatchedJournal = WatchedJournal(
            self._peer.path, self._peer.more_to_come, self._peer.watch
        )
        self._files: Proxied | None = None
        self._network: Proxied | None = None
        self._removed = False
        self.created_at = records.known_time(record.created_at)
        forks.remember(self)

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
            with known.naming(store.path, options.name):
                making.publish(options.name)
        except BaseException:
            with making.held:
                discard(making.path, files.remove_tree)
            raise
        made = cls(store, record, image)
        try:
            made._peer.links.keep(
                spawning.begin(store.path, making.id, making.path, making.held, record.environ)
            )
            telling.listen(made.directory)
        except BaseException:
            made.remove(force=True)
            raise
        tell(made, "create")
        return made

    @property
    def directory(self) -> str:
        """Its own, in the store."""
        return self._peer.path

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
        return self._record().status  # type: ignore[return-value]

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
    def healthcheck(self) -> Healthcheck | None:  # type: ignore[override]
        """What is asked while it runs; the option's, or else the image's."""
        return healthcheck_of(self.image, self.options)

    @property
    def health(self) -> State | None:
        """What its healthcheck says while it runs: "starting", "healthy" or "unhealthy"; else None."""
        return self._record().health  # type: ignore[return-value]

    @property
    def health_log(self) -> builtins.list[HealthResult]:
        """How its healthcheck ended the last times since its last start, oldest first."""
        from pycontainer.health import HealthResult

        try:
            document, _ = self._peer.ask("health_log")
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

    @property
    def ports(self) -> Ports:
        """Its published ports while it runs: where the host has them, by "80/tcp" or 80; see `Ports`."""
        published = self._record().ports
        return Ports({name: [HostPort(*one) for one in where] for name, where in published.items()})

    @property
    def addresses(self) -> dict[str, tuple[str, ...]]:
        """All its addresses while it runs, by the names of its keeper's networks."""
        return dict(self._record().addresses)

    def __repr__(self) -> str:
        name = "" if self.name is None else f" {self.name}"
        return f"<Container {self.id[:12]}{name} {self.status} persistent>"

    # Life.

    def start(self, timeout: float | None = None) -> Container:
        timeout = check_timeout(timeout)
        with in_time.handed_over() as left:
            self._peer.ask("start", revive=True, timeout=left if timeout is None else timeout)
        return self

    def wait(self, timeout: float | None = None) -> Completed:
        """As `Container.wait`; waiting that is broken off leaves the container alone."""
        timeout = check_timeout(timeout)
        deadline = control.deadline_in(timeout)
        try:
            try:
                return self._peer.result("wait", deadline=deadline)
            except TimeoutError:
                found = self._peer.result("so_far", deadline=time.monotonic() + _QUICK_SECONDS)
        except NoKeeper as gone:
            return self._peer.left(gone.record, "wait")
        if found.returncode is not None:
            return found  # it has ended meanwhile
        assert timeout is not None
        raise Timeout(found, timeout)

    def kill(self, signal: int | str = "KILL") -> None:
        number = parse_signal(signal, option="signal")
        try:
            self._peer.ask("kill", signal=number)
        except NoKeeper as gone:
            raise self._peer.not_now("kill", gone.record) from None

    def stop(self, timeout: float | None = None) -> Completed:
        if timeout is not None:
            timeout = parse_duration(timeout, option="timeout")
        try:
            return self._peer.result("stop", timeout=timeout)
        except NoKeeper as gone:
            return self._peer.left(gone.record, "stop")

    def restart(self, timeout: float | None = None) -> Container:
        if timeout is not None:
            timeout = parse_duration(timeout, option="timeout")
        self._peer.ask("restart", revive=True, timeout=timeout)
        return self

    def pause(self) -> None:
        self._peer.of_running("pause")

    def unpause(self) -> None:
        self._peer.of_running("unpause")

    def update(self, **limits: Any) -> None:
        for name in limits:
            if name not in LIMITS:
                raise TypeError(f"update() got an unexpected keyword argument {name!r}")
        chosen = Options.merge(self.options, limits)
        data = {name: plain.of_value(getattr(chosen, name), name) for name in limits}
        self._peer.ask("update", revive=True, limits=data)

    def remove(self, force: bool = False) -> None:
        """Remove a container that does not run, or with `force` any; twice does no harm."""
        self._latest = self._peer.remove(force) or self._latest
        self._removed = True
        telling.finish(self.directory)
        self._joints.close()
        self._close_files()

    @property
    def stdin(self) -> BinaryIO | None:
        """As `Container.stdin`. Its descriptor is the keeper's, too: closing it is the program's end of
        file, the end of this process is not."""
        try:
            _, fds = self._peer.ask("stdin")
        except NoKeeper:
            return None
        return _Input(fds[0], self._peer) if fds else None

    def attach(self) -> Attachment:
        from pycontainer.attaching import Attachment

        if not self._peer.more_to_come():
            raise self._not_in("attach", "created or running")
        return Attachment(self.options.tty, self._journal, self._output)

    def resize(self, rows: int, columns: int) -> None:
        self._peer.of_running("resize", rows=rows, columns=columns)

    def wait_until(self, strategy: Strategy, timeout: float | None = None) -> None:
        """As `Container.wait_until`; functions and TLS contexts cannot be asked in another process, so a
        strategy with one is an InvalidOption."""
        data = plain.of_value(strategy, "strategy")
        self._peer.of_running("wait_until", strategy=data, timeout=check_timeout(timeout))

    def prepare(self, fn_or_args: Preparing, *, timeout: float | None = None) -> Container:
        timeout = check_timeout(timeout)
        if callable(fn_or_args):
            fn_or_args(self)
        else:
            self._peer.ask("prepare", revive=True, args=plain.of_args(fn_or_args), timeout=timeout)
        return self

    def forward(self, port: int | str, *, host: str | None = None, host_port: int = 0) -> HostPort:
        """As `Container.forward`, by the keeper: it lasts until the container ends, whatever becomes of this
        process."""
        where = plain.of_value({"host": host, "host_port": host_port}, "forward")
        try:
            answer, _ = self._peer.ask("forward", port=plain.of_value(port, "port"), where=where)
        except NoKeeper as gone:
            raise self._peer.not_now("forward", gone.record) from None
        return HostPort(answer["host"], answer["port"])

    def diff(self, *, timeout: float | None = None) -> builtins.list[Change]:
        document, _ = self._peer.ask("diff", revive=True, timeout=check_timeout(timeout))
        return [*plain.to_value(document["changes"])]

    def export(self, path: str | os.PathLike[str], *, timeout: float | None = None) -> None:
        timeout = check_timeout(timeout)
        self._peer.ask("export", revive=True, path=os.path.abspath(path), timeout=timeout)

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
        data = plain.of_value(config, "config")
        how = {"ref": ref, "author": author, "message": message, "pause": pause, "config": data}
        document, _ = self._peer.ask("commit", revive=True, timeout=check_timeout(timeout), **how)
        image = to_image(self._store, document["image"])
        image.rootfs()  # from here on it is kept here
        return image

    def seal(self, timeout: float | None = None) -> Template:
        """A template ends with its process, so this one cannot become one: raises InvalidState."""
        raise InvalidState(f"seal: {self._shown()} is persistent; commit it to an image and fork that")

    # How.

    def _record(self) -> Record:
        """How it stands; of one that was removed, how it stood."""
        try:
            self._latest = self._peer.record()
        except ContainerNotFound:
            self._latest = self._latest.without_keeper(removed=True)
        return self._latest

    @property
    def _root(self) -> HostRoot | LayeredRoot:  # type: ignore[override]
        return self.image.rootfs()

    def _stats_if_running(self) -> Stats | None:
        try:
            return self._measured(self._require_alive("stats"))
        except (InvalidState, ContainerNotFound):
            return None

    def _output(self) -> Output | None:
        return _Streams(self) if self.status in ("running", "paused") else None

    def _more_to_come(self) -> bool:
        return self._peer.more_to_come()

    def _check_process(self) -> None:
        """It belongs to no process."""

    def _started(self, verb: str) -> Run:
        return self._require_running(verb)

    def _require_alive(self, verb: str) -> Run:
        try:
            return self._joints.run(paused=True)
        except NoKeeper as gone:
            raise self._peer.not_now(verb, gone.record) from None

    def _require_running(self, verb: str) -> Run:
        try:
            return self._joints.run()
        except NoKeeper as gone:
            raise self._peer.not_now(verb, gone.record) from None

    def _join(self, *args: Any, **kwargs: Any) -> Execution:
        begun = super()._join(*args, **kwargs)
        self._joints.began(begun.job)
        return begun

    def _served(self) -> Served:
        with in_time.locked(self._changing):
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
            _, fds = self._peer.ask("files", revive=not running, running=running, timeout=in_time.left())
        except NoKeeper as gone:
            raise self._peer.not_now("connect", gone.record) from None
        # Of this object it knows nothing: that ends with the last reference to it.
        check = self._peer.check_running if running else self._peer.record
        return Proxied(socket.socket(fileno=fds[0]), check)

    def _connect_to(self, network: Network, aliases: Sequence[str], addresses: Sequence[str]) -> None:
        raise self._keepers_network("connect")

    def _disconnect_from(self, network: Network) -> None:
        raise self._keepers_network("disconnect")

    def _keepers_network(self, verb: str) -> InvalidState:
        return InvalidState(
            f"{verb}: {self._shown()} is persistent, and its network its keeper's, which is another process: "
            "networks end with the process that made them. Publish its ports, or connect() to it"
        )

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
        """In a forked child: the lock may be held for ever."""
        self._changing = threading.RLock()
        self._files = self._network = None


class _Streams(Output):
    """Its program's, as far as an attachment needs them."""

    def __init__(self, container: Attached) -> None:
        self._container = container

    @property
    def stdin(self) -> BinaryIO | None:  # type: ignore[override]
        return self._container.stdin

    def terminal(self) -> int | None:
        return self._container._peer.terminal()

    def resize(self, rows: int, columns: int) -> None:
        self._container.resize(rows, columns)


class _Input(io.FileIO):
    """Closing it closes the keeper's, too; being thrown away does not."""

    def __init__(self, fd: int, peer: Peer) -> None:
        super().__init__(fd, "w")
        self._peer = peer

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._peer.close_stdin()

    def __del__(self) -> None:
        super().close()
