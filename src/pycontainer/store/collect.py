"""Removing what nothing refers to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from pycontainer.errors import InvalidImage, StoreCorrupt
from pycontainer.layer.unpacked import chain_ids
from pycontainer.oci._document import MAX_DOCUMENT
from pycontainer.oci.config import ImageConfig
from pycontainer.oci.digest import Digest
from pycontainer.oci.manifest import Manifest
from pycontainer.store.compressed import CompressedLayers
from pycontainer.store.persistent import Persistent

if TYPE_CHECKING:
    from pycontainer.store.store import Store


def drop_untagged(store: Store) -> None:
    """Forgets the images that have no name and that nobody is using."""
    kept = _of_persistent(store)
    for entry in store.catalog.untagged():
        if entry.manifest.digest in kept.content:
            continue
        chains = store.catalog.chains(entry.manifest.digest)
        # An image's lease is on its top layer; one shared with another image in use errs on the safe side.
        if not any(store.layers.in_use(chain) for chain in chains):
            store.catalog.remove(entry.manifest.digest)


def collect(store: Store) -> int:
    """Removes layers and blobs that no image refers to; the bytes that came free.

    The caller holds the store's exclusive lock, so nobody is between writing content and entering
    the image that refers to it.
    """
    freed = 0
    kept = _of_persistent(store)
    live = _live_chains(store) | kept.chains
    for chain in store.layers.chains():
        if chain not in live:
            freed += store.layers.remove(chain) or 0
    wanted = store.catalog.content() | kept.content
    for _, digest in list(store.layout.blobs.names()):
        if digest is not None and digest not in wanted:
            freed += store.layout.blobs.delete(digest)
    CompressedLayers(store).keep_only(wanted)
    store.layers.sweep_locks()
    return freed


@attrs.frozen
class _Kept:
    content: set[Digest] = attrs.field(factory=set)
    chains: set[Digest] = attrs.field(factory=set)


def _of_persistent(store: Store) -> _Kept:
    """What persistent containers need to be started again, also of images that were removed."""
    kept = _Kept()
    for digest in Persistent(store.path).images():
        try:
            manifest = Manifest.parse(store.layout.blobs.read(digest, limit=MAX_DOCUMENT))
            config = ImageConfig.parse(store.layout.blobs.read(manifest.config.digest, limit=MAX_DOCUMENT))
        except (StoreCorrupt, InvalidImage):
            # Whoever starts the container is told.
            continue
        kept.content.update({digest, manifest.config.digest}, (layer.digest for layer in manifest.layers))
        kept.chains.update(chain_ids(config.diff_ids))
    return kept


def _live_chains(store: Store) -> set[Digest]:
    """The chains of all images, and those in use with everything below them."""
    live = store.catalog.chains()
    for chain in store.layers.chains():
        if chain in live or not store.layers.in_use(chain):
            continue
        below: Digest | None = chain
        while below is not None and below not in live:
            live.add(below)
            try:
                below = store.layers.info(below).parent
            except StoreCorrupt:
                break
    return live
