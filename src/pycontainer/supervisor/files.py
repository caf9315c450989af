"""Trees whose files may belong to ids that only the supervisor can act for."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pycontainer.errors import (
    ImageError,
    InvalidImage,
    LaunchError,
    NoSpace,
    PycontainerError,
    StoreError,
    UnsafeLayer,
)
from pycontainer.supervisor import client, failure, plan

if TYPE_CHECKING:
    from pycontainer._sys import Record

_SINGLE_ID = 1
_USERXATTR = 2
"""enum pctr_layer_flags (layer.h)."""

# enum pctr_layer_code (layer.h): what went wrong, and whose fault that is.
_LAYER_TOO_BIG = 6
_LAYER_FAILURES: dict[int, tuple[type[PycontainerError], str]] = {
    2: (StoreError, "a system call failed"),
    3: (InvalidImage, "the archive is malformed or cut short"),
    4: (UnsafeLayer, "the entry tries to reach where it must not"),
    5: (InvalidImage, "the entry is of a kind that is not supported"),
    _LAYER_TOO_BIG: (UnsafeLayer, "the layer holds more bytes than allowed"),
    7: (UnsafeLayer, "the layer holds more entries than allowed"),
    8: (UnsafeLayer, "a name, header or attribute is longer than allowed"),
    9: (NoSpace, "the store's file system is full"),
    10: (InvalidImage, "the entry's owner has no place in this user's range of ids"),
    11: (StoreError, "the kernel refuses"),
}

_TAR_UPPER = 1
_TAR_USERXATTR = 2
_TAR_NEWEST = 4
_TAR_MERGED = 8
"""enum pctr_tar_write_flags (tar_write.h)."""

_CHANGES_USERXATTR = 1
"""enum pctr_changes_flags (changes.h)."""

Tree = Literal["plain", "upper", "merged"]
"""What is written: any directory, overlay's upper one as a changeset, or a mounted overlay."""

NEWEST = struct.Struct("=q")
"""What follows the archive: the latest time in it, in seconds, or NO_ENTRY."""
NO_ENTRY = -(1 << 63)

# enum pctr_tar_write_code (tar_write.h): those that no errno explains.
_TAR_READ = 1
_TAR_FAILURES: dict[int, tuple[type[PycontainerError], str]] = {
    2: (ImageError, "changed while it was being read"),
    3: (InvalidImage, "in a layer, a name with .wh. deletes another file"),
    4: (InvalidImage, "has an attribute with '=' in its name, which tar cannot hold"),
    5: (InvalidImage, "its path or its attributes are longer than a layer may have them"),
    6: (ImageError, "there are more names than there is memory for"),
    7: (ImageError, "part of it lies in a lower layer (overlay's redirect or metacopy)"),
    8: (ImageError, "the archive cannot be written"),
}


def apply_layer(
    fd: int,
    directory: str,
    *,
    max_bytes: int,
    max_entries: int,
    scarce: bool = False,
    notes: str | None = None,
) -> None:
    """Unpack the uncompressed tar stream `fd` into the new, empty `directory` (image-spec, layer.md).

    `scarce`: `max_bytes` is what is free, and more than that `NoSpace`, not `UnsafeLayer`.
    `notes` is the path of a file that is made where something remains to be settled with the layers
    below it, by `adopt_looks`; layer.h says what it holds. Raises `InvalidImage` and `UnsafeLayer`
    naming the entry, `NoSpace` and `StoreError`. The directory then holds part of the layer; the
    caller removes it.
    """
    supervisor = client.default()
    ops = plan.Ops(plan.Data())
    ops.apply_layer(
        0,
        directory,
        notes=notes or "",
        flags=_layer_flags(supervisor),
        max_bytes=max_bytes,
        max_entries=max_entries,
    )
    record = supervisor.work(plan.encode(ops.data, setup=ops.encode()), [fd])
    if record.kind == client.RECORD["FAILED"]:
        if scarce and record.code == _LAYER_TOO_BIG:
            raise NoSpace(f"{record.detail}: more than may be filled of the store's file system")
        raise _layer_error(record, directory, supervisor.rootless)
    _check_ended(record, f"unpacking a layer into {directory}")


