"""Loading images from archives: what other tools write, and what strangers might."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import json
import lzma
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

import archives as a
import layer_tars as tars
from conftest import need, unchanged
from ordinary_user import OrdinaryUser
from pycontainer.archive import files, tar_reader
from pycontainer.archive.load import load
from pycontainer.errors import (
    ImageError,
    InvalidImage,
    NoSpace,
    PycontainerError,
    StoreError,
    UnsafeLayer,
    UnsupportedPlatform,
)
from pycontainer.image import Image
from pycontainer.layer.limits import Limits
from pycontainer.store import Store
from pycontainer.store.compressed import CompressedLayers

ONE, TWO, THREE = a.layer("one"), a.layer("two"), a.layer("three")
FOREIGN = {"architecture": "s390x", "os": "linux"}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as opened:
        yield opened


@pytest.fixture
def put(tmp_path: Path) -> Any:
    """Writes an archive, given as bytes or as its files, and says where it is."""
    names = iter(range(1000))

    def write(archive: bytes | a.Parts) -> Path:
        path = tmp_path / f"archive{next(names)}"
        path.write_bytes(archive if isinstance(archive, bytes) else a.tar(archive))
        return path

    return write


def content(store: Store) -> tuple[list[str], list[str], list[str]]:
    """Everything that a store holds: blobs, layers, and what is in the making."""
    blobs = [path for path, _ in store.layout.blobs.names()]
    return blobs, sorted(store.layers.chains()), os.listdir(store.layout.staging)


def refused(store: Store, path: Path, error: type[BaseException], text: str) -> None:
    """The archive is refused with that message, and nothing of it stays."""
    before = Image.list(store=store)
    store.collect_now()
    # Loading starts nothing that the other kinds tell of, and on a shared machine others do.
    ignored = ("cgroups", "keys", "mounts", "processes")
    with unchanged(store=Path(store.path), ignore=ignored), pytest.raises(error, match=text):
        load(store, str(path))
    assert Image.list(store=store) == before
    assert content(store) == ([], [], []) and store.check() == []


@pytest.fixture(scope="module", autouse=True)
def warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The supervisor is there before anything is compared."""
    with Store(tmp_path_factory.mktemp("warm") / "store") as store:
        Image.scratch(store=store)


def names(image: Image) -> list[str]:
    root = image.rootfs()
    return sorted(name for lower in root.lower for name in os.listdir(lower))  # type: ignore[union-attr]


# What the formats mean


@pytest.mark.parametrize("make", [a.docker, a.layout])
@pytest.mark.parametrize("form", ["plain", "gzip", "zstd", "xz", "bzip2", "directory"])
def test_every_format_in_every_form(store: Store, tmp_path: Path, put: Any, make: Any, form: str) -> None:
    parts = make(ONE, TWO)
    if form == "directory":
        path = a.directory(tmp_path / "archive.tar.gz", parts)
    else:
        pack = {
            "plain": bytes,
            "gzip": gzip.compress,
            "zstd": zstandard.compress,
            "xz": lzma.compress,
            "bzip2": bz2.compress,
        }
        path = put(pack[form](a.tar(parts)))
    (image,) = Image.load(path, store=store)
    assert names(image) == ["file-one", "file-two"]
    assert image.id == a.sha256(a.config(ONE, TWO)) and image.tags == []
    assert store.check() == [] and content(store)[2] == []


def test_a_pipe_is_read(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(a.tar(a.docker(ONE)),))
    writer.start()
    assert names(Image.load(path, store=store)[0]) == ["file-one"]
    writer.join()


def test_names_in_a_docker_archive(store: Store, put: Any) -> None:
    (image,) = Image.load(put(a.docker(ONE, tags=["x:1", "docker.io/library/x:1", "h:5000/y"])), store=store)
    assert image.tags == ["h:5000/y:latest", "x:1"]
    (other,) = Image.load(put(a.docker(TWO, tags=["x:1"])), store=store)
    assert image.tags == ["h:5000/y:latest"] and other.tags == ["x:1"]


@pytest.mark.parametrize(
    "annotations, expected",
    [
        ({a.REF_NAME: "latest"}, []),
        ({a.REF_NAME: "x:1"}, ["x:1"]),
        ({a.REF_NAME: "example.com/x"}, ["example.com/x:latest"]),
        ({a.REF_NAME: "no/such+name:1"}, []),
        ({a.REF_NAME: "1", a.CONTAINERD_NAME: "docker.io/library/x:1"}, ["x:1"]),
        ({a.REF_NAME: "y:2", a.CONTAINERD_NAME: "docker.io/library/x:1"}, ["x:1"]),
        ({a.CONTAINERD_NAME: "docker.io/library/x@" + a.sha256(b"")}, []),
    ],
)
def test_names_in_a_layout(store: Store, put: Any, annotations: dict[str, str], expected: list[str]) -> None:
    made = a.Layout()
    made.list(made.image(ONE), annotations=annotations)
    (image,) = Image.load(put(made.parts()), store=store)
    assert image.tags == expected


