"""Volumes on disk: directories of files that outlive containers, by name.

volumes/<name>/data/          the files
volumes/<name>/volume.json    what is known of it
volumes/<name>/lock           held while it is filled, removed, or somebody begins to use it
volumes/<name>/users/<id>     a container that uses it: its name, and the directory of the store whose held
                              lock says that it may still be alive
volumes/.making/<id>/         what is being made or removed; the next opener removes what nobody holds
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import attrs

from pycontainer.blobs.failures import store_errors, translate
from pycontainer.blobs.locks import try_lock, wait_for
from pycontainer.blobs.staging import write_file
from pycontainer.errors import NameInUse, PycontainerError, StoreCorrupt, StoreError
from pycontainer.store.claims import claim, sweep_containers

if TYPE_CHECKING:
    from pycontainer.store.store import Store

MAKING = ".making"
_PARTS = ("data", "users")
_MAX_INFO = 2**20


@attrs.frozen
class User:
    """A container that uses a volume: its id, and its name where it has one."""

    id: str
    name: str | None

    def __str__(self) -> str:
        return self.name or self.id[:12]


class Volumes:
    """The volumes of one store."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.root = os.path.join(store.path, "volumes")
        self._making = os.path.join(self.root, MAKING)

    def path(self, name: str) -> str:
        return os.path.join(self.root, name)

    def names(self) -> list[str]:
        """Of all that are there, sorted. Raises StoreError."""
        with store_errors("listing", self.root), suppress(FileNotFoundError):
            return sorted(name for name in os.listdir(self.root) if name != MAKING)
        return []

    def make(self, name: str, info: dict[str, Any]) -> None:
        """A new, empty volume, there as a whole or not at all. Raises NameInUse, NoSpace and StoreError."""
        path = self.path(name)
        if os.path.lexists(path):
            raise _taken(name)
        with self.workshop() as workshop:
            made = os.path.join(workshop, "volume")
            with store_errors("making", path):
                for part in ("", *_PARTS):
                    os.mkdir(os.path.join(made, part), 0o755)
            write_file(f"{made}/volume.json", json.dumps(info).encode(), self.store.layout.staging)
            try:
                # Not over another one: that has something in it.
                with store_errors("placing", path):
                    os.rename(made, path)
            except StoreError:
                if os.path.isdir(path):
                    raise _taken(name) from None
                raise

    def info(self, name: str) -> dict[str, Any] | None:
        """What was said at its making; None where there is no such volume. Raises StoreError."""
        path = os.path.join(self.path(name), "volume.json")
        with store_errors("reading", path):
            try:
                with open(path, "rb") as file:
                    raw = file.read(_MAX_INFO + 1)
            except (FileNotFoundError, NotADirectoryError):
                return None
        try:
            found = json.loads(raw)
        except ValueError as error:
            raise StoreCorrupt(f"{path}: {error}") from None
        if not isinstance(found, dict):
            raise StoreCorrupt(f"{path}: is not an object")
        return found

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Held, nobody else fills or removes the volume or begins to use it. Raises StoreError."""
        path = os.path.join(self.path(name), "lock")
        try:
            with store_errors("locking", path):
                lock = wait_for(path, time.sleep)
        except StoreError:
            if os.path.isdir(self.path(name)):
                raise
            raise missing(name, self.store) from None
        with lock:
            yield

    def users(self, name: str) -> list[User]:
        """The containers that use it; those of processes that died are forgotten. The caller holds the
        lock. Raises StoreError."""
        directory = os.path.join(self.path(name), "users")
        found = []
        try:
            for container in sorted(os.listdir(directory)):
                record = os.path.join(directory, container)
                with open(record, "rb") as file:
                    said = json.loads(file.read(_MAX_INFO))
                if self._held(said["held"]):
                    found.append(User(container, said["name"]))
                else:
                    os.unlink(record)
        except FileNotFoundError:
            # Removed by force meanwhile, or made anew under the same name.
            raise missing(name, self.store) from None
        except OSError as error:
            raise translate(error, "listing", directory) from error
        return found

    def enter(self, name: str, user: User, held: str) -> None:
        """Notes that a container uses it, for as long as somebody holds the lock on the directory `held`.
        The caller holds the volume's lock. Raises NoSpace and StoreError."""
        said = {"name": user.name, "held": os.path.relpath(held, self.store.path)}
        where = os.path.join(self.path(name), "users", user.id)
        write_file(where, json.dumps(said).encode(), self.store.layout.staging)

    def leave(self, name: str, user: User) -> None:
        """A container uses it no more. Raises StoreError."""
        path = os.path.join(self.path(name), "users", user.id)
        # Not there where the volume was removed by force.
        with store_errors("removing", path), suppress(FileNotFoundError):
            os.unlink(path)

    def remove(self, name: str) -> None:
        """Takes the volume away at once and then removes its files; the caller holds its lock. Raises
        StoreError."""
        with self.workshop() as workshop:
            gone = os.path.join(workshop, "volume")
            with store_errors("removing", self.path(name)):
                os.rename(self.path(name), gone)
            _remove_tree(gone)

    @contextmanager
    def workshop(self) -> Iterator[str]:
        """A directory of this process's own on the volumes' file system, empty again at its end. What a
        process leaves in it that dies, the next opener of the store removes. Raises NoSpace and
        StoreError."""
        with store_errors("making", self._making):
            os.makedirs(self._making, 0o700, exist_ok=True)
        with claim(self._making) as lock:
            try:
                yield lock.path
                with store_errors("removing", lock.path):
                    os.rmdir(lock.path)
            except BaseException:
                # The reason is the news; what cannot be removed now, the next opener removes.
                with suppress(PycontainerError):
                    _remove_tree(lock.path)
                raise

    def _held(self, relative: str) -> bool:
        path = os.path.join(self.store.path, relative)
        lock = try_lock(path)
        if lock is None:
            return os.path.isdir(path)
        lock.release()
        return False


def sweep_volumes(store: str, remove_tree: Callable[[str], None]) -> None:
    """Removes what was half-made or half-removed by processes that died. Raises StoreError."""
    making = os.path.join(store, "volumes", MAKING)
    if os.path.isdir(making):
        sweep_containers(making, remove_tree)


def missing(name: str, store: Store) -> StoreError:
    return StoreError(f"no volume {name!r} in {store.path}")


def _taken(name: str) -> NameInUse:
    return NameInUse(f"name={name!r}: there is such a volume already")


def _remove_tree(path: str) -> None:
    from pycontainer.supervisor import files

    files.remove_tree(path)
