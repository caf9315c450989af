"""What users may write for each option, and the one immutable value it becomes.

One function per option, named after it: the converter of its field in `Options`. Each returns at
once for the default, accepts its own result again (`attrs.evolve` passes it through), and raises
`InvalidOption` naming the option.
"""

from __future__ import annotations

import json
import math
import operator
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, SupportsIndex

import attrs

from pycontainer.mounts import MAX_ID, Bind, Content, Mount, Tmpfs, VolumeMount, container_path, host_path
from pycontainer.runtime.isolation import CAPABILITIES
from pycontainer.units import parse_cpuset, parse_duration, parse_int, parse_signal, parse_size, refuse

if TYPE_CHECKING:
    import logging

PathLike = str | os.PathLike[str]

MIN_MEMORY = 512 * 2**10
"""The smallest memory limit, bytes. The kernel takes any, but kills the process during its set-up
when stack, page tables and dirty pages do not fit: a shell needs 256 to 384 KiB to start and end."""
MIN_CPUS = 0.01
"""1 ms of each 100 ms: the kernel refuses a smaller quota (cgroup v2, cpu.max)."""
MAX_CPUS = 2**20
MAX_WEIGHT = 10000
"""Weights are cgroup v2's: 1 to 10000, 100 by default."""
MAX_PIDS = 2**22
"""PID_MAX_LIMIT of 64-bit kernels."""
MAX_PASS_FDS = 128
"""A start may carry 200 descriptors; the rest is left to streams, layers and devices."""
MAX_HOSTNAME = 64
"""__NEW_UTS_LEN of the kernel, bytes."""
MAX_ARGUMENT = 131072
"""MAX_ARG_STRLEN of execve(2): one argument or environment string, with its NUL, bytes."""
UNLIMITED = 2**64 - 1
"""RLIM_INFINITY."""

RLIMITS = {
    "cpu": 0, "fsize": 1, "data": 2, "stack": 3, "core": 4, "rss": 5, "nproc": 6, "nofile": 7,
    "memlock": 8, "as": 9, "locks": 10, "sigpending": 11, "msgqueue": 12, "nice": 13, "rtprio": 14,
    "rttime": 15,
}  # fmt: skip
"""Names of getrlimit(2) in lower case and the numbers that x86-64 and aarch64 share."""

IO_LIMITS = frozenset({"rbps", "wbps", "riops", "wiops"})
"""Keys of cgroup v2's io.max: bytes and operations per second, reading and writing."""

_SYSCTL = re.compile(r"net/.+|fs/mqueue/.+|kernel/(?:shm[a-z_]+|msg[a-z_]+|sem|domainname|hostname)")
_SYSCTL_IS_THE_HOSTS = (
    "is the host's: a container has its own net.*, fs.mqueue.*, kernel.shm*, kernel.msg*, kernel.sem, "
    "kernel.hostname and kernel.domainname"
)
_SYSCTL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_@:.-]*(?:/[A-Za-z0-9_][A-Za-z0-9_@:.-]*)+")
_HOSTNAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?")
_VARIABLE = re.compile(r"[^=\0]+")
_USER = re.compile(r"[^:\0\n]+(?::[^:\0\n]+)?")
_BLOCK_DEVICE = re.compile(r"[0-9]{1,4}:[0-9]{1,7}")


class HasFileno(Protocol):
    """An open file, socket or pipe end."""

    def fileno(self) -> int: ...


@attrs.frozen
class Device:
    """A device node of the host: its path there, in the container, and a subset of `rwm`."""

    src: str
    dst: str
    access: str = "rwm"


@attrs.frozen
class SeccompProfile:
    """A seccomp profile given as data: the JSON text of Docker's form."""

    document: str = attrs.field(repr=lambda text: f"<{len(text)} characters>")


def items(value: object, option: str) -> list[Any]:
    """The members of a collection; text is refused, which would fall apart into its letters, and a mapping,
    which would lose its values."""
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise refuse(option, value, f"must be a list, not {type(value).__name__}")
    return list(value)


def _pairs(value: object, option: str) -> list[tuple[Any, Any]]:
    """The items of a mapping, or of the tuple of pairs that this module makes of one."""
    if isinstance(value, Mapping):
        return list(value.items())
    pairs = items(value, option)
    if not all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs):
        raise refuse(option, value, "must be a mapping")
    return pairs


