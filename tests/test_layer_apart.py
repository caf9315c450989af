"""Trees that come to lie apart on their disk, and those whose file system has no say in that."""

from __future__ import annotations

import array
import errno
import fcntl
import os
from pathlib import Path

import pytest

import pycontainer as pc
from pycontainer.layer import apart
from pycontainer.layer.apart import make_apart


def has_attribute(path: Path) -> bool:
    flags = array.array("L", [0])
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, apart._GETFLAGS, flags)
    finally:
        os.close(fd)
    return bool(flags[0] & apart._TOPDIR)


def test_a_directory_is_made_and_nothing_beside_it(tmp_path: Path) -> None:
    made = make_apart(str(tmp_path), "tree")
    assert made == str(tmp_path / "tree")
    assert os.listdir(tmp_path) == ["tree"]
    assert os.listdir(made) == []


@pytest.fixture
def without_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that knows the attribute, and says that it has no journal."""
    probe = tmp_path / "probe"
    probe.mkdir()
    try:
        apart._mark_top(str(probe))
    except OSError as error:
        pytest.skip(f"the file system of {tmp_path} has no such attribute: {error}")
    probe.rmdir()
    pretend(tmp_path, monkeypatch, "<none>\n")


def pretend(path: Path, monkeypatch: pytest.MonkeyPatch, task: str) -> None:
    device, sys = os.stat(path).st_dev, path / "sys"
    (sys / "block").mkdir(parents=True)
    (sys / "dm-7").mkdir()
    (sys / "block" / f"{os.major(device)}:{os.minor(device)}").symlink_to("../devices/virtual/dm-7")
    (sys / "dm-7" / "journal_task").write_text(task)
    monkeypatch.setattr(apart, "_DEVICES", sys / "block")
    monkeypatch.setattr(apart, "_EXT4", sys)


@pytest.mark.usefixtures("without_journal")
def test_its_parent_is_a_top_directory_and_it_is_none(tmp_path: Path) -> None:
    """Otherwise the directories of one tree would be strewn over the disk."""
    parent = tmp_path / "layer"
    parent.mkdir()
    make_apart(str(parent), "tree")
    assert has_attribute(parent)
    assert not has_attribute(parent / "tree")


@pytest.mark.usefixtures("without_journal")
def test_layers_and_containers_lie_apart(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    store = pc.Store(tmp_path / "store")
    pc.Image.from_directory(tmp_path / "files", store=store)
    (layer,) = (path for path in (tmp_path / "store" / "layers").iterdir() if path.is_dir())
    assert has_attribute(layer)
    made = store.new_container_dir()
    assert has_attribute(Path(made.path).parent) and not has_attribute(Path(made.path))
    made.discard()


@pytest.mark.usefixtures("without_journal")
def test_a_journal_is_spared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "layer").mkdir()
    (tmp_path / "sys/dm-7/journal_task").write_text("417\n")
    make_apart(str(tmp_path / "layer"), "tree")
    assert not has_attribute(tmp_path / "layer")


def test_a_file_system_without_the_attribute_is_as_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))

    monkeypatch.setattr(fcntl, "ioctl", refuse)
    make_apart(str(tmp_path), "tree")
    assert os.listdir(tmp_path) == ["tree"]


def test_what_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        make_apart(str(tmp_path / "nowhere"), "tree")
