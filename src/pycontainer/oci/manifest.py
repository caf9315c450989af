"""Manifests (one image) and indexes (several): image-spec, manifest.md and image-index.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from pycontainer.errors import InvalidImage
from pycontainer.oci import _document as d
from pycontainer.oci import media_types
from pycontainer.oci.descriptor import Descriptor, check_media_type
from pycontainer.oci.digest import Digest

# Overlay stacks at most 500 lower layers (OVL_MAX_STACK in the kernel's fs/overlayfs).
MAX_LAYERS = 500
MAX_MANIFESTS = 10_000


def _start(
    raw: bytes, what: str, own: frozenset[str], foreign: tuple[str, ...]
) -> tuple[d.Fields, str | None]:
    """The fields of a document that is exactly one kind of thing, and its media type."""
    fields = d.load(raw, what)
    if fields.take("schemaVersion") != 2:
        raise InvalidImage(f"{what}: schemaVersion: must be 2")
    media_type = fields.optional("mediaType", check_media_type)
    if media_type is not None and media_type not in own:
        raise InvalidImage(f"{what}: mediaType: {d.shorten(media_type)} is something else")
    rest = fields.rest()
    for key in foreign:
        if key in rest:
            # A document that is a manifest to one reader and an index to another (CVE-2021-41190).
            raise InvalidImage(f"{what}: {key}: does not belong here")
    return fields, media_type


def _descriptors(limit: int) -> Any:
    def check(value: object, where: str) -> tuple[Descriptor, ...]:
        items = d.check_list(value, where)
        if len(items) > limit:
            raise InvalidImage(f"{where}: {len(items)} entries, more than {limit}")
        return tuple(Descriptor.check(item, f"{where}[{number}]") for number, item in enumerate(items))

    return check


@attrs.frozen
class Manifest:
    """One image: its config and its layers, lowest first. `raw` is what the digest is of."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    raw: bytes = attrs.field(repr=False)
    media_type: str = media_types.OCI_MANIFEST
    annotations: Mapping[str, str] = attrs.field(factory=dict, hash=False)

    @property
    def digest(self) -> Digest:
        return Digest.of(self.raw)

    @property
    def descriptor(self) -> Descriptor:
        return Descriptor(self.media_type, self.digest, len(self.raw))

    @classmethod
    def parse(cls, raw: bytes, *, what: str = "manifest") -> Manifest:
        """The manifest in `raw`; InvalidImage naming the field that is wrong."""
        fields, media_type = _start(raw, what, media_types.MANIFESTS, ("manifests", "fsLayers"))
        return cls(
            config=fields.required("config", Descriptor.check),
            layers=fields.required("layers", _descriptors(MAX_LAYERS)),
            raw=raw,
            media_type=media_type or media_types.OCI_MANIFEST,
            annotations=fields.optional("annotations", d.check_text_map) or {},
        )

    @classmethod
    def make(cls, config: Descriptor, layers: tuple[Descriptor, ...]) -> Manifest:
        """A new OCI manifest of these parts."""
        document = {
            "schemaVersion": 2,
            "mediaType": media_types.OCI_MANIFEST,
            "config": config.document(),
            "layers": [layer.document() for layer in layers],
        }
        return cls(config, layers, d.dump(document))


@attrs.frozen
class Index:
    """A list of manifests: an image for several platforms, or everything in a layout."""

    manifests: tuple[Descriptor, ...]
    raw: bytes = attrs.field(repr=False)
    media_type: str = media_types.OCI_INDEX
    annotations: Mapping[str, str] = attrs.field(factory=dict, hash=False)

    @classmethod
    def parse(cls, raw: bytes, *, what: str = "index") -> Index:
        """The index in `raw`; InvalidImage naming the field that is wrong."""
        fields, media_type = _start(raw, what, media_types.INDEXES, ("layers", "config", "fsLayers"))
        return cls(
            manifests=fields.required("manifests", _descriptors(MAX_MANIFESTS)),
            raw=raw,
            media_type=media_type or media_types.OCI_INDEX,
            annotations=fields.optional("annotations", d.check_text_map) or {},
        )

    @classmethod
    def make(cls, manifests: tuple[Descriptor, ...], annotations: Mapping[str, str]) -> Index:
        """A new OCI index of these manifests."""
        document: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": media_types.OCI_INDEX,
            "manifests": [manifest.document() for manifest in manifests],
        }
        if annotations:
            document["annotations"] = dict(annotations)
        return cls(manifests, d.dump(document), annotations=annotations)
