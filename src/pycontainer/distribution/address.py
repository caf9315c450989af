"""Where a registry is: its host, how it is reached, and where it may send a client on to."""

from __future__ import annotations

import contextlib
import ipaddress
import select
import socket
import ssl
from collections.abc import Callable
from urllib.parse import SplitResult, urljoin, urlsplit, urlunsplit

from pycontainer.distribution.reaching import connected, wait_for
from pycontainer.errors import InvalidReference, TransportError
from pycontainer.oci._document import shorten

Origin = tuple[str, str, int]
"""Scheme, host and port: what must be the same for credentials to be sent."""

# Docker Hub's name in references is not the host of its registry.
_HUB = "registry-1.docker.io"
_HUB_NAMES = frozenset({"docker.io", "index.docker.io", _HUB})
_PORTS = {"http": 80, "https": 443}

# What may be shown of a query: names and counts. The rest (signatures, upload states) opens doors.
_HARMLESS = frozenset({"n", "last", "digest", "from", "mount", "artifactType", "service", "scope"})
_TLS_ALERT, _TLS_HANDSHAKE = 0x15, 0x16


def host_of(registry: str) -> str:
    """The `host[:port]` at which the registry that references call `registry` answers."""
    if registry in _HUB_NAMES:
        return _HUB
    parts = _split(f"//{registry}")
    if parts.netloc != registry or not parts.hostname or parts.username is not None:
        raise InvalidReference(f"{shorten(registry)} is not a registry (host[:port])")
    return registry


def is_loopback(host: str) -> bool:
    """Whether `host` (without port) is this machine: localhost, 127.0.0.0/8 or ::1."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def hostname(host: str) -> str:
    """`host[:port]` without the port and an IPv6 address's brackets."""
    return _split(f"//{host}").hostname or ""


def origin(url: str) -> Origin:
    """The origin of an absolute address."""
    parts = _split(url)
    return parts.scheme, parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0)


def safe_url(url: str) -> str:
    """`url` as it may be shown: without credentials and fragment, secrets of the query replaced by `***`."""
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return "(an address that is none)"
    query = "&".join(_shown(pair) for pair in parts.query.split("&") if pair)
    text = urlunsplit((parts.scheme, host, parts.path, query, ""))
    return text if text.isprintable() else shorten(text)


def _shown(pair: str) -> str:
    name, _, _ = pair.partition("=")
    return pair if name in _HARMLESS else f"{name}=***"


def onward(url: str, location: str) -> str:
    """The absolute address to which the answer from `url` sends on.

    Raises TransportError where that is no HTTP address, carries credentials, or leaves TLS. A
    registry behind a TLS proxy often calls itself http: that is still the same registry.
    """
    refused = TransportError(f"{safe_url(url)}: sends on to an unusable address", url=safe_url(url))
    if not location or len(location) > 16384 or not location.isprintable():
        raise refused
    try:
        target = _split(urljoin(url, location))
    except (ValueError, TransportError):
        raise refused from None
    source = _split(url)
    if target.scheme not in _PORTS or not target.hostname or target.username is not None:
        raise refused
    if (source.scheme, target.scheme) == ("https", "http"):
        if target.hostname != source.hostname or target.port not in (None, 80, source.port):
            raise TransportError(
                f"{safe_url(url)}: sends on from https to {safe_url(target.geturl())}", url=safe_url(url)
            )
        target = target._replace(scheme="https", netloc=source.netloc)
    return urlunsplit(target._replace(fragment=""))


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        # Looked at here, where a wrong port can still be told from a programming error.
        parts.port  # noqa: B018
        return parts
    except ValueError:
        raise TransportError("not an address") from None


def speaks_tls(host: str, port: int, timeout: float, check: Callable[[], None]) -> bool:
    """Whether a TLS server answers there; False where something else, or nobody, does.

    Only a ClientHello is sent and the first byte of the answer looked at (RFC 8446, 5.1): no
    certificate is judged and nothing is told. The write side is closed, so that a server that waits
    for the rest of a line answers, too. `check` is called meanwhile, and what it raises ends it.
    """
    hello = ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), hello, server_hostname=host).do_handshake()
    try:
        with connected(host, port, timeout, check) as probe:
            probe.sendall(hello.read())
            probe.shutdown(socket.SHUT_WR)
            wait_for(probe, select.POLLIN, timeout, check)
            answer = probe.recv(1)
    except OSError:
        return False
    return bool(answer) and answer[0] in (_TLS_ALERT, _TLS_HANDSHAKE)