def test_several_images_keep_their_order(store: Store, put: Any) -> None:
    made = a.Layout()
    first, second = made.image(ONE, TWO), made.image(TWO)
    made.list(second, "b:1")
    made.list(first, "a:1")
    made.list(second, "b:2")
    images = Image.load(put(made.parts()), store=store)
    assert [image.digest for image in images] == [a.sha256(second), a.sha256(first)]
    assert [image.tags for image in images] == [["b:1", "b:2"], ["a:1"]]


def test_several_images_of_a_docker_archive(store: Store, put: Any) -> None:
    first, second = a.docker(ONE, TWO, tags=["a:1"]), a.docker(ONE, tags=["b:1"])
    entries = [first.pop("manifest.json")[1:-1], second.pop("manifest.json")[1:-1]]
    parts = {"manifest.json": b"[%s,%s]" % (*entries,), **first, **second}
    images = Image.load(put(parts), store=store)
    assert [image.tags for image in images] == [["a:1"], ["b:1"]]
    assert len(store.layers.chains()) == 2


def test_a_manifest_is_kept_byte_for_byte(store: Store, put: Any) -> None:
    made = a.Layout()
    raw = made.image(ONE, TWO, compressed=(gzip.compress(ONE), gzip.compress(TWO)))
    made.list(raw, "x:1")
    (image,) = Image.load(put(made.parts()), store=store)
    assert image.digest == a.sha256(raw)
    assert [layer.digest for layer in image.layers] == [a.sha256(gzip.compress(s)) for s in (ONE, TWO)]
    assert names(image) == ["file-one", "file-two"]


def test_the_host_s_of_several_platforms(store: Store, put: Any) -> None:
    made = a.Layout()
    ours, theirs = made.image(ONE), made.image(TWO)
    host = {"architecture": Image.host().platform.architecture, "os": "linux"}
    attestation = a.descriptor(
        a.OCI_MANIFEST, made.image(THREE), platform={"architecture": "unknown", "os": "unknown"}
    )
    inner = made.index(
        attestation,
        a.descriptor(a.OCI_MANIFEST, theirs, platform=FOREIGN),
        a.descriptor(a.OCI_MANIFEST, ours, platform=host),
    )
    made.list(inner, "x:1", media_type=a.OCI_INDEX)
    (image,) = Image.load(put(made.parts()), store=store)
    assert image.digest == a.sha256(ours) and image.tags == ["x:1"]
    assert Image.get(f"x@{a.sha256(inner)}", store=store) == image


def test_one_name_for_several_platforms(store: Store, put: Any) -> None:
    made = a.Layout()
    ours = made.image(ONE)
    host = {"architecture": Image.host().platform.architecture, "os": "linux"}
    made.list(made.image(TWO), "x:1", platform=FOREIGN)
    made.list(ours, "x:1", platform=host)
    (image,) = Image.load(put(made.parts()), store=store)
    assert image.digest == a.sha256(ours)


def test_no_image_for_this_platform(store: Store, put: Any) -> None:
    made = a.Layout()
    inner = made.index(a.descriptor(a.OCI_MANIFEST, made.image(ONE), platform=FOREIGN))
    made.list(inner, "x:1", media_type=a.OCI_INDEX)
    refused(store, put(made.parts()), UnsupportedPlatform, "linux/s390x")


def test_one_image_for_another_platform_is_what_was_asked_for(store: Store, put: Any) -> None:
    made = a.Layout()
    made.list(made.image(ONE, architecture="s390x"), "x:1", platform=FOREIGN)
    (image,) = Image.load(put(made.parts()), store=store)
    assert str(image.platform) == "linux/s390x"


def test_what_is_no_image_is_passed_over(store: Store, put: Any) -> None:
    made = a.Layout()
    chart = {"schemaVersion": 2, "config": a.descriptor("application/x.chart", b"{}"), "layers": []}
    made.list(made.add(a.dump(chart)), "chart:1")
    made.list(made.add(b"something"), "thing:1", media_type="application/x.thing")
    refused(store, put(made.parts()), InvalidImage, "holds no image")
    made.list(made.image(ONE), "x:1")
    assert [image.tags for image in Image.load(put(made.parts()), store=store)] == [["x:1"]]


