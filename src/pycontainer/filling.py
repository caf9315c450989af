"""What containers use of volumes: noted while they are there, and filled from the image at first."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import attrs

from pycontainer import session
from pycontainer.blobs.failures import store_errors, translate
from pycontainer.layer.apply import apply
from pycontainer.layer.diff import TreeStream
from pycontainer.mounts import Mount, VolumeMount
from pycontainer.runtime import plan
from pycontainer.snapshot import overlay
from pycontainer.store import HostRoot, Store
from pycontainer.store.volumes import MAKING, User, Volumes
from pycontainer.supervisor import client
from pycontainer.supervisor.plan import Ops
from pycontainer.supervisor.served import Served

if TYPE_CHECKING:
    from pycontainer.store import RootFS
    from pycontainer.supervisor.served import Status

_NOTHING_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV)


@attrs.define
class Used:
    """The volumes that one container uses, until `release`."""

    _user: User
    _entered: list[tuple[Volumes, str]] = attrs.field(factory=list)

    def release(self) -> None:
        """Raises StoreError."""
        while self._entered:
            volumes, name = self._entered.pop()
            volumes.leave(name, self._user)

    def _enter(self, volumes: Volumes, name: str) -> None:
        group = volumes.store.own_containers()
        session.current().answer_for(group.path)
        self._entered.append((volumes, name))
        volumes.enter(name, self._user, group.path)


def use(
    mounts: Sequence[Mount], root: RootFS, lower: Sequence[str], container: str, name: str | None
) -> Used:
    """Notes that a container uses the volumes among `mounts`, and fills those that are empty with what its
    image has there: the layers `lower`, topmost first, or the host image.

    Raises StoreError where one is not there, NoSpace, and what reading and unpacking a tree raises.
    """
    used = Used(User(container, name))
    try:
        for mount in mounts:
            if isinstance(mount, VolumeMount):
                _use(used, mount, root, lower)
    except BaseException:
        used.release()
        raise
    return used


def _use(used: Used, mount: VolumeMount, root: RootFS, lower: Sequence[str]) -> None:
    volumes = Volumes(_store_of(mount))
    with volumes.locked(mount.name):
        fills = not mount.nocopy and _is_empty(mount.source) and not volumes.users(mount.name)
        used._enter(volumes, mount.name)
        if fills:
            _fill(volumes, mount, root, lower)


def _store_of(mount: VolumeMount) -> Store:
    path = os.path.dirname(os.path.dirname(mount.directory))
    default = Store.default()
    return default if default.path == path else Store(path)


def _is_empty(directory: str) -> bool:
    """A directory that an ordinary user may not read has another owner by now: a container's."""
    with store_errors("listing", directory):
        try:
            with os.scandir(directory) as entries:
                return next(entries, None) is None
        except PermissionError:
            return False


def _fill(volumes: Volumes, mount: VolumeMount, root: RootFS, lower: Sequence[str]) -> None:
    """The copy takes the place of the empty directory when it is complete: nobody sees half of it."""
    supervisor = client.default()
    host = None
    if isinstance(root, HostRoot):
        if supervisor.rootless:
            # Most of it this user may not read, or has no ids for.
            return
        # The store stays out of sight there, as for containers.
        host = overlay.host_view((session.current().store.path,), whole=not supervisor.rootless)

    def image(ops: Ops) -> None:
        plan.image_files(ops, host, lower, userxattr=supervisor.rootless)

    looks = _looks(supervisor, image, mount.dst)
    if looks is None:
        return
    with volumes.workshop() as workshop:
        copy = f"{workshop}/data"
        with store_errors("making", copy):
            os.mkdir(copy, 0o700)
        stream = TreeStream(f"the image's {mount.dst}", mounts=image, below=mount.dst, kind="merged")
        apply(stream.chunks(), copy, volumes.store.limits.within(workshop))
        # By the supervisor, since the owner may be another one than this user.
        served = Served(supervisor, lambda ops: ops.root(volumes.root))
        here = f"/{MAKING}/{os.path.basename(workshop)}/data"
        try:
            served.chown(here, looks.uid, looks.gid)
            served.chmod(here, stat.S_IMODE(looks.mode))
            served.rename(here, f"/{mount.name}/data")
        except OSError as error:
            raise translate(error, "filling", volumes.path(mount.name)) from error
        finally:
            served.close()


def _looks(supervisor: client.Supervisor, image: Callable[[Ops], None], path: str) -> Status | None:
    """Owner and mode of the image's directory; None where it has none."""

    def prepare(ops: Ops) -> None:
        ops.unshare(plan.CLONE_NEWNS)
        image(ops)

    served = Served(supervisor, prepare)
    try:
        found = served.stat(path)
    except OSError as error:
        if error.errno in _NOTHING_THERE:
            return None
        raise translate(error, "looking for", path) from error
    finally:
        served.close()
    return found if stat.S_ISDIR(found.mode) else None
