"""Copying one file or tree from one side to another, name by name.

A file comes into being under a name of its own and then takes its place, so what is there is whole.
Directories that are there already keep their looks. Trees may change meanwhile: what vanishes is left out.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator

import attrs

from pycontainer import in_time
from pycontainer.errors import ContainerError, LaunchError
from pycontainer.files.data import Mover
from pycontainer.files.sides import Looks, Side
from pycontainer.files.trail import Trail

_SWAPPED = (errno.ELOOP, errno.ENXIO, errno.EINVAL, errno.ENOTDIR)
"""What a name gives that has become something else since it was looked at."""
_TRIES = 5
_LINKED = 2**20
"""Files with several names that are remembered at most; more of them become files of their own."""
_SHOWN = 10
_KINDS = {stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


@attrs.define
class _Level:
    """One directory on the way: what is to be done there."""

    inner: list[str]
    looks: Looks | None
    """For one that was made; set when all is in it."""


@attrs.frozen
class _Spot:
    """Where a copy goes: a name in a directory, which is the end of `trail` in a tree."""

    at: int
    name: str
    trail: Trail | None


class _Gone(OSError):
    """What was to be copied is not there any more."""


class _Swapped(OSError):
    """It has become something else."""


class Copying:
    """One copy, from `source` to `target`; `dress` tells what a copy looks like."""

    def __init__(
        self, source: Side, target: Side, dress: Callable[[os.stat_result], Looks], temporary: str
    ) -> None:
        """`temporary` is a name that nothing has but what an earlier attempt at this copy left."""
        self._source = source
        self._target = target
        self._dress = dress
        self._temporary = temporary
        self._mover = Mover()
        self._linked: dict[tuple[int, int], list[str]] = {}
        self._left_out: list[str] = []

    def one(self, source_at: int, name: str, target_at: int, new: str) -> None:
        """Copies something that is no directory. Raises ContainerError, also for what cannot be copied."""
        with explained(name):
            if self._settle(source_at, name, _Spot(target_at, new, None)):
                raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        self._confess()

    def top(self, source: Trail, target_at: int, name: str | None) -> None:
        """Copies a directory to a name in another, or what is in it into that one (None)."""
        with explained():
            looks = self._dress(os.fstat(source.fd))
            new = name is not None and self._directory(target_at, name)
            top = os.dup(target_at) if name is None else self._target.directory(target_at, name)
        with Trail(top, self._target.directory) as target:
            self._tree(source, target, looks if new else None)

    def _tree(self, source: Trail, target: Trail, looks: Looks | None) -> None:
        """`looks` for the target's top, if it is new."""
        levels = [_Level(self._listed(source, target), looks)]
        while levels:
            level = levels[-1]
            if level.inner:
                inner = self._enter(source, target, level.inner.pop())
                if inner is not None:
                    levels.append(inner)
                continue
            with explained(*source.names):
                if level.looks is not None:
                    self._target.dress_directory(target.fd, level.looks)
                levels.pop()
                if levels:
                    source.leave()
                    target.leave()
        self._confess()

    def _directory(self, at: int, name: str) -> bool:
        """Makes a directory, or takes the one that is there; whether it is new."""
        try:
            self._target.mkdir(at, name)
        except FileExistsError:
            return False
        return True

    def _listed(self, source: Trail, target: Trail) -> list[str]:
        """Copies what is in the directory, and gives the names of the directories in there."""
        inner = []
        with explained(*source.names), os.scandir(source.fd) as entries:
            for entry in entries:
                name = checked(entry.name)
                with explained(*source.names, name):
                    if self._settle(source.fd, name, _Spot(target.fd, name, target)):
                        inner.append(name)
        return inner

    def _enter(self, source: Trail, target: Trail, name: str) -> _Level | None:
        with explained(*source.names, name):
            try:
                source.enter(name)
            except OSError as error:
                if error.errno in (errno.ENOENT, *_SWAPPED):
                    return None  # it has gone meanwhile
                raise
            if source.id == target.top_id:
                raise ContainerError(f"{name!r}: a directory cannot be copied into itself")
            looks = self._dress(os.fstat(source.fd))
            new = self._directory(target.fd, name)
            target.enter(name)
            return _Level(self._listed(source, target), looks if new else None)

    def _settle(self, source_at: int, name: str, spot: _Spot) -> bool:
        """Copies one name, unless it is a directory: then it says so, and nothing more."""
        for attempt in range(_TRIES):
            in_time.check()
            try:
                with _reading():
                    status = self._source.status(source_at, name)
                if stat.S_ISDIR(status.st_mode):
                    return True
                self._leaf(source_at, name, status, spot)
            except _Gone:
                if spot.trail is None:
                    raise
            except _Swapped:
                if attempt == _TRIES - 1:
                    raise
                continue
            break
        return False

    def _leaf(self, source_at: int, name: str, status: os.stat_result, spot: _Spot) -> None:
        looks = self._dress(status)
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFREG:
            if status.st_nlink < 2 or not self._joined(status, spot):
                self._file(source_at, name, spot)
                self._remember(status, spot)
        elif kind == stat.S_IFLNK:
            with _reading():
                content = self._source.readlink(source_at, name)
            self._place(spot, lambda temporary: self._link(spot.at, temporary, content, looks))
        elif kind == stat.S_IFIFO:
            self._place(spot, lambda temporary: self._fifo(spot.at, temporary, looks))
        else:
            way = () if spot.trail is None else spot.trail.names
            self._left_out.append(f"{'/'.join([*way, name])!r} ({_KINDS.get(kind, 'of no known kind')})")

    def _file(self, source_at: int, name: str, spot: _Spot) -> None:
        with _reading():
            source = self._source.file(source_at, name)
        try:
            looks = self._dress(os.fstat(source))
            self._place(spot, lambda temporary: self._fill(source, spot.at, temporary, looks))
        finally:
            os.close(source)

    def _fill(self, source: int, at: int, name: str, looks: Looks) -> None:
        fd = self._target.create(at, name)
        try:
            self._mover.move(source, fd)
            self._target.dress_file(fd, at, name, looks)
        finally:
            os.close(fd)

    def _link(self, at: int, name: str, content: str, looks: Looks) -> None:
        self._target.symlink(at, name, content)
        self._target.dress_name(at, name, looks)

    def _fifo(self, at: int, name: str, looks: Looks) -> None:
        self._target.mkfifo(at, name)
        self._target.dress_name(at, name, looks)

    def _place(self, spot: _Spot, make: Callable[[str], None]) -> None:
        """What `make` makes under a name of its own takes its place; nothing is left of it otherwise."""
        try:
            try:
                make(self._temporary)
            except FileExistsError:
                # An agent that went away in the middle left it.
                self._target.unlink(spot.at, self._temporary)
                make(self._temporary)
            self._target.rename(spot.at, self._temporary, spot.name)
        except BaseException:
            with contextlib.suppress(OSError, LaunchError):
                self._target.unlink(spot.at, self._temporary)
            raise

    # Hard links.

    def _joined(self, status: os.stat_result, spot: _Spot) -> bool:
        """Whether the file was copied under another name, of which this is one more now."""
        names = self._linked.get((status.st_dev, status.st_ino))
        if names is None or spot.trail is None:
            return False
        try:
            existing_at = spot.trail.way(names[:-1])
        except OSError:
            return False  # somebody moved the copy
        try:
            self._place(spot, lambda temporary: self._target.link(spot.at, temporary, existing_at, names[-1]))
        except FileNotFoundError:
            return False
        finally:
            os.close(existing_at)
        return True

    def _remember(self, status: os.stat_result, spot: _Spot) -> None:
        if spot.trail is not None and status.st_nlink > 1 and len(self._linked) < _LINKED:
            self._linked[status.st_dev, status.st_ino] = [*spot.trail.names, spot.name]

    # What went wrong.

    def _confess(self) -> None:
        if self._left_out:
            shown = ", ".join(self._left_out[:_SHOWN])
            more = len(self._left_out) - _SHOWN
            raise ContainerError(f"all was copied but {shown}{f' and {more} more' if more > 0 else ''}")


def checked(name: str) -> str:
    """A name as a directory of the other side lists it, if it is one name and no way."""
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise ContainerError(f"a directory lists the name {name!r}")
    return name


@contextlib.contextmanager
def explained(*names: str) -> Iterator[None]:
    """Turns an OSError into a ContainerError that says at which name of the tree it came up."""
    try:
        yield
    except OSError as error:
        shown = "/".join(names) or "."
        raise ContainerError(f"{shown!r}: {error.strerror or error}") from error


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    """Tells what a source does that changes from what else may go wrong."""
    try:
        yield
    except FileNotFoundError as error:
        raise _Gone(*error.args) from error
    except OSError as error:
        if error.errno in _SWAPPED:
            raise _Swapped(*error.args) from error
        raise
