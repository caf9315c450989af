"""Who passes a layer on takes nobody's processor, unless the host program decided on a policy."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from containers import until
from host_process import children
from layer_tars import archive, entry
from pycontainer.layer import apply
from pycontainer.layer.batch import work_in_batches
from pycontainer.layer.limits import Limits
from pycontainer.supervisor import client


def policy_in_a_thread(*, before: int) -> int:
    found: list[int] = []

    def run() -> None:
        os.sched_setscheduler(0, before, os.sched_param(0))
        work_in_batches()
        found.append(os.sched_getscheduler(0))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.parametrize(
    ("before", "after"),
    [(os.SCHED_OTHER, os.SCHED_BATCH), (os.SCHED_BATCH, os.SCHED_BATCH), (os.SCHED_IDLE, os.SCHED_IDLE)],
    ids=["usual", "batch", "idle"],
)
def test_only_what_is_usual_is_changed(before: int, after: int) -> None:
    assert policy_in_a_thread(before=before) == after
    assert os.sched_getscheduler(0) == os.SCHED_OTHER, "the thread alone"


def test_both_ends_of_the_pipe(tmp_path: Path) -> None:
    go = threading.Event()

    def chunks() -> Iterator[bytes]:
        yield archive(entry(b"file", b"x"))
        go.wait(60)

    client.default()
    others = set(children(client.default().pid))
    thread = threading.Thread(target=lambda: apply.apply(chunks(), str(tmp_path), Limits()))
    thread.start()
    try:
        until(lambda: (tmp_path / "file").exists(), "the layer is being unpacked")
        policies = {pid: os.sched_getscheduler(pid) for pid in set(children(client.default().pid)) - others}
        (feeder,) = [found for found in threading.enumerate() if found.name == "pycontainer-layer"]
        assert os.SCHED_BATCH in policies.values()
        assert os.sched_getscheduler(feeder.native_id or 0) == os.SCHED_BATCH
        assert os.sched_getscheduler(client.default().pid) == os.SCHED_OTHER
    finally:
        go.set()
        thread.join()
