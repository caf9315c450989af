"""A host program in a process of its own, and what it left behind, judged from outside.

Each host has a store of its own, so that what is left in it, and the control groups that bear the
names of its owners, are this host's and nobody else's.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import ordinary_user

CGROUPS = Path("/sys/fs/cgroup")

PRELUDE = """\
import os, signal, sys, threading, time
import pycontainer as pc
from pycontainer import session
from pycontainer.supervisor import client

# A shell starts what runs in its background with SIGINT ignored, and that is inherited.
signal.signal(signal.SIGINT, signal.default_int_handler)

def say(*words):
    # One write, so that lines of several processes do not mix.
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
"""


class Host:
    """A running script. Reading its lines, killing it, and asking what it left."""

    def __init__(
        self,
        script: str,
        base: Path,
        *,
        env: dict[str, str] | None = None,
        flags: tuple[str, ...] = ("-W", "error"),
        store: Path | None = None,
        preexec: Callable[[], None] | None = None,
        stdin: int = subprocess.DEVNULL,
    ) -> None:
        self.store = base / "store" if store is None else store
        source = base / "host.py"
        source.write_text(PRELUDE + textwrap.dedent(script))
        variables = os.environ | {
            "PYTHONPATH": str(ordinary_user.package_root()),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYCONTAINER_STORE": str(self.store),
        }
        self._log = base / "host.stderr"
        with self._log.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, *flags, str(source)],
                env=variables | (env or {}),
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=errors,
                preexec_fn=preexec,
            )
        self.pid = self.process.pid
        self._buffer = b""

    def __enter__(self) -> Host:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def line(self, timeout: float = 30) -> str:
        """The next line that the host says."""
        assert self.process.stdout is not None
        fd = self.process.stdout.fileno()
        deadline = time.monotonic() + timeout
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
            data = os.read(fd, 65536) if ready else b""
            if not data:
                what = "ended" if ready else f"said nothing for {timeout} s"
                raise AssertionError(f"the host {what}: {self._buffer!r}\n{self.errors()}")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()

    def kept_waiting(self) -> float:
        """Seconds that its main thread was ready to run and had no CPU: other programs' doing, which no limit
        on its own delays is about. 0 where the kernel does not say."""
        try:
            text = Path(f"/proc/{self.pid}/task/{self.pid}/schedstat").read_text()
        except FileNotFoundError:
            return 0.0
        return int(text.split()[1]) / 1e9

    def errors(self) -> str:
        return self._log.read_text(errors="replace")

    def finish(self, timeout: float = 60, status: int = 0) -> list[str]:
        """Waits for the end; gives the lines that were not read yet."""
        out, _ = self.process.communicate(timeout=timeout)
        assert self.process.returncode == status, (
            f"status {self.process.returncode}\n{out!r}\n{self.errors()}"
        )
        return (self._buffer + out).decode().splitlines()


def run(
    script: str, base: Path, *, timeout: float = 60, status: int = 0, quiet: bool = True, **how: object
) -> list[str]:
    """Runs a script to its end, and checks that it left nothing and (`quiet`) complained of nothing."""
    with Host(script, base, **how) as host:  # type: ignore[arg-type]
        lines = host.finish(timeout, status)
        traces = Traces(host.store)
        traces.await_nothing(2.0)
        if quiet:
            assert not host.errors(), host.errors()
    return lines


class Traces:
    """What a host has outside of itself, found while it lives (or by what is in its store)."""

    def __init__(self, store: Path, *, supervisor: int | None = None) -> None:
        self.store = store
        hosts = store / "hosts"
        self.owners = frozenset(os.listdir(hosts)) if hosts.is_dir() else frozenset()
        self.processes = frozenset() if supervisor is None else family(supervisor)
        self.mounts = mounts()

    def await_nothing(self, seconds: float, *, hosts: bool = False) -> None:
        """Nothing may be there any more after so many seconds; `hosts` includes the marks of dead
        supervisors in the store, which the next one that opens it removes."""
        deadline = time.monotonic() + seconds
        while (left := self.left(hosts=hosts)) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not left, f"left after {seconds} s:\n" + "\n".join(left)

    def left(self, *, hosts: bool = False) -> list[str]:
        found = [f"process {pid} {name(pid)}" for pid, born in self.processes if started(pid) == born]
        found += [f"control group {path}" for path in self.cgroups()]
        for part in ("containers", "mounts", "staging", *(["hosts"] if hosts else [])):
            if (self.store / part).is_dir():
                found += [str(self.store / part / entry) for entry in os.listdir(self.store / part)]
        found += [f"mount {point}" for point in mounts() - self.mounts if point.startswith(str(self.store))]
        return found

    def cgroups(self) -> list[str]:
        wanted = {f"pycontainer-{owner}" for owner in self.owners}
        return [
            f"{directory}/{entry}"
            for directory, names, _ in os.walk(CGROUPS)
            for entry in names
            if entry in wanted
        ]


def mounts() -> frozenset[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return frozenset(line.split()[4] for line in lines)


def started(pid: int) -> int | None:
    """When it was started, which tells it from another process of that number; a zombie is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return "?"


def children(pid: int) -> list[int]:
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
        return [
            int(n) for task in tasks for n in Path(f"/proc/{pid}/task/{task}/children").read_text().split()
        ]
    except (FileNotFoundError, ProcessLookupError):
        return []


def family(pid: int) -> frozenset[tuple[int, int]]:
    """A process and all its descendants, each with its time of birth."""
    found: dict[int, int] = {}
    waiting = [pid]
    while waiting:
        one = waiting.pop()
        born = started(one)
        if born is not None and one not in found:
            found[one] = born
            waiting += children(one)
    return frozenset(found.items())


def eventually(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.005)
