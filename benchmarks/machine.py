"""What a figure was measured on: processor, kernel, control groups, date."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def describe(versions: Mapping[str, str]) -> dict[str, Any]:
    """`versions` are the competitors', by name."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "cgroups": _cgroups(),
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "versions": dict(versions),
    }


def as_line(machine: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in sorted(machine["versions"].items()))
    return (
        f"{machine['date']}: {machine['processor']}, {machine['cores']} cores, "
        f"{machine['memory_gib']} GiB, Linux {machine['kernel']}, cgroups {machine['cgroups']}, "
        f"Python {machine['python']}; {versions}"
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("model name", "Model")):
            return line.partition(":")[2].strip()
    return platform.machine()


def _cgroups() -> str:
    types = {line.split()[2] for line in Path("/proc/self/mounts").read_text().splitlines()}
    return {(True, True): "v1 and v2 (hybrid)", (True, False): "v1", (False, True): "v2"}.get(
        ("cgroup" in types, "cgroup2" in types), "none"
    )
