"""Asking the keeper of one container, and doing without one where there is none."""

from __future__ import annotations

import os
import socket
import time
from typing import Any

from pycontainer.blobs.locks import Lock, try_lock
from pycontainer.completed import Completed
from pycontainer.errors import ContainerNotFound, InvalidState, StoreBusy, SupervisorError
from pycontainer.keeping import control, spawning, telling
from pycontainer.keeping.links import Links, NoKeeper
from pycontainer.keeping.record import KILLED, Record
from pycontainer.store.persistent import HELD, Persistent, discard
from pycontainer.supervisor import files

_QUICK_SECONDS = 30.0
"""How long a keeper may take for what needs no waiting."""
_BEGIN_SECONDS = 15.0
"""How long a keeper may take to begin, or what one that died has left to end."""
_RETRY_SECONDS = 0.005


class Peer:
    """The other end. Safe from any thread, and in forked children."""

    def __init__(self, store: str, record: Record) -> None:
        self.store = store
        self.id = record.id
        self.name = record.name
        self.args = record.args
        self.persistent = Persistent(store)
        self.path = self.persistent.path(record.id)
        self.links = Links(self.path)

    def record(self) -> Record:
        """How it stands. Raises ContainerNotFound where it was removed."""
        try:
            document, _ = self.ask("status", deadline=time.monotonic() + _QUICK_SECONDS)
        except NoKeeper as gone:
            return gone.record
        return Record.of(document["record"], self.path)

    def ask(
        self, verb: str, *, deadline: float | None = None, revive: bool = False, **fields: Any
    ) -> tuple[dict[str, Any], list[int]]:
        """Raises `NoKeeper` where nobody keeps it, unless one is to begin (`revive`)."""
        while True:
            try:
                return self.links.ask(verb, fields, deadline, again=not revive)
            except NoKeeper:
                if not revive:
                    raise
            self._revive()

    def shown(self) -> str:
        """For messages."""
        return f"container {self.id[:12] if self.name is None else self.name}"

    def result(self, verb: str, **fields: Any) -> Completed:
        """As `ask`, of what is answered with a result."""
        document, _ = self.ask(verb, **fields)
        return control.result_of(document["completed"])

    def of_running(self, verb: str, **fields: Any) -> None:
        """As `ask`, of what needs a program that runs. Raises InvalidState."""
        try:
            self.ask(verb, **fields)
        except NoKeeper as gone:
            raise self.not_now(verb, gone.record) from None

    def check_running(self) -> None:
        """Raises InvalidState where nobody could be connected with it."""
        record = self.record()
        if record.status not in ("running", "paused"):
            raise self.not_now("connect", record)

    def not_now(self, verb: str, record: Record) -> InvalidState:
        """What is raised where nobody keeps it."""
        return InvalidState(f"{verb}: {self.shown()} is {record.status}, not running")

    def left(self, record: Record, verb: str) -> Completed:
        """What is known of the end of one that nobody keeps any more."""
        if record.started_at is None:
            raise self.not_now(verb, record)
        if record.ended is not None and record.ended.code is not None:
            return record.ended.completed(self.args, self.path)
        if verb == "stop":
            return KILLED.completed(self.args, self.path)
        raise SupervisorError(f"{verb}: {self.shown()} ended with its keeper, which died")

    def remove(self, force: bool) -> Record | None:
        """Gives how it stood in the end, None where another process has removed it. Raises InvalidState,
        StoreBusy and StoreError."""
        try:
            document, _ = self.ask("remove", force=force)
            return Record.of(document["record"], self.path)
        except ContainerNotFound:
            return None
        except NoKeeper as gone:
            return self._remove_here(gone.record)
        finally:
            self.links.close()

    def more_to_come(self) -> bool:
        """Whether it may write more."""
        try:
            return bool(self.ask("more")[0]["more"])
        except NoKeeper as gone:
            return gone.record.status == "created"
        except (ContainerNotFound, SupervisorError):
            return False

    def watch(self) -> socket.socket | None:
        """A connection on which the keeper tells of news. One that was not started yet may get a keeper
        that nobody would hear of, so it gets one now."""
        try:
            self.ask("more", revive=self.record().status == "created")
            link = self.links.fresh()
        except (ContainerNotFound, NoKeeper):
            return None
        control.send(link, {"protocol": control.PROTOCOL, "verb": "watch"})
        return link

    def terminal(self) -> int | None:
        """A descriptor of its terminal, the caller's; None without one, and when it does not run."""
        try:
            _, fds = self.ask("terminal")
        except NoKeeper:
            return None
        return fds[0] if fds else None

    def close_stdin(self) -> None:
        """The program's end of file."""
        try:
            self.ask("close_stdin")
        except (ContainerNotFound, NoKeeper):
            return

    def _revive(self) -> None:
        """Begins a new keeper, unless another process does. Raises ContainerNotFound and StoreBusy."""
        held = self._held()
        if held is not None:
            record = Record.read(self.path)
            self.links.keep(spawning.begin(self.store, self.id, self.path, held, record.environ))
        telling.listen(self.path)

    def _remove_here(self, record: Record) -> Record | None:
        held = self._held()
        if held is None:
            # Another process began a keeper meanwhile.
            return self.remove(True)
        with held:
            discard(self.persistent.hide(self.id, self.name), files.remove_tree)
        return record

    def _held(self) -> Lock | None:
        """The lock of the keeper, once what the last one left has ended; None where there is a new one.
        Raises ContainerNotFound and StoreBusy."""
        deadline = time.monotonic() + _BEGIN_SECONDS
        while (held := try_lock(os.path.join(self.path, HELD))) is None:
            Record.read(self.path)
            try:
                self.links.keep(self.links.fresh())
                return None
            except NoKeeper:
                if time.monotonic() >= deadline:
                    raise StoreBusy(f"{self.shown()}: what its keeper left does not end") from None
            time.sleep(_RETRY_SECONDS)
        return held
