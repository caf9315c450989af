"""exec of /bin/true in a container that runs already."""

from __future__ import annotations

import contextlib

from benchmarks.competitors import competitor_class
from benchmarks.harness import Result, Table, Target, Unavailable, number, summaries
from benchmarks.harness import measure as measure_rounds
from benchmarks.measures.context import Context
from benchmarks.measures.start import turn_of
from benchmarks.workers import Entry, Field, field_of


def measure(context: Context) -> Table:
    able = [
        name
        for name in context.competitors
        if competitor_class(name).can_exec and context.first_root.name in competitor_class(name).roots
    ]
    chosen = [Entry(name, context.first_root, name) for name in able]
    with field_of(chosen, context.place) as field:
        context.versions.update(field.versions)
        _hold(field)
        context.progress(f"exec: {len(field.ready)} competitors ready")
        turns = {label: turn_of(worker, "exec") for label, worker in field.ready.items()}
        results = measure_rounds(turns, rounds=10 if context.quick else 40)
        for worker in field.ready.values():
            # Whatever does not end now ends with its worker.
            with contextlib.suppress(Unavailable):
                worker.ask("release")
    results.update({label: Result(unavailable=why) for label, why in field.unavailable.items()})
    ours = results.get("pycontainer", Result(unavailable="not measured"))
    cheapest = _cheapest(results)
    return Table(
        name="exec",
        title="exec of /bin/true in a running container, milliseconds",
        headings=("", "median", "p10", "p90", "n", "x pycontainer", "remark"),
        rows=tuple(_row(entry.label, results[entry.label], ours) for entry in chosen),
        targets=(
            Target("at most 1.5 ms", 1.5, ours.summary.median if ours.summary else None),
            Target("at most 0.3 x the cheapest engine", 0.3, ours.ratio(cheapest)),
        ),
        data={"unit": "ms", "results": summaries(results)},
    )


def _hold(field: Field) -> None:
    """Gives everybody a container to exec in; who has none takes no part."""
    for label, worker in list(field.ready.items()):
        try:
            worker.ask("hold")
        except Unavailable as reason:
            del field.ready[label]
            field.unavailable[label] = str(reason)


def _cheapest(results: dict[str, Result]) -> Result | None:
    others = [r for name, r in results.items() if name != "pycontainer" and not r.unavailable]
    return min(others, key=lambda result: result.summary.median if result.summary else 0, default=None)


def _row(label: str, result: Result, ours: Result) -> tuple[str, ...]:
    summary = result.summary
    if summary is None:
        return (label, "", "", "", "", "", f"not available: {result.unavailable}")
    figures = (number(summary.median), number(summary.p10), number(summary.p90), str(summary.count))
    return (label, *figures, number(result.ratio(ours), 1), "")