def _argument(value: object, option: str) -> str:
    """One string of execve(2)."""
    try:
        text = os.fspath(value)  # type: ignore[call-overload]
    except TypeError:
        text = None
    if not isinstance(text, str):
        raise refuse(option, value, f"must be text, not {type(value).__name__}")
    if "\0" in text:
        raise refuse(option, value, "must not contain a NUL byte")
    if len(text) >= MAX_ARGUMENT:
        raise refuse(option, value, f"must be shorter than {MAX_ARGUMENT} bytes")
    return text


def entrypoint(value: PathLike | Iterable[PathLike] | None) -> tuple[str, ...] | None:
    """Text or a path is one program, not a command line; an empty list or text drops the image's own."""
    if value is None:
        return None
    one = isinstance(value, (str, os.PathLike))
    words = ([value] if value else []) if one else items(value, "entrypoint")
    return tuple(_argument(word, "entrypoint") for word in words)


def env(
    value: Mapping[str, str | None] | Iterable[str] | Iterable[tuple[str, str | None]],
) -> tuple[tuple[str, str | None], ...]:
    """Pairs in order, the later of two winning; None removes a variable that the image sets.

    Values never appear in an error: they may be secrets.
    """
    if not value:
        return ()
    given: Iterable[Any] = value.items() if isinstance(value, Mapping) else items(value, "env")
    result: dict[str, str | None] = {}
    for item in given:
        if isinstance(item, str):
            name, separator, text = item.partition("=")
            if not separator:
                raise refuse("env", item, "must be NAME=VALUE")
        elif isinstance(item, tuple) and len(item) == 2:
            name, text = item
        else:
            raise refuse("env", type(item).__name__, "must be a mapping or NAME=VALUE texts")
        if not isinstance(name, str) or not _VARIABLE.fullmatch(name):
            raise refuse("env", name, "must be a name, not empty, without '=' and NUL")
        result[name] = text if text is None else _variable(name, text)
    return tuple(result.items())


def _variable(name: str, value: object) -> str:
    if not isinstance(value, (str, os.PathLike)):
        raise refuse("env", name, f"the value must be text or None, not {type(value).__name__}")
    text = os.fspath(value)
    if not isinstance(text, str) or "\0" in text or len(name) + len(text) + 1 >= MAX_ARGUMENT:
        raise refuse("env", name, f"the value must be text without NUL, shorter than {MAX_ARGUMENT} bytes")
    return text


def cwd(value: PathLike | None) -> str | None:
    return None if value is None else container_path(value, option="cwd", root=True)


def user(value: SupportsIndex | str | None) -> str | None:
    """`uid[:gid]` or names; they are looked up in the image's own files when a container starts."""
    if value is None:
        return None
    if not isinstance(value, str):
        return str(parse_int(value, option="user", low=0, high=MAX_ID))
    if not _USER.fullmatch(value):
        raise refuse("user", value, "must be 'user' or 'user:group', each a number or a name")
    return value


def hostname(value: str | None) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > MAX_HOSTNAME or not _HOSTNAME.fullmatch(value):
        raise refuse("hostname", value, f"must be 1 to {MAX_HOSTNAME} letters, digits, '-', '.' or '_'")
    return value


def stdin(value: bool | SupportsIndex | HasFileno | None) -> int | HasFileno | None:
    """As in `subprocess`: PIPE, DEVNULL, a descriptor or a file; True is PIPE, False is DEVNULL."""
    if value is None:
        return None
    if isinstance(value, bool):
        return subprocess.PIPE if value else subprocess.DEVNULL
    if not isinstance(value, SupportsIndex):
        if callable(getattr(value, "fileno", None)):
            return value
        raise refuse("stdin", value, "must be PIPE, DEVNULL, a descriptor or an open file")
    if value in (subprocess.PIPE, subprocess.DEVNULL):
        return operator.index(value)
    return parse_int(value, option="stdin", low=0, high=2**31 - 1)


