"""The containers of this process, by id and name, until they are removed. Names are of a store: those of
another one take nobody's."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pycontainer.errors import ContainerNotFound, NameInUse
from pycontainer.store import LayeredRoot
from pycontainer.store.persistent import Persistent
from pycontainer.store.store import default_path

if TYPE_CHECKING:
    from pycontainer.container import Container
    from pycontainer.store import RootFS

_SHORTEST_BEGINNING = 4

_lock = threading.Lock()
_containers: dict[str, Container] = {}
_names: dict[tuple[str, str], str] = {}
"""By store and name."""


def home_of(root: RootFS | None, home: str | None = None) -> str:
    """The path of the store that a container on `root` belongs to: the image's, else `home` or the default
    one."""
    return root.store.path if isinstance(root, LayeredRoot) else home or default_path()


def add(container: Container) -> None:
    """Raises NameInUse where another one has its name."""
    with _lock:
        if container.name is not None:
            _take(container.home, container.name, container.id)
        _containers[container.id] = container


def _take(home: str, name: str, container: str) -> None:
    holder = _names.get((home, name)) or Persistent(home).named(name)
    # The keeper of a persistent container has its name already.
    if holder not in (None, container):
        raise NameInUse(f"name={name!r}: container {holder[:12]} has it")
    _names[home, name] = container


@contextmanager
def naming(home: str, name: str | None) -> Iterator[None]:
    """While a persistent container takes its name in the store, no other container of this process gets it.
    Raises NameInUse where one has it."""
    with _lock:
        if name is not None and (home, name) in _names:
            raise NameInUse(f"name={name!r}: container {_names[home, name][:12]} has it")
        yield


@contextmanager
def reserved(home: str, name: str, container: str) -> Iterator[None]:
    """Nobody else has the name meanwhile: that of a `run`, which nobody finds. Raises NameInUse."""
    with _lock:
        _take(home, name, container)
    try:
        yield
    finally:
        with _lock:
            if _names.get((home, name)) == container:
                del _names[home, name]


def drop(container: Container) -> None:
    """Its name is free again."""
    with _lock:
        if _containers.pop(container.id, None) is not None and container.name is not None:
            _names.pop((container.home, container.name), None)


def everyone(home: str | None = None) -> list[Container]:
    """In the order in which they were made; all of them, or those of one store."""
    with _lock:
        return [container for container in _containers.values() if home in (None, container.home)]


def find(wanted: str, home: str | None = None) -> Container | None:
    """By id, by name, or by the beginning of an id (at least 4 characters): in one store, else in the
    default one and then in any.

    Raises ContainerNotFound where several ids begin so.
    """
    with _lock:
        found = _containers.get(wanted) or _containers.get(_named(wanted, home))
        begin = [] if found is None else [found]
        if found is None and len(wanted) >= _SHORTEST_BEGINNING:
            begin = [container for key, container in _containers.items() if key.startswith(wanted)]
    begin = [container for container in begin if home in (None, container.home)]
    if len(begin) > 1:
        raise ContainerNotFound(f"{wanted!r} is the beginning of several containers' ids")
    return begin[0] if begin else None


def _named(wanted: str, home: str | None) -> str:
    """The id of who has the name; "" where nobody has."""
    found = _names.get((home or default_path(), wanted))
    if found is None and home is None:
        found = next((container for (_, name), container in _names.items() if name == wanted), None)
    return found or ""


def _after_fork_in_child() -> None:
    """They are the parent's."""
    global _lock
    _lock = threading.Lock()
    _containers.clear()
    _names.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
