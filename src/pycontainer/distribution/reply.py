"""A registry's answer: its status and headers, and a body that is read with bounds or not at all."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from types import TracebackType

import requests
from requests.structures import CaseInsensitiveDict

from pycontainer.distribution.address import safe_url
from pycontainer.distribution.failures import WIRE_ERRORS, Failure, of_exception
from pycontainer.distribution.patience import Pauses
from pycontainer.errors import TransportError

PIECE = 256 << 10
"""Bytes that one read asks for: as much as a socket holds, little enough to be in a cache."""

# Reads of a TLS connection give 16 KiB at most; smaller pieces cost everybody downstream.
_SMALL = 64 << 10
# A body below this rate (bytes per second over one time-out) has stalled, however busy it looks.
_DRIP = 1024
# What is left of a body that nobody wants is read, for the connection's sake, up to this.
_REST = 64 << 10


class Reply:
    """An answer whose headers are here; a context manager that gives the connection back or ends it."""

    def __init__(self, response: requests.Response, method: str, url: str, timeout: float) -> None:
        self.status = response.status_code
        self.headers: CaseInsensitiveDict[str] = response.headers
        self.method = method
        self.url = url
        self._response = response
        self._timeout = timeout
        self._spent = 0.0
        self._got = 0

    @property
    def safe_url(self) -> str:
        """The address that answered, as it may be shown."""
        return safe_url(self.url)

    def shown(self) -> str:
        """What messages call this answer."""
        return f"{self.method} {self.safe_url}"

    @property
    def length(self) -> int | None:
        """The body's size as announced, None where it is not."""
        text = self.headers.get("Content-Length", "")
        return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else None

    def challenges(self) -> list[str]:
        """The values of the WWW-Authenticate headers, one by one."""
        return list(self._response.raw.headers.getlist("WWW-Authenticate"))

    def read(self, limit: int) -> bytes | Failure:
        """The whole body, at most `limit` bytes."""
        found, total = [], 0
        while piece := self.piece(limit + 1 - total):
            if isinstance(piece, Failure):
                return piece
            found.append(piece)
            total += len(piece)
            if total > limit:
                return self._broken(f"more than {limit} bytes", again=False)
        if self.method != "HEAD" and self.length is not None and total < self.length:
            return self._broken(f"the body broke off after {total} bytes")
        return b"".join(found)

    def piece(self, size: int) -> bytes | Failure:
        """What has arrived, at most `size` bytes; nothing at the body's end or where it broke off."""
        started = time.monotonic()
        try:
            # As sent: what is asked for by digest is not to be decoded on the way.
            data: bytes = self._response.raw.read1(min(size, PIECE), decode_content=False) or b""
        except WIRE_ERRORS as error:
            return of_exception(error, self.method, self.url)
        self._spent += time.monotonic() - started
        self._got += len(data)
        if self._spent > self._timeout:
            if data and self._got < _DRIP * self._spent:
                return self._broken(f"the body stalled ({self._got} bytes in {self._spent:.0f} s)")
            self._spent, self._got = 0.0, 0
        return data

    def pieces(self, limit: int) -> Iterator[bytes | Failure]:
        """The body in handy pieces, at most `limit` bytes in all; a Failure is the last thing that comes."""
        held: list[bytes] = []
        size = 0
        while limit > 0:
            piece = self.piece(limit)
            if isinstance(piece, Failure):
                yield from held
                yield piece
                return
            if not piece:
                break
            limit -= len(piece)
            if not held and len(piece) >= _SMALL:
                yield piece
                continue
            held.append(piece)
            size += len(piece)
            if size >= _SMALL:
                yield b"".join(held)
                held, size = [], 0
        if held:
            yield b"".join(held)

    def close(self) -> None:
        """Gives the connection back where the body was read or is short, and ends it otherwise."""
        length = self.length
        if self.method == "HEAD" or self.status in (204, 304) or (length is not None and length <= _REST):
            rest = _REST
            while rest > 0 and (piece := self.piece(rest)) and not isinstance(piece, Failure):
                rest -= len(piece)
        self._response.close()

    def _broken(self, why: str, *, again: bool = True) -> Failure:
        return Failure(TransportError(f"{self.shown()}: {why}", url=self.safe_url), again)

    def __enter__(self) -> Reply:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            # Ctrl-C must not wait for the rest of a body.
            self._response.close()


def read_whole(ask: Callable[[], Reply | Failure], limit: int, pauses: Pauses) -> tuple[Reply, bytes]:
    """The answer to `ask()`, a request that may be repeated, and all of its body, at most `limit` bytes.

    Raises RegistryError where it cannot be had, or `pauses` come to their end.
    """
    while True:
        reply = ask()
        if isinstance(reply, Failure):
            pauses.after(reply)
            continue
        with reply:
            body = reply.read(limit)
        if isinstance(body, bytes):
            return reply, body
        pauses.after(body)
