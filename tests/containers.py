"""Short ways to run something in a container and look at it, for the tests of the public interface."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import leaks
import pycontainer as pc
from pycontainer import session

SECONDS = 60.0
"""No test waits longer for a container."""

ROOT = os.getuid() == 0

as_root = pytest.mark.skipif(not ROOT, reason="tests what only root has")
"""The whole file runs again as an ordinary user, see test_as_ordinary_user.py; this one does not."""


@contextlib.contextmanager
def nothing_left(*, ignore: tuple[str, ...] = ()) -> Iterator[None]:
    """`leaks.unchanged` for a machine with neighbours: of the control groups this process's own count,
    and of the keys none, since the kernel collects everybody's when it likes."""
    leaks.at_rest()
    before = _own_groups()
    with leaks.unchanged(ignore=("keys", "cgroups", *ignore)):
        yield
        leaks.at_rest()
        until(lambda: _own_groups() == before, "the control groups are as before")


def _own_groups() -> list[str]:
    owned = session.current().cgroups.directories
    return sorted(entry.path for path in owned for entry in os.scandir(path) if entry.is_dir())


PYTHON = [sys.executable, "-I", "-S", "-c"]
"""This very interpreter, which the host image has, without the time that `site` takes."""


def sh(script: str, *, image: pc.Image | str = "host", **options: Any) -> pc.Completed:
    """Runs a shell script in a container and captures all it writes, as text."""
    chosen = {"capture_output": True, "text": True, "timeout": SECONDS} | options
    return pc.run(image, ["sh", "-c", script], **chosen)


def out(script: str, **options: Any) -> str:
    """What a shell script that must succeed writes, without the last line's end."""
    result = sh(script, **options)
    assert result.returncode == 0, f"{result!r}\n{result.stdout}{result.stderr}"
    return str(result.stdout).rstrip("\n")


def python(code: str, *arguments: object, **options: Any) -> pc.Completed:
    """Runs Python in a container on the host image."""
    chosen = {"capture_output": True, "text": True, "timeout": SECONDS} | options
    return pc.run("host", [*PYTHON, code, *map(str, arguments)], **chosen)


def sleeper(**options: Any) -> pc.Container:
    """A running container that does nothing; use it as a context manager."""
    return pc.start("host", ["sleep", "1000"], **options)


def until(condition: Callable[[], object], what: str, *, seconds: float = 10.0) -> None:
    """Waits for what happens soon, but not at once."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"still not after {seconds} s: {what}"
        time.sleep(0.01)


def with_argument(argument: str) -> list[int]:
    """The host's numbers of all processes that have exactly this argument."""
    wanted = os.fsencode(argument)
    return [int(entry.name) for entry in Path("/proc").iterdir() if wanted in _arguments(entry)]


def _arguments(process: Path) -> Sequence[bytes]:
    if not process.name.isdigit():
        return ()
    try:
        return (process / "cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return ()


_numbers = iter(range(os.getpid() * 10_000, 2**31))


def unique_seconds() -> str:
    """An argument for sleep(1) by which one process can be found on the whole host."""
    return f"{next(_numbers)}.5"
