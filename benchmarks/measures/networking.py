"""What `network` measures of pycontainer, in the worker that holds the containers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks import hosts
from benchmarks.competitors.pycontainer import Pycontainer
from benchmarks.harness import Unavailable
from benchmarks.measures.alive import settled_counts, supervisor_of
from benchmarks.streams import PORT, send

_RECEIVER = "/stream"
_DESCRIPTORS_EACH = 24
_LOOKERS = 5
"""How many of the crowd are asked for everybody's name."""


class Networking:
    """Containers that are there from one request to the next. Every public method is a request."""

    def __init__(self, competitor: Pycontainer) -> None:
        self._competitor = competitor
        self._program = Path()
        self._receiver: Any = None

    def close(self) -> None:
        if self._receiver is not None:
            self._competitor.release(self._receiver)

    def receive(self, program: str) -> None:
        """Starts the container whose port the bytes go to."""
        library = self._competitor.library
        self._program = Path(program)
        self._receiver = self._competitor.published(
            {PORT: None},
            [_RECEIVER, "receive", str(PORT)],
            mounts=[library.bind(program, _RECEIVER, ro=True)],
            wait=library.wait.listening(PORT),
        )

    def carry(self, way: str, seconds: float) -> float:
        """Bytes per second from a sender on this host: through the published port, or on a socket that
        `connect` gave."""
        if way == "port":
            address, port = self._receiver.ports[f"{PORT}/tcp"]
            return send(self._program, address, port, seconds)
        with self._receiver.connect(PORT) as connection:
            return send(self._program, "-", PORT, seconds, stdin=connection)

    def crowd(self, count: int, threads: int) -> dict[str, Any]:
        """Starts `count` containers on one new network; a few of them then look up all names. Times in
        nanoseconds: until all ran, and until those few had found everybody."""
        raised = hosts.raise_descriptors(count * _DESCRIPTORS_EACH)
        supervisor, place = self._supervisor(), self._competitor.place
        before = settled_counts(supervisor, place, None)
        held: list[Any] = []
        with ThreadPoolExecutor(threads) as pool:
            # Threads are there from here on.
            list(pool.map(time.sleep, [0.01] * threads))
            begun = time.perf_counter_ns()
            network = self._competitor.library.Network.create("crowd")
            try:
                held += pool.map(lambda number: self._start(network, number), range(count))
                started = time.perf_counter_ns() - begun
                found = [_names_found(one, count) for one in held[:: max(1, count // _LOOKERS)]]
                resolved = time.perf_counter_ns() - begun
                addresses = len({container.ip_address for container in held})
            finally:
                ending = time.perf_counter_ns()
                list(pool.map(self._competitor.release, held))
                network.remove()
                ended = time.perf_counter_ns() - ending
        after = settled_counts(supervisor, place, before)
        return {
            "count": count,
            "start": started,
            "resolved": resolved,
            "names": min(found),
            "addresses": addresses,
            "stop": ended,
            "before": before,
            "after": after,
            "descriptors_raised_to": raised,
        }

    def _supervisor(self) -> int:
        """Whose pool and default network are there from here on, as is everything else made once."""
        first = self._competitor.publish()
        try:
            return supervisor_of(self._competitor.pid_of(first))
        finally:
            self._competitor.release(first)

    def _start(self, network: Any, number: int) -> Any:
        return self._competitor.published({}, network=network, name=_name(number))


def _name(number: int) -> str:
    return f"member{number}"


def _names_found(container: Any, count: int) -> int:
    """How many of everybody's names it finds, as programs look for them: any kind of address."""
    command = ["getent", "ahosts", *map(_name, range(count))]
    found = container.exec(command, capture_output=True, text=True)
    if not found.stdout and found.returncode != 2:
        raise Unavailable(f"getent: {found.stderr.strip()[:200]}")
    return len(_known(found.stdout.splitlines()))


def _known(lines: Sequence[str]) -> set[str]:
    """Of lines with an address, a kind of socket and a name."""
    return {word for line in lines for word in line.split()[2:] if word.startswith(_name(0)[:-1])}
