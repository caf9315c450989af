"""Times in documents: RFC 3339 text, and SOURCE_DATE_EPOCH for reproducible ones."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping

from pycontainer.errors import InvalidImage, InvalidOption
from pycontainer.oci._document import check_text, shorten

_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?:[Zz]|([+-])(\d\d):(\d\d))", re.ASCII
)


def parse_time(value: object, where: str) -> datetime.datetime:
    """The moment that an RFC 3339 text names, to the microsecond; InvalidImage where it names none."""
    text = check_text(value, where, limit=64)
    form = _RFC3339.fullmatch(text)
    if form is None:
        raise InvalidImage(f"{where}: {shorten(text)} is not an RFC 3339 time")
    numbers = [int(form[group]) for group in range(1, 7)]
    fraction = int(((form[7] or "") + "000000")[:6])
    offset = datetime.timedelta(hours=int(form[9] or 0), minutes=int(form[10] or 0))
    try:
        zone = datetime.timezone(-offset if form[8] == "-" else offset)
        # A leap second is legal text and no datetime.
        second = min(numbers.pop(), 59)
        year, month, day, hour, minute = numbers
        return datetime.datetime(year, month, day, hour, minute, second, fraction, tzinfo=zone)
    except ValueError:
        raise InvalidImage(f"{where}: {shorten(text)} is not a time") from None


def format_time(seconds: int) -> str:
    """RFC 3339 in UTC for seconds since 1970; InvalidOption outside the years 1 to 9999."""
    try:
        moment = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=seconds)
    except OverflowError:
        raise InvalidOption(f"{seconds} seconds since 1970 is outside the years 1 to 9999") from None
    return moment.strftime(f"{moment.year:04d}-%m-%dT%H:%M:%SZ")


def source_date_epoch(environ: Mapping[str, str]) -> int | None:
    """SOURCE_DATE_EPOCH in seconds since 1970, None where it is unset (reproducible-builds.org/specs)."""
    text = environ.get("SOURCE_DATE_EPOCH")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise InvalidOption(f"SOURCE_DATE_EPOCH={shorten(text)}: must be a number of seconds since 1970")
    return int(text)
