"""Requests to one registry: where it is, who asks, where it sends on to, and when to try again."""

from __future__ import annotations

import base64
import copy
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import attrs

from pycontainer import _version
from pycontainer.distribution.address import (
    host_of,
    hostname,
    is_loopback,
    onward,
    origin,
    safe_url,
    speaks_tls,
)
from pycontainer.distribution.auth import Auth
from pycontainer.distribution.credentials import Credential
from pycontainer.distribution.failures import WIRE_ERRORS, Closed, Failure, of_answer, of_exception
from pycontainer.distribution.patience import Patience, Pauses
from pycontainer.distribution.reply import Reply, read_whole
from pycontainer.distribution.tokens import Form
from pycontainer.distribution.wires import Tls, Wires
from pycontainer.errors import RegistryError, TransportError

_MAX_REDIRECTS = 8
_MAX_ERROR = 64 << 10
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
# These keep the method and the body; the others would turn an upload into a question.
_FAITHFUL = frozenset({307, 308})

_OWN_HEADERS = {
    "User-Agent": f"pycontainer/{_version.__version__}",
    "Accept-Encoding": "identity",
}


class _Headers(dict[str, str]):
    """Headers whose representation does not show the Authorization: it ends up in tracebacks."""

    def __repr__(self) -> str:
        return repr({name: "***" if name == "Authorization" else value for name, value in self.items()})