def test_docker_25_writes_both(store: Store, put: Any) -> None:
    """Images without a name are only in its `manifest.json`."""
    made = a.Layout()
    named, nameless = made.image(ONE), a.config(TWO)
    made.list(named, annotations={a.REF_NAME: "1", a.CONTAINERD_NAME: "docker.io/library/x:1"})

    def path(data: bytes) -> str:
        return f"blobs/sha256/{a.sha256(data)[7:]}"

    made.add(nameless), made.add(TWO)
    document = [
        {"Config": path(a.config(ONE)), "RepoTags": ["x:1", "x:2"], "Layers": [path(ONE)]},
        {"Config": path(nameless), "RepoTags": None, "Layers": [path(TWO)]},
    ]
    images = Image.load(put({**made.parts(), "manifest.json": a.dump(document)}), store=store)
    assert [image.tags for image in images] == [["x:1", "x:2"], []]
    assert images[0].digest == a.sha256(named) and images[1].id == a.sha256(nameless)


@pytest.mark.parametrize("link", ["symbolic", "hard"])
def test_links_between_layers(store: Store, put: Any, link: str) -> None:
    parts = a.docker(ONE, TWO, ONE)
    assert parts.pop("2/layer.tar") == ONE
    make = tars.symlink if link == "symbolic" else tars.hard_link
    member = make(b"./2/layer.tar", b"../0/./layer.tar" if link == "symbolic" else b"./0/layer.tar")
    (image,) = Image.load(put(a.tar(parts)[: -len(tars.END)] + member + tars.END), store=store)
    assert [layer.digest for layer in image.layers] == [a.sha256(s) for s in (ONE, TWO, ONE)]
    assert store.check() == []


def test_links_in_a_directory(store: Store, tmp_path: Path) -> None:
    path = a.directory(tmp_path / "d", a.docker(ONE))
    (path / "0/layer.tar").rename(path / "x.tar")
    (path / "0/layer.tar").symlink_to("../x.tar")
    assert names(Image.load(path, store=store)[0]) == ["file-one"]


def test_layers_of_a_docker_archive_keep_their_form(store: Store, put: Any) -> None:
    blobs = (ONE, gzip.compress(TWO, mtime=0), lzma.compress(THREE))
    (image,) = Image.load(put(a.docker(ONE, TWO, THREE, blobs=blobs)), store=store)
    assert [layer.media_type[len(a.OCI_LAYER) :] for layer in image.layers] == ["", "+gzip", ""]
    assert [layer.digest for layer in image.layers] == [a.sha256(s) for s in (ONE, blobs[1], THREE)]
    made = CompressedLayers(store)
    assert [made.is_made(diff_id) for diff_id in image.config.diff_ids] == [True, False, True]


def test_odd_but_valid_archives(store: Store, put: Any) -> None:
    """As `tar -C layout -c .` writes them, with extended headers, and without an end."""
    members = [tars.directory(b"./"), tars.extended(("comment", "x"), kind=b"g")]
    for name, data in a.layout(ONE, name="x:1").items():
        members += [tars.extended(("mtime", "1.5")), tars.entry(b"./" + name.encode(), data)]
    assert Image.load(put(b"".join(members)), store=store)[0].tags == ["x:1"]


def test_long_names(store: Store, put: Any) -> None:
    parts = a.docker(ONE)
    name = "n" * 150 + "/layer.tar"
    parts["manifest.json"] = parts["manifest.json"].replace(b"0/layer.tar", name.encode())
    parts[name] = parts.pop("0/layer.tar")
    assert names(Image.load(put(parts), store=store)[0]) == ["file-one"]


def test_loading_again_changes_nothing(store: Store, put: Any) -> None:
    path = put(a.docker(ONE, TWO, tags=["x:1"]))
    first = Image.load(path, store=store)
    before = content(store)
    assert Image.load(path, store=store) == first and content(store) == before


def test_a_layer_that_is_there_is_checked_all_the_same(store: Store, put: Any) -> None:
    """Unpacked already, from a blob of another form: the new blob must unpack to the same."""
    Image.load(put(a.docker(ONE, tags=["x:1"])), store=store)
    Image.load(put(a.docker(ONE, tags=["y:1"], blobs=(gzip.compress(ONE),))), store=store)
    before = content(store)
    with pytest.raises(InvalidImage, match=r"Layers\[0\].*should be"):
        Image.load(put(a.docker(ONE, tags=["z:1"], blobs=(gzip.compress(TWO),))), store=store)
    assert content(store) == before and store.check() == []


# What strangers might write


