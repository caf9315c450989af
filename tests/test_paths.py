"""`Container.path`: the same as pathlib on the same tree, in every state, and never outside."""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pycontainer as pc
from containers import as_root, nothing_left, until
from ordinary_user import OrdinaryUser
from pycontainer.files.paths import ContainerPath

PYTHON = ["/usr/bin/python3", "-I", "-c"]
"""Which everybody can execute."""
STATES = ("created", "running", "paused", "stopped")


@contextlib.contextmanager
def container_in(state: str, **options: Any) -> Iterator[pc.Container]:
    with pc.create("host", ["sleep", "1000"], **options) as container:
        if state != "created":
            container.start()
        if state == "paused":
            try:
                container.pause()
            except pc.CapabilityUnavailable as error:
                pytest.skip(str(error))
        if state == "stopped":
            container.kill()
        yield container


@pytest.fixture(scope="module")
def container() -> Iterator[pc.Container]:
    with pc.create("host", ["sleep", "1000"]) as made:
        yield made


@pytest.fixture
def top(container: pc.Container) -> Iterator[ContainerPath]:
    path = container.path("/srv/top")
    path.mkdir()
    yield path
    path.rmtree()


# Names alone.


PURE: list[Callable[[Any], Any]] = [
    str,
    bytes,
    lambda p: p.as_posix(),
    lambda p: p.parts,
    lambda p: (p.drive, p.root, p.anchor),
    lambda p: (p.name, p.stem, p.suffix, p.suffixes),
    lambda p: p.parent,
    lambda p: list(p.parents),
    lambda p: p / "x" / "/y" / "z",
    lambda p: "/before" / p,
    lambda p: p / pathlib.PurePosixPath("x"),
    lambda p: p.joinpath("a", "b/c", p),
    lambda p: p.with_name("new"),
    lambda p: p.with_stem("new"),
    lambda p: p.with_suffix(".new"),
    lambda p: p.relative_to("/a"),
    lambda p: p.relative_to(p.parent),
    lambda p: p.is_relative_to("/a"),
    lambda p: p.is_absolute(),
    lambda p: p.match("*.gz"),
    lambda p: p.match("b/*"),
    lambda p: p.match(""),
    lambda p: p == p / ".",
    lambda p: p < p / "x",
    lambda p: sorted([p / "b", p / "a", p]),
    lambda p: p / 3,
    lambda p: 3 / p,
    lambda p: p < 3,
    lambda p: len({p, p / ".", p / "x"}),
]


def outcome(call: Callable[[Any], Any], path: Any, base: str = "") -> Any:
    """What a call gives or raises, without what tells a container's path from the host's."""

    def plain(value: Any) -> Any:
        if isinstance(value, ContainerPath | pathlib.PurePath):
            text = str(value)
            return ("path", text.removeprefix(base) if base else text)
        if isinstance(value, list | tuple | set):
            return [plain(one) for one in value]
        return value

    try:
        return plain(call(path))
    except OSError as error:
        return (type(error), error.errno)
    except (ValueError, TypeError, NotImplementedError) as error:
        return type(error)


@pytest.mark.parametrize("text", ["/a/b/c.tar.gz", "/", "rel/../x", "", ".", "//two", "/a/.hidden", "a//b/"])
@pytest.mark.parametrize("call", PURE, ids=range(len(PURE)))
def test_names_are_pathlibs(container: pc.Container, call: Callable[[Any], Any], text: str) -> None:
    assert outcome(call, container.path(text)) == outcome(call, pathlib.PurePosixPath(text))


def test_what_is_its_own(container: pc.Container) -> None:
    path = container.path("/etc/motd")
    assert not isinstance(path, os.PathLike)
    with pytest.raises(TypeError):
        os.stat(path)  # type: ignore[call-overload]
    with pytest.raises(TypeError):
        os.listdir(path)  # type: ignore[call-overload]
    assert repr(path) == f"ContainerPath('/etc/motd', container={container.id[:12]!r})"
    assert container.path(path) == path
    assert path != pathlib.PurePosixPath("/etc/motd")
    with pc.create("host", ["true"]) as other:
        assert other.path("/etc/motd") != path
        with pytest.raises(ValueError, match="another container"):
            other.path(path)
        with pytest.raises(TypeError):
            sorted([other.path("/a"), path])


