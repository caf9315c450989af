"""A directory tree as data, to compare two of them, or one before and after."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import Any


def content(path: Path, status: os.stat_result) -> str:
    """What a name stands for: the digest of a file, the target of a link, the number of a device."""
    if stat.S_ISREG(status.st_mode):
        return hashlib.sha256(path.read_bytes()).hexdigest()
    if stat.S_ISLNK(status.st_mode):
        return os.readlink(path)
    return str(status.st_rdev)


def attributes(path: Path) -> dict[str, bytes]:
    """The extended attributes, without labels that the machine gives to everything."""
    names = os.listxattr(path, follow_symlinks=False)
    kept = sorted(name for name in names if name != "security.selinux")
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in kept}


def paths(root: Path, without: Path | None = None) -> list[Path]:
    """The tree's own directory and everything in it, except for `without` and what it holds."""
    found = [root]
    for path in sorted(root.iterdir()) if root.is_dir() and not root.is_symlink() else ():
        if path != without:
            found += paths(path, without)
    return found


def look(root: Path) -> dict[str, Any]:
    """What a tree looks like to who uses it: names, kinds, modes, owners, times, content, hard links."""
    looks = {}
    first: dict[int, str] = {}
    for path in paths(root):
        status = path.lstat()
        name = str(path.relative_to(root))
        same = first.setdefault(status.st_ino, name)
        looks[name] = (
            oct(status.st_mode),
            status.st_uid,
            status.st_gid,
            status.st_mtime_ns,
            content(path, status),
            attributes(path),
            same,
        )
    return looks


def identity(root: Path, *, without: Path) -> dict[str, Any]:
    """Everything that could tell of a change in a tree: also inodes, link counts and times of change.

    The directory that holds `without` is left out itself: its link count and times follow from that one."""
    found = {}
    for path in paths(root, without):
        status = path.lstat()
        if path != without.parent:
            fixed = status.st_ino, status.st_nlink, status.st_ctime_ns, status.st_mtime_ns, status.st_mode
            found[str(path)] = (*fixed, status.st_uid, status.st_gid, content(path, status), attributes(path))
    return found
