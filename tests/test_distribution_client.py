"""The client: manifests, lists, redirects, credentials, addresses, certificates, mirrors."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import threading
import time
import traceback
from pathlib import Path

import pytest

from distribution_clients import Connect, blob_of, connect, registry
from fault_registry import FaultRegistry, Storage
from pycontainer.distribution.client import Client
from pycontainer.distribution.credentials import Credential
from pycontainer.distribution.patience import Patience
from pycontainer.errors import (
    AuthError,
    DigestMismatch,
    InvalidImage,
    InvalidOption,
    InvalidReference,
    NotFound,
    RateLimited,
    RegistryError,
    TransportError,
)
from pycontainer.oci import media_types
from pycontainer.oci.digest import Digest
from pycontainer.oci.manifest import Index, Manifest
from registries import (
    Certificates,
    RealRegistry,
    basic_registry,
    certificates,
    client_certificate_registry,
    fresh_registry,
    plain_registry,
    tls_registry,
)
from registry_faults import (
    Answer,
    Chunked,
    Close,
    Endless,
    Flip,
    Garbage,
    Header,
    LostAnswer,
    Redirect,
    Stall,
    Status,
    Truncate,
    content_type,
    digest_header,
    link,
)

__all__ = [
    "basic_registry",
    "certificates",
    "client_certificate_registry",
    "connect",
    "fresh_registry",
    "plain_registry",
    "registry",
    "tls_registry",
]

CONFIG = b"{}"
MANIFEST = Manifest.make(
    blob_of(CONFIG), (blob_of(b"layer"),)
).raw  # what it names need not be there: the fault registry is told so
OCI = media_types.OCI_MANIFEST


@pytest.fixture
def filled(registry: FaultRegistry) -> FaultRegistry:
    registry.put_manifest("team/app", "1.0", MANIFEST, OCI)
    return registry


# Manifests


def test_resolve_is_one_head(filled: FaultRegistry, connect: Connect) -> None:
    client = connect(filled.host)
    found = client.resolve("team/app", "1.0")
    assert (found.media_type, found.digest, found.size) == (OCI, Digest.of(MANIFEST), len(MANIFEST))
    assert [request.method for request in filled.requests(path="/manifests/")] == ["HEAD"]
    assert client.resolve("team/app", found.digest) == found


@pytest.mark.parametrize(
    "fault",
    [
        digest_header(None),
        digest_header("blake3:0123"),
        content_type("text/html"),
        content_type(None),
        Header("Content-Length", None),
        Status(405),
        Status(400),
    ],
    ids=str,
)
def test_resolve_asks_again_where_it_was_told_too_little(
    filled: FaultRegistry, connect: Connect, fault: object
) -> None:
    filled.fault(fault, method="HEAD", times=None)  # type: ignore[arg-type]
    found = connect(filled.host).resolve("team/app", "1.0")
    assert (found.media_type, found.digest, found.size) == (OCI, Digest.of(MANIFEST), len(MANIFEST))


def test_resolve_by_digest_judges_the_answer(filled: FaultRegistry, connect: Connect) -> None:
    filled.fault(digest_header("sha256:" + "0" * 64), method="HEAD")
    with pytest.raises(DigestMismatch):
        connect(filled.host).resolve("team/app", Digest.of(MANIFEST))


def test_a_manifest(filled: FaultRegistry, connect: Connect) -> None:
    client = connect(filled.host)
    for reference in ("1.0", str(Digest.of(MANIFEST))):
        answer = client.manifest("team/app", reference)
        assert (answer.raw, answer.media_type, answer.digest) == (MANIFEST, OCI, Digest.of(MANIFEST))
        assert "raw" not in repr(answer)


@pytest.mark.parametrize("fault", [Flip(30), Answer(b"{}"), digest_header("sha256:" + "0" * 64)], ids=str)
def test_a_manifest_that_is_something_else(filled: FaultRegistry, connect: Connect, fault: object) -> None:
    filled.fault(fault, method="GET", path="/manifests/", times=None)  # type: ignore[arg-type]
    with pytest.raises(DigestMismatch, match="team/app@sha256"):
        connect(filled.host).manifest("team/app", Digest.of(MANIFEST))


@pytest.mark.parametrize(
    ("document", "stated", "found"),
    [
        ({"mediaType": OCI, "layers": []}, OCI, OCI),
        ({"mediaType": OCI, "layers": []}, OCI + "; charset=utf-8", OCI),
        ({"mediaType": OCI, "layers": []}, "application/json", OCI),
        ({"mediaType": OCI, "layers": []}, None, OCI),
        ({"layers": []}, OCI, OCI),
        ({"layers": []}, None, OCI),
        ({"manifests": []}, None, media_types.OCI_INDEX),
        ({"manifests": []}, media_types.DOCKER_INDEX, media_types.DOCKER_INDEX),
        ({"mediaType": OCI, "layers": []}, media_types.DOCKER_MANIFEST, None),
        ({"mediaType": OCI, "layers": []}, media_types.OCI_INDEX, None),
        ({"mediaType": OCI, "manifests": []}, OCI, None),
        ({"manifests": []}, OCI, None),
        ({"layers": [], "config": {}}, media_types.OCI_INDEX, None),
        ({"layers": [], "manifests": []}, OCI, None),
        ({"layers": [], "manifests": []}, media_types.OCI_INDEX, None),
        ({"mediaType": "text/html", "layers": []}, None, None),
        ({"mediaType": 5, "layers": []}, OCI, None),
        ({"layers": []}, "application/vnd.docker.distribution.manifest.v1+prettyjws", None),
        ([], OCI, None),
    ],
)
def test_one_document_has_one_type(
    filled: FaultRegistry, connect: Connect, document: object, stated: str | None, found: str | None
) -> None:
    raw = json.dumps(document).encode()
    filled.fault([Answer(raw), content_type(stated)], method="GET", path="/manifests/")
    client = connect(filled.host)
    if found is None:
        with pytest.raises(InvalidImage, match=r"team/app:1\.0"):
            client.manifest("team/app", "1.0")
    else:
        assert client.manifest("team/app", "1.0").media_type == found


@pytest.mark.parametrize(
    "fault", [Endless(), Endless(chunked=True), Answer(b"x" * (4 << 20) + b"y")], ids=str
)
def test_manifests_are_bounded(filled: FaultRegistry, connect: Connect, fault: object) -> None:
    filled.fault(fault, method="GET", path="/manifests/", times=None)  # type: ignore[arg-type]
    with pytest.raises(TransportError, match="more than 4194304"):
        connect(filled.host).manifest("team/app", "1.0")


@pytest.mark.parametrize(
    "fault", [Truncate(10), Truncate(10, reset=True), Close(), LostAnswer(), Status(503), Chunked()], ids=str
)
def test_a_manifest_is_fetched_again(filled: FaultRegistry, connect: Connect, fault: object) -> None:
    filled.fault(fault, method="GET", path="/manifests/", times=2)  # type: ignore[arg-type]
    assert connect(filled.host).manifest("team/app", "1.0").raw == MANIFEST


def test_what_is_not_there(filled: FaultRegistry, connect: Connect) -> None:
    client = connect(filled.host)
    for ask in (client.resolve, client.manifest):
        with pytest.raises(
            NotFound, match=rf"{filled.host}/v2/team/app/manifests/2.0: 404 MANIFEST"
        ) as caught:
            ask("team/app", "2.0")
        assert caught.value.status == 404 and caught.value.url is not None
    with pytest.raises(NotFound):
        list(client.tags("no/such"))
    assert not client.has_blob("team/app", Digest.of(b"nothing"))
    with pytest.raises(NotFound):
        client.blob_size("team/app", Digest.of(b"nothing"))


def test_pushing_a_manifest(registry: FaultRegistry, connect: Connect) -> None:
    registry.checks_references = False
    client = connect(registry.host)
    registry.fault(LostAnswer(), method="PUT")
    assert client.push_manifest("team/app", "1", MANIFEST, OCI) == Digest.of(MANIFEST)
    assert client.push_manifest("team/app", Digest.of(MANIFEST), MANIFEST, OCI) == Digest.of(MANIFEST)
    assert client.manifest("team/app", "1").raw == MANIFEST
    with pytest.raises(DigestMismatch):
        client.push_manifest("team/app", Digest.of(b"x"), MANIFEST, OCI)
    with pytest.raises(InvalidImage):
        client.push_manifest("team/app", "1", b"x" * ((4 << 20) + 1), OCI)
    registry.fault(digest_header("sha256:" + "0" * 64), method="PUT")
    with pytest.raises(DigestMismatch):
        client.push_manifest("team/app", "1", MANIFEST, OCI)


def test_deleting(filled: FaultRegistry, connect: Connect) -> None:
    client = connect(filled.host)
    digest = Digest(filled.put_blob("team/app", b"data"))
    filled.fault(LostAnswer(), method="DELETE")
    client.delete_blob("team/app", digest)
    assert not client.has_blob("team/app", digest)
    with pytest.raises(NotFound):
        client.delete_blob("team/app", digest)
    client.delete_manifest("team/app", Digest.of(MANIFEST))
    with pytest.raises(NotFound):
        client.manifest("team/app", "1.0")


def test_mounting(registry: FaultRegistry, connect: Connect) -> None:
    client = connect(registry.host)
    digest = Digest(registry.put_blob("team/one", b"data"))
    assert client.mount_blob("team/two", digest, "team/one")
    assert client.has_blob("team/two", digest) and client.blob_size("team/two", digest) == 4
    registry.mounts = False
    assert not client.mount_blob("team/three", digest, "team/one")
    assert not registry.repository("team/three").uploads, "the upload that was begun instead is dropped"


# Lists


def test_pages(registry: FaultRegistry, connect: Connect) -> None:
    tags = sorted(f"v{number}" for number in range(25))
    for tag in tags:
        registry.put_manifest("team/app", tag, MANIFEST, OCI)
    registry.page = 4
    client = connect(registry.host)
    assert list(client.tags("team/app")) == tags
    assert registry.count("GET", "/tags/list") == 7
    assert list(client.repositories()) == ["team/app"]


def test_a_list_is_fetched_as_it_is_needed(registry: FaultRegistry, connect: Connect) -> None:
    for number in range(25):
        registry.put_manifest("team/app", f"v{number}", MANIFEST, OCI)
    registry.page = 4
    assert next(iter(connect(registry.host).tags("team/app"))).startswith("v")
    assert registry.count("GET", "/tags/list") == 1


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (link("/v2/team/app/tags/list?n=1000"), "do not end"),
        (link("http://127.0.0.2/v2/team/app/tags/list"), "another host"),
        (link("//example.com/v2/team/app/tags/list"), "another host"),
        (link("ftp://example.com/"), "unusable address"),
        (Answer(b"[]"), "JSON object"),
        (Answer(b'{"tags": ["\\u001b[2J"]}'), "not a list of names"),
        (Answer(b'{"tags": [5]}'), "not a list of names"),
        (Answer(b'{"tags": {"a": 1}}'), "must be a list"),
        (Answer(b"<html>"), "tags/list"),
        (Endless(), "more than"),
    ],
)
def test_hostile_lists(filled: FaultRegistry, connect: Connect, fault: object, words: str) -> None:
    filled.fault(fault, method="GET", path="/tags/list", times=None)  # type: ignore[arg-type]
    with pytest.raises(TransportError, match=words):
        list(connect(filled.host).tags("team/app"))


@pytest.mark.parametrize("answer", [b'{"tags": null}', b"{}", b'{"tags": []}'])
def test_no_tags(filled: FaultRegistry, connect: Connect, answer: bytes) -> None:
    filled.fault(Answer(answer), method="GET", path="/tags/list")
    assert list(connect(filled.host).tags("team/app")) == []


@pytest.mark.parametrize("api", [True, False])
def test_referrers(filled: FaultRegistry, connect: Connect, api: bool) -> None:
    client = connect(filled.host)
    subject = Digest.of(MANIFEST)
    assert client.referrers("team/app", subject).manifests == ()
    document = json.loads(MANIFEST)
    document["subject"] = {"mediaType": OCI, "digest": str(subject), "size": len(MANIFEST)}
    document["artifactType"] = "application/vnd.example.signature"
    signature = json.dumps(document).encode()
    if api:
        filled.put_manifest("team/app", None, signature, OCI)
    else:
        filled.referrers_api = False
        entry = {"mediaType": OCI, "digest": str(Digest.of(signature)), "size": len(signature)}
        index = {"schemaVersion": 2, "manifests": [{**entry, "artifactType": document["artifactType"]}]}
        tag = str(subject).replace(":", "-")
        filled.put_manifest("team/app", tag, json.dumps(index).encode(), media_types.OCI_INDEX)
    found = client.referrers("team/app", subject)
    assert isinstance(found, Index) and [one.digest for one in found.manifests] == [Digest.of(signature)]
    assert len(client.referrers("team/app", subject, document["artifactType"]).manifests) == 1
    assert client.referrers("team/app", subject, "application/vnd.example.other").manifests == ()


# Redirects and credentials


def test_storage_elsewhere_sees_no_credentials(connect: Connect) -> None:
    data = b"layer" * 1000
    blob = blob_of(data)
    with FaultRegistry(auth="basic") as registry, Storage({"/there": data}) as storage:
        registry.put_blob("team/app", data)
        registry.fault(Redirect(f"{storage.url}/there?sig=opensesame"), path="/blobs/", after=1, times=None)
        client = connect(registry.host, auth=("user", "secret"))
        assert b"".join(client.blob("team/app", blob)) == data
        assert registry.requests("GET", "/blobs/")[-1].authorization is not None
        assert [request.authorization for request in storage.requests()] == [None]


def test_coming_back_from_elsewhere_brings_no_credentials(connect: Connect) -> None:
    with FaultRegistry(auth="basic") as registry, FaultRegistry() as other:
        registry.put_manifest("team/app", "1", MANIFEST, OCI)
        client = connect(registry.host, auth=("user", "secret"))
        client.ping()
        registry.fault(Redirect(f"{other.url}/v2/"), path="/manifests/")
        other.fault(Redirect(f"{registry.url}/v2/team/app/manifests/1"))
        with pytest.raises(AuthError):
            client.manifest("team/app", "1")
        assert registry.requests()[-1].authorization is None


def test_redirects_end(filled: FaultRegistry, connect: Connect) -> None:
    filled.fault(Redirect("{target}"), path="/manifests/", times=None)
    with pytest.raises(TransportError, match="more than 8 redirects"):
        connect(filled.host).manifest("team/app", "1.0")
    filled.clear_faults()
    filled.fault([Redirect("{target}"), Endless()], path="/manifests/")
    assert connect(filled.host).manifest("team/app", "1.0").raw == MANIFEST


@pytest.mark.parametrize("auth", ["basic", "bearer"])
def test_authentication(connect: Connect, auth: str) -> None:
    with FaultRegistry(auth=auth) as registry:
        registry.put_manifest("team/app", "1", MANIFEST, OCI)
        for good in (("user", "secret"), Credential("user", "secret")):
            client = connect(registry.host, auth=good)
            client.ping()
            assert client.manifest("team/app", "1").raw == MANIFEST
            assert [*client.tags("team/app")] == ["1"] and "team/app" in client.repositories()
            data = os.urandom(100)
            pushed = client.push_blob("team/new", lambda offset, data=data: iter([data[offset:]]))  # type: ignore[misc]
            assert client.mount_blob("team/third", pushed.digest, "team/new")
        registry.expire_tokens()
        assert client.manifest("team/app", "1").raw == MANIFEST
        for bad in (("user", "wrong"), False):
            with pytest.raises(AuthError):
                connect(registry.host, auth=bad).manifest("team/app", "1")


def test_nothing_tells_secrets(
    connect: Connect, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither errors, nor what led to them, nor the values in their tracebacks, nor logs."""
    caplog.set_level(logging.DEBUG)
    words = ("hunter2", "aHVudGVy", "dXNlcjpodW50ZXIy", "opensesame")
    with FaultRegistry(auth="basic") as registry:
        client = connect(registry.host, auth=("user", "hunter2"))
        echo = json.dumps({"errors": [{"code": "DENIED", "message": "no: user:hunter2 dXNlcjpodW50ZXIy"}]})
        for fault in (
            Status(403, body=echo.encode()),
            Close(),
            Garbage(b"hunter2\r\n\r\n"),
            Redirect("http://127.0.0.1:1/?sig=opensesame"),
            Redirect("/v2/team/none/manifests/?sig=opensesame"),
        ):
            registry.fault(fault, path="/manifests/", where=lambda r: r.authorization is not None, times=None)
            with pytest.raises(RegistryError) as caught:
                client.manifest("team/app", "1")
            inner = [frame.f_locals for frame, _ in traceback.walk_tb(caught.tb)][1:]
            told = [
                str(caught.value),
                repr(client),
                *(repr(value) for names in inner for value in names.values()),
            ]
            registry.clear_faults()
            assert not [word for word in words for text in told if word in text]
            assert caught.value.__cause__ is None and caught.value.__context__ is None
    logged = caplog.text + capsys.readouterr().err
    assert "sig=***" in logged and not [word for word in words if word in logged]


