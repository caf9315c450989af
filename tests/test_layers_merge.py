"""What several layers make together: as another tool merges them, and in the cases that overlay cannot know.

OCI image-spec, layer.md; the kernel's Documentation/filesystems/overlayfs.rst.
"""

from __future__ import annotations

import errno
import hashlib
import inspect
import json
import os
import random
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

import layer_tars as tars
import trees
from conftest import need
from ordinary_user import OrdinaryUser
from pycontainer.layer.unpacked import NewLayer, chain_ids
from pycontainer.oci.digest import Digest
from pycontainer.snapshot.mounted import mount
from pycontainer.store import LayeredRoot, Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    need(os.getuid() == 0, "root")
    with Store(tmp_path / "store") as store:
        yield store


def stacked(store: Store, layers: list[bytes], order: list[int] | None = None) -> LayeredRoot:
    """Unpacks the layers in that order, and puts them into their places from the lowest on."""
    diff_ids = [Digest.of(data) for data in layers]
    chains = chain_ids(diff_ids)
    made: dict[int, Any] = {}
    for n in order or range(len(layers)):
        parent = chains[n - 1] if n > 0 else None
        made[n] = store.layers.make(
            chains[n], parent, diff_ids[n], lambda n=n: iter([layers[n]]), store.limits
        )
        if order is None and isinstance(made[n], NewLayer):
            made[n] = made[n].commit()
    leases = [made[n].commit() if isinstance(made[n], NewLayer) else made[n] for n in sorted(made)]
    return LayeredRoot(store.layers.stack(chains[-1]), store, leases[-1])


def shown(store: Store, *layers: bytes, order: list[int] | None = None) -> dict[str, str]:
    """Every path with its mode, and a file's content."""
    found = {}
    with mount(store, stacked(store, [tars.archive(part) for part in layers], order)) as root:
        for path in trees.paths(root)[1:]:
            mode = path.lstat().st_mode
            content = " " + path.read_text() if stat.S_ISREG(mode) else ""
            found[str(path.relative_to(root))] = f"{stat.S_IMODE(mode):o}{content}"
    return found


def directory(name: bytes, mode: int, **fields: Any) -> bytes:
    return tars.directory(name, mode=tars.octal(mode, 8), **fields)


TMP = directory(b"tmp", 0o1777) + directory(b"var", 0o711) + directory(b"var/x", 0o700)


def test_implied_directories_look_as_below(store: Store) -> None:
    """Archives of Bazel's name files alone."""
    middle = tars.entry(b"tmp/middle") + tars.entry(b"var/x/y/z")
    top = tars.entry(b"tmp/top") + tars.entry(b"var/x/top") + tars.entry(b"new/top")
    found = shown(store, TMP, middle, top)
    assert {name: mode for name, mode in found.items() if "644" not in mode} == {
        "tmp": "1777",
        "var": "711",
        "var/x": "700",
        "var/x/y": "755",
        "new": "755",
    }
    assert {"tmp/middle", "tmp/top", "var/x/y/z", "var/x/top", "new/top"} <= set(found)


def test_layers_unpacked_in_any_order(store: Store) -> None:
    layers = [TMP, tars.entry(b"tmp/1"), tars.entry(b"tmp/2"), tars.entry(b"tmp/3")]
    found = shown(store, *layers, order=[3, 1, 0, 2])
    assert found == {"tmp": "1777", "var": "711", "var/x": "700"} | {f"tmp/{n}": "644 " for n in (1, 2, 3)}


def takes_attributes(path: Path) -> bool:
    """Linux before 6.6 keeps no user.* attributes in memory (tmpfs)."""
    try:
        os.setxattr(path, "user.probe", b"")
    except OSError as error:
        assert error.errno == errno.ENOTSUP
        return False
    return True


def test_owner_time_and_attributes_come_along(store: Store, tmp_path: Path) -> None:
    need(takes_attributes(tmp_path), "user.* attributes")
    note = tars.extended(("SCHILY.xattr.user.note", "below"))
    lower = note + directory(b"d", 0o750, uid=b"0000012\0", gid=b"0000034\0", mtime=b"00000000777\0")
    with mount(store, stacked(store, [tars.archive(lower), tars.archive(tars.entry(b"d/f"))])) as root:
        status = (root / "d").stat()
        assert (status.st_uid, status.st_gid, status.st_mtime) == (0o12, 0o34, 0o777)
        assert trees.attributes(root / "d") == {"user.note": b"below"}


