"""One mapping from everything that goes wrong on the wire to the library's errors, without secrets."""

from __future__ import annotations

import http.client
import inspect
import json
import socket
import ssl
import time
import types
from email.utils import formatdate

import pytest
import requests.exceptions
import urllib3.exceptions

from pycontainer.distribution.address import (
    host_of,
    is_loopback,
    onward,
    origin,
    safe_url,
)
from pycontainer.distribution.failures import (
    CODES,
    WIRE_ERRORS,
    Failure,
    of_answer,
    of_exception,
    retry_after,
)
from pycontainer.distribution.patience import Patience, Pauses
from pycontainer.errors import (
    AuthError,
    DigestMismatch,
    InvalidReference,
    NotFound,
    PycontainerError,
    RateLimited,
    RegistryError,
    TransportError,
)

URL = "https://user:hunter2@r.example.com/v2/a/blobs/uploads/1?_state=opensesame&digest=sha256:00#x"
SECRETS = ("hunter2", "opensesame", "user:")

# What the distribution specification lists under "Error Codes" (code-1 to code-14).
SPECIFIED = [
    *(
        "BLOB_UNKNOWN",
        "BLOB_UPLOAD_INVALID",
        "BLOB_UPLOAD_UNKNOWN",
        "DIGEST_INVALID",
        "MANIFEST_BLOB_UNKNOWN",
    ),
    *("MANIFEST_INVALID", "MANIFEST_UNKNOWN", "NAME_INVALID", "NAME_UNKNOWN", "SIZE_INVALID"),
    *("UNAUTHORIZED", "DENIED", "UNSUPPORTED", "TOOMANYREQUESTS"),
]


def exceptions_of(module: types.ModuleType) -> list[type[Exception]]:
    found = [kind for _, kind in inspect.getmembers(module, inspect.isclass)]
    own = [kind for kind in found if kind.__module__ == module.__name__]
    return [kind for kind in own if issubclass(kind, Exception) and not issubclass(kind, Warning)]


ALL = {
    kind
    for module in (requests.exceptions, urllib3.exceptions, http.client)
    for kind in exceptions_of(module)
}


@pytest.mark.parametrize("kind", sorted(ALL, key=lambda kind: f"{kind.__module__}.{kind.__qualname__}"))
def test_every_exception_of_the_packages_is_mapped(kind: type[Exception]) -> None:
    assert issubclass(kind, WIRE_ERRORS), f"{kind} would come through to the caller"
    error = kind.__new__(kind)
    error.args = (f"https://user:hunter2@r.example.com/?token=opensesame {kind}",)
    failure = of_exception(error, "GET", URL)
    assert type(failure.error) is TransportError
    assert failure.error.url == safe_url(URL)
    assert str(failure.error).startswith("GET https://r.example.com/v2/a/blobs/uploads/1?_state=***")
    assert not any(secret in str(failure.error) for secret in SECRETS)


def wrapped(inner: Exception) -> requests.exceptions.ConnectionError:
    """As requests hands it out: around urllib3's around the system's."""
    retried = urllib3.exceptions.MaxRetryError(None, "/secret", inner)  # type: ignore[arg-type]
    return requests.exceptions.ConnectionError(retried)


@pytest.mark.parametrize(
    ("error", "words", "again"),
    [
        (wrapped(socket.gaierror(socket.EAI_NONAME, "x")), "name cannot be resolved", False),
        (wrapped(socket.gaierror(socket.EAI_AGAIN, "x")), "name cannot be resolved", True),
        (wrapped(ConnectionRefusedError(111, "x")), "connection refused", True),
        (wrapped(ConnectionResetError(104, "x")), "connection reset by peer", True),
        (wrapped(ssl.SSLCertVerificationError(1, "x")), "certificate is not trusted", False),
        (wrapped(ssl.SSLEOFError(8, "x")), "broke off", True),
        (wrapped(ssl.SSLError(1, "x")), "TLS failed", False),
        (wrapped(TimeoutError("timed out")), "time-out", True),
        (requests.exceptions.ReadTimeout("x"), "time-out", True),
        (urllib3.exceptions.ProtocolError("x", http.client.IncompleteRead(b"")), "broke off", True),
        (urllib3.exceptions.ProtocolError("x", http.client.RemoteDisconnected("x")), "broke off", True),
        (urllib3.exceptions.ProtocolError("x", http.client.BadStatusLine("x")), "not HTTP", False),
        (requests.exceptions.InvalidURL("x"), "address cannot be used", False),
        (
            wrapped(urllib3.exceptions.ProxyError("x", ConnectionRefusedError(111, "x"))),
            "the proxy: connection refused",
            True,
        ),
    ],
)
def test_what_happened_is_said(error: Exception, words: str, again: bool) -> None:
    failure = of_exception(error, "GET", "https://r.example.com/v2/")
    assert words in str(failure.error) and failure.again is again


