"""Pushing a layer of 170 MB that no registry has seen, compressed on the way."""

from __future__ import annotations

from functools import partial

from benchmarks.debian import cache_directory, debian_layers
from benchmarks.harness import Result, Table, Target, Turn, Unavailable, summaries
from benchmarks.harness import measure as measure_rounds
from benchmarks.measures.context import Context
from benchmarks.measures.transfers import able, registry_in, row
from benchmarks.registry import Registry
from benchmarks.workers import Field, Worker, field_of

_NS_PER_MS = 1e6
_REPOSITORY = "bench/fresh:latest"
# Whether making the image counts.
_WAYS = {"push alone": False, "make and push": True}
_MISSING = Result(unavailable="not measured")


def measure(context: Context) -> Table:
    (image,) = debian_layers(cache_directory(), (1,))
    competitors = able(context)
    with (
        registry_in(context.place) as registry,
        field_of(competitors, context.place, disks=True) as field,
    ):
        context.versions.update(field.versions)
        _fill(field, str(image.layers[0].tar))
        context.progress(f"push: {len(field.ready)} competitors ready")
        turns: dict[str, Turn] = {
            f"{label}, {way}": partial(_push, worker, registry, making=making)
            for label, worker in field.ready.items()
            for way, making in _WAYS.items()
        }
        results = measure_rounds(turns, rounds=3 if context.quick else 9)
    results.update(
        {
            f"{label}, {way}": Result(unavailable=why)
            for label, why in field.unavailable.items()
            for way in _WAYS
        }
    )
    whole = {name: results.get(f"{name}, make and push", _MISSING) for name in ("podman", "docker")}
    ways = [results.get(f"pycontainer, {way}", _MISSING) for way in _WAYS]
    return Table(
        name="push",
        title="Push of a fresh layer (170 MB, compressed with gzip) to a registry on loopback, milliseconds",
        headings=("", "median", "p10", "p90", "n", "x podman's whole", "x docker's whole", "remark"),
        rows=tuple(
            row(label, result, [whole["podman"], whole["docker"]], _remark(label))
            for label, result in results.items()
        ),
        targets=tuple(
            Target(f"{way}: at most 0.5 x docker's commit and push", 0.5, ours.ratio(whole["docker"]))
            for way, ours in zip(_WAYS, ways, strict=True)
        ),
        data={"unit": "ms", "results": summaries(results)},
    )


def _fill(field: Field, tar: str) -> None:
    for label, worker in list(field.ready.items()):
        try:
            worker.ask("fill", tar=tar)
        except Unavailable as reason:
            del field.ready[label]
            field.unavailable[label] = str(reason)


def _push(worker: Worker, registry: Registry, *, making: bool) -> list[float]:
    figures = worker.ask("push", reference=f"{registry.host}/{_REPOSITORY}", making=making)
    registry.empty()
    return [ns / _NS_PER_MS for ns in figures]


def _remark(label: str) -> str:
    name, way = label.split(", ")
    if way not in _WAYS or not _WAYS[way]:
        return ""
    return {"pycontainer": "Image.from_directory and Image.push"}.get(name, f"{name} commit and {name} push")
