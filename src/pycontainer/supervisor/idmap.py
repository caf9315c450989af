"""How an ordinary user's ids appear inside the supervisor's user namespace.

With newuidmap(1), newgidmap(1) and a range in subuid(5) and subgid(5): the user is root inside and
the range follows from 1 on. Without: the user is root inside, and there is nobody else.
"""

from __future__ import annotations

import os
import pwd
import shutil
from pathlib import Path

import attrs


@attrs.frozen
class IdMap:
    """The maps for `user_namespaces(7)`: inside, outside and count, for users and for groups."""

    uids: tuple[tuple[int, int, int], ...]
    gids: tuple[tuple[int, int, int], ...]
    newuidmap: str | None = None
    newgidmap: str | None = None

    @property
    def many(self) -> bool:
        """Whether there is more than root inside."""
        return self.newuidmap is not None

    def encode(self) -> bytes:
        """The body of a USERNS request (userns.h)."""
        parts = [_map_text(self.uids), _map_text(self.gids)]
        for program, ranges in ((self.newuidmap, self.uids), (self.newgidmap, self.gids)):
            if program is not None:
                parts.append(program)
                parts.extend(str(number) for one in ranges for number in one)
            parts.append("")
        return b"".join(os.fsencode(part) + b"\0" for part in parts)


def _map_text(ranges: tuple[tuple[int, int, int], ...]) -> str:
    return "".join(f"{inside} {outside} {count}\n" for inside, outside, count in ranges)


def subordinate_ranges(path: str, uid: int, name: str | None) -> list[tuple[int, int]]:
    """The (start, count) pairs that subuid(5) or subgid(5) at `path` gives a user."""
    try:
        text = Path(path).read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return []
    found = []
    for line in text.splitlines():
        owner, _, rest = line.partition(":")
        start, _, count = rest.partition(":")
        if owner and owner in (name, str(uid)) and start.isdecimal() and count.isdecimal():
            found.append((int(start), int(count)))
    return found


def find() -> IdMap:
    """The best map that this host gives the calling user."""
    uid, gid = os.geteuid(), os.getegid()
    single = IdMap(((0, uid, 1),), ((0, gid, 1),))
    try:
        name: str | None = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = None
    path = "/usr/bin:/usr/sbin:/bin:/sbin:/usr/local/bin"
    newuidmap, newgidmap = shutil.which("newuidmap", path=path), shutil.which("newgidmap", path=path)
    uids = subordinate_ranges("/etc/subuid", uid, name)
    gids = subordinate_ranges("/etc/subgid", uid, name)
    if newuidmap is None or newgidmap is None or not uids or not gids:
        return single
    return IdMap(_stack(uid, uids), _stack(gid, gids), newuidmap, newgidmap)


def _stack(own: int, ranges: list[tuple[int, int]]) -> tuple[tuple[int, int, int], ...]:
    """Root inside is the user; the ranges follow one another from 1 on."""
    stacked = [(0, own, 1)]
    inside = 1
    for start, count in ranges:
        stacked.append((inside, start, count))
        inside += count
    return tuple(stacked)
