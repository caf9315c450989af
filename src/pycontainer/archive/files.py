"""The files of an image archive, wherever they lie: found by name, read in pieces, never extracted.

Names, links and contents are a stranger's. A name is relative and has no "..", a link leads to a file
of the same archive in a few steps, and everything that is read whole is bounded.
"""

from __future__ import annotations

import abc
import os
import stat
from collections.abc import Callable, Iterator

import attrs

from pycontainer import in_time
from pycontainer.blobs.blobs import CHUNK
from pycontainer.errors import ImageError, InvalidImage
from pycontainer.oci._document import MAX_DOCUMENT, shorten

# Longer than any name in an image archive: "blobs/sha512/" has 141 characters.
MAX_NAME = 1024
_MAX_LINKS = 8
# All documents of one archive together; they stay in memory until it is loaded.
_MAX_DOCUMENTS = 64 << 20


@attrs.frozen
class File:
    """A plain file of an archive: its size in bytes, and what starts reading it."""

    size: int
    chunks: Callable[[], Iterator[bytes]] = attrs.field(repr=False, eq=False)


@attrs.frozen
class Link:
    """A link: the name that it leads to, seen from the archive's root."""

    target: str


@attrs.frozen
class Unusable:
    """Something that has a name and must not be used; `reason` completes "NAME: ..."."""

    reason: str


Found = File | Link | Unusable


class Files(abc.ABC):
    """What an archive, or a directory in its place, holds. `name` is for messages."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._room = _MAX_DOCUMENTS

    @abc.abstractmethod
    def find(self, name: str) -> Found | None:
        """What bears that clean name."""

    def file(self, name: str) -> File | None:
        """The file of that name, or to which it leads; None where there is none.

        Raises InvalidImage where the name or what it leads to cannot be used, ImageError where it
        cannot be read.
        """
        wanted = self.clean(name)
        for _ in range(_MAX_LINKS + 1):
            found = self.find(wanted)
            if found is None or isinstance(found, File):
                return found
            if isinstance(found, Unusable):
                raise InvalidImage(f"{self.name}: {shorten(wanted)}: {found.reason}")
            wanted = found.target
        raise InvalidImage(f"{self.name}: {shorten(name)}: more than {_MAX_LINKS} links in a row")

    def read(self, name: str) -> bytes | None:
        """The document of that name, None where there is none. Raises as `file`, and InvalidImage where
        it, or all documents together, are too large."""
        file = self.file(name)
        if file is None:
            return None
        if file.size > MAX_DOCUMENT:
            raise InvalidImage(
                f"{self.name}: {shorten(name)}: {file.size} bytes, more than the {MAX_DOCUMENT} that are read"
            )
        self._room -= file.size
        if self._room < 0:
            raise InvalidImage(f"{self.name}: its documents have more than {_MAX_DOCUMENTS} bytes")
        return b"".join(file.chunks())

    def clean(self, name: str) -> str:
        """`name` without what means nothing in it. InvalidImage where it may not stand in an archive."""
        parts = _parts(name)
        if not parts or name.startswith("/") or ".." in parts or "\0" in name or len(name) > MAX_NAME:
            raise InvalidImage(f"{self.name}: {shorten(name)} cannot be the name of a file in an archive")
        return "/".join(parts)

    def link(self, name: str, target: str) -> Found:
        """What the symbolic link `name` with that text is."""
        if target.startswith("/") or "\0" in target or len(target) > MAX_NAME:
            return Unusable("is a link that leads out of the archive")
        path = _parts(name)[:-1]
        for part in _parts(target):
            if part != "..":
                path.append(part)
            elif path:
                path.pop()
            else:
                return Unusable("is a link that leads out of the archive")
        return Link("/".join(path))

    def contents(self, fd: int, offset: int, size: int) -> Iterator[bytes]:
        """Exactly `size` bytes of an open file. Raises ImageError, InvalidImage where it ends early."""
        end = offset + size
        while offset < end:
            in_time.check()
            try:
                chunk = os.pread(fd, min(CHUNK, end - offset), offset)
            except OSError as error:
                raise unreadable(self.name, error) from error
            if not chunk:
                raise InvalidImage(f"{self.name}: is cut short")
            offset += len(chunk)
            yield chunk


class Directory(Files):
    """The files below a directory; no link to or through a directory is followed."""

    def __init__(self, fd: int, name: str) -> None:
        super().__init__(name)
        self._fd = fd

    def find(self, name: str) -> Found | None:
        try:
            with _Parent(self._fd, name) as (parent, last):
                status = os.stat(last, dir_fd=parent, follow_symlinks=False)
                if stat.S_ISLNK(status.st_mode):
                    return self.link(name, os.readlink(last, dir_fd=parent))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise unreadable(os.path.join(self.name, name), error) from error
        if not stat.S_ISREG(status.st_mode):
            return Unusable("is not a plain file")
        return File(status.st_size, lambda: self._read(name, status.st_size))

    def _read(self, name: str, size: int) -> Iterator[bytes]:
        try:
            with _Parent(self._fd, name) as (parent, last):
                # It may have become a fifo since it was looked at.
                flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
                fd = os.open(last, flags, dir_fd=parent)
        except OSError as error:
            raise unreadable(os.path.join(self.name, name), error) from error
        try:
            yield from self.contents(fd, 0, size)
        finally:
            os.close(fd)


class _Parent:
    """The directory in which a file lies, opened step by step, and the file's own name."""

    def __init__(self, root: int, name: str) -> None:
        *self._directories, self._last = name.split("/")
        self._fd = os.dup(root)

    def __enter__(self) -> tuple[int, str]:
        try:
            for name in self._directories:
                flags = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY | os.O_NOFOLLOW
                below = os.open(name, flags, dir_fd=self._fd)
                os.close(self._fd)
                self._fd = below
        except BaseException:
            os.close(self._fd)
            raise
        return self._fd, self._last

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def unreadable(name: str, error: OSError) -> ImageError:
    """The error for a file of the caller's that cannot be read."""
    return ImageError(f"{name}: cannot be read: {os.strerror(error.errno or 0)}")


def _parts(name: str) -> list[str]:
    return [part for part in name.split("/") if part not in ("", ".")]