def test_relative_paths_begin_at_the_working_directory(container: pc.Container) -> None:
    assert str(container.path("x").absolute()) == "/x"
    with pc.Image.host().configure(cwd="/etc").create(["true"]) as other:
        assert str(other.path("x/../y").absolute()) == "/etc/x/../y"
        assert other.path("passwd").read_bytes() == other.path("/etc/passwd").read_bytes()
    with pc.create("host", ["true"], cwd="/usr") as other:
        assert other.path("bin").is_dir()


# The same tree twice.


def furnish(top: Any) -> None:
    """Works for both kinds of paths."""
    for name in ("a/b/c", "a/.hidden", "empty", "deep/" + "d/" * 20):
        (top / name).mkdir(parents=True)
    for name in ("f.txt", "a/g.txt", "a/b/h.py", "a/b/c/i.txt", "a/.hidden/j.txt", "[x]", "x"):
        (top / name).write_text(f"of {name}\nsecond\r\n", newline="")
    (top / "link").symlink_to("a/g.txt")
    (top / "to-dir").symlink_to("a")
    (top / "dangling").symlink_to("nowhere")
    (top / "loop").symlink_to("loop")
    (top / "a" / "up").symlink_to("../..")
    (top / "hard").hardlink_to(top / "f.txt")
    (top / "f.txt").chmod(0o640)


READING: list[Callable[[Any], Any]] = [
    lambda p: sorted(p.iterdir()),
    lambda p: sorted((p / "none").iterdir()),
    lambda p: sorted((p / "f.txt").iterdir()),
    lambda p: sorted((p / "to-dir").iterdir()),
    lambda p: (p / "f.txt").read_text(),
    lambda p: (p / "f.txt").read_bytes(),
    lambda p: (p / "link").read_text(encoding="ascii"),
    lambda p: (p / "dangling").read_text(),
    lambda p: (p / "loop").read_text(),
    lambda p: (p / "a").read_bytes(),
    lambda p: (p / "f.txt" / "x").read_bytes(),
    lambda p: (p / ("x" * 300)).read_bytes(),
    lambda p: (p / "link").readlink(),
    lambda p: (p / "f.txt").readlink(),
    lambda p: (p / "none").stat(),
    lambda p: stat.filemode((p / "f.txt").stat().st_mode),
    lambda p: ((p / "hard").stat().st_nlink, (p / "f.txt").stat().st_size),
    lambda p: stat.S_IFMT((p / "link").lstat().st_mode),
    lambda p: stat.S_IFMT((p / "link").stat(follow_symlinks=False).st_mode),
    lambda p: [
        [getattr(p / name, f"is_{ask}")() for ask in ("file", "dir", "symlink", "fifo", "mount")]
        for name in ("a", "f.txt", "link", "to-dir", "dangling", "none", "f.txt/x", "")
    ],
    lambda p: (p / "a\0b").exists(),
    lambda p: [(p / "a").is_socket(), (p / "a").is_block_device(), (p / "a").is_char_device()],
    lambda p: (p / "hard").samefile(p / "f.txt"),
    lambda p: (p / "hard").samefile(p / "x"),
    lambda p: (p / "hard").samefile(p / "none"),
    lambda p: (p / "a" / "up" / ".." / "top" / "none").resolve().name,
    lambda p: (p / "to-dir" / "b" / ".." / "g.txt").resolve(),
    lambda p: (p / "none" / "x").resolve(),
    lambda p: (p / "none" / "x").resolve(strict=True),
    lambda p: (p / "dangling").resolve(),
    lambda p: (p / "f.txt").resolve(strict=True),
    lambda p: sorted(p.glob("*")),
    lambda p: sorted(p.glob("*.txt")),
    lambda p: sorted(p.glob("a/*/*.py")),
    lambda p: sorted(p.glob("**/*.txt")),
    lambda p: sorted(p.glob("**/b/**/*.txt")),
    lambda p: sorted(p.glob("**")),
    lambda p: sorted(p.glob("a/**")),
    lambda p: sorted(p.glob("to-dir/*")),
    lambda p: sorted(p.glob("*/g.txt")),
    lambda p: sorted(p.glob("[[]x]")),
    lambda p: sorted(p.glob("[!a-z]*")),
    lambda p: sorted(p.glob("?")),
    lambda p: sorted(p.glob("f.txt")),
    lambda p: sorted(p.glob("none/*")),
    lambda p: sorted(p.glob("f.txt/*")),
    lambda p: sorted(p.glob("dang*")),
    lambda p: sorted(p.glob("a/../*.txt")),
    lambda p: list(p.glob("")),
    lambda p: list(p.glob("/etc")),
    lambda p: sorted(p.rglob("*.txt")),
    lambda p: sorted(p.rglob("b")),
    lambda p: sorted(p.rglob("b/*")),
]  # fmt: skip


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, ContainerPath]]:
    mirror = tmp_path_factory.mktemp("mirror") / "top"
    with pc.create("host", ["true"]) as container:
        for place in (mirror, container.path("/srv/two/top")):
            place.mkdir(parents=True)
            furnish(place)
        yield mirror, container.path("/srv/two/top")


