"""Decompressing layers: the format is found by its magic bytes, memory stays flat whatever comes out."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, Literal, Protocol

from pycontainer.errors import InvalidImage

Format = Literal["gzip", "zstd", "xz", "bzip2", "none"]

# Large enough for few calls, little enough to be hashed and passed on out of a processor's cache.
_OUTPUT = 256 << 10
# What `zstd --long=27`, the largest that the zstd tool reads unasked, needs in memory.
_ZSTD_WINDOW = 128 << 20
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ZSTD_BLOCK = 128 << 10  # the most that a block gives
_XZ_MEMORY = 256 << 20
_MAGIC: tuple[tuple[bytes, Format], ...] = (
    (b"\x1f\x8b\x08", "gzip"),
    (_ZSTD_MAGIC, "zstd"),
    (b"\xfd7zXZ\0", "xz"),
    # The first block of any content, which starts with the digits of pi; the digit before tells its size.
    *((b"BZh%d1A" % size, "bzip2") for size in range(1, 10)),
)


def detect(head: bytes) -> Format:
    """The format of content that starts with `head` (6 bytes are enough)."""
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    return "none"


def peek(chunks: Iterator[bytes]) -> tuple[Format, Iterator[bytes]]:
    """The format of `chunks`, and the same chunks again from the first on."""
    head = b""
    for chunk in chunks:
        head += chunk
        if len(head) >= 6:
            break
    return detect(head), chain([head] if head else [], chunks)


def decompress(chunks: Iterator[bytes], form: Format) -> Iterator[bytes]:
    """The content of `chunks`, in pieces of at most 256 KiB; InvalidImage where it is damaged or cut off."""
    if form == "none":
        return chunks
    return _members(chunks, form)


class _Member(Protocol):
    """The interface of `lzma.LZMADecompressor` and `bz2.BZ2Decompressor`, whose output is bounded."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _GzipMember:
    """One gzip member; the libraries' objects are alike where they are asked about the end."""

    def __init__(self, inflater: Any) -> None:
        self._inflater = inflater
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return bool(self._inflater.eof)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._inflater.unused_data)


class _IgzipMember(_GzipMember):
    """By isal: this interface of it costs a sixth less than the one that is like zlib's, which
    hands input back with each piece."""

    def __init__(self) -> None:
        from isal import igzip_lib

        super().__init__(igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP))

    def decompress(self, data: bytes, max_length: int) -> bytes:
        piece = bytes(self._inflater.decompress(data, max_length))
        # A full buffer may leave output inside although all input was taken.
        self.needs_input = self._inflater.needs_input and len(piece) < max_length
        return piece


class _ZlibMember(_GzipMember):
    """By zlib, where there is no isal."""

    def __init__(self) -> None:
        super().__init__(zlib.decompressobj(wbits=31))

    def decompress(self, data: bytes, max_length: int) -> bytes:
        piece = bytes(self._inflater.decompress(self._inflater.unconsumed_tail + data, max_length))
        # A full buffer may leave output inside although all input was taken.
        self.needs_input = not self._inflater.unconsumed_tail and len(piece) < max_length
        return piece


class _ZstdMember:
    """One zstd frame (RFC 8878), passed on by a few blocks at a time.

    The decompressor knows no bound for its output, but a block gives at most 128 KiB: so blocks are
    counted here, by the sizes in their headers. Whether they are right is for the decompressor to say.
    """

    def __init__(self) -> None:
        import zstandard

        self._object = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).decompressobj()
        self._left = b""
        self._known = 0  # bytes at the start of `_left`, or to come, that belong to counted blocks
        self._checksum = 0
        self._in_blocks = False
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._object.eof

    @property
    def unused_data(self) -> bytes:
        return self._object.unused_data + self._left

    def decompress(self, data: bytes, max_length: int) -> bytes:
        self._left += data
        if not self._in_blocks and not self._known:
            self._header()
        if self._in_blocks:
            self._count(max(1, max_length // _ZSTD_BLOCK))
        size = min(self._known, len(self._left))
        self.needs_input = not size
        if not size:
            return b""
        piece, self._left = self._left[:size], self._left[size:]
        self._known -= size
        found = self._object.decompress(piece)
        # After what should be the end comes what only the decompressor can complain about.
        if not self._known and not self._in_blocks and not self._object.eof:
            self._known = len(self._left)
        return found

    def _header(self) -> None:
        left = self._left
        if left[:4] == _ZSTD_MAGIC and len(left) >= 5:
            self._known, self._checksum = _zstd_header(left[4])
            self._in_blocks = True
        elif len(left) >= 8:
            # A frame to be skipped says how long it is; anything else is an error at its first bytes.
            self._known = 8 + int.from_bytes(left[4:8], "little")

    def _count(self, blocks: int) -> None:
        """Counts in what comes next, as far as it is at hand."""
        while blocks and self._known + 3 <= len(self._left):
            header = int.from_bytes(self._left[self._known : self._known + 3], "little")
            # A block that repeats one byte (type 1) is that byte, however long it becomes.
            self._known += 3 + (1 if header >> 1 & 3 == 1 else header >> 3)
            blocks -= 1
            if header & 1:
                self._known += self._checksum
                self._in_blocks = False
                break


def _zstd_header(descriptor: int) -> tuple[int, int]:
    """The lengths of a frame's header, magic included, and of its checksum (RFC 8878, 3.1.1.1)."""
    single = descriptor >> 5 & 1
    content_size = (single, 2, 4, 8)[descriptor >> 6]
    dictionary = (0, 1, 2, 4)[descriptor & 3]
    return 5 + (1 - single) + dictionary + content_size, 4 * (descriptor >> 2 & 1)


def _xz_member() -> _Member:
    import lzma

    return lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)


def _bzip2_member() -> _Member:
    import bz2

    return bz2.BZ2Decompressor()


def _igzip() -> Any:
    """isal's igzip inflates several times as fast as zlib; it has no wheels for some machines (None)."""
    try:
        from isal import igzip_lib
    except ImportError:
        return None
    return igzip_lib


def _gzip_member() -> _Member:
    return _ZlibMember() if _igzip() is None else _IgzipMember()


def _failures(form: Format) -> tuple[type[Exception], ...]:
    if form == "gzip":
        igzip = _igzip()
        return (zlib.error,) if igzip is None else (zlib.error, igzip.error)
    if form == "xz":
        import lzma

        return (lzma.LZMAError,)
    if form == "bzip2":
        return (OSError,)
    import zstandard

    return (zstandard.ZstdError,)


def _members(chunks: Iterator[bytes], form: Format) -> Iterator[bytes]:
    """All members of a file: pigz and eStargz write many, and zero bytes may pad the end."""
    starts: dict[Format, Callable[[], _Member]] = {
        "gzip": _gzip_member,
        "zstd": _ZstdMember,
        "xz": _xz_member,
        "bzip2": _bzip2_member,
    }
    start = starts[form]
    failures = _failures(form)
    member: _Member | None = start()
    for chunk in chunks:
        data = chunk
        while data or (member is not None and not member.needs_input):
            if member is None:
                data = data.lstrip(b"\0")
                if not data:
                    break
                member = start()
            try:
                piece = member.decompress(data, _OUTPUT)
            except failures as error:
                raise InvalidImage(f"{form} data is damaged: {error}") from None
            data = b""
            if member.eof:
                data, member = member.unused_data, None
            if piece:
                yield piece
    if member is not None:
        raise InvalidImage(f"{form} data is cut short")
