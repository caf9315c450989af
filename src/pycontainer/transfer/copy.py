"""Copying between repositories, of one or two registries: bytes pass through, nothing is unpacked or kept."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

from pycontainer.errors import InvalidImage
from pycontainer.oci import media_types
from pycontainer.oci._document import MAX_DOCUMENT, shorten
from pycontainer.oci.descriptor import Descriptor
from pycontainer.oci.digest import Digest
from pycontainer.oci.manifest import Index, Manifest
from pycontainer.transfer.deadline import Deadline
from pycontainer.transfer.events import Report, Teller
from pycontainer.transfer.uploads import Target

if TYPE_CHECKING:
    from pycontainer.distribution.client import Answer, Client

# An index of indexes of images is the deepest that anybody makes.
_MAX_DEPTH = 4
_MAX_MANIFESTS = 2000
# They are held in memory until everything that they refer to is there.
_MAX_BYTES = 16 * MAX_DOCUMENT


def copy(
    source: Client,
    source_repo: str,
    reference: str,
    target: Client,
    target_repo: str,
    tags: Sequence[str],
    *,
    report: Report | None,
    deadline: Deadline | None = None,
) -> Descriptor:
    """Copies a tag or digest with everything that it refers to, all platforms of an index, under `tags`
    (none: under its digest alone); gives what the target has now, the same bytes.

    What the target has is not sent; on one registry blobs are mounted. What refers to an image (signatures)
    stays behind, as do layers that are not to be distributed and that the source does not have. Raises
    InvalidImage for what is no image or index, or too large a one, and RegistryError's kinds.
    """
    deadline = deadline or Deadline(None)
    with deadline.over(source, target) as (source, target):
        copying = _Copy(source, source_repo, Target(target, target_repo, Teller(report), deadline))
        return copying.run(reference, tags)


@attrs.define
class _Found:
    """What is to be copied: manifests, those that others refer to first, and blobs, each once."""

    manifests: dict[Digest, Answer] = attrs.field(factory=dict)
    blobs: dict[Digest, Descriptor] = attrs.field(factory=dict)
    count: int = 0
    size: int = 0


class _Copy:
    """One reference on its way from one repository into another."""

    def __init__(self, source: Client, repository: str, target: Target) -> None:
        self._source = source
        self._repository = repository
        self._target = target
        self._places = (f"{source.registry}/{repository}",)

    def run(self, reference: str, tags: Sequence[str]) -> Descriptor:
        top = self._source.manifest(self._repository, reference)
        there = self._is_there(top.digest)
        if not there:
            found = _Found()
            self._find(top, found, 0)
            del found.manifests[top.digest]
            self._bring(found)
        self._target.put_manifest(top.raw, top.media_type, top.digest, tags, asking=there)
        return Descriptor(top.media_type, top.digest, len(top.raw))

    def _bring(self, found: _Found) -> None:
        with self._source.branch() as source:
            tasks = [functools.partial(self._blob, source, blob) for blob in found.blobs.values()]
            self._target.run(tasks, source)
        for answer in found.manifests.values():
            self._target.put_manifest(answer.raw, answer.media_type, answer.digest, (), asking=False)

    def _find(self, answer: Answer, found: _Found, depth: int) -> None:
        """Enters what `answer` refers to, then itself."""
        what = f"{self._source.registry}/{self._repository}@{answer.digest}"
        found.count += 1
        found.size += len(answer.raw)
        if found.count > _MAX_MANIFESTS or found.size > _MAX_BYTES or depth >= _MAX_DEPTH:
            raise InvalidImage(f"{what}: more manifests, or deeper in one another, than are copied")
        if answer.media_type in media_types.INDEXES:
            for child in Index.parse(answer.raw, what=what).manifests:
                if child.digest not in found.manifests and not self._is_there(child.digest):
                    self._find(self._child(child, what), found, depth + 1)
        elif answer.media_type in media_types.MANIFESTS:
            manifest = Manifest.parse(answer.raw, what=what)
            for blob in (manifest.config, *manifest.layers):
                found.blobs.setdefault(blob.digest, blob)
        else:
            raise InvalidImage(f"{what}: {shorten(answer.media_type)} is neither an image nor an index")
        found.manifests[answer.digest] = answer

    def _is_there(self, digest: Digest) -> bool:
        """A registry that has a manifest has what it refers to."""
        return self._target.client.has_manifest(self._target.repository, str(digest), digest)

    def _child(self, child: Descriptor, what: str) -> Answer:
        answer = self._source.manifest(self._repository, str(child.digest))
        if (answer.digest, answer.media_type, len(answer.raw)) != (
            child.digest,
            child.media_type,
            child.size,
        ):
            found = f"{answer.media_type} of {len(answer.raw)} bytes"
            raise InvalidImage(f"{what}: {child.digest} is {found}, not {child.media_type} of {child.size}")
        return answer

    def _blob(self, source: Client, blob: Descriptor, target: Target) -> None:
        if target.offer(blob.digest, blob, lambda: self._places):
            return
        # Where such a layer can be had, its descriptor says, to those who trust it.
        if _is_foreign(blob.media_type) and not source.has_blob(self._repository, blob.digest):
            return
        target.send(blob.digest, lambda: source.blob(self._repository, blob), blob)


def _is_foreign(media_type: str) -> bool:
    """Whether a layer of this type need not be in a registry (image-spec, "Non-Distributable Layers")."""
    return ".nondistributable." in media_type or ".foreign." in media_type
