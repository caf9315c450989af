"""Programs that carry a namespace's connections out through ordinary sockets: pasta(1), slirp4netns(1).

Both make a tap device in the namespace and speak TCP, UDP and IP with it themselves, so nothing of the host's
own network changes. Which of them is used is found out once per process.
"""

from __future__ import annotations

import ipaddress
import os
import threading
from collections.abc import Callable, Iterable, Iterator

import attrs

from pycontainer.errors import CapabilityUnavailable, PycontainerError
from pycontainer.network.links import Address
from pycontainer.network.subnets import Subnet, routed

LINK = "up0"
"""The tap device."""
DEVICE = "/dev/net/tun"
MAX_MTU = 65520
"""The largest that pasta takes, in bytes; slirp4netns takes one more."""

NAMESPACE_FD = 0
READY_FD = {"pasta": 1, "slirp4netns": 3}
"""What the program finds at which descriptor. Newer versions of pasta close all but the standard streams."""

_WITHOUT = "create the network with internal=True: containers reach each other, published ports and connect()"
MISSING = "a network to the outside"
REMEDY = f"install passt or slirp4netns (apt-get install passt), or {_WITHOUT} work without"

_MAC = "9a:55:9a:55:9a:55"
"""The program's own, beyond the tap; locally administered."""
_SLIRP_SUBNET_6 = ipaddress.IPv6Network("fd00::/64")
"""slirp4netns has no option for it."""
_GATEWAY, _NAMESERVER, _OWN = 2, 3, 100
"""Hosts of the subnets: where slirp4netns has them."""


@attrs.frozen
class Helper:
    """One of the programs, where it was found. `capabilities` is what it needs in the user namespace that
    the network belongs to."""

    name: str
    path: str
    capabilities: tuple[str, ...]
    arguments: Callable[[Tap], list[str]]

    def command(self, tap: Tap) -> list[str]:
        return [self.name, *self.arguments(tap)]


@attrs.frozen
class Tap:
    """The tap's own subnets, None for a family that is not carried."""

    four: ipaddress.IPv4Network | None
    six: ipaddress.IPv6Network | None
    mtu: int
    interface: str
    """The host's, from which pasta takes what nobody has told it."""

    @property
    def subnets(self) -> tuple[Subnet, ...]:
        return tuple(subnet for subnet in (self.four, self.six) if subnet is not None)

    @property
    def gateways(self) -> list[Address]:
        return [subnet[_GATEWAY] for subnet in self.subnets]

    @property
    def own(self) -> list[Address]:
        return [subnet[_OWN] for subnet in self.subnets]

    @property
    def nameservers(self) -> list[Address]:
        return [subnet[_NAMESERVER] for subnet in self.subnets]


def _pasta(tap: Tap) -> list[str]:
    # --runas 0: of the machine's root, or of the user's namespace. Without it, root would become nobody,
    # who may not enter the namespace.
    arguments = ["--foreground", "--quiet", "--runas", "0"]
    arguments += ["--netns-only", "--netns", f"/proc/self/fd/{NAMESPACE_FD}", "--no-netns-quit"]
    arguments += ["--pid", f"/proc/self/fd/{READY_FD['pasta']}"]
    arguments += ["--config-net", "--ns-ifname", LINK, "--mtu", str(tap.mtu), "--mac-addr", _MAC]
    arguments += ["--interface", tap.interface]
    # Nothing from the host in, and nothing of its loopback to the containers.
    arguments += ["-t", "none", "-u", "none", "-T", "none", "-U", "none", "--no-map-gw"]
    arguments += ["--no-dhcp", "--no-dhcpv6", "--no-ra"]
    if tap.six is None or tap.four is None:
        arguments.append("--ipv4-only" if tap.six is None else "--ipv6-only")
    if tap.four is not None:
        arguments += ["--netmask", str(tap.four.prefixlen)]
    for own, gateway, server in zip(tap.own, tap.gateways, tap.nameservers, strict=True):
        arguments += ["--address", str(own), "--gateway", str(gateway), "--dns-forward", str(server)]
    return arguments


def _slirp4netns(tap: Tap) -> list[str]:
    arguments = ["--configure", f"--mtu={tap.mtu}", "--disable-host-loopback"]
    arguments += ["--enable-sandbox", "--enable-seccomp", f"--ready-fd={READY_FD['slirp4netns']}"]
    if tap.four is not None:
        arguments.append(f"--cidr={tap.four}")
    if tap.six is not None:
        arguments.append("--enable-ipv6")
    return [*arguments, "--netns-type=path", f"/proc/self/fd/{NAMESPACE_FD}", LINK]


_KINDS = {
    # It gives all but NET_BIND_SERVICE up, for which it needs SETPCAP.
    "slirp4netns": (("SYS_ADMIN", "NET_ADMIN", "SETPCAP", "NET_BIND_SERVICE"), _slirp4netns),
    "pasta": (("SYS_ADMIN", "NET_ADMIN"), _pasta),
}
"""The better first. Measured between two namespaces (kernel 6.18, pasta of 2023 and of 2025): slirp4netns is
there in 20 ms instead of 40 and carries 170 MB/s either way; with pasta, what a container sends stands
still for seconds now and then, and root's keeps CAP_SYS_ADMIN."""

_lock = threading.Lock()
_works: set[str] = set()
_failed: dict[str, str] = {}
"""Helpers that did work here once, and those that never did, and why."""


def choose() -> Helper:
    """The one that this process uses: slirp4netns where it is installed and works, else pasta. Raises
    CapabilityUnavailable."""
    with _lock:
        usable = [found for found in installed() if found.name not in _failed]
        for found in usable:
            if found.name in _works:
                return found
        if usable:
            return usable[0]
        why = "".join(f"; {name}: {reason}" for name, reason in _failed.items())
    raise CapabilityUnavailable(MISSING + why, remedy=REMEDY)


