"""Wait strategies: what they wait for, how waiting ends, and what it leaves."""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

import pycontainer as pc
from containers import PYTHON, nothing_left, sleeper, unique_seconds, until, with_argument
from pycontainer import wait

FOREVER = "exec sleep 1000"


def started(script: str, strategy: wait.Strategy, **options: Any) -> pc.Container:
    return pc.start("host", ["sh", "-c", script], wait=strategy, **options)


def served(code: str, strategy: wait.Strategy, **options: Any) -> pc.Container:
    return pc.start("host", [*PYTHON, code], wait=strategy, **options)


@pytest.fixture(scope="module")
def quiet() -> Iterator[pc.Container]:
    with sleeper() as container:
        yield container


# As values.


def test_they_are_values_with_a_repr_of_one_line() -> None:
    a, b, c = wait.log("ready"), wait.listening(80), wait.file("/x")
    assert repr(a & b | c) == "log('ready') & listening(80) | file('/x')"
    assert repr((a | b) & c) == "(log('ready') | listening(80)) & file('/x')"
    assert a & b & c == a & (b & c)
    assert a & b == wait.log("ready") & wait.listening(80)
    assert hash(a & b) == hash(wait.log("ready") & wait.listening(80))
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        b.port = 81  # type: ignore[misc]
    with pytest.raises(TypeError):
        a & "ready"  # type: ignore[operator]
    with pytest.raises(TypeError):
        a | None  # type: ignore[operator]


def test_reprs_tell_what_is_not_usual_and_no_secrets() -> None:
    assert repr(wait.log(b"x", stream="stderr", times=2, timeout=5)) == (
        "log(b'x', stream='stderr', times=2, timeout=5)"
    )
    assert repr(wait.listening(53, host="127.0.0.1", udp=True)) == "listening(53, host='127.0.0.1', udp=True)"
    assert repr(wait.exec(["a", "b"], env={"TOKEN": "abc"}, user="x")) == (
        "exec(['a', 'b'], env=***, user='x')"
    )
    shown = repr(wait.http("http://:80/", headers={"Authorization": "abc", "X-A": "b"}, status={200, 204}))
    assert "abc" not in shown
    assert shown == "http('http://:80/', status=[200, 204], headers={'Authorization': '***', 'X-A': 'b'})"


REFUSED: list[Any] = [
    lambda: wait.log("("),
    lambda: wait.log(5),  # type: ignore[arg-type]
    lambda: wait.log("x", stream="stdin"),  # type: ignore[arg-type]
    lambda: wait.log("x", times=0),
    lambda: wait.log("x", timeout=-1),
    lambda: wait.listening(0),
    lambda: wait.listening("80"),  # type: ignore[arg-type]
    lambda: wait.listening(80, host="localhost"),
    lambda: wait.listening(80, udp=1),  # type: ignore[arg-type]
    lambda: wait.http("ftp://:80/"),
    lambda: wait.http(":80/"),
    lambda: wait.http("http://:99999/"),
    lambda: wait.http("http://me:pw@localhost/"),
    lambda: wait.http("http://:80/ x"),
    lambda: wait.http("http://:80/\r\nX: y"),
    lambda: wait.http("http://:80/", method="GET /"),
    lambda: wait.http("http://:80/", headers={"A": "b\r\nC: d"}),
    lambda: wait.http("http://:80/", headers={"A b": "c"}),
    lambda: wait.http("http://:80/", status=99),
    lambda: wait.http("http://:80/", status="200"),  # type: ignore[arg-type]
    lambda: wait.exec("true"),
    lambda: wait.exec([]),
    lambda: wait.exec(["a\0b"]),
    lambda: wait.exec(["a"], cwd="relative"),
    lambda: wait.file("relative"),
    lambda: wait.file("/a\0b"),
]


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_what_is_refused(number: int) -> None:
    with pytest.raises(pc.InvalidOption) as caught:
        REFUSED[number]()
    assert "pw" not in str(caught.value)


