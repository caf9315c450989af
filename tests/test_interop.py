"""Other tools and we read each other's images, and see the same files in them.

What single formats look like in others' hands is in test_archive_save.py, test_archive_load.py,
test_push.py and test_copy.py; here whole ways are gone: through registries, archives and engines.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import images_made
import pycontainer as pc
from conftest import need
from docker_daemon import Docker
from engines import Podman
from fault_registry import FaultRegistry
from ordinary_user import OrdinaryUser
from registries import RealRegistry, unique

BUSYBOX = Path("/bin/busybox")
SHELL = ["/bin/busybox", "sh", "-c"]
# Everything of a tree that an image can say; directories' sizes and link counts are the file system's.
LOOK = """
cd /data
find . -type d -exec stat -c "%n %a %u:%g %Y" {} + | sort
find . ! -type d -exec stat -c "%n %F %a %u:%g %s %h %Y" {} + | sort
find . -type f -exec md5sum {} + | sort
find . -type l -exec readlink {} +
"""
LOWER = {"data/kept": b"1", "data/gone": b"1", "data/changed": b"lower", "data/opaque/old": b"1"}
UPPER = {"data/changed": b"upper", "data/opaque/new": b"2", "data/\u00fc \u00df": b"3", "data/set": b"4"}


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[pc.Store]:
    with pc.Store(tmp_path / "store") as store:
        yield store


@pytest.fixture
def other(tmp_path: Path) -> Iterator[pc.Store]:
    with pc.Store(tmp_path / "other") as store:
        yield store


def layers() -> list[bytes]:
    """Two layers, of which the upper one changes, hides and removes what the lower one has."""
    need(BUSYBOX.exists(), "busybox-static")
    programs = {"bin/busybox": BUSYBOX.read_bytes()}
    applets = ("sh", "find", "stat", "sort", "md5sum", "readlink", "touch", "rm")
    links = {f"bin/{name}": "busybox" for name in applets}
    directories = ["bin", "data", "data/opaque", "proc", "sys", "dev", "etc", "tmp"]
    return [
        images_made.layer(
            programs | LOWER, directories=directories, links=links, hard_links={"data/twin": "data/kept"}
        ),
        images_made.layer(
            UPPER,
            directories=["data", "data/opaque"],
            links={"data/link": "../changed"},
            whiteouts=["data/gone"],
            opaque=["data/opaque"],
            modes={"data/set": 0o4751, "data/opaque": 0o1777},
        ),
    ]


@pytest.fixture
def image(store: pc.Store) -> pc.Image:
    """In the store, and called app.example.com/team/app:1."""
    config = {"Cmd": [*SHELL, LOOK]}
    with FaultRegistry() as registry:
        made = images_made.Image.make(layers(), compression=["gzip", None], config=config)
        registry.put("team/app", "1", made)
        found = pc.pull(f"{registry.host}/team/app:1", store=store)
        found.tag(NAME)
        found.untag(found.tags[0] if found.tags[0] != NAME else found.tags[1])
    return found


NAME = "app.example.com/team/app:1"


def look(image: pc.Image, script: str = LOOK) -> str:
    done = image.run([*SHELL, script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return str(done.stdout)


def tool(*words: object) -> str:
    need(shutil.which(str(words[0])) is not None, str(words[0]))
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def skopeo(*words: object) -> str:
    return tool("skopeo", *words)


def test_what_is_seen(image: pc.Image) -> None:
    """The yardstick of all the others."""
    seen = look(image)
    assert "./twin regular file 755 0:0 1 2 1577836800\n" in seen and "./set regular file 4751" in seen
    assert "gone" not in seen and "old" not in seen and "../changed\n" in seen


# Registries


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_podman_pulls_what_we_push(
    image: pc.Image, other: pc.Store, plain_registry: RealRegistry, podman: Podman, compression: str
) -> None:
    ref, back = (f"{plain_registry.host}/{unique()}:1" for _ in range(2))
    image.push(ref, compression=compression)
    podman("pull", "--tls-verify=false", ref)
    assert podman("image", "inspect", "--format", "{{.Id}}", ref).strip() == image.id[7:]
    assert podman("run", "--rm", "--network=none", ref) == look(image)
    podman("push", "--tls-verify=false", ref, back)
    podman("rmi", "--force", ref)
    pulled = pc.pull(back, store=other)
    assert pulled.id == image.id and look(pulled) == look(image)


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_docker_pulls_what_we_push(
    image: pc.Image, other: pc.Store, plain_registry: RealRegistry, docker: Docker, compression: str
) -> None:
    ref, back = (f"{plain_registry.host}/{unique()}:1" for _ in range(2))
    there = image.push(ref, compression=compression)
    assert str(there.digest) in docker("pull", ref)
    assert docker("image", "inspect", "--format", "{{.Id}}", ref).strip() == image.id
    assert docker("run", "--rm", "--network=none", ref) == look(image)
    docker("tag", ref, back)
    docker("push", back)
    docker("rmi", "--force", ref, back)
    pulled = pc.pull(back, store=other)
    assert pulled.id == image.id and look(pulled) == look(image)


def test_skopeo_copies_what_we_push(
    image: pc.Image, store: pc.Store, other: pc.Store, plain_registry: RealRegistry, tmp_path: Path
) -> None:
    """And back, in another form; with all platforms where there are several."""
    ref, back = (f"{plain_registry.host}/{unique()}:1" for _ in range(2))
    there = image.push(ref)
    seen = json.loads(skopeo("inspect", "--tls-verify=false", f"docker://{ref}"))
    assert seen["Digest"] == there.digest and seen["RepoTags"] == ["1"]
    insecure = ("--src-tls-verify=false", "--dest-tls-verify=false")
    skopeo("copy", *insecure, "--format=v2s2", f"docker://{ref}", f"docker://{back}")
    pulled = pc.pull(back, store=other)
    assert pulled.config.diff_ids == image.config.diff_ids and look(pulled) == look(image)
    with FaultRegistry() as registry:
        images = [
            images_made.Image.make([images_made.layer({"a": name.encode()})], platform=name)
            for name in ("linux/amd64", "linux/arm64/v8")
        ]
        index = registry.put_index("team/app", "1", images)
        with pc.Registry(registry.host) as first, pc.Registry(plain_registry.host) as last:
            middle = unique()
            first.repository("team/app").copy("1", last.repository(middle))
        skopeo(
            "copy", "--all", *insecure, f"docker://{plain_registry.host}/{middle}:1",
            f"docker://{registry.host}/back/app:1",
        )  # fmt: skip
        assert registry.repositories["back/app"].tags["1"] == index.digest
        for made in images:
            pulled = pc.pull(f"{registry.host}/back/app:1", platform=made.platform, store=other)
            assert pulled.digest == made.digest


# Archives


@pytest.mark.parametrize("format", ["docker-archive", "oci-archive"])
def test_podman_runs_what_we_save(
    image: pc.Image, other: pc.Store, podman: Podman, tmp_path: Path, format: Any
) -> None:
    """And we run what it makes of that: its layer, with its whiteouts."""
    image.save(tmp_path / "saved", format)
    assert NAME in podman("load", "-i", tmp_path / "saved")
    assert podman("run", "--rm", "--network=none", NAME) == look(image)
    script = "rm -r /data/changed /data/opaque; touch -d @1 /data/own; " + LOOK
    seen = podman("run", "--network=none", "--name=changed", NAME, *SHELL, script)
    podman("commit", "--quiet", "changed", "changed:1")
    podman("save", "--format", format, "-o", tmp_path / "back", "changed:1")
    podman("rm", "changed")
    podman("rmi", "--force", NAME, "changed:1")
    (loaded,) = pc.Image.load(tmp_path / "back", store=other)
    assert look(loaded) == seen and len(loaded.layers) == 3


def test_docker_runs_what_we_save(image: pc.Image, other: pc.Store, docker: Docker, tmp_path: Path) -> None:
    image.save(tmp_path / "saved", "docker-archive")
    docker("load", "-i", tmp_path / "saved")
    assert docker("run", "--rm", "--network=none", NAME) == look(image)
    script = "rm -r /data/changed /data/opaque; touch -d @1 /data/own; " + LOOK
    seen = docker("run", "--network=none", "--name=changed", NAME, *SHELL, script)
    docker("commit", "changed", "changed:1")
    docker("save", "-o", tmp_path / "back", "changed:1", NAME)
    docker("rm", "changed")
    docker("rmi", "--force", NAME, "changed:1")
    loaded = {tag: each for each in pc.Image.load(tmp_path / "back", store=other) for tag in each.tags}
    assert set(loaded) == {"changed:1", NAME} and loaded[NAME].id == image.id
    assert look(loaded["changed:1"]) == seen and look(loaded[NAME]) == look(image)


# The store itself


def test_the_store_is_a_layout(
    image: pc.Image, store: pc.Store, other: pc.Store, plain_registry: RealRegistry, tmp_path: Path
) -> None:
    """Read in place: looked at, copied to a registry and to an archive, unpacked."""
    image.configure(cmd=["/bin/true"]).tag("second:2")
    place = f"oci:{store.path}:{NAME}"
    assert json.loads(skopeo("inspect", place))["Digest"] == image.digest
    assert json.loads(skopeo("inspect", "--config", place))["config"]["Cmd"] == [*SHELL, LOOK]
    ref = f"{plain_registry.host}/{unique()}:1"
    skopeo("copy", "--dest-tls-verify=false", place, f"docker://{ref}")
    pulled = pc.pull(ref, store=other)
    assert (pulled.digest, look(pulled)) == (image.digest, look(image))
    skopeo("copy", place, f"oci-archive:{tmp_path / 'archive'}:{NAME}")
    (loaded,) = pc.Image.load(tmp_path / "archive", store=other)
    # It has compressed the layer that was not.
    assert loaded.id == image.id and look(loaded) == look(image)
    assert sorted(tool("umoci", "list", "--layout", store.path).split()) == [
        NAME,
        "docker.io/library/second:2",
    ]
    assert store.check() == []


def written(layout: Path) -> dict[Path, tuple[int, ...]]:
    """When each blob was written, and what: not when it was read."""
    stats = {path: path.stat() for path in layout.rglob("*") if "blobs" in path.parts}
    return {path: (one.st_ino, one.st_mode, one.st_size, one.st_ctime_ns) for path, one in stats.items()}


@pytest.mark.parametrize("source", ["store", "layout"])
def test_umoci_unpacks(image: pc.Image, store: pc.Store, tmp_path: Path, source: str) -> None:
    need(os.geteuid() == 0, "root; for others umoci drops owners")
    layout = tmp_path / "layout" if source == "layout" else Path(store.path)
    if source == "layout":
        image.save(layout, "oci")
    before = written(layout)
    tool("umoci", "unpack", "--image", f"{layout}:{NAME}", tmp_path / "bundle")
    script = LOOK.replace("/data", str(tmp_path / "bundle/rootfs/data"))
    assert tool("busybox", "sh", "-c", f"PATH={applets(tmp_path)}; {script}") == look(image)
    assert before == written(layout)


def applets(base: Path) -> Path:
    """busybox's own find, stat and so on: others print differently."""
    tool("busybox", "mkdir", base / "applets")
    tool("busybox", "--install", "-s", base / "applets")
    return base / "applets"


