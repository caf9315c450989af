"""The floor: the C program of native/floor.c, which takes the time itself."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from benchmarks import seccomp_filter
from benchmarks.competitors.base import PROGRAM, Competitor
from benchmarks.competitors.floor_settings import Settings
from benchmarks.harness import Unavailable
from benchmarks.programs import find_program, output_of

SOURCE = Path(__file__).parents[1] / "native/floor.c"
WARNINGS = ("-Wall", "-Wextra", "-Werror")


class Floor(Competitor):
    name = "floor"
    does = "the same system calls from a C program, without a host process"
    roots = ("busybox", "host")

    def set_up(self) -> str:
        self._program = compile_floor(self.place / "floor")
        self._filter = seccomp_filter.write(self.place / "filter")
        self._settings = Settings(f"floor{os.getpid()}")
        self._serving = self._spawn("serving")
        self.start()
        return output_of([find_program("cc"), "--version"]).splitlines()[0]

    def _command(self, name: str, *options: str) -> list[str]:
        return [
            str(self._program),
            *("--lower", str(self.root.directory), "--filter", str(self._filter)),
            *self._settings.root(self.root, self.place / name),
            *self._settings.options(name),
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
        if hasattr(self, "_settings"):
            self._settings.remove()


def compile_floor(program: Path) -> Path:
    output_of([find_program("cc"), "-std=gnu11", "-O2", *WARNINGS, str(SOURCE), "-o", str(program)])
    return program
