"""One life of a container's program, from start to end, and what its restart policy does after it."""

from __future__ import annotations

import datetime
import os
import threading
import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from pycontainer import execution, output, session
from pycontainer.errors import CapabilityUnavailable, LaunchError, PycontainerError
from pycontainer.execution import Execution
from pycontainer.logs.lines import START
from pycontainer.minding import minder
from pycontainer.restarting import Backoff, Restart
from pycontainer.runtime import cgroups
from pycontainer.streams import PIPE
from pycontainer.waiting import Watch

if TYPE_CHECKING:
    from pycontainer.completed import Completed
    from pycontainer.image import Image
    from pycontainer.logs.journal import Journal
    from pycontainer.options import Options
    from pycontainer.runtime.cgroups import CgroupPlan
    from pycontainer.supervisor.client import Job
    from pycontainer.wiring import Wiring
    from pycontainer.writable import WritableLayer

LIMITS = frozenset({"memory", "memory_swap", "cpus", "cpuset", "cpu_weight", "pids", "io_weight", "io_max"})
_FREEZE_SECONDS = 5.0
_SLICE_SECONDS = 0.05


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)


class Run:
    """A program that was started as a container's own."""

    def __init__(self, execution: Execution, out: output.Output, wiring: Wiring) -> None:
        self.execution = execution
        self.output = out
        self.own_network = not wiring.hosts_network
        self._wiring = wiring
        self.started_at = now()
        self.log_start = START
        """Where in the container's log its own output begins."""
        self.successor: Run | None = None
        """What its restart policy has started after it."""
        self.end_is_told = False
        """Whether those who listen to events are told of its end."""
        self._watch = Watch(execution)
        self._finished_at: datetime.datetime | None = None

    @classmethod
    def begin(
        cls,
        image: Image,
        args: Any,
        options: Options,
        layer: WritableLayer,
        wiring: Wiring,
        journal: Journal | None = None,
        keep: Callable[[Run], None] | None = None,
    ) -> Run:
        """Starts it; it has been executed when this returns. What it writes goes to `journal`, too. `keep`
        is called with it at the end, while Ctrl-C still ends it.

        Raises `LaunchError`; nothing runs then, and the layer is as the container's set-up left it.
        """
        streams = execution.open_streams(options, options.stdin, PIPE, PIPE)
        run: Run | None = None
        here = session.current()
        job = here.supervisor.new_job()
        try:
            root, layer_fds = layer.use(), layer.descriptors()
            decided = execution.decide(
                here,
                image,
                options,
                container=layer.id,
                root=root,
                place=layer.place,
                layer_fds=layer_fds,
                directory=layer.directory,
                once=False,
                wiring=wiring,
            )
            request = decided.request(image, args, options)
            begun = execution.begin_container(here, request, options, streams, layer_fds=layer_fds, job=job)
            wiring.files.asked()
            run = cls(begun, output.Output(streams, journal), wiring)
            if journal is not None:
                run.log_start = journal.log.end()
            streams.close_child()
            if streams.console is None:
                # Its thread is made while others make the container.
                run.output.drain()
            run._watch.started(None)
            run.started_at = now()
            if streams.console is not None:
                run.output.drain()
            layer.taken()
            wiring.started(job)
            if keep is not None:
                keep(run)
            job.keep()
        except BaseException as error:
            # The next start finds the layer and the control groups free.
            execution.settle(job)
            wiring.end()
            streams.close_child()
            layer.taken()
            if run is None:
                streams.close()
            else:
                run.close()
            if isinstance(error, OSError):
                raise LaunchError("taking in output", errno=error.errno) from error
            raise
        return run

    @property
    def job(self) -> Job:
        return self.execution.job

    def running(self) -> bool:
        """Whether it still runs, without waiting."""
        return self._watch.running()

    def ended(self, deadline: float | None) -> bool:
        """Waits for the end; False when time runs out before. Raises `SupervisorError`."""
        try:
            return self._watch.ended(deadline)
        finally:
            if self.job.final is not None or self.job.lost:
                self._wiring.ended(self.job)

    @property
    def exit_code(self) -> int | None:
        """None where the supervisor died before it could tell."""
        return None if self.job.lost else os.waitstatus_to_exitcode(self.execution.final().status)

    @property
    def finished_at(self) -> datetime.datetime:
        """After its end; where nobody can tell when that was, when it was noticed."""
        if self._finished_at is None:
            self._finished_at = now()
            if self.job.final is not None and self.job.final.exited:
                ago = time.monotonic() - self.job.final.exited
                self._finished_at -= datetime.timedelta(seconds=max(0.0, ago))
            # When it was started is when that was heard of; a short program may be over by then.
            self._finished_at = max(self._finished_at, self.started_at)
        return self._finished_at

    def result(self) -> Completed | None:
        """The result, after the end, without what was written; None where the supervisor died before."""
        return None if self.job.lost else self.execution.completed(execution.BYTES)

    def completed(self, *, timed_out: bool = False) -> Completed:
        """The result, after the end; with the last megabyte of each stream."""
        self.output.finish()
        result = self.execution.completed(execution.BYTES, timed_out=timed_out)
        result.stdout, result.stderr = self.output.tail("stdout"), self.output.tail("stderr")
        return result

    def so_far(self) -> Completed:
        """As `completed`, while it goes on or before its policy starts the next one; without `returncode`."""
        result = self.execution.so_far(execution.BYTES)
        result.stdout, result.stderr = self.output.tail("stdout"), self.output.tail("stderr")
        return result

    def close(self) -> None:
        """After the end."""
        self.output.close()

    def freeze(self) -> None:
        """Returns when everything stands still. Raises `CapabilityUnavailable` and `LaunchError`."""
        groups = self.execution.cgroup
        if groups is None or not groups.freeze:
            raise CapabilityUnavailable(
                "pausing: the container has no control group with a freezer",
                remedy="run as root, or where control groups are delegated to this user",
            )
        try:
            cgroups.freeze(groups, time.monotonic() + _FREEZE_SECONDS)
        except (OSError, TimeoutError) as error:
            raise LaunchError("pausing", errno=error.errno, path=getattr(error, "filename", None)) from error

    def thaw(self) -> None:
        groups = self.execution.cgroup
        if groups is not None:
            cgroups.write(groups.thaw)

    def update(self, before: Options, options: Options, names: Collection[str]) -> None:
        """Writes the limits in `names`, which were those of `before`. Raises `CapabilityUnavailable` and
        `LaunchError`."""
        groups = self.execution.cgroup
        if groups is None:
            raise CapabilityUnavailable("limits: the container has no control group")
        limits, over = cgroups.changes(before.limits(), options.limits(), names)
        try:
            wider = self._widened(groups, limits)
            cgroups.write((*cgroups.lift(wider, over), *cgroups.update(wider, limits)))
        except OSError as error:
            raise LaunchError("updating limits", errno=error.errno, path=error.filename) from error

    def _widened(self, groups: CgroupPlan, limits: cgroups.Limits) -> CgroupPlan:
        """Its control groups, with those that the limits need. Raises what `cgroups.widen` raises, and
        OSError."""
        here = self.execution.session
        wider, added = cgroups.widen(groups, here.cgroups, limits)
        if added is not None:
            made = added.directories

            def remove() -> None:
                cgroups.remove(made)
                here.forget_groups(made)

            # The supervisor removes those that it made; it removes these when it ends before they go.
            here.answer_for_groups(made)
            self.job.on_end(remove)
            cgroups.join(groups, added)
        self.execution.cgroup = wider
        return wider


