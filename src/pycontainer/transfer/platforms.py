"""Which image of an index is for a platform (image-spec, image-index.md, "platform")."""

from __future__ import annotations

from collections.abc import Iterator

from pycontainer.errors import InvalidImage, UnsupportedPlatform
from pycontainer.oci import media_types
from pycontainer.oci.config import ImageConfig
from pycontainer.oci.descriptor import Descriptor
from pycontainer.oci.manifest import Index
from pycontainer.oci.platform import Platform

# Which variants run where another one is asked for, best first; None is an image that does not say.
# Without a variant arm means v7, arm64 v8 and amd64 the first of its levels.
_VARIANTS: dict[tuple[str, str | None], tuple[str | None, ...]] = {
    ("arm", None): ("v7", None, "v6", "v5"),
    ("arm", "v5"): ("v5",),
    ("arm", "v6"): ("v6", "v5"),
    ("arm", "v7"): ("v7", None, "v6", "v5"),
    ("arm", "v8"): ("v8", "v7", None, "v6", "v5"),
    ("arm64", None): ("v8", None),
    ("arm64", "v8"): ("v8", None),
    ("amd64", None): (None, "v1"),
    ("amd64", "v1"): ("v1", None),
    ("amd64", "v2"): ("v2", "v1", None),
    ("amd64", "v3"): ("v3", "v2", "v1", None),
    ("amd64", "v4"): ("v4", "v3", "v2", "v1", None),
}
_KNOWN = media_types.MANIFESTS | media_types.INDEXES
# What BuildKit calls the manifests that say how an image was built, beside the images themselves.
_ATTESTATION = "vnd.docker.reference.type"


def choose(index: Index, wanted: Platform, what: str) -> Descriptor:
    """The manifest, or inner index, for `wanted`; where several fit equally, the first.

    Raises UnsupportedPlatform naming what there is, InvalidImage where there is no image at all.
    """
    images = [entry for entry in index.manifests if _is_image(entry)]
    if not images:
        raise InvalidImage(f"{what}: an index without images")
    ranked = [(rank, number) for number, entry in enumerate(images) if (rank := _rank(entry, wanted)) >= 0]
    if ranked:
        return images[min(ranked)[1]]
    # An entry need not say what it is for; where it is alone in that, it must be this one.
    silent = [entry for entry in images if entry.platform is None]
    if len(silent) == 1:
        return silent[0]
    raise UnsupportedPlatform(f"{what}: nothing for {wanted}; there is {', '.join(_names(images))}")


def check(config: ImageConfig, wanted: Platform, *, exactly: bool, what: str) -> None:
    """Raises UnsupportedPlatform where an image that was not chosen from an index is for another
    system or, where the caller asked `exactly` for that platform, another machine."""
    own = config.platform
    fits = own.os == wanted.os
    if exactly:
        fits = fits and own.architecture == wanted.architecture and _variant_rank(own, wanted) >= 0
    if not fits:
        raise UnsupportedPlatform(f"{what}: it is for {own}, not for {wanted}")


def _is_image(entry: Descriptor) -> bool:
    if entry.media_type not in _KNOWN or entry.extra.get("artifactType"):
        return False
    if _ATTESTATION in entry.annotations:
        return False
    return entry.platform is None or (entry.platform.os, entry.platform.architecture) != (
        "unknown",
        "unknown",
    )


def _rank(entry: Descriptor, wanted: Platform) -> int:
    """How well an entry fits, 0 is best; -1 where it does not."""
    own = entry.platform
    if own is None or (own.os, own.architecture) != (wanted.os, wanted.architecture):
        return -1
    return _variant_rank(own, wanted)


def _variant_rank(own: Platform, wanted: Platform) -> int:
    plain = (wanted.variant,) if wanted.variant is None else (wanted.variant, None)
    fitting = _VARIANTS.get((wanted.architecture, wanted.variant), plain)
    return fitting.index(own.variant) if own.variant in fitting else -1


def _names(images: list[Descriptor]) -> Iterator[str]:
    shown = sorted({"(not said)" if entry.platform is None else str(entry.platform) for entry in images})
    yield from (name[:100] for name in shown[:40])
    if len(shown) > 40:
        yield f"and {len(shown) - 40} more"
