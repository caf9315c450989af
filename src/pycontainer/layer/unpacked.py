"""Unpacked layers: `layers/<chain>/`, each made once, under a lock, from the layer's tar stream.

A chain ID names a layer and all below it (image-spec, config.md, "Layer ChainID"), so images that
start with the same layers share these directories. Inside, `tree/` is the layer's own changeset and
`layer.json` says what it is; `tree/` may hold files that only the supervisor can read or remove.

Whoever makes or removes a layer holds `<chain>.lock`; whoever uses it holds a shared lock on the
directory itself, its lease, which therefore cannot exist without the layer. Whoever gives the former
up deletes its file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import attrs

from pycontainer.blobs.failures import store_errors
from pycontainer.blobs.locks import Lock, lock_file, share, try_lock, wait_for
from pycontainer.errors import InvalidImage, StoreCorrupt, StoreError
from pycontainer.layer.apart import make_apart
from pycontainer.layer.apply import apply
from pycontainer.layer.limits import Limits
from pycontainer.oci import _document as d
from pycontainer.oci.digest import Digest

_NOTES = "notes"
"""While a layer is being made: what remains to be settled with those below it (layer.h)."""
_ROOT_OPAQUE = b"/\0"
"""The last of the notes, where it is true."""


def chain_ids(diff_ids: Iterable[Digest]) -> list[Digest]:
    """The chain ID of each layer, lowest first."""
    chains: list[Digest] = []
    for diff_id in diff_ids:
        chains.append(Digest.of(f"{chains[-1]} {diff_id}".encode()) if chains else diff_id)
    return chains


@attrs.frozen
class LayerInfo:
    """What `layer.json` says; `size` is the tar stream's, in bytes.

    `root_opaque`: nothing of the layers below it is to be seen, which overlay cannot be told.
    """

    diff_id: Digest
    parent: Digest | None
    size: int
    root_opaque: bool = False


class NewLayer:
    """A layer that is unpacked but not in its place yet; nobody else makes it meanwhile."""

    def __init__(
        self, layers: UnpackedLayers, chain: Digest, info: LayerInfo, staged: str, lock: Lock
    ) -> None:
        self._layers = layers
        self._chain = chain
        self._info = info
        self._staged = staged
        self._lock = lock

    def __del__(self) -> None:
        # An exception out of a signal's handler may come before anybody has it in hand.
        with suppress(StoreError):
            self.drop()

    @property
    def tree(self) -> str:
        """Where its files are meanwhile."""
        return os.path.join(self._staged, "tree")

    def settle(self) -> None:
        """Makes its files what they will be, from those of the layers below it. Raises StoreError."""
        self._info = self._layers._settle(self._info, self._staged)

    def commit(self) -> Lock:
        """Puts the layer into its place, where those below it are already; its lease. Raises StoreError,
        and then nothing of it is left."""
        try:
            lease = self._layers._commit(self._chain, self._info, self._staged)
        except BaseException:
            self.drop()
            raise
        self._layers._give_up(self._lock)
        return lease

    def drop(self) -> None:
        """Removes what was unpacked, unless it was committed. Raises StoreError."""
        if self._lock.fd < 0:
            return
        try:
            self._layers._remove(self._staged)
        finally:
            self._layers._give_up(self._lock)


class UnpackedLayers:
    """The directory `layers/` of a store."""

    def __init__(self, root: str) -> None:
        self.root = root

    def directory(self, chain: Digest) -> str:
        return os.path.join(self.root, chain.hex)

    def tree(self, chain: Digest) -> str:
        """Where the layer's files are, or would be: a lower directory for overlay."""
        return os.path.join(self.root, chain.hex, "tree")

    def exists(self, chain: Digest) -> bool:
        """Whether the layer is unpacked."""
        return os.path.isdir(self.tree(chain))

    def lease(self, chain: Digest) -> Lock | None:
        """What keeps the layer, and all below it, from being pruned; None where it is not unpacked.

        Raises StoreError.
        """
        with store_errors("locking", self.directory(chain)):
            return share(self.directory(chain))

    def ensure(
        self,
        chain: Digest,
        parent: Digest | None,
        diff_id: Digest,
        stream: Callable[[], Iterator[bytes]],
        limits: Limits,
    ) -> Lock:
        """Unpacks the layer unless it is there already, whoever else is doing the same; returns its lease.

        `stream()` starts its uncompressed tar stream. Raises what `apply` raises, InvalidImage where
        the stream is not `diff_id`, and StoreError; nothing half-made is left.
        """
        found = self.make(chain, parent, diff_id, stream, limits)
        return found.commit() if isinstance(found, NewLayer) else found

    def make(
        self,
        chain: Digest,
        parent: Digest | None,
        diff_id: Digest,
        stream: Callable[[], Iterator[bytes]],
        limits: Limits,
        *,
        sleep: Callable[[float], None] | None = None,
    ) -> Lock | NewLayer:
        """As `ensure`, but what is unpacked only comes into its place with `NewLayer.commit`: layers can
        be made at the same time, and there is none without those below it. The lease where it is there.

        With `sleep`, waiting for others is made of calls of it, which may raise.
        """
        while True:
            lease = self.lease(chain)
            if lease is not None:
                return lease
            lock = self._lock(chain, sleep)
            try:
                if not os.path.isdir(self.directory(chain)):
                    return self._unpack(chain, LayerInfo(diff_id, parent, 0), stream, limits, lock)
            except BaseException:
                self._give_up(lock)
                raise
            self._give_up(lock)

    def _unpack(
        self,
        chain: Digest,
        info: LayerInfo,
        stream: Callable[[], Iterator[bytes]],
        limits: Limits,
        lock: Lock,
    ) -> NewLayer:
        staged = self.directory(chain) + ".new"
        self._remove(staged)
        try:
            with store_errors("unpacking a layer in", staged):
                os.mkdir(staged, 0o700)
                tree = make_apart(staged, "tree")
                # The umask has no say in what a container sees as its root directory.
                os.chmod(tree, 0o755)
            measured = apply(
                stream(),
                tree,
                limits.within(self.root),
                algorithm=info.diff_id.algorithm,
                notes=None if info.parent is None else os.path.join(staged, _NOTES),
            )
            if measured.diff_id != info.diff_id:
                raise InvalidImage(f"a layer is {measured.diff_id} and should be {info.diff_id}")
            return NewLayer(self, chain, attrs.evolve(info, size=measured.size), staged, lock)
        except BaseException:
            self._remove(staged)
            raise

    def difference(self, chain: Digest, stream: Callable[[], Iterator[bytes]], limits: Limits) -> str | None:
        """What is other in the layer's files than in its stream, which is unpacked once more for that.

        The layers below it are there. Raises as `make`, StoreCorrupt where it is not as it was made, and
        ImageError where its files cannot be read.
        """
        from pycontainer.layer.compare import difference

        info = self.info(chain)
        lock = self._lock(chain)
        try:
            again = self._unpack(chain, info, stream, limits, lock)
        except BaseException:
            self._give_up(lock)
            raise
        try:
            again.settle()
            return difference(self.tree(chain), again.tree)
        finally:
            again.drop()

    def _commit(self, chain: Digest, info: LayerInfo, staged: str) -> Lock:
        info = self._settle(info, staged)
        document: dict[str, Any] = {
            "diff_id": str(info.diff_id),
            "parent": None if info.parent is None else str(info.parent),
            "size": info.size,
        }
        if info.root_opaque:
            document["root_opaque"] = True
        with store_errors("unpacking a layer in", staged):
            with open(os.path.join(staged, "layer.json"), "xb") as file:
                file.write(d.dump(document))
            os.rename(staged, self.directory(chain))
        lease = self.lease(chain)
        assert lease is not None  # who removes a layer needs the lock, which is ours
        return lease

    def _settle(self, info: LayerInfo, staged: str) -> LayerInfo:
        """What could not be known before the layers below were there: how directories look that the
        layer only implies, and whether those layers are to be seen at all."""
        notes = os.path.join(staged, _NOTES)
        if info.parent is None or not os.path.exists(notes):
            return info
        with store_errors("reading", notes), open(notes, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - len(_ROOT_OPAQUE)))
            opaque = file.read() == _ROOT_OPAQUE
        if size > len(_ROOT_OPAQUE) or not opaque:
            from pycontainer.supervisor import files

            files.adopt_looks(notes, os.path.join(staged, "tree"), () if opaque else self.stack(info.parent))
        with store_errors("removing", notes):
            os.unlink(notes)
        return attrs.evolve(info, root_opaque=opaque)

    def stack(self, chain: Digest) -> tuple[str, ...]:
        """The trees that make up what the layer and those below it show, topmost first. Raises StoreCorrupt
        and StoreError; the caller holds a lease of the layer."""
        trees: list[str] = []
        below: Digest | None = chain
        while below is not None:
            info = self.info(below)
            trees.append(self.tree(below))
            below = None if info.root_opaque else info.parent
        return tuple(trees)

    def info(self, chain: Digest) -> LayerInfo:
        """What the layer is. Raises StoreCorrupt where its directory is not as it was made."""
        path = os.path.join(self.directory(chain), "layer.json")
        try:
            with store_errors("reading", path), open(path, "rb") as file:
                fields = d.load(file.read(d.MAX_DOCUMENT + 1), path)
            return LayerInfo(
                diff_id=fields.required("diff_id", Digest.check),
                parent=fields.optional("parent", Digest.check),
                size=fields.required("size", d.check_size),
                root_opaque=fields.optional("root_opaque", _check_true) or False,
            )
        except InvalidImage as error:
            raise StoreCorrupt(str(error)) from None

    def note_origin(self, chain: Digest, blob: Digest) -> None:
        """Notes that the blob was unpacked and is this layer's stream; the caller has a lease. Raises
        NoSpace and StoreError."""
        if self.has_origin(chain, blob):
            return
        path = os.path.join(self.directory(chain), "origins")
        with store_errors("writing", path), open(path, "ab", buffering=0) as file:
            file.write(f"{blob}\n".encode("ascii"))

    def has_origin(self, chain: Digest, blob: Digest) -> bool:
        """Whether that was noted. Raises StoreError."""
        path = os.path.join(self.directory(chain), "origins")
        with store_errors("reading", path):
            try:
                with open(path, "rb") as file:
                    return f"{blob}\n".encode("ascii") in file.readlines()
            except FileNotFoundError:
                return False

    def chains(self) -> list[Digest]:
        """All layers that are unpacked. Raises StoreError."""
        with store_errors("listing", self.root):
            names = sorted(os.listdir(self.root))
        return [chain for name in names if (chain := _chain(name)) is not None]

    def remove(self, chain: Digest) -> int | None:
        """Removes the layer; the bytes that its stream had, None where it is in use. Raises StoreError."""
        with self._held(self._lock(chain)):
            with store_errors("locking", self.directory(chain)):
                unused = try_lock(self.directory(chain))
            if unused is None:
                return None
            try:
                size = self.info(chain).size
            except StoreCorrupt:
                size = 0  # damaged, and about to be gone: how large it was is all that is lost
            doomed = self.directory(chain) + ".old"
            with store_errors("removing", self.directory(chain)):
                os.rename(self.directory(chain), doomed)
            unused.release()
            self._remove(doomed)
            return size

    def in_use(self, chain: Digest) -> bool:
        """Whether somebody holds a lease of the layer. Raises StoreError."""
        path = self.directory(chain)
        with store_errors("locking", path):
            lock = try_lock(path)
        if lock is None:
            return os.path.isdir(path)
        lock.release()
        return False

    def recover(self) -> None:
        """Removes what processes left that died while they made or removed a layer. Raises StoreError."""
        with store_errors("sweeping", self.root):
            names = os.listdir(self.root)
        for name in names:
            stem, _, suffix = name.partition(".")
            chain = _chain(stem)
            if chain is None or suffix not in ("new", "old"):
                continue
            lock = self._try_lock(chain)
            if lock is not None:
                with self._held(lock):
                    self._remove(os.path.join(self.root, name))
        self.sweep_locks()

    def sweep_locks(self) -> None:
        """Deletes the lock files that nobody holds. Raises StoreError."""
        with store_errors("sweeping", self.root):
            names = [name for name in os.listdir(self.root) if name.endswith(".lock")]
            for name in names:
                lock = try_lock(os.path.join(self.root, name))
                if lock is not None:
                    lock.unlink()

    def _remove(self, path: str) -> None:
        if os.path.lexists(path):
            from pycontainer.supervisor import files

            files.remove_tree(path)

    def _lock_path(self, chain: Digest) -> str:
        return self.directory(chain) + ".lock"

    def _lock(self, chain: Digest, sleep: Callable[[float], None] | None = None) -> Lock:
        path = self._lock_path(chain)
        with store_errors("locking", path):
            lock = lock_file(path) if sleep is None else wait_for(path, sleep)
        assert lock is not None
        return lock

    def _try_lock(self, chain: Digest) -> Lock | None:
        with store_errors("locking", self._lock_path(chain)):
            return lock_file(self._lock_path(chain), wait=False)

    @contextmanager
    def _held(self, lock: Lock) -> Iterator[None]:
        try:
            yield
        finally:
            self._give_up(lock)

    def _give_up(self, lock: Lock) -> None:
        with store_errors("deleting", lock.path):
            lock.unlink()


def _chain(name: str) -> Digest | None:
    """The chain ID that a directory is named after; the length tells which kind of digest it is."""
    for algorithm in ("sha256", "sha512"):
        if Digest.is_valid(f"{algorithm}:{name}"):
            return Digest(f"{algorithm}:{name}")
    return None


def _check_true(value: object, where: str) -> bool:
    if value is not True:
        raise InvalidImage(f"{where}: is true or not there")
    return True
