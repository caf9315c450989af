"""Networks as somebody uses them: a shop of two servers, networks that see nothing of each other, a cluster
that is partitioned, slowed and healed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import requests

import pycontainer as pc
from conftest import need
from containers import PYTHON, SECONDS, as_root, nothing_left, until
from ordinary_user import OrdinaryUser
from pycontainer.network import usermode
from test_uplink import HOST, OUTSIDE, World, world

__all__ = ["world"]

# A shop: a web server and its database.


@pytest.fixture(scope="module")
def shop() -> Iterator[tuple[pc.Network, pc.Container, pc.Container]]:
    import postgres
    import web_and_database

    try:
        root = postgres.root()
    except postgres.Unavailable as error:
        need(False, f"PostgreSQL from {postgres.MIRROR}: {error}")
    image = pc.Image.from_tar(root, config=postgres.CONFIG, tag="shop-of-tests:1")
    with (
        pc.Network.create("shop", internal=True) as network,
        web_and_database.database(image, network) as database,
        web_and_database.web(image, network) as web,
    ):
        yield network, database, web
    image.remove(force=True)


@as_root
def test_a_page_comes_from_the_database_by_name(
    shop: tuple[pc.Network, pc.Container, pc.Container],
) -> None:
    """From the host at the published port and at none, from other containers by name and at the port."""
    from web_and_database import PAGE, visits

    network, database, web = shop
    host, port = web.ports[80]
    began, address = visits(requests.get(f"http://{host}:{port}{PAGE}", timeout=10).text)
    assert address == web.ip_address
    assert database.ports == {}
    with requests.Session() as session:
        session.mount("http://shop/", pc.adapters.HTTPAdapter(web, port=80))
        assert visits(session.get(f"http://shop{PAGE}", timeout=10).text) == (began + 1, address)
    get = [
        *PYTHON,
        "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=10).read().decode())",
    ]
    found = []
    for options, where in (
        ({"network": network}, "web"),
        ({"network": network}, "www"),
        ({"network": web}, "localhost"),
        ({"network": "host"}, f"{host}:{port}"),
    ):
        done = pc.run(
            "host",
            [*get, f"http://{where}{PAGE}"],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            **options,
        )
        assert done.returncode == 0, (where, done.stderr)
        found.append(visits(done.stdout))
    assert found == [(number, address) for number in range(began + 2, began + 6)]
    # The database is asked from the host, too, though nothing of it is published.
    from postgres import PORT, Client

    with Client(database.connect(PORT, timeout=10)) as client:
        assert client.query("SELECT count(*) FROM visits") == [(str(began + 5),)]


@as_root
def test_the_page_is_away_while_the_database_is(
    shop: tuple[pc.Network, pc.Container, pc.Container],
) -> None:
    from web_and_database import PAGE, visits

    network, database, web = shop
    host, port = web.ports[80]
    page = f"http://{host}:{port}{PAGE}"
    before, _ = visits(requests.get(page, timeout=10).text)
    network.disconnect(database)
    assert "could not translate host name" in requests.get(page, timeout=10).text
    network.connect(database)
    assert visits(requests.get(page, timeout=10).text)[0] == before + 1


@as_root
@pytest.mark.rootless
def test_the_shop_of_an_ordinary_user(
    as_user: OrdinaryUser, shop: tuple[pc.Network, pc.Container, pc.Container]
) -> None:
    import postgres
    import web_and_database

    place = as_user.base / "shop"
    place.mkdir()
    for file in (postgres.__file__, web_and_database.__file__):
        shutil.copy(str(file), place)
    archive = place / "root.tar"
    shutil.copy(postgres.root(), archive)
    archive.chmod(0o644)
    as_user(
        f"""
        import sys, urllib.request
        sys.path.insert(0, {str(place)!r})
        import pycontainer as pc
        from web_and_database import CONFIG, PAGE, database, visits, web
        image = pc.Image.from_tar({str(archive)!r}, config=CONFIG)
        with pc.Network.create("shop", internal=True) as network:
            with database(image, network), web(image, network) as server:
                host, port = server.ports[80]
                with urllib.request.urlopen(f"http://{{host}}:{{port}}{{PAGE}}", timeout=10) as page:
                    assert visits(page.read().decode()) == (1, server.ip_address)
                get = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1]).read().decode())"
                done = pc.run("host", [sys.executable, "-c", get, f"http://web{{PAGE}}"], network=network,
                              capture_output=True, text=True, check=True)
                assert visits(done.stdout) == (2, server.ip_address)
        image.remove()
        """,
        timeout=120,
    )
    shutil.rmtree(place)


# Networks that see nothing of each other.

SERVER = """
import socket, threading
def serve(family, kind):
    s = socket.socket(family, kind)
    if family == socket.AF_INET6:
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    s.bind(("", 7000))
    if kind == socket.SOCK_STREAM:
        s.listen()
    def run():
        while True:
            if kind == socket.SOCK_STREAM:
                link, peer = s.accept()
                link.sendall(b"secret")
                link.close()
            else:
                _, peer = s.recvfrom(100)
                s.sendto(b"secret", peer)
            print("from", peer[0], flush=True)
    threading.Thread(target=run).start()
