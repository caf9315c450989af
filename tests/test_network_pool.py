"""Network namespaces that are used again: only those in which nothing happened, and nothing could have."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pycontainer as pc
from containers import SECONDS, out, python, unique_seconds, until, with_argument

INSIDE = "import os; print(os.readlink('/proc/self/ns/net'))"


def namespace(code: str = "", **options: Any) -> str:
    """Runs Python code in a container that is thrown away; gives its network namespace."""
    result = python(f"{code}\n{INSIDE}", **options)
    assert result.returncode == 0, result.stderr
    return str(result.stdout)


def used_again(**options: Any) -> bool:
    """Whether the next container gets the namespace of one before; there are two at hand."""
    seen = [namespace(**options) for _ in range(4)]
    return len(set(seen)) < len(seen)


def test_nothing_happened() -> None:
    assert used_again()


@contextlib.contextmanager
def held(**options: Any) -> Iterator[str]:
    """The namespace of a container that ran with such options, kept from outside: the kernel gives its number
    to no other one."""
    ours, theirs = socket.socketpair()
    mark = unique_seconds()
    found: list[str] = []
    code = f"{INSIDE}; input()"

    def run() -> None:
        found.append(str(python(code, mark, stdin=theirs, **options).stdout))

    thread = threading.Thread(target=run)
    thread.start()
    with ours, theirs:
        until(lambda: with_argument(mark), "it runs")
        for pid in with_argument(mark):
            with open(f"/proc/{pid}/ns/net"):
                ours.sendall(b"\n")
                thread.join()
                yield found[0]
                return


@pytest.mark.parametrize(
    "options",
    [
        {"cap_add": ["NET_ADMIN"]},
        {"cap_add": ["SYS_ADMIN"]},
        {"sysctls": {"net.ipv4.ip_default_ttl": "7"}},
        {"readonly_paths": []},
        {"privileged": True},
        {"seccomp": "unconfined"},
        {"mounts": [pc.bind("/usr/share", "/mnt")]},
    ],
    ids=lambda options: next(iter(options)),
)
def test_who_may_change_it_or_hand_it_on_has_it_alone(options: dict[str, Any]) -> None:
    ttl = Path("/proc/sys/net/ipv4/ip_default_ttl").read_text().strip()
    with held(**options) as one, held(**options) as two:
        assert not {one, two} & {namespace() for _ in range(4)}
    assert [out("cat /proc/sys/net/ipv4/ip_default_ttl") for _ in range(3)] == [ttl] * 3


LISTENS = """
import socket
server = socket.create_server(("127.0.0.1", 8080))
client = socket.create_connection(("127.0.0.1", 8080))
# Closed here first: this end's connection lingers in TIME_WAIT, and the port with it.
taken, _ = server.accept()
taken.close(), client.close()
"""


def test_after_traffic_it_is_not_used_again() -> None:
    for _ in range(4):
        namespace(LISTENS)
        namespace("import socket; s = socket.socket(); s.bind(('127.0.0.1', 8080))")
        counters = out("grep -w lo /proc/net/dev").split(":")[1].split()
        assert set(counters) == {"0"}


def test_a_socket_that_lives_on_outside_keeps_it_from_being_used_again() -> None:
    ours, theirs = socket.socketpair()
    code = (
        "import socket; s = socket.create_server(('127.0.0.1', 0));"
        "socket.send_fds(socket.socket(fileno=0), [b'x'], [s.fileno()])"
    )
    with ours, theirs:
        given = namespace(code, stdin=theirs)
        _, (held,), *_ = socket.recv_fds(ours, 1, 1)
        with socket.socket(fileno=held):
            assert given not in [namespace() for _ in range(6)]


def test_a_lasting_container_keeps_its_own() -> None:
    with pc.start("host", ["sleep", "1000"]) as container:
        code = ["readlink", "/proc/self/ns/net"]
        own = container.exec(code, capture_output=True, text=True).stdout
        # Its number is nobody else's as long as it is kept.
        kept = os.open(f"/proc/{container.pid}/ns/net", os.O_RDONLY)
        assert own not in [namespace() for _ in range(4)]
    try:
        assert own not in [namespace() for _ in range(4)]
    finally:
        os.close(kept)


def test_many_at_once_have_one_each() -> None:
    gate = threading.Barrier(8)
    seen: list[list[str]] = []

    def work() -> None:
        gate.wait(SECONDS)
        code = "import time; time.sleep(0.3)"
        seen.append([namespace(code)])

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({one for group in seen for one in group}) == 8
    until(lambda: time.sleep(0.01) is None and used_again(), "those are used again")
