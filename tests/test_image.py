"""Image: made from directories and archives, named, found, changed, removed."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import signal
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from pycontainer.errors import (
    ImageError,
    ImageNotFound,
    InvalidImage,
    InvalidOption,
    InvalidReference,
    NoSpace,
    UnsafeLayer,
)
from pycontainer.image import Image
from pycontainer.layer.limits import Limits
from pycontainer.oci.config import ImageConfig
from pycontainer.store import HostRoot, LayeredRoot, Store
from pycontainer.supervisor import files


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as opened:
        yield opened


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    path = tmp_path / "tree"
    path.mkdir()
    (path / "hello").write_text("hello")
    os.utime(path / "hello", (1_500_000_000, 1_500_000_000))
    return path


def archive(size: int = 5) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        member = tarfile.TarInfo("hello")
        member.size = size
        tar.addfile(member, io.BytesIO(bytes(size)))
    return out.getvalue()


def test_host() -> None:
    host = Image.host()
    assert host is Image.host() is Image.get("host") and host.rootfs() == HostRoot()
    assert (host.id, host.digest, host.layers, host.tags, host.size) == ("host", None, (), [], 0)
    assert host.created is None and host.history == () and host.platform.os == "linux"
    assert host.config.env["PATH"] == os.environ["PATH"]
    assert host.config.cmd is not None and repr(host) == "<Image host>"
    changed = host.configure(env={"X": "1", "PATH": None}, cmd=["true"])
    assert changed.config.env.get("X") == "1" and "PATH" not in changed.config.env
    assert changed != host and changed.rootfs() == HostRoot()
    with pytest.raises(ImageError, match="host image"):
        host.tag("x")
    with pytest.raises(ImageError, match="host image"):
        host.untag("x")
    with pytest.raises(ImageError, match="host image"):
        host.remove()


def test_values_of_an_environment_stay_out_of_sight() -> None:
    shown = repr(ImageConfig.of({"env": {"TOKEN": "hidden"}}))
    assert "TOKEN" in shown and "hidden" not in shown


@pytest.mark.parametrize("config", [5, ["cmd"], "cmd"])
def test_what_is_no_config(store: Store, tree: Path, config: Any) -> None:
    with pytest.raises(InvalidOption, match="config: must be"):
        Image.from_directory(tree, config=config, store=store)


def test_scratch(store: Store) -> None:
    image = Image.scratch(store=store)
    root = image.rootfs()
    assert isinstance(root, LayeredRoot) and [os.listdir(path) for path in root.lower] == [[]]
    assert image == Image.scratch(store=store) and image.config.env == {}


def test_from_directory(store: Store, tree: Path) -> None:
    image = Image.from_directory(tree, config={"Cmd": ["/hello"]}, tag="team/app:1", store=store)
    assert image.tags == ["team/app:1"] and image.config.cmd == ("/hello",)
    assert image.created is not None and image.created.timestamp() == 1_500_000_000
    assert image.size > 10_000 and len(image.layers) == len(image.history) == 1
    root = image.rootfs()
    assert isinstance(root, LayeredRoot) and root.store is store and image.rootfs() is root
    assert Path(root.lower[0], "hello").read_text() == "hello"
    assert os.stat(root.lower[0]).st_mode & 0o777 == 0o755
    assert image.digest is not None
    for name in ("team/app:1", image.id, image.id[7:], image.id[7:19], f"team/app@{image.digest}"):
        assert Image.get(name, store=store) == image
    assert Image.list(store=store) == [image] and image.id[:19] in repr(image)


def test_same_tree_same_image(tmp_path: Path, tree: Path) -> None:
    with Store(tmp_path / "one") as one, Store(tmp_path / "two") as two:
        first = Image.from_directory(tree, store=one)
        second = Image.from_directory(tree, store=two)
        assert first.digest == second.digest and first == second
        (tree / "hello").write_text("other")
        assert Image.from_directory(tree, store=two) != first


def test_source_date_epoch(store: Store, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000")
    image = Image.from_directory(tree, store=store)
    assert image.config.created == "1970-01-01T00:16:40Z"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "soon")
    with pytest.raises(InvalidOption, match="SOURCE_DATE_EPOCH"):
        Image.from_directory(tree, store=store)


@pytest.mark.parametrize(
    ("pack", "media_type"),
    [
        (bytes, "tar"),
        (lambda data: gzip.compress(data, mtime=0), "tar+gzip"),
        (zstandard.compress, "tar+zstd"),
        (lzma.compress, "tar"),
        (bz2.compress, "tar"),
    ],
)
def test_from_tar(store: Store, tmp_path: Path, pack: Callable[[bytes], bytes], media_type: str) -> None:
    path = tmp_path / "image.tar"
    path.write_bytes(pack(archive()))
    image = Image.from_tar(path, store=store)
    assert image.layers[0].media_type.endswith(f".v1.{media_type}")
    with path.open("rb") as file:
        assert Image.from_tar(file, store=store) == image
        assert not file.closed
    # Compressed or not, it is one tree, unpacked once.
    plain = Image.from_tar(io.BytesIO(archive()), tag="plain", store=store)
    assert plain.rootfs() == image.rootfs() and len(store.layers.chains()) == 1
    assert store.check() == []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"nonsense" * 1000, "."),
        (gzip.compress(archive())[:-9], "cut short"),
        (gzip.compress(archive()) + b"garbage" * 10, "damaged"),
    ],
)
def test_bad_archives(store: Store, data: bytes, message: str) -> None:
    with pytest.raises(InvalidImage, match=message):
        Image.from_tar(io.BytesIO(data), store=store)
    assert list(store.layout.blobs.names()) == [] and os.listdir(store.layout.staging) == []


def test_a_path_of_bytes(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "archive"
    path.write_bytes(archive())
    assert Image.from_tar(os.fsencode(path), store=store) == Image.from_tar(path, store=store)  # type: ignore[arg-type]


def test_unreadable_archives(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="none: cannot be read"):
        Image.from_tar(tmp_path / "none", store=store)
    with pytest.raises(ImageError, match="cannot be read"):
        Image.from_tar(tmp_path, store=store)
    with pytest.raises(InvalidImage, match="binary mode"):
        Image.from_tar(io.StringIO("x"), store=store)  # type: ignore[arg-type]


def test_bombs_are_refused(tmp_path: Path) -> None:
    with Store(tmp_path / "store", limits=Limits(max_bytes=1 << 20, max_entries=10)) as store:
        with pytest.raises(UnsafeLayer):
            Image.from_tar(io.BytesIO(gzip.compress(archive(4 << 20))), store=store)
        assert list(store.layout.blobs.names()) == [] and store.layers.chains() == []


def test_no_space_to_unpack(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    full = os.statvfs_result((4096, 4096, 1000, 10, 10, 1000, 10, 10, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda path: full)
    with pytest.raises(NoSpace, match="free"):
        Image.from_tar(io.BytesIO(archive()), store=store)
    assert os.listdir(store.layout.staging) == [] and store.layers.chains() == []


def test_an_extraction_that_gives_up_early(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a thread that is stuck in the pipe, nor SIGPIPE, whatever the host set it to."""

    def refuse(fd: int, directory: str, **limits: int) -> None:
        os.read(fd, 10)
        raise UnsafeLayer("no")

    monkeypatch.setattr(files, "apply_layer", refuse)
    before = len(os.listdir("/proc/self/fd")), threading.active_count()
    old = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        with pytest.raises(UnsafeLayer, match="no"):
            Image.from_tar(io.BytesIO(archive(30_000_000)), store=store)
    finally:
        signal.signal(signal.SIGPIPE, old)
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == before


