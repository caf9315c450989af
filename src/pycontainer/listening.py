"""Sockets of this process on which a container's programs find somebody listening, in its own network."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

from pycontainer.errors import PortInUse
from pycontainer.units import parse_int

if TYPE_CHECKING:
    from collections.abc import Callable

    from pycontainer.supervisor.served import Served

_EVERY_ADDRESS = ((socket.AF_INET6, "::"), (socket.AF_INET, "0.0.0.0"))
"""The first one takes IPv4 as well."""
_NO_IPV6 = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}
_BACKLOG = 128


def listen(served: Callable[[], Served], port: int, *, backlog: int = _BACKLOG) -> socket.socket:
    """A TCP socket that listens on `port` on every address, IPv4 and IPv6, of the container's network
    namespace; 0 is any free port (`getsockname()[1]` tells which).

    The container's programs, and those of others on its networks, connect to it as to a server of the
    container's own; what they ask for is accepted by this process. With `network="host"` those are the
    host's own addresses. Ports below 1024 need CAP_NET_BIND_SERVICE over that namespace, which an ordinary
    user has over namespaces of his own (user_namespaces(7)). `backlog` is that of listen(2). When the
    container ends nobody can connect any more, and the namespace stays until the socket is closed.

    Raises PortInUse, InvalidOption, and OSError as bind(2) and listen(2) do; `served` gives what works inside
    the container, and raises where that no longer runs.
    """
    number = parse_int(port, option="port", low=0, high=65535)
    length = parse_int(backlog, option="backlog", low=0, high=2**31 - 1)
    try:
        return _listen_everywhere(served(), number, length)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(f"port {number} of the container: a program listens there already") from None
        raise


def _listen_everywhere(served: Served, port: int, backlog: int) -> socket.socket:
    (family, address), (other_family, other_address) = _EVERY_ADDRESS
    try:
        return _listener(served, family, (address, port), backlog)
    except OSError as error:
        if error.errno not in _NO_IPV6:
            raise
    return _listener(served, other_family, (other_address, port), backlog)


def _listener(served: Served, family: int, address: tuple[str, int], backlog: int) -> socket.socket:
    listener = socket.socket(fileno=served.socket(family, socket.SOCK_STREAM))
    try:
        # Connections of an earlier socket that are not quite over do not keep the port.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(address)
        listener.listen(backlog)
    except BaseException:
        listener.close()
        raise
    return listener
