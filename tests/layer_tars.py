"""Tar archives for the tests of layer extraction: well-formed ones by `tarfile`, odd ones block by block."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from typing import Any

BLOCK = 512
END = bytes(2 * BLOCK)


def padded(data: bytes) -> bytes:
    """The data, filled up to a whole number of blocks."""
    return data + bytes(-len(data) % BLOCK)


def octal(value: int, size: int) -> bytes:
    return b"%0*o\0" % (size - 1, value)


def base256(value: int, size: int) -> bytes:
    """GNU's encoding of numbers that octal digits cannot hold: two's complement with the first bit set."""
    encoded = bytearray(value.to_bytes(size, "big", signed=True))
    encoded[0] |= 0x80
    return bytes(encoded)


def header(
    name: bytes,
    kind: bytes = b"0",
    *,
    mode: bytes = b"0000644\0",
    uid: bytes = b"0000000\0",
    gid: bytes = b"0000000\0",
    size: bytes | int = 0,
    mtime: bytes = b"00000000001\0",
    link: bytes = b"",
    magic: bytes = b"ustar\x0000",
    devices: bytes = b"",
    rest: bytes = b"",
    checksum: bytes | None = None,
) -> bytes:
    """One header block, every field as raw bytes; `rest` is what stands from offset 345 on."""
    length = size if isinstance(size, bytes) else octal(size, 12) if size < 8**11 else base256(size, 12)
    fields = (name, 100), (mode, 8), (uid, 8), (gid, 8), (length, 12), (mtime, 12)
    head = b"".join(value.ljust(width, b"\0") for value, width in fields)
    tail = kind + link.ljust(100, b"\0") + magic.ljust(8, b"\0") + bytes(64) + devices.ljust(16, b"\0") + rest
    assert len(head) == 148 and len(link) <= 100
    tail = tail.ljust(BLOCK - 156, b"\0")
    assert len(tail) == BLOCK - 156
    if checksum is None:
        checksum = b"%06o\0 " % (sum(head) + sum(tail) + 8 * 32)
    return head + checksum + tail


def record(key: str | bytes, value: str | bytes) -> bytes:
    """One record of an extended header: its length counts itself."""
    key, value = (part.encode() if isinstance(part, str) else part for part in (key, value))
    body = b" " + key + b"=" + value + b"\n"
    length = len(body)
    while len(b"%d" % length) + len(body) != length:
        length = len(b"%d" % length) + len(body)
    return b"%d" % length + body


def extended(*records: tuple[str | bytes, str | bytes], kind: bytes = b"x") -> bytes:
    """An extended header with these records, in order."""
    text = b"".join(record(key, value) for key, value in records)
    return header(b"PaxHeaders/x", kind, size=len(text)) + padded(text)


def any_header(name: bytes, kind: bytes, *, link: bytes = b"", **fields: Any) -> bytes:
    """A header whose names may be of any length: GNU's long ones stand ahead of it where needed."""
    long = (long_name(name) if len(name) > 100 else b"") + (long_name(link, b"K") if len(link) > 100 else b"")
    return long + header(name[:100], kind, link=link[:100], **fields)


def entry(name: bytes, data: bytes = b"", **fields: Any) -> bytes:
    """A plain file."""
    return any_header(name, b"0", size=len(data), **fields) + padded(data)


def directory(name: bytes, **fields: Any) -> bytes:
    return any_header(name, b"5", **{"mode": b"0000755\0", **fields})


def symlink(name: bytes, target: bytes) -> bytes:
    return any_header(name, b"2", link=target)


def hard_link(name: bytes, target: bytes) -> bytes:
    return any_header(name, b"1", link=target)


def device(name: bytes, kind: bytes, major: int, minor: int) -> bytes:
    return header(name, kind, devices=octal(major, 8) + octal(minor, 8))


def archive(*parts: bytes) -> bytes:
    return b"".join(parts) + END


def long_name(name: bytes, kind: bytes = b"L") -> bytes:
    """GNU's way to a name (`L`) or link target (`K`) over 100 bytes, for the entry that follows."""
    return header(b"././@LongLink", kind, size=len(name) + 1, magic=b"ustar  \0") + padded(name + b"\0")


def sparse_old(name: bytes, areas: list[tuple[int, bytes]], real_size: int, per_header: int = 4) -> bytes:
    """GNU's old sparse format, its map in the header and in extension blocks."""
    pairs = [octal(offset, 12) + octal(len(data), 12) for offset, data in areas]
    first, more = pairs[:per_header], pairs[per_header:]
    rest = bytes(41) + b"".join(first).ljust(96, b"\0") + (b"\1" if more else b"\0") + octal(real_size, 12)
    stored = b"".join(data for _, data in areas)
    blocks = [header(name, b"S", size=len(stored), magic=b"ustar  \0", rest=rest)]
    while more:
        now, more = more[:21], more[21:]
        blocks.append((b"".join(now).ljust(504, b"\0") + (b"\1" if more else b"\0")).ljust(BLOCK, b"\0"))
    return b"".join(blocks) + padded(stored)


