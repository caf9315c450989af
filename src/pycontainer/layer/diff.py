"""A directory as a tar stream, always the same bytes for the same tree (image-spec, layer.md).

Entries are sorted by name as bytes, owners are numbers, times are whole seconds of the last change
(at most SOURCE_DATE_EPOCH), and there is no entry for the directory itself. The header's bytes come
from the standard library's tarfile; reading the tree is done here, through directory descriptors, so
that a link swapped in meanwhile is never followed.
"""

from __future__ import annotations

import errno
import os
import stat
import tarfile
from collections.abc import Iterator

import attrs

from pycontainer.errors import ImageError, InvalidImage

_CHUNK = 1 << 20
_BLOCK = 512
# tar(1) pads archives to whole records, and some readers expect it.
_RECORD = 20 * _BLOCK
_XATTR = "SCHILY.xattr."
_TYPES = {stat.S_IFIFO: tarfile.FIFOTYPE, stat.S_IFCHR: tarfile.CHRTYPE, stat.S_IFBLK: tarfile.BLKTYPE}


@attrs.frozen
class Ownership:
    """Ids in the tree that become root's in the stream: the caller's own, so that a tree made by an
    ordinary user gives the same layer as the same tree made by root. -1 stands for none."""

    uid: int = -1
    gid: int = -1

    @staticmethod
    def of_caller() -> Ownership:
        return Ownership(os.geteuid(), os.getegid())


