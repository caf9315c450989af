"""Choosing among the variants of an image (image-spec, image-index.md, "Platform Variants")."""

from __future__ import annotations

from collections.abc import Iterable

from pycontainer.oci.descriptor import Descriptor
from pycontainer.oci.platform import Platform

# What an architecture means where no variant is said.
_USUAL = {"amd64": "v1", "arm64": "v8", "arm": "v7"}


def best_for(platform: Platform, descriptors: Iterable[Descriptor]) -> Descriptor | None:
    """The first of those made for the newest variant that `platform` can run; None where none fits."""
    fitting = [(_fit(platform, descriptor.platform), descriptor) for descriptor in descriptors]
    best = max((rank for rank, _ in fitting), default=-1)
    return None if best < 0 else next(descriptor for rank, descriptor in fitting if rank == best)


def _fit(host: Platform, made_for: Platform | None) -> int:
    """The variant's number, -1 where it does not run on the host."""
    if made_for is None or (made_for.os, made_for.architecture) != (host.os, host.architecture):
        return -1
    wanted, own = (one.variant or _USUAL.get(one.architecture, "v0") for one in (made_for, host))
    if not all(text[:1] == "v" and text[1:].isascii() and text[1:].isdigit() for text in (wanted, own)):
        return 0 if wanted == own else -1
    level = int(wanted[1:3])
    return level if level <= int(own[1:3]) else -1
