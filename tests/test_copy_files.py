"""`copy_in` and `copy_out`: as docker cp does it, the same tree there and back, and enemies get nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import pycontainer as pc
import trees
from containers import ROOT, as_root, nothing_left, until
from pycontainer.files import data
from pycontainer.files.sides import ContainerSide, HostSide
from pycontainer.supervisor.served import Served
from test_paths import PYTHON, STATES, container_in


@pytest.fixture(scope="module")
def container() -> Iterator[pc.Container]:
    with pc.create("host", ["sleep", "1000"]) as made:
        yield made


@pytest.fixture
def inside(container: pc.Container) -> Iterator[str]:
    path = container.path("/srv/in")
    path.mkdir()
    yield str(path)
    path.rmtree()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """One of everything that a copy keeps."""
    top = tmp_path / "tree"
    (top / "a" / "b").mkdir(parents=True)
    (top / "empty").mkdir(mode=0o700)
    (top / "a" / "f").write_text("f" * 100_000)
    (top / "a" / "b" / "zero").touch()
    (top / "a" / "b" / "odd\n\x1b[1m\udcff").write_text("odd")
    os.link(top / "a" / "f", top / "hard")
    os.link(top / "a" / "f", top / "a" / "b" / "hard")
    (top / "link").symlink_to("/etc/passwd")
    (top / "dangling").symlink_to("nowhere")
    (top / "dir-link").symlink_to("a")
    os.mkfifo(top / "fifo")
    (top / "a" / "f").chmod(0o751)
    (top / "a" / "b" / "zero").chmod(0o400)
    for number, path in enumerate(sorted(trees.paths(top), reverse=True)):
        os.utime(path, ns=(1, 10**18 + number), follow_symlinks=False)
    return top


def names(path: Path) -> list[str]:
    return sorted(os.listdir(path))


@pytest.mark.parametrize("state", STATES)
def test_there_and_back(state: str, tree: Path, tmp_path: Path) -> None:
    with nothing_left(), container_in(state) as container:
        container.copy_in(tree, "/srv/tree")
        container.copy_out("/srv/tree", tmp_path / "back")
        assert trees.look(tmp_path / "back") == trees.look(tree)
        top = container.path("/srv/tree")
        assert (top / "hard").samefile(top / "a/b/hard")
        assert {path.lstat().st_uid for path in top.rglob("*")} == {0}
        if state == "running":
            shown = container.exec(["find", "/srv/tree", "-user", "root"], capture_output=True)
            assert len(shown.stdout.split(b"\n")) >= len(trees.paths(tree))


# Docker's table: what goes where.


@pytest.fixture(params=["in", "out"])
def both(request: pytest.FixtureRequest, container: pc.Container, inside: str, tmp_path: Path) -> Both:
    return Both(container, request.param == "in", tmp_path / "source", Path(inside), tmp_path / "target")


class Both:
    """The same copy in either direction: both sides have `file`, `dir/inner` and links to them."""

    def __init__(self, container: pc.Container, into: bool, host: Path, inside: Path, other: Path) -> None:
        host.mkdir()
        self.container, self.into = container, into
        self.host, self.inside = host, inside
        for place, mark in ((host, "host"), (container.path(str(inside)), "inside")):
            (place / "file").write_text(mark)
            (place / "dir").mkdir()
            (place / "dir" / "inner").write_text(mark)
            (place / "to-file").symlink_to("file")
            (place / "to-dir").symlink_to("dir")

    def copy(self, src: str, dst: str) -> None:
        if self.into:
            self.container.copy_in(f"{self.host}/{src}", f"{self.inside}/{dst}")
        else:
            self.container.copy_out(f"{self.inside}/{src}", f"{self.host}/{dst}")

    def target(self, name: str) -> Path:
        """In the shape of a path on either side."""
        path = self.container.path(str(self.inside)) if self.into else self.host
        return path / name  # type: ignore[return-value]

    @property
    def mark(self) -> str:
        return "host" if self.into else "inside"


@pytest.mark.parametrize(
    ("src", "dst", "made"),
    [
        ("file", "new", "new"),
        ("file", "to-file", "file"),
        ("file", "dir", "dir/file"),
        ("file", "dir/", "dir/file"),
        ("file", "to-dir", "dir/file"),
        ("file", "dir/inner", "dir/inner"),
        ("file", "dir/../new", "new"),
        ("dir", "new", "new/inner"),
        ("dir", "new/", "new/inner"),
        ("dir", "dir", "dir/dir/inner"),
        ("dir/", "dir", "dir/dir/inner"),
        ("dir/.", "dir", "dir/inner"),
        ("dir/.", "new", "new/inner"),
        ("to-dir/", "dir", "dir/to-dir/inner"),
        ("to-dir/.", "new", "new/inner"),
        ("dir/..", "new", "new/dir/inner"),
    ],
)
def test_where_a_copy_goes(both: Both, src: str, dst: str, made: str) -> None:
    both.copy(src, dst)
    assert both.target(made).read_text() == both.mark


def test_links_are_copied_as_links(both: Both) -> None:
    both.copy("to-dir", "new")
    assert str(both.target("new").readlink()) == "dir"
    both.copy("to-file", "file")
    assert str(both.target("file").readlink()) == "file"


@pytest.mark.parametrize(
    ("src", "dst", "why"),
    [
        ("none", "new", "No such file"),
        ("file/", "new", "no directory"),
        ("file", "new/", "no directory"),
        ("file", "none/new", "No such file"),
        ("file", "file/", "no directory"),
        ("file", "file/x", "Not a directory"),
        ("dir", "file", "no directory"),
        ("to-file/", "new", "no directory"),
        ("file/x", "new", "Not a directory"),
    ],
)
def test_what_is_refused(both: Both, src: str, dst: str, why: str) -> None:
    with pytest.raises(pc.ContainerError, match=why) as caught:
        both.copy(src, dst)
    assert "copying" in str(caught.value)
    assert sorted(path.name for path in both.target(".").iterdir()) == [
        "dir", "file", "to-dir", "to-file",
    ]  # fmt: skip


def test_trees_are_merged(both: Both) -> None:
    other = both.target("other/dir")
    other.mkdir(parents=True)
    other.chmod(0o711)
    (other / "inner").write_text("old")
    (other / "kept").write_text("kept")
    both.copy("dir", "other")
    assert (other / "inner").read_text() == both.mark
    assert (other / "kept").read_text() == "kept"
    assert stat.S_IMODE(other.stat().st_mode) == 0o711


def test_kinds_in_each_others_way(both: Both) -> None:
    (both.target("one/dir")).mkdir(parents=True)
    (both.target("one/dir/inner")).mkdir()
    with pytest.raises(pc.ContainerError, match=r"'inner'.*Is a directory"):
        both.copy("dir", "one")
    both.target("two").mkdir()
    both.target("two/dir").symlink_to("../dir")
    with pytest.raises(pc.ContainerError):
        both.copy("dir", "two")
    assert both.target("two/dir").is_symlink()
    assert sorted(path.name for path in both.target("one/dir").iterdir()) == ["inner"]


def test_the_root_itself(tmp_path: Path) -> None:
    with pc.create("host", ["true"]) as container:
        (tmp_path / "d").mkdir()
        (tmp_path / "d" / "new-at-root").touch()
        container.copy_in(tmp_path / "d" / "new-at-root", "/")
        container.copy_in(f"{tmp_path}/d/.", "/")
        assert container.path("/new-at-root").exists()
        container.copy_out(container.path("/new-at-root"), tmp_path)
        assert (tmp_path / "new-at-root").exists()


def test_relative_paths(
    container: pc.Container, inside: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x").write_text("x")
    container.copy_in("x", inside.lstrip("/"))
    container.copy_in(".", f"{inside}/all")
    container.copy_out(f"{inside}/x", ".")
    container.copy_out(f"{inside}/x", "y")
    assert names(tmp_path) == ["x", "y"]
    assert (container.path(inside) / "all" / "x").read_text() == "x"


@pytest.mark.parametrize("wrong", ["", "a\0b", 3])
def test_paths_that_are_none(container: pc.Container, wrong: str) -> None:
    with pytest.raises(pc.InvalidOption, match="src"):
        container.copy_in(wrong, "/x")
    with pytest.raises(pc.InvalidOption, match="dst"):
        container.copy_out("/etc/passwd", wrong)
    with pc.create("host", ["true"]) as other, pytest.raises(pc.InvalidOption, match="another"):
        container.copy_out(other.path("/etc"), "/tmp/x")


def test_a_removed_container(tmp_path: Path) -> None:
    with pc.create("host", ["true"]) as container:
        pass
    with pytest.raises(pc.InvalidState):
        container.copy_out("/etc", tmp_path)


# Owners, modes, special files.


def test_an_owner(container: pc.Container, inside: str, tree: Path) -> None:
    if not ROOT and not Path("/usr/bin/newuidmap").exists():
        pytest.skip("one id only")
    container.copy_in(tree, f"{inside}/t", user="daemon:2")
    uid = container.path("/etc/passwd").read_text().partition("\ndaemon:x:")[2].split(":")[0]
    top = container.path(inside) / "t"
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in [top, *top.rglob("*")]} == {(int(uid), 2)}
    assert stat.S_IMODE((top / "a" / "f").stat().st_mode) == 0o751
    assert (top / "a" / "f").stat().st_mtime_ns == (tree / "a" / "f").stat().st_mtime_ns
    with pytest.raises(pc.InvalidOption, match="nobody-of-that-name"):
        container.copy_in(tree, inside, user="nobody-of-that-name")


def test_set_id_bits_are_for_the_same_owner_alone(
    container: pc.Container, inside: str, tmp_path: Path
) -> None:
    """Out: never, since a container's root is nobody outside."""
    program = container.path(inside) / "program"
    program.write_text("x")
    program.chmod(0o6755)
    container.copy_out(program, tmp_path / "out")
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o755
    (tmp_path / "in").write_text("x")
    (tmp_path / "in").chmod(0o6755)
    container.copy_in(tmp_path / "in", inside)
    kept = 0o6755 if ROOT else 0o755
    assert stat.S_IMODE((container.path(inside) / "in").stat().st_mode) == kept
    container.copy_in(tmp_path / "in", inside, user=1)
    assert stat.S_IMODE((container.path(inside) / "in").stat().st_mode) == 0o755


