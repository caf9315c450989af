"""What one container has of the network: its namespace, its links and its ports, from a start to its end.

A container with `network="none"` and no ports needs none of it: its namespace is made with it. The others'
is made beforehand by a child of the supervisor, with everything in it, and joined.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from pycontainer import naming, network_options, publishing
from pycontainer.errors import InvalidOption, InvalidState, LaunchError
from pycontainer.minding import minder
from pycontainer.network import jobs, subnets
from pycontainer.network.whole import whole
from pycontainer.runtime import plan

if TYPE_CHECKING:
    from pycontainer.container import Container
    from pycontainer.network.forwarder import Forwarder
    from pycontainer.networks import Member, Network
    from pycontainer.options import Options
    from pycontainer.publishing import Listener, Ports
    from pycontainer.supervisor.client import Job, Supervisor
    from pycontainer.supervisor.plan import Ops

_LOOPBACKS = ("127.0.0.1", "::1")
_MAX_TARGETS = 4
_FORWARDING_NAME = "net/ipv4/ip_forward"
_FORWARDING = f"/proc/sys/{_FORWARDING_NAME}"
"""A new namespace has it from the host; but who is on two networks joins them only where it was told to."""
_FIRST_INDEX = 100
"""Of a container's links: a new namespace has a few of the kernel's own."""


class Wiring:
    """Used by one container, or by one `run`; safe from any thread."""

    def __init__(self, options: Options, container: str, *, lasting: bool = True) -> None:
        """A `lasting` one may be connected to networks later."""
        self._options = options
        self._container = container
        self._lasting = lasting
        self._lock = threading.RLock()
        self._starts = 0
        self._job: Job | None = None
        self._wanted: dict[Network, tuple[Sequence[str], Sequence[str]]] = {}
        """Networks that it joins at a start, with its aliases and addresses there."""
        self._left: dict[Network, tuple[Sequence[str], Sequence[str]]] = {}
        """Those that it was taken off; they keep for it what it had."""
        self._members: dict[Network, Member] = {}
        self._links: dict[Network, int] = {}
        """The numbers of its links, also of those that were taken away."""
        self._supervisor: Supervisor | None = None
        self._namespace = jobs.Namespace()
        self._listeners: list[Listener] = []
        self._forwarder: Forwarder | None = None
        self._followers: set[Wiring] = set()
        """Those that share its namespace: they know whom it knows."""
        self._hostname = ""
        self.hosts_network = network_options.is_hosts(options.network)
        """Whether it has the host's network, so that there is nothing to do here."""
        self.files = naming.Files(
            options, self._known, lambda: self.own_addresses, hosts_network=self.hosts_network
        )
        if options.network not in ("none", "host", "bridge") and self.lender is None:
            self._want_chosen()
        _all.add(self)

    @property
    def lender(self) -> Container | None:
        """Whose namespace it shares."""
        return None if self.hosts_network else network_options.lender(self._options.network)

    @property
    def ports(self) -> Ports:
        """What the host has of its ports while it runs."""
        with self._lock:
            return publishing.given(self._listeners)

    def has_socket(self, name: str) -> bool:
        """Whether a published port of its is the socket that procfs calls so. Takes no lock: others that ask
        may hold theirs."""
        names = set()
        for one, _ in [*self._listeners]:
            # It may be closed meanwhile.
            with suppress(OSError):
                names.add(f"socket:[{os.fstat(one.fileno()).st_ino}]")
        return name in names

    @property
    def addresses(self) -> dict[str, tuple[str, ...]]:
        """Its addresses while it runs, by the names of its networks."""
        lender = self.lender
        if lender is not None:
            return lender._wiring.addresses if self._shares(lender) else {}
        members = [*self._members.items()]
        return {network.name: member.port.shown for network, member in members}

    @property
    def own_addresses(self) -> list[str]:
        """The same, those of its first network first."""
        return [one for found in self.addresses.values() for one in found]

    # From a start to its end.

    def begin(self, supervisor: Supervisor, hostname: str) -> plan.Network:
        """Makes what a start needs. Raises PortInUse, LaunchError, and what `Network` does; nothing of it is
        left then."""
        with self._lock:
            self._end()
            self._starts += 1
            alone = self._options.network == "none" and not self._wanted and not self._options.ports
            if self.hosts_network or (alone and not self._lasting):
                return plan.Network(self.files.contents(hostname))
            self._supervisor, self._hostname = supervisor, hostname
            try:
                return self._begin(supervisor)
            except BaseException:
                self._end()
                raise

    def _begin(self, supervisor: Supervisor) -> plan.Network:
        # That a port is taken is what fails most often.
        self._listeners = publishing.listen(self._options.ports)
        lender = self.lender
        if lender is not None:
            self._namespace = lender._lend_network()
            lender._wiring._followers.add(self)
        else:
            self._enroll()
            if self._members or self._listeners:
                self._make_namespace(supervisor)
        if self._listeners:
            self._publish(self._listeners)
        follows = self._lasting or bool(self._members) or lender is not None
        descriptors = [self._namespace.fd] if self._namespace.fd >= 0 else []
        if follows:
            # Who does not last stays on the networks that it is on.
            descriptors.append(self.files.expect(resolver=self._lasting or lender is not None))
        contents = self.files.contents(self._hostname)
        return plan.Network(contents, tuple(descriptors), gives=self.files.awaited if follows else ())

    def started(self, job: Job) -> None:
        """The program that `begin` was called for runs; what was made for it ends with it."""
        if not self.hosts_network:
            self._on_end_of(job)
            self.files.rewrite()

    def ended(self, job: Job) -> None:
        """Returns when what was made for that program is given up: another thread may be at it."""
        with self._lock:
            if self._job is job:
                self._end()

    @property
    def alive(self) -> bool:
        """Whether its program was not seen to end."""
        job = self._job
        return job is None or (job.final is None and not job.lost)

    def _on_end_of(self, job: Job) -> None:
        start, self._job = self._starts, job

        def end() -> None:
            with self._lock:
                if self._starts == start:
                    self._end()

        # Whoever finds out calls it before going on; the minder is there where nobody waits, and others
        # have something of it.
        job.on_end(end)
        if self._namespace.fd >= 0:
            minder().after_end(job, lambda: None)

    def end(self) -> None:
        """Gives up what was made for the last start."""
        with self._lock:
            self._end()

    def close(self) -> None:
        """The container is removed: nothing is kept for it."""
        with self._lock:
            self._end()
            for network in [*self._left]:
                network.discharge(self._container)
            self._left.clear()
            self._wanted.clear()

    def _end(self) -> None:
        self._job = None
        publishing.close(self._listeners)
        self._listeners = []
        # Where the supervisor has died there is nothing to take down.
        with ExitStack() as rest, suppress(LaunchError):
            rest.callback(self._give_up)
            if self._forwarder is not None:
                self._forwarder.close()

    def _give_up(self) -> None:
        # Who was interrupted may have enrolled it, and not known it.
        self._forwarder = None
        members = {*self._members, *self._wanted} - self._left.keys()
        self._members = {}
        self._links.clear()
        for network in members:
            if self._followers:
                # They keep the namespace, and its addresses will be another's.
                with suppress(LaunchError):
                    network.unlink(self._container)
            with suppress(LaunchError):
                network.discharge(self._container)
        lender = self.lender
        if lender is not None:
            lender._wiring._followers.discard(self)
        self.files.close()
        self._namespace = jobs.Namespace()
        # What they have is no one's any more.
        for follower in [*self._followers]:
            self._followers.discard(follower)
            follower.rewrite()

    def _want_chosen(self) -> Network | None:
        """Its network by its options, unless it was taken off that."""
        chosen = network_options.chosen(self._options.network)
        if chosen is not None and chosen not in self._left:
            self._wanted.setdefault(chosen, (self._options.aliases, self._options.ip_address))
        return chosen

    def _enroll(self) -> None:
        chosen = self._want_chosen()
        for network, (aliases, wanted) in [*self._wanted.items()]:
            if network.removed and network is not chosen:
                self._wanted.pop(network, None)
                continue
            self._members[network] = network.enroll(
                self, self._container, [*aliases, *self._called()], wanted
            )
            self._left.pop(network, None)

    def _called(self) -> list[str]:
        name = self._options.name
        return [*([] if name is None else [name]), self._hostname, self._container[:12]]

    def _make_namespace(self, supervisor: Supervisor) -> None:
        members = [*self._members.items()]

        def wire(ops: Ops) -> None:
            if members:
                ops.write(_FORWARDING, b"0")
            for number, (network, member) in enumerate(members):
                self._wire(ops, network, member, switch=number)

        switches = [network.switch(supervisor) for network, _ in members]
        jobs.new_namespace(supervisor, wire, [one.fd for one in switches], into=self._namespace)
        for network, member in members:
            network.linked(member)
            network.tell()

    def _wire(self, ops: Ops, network: Network, member: Member, *, switch: int) -> None:
        number = self._links.setdefault(network, len(self._links))
        # What is for nobody's subnet goes to the first network that leads out.
        first = next((one for one in [*self._members] if one.gateways), network)
        network.wire(
            ops,
            member,
            switch=switch,
            name=f"eth{number}",
            index=_FIRST_INDEX + number,
            routes=network is first,
        )

    # Its ports.

    def publish(self, listeners: list[Listener], job: Job) -> None:
        """Has more sockets of the host lead to it, which are its own from here on."""
        with self._lock:
            self._adopt(job)
            self._publish(listeners)
            self._listeners += listeners

    def _publish(self, listeners: Sequence[Listener]) -> None:
        from pycontainer.network.forwarder import Forwarder

        assert self._supervisor is not None
        if self._forwarder is None or self._forwarder.ended:
            self._forwarder = Forwarder(self._supervisor, namespace=self._namespace.fd)
        # A server may listen at its address alone, or at the loopback's alone.
        targets = [*self.own_addresses, *_LOOPBACKS][:_MAX_TARGETS]
        for one, port in listeners:
            self._forwarder.add(one, port.number, targets, protocol=port.protocol)

    # Its networks while it runs.

    @property
    def namespace(self) -> int:
        """The descriptor of its network namespace, or -1 where nobody needed it yet."""
        return self._namespace.fd

    def lend(self, job: Job) -> jobs.Namespace:
        """Its network namespace, for another container. Raises LaunchError."""
        if self._namespace.fd >= 0:
            return self._namespace
        found = jobs.Namespace()
        jobs.namespace_of(job, found)
        return found

    def _adopt(self, job: Job) -> None:
        """Its namespace was made with the container, and is needed now."""
        if self._namespace.fd < 0:
            self._supervisor = job.supervisor
            jobs.namespace_of(job, self._namespace)
            self._on_end_of(job)

    def join(
        self,
        network: Network,
        aliases: Sequence[str],
        addresses: Sequence[str],
        job: Job | None,
        hostname: str,
    ) -> None:
        """Puts it on a network, now where it runs (`job`), else from its next start on."""
        if self.hosts_network or self.lender is not None:
            raise InvalidOption("connect: the container has no network of its own, but another one's")
        if job is not None:
            # What may take long, and leaves nothing.
            network.switch(job.supervisor)
        whole(lambda: self._join(network, aliases, addresses, job, hostname))

    def _join(
        self,
        network: Network,
        aliases: Sequence[str],
        addresses: Sequence[str],
        job: Job | None,
        hostname: str,
    ) -> None:
        with self._lock:
            if self._options.network == network.name:
                self._want_chosen()
            if network in self._wanted:
                raise InvalidState(f"connect: the container is on network {network.name} already")
            self._check_apart(network)
            had = self._left.get(network, ((), ()))
            wanted = (aliases or had[0], addresses or had[1])
            if job is not None:
                self._hostname = hostname
                self._join_now(network, *wanted, job)
                self._left.pop(network, None)
            self._wanted[network] = wanted

    def _check_apart(self, network: Network) -> None:
        """Two links with the same addresses beyond them would be one, and the other one dead."""
        for other in self._wanted:
            for subnet in network.subnets:
                if subnets.overlap(subnet, other.subnets):
                    what = f"{subnet} of network {network.name} overlaps with network {other.name}"
                    raise InvalidState(f"connect: {what}, which the container is on")

    def _join_now(self, network: Network, aliases: Sequence[str], addresses: Sequence[str], job: Job) -> None:
        self._adopt(job)
        member = network.enroll(self, self._container, [*aliases, *self._called()], addresses)
        self._members[network] = member
        try:
            switch = network.switch(job.supervisor)
            first = not self._links

            def wire(ops: Ops) -> None:
                if first and not any(name == _FORWARDING_NAME for name, _ in self._options.sysctls):
                    ops.write(_FORWARDING, b"0")
                self._wire(ops, network, member, switch=1)

            jobs.within(job.supervisor, self._namespace.fd, wire, [switch.fd])
            network.linked(member)
        except BaseException:
            self._members.pop(network, None)
            network.discharge(self._container, keep=network in self._left)
            raise
        network.tell()

    def leave(self, network: Network) -> None:
        whole(lambda: self._leave(network))

    def _leave(self, network: Network) -> None:
        with self._lock:
            if self._options.network == network.name:
                self._want_chosen()
            if network not in self._wanted:
                raise InvalidState(f"disconnect: the container is not on network {network.name}")
            if network in self._members:
                network.unlink(self._container)
                self._members.pop(network, None)
                network.discharge(self._container, keep=True)
                self.rewrite()
            wanted = self._wanted.pop(network, None)
            if wanted is not None:
                # Else the network was removed meanwhile.
                self._left[network] = wanted

    def forget(self, network: Network) -> None:
        """The network is gone. Its lock is held, so ours must not be asked for."""
        self._wanted.pop(network, None)
        self._members.pop(network, None)
        self._left.pop(network, None)

    # Its names.

    def _known(self) -> list[Network]:
        """The networks whose members it can reach."""
        lender = self.lender
        if lender is None:
            return [*self._members]
        return lender._wiring._known() if self._shares(lender) else []

    def _shares(self, lender: Container) -> bool:
        """Whether its namespace is still the lender's, which has another one after a start."""
        return self in lender._wiring._followers

    def rewrite(self) -> None:
        """Somebody came or went. A network's lock may be held, so ours must not be asked for."""
        self.files.rewrite()
        for follower in [*self._followers]:
            follower.rewrite()

    def after_fork(self) -> None:
        """In a child of this process: the parent's ports and namespaces are not to be kept by it. Locks may
        have been another thread's."""
        publishing.close(self._listeners)
        self._listeners = []
        self._namespace.close()
        self.files.after_fork()


_all: weakref.WeakSet[Wiring] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for one in [*_all]:
        one.after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)
