"""Start to exit of /bin/true: overlay, cgroup with limits, seccomp, all namespaces, no network."""

from __future__ import annotations

from benchmarks.competitors import competitor_class
from benchmarks.harness import Result, Table, Target, Turn, number, summaries
from benchmarks.harness import measure as measure_rounds
from benchmarks.measures.context import Context
from benchmarks.workers import Entry, Worker, entries, field_of

_NS_PER_MS = 1e6
_SLOW_MS = 50.0
_PAUSE = 0.02
_PAUSED = "paused"
_HEADINGS = ("", "root", "in a row", "p10", "p90", "x floor", "x bubblewrap")
_PAUSED_HEADINGS = ("after 20 ms", "p10", "p90", "x floor", "x bubblewrap", "what it did")


def measure(context: Context) -> Table:
    chosen = entries(context.competitors, context.roots)
    with field_of(chosen, context.place) as field:
        context.versions.update(field.versions)
        context.progress(f"start: {len(field.ready)} competitors ready")
        turns = {label: turn_of(worker, "start") for label, worker in field.ready.items()}
        turns |= {_paused(label): _paused_turn(worker) for label, worker in field.ready.items()}
        results = measure_rounds(turns, rounds=10 if context.quick else 40)
    for label, why in field.unavailable.items():
        results |= dict.fromkeys((label, _paused(label)), Result(unavailable=why))
    return Table(
        name="start",
        title="Start to exit of /bin/true, milliseconds",
        headings=(*_HEADINGS, *_PAUSED_HEADINGS),
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


def _paused(label: str) -> str:
    return f"{label}, {_PAUSED}"


def _paused_turn(worker: Worker) -> Turn:
    """What a test suite does that starts a container for each test. Who is slow has no such turns, to him
    it is all one."""
    slow = False

    def turn() -> list[float]:
        nonlocal slow
        if slow:
            return []
        figures = [ns / _NS_PER_MS for ns in worker.ask("start", times=8, pause=_PAUSE)]
        slow = min(figures) >= _SLOW_MS
        return [] if slow else figures

    return turn


def _baseline(results: dict[str, Result], name: str, root: str) -> Result | None:
    return results.get(name if root == "busybox" else f"{name}, {root}")


def _paused_baseline(results: dict[str, Result], name: str, root: str) -> Result | None:
    return results.get(_paused(name if root == "busybox" else f"{name}, {root}"))


def _row(entry: Entry, results: dict[str, Result]) -> tuple[str, ...]:
    result, root = results[entry.label], entry.root.name
    if result.summary is None:
        why = f"not available: {result.unavailable}"
        return (entry.competitor, root, *[""] * (len(_HEADINGS) + len(_PAUSED_HEADINGS) - 3), why)
    return (
        entry.competitor,
        root,
        *_cells(result, *(_baseline(results, name, root) for name in _BASELINES)),
        *_cells(
            results[_paused(entry.label)], *(_paused_baseline(results, name, root) for name in _BASELINES)
        ),
        competitor_class(entry.competitor).does,
    )


_BASELINES = ("floor", "bubblewrap")


def _cells(result: Result, *baselines: Result | None) -> tuple[str, ...]:
    summary = result.summary
    if summary is None:
        return ("",) * (3 + len(baselines))
    figures = (summary.median, summary.p10, summary.p90, *map(result.ratio, baselines))
    return tuple(map(number, figures))


def _targets(root: str, results: dict[str, Result]) -> list[Target]:
    targets = []
    for when, baseline in (("in a row", _baseline), ("after a pause", _paused_baseline)):
        ours = baseline(results, "pycontainer", root) or Result(unavailable="not measured")
        targets += [
            Target(
                f"at most {limit} x {name} on the {root} root, {when}",
                limit,
                ours.ratio(baseline(results, name, root)),
            )
            for name, limit in (("floor", 1.3), ("bubblewrap", 0.5))
        ]
    return targets
