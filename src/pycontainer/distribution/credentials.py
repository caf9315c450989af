"""What a user has told other tools about registries: credentials in their configuration files.

containers-auth.json(5) (podman, skopeo, buildah) and docker's config.json, which are one format: `auths`
by registry or repository, `credHelpers` by registry, `credsStore` for every registry.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping

import attrs

from pycontainer.distribution import credential_helper
from pycontainer.distribution.auth_files import AuthFile, paths

# The names of docker's own registry, to what references call it, and its key in docker's files.
_HUB = "docker.io"
_HUB_NAMES = frozenset({_HUB, "index.docker.io", "registry-1.docker.io"})
_HUB_KEY = "https://index.docker.io/v1/"

# A user name that says that the password is an identity token (docker-credential-helpers).
_TOKEN_USER = "<token>"


@attrs.frozen
class Credential:
    """One account at one registry; only the name ever shows.

    `identity_token` is an OAuth2 refresh token, which a token server takes instead of a password;
    `registry_token` is a bearer token that goes to the registry as it is.
    """

    username: str = ""
    password: str = attrs.field(default="", repr=False)
    identity_token: str | None = attrs.field(default=None, repr=False)
    registry_token: str | None = attrs.field(default=None, repr=False)


def find(
    registry: str, *, repository: str | None = None, environ: Mapping[str, str] = os.environ
) -> Credential | None:
    """What the first file that knows `registry` says, None where none does; may run a credential helper.

    The files: REGISTRY_AUTH_FILE alone where it is set, else podman's auth.json of this session and of
    the user, then docker's config.json. With `repository` ("team/app") entries for it and for what is
    above it count too, the longest first. Raises AuthError for a file that cannot be read or whose
    entry means nothing (file and field are named), and for a helper that fails.
    """
    host = _host(registry)
    names = [host]
    for part in repository.split("/") if repository else ():
        names.insert(0, f"{names[0]}/{part}")
    for path, required in paths(environ):
        file = AuthFile.read(path, required=required)
        found = None if file is None else _in_file(file, host, names, environ)
        if found is not None:
            return found
    return None


def _in_file(file: AuthFile, host: str, names: list[str], environ: Mapping[str, str]) -> Credential | None:
    """A registry's own helper excludes `auths`; the store for everything comes before them."""
    for key in file.mapping("credHelpers"):
        if _name(key) == host:
            return _ask(file, file.text("credHelpers", key), host, environ)
    store = file.text("credsStore")
    found = _ask(file, store, host, environ) if store else None
    return found or _in_entries(file, names)


def _in_entries(file: AuthFile, names: list[str]) -> Credential | None:
    keys: dict[str, list[str]] = {}
    for key in file.mapping("auths"):
        keys.setdefault(_name(key), []).append(key)
    for name in names:
        for key in keys.get(name, ()):
            found = _entry(file, key)
            if found is not None:
                return found
    return None


def _entry(file: AuthFile, key: str) -> Credential | None:
    """The entry's credential; None where it is empty, as docker leaves it when a helper has the secret."""
    username, password = file.text("auths", key, "username"), file.text("auths", key, "password")
    encoded = file.text("auths", key, "auth")
    if encoded:
        username, password = _decode(file, key, encoded)
    return _credential(
        username, password, file.text("auths", key, "identitytoken"), file.text("auths", key, "registrytoken")
    )


def _decode(file: AuthFile, key: str, encoded: str) -> tuple[str, str]:
    """user:password in base64; some tools fill the end up with NUL."""
    try:
        text = base64.b64decode(encoded, validate=True).decode()
    except ValueError:
        text = ""
    # Not within the handler: the decoder's complaint holds what it decoded.
    username, colon, password = text.partition(":")
    if not colon:
        file.refuse(("auths", key, "auth"), "must be user:password in base64")
    return username, password.strip("\0")


def _ask(file: AuthFile, helper: str, host: str, environ: Mapping[str, str]) -> Credential | None:
    """Docker files its own registry's credentials under an address, podman under the name."""
    for server in (_HUB_KEY, _HUB) if host == _HUB else (host,):
        found = credential_helper.ask(helper, server, environ, file.path)
        if found is not None:
            return _credential(*found, "", "")
    return None


def _credential(username: str, password: str, identity_token: str, registry_token: str) -> Credential | None:
    if username == _TOKEN_USER:
        username, password, identity_token = "", "", password
    if not ((username and password) or identity_token or registry_token):
        return None
    return Credential(username, password, identity_token or None, registry_token or None)


def _name(key: str) -> str:
    """What a key names: "host[:port]" or "host[:port]/name"; docker writes addresses of an older API."""
    bare = key.removeprefix("https://").removeprefix("http://")
    host, _, path = bare.partition("/")
    if bare != key or path.rstrip("/") == "" or path in ("v1/", "v2/"):
        return _host(host)
    return f"{_host(host)}/{path}"


def _host(registry: str) -> str:
    host = registry.lower()
    return _HUB if host in _HUB_NAMES else host
