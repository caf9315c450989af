"""Who is compared: one small file each, all with the shape of `base.Competitor`."""

from __future__ import annotations

from importlib import import_module

from benchmarks.competitors.base import Competitor

_CLASSES = {
    "floor": "benchmarks.competitors.floor:Floor",
    "pycontainer": "benchmarks.competitors.pycontainer:Pycontainer",
    "bubblewrap": "benchmarks.competitors.bubblewrap:Bubblewrap",
    "crun": "benchmarks.competitors.crun:Crun",
    "runc": "benchmarks.competitors.runc:Runc",
    "podman": "benchmarks.competitors.podman:Podman",
    "docker": "benchmarks.competitors.docker:Docker",
    "docker-py": "benchmarks.competitors.docker_py:DockerPy",
}

NAMES = tuple(_CLASSES)


def competitor_class(name: str) -> type[Competitor]:
    module, _, attribute = _CLASSES[name].partition(":")
    found: type[Competitor] = getattr(import_module(module), attribute)
    return found