@pytest.mark.parametrize("call", READING, ids=range(len(READING)))
def test_reading_is_pathlibs(two: tuple[Path, ContainerPath], call: Callable[[Any], Any]) -> None:
    mirror, top = two
    assert outcome(call, top, str(top)) == outcome(call, mirror, str(mirror))


CHANGING: list[Callable[[Any], Any]] = [
    lambda p: (p / "new").write_text("ä", encoding="utf-16"),
    lambda p: (p / "new").write_bytes(b"123"),
    lambda p: (p / "f.txt").write_text(b"x"),  # type: ignore[arg-type]
    lambda p: (p / "link").write_text("through"),
    lambda p: (p / "dangling").write_text("made"),
    lambda p: (p / "none" / "x").write_text("x"),
    lambda p: (p / "a").write_text("x"),
    lambda p: (p / "new").mkdir(),
    lambda p: (p / "new").mkdir(0o700),
    lambda p: (p / "a").mkdir(),
    lambda p: (p / "a").mkdir(exist_ok=True),
    lambda p: (p / "f.txt").mkdir(exist_ok=True),
    lambda p: (p / "n" / "e" / "w").mkdir(),
    lambda p: (p / "n" / "e" / "w").mkdir(parents=True),
    lambda p: (p / "f.txt" / "w").mkdir(parents=True),
    lambda p: (p / "a" / "b").mkdir(parents=True, exist_ok=True),
    lambda p: (p / "f.txt").unlink(),
    lambda p: (p / "link").unlink(),
    lambda p: (p / "none").unlink(),
    lambda p: (p / "none").unlink(missing_ok=True),
    lambda p: (p / "empty").rmdir(),
    lambda p: (p / "a").rmdir(),
    lambda p: (p / "f.txt").rmdir(),
    lambda p: (p / "f.txt").rename(p / "moved"),
    lambda p: (p / "f.txt").rename(str(p / "x")),
    lambda p: (p / "f.txt").replace(p / "a"),
    lambda p: (p / "a").rename(p / "empty"),
    lambda p: (p / "none").rename(p / "x"),
    lambda p: (p / "f.txt").chmod(0o4700),
    lambda p: (p / "link").chmod(0o600),
    lambda p: (p / "none").chmod(0o600),
    lambda p: (p / "new").touch(),
    lambda p: (p / "new").touch(0o600),
    lambda p: (p / "f.txt").touch(exist_ok=False),
    lambda p: (p / "none" / "x").touch(),
    lambda p: (p / "new").symlink_to(p.name),
    lambda p: (p / "x").symlink_to("y"),
    lambda p: (p / "new").hardlink_to(p / "x"),
    lambda p: (p / "x").hardlink_to(p / "f.txt"),
    lambda p: (p / "new").hardlink_to(p / "none"),
]


