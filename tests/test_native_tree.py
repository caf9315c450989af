"""Removing trees that were made to be hard to remove."""

from __future__ import annotations

import errno
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import native_programs
import trees
from conftest import need


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> native_programs.Programs:
    return native_programs.shared(tmp_path_factory)


@pytest.fixture(params=["openat2", "no openat2"])
def remover(request: pytest.FixtureRequest, programs: native_programs.Programs) -> list[str]:
    options = [] if request.param == "openat2" else ["--openat2", str(errno.ENOSYS)]
    return [programs.path("tree_remove"), *options]


def remove(remover: list[str], parent: Path, name: str) -> native_programs.Result:
    return native_programs.run([*remover, str(parent), name])


def dig(top: Path, depth: int, name: str = "d") -> None:
    """Nested directories, deeper than any one path can say."""
    fd = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=fd)
        deeper = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = deeper
    os.close(fd)


def test_nothing_there(remover: list[str], tmp_path: Path) -> None:
    assert remove(remover, tmp_path, "gone")["status"] == 0


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/"])
def test_names_that_are_no_component(remover: list[str], tmp_path: Path, name: str) -> None:
    result = remove(remover, tmp_path, name)
    assert (result["status"], result["err"]) == (-1, errno.EINVAL)


def test_links_are_not_followed(remover: list[str], tmp_path: Path) -> None:
    canary, tree = tmp_path / "canary", tmp_path / "tree"
    (canary / "dir").mkdir(parents=True)
    (canary / "file").write_text("tweet")
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / "up").symlink_to("../../canary")
    (tree / "absolute").symlink_to(canary)
    (tmp_path / "link").symlink_to(canary)
    before = trees.identity(canary, without=canary / "none")
    assert remove(remover, tmp_path, "tree")["status"] == 0
    assert remove(remover, tmp_path, "link")["status"] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["canary"]
    assert trees.identity(canary, without=canary / "none") == before


@pytest.mark.parametrize("depth", [31, 32, 33, 100, 5000])
def test_depth(remover: list[str], tmp_path: Path, depth: int) -> None:
    (tmp_path / "tree").mkdir()
    dig(tmp_path / "tree", depth)
    result = native_programs.run([remover[0], "--files", "40", *remover[1:], str(tmp_path), "tree"])
    assert result["status"] == 0, result.values
    assert not list(tmp_path.iterdir())


def test_a_bush(remover: list[str], tmp_path: Path) -> None:
    """Wide, deep, and with the names that the removal itself would choose."""
    tree = tmp_path / "tree"
    for n in range(3):
        (tree / f".pctr-gone-{n}").mkdir(parents=True)
        (tree / f".pctr-gone-{n}" / "f").touch()
    (tree / ".pctr-gone-3").touch()
    for n in range(300):
        (tree / f"wide-{n}").mkdir()
        (tree / f"wide-{n}" / "f").touch()
    for n in range(5):
        (tree / f"deep-{n}").mkdir()
        dig(tree / f"deep-{n}", 80)
    for n in range(400):
        (tree / ("n" * 240 + str(n))).touch()
    assert remove(remover, tmp_path, "tree")["status"] == 0
    assert not list(tmp_path.iterdir())


def lock(tree: Path) -> None:
    for mode in (0o000, 0o100, 0o400, 0o500):
        locked = tree / f"locked-{mode:o}"
        (locked / "sub").mkdir(parents=True)
        (locked / "sub" / "f").touch()
        (locked / "sub").chmod(mode)
        locked.chmod(mode)
    (tree / "deep").mkdir()
    dig(tree / "deep", 40)
    bottom = tree / "deep" / Path(*["d"] * 32)
    bottom.chmod(0o500)
    bottom.parent.chmod(0o500)


def test_directories_that_shut_their_owner_out(
    programs: native_programs.Programs, remover: list[str], tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    lock(tree)
    argv = [*remover, str(tmp_path), "tree"]
    if os.getuid() == 0:
        # Root enters every directory; without these two capabilities it is an owner like any other.
        argv = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *argv]
    result = native_programs.run(argv)
    assert result["status"] == 0, result.values
    assert not list(tmp_path.iterdir())


def test_the_parents_mode_is_left_alone(remover: list[str], tmp_path: Path) -> None:
    parent = tmp_path / "parent"
    (parent / "tree").mkdir(parents=True)
    parent.chmod(0o500)
    argv = [*remover, str(parent), "tree"]
    if os.getuid() == 0:
        argv = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *argv]
    result = native_programs.run(argv)
    mode = parent.stat().st_mode & 0o777
    parent.chmod(0o700)  # whoever cleans up after the tests may be an ordinary user
    assert (result["status"], result["err"], mode) == (-1, errno.EACCES, 0o500)


@pytest.mark.parametrize("place", ["tree/a/mount", "tree"])
def test_mounts_are_not_entered(remover: list[str], tmp_path: Path, place: str) -> None:
    need(os.getuid() == 0, "root")
    canary = tmp_path / "canary"
    canary.mkdir()
    (canary / "file").write_text("tweet")
    (tmp_path / "tree/a/mount").mkdir(parents=True)
    script = f'mount --bind {canary} {tmp_path / place} && exec "$@"'
    argv = ["unshare", "-m", "sh", "-c", script, "sh", *remover, str(tmp_path), "tree"]
    result = native_programs.run(argv)
    assert (result["status"], result["err"], result.what) == (-1, errno.EXDEV, "a mount stands here")
    assert result.path == place.removeprefix("tree").lstrip("/").encode()
    assert (canary / "file").read_text() == "tweet"
    assert remove(remover, tmp_path, "tree")["status"] == 0


def test_what_cannot_go_is_named(remover: list[str], tmp_path: Path) -> None:
    need(os.getuid() == 0, "root")
    stuck = tmp_path / "tree" / "sub" / "stuck"
    stuck.mkdir(parents=True)
    (stuck / "file").touch()
    done = subprocess.run(["chattr", "+i", str(stuck / "file")], capture_output=True)
    need(done.returncode == 0, "immutable files")
    try:
        result = remove(remover, tmp_path, "tree")
    finally:
        subprocess.run(["chattr", "-i", str(stuck / "file")], check=True)
    assert (result["err"], result.path, result.what) == (errno.EPERM, b"sub/stuck/file", "removing a file")
    assert remove(remover, tmp_path, "tree")["status"] == 0


def test_several_at_once(remover: list[str], tmp_path: Path) -> None:
    """A dying supervisor and the next one that opens the store may both be at it."""
    for _ in range(5):
        for number in range(40):
            dig(make(tmp_path / "tree" / str(number)), 12)
        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(lambda _: remove(remover, tmp_path, "tree"), range(4)))
        assert [result["status"] for result in results] == [0] * 4, results
        assert not (tmp_path / "tree").exists()


def make(directory: Path) -> Path:
    directory.mkdir(parents=True)
    return directory
