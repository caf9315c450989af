"""Where on its disk a tree comes to lie: ext4 puts a file near its directory, and a directory near its
parent, unless it is told that what is in that has nothing to do with each other.

An ext4 without a journal looks at every inode near by that was freed within the last minute before it
takes another one (recently_deleted() in fs/ext4/ialloc.c). Where a tree was removed, the next one takes
ten times as long to write, and where containers come and go, each takes longer than the one before.
"""

from __future__ import annotations

import array
import fcntl
import os
from contextlib import suppress
from pathlib import Path

# ioctl_iflags(2).
_GETFLAGS = 0x80086601
_SETFLAGS = 0x40086602
_TOPDIR = 0x00020000

_DEVICES = Path("/sys/dev/block")
_EXT4 = Path("/sys/fs/ext4")


def spread(directory: str) -> None:
    """Has each directory that will be made in `directory` lie somewhere else on the disk, by its name: a
    chance one is meant. Only where that helps, since a journal would have more to write."""
    with suppress(OSError):
        if _has_no_journal(directory):
            _mark_top(directory)


def make_apart(parent: str, name: str) -> str:
    """Makes the directory `name` in `parent`, away from others where that helps; its path. Raises OSError
    (mkdir(2), rename(2))."""
    spread(parent)
    made = os.path.join(parent, os.urandom(8).hex())
    path = os.path.join(parent, name)
    os.mkdir(made, 0o755)
    os.rename(made, path)
    return path


def _has_no_journal(path: str) -> bool:
    """Raises OSError where the file system is not ext4."""
    device = os.stat(path).st_dev
    name = (_DEVICES / f"{os.major(device)}:{os.minor(device)}").resolve().name
    return (_EXT4 / name / "journal_task").read_text().strip() == "<none>"


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
