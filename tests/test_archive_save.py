"""Saving images: others read what is written, one image gives the same bytes, nothing stays half-done."""

from __future__ import annotations

import errno
import gzip
import json
import os
import shutil
import subprocess
import tarfile
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import archives as a
import layer_tars as tars
from conftest import need
from docker_daemon import Docker
from engines import Podman
from pycontainer.archive import beside
from pycontainer.archive.beside import Replacing
from pycontainer.archive.save import save
from pycontainer.errors import (
    ImageError,
    InvalidImage,
    InvalidOption,
    InvalidReference,
    NoSpace,
    StoreCorrupt,
)
from pycontainer.image import Image
from pycontainer.store import Store

ONE, TWO = a.layer("one"), a.layer("two")
FILES = ["oci-archive", "docker-archive"]
FORMATS = [*FILES, "oci"]
SCHEMAS = Path("/usr/share/gocode/src/github.com/opencontainers/image-spec/schema")
NAME = "docker.io/library/x:1"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as opened:
        yield opened


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "other") as opened:
        yield opened


def loaded(store: Store, where: Path, *streams: bytes, name: str | None = "x:1") -> Image:
    """An image with compressed layers, as a registry would have it."""
    made = a.Layout()
    made.list(made.image(*streams, compressed=tuple(gzip.compress(s, mtime=0) for s in streams)), name)
    (where / "source.tar").write_bytes(a.tar(made.parts()))
    return Image.load(where / "source.tar", store=store)[0]


@pytest.fixture
def image(store: Store, tmp_path: Path) -> Image:
    return loaded(store, tmp_path, ONE, TWO, ONE)


def bytes_below(path: Path) -> dict[str, bytes]:
    """The contents of a file, or of all files in a directory."""
    if path.is_file():
        return {"": path.read_bytes()}
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.mark.parametrize("format", FORMATS)
def test_there_and_back(image: Image, other: Store, tmp_path: Path, format: Any) -> None:
    image.tag("example.com/y")
    image.save(tmp_path / "saved", format)
    (back,) = Image.load(tmp_path / "saved", store=other)
    assert back.id == image.id and back.tags == ["example.com/y:latest", "x:1"]
    assert other.check() == []
    if format != "docker-archive":
        assert back.digest == image.digest
    back.save(tmp_path / "again", format)
    assert bytes_below(tmp_path / "again") == bytes_below(tmp_path / "saved")


@pytest.mark.parametrize("format", FORMATS)
def test_the_same_image_gives_the_same_bytes(
    image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: Any
) -> None:
    image.save(tmp_path / "first", format)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1500000000")
    old = os.umask(0o077)
    try:
        image.save(tmp_path / "second", format)
    finally:
        os.umask(old)
    assert bytes_below(tmp_path / "first") == bytes_below(tmp_path / "second") != {}
    image.save(tmp_path / "first", format)
    assert bytes_below(tmp_path / "first") == bytes_below(tmp_path / "second")


@pytest.mark.parametrize("format", FILES)
def test_members(image: Image, tmp_path: Path, format: Any) -> None:
    image.save(tmp_path / "saved.tar", format)
    with tarfile.open(tmp_path / "saved.tar") as tar:
        members = tar.getmembers()
    names = [member.name for member in members]
    assert names == sorted(set(names))
    for member in members:
        assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")
        assert member.mode == (0o755 if member.isdir() else 0o644) and (member.isdir() or member.isreg())
    assert (tmp_path / "saved.tar").stat().st_size % 10240 == 0


def test_layers_of_a_docker_archive_are_plain(image: Image, tmp_path: Path) -> None:
    image.save(tmp_path / "saved.tar", "docker-archive")
    with tarfile.open(tmp_path / "saved.tar") as tar:

        def read(name: str) -> bytes:
            file = tar.extractfile(name)
            assert file is not None
            return file.read()

        (entry,) = json.loads(read("manifest.json"))
        assert [read(name) for name in entry["Layers"]] == [ONE, TWO, ONE]
        assert a.sha256(read(entry["Config"])) == image.id
        assert entry["RepoTags"] == [NAME]


