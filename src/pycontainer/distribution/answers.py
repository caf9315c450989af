"""Manifests as registries answer them: bytes that are what they are called, of one certain type."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from pycontainer.errors import DigestMismatch, InvalidImage
from pycontainer.oci import _document as d
from pycontainer.oci import media_types
from pycontainer.oci.descriptor import Descriptor, check_media_type
from pycontainer.oci.digest import Digest

KNOWN = media_types.MANIFESTS | media_types.INDEXES
ACCEPT = ", ".join(sorted(KNOWN))
"""What is asked for. Registries convert what a client does not list, or refuse it."""

_SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+"

# What servers say that do not know; the document itself has to say it then.
_VAGUE = frozenset({"", "application/json", "application/octet-stream", "text/plain"})


@attrs.frozen
class Answer:
    """A manifest or index: `raw` has the digest `digest`, and is of the type `media_type`."""

    raw: bytes = attrs.field(repr=False)
    media_type: str
    digest: Digest

    @property
    def descriptor(self) -> Descriptor:
        return Descriptor(self.media_type, self.digest, len(self.raw))


def check(raw: bytes, headers: Mapping[str, str], reference: str, what: str) -> Answer:
    """The answer to a request for the manifest `reference`; `what` names it in messages.

    Raises DigestMismatch where the bytes are not what was asked for, or not what the registry says
    they are; InvalidImage where their type is unknown, or not the same to every reader.
    """
    named = stated_digest(headers)
    asked = Digest(reference) if Digest.is_valid(reference) else named
    for expected in {asked, named}:
        if expected is not None and not expected.verify(raw):
            raise DigestMismatch(f"{what}: the content is something else than {expected}")
    return Answer(raw, _media_type(raw, stated_type(headers), what), asked or Digest.of(raw))


def stated_digest(headers: Mapping[str, str]) -> Digest | None:
    """The digest in an answer's headers, None where there is none that we can compute."""
    text = headers.get("Docker-Content-Digest", "")
    return Digest(text) if Digest.is_valid(text) else None


def stated_type(headers: Mapping[str, str]) -> str:
    """The media type in an answer's headers, without parameters."""
    return headers.get("Content-Type", "").partition(";")[0].strip().lower()


def _media_type(raw: bytes, stated: str, what: str) -> str:
    """The one type that header and document agree on (CVE-2021-41190: two readers, two meanings)."""
    fields = d.load(raw, what)
    own = fields.optional("mediaType", check_media_type)
    # Before OCI 1.1 documents need not name their type; their fields are the type then.
    keys = fields.rest()
    is_index, is_manifest = "manifests" in keys, "layers" in keys or "config" in keys
    if is_index and is_manifest:
        raise InvalidImage(f"{what}: is a manifest to one reader and an index to another")
    found = own or ("" if stated in _VAGUE else stated)
    if not found:
        found = media_types.OCI_INDEX if is_index else media_types.OCI_MANIFEST
    if found.startswith(_SCHEMA_1):
        raise InvalidImage(
            f"{what}: is in Docker's schema 1, given up in 2017: push it again with a newer tool"
        )
    if found not in KNOWN:
        raise InvalidImage(f"{what}: {d.shorten(found)} is no type of image manifest that is known here")
    if stated not in _VAGUE and stated != found:
        raise InvalidImage(f"{what}: {d.shorten(stated)} to its header, {d.shorten(found)} to its document")
    if is_index == (found in media_types.MANIFESTS) and (is_index or is_manifest):
        raise InvalidImage(f"{what}: its fields are not those of {d.shorten(found)}")
    return found
