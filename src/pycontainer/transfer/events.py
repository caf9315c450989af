"""What a transfer tells while it runs, for displays and callbacks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Literal

import attrs

from pycontainer.oci.digest import Digest

_EVERY = 0.05  # seconds between two reports of the same blob on its way

Step = Literal["waiting", "downloading", "unpacking", "uploading", "exists", "done"]


@attrs.frozen
class Progress:
    """How far one layer or config is: `done` of `total` bytes as they are transferred (`total` is None
    where nobody knows yet). `step` is "exists" where nothing had to be moved, "done" at the end."""

    digest: Digest
    step: Step
    done: int
    total: int | None


Report = Callable[[Progress], None]
"""Called from the transferring threads, one call at a time; what it raises ends the transfer."""


class Teller:
    """Tells the listener of one transfer, where there is one, from whichever thread."""

    def __init__(self, report: Report | None) -> None:
        self._report = report
        self._telling = threading.Lock()

    def tell(self, digest: Digest, step: Step, done: int, total: int | None) -> None:
        """Raises what the listener raises."""
        if self._report is not None:
            with self._telling:
                self._report(Progress(digest, step, done, total))


class Pace:
    """How often one blob's way is told of."""

    def __init__(self) -> None:
        self._told = 0.0

    def due(self) -> bool:
        """Whether it is time; who is told so tells."""
        now = time.monotonic()
        if now - self._told < _EVERY:
            return False
        self._told = now
        return True
