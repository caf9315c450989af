"""A directory as a tar stream: the same tree gives the same bytes, and nothing else is read."""

from __future__ import annotations

import gc
import hashlib
import io
import os
import random
import socket
import struct
import subprocess
import tarfile
from collections.abc import Generator
from pathlib import Path

import pytest

from conftest import need
from ordinary_user import OrdinaryUser
from pycontainer.errors import ImageError, InvalidImage
from pycontainer.layer.diff import Ownership, of_directory

ROOT = os.geteuid() == 0


def stream(path: Path, *, clamp: int | None = None, ownership: Ownership | None = None) -> bytes:
    return b"".join(
        of_directory(str(path), ownership=ownership or Ownership.of_caller(), clamp=clamp).chunks()
    )


def members(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {member.name: member for member in archive}


def plain_tree(root: Path, names: list[str]) -> None:
    """The same tree however `names` are ordered."""
    root.mkdir()
    for name in names:
        (root / "dir").mkdir(exist_ok=True)
        (root / name).write_text(name)
        os.chmod(root / name, 0o644)
    os.chmod(root / "dir", 0o755)
    os.symlink("../a", root / "dir" / "link")
    os.link(root / "a", root / "dir" / "hard")
    os.chmod(root / "a", 0o4755)
    for path in [*root.rglob("*")]:
        os.utime(path, ns=(10**18, 1_500_000_000_123_456_789), follow_symlinks=False)


NAMES = ["a", "b", "dir/c", "dir.txt", "é", "x" * 200]


def test_same_tree_same_bytes(tmp_path: Path) -> None:
    plain_tree(tmp_path / "one", NAMES)
    first = stream(tmp_path / "one")
    shuffled = random.Random(1).sample(NAMES, len(NAMES))
    plain_tree(tmp_path / "two", shuffled)
    os.chmod(tmp_path / "two", 0o700)
    assert stream(tmp_path / "two") == first


def test_the_bytes_never_change(tmp_path: Path) -> None:
    """Pinned, so that no release of Python or of this library can give old trees new digests."""
    plain_tree(tmp_path / "tree", NAMES)
    digest = hashlib.sha256(stream(tmp_path / "tree")).hexdigest()
    assert digest == "7f3fae493c78345ad1dd0a11f0473287e8554827d2bd3bae6a12c000f5bd031e"


def test_every_kind_of_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = tmp_path / "tree"
    plain_tree(tree, NAMES)
    os.mkfifo(tree / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(tree)  # a socket's path has at most 107 bytes
        server.bind("socket")
    found = members(stream(tree))
    assert "socket" not in found
    assert found["fifo"].isfifo() and found["dir"].isdir()
    assert found["dir/link"].issym() and found["dir/link"].linkname == "../a"
    assert found["dir/hard"].islnk() and found["dir/hard"].linkname == "a"
    assert found["a"].mode == 0o4755 and found["a"].mtime == 1_500_000_000
    below = ["dir", "dir/c", "dir/hard", "dir/link"]
    assert list(found) == ["a", "b", *below, "dir.txt", "fifo", "x" * 200, "é"]
    assert not any(member.uname or member.gname for member in found.values())
    assert set(found["b"].pax_headers) == set() and set(found["x" * 200].pax_headers) == {"path"}


def test_other_tools_read_it(tmp_path: Path) -> None:
    plain_tree(tmp_path / "tree", NAMES)
    (tmp_path / "out").mkdir()
    data = stream(tmp_path / "tree")
    assert len(data) % 10240 == 0
    subprocess.run(["tar", "-xpf", "-", "-C", tmp_path / "out"], input=data, check=True)
    assert stream(tmp_path / "out") == data


def test_names_that_are_no_text(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    with open(os.fsencode(tree) + b"/\xff\xfe", "wb"):
        pass
    subprocess.run(["tar", "-xf", "-", "-C", tmp_path], input=stream(tree), check=True)
    assert os.path.exists(os.fsencode(tmp_path) + b"/\xff\xfe")


def test_own_ids_become_root(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").touch()
    uid, gid = os.getuid(), os.getgid()
    member = members(stream(tmp_path / "tree", ownership=Ownership(uid, gid)))["file"]
    assert (member.uid, member.gid) == (0, 0)
    if ROOT:
        os.chown(tmp_path / "tree" / "file", 6, 7)
        for ownership, ids in ((Ownership(6, 7), (0, 0)), (Ownership(7, 6), (6, 7)), (Ownership(), (6, 7))):
            member = members(stream(tmp_path / "tree", ownership=ownership))["file"]
            assert (member.uid, member.gid) == ids


@pytest.mark.skipif(not ROOT, reason="chown and mknod are root's")
def test_owners_and_devices(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").touch()
    os.chown(tree / "file", 3_000_000_000, 1234)
    os.mknod(tree / "null", 0o20666, os.makedev(1, 3))
    found = members(stream(tree))
    assert (found["file"].uid, found["file"].gid) == (3_000_000_000, 1234)
    assert found["null"].ischr() and (found["null"].devmajor, found["null"].devminor) == (1, 3)


def test_extended_attributes(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").touch()
    value = bytes(range(256))
    try:
        os.setxattr(tree / "file", "user.b", value)
    except OSError:
        need(False, "extended attributes on the temporary directory's file system")
    os.setxattr(tree / "file", "user.a", b"")
    os.setxattr(tree / "file", "user.overlay.opaque", b"y")
    capability = struct.pack("<IIIII", 0x02000001, 0x2000, 0, 0, 0)
    if ROOT:
        os.setxattr(tree / "file", "security.capability", capability)
    data = stream(tree)
    headers = members(data)["file"].pax_headers
    expected = {"SCHILY.xattr.user.a", "SCHILY.xattr.user.b"}
    if ROOT:
        expected.add("SCHILY.xattr.security.capability")
    assert {name for name in headers if name != "hdrcharset"} == expected
    (tmp_path / "out").mkdir()
    command = ["tar", "-xpf", "-", "--xattrs", "--xattrs-include=*", "-C", str(tmp_path / "out")]
    subprocess.run(command, input=data, check=True)
    assert os.getxattr(tmp_path / "out" / "file", "user.b") == value
    if ROOT:
        assert os.getxattr(tmp_path / "out" / "file", "security.capability") == capability


def test_times_are_clamped(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    plain_tree(tree, NAMES)
    os.utime(tree / "b", (0, -5))
    assert members(stream(tree, clamp=1000))["a"].mtime == 1000
    assert members(stream(tree, clamp=1000))["b"].mtime == -5
    tar = of_directory(str(tree), ownership=Ownership())
    list(tar.chunks())
    assert tar.newest == 1_500_000_000
    tar = of_directory(str(tree), ownership=Ownership(), clamp=1000)
    list(tar.chunks())
    assert tar.newest == 1000


def test_an_empty_directory(tmp_path: Path) -> None:
    tar = of_directory(str(tmp_path), ownership=Ownership())
    assert b"".join(tar.chunks()) == bytes(10240)
    assert tar.newest is None


def begun(tree: Path) -> Generator[bytes, None, None]:
    """The stream of a tree after its first piece. A first file in it is longer than what the pipe and
    both its ends hold: what is sorted after that has not been looked at, only listed."""
    with (tree / "0").open("wb") as file:
        file.truncate(16 << 20)
    chunks = of_directory(str(tree), ownership=Ownership()).chunks()
    next(chunks)
    return chunks


@pytest.mark.parametrize("change", ["grow", "shrink", "rewrite"])
def test_a_file_that_changes_meanwhile(tmp_path: Path, change: str) -> None:
    file = tmp_path / "tree" / "0"
    file.parent.mkdir()
    chunks = begun(file.parent)
    if change == "grow":
        with file.open("ab") as out:
            out.write(b"y")
    elif change == "shrink":
        os.truncate(file, 10)
    else:
        os.utime(file)
    with pytest.raises(ImageError, match="/0: changed while"):
        list(chunks)


def test_a_file_that_vanishes(tmp_path: Path) -> None:
    plain_tree(tmp_path / "tree", NAMES)
    chunks = begun(tmp_path / "tree")
    (tmp_path / "tree" / "b").unlink()
    with pytest.raises(ImageError, match="/b: vanished"):
        list(chunks)


@pytest.mark.parametrize("name", ["dir", "b"])
def test_what_is_swapped_for_a_link_is_not_followed(tmp_path: Path, name: str) -> None:
    plain_tree(tmp_path / "tree", NAMES)
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "c").write_text("secret")
    chunks = begun(tmp_path / "tree")
    os.rename(tmp_path / "tree" / name, tmp_path / "away")
    os.symlink(tmp_path / "secret", tmp_path / "tree" / name)
    with pytest.raises(ImageError, match=rf"{name}: cannot be read: (ELOOP|ENOTDIR)"):
        list(chunks)


@pytest.mark.parametrize("kind", ["fifo", "directory", "socket"])
def test_a_file_that_becomes_something_else(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nobody waits for a writer of the FIFO."""
    plain_tree(tmp_path / "tree", NAMES)
    chunks = begun(tmp_path / "tree")
    file = tmp_path / "tree" / "b"
    file.unlink()
    if kind == "fifo":
        os.mkfifo(file)
    elif kind == "directory":
        file.mkdir()
    else:
        with socket.socket(socket.AF_UNIX) as server:
            monkeypatch.chdir(file.parent)
            server.bind("b")
    with pytest.raises(ImageError, match=r"/b: (changed while|cannot be read: ENXIO)"):
        list(chunks)


def test_a_directory_that_moves_is_not_left(tmp_path: Path) -> None:
    """It is read to its end, and then its parent goes on where that is, not where `..` leads."""
    tree = tmp_path / "tree"
    (tree / "dir").mkdir(parents=True)
    (tree / "z").write_text("last")
    with (tree / "dir" / "big").open("wb") as file:
        file.truncate(16 << 20)
    chunks = of_directory(str(tree), ownership=Ownership()).chunks()
    data = next(chunks)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "z").write_text("secret")
    os.rename(tree / "dir", tmp_path / "elsewhere" / "dir")
    found = members(data + b"".join(chunks))
    assert list(found) == ["dir", "dir/big", "z"]
    assert found["z"].size == len("last")


def test_a_reader_that_stops(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    before = sorted(os.listdir("/proc/self/fd"))
    chunks = begun(tmp_path / "tree")
    chunks.close()
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_a_forked_child_does_not_keep_the_stream_open(tmp_path: Path) -> None:
    """It has a copy of the pipe's other end, when it is forked in the midst of the start."""
    copies: list[int] = []
    real = os.close

    def close(fd: int) -> None:
        if os.path.realpath(f"/proc/self/fd/{fd}").rpartition("/")[2].startswith("pipe:"):
            copies.append(os.dup(fd))
        real(fd)

    (tmp_path / "file").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "close", close)
        chunks = of_directory(str(tmp_path), ownership=Ownership()).chunks()
        first = next(chunks)
    assert copies
    assert len(first + b"".join(chunks)) == 10240
    for copy in copies:
        real(copy)


def test_what_a_layer_cannot_hold(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / ".wh.passwd").touch()
    with pytest.raises(InvalidImage, match=r"\.wh\.passwd"):
        stream(tmp_path / "tree")


@pytest.mark.parametrize("name", ["missing", "file"])
def test_no_directory(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ImageError, match=f"{name}: cannot be read: ENO"):
        stream(tmp_path / name)


def test_deep_trees(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    fd = os.open(tree, os.O_RDONLY)
    for _ in range(400):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    gc.collect()  # what earlier tests left to it would go meanwhile
    before = len(os.listdir("/proc/self/fd"))
    assert len(members(stream(tree))) == 400
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_path_that_no_reader_takes(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 255, dir_fd=fd)
        below = os.open("d" * 255, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    with pytest.raises(InvalidImage, match="d: its path or its attributes are longer"):
        stream(tmp_path)
    subprocess.run(["rm", "-r", *tmp_path.iterdir()], check=True)


@pytest.mark.rootless
def test_an_ordinary_users_tree(as_user: OrdinaryUser, tmp_path: Path) -> None:
    """Gives the bytes that root's does; so do files of the machine's root in it."""
    plain_tree(tmp_path / "tree", NAMES)
    expected = hashlib.sha256(stream(tmp_path / "tree")).hexdigest()
    shared = as_user.base / "shared"
    plain_tree(shared, NAMES)
    as_user(
        f"""
        import hashlib, os, shutil
        from pycontainer.layer.diff import Ownership, of_directory
        def digest(path):
            chunks = of_directory(path, ownership=Ownership.of_caller()).chunks()
            return hashlib.sha256(b"".join(chunks)).hexdigest()
        shutil.copytree({str(shared)!r}, "own", symlinks=True)
        os.unlink("own/dir/hard")
        os.link("own/a", "own/dir/hard")
        for name in ("own/a", "own/dir"):
            os.utime(name, ns=(0, os.stat("own/b").st_mtime_ns))
        assert os.stat("own/a").st_uid == os.getuid() != 0
        assert digest("own") == {expected!r}
        assert digest({str(shared)!r}) == {expected!r}
        """
    )