def test_netrc_is_not_read(connect: Connect, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login user password secret\ndefault login user password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with FaultRegistry(auth="basic") as registry:
        with pytest.raises(AuthError):
            connect(registry.host).ping()
        assert all(request.authorization is None for request in registry.requests())


def test_cookies_are_not_kept(filled: FaultRegistry, connect: Connect) -> None:
    filled.fault(Header("Set-Cookie", "track=1"), times=None)
    client = connect(filled.host)
    client.ping()
    client.ping()
    assert all("cookie" not in request.headers for request in filled.requests())


# Addresses, proxies, TLS


def test_loopback_is_tried_with_tls_first(
    filled: FaultRegistry, tls_registry: RealRegistry, certificates: Certificates, connect: Connect
) -> None:
    connect(filled.host).ping()
    with pytest.raises(TransportError, match="http"):
        connect(filled.host, insecure=False).ping()
    with pytest.raises(TransportError, match="certificate is not trusted"):
        connect(tls_registry.host).ping()
    assert certificates.authority is not None
    connect(tls_registry.host, verify=str(certificates.authority)).ping()
    connect(tls_registry.host, verify=False).ping()
    connect(tls_registry.host, verify=str(certificates.authority), insecure=True).ping()


def test_client_certificates(
    client_certificate_registry: RealRegistry, certificates: Certificates, connect: Connect
) -> None:
    authority = str(certificates.authority)
    with pytest.raises(TransportError):
        connect(client_certificate_registry.host, verify=authority).ping()
    connect(client_certificate_registry.host, verify=authority, cert=certificates.client).ping()


def test_files_that_are_not_there() -> None:
    for options in ({"verify": "/no/such"}, {"cert": "/no/such"}, {"cert": ("/dev/null", "/no/such")}):
        with pytest.raises(InvalidOption, match="/no/such"):
            Client("example.com", auth=False, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": 0},
        {"timeout": -1.0},
        {"timeout": float("nan")},
        {"auth": ("user",)},
        {"auth": "user:secret"},
        {"mirrors": ["ftp://example.com"]},
        {"mirrors": ["user:secret@example.com"]},
        {"mirrors": [""]},
    ],
    ids=str,
)
def test_wrong_options(options: dict[str, object]) -> None:
    with pytest.raises(InvalidOption) as caught:
        Client("example.com", **{"auth": False, **options})  # type: ignore[arg-type]
    assert "secret" not in str(caught.value)