def pass_fds(value: Iterable[int]) -> tuple[int, ...]:
    """Descriptors that keep their numbers in the container; 0 to 2 are its streams."""
    if not value:
        return ()
    numbers = {parse_int(fd, option="pass_fds", low=3, high=2**31 - 1) for fd in items(value, "pass_fds")}
    if len(numbers) > MAX_PASS_FDS:
        raise refuse("pass_fds", f"{len(numbers)} descriptors", f"must be at most {MAX_PASS_FDS}")
    return tuple(sorted(numbers))


def stop_signal(value: SupportsIndex | str | None) -> int | None:
    return None if value is None else parse_signal(value, option="stop_signal")


def stop_timeout(value: float | str) -> float:
    return parse_duration(value, option="stop_timeout")


def umask(value: SupportsIndex | str | None) -> int | None:
    """A number, or octal text such as "022"."""
    if value is None:
        return None
    if isinstance(value, str):
        if not re.fullmatch(r"(?:0o)?[0-7]{1,4}", value):
            raise refuse("umask", value, "must be octal digits such as '022'")
        value = int(value.removeprefix("0o"), 8)
    return parse_int(value, option="umask", low=0, high=0o777)


Limit = int | str | None


def ulimits(
    value: Mapping[str, Limit | tuple[Limit, Limit]] | Iterable[tuple[str, int, int]],
) -> tuple[tuple[str, int, int], ...]:
    """(name, soft, hard) by name; one number sets both; None, -1 and "unlimited" mean no limit."""
    if not value:
        return ()
    if isinstance(value, Mapping):
        given: list[tuple[Any, ...]] = [(name, *_soft_hard(name, limit)) for name, limit in value.items()]
    else:
        given = items(value, "ulimits")
    result = {}
    for item in given:
        if not isinstance(item, tuple) or len(item) != 3:
            raise refuse("ulimits", item, "must be a mapping of names to limits")
        name = str(item[0]).lower().removeprefix("rlimit_")
        if name not in RLIMITS:
            raise refuse("ulimits", item[0], f"must be one of {', '.join(sorted(RLIMITS))}")
        soft, hard = (_rlimit(name, part) for part in item[1:])
        if soft > hard:
            raise refuse(f"ulimits[{name}]", item[1:], "the soft limit must not exceed the hard one")
        result[name] = (name, soft, hard)
    return tuple(result[name] for name in sorted(result))


def _soft_hard(name: object, limit: object) -> tuple[object, object]:
    if not isinstance(limit, (tuple, list)):
        return limit, limit
    if len(limit) != 2:
        raise refuse(f"ulimits[{name}]", limit, "must be one limit or (soft, hard)")
    return limit[0], limit[1]


def _rlimit(name: str, value: Any) -> int:
    if value is None or value in ("unlimited", -1, "-1"):
        return UNLIMITED
    if isinstance(value, str):
        return parse_size(value, option=f"ulimits[{name}]")
    return parse_int(value, option=f"ulimits[{name}]", low=0, high=UNLIMITED)


def mounts(value: Iterable[Mount]) -> tuple[Mount, ...]:
    if not value:
        return ()
    result = tuple(items(value, "mounts"))
    taken = set()
    for mount in result:
        if not isinstance(mount, (Bind, Tmpfs, Content, VolumeMount)):
            raise refuse("mounts", mount, "must be made by bind(), tmpfs(), content() or Volume.at()")
        if mount.dst in taken:
            raise refuse("mounts", mount.dst, "is the target of two mounts")
        taken.add(mount.dst)
    return result


def shm_size(value: SupportsIndex | str | None) -> int | None:
    return None if value is None else parse_size(value, option="shm_size", low=4096)


def devices(value: Iterable[str | tuple[str, ...] | Device]) -> tuple[Device, ...]:
    """`/dev/fuse`, `/dev/sda:/dev/xvda:r`, `/dev/sda:r` or the same parts as a tuple."""
    if not value:
        return ()
    result = tuple(_device(item) for item in items(value, "devices"))
    if len({device.dst for device in result}) < len(result):
        raise refuse("devices", [device.dst for device in result], "one path is named twice")
    return result


