"""The network of a persistent container: its keeper's, and there for every process."""

from __future__ import annotations

import ipaddress
import json
import os
import random
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pycontainer as pc
import shell_root
from conftest import need
from containers import PYTHON, nothing_left, until
from keepers import all_removed, elsewhere, keeper_of, persistent, state, supervisor_of
from pycontainer.keeping import plain
from pycontainer.keeping.record import Record
from pycontainer.network import usermode
from pycontainer.publishing import HostPort, Ports
from pycontainer.store.persistent import STATE

SERVER = """
import socket
server = socket.create_server(("127.0.0.1", 80))
print("up", flush=True)
while True:
    connection, _ = server.accept()
    connection.sendall(b"hello")
    connection.close()
"""
ONCE = SERVER.replace("while True", "for _ in range(1)")


@pytest.fixture(autouse=True)
def removed() -> Iterator[None]:
    with all_removed():
        yield


def server(code: str = SERVER, **options: Any) -> pc.Container:
    return persistent(*PYTHON, code, wait=pc.wait.log("up"), **options)


def free_port() -> int:
    """Below those that the kernel gives to whoever connects, so that nobody gets it meanwhile."""
    return next(port for port in random.sample(range(20000, 32000), 1000) if is_free(port))


def said_at(where: tuple[str, int]) -> bytes:
    with socket.create_connection(where, timeout=10) as link:
        return link.recv(100)


def is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def need_the_outside() -> None:
    found = usermode.findings()
    problems = "; ".join(f"{one.name}: {one.problem}" for one in found)
    need(any(one.problem is None for one in found), f"a way out of networks: {problems}")


def test_its_ports_are_there_in_another_process() -> None:
    container = server(name="server", ports=[80, "53/udp"], annotations={"note": "mine"})
    assert isinstance(container.ports, Ports)
    assert [*container.ports] == ["80/tcp", "53/udp"]
    assert isinstance(container.ports[80], HostPort)
    assert said_at(container.ports[80]) == b"hello"
    lines = elsewhere(
        """
        import socket
        c = pc.Container.get("server")
        with socket.create_connection(c.ports["80/tcp"], timeout=10) as link:
            print(link.recv(100), c.ports[80].port, c.annotations, c.addresses, c.ip_address)
        """
    )
    assert lines == [f"b'hello' {container.ports[80].port} {{'note': 'mine'}} {{}} None"]


def test_the_record_has_its_ports_from_each_start_to_the_end() -> None:
    port = free_port()
    container = pc.create("host", [*PYTHON, SERVER], persist=True, ports={80: port}, wait=pc.wait.log("up"))
    assert (container.ports, state(container)["ports"]) == ({}, {})
    for _ in range(2):
        container.start()
        assert state(container)["ports"] == {"80/tcp": [["127.0.0.1", port]]}
        assert said_at(container.ports[80]) == b"hello"
        container.restart(0)
        assert container.ports == {"80/tcp": ("127.0.0.1", port)}
        container.stop(0)
        assert container.ports == {}
        until(lambda: state(container)["ports"] == {}, "the record to have none")
        assert is_free(port)


def test_its_bridge_is_its_keepers() -> None:
    need_the_outside()
    with nothing_left():
        container = server(
            name="server",
            network="bridge",
            ports=[80],
            dns=["192.0.2.53"],
            extra_hosts={"far": "192.0.2.7"},
            aliases=["db"],
        )
        four, six = (*container.addresses["bridge"], None)[:2]
        assert container.ip_address == four
        assert ipaddress.ip_address(four).version == 4
        assert six is None or ipaddress.ip_address(six).version == 6
        assert said_at(container.ports[80]) == b"hello"
        files = container.exec(["cat", "/etc/hosts", "/etc/resolv.conf"], capture_output=True, text=True)
        lines = [line.split() for line in files.stdout.splitlines()]
        assert ["192.0.2.7", "far"] in lines and ["nameserver", "192.0.2.53"] in lines
        assert any(line[0] == four and "db" in line and "server" in line for line in lines)
        (said,) = elsewhere("c = pc.Container.get('server'); print(c.ip_address, c.addresses)")
        assert said == f"{four} {container.addresses}"
        assert [one.name for one in pc.Network.list() if container in one.containers] == []
        container.stop(0)
        assert (container.addresses, container.ip_address, container.ports) == ({}, None, {})
        container.remove()
        del container


def test_a_taken_port_is_told_to_who_starts_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        container = pc.create("host", ["sleep", "1000"], persist=True, ports={80: port})
        with pytest.raises(pc.PortInUse, match=f"127.0.0.1 port {port}/tcp .* process {os.getpid()}"):
            container.start()
        assert (container.status, container.ports) == ("created", {})
    container.start()
    assert container.ports[80].port == port
    with pytest.raises(pc.PortInUse, match=str(port)):
        persistent(ports={80: port})
    assert [one.id for one in pc.Container.list(all=True)] == [container.id]


