"""A Docker daemon for one competitor: data, sockets and pid file in a temporary directory."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

from benchmarks import hosts
from benchmarks.harness import Unavailable
from benchmarks.programs import find_program, output_of
from benchmarks.roots import Root

_SECONDS_TO_START = 40
_SECONDS_TO_STOP = 20
_NO_NETWORK = ("--bridge", "none", "--iptables=false", "--ip-masq=false", "--ip-forward=false")


class Dockerd:
    def __init__(self, place: Path, *, bridge: bool = False) -> None:
        """With `bridge` it makes its default one, with its rules, in the caller's network namespace."""
        self._place = place
        self._bridge = bridge
        self._process: subprocess.Popen[bytes] | None = None
        self._cgroups = hosts.engine_cgroups()
        self.address = f"unix://{place / 'docker.sock'}"

    def start(self, root: Root) -> None:
        """Starts the daemon and gives it the image `bench:latest`. Raises `Unavailable`."""
        log = self._place / "dockerd.log"
        limits = [f"{name}={soft}:{hard}" for name, (soft, hard) in hosts.ulimits().items()]
        network = () if self._bridge else _NO_NETWORK
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [
                    find_program("dockerd"),
                    *("--host", self.address, "--pidfile", str(self._place / "docker.pid")),
                    *("--data-root", str(self._place / "data"), "--exec-root", str(self._place / "exec")),
                    *network,
                    *(word for limit in limits for word in ("--default-ulimit", limit)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # A Ctrl-C at the terminal is for the harness, which then stops us in order.
                start_new_session=True,
            )
        client = [find_program("docker"), "--host", self.address]
        deadline = time.monotonic() + _SECONDS_TO_START
        while True:
            with contextlib.suppress(Unavailable):
                output_of([*client, "version"])
                break
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = log.read_text(errors="replace").strip().splitlines() or ["nothing in its log"]
                raise Unavailable(f"dockerd does not start: {said[-1][:200]}")
            time.sleep(0.2)
        output_of([*client, "import", str(root.tar), "bench:latest"])

    def stop(self) -> None:
        """Ends the daemon, which ends its containerd, and removes what both leave behind."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(timeout=_SECONDS_TO_STOP)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
            self._process = None
        hosts.remove_cgroups(hosts.engine_cgroups() - self._cgroups)
