"""Reading what `docker save` writes: `manifest.json`, a config and a tar file for each layer.

https://github.com/moby/docker-image-spec/blob/main/spec.md, "Combined Image JSON + Filesystem Changeset
Format". Layers have been called `<id>/layer.tar`, `<digest>.tar` and `blobs/sha256/<digest>`, some of
them being links to others; what counts is what `manifest.json` calls them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pycontainer.archive.files import Files
from pycontainer.archive.names import MAX_IMAGES, full_name
from pycontainer.archive.storing import Found, LayerFile
from pycontainer.errors import InvalidImage
from pycontainer.oci import _document as d
from pycontainer.oci.config import ImageConfig
from pycontainer.oci.digest import Digest
from pycontainer.oci.manifest import MAX_LAYERS

MANIFEST = "manifest.json"
_LISTED = "images"
_DIGEST = re.compile(r"(?:(?:.*/)?(?:blobs/sha256/|sha256:)|)([0-9a-f]{64})(?:\.json)?")


def images(files: Files) -> Iterator[Found]:
    """The images in an archive that has a `manifest.json`, in its order.

    Raises InvalidImage naming the field or file that is wrong or missing, ImageError where one cannot
    be read.
    """
    where = f"{files.name}: {MANIFEST}"
    for number, value in enumerate(_entries(files.read(MANIFEST) or b"", where)):
        yield _image(files, d.check_object(value, f"{where}[{number}]"))


def _entries(raw: bytes, where: str) -> list[Any]:
    # The one document of all these formats that is no object, made the only field of one.
    fields = d.load(b'{"%s":%s\n}' % (_LISTED.encode(), raw), where)
    entries = d.check_list(fields.take(_LISTED), where)
    if fields.rest():
        raise InvalidImage(f"{where}: is more than one JSON value")
    if not 0 < len(entries) <= MAX_IMAGES:
        raise InvalidImage(f"{where}: {len(entries)} images; there must be 1 to {MAX_IMAGES}")
    return entries


def _image(files: Files, fields: d.Fields) -> Found:
    where = fields.where
    config = _config(files, fields.required("Config", d.check_text), where)
    names = fields.optional("Layers", _check_layers) or ()
    tags = fields.optional("RepoTags", d.check_texts) or ()
    full = (full_name(tag, f"{where}: RepoTags[{number}]") for number, tag in enumerate(tags))
    layers = tuple(_layer(files, name, f"{where}: Layers[{number}]") for number, name in enumerate(names))
    return Found(where, config, layers, tuple(dict.fromkeys(full)))


def _config(files: Files, name: str, where: str) -> ImageConfig:
    raw = files.read(name)
    if raw is None:
        raise InvalidImage(f"{where}: Config: {d.shorten(name)} is not in the archive")
    if (form := _DIGEST.fullmatch(name)) and Digest.of(raw).hex != form[1]:
        raise InvalidImage(f"{where}: Config: {d.shorten(name)} is {Digest.of(raw)}")
    return ImageConfig.parse(raw, what=f"{files.name}: {d.shorten(name)}")


def _layer(files: Files, name: str, where: str) -> LayerFile:
    file = files.file(name)
    if file is None:
        raise InvalidImage(f"{where}: {d.shorten(name)} is not in the archive")
    return LayerFile(f"{where} ({d.shorten(name)})", file)


def _check_layers(value: object, where: str) -> tuple[str, ...]:
    return d.check_texts(value, where, limit=MAX_LAYERS)
