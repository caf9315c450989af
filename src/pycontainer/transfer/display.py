"""How far a transfer is, for people: bars on a terminal and in a notebook."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pycontainer.errors import InvalidOption
from pycontainer.oci.digest import Digest
from pycontainer.transfer.events import Progress, Report

_STEPS = {
    "waiting": "waiting",
    "downloading": "pulling",
    "unpacking": "unpacking",
    "uploading": "pushing",
    "exists": "exists",
    "done": "done",
}


@contextmanager
def reporting(progress: bool | Report | None) -> Iterator[Report | None]:
    """Whom a transfer tells how far it is: `progress` itself where it is a function; bars where it is
    True, or None and somebody looks (a terminal on stderr, or a notebook); else nobody."""
    if callable(progress):
        yield progress
    elif progress is True or (progress is None and _somebody_looks()):
        with _bars() as report:
            yield report
    elif progress is None or progress is False:
        yield None
    else:
        raise InvalidOption(f"progress={progress!r}: must be True, False, None or a function")


def _somebody_looks() -> bool:
    # Nobody imports IPython for this: where it is not loaded already, this is no notebook.
    ipython = sys.modules.get("IPython")
    if ipython is not None:
        shell = ipython.get_ipython()
        if shell is not None and type(shell).__name__ == "ZMQInteractiveShell":
            return True
    return sys.stderr is not None and sys.stderr.isatty()


@contextmanager
def _bars() -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TaskID, TextColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.fields[name]}"),
        TextColumn("{task.description:<9}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
    )
    tasks: dict[Digest, TaskID] = {}
    with Bars(*columns, console=Console(stderr=True)) as bars:

        def report(event: Progress) -> None:
            task = tasks.get(event.digest)
            if task is None:
                task = tasks[event.digest] = bars.add_task("", name=event.digest.hex[:12], total=None)
            bars.update(task, description=_STEPS[event.step], completed=event.done, total=event.total)

        yield report