def _device(item: object) -> Device:
    if isinstance(item, Device):
        parts: list[Any] = [item.src, item.dst, item.access]
    elif isinstance(item, (str, os.PathLike)):
        parts = os.fspath(item).split(":")
    elif isinstance(item, (tuple, list)):
        parts = list(item)
    else:
        parts = []
    if len(parts) == 2 and not str(parts[1]).startswith("/"):
        parts.insert(1, parts[0])
    if not 1 <= len(parts) <= 3 or not str(parts[0]).startswith("/"):
        raise refuse("devices", item, "must be such as '/dev/fuse' or '/dev/sda:/dev/xvda:r'")
    access = parts[2] if len(parts) == 3 else "rwm"
    if not isinstance(access, str) or not access or not set(access) <= set("rwm"):
        raise refuse("devices", item, "the access must be letters of 'rwm'")
    source = host_path(parts[0], option="devices")
    target = container_path(parts[1] if len(parts) > 1 else source, option="devices")
    return Device(source, target, "".join(letter for letter in "rwm" if letter in access))


def memory(value: SupportsIndex | str | None) -> int | None:
    return None if value is None else parse_size(value, option="memory", low=MIN_MEMORY)


def memory_swap(value: SupportsIndex | str | None) -> int | None:
    """Memory and swap together, bytes, as container engines count; -1 lifts the limit of swap."""
    if value is None:
        return None
    if value in (-1, "-1") and value is not True:
        return -1
    return parse_size(value, option="memory_swap", low=MIN_MEMORY)


def cpus(value: float | str | None) -> float | None:
    """Processors' worth of time. More than the host has is no error: a program that asks for 4 runs
    on a machine with 2, where the limit limits nothing."""
    if value is None:
        return None
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not MIN_CPUS <= number <= MAX_CPUS:
        raise refuse("cpus", value, f"must be a number of processors, at least {MIN_CPUS}")
    return number


def cpuset(value: str | Iterable[int] | None) -> str | None:
    return None if value is None else parse_cpuset(value, option="cpuset")


def cpu_weight(value: SupportsIndex | None) -> int | None:
    return None if value is None else parse_int(value, option="cpu_weight", low=1, high=MAX_WEIGHT)


def io_weight(value: SupportsIndex | None) -> int | None:
    return None if value is None else parse_int(value, option="io_weight", low=1, high=MAX_WEIGHT)


def io_max(
    value: Mapping[str, Mapping[str, int | str]] | Iterable[tuple[str, tuple[tuple[str, int], ...]]],
) -> tuple[tuple[str, tuple[tuple[str, int], ...]], ...]:
    """Per block device (`/dev/sda` or `8:0`): rbps, wbps (bytes a second), riops, wiops."""
    if not value:
        return ()
    result = {}
    for device, rates in _pairs(value, "io_max"):
        if not isinstance(device, str) or not (_BLOCK_DEVICE.fullmatch(device) or device.startswith("/dev/")):
            raise refuse("io_max", device, "must name a block device such as '/dev/sda' or '8:0'")
        limits = {}
        for key, rate in _pairs(rates, f"io_max[{device}]"):
            if key not in IO_LIMITS:
                raise refuse(f"io_max[{device}]", key, f"must be one of {', '.join(sorted(IO_LIMITS))}")
            limits[key] = parse_size(rate, option=f"io_max[{device}][{key}]", low=1)
        if not limits:
            raise refuse("io_max", device, "has no limit")
        result[device] = tuple(sorted(limits.items()))
    return tuple(sorted(result.items()))


def pids(value: SupportsIndex | None) -> int | None:
    """0 and -1 lift the limit, as in container engines; None is the default limit."""
    return None if value is None else parse_int(value, option="pids", low=-1, high=MAX_PIDS)


def cap_add(value: Iterable[str]) -> tuple[str, ...]:
    return _capabilities(value, "cap_add") if value else ()


def cap_drop(value: Iterable[str]) -> tuple[str, ...]:
    return _capabilities(value, "cap_drop") if value else ()


def _capabilities(value: Iterable[str], option: str) -> tuple[str, ...]:
    """Names in upper case without CAP_, sorted; what they amount to is `isolation`'s to say."""
    names = set()
    for item in items(value, option):
        name = str(item).strip().upper().removeprefix("CAP_")
        if name != "ALL" and name not in CAPABILITIES:
            raise refuse(option, item, "is no capability of capabilities(7), such as 'NET_ADMIN', nor 'ALL'")
        names.add(name)
    return tuple(sorted(names))


