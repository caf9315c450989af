"""A small HTTP/1.1 server for tests whose every answer can be bent: what fault_registry.py is built on.

A `Service` answers each request with a `Reply`; a fault (see registry_faults.py) answers in its place or
changes how the reply is delivered. Every request is kept in `Service.log` with what was sent and received.
"""

from __future__ import annotations

import contextlib
import email.utils
import fcntl
import http.client
import re
import socket
import ssl
import struct
import termios
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO

import attrs

if TYPE_CHECKING:
    from registry_faults import Action, Fault

PIECE = 1 << 20
MAX_HEAD = 256 << 10
_ARRIVES_SECONDS = 2.0
"""How long a reset waits for a client that does not read."""


class Dropped(Exception):
    """The connection ends here: `reset` sends a reset instead of an orderly end."""

    def __init__(self, *, reset: bool = False) -> None:
        self.reset = reset


class Broken(ConnectionError):
    """The client went away, or sent something that is not HTTP."""


class Body:
    """A request's body, read only when somebody asks for it."""

    def __init__(self, stream: BinaryIO, length: int | None, entry: Request, proceed: Callable[[], None]):
        self._stream, self._left, self._entry, self._proceed = stream, length, entry, proceed
        self._buffer: memoryview | None = None
        self.complete = length == 0
        self.before: Callable[[int], object] | None = None
        """Called ahead of each piece with the number of bytes that were received: faults wait in it."""

    def pieces(self, limit: int | None = None) -> Iterator[memoryview]:
        """What comes next, at most `limit` bytes; a piece is valid until the next one is asked for."""
        if not self.complete and self._buffer is None:
            self._buffer = memoryview(bytearray(PIECE))
            self._proceed()
        source = self._chunked if self._left is None else self._plain
        while not self.complete and (limit is None or limit > 0):
            if self.before is not None:
                self.before(self._entry.received)
            piece = source(PIECE if limit is None else min(PIECE, limit))
            self._entry.received += len(piece)
            if limit is not None:
                limit -= len(piece)
            if piece:
                yield piece

    def read(self) -> bytes:
        return b"".join(bytes(piece) for piece in self.pieces())

    def drain(self) -> None:
        for _ in self.pieces():
            pass

    def _into(self, most: int) -> memoryview:
        assert self._buffer is not None
        count = self._stream.readinto1(self._buffer[:most])  # type: ignore[attr-defined]
        if not count:
            raise Broken("the body ended early")
        return self._buffer[:count]

    def _plain(self, most: int) -> memoryview:
        assert self._left is not None
        piece = self._into(min(most, self._left))
        self._left -= len(piece)
        self.complete = self._left == 0
        return piece

    _chunk = 0

    def _chunked(self, most: int) -> memoryview:
        if self._chunk == 0:
            line = self._stream.readline(1024)
            try:
                self._chunk = int(line.split(b";")[0], 16)
            except ValueError:
                raise Broken("no chunk") from None
            if self._chunk == 0:
                while self._stream.readline(1024).strip():
                    pass
                self.complete = True
                return memoryview(b"")
        piece = self._into(min(most, self._chunk))
        self._chunk -= len(piece)
        if self._chunk == 0:
            self._stream.readline(8)
        return piece


@attrs.define(eq=False)
class Request:
    """One request, as it stands in the log. `received` and `sent` count bytes of bodies."""

    number: int
    connection: int
    method: str
    target: str
    headers: dict[str, str]
    """By lower-case name."""
    at: float = attrs.field(factory=time.monotonic)
    received: int = 0
    sent: int = 0
    status: int | None = None
    """None while nothing was answered."""
    faults: list[str] = attrs.field(factory=list)
    body: Body = attrs.field(init=False, repr=False)

    @property
    def path(self) -> str:
        return urllib.parse.unquote(self.target.partition("?")[0])

    @property
    def query(self) -> dict[str, str]:
        return dict(self.query_list)

    @property
    def query_list(self) -> list[tuple[str, str]]:
        return urllib.parse.parse_qsl(self.target.partition("?")[2], keep_blank_values=True)

    @property
    def authorization(self) -> str | None:
        return self.headers.get("authorization")


