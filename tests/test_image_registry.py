"""`Image.pull` and `push`, and `run` with an image that is elsewhere, as programs use them."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import images_made
import pycontainer as pc
from conftest import need
from fault_registry import FaultRegistry
from ordinary_user import OrdinaryUser
from registries import PASSWORD, USER, RealRegistry, unique
from registry_faults import Status
from scripted_http import Request

BUSYBOX = Path("/bin/busybox")
NAME = "team/app"
SAY = ["/bin/busybox", "cat", "/etc/motd"]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory without any configuration."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("REGISTRY_AUTH_FILE", "DOCKER_CONFIG", "XDG_RUNTIME_DIR", "CONTAINERS_REGISTRIES_CONF"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[pc.Store]:
    with pc.Store(tmp_path / "store") as store:
        yield store


@pytest.fixture
def other(tmp_path: Path) -> Iterator[pc.Store]:
    with pc.Store(tmp_path / "other") as store:
        yield store


@pytest.fixture
def registry() -> Iterator[FaultRegistry]:
    with FaultRegistry() as running:
        yield running


def small(text: bytes = b"1", **options: Any) -> images_made.Image:
    return images_made.Image.make([images_made.layer({"etc/motd": text}, directories=["etc"])], **options)


def runnable(text: bytes = b"hello", **options: Any) -> images_made.Image:
    """An image with a static busybox."""
    need(BUSYBOX.exists(), "busybox-static")
    base = images_made.layer({"bin/busybox": BUSYBOX.read_bytes()}, directories=["bin"])
    over = images_made.layer({"etc/motd": text}, directories=["etc"])
    return images_made.Image.make([base, over], config={"Cmd": SAY}, **options)


def asked(requests: list[Request]) -> list[str]:
    return [f"{one.method} {one.path.removeprefix('/v2/')}" for one in requests]


def is_empty(store: pc.Store) -> bool:
    parts = (store.layout.blobs.names(), store.layers.chains(), store.catalog.images())
    return [list(part) for part in parts] == [[], [], []] and os.listdir(store.layout.staging) == []


# Pulling


def test_an_unchanged_image_is_one_question(registry: FaultRegistry, store: pc.Store) -> None:
    image = small()
    registry.put(NAME, "1", image)
    ref = f"{registry.host}/{NAME}:1"
    first = pc.pull(ref, store=store)
    assert (first.digest, first.id, first.tags) == (image.digest, image.config_digest, [ref])
    assert first.config.env == {"PATH": "/usr/bin:/bin"} and first == pc.Image.get(ref, store=store)
    for again in (ref, f"{registry.host}/{NAME}@{image.digest}", f"{ref}@{image.digest}"):
        registry.forget()
        assert pc.Image.pull(again, store=store) == first
        assert [one.split()[0] for one in asked(registry.log)] == ["HEAD"]
    changed = small(b"2")
    registry.put(NAME, "1", changed)
    second = pc.pull(ref, store=store)
    assert second.digest == changed.digest and (first.tags, second.tags) == ([], [ref])


def test_platforms(registry: FaultRegistry, store: pc.Store) -> None:
    images = {name: small(name.encode(), platform=name) for name in ("linux/amd64", "linux/arm64/v8")}
    index = registry.put_index(NAME, "1", list(images.values()))
    ref = f"{registry.host}/{NAME}:1"
    for platform, expected in {
        None: f"linux/{pc.Platform.host().architecture}",
        "linux/arm64": "linux/arm64/v8",
        "linux/aarch64/v8": "linux/arm64/v8",
        pc.Platform("linux", "arm64"): "linux/arm64/v8",
        "linux/amd64": "linux/amd64",
    }.items():
        image = pc.pull(ref, platform=platform, store=store)
        assert str(image.platform) == expected, platform
    registry.forget()
    pc.pull(ref, store=store)
    assert asked(registry.log) == [f"HEAD {NAME}/manifests/1"]
    assert pc.pull(f"{registry.host}/{NAME}@{index.digest}", store=store).platform == pc.Platform.host()
    with pytest.raises(pc.UnsupportedPlatform, match=r"linux/s390x.*linux/amd64"):
        pc.pull(ref, platform="linux/s390x", store=store)
    registry.forget()
    for bad in ("amd64", "linux/", "", 7, b"linux/amd64"):
        with pytest.raises(pc.InvalidOption, match="platform"):
            pc.pull(ref, platform=bad, store=store)  # type: ignore[arg-type]
    assert registry.log == []


@pytest.mark.parametrize(
    "ref",
    ["host", "", "A", "a b", "team/app:", "x@sha256:00", "http://x.example/y", "sha256:" + "0" * 64, None, 1],
)
def test_what_cannot_be_pulled_or_pushed(store: pc.Store, ref: Any) -> None:
    with pytest.raises(pc.InvalidReference):
        pc.pull(ref, store=store)
    if ref is not None:
        with pytest.raises(pc.InvalidReference):
            pc.Image.scratch(store=store).push(ref)


def test_failures_name_everything(registry: FaultRegistry, store: pc.Store) -> None:
    """Host, repository, tag and cause, once each; and nothing is kept."""
    bad = images_made.Image.make([images_made.layer({"../a": b"1"})])
    for tag, image in {"1": small(), "bad": bad, "odd": small(change={"layers": 7})}.items():
        registry.put(NAME, tag, image)
    denied = registry.fault(Status(403, error="DENIED"), path="/blobs/", times=None)
    for tag, error, cause in (
        ("none", pc.NotFound, "404 MANIFEST_UNKNOWN"),
        ("1", pc.AuthError, "403 DENIED"),
        ("bad", pc.UnsafeLayer, r"\.\./a"),
        ("odd", pc.InvalidImage, "layers: must be"),
    ):
        if tag == "bad":
            denied.stop()
        ref = f"{registry.host}/{NAME}:{tag}"
        with pytest.raises(error, match=f"^{re.escape(ref)}: .*{cause}") as caught:
            pc.pull(ref, store=store)
        assert str(caught.value).count(ref) == 1
    with pytest.raises(pc.TransportError, match=r"^127\.0\.0\.1:1/team/app:1: .*refused"):
        pc.pull(f"127.0.0.1:1/{NAME}:1", store=store)
    assert is_empty(store) and store.check() == []
    image = pc.Image.scratch(store=store)
    registry.fault(Status(403, error="DENIED"), method="POST|PATCH|PUT", times=None)
    with pytest.raises(pc.AuthError, match=f"^{registry.host}/{NAME}:2: .*403 DENIED"):
        image.push(f"{registry.host}/{NAME}:2")


def test_a_full_disk(registry: FaultRegistry, tmp_path: Path) -> None:
    """Of which something is always left to others: here are 40 MiB more than that."""
    need(os.geteuid() == 0, "root, to mount a small file system")
    registry.put(NAME, "1", images_made.Image.make([images_made.layer({"zeros": bytes(60 << 20)})]))
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=296M", "tmpfs", disk], check=True)
    try:
        with pc.Store(disk / "store") as store:
            with pytest.raises(pc.NoSpace, match=re.escape(f"{registry.host}/{NAME}:1")):
                pc.pull(f"{registry.host}/{NAME}:1", store=store)
            assert is_empty(store) and store.check() == []
    finally:
        subprocess.run(["umount", disk], check=True)


# Who is there


def config_of(path: Path, host: str, password: str = PASSWORD) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    words = base64.b64encode(f"{USER}:{password}".encode()).decode()
    path.write_text(json.dumps({"auths": {host: {"auth": words}}}))
    return path


@pytest.fixture(scope="module")
def guarded(basic_registry: RealRegistry, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of an image that not everyone may pull."""
    ref = f"{basic_registry.host}/{unique()}:1"
    with pc.Store(tmp_path_factory.mktemp("pushing")) as store:
        pc.Image.scratch(store=store).push(ref, auth=(USER, PASSWORD), progress=False)
    return ref


