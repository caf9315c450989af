"""Layers as tools write them: extracted as GNU tar does, and with OCI's whiteouts in overlayfs's form.

OCI image-spec, layer.md; the kernel's Documentation/filesystems/overlayfs.rst, "whiteouts and opaque
directories".
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import layer_tars as tars
import native_programs
import ordinary_user
import trees
from conftest import need

ID_UNMAPPED = 10

INSIDE = [] if os.getuid() == 0 else ["unshare", "-r"]
SINGLE = [] if os.getuid() == 0 else ["--single", "--userxattr"]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> native_programs.Programs:
    return native_programs.shared(tmp_path_factory)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "root"
    path.mkdir()
    return path


@pytest.fixture(params=["openat2", "no openat2"])
def openat2(request: pytest.FixtureRequest) -> list[str]:
    return [] if request.param == "openat2" else ["--openat2", str(errno.ENOSYS)]


def apply(
    programs: native_programs.Programs, root: Path, data: bytes, *options: str
) -> native_programs.Result:
    argv = [*INSIDE, programs.path("layer_apply"), *SINGLE, *options, str(root)]
    return native_programs.run(argv, data=data)


def applied(
    programs: native_programs.Programs, root: Path, data: bytes, *options: str
) -> native_programs.Result:
    result = apply(programs, root, data, *options)
    assert result["code"] == 0, result.values
    return result


def is_whiteout(path: Path) -> bool:
    status = path.lstat()
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def is_opaque(path: Path) -> bool:
    return trees.attributes(path).get("user.overlay.opaque" if SINGLE else "trusted.overlay.opaque") == b"y"


def test_units(programs: native_programs.Programs) -> None:
    subprocess.run([programs.path("unit_tar")], check=True, timeout=60)


def make_sample(base: Path) -> None:
    """A tree with everything that a tar archive can carry."""
    (base / "dir" / "sub").mkdir(parents=True)
    (base / "dir" / "file").write_bytes(os.urandom(70000))
    (base / "dir" / ("long-" * 45)).write_text("long")
    (base / "dir" / "sub" / "ünïcode\n\x07").write_text("odd")
    (base / "empty").touch()
    (base / "link").symlink_to("dir/file")
    (base / "dangling").symlink_to("/" + "nowhere/" * 20)
    os.link(base / "dir" / "file", base / "dir" / "sub" / "hard")
    os.link(base / "link", base / "hard-link-to-link", follow_symlinks=False)
    os.mkfifo(base / "fifo")
    with (base / "sparse").open("wb") as file:
        for n in range(30):
            file.seek(n * 200_000)
            file.write(b"data%d" % n)
        file.truncate(9_000_000)
    os.setxattr(base / "dir" / "file", "user.note", b"\0binary\n=\xff")
    os.setxattr(base / "dir", "user.odd=%name", b"x")
    for name, mode in {"dir/sub": 0o1777, "empty": 0o755, "fifo": 0o600, "dir": 0o750}.items():
        (base / name).chmod(mode)
    if os.getuid() == 0:
        os.chown(base / "empty", 1234, 3_000_000)
        os.chown(base / "link", 12, 34, follow_symlinks=False)
        os.chown(base / "dir" / "sub", 100, 2_500_000)
        (base / "empty").chmod(0o6755)
        (base / "dir").chmod(0o2750)
        os.setxattr(base / "empty", "security.capability", tars.CAPABILITY)
        os.mknod(base / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod(base / "loop", stat.S_IFBLK | 0o660, os.makedev(7, 300))
    for number, path in enumerate(reversed(trees.paths(base))):
        os.utime(
            path, ns=(0, 1_000_000_007 * 10**9 * (number % 2) + 123_456_789 - number), follow_symlinks=False
        )


FORMATS = {
    "pax": ["--format=pax", "--xattrs", "--xattrs-include=*"],
    "pax 0.0": ["--format=pax", "--xattrs", "--xattrs-include=*", "--sparse", "--sparse-version=0.0"],
    "pax 0.1": ["--format=pax", "--xattrs", "--xattrs-include=*", "--sparse", "--sparse-version=0.1"],
    "pax 1.0": ["--format=pax", "--xattrs", "--xattrs-include=*", "--sparse", "--sparse-version=1.0"],
    "gnu": ["--format=gnu"],
    "gnu sparse": ["--format=gnu", "--sparse"],
    "sorted backwards": ["--format=pax", "--no-recursion"],
}


@pytest.mark.parametrize("kind", FORMATS)
def test_the_same_as_gnu_tar(
    programs: native_programs.Programs, tmp_path: Path, root: Path, kind: str, openat2: list[str]
) -> None:
    need(shutil.which("tar") is not None, "GNU tar")
    sample, reference, data = tmp_path / "sample", tmp_path / "reference", tmp_path / "layer.tar"
    sample.mkdir()
    reference.mkdir()
    make_sample(sample)
    names = ["."]
    if "--no-recursion" in FORMATS[kind]:
        # Children ahead of their directories: parents are implied first and described later.
        names = [f"./{path.relative_to(sample)}" for path in reversed(trees.paths(sample))]
    subprocess.run(["tar", "-C", str(sample), "-c", *FORMATS[kind], "-f", str(data), *names], check=True)
    unpack = [
        "tar",
        "-C",
        str(reference),
        "-xp",
        "--xattrs",
        "--xattrs-include=*",
        "--delay-directory-restore",
    ]
    subprocess.run([*unpack, "-f", str(data)], check=True)
    result = applied(programs, root, data.read_bytes(), *openat2)
    assert trees.look(root) == trees.look(reference)
    assert result["stream_bytes"] == data.stat().st_size
    if "--sparse" in FORMATS[kind]:
        assert (root / "sparse").stat().st_blocks <= (reference / "sparse").stat().st_blocks
    if os.getuid() == 0 and "--xattrs" in FORMATS[kind]:
        assert os.getxattr(root / "empty", "security.capability") == tars.CAPABILITY


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_archives_of_tarfile(programs: native_programs.Programs, root: Path, format: int) -> None:
    name = "/".join(["part" * 5] * 7)
    members: dict[str, tuple[dict[str, Any], bytes]] = {
        name: ({"mode": 0o640, "mtime": 1234567890}, b"deep"),
        "big": ({}, b"x" * 300_000),
        "hard": ({"type": tarfile.LNKTYPE, "linkname": "big"}, b""),
    }
    applied(programs, root, tars.by_tarfile(members, format))
    status = (root / name).stat()
    assert (stat.S_IMODE(status.st_mode), status.st_mtime, status.st_atime) == (0o640, 1234567890, 1234567890)
    assert (root / name).read_bytes() == b"deep"
    assert (root / "hard").samefile(root / "big")


def test_old_archives(programs: native_programs.Programs, root: Path) -> None:
    v7 = [
        tars.header(b"old/", b"\0", magic=b"", mode=b"  755 \0"),
        tars.header(b"old/f", b"\0", magic=b"", size=b"          3 ") + tars.padded(b"abc"),
        tars.header(b"x", b"7", rest=b"ustar/prefix"),
        tars.header(b"old/short", b"0", rest=b"no prefix", magic=b"ustar  \0"),
    ]  # fmt: skip
    applied(programs, root, b"".join(v7))  # and no blocks of zeros at the end, as some writers have it
    assert (root / "old" / "f").read_text() == "abc"
    assert (root / "ustar" / "prefix" / "x").is_file()
    assert (root / "old" / "short").is_file()


def test_the_roots_own_entry(programs: native_programs.Programs, root: Path) -> None:
    entry = tars.extended(("mtime", "-1.25"), ("SCHILY.xattr.user.a", "b")) + tars.directory(
        b"./", mode=b"0000711\0"
    )
    applied(programs, root, tars.archive(entry, tars.entry(b"./f")))
    status = root.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_mtime_ns) == (0o711, -1_250_000_000)
    assert trees.attributes(root) == {"user.a": b"b"}


def test_names_are_cleaned(programs: native_programs.Programs, root: Path) -> None:
    applied(programs, root, tars.archive(tars.entry(b"//a/./b//c"), tars.entry(b"./a//./d", b"x")))
    assert [str(path.relative_to(root)) for path in trees.paths(root)] == [".", "a", "a/b", "a/b/c", "a/d"]


def test_the_last_entry_wins(programs: native_programs.Programs, root: Path) -> None:
    note = tars.extended(("SCHILY.xattr.user.first", "1"))
    parts = [
        tars.entry(b"f", b"first"),
        tars.hard_link(b"g", b"f"),
        tars.entry(b"f", b"second"),
        tars.directory(b"file-then-dir") + tars.entry(b"file-then-dir/x") + tars.entry(b"file-then-dir"),
        tars.symlink(b"link-then-file", b"f") + tars.entry(b"link-then-file", b"third"),
        note + tars.directory(b"twice") + tars.entry(b"twice/kept"),
        tars.directory(b"twice", mode=b"0000700\0"),
        tars.header(b"fifo", b"6") + tars.symlink(b"fifo", b"f"),
        tars.entry(b"h") + tars.hard_link(b"h", b"f") + tars.hard_link(b"h", b"f"),
    ]
    applied(programs, root, tars.archive(*parts))
    assert ((root / "f").read_text(), (root / "g").read_text()) == ("second", "first")
    assert (root / "file-then-dir").is_file()
    assert (root / "link-then-file").read_text() == "third"
    assert not (root / "link-then-file").is_symlink()
    assert (root / "twice" / "kept").exists()
    assert stat.S_IMODE((root / "twice").stat().st_mode) == 0o700
    assert trees.attributes(root / "twice") == {}
    assert (root / "fifo").is_symlink()
    assert (root / "h").samefile(root / "f")


def test_a_directory_that_came_back_is_a_new_one(programs: native_programs.Programs, root: Path) -> None:
    parts = [
        tars.entry(b"a/b/c/old") + tars.directory(b"a", mtime=b"00000000007\0"),
        tars.directory(b"ab", mtime=b"00000000005\0") + tars.entry(b"ab/kept"),
        tars.entry(b"a") + tars.directory(b"a", mtime=b"00000000003\0") + tars.entry(b"a/b/c/new"),
    ]
    applied(programs, root, tars.archive(*parts))
    assert [path.name for path in trees.paths(root / "a")] == ["a", "b", "c", "new"]
    assert ((root / "a").stat().st_mtime, (root / "ab").stat().st_mtime) == (3, 5)


def test_whiteouts(programs: native_programs.Programs, root: Path, openat2: list[str]) -> None:
    parts = [
        tars.directory(b"etc") + tars.entry(b"etc/.wh.passwd"),
        tars.entry(b"opt/implied/.wh.gone"),
        tars.entry(b"var/.wh..wh..opq") + tars.entry(b"var/new"),
        tars.entry(b".wh..wh.plnk/1.2", b"AUFS") + tars.entry(b".wh..wh.aufs"),
    ]
    result = applied(programs, root, tars.archive(*parts), *openat2)
    assert is_whiteout(root / "etc" / "passwd")
    assert is_whiteout(root / "opt" / "implied" / "gone")
    assert is_opaque(root / "var") and not is_opaque(root / "etc")
    assert (root / "var" / "new").is_file()
    assert (result["whiteouts"], result["skipped_metadata"], result["root_opaque"]) == (3, 2, 0)
    assert not [path for path in trees.paths(root) if path.name.startswith(".wh.")]
    assert applied(programs, root, tars.archive(tars.entry(b".wh..wh..opq")))["root_opaque"] == 1


@pytest.mark.parametrize("whiteout_first", [True, False])
def test_whiteouts_hide_lower_layers_only(
    programs: native_programs.Programs, root: Path, whiteout_first: bool
) -> None:
    pairs = [
        (tars.entry(b".wh.file"), tars.entry(b"file", b"mine")),
        (tars.entry(b".wh.dir"), tars.directory(b"dir")),
        (tars.entry(b".wh.implied"), tars.entry(b"implied/x")),
        (tars.entry(b"opaque/.wh..wh..opq"), tars.entry(b"opaque/x")),
    ]
    ordered = (part for pair in pairs for part in (pair if whiteout_first else reversed(pair)))
    applied(programs, root, tars.archive(*ordered))
    assert (root / "file").read_text() == "mine"
    assert is_opaque(root / "dir") and is_opaque(root / "implied") and is_opaque(root / "opaque")
    assert (root / "implied" / "x").is_file() and (root / "opaque" / "x").is_file()


def test_whiteouts_beneath_what_is_hidden_already(programs: native_programs.Programs, root: Path) -> None:
    parts = [
        tars.entry(b".wh.a") + tars.entry(b"a/.wh.b") + tars.entry(b"a/.wh..wh..opq"),
        tars.entry(b"file") + tars.entry(b"file/.wh.b"),
    ]
    applied(programs, root, tars.archive(*parts))
    assert is_whiteout(root / "a")
    assert (root / "file").is_file()


def test_a_file_in_the_way_becomes_a_directory(programs: native_programs.Programs, root: Path) -> None:
    applied(programs, root, tars.archive(tars.entry(b"a"), tars.entry(b"a/b/c", b"x")))
    assert (root / "a" / "b" / "c").read_text() == "x"
    assert is_opaque(root / "a") and not is_opaque(root / "a" / "b")


def test_implied_parents(programs: native_programs.Programs, root: Path, tmp_path: Path) -> None:
    upper, lower = tmp_path / "upper", tmp_path / "lower"
    for path, mode in {upper / "tmp": 0o1777, lower / "tmp": 0o700, lower / "var/x": 0o751}.items():
        path.mkdir(parents=True)
        path.chmod(mode)
    (lower / "hidden").mkdir(mode=0o700)
    (upper / "hidden").symlink_to("tmp")
    os.utime(upper / "tmp", ns=(0, 77))
    data = tars.archive(*(tars.entry(b"%s/f" % name) for name in (b"tmp", b"var/x", b"hidden", b"new")))
    notes = tmp_path / "notes"
    applied(programs, root, data, "--notes", str(notes), "--lower", str(upper), "--lower", str(lower))
    assert notes.read_bytes() == b"tmp\0var\0var/x\0hidden\0new\0"
    assert not any(trees.attributes(path) for path in trees.paths(root))
    modes = {name: stat.S_IMODE((root / name).stat().st_mode) for name in ("tmp", "var/x", "hidden", "new")}
    assert modes == {"tmp": 0o1777, "var/x": 0o751, "hidden": 0o755, "new": 0o755}
    assert ((root / "tmp").stat().st_mtime_ns, (root / "new").stat().st_mtime) == (77, 1)


def test_times_of_many_directories(
    programs: native_programs.Programs, root: Path, openat2: list[str]
) -> None:
    """More of them than are kept open, each come back to after it was closed."""
    names = [b"d%d/e" % n for n in range(60)]
    made = [tars.directory(name, mtime=b"%011o\0" % (1000 + n)) for n, name in enumerate(names)]
    filled = [tars.entry(b"%s/f%d" % (name, turn)) for turn in range(3) for name in names]
    applied(
        programs,
        root,
        tars.archive(*made, *filled, tars.symlink(b"l", b"d3/e"), tars.entry(b"l/g")),
        *openat2,
    )
    times = [(root / os.fsdecode(name)).stat().st_mtime for name in names]
    assert times == [1000 + n for n in range(60)]
    assert {(root / f"d{n}").stat().st_mtime for n in range(60)} == {1000 + n for n in range(60)}


def test_what_overlay_makes_of_it(programs: native_programs.Programs, root: Path, tmp_path: Path) -> None:
    need(os.getuid() == 0, "root")
    lower, merged = tmp_path / "lower", tmp_path / "merged"
    for path in ("gone/x", "opaque/old", "plain/old", "back/old"):
        (lower / path).parent.mkdir(parents=True)
        (lower / path).touch()
    merged.mkdir()
    parts = [
        tars.entry(b".wh.gone") + tars.entry(b"opaque/new") + tars.entry(b"opaque/.wh..wh..opq"),
        tars.entry(b"plain/new") + tars.entry(b".wh.back") + tars.entry(b"back/new"),
    ]
    applied(programs, root, tars.archive(*parts))
    script = f"mount -t overlay overlay -o lowerdir={root}:{lower} {merged} && find {merged} -type f | sort"
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True)
    need(done.returncode == 0 or "permission" not in done.stderr, "overlay mounts")
    assert done.stdout.split() == [
        f"{merged}/{path}" for path in ("back/new", "opaque/new", "plain/new", "plain/old")
    ]


def test_one_id(programs: native_programs.Programs, root: Path) -> None:
    """A user namespace of one id, as it is without newuidmap."""
    probe = subprocess.run(["unshare", "-r", "true"], capture_output=True)
    need(probe.returncode == 0, "user namespaces")
    wrapped = ["unshare", "-r", programs.path("layer_apply")]
    single = [*wrapped, "--single", "--userxattr", str(root)]
    data = tars.archive(
        tars.entry(b"mine", b"x", mode=b"0006755\0"),
        tars.extended((b"SCHILY.xattr.security.capability", tars.CAPABILITY), ("SCHILY.xattr.user.a", "b"))
        + tars.entry(b"theirs", mode=b"0006755\0", uid=tars.octal(33, 8)),
        tars.device(b"null", b"3", 1, 3) + tars.entry(b"disk") + tars.device(b"disk", b"4", 7, 0),
        tars.entry(b".wh.gone") + tars.entry(b"d/.wh..wh..opq") + tars.header(b"fifo", b"6"),
    )
    result = native_programs.run(single, data=data)
    assert result["code"] == 0, result.values
    assert (result["skipped_devices"], result["changed_owners"]) == (2, 1)
    assert stat.S_IMODE((root / "mine").stat().st_mode) == 0o6755
    assert stat.S_IMODE((root / "theirs").stat().st_mode) == 0o2755
    assert {path.stat().st_uid for path in trees.paths(root)} == {os.getuid()}
    assert trees.attributes(root / "theirs")["user.a"] == b"b"
    assert trees.attributes(root / "d") == {"user.overlay.opaque": b"y"}
    assert is_whiteout(root / "gone")
    assert not (root / "null").exists() and not (root / "disk").exists()
    result = native_programs.run([*wrapped, "--userxattr", str(root)], data=data)
    assert (result["code"], result.path) == (ID_UNMAPPED, b"theirs")


@pytest.fixture
def users_programs(
    programs: native_programs.Programs, as_user: ordinary_user.OrdinaryUser
) -> Iterator[tuple[native_programs.Programs, Path]]:
    """Copies of the programs in the ordinary user's reach, and a directory of his."""
    base = as_user.base / "layers"
    base.mkdir(mode=0o755)
    for name in ("layer_apply", "tree_remove"):
        shutil.copy(programs.path(name), base)
    mine = base / "mine"
    mine.mkdir()
    os.chown(mine, as_user.account.pw_uid, as_user.account.pw_gid)
    yield native_programs.Programs(base), mine
    if base.exists():
        shutil.rmtree(base)


