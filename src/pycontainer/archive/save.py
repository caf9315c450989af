"""Images into files, for other tools and other machines: the same image gives the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from pycontainer.archive.beside import Replacing, plain_target
from pycontainer.archive.docker_archive import MANIFEST
from pycontainer.archive.layout_writer import MARKER_CONTENT, add_to_layout, contents, entries
from pycontainer.archive.oci_layout import INDEX, MARKER
from pycontainer.archive.tar_writer import TarWriter
from pycontainer.blobs.blobs import Blobs
from pycontainer.errors import InvalidOption, StoreCorrupt
from pycontainer.layer.compression import decompress, peek
from pycontainer.layer.unpacked import chain_ids
from pycontainer.oci import _document as d
from pycontainer.oci.config import ImageConfig
from pycontainer.oci.descriptor import Descriptor
from pycontainer.oci.digest import Digest
from pycontainer.oci.manifest import Index, Manifest
from pycontainer.oci.reference import Reference
from pycontainer.store.assemble import unpack
from pycontainer.store.store import Store

FORMATS = ("oci-archive", "docker-archive", "oci")


def save(
    store: Store, manifest: Manifest, config: ImageConfig, tags: Sequence[str], path: str, format: str
) -> None:
    """Writes an image with the names `tags` to the file `path`, or to the OCI layout directory `path`.

    A file that is there is replaced once the new one is complete; a layout that is there gets the image
    added, under names that are then this image's alone. Raises InvalidOption for another `format`,
    InvalidReference for `tags`, ImageError where `path` cannot be written or is something else,
    NoSpace, StoreCorrupt where the image is damaged or was removed, and what unpacking raises.
    """
    names = sorted({str(Reference.complete(tag)) for tag in tags})
    if format == "oci":
        add_to_layout(store.layout.blobs, manifest, names, path)
    elif format == "oci-archive":
        _write(path, lambda tar: _oci_archive(tar, store.layout.blobs, manifest, names))
    elif format == "docker-archive":
        _write(path, lambda tar: _docker_archive(tar, store, manifest, config, names))
    else:
        raise InvalidOption(f"format={format!r}: must be one of {', '.join(FORMATS)}")


def _write(path: str, fill: Callable[[TarWriter], None]) -> None:
    with Replacing(plain_target(path)) as file:
        tar = TarWriter(file.write)
        fill(tar)
        tar.finish()
        file.commit()


def _oci_archive(tar: TarWriter, blobs: Blobs, manifest: Manifest, names: Sequence[str]) -> None:
    tar.directory("blobs/")
    algorithm = ""
    for part in contents(manifest):
        if part.digest.algorithm != algorithm:
            algorithm = part.digest.algorithm
            tar.directory(f"blobs/{algorithm}/")
        name = f"blobs/{algorithm}/{part.digest.hex}"
        tar.file(name, part.size, blobs.chunks(part.digest, size=part.size))
    for name, data in ((INDEX, Index.make(entries(manifest, names), {}).raw), (MARKER, MARKER_CONTENT)):
        tar.file(name, len(data), [data])


def _docker_archive(
    tar: TarWriter, store: Store, manifest: Manifest, config: ImageConfig, names: Sequence[str]
) -> None:
    """Layers are uncompressed in it; how long they are then is known of those that are unpacked."""
    config_name = f"{config.digest.hex}.json"
    lease = unpack(store, manifest, config)
    try:
        layers = {
            _layer_name(diff_id): (diff_id, store.layers.info(chain).size, layer)
            for diff_id, chain, layer in zip(
                config.diff_ids, chain_ids(config.diff_ids), manifest.layers, strict=True
            )
        }
    finally:
        if lease is not None:
            lease.release()
    for name in sorted((config_name, *layers)):
        if name == config_name:
            tar.file(name, len(config.raw), [config.raw])
        else:
            diff_id, size, layer = layers[name]
            tar.file(name, size, _uncompressed(store.layout.blobs, layer, diff_id))
    document = {
        "Config": config_name,
        "RepoTags": list(names),
        "Layers": [_layer_name(diff_id) for diff_id in config.diff_ids],
    }
    data = b"[%s]" % d.dump(document)
    tar.file(MANIFEST, len(data), [data])


def _layer_name(diff_id: Digest) -> str:
    return f"{diff_id.hex}.tar"


def _uncompressed(blobs: Blobs, layer: Descriptor, diff_id: Digest) -> Iterator[bytes]:
    form, chunks = peek(blobs.chunks(layer.digest, size=layer.size))
    hashed = diff_id.hasher()
    for chunk in decompress(chunks, form):
        hashed.update(chunk)
        yield chunk
    if Digest.from_hash(hashed) != diff_id:
        raise StoreCorrupt(f"blob {layer.digest}: its content is {Digest.from_hash(hashed)}, not {diff_id}")