def test_sockets_and_devices_are_named(
    container: pc.Container, inside: str, tree: Path, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tree / "a" / "sock"))
        with pytest.raises(pc.ContainerError, match="all was copied but 'a/sock' \\(a socket\\)"):
            container.copy_in(tree, f"{inside}/t")
        assert (container.path(inside) / "t" / "hard").exists()
        with pytest.raises(pc.ContainerError, match="a socket"):
            container.copy_in(tree / "a" / "sock", inside)
    with pytest.raises(pc.ContainerError, match="a device"):
        container.copy_in("/dev/null", inside)
    assert not (container.path(inside) / "null").exists()


def test_holes_stay_holes(container: pc.Container, inside: str, tmp_path: Path) -> None:
    with open(tmp_path / "sparse", "wb") as file:
        file.seek(200 * 2**20)
        file.write(b"end")
        file.seek(3 * 2**20)
        file.write(b"middle")
        file.truncate(300 * 2**20)
    container.copy_in(tmp_path / "sparse", inside)
    container.copy_out(f"{inside}/sparse", tmp_path / "back")
    for path in (container.path(inside) / "sparse", tmp_path / "back"):
        assert path.stat().st_size == 300 * 2**20
        assert path.stat().st_blocks * 512 < 2**20
    with open(tmp_path / "back", "rb") as file:
        file.seek(3 * 2**20)
        assert file.read(7) == b"middle\0"
        file.seek(200 * 2**20)
        assert file.read(4) == b"end\0"


