"""Names over DNS: the name server of a network, between namespaces that the tests make, and in containers."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest

import dns_client as dns
import native_programs
import pycontainer as pc
import switches
from conftest import need
from containers import ROOT, nothing_left, sleeper, until
from dns_client import AAAA, ANY, PTR, A, answer_to, question
from pycontainer.errors import LaunchError, SupervisorError
from pycontainer.network import addresses as addressing
from pycontainer.network import jobs
from pycontainer.network import resolver as module
from pycontainer.network.resolver import Resolver
from pycontainer.supervisor import client
from pycontainer.supervisor.conversation import HEAD, REPLY
from switches import Host, Switch

V4, V6 = socket.AF_INET, socket.AF_INET6
SECONDS = 20
LONG = f"{'x' * 63}.{'y' * 63}.{'z' * 63}.{'w' * 61}"
"""253 characters: no name is longer."""


@attrs.define
class Net:
    switch: Switch
    resolver: Resolver

    @property
    def gateway(self) -> Host:
        return self.switch.hosts[0]

    def ask(
        self, name: str | bytes, kind: int = A, *, tcp: bool = False, to: int = V4, **how: Any
    ) -> dns.Answer:
        return dns.ask(self.switch.hosts[1], self.gateway.address(to), question(name, kind, **how), tcp=tcp)


@contextlib.contextmanager
def network(*upstream: int) -> Iterator[Net]:
    """Host 1 asks; those with these numbers are asked."""
    with switches.switch() as here:
        servers = [here.host(number) for number in upstream]
        here.host(1)
        gateway = here.hosts[0]
        made = Resolver(
            here.supervisor, here.namespace, [gateway.v4, gateway.v6], [server.v4 for server in servers]
        )
        here.stack.callback(made.close)
        yield Net(here, made)


@pytest.fixture(scope="module")
def shared() -> Iterator[Net]:
    with network() as made:
        resolver = made.resolver
        resolver.add(1, ["10.5.0.11", "fd05::11"], ["db", "Data.Base", "twin"])
        resolver.add(2, ["10.5.0.12"], ["web", "twin", "web"])
        resolver.add(3, ["10.5.0.13", "10.5.0.14"], ["under_score-", LONG, "l" * 63])
        yield made


@pytest.fixture
def net(shared: Net) -> Iterator[Net]:
    yield shared
    assert not shared.resolver.ended


# Members.


@pytest.mark.parametrize("tcp", [False, True])
@pytest.mark.parametrize("to", [V4, V6])
def test_an_address(net: Net, tcp: bool, to: int) -> None:
    if to == V6:
        until(lambda: net.ask("db", to=V4).code == dns.OK, "the links are up")
    found = net.ask("db", tcp=tcp, to=to)
    assert (found.id, found.code, found.texts) == (7, dns.OK, ["10.5.0.11"])
    assert found.flags & ~0xF == dns.RESPONSE | dns.AUTHORITATIVE | dns.RECURSION | dns.AVAILABLE
    assert found.question == question("db")[12:]
    (record,) = found.records
    assert record[0] == A and record[1] <= 5


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("db", AAAA, ["fd05::11"]),
        ("db", ANY, ["10.5.0.11", "fd05::11"]),
        ("DB", A, ["10.5.0.11"]),
        ("dAtA.bAsE", A, ["10.5.0.11"]),
        ("web", AAAA, []),
        ("web", ANY, ["10.5.0.12"]),
        ("db", dns.MX, []),
        ("db", dns.TXT, []),
        ("db", dns.SOA, []),
        ("db", PTR, []),
        ("under_score-", A, ["10.5.0.13", "10.5.0.14"]),
        (LONG, A, ["10.5.0.13", "10.5.0.14"]),
        ("l" * 63, A, ["10.5.0.13", "10.5.0.14"]),
        ("11.0.5.10.in-addr.arpa", PTR, ["db"]),
        ("11.0.5.10.IN-ADDR.ARPA", ANY, ["db"]),
        ("14.0.5.10.in-addr.arpa", PTR, ["under_score-"]),
        ("11.0.5.10.in-addr.arpa", A, []),
        (ipv6 := "1.1." + "0." * 26 + "5.0.d.f.ip6.arpa", PTR, ["db"]),
        (ipv6.upper(), PTR, ["db"]),
    ],
)
def test_what_is_known(net: Net, name: str, kind: int, expected: list[str]) -> None:
    """Of a name that there is, nothing of another kind is an answer, too."""
    found = net.ask(name, kind)
    assert (found.code, found.texts) == (dns.OK, expected)
    assert found.question == question(name, kind)[12:]


@pytest.mark.parametrize(
    "name",
    [
        "",
        "nobody",
        "d",
        "dbx",
        "data",
        "base",
        "db.example.com",
        "example.com",
        b"\x09data.base\0",
        b"\x03db\0\0",
        "15.0.5.10.in-addr.arpa",
        "011.0.5.10.in-addr.arpa",
        "1.11.0.5.10.in-addr.arpa",
        "0.5.10.in-addr.arpa",
        "11.0.5.10.in-addr.arpa.x",
        "in-addr.arpa",
        "ip6.arpa",
        "11" + ipv6[3:],
        ipv6.replace("f.", "g."),
        "0." + ipv6,
    ],
)
@pytest.mark.parametrize("kind", [A, AAAA, PTR])
def test_what_is_not_known(net: Net, name: str | bytes, kind: int) -> None:
    found = net.ask(name, kind)
    assert (found.code, found.records) == (dns.NO_NAME, [])
    assert found.question == question(name, kind)[12:]


def test_those_who_are_called_the_same_take_turns(net: Net) -> None:
    first = [tuple(net.ask("twin").texts) for _ in range(4)]
    assert sorted(set(first)) == [("10.5.0.11", "10.5.0.12"), ("10.5.0.12", "10.5.0.11")]
    assert first[0] == first[2] != first[1] == first[3]
    assert [net.ask("twin", AAAA).texts for _ in range(2)] == [["fd05::11"]] * 2


def test_many_who_are_called_the_same(net: Net) -> None:
    """Those for whom a datagram has no room are told on a connection."""
    every = [f"10.5.1.{number}" for number in range(200)]
    for number, address in enumerate(every):
        net.resolver.add(1000 + number, [address], ["crowd"])
    some = net.ask("crowd")
    assert some.flags & dns.TRUNCATED and 25 < len(some.records) < 32 and some.size <= 512
    found = net.ask("crowd", tcp=True)
    assert not found.flags & dns.TRUNCATED and sorted(found.texts) == sorted(every)
    for number in range(200):
        net.resolver.remove(1000 + number)
    assert net.ask("crowd").code == dns.NO_NAME


def test_coming_and_going(net: Net) -> None:
    net.resolver.add(50, ["10.5.0.50"], ["comes", "web"])
    assert net.ask("comes").texts == ["10.5.0.50"]
    assert sorted(net.ask("web").texts) == ["10.5.0.12", "10.5.0.50"]
    net.resolver.remove(50)
    assert net.ask("comes").code == dns.NO_NAME and net.ask("web").texts == ["10.5.0.12"]
    assert net.ask("50.0.5.10.in-addr.arpa", PTR).code == dns.NO_NAME
    net.resolver.add(50, ["10.5.0.51"], ["comes"])
    assert net.ask("comes").texts == ["10.5.0.51"]
    net.resolver.remove(50)


def test_names_that_nobody_can_ask_for(net: Net) -> None:
    net.resolver.add(
        51, ["10.5.0.52"], ["m" * 64, "ä", "a..b", "", ".", "x" * 254, f"{LONG}.x", "fine", "end."]
    )
    assert net.ask("52.0.5.10.in-addr.arpa", PTR).texts == ["fine"]
    assert net.ask("end").code == dns.NO_NAME
    net.resolver.remove(51)
    net.resolver.add(51, ["10.5.0.52"], [])
    found = net.ask("52.0.5.10.in-addr.arpa", PTR)
    assert (found.code, found.records) == (dns.OK, [])
    net.resolver.remove(51)


# Questions that nobody should ask.


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (question("db", counts=(0, 0, 0, 0)), dns.FORMAT_ERROR),
        (question("db", counts=(2, 0, 0, 0), more=question("db")[12:]), dns.FORMAT_ERROR),
        (question("db", counts=(65535, 0, 0, 0)), dns.FORMAT_ERROR),
        (question("db", counts=(1, 1, 0, 0)), dns.FORMAT_ERROR),
        (question("db", counts=(1, 0, 1, 0)), dns.FORMAT_ERROR),
        (question("db")[:-1], dns.FORMAT_ERROR),
        (question("db")[:12], dns.FORMAT_ERROR),
        (question(b"\xc0\x0c"), dns.FORMAT_ERROR),
        (question(b"\x02db\xc0\x0c"), dns.FORMAT_ERROR),
        (question(b"\x40" + b"x" * 64 + b"\0"), dns.FORMAT_ERROR),
        (question(b"\x3fdb\0"), dns.FORMAT_ERROR),
        (question(f"{LONG}x"), dns.FORMAT_ERROR),
        (question("x." * 200), dns.FORMAT_ERROR),
        (question("db", more=bytes(2000)), dns.FORMAT_ERROR),
        (question("db", more=bytes(60_000)), dns.FORMAT_ERROR),
        *((question("db", flags=opcode << 11), dns.NOT_IMPLEMENTED) for opcode in (1, 2, 4, 5, 15)),
        (question("db", dns.AXFR), dns.REFUSED),
    ],
)
def test_refusals(net: Net, asked: bytes, code: int) -> None:
    found = dns.ask(net.switch.hosts[1], net.gateway.v4, asked)
    assert (found.id, found.code, found.size) == (7, code, 12)


def test_what_is_tolerated(net: Net) -> None:
    assert net.ask("db", counts=(1, 0, 0, 1), more=dns.EDNS).texts == ["10.5.0.11"]
    assert net.ask("db", more=b"garbage").texts == ["10.5.0.11"]
    assert net.ask("db", flags=0).flags & dns.RECURSION == 0
    assert net.ask("db", group=255).texts == ["10.5.0.11"]
    assert net.ask("db", group=dns.CHAOS).code == dns.NO_NAME


def test_what_is_not_even_refused(net: Net) -> None:
    """Answers above all: two servers would talk for ever."""
    with net.switch.hosts[1].udp() as sock:
        sock.connect((net.gateway.v4, 53))
        for size in range(12):
            sock.send(question("db")[:size])
        sock.send(question("db", flags=dns.RESPONSE))
        sock.send(question("db", flags=dns.RESPONSE, counts=(0, 0, 0, 0))[:12])
        sock.send(question("web", id=9))
        assert dns.parse(sock.recv(1000)).id == 9


def test_garbage(net: Net) -> None:
    chance = random.Random(1)
    with net.switch.hosts[1].udp() as sock:
        sock.connect((net.gateway.v4, 53))
        sock.setblocking(False)
        for _ in range(2000):
            data = bytearray(
                question(chance.choice(["db", "twin", LONG, ipv6]), chance.choice([A, ANY, PTR]))
            )
            for _ in range(chance.randrange(4)):
                data[chance.randrange(len(data))] = chance.randrange(256)
            sock.send(data[: chance.randrange(len(data)) if chance.random() < 0.2 else len(data)])
            with contextlib.suppress(BlockingIOError):
                while True:
                    assert len(sock.recv(65536)) <= 512
    assert net.ask("db").texts == ["10.5.0.11"]


# Connections.


@contextlib.contextmanager
def connected(net: Net, number: int = 1) -> Iterator[socket.socket]:
    with net.switch.hosts[number].new(V4, socket.SOCK_STREAM) as sock:
        sock.connect((net.gateway.v4, 53))
        yield sock


def test_many_questions_on_a_connection(net: Net) -> None:
    with connected(net) as sock:
        sock.sendall(b"".join(dns.framed(question("db", id=number)) for number in range(100)))
        assert [dns.parse(dns.receive_framed(sock)).id for _ in range(100)] == [*range(100)]


def test_a_question_in_pieces(net: Net) -> None:
    with connected(net) as sock:
        for byte in dns.framed(question("db")):
            sock.send(bytes([byte]))
            time.sleep(0.001)
        sock.shutdown(socket.SHUT_WR)
        assert dns.parse(dns.receive_framed(sock)).texts == ["10.5.0.11"]
        assert sock.recv(1) == b""


@pytest.mark.parametrize(
    "data", [b"\0\0", b"\xff\xff", dns.framed(b"x"), dns.framed(b"\0\0\x80\0" + bytes(20))]
)
def test_a_connection_that_makes_no_sense_is_ended(net: Net, data: bytes) -> None:
    with connected(net) as sock:
        sock.sendall(data)
        assert sock.recv(1) == b""


def test_one_host_does_not_take_all_connections(net: Net) -> None:
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(connected(net)) for _ in range(9)]
        assert held[8].recv(1) == b""
        assert dns.ask(net.gateway, net.gateway.v4, question("db"), tcp=True).texts == ["10.5.0.11"]
        held[0].sendall(dns.framed(question("db")))
        assert dns.parse(dns.receive_framed(held[0])).texts == ["10.5.0.11"]


def test_who_waits_longest_makes_room() -> None:
    with network() as net, contextlib.ExitStack() as stack:
        for number in (2, 3):
            net.switch.host(number)
        held = [stack.enter_context(connected(net, number)) for number in [2] * 8 + [3] * 8]
        for sock in held:
            sock.sendall(dns.framed(question("x")))
            dns.receive_framed(sock)
        assert net.ask("x", tcp=True).code == dns.NO_NAME
        assert held[0].recv(1) == b""
        held[15].sendall(dns.framed(question("x")))
        assert dns.parse(dns.receive_framed(held[15])).code == dns.NO_NAME


# Questions that others answer.


class Upstream:
    """A name server for tests, which takes questions in and says nothing by itself."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.udp = host.udp(53)
        self.tcp = host.new(V4, socket.SOCK_STREAM)
        self.tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.tcp.bind((host.v4, 53))
        self.tcp.listen()

    def take(self) -> tuple[bytes, Any]:
        return self.udp.recvfrom(65536)

    def hears_nothing(self) -> bool:
        self.udp.settimeout(0.1)
        with contextlib.suppress(TimeoutError):
            self.udp.recv(65536)
            return False
        self.udp.settimeout(SECONDS)
        return True

    def close(self) -> None:
        self.udp.close()
        self.tcp.close()


