"""A child of the supervisor that carries a network's frames, as badly as it is told (protocol.h, IMPAIR).

A port is two links of the network's namespace. Whatever comes in by one is sent out by the other, so for the
network the child is a cable; nobody else may forward between the two, or take in what arrives there.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import math
import struct
from typing import SupportsIndex

from pycontainer import _sys
from pycontainer.errors import LaunchError
from pycontainer.network.impairment import Impairment
from pycontainer.network.jobs import CLONE_NEWNET
from pycontainer.supervisor import client, plan
from pycontainer.supervisor.conversation import HEAD, REPLY, Conversation

_VERB = _sys.constants("pctr_impair_verb", "PCTR_IMPAIR_")
_FIELDS = struct.Struct("=IiiIQQQ")
_MOST = 0xFFFFFFFF
_ALL = 0
"""No port's id."""
_STAGE = "impairing the network"

if (HEAD.size + _FIELDS.size, REPLY.size) != (_sys.IMPAIR_REQUEST_SIZE, _sys.IMPAIR_REPLY_SIZE):
    raise ImportError("the compiled module was built from another protocol.h: build it again")


class Impairer(Conversation):
    """One such child, for all ports of a network; ends with `close`, or with this process.

    Every method raises `LaunchError` with the errno that the kernel gave, and `SupervisorError` where the
    child or the supervisor is gone. Safe from any thread.
    """

    def __init__(self, supervisor: client.Supervisor, namespace: int) -> None:
        """`namespace` is a descriptor of the network namespace. Raises `LaunchError`."""
        self._ids = itertools.count(1)

        def prepare(ops: plan.Ops, sock: int) -> None:
            ops.join_fd(0, CLONE_NEWNET)
            ops.impair(sock)

        super().__init__(supervisor, _STAGE, prepare, fds=[namespace])
        try:
            # Its first answer says that it is there.
            self.set()
        except BaseException:
            self.close()
            raise

    def add(self, a: int, b: int) -> int:
        """Begins to carry between the links with these indexes; gives the port's id.

        Late or lost is what comes in by `a`; the rate holds both ways. It is impaired as the last `set` for
        all has said. ENODEV: there is no such link; ENOSPC: there are 1024 ports.
        """
        id = next(self._ids)
        try:
            self._ask("ADD", id=id, links=(a, b))
        except LaunchError:
            raise
        except BaseException:
            with contextlib.suppress(LaunchError):  # it was not there yet
                self.remove(id)
            raise
        return id

    def set(
        self,
        *,
        delay: float | str | datetime.timedelta = 0,
        jitter: float | str | datetime.timedelta = 0,
        loss: float = 0,
        rate: SupportsIndex | str = 0,
        id: int | None = None,
    ) -> None:
        """How frames are carried from now on, also those that wait, by one port or by all, those included
        that will be added. What is not named is not impaired. See `Impairment`; raises `InvalidOption`."""
        how = Impairment(delay=delay, jitter=jitter, loss=loss, rate=rate)
        self._ask("SET", id=_ALL if id is None else id, how=how)

    def remove(self, id: int) -> None:
        """Carries nothing more for that port; what waits there is lost. ENOENT: there is none."""
        self._ask("REMOVE", id=id)

    def _ask(
        self, verb: str, *, id: int, links: tuple[int, int] = (0, 0), how: Impairment | None = None
    ) -> None:
        how = how or Impairment()
        fields = (
            id,
            *links,
            _of_all(how.loss),
            _nanoseconds(how.delay),
            _nanoseconds(how.jitter),
            how.rate,
        )
        error = self._converse(_VERB[verb], _FIELDS.pack(*fields))
        if error:
            raise LaunchError(_STAGE, errno=error)


def _of_all(fraction: float) -> int:
    """In units of the request. What is more than nothing stays more than nothing."""
    return math.ceil(fraction * _MOST)


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
