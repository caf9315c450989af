"""`Network`: who reaches whom, by what address and name, from its making to its removal."""

from __future__ import annotations

import errno
import fcntl
import ipaddress
import os
import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import pycontainer as pc
from conftest import need
from containers import PYTHON, nothing_left, sleeper, until
from pycontainer import session
from pycontainer.errors import CapabilityUnavailable
from pycontainer.network import subnets, usermode

PORT = 7000

SERVER = """
import selectors, socket, sys
name = sys.argv[1].encode()
ready = selectors.DefaultSelector()
for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
    for family in (socket.AF_INET, socket.AF_INET6):
        made = socket.socket(family, kind)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(("", 7000))
        if kind == socket.SOCK_STREAM:
            made.listen()
        ready.register(made, selectors.EVENT_READ)
while True:
    for key, _ in ready.select():
        if key.fileobj.type == socket.SOCK_STREAM:
            accepted = key.fileobj.accept()[0]
            accepted.sendall(name)
            accepted.close()
        else:
            key.fileobj.sendto(name, key.fileobj.recvfrom(100)[1])
"""
"""Says its name to everybody who asks."""

ASK = """
import os
import socket, sys
for question in sys.argv[2:]:
    kind, family, host = question.split(",")
    asking = socket.socket(
        socket.AF_INET6 if family == "6" else socket.AF_INET,
        socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM,
    )
    asking.settimeout(float(sys.argv[1]))
    try:
        asking.connect((host, 7000))
        if kind == "udp":
            asking.send(b"?")
        print(asking.recv(100).decode())
    except socket.gaierror:
        print("no such name")
    except OSError as error:
        print(type(error).__name__, error.errno)
    asking.close()
"""


def server(network: pc.Network | str | pc.Container, says: str, **options: object) -> pc.Container:
    """A running container that says `says` at port 7000."""
    return pc.start("host", [*PYTHON, SERVER, says], network=network, wait=pc.wait.listening(PORT), **options)


def ask(container: pc.Container, *questions: str, seconds: float = 10) -> list[str]:
    """What is answered to such as "tcp,4,HOST", asked in the container."""
    done = container.exec(
        [*PYTHON, ASK, str(seconds), *questions], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return str(done.stdout).splitlines()


def ask_all(container: pc.Container, hosts: dict[str, str]) -> list[str]:
    """By TCP and UDP, of each host by the version of IP that is its value's."""
    return ask(container, *(f"{kind},{v},{host}" for host, v in hosts.items() for kind in ("tcp", "udp")))


def see(container: pc.Container, script: str) -> str:
    done = container.exec(["sh", "-c", script], capture_output=True, text=True, timeout=60)
    return str(done.stdout + done.stderr).strip()


def names_in(container: pc.Container) -> dict[str, str]:
    """Its /etc/hosts: the addresses of the names."""
    found: dict[str, str] = {}
    for line in see(container, "cat /etc/hosts").splitlines():
        address, *names = line.split()
        found |= {name: address for name in names if name not in found}
    return found


def routes(container: pc.Container) -> list[str]:
    """The default routes: proc_pid_net(5)."""
    four = see(container, "cat /proc/net/route").splitlines()[1:]
    six = see(container, "cat /proc/net/ipv6_route").splitlines()
    return [line for line in four if line.split()[1] == "00000000"] + [
        line for line in six if line.split()[1] == "00" and line.split()[9] != "lo"
    ]


def links(container: pc.Container) -> list[str]:
    found = see(container, "cat /proc/net/dev").splitlines()[2:]
    return sorted(line.split(":")[0].strip() for line in found)


@pytest.fixture
def network() -> Iterator[pc.Network]:
    with pc.Network.create("net", internal=True) as made:
        yield made


@pytest.fixture
def other() -> Iterator[pc.Network]:
    with pc.Network.create("other", internal=True) as made:
        yield made


# Making and removing.


def test_one_is_made_found_and_removed() -> None:
    before = pc.Network.list()
    network = pc.Network.create("mine.net-1_x", internal=True)
    assert (network.name, network.internal, network.containers) == ("mine.net-1_x", True, [])
    assert pc.Network.get("mine.net-1_x") is network
    assert pc.Network.list() == [*before, network]
    assert str(network.subnet) in repr(network)
    assert "internal" in repr(network)
    assert network.gateway == str(network.subnet[1])
    assert [one.version for one in network.subnets] == [4, 6]
    network.remove()
    network.remove()
    assert "removed" in repr(network)
    assert pc.Network.list() == before
    with pytest.raises(pc.ContainerError, match=r"no network 'mine.net-1_x'"):
        pc.Network.get("mine.net-1_x")


def test_a_name_is_one_networks(network: pc.Network) -> None:
    with pytest.raises(pc.NameInUse, match="name='net'"):
        pc.Network.create("net", internal=True)
    network.remove()
    with pc.Network.create("net", internal=True) as again:
        assert pc.Network.get("net") is again
        network.remove()
        assert pc.Network.get("net") is again


@pytest.mark.parametrize(
    "name", ["", "-a", ".a", "_a", "a b", "a/b", "a\n", "ä", "a" * 129, "none", "host", "bridge", None, 5]
)
def test_names_that_are_refused(name: object) -> None:
    with pytest.raises(pc.InvalidOption, match=r"^name="):
        pc.Network.create(name, internal=True)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("internal", "no"),
        ("internal", 1),
        ("internal", None),
        ("mtu", 1279),
        ("mtu", 65536),
        ("mtu", "1500"),
        ("mtu", True),
        *[("subnet", bad) for bad in ("", "10.0.0.0", "10.0.0.1/24", "10.0.0.0/31", "10.0.0.0/32", "x", 5)],
        *[("subnet", bad) for bad in ("fd00::/127", "fd00::/128", "fd00::1/64", b"\x0a\0\0\0", {}, True)],
        *[
            ("subnet", bad)
            for bad in ("127.0.0.0/8", "0.0.0.0/0", "224.0.0.0/4", "240.0.0.0/4", "0.0.0.0/24")
        ],
        *[
            ("subnet", bad)
            for bad in ("::/0", "::/64", "fe80::/64", "ff00::/8", "169.254.1.0/24", "126.0.0.0/7")
        ],
        ("subnet", ["10.0.0.0/24", "10.0.1.0/24"]),
        ("subnet", ["fd00::/64", "fd00:1::/64"]),
        ("subnet", ["10.0.0.0/24", None]),
    ],
)
def test_options_that_are_refused(option: str, value: object) -> None:
    with pytest.raises(pc.InvalidOption, match=rf"^{option}="):
        pc.Network.create("refused", **{"internal": True, option: value})  # type: ignore[arg-type]
    assert "refused" not in [network.name for network in pc.Network.list()]


