"""The part of a container's path that needs no container: names, in the way of pathlib's PurePosixPath."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

if TYPE_CHECKING:
    from pycontainer.container import Container

Self = TypeVar("Self", bound="PureContainerPath")
Segment: TypeAlias = "str | os.PathLike[str] | PureContainerPath"


class PureContainerPath:
    """Names and their parts. Not an `os.PathLike`: the host's functions must never take it for a path
    of the host's. Two are equal when both path and container are the same."""

    __slots__ = ("_container", "_pure")

    def __init__(self, container: Container, *segments: Segment) -> None:
        self._container = container
        self._pure = PurePosixPath(*map(self._inner, segments))

    def with_segments(self: Self, *segments: Segment) -> Self:
        """Another path of the same container."""
        return type(self)(self._container, *segments)

    @property
    def container(self) -> Container:
        return self._container

    def _inner(self, segment: Segment) -> str | os.PathLike[str]:
        if not isinstance(segment, PureContainerPath):
            return segment
        if segment._container.id != self._container.id:
            raise ValueError(f"{segment!r} is of another container than {self._container!r}")
        return segment._pure

    # What it is.

    def __str__(self) -> str:
        return str(self._pure)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._pure)!r}, container={self._container.id[:12]!r})"

    def __bytes__(self) -> bytes:
        return bytes(self._pure)

    def as_posix(self) -> str:
        return self._pure.as_posix()

    def __hash__(self) -> int:
        return hash((self._container.id, self._pure))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PureContainerPath):
            return NotImplemented
        return self._pure == other._pure and self._container.id == other._container.id

    def _comparable(self, other: object) -> bool:
        return isinstance(other, PureContainerPath) and other._container.id == self._container.id

    def __lt__(self, other: PureContainerPath) -> bool:
        return self._pure < other._pure if self._comparable(other) else NotImplemented

    def __le__(self, other: PureContainerPath) -> bool:
        return self._pure <= other._pure if self._comparable(other) else NotImplemented

    def __gt__(self, other: PureContainerPath) -> bool:
        return self._pure > other._pure if self._comparable(other) else NotImplemented

    def __ge__(self, other: PureContainerPath) -> bool:
        return self._pure >= other._pure if self._comparable(other) else NotImplemented

    # Its parts.

    @property
    def parts(self) -> tuple[str, ...]:
        return self._pure.parts

    @property
    def drive(self) -> str:
        return self._pure.drive

    @property
    def root(self) -> str:
        return self._pure.root

    @property
    def anchor(self) -> str:
        return self._pure.anchor

    @property
    def name(self) -> str:
        return self._pure.name

    @property
    def stem(self) -> str:
        return self._pure.stem

    @property
    def suffix(self) -> str:
        return self._pure.suffix

    @property
    def suffixes(self) -> list[str]:
        return self._pure.suffixes

    @property
    def parent(self: Self) -> Self:
        return self.with_segments(self._pure.parent)

    @property
    def parents(self: Self) -> Sequence[Self]:
        return tuple(map(self.with_segments, self._pure.parents))

    # Others made of it.

    def __truediv__(self: Self, other: Segment) -> Self:
        if not isinstance(other, str | os.PathLike | PureContainerPath):
            return NotImplemented
        return self.with_segments(self, other)

    def __rtruediv__(self: Self, other: str | os.PathLike[str]) -> Self:
        if not isinstance(other, str | os.PathLike):
            return NotImplemented
        return self.with_segments(other, self)

    def joinpath(self: Self, *others: Segment) -> Self:
        return self.with_segments(self, *others)

    def with_name(self: Self, name: str) -> Self:
        return self.with_segments(self._pure.with_name(name))

    def with_stem(self: Self, stem: str) -> Self:
        return self.with_segments(self._pure.with_stem(stem))

    def with_suffix(self: Self, suffix: str) -> Self:
        return self.with_segments(self._pure.with_suffix(suffix))

    def relative_to(self: Self, other: Segment, **options: Any) -> Self:
        """`walk_up` as this Python's pathlib has it (3.12). Raises ValueError."""
        return self.with_segments(self._pure.relative_to(self._inner(other), **options))

    def is_relative_to(self, other: Segment) -> bool:
        return self._pure.is_relative_to(self._inner(other))

    def is_absolute(self) -> bool:
        return self._pure.is_absolute()

    def match(self, pattern: str, **options: Any) -> bool:
        """`case_sensitive` as this Python's pathlib has it (3.12)."""
        return self._pure.match(pattern, **options)
