"""Which images there are and what they are called: a small SQLite database beside the blobs.

It is the truth; `index.json` is written from it inside the same transaction, for other tools. A
process killed between the two leaves different generation numbers, and the next opener rewrites it.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

import attrs

from pycontainer.blobs.layout import REF_NAME, Layout
from pycontainer.blobs.locks import Lock, lock_file
from pycontainer.errors import NoSpace, StoreBusy, StoreCorrupt, StoreError
from pycontainer.oci.descriptor import Descriptor
from pycontainer.oci.digest import Digest
from pycontainer.oci.platform import Platform

GENERATION = "dev.pycontainer.generation"
_VERSION = 2
_WAIT = 30.0  # seconds for another process's transaction; each takes milliseconds
_SCHEMA = """
CREATE TABLE images (
    manifest TEXT PRIMARY KEY, media_type TEXT NOT NULL, size INTEGER NOT NULL, id TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX images_by_id ON images (id);
CREATE TABLE tags (
    name TEXT PRIMARY KEY, manifest TEXT NOT NULL REFERENCES images ON DELETE CASCADE
) WITHOUT ROWID;
CREATE INDEX tags_by_manifest ON tags (manifest);
CREATE TABLE content (
    manifest TEXT NOT NULL REFERENCES images ON DELETE CASCADE, digest TEXT NOT NULL,
    PRIMARY KEY (manifest, digest)
) WITHOUT ROWID;
CREATE TABLE chains (
    manifest TEXT NOT NULL REFERENCES images ON DELETE CASCADE, chain TEXT NOT NULL,
    PRIMARY KEY (manifest, chain)
) WITHOUT ROWID;
CREATE TABLE state (generation INTEGER NOT NULL);
INSERT INTO state VALUES (0);
"""
# Version 2: which manifest of an index was chosen for a platform. The index itself is not kept.
_CHOICES = """
CREATE TABLE choices (
    list TEXT NOT NULL, platform TEXT NOT NULL, manifest TEXT NOT NULL REFERENCES images ON DELETE CASCADE,
    PRIMARY KEY (list, platform)
) WITHOUT ROWID;
CREATE INDEX choices_by_manifest ON choices (manifest);
"""
# From each version to the next: a new database starts at 0.
_STEPS = (_SCHEMA, _CHOICES)


@attrs.frozen
class Entry:
    """An image: its manifest's descriptor and its ID, the digest of its config."""

    manifest: Descriptor
    id: Digest


@attrs.frozen
class Choice:
    """A question that was answered once: which image of the index for the platform, as `str()` writes it."""

    index: Digest
    platform: str


class _Connection(sqlite3.Connection):
    """One that closes itself: who forgets a store need not close it, and Python 3.13 warns of such."""

    def __del__(self) -> None:
        # One that could not be opened has nothing to close.
        with suppress(sqlite3.ProgrammingError):
            self.close()


class Catalog:
    """The names and references of one store. Every method raises StoreBusy, StoreCorrupt, NoSpace
    or StoreError where the database refuses."""

    def __init__(self, path: str, layout: Layout) -> None:
        self._path = path
        self._layout = layout
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        _catalogs.add(self)

    def close(self) -> None:
        """Closes the database; the next use opens it again."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()

    def add(
        self,
        entry: Entry,
        content: Iterable[Digest],
        chains: Iterable[Digest],
        tag: str | None,
        choice: Choice | None = None,
    ) -> None:
        """Enters an image and what it refers to, and gives it the name `tag`; idempotent.

        `choice` says which index it was chosen from.
        """
        manifest = entry.manifest
        with self._change() as database:
            database.execute(
                "INSERT OR IGNORE INTO images VALUES (?, ?, ?, ?)",
                (manifest.digest, manifest.media_type, manifest.size, entry.id),
            )
            for digest in content:
                database.execute("INSERT OR IGNORE INTO content VALUES (?, ?)", (manifest.digest, digest))
            for chain in chains:
                database.execute("INSERT OR IGNORE INTO chains VALUES (?, ?)", (manifest.digest, chain))
            if choice is not None:
                database.execute(
                    "INSERT OR REPLACE INTO choices VALUES (?, ?, ?)",
                    (choice.index, choice.platform, manifest.digest),
                )
            if tag is not None:
                self._set_tag(database, tag, manifest.digest)

    def remove(self, manifest: Digest) -> None:
        """Forgets an image and its names."""
        with self._change() as database:
            database.execute("DELETE FROM images WHERE manifest = ?", (manifest,))

    def tag(self, name: str, manifest: Digest) -> bool:
        """Gives an image the name `name`, taking it from another one; False where the image is gone."""
        with self._change() as database:
            if not database.execute("SELECT 1 FROM images WHERE manifest = ?", (manifest,)).fetchone():
                return False
            self._set_tag(database, name, manifest)
            return True

    def untag(self, name: str, manifest: Digest) -> bool:
        """Takes the name away; False where the image does not have it."""
        with self._change() as database:
            done = database.execute("DELETE FROM tags WHERE name = ? AND manifest = ?", (name, manifest))
            return done.rowcount > 0

    def tags(self, manifest: Digest) -> list[str]:
        """The image's names, sorted."""
        query = "SELECT name FROM tags WHERE manifest = ? ORDER BY name"
        return [name for (name,) in self._rows(query, (manifest,))]

    def tags_with(self, digest: Digest) -> list[str]:
        """The names of all images that refer to the blob, image by image."""
        query = "SELECT name FROM tags JOIN content USING (manifest) WHERE digest = ? ORDER BY manifest, name"
        return [name for (name,) in self._rows(query, (digest,))]

    def by_tag(self, name: str) -> Entry | None:
        """The image of that name."""
        query = f"{_SELECT} JOIN tags USING (manifest) WHERE name = ?"
        return next(map(_entry, self._rows(query, (name,))), None)

    def by_manifest(self, digest: Digest) -> Entry | None:
        """The image with that manifest, or the one that was chosen from the index of that digest: this
        machine's where there are several."""
        found = self._rows(f"{_SELECT} WHERE manifest = ?", (digest,))
        if not found:
            query = f"{_SELECT} JOIN choices USING (manifest) WHERE list = ? ORDER BY platform <> ?, platform"
            found = self._rows(query, (digest, str(Platform.host())))
        return next(map(_entry, found), None)

    def by_choice(self, choice: Choice) -> Entry | None:
        """The image that was chosen from that index for that platform."""
        query = f"{_SELECT} JOIN choices USING (manifest) WHERE list = ? AND platform = ?"
        return next(map(_entry, self._rows(query, (choice.index, choice.platform))), None)

    def by_id(self, prefix: str) -> list[Entry]:
        """The images whose ID begins with "sha256:" and some hex digits."""
        # ';' follows ':' and 'g' the hex digits: a range, so that the index is used.
        query = f"{_SELECT} WHERE id >= ? AND id < ? ORDER BY id, manifest LIMIT 100"
        return [_entry(row) for row in self._rows(query, (prefix, prefix + "g"))]

    def images(self) -> list[Entry]:
        """All images."""
        return [_entry(row) for row in self._rows(f"{_SELECT} ORDER BY manifest")]

    def untagged(self) -> list[Entry]:
        """The images without a name."""
        query = f"{_SELECT} WHERE manifest NOT IN (SELECT manifest FROM tags) ORDER BY manifest"
        return [_entry(row) for row in self._rows(query)]

    def content(self, manifest: Digest | None = None) -> set[Digest]:
        """The blobs that one image, or any, refers to."""
        return self._digests("SELECT digest FROM content", manifest)

    def chains(self, manifest: Digest | None = None) -> set[Digest]:
        """The chain IDs that one image, or any, is made of."""
        return self._digests("SELECT chain FROM chains", manifest)

    def in_step(self) -> bool:
        """Whether `index.json` lists exactly these images and names."""
        with self._transaction() as database:
            listed = self._layout.read_index()
            return listed.manifests == self._manifests(database)

    def _digests(self, query: str, manifest: Digest | None) -> set[Digest]:
        if manifest is None:
            return {Digest(text) for (text,) in self._rows(query)}
        return {Digest(text) for (text,) in self._rows(f"{query} WHERE manifest = ?", (manifest,))}

    def _set_tag(self, database: sqlite3.Connection, name: str, manifest: Digest) -> None:
        database.execute(
            "INSERT INTO tags VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET manifest = excluded.manifest",
            (name, manifest),
        )

    def _rows(self, query: str, values: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
        with self._lock, _errors(self._path):
            return self._open().execute(query, values).fetchall()

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        with self._transaction() as database:
            yield database
            database.execute("UPDATE state SET generation = generation + 1")
            self._write_index(database)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, _errors(self._path):
            database = self._open()
            with self._file_lock():
                database.execute("BEGIN IMMEDIATE")
                try:
                    yield database
                    database.execute("COMMIT")
                except BaseException:
                    # Some errors have rolled back already.
                    if database.in_transaction:
                        database.execute("ROLLBACK")
                    raise

    def _file_lock(self) -> Lock:
        """Held while the database or `index.json` is changed: SQLite itself waits by sleeping and
        trying again, and starves under load, where the kernel wakes whoever waits."""
        lock = lock_file(self._path + ".lock")
        assert lock is not None
        return lock

    def _manifests(self, database: sqlite3.Connection) -> tuple[Descriptor, ...]:
        query = (
            "SELECT manifest, media_type, size, name FROM images LEFT JOIN tags USING (manifest) "
            "ORDER BY name, manifest"
        )
        return tuple(
            Descriptor(media_type, Digest(digest), size, annotations={REF_NAME: name} if name else {})
            for digest, media_type, size, name in database.execute(query)
        )

    def _generation(self, database: sqlite3.Connection) -> str:
        return str(database.execute("SELECT generation FROM state").fetchone()[0])

    def _write_index(self, database: sqlite3.Connection) -> None:
        self._layout.write_index(self._manifests(database), {GENERATION: self._generation(database)})

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            # One connection for all threads, used under our lock; transactions are written out.
            connection = sqlite3.connect(
                self._path, timeout=_WAIT, isolation_level=None, check_same_thread=False, factory=_Connection
            )
            try:
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _prepare(self, database: sqlite3.Connection) -> None:
        database.execute("PRAGMA foreign_keys = ON")
        # With WAL the database stays whole through a power cut; the last transactions may be lost.
        database.execute("PRAGMA synchronous = NORMAL")
        # Changing to WAL ignores the waiting time, so only one process at a time may try.
        with self._file_lock():
            version = database.execute("PRAGMA user_version").fetchone()[0]
            if not 0 <= version <= _VERSION:
                raise StoreError(f"{self._path}: of version {version}; this pycontainer knows {_VERSION}")
            if version == 0:
                database.execute("PRAGMA journal_mode = WAL")
            if version < _VERSION:
                steps = "".join(_STEPS[version:])
                database.executescript(f"BEGIN;{steps}PRAGMA user_version = {_VERSION};COMMIT;")
            if self._index_is_stale(database):
                self._write_index(database)

    def _index_is_stale(self, database: sqlite3.Connection) -> bool:
        try:
            written = self._layout.read_index().annotations.get(GENERATION, "0")
        except StoreCorrupt:
            return True
        return written != self._generation(database)


_SELECT = "SELECT manifest, media_type, size, id FROM images"


def _entry(row: tuple[str, ...]) -> Entry:
    manifest, media_type, size, config = row
    return Entry(Descriptor(media_type, Digest(manifest), int(size)), Digest(config))


@contextmanager
def _errors(path: str) -> Iterator[None]:
    """The one place where SQLite's errors become the store's."""
    try:
        yield
    except sqlite3.Error as error:
        # Python 3.10 has the code nowhere but in the message.
        name = getattr(error, "sqlite_errorname", None) or str(error)
        if "FULL" in name or "disk is full" in name:
            raise NoSpace(f"{path}: {error}") from error
        if "BUSY" in name or "LOCKED" in name or "is locked" in name:
            raise StoreBusy(f"{path}: another process held it for {_WAIT:.0f} s") from error
        if "NOTADB" in name or "CORRUPT" in name or "not a database" in name or "malformed" in name:
            raise StoreCorrupt(f"{path}: {error}") from error
        raise StoreError(f"{path}: {error}") from error
    except OSError as error:
        raise StoreError(f"{path}: {os.strerror(error.errno or 0)}") from error


# SQLite forbids to carry a connection across fork(2): it is closed before, and opened again on use.
_catalogs: weakref.WeakSet[Catalog] = weakref.WeakSet()
_held: list[Catalog] = []


def _before_fork() -> None:
    for catalog in list(_catalogs):
        catalog._lock.acquire()
        _held.append(catalog)
        if catalog._connection is not None and not catalog._connection.in_transaction:
            catalog._connection.close()
            catalog._connection = None


def _after_fork() -> None:
    while _held:
        _held.pop()._lock.release()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
