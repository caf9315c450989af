"""Questions about names and their answers as RFC 1035 has them, as small as the tests need them."""

from __future__ import annotations

import ipaddress
import socket
import struct
from typing import Any

import attrs

A, SOA, PTR, MX, TXT, AAAA, AXFR, ANY = 1, 6, 12, 15, 16, 28, 252, 255
IN, CHAOS = 1, 3
OK, FORMAT_ERROR, SERVER_FAILURE, NO_NAME, NOT_IMPLEMENTED, REFUSED = range(6)
RECURSION = 0x0100
RESPONSE, AUTHORITATIVE, TRUNCATED, AVAILABLE = 0x8000, 0x0400, 0x0200, 0x0080
EDNS = b"\0" + struct.pack(">HHIH", 41, 1232, 0, 0)
_HEAD = struct.Struct(">6H")


def encoded(name: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".") if label) + b"\0"


def question(
    name: str | bytes,
    kind: int = A,
    *,
    id: int = 7,
    flags: int = RECURSION,
    counts: tuple[int, int, int, int] = (1, 0, 0, 0),
    group: int = IN,
    more: bytes = b"",
) -> bytes:
    """`name` as bytes is in the form of messages already."""
    spelled = name if isinstance(name, bytes) else encoded(name)
    return _HEAD.pack(id, flags, *counts) + spelled + struct.pack(">HH", kind, group) + more


def answer_to(asked: bytes, *addresses: str, code: int = OK, id: int | None = None) -> bytes:
    """What a server says to a question, whatever it was."""
    head = (int.from_bytes(asked[:2], "big") if id is None else id, RESPONSE | AVAILABLE | code)
    body = asked[_HEAD.size : asked.index(b"\0", _HEAD.size) + 5]
    records = [
        struct.pack(">HHHIH", 0xC00C, A, IN, 300, 4) + ipaddress.ip_address(one).packed for one in addresses
    ]
    return _HEAD.pack(*head, 1, len(records), 0, 0) + body + b"".join(records)


@attrs.frozen
class Answer:
    id: int
    flags: int
    question: bytes
    records: list[tuple[int, int, str]]
    """Type, seconds, what it says."""
    size: int

    @property
    def code(self) -> int:
        return self.flags & 15

    @property
    def texts(self) -> list[str]:
        return [text for _, _, text in self.records]


def parse(data: bytes) -> Answer:
    id, flags, questions, count, authorities, additional = _HEAD.unpack_from(data)
    assert flags & RESPONSE and authorities == additional == 0
    at = _HEAD.size
    asked = b""
    if questions:
        assert questions == 1
        while data[at]:
            at += 1 + data[at]
        at += 5
        asked = data[_HEAD.size : at]
    records = []
    for _ in range(count):
        pointer, kind, group, seconds, length = struct.unpack_from(">HHHIH", data, at)
        assert (pointer, group) == (0xC000 | _HEAD.size, IN)
        at += 12 + length
        records.append((kind, seconds, _text(kind, data[at - length : at])))
    assert at == len(data)
    return Answer(id, flags, asked, records, len(data))


def _text(kind: int, data: bytes) -> str:
    if kind in (A, AAAA):
        return str(ipaddress.ip_address(data))
    labels, at = [], 0
    while data[at]:
        labels.append(data[at + 1 : at + 1 + data[at]].decode())
        at += 1 + data[at]
    assert at + 1 == len(data)
    return ".".join(labels)


def framed(message: bytes) -> bytes:
    return struct.pack(">H", len(message)) + message


def receive_framed(sock: socket.socket) -> bytes:
    """The next message of a connection; b"" at its end."""
    head = _receive(sock, 2)
    return _receive(sock, int.from_bytes(head, "big")) if head else b""


def _receive(sock: socket.socket, size: int) -> bytes:
    """So many bytes, or fewer at the end. With a timeout MSG_WAITALL does not wait for all."""
    found = b""
    while len(found) < size and (piece := sock.recv(size - len(found))):
        found += piece
    return found


def ask(asking: Any, to: str, asked: bytes, *, tcp: bool = False) -> Answer:
    """Has a host (switches.py) ask."""
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    with asking.new(family, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM) as sock:
        sock.connect((to, 53))
        sock.sendall(framed(asked) if tcp else asked)
        return parse(receive_framed(sock) if tcp else sock.recv(65536))
