"""Digests: `algorithm:hex`, by which all content is named (image-spec, descriptor.md, "Digests")."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from pycontainer.errors import InvalidImage, InvalidReference
from pycontainer.oci._document import shorten

if TYPE_CHECKING:
    from hashlib import _Hash

_HEX_LENGTHS = {"sha256": 64, "sha512": 128}
_FORM = re.compile(r"(sha256|sha512):([0-9a-f]+)")


class Digest(str):
    """A string that is known to be a digest: it compares, hashes and prints as that string.

    Only sha256 and sha512 in lower-case hex exist: one content, one spelling.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Digest:
        if not isinstance(text, str) or not cls.is_valid(text):
            raise InvalidReference(f"not a digest (sha256:64 hex digits or sha512:128): {shorten(str(text))}")
        return super().__new__(cls, text)

    def __getnewargs__(self) -> tuple[str]:
        return (str(self),)

    @classmethod
    def of(cls, data: bytes, algorithm: str = "sha256") -> Digest:
        """The digest of `data`."""
        return cls.from_hash(hashlib.new(algorithm, data))

    @classmethod
    def from_hash(cls, hashed: _Hash) -> Digest:
        """The digest that a `hashlib` object has come to."""
        return cls(f"{hashed.name}:{hashed.hexdigest()}")

    @classmethod
    def check(cls, value: object, where: str) -> Digest:
        """`value` as a digest; InvalidImage naming the field `where` if it is none."""
        if not isinstance(value, str):
            raise InvalidImage(f"{where}: must be a digest, a string")
        try:
            return cls(value)
        except InvalidReference as error:
            raise InvalidImage(f"{where}: {error}") from None

    @staticmethod
    def is_valid(text: str) -> bool:
        """Whether `text` is a digest."""
        form = _FORM.fullmatch(text)
        return form is not None and len(form[2]) == _HEX_LENGTHS[form[1]]

    @property
    def algorithm(self) -> str:
        return self.partition(":")[0]

    @property
    def hex(self) -> str:
        return self.partition(":")[2]

    def hasher(self) -> _Hash:
        """A fresh `hashlib` object of this digest's algorithm."""
        return hashlib.new(self.algorithm)

    def verify(self, data: bytes) -> bool:
        """Whether `data` is what this digest names."""
        return Digest.of(data, self.algorithm) == self
