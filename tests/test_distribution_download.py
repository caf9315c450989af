"""Blobs: verified, resumed, bounded, whatever the registry does."""

from __future__ import annotations

import os
import threading
import time
import tracemalloc

import attrs
import pytest

from distribution_clients import QUICK, Connect, blob_of, connect, registry
from fault_registry import FaultRegistry
from pycontainer.distribution.patience import Patience
from pycontainer.errors import DigestMismatch, NotFound, RateLimited, RegistryError, TransportError
from pycontainer.oci.descriptor import Descriptor
from registry_faults import (
    Chunked,
    Close,
    Encoded,
    Endless,
    Flip,
    Garbage,
    IgnoreRange,
    More,
    OtherRange,
    Slow,
    Stall,
    Status,
    Truncate,
    WrongSize,
    content_range,
)

__all__ = ["connect", "registry"]

DATA = os.urandom(3_000_000)
BLOB = blob_of(DATA)


@pytest.fixture
def filled(registry: FaultRegistry) -> FaultRegistry:
    registry.put_blob("team/app", DATA)
    return registry


def test_a_blob_in_pieces(filled: FaultRegistry, connect: Connect) -> None:
    pieces = list(connect(filled.host).blob("team/app", BLOB))
    assert b"".join(pieces) == DATA
    assert max(map(len, pieces)) <= 1 << 20 and len(pieces) < 200


def test_connections_are_used_again(filled: FaultRegistry, connect: Connect) -> None:
    client = connect(filled.host)
    client.ping()
    filled.forget()
    for _ in range(3):
        assert b"".join(client.blob("team/app", BLOB)) == DATA
        client.has_blob("team/app", BLOB.digest)
    assert len({request.connection for request in filled.requests()}) == 1


def test_sha512_and_nothing_at_all(registry: FaultRegistry, connect: Connect) -> None:
    client = connect(registry.host)
    registry.put_blob("team/app", b"")
    assert b"".join(client.blob("team/app", blob_of(b""))) == b""
    long = registry.put_blob("team/app", DATA, algorithm="sha512")
    assert b"".join(client.blob("team/app", attrs.evolve(BLOB, digest=type(BLOB.digest)(long)))) == DATA


@pytest.mark.parametrize(
    "fault",
    [
        Truncate(1_000_000),
        Truncate(0),
        Truncate(2_999_999, reset=True),
        Close(),
        Status(500),
        Status(429, headers={"Retry-After": "0"}),
        Garbage(b""),
    ],
    ids=str,
)
@pytest.mark.parametrize("times", [1, 3])
def test_what_breaks_off_goes_on(filled: FaultRegistry, connect: Connect, fault: object, times: int) -> None:
    filled.fault(fault, method="GET", path="/blobs/", times=times)  # type: ignore[arg-type]
    assert b"".join(connect(filled.host).blob("team/app", BLOB)) == DATA
    assert filled.bytes_sent("GET", "/blobs/") <= 1.1 * len(DATA) + 4096
    assert 1 < filled.count("GET", "/blobs/") <= times + 1


def test_a_body_without_a_length(filled: FaultRegistry, connect: Connect) -> None:
    filled.fault([Chunked(), Truncate(1_000_000)], path="/blobs/")
    filled.fault(Chunked(), path="/blobs/", times=None)
    assert b"".join(connect(filled.host).blob("team/app", BLOB)) == DATA


def test_a_registry_that_always_cuts_is_borne_as_long_as_it_gets_on(
    filled: FaultRegistry, connect: Connect
) -> None:
    filled.fault(Truncate(1_100_000), method="GET", path="/blobs/", times=None)
    assert b"".join(connect(filled.host).blob("team/app", BLOB)) == DATA
    filled.clear_faults()
    filled.forget()
    filled.fault(Truncate(100), method="GET", path="/blobs/", times=None)
    with pytest.raises(RegistryError):
        list(connect(filled.host).blob("team/app", BLOB))
    assert filled.count("GET", "/blobs/") == QUICK.attempts


@pytest.mark.parametrize("by", [-500_000, 500_000])
def test_another_range_than_asked_for(filled: FaultRegistry, connect: Connect, by: int) -> None:
    filled.fault(Truncate(1_000_000), method="GET", path="/blobs/")
    filled.fault(OtherRange(by), method="GET", path="/blobs/", times=None)
    assert b"".join(connect(filled.host).blob("team/app", BLOB)) == DATA


@pytest.mark.parametrize(
    "lie",
    [
        None,
        "bytes 0-5/10",
        "bytes 1000000-2999999/3000001",
        "bytes 1000000-3000000/3000001",
        "bytes 999999999999999999999-1/*",
        "nonsense",
    ],
)
def test_unusable_range_answers(filled: FaultRegistry, connect: Connect, lie: str | None) -> None:
    """The whole blob is fetched then: nothing can be made of such an answer."""
    filled.fault(Truncate(1_000_000), method="GET", path="/blobs/")
    filled.fault(content_range(lie), method="GET", path="/blobs/")
    assert b"".join(connect(filled.host).blob("team/app", BLOB)) == DATA
    assert "range" not in filled.requests("GET", "/blobs/")[-1].headers


