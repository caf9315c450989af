"""Manifests from a registry or its mirrors: resolved by HEAD, fetched by GET, verified by answers.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from pycontainer.distribution.answers import ACCEPT, KNOWN, Answer, check, stated_digest, stated_type
from pycontainer.distribution.failures import Failure
from pycontainer.distribution.reply import Reply, read_whole
from pycontainer.distribution.source import Source
from pycontainer.errors import (
    AuthError,
    DigestMismatch,
    InvalidImage,
    RateLimited,
    RegistryError,
    TransportError,
)
from pycontainer.oci._document import MAX_DOCUMENT
from pycontainer.oci.descriptor import Descriptor
from pycontainer.oci.digest import Digest

T = TypeVar("T")


def resolve(sources: Sequence[Source], repository: str, reference: str) -> Descriptor:
    """What a tag or digest stands for, without its content where the source says enough."""
    return _first(sources, lambda source: _head(source, repository, reference))


def fetch(sources: Sequence[Source], repository: str, reference: str) -> Answer:
    """The manifest or index of a tag or digest."""
    return _first(sources, lambda source: _get(source, repository, reference))


def _first(sources: Sequence[Source], ask: Callable[[Source], T]) -> T:
    """What the first source answers that can; what the last one raises, where none can."""
    for source in sources[:-1]:
        try:
            return ask(source)
        except RegistryError as error:
            source.failed(error)
        except InvalidImage as error:
            source.failed(TransportError(str(error)))
    return ask(sources[-1])


def _head(source: Source, repository: str, reference: str) -> Descriptor:
    pauses = source.pauses()
    while True:
        reply = source.attempt("HEAD", repository, f"manifests/{reference}", headers={"Accept": ACCEPT})
        if isinstance(reply, Reply):
            reply.close()
            found = _described(reply, reference)
            return found if found is not None else _get(source, repository, reference).descriptor
        if not reply.again and not isinstance(reply.error, AuthError | RateLimited | TransportError):
            # Some know no HEAD; and an answer with a body says more of what is wrong.
            return _get(source, repository, reference).descriptor
        pauses.after(reply)


def _get(source: Source, repository: str, reference: str) -> Answer:
    def ask() -> Reply | Failure:
        return source.attempt("GET", repository, f"manifests/{reference}", headers={"Accept": ACCEPT})

    reply, body = read_whole(ask, MAX_DOCUMENT, source.pauses())
    separator = "@" if Digest.is_valid(reference) else ":"
    return check(body, reply.headers, reference, source.name(repository) + separator + reference)


def _described(reply: Reply, reference: str) -> Descriptor | None:
    """What the answer to a HEAD says, None where that is too little."""
    named = stated_digest(reply.headers)
    if Digest.is_valid(reference):
        if named is not None and named != reference and named.algorithm == Digest(reference).algorithm:
            what = f"{reply.shown()}: the registry has {named} there"
            raise DigestMismatch(what, status=reply.status, url=reply.safe_url)
        named = Digest(reference)
    media_type, size = stated_type(reply.headers), reply.length
    if named is None or not size or size > MAX_DOCUMENT or media_type not in KNOWN:
        return None
    return Descriptor(media_type, named, size)
