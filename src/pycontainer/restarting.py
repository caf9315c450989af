"""Restart policies: whether, and after how long, a program that ended is started again."""

from __future__ import annotations

import re
from typing import Literal

import attrs

from pycontainer.units import refuse

_FIRST_DELAY = 0.1
_LONGEST_DELAY = 60.0
_LASTING = 10.0
"""Seconds: who ran that long starts anew with the shortest delay, as with docker."""

_TEXT = re.compile(r"(on-failure)(?::([0-9]{1,9}))?|(always)")


@attrs.frozen
class Restart:
    """ "on-failure" restarts after any exit status but 0, at most `limit` times; "always" after every end."""

    policy: Literal["on-failure", "always"]
    limit: int | None = None

    def wants(self, code: int, count: int) -> bool:
        """Whether a program that ended with `code` is to be started again, after `count` restarts."""
        if self.policy == "always":
            return True
        return code != 0 and (self.limit is None or count < self.limit)


def parse_restart(value: object) -> Restart | None:
    """The option: None, "on-failure", "on-failure:N" or "always". Raises InvalidOption."""
    if value is None or isinstance(value, Restart):
        return value
    form = _TEXT.fullmatch(value) if isinstance(value, str) else None
    if form is None:
        raise refuse("restart", value, 'must be None, "on-failure", "on-failure:3" or "always"')
    if form[3]:
        return Restart("always")
    return Restart("on-failure", None if form[2] is None else int(form[2]))


@attrs.define
class Backoff:
    """How long to wait before the next restart, in seconds."""

    _next: float = _FIRST_DELAY

    def after(self, lasted: float) -> float:
        """The delay after a program that ran for `lasted` seconds."""
        if lasted >= _LASTING:
            self._next = _FIRST_DELAY
        delay, self._next = self._next, min(2 * self._next, _LONGEST_DELAY)
        return delay
