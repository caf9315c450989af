"""What a container's root is made of, as data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from pycontainer.blobs.locks import Lock

if TYPE_CHECKING:
    from pycontainer.store.store import Store


@attrs.frozen
class HostRoot:
    """This machine's own root file system."""


@attrs.frozen
class LayeredRoot:
    """Unpacked layers, topmost first, ready to be overlay's lower directories; never empty.

    Nothing of it is pruned while this object lives: a container keeps it as long as it runs.
    """

    lower: tuple[str, ...]
    store: Store = attrs.field(repr=False)
    _lease: Lock | None = attrs.field(default=None, repr=False, eq=False)


RootFS = HostRoot | LayeredRoot
