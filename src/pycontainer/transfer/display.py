"""How far a transfer is, for people: bars on a terminal and in a notebook."""

from __future__ import annotations

import importlib
import io
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pycontainer.errors import InvalidOption
from pycontainer.oci.digest import Digest
from pycontainer.transfer.events import Progress, Report

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

_STEPS = {
    "waiting": "waiting",
    "downloading": "pulling",
    "unpacking": "unpacking",
    "uploading": "pushing",
    "exists": "exists",
    "done": "done",
}
_EVERY = 0.1
"""Seconds between two pictures in a notebook."""


@contextmanager
def reporting(progress: bool | Report | None) -> Iterator[Report | None]:
    """Whom a transfer tells how far it is: `progress` itself where it is a function; bars where it is
    True, or None and somebody looks (a terminal on stderr, or a notebook); else nobody."""
    if callable(progress):
        yield _until_it_raises(progress)
    elif progress is True or progress is None:
        if _is_notebook():
            with _in_notebook() as report:
                yield report
        elif progress is True or _is_terminal():
            with _on_terminal() as report:
                yield report
        else:
            yield None
    elif progress is False:
        yield None
    else:
        raise InvalidOption(f"progress={progress!r}: must be True, False, None or a function")


def _until_it_raises(listener: Report) -> Report:
    """What a listener raises ends the transfer, some steps later; it hears nothing more of those."""
    ended = False

    def report(event: Progress) -> None:
        nonlocal ended
        if ended:
            return
        try:
            listener(event)
        except BaseException:
            ended = True
            raise

    return report


def _is_notebook() -> bool:
    # Nobody imports IPython for this: where it is not loaded already, this is no notebook.
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and type(shell).__name__ == "ZMQInteractiveShell"


def _is_terminal() -> bool:
    try:
        return sys.stderr is not None and sys.stderr.isatty()
    except ValueError:
        return False  # it is closed


@contextmanager
def _on_terminal() -> Iterator[Report]:
    from rich.console import Console

    with _bars(Console(stderr=True)) as bars:
        yield _teller(bars)


@contextmanager
def _in_notebook() -> Iterator[Report]:
    """One picture that is replaced: what rich itself shows in notebooks needs another package there."""
    from rich.console import Console

    display = importlib.import_module("IPython.display")
    console = Console(file=io.StringIO(), record=True, width=100, force_jupyter=False)
    bars = _bars(console)
    tell = _teller(bars)
    handle = display.display(display.HTML(""), display_id=True)
    shown = 0.0

    def show() -> None:
        console.print(bars.get_renderable())
        pre = '<pre style="line-height: normal">{code}</pre>'
        handle.update(display.HTML(console.export_html(inline_styles=True, code_format=pre)))

    def report(event: Progress) -> None:
        nonlocal shown
        tell(event)
        if time.monotonic() - shown >= _EVERY:
            shown = time.monotonic()
            show()

    try:
        yield report
    finally:
        show()


def _bars(console: Console) -> Bars:
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    return Progress(
        TextColumn("{task.fields[name]}"),
        TextColumn("{task.description:<9}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        console=console,
    )


def _teller(bars: Bars) -> Report:
    """Keeps one bar for each layer or config."""
    tasks: dict[Digest, TaskID] = {}

    def report(event: Progress) -> None:
        step = _STEPS[event.step]
        task = tasks.get(event.digest)
        if task is None:
            name = event.digest.hex[:12]
            tasks[event.digest] = bars.add_task(step, name=name, completed=event.done, total=event.total)
        else:
            bars.update(task, description=step, completed=event.done, total=event.total)

    return report
