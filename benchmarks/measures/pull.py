"""Pulling a Debian root from a registry on loopback: into a store without it, and again."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import attrs

from benchmarks.debian import Layers, cache_directory, debian_layers
from benchmarks.harness import Result, Table, Target, Turn, Unavailable, summaries
from benchmarks.harness import measure as measure_rounds
from benchmarks.measures.context import Context
from benchmarks.measures.stages import STAGES, Blob
from benchmarks.measures.transfers import able, registry_in, row
from benchmarks.registry import Registry
from benchmarks.workers import Entry, Field, Worker, field_of

_NS_PER_MS = 1e6
_MIB = 1 << 20
_COUNTS = (1, 20)
_AGAIN = "again, unchanged"
_FLOOR = "floor"
_WATCHED = "watched"
_WATCHED_PULLS = 5
_MISSING = Result(unavailable="not measured")


def measure(context: Context) -> Table:
    images = debian_layers(cache_directory(), _COUNTS)
    competitors = able(context)
    ours = Entry("pycontainer", context.first_root, "pycontainer")
    others = [Entry(ours.competitor, ours.root, label) for label in (_FLOOR, _WATCHED)]
    with registry_in(context.place) as registry:
        references = {image.name: registry.put_image(_repository(image), image) for image in images}
        blobs = {image.name: _blobs(registry, image) for image in images}
        with field_of([*competitors, *others], context.place, disks=True) as field:
            context.versions.update(field.versions)
            context.progress(f"pull: {len(field.ready)} competitors ready")
            results = _times(context, field, references, blobs)
            watched = _watch(field, references)
    results.update(
        {
            _label(entry.label, what): Result(unavailable=field.unavailable[entry.label])
            for entry in competitors
            for what in (*references, _AGAIN)
            if entry.label in field.unavailable
        }
    )
    floors = {name: _floor(name, results) for name in references}
    return Table(
        name="pull",
        title="Pull of a Debian root (170 MB, 60 MB compressed) from a registry on loopback, milliseconds",
        headings=("", "median", "p10", "p90", "n", "x podman", "x docker", "x floor", "remark"),
        rows=_rows(results, floors, watched),
        targets=_targets(results, floors, watched),
        data={"unit": "ms", "results": summaries(results), "watched": watched},
    )


def _label(who: str, what: str) -> str:
    return f"{who}, {what}"


def _repository(image: Layers) -> str:
    return f"bench/debian-{len(image.layers)}"


def _blobs(registry: Registry, image: Layers) -> list[Blob]:
    return [
        Blob(str(layer.tar), str(layer.gz), registry.host, registry.blob_path(_repository(image), layer))
        for layer in image.layers
    ]


def _times(
    context: Context, field: Field, references: dict[str, str], blobs: dict[str, list[Blob]]
) -> dict[str, Result]:
    """All the same images, one after the other: a competitor has one of them at a time."""
    results: dict[str, Result] = {}
    first = next(iter(references))
    for image, reference in references.items():
        pullers = {label: w for label, w in field.ready.items() if label not in (_FLOOR, _WATCHED)}
        turns: dict[str, Turn] = {
            _label(label, image): partial(_pull, worker, reference, again=False)
            for label, worker in pullers.items()
        }
        if _FLOOR in field.ready:
            stage = partial(_stage, field.ready[_FLOOR], blobs[image])
            turns |= {_label(name, image): partial(stage, name) for name in STAGES}
        results.update(measure_rounds(turns, rounds=3 if context.quick else 9))
        if image == first:
            again: dict[str, Turn] = {
                _label(label, _AGAIN): partial(_pull, worker, reference, again=True)
                for label, worker in pullers.items()
            }
            results.update(measure_rounds(again, rounds=5 if context.quick else 20))
        for worker in pullers.values():
            worker.ask("forget", reference=reference)
    return results


def _pull(worker: Worker, reference: str, *, again: bool) -> list[float]:
    return [ns / _NS_PER_MS for ns in worker.ask("pull", reference=reference, again=again)]


def _stage(worker: Worker, blobs: list[Blob], name: str) -> list[float]:
    fields = [list(attrs.astuple(blob)) for blob in blobs]
    return [ns / _NS_PER_MS for ns in worker.ask("stage", name=name, blobs=fields)]


def _watch(field: Field, references: dict[str, str]) -> dict[str, Any]:
    """What pulls do to their process, the first one (which imports what it needs) included. Nothing where
    there are none."""
    worker = field.ready.get(_WATCHED)
    found: dict[str, Any] = {}
    if worker is None:
        return found
    for name, reference in references.items():
        pulls = []
        for _ in range(_WATCHED_PULLS):
            try:
                pulls.append(worker.ask("watched_pull", reference=reference))
                worker.ask("forget", reference=reference)
            except Unavailable:
                return found
        found[name] = pulls
    return found


def _share(image: str, results: dict[str, Result]) -> Result:
    """What all stages take together, spread evenly over the cores: less it cannot be either."""
    found = [results.get(_label(stage, image), _MISSING).summary for stage in STAGES]
    total = sum(summary.median for summary in found if summary is not None)
    return Result((total / len(os.sched_getaffinity(0)),)) if all(found) else _MISSING


def _floor(image: str, results: dict[str, Result]) -> Result:
    """The slowest of the stages."""
    found = [results.get(_label(stage, image), _MISSING) for stage in STAGES]
    known = [(result.summary.median, result) for result in found if result.summary is not None]
    return max(known, key=lambda pair: pair[0])[1] if known else _MISSING


def _rows(
    results: dict[str, Result], floors: dict[str, Result], watched: dict[str, Any]
) -> tuple[tuple[str, ...], ...]:
    rows = []
    for label, result in results.items():
        who, what = label.split(", ", 1)
        podman, docker = (results.get(_label(name, what)) for name in ("podman", "docker"))
        remark = "this stage alone" if who in STAGES else ""
        if who == "pycontainer" and what in watched:
            remark = _remark(watched[what])
        rows.append(row(label, result, [podman, docker, floors.get(what)], remark))
        if who == STAGES[-1]:
            share = _share(what, results)
            remark = "their sum, spread evenly over the cores"
            rows.append(row(_label("all stages", what), share, [podman, docker, floors.get(what)], remark))
    return tuple(rows)


def _remark(pulls: list[dict[str, Any]]) -> str:
    late, p99 = (max(pull["late_ms"][name] for pull in pulls) for name in ("max", "p99"))
    elsewhere = max(pull["elsewhere_ms"]["max"] for pull in pulls)
    return (
        f"at most {_memory(pulls):.0f} MiB more memory; a heartbeat is late by at most {late:.1f} ms "
        f"(p99 {p99:.1f}), one in a process that does nothing by {elsewhere:.1f}"
    )


def _memory(pulls: list[dict[str, Any]]) -> float:
    """MiB above what the process had ahead of the first pull, at the worst."""
    return (max(pull["peak_bytes"] for pull in pulls) - min(pull["idle_bytes"] for pull in pulls)) / _MIB


def _targets(
    results: dict[str, Result], floors: dict[str, Result], watched: dict[str, Any]
) -> tuple[Target, ...]:
    targets = []
    for image, floor in floors.items():
        ours = results.get(_label("pycontainer", image), _MISSING)
        for name, limit in (("podman", 0.35), ("docker", 0.35)):
            ratio = ours.ratio(results.get(_label(name, image)))
            targets.append(Target(f"{image}: at most {limit} x {name}", limit, ratio))
        targets.append(Target(f"{image}: at most 1.5 x the floor", 1.5, ours.ratio(floor)))
    again = results.get(_label("pycontainer", _AGAIN), _MISSING).summary
    targets.append(Target("again: at most 15 ms", 15, again.median if again else None))
    pulls = [pull for each in watched.values() for pull in each]
    memory = _memory(pulls) if pulls else None
    late = max((pull["late_ms"]["max"] for pull in pulls), default=None)
    targets.append(Target("at most 64 MiB above idle during a pull", 64, memory))
    targets.append(Target("a heartbeat is at most 20 ms late during a pull", 20, late))
    return tuple(targets)
