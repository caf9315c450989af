"""`Network`: containers that reach each other, by address and by name, and (unless internal) the outside.

A network is a network namespace of its own, the *switch*, in which a bridge joins the containers' links
(network_namespaces(7), veth(4)). A descriptor of this process keeps it, so nothing of it is in the host's own
namespace, and nothing can be left behind: the kernel takes it down with the process.
"""

from __future__ import annotations

import builtins
import ipaddress
import itertools
import os
import re
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import attrs

from pycontainer import known, session
from pycontainer.errors import (
    CapabilityUnavailable,
    ContainerError,
    InvalidState,
    LaunchError,
    NameInUse,
    SupervisorError,
)
from pycontainer.network import jobs, links, names, subnets
from pycontainer.network.whole import whole
from pycontainer.supervisor.plan import IGNORE
from pycontainer.units import parse_int, refuse

if TYPE_CHECKING:
    import datetime
    from types import TracebackType

    from pycontainer.container import Container
    from pycontainer.network.impairer import Impairer
    from pycontainer.network.impairment import Impairment
    from pycontainer.network.links import Address
    from pycontainer.network.resolver import Resolver
    from pycontainer.network.uplink import Uplink
    from pycontainer.supervisor.client import Supervisor
    from pycontainer.supervisor.plan import Ops
    from pycontainer.wiring import Wiring

_BRIDGE, _BRIDGE_INDEX = "br0", 2
_HOLD, _HOLD_INDEX = "br1", 3
"""A bridge that is never up: what its ports receive reaches nobody but who carries the frames."""
_IMPAIRING = 1
"""The group of the links that impairing puts in."""
_FIRST_PORT_INDEX = 100
"""Three for each port: the container's link, and the pair that impairing puts between it and the bridge."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_MIN_MTU, _MAX_MTU = 1280, 65535
_DEFAULT = "bridge"


@attrs.define(eq=False)
class Member:
    """A container's link to one network."""

    wiring: Wiring
    names: tuple[str, ...]
    addresses: tuple[Address, ...]
    number: int
    linked: bool = False
    impaired: int | None = None
    """Its number at the one who impairs."""

    @property
    def port(self) -> str:
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


