"""The host's device nodes that a container is given by the option `devices`."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from pycontainer.errors import InvalidOption, LaunchError


def nodes(source: str, target: str) -> list[tuple[str, str]]:
    """Where the host has each node, and the container: `source` alone, or all those below a directory.

    A directory itself is never shown: who can write to it could remove the host's own nodes. Raises
    LaunchError for what is not there, and InvalidOption for what is no device.
    """
    try:
        mode = os.stat(source).st_mode
        found = [(source, target)] if _is_node(mode) else [*_below(source, target)]
    except OSError as error:
        hint = "the host has no such device: the module of its driver may have to be loaded"
        raise LaunchError("looking for device", errno=error.errno, path=source, hint=hint) from error
    if not found:
        what = "holds no device node" if stat.S_ISDIR(mode) else "is no device node; bind() is for files"
        raise InvalidOption(f"devices: {source} {what}")
    return found


def _below(source: str, target: str) -> Iterator[tuple[str, str]]:
    for directory, _, names in os.walk(source):
        for name in sorted(names):
            path = os.path.join(directory, name)
            if _is_node(os.lstat(path).st_mode):
                yield path, os.path.join(target, os.path.relpath(path, source))


def _is_node(mode: int) -> bool:
    return stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