@pytest.mark.parametrize("call", CHANGING, ids=range(len(CHANGING)))
def test_changing_is_pathlibs(top: ContainerPath, tmp_path: Path, call: Callable[[Any], Any]) -> None:
    mirror = tmp_path / "top"
    mirror.mkdir()
    old = os.umask(0o022)
    try:
        furnish(mirror)
        furnish(top)
        assert outcome(call, top, str(top)) == outcome(call, mirror, str(mirror))
    finally:
        os.umask(old)
    assert snapshot(top) == snapshot(mirror)


def snapshot(top: Any) -> dict[str, Any]:
    found = {}
    for path in sorted(top.rglob("*")):
        mode = path.lstat().st_mode
        content = path.readlink() if stat.S_ISLNK(mode) else path.read_bytes() if stat.S_ISREG(mode) else ""
        found[str(path.relative_to(top))] = (mode, str(content))
    return found


OPENING = [
    ("r", b"r:one\n"), ("rb", b""), ("w", b"x"), ("wb", b"y"), ("x", b""), ("a", b"z"), ("ab", b"z"),
    ("r+", b"q"), ("w+b", b""), ("a+", b"p"),
]  # fmt: skip


@pytest.mark.parametrize("mode", [mode for mode, _ in OPENING])
@pytest.mark.parametrize("name", ["old", "new"])
def test_opening_is_pathlibs(top: ContainerPath, tmp_path: Path, mode: str, name: str) -> None:
    results = []
    for place in (tmp_path, top):
        (place / "old").write_bytes(b"one\ntwo\n")

        def use(path: Any) -> Any:
            with path.open(mode) as file:
                found = [file.read(3) if file.readable() else None]
                if file.writable():
                    file.write(b"new" if "b" in mode else "new")
                return [*found, file.mode, file.tell(), path.name]

        results.append((outcome(use, place / name), (place / "old").read_bytes(), (place / "new").exists()))
    assert results[0] == results[1]


def test_a_file_object(top: ContainerPath) -> None:
    path = top / "f"
    with path.open("w", encoding="latin-1", newline="\r\n") as file:
        assert file.name == str(path)
        assert not os.get_inheritable(file.fileno())
        file.write("ä\n")
    assert path.read_bytes() == b"\xe4\r\n"
    with pytest.raises(FileNotFoundError) as caught:
        (top / "none").open()
    assert caught.value.filename == str(top / "none")
    with pytest.raises(ValueError):
        path.open("rw")
    path.write_bytes(bytearray(b"12"))
    path.write_bytes(memoryview(b"123"))
    assert path.read_bytes() == b"123"


@pytest.mark.skipif(sys.version_info < (3, 12), reason="pathlib has no walk before 3.12")
@pytest.mark.parametrize("top_down", [True, False])
@pytest.mark.parametrize("follow", [True, False])
def test_walk_is_pathlibs(two: tuple[Path, ContainerPath], top_down: bool, follow: bool) -> None:
    def walked(top: Any) -> list[Any]:
        start = top / "a" / "b" if follow else top
        steps = start.walk(top_down=top_down, follow_symlinks=follow)
        return sorted(
            (str(path)[len(str(top)) :], sorted(dirs), sorted(files)) for path, dirs, files in steps
        )

    mirror, top = two
    assert walked(top) == walked(mirror)


def test_walk(two: tuple[Path, ContainerPath]) -> None:
    _, top = two
    down = [path for path, _, _ in (top / "deep").walk()]
    up = [path for path, _, _ in (top / "deep").walk(top_down=False)]
    assert len(down) == 21 and down == up[::-1]
    for path, dirs, _ in top.walk():
        if path == top:
            dirs[:] = ["a"]
    errors: list[OSError] = []
    assert list((top / "none").walk(on_error=errors.append)) == []
    assert errors[0].errno == errno.ENOENT


