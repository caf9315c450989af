"""Blobs from a registry or its mirrors: verified while they stream, resumed where they broke off."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import attrs

from pycontainer.distribution.failures import Failure
from pycontainer.distribution.reply import Reply
from pycontainer.distribution.source import Source
from pycontainer.errors import DigestMismatch, TransportError
from pycontainer.oci.descriptor import Descriptor
from pycontainer.oci.digest import Digest

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/(\*|[0-9]{1,19})", re.ASCII)
# Getting this much further makes up for a failure: a registry that ends every answer early is still one.
_PROGRESS = 1 << 20
# But not for ever: so many answers for one blob are an attempt to keep us busy.
_MAX_ANSWERS = 1000


@attrs.define
class _State:
    """How far a blob is: `done` bytes were given to the caller; `ranged` is whether Range is any use."""

    done: int = 0
    ranged: bool = True
    answers: int = 0


def blob(sources: Sequence[Source], repository: str, descriptor: Descriptor) -> Iterator[bytes]:
    """The blob's content in pieces of at most 1 MiB; the next source goes on where one has failed.

    Raises DigestMismatch before the end is reported where content or size is something else (a mirror
    that took part in that is not asked again), and RegistryError where the last source fails.
    """
    hashed = descriptor.digest.hasher()
    state = _State()
    used = []
    for source in sources:
        before = state.done
        last = source is sources[-1]
        failure = None
        for piece in _from_source(source, repository, descriptor, state):
            if isinstance(piece, Failure):
                failure = piece
                break
            hashed.update(piece)
            yield piece
        if state.done > before:
            used.append(source)
        if failure is None:
            break
        source.failed(failure.error)
        if last:
            raise failure.error
    if Digest.from_hash(hashed) != descriptor.digest:
        error = DigestMismatch(
            f"{sources[-1].name(repository)}: blob {descriptor.digest}: the content is something else"
        )
        for source in used:
            source.failed(error)
        raise error


def _from_source(
    source: Source, repository: str, descriptor: Descriptor, state: _State
) -> Iterator[bytes | Failure]:
    """What one source gives from where the blob is on; a Failure is the last thing that comes."""
    pauses = source.pauses()
    reached = state.done
    while True:
        failure = None
        for piece in _one_answer(source, repository, descriptor, state):
            if isinstance(piece, Failure):
                failure = piece
                break
            state.done += len(piece)
            yield piece
        if failure is None:
            return
        if state.done - reached >= _PROGRESS and state.answers < _MAX_ANSWERS:
            pauses.progress()
            reached = state.done
        refusal = pauses.refusal(failure)
        if refusal is not None:
            yield refusal
            return


def _one_answer(
    source: Source, repository: str, descriptor: Descriptor, state: _State
) -> Iterator[bytes | Failure]:
    """One request for what is missing, and what came of it."""
    state.answers += 1
    resumed = state.done > 0 and state.ranged
    headers = {"Range": f"bytes={state.done}-"} if resumed else {}
    reply = source.attempt(
        "GET",
        repository,
        f"blobs/{descriptor.digest}",
        headers=headers,
        ok=(200, 206, 416) if resumed else (200,),
    )
    if isinstance(reply, Failure):
        yield reply
        return
    with reply:
        start = _start(reply, state.done, descriptor.size)
        if isinstance(start, Failure):
            # The whole blob again is dear, but better than none.
            state.ranged = False
            yield start
            return
        if start + (reply.length or 0) > descriptor.size:
            yield _mismatch(reply, descriptor, start + (reply.length or 0))
            return
        yield from _body(reply, start, state.done, descriptor)


def _start(reply: Reply, wanted: int, size: int) -> int | Failure:
    """Where in the blob the answer's body begins: at `wanted` or before that."""
    if reply.status == 200:
        return 0
    text = reply.headers.get("Content-Range", "")
    form = _CONTENT_RANGE.fullmatch(text) if reply.status == 206 else None
    if form is not None and int(form[1]) <= wanted <= int(form[2]) < size and form[3] in ("*", str(size)):
        return int(form[1])
    what = f"{reply.shown()}: answered {reply.status} to a request for the bytes from {wanted} on"
    return Failure(TransportError(what, status=reply.status, url=reply.safe_url), again=True)


def _body(reply: Reply, start: int, done: int, descriptor: Descriptor) -> Iterator[bytes | Failure]:
    """The bytes of the body from `done` on, where the body begins at `start` of the blob."""
    position = start
    for piece in reply.pieces(descriptor.size - start):
        if isinstance(piece, Failure):
            yield piece
            return
        skipped = min(max(done - position, 0), len(piece))
        position += len(piece)
        if skipped < len(piece):
            yield piece[skipped:] if skipped else piece
    if position < descriptor.size:
        yield _mismatch(reply, descriptor, position)


def _mismatch(reply: Reply, descriptor: Descriptor, got: int) -> Failure:
    """A body of the wrong size: one that is too short may only have been cut off on the way."""
    what = f"{reply.shown()}: {got} bytes, not {descriptor.size}"
    error = DigestMismatch(what, status=reply.status, url=reply.safe_url)
    return Failure(error, again=got < descriptor.size)