def test_an_entry_of_its_own_wins_wherever_it_stands(store: Store) -> None:
    late = tars.entry(b"tmp/f") + directory(b"tmp", 0o755)
    early = directory(b"tmp", 0o751) + tars.entry(b"tmp/f")
    assert shown(store, TMP, late)["tmp"] == "755"
    assert shown(store, TMP, early)["tmp"] == "751"


def test_what_is_hidden_is_not_looked_at(store: Store) -> None:
    opaque = tars.entry(b"var/.wh..wh..opq") + tars.entry(b"var/x/f")
    found = shown(store, TMP, opaque)
    assert (found["var"], found["var/x"]) == ("711", "755")
    # The opaque directory lies between.
    assert shown(store, TMP, tars.entry(b"var/.wh..wh..opq"), tars.entry(b"var/x/f"))["var/x"] == "755"
    for deleted in (
        tars.entry(b".wh.tmp") + tars.entry(b"tmp/f"),
        tars.entry(b"tmp/f") + tars.entry(b".wh.tmp"),
    ):
        assert shown(store, TMP, deleted) == {"tmp": "755", "tmp/f": "644 ", "var": "711", "var/x": "700"}
    assert shown(store, TMP, tars.entry(b".wh.tmp"), tars.entry(b"tmp/f"))["tmp"] == "755"
    assert (
        shown(store, TMP, tars.entry(b".wh.tmp") + tars.entry(b"tmp"), tars.entry(b"tmp/f"))["tmp"] == "755"
    )


def test_an_opaque_root_hides_all_below(store: Store) -> None:
    layers = [TMP, tars.entry(b"a"), tars.entry(b".wh..wh..opq") + tars.entry(b"tmp/b"), tars.entry(b"tmp/c")]
    root = stacked(store, [tars.archive(layer) for layer in layers])
    assert len(root.lower) == 2
    assert shown(store, *layers) == {"tmp": "755", "tmp/b": "644 ", "tmp/c": "644 "}
    assert len(stacked(store, [tars.archive(layer) for layer in layers[:2]]).lower) == 2


def test_nothing_of_ours_is_left_in_a_layer(store: Store) -> None:
    layers = [
        TMP,
        tars.entry(b"tmp/f") + tars.entry(b"new/f"),
        tars.entry(b".wh..wh..opq") + tars.entry(b"x/f"),
    ]
    stacked(store, [tars.archive(layer) for layer in layers])
    for chain in store.layers.chains():
        assert sorted(os.listdir(store.layers.directory(chain))) == ["layer.json", "tree"]
        assert not any(trees.attributes(path) for path in trees.paths(Path(store.layers.tree(chain))))


def test_an_archive_cannot_set_our_mark(store: Store) -> None:
    for name in ("trusted.pycontainer.implied", "user.pycontainer.implied"):
        marked = tars.extended((f"SCHILY.xattr.{name}", "y")) + directory(b"tmp", 0o700)
        assert shown(store, TMP, tars.entry(b"tmp/f") + marked)["tmp"] == "700"


def test_whiteouts_over_three_layers(store: Store) -> None:
    lower = directory(b"d", 0o755) + tars.entry(b"d/a", b"1") + tars.entry(b"d/b", b"1")
    middle = (
        tars.entry(b"d/.wh.a") + tars.entry(b"d/c", b"2") + tars.entry(b"d/.wh.never") + tars.entry(b".wh.no")
    )
    assert shown(store, lower, middle) == {"d": "755", "d/b": "644 1", "d/c": "644 2"}
    again = tars.entry(b"d/a", b"3") + tars.entry(b"d/.wh.c")
    assert shown(store, lower, middle, again) == {"d": "755", "d/a": "644 3", "d/b": "644 1"}
    opaque = tars.entry(b"d/.wh..wh..opq") + tars.entry(b"d/e", b"3")
    assert shown(store, lower, middle, opaque) == {"d": "755", "d/e": "644 3"}