def test_wrong_registries() -> None:
    with pytest.raises(InvalidReference):
        Client("example.com/path", auth=False)


def test_nobody_there(connect: Connect) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(TransportError, match=r"127.0.0.1:\d+/v2/: connection refused"):
            connect(f"127.0.0.1:{bound.getsockname()[1]}").ping()


def test_a_host_that_does_not_exist(connect: Connect) -> None:
    with pytest.raises(TransportError, match=r"nowhere\.invalid/v2/: the host's name cannot be resolved"):
        connect("nowhere.invalid").ping()


def test_proxies(filled: FaultRegistry, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry stands in for a proxy: it is asked for another host's address."""
    monkeypatch.setenv("HTTP_PROXY", f"http://me:hunter2@{filled.host}")
    monkeypatch.setenv("http_proxy", f"http://me:hunter2@{filled.host}")
    filled.fault(Answer(b"{}"), times=None)
    connect("far.invalid", insecure=True, timeout=2.0).ping()
    assert filled.requests()[-1].headers["host"] == "far.invalid"
    assert "proxy-authorization" in filled.requests()[-1].headers
    filled.forget()
    connect(filled.host).ping()
    assert "proxy-authorization" not in filled.requests()[-1].headers, "this machine is not behind a proxy"
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "far.invalid")
    with pytest.raises(TransportError, match="resolved"):
        connect("far.invalid", insecure=True, timeout=2.0).ping()