def test_what_is_forwarded_lasts_until_the_container_ends() -> None:
    container = server(name="server")
    port = free_port()
    with nothing_left():
        lines = elsewhere(
            f"""
            c = pc.Container.get("server")
            print(c.forward(80, host_port={port}), type(c.forward("80/tcp", host="127.0.0.2")).__name__)
            """
        )
    assert lines == [f"HostPort(host='127.0.0.1', port={port}) HostPort"]
    assert [one.host for one in container.ports.all(80)] == ["127.0.0.1", "127.0.0.2"]
    assert [said_at(where) for where in container.ports.all(80)] == [b"hello", b"hello"]
    assert state(container)["ports"]["80/tcp"][0] == ["127.0.0.1", port]
    with pytest.raises(pc.PortInUse, match=str(port)):
        container.forward(80, host_port=port)
    container.restart(0)
    assert container.ports == {}
    assert is_free(port)


def test_what_cannot_be_forwarded() -> None:
    container = pc.create("host", ["sleep", "1000"], persist=True)
    with pytest.raises(pc.InvalidState, match="forward"):
        container.forward(80)
    container.start()
    for port, where in (
        (0, {}),
        ("80/sctp", {}),
        (object(), {}),
        (80, {"host": "nowhere"}),
        (80, {"host_port": 65536}),
        (80, {"host_port": object()}),
    ):
        with pytest.raises(pc.InvalidOption):
            container.forward(port, **where)  # type: ignore[arg-type]
    with pytest.raises(pc.LaunchError, match=r"192\.0\.2\.1"):
        container.forward(80, host="192.0.2.1")
    assert container.ports == {}
    os.kill(keeper_of(container), signal.SIGKILL)
    until(lambda: container.status == "stopped", "the end")
    with pytest.raises(pc.InvalidState, match="forward"):
        container.forward(80)
    with persistent(network="host") as hosts, pytest.raises(pc.InvalidOption, match='network="host"'):
        hosts.forward(80)


def test_this_process_listens_in_it() -> None:
    container = persistent(name="quiet")
    client = (
        "import socket, sys; s = socket.create_connection(('127.0.0.1', int(sys.argv[1]))); "
        "s.sendall(b'hello'); s.close()"
    )
    script = f"""
        c = pc.Container.get("quiet")
        with c.listen(0) as listener:
            port = listener.getsockname()[1]
            c.exec([{sys.executable!r}, "-I", "-S", "-c", {client!r}, str(port)], check=True)
            with listener.accept()[0] as link:
                print(link.recv(100), os.get_inheritable(listener.fileno()))
        """
    assert elsewhere(script) == ["b'hello' False"]
    with container.listen(8080) as listener:
        assert container.exec([*PYTHON, client, "8080"]).returncode == 0
        listener.accept()[0].close()
        with pytest.raises(pc.PortInUse, match="8080"):
            container.listen(8080)
    # It was this process's alone.
    assert container.exec([*PYTHON, client, "8080"], capture_output=True).returncode == 1
    container.stop(0)
    with pytest.raises(pc.InvalidState):
        container.listen(8080)


@pytest.mark.parametrize("network", ["none", "bridge"])
def test_a_killed_keeper_gives_its_ports_back(network: str) -> None:
    if network == "bridge":
        need_the_outside()
    port = free_port()
    container = server(network=network, ports={80: port})
    forwarded = container.forward(80)
    os.kill(keeper_of(container), signal.SIGKILL)
    until(lambda: container.status == "stopped", "the end")
    assert (container.ports, container.addresses) == ({}, {})
    until(lambda: is_free(port) and is_free(forwarded.port), "its ports to be free")
    assert elsewhere(f"print(dict(pc.Container.get({container.id!r}).ports))") == ["{}"]
    container.start()
    assert container.ports == {"80/tcp": ("127.0.0.1", port)}
    assert said_at(container.ports[80]) == b"hello"
    assert [*container.addresses] == ([] if network == "none" else ["bridge"])


def test_a_dead_supervisor_gives_its_ports_back(tmp_path: Path) -> None:
    port = free_port()
    image = pc.Image.from_directory(shell_root.make(tmp_path / "root"))
    container = pc.start(image, ["sleep", "1000"], persist=True, ports={80: port})
    keeper = keeper_of(container)
    os.kill(supervisor_of(keeper), signal.SIGKILL)
    until(lambda: container.status == "stopped", "the end")
    assert container.ports == {}
    until(lambda: is_free(port), "its port to be free")
    until(lambda: state(container)["status"] == "stopped", "that to be written down")
    container.start()
    assert keeper_of(container) == keeper
    assert container.ports == {"80/tcp": ("127.0.0.1", port)}


