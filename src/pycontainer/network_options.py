"""What users may write for the options of the group *network*, and the one immutable value it becomes.

As `option_values`: one function per option, the converter of its field in `Options`.
"""

from __future__ import annotations

import ipaddress
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

import attrs

from pycontainer.units import parse_int, refuse

if TYPE_CHECKING:
    from pycontainer.container import Container
    from pycontainer.networks import Network

Protocol = Literal["tcp", "udp"]
_MODES = ("none", "host", "bridge")
_PORT = re.compile(r"([0-9]{1,5})(?:/(tcp|udp))?", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?")
_SCOPED = re.compile(r"[^%]+(?:%[A-Za-z0-9_.-]{1,15})?")
"""An address, with a link's name where that is needed (RFC 4007); `ipaddress` lets anything be one."""
_MAX_NAMESERVERS = 3
"""MAXNS of resolv.conf(5): more are not asked."""


@attrs.frozen
class Port:
    """A port of the container that the host has, too."""

    number: int
    protocol: Protocol
    host: str | None
    """The host's address; None for its loopback's, IPv4 and IPv6."""
    host_port: int
    """0 for any that is free."""

    @property
    def shown(self) -> str:
        return f"{self.number}/{self.protocol}"


def network(value: Any) -> Any:
    """ "none", "host", "bridge", a `Network` or its name, or a `Container` whose namespace is shared."""
    if _is_container(value) and value.options.persist:
        reason = "must not be persistent: its network is its keeper's, another process; publish its ports"
        raise refuse("network", value, reason)
    if value in _MODES if isinstance(value, str) else _is_network(value) or _is_container(value):
        return value
    found = _called(value)
    if found is not None:
        return found
    allowed = f"must be one of {', '.join(_MODES)}, a Network of this process or its name, or a Container"
    raise refuse("network", value, allowed)


def _called(name: object) -> Network | None:
    # Who has made one has imported its module.
    module = sys.modules.get("pycontainer.networks")
    networks: list[Network] = [] if module is None else module.Network.list()
    return next((network for network in networks if network.name == name), None)


def check_container(value: object) -> None:
    """Raises InvalidOption for what is none."""
    if not _is_container(value):
        raise refuse("container", value, "must be a Container")


def _is_network(value: object) -> bool:
    return _is_a(value, "networks", "Network")


def _is_container(value: object) -> bool:
    return _is_a(value, "container", "Container")


def _is_a(value: object, module: str, name: str) -> bool:
    # Who has one has imported its module; another thread may be importing it right now.
    kind = getattr(sys.modules.get(f"pycontainer.{module}"), name, None)
    return kind is not None and isinstance(value, kind)


def lender(value: Any) -> Container | None:
    """The container whose namespace is shared."""
    return value if _is_container(value) else None


def chosen(value: Any) -> Network | None:
    """The network that is joined."""
    if value == "bridge":
        from pycontainer.networks import Network

        return Network.default()
    return value if _is_network(value) else None


def is_hosts(value: Any) -> bool:
    """Whether it is the host's own network, directly or as another container's."""
    while (container := lender(value)) is not None:
        value = container.options.network
    return bool(value == "host")


def parse_port(value: object, *, option: str = "port") -> tuple[int, Protocol]:
    """A container's port: a number, or text such as "53/udp". Raises InvalidOption."""
    if isinstance(value, str):
        match = _PORT.fullmatch(value)
        if match is None:
            raise refuse(option, value, "must be a port such as 80, '80/tcp' or '53/udp'")
        protocol: Protocol = "udp" if (match[2] or "tcp").lower() == "udp" else "tcp"
        return parse_int(int(match[1]), option=option, low=1, high=65535), protocol
    return parse_int(value, option=option, low=1, high=65535), "tcp"  # type: ignore[arg-type]


def ports(value: Any) -> tuple[Port, ...]:
    """From `{80: 8080, 5432: None, "53/udp": ("0.0.0.0", 53), 443: [8443, ("::1", None)]}`, or from the
    ports alone, each at any free one."""
    if value is None:
        return ()
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise refuse("ports", value, "must map the container's ports to the host's")
    if isinstance(value, tuple) and all(isinstance(one, Port) for one in value):
        return value
    pairs = value.items() if isinstance(value, Mapping) else [(one, None) for one in value]
    found: list[Port] = []
    for port, where in pairs:
        number, protocol = parse_port(port, option="ports")
        for one in _several(where, f"ports[{port!r}]"):
            host, host_port = _place(one, f"ports[{port!r}]")
            found.append(Port(number, protocol, host, host_port))
    return tuple(dict.fromkeys(found))


def _place(value: Any, option: str) -> tuple[str | None, int]:
    if value is None:
        return None, 0
    if isinstance(value, tuple) and len(value) == 2:
        host, port = value
        found = _address(host)
        if found is None:
            raise refuse(option, value, 'must be a port, or an address and a port: ("127.0.0.1", 8080)')
        return found, 0 if port is None else parse_int(port, option=option, low=0, high=65535)
    return None, parse_int(value, option=option, low=0, high=65535)


def _several(value: Any, option: str) -> list[Any]:
    """A list, as it is, or the one value."""
    if not isinstance(value, list):
        return [value]
    if not value:
        raise refuse(option, value, "must name at least one")
    return value


def dns(value: Any) -> tuple[str, ...]:
    """Addresses of name servers."""
    return () if value is None else _addresses(value, "dns", _MAX_NAMESERVERS)


def ip_address(value: Any) -> tuple[str, ...]:
    """The container's own: an address, or one of each family."""
    if value is None:
        return ()
    single = isinstance(value, (str, ipaddress.IPv4Address, ipaddress.IPv6Address))
    found = _addresses([value] if single else value, "ip_address", 2)
    if any("%" in one for one in found):
        raise refuse("ip_address", value, "must not name a link")
    if len({ipaddress.ip_address(one).version for one in found}) != len(found):
        raise refuse("ip_address", value, "must be at most one address of each family")
    return found


def _addresses(value: Any, option: str, most: int) -> tuple[str, ...]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise refuse(option, value, "must be a list of addresses")
    found = []
    for one in value:
        address = _address(one)
        if address is None:
            raise refuse(option, one, "must be an IPv4 or IPv6 address")
        found.append(address)
    if len(found) > most:
        raise refuse(option, value, f"must be at most {most}")
    return tuple(found)


def _address(value: object) -> str | None:
    """As text; None for what is none. Numbers, which `ipaddress` takes, are ports at the wrong place."""
    if isinstance(value, (ipaddress.IPv4Address, ipaddress.IPv6Address)):
        value = str(value)
    if not isinstance(value, str) or not _SCOPED.fullmatch(value):
        return None
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        return None


def extra_hosts(value: Any) -> tuple[tuple[str, str], ...]:
    """(name, address) from a mapping of names to an address or several; "host-gateway" is not one here."""
    if value is None:
        return ()
    found = []
    for name, where in _pairs(value):
        _check_name(name, "extra_hosts")
        option = f"extra_hosts[{name!r}]"
        for one in _several([*where] if isinstance(where, tuple) else where, option):
            found += [(name, address) for address in _addresses([one], option, 1)]
    return tuple(dict.fromkeys(found))


def _pairs(value: Any) -> Iterator[tuple[Any, Any]]:
    """What a mapping holds; or pairs, which is what it becomes."""
    if isinstance(value, Mapping):
        yield from value.items()
        return
    for pair in value if isinstance(value, tuple) else [None]:
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise refuse("extra_hosts", value, "must map names to addresses")
        yield pair


def aliases(value: Any) -> tuple[str, ...]:
    """More names by which others on its network find it."""
    if value is None:
        return ()
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise refuse("aliases", value, "must be a list of names")
    found = [*value]
    for name in found:
        _check_name(name, "aliases")
    return tuple(dict.fromkeys(found))


def _check_name(name: object, option: str) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise refuse(option, name, "must be a host's name: letters, digits and any of _.- within")


def check(options: Any) -> None:
    """What the options of this group say together. Raises InvalidOption."""
    mode = options.network
    on_network = mode == "bridge" or _is_network(mode)
    if options.ports and is_hosts(mode):
        raise refuse("ports", options.ports, 'with network="host" its ports are the host\'s already')
    for name in ("aliases", "ip_address"):
        if getattr(options, name) and not on_network:
            raise refuse(name, getattr(options, name), 'needs a network: network="bridge" or a Network')
