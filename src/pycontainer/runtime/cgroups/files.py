"""Reading and writing control files. They are small, and each read is one consistent answer."""

from __future__ import annotations

import io
import os

_LONGEST = 1 << 20
_PAGE = 4096


def read(path: str) -> str:
    """The file's text. Raises OSError."""
    # Buffered, because one read(2) of a longer file in /proc gives no more than its first page.
    with open(path, "rb") as file:
        return file.read(_LONGEST).decode("utf-8", "surrogateescape")


def read_or_none(path: str) -> str | None:
    """The file's text; None where it is missing, unreadable or not readable in this state."""
    try:
        return read(path)
    except OSError:
        return None


def read_once(path: str) -> bytes | None:
    """One read, which is one answer of the kernel's; None where the group has gone, or lacks it."""
    try:
        with open(path, "rb", buffering=0) as file:
            return _read_page(file)
    except FileNotFoundError:
        return None


def _read_page(file: io.FileIO) -> bytes | None:
    try:
        return file.read(_PAGE)
    except OSError:
        # ENODEV: removed between.
        return None


def write(path: str, value: bytes) -> None:
    """One write(2), which is how the kernel takes a value. Raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value)
    finally:
        os.close(fd)


def names(directory: str) -> frozenset[str]:
    """The control files and children of a group: which features this kernel gives it."""
    return frozenset(os.listdir(directory))


def subdirectories(directory: str) -> list[str]:
    """The groups directly below; empty where the directory is gone."""
    try:
        with os.scandir(directory) as entries:
            return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []
