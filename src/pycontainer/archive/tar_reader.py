"""The members of a tar archive, by name, without extracting any (pax(1), "ustar Interchange Format").

The standard library's reader is no good for a stranger's archive: it takes extended headers of any size
into memory, recurses from one to the next, and believes sizes that lead it backwards. An archive of
images needs little of the format, and what needs more than that is refused.
"""

from __future__ import annotations

import os
import re
import tarfile

import attrs

from pycontainer.archive.files import File, Files, Found, Link, Unusable, unreadable
from pycontainer.errors import InvalidImage
from pycontainer.oci._document import shorten

_BLOCK = 512
_ZEROS = bytes(_BLOCK)
# 500 layers with four members each make 2000; the rest is for archives of many images.
_MAX_MEMBERS = 100_000
_MAX_NAMES = 16 << 20
_MAX_EXTENDED = 64 << 10
_NO_TAR = "is no tar archive"
_OCTAL = re.compile(rb" *([0-7]*)[ \0]*")
_RECORD = re.compile(rb"([1-9][0-9]{0,5}) ([^=\n]+)=")
_NUMBER = re.compile(r"[0-9]{1,19}")

_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
# What an archive may hold and no image needs: device nodes, pipes.
_OTHERS = (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)
# GNU's way to long names: a member of its own, about the next one.
_LONG = {tarfile.GNUTYPE_LONGNAME: "path", tarfile.GNUTYPE_LONGLINK: "linkpath"}


@attrs.frozen
class _Header:
    """One header block."""

    kind: bytes
    name: str
    link: str
    size: int


