"""Options and arguments as plain data (JSON's), and back. Nothing that is read names code to be run."""

from __future__ import annotations

import base64
import math
import os
import re
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import attrs

from pycontainer.errors import InvalidOption, StoreError
from pycontainer.options import Options
from pycontainer.streams import DEVNULL, PIPE
from pycontainer.units import refuse

_KIND = "!"
_CLASSES = {
    "Bind": "mounts",
    "Tmpfs": "mounts",
    "Content": "mounts",
    "Device": "option_values",
    "Port": "network_options",
    "SeccompProfile": "option_values",
    "VolumeMount": "mounts",
    "Restart": "restarting",
    "Healthcheck": "healthcheck",
    "AllOf": "wait",
    "AnyOf": "wait",
    "Log": "wait",
    "Listening": "wait",
    "Http": "wait",
    "Exec": "wait",
    "File": "wait",
    "Healthy": "wait",
    "Change": "changes",
    "CgroupPlan": "runtime.cgroups.model",
    "CgroupMount": "runtime.cgroups.model",
    "IdMap": "supervisor.idmap",
}
"""The values that options, answers and control groups consist of, and their modules."""

_REMEDY = "only what can be written down is kept: persist=True outlives this process"


def check(options: Options) -> None:
    """Raises InvalidOption for what belongs to this process and cannot outlive it."""
    if options.stdin not in (None, DEVNULL, PIPE):
        raise refuse("stdin", options.stdin, f"must be PIPE, DEVNULL or None: {_REMEDY}")
    if options.log not in ("memory", "file"):
        raise refuse("log", options.log, f'must be "file": {_REMEDY}')
    if not isinstance(options.network, str):
        raise refuse("network", options.network, f'must be "none", "host" or "bridge": {_REMEDY}')
    if options.pass_fds:
        raise refuse("pass_fds", options.pass_fds, f"must be empty: {_REMEDY}")


def of_options(options: Options) -> dict[str, Any]:
    """Those that differ from their defaults. Raises InvalidOption for a value that is no data."""
    check(options)
    found = {}
    for field in attrs.fields(Options):
        value = getattr(options, field.name)
        if value != field.default:
            found[field.name] = _plain(value, field.name)
    return found


def to_options(data: object) -> Options:
    """Raises StoreError for what `of_options` did not write."""
    if not isinstance(data, dict):
        raise StoreError("options of a persistent container: not an object")
    try:
        return Options(**{name: _value(value) for name, value in data.items()})
    except (TypeError, ValueError, KeyError) as error:
        raise StoreError(f"options of a persistent container: {error}") from error


def of_args(args: Any) -> Any:
    """Arguments as text; bytes that are none keep their values (surrogateescape)."""
    if args is None or isinstance(args, str):
        return args
    if isinstance(args, (bytes, os.PathLike)):
        return os.fsdecode(args)
    try:
        return [os.fsdecode(word) for word in args]
    except TypeError as error:
        raise InvalidOption(f"args={args!r}: must be a list of text, bytes and paths") from error


def of_value(value: Any, what: str = "value") -> Any:
    """Raises InvalidOption for what is no data; `what` is for its text."""
    return _plain(value, what)


def to_value(data: Any) -> Any:
    """Raises StoreError for what `of_value` did not write."""
    try:
        return _value(data)
    except (TypeError, ValueError, KeyError) as error:
        raise StoreError(f"a value of a persistent container: {error}") from error


def _plain(value: Any, option: str) -> Any:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        # JSON has no infinity.
        return value if math.isfinite(value) else {_KIND: "float", "text": repr(value)}
    if isinstance(value, (tuple, list)):
        return [_plain(item, option) for item in value]
    if isinstance(value, frozenset):
        return {_KIND: "set", "items": [_plain(item, option) for item in sorted(value)]}
    if isinstance(value, Mapping):
        pairs = [[_plain(name, option), _plain(item, option)] for name, item in value.items()]
        return {_KIND: "mapping", "items": pairs}
    if isinstance(value, bytes):
        return {_KIND: "bytes", "base64": base64.b64encode(value).decode("ascii")}
    if isinstance(value, Path):
        return {_KIND: "Path", "path": os.path.abspath(value)}
    if isinstance(value, re.Pattern):
        return {_KIND: "Pattern", "pattern": _plain(value.pattern, option), "flags": value.flags}
    name = type(value).__name__
    if name in _CLASSES and type(value) is _class(name):
        fields = {field.name: getattr(value, field.name) for field in attrs.fields(type(value))}
        return {_KIND: name, **{key: _plain(item, option) for key, item in fields.items()}}
    raise refuse(option, value, f"cannot be given with persist=True: {_REMEDY}")


def _value(data: Any) -> Any:
    if isinstance(data, list):
        return tuple(_value(item) for item in data)
    if not isinstance(data, dict):
        return data
    fields = dict(data)
    kind = fields.pop(_KIND)
    if kind == "bytes":
        return base64.b64decode(fields["base64"], validate=True)
    if kind == "float":
        return float(fields["text"])
    if kind == "Path":
        return Path(fields["path"])
    if kind == "Pattern":
        return re.compile(_value(fields["pattern"]), fields["flags"])
    if kind == "set":
        return frozenset(_value(item) for item in fields["items"])
    if kind == "mapping":
        return {_value(name): _value(item) for name, item in fields["items"]}
    return _class(kind)(**{name: _value(item) for name, item in fields.items()})


def _class(name: str) -> Any:
    return getattr(import_module(f"pycontainer.{_CLASSES[name]}"), name)
