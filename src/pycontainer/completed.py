"""What a finished program gives back."""

from __future__ import annotations

import subprocess
from typing import Any, Literal

import attrs

from pycontainer.errors import ExitError, InvalidState, OutOfMemory

Cause = Literal["exited", "signaled", "oom", "timeout"]


@attrs.frozen
class Usage:
    """What a program used, from its start to its end, or until now where it goes on.

    Times are seconds; sizes are bytes and None where the host cannot measure them. CPU times
    come from the container's control group where that counts them, else from getrusage(2).
    """

    wall: float
    user_cpu: float
    system_cpu: float
    peak_memory: int | None = None
    io_read: int | None = None
    io_write: int | None = None


class Completed(subprocess.CompletedProcess[Any]):
    """A `subprocess.CompletedProcess` that also knows why the program ended and what it used.

    `returncode` is the exit status, or -N after signal N, as in `subprocess`. `cause` is one of
    "exited", "signaled", "oom" (the memory limit was reached) and "timeout". `stdout` and
    `stderr` are empty, never None, where nothing was captured.
    """

    returncode: int | Any
    """None in a `Timeout` of `wait` and `communicate`, whose program goes on; as Popen's, and typed as that
    is: who has a result that was returned has a number."""

    def __init__(
        self,
        args: Any,
        returncode: int | None,
        stdout: Any = b"",
        stderr: Any = b"",
        *,
        cause: Cause = "exited",
        usage: Usage | None = None,
    ) -> None:
        code: int | Any = returncode
        super().__init__(args, code, stdout, stderr)
        self.cause: Cause = cause
        self.usage = usage if usage is not None else Usage(0.0, 0.0, 0.0)

    def __repr__(self) -> str:
        parts = [f"args={self.args!r}", f"returncode={self.returncode!r}", f"cause={self.cause!r}"]
        for name in ("stdout", "stderr"):
            if value := getattr(self, name):
                shown = repr(value)
                parts.append(f"{name}={shown if len(shown) <= 60 else shown[:57] + '...'}")
        parts.append(f"wall={self.usage.wall:.3f}")
        return f"Completed({', '.join(parts)})"

    def check_returncode(self) -> None:
        """Raise `ExitError` (`OutOfMemory` after an OOM kill) unless the program exited with 0, and
        `InvalidState` where it has not ended."""
        if self.returncode is None:
            raise InvalidState(f"check_returncode: {self.args!r} has not ended")
        if self.returncode == 0:
            return
        raise (OutOfMemory if self.cause == "oom" else ExitError)(self)