for family in (socket.AF_INET, socket.AF_INET6):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        serve(family, kind)
print("up", flush=True)
"""
ASK = """
import errno, socket, sys, threading
answers = {}
def ask(target):
    kind, host, port = target.split(",")
    try:
        kind = getattr(socket, kind)
        found = socket.getaddrinfo(host, int(port), type=kind)[0]
        with socket.socket(found[0], kind) as s:
            s.settimeout(1)
            s.connect(found[4])
            s.sendall(b"?")
            answers[target] = s.recv(100).decode()
    except OSError as error:
        answers[target] = errno.errorcode.get(error.errno, type(error).__name__)
threads = [threading.Thread(target=ask, args=(target,)) for target in sys.argv[1:]]
for each in threads:
    each.start()
for each in threads:
    each.join()
print(*(answers[target] for target in sys.argv[1:]))
"""
FRAMES = """
import socket, struct, sys
target, mac = sys.argv[1], bytes.fromhex(sys.argv[2].replace(":", ""))
def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff
def packet(source):
    udp = struct.pack("!HHHH", 7000, 7000, 9, 0) + b"!"
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0,
                       socket.inet_aton(source), socket.inet_aton(target))
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + udp
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as s:
    s.bind(("eth0", 0))
    for to in (mac, bytes([255] * 6)):
        for source in sys.argv[3:]:
            s.send(to + mac + b"\\x08\\x00" + packet(source))
print("sent")
"""


def ask(container: pc.Container, *targets: str) -> list[str]:
    done = container.exec([*PYTHON, ASK, *targets], capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    return str(done.stdout).split()


def all_ways(*hosts: str, port: int = 7000) -> list[str]:
    return [f"{kind},{host},{port}" for host in hosts for kind in ("SOCK_STREAM", "SOCK_DGRAM")]


def server(network: pc.Network, **options: Any) -> pc.Container:
    options = {"network": network, "wait": pc.wait.log("up"), **options}
    return pc.start("host", [*PYTHON, SERVER], **options)


def heard(container: pc.Container) -> list[str]:
    return str(container.logs(text=True)).split("\n")[1:-1]


def sh(container: pc.Container, script: str) -> None:
    done = container.exec(["sh", "-ec", script], capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr


def mac_of(container: pc.Container) -> str:
    done = container.exec(["cat", "/sys/class/net/eth0/address"], capture_output=True, text=True, check=True)
    return str(done.stdout).strip()


def test_nobody_gets_from_one_network_into_another() -> None:
    """With every right over one's own links, by addresses, names, forged routes, neighbours and frames."""
    need(shutil.which("ip") is not None, "ip")
    with (
        nothing_left(),
        pc.Network.create("n0", subnet=["10.81.0.0/24", "fd81::/64"], internal=True) as one,
        pc.Network.create("n1", subnet=["10.82.0.0/24", "fd82::/64"], internal=True) as other,
        server(one, name="friend") as friend,
        server(other, name="target", aliases=["db"]) as target,
        pc.start("host", ["sleep", "1000"], network=one, cap_add=["NET_ADMIN", "NET_RAW"]) as attacker,
    ):
        four, six = target.addresses["n1"]
        ways = all_ways(four, six, "target", "db", target.id[:12])
        assert ask(attacker, *all_ways(*friend.addresses["n0"], "friend")) == ["secret"] * 6
        assert "secret" not in ask(attacker, *ways)
        # As if it were on the same link.
        sh(attacker, "ip route add 10.82.0.0/24 dev eth0; ip -6 route add fd82::/64 dev eth0")
        assert "secret" not in ask(attacker, *ways)
        mac = mac_of(target)
        for neighbour in (mac, _mac_of_gateway(one)):
            sh(
                attacker,
                f"ip neigh replace {four} lladdr {neighbour} dev eth0; "
                f"ip -6 neigh replace {six} lladdr {neighbour} dev eth0",
            )
            assert "secret" not in ask(attacker, *ways)
        # As one of theirs.
        sh(attacker, "ip address add 10.82.0.77/24 dev eth0; ip address add fd82::77/64 dev eth0 nodad")
        assert "secret" not in ask(attacker, *ways)
        # Through what they have in common, which is nothing.
        sh(
            attacker,
            "ip route replace default via 10.81.0.1; ip -6 route replace default via fd81::1; "
            "ip address del 10.82.0.77/24 dev eth0; ip address del fd82::77/64 dev eth0; "
            "ip route flush 10.82.0.0/24; ip -6 route flush fd82::/64",
        )
        assert "secret" not in ask(attacker, *ways)
        sent = attacker.exec(
            [*PYTHON, FRAMES, four, mac, str(attacker.ip_address), "10.82.0.1", "10.82.0.77"],
            capture_output=True,
            text=True,
        )
        assert sent.stdout == "sent\n", sent.stderr
        assert ask(attacker, *all_ways("friend")) == ["secret"] * 2
        assert heard(target) == []
        # It is there all the same.
        with pc.start("host", ["sleep", "1000"], network=other) as neighbour:
            assert ask(neighbour, *ways) == ["secret"] * len(ways)
        until(lambda: len(heard(target)) == len(ways), "what it heard")