def test_leaving_the_context_cuts_everybody_off() -> None:
    with sleeper() as container:
        with pc.Network.create("short", internal=True) as network:
            network.connect(container)
        assert container.addresses == {}
        until(lambda: links(container) == ["lo"], "its link is gone")
        assert "short" not in [one.name for one in pc.Network.list()]


def test_removing_one_with_containers_takes_force(network: pc.Network) -> None:
    with server(network, "a", name="a") as first, sleeper(network=network) as second:
        with pytest.raises(pc.InvalidState, match="network net has 2 containers"):
            network.remove()
        assert ask(second, "tcp,4,a") == ["a"]
        network.remove(force=True)
        for container in (first, second):
            assert container.status == "running"
            assert (container.addresses, container.ip_address) == ({}, None)
            until(lambda one=container: links(one) == ["lo"], "its link is gone")
            assert "a" not in names_in(container) or names_in(container)["a"] == "127.0.1.1"
        for use in (network.connect, network.disconnect):
            with pytest.raises(pc.InvalidState, match="network net was removed"):
                use(first)
        first.kill()
        first.wait(60)
        with pytest.raises(pc.InvalidState, match="network net was removed"):
            first.start()
    with pytest.raises(pc.InvalidState, match="network net was removed"):
        sleeper(network=network)


def test_a_removed_network_that_was_connected_to_is_forgotten(network: pc.Network, other: pc.Network) -> None:
    with pc.create("host", ["sleep", "1000"], network=network) as container:
        other.connect(container)
        other.remove()
        container.start()
        assert [*container.addresses] == ["net"]


def test_removing_waits_for_nobody_that_ended(network: pc.Network) -> None:
    with sleeper(network=network) as container:
        container.kill()
        container.wait(60)
        assert network.containers == []
        network.remove()


def test_nothing_is_left() -> None:
    def use() -> None:
        with pc.Network.create("left", internal=True) as network:
            with sleeper(network=network) as container, sleeper(network=container) as second:
                network.disconnect(container)
                network.connect(container)
                second.restart(timeout=0)
            pc.run("host", ["true"], network=network)
            with pytest.raises(pc.LaunchError):
                pc.run("host", ["/no/such/program"], network=network)
            with pytest.raises(pc.LaunchError):
                pc.start("host", ["/no/such/program"], network=network)
            assert network.containers == []

    use()
    with nothing_left():
        use()


# Addresses and names.


def test_containers_reach_each_other_in_every_way(network: pc.Network) -> None:
    with server(network, "it is a", name="a", hostname="host-a") as first, sleeper(network=network) as second:
        four, six = first.addresses["net"]
        hosts = {four: "4", six: "6", "a": "4", "host-a": "4", first.id[:12]: "4"}
        assert ask_all(second, hosts) == ["it is a"] * 10
        # Itself, by its own names.
        assert ask_all(first, hosts) == ["it is a"] * 10
        assert network.containers == [first, second]
        assert first.ip_address == four
        assert ipaddress.ip_address(four) in network.subnets[0]
        assert ipaddress.ip_address(six) in network.subnets[1]


def test_names_lead_to_ipv6_where_its_subnet_was_given() -> None:
    with (
        pc.Network.create("six", subnet="fd12:3456::/64", internal=True) as network,
        server(network, "it is a", name="a") as first,
        sleeper(network=network) as second,
    ):
        assert first.addresses["six"][1] == "fd12:3456::2"
        assert ask_all(second, {"a": "6"}) == ["it is a"] * 2
        assert ask_all(second, {"a": "4"}) == ["it is a"] * 2


