"""podman and docker for tests, each made ready once a session; conftest.py makes the fixtures known."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import need
from docker_daemon import Docker

# crun refuses a hybrid of control groups v1 and v2; without the mount it is a plain v1.
_HIDE = 'umount /sys/fs/cgroup/unified 2> /dev/null; exec "$@"'
_CONFIGURATION = """
[containers]
default_ulimits = ["nofile={files}:{files}", "nproc={processes}:{processes}"]
cgroups = "disabled"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
runtime = "crun"
"""


class Podman:
    """`podman("load", "-i", path)` runs it with storage and configuration of its own; what it says."""

    def __init__(self, place: Path) -> None:
        configuration = place / "c"
        # Its own defaults can lie above the hard limits here.
        limits = [min(4096, resource.getrlimit(which)[1]) for which in _LIMITS]
        configuration.write_text(_CONFIGURATION.format(files=limits[0], processes=limits[1]))
        self._environment = {**os.environ, "CONTAINERS_CONF": str(configuration)}
        self._command = [
            *("unshare", "--mount", "sh", "-c", _HIDE, "sh", "podman"),
            *("--root", f"{place}/p", "--runroot", f"{place}/r", "--tmpdir", f"{place}/t"),
            *("--storage-driver", "vfs"),
        ]

    def __call__(self, *words: str | Path) -> str:
        done = subprocess.run(
            [*self._command, *map(str, words)],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


_LIMITS = (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC)


@pytest.fixture(scope="session")
def podman() -> Iterator[Podman]:
    need(None not in map(shutil.which, ("podman", "crun")) and os.geteuid() == 0, "podman, crun, and root")
    # podman refuses longer paths than 50 characters.
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        yield Podman(Path(place))


@pytest.fixture(scope="session")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    need(Docker.installed(), "docker and dockerd, and root")
    daemon = Docker(tmp_path_factory.mktemp("docker"))
    try:
        daemon.wait()
        yield daemon
    finally:
        daemon.stop()
