"""A network of namespaces for tests: a switch with a bridge, and hosts with one link each.

    br0 -- y1 = x1 -- (impairer) -- v1 = eth0 of host 1
    br0 -- v2 = eth0 of host 2

`impaired` hosts are cut off until somebody carries frames between x and v. Both of these are ports of `br1`,
which is never up: so nobody but a packet socket takes in what arrives there.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_interface

import attrs

from pycontainer.network import jobs, links
from pycontainer.network.netlink import message
from pycontainer.supervisor import client, plan
from pycontainer.supervisor.served import Served

MTU = 1500
_BRIDGE, _HOLD = 10, 11
_V, _X, _Y = 100, 200, 300
ETH0 = 1000
_NEWLINK = 16
_IFF_UP = 1


def _mac(kind: int, number: int) -> bytes:
    return bytes([0x02, 0, 0, 0, kind, number])


def _down(index: int) -> bytes:
    return message(_NEWLINK, struct.pack("=BxHiII", 0, 0, index, 0, _IFF_UP))


@attrs.frozen
class Host:
    """One namespace with an address in 10.5.0.0/24 and one in fd05::/64; host 0 is the switch itself."""

    number: int
    namespace: int
    agent: Served

    @property
    def v4(self) -> str:
        return f"10.5.0.{self.number + 1}"

    @property
    def v6(self) -> str:
        return f"fd05::{self.number + 1}"

    @property
    def mac(self) -> bytes:
        return _mac(9, self.number)

    def new(self, family: int, kind: int) -> socket.socket:
        made = socket.socket(fileno=self.agent.socket(family, kind))
        made.settimeout(20)
        return made

    def udp(self, port: int = 0, *, family: int = socket.AF_INET) -> socket.socket:
        made = self.new(family, socket.SOCK_DGRAM)
        made.bind((self.address(family), port))
        return made

    def listen(self) -> socket.socket:
        made = self.new(socket.AF_INET, socket.SOCK_STREAM)
        made.bind((self.v4, 0))
        made.listen()
        return made

    def connect(self, listener: socket.socket) -> tuple[socket.socket, socket.socket]:
        """Both ends."""
        made = self.new(socket.AF_INET, socket.SOCK_STREAM)
        made.connect(listener.getsockname())
        accepted = listener.accept()[0]
        accepted.settimeout(20)
        return made, accepted

    def address(self, family: int) -> str:
        return self.v4 if family == socket.AF_INET else self.v6


@attrs.define
class Switch:
    """The switch's namespace and the hosts at its ports."""

    supervisor: client.Supervisor
    namespace: int
    stack: contextlib.ExitStack
    hosts: dict[int, Host] = attrs.field(factory=dict)

    def host(self, number: int, *, impaired: bool = False) -> Host:
        """A new one; impaired, the links of its port are those of `ends`."""

        def inside(ops: plan.Ops) -> None:
            made, at = links.veth(
                f"v{number}",
                _V + number,
                master=_HOLD if impaired else _BRIDGE,
                peer="eth0",
                peer_index=ETH0,
                peer_mac=_mac(9, number),
                mtu=MTU,
            )
            ops.netlink(made, "a link", namespace=0, own_at=at)
            if impaired:
                ops.netlink(_inner(number), "an inner link", namespace=0)
            own = [links.up(ETH0), *(links.address(ETH0, ip_interface(text)) for text in _texts(number))]
            ops.netlink(b"".join(own), "an address")

        namespace = jobs.new_namespace(self.supervisor, inside, [self.namespace])
        self.stack.callback(os.close, namespace)
        self.hosts[number] = self._host(number, namespace)
        return self.hosts[number]

    def remove(self, number: int) -> None:
        """Takes the host's link away."""
        jobs.within(
            self.supervisor, self.namespace, lambda ops: ops.netlink(links.remove(f"v{number}"), "a link")
        )

    def _host(self, number: int, namespace: int) -> Host:
        def prepare(ops: plan.Ops) -> None:
            ops.join_fd(0, jobs.CLONE_NEWNET)
            ops.root("/")

        agent = Served(self.supervisor, prepare, fds=[namespace])
        self.stack.callback(agent.close)
        return Host(number, namespace, agent)


def ends(number: int) -> tuple[int, int]:
    """The links of an impaired host's port."""
    return _V + number, _X + number


def _texts(number: int) -> tuple[str, str]:
    return f"10.5.0.{number + 1}/24", f"fd05::{number + 1}/64"


def _inner(number: int) -> bytes:
    made, _ = links.veth(
        f"x{number}",
        _X + number,
        master=_HOLD,
        peer=f"y{number}",
        peer_index=_Y + number,
        peer_mac=_mac(8, number),
        mtu=MTU,
        elsewhere=False,
    )
    return made + links.set_master(_Y + number, _BRIDGE) + links.up(_Y + number)


@contextlib.contextmanager
def switch() -> Iterator[Switch]:
    """One with a gateway, which is host 0."""
    supervisor = client.default()

    def inside(ops: plan.Ops) -> None:
        made = [
            links.bridge("br0", _BRIDGE, mac=_mac(1, 0), mtu=MTU),
            links.bridge("br1", _HOLD, mac=_mac(1, 1), mtu=MTU),
            _down(_HOLD),
            *(links.address(_BRIDGE, ip_interface(text)) for text in _texts(0)),
        ]
        ops.netlink(b"".join(made), "a bridge")

    with contextlib.ExitStack() as stack:
        namespace = jobs.new_namespace(supervisor, inside)
        stack.callback(os.close, namespace)
        here = Switch(supervisor, namespace, stack)
        here.hosts[0] = here._host(0, namespace)
        yield here