def test_codes_are_those_of_the_specification() -> None:
    assert sorted(CODES) == sorted(SPECIFIED)


def body(code: object, message: object = "") -> bytes:
    return json.dumps({"errors": [{"code": code, "message": message}]}).encode()


@pytest.mark.parametrize(
    ("status", "code", "kind", "again"),
    [
        (400, "DIGEST_INVALID", DigestMismatch, False),
        (400, "SIZE_INVALID", DigestMismatch, False),
        (400, "NAME_INVALID", RegistryError, False),
        (401, "UNAUTHORIZED", AuthError, False),
        (403, "DENIED", AuthError, False),
        (404, "MANIFEST_UNKNOWN", NotFound, False),
        (404, None, NotFound, False),
        (405, "UNSUPPORTED", RegistryError, False),
        (407, None, TransportError, False),
        (408, None, RegistryError, True),
        (429, "TOOMANYREQUESTS", RateLimited, True),
        (500, "UNKNOWN", RegistryError, True),
        (501, None, RegistryError, False),
        (503, None, RegistryError, True),
        (599, None, RegistryError, True),
    ],
)
def test_statuses(status: int, code: str | None, kind: type[RegistryError], again: bool) -> None:
    answer = body(code, "why") if code else b"<html>"
    failure = of_answer(status, {}, answer, "GET", URL)
    assert type(failure.error) is kind and failure.again is again
    assert (failure.error.status, failure.error.code) == (status, code)
    assert str(status) in str(failure.error) and (code or "") in str(failure.error)
    assert not any(secret in str(failure.error) for secret in SECRETS)


def test_what_was_sent_is_not_repeated() -> None:
    failure = of_answer(401, {}, body("DENIED", "bad token sesame-123"), "GET", URL, ["sesame-123"])
    assert "bad token ***" in str(failure.error) and "sesame" not in repr(failure)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[" * 100_000,
        b'{"errors": null}',
        b'{"errors": []}',
        b'{"errors": [1]}',
        b'{"errors": {"a": 1}}',
        b"\xff\xfe",
        body(["x"], {"a": 1}),
        body("\x1b[31m", "\x1b[2J\nX" + "y" * 100_000),
    ],
)
def test_hostile_error_bodies(raw: bytes) -> None:
    failure = of_answer(500, {}, raw, "GET", "https://r.example.com/")
    assert str(failure.error).isprintable() and len(str(failure.error)) < 500
    assert failure.error.code is None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        (" 0 ", 0.0),
        ("-5", None),
        ("1e9", None),
        ("nan", None),
        ("9" * 30, 7 * 86400.0),
        ("9" * 65, None),
        ("", None),
        (None, None),
        ("soon", None),
        ("Wed, 99 Foo 2020", None),
        (formatdate(1000.0, usegmt=True), 0.0),
        (formatdate(1_000_060.0, usegmt=True), 60.0),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert retry_after(value, 1_000_000.0) == seconds


def test_a_registry_that_is_busy_says_how_long() -> None:
    for status in (429, 503):
        failure = of_answer(status, {"Retry-After": "7"}, b"", "GET", URL)
        assert isinstance(failure.error, RateLimited) and failure.error.retry_after == 7.0
        assert (failure.again, failure.wait) == (True, 7.0)
    soon = formatdate(time.time() + 60, usegmt=True)
    failure = of_answer(429, {"Retry-After": soon}, b"", "GET", URL)
    assert failure.wait is not None and 50 < failure.wait <= 60


