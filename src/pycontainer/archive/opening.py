"""Opening an image archive: a directory or a file, compressed or not, told apart by content alone."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from pycontainer import _sys, in_time
from pycontainer.archive.files import Directory, Files, unreadable
from pycontainer.archive.tar_reader import TarFiles
from pycontainer.blobs.blobs import CHUNK
from pycontainer.blobs.staging import StagedFile
from pycontainer.errors import InvalidImage, NoSpace
from pycontainer.layer.compression import Format, decompress, peek
from pycontainer.store.store import Store


@contextmanager
def opened(store: Store, path: str) -> Iterator[Files]:
    """The files in the archive `path`.

    What is compressed, or cannot be read at any offset, is first decompressed into a temporary file of
    the store. Raises ImageError where it cannot be read, InvalidImage where it is damaged or too large,
    NoSpace and StoreError.
    """
    try:
        fd = in_time.opener(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
    except (OSError, ValueError) as error:
        raise unreadable(path, error if isinstance(error, OSError) else OSError(22, "")) from error
    try:
        mode = os.fstat(fd).st_mode
        if stat.S_ISDIR(mode):
            yield Directory(fd, path)
            return
        form, chunks = peek(_chunks(fd, path))
        if form == "none" and stat.S_ISREG(mode):
            yield TarFiles(fd, path)
            return
        with StagedFile(store.layout.staging) as staged:
            _stage(store, staged, decompress(chunks, form), path, form)
            yield TarFiles(staged.fd, path)
    finally:
        os.close(fd)


def _stage(store: Store, staged: StagedFile, chunks: Iterator[bytes], path: str, form: Format) -> None:
    limits, size = store.limits.within(store.layout.staging), 0
    try:
        for chunk in chunks:
            size += len(chunk)
            if size > limits.max_stream:
                text = f"{path}: longer than {limits.max_stream} bytes when decompressed"
                if limits.scarce:
                    raise NoSpace(f"{text}, and no more is free in {store.path}")
                raise InvalidImage(text)
            staged.write(chunk)
    except InvalidImage as error:
        raise InvalidImage(str(error) if str(error).startswith(path) else f"{path}: {error}") from None


def _chunks(fd: int, path: str) -> Iterator[bytes]:
    while True:
        try:
            _sys.await_input(fd)
            chunk = os.read(fd, CHUNK)
        except OSError as error:
            raise unreadable(path, error) from error
        if not chunk:
            return
        yield chunk
