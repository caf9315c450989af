"""Addresses as protocol.h has them."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable

_ADDRESS = struct.Struct("=I16s")
SIZE = _ADDRESS.size


def packed(addresses: Iterable[str], room: int) -> bytes:
    """An array of `room` struct pctr_address. Raises OSError for what is no IP address."""
    return b"".join(map(_packed, addresses)).ljust(room * SIZE, b"\0")


def _packed(address: str) -> bytes:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return _ADDRESS.pack(family, socket.inet_pton(family, address))
