"""The container that a keeper holds: an ordinary one, of which is written down how it stands."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import attrs

from pycontainer import execution
from pycontainer.blobs.failures import store_errors
from pycontainer.container import Container
from pycontainer.errors import StoreError, SupervisorError
from pycontainer.image import Image
from pycontainer.keeping import plain
from pycontainer.keeping import record as records
from pycontainer.keeping.record import Ended, Record
from pycontainer.keeping.written import DIRECTORY
from pycontainer.lives import Restarts
from pycontainer.logs.files import FileLog
from pycontainer.minding import minder
from pycontainer.oci import media_types
from pycontainer.oci.descriptor import Descriptor
from pycontainer.oci.digest import Digest
from pycontainer.options import Options
from pycontainer.store import ContainerDir, HostRoot, LayeredRoot, Store
from pycontainer.store.claims import Containers
from pycontainer.store.persistent import LAYER
from pycontainer.writable import DiskLayer, MemoryLayer

if TYPE_CHECKING:
    from pycontainer.completed import Completed
    from pycontainer.lives import Run
    from pycontainer.runtime import plan
    from pycontainer.supervisor.served import Served

HOST = "host"


def of_image(image: Image) -> dict[str, str]:
    """What is written down of an image, to open it again. Raises what opening it raises."""
    digest = image.digest
    return {"name": HOST} if digest is None else {"digest": str(digest), "id": str(image.id)}


def to_image(store: Store, found: dict[str, str]) -> Image:
    """The image, also where it was removed from the store's catalogue: its content stays as long as the
    container. Raises StoreError where it does not."""
    if found.get("name") == HOST:
        return Image.host()
    from pycontainer.store.catalog import Entry

    digest = Digest(found["digest"])
    size = store.layout.blobs.size(digest) or 0
    manifest = Descriptor(media_types.OCI_MANIFEST, digest, size)
    return Image(store, Entry(manifest, Digest(found["id"])))


class _Held(Containers):
    """Instead of a process's directory of containers: one that stays, under the lock of its keeper."""

    temporary = False

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self._fd = fd

    @property
    def fd(self) -> int:
        return self._fd


class KeptLayer(DiskLayer):
    """A layer on disk that is there until the container is removed, whatever becomes of the keeper."""

    def __init__(self, root: LayeredRoot, container: str, path: str, held: int) -> None:
        """`held` is the keeper's lock. Raises NoSpace and StoreError."""
        place = os.path.join(path, LAYER)
        before = os.path.lexists(place)
        upper, work = os.path.join(place, "upper"), os.path.join(place, "work")
        with store_errors("making", place):
            os.makedirs(work, 0o700, exist_ok=True)
            if not os.path.lexists(upper):
                os.mkdir(upper)
                # The keeper's umask is not the container's.
                os.chmod(upper, 0o755)
        super().__init__(root, directory=ContainerDir(container, place, upper, work, _Held(path, held)))
        self._used = before

    def use(self) -> plan.Root:
        return attrs.evolve(super().use(), durable=True)


