"""One program in a running container that asks whether something is so, without a thread that waits."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import attrs

from pycontainer.errors import SupervisorError
from pycontainer.streams import DEVNULL, PIPE, STDOUT
from pycontainer.supervisor.client import RECORD

if TYPE_CHECKING:
    from pycontainer.container import Container

OUTPUT = 4096
"""How much of a probe's output is kept, bytes: the last, as an error stands at the end."""
_CHUNK = 64 * 1024
_KILLED_SECONDS = 10.0


@attrs.frozen
class Answer:
    """How a probe ended: its exit status (-N after signal N), and what it wrote."""

    code: int
    output: bytes


class Probe:
    """A program under way. Who polls `fds` for reading calls `answer` whenever one of them is ready."""

    def __init__(self, container: Container, args: Sequence[str], **overrides: Any) -> None:
        """`overrides` are options as `Container.exec` takes them. Raises `LaunchError` and `InvalidState`."""
        self._output = b""
        self._execution = container._join(list(args), DEVNULL, PIPE, STDOUT, overrides, report=False)
        self._streams = self._execution.streams
        for fd in self._streams.readers:
            os.set_blocking(fd, False)

    @property
    def fds(self) -> list[int]:
        channel = self._execution.job.channel
        return [*self._streams.readers, *([channel] if channel >= 0 else [])]

    def answer(self) -> Answer | None:
        """The answer once it is there. Raises `LaunchError` where the program could not be executed, and
        `SupervisorError`; nothing is open after either."""
        for fd in list(self._streams.readers):
            self._read(fd)
        try:
            record = self._execution.job.take()
            if record is None:
                return None
            if record.kind == RECORD["FAILED"]:
                self._execution.final()
        except BaseException:
            self._streams.close()
            raise
        for fd in list(self._streams.readers):
            self._read(fd)
        self._streams.close()
        assert record is not None
        return Answer(os.waitstatus_to_exitcode(record.status), self._output)

    def kill(self) -> None:
        """Ends the program with all that it started; its answer comes soon."""
        self._execution.job.end()

    def abandon(self) -> None:
        """Ends it and waits for that; closes everything."""
        self.kill()
        self._streams.close()
        with suppress(SupervisorError):
            self._execution.job.wait(_KILLED_SECONDS)

    def _read(self, fd: int) -> None:
        """What there is: a program that writes without end does not keep us."""
        with suppress(BlockingIOError):
            data = os.read(fd, _CHUNK)
            if not data:
                self._streams.drop(fd)
            self._output = (self._output + data)[-OUTPUT:]
