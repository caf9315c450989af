"""A keeper's process: one container, and whoever asks for it."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import attrs

from pycontainer import _sys, in_time, session
from pycontainer.blobs.locks import Lock
from pycontainer.completed import Completed
from pycontainer.errors import InvalidState, LaunchError, PycontainerError
from pycontainer.happenings import TYPES, Events
from pycontainer.keeping import control, plain, spawning, telling
from pycontainer.keeping import record as records
from pycontainer.keeping.kept import Kept, of_image
from pycontainer.keeping.proxy import relay
from pycontainer.keeping.record import KILLED, Record
from pycontainer.store import Store
from pycontainer.store.persistent import HELD, Persistent, discard
from pycontainer.supervisor import files

if TYPE_CHECKING:
    from pycontainer.image import Image

_SIGKILL = 9
_MAX_CONNECTIONS = 256
_LOOK_SECONDS = 3.0
"""How often it is looked whether the container's directory is still there."""
_LAST_ANSWERS_SECONDS = 2.0

Answer = tuple[dict[str, Any], list[int]]


class _Bell:
    """Rung from any thread; waited for by one that also looks whether its asker is still there."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def ring(self) -> None:
        with self._lock:
            # Who rings may have been told to before we left.
            if self._fd >= 0:
                os.eventfd_write(self._fd, 1)

    def wait(self, connection: socket.socket) -> bool:
        """Until it is rung; False when the other end hung up, or has something else to say."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        poll.register(connection, select.POLLIN)
        if any(fd != self._fd for fd, _ in poll.poll()):
            return False
        os.eventfd_read(self._fd)
        return True

    def __enter__(self) -> _Bell:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            fd, self._fd = self._fd, -1
            os.close(fd)


