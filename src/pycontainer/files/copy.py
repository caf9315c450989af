"""Copying into a container and out of it, in the manner of `docker cp`.

    source     destination is            what happens
    file       missing                   it is made (its directory must be there)
    file       missing, ends with "/"    error
    file       a file                    it is replaced
    file       a directory               the file goes into it, under its own name
    directory  missing                   it is made, with what is in the source
    directory  a file                    error
    directory  a directory               the source goes into it, under its own name; if the source ends
                                         with "/.", what is in it does

Directories that are there are merged with, files in there replaced. A source that is a link is copied as one,
unless it ends with "/" or "/."; a destination that is a link is followed.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs

from pycontainer.errors import ContainerError, InvalidOption, LaunchError
from pycontainer.files.pure import PureContainerPath
from pycontainer.files.serving import Patience, account_file, working_directory
from pycontainer.files.sides import ContainerSide, HostSide, Looks, Side
from pycontainer.files.trail import Trail
from pycontainer.files.tree import Copying, explained
from pycontainer.runtime import user as users

if TYPE_CHECKING:
    from pycontainer.container import Container
    from pycontainer.files.paths import ContainerPath
    from pycontainer.supervisor.served import Served

_KEPT = 0o1777
"""Of a mode, where the copy belongs to somebody else: not the set-id bits."""


def copy_in(
    container: Container,
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str] | ContainerPath,
    *,
    user: str | int | None = None,
) -> None:
    """See `Container.copy_in`."""
    given, target = _host(src, "src"), _inside(container, dst, "dst")

    def dress_as(uid: int, gid: int) -> Callable[[os.stat_result], Looks]:
        return lambda status: _looks(status, uid, gid)

    def begin(served: Served) -> tuple[Side, Side, Callable[[os.stat_result], Looks]]:
        uid, gid = (0, 0) if user is None else _ids(container, served, str(user))
        return HostSide(), ContainerSide(served), dress_as(uid, gid)

    _copy(container, f"copying {given.text!r} to {target.text!r} in", given, target, begin)


def copy_out(
    container: Container,
    src: str | os.PathLike[str] | ContainerPath,
    dst: str | os.PathLike[str],
) -> None:
    """See `Container.copy_out`."""
    given, target = _inside(container, src, "src"), _host(dst, "dst")

    def begin(served: Served) -> tuple[Side, Side, Callable[[os.stat_result], Looks]]:
        return ContainerSide(served), HostSide(), lambda status: _looks(status, -1, -1)

    _copy(container, f"copying {given.text!r} to {target.text!r} from", given, target, begin)


@attrs.frozen
class _Given:
    """A path as the caller gave it, and absolute, without what only says how it is meant."""

    text: str
    path: str
    slash: bool
    """Whether it ends with a slash: a directory is meant."""
    contents: bool
    """Whether it ends with "/.": what is in the directory is meant."""

    @classmethod
    def of(cls, text: str, start: str) -> _Given:
        contents = text == "." or text.endswith("/.")
        slash = contents or text.endswith("/")
        path = posixpath.join(start, text)
        while path.endswith(("/", "/.")):
            path = path[: path.rindex("/")]
        return cls(text, path or "/", slash, contents or not path)


@attrs.frozen
class _Goal:
    """Where a copy goes: to a name in a directory, or (None) what is in the source into the directory."""

    directory: str
    name: str | None


def _copy(
    container: Container,
    what: str,
    given: _Given,
    target: _Given,
    begin: Callable[[Served], tuple[Side, Side, Callable[[os.stat_result], Looks]]],
) -> None:
    """Again where the agent went meanwhile, to the same goal."""
    goal: _Goal | None = None
    temporary = f".{os.urandom(8).hex()}.copy"
    patience = Patience()
    while True:
        served = container._served()
        try:
            source_side, target_side, dress = begin(served)
            origin = _origin(source_side, given)
            goal = goal or _goal(target_side, target, origin)
            copying = Copying(source_side, target_side, dress, temporary)
            _transfer(copying, source_side, target_side, origin, goal)
            return
        except LaunchError:
            if not served.ended or patience.over():
                raise
        except (ContainerError, OSError) as error:
            why = error if isinstance(error, ContainerError) else f"{error.filename!r}: {error.strerror}"
            raise ContainerError(f"{what} {container!r}: {why}") from error.__cause__ or error


@attrs.frozen
class _Origin:
    """What is copied: a name in a directory, or a whole directory (None); `called` what a copy is."""

    directory: str
    name: str | None
    called: str
    is_directory: bool
    contents: bool


def _origin(side: Side, given: _Given) -> _Origin:
    """Raises OSError and ContainerError where it is not there, or not what was meant."""
    path, called = given.path, posixpath.basename(given.path)
    if given.slash or called == "..":
        path = side.resolve(path)
        called = posixpath.basename(path) if called == ".." else called
    directory, name = posixpath.split(path)
    if not name:
        return _Origin("/", None, "", True, True)
    at = side.top(directory)
    try:
        with explained(path):
            status = side.status(at, name)
    finally:
        os.close(at)
    found = stat.S_ISDIR(status.st_mode)
    if given.slash and not found:
        raise ContainerError(f"{given.text!r} is no directory")
    return _Origin(directory, name, called, found, given.contents)


def _goal(side: Side, target: _Given, origin: _Origin) -> _Goal:
    """Raises OSError and ContainerError where nothing can be copied to."""
    path = side.resolve(target.path)
    try:
        mode = side.look(path).st_mode
    except FileNotFoundError:
        if target.slash and not origin.is_directory:
            raise ContainerError(f"there is no directory {target.text!r}") from None
        return _Goal(*posixpath.split(path))
    if stat.S_ISDIR(mode):
        return _Goal(path, None if origin.is_directory and origin.contents else origin.called)
    if origin.is_directory or target.slash:
        raise ContainerError(f"{target.text!r} is no directory")
    return _Goal(*posixpath.split(path))


def _transfer(copying: Copying, source: Side, target: Side, origin: _Origin, goal: _Goal) -> None:
    at = source.top(origin.directory)
    try:
        to = target.top(goal.directory)
        try:
            if not origin.is_directory:
                assert origin.name is not None and goal.name is not None
                return copying.one(at, origin.name, to, goal.name)
            with explained(origin.called):
                top = os.dup(at) if origin.name is None else source.directory(at, origin.name)
            with Trail(top, source.directory) as way:
                copying.top(way, to, goal.name)
        finally:
            os.close(to)
    finally:
        os.close(at)


def _host(path: str | os.PathLike[str], option: str) -> _Given:
    return _Given.of(_text(path, option), os.getcwd())


def _inside(container: Container, path: str | os.PathLike[str] | PureContainerPath, option: str) -> _Given:
    if isinstance(path, PureContainerPath):
        if path.container.id != container.id:
            raise InvalidOption(f"{option}={path!r}: is a path of another container")
        path = str(path)
    return _Given.of(_text(path, option), posixpath.join("/", working_directory(container)))


def _text(path: str | os.PathLike[str], option: str) -> str:
    try:
        text = os.fsdecode(os.fspath(path))
    except TypeError as error:
        raise InvalidOption(f"{option}={path!r}: must be text or a path") from error
    if not text or "\0" in text:
        raise InvalidOption(f"{option}={path!r}: must not be empty or contain a NUL byte")
    return text


def _ids(container: Container, served: Served, user: str) -> tuple[int, int]:
    """Raises InvalidOption for who is unknown in the container."""
    passwd, group = (account_file(served, path) for path in ("/etc/passwd", "/etc/group"))
    who = users.resolve(user, passwd, group, image=repr(container))
    return who.uid, who.gid


def _looks(status: os.stat_result, uid: int, gid: int) -> Looks:
    mode = stat.S_IMODE(status.st_mode)
    same = (uid, gid) == (status.st_uid, status.st_gid)
    return Looks(mode if same else mode & _KEPT, uid, gid, status.st_atime_ns, status.st_mtime_ns)