def test_layers_of_others_are_not_given_away(store: Store, put: Any) -> None:
    """An image that names the blob of one layer and the diff_id of another one, both of them here."""
    private, known = gzip.compress(ONE, mtime=0), gzip.compress(TWO, mtime=0)
    for stream, blob in ((ONE, private), (TWO, known)):
        made = a.Layout()
        made.list(made.image(stream, compressed=(blob,)))
        Image.load(put(made.parts()), store=store)
    before = Image.list(store=store)
    made = a.Layout()
    made.list(made.image(ONE, compressed=(known,), author="somebody else"))
    with pytest.raises(InvalidImage, match=r"layers\[0\].*should be"):
        Image.load(put(made.parts()), store=store)
    assert Image.list(store=store) == before


@pytest.mark.parametrize("make", [a.docker, a.layout])
def test_naming_a_layer_is_not_bringing_it(store: Store, put: Any, make: Any) -> None:
    parts = make(ONE)
    (image,) = Image.load(put(parts), store=store)
    name = next(name for name, data in parts.items() if data == ONE)
    with pytest.raises(InvalidImage, match="should be"):
        Image.load(put({**parts, name: bytes(len(ONE))}), store=store)
    assert Image.list(store=store) == [image] and store.check() == []


def docker_with(**changes: Any) -> a.Parts:
    parts = a.docker(ONE, tags=["x:1"])
    (entry,) = json.loads(parts["manifest.json"])
    entry.update(changes)
    return {**parts, "manifest.json": a.dump([{k: v for k, v in entry.items() if v is not ...}])}


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"Config": ...}, r"manifest.json\[0\]: Config: is missing"),
        ({"Config": 1}, "Config: must be a string"),
        ({"Config": "nowhere.json"}, "Config: 'nowhere.json' is not in the archive"),
        ({"Config": "../etc/passwd"}, "cannot be the name"),
        ({"Config": "/etc/passwd"}, "cannot be the name"),
        ({"Config": ""}, "cannot be the name"),
        ({"Layers": ["nowhere"]}, r"Layers\[0\]: 'nowhere' is not in the archive"),
        ({"Layers": []}, "0 layers, and 1 diff_ids"),
        ({"Layers": ["0/layer.tar"] * 2}, "2 layers, and 1 diff_ids"),
        ({"Layers": ["0/layer.tar"] * 501}, "501 entries, more than 500"),
        ({"Layers": ["../../etc/passwd"]}, "cannot be the name"),
        ({"Layers": "0/layer.tar"}, "Layers: must be a list"),
        ({"RepoTags": ["Bad Name"]}, r"RepoTags\[0\]: image reference"),
        ({"RepoTags": ["x:1", "x@" + a.sha256(b"")]}, r"RepoTags\[1\]: .*has no digest"),
        ({"RepoTags": ["x\0y"]}, "NUL"),
    ],
)
def test_bad_docker_manifests(store: Store, put: Any, changes: dict[str, Any], text: str) -> None:
    refused(store, put(docker_with(**changes)), InvalidImage, text)


@pytest.mark.parametrize(
    "raw, text",
    [
        (b"", "manifest.json: Expecting value"),
        (b"{}", "must be a list"),
        (b"null", "must be a list"),
        (b"[]", "0 images"),
        (b"[[]]", r"\[0\]: must be an object"),
        (b"[" * 100_000, "nested too deeply|Expecting value"),
        (b'[{"Config":"a","Config":"b"}]', "a key appears twice"),
        (b'[],"images":[{}]', "a key appears twice"),
        (b'[],"more":[]', "more than one JSON value"),
        (b"[{}]" + b" " * (4 << 20), "bytes, more than"),
        (b"[%s]" % b",".join([b"{}"] * 501), "501 images"),
    ],
)
def test_bad_docker_documents(store: Store, put: Any, raw: bytes, text: str) -> None:
    refused(store, put({"manifest.json": raw}), InvalidImage, text)


def test_content_that_is_not_what_it_is_called(store: Store, put: Any) -> None:
    parts = a.docker(ONE, TWO, tags=["x:1"])
    config = next(name for name in parts if name.endswith(".json") and name != "manifest.json")
    refused(store, put({**parts, "1/layer.tar": THREE}), InvalidImage, r"Layers\[1\].*should be sha256:")
    refused(store, put({**parts, config: a.config(ONE, THREE)}), InvalidImage, "Config: .* is sha256:")
    made = a.layout(ONE, TWO, name="x:1")
    for name, data in made.items():
        if name.startswith("blobs/"):
            refused(store, put({**made, name: data[:-1] + b"!"}), InvalidImage, "sha256:")
            refused(store, put({**made, name: data + b" "}), InvalidImage, "bytes, not")
            gone = {other: made[other] for other in made if other != name}
            refused(store, put(gone), InvalidImage, "is not in the archive")


