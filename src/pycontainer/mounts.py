"""What a container sees of other files: binds, memory file systems, files made of given content.

Values only: nothing is opened or mounted here, so a bind's missing source is found when a
container starts (`LaunchError` naming it). The flags are mount(2)'s.
"""

from __future__ import annotations

import os
import posixpath
from typing import Any, Literal, get_args

import attrs

from pycontainer.units import parse_int, parse_size, refuse

Propagation = Literal["private", "rprivate", "slave", "rslave", "shared", "rshared"]

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_PRIVATE = 0x40000
MS_SLAVE = 0x80000
MS_SHARED = 0x100000

MAX_ID = 2**32 - 2
"""The largest user or group number; 2**32 - 1 means "leave it alone" to the kernel."""
MAX_CONTENT = 8 * 2**20
"""Bytes of one `content()`: it travels inside the start's request, which is bounded."""

_PROPAGATION = {"private": MS_PRIVATE, "slave": MS_SLAVE, "shared": MS_SHARED}


def container_path(value: str | os.PathLike[str], *, option: str, root: bool = False) -> str:
    """An absolute path inside a container, without `.`, `//` or a trailing `/`.

    `..` is refused rather than folded: with links in the image, folding would name another place.
    The root itself is refused too, except where `root` allows it.
    """
    path = _text_of_path(value, option)
    if not path.startswith("/"):
        raise refuse(option, path, "must be an absolute path inside the container")
    if ".." in path.split("/"):
        raise refuse(option, path, "must not contain '..'")
    path = "/" + posixpath.normpath(path).lstrip("/")
    if path == "/" and not root:
        raise refuse(option, path, "must not be the container's root itself")
    return path


def host_path(value: str | os.PathLike[str], *, option: str) -> str:
    """An absolute path on the host; a relative one starts at the current directory."""
    return os.path.abspath(_text_of_path(value, option))


def _text_of_path(value: str | os.PathLike[str], option: str) -> str:
    try:
        path = os.fspath(value)
    except TypeError:
        path = None
    if not isinstance(path, str):
        raise refuse(option, value, f"must be str or os.PathLike of str, not {type(value).__name__}")
    if not path:
        raise refuse(option, path, "must not be empty")
    if "\0" in path:
        raise refuse(option, path, "must not contain a NUL byte")
    return path


def _bind_src(value: str | os.PathLike[str]) -> str:
    return host_path(value, option="bind src")


def _bind_dst(value: str | os.PathLike[str]) -> str:
    return container_path(value, option="bind dst")


def _tmpfs_dst(value: str | os.PathLike[str]) -> str:
    return container_path(value, option="tmpfs dst")


def _content_dst(value: str | os.PathLike[str]) -> str:
    return container_path(value, option="content dst")


def _volume_dst(value: str | os.PathLike[str]) -> str:
    return container_path(value, option="volume dst")


def _tmpfs_size(value: int | str | None) -> int | None:
    # tmpfs reads size=0 as "no limit at all" (tmpfs(5)), which nobody means by 0.
    return None if value is None else parse_size(value, option="tmpfs size", low=1)


def _content_data(value: bytes | bytearray | memoryview | str) -> bytes:
    if isinstance(value, str):
        data = value.encode()
    elif isinstance(value, (bytes, bytearray, memoryview)):
        data = bytes(value)
    else:
        raise refuse("content data", type(value).__name__, "must be bytes or str")
    if len(data) > MAX_CONTENT:
        why = f"must be at most {MAX_CONTENT} bytes; bind a file instead"
        raise refuse("content data", f"{len(data)} bytes", why)
    return data


def _is_mode(mount: object, field: attrs.Attribute[int], value: int) -> None:
    parse_int(value, option=_option(mount, field), low=0, high=0o7777)


def _is_id(mount: object, field: attrs.Attribute[int], value: int) -> None:
    parse_int(value, option=_option(mount, field), low=0, high=MAX_ID)


def _is_count(mount: object, field: attrs.Attribute[int | None], value: int | None) -> None:
    if value is not None:
        parse_int(value, option=_option(mount, field), low=1)


def _is_flag(mount: object, field: attrs.Attribute[bool], value: bool) -> None:
    if not isinstance(value, bool):
        raise refuse(_option(mount, field), value, "must be True or False")


def _is_propagation(mount: object, field: attrs.Attribute[str], value: str) -> None:
    if value not in get_args(Propagation):
        raise refuse(_option(mount, field), value, f"must be one of {', '.join(get_args(Propagation))}")


def _option(mount: object, field: attrs.Attribute[Any]) -> str:
    return f"{type(mount).__name__.lower()} {field.name}"