class Restarts:
    """What a restart policy does with the programs of one container."""

    def __init__(self, policy: Restart | None, changed: Callable[[], None]) -> None:
        """`changed` is called when it is decided that none comes any more."""
        self._policy = policy
        self._told = changed
        self._backoff = Backoff()
        self._changed = threading.Condition()
        self._latest: Run | None = None
        self._cancel: Callable[[], None] | None = None
        self.count = 0
        self.wanted = policy is not None
        """False once somebody stopped the container."""

    def begin(self) -> None:
        """Somebody starts the container."""
        with self._changed:
            # The end of the one before may only be noticed now.
            self._latest = None
            self.wanted = self._policy is not None
            self.count = 0
        self._forget_timer()

    def end(self) -> None:
        """Somebody stops it: it is not to be started again."""
        with self._changed:
            self.wanted = False
            self._changed.notify_all()
        self._forget_timer()
        self._told()

    def _forget_timer(self) -> None:
        with self._changed:
            cancel, self._cancel = self._cancel, None
        if cancel is not None:
            cancel()

    def pending(self, run: Run) -> bool:
        """Whether another one comes after `run`, which has ended."""
        return self._latest is run and self._wants(run)

    def watch(self, run: Run, again: Callable[[Run], None], before: Run | None) -> None:
        """After a start: has `again` called when the program has ended and is to be started again. `before`
        is the one that it was started after in this way."""
        if self._policy is None:
            return
        with self._changed:
            self._latest = run
            if before is not None:
                self.count += 1
                before.successor = run
            self._changed.notify_all()
        minder().after_end(run.job, lambda: self._ended(run, again))

    def after(self, run: Run, deadline: float | None) -> Run | None:
        """The program that the policy starts after `run`, which has ended; None where it starts none, and
        `run` itself at the deadline."""
        with self._changed:
            while run.successor is None and self.pending(run):
                if deadline is not None and time.monotonic() >= deadline:
                    return run
                # In slices, so that Ctrl-C is noticed.
                self._changed.wait(_SLICE_SECONDS)
            return run.successor

    def _wants(self, run: Run) -> bool:
        code = run.exit_code
        if not self.wanted or self._policy is None or code is None:
            return False
        return self._policy.wants(code, self.count)

    def _ended(self, run: Run, again: Callable[[Run], None]) -> None:
        with self._changed:
            if run is not self._latest:
                return  # somebody stopped it and started another one meanwhile
            if self._wants(run):
                lasted = (run.finished_at - run.started_at).total_seconds()
                delay = self._backoff.after(lasted)
                self._cancel = minder().after(delay, lambda: self._start(run, again))
                return
        self.end()

    def _start(self, run: Run, again: Callable[[Run], None]) -> None:
        try:
            again(run)
        except (PycontainerError, RuntimeError):
            # There is nobody to raise it to (no thread can be started, say); the container stays stopped,
            # as its status says.
            self.end()
