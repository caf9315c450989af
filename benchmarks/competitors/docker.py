"""docker's command line, with a daemon of its own."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.competitors.base import MEMORY, PIDS, PROGRAM, SLEEPER, Competitor
from benchmarks.competitors.dockerd import Dockerd
from benchmarks.programs import find_program, output_of, run_quietly


class Docker(Competitor):
    name = "docker"
    does = "everything, through a daemon that keeps a record of each container"
    can_exec = True
    can_transfer = True

    def set_up(self) -> str:
        program = find_program("docker")
        self._daemon = Dockerd(self.place)
        self._daemon.start(self.root)
        self._base = [program, "--host", self._daemon.address]
        self._options = [
            *("--network", "none", "--memory", str(MEMORY), "--pids-limit", str(PIDS)),
            *("--security-opt", "no-new-privileges", "--rm"),
        ]
        output_of([*self._base, "run", *self._options, "bench:latest", PROGRAM])
        versions = "{{.Client.Version}} (daemon {{.Server.Version}})"
        return output_of([*self._base, "version", "--format", versions]).strip()

    def start(self) -> None:
        run_quietly([*self._base, "run", *self._options, "bench:latest", PROGRAM])

    def hold(self) -> str:
        return output_of([*self._base, "run", *self._options, "--detach", "bench:latest", *SLEEPER]).strip()

    def exec(self, held: str) -> None:
        run_quietly([*self._base, "exec", held, PROGRAM])

    def release(self, held: str) -> None:
        output_of([*self._base, "kill", held])

    def pull(self, reference: str) -> None:
        run_quietly([*self._base, "pull", "--quiet", reference])

    def forget(self, reference: str) -> None:
        output_of([*self._base, "rmi", "--force", reference])

    def fill(self, tar: Path) -> None:
        self._filled = output_of(
            [*self._base, "create", "--network", "none", "bench:latest", PROGRAM]
        ).strip()
        with tar.open("rb") as archive:
            output_of([*self._base, "cp", "-", f"{self._filled}:/root"], stdin=archive)

    def renew(self) -> None:
        fresh = self.place / "fresh"
        fresh.write_bytes(os.urandom(64))
        output_of([*self._base, "cp", str(fresh), f"{self._filled}:/fresh"])

    def make(self, reference: str) -> None:
        run_quietly([*self._base, "commit", self._filled, reference])

    def push(self, reference: str) -> None:
        run_quietly([*self._base, "push", "--quiet", reference])

    def close(self) -> None:
        if hasattr(self, "_daemon"):
            self._daemon.stop()
