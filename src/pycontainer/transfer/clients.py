"""The client for one image by its name: where registries.conf says it is, with the user's credentials."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pycontainer.distribution import credentials
from pycontainer.distribution.client import Authentication, Client
from pycontainer.distribution.registries_conf import lookup
from pycontainer.errors import AuthError
from pycontainer.oci.reference import Reference


@contextmanager
def client_for(
    reference: Reference, auth: Authentication, *, writing: bool = False
) -> Iterator[tuple[Client, str]]:
    """A client and the repository's name there, for a complete reference; closed at the end.

    Raises AuthError for a repository that is blocked, or where credentials cannot be read, and
    InvalidOption for a registries.conf that is malformed.
    """
    assert reference.registry is not None
    settings = lookup(reference.registry, reference.repository)
    if settings.blocked:
        raise AuthError(f"{reference}: registries.conf blocks it")
    registry, _, repository = settings.location.partition("/")
    refused = "tag-only" if reference.digest is not None else "digest-only"
    mirrors = [mirror for mirror in settings.mirrors if mirror.pull != refused]
    if auth is None:
        auth = credentials.find(registry, repository=repository)
    client = Client(
        registry,
        insecure=True if settings.insecure else None,
        verify=not settings.insecure,
        auth=auth,
        mirrors=[] if writing else mirrors,
    )
    with client:
        yield client, repository
