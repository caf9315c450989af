"""The process in which one competitor lives: `python -m benchmarks.worker NAME PLACE ROOT TAR FD`.

Each has its own, in a mount namespace of its own, so that no competitor's daemons, libraries, mounts or
garbage collector meet another one's.  Requests are JSON lines on descriptor FD, and so are the answers;
time is taken here, around the call that a caller in Python would make.
"""

from __future__ import annotations

import mmap
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from json import dumps, loads
from pathlib import Path
from typing import Any, cast

from benchmarks import hosts
from benchmarks.competitors import competitor_class
from benchmarks.competitors.base import Competitor
from benchmarks.competitors.pycontainer import Pycontainer
from benchmarks.harness import Unavailable
from benchmarks.measures.alive import measure_alive
from benchmarks.measures.living import Living
from benchmarks.measures.networking import Networking
from benchmarks.measures.stages import run_stage
from benchmarks.measures.watch import watch
from benchmarks.roots import Root

_PAGE = 4096


class Worker:
    """Every public method is a request; what it gives back is the answer."""

    def __init__(self, competitor: Competitor) -> None:
        self._competitor = competitor
        self._held: Any = None
        self._ballast: list[Any] = []
        self._pulled = ""
        self._living: Living | None = None
        self._networking: Networking | None = None

    def take_processors(self, count: int) -> None:
        """From here on this process, and all that it starts, has so many, ahead of `set_up`."""
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])

    def own_disk(self) -> None:
        """Gives the competitor a new file system to work on, ahead of `set_up`."""
        place = self._competitor.place
        hosts.make_disk(place / "disk", place / "d")
        self._competitor.place = place / "d"

    def own_network(self) -> None:
        """Gives the competitor a network namespace of its own, ahead of `set_up`."""
        hosts.enter_network()
        self._competitor.own_network = True

    def set_up(self) -> str:
        return self._competitor.set_up()

    def start(self, times: int, pause: float = 0.0) -> list[int]:
        """With a `pause` of so many seconds ahead of each one."""
        figures = []
        for _ in range(times):
            time.sleep(pause)
            figures.append(_timed(self._competitor.start))
        return figures

    def appear(self, published: bool, times: int) -> list[int]:
        """Until the program of a container runs, alone or on the default bridge; what ends it again
        does not count."""
        return [self._appear(published) for _ in range(times)]

    def _appear(self, published: bool) -> int:
        begun = time.perf_counter_ns()
        held = self._competitor.publish() if published else self._competitor.hold()
        took = time.perf_counter_ns() - begun
        self._competitor.release(held)
        return took

    def hold(self) -> None:
        self._held = self._competitor.hold()

    def exec(self, times: int) -> list[int]:
        return [_timed(lambda: self._competitor.exec(self._held)) for _ in range(times)]

    def release(self) -> None:
        held, self._held = self._held, None
        self._competitor.release(held)

    def pull(self, reference: str, again: bool) -> list[int]:
        """With `again` the image is there already; without, it is removed ahead of the pull."""
        if self._pulled == reference and not again:
            self._competitor.forget(reference)
        # What earlier turns left to be written must not be charged to this one.
        os.sync()
        figures = [_timed(lambda: self._competitor.pull(reference))]
        self._pulled = reference
        return figures

    def forget(self, reference: str) -> None:
        self._competitor.forget(reference)
        self._pulled = ""

    def watched_pull(self, reference: str) -> dict[str, Any]:
        return watch(lambda: self._competitor.pull(reference))

    def stage(self, name: str, blobs: list[list[str]]) -> list[int]:
        os.sync()
        return [run_stage(name, blobs, self._competitor.place)]

    def fill(self, tar: str) -> None:
        self._competitor.fill(Path(tar))

    def push(self, reference: str, making: bool) -> list[int]:
        """With `making`, making the image of a tree of files counts, too."""
        self._competitor.renew()
        os.sync()
        makes = _timed(lambda: self._competitor.make(reference))
        if not making:
            os.sync()
        pushes = _timed(lambda: self._competitor.push(reference))
        self._competitor.forget(reference)
        return [makes + pushes if making else pushes]

    def threads(self, threads: int, starts: int) -> float:
        return self._competitor.run_threads(threads, starts)

    def alive(self, count: int) -> dict[str, Any]:
        return measure_alive(self._competitor, count)

    def commit(self, reference: str) -> list[int]:
        # Everybody's own writes, but not those that came before.
        os.sync()
        figures = [_timed(lambda: self._competitor.commit(reference))]
        self._competitor.forget(reference)
        return figures

    def change(self, tar: str) -> None:
        self._competitor.change(Path(tar))

    def life(self, what: str, **request: Any) -> Any:
        """A request to `Living`; pycontainer's alone."""
        if self._living is None:
            self._living = Living(cast(Pycontainer, self._competitor))
        return getattr(self._living, what)(**request)

    def network(self, what: str, **request: Any) -> Any:
        """A request to `Networking`; pycontainer's alone."""
        if self._networking is None:
            self._networking = Networking(cast(Pycontainer, self._competitor))
        return getattr(self._networking, what)(**request)

    def close(self) -> None:
        for used in (self._living, self._networking):
            if used is not None:
                used.close()
        self._competitor.close()

    def ballast(self, size: int, threads: int) -> None:
        """Makes this a big host: `size` bytes of private memory, every page touched, and sleeping threads."""
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        # Small pages are what a grown heap has, and what makes copying a process dear.
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        for offset in range(0, size, _PAGE):
            memory[offset] = 1
        never = threading.Event()
        for _ in range(threads):
            threading.Thread(target=never.wait, daemon=True).start()
        self._ballast.append(memory)


def _timed(call: Callable[[], int | None]) -> int:
    begun = time.perf_counter_ns()
    own = call()
    ended = time.perf_counter_ns()
    return ended - begun if own is None else own


def _answer(worker: Worker, request: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"answer": getattr(worker, request.pop("do"))(**request)}
    except Unavailable as reason:
        return {"unavailable": str(reason)}
    except Exception as error:
        # A competitor's own errors are of any class; they end its row, not the benchmark.
        return {"unavailable": f"{type(error).__name__}: {error}"}


def main(name: str, place: str, root: str, tar: str, fd: str) -> None:
    directory, tar_file = root.split("=", 1)[1], Path(tar) if tar else None
    competitor = competitor_class(name)(Path(place), Root(root.split("=", 1)[0], Path(directory), tar_file))
    worker = Worker(competitor)
    with socket.socket(fileno=int(fd)) as channel, channel.makefile("rw") as lines:
        try:
            for line in lines:
                lines.write(dumps(_answer(worker, loads(line))) + "\n")
                lines.flush()
        finally:
            worker.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
