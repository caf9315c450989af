"""Layers of an archive on their way into the store: one pass makes the blob and the unpacked layer."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Iterator

import attrs

from pycontainer.archive.files import File
from pycontainer.blobs.blobs import CHUNK
from pycontainer.blobs.locks import Lock
from pycontainer.blobs.staging import StagedFile
from pycontainer.errors import InvalidImage, UnsafeLayer
from pycontainer.layer.apply import measure
from pycontainer.layer.compression import Format, decompress, peek
from pycontainer.layer.unpacked import chain_ids
from pycontainer.oci import media_types
from pycontainer.oci.config import ImageConfig
from pycontainer.oci.descriptor import Descriptor
from pycontainer.oci.digest import Digest
from pycontainer.oci.manifest import Manifest
from pycontainer.store.compressed import CompressedLayers
from pycontainer.store.store import Store


@attrs.frozen
class LayerFile:
    """A layer in an archive: its file, what to call it in messages, and what the manifest says of it
    (None where there is no manifest: a docker-archive)."""

    where: str
    file: File
    descriptor: Descriptor | None = None


@attrs.frozen
class Found:
    """An image in an archive: its names, its manifest unless it comes from a docker-archive, and the
    digest of the index from which it was chosen where there was one."""

    where: str
    config: ImageConfig
    layers: tuple[LayerFile, ...]
    tags: tuple[str, ...]
    manifest: Manifest | None = None
    index: Digest | None = None


def put(store: Store, found: Found) -> tuple[Manifest, Lock | None]:
    """Puts an image's blobs into the store and unpacks its layers; its manifest and their lease.

    The caller is `writing`. Raises InvalidImage and UnsafeLayer naming the layer that is not what it
    should be, and what the store raises.
    """
    if len(found.layers) != len(found.config.diff_ids):
        counts = f"{len(found.layers)} layers, and {len(found.config.diff_ids)} diff_ids in the config"
        raise InvalidImage(f"{found.where}: {counts}")
    lease: Lock | None = None
    parent: Digest | None = None
    kept: list[Descriptor] = []
    diff_ids = found.config.diff_ids
    try:
        for layer, diff_id, chain in zip(found.layers, diff_ids, chain_ids(diff_ids), strict=True):
            upper, descriptor = _Storing(store, layer, diff_id).store(chain, parent)
            # Only the topmost lease is kept; until that is held, each keeps the ones below.
            if lease is not None:
                lease.release()
            lease, parent = upper, chain
            kept.append(descriptor)
        raw = found.config.raw
        algorithm = "sha256" if found.manifest is None else found.manifest.config.digest.algorithm
        config = Descriptor(media_types.OCI_CONFIG, store.layout.blobs.put(raw, algorithm), len(raw))
        manifest = found.manifest or Manifest.make(config, tuple(kept))
        store.layout.blobs.put(manifest.raw)
    except BaseException:
        if lease is not None:
            lease.release()
        raise
    return manifest, lease


class _Blob:
    """A blob in the making."""

    def __init__(self, staged: StagedFile, algorithm: str) -> None:
        self._staged = staged
        self._hash = hashlib.new(algorithm)
        self.size = 0

    @property
    def digest(self) -> Digest:
        """Of what was written until now."""
        return Digest.from_hash(self._hash)

    def filled(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """`chunks`, each written first."""
        for chunk in chunks:
            self._hash.update(chunk)
            self._staged.write(chunk)
            self.size += len(chunk)
            yield chunk

    def chunks(self) -> Iterator[bytes]:
        """What was written."""
        offset = 0
        while chunk := os.pread(self._staged.fd, CHUNK, offset):
            offset += len(chunk)
            yield chunk


class _Storing:
    """One layer on its way into the store."""

    def __init__(self, store: Store, layer: LayerFile, diff_id: Digest) -> None:
        self._store = store
        self._layer = layer
        self._diff_id = diff_id

    def store(self, chain: Digest, parent: Digest | None) -> tuple[Lock, Descriptor]:
        """Puts the blob into the store and unpacks it; the lease, and what the blob is."""
        form, _ = peek(self._layer.file.chunks())
        expected = self._layer.descriptor
        if expected is None and form == "none":
            expected = Descriptor(media_types.OCI_LAYER, self._diff_id, self._layer.file.size)
        blobs = self._store.layout.blobs
        if expected is not None and blobs.size(expected.digest) == expected.size:
            self._prove(expected)
            if expected.digest == self._diff_id and (lease := self._store.layers.lease(chain)) is not None:
                return lease, expected
            there = functools.partial(blobs.chunks, expected.digest, size=expected.size)
            return self._unpack(chain, parent, lambda: _plain(there())), expected
        with StagedFile(blobs.staging) as staged:
            blob = _Blob(staged, "sha256" if expected is None else expected.digest.algorithm)
            lease = self._copy(blob, form, chain, parent)
            try:
                descriptor = self._described(blob, form, expected)
                blobs.place(staged, descriptor.digest)
                if self._layer.descriptor is None and descriptor.digest == self._diff_id:
                    # No manifest says that it must stay so: it is compressed when it is pushed.
                    CompressedLayers(self._store).made(self._diff_id)
                return lease, descriptor
            except BaseException:
                lease.release()
                raise

    def _prove(self, expected: Descriptor) -> None:
        """InvalidImage unless the archive has the blob, which is in the store already. By merely naming
        somebody else's layer, a stranger's image would get at files that it never brought."""
        hashed = expected.digest.hasher()
        for chunk in self._layer.file.chunks():
            hashed.update(chunk)
        self._check(Digest.from_hash(hashed), expected)

    def _check(self, digest: Digest, expected: Descriptor) -> None:
        if digest != expected.digest:
            raise InvalidImage(f"{self._layer.where}: is {digest} and should be {expected.digest}")

    def _described(self, blob: _Blob, form: Format, expected: Descriptor | None) -> Descriptor:
        """What the blob is; InvalidImage where it should be something else."""
        if expected is None:
            return Descriptor(media_types.OCI_LAYERS.get(form, media_types.OCI_LAYER), blob.digest, blob.size)
        self._check(blob.digest, expected)
        return expected

    def _copy(self, blob: _Blob, form: Format, chain: Digest, parent: Digest | None) -> Lock:
        """Fills the blob; the lease of the layer, which is unpacked from the same bytes on their way."""
        copied = False

        def stream() -> Iterator[bytes]:
            nonlocal copied
            if copied:
                return _plain(blob.chunks())
            copied = True
            return self._copied(blob, form)

        return self._unpack(chain, parent, stream)

    def _unpack(self, chain: Digest, parent: Digest | None, stream: Callable[[], Iterator[bytes]]) -> Lock:
        """The layer's lease. `stream()` is read in any case, for the reason that `_prove` gives: a diff_id
        may be somebody else's layer, too."""
        read = False

        def reading() -> Iterator[bytes]:
            nonlocal read
            read = True
            return stream()

        limits = self._store.limits
        try:
            lease = self._store.layers.ensure(chain, parent, self._diff_id, reading, limits)
            try:
                if not read:
                    measured = measure(stream(), limits, algorithm=self._diff_id.algorithm)
                    if measured.diff_id != self._diff_id:
                        raise InvalidImage(f"it is {measured.diff_id} and should be {self._diff_id}")
                return lease
            except BaseException:
                lease.release()
                raise
        except (InvalidImage, UnsafeLayer) as error:
            raise type(error)(f"{self._layer.where}: {error}") from None

    def _copied(self, blob: _Blob, form: Format) -> Iterator[bytes]:
        """The uncompressed layer, while what is to be kept of it goes into the blob."""
        chunks = self._layer.file.chunks()
        if self._layer.descriptor is not None or form in media_types.OCI_LAYERS:
            return decompress(blob.filled(chunks), form)
        return blob.filled(decompress(chunks, form))


def _plain(chunks: Iterator[bytes]) -> Iterator[bytes]:
    form, chunks = peek(chunks)
    return decompress(chunks, form)
