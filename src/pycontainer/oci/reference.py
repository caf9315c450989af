"""Image references: `[registry/]repository[:tag][@digest]` (distribution-spec, "Pulling manifests").

`Reference.parse` reads what is written and adds nothing; `Reference.complete` is the one place that
knows Docker's shorthand ("debian" means "docker.io/library/debian:latest").
"""

from __future__ import annotations

import re

import attrs

from pycontainer.errors import InvalidReference
from pycontainer.oci._document import shorten
from pycontainer.oci.digest import Digest

DEFAULT_REGISTRY = "docker.io"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"

# Also the longest name that other tools take, registry included.
_MAX_NAME = 255
_PART = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_PART}(?:/{_PART})*", re.ASCII)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", re.ASCII)
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_HOST = rf"{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:.]{{2,45}}\]"
_REGISTRY = re.compile(rf"(?:{_HOST})(?::([0-9]{{1,5}}))?", re.ASCII)
_HEX64 = re.compile(r"[0-9a-f]{64}")


@attrs.frozen
class Reference:
    """A parsed reference; what was not written is None. `str()` gives it back as written."""

    repository: str
    registry: str | None = None
    tag: str | None = None
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """What `text` says, without any default; InvalidReference where it breaks the grammar."""
        if not isinstance(text, str):
            raise InvalidReference(f"an image reference must be a string, not {type(text).__name__}")
        # Before any pattern sees it: nothing longer can be right, and cost grows with length.
        if len(text) > 600:
            raise InvalidReference(f"image reference of {len(text)} characters: {shorten(text)}")
        name, at, digest = text.partition("@")
        registry, repository = _split_registry(name)
        repository, colon, tag = repository.partition(":")
        if not _REPOSITORY.fullmatch(repository) or len(repository) + len(registry or "") > _MAX_NAME:
            raise InvalidReference(f"image reference {shorten(text)}: {_why_not(repository)}")
        if colon and not _TAG.fullmatch(tag):
            raise InvalidReference(f"image reference {shorten(text)}: {shorten(tag)} is not a tag")
        if registry is None and (_HEX64.fullmatch(repository) or Digest.is_valid(text)):
            # It would be taken for an image ID everywhere else.
            raise InvalidReference(f"image reference {shorten(text)}: it is an image ID, or a digest alone")
        return cls(repository, registry, tag if colon else None, Digest(digest) if at else None)

    @classmethod
    def complete(cls, text: str) -> Reference:
        """What `text` means: parsed, with Docker's defaults for the parts that it leaves out."""
        return cls.parse(text).with_defaults()

    def with_defaults(self) -> Reference:
        """This reference with a registry and, unless a digest names the content, a tag."""
        registry = self.registry or DEFAULT_REGISTRY
        if registry == "index.docker.io":
            registry = DEFAULT_REGISTRY
        repository = self.repository
        if registry == DEFAULT_REGISTRY and "/" not in repository:
            repository = f"{DEFAULT_NAMESPACE}/{repository}"
        tag = self.tag if self.tag is not None or self.digest is not None else DEFAULT_TAG
        return Reference(repository, registry, tag, self.digest)

    def familiar(self) -> str:
        """The shortest text that means this complete reference; the tag is always said."""
        text = str(self)
        for prefix in (f"{DEFAULT_REGISTRY}/{DEFAULT_NAMESPACE}/", f"{DEFAULT_REGISTRY}/"):
            short = text.removeprefix(prefix)
            # "docker.io/localhost/x" must not become "localhost/x", which is somewhere else.
            if short != text and Reference.parse(short).with_defaults() == self:
                return short
        return text

    def __str__(self) -> str:
        text = self.repository if self.registry is None else f"{self.registry}/{self.repository}"
        if self.tag is not None:
            text += f":{self.tag}"
        return text if self.digest is None else f"{text}@{self.digest}"


def _split_registry(name: str) -> tuple[str | None, str]:
    """The registry, where the first component can only be one (it has a dot, a port, or is localhost)."""
    first, slash, rest = name.partition("/")
    if not slash:
        return None, name
    # Upper case is allowed in host names and forbidden in repositories.
    if not ("." in first or ":" in first or first == "localhost" or first != first.lower()):
        return None, name
    form = _REGISTRY.fullmatch(first)
    if form is None or (form[1] is not None and not 0 < int(form[1]) < 65536):
        raise InvalidReference(f"image reference {shorten(name)}: {shorten(first)} is not a host[:port]")
    return first, rest


def _why_not(repository: str) -> str:
    if not repository:
        return "the repository's name is missing"
    if repository != repository.lower():
        return "a repository's name must be lower case"
    if len(repository) > _MAX_NAME:
        return f"a repository's name has at most {_MAX_NAME} characters"
    return f"{shorten(repository)} is not a repository's name"
