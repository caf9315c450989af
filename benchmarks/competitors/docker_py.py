"""docker-py, the Python library that talks to a Docker daemon."""

from __future__ import annotations

from typing import Any

from benchmarks.competitors.base import MEMORY, PIDS, PROGRAM, SLEEPER, Competitor
from benchmarks.competitors.dockerd import Dockerd
from benchmarks.harness import Unavailable


class DockerPy(Competitor):
    name = "docker-py"
    does = "as docker, without starting its command line"
    can_exec = True

    def set_up(self) -> str:
        try:
            import docker
        except ImportError as error:
            raise Unavailable("the package `docker` is not installed (pip install docker)") from error
        self._failures = (docker.errors.DockerException,)
        self._daemon = Dockerd(self.place)
        self._daemon.start(self.root)
        self._client = docker.DockerClient(base_url=self._daemon.address, timeout=60)
        self.start()
        return str(docker.__version__)

    def _run(self, args: list[str], **options: Any) -> Any:
        try:
            return self._client.containers.run(
                "bench:latest",
                args,
                remove=True,
                network_mode="none",
                mem_limit=MEMORY,
                pids_limit=PIDS,
                security_opt=["no-new-privileges"],
                **options,
            )
        except self._failures as error:
            raise Unavailable(f"docker-py: {error}") from error

    def start(self) -> None:
        self._run([PROGRAM])

    def hold(self) -> Any:
        return self._run(list(SLEEPER), detach=True)

    def exec(self, held: Any) -> None:
        status = held.exec_run([PROGRAM]).exit_code
        if status != 0:
            raise Unavailable(f"docker-py: exec ended with status {status}")

    def release(self, held: Any) -> None:
        held.kill()

    def close(self) -> None:
        if hasattr(self, "_client"):
            self._client.close()
        if hasattr(self, "_daemon"):
            self._daemon.stop()