def test_names_move(store: Store, tree: Path) -> None:
    first = Image.from_directory(tree, tag="app", store=store)
    (tree / "more").touch()
    second = Image.from_directory(tree, tag="app", store=store)
    assert first.tags == [] and second.tags == ["app:latest"]
    first.tag("app:old")
    first.tag("127.0.0.1:5000/app")
    assert first.tags == ["127.0.0.1:5000/app:latest", "app:old"]
    with pytest.raises(ImageError, match="several names"):
        first.remove()
    first.untag("app:old")
    with pytest.raises(ImageNotFound, match="no name"):
        first.untag("app:old")
    first.remove()
    with pytest.raises(ImageNotFound, match="removed"):
        first.tag("again")
    assert Image.list(store=store) == [second] and store.check() == []
    second.tag("b")
    second.remove(force=True)
    assert Image.list(store=store) == [] and list(store.layout.blobs.names()) == []


def test_what_was_removed_is_not_damaged(store: Store, tree: Path, tmp_path: Path) -> None:
    image = Image.from_directory(tree, tag="app", store=store)
    other = Image.get("app", store=store)
    image.remove()
    store.prune()
    for call in (
        lambda: image.run(["/program"]),
        lambda: other.run(["/program"]),
        lambda: other.config,
        lambda: other.size,
        lambda: image.save(tmp_path / "image.tar"),
        lambda: image.export(tmp_path / "flat.tar"),
        lambda: image.configure(user="1"),
    ):
        with pytest.raises(ImageNotFound, match=f"{image.id}.* removed"):
            call()