def sparse_pax(name: bytes, areas: list[tuple[int, bytes]], real_size: int, version: str) -> bytes:
    """The pax sparse formats "0.0", "0.1" and "1.0"."""
    stored = b"".join(data for _, data in areas)
    pairs = [(str(offset), str(len(data))) for offset, data in areas]
    if version == "1.0":
        numbers = [str(len(pairs)), *(number for pair in pairs for number in pair)]
        stored = padded("".join(f"{number}\n" for number in numbers).encode()) + stored
        keys = extended(
            ("GNU.sparse.major", "1"),
            ("GNU.sparse.minor", "0"),
            ("GNU.sparse.name", name),
            ("GNU.sparse.realsize", str(real_size)),
        )
        return keys + entry(b"GNUSparseFile.0/x", stored)
    count = ("GNU.sparse.numblocks", str(len(pairs)))
    if version == "0.1":
        listed = ",".join(number for pair in pairs for number in pair)
        keys = extended(
            ("GNU.sparse.size", str(real_size)), count, ("GNU.sparse.name", name), ("GNU.sparse.map", listed)
        )
        return keys + entry(b"GNUSparseFile.0/x", stored)
    each = [
        (key, number)
        for pair in pairs
        for key, number in zip(("GNU.sparse.offset", "GNU.sparse.numbytes"), pair, strict=True)
    ]
    return extended(("GNU.sparse.size", str(real_size)), count, *each) + entry(name, stored)


def by_tarfile(
    members: Mapping[str, tuple[dict[str, Any], bytes]], format: int = tarfile.PAX_FORMAT
) -> bytes:
    """An archive written by `tarfile`: name -> (attributes of TarInfo, data)."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=format) as tar:
        for name, (attributes, data) in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in attributes.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")
"""A value of security.capability: cap_net_raw+ep, version 2."""

AREAS = [(512, b"a" * 10), (2048, b"b" * 600), (8192, b"")]


def corpus() -> dict[str, bytes]:
    """The seeds of the fuzzer (tests/native/fuzz_layer.c), whose first byte chooses its limits and flags."""
    attributes = ("SCHILY.xattr.user.note", "n"), ("SCHILY.xattr.trusted.overlay.opaque", "y")
    numbers = ("mtime", "-1.5"), ("uid", "5"), ("gid", "6"), ("size", "3"), ("comment", "c")
    seeds = {
        "kinds": (
            directory(b"d/"),
            entry(b"d/f", b"x"),
            symlink(b"l", b"/d"),
            entry(b"l/g"),
            hard_link(b"h", b"l/f"),
        ),
        "pax": (extended(("path", "p/q"), *numbers, *attributes), header(b"x") + padded(b"abc")),
        "attributes": (
            extended((b"SCHILY.xattr.security.capability", CAPABILITY)) + entry(b"f", mode=b"0004755\0"),
            extended(("SCHILY.xattr.user.a", "b")) + directory(b"d") + directory(b"d"),
        ),
        "links": (extended(("comment", "g"), kind=b"g"), extended(("linkpath", "../x")), symlink(b"s", b"t")),
        "long": (long_name(b"n" * 120), long_name(b"t" * 120, b"K"), symlink(b"n", b"t")),
        "whiteouts": (entry(b"a/.wh.b"), entry(b"a/b/c"), entry(b"d/.wh..wh..opq"), directory(b"a/b/")),
        "implied": (
            entry(b"e/b/c"),
            entry(b"e/.wh..wh..opq"),
            entry(b"i/j/k"),
            directory(b"i"),
            entry(b"m/h"),
        ),
        "nodes": (device(b"c", b"3", 1, 3), device(b"b", b"4", 7, 0), header(b"p", b"6"), directory(b"c")),
        "sparse-old": (sparse_old(b"s", [(1024 * i, b"z") for i in range(6)], 9000),),
        "sparse-0.0": (sparse_pax(b"s", AREAS, 8192, "0.0"),),
        "sparse-0.1": (sparse_pax(b"s", AREAS, 8192, "0.1"),),
        "sparse-1.0": (sparse_pax(b"s", AREAS, 8192, "1.0"),),
        "base256": (entry(b"f", uid=base256(70000, 8), mtime=base256(-9, 12)), entry(b"f", b"twice")),
    }
    return {name: (b"\x08" if name == "implied" else b"\0") + b"".join(p) for name, p in seeds.items()}