def test_names_of_those_that_come_and_go(network: pc.Network) -> None:
    with sleeper(network=network, name="first") as first:
        assert "later" not in names_in(first)
        with server(network, "later", name="later") as later:
            assert names_in(first)["later"] == later.ip_address
            assert ask(first, "tcp,4,later") == ["later"]
            later.kill()
            later.wait(60)
            assert later.addresses == {}
            assert "later" not in names_in(first)
            assert ask(first, "tcp,4,later") == ["no such name"]
            later.start()
            assert ask(first, "tcp,4,later") == ["later"]
        assert ask(first, "tcp,4,later") == ["no such name"]


def test_names_of_those_that_nobody_waits_for(network: pc.Network) -> None:
    with sleeper(network=network) as first, pc.start("host", ["true"], network=network, name="short"):
        until(lambda: "short" not in names_in(first), "its name is gone")
        assert network.containers == [first]


def test_a_run_finds_who_comes_and_is_found(network: pc.Network, tmp_path: Path) -> None:
    script = (
        "until grep -q late /etc/hosts; do sleep .01; done; : > /seen/$(uname -n); "
        "while grep -q late /etc/hosts; do sleep .01; done"
    )
    options = {"network": network, "mounts": [pc.bind(tmp_path, "/seen")], "timeout": 60}
    with server(network, "it is a", name="a") as first, ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(pc.run, "host", ["sh", "-c", script], **options) for _ in range(4)]
        # At whatever point of their starts.
        with sleeper(network=network, name="late"):
            until(lambda: len([*tmp_path.iterdir()]) == 4, "everybody has seen it", seconds=30)
            assert {entry.name for entry in tmp_path.iterdir()} < names_in(first).keys()
        for run in runs:
            assert run.result().returncode == 0
        until(lambda: len(names_in(first)) == 5 + 2, "nobody is there any more")


def test_an_alias_of_two(network: pc.Network) -> None:
    with (
        sleeper(network=network) as client,
        server(network, "1", aliases=["db", "db-1.example.com"]) as first,
        server(network, "2", aliases=["db"]) as second,
    ):
        lines = [line.split() for line in see(client, "cat /etc/hosts").splitlines()]
        assert [line[0] for line in lines if "db" in line] == [first.ip_address, second.ip_address]
        assert ask(client, "tcp,4,db", "tcp,4,db-1.example.com") == ["1", "1"]
        first.remove(force=True)
        assert ask(client, "tcp,4,db", "tcp,4,db-1.example.com") == ["2", "no such name"]


def test_two_networks_cannot_see_each_other(network: pc.Network, other: pc.Network) -> None:
    assert not network.subnet.overlaps(other.subnet)
    with server(network, "a", name="a") as first, sleeper(network=other, name="b") as second:
        four, six = first.addresses["net"]
        assert "a" not in names_in(second)
        assert "b" not in names_in(first)
        assert ask(second, f"tcp,4,{four}", f"tcp,6,{six}", "tcp,4,a") == [
            "OSError 101",
            "OSError 101",
            "no such name",
        ]


def test_equal_subnets_are_two_networks() -> None:
    with (
        pc.Network.create("one", subnet="10.9.0.0/24", internal=True) as one,
        pc.Network.create("two", subnet="10.9.0.0/24", internal=True) as two,
        server(one, "1") as first,
        server(two, "2") as second,
    ):
        assert first.ip_address == second.ip_address == "10.9.0.2"
        assert ask(first, "tcp,4,10.9.0.2") == ["1"]
        assert ask(second, "tcp,4,10.9.0.2") == ["2"]
        # But nobody can be on both: which of them would an address be on?
        for network, container in ((two, first), (one, second)):
            before = container.addresses
            with pytest.raises(pc.InvalidState, match=r"10\.9\.0\.0/24 of network \w+ overlaps"):
                network.connect(container)
            assert (container.addresses, links(container)) == (before, ["eth0", "lo"])


def test_subnets_close_to_each_other_are_different_in_both_families() -> None:
    with (
        pc.Network.create("one", subnet="10.9.0.0/24", internal=True) as one,
        pc.Network.create("two", subnet="10.9.1.0/24", internal=True) as two,
        server(one, "1") as first,
        server(two, "2") as second,
        sleeper(network=one) as both,
    ):
        two.connect(both)
        (four, six), (other_four, other_six) = first.addresses["one"], second.addresses["two"]
        assert ask_all(both, {four: "4", six: "6"}) == ["1"] * 4
        assert ask_all(both, {other_four: "4", other_six: "6"}) == ["2"] * 4


def test_internal_leads_nowhere_else(network: pc.Network) -> None:
    with sleeper(network=network) as container:
        assert routes(container) == []
        assert links(container) == ["eth0", "lo"]
        assert see(container, "cat /etc/resolv.conf") == f"nameserver {network.gateway}"
        # Nothing but names is to be had at the gateway, and it forwards nothing.
        assert ask(container, f"tcp,4,{network.gateway}", "tcp,4,192.0.2.1", "tcp,6,2001:db8::1") == [
            "ConnectionRefusedError 111",
            "OSError 101",
            "OSError 101",
        ]


def test_the_hosts_own_servers_are_not_reached(network: pc.Network) -> None:
    with socket.create_server(("0.0.0.0", PORT)), sleeper(network=network) as container:
        own = [network.gateway, "127.0.0.1"]
        assert ask(container, *(f"tcp,4,{host}" for host in own)) == ["ConnectionRefusedError 111"] * 2


