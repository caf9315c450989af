"""Who is called what: the texts of /etc/hosts, /etc/resolv.conf and /etc/hostname in a container.

See hosts(5) and resolv.conf(5).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pycontainer._sys import Descriptor

_LOCAL = """127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""
_OWN = "127.0.1.1"
"""Where a container without an address on a network finds itself, as Debian has it."""


def hosts_head(hostname: str, extra: Sequence[tuple[str, str]], addresses: Sequence[str]) -> str:
    """What is a container's own; those that it can reach by name follow. `extra` are (name, address),
    `addresses` the container's own."""
    lines = [_LOCAL]
    lines += [f"{address}\t{name}\n" for name, address in extra]
    lines += [f"{address}\t{hostname}\n" for address in addresses or [_OWN]]
    return "".join(lines)


def hosts_lines(addresses: Iterable[str], names: Sequence[str]) -> str:
    """The lines of one member of a network."""
    spelled = " ".join(names)
    return "".join(f"{address}\t{spelled}\n" for address in addresses)


def resolver(nameservers: Iterable[str]) -> str:
    """resolv.conf; without a name server libraries ask at the loopback address, where nobody answers."""
    return "".join(f"nameserver {address}\n" for address in nameservers)


def host_file(path: str) -> str:
    """What such a file of this host says, in whole lines."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            text = file.read()
    except FileNotFoundError:
        return ""
    return text if text.endswith("\n") or not text else f"{text}\n"


class HostsFile:
    """A container's /etc/hosts, rewritten through its descriptor while programs read it.

    One write(2) of never less than what stood there, and only then it is cut: a reader finds the one or the
    other, with empty lines at most. What a program in the container has added at the end stays there.
    """

    def __init__(self, descriptor: Descriptor, text: str) -> None:
        """`text` is what it says; the descriptor is for reading, too, and this object's from here on."""
        self._descriptor = descriptor
        self._written = _encoded(text)

    def write(self, text: str) -> None:
        """Raises OSError: the container's file system may be full."""
        content = _encoded(text)
        file = self._descriptor.fd
        size = os.fstat(file).st_size
        now = os.pread(file, len(self._written) + _MAX_ADDED + 1, 0)
        added = b""
        if len(now) - len(self._written) <= _MAX_ADDED and now.startswith(self._written):
            added = now[len(self._written) :]
        os.pwrite(file, (content + added).ljust(len(now), b"\n"), 0)
        if size > len(content) + len(added):
            os.ftruncate(file, len(content) + len(added))
        self._written = content

    def close(self) -> None:
        self._descriptor.close()


class ResolverFile(HostsFile):
    """A container's /etc/resolv.conf, likewise; once a program in there has changed it, it is that one's."""

    def write(self, text: str) -> None:
        if _encoded(text) == self._written:
            return
        if os.pread(self._descriptor.fd, len(self._written) + 1, 0) == self._written:
            super().write(text)


_MAX_ADDED = 65536
"""Bytes; more is nobody's addition."""


def _encoded(text: str) -> bytes:
    return text.encode("ascii", "replace")