def test_a_file_becomes_a_directory_and_a_file_again(store: Store) -> None:
    layers = [
        tars.entry(b"x", b"1"),
        directory(b"x", 0o700) + tars.entry(b"x/in", b"2"),
        tars.entry(b"x", b"3"),
        tars.entry(b"x/again", b"4"),
    ]
    assert shown(store, *layers[:2]) == {"x": "700", "x/in": "644 2"}
    assert shown(store, *layers[:3]) == {"x": "644 3"}
    assert shown(store, *layers) == {"x": "755", "x/again": "644 4"}


def test_hard_links_of_one_layer(store: Store) -> None:
    layer = tars.entry(b"a", b"same") + tars.hard_link(b"b", b"a")
    with mount(store, stacked(store, [tars.archive(layer), tars.archive(tars.entry(b".wh.a"))])) as root:
        assert sorted(os.listdir(root)) == ["b"]
    with mount(store, stacked(store, [tars.archive(layer), tars.archive(tars.entry(b"c"))])) as root:
        assert (root / "a").stat().st_ino == (root / "b").stat().st_ino


def test_thousands_of_levels(store: Store) -> None:
    names = [b"/".join([b"%x" % n] * 700) for n in range(5)]
    layers = [tars.archive(*(tars.entry(name + b"/" + b"%d" % n) for name in names)) for n in range(3)]
    lowest = b"".join(directory(b"/".join([b"2"] * n), 0o711) for n in range(1, 701))
    root = stacked(store, [tars.archive(lowest), *layers])
    with mount(store, root) as path:
        modes = {stat.S_IMODE(os.stat("/".join([str(path), *["2"] * n])).st_mode) for n in range(1, 701)}
        assert modes == {0o711}
        assert stat.S_IMODE((path / "1/1").stat().st_mode) == 0o755


@attrs.define
class Random:
    """Layers of made-up changes, as they would follow each other in one tree."""

    random: random.Random
    tree: dict[str, str] = attrs.Factory(dict)
    """What is there: "file" or "directory"."""

    def layer(self) -> bytes:
        parts: list[bytes] = []
        used: set[str] = set()
        below = dict(self.tree)
        for _ in range(14):
            name = "/".join(self.random.choice("abcd") for _ in range(self.random.randint(1, 3)))
            if not any(_related(name, other) for other in used) and self._reachable(name):
                change = self.random.choice(
                    [self._file] * 4 + [self._directory] * 3 + [self._delete, self._empty]
                )
                parts += change(name, below)
                used.add(name)
        return tars.archive(*parts)

    def _reachable(self, name: str) -> bool:
        return all(self.tree.get(parent, "directory") != "file" for parent in _parents(name))

    def _remove(self, name: str) -> None:
        for path in [path for path in self.tree if path == name or path.startswith(name + "/")]:
            del self.tree[path]

    def _put(self, name: str, kind: str) -> None:
        for parent in _parents(name):
            self.tree.setdefault(parent, "directory")
        self.tree[name] = kind

    def _fields(self) -> dict[str, bytes]:
        return {"mtime": b"%011o\0" % self.random.randrange(1, 1 << 30)}

    def _file(self, name: str, below: dict[str, str]) -> list[bytes]:
        self._remove(name)
        self._put(name, "file")
        kind = self.random.randrange(4)
        if kind == 0:
            return [tars.symlink(os.fsencode(name), b"to/" + os.fsencode(name))]
        mode = tars.octal(self.random.choice([0o644, 0o600, 0o755]), 8)
        made = [tars.entry(os.fsencode(name), self.random.randbytes(20), mode=mode, **self._fields())]
        if kind == 1:
            other = f"{name}-link"
            self._remove(other)
            self._put(other, "file")
            made.append(tars.hard_link(os.fsencode(other), os.fsencode(name)))
        return made

    def _directory(self, name: str, below: dict[str, str]) -> list[bytes]:
        if self.tree.get(name) == "file":
            self._remove(name)
        self._put(name, "directory")
        mode = self.random.choice([0o755, 0o700, 0o711, 0o1777])
        made = [directory(os.fsencode(name), mode, **self._fields())]
        self._put(f"{name}/in", "file")
        return [*made, tars.entry(os.fsencode(f"{name}/in"), b"in", **self._fields())]

    def _delete(self, name: str, below: dict[str, str]) -> list[bytes]:
        parent, _, last = name.rpartition("/")
        if any(path not in below for path in _parents(name)):
            return []
        self._remove(name)
        return [tars.entry(os.fsencode(f"{parent}/.wh.{last}" if parent else f".wh.{last}"))]

    def _empty(self, name: str, below: dict[str, str]) -> list[bytes]:
        if self.tree.get(name) != "directory":
            return []
        for path in [path for path in self.tree if path.startswith(name + "/")]:
            del self.tree[path]
        self._put(f"{name}/kept", "file")
        return [
            tars.entry(os.fsencode(f"{name}/.wh..wh..opq")),
            tars.entry(os.fsencode(f"{name}/kept"), b"kept", **self._fields()),
        ]


