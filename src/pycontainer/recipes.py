"""What is the same for all containers of a kind that `run` throws away: decided once, for nobody, and given
to each by its name.

A plan names its container in many places (control groups, directories, host name), always by the same 32
digits, or the first 12 of them. So it is made for an id that nobody has nor knows, and for each container
that is replaced, which moves nothing.
"""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from pycontainer import _sys, execution, launch
from pycontainer.execution import Decided, Request
from pycontainer.mounts import VolumeMount
from pycontainer.runtime import plan
from pycontainer.wiring import Wiring

if TYPE_CHECKING:
    from pycontainer.image import Image
    from pycontainer.oci.config import ImageConfig
    from pycontainer.options import Options
    from pycontainer.runtime.user import Identity
    from pycontainer.session import Session
    from pycontainer.store import LayeredRoot, Store

_NOBODY = os.urandom(16).hex()
_SHORT = 12
_MOST = 8


@attrs.define(eq=False)
class Recipe:
    """One kind of container. Two are the same if they are one object."""

    lower: tuple[str, ...]
    """The image's layers; none for the host's own root. They can be pruned meanwhile."""
    store: weakref.ref[Store] | None
    """Where they are, and the container's directory, whose lock is among what was decided. It may go."""
    options: Options
    config: ImageConfig
    who: Identity
    decided: Decided
    _inodes: tuple[tuple[int, int], ...]
    """Of `lower`: those that are there now may be others, under the same names."""
    _set_up: bytes
    _latest: tuple[tuple[bytes, ...] | None, Request] | None = None
    """What was asked for last, by its arguments: the same again, as a rule."""

    def fits(self, root: LayeredRoot | None, options: Options, config: ImageConfig, who: Identity) -> bool:
        if self.store is None or root is None:
            same = self.store is None and root is None
        else:
            same = (
                self.store() is root.store
                and self.lower == root.lower
                and self._inodes == _inodes(root.lower)
            )
        return (
            same
            and (self.config is config or self.config == config)
            and (self.options is options or self.options == options)
            and self.who == who
        )

    def request(self, image: Image, args: Any, container: str) -> Request:
        """For the container of that id. Raises InvalidOption."""
        argv = None if args is None else launch.arguments(args)
        latest = self._latest
        if latest is None or latest[0] != argv:
            latest = (argv, self.decided.request(image, args, self.options))
            if len(latest[1].plan) < _sys.MAX_INLINE:
                self._latest = latest
        made = latest[1]
        command = launch.Command(
            made.command.argv,
            made.command.paths,
            made.command.env,
            launch.shown(args, made.command.argv),
        )
        return Request(
            named(made.plan, container),
            self.cleanup(container),
            made.flags,
            command,
            made.groups,
            made.lock,
            made.network,
        )

    def set_up(self, container: str) -> bytes:
        return named(self._set_up, container)

    def cleanup(self, container: str) -> bytes:
        return named(self.decided.cleanup, container)


def named(nobodys: bytes, container: str) -> bytes:
    """What was made for nobody, for the container of that id."""
    short = nobodys.replace(_NOBODY[:_SHORT].encode(), container[:_SHORT].encode())
    return short.replace(f"{container[:_SHORT]}{_NOBODY[_SHORT:]}".encode(), container.encode())


def find(here: Session, image: Image, options: Options) -> Recipe | None:
    """None for containers that each have something of their own made for them (networks, volumes), or looked
    up on the host: devices, the file of a seccomp profile.

    Raises what a start does that cannot be.
    """
    root = launch.root_of(image)
    if options.network != "none" or options.ports or options.devices or isinstance(options.seccomp, Path):
        return None
    if any(isinstance(mount, VolumeMount) for mount in options.mounts):
        return None
    who = launch.identity(image, options.user, here)
    known = here.recipes
    for recipe in known:
        if recipe.fits(root, options, image.config, who):
            return recipe
    made = _make(here, image, options, root, who)
    here.recipes = [made, *known[: _MOST - 1]]
    return made


def _make(here: Session, image: Image, options: Options, root: LayeredRoot | None, who: Identity) -> Recipe:
    wiring = Wiring(options, _NOBODY, lasting=False)
    inodes = () if root is None else _inodes(root.lower)
    try:
        decided = decide_once(here, image, options, _NOBODY, wiring, inodes=inodes)
    finally:
        wiring.close()
    lower, store = ((), None) if root is None else (root.lower, weakref.ref(root.store))
    return Recipe(lower, store, options, image.config, who, decided, inodes, decided.plan.set_up())


def _inodes(paths: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
    """Device and inode of what lies there; none where one of them is gone."""
    try:
        found = [os.stat(path) for path in paths]
    except OSError:
        return ()
    return tuple([(status.st_dev, status.st_ino) for status in found])


def decide_once(
    here: Session,
    image: Image,
    options: Options,
    container: str,
    wiring: Wiring,
    *,
    inodes: tuple[tuple[int, int], ...] = (),
) -> Decided:
    """A container that is removed with its program; its start makes what directories it has. `inodes` are
    those of the image's layers, where the caller knows them."""
    root = launch.root_of(image)
    layer, directory = plan.Root(), None
    if root is not None:
        directory = root.store.own_containers().unmade(container)
        layer = plan.Root(
            root.lower,
            directory.upper,
            directory.work,
            unmade=directory.path,
            volumes=directory.volumes,
            inodes=inodes,
        )
    return execution.decide(
        here,
        image,
        options,
        container=container,
        root=layer,
        directory=directory,
        once=True,
        wiring=wiring,
    )
