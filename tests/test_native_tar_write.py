"""The archive writer under the sanitisers: the bytes of Python's tarfile, round trips, changesets, errors.

What a tree's archive looks like is said once more here, in the simplest way there is (`expected`)."""

from __future__ import annotations

import errno
import io
import os
import random
import shutil
import socket
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest

import native_programs
import trees
from conftest import need
from native_programs import NATIVE, SANITISED, SOURCES, WARNINGS

READ, CHANGED, MARKED, ATTRIBUTE, TOO_LONG, TOO_MANY, PARTIAL, OUTPUT = range(1, 9)
"""enum pctr_tar_write_code."""

PARTS = ("tar_out", "tar_head", "tar_attributes", "names", "hardlinks", "tar_write", "util")

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="chown, mknod and trusted attributes are root's")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    need(shutil.which("gcc") is not None, "gcc")
    target = tmp_path_factory.mktemp("tar-write") / "tar_write"
    sources = [str(NATIVE / "tar_write.c"), *(str(SOURCES / f"{part}.c") for part in PARTS)]
    subprocess.run(["gcc", *SANITISED, *WARNINGS, f"-I{SOURCES}", *sources, "-o", target], check=True)
    return str(target)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    path = tmp_path / "tree"
    path.mkdir()
    return path


def run(program: str, tree: Path, *options: str, out: str | None = None) -> native_programs.Result:
    return native_programs.run([program, *options, str(tree), out or str(tree.parent / "out.tar")])


def written(program: str, tree: Path, *options: str) -> bytes:
    result = run(program, tree, *options)
    assert (result["status"], result["code"]) == (0, 0), result
    return (tree.parent / "out.tar").read_bytes()


def failed(program: str, tree: Path, *options: str) -> tuple[int, int, bytes]:
    result = run(program, tree, *options)
    assert result["status"] == -1
    return result["code"], result["err"], result.path


