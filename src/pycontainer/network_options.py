"""What users may write for the options of the group *network*, and the one immutable value it becomes.

As `option_values`: one function per option, the converter of its field in `Options`.
"""

from __future__ import annotations

import ipaddress
import re
import sys
from collections.abc import Iterable, Mapping
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
    """ "none", "host", "bridge", a `Network`, or a `Container` whose namespace is shared."""
    if value in _MODES if isinstance(value, str) else _is_network(value) or _is_container(value):
        return value
    raise refuse("network", value, f"must be one of {', '.join(_MODES)}, a Network or a Container")


def _is_network(value: object) -> bool:
    # Who has one has imported its module.
    module = sys.modules.get("pycontainer.networks")
    return module is not None and isinstance(value, module.Network)


def _is_container(value: object) -> bool:
    module = sys.modules.get("pycontainer.container")
    return module is not None and isinstance(value, module.Container)


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
    if not value:
        return ()
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise refuse("ports", value, "must map the container's ports to the host's")
    if isinstance(value, tuple) and all(isinstance(one, Port) for one in value):
        return value
    pairs = value.items() if isinstance(value, Mapping) else [(one, None) for one in value]
    found: list[Port] = []
    for port, where in pairs:
        number, protocol = parse_port(port, option="ports")
        for one in where if isinstance(where, list) else [where]:
            host, host_port = _place(one, f"ports[{port!r}]")
            found.append(Port(number, protocol, host, host_port))
    return tuple(dict.fromkeys(found))


def _place(value: Any, option: str) -> tuple[str | None, int]:
    if value is None:
        return None, 0
    if isinstance(value, tuple) and len(value) == 2:
        host, port = value
        try:
            host = str(ipaddress.ip_address(host))
        except ValueError:
            raise refuse(option, value, "must begin with an address of this host") from None
        return host, 0 if port is None else parse_int(port, option=option, low=0, high=65535)
    return None, parse_int(value, option=option, low=0, high=65535)


def dns(value: Any) -> tuple[str, ...]:
    """Addresses of name servers."""
    return _addresses(value, "dns", _MAX_NAMESERVERS) if value else ()


def ip_address(value: Any) -> tuple[str, ...]:
    """The container's own: an address, or one of each family."""
    found = _addresses([value] if isinstance(value, str) else value, "ip_address", 2) if value else ()
    if len({ipaddress.ip_address(one).version for one in found}) != len(found):
        raise refuse("ip_address", value, "must be at most one address of each family")
    return found


def _addresses(value: Any, option: str, most: int) -> tuple[str, ...]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise refuse(option, value, "must be a list of addresses")
    found = []
    for one in value:
        try:
            found.append(str(ipaddress.ip_address(one if isinstance(one, str) else str(one))))
        except ValueError:
            raise refuse(option, one, "must be an IPv4 or IPv6 address") from None
    if len(found) > most:
        raise refuse(option, value, f"must be at most {most}")
    return tuple(found)


def extra_hosts(value: Any) -> tuple[tuple[str, str], ...]:
    """(name, address) from a mapping of names to an address or several; "host-gateway" is not one here."""
    if not value:
        return ()
    if isinstance(value, tuple):
        pairs = list(value)
    elif isinstance(value, Mapping):
        pairs = [
            (name, one)
            for name, where in value.items()
            for one in (where if isinstance(where, (list, tuple)) else [where])
        ]
    else:
        raise refuse("extra_hosts", value, "must map names to addresses")
    found = []
    for name, where in pairs:
        _check_name(name, "extra_hosts")
        (address,) = _addresses([where], f"extra_hosts[{name!r}]", 1)
        found.append((name, address))
    return tuple(dict.fromkeys(found))


def aliases(value: Any) -> tuple[str, ...]:
    """More names by which others on its network find it."""
    if not value:
        return ()
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise refuse("aliases", value, "must be a list of names")
    found = tuple(dict.fromkeys(value))
    for name in found:
        _check_name(name, "aliases")
    return found


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
