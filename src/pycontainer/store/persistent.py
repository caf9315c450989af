"""Containers that outlive the process that made them: their directories, by id and by name.

persistent/<id>/        one container's own; what is in it is told in `pycontainer.keeping`
persistent/names/<name> a link that says whose name that is
persistent/.<id>/       one that is being made or removed; the next opener removes what nobody holds
persistent/lock         held while a name or a directory is made or removed
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress

from pycontainer.blobs.failures import store_errors
from pycontainer.blobs.locks import Lock, lock_file, try_lock
from pycontainer.errors import NameInUse, StoreError
from pycontainer.oci.digest import Digest

STATE = "state.json"
LAYER = "layer"
HELD = "held"
"""Locked for as long as anything of the container is alive."""

_ID = re.compile(r"[0-9a-f]{32}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_MAX_STATE = 16 * 2**20


class Persistent:
    """The persistent containers of one store."""

    def __init__(self, store: str) -> None:
        self.root = os.path.join(store, "persistent")
        self._names = os.path.join(self.root, "names")

    def path(self, container: str) -> str:
        return os.path.join(self.root, container)

    def ids(self) -> list[str]:
        """Of all that are there, sorted. Raises StoreError."""
        return [name for name in self._entries() if _ID.fullmatch(name)]

    def named(self, name: str) -> str | None:
        """The id of the container that has this name. Raises StoreError."""
        if not _NAME.fullmatch(name):
            # Asked for by somebody; it must lead nowhere else.
            return None
        with store_errors("reading", self._names):
            try:
                found = os.readlink(os.path.join(self._names, name))
            except FileNotFoundError:
                return None
        return found if _ID.fullmatch(found) and os.path.isdir(self.path(found)) else None

    def begin(self) -> Making:
        """Makes a directory that nobody finds yet. Raises NoSpace and StoreError."""
        container = os.urandom(16).hex()
        path = os.path.join(self.root, "." + container)
        with store_errors("making", path):
            os.makedirs(self._names, 0o700, exist_ok=True)
            with self._exclusive():
                os.mkdir(path, 0o700)
                try:
                    held = lock_file(os.path.join(path, HELD))
                except BaseException:
                    shutil.rmtree(path, ignore_errors=True)
                    raise
        assert held is not None
        return Making(self, container, path, held)

    def publish(self, container: str, hidden: str, name: str | None) -> None:
        """Lets it be found. Raises NameInUse and StoreError."""
        link = None if name is None else os.path.join(self._names, name)
        with store_errors("naming", self.path(container)), self._exclusive():
            if link is not None and name is not None:
                if (other := self.named(name)) is not None:
                    raise NameInUse(f"name={name!r}: container {other[:12]} has it")
                # Of one that was removed half-way.
                with suppress(FileNotFoundError):
                    os.unlink(link)
                os.symlink(container, link)
            os.rename(hidden, self.path(container))

    def hide(self, container: str, name: str | None) -> str:
        """Takes the name and the id away, at once; gives what is left to be removed. Raises StoreError."""
        hidden = os.path.join(self.root, "." + container)
        with store_errors("removing", self.path(container)), self._exclusive():
            if name is not None and self.named(name) == container:
                os.unlink(os.path.join(self._names, name))
            os.rename(self.path(container), hidden)
        return hidden

    def sweep(self, remove_tree: Callable[[str], None]) -> None:
        """Removes what was left half-made or half-removed. Raises StoreError."""
        for name in self._entries():
            if not name.startswith("."):
                continue
            path = os.path.join(self.root, name)
            with store_errors("sweeping", path), self._exclusive():
                lock = try_lock(os.path.join(path, HELD))
                gone = lock is None and not os.path.exists(os.path.join(path, HELD))
            if lock is not None:
                with lock:
                    discard(path, remove_tree)
            elif gone:
                discard(path, remove_tree)

    def images(self) -> Iterator[Digest]:
        """The manifests of the images that containers stand on. Raises StoreError."""
        for container in self.ids():
            image = read_state(self.path(container)).get("image")
            if isinstance(image, dict) and isinstance(digest := image.get("digest"), str):
                yield Digest(digest)

    def _entries(self) -> list[str]:
        with store_errors("listing", self.root):
            try:
                return sorted(os.listdir(self.root))
            except FileNotFoundError:
                return []

    def _exclusive(self) -> Lock:
        lock = lock_file(os.path.join(self.root, "lock"))
        assert lock is not None
        return lock


class Making:
    """A container's directory that is not there for others yet."""

    def __init__(self, persistent: Persistent, container: str, path: str, held: Lock) -> None:
        self.persistent = persistent
        self.id = container
        self.path = path
        self.held = held

    def publish(self, name: str | None) -> None:
        """Raises NameInUse and StoreError; the directory stays hidden then."""
        self.persistent.publish(self.id, self.path, name)
        self.path = self.persistent.path(self.id)


def discard(path: str, remove_tree: Callable[[str], None]) -> None:
    """Removes a hidden directory; its layer's files may belong to ids that only the supervisor can act for.
    Raises StoreError."""
    layer = os.path.join(path, LAYER)
    if os.path.lexists(layer):
        remove_tree(layer)
    with store_errors("removing", path), suppress(FileNotFoundError):
        shutil.rmtree(path)


def read_state(path: str) -> dict[str, object]:
    """What the directory `path` of a container says of it, empty where it has just been removed.

    Only a file of this user's (or root's) is believed. Raises StoreError.
    """
    name = os.path.join(path, STATE)
    with store_errors("reading", name):
        try:
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return {}
        with open(fd, "rb") as file:
            owner = os.fstat(fd).st_uid
            raw = file.read(_MAX_STATE + 1)
    if owner not in (os.geteuid(), 0):
        raise StoreError(f"{name}: belongs to user {owner}")
    try:
        if len(raw) > _MAX_STATE:
            raise ValueError("too long")
        found = json.loads(raw)
        if not isinstance(found, dict):
            raise ValueError("not an object")
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{name}: is damaged: {error}") from None
    return found