@pytest.mark.parametrize("ways", [0, 1, 2])
def test_every_way_to_move_bytes(tmp_path: Path, ways: int) -> None:
    content = os.urandom(5 * 2**20 + 3)
    (tmp_path / "source").write_bytes(content)
    mover = data.Mover()
    del mover._ways[:ways]
    with open(tmp_path / "source", "rb") as source, open(tmp_path / "target", "wb") as target:
        mover.move(source.fileno(), target.fileno())
    assert (tmp_path / "target").read_bytes() == content


def test_files_that_say_they_are_empty(container: pc.Container, inside: str, tmp_path: Path) -> None:
    container.copy_in("/proc/version", inside)
    assert (container.path(inside) / "version").read_bytes() == Path("/proc/version").read_bytes()


def test_a_deep_tree(container: pc.Container, inside: str, tmp_path: Path) -> None:
    """Longer than any path may be, with few descriptors."""
    depth = 1500
    (tmp_path / "deep").mkdir()
    fd = os.open(tmp_path / "deep", os.O_RDONLY)
    for number in range(depth):
        os.close(os.open(f"file{number}", os.O_CREAT, dir_fd=fd))
        os.mkdir("deeper", dir_fd=fd)
        fd, above = os.open("deeper", os.O_RDONLY, dir_fd=fd), fd
        os.close(above)
    os.close(fd)
    before = len(os.listdir("/proc/self/fd"))
    container.copy_in(tmp_path / "deep", inside)
    container.copy_out(f"{inside}/deep", tmp_path / "back")
    assert len(os.listdir("/proc/self/fd")) == before
    fd = os.open(tmp_path / "back", os.O_RDONLY)
    for number in range(depth):
        assert sorted(os.listdir(fd)) == ["deeper", f"file{number}"]
        fd, above = os.open("deeper", os.O_RDONLY, dir_fd=fd), fd
        os.close(above)
    os.close(fd)
    assert trees_too_deep(tmp_path)


