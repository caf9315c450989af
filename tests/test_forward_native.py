"""The forwarder as a program of its own, under the sanitisers, with few descriptors to work with."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import native_programs
from conftest import need
from containers import ROOT, until
from pycontainer import _sys

VERB = _sys.constants("pctr_forward_verb", "PCTR_FORWARD_")
PROTOCOL = _sys.constants("pctr_forward_protocol", "PCTR_FORWARD_")
REQUEST = struct.Struct("=IIIIII")
"""Without its addresses."""
ADDRESS = struct.Struct("=I16s")
REPLY = struct.Struct("=Ii")

PARTS = ("forward", "forward_tcp", "forward_udp", "util")
FEW = 56
"""Descriptors: for eight connections at a time, four ports, four flows and four pipes."""
PLACES = 8
SECONDS = 20
LOOPBACK = "127.0.0.1"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not ROOT:
        pytest.skip("the same code without a container: once is enough")
    need(shutil.which("gcc") is not None, "gcc")
    target = tmp_path_factory.mktemp("forward") / "forward_ports"
    sources = [native_programs.SOURCES / f"{part}.c" for part in PARTS]
    options = [*native_programs.SANITISED[1:], *native_programs.WARNINGS, "-std=gnu11"]
    main = native_programs.NATIVE / "forward_ports.c"
    # The headers have prototypes of what other parts define.
    argv = ["gcc", *options, f"-I{native_programs.SOURCES}", main, *sources, "-o", target]
    subprocess.run(argv, check=True)
    return target


class Raw:
    """The program, in this very network namespace; it must end well when the socket is closed."""

    def __init__(self, program: Path, descriptors: int = FEW) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(SECONDS)
        self.last = 0
        with theirs:
            argv = [program, str(theirs.fileno()), str(descriptors)]
            environment = os.environ | native_programs.ENVIRONMENT
            self.process = subprocess.Popen(
                argv, pass_fds=[theirs.fileno()], env=environment, stderr=subprocess.PIPE
            )

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *failure: object) -> None:
        self.socket.close()
        _, said = self.process.communicate(timeout=SECONDS)
        assert self.process.returncode == 0, said.decode()

    def send(self, message: bytes, fds: list[int]) -> int:
        """The answer's error."""
        socket.send_fds(self.socket, [message], fds)
        answer = self.socket.recv(100)
        assert len(answer) == REPLY.size
        return int(REPLY.unpack(answer)[1])

    def ask(self, verb: str, number: int, sock: socket.socket | None = None, port: int = 0) -> int:
        udp = sock is not None and sock.type == socket.SOCK_DGRAM
        protocol = PROTOCOL["UDP" if udp else "TCP"]
        head = REQUEST.pack(VERB[verb], 7, number, protocol, port, 1)
        addresses = ADDRESS.pack(socket.AF_INET, socket.inet_aton(LOOPBACK)) + bytes(3 * ADDRESS.size)
        return self.send(head + addresses, [] if sock is None else [sock.fileno()])

    def add(self, sock: socket.socket, port: int) -> int:
        self.last += 1
        assert self.ask("ADD", self.last, sock, port) == 0
        return self.last

    def open_descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def cpu_seconds(self) -> float:
        with open(f"/proc/{self.process.pid}/stat", encoding="ascii") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.fixture
def raw(program: Path) -> Iterator[Raw]:
    with Raw(program) as made:
        yield made


@contextlib.contextmanager
def listening() -> Iterator[socket.socket]:
    with socket.create_server((LOOPBACK, 0), backlog=100) as sock:
        yield sock


@contextlib.contextmanager
def echo() -> Iterator[int]:
    """The port of a server that says what it is told."""
    with listening() as listener:

        def serve(sock: socket.socket) -> None:
            with sock, contextlib.suppress(ConnectionError):
                while data := sock.recv(1 << 16):
                    sock.sendall(data)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    sock, _ = listener.accept()
                    threading.Thread(target=serve, args=(sock,), daemon=True).start()

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def connect(listener: socket.socket) -> socket.socket:
    return socket.create_connection(listener.getsockname(), timeout=SECONDS)


def says(sock: socket.socket, data: bytes = b"x") -> bool:
    sock.sendall(data)
    return sock.recv(len(data)) == data