@pytest.mark.parametrize("format", FORMATS)
def test_without_a_name(store: Store, other: Store, tmp_path: Path, format: Any) -> None:
    nameless = loaded(store, tmp_path, ONE, name=None)
    for _ in range(2):
        nameless.save(tmp_path / "saved", format)
    (back,) = Image.load(tmp_path / "saved", store=other)
    assert back.tags == [] and back.id == nameless.id


@pytest.mark.parametrize("format", FORMATS)
def test_an_image_of_one_empty_layer(store: Store, other: Store, tmp_path: Path, format: Any) -> None:
    scratch = Image.scratch(store=store)
    scratch.save(tmp_path / "saved", format)
    assert Image.load(tmp_path / "saved", store=other) == [scratch]


def test_layers_that_are_not_unpacked_any_more(image: Image, store: Store, tmp_path: Path) -> None:
    image.save(tmp_path / "first", "docker-archive")
    for chain in store.layers.chains():
        shutil.rmtree(store.layers.directory(chain))
    image.save(tmp_path / "second", "docker-archive")
    assert bytes_below(tmp_path / "first") == bytes_below(tmp_path / "second")


@pytest.mark.parametrize("format", ["oci-archive", "oci"])
def test_documents_fit_the_schemas(image: Image, tmp_path: Path, format: Any) -> None:
    need(SCHEMAS.is_dir(), "golang-github-opencontainers-image-spec-dev")
    jsonschema = pytest.importorskip("jsonschema")
    referencing = pytest.importorskip("referencing")
    draft4 = pytest.importorskip("referencing.jsonschema").DRAFT4
    schemas = {path.name: json.loads(path.read_text()) for path in SCHEMAS.glob("*.json")}
    registry = referencing.Registry(
        retrieve=lambda uri: draft4.create_resource(schemas[uri.rpartition("/")[2]])
    )
    image.save(tmp_path / "saved", format)
    place = tmp_path / "saved"
    if format == "oci-archive":
        place = tmp_path / "extracted"
        place.mkdir()
        subprocess.run(["tar", "-C", place, "-xf", tmp_path / "saved"], check=True)
    assert image.digest is not None
    for schema, name in {
        "config-schema.json": f"blobs/sha256/{image.id[7:]}",
        "image-manifest-schema.json": f"blobs/sha256/{image.digest[7:]}",
        "image-index-schema.json": "index.json",
        "image-layout-schema.json": "oci-layout",
    }.items():
        validator = jsonschema.Draft4Validator(schemas[schema], registry=registry)
        assert list(validator.iter_errors(json.loads((place / name).read_text()))) == [], name


@pytest.mark.parametrize("format", FORMATS)
def test_the_order_of_names_does_not_matter(image: Image, store: Store, tmp_path: Path, format: Any) -> None:
    names = [f"x:{number}" for number in range(9)]
    for path, tags in ((tmp_path / "a", names), (tmp_path / "b", names[::-1])):
        save(store, image._manifest, image.config, tags, str(path), format)
    assert bytes_below(tmp_path / "a") == bytes_below(tmp_path / "b")
    if format == "oci":
        assert [name for _, name in entries(tmp_path / "a")] == [
            f"docker.io/library/{name}" for name in names
        ]


# Layout directories


def entries(path: Path) -> list[tuple[str, str | None]]:
    """What `index.json` lists: digests, and the specification's names."""
    document = json.loads((path / "index.json").read_text())
    return [(one["digest"], one.get("annotations", {}).get(a.REF_NAME)) for one in document["manifests"]]


