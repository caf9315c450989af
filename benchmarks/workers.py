"""The harness's side of the workers: start them, ask them, end them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

from benchmarks import roots
from benchmarks.competitors import competitor_class
from benchmarks.harness import Unavailable

_CHECKOUT = Path(__file__).parents[1]
_SECONDS_TO_END = 60
_ANSWER_SECONDS = 600


class Worker:
    """One competitor on one root. Closing takes away all that it set up."""

    def __init__(self, name: str, root: roots.Root, beneath: Path, *, label: str = "") -> None:
        self.name = name
        self.root = root
        self.label = label or name
        self.version = ""
        # Short: a path of a socket has 107 characters.
        self._place = Path(tempfile.mkdtemp(prefix="w", dir=beneath))
        ours, theirs = socket.socketpair()
        with theirs, (self._place / "log").open("wb") as log:
            self._process = subprocess.Popen(
                self._command(theirs.fileno()),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                pass_fds=[theirs.fileno()],
                env=_environment(),
                # Ctrl-C is for us: the worker ends when its channel does, and tidies up on the way.
                start_new_session=True,
            )
        ours.settimeout(_ANSWER_SECONDS)
        self._socket = ours
        self._lines = ours.makefile("rw")

    def _command(self, fd: int) -> list[str]:
        root = f"{self.root.name}={self.root.directory}"
        tar = "" if self.root.tar is None else str(self.root.tar)
        arguments = [self.name, str(self._place), root, tar, str(fd)]
        python = [sys.executable, "-m", "benchmarks.worker", *arguments]
        if os.geteuid() != 0:
            return python
        return ["unshare", "--mount", "--propagation", "private", *python]

    def ask(self, do: str, **request: Any) -> Any:
        """Raises `Unavailable` with the competitor's reason, or what it said before it died."""
        try:
            self._lines.write(json.dumps({"do": do, **request}) + "\n")
            self._lines.flush()
            line = self._lines.readline()
        except OSError as error:
            raise Unavailable(f"{self.name}: no answer to {do}: {error}") from error
        if not line:
            raise Unavailable(f"its process ended{self._last_words()}")
        answer = json.loads(line)
        if "unavailable" in answer:
            raise Unavailable(answer["unavailable"] + self._last_words())
        return answer["answer"]

    def _last_words(self) -> str:
        """What is measured writes its errors into the worker's log."""
        said = (self._place / "log").read_text(errors="replace").strip().splitlines()
        return f": {said[-1][:200]}" if said else ""

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._lines.close()
        self._socket.close()
        try:
            self._process.wait(timeout=_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        shutil.rmtree(self._place, ignore_errors=True)


def _environment() -> dict[str, str]:
    paths = [str(_CHECKOUT), str(_CHECKOUT / "src"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}


@attrs.define
class Field:
    """Who takes part in a benchmark: the workers that are ready, and the reasons of those that are not."""

    ready: dict[str, Worker] = attrs.field(factory=dict)
    unavailable: dict[str, str] = attrs.field(factory=dict)

    @property
    def versions(self) -> dict[str, str]:
        return {worker.name: worker.version for worker in self.ready.values()}


@attrs.frozen
class Entry:
    """A competitor on a root, under the name that its row has."""

    competitor: str
    root: roots.Root
    label: str
    processors: int | None = None
    """How many it and all that it starts may take; None for all."""

    @classmethod
    def of(cls, competitor: str, root: roots.Root) -> Entry:
        return cls(competitor, root, competitor if root.name == "busybox" else f"{competitor}, {root.name}")


def entries(competitors: Sequence[str], available: Sequence[roots.Root]) -> list[Entry]:
    """Every competitor on every root that it can run on."""
    return [
        Entry.of(name, root)
        for root in available
        for name in competitors
        if root.name in competitor_class(name).roots
    ]


@contextlib.contextmanager
def field_of(
    chosen: Sequence[Entry], beneath: Path, *, disks: bool = False, networks: Container[str] = ()
) -> Iterator[Field]:
    """Sets every entry up, one after another, and takes all away at the end; with `disks`, each on a file
    system of its own; `networks` are the competitors that get a network namespace of their own."""
    field = Field()
    started: list[Worker] = []
    try:
        for entry in chosen:
            worker = Worker(entry.competitor, entry.root, beneath, label=entry.label)
            started.append(worker)
            try:
                if entry.processors is not None:
                    worker.ask("take_processors", count=entry.processors)
                if disks:
                    worker.ask("own_disk")
                if entry.competitor in networks:
                    worker.ask("own_network")
                worker.version = worker.ask("set_up")
                field.ready[entry.label] = worker
            except Unavailable as reason:
                field.unavailable[entry.label] = str(reason)
        yield field
    finally:
        for worker in reversed(started):
            worker.close()
