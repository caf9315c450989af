"""Work done by children of the supervisor inside network namespaces; see namespaces(7)."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pycontainer import _sys
from pycontainer.errors import LaunchError
from pycontainer.supervisor import client, failure, plan

if TYPE_CHECKING:
    from pycontainer.supervisor.client import Job, Supervisor

CLONE_NEWNET = 0x40000000
_STAGE = "handing over a network namespace"


class Namespace(_sys.Held):
    """The descriptor of a network namespace."""

    __slots__ = ()


def work(
    supervisor: Supervisor,
    prepare: Callable[[plan.Ops], None],
    fds: Sequence[int] = (),
    *,
    target: int = 0,
) -> None:
    """Has a child carry out what `prepare` adds; it may use `fds`, from index 0 on, and join namespaces of
    the job `target`. Raises LaunchError."""
    ops = plan.Ops(plan.Data())
    prepare(ops)
    encoded = plan.encode(ops.data, setup=ops.encode())
    flags = client.START["WORK"] | (client.START["OUTSIDE"] if target else 0)
    record = supervisor.start(encoded, fds=fds, flags=flags, target=target).wait()
    assert record is not None
    if record.kind == client.RECORD["FAILED"]:
        raise failure.launch_error(record, rootless=supervisor.rootless, encoded=encoded)


def within(
    supervisor: Supervisor,
    namespace: int,
    prepare: Callable[[plan.Ops], None],
    fds: Sequence[int] = (),
) -> None:
    """The same in the network namespace of that descriptor, whose index is 0; `fds` follow it."""

    def inside(ops: plan.Ops) -> None:
        ops.join_fd(0, CLONE_NEWNET)
        prepare(ops)

    work(supervisor, inside, [namespace, *fds])


def new_namespace(
    supervisor: Supervisor,
    prepare: Callable[[plan.Ops], None],
    fds: Sequence[int] = (),
    *,
    into: Namespace | None = None,
) -> int:
    """The descriptor of a new network namespace with loopback up, in which `prepare` was carried out. It is
    there as long as somebody holds it: `into`, where that is given, else the caller. Raises LaunchError."""

    def make(ops: plan.Ops) -> None:
        ops.network()
        prepare(ops)
        ops.give(len(fds), "/proc/self/ns/net")

    return _given(supervisor, make, fds, into=into)


def _given(
    supervisor: Supervisor,
    prepare: Callable[[plan.Ops], None],
    fds: Sequence[int],
    *,
    target: int = 0,
    into: Namespace | None,
) -> int:
    """What `prepare` gives through the descriptor after `fds`."""
    try:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    except OSError as error:
        raise LaunchError(_STAGE, errno=error.errno) from error
    with ours, theirs:
        work(supervisor, prepare, [*fds, theirs.fileno()], target=target)
        theirs.close()
        try:
            found = _sys.receive_fd(ours.fileno(), into)
        except OSError as error:
            raise LaunchError(_STAGE, errno=error.errno) from error
    if found is None:
        raise LaunchError(_STAGE, errno=errno.EMFILE)
    return found


def namespace_of(job: Job, into: Namespace) -> None:
    """Puts `into` it the network namespace of a running container's program. Raises LaunchError."""
    supervisor = job.supervisor

    def look(ops: plan.Ops) -> None:
        ops.join(CLONE_NEWNET)
        ops.give(0, "/proc/self/ns/net")

    _given(supervisor, look, [], target=job.id, into=into)
