"""Decompression: every format, any chunking, damage found, memory flat."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import zstandard

from pycontainer.errors import InvalidImage
from pycontainer.layer.compression import decompress, peek

FORMATS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zstd": zstandard.compress,
    "xz": lzma.compress,
    "bzip2": bz2.compress,
    "none": bytes,
}
PACKED = [name for name in FORMATS if name != "none"]


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def unpacked(data: bytes, size: int = 65536) -> bytes:
    form, chunks = peek(pieces(data, size))
    return b"".join(decompress(chunks, form))


@pytest.mark.parametrize("size", [1, 7, 4096, 1 << 20])
@pytest.mark.parametrize("name", FORMATS)
def test_round_trip(name: str, size: int) -> None:
    content = os.urandom(50_000) + b"a" * (100_000 if size < 100 else 5_000_000)
    assert peek(pieces(FORMATS[name](content), size))[0] == name
    assert unpacked(FORMATS[name](content), size) == content


@pytest.mark.parametrize("name", PACKED)
def test_several_members_and_padding(name: str) -> None:
    packed = FORMATS[name](b"one") + FORMATS[name](b"two") + bytes(600)
    assert unpacked(packed) == unpacked(packed, 1) == b"onetwo"


@pytest.mark.parametrize("cut", [1, 4, 100])
@pytest.mark.parametrize("name", PACKED)
def test_cut_short(name: str, cut: int) -> None:
    with pytest.raises(InvalidImage, match=f"{name} data is"):
        unpacked(FORMATS[name](os.urandom(100_000))[:-cut])


@pytest.mark.parametrize("name", PACKED)
def test_damaged(name: str) -> None:
    packed = bytearray(FORMATS[name](bytes(range(256)) * 1000))
    packed[len(packed) // 2] ^= 0x10
    with pytest.raises(InvalidImage, match=f"{name} data is damaged"):
        unpacked(bytes(packed) + b"garbage behind")


def test_without_isal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "isal", None)
    assert unpacked(gzip.compress(b"x" * 3_000_000)) == b"x" * 3_000_000


@pytest.mark.parametrize("name", ["gzip", "zstd"])
def test_bombs_need_little_memory(name: str) -> None:
    script = f"""
import gzip, io, resource, sys, zstandard
from pycontainer.layer.compression import decompress, peek
zeros = bytes(1 << 20)
out = io.BytesIO()
writer = gzip.GzipFile(fileobj=out, mode="wb") if {name!r} == "gzip" else \\
    zstandard.ZstdCompressor().stream_writer(out, closefd=False)
for _ in range(1024):
    writer.write(zeros)
writer.close()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
form, chunks = peek(iter([out.getvalue()]))
size = sum(map(len, decompress(chunks, form)))
assert size == 1 << 30, size
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < 200 * 1024  # KiB


@pytest.mark.parametrize("size", [1, 13, 1 << 20])
def test_zstd_frames_of_all_kinds(size: int) -> None:
    """With and without sizes and checksums, and frames to be skipped, as zstd:chunked layers have them."""
    content = os.urandom(300_000) + bytes(2_000_000 if size > 1 else 200_000)
    skipped = b"\x51\x2a\x4d\x18" + (1000).to_bytes(4, "little") + os.urandom(1000)
    for checksum in (False, True):
        for known in (False, True):
            packer = zstandard.ZstdCompressor(
                write_checksum=checksum, write_content_size=known, level=19 if known else 1
            )
            packed = packer.compress(content)
            assert unpacked(packed + skipped + packed + skipped, size) == content + content
            with pytest.raises(InvalidImage, match="cut short"):
                unpacked(packed + skipped[:-1], size)


def test_zstd_gives_little_at_a_time() -> None:
    """A terabyte of zeros is a few kilobytes."""
    packed = zstandard.compress(bytes(64 << 20))
    form, chunks = peek(iter([packed]))
    assert len(packed) < 8192 and max(map(len, decompress(chunks, form))) <= 1 << 20
    # A block that says more than it may is refused, not believed.
    with pytest.raises(InvalidImage, match="zstd data is"):
        unpacked(packed[:10] + b"\xff\xff\xff" + packed[13:])