def test_walk_goes_where_it_is_told(two: tuple[Path, ContainerPath]) -> None:
    """What is taken out of the list while walking down is not entered."""
    seen = []
    for path, dirs, _ in two[1].walk():
        seen.append(path.name)
        dirs[:] = [name for name in dirs if name == "empty"]
    assert seen == ["top", "empty"]


def test_stat(top: ContainerPath) -> None:
    path = top / "f"
    path.write_bytes(b"12345")
    found = path.stat()
    assert isinstance(found, os.stat_result)
    assert (found.st_size, found[6], found.st_uid, found.st_nlink) == (5, 5, 0, 1)
    assert abs(found.st_mtime - time.time()) < 60
    assert found.st_mtime_ns // 10**9 == found[8]
    assert found.st_blocks * 512 >= found.st_size


def test_owner_and_group(top: ContainerPath) -> None:
    path = top / "f"
    path.touch()
    assert (path.owner(), path.group()) == ("root", "root")


@as_root
def test_the_account_files_are_the_containers(top: ContainerPath) -> None:
    """As an ordinary user, the host image's /etc/passwd is nobody's."""
    path = top / "f"
    path.touch()
    etc = path.container.path("/etc/passwd")
    before = etc.read_bytes()
    etc.write_text("broken\nqueen:x:0:0::/:/bin/sh\n")
    assert path.owner() == "queen"
    etc.unlink()
    with pytest.raises(KeyError):
        path.owner()
    etc.mkdir()
    with pytest.raises(pc.InvalidImage):
        path.owner()
    etc.rmdir()
    etc.write_bytes(before)


def test_special_files(top: ContainerPath) -> None:
    (top / "fifo").mkfifo(0o600)
    assert (top / "fifo").is_fifo()
    for mode in ("rb", "wb"):
        with pytest.raises(OSError) as caught:
            (top / "fifo").open(mode)
        assert caught.value.errno == errno.ENXIO


def test_rmtree(top: ContainerPath) -> None:
    (top / "in").mkdir()
    furnish(top / "in")
    (top / "l").symlink_to("in")
    for name in ("l", "in/f.txt"):
        with pytest.raises(NotADirectoryError):
            (top / name).rmtree()
    with pytest.raises(FileNotFoundError):
        (top / "none").rmtree()
    (top / "in").rmtree()
    assert [path.name for path in top.iterdir()] == ["l"]


def test_the_umask_is_the_containers() -> None:
    with pc.create("host", ["true"], umask="077") as container:
        container.path("/tmp/f").write_text("x")
        container.path("/tmp/d").mkdir()
        modes = [container.path(name).stat().st_mode & 0o777 for name in ("/tmp/f", "/tmp/d")]
        assert modes == [0o600, 0o700]


# States.


@pytest.mark.parametrize("state", STATES)
def test_in_every_state(state: str) -> None:
    with nothing_left(), container_in(state) as container:
        path = container.path("/srv/f")
        path.write_text("hello")
        assert path.read_text() == "hello"
        assert [one.name for one in container.path("/srv").glob("f*")] == ["f"]
        if state == "paused":
            container.unpause()
        if state in ("running", "paused"):
            assert container.exec(["cat", "/srv/f"], capture_output=True).stdout == b"hello"


def test_what_was_written_is_there_in_the_next_state() -> None:
    with pc.create("host", ["sh", "-c", "cat /srv/f; echo new > /srv/g"]) as container:
        container.path("/srv/f").write_text("before")
        assert container.start().wait(60).stdout == b"before"
        assert container.path("/srv/g").read_text() == "new\n"
        container.path("/srv/f").write_text("again")
        assert container.start().wait(60).stdout == b"again"


