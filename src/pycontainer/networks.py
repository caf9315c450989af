"""`Network`: containers that reach each other, by address and by name, and (unless internal) the outside.

A network is a network namespace of its own, the *switch*, in which a bridge joins the containers' links
(network_namespaces(7), veth(4)). A descriptor of this process keeps it, so nothing of it is in the host's own
namespace, and nothing can be left behind: the kernel takes it down with the process.
"""

from __future__ import annotations

import builtins
import ipaddress
import os
import re
import threading
from collections.abc import Sequence
from ipaddress import ip_interface
from typing import TYPE_CHECKING, Any

import attrs

from pycontainer import known, session
from pycontainer.errors import (
    CapabilityUnavailable,
    ContainerError,
    InvalidState,
    NameInUse,
)
from pycontainer.network import names, subnets
from pycontainer.network.switch import Port, Switch
from pycontainer.network.whole import whole
from pycontainer.units import parse_int, refuse

if TYPE_CHECKING:
    import datetime
    from types import TracebackType

    from pycontainer.container import Container
    from pycontainer.network import jobs
    from pycontainer.network.impairment import Impairment
    from pycontainer.network.links import Address
    from pycontainer.supervisor.client import Supervisor
    from pycontainer.supervisor.plan import Ops
    from pycontainer.wiring import Wiring

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_MIN_MTU, _MAX_MTU = 1280, 65535
_DEFAULT = "bridge"


@attrs.frozen(eq=False)
class Member:
    """A container on one network."""

    wiring: Wiring
    port: Port

    @property
    def addresses(self) -> tuple[Address, ...]:
        return self.port.addresses


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
        self._block = ""
        self._removed = False
        self._names_of_ipv6 = six is not None
        ipv6 = subnets.has_ipv6()
        if six is not None and not ipv6:
            raise CapabilityUnavailable(
                f"subnet={str(six)!r}: this host has no IPv6", remedy="load the module ipv6"
            )
        others = [subnet for one in _networks.values() for subnet in one.subnets]
        self._reserved = subnets.Reserved(four, others)
        self._pools: list[subnets.Addresses] = [subnets.Addresses(self._reserved.subnet)]
        if ipv6:
            own = six or subnets.unique_local(self._reserved.subnet, others)
            self._pools.append(subnets.Addresses(own))
        gateways = [ip_interface(f"{pool.gateway}/{pool.subnet.prefixlen}") for pool in self._pools]
        self._switch = Switch(name, gateways, internal=internal, mtu=mtu)

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

        Raises InvalidState for one that is on it, or on another network with such addresses, InvalidOption
        for one that has the host's network or another container's, and for an address that is not free.
        """
        from pycontainer import network_options

        network_options.check_container(container)
        self._check()
        container._connect_to(self, network_options.aliases(aliases), network_options.ip_address(ip_address))

    def disconnect(self, container: Container) -> None:
        """Cut a container off: its link is gone, what it had is kept for `connect`. Its published ports and
        `Container.connect` lead to it all the same. Raises InvalidState for one that is not on it."""
        from pycontainer import network_options

        network_options.check_container(container)
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
        ("50ms", "1M"). What comes through published ports, `connect` and `listen` does not cross the network.
        Raises InvalidOption and LaunchError.
        """
        from pycontainer.network.impairment import Impairment

        wanted = Impairment(
            delay=0.0 if delay is None else delay,
            jitter=0.0 if jitter is None else jitter,
            loss=0.0 if loss is None else loss,
            rate=0 if rate is None else rate,
        )
        self._check()
        whole(lambda: self._impair(None if wanted == Impairment() else wanted))

    def _impair(self, wanted: Impairment | None) -> None:
        with self._lock:
            self._check()
            self._switch.impair(wanted)

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
                self._switch.take_down()
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
            parted = self._parted.get(container)
            had, names = ((), ()) if parted is None else (parted.addresses, parted.port.names)
            addresses = self._addresses(wanted, had)
            named = tuple([str(one) for one in addresses if one.version == 4 or self._names_of_ipv6])
            member = Member(wiring, Port(addresses, named, tuple(dict.fromkeys([*names, *called]))))
            self._parted.pop(container, None)
            self._members[container] = member
            return member

    def _addresses(self, wanted: Sequence[str], had: Sequence[Address]) -> tuple[Address, ...]:
        """One of each family: as wanted, or else the one that the container had, or any that is free."""
        taken = {one for each in (self._members, self._parted) for m in each.values() for one in m.addresses}
        taken.difference_update(had)
        asked = {one.version: one for one in [*had, *map(ipaddress.ip_address, wanted)]}
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
            if keep:
                self._parted[container] = member
            self._switch.abandon(member.port)
        self.tell()

    def wire(self, ops: Ops, member: Member, *, switch: int, name: str, index: int, routes: bool) -> None:
        """Adds what links the network namespace of the process to it; `switch` is the index of `switch`'s
        among the descriptors. With `routes` everything goes this way, where it leads out."""
        with self._lock:
            out = routes and not self.internal
            self._switch.plug(ops, member.port, switch=switch, name=name, index=index, routes=out)

    def switch(self, supervisor: Supervisor) -> jobs.Namespace:
        """Its namespace, for this supervisor's children. Raises LaunchError, and InvalidState where it was
        removed."""
        with self._lock:
            self._check()
            return self._switch.ready(supervisor)

    def linked(self, member: Member) -> None:
        """After `wire` was carried out. Raises InvalidState where it was removed meanwhile."""
        with self._lock:
            self._check()
            self._switch.plugged(member.port)

    def unlink(self, container: str) -> None:
        """Takes the container's link away."""
        with self._lock:
            member = self._members.get(container)
            if member is not None:
                self._switch.unplug(member.port)

    def tell(self) -> None:
        """Everybody's /etc/hosts, after somebody came or went."""
        with self._lock:
            members = [*self._members.values()]
            self._block = "".join(
                names.hosts_lines(member.port.named, member.port.names) for member in members
            )
            for member in members:
                member.wiring.rewrite()

    def _shown(self) -> str:
        return f"network {self.name}"

    def _check(self) -> None:
        if self._owner_pid != os.getpid():
            raise InvalidState(f"{self._shown()} belongs to process {self._owner_pid}, which forked this one")
        if self._removed:
            raise InvalidState(f"{self._shown()} was removed")


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


def _after_fork_in_child() -> None:
    """They are the parent's; what keeps them must not be kept by a child, too."""
    global _making
    _making = threading.RLock()
    for network in _networks.values():
        network._switch.namespace.close()
        network._reserved.close()
    _networks.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