def test_no_more_connections_than_there_is_room_for(raw: Raw) -> None:
    with echo() as port, listening() as listener, contextlib.ExitStack() as stack:
        raw.add(listener, port)
        socks = [stack.enter_context(connect(listener)) for _ in range(PLACES + 3)]
        assert all(says(sock) for sock in socks[:PLACES])
        for sock in socks[PLACES:]:
            sock.sendall(b"x")
            sock.settimeout(0.1)
            with pytest.raises(TimeoutError):
                sock.recv(1)
            sock.settimeout(SECONDS)
        # Those who wait cost nothing.
        before = raw.cpu_seconds()
        time.sleep(0.3)
        assert raw.cpu_seconds() - before < 0.1
        for gone, sock in zip(socks, socks[PLACES:], strict=False):
            gone.close()
            assert sock.recv(1) == b"x"


def test_hundreds_in_turn(raw: Raw) -> None:
    with echo() as port, listening() as listener:
        raw.add(listener, port)
        before = raw.open_descriptors()
        for _ in range(300):
            with connect(listener) as sock:
                assert says(sock)
        until(lambda: raw.open_descriptors() <= before + 8, "all is closed again")
        # The pipes are not kept, either.
        until(lambda: raw.open_descriptors() == before, "the pipes are closed")


def test_without_a_pipe_bytes_are_carried_too(raw: Raw) -> None:
    """Whoever does not read keeps all the pipes."""
    piece = random.Random(1).randbytes(1 << 16)
    with echo() as port, listening() as listener, listening() as floods, contextlib.ExitStack() as stack:
        raw.add(listener, port)
        raw.add(published := stack.enter_context(listening()), floods.getsockname()[1])
        for _ in range(PLACES // 2):
            stack.enter_context(connect(published))
            source = stack.enter_context(floods.accept()[0])
            source.settimeout(0.2)
            with pytest.raises(TimeoutError):
                while True:
                    source.sendall(piece)
        held = raw.open_descriptors()
        with connect(listener) as sock:
            sender = threading.Thread(target=sock.sendall, args=(200 * piece,), daemon=True)
            sender.start()
            # Until nothing more fits in.
            time.sleep(0.5)
            found = expected = total = 0
            while total < 200 * len(piece):
                data = sock.recv(1 << 16)
                total += len(data)
                found = zlib.crc32(data, found)
            sender.join()
            assert raw.open_descriptors() == held + 2
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(1) == b""
        for _ in range(200):
            expected = zlib.crc32(piece, expected)
        assert found == expected


def test_no_more_ports_than_there_is_room_for(raw: Raw) -> None:
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(socket.create_server((LOOPBACK, 0))) for _ in range(5)]
        numbers = [raw.add(sock, 1) for sock in socks[:4]]
        before = raw.open_descriptors()
        assert raw.ask("ADD", 99, socks[4], 1) == errno.ENOSPC
        assert raw.ask("ADD", numbers[0], socks[4], 1) == errno.EEXIST
        assert raw.open_descriptors() == before
        for number in numbers:
            assert raw.ask("REMOVE", number) == 0
            assert raw.ask("ADD", number + 100, socks[4], 1) == 0
            assert raw.ask("REMOVE", number + 100) == 0
        assert raw.open_descriptors() == before - 4


def test_more_clients_than_flows(raw: Raw) -> None:
    """The one who was silent for longest makes room, and may come back."""
    with (
        socket.socket(type=socket.SOCK_DGRAM) as server,
        socket.socket(type=socket.SOCK_DGRAM) as bound,
        contextlib.ExitStack() as stack,
    ):
        server.bind((LOOPBACK, 0))
        server.settimeout(SECONDS)
        bound.bind((LOOPBACK, 0))
        raw.add(bound, server.getsockname()[1])
        clients = [stack.enter_context(socket.socket(type=socket.SOCK_DGRAM)) for _ in range(12)]
        seen = set()
        for number, client in enumerate([*clients, *clients]):
            client.settimeout(SECONDS)
            client.sendto(b"%d" % number, bound.getsockname())
            data, who = server.recvfrom(100)
            assert data == b"%d" % number
            seen.add(who)
            server.sendto(b"to " + data, who)
            assert client.recv(100) == b"to " + data
        assert len(seen) > 12
        # One that is used stays who it is.
        clients[0].sendto(b"x", bound.getsockname())
        _, first = server.recvfrom(100)
        for client in clients[1:]:
            client.sendto(b"x", bound.getsockname())
            server.recvfrom(100)
            clients[0].sendto(b"x", bound.getsockname())
            assert server.recvfrom(100)[1] == first