@contextlib.contextmanager
def outward(count: int = 1) -> Iterator[tuple[Net, list[Upstream], socket.socket]]:
    """A network that leads out to so many name servers, and a socket of host 1 that asks."""
    with network(*range(2, 2 + count)) as net:
        net.resolver.add(1, ["10.5.0.11"], ["db"])
        with contextlib.ExitStack() as stack:
            servers = [Upstream(net.switch.hosts[number]) for number in range(2, 2 + count)]
            for server in servers:
                stack.callback(server.close)
            sock = stack.enter_context(net.switch.hosts[1].udp())
            sock.connect((net.gateway.v4, 53))
            yield net, servers, sock


def test_what_is_not_known_is_asked_elsewhere() -> None:
    with outward() as (net, (server,), sock):
        for name, kind in (("example.com", A), ("single", AAAA), ("9.9.9.9.in-addr.arpa", PTR)):
            asked = question(name, kind, id=11, counts=(1, 0, 0, 1), more=dns.EDNS)
            sock.send(asked)
            passed, source = server.take()
            assert passed[2:] == asked[2:] and source[0] == net.gateway.v4
            reply = answer_to(passed, "192.0.2.1", "192.0.2.2")
            server.udp.sendto(reply, source)
            assert sock.recv(1000) == b"\0\x0b" + reply[2:]
        # Of members nobody else hears.
        for kind in (A, AAAA, dns.MX):
            assert net.ask("db", kind).code == dns.OK
        assert net.ask("11.0.5.10.in-addr.arpa", PTR).texts == ["db"]
        sock.send(question("db", counts=(2, 0, 0, 0)))
        assert dns.parse(sock.recv(100)).code == dns.FORMAT_ERROR
        assert server.hears_nothing()


