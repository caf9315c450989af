"""docker's command line, with a daemon of its own."""

from __future__ import annotations

from benchmarks.competitors.base import MEMORY, PIDS
from benchmarks.competitors.dockerd import Dockerd
from benchmarks.competitors.engine import Engine
from benchmarks.programs import find_program, output_of


class Docker(Engine):
    name = "docker"
    does = "everything, through a daemon that keeps a record of each container"

    def set_up(self) -> str:
        program = find_program("docker")
        self._daemon = Dockerd(self.place, bridge=self.own_network)
        self._daemon.start(self.root)
        self._base = [program, "--host", self._daemon.address]
        self._options = [
            *("--memory", str(MEMORY), "--pids-limit", str(PIDS)),
            *("--security-opt", "no-new-privileges", "--rm"),
        ]
        self.start()
        versions = "{{.Client.Version}} (daemon {{.Server.Version}})"
        return output_of([*self._base, "version", "--format", versions]).strip()

    def release(self, held: str) -> None:
        output_of([*self._base, "kill", held])

    def close(self) -> None:
        if hasattr(self, "_daemon"):
            self._daemon.stop()
