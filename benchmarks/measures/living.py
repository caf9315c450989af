"""What `life` measures of pycontainer, in the worker that holds the containers. All times in nanoseconds."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import hosts
from benchmarks.competitors.pycontainer import Pycontainer
from benchmarks.measures.alive import settled_counts, supervisor_of

_FILES_EACH = 500
_CHANGES = 10
_DESCRIPTORS_EACH = 16
_THREADS = 4


class Living:
    """Templates and containers that are there from one request to the next. Every public method is a
    request; `close` removes what they made."""

    def __init__(self, competitor: Pycontainer) -> None:
        self._competitor = competitor
        self._templates: dict[str, Any] = {}
        self._held: Any = None
        self._changed: Any = None
        self._made = ExitStack()

    def close(self) -> None:
        self._made.close()

    def seal(self, name: str, files: int) -> None:
        """A template, called so, of a container that wrote so many files."""
        container = self._competitor.create()
        if files:
            with tempfile.TemporaryDirectory(dir=self._competitor.place) as directory:
                _write_files(Path(directory) / "tree", files)
                container.copy_in(Path(directory) / "tree", "/tree")
        self._templates[name] = self._made.enter_context(container.seal())

    def fork(self, name: str, times: int) -> list[int]:
        """Until the fork's program was executed. Its removal does not count."""
        figures = []
        for _ in range(times):
            begun = time.perf_counter_ns()
            fork = self._templates[name].fork()
            figures.append(time.perf_counter_ns() - begun)
            fork.remove(force=True)
        return figures

    def change(self, files: int) -> None:
        """A container that changed ten files of an image with so many."""
        with tempfile.TemporaryDirectory(dir=self._competitor.place) as directory:
            root = Path(directory) / "root"
            shutil.copytree(self._competitor.root.directory, root, symlinks=True)
            _write_files(root / "tree", files)
            image = self._competitor.library.Image.from_directory(root)
        container = self._made.enter_context(self._competitor.create(image))
        for number in range(_CHANGES):
            container.path(f"/tree/{number % (files // _FILES_EACH)}/{number}").write_bytes(b"changed")
        self._changed = container

    def diff(self, times: int) -> list[int]:
        figures = [_timed(self._changed.diff) for _ in range(times)]
        # The directories that they lie in have the times that they had.
        if (found := len(self._changed.diff())) != _CHANGES:
            raise RuntimeError(f"diff gives {found} changes, not {_CHANGES}")
        return figures

    def hold(self) -> None:
        """The container that `exec` and `stats` are asked of; the first time, it starts."""
        if self._held is not None:
            return
        self._held = self._competitor.hold()
        self._made.callback(self._competitor.release, self._held)

    def exec(self, times: int) -> list[int]:
        return [_timed(lambda: self._competitor.exec(self._held)) for _ in range(times)]

    def stats(self, times: int) -> list[int]:
        return [_timed(self._held.stats) for _ in range(times)]

    def crowd(self, count: int, threads: int, listed: int) -> dict[str, Any]:
        """Starts `count` containers, lists them when there are `listed`, stops and removes them; how long
        each took and what was left afterwards."""
        raised = hosts.raise_descriptors(count * _DESCRIPTORS_EACH)
        first = self._competitor.hold()
        supervisor = supervisor_of(self._competitor.pid_of(first))
        self._competitor.release(first)
        place = self._competitor.place
        before = settled_counts(supervisor, place, None)
        with ThreadPoolExecutor(threads) as pool:
            # Threads are there from here on.
            list(pool.map(time.sleep, [0.01] * threads))
            held: list[Any] = []
            try:
                some = _timed(lambda: held.extend(pool.map(self._hold_one, range(listed))))
                lists = [_timed(self._list_all) for _ in range(20)]
                rest = _timed(lambda: held.extend(pool.map(self._hold_one, range(count - listed))))
                alive = sum(1 for container in held if container.status == "running")
                during = settled_counts(supervisor, place, None)
                stopped = _timed(lambda: list(pool.map(_stop_and_remove, held)))
            finally:
                for container in held:
                    container.remove(force=True)
        after = settled_counts(supervisor, place, before)
        return {
            "count": count,
            "alive": alive,
            "start": some + rest,
            "stop": stopped,
            "list": lists,
            "before": before,
            "during": during,
            "after": after,
            "descriptors_raised_to": raised,
        }

    def _hold_one(self, _: int) -> Any:
        return self._competitor.hold()

    def _list_all(self) -> list[Any]:
        found: list[Any] = self._competitor.library.Container.list()
        return found


def _stop_and_remove(container: Any) -> None:
    container.stop()
    container.remove()


def _write_files(directory: Path, files: int) -> None:
    for first in range(0, files, _FILES_EACH):
        part = directory / str(first // _FILES_EACH)
        part.mkdir(parents=True)
        for number in range(min(_FILES_EACH, files - first)):
            (part / str(number)).write_bytes(b"%d" % (first + number))


def _timed(call: Callable[[], object]) -> int:
    begun = time.perf_counter_ns()
    call()
    return time.perf_counter_ns() - begun