def test_ids_and_ports_are_nobodys_guess() -> None:
    with outward() as (_, (server,), sock):
        for number in range(50):
            sock.send(question("example.com", id=number))
        taken = [server.take() for _ in range(50)]
        assert len({source for _, source in taken}) == 50
        assert len({data[:2] for data, _ in taken}) > 40
        ports = sorted(source[1] for _, source in taken)
        assert ports[-1] - ports[0] > 1000


def test_a_forged_reply_is_not_taken() -> None:
    with outward() as (net, (server,), sock):
        sock.send(question("example.com"))
        asked, source = server.take()
        forged = answer_to(asked, "198.51.100.66")
        other_id = int.from_bytes(asked[:2], "big") ^ 1
        liar = net.switch.host(9)
        with liar.udp(53) as elsewhere, server.host.udp(54) as other_port:
            elsewhere.sendto(forged, source)
            other_port.sendto(forged, source)
            for data in (
                answer_to(asked, "198.51.100.66", id=other_id),
                answer_to(question("example.org", id=other_id ^ 1), "198.51.100.66"),
                answer_to(question("example.com", AAAA, id=other_id ^ 1), "198.51.100.66"),
                asked,
                forged[:11],
                b"",
                forged[:4] + b"\0\0" + forged[6:12],
                forged[:12] + b"\xc0\x0c" + forged[-4:],
            ):
                server.udp.sendto(data, source)
            server.udp.sendto(answer_to(asked, "192.0.2.1"), source)
            assert dns.parse(sock.recv(1000)).texts == ["192.0.2.1"]
            # It is over: nothing more is said.
            server.udp.sendto(forged, source)
        sock.send(question("db", id=8))
        assert dns.parse(sock.recv(1000)).id == 8


