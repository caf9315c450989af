"""runc, the OCI runtime in Go."""

from __future__ import annotations

from benchmarks.competitors.oci_runtime import OciRuntime


class Runc(OciRuntime):
    name = "runc"