# Mirrors, waiting, ends


def test_mirrors_see_no_credentials(connect: Connect) -> None:
    with FaultRegistry(auth="basic") as registry, FaultRegistry(auth="basic") as mirror:
        for one in (registry, mirror):
            one.put_manifest("team/app", "1", MANIFEST, OCI)
        client = connect(registry.host, auth=("user", "secret"), mirrors=[mirror.host])
        assert client.manifest("team/app", "1").raw == MANIFEST
        assert mirror.requests() and all(one.authorization is None for one in mirror.requests())


@pytest.mark.parametrize(
    "fault",
    [Status(404), Status(500), Close(), Flip(3), Answer(b"<html>"), digest_header("sha256:" + "0" * 64)],
)
def test_manifests_from_mirrors(filled: FaultRegistry, connect: Connect, fault: object) -> None:
    with FaultRegistry() as mirror:
        mirror.put_manifest("team/app", "1.0", MANIFEST, OCI)
        assert connect(filled.host, mirrors=[mirror.host]).manifest("team/app", "1.0").raw == MANIFEST
        assert filled.requests() == []
        mirror.fault(fault, path="/manifests/", times=None)  # type: ignore[arg-type]
        client = connect(filled.host, mirrors=[mirror.host])
        assert client.manifest("team/app", Digest.of(MANIFEST)).raw == MANIFEST
        assert client.resolve("team/app", "1.0").digest == Digest.of(MANIFEST)


