"""Links followed by hand, to tell where a path leads."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pycontainer.supervisor.served import Served

MAX_LINKS = 40
"""As many links as the kernel follows (path_resolution(7))."""


def resolve(served: Served, path: str, *, strict: bool) -> str:
    """The absolute `path` without links and `..`, as the container's root has it.

    What is missing stays as it is, or with `strict` raises the OSError. So does a loop of links.
    """
    done: list[str] = []
    rest = _names(path)[::-1]
    links = 0
    while rest:
        name = rest.pop()
        if name == "..":
            del done[-1:]
            continue
        content = _content(served, "/".join(["", *done, name]), strict)
        if content is None:
            done.append(name)
            continue
        links += 1
        if links > MAX_LINKS:
            if strict:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            return "/".join(["", *done, name, *rest[::-1]])
        if content.startswith("/"):
            done.clear()
        rest += _names(content)[::-1]
    return "/".join(["", *done]) or "/"


def _content(served: Served, path: str, strict: bool) -> str | None:
    """Where a link leads; None for what is no link."""
    try:
        return served.readlink(path)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return None
        if strict or error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ELOOP):
            raise
        return None


def _names(path: str) -> list[str]:
    return [name for name in path.split("/") if name not in ("", ".")]