def trees_too_deep(tmp_path: Path) -> bool:
    """Removed by hand: shutil cannot."""
    for name in ("deep", "back"):
        os.system(f"rm -rf {tmp_path / name}")
    return not (tmp_path / "deep").exists()


def test_not_into_itself(tmp_path: Path) -> None:
    (tmp_path / "d" / "sub").mkdir(parents=True)
    tmp_path.chmod(0o777)
    with (
        pc.create("host", ["true"], mounts=[pc.bind(tmp_path, "/data")]) as container,
        pytest.raises(pc.ContainerError, match="into itself"),
    ):
        container.copy_in(tmp_path / "d", "/data/d/sub/copy")


# Interrupted.


def test_ctrl_c_leaves_no_half_file(container: pc.Container, inside: str, tmp_path: Path) -> None:
    (tmp_path / "many").mkdir()
    for number in range(300):
        (tmp_path / "many" / str(number)).write_bytes(b"x" * 1000)
    for delay in (0.002, 0.005, 0.01, 0.02):
        timer = threading.Timer(delay, signal.raise_signal, [signal.SIGINT])
        with contextlib.suppress(KeyboardInterrupt):
            timer.start()
            container.copy_in(tmp_path / "many", inside)
            container.copy_out(f"{inside}/many", tmp_path / "out")
            timer.join()
        timer.join()
        for found in ((container.path(inside) / "many").glob("*"), (tmp_path / "out").glob("*")):
            for path in found:
                assert path.name.isdigit(), path
                assert path.stat().st_size == 1000


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"x" * 2**20)
    (tmp_path / "small").write_bytes(b"x")
    with pc.start("host", ["sleep", "100"], mounts=[pc.tmpfs("/small", size="64K")]) as container:
        with pytest.raises(pc.ContainerError, match=r"'big'.*No space left") as caught:
            container.copy_in(tmp_path / "big", "/small")
        assert isinstance(caught.value.__cause__, OSError)
        assert list(container.path("/small").iterdir()) == []
        container.copy_in(tmp_path / "small", "/small/big")