def _parents(name: str) -> list[str]:
    names = name.split("/")
    return ["/".join(names[:n]) for n in range(1, len(names))]


def _related(one: str, other: str) -> bool:
    return one == other or one.startswith(other + "/") or other.startswith(one + "/")


def write_layout(path: Path, layers: list[bytes]) -> None:
    """An OCI layout with one image, `latest`."""
    blobs = path / "blobs/sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes, media_type: str) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": f"application/vnd.oci.image.{media_type}", "digest": f"sha256:{digest}",
                "size": len(data)}  # fmt: skip

    found = [put(data, "layer.v1.tar") for data in layers]
    diff_ids = [layer["digest"] for layer in found]
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    manifest = {"schemaVersion": 2, "layers": found}
    manifest["config"] = put(json.dumps(config).encode(), "config.v1+json")
    entry = put(json.dumps(manifest).encode(), "manifest.v1+json")
    entry["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
    (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


def look(root: Path) -> dict[str, Any]:
    """A tree without what umoci makes of its own: its root's look, and times of links and of directories,
    which change as it goes on."""
    found = trees.look(root)
    del found["."]
    for name, value in found.items():
        if not stat.S_ISREG(int(value[0], 8)):
            found[name] = (*value[:3], None, *value[4:])
    return found


def compare(store: Store, layout: Path, bundle: Path, *how: str) -> None:
    subprocess.run(["umoci", "unpack", *how, "--image", f"{layout}:latest", str(bundle)], check=True)
    blobs = layout / "blobs/sha256"
    entry = json.loads((layout / "index.json").read_text())["manifests"][0]
    manifest = json.loads((blobs / entry["digest"][7:]).read_text())
    layers = [(blobs / layer["digest"][7:]).read_bytes() for layer in manifest["layers"]]
    order = random.Random(1).sample(range(len(layers)), len(layers))
    with mount(store, stacked(store, layers, order)) as root:
        found, expected = look(root), look(bundle / "rootfs")
    differences = {
        name: (found.get(name), expected.get(name))
        for name in {*found, *expected}
        if found.get(name) != expected.get(name)
    }
    assert differences == {}, differences


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_as_umoci_unpacks_it(store: Store, tmp_path: Path, seed: int) -> None:
    need(shutil.which("umoci") is not None, "umoci")
    made = Random(random.Random(seed))
    write_layout(tmp_path / "layout", [made.layer() for _ in range(20)])
    assert len(made.tree) > 5
    compare(store, tmp_path / "layout", tmp_path / "bundle")


def test_as_umoci_unpacks_it_for_an_ordinary_user(as_user: OrdinaryUser, tmp_path: Path) -> None:
    need(shutil.which("umoci") is not None, "umoci")
    made = Random(random.Random(5))
    layout = as_user.base / tmp_path.name
    need(takes_attributes(as_user.base), "user.* attributes")
    write_layout(layout, [made.layer() for _ in range(20)])
    functions = "\n".join(inspect.getsource(each) for each in (stacked, look, compare))
    as_user(f"""
from __future__ import annotations
import json, os, random, stat, subprocess, types
from pathlib import Path
from typing import Any
trees = types.ModuleType("trees")
exec({inspect.getsource(trees)!r}, trees.__dict__)
from pycontainer.layer.unpacked import NewLayer, chain_ids
from pycontainer.oci.digest import Digest
from pycontainer.snapshot.mounted import mount
from pycontainer.store import LayeredRoot, Store
{functions}
compare(Store.default(), Path({str(layout)!r}), Path.home() / "bundle", "--rootless")
""")
