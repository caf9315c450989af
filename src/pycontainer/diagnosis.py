"""`doctor()`: what this host allows, with a remedy for whatever it does not.

Most checks only look at files of /proc, /etc and the store's file system (`host_checks`); the last
ones try a user namespace, a network and a container for real, which leave nothing behind.
"""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs

from pycontainer.errors import PycontainerError

if TYPE_CHECKING:
    from pycontainer.store import Store
    from pycontainer.supervisor.plan import Ops

_INDEX = 100
"""Of links: a new network namespace has a few of the kernel's own."""


@attrs.frozen
class Check:
    """One fact about this host.

    `ok` says whether it is as containers want it, `detail` what was found, `remedy` what would
    help (None where `ok`). Without a `needed` one, containers run, but not with every option.
    """

    name: str
    ok: bool
    detail: str
    remedy: str | None = None
    needed: bool = True

    @property
    def mark(self) -> str:
        """`ok`, `no` for something that only some options need, `NO` for something all need."""
        if self.ok:
            return "ok"
        return "NO" if self.needed else "no"


@attrs.frozen(repr=False)
class Report:
    """What `doctor()` found. `str()` is a table; a notebook shows it as one, too."""

    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether containers can run here: everything that is needed is there."""
        return all(check.ok for check in self.checks if check.needed)

    @property
    def summary(self) -> str:
        missing = [check.name for check in self.checks if not check.ok]
        if not self.ok:
            names = ", ".join(check.name for check in self.checks if check.needed and not check.ok)
            return f"containers cannot run here yet: {names}"
        return "containers run here" + (f"; not available: {', '.join(missing)}" if missing else "")

    def __str__(self) -> str:
        width = max((len(check.name) for check in self.checks), default=0)
        lines = []
        for check in self.checks:
            lines.append(f"{check.mark}  {check.name:<{width}}  {check.detail}".rstrip())
            if check.remedy:
                lines.append(f"{'':{width + 6}}-> {check.remedy}")
        return "\n".join([*lines, "", self.summary])

    def __repr__(self) -> str:
        good = sum(check.ok for check in self.checks)
        return f"Report(ok={self.ok}, {good} of {len(self.checks)} checks good)"

    def _repr_html_(self) -> str:
        rows = []
        for check in self.checks:
            detail = html.escape(check.detail)
            if check.remedy:
                detail += f"<br>&rarr; {html.escape(check.remedy)}"
            rows.append(f"<tr><td>{check.mark}</td><td>{html.escape(check.name)}</td><td>{detail}</td></tr>")
        return f"<table>{''.join(rows)}</table><p>{html.escape(self.summary)}</p>"


def doctor(*, store: Store | None = None) -> Report:
    """What this host allows: kernel, namespaces, overlay, control groups, identities, seccomp, `store` (the
    default one) and networks; and whether a container of the host image really runs."""
    from pycontainer.host_checks import HostView, NetworkProbe, run_checks

    networks = NetworkProbe(_try_links, _try_masquerading)
    host = HostView() if store is None else HostView(store=store.path)
    return Report((*run_checks(host, _try_user_namespace, networks), _try_container()))


def _try_user_namespace() -> str | None:
    """Enters one with a supervisor of its own; gives what went wrong."""
    from pycontainer.supervisor.client import Supervisor

    try:
        Supervisor(rootless=True).close()
    except PycontainerError as error:
        return str(error)
    return None


def _try_links() -> None:
    """What a network with one container on it consists of."""
    from pycontainer.network import links

    bridge = links.bridge("br0", _INDEX, mtu=None)
    pair, _ = links.veth(
        "v1",
        _INDEX + 1,
        master=_INDEX,
        peer="eth0",
        peer_index=_INDEX + 2,
        peer_mac=b"",
        mtu=None,
        elsewhere=False,
    )

    def make(ops: Ops) -> None:
        ops.netlink(bridge, "a bridge")
        ops.netlink(pair, "a pair of links (veth)")

    _in_a_namespace(make)


def _try_masquerading() -> None:
    """The rules of a network that reaches the outside."""
    from pycontainer.network import masquerade
    from pycontainer.network.netlink import NETFILTER

    rules = masquerade.rules("br0", "up0", subnets=(), nameservers=())
    _in_a_namespace(lambda ops: ops.netlink(rules, "rules of nf_tables", protocol=NETFILTER))


def _in_a_namespace(prepare: Callable[[Ops], None]) -> None:
    """In a network namespace that ends with the child that makes it. Raises PycontainerError."""
    from pycontainer import session
    from pycontainer.network import jobs

    def make(ops: Ops) -> None:
        ops.network()
        prepare(ops)

    jobs.work(session.current().supervisor, make)


def _try_container() -> Check:
    from pycontainer.runner import run

    name = "a container"
    try:
        result = run("host", ["true"], timeout=30.0)
    except PycontainerError as error:
        return Check(name, False, str(error), "the checks above say what is missing")
    if result.returncode != 0:
        return Check(
            name, False, f"`true` on the host image ended with {result.returncode}", "see the checks above"
        )
    return Check(name, True, f"`true` on the host image ran in {result.usage.wall * 1e3:.1f} ms")
