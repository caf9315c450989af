"""An upload's content, cut into chunks that can be sent again."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pycontainer.errors import DigestMismatch
from pycontainer.oci.digest import Digest

Content = Callable[[int], Iterator[bytes]]
"""`content(offset)` gives the same bytes each time, from `offset` on."""

# What one write takes, so that progress is told in small steps.
_STEP = 256 << 10


class Chunk:
    """Bytes of an upload in memory, `start` being their place in it; a request's body.

    Iterated, it tells `sent` how far that gets the upload; what `sent` raises is kept in `raised`,
    since it passes through code that would take it for a failure of the connection.
    """

    def __init__(self, start: int, pieces: list[memoryview], sent: Callable[[int], None] | None) -> None:
        self.start = start
        self.raised: BaseException | None = None
        self._pieces = pieces
        self._sent = sent

    def __len__(self) -> int:
        return sum(len(piece) for piece in self._pieces)

    @property
    def end(self) -> int:
        return self.start + len(self)

    def __iter__(self) -> Iterator[memoryview]:
        position = self.start
        for piece in self._pieces:
            for offset in range(0, len(piece), _STEP):
                step = piece[offset : offset + _STEP]
                yield step
                position += len(step)
                if self._sent is not None:
                    try:
                        self._sent(position)
                    except BaseException as error:
                        self.raised = error
                        raise

    def after(self, offset: int) -> Chunk:
        """What of this chunk is left from `offset` of the upload on."""
        skip = offset - self.start
        pieces = []
        for piece in self._pieces:
            if skip < len(piece):
                pieces.append(piece[max(skip, 0) :])
            skip -= len(piece)
        return Chunk(offset, pieces, self._sent)


class Chunks:
    """The content of one upload. Without a known digest, what was read so far is hashed."""

    def __init__(
        self,
        content: Content,
        digest: Digest | None,
        size: int | None,
        sent: Callable[[int], None] | None,
    ) -> None:
        self._content = content
        self._digest = digest
        self._size = size
        self._sent = sent
        self._hash = Digest.of(b"").hasher() if digest is None else None
        self._hashed = 0
        self._pieces: Iterator[bytes] = iter(())
        # Where the next piece of `_pieces` begins, less what is held back in `_ahead`.
        self._position = -1
        self._ahead = memoryview(b"")
        self._last: Chunk | None = None
        self.ended = False
        """Whether the chunk that was taken last ends the content."""

    @property
    def reached(self) -> int:
        """Bytes of the content that were in some chunk."""
        return 0 if self._last is None else self._last.end

    def take(self, offset: int, size: int) -> Chunk:
        """The content from `offset` on, at most `size` bytes; may be the last chunk once more.

        Raises DigestMismatch where the content proves longer or shorter than it was said to be.
        """
        last = self._last
        if last is not None and last.start <= offset < last.end:
            return last.after(offset)
        if offset != self._position:
            self.close()
            self._pieces = self._content(offset)
            self._position = offset
            self._ahead = memoryview(b"")
        self._last = chunk = Chunk(offset, self._collect(size), self._sent)
        return chunk

    def digest(self) -> Digest:
        """The digest of the whole content, which has `ended`."""
        if self._digest is None:
            assert self._hash is not None
            self._digest = Digest.from_hash(self._hash)
        return self._digest

    def close(self) -> None:
        """Ends the content's iterator."""
        close = getattr(self._pieces, "close", None)
        if close is not None:
            close()

    def _collect(self, size: int) -> list[memoryview]:
        found: list[memoryview] = []
        wanted = size
        while wanted > 0 and self._fill():
            part, self._ahead = self._ahead[:wanted], self._ahead[wanted:]
            wanted -= len(part)
            found.append(part)
        start, self._position = self._position, self._position + size - wanted
        self._note(start, found)
        # One look further: the end of the content is where its reader says whether all was well.
        self.ended = not self._fill()
        self._judge()
        return found

    def _judge(self) -> None:
        """Raises DigestMismatch where the content is not of the size that was said."""
        if self._size is None:
            return
        if self._position + (not self.ended) > self._size:
            what = f"more than {self._size}"
        elif self.ended and self._position < self._size:
            what = f"{self._position}, not {self._size}"
        else:
            return
        raise DigestMismatch(f"the content of blob {self._digest or ''} to be uploaded: {what} bytes")

    def _fill(self) -> bool:
        while not self._ahead:
            piece = next(self._pieces, None)
            if piece is None:
                return False
            self._ahead = memoryview(piece)
        return True

    def _note(self, start: int, pieces: list[memoryview]) -> None:
        """Hashes what is new; after a step back most is not."""
        if self._hash is None:
            return
        position = start
        for piece in pieces:
            known = max(self._hashed - position, 0)
            if known < len(piece):
                self._hash.update(piece[known:])
                self._hashed += len(piece) - known
            position += len(piece)
