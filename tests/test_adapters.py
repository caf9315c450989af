"""`pycontainer.adapters`: requests, urllib3 and asyncio on a container's ports, with nothing published."""

from __future__ import annotations

import asyncio
import copy
import http.client
import http.server
import json
import pickle
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import urllib3

import pycontainer as pc
from containers import nothing_left
from pycontainer.adapters import HTTPAdapter, HTTPConnectionPool, HTTPSConnectionPool
from registries import Certificates

SERVER = """
import http.server, json, os, socket, socketserver, ssl, sys, threading, time
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    connections = 0
    def setup(self):
        super().setup()
        Handler.connections += 1
        self.number = Handler.connections
    def address_string(self):
        return ""
    def log_message(self, *args):
        pass
    def do_GET(self):
        if self.path == "/slow":
            time.sleep(2)
        if self.path.startswith("/to="):
            self.send_response(302)
            self.send_header("Location", self.path[4:])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.path == "/stream":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            while True:
                self.wfile.write(b"4\\r\\nline\\r\\n")
                time.sleep(0.01)
        if self.path == "/large":
            self.send_response(200)
            self.send_header("Content-Length", str(8 << 20))
            self.end_headers()
            for _ in range(8):
                self.wfile.write(bytes(1 << 20))
            return
        length = int(self.headers.get("Content-Length", 0))
        answer = json.dumps({
            "host": self.headers["Host"], "path": self.path, "connection": self.number,
            "via": self.server.label, "body": self.rfile.read(length).decode(),
        }).encode()
        if self.path == "/last":
            self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
    do_POST = do_GET
class Quiet(http.server.ThreadingHTTPServer):
    def handle_error(self, request, address):
        pass
class Unix(Quiet):
    address_family = socket.AF_UNIX
    def server_bind(self):
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "unix", 0
class Tls(Quiet):
    def get_request(self):
        connection, address = super().get_request()
        return context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False), address
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/certificate/both.pem")
for label, server in (
    ("80", Quiet(("127.0.0.1", 80), Handler)),
    ("8080", Quiet(("127.0.0.1", 8080), Handler)),
    ("443", Tls(("127.0.0.1", 443), Handler)),
    ("unix", Unix("/tmp/web.sock", Handler)),
):
    server.label = label
    threading.Thread(target=server.serve_forever, daemon=True).start()
mute = socket.create_server(("127.0.0.1", 7))
full = socket.create_server(("127.0.0.1", 9), backlog=0)
print("up", flush=True)
threading.Event().wait()
"""


@pytest.fixture(scope="module")
def web(certificates: Certificates) -> Iterator[pc.Container]:
    """The certificate on port 443 is example.com's."""
    both = b"".join(Path(part).read_bytes() for part in certificates.misnamed)
    mounts = [pc.content(both, "/certificate/both.pem", mode=0o444)]
    python = [sys.executable, "-I", "-c", SERVER]
    with pc.start("host", python, mounts=mounts, name="web-server", wait=pc.wait.log("up")) as container:
        yield container


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        yield session


def test_one_line_for_requests(web: pc.Container, session: requests.Session) -> None:
    session.mount("http://web/", HTTPAdapter(web, port=80))
    answer = session.get("http://web/a?b=c", timeout=20)
    assert answer.json() | {"connection": 0} == {
        **{"host": "web", "path": "/a?b=c", "connection": 0, "via": "80", "body": ""}
    }
    assert session.post("http://web/", data="sent", timeout=20).json()["body"] == "sent"


def test_connections_are_kept(web: pc.Container, session: requests.Session) -> None:
    session.mount("http://web/", HTTPAdapter(web, port=80))
    numbers = [
        session.get(f"http://web/{path}", timeout=20).json()["connection"] for path in ("", "last", "")
    ]
    assert numbers[0] == numbers[1] != numbers[2]


def test_the_port_of_the_url(web: pc.Container, session: requests.Session) -> None:
    session.mount("http://web", HTTPAdapter(web))
    for url, via, host in (("http://web/", "80", "web"), ("http://web:8080/", "8080", "web:8080")):
        answer = session.get(url, timeout=20).json()
        assert (answer["via"], answer["host"]) == (via, host)


def test_a_port_goes_before_that_of_the_url(web: pc.Container, session: requests.Session) -> None:
    session.mount("http://web", HTTPAdapter(web, 8080))
    answer = session.get("http://web:1234/", timeout=20).json()
    assert (answer["via"], answer["host"]) == ("8080", "web:1234")


def test_a_unix_socket(web: pc.Container, session: requests.Session) -> None:
    session.mount("http://web/", HTTPAdapter(web, "/tmp/web.sock"))
    for _ in range(2):
        answer = session.get("http://web/a", timeout=20).json()
        assert (answer["via"], answer["host"], answer["path"]) == ("unix", "web", "/a")