# On several, and off again.


def test_a_container_on_two_networks(network: pc.Network, other: pc.Network) -> None:
    with (
        server(network, "a", name="a") as first,
        server(other, "b", name="b") as second,
        server(network, "both", name="both", aliases=["first-alias"]) as both,
    ):
        other.connect(both, aliases=["second-alias"])
        assert [*both.addresses] == ["net", "other"]
        assert links(both) == ["eth0", "eth1", "lo"]
        assert ask_all(both, {"a": "4", "b": "4"}) == ["a", "a", "b", "b"]
        assert ask(first, "tcp,4,both", "tcp,4,first-alias", "tcp,4,b") == ["both", "both", "no such name"]
        assert ask(second, "udp,4,both", "tcp,4,second-alias", "tcp,4,a") == ["both", "both", "no such name"]
        assert names_in(first)["both"] == both.addresses["net"][0]
        assert names_in(second)["both"] == both.addresses["other"][0]
        assert see(both, "cat /proc/sys/net/ipv4/ip_forward") == "0"
        # It joins the two, and forwards nothing.
        assert ask(first, f"tcp,4,{second.ip_address}") == ["OSError 101"]
        both.restart(timeout=0)
        assert sorted(both.addresses) == ["net", "other"]
        assert ask_all(both, {"a": "4", "b": "4"}) == ["a", "a", "b", "b"]
        assert ask(second, "udp,4,both", "tcp,4,second-alias") == ["both", "both"]


def test_one_that_is_to_forward(network: pc.Network) -> None:
    sysctls = {"net.ipv4.ip_forward": 1}
    with sleeper(network=network, sysctls=sysctls) as first, sleeper(sysctls=sysctls) as second:
        network.connect(second)
        for one in (first, second):
            assert see(one, "cat /proc/sys/net/ipv4/ip_forward") == "1"


def test_one_without_a_network_is_connected(network: pc.Network) -> None:
    with server(network, "a", name="a") as first, server("none", "b", name="b") as second:
        assert (links(second), second.addresses) == (["lo"], {})
        network.connect(second)
        assert second.ip_address is not None
        assert see(second, "cat /proc/sys/net/ipv4/ip_forward") == "0"
        assert ask_all(second, {"a": "4", second.addresses["net"][1]: "6"}) == ["a", "a", "b", "b"]
        assert ask(first, "tcp,4,b") == ["b"]
        with server(network, "later", name="later"):
            assert ask(second, "tcp,4,later") == ["later"]
        network.disconnect(second)
        assert (links(second), second.addresses) == (["lo"], {})
        assert names_in(second).get("a") is None


def test_one_that_does_not_run_is_connected_at_its_start(network: pc.Network, other: pc.Network) -> None:
    with (
        server(network, "a", name="a"),
        pc.create("host", ["sleep", "1000"], network=other, aliases=["c"]) as container,
    ):
        network.connect(container, aliases=["x"])
        assert container.addresses == {}
        container.start()
        assert sorted(container.addresses) == ["net", "other"]
        assert ask(container, "tcp,4,a") == ["a"]


def test_cut_off_and_healed(network: pc.Network) -> None:
    with server(network, "a", name="a") as first, server(network, "b", aliases=["bee"]) as second:
        before = second.addresses
        for _ in range(2):
            network.disconnect(second)
            assert network.containers == [first]
            assert (second.addresses, links(second)) == ({}, ["lo"])
            assert "bee" not in names_in(first)
            assert "a" not in names_in(second)
            assert ask(first, f"tcp,4,{before['net'][0]}", seconds=0.2)[0].startswith(
                ("TimeoutError", "OSError")
            )
            # Nobody else gets its address meanwhile.
            with sleeper(network=network) as third:
                assert third.addresses["net"] != before["net"]
            network.connect(second)
            assert second.addresses == before
            assert links(second) == ["eth0", "lo"]
            assert ask_all(first, {"bee": "4", before["net"][1]: "6"}) == ["b"] * 4
            assert ask_all(second, {"a": "4"}) == ["a"] * 2


def test_what_was_cut_off_gets_all_its_addresses_back(network: pc.Network) -> None:
    """Also where it had asked for one of them, and where it asks for others now."""
    mine, another = str(network.subnet[9]), str(network.subnet[11])
    with sleeper(network=network, ip_address=mine) as container, sleeper(network=network):
        four, six = container.addresses["net"]
        assert four == mine
        network.disconnect(container)
        with pytest.raises(pc.InvalidOption, match="is no host's"):
            network.connect(container, ip_address=str(network.subnet[0]))
        network.connect(container)
        assert container.addresses["net"] == (mine, six)
        network.disconnect(container)
        network.connect(container, ip_address=another)
        assert container.addresses["net"] == (another, six)
        with sleeper(network=network, ip_address=mine) as second:
            assert second.ip_address == mine


def test_who_was_cut_off_stays_so(network: pc.Network) -> None:
    """Until somebody connects it: a restart heals no partition."""
    with (
        sleeper(network=network, aliases=["x"], restart="always") as container,
        sleeper(network=network) as it,
    ):
        network.disconnect(container)
        container.restart(timeout=0)
        assert (container.addresses, links(container)) == ({}, ["lo"])
        network.connect(container)
        assert names_in(it)["x"] == container.ip_address
        container.restart(timeout=0)
        assert names_in(it)["x"] == container.ip_address


