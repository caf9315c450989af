"""pycontainer's default filter as a file, so that all who take a filter program take the same one."""

from __future__ import annotations

from pathlib import Path

from benchmarks.harness import Unavailable


def write(path: Path) -> Path:
    """Writes an array of `struct sock_filter` (seccomp(2))."""
    try:
        from pycontainer.runtime.isolation import DEFAULT_CAPABILITIES
        from pycontainer.runtime.seccomp import compile_filter
    except ImportError as error:
        raise Unavailable(f"the filter is pycontainer's, which cannot be imported: {error}") from error
    program = compile_filter("default", DEFAULT_CAPABILITIES)
    if program is None:
        raise Unavailable("pycontainer has no default filter")
    path.write_bytes(program)
    return path
