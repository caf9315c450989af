"""A network that is slow, narrow and loses things, between namespaces that the tests make."""

from __future__ import annotations

import contextlib
import datetime
import errno
import hashlib
import os
import random
import select
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

import native_programs
import switches
from conftest import need
from containers import ROOT, nothing_left, until
from pycontainer.errors import InvalidOption, LaunchError, SupervisorError
from pycontainer.network import impairer as module
from pycontainer.network import jobs
from pycontainer.network.impairer import Impairer
from pycontainer.network.impairment import Impairment
from pycontainer.supervisor import client
from pycontainer.supervisor.conversation import HEAD, REPLY
from switches import Host, Switch

MIB = 1 << 20
V4, V6 = socket.AF_INET, socket.AF_INET6


@attrs.frozen
class Net:
    """Host a behind an impaired port, host b at the bridge."""

    switch: Switch
    impairer: Impairer
    port: int
    a: Host
    b: Host


def carrier(here: Switch) -> Impairer:
    made = Impairer(here.supervisor, here.namespace)
    here.stack.callback(made.close)
    return made


@contextlib.contextmanager
def network() -> Iterator[Net]:
    with switches.switch() as here:
        a, b = here.host(1, impaired=True), here.host(2)
        impairer = carrier(here)
        yield Net(here, impairer, impairer.add(*switches.ends(1)), a, b)


@pytest.fixture(scope="module")
def shared() -> Iterator[Net]:
    """One for all tests: the links are up, the addresses known."""
    with network() as made:
        for family in (V4, V6):
            until(lambda family=family: not cut(made.a, made.b, family), "the hosts see each other")
        yield made


@pytest.fixture
def net(shared: Net) -> Iterator[Net]:
    yield shared
    shared.impairer.set()


def reaches(one: Host, other: Host, family: int = V4, *, patience: float = 5) -> bool:
    """Whether a datagram comes and an answer goes back in time."""
    with one.udp(family=family) as asks, other.udp(family=family) as answers:
        answers.settimeout(patience)
        asks.settimeout(patience)
        try:
            asks.sendto(b"?", answers.getsockname())
            answers.sendto(b"!", answers.recvfrom(10)[1])
            return asks.recv(10) == b"!"
        except TimeoutError:
            return False


def cut(one: Host, other: Host, family: int = V4) -> bool:
    return not reaches(one, other, family, patience=0.2)


def round_trips(one: Host, other: Host, count: int) -> list[float]:
    """Seconds of each, sorted."""
    took = []
    with one.udp() as asks, other.udp() as answers:
        for _ in range(count):
            began = time.monotonic()
            asks.sendto(b"?", answers.getsockname())
            answers.sendto(b"!", answers.recvfrom(10)[1])
            asks.recv(10)
            took.append(time.monotonic() - began)
    return sorted(took)


def received(sock: socket.socket, *, patience: float = 0.4) -> list[bytes]:
    """All that comes until nothing does for so long."""
    got = []
    sock.settimeout(patience)
    with contextlib.suppress(TimeoutError):
        while True:
            got.append(sock.recv(65536))
    return got


def transfer(one: Host, other: Host, data: bytes) -> tuple[float, str]:
    """Seconds that a TCP connection takes for it, and the digest of what came."""
    with other.listen() as listener:
        sender, receiver = one.connect(listener)
    digest = hashlib.sha256()
    with sender, receiver:
        began = time.monotonic()
        thread = threading.Thread(target=lambda: (sender.sendall(data), sender.shutdown(socket.SHUT_WR)))
        thread.start()
        while piece := receiver.recv(MIB):
            digest.update(piece)
        took = time.monotonic() - began
        thread.join()
    return took, digest.hexdigest()


# Values.