def test_run_refuses_to_wait() -> None:
    with pytest.raises(pc.InvalidOption, match="wait"):
        pc.run("host", ["true"], wait=wait.log("x"))


# What is waited for.


def test_log() -> None:
    with started(f"echo not yet; sleep 0.2; echo it is READY now; {FOREVER}", wait.log("R.*Y")) as container:
        assert b"it is READY now\n" in container.logs()


def test_log_of_what_was_written_before(quiet: pc.Container) -> None:
    with pc.start("host", ["sh", "-c", f"echo ready; {FOREVER}"]) as container:
        until(lambda: b"ready" in container.logs(), "it wrote")
        container.wait_until(wait.log("ready"), timeout=0)


def test_log_of_a_line_that_has_no_end() -> None:
    with started(f"printf 'login: '; {FOREVER}", wait.log("^login: $", timeout=10)):
        pass


def test_log_of_a_line_that_comes_in_pieces() -> None:
    script = f"printf rea; sleep 0.1; printf dy; sleep 0.1; echo; {FOREVER}"
    with started(script, wait.log("^ready$", timeout=10)):
        pass


def test_log_counts_lines() -> None:
    script = f"for i in 1 2 3; do echo ready ready; sleep 0.1; done; echo end; {FOREVER}"
    with started(script, wait.log("ready", times=3)) as container:
        assert container.logs().read().count(b"\n") >= 3
        with pytest.raises(pc.WaitFailed, match="seen 3 times"):
            container.wait_until(wait.log("ready", times=4, timeout=0.2))


def test_log_of_one_stream_bytes_and_flags() -> None:
    script = f"echo ready; sleep 0.1; echo READY >&2; {FOREVER}"
    with started(script, wait.log(re.compile(rb"ready", re.IGNORECASE), stream="stderr")) as container:
        assert b"READY\n" in container.logs()
        with pytest.raises(pc.WaitFailed, match="not seen"):
            container.wait_until(wait.log("ready", stream="stderr", timeout=0.1))


def test_log_of_the_last_start_only() -> None:
    script = f"test -e /tmp/pc-second || {{ touch /tmp/pc-second; echo ready; }}; {FOREVER}"
    with started(script, wait.log("ready")) as container:
        container.kill()
        container.options = attrs.evolve(container.options, wait=wait.log("ready", timeout=0.3))
        with pytest.raises(pc.WaitFailed):
            container.start()


def test_log_among_much_output() -> None:
    script = f"head -c 3000000 /dev/zero | tr '\\0' 'x'; echo; echo ready; seq 1 20000; {FOREVER}"
    with started(script, wait.log("^ready$")):
        pass


LISTEN = """
import socket, sys, time
time.sleep(0.1)
family, kind, address = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, sys.argv[3], sys.argv[1]
s = socket.socket(family, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM)
if kind == "v6only":
    s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
s.bind((address, int(sys.argv[2])))
if kind != "udp":
    s.listen()
    s.settimeout(1)
    try:
        s.accept()
        print("somebody connected", flush=True)
    except TimeoutError:
        pass
time.sleep(1000)
"""


def listener(address: str, port: int, kind: str, strategy: wait.Strategy) -> pc.Container:
    return pc.start("host", [*PYTHON, LISTEN, address, str(port), kind], wait=strategy)


