"""Pulling: from a reference to an image in the store.

found -> known already? -> manifest (through an index) -> config -> layers -> entry in the catalog
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import attrs

from pycontainer.errors import InvalidImage, RateLimited, StoreCorrupt, StoreError, TransportError
from pycontainer.layer.unpacked import chain_ids
from pycontainer.oci import media_types
from pycontainer.oci._document import MAX_DOCUMENT, shorten
from pycontainer.oci.config import ImageConfig
from pycontainer.oci.descriptor import Descriptor
from pycontainer.oci.digest import Digest
from pycontainer.oci.manifest import Index, Manifest
from pycontainer.oci.platform import Platform
from pycontainer.oci.reference import Reference
from pycontainer.store.assemble import Made, enter
from pycontainer.store.catalog import Choice, Entry
from pycontainer.store.store import Store
from pycontainer.transfer import platforms
from pycontainer.transfer.deadline import Deadline
from pycontainer.transfer.events import Report, Teller
from pycontainer.transfer.layers import Source, fetch_layers
from pycontainer.transfer.naming import naming

if TYPE_CHECKING:
    from pycontainer.distribution.answers import Answer
    from pycontainer.distribution.client import Client

# Indexes within indexes; nobody needs more than two.
_MAX_DEPTH = 4
# Docker's old pushes call every config a stream of octets.
_CONFIGS = frozenset(
    {
        media_types.OCI_CONFIG,
        "application/vnd.docker.container.image.v1+json",
        "application/octet-stream",
    }
)


def pull(
    store: Store,
    client: Client,
    reference: Reference,
    *,
    repository: str | None = None,
    platform: Platform | None = None,
    report: Report | None = None,
    deadline: Deadline | None = None,
) -> Made:
    """Brings what the registry has under `reference` into the store and gives it that name, unless it
    is named by digest. `repository` is what the client calls it where that is not the reference's.

    What is there already is not fetched again; where all is, one HEAD (or, where it has no such name yet,
    one GET of the manifest) is all that is asked. Whole layers
    of a pull that the network or Ctrl-C ended stay, for the next one or for `Store.prune`. Raises
    RegistryError's kinds, InvalidImage, UnsafeLayer, UnsupportedPlatform, StoreError, and what `report`
    raises.
    """
    reference = reference.with_defaults()
    name = str(reference) if reference.digest is None else None
    what = str(attrs.evolve(reference, tag=None) if name is None else reference)
    deadline = deadline or Deadline(None)
    with naming(what), deadline.over(client) as (client,):
        source = Source(client, repository or reference.repository, Teller(report))
        one = _Pull(store, source, what, platform, deadline)
        found = one.found(str(reference.digest or reference.tag), name)
        try:
            with store.writing(deadline.sleep):
                return one.known(found.digest, name) or one.fetch(found, name)
        except (TransportError, RateLimited):
            raise
        except Exception:
            # What stopped the pull is the news; whatever this leaves, the next prune removes.
            with suppress(StoreError):
                store.collect_now()
            raise


class _Pull:
    """One image, looked up or fetched; the caller is `writing`."""

    def __init__(
        self, store: Store, source: Source, what: str, platform: Platform | None, deadline: Deadline
    ) -> None:
        self._store = store
        self._source = source
        self.what = what
        self._platform = platform or Platform.host()
        self._exactly = platform is not None
        self._deadline = deadline
        self._answer: Answer | None = None

    def found(self, wanted: str, name: str | None) -> Descriptor:
        """What the registry has under the tag or digest `wanted`. Its content comes along, and costs no
        request more, where nothing of that name is here."""
        client, repository = self._source.client, self._source.repository
        if name is None or self._store.catalog.by_tag(name) is not None:
            return client.resolve(repository, wanted)
        self._answer = client.manifest(repository, wanted)
        return self._answer.descriptor

    def known(self, digest: Digest, name: str | None) -> Made | None:
        """The image, where the store has all of it: it gets the name, and nothing else is asked."""
        catalog = self._store.catalog
        entry = catalog.by_choice(Choice(digest, str(self._platform)))
        if entry is None:
            entry = catalog.by_manifest(digest)
            if entry is None or entry.manifest.digest != digest:
                return None
        made = self._whole(entry)
        if made is None:
            return None
        if entry.manifest.digest == digest:
            platforms.check(made.config, self._platform, exactly=self._exactly, what=self.what)
        if (
            name is not None
            and catalog.by_tag(name) != entry
            and not catalog.tag(name, entry.manifest.digest)
        ):
            return None
        for layer in made.manifest.layers:
            self._source.tell(layer, "exists", layer.size)
        return made

    def _whole(self, entry: Entry) -> Made | None:
        """The image, unless something of it is missing or damaged."""
        blobs = self._store.layout.blobs
        try:
            manifest = Manifest.parse(blobs.read(entry.manifest.digest, limit=MAX_DOCUMENT))
            config = ImageConfig.parse(blobs.read(entry.id, limit=MAX_DOCUMENT))
        except (StoreCorrupt, InvalidImage):
            return None
        if any(blobs.size(layer.digest) != layer.size for layer in manifest.layers):
            return None
        chains = chain_ids(config.diff_ids)
        lease = self._store.layers.lease(chains[-1]) if chains else None
        return None if chains and lease is None else Made(entry, manifest, config, lease)

    def fetch(self, found: Descriptor, name: str | None) -> Made:
        """The image, with whatever is missing of it fetched."""
        manifest, chosen = self._manifest(found)
        config = self._config(manifest)
        if not chosen:
            platforms.check(config, self._platform, exactly=self._exactly, what=self.what)
        if len(manifest.layers) != len(config.diff_ids):
            counts = f"{len(manifest.layers)} layers in the manifest, {len(config.diff_ids)} in the config"
            raise InvalidImage(f"{self.what}: {counts}")
        lease = fetch_layers(self._store, self._source, manifest, config, self._deadline.check)
        try:
            digest = self._store.layout.blobs.put(manifest.raw)
            choice = None if found.digest == digest else Choice(found.digest, str(self._platform))
            return enter(self._store, manifest, config, name, lease, choice)
        except BaseException:
            if lease is not None:
                lease.release()
            raise

    def _manifest(self, found: Descriptor) -> tuple[Manifest, bool]:
        """The image's manifest, and whether it was chosen from an index."""
        seen: list[Digest] = []
        while True:
            if found.digest in seen:
                raise InvalidImage(f"{self.what}: index {found.digest} lists itself")
            if len(seen) > _MAX_DEPTH:
                raise InvalidImage(f"{self.what}: indexes are nested more than {_MAX_DEPTH} deep")
            raw, media_type = self._document(found)
            if seen and len(raw) != found.size:
                raise InvalidImage(f"{self.what}: {found.digest} has {len(raw)} bytes, not {found.size}")
            what = f"{self.what}: {found.digest}"
            if media_type in media_types.MANIFESTS:
                return Manifest.parse(raw, what=what), bool(seen)
            seen.append(found.digest)
            found = platforms.choose(Index.parse(raw, what=what), self._platform, self.what)

    def _document(self, found: Descriptor) -> tuple[bytes, str]:
        """A manifest or index and its media type; of those in the store only manifests are kept."""
        if found.media_type in media_types.MANIFESTS and (raw := self._stored(found.digest)) is not None:
            return raw, found.media_type
        if self._answer is not None and self._answer.digest == found.digest:
            return self._answer.raw, self._answer.media_type
        answer = self._source.client.manifest(self._source.repository, str(found.digest))
        return answer.raw, answer.media_type

    def _config(self, manifest: Manifest) -> ImageConfig:
        """The image's config, fetched where it is missing."""
        found = manifest.config
        if found.media_type not in _CONFIGS:
            raise InvalidImage(f"{self.what}: is no image; its config is {shorten(found.media_type)}")
        if found.size > MAX_DOCUMENT:
            raise InvalidImage(f"{self.what}: a config of {found.size} bytes, more than {MAX_DOCUMENT}")
        raw = self._small(found)
        if len(raw) != found.size:
            raise InvalidImage(f"{self.what}: its config has {len(raw)} bytes, not {found.size}")
        return ImageConfig.parse(raw, what=f"{self.what}: config")

    def _small(self, found: Descriptor) -> bytes:
        """A blob that fits into memory, fetched by one of all who want it."""
        raw = self._stored(found.digest)
        if raw is None:
            blobs = self._store.layout.blobs
            lock = blobs.lock(found.digest, self._deadline.sleep)
            try:
                raw = self._stored(found.digest)
                if raw is None:
                    raw = b"".join(self._source.pieces(found))
                    blobs.put(raw, found.digest.algorithm)
                    self._source.tell(found, "done", found.size)
                    return raw
            finally:
                lock.unlink()
        self._source.tell(found, "exists", found.size)
        return raw

    def _stored(self, digest: Digest) -> bytes | None:
        """A document in the store; None where it is missing or damaged."""
        blobs = self._store.layout.blobs
        if blobs.size(digest) is None:
            return None
        try:
            return blobs.read(digest, limit=MAX_DOCUMENT)
        except StoreCorrupt:
            return None