def test_tls_and_the_name_in_the_certificate(
    web: pc.Container, session: requests.Session, certificates: Certificates
) -> None:
    session.mount("https://", HTTPAdapter(web, 443))
    authority = str(certificates.authority)
    answer = session.get("https://example.com/", verify=authority, timeout=20).json()
    assert (answer["via"], answer["host"]) == ("443", "example.com")
    with pytest.raises(requests.exceptions.SSLError, match="certificate"):
        session.get("https://other.example.com/", verify=authority, timeout=20)
    with pytest.raises(requests.exceptions.SSLError, match="certificate"):
        session.get("https://example.com/", timeout=20)


def test_a_stream(web: pc.Container, session: requests.Session) -> None:
    session.mount("http://web/", HTTPAdapter(web, 80))
    with session.get("http://web/stream", stream=True, timeout=20) as answer:
        pieces = answer.iter_content(4)
        assert [next(pieces) for _ in range(3)] == [b"line"] * 3
    assert len(session.get("http://web/large", timeout=20).content) == 8 << 20


def test_nobody_listens(web: pc.Container, session: requests.Session) -> None:
    session.mount("http://web/", HTTPAdapter(web, 5999))
    with pytest.raises(
        requests.ConnectionError, match=r"port 5999 of container web-server.*Connection refused"
    ):
        session.get("http://web/", timeout=20)
    session.mount("http://web/", HTTPAdapter(web, "/tmp/none.sock"))
    with pytest.raises(requests.ConnectionError, match=r"/tmp/none.sock of container.*No such file"):
        session.get("http://web/", timeout=20)


def test_the_container_does_not_run(session: requests.Session) -> None:
    with pc.create("host", ["sleep", "1000"]) as container:
        session.mount("http://web/", HTTPAdapter(container, 80))
        with pytest.raises(requests.ConnectionError, match=r"is created"):
            session.get("http://web/", timeout=20)


