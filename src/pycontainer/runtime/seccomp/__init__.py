"""seccomp filters: from a profile in Docker's JSON form, or the default one, to a BPF program.

`profile` has the values, `parse` reads JSON into them, `default` is the built-in profile, `tables` the system
call numbers, `select` decides for one machine and set of capabilities, `bpf` writes the program.
"""

from __future__ import annotations

from pycontainer.runtime.seccomp.compile import compile_filter

__all__ = ["compile_filter"]
