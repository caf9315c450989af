"""What the harness asks of a competitor, and the limits that all of them set."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any, ClassVar

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
    can_transfer: ClassVar[bool] = False
    can_publish: ClassVar[bool] = False
    own_network: bool = False
    """Whether it lives in a network namespace of its own, where it may make bridges and rules; set, where
    at all, ahead of `set_up`."""

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

    def publish(self) -> Any:
        """The same on the default bridge, its port 80 published on a free one of loopback."""
        raise NotImplementedError

    def exec(self, held: Any) -> None:
        """Start to exit of `PROGRAM` in a container that `hold` gave."""
        raise NotImplementedError

    def release(self, held: Any) -> None:
        raise NotImplementedError

    def pid_of(self, held: Any) -> int:
        """The container's first process: ours, which looks after its program."""
        raise NotImplementedError

    def pull(self, reference: str) -> None:
        """Pulls an image from a registry on loopback, its layers unpacked."""
        raise NotImplementedError

    def forget(self, reference: str) -> None:
        """Removes an image and its layers."""
        raise NotImplementedError

    def fill(self, tar: Path) -> None:
        """Prepares a large tree of files, which `make` makes a layer of."""
        raise NotImplementedError

    def renew(self) -> None:
        """Changes that tree, so that the layer is another one, which no registry has."""
        raise NotImplementedError

    def make(self, reference: str) -> None:
        """Makes an image of the tree, called so; an uncompressed layer of it is all that is there then."""
        raise NotImplementedError

    def push(self, reference: str) -> None:
        """Pushes what `make` made, compressed with gzip."""
        raise NotImplementedError

    def change(self, tar: Path) -> None:
        """Prepares a container with a change: the files of the archive `tar`, somewhere in it."""
        self.fill(tar)

    def commit(self, reference: str) -> None:
        """Makes an image, called so, of the container that `change` prepared."""
        self.make(reference)

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
