"""Hundreds of containers alive at once: what each costs beyond its program, and what stays behind."""

from __future__ import annotations

from typing import Any

from benchmarks.harness import Table, Target, Unavailable, number
from benchmarks.measures.context import Context
from benchmarks.workers import Entry, field_of

_KIB = 1024


def measure(context: Context) -> Table:
    entry = Entry("pycontainer", context.first_root, "pycontainer")
    found: dict[str, Any] = {}
    reason = ""
    with field_of([entry], context.place) as field:
        context.versions.update(field.versions)
        reason = field.unavailable.get(entry.label, "")
        if not reason:
            try:
                found = field.ready[entry.label].ask("alive", count=50 if context.quick else 500)
            except Unavailable as error:
                reason = str(error)
    each = found["own_bytes"] / found["count"] / _KIB if found else None
    return Table(
        name="many",
        title=f"pycontainer: {found.get('count', 'many')} containers alive at once",
        headings=("", "figure", "unit"),
        rows=_rows(found) if found else (("pycontainer", "", f"not available: {reason}"),),
        targets=(
            Target("at most 300 KiB of private memory each beyond the program", 300, each),
            Target("nothing left afterwards", 0, _left(found) if found else None),
        ),
        data=found,
    )


def _left(found: dict[str, Any]) -> int:
    return sum(abs(found["after"][name] - found["before"][name]) for name in found["before"])


def _rows(found: dict[str, Any]) -> tuple[tuple[str, ...], ...]:
    count = found["count"]

    def each(name: str) -> str:
        return number(found[name] / count / _KIB, 0)

    return (
        ("private memory of our own processes, each", each("own_bytes"), "KiB"),
        ("the same with their share of shared memory, each", each("own_proportional_bytes"), "KiB"),
        ("private memory of the program itself, each", each("program_bytes"), "KiB"),
        ("growth of the host process, each", each("host_growth_bytes"), "KiB"),
        ("our own processes", str(found["own_processes"]), ""),
        ("time to start one", number(found["start_seconds"] / count * 1000), "ms"),
        ("time to end one", number(found["stop_seconds"] / count * 1000), "ms"),
        *(
            (f"{name} before and after", f"{found['before'][name]} / {found['after'][name]}", "")
            for name in found["before"]
        ),
    )
