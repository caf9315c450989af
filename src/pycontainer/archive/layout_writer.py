"""Adding an image to an OCI image layout directory (image-spec, image-layout.md), always a valid one.

Blobs come before the index that lists them, and every file is renamed into place when it is complete.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import attrs

from pycontainer.archive.beside import MADE, Replacing, write_whole, writing_errors
from pycontainer.archive.names import CONTAINERD_NAME, annotated_name
from pycontainer.archive.oci_layout import INDEX, MARKER, check_marker
from pycontainer.blobs.blobs import Blobs
from pycontainer.blobs.layout import REF_NAME
from pycontainer.blobs.locks import flock
from pycontainer.errors import ImageError
from pycontainer.oci import _document as d
from pycontainer.oci.descriptor import Descriptor
from pycontainer.oci.manifest import Index, Manifest

MARKER_CONTENT = b'{"imageLayoutVersion":"1.0.0"}'


def entries(manifest: Manifest, names: Sequence[str]) -> tuple[Descriptor, ...]:
    """What `index.json` says of an image: an entry for each of its names, or one without.

    skopeo, podman and umoci find the image by the specification's annotation, containerd and Docker by
    their own.
    """
    plain = manifest.descriptor
    named = tuple(attrs.evolve(plain, annotations={REF_NAME: name, CONTAINERD_NAME: name}) for name in names)
    return named or (plain,)


def contents(manifest: Manifest) -> list[Descriptor]:
    """The blobs of an image, each once, in the order of their digests."""
    parts = {part.digest: part for part in (manifest.descriptor, manifest.config, *manifest.layers)}
    return [parts[digest] for digest in sorted(parts)]


def add_to_layout(blobs: Blobs, manifest: Manifest, names: Sequence[str], path: str) -> None:
    """Adds an image to the layout in the directory `path`, which is made where it is missing or empty.

    Entries of `index.json` that give others one of `names` go; the rest stays as it is. Raises
    ImageError where `path` is something else or cannot be written, NoSpace, and StoreCorrupt.
    """
    with writing_errors(path):
        # Of a link to a directory that is missing, both making and opening would fail for ever.
        path = os.path.realpath(path)
    with _locked(path) as made:
        layout = _Layout(path, made)
        try:
            layout.begin()
            for part in contents(manifest):
                layout.add_blob(part, blobs.chunks(part.digest, size=part.size))
            layout.write_index(entries(manifest, names))
        except BaseException:
            layout.undo()
            raise


class _Layout:
    """A layout to which one image is being added, by nobody else at the same time."""

    def __init__(self, path: str, made: bool) -> None:
        """`made` says that the directory was made for this."""
        self._path = path
        # What to remove, in reverse, where the image does not get in.
        self._new: list[str] = [path] if made else []

    def begin(self) -> None:
        """Makes an empty directory a layout. Raises ImageError where it is neither."""
        with writing_errors(self._path):
            there = os.listdir(self._path)
            for name in there:
                # Whoever made that is dead: the living hold the lock.
                if name.startswith(MADE):
                    os.unlink(os.path.join(self._path, name))
        if MARKER in there:
            check_marker(self._read(MARKER), f"{self._path}: {MARKER}")
        elif all(name.startswith(MADE) for name in there):
            self._write(MARKER, MARKER_CONTENT)
        else:
            raise ImageError(f"{self._path}: is neither an empty directory nor an OCI image layout")
        self._directory("blobs")
        self._directory("blobs/sha256")
        if INDEX not in there:
            self._write(INDEX, Index.make((), {}).raw)

    def add_blob(self, part: Descriptor, chunks: Iterable[bytes]) -> None:
        """Puts a blob into the layout, unless it is there."""
        name = f"blobs/{part.digest.algorithm}/{part.digest.hex}"
        path = os.path.join(self._path, name)
        self._directory(os.path.dirname(name))
        with writing_errors(path), contextlib.suppress(FileNotFoundError):
            if os.stat(path).st_size == part.size:
                return
        with Replacing(path, directory=self._path) as file:
            for chunk in chunks:
                file.write(chunk)
            self._new.append(path)
            file.commit()

    def write_index(self, added: Sequence[Descriptor]) -> None:
        """Lists the image under its names, and nothing else under them."""
        where = f"{self._path}: {INDEX}"
        raw = self._read(INDEX)
        listed = Index.parse(raw, what=where).manifests
        # Edited as it stands, so that what others wrote there stays.
        document = d.load(raw, where).rest()
        kept = [
            value
            for value, entry in zip(document["manifests"], listed, strict=True)
            if not _replaces(added, entry, where)
        ]
        new = added if added[0].annotations or not _lists(listed, added[0]) else ()
        document["manifests"] = [*kept, *(entry.document() for entry in new)]
        write_whole(os.path.join(self._path, INDEX), d.dump(document), directory=self._path)

    def undo(self) -> None:
        """Removes what was made, as far as possible: what went wrong before is what matters."""
        for path in reversed(self._new):
            with contextlib.suppress(OSError):
                if os.path.isdir(path):
                    os.rmdir(path)
                else:
                    os.unlink(path)

    def _directory(self, name: str) -> None:
        path = os.path.join(self._path, name)
        with writing_errors(path):
            if not os.path.isdir(path):
                self._new.append(path)
                os.mkdir(path)

    def _write(self, name: str, data: bytes) -> None:
        path = os.path.join(self._path, name)
        self._new.append(path)
        write_whole(path, data, directory=self._path)

    def _read(self, name: str) -> bytes:
        path = os.path.join(self._path, name)
        try:
            with open(path, "rb") as file:
                return file.read(d.MAX_DOCUMENT + 1)
        except OSError as error:
            raise ImageError(f"{path}: cannot be read: {os.strerror(error.errno or 0)}") from error


def _replaces(added: Sequence[Descriptor], entry: Descriptor, where: str) -> bool:
    """Whether the image's new entries take the place of this one."""
    name = annotated_name(entry, where)
    if name is None:
        named = REF_NAME in entry.annotations or CONTAINERD_NAME in entry.annotations
        return not named and entry.digest == added[0].digest and bool(added[0].annotations)
    return any(other.annotations.get(REF_NAME) == name for other in added)


def _lists(listed: Iterable[Descriptor], added: Descriptor) -> bool:
    return any(entry.digest == added.digest for entry in listed)


@contextmanager
def _locked(path: str) -> Iterator[bool]:
    """Keeps other writers out of the directory `path`; whether it was made, because it was missing."""
    while True:
        made = False
        with writing_errors(path):
            with contextlib.suppress(FileExistsError):
                os.mkdir(path)
                made = True
            try:
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
        try:
            flock(fd, fcntl.LOCK_EX)
            # Whoever made the directory may have failed, and removed it, while we waited.
            if _is_still(path, fd):
                yield made
                return
        finally:
            os.close(fd)


def _is_still(path: str, fd: int) -> bool:
    try:
        named: Any = os.stat(path)
    except FileNotFoundError:
        return False
    opened = os.fstat(fd)
    return (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)
