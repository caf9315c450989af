"""The store: one directory, wired together.

oci-layout  index.json  blobs/      an OCI image layout, which other tools read in place
layers/<chain>/                     layers, unpacked once
containers/<id>/  hosts/<id>/  mounts/<id>/   what somebody alive is using; see `claims`
persistent/<id>/                    containers that outlive their process; see `persistent`
volumes/<name>/                     files that outlive containers; see `volumes`
floor/                              the lowest layer of every container; see `floor`
staging/                            files in the making
catalog.db  gc.lock  gc.turn        names and references; who writes and who prunes, and whose turn it is
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pycontainer import in_time
from pycontainer.blobs.failures import store_errors
from pycontainer.blobs.layout import Layout
from pycontainer.blobs.locks import Lock, lock_file
from pycontainer.blobs.staging import sweep
from pycontainer.errors import StoreBusy, StoreError
from pycontainer.layer.limits import Limits
from pycontainer.layer.unpacked import UnpackedLayers
from pycontainer.store.check import Problem, check
from pycontainer.store.claims import (
    ContainerDir,
    Containers,
    DeadOwner,
    MountPoint,
    Owner,
    abandoned,
    claim,
    sweep_containers,
    sweep_mounts,
)
from pycontainer.store.floor import make_floor
from pycontainer.store.persistent import Persistent
from pycontainer.store.volumes import sweep_volumes

if TYPE_CHECKING:
    from pycontainer.store.catalog import Catalog

_TURN = 1.0
_BREATH = 0.5
"""Seconds for which nobody begins to write, so that prune comes in when those who do have ended, and for
which they are let in again where that was not enough."""

_defaults: dict[str, Store] = {}
_defaults_lock = threading.Lock()


class Store:
    """A directory of images and containers, safe between threads and processes.

    Opening it makes what is missing and removes what dead processes left half-made. `path` is by
    default PYCONTAINER_STORE, /var/lib/pycontainer for root, and pycontainer below XDG_DATA_HOME
    (~/.local/share) for others. `limits` bound what one layer may unpack to. Raises StoreError.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, *, limits: Limits | None = None) -> None:
        self.path = os.path.abspath(default_path() if path is None else os.fspath(path))
        self.limits = limits or Limits()
        self.layout = Layout(self.path)
        self.layers = UnpackedLayers(os.path.join(self.path, "layers"))
        self._containers = os.path.join(self.path, "containers")
        self._hosts = os.path.join(self.path, "hosts")
        self._own: Containers | None = None
        self._mounts = os.path.join(self.path, "mounts")
        self._catalog: Catalog | None = None
        self._floored: tuple[str, ...] = ()
        self._lock = threading.Lock()
        self._make()
        self.recover()

    @staticmethod
    def default() -> Store:
        """The store that everything uses when it is given none. Raises StoreError."""
        path = default_path()
        store = _defaults.get(path)
        if store is None:
            with _defaults_lock:
                store = _defaults.get(path) or Store(path)
                _defaults[path] = store
        return store

    def __repr__(self) -> str:
        return f"Store({self.path!r})"

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def floor(self, files: tuple[str, ...]) -> str:
        """The layer below all others, with these files in it, empty. Raises StoreError."""
        path = os.path.join(self.path, "floor")
        if files != self._floored:
            make_floor(path, files)
            self._floored = files
        return path

    def close(self) -> None:
        """Closes the database; the next use of the store opens it again."""
        if self._catalog is not None:
            self._catalog.close()

    @property
    def catalog(self) -> Catalog:
        """Names and references. Opened on first use: running a container needs no database."""
        if self._catalog is None:
            from pycontainer.store.catalog import Catalog

            with self._lock:
                if self._catalog is None:
                    self._catalog = Catalog(os.path.join(self.path, "catalog.db"), self.layout)
        return self._catalog

    def check(self, *, timeout: float | None = None) -> list[Problem]:
        """Verifies all content and every reference; empty when all is well.

        Each layer is unpacked once more, and what containers see of it compared with that: it takes as long
        as loading all images did, and the space of the largest layer. Raises StoreError and LaunchError, and
        Timeout, for which all has ended, after `timeout` seconds.
        """
        with in_time.limited(timeout, "check", self.path), self.writing():
            return list(check(self))

    def prune(self, *, timeout: float = 60.0) -> int:
        """Removes images without a name that nobody is using, and content that no image refers to.

        Returns the bytes that came free. Raises StoreBusy when others write for longer than `timeout`
        seconds, and StoreError.
        """
        from pycontainer.store.collect import collect, drop_untagged

        self.recover()
        with self._exclusive(timeout):
            drop_untagged(self)
            return collect(self)

    def collect_now(self) -> None:
        """Removes content that no image refers to, unless somebody is writing. Raises StoreError."""
        from pycontainer.store.collect import collect

        lock = self._lock_file("gc.lock", shared=False, wait=False)
        if lock is not None:
            with lock:
                collect(self)

    def recover(self) -> None:
        """Removes what processes left that died half-way; cheap where there is nothing. Raises StoreError."""
        sweep(self.layout.staging)
        self.layers.recover()
        sweep_containers(self._containers, _remove_tree)
        Persistent(self.path).sweep(_remove_tree)
        sweep_mounts(self._mounts, _unmount)
        sweep_volumes(self.path, _remove_tree)

    def new_container_dir(self) -> ContainerDir:
        """A new container's own directory. Raises NoSpace and StoreError."""
        return self.own_containers().make()

    def own_containers(self) -> Containers:
        """What says that this process lives, or what it started. Raises NoSpace and StoreError."""
        own = self._own
        if own is None or not own.alive:
            with self._lock:
                own = self._own
                if own is None or not own.alive:
                    own = self._own = Containers(self._containers)
        return own

    def new_mount_point(self) -> MountPoint:
        """Where an image can be mounted. Raises NoSpace and StoreError."""
        return MountPoint.make(self._mounts)

    def owner(self) -> Owner:
        """A new supervisor's mark, held until the supervisor is gone. Raises NoSpace and StoreError."""
        lock = claim(self._hosts)
        return Owner(os.path.basename(lock.path), lock.path, lock)

    def dead_owners(self) -> list[DeadOwner]:
        """Supervisors that are gone without having been tidied up after. Raises StoreError."""
        return [DeadOwner(os.path.basename(lock.path), lock.path, lock) for lock in abandoned(self._hosts)]

    def empty_tree(self) -> str:
        """An empty directory: overlay wants a lower one for an image without layers. Raises StoreError."""
        path = os.path.join(self.path, "empty")
        with store_errors("making", path):
            os.makedirs(path, 0o755, exist_ok=True)
        return path

    @contextmanager
    def writing(self, sleep: Callable[[float], None] | None = None) -> Iterator[None]:
        """Held from before content is put into the store until an image refers to it: keeps prune away.

        With `sleep`, waiting for one is made of calls of it, which may raise.
        """
        while (lock := self._shared(wait=sleep is None)) is None:
            assert sleep is not None
            sleep(0.01)
        with lock:
            yield

    def _shared(self, *, wait: bool) -> Lock | None:
        """As others who write; not ahead of a prune whose turn it is."""
        turn = self._lock_file("gc.turn", shared=True, wait=wait)
        if turn is None:
            return None
        turn.release()
        return self._lock_file("gc.lock", shared=True, wait=wait)

    @contextmanager
    def _exclusive(self, timeout: float) -> Iterator[None]:
        deadline = time.monotonic() + timeout
        while (lock := self._alone(deadline)) is None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise StoreBusy(f"{self.path}: others were writing for {timeout:g} s")
            time.sleep(min(_BREATH, left))
        with lock:
            yield

    def _alone(self, deadline: float) -> Lock | None:
        """When those who write have ended, while nobody else begins; None where they do not for a while."""
        until = min(deadline, time.monotonic() + _TURN)
        turn = self._lock_until(until, "gc.turn")
        if turn is None:
            return None
        with turn:
            return self._lock_until(until, "gc.lock")

    def _lock_until(self, until: float, name: str) -> Lock | None:
        while (lock := self._lock_file(name, shared=False, wait=False)) is None:
            if time.monotonic() >= until:
                return None
            time.sleep(0.01)
        return lock

    def _lock_file(self, name: str, *, shared: bool, wait: bool) -> Lock | None:
        path = os.path.join(self.path, name)
        with store_errors("locking", path):
            return lock_file(path, shared=shared, wait=wait)

    def _make(self) -> None:
        with store_errors("opening the store", self.path):
            # Layers hold set-id files of strangers: nobody else on this machine may reach them.
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
            try:
                os.mkdir(self.path, 0o700)
            except FileExistsError:
                owner = os.stat(self.path).st_uid
                if owner != os.geteuid():
                    raise StoreError(f"the store {self.path} belongs to user {owner}") from None
            for name in (self.layers.root, self._containers, self._hosts, self._mounts):
                os.makedirs(name, exist_ok=True)
        self.layout.create()


def default_path() -> str:
    """Where the default store is."""
    if path := os.environ.get("PYCONTAINER_STORE"):
        return os.path.abspath(path)
    if os.geteuid() == 0:
        return "/var/lib/pycontainer"
    data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return os.path.join(data, "pycontainer")


def _unmount(path: str, *directories: str) -> None:
    from pycontainer.supervisor import files

    files.unmount(path, *directories)


def _remove_tree(path: str) -> None:
    from pycontainer.supervisor import files

    files.remove_tree(path)
