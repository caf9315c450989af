"""bubblewrap: namespaces, mounts, capabilities and the same filter, but no limits and no init's duties."""

from __future__ import annotations

import os

from benchmarks import seccomp_filter
from benchmarks.competitors.base import CAPABILITIES, PROGRAM, Competitor
from benchmarks.programs import find_program, output_of, run_quietly


class Bubblewrap(Competitor):
    name = "bubblewrap"
    does = "root bound read-only (no overlay), no cgroup, no limits, no masked paths"
    roots = ("busybox", "host")

    def set_up(self) -> str:
        program = find_program("bwrap")
        help_text = output_of([program, "--help"])
        self._filter = seccomp_filter.write(self.place / "filter")
        self._before = [
            program,
            # Not --unshare-all: that adds a user namespace, which nobody else's container has here.
            *("--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup"),
            *("--die-with-parent", "--new-session", "--clearenv", "--hostname", "bench"),
            *self._root(overlay="--tmp-overlay" in help_text),
            *("--proc", "/proc", "--dev", "/dev", "--tmpfs", "/dev/shm", "--mqueue", "/dev/mqueue"),
            *("--ro-bind", "/sys", "/sys"),
            *("--cap-drop", "ALL"),
            *(word for name in CAPABILITIES for word in ("--cap-add", f"CAP_{name}")),
        ]
        return output_of([program, "--version"]).split()[-1]

    def _root(self, *, overlay: bool) -> list[str]:
        directory = str(self.root.directory)
        return (
            ["--overlay-src", directory, "--tmp-overlay", "/"] if overlay else ["--ro-bind", directory, "/"]
        )

    def start(self) -> None:
        # Opened anew: bubblewrap reads it to its end, and several may read at once.
        fd = os.open(self._filter, os.O_RDONLY)
        try:
            run_quietly([*self._before, "--seccomp", str(fd), PROGRAM], pass_fds=[fd])
        finally:
            os.close(fd)
