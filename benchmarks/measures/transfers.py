"""What `pull` and `push` have in common."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.competitors import competitor_class
from benchmarks.harness import Result, number
from benchmarks.measures.context import Context
from benchmarks.registry import Registry
from benchmarks.workers import Entry


@contextlib.contextmanager
def registry_in(place: Path) -> Iterator[Registry]:
    """A registry of this benchmark's own, its files in `place`. Raises `Unavailable`."""
    with tempfile.TemporaryDirectory(prefix="r", dir=place) as directory:
        registry = Registry(Path(directory))
        try:
            yield registry
        finally:
            registry.close()


def able(context: Context) -> list[Entry]:
    """The competitors that have images to transfer."""
    return [
        Entry(name, context.first_root, name)
        for name in context.competitors
        if competitor_class(name).can_transfer
    ]


def row(
    label: str, result: Result, baselines: Sequence[Result | None], remark: str = "", *, digits: int = 1
) -> tuple[str, ...]:
    """Median, percentiles, count, ratios to the baselines, remark."""
    summary = result.summary
    if summary is None:
        return (label, *[""] * (4 + len(baselines)), f"not available: {result.unavailable}")
    return (
        label,
        number(summary.median, digits),
        number(summary.p10, digits),
        number(summary.p90, digits),
        str(summary.count),
        *(number(result.ratio(baseline)) for baseline in baselines),
        remark,
    )
