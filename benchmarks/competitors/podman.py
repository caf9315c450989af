"""podman's command line, as root, with crun where it is there; storage and configuration of its own."""

from __future__ import annotations

import contextlib
import os
import shutil

from benchmarks import hosts
from benchmarks.competitors.base import MEMORY, PIDS
from benchmarks.competitors.engine import IMAGE, Engine
from benchmarks.harness import Unavailable
from benchmarks.programs import find_program, output_of


class Podman(Engine):
    name = "podman"
    does = "everything, and keeps a record of each container"
    transfer_options = ("--quiet", "--tls-verify=false")
    commit_options = ("--quiet",)

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
        output_of([*self._base, "import", str(self.root.tar), IMAGE])
        self._options = [
            *("--memory", str(MEMORY), "--pids-limit", str(PIDS)),
            *("--cgroup-parent", f"/{hosts.PARENT}", "--rm"),
        ]
        self.start()
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

    def release(self, held: str) -> None:
        output_of([*self._base, "rm", "--force", "--time", "0", held])

    def close(self) -> None:
        if hasattr(self, "_options"):
            with contextlib.suppress(Unavailable):
                output_of([*self._base, "rm", "--all", "--force", "--time", "0"])
        if hasattr(self, "_cgroups"):
            hosts.remove_cgroups(hosts.engine_cgroups() - self._cgroups)
