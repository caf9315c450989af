"""How much a layer may unpack to: a stranger wrote it, and disks and memory are finite."""

from __future__ import annotations

import os

import attrs

from pycontainer.blobs.failures import store_errors
from pycontainer.errors import NoSpace

# What is left to everybody else on the store's file system.
_RESERVE = 256 << 20


@attrs.frozen
class Limits:
    """At most `max_bytes` of content and `max_entries` files, directories and links in one layer.

    `scarce`: `max_bytes` is what is free; more than that is no fault of the layer's.
    """

    max_bytes: int = 64 << 30
    max_entries: int = 500_000
    scarce: bool = False

    @property
    def max_stream(self) -> int:
        """The longest tar stream, in bytes, that such a layer can be: contents, headers, padding."""
        return self.max_bytes + self.max_entries * 2048

    def within(self, directory: str) -> Limits:
        """These limits, or what is free on the file system of `directory` where that is less.

        Raises NoSpace where nothing is free.
        """
        with store_errors("looking for free space in", directory):
            free = os.statvfs(directory)
        room = free.f_bavail * free.f_frsize - _RESERVE
        if room <= 0:
            raise NoSpace(f"unpacking a layer in {directory}: less than {_RESERVE >> 20} MiB are free")
        return attrs.evolve(self, max_bytes=room, scarce=True) if room < self.max_bytes else self
