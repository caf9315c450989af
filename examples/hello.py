"""The main job, to look at: a container on this machine's own root file system.

python examples/hello.py
"""

from __future__ import annotations

import os
import socket
import statistics
import sys
import time

import pycontainer as pc

INSIDE = r"""
import os, socket
status = dict(line.split(":\t", 1) for line in open("/proc/self/status") if ":\t" in line)
processes = sum(name.isdigit() for name in os.listdir("/proc"))
links = ", ".join(name for _, name in socket.if_nameindex())
with open("/etc/written-by-a-container", "w") as file:
    file.write("only this container ever sees it")
print(f"{socket.gethostname()}|{os.getpid()}|{processes}|{links}"
      f"|{status['CapEff'].strip()}|{status['Seccomp'].strip()}")
"""


def say(text: str) -> None:
    sys.stdout.write(text + "\n")


def main() -> None:
    answer = pc.run("host", [sys.executable, "-c", "print(6*7)"], capture_output=True, text=True, check=True)
    took = answer.usage.wall * 1e3
    say(f"6*7, worked out in a container: {answer.stdout.strip()}  ({took:.0f} ms of Python)\n")

    seen = pc.run(
        "host", [sys.executable, "-c", INSIDE], memory="256M", capture_output=True, text=True, check=True
    )
    hostname, pid, processes, links, capabilities, seccomp = seen.stdout.strip().split("|")
    outside = sum(name.isdigit() for name in os.listdir("/proc"))
    rows = [
        ("host name", socket.gethostname(), hostname),
        ("own process number", str(os.getpid()), pid),
        ("processes in sight", str(outside), processes),
        ("network devices", ", ".join(name for _, name in socket.if_nameindex()), links),
        ("capabilities", _own_capabilities(), capabilities),
        ("system call filter", "no", "yes" if seccomp == "2" else "no"),
        ("/etc/written-by-a-container", _exists("/etc/written-by-a-container"), "there"),
    ]
    say(f"{'':<28}{'this process':<24}the container")
    for name, here, there in rows:
        say(f"{name:<28}{here:<24}{there}")

    times = []
    for _ in range(100):
        began = time.perf_counter()
        pc.run("host", ["/bin/true"], memory="64M")
        times.append(time.perf_counter() - began)
    peak = seen.usage.peak_memory
    say(
        f"\nIt used {seen.usage.user_cpu + seen.usage.system_cpu:.3f} s of CPU"
        + (f" and at most {peak / 2**20:.1f} MiB." if peak else ".")
    )
    median = statistics.median(times) * 1e3
    say(f"100 containers one after another, start to exit: {median:.1f} ms each (median).")


def _own_capabilities() -> str:
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        return next(line.split()[1] for line in status if line.startswith("CapEff"))


def _exists(path: str) -> str:
    return "there" if os.path.exists(path) else "not there"


if __name__ == "__main__":
    main()
