"""Ports of a container's own network namespace, reached through sockets of the host's."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence

import pytest

import pycontainer as pc
from containers import PYTHON, as_root, nothing_left, until
from pycontainer.errors import LaunchError, SupervisorError
from pycontainer.network.forwarder import Forwarder
from pycontainer.supervisor import client

SERVER = """
import select, socket, struct, threading, time
MIB = b"x" * (1 << 20)
def echo(c):
    while data := c.recv(1 << 16):
        c.sendall(data)
    c.shutdown(socket.SHUT_WR)
    c.recv(1)
def end_first(c):
    c.sendall(b"bye")
    c.shutdown(socket.SHUT_WR)
    total = 0
    while data := c.recv(1 << 16):
        total += len(data)
    print("after the end", total, flush=True)
def resets(c):
    c.recv(1)
    c.sendall(b"before")
    c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
def silent(c):
    time.sleep(1000)
def floods(c):
    while True:
        c.sendall(MIB)
def sends(c):
    c.sendall(1000 * bytes(range(100)))
def watches(c):
    try:
        while c.recv(1 << 16):
            pass
        print("watched: the end", flush=True)
    except ConnectionResetError:
        print("watched: a reset", flush=True)
def waits(c):
    while c.recv(1 << 16):
        pass
    trouble = select.poll()
    trouble.register(c, 0)
    trouble.poll()
    print("waited: a reset", flush=True)
def run(work, c):
    try:
        with c:
            work(c)
    except OSError:
        pass
def serve(s, work):
    while True:
        c = s.accept()[0]
        threading.Thread(target=run, args=(work, c), daemon=True).start()
def listen(address, work):
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    s = socket.create_server(address, family=family, backlog=1024)
    threading.Thread(target=serve, args=(s, work), daemon=True).start()
def datagrams(address, prefix):
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    s.bind(address)
    def work():
        while True:
            data, who = s.recvfrom(1 << 16)
            s.sendto(prefix + data, who)
    threading.Thread(target=work, daemon=True).start()
threading.stack_size(1 << 16)
works = [echo, end_first, resets, silent, floods, sends, watches, waits]
for number, work in enumerate(works):
    listen(("127.0.0.1", 5000 + number), work)
listen(("::1", 5100), echo)
datagrams(("127.0.0.1", 5200), b"")
datagrams(("::1", 5201), b"six ")
datagrams(("127.0.0.1", 5202), b"four ")
print("up", flush=True)
time.sleep(1000)
"""
ECHO, END_FIRST, RESETS, SILENT, FLOODS, SENDS, WATCHES, WAITS = range(5000, 5008)
SIX = 5100
UDP, UDP_SIX, UDP_FOUR = range(5200, 5203)
NOBODY = 5999
SECONDS = 20
LINGER_0 = struct.pack("ii", 1, 0)


def started() -> pc.Container:
    container = pc.start("host", [*PYTHON, SERVER])
    until(lambda: b"up" in told(container), "it listens")
    return container


def told(container: pc.Container) -> bytes:
    return container._run.output.tail("stdout")  # type: ignore[union-attr]


def forwarder_of(container: pc.Container) -> Forwarder:
    run = container._run
    assert run is not None
    return Forwarder(run.execution.session.supervisor, target=run.job.id)


@pytest.fixture(scope="module")
def server() -> Iterator[pc.Container]:
    with started() as container:
        yield container


@pytest.fixture(scope="module")
def forwarder(server: pc.Container) -> Iterator[Forwarder]:
    made = forwarder_of(server)
    yield made
    assert not made.ended
    made.close()


Address = tuple[str, int]
LOOPBACK = ("127.0.0.1",)


@pytest.fixture
def tcp(forwarder: Forwarder) -> Iterator[Callable[..., Address]]:
    """Publishes a port of the container for one test, and gives the host's address of it."""
    with contextlib.ExitStack() as stack:

        def publish(port: int, addresses: Sequence[str] = LOOPBACK) -> Address:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024))
            number = forwarder.add(listener, port, addresses, protocol="tcp")
            stack.callback(forwarder.remove, number)
            address: Address = listener.getsockname()
            return address

        yield publish


