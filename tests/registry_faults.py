"""What can go wrong with an answer: actions for `Service.fault` (scripted_http.py), applied per request.

    registry.fault(Status(429, headers={"Retry-After": "1"}), method="GET", path="/blobs/", times=2)
    registry.fault([Truncate(1000), Slow(1 << 20)], path="/blobs/sha256:abc")

An action answers in the service's place (`instead`), or changes the reply to a request that was
carried out (`change`). Several actions in one list are applied together.
"""

from __future__ import annotations

import gzip
import json
import re
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs

from scripted_http import Dropped, Reply, Request, Service

if TYPE_CHECKING:
    from fault_registry import FaultRegistry


class Action:
    """One thing that goes wrong."""

    def instead(self, service: Any, request: Request) -> Reply | None:
        """The answer, when the request shall not be carried out."""
        return None

    def change(self, service: Any, request: Request, reply: Reply) -> None:
        """Changes the answer."""

    def release(self) -> None:
        """Ends whatever waiting this action does."""


@attrs.define(eq=False)
class Fault:
    """Actions that were arranged. `hit` is set once one request was treated; `hits` counts them."""

    actions: list[Action]
    method: str | None
    path: re.Pattern[str]
    times: int | None
    after: int
    where: Callable[[Request], bool] | None
    hits: int = 0
    seen: int = 0
    hit: threading.Event = attrs.field(factory=threading.Event)

    def due(self, request: Request) -> bool:
        """Whether this request is to be treated; counts it."""
        if self.method is not None and request.method not in self.method.split("|"):
            return False
        if not self.path.search(request.path) or (self.where is not None and not self.where(request)):
            return False
        self.seen += 1
        if self.seen <= self.after or (self.times is not None and self.hits >= self.times):
            return False
        self.hits += 1
        return True

    def stop(self) -> None:
        """No further request is treated; whoever stalls goes on."""
        self.times = self.hits
        self.release()

    def release(self) -> None:
        """Lets whoever stalls go on."""
        for action in self.actions:
            action.release()


# Answers in place of the true one


def error_body(code: str, message: str = "arranged by the test", detail: Any = None) -> bytes:
    """The errors' form of the distribution specification."""
    return json.dumps({"errors": [{"code": code, "message": message, "detail": detail}]}).encode()


@attrs.define
class Status(Action):
    """Answers `code` and does not carry the request out.

    `unread`: at once, without reading the request's body, and closes the connection.
    """

    code: int
    headers: dict[str, Any] = attrs.field(factory=dict)
    body: bytes | None = None
    error: str = "UNKNOWN"
    unread: bool = False

    def instead(self, service: Service, request: Request) -> Reply:
        if not self.unread:
            request.body.drain()
        body = error_body(self.error) if self.body is None else self.body
        return Reply(self.code, {"Content-Type": "application/json", **self.headers}, body, close=self.unread)


@attrs.define
class Answer(Action):
    """Answers with this body in place of what is stored; a tag's digest header is left out unless given."""

    body: bytes
    content_type: str = "application/octet-stream"
    code: int = 200
    headers: dict[str, Any] = attrs.field(factory=dict)

    def instead(self, service: Service, request: Request) -> Reply:
        request.body.drain()
        return Reply(self.code, {"Content-Type": self.content_type, **self.headers}, self.body)


@attrs.define
class Close(Action):
    """Ends the connection before any answer, the request not carried out, `after_bytes` of its body read."""

    after_bytes: int = 0
    reset: bool = True

    def instead(self, service: Service, request: Request) -> Reply:
        for _ in request.body.pieces(self.after_bytes):
            pass
        return Reply(500, lost=True, reset=self.reset)


@attrs.define
class CutUpload(Action):
    """Ends the connection inside of a PATCH or PUT's body; the registry keeps the bytes that it has read."""

    after_bytes: int
    reset: bool = True

    def instead(self, service: FaultRegistry, request: Request) -> Reply:
        service.keep_part(request, self.after_bytes)
        raise Dropped(reset=self.reset)


@attrs.define
class StallUpload(Action):
    """`after_bytes` of the body are read, then none for `seconds`, or until the fault is released."""

    after_bytes: int = 0
    seconds: float | None = None
    released: threading.Event = attrs.field(factory=threading.Event)

    def instead(self, service: Service, request: Request) -> None:
        def wait(received: int) -> None:
            if received >= self.after_bytes:
                self.released.wait(self.seconds)
                request.body.before = None

        request.body.before = wait

    def release(self) -> None:
        self.released.set()


@attrs.define
class SlowUpload(Action):
    """The request's body is read at about this many bytes in a second."""

    rate: float

    def instead(self, service: Service, request: Request) -> None:
        begun = time.monotonic()

        def wait(received: int) -> None:
            service.closing.wait(max(0.0, received / self.rate - (time.monotonic() - begun)))

        request.body.before = wait


@attrs.define
class Redirect(Action):
    """Sends the client to another URL; "{target}" in it is the path and query that were asked for.

    A loop: `Redirect("{target}")` for every request.
    """

    to: str
    code: int = 307
    headers: dict[str, Any] = attrs.field(factory=dict)

    def instead(self, service: Service, request: Request) -> Reply:
        request.body.drain()
        target = self.to.replace("{target}", request.target)
        return Reply(self.code, {"Location": target, "Docker-Content-Digest": None, **self.headers})


