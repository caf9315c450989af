"""The containers of this process, by id and name, until they are removed."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pycontainer.errors import ContainerNotFound, NameInUse
from pycontainer.store.persistent import Persistent
from pycontainer.store.store import default_path

if TYPE_CHECKING:
    from pycontainer.container import Container

_lock = threading.Lock()
_containers: dict[str, Container] = {}
_names: dict[str, str] = {}


def add(container: Container) -> None:
    """Raises NameInUse where another one has its name."""
    with _lock:
        if container.name is not None:
            _take(container.name, container.id)
        _containers[container.id] = container


def _take(name: str, container: str) -> None:
    holder = _names.get(name) or Persistent(default_path()).named(name)
    # The keeper of a persistent container has its name already.
    if holder not in (None, container):
        raise NameInUse(f"name={name!r}: container {holder[:12]} has it")
    _names[name] = container


@contextmanager
def naming(name: str | None) -> Iterator[None]:
    """While a persistent container takes its name in the store, no other container of this process gets it.
    Raises NameInUse where one has it."""
    with _lock:
        if name is not None and name in _names:
            raise NameInUse(f"name={name!r}: container {_names[name][:12]} has it")
        yield


@contextmanager
def reserved(name: str, container: str) -> Iterator[None]:
    """Nobody else has the name meanwhile: that of a `run`, which nobody finds. Raises NameInUse."""
    with _lock:
        _take(name, container)
    try:
        yield
    finally:
        with _lock:
            if _names.get(name) == container:
                del _names[name]


def drop(container: Container) -> None:
    """Its name is free again."""
    with _lock:
        if _containers.pop(container.id, None) is not None and container.name is not None:
            _names.pop(container.name, None)


def everyone() -> list[Container]:
    """In the order in which they were made."""
    with _lock:
        return list(_containers.values())


def find(wanted: str) -> Container | None:
    """By name, by id, or by the beginning of an id (at least 4 characters).

    Raises ContainerNotFound where several ids begin so.
    """
    with _lock:
        found = _containers.get(_names.get(wanted, wanted))
        if found is not None or len(wanted) < 4:
            return found
        begin = [container for key, container in _containers.items() if key.startswith(wanted)]
    if len(begin) > 1:
        raise ContainerNotFound(f"{wanted!r} is the beginning of several containers' ids")
    return begin[0] if begin else None


def _after_fork_in_child() -> None:
    """They are the parent's."""
    global _lock
    _lock = threading.Lock()
    _containers.clear()
    _names.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