@pytest.fixture
def udp(forwarder: Forwarder) -> Iterator[Callable[..., Address]]:
    with contextlib.ExitStack() as stack:

        def publish(
            port: int, addresses: Sequence[str] = LOOPBACK, bound: str = "127.0.0.1", v6only: bool = True
        ) -> Address:
            sock = socket.socket(family_of(bound), socket.SOCK_DGRAM)
            stack.enter_context(sock)
            if ":" in bound and not v6only:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            sock.bind((bound, 0))
            number = forwarder.add(sock, port, addresses, protocol="udp")
            stack.callback(forwarder.remove, number)
            return sock.getsockname()[:2]

        yield publish


def family_of(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def connect(address: Address) -> socket.socket:
    return socket.create_connection(address, timeout=SECONDS)


def asked(sock: socket.socket, data: bytes) -> bytes:
    sock.sendall(data)
    return exactly(sock, len(data))


def exactly(sock: socket.socket, size: int) -> bytes:
    got = bytearray()
    while len(got) < size and (part := sock.recv(size - len(got))):
        got += part
    return bytes(got)


def refused(address: Address) -> None:
    """The reset may come before connect(2) has looked whether it is connected."""
    with pytest.raises(ConnectionResetError), connect(address) as sock:
        sock.recv(1)


def everything(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(1 << 16), b""))


# TCP.


def test_echo(tcp: Callable[..., Address]) -> None:
    address = tcp(ECHO)
    with connect(address) as one, connect(address) as other:
        assert asked(one, b"one") == b"one"
        assert asked(other, b"other") == b"other"
        assert asked(one, b"once more") == b"once more"


def test_much_both_ways_at_once(tcp: Callable[..., Address]) -> None:
    piece = os.urandom(1 << 20)
    expected = 0
    for _ in range(100):
        expected = zlib.crc32(piece, expected)
    with connect(tcp(ECHO)) as sock:

        def send() -> None:
            for _ in range(100):
                sock.sendall(piece)
            sock.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        found = total = 0
        while data := sock.recv(1 << 18):
            found = zlib.crc32(data, found)
            total += len(data)
        sender.join()
    assert (total, found) == (100 << 20, expected)


def test_the_client_ends_first(tcp: Callable[..., Address]) -> None:
    with connect(tcp(ECHO)) as sock:
        sock.sendall(b"all I have to say")
        sock.shutdown(socket.SHUT_WR)
        assert everything(sock) == b"all I have to say"


def test_the_container_ends_first(server: pc.Container, tcp: Callable[..., Address]) -> None:
    with connect(tcp(END_FIRST)) as sock:
        assert everything(sock) == b"bye"
        for _ in range(3):
            time.sleep(0.02)
            sock.sendall(b"x" * 41)
    until(lambda: b"after the end 123\n" in told(server), "the container has the rest")


def test_all_is_delivered_before_the_end(tcp: Callable[..., Address]) -> None:
    address = tcp(SENDS)
    for _ in range(20):
        with connect(address) as sock:
            assert everything(sock) == 1000 * bytes(range(100))


def test_nobody_listens(tcp: Callable[..., Address]) -> None:
    address = tcp(NOBODY, ["127.0.0.1", "::1"])
    began = time.monotonic()
    refused(address)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "addresses", [["192.0.2.1", "2001:db8::1", "::1", "127.0.0.1"], ["127.0.0.1", "::1"]]
)
def test_the_next_address_where_one_refuses(tcp: Callable[..., Address], addresses: list[str]) -> None:
    """The container's namespace has no way to the first two."""
    for port in (ECHO, SIX):
        with connect(tcp(port, addresses)) as sock:
            assert asked(sock, b"found") == b"found"


def test_many_at_once(tcp: Callable[..., Address]) -> None:
    address = tcp(ECHO)
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(connect(address)) for _ in range(400)]
        for number, sock in enumerate(socks):
            sock.sendall(b"%d" % number)
        for number, sock in enumerate(socks):
            assert exactly(sock, len(b"%d" % number)) == b"%d" % number


