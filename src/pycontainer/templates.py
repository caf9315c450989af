"""Templates: sealed containers, from which new ones start with the same files."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pycontainer import execution, launch
from pycontainer.errors import InvalidState, Timeout
from pycontainer.lives import Run
from pycontainer.options import Options
from pycontainer.snapshot.overlay import MAX_LAYERS
from pycontainer.units import refuse
from pycontainer.wiring import Wiring
from pycontainer.writable import DiskLayer, MemoryLayer, Sealed, WritableLayer

if TYPE_CHECKING:
    from types import TracebackType

    from pycontainer.container import Container
    from pycontainer.image import Image
    from pycontainer.store import RootFS

Preparing = Callable[["Container"], object] | launch.Arguments | str
"""What prepares a container: a function that is called with it, or a command that is run in it."""

_ONCE: dict[str, Any] = {"entrypoint": (), "stdin": None, "tty": False, "restart": None}
"""Options of a program that prepares a container: what it is called with is all that it is."""


class Template:
    """The files of a container that was sealed: they never change again.

    Its forks see them, and write to layers of their own. It is there until `remove`, and its files
    until the last of its forks is removed, too; neither outlives the process. As a context manager,
    leaving it removes it. Volumes, binds and file systems in memory are no part of it.
    """

    def __init__(
        self, image: Image, args: Any, options: Options, root: RootFS, layer: WritableLayer, home: str
    ) -> None:
        """Takes over the layer of a container that nobody will mount again; `Container.seal` makes them."""
        self.image = image
        """What the sealed container was made from."""
        self._args = args
        self._options = options
        # Kept, so that its layers stay, even when the image is removed.
        self._root = root
        self._home = home
        self._sealed: Sealed[Any] = Sealed(layer)
        self._owner_pid = os.getpid()
        self._lock = threading.Lock()
        self._removed = False

    def fork(
        self,
        args: Any = None,
        *,
        options: Options | None = None,
        timeout: float | None = None,
        **overrides: Any,
    ) -> Container:
        """Start a program in a new container that begins with these files; gives the container, running.

        `args` and options are those of the sealed container, but for its name, where none are
        given. Takes the same time however large the files are. Raises what `start` raises (`Timeout` after
        `timeout` seconds), and `InvalidState` for a template that was removed, or that is too many forks
        deep.
        """
        from pycontainer.container import Container

        chosen = Options.merge(self._options if options is None else options, {"name": None, **overrides})
        if chosen.persist:
            raise refuse("persist", True, "a fork goes with its template; commit the container to an image")
        layer = self._above()
        try:
            command = self._args if args is None else args
            made = Container(self.image, command, chosen, layer, home=self._home)
        except BaseException:
            layer.remove()
            raise
        try:
            return made.start(timeout)
        except BaseException:
            made.remove(force=True)
            raise

    def remove(self) -> None:
        """Remove it; forks that are there keep the files. Twice does no harm. Raises `StoreError`."""
        if self._owner_pid != os.getpid():
            return
        with self._lock:
            removed, self._removed = self._removed, True
        if not removed:
            self._sealed.let_go()

    close = remove

    def __enter__(self) -> Template:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.remove()

    def __repr__(self) -> str:
        return f"<Template {self._sealed.layer.id[:12]} {self.image!r}{' removed' if self._removed else ''}>"

    def _above(self) -> WritableLayer:
        """A new layer on the sealed one, which it holds."""
        if self._owner_pid != os.getpid():
            raise InvalidState(f"fork: {self!r} belongs to process {self._owner_pid}, which forked this one")
        self._check_depth()
        with self._lock:
            if self._removed or not self._sealed.hold():
                raise InvalidState(f"fork: {self!r} was removed")
        try:
            if isinstance(self._sealed.layer, MemoryLayer):
                return MemoryLayer(self._sealed)
            return DiskLayer(self._sealed.layer.root, self._sealed)
        except BaseException:
            self._sealed.let_go()
            raise

    def _check_depth(self) -> None:
        sealed = self._sealed.layer
        if isinstance(sealed, MemoryLayer):
            deep = len(sealed.place.below) + 2
        else:
            deep = len(sealed.uppers) + len(sealed.root.lower)
        if deep > MAX_LAYERS:
            raise InvalidState(
                f"fork: {self!r} stands on {deep - 1} layers, and the kernel stacks at most {MAX_LAYERS}; "
                "commit a container to an image and go on from that"
            )


def run_once(image: Image, args: Any, options: Options, layer: WritableLayer, timeout: float | None) -> None:
    """Runs a command on the layer of a container that does not run, and waits for it.

    Raises `LaunchError`, `ExitError` and `OutOfMemory` where it fails, and `Timeout`; nothing runs then.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    alone = Options.merge(options, _ONCE)
    wiring = Wiring(alone, layer.id, lasting=False)
    run = Run.begin(image, args, alone, layer, wiring)
    try:
        ended = run.ended(deadline)
        if not ended:
            execution.abort(run.job)
        result = run.completed(timed_out=not ended)
    except BaseException:
        execution.abort(run.job)
        raise
    finally:
        run.close()
        wiring.close()
    if not ended:
        assert timeout is not None
        raise Timeout(result, timeout)
    result.check_returncode()
