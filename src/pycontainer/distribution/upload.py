"""Blobs to a registry: in one request or in chunks, going on where the registry says that it is.

distribution-spec, "Pushing blobs". Every request holds its bytes in memory, one chunk, so it can be sent
again without reading the content again.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import attrs

from pycontainer.distribution.address import onward
from pycontainer.distribution.chunks import Chunk, Chunks, Content
from pycontainer.distribution.failures import Failure
from pycontainer.distribution.reply import Reply
from pycontainer.distribution.transport import Transport
from pycontainer.errors import DigestMismatch, RegistryError
from pycontainer.oci.digest import Digest

CHUNK = 5 << 20
"""Bytes in one request: the least that some registries take (S3's parts), and little to send again."""

_GROWN = 16 << 20
_MAX_CHUNK = 64 << 20
_MAX_RESTARTS = 2
_RANGE = re.compile(r"(?:bytes=)?0-(-?[0-9]{1,19})", re.ASCII)
# The upload is not where we think, or not there at all.
_LOST = frozenset({"BLOB_UPLOAD_INVALID", "BLOB_UPLOAD_UNKNOWN", "RANGE_INVALID"})


@attrs.frozen
class Pushed:
    """A blob that the registry has now; size in bytes."""

    digest: Digest
    size: int


def push_scope(repository: str) -> str:
    """The scope of writing (distribution: token scopes)."""
    return f"repository:{repository}:pull,push"


def push(
    transport: Transport,
    repository: str,
    content: Content,
    *,
    digest: Digest | None,
    size: int | None,
    sent: Callable[[int], None] | None,
) -> Pushed:
    """Uploads what `content` gives. `sent` is told the place in the content, in bytes, as it gets on.

    Raises RegistryError, and DigestMismatch where the content is not what `digest` and `size` say.
    """
    chunks = Chunks(content, digest, size, sent)
    try:
        return _Upload(transport, repository, chunks).run()
    finally:
        chunks.close()


class _Upload:
    def __init__(self, transport: Transport, repository: str, chunks: Chunks) -> None:
        self._transport = transport
        self._repository = repository
        self._scope = push_scope(repository)
        self._chunks = chunks
        self._location: str | None = None
        self._offset = 0
        self._size = CHUNK
        self._least = 0
        self._restarts = 0
        self._resumed = False

    def run(self) -> Pushed:
        pauses = self._transport.pauses()
        furthest = 0
        while True:
            failure = self._advance()
            if isinstance(failure, Pushed):
                return failure
            if failure.again and self._chunks.ended and self._is_there():
                # Only the answer was lost.
                return Pushed(self._chunks.digest(), self._chunks.reached)
            pauses.after(failure)
            self._find_out(failure)
            if self._offset > furthest:
                furthest = self._offset
                pauses.progress()

    def _advance(self) -> Pushed | Failure:
        """Sends what is left, until it is all there or something fails."""
        if self._location is None:
            self._begin()
        while True:
            # Each request has its price; once much is there, sending more of it again is bearable.
            size = max(self._size, min(self._offset // 10, _GROWN))
            chunk = self._chunks.take(self._offset, size)
            if self._chunks.ended and (self._offset == 0 or len(chunk) < self._least):
                return self._finish(chunk)
            if len(chunk):
                reply = self._send("PATCH", self._location or "", chunk, ok=(202, 201, 204))
                if isinstance(reply, Failure):
                    return self._astray(reply)
                self._moved(reply)
                # The Range of this answer is not looked at: registries are known whose lags behind.
                self._offset = chunk.end
            if self._chunks.ended:
                return self._finish(None)

    def _finish(self, chunk: Chunk | None) -> Pushed | Failure:
        """The closing PUT, with the last chunk in it where it is the only one or too small for a PATCH."""
        digest = self._chunks.digest()
        location = self._location or ""
        url = f"{location}{'&' if '?' in location else '?'}digest={digest}"
        reply = self._send("PUT", url, chunk, ok=(201, 200, 202, 204))
        if isinstance(reply, Failure):
            return self._astray(reply)
        stored = reply.headers.get("Docker-Content-Digest", digest)
        if stored != digest:
            what = f"{reply.shown()}: the registry stored something else than {digest}"
            return Failure(DigestMismatch(what, status=reply.status, url=reply.safe_url))
        return Pushed(digest, self._chunks.reached)

    def _send(self, method: str, url: str, chunk: Chunk | None, *, ok: tuple[int, ...]) -> Reply | Failure:
        headers = {"Content-Type": "application/octet-stream"}
        if chunk is not None and (method == "PATCH" or chunk.start > 0):
            headers["Content-Range"] = f"{chunk.start}-{chunk.end - 1}"
        body = chunk if chunk is not None and len(chunk) else None
        reply = self._transport.attempt(method, url, scope=self._scope, headers=headers, body=body, ok=ok)
        if chunk is not None and chunk.raised is not None:
            raise chunk.raised
        if isinstance(reply, Reply):
            reply.close()
        return reply

    def _begin(self) -> None:
        """A new upload session; asking for one twice harms nobody."""
        path = f"/v2/{self._repository}/blobs/uploads/"
        with self._transport.send("POST", path, scope=self._scope, ok=(202,)) as reply:
            self._location = onward(reply.url, reply.headers.get("Location", ""))
            self._offset = 0
            least = reply.headers.get("OCI-Chunk-Min-Length", "")
        if least.isascii() and least.isdecimal() and len(least) < 20:
            self._least = int(least)
            self._size = max(CHUNK, self._least)
        if self._size > _MAX_CHUNK:
            what = f"{reply.shown()}: asks for chunks of {self._size} bytes, more than {_MAX_CHUNK}"
            raise RegistryError(what, status=reply.status, url=reply.safe_url)

    def _moved(self, reply: Reply) -> None:
        location = reply.headers.get("Location")
        if location:
            self._location = onward(reply.url, location)

    def _astray(self, failure: Failure) -> Failure:
        """Refusals that a look at where the upload is, or a new one, may cure."""
        error = failure.error
        lost = error.status in (404, 416) or error.code in _LOST
        if isinstance(error, DigestMismatch):
            # All of it is there and wrong: nothing to go on from. Sent without a break, it was wrong here.
            self._location = None
            lost, self._resumed = self._resumed, False
        return attrs.evolve(failure, again=True) if lost else failure

    def _find_out(self, failure: Failure) -> None:
        """Asks the registry where the upload is; begins anew where it is nowhere, but not for ever."""
        location, self._location = self._location, None
        reply = None if location is None else self._ask(location)
        held = None if reply is None else _held(reply)
        if reply is not None and held is not None and held <= self._chunks.reached:
            self._location, self._offset, self._resumed = location, held, True
            self._moved(reply)
            return
        self._restarts += 1
        if self._restarts > _MAX_RESTARTS:
            raise failure.error
        self._offset = 0

    def _ask(self, location: str) -> Reply | None:
        """The answer about the upload at `location`, None where there is none."""
        pauses = self._transport.pauses()
        while True:
            reply = self._transport.attempt("GET", location, scope=self._scope, ok=(204, 200, 202))
            if isinstance(reply, Reply):
                reply.close()
                return reply
            if not reply.again:
                return None
            pauses.after(reply)

    def _is_there(self) -> bool:
        """Whether the registry has the blob, as far as it can be told now."""
        path = f"/v2/{self._repository}/blobs/{self._chunks.digest()}"
        reply = self._transport.attempt("HEAD", path, scope=self._scope)
        if isinstance(reply, Failure):
            return False
        reply.close()
        return True


def _held(reply: Reply) -> int | None:
    """How many bytes the registry has, by its Range; None where that says nothing.

    Its end is inclusive, so "0-0" should be one byte; registries say that of an empty upload, too, and
    nobody sends single bytes.
    """
    form = _RANGE.fullmatch(reply.headers.get("Range", ""))
    if form is None:
        return None
    end = int(form[1])
    return end + 1 if end > 0 else 0
