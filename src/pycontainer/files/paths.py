"""`ContainerPath`: a path of a container, with what pathlib's `Path` does to files."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING, Any, TypeVar

from pycontainer.files.following import resolve
from pycontainer.files.globbing import glob
from pycontainer.files.pure import PureContainerPath, Segment
from pycontainer.files.serving import account_file, scan, serving, stat_result, umask, working_directory
from pycontainer.runtime.user import group_name, user_name

if TYPE_CHECKING:
    from pycontainer.supervisor.served import Served

T = TypeVar("T")

_MISSING = (errno.ENOENT, errno.ENOTDIR, errno.EBADF, errno.ELOOP)
"""What a question about a file takes for "no", as pathlib does."""


class ContainerPath(PureContainerPath):
    """A path of a container; made by `Container.path`. Methods are pathlib's, in every state.

    A link inside leads within the container's root only. Relative paths begin at the container's
    working directory. What is done is done as the container's root (0:0): new files are root's, and
    modes get the container's umask. Methods raise OSError as pathlib's do, with the container's path in
    it; InvalidState once the container is removed, and LaunchError where its files cannot be
    reached at all. Only regular files can be opened (others: ENXIO), and those of the kernel's
    own file systems (/proc, /sys) not for writing.
    """

    __slots__ = ()

    def absolute(self) -> ContainerPath:
        """From the root; links and `..` stay."""
        if self.is_absolute():
            return self
        return type(self)(self._container, "/", working_directory(self._container), self)

    def resolve(self, strict: bool = False) -> ContainerPath:
        """From the root without links and `..`. What is missing stays as it is or, with `strict`, raises
        FileNotFoundError; and a loop of links OSError."""
        return self.with_segments(self._do(lambda served, path: resolve(served, path, strict=strict)))

    # Contents.

    def open(
        self,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> IO[Any]:
        """A file object, as the built-in `open` gives it. It stays what it is when the container goes."""

        def opener(path: str, flags: int) -> int:
            mask = 0o666 & ~umask(self._container)
            return serving(self._container, lambda served: served.open(path, flags, mask))

        return open(str(self.absolute()), mode, buffering, encoding, errors, newline, opener=opener)

    def read_bytes(self) -> bytes:
        with self.open("rb") as file:
            data: bytes = file.read()
            return data

    def read_text(
        self, encoding: str | None = None, errors: str | None = None, newline: str | None = None
    ) -> str:
        with self.open("r", -1, encoding, errors, newline) as file:
            text: str = file.read()
            return text

    def write_bytes(self, data: bytes | bytearray | memoryview) -> int:
        """Replaces the content; gives the number of bytes."""
        with self.open("wb") as file:
            return file.write(memoryview(data))

    def write_text(
        self,
        data: str,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> int:
        """Replaces the content; gives the number of characters."""
        if not isinstance(data, str):
            raise TypeError(f"data must be str, not {type(data).__name__}")
        with self.open("w", -1, encoding, errors, newline) as file:
            return file.write(data)

    # Directories.

    def iterdir(self) -> Iterator[ContainerPath]:
        """What is in the directory, in no order."""
        return iter([self / name for name, _ in self._do(scan)])

    def glob(self, pattern: str) -> Iterator[ContainerPath]:
        """What matches the pattern, `**` for any number of directories; in no order."""
        return glob(self, str(pattern))

    def rglob(self, pattern: str) -> Iterator[ContainerPath]:
        """What matches the pattern in this directory or beneath it."""
        return glob(self, str(pattern), anywhere=True)

    def walk(
        self,
        top_down: bool = True,
        on_error: Callable[[OSError], object] | None = None,
        follow_symlinks: bool = False,
    ) -> Iterator[tuple[ContainerPath, list[str], list[str]]]:
        """Each directory with the names of its directories and of its files, as pathlib's has it (3.12)."""
        pending: list[ContainerPath | tuple[ContainerPath, list[str], list[str]]] = [self]
        while pending:
            here = pending.pop()
            if isinstance(here, tuple):
                yield here
                continue
            try:
                names = here._do(scan)
            except OSError as error:
                if on_error is not None:
                    on_error(error)
                continue
            inner = [name for name, kind in names if here._is_inner(name, kind, follow_symlinks)]
            known = set(inner)
            found = here, inner, [name for name, _ in names if name not in known]
            if top_down:
                yield found
            else:
                pending.append(found)
            pending += [here / name for name in reversed(inner)]

    def _is_inner(self, name: str, kind: str, follow: bool) -> bool:
        return kind == "directory" or (follow and kind == "link" and (self / name).is_dir())

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Makes a directory, with `parents` those that are missing on the way."""
        mode &= ~umask(self._container)
        try:
            self._do(lambda served, path: served.mkdir(path, mode))
        except FileNotFoundError:
            if not parents or self.parent == self:
                raise
            self._make_parents()
            self.mkdir(mode, exist_ok=exist_ok)
        except OSError as error:
            if not exist_ok or not self.is_dir():
                raise self._exists(error) from None

    def _make_parents(self) -> None:
        for parent in reversed(self.absolute().parents):
            parent.mkdir(exist_ok=True)

    def _exists(self, error: OSError) -> OSError:
        """`/` and `..` have no name that could be made anew."""
        if error.errno != errno.EINVAL:
            return error
        return FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), error.filename)

    def rmdir(self) -> None:
        self._do(lambda served, path: served.rmdir(path))

    def rmtree(self) -> None:
        """Removes the directory with all that is in it; a mount in there is left, and an error (EBUSY).

        Raises NotADirectoryError for anything else, links too. (pathlib has no such method.)
        """
        if not stat.S_ISDIR(self.lstat().st_mode):
            path = str(self.absolute())
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        self._do(lambda served, path: served.remove_tree(path))

    # Names.

    def touch(self, mode: int = 0o666, exist_ok: bool = True) -> None:
        """Makes an empty file, or sets the times of what is there to now."""
        if exist_ok:
            now = time.time_ns()
            try:
                return self._do(lambda served, path: served.utime(path, now, now))
            except FileNotFoundError:
                pass
        flags = os.O_CREAT | os.O_WRONLY | (0 if exist_ok else os.O_EXCL)
        mode &= ~umask(self._container)
        os.close(self._do(lambda served, path: served.open(path, flags, mode)))

    def mkfifo(self, mode: int = 0o666) -> None:
        """Makes a named pipe. (pathlib has no such method.)"""
        mode &= ~umask(self._container)
        self._do(lambda served, path: served.mkfifo(path, mode))

    def unlink(self, missing_ok: bool = False) -> None:
        try:
            self._do(lambda served, path: served.unlink(path))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def rename(self, target: Segment) -> ContainerPath:
        """Gives it another name, which may be taken (rename(2)); gives the new path."""
        new = self.with_segments(target)
        self._do(lambda served, path: served.rename(path, str(new.absolute())))
        return new

    def replace(self, target: Segment) -> ContainerPath:
        return self.rename(target)

    def symlink_to(self, target: Segment, target_is_directory: bool = False) -> None:
        """Makes this path a link with `target` as its content. `target_is_directory` says nothing here."""
        content = str(self._inner(target))
        self._do(lambda served, path: served.symlink(path, content))

    def hardlink_to(self, target: Segment) -> None:
        """Makes this path another name of the file `target`."""
        existing = str(self.with_segments(target).absolute())
        self._do(lambda served, path: served.link(path, existing))

    def readlink(self) -> ContainerPath:
        return self.with_segments(self._do(lambda served, path: served.readlink(path)))

    # Attributes.

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """With the container's numbers of users and groups."""
        return stat_result(self._do(lambda served, path: served.stat(path, follow=follow_symlinks)))

    def lstat(self) -> os.stat_result:
        return self.stat(follow_symlinks=False)

    def chmod(self, mode: int, *, follow_symlinks: bool = True) -> None:
        self._do(lambda served, path: served.chmod(path, mode, follow=follow_symlinks))

    def lchmod(self, mode: int) -> None:
        """Without following a link, whose own mode Linux does not change (EOPNOTSUPP)."""
        self.chmod(mode, follow_symlinks=False)

    def owner(self, *, follow_symlinks: bool = True) -> str:
        """The user's name in the container's /etc/passwd; KeyError where there is none."""
        uid = self.stat(follow_symlinks=follow_symlinks).st_uid
        text = serving(self._container, lambda served: account_file(served, "/etc/passwd"))
        name = user_name(text, uid)
        if name is None:
            raise KeyError(f"no user {uid} in the container's /etc/passwd")
        return name

    def group(self, *, follow_symlinks: bool = True) -> str:
        """The group's name in the container's /etc/group; KeyError where there is none."""
        gid = self.stat(follow_symlinks=follow_symlinks).st_gid
        text = serving(self._container, lambda served: account_file(served, "/etc/group"))
        name = group_name(text, gid)
        if name is None:
            raise KeyError(f"no group {gid} in the container's /etc/group")
        return name

    # Questions.

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        return self._mode(follow_symlinks) is not None

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        return stat.S_ISREG(self._mode(follow_symlinks) or 0)

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        return stat.S_ISDIR(self._mode(follow_symlinks) or 0)

    def is_symlink(self) -> bool:
        return stat.S_ISLNK(self._mode(False) or 0)

    def is_fifo(self) -> bool:
        return stat.S_ISFIFO(self._mode() or 0)

    def is_socket(self) -> bool:
        return stat.S_ISSOCK(self._mode() or 0)

    def is_block_device(self) -> bool:
        return stat.S_ISBLK(self._mode() or 0)

    def is_char_device(self) -> bool:
        return stat.S_ISCHR(self._mode() or 0)

    def is_mount(self) -> bool:
        """Whether another file system than its parent's begins here."""
        if not self.is_dir(follow_symlinks=False):
            return False
        own, parent = self.stat(), (self / "..").stat()
        return own.st_dev != parent.st_dev or own.st_ino == parent.st_ino

    def samefile(self, other_path: Segment) -> bool:
        return os.path.samestat(self.stat(), self.with_segments(other_path).stat())

    def _mode(self, follow: bool = True) -> int | None:
        """None for what is not there, and what no file can be called."""
        try:
            return self._do(lambda served, path: served.stat(path, follow=follow)).mode
        except ValueError:
            return None
        except OSError as error:
            if error.errno not in _MISSING:
                raise
            return None

    def _do(self, call: Callable[[Served, str], T]) -> T:
        path = str(self.absolute())
        return serving(self._container, lambda served: call(served, path))
