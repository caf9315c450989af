"""Networks: what a bridge and a published port add to a start, what a port carries, 200 on one network."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from benchmarks.competitors import competitor_class
from benchmarks.harness import Result, Table, Target, Turn, Unavailable, number, summaries
from benchmarks.harness import measure as measure_rounds
from benchmarks.measures.context import Context
from benchmarks.roots import HOST
from benchmarks.streams import Plain, compile_stream
from benchmarks.workers import Entry, Field, Worker, field_of

_NS_PER_MS = 1e6
_NS_PER_S = 1e9
_GIGA = 1e9
_OURS = "pycontainer"
_ENGINES = ("podman", "docker")
_MORE_MS = 8.0
_THREADS = 4
_CROWD_SECONDS = 4.0
_MISSING = Result(unavailable="not measured")

ALONE, PUBLISHED = f"start, {_OURS}, no network", f"start, {_OURS}, bridge and port"
PORT, CONNECT = f"{_OURS}: published port", f"{_OURS}: connect()"
PROXY, VETH, LOOPBACK = "docker-proxy", "veth", "loopback"


def measure(context: Context) -> Table:
    starts = _starts(context)
    streams = _streams(context)
    crowd = _crowd(context)
    return Table(
        name="network",
        title="Networks: starts in milliseconds, streams in gigabytes per second",
        headings=("", "median", "p10", "p90", "n", "ours is x", "remark"),
        rows=(
            *(_row(label, result, _baseline_of(label, starts), "") for label, result in starts.items()),
            *(
                _row(label, result, _baseline_of(label, streams), _REMARKS[label])
                for label, result in streams.items()
            ),
            *_crowd_rows(crowd),
        ),
        targets=(*_start_targets(starts), *_stream_targets(streams), *_crowd_targets(crowd)),
        data={"starts_ms": summaries(starts), "streams": summaries(streams), "crowd": crowd},
    )


_REMARKS = {
    PORT: "from loopback into a container",
    CONNECT: "from this host's process, nothing published",
    PROXY: "from loopback through veth into a namespace",
    VETH: "from one namespace into another",
    LOOPBACK: "within one namespace",
}


def _engine(name: str) -> str:
    return f"start, {name}, bridge and port"


def _starts(context: Context) -> dict[str, Result]:
    """Until the program runs, everybody detached; ending the containers does not count."""
    chosen = [name for name in context.competitors if competitor_class(name).can_publish]
    entries = [Entry(name, context.first_root, name) for name in chosen]
    turns: dict[str, Turn] = {}
    results: dict[str, Result] = {}
    with field_of(entries, context.place, networks=_ENGINES) as field:
        context.versions.update(field.versions)
        context.progress(f"network: {len(field.ready)} competitors start containers")
        for name, worker in field.ready.items():
            if name == _OURS:
                turns[ALONE] = partial(_appear, worker, published=False, times=5)
                turns[PUBLISHED] = partial(_appear, worker, published=True, times=5)
            else:
                turns[_engine(name)] = partial(_appear, worker, published=True, times=1)
        for name, why in field.unavailable.items():
            results[PUBLISHED if name == _OURS else _engine(name)] = Result(unavailable=why)
        return measure_rounds(turns, rounds=3 if context.quick else 20) | results


def _appear(worker: Worker, *, published: bool, times: int) -> list[float]:
    return [ns / _NS_PER_MS for ns in worker.ask("appear", published=published, times=times)]


def _streams(context: Context) -> dict[str, Result]:
    """One sender and one receiver, always the same program, and between them what is measured."""
    seconds, rounds = (0.2, 2) if context.quick else (0.5, 25)
    results = {label: _MISSING for label in _REMARKS}
    try:
        program = compile_stream(context.place / "stream")
    except Unavailable as reason:
        return {label: Result(unavailable=str(reason)) for label in _REMARKS}
    turns: dict[str, Turn] = {}
    with _ours(context) as field, contextlib.ExitStack() as made:
        turns |= _our_turns(field, str(program), seconds, results)
        try:
            plain = made.enter_context(contextlib.closing(Plain(program)))
            turns |= {LOOPBACK: _rate(plain.loopback, seconds), VETH: _rate(plain.veth, seconds)}
            plain.start_proxy()
            turns[PROXY] = _rate(plain.proxy, seconds)
        except Unavailable as reason:
            results |= {
                label: Result(unavailable=str(reason))
                for label in (PROXY, VETH, LOOPBACK)
                if label not in turns
            }
        context.progress(f"network: {len(turns)} ways to send bytes")
        return results | measure_rounds(turns, rounds=rounds)


@contextlib.contextmanager
def _ours(context: Context) -> Iterator[Field]:
    entries = [Entry(_OURS, context.first_root, _OURS)] if _OURS in context.competitors else []
    with field_of(entries, context.place) as field:
        yield field


def _our_turns(field: Field, program: str, seconds: float, results: dict[str, Result]) -> dict[str, Turn]:
    try:
        if _OURS in field.unavailable:
            raise Unavailable(field.unavailable[_OURS])
        if _OURS not in field.ready:
            return {}
        worker = field.ready[_OURS]
        worker.ask("network", what="receive", program=program)
    except Unavailable as reason:
        results |= {label: Result(unavailable=str(reason)) for label in (PORT, CONNECT)}
        return {}

    def carry(way: str, seconds: float) -> float:
        return float(worker.ask("network", what="carry", way=way, seconds=seconds))

    return {PORT: _rate(partial(carry, "port"), seconds), CONNECT: _rate(partial(carry, "connect"), seconds)}


def _rate(carry: Callable[[float], float], seconds: float) -> Turn:
    return lambda: [carry(seconds) / _GIGA]


def _crowd(context: Context) -> dict[str, Any]:
    """Two hundred containers of one process, or why there are none as "unavailable"."""
    if _OURS not in context.competitors:
        return {"unavailable": "not asked for"}
    count = 20 if context.quick else 200
    context.progress(f"network: {count} containers on one network")
    # Looking names up takes a libc, which the machine's own root has.
    with field_of([Entry(_OURS, HOST, _OURS)], context.place) as field:
        try:
            if not field.ready:
                raise Unavailable(field.unavailable[_OURS])
            found: dict[str, Any] = field.ready[_OURS].ask(
                "network", what="crowd", count=count, threads=_THREADS
            )
        except Unavailable as reason:
            return {"unavailable": str(reason)}
    return found


def _row(label: str, result: Result, ratio: float | None, remark: str) -> tuple[str, ...]:
    summary = result.summary
    if summary is None:
        return (label, "", "", "", "", "", f"not available: {result.unavailable}")
    figures = (number(figure) for figure in (summary.median, summary.p10, summary.p90))
    return (label, *figures, str(summary.count), number(ratio), remark)


def _baseline_of(label: str, results: Mapping[str, Result]) -> float | None:
    """What ours is of this row's median: the published port's, or for loopback that of `connect`."""
    ours = PUBLISHED if PUBLISHED in results else CONNECT if label == LOOPBACK else PORT
    if label in (ours, CONNECT):
        return None
    return results.get(ours, _MISSING).ratio(results[label])


def _crowd_rows(crowd: Mapping[str, Any]) -> list[tuple[str, ...]]:
    if "unavailable" in crowd:
        return [("a crowd on one network", "", "", "", "", "", f"not available: {crowd['unavailable']}")]
    count = crowd["count"]

    def one(label: str, ns: int, remark: str) -> tuple[str, ...]:
        return (label, number(ns / _NS_PER_MS), "", "", "1", "", remark)

    return [
        one(f"start of {count} on one network", crowd["start"], f"{_THREADS} threads"),
        one("the same, until some had found all names", crowd["resolved"], f"{crowd['names']} names"),
        one(f"removal of {count}", crowd["stop"], f"{_THREADS} threads"),
    ]


def _start_targets(results: Mapping[str, Result]) -> list[Target]:
    ours, alone = results.get(PUBLISHED, _MISSING), results.get(ALONE, _MISSING)
    more = None
    if ours.summary is not None and alone.summary is not None:
        more = ours.summary.median - alone.summary.median
    return [
        Target(f"bridge and port: at most {_MORE_MS:g} ms more than no network", _MORE_MS, more),
        *(
            Target(f"start: at most 0.1 x {name}'s", 0.1, ours.ratio(results.get(_engine(name))))
            for name in _ENGINES
        ),
    ]


def _stream_targets(results: Mapping[str, Result]) -> list[Target]:
    def at_least(text: str, limit: float, ours: str, other: str) -> Target:
        measured = results.get(ours, _MISSING).ratio(results.get(other))
        return Target(text, limit, measured, at_least=True)

    return [
        at_least("published port: at least 0.8 x docker's userland proxy", 0.8, PORT, PROXY),
        at_least("published port: at least 0.5 x veth", 0.5, PORT, VETH),
        at_least("connect(): what loopback carries, within a tenth", 0.9, CONNECT, LOOPBACK),
    ]


def _crowd_targets(crowd: Mapping[str, Any]) -> list[Target]:
    there = "unavailable" not in crowd
    count = crowd.get("count", 200)
    seconds = crowd["resolved"] / _NS_PER_S if there else None
    # The supervisor's pool of ready namespaces may hold fewer than before.
    left = sum(max(0, crowd["after"][name] - n) for name, n in crowd["before"].items()) if there else None
    return [
        Target(f"{count} names found by each that looked", count, crowd.get("names"), at_least=True),
        Target(f"{count} on one network, names found: at most 4 s", _CROWD_SECONDS, seconds),
        Target("nothing left of them", 0, left),
    ]
