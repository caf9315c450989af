"""The floor: the C program of native/floor.c, which takes the time itself."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from benchmarks import seccomp_filter
from benchmarks.competitors.base import MEMORY, PIDS, PROGRAM, Competitor, find_program, output_of
from benchmarks.harness import Unavailable

SOURCE = Path(__file__).parents[1] / "native/floor.c"
WARNINGS = ("-Wall", "-Wextra", "-Werror")


class Floor(Competitor):
    name = "floor"
    does = "the same system calls from a C program, without a host process"
    roots = ("busybox", "host")

    def set_up(self) -> str:
        self._program = compile_floor(self.place / "floor")
        self._filter = seccomp_filter.write(self.place / "filter")
        self._serving = self._spawn("serving")
        self.start()
        return output_of([find_program("cc"), "--version"]).splitlines()[0]

    def _command(self, name: str, *options: str) -> list[str]:
        scratch = self.place / f"scratch-{name}"
        scratch.mkdir(exist_ok=True)
        return [
            str(self._program),
            *("--lower", str(self.root.directory), "--scratch", str(scratch)),
            *("--filter", str(self._filter)),
            *cgroup_options(f"floor-{os.getpid()}-{name}"),
            *options,
            *("--", PROGRAM),
        ]

    def _spawn(self, name: str, *options: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self._command(name, *options), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self) -> int:
        stdin, stdout = self._serving.stdin, self._serving.stdout
        assert stdin is not None and stdout is not None
        try:
            stdin.write("\n")
            stdin.flush()
        except BrokenPipeError as error:
            raise Unavailable("floor: it ended") from error
        line = stdout.readline()
        if not line:
            raise Unavailable(f"floor: it ended with status {self._serving.wait()}")
        return int(line)

    def run_threads(self, threads: int, starts: int) -> float:
        """A process for each thread: the floor has no threads, and nothing that they would share."""
        begun = time.perf_counter()
        floors = [self._spawn(f"thread-{i}", "--count", str(starts)) for i in range(threads)]
        for floor in floors:
            floor.communicate(timeout=300)
        seconds = time.perf_counter() - begun
        if any(floor.returncode != 0 for floor in floors):
            raise Unavailable("floor: a process of several failed")
        return seconds

    def close(self) -> None:
        if hasattr(self, "_serving"):
            self._serving.communicate()


def compile_floor(program: Path) -> Path:
    output_of([find_program("cc"), "-std=gnu11", "-O2", *WARNINGS, str(SOURCE), "-o", str(program)])
    return program


def cgroup_options(name: str) -> list[str]:
    """The control groups and limits that pycontainer gives a container here, as the floor's options."""
    v1 = own_v1_groups()
    if "memory" in v1 and "pids" in v1:
        return [
            *("--cgroup", str(v1["memory"] / name), "--limit", f"memory.limit_in_bytes={MEMORY}"),
            *("--collect", "memory.max_usage_in_bytes", "--collect", "memory.oom_control"),
            *("--cgroup", str(v1["pids"] / name), "--limit", f"pids.max={PIDS}"),
        ]
    group = Path("/sys/fs/cgroup") / name
    return [
        *("--into", str(group), "--cgroup", str(group)),
        *("--limit", f"memory.max={MEMORY}", "--limit", f"pids.max={PIDS}"),
        *("--collect", "memory.peak", "--collect", "memory.events"),
    ]


def own_v1_groups() -> dict[str, Path]:
    """This process's own group in each v1 hierarchy, by controller (cgroups(7))."""
    groups = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            mount = Path("/sys/fs/cgroup") / controller
            if controller and mount.is_dir():
                groups[controller] = mount / path.lstrip("/")
    return groups