def test_asked_to_wait(filled: FaultRegistry, connect: Connect) -> None:
    filled.fault(Status(429, headers={"Retry-After": "0"}), times=2)
    connect(filled.host).ping()
    filled.fault(Status(503, headers={"Retry-After": "99"}), times=None)
    with pytest.raises(RateLimited) as caught:
        connect(filled.host).ping()
    assert (caught.value.retry_after, caught.value.status) == (99.0, 503)


def test_ctrl_c_ends_it_at_once(filled: FaultRegistry, connect: Connect) -> None:
    """While an answer is awaited, and while waiting to ask again."""
    for fault in (Stall(), Status(429, headers={"Retry-After": "20"})):
        filled.fault(fault, path="/manifests/", times=None)
        client = connect(filled.host, timeout=30.0, patience=Patience())
        told: list[float] = []

        def interrupt(told: list[float] = told) -> None:
            told.append(time.monotonic())
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

        timer = threading.Timer(0.3, interrupt)
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            client.manifest("team/app", "1.0")
        assert time.monotonic() - told[0] < 1.0
        timer.join()
        filled.clear_faults()
        assert client.manifest("team/app", "1.0").raw == MANIFEST


def test_after_a_fork(filled: FaultRegistry, connect: Connect) -> None:
    """Parent and child go on, each with connections of its own."""
    client = connect(filled.host)
    assert client.manifest("team/app", "1.0").raw == MANIFEST
    child = os.fork()
    if child == 0:
        status = 1
        try:
            for _ in range(5):
                status = 0 if client.manifest("team/app", "1.0").raw == MANIFEST else 1
        finally:
            os._exit(status)
    for _ in range(5):
        assert client.manifest("team/app", "1.0").raw == MANIFEST
    assert os.waitpid(child, 0)[1] == 0
    assert len({request.connection for request in filled.requests(path="/manifests/")}) == 2


