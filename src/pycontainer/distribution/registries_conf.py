"""containers-registries.conf(5): where a registry really is, what is blocked, and which mirrors it has.

Read are `[[registry]]` tables (prefix, location, insecure, blocked, mirrors). Short names and
unqualified-search-registries have no meaning here: a name without a registry is docker.io's.
"""

from __future__ import annotations

import functools
import glob
import importlib
import os
import re
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

import attrs

from pycontainer.errors import InvalidOption
from pycontainer.oci._document import shorten

MAX_FILE = 1 << 20
"""Bytes: the aliases that distributions ship are some ten thousand."""

SYSTEM = "/etc/containers/registries.conf"

_PLACE = re.compile(
    r"(?:[A-Za-z0-9][A-Za-z0-9.-]{0,252}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?(?:/[a-z0-9][a-z0-9._/-]{0,254})?",
    re.ASCII,
)
_WILDCARD = re.compile(r"\*(?:\.[A-Za-z0-9-]{1,63}){1,32}", re.ASCII)
_PULLS = ("all", "digest-only", "tag-only")


@attrs.frozen
class Mirror:
    """Where the same repository can be read: "host[:port]/repository".

    `pull` is "all", or which references may be read there: "digest-only" or "tag-only" (a mirror may be
    too old to be asked for tags).
    """

    location: str
    insecure: bool = False
    pull: str = "all"


@attrs.frozen
class Settings:
    """What is configured for a repository; `location` is "host[:port]/repository", where it really is.

    `insecure`: plain HTTP and certificates of unknown authorities are allowed. `blocked`: it must not be
    read. The mirrors are for reading only, to be tried in order before `location`.
    """

    location: str
    insecure: bool = False
    blocked: bool = False
    mirrors: tuple[Mirror, ...] = ()


def lookup(registry: str, repository: str, *, environ: Mapping[str, str] = os.environ) -> Settings:
    """The settings of the longest prefix that `registry`/`repository` has, defaults where it has none.

    The file: CONTAINERS_REGISTRIES_CONF, else the user's, else the system's; then the *.conf files in
    registries.conf.d beside it (of the system and the user, where the first is not set), whose tables
    replace those of the same prefix. Raises InvalidOption for a file that cannot be read or is
    malformed, and names it.
    """
    name = f"{registry}/{repository}"
    tables: dict[str, _Table] = {}
    for path in _paths(environ):
        tables.update((table.prefix, table) for table in _read(path, _stamp(path)))
    best: tuple[tuple[int, bool, int], _Table] | None = None
    for table in tables.values():
        length = table.matched(name)
        # Of equally long matches the exact one counts, then the longer wildcard.
        rank = (length, not table.prefix.startswith("*"), len(table.prefix))
        if length and (best is None or rank > best[0]):
            best = rank, table
    if best is None:
        return Settings(name)
    (length, _, _), table = best
    rest = name[length:]
    return Settings(
        (table.location or name[:length]) + rest,
        table.insecure,
        table.blocked,
        tuple(attrs.evolve(mirror, location=mirror.location + rest) for mirror in table.mirrors),
    )


@attrs.frozen
class _Table:
    prefix: str
    location: str
    insecure: bool
    blocked: bool
    mirrors: tuple[Mirror, ...]

    def matched(self, name: str) -> int:
        """How much of `name` the prefix stands for, 0 where it is another's."""
        host, _, _ = name.partition("/")
        if self.prefix.startswith("*"):
            bare = host.rpartition(":")[0] if re.search(r":[0-9]+\Z", host) else host
            return len(host) if bare.lower().endswith(self.prefix[1:]) else 0
        return len(self.prefix) if f"{_folded(name)}/".startswith(f"{self.prefix}/") else 0


def _folded(place: str) -> str:
    """`place` with its host in lower case; the case of a path counts."""
    host, slash, path = place.partition("/")
    return host.lower() + slash + path


def _paths(environ: Mapping[str, str]) -> list[str]:
    """Files in the order in which they count, the last one most."""
    named = environ.get("CONTAINERS_REGISTRIES_CONF")
    if named:
        return [named, *_dropped_in(named)]
    user = os.path.join(environ.get("HOME") or "~", ".config/containers/registries.conf")
    user = os.path.expanduser(user)
    main = [path for path in (user, SYSTEM) if os.path.exists(path)][:1]
    return [*main, *_dropped_in(SYSTEM), *_dropped_in(user)]


def _dropped_in(path: str) -> list[str]:
    return sorted(glob.glob(f"{glob.escape(path)}.d/*.conf"))


