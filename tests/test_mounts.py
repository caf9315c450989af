"""Mount values: what is refused when they are made, and what mount(2) will be told."""

from __future__ import annotations

import pickle
from pathlib import Path, PurePosixPath

import attrs
import pytest

from pycontainer.errors import InvalidOption
from pycontainer.mounts import MAX_CONTENT, Bind, bind, container_path, content, tmpfs

MS = {"ro": 1, "nosuid": 2, "nodev": 4, "noexec": 8}


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("/data", "/data"),
        ("/data/", "/data"),
        ("//data//x/./y", "/data/x/y"),
        (PurePosixPath("/a/b"), "/a/b"),
        ("/..data", "/..data"),
    ],
)
def test_targets_are_absolute_and_normal(given: str, path: str) -> None:
    assert bind("/src", given).dst == path
    assert tmpfs(given).dst == path
    assert content("", given).dst == path


@pytest.mark.parametrize(
    "dst", ["", "data", "./data", "/", "//", "/.", "/a/../b", "/..", "/a/..", "/a\0b", b"/data", None, 3]
)
def test_a_bad_target_names_itself(dst: object) -> None:
    with pytest.raises(InvalidOption, match=r"^bind dst="):
        bind("/src", dst)  # type: ignore[arg-type]
    with pytest.raises(InvalidOption, match=r"^tmpfs dst="):
        tmpfs(dst)  # type: ignore[arg-type]
    with pytest.raises(InvalidOption, match=r"^content dst="):
        content(b"", dst)  # type: ignore[arg-type]


def test_the_root_only_where_it_is_allowed() -> None:
    assert container_path("/", option="cwd", root=True) == "/"
    with pytest.raises(InvalidOption, match=r"^cwd="):
        container_path("/a/..", option="cwd", root=True)


def test_bind_defaults() -> None:
    mount = bind("/src", "/dst")
    assert (mount.ro, mount.recursive, mount.propagation) == (False, True, "private")
    assert mount.flags == 0
    assert mount.propagation_flags == 1 << 18


def test_bind_takes_a_relative_source_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert bind("x/../data", "/data").src == f"{tmp_path}/data"
    assert bind(Path("data"), "/data").src == f"{tmp_path}/data"


def test_bind_does_not_look_at_its_source() -> None:
    assert bind("/no/such/place", "/data").src == "/no/such/place"


def test_bind_flags() -> None:
    for name, bit in MS.items():
        assert bind("/s", "/d", **{name: True}).flags == bit  # type: ignore[arg-type]
    assert bind("/s", "/d", propagation="rslave").propagation_flags == 1 << 19
    assert bind("/s", "/d", propagation="shared").propagation_flags == 1 << 20


@pytest.mark.parametrize(
    ("option", "value"),
    [("ro", 1), ("ro", "false"), ("recursive", None), ("propagation", "public"), ("nodev", "yes")],
)
def test_a_bad_bind_option_names_itself(option: str, value: object) -> None:
    with pytest.raises(InvalidOption, match=rf"^bind {option}="):
        bind("/s", "/d", **{option: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("src", ["", "a\0b", b"/x", None])
def test_a_bad_source_names_itself(src: object) -> None:
    with pytest.raises(InvalidOption, match=r"^bind src="):
        bind(src, "/d")  # type: ignore[arg-type]


def test_tmpfs_data() -> None:
    assert tmpfs("/t").data == "mode=1777"
    assert tmpfs("/t", size="64M").data == "mode=1777,size=67108864"
    full = tmpfs("/t", size=4096, mode=0o700, uid=5, gid=6, inodes=10)
    assert full.data == "mode=700,size=4096,nr_inodes=10,uid=5,gid=6"
    assert tmpfs("/t").flags == MS["nosuid"] | MS["nodev"] | MS["noexec"]
    assert tmpfs("/t", noexec=False, ro=True).flags == MS["nosuid"] | MS["nodev"] | MS["ro"]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("size", 0),
        ("size", "x"),
        ("mode", -1),
        ("mode", 0o10000),
        ("uid", 2**32 - 1),
        ("gid", -1),
        ("inodes", 0),
        ("mode", "0755"),
        ("uid", True),
        ("noexec", 0),
    ],
)
def test_a_bad_tmpfs_option_names_itself(option: str, value: object) -> None:
    with pytest.raises(InvalidOption, match=rf"^tmpfs {option}="):
        tmpfs("/t", **{option: value})  # type: ignore[arg-type]


def test_content_is_bytes_and_stays_out_of_sight() -> None:
    mount = content("geheim: ä", "/etc/secret", mode=0o600, uid=7)
    assert mount.data == "geheim: ä".encode()
    assert "geheim" not in repr(mount)
    assert "<10 bytes>" in repr(mount)
    assert content(bytearray(b"x"), "/f").data == b"x"


@pytest.mark.parametrize("data", [None, 5, ["x"], Path("/x")])
def test_content_of_a_wrong_type(data: object) -> None:
    with pytest.raises(InvalidOption, match=r"^content data="):
        content(data, "/f")  # type: ignore[arg-type]


def test_content_is_bounded() -> None:
    assert len(content(bytes(MAX_CONTENT), "/f").data) == MAX_CONTENT
    with pytest.raises(InvalidOption, match="bind a file instead"):
        content(bytes(MAX_CONTENT + 1), "/f")


def test_mounts_are_values() -> None:
    mounts = (bind("/s", "/d"), tmpfs("/t", size="1M"), content("x", "/f"))
    assert pickle.loads(pickle.dumps(mounts)) == mounts
    assert len(set(mounts)) == 3
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        mounts[0].dst = "/other"  # type: ignore[misc]
    assert attrs.evolve(Bind("/s", "/d"), ro=True).ro
