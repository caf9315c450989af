"""Reading an OCI image layout (image-spec, image-layout.md): `oci-layout`, `index.json`, `blobs/`."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from pycontainer.archive.files import File, Files
from pycontainer.archive.names import MAX_IMAGES, annotated_name
from pycontainer.archive.storing import Found, LayerFile
from pycontainer.errors import InvalidImage
from pycontainer.oci import _document as d
from pycontainer.oci import media_types
from pycontainer.oci.config import ImageConfig
from pycontainer.oci.descriptor import Descriptor
from pycontainer.oci.digest import Digest
from pycontainer.oci.manifest import Index, Manifest
from pycontainer.oci.platform import Platform
from pycontainer.transfer.platforms import choose

MARKER = "oci-layout"
INDEX = "index.json"
# What a manifest's config must be for it to be an image: signatures, charts and the like have others.
_CONFIGS = (media_types.OCI_CONFIG, "application/vnd.docker.container.image.v1+json")
# An index in an index in index.json is already unusual.
_MAX_DEPTH = 4
_MAX_INDEXES = 100


def images(files: Files) -> Iterator[Found]:
    """The images that `index.json` lists, in its order; of one for several platforms the host's.

    What is no image is passed over. Raises InvalidImage naming the document and field that is wrong,
    UnsupportedPlatform, and ImageError where a file cannot be read.
    """
    check_marker(files.read(MARKER) or b"", f"{files.name}: {MARKER}")
    raw = files.read(INDEX)
    if raw is None:
        raise InvalidImage(f"{files.name}: has an {MARKER} but no {INDEX}")
    reader = _Reader(files)
    for tags, descriptor in _listed(Index.parse(raw, what=f"{files.name}: {INDEX}"), files.name):
        found = reader.image(descriptor, tags)
        if found is not None:
            yield found


def check_marker(raw: bytes, where: str) -> None:
    """InvalidImage unless `raw`, the content of `oci-layout`, says a version that is known here."""
    version = d.load(raw, where).required("imageLayoutVersion", d.check_text)
    if not version.startswith("1."):
        raise InvalidImage(f"{where}: imageLayoutVersion: {d.shorten(version)} is not known here")


def _listed(index: Index, name: str) -> list[tuple[tuple[str, ...], Descriptor]]:
    """Each image once, with its names. One name for several platforms' images means the host's."""
    named: dict[str, list[Descriptor]] = {}
    order: dict[Digest, Descriptor] = {}
    tags: dict[Digest, list[str]] = {}
    for number, descriptor in enumerate(index.manifests):
        tag = annotated_name(descriptor, f"{name}: {INDEX}: manifests[{number}]")
        if tag is None:
            order.setdefault(descriptor.digest, descriptor)
        elif descriptor.digest not in (other.digest for other in named.setdefault(tag, [])):
            named[tag].append(descriptor)
    for tag, descriptors in named.items():
        chosen = descriptors[0]
        if len(descriptors) > 1:
            chosen = choose(Index.make(tuple(descriptors), {}), Platform.host(), f"{name}: {INDEX}: {tag}")
        order.setdefault(chosen.digest, chosen)
        tags.setdefault(chosen.digest, []).append(tag)
    places = {descriptor.digest: number for number, descriptor in reversed([*enumerate(index.manifests)])}
    if len(order) > MAX_IMAGES:
        raise InvalidImage(f"{name}: {INDEX}: {len(order)} images, more than {MAX_IMAGES}")
    return [(tuple(tags.get(key, ())), order[key]) for key in sorted(order, key=places.__getitem__)]


@attrs.define
class _Reader:
    """Reads one layout's documents."""

    _files: Files
    _indexes: int = 0

    def image(self, descriptor: Descriptor, tags: tuple[str, ...]) -> Found | None:
        """The image that an entry of `index.json` stands for, None where it is something else."""
        depth, outermost = 0, descriptor.digest
        while descriptor.media_type in media_types.INDEXES:
            depth += 1
            self._indexes += 1
            if depth > _MAX_DEPTH or self._indexes > _MAX_INDEXES:
                raise InvalidImage(f"{self._files.name}: more indexes in indexes than are followed")
            where = self._where("index", descriptor)
            index = Index.parse(self._document(descriptor, where), what=where)
            descriptor = choose(index, Platform.host(), where)
        if descriptor.media_type not in media_types.MANIFESTS:
            return None
        where = self._where("manifest", descriptor)
        manifest = Manifest.parse(self._document(descriptor, where), what=where)
        if manifest.config.media_type not in _CONFIGS:
            return None
        found = self._found(manifest, where, tags)
        return attrs.evolve(found, index=outermost) if depth else found

    def _found(self, manifest: Manifest, where: str, tags: tuple[str, ...]) -> Found:
        named = self._where("config", manifest.config)
        config = ImageConfig.parse(self._document(manifest.config, named), what=named)
        layers = tuple(
            LayerFile(f"{where}: layers[{number}]", self._blob(layer, f"{where}: layers[{number}]"), layer)
            for number, layer in enumerate(manifest.layers)
        )
        return Found(where, config, layers, tags, manifest)

    def _where(self, what: str, descriptor: Descriptor) -> str:
        return f"{self._files.name}: {what} {descriptor.digest}"

    def _blob(self, descriptor: Descriptor, where: str) -> File:
        digest = descriptor.digest
        file = self._files.file(f"blobs/{digest.algorithm}/{digest.hex}")
        if file is None:
            raise InvalidImage(f"{where}: its blob {digest} is not in the archive")
        if file.size != descriptor.size:
            raise InvalidImage(f"{where}: its blob {digest} has {file.size} bytes, not {descriptor.size}")
        return file

    def _document(self, descriptor: Descriptor, where: str) -> bytes:
        self._blob(descriptor, where)
        raw = self._files.read(f"blobs/{descriptor.digest.algorithm}/{descriptor.digest.hex}") or b""
        if not descriptor.digest.verify(raw):
            raise InvalidImage(f"{where}: its content is {Digest.of(raw)}")
        return raw