class Network:
    """Made by `create`; one that every container may join with `network="bridge"` is made on demand.

    It belongs to this process and ends with it. Safe from any thread. As a context manager, leaving it
    takes it down, whoever is on it.
    """

    def __init__(
        self,
        name: str,
        four: ipaddress.IPv4Network | None,
        six: ipaddress.IPv6Network | None,
        *,
        internal: bool,
        mtu: int | None,
    ) -> None:
        """Not for users, who say `create`."""
        self.name = name
        self.internal = internal
        self.mtu = mtu
        self._owner_pid = os.getpid()
        self._lock = threading.RLock()
        self._members: dict[str, Member] = {}
        self._parted: dict[str, Member] = {}
        """Those that `disconnect` took off; what was theirs is kept for `connect`."""
        self._numbers = itertools.count(1)
        self._late: dict[Address, str] = {}
        """The links of containers that ended, by the addresses that these had."""
        self._block = ""
        self._removed = False
        self._switch = jobs.Namespace()
        self._supervisor: Supervisor | None = None
        self._uplink: Uplink | None = None
        self._resolver: Resolver | None = None
        self._impairer: Impairer | None = None
        self._impairment: Impairment | None = None
        self._names_of_ipv6 = six is not None
        ipv6 = subnets.has_ipv6()
        if six is not None and not ipv6:
            raise CapabilityUnavailable(
                f"subnet={str(six)!r}: this host has no IPv6", remedy="load the module ipv6"
            )
        self._reserved = subnets.Reserved(four, [one.subnet for one in _networks.values()])
        self._pools: list[subnets.Addresses] = [subnets.Addresses(self._reserved.subnet)]
        if ipv6:
            self._pools.append(subnets.Addresses(six or subnets.unique_local(self._reserved.subnet)))

    @staticmethod
    def create(
        name: str,
        *,
        subnet: str | Sequence[str] | None = None,
        internal: bool = False,
        mtu: int | None = None,
    ) -> Network:
        """A new network of this process.

        `subnet` is one such as "10.1.2.0/24", or one of each family; without it free ones are chosen. An
        `internal` one leads nowhere else; the others reach what this host reaches, through `pasta` or
        `slirp4netns` in user space, without a change to the host's own links, routes or rules. Names lead to
        IPv6 addresses, too, where an IPv6 subnet is given. `mtu` is bytes.

        Raises NameInUse, InvalidOption, LaunchError, and `CapabilityUnavailable` where neither of those two
        programs is there.
        """
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise refuse("name", name, "must be letters, digits and any of _.- (not in front), at most 128")
        if name in ("none", "host", _DEFAULT):
            raise refuse("name", name, f'has a meaning of its own; network="{name}" is there already')
        return _make(name, subnet=subnet, internal=internal, mtu=mtu)

    @staticmethod
    def default() -> Network:
        """The one of `network="bridge"`, made at its first use. Raises as `create`."""
        with _making:
            found = _networks.get(_DEFAULT)
            return found or _make(_DEFAULT)

    @staticmethod
    def get(name: str) -> Network:
        """This process's network of that name. Raises ContainerError where there is none."""
        found = _networks.get(name)
        if found is None:
            raise ContainerError(f"no network {name!r}")
        return found

    @staticmethod
    def list() -> builtins.list[Network]:
        """This process's networks, in the order of their making."""
        return [*_networks.values()]

    @property
    def subnet(self) -> ipaddress.IPv4Network:
        """Its IPv4 subnet."""
        return self._reserved.subnet

    @property
    def subnets(self) -> builtins.list[subnets.Subnet]:
        """Its subnets, one of each family."""
        return [pool.subnet for pool in self._pools]

    @property
    def gateway(self) -> str:
        """Its own IPv4 address: where everything goes that is not for the subnet."""
        return str(self._pools[0].gateway)

    @property
    def containers(self) -> builtins.list[Container]:
        """Those that are on it now."""
        with self._lock:
            ids = [*self._members]
        found = [known.find(one) for one in ids]
        return [container for container in found if container is not None]

    def connect(
        self,
        container: Container,
        *,
        aliases: Sequence[str] = (),
        ip_address: str | Sequence[str] | None = None,
    ) -> None:
        """Put a container on it, beside the networks that it is on already; one that was disconnected gets
        back what it had. One that does not run is put on it at its next start.

        Raises InvalidState for one that is on it, InvalidOption for one that has the host's network or
        another container's, and for an address that is not free.
        """
        from pycontainer import network_options

        self._check()
        container._connect_to(self, network_options.aliases(aliases), network_options.ip_address(ip_address))

    def disconnect(self, container: Container) -> None:
        """Cut a container off: its link is gone, what it had is kept for `connect`. Raises InvalidState for
        one that is not on it."""
        self._check()
        container._disconnect_from(self)

    def impair(
        self,
        *,
        delay: float | str | datetime.timedelta | None = None,
        jitter: float | str | datetime.timedelta | None = None,
        loss: float | None = None,
        rate: int | str | None = None,
    ) -> None:
        """Make it slow and unreliable, for all who are on it and who come; without arguments it heals.

        What a container sends is late by `delay` seconds and a random part of `jitter` seconds, and the part
        `loss` (0 to 1) of its packets never arrives; `rate` are the bytes per second that it sends, and
        receives, at most. So a round trip takes two delays. Durations and sizes may be text with units
        ("50ms", "1M"). Raises InvalidOption and LaunchError.
        """
        from pycontainer.network.impairment import Impairment

        wanted = Impairment(
            delay=0.0 if delay is None else delay,
            jitter=0.0 if jitter is None else jitter,
            loss=0.0 if loss is None else loss,
            rate=0 if rate is None else rate,
        )
        self._check()
        whole(lambda: self._impair_all(None if wanted == Impairment() else wanted))

    def remove(self, force: bool = False) -> None:
        """Take it down; twice does no harm. Raises InvalidState while containers run on it, unless with
        `force`, which cuts them off."""
        if self._owner_pid == os.getpid():
            whole(lambda: self._remove(force))

    def _remove(self, force: bool) -> None:
        with self._lock:
            if self._removed:
                return
            running = sum(member.wiring.alive for member in self._members.values())
            if running and not force:
                raise InvalidState(
                    f"remove: {self._shown()} has {running} containers on it; "
                    "stop them, or remove(force=True)"
                )
            self._removed = True
            members = [*self._members.values(), *self._parted.values()]
            for member in members:
                member.wiring.forget(self)
            self._members.clear()
            self._parted.clear()
            try:
                self._take_down()
            finally:
                self._reserved.close()
                if _networks.get(self.name) is self:
                    del _networks[self.name]
            for member in members:
                member.wiring.rewrite()

    def __enter__(self) -> Network:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.remove(force=True)

    def __repr__(self) -> str:
        state = " removed" if self._removed else f" {len(self._members)} containers"
        return f"<Network {self.name} {self.subnet}{' internal' if self.internal else ''}{state}>"

    # For the wiring of containers.

    @property
    def removed(self) -> bool:
        return self._removed

    @property
    def nameservers(self) -> Sequence[str]:
        """Who answers those who are on it about names: of each other, and of the outside."""
        return [self.gateway]

    @property
    def block(self) -> str:
        """The lines of /etc/hosts for all who are on it."""
        return self._block

    @property
    def gateways(self) -> Sequence[Address]:
        """For default routes; none where it leads nowhere."""
        return () if self.internal else [pool.gateway for pool in self._pools]

    def enroll(self, wiring: Wiring, container: str, called: Sequence[str], wanted: Sequence[str]) -> Member:
        """Gives a container its addresses here. Raises ContainerError, InvalidOption and InvalidState."""
        with self._lock:
            self._check()
            if container in self._members:
                raise InvalidState(f"connect: the container is on {self._shown()} already")
            parted = self._parted.pop(container, None)
            if parted is not None and not wanted:
                parted.names = tuple(dict.fromkeys([*parted.names, *called]))
                self._members[container] = parted
                return parted
            member = Member(
                wiring, tuple(dict.fromkeys(called)), self._addresses(wanted), next(self._numbers)
            )
            self._members[container] = member
            return member

    def _addresses(self, wanted: Sequence[str]) -> tuple[Address, ...]:
        taken = {one for each in (self._members, self._parted) for m in each.values() for one in m.addresses}
        asked = {one.version: one for one in map(ipaddress.ip_address, wanted)}
        found: list[Address] = []
        for pool in self._pools:
            own = asked.pop(pool.subnet.version, None)
            if own is not None:
                pool.check(own, taken)
            found.append(pool.find(taken) if own is None else own)
        for left in asked.values():
            raise refuse("ip_address", str(left), f"this host has no IPv{left.version}")
        return tuple(found)

    def discharge(self, container: str, *, keep: bool = False) -> None:
        """The container is not on it any more; with `keep` it may come back to what it had."""
        with self._lock:
            member = self._members.pop(container, None) or self._parted.pop(container, None)
            if member is None:
                return
            self._forget(member)
            try:
                self._spare(member)
            finally:
                if member.linked and not keep:
                    # The kernel takes it down when nobody has anything of the namespace any more.
                    self._late.update(dict.fromkeys(member.addresses, member.port))
                member.linked = False
                if keep:
                    self._parted[container] = member
        self.tell()

    def interfaces(self, member: Member) -> builtins.list[links.Interface]:
        """Its addresses with their subnets' lengths."""
        lengths = {pool.subnet.version: pool.subnet.prefixlen for pool in self._pools}
        return [ipaddress.ip_interface(f"{one}/{lengths[one.version]}") for one in member.addresses]

    def wire(self, ops: Ops, member: Member, *, switch: int, name: str, index: int, routes: bool) -> None:
        """Adds what links the network namespace of the process to it; `switch` is the index of `switch`'s
        among the descriptors."""
        made, own_at = links.veth(
            member.port,
            member.index,
            master=_BRIDGE_INDEX,
            peer=name,
            peer_index=index,
            peer_mac=_mac(member.addresses[0]),
            mtu=self.mtu,
        )
        what = f"{name} on network {self.name}"
        for late in {self._late.pop(one, "") for one in member.addresses} - {""}:
            # Two with one address would answer in turns.
            ops.netlink(links.remove(late), what, namespace=switch, flags=IGNORE)
        ops.netlink(made, what, namespace=switch, own_at=own_at)
        own = [links.up(index), *(links.address(index, one) for one in self.interfaces(member))]
        if routes:
            own += [links.default_route(index, gateway) for gateway in self.gateways]
        ops.netlink(b"".join(own), what)
        # Else the very first answer to the container may be lost, and comes a second later.
        ops.netlink(links.settle(member.index), what, namespace=switch)

    def switch(self, supervisor: Supervisor) -> jobs.Namespace:
        """Its namespace, for this supervisor's children. Raises LaunchError, and InvalidState where it was
        removed."""
        with self._lock:
            self._check()
            if self._supervisor is not supervisor:
                # That one died, and all containers with it; nobody else may enter an ordinary user's.
                self._take_down()
                self._set_up(supervisor)
            elif self._uplink is not None and self._uplink.ended:
                self._raise_uplink(supervisor)
                self._answer_names()
            elif self._resolver is None or self._resolver.ended:
                self._answer_names()
            return self._switch

    def linked(self, member: Member) -> None:
        """After `wire` was carried out. Raises InvalidState where it was removed meanwhile."""
        with self._lock:
            self._check()
            member.linked = True
            if self._impairment is not None:
                self._impair([member])
            self._introduce(member)

    def unlink(self, container: str) -> None:
        """Takes the container's link away."""
        with self._lock:
            member = self._members.get(container)
            if member is None or not member.linked:
                return
            self._forget(member)
            self._spare(member)
            member.linked = False
            self._within(lambda ops: ops.netlink(links.remove(member.port), f"a link of network {self.name}"))

    def tell(self) -> None:
        """Everybody's /etc/hosts, after somebody came or went."""
        with self._lock:
            members = [*self._members.values()]
            self._block = "".join(
                names.hosts_lines(self._named_addresses(member), member.names) for member in members
            )
            for member in members:
                member.wiring.rewrite()

    def _named_addresses(self, member: Member) -> builtins.list[str]:
        return [str(one) for one in member.addresses if one.version == 4 or self._names_of_ipv6]

    def _shown(self) -> str:
        return f"network {self.name}"

    def _check(self) -> None:
        if self._owner_pid != os.getpid():
            raise InvalidState(f"{self._shown()} belongs to process {self._owner_pid}, which forked this one")
        if self._removed:
            raise InvalidState(f"{self._shown()} was removed")

    def _set_up(self, supervisor: Supervisor) -> None:
        def make(ops: Ops) -> None:
            made = [
                links.bridge(_BRIDGE, _BRIDGE_INDEX, mac=_mac(self._pools[0].gateway), mtu=self.mtu),
                links.bridge(_HOLD, _HOLD_INDEX, mtu=self.mtu, up=False),
            ]
            for pool in self._pools:
                where = f"{pool.gateway}/{pool.subnet.prefixlen}"
                made.append(links.address(_BRIDGE_INDEX, ipaddress.ip_interface(where)))
            ops.netlink(b"".join(made), f"the bridge of network {self.name}")

        jobs.new_namespace(supervisor, make, into=self._switch)
        self._supervisor = supervisor
        try:
            self._raise_uplink(supervisor)
            self._answer_names()
        except BaseException:
            self._take_down()
            raise

    def _raise_uplink(self, supervisor: Supervisor) -> None:
        if self.internal:
            return
        from pycontainer.network.uplink import Uplink

        self._uplink = Uplink(
            supervisor,
            self._switch.fd,
            ipv4=True,
            ipv6=len(self._pools) > 1,
            mtu=self.mtu,
            avoid=self.subnets,
        )

    def _answer_names(self) -> None:
        """Has somebody answer questions about names who knows all that are linked. Raises LaunchError."""
        from pycontainer.network.resolver import Resolver

        assert self._supervisor is not None
        resolver, self._resolver = self._resolver, None
        if resolver is not None:
            resolver.close()
        gateways = [str(pool.gateway) for pool in self._pools]
        upstream = [] if self._uplink is None else [str(one) for one in self._uplink.nameservers]
        self._resolver = Resolver(self._supervisor, self._switch.fd, gateways, upstream)
        for member in self._members.values():
            if member.linked:
                self._resolver.add(member.number, self._named_addresses(member), member.names)

    def _introduce(self, member: Member) -> None:
        """Its names are answered from now on."""
        if self._resolver is None:
            return  # the network was removed meanwhile
        try:
            self._resolver.add(member.number, self._named_addresses(member), member.names)
        except SupervisorError:
            # Somebody has killed it: another one knows all of them.
            self._answer_names()

    def _forget(self, member: Member) -> None:
        if member.linked and self._resolver is not None:
            # Where nobody answers, or its introduction failed, there is nothing to forget.
            with suppress(LaunchError):
                self._resolver.remove(member.number)

    def _take_down(self) -> None:
        uplink, self._uplink = self._uplink, None
        resolver, self._resolver = self._resolver, None
        impairer, self._impairer = self._impairer, None
        for member in self._members.values():
            member.linked, member.impaired = False, None
        self._late.clear()
        # Others may be using it at this moment.
        self._switch = jobs.Namespace()
        self._supervisor = None
        for one in (resolver, uplink, impairer):
            if one is not None:
                # The supervisor's death has ended it, too.
                with suppress(SupervisorError):
                    one.close()

    def _impair_all(self, wanted: Impairment | None) -> None:
        with self._lock:
            self._check()
            self._impairment = wanted
            linked = [member for member in self._members.values() if member.linked]
            if wanted is None:
                self._heal([member for member in linked if member.impaired is not None])
            else:
                self._impair([member for member in linked if member.impaired is None])
                if self._impairer is not None:
                    self._set_impairment(self._impairer)

    def _heal(self, members: Sequence[Member]) -> None:
        """Nobody is impaired any more."""
        impairer, self._impairer = self._impairer, None
        if impairer is not None:
            # From here on nothing is carried twice.
            impairer.close()

        def heal(ops: Ops) -> None:
            made = [links.set_master(member.index, _BRIDGE_INDEX) for member in members]
            ops.netlink(b"".join(made) + links.remove_group(_IMPAIRING), f"healing network {self.name}")

        if members:
            self._within(heal)
        for member in members:
            member.impaired = None

    def _set_impairment(self, impairer: Impairer) -> None:
        wanted = self._impairment
        assert wanted is not None
        impairer.set(delay=wanted.delay, jitter=wanted.jitter, loss=wanted.loss, rate=wanted.rate)

    def _impair(self, members: Sequence[Member]) -> None:
        """Puts the impairer between their links and the bridge."""
        if not members:
            return
        impairer = self._impairer
        if impairer is None or impairer.ended:
            from pycontainer.network.impairer import Impairer

            assert self._supervisor is not None
            self._impairer = impairer = Impairer(self._supervisor, self._switch.fd)
            self._set_impairment(impairer)
            for member in self._members.values():
                if member.impaired is not None:
                    # The one before has died.
                    member.impaired = impairer.add(member.index, member.inner)

        def insert(ops: Ops) -> None:
            for member in members:
                ops.netlink(self._inserted(member), f"impairing network {self.name}")

        self._within(insert)
        for member in members:
            member.impaired = impairer.add(member.index, member.inner)

    def _inserted(self, member: Member) -> bytes:
        made, _ = links.veth(
            f"y{member.number}",
            member.outer,
            master=_BRIDGE_INDEX,
            peer=f"x{member.number}",
            peer_index=member.inner,
            peer_mac=b"",
            mtu=self.mtu,
            elsewhere=False,
            group=_IMPAIRING,
        )
        made += links.set_master(member.inner, _HOLD_INDEX) + links.up(member.inner)
        return made + links.set_master(member.index, _HOLD_INDEX)

    def _within(self, prepare: Callable[[Ops], None]) -> None:
        assert self._supervisor is not None
        jobs.within(self._supervisor, self._switch.fd, prepare)

    def _spare(self, member: Member) -> None:
        """It is impaired no more, since its link goes."""
        if member.impaired is None:
            return
        if self._impairer is not None and not self._impairer.ended:
            self._impairer.remove(member.impaired)
        member.impaired = None
        if self._supervisor is not None and not self._supervisor.closed:
            what = f"healing network {self.name}"
            self._within(lambda ops: ops.netlink(links.remove(f"y{member.number}"), what))


_making = threading.RLock()
_networks: dict[str, Network] = {}


def _make(name: str, *, subnet: Any = None, internal: bool = False, mtu: int | None = None) -> Network:
    if internal is not True and internal is not False:
        raise refuse("internal", internal, "must be True or False")
    if mtu is not None:
        mtu = parse_int(mtu, option="mtu", low=_MIN_MTU, high=_MAX_MTU)
    four, six = subnets.parse(subnet)
    with _making:
        if name in _networks:
            raise NameInUse(f"name={name!r}: this process has such a network")
        made = Network(name, four, six, internal=internal, mtu=mtu)
        try:
            made.switch(session.current().supervisor)
        except BaseException:
            made.remove(force=True)
            raise
        _networks[name] = made
        return made


def _mac(address: Address) -> bytes:
    """A locally administered one that an IPv4 address tells."""
    return b"\x02\x42" + address.packed[:4]


def _after_fork_in_child() -> None:
    """They are the parent's; what keeps them must not be kept by a child, too."""
    global _making
    _making = threading.RLock()
    for network in _networks.values():
        network._switch.close()
        network._reserved.close()
    _networks.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
