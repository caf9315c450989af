"""An HTTP server in the container that must answer: RFC 9112, as far as the status of the answer."""

from __future__ import annotations

import errno
import os
import re
import select
import socket
from collections.abc import Callable, Generator
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from pycontainer.errors import InvalidState, LaunchError
from pycontainer.readiness.condition import ATTEMPT_SECONDS, Condition, Pause, Waiting

if TYPE_CHECKING:
    import ssl

    from pycontainer.supervisor.served import Served
    from pycontainer.wait import Http

_FIRST_PAUSE = 0.005
_LONGEST_PAUSE = 0.1
_MAX_HEAD = 64 * 1024
_CHUNK = 16 * 1024
_STATUS = re.compile(rb"HTTP/[0-9]\.[0-9] ([1-9][0-9]{2})(?: [^\r\n]*)?\r?\n")
_LOOPBACKS = ("127.0.0.1", "::1")

_Result = TypeVar("_Result")
Steps = Generator[tuple[int, int], None, int]
"""Yields a descriptor and events of poll(2) that it waits for; returns the status."""


class Answers(Condition):
    def __init__(self, wanted: Http, waiting: Waiting) -> None:
        """Raises InvalidOption for certificates that cannot be read."""
        self._wanted = wanted
        self._serving = waiting.container._serving
        self._context = _context(wanted) if wanted.tls else None
        self._pause = Pause(_LONGEST_PAUSE, _FIRST_PAUSE)
        self._attempt: Steps | None = None
        self._waits: tuple[int, int] | None = None
        self.missing = "not tried yet"

    @property
    def fds(self) -> list[tuple[int, int]]:
        return [] if self._waits is None else [self._waits]

    def look(self, now: float) -> bool:
        if self._attempt is None:
            if now < self.due:
                return False
            self._attempt = _ask(self._serving, self._wanted, self._context)
            self.due = now + ATTEMPT_SECONDS
        elif now >= self.due:
            return self._failed(now, "took too long")
        try:
            self._waits = next(self._attempt)
        except StopIteration as done:
            status: int = done.value
            return self._wanted.accepts(status) or self._failed(now, f"status {status}")
        except (OSError, LaunchError, InvalidState) as error:
            # What `ssl` raises is an OSError, too.
            return self._failed(now, str(error))
        return False

    def close(self) -> None:
        self._waits = None
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            attempt.close()

    def _failed(self, now: float, why: str) -> bool:
        self.close()
        self.missing = why
        self.due = now + self._pause()
        return False


def _context(wanted: Http) -> ssl.SSLContext:
    import ssl

    from pycontainer.units import refuse

    if isinstance(wanted.verify, ssl.SSLContext):
        return wanted.verify
    try:
        context = ssl.create_default_context(cafile=wanted.verify if isinstance(wanted.verify, str) else None)
    except OSError as error:
        raise refuse("verify", wanted.verify, f"cannot be read: {error.strerror}") from error
    if not wanted.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _ask(serving: Callable[[], Served], wanted: Http, context: ssl.SSLContext | None) -> Steps:
    addresses = _LOOPBACKS if wanted.address is None else (wanted.address,)
    for last, address in enumerate(addresses, start=1):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(fileno=serving().socket(family, socket.SOCK_STREAM)) as plain:
            plain.setblocking(False)
            failure = plain.connect_ex((address, wanted.port))
            if failure == errno.EINPROGRESS:
                yield plain.fileno(), select.POLLOUT
                failure = plain.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if failure == 0:
                return (yield from _converse(plain, wanted, context))
            if last == len(addresses):
                raise OSError(failure, os.strerror(failure))
    raise AssertionError("no address")


def _converse(plain: socket.socket, wanted: Http, context: ssl.SSLContext | None) -> Steps:
    if context is None:
        yield from _send(plain, _request(wanted))
        return (yield from _receive(plain))
    with context.wrap_socket(plain, server_hostname=wanted.name, do_handshake_on_connect=False) as secure:
        yield from _patiently(secure, select.POLLIN, secure.do_handshake)
        yield from _send(secure, _request(wanted))
        return (yield from _receive(secure))


def _request(wanted: Http) -> bytes:
    names = {name.lower() for name, _ in wanted.headers}
    host = f"[{wanted.name}]" if ":" in wanted.name else wanted.name
    usual = (("Host", f"{host}:{wanted.port}"), ("User-Agent", "pycontainer"), ("Accept", "*/*"))
    fields = [*(pair for pair in usual if pair[0].lower() not in names), *wanted.headers]
    lines = [f"{wanted.method} {wanted.target} HTTP/1.1", *(f"{name}: {text}" for name, text in fields)]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1")


def _send(connection: socket.socket, data: bytes) -> Generator[tuple[int, int], None, None]:
    while data:
        sent = yield from _patiently(connection, select.POLLOUT, partial(connection.send, data))
        data = data[sent:]


def _receive(connection: socket.socket) -> Steps:
    """The status of the final answer: those before it (1xx) are passed over."""
    head = b""
    while len(head) < _MAX_HEAD:
        found = _STATUS.match(head)
        if found and not found[1].startswith(b"1"):
            return int(found[1])
        if found and b"\r\n\r\n" in head:
            head = head.partition(b"\r\n\r\n")[2]
            continue
        if not found and b"\n" in head:
            break
        data = yield from _patiently(connection, select.POLLIN, partial(connection.recv, _CHUNK))
        if not data:
            raise OSError("the connection was closed without an answer")
        head += data
    raise OSError("what answers does not speak HTTP/1")


def _patiently(
    connection: socket.socket, events: int, call: Callable[[], _Result]
) -> Generator[tuple[int, int], None, _Result]:
    """Calls it again when the socket is ready."""
    while True:
        try:
            return call()
        except BlockingIOError:
            yield connection.fileno(), events
        except OSError as error:
            direction = _wants(error)
            if direction == 0:
                raise
            yield connection.fileno(), direction


def _wants(error: OSError) -> int:
    """What TLS waits for, where that is why it did nothing."""
    import ssl

    if isinstance(error, ssl.SSLWantReadError):
        return select.POLLIN
    return select.POLLOUT if isinstance(error, ssl.SSLWantWriteError) else 0