def _mac_of_gateway(network: pc.Network) -> str:
    """A locally administered one that its IPv4 address tells."""
    return "02:42:" + ":".join(f"{int(part):02x}" for part in network.gateway.split("."))


def test_internal_has_no_way_to_the_host() -> None:
    """Nor to what listens at its loopback, by whatever route."""
    need(shutil.which("ip") is not None, "ip")
    with contextlib.ExitStack() as held:
        ports = []
        for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            listener = held.enter_context(socket.create_server((address, 0), family=family))
            ports.append(listener.getsockname()[1])
        network = held.enter_context(pc.Network.create("inner", internal=True))
        inside = held.enter_context(
            pc.start("host", ["sleep", "1000"], network=network, cap_add=["NET_ADMIN", "NET_RAW"])
        )
        gateways = [str(subnet[1]) for subnet in network.subnets]
        targets = [
            f"SOCK_STREAM,{host},{port}"
            for host, port in zip(["127.0.0.1", "::1", *gateways], ports * 2, strict=False)
        ]
        targets += [f"SOCK_STREAM,192.0.2.1,{ports[0]}", "SOCK_DGRAM,192.0.2.1,53"]
        assert {*ask(inside, *targets)} <= {"ECONNREFUSED", "ENETUNREACH"}
        sh(inside, f"ip route add default via {gateways[0]}; ip route add 127.9.0.0/16 via {gateways[0]}")
        sh(inside, "echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet || true")
        found = ask(inside, *targets, f"SOCK_STREAM,127.9.0.1,{ports[0]}")
        assert {*found} <= {"ECONNREFUSED", "ENETUNREACH", "EHOSTUNREACH", "TimeoutError", "EINVAL"}, found


# The outside, in namespaces of the test's own.

BEYOND = """
import errno, gc, json, socket, sys, threading
import pycontainer as pc
from pycontainer.network.usermode import Tap
HOST, OUTSIDE, HOST_6, OUTSIDE_6, ASK, PYTHON = json.loads(sys.argv[1])

def listen(address, family=socket.AF_INET):
    listener = socket.create_server((address, 0), family=family)
    def serve():
        while True:
            link, _ = listener.accept()
            link.sendall(b"host")
            link.close()
    threading.Thread(target=serve, daemon=True).start()
    return listener.getsockname()[1]

loopback, loopback_6 = listen("127.0.0.1"), listen("::1", socket.AF_INET6)
everywhere = listen("0.0.0.0")

def ask(container, *targets):
    done = container.exec([*PYTHON, ASK, *targets], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()

SERVER = '''
import socket
listener = socket.create_server(("", 80))
print("up", flush=True)
while True:
    link, peer = listener.accept()
    link.sendall(b"web")
    link.close()
'''
sleep = ["sleep", "1000"]
with pc.Network.create("out") as out, pc.Network.create("in", internal=True) as inner:
    with (
        pc.start("host", sleep, network=out) as client,
        pc.start("host", sleep, network=inner, cap_add=["NET_ADMIN"]) as shut,
        pc.start("host", [*PYTHON, SERVER], network=out, name="web", ports={80: (HOST, None)},
                 wait=pc.wait.log("up")) as web,
    ):
        (tap,) = (one for one in gc.get_objects() if isinstance(one, Tap))
        near = [str(one) for one in [*tap.own, *tap.gateways, *(subnet[1] for subnet in out.subnets)]]
        published = web.ports[80].port
        beyond = [f"SOCK_STREAM,{OUTSIDE},8080", f"SOCK_DGRAM,{OUTSIDE},5353"]
        beyond_6 = [f"SOCK_STREAM,{OUTSIDE_6},8080", f"SOCK_DGRAM,{OUTSIDE_6},5353"]
        lo = [f"SOCK_STREAM,{host},{port}" for port in (loopback, loopback_6)
              for host in ("127.0.0.1", "::1", HOST, HOST_6, *near)]
        said = {
            "out": ask(client, *beyond),
            "out, IPv6": ask(client, *beyond_6),
            "web by name": ask(client, "SOCK_STREAM,web,80"),
            "web at the host's address": ask(client, f"SOCK_STREAM,{HOST},{published}"),
            "loopback": ask(client, *lo),
        }
        gateway = inner.gateway
        where = [*beyond, *beyond_6, f"SOCK_STREAM,{HOST},{everywhere}", f"SOCK_STREAM,{HOST},{published}",
                 f"SOCK_STREAM,{gateway},{everywhere}", *lo]
        said["in"] = ask(shut, *where)
        shut.exec(["sh", "-c", f"ip route add default via {gateway}"], check=True)
        said["in, forged"] = ask(shut, *where)
        print(json.dumps(said), published, flush=True)
        sys.stdin.readline()
"""