def fill(sock: socket.socket) -> int:
    """Sends until nothing more is taken."""
    total = 0
    sock.settimeout(0.3)
    with pytest.raises(TimeoutError):
        while total < 1 << 28:
            total += sock.send(b"x" * (1 << 20))
    sock.settimeout(SECONDS)
    return total


def test_who_does_not_read_stops_nobody_else(tcp: Callable[..., Address]) -> None:
    silent, floods, echo = tcp(SILENT), tcp(FLOODS), tcp(ECHO)
    with contextlib.ExitStack() as stack:
        # These do not read what floods them.
        for _ in range(8):
            stack.enter_context(connect(floods)).sendall(b"x")
        # And here the container does not.
        assert fill(stack.enter_context(connect(silent))) < 1 << 26
        with connect(echo) as sock:
            for _ in range(20):
                assert asked(sock, b"y" * 100_000) == b"y" * 100_000


def test_a_slow_reader_gets_all(tcp: Callable[..., Address]) -> None:
    data = os.urandom(1 << 20) * 16
    with connect(tcp(ECHO)) as sock:
        sender = threading.Thread(target=sock.sendall, args=(data,), daemon=True)
        sender.start()
        time.sleep(0.5)
        assert exactly(sock, len(data)) == data
        sender.join()


def test_the_container_resets(tcp: Callable[..., Address]) -> None:
    with connect(tcp(RESETS)) as sock:
        sock.sendall(b"x")
        assert exactly(sock, 6) == b"before"
        with pytest.raises(ConnectionResetError):
            sock.recv(1)


@pytest.mark.parametrize("ended", [False, True])
def test_the_client_resets(server: pc.Container, tcp: Callable[..., Address], ended: bool) -> None:
    before = told(server)
    with connect(tcp(ECHO if ended else WATCHES)) as sock:
        assert not ended or asked(sock, b"x") == b"x"
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_0)
    if not ended:
        until(lambda: told(server).removeprefix(before) == b"watched: a reset\n", "the container sees it")


def test_the_client_resets_after_its_end(server: pc.Container, tcp: Callable[..., Address]) -> None:
    """Nothing is read from it any more, and nothing written to it."""
    with connect(tcp(WAITS)) as sock:
        sock.sendall(b"x")
        sock.shutdown(socket.SHUT_WR)
        time.sleep(0.05)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_0)
    until(lambda: b"waited: a reset\n" in told(server), "the container sees it")


def test_a_client_that_closes(server: pc.Container, tcp: Callable[..., Address]) -> None:
    before = told(server)
    connect(tcp(WATCHES)).close()
    until(lambda: told(server).removeprefix(before) == b"watched: the end\n", "the container sees it")


def test_urgent_data_stops_nothing(tcp: Callable[..., Address]) -> None:
    """It is carried in its place, as what it is in the stream."""
    with connect(tcp(ECHO)) as sock:
        for _ in range(3):
            sock.send(b"!", socket.MSG_OOB)
            sock.sendall(b"more")
            assert exactly(sock, 5) == b"!more"


def test_descriptors_do_not_accumulate(tcp: Callable[..., Address]) -> None:
    """More connections in turn than there may be at a time, ended in all manners."""
    echo, resets, nobody = tcp(ECHO), tcp(RESETS), tcp(NOBODY)
    for number in range(2000):
        if number % 3 == 0:
            refused(nobody)
            continue
        with connect(echo if number % 3 == 1 else resets) as sock:
            sock.sendall(b"x")
            assert sock.recv(1) in (b"x", b"b")
    if os.getuid() == 0:
        child = max(map(int, children_of(client.default().pid)), key=open_files)
        assert open_files(child) < 40
        assert open_files(child) > 6


def children_of(pid: int) -> list[str]:
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return file.read().split()


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


# Ports come and go.