def test_a_range_of_other_bytes_is_found_out(filled: FaultRegistry, connect: Connect) -> None:
    filled.fault(Truncate(1_000_000), method="GET", path="/blobs/")
    filled.fault(
        [OtherRange(1000), content_range("bytes 1000000-2999999/3000000")], path="/blobs/", times=None
    )
    with pytest.raises(DigestMismatch):
        list(connect(filled.host).blob("team/app", BLOB))


def test_no_ranges_at_all(filled: FaultRegistry, connect: Connect) -> None:
    filled.fault(Truncate(1_000_000), method="GET", path="/blobs/")
    filled.fault(IgnoreRange(), method="GET", path="/blobs/")
    assert b"".join(connect(filled.host).blob("team/app", BLOB)) == DATA
    filled.fault(Truncate(1_000_000), method="GET", path="/blobs/")
    filled.fault(Status(416), method="GET", path="/blobs/")
    assert b"".join(connect(filled.host).blob("team/app", BLOB)) == DATA


@pytest.mark.parametrize("offset", [0, 1_500_000, 2_999_999])
def test_one_flipped_bit(filled: FaultRegistry, connect: Connect, offset: int) -> None:
    filled.fault(Flip(offset), method="GET", path="/blobs/")
    seen = 0
    with pytest.raises(DigestMismatch, match=str(BLOB.digest)):
        for piece in connect(filled.host).blob("team/app", BLOB):
            seen += len(piece)
    assert seen <= len(DATA) and filled.count("GET", "/blobs/") == 1


@pytest.mark.parametrize("fault", [More(b"x"), More(fewer=1), WrongSize(1), WrongSize(5_000_000)], ids=str)
def test_wrong_sizes(filled: FaultRegistry, connect: Connect, fault: object) -> None:
    filled.fault(fault, path="/blobs/", times=None)  # type: ignore[arg-type]
    with pytest.raises(RegistryError) as caught:
        list(connect(filled.host).blob("team/app", BLOB))
    assert isinstance(caught.value, DigestMismatch)
    assert filled.bytes_sent("GET", "/blobs/") <= 1.1 * len(DATA)


@pytest.mark.parametrize("fault", [Endless(), Endless(chunked=True), Endless(length=1 << 50)], ids=str)
def test_endless_bodies_end(filled: FaultRegistry, connect: Connect, fault: object) -> None:
    """Without a length, what is over is not even looked at; nothing of it is passed on."""
    filled.fault(fault, path="/blobs/", times=None)  # type: ignore[arg-type]
    seen = 0
    try:
        for piece in connect(filled.host).blob("team/app", BLOB):
            seen += len(piece)
    except DigestMismatch:
        assert seen <= len(DATA)
    else:
        assert seen == len(DATA)


def test_nothing_is_decoded(filled: FaultRegistry, connect: Connect) -> None:
    filled.fault(Encoded(lie=True), path="/blobs/")
    assert b"".join(connect(filled.host).blob("team/app", BLOB)) == DATA
    filled.fault(Encoded(), path="/blobs/", times=None)
    with pytest.raises(DigestMismatch):
        list(connect(filled.host).blob("team/app", BLOB))


def test_a_stall_ends_and_is_resumed(filled: FaultRegistry, connect: Connect) -> None:
    filled.fault(Stall(after_bytes=1_000_000), method="GET", path="/blobs/")
    assert b"".join(connect(filled.host, timeout=0.3).blob("team/app", BLOB)) == DATA
    assert filled.bytes_sent("GET", "/blobs/") <= 1.1 * len(DATA)


def test_a_drip_is_a_stall(filled: FaultRegistry, connect: Connect) -> None:
    filled.fault(Slow(100), method="GET", path="/blobs/", times=None)
    client = connect(filled.host, timeout=0.3, patience=Patience(attempts=1))
    with pytest.raises(TransportError, match="stalled"):
        list(client.blob("team/app", BLOB))


def test_stalls_end(filled: FaultRegistry, connect: Connect) -> None:
    filled.fault(Stall(), method="GET", path="/blobs/", times=None)
    client = connect(filled.host, timeout=0.2, patience=attrs.evolve(QUICK, attempts=2))
    with pytest.raises(TransportError, match="time-out"):
        list(client.blob("team/app", BLOB))


def test_asked_to_wait_too_long(filled: FaultRegistry, connect: Connect) -> None:
    filled.fault(Status(429, headers={"Retry-After": "3600"}), path="/blobs/", times=None)
    with pytest.raises(RateLimited) as caught:
        list(connect(filled.host).blob("team/app", BLOB))
    assert caught.value.retry_after == 3600 and filled.count("GET", "/blobs/") == 1


