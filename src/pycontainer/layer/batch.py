"""Threads that pass much data on to each other."""

from __future__ import annotations

import os
from contextlib import suppress


def work_in_batches() -> None:
    """The calling thread takes nobody's processor when it is woken (sched(7), SCHED_BATCH).

    Threads that feed each other wake each other all the time. Usually the kernel lets the woken one run at
    once, where its waker does, which then waits although another processor is idle. A policy that the host
    program chose stays.
    """
    # Where a sandbox refuses it, all is as usual.
    with suppress(OSError):
        if os.sched_getscheduler(0) == os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
