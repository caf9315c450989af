"""What happens to persistent containers: told by their keepers to processes in which somebody listens."""

from __future__ import annotations

import datetime
import os
import socket
import threading
from contextlib import suppress
from typing import Any

from pycontainer import happenings
from pycontainer.errors import PycontainerError
from pycontainer.happenings import Event
from pycontainer.keeping import control
from pycontainer.store.persistent import Persistent
from pycontainer.store.store import default_path

_SECONDS = 5.0
_LAST_SECONDS = 1.0


def of_event(event: Event) -> dict[str, Any]:
    """An event as data."""
    return {
        "type": event.type,
        "id": event.id,
        "name": event.name,
        "image": event.image,
        "time": event.time.isoformat(),
        "attributes": dict(event.attributes),
    }


def listen(path: str) -> None:
    """Has what happens to the container in the directory `path` told here, where anybody listens: until that
    is nobody, or until its keeper ends. One that has none has nothing to tell."""
    if not happenings.anybody():
        return
    with _lock:
        if path not in _ears and (link := _connected(path)) is not None:
            ear = _ears[path] = _Ear(path, link)
            ear.start()


def listen_to_all() -> None:
    """`listen` for those of the default store. Raises StoreError."""
    persistent = Persistent(default_path())
    for container in persistent.ids():
        listen(persistent.path(container))


def finish(path: str) -> None:
    """Once the container was removed: waits until that has been told here, too."""
    with _lock:
        ear = _ears.get(path)
    if ear is not None:
        ear.join(_LAST_SECONDS)


def leave() -> None:
    """Nobody listens any more."""
    with _lock:
        while _ears:
            # Its thread closes it; the keeper may have hung up before.
            with suppress(OSError):
                _ears.popitem()[1].link.shutdown(socket.SHUT_RDWR)


def _connected(path: str) -> socket.socket | None:
    """A connection on which the keeper tells what happens from now on."""
    try:
        link = control.connect(path)
        if link is None:
            return None
        try:
            control.ask(link, "events", {}, control.deadline_in(_SECONDS))
        except BaseException:
            link.close()
            raise
        return link
    except (PycontainerError, OSError):
        # It ends, or is of a version that tells nothing.
        return None


class _Ear(threading.Thread):
    """Tells here what one keeper tells."""

    def __init__(self, path: str, link: socket.socket) -> None:
        super().__init__(name="pycontainer-events", daemon=True)
        self.link = link
        self._path = path

    def run(self) -> None:
        with self.link, suppress(OSError):
            while (message := control.receive(self.link)) is not None:
                event, fds = message
                control.close_all(fds)
                time = datetime.datetime.fromisoformat(event.pop("time"))
                happenings.emit(time=time, **event.pop("attributes"), **event)
        with _lock:
            if _ears.get(self._path) is self:
                del _ears[self._path]


_lock = threading.RLock()
_ears: dict[str, _Ear] = {}


def _after_fork_in_child() -> None:
    """The threads are the parent's."""
    global _lock
    _lock = threading.RLock()
    while _ears:
        _ears.popitem()[1].link.close()


happenings.on_silence(leave)
os.register_at_fork(after_in_child=_after_fork_in_child)