@pytest.mark.parametrize("state", STATES)
def test_mounts_are_seen(state: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    (tmp_path / "f").write_text("of the host")
    mounts = [
        pc.bind(tmp_path, "/data"),
        pc.bind(tmp_path, "/ro", ro=True),
        pc.content("given", "/etc/given"),
    ]
    with container_in(state, mounts=[*mounts, pc.tmpfs("/scratch")]) as container:
        assert container.path("/data/f").read_text() == "of the host"
        assert container.path("/etc/given").read_text() == "given"
        container.path("/data/new").write_text("new")
        assert (tmp_path / "new").read_text() == "new"
        assert container.path("/data").is_mount()
        with pytest.raises(OSError) as caught:
            container.path("/ro/new").write_text("x")
        assert caught.value.errno == errno.EROFS
        if state in ("running", "paused"):
            container.path("/scratch/f").write_text("x")


def test_a_removed_container() -> None:
    with pc.create("host", ["true"]) as container:
        path = container.path("/etc/passwd")
        file = path.open("rb")
    with pytest.raises(pc.InvalidState):
        path.read_text()
    with pytest.raises(pc.InvalidState):
        path.exists()
    assert file.read(4)
    file.close()
    assert path.name == "passwd"


def test_states_that_change_meanwhile() -> None:
    """Nothing but the answers is seen of it."""
    with pc.create("host", ["sleep", "1000"]) as container:
        path = container.path("/srv/f")
        path.write_text("hello")
        stop = threading.Event()
        failed: list[BaseException] = []

        def read() -> None:
            while not stop.is_set():
                try:
                    assert path.read_text() == "hello"
                    assert path.stat().st_size == 5
                except BaseException as error:
                    failed.append(error)
                    return

        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(6):
            container.start()
            container.kill()
        stop.set()
        for thread in threads:
            thread.join()
        assert failed == []


# Enemies.


SWAP = """
import os, sys
os.makedirs("/srv/real", exist_ok=True)
open("/srv/real/f", "w").write("inside")
os.symlink(sys.argv[1], "/srv/evil")
os.symlink("real", "/srv/name")
print("ready", flush=True)
while True:
    for target in ("evil", "real"):
        os.symlink(target, "/srv/next")
        os.rename("/srv/next", "/srv/name")
"""


@pytest.mark.rootless
def test_globbing_passes_over_what_cannot_be_looked_at(as_user: OrdinaryUser) -> None:
    """Directories of ids that an ordinary user's containers have not."""
    as_user(
        """
        import os
        import pycontainer as pc
        with pc.create("host") as c:
            (c.path("/tmp/d/root")).mkdir(parents=True)
            assert c.path("/root").is_dir()
            try:
                c.path("/root/x").exists()
            except PermissionError:
                pass
            for pattern in ("*/.bashrc", "root/x", "root/*/x", "*/*/.bashrc", "root/**/x"):
                list(c.path("/").glob(pattern))
            c.path("/tmp/d/root/x").touch()
            assert list(c.path("/tmp").glob("**/d/root/x")) == [c.path("/tmp/d/root/x")]
        """
    )


def test_links_that_are_swapped_lead_nowhere(tmp_path: Path) -> None:
    """The link leads to a place of the host's that has another content in the container."""
    tmp_path.chmod(0o777)
    canary = tmp_path / "canary"
    canary.mkdir(mode=0o777)
    (canary / "f").write_text("tweet")
    before = os.stat(canary), os.stat(canary / "f")
    mounts = [pc.tmpfs(str(tmp_path))]
    with pc.start("host", [*PYTHON, SWAP, str(canary)], mounts=mounts) as container:
        until(lambda: container.path("/srv/name").exists(), "it runs")
        end = time.monotonic() + 1
        name = container.path("/srv/name")
        while time.monotonic() < end:
            with contextlib.suppress(FileNotFoundError):
                assert (name / "f").read_text() in ("inside", "")
            for change in (
                lambda: (name / "f").write_text("inside"),
                lambda: (name / "g").mkdir(),
                lambda: (name / "g").rmdir(),
                lambda: (name / "f").chmod(0o666),
            ):
                with contextlib.suppress(FileNotFoundError, FileExistsError):
                    change()
        assert container.status == "running"
    assert (os.stat(canary), os.stat(canary / "f")) == before
    assert os.listdir(canary) == ["f"]
    assert (canary / "f").read_text() == "tweet"
