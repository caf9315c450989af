"""The host image: this machine's own root, which is in no store."""

from __future__ import annotations

import builtins
import functools
import os
from typing import TYPE_CHECKING, Any

from pycontainer.errors import ImageError, ImageNotFound
from pycontainer.image import HOST, Image, changed
from pycontainer.oci.config import ImageConfig
from pycontainer.oci.descriptor import Descriptor
from pycontainer.oci.platform import Platform
from pycontainer.store import HostRoot, RootFS

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path


class HostImage(Image):
    """The host's root file system: in no store, so it has no digest, layers or names."""

    def __init__(self, config: ImageConfig) -> None:
        self.__dict__["config"] = config
        self._rootfs = HostRoot()

    @property
    def id(self) -> str:
        return HOST

    @property
    def digest(self) -> str | None:
        return None

    @property
    def tags(self) -> builtins.list[str]:
        return []

    @property
    def layers(self) -> tuple[Descriptor, ...]:
        return ()

    @property
    def size(self) -> int:
        return 0

    def tag(self, ref: str) -> None:
        raise ImageError(f"the host image cannot be named {ref!r}: it is in no store")

    def _push_to(self, client: Any, repository: Any, tags: Any, **_: Any) -> Descriptor:
        raise ImageError("the host image cannot be pushed: it is in no store; see Image.from_directory")

    def push(self, ref: str | None = None, **_: Any) -> Descriptor:
        raise ImageError("the host image cannot be pushed: it is in no store; see Image.from_directory")

    def save(
        self,
        path: str | os.PathLike[str],
        format: str = "oci-archive",
        *,
        timeout: float | None = None,
    ) -> None:
        raise ImageError("the host image cannot be saved: it is in no store; see Image.from_directory")

    def export(self, path: str | os.PathLike[str], *, timeout: float | None = None) -> None:
        raise ImageError("the host image cannot be exported: it is this machine's root, at /")

    def mount(self, *, timeout: float | None = None) -> AbstractContextManager[Path]:
        raise ImageError("the host image cannot be mounted: it is this machine's root, at /")

    def untag(self, ref: str) -> None:
        raise ImageNotFound(f"the host image has no name {ref!r}")

    def remove(self, force: bool = False) -> None:
        raise ImageError("the host image cannot be removed: it is in no store")

    def configure(self, **changes: Any) -> Image:
        return HostImage(changed(self.config, changes))

    def rootfs(self) -> RootFS:
        assert self._rootfs is not None
        return self._rootfs

    def __repr__(self) -> str:
        return "<Image host>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HostImage) and self.config == other.config

    def __hash__(self) -> int:
        return hash(HOST)


@functools.cache
def host_image() -> Image:
    """One for the whole process, with the environment that a program needs to be found and to speak."""
    default = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    env = {"PATH": os.environ.get("PATH") or default}
    for name in sorted(os.environ):
        if name == "LANG" or name.startswith("LC_"):
            env[name] = os.environ[name]
    platform = Platform.host()
    config = ImageConfig(
        architecture=platform.architecture,
        variant=platform.variant,
        env=env,
        cmd=(os.environ.get("SHELL") or "/bin/sh",),
    )
    return HostImage(config)
