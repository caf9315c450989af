"""A container's own /etc/hosts and /etc/resolv.conf (which are kept true while it runs) and /etc/hostname."""

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
    """The contents for one container, and what changes of them while it runs."""

    def __init__(
        self,
        options: Options,
        known: Callable[[], Sequence[Network]],
        addresses: Callable[[], Sequence[str]],
        *,
        hosts_network: bool,
    ) -> None:
        """`known` gives the networks whose members it is to find by name, `addresses` its own; neither asks
        for a lock."""
        self._options = options
        self._hosts_network = hosts_network
        self._known = known
        self._addresses = addresses
        # Never held while another lock is asked for.
        self._lock = threading.Lock()
        self._hostname = ""
        self._first: dict[str, str] = {}
        self._awaited: list[str] = []
        """Those whose descriptors are still to come, in this order."""
        self._kept: dict[str, names.HostsFile] = {}
        """Those that are written anew."""
        self._ours: socket.socket | None = None
        self._theirs: socket.socket | None = None

    def contents(self, hostname: str) -> tuple[bytes, ...]:
        """What the files say at a start, in the order of `own_files`."""
        self._hostname = hostname
        wanted = own_files(self._options, hosts_network=self._hosts_network)
        self._first = {path: self._now(path) for path in wanted}
        return tuple([text.encode("ascii", "replace") for text in self._first.values()])

    def _now(self, path: str) -> str:
        if path == HOSTNAME:
            return f"{self._hostname}\n"
        if path == RESOLVER:
            return names.resolver(self._options.dns or servers(self._known()))
        extra = self._options.extra_hosts
        if self._hosts_network:
            return names.host_file(HOSTS) + "".join(
                names.hosts_lines([address], [name]) for name, address in extra
            )
        head = names.hosts_head(self._hostname, extra, self._addresses())
        return head + "".join([network.block for network in self._known()])

    def expect(self, *, resolver: bool) -> int:
        """The descriptor of a socket for that of the new container's /etc/hosts and, with `resolver`, of its
        /etc/resolv.conf, before `contents`: what changes from here on is written later. Raises
        LaunchError."""
        self._awaited = [HOSTS, RESOLVER] if resolver and not self._options.dns else [HOSTS]
        try:
            self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            raise LaunchError("preparing a start", errno=error.errno) from error
        self._ours.setblocking(False)
        return self._theirs.fileno()

    @property
    def awaited(self) -> tuple[int, ...]:
        """What that socket is for, as numbers of `own_files`."""
        return tuple([plan.OWN_FILES.index(path) for path in self._awaited])

    def asked(self) -> None:
        """The request is on its way: the supervisor has its copy of that socket."""
        if self._theirs is not None:
            self._theirs.close()
            self._theirs = None

    def rewrite(self) -> None:
        """Has /etc/hosts say who is there now, and /etc/resolv.conf who knows them; later, where the
        container is not that far yet."""
        with self._lock:
            self._take_in()
            late = self._ours is not None
            for path, file in self._kept.items():
                # A program may have filled the file system that it lies on, which is its own loss.
                with suppress(OSError):
                    file.write(self._now(path))
        if late:
            minder().after(_LATER_SECONDS, self.rewrite)

    def _take_in(self) -> None:
        try:
            while self._ours is not None and self._awaited:
                found = _sys.Held()
                _sys.receive_fd(self._ours.fileno(), found)
                path = self._awaited.pop(0)
                kind = names.ResolverFile if path == RESOLVER else names.HostsFile
                if found.fd >= 0:
                    self._kept[path] = kind(found, self._first[path])
        except BlockingIOError:
            return
        except BaseException:
            # Interrupted: nobody knows which is the next one.
            self._awaited.clear()
            raise
        if self._ours is not None:
            self._ours.close()
            self._ours = None

    def close(self) -> None:
        """The container has ended."""
        with self._lock:
            self._close()

    def after_fork(self) -> None:
        """In a child of this process, where nobody else is, but the lock may be taken."""
        self._close()

    def _close(self) -> None:
        for one in (*self._kept.values(), self._ours, self._theirs):
            if one is not None:
                one.close()
        self._kept.clear()
        self._ours = self._theirs = None
