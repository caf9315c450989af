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

_FLAGS = overlay.MS_RDONLY | overlay.MS_NOSUID | overlay.MS_NODEV


def export(root: LayeredRoot, path: str) -> None:
    """Writes the files of `root` to `path`, which is replaced when all of it is there.

    The same image gives the same bytes. Owners are the image's own numbers. Raises ImageError where
    the archive cannot be written or a file not be read, NoSpace, InvalidImage and LaunchError.
    """
    with Replacing(plain_target(path)) as file:
        for chunk in merged(root).chunks():
            file.write(chunk)
        file.commit()


def merged(root: LayeredRoot) -> TreeStream:
    """The stream of a root's files; the layers must be kept until it is at its end."""
    lower = list(root.lower)
    if len(lower) == 1:
        # Without a writable layer the kernel wants two, and a single one holds whiteouts, too.
        lower.append(overlay.empty_at(overlay.BASE))

    def mounts(ops: Ops) -> None:
        ops.propagation(MS_PRIVATE)
        overlay.scratch(ops)
        overlay.furnish(ops, overlay.BASE)
        overlay.many_layers(ops, "root", lower, flags=_FLAGS, userxattr=client.default().rootless)
        ops.root(overlay.root_at(overlay.BASE))

    return TreeStream("the image", mounts=mounts, kind="merged")
