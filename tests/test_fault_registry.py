"""The fault registry is a true registry, and does wrong exactly what it is told to."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import json
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

import images_made
import registry_faults as faults
from conftest import need, unchanged
from fault_registry import FaultRegistry, Storage, digest_of
from images_made import Image, Index, layer
from registries import Certificates
from registry_tokens import Access

DATA = bytes(range(256)) * 1000
DIGEST = digest_of(DATA)
OTHERS = ("cgroups", "keys", "files", "processes")
"""What other programs of the same machine change meanwhile."""


@pytest.fixture
def registry() -> Iterator[FaultRegistry]:
    with FaultRegistry() as made:
        made.put_blob("team/app", DATA)
        yield made


@pytest.fixture
def web() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        yield session


def blob_url(registry: FaultRegistry) -> str:
    return f"{registry.url}/v2/team/app/blobs/{DIGEST}"


def fetch(registry: FaultRegistry, web: requests.Session, **options: Any) -> requests.Response:
    return web.get(blob_url(registry), timeout=10, **options)


def error_code(answer: requests.Response) -> str:
    return str(answer.json()["errors"][0]["code"])


# A true registry


def test_ping_and_unknown_pages(registry: FaultRegistry, web: requests.Session) -> None:
    answer = web.get(registry.url + "/v2/")
    assert answer.status_code == 200
    assert answer.headers["Docker-Distribution-API-Version"] == "registry/2.0"
    for path, status, code in (
        ("/v2/none/manifests/1", 404, "NAME_UNKNOWN"),
        ("/v2/team/app/manifests/1", 404, "MANIFEST_UNKNOWN"),
        ("/v2/team/app/blobs/sha256:" + "0" * 64, 404, "BLOB_UNKNOWN"),
        ("/v2/team/app/blobs/sha256:0", 400, "DIGEST_INVALID"),
        ("/v2/Team/tags/list", 404, "NAME_UNKNOWN"),
    ):
        answer = web.get(registry.url + path)
        assert (answer.status_code, error_code(answer)) == (status, code), path
    assert registry.connections == 1, "connections are kept"


def test_manifests(registry: FaultRegistry, web: requests.Session) -> None:
    image = registry.put_image("team/app", "1", [layer({"a": b"b"})])
    for reference in ("1", image.digest):
        url = f"{registry.url}/v2/team/app/manifests/{reference}"
        got, head = web.get(url), web.head(url)
        assert got.content == image.raw and head.content == b""
        assert got.headers["Docker-Content-Digest"] == head.headers["Docker-Content-Digest"] == image.digest
        assert head.headers["Content-Length"] == str(len(image.raw))
        assert got.headers["Content-Type"] == images_made.OCI_MANIFEST
    put = f"{registry.url}/v2/team/app/manifests/"
    kind = {"Content-Type": images_made.OCI_MANIFEST}
    done = web.put(put + "2", data=image.raw, headers=kind)
    assert done.status_code == 201 and done.headers["Docker-Content-Digest"] == image.digest
    assert error_code(web.put(put + "sha256:" + "0" * 64, data=image.raw, headers=kind)) == "DIGEST_INVALID"
    assert error_code(web.put(put + "3", data=b"{", headers=kind)) == "MANIFEST_INVALID"
    assert error_code(web.put(put + "3", data=image.raw)) == "MANIFEST_INVALID"
    other = registry.url + "/v2/other/manifests/1"
    assert error_code(web.put(other, data=image.raw, headers=kind)) == "MANIFEST_BLOB_UNKNOWN"
    assert web.delete(put + "1").status_code == 202 and web.get(put + "1").status_code == 404
    assert web.delete(put + image.digest).status_code == 202 and web.get(put + "2").status_code == 404


def test_blobs_and_ranges(registry: FaultRegistry, web: requests.Session) -> None:
    url, size = blob_url(registry), len(DATA)
    assert web.get(url).content == DATA
    assert web.head(url).headers["Content-Length"] == str(size)
    for asked, start, end in (
        ("5-9", 5, 10),
        (f"{size - 3}-", size - 3, size),
        ("-4", size - 4, size),
        ("9-999999999", 9, size),
    ):
        part = web.get(url, headers={"Range": f"bytes={asked}"})
        assert part.status_code == 206 and part.content == DATA[start:end]
        assert part.headers["Content-Range"] == f"bytes {start}-{end - 1}/{size}"
    beyond = web.get(url, headers={"Range": f"bytes={size}-"})
    assert beyond.status_code == 416 and beyond.headers["Content-Range"] == f"bytes */{size}"
    assert web.delete(url).status_code == 202 and web.get(url).status_code == 404


def begin(registry: FaultRegistry, web: requests.Session, name: str = "new/app") -> str:
    started = web.post(f"{registry.url}/v2/{name}/blobs/uploads/")
    assert started.status_code == 202 and started.headers["Range"] == "0-0"
    return started.headers["Location"]


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_a_monolithic_upload(registry: FaultRegistry, web: requests.Session, algorithm: str) -> None:
    digest = digest_of(DATA, algorithm)
    done = web.put(begin(registry, web) + f"&digest={digest}", data=DATA)
    assert done.status_code == 201 and done.headers["Docker-Content-Digest"] == digest
    assert web.get(done.headers["Location"]).content == DATA
    once = web.post(f"{registry.url}/v2/once/blobs/uploads/?digest={digest}", data=DATA)
    assert once.status_code == 201 and registry.repository("once").blobs == {digest: DATA}
    registry.single_post = False
    assert web.post(f"{registry.url}/v2/x/blobs/uploads/?digest={digest}", data=DATA).status_code == 202


def test_a_wrong_digest_ends_an_upload(registry: FaultRegistry, web: requests.Session) -> None:
    place = begin(registry, web)
    wrong = web.put(place + "&digest=sha256:" + "0" * 64, data=DATA)
    assert wrong.status_code == 400 and error_code(wrong) == "DIGEST_INVALID"
    assert error_code(web.get(place)) == "BLOB_UPLOAD_UNKNOWN"


def test_a_chunked_upload(registry: FaultRegistry, web: requests.Session) -> None:
    place = begin(registry, web)
    first = web.patch(place, data=DATA[:1000], headers={"Content-Range": "0-999"})
    assert (first.status_code, first.headers["Range"]) == (202, "0-999")
    again = web.patch(place, data=DATA[:1000], headers={"Content-Range": "0-999"})
    assert again.status_code == 416 and again.headers["Range"] == "0-999"
    state = web.get(first.headers["Location"])
    assert (state.status_code, state.headers["Range"]) == (204, "0-999")
    streamed = web.patch(place, data=iter([DATA[1000:5000], DATA[5000:-1]]))
    assert streamed.headers["Range"] == f"0-{len(DATA) - 2}"
    assert web.put(place + f"&digest={DIGEST}", data=DATA[-1:]).status_code == 201
    assert registry.repository("new/app").blobs == {DIGEST: DATA}
    assert registry.bytes_received("PATCH") == len(DATA) - 1 + 1000


def test_an_upload_is_cancelled(registry: FaultRegistry, web: requests.Session) -> None:
    place = begin(registry, web)
    assert web.delete(place).status_code == 204
    assert web.get(place).status_code == 404
    assert web.get(begin(registry, web).partition("?")[0]).status_code == 404, "the Location's query counts"


def test_an_old_location_may_be_worth_nothing(registry: FaultRegistry, web: requests.Session) -> None:
    registry.rolling_state = True
    place = begin(registry, web)
    new = web.patch(place, data=b"abc").headers["Location"]
    assert new != place and web.get(place).status_code == 404 and web.get(new).headers["Range"] == "0-2"
    registry.fault(faults.CutUpload(5), method="PATCH")
    with pytest.raises(requests.exceptions.ConnectionError):
        web.patch(new, data=DATA)
    assert web.get(new).status_code == 404, (
        "as docker-registry does, which then has more than the Location says"
    )


def test_a_registry_may_lack_things(registry: FaultRegistry, web: requests.Session) -> None:
    registry.chunks = registry.deletes = registry.catalog = registry.referrers_api = False
    registry.min_chunk = 1000
    assert error_code(web.patch(begin(registry, web), data=b"x")) == "UNSUPPORTED"
    assert web.delete(blob_url(registry)).status_code == 405
    assert web.get(registry.url + "/v2/_catalog").status_code == 404
    assert web.get(f"{registry.url}/v2/team/app/referrers/{DIGEST}").status_code == 404
    registry.chunks = True
    place = begin(registry, web)
    assert error_code(web.patch(place, data=b"x")) == "SIZE_INVALID"
    registry.relative_locations = True
    assert begin_relative(registry, web).startswith("/v2/new/app/blobs/uploads/")


def begin_relative(registry: FaultRegistry, web: requests.Session) -> str:
    return web.post(f"{registry.url}/v2/new/app/blobs/uploads/").headers["Location"]


def test_mounts(registry: FaultRegistry, web: requests.Session) -> None:
    url = f"{registry.url}/v2/other/blobs/uploads/?mount={DIGEST}"
    assert web.post(url + "&from=nobody").status_code == 202
    assert web.post(url).status_code == 202
    registry.mounts = False
    assert web.post(url + "&from=team/app").status_code == 202
    registry.mounts = True
    done = web.post(url + "&from=team/app")
    assert done.status_code == 201 and web.get(done.headers["Location"]).content == DATA


def pages(web: requests.Session, url: str, key: str) -> list[list[str]]:
    found = []
    while url:
        answer = web.get(url)
        found.append(answer.json()[key])
        url = answer.links.get("next", {}).get("url", "")
    return found


def test_lists_have_pages(registry: FaultRegistry, web: requests.Session) -> None:
    image = Image.make([])
    for tag in ("b", "a", "c", "1"):
        registry.put("team/app", tag, image)
    registry.put("team/other", "1", image)
    tags, names = registry.url + "/v2/team/app/tags/list", registry.url + "/v2/_catalog"
    assert pages(web, tags, "tags") == [["1", "a", "b", "c"]]
    assert pages(web, tags + "?n=3", "tags") == [["1", "a", "b"], ["c"]]
    assert pages(web, tags + "?last=a", "tags") == [["b", "c"]]
    assert pages(web, tags + "?n=0", "tags") == [[]]
    registry.page = 1
    assert pages(web, names, "repositories") == [["team/app"], ["team/other"]]
    assert pages(web, tags + "?n=3", "tags") == [["1"], ["a"], ["b"], ["c"]]


def test_referrers(registry: FaultRegistry, web: requests.Session) -> None:
    image = registry.put_image("team/app", "1", [])
    subject = images_made.descriptor(image.media_type, image.raw)
    kinds = ["text/a", "text/b"]
    for kind in kinds:
        made = Image.make([], subject=subject, artifact_type=kind, annotations={"of": kind})
        registry.put("team/app", None, made)
        headers = {"Content-Type": made.media_type}
        url = f"{registry.url}/v2/team/app/manifests/{made.digest}"
        assert web.put(url, data=made.raw, headers=headers).headers["OCI-Subject"] == image.digest
    url = f"{registry.url}/v2/team/app/referrers/{image.digest}"
    answer = web.get(url)
    assert answer.headers["Content-Type"] == images_made.OCI_INDEX
    assert sorted(part["artifactType"] for part in answer.json()["manifests"]) == kinds
    chosen = web.get(url, params={"artifactType": "text/b"})
    assert chosen.headers["OCI-Filters-Applied"] == "artifactType"
    assert [part["annotations"] for part in chosen.json()["manifests"]] == [{"of": "text/b"}]
    registry.page = 1
    listed = [parts[0]["artifactType"] for parts in pages(web, url, "manifests")]
    assert sorted(listed) == kinds
    assert web.get(f"{registry.url}/v2/none/referrers/{DIGEST}").json()["manifests"] == []


def test_basic_authentication(web: requests.Session) -> None:
    with FaultRegistry(auth="basic", access=Access(public={"free"}, only={"user": {"mine"}})) as registry:
        for name in ("free", "mine", "theirs"):
            registry.put_blob(name, DATA)
        asked = web.get(registry.url + "/v2/")
        assert asked.status_code == 401 and asked.headers["WWW-Authenticate"].startswith("Basic ")
        url = registry.url + "/v2/{}/blobs/" + DIGEST
        assert web.get(url.format("free")).status_code == 200
        web.auth = ("user", "secret")
        assert web.get(registry.url + "/v2/").status_code == 200
        assert web.get(url.format("mine")).status_code == 200
        assert web.get(url.format("theirs")).status_code == 403
        web.auth = ("user", "wrong")
        assert web.get(url.format("mine")).status_code == 401
        assert registry.log[-1].authorization is not None


def token(registry: FaultRegistry, web: requests.Session, scope: str, **options: Any) -> str:
    query = {"service": "fault-registry", "scope": scope}
    answer = web.get(registry.tokens.realm, params=query, **options)
    assert answer.status_code == 200
    return str(answer.json()["token"])


def test_bearer_authentication(web: requests.Session) -> None:
    with FaultRegistry(auth="bearer") as registry:
        for name in ("one", "two"):
            registry.put_blob(name, DATA)
        url = registry.url + "/v2/{}/blobs/" + DIGEST
        asked = web.get(url.format("one"))
        assert asked.headers["WWW-Authenticate"] == (
            f'Bearer realm="{registry.tokens.realm}",service="fault-registry",scope="repository:one:pull"'
        )
        start = web.post(registry.url + "/v2/one/blobs/uploads/")
        assert start.headers["WWW-Authenticate"].endswith('scope="repository:one:pull,push"')
        me = ("user", "secret")
        assert web.get(registry.tokens.realm, auth=("user", "wrong")).status_code == 401
        held = {"Authorization": "Bearer " + token(registry, web, "repository:one:pull", auth=me)}
        nobody = {"Authorization": "Bearer " + token(registry, web, "repository:one:pull")}
        assert web.get(url.format("one"), headers=held).status_code == 200
        assert web.get(registry.url + "/v2/", headers=nobody).status_code == 200
        for headers, name in ((held, "two"), (nobody, "one")):
            refused = web.get(url.format(name), headers=headers)
            assert refused.headers["WWW-Authenticate"].endswith('error="insufficient_scope"')
        assert web.post(registry.url + "/v2/one/blobs/uploads/", headers=held).status_code == 401
        registry.fault(faults.ExpireTokens(), path="/blobs/")
        expired = web.get(url.format("one"), headers=held)
        assert expired.status_code == 401 and 'error="invalid_token"' in expired.headers["WWW-Authenticate"]
        registry.tokens.life = 0.05
        held = {"Authorization": "Bearer " + token(registry, web, "repository:one:pull", auth=me)}
        time.sleep(0.1)
        assert web.get(url.format("one"), headers=held).status_code == 401
        assert registry.tokens.fetches() == 4


def test_refresh_tokens(web: requests.Session) -> None:
    with FaultRegistry(auth="bearer") as registry:
        form = {"service": "fault-registry", "client_id": "tests", "scope": "repository:one:pull"}
        by_password = {**form, "grant_type": "password", "username": "user", "password": "secret"}
        first = web.post(registry.tokens.realm, data={**by_password, "access_type": "offline"}).json()
        registry.tokens.field = "access_token"
        by_token = {**form, "grant_type": "refresh_token", "refresh_token": first["refresh_token"]}
        second = web.post(registry.tokens.realm, data=by_token)
        assert registry.tokens.grants[second.json()["access_token"]].actions == {"repository:one": {"pull"}}
        wrong = {**by_token, "refresh_token": "no"}
        assert web.post(registry.tokens.realm, data=wrong).status_code == 401
        registry.tokens.post = False
        assert web.post(registry.tokens.realm, data=by_token).status_code == 405


def test_tls(certificates: Certificates, web: requests.Session) -> None:
    web.verify = str(certificates.authority)
    with FaultRegistry(tls=certificates.server_context()) as registry:
        registry.put_blob("team/app", DATA)
        assert registry.url.startswith("https://") and fetch(registry, web).content == DATA
        with pytest.raises(requests.exceptions.SSLError):
            requests.get(registry.url + "/v2/", timeout=10)
        registry.fault(faults.Truncate(1000, reset=True))
        with pytest.raises(requests.exceptions.RequestException):
            fetch(registry, web)
        with socket.create_connection(("127.0.0.1", registry.port)):
            registry.close()
    with (
        FaultRegistry(tls=certificates.server_context(misnamed=True)) as registry,
        pytest.raises(requests.exceptions.SSLError),
    ):
        web.get(registry.url + "/v2/")
    with FaultRegistry(tls=certificates.server_context(clients=True)) as registry:
        assert web.get(registry.url + "/v2/", cert=certificates.client).status_code == 200


@pytest.mark.parametrize("auth", [None, "basic", "bearer"])
def test_skopeo_copies(auth: str | None, tmp_path: Path) -> None:
    need(shutil.which("skopeo") is not None, "skopeo")
    with FaultRegistry(auth=auth) as registry:
        image = Image.make([layer({"a": b"b"}), layer({}, whiteouts=["a"])], compression=["gzip", "zstd"])
        other = Image.make([layer({"c": b"d"})], platform="linux/arm64", docker=True, compression="gzip")
        index = registry.put_index("team/app", "1", [image, other])
        login = [f"--{side}-{what}" for side in ("src", "dest") for what in ("tls-verify=false",)]
        if auth:
            login += ["--src-creds=user:secret", "--dest-creds=user:secret"]
        name = f"docker://{registry.host}/team/"
        for source, target in ((name + "app:1", name + "copy:2"), (name + "copy:2", f"dir:{tmp_path}/d")):
            options = [o for o in login if "dest-creds" not in o or target.startswith("docker")]
            command = ["skopeo", "--insecure-policy", "copy", "--all", *options, source, target]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
        copied = registry.repository("team/copy")
        assert copied.manifests[copied.tags["2"]].raw == index.raw
        assert copied.blobs == {**image.blobs, **other.blobs}
        assert (tmp_path / "d" / "manifest.json").read_bytes() == index.raw


# What goes wrong


def test_faults_are_counted(registry: FaultRegistry, web: requests.Session) -> None:
    registry.fault(faults.Status(503), method="GET", path="/blobs/", after=1, times=2)
    assert [fetch(registry, web).status_code for _ in range(5)] == [200, 503, 503, 200, 200]
    assert [request.faults for request in registry.log[:2]] == [[], ["Status"]]
    assert registry.count("GET", "/blobs/") == 5 and registry.bytes_sent("GET", DIGEST) > 3 * len(DATA)
    for_ever = registry.fault(faults.Status(500), times=None)
    assert {fetch(registry, web).status_code for _ in range(5)} == {500}
    for_ever.stop()
    assert fetch(registry, web).status_code == 200 and for_ever.hits == 5
    registry.fault(faults.Status(418), where=lambda request: "range" in request.headers)
    assert fetch(registry, web).status_code == 200
    assert fetch(registry, web, headers={"Range": "bytes=0-0"}).status_code == 418
    registry.forget()
    assert registry.log == [] and registry.connections == 1


def test_statuses(registry: FaultRegistry, web: requests.Session) -> None:
    registry.fault(faults.Status(429, headers={"Retry-After": "7"}, error="TOOMANYREQUESTS"))
    answer = fetch(registry, web)
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "7")
    assert error_code(answer) == "TOOMANYREQUESTS"
    registry.fault(faults.Challenge(['Bearer realm="http://example.com/"', "Basic"]))
    assert fetch(registry, web).headers["WWW-Authenticate"] == 'Bearer realm="http://example.com/", Basic'
    registry.fault(faults.Answer(b"{}", "text/plain", headers={"X": "y"}))
    answer = fetch(registry, web)
    assert (answer.content, answer.headers["X"], answer.headers["Content-Type"]) == (b"{}", "y", "text/plain")


def test_an_answer_may_come_before_the_body_is_read(registry: FaultRegistry) -> None:
    registry.fault(faults.Status(413, unread=True), method="POST")
    with socket.create_connection(("127.0.0.1", registry.port)) as sock:
        sock.sendall(b"POST /v2/x/blobs/uploads/?digest=x HTTP/1.1\r\nContent-Length: 1000000\r\n\r\nabc")
        assert sock.recv(12) == b"HTTP/1.1 413"
    assert registry.bytes_received() == 0


def test_expect_100_continue(registry: FaultRegistry) -> None:
    head = f"POST /v2/x/blobs/uploads/?digest={DIGEST} HTTP/1.1\r\nContent-Length: {len(DATA)}\r\n"
    with socket.create_connection(("127.0.0.1", registry.port)) as sock:
        sock.sendall(head.encode() + b"Expect: 100-continue\r\n\r\n")
        assert sock.recv(99) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(DATA)
        assert sock.recv(12) == b"HTTP/1.1 201"


@pytest.mark.parametrize("reset", [True, False])
def test_closed_before_the_answer(registry: FaultRegistry, reset: bool) -> None:
    registry.fault(faults.Close(reset=reset))
    connection = http.client.HTTPConnection(registry.host)
    connection.request("GET", "/v2/")
    with pytest.raises(ConnectionResetError if reset else http.client.RemoteDisconnected) as caught:
        connection.getresponse()
    assert isinstance(caught.value, http.client.RemoteDisconnected) is not reset
    connection.close()
    assert registry.log[0].status is None


@pytest.mark.parametrize("tls", [False, True])
def test_truncated(certificates: Certificates, web: requests.Session, tls: bool) -> None:
    web.verify = str(certificates.authority)
    with FaultRegistry(tls=certificates.server_context() if tls else None) as registry:
        registry.put_blob("team/app", DATA)
        registry.fault(faults.Truncate(70_000))
        answer = fetch(registry, web, stream=True)
        assert answer.headers["Content-Length"] == str(len(DATA))
        assert answer.raw.read(70_000, decode_content=False) == DATA[:70_000]
        with pytest.raises(Exception, match=r"IncompleteRead|EOF"):
            answer.raw.read(1)
        assert registry.log[0].sent == 70_000
        rest = fetch(registry, web, headers={"Range": "bytes=70000-"})
        assert rest.content == DATA[70_000:] and registry.bytes_sent() == len(DATA)


def test_changed_bodies(registry: FaultRegistry, web: requests.Session) -> None:
    registry.fault(faults.Flip(70_001, bit=3))
    changed = fetch(registry, web).content
    assert [(at, a ^ b) for at, (a, b) in enumerate(zip(changed, DATA, strict=True)) if a != b] == [
        (70_001, 8)
    ]
    registry.fault(faults.More(b"xyz"))
    assert fetch(registry, web).content == DATA + b"xyz"
    registry.fault(faults.More(fewer=3))
    assert fetch(registry, web).content == DATA[:-3]
    registry.fault(faults.Encoded())
    packed = fetch(registry, web, stream=True)
    assert gzip.decompress(packed.raw.read(decode_content=False)) == DATA
    registry.fault(faults.Encoded(lie=True))
    assert fetch(registry, web, stream=True).raw.read(decode_content=False) == DATA
    registry.fault(faults.Chunked())
    chunked = fetch(registry, web)
    assert chunked.content == DATA and "Content-Length" not in chunked.headers
    registry.fault([faults.Chunked(), faults.Truncate(1000)])
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        fetch(registry, web)
    registry.fault(faults.Garbage(b"SSH-2.0-x\r\n"))
    with pytest.raises(requests.exceptions.ConnectionError, match="SSH"):
        fetch(registry, web)
    assert fetch(registry, web).content == DATA


def test_wrong_sizes(registry: FaultRegistry, web: requests.Session) -> None:
    registry.fault(faults.WrongSize(5))
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        fetch(registry, web)
    registry.fault(faults.WrongSize(-5))
    assert fetch(registry, web).content == DATA[:-5]
    # There is more in that connection than was asked for.
    web.close()
    registry.fault(faults.Header("Content-Length", None))
    answer = fetch(registry, web)
    assert "Content-Length" not in answer.headers and answer.content == DATA


@pytest.mark.parametrize(
    "action", [faults.Endless(), faults.Endless(length=1 << 40), faults.Endless(chunked=True)]
)
def test_endless(registry: FaultRegistry, web: requests.Session, action: faults.Endless) -> None:
    registry.fault(action)
    with fetch(registry, web, stream=True) as answer:
        count = 0
        for piece in answer.iter_content(1 << 20):
            count += len(piece)
            if count > 20 << 20:
                break


def test_stalls(registry: FaultRegistry, web: requests.Session) -> None:
    for after_bytes in (None, 0, 1000):
        fault = registry.fault(faults.Stall(after_bytes=after_bytes))
        with pytest.raises(requests.exceptions.RequestException, match="timed out"):
            web.get(blob_url(registry), timeout=0.2)
        assert fault.hit.is_set() and registry.log[-1].sent == (after_bytes or 0)
        fault.release()
    fault = registry.fault(faults.Stall(after_bytes=1000))
    timer = threading.Timer(0.2, fault.release)
    timer.start()
    begun = time.monotonic()
    assert fetch(registry, web).content == DATA and time.monotonic() - begun >= 0.2
    timer.join()
    registry.fault(faults.Stall(0.2))
    assert fetch(registry, web).elapsed.total_seconds() >= 0.2
    registry.fault(faults.Slow(len(DATA) / 0.3))
    begun = time.monotonic()
    assert fetch(registry, web).content == DATA and time.monotonic() - begun >= 0.25


def test_uploads_stall(registry: FaultRegistry, web: requests.Session) -> None:
    data = bytes(20 << 20)
    fault = registry.fault(faults.StallUpload(1 << 20), method="PUT")
    place = begin(registry, web) + f"&digest={digest_of(data)}"
    with pytest.raises(requests.exceptions.RequestException):
        web.put(place, data=data, timeout=0.3)
    assert 1 << 20 <= registry.bytes_received("PUT") < 3 << 20
    fault.release()
    registry.fault(faults.SlowUpload(100 << 20), method="PUT")
    begun = time.monotonic()
    place = begin(registry, web) + f"&digest={digest_of(data)}"
    assert web.put(place, data=data).status_code == 201
    assert time.monotonic() - begun > 0.15


def test_headers_that_lie(registry: FaultRegistry, web: requests.Session) -> None:
    part = {"Range": "bytes=5-9"}
    for action, name, said in (
        (faults.digest_header("sha256:" + "0" * 64), "Docker-Content-Digest", "sha256:" + "0" * 64),
        (faults.digest_header(None), "Docker-Content-Digest", None),
        (faults.content_type("text/html"), "Content-Type", "text/html"),
        (faults.content_range("bytes 0-4/5"), "Content-Range", "bytes 0-4/5"),
        (faults.link("http://example.com/"), "Link", '<http://example.com/>; rel="next"'),
    ):
        registry.fault(action)
        answer = fetch(registry, web, headers=part)
        assert answer.headers.get(name) == said and answer.content == DATA[5:10]


def test_ranges_that_lie(registry: FaultRegistry, web: requests.Session) -> None:
    part = {"Range": "bytes=5-9"}
    registry.fault(faults.IgnoreRange())
    answer = fetch(registry, web, headers=part)
    assert (answer.status_code, answer.content) == (200, DATA)
    registry.fault(faults.OtherRange(2))
    answer = fetch(registry, web, headers=part)
    assert answer.content == DATA[7:12] and answer.headers["Content-Range"].startswith("bytes 7-11/")
    registry.fault(faults.Status(416))
    assert fetch(registry, web, headers=part).status_code == 416


def test_redirects(registry: FaultRegistry, web: requests.Session) -> None:
    with Storage({"/there": DATA}) as storage:
        registry.fault(faults.Redirect(storage.url + "/there"))
        assert fetch(registry, web, headers={"Range": "bytes=1-2"}).content == DATA[1:3]
        assert storage.log[0].headers["range"] == "bytes=1-2"
        assert web.get(storage.url + "/there", auth=("a", "b")).status_code == 400
    registry.fault(faults.Redirect("http://" + registry.alias + "{target}"))
    with web.get(blob_url(registry) + "?a=b") as answer:
        assert (
            answer.content == DATA and answer.url == f"http://{registry.alias}/v2/team/app/blobs/{DIGEST}?a=b"
        )
    registry.fault(faults.Redirect("{target}", code=302), times=None)
    with pytest.raises(requests.exceptions.TooManyRedirects):
        fetch(registry, web)


def test_locations(registry: FaultRegistry, web: requests.Session) -> None:
    url = f"{registry.url}/v2/x/blobs/uploads/"
    for action, said in (
        (faults.location("http://example.com/up?x=y"), r"http://example\.com/up\?x=y"),
        (faults.RelativeLocation(), r"/v2/x/blobs/uploads/.*_state=.*"),
        (faults.location(None), "None"),
    ):
        registry.fault(action, method="POST")
        assert re.fullmatch(said, str(web.post(url).headers.get("Location")))


def test_lost_answers(registry: FaultRegistry, web: requests.Session) -> None:
    image = Image.make([])
    registry.put("new/app", None, image)
    manifest = f"{registry.url}/v2/new/app/manifests/1"
    place = begin(registry, web)
    for method, url, data in (
        ("PATCH", place, DATA[:500]),
        ("PUT", place + f"&digest={DIGEST}", DATA[500:]),
        ("PUT", manifest, image.raw),
    ):
        fault = registry.fault(faults.LostAnswer(), method=method)
        with pytest.raises(requests.exceptions.ConnectionError):
            web.request(method, url, data=data, headers={"Content-Type": image.media_type})
        assert fault.hits == 1 and registry.log[-1].status is None
    assert registry.repository("new/app").blobs[DIGEST] == DATA
    assert web.get(manifest).content == image.raw


def test_an_upload_that_breaks_is_kept_as_far_as_it_came(
    registry: FaultRegistry, web: requests.Session
) -> None:
    data = bytes(5 << 20)
    place = begin(registry, web)
    registry.fault(faults.CutUpload(1_500_000), method="PATCH")
    with pytest.raises(requests.exceptions.ConnectionError):
        web.patch(place, data=data)
    assert registry.bytes_received("PATCH") == 1_500_000
    assert web.get(place).headers["Range"] == "0-1499999"
    registry.fault(faults.Close(1000), method="PATCH")
    with pytest.raises(requests.exceptions.ConnectionError):
        web.patch(place, data=data)
    assert web.get(place).headers["Range"] == "0-1499999", "Close carries nothing out"
    web.patch(place, data=data[1_500_000:])
    assert web.put(place + f"&digest={digest_of(data)}").status_code == 201


def test_hostile_contents(registry: FaultRegistry, web: requests.Session) -> None:
    wrong = "sha256:" + "1" * 64
    registry.put_manifest("evil", "self", images_made.self_index(wrong), images_made.OCI_INDEX, digest=wrong)
    answer = web.get(f"{registry.url}/v2/evil/manifests/self")
    assert answer.json()["manifests"][0]["digest"] == answer.headers["Docker-Content-Digest"] == wrong
    twice = images_made.with_key_twice(Image.make([]).raw, "layers", [])
    assert twice.count(b'"layers"') == 2 and json.loads(twice)["layers"] == []
    registry.put_manifest("evil", "twice", twice, images_made.OCI_MANIFEST)
    assert web.get(f"{registry.url}/v2/evil/manifests/twice").content == twice
    deep = images_made.nested(5, Image.make([]))
    registry.put("evil", "deep", deep)
    assert len(registry.repository("evil").manifests) == 2 + 5 + 1


# Its end


def test_nothing_is_left_when_it_ends() -> None:
    with unchanged(ignore=OTHERS):
        with FaultRegistry(auth="bearer") as registry, requests.Session() as session:
            registry.put_blob("team/app", DATA)
            registry.access.public.add("team/app")
            held = {"Authorization": "Bearer " + token(registry, session, "repository:team/app:pull")}
            fault = registry.fault([faults.Stall(after_bytes=100)], path="/blobs/")
            answer = session.get(blob_url(registry), headers=held, stream=True)
            assert fault.hit.wait(10)
            with socket.create_connection(("127.0.0.1", registry.port)) as idle:
                while registry.connections < 2:
                    time.sleep(0.001)
                registry.close()
                assert idle.recv(1) == b""
            answer.close()
        registry.close()


def test_its_own_errors_are_not_hidden(web: requests.Session) -> None:
    class Wrong(FaultRegistry):
        def answer(self, request: Any) -> Any:
            raise ZeroDivisionError

    with (
        pytest.raises(AssertionError, match="Wrong itself failed"),
        Wrong() as registry,
        pytest.raises(requests.exceptions.ConnectionError),
    ):
        web.get(registry.url)


def test_it_takes_more_than_one_at_a_time(registry: FaultRegistry) -> None:
    fault = registry.fault(faults.Stall(), times=8, method="GET")
    done: list[bytes] = []

    def get() -> None:
        done.append(requests.get(blob_url(registry), timeout=10).content)

    threads = [threading.Thread(target=get) for _ in range(8)]
    for thread in threads:
        thread.start()
    while fault.hits < 8:
        time.sleep(0.01)
    assert done == []
    fault.release()
    for thread in threads:
        thread.join()
    assert [hashlib.sha256(data).hexdigest() for data in done] == [DIGEST[7:]] * 8


# The images


def test_images_are_what_they_say() -> None:
    image = images_made.many_layers(compression=None)
    assert len(image.layer_digests) == len(set(image.layer_digests)) == 20
    assert image.config["rootfs"]["diff_ids"] == image.layer_digests, "uncompressed"
    assert image == images_made.many_layers(compression=None)
    long = Image.make([layer({"a": b"b"})], algorithm="sha512", docker=True)
    assert all(digest.startswith("sha512:") for digest in (long.digest, *long.blobs))
    assert long.document["layers"][0]["mediaType"] == images_made.DOCKER_LAYER + ".gzip"
    assert [len(long.blobs[digest]) for digest in long.layer_digests] == long.layer_sizes
    index = Index.make([image, Image.make([], platform="linux/arm/v7")], annotations={"a": "b"})
    parts = json.loads(index.raw)["manifests"]
    assert parts[1]["platform"] == {"os": "linux", "architecture": "arm", "variant": "v7"}
    with pytest.raises(ValueError, match="lzma"):
        Image.make([b""], compression="lzma")