def test_a_blob_of_the_same_content_is_another_blob(store: Store, put: Any) -> None:
    """The layer unpacks to what it should be; the manifest says that it was compressed another way."""
    made = a.Layout()
    made.list(made.image(ONE, compressed=(gzip.compress(ONE, mtime=0),)), "x:1")
    blob = next(iter(a.blob(gzip.compress(ONE, mtime=0))))
    parts = {**made.parts(), blob: gzip.compress(ONE, mtime=1)}
    refused(store, put(parts), InvalidImage, r"layers\[0\]: is sha256:.* and should be")
    Image.load(put(a.docker(ONE, tags=["y:1"])), store=store)
    with pytest.raises(InvalidImage, match="and should be"):
        Image.load(put(parts), store=store)


def test_a_layer_that_is_unsafe(store: Store, put: Any) -> None:
    """The second image is bad: the first one, loaded by then, goes, too."""
    bad = tars.archive(tars.entry(b"../out", b"x"))
    first, second = a.docker(ONE, tags=["a:1"]), a.docker(bad, tags=["b:1"])
    entries = first.pop("manifest.json")[1:-1], second.pop("manifest.json")[1:-1].replace(b"0/", b"1/")
    parts = {**first, **second, "0/layer.tar": ONE, "1/layer.tar": bad}
    path = put({"manifest.json": b"[%s,%s]" % entries, **parts})
    refused(store, path, UnsafeLayer, r"manifest.json\[1\]: Layers\[0\]")


def cut(data: bytes) -> bytes:
    return data[: len(data) * 2 // 3]


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, zstandard.compress, bytes])
def test_archives_that_are_cut_short(store: Store, put: Any, pack: Any) -> None:
    path = put(cut(pack(a.tar(a.docker(os.urandom(100_000))))))
    refused(store, path, InvalidImage, f"{path}.*(cut short|damaged)")


def test_damaged_compression(store: Store, put: Any) -> None:
    data = bytearray(gzip.compress(a.tar(a.docker(ONE))))
    data[-8] ^= 1
    refused(store, put(bytes(data)), InvalidImage, "gzip data is damaged")


@pytest.mark.parametrize("raw", [b"", b"x" * 10, b"x" * 4096, bytes(4096), tars.END])
def test_what_is_no_archive(store: Store, put: Any, raw: bytes) -> None:
    refused(store, put(raw), InvalidImage, "is no tar archive|is no archive of images")


def test_a_tree_of_files_is_no_archive_of_images(store: Store, put: Any, tmp_path: Path) -> None:
    refused(store, put(ONE), InvalidImage, "it has no oci-layout or manifest.json")
    (tmp_path / "empty").mkdir()
    refused(store, tmp_path / "empty", InvalidImage, "is no archive of images")


def test_unreadable_paths(store: Store, tmp_path: Path) -> None:
    refused(store, tmp_path / "nowhere", ImageError, "nowhere: cannot be read: No such file")
    with pytest.raises(ImageError, match="cannot be read"):
        load(store, "nul\0byte")


