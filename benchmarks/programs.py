"""Other programs: finding them, running them for what is measured and for what is not."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import Unavailable


def find_program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise Unavailable(f"{name} is not installed")
    return path


def output_of(command: Sequence[str], **options: Any) -> str:
    """For what is not measured: the output, or `Unavailable` with what the program said."""
    options = {"stdin": subprocess.DEVNULL, **options}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, **options)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines() or [f"status {done.returncode}"]
        raise Unavailable(f"{Path(command[0]).name}: {said[-1][:200]}")
    return str(done.stdout)


def run_quietly(command: Sequence[str], **options: Any) -> None:
    """For what is measured: the streams are this process's own, which lead to nobody."""
    status = subprocess.run(command, **options).returncode
    if status != 0:
        raise Unavailable(f"{Path(command[0]).name} ended with status {status}")
