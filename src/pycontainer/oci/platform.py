"""Platforms: which machine and system an image is made for (image-spec, image-index.md, "platform")."""

from __future__ import annotations

import functools
import os
import re
from typing import Any

import attrs

from pycontainer.errors import InvalidOption
from pycontainer.oci._document import Fields, check_text, shorten

# What uname(2) calls a machine -> Go's name for it, which the specification uses, and its variant.
_MACHINES: dict[str, tuple[str, str | None]] = {
    "x86_64": ("amd64", None),
    "aarch64": ("arm64", "v8"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "i686": ("386", None),
    "ppc64le": ("ppc64le", None),
    "s390x": ("s390x", None),
    "riscv64": ("riscv64", None),
    "loongarch64": ("loong64", None),
}
_WORD = r"[A-Za-z0-9_.-]{1,64}"
_TEXT = re.compile(rf"({_WORD})/({_WORD})(?:/({_WORD}))?", re.ASCII)


@attrs.frozen
class Platform:
    """An operating system and a CPU; `str()` gives "linux/arm64/v8"."""

    os: str
    architecture: str
    variant: str | None = None
    extra: dict[str, Any] = attrs.field(factory=dict, repr=False, hash=False)

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)

    @staticmethod
    def host() -> Platform:
        """This machine's platform."""
        return _host()

    @classmethod
    def parse(cls, text: str) -> Platform:
        """What "os/architecture[/variant]" names; uname(2)'s words for an architecture are known too.

        Raises InvalidOption.
        """
        form = _TEXT.fullmatch(text) if isinstance(text, str) else None
        if form is None:
            raise InvalidOption(
                f"platform={shorten(str(text))}: must be os/architecture[/variant], linux/arm64"
            )
        architecture, variant = _MACHINES.get(form[2], (form[2], None))
        return cls(form[1], architecture, form[3] or variant)

    @classmethod
    def from_fields(cls, fields: Fields) -> Platform:
        """The platform that a JSON object describes; InvalidImage naming the field that is wrong."""
        return cls(
            os=fields.required("os", check_text),
            architecture=fields.required("architecture", check_text),
            variant=fields.optional("variant", check_text),
            extra=fields.rest(),
        )

    def document(self) -> dict[str, Any]:
        """The JSON object that says the same."""
        found: dict[str, Any] = {"architecture": self.architecture, "os": self.os}
        if self.variant is not None:
            found["variant"] = self.variant
        return {**found, **self.extra}


@functools.cache
def _host() -> Platform:
    machine = os.uname().machine
    architecture, variant = _MACHINES.get(machine, (machine, None))
    return Platform("linux", architecture, variant)
