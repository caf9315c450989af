"""Making images: layer streams into blobs, unpacked layers and an entry in the catalog."""

from __future__ import annotations

import io
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import IO

import attrs

from pycontainer import _sys, in_time
from pycontainer.blobs.blobs import CHUNK, BlobWriter
from pycontainer.blobs.locks import Lock
from pycontainer.errors import ImageError, ImageNotFound, InvalidImage
from pycontainer.layer.apply import measure
from pycontainer.layer.compression import Format, decompress, peek
from pycontainer.layer.diff import Ownership, of_directory
from pycontainer.layer.unpacked import chain_ids
from pycontainer.oci import media_types
from pycontainer.oci.config import History, ImageConfig
from pycontainer.oci.descriptor import Descriptor
from pycontainer.oci.digest import Digest
from pycontainer.oci.manifest import Manifest
from pycontainer.oci.times import format_time, source_date_epoch
from pycontainer.store.catalog import Choice, Entry
from pycontainer.store.compressed import CompressedLayers
from pycontainer.store.store import Store


@attrs.frozen
class Made:
    """A new image, and the lease that keeps its layers while it has no name yet."""

    entry: Entry
    manifest: Manifest
    config: ImageConfig
    lease: Lock | None


def scratch(store: Store) -> Made:
    """The image of an archive without entries. Raises what the store raises."""
    with store.layout.blobs.writer() as blob:
        blob.write(bytes(1024))
        diff_id = blob.finish()
        return _one_layer(store, blob, "none", diff_id, _described(ImageConfig(), None, "scratch"), None)


def from_directory(store: Store, path: str, config: ImageConfig, tag: str | None) -> Made:
    """An image with one layer, the tree below `path`.

    Raises ImageError naming a file that cannot be read, and what unpacking and the store raise.
    """
    tree = of_directory(path, ownership=Ownership.of_caller(), clamp=source_date_epoch(os.environ))
    with store.layout.blobs.writer() as blob:
        for chunk in tree.chunks():
            blob.write(chunk)
        diff_id = blob.finish()
        created = None if tree.newest is None else format_time(tree.newest)
        return _one_layer(store, blob, "none", diff_id, _described(config, created, "directory"), tag)


def from_tar(store: Store, file: IO[bytes], name: str, config: ImageConfig, tag: str | None) -> Made:
    """An image with one layer, the archive `file`, compressed or not; `name` is for messages.

    Raises InvalidImage and UnsafeLayer for a bad archive, and what the store raises.
    """
    form, raw = peek(_chunks(file, name))
    with store.layout.blobs.writer() as blob:
        if form in media_types.OCI_LAYERS:
            measured = measure(decompress(_copied(raw, blob), form), store.limits)
        else:
            measured = measure(decompress(raw, form), store.limits, blob.write)
            form = "none"
        if not measured.size:
            raise InvalidImage(f"{name}: is empty")
        epoch = source_date_epoch(os.environ)
        created = None if epoch is None else format_time(epoch)
        return _one_layer(store, blob, form, measured.diff_id, _described(config, created, "tar"), tag)


def reconfigured(store: Store, manifest: Manifest, config: ImageConfig, tag: str | None) -> Made:
    """The image `manifest` with another config. Raises ImageNotFound where it was removed meanwhile."""
    lease = None
    if config.diff_ids:
        lease = store.layers.lease(chain_ids(config.diff_ids)[-1])
    with store.writing():
        _check_layers(store, manifest)
        return _enter(store, config, manifest.layers, tag, lease)


@contextmanager
def on_top(store: Store, manifest: Manifest) -> Iterator[OnTop]:
    """For an image that has further layers above those of the image `manifest`."""
    with ExitStack() as made:
        yield OnTop(store, manifest, made)


class OnTop:
    """An image in the making; see `on_top`. What is not entered is removed."""

    def __init__(self, store: Store, manifest: Manifest, made: ExitStack) -> None:
        self._store = store
        self._manifest = manifest
        self._made = made
        self._layers: list[tuple[BlobWriter, Digest]] = []

    def add(self, chunks: Iterable[bytes]) -> None:
        """One more layer, the tar stream `chunks`. It is unpacked when somebody needs that. Raises NoSpace,
        StoreError, and what the stream raises."""
        blob = self._made.enter_context(self._store.layout.blobs.writer())
        for chunk in chunks:
            blob.write(chunk)
        self._layers.append((blob, blob.finish()))

    def enter(self, config: ImageConfig, tag: str | None) -> Made:
        """The image, with `config`, whose diff_ids are completed here. Raises ImageNotFound where the layers
        below were removed meanwhile, and StoreError."""
        store, below = self._store, self._manifest.layers
        lease = None
        if config.diff_ids:
            # A lease of what it stands on keeps all of an image that has no name.
            lease = store.layers.lease(chain_ids(config.diff_ids)[-1])
        config = attrs.evolve(config, diff_ids=(*config.diff_ids, *(diff_id for _, diff_id in self._layers)))
        with store.writing():
            _check_layers(store, self._manifest)
            above = []
            for blob, diff_id in self._layers:
                blob.commit()
                CompressedLayers(store).made(diff_id)
                above.append(Descriptor(media_types.OCI_LAYER, diff_id, blob.size))
            return _enter(store, config, (*below, *above), tag, lease)


