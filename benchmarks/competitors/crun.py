"""crun, the OCI runtime in C."""

from __future__ import annotations

from benchmarks.competitors.oci_runtime import OciRuntime


class Crun(OciRuntime):
    name = "crun"
    arguments = ("--cgroup-manager=cgroupfs",)