@pytest.mark.parametrize(
    ("address", "kind", "hosts"),
    [
        ("0.0.0.0", "tcp", [None, "127.0.0.1"]),
        ("127.0.0.1", "tcp", [None, "127.0.0.1"]),
        ("::", "tcp", [None, "127.0.0.1", "::1"]),
        ("::1", "tcp", [None, "::1"]),
        ("::1", "v6only", [None, "::1"]),
        ("127.0.0.1", "udp", [None, "127.0.0.1"]),
        ("::1", "udp", [None, "::1"]),
    ],
)
def test_listening(address: str, kind: str, hosts: list[str | None]) -> None:
    udp = kind == "udp"
    with listener(address, 5055, kind, wait.listening(5055, udp=udp)) as container:
        for host in hosts:
            container.wait_until(wait.listening(5055, host=host, udp=udp), timeout=1)
        for absent in (
            wait.listening(5056, udp=udp),
            wait.listening(5055, udp=not udp),
            wait.listening(5055, host="127.0.0.2" if ":" not in address else "::2", udp=udp),
        ):
            if absent.host is None or address not in ("0.0.0.0", "::"):
                with pytest.raises(pc.WaitFailed, match="nobody listens"):
                    container.wait_until(absent, timeout=0.05)


def test_who_only_connects_from_a_port_does_not_listen() -> None:
    code = """
import socket, time
server = socket.create_server(("127.0.0.1", 5056))
client = socket.create_connection(("127.0.0.1", 5056), source_address=("127.0.0.1", 5055))
print("connected", flush=True)
time.sleep(1000)
"""
    with (
        served(code, wait.log("connected") & wait.listening(5056)) as container,
        pytest.raises(pc.WaitFailed, match="nobody listens"),
    ):
        container.wait_until(wait.listening(5055), timeout=0.1)


def test_listening_connects_to_nobody() -> None:
    with listener("127.0.0.1", 5055, "tcp", wait.listening(5055)) as container:
        time.sleep(0.2)
        assert b"connected" not in container.logs()


def test_the_hosts_listeners_are_not_the_containers(quiet: pc.Container) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mine:
        port = mine.getsockname()[1]
        with pytest.raises(pc.WaitFailed):
            quiet.wait_until(wait.listening(port), timeout=0.1)
        with sleeper(network="host") as container:
            container.wait_until(wait.listening(port), timeout=5)


HTTP = """
import http.server, ssl, sys, time
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    tries = 0
    def do_GET(self):
        Handler.tries += 1
        print(self.command, self.path, self.headers["Host"], self.headers["X-Key"], flush=True)
        if self.path == "/slow":
            time.sleep(1000)
        if self.path == "/early":
            self.wfile.write(b"HTTP/1.1 103 Early Hints\\r\\nLink: x\\r\\n\\r\\n")
        status = {"/404": 404, "/moved": 302}.get(self.path, 200)
        if self.path == "/third" and Handler.tries < 3:
            status = 503
        self.send_response(status)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        try:
            self.wfile.write(100000 * b"x")
        except OSError:
            pass
    do_HEAD = do_POST = do_GET
    def log_message(self, *args):
        pass
time.sleep(0.1)
class Server(http.server.ThreadingHTTPServer):
    import socket
    address_family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
    def handle_error(self, request, address):
        pass
server = Server((sys.argv[1], 8080), Handler)
if len(sys.argv) > 2:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[2])
    server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""


def web(strategy: wait.Strategy, address: str = "127.0.0.1", *more: str, **options: Any) -> pc.Container:
    return pc.start("host", [*PYTHON, HTTP, address, *more], wait=strategy, **options)


@pytest.fixture(scope="module")
def server() -> Iterator[pc.Container]:
    with web(wait.http("http://:8080/", timeout=20)) as container:
        yield container


@pytest.mark.parametrize(
    "strategy",
    [
        wait.http("http://localhost:8080"),
        wait.http("http://127.0.0.1:8080/"),
        wait.http("http://:8080/?q=1&r"),
        wait.http("http://:8080/404", status=404),
        wait.http("http://:8080/moved", status={301, 302}),
        wait.http("http://:8080/404", status=lambda status: status < 500),
        wait.http("http://:8080/", method="HEAD"),
        wait.http("http://:8080/", method="POST"),
        wait.http("http://:8080/early"),
    ],
    ids=repr,
)
def test_http(server: pc.Container, strategy: wait.Strategy) -> None:
    server.wait_until(strategy, timeout=20)


def test_http_says_what_is_asked(server: pc.Container) -> None:
    server.wait_until(wait.http("http://name.example.com:8080/x?y=%20z", headers={"X-Key": "abc"}))
    server.wait_until(wait.log(re.escape("GET /x?y=%20z name.example.com:8080 abc")), timeout=10)
    server.wait_until(wait.http("http://:8080/", headers={"Host": "other.example.com"}))
    server.wait_until(wait.log("GET / other.example.com None"), timeout=10)


def test_http_asks_again(server: pc.Container) -> None:
    with web(wait.http("http://:8080/third", timeout=20)):
        pass


def test_http_on_the_other_loopback_address() -> None:
    with web(wait.http("http://:8080/", timeout=20), "::1") as container:
        container.wait_until(wait.http("http://[::1]:8080/"), timeout=5)
        with pytest.raises(pc.WaitFailed, match="refused"):
            container.wait_until(wait.http("http://127.0.0.1:8080/"), timeout=0.2)


@pytest.mark.parametrize(
    ("strategy", "why"),
    [
        (wait.http("http://:8080/404", timeout=0.3), "status 404"),
        (wait.http("http://:8081/", timeout=0.3), "refused"),
        (wait.http("https://:8080/", timeout=0.3), "SSL"),
        (wait.http("http://:8080/slow", timeout=0.3), "not tried"),
    ],
    ids=repr,
)
def test_http_that_does_not_come(server: pc.Container, strategy: wait.Strategy, why: str) -> None:
    with pytest.raises(pc.WaitFailed, match=why):
        server.wait_until(strategy)


RUBBISH = """
import socket, sys
s = socket.create_server(("127.0.0.1", 8080))
print("up", flush=True)
while True:
    c = s.accept()[0]
    try:
        c.sendall(eval(sys.argv[1]))
    except OSError:
        pass
    c.close()
