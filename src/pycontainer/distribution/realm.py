"""Where tokens are fetched: the realm of a Bearer challenge, which a hostile registry may have written."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Mapping
from urllib.parse import SplitResult, unquote, urlsplit

import attrs

from pycontainer.errors import AuthError
from pycontainer.oci._document import shorten

MAX_URL = 2048
MAX_SERVICE = 512


@attrs.frozen
class Realm:
    """A token server that may see the registry's credentials; `host` is for messages."""

    url: str = attrs.field(repr=False)
    service: str | None
    host: str

    @classmethod
    def parse(cls, parameters: Mapping[str, str], registry: str, trusted: Callable[[str], bool]) -> Realm:
        """The realm of a challenge by `registry`, AuthError where it is malformed or must not be asked.

        Any host is good over https: docker.io's is auth.docker.io. Plain HTTP only where `trusted`.
        Never an address that is reachable from this machine alone, such as a cloud's metadata service.
        """
        text, service = parameters.get("realm", ""), parameters.get("service")
        parts = _split(text)
        if parts is None or parts.hostname is None:
            raise AuthError(f"{registry}: the realm {shorten(text)} is not an http or https address")
        host = _host(parts, parts.hostname)
        if service is not None and len(service) > MAX_SERVICE:
            raise AuthError(f"{registry}: a service name of {len(service)} characters")
        if "scope" in unquote(parts.query).lower():
            # It would be joined with ours, and ask for what we do not.
            raise AuthError(f"{registry}: the realm at {host} brings a scope of its own")
        if parts.scheme == "http" and not trusted(host):
            raise AuthError(
                f"{registry}: the realm at {host} is plain HTTP; credentials go to other hosts by https only"
            )
        if _is_local_link(parts.hostname) and parts.hostname != _name(registry):
            raise AuthError(f"{registry}: the realm {shorten(host)} is not an address of a token server")
        return cls(parts._replace(fragment="").geturl(), service, host)


def _split(text: str) -> SplitResult | None:
    # Before any parser sees it: some drop white space, some take a backslash for a slash.
    if len(text) > MAX_URL or not all("!" <= character <= "~" and character != "\\" for character in text):
        return None
    try:
        parts = urlsplit(text)
        port_is_right = parts.port is None or parts.port > 0
    except ValueError:
        return None
    if (
        not port_is_right
        or parts.scheme not in ("http", "https")
        or not parts.hostname
        or "@" in parts.netloc
    ):
        return None
    return parts


def _host(parts: SplitResult, name: str) -> str:
    """ "name" or "name:port" in lower case, without the scheme's own port."""
    name = f"[{name}]" if ":" in name else name
    own = 80 if parts.scheme == "http" else 443
    return name if parts.port in (None, own) else f"{name}:{parts.port}"


def _name(registry: str) -> str | None:
    return urlsplit(f"//{registry}").hostname


def _is_local_link(name: str) -> bool:
    """Whether `name` is an address of this link, of nobody or of a group, however it is written."""
    address: ipaddress.IPv4Address | ipaddress.IPv6Address
    try:
        # Resolvers take 0xa9fea9fe and 2852039166 for 169.254.169.254; so does this, without asking anyone.
        address = ipaddress.IPv4Address(socket.inet_aton(name))
    except OSError:
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address
    return address.is_link_local or address.is_unspecified or address.is_multicast