def test_what_a_created_one_says_of_its_network(network: pc.Network) -> None:
    static = str(network.subnet[9])
    with (
        pc.create("host", ["sleep", "1000"], network=network, aliases=["x"], ip_address=static) as container,
        sleeper(network=network) as second,
    ):
        with pytest.raises(pc.InvalidState, match="is on network net already"):
            network.connect(container)
        network.disconnect(container)
        with pytest.raises(pc.InvalidState, match="is not on network net"):
            network.disconnect(container)
        container.start()
        assert container.addresses == {}
        network.connect(container)
        assert container.ip_address == names_in(second)["x"] == static


def test_what_connect_and_disconnect_refuse(network: pc.Network, other: pc.Network) -> None:
    with sleeper(network=network) as first, sleeper(network=first) as second:
        with pytest.raises(pc.InvalidState, match="is on network net already"):
            network.connect(first)
        with pytest.raises(pc.InvalidState, match="is not on network other"):
            other.disconnect(first)
        with pytest.raises(pc.InvalidOption, match="no network of its own"):
            other.connect(second)
        third = pc.create("host", ["true"], network="host")
        with third, pytest.raises(pc.InvalidOption, match="no network of its own"):
            network.connect(third)
        for bad in ("10.0.0.0/8", "nobody"):
            with pytest.raises(pc.InvalidOption, match=r"^ip_address="):
                other.connect(first, ip_address=bad)
        with pytest.raises(pc.InvalidOption, match=r"^aliases="):
            other.connect(first, aliases="x")
        for verb in (other.connect, network.disconnect):
            with pytest.raises(pc.InvalidOption, match=r"^container='name': must be a Container"):
                verb("name")  # type: ignore[arg-type]
        assert [*first.addresses] == ["net"]
        assert other.containers == []
        gone = sleeper()
        gone.remove(force=True)
        with pytest.raises(pc.InvalidState):
            network.connect(gone)


# Addresses that were asked for.


def test_addresses_of_ones_own() -> None:
    subnet = ["10.7.0.0/24", "fd77::/64"]
    with pc.Network.create("static", subnet=subnet, internal=True) as network:
        assert [str(one) for one in network.subnets] == subnet
        with (
            server(network, "a", ip_address=["10.7.0.77", "fd77::77"]) as first,
            sleeper(network=network, ip_address="fd77::88") as second,
        ):
            assert first.addresses["static"] == ("10.7.0.77", "fd77::77")
            assert second.addresses["static"] == ("10.7.0.2", "fd77::88")
            assert ask_all(second, {"10.7.0.77": "4", "fd77::77": "6"}) == ["a"] * 4
            for taken in ("10.7.0.77", "10.7.0.2", "10.7.0.1", "fd77::77", "fd77::1"):
                with pytest.raises(pc.InvalidOption, match=rf"^ip_address='{taken}': is taken"):
                    sleeper(network=network, ip_address=taken)
            for outside in ("10.7.1.1", "fd78::1", "127.0.0.1"):
                with pytest.raises(pc.InvalidOption, match=rf"^ip_address='{outside}': is not in"):
                    sleeper(network=network, ip_address=outside)
            for nobodys in ("10.7.0.0", "10.7.0.255", "fd77::"):
                with pytest.raises(pc.InvalidOption, match=rf"^ip_address='{nobodys}': is no host's"):
                    sleeper(network=network, ip_address=nobodys)
            assert network.containers == [first, second]
            first.restart(timeout=0)
            assert first.addresses["static"] == ("10.7.0.77", "fd77::77")
            assert ask_all(second, {"10.7.0.77": "4", "fd77::77": "6"}) == ["a"] * 4
        with sleeper() as third:
            network.connect(third, ip_address="10.7.0.77")
            assert third.ip_address == "10.7.0.77"


@pytest.mark.parametrize(
    ("given", "four", "six"),
    [
        ("10.6.0.0/30", "10.6.0.0/30", None),
        (["10.6.0.0/24"], "10.6.0.0/24", None),
        (ipaddress.ip_network("10.6.0.0/24"), "10.6.0.0/24", None),
        ("fd66::/64", None, "fd66::/64"),
        (("fd66::/126", "10.6.0.0/16"), "10.6.0.0/16", "fd66::/126"),
        ("192.168.0.0/16", "192.168.0.0/16", None),
        (None, None, None),
        ([], None, None),
    ],
)
def test_subnets(given: object, four: str | None, six: str | None) -> None:
    with pc.Network.create("subnets", subnet=given, internal=True) as network:  # type: ignore[arg-type]
        own = [str(one) for one in network.subnets]
        assert four is None or own[0] == four
        assert six is None or own[1] == six
        assert network.subnets[0].subnet_of(ipaddress.ip_network(four or "10.128.0.0/9"))
        with server(network, "a", name="a") as container, sleeper() as second:
            assert container.ip_address == str(network.subnet[2])
            assert container.addresses["subnets"][1] == str(network.subnets[1][2])
            if network.subnet.num_addresses > 4 and network.subnets[1].num_addresses > 4:
                network.connect(second)
                assert ask_all(second, {"a": "4", container.addresses["subnets"][1]: "6"}) == ["a"] * 4


