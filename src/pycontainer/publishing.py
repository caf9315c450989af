"""Published ports: sockets of the host whose bytes a child of the supervisor carries into a container."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from pycontainer import known
from pycontainer.errors import InvalidOption, LaunchError, PortInUse
from pycontainer.network_options import Port, parse_port

if TYPE_CHECKING:
    from pycontainer.network_options import Protocol

_BACKLOG = 4096
_LOOPBACK, _LOOPBACK_6 = "127.0.0.1", "::1"
_TRIES = 20
_NO_IPV6 = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
_HINTS = {
    errno.EACCES: "ports below 1024 are root's; choose another one, or None for any that is free",
    errno.EADDRNOTAVAIL: 'no link of this host has that address; "0.0.0.0" and "::" stand for all it has',
}


class HostPort(NamedTuple):
    """Where the host has a port, as `socket.create_connection` takes it."""

    host: str
    port: int


class Ports(Mapping[str, HostPort]):
    """A container's published ports: by "80/tcp" or "53/udp", and by 80 (TCP) as well.

    For a port that is published several times, the first; `all` has every one.
    """

    def __init__(self, given: Mapping[str, Sequence[HostPort]] | None = None) -> None:
        self._given = {name: tuple(where) for name, where in (given or {}).items() if where}

    def __getitem__(self, port: str | int) -> HostPort:
        return self.all(port)[0]

    def all(self, port: str | int) -> tuple[HostPort, ...]:
        """Raises KeyError for one that is not published."""
        try:
            number, protocol = parse_port(port)
        except InvalidOption:
            raise KeyError(port) from None
        found = self._given.get(f"{number}/{protocol}")
        if found is None:
            raise KeyError(port)
        return found

    def __contains__(self, port: object) -> bool:
        try:
            self.all(port)  # type: ignore[arg-type]
        except KeyError:
            return False
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(self._given)

    def __len__(self) -> int:
        return len(self._given)

    def __repr__(self) -> str:
        return repr(dict(self))


class Listener(NamedTuple):
    """A socket that stands for a container's port."""

    socket: socket.socket
    port: Port


def listen(ports: Sequence[Port]) -> list[Listener]:
    """Binds what is asked for. Raises PortInUse, and LaunchError for an address that is not this host's, say;
    nothing is bound then."""
    made: list[Listener] = []
    try:
        for port in ports:
            made += [Listener(one, port) for one in _bind(port)]
    except BaseException:
        close(made)
        raise
    return made


def close(listeners: Sequence[Listener]) -> None:
    for listener in listeners:
        listener.socket.close()


def given(listeners: Sequence[Listener]) -> Ports:
    """What was bound for whom. IPv6's loopback is not told apart where it has the same number."""
    found: dict[str, list[HostPort]] = {}
    for one, port in listeners:
        where = HostPort(*one.getsockname()[:2])
        if port.host is None and where.host == _LOOPBACK_6 and port.shown in found:
            continue
        found.setdefault(port.shown, []).append(where)
    return Ports(found)


def _bind(port: Port) -> list[socket.socket]:
    if port.host is not None:
        return [_open(port.host, port.host_port, port)]
    for attempt in range(_TRIES):
        try:
            return _bind_loopback(port)
        except PortInUse:
            # A free port of the one family may be taken in the other.
            if port.host_port != 0 or attempt == _TRIES - 1:
                raise
    raise AssertionError


def _bind_loopback(port: Port) -> list[socket.socket]:
    """Both loopback addresses at the same port, so that "localhost" leads there either way."""
    four = _open(_LOOPBACK, port.host_port, port)
    try:
        six = _open(_LOOPBACK_6, four.getsockname()[1], port)
    except LaunchError as error:
        if error.errno not in _NO_IPV6:
            four.close()
            raise
        return [four]
    except BaseException:
        four.close()
        raise
    return [four, six]


def _open(host: str, number: int, port: Port) -> socket.socket:
    kind = socket.SOCK_STREAM if port.protocol == "tcp" else socket.SOCK_DGRAM
    shown = f"{host} port {number}/{port.protocol}"
    made = None
    try:
        made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind)
        if ":" in host:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if port.protocol == "tcp":
            # What was there before may still be closing connections.
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, number))
        if port.protocol == "tcp":
            made.listen(_BACKLOG)
    except OSError as error:
        if made is not None:
            made.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(
                f"ports[{port.shown}]: {shown} of this host is in use{holder(host, number, port.protocol)}"
            ) from error
        hint = _HINTS.get(error.errno or 0)
        raise LaunchError("publishing a port", errno=error.errno, path=shown, hint=hint) from error
    except BaseException:
        if made is not None:
            made.close()
        raise
    return made


def holder(host: str, number: int, protocol: Protocol) -> str:
    """Who has a port, as far as this user may know: proc_pid_net(5), proc_pid_fd(5)."""
    wanted = set(_inodes(number, protocol))
    own = str(os.getpid())
    # This process first: a child of its supervisor has the same socket.
    pids = [own, *filter(str.isdigit, os.listdir("/proc"))] if wanted else []
    for pid in pids:
        with contextlib.suppress(OSError):
            directory = f"/proc/{pid}/fd"
            for fd in os.listdir(directory):
                found = os.readlink(f"{directory}/{fd}")
                if found in wanted:
                    if pid == own and (container := _own_container(found)):
                        return f" by container {container}, process {pid}"
                    with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as comm:
                        name = comm.read().strip()
                    return f" by {name}, process {pid}"
    return ""


def _own_container(name: str) -> str | None:
    """The container of this process that has the socket of that name in procfs."""
    for container in known.everyone():
        if container._wiring.has_socket(name):
            return container.name or container.id[:12]
    return None


def _inodes(number: int, protocol: str) -> Iterator[str]:
    for name in (protocol, f"{protocol}6"):
        with (
            contextlib.suppress(FileNotFoundError),
            open(f"/proc/self/net/{name}", encoding="ascii") as table,
        ):
            for line in table.read().splitlines()[1:]:
                fields = line.split()
                # Listening, or (UDP) unconnected.
                if fields[3] in ("0A", "07") and int(fields[1].rpartition(":")[2], 16) == number:
                    yield f"socket:[{fields[9]}]"
