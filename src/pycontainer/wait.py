"""What to wait for until a container is ready: `pc.wait`, for the option `wait=` and `Container.wait_until`.

    pc.start(image, wait=pc.wait.log("ready") & pc.wait.listening(5432))

Each function gives an immutable value; `a & b` wants both, `a | b` either. `timeout` is in seconds, from the
begin of the waiting on; there, too, one of them can fail without the other.
"""

from __future__ import annotations

import builtins
import ipaddress
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import attrs

from pycontainer import option_values
from pycontainer.units import parse_duration, parse_int, refuse

if TYPE_CHECKING:
    import ssl

__all__ = ["AllOf", "AnyOf", "Strategy", "exec", "file", "healthy", "http", "listening", "log"]

SECONDS = 60.0
"""How long each is waited for unless it says otherwise."""

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""RFC 9110, 5.6.2: methods and names of headers."""
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_SECRET_HEADERS = {"authorization", "proxy-authorization", "cookie", "x-api-key"}


class Strategy:
    """Something to wait for."""

    __slots__ = ()

    def __and__(self, other: Strategy) -> AllOf:
        if not isinstance(other, Strategy):
            return NotImplemented
        return AllOf(_members(self, AllOf) + _members(other, AllOf))

    def __or__(self, other: Strategy) -> AnyOf:
        if not isinstance(other, Strategy):
            return NotImplemented
        return AnyOf(_members(self, AnyOf) + _members(other, AnyOf))


def _members(strategy: Strategy, kind: type[AllOf] | type[AnyOf]) -> tuple[Strategy, ...]:
    return strategy.members if isinstance(strategy, kind) else (strategy,)


@attrs.frozen(repr=False)
class AllOf(Strategy):
    """Ready when all are, each of them once; what `&` makes."""

    members: tuple[Strategy, ...]

    def __repr__(self) -> str:
        return " & ".join(f"({one!r})" if isinstance(one, AnyOf) else repr(one) for one in self.members)


@attrs.frozen(repr=False)
class AnyOf(Strategy):
    """Ready when one is; what `|` makes."""

    members: tuple[Strategy, ...]

    def __repr__(self) -> str:
        return " | ".join(map(repr, self.members))


def _seconds(value: Any) -> float:
    return parse_duration(value, option="timeout")


def _shown(name: str, *parts: str, timeout: float) -> str:
    return f"{name}({', '.join([*parts, *([] if timeout == SECONDS else [f'timeout={timeout:g}'])])})"


@attrs.frozen(repr=False)
class Log(Strategy):
    """See `log`."""

    pattern: re.Pattern[str] | re.Pattern[bytes]
    stream: Literal["stdout", "stderr"] | None
    times: int
    timeout: float = attrs.field(converter=_seconds)

    def __repr__(self) -> str:
        stream = [] if self.stream is None else [f"stream={self.stream!r}"]
        times = [] if self.times == 1 else [f"times={self.times}"]
        return _shown("log", repr(self.pattern.pattern), *stream, *times, timeout=self.timeout)


def log(
    pattern: str | bytes | re.Pattern[str] | re.Pattern[bytes],
    *,
    stream: Literal["stdout", "stderr"] | None = None,
    times: int = 1,
    timeout: float = SECONDS,
) -> Log:
    """So many lines that the regular expression `pattern` is found in (re.search), since the program was
    started the last time; in one of its streams, or in both. A line counts when it matches, complete or not.

    Raises InvalidOption.
    """
    if stream not in (None, "stdout", "stderr"):
        raise refuse("stream", stream, "must be 'stdout', 'stderr' or None for both")
    if not isinstance(pattern, (str, bytes, re.Pattern)):
        raise refuse("pattern", pattern, "must be a regular expression, text or bytes")
    try:
        compiled: re.Pattern[str] | re.Pattern[bytes] = re.compile(pattern)
    except re.error as error:
        raise refuse("pattern", pattern, f"is no regular expression: {error}") from None
    return Log(compiled, stream, parse_int(times, option="times", low=1), timeout)


@attrs.frozen(repr=False)
class Listening(Strategy):
    """See `listening`."""

    port: int
    host: str | None
    udp: bool
    timeout: float = attrs.field(converter=_seconds)

    def __repr__(self) -> str:
        host = [] if self.host is None else [f"host={self.host!r}"]
        udp = ["udp=True"] if self.udp else []
        return _shown("listening", str(self.port), *host, *udp, timeout=self.timeout)


def listening(
    port: int, *, host: str | None = None, udp: bool = False, timeout: float = SECONDS
) -> Listening:
    """A TCP socket listens on `port` in the container, or with `udp` a UDP socket is bound to it; with
    `host`, at that address of its own (127.0.0.1, say), or at all. Nobody connects to it.

    Raises InvalidOption.
    """
    if host is not None:
        try:
            host = str(ipaddress.ip_address(host))
        except ValueError:
            raise refuse("host", host, "must be an address such as '127.0.0.1' or '::1'") from None
    if udp is not True and udp is not False:
        raise refuse("udp", udp, "must be True or False")
    return Listening(parse_int(port, option="port", low=1, high=65535), host, udp, timeout)


@attrs.frozen(repr=False)
class Http(Strategy):
    """See `http`."""

    url: str
    tls: bool
    address: str | None
    port: int
    name: str
    """For TLS, and as the request's host."""
    target: str
    status: frozenset[int] | Callable[[int], object]
    method: str
    headers: tuple[tuple[str, str], ...]
    verify: bool | str | ssl.SSLContext
    timeout: float = attrs.field(converter=_seconds)

    def accepts(self, status: int) -> bool:
        return status in self.status if isinstance(self.status, frozenset) else bool(self.status(status))

    def __repr__(self) -> str:
        parts = [repr(self.url)]
        if callable(self.status):
            parts.append(f"status={getattr(self.status, '__name__', 'callable')}")
        elif self.status != {200}:
            parts.append(f"status={sorted(self.status)}")
        if self.method != "GET":
            parts.append(f"method={self.method!r}")
        if self.headers:
            shown = {name: "***" if name.lower() in _SECRET_HEADERS else text for name, text in self.headers}
            parts.append(f"headers={shown}")
        if self.verify is not True:
            parts.append(f"verify={self.verify!r}")
        return _shown("http", *parts, timeout=self.timeout)


