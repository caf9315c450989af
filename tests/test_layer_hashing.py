"""Hashing beside the thread that reads: the same digest, few pieces held, no thread left behind."""

from __future__ import annotations

import hashlib
import threading

import pytest

from pycontainer.layer import hashing
from pycontainer.layer.hashing import Hashing

PIECE = bytes(range(256)) * 1024


def names() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("count", [0, 1, 3, 9])
def test_the_digest_is_of_all_pieces(algorithm: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "_FEW", 2 * len(PIECE))
    with Hashing(algorithm) as found:
        for number in range(count):
            found.update(PIECE[number:])
    wanted = hashlib.new(algorithm, b"".join(PIECE[number:] for number in range(count)))
    assert str(found.digest) == f"{algorithm}:{wanted.hexdigest()}"
    assert "pycontainer-hash" not in names()


def test_a_large_stream_is_hashed_by_a_thread_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "_FEW", len(PIECE))
    with Hashing("sha256") as found:
        found.update(PIECE)
        assert "pycontainer-hash" not in names()
        found.update(PIECE)
        assert "pycontainer-hash" in names()


def test_among_others_a_stream_gets_its_thread_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "_FEW", 0)
    monkeypatch.setattr(hashing, "_FEW_AMONG_OTHERS", len(PIECE))
    with Hashing("sha256") as found:
        with Hashing("sha256"):
            found.update(PIECE)
            assert "pycontainer-hash" not in names()
            found.update(PIECE)
            assert "pycontainer-hash" in names()
        with pytest.raises(ZeroDivisionError), Hashing("sha256"):
            raise ZeroDivisionError
    with Hashing("sha256") as found:
        found.update(PIECE)
        assert "pycontainer-hash" in names(), "the others are over"


def test_no_more_than_a_few_pieces_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who reads faster than is hashed waits: memory does not grow."""
    monkeypatch.setattr(hashing, "_FEW", 0)
    going, waiting = threading.Event(), threading.Semaphore(0)

    class Slow:
        def update(self, _: bytes) -> None:
            going.wait(60)

    def read(found: Hashing) -> None:
        for _ in range(20):
            found.update(b"x")
            waiting.release()

    with Hashing("sha256") as found:
        found._hash = Slow()  # type: ignore[assignment]
        reader = threading.Thread(target=read, args=(found,))
        reader.start()
        for _ in range(hashing._AHEAD):
            assert waiting.acquire(timeout=60)
        assert not waiting.acquire(timeout=0.2)
        going.set()
        reader.join(60)
        assert not reader.is_alive()


def test_the_thread_ends_with_a_stream_that_breaks_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "_FEW", 0)
    with pytest.raises(ZeroDivisionError), Hashing("sha256") as found:
        found.update(PIECE)
        raise ZeroDivisionError
    assert "pycontainer-hash" not in names()
