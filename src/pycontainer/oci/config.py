"""Image configs: what to run and how, and what the layers are (image-spec, config.md).

Every byte of a config may come from a stranger. What could mean two things, or nothing, is refused
here with the field's name; what is merely unknown is kept and written back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import attrs

from pycontainer.errors import InvalidImage
from pycontainer.oci import _document as d
from pycontainer.oci.digest import Digest
from pycontainer.oci.manifest import MAX_LAYERS
from pycontainer.oci.platform import Platform
from pycontainer.oci.times import parse_time

# History also has entries for steps that made no layer.
_MAX_HISTORY = 4096
_MAX_ID = 2**32 - 2

_PORT = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(?:tcp|udp|sctp))?", re.ASCII)
_SIGNAL = re.compile(r"(?:SIG)?[A-Z][A-Z0-9]{0,15}(?:[+-]\d{1,2})?|\d{1,2}", re.ASCII)
_ARCHITECTURE = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)


def _check_word(value: object, where: str) -> str:
    text = d.check_text(value, where)
    if not _ARCHITECTURE.fullmatch(text):
        raise InvalidImage(f"{where}: {d.shorten(text)} is not a platform's word")
    return text


def _check_env(value: object, where: str) -> dict[str, str]:
    """Variables from a list of "NAME=value" (as documents have them) or a mapping; the last one wins."""
    if isinstance(value, Mapping):
        pairs = list(d.check_text_map(value, where).items())
    else:
        pairs = []
        for number, entry in enumerate(d.check_texts(value, where)):
            name, equals, text = entry.partition("=")
            if not equals:
                raise InvalidImage(f"{where}[{number}]: {d.shorten(entry)} has no '='")
            pairs.append((name, text))
    for name, _ in pairs:
        if not name or "=" in name:
            raise InvalidImage(f"{where}: {d.shorten(name)} cannot be a variable's name")
    return dict(pairs)


def _check_user(value: object, where: str) -> str:
    """`user[:group]`, each a name or a number; digits always mean a number, so they must be a valid one."""
    text = d.check_text(value, where, limit=256)
    parts = text.split(":") if text else []
    if len(parts) > 2:
        raise InvalidImage(f"{where}: {d.shorten(text)} has more than one ':'")
    for part in parts:
        if part.isascii() and part.isdigit():
            if len(part) > 10 or int(part) > _MAX_ID:
                raise InvalidImage(f"{where}: {d.shorten(part)} is no id, 0 to {_MAX_ID}")
        elif part[:1] in {"-", "+"} or "/" in part or " " in part or not part.isprintable():
            raise InvalidImage(f"{where}: {d.shorten(part)} cannot be a user's or group's name")
    return text


def _check_directory(value: object, where: str) -> str:
    text = d.check_text(value, where, limit=4096)
    if text and not text.startswith("/"):
        raise InvalidImage(f"{where}: {d.shorten(text)} is not an absolute path")
    return text


def _names(value: object, where: str, limit: int = 4096) -> tuple[str, ...]:
    """The keys of an object whose values carry nothing (a set, as Go writes it), or a list of them."""
    keys = list(value) if isinstance(value, Mapping) else value
    return d.check_texts(keys, where, limit=limit)


def _check_ports(value: object, where: str) -> tuple[str, ...]:
    ports = _names(value, where, limit=65536)
    for port in ports:
        form = _PORT.fullmatch(port)
        if form is None or not all(0 < int(number) < 65536 for number in form.groups() if number):
            raise InvalidImage(f"{where}: {d.shorten(port)} is not a port, like 80 or 53/udp")
    return tuple(sorted(set(ports)))


def _check_volumes(value: object, where: str) -> tuple[str, ...]:
    paths = _names(value, where)
    for path in paths:
        if not _check_directory(path, where):
            raise InvalidImage(f"{where}: has an empty path")
    return tuple(sorted(set(paths)))


def _check_signal(value: object, where: str) -> str | None:
    text = d.check_text(value, where)
    if text and not _SIGNAL.fullmatch(text):
        raise InvalidImage(f"{where}: {d.shorten(text)} is not a signal's name or number")
    return text or None


def _check_command(value: object, where: str) -> tuple[str, ...]:
    return d.check_texts(value, where, limit=65536)


def _check_plain_object(value: object, where: str) -> dict[str, Any]:
    return d.check_object(value, where).rest()


def _check_created(value: object, where: str) -> str:
    parse_time(value, where)
    return str(value)


@attrs.frozen
class History:
    """How one layer, or one step without a layer (`empty_layer`), came to be."""

    created: str | None = None
    created_by: str | None = None
    author: str | None = None
    comment: str | None = None
    empty_layer: bool = False
    extra: Mapping[str, Any] = attrs.field(factory=dict, repr=False, hash=False)

    @classmethod
    def check(cls, value: object, where: str) -> History:
        """The entry in a JSON value; InvalidImage naming the field that is wrong."""
        fields = d.check_object(value, where)
        empty = fields.take("empty_layer")
        if empty is not None and not isinstance(empty, bool):
            raise InvalidImage(f"{where}: empty_layer: must be true or false")
        return cls(
            created=fields.optional("created", _check_created),
            created_by=fields.optional("created_by", d.check_text),
            author=fields.optional("author", d.check_text),
            comment=fields.optional("comment", d.check_text),
            empty_layer=bool(empty),
            extra=fields.rest(),
        )

    def document(self) -> dict[str, Any]:
        """The JSON object that says the same."""
        names = ("created", "created_by", "author", "comment")
        found = {name: value for name in names if (value := getattr(self, name)) is not None}
        if self.empty_layer:
            found["empty_layer"] = True
        return {**found, **self.extra}


def _check_history(value: object, where: str) -> tuple[History, ...]:
    items = d.check_list(value, where)
    if len(items) > _MAX_HISTORY:
        raise InvalidImage(f"{where}: {len(items)} entries, more than {_MAX_HISTORY}")
    return tuple(History.check(item, f"{where}[{number}]") for number, item in enumerate(items))


def _check_diff_ids(value: object, where: str) -> tuple[Digest, ...]:
    items = d.check_list(value, where)
    if len(items) > MAX_LAYERS:
        raise InvalidImage(f"{where}: {len(items)} layers, more than {MAX_LAYERS}")
    return tuple(Digest.check(item, f"{where}[{number}]") for number, item in enumerate(items))


# Our field -> the key in the document's "config" object, and its check. The order is the order written.
_EXECUTION: dict[str, tuple[str, Any]] = {
    "user": ("User", _check_user),
    "exposed_ports": ("ExposedPorts", _check_ports),
    "env": ("Env", _check_env),
    "entrypoint": ("Entrypoint", _check_command),
    "cmd": ("Cmd", _check_command),
    "volumes": ("Volumes", _check_volumes),
    "cwd": ("WorkingDir", _check_directory),
    "labels": ("Labels", d.check_text_map),
    "stop_signal": ("StopSignal", _check_signal),
    "healthcheck": ("Healthcheck", _check_plain_object),
}
_DEFAULTS: dict[str, Any] = {
    "user": "",
    "cwd": "",
    "exposed_ports": (),
    "volumes": (),
    "env": {},
    "labels": {},
}


@attrs.frozen(kw_only=True, hash=False)
class ImageConfig:
    """An image's config. Treat its mappings as read-only; `attrs.evolve` makes a changed copy.

    `env` and `labels` map names to values; `entrypoint` and `cmd` are argument lists, None where
    unset; `user` is "" (root) or "user[:group]"; `cwd` is "" (the root directory) or absolute;
    `exposed_ports` are like "80/tcp"; `healthcheck` is the document's own object; `created` is
    RFC 3339 text. Unknown fields of the document are in `extra` and `extra_config`.
    """

    architecture: str = attrs.field(factory=lambda: Platform.host().architecture)
    os: str = "linux"
    variant: str | None = None
    created: str | None = None
    author: str | None = None
    # Values stay out of sight: images carry secrets there.
    env: Mapping[str, str] = attrs.field(factory=dict, repr=lambda env: repr(dict.fromkeys(env, "***")))
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    user: str = ""
    cwd: str = ""
    labels: Mapping[str, str] = attrs.field(factory=dict)
    exposed_ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    stop_signal: str | None = None
    healthcheck: Mapping[str, Any] | None = None
    diff_ids: tuple[Digest, ...] = ()
    history: tuple[History, ...] = attrs.field(default=(), repr=False)
    extra: Mapping[str, Any] = attrs.field(factory=dict, repr=False)
    extra_config: Mapping[str, Any] = attrs.field(factory=dict, repr=False)
    # Not an argument, so that attrs.evolve cannot carry the old bytes into a changed config.
    _raw: bytes | None = attrs.field(init=False, default=None, eq=False, repr=False)

    @classmethod
    def parse(cls, raw: bytes, *, what: str = "image config") -> ImageConfig:
        """The config in `raw`, whose bytes are kept; InvalidImage naming the field that is wrong."""
        fields = d.load(raw, what)
        rootfs = fields.required("rootfs", d.check_object)
        if rootfs.take("type") != "layers":
            raise InvalidImage(f"{what}: rootfs: type: must be 'layers'")
        found = cls(
            created=fields.optional("created", _check_created),
            author=fields.optional("author", d.check_text),
            architecture=fields.required("architecture", _check_word),
            os=fields.required("os", _check_word),
            variant=fields.optional("variant", _check_word),
            diff_ids=rootfs.optional("diff_ids", _check_diff_ids) or (),
            history=fields.optional("history", _check_history) or (),
            **_execution(fields.optional("config", d.check_object), what),
            extra=fields.rest(),
        )
        object.__setattr__(found, "_raw", raw)
        return found

    @classmethod
    def of(cls, value: ImageConfig | Mapping[str, Any] | None, *, what: str = "config") -> ImageConfig:
        """A config from what callers write: a config, or a mapping with our names or the documents'.

        InvalidImage naming the field that is wrong or unknown.
        """
        if isinstance(value, ImageConfig):
            return value
        if value is not None and not isinstance(value, Mapping):
            raise InvalidImage(f"{what}: must be an ImageConfig or a mapping, not {type(value).__name__}")
        return cls(**check_changes(value or {}, what=what))

    @property
    def raw(self) -> bytes:
        """The document's bytes: those that were parsed, or this config written out."""
        return self._raw if self._raw is not None else d.dump(self.document())

    @property
    def digest(self) -> Digest:
        """The digest of `raw`: the image's ID."""
        return Digest.of(self.raw)

    @property
    def platform(self) -> Platform:
        return Platform(self.os, self.architecture, self.variant)

    def document(self) -> dict[str, Any]:
        """The JSON object that says the same."""
        found: dict[str, Any] = {}
        for name in ("created", "author", "architecture", "os", "variant"):
            if (value := getattr(self, name)) is not None:
                found[name] = value
        found["config"] = {**_execution_document(self), **self.extra_config}
        found["rootfs"] = {"type": "layers", "diff_ids": [str(digest) for digest in self.diff_ids]}
        if self.history:
            found["history"] = [entry.document() for entry in self.history]
        return {**found, **self.extra}


