"""One registry's authentication: which Authorization a request carries (distribution: token, oauth2; RFC 7617)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from pycontainer.distribution.credentials import Credential

Form = Mapping[str, str | list[str]]
"""A query or a form; a list is the same name several times, as `requests` takes it."""


class Fetch(Protocol):
    """How tokens are fetched: the transport's TLS, proxies and time-outs, following no redirect.

    `form` is the query of a GET, the urlencoded body of a POST. What comes back is the status and at
    most 64 KiB of body. Raises TransportError; a status is never raised, whatever it is.
    """

    def __call__(
        self, method: str, url: str, form: Form, headers: Mapping[str, str], /
    ) -> tuple[int, bytes]: ...


class Auth:
    """What to send to one registry with one credential (None: anonymously). Safe from several threads.

    `trusted(host)` says whether plain HTTP to `host` ("name" or "name:port", lower case, without
    port 80) may carry credentials: loopback, or this very registry where it is used insecurely.
    Call `answer` for the registry's own 401 only, never for one from where a redirect has led.
    """

    def __init__(
        self,
        registry: str,
        credential: Credential | None,
        fetch: Fetch,
        *,
        trusted: Callable[[str], bool],
    ) -> None:
        raise NotImplementedError

    def header(self, scope: str) -> str | None:
        """The Authorization to send at once, None where none is known yet; nothing is fetched.

        `scope` is one or several of "repository:team/app:pull,push", separated by spaces; may be empty.
        """
        raise NotImplementedError

    def answer(self, challenges: Sequence[str], scope: str, sent: str | None = None) -> str | None:
        """After a 401 with these WWW-Authenticate values: what to send next, None where nothing is left.

        `sent` is the Authorization that the refused request carried: a cached value is given again only
        where it is another one, so callers must hand it over. Raises AuthError (a malformed challenge, a
        realm that must not see the credentials, a token server's refusal), RateLimited, TransportError.
        """
        raise NotImplementedError