# The real registry


@pytest.mark.parametrize("kind", ["plain_registry", "basic_registry", "tls_registry"])
def test_the_real_registry(
    kind: str, request: pytest.FixtureRequest, connect: Connect, certificates: Certificates
) -> None:
    real: RealRegistry = request.getfixturevalue(kind)
    options: dict[str, object] = {}
    if real.user is not None:
        options["auth"] = (real.user, real.password)
    if kind == "tls_registry":
        options["verify"] = str(certificates.authority)
    client = connect(real.host, **options)
    client.ping()
    data = os.urandom(12_000_000)
    layer = client.push_blob("team/client", lambda offset: iter([data[offset:]]))
    config = client.push_blob(
        "team/client", lambda offset: iter([CONFIG[offset:]]), digest=Digest.of(CONFIG), size=len(CONFIG)
    )
    assert (layer.digest, config.digest) == (Digest.of(data), Digest.of(CONFIG))
    manifest = Manifest.make(blob_of(CONFIG), (blob_of(data),))
    assert client.push_manifest("team/client", "1", manifest.raw, OCI) == manifest.digest
    assert client.resolve("team/client", "1").digest == manifest.digest
    assert client.manifest("team/client", "1").raw == manifest.raw
    assert b"".join(client.blob("team/client", blob_of(data))) == data
    assert client.mount_blob("team/other", layer.digest, "team/client")
    assert "team/client" in client.repositories() and list(client.tags("team/client")) == ["1"]
    assert client.referrers("team/client", manifest.digest).manifests == ()
    client.delete_manifest("team/client", manifest.digest)
    with pytest.raises(NotFound):
        client.resolve("team/client", "1")
    with pytest.raises(NotFound):
        list(client.tags("no/such"))
