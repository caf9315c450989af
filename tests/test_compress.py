"""Compressing layers: the same bytes from any number of threads, which every tool reads."""

from __future__ import annotations

import gzip
import hashlib
import random
import shutil
import subprocess
import threading
import zlib
from collections.abc import Iterator

import pytest

from conftest import need
from pycontainer.layer import compress as module
from pycontainer.layer.compress import Form, compress
from pycontainer.layer.compression import decompress, detect

FORMS: tuple[Form, ...] = ("gzip", "zstd")
BLOCK = 256 << 10


def content(size: int, seed: int = 1) -> bytes:
    """Bytes that compress to about half, with repetitions that reach across blocks."""
    source = random.Random(seed)
    words = [source.randbytes(source.randrange(1, 60)) for _ in range(3000)]
    text = b"".join(source.choices(words, k=size // 20 + 1))
    return text[:size]


def cut(data: bytes, largest: int, seed: int = 1) -> Iterator[bytes]:
    """The data in pieces of random sizes, empty ones among them."""
    source = random.Random(seed)
    start = 0
    while start < len(data):
        end = start + source.randrange(largest + 1)
        yield data[start:end]
        start = end


def compressed(data: bytes, form: Form, threads: int | None = None) -> bytes:
    return b"".join(compress([data], form, threads=threads))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [0, 1, 511, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK, 3_000_001])
def test_nothing_but_the_content_matters(form: Form, size: int) -> None:
    data = content(size)
    first = compressed(data, form, 1)
    for threads in (1, 2, 4, None):
        for largest in (1 << 10, 100_000, 1 << 20):
            assert b"".join(compress(cut(data, largest, threads or 7), form, threads=threads)) == first
    assert detect(first) == form
    assert b"".join(decompress(iter([first]), form)) == data


def test_the_bytes_are_these() -> None:
    """What zlib 1.2 and 1.3 give: another implementation is no error, but should be noticed."""
    need(zlib.ZLIB_RUNTIME_VERSION in ("1.2.11", "1.2.12", "1.2.13", "1.3", "1.3.1"), "the classic zlib")
    digest = hashlib.sha256(compressed(bytes(range(256)) * 4096, "gzip")).hexdigest()
    assert digest == "baec786a8490833f1a5c7b489a2dd062850420fcb5525213530c46aed82e491d"


def test_one_member_without_time_or_name() -> None:
    raw = compressed(content(2 * BLOCK), "gzip")
    assert raw[:10] == b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
    inflater = zlib.decompressobj(wbits=31)
    assert inflater.decompress(raw) == content(2 * BLOCK)
    assert inflater.eof and not inflater.unused_data


def test_blocks_refer_to_those_before_them() -> None:
    """Noise that repeats within 32 KiB is found again across the border of two blocks."""
    noise = random.Random(2).randbytes(20 << 10)
    data = content(BLOCK - len(noise)) + noise + noise
    assert len(compressed(data, "gzip")) < len(compressed(data[: -len(noise)], "gzip")) + 2000


@pytest.mark.parametrize("form", FORMS)
def test_size_is_that_of_others(form: Form) -> None:
    data = content(4 << 20)
    reference = len(gzip.compress(data, 6))
    assert len(compressed(data, form)) < reference * 1.1


@pytest.mark.parametrize("form", FORMS)
def test_noise_is_hardly_larger_and_pieces_stay_small(form: Form) -> None:
    noise = random.Random(3).randbytes(3 << 20)
    pieces = list(compress([noise], form, threads=2))
    assert sum(map(len, pieces)) < len(noise) * 1.001 + 100
    assert max(map(len, pieces)) <= 1 << 20


def test_none_is_as_it_was() -> None:
    assert list(compress(iter([b"a", b"b"]), "none")) == [b"a", b"b"]


@pytest.mark.parametrize("form", FORMS)
def test_tools_read_it(form: Form) -> None:
    need(shutil.which(form) is not None, form)
    data = content(1_500_000)
    done = subprocess.run([form, "-dc"], input=compressed(data, form), capture_output=True, check=True)
    assert done.stdout == data
    assert done.stderr == b""


def test_memory_is_bounded() -> None:
    """Input is taken only as fast as output is."""
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield content(BLOCK, 4) if taken == 1 else bytes(BLOCK)

    stream = compress(endless(), "gzip", threads=4)
    for _ in range(3):
        next(stream)
    assert taken <= module._AHEAD + 3
    stream.close()  # type: ignore[attr-defined]


def test_closing_ends_the_threads() -> None:
    before = set(threading.enumerate())
    stream = compress(cut(content(4 << 20), 1 << 20), "gzip", threads=3)
    next(stream)
    next(stream)
    assert len(set(threading.enumerate()) - before) > 1
    stream.close()  # type: ignore[attr-defined]
    assert set(threading.enumerate()) == before


@pytest.mark.parametrize("form", FORMS)
def test_failing_input_comes_through(form: Form) -> None:
    def broken() -> Iterator[bytes]:
        yield content(BLOCK)
        raise OSError("the disk is gone")

    before = set(threading.enumerate())
    with pytest.raises(OSError, match="the disk is gone"):
        list(compress(broken(), form))
    assert set(threading.enumerate()) == before
