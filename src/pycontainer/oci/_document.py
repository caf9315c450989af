"""Reading JSON documents that strangers wrote: bounded, unambiguous, every complaint names its field."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

from pycontainer.errors import InvalidImage

# The distribution specification asks registries to take manifests of up to 4 MiB; nobody writes larger ones.
MAX_DOCUMENT = 4 << 20

# Longer than anything that execve(2) takes as one argument or variable (MAX_ARG_STRLEN, 32 pages).
MAX_TEXT = 128 << 10

T = TypeVar("T")


def load(raw: bytes, what: str) -> Fields:
    """The JSON object in `raw`; InvalidImage where it is too large, ambiguous or no object."""
    if len(raw) > MAX_DOCUMENT:
        raise InvalidImage(f"{what}: {len(raw)} bytes, more than the {MAX_DOCUMENT} that are read")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        # Readers differ on which of two equal keys counts: one digest could be read as two things.
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a key appears twice in one object")
        return found

    def refuse(name: str) -> NoReturn:
        raise ValueError(f"{name} is not JSON")

    try:
        text = raw.decode("utf-8")
        document = json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
        if "\\u" in text:
            # Half of a surrogate pair can be written as an escape and could never be encoded again.
            json.dumps(document, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise InvalidImage(f"{what}: nested too deeply") from None
    except ValueError as error:
        raise InvalidImage(f"{what}: {error}") from None
    if not isinstance(document, dict):
        raise InvalidImage(f"{what}: must be a JSON object")
    return Fields(document, what)


def dump(document: Mapping[str, Any]) -> bytes:
    """Compact JSON, keys in the order given: the same value gives the same bytes, thus the same digest."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode("utf-8")


def check_text(value: object, where: str, *, limit: int = MAX_TEXT) -> str:
    """`value` if it is a string that the kernel can take: no NUL, encodable, at most `limit` characters."""
    if not isinstance(value, str):
        raise InvalidImage(f"{where}: must be a string, not {_kind(value)}")
    if len(value) > limit:
        raise InvalidImage(f"{where}: {len(value)} characters, more than {limit}")
    if "\0" in value:
        raise InvalidImage(f"{where}: holds a NUL character")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise InvalidImage(f"{where}: holds half of a surrogate pair") from None
    return value


def check_texts(value: object, where: str, *, limit: int = 4096) -> tuple[str, ...]:
    """`value` if it is a list of at most `limit` strings."""
    if not isinstance(value, (list, tuple)):
        raise InvalidImage(f"{where}: must be a list of strings, not {_kind(value)}")
    if len(value) > limit:
        raise InvalidImage(f"{where}: {len(value)} entries, more than {limit}")
    return tuple(check_text(item, f"{where}[{number}]") for number, item in enumerate(value))


def check_text_map(value: object, where: str, *, limit: int = 4096) -> dict[str, str]:
    """`value` if it maps at most `limit` non-empty strings to strings."""
    if not isinstance(value, Mapping):
        raise InvalidImage(f"{where}: must map strings to strings, not be {_kind(value)}")
    if len(value) > limit:
        raise InvalidImage(f"{where}: {len(value)} entries, more than {limit}")
    found = {}
    for key, text in value.items():
        name = check_text(key, f"{where} (a key)", limit=4096)
        if not name:
            raise InvalidImage(f"{where}: has an empty key")
        found[name] = check_text(text, f"{where}[{shorten(name)}]")
    return found


def shorten(text: str) -> str:
    """`text` as it may stand in a message: quoted, control characters escaped, at most 60 characters."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _kind(value: object) -> str:
    return "null" if value is None else type(value).__name__


class Fields:
    """A JSON object from which fields are taken one by one; `rest()` is what nobody took.

    A null counts as absent, as it does for every other reader of these documents.
    """

    def __init__(self, document: Mapping[str, Any], where: str) -> None:
        self.where = where
        self._left = dict(document)

    def name(self, key: str) -> str:
        return f"{self.where}: {key}"

    def take(self, key: str) -> Any:
        return self._left.pop(key, None)

    def optional(self, key: str, check: Callable[[Any, str], T]) -> T | None:
        value = self.take(key)
        return None if value is None else check(value, self.name(key))

    def required(self, key: str, check: Callable[[Any, str], T]) -> T:
        value = self.take(key)
        if value is None:
            raise InvalidImage(f"{self.name(key)}: is missing")
        return check(value, self.name(key))

    def rest(self) -> dict[str, Any]:
        return self._left


def check_object(value: object, where: str) -> Fields:
    if not isinstance(value, Mapping):
        raise InvalidImage(f"{where}: must be an object, not {_kind(value)}")
    return Fields(value, where)


def check_list(value: object, where: str) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        raise InvalidImage(f"{where}: must be a list, not {_kind(value)}")
    return list(value)


def check_size(value: object, where: str) -> int:
    # bool is an int to Python, and true is no size.
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63:
        raise InvalidImage(f"{where}: must be a size in bytes, 0 to 2^63-1")
    return value
