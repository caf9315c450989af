"""`Healthcheck`: how to ask a container whether it is well; as a value, and as image configs write it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import attrs

from pycontainer import option_values
from pycontainer.errors import InvalidImage, InvalidOption
from pycontainer.units import parse_duration, parse_int, refuse

MIN_SECONDS = 0.001
"""docker's, too."""
MAX_SECONDS = 10 * 365 * 86400.0
MAX_RETRIES = 1_000_000
_SHELL = ("/bin/sh", "-c")


def _test(value: Any) -> tuple[str, ...]:
    """A command's words; text is a shell's command. docker's forms are understood: a list that begins
    with "CMD" or "CMD-SHELL"."""
    if isinstance(value, str):
        value = (*_SHELL, value) if value else ()
    words = option_values.entrypoint(value)
    if words and words[0] == "CMD":
        words = words[1:]
    elif words and words[0] == "CMD-SHELL":
        if len(words) != 2:
            raise refuse("test", value, 'must be one text after "CMD-SHELL"')
        words = (*_SHELL, words[1])
    if not words or words == ("NONE",):
        raise refuse("test", value, "must be a command; healthcheck=False switches the image's off")
    return words


def _seconds(name: str, value: Any, least: float) -> float:
    seconds = parse_duration(value, option=name)
    if not least <= seconds <= MAX_SECONDS:
        raise refuse(name, value, f"must be from {least:g} to {MAX_SECONDS:g} seconds")
    return seconds


def _interval(value: Any) -> float:
    return _seconds("interval", value, MIN_SECONDS)


def _timeout(value: Any) -> float:
    return _seconds("timeout", value, MIN_SECONDS)


def _start_period(value: Any) -> float:
    return _seconds("start_period", value, 0.0)


def _start_interval(value: Any) -> float:
    return _seconds("start_interval", value, MIN_SECONDS)


def _retries(value: Any) -> int:
    return parse_int(value, option="retries", low=1, high=MAX_RETRIES)


@attrs.frozen
class Healthcheck:
    """A command that is run in the container again and again; exit status 0 means well.

    `test` is a list, or text for `/bin/sh -c`. All times are in seconds: `interval` between the end of one
    and the next, `timeout` for each, after which it is killed and has failed. So many failures (`retries`)
    in a row make the container "unhealthy", one success "healthy".

    The first is run at once, and as long as none has succeeded more of them, after pauses that grow from a
    tenth of a second to `start_interval` (`interval` where that is shorter). Until `start_period` (`interval`
    where that is longer) has passed since the start, failures do not count. Raises InvalidOption.
    """

    test: tuple[str, ...] = attrs.field(converter=_test)
    interval: float = attrs.field(default=30.0, converter=_interval)
    timeout: float = attrs.field(default=30.0, converter=_timeout)
    start_period: float = attrs.field(default=0.0, converter=_start_period)
    start_interval: float = attrs.field(default=5.0, converter=_start_interval)
    retries: int = attrs.field(default=3, converter=_retries)

    def document(self) -> dict[str, Any]:
        """As an image's config has it, which `of_image` reads."""
        shell = self.test[:2] == _SHELL and len(self.test) == 3
        test = ["CMD-SHELL", self.test[2]] if shell else ["CMD", *self.test]
        times = {theirs: round(getattr(self, ours) * 1e9) for ours, theirs in _TIMES.items()}
        return {"Test": test, **times, "Retries": self.retries}


def parse_option(value: Any) -> Healthcheck | Literal[False] | None:
    """The option `healthcheck`: None is the image's, False none; a mapping holds a Healthcheck's own
    arguments, or is an image config's object. Raises InvalidOption."""
    if value is None or value is False or isinstance(value, Healthcheck):
        return value
    if value is True:
        raise refuse("healthcheck", value, "must be a Healthcheck, a command, or False for none")
    if isinstance(value, (list, tuple)) and list(value) == ["NONE"]:
        return False
    try:
        return _of_mapping(value) if isinstance(value, Mapping) else Healthcheck(value)
    except (InvalidOption, InvalidImage) as error:
        raise InvalidOption(f"healthcheck: {error}") from None


def _of_mapping(value: Mapping[str, Any]) -> Healthcheck | Literal[False] | None:
    if _is_document(value):
        # Without a command it says nothing, as in docker's requests.
        return of_image(value) or (False if value.get("Test") else None)
    names = [field.name for field in attrs.fields(Healthcheck)]
    if unknown := [key for key in value if key not in names]:
        raise refuse("healthcheck", unknown[0], f"is no field of it; there are {', '.join(names)}")
    if "test" not in value:
        raise refuse("healthcheck", dict(value), "must have a command as test")
    return Healthcheck(**value)


def _is_document(value: object) -> bool:
    """Whether it is an image config's object, whose names begin with capitals."""
    return isinstance(value, Mapping) and all(str(key)[:1].isupper() for key in value)


def for_image(value: Any) -> Any:
    """What an image's config is to say: its own object as it is, else what the option takes. Raises
    InvalidOption."""
    if value is None or _is_document(value):
        return value
    parsed = parse_option(value)
    return parsed.document() if isinstance(parsed, Healthcheck) else {"Test": ["NONE"]}


def of_image(document: Mapping[str, Any] | None) -> Healthcheck | None:
    """What an image's config says (docker's image specification 1.2, Healthcheck); None where it names no
    command, or ["NONE"]. Times are in nanoseconds, 0 is the default. Raises InvalidImage."""
    if document is None:
        return None
    test = document.get("Test")
    if test is None or test == [] or test == ["NONE"]:
        return None
    where = "config: Healthcheck"
    if not isinstance(test, list) or not all(isinstance(word, str) for word in test):
        raise InvalidImage(f"{where}: Test: must be a list of texts")
    if test[0] not in ("CMD", "CMD-SHELL"):
        raise InvalidImage(f"{where}: Test: must begin with NONE, CMD or CMD-SHELL")
    given: dict[str, Any] = {
        ours: _nanoseconds(document[theirs], f"{where}: {theirs}")
        for ours, theirs in _TIMES.items()
        if document.get(theirs)
    }
    if document.get("Retries"):
        given["retries"] = document["Retries"]
    try:
        return Healthcheck(test, **given)
    except InvalidOption as error:
        raise InvalidImage(f"{where}: {error}") from None


_TIMES = {
    "interval": "Interval",
    "timeout": "Timeout",
    "start_period": "StartPeriod",
    "start_interval": "StartInterval",
}


def _nanoseconds(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise InvalidImage(f"{where}: must be a number of nanoseconds")
    return value / 1e9