def test_no_address_is_left() -> None:
    with pc.Network.create("tiny", subnet="10.6.0.0/30", internal=True) as network:
        for _ in range(3):
            with server(network, "a") as container:
                assert container.ip_address == "10.6.0.2"
                with pytest.raises(pc.ContainerError, match=r"no free address in 10\.6\.0\.0/30"):
                    sleeper(network=network)
                with sleeper() as second:
                    with pytest.raises(pc.ContainerError, match="no free address"):
                        network.connect(second)
                    assert (second.addresses, links(second)) == ({}, ["lo"])
                assert network.containers == [container]


def has_link(sock: socket.socket, name: str) -> bool:
    """Whether there is such a link where the socket is: netdevice(7)."""
    try:
        fcntl.ioctl(sock, _SIOCGIFINDEX, name.encode().ljust(40, b"\0"))
    except OSError as error:
        assert error.errno == errno.ENODEV
        return False
    return True


_SIOCGIFINDEX = 0x8933


def test_an_address_that_is_used_again_is_one_containers_alone() -> None:
    """Also where somebody has something of the namespace of the one before."""
    with (
        pc.Network.create("again", subnet="10.6.0.0/29", internal=True) as network,
        sleeper(network=network) as client,
        server(network, "1", ip_address="10.6.0.6") as first,
        first.listen(0) as held,
    ):
        first.remove(force=True)
        assert has_link(held, "eth0")
        with server(network, "2", ip_address="10.6.0.6"):
            assert not has_link(held, "eth0")
            assert ask_all(client, {"10.6.0.6": "4"}) == ["2"] * 2


def test_addresses_go_round(network: pc.Network) -> None:
    found = []
    for _ in range(3):
        with sleeper(network=network) as container:
            found.append(container.ip_address)
    assert len(set(found)) == 3


def test_mtu() -> None:
    with (
        pc.Network.create("small", mtu=1280, internal=True) as network,
        sleeper(network=network) as container,
        sleeper() as second,
    ):
        network.connect(second)
        for one in (container, second):
            assert see(one, "cat /sys/class/net/eth0/mtu 2>/dev/null || ip link show eth0").find("1280") >= 0


def test_an_ipv6_subnet_where_there_is_no_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subnets, "has_ipv6", lambda: False)
    with pytest.raises(CapabilityUnavailable, match="IPv6"):
        pc.Network.create("six", subnet="fd66::/64", internal=True)
    with pc.Network.create("four", internal=True) as network, sleeper(network=network) as container:
        assert [one.version for one in network.subnets] == [4]
        assert len(container.addresses["four"]) == 1
        with pytest.raises(pc.InvalidOption, match="no IPv6"):
            sleeper(network=network, ip_address="fd66::5")
        assert network.containers == [container]


# A namespace that is shared.


def test_a_shared_network(network: pc.Network) -> None:
    with (
        server(network, "a", name="a") as lender,
        sleeper(network=lender) as follower,
        server(network, "b", name="b"),
    ):
        assert see(follower, "readlink /proc/self/ns/net") == see(lender, "readlink /proc/self/ns/net")
        assert follower.addresses == lender.addresses
        assert ask(follower, "tcp,4,127.0.0.1", "tcp,4,a", "tcp,4,b") == ["a", "a", "b"]
        with server(network, "c", name="c"):
            assert ask(follower, "tcp,4,c") == ["c"]
        assert "c" not in names_in(follower)
        assert network.containers != [lender, follower]
        # One more, of the follower.
        with sleeper(network=follower) as third:
            assert ask(third, "tcp,4,127.0.0.1", "tcp,4,b") == ["a", "b"]
            with server(network, "d", name="d"):
                assert ask(third, "tcp,4,d") == ["d"]


def test_a_shared_network_that_is_none() -> None:
    with server("none", "a") as lender, sleeper(network=lender) as follower:
        assert ask(follower, "tcp,4,127.0.0.1", "tcp,6,::1") == ["a", "a"]
        assert links(follower) == ["lo"]
        with pc.Network.create("later", internal=True) as network, server(network, "b", name="b"):
            network.connect(lender)
            assert links(follower) == ["eth0", "lo"]
            assert ask(follower, "tcp,4,b") == ["b"]


def test_the_lender_ends_first(network: pc.Network) -> None:
    with server(network, "b", name="b") as second:
        lender = server(network, "a", name="a")
        with sleeper(network=lender) as follower:
            before = see(follower, "readlink /proc/self/ns/net")
            lender.kill()
            lender.wait(60)
            assert follower.status == "running"
            assert see(follower, "readlink /proc/self/ns/net") == before
            assert names_in(follower).keys().isdisjoint({"a", "b"})
            assert "a" not in names_in(second)
            with pytest.raises(pc.InvalidState):
                follower.restart(timeout=0)
            lender.start()
            follower.start()
            assert ask(follower, "tcp,4,127.0.0.1", "tcp,4,b") == ["a", "b"]
            lender.remove(force=True)
        with pytest.raises(pc.InvalidState), pc.create("host", ["true"], network=lender) as late:
            late.start()


