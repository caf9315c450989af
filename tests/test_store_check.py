"""What `Store.check` says of unpacked layers: containers see them, and no digest is looked at by then."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import images_made
from conftest import need
from ordinary_user import OrdinaryUser
from pycontainer.image import Image
from pycontainer.layer.unpacked import chain_ids
from pycontainer.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as opened:
        yield opened


LOWER = images_made.layer(
    {"etc/conf": b"1", "etc/other": b"2", "bin/a": b"a" * 300_000, "home/x": b"x"},
    directories=["etc", "bin", "home"],
    links={"bin/b": "a"},
    hard_links={"bin/c": "bin/a"},
    modes={"etc": 0o750, "bin/a": 0o4755},
)
# It implies `etc`, which looks as it does below.
UPPER = images_made.layer({"etc/new": b"3"}, whiteouts=["etc/other"], opaque=["home"])


def loaded(store: Store, path: Path) -> tuple[Image, list[Path]]:
    """An image of both, through an archive, and where its layers are unpacked."""
    made = images_made.Image.make([LOWER, UPPER], compression="gzip")
    document = json.loads(made.raw)
    with tarfile.open(path, "w") as archive:
        entry = {
            "Config": "config.json",
            "RepoTags": ["x:1"],
            "Layers": [f"{number}.tar" for number in range(len(made.diffs))],
        }
        parts = {
            "config.json": made.blobs[document["config"]["digest"]],
            **{f"{number}.tar": diff for number, diff in enumerate(made.diffs)},
            "manifest.json": json.dumps([entry]).encode(),
        }
        for name, data in parts.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    (image,) = Image.load(path, store=store)
    return image, [Path(store.layers.tree(chain)) for chain in chain_ids(image.config.diff_ids)]


def reset_time(path: Path, stat: os.stat_result) -> None:
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def same_size(lower: Path, _: Path) -> None:
    path = lower / "etc/conf"
    stat = path.stat()
    path.write_bytes(b"!")
    reset_time(path, stat)


def gone(lower: Path, _: Path) -> None:
    stat = (lower / "bin").stat()
    (lower / "bin/b").unlink()
    reset_time(lower / "bin", stat)


def new(lower: Path, _: Path) -> None:
    stat = (lower / "bin").stat()
    (lower / "bin/bb").symlink_to("a")
    reset_time(lower / "bin", stat)


def last(lower: Path, _: Path) -> None:
    (lower / "zzz").mkdir()


def mode(lower: Path, _: Path) -> None:
    (lower / "bin/a").chmod(0o755)


def root(lower: Path, _: Path) -> None:
    lower.chmod(0o777)


def implied(_: Path, upper: Path) -> None:
    (upper / "etc").chmod(0o755)


def whiteout(_: Path, upper: Path) -> None:
    stat = (upper / "etc").stat()
    (upper / "etc/other").unlink()
    reset_time(upper / "etc", stat)


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (same_size, "etc/conf was changed"),
        (gone, "bin/b is missing"),
        (new, "bin/bb does not belong to it"),
        (last, "zzz/? does not belong to it"),
        (mode, "bin/a was changed"),
        (root, "its root directory was changed"),
        (implied, "etc/? was changed"),
        (whiteout, "etc/.wh.other is missing"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_changed_file_is_found(
    store: Store, tmp_path: Path, damage: Callable[[Path, Path], None], what: str
) -> None:
    need(os.geteuid() == 0, "root: of others' layers the files are their supervisor's", of_root=True)
    _, trees = loaded(store, tmp_path / "archive.tar")
    assert store.check() == []
    damage(*trees)
    (problem,) = store.check()
    damaged = trees[1 if damage in (implied, whiteout) else 0].parent
    assert problem.kind == "layer" and problem.name.endswith(damaged.name)
    assert re.search(f": {what}$", problem.message)
    assert not [name for name in os.listdir(store.layers.root) if "." in name]


def test_what_cannot_be_compared_is_told_once(store: Store, tmp_path: Path) -> None:
    """Without a sound blob nobody can say what is right; a layer that is not there will be made."""
    image, trees = loaded(store, tmp_path / "archive.tar")
    blob = Path(store.layout.blobs.path(image.layers[0].digest))
    content = blob.read_bytes()
    blob.write_bytes(content[:-1] + b"!")
    assert [problem.kind for problem in store.check()] == ["blob"]
    blob.write_bytes(content)
    shutil.rmtree(trees[1].parent)
    assert store.check() == []


@pytest.mark.rootless
def test_an_ordinary_users_layers(as_user: OrdinaryUser) -> None:
    script = """
        import os
        from pathlib import Path
        import pycontainer as pc
        os.makedirs("tree/bin")
        Path("tree/bin/a").write_text("a")
        store = pc.Store("damaged")  # of this test alone
        pc.Image.from_directory("tree", tag="x", store=store)
        print(store.check())
        (layer,) = Path(store.layers.root).glob("*/tree")
        (layer / "bin/a").write_text("b")
        print(*(problem.message for problem in store.check()))
    """
    first, second = as_user(script).stdout.splitlines()
    assert first == "[]" and second.endswith("bin/a was changed")
