"""Work done by children of the supervisor inside network namespaces; see namespaces(7)."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pycontainer import _sys
from pycontainer.errors import LaunchError
from pycontainer.supervisor import client, failure, plan

if TYPE_CHECKING:
    from pycontainer.supervisor.client import Supervisor

CLONE_NEWNET = 0x40000000


def work(
    supervisor: Supervisor, prepare: Callable[[plan.Ops], None], fds: Sequence[int] = ()
) -> None:
    """Has a child carry out what `prepare` adds; it may use `fds`, from index 0 on. Raises LaunchError."""
    ops = plan.Ops(plan.Data())
    prepare(ops)
    encoded = plan.encode(ops.data, setup=ops.encode())
    record = supervisor.work(encoded, fds)
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
    supervisor: Supervisor, prepare: Callable[[plan.Ops], None], fds: Sequence[int] = ()
) -> int:
    """The descriptor of a new network namespace with loopback up, in which `prepare` was carried out. It is
    there as long as somebody holds it. Raises LaunchError."""
    try:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    except OSError as error:
        raise LaunchError("creating network namespace", errno=error.errno) from error

    def make(ops: plan.Ops) -> None:
        ops.network()
        prepare(ops)
        ops.give(len(fds), "/proc/self/ns/net")

    with ours, theirs:
        work(supervisor, make, [*fds, theirs.fileno()])
        theirs.close()
        try:
            found = _sys.receive_fd(ours.fileno())
        except OSError as error:
            raise LaunchError("creating network namespace", errno=error.errno) from error
    if found is None:
        raise LaunchError("creating network namespace", errno=errno.EMFILE)
    return found


def close(descriptor: int) -> int:
    """Closes one that may be -1; gives -1."""
    if descriptor >= 0:
        os.close(descriptor)
    return -1