"""


@pytest.mark.parametrize(
    "answer",
    ["b''", "b'SSH-2.0-x\\r\\n'", "b'HTTP/1.1 '", "b'HTTP/1.1 099 x\\r\\n\\r\\n'", "10**6 * b'x'",
     "10**5 * b'HTTP/1.1 100 x\\r\\n'", "30000 * b'HTTP/1.1 100 x\\r\\n\\r\\n'"],
)  # fmt: skip
def test_http_from_somebody_who_does_not_speak_it(answer: str) -> None:
    with (
        pc.start("host", [*PYTHON, RUBBISH, answer], wait=wait.log("up")) as container,
        pytest.raises(pc.WaitFailed, match=r"HTTP|closed|reset"),
    ):
        container.wait_until(wait.http("http://:8080/", timeout=0.3))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("certificate") / "both.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "-", "-out", "-"]
    names = ["-subj", "/CN=x", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-days", "2"]
    path.write_bytes(subprocess.run([*command, *names], capture_output=True, check=True).stdout)
    return path


def test_https(certificate: Path) -> None:
    mounts = [pc.content(certificate.read_bytes(), "/run/both.pem", mode=0o444)]
    strategy = wait.http("https://:8080/", verify=False, timeout=20)
    with web(strategy, "127.0.0.1", "/run/both.pem", mounts=mounts) as container:
        container.wait_until(wait.http("https://localhost:8080/", verify=certificate), timeout=10)
        container.wait_until(wait.http("https://127.0.0.1:8080/", verify=str(certificate)), timeout=10)
        context = ssl.create_default_context(cafile=str(certificate))
        container.wait_until(wait.http("https://:8080/", verify=context), timeout=10)
        for strategy in (
            wait.http("https://localhost:8080/"),
            wait.http("https://other.example.com:8080/", verify=certificate),
        ):
            with pytest.raises(pc.WaitFailed, match=r"(?i)certificate"):
                container.wait_until(strategy, timeout=0.3)
        with pytest.raises(pc.InvalidOption, match="verify"):
            container.wait_until(wait.http("https://:8080/", verify="/nonexistent.pem"))


def test_exec() -> None:
    with started(
        f"sleep 0.2; touch /tmp/pc-ready; {FOREVER}", wait.exec(["test", "-e", "/tmp/pc-ready"])
    ) as it:
        assert it.exec(["test", "-e", "/tmp/pc-ready"]).returncode == 0


def test_exec_with_options(quiet: pc.Container) -> None:
    command = ["sh", "-c", 'test "$A" = b && test $(id -u) = 65534 && test "$PWD" = /usr']
    quiet.wait_until(wait.exec(command, env={"A": "b"}, user=65534, cwd="/usr"), timeout=10)


def test_exec_that_fails_says_how(quiet: pc.Container) -> None:
    with pytest.raises(pc.WaitFailed, match=r"exit status 3: not yet"):
        quiet.wait_until(wait.exec(["sh", "-c", "echo more; echo not yet >&2; exit 3"], timeout=0.3))
    with pytest.raises(pc.WaitFailed, match="ENOENT"):
        quiet.wait_until(wait.exec(["/nonexistent"], timeout=0.3))


def test_exec_that_hangs_is_killed(quiet: pc.Container) -> None:
    seconds = unique_seconds()
    with nothing_left(), pytest.raises(pc.WaitFailed):
        quiet.wait_until(wait.exec(["sh", "-c", f"setsid -f sleep {seconds}; sleep {seconds}"], timeout=0.3))
    assert not with_argument(seconds)


def test_exec_that_writes_without_end(quiet: pc.Container) -> None:
    with pytest.raises(pc.WaitFailed):
        quiet.wait_until(wait.exec(["yes"], timeout=0.5))


def test_file() -> None:
    with started(f"sleep 0.2; mkdir -p /tmp/pc-a/b; sleep 0.1; touch /tmp/pc-a/b/c; {FOREVER}",
                 wait.file("/tmp/pc-a/b/c")) as container:  # fmt: skip
        container.wait_until(wait.file("/etc"), timeout=0)
        with pytest.raises(pc.WaitFailed, match="No such file"):
            container.wait_until(wait.file("/tmp/pc-a/b/d"), timeout=0.1)
        with pytest.raises(pc.WaitFailed, match="Not a directory"):
            container.wait_until(wait.file("/tmp/pc-a/b/c/d"), timeout=0.1)


def test_file_through_links_within_the_container(tmp_path: Path) -> None:
    links = "mkdir /run/real; ln -s real /run/link; ln -s / /run/real/up"
    with started(
        f"{links}; sleep 0.1; touch /run/real/x; {FOREVER}",
        wait.file("/run/link/up/run/real/x"),
        mounts=[pc.tmpfs("/run")],
    ):
        pass


def test_file_that_is_moved_there_or_made_in_a_bind_mount(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with sleeper(mounts=[pc.bind(tmp_path, "/mnt")]) as container:

        def later() -> None:
            (tmp_path / "new").write_text("x")
            (tmp_path / "new").rename(tmp_path / "there")

        timer = threading.Timer(0.2, later)
        timer.start()
        container.wait_until(wait.file("/mnt/there"), timeout=10)
        timer.join()


def test_file_is_noticed_by_an_event(monkeypatch: pytest.MonkeyPatch) -> None:
    from pycontainer.readiness import watched_file

    monkeypatch.setattr(watched_file, "_WATCHED_SECONDS", 1000.0)
    script = f"sleep 0.2; mkdir /run/a; sleep 0.1; mkdir /run/a/b; sleep 0.1; : > /run/a/b/c; {FOREVER}"
    with started(script, wait.file("/run/a/b/c", timeout=20), mounts=[pc.tmpfs("/run")]):
        pass


def test_file_where_nothing_can_be_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    from pycontainer import _sys

    def refused(directory: int) -> int:
        raise OSError(24, "no more of them")

    monkeypatch.setattr(_sys, "watch_directory", refused)
    with started(f"sleep 0.2; : > /run/x; {FOREVER}", wait.file("/run/x"), mounts=[pc.tmpfs("/run")]):
        pass


def test_a_busy_directory_does_not_hide_the_file() -> None:
    script = "i=0; while [ $i -lt 3000 ]; do : > /run/$i; i=$((i+1)); done; : > /run/last; " + FOREVER
    with started(script, wait.file("/run/last"), mounts=[pc.tmpfs("/run")]):
        pass


# Together.


def test_both() -> None:
    script = f"echo one; sleep 0.1; echo two; sleep 0.1; touch /tmp/pc-three; {FOREVER}"
    both = wait.log("two") & wait.file("/tmp/pc-three") & wait.log("one")
    with started(script, both) as container:
        assert container.exec(["test", "-e", "/tmp/pc-three"]).returncode == 0


def test_what_was_so_once_counts() -> None:
    script = f"touch /tmp/pc-x; sleep 0.3; rm /tmp/pc-x; echo gone; {FOREVER}"
    with started(script, wait.file("/tmp/pc-x") & wait.log("gone", timeout=10)):
        pass


def test_either() -> None:
    with started(f"echo plan b; {FOREVER}", wait.log("plan a") | wait.log("plan b")):
        pass


def test_one_that_fails_does_not_end_the_other() -> None:
    with started(f"sleep 0.4; echo late; {FOREVER}", wait.log("never", timeout=0.1) | wait.log("late")):
        pass


def test_one_that_fails_ends_both(quiet: pc.Container) -> None:
    began = time.monotonic()
    with pytest.raises(pc.WaitFailed) as caught:
        quiet.wait_until(wait.file("/etc") & wait.log("never", timeout=0.2) & wait.listening(9))
    assert time.monotonic() - began < 5
    shown = str(caught.value)
    assert "never" in shown
    assert "listening(9)" in shown
    assert "/etc" not in shown


def test_either_fails_when_all_have(quiet: pc.Container) -> None:
    with pytest.raises(pc.WaitFailed, match=r"log\('a'.* or .*log\('b'"):
        quiet.wait_until(wait.log("a", timeout=0.1) | wait.log("b", timeout=0.2))


# How it ends.


def test_a_timeout_of_the_whole(quiet: pc.Container) -> None:
    began = time.monotonic()
    with nothing_left(), pytest.raises(pc.WaitFailed, match="never"):
        quiet.wait_until(wait.log("never"), timeout=0.2)
    assert 0.2 <= time.monotonic() - began < 5
    assert quiet.status == "running"


EVERYTHING = (
    wait.log("never")
    & wait.listening(9)
    & wait.http("http://:9/")
    & wait.exec(["sh", "-c", "sleep 1000"])
    & wait.file("/nonexistent/x")
)


def test_the_end_of_the_container_ends_it_at_once_with_the_log() -> None:
    before = pc.Container.list(all=True)
    with nothing_left():
        began = time.monotonic()
        with pytest.raises(pc.WaitFailed, match="exit status 7") as caught:
            started("echo first; echo last words >&2; sleep 0.2; exit 7", EVERYTHING)
        assert time.monotonic() - began < 5
        assert isinstance(caught.value, pc.ContainerError)
        assert b"first\n" in caught.value.logs
        assert b"last words\n" in caught.value.logs
        assert "last words" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert pc.Container.list(all=True) == before


def test_being_killed_is_an_end_as_well() -> None:
    with sleeper() as container:
        timer = threading.Timer(0.2, container.kill)
        timer.start()
        with pytest.raises(pc.WaitFailed, match="signal 9"):
            container.wait_until(EVERYTHING)
        timer.join()
        with pytest.raises(pc.WaitFailed, match="signal 9"):
            container.wait_until(wait.log("x"))


def test_a_last_word_counts() -> None:
    for _ in range(10):
        with started("echo ready", wait.log("ready")) as container:
            assert container.wait(10).returncode == 0


def test_one_that_never_ran() -> None:
    with pc.create("host", ["true"]) as container, pytest.raises(pc.InvalidState):
        container.wait_until(wait.log("x"))


def test_what_start_leaves_when_it_is_not_ready() -> None:
    """`pc.start` nothing, since nobody got it; `Container.start` what its caller has."""
    seconds = unique_seconds()
    never = wait.log("never", timeout=0.2)
    with nothing_left(), pytest.raises(pc.WaitFailed):
        pc.start("host", ["sleep", seconds], wait=never)
    assert not with_argument(seconds)
    with nothing_left(), pc.create("host", ["sleep", seconds], wait=never) as container:
        with pytest.raises(pc.WaitFailed):
            container.start()
        assert container.status == "running"
        assert with_argument(seconds)
        with pytest.raises(pc.WaitFailed):
            container.restart(timeout=0)
        assert container.status == "running"


def test_a_restart_waits_again() -> None:
    with started(f"sleep 0.1; echo ready; {FOREVER}", wait.log("ready"), stop_timeout=0.1) as container:
        container.restart()
        assert container.logs().read() == b"ready\nready\n"


def test_a_restart_policy_gives_another_chance() -> None:
    script = f"test -e /tmp/pc-again && echo ready && {FOREVER}; touch /tmp/pc-again; echo no; exit 1"
    with started(script, wait.log("ready"), restart="on-failure") as container:
        # What is started again may write before it is counted.
        until(lambda: container.restarts == 1, "it is counted")
    with pytest.raises(pc.WaitFailed, match="exit status 1"):
        started("exit 1", wait.log("ready"), restart="on-failure:1")


def test_a_paused_container_is_not_ready_until_it_goes_on() -> None:
    script = f"while ! test -e /tmp/pc-go; do sleep 0.01; done; echo ready; {FOREVER}"
    with pc.start("host", ["sh", "-c", script]) as container:
        try:
            container.pause()
        except pc.CapabilityUnavailable as error:
            pytest.skip(str(error))
        with pytest.raises(pc.WaitFailed):
            container.wait_until(wait.exec(["true"]), timeout=0.2)
        timer = threading.Timer(0.2, container.unpause)
        timer.start()
        container.wait_until(wait.exec(["touch", "/tmp/pc-go"]) & wait.log("ready"), timeout=10)
        timer.join()


def test_an_interrupt_ends_it_and_leaves_nothing() -> None:
    seconds = unique_seconds()
    at: list[float] = []

    def interrupt() -> None:
        until(lambda: with_argument(seconds), "it runs")
        time.sleep(0.3)
        at.append(time.monotonic())
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    with nothing_left():
        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            pc.start("host", ["sleep", seconds], wait=EVERYTHING)
        assert time.monotonic() - at[0] < 2
        thread.join()
    assert not with_argument(seconds)


def test_from_many_threads(quiet: pc.Container) -> None:
    failures: list[BaseException] = []

    def one() -> None:
        try:
            quiet.wait_until(wait.exec(["true"]) & wait.file("/etc"), timeout=30)
            with pytest.raises(pc.WaitFailed):
                quiet.wait_until(wait.listening(9) & wait.http("http://:9/"), timeout=0.1)
        except BaseException as error:
            failures.append(error)

    with nothing_left():
        threads = [threading.Thread(target=one) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []


def test_nothing_is_left(quiet: pc.Container) -> None:
    quiet.wait_until(wait.file("/etc"))
    with nothing_left():
        for _ in range(5):
            with pytest.raises(pc.WaitFailed):
                quiet.wait_until(EVERYTHING, timeout=0.1)
    assert quiet._journal._listeners == ()


def test_in_a_forked_child_it_is_refused(quiet: pc.Container) -> None:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            quiet.wait_until(wait.log("x"))
        except pc.InvalidState:
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
