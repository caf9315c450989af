"""Pushing an image of the store: its layers and config as they are missing there, its manifest last.

What came from elsewhere goes on byte for byte. A layer that was made here is kept uncompressed; it is
compressed while it is sent, and the store remembers what became of it.
"""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, get_args

import attrs

from pycontainer.errors import InvalidOption, StoreCorrupt
from pycontainer.layer.compress import Form, compress
from pycontainer.oci import _document as d
from pycontainer.oci import media_types
from pycontainer.oci.descriptor import Descriptor
from pycontainer.oci.digest import Digest
from pycontainer.oci.manifest import Manifest
from pycontainer.oci.reference import Reference
from pycontainer.store.compressed import Compressed, CompressedLayers
from pycontainer.store.removed import told_if_removed
from pycontainer.transfer.deadline import Deadline
from pycontainer.transfer.events import Report, Teller
from pycontainer.transfer.naming import naming
from pycontainer.transfer.uploads import Target

if TYPE_CHECKING:
    from pycontainer.distribution.client import Client
    from pycontainer.oci.config import ImageConfig
    from pycontainer.store.store import Store

_FORMS: tuple[Form, ...] = get_args(Form)


def push(
    store: Store,
    client: Client,
    manifest: Manifest,
    config: ImageConfig,
    repository: str,
    tags: Sequence[str],
    *,
    compression: str = "gzip",
    report: Report | None,
    deadline: Deadline | None = None,
) -> Descriptor:
    """Pushes an image under `tags` (none: under its digest alone); gives the manifest that is there now.

    Layers that were made here are compressed ("gzip", "zstd", "none"), everything else is sent as it
    is. Blobs that the repository has are not sent, nor those that can be mounted from another one.
    Nothing refers to the image before all of it is there. Raises ImageNotFound where the image is removed
    before or meanwhile, StoreCorrupt where a blob is damaged, InvalidOption and RegistryError's kinds.
    """
    form = next((form for form in _FORMS if form == compression), None)
    if form is None:
        raise InvalidOption(f"compression={compression!r}: must be 'gzip', 'zstd' or 'none'")
    deadline = deadline or Deadline(None)
    with deadline.over(client) as (client,):
        target = Target(client, repository, Teller(report), deadline)
        return _push(store, target, manifest, config, form, tags)


def _push(
    store: Store, target: Target, manifest: Manifest, config: ImageConfig, form: Form, tags: Sequence[str]
) -> Descriptor:
    with (
        naming(f"{target.place}:{tags[0]}" if tags else target.place),
        told_if_removed(store, manifest.digest, manifest.config.digest),
    ):
        return _Push(store, manifest, config, form).run(target, tags)


class _Push:
    """One image on its way into one repository."""

    def __init__(self, store: Store, manifest: Manifest, config: ImageConfig, form: Form) -> None:
        self._store = store
        self._manifest = manifest
        self._form = form
        self._diff_ids = frozenset(config.diff_ids)
        self._compressed = CompressedLayers(store)
        self._pushed: dict[Digest, Descriptor] = {}
        self._sent = threading.Event()

    def run(self, target: Target, tags: Sequence[str]) -> Descriptor:
        layers = {layer.digest: layer for layer in self._manifest.layers}
        config = self._manifest.config
        self._check_there([*layers.values(), config])
        # One question ahead of the others: who cannot be reached, or lets nobody in, is asked once.
        tasks = [functools.partial(self._layer, layer) for layer in layers.values()]
        if not target.offer(config.digest, config, tuple):
            tasks.append(functools.partial(self._send, config))
        target.run(tasks)
        manifest = self._manifest_there()
        there = manifest.descriptor
        asking = not self._sent.is_set()
        target.put_manifest(manifest.raw, there.media_type, there.digest, tags, asking=asking)
        return there

    def _check_there(self, blobs: list[Descriptor]) -> None:
        """Before anything is sent: what is missing is noticed now."""
        for blob in blobs:
            size = self._store.layout.blobs.size(blob.digest)
            if size is None:
                raise StoreCorrupt(f"blob {blob.digest} of image {self._manifest.config.digest} is missing")
            if size != blob.size:
                raise StoreCorrupt(f"blob {blob.digest} has {size} bytes, not the {blob.size} of its image")

    def _layer(self, layer: Descriptor, target: Target) -> None:
        if self._is_to_be_compressed(layer):
            self._pushed[layer.digest] = self._compress(layer, target)
        elif not target.offer(layer.digest, layer, lambda: self._tagged_places(layer.digest)):
            self._send(layer, target)

    def _send(self, blob: Descriptor, target: Target) -> None:
        self._sent.set()
        target.send(blob.digest, lambda: self._chunks(blob), blob)

    def _is_to_be_compressed(self, blob: Descriptor) -> bool:
        return (
            self._form != "none"
            and blob.media_type == media_types.OCI_LAYER
            and self._manifest.media_type == media_types.OCI_MANIFEST
            and blob.digest in self._diff_ids
            and self._compressed.is_made(blob.digest)
        )

    def _compress(self, layer: Descriptor, target: Target) -> Descriptor:
        """Pushes `layer` in its other form; the descriptor for that."""
        media_type = media_types.OCI_LAYERS[self._form]
        known = self._compressed.find(layer.digest, self._form)
        if known is not None:
            there = Descriptor(media_type, known.digest, known.size)
            if target.offer(layer.digest, there, lambda: known.places):
                self._remember(layer.digest, known.at(target.place))
                return there
        self._sent.set()
        # Without the digest of last time: another release of zlib may give other bytes now.
        sent = target.send(layer.digest, lambda: self._deflated(layer), None)
        self._remember(layer.digest, Compressed(sent.digest, sent.size).at(target.place))
        return Descriptor(media_type, sent.digest, sent.size)

    def _remember(self, diff_id: Digest, compressed: Compressed) -> None:
        self._compressed.remember(diff_id, self._form, compressed)

    def _chunks(self, blob: Descriptor) -> Iterator[bytes]:
        return self._store.layout.blobs.chunks(blob.digest, size=blob.size)

    def _deflated(self, layer: Descriptor) -> Iterator[bytes]:
        return compress(self._chunks(layer), self._form)

    def _manifest_there(self) -> Manifest:
        """The manifest of what was pushed: with other layers where some were compressed, and otherwise
        the same, also in what this library knows nothing of."""
        if not self._pushed:
            return self._manifest
        document = json.loads(self._manifest.raw)
        document["layers"] = [self._layer_there(layer).document() for layer in self._manifest.layers]
        return Manifest.parse(d.dump(document))

    def _layer_there(self, layer: Descriptor) -> Descriptor:
        there = self._pushed.get(layer.digest, layer)
        return attrs.evolve(layer, media_type=there.media_type, digest=there.digest, size=there.size)

    def _tagged_places(self, digest: Digest) -> Iterator[str]:
        """Where the store's images with this blob are called to be from: it may be there."""
        for name in self._store.catalog.tags_with(digest):
            reference = Reference.parse(name)
            yield f"{reference.registry}/{reference.repository}"
