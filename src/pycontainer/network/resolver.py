"""The name server of a network: a child of the supervisor in the network's namespace (protocol.h, RESOLVE).

/etc/hosts says the same to those who read it; tools and libraries that ask name servers alone do not.
"""

from __future__ import annotations

import errno
import re
import struct
from collections.abc import Iterable, Sequence

from pycontainer import _sys
from pycontainer.errors import LaunchError
from pycontainer.network import addresses as addressing
from pycontainer.network.jobs import CLONE_NEWNET
from pycontainer.runtime.isolation import capability_mask
from pycontainer.supervisor import client, plan
from pycontainer.supervisor.conversation import HEAD, REPLY, Conversation

_VERB = _sys.constants("pctr_resolve_verb", "PCTR_RESOLVE_")
_FIELDS = struct.Struct("=IIII")
_MAX_ADDRESSES, _MAX_TEXT = _sys.RESOLVE_ADDRESSES, _sys.RESOLVE_TEXT
_STAGE = "answering names"
_LABEL = "[^.]{1,63}"
_NAME = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*")

if (HEAD.size + _FIELDS.size + _MAX_ADDRESSES * addressing.SIZE, REPLY.size) != (
    _sys.RESOLVE_REQUEST_SIZE,
    _sys.RESOLVE_REPLY_SIZE,
):
    raise ImportError("the compiled module was built from another protocol.h: build it again")


class Resolver(Conversation):
    """Answers in UDP and TCP, at port 53, about those who were added; has others answer all the rest.

    Every method raises `LaunchError` with the errno that the kernel gave, and `SupervisorError` where the
    child or the supervisor is gone. Safe from any thread.
    """

    def __init__(
        self,
        supervisor: client.Supervisor,
        namespace: int,
        addresses: Sequence[str],
        upstream: Sequence[str] = (),
    ) -> None:
        """In the network namespace at that descriptor, at these addresses of it. `upstream` are at most three
        name servers that can be reached from there; without one, nothing else exists. Raises `LaunchError`:
        EADDRINUSE where somebody else answers there."""

        def prepare(ops: plan.Ops, sock: int) -> None:
            ops.join_fd(0, CLONE_NEWNET)
            # It needs no other right, and speaks with everybody.
            ops.no_new_privs()
            ops.caps(capability_mask(["NET_BIND_SERVICE"]))
            ops.resolve(sock)

        super().__init__(supervisor, _STAGE, prepare, fds=[namespace])
        try:
            # Its first answer says that it is there.
            self._ask("BEGIN", addresses=addresses, servers=upstream)
        except BaseException:
            self.close()
            raise

    def add(self, id: int, addresses: Sequence[str], names: Iterable[str]) -> None:
        """From now on whoever asks for one of the names, in any case, is told these addresses, at most
        eight; several may be called the same. `id`, not 0, is for `remove`. For an address the first name is
        given. Names that cannot be asked for (RFC 1035: at most 63 characters between dots) are left out.

        EEXIST: there is such an id; ENOSPC: there are 1024, or they have 8192 names; E2BIG: too many names.
        """
        askable = [name for name in names if _NAME.fullmatch(name) and name.isascii()]
        text = "".join(f"{name}\0" for name in askable).encode("ascii")
        if len(text) > _MAX_TEXT:
            raise LaunchError(_STAGE, errno=errno.E2BIG)
        self._ask("ADD", id=id, addresses=addresses, text=text)

    def remove(self, id: int) -> None:
        """ENOENT: there is none."""
        self._ask("REMOVE", id=id)

    def _ask(
        self,
        verb: str,
        *,
        id: int = 0,
        addresses: Sequence[str] = (),
        servers: Sequence[str] = (),
        text: bytes = b"",
    ) -> None:
        every = [*addresses, *servers]
        if len(every) > _MAX_ADDRESSES:
            raise ValueError(f"at most {_MAX_ADDRESSES} addresses, not {len(every)}")
        fields = _FIELDS.pack(id, len(addresses), len(servers), len(text))
        error = self._converse(_VERB[verb], fields + addressing.packed(every, _MAX_ADDRESSES) + text)
        if error:
            raise LaunchError(_STAGE, errno=error)
