"""The JSON schemas of the image specification, as Debian has them, applied to documents that we write.

schemas.check("manifest", raw)      # one document
schemas.check_layout(directory)     # a store, or a layout: all that its index.json leads to
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest

from conftest import need
from pycontainer.oci import media_types

PACKAGE = "golang-github-opencontainers-image-spec-dev"
DIRECTORY = Path("/usr/share/gocode/src/github.com/opencontainers/image-spec/schema")

KINDS = {
    "config": "config-schema.json",
    "descriptor": "content-descriptor.json",
    "index": "image-index-schema.json",
    "layout": "image-layout-schema.json",
    "manifest": "image-manifest-schema.json",
}
_BY_MEDIA_TYPE = {media_types.OCI_MANIFEST: "manifest", media_types.OCI_INDEX: "index"}


@functools.cache
def _validator(kind: str) -> Any:
    jsonschema = pytest.importorskip("jsonschema")
    referencing = pytest.importorskip("referencing")
    from referencing.jsonschema import DRAFT4

    # They refer to each other by file name; what they call themselves is not where they are.
    registry = referencing.Registry(
        retrieve=lambda uri: DRAFT4.create_resource(_read(uri.rpartition("/")[2]))
    )
    draft4 = jsonschema.Draft4Validator
    return draft4(_read(KINDS[kind]), registry=registry, format_checker=draft4.FORMAT_CHECKER)


def _read(name: str) -> Any:
    return json.loads((DIRECTORY / name).read_text())


def complaints(kind: str, raw: bytes) -> list[str]:
    """What the schema of that kind (see KINDS) says against a document."""
    need(DIRECTORY.is_dir(), PACKAGE)
    return [f"{e.json_path}: {e.message}" for e in _validator(kind).iter_errors(json.loads(raw))]


def check(kind: str, raw: bytes) -> None:
    found = complaints(kind, raw)
    assert not found, f"{kind} {raw.decode()}: {found}"


def check_layout(root: Path) -> list[str]:
    """Checks oci-layout, index.json, and every manifest, index and config that the index leads to.

    The kinds of what was checked, so that a test sees that something was.
    """
    check("layout", (root / "oci-layout").read_bytes())
    raw = (root / "index.json").read_bytes()
    check("index", raw)
    found = ["layout", "index"]
    for part in json.loads(raw)["manifests"]:
        found += _check_tree(root, part)
    return found


def _check_tree(root: Path, descriptor: dict[str, Any]) -> list[str]:
    check("descriptor", json.dumps(descriptor).encode())
    kind, raw = _BY_MEDIA_TYPE[descriptor["mediaType"]], blob(root, descriptor["digest"])
    check(kind, raw)
    document, found = json.loads(raw), [kind]
    for part in document.get("manifests", ()):
        found += _check_tree(root, part)
    for part in document.get("layers", ()):
        check("descriptor", json.dumps(part).encode())
    if kind == "manifest":
        check("config", blob(root, document["config"]["digest"]))
        found.append("config")
    return found


def blob(root: Path, digest: str) -> bytes:
    """A blob of a layout."""
    return root.joinpath("blobs", *digest.split(":")).read_bytes()
