"""Who a container's program runs as: `user` looked up in the image's own passwd and group files.

The files are read as data and bounded; nothing of the image runs for it (no NSS). Lines that libc
would not accept are skipped, as it does (passwd(5), group(5)).
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator, Sequence

import attrs

from pycontainer.errors import InvalidOption, LaunchError
from pycontainer.mounts import MAX_ID
from pycontainer.runtime.layered_file import read_layered_file, read_regular

MAX_ACCOUNTS = 2**20
"""Bytes of a passwd or group file."""
MAX_GROUPS = 65536
"""NGROUPS_MAX of setgroups(2)."""

_NUMBER = re.compile(r"[+-]?[0-9]+")


@attrs.frozen
class Identity:
    """What setresuid(2), setresgid(2) and setgroups(2) are told, and HOME. `name` is "" without an entry."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str
    name: str


@attrs.frozen
class _Account:
    name: bytes
    uid: int
    gid: int
    home: str


# 16 images' worth: an entry keeps both texts alive. Their hashes are computed once per object.
@functools.lru_cache(maxsize=16)
def resolve(user: str | None, passwd: bytes, group: bytes, *, image: str = "the image") -> Identity:
    """The identity that `user` ("uid[:gid]", or names; None or "" is root) has in `image`.

    Digits are a number from 0 to 2**32-2, never a name: an image whose passwd file has an entry
    called "1000" with uid 0 gets nothing by it. A number without an entry is allowed, with group 0,
    as container engines have it. The supplementary groups are always explicit and begin with the
    primary group; with a group given, they are that group alone. `InvalidOption` names user and
    image.
    """
    user_part, separator, group_part = (user or "0").partition(":")
    if not user_part or (separator and not group_part) or ":" in group_part:
        raise _refused(user, image, "must be 'user' or 'user:group'")
    uid = _number(user_part, user, image)
    account = _find_account(passwd, user_part, uid)
    if account is None:
        if uid is None:
            raise _refused(user, image, f"no user {user_part!r} in its /etc/passwd")
        account = _Account(b"", uid, 0, "/")
    if group_part:
        gid = _gid(group_part, user, group, image)
        groups: tuple[int, ...] = (gid,)
    else:
        gid = account.gid
        groups = tuple(dict.fromkeys([gid, *_memberships(group, account.name)]))
    if len(groups) > MAX_GROUPS:
        raise _refused(user, image, f"in more than {MAX_GROUPS} groups")
    return Identity(account.uid, gid, groups, account.home, os.fsdecode(account.name))


def _refused(user: str | None, image: str, why: str) -> InvalidOption:
    return InvalidOption(f"user={user!r} of {image}: {why}")


def _number(text: str, user: str | None, image: str) -> int | None:
    """The number that digits are; None for a name. A sign is an error: nobody is called "-1"."""
    if not _NUMBER.fullmatch(text):
        return None
    if not text.isdigit() or len(text) > 10 or int(text) > MAX_ID:
        raise _refused(user, image, f"{text} is no number from 0 to {MAX_ID}")
    return int(text)


def _find_account(passwd: bytes, name: str, uid: int | None) -> _Account | None:
    """The first entry with that uid or, without one, of that name."""
    wanted = os.fsencode(name)
    for account in _accounts(passwd):
        if account.uid == uid if uid is not None else account.name == wanted:
            return account
    return None


def user_name(passwd: bytes, uid: int) -> str | None:
    """Of the first entry with that number."""
    account = _find_account(passwd, "", uid)
    return None if account is None else os.fsdecode(account.name)


def group_name(group: bytes, gid: int) -> str | None:
    """Of the first entry with that number."""
    return next((os.fsdecode(name) for name, number, _ in _groups(group) if number == gid), None)


def _accounts(passwd: bytes) -> Iterator[_Account]:
    for fields in _entries(passwd):
        if len(fields) < 4:
            continue
        uid, gid = _field_number(fields[2]), _field_number(fields[3])
        if uid is None or gid is None:
            continue
        home = os.fsdecode(fields[5]) if len(fields) > 5 else ""
        # A relative HOME would mean another place after each chdir.
        yield _Account(fields[0], uid, gid, home if home.startswith("/") else "/")


def _gid(text: str, user: str | None, group: bytes, image: str) -> int:
    number = _number(text, user, image)
    if number is not None:
        return number
    wanted = os.fsencode(text)
    for name, gid, _ in _groups(group):
        if name == wanted:
            return gid
    raise _refused(user, image, f"no group {text!r} in its /etc/group")


def _memberships(group: bytes, name: bytes) -> Iterator[int]:
    """The numbers of the groups that list `name`, in the file's order."""
    if not name:
        return
    for _, gid, members in _groups(group):
        if name in members and name in (member.strip() for member in members.split(b",")):
            yield gid


def _groups(group: bytes) -> Iterator[tuple[bytes, int, bytes]]:
    """(name, number, members) of each entry."""
    for fields in _entries(group):
        if len(fields) < 3:
            continue
        gid = _field_number(fields[2])
        if gid is not None:
            yield fields[0], gid, fields[3] if len(fields) > 3 else b""


def _entries(text: bytes) -> Iterator[list[bytes]]:
    """The fields of each line that may be an entry: no comment, no NIS line (+ or -), no NUL."""
    for line in text.split(b"\n"):
        entry = line.lstrip(b" \t\r\v\f")
        if entry and entry[:1] not in (b"#", b"+", b"-", b":") and b"\0" not in entry:
            yield entry.split(b":")


def _field_number(field: bytes) -> int | None:
    if not field.isdigit() or len(field) > 10 or int(field) > MAX_ID:
        return None
    return int(field)


def read_account_files(lower_dirs: Sequence[str]) -> tuple[bytes, bytes]:
    """The texts of /etc/passwd and /etc/group in the merged layers (topmost first); b"" where missing.

    Not cached: a committed layer never changes, so whoever holds the image keeps the answer.
    Errors are those of `read_layered_file`.
    """
    passwd, group = (
        read_layered_file(lower_dirs, path, limit=MAX_ACCOUNTS) or b"" for path in ("etc/passwd", "etc/group")
    )
    return passwd, group


_host_cache: dict[str, tuple[tuple[int, int, int], bytes]] = {}


def host_account_files() -> tuple[bytes, bytes]:
    """The texts of this host's own /etc/passwd and /etc/group, read again when a file has changed.

    The same object comes back for the same file, so that `resolve` finds its answer by identity.
    """
    return _host_file("/etc/passwd"), _host_file("/etc/group")


def _host_file(path: str) -> bytes:
    try:
        info = os.stat(path)
    except FileNotFoundError:
        return b""
    key = (info.st_mtime_ns, info.st_size, info.st_ino)
    cached = _host_cache.get(path)
    if cached is None or cached[0] != key:
        cached = _host_cache[path] = (key, _read_host_file(path))
    return cached[1]


def _read_host_file(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        raise LaunchError("reading the host's file", errno=error.errno, path=path) from error
    try:
        return read_regular(fd, path, MAX_ACCOUNTS)
    finally:
        os.close(fd)