@attrs.define
class Reply:
    """An answer, and how it is delivered: faults change these fields."""

    status: int
    headers: dict[str, str | list[str] | None] = attrs.field(factory=dict)
    """A list is sent as several headers, None as none."""
    body: bytes | bytearray | memoryview = b""
    length: int | None = None
    """The Content-Length that is said, where it is not the body's."""
    chunked: bool = False
    cut: int | None = None
    """The connection ends after this much of the body."""
    stall_at: int | None = None
    """Where in the body `stall` is called; None: ahead of the status line."""
    stall: Callable[[], None] | None = None
    rate: float | None = None
    """Bytes of the body in a second."""
    endless: bool = False
    lost: bool = False
    """Nothing is sent, the connection ends."""
    raw: bytes | None = None
    """Sent in place of everything."""
    close: bool = False
    reset: bool = False

    def set(self, name: str, value: str | list[str] | None) -> None:
        for known in list(self.headers):
            if known.lower() == name.lower():
                del self.headers[known]
        self.headers[name] = value


class Connection:
    """One client's connection: reads requests, sends replies."""

    def __init__(self, service: Service, sock: socket.socket, number: int) -> None:
        self.service, self.sock, self.number = service, sock, number
        self.stream: BinaryIO = sock.makefile("rb", buffering=64 << 10)

    def requests(self) -> Iterator[Request]:
        while True:
            line = self.stream.readline(MAX_HEAD)
            if not line.strip():
                if not line:
                    return
                continue
            form = re.fullmatch(r"([A-Z]+) (\S+) HTTP/1\.[01]\r?\n", line.decode("latin-1"))
            if form is None:
                raise Broken(f"no request line: {line!r}")
            yield self._request(form[1], form[2], self._headers())

    def _headers(self) -> dict[str, str]:
        found: dict[str, str] = {}
        while line := self.stream.readline(MAX_HEAD).decode("latin-1").rstrip("\r\n"):
            name, _, value = line.partition(":")
            name, value = name.strip().lower(), value.strip()
            found[name] = f"{found[name]}, {value}" if name in found else value
        return found

    def _request(self, method: str, target: str, headers: dict[str, str]) -> Request:
        chunked = "chunked" in headers.get("transfer-encoding", "").lower()
        length = None if chunked else int(headers.get("content-length", 0))
        if target.startswith(("http://", "https://")):
            # A client that takes this service for its proxy.
            parts = urllib.parse.urlsplit(target)
            target = parts.path + (f"?{parts.query}" if parts.query else "")
        request = self.service.enter(self.number, method, target, headers)

        def proceed() -> None:
            if headers.get("expect", "").lower() == "100-continue":
                self.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")

        request.body = Body(self.stream, length, request, proceed)
        return request

    def deliver(self, request: Request, reply: Reply) -> None:
        """Sends the reply as it wants to be sent; Dropped where the connection ends with it."""
        if reply.lost:
            raise Dropped(reset=reply.reset)
        if reply.stall is not None and reply.stall_at is None:
            reply.stall()
        if reply.raw is not None:
            self.sock.sendall(reply.raw)
            raise Dropped(reset=reply.reset)
        request.status = reply.status
        head = self._head(request, reply)
        bodiless = request.method == "HEAD" or reply.status in (204, 304) or reply.status < 200
        plain = not (reply.chunked or reply.endless or reply.cut is not None or reply.stall or reply.rate)
        if bodiless:
            self.sock.sendall(head)
        elif plain and len(reply.body) <= 64 << 10:
            request.sent += len(reply.body)
            self.sock.sendall(head + bytes(reply.body))
        else:
            self.sock.sendall(head)
            self._send_body(request, reply)
        if reply.close or reply.length is not None or not request.body.complete:
            raise Dropped(reset=reply.reset)

    def _head(self, request: Request, reply: Reply) -> bytes:
        headers = {"Date": email.utils.formatdate(usegmt=True), **reply.headers}
        if reply.chunked:
            headers["Transfer-Encoding"] = "chunked"
        elif reply.status >= 200 and reply.status != 204 and not (reply.endless and reply.length is None):
            length = len(reply.body) if reply.length is None else reply.length
            headers.setdefault("Content-Length", str(length))
            # Without a length only the connection's end tells that of the body.
            reply.close = reply.close or headers["Content-Length"] is None
        if reply.close:
            headers["Connection"] = "close"
        lines = [f"HTTP/1.1 {reply.status} {http.client.responses.get(reply.status, 'Odd')}"]
        for name, value in headers.items():
            for each in value if isinstance(value, list) else [] if value is None else [value]:
                lines.append(f"{name}: {each}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def _send_body(self, request: Request, reply: Reply) -> None:
        for piece in self._portions(reply):
            # Counted first: whoever has read the last byte must find it counted.
            request.sent += len(piece)
            framed = [b"%x\r\n" % len(piece), piece, b"\r\n"] if reply.chunked else [piece]
            try:
                for part in framed:
                    self.sock.sendall(part)
            except OSError:
                request.sent -= len(piece)
                raise
            if reply.rate:
                self.service.closing.wait(len(piece) / reply.rate)
        if reply.chunked:
            self.sock.sendall(b"0\r\n\r\n")

    def _portions(self, reply: Reply) -> Iterator[memoryview]:
        """The body in pieces that end where something is to happen."""
        body, place = memoryview(reply.body), 0
        step = PIECE if not reply.rate else max(1, min(PIECE, int(reply.rate / 50)))
        events = sorted({e for e in (reply.cut, reply.stall_at) if e is not None})
        while True:
            if place == reply.cut:
                raise Dropped(reset=reply.reset)
            if place == reply.stall_at and reply.stall is not None:
                reply.stall()
            if place >= len(body) and not reply.endless:
                return
            if self.service.closing.is_set():
                raise Dropped
            end = place + step
            if not reply.endless:
                end = min(end, len(body))
            end = min([end, *(event for event in events if event > place)])
            yield body[place:end] if end <= len(body) else memoryview(bytes(end - place))
            place = end

    def end(self, *, reset: bool) -> None:
        if reset:
            self._let_arrive()
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            interrupt(self.sock)

    def _let_arrive(self) -> None:
        """A reset throws away what is still to be sent, which was counted as sent."""
        until = time.monotonic() + _ARRIVES_SECONDS
        with contextlib.suppress(OSError):  # the client was first
            while any(fcntl.ioctl(self.sock, termios.TIOCOUTQ, bytes(4))) and time.monotonic() < until:
                time.sleep(0.001)


def interrupt(sock: socket.socket) -> None:
    """Wakes whoever reads or writes; also ends the connection where a forked child holds a copy."""
    # Not SSLSocket's own shutdown, which takes the TLS object away from the thread that reads.
    with contextlib.suppress(OSError):  # the client was first
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


class Service:
    """A server on a loopback port of its own, from `with` to its end; no thread outlives it.

    `log` holds every request; `fault(...)` arranges what shall go wrong. An unexpected error in a
    service's own code is raised at its end.
    """

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self.tls = tls
        self.closing = threading.Event()
        self.log: list[Request] = []
        self.connections = 0
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._live: dict[threading.Thread, socket.socket] = {}
        self._failures: list[BaseException] = []
        self._listener: socket.socket | None = None

    # Life

    def __enter__(self) -> Any:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, name=f"{type(self).__name__}-accept")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if error is None and self._failures:
            raise AssertionError(f"{type(self).__name__} itself failed") from self._failures[0]

    def close(self) -> None:
        """Ends every connection and thread; closing twice is fine."""
        self.closing.set()
        if self._listener is None:
            return
        self.clear_faults()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        self._listener = None
        with self._lock:
            live = list(self._live)
            for sock in self._live.values():
                interrupt(sock)
        for thread in live:
            thread.join()

    @property
    def host(self) -> str:
        """As it stands in references: "127.0.0.1:PORT"."""
        return f"127.0.0.1:{self.port}"

    @property
    def alias(self) -> str:
        """The same service by another name, thus another host to a client."""
        return f"localhost:{self.port}"

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host}"

    # What tests ask for

    def fault(
        self,
        action: Action | list[Action],
        *,
        method: str | None = None,
        path: str = "",
        times: int | None = 1,
        after: int = 0,
        where: Callable[[Request], bool] | None = None,
    ) -> Fault:
        """Arranges `action` for the requests that match: after `after` of them, for `times` (None: all).

        `path` is a regular expression searched for in the path (without the query); `method` may name
        several, as "GET|HEAD". Of several faults that are due, the one arranged first is applied.
        The actions are in registry_faults.py.
        """
        from registry_faults import Fault

        actions = action if isinstance(action, list) else [action]
        fault = Fault(actions, method, re.compile(path), times, after, where)
        with self._lock:
            self._faults.append(fault)
        return fault

    def clear_faults(self) -> None:
        """Whatever was arranged is over; whoever stalls goes on."""
        with self._lock:
            faults, self._faults = self._faults, []
        for fault in faults:
            fault.release()

    def requests(self, method: str | None = None, path: str = "") -> list[Request]:
        """The requests of the log that match, in order; `method` and `path` as in `fault`."""
        methods = method.split("|") if method else None
        with self._lock:
            found = list(self.log)
        return [r for r in found if (not methods or r.method in methods) and re.search(path, r.path)]

    def count(self, method: str | None = None, path: str = "") -> int:
        return len(self.requests(method, path))

    def bytes_sent(self, method: str | None = None, path: str = "") -> int:
        """Bytes of answers' bodies."""
        return sum(request.sent for request in self.requests(method, path))

    def bytes_received(self, method: str | None = None, path: str = "") -> int:
        """Bytes of requests' bodies."""
        return sum(request.received for request in self.requests(method, path))

    def forget(self) -> None:
        """Empties the log."""
        with self._lock:
            self.log.clear()

    # The work

    def answer(self, request: Request) -> Reply:
        raise NotImplementedError

    def enter(self, connection: int, method: str, target: str, headers: dict[str, str]) -> Request:
        with self._lock:
            request = Request(len(self.log), connection, method, target, headers)
            self.log.append(request)
        return request

    def _accept(self) -> None:
        assert self._listener is not None
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                if self.closing.is_set():
                    return
                raise
            with self._lock:
                self.connections += 1
                number = self.connections
                name = f"{type(self).__name__}-{number}"
                thread = threading.Thread(target=self._serve, args=(sock, number), name=name)
                self._live[thread] = sock
            thread.start()

    def _serve(self, sock: socket.socket, number: int) -> None:
        connection = None
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # Small, so that what a client never reads is not counted as having crossed the network.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 256 << 10)
            if self.tls is not None:
                sock = self.tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
                with self._lock:
                    self._live[threading.current_thread()] = sock
                if self.closing.is_set():
                    return
                sock.do_handshake()
            connection = Connection(self, sock, number)
            connection.end(reset=self._converse(connection))
        except OSError:
            pass  # a client that went away, or does not trust us: the log says what it had
        except Exception as error:
            self._failures.append(error)
        finally:
            with self._lock:
                del self._live[threading.current_thread()]
            if connection is not None:
                connection.stream.close()
            sock.close()

    def _converse(self, connection: Connection) -> bool:
        """Answers requests until the connection ends; whether it shall end by a reset."""
        try:
            for request in connection.requests():
                if self.closing.is_set():
                    return False
                reply = self._answer(request)
                if request.headers.get("connection", "").lower() == "close":
                    reply.close = True
                connection.deliver(request, reply)
        except Dropped as drop:
            return drop.reset
        return False

    def _answer(self, request: Request) -> Reply:
        fault = self._due(request)
        if fault is None:
            reply = self.answer(request)
            request.body.drain()
            return reply
        for action in fault.actions:
            request.faults.append(type(action).__name__)
        try:
            reply = next(filter(None, (a.instead(self, request) for a in fault.actions)), None)
            if reply is None:
                reply = self.answer(request)
                request.body.drain()
            for action in fault.actions:
                action.change(self, request, reply)
            return reply
        finally:
            fault.hit.set()

    def _due(self, request: Request) -> Fault | None:
        with self._lock:
            return next((fault for fault in self._faults if fault.due(request)), None)
