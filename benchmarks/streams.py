"""Bytes per second over TCP: the program of native/stream.c, and what a published port is compared with.

`Plain` is two network namespaces joined by a pair of veth devices, and docker's userland proxy from the
loopback of the one to the other: nothing else, and nothing in this machine's own network.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from benchmarks.harness import Unavailable
from benchmarks.programs import find_program, output_of

SOURCE = Path(__file__).parent / "native/stream.c"
WARNINGS = ("-Wall", "-Wextra", "-Werror")
PORT = 5001
"""Where every receiver listens."""

_PROXY_PORT = 5002
_NETWORK = "192.0.2.{}"  # RFC 5737
_NEAR, _FAR = (_NETWORK.format(host) for host in (1, 2))
_SECONDS_TO_START = 10.0


def compile_stream(program: Path) -> Path:
    """Static, for a root that has no libraries."""
    options = ["-std=gnu11", "-O2", "-static", *WARNINGS]
    output_of([find_program("cc"), *options, str(SOURCE), "-o", str(program)])
    return program


def send(
    program: Path,
    address: str,
    port: int,
    seconds: float,
    *,
    before: Sequence[str] = (),
    stdin: int | IO[bytes] = subprocess.DEVNULL,
) -> float:
    """Bytes per second that arrived; `before` is a command that goes ahead of the sender's. Raises
    `Unavailable`."""
    command = [*before, str(program), "send", address, str(port), str(seconds)]
    count, nanoseconds = output_of(command, stdin=stdin).split()
    return int(count) * 1e9 / int(nanoseconds)


class Plain:
    """`near` is where senders are, `far` where the receiver is; `close` takes all away. Raises
    `Unavailable`."""

    def __init__(self, program: Path) -> None:
        self._program = program
        self._processes: list[subprocess.Popen[str]] = []
        try:
            self._near = self._new_namespace()
            self._far = self._new_namespace()
            self._join()
            self._spawn([*self._in(self._far), str(program), "receive", str(PORT)])
            self._await(self._far, "127.0.0.1", PORT)
        except BaseException:
            self.close()
            raise

    def loopback(self, seconds: float) -> float:
        return send(self._program, "127.0.0.1", PORT, seconds, before=self._in(self._far))

    def veth(self, seconds: float) -> float:
        return send(self._program, _FAR, PORT, seconds, before=self._in(self._near))

    def start_proxy(self) -> None:
        """docker's, as its daemon starts it. Raises `Unavailable`."""
        where = ["-proto", "tcp", "-host-ip", "127.0.0.1", "-host-port", str(_PROXY_PORT)]
        onward = ["-container-ip", _FAR, "-container-port", str(PORT)]
        # Descriptor 3 is where it says that it listens, or why it does not.
        script = ["sh", "-c", 'exec "$@" 3>&1', "sh"]
        proxy = self._spawn([*self._in(self._near), *script, find_program("docker-proxy"), *where, *onward])
        said = _line_of(proxy)
        if not said.startswith("0"):
            raise Unavailable(f"docker-proxy: {said.strip() or 'it ended'}")

    def proxy(self, seconds: float) -> float:
        return send(self._program, "127.0.0.1", _PROXY_PORT, seconds, before=self._in(self._near))

    def close(self) -> None:
        for process in reversed(self._processes):
            process.kill()
            process.communicate()

    def _new_namespace(self) -> int:
        """The number of a process that keeps it."""
        script = "ip link set lo up && echo up && exec sleep infinity"
        keeper = self._spawn([find_program("unshare"), "--net", "sh", "-c", script])
        if _line_of(keeper) != "up\n":
            raise Unavailable("no network namespace (unshare --net, ip link)")
        return keeper.pid

    def _join(self) -> None:
        ip = find_program("ip")
        far = ["peer", "name", "veth0", "netns", str(self._far)]
        output_of([*self._in(self._near), ip, "link", "add", "veth0", "type", "veth", *far])
        for pid, address in ((self._near, _NEAR), (self._far, _FAR)):
            output_of([*self._in(pid), ip, "address", "add", f"{address}/24", "dev", "veth0"])
            output_of([*self._in(pid), ip, "link", "set", "veth0", "up"])

    def _await(self, pid: int, address: str, port: int) -> None:
        deadline = time.monotonic() + _SECONDS_TO_START
        while True:
            with contextlib.suppress(Unavailable):
                send(self._program, address, port, 0.001, before=self._in(pid))
                return
            if time.monotonic() > deadline:
                raise Unavailable(f"nobody listens on {address} port {port}")
            time.sleep(0.01)

    def _in(self, pid: int) -> list[str]:
        return [find_program("nsenter"), f"--net=/proc/{pid}/ns/net"]

    def _spawn(self, command: Sequence[str]) -> subprocess.Popen[str]:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        self._processes.append(process)
        return process


def _line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()
