"""A container's own /etc/hosts (which is kept true while it runs), /etc/hostname and /etc/resolv.conf."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from pycontainer import _sys
from pycontainer.errors import LaunchError
from pycontainer.minding import minder
from pycontainer.network import names
from pycontainer.runtime import plan

if TYPE_CHECKING:
    from pycontainer.networks import Network
    from pycontainer.options import Options

HOSTS, HOSTNAME, RESOLVER = plan.OWN_FILES
_LATER_SECONDS = 0.01


def own_files(options: Options, *, hosts_network: bool) -> tuple[str, ...]:
    """Those of plan.OWN_FILES that a container has of its own. With the host's network its names count."""
    if not hosts_network:
        return plan.OWN_FILES
    return (
        *([HOSTS] if options.extra_hosts else []),
        HOSTNAME,
        *([RESOLVER] if options.dns else []),
    )


def servers(networks: Sequence[Network]) -> list[str]:
    """The name servers of a container on these networks: their own, each of which knows those who are on its
    network, and no others.

    Who asks several of them takes the first one's word that there is no such name, or the fastest one's:
    those of networks that lead nowhere would say so of all names of the outside. The members of the other
    networks are found all the same, because libraries look into /etc/hosts first.
    """
    outward = [network for network in networks if not network.internal]
    return [server for network in outward or networks for server in network.nameservers]


class Files:
    """The contents for one container, and its /etc/hosts while it runs."""

    def __init__(
        self, options: Options, known: Callable[[], Sequence[Network]], *, hosts_network: bool
    ) -> None:
        """`known` gives the networks whose members it is to find by name."""
        self._options = options
        self._hosts_network = hosts_network
        self._known = known
        # Never held while another lock is asked for.
        self._lock = threading.Lock()
        self._head = ""
        self._first = ""
        self._hosts: names.HostsFile | None = None
        self._ours: socket.socket | None = None
        self._theirs: socket.socket | None = None

    def contents(self, hostname: str, addresses: Sequence[str], servers: Sequence[str]) -> tuple[bytes, ...]:
        """What the files say at a start, in the order of `own_files`. `addresses` are the container's own."""
        options = self._options
        extra = options.extra_hosts
        if self._hosts_network:
            self._head = names.host_file(HOSTS) + "".join(
                names.hosts_lines([address], [name]) for name, address in extra
            )
        else:
            self._head = names.hosts_head(hostname, extra, addresses)
        self._first = self._head + self._members()
        texts = {
            HOSTS: self._first,
            HOSTNAME: f"{hostname}\n",
            RESOLVER: names.resolver(options.dns or servers),
        }
        wanted = own_files(options, hosts_network=self._hosts_network)
        return tuple([texts[path].encode("ascii", "replace") for path in wanted])

    def _members(self) -> str:
        return "".join([network.block for network in self._known()])

    def expect(self) -> int:
        """The descriptor of a socket for that of the new container's /etc/hosts, before `contents`: what
        changes from here on is written later. Raises LaunchError."""
        try:
            self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            raise LaunchError("preparing a start", errno=error.errno) from error
        self._ours.setblocking(False)
        return self._theirs.fileno()

    def asked(self) -> None:
        """The request is on its way: the supervisor has its copy of that socket."""
        if self._theirs is not None:
            self._theirs.close()
            self._theirs = None

    def rewrite(self) -> None:
        """Has /etc/hosts say who is there now; later, where the container is not that far yet."""
        with self._lock:
            self._take_in()
            late = self._ours is not None
            if self._hosts is not None:
                # A program may have filled the file system that it lies on, which is its own loss.
                with suppress(OSError):
                    self._hosts.write(self._head + self._members())
        if late:
            minder().after(_LATER_SECONDS, self.rewrite)

    def _take_in(self) -> None:
        if self._ours is not None:
            found = _sys.Held()
            try:
                _sys.receive_fd(self._ours.fileno(), found)
            except BlockingIOError:
                return
            self._ours.close()
            self._ours = None
            self._hosts = None if found.fd < 0 else names.HostsFile(found, self._first)

    def close(self) -> None:
        """The container has ended."""
        with self._lock:
            self._close()

    def after_fork(self) -> None:
        """In a child of this process, where nobody else is, but the lock may be taken."""
        self._close()

    def _close(self) -> None:
        for one in (self._hosts, self._ours, self._theirs):
            if one is not None:
                one.close()
        self._hosts = self._ours = self._theirs = None