def _execution(fields: d.Fields | None, what: str) -> dict[str, Any]:
    """The arguments of ImageConfig that a document's "config" object holds."""
    if fields is None:
        return {}
    fields.where = f"{what}: config"
    found: dict[str, Any] = {}
    for name, (key, check) in _EXECUTION.items():
        if (value := fields.optional(key, check)) is not None:
            found[name] = value
    found["extra_config"] = fields.rest()
    return found


def _execution_document(config: ImageConfig) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, (key, _) in _EXECUTION.items():
        value = getattr(config, name)
        if value is None or (name in _DEFAULTS and not value):
            continue
        if name == "env":
            found[key] = [f"{variable}={text}" for variable, text in value.items()]
        elif name in ("exposed_ports", "volumes"):
            found[key] = {item: {} for item in value}
        else:
            found[key] = list(value) if isinstance(value, tuple) else value
    return found


_BY_KEY = {key: name for name, (key, _) in _EXECUTION.items()}
# What else a caller may say; the rest of a config follows from the layers.
_GENERAL: dict[str, Any] = {
    "architecture": _check_word,
    "os": _check_word,
    "variant": _check_word,
    "created": _check_created,
    "author": d.check_text,
}


def check_changes(values: Mapping[str, Any], *, what: str) -> dict[str, Any]:
    """Arguments for ImageConfig or attrs.evolve from a caller's mapping, every value checked.

    Takes our names ("cwd", and "ports" for short) and the documents' ("WorkingDir"); None means
    "unset". InvalidImage naming the field that is wrong or unknown.
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = _BY_KEY.get(key, "exposed_ports" if key == "ports" else key)
        where = f"{what}: {key}"
        if name in found:
            raise InvalidImage(f"{where}: is given twice")
        if name in _EXECUTION:
            check = _EXECUTION[name][1]
            found[name] = _DEFAULTS.get(name) if value is None else check(_texts(name, value), where)
        elif name in _GENERAL and (value is not None or name not in ("architecture", "os")):
            found[name] = None if value is None else _GENERAL[name](value, where)
        else:
            raise InvalidImage(f"{where}: no such field; there are {', '.join([*_EXECUTION, *_GENERAL])}")
    return found


def _texts(name: str, value: Any) -> Any:
    """Ports and ids as numbers are natural in Python; the documents write them as text."""
    if name == "exposed_ports" and isinstance(value, (list, tuple, set, frozenset, dict)):
        return [str(port) if isinstance(port, int) else port for port in value]
    if name == "volumes" and isinstance(value, (set, frozenset)):
        return sorted(value)
    if name == "user" and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value
