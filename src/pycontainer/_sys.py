"""The only importer of the compiled module: typed functions over it, no cdata leaves.

The functions return what the kernel gave or raise `OSError` with its errno; the callers know
what was being done and turn that into a `PycontainerError`.
"""

from __future__ import annotations

import errno
import math
import os
import select
import struct
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import attrs

from pycontainer import in_time
from pycontainer._native import ffi, lib

PROGRAM = Path(__file__).with_name("_supervisor")

PROTOCOL_VERSION: int = lib.PCTR_PROTOCOL_VERSION
MAX_INLINE: int = lib.PCTR_MAX_INLINE
READY_SECONDS: float = lib.PCTR_READY_NS / 1e9
"""How long the supervisor keeps what was set up in advance."""
_SLICE_SECONDS = 0.05
_LONGEST_SECONDS = 1e6
"""More than that poll(2) cannot be told."""

NOT_COLLECTED: int = lib.PCTR_NOT_COLLECTED
RECORD_SIZE: int = ffi.sizeof("struct pctr_record")
OP_SIZE: int = ffi.sizeof("struct pctr_op")
REQUEST_SIZE: int = ffi.sizeof("struct pctr_request")
PLAN_SIZE: int = ffi.sizeof("struct pctr_plan")
FILE_REQUEST_SIZE: int = ffi.sizeof("struct pctr_file_request")
FILE_REPLY_SIZE: int = ffi.sizeof("struct pctr_file_reply")
FORWARD_REQUEST_SIZE: int = ffi.sizeof("struct pctr_forward_request")
FORWARD_REPLY_SIZE: int = ffi.sizeof("struct pctr_forward_reply")
FORWARD_ADDRESSES: int = lib.PCTR_FORWARD_ADDRESSES
IMPAIR_REQUEST_SIZE: int = ffi.sizeof("struct pctr_impair_request")
IMPAIR_REPLY_SIZE: int = ffi.sizeof("struct pctr_impair_reply")
RESOLVE_REQUEST_SIZE: int = ffi.sizeof("struct pctr_resolve_request")
RESOLVE_REPLY_SIZE: int = ffi.sizeof("struct pctr_resolve_reply")
RESOLVE_ADDRESSES: int = lib.PCTR_RESOLVE_ADDRESSES
RESOLVE_TEXT: int = lib.PCTR_RESOLVE_TEXT


def constants(enum: str, prefix: str) -> dict[str, int]:
    """The names and values of one C enumeration, without their common prefix."""
    elements: dict[int, str] = ffi.typeof(f"enum {enum}").elements
    return {name.removeprefix(prefix): value for value, name in elements.items()}


def _checked(result: int, path: str | None = None) -> int:
    if result < 0:
        raise OSError(-result, os.strerror(-result), path)
    return result


def start_supervisor(into: Held) -> bool:
    """Start the supervisor program and keep its socket; gives whether it runs from sealed memory."""
    program = os.open(PROGRAM, os.O_RDONLY | os.O_CLOEXEC)
    memory = ffi.new("int *")
    try:
        into.keep(_checked(lib.pctr_client_start(program, memory), str(PROGRAM)))
        return bool(memory[0])
    finally:
        os.close(program)


def poll(poller: select.poll, deadline: float | None) -> list[tuple[int, int]]:
    """poll(2) until something is ready, or until the `deadline` (time.monotonic) with an empty list; as
    long as there is time (`in_time`).

    In the main thread in slices: a signal that comes between the interpreter's last look and the
    system call is noticed at its end only, so Ctrl-C would have to be pressed twice.
    """
    main = threading.get_ident() == threading.main_thread().ident
    end = in_time.ends()
    while True:
        in_time.check()
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            return poller.poll(0)
        part = left
        if end is not None:
            until = max(0.0, min(end - time.monotonic(), _LONGEST_SECONDS))
            part = until if left is None else min(left, until)
        if main:
            part = _SLICE_SECONDS if part is None else min(part, _SLICE_SECONDS)
        if found := poller.poll(None if part is None else math.ceil(part * 1000)):
            return found


def await_input(fd: int) -> None:
    """Where time is limited, waits for something to read, which can wait no longer then."""
    if in_time.ends() is not None:
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        poll(poller, None)


class Descriptor:
    """A place for a descriptor, where C itself puts it.

    A signal's handler may raise (Ctrl-C) right after a call into C: a number that was only
    returned would be lost then, with what it stands for.
    """

    __slots__ = ("_cell",)

    def __init__(self) -> None:
        self._cell = ffi.new("int *", -1)

    @property
    def fd(self) -> int:
        """-1 before and after."""
        return int(self._cell[0])

    def close(self) -> None:
        """Twice does no harm."""
        lib.pctr_client_close(self._cell)


