"""What containers changed in what they were made from."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING, Literal

import attrs

from pycontainer import session
from pycontainer.layer import changes
from pycontainer.layer.changes import Finding
from pycontainer.layer.diff import CLONE_NEWNS
from pycontainer.snapshot import overlay
from pycontainer.supervisor import client
from pycontainer.supervisor.plan import MS_PRIVATE, Ops
from pycontainer.writable import DiskLayer, MemoryLayer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pycontainer.writable import WritableLayer

Kind = Literal["added", "modified", "deleted"]


@attrs.frozen(order=True)
class Change:
    """One file or directory that a container changed; `path` is the container's, absolute.

    A directory is "modified" where its owner, mode or time changed, or something in it was added or
    deleted. What is in a deleted directory is not listed.
    """

    kind: Kind = attrs.field(order=False)
    path: str

    def __repr__(self) -> str:
        return f"Change({self.kind!r}, {self.path!r})"


@attrs.frozen
class Changes:
    """A layer's changes, sorted by path, and what else is in it: paths below the layer's directory of
    what is only there because the container was set up, or something in it was looked at for
    writing."""

    changes: tuple[Change, ...]
    set_up: tuple[str, ...]


def of_layer(layer: WritableLayer) -> Changes:
    """What is in a layer, against what it stands on. Raises ImageError, InvalidImage and LaunchError."""
    if isinstance(layer, DiskLayer):
        return on_disk(layer.upper, (*layer.stack, *layer.root.lower))
    return _in_memory(layer)


def on_disk(upper: str, lower: Sequence[str]) -> Changes:
    """What is in a layer's directory, against the trees below it, topmost first."""

    def mounts(ops: Ops) -> None:
        ops.unshare(CLONE_NEWNS)
        ops.propagation(MS_PRIVATE)
        overlay.merged(ops, lower, userxattr=client.default().rootless)

    return _sorted_out([*changes.of_upper(upper, mounts)])


def _in_memory(layer: MemoryLayer) -> Changes:
    if layer.namespace < 0:
        # Nothing was ever written to it, nor is it there.
        return Changes((), ())
    supervisor = client.default()
    view = overlay.host_view((session.current().store.path,), whole=not supervisor.rootless)
    base = layer.place.base

    def mounts(ops: Ops) -> None:
        # A copy, which goes with the child, of the namespace that has the layer.
        ops.join_fd(1, CLONE_NEWNS)
        ops.unshare(CLONE_NEWNS)
        overlay.merged_host(ops, view, base, layer.place.below, userxattr=supervisor.rootless)

    def top(ops: Ops) -> None:
        ops.join_fd(1, CLONE_NEWNS)
        ops.unshare(CLONE_NEWNS)
        overlay.merged_top(ops, base, layer.place.below, userxattr=supervisor.rootless)

    found = [*changes.of_upper(f"{base}/upper", mounts, [layer.namespace])]
    if view.parts is None:
        return _sorted_out(found)
    found += changes.of_upper(overlay.top_of(base, layer.place.below), top, [layer.namespace])
    return _sorted_out(found, overlay.made_at_top(view))


def _sorted_out(found: Sequence[tuple[Finding, str]], parts: Sequence[str] = ()) -> Changes:
    """Tells changes from what the runtime made. `parts` are the names at the top that it made itself:
    with overlays of their own, or links."""
    kept: list[Change] = []
    set_up: list[str] = []
    inside: set[str] = set()
    """Directories with a change somewhere in them."""
    members: set[str] = set()
    """Directories that something was put into or taken out of."""
    furnished: set[str] = set()
    """Directories into which the runtime put something."""
    # What is in a directory before it.
    for finding, path in reversed(found):
        parent = posixpath.dirname(path)
        if (finding == "T" and path in furnished) or path in parts:
            finding = "="
        kind = _kind(finding, has_changes=path in inside, has_members=path in members)
        if kind is not None:
            kept.append(Change(kind, f"/{path}"))
            if kind != "modified":
                members.add(parent)
        elif path not in inside:
            set_up.append(path)
            if finding == "a":
                furnished.add(parent)
        if kind is not None or path in inside:
            inside.add(parent)
    return Changes(tuple(sorted(kept)), tuple(reversed(set_up)))


def _kind(finding: Finding, *, has_changes: bool, has_members: bool) -> Kind | None:
    """`has_changes`: the directory has some in it; `has_members`: of those, some are additions or
    deletions."""
    if finding == "A" or (finding == "a" and has_changes):
        return "added"
    if finding == "D":
        return "deleted"
    if finding in ("M", "C", "T") or (finding == "=" and has_members):
        return "modified"
    return None
