"""Decompression: every format, any chunking, damage found, memory flat."""

from __future__ import annotations

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
