"""A tree as a tar stream, always the same bytes for the same tree (image-spec, layer.md).

Entries are sorted by name as bytes, owners are numbers, times are whole seconds of the last change
(at most SOURCE_DATE_EPOCH), and there is no entry for the directory itself. The supervisor's child
reads the tree and writes the stream into a pipe (tar_write.h); this is the pipe's other end.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path

import attrs

from pycontainer import _sys, in_time
from pycontainer.blobs.failures import translate
from pycontainer.errors import ImageError
from pycontainer.supervisor import client, files, plan
from pycontainer.supervisor.plan import MS_PRIVATE, Ops

_CHUNK = 1 << 20
# Large enough that both ends seldom wait for each other; the default is 64 KiB.
_PIPE = 1 << 20

CLONE_NEWNS = 0x00020000
MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
"""clone(2), mount(2)."""

_PLACE = "/sys"
"""Where a tree is mounted for the child alone: it exists on every machine."""


@attrs.frozen
class Ownership:
    """Ids in the tree that become root's in the stream: the caller's own, so that a tree made by an
    ordinary user gives the same layer as the same tree made by root. -1 stands for none."""

    uid: int = -1
    gid: int = -1

    @staticmethod
    def of_caller() -> Ownership:
        """In a user namespace the caller's own are root's already; what has no place in it, files of
        the machine's root for one, becomes root's too (user_namespaces(7), "Unmapped IDs")."""
        if client.default().rootless:
            return Ownership(_overflow("uid"), _overflow("gid"))
        return Ownership(os.geteuid(), os.getegid())


class TreeStream:
    """One tree as a tar stream; `newest` is the latest time in it, in seconds since 1970, once the
    stream is at its end (None where there is no entry)."""

    def __init__(
        self,
        name: str,
        *,
        directory: str | None = None,
        mounts: Callable[[Ops], None] | None = None,
        below: str = "/",
        ownership: Ownership | None = None,
        clamp: int | None = None,
        kind: files.Tree = "plain",
        without: Sequence[str] = (),
        target: int = 0,
    ) -> None:
        """`name` is what the tree is called in messages. It lies in `directory`, as this process sees
        it, or it is what lies `below` in the root that `mounts` makes, which may join the namespaces of the
        job `target`. `clamp` is the latest time that an entry may have, in seconds since 1970. `without` are
        paths in the tree, without a slash at their beginning, that are left out."""
        self.newest: int | None = None
        self._name = name
        self._directory = directory
        self._mounts = mounts
        self._below = below
        self._ownership = ownership or Ownership()
        self._clamp = clamp
        self._kind: files.Tree = kind
        self._without = without
        self._target = target

    def chunks(self) -> Generator[bytes, None, None]:
        """The stream, in pieces of at most about 1 MiB. Raises ImageError naming the file that cannot be
        read, or that changed meanwhile, InvalidImage naming one that a layer cannot hold, and LaunchError."""
        opened = [] if self._directory is None else [_open_directory(self._directory)]
        try:
            stream = Piped(self._plan(), opened, self._name, target=self._target)
        finally:
            for fd in opened:
                os.close(fd)
        held = b""
        for piece in stream.pieces():
            if len(piece) < files.NEWEST.size:
                held += piece
                continue
            if held:
                yield held
            held = piece
        end = len(held) - files.NEWEST.size
        (newest,) = files.NEWEST.unpack_from(held, end)
        self.newest = None if newest == files.NO_ENTRY else newest
        yield held[:end]

    def _plan(self) -> Ops:
        ops = Ops(plan.Data())
        if self._mounts is not None:
            ops.unshare(CLONE_NEWNS)
            self._mounts(ops)
        ops.write_tar(
            0,
            "" if self._directory is not None else self._below,
            flags=files.tar_flags(self._kind),
            uid=self._ownership.uid,
            gid=self._ownership.gid,
            latest=self._clamp,
            without=self._without,
        )
        return ops


class Piped:
    """What a child of the supervisor writes into a pipe, the first of its descriptors."""

    def __init__(self, ops: Ops, fds: Sequence[int], name: str, *, target: int = 0) -> None:
        """`name` is what it reads, for messages; `fds` follow the pipe and stay the caller's. `target` is
        the job that it may join. Raises LaunchError."""
        self._name = name
        self._reader, writer = _pipe()
        try:
            self._job = files.start(ops, [writer, *fds], target=target)
        except BaseException:
            os.close(self._reader)
            raise
        finally:
            os.close(writer)

    def pieces(self) -> Generator[bytes, None, None]:
        """All of it, once, in pieces of at most 1 MiB. Raises what `files.check_tar` does."""
        try:
            yield from _pieces(self._reader, self._job)
            record = self._job.wait()
            assert record is not None
            files.check_tar(record, self._name)
        finally:
            self._job.stop()
            os.close(self._reader)


def of_directory(path: str, *, ownership: Ownership, clamp: int | None = None) -> TreeStream:
    """The tree below `path`, a link to it included."""
    return TreeStream(path, directory=path, ownership=ownership, clamp=clamp)


def of_upper(path: str, *, clamp: int | None = None, without: Sequence[str] = ()) -> TreeStream:
    """The changeset of a container's writable layer at the absolute `path`, `without` some paths in it.

    What is in there may be swapped while it is read: so it is read through a mount on which nothing
    is a device.
    """

    def mounts(ops: Ops) -> None:
        ops.open_tree(0, path, how=0)
        ops.propagation(MS_PRIVATE)
        ops.bind(0, _PLACE, MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, how=0)
        ops.root(_PLACE)

    return TreeStream(path, mounts=mounts, clamp=clamp, kind="upper", without=without)


def _pieces(reader: int, job: client.Job) -> Iterator[bytes]:
    """What comes out of the pipe until the job is over: another process, forked meanwhile, may hold
    the pipe open for longer."""
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    poll.register(job.channel, select.POLLIN)
    while True:
        in_time.check()
        try:
            piece = os.read(reader, _CHUNK)
        except BlockingIOError:
            if job.final is not None:
                return
            ready = _sys.poll(poll, None)
            if any(fd != reader for fd, _ in ready):
                job.take()
            continue
        if not piece:
            return
        yield piece


def _pipe() -> tuple[int, int]:
    try:
        reader, writer = os.pipe()
    except OSError as error:
        raise translate(error, "archiving a tree", "through a pipe") from error
    os.set_blocking(reader, False)
    # Refused where the user's share of pipe buffers is used up: slower, not wrong (pipe(7)).
    with contextlib.suppress(PermissionError):
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, _PIPE)
    return reader, writer


def _open_directory(path: str) -> int:
    """Here, not by the supervisor: an ordinary user's sees other mounts."""
    try:
        return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, str(error))
        raise ImageError(f"{path}: cannot be read: {name}") from error


def _overflow(kind: str) -> int:
    return int(Path(f"/proc/sys/kernel/overflow{kind}").read_text())