def test_a_missing_blob(filled: FaultRegistry, connect: Connect) -> None:
    with pytest.raises(NotFound, match="BLOB_UNKNOWN") as caught:
        list(connect(filled.host).blob("team/app", blob_of(b"other")))
    assert caught.value.code == "BLOB_UNKNOWN" and filled.count("GET", "/blobs/") == 1


def test_leaving_early_ends_the_connection(filled: FaultRegistry, connect: Connect) -> None:
    client = connect(filled.host)
    filled.fault(Slow(1_000_000), path="/blobs/")
    started = time.monotonic()
    stream = client.blob("team/app", BLOB)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert time.monotonic() - started < 2.0
    assert b"".join(client.blob("team/app", BLOB)) == DATA


def test_closing_ends_what_others_wait_for(filled: FaultRegistry, connect: Connect) -> None:
    client = connect(filled.host, timeout=30.0)
    filled.fault(Stall(after_bytes=500_000), path="/blobs/", times=None)
    found: list[BaseException] = []
    begun = threading.Event()

    def read() -> None:
        try:
            for _ in client.blob("team/app", BLOB):
                begun.set()
        except RegistryError as error:
            found.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    assert begun.wait(10)
    started = time.monotonic()
    client.close()
    thread.join(10)
    assert not thread.is_alive() and time.monotonic() - started < 5
    assert isinstance(found[0], TransportError) and "closed" in str(found[0])
    with pytest.raises(TransportError, match="closed"):
        client.ping()


def test_many_threads(filled: FaultRegistry, connect: Connect) -> None:
    client = connect(filled.host)
    wrong: list[object] = []

    def read() -> None:
        for _ in range(3):
            if b"".join(client.blob("team/app", BLOB)) != DATA:
                wrong.append("other bytes")

    filled.fault(Truncate(100_000), path="/blobs/", times=5)
    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong and filled.count("GET", "/blobs/") == 29


def test_memory_stays_flat(registry: FaultRegistry, connect: Connect) -> None:
    data = bytes(30_000_000)
    registry.put_blob("team/app", data)
    client = connect(registry.host)
    tracemalloc.start()
    try:
        for _ in client.blob("team/app", blob_of(data)):
            pass
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6 << 20


# Mirrors


def test_a_mirror_is_asked_first(filled: FaultRegistry, connect: Connect) -> None:
    with FaultRegistry() as mirror:
        mirror.put_blob("hub/team/app", DATA)
        client = connect(filled.host, mirrors=[f"{mirror.host}/hub"])
        assert b"".join(client.blob("team/app", BLOB)) == DATA
        assert filled.bytes_sent() == 0
        assert mirror.count("GET", f"/v2/hub/team/app/blobs/{BLOB.digest}") == 1


@pytest.mark.parametrize(
    "fault",
    [Status(404), Status(401), Status(500), Truncate(1_000_000), Close(), Garbage(b"x"), More(b"x")],
    ids=str,
)
def test_the_registry_goes_on_where_a_mirror_fails(
    filled: FaultRegistry, connect: Connect, fault: object
) -> None:
    with FaultRegistry() as mirror:
        mirror.put_blob("team/app", DATA)
        mirror.fault(fault, path="/blobs/", times=None)  # type: ignore[arg-type]
        client = connect(filled.host, mirrors=[f"http://{mirror.host}"])
        assert b"".join(client.blob("team/app", BLOB)) == DATA
        assert filled.bytes_sent() + mirror.bytes_sent("GET", "/blobs/") < 1.4 * len(DATA)


def test_a_mirror_that_lies_is_left_out(filled: FaultRegistry, connect: Connect) -> None:
    with FaultRegistry() as mirror:
        mirror.put_blob("team/app", DATA)
        mirror.fault(Flip(5), path="/blobs/", times=None)
        client = connect(filled.host, mirrors=[mirror.host])
        with pytest.raises(DigestMismatch):
            list(client.blob("team/app", BLOB))
        assert b"".join(client.blob("team/app", BLOB)) == DATA
        assert mirror.count("GET", "/blobs/") == 1


def test_an_unreachable_mirror_is_asked_once(filled: FaultRegistry, connect: Connect) -> None:
    client = connect(filled.host, mirrors=["http://127.0.0.1:1"])
    for _ in range(2):
        assert b"".join(client.blob("team/app", BLOB)) == DATA


def test_a_descriptor_that_lies_about_the_size(filled: FaultRegistry, connect: Connect) -> None:
    for size in (len(DATA) - 1, len(DATA) + 1):
        with pytest.raises(DigestMismatch):
            list(connect(filled.host).blob("team/app", Descriptor("x", BLOB.digest, size)))
