"""Subnets for networks, and the addresses in them.

Networks are namespaces of their own, so equal subnets would not disturb each other; they are different all
the same, so that a log or a packet tells which network it is from. The reservation is an abstract Unix socket
(unix(7)): the kernel keeps it as long as the process, and no file has to be tidied up.
"""

from __future__ import annotations

import errno
import functools
import ipaddress
import itertools
import os
import socket
from collections.abc import Collection, Iterable, Iterator, Sequence

from pycontainer.errors import ContainerError, InvalidOption
from pycontainer.network.links import Address
from pycontainer.units import refuse

Subnet = ipaddress.IPv4Network | ipaddress.IPv6Network

_POOL = ipaddress.IPv4Network("10.128.0.0/9")
_LENGTH = 20
"""Room for 4,093 containers, and for 2,048 networks."""
_LENGTH_6 = 64
_NOBODYS: list[Subnet] = [
    ipaddress.ip_network(text)
    for text in ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "::/8", "fe80::/10", "ff00::/8")
]
"""This host, loopback, one link alone, multicast, reserved: RFC 6890."""


def parse(value: object) -> tuple[ipaddress.IPv4Network | None, ipaddress.IPv6Network | None]:
    """`subnet=` of `Network.create`: such as "10.1.2.0/24", or one of each family. Raises InvalidOption."""
    values = [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]
    found: dict[int, Subnet] = {}
    for one in values:
        try:
            # A number or bytes would be a single address.
            subnet = ipaddress.ip_network(str(one))
        except ValueError as error:
            raise refuse("subnet", one, f"must be a subnet such as '10.1.2.0/24': {error}") from None
        if subnet.version in found:
            raise refuse("subnet", value, f"names two IPv{subnet.version} subnets; at most one of each")
        if subnet.num_addresses < 4:
            raise refuse("subnet", one, "must have room for a gateway and containers: /30, /126 (IPv6)")
        if overlap(subnet, _NOBODYS):
            raise refuse("subnet", one, "must hold addresses of hosts, of more than one link")
        found[subnet.version] = subnet
    four, six = found.get(4), found.get(6)
    assert not isinstance(four, ipaddress.IPv6Network) and not isinstance(six, ipaddress.IPv4Network)
    return four, six


def overlap(subnet: Subnet, others: Iterable[Subnet]) -> bool:
    """Whether addresses of `subnet` are in one of the others, too."""
    return any(subnet.version == other.version and subnet.overlaps(other) for other in others)


class Reserved:
    """A subnet that no other process takes while this is open."""

    def __init__(self, four: ipaddress.IPv4Network | None, taken: Iterable[Subnet] = ()) -> None:
        """`four` as it is, or one that is free and not in `taken`. Raises ContainerError where none is."""
        self._socket: socket.socket | None = None
        self.subnet = self._take([*routed(), *taken]) if four is None else four

    def _take(self, taken: Sequence[Subnet]) -> ipaddress.IPv4Network:
        for candidate in _candidates():
            if overlap(candidate, taken):
                continue
            held = _hold(candidate)
            if held is not None:
                self._socket = held
                return candidate
        raise ContainerError(f"no free subnet in {_POOL}; give one with subnet=")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()


def _candidates() -> Iterator[ipaddress.IPv4Network]:
    """All of the pool, from a place of this process's on: who begins alike asks in vain for long."""
    count = 1 << (_LENGTH - _POOL.prefixlen)
    size = 1 << (32 - _LENGTH)
    start = int.from_bytes(os.urandom(2), "big")
    for number in range(count):
        first = int(_POOL.network_address) + (start + number) % count * size
        yield ipaddress.IPv4Network((first, _LENGTH))


def _hold(subnet: ipaddress.IPv4Network) -> socket.socket | None:
    held = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        held.bind(f"\0pycontainer/subnet/{subnet}")
    except OSError as error:
        held.close()
        if error.errno != errno.EADDRINUSE:
            raise
        return None
    return held


def routed() -> Iterator[ipaddress.IPv4Network]:
    """Where this process's own routes lead, but the default one: proc_pid_net(5), route."""
    try:
        with open("/proc/self/net/route", encoding="ascii") as routes:
            lines = routes.read().splitlines()[1:]
    except FileNotFoundError:
        return
    for line in lines:
        fields = line.split()
        # Both as the machine has them in memory, in hexadecimal.
        where, mask = (socket.ntohl(int(fields[i], 16)) for i in (1, 7))
        if mask:
            yield ipaddress.IPv4Network((where & mask, bin(mask).count("1")))


@functools.lru_cache(maxsize=1)
def _site() -> bytes:
    """This process's part of its IPv6 subnets: RFC 4193, section 3.2."""
    return b"\xfd" + os.urandom(5)


def unique_local(four: ipaddress.IPv4Network, taken: Iterable[Subnet] = ()) -> ipaddress.IPv6Network:
    """An IPv6 subnet beside an IPv4 one, where there is none in `taken`. Raises ContainerError."""
    taken = list(taken)
    first = int(four.network_address) >> (32 - _LENGTH)
    for number in range(1 << 16):
        prefix = _site() + (first + number & 0xFFFF).to_bytes(2, "big") + bytes(8)
        found = ipaddress.IPv6Network((prefix, _LENGTH_6))
        if not overlap(found, taken):
            return found
    raise ContainerError("no free IPv6 subnet; give one with subnet=")


def has_ipv6() -> bool:
    return os.path.exists("/proc/sys/net/ipv6")


class Addresses:
    """The addresses of one subnet; the first is the gateway's."""

    def __init__(self, subnet: Subnet) -> None:
        self.subnet = subnet
        self.gateway: Address = subnet[1]
        # IPv4's last one is for broadcasts.
        self._end = min(subnet.num_addresses - (1 if subnet.version == 4 else 0), 1 << 16)
        self._next = 2

    def find(self, taken: Collection[Address]) -> Address:
        """One that is free, and was not used lately: others may still know who had it. Raises
        ContainerError where none is left."""
        for number in itertools.chain(range(self._next, self._end), range(2, self._next)):
            found: Address = self.subnet[number]
            if found not in taken:
                self._next = number + 1
                return found
        raise ContainerError(f"no free address in {self.subnet}")

    def check(self, wanted: Address, taken: Collection[Address]) -> None:
        """Raises InvalidOption where it is not one for a container, or taken."""
        if wanted not in self.subnet:
            raise InvalidOption(f"ip_address={str(wanted)!r}: is not in the network's {self.subnet}")
        last = self.subnet.broadcast_address if self.subnet.version == 4 else None
        if wanted in (self.subnet.network_address, last):
            raise InvalidOption(f"ip_address={str(wanted)!r}: is no host's address in {self.subnet}")
        if wanted == self.gateway or wanted in taken:
            raise InvalidOption(f"ip_address={str(wanted)!r}: is taken in the network's {self.subnet}")
