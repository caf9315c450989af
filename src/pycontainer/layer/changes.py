"""What a container's writable layer changes in the layers below it (changes.h)."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from typing import Literal, cast

from pycontainer.layer.diff import Piped
from pycontainer.supervisor import files, plan
from pycontainer.supervisor.plan import Ops

Finding = Literal["A", "a", "M", "D", "C", "T", "="]
"""enum pctr_change (changes.h)."""


def of_upper(
    upper: str, mounts: Callable[[Ops], None], fds: Sequence[int] = ()
) -> Generator[tuple[Finding, str], None, None]:
    """What is in the upper directory `upper`, with paths below it and directories before what is in them.

    `mounts` makes what is below it the root, in a mount namespace of its own; its descriptors `fds` are
    numbered from 1 on. Raises
    ImageError naming what cannot be read, InvalidImage for a path that is too long, and LaunchError.
    """
    ops = Ops(plan.Data())
    mounts(ops)
    ops.write_changes(0, upper, flags=files.changes_flags())
    rest = b""
    for piece in Piped(ops, fds, upper).pieces():
        *whole, rest = (rest + piece).split(b"\0")
        for record in whole:
            yield cast(Finding, chr(record[0])), os.fsdecode(record[1:])
