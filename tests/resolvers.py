"""Name servers of networks, between namespaces that the tests make, and those that they ask."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import attrs

import dns_client as dns
import switches
from dns_client import A, question
from pycontainer.network.resolver import Resolver
from switches import Host, Switch

V4, V6 = socket.AF_INET, socket.AF_INET6
SECONDS = 20
LONG = f"{'x' * 63}.{'y' * 63}.{'z' * 63}.{'w' * 61}"
"""253 characters: no name is longer."""
REVERSE_6 = "1.1." + "0." * 26 + "5.0.d.f.ip6.arpa"
"""Of fd05::11."""


@attrs.define
class Net:
    switch: Switch
    resolver: Resolver

    @property
    def gateway(self) -> Host:
        return self.switch.hosts[0]

    def ask(
        self, name: str | bytes, kind: int = A, *, tcp: bool = False, to: int = V4, **how: Any
    ) -> dns.Answer:
        return dns.ask(self.switch.hosts[1], self.gateway.address(to), question(name, kind, **how), tcp=tcp)


@contextlib.contextmanager
def network(*upstream: int) -> Iterator[Net]:
    """Host 1 asks; those with these numbers are asked."""
    with switches.switch() as here:
        servers = [here.host(number) for number in upstream]
        here.host(1)
        gateway = here.hosts[0]
        made = Resolver(
            here.supervisor, here.namespace, [gateway.v4, gateway.v6], [server.v4 for server in servers]
        )
        here.stack.callback(made.close)
        yield Net(here, made)


@contextlib.contextmanager
def connected(net: Net, number: int = 1) -> Iterator[socket.socket]:
    with net.switch.hosts[number].new(V4, socket.SOCK_STREAM) as sock:
        sock.connect((net.gateway.v4, 53))
        yield sock


class Upstream:
    """A name server for tests, which takes questions in and says nothing by itself."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.udp = host.udp(53)
        self.tcp = host.new(V4, socket.SOCK_STREAM)
        self.tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.tcp.bind((host.v4, 53))
        self.tcp.listen()

    def take(self) -> tuple[bytes, Any]:
        return self.udp.recvfrom(65536)

    def hears_nothing(self) -> bool:
        self.udp.settimeout(0.1)
        with contextlib.suppress(TimeoutError):
            self.udp.recv(65536)
            return False
        self.udp.settimeout(SECONDS)
        return True

    def close(self) -> None:
        self.udp.close()
        self.tcp.close()


@contextlib.contextmanager
def outward(count: int = 1) -> Iterator[tuple[Net, list[Upstream], socket.socket]]:
    """A network that leads out to so many name servers, and a socket of host 1 that asks."""
    with network(*range(2, 2 + count)) as net:
        net.resolver.add(1, ["10.5.0.11"], ["db"])
        with contextlib.ExitStack() as stack:
            servers = [Upstream(net.switch.hosts[number]) for number in range(2, 2 + count)]
            for server in servers:
                stack.callback(server.close)
            sock = stack.enter_context(net.switch.hosts[1].udp())
            sock.connect((net.gateway.v4, 53))
            yield net, servers, sock
