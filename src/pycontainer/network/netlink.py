"""Messages of netlink(7), as operations of a plan send them: heads and attributes, nothing of their meaning.

pyroute2 is not used: its import takes 100 ms, and what it sends cannot go from this process into a namespace
that belongs to an ordinary user's supervisor. Here messages are data, like everything else in a plan.
"""

from __future__ import annotations

import struct

ROUTE = 0
NETFILTER = 12
"""Protocols of <linux/netlink.h>."""

REQUEST = 0x1
ACK = 0x4
EXCL = 0x200
CREATE = 0x400
APPEND = 0x800
REPLACE = 0x100

NESTED = 0x8000

_HEAD = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")


def message(kind: int, body: bytes, *attributes: bytes, flags: int = 0, ack: bool = True) -> bytes:
    """One message: its type, the family's own head, attributes. It is answered, unless not `ack`."""
    content = b"".join((_padded(body), *attributes))
    flags |= REQUEST | (ACK if ack else 0)
    return _HEAD.pack(_HEAD.size + len(content), kind, flags, 0, 0) + content


def attribute(kind: int, data: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(data), kind) + _padded(data)


def nested(kind: int, *attributes: bytes) -> bytes:
    return attribute(kind | NESTED, b"".join(attributes))


def u8(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=B", value))


def u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


def text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode("ascii") + b"\0")


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