def test_a_range_of_ids(
    users_programs: tuple[native_programs.Programs, Path], as_user: ordinary_user.OrdinaryUser
) -> None:
    """An ordinary user with a subuid range: owners are ids of that range, and removal is possible."""
    theirs, base = users_programs
    inside = as_user.command(["unshare", "--map-root-user", "--map-auto"])
    probe = subprocess.run([*inside, "true"], capture_output=True)
    need(probe.returncode == 0, "a subuid range and newuidmap")
    script = f"mkdir {base}/root && exec {theirs.path('layer_apply')} --userxattr {base}/root"
    data = tars.archive(
        tars.directory(b"locked", mode=b"0000000\0", uid=tars.octal(33, 8)) + tars.entry(b"locked/f", b"x"),
        tars.extended((b"SCHILY.xattr.security.capability", tars.CAPABILITY), ("SCHILY.xattr.user.a", "b"))
        + tars.entry(b"theirs", mode=b"0006755\0", uid=tars.octal(33, 8), gid=tars.octal(1000, 8)),
        tars.symlink(b"link", b"x") + tars.device(b"null", b"3", 1, 3),
        tars.entry(b".wh.gone") + tars.entry(b"d/.wh..wh..opq") + tars.directory(b"d", mode=b"0000500\0"),
        tars.entry(b"d/f"),
    )
    result = native_programs.run([*inside, "sh", "-c", script], data=data)
    assert result["code"] == 0, result.values
    assert (result["skipped_devices"], result["skipped_xattrs"]) == (1, 0)
    look = "import os, sys, json; print(json.dumps([os.stat(p)[:6] for p in sys.argv[1:]]))"
    seen = subprocess.run(
        [*inside, sys.executable, "-c", look, *(f"{base}/root/{name}" for name in ("theirs", "locked/f"))],
        capture_output=True,
        text=True,
    )
    assert seen.returncode == 0 and "33, 1000" in seen.stdout, seen.stderr
    far = tars.archive(tars.entry(b"far", uid=tars.octal(70000, 8)))
    script = f"mkdir {base}/far && exec {theirs.path('layer_apply')} --userxattr {base}/far"
    assert native_programs.run([*inside, "sh", "-c", script], data=far)["code"] == ID_UNMAPPED
    for name in ("root", "far"):
        gone = native_programs.run([*inside, theirs.path("tree_remove"), str(base), name])
        assert gone["status"] == 0, gone.values
    assert not list(base.iterdir())


def test_the_corpus(programs: native_programs.Programs) -> None:
    corpus = sorted((native_programs.NATIVE / "corpus").iterdir())
    assert {path.name: path.read_bytes() for path in corpus} == tars.corpus()
    subprocess.run([programs.path("fuzz_layer"), *map(str, corpus)], check=True, timeout=120)


def test_fuzzing_for_a_moment(tmp_path: Path) -> None:
    need(native_programs.has_fuzzer(tmp_path), "clang with libFuzzer")
    found = tmp_path / "found"
    found.mkdir()
    limits = ["-runs=30000", "-max_total_time=5", "-max_len=8192", f"-artifact_prefix={tmp_path}/"]
    done = subprocess.run(
        [native_programs.build_fuzzer(tmp_path), *limits, found, native_programs.NATIVE / "corpus"],
        capture_output=True,
        env=os.environ | native_programs.ENVIRONMENT,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-4000:]