class Transport:
    """One registry's requests, from any thread. Connections are made when they are needed.

    `insecure` allows plain HTTP where TLS is not spoken, None only where the registry is this machine.
    """

    def __init__(
        self,
        registry: str,
        *,
        insecure: bool | None,
        credential: Credential | None,
        tls: Tls,
        timeout: float,
        patience: Patience,
    ) -> None:
        self.registry = registry
        self.patience = patience
        self._host = host_of(registry)
        self._insecure = insecure
        self._tls = tls
        self._timeout = timeout
        self._base: str | None = None
        self._closed = threading.Event()
        self._wires = Wires(tls, timeout)
        self._auth = Auth(registry, credential, self._fetch, trusted=self._trusted, check=self._check)

    def __repr__(self) -> str:
        return f"<Transport {self.registry}>"

    def close(self) -> None:
        """Ends all connections; what other threads wait for fails, and nothing can be sent any more."""
        self._closed.set()
        self._current().cut()

    def branch(self) -> Transport:
        """The same with connections of its own: closing it ends those, and no others."""
        other = copy.copy(self)
        other._closed = threading.Event()
        other._wires = Wires(self._tls, self._timeout)
        other._auth = self._auth.through(other._fetch, trusted=other._trusted, check=other._check)
        return other

    def base(self) -> str:
        """`https://host[:port]`, or plain HTTP where that is allowed and TLS is not spoken."""
        if self._base is None:
            self._base = f"{self._scheme()}://{self._host}"
        return self._base

    def send(
        self,
        method: str,
        path: str,
        *,
        scope: str,
        headers: Mapping[str, str] | None = None,
        body: Any = None,
        ok: Sequence[int] = (200,),
    ) -> Reply:
        """Sends a request that may be repeated, until it succeeds, cannot, or patience ends.

        `path` is one below the registry's root, or an address that the registry has given; `body` is
        bytes, or an object with a length that can be iterated several times. Raises RegistryError.
        """
        pauses = self.pauses()
        while True:
            reply = self.attempt(method, path, scope=scope, headers=headers, body=body, ok=ok)
            if isinstance(reply, Reply):
                return reply
            pauses.after(reply)

    def read(self, path: str, *, scope: str, limit: int) -> Document:
        """GETs a whole document of at most `limit` bytes. Raises RegistryError."""
        return Document(*read_whole(lambda: self.attempt("GET", path, scope=scope), limit, self.pauses()))

    def pauses(self, attempts: int | None = None) -> Pauses:
        """The waiting between the attempts of one operation, at most `attempts` where that is given."""
        patience = self.patience
        if attempts is not None:
            patience = attrs.evolve(patience, attempts=min(attempts, patience.attempts))
        return Pauses(patience, self._sleep)

    def attempt(
        self,
        method: str,
        path: str,
        *,
        scope: str,
        headers: Mapping[str, str] | None = None,
        body: Any = None,
        ok: Sequence[int] = (200,),
    ) -> Reply | Failure:
        """Sends a request once, or twice where the registry asks who is there.

        Raises AuthError where it cannot be told, and what the authentication's own requests raise.
        """
        url = path if "://" in path else self.base() + path
        # An upload may go on elsewhere: whoever that is, our credentials are not theirs.
        own = origin(url) == origin(self.base())
        asked = _Headers({**_OWN_HEADERS, **(headers or {})})
        if own:
            _authorize(asked, _naming(method, url, lambda: self._auth.header(scope)))
        reply = self._follow(method, url, asked, body)
        if isinstance(reply, Reply) and reply.status == 401 and own and origin(reply.url) == origin(url):
            challenges = reply.challenges()
            # Read to its end before anybody asks further: the connection is free again then.
            refused = self._refused(reply, asked)
            sent = asked.get("Authorization")
            answer = None
            if challenges:
                answer = _naming(method, url, lambda: self._auth.answer(challenges, scope, sent))
            if answer is None or answer == sent:
                return refused
            _authorize(asked, answer)
            reply = self._follow(method, url, asked, body)
        if isinstance(reply, Failure) or reply.status in ok:
            return reply
        return self._refused(reply, asked)

    def _refused(self, reply: Reply, asked: _Headers) -> Failure:
        with reply:
            body = reply.read(_MAX_ERROR)
        if isinstance(body, Failure):
            # The status says enough without the words that came with it.
            body = b""
        secrets = _secrets(asked.get("Authorization"))
        return of_answer(reply.status, reply.headers, body, reply.method, reply.url, secrets)

    def _follow(self, method: str, url: str, headers: _Headers, body: Any) -> Reply | Failure:
        """The answer at the end of the redirects."""
        sent = headers
        for _ in range(_MAX_REDIRECTS):
            reply = self._exchange(method, url, sent, body)
            if isinstance(reply, Failure) or reply.status not in _REDIRECTS:
                return reply
            reply.close()
            target = onward(url, reply.headers.get("Location", ""))
            if method not in ("GET", "HEAD") and reply.status not in _FAITHFUL:
                return _failed(method, url, f"sends on to {safe_url(target)} ({reply.status})")
            if origin(target) != origin(url):
                # Gone for good: coming back by a foreign host's word is no reason to show them again.
                sent = _Headers({name: value for name, value in sent.items() if name != "Authorization"})
            url = target
        return _failed(method, url, f"more than {_MAX_REDIRECTS} redirects")

    def _exchange(self, method: str, url: str, headers: _Headers, body: Any) -> Reply | Failure:
        """One request, one answer."""
        if self._closed.is_set():
            return self._gone()
        try:
            response = self._current().send(method, url, headers, body)
        except WIRE_ERRORS as error:
            failure = of_exception(error, method, url)
        else:
            return Reply(response, method, url, self._timeout)
        return self._gone() if self._closed.is_set() else failure

    def _fetch(self, method: str, url: str, form: Form, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """A token server's answer, as tokens.py wants it; no redirects, since a form holds passwords."""
        asked = _Headers({**_OWN_HEADERS, **headers})
        text = urlencode(form, doseq=True)
        body = None
        if method == "GET":
            url += f"{'&' if '?' in url else '?'}{text}" if text else ""
        else:
            body = text.encode()
            asked["Content-Type"] = "application/x-www-form-urlencoded"
        pauses = self.pauses()
        while True:
            reply, content = read_whole(lambda: self._exchange(method, url, asked, body), _MAX_ERROR, pauses)
            refusal = of_answer(reply.status, reply.headers, b"", method, url)
            if reply.status < 400 or not refusal.again:
                return reply.status, content
            pauses.after(refusal)

    def _trusted(self, host: str) -> bool:
        """Whether plain HTTP to `host` may carry credentials: this machine, or this insecure registry."""
        own = self.base().startswith("http://") and origin(f"http://{host}") == origin(self.base())
        return own or is_loopback(hostname(host))

    def _scheme(self) -> str:
        name = hostname(self._host)
        allowed = is_loopback(name) if self._insecure is None else self._insecure
        if not allowed:
            return "https"
        port = origin(f"https://{self._host}")[2]
        return "https" if speaks_tls(name, port, min(self._timeout, 5.0), self._check) else "http"

    def _current(self) -> Wires:
        """This process's connections: after a fork the parent goes on to use those that it has."""
        wires = self._wires
        if wires.pid != os.getpid():
            # The old ones are kept: closing them here would take locks that may be held in the parent.
            _inherited.append(wires)
            wires = self._wires = Wires(self._tls, self._timeout)
        return wires

    def _sleep(self, seconds: float) -> None:
        if self._closed.wait(seconds):
            raise self._gone().error

    def _check(self) -> None:
        if self._closed.is_set():
            raise self._gone().error

    def _gone(self) -> Failure:
        return Failure(Closed(f"{self.registry}: the client is closed"))


_inherited: list[Wires] = []


class Document:
    """A body that was read whole, and the answer that it came with."""

    def __init__(self, reply: Reply, body: bytes) -> None:
        self.headers = reply.headers
        self.url = reply.url
        self.safe_url = reply.safe_url
        self.body = body

    def shown(self) -> str:
        """What messages call this answer."""
        return f"GET {self.safe_url}"


def _failed(method: str, url: str, why: str) -> Failure:
    shown = safe_url(url)
    return Failure(TransportError(f"{method} {shown}: {why}", url=shown))


def _naming(method: str, url: str, ask: Callable[[], str | None]) -> str | None:
    """What the authentication says; its failures, a token server's too, name what it was wanted for."""
    try:
        return ask()
    except RegistryError as error:
        error.args = (f"{method} {safe_url(url)}: {error}",)
        raise


def _authorize(headers: _Headers, value: str | None) -> None:
    if value is not None:
        headers["Authorization"] = value


def _secrets(authorization: str | None) -> list[str]:
    """What of an Authorization header must not come back in a message, were the registry to repeat it."""
    scheme, _, value = (authorization or "").partition(" ")
    found = [value]
    if scheme.lower() == "basic":
        try:
            found.append(base64.b64decode(value).decode("utf-8").partition(":")[2])
        except ValueError:
            return [value]
    return [secret for secret in found if secret]