def worked(helper: Helper) -> None:
    """To be told of every one that worked: from then on it is the one."""
    with _lock:
        _works.add(helper.name)


def failed(helper: Helper, error: PycontainerError) -> bool:
    """To be told of one that did not work: whether another one shall be tried instead. Not when this one
    did work before, since then it is not the helper that is to blame."""
    with _lock:
        if helper.name in _works or all(found.name in (*_failed, helper.name) for found in installed()):
            return False
        _failed[helper.name] = str(error)
        return True


def installed() -> Iterator[Helper]:
    """Those on this machine, the better first."""
    for name, (capabilities, arguments) in _KINDS.items():
        path = _find(name)
        if path is not None:
            yield Helper(name, path, capabilities, arguments)


def _find(name: str) -> str | None:
    """Along PATH, but nowhere that depends on the working directory."""
    for directory in os.environ.get("PATH", os.defpath).split(os.pathsep):
        path = os.path.join(directory, name)
        if os.path.isabs(directory) and os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    return None


@attrs.frozen
class Finding:
    """What a table of this host says about one of the helpers."""

    name: str
    path: str | None
    problem: str | None
    """Why it is not used; None for the one that is."""


def findings() -> list[Finding]:
    """Both, the better first. Starts nothing; what did not work here before is known."""
    paths = {helper.name: helper.path for helper in installed()}
    try:
        used = choose().name
    except CapabilityUnavailable:
        used = None
    found = []
    for name in _KINDS:
        if name not in paths:
            problem: str | None = "not installed"
        else:
            unused = None if name == used else "not needed: the other one is used"
            problem = _failed.get(name) or device_problem() or unused
        found.append(Finding(name, paths.get(name), problem))
    return found


def device_problem() -> str | None:
    """Why no tap device can be made here; None where that can be."""
    if not os.path.exists(DEVICE):
        return f"there is no {DEVICE}"
    if not os.access(DEVICE, os.R_OK | os.W_OK, effective_ids=True):
        return f"{DEVICE} may not be opened by this user"
    return None


def need_device() -> None:
    """Raises CapabilityUnavailable where `device_problem` has something to say."""
    problem = device_problem()
    if problem is not None:
        way = f"sudo chmod 0666 {DEVICE}" if os.path.exists(DEVICE) else "sudo modprobe tun"
        raise CapabilityUnavailable(f"{MISSING}: {problem}", remedy=f"run: {way}; or {_WITHOUT} work without")


def tap(helper: Helper, *, ipv4: bool, ipv6: bool, mtu: int | None, avoid: Iterable[Subnet] = ()) -> Tap:
    """Subnets for the tap that are in nobody's way: not in that of `avoid`, nor of this process's routes.

    IPv6 is carried where this process has a route out for it. Raises CapabilityUnavailable where nothing
    else was asked for.
    """
    interface = ipv6_interface() if ipv6 else None
    if interface is None and not ipv4:
        raise CapabilityUnavailable(
            f"{MISSING}: no default route for IPv6",
            remedy="give the network an IPv4 subnet, too, or create it with internal=True",
        )
    slirp = helper.name == "slirp4netns"
    four = _link_local([*avoid, *routed()]) if ipv4 or slirp else None
    if interface is None:
        six = None
    else:
        six = _SLIRP_SUBNET_6 if slirp else ipaddress.IPv6Network((b"\xfd" + os.urandom(7) + bytes(8), 64))
    # lo is always there: pasta then works on hosts that have no way out yet, or another one later.
    return Tap(four, six, mtu or MAX_MTU, interface or "lo")


def _link_local(taken: list[Subnet]) -> ipaddress.IPv4Network:
    """A part of 169.254.0.0/16 (RFC 3927). Wider routes are no matter: what lies in this part is hidden from
    the containers, and from nobody else."""
    parts = list(ipaddress.IPv4Network("169.254.0.0/16").subnets(new_prefix=24))
    # Not the first and the last, which are reserved, and not that with the machines' own data on clouds.
    free = [part for part in parts[1:-1] if part.network_address.packed[2] != 169]
    start = os.urandom(1)[0]
    for part in (*free[start:], *free[:start]):
        if not any(other.version == 4 and other.prefixlen > 16 and other.overlaps(part) for other in taken):
            return part
    raise CapabilityUnavailable(f"{MISSING}: no free subnet in 169.254.0.0/16")


def ipv6_interface() -> str | None:
    """That of this process's default route for IPv6: proc_pid_net(5), ipv6_route. None without one."""
    try:
        with open("/proc/self/net/ipv6_route", encoding="ascii") as routes:
            lines = [line.split() for line in routes]
    except FileNotFoundError:
        return None
    found = [
        (int(fields[5], 16), fields[9])
        for fields in lines
        if fields[0] == "0" * 32 and fields[1] == "00" and not int(fields[8], 16) & _RTF_REJECT
    ]
    return min(found)[1] if found else None


_RTF_REJECT = 0x0200


def resolvers() -> set[int]:
    """The families, 4 and 6, of which this host has name servers: resolv.conf(5)."""
    found = set()
    try:
        with open("/etc/resolv.conf", encoding="utf-8", errors="replace") as file:
            lines = file.read(_MAX_RESOLV_CONF).splitlines()
    except OSError:
        return set()
    for line in lines:
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver":
            found.add(6 if ":" in words[1] else 4)
    return found


_MAX_RESOLV_CONF = 65536
