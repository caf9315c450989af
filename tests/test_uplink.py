"""The way from a network to the outside, in a world of its own: a "host" namespace, where the process under
test runs, and beyond it an "outside" with servers at addresses for documentation. Nothing leaves the
machine."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from pathlib import Path

import attrs
import pytest

from conftest import need
from network_campaign import Trap
from ordinary_user import PUBLIC, OrdinaryUser
from pycontainer import CapabilityUnavailable, LaunchError
from pycontainer.network import jobs, masquerade, netlink, uplink, usermode
from pycontainer.network.uplink import Uplink
from pycontainer.supervisor import client, plan

HOST, OUTSIDE = "198.51.100.2", "203.0.113.5"
HOST_6, OUTSIDE_6 = "2001:db8:1::2", "2001:db8:5::5"

SERVERS = f"""
import socket, threading
def answers(family, kind, address, port):
    s = socket.socket(family, kind)
    s.bind((address, port))
    if kind == socket.SOCK_STREAM:
        s.listen()
    def serve():
        while True:
            if kind == socket.SOCK_DGRAM:
                asked, peer = s.recvfrom(4096)
                s.sendto(peer[0].encode(), peer)
            else:
                connection, peer = s.accept()
                connection.sendall(peer[0].encode())
                connection.close()
    threading.Thread(target=serve).start()
for port in (53, 5353):
    answers(socket.AF_INET, socket.SOCK_DGRAM, "{OUTSIDE}", port)
answers(socket.AF_INET, socket.SOCK_STREAM, "{OUTSIDE}", 8080)
answers(socket.AF_INET6, socket.SOCK_STREAM, "{OUTSIDE_6}", 8080)
answers(socket.AF_INET6, socket.SOCK_DGRAM, "{OUTSIDE_6}", 5353)
print("ready", flush=True)
"""

SETUP = f"""
set -e
ip link add h0 netns $1 type veth peer name o0 netns $2
nsenter -t $1 -n sh -ec '
    ip link set lo up
    ip addr add {HOST}/24 dev h0; ip addr add {HOST_6}/64 dev h0 nodad; ip link set h0 up
    ip route add default via 198.51.100.1; ip route add default via 2001:db8:1::1'
nsenter -t $2 -n sh -ec '
    ip link set lo up
    ip addr add 198.51.100.1/24 dev o0; ip addr add 2001:db8:1::1/64 dev o0 nodad; ip link set o0 up
    ip addr add {OUTSIDE}/32 dev lo; ip addr add {OUTSIDE_6}/128 dev lo nodad'
nsenter -t $1 -m mount --bind "$3" /etc/resolv.conf
"""

PRELUDE = f"""
import json, os, socket, sys, time
from ipaddress import ip_address, ip_interface
from pycontainer.network import jobs, links, usermode
from pycontainer.network.uplink import Uplink
from pycontainer.supervisor import client
from pycontainer.supervisor.served import Served

HOST, OUTSIDE, HOST_6, OUTSIDE_6 = {(HOST, OUTSIDE, HOST_6, OUTSIDE_6)!r}
supervisor = client.default()

def bridge(ops):
    ops.netlink(links.bridge("br0", 100, mac=bytes([2, 0, 0, 0, 0, 1]), mtu=None), "br0")
    for text in ("10.9.0.1/24", "fd77::1/64"):
        ops.netlink(links.address(100, ip_interface(text)), text)

def plug(ops):
    pair, own_at = links.veth(
        "port", 101, master=100, peer="eth0", peer_index=2, peer_mac=bytes([2, 0, 0, 0, 0, 2]), mtu=None
    )
    ops.join_fd(1, jobs.CLONE_NEWNET)
    ops.netlink(pair, "port", namespace=0, own_at=own_at)
    ops.netlink(links.up(2), "eth0")
    for text in ("10.9.0.2/24", "fd77::2/64"):
        ops.netlink(links.address(2, ip_interface(text)), text)
    for text in ("10.9.0.1", "fd77::1"):
        ops.netlink(links.default_route(2, ip_address(text)), text)

