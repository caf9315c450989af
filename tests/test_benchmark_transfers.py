"""What `python -m benchmarks pull push` measures, on an image of a few files."""

# ruff: noqa: E402 - the checkout, which holds `benchmarks`, is not on the path before the first statement.
from __future__ import annotations

import gzip
import io
import os
import shutil
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from conftest import need

CHECKOUT = Path(__file__).parents[1]
sys.path.insert(0, str(CHECKOUT))

from benchmarks import debian, roots
from benchmarks.harness import Result
from benchmarks.measures import pull
from benchmarks.measures.stages import STAGES, Blob
from benchmarks.measures.watch import watch
from benchmarks.registry import Registry
from benchmarks.workers import Entry, Worker, field_of


def write_root(path: Path) -> None:
    """Directories first and contents later, as mmdebstrap writes them."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name in (".", "./etc", "./usr", "./usr/bin"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)
        for number in range(40):
            entry = tarfile.TarInfo(f"./usr/bin/{number}" if number % 2 else f"./etc/{number}")
            entry.size = 20_000
            archive.addfile(entry, io.BytesIO(os.urandom(entry.size)))
        link = tarfile.TarInfo("./usr/bin/link")
        link.type, link.linkname = tarfile.LNKTYPE, "./usr/bin/1"
        archive.addfile(link)


@pytest.fixture
def image(tmp_path: Path) -> debian.Layers:
    write_root(tmp_path / "root.tar")
    return debian.split(tmp_path / "root.tar", tmp_path / "parts", 3)


def test_a_root_is_split_into_layers_that_stand_alone(image: debian.Layers, tmp_path: Path) -> None:
    everything: dict[str, tarfile.TarInfo] = {}
    for layer in image.layers:
        assert gzip.decompress(layer.gz.read_bytes()) == layer.tar.read_bytes()
        with tarfile.open(layer.tar) as archive:
            names = archive.getnames()
            assert len(names) == len(set(names))
            for member in archive:
                parent = str(Path(member.name).parent)
                assert member.name == "." or (parent if parent == "." else f"./{parent}") in names
                assert not member.islnk() or member.linkname in names
            everything |= {member.name: member for member in archive}
        sizes = sum(member.size for member in everything.values())
    with tarfile.open(tmp_path / "root.tar") as archive:
        assert {member.name: member.size for member in archive} == {
            name: member.size for name, member in everything.items()
        }
    assert sizes == 40 * 20_000
    assert all(layer.tar.stat().st_size > 200_000 for layer in image.layers), "the parts differ much"


def test_layers_are_made_once(image: debian.Layers, tmp_path: Path) -> None:
    (tmp_path / "root.tar").unlink()
    assert debian.split(tmp_path / "root.tar", tmp_path / "parts", 3) == image


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    need(shutil.which("docker-registry") is not None, "docker-registry")
    (tmp_path / "registry").mkdir()
    registry = Registry(tmp_path / "registry")
    try:
        yield registry
    finally:
        registry.close()


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    need(os.geteuid() == 0, "root")
    need(shutil.which("busybox") is not None, "busybox")
    entry = Entry("pycontainer", roots.make_busybox(tmp_path), "pycontainer")
    with field_of([entry], tmp_path) as field:
        assert not field.unavailable
        yield field.ready["pycontainer"]


@pytest.mark.cgroup
def test_a_pull_its_stages_and_what_it_does_to_its_process(
    image: debian.Layers, registry: Registry, worker: Worker
) -> None:
    reference = registry.put_image("team/app", image)
    for again in (False, True, False):
        (figure,) = worker.ask("pull", reference=reference, again=again)
        assert 0 < figure < 60e9
    worker.ask("forget", reference=reference)
    watched = worker.ask("watched_pull", reference=reference)
    assert watched["peak_bytes"] >= watched["idle_bytes"] > 1 << 20
    assert watched["late_ms"]["beats"] > 0
    blobs = [
        list(
            attrs.astuple(
                Blob(str(layer.tar), str(layer.gz), registry.host, registry.blob_path("team/app", layer))
            )
        )
        for layer in image.layers
    ]
    for stage in STAGES:
        (figure,) = worker.ask("stage", name=stage, blobs=blobs)
        assert 0 < figure < 60e9


@pytest.mark.cgroup
def test_a_push_sends_something_new_each_time(tmp_path: Path, registry: Registry, worker: Worker) -> None:
    write_root(tmp_path / "root.tar")
    worker.ask("fill", tar=str(tmp_path / "root.tar"))
    layers = set()
    for making in (False, True):
        worker.ask("push", reference=f"{registry.host}/team/fresh:latest", making=making)
        found = tmp_path.glob("registry/storage/docker/registry/v2/repositories/team/fresh/_layers/sha256/*")
        layers |= {path.name for path in found}
    # Two layers, two configs.
    assert len(layers) == 4
    registry.empty()
    assert not (tmp_path / "registry/storage").exists()


def test_memory_and_late_threads_are_seen() -> None:
    def call() -> None:
        block = bytearray(48 << 20)
        del block

    found = watch(call)
    assert 40 << 20 < found["peak_bytes"] - found["idle_bytes"] < 100 << 20
    assert found["elsewhere_ms"]["max"] >= found["elsewhere_ms"]["p99"]


def test_the_floor_is_the_slowest_stage_and_no_less_than_all_of_them_shared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    results = {f"{stage}, x": Result((float(number + 1),)) for number, stage in enumerate(STAGES)}
    assert pull._floor("x", results) == Result((4.0,))
    assert pull._share("x", results) == Result((5.0,))
    assert pull._floor("y", results).unavailable
    assert pull._share("y", results).unavailable
