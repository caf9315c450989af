"""Verifying a whole store: every blob hashed again, every reference followed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import attrs

from pycontainer.errors import ImageError, InvalidImage, StoreCorrupt
from pycontainer.layer.compression import decompress, peek
from pycontainer.layer.unpacked import chain_ids
from pycontainer.oci._document import MAX_DOCUMENT
from pycontainer.oci.config import ImageConfig
from pycontainer.oci.descriptor import Descriptor
from pycontainer.oci.digest import Digest
from pycontainer.oci.manifest import Manifest

if TYPE_CHECKING:
    from pycontainer.store.catalog import Entry
    from pycontainer.store.store import Store


@attrs.frozen
class Problem:
    """Something in a store that is not as it should be: `kind` ("layout", "blob", "image" or "layer"),
    `name` (a path or digest) and `message`."""

    kind: str
    name: str
    message: str


def check(store: Store) -> Iterator[Problem]:
    """All problems of `store`; content that nothing refers to is none."""
    yield from _layout(store)
    sound: set[Digest] = set()
    for path, digest in store.layout.blobs.names():
        if digest is None:
            yield Problem("blob", path, "its name is no digest")
            continue
        problems = list(_blob(store, digest))
        yield from problems
        if not problems:
            sound.add(digest)
    origins: dict[Digest, Descriptor] = {}
    for entry in store.catalog.images():
        yield from _image(store, entry, origins)
    for chain in store.layers.chains():
        problems = list(_layer(store, chain))
        yield from problems
        blob = origins.get(chain)
        if not problems and blob is not None and blob.digest in sound:
            yield from _files(store, chain, blob)


def _layout(store: Store) -> Iterator[Problem]:
    try:
        store.layout.check_marker()
        store.layout.read_index()
    except StoreCorrupt as error:
        yield Problem("layout", store.path, str(error))
        return
    if not store.catalog.in_step():
        yield Problem("layout", store.path, "index.json does not list the images that there are")


def _blob(store: Store, digest: Digest) -> Iterator[Problem]:
    try:
        for _ in store.layout.blobs.chunks(digest):
            pass
    except StoreCorrupt as error:
        yield Problem("blob", digest, str(error))


def _image(store: Store, entry: Entry, origins: dict[Digest, Descriptor]) -> Iterator[Problem]:
    """What is wrong with the image; `origins` gets what its layers are made of."""
    name = entry.manifest.digest
    blobs = store.layout.blobs
    for digest in sorted(store.catalog.content(name)):
        if blobs.size(digest) is None:
            yield Problem("image", name, f"its blob {digest} is missing")
    try:
        manifest = Manifest.parse(blobs.read(name, limit=MAX_DOCUMENT))
        config = ImageConfig.parse(blobs.read(manifest.config.digest, limit=MAX_DOCUMENT))
    except (InvalidImage, StoreCorrupt) as error:
        yield Problem("image", name, str(error))
        return
    if manifest.config.digest != entry.id:
        yield Problem("image", name, f"its config is {manifest.config.digest}, not {entry.id}")
    if len(config.diff_ids) != len(manifest.layers):
        yield Problem("image", name, f"{len(manifest.layers)} layers and {len(config.diff_ids)} diff_ids")
    else:
        origins.update(zip(chain_ids(config.diff_ids), manifest.layers, strict=True))
    for layer in manifest.layers:
        size = blobs.size(layer.digest)
        if size is not None and size != layer.size:
            yield Problem("image", name, f"its layer {layer.digest} has {size} bytes, not {layer.size}")


def _layer(store: Store, chain: Digest) -> Iterator[Problem]:
    layers = store.layers
    try:
        info = layers.info(chain)
    except StoreCorrupt as error:
        yield Problem("layer", chain, str(error))
        return
    if info.parent is None:
        expected = info.diff_id
    else:
        expected = Digest.of(f"{info.parent} {info.diff_id}".encode())
        if not layers.exists(info.parent):
            yield Problem("layer", chain, f"the layer below, {info.parent}, is missing")
    if expected != chain:
        yield Problem("layer", chain, f"it is {expected} and lies under another's name")
    if not layers.exists(chain):
        yield Problem("layer", chain, "its files are missing")


def _files(store: Store, chain: Digest, blob: Descriptor) -> Iterator[Problem]:
    """What containers see of the layer, compared with what its blob gives: it is unpacked once more."""

    def stream() -> Iterator[bytes]:
        form, chunks = peek(store.layout.blobs.chunks(blob.digest, size=blob.size))
        return decompress(chunks, form)

    try:
        found = store.layers.difference(chain, stream, store.limits)
    except (ImageError, StoreCorrupt) as error:
        found = str(error)
    if found is not None:
        yield Problem("layer", chain, f"its files are not those of blob {blob.digest}: {found}")
