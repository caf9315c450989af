"""`Container.connect`: sockets to what listens inside, with nothing published."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import pycontainer as pc
from containers import PYTHON, nothing_left, sleeper, until

SERVER = """
import os, socket, sys, threading
def listener(family, address):
    s = socket.socket(family)
    if family == socket.AF_INET6:
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    s.bind(address)
    s.listen(16)
    return s
def serve(s, name):
    while True:
        c = s.accept()[0]
        try:
            c.sendall(name.encode() + c.recv(100))
        except OSError:
            pass
        c.close()
os.makedirs("/t/deep/" + 90 * "d")
os.chdir("/t/deep/" + 90 * "d")
places = [
    (socket.AF_INET, ("127.0.0.1", 5001), "four "),
    (socket.AF_INET6, ("::1", 5002), "six "),
    (socket.AF_UNIX, "socket", "unix "),
]
for family, address, name in places:
    s = listener(family, address)
    threading.Thread(target=serve, args=(s, name), daemon=True).start()
os.symlink("/t/deep", "/t/link")
full = socket.socket(socket.AF_UNIX)
full.bind("/t/full")
full.listen(0)
fuller = socket.create_server(("127.0.0.1", 5003), backlog=0)
print("up", flush=True)
threading.Event().wait()
"""
DEEP = 90 * "d"


@pytest.fixture(scope="module")
def server() -> Iterator[pc.Container]:
    with pc.start("host", [*PYTHON, SERVER], mounts=[pc.tmpfs("/t")]) as container:
        until(lambda: b"up" in container._run.output.tail("stdout"), "it listens")  # type: ignore[union-attr]
        yield container


def echo(connection: socket.socket) -> bytes:
    with connection:
        connection.sendall(b"hello")
        return connection.recv(100)


def test_a_port(server: pc.Container) -> None:
    assert echo(server.connect(5001)) == b"four hello"


def test_the_other_loopback_address(server: pc.Container) -> None:
    assert echo(server.connect(5002)) == b"six hello"


@pytest.mark.parametrize("path", [f"/t/deep/{DEEP}/socket", f"/t/link/{DEEP}/../{DEEP}/socket"])
def test_a_path(server: pc.Container, path: str) -> None:
    assert len(path) > 100
    assert echo(server.connect(path)) == b"unix hello"
    assert echo(server.connect(Path(path))) == b"unix hello"
    assert echo(server.connect(server.path(path))) == b"unix hello"


def test_the_socket_is_an_ordinary_one(server: pc.Container) -> None:
    for target in (5001, f"/t/deep/{DEEP}/socket"):
        with server.connect(target, timeout=5) as connection:
            assert type(connection) is socket.socket
            assert connection.gettimeout() is None
            assert connection.getblocking()
            assert not os.get_inheritable(connection.fileno())


def test_nobody_there(server: pc.Container) -> None:
    with pytest.raises(ConnectionRefusedError, match="5999"):
        server.connect(5999)
    with pytest.raises(FileNotFoundError):
        server.connect("/t/none")
    # What is no socket is refused as well, or not even for this user to write to.
    with pytest.raises((ConnectionRefusedError, PermissionError)):
        server.connect("/etc/passwd")


def test_the_hosts_ports_are_not_the_containers(server: pc.Container) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mine, pytest.raises(ConnectionRefusedError):
        server.connect(mine.getsockname()[1])


def test_the_hosts_network_is_the_containers_with_that_option() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mine, sleeper(network="host") as container:
        container.connect(mine.getsockname()[1]).close()


def test_a_link_does_not_lead_to_the_hosts_sockets(server: pc.Container, tmp_path: os.PathLike[str]) -> None:
    outside = socket.socket(socket.AF_UNIX)
    with outside:
        path = os.path.join("/dev/shm", f"pycontainer-test-{os.getpid()}")
        outside.bind(path)
        try:
            outside.listen()
            server.exec(["ln", "-s", path, "/t/out"], check=True)
            with pytest.raises(OSError):
                server.connect("/t/out")
            with pytest.raises(OSError):
                server.connect(f"/../../../..{path}")
        finally:
            os.unlink(path)


def fill(container: pc.Container, target: int | str) -> list[socket.socket]:
    """Connections that nobody accepts, until there is room for no more."""
    held = []
    # Twice: on a busy machine the first time-out may have had another reason.
    for timeout in (0.2, 0.5):
        with pytest.raises(TimeoutError):
            for _ in range(100):
                held.append(container.connect(target, timeout=timeout))
    return held


@pytest.mark.parametrize("target", [5003, "/t/full"])
def test_who_does_not_accept_costs_no_more_than_the_timeout(server: pc.Container, target: int | str) -> None:
    held = fill(server, target)
    try:
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            server.connect(target, timeout=0.3)
        assert 0.3 <= time.monotonic() - began < 5
        # Nobody else waits for that.
        assert echo(server.connect(5001, timeout=5)) == b"four hello"
    finally:
        for connection in held:
            connection.close()


@pytest.mark.parametrize("target", [5003, "/t/full"])
def test_a_container_that_ends_ends_the_connecting(target: int | str) -> None:
    with nothing_left(), pc.start("host", [*PYTHON, SERVER], mounts=[pc.tmpfs("/t")]) as container:
        until(lambda: b"up" in container._run.output.tail("stdout"), "it listens")  # type: ignore[union-attr]
        held = fill(container, target)
        killer = threading.Timer(0.3, container.kill)
        killer.start()
        with pytest.raises((pc.InvalidState, ConnectionError)):
            container.connect(target)
        killer.join()
        for connection in held:
            connection.close()


@pytest.mark.parametrize(
    "target", [0, 65536, -1, True, "5432", "", "relative", b"/bytes", 5.0, "/a\0b", None]
)
def test_what_is_no_target(server: pc.Container, target: object) -> None:
    with pytest.raises(pc.InvalidOption):
        server.connect(target)  # type: ignore[arg-type]


def test_only_a_running_container_has_a_network() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mine:
        port = mine.getsockname()[1]
        with pc.create("host", ["sleep", "1000"]) as container:
            for _ in range(2):
                container._served()
                with pytest.raises(pc.InvalidState):
                    container.connect(port)
                container.start()
                with pytest.raises(ConnectionRefusedError):
                    container.connect(port)
                container.kill()
            with pytest.raises(pc.InvalidState):
                container.connect(port)


def test_one_that_ends_at_the_wrong_moment_does_not_lead_to_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """What serves the files of a stopped container is in the host's network."""
    with socket.create_server(("127.0.0.1", 0)) as mine, pc.create("host", ["sleep", "1000"]) as container:
        monkeypatch.setattr(container, "_require_alive", lambda verb: None)
        with pytest.raises(pc.InvalidState):
            container.connect(mine.getsockname()[1])


def test_nothing_is_left(server: pc.Container) -> None:
    server.connect(5001).close()
    with nothing_left():
        for target in (5001, 5002, f"/t/deep/{DEEP}/socket"):
            for _ in range(20):
                assert echo(server.connect(target))
        for target in (5999, "/t/none"):
            for _ in range(20):
                with pytest.raises(OSError):
                    server.connect(target)


def test_from_many_threads(server: pc.Container) -> None:
    answers = []

    def ask() -> None:
        for _ in range(20):
            answers.append(echo(server.connect(5001)))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert answers == [b"four hello"] * 160


def test_a_server_at_the_containers_own_address_alone() -> None:
    with pc.Network.create("own-address", internal=True) as network:
        serve = "s = socket.create_server((sys.argv[1], 5004)); print('up', flush=True); s.accept()"
        code = f"import socket, sys; {serve}"
        with sleeper(network=network) as container:
            address = container.ip_address
            assert address is not None
            with container.popen([*PYTHON, code, address], stdout=pc.PIPE) as server:
                assert server.stdout is not None
                assert server.stdout.readline() == b"up\n"
                container.connect(5004, timeout=5).close()