def test_adding_to_a_layout(store: Store, other: Store, tmp_path: Path) -> None:
    """What others wrote there stays as it is, but for names that are the new image's now."""
    first, second = loaded(store, tmp_path, ONE, name="x:1"), loaded(store, tmp_path, TWO, name="y:1")
    made = a.Layout()
    foreign = made.image(a.layer("foreign"))
    made.list(foreign, "x:1", urls=["https://example.com/"])
    made.list(foreign, "z:1", platform={"architecture": "s390x", "os": "linux"}, artifactType="a/b")
    made.list(foreign, "mere-tag")
    parts = made.parts()
    parts["index.json"] = parts["index.json"][:-1] + b', "annotations": {"k": "v"}, "subject": null}'
    path = a.directory(tmp_path / "layout", parts)
    first.save(path, "oci")
    second.save(path, "oci")
    digest = a.sha256(foreign)
    kept = [(digest, "z:1"), (digest, "mere-tag")]
    assert entries(path) == [*kept, (first.digest, NAME), (second.digest, "docker.io/library/y:1")]
    document = json.loads((path / "index.json").read_text())
    assert document["manifests"][0] == made.entries[1]
    assert document["annotations"] == {"k": "v"} and "subject" in document
    assert sorted(tag for one in Image.load(path, store=other) for tag in one.tags) == ["x:1", "y:1", "z:1"]
    assert (path / "oci-layout").read_bytes() == parts["oci-layout"]


def test_an_entry_without_a_name_gets_one(store: Store, tmp_path: Path) -> None:
    image = loaded(store, tmp_path, ONE, name=None)
    image.save(tmp_path / "layout", "oci")
    image.tag("x:1")
    image.save(tmp_path / "layout", "oci")
    assert entries(tmp_path / "layout") == [(image.digest, NAME)]
    image.untag("x:1")
    image.save(tmp_path / "layout", "oci")
    assert entries(tmp_path / "layout") == [(image.digest, NAME)]


def test_an_empty_directory_becomes_a_layout(image: Image, tmp_path: Path) -> None:
    path = tmp_path / "layout"
    path.mkdir(mode=0o750)
    inode = path.stat().st_ino
    image.save(path, "oci")
    assert path.stat().st_ino == inode and path.stat().st_mode & 0o777 == 0o750
    assert sorted(os.listdir(path)) == ["blobs", "index.json", "oci-layout"]


def test_what_the_dead_left_in_a_layout(image: Image, tmp_path: Path) -> None:
    path = tmp_path / "layout"
    path.mkdir()
    (path / f"{beside.MADE}0").write_text("half")
    image.save(path, "oci")
    blob = path / "blobs" / "sha256" / image.layers[0].digest[7:]
    blob.write_bytes(blob.read_bytes()[:-1])
    (path / f"{beside.MADE}1").write_text("half")
    image.save(path, "oci")
    assert sorted(os.listdir(path)) == ["blobs", "index.json", "oci-layout"]
    assert a.sha256(blob.read_bytes()) == image.layers[0].digest


@pytest.mark.parametrize("there", ["file", "other files", "old layout", "bad index"])
def test_what_is_no_layout_is_refused(image: Image, tmp_path: Path, there: str) -> None:
    path = tmp_path / "there"
    if there == "file":
        path.write_text("x")
    elif there == "other files":
        a.directory(path, {"index.json": b"{}", "x": b"y"})
    elif there == "old layout":
        a.directory(path, {"oci-layout": b'{"imageLayoutVersion":"0.1"}'})
    else:
        a.directory(path, {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": b"[]"})
    before = bytes_below(path)
    with pytest.raises(ImageError, match="there"):
        image.save(path, "oci")
    assert bytes_below(path) == before


def test_many_add_to_one_layout(store: Store, tmp_path: Path) -> None:
    images = [loaded(store, tmp_path, a.layer(str(number)), name=f"x:{number}") for number in range(8)]
    path = tmp_path / "layout"
    threads = [threading.Thread(target=image.save, args=(path, "oci")) for image in images]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {digest for digest, _ in entries(path)} == {image.digest for image in images}


# What goes wrong


def nothing_left(path: Path) -> list[str]:
    return [name for name in os.listdir(path) if name.startswith(beside.MADE)]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, ""), OSError(errno.EIO, ""), KeyboardInterrupt()])
