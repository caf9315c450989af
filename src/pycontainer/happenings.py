"""`events()`: what happens to the containers and images of this process, and to persistent containers, told
while it does."""

from __future__ import annotations

import datetime
import functools
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, get_args

import attrs

from pycontainer import known
from pycontainer.errors import InvalidOption

if TYPE_CHECKING:
    from types import TracebackType

    from pycontainer.container import Container
    from pycontainer.execution import Execution
    from pycontainer.image import Image
    from pycontainer.lives import Run

EventType = Literal[
    "create",
    "start",
    "die",
    "oom",
    "stop",
    "kill",
    "pause",
    "unpause",
    "restart",
    "remove",
    "exec",
    "health",
    "pull",
    "push",
]

_MOST = 10_000
_SLICE_SECONDS = 0.05


def _frozen(attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    return MappingProxyType(dict(attributes))


@attrs.frozen(kw_only=True)
class Event:
    """One thing that happened. `attributes` holds what belongs to its type: `exit_code` and `cause` of
    "die", `signal` of "kill", `args` of "exec", `health` of "health", `repository` and `digest` of "push"."""

    time: datetime.datetime
    type: EventType
    id: str
    """The container's, or the image's."""
    name: str | None = None
    """The container's, if it has one; the reference of what was pulled or pushed."""
    image: str | None = None
    """The id of the container's image."""
    attributes: Mapping[str, Any] = attrs.field(factory=dict, converter=_frozen)

    def __reduce__(self) -> tuple[Any, ...]:
        """A read-only view of a dictionary can be neither pickled nor copied."""
        values = attrs.asdict(self, recurse=False) | {"attributes": dict(self.attributes)}
        return functools.partial(type(self), **values), ()


class Events:
    """An iterator over what happens from the call of `events` on, until `close`. Any thread may close it.

    At most 10,000 events wait to be taken; what is more than that is left out, and counted in `lost`.
    """

    def __init__(self, types: frozenset[str], ring: Callable[[], None] | None = None) -> None:
        """`ring` is called for each that comes; it must not block."""
        self._types = types
        self._ring = ring
        self._waiting: deque[Event] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self.lost = 0
        """How many events came that nobody took in time."""
        with _lock:
            _listening.add(self)
        for container in known.everyone():
            watch(container)

    def get(self, timeout: float | None = None) -> Event | None:
        """The next one; None when it is closed, or when none comes within `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        main = threading.current_thread() is threading.main_thread()
        with self._changed:
            while not self._waiting:
                left = None if deadline is None else deadline - time.monotonic()
                if self._closed or (left is not None and left <= 0):
                    return None
                # In the main thread in slices, for the reason that `_sys.poll` has them.
                if main:
                    left = _SLICE_SECONDS if left is None else min(left, _SLICE_SECONDS)
                self._changed.wait(left)
            return self._waiting.popleft()

    def close(self) -> None:
        """No more events; twice does no harm."""
        with _lock:
            _listening.discard(self)
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if not anybody():
            for call in _on_silence:
                call()

    def __iter__(self) -> Events:
        return self

    def __next__(self) -> Event:
        event = self.get()
        if event is None:
            raise StopIteration
        return event

    def __enter__(self) -> Events:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # Left in the midst of a loop, say.
        self.close()

    def __repr__(self) -> str:
        return f"<Events {'closed' if self._closed else f'{len(self._waiting)} waiting'}>"

    def _put(self, event: Event) -> None:
        if event.type not in self._types:
            return
        with self._changed:
            if len(self._waiting) >= _MOST:
                self.lost += 1
            else:
                self._waiting.append(event)
                self._changed.notify()
        if self._ring is not None:
            self._ring()


# Garbage is collected, and closed, at any moment.
_lock = threading.RLock()
_listening: weakref.WeakSet[Events] = weakref.WeakSet()
_on_silence: list[Callable[[], None]] = []


TYPES: frozenset[str] = frozenset(get_args(EventType))


def anybody() -> bool:
    """Whether anybody listens in this process."""
    return len(_listening) > 0


def on_silence(call: Callable[[], None]) -> None:
    """Has `call` called whenever the last one has stopped listening."""
    _on_silence.append(call)


def events(types: EventType | Iterable[EventType] | None = None) -> Events:
    """What happens from now on, all of it or the types named (`EventType`): to the containers and images of
    this process, and to the persistent containers of the default store and those that this process makes
    or finds later, whoever does it ("exec": in this process only). That a container of `run` was started is
    told at its end, with the time when it was.

    Raises `InvalidOption` for a type that there is not, and `StoreError`.
    """
    wanted = TYPES if types is None else frozenset([types] if isinstance(types, str) else types)
    if unknown := wanted - TYPES:
        shown = ", ".join(map(repr, sorted(map(str, unknown))))
        raise InvalidOption(f"types: there is no {shown}, only {', '.join(sorted(TYPES))}")
    found = Events(wanted)
    try:
        from pycontainer.keeping import telling

        telling.listen_to_all()
    except BaseException:
        found.close()
        raise
    return found


def emit(
    type: EventType,
    id: str,
    *,
    name: str | None = None,
    image: str | None = None,
    time: datetime.datetime | None = None,
    **attributes: Any,
) -> None:
    """Tells everybody who listens; costs nothing where nobody does."""
    if not anybody():
        return
    now = time or datetime.datetime.now(datetime.timezone.utc)
    event = Event(time=now, type=type, id=id, name=name, image=image, attributes=attributes)
    with _lock:
        listening = list(_listening)
    for one in listening:
        one._put(event)


def tell(container: Container, type: EventType, **attributes: Any) -> None:
    """`emit` for a container."""
    if anybody():
        emit(type, container.id, name=container.name, image=container.image.id, **attributes)


def watch(container: Container) -> None:
    """Has the end of the program that runs in it told, without anybody waiting for it."""
    run = container._run
    if run is None or not anybody():
        return
    with _lock:
        if run.end_is_told or run.job.final is not None or run.job.lost:
            return
        run.end_is_told = True
    # Told by whoever finds it out, before what that one does next; and somebody has to look.
    run.job.on_end(lambda: _tell_end(container, run))
    container._journal.mind(run.job)


def _tell_end(container: Container, run: Run) -> None:
    if not anybody():
        return
    result = run.result()
    if result is None:
        # The supervisor died, which nobody else can tell the reason of.
        return tell(container, "die", time=run.finished_at, exit_code=None, cause=None)
    if result.cause == "oom":
        tell(container, "oom", time=run.finished_at)
    tell(container, "die", time=run.finished_at, exit_code=result.returncode, cause=result.cause)


def tell_once(execution: Execution, container: str, name: str | None, image: Image) -> None:
    """For a container of that id which is removed with its program: its life, as far as that is known when it
    is over."""
    if anybody():
        about = functools.partial(emit, id=container, name=name, image=image.id)
        about("create")
        execution.job.on_end(lambda: _tell_life(execution, about))


def _tell_life(execution: Execution, about: Callable[..., None]) -> None:
    from pycontainer.execution import BYTES
    from pycontainer.supervisor.client import RECORD

    record = execution.job.final
    if record is None:
        # The supervisor died, which nobody else can tell the reason of.
        about("die", exit_code=None, cause=None)
    elif record.kind != RECORD["FAILED"]:
        result = execution.completed(BYTES)
        over = _at(record.exited)
        about("start", time=_at(record.started))
        if result.cause == "oom":
            about("oom", time=over)
        about("die", time=over, exit_code=result.returncode, cause=result.cause)
    about("remove")


def _at(monotonic: float) -> datetime.datetime:
    ago = datetime.timedelta(seconds=time.monotonic() - monotonic)
    return datetime.datetime.now(datetime.timezone.utc) - ago


def _after_fork_in_child() -> None:
    """They are the parent's."""
    global _lock, _listening
    _lock = threading.RLock()
    _listening = weakref.WeakSet()


os.register_at_fork(after_in_child=_after_fork_in_child)
