"""The life of containers beyond one start: templates, commits, questions, a thousand at once."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Mapping, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import attrs

from benchmarks.harness import Result, Table, Target, Turn, Unavailable, number, summaries
from benchmarks.harness import measure as measure_rounds
from benchmarks.measures.context import Context
from benchmarks.measures.transfers import able, row
from benchmarks.workers import Entry, Field, Worker, field_of

_NS_PER_MS = 1e6
_NS_PER_S = 1e9
_OURS = "pycontainer"
_CHANGED_FILES = 100
_CHANGED_BYTES = 1_000_000  # each
_REFERENCE = "bench/changed:latest"
_LIST = "Container.list() of half of them"
_THREADS = 4
_TIMES = 5
_MISSING = Result(unavailable="not measured")


@attrs.frozen
class Question:
    """One figure of ours: what a worker is asked for once, and then again and again (`living.Living`)."""

    label: str
    ask: str
    options: Mapping[str, Any] = attrs.field(factory=dict)
    prepare: str = ""
    preparing: Mapping[str, Any] = attrs.field(factory=dict)
    limit: float | None = None
    """Milliseconds."""
    root: str = "busybox"

    def ready(self, worker: Worker) -> Turn:
        """Prepares it. Raises `Unavailable`."""
        if self.prepare:
            worker.ask("life", what=self.prepare, **self.preparing)

        def turn() -> list[float]:
            figures = worker.ask("life", what=self.ask, times=_TIMES, **self.options)
            return [ns / _NS_PER_MS for ns in figures]

        return turn


def questions(roots: Sequence[str], small: int, large: int) -> list[Question]:
    forks = [
        Question(
            f"fork, {root}",
            *("fork", {"name": "bare"}),
            *("seal", {"name": "bare", "files": 0}),
            limit=3,
            root=root,
        )
        for root in roots
    ]
    sealed = [
        Question(
            f"fork, {files:,} files sealed",
            *("fork", {"name": str(files)}),
            *("seal", {"name": str(files), "files": files}),
        )
        for files in (small, large)
    ]
    return [
        *forks,
        *(question for question in sealed if "busybox" in roots),
        Question(f"diff, 10 changes of {large:,} files", "diff", {}, "change", {"files": large}, limit=10),
        Question("exec", "exec", {}, "hold", limit=1.5),
        Question("stats()", "stats", {}, "hold", limit=0.5),
    ]


def measure(context: Context) -> Table:
    small, large = (10, 1_000) if context.quick else (10, 100_000)
    asked = questions([root.name for root in context.roots], small, large)
    entries = [Entry(_OURS, root, root.name) for root in context.roots]
    with field_of(entries, context.place, disks=True) as field:
        context.versions.update(field.versions)
        results = _answers(context, field, asked)
        crowd = _crowd(context, field)
    results[_LIST] = _lists(crowd)
    results |= _commits(context)
    docker = results.get(_commit_by("docker"))
    return Table(
        name="life",
        title="The life of containers, milliseconds",
        headings=("", "median", "p10", "p90", "n", "x docker", "remark"),
        rows=(
            *(
                row(label, result, [docker if label.startswith("commit,") else None], digits=2)
                for label, result in results.items()
            ),
            *_crowd_rows(crowd),
        ),
        targets=(*_targets(asked, results, small, large), *_crowd_targets(crowd)),
        data={"unit": "ms", "results": summaries(results), "crowd": crowd},
    )


def _answers(context: Context, field: Field, asked: Sequence[Question]) -> dict[str, Result]:
    """Ours alone, all of them taking turns."""
    turns: dict[str, Turn] = {}
    results: dict[str, Result] = {}
    for question in asked:
        context.progress(f"life: preparing {question.label}")
        results[question.label] = _MISSING
        try:
            if question.root in field.unavailable:
                raise Unavailable(field.unavailable[question.root])
            turns[question.label] = question.ready(field.ready[question.root])
        except Unavailable as reason:
            results[question.label] = Result(unavailable=str(reason))
    return results | measure_rounds(turns, rounds=5 if context.quick else 30)


def _commits(context: Context) -> dict[str, Result]:
    """Each on a file system of its own, as with `push`; the same files in everybody's container."""
    archive = context.place / "changed.tar"
    _write_archive(archive, _CHANGED_FILES // 10 if context.quick else _CHANGED_FILES)
    chosen = able(context)
    results = {_commit_by(entry.competitor): _MISSING for entry in chosen}
    turns: dict[str, Turn] = {}
    with field_of(chosen, context.place, disks=True) as field:
        context.versions.update(field.versions)
        context.progress(f"life: {len(field.ready)} competitors commit")
        for name, worker in field.ready.items():
            try:
                worker.ask("change", tar=str(archive))
            except Unavailable as reason:
                results[_commit_by(name)] = Result(unavailable=str(reason))
                continue
            turns[_commit_by(name)] = partial(_commit, worker)
        results |= {_commit_by(name): Result(unavailable=why) for name, why in field.unavailable.items()}
        results |= measure_rounds(turns, rounds=3 if context.quick else 9)
    archive.unlink()
    return results


def _commit_by(name: str) -> str:
    return f"commit, {name}"


def _commit(worker: Worker) -> list[float]:
    return [ns / _NS_PER_MS for ns in worker.ask("commit", reference=_REFERENCE)]


def _write_archive(path: Path, files: int) -> None:
    with tarfile.open(path, "w") as archive:
        for count in range(files):
            entry = tarfile.TarInfo(f"{count % 10}/{count}")
            entry.size = _CHANGED_BYTES
            archive.addfile(entry, BytesIO(os.urandom(entry.size)))


def _crowd(context: Context, field: Field) -> dict[str, Any]:
    """A thousand containers of one process, or why there are none as "unavailable"."""
    count, listed = (50, 25) if context.quick else (1_000, 500)
    context.progress(f"life: {count} containers at once")
    try:
        if not field.ready:
            raise Unavailable(next(iter(field.unavailable.values())))
        worker = next(iter(field.ready.values()))
        found: dict[str, Any] = worker.ask("life", what="crowd", count=count, threads=_THREADS, listed=listed)
    except Unavailable as reason:
        return {"unavailable": str(reason)}
    return found


def _lists(crowd: Mapping[str, Any]) -> Result:
    if "unavailable" in crowd:
        return Result(unavailable=crowd["unavailable"])
    return Result(tuple(ns / _NS_PER_MS for ns in crowd["list"]))


def _crowd_rows(crowd: Mapping[str, Any]) -> list[tuple[str, ...]]:
    if "unavailable" in crowd:
        return []
    count, before, during = crowd["count"], crowd["before"], crowd["during"]
    names = ("descriptors", "supervisor's descriptors")
    each = ", ".join(f"{(during[name] - before[name]) / count:.1f} {name}" for name in names)

    def one(label: str, ns: int, remark: str) -> tuple[str, ...]:
        return (label, number(ns / _NS_PER_MS), "", "", "1", "", remark)

    return [
        one(f"start of {count:,}", crowd["start"], f"{_THREADS} threads; each holds {each}"),
        one(f"stop and removal of {count:,}", crowd["stop"], f"{_THREADS} threads"),
    ]


def _crowd_targets(crowd: Mapping[str, Any]) -> list[Target]:
    there = "unavailable" not in crowd
    count = crowd.get("count", 1_000)
    left = sum(abs(crowd["after"][name] - n) for name, n in crowd["before"].items()) if there else None
    return [
        Target(f"{count:,} containers alive", count, crowd.get("alive"), at_least=True),
        Target("started in at most 5 s", 5, crowd["start"] / _NS_PER_S if there else None),
        Target("stopped and removed in at most 5 s", 5, crowd["stop"] / _NS_PER_S if there else None),
        Target("nothing left of them", 0, left),
    ]


def _targets(
    asked: Sequence[Question], results: Mapping[str, Result], small: int, large: int
) -> list[Target]:
    found = [
        Target(
            f"{question.label}: at most {question.limit:g} ms",
            question.limit,
            _median(results, question.label),
        )
        for question in asked
        if question.limit is not None
    ]
    sizes = [results.get(f"fork, {files:,} files sealed", _MISSING) for files in (large, small)]
    ours, docker = (results.get(_commit_by(name), _MISSING) for name in (_OURS, "docker"))
    return [
        *found,
        Target(f"fork of {large:,} files: within 1.2 x that of {small:,}", 1.2, sizes[0].ratio(sizes[1])),
        Target(f"{_LIST}: at most 20 ms", 20, _median(results, _LIST)),
        Target("commit: at most 0.4 x docker's", 0.4, ours.ratio(docker)),
    ]


def _median(results: Mapping[str, Result], label: str) -> float | None:
    summary = results.get(label, _MISSING).summary
    return None if summary is None else summary.median
