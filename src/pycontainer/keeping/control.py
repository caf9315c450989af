"""How processes speak with a keeper: one JSON object a message, with descriptors, over SOCK_SEQPACKET.

Each connection carries one request at a time, answered in turn; whoever wants two things at once opens two.
Both ends look at who the other one is (SO_PEERCRED, unix(7)): the same user, or root.
"""

from __future__ import annotations

import array
import errno
import json
import os
import select
import socket
import struct
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import attrs

from pycontainer import _sys, errors
from pycontainer.completed import Completed, Usage
from pycontainer.errors import InvalidState, PycontainerError, StoreError, SupervisorError
from pycontainer.keeping import plain

PROTOCOL = 1
"""Of the requests; what the supervisor understands has a version of its own."""

SOCKET = "control.sock"

_INLINE = b"\0"
_IN_MEMORY = b"\1"
"""The first byte of a message: the object follows, or is in the memory file that is the last descriptor."""
_MAX_INLINE = 32 * 1024
_MAX_DOCUMENT = 16 * 2**20
_MAX_FDS = 8
_CREDENTIALS = struct.Struct("3i")
_BACKLOG = 64
_FIELDS = ("stage", "errno", "path", "hint", "missing", "remedy")


def send(sock: socket.socket, document: dict[str, Any], fds: Sequence[int] = ()) -> None:
    """Raises OSError."""
    body = json.dumps(document).encode("ascii")
    if len(body) <= _MAX_INLINE:
        socket.send_fds(sock, [_INLINE + body], list(fds), socket.MSG_NOSIGNAL)
        return
    memory = memory_file(body)
    try:
        socket.send_fds(sock, [_IN_MEMORY], [*fds, memory], socket.MSG_NOSIGNAL)
    finally:
        os.close(memory)


def receive(sock: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """One message and its descriptors, which are the caller's; None at the end. Raises OSError, EPROTO for
    what is no message."""
    data, fds, flags = receive_raw(sock, _MAX_INLINE + 1, _MAX_FDS)
    if not data:
        close_all(fds)
        return None
    try:
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise ValueError("too long")
        body = data[1:]
        if data[:1] == _IN_MEMORY:
            body = take_memory(fds.pop(), limit=_MAX_DOCUMENT)
        document = json.loads(body)
        if not isinstance(document, dict):
            raise ValueError("not an object")
    except (ValueError, IndexError, RecursionError) as error:
        close_all(fds)
        raise OSError(errno.EPROTO, f"a message that is none: {error}") from None
    except BaseException:
        close_all(fds)
        raise
    return document, fds


def receive_raw(sock: socket.socket, size: int, max_fds: int) -> tuple[bytes, list[int], int]:
    """One message, its descriptors, closed on exec, and its flags: `socket.recv_fds` ignores those that it is
    given. Raises OSError."""
    numbers = array.array("i")
    space = socket.CMSG_SPACE(max_fds * numbers.itemsize)
    data, parts, flags, _ = sock.recvmsg(size, space, socket.MSG_CMSG_CLOEXEC)
    for level, kind, content in parts:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            numbers.frombytes(content[: len(content) - len(content) % numbers.itemsize])
    return data, list(numbers), flags


def close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)


def memory_file(data: bytes) -> int:
    """A descriptor of a file in memory that holds `data`; the caller closes it."""
    memory = os.memfd_create("pycontainer-message", os.MFD_CLOEXEC)
    try:
        with open(memory, "wb", closefd=False) as file:
            file.write(data)
    except BaseException:
        os.close(memory)
        raise
    return memory


def take_memory(fd: int, *, limit: int) -> bytes:
    """What is in such a file, which is closed. Raises ValueError for more than `limit` bytes."""
    with open(fd, "rb") as file:
        file.seek(0)
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError("too long")
    return data


# Both ends.


def listen(directory: str) -> socket.socket:
    """Listens in a container's directory, for its owner alone. Raises OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with _Named(directory) as name:
            with suppress(FileNotFoundError):
                os.unlink(name)
            sock.bind(name)
            os.chmod(name, 0o600)
        sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def connect(directory: str) -> socket.socket | None:
    """A connection to the keeper of the container in `directory`; None where there is none. Raises StoreError
    for one that is another user's, and OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with _Named(directory) as name:
            sock.connect(name)
        if not trusted(sock):
            raise StoreError(f"{directory}: another user listens there")
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        sock.close()
        return None
    except BaseException:
        sock.close()
        raise
    return sock


