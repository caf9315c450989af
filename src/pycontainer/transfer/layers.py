"""The layers of one image: fetched and unpacked at the same time, several at once, each once."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from pycontainer.blobs.locks import Lock
from pycontainer.blobs.staging import StagedFile
from pycontainer.errors import InvalidImage, NotFound, StoreCorrupt
from pycontainer.layer.apply import measure
from pycontainer.layer.compression import decompress, peek
from pycontainer.layer.unpacked import NewLayer, chain_ids
from pycontainer.oci.config import ImageConfig
from pycontainer.oci.descriptor import Descriptor
from pycontainer.oci.digest import Digest
from pycontainer.oci.manifest import Manifest
from pycontainer.store.store import Store
from pycontainer.transfer.crew import Crew
from pycontainer.transfer.download import Download
from pycontainer.transfer.events import Pace, Step, Teller

if TYPE_CHECKING:
    from pycontainer.distribution.client import Client

_AT_ONCE = 3

Made = Lock | NewLayer


class Source:
    """Where blobs come from: a repository, and who tells about it."""

    def __init__(self, client: Client, repository: str, teller: Teller) -> None:
        self.client = client
        self.repository = repository
        self._teller = teller

    @contextmanager
    def branch(self) -> Iterator[Source]:
        """The same with connections of its own, which can be ended without harm to anybody else."""
        with self.client.branch() as client:
            yield Source(client, self.repository, self._teller)

    def tell(self, blob: Descriptor, step: Step, done: int) -> None:
        """Raises what the listener raises."""
        self._teller.tell(blob.digest, step, done, blob.size)

    def pieces(self, blob: Descriptor) -> Generator[bytes, None, None]:
        """The blob's content, verified, from this registry alone: never from the URLs that a descriptor
        may name (image-spec, descriptor.md, "urls"), which are a stranger's choice. Raises RegistryError."""
        try:
            yield from self.client.blob(self.repository, blob)
        except NotFound as error:
            if "urls" not in blob.extra:
                raise
            why = "it is kept elsewhere, and only content of the registry itself is fetched"
            raise NotFound(f"{error}: {why}", status=error.status, code=error.code, url=error.url) from None


def fetch_layers(
    store: Store, source: Source, manifest: Manifest, config: ImageConfig, check: Callable[[], None]
) -> Lock | None:
    """Brings all layers' blobs into the store and unpacks them; the lease of the topmost, None where there
    is none. The caller is `writing`. `check` is called all the while; where it raises, that is the end.

    Raises RegistryError, InvalidImage and UnsafeLayer, StoreError, and what the listener raises.
    """
    chains = chain_ids(config.diff_ids)
    parents = [None, *chains]
    lease: Lock | None = None

    def make(number: int) -> Made:
        layer = _Layer(store, own, crew, manifest.layers[number])
        return layer.make(chains[number], parents[number], config.diff_ids[number])

    tasks = [partial(make, number) for number in range(len(chains))]
    try:
        with source.branch() as own, Crew(tasks, _AT_ONCE, _drop, own.client.close) as crew:
            for made, chain, blob in zip(crew.results(check), chains, manifest.layers, strict=True):
                upper = made.commit() if isinstance(made, NewLayer) else made
                store.layers.note_origin(chain, blob.digest)
                # Only the topmost lease is kept; until that is held, each keeps the ones below.
                if lease is not None:
                    lease.release()
                lease = upper
    except BaseException:
        if lease is not None:
            lease.release()
        raise
    return lease


def _drop(made: Made) -> None:
    if isinstance(made, NewLayer):
        made.drop()
    else:
        made.release()


class _Layer:
    """One layer of a pull, in one of the crew's threads."""

    def __init__(self, store: Store, source: Source, crew: Crew[Made], blob: Descriptor) -> None:
        self._blobs = store.layout.blobs
        self._layers = store.layers
        self._limits = store.limits
        self._source = source
        self._crew = crew
        self._blob = blob
        self._lock: Lock | None = None
        self._staged: StagedFile | None = None
        self._download: Download | None = None
        self._pace = Pace()
        self._waited = False
        self._damaged = False

    def make(self, chain: Digest, parent: Digest | None, diff_id: Digest) -> Made:
        """The layer, unpacked; its blob is in the store then."""
        made: Made | None = None
        try:
            with self._crew.cancelling(self._cancel):
                try:
                    made = self._unpack(chain, parent, diff_id)
                except StoreCorrupt:
                    # The blob in the store is damaged: another one takes its place.
                    self._damaged = True
                    made = self._unpack(chain, parent, diff_id)
                if isinstance(made, Lock):
                    self._bring(chain, diff_id)
            self._keep()
        except BaseException:
            if made is not None:
                _drop(made)
            raise
        finally:
            self._close()
        return made

    def _unpack(self, chain: Digest, parent: Digest | None, diff_id: Digest) -> Made:
        return self._layers.make(chain, parent, diff_id, self._stream, self._limits, sleep=self._sleep)

    def _bring(self, chain: Digest, diff_id: Digest) -> None:
        """The blob of a layer that is unpacked already, perhaps from another one: it must be the same.
        Otherwise an image could name any blob, and get the files of a layer that it does not have."""
        if self._is_there() and (
            self._blob.digest == diff_id or self._layers.has_origin(chain, self._blob.digest)
        ):
            return
        found = measure(self._stream(), self._limits, algorithm=diff_id.algorithm)
        if found.diff_id != diff_id:
            raise InvalidImage(f"layer {self._blob.digest}: is {found.diff_id} and should be {diff_id}")

    def _stream(self) -> Iterator[bytes]:
        """The layer's tar stream, from the store or from the network."""
        form, chunks = peek(self._chunks())
        if form in ("xz", "bzip2"):
            raise InvalidImage(f"layer {self._blob.digest}: {form} is no compression of layers")
        return decompress(chunks, form)

    def _chunks(self) -> Iterator[bytes]:
        blob = self._blob
        if not self._is_there():
            # Somebody else may be fetching it, here or in another process.
            self._lock = self._blobs.lock(blob.digest, self._sleep)
        if self._is_there():
            self._unlock()
            return self._blobs.chunks(blob.digest, size=blob.size)
        self._staged = StagedFile(self._blobs.staging)
        self._download = Download(partial(self._source.pieces, blob), self._staged, self._received)
        return self._download.chunks()

    def _is_there(self) -> bool:
        # One of another size is damaged, or this descriptor is wrong: fetching it tells.
        return not self._damaged and self._blobs.size(self._blob.digest) == self._blob.size

    def _received(self, done: int) -> None:
        if done == self._blob.size:
            self._source.tell(self._blob, "unpacking", done)
        elif self._pace.due():
            self._source.tell(self._blob, "downloading", done)

    def _sleep(self, seconds: float) -> None:
        if not self._waited:
            self._waited = True
            self._source.tell(self._blob, "waiting", 0)
        self._crew.sleep(seconds)

    def _cancel(self) -> None:
        if self._download is not None:
            self._download.cancel()

    def _keep(self) -> None:
        if self._staged is None:
            self._source.tell(self._blob, "exists", self._blob.size)
            return
        self._blobs.place(self._staged, self._blob.digest)
        self._source.tell(self._blob, "done", self._blob.size)

    def _close(self) -> None:
        try:
            if self._download is not None:
                self._download.close()
            if self._staged is not None:
                self._staged.close()
        finally:
            self._unlock()

    def _unlock(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.unlink()