END = tars.END
PLAIN = a.tar(a.docker(ONE))[: -len(END)]
HOSTILE: dict[str, tuple[bytes, str]] = {
    "parent": (tars.entry(b"../x", b""), "cannot be the name"),
    "inner parent": (tars.entry(b"a/../x", b""), "cannot be the name"),
    "absolute": (tars.entry(b"/etc/passwd", b""), "cannot be the name"),
    "parent directory": (tars.directory(b"../"), "cannot be the name"),
    "no name": (tars.header(b"", b"0"), "cannot be the name"),
    "long name": (tars.entry(b"n" * 5000), "cannot be the name"),
    "hard link out": (tars.hard_link(b"x", b"../y"), "cannot be the name"),
    "twice": (tars.entry(b"manifest.json", b"[]"), "is in the archive twice"),
    "sparse": (tars.sparse_old(b"x", [(0, b"y")], 9), "sparse member"),
    "pax sparse": (tars.sparse_pax(b"x", [(0, b"y")], 9, "1.0"), "sparse member"),
    "unknown type": (tars.header(b"x", b"Z"), "unknown type"),
    "a directory with data": (tars.header(b"d", b"5", size=512) + bytes(512), "which is no file"),
    "a link with data": (tars.header(b"d", b"2", size=512, link=b"x") + bytes(512), "which is no file"),
    "lying size": (tars.header(b"x", b"0", size=1 << 40), "cut short: 'x' would have"),
    "huge size": (tars.header(b"x", b"0", size=b"\x80" + b"\xff" * 11), "a number that is none"),
    "negative size": (tars.header(b"x", b"0", size=b"\xff" * 12), "a number that is none"),
    "signed size": (tars.header(b"x", b"0", size=b"-0000000777\0"), "a number that is none"),
    "pax size": (tars.extended(("size", "-512")) + tars.entry(b"x"), "a size that is none"),
    "pax size of digits": (tars.extended(("size", "9" * 10_000)) + tars.entry(b"x"), "a size that is none"),
    "checksum": (tars.header(b"x", checksum=b"000000\0 "), "wrong checksum"),
    "huge pax header": (tars.header(b"p", b"x", size=1 << 30), "extended header of"),
    "huge long name": (tars.header(b"p", b"L", size=1 << 30), "extended header of"),
    "no pax record": (tars.header(b"p", b"x", size=4) + tars.padded(b"path"), "damaged record"),
    "zero pax record": (tars.header(b"p", b"x", size=6) + tars.padded(b"0 a=b\n"), "damaged record"),
    "long pax record": (tars.header(b"p", b"x", size=8) + tars.padded(b"90 a=bc\n"), "damaged record"),
    "global name": (tars.extended(("path", "y"), kind=b"g"), "names every member"),
    "pax at the end": (tars.extended(("path", "y")), "ends after an extended header"),
    "one zero block": (bytes(512) + tars.entry(b"x"), "block of zeros between"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_members(store: Store, put: Any, case: str) -> None:
    member, text = HOSTILE[case]
    refused(store, put(PLAIN + member + END), InvalidImage, text)


@pytest.mark.parametrize(
    "target, text",
    [
        (b"/etc/passwd", "leads out of the archive"),
        (b"../../etc/passwd", "leads out of the archive"),
        (b"layer.tar", "more than 8 links in a row"),
        (b"../nowhere", "is not in the archive"),
        (b"..", "is not in the archive"),
        (b"t" * 2000, "leads out of the archive"),
    ],
)
def test_hostile_links(store: Store, put: Any, target: bytes, text: str) -> None:
    parts = a.docker(ONE)
    del parts["0/layer.tar"]
    raw = a.tar(parts)[: -len(END)] + tars.symlink(b"0/layer.tar", target) + END
    refused(store, put(raw), InvalidImage, text)


def test_devices_are_no_layers(store: Store, put: Any) -> None:
    parts = a.docker(ONE)
    del parts["0/layer.tar"]
    raw = a.tar(parts)[: -len(END)] + tars.device(b"0/layer.tar", b"3", 1, 5) + END
    refused(store, put(raw), InvalidImage, "is no plain file")


@pytest.mark.parametrize("kind", ["link out", "linked directory", "fifo", "loop"])
def test_hostile_directories(store: Store, tmp_path: Path, kind: str) -> None:
    path = a.directory(tmp_path / "d", a.docker(ONE))
    (tmp_path / "layer.tar").write_bytes(ONE)
    file = path / "0/layer.tar"
    file.unlink()
    if kind == "link out":
        file.symlink_to("../../layer.tar")
    elif kind == "linked directory":
        file.parent.rmdir()
        file.parent.symlink_to("..")
    elif kind == "fifo":
        os.mkfifo(file)
    else:
        file.symlink_to("layer.tar")
    refused(store, path, InvalidImage, "leads out|not in the archive|not a plain file|links in a row")


def test_a_million_members(store: Store, put: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    many = b"".join(tars.entry(b"f%d" % number) for number in range(3000))
    monkeypatch.setattr(tar_reader, "_MAX_MEMBERS", 2000)
    refused(store, put(many + END), InvalidImage, "more than 2000 members")
    monkeypatch.setattr(tar_reader, "_MAX_MEMBERS", 10_000)
    monkeypatch.setattr(tar_reader, "_MAX_NAMES", 5000)
    refused(store, put(many + END), InvalidImage, "names in it have more than 5000")


def test_a_chain_of_extended_headers(store: Store, put: Any) -> None:
    refused(store, put(tars.extended(("path", "b")) * 5000 + END), InvalidImage, "after an extended header")


def test_a_bomb_is_bounded(tmp_path: Path, put: Any) -> None:
    with Store(tmp_path / "small", limits=Limits(max_bytes=1 << 20, max_entries=10)) as store:
        bomb = tars.header(b"x", b"0", size=200 << 20) + bytes(200 << 20)
        path = put(gzip.compress(bomb, 1))
        del bomb
        tracemalloc.start()
        refused(store, path, InvalidImage, "bytes when decompressed")
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
        tracemalloc.stop()


def test_a_layer_that_is_a_bomb(tmp_path: Path, put: Any) -> None:
    with Store(tmp_path / "small", limits=Limits(max_bytes=1 << 20, max_entries=10)) as store:
        bomb = tars.archive(tars.entry(b"x", bytes(20 << 20)))
        path = put(a.docker(bomb, blobs=(gzip.compress(bomb),)))
        refused(store, path, UnsafeLayer, r"Layers\[0\]")


def test_no_room(tmp_path: Path, put: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.statvfs

    def nearly_full(path: Any) -> os.statvfs_result:
        found = list(real(path))
        found[4] = ((256 << 20) + 8192) // found[1]
        return os.statvfs_result(found)

    with Store(tmp_path / "small", limits=Limits(max_entries=10)) as store:
        path = put(gzip.compress(bytes(1 << 20)))
        monkeypatch.setattr(os, "statvfs", nearly_full)
        refused(store, path, NoSpace, "no more is free")


def test_indexes_in_indexes(store: Store, put: Any) -> None:
    made = a.Layout()
    inner = made.image(ONE)
    kind = a.OCI_MANIFEST
    for _ in range(6):
        inner, kind = made.index(a.descriptor(kind, inner)), a.OCI_INDEX
    made.list(inner, "x:1", media_type=a.OCI_INDEX)
    refused(store, put(made.parts()), InvalidImage, "more indexes in indexes")


def test_an_index_that_lists_itself(store: Store, put: Any) -> None:
    made = a.Layout()
    entry = {"mediaType": a.OCI_INDEX, "digest": a.sha256(b"x"), "size": 0}
    inner = {"schemaVersion": 2, "manifests": [entry]}
    size = len(a.dump(inner)) + 2
    entry["size"] = size
    made.entries.append(dict(entry))
    parts = {**made.parts(), f"blobs/sha256/{a.sha256(b'x')[7:]}": a.dump(inner).ljust(size)}
    refused(store, put(parts), InvalidImage, "its content is")


def test_a_document_that_is_two_things(store: Store, put: Any) -> None:
    made = a.Layout()
    raw = made.add(made.image(ONE)[:-1] + b', "manifests": []}')
    made.list(raw, "x:1")
    refused(store, put(made.parts()), InvalidImage, "manifests: does not belong here")
    made = a.Layout()
    made.list(made.image(ONE), "x:1", media_type=a.OCI_INDEX)
    refused(store, put(made.parts()), InvalidImage, "is something else")


@pytest.mark.parametrize(
    "name, raw, text",
    [
        ("oci-layout", b"{}", "imageLayoutVersion: is missing"),
        ("oci-layout", b'{"imageLayoutVersion":"2.0.0"}', "is not known here"),
        ("oci-layout", b"", "oci-layout"),
        ("index.json", b'{"schemaVersion":2}', "manifests: is missing"),
        ("index.json", b'{"schemaVersion":2,"manifests":[],"manifests":[]}', "appears twice"),
        (
            "index.json",
            b'{"schemaVersion":2,"manifests":[{"mediaType":"a/b","size":1}]}',
            "digest: is missing",
        ),
        ("index.json", b'{"schemaVersion":2,"manifests":[]}', "holds no image"),
    ],
)
def test_bad_layouts(store: Store, put: Any, name: str, raw: bytes, text: str) -> None:
    refused(store, put({**a.layout(ONE), name: raw}), InvalidImage, text)


def test_a_bad_containerd_name(store: Store, put: Any) -> None:
    made = a.Layout()
    made.list(made.image(ONE), annotations={a.CONTAINERD_NAME: "Bad Name"})
    refused(store, put(made.parts()), InvalidImage, r"manifests\[0\]: io.containerd.image.name")


def test_documents_are_bounded_together(store: Store, put: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = a.Layout()
    for number in range(20):
        made.list(made.image(ONE, author=str(number) * 5000))
    path = put(made.parts())
    monkeypatch.setattr(files, "_MAX_DOCUMENTS", 100_000)
    refused(store, path, InvalidImage, "its documents have more than")
    monkeypatch.setattr(files, "_MAX_DOCUMENTS", 1_000_000)
    assert len(Image.load(path, store=store)) == 20


def test_a_document_is_bounded(store: Store, put: Any) -> None:
    refused(store, put(a.layout(ONE) | {"index.json": bytes(5 << 20)}), InvalidImage, "more than the 4194304")


def test_an_interrupted_load_leaves_nothing(store: Store, put: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = store.layers.ensure, []

    def interrupted(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(store.layers, "ensure", interrupted)
    refused(store, put(a.docker(ONE, TWO, tags=["x:1"])), KeyboardInterrupt, "^$")


def test_ctrl_c_while_a_pipe_is_silent(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    raw = a.tar(a.docker(ONE))
    silent = threading.Event()

    def write() -> None:
        with path.open("wb", buffering=0) as pipe:
            pipe.write(raw[:1000])
            time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGINT)
            silent.wait(10)

    writer = threading.Thread(target=write)
    writer.start()
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        load(store, str(path))
    assert time.monotonic() - begun < 5
    silent.set()
    writer.join()
    assert content(store) == ([], [], []) and store.check() == []


def test_a_process_that_is_killed_leaves_nothing(store: Store, put: Any, tmp_path: Path) -> None:
    """Killed when the first layer is in place: the next one that opens the store and prunes it tidies up."""
    script = (
        "import os, signal, sys\n"
        "from pycontainer.archive.load import load; from pycontainer.store import Store\n"
        "store = Store(sys.argv[1]); real = store.layout.blobs.place\n"
        "def place(*args): real(*args); os.kill(os.getpid(), signal.SIGKILL)\n"
        "store.layout.blobs.place = place\n"
        "load(store, sys.argv[2])"
    )
    path = put(gzip.compress(a.tar(a.docker(ONE, TWO, tags=["x:1"]))))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script, store.path, path], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    assert content(store)[0] != []
    with Store(store.path) as again:
        again.prune()
        assert content(again) == ([], [], []) and again.check() == []
        assert [image.tags for image in Image.load(path, store=again)] == [["x:1"]]


def test_an_ordinary_user(as_user: OrdinaryUser) -> None:
    """Layers hold files of other ids, which are the subordinate ones of the user's namespace."""
    script = """
import os, tempfile
from pycontainer.image import Image
from pycontainer.store import Store
with tempfile.TemporaryDirectory() as base, Store(base + "/store") as store:
    with open(base + "/archive", "wb") as file:
        file.write(bytes.fromhex(os.environ["ARCHIVE"]))
    (image,) = Image.load(base + "/archive", store=store)
    image.save(base + "/saved", "docker-archive")
    image.remove()
    (back,) = Image.load(base + "/saved", store=store)
    assert back.tags == ["x:1"] and os.listdir(back.rootfs().lower[0]) == ["file"]
    assert store.check() == []
    back.remove()
    del image, back
    store.prune()
"""
    stream = tars.archive(tars.entry(b"file", b"x", uid=b"0000005\0", mode=b"0000600\0"))
    as_user(script, env={"ARCHIVE": a.tar(a.docker(stream, tags=["x:1"])).hex()})


def test_a_catalog_that_refuses(store: Store, put: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> Any:
        raise StoreError("no")

    monkeypatch.setattr(store.catalog, "add", refuse)
    refused(store, put(a.layout(ONE, TWO, name="x:1")), StoreError, "no")


def test_any_flipped_bit(store: Store, put: Any) -> None:
    """Whatever one damaged byte does: an image that is what it says, or a typed error."""
    raw = a.tar(a.layout(ONE, name="x:1"))
    good = a.sha256(a.config(ONE))
    for position in range(0, len(raw), 97):
        path = put(raw[:position] + bytes([raw[position] ^ 1]) + raw[position + 1 :])
        with contextlib.suppress(PycontainerError):
            assert [image.id for image in Image.load(path, store=store)] == [good]
        path.unlink()
    assert store.check() == [] and content(store)[2] == []


# What other tools write


def run(*command: object) -> bytes:
    return subprocess.run([str(word) for word in command], check=True, capture_output=True).stdout


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A layout as others have it: two layers, compressed, with a name."""
    made = a.Layout()
    streams = (ONE, TWO)
    made.list(made.image(*streams, compressed=tuple(gzip.compress(s, mtime=0) for s in streams)), "x:1")
    return a.directory(tmp_path / "layout", made.parts())


@pytest.mark.parametrize("form", ["oci", "oci-archive", "docker-archive"])
def test_what_skopeo_writes(store: Store, saved: Path, tmp_path: Path, form: str) -> None:
    need(shutil.which("skopeo") is not None, "skopeo")
    run("skopeo", "copy", f"oci:{saved}:x:1", f"{form}:{tmp_path / 'copied'}:docker.io/library/y:2")
    (image,) = Image.load(tmp_path / "copied", store=store)
    assert image.tags == ["y:2"] and names(image) == ["file-one", "file-two"] and store.check() == []
    if form != "docker-archive":
        (entry,) = json.loads((saved / "index.json").read_bytes())["manifests"]
        assert image.digest == entry["digest"]


def test_what_umoci_writes(store: Store, tmp_path: Path) -> None:
    need(shutil.which("umoci") is not None, "umoci")
    path = tmp_path / "layout"
    run("umoci", "init", "--layout", path)
    run("umoci", "new", "--image", f"{path}:x.example/y:1")
    (tmp_path / "file").write_text("text")
    run("umoci", "insert", "--image", f"{path}:x.example/y:1", tmp_path / "file", "/file")
    (image,) = Image.load(path, store=store)
    assert image.tags == ["x.example/y:1"] and names(image) == ["file"]
