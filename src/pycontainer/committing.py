"""What a container changed, made into an image or, with all below it, into an archive."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import attrs

from pycontainer import changes, launch
from pycontainer.archive import export as archive
from pycontainer.errors import CapabilityUnavailable, ImageError
from pycontainer.image import Image, changed, complete_name
from pycontainer.layer.diff import (
    CLONE_NEWNS,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    TreeStream,
    of_upper,
)
from pycontainer.oci.config import History
from pycontainer.oci.times import format_time, source_date_epoch
from pycontainer.runtime import plan
from pycontainer.snapshot import overlay
from pycontainer.store import assemble
from pycontainer.store.floor import absent
from pycontainer.supervisor import client
from pycontainer.supervisor.plan import MS_PRIVATE, Ops
from pycontainer.units import refuse
from pycontainer.writable import DiskLayer

if TYPE_CHECKING:
    from pycontainer.lives import Run
    from pycontainer.options import Options
    from pycontainer.writable import WritableLayer

_PLACE = "/sys"
"""Where a running container's root is looked at: it exists in every one of them."""


def commit(
    image: Image,
    layer: WritableLayer,
    created_by: str,
    *,
    ref: str | None,
    author: str | None,
    message: str | None,
    config: Mapping[str, Any],
) -> Image:
    """The image of a container's files: its own image's layers, and one for each layer above them that
    changes something. Raises ImageError, InvalidOption, InvalidReference, NoSpace and StoreError."""
    disk = _on_disk(layer, "committed")
    name = complete_name(ref)
    if message is not None and not isinstance(message, str):
        raise refuse("message", message, "must be text")
    epoch = source_date_epoch(os.environ)
    created = format_time(int(time.time()) if epoch is None else epoch)
    last = History(created=created, created_by=created_by, author=author, comment=message, empty_layer=True)
    config = {"author": author, "created": created, **config} if author else {"created": created, **config}
    # What is wrong with them is said before anything is read.
    changed(image.config, config, last)
    with assemble.on_top(disk.root.store, image._manifest) as made:
        steps = []
        for upper, lower in _stack(disk):
            found = changes.on_disk(upper, lower)
            if found.changes:
                made.add(of_upper(upper, clamp=epoch, without=found.set_up).chunks())
            if upper == disk.upper:
                last = attrs.evolve(last, empty_layer=not found.changes)
            elif found.changes:
                steps.append(History(created=created, created_by="pycontainer: seal"))
        below = attrs.evolve(image.config, history=(*image.config.history, *steps))
        entered = made.enter(changed(below, config, last), name)
        return Image(disk.root.store, entered.entry, entered)


def created_by(image: Image, args: Any, options: Options) -> str:
    """A container's command, as a history has it."""
    config = image.config
    entrypoint = (config.entrypoint or ()) if options.entrypoint is None else options.entrypoint
    if args is None:
        args = (config.cmd or ()) if options.entrypoint is None else ()
    words = [*map(os.fsencode, entrypoint), *launch.arguments(args)]
    return shlex.join([word.decode("utf-8", "replace") for word in words])


def export(layer: WritableLayer, run: Run | None, path: str) -> None:
    """Writes the files of a container to `path` as one flat archive: its image's with its own changes,
    and nothing of what is mounted there. `run` is its program while that runs.

    Raises ImageError where the archive cannot be written or a file not be read, NoSpace, InvalidImage
    and LaunchError.
    """
    disk = _on_disk(layer, "exported")
    lower = (*disk.uppers, *disk.root.lower)
    left_out = changes.of_layer(disk).set_up
    if run is not None:
        left_out = (*left_out, *absent(lower, plan.OWN_FILES))

    def inside(ops: Ops) -> None:
        # Looked at from there, since the kernel wants nobody else to mount a layer that is written to. In
        # a copy of the namespace, on a mount on which nothing is a device: files may be swapped meanwhile.
        ops.join(CLONE_NEWNS)
        ops.unshare(CLONE_NEWNS)
        ops.propagation(MS_PRIVATE)
        ops.open_tree(0, "/", how=0)
        ops.enter()
        ops.bind(0, _PLACE, MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, how=0)
        ops.root(_PLACE)

    def merged(ops: Ops) -> None:
        ops.propagation(MS_PRIVATE)
        overlay.merged(ops, lower, userxattr=client.default().rootless)

    stream = TreeStream(
        "the container",
        mounts=merged if run is None else inside,
        kind="merged",
        without=left_out,
        target=0 if run is None else run.job.id,
    )
    archive.write(stream, path)


@contextmanager
def standing_still(run: Run | None) -> Iterator[None]:
    """Freezes a container's program meanwhile, where its host can do that."""
    if run is None:
        yield
        return
    try:
        run.freeze()
    except CapabilityUnavailable:
        # Without a control group: it is read as it is.
        yield
        return
    try:
        yield
    finally:
        run.thaw()


def _stack(layer: DiskLayer) -> Iterator[tuple[str, tuple[str, ...]]]:
    """All layers above the image, lowest first, each with what is below it."""
    everything = (*layer.uppers, *layer.root.lower)
    for number in reversed(range(len(layer.uppers))):
        yield everything[number], everything[number + 1 :]


def _on_disk(layer: WritableLayer, done: str) -> DiskLayer:
    if isinstance(layer, DiskLayer):
        return layer
    raise ImageError(
        f"a container on the host image cannot be {done}: what is below its changes is in no store; seal() "
        "it and fork that, or start from an image, which Image.from_directory makes of a directory"
    )
