"""Tokens from a real server on loopback: fetched once, kept apart, renewed once; hostile realms."""

from __future__ import annotations

import base64
import collections
import json
import os
import signal
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from pycontainer.distribution import tokens
from pycontainer.distribution.auth import MAX_TOKENS, Auth
from pycontainer.distribution.credentials import Credential
from pycontainer.distribution.failures import Closed
from pycontainer.errors import AuthError, RateLimited, RegistryError, TransportError

PULL = "repository:team/app:pull"
PUSH = "repository:team/app:pull,push"
USER = Credential("me", "s3cret")


class TokenServer:
    """Hands out numbered tokens and keeps what it was asked; `answer` decides what it says."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, list[str]], str | None]] = []
        self.delay = 0.0
        self.answer: Callable[[str, int], tuple[int, Any]] = lambda method, number: (
            200,
            {"token": f"t{number}", "expires_in": 300},
        )
        lock = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def handle_any(handler) -> None:
                size = int(handler.headers.get("Content-Length", 0))
                text = handler.rfile.read(size).decode() or urllib.parse.urlsplit(handler.path).query
                with lock:
                    form = urllib.parse.parse_qs(text)
                    self.asked.append((handler.command, form, handler.headers.get("Authorization")))
                    status, document = self.answer(handler.command, len(self.asked))
                time.sleep(self.delay)
                body = document if isinstance(document, bytes) else json.dumps(document).encode()
                handler.send_response(status)
                handler.send_header("Content-Length", str(len(body)))
                handler.end_headers()
                handler.wfile.write(body)

            do_GET = do_POST = handle_any

            def log_message(handler, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.02,))
        self.thread.start()

    def close(self) -> None:
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()

    def challenge(self, scope: str = "", service: str = "registry") -> list[str]:
        text = f'Bearer realm="http://{self.host}/token",service="{service}"'
        return [f'{text},scope="{scope}"' if scope else text]


@pytest.fixture
def server() -> Iterator[TokenServer]:
    made = TokenServer()
    yield made
    made.close()


def fetch(
    method: str, url: str, form: Mapping[str, str | list[str]], headers: Mapping[str, str]
) -> tuple[int, bytes]:
    text = urllib.parse.urlencode(form, doseq=True)
    request = (
        urllib.request.Request(f"{url}?{text}", headers=dict(headers))
        if method == "GET"
        else urllib.request.Request(url, text.encode(), dict(headers), method=method)
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read(64 << 10)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(64 << 10)


def never(method: str, url: str, form: object, headers: object) -> tuple[int, bytes]:
    raise AssertionError(f"{method} {url}")


def loopback(host: str) -> bool:
    return host.startswith("127.0.0.1:")


def nothing() -> None:
    """Nobody has closed anything."""


def auth(credential: Credential | None = None, registry: str = "registry.example.com") -> Auth:
    return Auth(registry, credential, fetch, trusted=loopback, check=nothing)


# -- which value is sent ---------------------------------------------------------------------------


def test_anonymous(server: TokenServer) -> None:
    one = auth()
    assert one.header(PULL) is None
    assert one.answer(server.challenge(PULL), PULL) == "Bearer t1"
    assert one.header(PULL) == "Bearer t1"
    assert server.asked == [("GET", {"service": ["registry"], "scope": [PULL]}, None)]


def test_basic_is_sent_only_when_asked_for() -> None:
    one = Auth("registry.example.com", Credential("me", "s\xe9:cret"), never, trusted=loopback, check=nothing)
    assert one.header(PULL) is None
    value = one.answer(['Basic realm="x"'], PULL)
    assert value is not None and value.startswith("Basic ")
    assert base64.b64decode(value[6:]).decode() == "me:s\xe9:cret"
    assert one.header(PUSH) == value
    assert one.answer(['Basic realm="x"'], PULL, value) is None


def test_nothing_to_send() -> None:
    assert auth().answer(['Basic realm="x"'], PULL) is None
    assert auth(USER).answer(["Negotiate"], PULL) is None
    assert auth(USER).answer([], PULL) is None
    assert auth(Credential(identity_token="i")).answer(['Basic realm="x"'], PULL) is None


def test_a_token_is_preferred_to_the_password(server: TokenServer) -> None:
    one = auth(USER)
    offered = ['Basic realm="x"', *server.challenge()]
    assert one.answer(offered, PULL) == "Bearer t1"
    assert one.answer(offered, PULL, "Bearer t1") == "Bearer t2"
    assert (one.answer(offered, PULL, "Bearer t2") or "").startswith("Basic ")


def test_a_registry_token_goes_as_it_is() -> None:
    one = Auth("registry.example.com", Credential(registry_token="r"), never, trusted=loopback, check=nothing)
    assert one.header(PULL) == "Bearer r"
    assert one.answer(['Bearer realm="https://a.example.com/t"'], PULL, "Bearer r") is None
    assert one.answer(['Bearer realm="https://a.example.com/t"'], PULL) == "Bearer r"


# -- how a token is fetched ------------------------------------------------------------------------


def test_a_password_goes_by_get(server: TokenServer) -> None:
    auth(USER).answer(server.challenge(), f"{PULL} repository:other:pull")
    method, form, authorization = server.asked[0]
    assert (method, form["scope"]) == ("GET", [PULL, "repository:other:pull"])
    assert authorization == "Basic " + base64.b64encode(b"me:s3cret").decode()


def test_no_scope_and_no_service(server: TokenServer) -> None:
    one = auth()
    assert one.answer([f'Bearer realm="http://{server.host}/"'], "") == "Bearer t1"
    assert server.asked[0][1] == {}
    assert one.header("") == "Bearer t1"


def test_an_identity_token_goes_by_post(server: TokenServer) -> None:
    server.answer = lambda method, number: (200, {"access_token": "abc"})
    assert auth(Credential(identity_token="refresh")).answer(server.challenge(), PULL) == "Bearer abc"
    method, form, authorization = server.asked[0]
    assert (method, authorization) == ("POST", None)
    assert form == {
        "service": ["registry"],
        "client_id": ["pycontainer"],
        "scope": [PULL],
        "grant_type": ["refresh_token"],
        "refresh_token": ["refresh"],
    }


@pytest.mark.parametrize("status", [404, 405])
def test_get_where_there_is_no_post(server: TokenServer, status: int) -> None:
    server.answer = lambda method, number: (status, b"") if method == "POST" else (200, {"token": "got"})
    assert auth(Credential("me", "pw", "refresh")).answer(server.challenge(), PULL) == "Bearer got"
    assert [method for method, _, _ in server.asked] == ["POST", "GET"]


def test_post_where_there_is_no_get(server: TokenServer) -> None:
    server.answer = lambda method, number: (405, b"") if method == "GET" else (200, {"access_token": "p"})
    assert auth(USER).answer(server.challenge(), PULL) == "Bearer p"
    form = server.asked[1][1]
    assert (form["grant_type"], form["username"], form["password"]) == (["password"], ["me"], ["s3cret"])


def test_a_refusal_is_no_reason_for_another_way(server: TokenServer) -> None:
    server.answer = lambda method, number: (401, b"no: refresh and s3cret")
    with pytest.raises(AuthError, match=f"{server.host} answered 401") as caught:
        auth(Credential("me", "s3cret", "refresh")).answer(server.challenge(), PULL)
    assert len(server.asked) == 1
    assert caught.value.status == 401 and caught.value.url == f"http://{server.host}/token"
    assert "s3cret" not in str(caught.value) and "refresh" not in str(caught.value)


@pytest.mark.parametrize(
    "status, kind", [(403, AuthError), (404, AuthError), (429, RateLimited), (503, RegistryError)]
)
def test_statuses(server: TokenServer, status: int, kind: type[RegistryError]) -> None:
    server.answer = lambda method, number: (status, b"")
    with pytest.raises(RegistryError, match=str(status)) as caught:
        auth().answer(server.challenge(), PULL)
    assert type(caught.value) is kind and caught.value.status == status


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"[" * 60000,
        {"token": ""},
        {"token": 5},
        {"token": "a\r\nX-Injected: 1"},
        {"token": "a b"},
        {"token": "\xe9"},
        {"expires_in": 300},
        b'{"token": "hidden"',
    ],
)
def test_wrong_answers(server: TokenServer, body: Any) -> None:
    server.answer = lambda method, number: (200, body)
    with pytest.raises(AuthError, match=server.host) as caught:
        auth().answer(server.challenge(), PULL)
    assert "hidden" not in repr(caught.value) and caught.value.__context__ is None


# -- how long it lasts -----------------------------------------------------------------------------


class Later:
    """The time module, some seconds later."""

    def __init__(self, seconds: float) -> None:
        self.monotonic = lambda: time.monotonic() + seconds
        self.time = lambda: time.time() + seconds


def lasting(server: TokenServer, monkeypatch: pytest.MonkeyPatch, **fields: Any) -> float:
    """Seconds for which a token with these fields is sent, found by moving the clock."""
    server.answer = lambda method, number: (200, {"token": "t", **fields})
    one = auth()
    one.answer(server.challenge(), PULL)
    low, high = 0.0, 1e6
    while high - low > 0.5:
        middle = (low + high) / 2
        monkeypatch.setattr(tokens, "time", Later(middle))
        low, high = (middle, high) if one.header(PULL) else (low, middle)
    monkeypatch.undo()
    return low


def stamp(ago: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - ago))


@pytest.mark.parametrize(
    "fields, seconds",
    [
        ({}, 50),
        ({"expires_in": 5}, 50),
        ({"expires_in": -5}, 50),
        ({"expires_in": 300}, 290),
        ({"expires_in": 300.5}, 290.5),
        ({"expires_in": "300"}, 50),
        ({"expires_in": True}, 50),
        ({"expires_in": 10**400}, 86390),
        ({"expires_in": 300, "issued_at": 100}, 190),
        ({"expires_in": 300, "issued_at": 9000}, 50),
        ({"expires_in": 300, "issued_at": -9000}, 290),
        ({"expires_in": 300, "issued_at": "yesterday"}, 290),
        ({"expires_in": 300, "issued_at": ["x"]}, 290),
    ],
)
def test_lifetime(
    server: TokenServer, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], seconds: float
) -> None:
    if isinstance(fields.get("issued_at"), int):
        fields = {**fields, "issued_at": stamp(fields["issued_at"])}
    assert lasting(server, monkeypatch, **fields) == pytest.approx(seconds, abs=3)


def test_an_old_token_is_fetched_anew(server: TokenServer, monkeypatch: pytest.MonkeyPatch) -> None:
    one = auth()
    assert one.answer(server.challenge(), PULL) == "Bearer t1"
    monkeypatch.setattr(tokens, "time", Later(400))
    assert one.header(PULL) is None
    assert one.answer(server.challenge(), PULL) == "Bearer t2"


def test_a_refused_token_is_fetched_anew_once(server: TokenServer, monkeypatch: pytest.MonkeyPatch) -> None:
    one = auth()
    challenge = server.challenge()
    assert one.answer(challenge, PULL) == "Bearer t1"
    assert one.answer(challenge, PULL, "Bearer t1") == "Bearer t2"
    assert one.answer(challenge, PULL, "Bearer t2") is None
    assert len(server.asked) == 2
    # What was good for a minute and is refused then is worth another try.
    monkeypatch.setattr(tokens, "time", Later(100))
    assert one.answer(challenge, PULL, "Bearer t2") == "Bearer t3"


# -- for whom it is good ---------------------------------------------------------------------------


def test_a_challenge_widens_the_scope(server: TokenServer) -> None:
    one = auth()
    assert one.answer(server.challenge(PULL), PULL) == "Bearer t1"
    assert one.answer(server.challenge(PUSH), PULL, "Bearer t1") == "Bearer t2"
    assert server.asked[1][1]["scope"] == [PUSH]
    assert one.header(PULL) == one.header(PUSH) == "Bearer t2"


def test_a_challenge_never_names_another_repository(server: TokenServer) -> None:
    one = auth(USER)
    one.answer(server.challenge(f"repository:other/app:pull,push {PULL}"), PULL)
    assert server.asked[0][1]["scope"] == [PULL]
    assert one.header("repository:other/app:pull") is None
    assert one.header("repository:other/app:pull,push") is None
    assert one.answer(server.challenge(), "repository:other/app:pull") == "Bearer t2"


def test_another_service_or_realm_gets_another_token(server: TokenServer) -> None:
    one = auth()
    assert one.answer(server.challenge(service="a"), PULL) == "Bearer t1"
    assert one.answer(server.challenge(service="a"), PULL) == "Bearer t1"
    assert one.answer(server.challenge(service="b"), PULL) == "Bearer t2"
    assert one.answer([f'Bearer realm="http://{server.host}/other",service="b"'], PULL) == "Bearer t3"


def test_few_tokens_are_kept(server: TokenServer) -> None:
    one = Auth("example.com", None, lambda *_: (200, b'{"token": "t"}'), trusted=loopback, check=nothing)
    for number in range(MAX_TOKENS + 20):
        one.answer(server.challenge(), f"repository:a{number}:pull")
    assert one.header("repository:a0:pull") is None
    assert one.header(f"repository:a{MAX_TOKENS + 19}:pull") == "Bearer t"
    assert len(one._state.slots) == MAX_TOKENS


# -- many threads ----------------------------------------------------------------------------------


def together(count: int, work: Callable[[int], Any]) -> list[Any]:
    """What `count` threads that start at one moment give or raise."""
    barrier = threading.Barrier(count)
    results: list[Any] = [None] * count

    def one(number: int) -> None:
        barrier.wait()
        try:
            results[number] = work(number)
        except RegistryError as error:
            results[number] = error

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_sixteen_threads_fetch_one_token(server: TokenServer) -> None:
    server.delay = 0.2
    one = auth(USER)
    assert set(together(16, lambda _: one.answer(server.challenge(), PULL))) == {"Bearer t1"}
    assert len(server.asked) == 1
    assert set(together(16, lambda _: one.answer(server.challenge(), PULL, "Bearer t1"))) == {"Bearer t2"}
    assert len(server.asked) == 2


def test_scopes_do_not_wait_for_each_other(server: TokenServer) -> None:
    """All requests are at the server before it answers any of them."""
    arrived = threading.Barrier(4)

    def slow(*_: object) -> tuple[int, bytes]:
        arrived.wait(10)
        return 200, b'{"token": "t"}'

    one = Auth("example.com", None, slow, trusted=loopback, check=nothing)
    results = together(4, lambda number: one.answer(server.challenge(), f"repository:a{number}:pull"))
    assert results == ["Bearer t"] * 4


def test_a_failure_is_everybodys(server: TokenServer) -> None:
    server.delay = 0.2
    server.answer = lambda method, number: (401, b"")
    one = auth(USER)
    results = together(16, lambda _: one.answer(server.challenge(), PULL))
    assert all(type(result) is AuthError and result.status == 401 for result in results)
    assert len({id(result) for result in results}) == 16
    # Whoever came after the failure was known asked again; whoever waited for it did not.
    assert len(server.asked) <= 3
    server.answer = lambda method, number: (200, {"token": "t"})
    assert one.answer(server.challenge(), PULL) == "Bearer t"


def test_a_broken_fetch_leaves_no_lock(server: TokenServer) -> None:
    errors: collections.deque[BaseException] = collections.deque(
        [TransportError("gone"), KeyboardInterrupt(), AssertionError()]
    )

    def broken(*_: object) -> tuple[int, bytes]:
        if errors:
            raise errors.popleft()
        return 200, b'{"token": "t"}'

    one = Auth("example.com", None, broken, trusted=loopback, check=nothing)
    for kind in (TransportError, KeyboardInterrupt, AssertionError):
        with pytest.raises(kind):
            one.answer(server.challenge(), PULL)
    assert one.answer(server.challenge(), PULL) == "Bearer t"


def test_ctrl_c_ends_the_wait_for_another_thread(server: TokenServer) -> None:
    release, entered = threading.Event(), threading.Event()

    def slow(*_: object) -> tuple[int, bytes]:
        entered.set()
        release.wait(10)
        return 200, b'{"token": "t"}'

    one = Auth("example.com", None, slow, trusted=loopback, check=nothing)
    thread = threading.Thread(target=one.answer, args=(server.challenge(), PULL))
    thread.start()
    entered.wait(10)
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            one.answer(server.challenge(), PULL)
        assert not release.is_set()
    finally:
        release.set()
        thread.join()
        timer.join()


def test_who_closes_its_client_waits_for_no_token_and_takes_nobodys(server: TokenServer) -> None:
    """One thread fetches a token, two wait for it; one of these is not wanted any more, then the first."""
    release, entered, unwanted = threading.Event(), threading.Event(), threading.Event()

    def closed_meanwhile(*_: object) -> tuple[int, bytes]:
        entered.set()
        release.wait(10)
        raise Closed("closed")

    def check() -> None:
        if unwanted.is_set():
            raise Closed("unwanted")

    first = Auth("example.com", None, closed_meanwhile, trusted=loopback, check=nothing)
    waiter = first.through(fetch, trusted=loopback, check=check)
    other = first.through(fetch, trusted=loopback, check=nothing)
    results: dict[str, object] = {}

    def ask(name: str, one: Auth) -> None:
        try:
            results[name] = one.answer(server.challenge(), PULL)
        except TransportError as error:
            results[name] = str(error)

    threads = [threading.Thread(target=ask, args=("first", first))]
    threads[0].start()
    assert entered.wait(10)
    threads += [threading.Thread(target=ask, args=pair) for pair in (("waiter", waiter), ("other", other))]
    for thread in threads[1:]:
        thread.start()
    unwanted.set()
    threads[1].join(5)
    assert results == {"waiter": "unwanted"}
    release.set()
    for thread in threads:
        thread.join(10)
    assert results["first"] == "closed"
    assert str(results["other"]).startswith("Bearer ")
    assert other.header(PULL) == first.header(PULL) == results["other"]


def test_a_forked_child_waits_for_nobody(server: TokenServer) -> None:
    """The fetch that goes on in another thread of the parent never ends in the child."""
    release, entered = threading.Event(), threading.Event()
    parent = os.getpid()

    def slow(*_: object) -> tuple[int, bytes]:
        if os.getpid() == parent:
            entered.set()
            release.wait(10)
        return 200, b'{"token": "t"}'

    one = Auth("example.com", None, slow, trusted=loopback, check=nothing)
    challenge = server.challenge()
    thread = threading.Thread(target=one.answer, args=(challenge, PULL))
    thread.start()
    entered.wait(10)
    try:
        child = fork_quietly()
        if child == 0:
            signal.alarm(5)
            os._exit(0 if one.answer(challenge, PULL) == "Bearer t" else 1)
        assert os.waitpid(child, 0)[1] == 0
    finally:
        release.set()
        thread.join()


def fork_quietly() -> int:
    """Python 3.12 warns of what this test is about."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


