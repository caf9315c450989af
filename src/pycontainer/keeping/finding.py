"""The persistent containers of a store, whoever made them."""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING, Any

from pycontainer.errors import ContainerNotFound, StoreError
from pycontainer.keeping import telling
from pycontainer.keeping.attached import Attached
from pycontainer.keeping.record import Record
from pycontainer.store import Store
from pycontainer.store.persistent import Persistent
from pycontainer.store.store import default_path

if TYPE_CHECKING:
    from pycontainer.container import Container
    from pycontainer.image import Image
    from pycontainer.options import Options

_SHORTEST_BEGINNING = 4

_lock = threading.Lock()
_here: weakref.WeakValueDictionary[str, Attached] = weakref.WeakValueDictionary()
"""Who is looked for twice is found as the same object."""


def create(image: Image, args: Any, options: Options, store: Store | None) -> Container:
    """A new container; raises as `Attached.make`."""
    made = Attached.make(image, args, options, store)
    with _lock:
        return _here.setdefault(made.directory, made)


def find(wanted: str, store: Store | None) -> Container | None:
    """By name, by id, or by the beginning of an id, in `store` or the default one. Raises ContainerNotFound
    where several ids begin so, and StoreError."""
    persistent = _of(store)
    found = persistent.named(wanted)
    if found is None:
        ids = persistent.ids()
        long_enough = len(wanted) >= _SHORTEST_BEGINNING
        begin = [one for one in ids if one == wanted or (long_enough and one.startswith(wanted))]
        if len(begin) > 1:
            raise ContainerNotFound(f"{wanted!r} is the beginning of several containers' ids")
        found = begin[0] if begin else None
    return None if found is None else _attach(store, persistent.path(found))


def everyone(store: Store | None) -> list[Container]:
    """In the order in which they were made; without those whose record cannot be read, which looking for
    them tells."""
    persistent = _of(store)
    found: list[Container] = []
    for container in persistent.ids():
        try:
            found.append(_attach(store, persistent.path(container)))
        except (ContainerNotFound, StoreError):
            continue
    return sorted(found, key=lambda container: container.created_at)


def _of(store: Store | None) -> Persistent:
    # A store is not opened, or even made, to find nothing in it.
    return Persistent(default_path() if store is None else store.path)


def _attach(store: Store | None, path: str) -> Attached:
    with _lock:
        container = _here.get(path)
        if container is None:
            container = _here[path] = Attached(store or Store.default(), Record.read(path))
    telling.listen(path)
    return container


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork_in_child)
