"""What a user has told other tools about registries: the credentials in their configuration files."""

from __future__ import annotations

import os
from collections.abc import Mapping

import attrs


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
    raise NotImplementedError
