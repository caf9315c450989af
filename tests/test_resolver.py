"""The name server of a network: what it says about the members, to whomever, and what the host asks of it."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import dns_client as dns
from containers import nothing_left, until
from dns_client import AAAA, ANY, PTR, A, question
from pycontainer.errors import LaunchError, SupervisorError
from pycontainer.network import jobs
from pycontainer.network.resolver import Resolver
from pycontainer.supervisor import client
from resolvers import LONG, REVERSE_6, SECONDS, V4, V6, Net, connected, network, outward


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
        (REVERSE_6, PTR, ["db"]),
        (REVERSE_6.upper(), PTR, ["db"]),
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
        "11" + REVERSE_6[3:],
        REVERSE_6.replace("f.", "g."),
        "0." + REVERSE_6,
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
                question(chance.choice(["db", "twin", LONG, REVERSE_6]), chance.choice([A, ANY, PTR]))
            )
            for _ in range(chance.randrange(4)):
                data[chance.randrange(len(data))] = chance.randrange(256)
            sock.send(data[: chance.randrange(len(data)) if chance.random() < 0.2 else len(data)])
            with contextlib.suppress(BlockingIOError):
                while True:
                    assert len(sock.recv(65536)) <= 512
    assert net.ask("db").texts == ["10.5.0.11"]


# Connections.


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