@attrs.frozen
class Bind:
    """A file or directory of the host, seen at `dst`. Made by `bind()`."""

    src: str = attrs.field(converter=_bind_src)
    dst: str = attrs.field(converter=_bind_dst)
    ro: bool = attrs.field(default=False, validator=_is_flag, kw_only=True)
    recursive: bool = attrs.field(default=True, validator=_is_flag, kw_only=True)
    propagation: Propagation = attrs.field(default="private", validator=_is_propagation, kw_only=True)
    nosuid: bool = attrs.field(default=False, validator=_is_flag, kw_only=True)
    nodev: bool = attrs.field(default=False, validator=_is_flag, kw_only=True)
    noexec: bool = attrs.field(default=False, validator=_is_flag, kw_only=True)

    @property
    def flags(self) -> int:
        """MS_* of the mount itself; `recursive` and `propagation` are separate steps of mount(2)."""
        return _flags(self.ro, self.nosuid, self.nodev, self.noexec)

    @property
    def propagation_flags(self) -> int:
        """MS_PRIVATE, MS_SLAVE or MS_SHARED, for the mount and those below."""
        return _PROPAGATION[self.propagation.removeprefix("r")]


@attrs.frozen
class Tmpfs:
    """An empty file system in memory at `dst`, gone with the container. Made by `tmpfs()`."""

    dst: str = attrs.field(converter=_tmpfs_dst)
    size: int | None = attrs.field(default=None, converter=_tmpfs_size, kw_only=True)
    mode: int = attrs.field(default=0o1777, validator=_is_mode, kw_only=True)
    uid: int = attrs.field(default=0, validator=_is_id, kw_only=True)
    gid: int = attrs.field(default=0, validator=_is_id, kw_only=True)
    inodes: int | None = attrs.field(default=None, validator=_is_count, kw_only=True)
    ro: bool = attrs.field(default=False, validator=_is_flag, kw_only=True)
    noexec: bool = attrs.field(default=True, validator=_is_flag, kw_only=True)

    @property
    def flags(self) -> int:
        """MS_*: never set-id programs or devices, as container engines mount it."""
        return _flags(self.ro, True, True, self.noexec)

    @property
    def data(self) -> str:
        """The option string of mount(2), tmpfs(5)."""
        parts = [f"mode={self.mode:o}"]
        if self.size is not None:
            parts.append(f"size={self.size}")
        if self.inodes is not None:
            parts.append(f"nr_inodes={self.inodes}")
        if self.uid or self.gid:
            parts.append(f"uid={self.uid},gid={self.gid}")
        return ",".join(parts)


@attrs.frozen
class Content:
    """A regular file at `dst` with the bytes given. Made by `content()`; its repr hides them."""

    data: bytes = attrs.field(converter=_content_data, repr=lambda data: f"<{len(data)} bytes>")
    dst: str = attrs.field(converter=_content_dst)
    mode: int = attrs.field(default=0o644, validator=_is_mode, kw_only=True)
    uid: int = attrs.field(default=0, validator=_is_id, kw_only=True)
    gid: int = attrs.field(default=0, validator=_is_id, kw_only=True)


@attrs.frozen
class VolumeMount:
    """A volume, seen at `dst`. Made by `Volume.at()`."""

    name: str
    directory: str = attrs.field(repr=False)
    """The volume's own in its store."""
    dst: str = attrs.field(converter=_volume_dst)
    ro: bool = attrs.field(default=False, validator=_is_flag, kw_only=True)
    nocopy: bool = attrs.field(default=False, validator=_is_flag, kw_only=True)

    @property
    def source(self) -> str:
        """The directory on the host that is shown."""
        return f"{self.directory}/data"

    @property
    def flags(self) -> int:
        """MS_*: what an image's layer brought into it as a device opens nothing."""
        return _flags(self.ro, False, True, False)


Mount = Bind | Tmpfs | Content | VolumeMount


def _flags(ro: bool, nosuid: bool, nodev: bool, noexec: bool) -> int:
    return MS_RDONLY * ro | MS_NOSUID * nosuid | MS_NODEV * nodev | MS_NOEXEC * noexec


def bind(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    *,
    ro: bool = False,
    recursive: bool = True,
    propagation: Propagation = "private",
    nosuid: bool = False,
    nodev: bool = False,
    noexec: bool = False,
) -> Bind:
    """The host's file or directory `src`, at `dst` in the container.

    `src` must exist when the container starts: a missing one is never made (a typing error would
    leave an empty directory on the host). `recursive` takes the mounts below `src` along, read-only
    too where `ro` says so. `propagation` says whether mounts made
    later cross over (mount(2)), also those below `src`: the forms with and without r are one.
    """
    return Bind(
        src,
        dst,
        ro=ro,
        recursive=recursive,
        propagation=propagation,
        nosuid=nosuid,
        nodev=nodev,
        noexec=noexec,
    )


def tmpfs(
    dst: str | os.PathLike[str],
    *,
    size: int | str | None = None,
    mode: int = 0o1777,
    uid: int = 0,
    gid: int = 0,
    inodes: int | None = None,
    ro: bool = False,
    noexec: bool = True,
) -> Tmpfs:
    """An empty file system in memory at `dst`; `size` in bytes or as `"64M"`, None for the kernel's
    default of half the machine's memory. What is written there counts as the container's memory."""
    return Tmpfs(dst, size=size, mode=mode, uid=uid, gid=gid, inodes=inodes, ro=ro, noexec=noexec)


def content(
    data: bytes | str, dst: str | os.PathLike[str], *, mode: int = 0o644, uid: int = 0, gid: int = 0
) -> Content:
    """A file at `dst` holding `data` (text as UTF-8), owned by the container's `uid` and `gid`."""
    return Content(data, dst, mode=mode, uid=uid, gid=gid)
