"""What of a container depends on the machine: pycontainer tells the floor, so that both do the same."""

from __future__ import annotations

from pathlib import Path

from benchmarks.competitors.base import MEMORY, PIDS
from benchmarks.harness import Unavailable
from benchmarks.roots import Root


class Settings:
    """The floor's own place among the control groups, and its options."""

    def __init__(self, owner: str) -> None:
        """Raises `Unavailable` where pycontainer cannot be imported."""
        try:
            from pycontainer.runtime import cgroups, isolation, plan
            from pycontainer.snapshot import overlay
        except ImportError as error:
            raise Unavailable(f"pycontainer tells what a container is, and cannot: {error}") from error
        self._cgroups = cgroups
        self._isolation = isolation
        self._overlay = overlay
        self._own_files = plan.OWN_FILES
        self._owner = cgroups.prepare_owner(cgroups.host(), owner)

    def root(self, root: Root, layer: Path) -> list[str]:
        """pycontainer keeps the writable layer of an image on disk, and that of the host in memory, where it
        hides its store."""
        if root.name == "host":
            layer.mkdir(exist_ok=True)
            return [*_each("--bind", self._overlay.host_view((), whole=True).binds), "--hide", str(layer)]
        return ["--layer", str(layer)]

    def options(self, job: str) -> list[str]:
        plan = self._cgroups.plan(self._owner, job, self._cgroups.Limits(memory=MEMORY, pids=PIDS))
        into = [] if plan.into is None else ["--into", plan.into]
        return [
            *into,
            *_each("--mkdir", plan.directories),
            *_each("--write", [f"{path}={value.decode()}" for path, value in plan.writes]),
            *_each("--join", plan.procs),
            *_each("--collect", plan.collect),
            *_each("--cgroup-mount", [f"{m.destination}={m.fstype}={m.data}" for m in plan.mounts]),
            *_each("--own", self._own_files),
            *_each("--mask", self._isolation.masked_paths()),
            *_each("--readonly", self._isolation.READONLY_PATHS),
        ]

    def remove(self) -> None:
        for directory in self._owner.directories:
            Path(directory).rmdir()


def _each(option: str, values: tuple[str, ...] | list[str]) -> list[str]:
    return [word for value in values for word in (option, value)]
