"""An image's files as one flat tar archive: its layers merged as a container sees them.

One child mounts the layers over each other, in a mount namespace of its own, and reads what comes of
that. So nothing of overlay shows, whiteouts are applied, and no container can be there that changes it.
"""

from __future__ import annotations

from pycontainer.archive.beside import Replacing, plain_target
from pycontainer.layer.diff import TreeStream
from pycontainer.snapshot import overlay
from pycontainer.store.rootfs import LayeredRoot
from pycontainer.supervisor import client
from pycontainer.supervisor.plan import MS_PRIVATE, Ops


def export(root: LayeredRoot, path: str) -> None:
    """Writes the files of `root` to `path`, which is replaced when all of it is there.

    The same image gives the same bytes. Owners are the image's own numbers. Raises ImageError where
    the archive cannot be written or a file not be read, NoSpace, InvalidImage and LaunchError.
    """
    write(merged(root), path)


def write(stream: TreeStream, path: str) -> None:
    """Writes a stream to `path`, which is replaced when all of it is there. Raises as `export`."""
    with Replacing(plain_target(path)) as file:
        for chunk in stream.chunks():
            file.write(chunk)
        file.commit()


def merged(root: LayeredRoot) -> TreeStream:
    """The stream of a root's files; the layers must be kept until it is at its end."""

    def mounts(ops: Ops) -> None:
        ops.propagation(MS_PRIVATE)
        overlay.merged(ops, root.lower, userxattr=client.default().rootless)

    return TreeStream("the image", mounts=mounts, kind="merged")
