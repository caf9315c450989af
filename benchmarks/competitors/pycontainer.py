"""pycontainer, in this process."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.competitors.base import MEMORY, PIDS, PROGRAM, SLEEPER, Competitor
from benchmarks.harness import Unavailable
from benchmarks.programs import output_of
from benchmarks.roots import Root


class Pycontainer(Competitor):
    name = "pycontainer"
    does = "everything"
    roots = ("busybox", "host")
    can_exec = True
    can_transfer = True
    can_publish = True

    def __init__(self, place: Path, root: Root) -> None:
        super().__init__(place, root)
        self._changed: Any = None

    def set_up(self) -> str:
        os.environ["PYCONTAINER_STORE"] = str(self.place / "store")
        try:
            import pycontainer as pc

            self.library = pc
            if self.root.name == "host":
                self._image = pc.Image.host()
            else:
                self._image = pc.Image.from_directory(self.root.directory)
        except (ImportError, AttributeError) as error:
            raise Unavailable(f"pycontainer: {error}") from error
        self._options: dict[str, Any] = {"memory": MEMORY, "pids": PIDS, "network": "none"}
        self.start()
        return str(pc.__version__)

    def start(self) -> None:
        done = self.library.run(self._image, [PROGRAM], **self._options)
        if done.returncode != 0:
            raise Unavailable(f"pycontainer: {PROGRAM} ended with {done.returncode}")

    def create(self, image: Any = None) -> Any:
        """A container that sleeps once it is started; of the competitor's own image by default."""
        return self.library.create(image or self._image, list(SLEEPER), **self._options)

    def hold(self) -> Any:
        return self.library.start(self._image, list(SLEEPER), **self._options)

    def publish(self) -> Any:
        return self.published({80: None})

    def published(self, ports: dict[int, int | None], args: Sequence[str] = SLEEPER, **options: Any) -> Any:
        """A running container on the default bridge; with these options a `mounts`, a `wait` and so on."""
        chosen = {**self._options, "network": "bridge", "ports": ports, **options}
        return self.library.start(self._image, list(args), **chosen)

    def exec(self, held: Any) -> None:
        done = held.exec([PROGRAM])
        if done.returncode != 0:
            raise Unavailable(f"pycontainer: exec of {PROGRAM} ended with {done.returncode}")

    def pid_of(self, held: Any) -> int:
        return int(held.pid)

    def release(self, held: Any) -> None:
        held.remove(force=True)

    def pull(self, reference: str) -> None:
        self.library.Image.pull(reference, progress=False)

    def forget(self, reference: str) -> None:
        self.library.Image.get(reference).remove(force=True)

    def fill(self, tar: Path) -> None:
        self._tree = self.place / "tree"
        self._tree.mkdir()
        output_of(["tar", "--extract", "--numeric-owner", "--directory", str(self._tree), "--file", str(tar)])

    def change(self, tar: Path) -> None:
        self._changed = self.create()
        with tempfile.TemporaryDirectory(dir=self.place) as directory:
            output_of(["tar", "--extract", "--directory", directory, "--file", str(tar)])
            self._changed.copy_in(directory, "/root/changed")

    def commit(self, reference: str) -> None:
        self._changed.commit(reference)

    def renew(self) -> None:
        (self._tree / "fresh").write_bytes(os.urandom(64))

    def make(self, reference: str) -> None:
        self.library.Image.from_directory(self._tree, tag=reference)

    def push(self, reference: str) -> None:
        self.library.Image.get(reference).push(progress=False)

    def close(self) -> None:
        if self._changed is not None:
            self._changed.remove(force=True)
