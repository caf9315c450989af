"""The namespace of one network and what is in it: two bridges, a port for each container, who leads out, who
answers names, and who impairs. See network_namespaces(7), veth(4).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from ipaddress import ip_interface
from typing import TYPE_CHECKING

import attrs

from pycontainer.errors import LaunchError, SupervisorError
from pycontainer.network import jobs, links
from pycontainer.supervisor.plan import IGNORE

if TYPE_CHECKING:
    from pycontainer.network.impairer import Impairer
    from pycontainer.network.impairment import Impairment
    from pycontainer.network.links import Address, Interface
    from pycontainer.network.resolver import Resolver
    from pycontainer.network.uplink import Uplink
    from pycontainer.supervisor.client import Supervisor
    from pycontainer.supervisor.plan import Ops

_BRIDGE, _BRIDGE_INDEX = "br0", 90
_HOLD, _HOLD_INDEX = "br1", 91
"""A bridge that is never up: what its ports receive reaches nobody but who carries the frames."""
_IMPAIRING = 1
"""The group of the links that impairing puts in."""
_FIRST_PORT_INDEX = 100
"""Three for each port: the container's link, and the pair that impairing puts between it and the bridge. A
new namespace may have a few links of the kernel's own, with the first indexes."""
_numbers = itertools.count(1)


@attrs.define(eq=False)
class Port:
    """Where a container's link is plugged in."""

    addresses: tuple[Address, ...]
    named: tuple[str, ...]
    """Those of the addresses that its names lead to."""
    names: tuple[str, ...]
    number: int = attrs.field(factory=lambda: next(_numbers))
    linked: bool = False
    impaired: int | None = None
    """Its number at the one who impairs."""
    shown: tuple[str, ...] = attrs.field(init=False)
    """The addresses as text, which takes its time and is asked for whenever somebody comes or goes."""

    @shown.default
    def _shown(self) -> tuple[str, ...]:
        return tuple(map(str, self.addresses))

    @property
    def link(self) -> str:
        return f"v{self.number}"

    @property
    def index(self) -> int:
        return _FIRST_PORT_INDEX + 3 * self.number

    @property
    def outer(self) -> int:
        """The pair that impairing puts in: the end at the bridge, and the other one."""
        return self.index + 1

    @property
    def inner(self) -> int:
        return self.index + 2


