"""A small root directory for images: a static busybox, and files to change."""

from __future__ import annotations

import shutil
from pathlib import Path

from conftest import need

BUSYBOX = Path("/bin/busybox")
TOOLS = ("sh", "cat", "chmod", "chown", "ls", "ln", "mkdir", "mkfifo", "mv", "rm", "rmdir", "sleep", "stat")
MORE = ("tar", "touch", "true", "false", "wc", "seq", "setfattr", "test", "head")


def make(path: Path) -> Path:
    """Puts it into the empty or missing directory `path`, which it gives back."""
    need(BUSYBOX.exists(), "busybox-static")
    for name in ("bin", "etc/sub", "tmp", "data/sub", "gone", "empty"):
        (path / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, path / "bin/busybox")
    for name in (*TOOLS, *MORE):
        (path / "bin" / name).symlink_to("busybox")
    (path / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    (path / "etc/motd").write_text("of the image\n")
    (path / "data/a").write_text("a\n")
    (path / "data/sub/b").write_text("b\n")
    (path / "gone/c").write_text("c\n")
    (path / "tmp").chmod(0o1777)
    return path
