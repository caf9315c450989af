"""The file agent: every verb and its errors, and what happens to requests that nobody would send."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import socket
import stat
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import native_programs
import pycontainer as pc
from conftest import need
from containers import ROOT, nothing_left
from pycontainer.errors import LaunchError
from pycontainer.supervisor import served
from pycontainer.supervisor.served import VERB, Served


@pytest.fixture(params=["created", "running"])
def agent(request: pytest.FixtureRequest) -> Iterator[Served]:
    with pc.create("host", ["sleep", "1000"]) as container:
        if request.param == "running":
            container.start()
        container._served().mkdir("/tmp/d", 0o755)
        yield container._served()


def fails(number: int, call: Any, *arguments: Any, **named: Any) -> OSError:
    with pytest.raises(OSError) as caught:
        call(*arguments, **named)
    assert caught.value.errno == number, caught.value
    return caught.value


def write(agent: Served, path: str, data: bytes = b"data", **named: Any) -> None:
    fd = agent.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o640, **named)
    os.write(fd, data)
    os.close(fd)


def read(agent: Served, path: str, **named: Any) -> bytes:
    fd = agent.open(path, os.O_RDONLY, **named)
    try:
        return os.read(fd, 1000)
    finally:
        os.close(fd)


@contextlib.contextmanager
def directory(agent: Served, path: str) -> Iterator[int]:
    fd = agent.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


# Verbs.


def test_open(agent: Served) -> None:
    write(agent, "/tmp/d/f")
    assert read(agent, "/tmp/d/f") == b"data"
    assert stat.S_IMODE(agent.stat("/tmp/d/f").mode) == 0o640
    write(agent, "/tmp/d/f", b"new")
    assert read(agent, "/tmp/d/f") == b"new"
    fails(errno.EEXIST, agent.open, "/tmp/d/f", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    fails(errno.ENOENT, agent.open, "/tmp/d/none", os.O_RDONLY)
    fails(errno.ENOTDIR, agent.open, "/tmp/d/f/x", os.O_RDONLY)
    fails(errno.ENOTDIR, agent.open, "/tmp/d/f", os.O_RDONLY | os.O_DIRECTORY)
    fails(errno.EISDIR, agent.open, "/tmp/d", os.O_WRONLY)
    agent.symlink("/tmp/d/l", "f")
    assert read(agent, "/tmp/d/l") == b"new"
    fails(errno.ELOOP, agent.open, "/tmp/d/l", os.O_RDONLY | os.O_NOFOLLOW)


def test_a_descriptor_appends_and_does_not_block(agent: Served) -> None:
    write(agent, "/tmp/d/f", b"one")
    fd = agent.open("/tmp/d/f", os.O_WRONLY | os.O_APPEND)
    os.write(fd, b" two")
    assert os.get_blocking(fd)
    assert not os.get_inheritable(fd)
    os.close(fd)
    assert read(agent, "/tmp/d/f") == b"one two"


def test_only_files_and_directories_are_opened(agent: Served) -> None:
    agent.mkfifo("/tmp/d/fifo", 0o600)
    # Without a reader, the open itself fails.
    fails(errno.ENXIO, agent.open, "/tmp/d/fifo", os.O_WRONLY)
    fails(errno.ENXIO, agent.open, "/tmp/d/fifo", os.O_RDONLY)


def test_the_kernels_own_files_are_not_written_to() -> None:
    with pc.start("host", ["sleep", "1000"], sysctls={"net.ipv4.ip_forward": "0"}) as container:
        agent = container._served()
        assert read(agent, "/proc/sys/net/ipv4/ip_forward") == b"0\n"
        for path in ("/proc/sys/net/ipv4/ip_forward", "/proc/self/comm", "/proc/1/comm"):
            with pytest.raises(OSError) as caught:
                agent.open(path, os.O_WRONLY)
            assert caught.value.errno in (errno.EPERM, errno.EROFS, errno.ENOENT)


def test_stat(agent: Served) -> None:
    write(agent, "/tmp/d/f", b"12345")
    agent.symlink("/tmp/d/l", "f")
    agent.link("/tmp/d/g", "/tmp/d/f")
    found = agent.stat("/tmp/d/l")
    assert (found.length, found.links, found.uid, found.gid) == (5, 2, 0, 0)
    assert found == agent.stat("/tmp/d/f")
    link = agent.stat("/tmp/d/l", follow=False)
    assert stat.S_ISLNK(link.mode) and link.length == 1
    assert stat.S_ISDIR(agent.stat("/").mode)
    assert stat.S_ISDIR(agent.stat("/tmp/..").mode)
    assert agent.stat("").inode == agent.stat("/").inode
    fails(errno.ENOENT, agent.stat, "/none")
    error = fails(errno.ENOTDIR, agent.stat, "/etc/passwd/x")
    assert error.filename == "/etc/passwd/x"


def test_readlink(agent: Served) -> None:
    content = "x" * 4000
    agent.symlink("/tmp/d/l", content)
    assert agent.readlink("/tmp/d/l") == content
    fails(errno.EINVAL, agent.readlink, "/tmp/d")
    fails(errno.ENOENT, agent.readlink, "/tmp/d/none")
    fails(errno.EEXIST, agent.symlink, "/tmp/d/l", "x")
    fails(errno.ENOENT, agent.symlink, "/tmp/d/m", "")


def test_directories(agent: Served) -> None:
    agent.mkdir("/tmp/d/e", 0o1777)
    assert stat.S_IMODE(agent.stat("/tmp/d/e").mode) == 0o1777
    fails(errno.EEXIST, agent.mkdir, "/tmp/d/e", 0o700)
    fails(errno.ENOENT, agent.mkdir, "/tmp/none/e", 0o700)
    fails(errno.ENOTEMPTY, agent.rmdir, "/tmp/d")
    fails(errno.EISDIR, agent.unlink, "/tmp/d/e")
    agent.rmdir("/tmp/d/e")
    fails(errno.ENOENT, agent.rmdir, "/tmp/d/e")
    for name in ("/", "", "/tmp/..", "/tmp/."):
        fails(errno.EINVAL, agent.mkdir, name, 0o700)


def test_unlink_and_remove_tree(agent: Served) -> None:
    write(agent, "/tmp/d/f")
    agent.symlink("/tmp/d/l", "f")
    agent.unlink("/tmp/d/l")
    assert read(agent, "/tmp/d/f") == b"data"
    fails(errno.ENOTDIR, agent.rmdir, "/tmp/d/f")
    agent.symlink("/tmp/l", "d")
    agent.remove_tree("/tmp/l")
    agent.stat("/tmp/d/f")
    agent.remove_tree("/tmp/d")
    fails(errno.ENOENT, agent.stat, "/tmp/d")
    agent.remove_tree("/tmp/d")


def test_remove_tree_names_what_is_in_the_way(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with pc.create("host", ["true"], mounts=[pc.bind(tmp_path, "/tmp/x/a/b")]) as container:
        error = fails(errno.EXDEV, container._served().remove_tree, "/tmp/x")
        assert error.filename == "/tmp/x/a/b"


def test_rename_and_link(agent: Served) -> None:
    write(agent, "/tmp/d/f", b"f")
    write(agent, "/tmp/d/g", b"g")
    fails(errno.EEXIST, agent.rename, "/tmp/d/f", "/tmp/d/g", exclusive=True)
    agent.rename("/tmp/d/f", "/tmp/d/g")
    assert read(agent, "/tmp/d/g") == b"f"
    fails(errno.ENOENT, agent.rename, "/tmp/d/f", "/tmp/d/g")
    fails(errno.EEXIST, agent.link, "/tmp/d/g", "/etc/passwd")
    error = fails(errno.ENOENT, agent.link, "/tmp/d/h", "/tmp/none")
    assert (error.filename, error.filename2) == ("/tmp/d/h", "/tmp/none")
    fails(errno.EPERM, agent.link, "/tmp/d/h", "/tmp/d")


def test_attributes(agent: Served) -> None:
    write(agent, "/tmp/d/f")
    agent.symlink("/tmp/d/l", "f")
    agent.chmod("/tmp/d/l", 0o4711)
    assert stat.S_IMODE(agent.stat("/tmp/d/f").mode) == 0o4711
    fails(errno.EOPNOTSUPP, agent.chmod, "/tmp/d/l", 0o600, follow=False)
    agent.chown("/tmp/d/l", 3, -1, follow=False)
    assert (agent.stat("/tmp/d/l", follow=False).uid, agent.stat("/tmp/d/f").uid) == (3, 0)
    agent.chown("/tmp/d/l", -1, 4)
    assert (agent.stat("/tmp/d/f").uid, agent.stat("/tmp/d/f").gid) == (0, 4)
    agent.utime("/tmp/d/l", -1, 10**18 + 1)
    found = agent.stat("/tmp/d/f")
    assert (found.atime_ns, found.mtime_ns) == (-1, 10**18 + 1)
    for call in (agent.chmod, agent.utime, agent.chown):
        arguments = (1,) if call == agent.chmod else (1, 1)
        fails(errno.ENOENT, call, "/tmp/d/none", *arguments)


def test_names_that_cannot_be(agent: Served) -> None:
    fails(errno.ENAMETOOLONG, agent.stat, "/" + "x" * 256)
    fails(errno.ENAMETOOLONG, agent.stat, "/x" * 2048)
    with pytest.raises(ValueError, match="null byte"):
        agent.stat("/tmp/\0")
    odd = b"/tmp/d/\xff\n\x1b[1m".decode(errors="surrogateescape")
    write(agent, odd, b"odd")
    assert read(agent, odd) == b"odd"


def test_links_stay_inside(agent: Served) -> None:
    for content in ("../../../../../../etc/passwd", "/etc/passwd", "/proc/self/root/../etc/passwd"):
        agent.remove_tree("/tmp/d/l")
        agent.symlink("/tmp/d/l", content)
        with contextlib.suppress(FileNotFoundError):
            assert agent.stat("/tmp/d/l").inode == agent.stat("/etc/passwd").inode
    agent.symlink("/tmp/d/a", "b")
    agent.symlink("/tmp/d/b", "a")
    fails(errno.ELOOP, agent.stat, "/tmp/d/a")


# Beginning at a directory.


def test_names_in_an_open_directory(agent: Served) -> None:
    with directory(agent, "/tmp/d") as at:
        write(agent, "f", at=at)
        agent.rename("/tmp/d", "/tmp/moved")
        assert read(agent, "f", at=at) == b"data"
        agent.mkdir("e", 0o700, at=at)
        agent.link("e/g", "f", at=at)
        agent.rename("f", "e/f", at=at)
        assert agent.stat("/tmp/moved/e/f").links == 2
        agent.unlink("e/f", at=at)
        agent.mkfifo("p", 0o600, at=at)
        agent.chmod("e/g", 0o600, at=at)
        agent.chown("e/g", 1, 1, at=at)
        agent.utime("e/g", 1, 2, at=at)
        found = agent.stat("e/g", at=at)
        assert (found.uid, found.mtime_ns, stat.S_IMODE(found.mode)) == (1, 2, 0o600)
        assert agent.stat("", at=at).inode == agent.stat("/tmp/moved").inode


def test_a_second_directory(agent: Served) -> None:
    write(agent, "/tmp/d/f")
    agent.mkdir("/tmp/e", 0o700)
    with directory(agent, "/tmp/d") as at, directory(agent, "/tmp/e") as other:
        agent.link("g", "f", at=other, existing_at=at)
        fails(errno.ENOENT, agent.link, "h", "f", at=other)
    assert read(agent, "/tmp/e/g") == b"data"


def test_no_link_is_followed_from_a_directory(agent: Served) -> None:
    agent.symlink("/tmp/d/l", "/etc")
    agent.symlink("/tmp/d/f", "/etc/passwd")
    with directory(agent, "/tmp/d") as at:
        assert agent.readlink("l", at=at) == "/etc"
        assert stat.S_ISLNK(agent.stat("f", follow=False, at=at).mode)
        fails(errno.ELOOP, agent.stat, "f", at=at)
        fails(errno.ELOOP, agent.open, "f", os.O_RDONLY, at=at)
        fails(errno.ELOOP, agent.open, "l/passwd", os.O_RDONLY, at=at)
        fails(errno.ELOOP, agent.mkdir, "l/x", 0o700, at=at)
        fails(errno.ELOOP, agent.link, "g", "l/passwd", at=at)
        for way in ("..", "../etc", "/etc"):
            fails(errno.EXDEV, agent.open, way, os.O_RDONLY, at=at)
            fails(errno.EXDEV, agent.mkdir, f"{way}/x", 0o700, at=at)


def test_a_directory_that_is_a_file(agent: Served) -> None:
    fd = agent.open("/etc/passwd", os.O_RDONLY)
    fails(errno.ENOTDIR, agent.stat, "x", at=fd)
    os.close(fd)


# Sockets.


def test_sockets(agent: Served) -> None:
    fd = agent.socket(socket.AF_INET, socket.SOCK_STREAM)
    with socket.socket(fileno=fd) as made:
        assert (made.family, made.type) == (socket.AF_INET, socket.SOCK_STREAM)
    fails(errno.EAFNOSUPPORT, agent.socket, 9999, socket.SOCK_STREAM)
    fails(errno.ENOENT, agent.connect, "/tmp/d/none")
    write(agent, "/tmp/d/f")
    fails(errno.ECONNREFUSED, agent.connect, "/tmp/d/f")
    fails(errno.ENAMETOOLONG, agent.connect, "/tmp/d/" + "x" * 200)


# The connection.


def test_interrupted_between_question_and_answer(agent: Served) -> None:
    """The next one gets its own answer, and the other's descriptor is closed."""
    received = agent._receive

    def interrupted(asker: int) -> Any:
        raise KeyboardInterrupt

    write(agent, "/tmp/d/f")
    agent._receive = interrupted  # type: ignore[method-assign]
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            agent.open("/etc/passwd", os.O_RDONLY)
    agent._receive = received  # type: ignore[method-assign]
    before = len(os.listdir("/proc/self/fd"))
    assert read(agent, "/tmp/d/f") == b"data"
    assert len(os.listdir("/proc/self/fd")) == before


