"""Which image of an index is taken for a platform."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pycontainer.errors import InvalidImage, UnsupportedPlatform
from pycontainer.oci.config import ImageConfig
from pycontainer.oci.manifest import Index
from pycontainer.oci.platform import Platform
from pycontainer.transfer import platforms

MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def entry(platform: str | None, number: int, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"mediaType": MANIFEST, "digest": f"sha256:{number:064x}", "size": 1, **more}
    if platform is not None:
        found["platform"] = dict(zip(("os", "architecture", "variant"), platform.split("/"), strict=False))
    return found


def index(*entries: dict[str, Any]) -> Index:
    return Index.parse(json.dumps({"schemaVersion": 2, "manifests": entries}).encode())


def chosen(wanted: str, *offered: str | None) -> int:
    found = platforms.choose(
        index(*(entry(name, number) for number, name in enumerate(offered))), parsed(wanted), "x"
    )
    return int(found.digest.hex, 16)


def parsed(text: str) -> Platform:
    """As callers give it; `Platform.parse` knows more words."""
    return Platform(*text.split("/"))


@pytest.mark.parametrize(
    ("wanted", "offered", "number"),
    [
        ("linux/amd64", ["linux/arm64", "linux/amd64"], 1),
        ("linux/amd64", ["linux/amd64/v3", "linux/amd64"], 1),
        ("linux/amd64", ["windows/amd64", "linux/amd64/v1"], 1),
        ("linux/amd64/v3", ["linux/amd64", "linux/amd64/v4", "linux/amd64/v2"], 2),
        ("linux/arm64", ["linux/arm/v8", "linux/arm64/v8"], 1),
        ("linux/arm64/v8", ["linux/arm64"], 0),
        ("linux/arm64/v8", ["linux/arm64", "linux/arm64/v8"], 1),
        ("linux/arm/v7", ["linux/arm/v5", "linux/arm/v6"], 1),
        ("linux/arm/v7", ["linux/arm/v5", "linux/arm"], 1),
        ("linux/arm/v8", ["linux/arm/v5", "linux/arm/v7"], 1),
        ("linux/arm", ["linux/arm/v6", "linux/arm/v7"], 1),
        ("linux/riscv64", ["linux/riscv64", "linux/riscv64"], 0),
        ("linux/s390x/z15", ["linux/s390x"], 0),
        ("linux/amd64", ["linux/arm64", None], 1),
    ],
)
def test_the_best_is_chosen(wanted: str, offered: list[str | None], number: int) -> None:
    assert chosen(wanted, *offered) == number


@pytest.mark.parametrize(
    ("wanted", "offered"),
    [
        ("linux/amd64", ["linux/amd64/v3"]),
        ("linux/arm/v6", ["linux/arm/v7", "linux/arm"]),
        ("linux/arm64", ["linux/arm/v7"]),
        ("linux/amd64", ["linux/arm64", None, None]),
        ("windows/amd64", ["linux/amd64"]),
    ],
)
def test_nothing_fits(wanted: str, offered: list[str | None]) -> None:
    with pytest.raises(UnsupportedPlatform) as caught:
        chosen(wanted, *offered)
    for name in offered:
        assert (name or "(not said)") in str(caught.value)


def test_what_is_no_image_is_never_chosen() -> None:
    unknown = entry("unknown/unknown", 1)
    marked = entry("linux/amd64", 2, annotations={"vnd.docker.reference.type": "attestation-manifest"})
    artifact = entry("linux/amd64", 3, artifactType="application/example")
    other = entry("linux/amd64", 4) | {"mediaType": "application/example"}
    for wanted in ("linux/amd64", "unknown/unknown"):
        with pytest.raises(InvalidImage, match="without images"):
            platforms.choose(index(unknown, marked, artifact, other), parsed(wanted), "x")
    found = platforms.choose(index(unknown, marked, entry("linux/amd64", 9)), parsed("linux/amd64"), "x")
    assert int(found.digest.hex, 16) == 9


def test_a_long_list_is_cut_short() -> None:
    with pytest.raises(UnsupportedPlatform, match=r"and 60 more") as caught:
        chosen("linux/amd64", *(f"linux/cpu{number}" for number in range(100)))
    assert len(str(caught.value)) < 1000


def test_an_image_alone() -> None:
    """Without an index it is taken as it is, unless it is for another system or was asked for exactly."""
    config = ImageConfig(architecture="arm64", variant="v8")
    host = Platform("linux", "amd64")
    platforms.check(config, host, exactly=False, what="x")
    platforms.check(config, parsed("linux/arm64"), exactly=True, what="x")
    with pytest.raises(UnsupportedPlatform, match="for linux/arm64/v8, not for linux/amd64"):
        platforms.check(config, host, exactly=True, what="x")
    with pytest.raises(UnsupportedPlatform):
        platforms.check(ImageConfig(os="windows", architecture="amd64"), host, exactly=False, what="x")
