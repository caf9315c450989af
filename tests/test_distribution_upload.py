"""Blobs to a registry: in one piece and in chunks, resumed where the registry says that it is."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from distribution_clients import Connect, connect, registry
from fault_registry import FaultRegistry, Upload
from pycontainer.distribution import upload
from pycontainer.distribution.chunks import Chunks
from pycontainer.errors import AuthError, DigestMismatch, RegistryError, TransportError
from pycontainer.oci.digest import Digest
from registries import RealRegistry, plain_registry
from registry_faults import (
    Close,
    CutUpload,
    Header,
    LostAnswer,
    Redirect,
    Stall,
    Status,
    digest_header,
    location,
)

__all__ = ["connect", "plain_registry", "registry"]

DATA = os.urandom(1_000_000)
DIGEST = Digest.of(DATA)
CHUNK = 100_000


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "CHUNK", CHUNK)


class Content:
    """Content in odd pieces; `reads` are the offsets that it was asked for."""

    def __init__(self, data: bytes = DATA) -> None:
        self.data = data
        self.reads: list[int] = []
        self.open = 0

    def __call__(self, offset: int) -> Iterator[bytes]:
        self.reads.append(offset)
        self.open += 1
        try:
            for start in range(offset, len(self.data), 33_333):
                yield self.data[start : start + 33_333]
                yield b""
        finally:
            self.open -= 1


def stored(registry: FaultRegistry) -> dict[str, bytes]:
    return registry.repository("team/app").blobs


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("size", [0, 1, CHUNK, CHUNK + 1, len(DATA)])
@pytest.mark.parametrize("relative", [True, False])
def test_all_sizes(registry: FaultRegistry, connect: Connect, known: bool, size: int, relative: bool) -> None:
    registry.relative_locations, registry.rolling_state = relative, not relative
    data = DATA[:size]
    content, sent = Content(data), list[int]()
    pushed = connect(registry.host).push_blob(
        "team/app",
        content,
        digest=Digest.of(data) if known else None,
        size=size if known else None,
        sent=sent.append,
    )
    assert (pushed.digest, pushed.size) == (Digest.of(data), size)
    assert stored(registry) == {str(pushed.digest): data}
    assert content.reads == [0] and content.open == 0
    assert sent == sorted(sent) and (not data or sent[-1] == size)
    assert registry.bytes_received() == size
    assert registry.count("PATCH") == (0 if size <= CHUNK else -(-size // CHUNK))


FAULTS = {
    "patch cut": (CutUpload(50_000), "PATCH"),
    "patch cut at its start": (CutUpload(0), "PATCH"),
    "patch dropped": (Close(after_bytes=50_000), "PATCH"),
    "patch lost": (LostAnswer(), "PATCH"),
    "patch stalls": (Stall(), "PATCH"),
    "patch refused": (Status(503), "PATCH"),
    "patch refused unread": (Status(500, unread=True), "PATCH"),
    "patch limited": (Status(429, headers={"Retry-After": "0"}), "PATCH"),
    "patch out of place": (Status(416), "PATCH"),
    "start lost": (LostAnswer(), "POST"),
    "start refused": (Status(502), "POST"),
    "end lost": (LostAnswer(), "PUT"),
    "end refused": (Status(503), "PUT"),
    "end dropped": (Close(), "PUT"),
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("after", [0, 4])
def test_it_goes_on(registry: FaultRegistry, connect: Connect, name: str, after: int) -> None:
    fault, method = FAULTS[name]
    arranged = registry.fault(fault, method=method, after=after if method == "PATCH" else 0)
    content = Content()
    pushed = connect(registry.host, timeout=0.5).push_blob("team/app", content)
    assert arranged.hits == 1
    assert pushed.digest == DIGEST and stored(registry) == {DIGEST: DATA}
    assert registry.bytes_received() <= 1.1 * len(DATA) + CHUNK
    assert content.reads == [0], "chunks are sent again from memory"


@pytest.mark.parametrize("fault", [LostAnswer(), CutUpload(30_000), Close(), Status(500)], ids=str)
def test_one_piece_goes_on(registry: FaultRegistry, connect: Connect, fault: object) -> None:
    data = DATA[:CHUNK]
    registry.fault(fault, method="PUT")  # type: ignore[arg-type]
    pushed = connect(registry.host).push_blob(
        "team/app", Content(data), digest=Digest.of(data), size=len(data)
    )
    assert stored(registry) == {str(pushed.digest): data}
    if isinstance(fault, LostAnswer):
        assert registry.count("HEAD", "/blobs/") == 1 and registry.bytes_received() == len(data)


def test_an_upload_that_is_gone_is_begun_anew(registry: FaultRegistry, connect: Connect) -> None:
    registry.fault(Status(404, error="BLOB_UPLOAD_UNKNOWN"), method="PATCH|GET", after=5, times=2)
    content = Content()
    connect(registry.host).push_blob("team/app", content)
    assert stored(registry) == {DIGEST: DATA} and content.reads == [0, 0]
    registry.fault(Status(404, error="BLOB_UPLOAD_UNKNOWN"), method="PATCH|GET", times=None)
    with pytest.raises(RegistryError):
        connect(registry.host).push_blob("team/app", Content())


def test_what_the_registry_lost_is_sent_again(registry: FaultRegistry, connect: Connect) -> None:
    """It says that it has less than was acknowledged."""

    def forget(request: object) -> bool:
        for one in registry.repository("team/app").uploads.values():
            del one.data[150_000:]
        return True

    registry.fault(Status(500), method="PATCH", after=5)
    registry.fault(Header("X-Nothing", "x"), method="GET", path="/uploads/", where=forget)
    content = Content()
    connect(registry.host).push_blob("team/app", content)
    assert stored(registry) == {DIGEST: DATA} and content.reads == [0, 150_000]


@pytest.mark.parametrize("lie", ["0-99999999", "5-10", "nonsense", None])
def test_lies_about_the_place(registry: FaultRegistry, connect: Connect, lie: str | None) -> None:
    registry.fault(Status(500), method="PATCH", after=5)
    registry.fault(Header("Range", lie), method="GET", path="/uploads/")
    connect(registry.host).push_blob("team/app", Content())
    assert stored(registry) == {DIGEST: DATA}


def test_a_range_that_lags_behind_is_not_believed(registry: FaultRegistry, connect: Connect) -> None:
    registry.fault(Header("Range", "0-5"), method="PATCH", times=None)
    connect(registry.host).push_blob("team/app", Content())
    assert stored(registry) == {DIGEST: DATA} and registry.bytes_received() == len(DATA)


def test_least_sizes_of_chunks(registry: FaultRegistry, connect: Connect) -> None:
    registry.min_chunk = 250_000
    connect(registry.host).push_blob("team/app", Content(DATA[:800_000]))
    assert [request.received for request in registry.requests("PATCH|PUT")] == [250_000] * 3 + [50_000]
    registry.min_chunk = 1 << 30
    with pytest.raises(RegistryError, match="chunks of"):
        connect(registry.host).push_blob("team/app", Content())


@pytest.mark.parametrize(
    ("digest", "size", "words"),
    [
        (DIGEST, len(DATA) - 1, "more than 999999"),
        (DIGEST, len(DATA) + 1, "1000000, not 1000001"),
        (None, 5, "more than 5"),
        (Digest.of(b"other"), len(DATA), "DIGEST_INVALID"),
    ],
)
def test_content_that_is_something_else(
    registry: FaultRegistry, connect: Connect, digest: Digest | None, size: int, words: str
) -> None:
    content = Content()
    with pytest.raises(DigestMismatch, match=words):
        connect(registry.host).push_blob("team/app", content, digest=digest, size=size)
    assert not stored(registry) and content.open == 0
    assert registry.count("POST") == 1, "what was sent without a break is not sent again"


def test_the_registry_says_that_it_stored_something_else(registry: FaultRegistry, connect: Connect) -> None:
    registry.fault(digest_header("sha256:" + "0" * 64), method="PUT")
    with pytest.raises(DigestMismatch, match="something else"):
        connect(registry.host).push_blob("team/app", Content())


@pytest.mark.parametrize("fails", [ValueError, OSError, KeyboardInterrupt])
def test_errors_of_the_caller_come_through(
    registry: FaultRegistry, connect: Connect, fails: type[BaseException]
) -> None:
    def raising(_: int) -> None:
        raise fails("mine")

    def content(offset: int) -> Iterator[bytes]:
        yield DATA[:200_000]
        raise fails("mine")

    with pytest.raises(fails, match="mine"):
        connect(registry.host).push_blob("team/app", Content(), sent=raising)
    with pytest.raises(fails, match="mine"):
        connect(registry.host).push_blob("team/app", content)


def test_refused_for_good(registry: FaultRegistry, connect: Connect) -> None:
    registry.fault(Status(403, error="DENIED"), method="PATCH", times=None)
    with pytest.raises(AuthError, match="DENIED"):
        connect(registry.host).push_blob("team/app", Content())
    assert registry.count("PATCH") == 1


def test_patience_ends(registry: FaultRegistry, connect: Connect) -> None:
    registry.fault(Status(500), method="PATCH", times=None)
    with pytest.raises(RegistryError) as caught:
        connect(registry.host).push_blob("team/app", Content())
    assert caught.value.status == 500 and registry.count("PATCH") == 4


def test_credentials_stay_where_they_belong(connect: Connect) -> None:
    """Another host may take the bytes, and never sees who we are."""
    with FaultRegistry(auth="basic") as registry, FaultRegistry() as other:
        client = connect(registry.host, auth=("user", "secret"))
        other.repository("team/app").uploads["1"] = there = Upload()
        registry.fault(
            location(f"{other.url}/v2/team/app/blobs/uploads/1?_state={there.state}"), method="POST", after=1
        )
        client.push_blob("team/app", Content())
        assert stored(other) == {DIGEST: DATA}
        assert all(request.authorization is None for request in other.requests())


def test_redirects_take_the_body_along(registry: FaultRegistry, connect: Connect) -> None:
    registry.fault(Redirect("{target}", code=307), method="PATCH")
    registry.fault(Redirect("{target}", code=308), method="PUT")
    connect(registry.host).push_blob("team/app", Content())
    assert stored(registry) == {DIGEST: DATA}
    registry.fault(Redirect("{target}", code=302), method="PATCH")
    with pytest.raises(TransportError, match="sends on"):
        connect(registry.host).push_blob("team/app", Content())


@pytest.mark.parametrize("to", [None, "ftp://example.com/x", "http://u:p@127.0.0.1/x", "/a\x01b"])
def test_unusable_locations(registry: FaultRegistry, connect: Connect, to: str | None) -> None:
    registry.fault(location(to), method="POST")
    with pytest.raises(TransportError, match="unusable address"):
        connect(registry.host).push_blob("team/app", Content())


@pytest.mark.parametrize("size", [0, 1, CHUNK, 3 * CHUNK + 5])
def test_the_real_registry(plain_registry: RealRegistry, connect: Connect, size: int) -> None:
    data = os.urandom(size)
    pushed = connect(plain_registry.host).push_blob("team/upload", Content(data))
    assert pushed.digest == Digest.of(data)
    assert connect(plain_registry.host).blob_size("team/upload", pushed.digest) == size


def test_chunks_step_back() -> None:
    """Whatever is asked for again is hashed once."""
    content = Content()
    chunks = Chunks(content, None, None, None)

    def joined(offset: int, size: int) -> bytes:
        return b"".join(chunks.take(offset, size))

    assert joined(0, 100) == DATA[:100]
    assert joined(100, 200_000) == DATA[100:200_100]
    assert joined(150_000, 5) == DATA[150_000:200_100]
    assert joined(50, 1000) == DATA[50:1050]
    assert joined(1050, 10_000_000) == DATA[1050:] and chunks.ended
    assert joined(999_999, 5) == DATA[999_999:] and chunks.ended
    assert joined(1_000_000, 5) == b"" and chunks.ended
    assert chunks.digest() == DIGEST and content.reads == [0, 50]
