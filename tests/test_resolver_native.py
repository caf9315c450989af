"""The name server of a network under the sanitisers."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

import dns_client as dns
import native_programs
import switches
from conftest import need
from containers import ROOT
from dns_client import ANY, PTR, A, answer_to, question
from pycontainer.network import addresses as addressing
from pycontainer.network import resolver as module
from pycontainer.supervisor.conversation import HEAD, REPLY
from resolvers import LONG, REVERSE_6, SECONDS, V4

PARTS = ("dns", "dns_answer", "dns_message", "dns_names", "dns_tcp", "dns_upstream", "util")
PURE = ("dns_answer", "dns_message", "dns_names")
CORPUS = native_programs.NATIVE / "corpus-dns"
FEW = 80
"""Descriptors, for eight questions that wait for an answer."""


def compiled(target: Path, name: str, parts: Sequence[str], *options: str) -> Path:
    if not ROOT:
        pytest.skip("the same code without a container: once is enough")
    need(shutil.which("gcc") is not None, "gcc")
    sources = [native_programs.SOURCES / f"{part}.c" for part in parts]
    argv = ["gcc", *native_programs.SANITISED[1:], *native_programs.WARNINGS, "-std=gnu11", *options]
    main = native_programs.NATIVE / f"{name}.c"
    subprocess.run([*argv, f"-I{native_programs.SOURCES}", main, *sources, "-o", target], check=True)
    return target


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("resolve") / "resolve_names", "resolve_names", PARTS)


class Raw:
    """The program, in a network namespace; it must end well when the socket is closed."""

    def __init__(self, program: Path, namespace: int, descriptors: int = FEW) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(SECONDS)
        with theirs:
            argv = ["nsenter", f"--net=/proc/self/fd/{namespace}", program]
            self.process = subprocess.Popen(
                [*argv, str(theirs.fileno()), str(descriptors)],
                pass_fds=[theirs.fileno(), namespace],
                env=os.environ | native_programs.ENVIRONMENT,
                stderr=subprocess.PIPE,
            )

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *failure: object) -> None:
        self.socket.close()
        _, told = self.process.communicate(timeout=SECONDS)
        assert self.process.returncode == 0, told.decode()

    def send(self, message: bytes) -> tuple[int, int]:
        self.socket.send(message)
        serial, error = REPLY.unpack(self.socket.recv(100))
        return serial, error

    def ask(self, verb: int, id: int, addresses: Sequence[str], servers: int = 0, text: bytes = b"") -> int:
        return self.send(request(verb, id, len(addresses) - servers, servers, addresses, text))[1]


BEGIN, ADD, REMOVE = (module._VERB[verb] for verb in ("BEGIN", "ADD", "REMOVE"))


def request(
    verb: int, id: int, count: int, servers: int, addresses: Sequence[str] = (), text: bytes = b""
) -> bytes:
    fields = module._FIELDS.pack(id, count, servers, len(text))
    return HEAD.pack(verb, 7) + fields + addressing.packed(addresses, 8) + text


def test_requests_that_nobody_would_send(program: Path) -> None:
    with switches.switch() as here, Raw(program, here.namespace) as raw:
        good = request(ADD, 1, 1, 0, ["10.5.0.1"], b"db\0")
        for size in range(8, len(good)):
            assert raw.send(good[:size])[1] == errno.EBADMSG
        assert raw.send(good + b"x")[1] == errno.EBADMSG
        assert raw.send(b"x")[1] == errno.EBADMSG
        assert raw.send(bytes(100_000))[1] == errno.EBADMSG
        assert raw.send(good) == (7, 0)
        for verb in (0, 4, 2**32 - 1):
            assert raw.ask(verb, 2, []) == errno.EBADMSG
        for text in (b"db", b"\0", b"a..b\0", b".a\0", b"a.\0", b"x" * 64 + b"\0", b"y." * 126 + b"zz\0"):
            assert raw.ask(ADD, 2, [], text=text) == errno.EINVAL
        for count, servers in ((9, 0), (8, 1), (0, 4), (2**32 - 1, 1), (1, 2**32 - 1)):
            assert raw.send(request(BEGIN, 0, count, servers))[1] == errno.EINVAL
        assert raw.send(request(ADD, 2, 9, 0))[1] == errno.EINVAL
        assert raw.send(request(BEGIN, 0, 1, 0))[1] == errno.EAFNOSUPPORT
        assert raw.ask(BEGIN, 0, ["10.5.0.1"]) == 0
        assert raw.ask(BEGIN, 0, ["10.5.0.1"]) == errno.EALREADY


def test_no_more_questions_than_there_is_room_for(program: Path) -> None:
    with switches.switch() as here:
        asking, server = here.host(1), here.host(2)
        with Raw(program, here.namespace) as raw, server.udp(53) as upstream, asking.udp() as sock:
            assert raw.ask(BEGIN, 0, [here.hosts[0].v4, server.v4], servers=1) == 0
            sock.connect((here.hosts[0].v4, 53))
            for _ in range(2):
                for number in range(9):
                    sock.send(question("example.com", id=number))
                found = dns.parse(sock.recv(1000))
                assert (found.id, found.code) == (8, dns.SERVER_FAILURE)
                for _ in range(8):
                    asked, source = upstream.recvfrom(1000)
                    upstream.sendto(answer_to(asked, "192.0.2.1"), source)
                assert sorted(dns.parse(sock.recv(1000)).id for _ in range(8)) == [*range(8)]


def test_chaos(program: Path) -> None:
    """Questions and answers of all kinds and of none, on all ways, while members come and go."""
    chance = random.Random(3)
    names = ["db", "example.com", LONG, REVERSE_6, "11.0.5.10.in-addr.arpa", "x"]

    def message() -> bytes:
        made = bytearray(
            question(chance.choice(names), chance.choice([A, ANY, PTR]), id=chance.randrange(65536))
        )
        for _ in range(chance.choice([0, 0, 1, 5])):
            made[chance.randrange(len(made))] = chance.randrange(256)
        return bytes(made)

    with switches.switch() as here:
        asking, server = here.host(1), here.host(2)
        gateway = (here.hosts[0].v4, 53)
        with (
            Raw(program, here.namespace) as raw,
            server.udp(53) as upstream,
            asking.udp() as sock,
            server.new(V4, socket.SOCK_STREAM) as listener,
        ):
            listener.bind((server.v4, 53))
            listener.listen()
            listener.setblocking(False)
            upstream.setblocking(False)
            assert raw.ask(BEGIN, 0, [here.hosts[0].v4, here.hosts[0].v6, server.v4], servers=1) == 0
            links: list[socket.socket] = []
            for turn in range(400):
                raw.ask(
                    chance.choice([ADD, REMOVE]),
                    chance.randrange(1, 4),
                    ["10.5.0.11", "fd05::11"],
                    text=b"db\0x\0",
                )
                for _ in range(chance.randrange(6)):
                    sock.sendto(message(), gateway)
                if turn % 3 == 0:
                    links.append(asking.new(V4, socket.SOCK_STREAM))
                    links[-1].connect(gateway)
                    links[-1].setblocking(False)
                with contextlib.suppress(OSError):
                    data = dns.framed(message())
                    chance.choice(links).send(data[: chance.choice([1, len(data), len(data)])])
                with contextlib.suppress(BlockingIOError):
                    links.append(listener.accept()[0])
                    links[-1].setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    while chance.random() < 0.8:
                        asked, source = upstream.recvfrom(65536)
                        upstream.sendto(answer_to(asked, "192.0.2.1", code=chance.randrange(6)), source)
                while len(links) > 12:
                    links.pop(chance.randrange(len(links))).close()
            for link in links:
                link.close()
            raw.ask(REMOVE, 9, [])
            assert raw.ask(ADD, 9, ["10.5.0.19"], text=b"last\0") == 0
            assert dns.ask(asking, gateway[0], question("last")).texts == ["10.5.0.19"]


def test_corpus(tmp_path: Path) -> None:
    """Messages and names, and each cut off and changed in many places."""
    replay = compiled(tmp_path / "replay", "fuzz_dns", PURE, "-DPCTR_REPLAY")
    files = sorted(CORPUS.iterdir())
    assert len(files) >= 8
    for seed in [*files]:
        data = seed.read_bytes()
        for step in range(len(data)):
            for change in (data[:step], data[:step] + b"\xff" + data[step + 1 :]):
                files.append(tmp_path / f"{seed.name}-{len(files)}")
                files[-1].write_bytes(change)
    subprocess.run([replay, *files], check=True, env=native_programs.ENVIRONMENT, timeout=60)


@pytest.mark.slow
def test_fuzzing(tmp_path: Path) -> None:
    need(native_programs.has_fuzzer(tmp_path), "clang with libFuzzer")
    sources = [native_programs.SOURCES / f"{part}.c" for part in PURE]
    argv = ["clang", *native_programs.SANITISED, "-fsanitize=fuzzer", f"-I{native_programs.SOURCES}"]
    subprocess.run(
        [*argv, native_programs.NATIVE / "fuzz_dns.c", *sources, "-o", tmp_path / "fuzz"], check=True
    )
    corpus = tmp_path / "corpus"
    shutil.copytree(CORPUS, corpus)
    limits = ["-runs=200000", "-max_len=1400", "-max_total_time=20", f"-artifact_prefix={tmp_path}/"]
    fuzz = [tmp_path / "fuzz", *limits, corpus]
    subprocess.run(fuzz, check=True, env=native_programs.ENVIRONMENT, timeout=60, stderr=subprocess.DEVNULL)
