"""What one container has of the network: its namespace, its links and its ports, from a start to its end.

A container with `network="none"` and no ports needs none of it: its namespace is made with it. The others'
is made beforehand by a child of the supervisor, with everything in it, and joined.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from pycontainer import naming, network_options, publishing
from pycontainer.errors import InvalidOption, InvalidState, LaunchError, SupervisorError
from pycontainer.minding import minder
from pycontainer.network import jobs
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
_FIRST_INDEX = 100
"""Of a container's links: a new namespace has a few of the kernel's own."""


class Wiring:
    """Used by one container, or by one `run`; safe from any thread."""

    def __init__(self, options: Options, container: str) -> None:
        self._options = options
        self._container = container
        self._lock = threading.RLock()
        self._starts = 0
        self._wanted: dict[Network, tuple[Sequence[str], Sequence[str]]] = {}
        """Networks that it joins at a start, with its aliases and addresses there."""
        self._left: set[Network] = set()
        """Those that keep for it what it had."""
        self._members: dict[Network, Member] = {}
        self._links = 0
        self._supervisor: Supervisor | None = None
        self._namespace = -1
        self._listeners: list[Listener] = []
        self._forwarder: Forwarder | None = None
        self._followers: set[Wiring] = set()
        """Those that share its namespace: they know whom it knows."""
        self._hostname = ""
        self.hosts_network = network_options.is_hosts(options.network)
        """Whether it has the host's network, so that there is nothing to do here."""
        self.files = naming.Files(options, self._known, hosts_network=self.hosts_network)

    @property
    def lender(self) -> Container | None:
        """Whose namespace it shares."""
        return None if self.hosts_network else network_options.lender(self._options.network)

    @property
    def ports(self) -> Ports:
        """What the host has of its ports while it runs."""
        with self._lock:
            return publishing.given(self._listeners)

    @property
    def addresses(self) -> dict[str, tuple[str, ...]]:
        """Its addresses while it runs, by the names of its networks."""
        lender = self.lender
        if lender is not None:
            return lender._wiring.addresses
        members = [*self._members.items()]
        return {network.name: tuple(map(str, member.addresses)) for network, member in members}

    # From a start to its end.

    def begin(self, supervisor: Supervisor, hostname: str) -> plan.Network:
        """Makes what a start needs. Raises PortInUse, LaunchError, and what `Network` does; nothing of it is
        left then."""
        alone = self._options.network == "none" and not self._wanted and not self._options.ports
        if alone or self.hosts_network:
            return plan.Network(self.files.contents(hostname, (), ()))
        with self._lock:
            self._end()
            self._starts += 1
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
        own = [one for found in self.addresses.values() for one in found]
        servers = [one for network in self._known() for one in network.nameservers]
        follows = bool(self._members) or lender is not None
        descriptors = [self._namespace] if self._namespace >= 0 else []
        if follows:
            descriptors.append(self.files.expect())
        contents = self.files.contents(self._hostname, own, servers)
        return plan.Network(contents, tuple(descriptors), gives=follows)

    def started(self, job: Job) -> None:
        """The program that `begin` was called for runs; what was made for it ends with it."""
        self._on_end_of(job)
        self.files.rewrite()

    def _on_end_of(self, job: Job) -> None:
        if self._namespace < 0:
            return
        start = self._starts

        def end() -> None:
            with self._lock:
                if self._starts == start:
                    self._end()

        # Whoever finds out calls it before going on; the minder is there where nobody waits.
        job.on_end(end)
        minder().after_end(job, lambda: None)

    def end(self) -> None:
        """Gives up what was made for the last start."""
        with self._lock:
            self._end()

    def close(self) -> None:
        """The container is removed: nothing is kept for it."""
        with self._lock:
            self._end()
            for network in self._left:
                network.discharge(self._container)
            self._left.clear()
            self._wanted.clear()

    def _end(self) -> None:
        forwarder, self._forwarder = self._forwarder, None
        if forwarder is not None:
            forwarder.close()
        publishing.close(self._listeners)
        self._listeners = []
        members, self._members = self._members, {}
        for network in members:
            # Where the supervisor has died there is nothing to take down.
            with suppress(SupervisorError, LaunchError):
                network.discharge(self._container)
        lender = self.lender
        if lender is not None:
            lender._wiring._followers.discard(self)
        self.files.close()
        self._namespace = jobs.close(self._namespace)
        self._links = 0

    def _enroll(self) -> None:
        chosen = network_options.chosen(self._options.network)
        if chosen is not None:
            self._wanted.setdefault(chosen, (self._options.aliases, self._options.ip_address))
        for network, (aliases, wanted) in self._wanted.items():
            self._members[network] = network.enroll(
                self, self._container, [*aliases, *self._called()], wanted
            )
            self._left.discard(network)

    def _called(self) -> list[str]:
        name = self._options.name
        return [*([] if name is None else [name]), self._hostname, self._container[:12]]

    def _make_namespace(self, supervisor: Supervisor) -> None:
        members = [*self._members.items()]
        switches = [network.switch_fd(supervisor) for network, _ in members]

        def wire(ops: Ops) -> None:
            for number, (network, member) in enumerate(members):
                self._wire(ops, network, member, switch=number)

        self._namespace = jobs.new_namespace(supervisor, wire, switches)
        for network, member in members:
            network.linked(member)
            network.tell()

    def _wire(self, ops: Ops, network: Network, member: Member, *, switch: int) -> None:
        number, self._links = self._links, self._links + 1
        # What is for nobody's subnet goes to the first network that leads out.
        first = next((one for one in self._members if one.gateways), network)
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
            self._forwarder = Forwarder(self._supervisor, namespace=self._namespace)
        own = [one for found in self.addresses.values() for one in found]
        # A server may listen at its address alone, or at the loopback's alone.
        targets = [*own, *_LOOPBACKS][:_MAX_TARGETS]
        for one, port in listeners:
            self._forwarder.add(one, port.number, targets, protocol=port.protocol)

    # Its networks while it runs.

    @property
    def namespace(self) -> int:
        """The descriptor of its network namespace, or -1 where nobody needed it yet."""
        return self._namespace

    def _adopt(self, job: Job) -> None:
        """Its namespace was made with the container, and is needed now."""
        if self._namespace < 0:
            self._supervisor = job.supervisor
            self._namespace = jobs.namespace_of(job)
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
        with self._lock:
            if network in self._wanted:
                raise InvalidState(f"connect: the container is on network {network.name} already")
            self._wanted[network] = (aliases, addresses)
            if job is None:
                return
            try:
                self._hostname = hostname
                self._join_now(network, aliases, addresses, job)
            except BaseException:
                del self._wanted[network]
                raise

    def _join_now(self, network: Network, aliases: Sequence[str], addresses: Sequence[str], job: Job) -> None:
        self._adopt(job)
        member = network.enroll(self, self._container, [*aliases, *self._called()], addresses)
        self._members[network] = member
        try:
            switch = network.switch_fd(job.supervisor)
            jobs.within(
                job.supervisor,
                self._namespace,
                lambda ops: self._wire(ops, network, member, switch=1),
                [switch],
            )
        except BaseException:
            del self._members[network]
            network.discharge(self._container)
            raise
        self._left.discard(network)
        network.linked(member)
        network.tell()

    def leave(self, network: Network) -> None:
        with self._lock:
            if network not in self._wanted:
                raise InvalidState(f"disconnect: the container is not on network {network.name}")
            del self._wanted[network]
            if self._members.pop(network, None) is not None:
                network.unlink(self._container)
                network.discharge(self._container, keep=True)
                self._left.add(network)
                self.rewrite()

    def forget(self, network: Network) -> None:
        """The network is gone. Its lock is held, so ours must not be asked for."""
        self._wanted.pop(network, None)
        self._members.pop(network, None)
        self._left.discard(network)

    # Its names.

    def _known(self) -> list[Network]:
        """The networks whose members it can reach."""
        lender = self.lender
        return [*self._members] if lender is None else lender._wiring._known()

    def rewrite(self) -> None:
        """Somebody came or went. A network's lock may be held, so ours must not be asked for."""
        self.files.rewrite()
        for follower in [*self._followers]:
            follower.files.rewrite()