def test_values() -> None:
    assert Impairment() == Impairment(delay=0, jitter=0, loss=0, rate=0)
    made = Impairment(delay="50ms", jitter=datetime.timedelta(seconds=1), loss=1, rate="1.5M")
    assert (made.delay, made.jitter, made.loss, made.rate) == (0.05, 1.0, 1.0, 3 * MIB // 2)
    assert Impairment(delay=60, loss=0.25).delay == 60.0


@pytest.mark.parametrize(
    ("option", "value", "why"),
    [
        ("delay", -1, "0 or more"),
        ("delay", 60.1, "at most 60 seconds"),
        ("delay", float("nan"), "finite"),
        ("delay", True, "not bool"),
        ("delay", "soon", "must be seconds"),
        ("jitter", 61, "at most 60 seconds"),
        ("jitter", None, "not NoneType"),
        ("loss", 5, "from 0 to 1: 5 % is 0.05"),
        ("loss", -0.1, "from 0 to 1"),
        ("loss", 101, "from 0 to 1"),
        ("loss", float("nan"), "from 0 to 1"),
        ("loss", "5%", "not str"),
        ("loss", True, "not bool"),
        ("rate", -1, "at least 0"),
        ("rate", 1.5, "not float"),
        ("rate", "10 Mbit", "must be a number of bytes"),
    ],
)
def test_values_that_mean_nothing(option: str, value: Any, why: str) -> None:
    with pytest.raises(InvalidOption, match=f"^{option}=.*{why}"):
        Impairment(**{option: value})


def test_fractions_that_are_small_are_not_nothing() -> None:
    assert [module._of_all(loss) for loss in (0, 1e-12, 0.5, 1)] == [0, 1, 1 << 31, 0xFFFFFFFF]


# Frames.


@pytest.mark.parametrize("family", [V4, V6])
def test_everything_passes_an_unimpaired_port(net: Net, family: int) -> None:
    """ARP and neighbour discovery among it: the hosts found each other, and the gateway."""
    assert reaches(net.a, net.b, family) and reaches(net.b, net.a, family)
    assert reaches(net.a, net.switch.hosts[0], family) and reaches(net.switch.hosts[0], net.a, family)


def test_nothing_passes_beside_it(net: Net) -> None:
    """Whoever is behind the port hears nobody, the gateway neither, once it lets nothing through."""
    net.impairer.set(loss=1)
    for family in (V4, V6):
        for other in (net.b, net.switch.hosts[0]):
            assert cut(net.a, other, family) and cut(other, net.a, family)
    assert reaches(net.b, net.switch.hosts[0])
    net.impairer.set(loss=0)
    assert reaches(net.a, net.b) and reaches(net.b, net.a)


def test_each_datagram_passes_once(net: Net) -> None:
    with net.a.udp() as one, net.b.udp() as other:
        for number in range(100):
            one.sendto(bytes([number]), other.getsockname())
        assert received(other) == [bytes([number]) for number in range(100)]


def test_fragments_pass(net: Net) -> None:
    net.impairer.set(delay=0.001)
    data = random.Random(1).randbytes(60000)
    with net.a.udp() as one, net.b.udp() as other:
        one.sendto(data, other.getsockname())
        assert received(other) == [data]


def test_a_tagged_frame_stays_tagged(net: Net) -> None:
    """IEEE 802.1Q: the kernel takes the tag out of the frame on its way in."""
    p_all, auxdata, tag_valid = 3, 8, 1 << 4
    payload = random.Random(2).randbytes(60)
    with (
        net.a.new(socket.AF_PACKET, socket.SOCK_RAW) as one,
        net.b.new(socket.AF_PACKET, socket.SOCK_RAW) as other,
    ):
        one.bind(("eth0", 0))
        other.setsockopt(263, auxdata, 1)
        other.bind(("eth0", p_all))
        one.send(net.b.mac + net.a.mac + struct.pack("!HHH", 0x8100, 0x2064, 0x88B5) + payload)
        while True:
            frame, told, _, _ = other.recvmsg(2000, 200)
            if frame[12:14] == b"\x88\xb5":
                break
    status, _, _, _, _, tag, _ = struct.unpack("=IIIHHHH", told[0][2])
    assert frame == net.b.mac + net.a.mac + b"\x88\xb5" + payload
    assert status & tag_valid and tag == 0x2064


# Delay.


@pytest.mark.parametrize("delay", [0.003, 0.02])
def test_delay(net: Net, delay: float) -> None:
    """Only what the host behind the port sends. On an idle machine a tenth of a millisecond comes on top."""
    net.impairer.set(delay=delay)
    took = round_trips(net.a, net.b, 20)
    assert took[0] >= delay
    assert took[len(took) // 2] < 2 * delay + 0.02
    net.impairer.set()
    assert round_trips(net.a, net.b, 20)[10] < delay


def test_jitter(net: Net) -> None:
    net.impairer.set(delay=0.002, jitter=0.02)
    took = round_trips(net.a, net.b, 30)
    assert took[0] >= 0.002
    assert took[-1] - took[0] > 0.005
    assert took[len(took) // 2] < 0.044 + 0.02


def test_jitter_keeps_the_order(net: Net) -> None:
    net.impairer.set(jitter=0.05)
    with net.a.udp() as one, net.b.udp() as other:
        for number in range(200):
            one.sendto(bytes([number]), other.getsockname())
        assert received(other) == [bytes([number]) for number in range(200)]


def test_setting_is_about_what_waits_too(net: Net) -> None:
    with net.a.udp() as one, net.b.udp() as other:
        net.impairer.set(delay=60)
        for number in range(50):
            one.sendto(bytes([number]), other.getsockname())
        assert received(other) == []
        net.impairer.set(delay=0.01)
        one.sendto(b"last", other.getsockname())
        assert received(other) == [*(bytes([number]) for number in range(50)), b"last"]


# Loss.


def test_loss(net: Net) -> None:
    """Seven standard deviations either way. A socket's buffer holds all of them."""
    net.impairer.set(loss=0.5)
    with net.a.udp() as one, net.b.udp() as other:
        for _ in range(200):
            one.sendto(b"x", other.getsockname())
        assert 50 <= len(received(other)) <= 150


def test_nothing_is_lost_on_the_way_in(net: Net) -> None:
    net.impairer.set(loss=0.5)
    with net.b.udp() as one, net.a.udp() as other:
        for _ in range(200):
            one.sendto(b"x", other.getsockname())
        assert len(received(other)) == 200


def test_tcp_survives_loss(net: Net) -> None:
    data = random.Random(3).randbytes(300_000)
    net.impairer.set(loss=0.02, delay=0.001)
    assert transfer(net.a, net.b, data)[1] == hashlib.sha256(data).hexdigest()


# Rate.


@pytest.mark.parametrize("way", ["out", "in"])
def test_rate(net: Net, way: str) -> None:
    source, target = (net.a, net.b) if way == "out" else (net.b, net.a)
    net.impairer.set(rate="4M")
    took, _ = transfer(source, target, bytes(2 * MIB))
    # Its first frame is at most 64 KiB, and what follows waits for the rate.
    assert 0.48 <= took < 5


def test_a_queue_holds_a_second(net: Net) -> None:
    """What comes faster than the rate for longer is lost, not kept for later."""
    net.impairer.set(rate=50_000)
    with net.a.udp() as one, net.b.udp() as other:
        for _ in range(300):
            one.sendto(bytes(958), other.getsockname())  # 1000 bytes on the wire
        time.sleep(0.1)  # until all are taken in
        net.impairer.set()
        assert 50 <= len(received(other)) <= 65


def test_a_new_rate_is_about_what_waits(net: Net) -> None:
    net.impairer.set(rate=100)
    with net.a.udp() as one, net.b.udp() as other:
        for _ in range(2):
            one.sendto(bytes(58), other.getsockname())  # 100 bytes: a second each
        began = time.monotonic()
        net.impairer.set(rate=200)
        assert len(received(other, patience=1)) == 2
        # Half a second each, and then the second of patience.
        assert 1.9 <= time.monotonic() - began < 2.9


# Whole segments and checksums.


@pytest.mark.parametrize("way", ["out", "in"])
def test_fifty_megabytes_pass_unharmed(net: Net, way: str) -> None:
    source, target = (net.a, net.b) if way == "out" else (net.b, net.a)
    net.impairer.set(delay=0.005)
    data = random.Random(4).randbytes(5 * MIB) * 10
    assert transfer(source, target, data)[1] == hashlib.sha256(data).hexdigest()


# Ports.


def test_ports_of_their_own() -> None:
    with switches.switch() as here:
        hosts = [here.host(number, impaired=True) for number in (1, 2, 3)]
        impairer = carrier(here)
        ports = [impairer.add(*switches.ends(number)) for number in (1, 2, 3)]
        a, b, c = hosts
        until(lambda: not cut(a, b) and not cut(b, c), "the hosts see each other")
        impairer.set(loss=1, id=ports[1])
        assert cut(a, b) and reaches(a, c)
        impairer.remove(ports[2])
        assert cut(a, c)
        impairer.set()
        assert reaches(a, b) and cut(a, c)
        impairer.set(delay=0.005)
        # What is added is as all others are; each way has the port of who sends.
        impairer.add(*switches.ends(3))
        assert reaches(a, c) and round_trips(a, c, 5)[0] >= 0.01
        impairer.close()
        assert cut(a, b)


def test_a_link_that_goes_away() -> None:
    with network() as net:
        until(lambda: not cut(net.a, net.b), "the hosts see each other")
        net.impairer.set(delay=60)
        with net.b.udp() as one:
            one.sendto(b"x", (net.a.v4, 9))
        net.switch.remove(1)
        net.impairer.set(delay=0)
        net.impairer.remove(net.port)
        assert not net.impairer.ended


def test_errors(net: Net) -> None:
    def fails(number: int, call: Any, *arguments: Any, **named: Any) -> None:
        with pytest.raises(LaunchError, match="impairing the network") as caught:
            call(*arguments, **named)
        assert caught.value.errno == number

    a, b = switches.ends(1)
    for pair in ((a, 9999), (9999, b), (0, b), (a, -1)):
        fails(errno.ENODEV, net.impairer.add, *pair)
    fails(errno.ENOENT, net.impairer.remove, 9999)
    fails(errno.ENOENT, net.impairer.set, id=9999)
    with pytest.raises(InvalidOption):
        net.impairer.set(loss=2)
    assert reaches(net.a, net.b)


def test_as_many_as_there_may_be() -> None:
    with switches.switch() as here:
        here.host(1, impaired=True)
        impairer = carrier(here)
        ports = [impairer.add(*switches.ends(1)) for _ in range(1024)]
        with pytest.raises(LaunchError) as caught:
            impairer.add(*switches.ends(1))
        assert caught.value.errno == errno.ENOSPC
        impairer.remove(ports[500])
        impairer.add(*switches.ends(1))
        impairer.close()


def test_interrupted_between_question_and_answer(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(net.impairer, "_receive", interrupted)
        with pytest.raises(KeyboardInterrupt):
            net.impairer.set(loss=1)
    with pytest.raises(LaunchError) as caught:
        net.impairer.set(id=9999)
    assert caught.value.errno == errno.ENOENT
    assert cut(net.a, net.b)


# Its end.


def test_nothing_is_left() -> None:
    with network():
        pass
    with nothing_left():
        for _ in range(3):
            with network() as net:
                net.impairer.set(delay=0.1)
                reaches(net.a, net.b, patience=0.01)


def test_it_ends_when_the_host_hangs_up() -> None:
    with network() as net:
        net.impairer._socket.close()
        record = net.impairer._job.wait(20)
        assert record is not None and record.kind == client.RECORD["EXITED"] and record.status == 0
        assert net.impairer.ended


def test_after_its_end() -> None:
    with network() as net:
        net.impairer.close()
        net.impairer.close()
        assert net.impairer.ended
        with pytest.raises(SupervisorError, match="impairing the network"):
            net.impairer.set()


def test_after_the_supervisors_end() -> None:
    supervisor = client.Supervisor()
    namespace = jobs.new_namespace(supervisor, lambda ops: None)
    impairer = Impairer(supervisor, namespace)
    supervisor.close()
    with pytest.raises(SupervisorError):
        for _ in range(1000):  # it is being killed
            impairer.set()
            time.sleep(0.01)
    assert impairer.ended
    impairer.close()
    os.close(namespace)


def test_not_a_namespace() -> None:
    with open(__file__) as file, pytest.raises(LaunchError, match="joining namespaces") as caught:
        Impairer(client.default(), file.fileno())
    assert caught.value.errno == errno.EINVAL


def test_from_many_threads(net: Net) -> None:
    def work(number: int) -> None:
        for turn in range(50):
            try:
                net.impairer.set(id=1000 + number if turn % 2 else None)
            except LaunchError as error:
                found.append(error.errno)

    found: list[int | None] = []
    threads = [threading.Thread(target=work, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [errno.ENOENT] * 200


def children(supervisor: int) -> set[int]:
    return {int(pid) for pid in Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()}


def resident(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) << 10


def test_memory_is_bounded() -> None:
    """Six hosts send much more into a minute's delay: each may have 16 MiB waiting, all together 64."""
    with switches.switch() as here:
        hosts = [here.host(number, impaired=True) for number in range(1, 7)]
        before = children(here.supervisor.pid)
        impairer = carrier(here)
        pid = max(children(here.supervisor.pid) - before, key=resident)
        for host in hosts:
            impairer.add(*switches.ends(host.number))
        gateway = here.hosts[0]
        with gateway.udp() as sink:
            for host in hosts:
                until(lambda host=host: not cut(host, gateway), "the gateway is seen")
            impairer.set(delay=60)
            for host in hosts:
                with host.udp() as one:
                    for _ in range(24 * 16):
                        one.sendto(bytes(60000), sink.getsockname())
                        impairer.set(delay=60)  # what came is taken in meanwhile
                if host is hosts[0]:
                    assert 14 * MIB < resident(pid) < 20 * MIB
            assert 50 * MIB < resident(pid) < 80 * MIB
            impairer.set()
            impairer.set()
        impairer.close()


# The same code under the sanitisers.


def compiled(base: Path, name: str, *parts: str) -> str:
    if not ROOT:
        pytest.skip("the same code without a container: once is enough")
    need(shutil.which("gcc") is not None, "gcc")
    sources = [str(native_programs.SOURCES / f"{part}.c") for part in parts]
    main = str(native_programs.NATIVE / f"{name}.c")
    options = [*native_programs.SANITISED[1:], *native_programs.WARNINGS[:4], "-std=gnu11"]
    argv = ["gcc", *options, f"-I{native_programs.SOURCES}", main, *sources, "-o", str(base / name)]
    subprocess.run(argv, check=True)
    return str(base / name)


def test_queues(tmp_path: Path) -> None:
    """By chance, against what must hold at any time."""
    program = compiled(tmp_path, "unit_impair", "impair_queue")
    for seed in range(4):
        argv = [program, str(seed), "20000"]
        subprocess.run(argv, check=True, env=os.environ | native_programs.ENVIRONMENT, timeout=60)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    return compiled(tmp_path_factory.mktemp("impair"), "impair_frames", "impair", "impair_queue", "util")


def request(verb: int, *fields: int) -> bytes:
    return HEAD.pack(verb, 7) + module._FIELDS.pack(*fields)


class Raw:
    """The program, in a network namespace; it must end well when the socket is closed."""

    def __init__(self, program: str, namespace: int) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(20)
        with theirs:
            argv = ["nsenter", f"--net=/proc/self/fd/{namespace}", program, str(theirs.fileno())]
            self.process = subprocess.Popen(
                argv,
                pass_fds=[theirs.fileno(), namespace],
                env=os.environ | native_programs.ENVIRONMENT,
                stderr=subprocess.PIPE,
            )

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *failure: object) -> None:
        self.socket.close()
        _, told = self.process.communicate(timeout=20)
        assert self.process.returncode == 0, told.decode()

    def send(self, message: bytes) -> tuple[int, int]:
        self.socket.send(message)
        serial, error = REPLY.unpack(self.socket.recv(100))
        return serial, error

    def ask(self, verb: str, *fields: int) -> int:
        padded = [*fields, *[0] * (7 - len(fields))]
        return self.send(request(module._VERB[verb], *padded))[1]


def test_requests_that_nobody_would_send(program: str) -> None:
    with switches.switch() as here, Raw(program, here.namespace) as raw:
        good = request(module._VERB["SET"], *[0] * 7)
        assert raw.send(good) == (7, 0)
        for size in range(1, len(good)):
            assert raw.send(good[:size])[1] == errno.EBADMSG
        assert raw.send(good + b"x")[1] == errno.EBADMSG
        assert raw.send(bytes(100_000))[1] == errno.EBADMSG
        for verb in (0, 4, 2**32 - 1):
            assert raw.send(request(verb, *[0] * 7)) == (7, errno.EBADMSG)
        assert raw.ask("ADD", 0, 1, 1) == errno.EEXIST
        assert raw.ask("REMOVE", 0) == errno.ENOENT
        for field in (4, 5):
            fields = [0] * 7
            fields[field] = 60 * 10**9 + 1
            assert raw.ask("SET", *fields) == errno.EINVAL
        for rate in (1, 2**64 - 1):
            assert raw.ask("SET", 0, 0, 0, 2**32 - 1, 60 * 10**9, 60 * 10**9, rate) == 0


def test_sanitised(program: str) -> None:
    """Frames of all sizes through all of it, while ports come and go."""
    chance = random.Random(5)
    with switches.switch() as here:
        a, b = here.host(1, impaired=True), here.host(2, impaired=True)
        with Raw(program, here.namespace) as raw, a.udp() as one, b.udp() as other:
            assert [raw.ask("ADD", number, *switches.ends(number)) for number in (1, 2)] == [0, 0]
            assert raw.ask("ADD", 1, *switches.ends(1)) == errno.EEXIST
            until(lambda: not cut(a, b), "the hosts see each other")
            data = chance.randbytes(2 * MIB)
            for turn in range(40):
                how = [chance.choice(values) for values in ((0, 2**30), (0, 10**6), (0, 10**6), (0, 10**6))]
                assert raw.ask("SET", turn % 3, 0, 0, *how) == 0
                for size in (0, 1, 1472, 30000):
                    one.sendto(data[:size], other.getsockname())
                    other.sendto(data[:size], one.getsockname())
                if turn % 10 == 9:
                    assert raw.ask("REMOVE", 1) == 0
                    assert raw.ask("ADD", 1, *switches.ends(1)) == 0
            for port in (0, 1, 2):
                assert raw.ask("SET", port, 0, 0, 0, 10**6) == 0
            select.select([], [], [], 0.05)
            assert transfer(a, b, data)[1] == hashlib.sha256(data).hexdigest()
