"""`Container.listen`: this process listens where a container's programs connect."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import pycontainer as pc
from containers import PYTHON, nothing_left, sleeper
from pycontainer.listening import listen

CLIENT = """
import socket, sys
address, port = sys.argv[1], int(sys.argv[2])
with socket.create_connection((address, port), timeout=20) as s:
    s.sendall(b"from " + address.encode())
    sys.stdout.buffer.write(s.recv(100))
"""
TAKEN = """
import socket, threading
s = socket.create_server(("127.0.0.1", 5000))
print("up", flush=True)
threading.Event().wait()
"""


@pytest.fixture(scope="module")
def quiet() -> Iterator[pc.Container]:
    with sleeper() as container:
        yield container


def answered(container: pc.Container, listener: socket.socket, address: str, port: int) -> bytes:
    """What a program of the container's sends here; checks that it gets the answer."""
    said: list[bytes] = []

    def answer() -> None:
        listener.settimeout(20)
        connection, _ = listener.accept()
        with connection:
            said.append(connection.recv(100))
            connection.sendall(b"hello")

    thread = threading.Thread(target=answer)
    thread.start()
    done = container.exec([*PYTHON, CLIENT, address, str(port)], capture_output=True, timeout=20)
    thread.join(20)
    assert done.stdout == b"hello", done.stderr
    return said[0]


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1"])
def test_a_program_of_the_containers_connects(quiet: pc.Container, address: str) -> None:
    with quiet.listen(8080) as listener:
        assert answered(quiet, listener, address, 8080) == b"from " + address.encode()
        assert answered(quiet, listener, address, 8080) == b"from " + address.encode()


def test_any_free_port(quiet: pc.Container) -> None:
    with quiet.listen(0) as one, quiet.listen(0) as other:
        ports = {listener.getsockname()[1] for listener in (one, other)}
        assert len(ports) == 2 and 0 not in ports
        for listener in (one, other):
            assert answered(quiet, listener, "127.0.0.1", listener.getsockname()[1])


def test_a_port_below_1024(quiet: pc.Container) -> None:
    with quiet.listen(80) as listener:
        assert answered(quiet, listener, "127.0.0.1", 80) == b"from 127.0.0.1"


def test_the_socket_is_an_ordinary_one(quiet: pc.Container) -> None:
    with quiet.listen(0) as listener:
        assert type(listener) is socket.socket
        assert listener.getblocking()
        assert not os.get_inheritable(listener.fileno())


def test_the_port_is_not_the_hosts(quiet: pc.Container) -> None:
    with quiet.listen(0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=5)
        quiet.connect(port).close()


def test_a_port_that_a_program_has() -> None:
    with nothing_left(), pc.start("host", [*PYTHON, TAKEN], wait=pc.wait.log("up")) as container:
        with pytest.raises(pc.PortInUse, match="port 5000 of the container"):
            container.listen(5000)
        container.listen(5001).close()


def test_a_port_that_is_taken_by_ourselves(quiet: pc.Container) -> None:
    with quiet.listen(5000), pytest.raises(pc.PortInUse, match="5000"):
        quiet.listen(5000)


def test_a_port_can_be_had_again_at_once(quiet: pc.Container) -> None:
    for _ in range(3):
        with quiet.listen(5000) as listener, quiet.connect(5000):
            # Whoever closes first keeps the port for a minute, as a connection that is over.
            listener.accept()[0].close()


def test_the_backlog(quiet: pc.Container) -> None:
    with listen(quiet._serving, 5000, backlog=0):
        held = []
        try:
            with pytest.raises(TimeoutError):
                for _ in range(10):
                    held.append(quiet.connect(5000, timeout=0.2))
            assert len(held) < 10
        finally:
            for connection in held:
                connection.close()


class WithoutIpv6:
    """As a kernel without it, or with it switched off, answers."""

    def __init__(self, served: Any) -> None:
        self._served = served

    def socket(self, family: int, kind: int) -> int:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "no IPv6")
        return int(self._served.socket(family, kind))


def test_without_ipv6(quiet: pc.Container) -> None:
    with listen(lambda: WithoutIpv6(quiet._serving()), 5000) as listener:  # type: ignore[arg-type,return-value]
        assert listener.family == socket.AF_INET
        assert answered(quiet, listener, "127.0.0.1", 5000)


def test_where_ipv6_is_switched_off() -> None:
    off = {"net.ipv6.conf.all.disable_ipv6": "1"}
    with sleeper(sysctls=off) as container, container.listen(5000) as listener:
        assert answered(container, listener, "127.0.0.1", 5000)


@pytest.mark.parametrize("port", [-1, 65536, True, "80", None, 8.0, "/run/x.sock"])
def test_what_is_no_port(quiet: pc.Container, port: Any) -> None:
    with pytest.raises(pc.InvalidOption, match="port"):
        quiet.listen(port)


def test_what_is_no_backlog(quiet: pc.Container) -> None:
    with pytest.raises(pc.InvalidOption, match="backlog"):
        listen(quiet._serving, 5000, backlog=-1)


def test_only_in_a_running_container() -> None:
    with pc.create("host", ["sleep", "1000"]) as container:
        with pytest.raises(pc.InvalidState):
            container.listen(5000)
        container.start()
        with container.listen(5000):
            container.kill()
        with pytest.raises(pc.InvalidState):
            container.listen(5000)


def test_it_outlives_the_container_and_nothing_is_left() -> None:
    with nothing_left(), sleeper() as container, container.listen(5000) as listener:
        assert answered(container, listener, "127.0.0.1", 5000)
        container.kill()
        listener.settimeout(0.05)
        with pytest.raises(TimeoutError):
            listener.accept()