def test_remove_resets_what_is_connected(forwarder: Forwarder) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = forwarder.add(listener, ECHO, ["127.0.0.1"], protocol="tcp")
        with connect(listener.getsockname()) as sock:
            assert asked(sock, b"x") == b"x"
            forwarder.remove(number)
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
        # Whoever comes now waits for the host, whose socket it still is.
        with connect(listener.getsockname()) as sock:
            sock.settimeout(0.1)
            with pytest.raises(TimeoutError):
                sock.recv(1)
            number = forwarder.add(listener, ECHO, ["127.0.0.1"], protocol="tcp")
            sock.settimeout(SECONDS)
            assert asked(sock, b"again") == b"again"
        forwarder.remove(number)
        with pytest.raises(OSError) as caught:
            forwarder.remove(number)
        assert caught.value.errno == errno.ENOENT


def test_a_removed_port_is_free(forwarder: Forwarder) -> None:
    for _ in range(3):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            address = listener.getsockname()
            number = forwarder.add(listener, ECHO, ["127.0.0.1"], protocol="tcp")
        with connect(address) as sock:
            assert asked(sock, b"x") == b"x"
        forwarder.remove(number)
        with pytest.raises(ConnectionRefusedError):
            connect(address)


def test_many_ports(forwarder: Forwarder) -> None:
    with contextlib.ExitStack() as stack:
        numbers = []
        for _ in range(100):
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            numbers.append((forwarder.add(listener, ECHO, ["127.0.0.1"], protocol="tcp"), listener))
        assert len({number for number, _ in numbers}) == 100
        for _, listener in numbers:
            with connect(listener.getsockname()) as sock:
                assert asked(sock, b"x") == b"x"
        for number, _ in numbers:
            forwarder.remove(number)


def test_from_many_threads(forwarder: Forwarder) -> None:
    done = []

    def work() -> None:
        for _ in range(10):
            with socket.create_server(("127.0.0.1", 0)) as listener:
                number = forwarder.add(listener, ECHO, ["127.0.0.1"], protocol="tcp")
                with connect(listener.getsockname()) as sock:
                    done.append(asked(sock, b"x"))
                forwarder.remove(number)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert done == [b"x"] * 80


def test_what_cannot_be_forwarded(forwarder: Forwarder) -> None:
    def fails(number: int, sock: socket.socket, port: int = ECHO, protocol: str = "tcp") -> None:
        with sock, pytest.raises(OSError) as caught:
            forwarder.add(sock, port, ["127.0.0.1"], protocol=protocol)  # type: ignore[arg-type]
        assert caught.value.errno == number

    fails(errno.EINVAL, socket.socket())
    fails(errno.EINVAL, socket.socket(socket.AF_UNIX))
    fails(errno.EINVAL, socket.socket(type=socket.SOCK_DGRAM))
    fails(errno.EINVAL, socket.create_server(("127.0.0.1", 0)), protocol="udp")
    for port in (0, 65536):
        fails(errno.EBADMSG, socket.create_server(("127.0.0.1", 0)), port=port)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for addresses in ([], ["127.0.0.1"] * 5):
            with pytest.raises(ValueError):
                forwarder.add(listener, ECHO, addresses, protocol="tcp")
        with pytest.raises(OSError):
            forwarder.add(listener, ECHO, ["localhost"], protocol="tcp")


# UDP.


@contextlib.contextmanager
def sender(address: Address, bound: str | None = None) -> Iterator[socket.socket]:
    with socket.socket(family_of(address[0]), socket.SOCK_DGRAM) as sock:
        sock.settimeout(SECONDS)
        if bound is not None:
            sock.bind((bound, 0))
        sock.connect(address)
        yield sock


def answered(sock: socket.socket, data: bytes) -> bytes:
    sock.send(data)
    return sock.recv(1 << 16)


def test_datagrams(udp: Callable[..., Address]) -> None:
    address = udp(UDP)
    with sender(address) as one, sender(address) as other:
        for sock, data in ((one, b"one"), (other, b"other"), (one, b"again"), (one, b""), (other, b"last")):
            assert answered(sock, data) == data
        large = os.urandom(60_000)
        assert answered(one, large) == large
        one.send(b"1")
        other.send(b"2")
        assert (other.recv(10), one.recv(10)) == (b"2", b"1")