class Kept(Container):
    """A container whose state is written down whenever it changes."""

    def __init__(self, store: Store, path: str, base: Record, held: int, told: Callable[[], None]) -> None:
        """`told` is called after each change, when that has been written; it must not block. Raises what
        `Container` raises, and StoreError."""
        self._base = attrs.evolve(
            base, boot=records.boot_id(), keeper=records.own_start(), ports={}, addresses={}
        )
        self._path = path
        self._told = told
        self._writing = threading.Lock()
        self._written: Record | None = None
        self._recording = True
        image = to_image(store, base.image)
        root = image.rootfs()
        if isinstance(root, HostRoot):
            layer: KeptLayer | MemoryLayer = MemoryLayer()
            layer.id = base.id
        else:
            layer = KeptLayer(root, base.id, path, held)
        options = base.read_options()
        super().__init__(image, base.args, Options.merge(options, {"log": "memory"}), layer)
        self.options = options
        # Where it is found without a keeper, too.
        self._journal.log = FileLog(os.path.join(path, DIRECTORY))
        self.created_at = records.known_time(base.created_at)
        self._restarts = Restarts(self.options.restart, self._decided)
        self.changed()

    def record(self) -> Record:
        """How it stands."""
        run = self._run
        options = attrs.evolve(self._base, options=plain.of_options(self.options))
        if run is None:
            was = "created" if self._base.started_at is None else "stopped"
            return attrs.evolve(options, status=was, pid=None)
        status = self.status
        ended = None if status != "stopped" else self._ended()
        return attrs.evolve(
            options,
            status=status,
            pid=self.pid,
            started_at=records.text_of(self.started_at),
            finished_at=None if status != "stopped" else records.text_of(run.finished_at),
            ended=ended,
            restarts=self.restarts,
            health=self.health,
            **({} if status == "stopped" else self._networking()),
        )

    def _networking(self) -> dict[str, Any]:
        ports = self.ports
        where = {name: tuple(map(tuple, ports.all(name))) for name in ports}
        return {"ports": where, "addresses": self.addresses}

    def changed(self) -> None:
        """Writes down how it stands. Raises nothing: there is nobody here to raise it to, and the keeper
        looks after its directory itself."""
        with self._writing:
            now = self.record()
            if self._recording and now != self._written:
                # Where the disk is full, the next change is written.
                with suppress(StoreError):
                    now.write(self._path)
                    self._written = now
        self._told()

    def record_no_more(self) -> None:
        """From here on nothing is written into its directory, which is to be removed."""
        with self._writing:
            self._recording = False

    def has_ended(self) -> bool:
        """Whether its program was started and has ended, and no restart policy wants it again."""
        run = self._run
        if run is None:
            return self._base.started_at is not None
        return not self._running() and not self._restarts.pending(run)

    def result(self, *, unseen: Ended | None = None) -> Completed:
        """After the end. Where nobody could tell how it ended, that is `unseen`; without it, raises
        SupervisorError."""
        run = self._run
        if run is not None and not (run.job.lost and unseen):
            return run.completed()
        ended = self._base.ended if run is None else None
        if ended is None or ended.code is None:
            ended = unseen
        if ended is None:
            raise SupervisorError("waiting for the container, whose keeper died")
        return ended.completed(self.args, self._path)

    def so_far(self) -> Completed:
        """As `result`, at any time after the start: without `returncode` where the end is still to come."""
        run = self._run
        return self.result() if run is None or self.has_ended() else run.so_far()

    def joinable(self, *, paused: bool) -> Run:
        """Its running program; one that is paused only where that is asked for. Raises InvalidState."""
        return self._require_alive("exec") if paused else self._require_running("exec")

    def served(self) -> Served:
        """What serves its files. Raises InvalidState and LaunchError."""
        return self._served()

    def more_to_come(self) -> bool:
        """Whether it may write more."""
        if self._run is None:
            return self._base.started_at is None
        return self._more_to_come()

    def hear(self, call: Callable[[], None]) -> None:
        """Has `call` called when it has written something, or when nothing more comes."""
        self._journal.listen(call)

    def unhear(self, call: Callable[[], None]) -> None:
        """The opposite of `hear`."""
        self._journal.leave(call)

    def terminal(self) -> int | None:
        """A descriptor of its terminal, the caller's; None without one."""
        return None if self._run is None else self._run.output.terminal()

    def serving(self) -> Served:
        """What serves its network, too, while it runs. Raises InvalidState and LaunchError."""
        return self._serving()

    @property
    def was_started(self) -> bool:
        """By this keeper or one before."""
        return self._run is not None or self._base.started_at is not None

    def _ended(self) -> Ended:
        assert self._run is not None
        if self._run.job.lost:
            return Ended()
        done = self._run.execution.completed(execution.BYTES)
        return Ended(done.returncode, done.cause, done.usage)

    def _begin(self, before: Run | None = None) -> None:
        super()._begin(before)
        assert self._run is not None
        minder().after_end(self._run.job, self.changed)
        self.changed()

    def _decided(self) -> None:
        self._journal.poke()
        self.changed()