WAYS: dict[str, Callable[[Path, str, pytest.MonkeyPatch], object]] = {
    "docker": lambda home, host, patch: config_of(home / ".docker/config.json", host),
    "DOCKER_CONFIG": lambda home, host, patch: patch.setenv(
        "DOCKER_CONFIG", str(config_of(home / "elsewhere/config.json", host).parent)
    ),
    "podman": lambda home, host, patch: config_of(home / ".config/containers/auth.json", host),
    "REGISTRY_AUTH_FILE": lambda home, host, patch: patch.setenv(
        "REGISTRY_AUTH_FILE", str(config_of(home / "auth.json", host))
    ),
    "of the repository": lambda home, host, patch: config_of(home / ".docker/config.json", f"{host}/tests"),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_others_are_logged_in_with(
    guarded: str, home: Path, store: pc.Store, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    with pytest.raises(pc.AuthError, match=guarded.partition(":1")[0].partition("/")[0]):
        pc.pull(guarded, store=store)
    WAYS[way](home, guarded.partition("/")[0], monkeypatch)
    image = pc.pull(guarded, store=store)
    assert image.push() == image.push(f"{guarded.rpartition(':')[0]}:2")
    with pytest.raises(pc.AuthError):
        pc.pull(guarded, auth=False, store=store)


def test_who_is_said_comes_first(
    guarded: str, home: Path, store: pc.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    config_of(home / ".docker/config.json", guarded.partition("/")[0], "wrong")
    with pytest.raises(pc.AuthError) as caught:
        pc.pull(guarded, store=store)
    assert caught.value.status == 401 and "wrong" not in str(caught.value)
    image = pc.pull(guarded, auth=(USER, PASSWORD), store=store)
    with pytest.raises(pc.AuthError):
        image.push()
    assert image.push(auth=(USER, PASSWORD)).digest == image.digest
    # Where a file is named it must be there and right.
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(home / "nowhere.json"))
    with pytest.raises(pc.AuthError, match=r"nowhere\.json"):
        pc.pull(guarded, store=store)
    for bad in ("me", ("me",), 7, True):
        with pytest.raises(pc.InvalidOption, match="auth"):
            pc.pull(guarded, auth=bad, store=store)  # type: ignore[arg-type]


# registries.conf


@pytest.fixture
def configure(home: Path) -> Callable[[str], None]:
    """Writes the user's registries.conf."""

    def write(text: str) -> None:
        path = home / ".config/containers/registries.conf"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    return write


def test_another_location(registry: FaultRegistry, store: pc.Store, configure: Callable[[str], None]) -> None:
    """The name stays what was written; what is asked is where that is."""
    registry.put("moved/there/app", "1", small())
    configure(f'[[registry]]\nprefix = "apps.example.com/team"\nlocation = "{registry.host}/moved/there"\n')
    image = pc.pull("apps.example.com/team/app:1", store=store)
    assert image.tags == ["apps.example.com/team/app:1"]
    assert {one.path.split("/")[2:5] == ["moved", "there", "app"] for one in registry.log} == {True}
    registry.forget()
    assert pc.pull("apps.example.com/team/app:1", store=store) == image
    assert asked(registry.log) == ["HEAD moved/there/app/manifests/1"]
    assert image.push("apps.example.com/team/app:2").digest == image.digest
    assert registry.repositories["moved/there/app"].tags["2"] == image.digest


def test_mirrors(registry: FaultRegistry, store: pc.Store, configure: Callable[[str], None]) -> None:
    """Read from, in order, and never written to."""
    with FaultRegistry() as first, FaultRegistry() as tags:
        registry.put(NAME, "1", small())
        tags.put("copy/app", "1", small())
        configure(
            f'[[registry]]\nlocation = "{registry.host}/team"\n'
            f'[[registry.mirror]]\nlocation = "{first.host}/by-digest"\npull-from-mirror = "digest-only"\n'
            f'[[registry.mirror]]\nlocation = "{tags.host}/copy"\n'
        )
        ref = f"{registry.host}/{NAME}:1"
        image = pc.pull(ref, store=store)
        assert image.tags == [ref] and first.log == registry.log == [] and len(tags.log) > 0
        tags.fault(Status(404, error="NAME_UNKNOWN"), times=None)
        assert pc.pull(ref, store=store) == image and asked(registry.log) == [f"HEAD {NAME}/manifests/1"]
        assert pc.pull(f"{registry.host}/{NAME}@{image.digest}", store=store) == image
        assert len(first.log) > 0
        first.forget(), tags.forget()
        image.push()
        image.push(f"{registry.host}/{NAME}:2")
        assert first.log == tags.log == [] and registry.repositories[NAME].tags["2"] == image.digest


def test_what_is_blocked(registry: FaultRegistry, store: pc.Store, configure: Callable[[str], None]) -> None:
    configure(f'[[registry]]\nprefix = "{registry.host}/bad"\nblocked = true\n')
    registry.put("bad/app", "1", small())
    registry.put("good/app", "1", small())
    image = pc.pull(f"{registry.host}/good/app:1", store=store)
    registry.forget()
    for call in (
        lambda: pc.pull(f"{registry.host}/bad/app:1", store=store),
        lambda: image.push(f"{registry.host}/bad/app:2"),
    ):
        with pytest.raises(pc.RegistryError, match=f"{registry.host}/bad/app.*blocks"):
            call()
    assert registry.log == []


def test_insecure(tls_registry: RealRegistry, store: pc.Store, configure: Callable[[str], None]) -> None:
    """A certificate that nobody knows is no hindrance there, and only there."""
    ref = f"{tls_registry.host}/{unique()}:1"
    with pytest.raises(pc.TransportError, match="certificate"):
        pc.Image.scratch(store=store).push(ref)
    configure(f'[[registry]]\nlocation = "{tls_registry.host}"\ninsecure = true\n')
    image = pc.Image.scratch(store=store)
    assert image.push(ref) == image.push(ref)
    assert pc.pull(ref, store=store).id == image.id


def test_a_broken_file_is_named(store: pc.Store, configure: Callable[[str], None]) -> None:
    configure("[[registry]\n")
    with pytest.raises(pc.InvalidOption, match=r"registries\.conf"):
        pc.pull("127.0.0.1:1/x:1", store=store)


# Pushing


def test_pushing_under_the_own_name(registry: FaultRegistry, store: pc.Store) -> None:
    image = pc.Image.scratch(store=store)
    with pytest.raises(pc.ImageError, match="0 names"):
        image.push()
    image.tag(f"{registry.host}/{NAME}")
    there = image.push()
    assert registry.repositories[NAME].tags == {"latest": there.digest}
    image.tag(f"{registry.host}/{NAME}:2")
    with pytest.raises(pc.ImageError, match="2 names"):
        image.push()
    assert image.push(f"{registry.host}/{NAME}:3") == there
    assert registry.repositories[NAME].tags == {"latest": there.digest, "3": there.digest}
    # Pushing names nothing here.
    assert len(image.tags) == 2
    with pytest.raises(pc.InvalidReference, match="digest"):
        image.push(f"{registry.host}/{NAME}@{there.digest}")
    with pytest.raises(pc.InvalidOption, match="compression"):
        image.push(f"{registry.host}/{NAME}", compression="lzma")
    image.remove(force=True)
    with pytest.raises(pc.ImageNotFound):
        image.push(f"{registry.host}/{NAME}:4")


def test_the_host_image_goes_nowhere(registry: FaultRegistry, tmp_path: Path) -> None:
    host = pc.Image.host()
    for call in (
        lambda: host.push(f"{registry.host}/{NAME}"),
        lambda: host.save(tmp_path / "saved"),
        lambda: host.export(tmp_path / "exported"),
        lambda: host.mount(),
        lambda: host.tag("x"),
        lambda: host.remove(),
    ):
        with pytest.raises(pc.ImageError, match="host image"):
            call()
    assert registry.log == [] and not (tmp_path / "saved").exists()


# There and back


@pytest.mark.parametrize("docker", [False, True])
def test_registry_to_store_to_registry(
    plain_registry: RealRegistry, registry: FaultRegistry, store: pc.Store, other: pc.Store, docker: bool
) -> None:
    """Byte for byte, also of Docker's schema 2, through a true registry and another store."""
    forms = ["gzip", None] if docker else ["zstd", None]
    image = runnable(docker=docker, compression=forms, change={"unknown": {"to": ["us"]}})
    registry.put(NAME, "1", image)
    there = f"{plain_registry.host}/{unique()}:1"
    assert pc.pull(f"{registry.host}/{NAME}:1", store=store).push(there).digest == image.digest
    back = pc.pull(there, store=other)
    assert (back.digest, back.id) == (image.digest, image.config_digest)
    assert back.push(f"{registry.host}/back/app:1").media_type == image.media_type
    kept = registry.repositories["back/app"]
    assert kept.manifests[image.digest].raw == image.raw and kept.blobs == image.blobs
    assert back.run(capture_output=True, text=True, timeout=60).stdout == "hello"


def test_archives_of_what_was_pulled(
    registry: FaultRegistry, store: pc.Store, other: pc.Store, tmp_path: Path
) -> None:
    """Registry, store, archive, store, archive, store, registry: the same image all the way."""
    image = small(change={"unknown": 1}, compression="zstd")
    registry.put(NAME, "1", image)
    ref = f"{registry.host}/{NAME}:1"
    pc.pull(ref, store=store).save(tmp_path / "first", "oci-archive")
    (loaded,) = pc.Image.load(tmp_path / "first", store=other)
    assert (loaded.digest, loaded.tags) == (image.digest, [ref])
    loaded.save(tmp_path / "second", "oci-archive")
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    loaded.push(f"{registry.host}/back/app:1")
    assert registry.repositories["back/app"].tags["1"] == image.digest
    assert registry.repositories["back/app"].blobs == image.blobs


def test_schema_2_runs_and_is_saved(registry: FaultRegistry, store: pc.Store, tmp_path: Path) -> None:
    registry.put(NAME, "1", runnable(docker=True))
    image = pc.pull(f"{registry.host}/{NAME}:1", store=store)
    assert image.run(capture_output=True, text=True, timeout=60).stdout == "hello"
    with image.mount() as path:
        assert (path / "etc/motd").read_text() == "hello"
    assert image.configure(cmd=["/bin/true"]).config.cmd == ("/bin/true",)


# Containers of images that are elsewhere


@pytest.fixture
def ref(registry: FaultRegistry) -> str:
    registry.put(NAME, "1", runnable())
    return f"{registry.host}/{NAME}:1"


def test_missing_images_are_pulled(registry: FaultRegistry, ref: str, store: pc.Store) -> None:
    def said(**options: Any) -> str:
        done = pc.run(ref, capture_output=True, text=True, check=True, timeout=60, store=store, **options)
        return str(done.stdout)

    with pytest.raises(pc.ImageNotFound, match=re.escape(ref)):
        said(pull="never")
    assert registry.log == []
    assert said() == "hello" and registry.log != []
    registry.put(NAME, "1", runnable(b"changed"))
    registry.forget()
    assert said() == said(pull="missing") == said(pull="never") == "hello"
    assert registry.log == []
    assert said(pull="always") == "changed"
    registry.forget()
    assert said(pull="always") == "changed"
    assert asked(registry.log) == [f"HEAD {NAME}/manifests/1"]
    registry.fault(Status(404), times=None)
    with pytest.raises(pc.NotFound):
        said(pull="always")
    assert said() == "changed"


@pytest.mark.parametrize("make", [pc.create, pc.start])
def test_create_and_start_pull_too(
    registry: FaultRegistry, ref: str, store: pc.Store, make: Callable[..., pc.Container]
) -> None:
    with pytest.raises(pc.ImageNotFound):
        make(ref, store=store, pull="never")
    for pull in ("missing", "always"):
        with make(ref, ["/bin/busybox", "sleep", "60"], store=store, pull=pull) as container:
            assert container.status == ("created" if make is pc.create else "running")
    # At first nothing of that name was there.
    assert asked(registry.log)[0] == f"GET {NAME}/manifests/1"
    assert [one.method for one in registry.log].count("HEAD") == 1
    for bad in ("sometimes", True, None):
        with pytest.raises(pc.InvalidOption, match=r"pull=.*missing, always, never"):
            make(ref, store=store, pull=bad)


def test_what_cannot_be_pulled_starts_nothing(registry: FaultRegistry, store: pc.Store) -> None:
    with pytest.raises(pc.NotFound, match=f"{registry.host}/v2/{NAME}/manifests/1"):
        pc.run(f"{registry.host}/{NAME}:1", ["true"], store=store)
    assert is_empty(store) and os.listdir(Path(store.path) / "containers") == []


@pytest.mark.parametrize("ref", ["sha256:" + "0" * 64, "sha256:" + "0" * 12, "0" * 64])
def test_an_id_that_is_not_there_is_in_no_registry(store: pc.Store, ref: str) -> None:
    with pytest.raises(pc.ImageNotFound, match=ref):
        pc.run(ref, ["true"], store=store)


@pytest.mark.rootless
def test_an_ordinary_user(registry: FaultRegistry, as_user: OrdinaryUser) -> None:
    """Pulls, runs, pushes, saves and loads, with nobody's help."""
    registry.put(NAME, "1", runnable())
    script = """
        import os, sys
        import pycontainer as pc
        ref, back = os.environ["REF"], os.environ["BACK"]
        assert pc.run(ref, capture_output=True, text=True, timeout=60).stdout == "hello"
        image = pc.Image.get(ref)
        assert image.push(back).digest == image.digest
        image.save("saved.tar", "docker-archive")
        with image.mount() as path:
            assert (path / "etc/motd").read_text() == "hello"
        image.remove()
        assert pc.Store.default().check() == [] and image not in pc.Image.list()
        (loaded,) = pc.Image.load("saved.tar")
        assert loaded.id == image.id and loaded.tags == [ref]
        assert loaded.run(["/bin/busybox", "id", "-u"], capture_output=True).stdout == b"0\\n"
        loaded.remove()
        os.unlink("saved.tar")
        pc.Store.default().prune()
        assert pc.Store.default().check() == []
    """
    as_user(script, env={"REF": f"{registry.host}/{NAME}:1", "BACK": f"{registry.host}/back/app:1"})
    assert registry.repositories["back/app"].tags["1"] == registry.repositories[NAME].tags["1"]