def test_from_many_threads(agent: Served) -> None:
    def work(number: int) -> None:
        for turn in range(50):
            name = f"/tmp/d/{number}-{turn}"
            write(agent, name, name.encode())
            if read(agent, name) != name.encode():
                wrong.append(name)

    wrong: list[str] = []
    threads = [threading.Thread(target=work, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_after_its_end() -> None:
    with nothing_left(), pc.create("host", ["true"]) as container:
        agent = container._served()
        assert not agent.ended
        agent.close()
        agent.close()
        assert agent.ended
        with pytest.raises(LaunchError):
            agent.stat("/")
        assert container._served() is not agent


def test_no_room_for_a_descriptor(agent: Served) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = os.dup(0)
    os.close(highest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest, hard))
    try:
        fails(errno.EMFILE, agent.open, "/etc/passwd", os.O_RDONLY)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert read(agent, "/etc/passwd")


# Requests that nobody would send, to the same code under the sanitisers.


PARTS = ("serve", "resolve", "made", "tree", "beneath", "util")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    if not ROOT:
        pytest.skip("the same code without a container: once is enough")
    need(shutil.which("gcc") is not None, "gcc")
    target = tmp_path_factory.mktemp("serve") / "serve_files"
    sources = [str(native_programs.SOURCES / f"{part}.c") for part in PARTS]
    main = str(native_programs.NATIVE / "serve_files.c")
    # The parts are GNU C, as setup.py compiles them.
    options = [*native_programs.SANITISED[1:], *native_programs.WARNINGS[:4], "-std=gnu11"]
    argv = ["gcc", *options, f"-I{native_programs.SOURCES}", main, *sources, "-o", str(target)]
    subprocess.run(argv, check=True)
    return str(target)


REQUEST = served._REQUEST
REPLY = served._REPLY


class Raw:
    """The program, serving `root`; it must end well when the socket is closed."""

    def __init__(self, program: str, root: Path) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(20)
        with theirs:
            argv = [program, str(root), str(theirs.fileno())]
            environment = os.environ | native_programs.ENVIRONMENT
            self.process = subprocess.Popen(
                argv, pass_fds=[theirs.fileno()], env=environment, stderr=subprocess.PIPE
            )

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *failure: object) -> None:
        self.socket.close()
        _, told = self.process.communicate(timeout=20)
        assert self.process.returncode == 0, told.decode()

    def send(self, message: bytes, fds: list[int] | None = None) -> tuple[int, ...]:
        """The fields of the answer; a descriptor that comes along is closed."""
        socket.send_fds(self.socket, [message], fds or [])
        data, found, _, _ = socket.recv_fds(self.socket, 8192, 4)
        for fd in found:
            os.close(fd)
        fields: tuple[int, ...] = REPLY.unpack_from(data)
        assert len(data) == REPLY.size + fields[1]
        return fields

    def ask(self, verb: int, strings: bytes, fds: list[int] | None = None, **named: int) -> int:
        return self.send(request(verb, **named) + strings, fds)[0]

    def open_descriptors(self) -> int:
        # Those of a request are closed after its answer.
        self.ask(VERB["STAT"], b"/\0\0")
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))


