"""The one place where exceptions of the HTTP packages and refusals of a registry become our errors.

What is said never comes from an exception's text: those quote addresses with credentials, and hold the
request with its headers. For the same reason no error is raised while such an exception is handled.
"""

from __future__ import annotations

import email.utils
import http.client
import json
import math
import os
import re
import socket
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import requests.exceptions
import urllib3.exceptions

from pycontainer.distribution.address import safe_url
from pycontainer.errors import (
    AuthError,
    DigestMismatch,
    NotFound,
    RateLimited,
    RegistryError,
    TransportError,
)

WIRE_ERRORS: tuple[type[Exception], ...] = (
    requests.exceptions.RequestException,
    urllib3.exceptions.HTTPError,
    urllib3.exceptions.ProxySchemeUnsupported,
    http.client.HTTPException,
    OSError,
)
"""All that sending a request or reading an answer raises, beside programming errors."""

CODES: dict[str, type[RegistryError]] = {
    "BLOB_UNKNOWN": NotFound,
    "BLOB_UPLOAD_INVALID": RegistryError,
    "BLOB_UPLOAD_UNKNOWN": NotFound,
    "DIGEST_INVALID": DigestMismatch,
    "MANIFEST_BLOB_UNKNOWN": NotFound,
    "MANIFEST_INVALID": RegistryError,
    "MANIFEST_UNKNOWN": NotFound,
    "NAME_INVALID": RegistryError,
    "NAME_UNKNOWN": NotFound,
    "SIZE_INVALID": DigestMismatch,
    "UNAUTHORIZED": AuthError,
    "DENIED": AuthError,
    "UNSUPPORTED": RegistryError,
    "TOOMANYREQUESTS": RateLimited,
}
"""The codes of distribution-spec, "Error Codes", to the error that each becomes."""

_STATUSES: dict[int, type[RegistryError]] = {
    401: AuthError,
    403: AuthError,
    404: NotFound,
    407: TransportError,
    429: RateLimited,
}

# 501 and 505 are about the request itself: the same one would be refused again.
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504, *range(506, 600)})
_CODE = re.compile(r"[A-Z][A-Z0-9_]{0,63}", re.ASCII)
_MAX_RETRY_AFTER = 7 * 86400.0
# What a stopped time-out, a lost packet or a restarting registry looks like.
_BROKEN_OFF = (ConnectionError, http.client.IncompleteRead, http.client.RemoteDisconnected)


class Closed(TransportError):
    """The client was closed meanwhile: that says nothing about anybody else's request."""


@attrs.frozen
class Failure:
    """Why a request came to nothing: the error to raise, and whether the same request may succeed later.

    `wait` is how long the registry asked for, in seconds.
    """

    error: RegistryError
    again: bool = False
    wait: float | None = None


def of_exception(error: Exception, method: str, url: str) -> Failure:
    """The failure that `error`, one of WIRE_ERRORS, stands for."""
    why, again = _reason(list(_causes(error)))
    shown = safe_url(url)
    return Failure(TransportError(f"{method} {shown}: {why}", url=shown), again)


def of_answer(
    status: int, headers: Mapping[str, str], body: bytes, method: str, url: str, secrets: Sequence[str] = ()
) -> Failure:
    """The failure that an answer of this status stands for; `secrets` were sent and are not repeated."""
    code, text = _said(body)
    wait = retry_after(headers.get("Retry-After"), time.time())
    shown = safe_url(url)
    for secret in secrets:
        text = text.replace(secret, "***")
    message = f"{method} {shown}: {status}"
    for part in (code, text):
        message += f" {part}" if part else ""
    passing = status in _PASSING
    kind = CODES.get(code or "", RegistryError)
    if kind is RegistryError:
        kind = _STATUSES.get(status, RegistryError)
    details: dict[str, Any] = {"status": status, "code": code, "url": shown}
    if kind is RateLimited or (passing and wait is not None):
        return Failure(RateLimited(message, retry_after=wait, **details), True, wait)
    return Failure(kind(message, **details), passing, wait)


def retry_after(value: str | None, now: float) -> float | None:
    """Seconds from a Retry-After header (RFC 9110, 10.2.3): a number or a date; None for neither."""
    if not value or len(value) > 64:
        return None
    try:
        if value.strip().isdecimal():
            seconds = float(value)
        else:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - now
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(seconds, 0.0), _MAX_RETRY_AFTER) if math.isfinite(seconds) else None


def _said(body: bytes) -> tuple[str | None, str]:
    """Code and message of the first error in a registry's answer, fit to be shown."""
    try:
        first = json.loads(body)["errors"][0]
        code, message = first.get("code"), first.get("message")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None, ""
    text = message if isinstance(message, str) else ""
    text = "".join(char if char.isprintable() else " " for char in text[:1000])
    text = text if len(text) <= 300 else text[:297] + "..."
    return (code if isinstance(code, str) and _CODE.fullmatch(code) else None), text


def _causes(error: BaseException) -> Iterator[BaseException]:
    """`error` and what it wraps, outermost first: the packages keep causes in four different places."""
    pending: list[BaseException] = [error]
    seen: set[int] = set()
    while pending and len(seen) < 30:
        current = pending.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        inner = [*current.args, getattr(current, "reason", None), current.__cause__, current.__context__]
        pending.extend(one for one in inner if isinstance(one, BaseException))


def _reason(causes: list[BaseException]) -> tuple[str, bool]:
    """What happened, and whether it may pass; the innermost cause knows best."""
    behind = "the proxy: " if _among(causes, urllib3.exceptions.ProxyError) else ""
    for cause in causes:
        told = _of_system(cause)
        if told is not None:
            return behind + told[0], told[1]
    if _among(causes, TimeoutError, urllib3.exceptions.TimeoutError, requests.exceptions.Timeout):
        return f"{behind}no answer within the time-out", True
    if behind:
        return "the proxy cannot be used", False
    if _among(causes, *_BROKEN_OFF, requests.exceptions.ChunkedEncodingError):
        return "the connection broke off", True
    if _among(causes, requests.exceptions.InvalidURL, urllib3.exceptions.LocationValueError):
        return "the address cannot be used", False
    if _among(causes, http.client.HTTPException):
        return "the answer is not HTTP", False
    if _among(causes, requests.exceptions.SSLError, urllib3.exceptions.SSLError):
        return "TLS failed", False
    if _among(causes, requests.exceptions.ConnectionError, urllib3.exceptions.ProtocolError):
        return "the connection broke off", True
    return f"no usable answer ({type(causes[0]).__name__})", False


def _of_system(cause: BaseException) -> tuple[str, bool] | None:
    """What the operating system or the TLS library said, which is plain and holds no secrets."""
    if isinstance(cause, socket.gaierror):
        return "the host's name cannot be resolved", cause.errno == socket.EAI_AGAIN
    if isinstance(cause, ssl.SSLCertVerificationError):
        why = str(getattr(cause, "verify_message", "") or "unknown reason")
        return f"the certificate is not trusted ({why}); verify= takes the file of its authority", False
    if isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return "the connection broke off", True
    if isinstance(cause, ssl.SSLError):
        return f"TLS failed ({getattr(cause, 'reason', None) or 'unknown reason'})", False
    wrapped = isinstance(cause, requests.exceptions.RequestException | TimeoutError)
    if isinstance(cause, OSError) and cause.errno is not None and not wrapped:
        return os.strerror(cause.errno).lower(), True
    return None


def _among(causes: list[BaseException], *kinds: type[BaseException]) -> bool:
    return any(isinstance(cause, kinds) for cause in causes)