@pytest.mark.parametrize(
    ("nameless", "call"),
    [(True, "write"), (True, "link"), (True, "rename"), (False, "write"), (False, "rename")],
)
def test_nothing_stays_half_done(
    image: Image,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    format: Any,
    failure: Any,
    call: str,
    nameless: bool,
) -> None:
    """Each write, link and rename in turn fails: a new target is not there, an existing one as it was."""
    if not nameless:
        # A file system that gives no file without a name.
        monkeypatch.setattr(os, "O_TMPFILE", os.O_DIRECTORY)
    (tmp_path / "out").mkdir()
    old, new = tmp_path / "out" / "old", tmp_path / "out" / "new"
    loaded(image._store, tmp_path, TWO, name="old:1").save(old, format)
    before = bytes_below(old)
    real, count = getattr(os, call), 0
    expected = {errno.ENOSPC: NoSpace, errno.EIO: ImageError}.get(
        getattr(failure, "errno", 0), KeyboardInterrupt
    )
    for turn in range(100):
        count = 0

        def failing(*args: Any, turn: int = turn, **how: Any) -> Any:
            nonlocal count
            if beside.MADE in str(args[0]) or call == "link" or (call == "write" and is_made(args[0])):
                count += 1
                if count > turn:
                    raise failure
            return real(*args, **how)

        # Only what replaces something needs a second name first.
        for path in (old,) if (nameless, call) == (True, "rename") else (old, new):
            count = 0
            monkeypatch.setattr(os, call, failing)
            try:
                image.save(path, format)
            except expected as error:
                assert expected is KeyboardInterrupt or "out" in str(error)
            else:
                assert turn > 0
                return
            finally:
                monkeypatch.setattr(os, call, real)
            assert not new.exists() and nothing_left(tmp_path / "out") == []
            assert bytes_below(old) == before
            if old.is_dir():
                assert nothing_left(old) == []
    pytest.fail("never succeeds")


def is_made(fd: int) -> bool:
    """Whether it is a file in the making, with a name or without one."""
    path = os.readlink(f"/proc/self/fd/{fd}")
    return beside.MADE in path or path.endswith("(deleted)")