def _stamp(path: str) -> tuple[int, ...]:
    """What changes when the file does."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise InvalidOption(f"{path}: cannot be read: {os.strerror(error.errno or 0)}") from None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


@functools.lru_cache(maxsize=64)
def _read(path: str, stamp: tuple[int, ...]) -> tuple[_Table, ...]:
    """The tables of a file, read again only when it has changed: parsing takes longer than a request."""
    # The parser came into the standard library with Python 3.11.
    toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_FILE + 1)
    except OSError as error:
        raise InvalidOption(f"{path}: cannot be read: {os.strerror(error.errno or 0)}") from None
    if len(raw) > MAX_FILE:
        raise InvalidOption(f"{path}: larger than the {MAX_FILE} bytes that are read")
    try:
        document = toml.loads(raw.decode())
    except (ValueError, RecursionError) as error:
        raise InvalidOption(f"{path}: is not TOML: {error}") from None
    return _Reader(path).tables(document)


class _Reader:
    """Turns a parsed file into tables; every complaint names the file and the field."""

    def __init__(self, path: str) -> None:
        self.path = path

    def tables(self, document: Mapping[str, Any]) -> tuple[_Table, ...]:
        older = self.table(document.get("registries", {}), "registries")
        for key in ("insecure", "block"):
            if self.table(older.get(key, {}), f"registries.{key}").get("registries"):
                # To ignore it would be to read what is blocked.
                self.refuse(f"registries.{key}", "is of version 1; write [[registry]] tables instead")
        entries = self.array(document.get("registry", []), "registry")
        found = tuple(self.entry(entry, f"registry[{number}]") for number, entry in enumerate(entries))
        first: dict[str, _Table] = {}
        for table in found:
            if first.setdefault(table.prefix, table) != table:
                self.refuse("registry", f"two tables differ on the prefix {shorten(table.prefix)}")
        return found

    def entry(self, entry: Any, where: str) -> _Table:
        table = self.table(entry, where)
        location = self.place(table, "location", where)
        prefix = self.prefix(table, where) or _folded(location)
        if not prefix:
            self.refuse(where, "needs a prefix or a location")
        mirrors = self.array(table.get("mirror", []), f"{where}.mirror")
        digest_only = self.flag(table, "mirror-by-digest-only", where)
        return _Table(
            prefix,
            location,
            self.flag(table, "insecure", where),
            self.flag(table, "blocked", where),
            tuple(
                self.mirror(mirror, f"{where}.mirror[{number}]", digest_only)
                for number, mirror in enumerate(mirrors)
            ),
        )

    def mirror(self, entry: Any, where: str, digest_only: bool) -> Mirror:
        table = self.table(entry, where)
        location = self.place(table, "location", where)
        if not location:
            self.refuse(where, "needs a location")
        pull = table.get("pull-from-mirror", "") or ("digest-only" if digest_only else "all")
        if pull not in _PULLS:
            self.refuse(f"{where}.pull-from-mirror", f"must be one of {', '.join(_PULLS)}")
        return Mirror(location, self.flag(table, "insecure", where), pull)

    def prefix(self, table: Mapping[str, Any], where: str) -> str:
        value = table.get("prefix", "")
        if isinstance(value, str) and value.startswith("*"):
            if not _WILDCARD.fullmatch(value):
                self.refuse(f"{where}.prefix", f"{shorten(value)}: a wildcard is *.domain and nothing more")
            return value.lower()
        return _folded(self.place(table, "prefix", where))

    def place(self, table: Mapping[str, Any], key: str, where: str) -> str:
        """host[:port][/path], "" where there is none; a tag or digest would be part of no path."""
        value = table.get(key, "")
        if not isinstance(value, str):
            self.refuse(f"{where}.{key}", "must be a string")
        value = value.rstrip("/")
        if value and not _PLACE.fullmatch(value):
            self.refuse(f"{where}.{key}", f"{shorten(value)} is not host[:port][/path]")
        return value

    def flag(self, table: Mapping[str, Any], key: str, where: str) -> bool:
        value = table.get(key, False)
        if not isinstance(value, bool):
            self.refuse(f"{where}.{key}", "must be true or false")
        return value

    def table(self, value: Any, where: str) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            self.refuse(where, "must be a table")
        return value

    def array(self, value: Any, where: str) -> list[Any]:
        if not isinstance(value, list):
            self.refuse(where, "must be an array of tables")
        return value

    def refuse(self, where: str, why: str) -> NoReturn:
        raise InvalidOption(f"{self.path}: {where}: {why}")