class Keeper:
    """Answers requests about one container, each connection in a thread of its own."""

    def __init__(self, store: str, container: str, held: int) -> None:
        """Raises what making the container raises."""
        self._persistent = Persistent(store)
        self._id = container
        self._path = self._persistent.path(container)
        self._held = Lock(held, os.path.join(self._path, HELD), shared=False)
        self._leave = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._changed = threading.Condition()
        self._bells: set[_Bell] = set()
        self._busy = 0
        self._connections = 0
        self._leases: dict[socket.socket, set[int]] = {}
        self._stopping = False
        self._committed: Image | None = None
        self.container = Kept(Store.default(), self._path, Record.read(self._path), held, self._ring)
        self._listener = control.listen(self._path)
        self._verbs: dict[str, Callable[[socket.socket, dict[str, Any]], Answer]] = {
            "status": self._status,
            "start": self._start,
            "stop": self._stop,
            "restart": self._restart,
            "kill": self._kill,
            "pause": self._pause,
            "unpause": self._unpause,
            "update": self._update,
            "resize": self._resize,
            "stdin": self._stdin,
            "close_stdin": self._close_stdin,
            "more": self._more,
            "watch": self._watch,
            "events": self._events,
            "terminal": self._terminal,
            "wait": self._wait,
            "so_far": self._so_far,
            "wait_until": self._wait_until,
            "health_log": self._health_log,
            "prepare": self._prepare,
            "diff": self._diff,
            "export": self._export,
            "commit": self._commit,
            "target": self._target,
            "files": self._files,
            "forward": self._forward,
            "remove": self._remove,
        }

    def run(self, first: socket.socket) -> None:
        """Until the container is removed, or SIGTERM."""
        signal.signal(signal.SIGTERM, lambda *_: self._end(stop=True))
        self._serve(first)
        poll = select.epoll()
        poll.register(self._listener.fileno(), select.EPOLLIN)
        poll.register(self._leave, select.EPOLLIN)
        while True:
            for fd, _ in poll.poll(_LOOK_SECONDS):
                if fd == self._leave:
                    return self._last()
                self._accept()
            if not os.path.isdir(self._path):
                return self._lost()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            # No descriptor is left, or the other end went away again.
            time.sleep(0.01)
            return
        if self._connections >= _MAX_CONNECTIONS or not control.trusted(connection):
            connection.close()
            return
        self._serve(connection)

    def _serve(self, connection: socket.socket) -> None:
        self._connections += 1
        threading.Thread(target=self._converse, args=(connection,), daemon=True).start()

    def _converse(self, connection: socket.socket) -> None:
        try:
            with connection, suppress(OSError):
                while (request := control.receive(connection)) is not None:
                    document, fds = request
                    control.close_all(fds)
                    self._reply(connection, document)
        finally:
            with self._changed:
                self._connections -= 1
            self._end_lease(connection)

    def _reply(self, connection: socket.socket, request: dict[str, Any]) -> None:
        with self._changed:
            self._busy += 1
        try:
            answer, fds = self._answer(connection, request)
            try:
                control.send(connection, answer, fds)
            finally:
                control.close_all(fds)
        finally:
            with self._changed:
                self._busy -= 1
                self._changed.notify_all()

    def _answer(self, connection: socket.socket, request: dict[str, Any]) -> Answer:
        try:
            control.check_protocol(request)
            verb = self._verbs.get(str(request.get("verb")))
            if verb is None:
                raise InvalidState(f"the keeper knows no {request.get('verb')!r}")
            return verb(connection, request)
        except PycontainerError as error:
            return {"error": control.of_error(error)}, []
        except ConnectionError:
            raise
        except OSError as error:
            failure = LaunchError("in the keeper", errno=error.errno, path=error.filename)
            return {"error": control.of_error(failure)}, []
        except Exception as error:
            # Whoever asked is told, and the keeper's log has the details.
            traceback.print_exc()
            return {"error": control.of_error(PycontainerError(f"the keeper: {error!r}"))}, []

    def _ring(self) -> None:
        """Has those look again who wait for the end."""
        with self._changed:
            for bell in self._bells:
                bell.ring()

    def _end(self, *, stop: bool = False) -> None:
        self._stopping = self._stopping or stop
        os.eventfd_write(self._leave, 1)

    def _last(self) -> None:
        """What is to be done before the process ends."""
        if self._stopping and self.container.was_started and self.container.status in ("running", "paused"):
            self.container.stop()
            self.container.changed()
        self._listener.close()
        deadline = time.monotonic() + _LAST_ANSWERS_SECONDS
        with self._changed:
            while self._busy and time.monotonic() < deadline:
                self._changed.wait(deadline - time.monotonic())

    def _lost(self) -> None:
        """The container's directory was removed under it: nobody can ever find it again."""
        # There may be nothing left to remove.
        with suppress(PycontainerError):
            self.container.remove(force=True)

    # What can be asked.

    def _status(self, connection: socket.socket, request: dict[str, Any]) -> Answer:
        return {"record": attrs.asdict(self.container.record())}, []

    def _start(self, connection: socket.socket, request: dict[str, Any]) -> Answer:
        self.container.start(request["timeout"])
        return {}, []

    def _stop(self, connection: socket.socket, request: dict[str, Any]) -> Answer:
        container = self.container
        try:
            if not container.has_ended():
                container.stop(request["timeout"])
            return self._result(container.result(unseen=KILLED))
        finally:
            container.changed()

    def _restart(self, connection: socket.socket, request: dict[str, Any]) -> Answer:
        self.container.restart(request["timeout"])
        return {}, []

    def _kill(self, connection: socket.socket, request: dict[str, Any]) -> Answer:
        self.container.kill(request["signal"])
        self.container.changed()
        return {}, []

    def _pause(self, connection: socket.socket, request: dict[str, Any]) -> Answer:
        self.container.pause()
        self.container.changed()
        return {}, []

    def _unpause(self, connection: socket.socket, request: dict[str, Any]) -> Answer:
        self.container.unpause()
        self.container.changed()
        return {}, []

    def _update(self, connection: socket.socket, request: dict[str, Any]) -> Answer:
        limits = {name: plain.to_value(value) for name, value in request["limits"].items()}
        self.container.update(**limits)
        self.container.changed()
        return {}, []

    def _resize(self, connection: socket.socket, request: dict[str, Any]) -> Answer:
        self.container.resize(request["rows"], request["columns"])
        return {}, []

    def _stdin(self, connection: socket.socket, request: dict[str, Any]) -> Answer:
        stdin = self.container.stdin
        if stdin is None or stdin.closed:
            return {}, []
        return {}, [os.dup(stdin.fileno())]

    def _close_stdin(self, connection: socket.socket, request: dict[str, Any]) -> Answer:
        stdin = self.container.stdin
        if stdin is not None:
            stdin.close()
        return {}, []

    def _more(self, connection: socket.socket, request: dict[str, Any]) -> Answer:
        return {"more": self.container.more_to_come()}, []

    def _terminal(self, connection: socket.socket, request: dict[str, Any]) -> Answer:
        fd = self.container.terminal()
        return {}, [] if fd is None else [fd]

    def _watch(self, connection: socket.socket, request: dict[str, Any]) -> Answer:
        """A message whenever there is news, until the other end hangs up."""
        with _Bell() as bell:
            self.container.hear(bell.ring)
            try:
                while bell.wait(connection):
                    control.send(connection, {})
            finally:
                self.container.unhear(bell.ring)
        raise ConnectionResetError

    def _events(self, connection: socket.socket, request: dict[str, Any]) -> Answer:
        """A message for each thing that happens from the answer on, until the container is removed or the
        other end hangs up."""
        with _Bell() as bell, Events(TYPES, bell.ring) as events:
            control.send(connection, {})
            while True:
                while (event := events.get(0)) is not None:
                    control.send(connection, telling.of_event(event))
                    if event.type == "remove":
                        raise ConnectionResetError
                if not bell.wait(connection):
                    raise ConnectionResetError

    def _wait(self, connection: socket.socket, request: dict[str, Any]) -> Answer:
        """Answered at the end; one whose asker is gone is given up."""
        container = self.container
        if not container.was_started:
            raise InvalidState("wait: the container is created, not started")
        with _Bell() as bell:
            with self._changed:
                self._bells.add(bell)
            try:
                while not container.has_ended():
                    if not bell.wait(connection):
                        raise ConnectionResetError
            finally:
                with self._changed:
                    self._bells.discard(bell)
        return self._result(container.result())

    def _so_far(self, connection: socket.socket, request: dict[str, Any]) -> Answer:
        return self._result(self.container.so_far())

    def _wait_until(self, connection: socket.socket, request: dict[str, Any]) -> Answer:
        self.container.wait_until(plain.to_value(request["strategy"]), request["timeout"])
        return {}, []

    def _health_log(self, connection: socket.socket, request: dict[str, Any]) -> Answer:
        results = [
            [records.text_of(one.started_at), one.seconds, one.exit_code, os.fsdecode(one.output)]
            for one in self.container.health_log
        ]
        return {"results": results}, []

    def _prepare(self, connection: socket.socket, request: dict[str, Any]) -> Answer:
        self.container.prepare(request["args"], timeout=request["timeout"])
        return {}, []

    def _diff(self, connection: socket.socket, request: dict[str, Any]) -> Answer:
        return {"changes": plain.of_value(self.container.diff(timeout=request["timeout"]))}, []

    def _export(self, connection: socket.socket, request: dict[str, Any]) -> Answer:
        self.container.export(request["path"], timeout=request["timeout"])
        return {}, []

    def _commit(self, connection: socket.socket, request: dict[str, Any]) -> Answer:
        image = self.container.commit(
            request["ref"],
            author=request["author"],
            message=request["message"],
            pause=request["pause"],
            timeout=request["timeout"],
            **plain.to_value(request["config"]),
        )
        # Until the other end has opened it, nobody else keeps one without a name.
        self._committed = image
        return {"image": of_image(image)}, []

    def _result(self, done: Completed) -> Answer:
        return {"completed": control.of_result(done)}, []

    def _target(self, connection: socket.socket, request: dict[str, Any]) -> Answer:
        """What it takes to run one more program in the container: its job, a number for the new job, and
        where it is not known yet, the supervisor. Jobs that were begun end with this connection."""
        run = self.container.joinable(paused=request["paused"])
        begun, here = run.execution, run.execution.session
        supervisor = here.supervisor
        lease = self._leases.setdefault(connection, set())
        lease.difference_update(request["ended"])
        number = supervisor.reserve()
        lease.add(number)
        answer: dict[str, Any] = {"target": begun.job.id, "number": number}
        known = request["owner"], request["target"], request.get("groups", 0)
        # An update may have given it more of them.
        groups = 0 if begun.cgroup is None else len(begun.cgroup.directories)
        if known != (here.owner_id, begun.job.id, groups):
            started = begun.job.started
            answer |= {
                "pid": 0 if started is None else started.pid,
                "env": dict(begun.command.env),
                "cgroup": plain.of_value(begun.cgroup),
                "own_network": run.own_network,
            }
        if request["owner"] == here.owner_id:
            return answer, []
        answer |= {
            "owner": here.owner_id,
            "version": _sys.PROTOCOL_VERSION,
            "idmap": plain.of_value(supervisor.idmap),
            "rootless": here.rootless,
            "many_ids": here.many_ids,
            "capabilities": here.capabilities,
        }
        return answer, [supervisor.copy_connection()]

    def _end_lease(self, connection: socket.socket) -> None:
        """What its process has begun does not outlive it."""
        for job in self._leases.pop(connection, ()):
            # A dead supervisor has taken them along.
            with suppress(PycontainerError):
                session.current().supervisor.signal(job, _SIGKILL)

    def _files(self, connection: socket.socket, request: dict[str, Any]) -> Answer:
        served = self.container.serving if request["running"] else self.container.served
        with in_time.limited(request["timeout"], "files"):
            served()  # says at once why it cannot be
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        threading.Thread(target=relay, args=(ours, served), daemon=True).start()
        return {}, [theirs.detach()]

    def _forward(self, connection: socket.socket, request: dict[str, Any]) -> Answer:
        where = plain.to_value(request["where"])
        host, port = self.container.forward(request["port"], **where)
        self.container.changed()
        return {"host": host, "port": port}, []

    def _remove(self, connection: socket.socket, request: dict[str, Any]) -> Answer:
        self.container.remove(force=request["force"])
        self.container.record_no_more()
        hidden = self._persistent.hide(self._id, self.container.name)
        discard(hidden, files.remove_tree)
        self._ring()
        self._end()
        return self._status(connection, request)


def main(store: str, container: str, held: int, first: int) -> None:
    """The keeper of `container`; `held` is its lock, and `first` the connection of who began it."""
    spawning.ready_for_signals()
    os.environ["PYCONTAINER_STORE"] = store
    for fd in (held, first):
        os.set_inheritable(fd, False)
    connection = socket.socket(fileno=first)
    try:
        keeper = Keeper(store, container, held)
    except PycontainerError as error:
        # To whatever is asked first.
        if control.receive(connection) is not None:
            control.send(connection, {"error": control.of_error(error)})
        os._exit(1)
    status = 1
    try:
        keeper.run(connection)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        # Threads that talk to somebody end with the process.
        os._exit(status)
