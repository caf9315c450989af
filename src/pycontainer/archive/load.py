"""Images from files: docker-archive, oci-archive and OCI layout directories, compressed or not."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import attrs

from pycontainer.archive import docker_archive, oci_layout
from pycontainer.archive.files import Files
from pycontainer.archive.opening import opened
from pycontainer.archive.storing import Found, put
from pycontainer.blobs.locks import Lock
from pycontainer.errors import InvalidImage, StoreError
from pycontainer.oci.manifest import Manifest
from pycontainer.oci.platform import Platform
from pycontainer.store.assemble import Made, enter
from pycontainer.store.catalog import Choice
from pycontainer.store.store import Store


def load(store: Store, path: str) -> list[Made]:
    """Loads the images in the archive or layout directory `path`, with the names that they have there;
    in its order, each once.

    Raises ImageError where it cannot be read, InvalidImage and UnsafeLayer naming what is wrong in it,
    UnsupportedPlatform, NoSpace and StoreError. Where anything in it is wrong, none of it is kept.
    """
    kept: list[tuple[Found, Manifest, Lock | None]] = []
    try:
        with opened(store, path) as files, store.writing():
            for found in _images(files):
                kept.append((found, *put(store, found)))
            # Only now, so that nothing is called by a name that was half loaded.
            return [_enter(store, *one) for one in kept]
    except BaseException:
        for _, _, lease in kept:
            if lease is not None:
                lease.release()
        # What went wrong first is what matters; the next prune tries again.
        with contextlib.suppress(StoreError):
            store.collect_now()
        raise


def _enter(store: Store, found: Found, manifest: Manifest, lease: Lock | None) -> Made:
    choice = None if found.index is None else Choice(found.index, str(Platform.host()))
    made = enter(store, manifest, found.config, None, lease, choice)
    for tag in found.tags:
        store.catalog.tag(tag, manifest.digest)
    return made


def _images(files: Files) -> Iterator[Found]:
    is_layout = files.file(oci_layout.MARKER) is not None
    is_docker = files.file(docker_archive.MANIFEST) is not None
    if is_layout:
        images = list(oci_layout.images(files))
        if is_docker:
            images = _with_dockers(images, files)
    elif is_docker:
        images = list(docker_archive.images(files))
    else:
        wanted = f"{oci_layout.MARKER} or {docker_archive.MANIFEST}"
        raise InvalidImage(f"{files.name}: is no archive of images (it has no {wanted})")
    if not images:
        raise InvalidImage(f"{files.name}: holds no image")
    return iter(images)


def _with_dockers(images: list[Found], files: Files) -> list[Found]:
    """The images of a layout and those that only its `manifest.json` lists, or names.

    Docker writes both since version 25, and leaves images without a name out of `index.json`.
    """
    places = {image.config.digest: number for number, image in enumerate(images)}
    for image in docker_archive.images(files):
        place = places.setdefault(image.config.digest, len(images))
        if place == len(images):
            images.append(image)
        else:
            tags = tuple(dict.fromkeys((*images[place].tags, *image.tags)))
            images[place] = attrs.evolve(images[place], tags=tags)
    return images