def test_a_lender_that_starts_again_has_another_namespace(network: pc.Network) -> None:
    with server(network, "a") as lender, sleeper(network=lender) as follower, server(network, "b", name="b"):
        lender.restart(timeout=0)
        assert lender.addresses != {}
        assert (follower.addresses, follower.ip_address, links(follower)) == ({}, None, ["lo"])
        assert "b" not in names_in(follower)
        follower.restart(timeout=0)
        assert follower.addresses == lender.addresses
        assert names_in(follower)["b"]
        follower.stop(0)
        assert follower.addresses == {}


def test_a_lender_must_run() -> None:
    with pc.create("host", ["true"]) as created, pytest.raises(pc.InvalidState):
        sleeper(network=created)


# What users who are not root may do with a network of their own.

PING = """
import os, socket, struct
print(os.getuid())
socket.create_server(("", 80))
for family, kind, protocol in ((socket.AF_INET, 8, socket.IPPROTO_ICMP), (socket.AF_INET6, 128, 58)):
    ping = socket.socket(family, socket.SOCK_DGRAM, protocol)
    ping.settimeout(10)
    ping.connect(("localhost", 0))
    ping.send(struct.pack("!BBHHH", kind, 0, 0, 0, 1) + b"abc")
    print(ping.recv(100)[-3:].decode())
"""


@pytest.mark.parametrize("user", ["0", "1000:1000"])
@pytest.mark.parametrize("which", ["none", "bridge", "another's"])
def test_low_ports_and_ping(network: pc.Network, which: str, user: str) -> None:
    if user != "0" and os.getuid() != 0:
        maps = session.current().supervisor.idmap
        need(maps is None or maps.many, "a range in /etc/subuid")
    before = [Path(sysctl).read_text() for sysctl in SYSCTLS]
    with sleeper(network=network) as lender:
        chosen = {"none": "none", "bridge": network, "another's": lender}[which]
        done = pc.run("host", [*PYTHON, PING], network=chosen, user=user, capture_output=True, timeout=60)
    assert (done.stdout.split(), done.stderr) == ([user.partition(":")[0].encode(), b"abc", b"abc"], b"")
    assert [Path(sysctl).read_text() for sysctl in SYSCTLS] == before


SYSCTLS = ("/proc/sys/net/ipv4/ip_unprivileged_port_start", "/proc/sys/net/ipv4/ping_group_range")


def test_a_caller_may_keep_low_ports_from_users() -> None:
    done = pc.run(
        "host",
        ["cat", SYSCTLS[0]],
        sysctls={"net.ipv4.ip_unprivileged_port_start": 1024},
        capture_output=True,
    )
    assert done.stdout == b"1024\n"


# Starts again, and starts from templates.


def test_a_restart_gets_a_working_network(network: pc.Network) -> None:
    with server(network, "a", name="a", restart="always") as first, sleeper(network=network) as second:
        for _ in range(3):
            first.restart(timeout=0)
            assert ask_all(second, {"a": "4", first.addresses["net"][1]: "6"}) == ["a"] * 4


def test_a_restart_policy_gets_a_working_network(network: pc.Network) -> None:
    options = {"network": network, "name": "a", "restart": "always"}
    with sleeper(network=network) as second, server(**options, says="a") as first:
        before = first.pid
        see(first, "kill -KILL $(cat /proc/1/task/1/children)")
        until(lambda: first.restarts == 1 and first.pid not in (None, before), "it was started again")
        until(lambda: ask(second, "tcp,4,a") == ["a"], "it answers again")


def test_prepare_seal_and_fork(network: pc.Network) -> None:
    image = pc.Image.host()
    with (
        server(network, "a", name="a"),
        sleeper(network=network) as client,
        image.create(["sleep", "1000"], network=network, aliases=["x"], dns=["10.0.0.53"]) as container,
    ):
        container.prepare([*PYTHON, ASK, "10", "tcp,4,a"])
        container.prepare(["sh", "-c", "cat /etc/resolv.conf /etc/hosts > /tmp/seen"])
        assert len(network.containers) == 2
        with container.seal() as template, template.fork() as one, template.fork() as two:
            seen = see(one, "cat /tmp/seen")
            assert "nameserver 10.0.0.53" in seen
            assert re.search(r"\ta ", seen)
            assert one.addresses["net"] != two.addresses["net"]
            assert ask(one, "tcp,4,a") == ask(two, "tcp,4,a") == ["a"]
            lines = [line.split() for line in see(client, "cat /etc/hosts").splitlines()]
            assert [line[0] for line in lines if "x" in line] == [one.ip_address, two.ip_address]
            with template.fork(network="none", aliases=None) as three:
                assert links(three) == ["lo"]


def test_run_on_a_network(network: pc.Network) -> None:
    with server(network, "a", name="a"):
        for _ in range(3):
            done = pc.run(
                "host",
                [*PYTHON, ASK, "10", "tcp,4,a", "udp,4,a"],
                network=network,
                capture_output=True,
                text=True,
            )
            assert done.stdout == "a\na\n"
        assert len(network.containers) == 1
        with pytest.raises(pc.Timeout):
            pc.run("host", ["sleep", "1000"], network=network, timeout=0.2)
        assert len(network.containers) == 1


# Many at once.