def test_a_reply_as_large_as_any() -> None:
    with outward() as (_, (server,), sock):
        sock.send(question("example.com"))
        asked, source = server.take()
        reply = answer_to(asked, *["192.0.2.1"] * 3000)
        server.udp.sendto(reply, source)
        assert sock.recv(65536)[2:] == reply[2:]


def test_a_question_is_asked_once_however_often_it_comes() -> None:
    with outward() as (_, (server,), sock):
        for _ in range(3):
            sock.send(question("example.com"))
        asked, source = server.take()
        assert server.hears_nothing()
        server.udp.sendto(answer_to(asked, "192.0.2.1"), source)
        assert dns.parse(sock.recv(1000)).texts == ["192.0.2.1"]


@pytest.mark.parametrize("code", [dns.SERVER_FAILURE, dns.REFUSED, dns.NOT_IMPLEMENTED, dns.FORMAT_ERROR])
@pytest.mark.parametrize("short", [False, True])
def test_a_server_that_will_not(code: int, short: bool) -> None:
    """The next one is asked; the last one's word counts."""
    with outward(2) as (_, (first, second), sock):
        for last in (False, True):
            sock.send(question("example.com"))
            for server in (first, second):
                asked, source = server.take()
                reply = answer_to(asked, code=code)
                if short:
                    reply = reply[:4] + bytes(8)
                if server is second and not last:
                    reply = answer_to(asked, "192.0.2.1")
                server.udp.sendto(reply, source)
            found = dns.parse(sock.recv(1000))
            assert (found.code, found.texts) == ((code, []) if last else (dns.OK, ["192.0.2.1"]))


def test_an_unknown_name_is_the_end_of_it() -> None:
    with outward(2) as (_, (first, second), sock):
        sock.send(question("example.com"))
        asked, source = first.take()
        first.udp.sendto(answer_to(asked, code=dns.NO_NAME), source)
        assert dns.parse(sock.recv(1000)).code == dns.NO_NAME
        assert second.hears_nothing()


def test_a_server_that_is_not_there() -> None:
    """The kernel says so, and nobody waits."""
    with outward(2) as (_, (first, second), sock):
        first.close()
        sock.send(question("example.com"))
        asked, source = second.take()
        second.udp.sendto(answer_to(asked, "192.0.2.1"), source)
        assert dns.parse(sock.recv(1000)).texts == ["192.0.2.1"]
        second.close()
        began = time.monotonic()
        sock.send(question("example.org"))
        assert dns.parse(sock.recv(1000)).code == dns.SERVER_FAILURE
        assert time.monotonic() - began < 1.5


def test_silence() -> None:
    """After two seconds once more: what was lost may come then. After four nobody waits any more."""
    with outward() as (_, (server,), sock):
        began = time.monotonic()
        sock.send(question("lost.example.com", id=1))
        sock.send(question("silent.example.com", id=2))
        first = sorted(server.take() for _ in range(2))
        again = sorted(server.take() for _ in range(2))
        assert first == again and 1.9 < time.monotonic() - began < 3.5
        asked, source = next(one for one in again if b"lost" in one[0])
        server.udp.sendto(answer_to(asked, "192.0.2.1"), source)
        found = dns.parse(sock.recv(1000))
        assert (found.id, found.texts) == (1, ["192.0.2.1"])
        found = dns.parse(sock.recv(1000))
        assert (found.id, found.code) == (2, dns.SERVER_FAILURE)
        assert 3.9 < time.monotonic() - began < 6


def test_silence_of_the_first_server() -> None:
    with outward(2) as (_, (first, second), sock):
        sock.send(question("example.com"))
        first.take()
        asked, source = second.take()
        second.udp.sendto(answer_to(asked, "192.0.2.1"), source)
        assert dns.parse(sock.recv(1000)).texts == ["192.0.2.1"]