def adopt_looks(notes: str, directory: str, lower: Sequence[str]) -> None:
    """Give the directories that the layer in `directory` implies owner, mode, time and attributes of
    those that the layers below show, topmost first in `lower`.

    Raises `UnsafeLayer` where that would take hours, `StoreError` and `LaunchError`.
    """
    supervisor = client.default()
    ops = plan.Ops(plan.Data())
    ops.adopt_looks(notes, directory, lower, flags=_layer_flags(supervisor))
    record = supervisor.work(plan.encode(ops.data, setup=ops.encode()))
    if record.kind == client.RECORD["FAILED"]:
        raise _layer_error(record, directory, supervisor.rootless)
    _check_ended(record, f"completing a layer in {directory}")


def unmount(path: str, *directories: str) -> None:
    """Unmount what is at `path`, if anything, and remove the empty `directories`. Raises `LaunchError`."""
    supervisor = client.default()
    ops = plan.Ops(plan.Data())
    ops.unmount(path)
    for directory in directories:
        ops.rmdir(directory)
    record = supervisor.work(plan.encode(ops.data, setup=ops.encode()))
    if record.kind == client.RECORD["FAILED"]:
        raise failure.launch_error(record, rootless=supervisor.rootless)
    _check_ended(record, f"unmounting {path}")


def remove_tree(path: str) -> None:
    """Remove a directory tree, whoever owns what is in it; one that is not there is success.

    Raises `StoreError` naming the path that could not be removed.
    """
    parent, name = os.path.split(os.path.abspath(path))
    ops = plan.Ops(plan.Data())
    ops.remove_tree(parent, name)
    record = client.default().work(plan.encode(ops.data, setup=ops.encode()))
    if record.kind == client.RECORD["FAILED"]:
        where = os.path.join(path, record.detail) if record.detail else path
        raise StoreError(f"removing {where}: {errno.errorcode.get(record.error, record.error)}")
    _check_ended(record, f"removing {path}")


def _layer_flags(supervisor: client.Supervisor) -> int:
    flags = _USERXATTR if supervisor.rootless else 0
    if supervisor.idmap is not None and not supervisor.idmap.many:
        flags |= _SINGLE_ID
    return flags


def tar_flags(kind: Tree) -> int:
    """Of a WRITE_TAR that is followed by NEWEST."""
    flags = _TAR_NEWEST | {"plain": 0, "upper": _TAR_UPPER, "merged": _TAR_MERGED}[kind]
    return flags | (_TAR_USERXATTR if client.default().rootless else 0)


def changes_flags() -> int:
    """Of a WRITE_CHANGES."""
    return _CHANGES_USERXATTR if client.default().rootless else 0


def start(ops: plan.Ops, fds: Sequence[int], *, target: int = 0) -> client.Job:
    """Begin `ops` in a child that does nothing else; the descriptors stay the caller's. `target` is the
    job whose mount namespace they join."""
    flags = client.START["WORK"] | (client.START["OUTSIDE"] if target else 0)
    encoded = plan.encode(ops.data, setup=ops.encode())
    return client.default().start(encoded, fds=fds, flags=flags, target=target)


def check_tar(record: Record, name: str) -> None:
    """How a job ended that wrote the tree `name` as an archive.

    Raises ImageError and InvalidImage naming the file, and LaunchError.
    """
    if record.kind == client.RECORD["FAILED"]:
        raise _tar_error(record, name)
    _check_ended(record, f"archiving {name}")


def _tar_error(record: Record, name: str) -> PycontainerError:
    below = record.detail.lstrip("/")
    path = os.path.join(name, below) if below else name
    if record.code in _TAR_FAILURES:
        kind, what = _TAR_FAILURES[record.code]
        return kind(f"{path}: {what}")
    if record.code != _TAR_READ:
        return failure.launch_error(record, rootless=client.default().rootless)
    if record.error == errno.ENOENT and below:
        return ImageError(f"{path}: vanished while it was being read")
    return ImageError(f"{path}: cannot be read: {errno.errorcode.get(record.error, record.error)}")


def _layer_error(record: Record, directory: str, rootless: bool) -> PycontainerError:
    found = _LAYER_FAILURES.get(record.code)
    if found is None:
        return failure.launch_error(record, rootless=rootless)
    kind, what = found
    system = f" ({errno.errorcode.get(record.error, record.error)})"
    return kind(f"{record.detail or directory}: {what}{system if record.error != errno.EBADMSG else ''}")


def _check_ended(record: Record, what: str) -> None:
    """A child that was killed has done part of its work."""
    if record.status != 0:
        raise LaunchError(
            f"{what}: the supervisor's child ended with {os.waitstatus_to_exitcode(record.status)}"
        )
