"""`Registry` and `Repository` as programs use them, against docker-registry and one that fails as told."""

from __future__ import annotations

import gc
import io
import json
import os
import pathlib
import random
import shutil
import traceback
from collections.abc import Iterator
from typing import Any

import attrs
import pytest

import images_made
import pycontainer as pc
from conftest import unchanged
from fault_registry import FaultRegistry
from registries import RealRegistry, unique
from registry_faults import Answer, Flip, Status, Truncate
from registry_tokens import Access

SECRET = "a secret with: signs"
OTHERS = ("mounts", "cgroups", "processes", "keys", "files")


@pytest.fixture(autouse=True)
def nothing_configured(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No credentials and mirrors but a test's own."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", os.devnull)
    for name in ("REGISTRY_AUTH_FILE", "DOCKER_CONFIG", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def store(tmp_path: pathlib.Path) -> Iterator[pc.Store]:
    with pc.Store(tmp_path / "store") as store:
        yield store


@pytest.fixture
def fault() -> Iterator[FaultRegistry]:
    with FaultRegistry() as running:
        yield running


@pytest.fixture
def there(fault: FaultRegistry) -> Iterator[pc.Repository]:
    """A repository of the fault registry."""
    with pc.Registry(fault.host) as registry:
        yield registry.repository("team/app")


def made(store: pc.Store, text: bytes = b"content") -> pc.Image:
    tar = images_made.layer({"etc/motd": text}, directories=["etc"])
    return pc.Image.from_tar(io.BytesIO(tar), config={"cmd": ["/bin/true"]}, store=store)


# Kinds of registries


@attrs.frozen
class Way:
    """A registry and what it takes to get in."""

    host: str
    options: dict[str, Any]


@pytest.fixture(params=["plain", "basic", "tls", "client-certificate", "bearer"])
def way(request: pytest.FixtureRequest) -> Iterator[Way]:
    if request.param == "bearer":
        access = Access(users={"me": SECRET})
        with FaultRegistry(auth="bearer", access=access) as service:
            yield Way(service.host, {"auth": ("me", SECRET)})
        return
    name = {"client-certificate": "client_certificate"}.get(request.param, request.param)
    real: RealRegistry = request.getfixturevalue(f"{name}_registry")
    options: dict[str, Any] = {}
    if real.user is not None:
        options["auth"] = (real.user, real.password)
    if real.certificates is not None:
        # As pathlib has it, as everywhere.
        options["verify"] = real.certificates.authority
    if request.param == "client-certificate":
        assert real.certificates is not None
        options["cert"] = tuple(map(pathlib.Path, real.certificates.client))
    yield Way(real.host, options)


def test_everything_that_a_repository_can(way: Way, store: pc.Store) -> None:
    image = made(store)
    with pc.Registry(way.host, **way.options) as registry:
        registry.ping()
        repository, other = registry.repository(unique()), registry.repository(unique())
        pushed = repository.push(image, "1.0", "latest", progress=False)
        assert isinstance(pushed, pc.Descriptor) and str(pushed.digest).startswith("sha256:")
        assert sorted(repository.tags()) == ["1.0", "latest"]
        assert repository in set(registry.repositories())
        assert (
            repository.resolve("1.0") == repository.resolve() == repository.resolve(pushed.digest) == pushed
        )
        manifest = repository.manifest("1.0")
        assert isinstance(manifest, pc.Manifest)
        assert (manifest.config.digest, len(manifest.raw)) == (image.id, pushed.size)
        with repository.blob(image.id) as stream:
            assert json.loads(stream.read()) == json.loads(image.config.raw)
        with repository.blob(manifest.layers[0]) as stream:
            assert sum(map(len, stream)) == manifest.layers[0].size
        assert repository.copy("1.0", other) == other.resolve("1.0") == pushed
        assert other.copy("1.0", repository, "2.0", "3.0") == pushed
        pulled = repository.pull("2.0", platform="linux/amd64", progress=False, store=store)
        assert (pulled.id, pulled.digest) == (image.id, pushed.digest)
        assert pulled.tags == [f"{way.host}/{repository.name}:2.0"]
        assert pulled == other.pull(pushed.digest, store=store)
        assert repository.referrers("1.0") == ()
        repository.delete("3.0")
        with pytest.raises(pc.NotFound):
            repository.resolve("3.0")
        assert other.resolve("1.0") == pushed


@pytest.mark.parametrize("way", ["basic", "bearer"], indirect=True)
@pytest.mark.parametrize("auth", [("me", "wrong"), False, None])
def test_who_may_not_is_told_so(way: Way, auth: Any) -> None:
    with pc.Registry(way.host, auth=auth) as registry, pytest.raises(pc.AuthError) as caught:
        registry.repository("team/app").resolve("1")
    assert caught.value.status == 401 and f"{way.host}/v2/team/app/manifests/1" in str(caught.value)
    assert "wrong" not in str(caught.value)


def test_certificates_are_checked(tls_registry: RealRegistry, store: pc.Store) -> None:
    with pc.Registry(tls_registry.host) as registry, pytest.raises(pc.TransportError, match="certificate"):
        registry.ping()
    for options in ({"verify": False}, {"insecure": True, "verify": False}):
        with pc.Registry(tls_registry.host, **options) as registry:
            registry.ping()


def test_a_client_without_its_certificate(client_certificate_registry: RealRegistry) -> None:
    authority = client_certificate_registry.certificates.authority  # type: ignore[union-attr]
    host = client_certificate_registry.host
    with pc.Registry(host, verify=authority) as registry, pytest.raises(pc.TransportError):
        registry.ping()


def test_mirrors_are_asked_first(fault: FaultRegistry, store: pc.Store) -> None:
    image = images_made.Image.make([images_made.layer({"a": b"1"})])
    with FaultRegistry() as mirror:
        mirror.put("team/app", "1", image)
        fault.put("team/app", "2", image)
        with pc.Registry(fault.host, mirrors=[mirror.host]) as registry:
            repository = registry.repository("team/app")
            pulled = repository.pull("1", store=store)
            assert pulled.digest == image.digest and pulled.tags == [f"{fault.host}/team/app:1"]
            assert fault.log == []
            assert repository.resolve("2").digest == image.digest


# Options and names


@pytest.mark.parametrize(
    "name",
    ["", "http://127.0.0.1:5000", "127.0.0.1:5000/", "127.0.0.1:5000/team", "127.0.0.1:0", "me@example.com",
     "example", "exa mple.com", "example.com:99999", "-example.com", None, 5000, b"example.com"],
)  # fmt: skip
def test_what_is_no_registry(name: Any) -> None:
    with pytest.raises(pc.InvalidReference, match=r"registry|host"):
        pc.Registry(name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout": 0}, "timeout=0"),
        ({"timeout": "soon"}, "timeout='soon'"),
        ({"timeout": True}, "timeout=True"),
        ({"verify": "/nowhere.pem"}, "/nowhere.pem"),
        ({"verify": 7}, "verify=7"),
        ({"cert": ("/nowhere.pem", "/nowhere.key")}, "/nowhere.pem"),
        ({"cert": ("/dev/null",) * 3}, "cert"),
        ({"cert": 7}, "cert"),
        ({"mirrors": ["ftp://example.com"]}, "mirrors"),
        ({"mirrors": "example.com"}, "mirrors"),
        ({"insecure": "yes"}, "insecure='yes'"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(pc.InvalidOption, match=message):
        pc.Registry("127.0.0.1:5000", **options)


@pytest.mark.parametrize("auth", [SECRET, ("me", SECRET, "x"), ("me", 7), True, [SECRET, SECRET]])
def test_bad_authentication_is_not_repeated(auth: Any) -> None:
    with pytest.raises(pc.InvalidOption, match="auth") as caught:
        pc.Registry("127.0.0.1:5000", auth=auth)
    assert SECRET not in str(caught.value)


def test_names_as_they_are_known() -> None:
    with pc.Registry("index.docker.io") as hub, pc.Registry("docker.io") as same:
        assert hub.name == same.name == "docker.io"
        assert hub.repository("debian").name == "library/debian"
        assert hub.repository("debian") == same.repository("library/debian")
        assert hub.repository("debian") != same.repository("team/debian")
        assert len({hub.repository("debian"), same.repository("debian")}) == 1
        assert (repr(hub), repr(same.repository("team/x"))) == (
            "<Registry docker.io>",
            "<Repository docker.io/team/x>",
        )
        assert hub.repository("debian") != "docker.io/library/debian"


@pytest.mark.parametrize("name", ["", "a:1", "A", "a@sha256:" + "0" * 64, "/a", "a/", "a b", "../a", None, 1])
def test_what_is_no_repository(there: pc.Repository, name: Any) -> None:
    with pytest.raises(pc.InvalidReference):
        there.registry.repository(name)


BAD_REFERENCES = [
    "",
    "a:b",
    "a/b",
    "../a",
    "sha256:00",
    ".",
    "x" * 129,
    "a b",
    "a\n",
    "sha1:" + "0" * 40,
    None,
    1,
]


@pytest.mark.parametrize("text", BAD_REFERENCES)
def test_what_is_no_tag_or_digest(
    fault: FaultRegistry, there: pc.Repository, store: pc.Store, text: Any
) -> None:
    image = made(store)
    for call in (
        lambda: there.resolve(text),
        lambda: there.manifest(text),
        lambda: there.pull(text, store=store),
        lambda: there.push(image, text),
        lambda: there.copy(text, there),
        lambda: there.copy("1", there, text),
        lambda: there.delete(text),
        lambda: there.referrers(text),
        lambda: there.blob(text),
    ):
        with pytest.raises(pc.InvalidReference):
            call()
    # Nobody was asked about it.
    assert fault.log == []


def test_what_is_no_image_or_repository(there: pc.Repository) -> None:
    with pytest.raises(pc.InvalidOption, match="image='team/app:1'"):
        there.push("team/app:1")  # type: ignore[arg-type]
    with pytest.raises(pc.InvalidOption, match="target='team/other'"):
        there.copy("1.0", "team/other")  # type: ignore[arg-type]


def test_pushing_under_a_digest(there: pc.Repository, store: pc.Store) -> None:
    with pytest.raises(pc.InvalidReference, match="give a tag"):
        there.push(made(store), "sha256:" + "0" * 64)
    with pytest.raises(pc.ImageError, match="host image"):
        there.push(pc.Image.host(), "1")
    with pytest.raises(pc.InvalidOption, match="compression='lzma'"):
        there.push(made(store), "1", compression="lzma")
    with pytest.raises(pc.InvalidOption, match="platform"):
        there.pull("1", platform="amd64", store=store)


# Secrets


def test_secrets_never_show(store: pc.Store, capfd: pytest.CaptureFixture[str], caplog: Any) -> None:
    caplog.set_level("DEBUG")
    access = Access(users={"me": "another"})
    with FaultRegistry(auth="bearer", access=access) as service:
        service.put_image("team/app", "1", [images_made.layer({"a": b"1"})])
        with pc.Registry(service.host, auth=("me", SECRET)) as registry:
            repository = registry.repository("team/app")
            shown = repr([registry, repository, registry._client, vars(registry), vars(repository)])
            for call in (registry.ping, repository.resolve, lambda: repository.pull("1", store=store)):
                with pytest.raises(pc.AuthError) as caught:
                    call()
                shown += "".join(traceback.format_exception(caught.value)) + repr(vars(caught.value))
        access.users["me"] = SECRET
        with pc.Registry(service.host, auth=("me", SECRET)) as registry:
            repository = registry.repository("team/app")
            stream = repository.blob(repository.manifest("1").config)
            shown += repr([repository.pull("1", store=store), stream, stream.read()])
            stream.close()
        tokens = list(service.tokens.grants)
    shown += caplog.text + "".join(capfd.readouterr())
    assert len(tokens) > 0
    assert [secret for secret in (SECRET, *tokens) if secret in shown] == []


# Lists


def test_lists_of_many_pages(fault: FaultRegistry) -> None:
    fault.page = 7
    fault.relative_locations = True
    tags = [f"tag-{number:03d}" for number in range(40)]
    image = images_made.Image.make([images_made.layer({"a": b"1"})])
    for tag in tags:
        fault.put("team/app", tag, image)
    for number in range(30):
        fault.repository(f"all/repository-{number:03d}")
    with pc.Registry(fault.host) as registry:
        found = registry.repository("team/app").tags()
        assert fault.log == []
        assert next(found) == "tag-000" and len(fault.log) == 1
        assert [*found] == tags[1:] and len(fault.log) == 6
        names = [repository.name for repository in registry.repositories()]
        assert names == [*(f"all/repository-{number:03d}" for number in range(30)), "team/app"]


def test_lists_that_are_none(fault: FaultRegistry, there: pc.Repository) -> None:
    with pytest.raises(pc.NotFound, match="team/app"):
        list(there.tags())
    fault.catalog = False
    with pytest.raises(pc.RegistryError):
        list(there.registry.repositories())
    for body in (b'{"repositories": ["../up"]}', b'{"repositories": ["A"]}', b'{"repositories": 1}', b"["):
        wrong = fault.fault(Answer(body, "application/json"), path="_catalog", times=None)
        with pytest.raises(pc.RegistryError):
            list(there.registry.repositories())
        wrong.stop()


# Blobs


def test_a_blob_is_a_file(fault: FaultRegistry, there: pc.Repository, tmp_path: pathlib.Path) -> None:
    data = random.Random(1).randbytes(3_000_000)
    digest = fault.put_blob("team/app", data)
    with there.blob(digest) as stream, (tmp_path / "copy").open("wb") as copy:
        assert (stream.readable(), stream.writable(), stream.seekable()) == (True, False, False)
        assert stream.descriptor.size == len(data) and digest in repr(stream)
        assert stream.read(0) == b"" and stream.read(10) == data[:10]
        assert next(iter(stream)) != b""
        stream.read(5)
        shutil.copyfileobj(stream, copy)
    with there.blob(digest) as stream:
        assert stream.read(10) + b"".join(stream) == data and stream.read() == b""
    with io.BufferedReader(there.blob(digest)) as buffered:
        assert buffered.read(100) == data[:100] and buffered.read() == data[100:]
    with there.blob(digest) as stream:
        pass
    for call in (stream.read, lambda: stream.read(1), lambda: list(stream)):
        with pytest.raises(ValueError, match="closed"):
            call()
    with pytest.raises(pc.NotFound):
        there.blob("sha256:" + "0" * 64)


@pytest.mark.parametrize("read", ["read", "pieces", "small reads"])
def test_a_wrong_blob_never_comes_to_its_end(fault: FaultRegistry, there: pc.Repository, read: str) -> None:
    digest = fault.put_blob("team/app", os.urandom(500_000))
    flip = fault.fault(Flip(123_456), path="/blobs/", method="GET", times=None)
    with there.blob(digest) as stream:
        with pytest.raises(pc.DigestMismatch, match=digest):
            if read == "read":
                stream.read()
            elif read == "pieces":
                list(stream)
            else:
                while stream.read(10_000):
                    pass
        # Not even for who asks again.
        with pytest.raises(pc.DigestMismatch):
            stream.read(1)
        with pytest.raises(pc.DigestMismatch):
            list(stream)
    assert flip.hits >= 1


def test_a_broken_blob_is_resumed(fault: FaultRegistry, there: pc.Repository) -> None:
    data = os.urandom(2_000_000)
    digest = fault.put_blob("team/app", data)
    fault.fault(Truncate(700_000), path="/blobs/", method="GET", times=2)
    with there.blob(digest) as stream:
        assert stream.read() == data
    assert fault.bytes_sent("GET", "/blobs/") <= 1.1 * len(data)


def test_a_blob_that_is_closed_early_leaves_nothing() -> None:
    gc.collect()
    with unchanged(ignore=OTHERS), FaultRegistry() as other, pc.Registry(other.host) as registry:
        digest = other.put_blob("team/app", os.urandom(5_000_000))
        repository = registry.repository("team/app")
        for end in ("close", "forget", "not begun"):
            stream = repository.blob(digest)
            if end != "not begun":
                assert len(stream.read(10)) == 10
            if end == "close":
                stream.close()
                stream.close()
            del stream
        gc.collect()
        assert repository.blob(digest).descriptor.size == 5_000_000
        # What is left of a broken-off answer is not taken for the next one.
        with repository.blob(digest) as stream:
            assert len(stream.read()) == 5_000_000


def test_a_closed_registry(fault: FaultRegistry) -> None:
    fault.put_image("team/app", "1", [images_made.layer({"a": b"1"})])
    registry = pc.Registry(fault.host)
    repository = registry.repository("team/app")
    repository.resolve("1")
    registry.close()
    with pytest.raises(pc.TransportError, match="closed"):
        repository.resolve("1")
    registry.close()


# Deleting, referrers, and what goes wrong


@pytest.mark.parametrize("kind", ["tag", "digest"])
def test_deleting_where_tags_can_be_deleted(fault: FaultRegistry, there: pc.Repository, kind: str) -> None:
    image = fault.put_image("team/app", "1", [images_made.layer({"a": b"1"})])
    fault.put("team/app", "2", image)
    there.delete("1" if kind == "tag" else image.digest)
    assert list(there.tags()) == (["2"] if kind == "tag" else [])
    with pytest.raises(pc.NotFound):
        there.delete("1")
    fault.deletes = False
    with pytest.raises(pc.RegistryError) as caught:
        there.delete("2" if kind == "tag" else image.digest)
    assert caught.value.status == 405 or kind == "digest"


def test_deleting_on_docker_registry(plain_registry: RealRegistry, store: pc.Store) -> None:
    """It knows no deletion of single tags: the manifest goes, and all its tags."""
    with pc.Registry(plain_registry.host) as registry:
        repository = registry.repository(unique())
        repository.push(made(store), "1", "2")
        kept = repository.push(made(store, b"other"), "3")
        repository.delete("1")
        for tag in ("1", "2"):
            with pytest.raises(pc.NotFound):
                repository.resolve(tag)
        assert repository.resolve("3") == kept
        with pytest.raises(pc.NotFound, match=repository.name):
            repository.delete("1")
        with pytest.raises(pc.NotFound):
            repository.delete("never")


@pytest.mark.parametrize("api", [True, False])
def test_referrers(fault: FaultRegistry, there: pc.Repository, api: bool) -> None:
    fault.referrers_api = api
    image = fault.put_image("team/app", "1", [images_made.layer({"a": b"1"})])
    notes = [
        fault.put_image("team/app", None, [b""], artifact_type=f"text/{kind}", subject=image.describe())
        for kind in ("signature", "bill")
    ]
    if not api:
        listed = [{**note.describe(), "artifactType": note.document["artifactType"]} for note in notes]
        index = images_made.Index.make([], extra=listed)
        fault.put("team/app", image.digest.replace(":", "-"), index)
    assert {one.digest for one in there.referrers("1")} == {note.digest for note in notes}
    (found,) = there.referrers(image.digest, artifact_type="text/bill")
    assert found.digest == notes[1].digest
    assert there.referrers(notes[0].digest) == ()


def test_an_index_is_an_index(fault: FaultRegistry, there: pc.Repository) -> None:
    images = [
        images_made.Image.make([images_made.layer({"a": b"1"})], platform=platform)
        for platform in ("linux/amd64", "linux/arm64")
    ]
    index = fault.put_index("team/app", "1", images)
    found = there.manifest("1")
    assert isinstance(found, pc.Index) and found.raw == index.raw
    assert [one.digest for one in found.manifests] == [image.digest for image in images]
    assert there.resolve("1").media_type == images_made.OCI_INDEX


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (401, "UNAUTHORIZED", pc.AuthError),
        (403, "DENIED", pc.AuthError),
        (404, "MANIFEST_UNKNOWN", pc.NotFound),
        (429, "TOOMANYREQUESTS", pc.RateLimited),
        (418, "TEAPOT", pc.RegistryError),
    ],
)
def test_errors_say_what_and_where(
    fault: FaultRegistry, there: pc.Repository, status: int, code: str, error: type[pc.RegistryError]
) -> None:
    headers = {"Retry-After": "3600"} if status == 429 else {}
    fault.fault(Status(status, headers, error=code), path="/manifests/", times=None)
    with pytest.raises(error, match=f"{fault.host}/v2/team/app/manifests/1: {status}") as caught:
        there.manifest("1")
    assert caught.value.status == status and caught.value.url.startswith(f"http://{fault.host}/v2/team/app")
    assert caught.value.code == code
    if isinstance(caught.value, pc.RateLimited):
        assert caught.value.retry_after == 3600
