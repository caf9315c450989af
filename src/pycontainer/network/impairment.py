"""How a network is impaired, as callers say it."""

from __future__ import annotations

import datetime
from typing import SupportsIndex

import attrs

from pycontainer import units

MAX_SECONDS = 60.0
"""The limit in protocol.h; nobody waits longer for a packet."""


def _seconds(value: float | str | datetime.timedelta, option: str) -> float:
    seconds = units.parse_duration(value, option=option)
    if seconds > MAX_SECONDS:
        raise units.refuse(option, value, f"must be at most {MAX_SECONDS:g} seconds")
    return seconds


def _delay(value: float | str | datetime.timedelta) -> float:
    return _seconds(value, "delay")


def _jitter(value: float | str | datetime.timedelta) -> float:
    return _seconds(value, "jitter")


def _loss(value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise units.refuse("loss", value, f"must be a fraction, not {type(value).__name__}")
    if 1 < value <= 100:
        raise units.refuse("loss", value, f"must be a fraction from 0 to 1: {value:g} % is {value / 100:g}")
    if not 0 <= value <= 1:
        raise units.refuse("loss", value, "must be a fraction from 0 to 1")
    return float(value)


def _rate(value: SupportsIndex | str) -> int:
    return units.parse_size(value, option="rate")


@attrs.frozen(kw_only=True)
class Impairment:
    """What happens to each frame that somebody on a network sends; nothing, by default.

    `delay` and `jitter` are seconds (numbers, a `timedelta`, or text such as "50ms") up to 60; a frame takes
    `delay` and a random part of `jitter`, never less than the one in front of it. `loss` is the fraction of
    frames that never arrive, 1 all of them. `rate` is bytes per second (a number, or text such as "10M") that
    somebody sends, and as many that are received, 0 for no limit. Raises `InvalidOption` naming the option.
    """

    delay: float = attrs.field(default=0.0, converter=_delay)
    jitter: float = attrs.field(default=0.0, converter=_jitter)
    loss: float = attrs.field(default=0.0, converter=_loss)
    rate: int = attrs.field(default=0, converter=_rate)
