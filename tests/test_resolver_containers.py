"""Names over DNS, in containers."""

from __future__ import annotations

import ipaddress
import shutil
import time
from collections.abc import Iterator, Sequence

import pytest

import pycontainer as pc
from conftest import need
from containers import PYTHON, sleeper
from pycontainer.network import uplink, usermode
from resolvers import SECONDS


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


SERVER = """
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("", 53))
print("ready", flush=True)
while True:
    asked, peer = server.recvfrom(1000)
    end = asked.index(b"\\0", 12) + 5
    found = asked[end - 4 : end] == b"\\0\\1\\0\\1"
    head = asked[:2] + b"\\x81\\x80\\0\\1" + bytes([0, found, 0, 0, 0, 0])
    record = b"\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\1\\0\\0\\4\\xc0\\0\\2\\7"
    server.sendto(head + asked[12:end] + record * found, peer)
"""
"""Has 192.0.2.7 for every name."""


@pytest.mark.parametrize("begin", ["connected", "running"])
def test_a_network_that_leads_out(inner: pc.Network, monkeypatch: pytest.MonkeyPatch, begin: str) -> None:
    """One of its members plays the name server outside."""
    server = ipaddress.ip_address("10.78.0.9")
    monkeypatch.setattr(uplink.Uplink, "nameservers", property(lambda self: (server,)))
    need(next(usermode.installed(), None) is not None, "pasta or slirp4netns")
    need(usermode.device_problem() is None, "a /dev/net/tun that may be opened")
    with (
        pc.Network.create("outward", subnet="10.78.0.0/24") as network,
        pc.start(
            "host", [*PYTHON, SERVER], network=network, ip_address=str(server), wait=pc.wait.log("ready")
        ) as outside,
        pc.create("host", ["sleep", "1000"], network=inner, name="both") as both,
    ):
        if begin == "connected":
            network.connect(both)
        both.start()
        if begin == "running":
            assert see(both, ["cat", "/etc/resolv.conf"]) == f"nameserver {inner.gateway}\n"
            network.connect(both)
        # The other one would say that there is nothing outside.
        assert see(both, ["cat", "/etc/resolv.conf"]) == f"nameserver {network.gateway}\n"
        assert looked_up(both, "example.com") == ["192.0.2.7"]
        assert see(both, ["getent", "hosts", "example.com"]).split()[0] == "192.0.2.7"
        assert looked_up(both, "both") == [both.addresses["outward"][0]]
        assert see(both, ["getent", "hosts", "both"]).split()[0] in both.addresses["inner"]
        assert looked_up(both, outside.id[:12]) == [str(server)]


def test_one_that_was_killed_is_replaced(inner: pc.Network) -> None:
    with sleeper(network=inner, name="db") as db:
        assert inner._switch._resolver is not None
        job = inner._switch._resolver._job
        job.end()
        assert job.wait(SECONDS) is not None
        with sleeper(network=inner, name="web") as web:
            for one in (db, web):
                assert looked_up(web, str(one.name)) == [one.ip_address]
        assert looked_up(db, "web", 1) == []
