"""The lowest layer of every container on an image: empty files where each has its own.

They are what those are mounted on where the image has no such file, so that nothing has to be made in the
container's layer: /etc stays the image's.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from pycontainer.blobs.failures import store_errors


def make_floor(path: str, files: tuple[str, ...]) -> None:
    """Makes what is missing of it; whoever else does so makes the same. Raises StoreError."""
    with store_errors("making the layer of mount points", path):
        for file in files:
            target = path + file
            parent = os.path.dirname(target)
            os.makedirs(parent, exist_ok=True)
            os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
            # Whatever this process's umask.
            os.chmod(target, 0o644)
            os.chmod(parent, 0o755)
        os.chmod(path, 0o755)


def absent(layers: Sequence[str], files: Iterable[str]) -> list[str]:
    """Those of these files, and their directories, that none of the layers (topmost first) has: a container
    sees the floor's. Relative to the root."""
    missing = [file.lstrip("/") for file in files if not _in_one(layers, file)]
    directories = dict.fromkeys(os.path.dirname(file) for file in missing)
    return [*missing, *(path for path in directories if not _in_one(layers, "/" + path))]


def _in_one(layers: Sequence[str], path: str) -> bool:
    # What deletes it in one of them hides the floor's, too, and counts as there; so does a link on the way,
    # which is not followed here.
    parent = os.path.dirname(path)
    return any(os.path.islink(layer + parent) or os.path.lexists(layer + path) for layer in layers)
