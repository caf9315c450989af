"""Ways into a container, each ending in what the probe (inside_probe.py) found there.

Needs pycontainer and the standard library only, so that an ordinary user's process can run it from
its text.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pycontainer as pc
from pycontainer.runtime import isolation

Report = dict[str, Any]

PYTHON = "/usr/bin/python3"


def command(probe: str) -> list[str]:
    asked = {"masked": [*isolation.masked_paths(), "/etc/hostname"], "readonly": isolation.READONLY_PATHS}
    return [PYTHON, "-I", "-c", probe, json.dumps(asked)]


def run(probe: str, **options: Any) -> Report:
    result = pc.run("host", command(probe), capture_output=True, timeout=60, **options)
    assert result.returncode == 0, result.stdout + result.stderr
    report: Report = json.loads(result.stdout)
    return report


def executed(probe: str, start: dict[str, Any], **options: Any) -> Report:
    with pc.start("host", ["sleep", "60"], **start) as container:
        result = container.exec(command(probe), capture_output=True, timeout=60, **options)
    assert result.returncode == 0, result.stdout + result.stderr
    report: Report = json.loads(result.stdout)
    return report


def opened(probe: str) -> Report:
    with pc.start("host", ["sleep", "60"]) as container:
        process = container.popen(command(probe), stdout=-1, stderr=-1)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, out + err
    report: Report = json.loads(out)
    return report


WAYS: dict[str, Callable[[str], Report]] = {
    "run": run,
    "exec": lambda probe: executed(probe, {}),
    "popen": opened,
    "init=False": lambda probe: run(probe, init=False),
    "exec, init=False": lambda probe: executed(probe, {"init": False}),
    "tty": lambda probe: run(probe, tty=True),
    "exec, tty": lambda probe: executed(probe, {}, tty=True),
    "user": lambda probe: run(probe, user="1000"),
    "exec, user": lambda probe: executed(probe, {}, user="1000"),
    "network=host": lambda probe: run(probe, network="host"),
}