@as_root
@pytest.mark.parametrize("who", ["root", "ordinary user"])
def test_the_outside(world: World, who: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """What leads out is masqueraded; what is internal leads nowhere; nobody gets to the host's loopback."""
    from test_uplink import HOST_6, OUTSIDE_6

    problem = usermode.device_problem()
    need(problem is None and any(usermode.installed()), f"a way out of networks: {problem or 'no helper'}")
    values = json.dumps([HOST, OUTSIDE, HOST_6, OUTSIDE_6, ASK, PYTHON])
    argv = [sys.executable, "-W", "error", "-c", textwrap.dedent(BEYOND), values]
    env = os.environ | {"PYTHONPATH": str(Path(pc.__file__).parents[1]), "PYCONTAINER_STORE": str(tmp_path)}
    if who != "root":
        need(os.stat(usermode.DEVICE).st_mode & 0o006 == 0o006, f"{usermode.DEVICE} that everyone may open")
        user: OrdinaryUser = request.getfixturevalue("as_user")
        argv, env = user.command(argv), user.environment()
    # New links look for others with their addresses, and use them then.
    until(lambda: "tentative" not in world.output("ip", "address"), "the host's links are ready")
    before = world.network()
    pipe = subprocess.PIPE
    with subprocess.Popen(
        world.command(argv), env=env, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd="/"
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        line = process.stdout.readline()
        assert line, process.stderr.read()
        text, _, port = line.rpartition(" ")
        said = json.loads(text)
        assert said["out"] == [HOST, HOST]
        assert said["out, IPv6"] == [HOST_6, HOST_6]
        assert said["web by name"] == said["web at the host's address"] == ["web"]
        for refused in ("loopback", "in", "in, forged"):
            assert not {*said[refused]} & {"host", "web", HOST, HOST_6}, (refused, said[refused])
        # The host's own network is what it was, and who is beyond it reaches the published port.
        assert world.network() == before
        outside = _outside(world)
        fetch = f"import socket; print(socket.create_connection(({HOST!r}, {int(port)}), 5).recv(9).decode())"
        enter = ["nsenter", "-t", outside, "-n", *PYTHON, fetch]
        assert subprocess.run(enter, capture_output=True, text=True, check=True).stdout == "web\n"
        _, errors = process.communicate("\n", timeout=60)
        assert process.returncode == 0, errors
    until(lambda: world.others() == [], "its processes are gone")
    assert world.network() == before


def _outside(world: World) -> str:
    """A process in the namespace beyond the host's, to which the host's link leads."""
    peer = json.loads(world.output("ip", "-j", "link", "show", "h0"))[0]["link_netnsid"]
    listed = json.loads(world.output("lsns", "-J", "-t", "net", "-o", "NETNSID,PID"))["namespaces"]
    return next(str(one["pid"]) for one in listed if str(one["netnsid"]) == str(peer))


# A cluster of five.

NODE = """
import json, socket, sys, threading, time
me, names = sys.argv[1], sys.argv[2:]
seen, late = {}, {}
beats = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
beats.bind(("", 7000))
def listen():
    while True:
        name, sent = json.loads(beats.recv(1000))
        # All containers of a machine have one monotonic clock.
        seen[name] = time.monotonic()
        late[name] = seen[name] - sent
def beat():
    while True:
        for name in names:
            if name != me:
                try:
                    beats.sendto(json.dumps([me, time.monotonic()]).encode(), (name, 7000))
                except OSError:
                    pass
        time.sleep(0.03)
def view():
    now = time.monotonic()
    alive = sorted([me, *(name for name, at in seen.items() if now - at < 1)])
    return {"leader": alive[0] if len(alive) > len(names) // 2 else None, "alive": alive,
            "late": min((late[name] for name in alive if name != me), default=None)}
for run in (listen, beat):
    threading.Thread(target=run, daemon=True).start()
server = socket.create_server(("", 7001))
while True:
    link, _ = server.accept()
    with link:
        asked = link.recv(100)
        link.sendall(bytes(100_000) if asked == b"bulk" else json.dumps(view()).encode())
"""
BULK = """
import socket, sys, time
began = time.monotonic()
with socket.create_connection((sys.argv[1], 7001), timeout=30) as link:
    link.sendall(b"bulk")
    size = 0
    while data := link.recv(65536):
        size += len(data)
print(size, time.monotonic() - began)
"""
NAMES = [f"n{number}" for number in range(1, 6)]


def view(node: pc.Container) -> dict[str, Any]:
    """What a node says of the others, on a connection that no network carries."""
    with node.connect(7001, timeout=10) as link:
        link.sendall(b"view")
        link.shutdown(socket.SHUT_WR)
        found: dict[str, Any] = json.loads(b"".join(iter(lambda: link.recv(65536), b"")))
    return found


def agree(nodes: Sequence[pc.Container], leader: str | None, alive: Sequence[str]) -> None:
    """All of them have that leader, and see exactly those."""
    until(
        lambda: all((seen := view(node))["leader"] == leader and seen["alive"] == [*alive] for node in nodes),
        f"{alive} agree on {leader}",
        seconds=20,
    )


def test_a_cluster_that_is_partitioned_slowed_and_healed() -> None:
    with contextlib.ExitStack() as held, nothing_left():
        stack = contextlib.ExitStack()
        network = stack.enter_context(pc.Network.create("cluster", internal=True))
        side = stack.enter_context(pc.Network.create("side", internal=True))
        held.callback(stack.close)
        nodes = [
            stack.enter_context(
                pc.start(
                    "host",
                    [*PYTHON, NODE, name, *NAMES],
                    name=name,
                    network=network,
                    wait=pc.wait.listening(7001),
                )
            )
            for name in NAMES
        ]
        agree(nodes, "n1", NAMES)
        # One is alone.
        network.disconnect(nodes[0])
        agree(nodes[1:], "n2", NAMES[1:])
        agree(nodes[:1], None, ["n1"])
        network.connect(nodes[0])
        agree(nodes, "n1", NAMES)
        # Two are a minority of their own.
        for node in nodes[:2]:
            network.disconnect(node)
            side.connect(node)
        agree(nodes[2:], "n3", NAMES[2:])
        agree(nodes[:2], None, NAMES[:2])
        for node in nodes[:2]:
            side.disconnect(node)
            network.connect(node)
        agree(nodes, "n1", NAMES)
        # Slow, and still one.
        network.impair(delay="100ms", jitter=0.02)
        until(lambda: all(view(node)["late"] >= 0.1 for node in nodes), "everything is late")
        agree(nodes, "n1", NAMES)
        network.impair(loss=1)
        for node in nodes:
            agree([node], None, [str(node.name)])
        network.impair(loss=0.3)
        agree(nodes, "n1", NAMES)
        network.impair(rate="200k")
        assert _bulk(nodes[1], "n3") > 0.3
        # Somebody is away, and comes back, meanwhile.
        nodes[2].restart(0)
        nodes[2].wait_until(pc.wait.listening(7001))
        agree(nodes, "n1", NAMES)
        network.impair()
        until(lambda: all(view(node)["late"] < 0.05 for node in nodes), "nothing is late")
        assert _bulk(nodes[1], "n3") < 0.3
        agree(nodes, "n1", NAMES)
        stack.close()


def _bulk(node: pc.Container, source: str) -> float:
    """Seconds for 100,000 bytes."""
    done = node.exec([*PYTHON, BULK, source], capture_output=True, text=True, timeout=SECONDS)
    size, took = done.stdout.split()
    assert int(size) == 100_000
    return float(took)
