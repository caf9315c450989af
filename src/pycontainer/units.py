"""Quantities as people write them: sizes, durations, signals, sets of CPUs.

Every function takes the name of the option it works for, and raises `InvalidOption` naming that
option and the value. Text is ASCII; what is returned is an `int`, a `float` or canonical text.
"""

from __future__ import annotations

import datetime
import math
import operator
import re
import signal
from collections.abc import Iterable
from typing import SupportsIndex

from pycontainer.errors import InvalidOption

MAX_SIZE = 2**63 - 1
MAX_CPU = 8191
"""The largest CPU number of any kernel configuration (CONFIG_NR_CPUS goes to 8192)."""
MAX_SIGNAL = 64

_SIZE = re.compile(r"([0-9]{1,20})(?:\.([0-9]{1,20}))?\s*([kmgtp]?)(?:i?b)?", re.IGNORECASE)
_FACTOR = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40, "p": 2**50}
_DURATION = re.compile(r"(?:[0-9]{1,12}(?:\.[0-9]{1,12})?(?:ns|us|µs|ms|s|m|h|d))+")
_DURATION_PART = re.compile(r"([0-9.]+)(ns|us|µs|ms|s|m|h|d)")
_PLAIN_NUMBER = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,12})?")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_RT_SIGNAL = re.compile(r"RT(MIN|MAX)(?:([+-])([0-9]{1,2}))?")
_CPU_RANGE = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")


def refuse(option: str, value: object, why: str) -> InvalidOption:
    """The error for one option's value; a long value is cut, so that a message stays one line."""
    shown = repr(value)
    if len(shown) > 80:
        shown = shown[:77] + "..."
    return InvalidOption(f"{option}={shown}: {why}")


def parse_int(value: SupportsIndex, *, option: str, low: int, high: int = MAX_SIZE) -> int:
    """An integer from `low` to `high`. A bool is no number here: it is a misplaced flag."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise refuse(option, value, f"must be an integer, not {type(value).__name__}")
    number = operator.index(value)
    if not low <= number <= high:
        bounds = f"at least {low}" if high == MAX_SIZE else f"from {low} to {high}"
        raise refuse(option, value, f"must be {bounds}")
    return number


def parse_size(value: SupportsIndex | str, *, option: str = "size", low: int = 0) -> int:
    """Bytes from an `int` or from text such as `64k`, `256M`, `1.5G`, `10MiB`.

    Units are binary whatever their spelling (`M`, `MB` and `MiB` are 2**20), upper or lower case,
    as container engines read them. Fractions of a byte are dropped.
    """
    if not isinstance(value, str):
        return parse_int(value, option=option, low=low)
    match = _SIZE.fullmatch(value.strip())
    if match is None:
        raise refuse(option, value, "must be a number of bytes such as 268435456, '64k', '256M' or '1.5G'")
    whole, fraction, unit = match.groups()
    factor = _FACTOR[unit.lower()]
    size = int(whole) * factor
    if fraction:
        size += int(fraction) * factor // 10 ** len(fraction)
    if not low <= size <= MAX_SIZE:
        raise refuse(option, value, f"must be at least {low} bytes" if size < low else "is too large")
    return size


def parse_duration(value: float | str | datetime.timedelta, *, option: str = "duration") -> float:
    """Seconds from a number, a `timedelta`, or text such as `10`, `500ms`, `1m30s`; never negative."""
    if isinstance(value, datetime.timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, str):
        seconds = _duration_of_text(value, option)
    elif isinstance(value, bool) or not isinstance(value, (int, float)):
        raise refuse(option, value, f"must be seconds, not {type(value).__name__}")
    else:
        try:
            seconds = float(value)
        except OverflowError:
            seconds = math.inf
    if not 0.0 <= seconds < math.inf:
        raise refuse(option, value, "must be a finite number of seconds, 0 or more")
    return seconds


def check_timeout(timeout: float | None) -> float | None:
    """Seconds, of which a negative number is over at once, as for subprocess. Raises InvalidOption."""
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or timeout != timeout:
        raise InvalidOption(f"timeout={timeout!r}: must be a number of seconds")
    try:
        return float(timeout)
    except OverflowError as error:
        raise refuse("timeout", timeout, "is too large") from error


def _duration_of_text(value: str, option: str) -> float:
    text = value.strip()
    if _PLAIN_NUMBER.fullmatch(text):
        return float(text)
    if not _DURATION.fullmatch(text):
        raise refuse(option, value, "must be seconds, or text such as '500ms', '10s' or '1m30s'")
    return sum(float(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(text))


def parse_signal(value: SupportsIndex | str, *, option: str = "signal") -> int:
    """A signal's number from `15`, `"15"`, `"TERM"`, `"SIGTERM"`, `signal.SIGTERM` or `"RTMIN+3"`.

    Numbers go from 1 to 64 (signal(7)); real-time names count from the C library's SIGRTMIN, as
    the STOPSIGNAL of an image that boots systemd does.
    """
    if not isinstance(value, str):
        return parse_int(value, option=option, low=1, high=MAX_SIGNAL)
    text = value.strip().upper()
    if text.isascii() and text.isdigit():
        number = int(text) if len(text) <= 2 else 0
    else:
        number = _signal_of_name(text.removeprefix("SIG"))
    if not 1 <= number <= MAX_SIGNAL:
        raise refuse(option, value, "must be a signal such as 15, 'TERM', 'SIGTERM' or 'RTMIN+3'")
    return number


def _signal_of_name(name: str) -> int:
    """The number of a name without SIG, or 0."""
    if known := signal.Signals.__members__.get("SIG" + name):
        return int(known)
    match = _RT_SIGNAL.fullmatch(name)
    if match is None:
        return 0
    end, sign, offset = match.groups()
    base = int(signal.SIGRTMIN if end == "MIN" else signal.SIGRTMAX)
    number = base + int(f"{sign or '+'}{offset or 0}")
    return number if signal.SIGRTMIN <= number <= signal.SIGRTMAX else 0


def parse_cpuset(value: str | Iterable[int], *, option: str = "cpuset") -> str:
    """CPU numbers as the kernel lists them (`0-2,4`, cpuset(7)), sorted and merged.

    Takes that form or the numbers themselves. Whether this host has these CPUs is for the control
    group to say.
    """
    numbers: set[int] = set()
    if isinstance(value, str):
        for part in value.strip().split(","):
            match = _CPU_RANGE.fullmatch(part.strip())
            first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
            if not first <= last <= MAX_CPU:
                raise refuse(option, value, "must be a list of CPU numbers such as '0-2,4'")
            numbers.update(range(first, last + 1))
    elif isinstance(value, Iterable):
        numbers.update(parse_int(number, option=option, low=0, high=MAX_CPU) for number in value)
    else:
        raise refuse(option, value, f"must be text such as '0-2,4', not {type(value).__name__}")
    if not numbers:
        raise refuse(option, value, "names no CPU")
    return _listed(sorted(numbers))


def _listed(numbers: list[int]) -> str:
    """Sorted numbers in the kernel's list form."""
    parts: list[str] = []
    first = last = numbers[0]
    for number in [*numbers[1:], -1]:
        if number == last + 1:
            last = number
            continue
        parts.append(str(first) if first == last else f"{first}-{last}")
        first = last = number
    return ",".join(parts)
