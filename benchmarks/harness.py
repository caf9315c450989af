"""Rounds, medians, ratios and tables: everything about measuring that knows no container.

In a round every competitor has its turn once, in a fresh random order, so that whatever the machine does
meanwhile (another load, a frequency, a cache) meets all of them alike.  Warm-up rounds are thrown away.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

Turn = Callable[[], Sequence[float]]
"""One turn of a competitor: runs it, gives what it measured (one or more figures of one unit)."""

_SHORTEST_PAUSE = 0.002
_LONGEST_PAUSE = 0.1


class Unavailable(Exception):
    """A competitor cannot run on this machine; the text is the reason, for the table."""


@attrs.frozen
class Summary:
    """What is left of a competitor's figures, in their unit."""

    count: int
    median: float
    p10: float
    p90: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> Summary:
        if not figures:
            raise ValueError("nothing was measured")
        return cls(
            count=len(figures),
            median=percentile(figures, 50),
            p10=percentile(figures, 10),
            p90=percentile(figures, 90),
        )


def percentile(figures: Sequence[float], percent: float) -> float:
    """The figure below which `percent` of them lie, interpolated between neighbours."""
    ordered = sorted(figures)
    position = (len(ordered) - 1) * percent / 100
    below, above = math.floor(position), math.ceil(position)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


@attrs.frozen
class Result:
    """One competitor's outcome: figures, or why there are none."""

    figures: tuple[float, ...] = ()
    unavailable: str = ""

    @property
    def summary(self) -> Summary | None:
        return Summary.of(self.figures) if self.figures and not self.unavailable else None

    def ratio(self, baseline: Result | None) -> float | None:
        """Our median over the baseline's; None where either has none."""
        own, other = self.summary, None if baseline is None else baseline.summary
        return None if own is None or other is None else own.median / other.median


def measure(
    turns: Mapping[str, Turn],
    *,
    rounds: int,
    warmups: int = 1,
    order: random.Random | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Result]:
    """Lets all competitors take turns, interleaved. One that fails is left out from there on.

    After each turn there is a pause (a fifth of the turn, 2 to 100 ms): kernels and daemons tidy up after a
    container has ended, and that must not be charged to whoever comes next.
    """
    order = order or random.Random()
    figures: dict[str, list[float]] = {name: [] for name in turns}
    failed: dict[str, str] = {}
    for number in range(warmups + rounds):
        names = [name for name in turns if name not in failed]
        order.shuffle(names)
        for name in names:
            begun = time.perf_counter()
            try:
                got = turns[name]()
            except Unavailable as reason:
                failed[name] = str(reason)
                continue
            sleep(min(_LONGEST_PAUSE, max(_SHORTEST_PAUSE, (time.perf_counter() - begun) / 5)))
            if number >= warmups:
                figures[name].extend(got)
    return {
        name: Result(unavailable=failed[name]) if name in failed else Result(tuple(figures[name]))
        for name in turns
    }


@attrs.frozen
class Target:
    """A promise about one figure, and what was measured."""

    text: str
    limit: float
    measured: float | None
    at_least: bool = False

    @property
    def reached(self) -> bool | None:
        if self.measured is None:
            return None
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit

    def __str__(self) -> str:
        if self.measured is None:
            return f"not measured: {self.text}"
        return f"{'reached' if self.reached else 'MISSED'}: {self.text}; measured {self.measured:.2f}"


@attrs.frozen
class Table:
    """One benchmark's outcome, for people and for programs. All rows have a cell for each heading."""

    name: str
    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    targets: tuple[Target, ...] = ()
    data: Mapping[str, Any] = attrs.field(factory=dict)

    def as_text(self) -> str:
        """Aligned columns: the first to the left, figures to the right, the last (remarks) to the left."""
        widths = [max(len(row[i]) for row in (self.headings, *self.rows)) for i in range(len(self.headings))]
        last = len(widths) - 1

        def line(cells: Sequence[str]) -> str:
            placed = [
                cell.ljust(width) if i in (0, last) else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
            ]
            return "  ".join(placed).rstrip()

        lines = [self.title, "", line(self.headings), line(["-" * width for width in widths])]
        return "\n".join([*lines, *map(line, self.rows), "", *map(str, self.targets)]).rstrip()

    def as_markdown(self) -> str:
        last = len(self.headings) - 1
        rule = [":--" if i in (0, last) else "--:" for i in range(last + 1)]
        rows = (self.headings, rule, *self.rows)
        lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
        return "\n".join([f"**{self.title}**", "", *lines, "", *(f"- {target}" for target in self.targets)])

    def as_data(self) -> dict[str, Any]:
        targets = [
            {"text": t.text, "limit": t.limit, "measured": t.measured, "reached": t.reached}
            for t in self.targets
        ]
        return {"name": self.name, "title": self.title, "targets": targets, **self.data}


def summaries(results: Mapping[str, Result]) -> dict[str, Any]:
    """Results as JSON takes them, every single figure included."""
    return {
        name: {"unavailable": result.unavailable}
        if result.unavailable
        else {**attrs.asdict(result.summary), "figures": list(result.figures)}
        for name, result in results.items()
        if result.unavailable or result.summary is not None
    }


def number(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def report(tables: Sequence[Table], machine: str, *, markdown: bool) -> str:
    parts = [table.as_markdown() if markdown else table.as_text() for table in tables]
    return "\n\n".join([*parts, f"Measured on {machine}"])


def report_json(tables: Sequence[Table], machine: Mapping[str, Any]) -> str:
    return json.dumps({"machine": machine, "benchmarks": [t.as_data() for t in tables]}, indent=1) + "\n"
