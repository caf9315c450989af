"""Start to exit of /bin/true: overlay, cgroup with limits, seccomp, all namespaces, no network."""

from __future__ import annotations

from benchmarks.competitors import competitor_class
from benchmarks.harness import Result, Table, Target, Turn, number, summaries
from benchmarks.harness import measure as measure_rounds
from benchmarks.measures.context import Context
from benchmarks.workers import Entry, Worker, entries, field_of

_NS_PER_MS = 1e6
_SLOW_MS = 50.0


def measure(context: Context) -> Table:
    chosen = entries(context.competitors, context.roots)
    with field_of(chosen, context.place) as field:
        context.versions.update(field.versions)
        context.progress(f"start: {len(field.ready)} competitors ready")
        turns = {label: turn_of(worker, "start") for label, worker in field.ready.items()}
        results = measure_rounds(turns, rounds=10 if context.quick else 40)
    results.update({label: Result(unavailable=why) for label, why in field.unavailable.items()})
    return Table(
        name="start",
        title="Start to exit of /bin/true, milliseconds",
        headings=("", "root", "median", "p10", "p90", "n", "x floor", "x bubblewrap", "what it did"),
        rows=tuple(_row(entry, results) for entry in chosen),
        targets=tuple(target for root in context.roots for target in _targets(root.name, results)),
        data={"unit": "ms", "results": summaries(results)},
    )


def turn_of(worker: Worker, do: str) -> Turn:
    """A fast competitor has several tries in each of its turns; the first turn finds out who is fast."""
    times = 1

    def turn() -> list[float]:
        nonlocal times
        figures = [ns / _NS_PER_MS for ns in worker.ask(do, times=times)]
        times = 5 if min(figures) < _SLOW_MS else 1
        return figures

    return turn


def _baseline(results: dict[str, Result], name: str, root: str) -> Result | None:
    return results.get(name if root == "busybox" else f"{name}, {root}")


def _row(entry: Entry, results: dict[str, Result]) -> tuple[str, ...]:
    result, root = results[entry.label], entry.root.name
    summary = result.summary
    if summary is None:
        return (entry.competitor, root, "", "", "", "", "", "", f"not available: {result.unavailable}")
    return (
        entry.competitor,
        root,
        number(summary.median),
        number(summary.p10),
        number(summary.p90),
        str(summary.count),
        number(result.ratio(_baseline(results, "floor", root))),
        number(result.ratio(_baseline(results, "bubblewrap", root))),
        competitor_class(entry.competitor).does,
    )


def _targets(root: str, results: dict[str, Result]) -> list[Target]:
    ours = _baseline(results, "pycontainer", root) or Result(unavailable="not measured")
    return [
        Target(
            f"at most {limit} x {name} on the {root} root", limit, ours.ratio(_baseline(results, name, root))
        )
        for name, limit in (("floor", 1.3), ("bubblewrap", 0.5))
    ]