# -- hostile realms --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "realm",
    [
        "",
        "token",
        "/token",
        "ftp://example.com/token",
        "file:///etc/passwd",
        "https://",
        "https:///token",
        "https://user:pass@example.com/",
        "https://example.com@evil.example.net/",
        "https://example.com:0/",
        "https://example.com:99999/",
        "https://example.com:x/",
        "https://[::1/",
        "https://example.com\\\\@evil.example.net/",
        "https://example.com\\\\.evil.example.net/",
        "https://exam ple.com/",
        "https://example.com/\t",
        "https://ex\xe4mple.com/",
        "https://example.com/" + "a" * 3000,
        # Plain HTTP to somebody else, and to the registry itself where it is used by https.
        "http://evil.example.net/token",
        "http://registry.example.com/token",
        "http://127.0.0.1.evil.example.net:80/",
        # What only this machine reaches.
        "https://169.254.169.254/latest/meta-data",
        "https://0xa9fea9fe/",
        "https://2852039166/",
        "https://0.0.0.0/",
        "https://[::]/",
        "https://[fe80::1]/",
        "https://[fe80::1%25eth0]/",
        "https://[::ffff:169.254.169.254]/",
        "https://224.0.0.1/",
        # A scope of its own, joined with ours.
        "https://example.com/token?scope=repository:other:pull",
        "https://example.com/token?a=b&%73cope=repository:other:pull",
    ],
)
def test_hostile_realms_are_never_asked(realm: str) -> None:
    for credential in (None, USER, Credential(identity_token="refresh")):
        one = Auth("registry.example.com", credential, never, trusted=loopback, check=nothing)
        with pytest.raises(AuthError, match="realm"):
            one.answer([f'Bearer realm="{realm}",service="s"'], PULL)
        assert one.header(PULL) is None


