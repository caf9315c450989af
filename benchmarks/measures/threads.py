"""Starts per second from one thread, on one processor and on all, and from eight."""

from __future__ import annotations

import attrs

from benchmarks.competitors import competitor_class
from benchmarks.harness import Result, Table, Target, Turn, number, summaries
from benchmarks.harness import measure as measure_rounds
from benchmarks.measures.context import Context
from benchmarks.workers import Entry, Worker, field_of

_COMPETITORS = ("floor", "pycontainer", "bubblewrap", "crun")
_MANY = 8


@attrs.frozen
class _Way:
    """How many threads start containers, in which worker."""

    threads: int
    suffix: str = ""


# Who sets up the next container beside the program takes more than one processor for one thread.
_ALONE, _ONE, _EIGHT = _WAYS = (_Way(1, ", 1 cpu"), _Way(1), _Way(_MANY))


def measure(context: Context) -> Table:
    able = [
        name
        for name in context.competitors
        if name in _COMPETITORS and context.first_root.name in competitor_class(name).roots
    ]
    chosen = [Entry(name, context.first_root, name) for name in able]
    alone = [Entry(name, context.first_root, name + _ALONE.suffix, processors=1) for name in able]
    with field_of(chosen + alone, context.place) as field:
        context.versions.update(field.versions)
        context.progress(f"threads: {len(chosen)} competitors ready")
        starts = 40 if context.quick else 160
        turns = {
            _label(name, way): _turn(field.ready[name + way.suffix], way.threads, starts)
            for name in able
            for way in _WAYS
            if name + way.suffix in field.ready
        }
        results = measure_rounds(turns, rounds=3 if context.quick else 9)
    for name in able:
        for way in _WAYS:
            if (why := field.unavailable.get(name + way.suffix)) is not None:
                results[_label(name, way)] = Result(unavailable=why)
    return Table(
        name="threads",
        title="Starts per second, start to exit of /bin/true",
        headings=("", "1 on 1 cpu", "1 thread", f"{_MANY} threads", "x 1 on 1 cpu", "x 1 thread", "remark"),
        rows=tuple(_row(name, results) for name in able),
        targets=(
            Target(f"{_MANY} threads at least 1.6 x one", 1.6, _speedup(_ONE, results), True),
            Target(f"{_MANY} threads at least 1.6 x one on one cpu", 1.6, _speedup(_ALONE, results), True),
        ),
        data={"unit": "starts/s", "results": summaries(results)},
    )


def _label(name: str, way: _Way) -> str:
    return f"{name}, {way.threads}{way.suffix}"


def _turn(worker: Worker, threads: int, starts: int) -> Turn:
    def turn() -> list[float]:
        return [starts / worker.ask("threads", threads=threads, starts=starts // threads)]

    return turn


def _speedup(one: _Way, results: dict[str, Result]) -> float | None:
    many = results.get(_label("pycontainer", _EIGHT))
    return None if many is None else many.ratio(results.get(_label("pycontainer", one)))


def _row(name: str, results: dict[str, Result]) -> tuple[str, ...]:
    found = [results[_label(name, way)] for way in _WAYS]
    rates = [number(one.summary.median, 0) for one in found if one.summary is not None]
    if len(rates) < len(found):
        why = next(one.unavailable for one in found if one.summary is None)
        return (name, "", "", "", "", "", f"not available: {why}")
    alone, one, many = found
    return (name, *rates, number(many.ratio(alone)), number(many.ratio(one)), "")
