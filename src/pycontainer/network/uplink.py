"""The way from a network to the outside: a tap in its namespace that a program serves (usermode.py)."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import socket
import threading
import time
from collections.abc import Iterable
from ipaddress import ip_interface
from typing import TYPE_CHECKING

from pycontainer import _sys
from pycontainer.errors import LaunchError, SupervisorError
from pycontainer.network import jobs, links, masquerade, usermode
from pycontainer.network.netlink import NETFILTER
from pycontainer.network.usermode import Helper, Tap
from pycontainer.runtime.isolation import capability_mask
from pycontainer.supervisor import client, failure, plan

if TYPE_CHECKING:
    from pycontainer.network.links import Address
    from pycontainer.network.subnets import Subnet
    from pycontainer.supervisor.client import Job, Supervisor

INSIDE = "br0"
"""The bridge of every network."""

_CLONE_NEWNS = 0x00020000
_MS_SLAVE = 0x80000
_READY_SECONDS = 10.0
_MAX_WORDS = 2000
_SYSCTL = "/proc/sys/net"
_NO_SYSLOG = re.compile(r"Failed to send \d+ bytes to syslog$")
"""What pasta says for each line on a machine without one."""


class Uplink:
    """The outside of one network; ends with `close`, or with this process. Safe from any thread."""

    def __init__(
        self,
        supervisor: Supervisor,
        namespace_fd: int,
        *,
        ipv4: bool,
        ipv6: bool,
        mtu: int | None,
        avoid: Iterable[Subnet] = (),
    ) -> None:
        """Returns when packets can leave. The namespace belongs to `supervisor`'s user namespace, and has a
        bridge `br0`, the containers' gateway, with addresses of the families asked for; `avoid` are the
        subnets there. `mtu` in bytes; None is the largest, whatever the network's is.

        IPv6 is carried where this host has a default route for it; see `ipv6`. Raises LaunchError with what
        the helper said, and CapabilityUnavailable where there is no helper, no /dev/net/tun to be
        opened, or, for IPv6 alone, no route.
        """
        self._lock = threading.Lock()
        self._job: Job | None = None
        self._stderr = _sys.Held()
        usermode.need_device()
        avoid = list(avoid)
        while True:
            self.helper = usermode.choose()
            self._tap = usermode.tap(self.helper, ipv4=ipv4, ipv6=ipv6, mtu=mtu, avoid=avoid)
            _prepare(supervisor, namespace_fd, self._tap)
            try:
                self._start(supervisor, namespace_fd)
                break
            except SupervisorError:
                raise
            except LaunchError as error:
                if not usermode.failed(self.helper, error):
                    raise
        usermode.worked(self.helper)
        if self._tap.six is not None and self.helper.name == "slirp4netns":
            try:
                _add_ipv6(supervisor, namespace_fd, self._tap)
            except BaseException:
                self.close()
                raise

    @property
    def ipv6(self) -> bool:
        """Whether IPv6 is carried."""
        return self._tap.six is not None

    @property
    def nameservers(self) -> tuple[Address, ...]:
        """What containers ask for names: forwarded to this host's own name servers, on whatever address
        they are. Empty where the host has none."""
        families = usermode.resolvers()
        return tuple(server for server in self._tap.nameservers if server.version in families)[:1]

    @property
    def ended(self) -> bool:
        """Whether nothing can leave any more: `close` was called, or the helper died."""
        job = self._job
        try:
            return job is None or job.take() is not None
        except SupervisorError:
            return True

    def close(self) -> None:
        """Ends the helper; when it returns, that is gone and its link, too. Twice does no harm."""
        with self._lock:
            job, self._job = self._job, None
            self._stderr.close()
            if job is not None and not job.lost:
                job.end()
                with contextlib.suppress(SupervisorError):  # it has taken the helper along
                    job.wait()

    def _start(self, supervisor: Supervisor, namespace: int) -> None:
        """Starts the helper and waits until it is ready."""
        ready, tell = _pipe(os.O_CLOEXEC)
        words = _sys.Held()
        try:
            # What it says meanwhile may fill a pipe that nobody reads: it shall not wait for that.
            self._stderr, words = _pipe(os.O_CLOEXEC | os.O_NONBLOCK)
            encoded = _plan(self.helper, self._tap)
            self._job = supervisor.start(
                encoded,
                fds=[namespace, tell.fd, words.fd],
                flags=client.START["INIT"] | client.START["NEW_PIDNS"] | client.START["SERVES"],
            )
            tell.close()
            words.close()
            self._await(self._job, ready.fd, encoded)
        except BaseException:
            self.close()
            raise
        finally:
            for end in (ready, tell, words):
                end.close()

    def _await(self, job: Job, ready: int, encoded: bytes) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        poller = select.poll()
        poller.register(ready, select.POLLIN)
        poller.register(job.channel, select.POLLIN)
        stage = f"starting {self.helper.name}"
        while found := _sys.poll(poller, deadline):
            record = job.take()
            if record is not None and record.kind == client.RECORD["FAILED"]:
                raise failure.launch_error(record, rootless=job.supervisor.rootless, encoded=encoded)
            if record is not None:
                raise LaunchError(stage, hint=self._said() or f"it ended with status {record.status}")
            if any(descriptor == ready for descriptor, _ in found):
                if os.read(ready, 64):
                    return
                # It ends: the record will say how.
                poller.unregister(ready)
        raise LaunchError(stage, errno=errno.ETIMEDOUT, hint=self._said())

    def _said(self) -> str | None:
        """The end of what the helper wrote to its standard error."""
        with contextlib.suppress(BlockingIOError):
            text = os.read(self._stderr.fd, 65536).decode("utf-8", "replace")
            lines = [line.strip() for line in text.splitlines() if not _NO_SYSLOG.match(line)]
            shown = "; ".join(filter(None, lines))[-_MAX_WORDS:]
            return "".join(char if char.isprintable() else "?" for char in shown) or None
        return None


def _prepare(supervisor: Supervisor, namespace: int, tap: Tap) -> None:
    """Rules first, so that at no time anything else is forwarded; there is no link for it yet, either."""
    rules = masquerade.rules(INSIDE, usermode.LINK, subnets=tap.subnets, nameservers=tap.nameservers)

    def prepare(ops: plan.Ops) -> None:
        ops.netlink(rules, "masquerading", protocol=NETFILTER)
        if tap.four is not None:
            ops.write(f"{_SYSCTL}/ipv4/ip_forward", b"1")
        if tap.six is not None:
            # Nobody else is at the tap: its addresses can be used at once.
            ops.write(f"{_SYSCTL}/ipv6/conf/default/accept_dad", b"0")
            ops.write(f"{_SYSCTL}/ipv6/conf/all/forwarding", b"1")

    jobs.within(supervisor, namespace, prepare)


def _plan(helper: Helper, tap: Tap) -> bytes:
    """The helper sees the host's files and network, and has no capabilities but those it needs; PID 1 of its
    PID namespace dies with the supervisor and takes it along, whatever it has made of itself."""
    setup, tail = (plan.Ops(data) for data in [plan.Data()] * 2)
    # What it mounts on its way into its own sandbox stays in there.
    setup.unshare(_CLONE_NEWNS)
    setup.propagation(_MS_SLAVE)
    tail.setsid()
    ready = usermode.READY_FD[helper.name]
    tail.fd(2, 1)
    tail.fd(2, 2)
    tail.fd(1, ready)
    tail.fd(0, usermode.NAMESPACE_FD)
    capabilities = capability_mask(helper.capabilities)
    tail.umask(0o077)
    tail.bounding(capabilities)
    tail.chdir("/")
    tail.caps(capabilities)
    tail.no_new_privs()
    tail.exec([helper.path], [argument.encode() for argument in helper.command(tap)], {})
    return plan.encode(setup.data, setup=setup.encode(), tail=tail.encode())


def _add_ipv6(supervisor: Supervisor, namespace: int, tap: Tap) -> None:
    """slirp4netns configures IPv4 alone."""
    index = _index(supervisor, namespace)
    own, gateway, length = tap.own[-1], tap.gateways[-1], tap.subnets[-1].prefixlen

    def prepare(ops: plan.Ops) -> None:
        address = links.address(index, ip_interface(f"{own}/{length}"))
        ops.netlink(address, f"address of {usermode.LINK}")
        ops.netlink(links.default_route(index, gateway), f"route through {usermode.LINK}")

    jobs.within(supervisor, namespace, prepare)


def _index(supervisor: Supervisor, namespace: int) -> int:
    """The tap's index in its namespace, which procfs tells who opens the file there."""
    path = f"/proc/self/net/dev_snmp6/{usermode.LINK}"
    stage = "looking for the link"
    found = _sys.Held()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        jobs.within(supervisor, namespace, lambda ops: ops.give(1, path), [theirs.fileno()])
        theirs.close()
        if _sys.receive_fd(ours.fileno(), found) is None:
            raise LaunchError(stage, errno=errno.EMFILE, path=usermode.LINK)
    with open(found.fd, encoding="ascii", closefd=False) as lines:
        match = re.match(r"ifIndex\s+(\d+)", lines.readline())
    if match is None:
        raise LaunchError(stage, errno=errno.EPROTO, path=path)
    return int(match[1])


def _pipe(flags: int) -> tuple[_sys.Held, _sys.Held]:
    ends = _sys.Held(), _sys.Held()
    try:
        for end, descriptor in zip(ends, os.pipe2(flags), strict=True):
            end.keep(descriptor)
    except OSError as error:
        raise LaunchError("creating a pipe", errno=error.errno) from error
    return ends