class TarFiles(Files):
    """The members of the uncompressed tar archive in the open file `fd`, which its caller closes."""

    def __init__(self, fd: int, name: str) -> None:
        """Reads all headers. Raises InvalidImage for what is no such archive, or too large a one, and
        ImageError where it cannot be read."""
        super().__init__(name)
        self._fd = fd
        self._members: dict[str, Found] = {}
        self._names = 0
        self._index(os.fstat(fd).st_size)

    def find(self, name: str) -> Found | None:
        return self._members.get(name)

    def _index(self, end: int) -> None:
        offset, extended = 0, dict[str, str]()
        for _ in range(_MAX_MEMBERS):
            block = self._block(offset, end)
            if block is None:
                break
            header = self._header(block, offset)
            data, stored = offset + _BLOCK, header.size
            if header.kind in (tarfile.XHDTYPE, tarfile.XGLTYPE, *_LONG):
                extended.update(self._extended(header, data, end))
            else:
                stored = self._member(header, extended, data, end)
                extended = {}
            offset = data + stored + -stored % _BLOCK
        else:
            raise InvalidImage(f"{self.name}: more than {_MAX_MEMBERS} members, which no image archive has")
        if extended:
            raise self._damaged(offset, "ends after an extended header")

    def _block(self, offset: int, end: int) -> bytes | None:
        """The header at `offset`, None at the archive's end."""
        if offset == end and offset:
            return None
        block = self._read(offset, _BLOCK, end)
        if block != _ZEROS:
            return block
        # Two blocks of zeros end an archive. After a single one readers differ on what there is.
        if offset + _BLOCK < end and self._read(offset + _BLOCK, _BLOCK, end) != _ZEROS:
            raise self._damaged(offset, "has a block of zeros between two members")
        return None

    def _read(self, offset: int, size: int, end: int) -> bytes:
        if offset + size > end:
            if not offset:
                raise InvalidImage(f"{self.name}: {_NO_TAR}")
            raise InvalidImage(f"{self.name}: is cut short")
        try:
            data = os.pread(self._fd, size, offset)
        except OSError as error:
            raise unreadable(self.name, error) from error
        if len(data) != size:
            raise InvalidImage(f"{self.name}: is cut short")
        return data

    def _header(self, block: bytes, offset: int) -> _Header:
        checksum = sum(block) - sum(block[148:156]) + 8 * ord(" ")
        if self._number(block[148:156], offset) != checksum:
            raise self._damaged(offset, "has a header with a wrong checksum")
        name = _text(block[:100])
        # GNU's own format has times where the others have a name's beginning.
        if block[257:263] == b"ustar\0" and (prefix := _text(block[345:500])):
            name = f"{prefix}/{name}"
        size = self._number(block[124:136], offset)
        return _Header(block[156:157], name, _text(block[157:257]), size)

    def _number(self, field: bytes, offset: int) -> int:
        if field[0] & 0x80:
            # GNU's binary form, for what octal digits cannot hold; 0xff begins the negative ones.
            value = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
            if value < 1 << 62:
                return value
        elif (form := _OCTAL.fullmatch(field)) is not None:
            return int(form[1] or b"0", 8)
        raise self._damaged(offset, "has a header with a number that is none")

    def _extended(self, header: _Header, data: int, end: int) -> dict[str, str]:
        """What an extended header says about the member that follows."""
        if header.size > _MAX_EXTENDED:
            raise self._damaged(data, f"has an extended header of {header.size} bytes")
        raw = self._read(data, header.size, end)
        if header.kind in _LONG:
            return {_LONG[header.kind]: _text(raw)}
        records = self._records(raw, data)
        if header.kind == tarfile.XGLTYPE:
            if any(key in ("path", "linkpath", "size") for key in records):
                raise self._damaged(data, "has a global header that names every member")
            return {}
        return records

    def _records(self, raw: bytes, data: int) -> dict[str, str]:
        """The records of a pax header that matter here; of equal keys the last counts."""
        found: dict[str, str] = {}
        start = 0
        while start < len(raw):
            form = _RECORD.match(raw, start)
            stop = start + int(form[1]) if form is not None else 0
            if form is None or not form.end() < stop <= len(raw) or raw[stop - 1 : stop] != b"\n":
                raise self._damaged(data, "has an extended header with a damaged record")
            key = form[2].decode("utf-8", "replace")
            if key in ("path", "linkpath", "size"):
                found[key] = raw[form.end() : stop - 1].decode("utf-8", "surrogateescape")
            elif key.startswith("GNU.sparse."):
                found["sparse"] = "yes"
            start = stop
        return found

    def _member(self, header: _Header, extended: dict[str, str], data: int, end: int) -> int:
        """Enters a member; how many bytes of data it has."""
        name, link = extended.get("path") or header.name, extended.get("linkpath") or header.link
        size = header.size
        if text := extended.get("size"):
            if not _NUMBER.fullmatch(text):
                raise self._damaged(data, "has an extended header with a size that is none")
            size = int(text)
        if header.kind == tarfile.GNUTYPE_SPARSE or "sparse" in extended:
            raise self._damaged(data, f"has a sparse member, {shorten(name)}, which is not read here")
        # Before there was a type for directories, a slash at the end of the name said it.
        plain = header.kind in _FILES and not (name.endswith("/") and not size)
        if size and not plain:
            # Some readers skip that many bytes and some skip none.
            raise self._damaged(data, f"has data in {shorten(name)}, which is no file")
        if data + size > end:
            raise InvalidImage(f"{self.name}: is cut short: {shorten(name)} would have {size} bytes")
        # The archive's own root may be in it.
        if _is_root(name) and not plain:
            return size
        name = self.clean(name)
        if plain:
            self._enter(name, File(size, lambda: self.contents(self._fd, data, size)))
        elif header.kind == tarfile.SYMTYPE:
            self._enter(name, self.link(name, link))
        elif header.kind == tarfile.LNKTYPE:
            # Unlike a symbolic link's text, this is a name in the archive.
            self._enter(name, Link(self.clean(link)))
        elif header.kind in _OTHERS:
            self._enter(name, Unusable("is no plain file"))
        elif header.kind != tarfile.DIRTYPE and header.kind not in _FILES:
            raise self._damaged(data, f"has a member of unknown type {header.kind!r}, {shorten(name)}")
        return size

    def _enter(self, name: str, found: Found) -> None:
        if name in self._members:
            found = Unusable("is in the archive twice")
        self._names += len(name)
        if self._names > _MAX_NAMES:
            raise InvalidImage(f"{self.name}: the names in it have more than {_MAX_NAMES} characters")
        self._members[name] = found

    def _damaged(self, offset: int, what: str) -> InvalidImage:
        # What begins so was never meant to be one.
        return InvalidImage(
            f"{self.name}: {what} (at byte {offset})" if offset else f"{self.name}: {_NO_TAR}"
        )


def _text(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _is_root(name: str) -> bool:
    return all(part in ("", ".") for part in name.split("/"))