def test_one_asker_does_not_take_all_places() -> None:
    with outward() as (net, (server,), sock):
        other = net.switch.host(8)
        for number in range(140):
            sock.send(question("example.com", id=number))
        refused = [dns.parse(sock.recv(1000)) for _ in range(12)]
        assert [(one.id, one.code) for one in refused] == [(n, dns.SERVER_FAILURE) for n in range(128, 140)]
        assert net.ask("db").texts == ["10.5.0.11"]
        for _ in range(128):
            asked, source = server.take()
            server.udp.sendto(answer_to(asked, "192.0.2.1"), source)
        assert sorted(dns.parse(sock.recv(1000)).id for _ in range(128)) == [*range(128)]
        for asking in (sock, other.udp()):
            with asking:
                asking.connect((net.gateway.v4, 53))
                asking.send(question("example.com"))
                asked, source = server.take()
                server.udp.sendto(answer_to(asked, "192.0.2.1"), source)
                assert dns.parse(asking.recv(1000)).texts == ["192.0.2.1"]


def test_a_question_on_a_connection_is_passed_on_so() -> None:
    with outward() as (net, (server,), _), connected(net) as sock:
        for name in ("example.com", "example.org"):
            sock.sendall(dns.framed(question(name, id=12)))
            with server.tcp.accept()[0] as link:
                link.settimeout(SECONDS)
                asked = dns.receive_framed(link)
                assert asked == question(name, id=12)
                reply = answer_to(asked, *["192.0.2.1"] * 4000)
                for start in range(0, len(reply) + 2, 10_000):
                    link.sendall(dns.framed(reply)[start : start + 10_000])
                assert dns.receive_framed(sock) == reply
                assert link.recv(1) == b""
        sock.sendall(dns.framed(question("db")))
        assert dns.parse(dns.receive_framed(sock)).texts == ["10.5.0.11"]
        assert server.hears_nothing()


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"\0\0",
        b"\xff\xff",
        dns.framed(answer_to(question("example.com", id=99), "198.51.100.66")),
        dns.framed(answer_to(question("example.org"), "198.51.100.66")),
        dns.framed(answer_to(question("example.com"), code=dns.REFUSED)),
        dns.framed(b"x"),
    ],
)
def test_a_server_that_talks_nonsense_on_a_connection(reply: bytes) -> None:
    with outward(2) as (net, (first, second), _), connected(net) as sock:
        sock.sendall(dns.framed(question("example.com")))
        with first.tcp.accept()[0] as link:
            link.settimeout(SECONDS)
            dns.receive_framed(link)
            link.sendall(reply)
        with second.tcp.accept()[0] as link:
            link.settimeout(SECONDS)
            link.sendall(dns.framed(answer_to(dns.receive_framed(link), "192.0.2.1")))
            assert dns.parse(dns.receive_framed(sock)).texts == ["192.0.2.1"]


def test_no_server_takes_a_connection() -> None:
    with outward(2) as (net, servers, _), connected(net) as sock:
        for server in servers:
            server.close()
        sock.sendall(dns.framed(question("example.com")))
        found = dns.parse(dns.receive_framed(sock))
        assert (found.id, found.code) == (7, dns.SERVER_FAILURE)
        sock.sendall(dns.framed(question("db")))
        assert dns.parse(dns.receive_framed(sock)).texts == ["10.5.0.11"]


def test_an_asker_that_hangs_up_is_not_answered() -> None:
    with outward() as (net, (server,), _):
        with connected(net) as sock:
            sock.sendall(dns.framed(question("example.com")))
            link = server.tcp.accept()[0]
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with link:
            link.settimeout(SECONDS)
            dns.receive_framed(link)
            assert link.recv(1) == b""
        assert net.ask("db").texts == ["10.5.0.11"]


# What the host asks, and its end.


def fails(number: int, call: Any, *arguments: Any) -> None:
    with pytest.raises(LaunchError, match="answering names") as caught:
        call(*arguments)
    assert caught.value.errno == number


def test_errors(net: Net) -> None:
    resolver = net.resolver
    fails(errno.EEXIST, resolver.add, 1, ["10.5.0.1"], ["x"])
    fails(errno.EINVAL, resolver.add, 0, ["10.5.0.1"], ["x"])
    fails(errno.ENOENT, resolver.remove, 77)
    fails(errno.ENOENT, resolver.remove, 0)
    fails(errno.E2BIG, resolver.add, 60, ["10.5.0.1"], [f"name-{number}" for number in range(1000)])
    with pytest.raises(ValueError, match="at most 8 addresses"):
        resolver.add(60, ["10.5.0.1"] * 9, ["x"])
    with pytest.raises(OSError, match="illegal IP address"):
        resolver.add(60, ["10.5.0"], ["x"])
    fails(errno.EADDRINUSE, Resolver, net.switch.supervisor, net.switch.namespace, [net.gateway.v4])
    fails(errno.EADDRNOTAVAIL, Resolver, net.switch.supervisor, net.switch.namespace, ["192.0.2.1"])
    fails(errno.EINVAL, Resolver, net.switch.supervisor, net.switch.namespace, [], ["192.0.2.1"] * 4)
    assert net.ask("x").code == dns.NO_NAME


def test_as_many_as_there_may_be() -> None:
    with network() as net:
        for number in range(1, 1025):
            net.resolver.add(number, ["10.5.0.99"], [f"{number}-{turn}" for turn in range(8)])
        fails(errno.ENOSPC, net.resolver.add, 2000, ["10.5.0.98"], [])
        net.resolver.remove(500)
        fails(errno.ENOSPC, net.resolver.add, 2000, ["10.5.0.98"], [f"new-{turn}" for turn in range(9)])
        assert net.ask("new-0").code == dns.NO_NAME
        net.resolver.add(2000, ["10.5.0.98"], [f"new-{turn}" for turn in range(8)])
        for name in ("1-0", "1024-7", "499-3", "501-0"):
            assert net.ask(name).texts == ["10.5.0.99"]
        assert net.ask("new-7").texts == ["10.5.0.98"]


