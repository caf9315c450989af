"""One place that a repository can be read from: the registry itself, or a mirror of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from pycontainer.distribution.failures import Failure
from pycontainer.distribution.patience import Pauses
from pycontainer.distribution.reply import Reply
from pycontainer.distribution.transport import Transport
from pycontainer.errors import NotFound, RegistryError

# Reading twice what another source may have at once is not worth the wait.
_MIRROR_ATTEMPTS = 2


@attrs.define(eq=False)
class Source:
    """`transport` with `prefix` before each repository's name, or for the one repository that it has under
    the name `only`. A mirror is `usable` until it fails badly."""

    transport: Transport
    prefix: str = ""
    only: str | None = None
    mirror: bool = False
    usable: bool = True

    def name(self, repository: str) -> str:
        """What messages call the repository here."""
        return f"{self.transport.registry}/{self._there(repository)}"

    def attempt(
        self,
        method: str,
        repository: str,
        rest: str,
        *,
        headers: Mapping[str, str] | None = None,
        ok: Sequence[int] = (200,),
    ) -> Reply | Failure:
        """One request to read something of the repository; a mirror's failures all come as Failure."""
        repository = self._there(repository)
        scope = pull(repository)
        try:
            return self.transport.attempt(
                method, f"/v2/{repository}/{rest}", scope=scope, headers=headers, ok=ok
            )
        except RegistryError as error:
            return Failure(error)

    def _there(self, repository: str) -> str:
        return self.only or self.prefix + repository

    def pauses(self) -> Pauses:
        return self.transport.pauses(_MIRROR_ATTEMPTS if self.mirror else None)

    def failed(self, error: RegistryError) -> None:
        """Notes a failure: a mirror that merely lacks something stays in use."""
        if self.mirror and not isinstance(error, NotFound):
            self.usable = False


def pull(repository: str) -> str:
    """The scope of reading (distribution: token scopes)."""
    return f"repository:{repository}:pull"
