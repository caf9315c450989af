"""Where on its disk a new tree comes to lie: ext4 puts a file near its directory, and a directory near its
parent, unless it is told that the trees beneath that have nothing to do with each other."""

from __future__ import annotations

import array
import fcntl
import os
from contextlib import suppress

# ioctl_iflags(2).
_GETFLAGS = 0x80086601
_SETFLAGS = 0x40086602
_TOPDIR = 0x00020000


def make_apart(parent: str, name: str) -> str:
    """Makes the directory `name` in `parent`, away from the other trees of the file system where that can
    be chosen; its path. Raises OSError (mkdir(2), rename(2)).

    An ext4 without a journal looks at every inode near by that was freed within the last minute before it
    takes another one (recently_deleted() in fs/ext4/ialloc.c): where a tree was removed, another one takes
    many times as long to write. Below a "top directory" the place goes by the name, so that is a chance one.
    """
    with suppress(OSError):
        _mark_top(parent)
    made = os.path.join(parent, os.urandom(8).hex())
    path = os.path.join(parent, name)
    os.mkdir(made, 0o755)
    os.rename(made, path)
    return path


def _mark_top(path: str) -> None:
    """Sets the attribute that is `T` for chattr(1). Raises OSError where the file system has none."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flags = array.array("L", [0])
        fcntl.ioctl(fd, _GETFLAGS, flags)
        flags[0] |= _TOPDIR
        fcntl.ioctl(fd, _SETFLAGS, flags)
    finally:
        os.close(fd)
