"""Descriptors: what some content is, what it is called and how long it is (image-spec, descriptor.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from pycontainer.oci import _document as d
from pycontainer.oci.digest import Digest
from pycontainer.oci.platform import Platform


def check_media_type(value: object, where: str) -> str:
    return d.check_text(value, where, limit=255)


@attrs.frozen
class Descriptor:
    """A reference to a blob: its media type, digest and size in bytes."""

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str] = attrs.field(factory=dict, hash=False)
    platform: Platform | None = None
    extra: Mapping[str, Any] = attrs.field(factory=dict, repr=False, hash=False)

    @classmethod
    def check(cls, value: object, where: str) -> Descriptor:
        """The descriptor in a JSON value; InvalidImage naming the field that is wrong."""
        fields = d.check_object(value, where)
        platform = fields.optional("platform", d.check_object)
        return cls(
            media_type=fields.required("mediaType", check_media_type),
            digest=fields.required("digest", Digest.check),
            size=fields.required("size", d.check_size),
            annotations=fields.optional("annotations", d.check_text_map) or {},
            platform=None if platform is None else Platform.from_fields(platform),
            extra=fields.rest(),
        )

    def document(self) -> dict[str, Any]:
        """The JSON object that says the same."""
        found: dict[str, Any] = {"mediaType": self.media_type, "digest": str(self.digest), "size": self.size}
        if self.annotations:
            found["annotations"] = dict(self.annotations)
        if self.platform is not None:
            found["platform"] = self.platform.document()
        return {**found, **self.extra}
