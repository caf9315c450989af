"""A Docker daemon for tests: everything of it in one directory, no network, ended by its process id."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

_SECONDS_TO_START = 40
_SECONDS_TO_STOP = 20


class Docker:
    """`docker("load", "-i", path)` runs the client and returns what it says."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._address = f"unix://{place / 'docker.sock'}"
        self._cgroups = _engine_cgroups()
        with (place / "dockerd.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    # What it mounts stays among its own: nobody else meets mounts below /tmp.
                    *("unshare", "--mount", "dockerd"),
                    *("--host", self._address, "--pidfile", str(place / "docker.pid")),
                    *("--data-root", str(place / "data"), "--exec-root", str(place / "exec")),
                    *("--storage-driver", "vfs", "--bridge", "none", "--iptables=false"),
                    *("--ip-masq=false", "--ip-forward=false"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @staticmethod
    def installed() -> bool:
        return os.geteuid() == 0 and None not in (shutil.which("docker"), shutil.which("dockerd"))

    def wait(self) -> None:
        """Returns when it answers. Raises RuntimeError with the end of its log when it does not."""
        deadline = time.monotonic() + _SECONDS_TO_START
        while True:
            with contextlib.suppress(subprocess.CalledProcessError):
                self("version")
                return
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self._place / "dockerd.log").read_text(errors="replace")[-500:])
            time.sleep(0.2)

    def __call__(self, *words: str | Path) -> str:
        command = ["docker", "--host", self._address, *map(str, words)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
        return done.stdout

    def stop(self) -> None:
        """Ends the daemon, which ends its containerd, and removes the control groups it made."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout=_SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        for path in _engine_cgroups() - self._cgroups:
            with contextlib.suppress(OSError):
                path.rmdir()


def _engine_cgroups() -> set[Path]:
    return {path for path in Path("/sys/fs/cgroup").glob("**/docker") if path.is_dir()}
