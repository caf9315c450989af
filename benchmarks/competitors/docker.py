"""docker's command line, with a daemon of its own."""

from __future__ import annotations

from benchmarks.competitors.base import (
    MEMORY,
    PIDS,
    PROGRAM,
    SLEEPER,
    Competitor,
    find_program,
    output_of,
    run_quietly,
)
from benchmarks.competitors.dockerd import Dockerd


class Docker(Competitor):
    name = "docker"
    does = "everything, through a daemon that keeps a record of each container"
    can_exec = True

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

    def close(self) -> None:
        if hasattr(self, "_daemon"):
            self._daemon.stop()
