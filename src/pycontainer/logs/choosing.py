"""The option `log`: where a container's log is kept, and who is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pycontainer.logs.files import FileLog
from pycontainer.logs.forwarding import Forward, inherit, to_logger
from pycontainer.logs.lines import Blocks, Lines
from pycontainer.logs.memory import MemoryLog

if TYPE_CHECKING:
    import logging

    from pycontainer.logs.journal import Log
    from pycontainer.store import ContainerDir

DIRECTORY = "log"


class _InStore(FileLog):
    """For a container that has no other directory."""

    def __init__(self, own: ContainerDir) -> None:
        super().__init__(f"{own.path}/{DIRECTORY}")
        self._own = own

    def remove(self) -> None:
        super().remove()
        self._own.discard()


def log_for(choice: str | logging.Logger, directory: ContainerDir | None) -> Log:
    """The container's own, in its directory where it is one of files. Raises NoSpace and StoreError."""
    if choice != "file":
        return MemoryLog()
    if directory is not None:
        return FileLog(f"{directory.path}/{DIRECTORY}")
    from pycontainer import session
    from pycontainer.store import Store

    own = Store.default().new_container_dir()
    session.current().answer_for(own.group.path)
    return _InStore(own)


def forward_for(choice: str | logging.Logger, container: str) -> Forward | None:
    """Who is told what `container` (its name, or the beginning of its id) writes."""
    if isinstance(choice, str):
        return Forward(inherit, Blocks()) if choice == "inherit" else None
    return Forward(to_logger(choice, container), Lines())
