"""One place where the kernel's refusals under the store become the store's errors."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from pycontainer.errors import NoSpace, StoreError


@contextmanager
def store_errors(doing: str, path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns an OSError into NoSpace (ENOSPC, EDQUOT) or StoreError, naming what was done and where."""
    try:
        yield
    except OSError as error:
        raise translate(error, doing, path) from error


def translate(error: OSError, doing: str, path: str | os.PathLike[str]) -> StoreError:
    """The store's error for `error`."""
    kind = NoSpace if error.errno in (errno.ENOSPC, errno.EDQUOT) else StoreError
    name = errno.errorcode.get(error.errno or 0, str(error))
    return kind(f"{doing} {os.fspath(path)}: {name}")