def test_a_layout_is_valid_at_any_moment(
    image: Image, other: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "layout"
    loaded(image._store, tmp_path, TWO, name="old:1").save(path, "oci")
    real, seen = Replacing.commit, []

    def looking(self: Replacing) -> None:
        real(self)
        with Store(tmp_path / f"store{len(seen)}") as fresh:
            seen.append([one.tags for one in Image.load(path, store=fresh)])

    monkeypatch.setattr(Replacing, "commit", looking)
    image.save(path, "oci")
    assert seen[-1] == [["old:1"], ["x:1"]] and set(map(str, seen[:-1])) == {"[['old:1']]"}


@pytest.mark.parametrize("format", FORMATS)
def test_damaged_images_are_not_saved(image: Image, store: Store, tmp_path: Path, format: Any) -> None:
    blob = Path(store.layout.blobs.path(image.layers[1].digest))
    good = blob.read_bytes()
    blob.write_bytes(good[:-5] + bytes(5))
    (tmp_path / "out").mkdir()
    with pytest.raises((StoreCorrupt, InvalidImage)):
        image.save(tmp_path / "out" / "saved", format)
    blob.unlink()
    with pytest.raises(StoreCorrupt, match="missing"):
        image.save(tmp_path / "out" / "saved", format)
    assert os.listdir(tmp_path / "out") == []


@pytest.mark.parametrize("format", FORMATS)
def test_places_that_cannot_be_written(image: Image, tmp_path: Path, format: Any) -> None:
    with pytest.raises(ImageError, match="nowhere/saved: cannot be written: ENOENT"):
        image.save(tmp_path / "nowhere" / "saved", format)
    with pytest.raises(ImageError, match="cannot be written"):
        image.save("nul\0byte", format)
    for place in ("/dev/null", "/proc/saved"):
        with pytest.raises(ImageError, match=place):
            image.save(place, format)
    if format != "oci":
        with pytest.raises(ImageError, match="no plain file"):
            image.save(tmp_path, format)


@pytest.mark.parametrize("format", FILES)
def test_a_file_is_replaced(image: Image, tmp_path: Path, format: Any) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    image.save(tmp_path / "link", format)
    image.save(tmp_path / "new", format)
    assert (tmp_path / "link").is_symlink() and bytes_below(tmp_path / "real") == bytes_below(
        tmp_path / "new"
    )
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o644


def test_a_link_to_a_missing_layout(image: Image, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("real")
    image.save(tmp_path / "link", "oci")
    assert entries(tmp_path / "real") == [(image.digest, NAME)]
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ImageError, match="loop"):
        image.save(tmp_path / "loop", "oci")


@pytest.mark.parametrize("format", FORMATS)
def test_memory_stays_flat(store: Store, other: Store, tmp_path: Path, format: Any) -> None:
    stream = tars.archive(tars.entry(b"large", os.urandom(1 << 20) * 40))
    large = loaded(store, tmp_path, stream)
    del stream
    tracemalloc.start()
    try:
        large.save(tmp_path / "saved", format)
        Image.load(tmp_path / "saved", store=other)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_wrong_arguments(image: Image, store: Store, tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="oci-archive, docker-archive, oci"):
        image.save(tmp_path / "saved", "tar")  # type: ignore[arg-type]
    with pytest.raises(InvalidReference):
        save(store, image._manifest, image.config, ["Bad Name"], str(tmp_path / "saved"), "oci")
    assert not (tmp_path / "saved").exists()


# Other tools


def run(*command: object) -> str:
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("format", FORMATS)
def test_skopeo_reads_it_and_writes_it_back(image: Image, other: Store, tmp_path: Path, format: Any) -> None:
    need(shutil.which("skopeo") is not None, "skopeo")
    path = tmp_path / "saved"
    image.save(path, format)
    config = json.loads(run("skopeo", "inspect", "--config", f"{format}:{path}:{NAME}"))
    assert config["rootfs"]["diff_ids"] == [a.sha256(s) for s in (ONE, TWO, ONE)]
    run("skopeo", "copy", f"{format}:{path}:{NAME}", f"{format}:{tmp_path / 'back'}:{NAME}")
    (back,) = Image.load(tmp_path / "back", store=other)
    assert back.id == image.id and back.tags == ["x:1"]
    if format != "docker-archive":
        assert back.digest == image.digest


@pytest.mark.skipif(os.geteuid() != 0, reason="umoci needs --rootless for others, and drops owners then")
def test_umoci_unpacks_it(image: Image, tmp_path: Path) -> None:
    need(shutil.which("umoci") is not None, "umoci")
    image.save(tmp_path / "layout", "oci")
    run("umoci", "unpack", "--image", f"{tmp_path / 'layout'}:{NAME}", tmp_path / "bundle")
    assert sorted(os.listdir(tmp_path / "bundle" / "rootfs")) == ["file-one", "file-two"]


def test_podman_loads_it_and_saves_it(image: Image, other: Store, tmp_path: Path, podman: Podman) -> None:
    for format in FILES:
        image.save(tmp_path / format, format)  # type: ignore[arg-type]
        assert NAME in podman("load", "-i", tmp_path / format)
        listed = json.loads(podman("image", "inspect", NAME))
        assert [one["Id"] for one in listed] == [image.id[7:]]
        podman("save", "--format", format, "-o", tmp_path / f"{format}-back", NAME)
        podman("rmi", "--force", NAME)
        (back,) = Image.load(tmp_path / f"{format}-back", store=other)
        assert (back.id, back.tags) == (image.id, ["x:1"])
    assert other.check() == []


def test_docker_loads_it_and_saves_it(image: Image, other: Store, tmp_path: Path, docker: Docker) -> None:
    image.save(tmp_path / "saved.tar", "docker-archive")
    assert "x:1" in docker("load", "-i", tmp_path / "saved.tar")
    assert docker("image", "inspect", "--format", "{{.Id}}", "x:1").strip() == image.id
    docker("save", "-o", tmp_path / "back.tar", "x:1")
    docker("rmi", "--force", "x:1")
    (back,) = Image.load(tmp_path / "back.tar", store=other)
    assert (back.id, back.tags) == (image.id, ["x:1"])
    back.save(tmp_path / "again.tar", "docker-archive")
    assert (tmp_path / "again.tar").read_bytes() == (tmp_path / "saved.tar").read_bytes()
