"""What a transfer tells while it runs, for displays and callbacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import attrs

from pycontainer.oci.digest import Digest

Step = Literal["waiting", "downloading", "unpacking", "uploading", "exists", "done"]


@attrs.frozen
class Progress:
    """How far one layer or config is: `done` of `total` bytes as they are transferred (`total` is None
    where nobody knows yet). `step` is "exists" where nothing had to be moved, "done" at the end."""

    digest: Digest
    step: Step
    done: int
    total: int | None


Report = Callable[[Progress], None]
"""Called from the transferring threads, one call at a time; what it raises ends the transfer."""