def _check_layers(store: Store, manifest: Manifest) -> None:
    for layer in manifest.layers:
        if store.layout.blobs.size(layer.digest) is None:
            raise ImageNotFound(f"image {manifest.config.digest}: its layers were removed")


def unpack(store: Store, manifest: Manifest, config: ImageConfig) -> Lock | None:
    """Makes sure that an image's layers are unpacked; their lease, None where it has none.

    Raises InvalidImage where manifest and config disagree, StoreCorrupt where a blob is damaged.
    """
    if len(manifest.layers) != len(config.diff_ids):
        counts = f"{len(manifest.layers)} layers in the manifest, {len(config.diff_ids)} in the config"
        raise InvalidImage(f"image {manifest.config.digest}: {counts}")
    lease: Lock | None = None
    parent: Digest | None = None
    for chain, diff_id, layer in zip(
        chain_ids(config.diff_ids), config.diff_ids, manifest.layers, strict=True
    ):

        def stream(layer: Descriptor = layer) -> Iterator[bytes]:
            form, chunks = peek(store.layout.blobs.chunks(layer.digest, size=layer.size))
            return decompress(chunks, form)

        upper = store.layers.ensure(chain, parent, diff_id, stream, store.limits)
        # Only the topmost lease is kept; until that is held, each keeps the ones below.
        if lease is not None:
            lease.release()
        lease, parent = upper, chain
    return lease


def _one_layer(
    store: Store, blob: BlobWriter, form: Format, diff_id: Digest, config: ImageConfig, tag: str | None
) -> Made:
    """The image of one layer, which proves by being unpacked that it is one before it is kept."""
    digest = blob.digest or blob.finish()
    lease = store.layers.ensure(diff_id, None, diff_id, lambda: decompress(blob.chunks(), form), store.limits)
    layer = Descriptor(media_types.OCI_LAYERS[form], digest, blob.size)
    with store.writing():
        blob.commit()
        if form == "none":
            CompressedLayers(store).made(diff_id)
        return _enter(store, attrs.evolve(config, diff_ids=(diff_id,)), (layer,), tag, lease)


def _enter(
    store: Store, config: ImageConfig, layers: tuple[Descriptor, ...], tag: str | None, lease: Lock | None
) -> Made:
    """Writes config and manifest and enters the image; the caller is `writing`."""
    raw = config.raw
    # Parsed from its own bytes, so that nothing is stored that would be refused when it is read.
    config = ImageConfig.parse(raw)
    blobs = store.layout.blobs
    manifest = Manifest.make(Descriptor(media_types.OCI_CONFIG, blobs.put(raw), len(raw)), layers)
    blobs.put(manifest.raw)
    return enter(store, manifest, config, tag, lease)


def enter(
    store: Store,
    manifest: Manifest,
    config: ImageConfig,
    tag: str | None,
    lease: Lock | None,
    choice: Choice | None = None,
) -> Made:
    """Enters an image whose manifest, config and layers are in the store's blobs; the caller has been
    `writing` since before it put them there. `lease` keeps its unpacked layers; `choice` is the index
    that it was chosen from. Raises StoreError."""
    entry = Entry(manifest.descriptor, manifest.config.digest)
    content = [entry.manifest.digest, entry.id, *(layer.digest for layer in manifest.layers)]
    store.catalog.add(entry, content, chain_ids(config.diff_ids), tag, choice)
    return Made(entry, manifest, config, lease)


def _described(config: ImageConfig, created: str | None, source: str) -> ImageConfig:
    """A config for a new layer: times that depend on the content alone, and where it came from."""
    created = config.created or created
    step = History(created=created, created_by=f"pycontainer: from {source}")
    return attrs.evolve(config, created=created, diff_ids=(), history=(step,))


def _copied(chunks: Iterator[bytes], blob: BlobWriter) -> Iterator[bytes]:
    for chunk in chunks:
        blob.write(chunk)
        yield chunk


def _read(file: IO[bytes]) -> bytes:
    """A piece of the file; in time, where it is of a kind that waits for its descriptor alone."""
    if in_time.ends() is None:
        return file.read(CHUNK)
    raw = file.raw if type(file) is io.BufferedReader else file
    if not isinstance(raw, (io.FileIO, socket.SocketIO)):
        return file.read(CHUNK)
    # What lies in its buffer can wait, too: it is no use without the end of the file.
    _sys.await_input(raw.fileno())
    return file.read1(CHUNK) if isinstance(file, io.BufferedReader) else file.read(CHUNK)


def _chunks(file: IO[bytes], name: str) -> Iterator[bytes]:
    while True:
        in_time.check()
        try:
            chunk = _read(file)
        except OSError as error:
            raise ImageError(f"{name}: cannot be read: {os.strerror(error.errno or 0)}") from error
        if not isinstance(chunk, (bytes, bytearray)):
            raise InvalidImage(f"{name}: must be opened in binary mode")
        if not chunk:
            return
        yield bytes(chunk)