def seccomp(
    value: PathLike | Mapping[str, Any] | SeccompProfile | None,
) -> str | Path | SeccompProfile:
    """ "default", "unconfined", the path of a profile, or one as data. Files are read at the start."""
    if value in ("default", "unconfined") or isinstance(value, SeccompProfile):
        return value
    if isinstance(value, Mapping):
        try:
            return SeccompProfile(json.dumps(value, sort_keys=True))
        except (TypeError, ValueError) as error:
            raise refuse("seccomp", value, f"is not JSON: {error}") from error
    if value is None:
        raise refuse("seccomp", value, "must be 'default', 'unconfined' or a profile")
    return Path(host_path(value, option="seccomp"))


def sysctls(value: Mapping[str, str | int]) -> tuple[tuple[str, str], ...]:
    """(path below /proc/sys, text) by path. Names are `a.b.c`, or `a/b/c` where a part has a dot.

    Only what belongs to the container's own network, IPC and UTS namespaces: everything else in
    /proc/sys is the host's.
    """
    if not value:
        return ()
    result = {}
    for name, setting in _pairs(value, "sysctls"):
        path = name if not isinstance(name, str) or "/" in name else name.replace(".", "/")
        if not isinstance(path, str) or not _SYSCTL_NAME.fullmatch(path):
            raise refuse("sysctls", name, "must be a name such as 'net.ipv4.ip_forward'")
        if not _SYSCTL.fullmatch(path):
            raise refuse("sysctls", name, _SYSCTL_IS_THE_HOSTS)
        if isinstance(setting, bool) or not isinstance(setting, (str, int)):
            raise refuse(f"sysctls[{name}]", setting, "must be text or a number")
        text = str(setting)
        if not text or "\0" in text or "\n" in text or len(text) > 4096:
            raise refuse(f"sysctls[{name}]", setting, "must be one line")
        result[path] = text
    return tuple(sorted(result.items()))


def masked_paths(value: Iterable[PathLike] | None) -> tuple[str, ...] | None:
    return None if value is None else _paths(value, "masked_paths")


def readonly_paths(value: Iterable[PathLike] | None) -> tuple[str, ...] | None:
    return None if value is None else _paths(value, "readonly_paths")


def _paths(value: Iterable[PathLike], option: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(container_path(path, option=option) for path in items(value, option)))


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


def name(value: str | None) -> str | None:
    """A container's name, in the form that docker allows."""
    if value is None:
        return None
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise refuse("name", value, "must be letters, digits and any of _.- (not in front), at most 128")
    return value


def log(value: str | logging.Logger) -> str | logging.Logger:
    """ "memory", "file", "inherit", or a Logger, which cannot be there before its module was loaded."""
    module = sys.modules.get("logging")
    if value in ("memory", "file", "inherit") or (module and isinstance(value, module.Logger)):
        return value
    raise refuse("log", value, 'must be "memory", "file", "inherit" or a logging.Logger')


def labels(value: Mapping[str, str] | tuple[tuple[str, str], ...] | None) -> tuple[tuple[str, str], ...]:
    """Names and values, sorted."""
    return _texts(value, "labels")


def annotation_pairs(
    value: Mapping[str, str] | tuple[tuple[str, str], ...] | None,
) -> tuple[tuple[str, str], ...]:
    """The option `annotations`, whose name means something else to Python here; as `labels`."""
    return _texts(value, "annotations")


def _texts(value: Any, option: str) -> tuple[tuple[str, str], ...]:
    if not value:
        return ()
    pairs = _pairs(value, option)
    for key, text in pairs:
        if not isinstance(key, str) or not key or not isinstance(text, str):
            raise refuse(option, value, "must map names (text, not empty) to text")
    return tuple(sorted(pairs))


def healthcheck(value: Any) -> Any:
    """A `Healthcheck` or a mapping of its arguments, a command (a list, or a shell's text), False for none,
    None for the image's."""
    if value is None or value is False:
        return value
    from pycontainer.healthcheck import parse_option  # which needs this module

    return parse_option(value)


def wait(value: Any) -> Any:
    """A wait strategy."""
    if value is None:
        return None
    from pycontainer.wait import parse_strategy  # which needs this module

    return parse_strategy(value)
