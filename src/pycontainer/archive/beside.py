"""Files of the caller's: made beside their target without a name, which they get when they are complete."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pycontainer.errors import ImageError, NoSpace

# How the names of files in the making begin, where they have one.
MADE = ".pycontainer-"
# What file systems without O_TMPFILE answer, and kernels that take it for another flag (open(2)).
_NAMED_ONLY = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL})


@contextmanager
def writing_errors(path: str) -> Iterator[None]:
    """Turns what the system refuses into NoSpace (ENOSPC, EDQUOT) or ImageError, naming `path`."""
    try:
        yield
    except OSError as error:
        kind = NoSpace if error.errno in (errno.ENOSPC, errno.EDQUOT) else ImageError
        name = errno.errorcode.get(error.errno or 0, str(error))
        raise kind(f"{path}: cannot be written: {name}") from error
    except ValueError as error:
        # A NUL in the path never gets as far as the kernel.
        raise ImageError(f"{path!r}: cannot be written: {error}") from error


class Replacing:
    """A file in the making; `commit` puts it where `path` says, whatever was there, and leaving the
    `with` block before drops it. When its maker is killed it is gone: it has no name until then, where
    the file system can do that, or one for the moment of replacing another. Raises ImageError and NoSpace."""

    def __init__(self, path: str, *, directory: str | None = None) -> None:
        """`directory` is where the file lies until then, on the same file system; by default beside
        its target."""
        self._path = path
        self._beside = directory or os.path.dirname(path) or "."
        self._made = ""
        with writing_errors(path):
            try:
                # Readable for whom the umask lets read, as a file that is opened for writing.
                self._fd = os.open(self._beside, os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o666)
            except OSError as error:
                if error.errno not in _NAMED_ONLY:
                    raise
                self._fd = self._name(
                    lambda made: os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
                )

    def _name(self, make: Callable[[str], int]) -> int:
        """Gives the file a name that nothing has; what `make` gives."""
        while True:
            made = os.path.join(self._beside, MADE + os.urandom(8).hex())
            with contextlib.suppress(FileExistsError):
                result = make(made)
                self._made = made
                return result

    def _link(self, path: str) -> int:
        """open(2), O_TMPFILE: the only way that needs no capability. A `src_dir_fd`, which the absolute
        path makes no use of, is what has Python call linkat(2), following the link in /proc."""
        os.link(f"/proc/self/fd/{self._fd}", path, src_dir_fd=self._fd, follow_symlinks=True)
        return 0

    def write(self, chunk: bytes) -> None:
        with writing_errors(self._path):
            view = memoryview(chunk)
            while view:
                view = view[os.write(self._fd, view) :]

    def commit(self) -> None:
        with writing_errors(self._path):
            if not self._made:
                with contextlib.suppress(FileExistsError):
                    self._link(self._path)
                    return
                self._name(self._link)
            os.rename(self._made, self._path)
        self._made = ""

    def __enter__(self) -> Replacing:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
        if self._made:
            with writing_errors(self._made):
                os.unlink(self._made)


def write_whole(path: str, data: bytes, *, directory: str) -> None:
    """Replaces `path` by a file of `data`, whole or not at all. Raises ImageError and NoSpace."""
    with Replacing(path, directory=directory) as file:
        file.write(data)
        file.commit()


def plain_target(path: str) -> str:
    """Where a file that is to replace `path` goes: to what a link there leads to.

    Raises ImageError where something else than a plain file is there.
    """
    with writing_errors(path):
        target = os.path.realpath(path)
        try:
            mode = os.stat(target).st_mode
        except FileNotFoundError:
            return target
    if not stat.S_ISREG(mode):
        raise ImageError(f"{path}: is there already, and no plain file")
    return target