def test_removal_leaves_those_who_run_alone(store: Store, tree: Path) -> None:
    image = Image.from_directory(tree, tag="app", store=store)
    root = image.rootfs()
    image.remove()
    store.prune()
    assert isinstance(root, LayeredRoot) and Path(root.lower[0], "hello").exists()
    lower = root.lower[0]
    del root
    store.prune()
    assert not os.path.exists(lower)


@pytest.mark.parametrize("use", ["config", "layers", "save", "export", "mount", "run", "configure"])
@pytest.mark.parametrize("known", [False, True])
def test_what_was_removed_meanwhile_is_not_damaged(
    store: Store, tree: Path, tmp_path: Path, use: str, known: bool
) -> None:
    """Another thread or process may remove an image that this one has in hand."""
    Image.from_directory(tree, tag="a", store=store)
    image = Image.get("a", store=store)
    assert not known or image.config.history
    Image.get("a", store=store).remove()
    store.prune()
    uses: dict[str, Callable[[], Any]] = {
        "config": lambda: image.config,
        "layers": lambda: image.layers,
        "save": lambda: image.save(tmp_path / "saved"),
        "export": lambda: image.export(tmp_path / "exported"),
        "mount": lambda: image.mount().__enter__(),
        "run": lambda: image.run(["/hello"]),
        "configure": lambda: image.configure(cmd=["/hello"]),
    }
    if known and use in ("config", "layers"):
        uses[use]()
        return
    with pytest.raises(ImageNotFound, match=f"{image.id}.* removed"):
        uses[use]()


def test_found_by_its_digest(store: Store, tree: Path) -> None:
    image = Image.from_directory(tree, store=store)
    assert image.digest is not None and image.digest != image.id
    assert Image.get(image.digest, store=store) == Image.get(image.id, store=store) == image


@pytest.mark.parametrize("ref", ["", "host", "UPPER", "x@sha256:" + "0" * 64, "a b"])
def test_names_that_cannot_be_given(store: Store, tree: Path, ref: str) -> None:
    with pytest.raises(InvalidReference):
        Image.from_directory(tree, tag=ref, store=store)
    assert list(store.layout.blobs.names()) == []


@pytest.mark.parametrize("ref", ["none", "sha256:" + "0" * 64, "0" * 12, "x@sha256:" + "0" * 64])
def test_not_found(store: Store, ref: str) -> None:
    with pytest.raises(ImageNotFound, match="no image"):
        Image.get(ref, store=store)


def test_configure(store: Store, tree: Path) -> None:
    config = {"env": {"A": "1", "B": "2"}, "labels": {"l": "1"}, "cmd": ["old"], "stop_signal": "INT"}
    image = Image.from_directory(tree, config=config, store=store)
    changed = image.configure(env={"A": None, "C": "3"}, labels={"m": "2"}, cmd=["new"], ports=[80], user=1)
    assert changed.config.env == {"B": "2", "C": "3"} and changed.config.labels == {"l": "1", "m": "2"}
    assert (changed.config.cmd, changed.config.user) == (("new",), "1")
    assert changed.config.exposed_ports == ("80",) and changed.config.stop_signal == "INT"
    assert changed.layers == image.layers and changed.tags == []
    assert [entry.empty_layer for entry in changed.history] == [False, True]
    assert image.config.env == config["env"]
    assert store.check() == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cmd": "sh -c x"}, "cmd: must be a list"),
        ({"enviroment": {}}, "enviroment: no such field"),
        ({"user": "4294967295"}, "user"),
        ({"ports": [70000]}, "ports"),
        ({"cwd": "relative"}, "cwd"),
        ({"env": {"A=B": "x"}}, "env"),
        ({"env": {"A": 1}}, "env"),
    ],
)
def test_configure_names_what_is_wrong(
    store: Store, tree: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidOption, match=message):
        Image.scratch(store=store).configure(**changes)
    with pytest.raises(InvalidOption, match=message.replace("configure", "config")):
        Image.from_directory(tree, config=changes, store=store)