class Switch:
    """Not safe from several threads: its network's lock is held. Methods raise LaunchError."""

    def __init__(self, name: str, gateways: Sequence[Interface], *, internal: bool, mtu: int | None) -> None:
        """`name` is for errors; `gateways` are its own addresses, with their subnets' lengths."""
        self._name = name
        self._gateways = gateways
        self._internal = internal
        self._mtu = mtu
        self.namespace = jobs.Namespace()
        self._supervisor: Supervisor | None = None
        self._uplink: Uplink | None = None
        self._resolver: Resolver | None = None
        self._impairer: Impairer | None = None
        self._impairment: Impairment | None = None
        self._ports: dict[Port, None] = {}
        """Those that are linked."""
        self._late: dict[Address, str] = {}
        """The links of containers that ended, by the addresses that these had."""

    @property
    def fd(self) -> int:
        """The namespace's descriptor."""
        return self.namespace.fd

    def ready(self, supervisor: Supervisor) -> jobs.Namespace:
        """The namespace, for this supervisor's children, with all that belongs to it."""
        if self._supervisor is not supervisor:
            # That one died, and all containers with it; nobody else may enter an ordinary user's.
            self.take_down()
            self._set_up(supervisor)
        elif self._uplink is not None and self._uplink.ended:
            self._raise_uplink(supervisor)
            self._answer_names(supervisor)
        elif self._resolver is None or self._resolver.ended:
            self._answer_names(supervisor)
        return self.namespace

    def take_down(self) -> None:
        """The kernel removes it when nobody uses it any more. Raises nothing."""
        uplink, self._uplink = self._uplink, None
        resolver, self._resolver = self._resolver, None
        impairer, self._impairer = self._impairer, None
        for port in self._ports:
            port.linked, port.impaired = False, None
        self._ports.clear()
        self._late.clear()
        # Others may be using it at this moment.
        self.namespace = jobs.Namespace()
        self._supervisor = None
        for one in (resolver, uplink, impairer):
            if one is not None:
                # The supervisor's death has ended it, too.
                with suppress(SupervisorError):
                    one.close()

    def plug(self, ops: Ops, port: Port, *, switch: int, name: str, index: int, routes: bool) -> None:
        """Adds what links the network namespace of the process to it; `switch` is the index of this one's
        among the descriptors, `name` and `index` are the link's. With `routes` everything goes this way."""
        what = f"{name} on network {self._name}"
        made, own_at = links.veth(
            port.link,
            port.index,
            master=_BRIDGE_INDEX,
            peer=name,
            peer_index=index,
            peer_mac=_mac(port.addresses[0]),
            mtu=self._mtu,
        )
        for late in {self._late.pop(one, "") for one in port.addresses} - {""}:
            # Two with one address would answer in turns.
            ops.netlink(links.remove(late), what, namespace=switch, flags=IGNORE)
        ops.netlink(made, what, namespace=switch, own_at=own_at)
        lengths = {gateway.version: gateway.network.prefixlen for gateway in self._gateways}
        own = [links.up(index)]
        own += [links.address(index, ip_interface(f"{one}/{lengths[one.version]}")) for one in port.addresses]
        if routes:
            own += [links.default_route(index, gateway.ip) for gateway in self._gateways]
        ops.netlink(b"".join(own), what)
        # Else the very first answer to the container may be lost, and comes a second later.
        ops.netlink(links.settle(port.index), what, namespace=switch)

    def plugged(self, port: Port) -> None:
        """After that was carried out."""
        port.linked = True
        self._ports[port] = None
        if self._impairment is not None:
            self._impair([port])
        self._introduce(port)

    def unplug(self, port: Port) -> None:
        """Takes its link away."""
        if port.linked:
            self._let_go(port)
            self._within(lambda ops: ops.netlink(links.remove(port.link), f"a link of network {self._name}"))

    def abandon(self, port: Port) -> None:
        """The container has ended: the kernel takes its link away, when nobody has anything of its namespace
        any more."""
        if port.linked:
            try:
                self._let_go(port)
            finally:
                self._late.update(dict.fromkeys(port.addresses, port.link))

    def _let_go(self, port: Port) -> None:
        self._forget(port)
        try:
            self._spare(port)
        finally:
            port.linked = False
            self._ports.pop(port, None)

    def _set_up(self, supervisor: Supervisor) -> None:
        def make(ops: Ops) -> None:
            made = [
                links.bridge(_BRIDGE, _BRIDGE_INDEX, mac=_mac(self._gateways[0].ip), mtu=self._mtu),
                links.bridge(_HOLD, _HOLD_INDEX, mtu=self._mtu, up=False),
                *(links.address(_BRIDGE_INDEX, gateway) for gateway in self._gateways),
            ]
            ops.netlink(b"".join(made), f"the bridge of network {self._name}")

        jobs.new_namespace(supervisor, make, into=self.namespace)
        self._supervisor = supervisor
        try:
            self._raise_uplink(supervisor)
            self._answer_names(supervisor)
        except BaseException:
            self.take_down()
            raise

    def _within(self, prepare: Callable[[Ops], None]) -> None:
        assert self._supervisor is not None
        jobs.within(self._supervisor, self.fd, prepare)

    # The way out, and names.

    def _raise_uplink(self, supervisor: Supervisor) -> None:
        if self._internal:
            return
        from pycontainer.network.uplink import Uplink

        self._uplink = Uplink(
            supervisor,
            self.fd,
            ipv4=True,
            ipv6=len(self._gateways) > 1,
            mtu=self._mtu,
            avoid=[gateway.network for gateway in self._gateways],
        )

    def _answer_names(self, supervisor: Supervisor) -> None:
        """Has somebody answer questions about names who knows all that are linked."""
        from pycontainer.network.resolver import Resolver

        resolver, self._resolver = self._resolver, None
        if resolver is not None:
            resolver.close()
        upstream = [] if self._uplink is None else [str(one) for one in self._uplink.nameservers]
        gateways = [str(gateway.ip) for gateway in self._gateways]
        self._resolver = Resolver(supervisor, self.fd, gateways, upstream)
        for port in self._ports:
            self._resolver.add(port.number, port.named, port.names)

    def _introduce(self, port: Port) -> None:
        """Its names are answered from now on."""
        if self._resolver is None or self._supervisor is None:
            return  # it was taken down meanwhile
        try:
            self._resolver.add(port.number, port.named, port.names)
        except SupervisorError:
            # Somebody has killed it: another one knows all of them.
            self._answer_names(self._supervisor)

    def _forget(self, port: Port) -> None:
        if self._resolver is not None:
            # Where nobody answers, or its introduction failed, there is nothing to forget.
            with suppress(LaunchError):
                self._resolver.remove(port.number)

    # Impairing.

    def impair(self, wanted: Impairment | None) -> None:
        """What is to be done to the frames of everybody's, also of those who come; None: nothing."""
        self._impairment = wanted
        if wanted is None:
            self._heal([port for port in self._ports if port.impaired is not None])
        else:
            self._impair([port for port in self._ports if port.impaired is None])
            if self._impairer is not None:
                _set(self._impairer, wanted)

    def _heal(self, ports: Iterable[Port]) -> None:
        impairer, self._impairer = self._impairer, None
        if impairer is not None:
            # From here on nothing is carried twice.
            impairer.close()
        made = [links.set_master(port.index, _BRIDGE_INDEX) for port in ports]
        if made:
            what = f"healing network {self._name}"
            self._within(lambda ops: ops.netlink(b"".join(made) + links.remove_group(_IMPAIRING), what))
        for port in ports:
            port.impaired = None

    def _impair(self, ports: Sequence[Port]) -> None:
        """Puts the impairer between their links and the bridge."""
        if not ports:
            return
        impairer = self._impairer
        if impairer is None or impairer.ended:
            impairer = self._begin_impairing()

        def insert(ops: Ops) -> None:
            for port in ports:
                ops.netlink(self._inserted(port), f"impairing network {self._name}")

        self._within(insert)
        for port in ports:
            port.impaired = impairer.add(port.index, port.inner)

    def _begin_impairing(self) -> Impairer:
        from pycontainer.network.impairer import Impairer

        assert self._supervisor is not None and self._impairment is not None
        self._impairer = impairer = Impairer(self._supervisor, self.fd)
        _set(impairer, self._impairment)
        for port in self._ports:
            if port.impaired is not None:
                # The one before has died.
                port.impaired = impairer.add(port.index, port.inner)
        return impairer

    def _inserted(self, port: Port) -> bytes:
        made, _ = links.veth(
            f"y{port.number}",
            port.outer,
            master=_BRIDGE_INDEX,
            peer=f"x{port.number}",
            peer_index=port.inner,
            peer_mac=b"",
            mtu=self._mtu,
            elsewhere=False,
            group=_IMPAIRING,
        )
        made += links.set_master(port.inner, _HOLD_INDEX) + links.up(port.inner)
        return made + links.set_master(port.index, _HOLD_INDEX)

    def _spare(self, port: Port) -> None:
        """It is impaired no more, since its link goes."""
        if port.impaired is None:
            return
        if self._impairer is not None and not self._impairer.ended:
            self._impairer.remove(port.impaired)
        port.impaired = None
        if self._supervisor is not None and not self._supervisor.closed:
            what = f"healing network {self._name}"
            self._within(lambda ops: ops.netlink(links.remove(f"y{port.number}"), what))


def _set(impairer: Impairer, wanted: Impairment) -> None:
    impairer.set(delay=wanted.delay, jitter=wanted.jitter, loss=wanted.loss, rate=wanted.rate)


def _mac(address: Address) -> bytes:
    """A locally administered one that an IPv4 address tells."""
    return b"\x02\x42" + address.packed[:4]