def request(
    verb: int,
    *,
    flags: int = 0,
    mode: int = 0,
    uid: int = 0,
    gid: int = 0,
    serial: int = 0,
    atime: int = 0,
    mtime: int = 0,
) -> bytes:
    return REQUEST.pack(verb, flags, mode, uid, gid, serial, atime, mtime)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree with a link out of it, beside a canary."""
    (tmp_path / "root" / "d").mkdir(parents=True)
    (tmp_path / "root" / "f").write_text("file")
    (tmp_path / "root" / "l").symlink_to("../../canary")
    (tmp_path / "canary").mkdir()
    (tmp_path / "canary" / "f").write_text("tweet")
    return tmp_path / "root"


def test_malformed_requests(program: str, root: Path) -> None:
    with Raw(program, root) as raw:
        good = request(VERB["STAT"]) + b"f\0\0"
        assert raw.send(good)[0] == 0
        for size in range(1, REQUEST.size + 1):
            assert raw.send(good[:size])[0] == errno.EBADMSG
        for strings in (b"f", b"f\0", b"f\0\0\0", b"f\0x", b"f\0x\0y\0", b"\0", b"ff"):
            assert raw.ask(VERB["STAT"], strings) == errno.EBADMSG
        for verb in (0, 17, 2**31, 2**32 - 1):
            assert raw.ask(verb, b"f\0\0") == errno.EBADMSG
        assert raw.send(request(VERB["STAT"], serial=0xDEADBEEF) + b"f\0\0")[5] == 0xDEADBEEF


def test_longest_strings(program: str, root: Path) -> None:
    with Raw(program, root) as raw:
        for verb in sorted(set(VERB.values()) - {VERB["SOCKET"]}):
            longest = b"x" * 4095
            assert raw.ask(verb, longest + b"\0" + longest + b"\0") == errno.ENAMETOOLONG
            many = b"d/../" * 819
            assert raw.ask(verb, many + b"none/x\0" + b"y" * 300 + b"\0", flags=0) != 0
        assert raw.ask(VERB["STAT"], b"f\0\0") == 0


def test_a_request_that_is_too_long_ends_it(program: str, root: Path) -> None:
    raw = Raw(program, root)
    raw.socket.send(request(VERB["STAT"]) + b"x" * 9000 + b"\0\0")
    assert raw.socket.recv(100) == b""
    raw.socket.close()
    _, told = raw.process.communicate(timeout=20)
    assert raw.process.returncode == errno.EMSGSIZE, told.decode()


def test_descriptors_of_all_kinds_come_along(program: str, root: Path) -> None:
    with Raw(program, root) as raw, open("/dev/null") as null, socket.socket() as other:
        before = raw.open_descriptors()
        at = os.open(root, os.O_RDONLY)
        assert raw.ask(VERB["STAT"], b"f\0\0", [at]) == 0
        assert raw.ask(VERB["STAT"], b"f\0\0", [at] * 2) == 0
        assert raw.ask(VERB["STAT"], b"f\0\0", [at] * 10) == 0
        for strange in (null.fileno(), other.fileno(), raw.socket.fileno()):
            assert raw.ask(VERB["STAT"], b"f\0\0", [strange]) == errno.ENOTDIR
        os.close(at)
        assert raw.open_descriptors() == before


def test_times_that_no_clock_shows(program: str, root: Path) -> None:
    with Raw(program, root) as raw:
        for time in (-(2**63), 2**63 - 1, -1, -999_999_999, -(10**9), 10**9 - 1):
            assert raw.ask(VERB["UTIME"], b"f\0\0", atime=time, mtime=time) == 0
            assert raw.ask(VERB["STAT"], b"f\0\0") == 0


def test_random_requests(program: str, root: Path) -> None:
    """No answer is missing, nothing outside is touched, and no descriptor stays open."""
    chance = random.Random(4)
    canary = root.parent / "canary"
    before = [(path, os.lstat(path)) for path in (canary, canary / "f")]
    # Not REMOVE_TREE of everything: something must stay to work on.
    names = [*b"f d l d/x d/y l/f l/new ../canary/f /d/../l . / l/.".split(), b""]
    with Raw(program, root) as raw:
        held = raw.open_descriptors()
        at = os.open(root / "d", os.O_RDONLY)
        for _ in range(4000):
            verb = chance.choice(list(VERB.values()))
            strings = chance.choice(names) + b"\0" + chance.choice(names) + b"\0"
            head = request(
                verb,
                flags=chance.choice([0, 1, 2, 3, os.O_CREAT | os.O_RDWR, chance.getrandbits(32)]),
                mode=chance.getrandbits(32),
                uid=os.getuid(),
                gid=os.getgid(),
                atime=chance.getrandbits(62),
                mtime=-chance.getrandbits(62),
            )
            message = bytearray(head + strings)
            if chance.random() < 0.2:
                for _ in range(3):
                    message[chance.randrange(len(message))] = chance.getrandbits(8)
            # A special file in the way of a socket's answer is no matter; ids of others are.
            struct.pack_into("=II", message, 12, os.getuid(), os.getgid())
            raw.send(bytes(message), [at] * chance.choice([0, 0, 1, 2]))
        os.close(at)
        assert raw.open_descriptors() == held
    for path, status in before:
        assert os.lstat(path)[:9] == status[:9]
    assert os.listdir(canary) == ["f"]
