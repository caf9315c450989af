"""What is written down of a persistent container: state.json."""

from __future__ import annotations

import datetime
import ipaddress
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from pycontainer.blobs.failures import store_errors
from pycontainer.completed import Completed, Usage
from pycontainer.errors import ContainerNotFound, StoreError
from pycontainer.keeping import plain
from pycontainer.keeping.written import tails
from pycontainer.network_options import parse_port
from pycontainer.store.persistent import STATE, read_state
from pycontainer.units import parse_int

if TYPE_CHECKING:
    from pycontainer.options import Options

VERSION = 1
"""Of the file's form."""


@attrs.frozen
class Ended:
    """How a program ended; None where nobody could tell, because what kept it died."""

    code: int | None = None
    cause: str = "exited"
    usage: Usage = attrs.field(factory=lambda: Usage(0.0, 0.0, 0.0))

    def completed(self, args: Any, path: str) -> Completed:
        """The result, with the last megabyte of what was written there. Raises StoreError."""
        assert self.code is not None
        out, err = tails(path)
        return Completed(args, self.code, out, err, cause=self.cause, usage=self.usage)  # type: ignore[arg-type]


KILLED = Ended(-9, "signaled")
"""A container whose keeper or supervisor dies is killed."""


@attrs.frozen
class Record:
    """A persistent container as it is written down. Times are UTC.

    `image` is "host" or the manifest's digest, `id` and `name` its own; `environ` what a keeper is started
    with. `running` is what its keeper last said; without one nothing runs.
    """

    id: str
    name: str | None
    image: dict[str, str]
    args: Any
    options: dict[str, Any]
    created_at: str
    environ: dict[str, str]
    status: str = "created"
    pid: int | None = None
    started_at: str | None = None
    finished_at: str | None = None
    ended: Ended | None = None
    restarts: int = 0
    health: str | None = None
    ports: dict[str, tuple[tuple[str, int], ...]] = attrs.field(factory=dict)
    addresses: dict[str, tuple[str, ...]] = attrs.field(factory=dict)
    boot: str = ""
    keeper: tuple[int, int] = (0, 0)
    """The keeper's process id and start time (proc_pid_stat(5)), for who looks: nothing here relies on it."""

    def write(self, path: str) -> None:
        """Replaces the file in the directory `path`. Raises NoSpace and StoreError."""
        document = {"version": VERSION, **attrs.asdict(self)}
        name = os.path.join(path, STATE)
        fresh = f"{name}.new"
        with store_errors("writing", name):
            # The environment may hold secrets.
            fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            with open(fd, "w", encoding="ascii") as file:
                json.dump(document, file)
                file.flush()
                os.fsync(fd)
            os.rename(fresh, name)

    @classmethod
    def read(cls, path: str) -> Record:
        """Raises ContainerNotFound where it was removed, and StoreError."""
        document = read_state(path)
        if not document:
            raise ContainerNotFound(f"container {os.path.basename(path)[:12]} was removed")
        if (version := document.pop("version", None)) != VERSION:
            raise StoreError(
                f"{path}: was written by another pycontainer, in form {version} and not {VERSION}"
            )
        return cls.of(document, path)

    @classmethod
    def of(cls, document: dict[str, Any], path: str) -> Record:
        """From plain data; `path` is for the error. Raises StoreError."""
        try:
            document = dict(document)
            ended = document.pop("ended", None)
            if ended is not None:
                ended = Ended(**{**ended, "usage": Usage(**ended["usage"])})
            keeper = tuple(document.pop("keeper"))
            ports = _ports(document.pop("ports", {}))
            addresses = _addresses(document.pop("addresses", {}))
            return cls(**document, keeper=keeper, ended=ended, ports=ports, addresses=addresses)
        except (TypeError, ValueError, KeyError) as error:
            raise StoreError(f"{path}: {STATE} is damaged: {error}") from None

    def without_keeper(self, *, removed: bool = False) -> Record:
        """How it stands when nobody keeps it: nothing runs, whatever its last keeper wrote."""
        gone = attrs.evolve(self, ports={}, addresses={})
        if self.status == "stopped" or (self.status == "created" and not removed):
            return gone
        return attrs.evolve(gone, status="stopped", pid=None, finished_at=None, ended=None, health=None)

    def read_options(self) -> Options:
        """Raises StoreError."""
        return plain.to_options(self.options)


def _ports(data: object) -> dict[str, tuple[tuple[str, int], ...]]:
    """Raises TypeError and ValueError for what is not a container's published ports."""
    found = {}
    for name, where in _items(data):
        number, protocol = parse_port(name)
        found[f"{number}/{protocol}"] = tuple(_host_port(*one) for one in where)
    return found


def _host_port(host: object, port: object) -> tuple[str, int]:
    return _address(host), parse_int(port, option="port", low=1, high=65535)  # type: ignore[arg-type]


def _addresses(data: object) -> dict[str, tuple[str, ...]]:
    """Raises TypeError and ValueError for what is not a container's addresses by network."""
    return {name: tuple(map(_address, found)) for name, found in _items(data)}


def _items(data: object) -> Iterable[tuple[str, Any]]:
    if not isinstance(data, dict):
        raise TypeError(f"{data!r:.100} is no object")
    return data.items()


def _address(text: object) -> str:
    # A number would be taken for an address, too.
    if not isinstance(text, str):
        raise TypeError(f"{text!r:.100} is no address")
    return str(ipaddress.ip_address(text))


def text_of(time: datetime.datetime | None) -> str | None:
    return None if time is None else time.isoformat()


def time_of(text: str | None) -> datetime.datetime | None:
    """Raises StoreError."""
    try:
        return None if text is None else datetime.datetime.fromisoformat(text)
    except (TypeError, ValueError):
        raise StoreError(f"a persistent container's record: {text!r} is no time") from None


def known_time(text: str) -> datetime.datetime:
    """Raises StoreError."""
    found = time_of(text)
    assert found is not None
    return found


def boot_id() -> str:
    """This boot of the machine: random(4)."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def own_start() -> tuple[int, int]:
    """This process's id and start time in clock ticks after the boot (proc_pid_stat(5))."""
    fields = Path("/proc/self/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    return os.getpid(), int(fields[19])
