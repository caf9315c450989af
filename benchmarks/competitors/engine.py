"""What docker's and podman's command lines have in common: their verbs, and an image that is there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from benchmarks.competitors.base import PROGRAM, SLEEPER, Competitor
from benchmarks.programs import output_of, run_quietly

IMAGE = "bench:latest"

_ALONE = ("--network", "none")
_PUBLISHED = ("--publish", "127.0.0.1::80")


class Engine(Competitor):
    """Who inherits sets `_base`, the program and where its engine is, and `_options` of each container, but
    not its network."""

    can_exec = True
    can_transfer = True
    can_publish = True
    transfer_options: ClassVar[tuple[str, ...]] = ("--quiet",)
    commit_options: ClassVar[tuple[str, ...]] = ()

    _base: list[str]
    _options: list[str]

    def start(self) -> None:
        run_quietly([*self._base, "run", *self._options, *_ALONE, IMAGE, PROGRAM])

    def hold(self) -> str:
        return self._sleeper(_ALONE)

    def publish(self) -> str:
        return self._sleeper(_PUBLISHED)

    def _sleeper(self, network: Sequence[str]) -> str:
        options = [*self._options, *network, "--detach"]
        return output_of([*self._base, "run", *options, IMAGE, *SLEEPER]).strip()

    def exec(self, held: str) -> None:
        run_quietly([*self._base, "exec", held, PROGRAM])

    def pull(self, reference: str) -> None:
        run_quietly([*self._base, "pull", *self.transfer_options, reference])

    def forget(self, reference: str) -> None:
        output_of([*self._base, "rmi", "--force", reference])

    def fill(self, tar: Path) -> None:
        self._filled = output_of([*self._base, "create", *_ALONE, IMAGE, PROGRAM]).strip()
        with tar.open("rb") as archive:
            output_of([*self._base, "cp", "-", f"{self._filled}:/root"], stdin=archive)

    def renew(self) -> None:
        fresh = self.place / "fresh"
        fresh.write_bytes(os.urandom(64))
        output_of([*self._base, "cp", str(fresh), f"{self._filled}:/fresh"])

    def make(self, reference: str) -> None:
        run_quietly([*self._base, "commit", *self.commit_options, self._filled, reference])

    def push(self, reference: str) -> None:
        run_quietly([*self._base, "push", *self.transfer_options, reference])