def test_interrupted_between_question_and_answer(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(net.resolver, "_receive", interrupted)
        with pytest.raises(KeyboardInterrupt):
            net.resolver.add(70, ["10.5.0.70"], ["seventy"])
    fails(errno.EEXIST, net.resolver.add, 70, ["10.5.0.70"], ["seventy"])
    net.resolver.remove(70)


def test_from_many_threads(net: Net) -> None:
    def work(number: int) -> None:
        for _ in range(50):
            net.resolver.add(number, ["10.5.0.9"], ["threads", f"thread-{number}"])
            net.resolver.remove(number)
        done.append(number)

    done: list[int] = []
    threads = [threading.Thread(target=work, args=[100 + number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == [*range(100, 108)]
    assert net.ask("threads").code == dns.NO_NAME


def test_nothing_is_left() -> None:
    with network():
        pass
    with nothing_left():
        for _ in range(3):
            with outward() as (net, _, sock), connected(net):
                sock.send(question("example.com"))


def test_it_ends_when_the_host_hangs_up() -> None:
    with network() as net:
        net.resolver._socket.close()
        record = net.resolver._job.wait(SECONDS)
        assert record is not None and record.kind == client.RECORD["EXITED"] and record.status == 0
        assert net.resolver.ended


def test_after_its_end() -> None:
    with network() as net:
        net.resolver.close()
        net.resolver.close()
        assert net.resolver.ended
        with pytest.raises(SupervisorError, match="answering names"):
            net.resolver.remove(1)
        # The addresses are free at once.
        Resolver(net.switch.supervisor, net.switch.namespace, [net.gateway.v4]).close()


def test_after_the_supervisors_end() -> None:
    supervisor = client.Supervisor()
    namespace = jobs.new_namespace(supervisor, lambda ops: None)
    resolver = Resolver(supervisor, namespace, ["127.0.0.1"])
    supervisor.close()
    with pytest.raises(SupervisorError):
        for number in range(1, 1000):  # it is being killed
            resolver.add(number, [], [])
            time.sleep(0.01)
    assert resolver.ended
    resolver.close()
    os.close(namespace)


def test_not_a_namespace() -> None:
    with open(__file__) as file, pytest.raises(LaunchError, match="joining namespaces") as caught:
        Resolver(client.default(), file.fileno(), ["127.0.0.1"])
    assert caught.value.errno == errno.EINVAL


# In containers.


@pytest.fixture(scope="module")
def inner() -> Iterator[pc.Network]:
    with pc.Network.create("inner", internal=True) as made:
        yield made


def see(container: pc.Container, command: Sequence[str], code: int = 0) -> str:
    began = time.monotonic()
    done = container.exec(command, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == code, f"{done.stdout}{done.stderr}"
    # Nobody waits for an answer that does not come.
    assert time.monotonic() - began < 1
    return str(done.stdout)


def looked_up(container: pc.Container, name: str, code: int = 0) -> list[str]:
    """What a program finds that asks the name server alone."""
    need(shutil.which("busybox") is not None, "busybox (apt-get install busybox-static)")
    lines = see(container, ["busybox", "nslookup", name], code).split("\n\n", 1)[1].splitlines()
    return [line.removeprefix("Address: ") for line in lines if line.startswith("Address: ")]


def test_containers_find_each_other(inner: pc.Network) -> None:
    with sleeper(network=inner, name="db", aliases=["data"], hostname="host-of-db") as db:
        with sleeper(network=inner, name="web") as web:
            assert see(web, ["cat", "/etc/resolv.conf"]) == f"nameserver {inner.gateway}\n"
            for name in ("db", "data", "host-of-db", db.id[:12], "web", "DB", "db."):
                expected = web.ip_address if name == "web" else db.ip_address
                assert looked_up(web, name) == [expected]
                assert see(web, ["getent", "hosts", name]).split()[0] == expected
            assert see(web, ["getent", "ahosts", "db"]).split()[0] == db.ip_address
            assert see(web, ["getent", "hosts", str(db.ip_address)]).split()[1] == "data"
            db.stop(0)
            assert looked_up(web, "db", 1) == []
            db.start()
            assert looked_up(web, "db") == [db.ip_address]
        assert looked_up(db, "web", 1) == []


@pytest.mark.parametrize("name", ["nobody", "nobody.example.com", "192.0.2.1"])
def test_what_there_is_not_is_said_at_once(inner: pc.Network, name: str) -> None:
    with sleeper(network=inner) as container:
        see(container, ["getent", "hosts", name], 2)
        if "192" not in name:
            see(container, ["getent", "ahosts", name], 2)
        assert looked_up(container, name, 1) == []


def test_without_a_hosts_file(inner: pc.Network) -> None:
    """The C library asks, too, in both families at once, where there is an IPv6 subnet to be told of."""
    with pc.Network.create("six", internal=True, subnet=["10.77.0.0/24", "fd77::/64"]) as both:
        options = {"mounts": [pc.content("127.0.0.1 localhost\n", "/etc/hosts")]}
        for network, expected in ((inner, 1), (both, 2)):
            with sleeper(network=network, name="db") as db, sleeper(network=network, **options) as web:
                found = see(web, ["getent", "ahosts", "db"]).split("\n")
                addresses = {line.split()[0] for line in found if line}
                assert addresses == {*db.addresses[network.name][:expected]}
                for one in addresses:
                    assert see(web, ["getent", "hosts", one]).split() == [one, "db"]


def test_an_alias_of_several_is_shared_out(inner: pc.Network) -> None:
    with (
        sleeper(network=inner, aliases=["both"]) as one,
        sleeper(network=inner, aliases=["both"]) as other,
    ):
        found = {looked_up(one, "both")[0] for _ in range(2)}
        assert found == {one.ip_address, other.ip_address}


def test_a_container_on_two_networks(inner: pc.Network) -> None:
    """Both are in /etc/hosts, whoever's server is asked first."""
    with (
        pc.Network.create("second", internal=True) as second,
        sleeper(network=inner, name="here") as here,
        sleeper(network=second, name="there") as there,
        pc.create("host", ["sleep", "1000"], network=inner, name="between") as between,
    ):
        second.connect(between)
        between.start()
        servers = see(between, ["cat", "/etc/resolv.conf"]).split("\n")
        assert servers == [f"nameserver {inner.gateway}", f"nameserver {second.gateway}", ""]
        for other in (here, there):
            assert see(between, ["getent", "hosts", str(other.name)]).split()[0] == other.ip_address
        assert looked_up(here, "between") == [between.addresses["inner"][0]]
        assert looked_up(there, "between") == [between.addresses["second"][0]]
        assert looked_up(here, "there", 1) == []
        second.disconnect(between)
        assert looked_up(there, "between", 1) == []
        second.connect(between)
        assert looked_up(there, "between") == [between.addresses["second"][0]]


def test_a_container_with_servers_of_its_own(inner: pc.Network) -> None:
    with sleeper(network=inner, name="db") as db, sleeper(network=inner, dns=["192.0.2.53"]) as web:
        assert see(web, ["cat", "/etc/resolv.conf"]) == "nameserver 192.0.2.53\n"
        assert see(web, ["getent", "-s", "hosts:files", "hosts", "db"]).split()[0] == db.ip_address


def test_one_that_was_killed_is_replaced(inner: pc.Network) -> None:
    with sleeper(network=inner, name="db") as db:
        assert inner._resolver is not None
        job = inner._resolver._job
        job.end()
        assert job.wait(SECONDS) is not None
        with sleeper(network=inner, name="web") as web:
            for one in (db, web):
                assert looked_up(web, str(one.name)) == [one.ip_address]
        assert looked_up(db, "web", 1) == []


# The same code under the sanitisers.

PARTS = ("dns", "dns_answer", "dns_message", "dns_names", "dns_tcp", "dns_upstream", "util")
PURE = ("dns_answer", "dns_message", "dns_names")
CORPUS = native_programs.NATIVE / "corpus-dns"
FEW = 80
"""Descriptors, for eight questions that wait for an answer."""


def compiled(target: Path, name: str, parts: Sequence[str], *options: str) -> Path:
    if not ROOT:
        pytest.skip("the same code without a container: once is enough")
    need(shutil.which("gcc") is not None, "gcc")
    sources = [native_programs.SOURCES / f"{part}.c" for part in parts]
    argv = ["gcc", *native_programs.SANITISED[1:], *native_programs.WARNINGS, "-std=gnu11", *options]
    main = native_programs.NATIVE / f"{name}.c"
    subprocess.run([*argv, f"-I{native_programs.SOURCES}", main, *sources, "-o", target], check=True)
    return target


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("resolve") / "resolve_names", "resolve_names", PARTS)


class Raw:
    """The program, in a network namespace; it must end well when the socket is closed."""

    def __init__(self, program: Path, namespace: int, descriptors: int = FEW) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(SECONDS)
        with theirs:
            argv = ["nsenter", f"--net=/proc/self/fd/{namespace}", program]
            self.process = subprocess.Popen(
                [*argv, str(theirs.fileno()), str(descriptors)],
                pass_fds=[theirs.fileno(), namespace],
                env=os.environ | native_programs.ENVIRONMENT,
                stderr=subprocess.PIPE,
            )

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *failure: object) -> None:
        self.socket.close()
        _, told = self.process.communicate(timeout=SECONDS)
        assert self.process.returncode == 0, told.decode()

    def send(self, message: bytes) -> tuple[int, int]:
        self.socket.send(message)
        serial, error = REPLY.unpack(self.socket.recv(100))
        return serial, error

    def ask(self, verb: int, id: int, addresses: Sequence[str], servers: int = 0, text: bytes = b"") -> int:
        return self.send(request(verb, id, len(addresses) - servers, servers, addresses, text))[1]


BEGIN, ADD, REMOVE = (module._VERB[verb] for verb in ("BEGIN", "ADD", "REMOVE"))


def request(
    verb: int, id: int, count: int, servers: int, addresses: Sequence[str] = (), text: bytes = b""
) -> bytes:
    fields = module._FIELDS.pack(id, count, servers, len(text))
    return HEAD.pack(verb, 7) + fields + addressing.packed(addresses, 8) + text


def test_requests_that_nobody_would_send(program: Path) -> None:
    with switches.switch() as here, Raw(program, here.namespace) as raw:
        good = request(ADD, 1, 1, 0, ["10.5.0.1"], b"db\0")
        for size in range(8, len(good)):
            assert raw.send(good[:size])[1] == errno.EBADMSG
        assert raw.send(good + b"x")[1] == errno.EBADMSG
        assert raw.send(b"x")[1] == errno.EBADMSG
        assert raw.send(bytes(100_000))[1] == errno.EBADMSG
        assert raw.send(good) == (7, 0)
        for verb in (0, 4, 2**32 - 1):
            assert raw.ask(verb, 2, []) == errno.EBADMSG
        for text in (b"db", b"\0", b"a..b\0", b".a\0", b"a.\0", b"x" * 64 + b"\0", b"y." * 126 + b"zz\0"):
            assert raw.ask(ADD, 2, [], text=text) == errno.EINVAL
        for count, servers in ((9, 0), (8, 1), (0, 4), (2**32 - 1, 1), (1, 2**32 - 1)):
            assert raw.send(request(BEGIN, 0, count, servers))[1] == errno.EINVAL
        assert raw.send(request(ADD, 2, 9, 0))[1] == errno.EINVAL
        assert raw.send(request(BEGIN, 0, 1, 0))[1] == errno.EAFNOSUPPORT
        assert raw.ask(BEGIN, 0, ["10.5.0.1"]) == 0
        assert raw.ask(BEGIN, 0, ["10.5.0.1"]) == errno.EALREADY


def test_no_more_questions_than_there_is_room_for(program: Path) -> None:
    with switches.switch() as here:
        asking, server = here.host(1), here.host(2)
        with Raw(program, here.namespace) as raw, server.udp(53) as upstream, asking.udp() as sock:
            assert raw.ask(BEGIN, 0, [here.hosts[0].v4, server.v4], servers=1) == 0
            sock.connect((here.hosts[0].v4, 53))
            for _ in range(2):
                for number in range(9):
                    sock.send(question("example.com", id=number))
                found = dns.parse(sock.recv(1000))
                assert (found.id, found.code) == (8, dns.SERVER_FAILURE)
                for _ in range(8):
                    asked, source = upstream.recvfrom(1000)
                    upstream.sendto(answer_to(asked, "192.0.2.1"), source)
                assert sorted(dns.parse(sock.recv(1000)).id for _ in range(8)) == [*range(8)]


def test_chaos(program: Path) -> None:
    """Questions and answers of all kinds and of none, on all ways, while members come and go."""
    chance = random.Random(3)
    names = ["db", "example.com", LONG, ipv6, "11.0.5.10.in-addr.arpa", "x"]

    def message() -> bytes:
        made = bytearray(
            question(chance.choice(names), chance.choice([A, ANY, PTR]), id=chance.randrange(65536))
        )
        for _ in range(chance.choice([0, 0, 1, 5])):
            made[chance.randrange(len(made))] = chance.randrange(256)
        return bytes(made)

    with switches.switch() as here:
        asking, server = here.host(1), here.host(2)
        gateway = (here.hosts[0].v4, 53)
        with (
            Raw(program, here.namespace) as raw,
            server.udp(53) as upstream,
            asking.udp() as sock,
            server.new(V4, socket.SOCK_STREAM) as listener,
        ):
            listener.bind((server.v4, 53))
            listener.listen()
            listener.setblocking(False)
            upstream.setblocking(False)
            assert raw.ask(BEGIN, 0, [here.hosts[0].v4, here.hosts[0].v6, server.v4], servers=1) == 0
            links: list[socket.socket] = []
            for turn in range(400):
                raw.ask(
                    chance.choice([ADD, REMOVE]),
                    chance.randrange(1, 4),
                    ["10.5.0.11", "fd05::11"],
                    text=b"db\0x\0",
                )
                for _ in range(chance.randrange(6)):
                    sock.sendto(message(), gateway)
                if turn % 3 == 0:
                    links.append(asking.new(V4, socket.SOCK_STREAM))
                    links[-1].connect(gateway)
                    links[-1].setblocking(False)
                with contextlib.suppress(OSError):
                    data = dns.framed(message())
                    chance.choice(links).send(data[: chance.choice([1, len(data), len(data)])])
                with contextlib.suppress(BlockingIOError):
                    links.append(listener.accept()[0])
                    links[-1].setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    while chance.random() < 0.8:
                        asked, source = upstream.recvfrom(65536)
                        upstream.sendto(answer_to(asked, "192.0.2.1", code=chance.randrange(6)), source)
                while len(links) > 12:
                    links.pop(chance.randrange(len(links))).close()
            for link in links:
                link.close()
            raw.ask(REMOVE, 9, [])
            assert raw.ask(ADD, 9, ["10.5.0.19"], text=b"last\0") == 0
            assert dns.ask(asking, gateway[0], question("last")).texts == ["10.5.0.19"]


def test_corpus(tmp_path: Path) -> None:
    """Messages and names, and each cut off and changed in many places."""
    replay = compiled(tmp_path / "replay", "fuzz_dns", PURE, "-DPCTR_REPLAY")
    files = sorted(CORPUS.iterdir())
    assert len(files) >= 8
    for seed in [*files]:
        data = seed.read_bytes()
        for step in range(len(data)):
            for change in (data[:step], data[:step] + b"\xff" + data[step + 1 :]):
                files.append(tmp_path / f"{seed.name}-{len(files)}")
                files[-1].write_bytes(change)
    subprocess.run([replay, *files], check=True, env=native_programs.ENVIRONMENT, timeout=60)


@pytest.mark.slow
def test_fuzzing(tmp_path: Path) -> None:
    need(native_programs.has_fuzzer(tmp_path), "clang with libFuzzer")
    sources = [native_programs.SOURCES / f"{part}.c" for part in PURE]
    argv = ["clang", *native_programs.SANITISED, "-fsanitize=fuzzer", f"-I{native_programs.SOURCES}"]
    subprocess.run(
        [*argv, native_programs.NATIVE / "fuzz_dns.c", *sources, "-o", tmp_path / "fuzz"], check=True
    )
    corpus = tmp_path / "corpus"
    shutil.copytree(CORPUS, corpus)
    limits = ["-runs=200000", "-max_len=1400", "-max_total_time=20", f"-artifact_prefix={tmp_path}/"]
    fuzz = [tmp_path / "fuzz", *limits, corpus]
    subprocess.run(fuzz, check=True, env=native_programs.ENVIRONMENT, timeout=60, stderr=subprocess.DEVNULL)
