"""What the harness asks of a competitor, and the limits that all of them set."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.harness import Unavailable
from benchmarks.roots import Root

MEMORY = 256 << 20
PIDS = 4096
PROGRAM = "/bin/true"
SLEEPER = ("/bin/sleep", "3600")
CAPABILITIES = (
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
)


class Competitor:
    """Lives in a process and a mount namespace of its own; `place` is a directory of its own, too."""

    name: ClassVar[str]
    does: ClassVar[str]
    """What a start does and does not do: the remark in the table."""
    roots: ClassVar[tuple[str, ...]] = ("busybox",)
    can_exec: ClassVar[bool] = False

    def __init__(self, place: Path, root: Root) -> None:
        self.place = place
        self.root = root

    def set_up(self) -> str:
        """Prepares everything that is not part of a start; gives the version, or raises `Unavailable`."""
        raise NotImplementedError

    def start(self) -> int | None:
        """Start to exit of `PROGRAM`. Gives nanoseconds where the competitor takes the time itself."""
        raise NotImplementedError

    def hold(self) -> Any:
        """A running container that sleeps."""
        raise NotImplementedError

    def exec(self, held: Any) -> None:
        """Start to exit of `PROGRAM` in a container that `hold` gave."""
        raise NotImplementedError

    def release(self, held: Any) -> None:
        raise NotImplementedError

    def pid_of(self, held: Any) -> int:
        """The container's first process: ours, which looks after its program."""
        raise NotImplementedError

    def run_threads(self, threads: int, starts: int) -> float:
        """`starts` starts in each of so many threads at once; gives seconds from first to last."""
        gate = threading.Barrier(threads + 1)
        errors: list[BaseException] = []

        def run() -> None:
            gate.wait()
            try:
                for _ in range(starts):
                    self.start()
            except BaseException as error:
                errors.append(error)

        workers = [threading.Thread(target=run) for _ in range(threads)]
        for worker in workers:
            worker.start()
        gate.wait()
        begun = time.perf_counter()
        for worker in workers:
            worker.join()
        seconds = time.perf_counter() - begun
        if errors:
            raise errors[0]
        return seconds

    def close(self) -> None:
        """Takes everything away again, also after `set_up` failed half-way."""


def find_program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise Unavailable(f"{name} is not installed")
    return path


def output_of(command: Sequence[str], **options: Any) -> str:
    """For what is not measured: the output, or `Unavailable` with what the program said."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, **options
    )
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines() or [f"status {done.returncode}"]
        raise Unavailable(f"{Path(command[0]).name}: {said[-1][:200]}")
    return str(done.stdout)


def run_quietly(command: Sequence[str], **options: Any) -> None:
    """For what is measured: the streams are this process's own, which lead to nobody."""
    status = subprocess.run(command, **options).returncode
    if status != 0:
        raise Unavailable(f"{Path(command[0]).name} ended with status {status}")
