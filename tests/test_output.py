"""The thread that takes in what containers write: Ctrl-C at any step of handing descriptors to it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from types import TracebackType

import pytest

import leaks
from containers import until
from pycontainer import output


class RungAtItsEnd:
    """A lock whose first `with` block is interrupted right behind its last statement."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rung = False

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, kind: type[BaseException] | None, _: object, __: TracebackType | None) -> None:
        self._lock.release()
        if not self._rung:
            self._rung = True
            raise KeyboardInterrupt


@pytest.fixture
def drain(monkeypatch: pytest.MonkeyPatch) -> Iterator[output._Drain]:
    with leaks.unchanged(ignore=("cgroups", "keys", "files", "processes")):
        own = output._Drain()
        monkeypatch.setattr(output, "_drain", own)
        yield own


def test_when_the_thread_has_them_already_it_closes_them(drain: output._Drain) -> None:
    drain._lock = RungAtItsEnd()  # type: ignore[assignment]
    reader, writer = os.pipe()
    found: list[bytes] = []
    with pytest.raises(KeyboardInterrupt):
        output.Taking({reader: found.append})
    os.fstat(reader)
    os.write(writer, b"written")
    os.close(writer)
    until(lambda: drain._epoll is None, "the thread is at its end")
    assert found == [b"written"]


@pytest.mark.parametrize("begun", [False, True], ids=["before the thread", "behind its start"])
def test_when_the_thread_is_only_made(
    drain: output._Drain, begun: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def rung(thread: threading.Thread) -> None:
        if begun:
            start(thread)
        raise KeyboardInterrupt

    reader, writer = os.pipe()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", rung)
        with pytest.raises(KeyboardInterrupt):
            output.Taking({reader: lambda _: None})
    with pytest.raises(BrokenPipeError):
        os.write(writer, b"x")
    os.close(writer)
    assert drain._epoll is None
