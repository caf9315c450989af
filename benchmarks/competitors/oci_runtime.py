"""What crun and runc have in common: a bundle, `run`, `exec` and `delete`."""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import threading
import time
from typing import ClassVar

from benchmarks import hosts
from benchmarks.competitors import oci_bundle
from benchmarks.competitors.base import PROGRAM, SLEEPER, Competitor
from benchmarks.harness import Unavailable
from benchmarks.programs import find_program, output_of, run_quietly


class OciRuntime(Competitor):
    does = "root read-only (no overlay: an engine above would mount it), no init"
    can_exec = True
    arguments: ClassVar[tuple[str, ...]] = ()

    def set_up(self) -> str:
        program = find_program(self.name)
        hosts.hide_unified()
        self._cgroups = hosts.engine_cgroups()
        self._base = [program, *self.arguments, "--root", str(self.place / "state")]
        self._names = itertools.count()
        self._local = threading.local()
        output_of([*self._base, "run", "--bundle", self._bundle(), "probe"])
        return output_of([program, "--version"]).splitlines()[0].split()[-1]

    def _bundle(self) -> str:
        """This thread's: two containers must not have one control group."""
        if not hasattr(self._local, "bundle"):
            bundle = self.place / f"{self.name}-{next(self._names)}"
            oci_bundle.write(bundle, self.root.directory, [PROGRAM])
            self._local.bundle = str(bundle)
        return str(self._local.bundle)

    def start(self) -> None:
        name = f"bench-{next(self._names)}"
        run_quietly([*self._base, "run", "--bundle", self._bundle(), name])

    def hold(self) -> str:
        bundle = self.place / f"{self.name}-sleeper"
        oci_bundle.write(bundle, self.root.directory, list(SLEEPER))
        self._held = subprocess.Popen([*self._base, "run", "--bundle", str(bundle), "held"])
        for _ in range(100):
            time.sleep(0.05)
            probe = subprocess.run([*self._base, "exec", "held", PROGRAM], stderr=subprocess.DEVNULL)
            if probe.returncode == 0:
                return "held"
        raise Unavailable(f"{self.name}: the container to exec in does not start")

    def exec(self, held: str) -> None:
        run_quietly([*self._base, "exec", held, PROGRAM])

    def release(self, held: str) -> None:
        run_quietly([*self._base, "kill", held, "KILL"])
        self._held.wait(timeout=10)

    def close(self) -> None:
        if hasattr(self, "_held") and self._held.poll() is None:
            with contextlib.suppress(Unavailable):
                output_of([*self._base, "delete", "--force", "held"])
        if hasattr(self, "_cgroups"):
            hosts.remove_cgroups(hosts.engine_cgroups() - self._cgroups)
