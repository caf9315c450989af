"""Starts per second from one thread and from eight."""

from __future__ import annotations

from benchmarks.competitors import competitor_class
from benchmarks.harness import Result, Table, Target, Turn, number, summaries
from benchmarks.harness import measure as measure_rounds
from benchmarks.measures.context import Context
from benchmarks.workers import Entry, Worker, field_of

_COMPETITORS = ("floor", "pycontainer", "bubblewrap", "crun")
_MANY = 8


def measure(context: Context) -> Table:
    able = [
        name
        for name in context.competitors
        if name in _COMPETITORS and context.first_root.name in competitor_class(name).roots
    ]
    chosen = [Entry(name, context.first_root, name) for name in able]
    with field_of(chosen, context.place) as field:
        context.versions.update(field.versions)
        context.progress(f"threads: {len(field.ready)} competitors ready")
        starts = 40 if context.quick else 160
        turns = {
            _label(name, threads): _turn(worker, threads, starts)
            for name, worker in field.ready.items()
            for threads in (1, _MANY)
        }
        results = measure_rounds(turns, rounds=3 if context.quick else 9)
    names = [entry.label for entry in chosen]
    for name, why in field.unavailable.items():
        results.update({_label(name, threads): Result(unavailable=why) for threads in (1, _MANY)})
    return Table(
        name="threads",
        title="Starts per second, start to exit of /bin/true",
        headings=("", "1 thread", f"{_MANY} threads", "ratio", "remark"),
        rows=tuple(_row(name, results) for name in names),
        targets=(Target(f"{_MANY} threads at least 1.6 x one", 1.6, _speedup("pycontainer", results), True),),
        data={"unit": "starts/s", "results": summaries(results)},
    )


def _label(name: str, threads: int) -> str:
    return f"{name}, {threads}"


def _turn(worker: Worker, threads: int, starts: int) -> Turn:
    def turn() -> list[float]:
        return [starts / worker.ask("threads", threads=threads, starts=starts // threads)]

    return turn


def _speedup(name: str, results: dict[str, Result]) -> float | None:
    many = results.get(_label(name, _MANY))
    return None if many is None else many.ratio(results.get(_label(name, 1)))


def _row(name: str, results: dict[str, Result]) -> tuple[str, ...]:
    one, many = results[_label(name, 1)], results[_label(name, _MANY)]
    if one.summary is None or many.summary is None:
        return (name, "", "", "", f"not available: {one.unavailable or many.unavailable}")
    return (name, number(one.summary.median, 0), number(many.summary.median, 0), number(many.ratio(one)), "")
