"""Files of the caller's: made beside their target under another name, and renamed when they are complete."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from pycontainer.errors import ImageError, NoSpace

# How the names of files in the making begin.
MADE = ".pycontainer-"


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
    `with` block before drops it. Raises ImageError and NoSpace."""

    def __init__(self, path: str, *, directory: str | None = None) -> None:
        """`directory` is where the file lies until then, on the same file system; by default beside
        its target."""
        self._path = path
        self._made = ""
        beside = directory or os.path.dirname(path) or "."
        with writing_errors(path):
            while True:
                made = os.path.join(beside, MADE + os.urandom(8).hex())
                with contextlib.suppress(FileExistsError):
                    # Readable for whom the umask lets read, as a file that is opened for writing.
                    self._fd = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
                    break
        self._made = made

    def write(self, chunk: bytes) -> None:
        with writing_errors(self._path):
            view = memoryview(chunk)
            while view:
                view = view[os.write(self._fd, view) :]

    def commit(self) -> None:
        with writing_errors(self._path):
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