switch = jobs.new_namespace(supervisor, bridge)
container = jobs.new_namespace(supervisor, lambda ops: None)
jobs.work(supervisor, plug, [switch, container])

def beside(ops):
    ops.join_fd(0, jobs.CLONE_NEWNET)
    ops.root("/")

sockets = Served(supervisor, beside, fds=[container])

def family_of(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET

def in_container(family, kind):
    found = socket.socket(fileno=sockets.socket(family, kind))
    found.settimeout(5)
    return found

def tcp(address, port=8080):
    with in_container(family_of(address), socket.SOCK_STREAM) as s:
        s.connect((address, port))
        return s.recv(100).decode()

def udp(address, port=5353):
    with in_container(family_of(address), socket.SOCK_DGRAM) as s:
        s.connect((address, port))
        s.send(b"who am I?")
        return s.recv(100).decode()

def devices():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        jobs.within(supervisor, switch, lambda ops: ops.give(1, "/proc/self/net/dev"), [theirs.fileno()])
        with open(socket.recv_fds(ours, 1, 1)[1][0]) as file:
            return {{line.split(":")[0].strip() for line in file if ":" in line}}
"""


@attrs.frozen
class World:
    """`host` is the PID of a process in the namespaces where the tests' programs run."""

    host: int
    directory: Path

    def command(self, argv: list[str]) -> list[str]:
        return ["nsenter", "-t", str(self.host), "-m", "-n", *argv]

    def output(self, *argv: str) -> str:
        return subprocess.run(self.command([*argv]), capture_output=True, text=True, check=True).stdout

    def start(self, script: str, helper: str, user: OrdinaryUser | None) -> subprocess.Popen[str]:
        """Runs `script` after the prelude, with one of the helpers alone on its PATH."""
        path = self.directory / helper
        if not path.exists():
            path.mkdir()
            found = shutil.which(helper)
            assert found is not None
            (path / helper).symlink_to(found)
        argv = [sys.executable, "-W", "error", "-c", PRELUDE + textwrap.dedent(script)]
        source = str(Path(jobs.__file__).parents[2])
        env = os.environ | {"PYTHONPATH": source, "PYTHONDONTWRITEBYTECODE": "1"}
        if user is not None:
            argv, env = user.command(argv), user.environment()
        # Programs that lead there need the usual one.
        argv = ["env", f"PATH={path}", *argv] if user is None else _path_last(argv, path)
        return subprocess.Popen(
            self.command(argv), env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/"
        )

    def run(self, script: str, helper: str, user: OrdinaryUser | None) -> object:
        """What the script printed last, as JSON."""
        with self.start(script, helper, user) as process:
            out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        return json.loads(out.splitlines()[-1])

    def others(self) -> list[str]:
        """What runs in the host's network namespace beside the process that keeps it."""
        ours = os.readlink(f"/proc/{self.host}/ns/net")
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and os.readlink(entry / "ns/net") == ours:
                    found.append(f"{entry.name} {(entry / 'comm').read_text().strip()}")
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
        return [line for line in found if line.split()[0] != str(self.host)]

    def await_nobody(self) -> None:
        """The supervisor of a process that has ended ends right after it."""
        deadline = time.monotonic() + 5
        while self.others() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert self.others() == []

    def network(self) -> dict[str, str]:
        """All that the host's own network is."""
        return {
            command: self.output(*command.split())
            for command in (
                "ip link",
                "ip addr",
                "ip route show table all",
                "ip -6 route show table all",
                "ip rule",
                "nft list ruleset",
            )
        } | {"sysctls": self.output("sh", "-c", "grep -r . /proc/sys/net 2>/dev/null | sort || true")}


def _path_last(argv: list[str], path: Path) -> list[str]:
    at = argv.index(sys.executable)
    return [*argv[:at], "env", f"PATH={path}", *argv[at:]]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    need(os.getuid() == 0, "root, who makes the namespaces around the process under test", of_root=True)
    for program in ("ip", "nft", "nsenter", "unshare"):
        need(shutil.which(program) is not None, program)
    directory = Path(tempfile.mkdtemp(prefix="pcuplink-", dir=PUBLIC))
    directory.chmod(0o755)
    (directory / "resolv.conf").write_text(f"nameserver {OUTSIDE}\n")
    sleep = ["unshare", "--mount", "--net", "sh", "-c", "echo ready; exec sleep infinity"]
    kept = [subprocess.Popen(sleep, stdout=subprocess.PIPE) for _ in range(2)]
    servers = None
    try:
        for process in kept:
            assert process.stdout is not None and process.stdout.readline()
        host, outside = (str(process.pid) for process in kept)
        resolv = str(directory / "resolv.conf")
        subprocess.run(["sh", "-c", SETUP, "sh", host, outside, resolv], check=True)
        enter = ["nsenter", "-t", outside, "-n", sys.executable, "-c", SERVERS]
        servers = subprocess.Popen(enter, stdout=subprocess.PIPE)
        assert servers.stdout is not None and servers.stdout.readline()
        yield World(kept[0].pid, directory)
    finally:
        for process in [*kept, servers]:
            if process is not None:
                process.kill()
                process.communicate()
        shutil.rmtree(directory)


@pytest.fixture(params=["slirp4netns", "pasta"])
def helper(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    need(shutil.which(name) is not None, name)
    need(os.path.exists(usermode.DEVICE), usermode.DEVICE)
    return name


@pytest.fixture(params=["root", "user"])
def user(request: pytest.FixtureRequest) -> OrdinaryUser | None:
    if request.param == "root":
        return None
    need(os.stat(usermode.DEVICE).st_mode & 0o006 == 0o006, f"{usermode.DEVICE} that everyone may open")
    found: OrdinaryUser = request.getfixturevalue("as_user")
    return found


def test_out(world: World, helper: str, user: OrdinaryUser | None) -> None:
    """TCP, UDP and names, in both families; what is outside sees the host, not the container."""
    script = """
    up = Uplink(supervisor, switch, ipv4=True, ipv6=True, mtu=None)
    server = str(up.nameservers[0])
    seen = [tcp(OUTSIDE), udp(OUTSIDE), udp(server, 53), tcp(OUTSIDE_6), udp(OUTSIDE_6)]
    print(json.dumps([up.helper.name, up.ended, up.ipv6, seen]))
    up.close()
    """
    name, ended, six, seen = world.run(script, helper, user)  # type: ignore[misc]
    assert (name, ended, six) == (helper, False, True)
    assert seen == [HOST, HOST, HOST, HOST_6, HOST_6]


def test_only_ipv4(world: World, helper: str) -> None:
    script = """
    up = Uplink(supervisor, switch, ipv4=True, ipv6=False, mtu=1400)
    try:
        six = tcp(OUTSIDE_6)
    except OSError as error:
        six = type(error).__name__
    print(json.dumps([up.ipv6, tcp(OUTSIDE), six]))
    up.close()
    """
    six, seen, refused = world.run(script, helper, None)  # type: ignore[misc]
    assert (six, seen) == (False, HOST)
    assert refused not in (HOST_6, "")


def test_the_hosts_loopback_cannot_be_reached(world: World, helper: str, user: OrdinaryUser | None) -> None:
    script = """
    up = Uplink(supervisor, switch, ipv4=True, ipv6=True, mtu=None)
    listeners = [socket.create_server((address, 0), family=family) for address, family in
                 [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)]]
    tap = up._tap
    connected = []
    for listener in listeners:
        port = listener.getsockname()[1]
        for address in map(str, [*tap.gateways, *tap.own, *tap.nameservers, "10.9.0.1", "fd77::1", HOST]):
            try:
                with in_container(family_of(address), socket.SOCK_STREAM) as s:
                    s.settimeout(0.15)
                    s.connect((address, port))
                    # A helper may accept before it knows.
                    if s.recv(1):
                        connected.append(address)
            except OSError:
                pass
        listener.setblocking(False)
        try:
            listener.accept()
            connected.append("accepted")
        except BlockingIOError:
            pass
        listener.close()
    print(json.dumps([connected, tcp(OUTSIDE)]))
    up.close()
    """
    assert world.run(script, helper, user) == [[], HOST]


def test_close_leaves_nothing(world: World, helper: str, user: OrdinaryUser | None) -> None:
    script = """
    before = sorted(os.listdir("/proc/self/fd"))
    links_before = sorted(devices())
    with_it = None
    for _ in range(2):
        up = Uplink(supervisor, switch, ipv4=True, ipv6=True, mtu=None)
        with_it = sorted(devices() - set(links_before))
        up.close()
        up.close()
        assert up.ended
    with in_container(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(0.2)
        s.connect((OUTSIDE, 5353))
        try:
            reached = s.send(b"?") and s.recv(100).decode()
        except OSError:
            reached = None
    pids = [pid for pid in os.listdir("/proc") if pid.isdigit() and os.path.exists(f"/proc/{pid}/comm")
            and comm(pid) in ("pasta", "pasta.avx2", "passt.avx2", "slirp4netns")]
    print(json.dumps([with_it, sorted(devices()) == links_before, reached, pids,
                      before == sorted(os.listdir("/proc/self/fd"))]))
    """
    functions = """
    def comm(pid):
        try:
            with open(f"/proc/{pid}/comm") as file:
                name = file.read().strip()
            return name if os.readlink(f"/proc/{pid}/ns/net") == os.readlink("/proc/self/ns/net") else ""
        except OSError:
            return ""
    """
    found = world.run(textwrap.dedent(functions) + textwrap.dedent(script), helper, user)
    assert found == [["up0"], True, None, [], True]
    world.await_nobody()


def test_nothing_outlives_a_killed_process(world: World, helper: str, user: OrdinaryUser | None) -> None:
    script = """
    up = Uplink(supervisor, switch, ipv4=True, ipv6=True, mtu=None)
    print(os.getpid(), flush=True)
    time.sleep(60)
    """
    with world.start(script, helper, user) as process:
        assert process.stdout is not None
        pid = process.stdout.readline()
        assert any(helper[:5] in line or "passt" in line for line in world.others())
        os.kill(int(pid), signal.SIGKILL)
        process.communicate()
    world.await_nobody()


def test_the_hosts_network_stays_as_it_is(world: World, helper: str, user: OrdinaryUser | None) -> None:
    before = world.network()
    script = """
    up = Uplink(supervisor, switch, ipv4=True, ipv6=True, mtu=None)
    tcp(OUTSIDE)
    print("up", flush=True)
    sys.stdin.read()
    up.close()
    """
    with world.start(script, helper, user) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        during = world.network()
        process.kill()
        process.communicate()
    assert during == before


def test_a_helper_that_dies(world: World, helper: str) -> None:
    script = """
    up = Uplink(supervisor, switch, ipv4=True, ipv6=False, mtu=None)
    up._job.end()
    deadline = time.monotonic() + 5
    while not up.ended and time.monotonic() < deadline:
        time.sleep(0.01)
    again = Uplink(supervisor, switch, ipv4=True, ipv6=False, mtu=None)
    print(json.dumps([up.ended, again.ended, tcp(OUTSIDE)]))
    up.close()
    again.close()
    """
    assert world.run(script, helper, None) == [True, False, HOST]


# What needs no outside.


@pytest.fixture
def undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usermode, "_works", set())
    monkeypatch.setattr(usermode, "_failed", {})


def program(directory: Path, name: str, script: str) -> None:
    directory.mkdir(exist_ok=True)
    (directory / name).write_text(f"#!/bin/sh\n{script}\n")
    (directory / name).chmod(0o755)


@pytest.fixture
def namespace() -> Iterator[int]:
    found = jobs.new_namespace(client.default(), lambda ops: None)
    yield found
    os.close(found)


def test_without_a_helper(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, undecided: None) -> None:
    program(tmp_path / "bin", "slirp4netns", "exit 0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "bin::.:")
    with pytest.raises(CapabilityUnavailable, match="install passt or slirp4netns"):
        usermode.choose()
    assert [found.problem for found in usermode.findings()] == ["not installed"] * 2
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert usermode.choose().path == str(tmp_path / "bin/slirp4netns")


@pytest.mark.usefixtures("undecided")
def test_a_device_that_may_not_be_opened(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, namespace: int
) -> None:
    monkeypatch.setattr(usermode, "DEVICE", str(tmp_path / "tun"))
    with pytest.raises(CapabilityUnavailable, match="modprobe tun"):
        Uplink(client.default(), namespace, ipv4=True, ipv6=False, mtu=None)
    (tmp_path / "tun").touch()
    monkeypatch.setattr(os, "access", lambda path, mode, **more: False)
    with pytest.raises(CapabilityUnavailable, match=f"chmod 0666 {tmp_path}/tun"):
        Uplink(client.default(), namespace, ipv4=True, ipv6=False, mtu=None)


@pytest.mark.usefixtures("undecided")
def test_what_a_failing_helper_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, namespace: int) -> None:
    monkeypatch.setattr(usermode, "device_problem", lambda: None)
    program(
        tmp_path, "slirp4netns", "echo 'Failed to send 5 bytes to syslog' >&2; echo 'no \x1b tap' >&2; exit 3"
    )
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LaunchError, match=r"starting slirp4netns \(no \? tap\)"):
        Uplink(client.default(), namespace, ipv4=True, ipv6=False, mtu=None)
    program(
        tmp_path, "slirp4netns", "i=0; while [ $i -lt 40000 ]; do echo much; i=$((i+1)); done >&2; exit 1"
    )
    with pytest.raises(LaunchError, match="much; much") as caught:
        Uplink(client.default(), namespace, ipv4=True, ipv6=False, mtu=None)
    assert len(str(caught.value)) < 3000
    program(tmp_path, "slirp4netns", "exit 1")
    (tmp_path / "slirp4netns").write_bytes(b"\x7fELF nonsense")
    with pytest.raises(LaunchError, match="ENOEXEC"):
        Uplink(client.default(), namespace, ipv4=True, ipv6=False, mtu=None)


