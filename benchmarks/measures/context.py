"""What every benchmark is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import attrs

from benchmarks.roots import Root


@attrs.define
class Context:
    """`place` is a temporary directory; `versions` collects those of the competitors that took part."""

    place: Path
    roots: Sequence[Root]
    competitors: Sequence[str]
    quick: bool
    progress: Callable[[str], None]
    versions: dict[str, str] = attrs.field(factory=dict)

    @property
    def first_root(self) -> Root:
        return self.roots[0]
