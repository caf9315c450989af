"""What the containers run on: a directory with a static busybox, and this machine's own root."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

import attrs

from benchmarks.harness import Unavailable

APPLETS = ("true", "sleep", "sh", "cat")
DIRECTORIES = ("bin", "dev", "etc", "proc", "sys", "tmp", "root")


@attrs.frozen
class Root:
    """`directory` is what a container sees as /; `tar` the same for engines that import an image."""

    name: str
    directory: Path
    tar: Path | None = None


HOST = Root("host", Path("/"))


def make_busybox(beneath: Path) -> Root:
    """Makes the directory and the tar file. Raises `Unavailable` where there is no busybox."""
    busybox = shutil.which("busybox")
    if busybox is None:
        raise Unavailable("busybox is not installed")
    directory = beneath / "busybox"
    for name in DIRECTORIES:
        (directory / name).mkdir(parents=True)
    shutil.copy(busybox, directory / "bin/busybox")
    for name in APPLETS:
        (directory / "bin" / name).symlink_to("busybox")
    (directory / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (directory / "etc/group").write_text("root:x:0:\n")
    tar = beneath / "busybox.tar"
    with tarfile.open(tar, "w") as archive:
        archive.add(directory, arcname=".")
    return Root("busybox", directory, tar)