@pytest.mark.usefixtures("undecided")
def test_the_other_helper_where_one_does_not_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, namespace: int
) -> None:
    monkeypatch.setattr(usermode, "device_problem", lambda: None)
    program(tmp_path, "slirp4netns", "echo refused here >&2; exit 1")
    program(tmp_path, "pasta", "echo 1; exec 1>&-; exec /bin/sleep 60")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert usermode.choose().name == "slirp4netns"
    up = Uplink(client.default(), namespace, ipv4=True, ipv6=False, mtu=None)
    assert (up.helper.name, usermode.choose().name, up.ended) == ("pasta", "pasta", False)
    up.close()
    first, second = usermode.findings()
    assert first.problem is not None and "refused here" in first.problem
    assert (second.name, second.problem) == ("pasta", None)
    # It has worked: from here on a failure is no reason to look for another one.
    program(tmp_path, "pasta", "echo later >&2; exit 1")
    with pytest.raises(LaunchError, match="later"):
        Uplink(client.default(), namespace, ipv4=True, ipv6=False, mtu=None)


def test_the_taps_subnet_is_in_nobodys_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    slirp = usermode.Helper("slirp4netns", "/bin/true", (), lambda tap: [])
    taken = [
        subnet for subnet in IPv4Network("169.254.0.0/16").subnets(new_prefix=24) if ".77." not in str(subnet)
    ]
    for _ in range(20):
        tap = usermode.tap(slirp, ipv4=True, ipv6=False, mtu=None, avoid=taken)
        assert str(tap.four) == "169.254.77.0/24"
    assert tap.nameservers == [IPv4Address("169.254.77.3")]
    with pytest.raises(CapabilityUnavailable, match="no free subnet"):
        usermode.tap(slirp, ipv4=True, ipv6=False, mtu=None, avoid=[*taken, IPv4Network("169.254.77.5/32")])
    monkeypatch.setattr(usermode, "ipv6_interface", lambda: None)
    assert usermode.tap(slirp, ipv4=True, ipv6=True, mtu=None).six is None
    with pytest.raises(CapabilityUnavailable, match="no default route for IPv6"):
        usermode.tap(slirp, ipv4=False, ipv6=True, mtu=None)


