"""Fetching a bearer token (distribution: token authentication by GET, OAuth2 by POST)."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import attrs

from pycontainer.distribution.credentials import Credential
from pycontainer.distribution.realm import Realm
from pycontainer.errors import AuthError, InvalidImage, RateLimited, RegistryError
from pycontainer.oci.times import parse_time

Form = Mapping[str, "str | list[str]"]
"""A query or a form; a list is the same name several times, as `requests` takes it."""

Fetch = Callable[[str, str, Form, Mapping[str, str]], tuple[int, bytes]]
"""(method, url, form, headers) -> (status, body): the transport's TLS, proxies and time-outs.

`form` is added to the query of a GET, and is the urlencoded body of a POST. The body is cut at 64 KiB,
redirects are not followed, the status is given back whatever it is. Raises TransportError.
It must not use the `Auth` that it was given to.
"""

CLIENT = "pycontainer"

SHORTEST = 60.0
"""Seconds: what a token lives at least, and where nothing is said (distribution: token authentication)."""

LONGEST = 24 * 3600.0
"""Seconds after which a token is fetched again, whatever it says of itself."""

LEEWAY = 10.0
"""Seconds before its end at which a token is not sent any more: the way to the registry takes time."""


@attrs.frozen
class Token:
    """An Authorization value and where it is from; `expires` and `fetched` on the monotonic clock.

    `renewal`: it was fetched because the registry had refused the one before.
    """

    header: str = attrs.field(repr=False)
    realm: Realm
    fetched: float
    expires: float
    renewal: bool

    def usable(self) -> bool:
        return time.monotonic() < self.expires - LEEWAY

    def is_fresh_renewal(self) -> bool:
        return self.renewal and time.monotonic() < self.fetched + SHORTEST


def fetch_token(
    realm: Realm, scope: str, credential: Credential | None, fetch: Fetch, *, renewal: bool
) -> Token:
    """A token for `scope` ("" for none). Raises AuthError, RateLimited, RegistryError, TransportError.

    Every token server knows the GET; a refresh token needs the POST, which not all have, and some have
    the POST alone. So the next way is taken where the last one is not there, and never after a refusal.
    """
    started = time.monotonic()
    status, body = 404, b""
    for method, form, headers in _ways(realm, scope, credential):
        status, body = fetch(method, realm.url, form, headers)
        if status not in (404, 405):
            break
    if status != 200:
        _refuse(realm, status, credential)
    document = _document(realm, body)
    text = document.get("token") or document.get("access_token")
    # What goes into a header must not be able to end it.
    if not isinstance(text, str) or not text or not all("!" <= character <= "~" for character in text):
        raise AuthError(f"the token server {realm.host} answered without a usable token", url=_address(realm))
    lifetime = _lifetime(document)
    return Token(f"Bearer {text}", realm, started, started + lifetime, renewal)


def _ways(
    realm: Realm, scope: str, credential: Credential | None
) -> Iterator[tuple[str, Form, Mapping[str, str]]]:
    """The requests that can give a token, best first: method, form, headers."""
    service = {} if realm.service is None else {"service": realm.service}
    query: Form = {**service, **({"scope": scope.split()} if scope else {})}
    oauth = {**service, "client_id": CLIENT, **({"scope": scope} if scope else {})}
    if credential is None:
        yield "GET", query, {}
        return
    if credential.identity_token:
        yield (
            "POST",
            {**oauth, "grant_type": "refresh_token", "refresh_token": credential.identity_token},
            {},
        )
    header = basic(credential)
    if header is not None:
        yield "GET", query, {"Authorization": header}
        secret = {"username": credential.username, "password": credential.password}
        yield "POST", {**oauth, "grant_type": "password", **secret}, {}


def basic(credential: Credential) -> str | None:
    """RFC 7617 in UTF-8; None where there is no password to send."""
    if not credential.username or not credential.password:
        return None
    pair = f"{credential.username}:{credential.password}".encode()
    return "Basic " + base64.b64encode(pair).decode("ascii")


def _refuse(realm: Realm, status: int, credential: Credential | None) -> NoReturn:
    """The body is not told: some servers repeat in it what they were sent."""
    who = "an anonymous client" if credential is None else f"the credentials of {credential.username!r}"
    what = f"the token server {realm.host} answered {status} to {who}"
    if status == 429:
        raise RateLimited(what, status=status, url=_address(realm))
    if status >= 500:
        raise RegistryError(what, status=status, url=_address(realm))
    raise AuthError(what, status=status, url=_address(realm))


def _document(realm: Realm, body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    # Not within the handler: the parser's complaint holds the whole text, with the token in it.
    if not isinstance(document, dict):
        raise AuthError(f"the token server {realm.host} answered with no JSON object", url=_address(realm))
    return document


def _lifetime(document: Mapping[str, Any]) -> float:
    """Seconds from the fetch on. Clocks differ, so `issued_at` shortens it, and never below the shortest."""
    stated = document.get("expires_in")
    if isinstance(stated, bool) or not isinstance(stated, int | float):
        return SHORTEST
    lifetime = min(stated, LONGEST)
    try:
        issued = parse_time(document.get("issued_at"), "issued_at").timestamp()
    except InvalidImage:
        issued = time.time()
    return max(lifetime - max(time.time() - issued, 0.0), SHORTEST)


def _address(realm: Realm) -> str:
    return realm.url.partition("?")[0]
