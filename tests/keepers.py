"""Persistent containers and their keepers, for the tests of `persist=True`."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ordinary_user
import pycontainer as pc
from containers import until


def persistent_directories() -> list[Path]:
    root = Path(os.environ["PYCONTAINER_STORE"]) / "persistent"
    return [path for path in root.iterdir() if len(path.name) == 32] if root.exists() else []


def state(container: pc.Container) -> dict[str, Any]:
    path = Path(os.environ["PYCONTAINER_STORE"]) / "persistent" / container.id / "state.json"
    return json.loads(path.read_text())  # type: ignore[no-any-return]


def keeper_of(container: pc.Container) -> int:
    return int(state(container)["keeper"][0])


def alive(pid: int) -> bool:
    """A process that is no zombie."""
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:4]
    except FileNotFoundError:
        return False


def supervisor_of(keeper: int) -> int:
    """The one whose first descriptor beyond the standard streams is a pidfd of the keeper."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            name = (entry / "comm").read_text().strip()
            infos = [info.read_text() for info in (entry / "fdinfo").iterdir()]
        except OSError:
            continue
        if name.startswith("pycontainer-sup"[:15]) and any(f"\nPid:\t{keeper}\n" in info for info in infos):
            return int(entry.name)
    raise AssertionError(f"keeper {keeper} has no supervisor")


def remove_all() -> None:
    for container in pc.Container.list(all=True):
        container.remove(force=True)


@contextlib.contextmanager
def all_removed() -> Iterator[None]:
    """Whatever a test leaves goes, its keepers by their numbers at last."""
    yield
    pids = []
    for path in persistent_directories():
        try:
            pids.append(int(json.loads((path / "state.json").read_text())["keeper"][0]))
        except (OSError, ValueError, KeyError):
            continue
    remove_all()
    # Errors that a test caught hold its containers, and their connections.
    gc.collect()
    for pid in pids:
        try:
            until(lambda pid=pid: not alive(pid), f"keeper {pid} to end", seconds=5)
        except AssertionError:
            if b"pycontainer.keeping" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)


def elsewhere(script: str, *, timeout: float = 60, check: bool = True) -> list[str]:
    """Runs `script` in another process; the lines that it printed."""
    done = begun(script).communicate(timeout=timeout)
    if check:
        assert not done[1], done[1]
    return done[0].splitlines()


def begun(script: str) -> subprocess.Popen[str]:
    source = "import os, signal, sys, time\nimport pycontainer as pc\n" + textwrap.dedent(script)
    env = os.environ | {"PYTHONPATH": str(ordinary_user.package_root())}
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", source],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def persistent(*args: str, **options: Any) -> pc.Container:
    return pc.start("host", args or ["sleep", "1000"], persist=True, **options)
