"""Bringing blobs into a repository in the cheapest way: they are there, mounted from elsewhere, or sent."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from pycontainer.errors import RegistryError
from pycontainer.oci.descriptor import Descriptor
from pycontainer.oci.digest import Digest
from pycontainer.transfer.crew import Crew
from pycontainer.transfer.deadline import Deadline
from pycontainer.transfer.events import Pace, Step, Teller

if TYPE_CHECKING:
    from pycontainer.distribution.client import Client
    from pycontainer.distribution.upload import Pushed

Content = Callable[[], Iterator[bytes]]

# Each is a request; more guesses cost more than they bring.
_MAX_MOUNTS = 2
_AT_ONCE = 3


class Target:
    """The repository that is uploaded to, and who tells about it."""

    def __init__(self, client: Client, repository: str, teller: Teller, deadline: Deadline) -> None:
        self.client = client
        self.repository = repository
        self.place = f"{client.registry}/{repository}"
        self._teller = teller
        self._deadline = deadline
        self._crew: Crew[None] | None = None

    def run(self, tasks: Iterable[Callable[[Target], None]], *others: Client) -> None:
        """Does all `tasks`, three at a time, with a target like this one. Raises the first failure, and
        TransportError when time is up.

        That one has connections of its own: when a task fails, or at Ctrl-C, they are cut, and so are those
        of `others`, for nobody to be waited for.
        """
        with self.client.branch() as own:
            target = Target(own, self.repository, self._teller, self._deadline)

            def cut() -> None:
                for client in (own, *others):
                    client.close()

            calls = [functools.partial(task, target) for task in tasks]
            with Crew(calls, _AT_ONCE, _nothing, cut) as target._crew:
                for _ in target._crew.results(self._deadline.check):
                    pass

    def tell(self, name: Digest, step: Step, done: int, total: int | None) -> None:
        """Raises what the listener raises, and Cancelled where another task has failed."""
        if self._crew is not None:
            self._crew.sleep(0)
        self._teller.tell(name, step, done, total)

    def offer(self, name: Digest, blob: Descriptor, places: Callable[[], Iterable[str]]) -> bool:
        """Whether the repository has `blob` without being sent it. `places` gives "registry/repository"
        names from where it might be mounted; `name` is what it is called in reports."""
        self.tell(name, "waiting", 0, blob.size)
        found = self.client.has_blob(self.repository, blob.digest) or self._mount(blob.digest, places())
        if found:
            self.tell(name, "exists", blob.size, blob.size)
        return found

    def send(self, name: Digest, content: Content, blob: Descriptor | None) -> Pushed:
        """Uploads `content()`, which gives the same bytes whenever it is called. Where `blob` is None,
        its digest and size come out at the end. Returns what the registry has now."""
        total = None if blob is None else blob.size

        def resumed(offset: int) -> Iterator[bytes]:
            return self._wanted(content(), offset)

        pace = Pace()

        def sent(done: int) -> None:
            if pace.due():
                self.tell(name, "uploading", done, total)

        if blob is None:
            uploaded = self.client.push_blob(self.repository, resumed, sent=sent)
        else:
            uploaded = self.client.push_blob(
                self.repository, resumed, digest=blob.digest, size=blob.size, sent=sent
            )
        self.tell(name, "done", uploaded.size, uploaded.size)
        return uploaded

    def put_manifest(
        self, raw: bytes, media_type: str, digest: Digest, tags: Sequence[str], *, asking: bool
    ) -> None:
        """Puts a manifest under its digest, or under all `tags`. Where it may be there already, `asking`
        first saves sending it. Raises DigestMismatch where the registry took it for something else."""
        for reference in tags or (str(digest),):
            if not asking or not self.client.has_manifest(self.repository, reference, digest):
                self.client.push_manifest(self.repository, reference, raw, media_type)

    def _wanted(self, chunks: Iterator[bytes], offset: int) -> Iterator[bytes]:
        """`chunks` from `offset` bytes on, as long as nothing else has failed."""
        assert self._crew is not None
        for chunk in chunks:
            self._crew.sleep(0)
            if offset < len(chunk):
                yield chunk[offset:]
            offset = max(offset - len(chunk), 0)

    def _mount(self, digest: Digest, places: Iterable[str]) -> bool:
        for name in islice(self._elsewhere(places), _MAX_MOUNTS):
            try:
                if self.client.mount_blob(self.repository, digest, name):
                    return True
            except RegistryError as error:
                # Not allowed to read it there, or no such repository: it is sent instead.
                if error.status is None or error.status >= 500:
                    raise
        return False

    def _elsewhere(self, places: Iterable[str]) -> Iterator[str]:
        """Other repositories of this registry, each once."""
        seen = {self.repository}
        for place in places:
            registry, _, name = place.partition("/")
            if registry == self.client.registry and name not in seen:
                seen.add(name)
                yield name


def _nothing(_: None) -> None:
    """What is to be done about a task's result that nobody wants any more."""
