"""Blobs: content under its digest. What is written was hashed; what is read is hashed again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from types import TracebackType

from pycontainer import in_time
from pycontainer.blobs.failures import store_errors, translate
from pycontainer.blobs.locks import Lock, wait_for
from pycontainer.blobs.staging import StagedFile
from pycontainer.errors import StoreCorrupt
from pycontainer.oci.digest import Digest

CHUNK = 1 << 20


class BlobWriter:
    """A blob in the making: write, `finish`, then `commit`; leaving the `with` block early drops it.

    Between `finish` and `commit` its content can be read with `chunks`, so that nothing comes into
    the store before it proved usable.
    """

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._staged = StagedFile(blobs.staging)
        self._hash = hashlib.sha256()
        self.size = 0
        self.digest: Digest | None = None

    def write(self, chunk: bytes | memoryview) -> None:
        """Appends `chunk`. Raises NoSpace and StoreError."""
        self._hash.update(chunk)
        self._staged.write(chunk)
        self.size += len(chunk)

    def finish(self) -> Digest:
        """The digest of all that was written."""
        self.digest = Digest.from_hash(self._hash)
        return self.digest

    def chunks(self) -> Iterator[bytes]:
        """The content, from the start."""
        offset = 0
        while chunk := os.pread(self._staged.fd, CHUNK, offset):
            offset += len(chunk)
            yield chunk

    def commit(self) -> Digest:
        """Puts the blob into the store, where it may be already. Raises NoSpace and StoreError."""
        digest = self.digest or self.finish()
        self._blobs.place(self._staged, digest)
        return digest

    def __enter__(self) -> BlobWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._staged.close()


class Blobs:
    """The directory `blobs/` of an OCI image layout; `staging` is a directory beside it."""

    def __init__(self, root: str, staging: str) -> None:
        self.root = root
        self.staging = staging

    def path(self, digest: Digest) -> str:
        """Where the blob is, or would be."""
        return os.path.join(self.root, digest.algorithm, digest.hex)

    def size(self, digest: Digest) -> int | None:
        """The blob's size in bytes, None where there is none."""
        try:
            return os.stat(self.path(digest), follow_symlinks=False).st_size
        except FileNotFoundError:
            return None

    def writer(self) -> BlobWriter:
        """Starts a blob. Raises NoSpace and StoreError."""
        return BlobWriter(self)

    def put(self, data: bytes, algorithm: str = "sha256") -> Digest:
        """Stores `data`; idempotent. Raises NoSpace and StoreError."""
        digest = Digest.of(data, algorithm)
        with StagedFile(self.staging) as staged:
            staged.write(data)
            self.place(staged, digest)
        return digest

    def place(self, staged: StagedFile, digest: Digest) -> None:
        """Puts a file into the store whose content is known to be `digest`. Raises NoSpace and StoreError."""
        path = self.path(digest)
        if digest.algorithm != "sha256":
            with store_errors("making", os.path.dirname(path)):
                os.makedirs(os.path.dirname(path), exist_ok=True)
        staged.commit(path)

    def lock(self, digest: Digest, sleep: Callable[[float], None]) -> Lock:
        """Held by whoever fetches the blob, so that nobody else does; `Lock.unlink` gives it up.

        `sleep` is what waiting is made of. Raises StoreError.
        """
        path = os.path.join(self.staging, f"{digest.algorithm}-{digest.hex}.lock")
        with store_errors("locking", path):
            return wait_for(path, sleep)

    def read(self, digest: Digest, *, limit: int) -> bytes:
        """The blob's content, verified. Raises StoreCorrupt where it is missing, wrong or above `limit`."""
        size = self.size(digest)
        if size is not None and size > limit:
            raise StoreCorrupt(f"blob {digest}: {size} bytes, more than {limit}")
        return b"".join(self.chunks(digest))

    def chunks(self, digest: Digest, *, size: int | None = None) -> Iterator[bytes]:
        """The blob's content, piece by piece; raises StoreCorrupt before its end is reported
        where the content is missing, or has another digest or another size than `size`."""
        hashed, seen = digest.hasher(), 0
        path = self.path(digest)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            raise StoreCorrupt(f"blob {digest} is missing") from None
        except OSError as error:
            raise translate(error, "opening", path) from error
        try:
            with store_errors("reading", path):
                expected = os.fstat(fd).st_size if size is None else size
            # At most what was promised is read, so that a file that grows cannot keep us here.
            while seen <= expected:
                in_time.check()
                with store_errors("reading", path):
                    chunk = os.read(fd, CHUNK)
                if not chunk:
                    break
                hashed.update(chunk)
                seen += len(chunk)
                yield chunk
        finally:
            os.close(fd)
        if seen != expected or Digest.from_hash(hashed) != digest:
            raise StoreCorrupt(f"blob {digest}: its content is something else ({seen} bytes)")

    def delete(self, digest: Digest) -> int:
        """Deletes the blob; how many bytes that freed (0 where it was missing). Raises StoreError."""
        size = self.size(digest)
        if size is None:
            return 0
        with store_errors("deleting", self.path(digest)):
            os.unlink(self.path(digest))
        return size

    def names(self) -> Iterator[tuple[str, Digest | None]]:
        """Every file's path, and the digest that it stands for (None where the name is no digest)."""
        with store_errors("listing", self.root):
            algorithms = sorted(os.listdir(self.root))
            found = [(name, sorted(os.listdir(os.path.join(self.root, name)))) for name in algorithms]
        for algorithm, files in found:
            for name in files:
                text = f"{algorithm}:{name}"
                path = os.path.join(self.root, algorithm, name)
                yield path, Digest(text) if Digest.is_valid(text) else None
