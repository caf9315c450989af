"""Lists that registries give page by page (distribution-spec, "Listing tags"; RFC 8288 links)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pycontainer.distribution.address import onward, origin
from pycontainer.distribution.transport import Document, Transport
from pycontainer.errors import InvalidImage, TransportError
from pycontainer.oci import _document as d

PAGE = 1000
"""Entries that are asked for at once; registries may give less."""

_MAX_PAGES = 10_000
_LINK = re.compile(r'\s*<([^<>]{1,8192})>\s*;[^,]*\brel\s*=\s*"?next\b"?', re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,254}", re.ASCII)


def documents(transport: Transport, path: str, *, scope: str) -> Iterator[Document]:
    """The pages, one after the other. Raises RegistryError, TransportError where they lead in a circle."""
    seen = set()
    following: str | None = transport.base() + path
    while following is not None:
        seen.add(following)
        page = transport.read(following, scope=scope, limit=d.MAX_DOCUMENT)
        yield page
        following = _next(page, transport)
        if following in seen or len(seen) >= _MAX_PAGES:
            raise TransportError(f"{page.shown()}: the pages of the list do not end", url=page.safe_url)


def names(transport: Transport, path: str, *, scope: str, key: str) -> Iterator[str]:
    """The strings under `key` in each page; each is a name of tags' or repositories' characters."""
    for page in documents(transport, f"{path}?n={PAGE}", scope=scope):
        for name in _listed(page, key):
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise TransportError(f"{page.shown()}: {key}: not a list of names", url=page.safe_url)
            yield name


def _listed(page: Document, key: str) -> list[object]:
    """What is listed under `key`; null, as some registries say, is an empty list."""
    try:
        found = d.load(page.body, page.shown()).optional(key, d.check_list) or []
    except InvalidImage as error:
        raise TransportError(str(error), url=page.safe_url) from None
    return found


def _next(page: Document, transport: Transport) -> str | None:
    """The next page's address, None after the last; the same registry must be there."""
    found = _LINK.match(page.headers.get("Link", "")[:16384])
    if found is None:
        return None
    following = onward(page.url, found[1])
    if origin(following) != origin(transport.base()):
        raise TransportError(f"{page.shown()}: the list goes on at another host", url=page.safe_url)
    return following