class TreeReader:
    """Writes one directory as a tar stream; `newest` is the latest time in it, in seconds since 1970."""

    def __init__(self, root: str, *, ownership: Ownership, clamp: int | None = None) -> None:
        """`clamp` is the latest time that an entry may have, in seconds since 1970 (SOURCE_DATE_EPOCH)."""
        self.root = root
        self.newest: int | None = None
        self._ownership = ownership
        self._clamp = clamp
        self._links: dict[tuple[int, int], bytes] = {}

    def chunks(self) -> Iterator[bytes]:
        """The stream. Raises ImageError naming the file that cannot be read, or that changed
        meanwhile, and InvalidImage naming one that a layer cannot hold."""
        size = 0
        for chunk in self._tree():
            size += len(chunk)
            yield chunk
        # Two blocks of zeros end an archive.
        yield bytes(2 * _BLOCK + -(size + 2 * _BLOCK) % _RECORD)

    def _tree(self) -> Iterator[bytes]:
        """Depth first, without recursion: a tree may be deeper than Python's stack."""
        top = self._open(b"", os.fsencode(self.root), None, os.O_DIRECTORY)
        stack = [(top, b"", iter(self._names(top, b"")))]
        try:
            while stack:
                directory, prefix, names = stack[-1]
                name = next(names, None)
                if name is None:
                    os.close(directory)
                    stack.pop()
                    continue
                path = prefix + name
                status = self._stat(path, name, directory)
                if stat.S_ISDIR(status.st_mode):
                    below = self._open(path, name, directory, os.O_DIRECTORY | os.O_NOFOLLOW)
                    stack.append((below, path + b"/", iter(())))
                    status = os.fstat(below)
                    stack[-1] = (below, path + b"/", iter(self._names(below, path)))
                    yield self._header(path, status, tarfile.DIRTYPE, xattrs=self._xattrs(below, path))
                elif stat.S_ISREG(status.st_mode):
                    yield from self._file(path, name, directory)
                elif not stat.S_ISSOCK(status.st_mode):
                    # tar has no type for sockets, and one without its program means nothing.
                    yield self._other(path, name, directory, status)
        finally:
            for directory, _, _ in stack:
                os.close(directory)

    def _file(self, path: bytes, name: bytes, directory: int) -> Iterator[bytes]:
        # O_NONBLOCK: it may have become a fifo since it was looked at.
        fd = self._open(path, name, directory, os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            before = os.fstat(fd)
            if not stat.S_ISREG(before.st_mode):
                raise self._changed(path)
            key = (before.st_dev, before.st_ino)
            if before.st_nlink > 1:
                first = self._links.setdefault(key, path)
                if first is not path:
                    yield self._header(path, before, tarfile.LNKTYPE, link=first)
                    return
            xattrs = self._xattrs(fd, path)
            yield self._header(path, before, tarfile.REGTYPE, size=before.st_size, xattrs=xattrs)
            yield from self._content(fd, path, before.st_size)
            after = os.fstat(fd)
            if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
                raise self._changed(path)
        finally:
            os.close(fd)

    def _content(self, fd: int, path: bytes, size: int) -> Iterator[bytes]:
        left = size
        while left:
            try:
                chunk = os.read(fd, min(left, _CHUNK))
            except OSError as error:
                raise self._unreadable(path, error) from error
            if not chunk:
                raise self._changed(path)
            left -= len(chunk)
            yield chunk
        if size % _BLOCK:
            yield bytes(-size % _BLOCK)

    def _other(self, path: bytes, name: bytes, directory: int, status: os.stat_result) -> bytes:
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFLNK:
            try:
                target = os.readlink(name, dir_fd=directory)
            except OSError as error:
                raise self._unreadable(path, error) from error
            return self._header(path, status, tarfile.SYMTYPE, link=target)
        return self._header(path, status, _TYPES[kind])

    def _header(
        self,
        path: bytes,
        status: os.stat_result,
        kind: bytes,
        *,
        size: int = 0,
        link: bytes = b"",
        xattrs: dict[str, str] | None = None,
    ) -> bytes:
        """The blocks before an entry's content: a ustar header, after a pax one where that is too narrow."""
        if path.rpartition(b"/")[2].startswith(b".wh."):
            raise InvalidImage(f"{self._shown(path)}: in a layer, a name with .wh. deletes another file")
        mtime = status.st_mtime_ns // 10**9
        if self._clamp is not None:
            mtime = min(mtime, self._clamp)
        self.newest = mtime if self.newest is None else max(self.newest, mtime)
        entry = tarfile.TarInfo(_text(path))
        entry.type = kind
        entry.mode = stat.S_IMODE(status.st_mode)
        entry.uid = 0 if status.st_uid == self._ownership.uid else status.st_uid
        entry.gid = 0 if status.st_gid == self._ownership.gid else status.st_gid
        entry.mtime = mtime
        entry.size = size
        entry.linkname = _text(link)
        if kind in (tarfile.CHRTYPE, tarfile.BLKTYPE):
            entry.devmajor, entry.devminor = os.major(status.st_rdev), os.minor(status.st_rdev)
        entry.pax_headers = xattrs or {}
        return entry.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")

    def _xattrs(self, fd: int, path: bytes) -> dict[str, str]:
        """The attributes that belong to a file's content: user.* and file capabilities."""
        try:
            names = [name for name in os.listxattr(fd) if _travels(name)]
            values = [os.getxattr(fd, name) for name in names]
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                return {}
            raise self._unreadable(path, error) from error
        for name in names:
            if "=" in name:
                raise InvalidImage(f"{self._shown(path)}: attribute {name!r}: tar cannot hold the '='")
        return {_XATTR + name: _text(value) for name, value in sorted(zip(names, values, strict=True))}

    def _open(self, path: bytes, name: bytes, directory: int | None, flags: int) -> int:
        try:
            return os.open(name, os.O_RDONLY | os.O_CLOEXEC | flags, dir_fd=directory)
        except OSError as error:
            raise self._unreadable(path, error) from error

    def _names(self, directory: int, path: bytes) -> list[bytes]:
        try:
            # scandir and listdir give text for a descriptor, in the file system's encoding.
            return sorted(os.fsencode(name) for name in os.listdir(directory))
        except OSError as error:
            raise self._unreadable(path, error) from error

    def _stat(self, path: bytes, name: bytes, directory: int) -> os.stat_result:
        try:
            return os.stat(name, dir_fd=directory, follow_symlinks=False)
        except OSError as error:
            raise self._unreadable(path, error) from error

    def _shown(self, path: bytes) -> str:
        return os.path.join(self.root, os.fsdecode(path)) if path else self.root

    def _unreadable(self, path: bytes, error: OSError) -> ImageError:
        if error.errno == errno.ENOENT and path:
            return ImageError(f"{self._shown(path)}: vanished while it was being read")
        name = errno.errorcode.get(error.errno or 0, str(error))
        return ImageError(f"{self._shown(path)}: cannot be read: {name}")

    def _changed(self, path: bytes) -> ImageError:
        return ImageError(f"{self._shown(path)}: changed while it was being read")


def _travels(name: str) -> bool:
    # user.overlay.* is how overlay marks its own files where it runs without privileges.
    if name.startswith("user."):
        return not name.startswith("user.overlay.")
    return name == "security.capability"


def _text(raw: bytes) -> str:
    """Bytes as tarfile wants them; it writes exactly these bytes back."""
    return raw.decode("utf-8", "surrogateescape")