def test_a_new_keeper_knows_nothing_of_the_ports_of_the_last() -> None:
    container = persistent(ports=[80])
    os.kill(keeper_of(container), signal.SIGKILL)
    until(lambda: container.status == "stopped", "the end")
    # It begins one, which starts nothing.
    assert container.path("/etc/hostname").exists()
    assert (container.ports, state(container)["ports"]) == ({}, {})


def test_a_restart_policy_publishes_them_again() -> None:
    port = free_port()
    container = server(ONCE, ports={80: port}, restart="always")
    said = []

    def asked() -> bool:
        try:
            said.append(said_at(("127.0.0.1", port)))
        except ConnectionError:
            said.append(b"")
        return said.count(b"hello") == 3

    until(asked, "three answers")
    until(lambda: container.restarts >= 3, "the next start")
    until(lambda: container.ports == {"80/tcp": ("127.0.0.1", port)}, "its ports to be told")


def test_networks_of_this_process_are_none_of_its() -> None:
    container = persistent()
    with pc.Network.create("mine", internal=True) as network:
        with pytest.raises(pc.InvalidState, match=r"persistent.*keeper"):
            network.connect(container)
        with pytest.raises(pc.InvalidState, match=r"persistent.*keeper"):
            network.disconnect(container)
        with pytest.raises(pc.InvalidOption, match=r"network=.*persistent.*keeper"):
            pc.create("host", ["true"], network=container)
        with pytest.raises(pc.InvalidOption, match="persist=True"):
            pc.create("host", ["true"], network=network, persist=True)
        with (
            pc.start("host", ["sleep", "1000"]) as own,
            pytest.raises(pc.InvalidOption, match="persist=True"),
        ):
            pc.create("host", ["true"], network=own, persist=True)
        assert network.containers == []
    assert [one.id for one in pc.Container.list(all=True)] == [container.id]


def test_options_come_back_as_they_were() -> None:
    options = pc.Options(
        network="bridge",
        ports={80: 8080, "53/udp": ("192.0.2.1", 53), 443: [None, ("::1", None)]},
        dns=["192.0.2.53", "2001:db8::1"],
        extra_hosts={"a": "192.0.2.1", "b": ["192.0.2.2", "2001:db8::2"]},
        aliases=["x", "y"],
        ip_address="10.1.2.3",
    )
    assert plain.to_options(json.loads(json.dumps(plain.of_options(options)))) == options


def record(**fields: Any) -> Record:
    return Record("0" * 32, None, {"name": "host"}, ["true"], {}, "2024-01-01T00:00:00+00:00", {}, **fields)


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = record(
        status="running",
        ports={"80/tcp": (("127.0.0.1", 1), ("::1", 65535))},
        addresses={"bridge": ("10.1.2.3", "fd00::2")},
    )
    written.write(str(tmp_path))
    assert Record.read(str(tmp_path)) == written
    gone = written.without_keeper()
    assert (gone.status, gone.ports, gone.addresses) == ("stopped", {}, {})


def test_a_record_from_before_there_were_networks(tmp_path: Path) -> None:
    record().write(str(tmp_path))
    document = json.loads((tmp_path / STATE).read_text())
    del document["ports"], document["addresses"]
    (tmp_path / STATE).write_text(json.dumps(document))
    assert Record.read(str(tmp_path)) == record()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ports", None),
        ("ports", []),
        ("ports", "80"),
        ("ports", {"80": 8080}),
        ("ports", {"80/tcp": [["127.0.0.1"]]}),
        ("ports", {"80/tcp": [["127.0.0.1", 1, 2]]}),
        ("ports", {"80/tcp": [["127.0.0.1", "1"]]}),
        ("ports", {"80/tcp": [["127.0.0.1", True]]}),
        ("ports", {"80/tcp": [["127.0.0.1", 0]]}),
        ("ports", {"80/tcp": [["127.0.0.1", 65536]]}),
        ("ports", {"80/tcp": [["example.com", 1]]}),
        ("ports", {"80/tcp": [[1, 1]]}),
        ("ports", {"80/tcp": {"127.0.0.1": 1}}),
        ("ports", {"80/sctp": [["127.0.0.1", 1]]}),
        ("ports", {"../x": [["127.0.0.1", 1]]}),
        ("ports", {"0": []}),
        ("addresses", None),
        ("addresses", ["10.1.2.3"]),
        ("addresses", {"bridge": None}),
        ("addresses", {"bridge": "10.1.2.3"}),
        ("addresses", {"bridge": [167772160]}),
        ("addresses", {"bridge": ["10.1.2"]}),
        ("addresses", {"bridge": [["10.1.2.3"]]}),
    ],
)
def test_a_damaged_record(tmp_path: Path, field: str, value: object) -> None:
    record().write(str(tmp_path))
    document = json.loads((tmp_path / STATE).read_text())
    (tmp_path / STATE).write_text(json.dumps({**document, field: value}))
    with pytest.raises(pc.StoreError, match=r"state\.json is damaged"):
        Record.read(str(tmp_path))