def test_many_clients_of_a_datagram_port(udp: Callable[..., Address]) -> None:
    address = udp(UDP)
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(sender(address)) for _ in range(200)]
        for number, sock in enumerate(socks):
            assert answered(sock, b"%d" % number) == b"%d" % number
        for number, sock in reversed(list(enumerate(socks))):
            assert answered(sock, b"%d" % number) == b"%d" % number


@pytest.mark.parametrize(
    ("bound", "asked_at", "v6only"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("0.0.0.0", "127.0.0.1", True),
        ("0.0.0.0", "127.0.0.77", True),
        ("::1", "::1", True),
        ("::", "::1", True),
        ("::", "127.0.0.78", False),
    ],
)
def test_the_answer_comes_from_where_it_was_asked(
    udp: Callable[..., Address], bound: str, asked_at: str, v6only: bool
) -> None:
    """A connected socket takes nothing from elsewhere."""
    _, port = udp(UDP, bound=bound, v6only=v6only)
    with sender((asked_at, port)) as sock:
        for _ in range(3):
            assert answered(sock, b"here") == b"here"


def test_one_client_at_two_addresses(udp: Callable[..., Address]) -> None:
    _, port = udp(UDP, bound="0.0.0.0")
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.settimeout(SECONDS)
        sock.bind(("127.0.0.1", 0))
        for address in (("127.0.0.1", port), ("127.0.0.9", port)) * 2:
            sock.sendto(b"x", address)
            assert sock.recvfrom(10) == (b"x", address)


def test_a_refused_datagram_goes_to_the_next_address(udp: Callable[..., Address]) -> None:
    for port, expected in ((UDP_SIX, b"six x"), (UDP_FOUR, b"four x")):
        for addresses in (["127.0.0.1", "::1"], ["::1", "127.0.0.1"], ["192.0.2.1", "::1", "127.0.0.1"]):
            with sender(udp(port, addresses)) as sock:
                assert answered(sock, b"x") == expected
                assert answered(sock, b"x") == expected


def test_a_server_that_comes_later(server: pc.Container, udp: Callable[..., Address]) -> None:
    late = """
import socket
s = socket.socket(type=socket.SOCK_DGRAM)
s.bind(("127.0.0.1", 5300))
for _ in range(2):
    s.sendto(*s.recvfrom(100))
"""
    with sender(udp(5300)) as sock:
        for _ in range(5):
            sock.send(b"too early")
        # It goes, and comes once more.
        for _ in range(2):
            process = server.popen([*PYTHON, late])
            sock.settimeout(0.1)
            answers = 0
            end = time.monotonic() + SECONDS
            while answers < 2 and time.monotonic() < end:
                with contextlib.suppress(TimeoutError):
                    answers += answered(sock, b"x") == b"x"
            assert answers == 2
            process.wait()


# The end.


def test_close_ends_the_child() -> None:
    with started() as container:
        forwarder_of(container).close()
        with nothing_left():
            for _ in range(3):
                made = forwarder_of(container)
                with socket.create_server(("127.0.0.1", 0)) as listener:
                    made.add(listener, ECHO, ["127.0.0.1"], protocol="tcp")
                    with connect(listener.getsockname()) as sock:
                        assert asked(sock, b"x") == b"x"
                        made.close()
                        assert made.ended
                        with pytest.raises(ConnectionResetError):
                            sock.recv(1)
                made.close()
                with pytest.raises(SupervisorError):
                    made.remove(1)


def test_close_delivers_what_has_arrived(server: pc.Container) -> None:
    """A container's last words, which it has sent before its end, are not lost to its forwarder's."""
    made = forwarder_of(server)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        made.add(listener, SENDS, ["127.0.0.1"], protocol="tcp")
        with contextlib.ExitStack() as stack:
            socks = [stack.enter_context(connect(listener.getsockname())) for _ in range(10)]
            for sock in socks:
                assert exactly(sock, 10) == bytes(range(10))
            time.sleep(0.1)
            made.close()
            for sock in socks:
                assert len(everything(sock)) == 100_000 - 10