def test_patience() -> None:
    waits: list[float] = []
    pauses = Pauses(Patience(attempts=5, first=1.0, longest=3.0, total=100.0), waits.append)
    failure = Failure(TransportError("x"), again=True)
    assert [pauses.refusal(failure) for _ in range(5)] == [*[None] * 4, failure]
    assert [0.5 <= waits[0] <= 1, 1 <= waits[1] <= 2, 1.5 <= waits[2] <= 3, 1.5 <= waits[3] <= 3] == [
        True
    ] * 4
    pauses.progress()
    assert pauses.refusal(Failure(TransportError("x"), True, 3.0)) is None and waits[-1] == 3.0
    with pytest.raises(TransportError):
        pauses.after(Failure(TransportError("x"), True, 3.1))
    with pytest.raises(TransportError):
        Pauses(Patience(), waits.append).after(Failure(TransportError("x"), again=False))
    waiting = Pauses(Patience(attempts=100, first=1.0, longest=30.0, total=60.0), waits.append)
    del waits[:]
    while waiting.refusal(Failure(TransportError("x"), True, 20.0)) is None:
        assert len(waits) < 10
    assert sum(waits) <= 60.0


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/v2/b", "https://r.example.com:8443/v2/b"),
        ("c?x=1#y", "https://r.example.com:8443/v2/c?x=1"),
        ("https://cdn.example.com/x", "https://cdn.example.com/x"),
        ("//cdn.example.com/x", "https://cdn.example.com/x"),
        # A registry behind a TLS proxy that does not know of it.
        ("http://r.example.com/v2/b", "https://r.example.com:8443/v2/b"),
        ("http://r.example.com:8443/v2/b", "https://r.example.com:8443/v2/b"),
        ("http://cdn.example.com/x", None),
        ("http://r.example.com:9000/x", None),
        ("ftp://cdn.example.com/x", None),
        ("file:///etc/passwd", None),
        ("https://user:pass@cdn.example.com/", None),
        ("https://r.example.com:99999/", None),
        ("https://[::1/", None),
        ("https:///x", "https://r.example.com:8443/x"),
        ("/a\r\nX: y", None),
        ("", None),
        ("/" + "x" * 20_000, None),
    ],
)
def test_where_an_answer_may_send_on_to(location: str, target: str | None) -> None:
    source = "https://r.example.com:8443/v2/a"
    if target is None:
        with pytest.raises(TransportError, match=r"r\.example\.com"):
            onward(source, location)
    else:
        assert onward(source, location) == target


def test_origins() -> None:
    assert origin("https://R.example.com/x") == origin("https://r.example.com:443")
    assert len({origin(f"{scheme}://a{port}/") for scheme in ("http", "https") for port in ("", ":5")}) == 4


def test_hosts() -> None:
    assert host_of("docker.io") == host_of("index.docker.io") == "registry-1.docker.io"
    assert host_of("127.0.0.1:5000") == "127.0.0.1:5000" and host_of("[::1]:5000") == "[::1]:5000"
    for wrong in ("", "a/b", "user@host", "host:port", "host:99999", "https://host", "a?b", "a#b"):
        with pytest.raises(PycontainerError):
            host_of(wrong)
    assert all(is_loopback(host) for host in ("localhost", "127.0.0.1", "127.8.9.1", "::1"))
    assert not any(is_loopback(host) for host in ("localhost.example.com", "10.0.0.1", "128.0.0.1", "::2"))


def test_names_of_hosts_are_references() -> None:
    with pytest.raises(InvalidReference):
        host_of("user@host")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://u:p@h:1/x?sig=abc&n=5&flag#frag", "https://h:1/x?sig=***&n=5&flag=***"),
        ("https://h/x", "https://h/x"),
        ("https://[::1", "(an address that is none)"),
    ],
)
def test_addresses_are_shown_without_secrets(url: str, shown: str) -> None:
    assert safe_url(url) == shown