RULES = """
table inet pycontainer {
    chain forward {
        type filter hook forward priority filter; policy drop;
        ct state established,related accept
        iifname "br0" oifname "br0" accept
        iifname != "br0" drop
        oifname != "up0" drop
        ip daddr 169.254.77.3 udp dport 53 accept
        ip daddr 169.254.77.3 tcp dport 53 accept
        ip6 daddr fd00::3 udp dport 53 accept
        ip6 daddr fd00::3 tcp dport 53 accept
        ip daddr 169.254.77.0/24 drop
        ip6 daddr fd00::/64 drop
        ip6 daddr ::/80 drop
        accept
    }
    chain postrouting {
        type nat hook postrouting priority srcnat; policy accept;
        oifname "up0" meta l4proto udp masquerade to :32768-65535 random
        oifname "up0" masquerade
    }
}
"""


def test_rules_are_what_nft_shows() -> None:
    need(os.getuid() == 0, "root, who may enter a namespace from outside", of_root=True)
    need(shutil.which("nft") is not None, "nft")
    subnets = [IPv4Network("169.254.77.0/24"), IPv6Network("fd00::/64")]
    messages = masquerade.rules("br0", "up0", subnets=subnets, nameservers=[one[3] for one in subnets])
    earlier = masquerade.rules("br0", "up1", subnets=[], nameservers=[])

    def twice(ops: plan.Ops) -> None:
        for rules in (earlier, messages):
            ops.netlink(rules, "rules", protocol=netlink.NETFILTER)

    made = jobs.new_namespace(client.default(), twice)
    try:
        command = ["nsenter", f"--net=/proc/self/fd/{made}", "nft", "list", "ruleset"]
        shown = subprocess.run(command, pass_fds=[made], capture_output=True, text=True, check=True).stdout
    finally:
        os.close(made)
    assert shown.split() == RULES.split()


def test_a_batch_that_is_refused_is_refused_as_a_whole() -> None:
    bad = masquerade.rules("br0", "up0", subnets=[], nameservers=[]).replace(b"masq\0", b"mask\0")
    with pytest.raises(LaunchError, match="configuring the network: rules: ENOENT"):
        os.close(
            jobs.new_namespace(
                client.default(), lambda ops: ops.netlink(bad, "rules", protocol=netlink.NETFILTER)
            )
        )


def test_an_interrupted_close_can_be_repeated() -> None:
    """At whatever line Ctrl-C comes: no descriptor is closed twice, which may be somebody else's by then."""

    def strike(_: object) -> None:
        raise KeyboardInterrupt

    for point in range(20):
        made = Uplink.__new__(Uplink)
        made._lock, made._job = threading.Lock(), None
        made._stderr, _other = uplink._pipe(os.O_CLOEXEC)
        with contextlib.suppress(KeyboardInterrupt), Trap(point, strike):
            made.close()
        made.close()