def test_forty_containers_from_four_threads(network: pc.Network) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = [*pool.map(lambda number: sleeper(network=network, name=f"c{number}"), range(40))]
        try:
            assert len({one.ip_address for one in made}) == 40
            wanted = {f"c{number}": one.ip_address for number, one in enumerate(made)}
            for one in (made[0], made[17], made[39]):
                found = names_in(one)
                assert {name: found.get(name) for name in wanted} == wanted
            assert {*network.containers} == {*made}
        finally:
            list(pool.map(lambda one: one.remove(force=True), made))
    assert network.containers == []


def test_coming_going_and_removing_at_once() -> None:
    """Whatever meets whatever: each start works, or says why not, and nothing is left."""
    errors: list[BaseException] = []

    def come_and_go(network: pc.Network) -> None:
        try:
            for _ in range(10):
                try:
                    with sleeper(network=network) as container:
                        network.disconnect(container)
                        network.connect(container)
                except (pc.InvalidState, pc.LaunchError) as error:
                    assert network.removed, error
                    return
        except BaseException as error:
            errors.append(error)

    for number in range(3):
        network = pc.Network.create(f"busy{number}", internal=True)
        threads = [threading.Thread(target=come_and_go, args=(network,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        until(lambda one=network: len(one.containers) >= 2, "some are there")
        network.remove(force=True)
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
    assert errors == []


# Published ports, and the outside.


def told_at(where: tuple[str, int]) -> str:
    """What the server there says."""
    with socket.create_connection(where, 10) as asking:
        return asking.recv(100).decode()


def test_ports_of_a_container_on_a_network(network: pc.Network) -> None:
    with server(network, "a", ports=[PORT], restart="always") as first, sleeper(network=network) as second:
        for round in range(3):
            where = first.ports[PORT]
            assert told_at(where) == told_at(("::1", where.port)) == "a"
            assert ask_all(second, {first.ip_address or "": "4"}) == ["a"] * 2
            assert told_at(first.forward(PORT)) == "a"
            # Cut off from the others, not from this process.
            network.disconnect(first)
            assert told_at(where) == "a"
            network.connect(first)
            if round < 2:
                first.restart(timeout=0)
        where = first.ports[PORT]
        first.stop(0)
        with pytest.raises(ConnectionRefusedError):
            told_at(where)
        assert dict(first.ports) == {}


def test_a_port_that_is_taken_leaves_nothing_on_the_network(network: pc.Network) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, sleeper(network=network) as first:
        number = taken.getsockname()[1]
        before = names_in(first)
        with pytest.raises(pc.PortInUse, match=rf"{number}.*process {os.getpid()}"):
            server(network, "a", name="a", ports={PORT: number})
        assert network.containers == [first]
        assert names_in(first) == before
        with sleeper(name="holder", ports={PORT: None, "7000/udp": None}) as second:
            for name in (PORT, "7000/udp"):
                held = second.ports[name].port
                with pytest.raises(
                    pc.PortInUse, match=rf"{held}.*by container holder, process {os.getpid()}"
                ):
                    server(network, "a", name="a", ports={name: held})


@pytest.fixture
def outside() -> Iterator[None]:
    need(next(usermode.installed(), None) is not None, "pasta or slirp4netns")
    need(usermode.device_problem() is None, "a /dev/net/tun that may be opened")
    yield


def test_two_networks_with_an_outside_cannot_see_each_other(outside: None) -> None:
    with (
        pc.Network.create("one") as one,
        pc.Network.create("two") as two,
        server(one, "a", name="a") as first,
        sleeper(network=two) as second,
        sleeper() as third,
    ):
        assert len(routes(second)) >= 1
        four, six = first.addresses["one"]
        found = ask(second, f"tcp,4,{four}", f"udp,4,{four}", f"tcp,6,{six}", "tcp,4,a", seconds=0.5)
        assert "a" not in found
        # One route out, by the first of two.
        one.connect(third)
        two.connect(third)
        assert ask(third, "tcp,4,a") == ["a"]
        assert len(routes(third)) == len(routes(second))


def test_an_internal_and_an_outer_network(outside: None, network: pc.Network) -> None:
    with (
        pc.Network.create("outer") as outer,
        sleeper(network=network) as container,
        server(outer, "o", name="o"),
    ):
        assert routes(container) == []
        outer.connect(container)
        assert len(routes(container)) >= 1
        assert ask(container, "tcp,4,o") == ["o"]
        outer.disconnect(container)
        assert routes(container) == []
        outer.connect(container)
        assert len(routes(container)) >= 1
        outer.remove(force=True)
        until(lambda: routes(container) == [], "the route is gone")
        assert links(container) == ["eth0", "lo"]


def test_the_default_network_is_made_on_demand(outside: None) -> None:
    assert "bridge" not in [one.name for one in pc.Network.list()]
    with server("bridge", "a", name="a") as first, sleeper(network="bridge") as second:
        network = pc.Network.get("bridge")
        assert pc.Network.default() is network
        assert not network.internal
        assert [*first.addresses] == ["bridge"]
        assert ask(second, "tcp,4,a") == ["a"]
        network.disconnect(first)
        assert first.addresses == {}
        network.connect(first)
        with pytest.raises(pc.InvalidState, match="is on network bridge already"):
            network.connect(first)
    network.remove()
    with sleeper(network="bridge") as third:
        assert pc.Network.default() is not network
        assert [*third.addresses] == ["bridge"]
    pc.Network.default().remove()