def test_a_removed_datagram_port_costs_nothing(raw: Raw) -> None:
    """Its socket is the host's still, and what comes to it waits there for whoever is next."""
    with (
        socket.socket(type=socket.SOCK_DGRAM) as server,
        socket.socket(type=socket.SOCK_DGRAM) as bound,
        socket.socket(type=socket.SOCK_DGRAM) as client,
    ):
        server.bind((LOOPBACK, 0))
        server.settimeout(SECONDS)
        bound.bind((LOOPBACK, 0))
        port = server.getsockname()[1]
        assert raw.ask("REMOVE", raw.add(bound, port)) == 0
        client.sendto(b"x", bound.getsockname())
        before = raw.cpu_seconds()
        time.sleep(0.3)
        assert raw.cpu_seconds() - before < 0.1
        raw.add(bound, port)
        assert server.recv(10) == b"x"


def test_requests_that_nobody_would_send(raw: Raw) -> None:
    chance = random.Random(5)
    size = _sys.FORWARD_REQUEST_SIZE
    with echo() as port, listening() as listener, listening() as other:
        raw.add(listener, port)
        before = raw.open_descriptors()
        null = os.open("/dev/null", os.O_RDONLY)
        for _ in range(1000):
            message = bytearray(chance.randbytes(chance.choice([1, 7, size - 1, size, size, size + 1, 1000])))
            if len(message) == size and chance.random() < 0.7:
                fields = [1, 9, chance.randrange(5), chance.choice([6, 17]), chance.randrange(70000)]
                struct.pack_into("=6I", message, 0, *fields, chance.randrange(6))
            fds = chance.choice([[], [null], [other.fileno()], [null, null, null]])
            raw.send(bytes(message), fds)
        os.close(null)
        for number in range(5):
            if number != 1:
                raw.ask("REMOVE", number)
        until(lambda: raw.open_descriptors() <= before, "nothing that came along is kept")
        raw.ask("REMOVE", 1)
        raw.add(listener, port)
        with connect(listener) as sock:
            assert says(sock)


def test_a_listener_that_ends_costs_nothing(raw: Raw) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as bound, listening() as listener:
        bound.bind((LOOPBACK, 0))
        numbers = [raw.add(listener, 1), raw.add(bound, 1)]
        listener.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):  # says that it is not connected, and does it
            bound.shutdown(socket.SHUT_RDWR)
        before = raw.cpu_seconds()
        time.sleep(0.3)
        assert raw.cpu_seconds() - before < 0.1
        for number in numbers:
            assert raw.ask("REMOVE", number) == 0


@contextlib.contextmanager
def reset_or_not() -> Iterator[None]:
    try:
        yield
    except ConnectionError:
        pass
    except OSError as error:
        # What shutdown(2) says of a connection that was reset.
        if error.errno != errno.ENOTCONN:
            raise


@pytest.mark.parametrize("hangs_up", ["before", "after"])
def test_the_last_words_are_delivered(raw: Raw, hangs_up: str) -> None:
    """What arrives at the moment when the host hangs up."""
    with listening() as server, listening() as listener:
        raw.add(listener, server.getsockname()[1])
        with connect(listener) as sock, server.accept()[0] as other:
            other.settimeout(SECONDS)
            sock.sendall(b"x")
            assert other.recv(1) == b"x"
            # It has looked in vain for more.
            time.sleep(0.1)
            raw.process.send_signal(signal.SIGSTOP)
            os.waitpid(raw.process.pid, os.WUNTRACED)
            if hangs_up == "before":
                raw.socket.close()
            sock.sendall(b"last words")
            raw.socket.close()
            raw.process.send_signal(signal.SIGCONT)
            assert other.recv(100) == b"last words"
            with pytest.raises(ConnectionResetError):
                other.recv(1)


def test_chaos(raw: Raw) -> None:
    """Everybody does anything at any time; afterwards all is as before."""
    ends: list[Any] = []

    def client(seed: int, listener: socket.socket) -> None:
        chance = random.Random(seed)
        try:
            for _ in range(60):
                with reset_or_not(), connect(listener) as sock:
                    for _ in range(chance.randrange(4)):
                        sock.sendall(bytes(chance.choice([1, 100, 100_000])))
                        if chance.random() < 0.5:
                            sock.recv(chance.choice([1, 1 << 16]))
                    if chance.random() < 0.3:
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    elif chance.random() < 0.5:
                        sock.shutdown(socket.SHUT_WR)
                        while sock.recv(1 << 16):
                            pass
            ends.append(None)
        except BaseException as error:
            ends.append(error)

    with echo() as port, listening() as listener:
        number = raw.add(listener, port)
        before = raw.open_descriptors()
        threads = [threading.Thread(target=client, args=(seed, listener)) for seed in range(12)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            time.sleep(0.05)
            assert raw.ask("REMOVE", number) == 0
            number = raw.add(listener, port)
        assert ends == [None] * 12
        until(lambda: raw.open_descriptors() == before, "all is closed again")
        with connect(listener) as sock:
            assert says(sock)
