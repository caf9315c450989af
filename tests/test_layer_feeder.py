"""The pipe that a layer goes through: its pieces are lent to it and stay as they are until read."""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections.abc import Iterator

import pytest

from pycontainer.layer import apply
from pycontainer.layer.limits import Limits

SIZES = {
    "large": [256 << 10],
    "just lent": [64 << 10],
    "just not lent": [(64 << 10) - 1],
    "pages": [4096],
    "all kinds": [1, 511, 4097, 65535, 65536, 65537, 262144, 1 << 20, 3 << 20],
}


def pieces(sizes: list[int], total: int) -> Iterator[bytes]:
    """Each is let go of, so that its memory is soon another's."""
    chance = random.Random(1)
    while total > 0:
        size = min(total, chance.choice(sizes))
        total -= size
        yield chance.randbytes(size)


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("slow", [False, True], ids=["at once", "late"])
def test_what_is_read_is_what_was_given(sizes: list[int], slow: bool) -> None:
    total = 12 << 20
    feeder = apply._Feeder(pieces(sizes, total), Limits(), "sha256")
    read = hashlib.sha256()
    size = 0
    while data := os.read(feeder.reader, 100_000):
        read.update(data)
        size += len(data)
        if slow and size % 7 == 0:
            time.sleep(0.001)
    measured = feeder.finish()
    assert (measured.size, measured.diff_id.hex) == (total, read.hexdigest()) and size == total


def test_a_piece_that_can_change_is_copied() -> None:
    def changing() -> Iterator[bytes]:
        piece = bytearray(128 << 10)
        for number in range(6):
            piece[:] = bytes([number]) * len(piece)
            yield piece  # type: ignore[misc]

    feeder = apply._Feeder(changing(), Limits(), "sha256")
    deadline = time.monotonic() + 10
    while feeder._thread.is_alive() and time.monotonic() < deadline:
        time.sleep(0.001)
    data = b"".join(iter(lambda: os.read(feeder.reader, 1 << 20), b""))
    feeder.finish()
    assert data == b"".join(bytes([number]) * (128 << 10) for number in range(6))


def test_the_last_pieces_are_there_after_the_end_of_the_stream() -> None:
    """The thread that gave them has ended by then."""
    feeder = apply._Feeder(pieces([256 << 10], 768 << 10), Limits(), "sha256")
    feeder._thread.join(10)
    assert not feeder._thread.is_alive()
    others = [bytes([1]) * (256 << 10) for _ in range(64)]
    read = hashlib.sha256(b"".join(iter(lambda: os.read(feeder.reader, 1 << 20), b"")))
    assert feeder.finish().diff_id.hex == read.hexdigest()
    assert len(others) == 64
