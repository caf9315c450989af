"""The files that make a directory an OCI image layout (image-spec, image-layout.md)."""

from __future__ import annotations

import os
from collections.abc import Mapping

from pycontainer.blobs.blobs import Blobs
from pycontainer.blobs.failures import store_errors
from pycontainer.blobs.staging import write_file
from pycontainer.errors import InvalidImage, StoreCorrupt
from pycontainer.oci._document import MAX_DOCUMENT
from pycontainer.oci.descriptor import Descriptor
from pycontainer.oci.manifest import Index

REF_NAME = "org.opencontainers.image.ref.name"
_MARKER = b'{"imageLayoutVersion":"1.0.0"}'


class Layout:
    """An OCI image layout at `root`: `oci-layout`, `index.json`, `blobs/`, and `staging/` of our own."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.staging = os.path.join(root, "staging")
        self.blobs = Blobs(os.path.join(root, "blobs"), self.staging)
        self._marker = os.path.join(root, "oci-layout")
        self._index = os.path.join(root, "index.json")

    def create(self) -> None:
        """Makes what is missing; safe in several processes at once. Raises NoSpace and StoreError."""
        # Written last, so where it is, everything is.
        if os.path.exists(self._marker):
            return
        with store_errors("making", self.root):
            os.makedirs(os.path.join(self.root, "blobs", "sha256"), exist_ok=True)
            os.makedirs(self.staging, exist_ok=True)
        if not os.path.exists(self._index):
            self.write_index((), {})
        write_file(self._marker, _MARKER, self.staging)

    def write_index(self, manifests: tuple[Descriptor, ...], annotations: Mapping[str, str]) -> None:
        """Replaces `index.json`. Raises NoSpace and StoreError."""
        write_file(self._index, Index.make(manifests, annotations).raw, self.staging)

    def read_index(self) -> Index:
        """What `index.json` says. Raises StoreCorrupt where it is missing or malformed."""
        with store_errors("reading", self._index):
            try:
                with open(self._index, "rb") as file:
                    raw = file.read(MAX_DOCUMENT + 1)
            except FileNotFoundError:
                raise StoreCorrupt(f"{self._index} is missing") from None
        try:
            return Index.parse(raw, what=self._index)
        except InvalidImage as error:
            raise StoreCorrupt(str(error)) from None

    def check_marker(self) -> None:
        """Raises StoreCorrupt unless `oci-layout` says what it must."""
        with store_errors("reading", self._marker), open(self._marker, "rb") as file:
            if file.read(len(_MARKER) + 1) != _MARKER:
                raise StoreCorrupt(f"{self._marker}: not the version that is written here")
