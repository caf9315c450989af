"""`Volume`: a directory of files that outlives containers and is shared by them."""

from __future__ import annotations

import builtins
import datetime
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pycontainer import option_values
from pycontainer.errors import NameInUse, StoreBusy, StoreCorrupt, StoreError
from pycontainer.mounts import VolumeMount
from pycontainer.store import Store
from pycontainer.store.volumes import Volumes, missing
from pycontainer.units import refuse


class Volume:
    """A volume of a store; made by `Volume.create`, found by `Volume.get` and `Volume.list`.

    It is there until `remove`, for all processes; `Store.prune` leaves it alone. Safe from any thread.
    """

    def __init__(self, name: str, store: Store, info: Mapping[str, Any]) -> None:
        """`info` is what was read from the store. Raises StoreCorrupt."""
        self.name = name
        self.store = store
        self._volumes = Volumes(store)
        try:
            self.labels: dict[str, str] = dict(info["labels"])
            self.created = datetime.datetime.fromisoformat(info["created"])
        except (KeyError, TypeError, ValueError) as error:
            raise StoreCorrupt(f"{self._volumes.path(name)}/volume.json: {error!r}") from None

    @staticmethod
    def create(
        name: str | None = None,
        *,
        labels: Mapping[str, str] | None = None,
        exist_ok: bool = False,
        store: Store | None = None,
    ) -> Volume:
        """A new, empty volume; without a `name` it gets a random one.

        Names are as containers'. Raises `NameInUse` where there is one of that
        name, unless `exist_ok`: then that one is given, with its own labels; `InvalidOption`,
        `NoSpace` and `StoreError`.
        """
        name = os.urandom(32).hex() if name is None else _name(name)
        store = store or Store.default()
        info = {
            "name": name,
            "labels": dict(option_values.labels(labels)),
            "created": datetime.datetime.now(datetime.timezone.utc).isoformat(),
        }
        try:
            Volumes(store).make(name, info)
        except NameInUse:
            if not exist_ok:
                raise
            return Volume.get(name, store=store)
        return Volume(name, store, info)

    @staticmethod
    def get(name: str, *, store: Store | None = None) -> Volume:
        """The volume of that name. Raises `StoreError` where there is none, and `InvalidOption`."""
        store = store or Store.default()
        info = Volumes(store).info(_name(name))
        if info is None:
            raise missing(name, store)
        return Volume(name, store, info)

    @staticmethod
    def list(
        labels: Mapping[str, str] | str | Sequence[str] | None = None, *, store: Store | None = None
    ) -> builtins.list[Volume]:
        """All volumes, by name; `labels` keeps those that have all these, as in `Container.list`. Raises
        `StoreError` and `InvalidOption`."""
        from pycontainer.container import all_labels, wanted_labels

        wanted = wanted_labels(labels)
        store = store or Store.default()
        volumes = Volumes(store)
        # One that goes meanwhile has no info any more.
        read = ((name, volumes.info(name)) for name in volumes.names())
        found = [Volume(name, store, info) for name, info in read if info is not None]
        return [volume for volume in found if all_labels(volume.labels, wanted)]

    @property
    def path(self) -> Path:
        """The directory of its files on the host. An ordinary user's containers leave files there that
        belong to other ids of that user, which only a container can open."""
        return Path(self._volumes.path(self.name), "data")

    @property
    def used_by(self) -> builtins.list[str]:
        """The containers that use it, by name or else the beginning of the id. Raises `StoreError`."""
        with self._volumes.locked(self.name):
            return [str(user) for user in self._volumes.users(self.name)]

    def at(self, dst: str | os.PathLike[str], ro: bool = False, *, nocopy: bool = False) -> VolumeMount:
        """The volume as one of `mounts=[...]`, at the absolute path `dst` in the container.

        As with docker, the first container fills an empty volume with what its image has at `dst`, with
        owners and modes, before its program starts; `nocopy` leaves it empty. Not while another
        container has the empty volume already, and not from the host image for an ordinary user. A device
        that comes with it opens nothing.
        """
        return VolumeMount(self.name, self._volumes.path(self.name), dst, ro=ro, nocopy=nocopy)

    def remove(self, force: bool = False) -> None:
        """Remove the volume with its files; twice does no harm.

        Raises `StoreBusy` naming the containers that use it; with `force` it is removed nonetheless,
        and what runs there finds the files gone. Raises `StoreError`.
        """
        try:
            self._remove(force)
        except StoreError:
            if self._volumes.info(self.name) is not None:
                raise

    def _remove(self, force: bool) -> None:
        with self._volumes.locked(self.name):
            users = self._volumes.users(self.name)
            if users and not force:
                names = ", ".join(map(str, users))
                raise StoreBusy(f"removing volume {self.name!r}: container {names} uses it")
            self._volumes.remove(self.name)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Volume):
            return NotImplemented
        return (self.name, self.store.path) == (other.name, other.store.path)

    def __hash__(self) -> int:
        return hash((self.name, self.store.path))

    def __repr__(self) -> str:
        return f"<Volume {self.name} {self.path}>"


def _name(value: object) -> str:
    """Raises InvalidOption."""
    name = option_values.name(value)  # type: ignore[arg-type]
    if name is None:
        raise refuse("name", value, "must be text")
    return name
