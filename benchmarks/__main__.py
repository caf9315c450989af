"""`python -m benchmarks start exec memory`, and so on: see README.md beside this file."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import harness, machine, roots
from benchmarks.competitors import NAMES
from benchmarks.measures import HELP, measure_of
from benchmarks.measures.context import Context


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measures pycontainer beside other engines, all in one run.",
        epilog="\n".join(f"  {name:8} {text}" for name, text in HELP.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("benchmark", nargs="+", choices=(*HELP, "all"), help="which to run, see below")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: to see that it works")
    parser.add_argument(
        "--only", metavar="NAMES", help=f"competitors, separated by commas: {','.join(NAMES)}"
    )
    parser.add_argument("--root", choices=("both", "busybox", "host"), default="both", help="for `start`")
    parser.add_argument("--markdown", action="store_true", help="print tables for a README")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write every figure to FILE as well")
    return parser


def competitors(text: str | None) -> tuple[str, ...]:
    if text is None:
        return NAMES
    chosen = tuple(text.split(","))
    unknown = [name for name in chosen if name not in NAMES]
    if unknown:
        raise SystemExit(f"unknown competitor: {', '.join(unknown)}; there are {', '.join(NAMES)}")
    return chosen


@contextlib.contextmanager
def available_roots(which: str) -> Iterator[tuple[Path, list[roots.Root]]]:
    with tempfile.TemporaryDirectory(prefix="pcb-", ignore_cleanup_errors=True) as directory:
        place = Path(directory)
        found = [] if which == "host" else [roots.make_busybox(place)]
        yield place, found + ([] if which == "busybox" else [roots.HOST])


def show_progress(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    if os.geteuid() != 0:
        raise SystemExit("the competitors need root: run this as root")
    names = list(HELP) if "all" in options.benchmark else list(dict.fromkeys(options.benchmark))
    with available_roots(options.root) as (place, found):
        context = Context(place, found, competitors(options.only), options.quick, show_progress)
        tables = []
        for name in names:
            show_progress(f"{name}: setting the competitors up")
            tables.append(measure_of(name)(context))
    description = machine.describe(context.versions)
    text = harness.report(tables, machine.as_line(description), markdown=options.markdown)
    sys.stdout.write(text + "\n")
    if options.json is not None:
        options.json.write_text(harness.report_json(tables, description))


if __name__ == "__main__":
    main()
