"""The files in which tools keep credentials: where they are, and reading one without telling secrets."""

from __future__ import annotations

import errno
import json
import os
import pwd
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import attrs

from pycontainer.errors import AuthError
from pycontainer.oci._document import shorten

MAX_FILE = 1 << 20
"""Bytes: thousands of registries."""


def paths(environ: Mapping[str, str]) -> Iterator[tuple[str, bool]]:
    """The files to look at, in order, and whether the file must be there (containers-auth.json(5)).

    Docker's own file comes last, as it does for podman. A named file is the only one.
    """
    named = environ.get("REGISTRY_AUTH_FILE")
    if named:
        yield named, True
        return
    runtime = environ.get("XDG_RUNTIME_DIR")
    # Without a session, as root's often is, podman keeps it where only root can have made a place for it.
    session = os.path.join(runtime, "containers") if runtime else f"/run/containers/{os.getuid()}"
    yield os.path.join(session, "auth.json"), False
    home = environ.get("HOME") or _home()
    config = environ.get("XDG_CONFIG_HOME") or (home and os.path.join(home, ".config"))
    if config:
        yield os.path.join(config, "containers/auth.json"), False
    docker = environ.get("DOCKER_CONFIG") or (home and os.path.join(home, ".docker"))
    if docker:
        yield os.path.join(docker, "config.json"), False


def _home() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return ""


@attrs.frozen
class AuthFile:
    """A file's top object; its fields are checked when they are asked for, so strangers' do not matter."""

    path: str
    _document: Mapping[str, Any] = attrs.field(repr=False)

    @classmethod
    def read(cls, path: str, *, required: bool) -> AuthFile | None:
        """None where it is not there and need not be. Raises AuthError, which names the file."""
        raw = _content(path, required=required)
        if raw is None:
            return None
        try:
            document = json.loads(raw) if raw.strip() else {}
            problem = None if isinstance(document, dict) else "must hold a JSON object"
        except json.JSONDecodeError as error:
            problem = f"is not JSON: {error}"
        except (ValueError, RecursionError):
            problem = "is not JSON"
        # Not within the handler: the parser's complaint holds the whole text, which would go with ours.
        if problem is not None:
            raise AuthError(f"{path}: {problem}")
        return cls(path, document)

    def mapping(self, *keys: str) -> Mapping[str, Any]:
        """The object at `keys`, empty where there is none."""
        value = self._at(keys)
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.refuse(keys, "must be an object")
        return value

    def text(self, *keys: str) -> str:
        """The string at `keys`, empty where there is none."""
        value = self._at(keys)
        if value is None:
            return ""
        if not isinstance(value, str):
            self.refuse(keys, "must be a string")
        if any(character < " " or character == "\x7f" for character in value):
            self.refuse(keys, "holds a control character")
        return value

    def refuse(self, keys: tuple[str, ...], why: str) -> NoReturn:
        raise AuthError(f"{self.path}: {keys[0]}{''.join(f'[{shorten(key)}]' for key in keys[1:])}: {why}")

    def _at(self, keys: tuple[str, ...]) -> Any:
        if len(keys) == 1:
            return self._document.get(keys[0])
        return self.mapping(*keys[:-1]).get(keys[-1])


def _content(path: str, *, required: bool) -> bytes | None:
    try:
        # Not blocking: a pipe that nobody writes to must not hold the caller up.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if not required and _is_nobodys(path, error):
            return None
        raise AuthError(f"{path}: cannot be read: {os.strerror(error.errno or 0)}") from None
    try:
        with open(fd, "rb", buffering=0) as file:
            raw = b""
            while piece := file.read(MAX_FILE + 1 - len(raw)):
                raw += piece
    except OSError as error:
        raise AuthError(f"{path}: cannot be read: {os.strerror(error.errno or 0)}") from None
    if len(raw) > MAX_FILE:
        raise AuthError(f"{path}: larger than the {MAX_FILE} bytes that are read")
    return raw


def _is_nobodys(path: str, error: OSError) -> bool:
    """Whether there is no such file, or only in a directory that is closed to us: another user's.

    The second is usual after su and sudo, which leave XDG_RUNTIME_DIR or HOME. A file that can be
    seen and not read is a mistake that should be told.
    """
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return True
    return error.errno == errno.EACCES and not os.path.lexists(path)