@attrs.define
class Challenge(Action):
    """A 401 with these WWW-Authenticate headers, e.g. with a realm elsewhere."""

    values: list[str]

    def instead(self, service: Service, request: Request) -> Reply:
        request.body.drain()
        headers = {"WWW-Authenticate": self.values, "Content-Type": "application/json"}
        return Reply(401, headers, error_body("UNAUTHORIZED"))


@attrs.define
class ExpireTokens(Action):
    """Every token that the token service has given so far is worth nothing from this request on."""

    def instead(self, service: FaultRegistry, request: Request) -> None:
        service.expire_tokens()


@attrs.define
class IgnoreRange(Action):
    """Answers 200 and the whole blob, whatever Range asked for."""

    def instead(self, service: Service, request: Request) -> None:
        request.headers["x-ignored-range"] = request.headers.pop("range", "")


@attrs.define
class OtherRange(Action):
    """Answers another range than the one asked for: moved by `by` bytes, and says so in Content-Range."""

    by: int

    def instead(self, service: Service, request: Request) -> None:
        form = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
        if form is not None:
            end = str(int(form[2]) + self.by) if form[2] else ""
            request.headers["range"] = f"bytes={max(0, int(form[1]) + self.by)}-{end}"


# True answers, delivered badly


@attrs.define
class LostAnswer(Action):
    """The request is carried out; its answer never comes."""

    reset: bool = True

    def change(self, service: Service, request: Request, reply: Reply) -> None:
        reply.lost, reply.reset = True, self.reset


@attrs.define
class Truncate(Action):
    """The connection ends after so much of the body, Content-Length saying more."""

    after_bytes: int
    reset: bool = False

    def change(self, service: Service, request: Request, reply: Reply) -> None:
        reply.cut, reply.reset = self.after_bytes, self.reset


@attrs.define
class Flip(Action):
    """One bit of the body is wrong."""

    offset: int
    bit: int = 0

    def change(self, service: Service, request: Request, reply: Reply) -> None:
        if self.offset < len(reply.body):
            reply.body = bytearray(reply.body)
            reply.body[self.offset] ^= 1 << self.bit


@attrs.define
class Stall(Action):
    """Nothing comes for `seconds`, or until the fault is released; ahead of the answer or inside its body."""

    seconds: float | None = None
    after_bytes: int | None = None
    released: threading.Event = attrs.field(factory=threading.Event)

    def change(self, service: Service, request: Request, reply: Reply) -> None:
        reply.stall_at, reply.stall = self.after_bytes, lambda: self.released.wait(self.seconds) and None

    def release(self) -> None:
        self.released.set()


@attrs.define
class Slow(Action):
    """The body comes at this many bytes in a second."""

    rate: float

    def change(self, service: Service, request: Request, reply: Reply) -> None:
        reply.rate = self.rate


@attrs.define
class Endless(Action):
    """The body goes on with zeros until the client leaves; `length` is said as its Content-Length."""

    length: int | None = None
    chunked: bool = False

    def change(self, service: Service, request: Request, reply: Reply) -> None:
        reply.endless, reply.length, reply.chunked, reply.close = True, self.length, self.chunked, True


@attrs.define
class WrongSize(Action):
    """Content-Length lies by `by` bytes; the body is whole and the connection ends after it."""

    by: int

    def change(self, service: Service, request: Request, reply: Reply) -> None:
        reply.length = max(0, len(reply.body) + self.by)


@attrs.define
class More(Action):
    """The body has these bytes more at its end, and Content-Length counts them (negative: fewer)."""

    extra: bytes = b""
    fewer: int = 0

    def change(self, service: Service, request: Request, reply: Reply) -> None:
        reply.body = bytes(reply.body)[: len(reply.body) - self.fewer] + self.extra


@attrs.define
class Chunked(Action):
    """The body comes in chunks, without a Content-Length."""

    def change(self, service: Service, request: Request, reply: Reply) -> None:
        reply.chunked = True


@attrs.define
class Encoded(Action):
    """The body is sent with Content-Encoding: gzip, asked for or not; `lie`: only the header says so."""

    lie: bool = False

    def change(self, service: Service, request: Request, reply: Reply) -> None:
        reply.set("Content-Encoding", "gzip")
        if not self.lie:
            reply.body = gzip.compress(bytes(reply.body), 1)


@attrs.define
class Garbage(Action):
    """These bytes come in place of an answer."""

    raw: bytes

    def change(self, service: Service, request: Request, reply: Reply) -> None:
        reply.raw = self.raw


@attrs.define
class Header(Action):
    """A header of the answer has another value; None: it is missing."""

    name: str
    value: str | list[str] | None

    def change(self, service: Service, request: Request, reply: Reply) -> None:
        reply.set(self.name, self.value)


def digest_header(value: str | None) -> Header:
    return Header("Docker-Content-Digest", value)


def content_type(value: str | None) -> Header:
    return Header("Content-Type", value)


def content_range(value: str | None) -> Header:
    """Only the header of a partial answer lies: the bytes are those that were asked for."""
    return Header("Content-Range", value)


def location(value: str | None) -> Header:
    """Elsewhere (a URL), relative (a path), or missing (None)."""
    return Header("Location", value)


def link(url: str | None) -> Header:
    """The next page of a list: on another host, or the same one for ever."""
    return Header("Link", None if url is None else f'<{url}>; rel="next"')


@attrs.define
class RelativeLocation(Action):
    """The Location of the answer without scheme and host."""

    def change(self, service: Service, request: Request, reply: Reply) -> None:
        for name, value in list(reply.headers.items()):
            if name.lower() == "location" and isinstance(value, str):
                reply.headers[name] = re.sub(r"^https?://[^/]+", "", value)