class Held(Descriptor):
    """One that is closed when nobody refers to it any more: whoever uses it meanwhile, or was interrupted."""

    __slots__ = ()

    def __init__(self) -> None:
        # Closed by C: out of a `__del__`, Ctrl-C would be reported and ignored.
        self._cell = ffi.gc(ffi.new("int *", -1), lib.pctr_client_close)

    def keep(self, fd: int) -> None:
        """Takes over one that is open. Closing and forgetting it is one call into C: after Ctrl-C between the
        two, somebody else's would be closed."""
        self._cell[0] = fd


def request(sock: int, message: bytes, fds: Sequence[int], channel: Descriptor | None) -> None:
    """Send one request; `channel` becomes the descriptor on which its records arrive."""
    cell = ffi.NULL if channel is None else channel._cell
    _checked(lib.pctr_client_request(sock, message, len(message), fds, len(fds), cell))


@attrs.frozen
class Record:
    """One record about a job (protocol.h, struct pctr_record). Times in seconds."""

    kind: int
    stage: int
    op: int
    error: int
    pid: int
    status: int
    started: float
    exited: float
    user: float
    system: float
    input_bytes: int
    output_bytes: int
    code: int
    detail: str
    collected: tuple[bytes | None, ...]


_RECORD = struct.Struct("=IIiiiiQQQQQQII256s")
if _RECORD.size != RECORD_SIZE:
    raise ImportError("the compiled module was built from another protocol.h: build it again")

_new_buffer = ffi.new_allocator(should_clear_after_alloc=False)


def receive(sock: int, *, peek: bool = False) -> Record | None:
    """The next record of a channel, without waiting; None at its end.

    With `peek` it stays there, so that nothing is lost when a signal's handler raises meanwhile.
    Raises `BlockingIOError` when there is none yet.
    """
    buffer = _new_buffer("char[]", lib.PCTR_MAX_RECORD)
    count = ffi.new("unsigned *")
    size = _checked(lib.pctr_client_receive(sock, buffer, lib.PCTR_MAX_RECORD, ffi.NULL, count, peek))
    if size == 0:
        return None
    if size < RECORD_SIZE:
        raise OSError(errno.EPROTO, "a record that is too short")
    data = ffi.buffer(buffer, size)[:]
    kind, stage, op, error, pid, status, started, exited, user, system, read, written, code, _, detail = (
        _RECORD.unpack_from(data)
    )
    return Record(
        kind,
        stage,
        op,
        error,
        pid,
        status,
        started / 1e9,
        exited / 1e9,
        user / 1e6,
        system / 1e6,
        read * 512,
        written * 512,
        code,
        os.fsdecode(detail[: detail.index(b"\0")]),
        _collected(data[RECORD_SIZE:]) if size > RECORD_SIZE else (),
    )


def _collected(data: bytes) -> tuple[bytes | None, ...]:
    """Splits what followed an EXITED record: lengths and bytes in turn."""
    found: list[bytes | None] = []
    at = 0
    while at + 4 <= len(data):
        length = int.from_bytes(data[at : at + 4], sys.byteorder)
        at += 4
        if length == NOT_COLLECTED:
            found.append(None)
        else:
            found.append(data[at : at + length])
            at += length
    return tuple(found)


def receive_fd(sock: int, into: Descriptor | None = None) -> int | None:
    """The one descriptor that a message on `sock` carries, without waiting; None at its end. It is put
    `into` that place, too."""
    fds = ffi.new("int[1]") if into is None else into._cell
    count = ffi.new("unsigned *", 1)
    buffer = ffi.new("char[8]")
    size = _checked(lib.pctr_client_receive(sock, buffer, 8, fds, count, False))
    if size == 0 or count[0] == 0:
        return None
    return int(fds[0])


def lend(pipe: int, data: memoryview) -> int:
    """How many bytes the pipe took. They are read from where they lie, so they must stay there, unchanged,
    until the reader has them (vmsplice(2))."""
    return _checked(lib.pctr_client_lend(pipe, ffi.from_buffer(data), len(data)))


def watch_directory(directory: int) -> int:
    """A descriptor that becomes readable when a name appears in the open `directory` (inotify(7)).

    Raises OSError: no permission, no procfs, or this user's limit on such descriptors is reached.
    """
    return _checked(lib.pctr_client_watch(directory))
