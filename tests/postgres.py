"""PostgreSQL from Debian (and a small web server) as an image of the tests, and as much of its protocol as a
query takes."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import struct
import subprocess
from pathlib import Path
from typing import Any

import attrs

SUITE = "bookworm"
MIRROR = "http://deb.debian.org/debian"
BIN = "/usr/lib/postgresql/15/bin"
DATA = "/var/lib/postgresql/data"
SOCKET = "/tmp/.s.PGSQL.5432"
PORT = 5432
READY = "ready to accept connections"

_SECONDS = 240
_LEFT_OUT = (
    "/usr/share/man/*",
    "/usr/share/doc/*",
    "/usr/share/locale/*",
    "/usr/share/i18n/*",
    "/usr/lib/postgresql/*/lib/bitcode/*",
    "/usr/lib/*/libLLVM*",
    "/usr/lib/*/libz3*",
)
"""What makes up half of the root and no query needs (compiling queries, say)."""
_NO_CLUSTER = (
    'mkdir -p "$1/etc/postgresql-common"'
    ' && echo "create_main_cluster = false" > "$1/etc/postgresql-common/createcluster.conf"'
)

CONFIG: dict[str, Any] = {
    "user": "postgres",
    "env": {"PATH": f"{BIN}:/usr/bin:/bin", "PGDATA": DATA, "LANG": "C.UTF-8"},
    "cmd": ["postgres", "-k", "/tmp", "-c", "listen_addresses=127.0.0.1"],
    "cwd": "/var/lib/postgresql",
    "exposed_ports": ["5432/tcp"],
    "stop_signal": "SIGINT",
    "healthcheck": {"Test": ["CMD", "pg_isready", "-q", "-h", "/tmp"], "Interval": 1_000_000_000},
}
"""As such images have it: SIGINT is PostgreSQL's fast shutdown, SIGTERM would wait for its clients."""

INITDB = ["initdb", "--no-sync", "--auth=trust", "--no-instructions"]


class Unavailable(Exception):
    """The root cannot be made here; the text says why."""


def root() -> Path:
    """A Debian root with PostgreSQL and lighttpd, as a tar archive; made once per machine and kept in the
    user's cache (about 200 MB). Raises Unavailable."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pycontainer-tests"
    cache.mkdir(parents=True, exist_ok=True)
    made = cache / f"postgresql-lighttpd-{SUITE}-1.tar"
    with open(cache / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            _make(made)
    return made


def _make(target: Path) -> None:
    program = shutil.which("mmdebstrap")
    if program is None:
        raise Unavailable("mmdebstrap is not installed")
    partial = target.with_suffix(".new.tar")
    options = [
        "--quiet",
        "--variant=essential",
        "--include=postgresql,lighttpd",
        f"--essential-hook={_NO_CLUSTER}",
    ]
    options += [f"--dpkgopt=path-exclude={pattern}" for pattern in _LEFT_OUT]
    done = subprocess.run(
        [program, *options, SUITE, str(partial), MIRROR],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
    )
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise Unavailable(f"mmdebstrap: {said[-1][:200]}")
    partial.rename(target)


@attrs.define
class Client:
    """A connection as "postgres" to the database of that name (PostgreSQL's protocol, version 3)."""

    connection: socket.socket

    def __attrs_post_init__(self) -> None:
        self.connection.settimeout(30)
        words = b"user\0postgres\0database\0postgres\0\0"
        self.connection.sendall(struct.pack("!ii", 8 + len(words), 3 << 16) + words)
        self._until_ready()

    def query(self, text: str) -> list[tuple[str | None, ...]]:
        """The rows, each value as text."""
        body = text.encode() + b"\0"
        self.connection.sendall(b"Q" + struct.pack("!i", 4 + len(body)) + body)
        return self._until_ready()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *error: object) -> None:
        self.connection.close()

    def _until_ready(self) -> list[tuple[str | None, ...]]:
        rows = []
        failure = ""
        while True:
            kind, size = struct.unpack("!ci", self._exactly(5))
            body = self._exactly(size - 4)
            if kind == b"D":
                rows.append(_row(body))
            elif kind == b"E":
                failure = body.replace(b"\0", b" ").decode()
            if kind == b"Z" or (kind == b"E" and b"FATAL" in body):
                if failure:
                    raise RuntimeError(failure)
                return rows

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self.connection.recv(size - len(data))
            if not part:
                raise ConnectionResetError("the server closed the connection")
            data += part
        return data


def _row(body: bytes) -> tuple[str | None, ...]:
    values: list[str | None] = []
    at = 2
    while at < len(body):
        (size,) = struct.unpack_from("!i", body, at)
        at += 4
        values.append(None if size < 0 else body[at : at + size].decode())
        at += max(0, size)
    return tuple(values)
