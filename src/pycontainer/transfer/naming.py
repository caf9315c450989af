"""Which image a failure is about."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pycontainer.errors import ImageError, RegistryError, StoreError


@contextmanager
def naming(image: str) -> Iterator[None]:
    """What fails within names `image`, as its user wrote it: a request's address can be a mirror's, a
    layer's is a digest, and a full disk knows neither."""
    try:
        yield
    except (ImageError, RegistryError, StoreError) as error:
        if image not in str(error):
            error.args = (f"{image}: {error}",)
        raise