def http(
    url: str,
    *,
    status: int | Collection[int] | Callable[[int], object] = 200,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    verify: bool | str | os.PathLike[str] | ssl.SSLContext = True,
    timeout: float = SECONDS,
) -> Http:
    """A server in the container answers with `status` (one, several, or a function that says so).

    The URL has the container's own port, "http://:8080/health". It is asked at 127.0.0.1 (else ::1) in
    the container's network, or at an address that the URL names; a name in it goes along as the
    request's host. A redirection is an answer like others. `verify` (https) is True, False, a file of
    certificates, or an `ssl.SSLContext`. An attempt is given up after 10 seconds. Raises InvalidOption.
    """
    tls, name, port, target = _parse_url(url)
    try:
        address = str(ipaddress.ip_address(name))
    except ValueError:
        address = None
    if not _TOKEN.fullmatch(method):
        raise refuse("method", method, "must be an HTTP method")
    pairs = tuple((headers or {}).items())
    for field, text in pairs:
        if not _TOKEN.fullmatch(field) or not _HEADER_VALUE.fullmatch(text):
            raise refuse("headers", field, "must be a header's name, and its value one line")
    if isinstance(verify, os.PathLike):
        verify = os.fspath(verify)
    wanted = _statuses(status)
    return Http(url, tls, address, port, name, target, wanted, method, pairs, verify, timeout)


def _parse_url(url: str) -> tuple[bool, str, int, str]:
    from urllib.parse import urlsplit

    if not isinstance(url, str) or not url.isascii() or not url.isprintable() or " " in url:
        raise refuse("url", url, "must be an http or https URL, percent-encoded")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise refuse("url", url, str(error)) from None
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise refuse("url", url, "must be an http or https URL")
    if "@" in parts.netloc:
        raise refuse("url", parts._replace(netloc="***").geturl(), "must hold no password; give headers=")
    tls = parts.scheme == "https"
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return tls, parts.hostname or "localhost", port or (443 if tls else 80), target


def _statuses(status: Any) -> frozenset[int] | Callable[[int], object]:
    if callable(status):
        return status  # type: ignore[no-any-return]
    several = status if isinstance(status, Iterable) and not isinstance(status, (str, bytes)) else [status]
    return frozenset(parse_int(one, option="status", low=100, high=999) for one in several)


@attrs.frozen(repr=False)
class Exec(Strategy):
    """See `exec`."""

    args: tuple[str, ...]
    overrides: tuple[tuple[str, Any], ...]
    timeout: float = attrs.field(converter=_seconds)

    def __repr__(self) -> str:
        given = [f"{name}={'***' if name == 'env' else repr(value)}" for name, value in self.overrides]
        return _shown("exec", repr([*self.args]), *given, timeout=self.timeout)


def exec(
    args: Iterable[str | os.PathLike[str]],
    *,
    env: Mapping[str, str | None] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    user: str | int | None = None,
    timeout: float = SECONDS,
) -> Exec:
    """A program that is run in the container, as `Container.exec` does it, exits with status 0. It is run
    again and again until then; an attempt is killed after 10 seconds. Raises InvalidOption."""
    if isinstance(args, (str, bytes)):
        raise refuse("args", args, "must be a list; for a shell's command, ['sh', '-c', command]")
    words = option_values.entrypoint(args)
    if not words:
        raise refuse("args", args, "must name a program")
    given: dict[str, Any] = {}
    if env is not None:
        given["env"] = option_values.env(env)
    if cwd is not None:
        given["cwd"] = option_values.cwd(cwd)
    if user is not None:
        given["user"] = option_values.user(user)
    return Exec(words, tuple(given.items()), timeout)


@attrs.frozen(repr=False)
class File(Strategy):
    """See `file`."""

    path: str
    timeout: float = attrs.field(converter=_seconds)

    def __repr__(self) -> str:
        return _shown("file", repr(self.path), timeout=self.timeout)


def file(path: str | os.PathLike[str], *, timeout: float = SECONDS) -> File:
    """There is something at that path in the container, which is absolute. Raises InvalidOption."""
    text = os.fspath(path)
    if not isinstance(text, str) or not text.startswith("/") or "\0" in text:
        raise refuse("path", path, "must be an absolute path in the container")
    return File(text, timeout)


@attrs.frozen(repr=False)
class Healthy(Strategy):
    """See `healthy`."""

    timeout: float = attrs.field(converter=_seconds)

    def __repr__(self) -> str:
        return _shown("healthy", timeout=self.timeout)


def healthy(*, timeout: float = SECONDS) -> Healthy:
    """Its healthcheck has succeeded; waiting ends, too, when it has become "unhealthy"."""
    return Healthy(timeout)


def parse_strategy(value: Any) -> Strategy | None:
    """The option `wait`. Raises InvalidOption."""
    if value is None or isinstance(value, Strategy):
        return value
    raise refuse("wait", value, "must be made by pycontainer.wait, such as wait.listening(80)")


def each(strategy: Strategy) -> builtins.list[Strategy]:
    """The single ones that it is made of."""
    if isinstance(strategy, (AllOf, AnyOf)):
        return [one for member in strategy.members for one in each(member)]
    return [strategy]
