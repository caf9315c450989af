"""What layers that were made here became when they were compressed for a registry.

Such a layer is kept as it was made, uncompressed: its digest is its diff_id. `compressed/<diff_id>` says
that (layers without this file came from elsewhere and are passed on as they are), and under which digest
the layer was pushed, so that pushing it again needs no compression. All of it can be lost without harm.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import attrs

from pycontainer.blobs.failures import store_errors
from pycontainer.blobs.staging import write_file
from pycontainer.errors import InvalidImage
from pycontainer.oci import _document as d
from pycontainer.oci.digest import Digest

if TYPE_CHECKING:
    from pycontainer.store.store import Store

# Where a blob can be mounted from: the last few places are enough to find one that is still there.
_MAX_PLACES = 4


@attrs.frozen
class Compressed:
    """One form of a layer: its digest and size in bytes, and the repositories that were given it,
    as "registry/name", the latest first."""

    digest: Digest
    size: int
    places: tuple[str, ...] = ()

    def at(self, place: str) -> Compressed:
        """The same, known to be at `place`, too."""
        others = tuple(known for known in self.places if known != place)
        return attrs.evolve(self, places=(place, *others)[:_MAX_PLACES])


class CompressedLayers:
    """The directory `compressed/` of a store."""

    def __init__(self, store: Store) -> None:
        self._root = os.path.join(store.path, "compressed")
        self._staging = store.layout.staging

    def made(self, diff_id: Digest) -> None:
        """Notes that this layer was made here. Raises NoSpace and StoreError."""
        if not self.is_made(diff_id):
            self._write(diff_id, {})

    def is_made(self, diff_id: Digest) -> bool:
        """Whether this layer was made here."""
        return os.path.exists(self._path(diff_id))

    def find(self, diff_id: Digest, form: str) -> Compressed | None:
        """What the layer is in `form`, where that is known. Raises StoreError."""
        return self._read(diff_id).get(form)

    def remember(self, diff_id: Digest, form: str, compressed: Compressed) -> None:
        """Notes what the layer is in `form`. Raises NoSpace and StoreError.

        Of two processes that do it at the same time, one may be forgotten.
        """
        known = self._read(diff_id)
        if known.get(form) != compressed:
            self._write(diff_id, {**known, form: compressed})

    def keep_only(self, diff_ids: Collection[Digest]) -> None:
        """Forgets all other layers. Raises StoreError."""
        keep = {_name(diff_id) for diff_id in diff_ids}
        with store_errors("pruning", self._root), suppress(FileNotFoundError):
            for name in os.listdir(self._root):
                if name not in keep:
                    os.unlink(os.path.join(self._root, name))

    def _path(self, diff_id: Digest) -> str:
        return os.path.join(self._root, _name(diff_id))

    def _read(self, diff_id: Digest) -> dict[str, Compressed]:
        path = self._path(diff_id)
        with store_errors("reading", path):
            try:
                with open(path, "rb") as file:
                    raw = file.read(d.MAX_DOCUMENT + 1)
            except FileNotFoundError:
                return {}
        try:
            forms = d.load(raw, path).rest()
            return {form: _parse(value, f"{path}: {form}") for form, value in forms.items()}
        except InvalidImage:
            # Damaged, or written by a later version: the layer is compressed once more.
            return {}

    def _write(self, diff_id: Digest, forms: dict[str, Compressed]) -> None:
        with store_errors("making", self._root):
            os.makedirs(self._root, exist_ok=True)
        document: dict[str, Any] = {form: attrs.asdict(value) for form, value in forms.items()}
        write_file(self._path(diff_id), d.dump(document), self._staging)


def _name(diff_id: Digest) -> str:
    return f"{diff_id.algorithm}-{diff_id.hex}"


def _parse(value: object, where: str) -> Compressed:
    fields = d.check_object(value, where)
    return Compressed(
        digest=fields.required("digest", Digest.check),
        size=fields.required("size", d.check_size),
        places=fields.optional("places", d.check_texts) or (),
    )
