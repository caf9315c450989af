"""What a call does to its process: the memory that it takes, and how long it keeps other threads waiting."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness import percentile

_BEAT = 0.005
_STATUS = Path("/proc/self/status")
_MS = 1000.0


class Heartbeat:
    """A thread that wants to wake every 5 ms; `late` are the milliseconds by which it woke too late."""

    def __init__(self) -> None:
        self.late: list[float] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._stopped.is_set():
            due = time.perf_counter() + _BEAT
            time.sleep(_BEAT)
            self.late.append((time.perf_counter() - due) * _MS)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def summary(self) -> dict[str, float]:
        return {"max": max(self.late), "p99": percentile(self.late, 99), "beats": len(self.late)}


def watch(call: Callable[[], None]) -> dict[str, Any]:
    """Peak memory above what the process had before (bytes), and the lateness (ms) of a heartbeat in it
    and, for what the machine adds, of one in a process that does nothing else meanwhile."""
    command = [sys.executable, "-m", "benchmarks.measures.watch"]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdin is not None and other.stdout is not None
    with other, contextlib.closing(other.stdin):
        other.stdout.readline()
        idle = _status("VmRSS")
        # proc_pid_clear_refs(5): the highest so far is what it is now.
        Path("/proc/self/clear_refs").write_text("5")
        with Heartbeat() as heartbeat:
            call()
        # The kernel knows both only roughly: the highest may seem to be below what it began with.
        peak = max(idle, _status("VmHWM"))
        other.stdin.close()
        words = other.stdout.readline().split()
    return {
        "idle_bytes": idle,
        "peak_bytes": peak,
        "late_ms": heartbeat.summary(),
        "elsewhere_ms": {"max": float(words[0]), "p99": float(words[1])},
    }


def _status(name: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) << 10
    raise LookupError(name)


def main() -> None:
    """A heartbeat until standard input ends; then its highest lateness and the 99th percentile."""
    with Heartbeat() as heartbeat:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.read()
    found = heartbeat.summary()
    sys.stdout.write(f"{found['max']} {found['p99']}\n")


if __name__ == "__main__":
    main()
