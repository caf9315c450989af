"""The same start from a small host process and from a big one."""

from __future__ import annotations

from benchmarks.harness import Result, Table, Target, Unavailable, number, summaries
from benchmarks.harness import measure as measure_rounds
from benchmarks.measures.context import Context
from benchmarks.measures.start import turn_of
from benchmarks.workers import Entry, Field, field_of

_THREADS = 200
_GIB = 1 << 30


def measure(context: Context) -> Table:
    gib = 1 if context.quick else 4
    big = f"host with {gib} GiB and {_THREADS} threads"
    chosen = [Entry("pycontainer", context.first_root, label) for label in ("small host", big)]
    with field_of(chosen, context.place) as field:
        context.versions.update(field.versions)
        _load(field, big, gib * _GIB)
        context.progress("memory: the hosts are ready")
        turns = {label: turn_of(worker, "start") for label, worker in field.ready.items()}
        results = measure_rounds(turns, rounds=10 if context.quick else 40, warmups=3)
    results.update({label: Result(unavailable=why) for label, why in field.unavailable.items()})
    small = results["small host"]
    return Table(
        name="memory",
        title="pycontainer: start to exit of /bin/true from hosts of two sizes, milliseconds",
        headings=("", "median", "p10", "p90", "n", "x small host", "remark"),
        rows=tuple(_row(entry.label, results[entry.label], small) for entry in chosen),
        targets=(Target("at most 1.1 x the small host", 1.1, results[big].ratio(small)),),
        data={"unit": "ms", "results": summaries(results)},
    )


def _load(field: Field, label: str, size: int) -> None:
    if label not in field.ready:
        return
    try:
        field.ready[label].ask("ballast", size=size, threads=_THREADS)
    except Unavailable as reason:
        del field.ready[label]
        field.unavailable[label] = str(reason)


def _row(label: str, result: Result, small: Result) -> tuple[str, ...]:
    summary = result.summary
    if summary is None:
        return (label, "", "", "", "", "", f"not available: {result.unavailable}")
    figures = (number(summary.median), number(summary.p10), number(summary.p90), str(summary.count))
    return (label, *figures, number(result.ratio(small)), "")