def members(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {member.name: member for member in archive}


def expected(tree: Path) -> bytes:
    """The archive as the standard library writes it."""
    out, first = io.BytesIO(), dict[int, str]()
    for path in walk(os.fsencode(tree)):
        out.write(entry(path, path[len(os.fsencode(tree)) + 1 :].decode("utf-8", "surrogateescape"), first))
    out.write(bytes(1024))
    return out.getvalue() + bytes(-out.tell() % 10240)


def walk(directory: bytes) -> list[bytes]:
    found = []
    for name in sorted(os.listdir(directory)):
        path = directory + b"/" + name
        found.append(path)
        if stat.S_ISDIR(os.lstat(path).st_mode):
            found += walk(path)
    return found


def entry(path: bytes, name: str, first: dict[int, str]) -> bytes:
    status, content = os.lstat(path), b""
    info = tarfile.TarInfo(name)
    info.mode, info.uid, info.gid = stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid
    info.mtime = status.st_mtime_ns // 10**9
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFSOCK:
        return b""
    if kind == stat.S_IFREG and first.setdefault(status.st_ino, name) != name:
        info.type, info.linkname = tarfile.LNKTYPE, first[status.st_ino]
    elif kind == stat.S_IFREG:
        content = Path(os.fsdecode(path)).read_bytes()
        info.size = len(content)
    elif kind == stat.S_IFLNK:
        info.type, info.linkname = tarfile.SYMTYPE, os.readlink(path).decode("utf-8", "surrogateescape")
    else:
        info.type = {stat.S_IFDIR: b"5", stat.S_IFIFO: b"6", stat.S_IFCHR: b"3", stat.S_IFBLK: b"4"}[kind]
        info.devmajor, info.devminor = os.major(status.st_rdev), os.minor(status.st_rdev)
    if info.type in (tarfile.REGTYPE, tarfile.DIRTYPE):
        names = sorted(each for each in os.listxattr(path) if each.startswith("user."))
        info.pax_headers = {
            f"SCHILY.xattr.{each}": os.getxattr(path, each).decode("utf-8", "surrogateescape")
            for each in names
        }
    header = info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    return header + content + bytes(-len(content) % 512)


LETTERS = ("é", "漢", "😀", "\u07ff", "\ud7ff", "\ue000", "\U0010ffff", "a")


def random_name(rng: random.Random) -> bytes:
    kind = rng.randrange(4)
    if kind == 0:
        return bytes(rng.choice(b"abXY._-") for _ in range(rng.randint(1, 12)))
    if kind == 1:
        return bytes(rng.choice(range(1, 256)) for _ in range(rng.randint(1, 9))).replace(b"/", b"_")
    if kind == 2:
        return "".join(rng.choice(LETTERS) for _ in range(rng.randint(1, 40))).encode()
    return b"n" * rng.choice([97, 98, 99, 100, 101, 255])


def random_entry(rng: random.Random, path: bytes, files: list[bytes]) -> None:
    kind = rng.randrange(7)
    if kind < 2:
        os.mkdir(path)
    elif kind < 4:
        with open(path, "wb") as file:
            file.write(rng.randbytes(rng.choice([0, 1, 511, 512, 513, 300_000])))
        files.append(path)
    elif kind == 4 and files:
        os.link(rng.choice(files), path)
    elif kind == 5:
        os.mkfifo(path)
    else:
        os.symlink(random_name(rng) * rng.randint(1, 3), path)


def random_look(rng: random.Random, path: bytes) -> None:
    if os.geteuid() == 0:
        os.chown(path, rng.choice([0, 1, 2097151, 2097152, 4294967294]), 5, follow_symlinks=False)
    if not os.path.islink(path):
        # Extraction takes set-id bits from what is neither file nor directory.
        plain = os.path.isdir(path) or os.path.isfile(path)
        os.chmod(path, rng.choice([0o600, 0o4755, 0o7777] if plain else [0o600, 0o1777]))
    if os.path.isdir(path) or (os.path.isfile(path) and not os.path.islink(path)):
        for name in rng.sample(["user.a", "user.b", "user.zé"], rng.randrange(3)):
            os.setxattr(path, name, rng.choice([b"", b"text", rng.randbytes(90), b"v" * 1000]))
    seconds = rng.choice([-1, 0, 1_500_000_000, 8589934591, 8589934592])
    os.utime(path, ns=(0, seconds * 10**9 + rng.choice([0, 5])), follow_symlinks=False)


def random_tree(rng: random.Random, tree: Path) -> None:
    directories, files = [os.fsencode(tree)], list[bytes]()
    for _ in range(rng.randint(1, 60)):
        path = rng.choice(directories) + b"/" + random_name(rng)
        if os.path.lexists(path) or len(os.path.basename(path)) > 255:
            continue
        random_entry(rng, path, files)
        if os.path.isdir(path) and not os.path.islink(path):
            directories.append(path)
    for path in reversed(walk(os.fsencode(tree))):
        random_look(rng, path)


@pytest.mark.parametrize("seed", range(12))
def test_the_bytes_are_those_of_the_standard_library(program: str, tree: Path, seed: int) -> None:
    random_tree(random.Random(seed), tree)
    assert written(program, tree) == expected(tree)


@as_root
def test_a_round_trip(program: str, tree: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """tree -> archive -> tree, by the extraction that layers go through."""
    random_tree(random.Random(100), tree)
    os.mknod(tree / "null", 0o20666, os.makedev(1, 3))
    for path in (tree, *trees.paths(tree)):
        os.utime(path, (0, 1_500_000_000), follow_symlinks=False)
    back = tree.parent / "back"
    back.mkdir(mode=stat.S_IMODE(tree.stat().st_mode))
    layer_apply = native_programs.shared(tmp_path_factory).path("layer_apply")
    assert native_programs.run([layer_apply, str(back)], data=written(program, tree))["code"] == 0
    os.utime(back, (0, 1_500_000_000))
    assert trees.look(back) == trees.look(tree)


def test_a_large_directory(program: str, tree: Path) -> None:
    names = [f"{n * 7919 % 20_000:05}" for n in range(20_000)]
    for name in names:
        (tree / name).symlink_to("x")
    assert list(members(written(program, tree))) == sorted(names)


def test_many_hard_links(program: str, tree: Path) -> None:
    """More than the table has room for at first."""
    for number in range(1000):
        (tree / f"a{number:04}").touch()
        os.link(tree / f"a{number:04}", tree / f"b{number:04}")
    found = members(written(program, tree))
    assert all(found[f"b{number:04}"].linkname == f"a{number:04}" for number in range(1000))


def test_times_and_owners(program: str, tree: Path) -> None:
    for name, seconds in (("old", 5), ("new", 100), ("before", -7)):
        (tree / name).touch()
        os.utime(tree / name, (0, seconds))
    ids = ("--uid", str(os.getuid()), "--gid", str(os.getgid()))
    data = written(program, tree, "--newest", *ids, "--latest", "50")
    assert int.from_bytes(data[-8:], "little", signed=True) == 50
    found = members(data[:-8])
    assert [found[name].mtime for name in ("old", "new", "before")] == [5, 50, -7]
    assert {(member.uid, member.gid) for member in found.values()} == {(0, 0)}


def test_nothing_at_all(program: str, tree: Path) -> None:
    assert written(program, tree) == bytes(10240)
    data = written(program, tree, "--newest")
    assert int.from_bytes(data[10240:], "little", signed=True) == -(2**63)


def test_names_that_would_be_whiteouts(program: str, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket is left out whatever its name."""
    monkeypatch.chdir(tree)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(".wh.socket")
    assert written(program, tree) == bytes(10240)
    (tree / "d").mkdir()
    (tree / "d" / ".wh.").touch()
    assert failed(program, tree) == (MARKED, 0, b"d/.wh.")


def test_what_cannot_be_read(program: str, tree: Path) -> None:
    need(os.geteuid() != 0 or shutil.which("setpriv") is not None, "setpriv")
    (tree / "secret").touch(mode=0)
    argv = [program, str(tree), "/dev/null"]
    if os.geteuid() == 0:
        tree.parent.chmod(0o755)
        argv = ["unshare", "--map-user=1000", "setpriv", "--bounding-set=-all", "--inh-caps=-all", *argv]
    result = native_programs.run(argv)
    assert (result["code"], result["err"], result.path) == (READ, errno.EACCES, b"secret")


def test_an_output_that_is_full(program: str, tree: Path) -> None:
    (tree / "big").write_bytes(bytes(1 << 20))
    result = run(program, tree, out="/dev/full")
    assert (result["code"], result["err"], result.path) == (OUTPUT, errno.ENOSPC, b"big")


def test_attributes_that_do_not_fit(program: str, tree: Path) -> None:
    file = tree / "file"
    file.touch()
    os.setxattr(file, "user.a=b", b"")
    assert failed(program, tree) == (ATTRIBUTE, 0, b"file")
    os.removexattr(file, "user.a=b")
    try:
        for number in range(129):
            os.setxattr(file, f"user.{number}", b"")
    except OSError:
        need(False, "a file system that takes 129 attributes")
    assert failed(program, tree) == (TOO_LONG, 0, b"file")


def test_a_long_path_is_named_by_its_end(program: str, tree: Path) -> None:
    below = tree.joinpath(*["d" * 200] * 3)
    below.mkdir(parents=True)
    (below / ".wh.x").touch()
    code, _, path = failed(program, tree)
    assert code == MARKED and len(path) == 255
    assert path.startswith(b"...d") and path.endswith(b"d/.wh.x")


@pytest.fixture
def upper(tree: Path) -> Path:
    """What overlay would have made of a few changes."""
    for name in ("opaque", "user", "both"):
        (tree / name).mkdir()
    os.mknod(tree / "gone", 0o20000, 0)
    os.mknod(tree / "opaque" / "gone", 0o20000, 0)
    (tree / "opaque" / "new").touch()
    os.setxattr(tree / "opaque", "trusted.overlay.opaque", b"y")
    os.setxattr(tree / "opaque", "trusted.overlay.origin", b"\0\1")
    os.setxattr(tree / "opaque", "trusted.overlay.impure", b"y")
    os.setxattr(tree / "user", "user.overlay.opaque", b"y")
    os.setxattr(tree / "user", "user.kept", b"y")
    os.setxattr(tree / "both", "trusted.overlay.opaque", b"n")
    return tree


@as_root
def test_a_changeset(program: str, upper: Path) -> None:
    data = written(program, upper, "--upper")
    assert list(members(data)) == [
        "both",
        ".wh.gone",
        "opaque",
        "opaque/.wh..wh..opq",
        "opaque/.wh.gone",
        "opaque/new",
        "user",
    ]
    found = members(data)
    assert set(found["user"].pax_headers) == {"SCHILY.xattr.user.kept"}
    assert found["opaque"].pax_headers == {}
    for name in (".wh.gone", "opaque/.wh..wh..opq"):
        assert found[name].isreg() and (found[name].size, found[name].mtime) == (0, 0)


@as_root
def test_a_changeset_with_user_attributes(program: str, upper: Path) -> None:
    """Which the other kind of mount takes for a container's own."""
    found = list(members(written(program, upper, "--upper", "--userxattr")))
    assert "user/.wh..wh..opq" in found and "opaque/.wh..wh..opq" not in found


@as_root
def test_devices_stay_devices_in_a_plain_tree(program: str, upper: Path) -> None:
    assert members(written(program, upper))["gone"].ischr()


@as_root
@pytest.mark.parametrize("mark", ["redirect", "metacopy", "whiteout", "opaque"])
def test_what_needs_a_lower_layer_is_refused(program: str, upper: Path, mark: str) -> None:
    os.setxattr(upper / "opaque" / "new", f"trusted.overlay.{mark}", b"x")
    assert failed(program, upper, "--upper") == (PARTIAL, 0, b"opaque/new")
    assert "opaque/new" in members(written(program, upper))


@as_root
def test_a_whiteout_whose_name_nobody_takes(program: str, tree: Path) -> None:
    os.mknod(tree / ("x" * 251), 0o20000, 0)
    assert list(members(written(program, tree, "--upper"))) == [".wh." + "x" * 251]
    os.mknod(tree / ("y" * 252), 0o20000, 0)
    assert failed(program, tree, "--upper") == (TOO_LONG, 0, b"y" * 252)
