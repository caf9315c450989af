"""Layers that attack: each meets its typed refusal, and nothing outside of the root ever changes.

The root of the extraction stands beside a canary, a tree that hostile names, links and whiteouts aim at;
the oracle is that everything beside the root is the same before and after, down to inodes and times of
change.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest

import layer_tars as tars
import native_programs
import trees
from conftest import need

MALFORMED, UNSAFE, UNSUPPORTED, TOO_BIG, TOO_MANY, TOO_LONG, NO_SPACE = range(3, 10)
ID_UNMAPPED = 10

WAYS = {
    "root": [],
    "root, ENOSYS": ["--openat2", str(errno.ENOSYS)],
    "root, EPERM": ["--openat2", str(errno.EPERM)],
    "one id": ["--single", "--userxattr"],
}
"""How the layer is applied: options of the program; the last is inside of a user namespace."""


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> native_programs.Programs:
    return native_programs.shared(tmp_path_factory)


@attrs.frozen
class Ground:
    """`base` holds `canary` and `root`; `apply` extracts and checks that only `root` has changed."""

    base: Path
    programs: native_programs.Programs
    way: str

    @property
    def root(self) -> Path:
        return self.base / "root"

    @property
    def canary(self) -> bytes:
        return os.fsencode(self.base / "canary")

    def apply(self, data: bytes, *options: str) -> native_programs.Result:
        before = trees.identity(self.base, without=self.root)
        inside = ["unshare", "-r"] if self.way == "one id" else []
        argv = [*inside, self.programs.path("layer_apply"), *WAYS[self.way], *options, str(self.root)]
        result = native_programs.run(argv, data=data)
        assert trees.identity(self.base, without=self.root) == before
        return result


@pytest.fixture(params=WAYS)
def ground(
    request: pytest.FixtureRequest, tmp_path: Path, programs: native_programs.Programs
) -> Iterator[Ground]:
    if os.getuid() != 0 and request.param != "one id":
        pytest.skip("an ordinary user has a user namespace")
    canary = tmp_path / "canary"
    (canary / "dir").mkdir(parents=True)
    (canary / "file").write_text("tweet")
    (canary / "dir" / "file").write_text("tweet")
    (canary / "link").symlink_to("file")
    (tmp_path / "root").mkdir()
    yield Ground(tmp_path, programs, request.param)
    # Python's own removal, which comes over temporary directories, gives up on deep trees.
    assert native_programs.run([programs.path("tree_remove"), str(tmp_path), "root"])["status"] == 0


def many_xattrs() -> bytes:
    return tars.extended(*((f"SCHILY.xattr.user.n{n}", "v") for n in range(129))) + tars.entry(b"f")


def mapped(areas: list[tuple[int, bytes]], real_size: int) -> Callable[[str], bytes]:
    return lambda version: tars.archive(tars.sparse_pax(b"s", areas, real_size, version))


REFUSED: dict[str, tuple[int, bytes]] = {
    "climbing name": (UNSAFE, tars.entry(b"../canary/new")),
    "climbing name inside": (UNSAFE, tars.entry(b"a/../../canary/new")),
    "climbing directory": (UNSAFE, tars.directory(b"..")),
    "climbing long name": (
        UNSAFE,
        tars.long_name(b"x/" * 60 + b"../" * 70 + b"canary/new") + tars.entry(b"f"),
    ),
    "climbing pax name": (UNSAFE, tars.extended(("path", "../canary/new")) + tars.entry(b"f")),
    "climbing hard link": (UNSAFE, tars.hard_link(b"h", b"../canary/file")),
    "climbing whiteout": (UNSAFE, tars.entry(b"../canary/.wh.file")),
    "whiteout of the parent": (UNSAFE, tars.entry(b"d/.wh...")),
    "whiteout of itself": (UNSAFE, tars.entry(b"d/.wh..")),
    "whiteout of nothing": (UNSAFE, tars.entry(b"d/.wh.")),
    "overlay's own device": (UNSAFE, tars.device(b"c", b"3", 0, 0)),
    "links without end": (UNSAFE, tars.symlink(b"a", b"b") + tars.symlink(b"b", b"a") + tars.entry(b"a/f")),
    "hard link to nothing": (MALFORMED, tars.hard_link(b"h", b"gone")),
    "hard link to no name": (MALFORMED, tars.hard_link(b"h", b"/")),
    "hard link to itself": (MALFORMED, tars.hard_link(b"h", b"h")),
    "hard link to a directory": (MALFORMED, tars.directory(b"d") + tars.hard_link(b"h", b"d")),
    "hard link to a whiteout": (MALFORMED, tars.entry(b".wh.a") + tars.hard_link(b"h", b"a")),
    "hard link beneath a file": (MALFORMED, tars.entry(b"f") + tars.hard_link(b"h", b"f/g")),
    "entry beneath a whiteout's name": (MALFORMED, tars.entry(b".wh.d/f")),
    "directory named by a link": (MALFORMED, tars.symlink(b"l", b".wh.x") + tars.entry(b"l/f")),
    "file without a name": (MALFORMED, tars.entry(b"./")),
    "directory without a name": (MALFORMED, tars.directory(b"")),
    "link to nothing": (MALFORMED, tars.symlink(b"l", b"")),
    "no checksum": (MALFORMED, tars.header(b"f", checksum=b"00000000")),
    "negative size": (MALFORMED, tars.header(b"f", size=tars.base256(-1, 12))),
    "size of no digits": (MALFORMED, tars.header(b"f", size=b"12 34")),
    "size beyond 63 bits": (MALFORMED, tars.header(b"f", size=b"\x80" + b"\xff" * 11)),
    "negative pax size": (MALFORMED, tars.extended(("size", "-1")) + tars.entry(b"f")),
    "negative extension": (MALFORMED, tars.header(b"x", b"x", size=tars.base256(-512, 12))),
    "negative owner": (MALFORMED, tars.entry(b"f", uid=tars.base256(-2, 8))),
    "the owner that is none": (MALFORMED, tars.extended(("uid", "4294967295")) + tars.entry(b"f")),
    "NUL in a name": (MALFORMED, tars.extended((b"path", b"a\0b")) + tars.entry(b"f")),
    "broken record": (
        MALFORMED,
        tars.header(b"x", b"x", size=9) + tars.padded(b"99 path=a") + tars.entry(b"f"),
    ),
    "a size for every entry": (MALFORMED, tars.extended(("size", "0"), kind=b"g") + tars.entry(b"f")),
    "a name for every entry": (MALFORMED, tars.extended(("path", "x"), kind=b"g") + tars.entry(b"f")),
    "entries beyond the end": (MALFORMED, bytes(512) + tars.entry(b"f")),
    "endless extensions": (MALFORMED, tars.extended(("comment", "c")) * 18 + tars.entry(b"f")),
    "old map beyond the file": (MALFORMED, tars.sparse_old(b"s", [(0, b"a"), (100, b"b")], 50)),
    "old map backwards": (MALFORMED, tars.sparse_old(b"s", [(100, b"a"), (0, b"b")], 500)),
    "device number out of range": (MALFORMED, tars.device(b"c", b"3", 4096, 1)),
    "attribute of no form": (
        MALFORMED,
        tars.extended(("SCHILY.xattr.security.capability", "x")) + tars.entry(b"f"),
    ),
    "sparse in a new way": (
        UNSUPPORTED,
        tars.extended(("GNU.sparse.major", "2"), ("GNU.sparse.realsize", "1"), ("GNU.sparse.minor", "0"))
        + tars.entry(b"f"),
    ),
    "multi-volume": (UNSUPPORTED, tars.header(b"f", b"M")),
    "a kind from the future": (UNSUPPORTED, tars.header(b"f", b"Z")),
    "huge pax size": (TOO_BIG, tars.extended(("size", str(2**62))) + tars.entry(b"f")),
    "huge holes": (TOO_BIG, tars.sparse_old(b"s", [(0, b"a")], 2**32)),
    "long name": (TOO_LONG, tars.long_name(b"n/" * 2048) + tars.entry(b"f")),
    "long pax name": (TOO_LONG, tars.extended(("path", "n/" * 2048)) + tars.entry(b"f")),
    "long link": (TOO_LONG, tars.extended(("linkpath", "n" * 4096)) + tars.symlink(b"l", b"")),
    "long component": (TOO_LONG, tars.long_name(b"d/" + b"n" * 256) + tars.entry(b"f")),
    "long component by a link": (
        TOO_LONG,
        tars.long_name(b"n" * 256, b"K") + tars.symlink(b"l", b"") + tars.entry(b"l/f"),
    ),
    "long extension": (TOO_LONG, tars.extended(("comment", "c" * (1 << 20))) + tars.entry(b"f")),
    "many attributes": (TOO_LONG, many_xattrs()),
    "many areas": (
        TOO_LONG,
        tars.extended(("GNU.sparse.size", "9"), ("GNU.sparse.map", ",".join(["0"] * 2 * 65537)))
        + tars.entry(b"f"),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(ground: Ground, name: str) -> None:
    code, data = REFUSED[name]
    result = ground.apply(data + tars.END)
    assert (result["status"], result["code"]) == (-1, code), result.values
    assert result.what


@pytest.mark.parametrize("version", ["0.0", "0.1", "1.0"])
@pytest.mark.parametrize(
    "build",
    [
        mapped([(0, b"abc"), (2, b"d")], 10),
        mapped([(8, b"abc")], 10),
        mapped([(2**63 - 1, b"ab")], 2**63 - 1),
        mapped([(2**64, b"")], 10),
        mapped([(-5, b"ab")], 10),
    ],
    ids=["overlap", "beyond the end", "overflow", "more than 64 bits", "negative"],
)
def test_lying_maps(ground: Ground, build: Callable[[str], bytes], version: str) -> None:
    assert ground.apply(build(version))["code"] == MALFORMED


def test_a_map_that_hides_stored_bytes(ground: Ground) -> None:
    keys = tars.extended(("GNU.sparse.size", "100"), ("GNU.sparse.map", "0,3"))
    assert ground.apply(tars.archive(keys, tars.entry(b"s", b"abcdef")))["code"] == MALFORMED


@pytest.mark.parametrize("cut", [1, 511, 513, 1000, 1536, 1600, 2100])
def test_cut_short(ground: Ground, cut: int) -> None:
    data = tars.extended(("path", "long")) + tars.entry(b"f", b"x" * 600)
    result = ground.apply(data[:cut])
    assert (result["code"], result.what) == (MALFORMED, "the archive is cut short")


def test_names_that_try_to_be_absolute_stay_inside(ground: Ground) -> None:
    assert ground.apply(tars.archive(tars.entry(ground.canary + b"/file", b"mine")))["code"] == 0
    inside = ground.root / os.fsdecode(ground.canary).lstrip("/") / "file"
    assert inside.read_text() == "mine"


@pytest.mark.parametrize("climb", [b"", b"../../../../../../../../../../.."])
def test_parents_that_are_links_are_resolved_inside(ground: Ground, climb: bytes) -> None:
    target = climb + ground.canary
    parts = [
        tars.symlink(b"l", target),
        tars.entry(b"l/file", b"mine"),
        tars.directory(b"l/dir"),
        tars.entry(b"l/dir/.wh.file"),
        tars.entry(b"l/.wh..wh..opq"),
        tars.symlink(b"l/link", b"elsewhere"),
        tars.hard_link(b"l/hard", b"l/file"),
        tars.device(b"l/null", b"3", 1, 3),
    ]
    assert ground.apply(tars.archive(*parts))["code"] == 0
    inside = ground.root / os.fsdecode(ground.canary).lstrip("/")
    assert (ground.root / "l").readlink() == Path(os.fsdecode(target))
    assert (inside / "file").read_text() == "mine"
    assert stat.S_ISCHR((inside / "dir" / "file").stat().st_mode)
    assert (inside / "file").stat().st_nlink == 2
    opaque = "user.overlay.opaque" if ground.way == "one id" else "trusted.overlay.opaque"
    assert os.getxattr(inside, opaque) == b"y"


def test_links_below_the_top_start_where_they_should(ground: Ground) -> None:
    parts = [
        tars.symlink(b"a/b/absolute", b"/x") + tars.entry(b"a/b/absolute/f"),
        tars.symlink(b"a/b/relative", b"../y") + tars.entry(b"a/b/relative/f"),
        tars.symlink(b"a/b/chain", b"relative/./../../a/b/absolute/") + tars.entry(b"a/b/chain/g"),
    ]
    assert ground.apply(tars.archive(*parts))["code"] == 0
    files = [path.relative_to(ground.root) for path in trees.paths(ground.root) if path.is_file()]
    assert sorted(map(str, files)) == ["a/y/f", "x/f", "x/g"]


def test_a_file_is_not_written_through_a_link(ground: Ground) -> None:
    parts = [tars.symlink(b"l", ground.canary + b"/file"), tars.entry(b"l", b"mine")]
    assert ground.apply(tars.archive(*parts))["code"] == 0
    assert not (ground.root / "l").is_symlink()
    assert (ground.root / "l").read_text() == "mine"


def test_a_directory_does_not_take_a_links_place(ground: Ground) -> None:
    parts = [
        tars.symlink(b"l", ground.canary),
        tars.directory(b"l", mode=b"0000700\0"),
        tars.entry(b"l/x", b"mine"),
    ]
    assert ground.apply(tars.archive(*parts))["code"] == 0
    assert not (ground.root / "l").is_symlink()
    assert (ground.root / "l" / "x").read_text() == "mine"


def test_hard_links_do_not_leave_through_links(ground: Ground) -> None:
    parts = [tars.symlink(b"l", ground.canary), tars.hard_link(b"h", b"l/file")]
    assert ground.apply(tars.archive(*parts))["code"] == MALFORMED
    assert ground.apply(tars.archive(tars.hard_link(b"h", ground.canary + b"/file")))["code"] == MALFORMED


def test_a_hard_link_to_a_link_is_not_followed(ground: Ground) -> None:
    parts = [
        tars.symlink(b"l", ground.canary + b"/file"),
        tars.hard_link(b"h", b"l"),
        tars.entry(b"h", b"mine"),
    ]
    assert ground.apply(tars.archive(*parts))["code"] == 0
    assert (ground.root / "h").read_text() == "mine"


def test_replacing_a_tree_does_not_follow_its_links(ground: Ground) -> None:
    inside = [tars.symlink(b"d/l%d" % n, ground.canary + b"/dir") for n in range(3)]
    parts = [tars.directory(b"d"), *inside, tars.entry(b"d/sub/f"), tars.entry(b"d", b"a file now")]
    assert ground.apply(tars.archive(*parts))["code"] == 0
    assert (ground.root / "d").read_text() == "a file now"


def test_overlays_own_attributes_are_left_out(ground: Ground) -> None:
    names = [
        "trusted.overlay.redirect",
        "trusted.overlay.opaque",
        "user.overlay.redirect",
        "trusted.overlay.overlay.x",
    ]
    others = ["security.selinux", "security.ima", "system.posix_acl_access", "trusted.other"]
    keys = [(f"SCHILY.xattr.{name}", "/canary") for name in [*names, *others, "user.overlay%25.x"]]
    parts = [tars.extended(*keys) + tars.directory(b"d"), tars.extended(*keys) + tars.entry(b"f")]
    result = ground.apply(tars.archive(*parts))
    assert (result["code"], result["skipped_xattrs"]) == (0, 16)
    for name in "d", "f":
        assert trees.attributes(ground.root / name) == {"user.overlay%.x": b"/canary"}


def test_limits_of_bytes(ground: Ground) -> None:
    data = tars.archive(tars.entry(b"a", b"x" * 1000), tars.entry(b"b", b"x" * 1000))
    assert ground.apply(data, "--bytes", "2000")["bytes"] == 2000
    result = ground.apply(data, "--bytes", "1999")
    assert (result["code"], result.path, result["offset"]) == (TOO_BIG, b"b", 1536)
    assert ground.apply(data, "--bytes", "0")["err"] == errno.EINVAL


def test_bytes_that_belong_to_no_file_are_bounded(ground: Ground) -> None:
    whiteout = tars.header(b".wh.x", size=18 << 20) + bytes(18 << 20)
    assert ground.apply(whiteout, "--bytes", "1000")["code"] == TOO_BIG
    assert ground.apply(tars.END + bytes(18 << 20), "--bytes", "1000")["code"] == TOO_BIG
    assert ground.apply(tars.END + bytes(18 << 20))["stream_bytes"] == 1024 + (18 << 20)


def test_limits_of_entries_count_implied_parents(ground: Ground) -> None:
    assert ground.apply(tars.archive(tars.entry(b"a/b/c/d")), "--entries", "4")["code"] == 0
    result = ground.apply(tars.archive(tars.entry(b"x/b/c/d")), "--entries", "3")
    assert result["code"] == TOO_MANY
    result = ground.apply(tars.archive(tars.long_name(b"n/" * 2000) + tars.entry(b"f")), "--entries", "500")
    assert (result["code"], result["entries"]) == (TOO_MANY, 500)


def test_a_flood_of_entries_leaves_memory_flat(ground: Ground) -> None:
    few = ground.apply(tars.archive(*(tars.directory(b"d%d" % n) for n in range(20))))
    data = tars.archive(*(tars.directory(b"a/%d/%d" % (n % 50, n)) for n in range(20000)))
    many = ground.apply(data, "--entries", "15000")
    assert (many["code"], many["entries"]) == (TOO_MANY, 15000)
    assert many["peak_kib"] < few["peak_kib"] + 2048


def test_the_deepest_tree(ground: Ground) -> None:
    name = b"d/" * 2047
    parts = [
        tars.long_name(name) + tars.directory(b"x"),
        tars.symlink(b"l", b"d/d/d"),
        tars.entry(b"l/e", b"here"),
    ]
    assert ground.apply(tars.archive(*parts))["entries"] == 2049
    assert (ground.root / "d/d/d/e").read_text() == "here"
    result = native_programs.run([ground.programs.path("tree_remove"), str(ground.base), "root"])
    assert result["status"] == 0


def test_long_ways_through_links_are_bounded(ground: Ground) -> None:
    deep = b"d/" * 2000
    through = (tars.entry(b"l/%d" % n) for n in range(200))
    result = ground.apply(tars.archive(tars.directory(deep), tars.symlink(b"l", deep), *through))
    assert (result["code"], result.what) == (TOO_MANY, "long ways through links")
    assert 2002 < result["entries"] < 2202


def test_the_free_space_reserve(ground: Ground) -> None:
    status = os.statvfs(ground.root)
    everything = str(status.f_blocks * status.f_frsize)
    result = ground.apply(tars.archive(tars.entry(b"f", b"x")), "--reserve", everything)
    assert result["code"] == NO_SPACE
    assert not list(ground.root.iterdir())
    free = status.f_bavail * status.f_frsize
    need(free > 1 << 30, "1 GiB of free space")
    lie = tars.header(b"f", size=free - (512 << 20))
    assert ground.apply(lie, "--reserve", str(768 << 20), "--bytes", str(2**60))["code"] == NO_SPACE
    assert ground.apply(tars.archive(tars.entry(b"f", b"x")), "--reserve", str(256 << 20))["code"] == 0


def test_random_damage(ground: Ground) -> None:
    data = b"".join(seed[1:] for seed in tars.corpus().values()) + tars.END
    for at in range(0, len(data), 97):
        result = ground.apply(data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :])
        assert (result["status"] == 0) == (result["code"] == 0)
        gone = native_programs.run([ground.programs.path("tree_remove"), str(ground.base), "root"])
        assert gone["status"] == 0
        ground.root.mkdir()
