"""podman's command line, as root, with crun where it is there; storage and configuration of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from benchmarks import hosts
from benchmarks.competitors.base import MEMORY, PIDS, PROGRAM, SLEEPER, Competitor
from benchmarks.harness import Unavailable
from benchmarks.programs import find_program, output_of, run_quietly


class Podman(Competitor):
    name = "podman"
    does = "everything, and keeps a record of each container"
    can_exec = True
    can_transfer = True

    def set_up(self) -> str:
        program = find_program("podman")
        hosts.hide_unified()
        self._cgroups = hosts.engine_cgroups()
        os.environ["CONTAINERS_CONF"] = self._write_configuration()
        self._base = [
            program,
            *("--root", str(self.place / "storage"), "--runroot", str(self.place / "run")),
            *("--tmpdir", str(self.place / "tmp"), "--storage-driver", "overlay"),
        ]
        output_of([*self._base, "import", str(self.root.tar), "bench:latest"])
        self._options = [
            *("--network", "none", "--memory", str(MEMORY), "--pids-limit", str(PIDS)),
            *("--cgroup-parent", f"/{hosts.PARENT}", "--rm"),
        ]
        output_of([*self._base, "run", *self._options, "bench:latest", PROGRAM])
        return output_of([program, "--version"]).split()[-1]

    def _write_configuration(self) -> str:
        limits = ", ".join(f'"{name}={soft}:{hard}"' for name, (soft, hard) in hosts.ulimits().items())
        runtime = "crun" if shutil.which("crun") else "runc"
        file = self.place / "containers.conf"
        file.write_text(
            f"[containers]\ndefault_ulimits = [{limits}]\n\n"
            f'[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "none"\nruntime = "{runtime}"\n'
        )
        return str(file)

    def start(self) -> None:
        run_quietly([*self._base, "run", *self._options, "bench:latest", PROGRAM])

    def hold(self) -> str:
        return output_of([*self._base, "run", *self._options, "--detach", "bench:latest", *SLEEPER]).strip()

    def exec(self, held: str) -> None:
        run_quietly([*self._base, "exec", held, PROGRAM])

    def release(self, held: str) -> None:
        output_of([*self._base, "rm", "--force", "--time", "0", held])

    def pull(self, reference: str) -> None:
        run_quietly([*self._base, "pull", "--quiet", "--tls-verify=false", reference])

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
        run_quietly([*self._base, "commit", "--quiet", self._filled, reference])

    def push(self, reference: str) -> None:
        run_quietly([*self._base, "push", "--quiet", "--tls-verify=false", reference])

    def close(self) -> None:
        if hasattr(self, "_options"):
            with contextlib.suppress(Unavailable):
                output_of([*self._base, "rm", "--all", "--force", "--time", "0"])
        if hasattr(self, "_cgroups"):
            hosts.remove_cgroups(hosts.engine_cgroups() - self._cgroups)