def test_no_realm_at_all() -> None:
    with pytest.raises(AuthError, match="realm"):
        Auth("registry.example.com", USER, never, trusted=loopback, check=nothing).answer(["Bearer"], PULL)
    with pytest.raises(AuthError, match="service"):
        Auth("registry.example.com", USER, never, trusted=loopback, check=nothing).answer(
            ['Bearer realm="https://a.example.com",service="' + "s" * 600 + '"'], PULL
        )


@pytest.mark.parametrize(
    "registry, realm, plain",
    [
        ("docker.io", "https://auth.docker.io/token", None),
        ("registry.example.com", "HTTPS://Auth.Example.net:8443/token?account=me#part", None),
        ("registry.example.com:5000", "http://registry.example.com:5000/token", "registry.example.com:5000"),
        ("registry.example.com", "http://registry.example.com:80/token", "registry.example.com"),
        ("registry.example.com", "http://[::1]:5001/token", "[::1]:5001"),
        ("169.254.1.1:5000", "https://169.254.1.1:5001/token", None),
    ],
)
def test_realms_that_are_asked(registry: str, realm: str, plain: str | None) -> None:
    """https anywhere; plain HTTP where `trusted` says so, which is asked about host and port."""
    urls: list[str] = []

    def note(method: str, url: str, form: object, headers: object) -> tuple[int, bytes]:
        urls.append(url)
        return 200, b'{"token": "t"}'

    one = Auth(registry, USER, note, trusted=lambda host: host == plain, check=nothing)
    assert one.answer([f'Bearer realm="{realm}"'], PULL) == "Bearer t"
    assert len(urls) == 1 and urls[0].lower() == realm.partition("#")[0].lower()


def test_nothing_secret_shows(server: TokenServer) -> None:
    secret = Credential("me", "s3cret", "s3cret-identity", "s3cret-registry")
    assert "s3cret" not in repr(secret) and "s3cret" not in str(secret) and "'me'" in repr(secret)
    server.answer = lambda method, number: (200, {"token": "s3cret-token"})
    one = auth(Credential("me", "s3cret", "s3cret-identity"))
    assert one.answer(server.challenge(), PULL) == "Bearer s3cret-token"
    assert "s3cret" not in repr(one)
    assert "s3cret" not in repr(one._state.slots[PULL]) and "token" in repr(one._state.slots[PULL])
