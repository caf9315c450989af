"""Writable layers: what a container writes, from its making until it is removed.

On an image's layers it is a directory of the store. On the host image it is in memory, since overlay
takes no upper directory inside its lower one: a file system in a mount namespace of its own, which
lives as long as somebody holds the namespace's descriptor.
"""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Generic, TypeVar

from pycontainer import _sys, session
from pycontainer.errors import LaunchError
from pycontainer.runtime import plan
from pycontainer.snapshot import overlay
from pycontainer.store import HostRoot
from pycontainer.supervisor import files

if TYPE_CHECKING:
    from pycontainer.store import ContainerDir, LayeredRoot, RootFS


AnyLayer = TypeVar("AnyLayer", "DiskLayer", "MemoryLayer")


class Sealed(Generic[AnyLayer]):
    """A layer that never changes again. It is there as long as a template or a layer holds it that
    stands on it."""

    def __init__(self, layer: AnyLayer) -> None:
        """Takes over a layer that nobody has mounted any more; the caller is its first holder."""
        self.layer: AnyLayer = layer
        self._holders = 1
        self._lock = threading.Lock()

    def hold(self) -> bool:
        """One more holder; False where the last one is gone, and the layer with it."""
        with self._lock:
            self._holders += self._holders > 0
            return self._holders > 0

    def let_go(self) -> None:
        """One holder less; the last one removes the layer. Raises StoreError."""
        sealed: Sealed[AnyLayer] | None = self
        # Generations of forks would nest deeper than Python's stack.
        while sealed is not None and sealed._is_last():
            below, sealed.layer.below = sealed.layer.below, None
            sealed.layer.remove()
            sealed = below

    def _is_last(self) -> bool:
        with self._lock:
            self._holders -= 1
            return self._holders == 0


class DiskLayer:
    """A directory of the store, above the image's and those of sealed containers."""

    place = plan.Place()

    def __init__(
        self,
        root: LayeredRoot,
        below: Sealed[DiskLayer] | None = None,
        directory: ContainerDir | None = None,
    ) -> None:
        """Stands on `below`, which it holds already until it is removed; in `directory`, or a new one that
        goes with this process. Raises NoSpace and StoreError."""
        if directory is None:
            directory = root.store.new_container_dir()
            session.current().answer_for(directory.group.path)
        self.directory = directory
        self.id = self.directory.id
        self.root = root
        self.below = below
        self.stack: tuple[str, ...] = () if below is None else below.layer.uppers
        """The sealed layers that it stands on, topmost first."""
        self.lower = (*self.stack, *root.lower)
        self._used = False

    @property
    def uppers(self) -> tuple[str, ...]:
        """All that is above the image."""
        return (self.upper, *self.stack)

    @property
    def upper(self) -> str:
        return self.directory.upper

    def use(self) -> plan.Root:
        """For the next one to mount it; nobody else has it mounted."""
        used, self._used = self._used, True
        return plan.Root(
            self.lower,
            self.upper,
            self.directory.work,
            used=used,
            volumes=self.directory.volumes,
            volumes_lower=tuple([path for path in map(_volumes_beside, self.stack) if os.path.isdir(path)]),
        )

    def descriptors(self) -> list[int]:
        return []

    def taken(self) -> None:
        """After who mounted it has told how that went."""

    def remove(self) -> None:
        """Removes it with everything in it. Raises StoreError."""
        files.remove_tree(self.directory.path)
        below, self.below = self.below, None
        if below is not None:
            below.let_go()


def _volumes_beside(upper: str) -> str:
    """What a sealed container has written to its image's volumes: forks begin with that, too."""
    return os.path.join(os.path.dirname(upper), "volumes", "upper")


class MemoryLayer:
    """A file system in memory, above the host's root or a sealed layer in memory."""

    lower: tuple[str, ...] = ()

    def __init__(self, below: Sealed[MemoryLayer] | None = None) -> None:
        """Stands on `below`, which it holds already until it is removed."""
        self._namespace = _sys.Held()
        self._ours: socket.socket | None = None
        self._theirs: socket.socket | None = None
        self.id = os.urandom(16).hex()
        self.directory: ContainerDir | None = None
        self.below = below
        if below is None:
            self.place = plan.Place(overlay.BASE, kept=True)
        else:
            under: plan.Place = below.layer.place
            self.place = plan.Place(f"{under.base}/{overlay.NEXT}", (under.base, *under.below), kept=True)

    @property
    def namespace(self) -> int:
        """The descriptor that keeps it; -1 before its first use."""
        return self._namespace.fd

    def use(self) -> plan.Root:
        """For the next one to mount it; nobody else has it mounted."""
        if self.namespace >= 0:
            return plan.Root(used=True, joins=True)
        self._hang_up()
        try:
            self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            raise LaunchError("preparing a writable layer", errno=error.errno) from error
        self._ours.setblocking(False)
        return plan.Root(joins=self.below is not None, gives=True)

    def descriptors(self) -> list[int]:
        """In the order that `plan.Root` counts on."""
        if self.namespace >= 0:
            return [self.namespace]
        assert self._theirs is not None
        found = [] if self.below is None else [self.below.layer.namespace]
        return [*found, self._theirs.fileno()]

    def taken(self) -> None:
        """Takes the namespace in, once it is there: before the start's own record."""
        if self._ours is None or self._ours.fileno() < 0:
            # The second time, after one that was broken off.
            self._hang_up()
            return
        # It would block: what came before failed; nothing was written yet.
        with suppress(BlockingIOError):
            _sys.receive_fd(self._ours.fileno(), into=self._namespace)
        self._hang_up()

    def remove(self) -> None:
        """Gives it up; the kernel frees it with the last one who uses it."""
        self._close()
        below, self.below = self.below, None
        if below is not None:
            below.let_go()

    def __del__(self) -> None:
        # An exception may have come in the midst of `__init__`.
        with suppress(AttributeError):
            self._close()

    def _close(self) -> None:
        self._hang_up()
        self._namespace.close()

    def _hang_up(self) -> None:
        for end in (self._ours, self._theirs):
            if end is not None:
                end.close()
        self._ours = self._theirs = None


WritableLayer = DiskLayer | MemoryLayer


def new_layer(root: RootFS) -> WritableLayer:
    """A writable layer above `root`. Raises NoSpace and StoreError."""
    return MemoryLayer() if isinstance(root, HostRoot) else DiskLayer(root)