def test_start_and_end_meanwhile(tmp_path: Path) -> None:
    (tmp_path / "many").mkdir()
    for number in range(200):
        (tmp_path / "many" / str(number)).write_text(str(number))
    with pc.create("host", ["sleep", "1000"]) as container:
        stop = threading.Event()

        def change() -> None:
            while not stop.wait(0.1):
                container.start()
                container.kill()

        changing = threading.Thread(target=change)
        changing.start()
        try:
            for turn in range(5):
                container.copy_in(tmp_path / "many", f"/srv/{turn}")
        finally:
            stop.set()
            changing.join()
        for turn in range(5):
            assert len(list(container.path(f"/srv/{turn}").iterdir())) == 200


def test_many_agents_go_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one").write_text("one")
    with pc.create("host", ["true"]) as container:
        give, left = container._served, [8, 8]

        def served() -> Served:
            found = give()
            if left and left[-1]:
                left[-1] -= 1
                found.close()
            return found

        monkeypatch.setattr(container, "_served", served)
        container.copy_in(tmp_path / "one", "/srv/one")
        assert left.pop() == 0
        assert container.path("/srv/one").read_text() == "one"
        assert left == [0]


# Enemies.


SWAP = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
base, outside = sys.argv[1].encode(), sys.argv[2]
def make(name):
    os.makedirs(os.path.join(base, name, b"sub"), exist_ok=True)
    for number in range(20):
        open(os.path.join(base, name, b"sub", b"f%d" % number), "w").write("inside")
make(b"tree")
os.symlink(outside, os.path.join(base, b"tree/evil"))
os.symlink(outside + "/f0", os.path.join(base, b"tree/evil-file"))
open(os.path.join(base, b"tree/file"), "w").write("inside")
print("ready", flush=True)
os.close(os.open(os.path.join(base, b"ready"), os.O_CREAT))
def exchange(one, other):
    libc.syscall(316, -100, os.path.join(base, one), -100, os.path.join(base, other), 2)
while True:
    exchange(b"tree/sub", b"tree/evil")
    exchange(b"tree/file", b"tree/evil-file")
"""


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    path = tmp_path / "shared"
    path.mkdir(mode=0o777)
    path.chmod(0o777)
    return path


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    path = tmp_path / "canary"
    path.mkdir()
    for number in range(20):
        (path / f"f{number}").write_text("tweet")
    return path


def contents(top: Path) -> set[str]:
    return {path.read_text() for path in top.rglob("*") if not path.is_symlink() and path.is_file()}


def copies(seconds: float = 1.5) -> Iterator[int]:
    end = time.monotonic() + seconds
    number = 0
    while time.monotonic() < end:
        yield number
        number += 1


exchanging = pytest.mark.skipif(os.uname().machine != "x86_64", reason="the number of renameat2")


def test_neither_side_follows_a_link(container: pc.Container, inside: str, tmp_path: Path) -> None:
    (tmp_path / "file").symlink_to("/etc/passwd")
    (tmp_path / "dir").symlink_to("/etc")
    container.copy_in(f"{tmp_path}/.", inside)
    for side, path in ((HostSide(), str(tmp_path)), (ContainerSide(container._served()), inside)):
        at = side.top(path)
        for call in (side.file, side.directory, side.create):
            for name in ("file", "dir"):
                with pytest.raises(OSError):
                    call(at, name)
        assert side.readlink(at, "dir") == "/etc"
        assert stat.S_ISLNK(side.status(at, "file").st_mode)
        os.close(at)


@exchanging
def test_out_of_a_tree_whose_links_are_swapped(canary: Path, tmp_path: Path) -> None:
    """Inside, nothing is where the links lead; nothing of the host's comes out, or is written to."""
    before = trees.identity(canary, without=canary / "none")
    with pc.start("host", [*PYTHON, SWAP, "/srv", str(canary)], mounts=[pc.tmpfs(str(canary))]) as container:
        until(lambda: container.path("/srv/ready").exists(), "it runs")
        (tmp_path / "out").mkdir()
        for number in copies():
            with contextlib.suppress(pc.ContainerError):
                # Into one and the same tree: a link of the last time may stand where a directory comes now.
                container.copy_out("/srv/tree", tmp_path / "out" / str(number % 2))
        assert container.status == "running"
    assert contents(tmp_path / "out") <= {"inside", ""}
    assert trees.identity(canary, without=canary / "none") == before


