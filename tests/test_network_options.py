"""Options of the group network: every accepted form, every refusal, and what two of them say together."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest

import pycontainer as pc
from pycontainer import network_options
from pycontainer.errors import InvalidOption
from pycontainer.network_options import Port
from pycontainer.options import Options

ANY_80 = Port(80, "tcp", None, 0)

ACCEPTED: list[tuple[str, Any, Any]] = [
    ("ports", None, ()),
    ("ports", {}, ()),
    ("ports", [], ()),
    ("ports", {80: 8080}, (Port(80, "tcp", None, 8080),)),
    ("ports", {80: None}, (ANY_80,)),
    ("ports", {80: 0}, (ANY_80,)),
    ("ports", {"80": None}, (ANY_80,)),
    ("ports", {"80/tcp": None}, (ANY_80,)),
    ("ports", {"53/udp": 53}, (Port(53, "udp", None, 53),)),
    ("ports", {"53/UDP": 53}, (Port(53, "udp", None, 53),)),
    ("ports", [80, "80", "80/tcp"], (ANY_80,)),
    ("ports", (80, "53/udp"), (ANY_80, Port(53, "udp", None, 0))),
    ("ports", {80}, (ANY_80,)),
    ("ports", iter([80]), (ANY_80,)),
    ("ports", {1: 65535, 65535: 1}, (Port(1, "tcp", None, 65535), Port(65535, "tcp", None, 1))),
    ("ports", {80: ("0.0.0.0", 8080)}, (Port(80, "tcp", "0.0.0.0", 8080),)),
    ("ports", {80: ("::1", None)}, (Port(80, "tcp", "::1", 0),)),
    ("ports", {80: ("0:0::1", 1)}, (Port(80, "tcp", "::1", 1),)),
    ("ports", {80: (ipaddress.ip_address("127.0.0.2"), 1)}, (Port(80, "tcp", "127.0.0.2", 1),)),
    ("ports", {80: ("fe80::1%eth0", 1)}, (Port(80, "tcp", "fe80::1%eth0", 1),)),
    ("ports", {80: [1, ("::1", 2)]}, (Port(80, "tcp", None, 1), Port(80, "tcp", "::1", 2))),
    ("ports", {80: [1, 1]}, (Port(80, "tcp", None, 1),)),
    ("dns", None, ()),
    ("dns", [], ()),
    ("dns", ["10.0.0.1", "FD00::0:1"], ("10.0.0.1", "fd00::1")),
    ("dns", [ipaddress.ip_address("10.0.0.1")], ("10.0.0.1",)),
    ("dns", ["fe80::1%eth0"], ("fe80::1%eth0",)),
    ("ip_address", None, ()),
    ("ip_address", "10.0.0.9", ("10.0.0.9",)),
    ("ip_address", ipaddress.ip_address("10.0.0.9"), ("10.0.0.9",)),
    ("ip_address", ["fd00::9", "10.0.0.9"], ("fd00::9", "10.0.0.9")),
    ("extra_hosts", None, ()),
    ("extra_hosts", {}, ()),
    ("extra_hosts", {"db": "10.0.0.1"}, (("db", "10.0.0.1"),)),
    ("extra_hosts", {"db": ["10.0.0.1", "fd00::1"]}, (("db", "10.0.0.1"), ("db", "fd00::1"))),
    ("extra_hosts", {"db": ("10.0.0.1", "fd00::1")}, (("db", "10.0.0.1"), ("db", "fd00::1"))),
    ("extra_hosts", {"db": ipaddress.ip_address("fd00::1")}, (("db", "fd00::1"),)),
    ("extra_hosts", {"a_b.example.com": "10.0.0.1"}, (("a_b.example.com", "10.0.0.1"),)),
    ("aliases", None, ()),
    ("aliases", ["db", "db", "db.example.com"], ("db", "db.example.com")),
    ("aliases", {"db"}, ("db",)),
]

REFUSED: list[tuple[str, Any]] = [
    ("network", ""),
    ("network", "Host"),
    ("network", None),
    ("network", 5),
    ("network", ["none"]),
    ("network", pc.Network),
    *[("ports", bad) for bad in (0, 8080, False, "", "80", b"80")],
    *[
        ("ports", {bad: None})
        for bad in (0, -1, 65536, "0", "65536", "", "http", "80/sctp", "80/", True, 8.0)
    ],
    *[("ports", {bad: None}) for bad in ("80:8080", " 80", "80\n", "x" * 1000, None, (80, 8080))],
    *[("ports", {80: bad}) for bad in (-1, 65536, True, "8080", 8.5, [], {}, (), ("::1",), ("::1", 1, 2))],
    *[("ports", {80: (bad, 1)}) for bad in ("localhost", "", None, 80, b"\x7f\0\0\1", "::1%", "::1%a b")],
    ("ports", {80: ("127.0.0.1", 65536)}),
    ("ports", {80: ("127.0.0.1", "80")}),
    ("ports", {80: [[1]]}),
    ("ports", [(80, 8080)]),
    *[("dns", bad) for bad in (0, "", "10.0.0.1", b"10.0.0.1", 5, [5], [None], ["example.com"], [""])],
    *[("dns", [bad]) for bad in ("10.0.0", "10.0.0.1/8", "10.0.0.1 ", "::1%x\noptions debug", "1.2.3.4\n")],
    ("dns", ["10.0.0.1"] * 4),
    *[("ip_address", bad) for bad in (0, "", 5, "10.0.0.0/24", "host", ["10.0.0.1", "10.0.0.2"])],
    ("ip_address", ["10.0.0.1", "fd00::1", "fd00::2"]),
    ("ip_address", "fe80::1%eth0"),
    *[("extra_hosts", bad) for bad in (0, "", "db:10.0.0.1", ["db:10.0.0.1"], ("db",), (1, 2), (("db",),))],
    *[("extra_hosts", {bad: "10.0.0.1"}) for bad in ("", "-a", "a b", "a\n1.2.3.4 b", "#", "ä", 5, None)],
    *[("extra_hosts", {bad: "10.0.0.1"}) for bad in ("x" * 254, "a-", ".a", "a.", "a\tb", "a\0b")],
    *[("extra_hosts", {"db": bad}) for bad in ("host-gateway", "", None, [], (), 5, b"x", "::1%\n1.2.3.4 x")],
    *[("aliases", bad) for bad in (0, "", "db", b"db", 5, [5], [["db"]], [""], ["a b"], ["a\n"], [None])],
]


def shown(value: Any) -> str:
    return str(value)[:30]


@pytest.mark.parametrize(("name", "given", "final"), ACCEPTED, ids=shown)
def test_what_is_accepted_and_what_it_becomes(name: str, given: Any, final: Any) -> None:
    convert = getattr(network_options, name)
    found = convert(given)
    assert found == final
    assert convert(found) == final, "what it became is accepted, too"


@pytest.mark.parametrize(("name", "given"), REFUSED, ids=shown)
def test_what_is_refused_names_the_option(name: str, given: Any) -> None:
    with pytest.raises(InvalidOption) as caught:
        Options(**{name: given})
    assert str(caught.value).startswith(name)
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", ["none", "host", "bridge"])
def test_modes(mode: str) -> None:
    assert Options(network=mode).network == mode
    assert network_options.is_hosts(mode) is (mode == "host")
    assert network_options.lender(mode) is None


def test_a_network_by_its_name() -> None:
    with pc.Network.create("by-name", internal=True) as network:
        assert Options(network="by-name").network is network
        assert pc.run("host", ["true"], network="by-name").returncode == 0
    with pytest.raises(InvalidOption, match=r"^network='by-name': must be .* or its name"):
        Options(network="by-name")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"network": "host", "ports": [80]}, "ports=.*the host's already"),
        ({"aliases": ["db"]}, "aliases=.*needs a network"),
        ({"ip_address": "10.0.0.1"}, "ip_address=.*needs a network"),
        ({"network": "host", "aliases": ["db"]}, "aliases=.*needs a network"),
        ({"network": "host", "sysctls": {"net.ipv4.ip_forward": 1}}, "sysctls=.*host's with"),
    ],
)
def test_what_contradicts_each_other(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidOption, match=words):
        Options(**options)
    with pytest.raises(InvalidOption, match=words):
        Options.merge(None, options)


def test_a_shared_network_counts_as_what_it_is() -> None:
    with pc.create("host", ["true"], network="host") as host, pc.create("host", ["true"]) as own:
        with pc.create("host", ["true"], network=host) as second:
            assert network_options.is_hosts(second)
            assert network_options.lender(second) is second
            with pytest.raises(InvalidOption, match="the host's already"):
                Options(network=second, ports=[80])
        assert not network_options.is_hosts(own)
        assert Options(network=own, ports=[80]).ports == (ANY_80,)
        with pytest.raises(InvalidOption, match="needs a network"):
            Options(network=own, aliases=["db"])


def test_a_container_that_persists_has_no_network_of_this_process() -> None:
    with (
        pc.Network.create("of-this-process", internal=True) as network,
        pytest.raises(InvalidOption, match="network="),
    ):
        pc.create("host", ["true"], network=network, persist=True)
    with pc.create("host", ["true"]) as own, pytest.raises(InvalidOption, match="network="):
        pc.create("host", ["true"], network=own, persist=True)