def test_retries(web: pc.Container, session: requests.Session, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    connect = web.connect

    def refused_once(target: Any, *, timeout: float | None = None) -> socket.socket:
        tried.append(timeout)
        return connect(5999 if len(tried) == 1 else target, timeout=timeout)

    monkeypatch.setattr(web, "connect", refused_once)
    session.mount("http://web/", HTTPAdapter(web, 80, max_retries=1))
    assert session.get("http://web/", timeout=(19, 20)).status_code == 200
    assert tried == [19, 19]


def test_the_time_to_connect(web: pc.Container, session: requests.Session) -> None:
    session.mount("http://web/", HTTPAdapter(web, 9))
    held = []
    try:
        with pytest.raises(TimeoutError):
            for _ in range(10):
                held.append(web.connect(9, timeout=0.2))
        with pytest.raises(requests.ConnectTimeout, match=r"port 9 of container web-server within 0\.2 s"):
            session.get("http://web/", timeout=(0.2, 20))
    finally:
        for connection in held:
            connection.close()


def test_the_time_to_answer(web: pc.Container, session: requests.Session) -> None:
    session.mount("http://web/", HTTPAdapter(web, 80))
    with pytest.raises(requests.ReadTimeout):
        session.get("http://web/slow", timeout=(20, 0.1))


def test_the_time_to_shake_hands_is_time_to_connect(web: pc.Container, session: requests.Session) -> None:
    session.mount("https://web/", HTTPAdapter(web, 7))
    with pytest.raises(requests.Timeout):
        session.get("https://web/", timeout=(0.2, 20))


@pytest.fixture
def elsewhere() -> Iterator[str]:
    """A server of the host's own."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"the host's")

        def log_message(self, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_proxies_are_left_out(
    web: pc.Container, session: requests.Session, elsewhere: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "all_proxy"):
        monkeypatch.setenv(name, f"http://{elsewhere}")
    session.mount("http://web/", HTTPAdapter(web, 80))
    assert session.get("http://web/", timeout=20).json()["path"] == "/"
    proxies = {"http": f"http://{elsewhere}"}
    assert session.get("http://web/", timeout=20, proxies=proxies).json()["path"] == "/"
    # For other addresses they are asked, as ever.
    assert session.get("http://other.example.com/", timeout=20).text == "the host's"


def test_redirects_stay_inside_unless_the_session_leads_out(
    web: pc.Container, session: requests.Session, elsewhere: str
) -> None:
    session.mount("http://web/", HTTPAdapter(web, 80))
    assert session.get("http://web/to=/b", timeout=20).json()["path"] == "/b"
    assert session.get(f"http://web/to=http://{elsewhere}/", timeout=20).text == "the host's"
    session.mount("http://", HTTPAdapter(web, 80))
    assert session.get(f"http://web/to=http://{elsewhere}/", timeout=20).json()["host"] == elsewhere


def test_one_line_for_urllib3(web: pc.Container) -> None:
    with HTTPConnectionPool(web, 80) as pool:
        answers = [pool.request("GET", "/a").json() for _ in range(2)]
        assert [answer["via"] for answer in answers] == ["80", "80"]
        assert answers[0]["connection"] == answers[1]["connection"]
        assert answers[0]["host"] == "localhost"
    with HTTPConnectionPool(web, 8080) as pool:
        assert pool.request("GET", "/a").json()["host"] == "localhost:8080"
    with HTTPConnectionPool(web, "/tmp/web.sock", host="web", maxsize=2, timeout=20.0) as pool:
        answer = pool.request("GET", "/a").json()
        assert (answer["via"], answer["host"]) == ("unix", "web")


def test_tls_with_urllib3(web: pc.Container, certificates: Certificates) -> None:
    authority = str(certificates.authority)
    with HTTPSConnectionPool(web, 443, host="example.com", ca_certs=authority) as pool:
        assert pool.request("GET", "/").json()["via"] == "443"
    with HTTPSConnectionPool(web, 443, server_hostname="example.com", ca_certs=authority) as pool:
        assert pool.request("GET", "/").json()["host"] == "localhost"
    with (
        HTTPSConnectionPool(web, 443, ca_certs=authority, retries=False) as pool,
        pytest.raises(urllib3.exceptions.SSLError),
    ):
        pool.request("GET", "/")


def test_errors_of_urllib3(web: pc.Container) -> None:
    with HTTPConnectionPool(web, 5999, retries=False) as pool:
        with pytest.raises(urllib3.exceptions.NewConnectionError, match="5999") as caught:
            pool.request("GET", "/")
        assert isinstance(caught.value.__cause__, ConnectionRefusedError)


def test_options_of_the_sockets(web: pc.Container) -> None:
    keep = (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    with HTTPConnectionPool(web, 80) as pool:
        assert option(pool, socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert not option(pool, socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    for target in (80, "/tmp/web.sock"):
        with HTTPConnectionPool(web, target, socket_options=[keep]) as pool:
            assert option(pool, socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def option(pool: urllib3.HTTPConnectionPool, level: int, name: int) -> int:
    connection: Any = pool._get_conn()
    connection.connect()
    try:
        return int(connection.sock.getsockopt(level, name))
    finally:
        connection.close()


@pytest.mark.parametrize("make", [HTTPAdapter, HTTPConnectionPool, HTTPSConnectionPool])
@pytest.mark.parametrize("target", [0, 65536, True, "relative", "", 8.0, b"/bytes"])
def test_what_is_no_target(web: pc.Container, make: Callable[..., Any], target: Any) -> None:
    with pytest.raises(pc.InvalidOption):
        make(web, target)


@pytest.mark.parametrize("name", ["source_address", "_proxy"])
def test_options_of_no_use(web: pc.Container, name: str) -> None:
    with pytest.raises(pc.InvalidOption, match=name):
        HTTPConnectionPool(web, 80, **{name: ("127.0.0.1", 0)})


def test_an_adapter_shows_what_it_leads_to(web: pc.Container) -> None:
    assert repr(HTTPAdapter(web, 80)) == "<HTTPAdapter to port 80 of container web-server>"
    assert repr(HTTPAdapter(web, "/a")) == "<HTTPAdapter to /a of container web-server>"
    assert repr(HTTPAdapter(web)) == "<HTTPAdapter to the URL's port of container web-server>"


def test_copies_of_an_adapter(web: pc.Container, session: requests.Session) -> None:
    session.mount("http://web/", copy.copy(HTTPAdapter(web, 80)))
    assert session.get("http://web/", timeout=20).json()["via"] == "80"
    # A container is this process's.
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
        pickle.dumps(HTTPAdapter(web, 80))


@pytest.mark.parametrize("target", [80, "/tmp/web.sock"])
def test_asyncio_needs_no_adapter(web: pc.Container, target: int | str) -> None:
    async def ask() -> bytes:
        reader, writer = await asyncio.open_connection(sock=web.connect(target))
        writer.write(b"GET /a HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer

    answer = asyncio.run(ask(), debug=True)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert json.loads(answer.rpartition(b"\r\n")[2])["path"] == "/a"


def test_http_client_needs_no_adapter(web: pc.Container) -> None:
    connection = http.client.HTTPConnection("web")
    connection.sock = web.connect(80)
    connection.request("GET", "/a")
    assert json.loads(connection.getresponse().read())["host"] == "web"
    connection.close()


def test_nothing_is_left(web: pc.Container) -> None:
    web.connect(80).close()
    with nothing_left():
        for target in (80, "/tmp/web.sock", 5999):
            with requests.Session() as session:
                session.mount("http://web/", HTTPAdapter(web, target))
                for _ in range(5):
                    try:
                        session.get("http://web/", timeout=20)
                    except requests.ConnectionError:
                        assert target == 5999


def test_from_many_threads(web: pc.Container, session: requests.Session) -> None:
    session.mount("http://web/", HTTPAdapter(web, 80, pool_maxsize=8))
    paths = []

    def ask(number: int) -> None:
        for count in range(10):
            paths.append(session.get(f"http://web/{number}/{count}", timeout=20).json()["path"])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(paths) == sorted(f"/{number}/{count}" for number in range(8) for count in range(10))
