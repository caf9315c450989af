"""Who listens in the container's network, as the kernel tells it: proc_pid_net(5), tcp and udp.

There is no event for that, so the tables are read again and again.
"""

from __future__ import annotations

import errno
import ipaddress
import math
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from pycontainer.errors import CapabilityUnavailable
from pycontainer.readiness.condition import Condition, Pause, Waiting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pycontainer.wait import Listening

_LONGEST_PAUSE = 0.025
_LISTEN = "0A"
_MAX_TABLE = 16 * 2**20
"""Bytes of a table that are read: the kernel lists those who listen first."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Listens(Condition):
    def __init__(self, wanted: Listening, waiting: Waiting) -> None:
        """Raises CapabilityUnavailable where this process has no procfs."""
        self._wanted = wanted
        self._pause = Pause(_LONGEST_PAUSE)
        self.missing = "nobody listens"
        self._net = -1
        started = waiting.run.job.started
        # Of a process that has ended meanwhile there is none, and its number may be another one's;
        # the container's end is noticed by others.
        with suppress(FileNotFoundError, ProcessLookupError):
            assert started is not None
            self._net = os.open(f"/proc/{started.pid}/net", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if self._net < 0 and not os.path.exists("/proc/self/net"):
            raise CapabilityUnavailable("wait.listening() without /proc", remedy="mount procfs there")
        if not waiting.run.running():
            self.close()

    def look(self, now: float) -> bool:
        if now < self.due:
            return False
        if self._net < 0:
            self.due = math.inf
            return False
        self.due = now + self._pause()
        tables = ("udp", "udp6") if self._wanted.udp else ("tcp", "tcp6")
        return any(self._serves(address) for name in tables for address in self._addresses(name))

    def close(self) -> None:
        fd, self._net = self._net, -1
        if fd >= 0:
            os.close(fd)

    def _serves(self, bound: Address) -> bool:
        """Whether somebody who connects to the wanted address reaches a socket that is bound to this."""
        if self._wanted.host is None:
            return True
        wanted = ipaddress.ip_address(self._wanted.host)
        if bound.is_unspecified:
            # "::" takes IPv4, too, unless it was told not to, which is not to be seen here.
            return bound.version == 6 or wanted.version == 4
        mapped = bound.ipv4_mapped if isinstance(bound, ipaddress.IPv6Address) else None
        return wanted in (bound, mapped)

    def _addresses(self, name: str) -> Iterator[Address]:
        """Of those on the wanted port."""
        try:
            # Not os.open(): an interrupt at its return would lose the number.
            with open(f"/proc/self/fd/{self._net}/{name}", "rb") as file:
                table = file.read(_MAX_TABLE)
        except OSError as error:
            # A kernel without IPv6, or the process has gone (EINVAL, as its network has).
            if error.errno not in (errno.ENOENT, errno.ESRCH, errno.EINVAL):
                raise
            return
        port = b":%04X " % self._wanted.port
        for line in table.split(b"\n")[1:]:
            if port in line:
                local, _, state = line.decode("ascii").split()[1:4]
                address, _, number = local.partition(":")
                if int(number, 16) == self._wanted.port and (self._wanted.udp or state == _LISTEN):
                    yield _address(address)


def _address(text: str) -> Address:
    """The kernel prints each 32 bits as a number of this machine's byte order."""
    words = [int(text[i : i + 8], 16).to_bytes(4, sys.byteorder) for i in range(0, len(text), 8)]
    return ipaddress.ip_address(b"".join(words))