@exchanging
def test_in_from_a_tree_that_a_container_swaps(canary: Path, shared: Path) -> None:
    """A directory of the host's that the container may write to is the source: nothing else is read."""
    before = trees.identity(canary, without=canary / "none")
    mounts = [pc.bind(shared, "/data")]
    with pc.start("host", [*PYTHON, SWAP, "/data", str(canary)], mounts=mounts) as container:
        until(lambda: (shared / "ready").exists(), "it runs")
        for number in copies():
            with contextlib.suppress(pc.ContainerError):
                container.copy_in(shared / "tree", f"/srv/{number % 2}")
        found = container.path("/srv").rglob("*")
        texts = {path.read_text() for path in found if path.is_file() and not path.is_symlink()}
        assert texts <= {"inside", ""}
    assert trees.identity(canary, without=canary / "none") == before


@exchanging
def test_into_a_tree_whose_links_are_swapped(canary: Path, shared: Path, tree: Path) -> None:
    """The target is shared with the host; what the links lead to there is never written to."""
    (tree / "sub").mkdir()
    for number in range(20):
        (tree / "sub" / f"f{number}").write_text("written")
    before = trees.identity(canary, without=canary / "none")
    mounts = [pc.bind(shared, "/data")]
    with pc.start("host", [*PYTHON, SWAP, "/data", str(canary)], mounts=mounts) as container:
        until(lambda: (shared / "ready").exists(), "it runs")
        for turn in copies():
            with contextlib.suppress(pc.ContainerError):
                if turn % 2:
                    container.copy_in(f"{tree}/.", "/data/tree")
                else:
                    container.copy_out("/etc/default", shared / "tree")
        assert container.status == "running"
    assert trees.identity(canary, without=canary / "none") == before
    assert contents(canary) == {"tweet"}


@as_root
def test_what_a_user_inside_swaps_gives_him_nothing(tmp_path: Path) -> None:
    """A copy to his directory, made by root, is no way to write to root's."""
    script = f"import ctypes, os, sys; os.setuid(1000)\n{SWAP}"
    with pc.create("host", [*PYTHON, script, "/home/him", "/etc"]) as container:
        container.path("/home/him").mkdir(parents=True)
        container.path("/home/him").chmod(0o777)
        container.start()
        until(lambda: container.path("/home/him/ready").exists(), "it runs")
        (tmp_path / "sub").mkdir()
        (tmp_path / "sub" / "passwd").write_text("written")
        before = sorted(path.name for path in container.path("/etc").iterdir())
        for _ in copies():
            with contextlib.suppress(pc.ContainerError):
                container.copy_in(f"{tmp_path}/.", "/home/him/tree")
        assert container.path("/etc/passwd").read_text() != "written"
        assert sorted(path.name for path in container.path("/etc").iterdir()) == before
