"""The merged files of layers, read-only, as a directory of the host for as long as a context lasts.

As root it is a mount like any other, at a directory of its own in the store. For an ordinary user the
kernel makes no mount that others see: there a child has it in a mount namespace of its own, into which
/proc/<pid>/root leads (proc_pid_root(5)). That path works for everything that opens it as it is, other
programs of this user included; made into another one (`Path.resolve()`, realpath(3)) it leads nowhere.
"""

from __future__ import annotations

import os
import select
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pycontainer import _sys
from pycontainer.errors import SupervisorError
from pycontainer.snapshot import overlay
from pycontainer.supervisor import client, failure, plan

if TYPE_CHECKING:
    from pycontainer.store import LayeredRoot, Store
    from pycontainer.supervisor.client import Job, Supervisor

_FLAGS = overlay.MS_RDONLY | overlay.MS_NOSUID | overlay.MS_NODEV
_CLONE_NEWNS = 0x00020000


@contextmanager
def mount(store: Store, root: LayeredRoot) -> Iterator[Path]:
    """The files that a container from `root` would see. They go when the context ends, or this process.

    Raises LaunchError and StoreError. For an ordinary user: do not resolve the path (see above); files
    of other owners than root can be read as far as their modes let everybody.
    """
    supervisor = client.default()
    if supervisor.rootless:
        job = _in_a_namespace(supervisor, root.lower)
        path = f"/proc/{_pid(job, supervisor)}/root{overlay.root_at(overlay.BASE)}"
    else:
        place = store.new_mount_point()
        job = _in_the_store(supervisor, root.lower, place.path, place.target, place.fd)
        place.hand_over()
        _pid(job, supervisor)
        path = place.target
    owner = os.getpid()
    try:
        yield Path(path)
    finally:
        # A forked child that leaves the context, too, has no part in the mount.
        if os.getpid() == owner:
            _end(job, store)


def _in_the_store(
    supervisor: Supervisor, lower: Sequence[str], directory: str, target: str, lock: int
) -> Job:
    """Whoever dies first, the supervisor unmounts: it has that as the job's cleanup plan."""
    setup, after = plan.Ops(plan.Data()), plan.Ops(plan.Data())
    setup.root(directory)
    overlay.many_layers(setup, os.path.basename(target), _two(lower, target), flags=_FLAGS, userxattr=False)
    setup.stay()
    after.unmount(target)
    after.rmdir(target)
    after.rmdir(directory)
    flags = client.START["WORK"] | client.START["REPORT"] | client.START["HOLD"]
    cleanup = plan.encode(after.data, setup=after.encode())
    return supervisor.start(plan.encode(setup.data, setup=setup.encode()), cleanup, [lock], flags=flags)


def _in_a_namespace(supervisor: Supervisor, lower: Sequence[str]) -> Job:
    setup = plan.Ops(plan.Data())
    setup.unshare(_CLONE_NEWNS)
    setup.propagation(plan.MS_PRIVATE)
    overlay.scratch(setup)
    overlay.furnish(setup, overlay.BASE)
    overlay.many_layers(
        setup, "root", _two(lower, overlay.empty_at(overlay.BASE)), flags=_FLAGS, userxattr=True
    )
    setup.stay()
    flags = client.START["WORK"] | client.START["REPORT"]
    return supervisor.start(plan.encode(setup.data, setup=setup.encode()), flags=flags)


def _two(lower: Sequence[str], empty: str) -> Sequence[str]:
    """Overlay without a writable layer wants two others."""
    return lower if len(lower) > 1 else (*lower, empty)


def _pid(job: Job, supervisor: Supervisor) -> int:
    """The child that keeps the mount, once it is there. Raises LaunchError."""
    while job.started is None:
        record = job.take()
        if record is not None:
            raise failure.launch_error(record, rootless=supervisor.rootless)
        if job.started is None:
            poll = select.poll()
            poll.register(job.channel, select.POLLIN)
            _sys.poll(poll, None)
    return job.started.pid


def _end(job: Job, store: Store) -> None:
    job.end()
    try:
        job.wait()
    except SupervisorError:
        # It died, and could not unmount any more.
        store.recover()
