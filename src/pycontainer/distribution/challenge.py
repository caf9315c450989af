"""WWW-Authenticate (RFC 9110 11.6.1): what a server asks for, read in one pass and bounded."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NoReturn

import attrs

from pycontainer.errors import AuthError
from pycontainer.oci._document import shorten

MAX_TEXT = 16 << 10
"""Characters of all values together: more than servers accept from anyone in one header."""

MAX_PARTS = 64
"""Challenges, and parameters of one challenge."""

_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_TOKEN68 = frozenset("-._~+/0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_BLANK = frozenset(" \t")


@attrs.frozen
class Challenge:
    """One challenge: the scheme and the names of the parameters in lower case, the values as they are."""

    scheme: str
    parameters: dict[str, str] = attrs.field(factory=dict)


def parse(values: Iterable[str]) -> list[Challenge]:
    """The challenges in these header values, in order; AuthError where one breaks the grammar.

    A value may hold several challenges, and one header may be several values. The opaque form of
    schemes that nobody uses with registries (Negotiate, NTLM) is understood and dropped.
    """
    found: list[Challenge] = []
    total = 0
    for value in values:
        total += len(value)
        if total > MAX_TEXT:
            raise AuthError(f"WWW-Authenticate: more than the {MAX_TEXT} characters that are read")
        found.extend(_Reader(value).challenges())
        if len(found) > MAX_PARTS:
            raise AuthError(f"WWW-Authenticate: more than {MAX_PARTS} challenges")
    return found


class _Reader:
    """One header value and a position in it, which only ever grows."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def challenges(self) -> list[Challenge]:
        found: list[Challenge] = []
        while self.skip(_BLANK | {","}):
            name = self.token()
            if found and self.follows("="):
                self.parameter(found[-1], name)
            else:
                found.append(Challenge(name.lower()))
                self.begin(found[-1])
            if not self.ended():
                self.refuse("a comma is missing")
        return found

    def begin(self, challenge: Challenge) -> None:
        """What stands between a scheme and the first comma: nothing, an opaque value or a parameter."""
        if self.ended():
            return
        if self.text[self.at - 1] not in _BLANK:
            self.refuse("a space is missing after the scheme")
        start = self.at
        self.skip_while(_TOKEN68)
        self.skip_while({"="})
        if self.at > start and self.ended():
            return
        self.at = start
        name = self.token()
        if not self.follows("="):
            self.refuse("a parameter has no value")
        self.parameter(challenge, name)

    def parameter(self, challenge: Challenge, name: str) -> None:
        """The value of `name`, from its equals sign on."""
        self.at += 1
        self.skip(_BLANK)
        value = self.quoted() if self.text[self.at : self.at + 1] == '"' else self.bare()
        if name.lower() in challenge.parameters:
            # Readers differ on which of two counts.
            self.refuse(f"{shorten(name)} appears twice")
        if len(challenge.parameters) >= MAX_PARTS:
            self.refuse(f"more than {MAX_PARTS} parameters")
        challenge.parameters[name.lower()] = value

    def quoted(self) -> str:
        pieces: list[str] = []
        self.at += 1
        while True:
            start = self.at
            while self.at < len(self.text) and self.text[self.at] not in '"\\':
                self.at += 1
            pieces.append(self.text[start : self.at])
            if self.text[self.at : self.at + 1] == '"':
                self.at += 1
                break
            # A backslash stands for what follows it; at the end of the text nothing does.
            if self.at + 1 >= len(self.text):
                self.refuse("a quoted value does not end")
            pieces.append(self.text[self.at + 1])
            self.at += 2
        value = "".join(pieces)
        if any((character < " " and character != "\t") or character == "\x7f" for character in value):
            self.refuse("a control character")
        return value

    def bare(self) -> str:
        """A value without quotes; addresses are no tokens, and some servers leave their quotes out."""
        start = self.at
        self.skip_while(_TOKEN | _TOKEN68 | {":", "?", "=", "@"})
        if self.at == start:
            self.refuse("a parameter has no value")
        return self.text[start : self.at]

    def token(self) -> str:
        start = self.at
        self.skip_while(_TOKEN)
        if self.at == start:
            self.refuse("a name is missing")
        return self.text[start : self.at]

    def follows(self, character: str) -> bool:
        """Whether `character` comes next, white space aside."""
        self.skip(_BLANK)
        return self.text[self.at : self.at + 1] == character

    def ended(self) -> bool:
        self.skip(_BLANK)
        return self.at >= len(self.text) or self.text[self.at] == ","

    def skip(self, characters: frozenset[str]) -> bool:
        """Goes past `characters`; whether anything is left."""
        self.skip_while(characters)
        return self.at < len(self.text)

    def skip_while(self, characters: frozenset[str] | set[str]) -> None:
        while self.at < len(self.text) and self.text[self.at] in characters:
            self.at += 1

    def refuse(self, why: str) -> NoReturn:
        raise AuthError(f"WWW-Authenticate: {why} at character {self.at} of {shorten(self.text)}")
