"""The name server of a network: questions that others answer."""

from __future__ import annotations

import socket
import struct
import time

import pytest

import dns_client as dns
from dns_client import AAAA, PTR, A, answer_to, question
from resolvers import SECONDS, connected, outward


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
