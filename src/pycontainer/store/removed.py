"""Images that were removed while somebody had them in hand: what is missing of them is no damage."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pycontainer.errors import ImageNotFound, StoreCorrupt

if TYPE_CHECKING:
    from pycontainer.oci.digest import Digest
    from pycontainer.store.store import Store


@contextmanager
def told_if_removed(store: Store, manifest: Digest, id: str) -> Iterator[None]:
    """Raises ImageNotFound instead of StoreCorrupt where the store has no such image any more."""
    try:
        yield
    except StoreCorrupt as error:
        if store.catalog.by_manifest(manifest) is None:
            raise ImageNotFound(f"image {id} was removed") from error
        raise