def test_mounted_and_exported_files_are_the_same(image: pc.Image, tmp_path: Path) -> None:
    """What is run, what is mounted, and what tar(1) makes of the export."""
    need(os.geteuid() == 0, "root, to give files to others")
    path = applets(tmp_path)
    with image.mount() as root:
        script = LOOK.replace("/data", f"{root}/data")
        assert tool("busybox", "sh", "-c", f"PATH={path}; {script}") == look(image)
    image.export(tmp_path / "exported.tar")
    (tmp_path / "root").mkdir()
    tool("tar", "-xpf", tmp_path / "exported.tar", "-C", tmp_path / "root")
    script = LOOK.replace("/data", f"{tmp_path / 'root'}/data")
    assert tool("busybox", "sh", "-c", f"PATH={path}; {script}") == look(image)


@pytest.mark.rootless
def test_an_ordinary_user(image: pc.Image, as_user: OrdinaryUser, plain_registry: RealRegistry) -> None:
    """His store, archives and pushes are read by the others, too."""
    for program in ("skopeo", "umoci"):
        need(shutil.which(program) is not None, program)
    ref = f"{plain_registry.host}/{unique()}:1"
    image.push(ref)
    script = """
        import json, os, shutil, subprocess
        from pathlib import Path
        import pycontainer as pc
        ref, name = os.environ["REF"], "app.example.com/team/app:1"
        def tool(*words):
            done = subprocess.run(words, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            return done.stdout
        def digest(place):
            return json.loads(tool("skopeo", "inspect", place))["Digest"]
        image = pc.pull(ref)
        print(image.run(capture_output=True, text=True, timeout=60).stdout, end="")
        image.untag(ref)
        image.tag(name)
        store = pc.Store.default().path
        assert digest(f"oci:{store}:{name}") == image.digest
        for format in ("oci", "oci-archive", "docker-archive"):
            image.save("saved", format)
            assert format == "docker-archive" or digest(f"{format}:saved:{name}") == image.digest
            tool("skopeo", "copy", f"{format}:saved:{name}", f"oci:copied:{name}")
            (back,) = pc.Image.load("copied")
            assert back.config == image.config and back.tags == [name]
            # Compressed or not it is another manifest, which has taken the name.
            image.tag(name)
            shutil.rmtree("copied")
            if format == "oci":
                tool("umoci", "unpack", "--rootless", "--image", f"saved:{name}", "bundle")
                assert Path("bundle/rootfs/data/changed").read_text() == "upper"
                assert not os.path.exists("bundle/rootfs/data/gone")
                shutil.rmtree("bundle")
                shutil.rmtree("saved")
        os.unlink("saved")
        back = pc.Image.from_directory(os.environ["TREE"], tag="own:1")
        back.push(ref + "-own")
        seen = tool("skopeo", "inspect", "--tls-verify=false", f"docker://{ref}-own")
        assert json.loads(seen)["Digest"] == back.push(ref + "-own").digest
        for each in pc.Image.list():
            each.remove(force=True)
        pc.Store.default().prune()
        assert pc.Store.default().check() == []
    """
    done = as_user(script, env={"REF": ref, "TREE": "/etc/skel"}, timeout=120)
    assert done.stdout == look(image)