def trusted(sock: socket.socket) -> bool:
    """Whether the other end is this user or root."""
    _, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return uid in (os.geteuid(), 0)


class _Named:
    """A socket's address in a directory whose path may be too long for one (unix(7): 108 bytes)."""

    def __init__(self, directory: str) -> None:
        self._fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> str:
        return f"/proc/self/fd/{self._fd}/{SOCKET}"

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def ask(
    sock: socket.socket, verb: str, fields: dict[str, Any], deadline: float | None
) -> tuple[dict[str, Any], list[int]]:
    """One request and its answer; the connection is closed where that fails.

    Raises the error that the keeper had, TimeoutError at the deadline (time.monotonic), and SupervisorError
    where the keeper died: with EPIPE where that was before it was asked.
    """
    failure = errno.EPIPE
    try:
        send(sock, {"protocol": PROTOCOL, "verb": verb, **fields})
        failure = errno.ECONNRESET
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        if not _sys.poll(poll, deadline):
            raise TimeoutError(errno.ETIMEDOUT, f"{verb}: the keeper does not answer")
        answer = receive(sock)
        if answer is None:
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
    except (BrokenPipeError, ConnectionResetError) as error:
        sock.close()
        raise SupervisorError(f"{verb}: asking the keeper, which died", errno=failure) from error
    except BaseException:
        # The answer to this question would be taken for the next one's.
        sock.close()
        raise
    document, fds = answer
    if "error" in document:
        close_all(fds)
        raise error_of(document["error"])
    return document, fds


# Errors.


def of_error(error: PycontainerError) -> dict[str, Any]:
    """An error as data, for the process that asked."""
    fields = {name: getattr(error, name) for name in _FIELDS if hasattr(error, name)}
    if isinstance(error, errors.WaitFailed):
        fields["logs"] = os.fsdecode(error.logs)
    if isinstance(error, (errors.ExitError, errors.Timeout)):
        fields["result"] = of_result(error.result)
        fields["timeout"] = getattr(error, "timeout", None)
    return {"type": type(error).__name__, "text": str(error), **fields}


def error_of(data: Any) -> PycontainerError:
    """The error that the keeper had."""
    fields = dict(data) if isinstance(data, dict) else {}
    kind = getattr(errors, str(fields.pop("type", "")), None)
    text = str(fields.pop("text", "the keeper failed"))
    if not (isinstance(kind, type) and issubclass(kind, PycontainerError)):
        return PycontainerError(text)
    try:
        if issubclass(kind, errors.WaitFailed):
            return kind(text, logs=os.fsencode(fields["logs"]))
        if issubclass(kind, errors.Timeout):
            return kind(result_of(fields["result"]), fields["timeout"])
        if issubclass(kind, errors.ExitError):
            return kind(result_of(fields["result"]))
        if issubclass(kind, errors.LaunchError):
            return kind(fields.pop("stage"), **fields)
        if issubclass(kind, errors.CapabilityUnavailable):
            return kind(fields["missing"], remedy=fields["remedy"])
        return kind(text)
    except (TypeError, KeyError):
        return PycontainerError(text)


def of_result(done: Completed) -> dict[str, Any]:
    """A result as data."""
    return {
        "args": plain.of_args(done.args),
        "returncode": done.returncode,
        "stdout": os.fsdecode(done.stdout),
        "stderr": os.fsdecode(done.stderr),
        "cause": done.cause,
        "usage": attrs.asdict(done.usage),
    }


def result_of(fields: dict[str, Any]) -> Completed:
    """The result that it was."""
    return Completed(
        fields["args"],
        fields["returncode"],
        os.fsencode(fields["stdout"]),
        os.fsencode(fields["stderr"]),
        cause=fields["cause"],
        usage=Usage(**fields["usage"]),
    )


def check_protocol(document: dict[str, Any]) -> None:
    """Raises InvalidState where the other end speaks another version."""
    if (theirs := document.get("protocol")) != PROTOCOL:
        raise InvalidState(
            f"the keeper speaks version {PROTOCOL} of its protocol, you speak {theirs}: pycontainer was "
            f"replaced while the container ran. Send process {os.getpid()} SIGTERM, which stops the "
            "container, and start it again"
        )


def deadline_in(seconds: float | None) -> float | None:
    return None if seconds is None else time.monotonic() + seconds
