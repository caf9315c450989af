"""Running programs in a container that another process keeps: through a copy of its supervisor's socket.

Everything else about them is as in the keeper's own process: streams, results and signals do not pass
through the keeper. It gives out the numbers of the jobs, and ends those whose process has ended.
"""

from __future__ import annotations

import socket
import threading
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pycontainer import _sys
from pycontainer._sys import Record
from pycontainer.errors import InvalidState, SupervisorError
from pycontainer.execution import Execution
from pycontainer.keeping import control, forks, plain
from pycontainer.launch import Command
from pycontainer.lives import Run
from pycontainer.session import Session
from pycontainer.streams import Streams
from pycontainer.supervisor.client import RECORD, Job, Supervisor
from pycontainer.supervisor.idmap import IdMap

if TYPE_CHECKING:
    from pycontainer.keeping.links import Links

_SECONDS = 30.0


class _Lent(Iterator[int]):
    """Numbers of jobs that the keeper gave to this process."""

    def __init__(self) -> None:
        self._free: deque[int] = deque()

    def add(self, number: int) -> None:
        self._free.append(number)

    def __next__(self) -> int:
        return self._free.popleft()


class _Supervisor(Supervisor):
    """A keeper's, of which this process has a connection too."""

    def __init__(self, sock: int, *, idmap: IdMap | None, rootless: bool) -> None:
        self.pid = 0
        self.on_death = None
        self.idmap = idmap
        self.in_memory = True
        self.rootless = rootless
        self.numbers = _Lent()
        self._lock = threading.Lock()
        self._jobs = self.numbers
        self._sock = _sys.Held()
        self._sock.keep(sock)


class _Session(Session):
    """What programs that join need of the keeper's."""

    def __init__(self, supervisor: _Supervisor, *, many_ids: bool, capabilities: int) -> None:
        self.supervisor = supervisor
        self.rootless = supervisor.rootless
        self.many_ids = many_ids
        self.capabilities = capabilities


class _Joined(Run):
    """The container's program, for those that join it."""

    def __init__(self, begun: Execution, *, own_network: bool) -> None:
        self.execution = begun
        self.own_network = own_network


class Joints:
    """This process's way into one container."""

    def __init__(self, links: Links) -> None:
        self._links = links
        self._lock = threading.Lock()
        self._lease: socket.socket | None = None
        """As long as it is open, the keeper lets live what was begun."""
        self._owner = ""
        self._supervisor: _Supervisor | None = None
        self._session: _Session | None = None
        self._run: _Joined | None = None
        self._ended: deque[int] = deque()
        forks.remember(self)

    def run(self, *, paused: bool = False) -> Run:
        """The running program, and a number for one job that joins it. One that is paused is given only where
        that is asked for. Raises NoKeeper, InvalidState, and SupervisorError."""
        with self._lock:
            used = self._lease
            try:
                return self._ask(paused)
            except SupervisorError:
                if used is None or used.fileno() >= 0:
                    raise
            # The keeper ended since the connection was made.
            return self._ask(paused)

    def began(self, job: Job) -> None:
        """Has the keeper forget the job once it has ended."""
        job.on_end(lambda: self._ended.append(job.id))

    def close(self) -> None:
        if self._lease is not None:
            self._lease.close()
        if self._supervisor is not None:
            self._supervisor.close()

    def forget(self) -> None:
        """In a forked child: everything is the parent's."""
        self.close()
        self.__init__(self._links)  # type: ignore[misc]

    def __del__(self) -> None:
        if self._lease is not None:
            self._lease.close()

    def _ask(self, paused: bool) -> Run:
        if self._lease is None or self._lease.fileno() < 0:
            self._lease = self._links.fresh()
        groups = None if self._run is None else self._run.execution.cgroup
        known = self._run is not None and self._supervisor is not None and not self._supervisor.closed
        ended = [self._ended.popleft() for _ in range(len(self._ended))]
        request = {
            "target": self._run.job.id if known and self._run is not None else 0,
            "owner": self._owner if known else "",
            "groups": 0 if groups is None else len(groups.directories),
            "ended": ended,
            "paused": paused,
        }
        answer, fds = control.ask(self._lease, "target", request, control.deadline_in(_SECONDS))
        if fds:
            self._meet(answer, fds)
        assert self._supervisor is not None and self._session is not None
        if "cgroup" in answer:
            self._run = _joined(answer, self._supervisor, self._session)
        assert self._run is not None
        self._supervisor.numbers.add(answer["number"])
        return self._run

    def _meet(self, answer: dict[str, Any], fds: list[int]) -> None:
        # Of a keeper that does not tell it, nothing was known.
        idmap = plain.to_value(answer.get("idmap"))
        self._supervisor = _Supervisor(fds[0], idmap=idmap, rootless=answer["rootless"])
        if answer["version"] != _sys.PROTOCOL_VERSION:
            raise InvalidState(
                "the container's supervisor is another pycontainer's: that was replaced while the container "
                "ran. Stop it and start it again"
            )
        self._owner = answer["owner"]
        self._session = _Session(
            self._supervisor, many_ids=answer["many_ids"], capabilities=answer["capabilities"]
        )


def _started(pid: int) -> Record:
    """A record that says so of the container's first process."""
    return Record(RECORD["STARTED"], 0, -1, 0, pid, 0, 0.0, 0.0, 0.0, 0.0, 0, 0, 0, "", ())


def _joined(answer: dict[str, Any], supervisor: _Supervisor, here: _Session) -> _Joined:
    job = Job(supervisor, answer["target"])
    job.keep()
    job.started = _started(answer["pid"])
    begun = Execution(
        job,
        Streams(tty=False),
        Command((), (), answer["env"], None),
        here,
        plain.to_value(answer["cgroup"]),
        b"",
    )
    return _Joined(begun, own_network=answer["own_network"])