def test_the_end_of_the_container() -> None:
    with nothing_left():
        container = started()
        made = forwarder_of(container)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            made.add(listener, ECHO, ["127.0.0.1"], protocol="tcp")
            with connect(listener.getsockname()) as sock:
                assert asked(sock, b"x") == b"x"
                container.kill()
                with contextlib.suppress(ConnectionResetError):
                    assert sock.recv(1) == b""
            refused(listener.getsockname())
            container.remove()
        made.close()


def test_a_target_that_is_not_there(server: pc.Container) -> None:
    supervisor = client.default()
    for _ in range(2):
        made = Forwarder(supervisor, target=999_999)
        with (
            socket.create_server(("127.0.0.1", 0)) as listener,
            pytest.raises((LaunchError, SupervisorError)),
        ):
            made.add(listener, ECHO, ["127.0.0.1"], protocol="tcp")
        assert made.ended
        made.close()


def test_closed_while_others_use_it(server: pc.Container) -> None:
    made = forwarder_of(server)
    ends: list[BaseException] = []

    def work() -> None:
        try:
            while True:
                with socket.create_server(("127.0.0.1", 0)) as listener:
                    made.remove(made.add(listener, ECHO, ["127.0.0.1"], protocol="tcp"))
        except BaseException as error:
            ends.append(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    made.close()
    for thread in threads:
        thread.join(SECONDS)
    assert [type(error) for error in ends] == [SupervisorError] * 4


def test_a_fork_does_not_end_it(forwarder: Forwarder, tcp: Callable[..., Address]) -> None:
    with connect(tcp(ECHO)) as sock:
        assert asked(sock, b"x") == b"x"
        pid = os.fork()
        if pid == 0:
            forwarder.close()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert asked(sock, b"x") == b"x"
    assert not forwarder.ended


def test_closing_does_not_wait_for_forks(server: pc.Container) -> None:
    made = forwarder_of(server)
    held = [os.dup(made._socket.fileno()) for _ in range(2)]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        made.add(listener, ECHO, ["127.0.0.1"], protocol="tcp")
    made.close()
    assert made._job.final is not None and made._job.final.status == 0
    for fd in held:
        os.close(fd)


def test_an_interrupted_add_leaves_nothing(server: pc.Container, monkeypatch: pytest.MonkeyPatch) -> None:
    made = forwarder_of(server)
    receive = made._receive

    def interrupted() -> tuple[int, int]:
        monkeypatch.setattr(made, "_receive", receive)
        raise KeyboardInterrupt

    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setattr(made, "_receive", interrupted)
        with pytest.raises(KeyboardInterrupt):
            made.add(listener, ECHO, ["127.0.0.1"], protocol="tcp")
        number = made.add(listener, SENDS, ["127.0.0.1"], protocol="tcp")
        with connect(listener.getsockname()) as sock:
            assert len(everything(sock)) == 100_000
        made.remove(number)
    made.close()


@as_root
def test_a_namespace_and_the_supervisors_death(server: pc.Container) -> None:
    """The namespace is given as a descriptor, to a supervisor of its own."""
    supervisor = client.Supervisor()
    namespace = os.open("/proc/self/ns/net", os.O_RDONLY)
    with socket.create_server(("127.0.0.1", 0)) as mine, socket.create_server(("127.0.0.1", 0)) as listener:
        made = Forwarder(supervisor, namespace=namespace)
        os.close(namespace)
        made.add(listener, mine.getsockname()[1], ["127.0.0.1"], protocol="tcp")
        with connect(listener.getsockname()) as sock, mine.accept()[0] as other:
            sock.sendall(b"x")
            assert other.recv(1) == b"x"
            child = children_of(supervisor.pid)
            os.kill(supervisor.pid, signal.SIGKILL)
            other.settimeout(SECONDS)
            assert other.recv(1) == b""
            with pytest.raises(SupervisorError):
                made.add(listener, 1, ["127.0.0.1"], protocol="tcp")
            assert made.ended
            until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in child), "the child is gone")
    made.close()
    supervisor.close()
