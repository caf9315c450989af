"""The benchmarks, one file each: what is measured, in which unit, and what it must reach."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from benchmarks.harness import Table
from benchmarks.measures.context import Context

HELP = {
    "start": "start to exit of /bin/true with everything on, as seen by the Python caller",
    "exec": "exec of /bin/true in a running container",
    "memory": "start in a host process with 4 GiB of touched memory and 200 threads, and in a small one",
    "threads": "starts per second from one thread and from eight",
    "many": "private memory of our own processes with 500 containers alive, and what is left afterwards",
    "pull": "pull of a Debian root from a registry on loopback: cold, again, memory, a heartbeat meanwhile",
    "push": "push of a fresh layer of 170 MB",
    "life": "fork, commit, diff, exec, stats, and a thousand containers of one process",
    "network": "start on a bridge with a port, bytes per second into a container, 200 on one network",
}


def measure_of(name: str) -> Callable[[Context], Table]:
    module = import_module(
        f"benchmarks.measures.{name}_" if name == "exec" else f"benchmarks.measures.{name}"
    )
    found: Callable[[Context], Table] = module.measure
    return found
