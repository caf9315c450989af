"""Patterns as pathlib has them, over a container's directories."""

from __future__ import annotations

import fnmatch
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from pycontainer.files.serving import scan, serving

if TYPE_CHECKING:
    from pycontainer.files.paths import ContainerPath

_MAGIC = re.compile(r"[*?\[]")
_FILES_TOO = sys.version_info >= (3, 13)
"""Whether a `**` at the end stands for files as well, as in this Python's pathlib."""


def glob(path: ContainerPath, pattern: str, *, anywhere: bool = False) -> Iterator[ContainerPath]:
    """What matches beneath `path`, in no order; with `anywhere` as after `**/`.

    `**` goes through no link. Directories that cannot be read are taken as empty. Raises ValueError
    and NotImplementedError as pathlib does.
    """
    parts = _parse(pattern, anywhere)
    found = _select(path, parts)
    if pattern.endswith("/"):
        found = (one for one in found if one.is_dir())
    # Two ways may lead to one path.
    return _once(found) if parts.count("**") > 1 else found


def _parse(pattern: str, anywhere: bool) -> list[str]:
    pure = PurePosixPath(pattern)
    if pure.is_absolute():
        raise NotImplementedError("Non-relative patterns are unsupported")
    if not pattern and not anywhere:
        raise ValueError(f"Unacceptable pattern: {pattern!r}")
    parts: list[str] = []
    for part in ["**", *pure.parts] if anywhere else pure.parts:
        if "**" in part and part != "**" and not _FILES_TOO:
            raise ValueError("Invalid pattern: '**' can only be an entire path component")
        if part != "**" or parts[-1:] != ["**"]:
            parts.append(part)
    return parts


def _once(found: Iterator[ContainerPath]) -> Iterator[ContainerPath]:
    seen = set()
    for path in found:
        if path not in seen:
            seen.add(path)
            yield path


def _select(path: ContainerPath, parts: list[str]) -> Iterator[ContainerPath]:
    if not parts:
        yield path
    elif parts[0] == "**":
        yield from _anywhere(path, parts[1:])
    elif _MAGIC.search(parts[0]):
        matches = re.compile(fnmatch.translate(parts[0])).match
        yield from _matching(path, matches, parts[1:])
    else:
        child = path / parts[0]
        there = child.is_dir if parts[1:] else lambda: child.exists() or (_FILES_TOO and child.is_symlink())
        if _is(there):
            yield from _select(child, parts[1:])


def _matching(
    path: ContainerPath, matches: Callable[[str], object], rest: list[str]
) -> Iterator[ContainerPath]:
    for name, kind in _scan(path):
        if not matches(name):
            continue
        child = path / name
        if not rest or kind == "directory" or (kind != "file" and _is(child.is_dir)):
            yield from _select(child, rest)


def _anywhere(path: ContainerPath, rest: list[str]) -> Iterator[ContainerPath]:
    """`rest` in `path` and in every directory beneath."""
    if not _is(path.is_dir):
        return
    pending = [path]
    while pending:
        here = pending.pop()
        yield from _select(here, rest)
        for name, kind in _scan(here):
            if kind == "directory":
                pending.append(here / name)
            elif not rest and _FILES_TOO:
                yield here / name


def _is(question: Callable[[], bool]) -> bool:
    """What cannot be looked at is not there."""
    try:
        return question()
    except OSError:
        return False


def _scan(path: ContainerPath) -> list[tuple[str, str]]:
    where = str(path.absolute())
    try:
        return serving(path.container, lambda served: scan(served, where))
    except OSError:
        return []
