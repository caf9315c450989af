"""A registry's content by name: manifests, blobs, tags, referrers (distribution-spec 1.1)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from urllib.parse import quote

import attrs

from pycontainer.distribution import credentials, download, manifests, pages, upload
from pycontainer.distribution.address import onward, safe_url
from pycontainer.distribution.answers import ACCEPT, stated_digest
from pycontainer.distribution.answers import Answer as Answer
from pycontainer.distribution.chunks import Content
from pycontainer.distribution.credentials import Credential
from pycontainer.distribution.patience import Patience
from pycontainer.distribution.registries_conf import Mirror
from pycontainer.distribution.reply import Reply
from pycontainer.distribution.source import Source, pull
from pycontainer.distribution.transport import Transport
from pycontainer.distribution.upload import Pushed, push_scope
from pycontainer.distribution.wires import Tls
from pycontainer.errors import DigestMismatch, InvalidImage, InvalidOption, NotFound, TransportError
from pycontainer.oci._document import MAX_DOCUMENT
from pycontainer.oci.descriptor import Descriptor
from pycontainer.oci.digest import Digest
from pycontainer.oci.manifest import Index

Authentication = Credential | tuple[str, str] | bool | None


class Client:
    """The client of one registry; safe from several threads, a context manager.

    `insecure` allows plain HTTP (None: only to this machine); `verify` is False, or the file or
    directory of the authorities to trust; `cert` the client's certificate, or certificate and key;
    `timeout` how long, in seconds, a connection may stay silent. `auth`: a user's name and password, a
    Credential, False for anonymous, None for what the user's configuration files say. `mirrors` are
    asked first for what is read: `host[:port][/prefix]` or the address of that, or a `Mirror` of the
    one repository that this client is for; they never see the registry's credentials.
    """

    def __init__(
        self,
        registry: str,
        *,
        insecure: bool | None = None,
        auth: Authentication = None,
        verify: bool | str = True,
        cert: str | tuple[str, str] | None = None,
        timeout: float = 30.0,
        mirrors: Sequence[str | Mirror] = (),
        patience: Patience = Patience(),  # noqa: B008 (it is frozen)
    ) -> None:
        if not timeout > 0:
            raise InvalidOption(f"timeout={timeout!r}: must be a positive number of seconds")
        self.registry = registry
        credential = _credential(registry, auth)

        def connect(host: str, insecure: bool | None, known: Credential | None, tls: Tls) -> Transport:
            return Transport(
                host, insecure=insecure, credential=known, tls=tls, timeout=timeout, patience=patience
            )

        def connect_mirror(host: str, insecure: bool | None, verify: bool | str = verify) -> Transport:
            # Neither password nor certificate: both are the registry's.
            known = None if auth is False else credentials.find(host)
            return connect(host, insecure, known, Tls(verify, None))

        self._transport = connect(registry, insecure, credential, Tls(verify, cert))
        self._registry = Source(self._transport)
        self._mirrors = [_mirror(text, connect_mirror, insecure) for text in mirrors]

    def __repr__(self) -> str:
        return f"<Client {self.registry}>"

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends all connections; what other threads are waiting for fails with TransportError."""
        for source in [*self._mirrors, self._registry]:
            source.transport.close()

    def branch(self) -> Client:
        """The same client with connections of its own: closing it ends those, and no others."""
        other = copy.copy(self)
        other._transport = self._transport.branch()
        other._registry = Source(other._transport)
        other._mirrors = [attrs.evolve(one, transport=one.transport.branch()) for one in self._mirrors]
        return other

    def ping(self) -> None:
        """Returns if a registry answers and, where it asks who we are, is content with that."""
        self._transport.send("GET", "/v2/", scope="").close()

    # Reading

    def resolve(self, repository: str, reference: str) -> Descriptor:
        """What a tag or digest stands for, without its content where the registry says enough."""

        return manifests.resolve(self._sources(), repository, reference)

    def manifest(self, repository: str, reference: str) -> Answer:
        """The manifest or index of a tag or digest, verified; at most MAX_DOCUMENT bytes.

        Raises NotFound, DigestMismatch, InvalidImage for an unknown or ambiguous type, RegistryError.
        """
        return manifests.fetch(self._sources(), repository, reference)

    def blob(self, repository: str, descriptor: Descriptor) -> Iterator[bytes]:
        """A blob's content, in pieces; DigestMismatch is raised before its end is reported.

        A body that breaks off is resumed. What was given out cannot be taken back: whoever gets a
        DigestMismatch may ask once more, and a mirror that was to blame is left out then.
        """
        return download.blob(self._sources(), repository, descriptor)

    def has_manifest(self, repository: str, reference: str, digest: Digest) -> bool:
        """Whether the registry itself says that it has this manifest under a tag or digest."""
        path = f"/v2/{repository}/manifests/{reference}"
        try:
            reply = self._transport.send("HEAD", path, scope=pull(repository), headers={"Accept": ACCEPT})
        except NotFound:
            return False
        reply.close()
        return stated_digest(reply.headers) == digest

    def has_blob(self, repository: str, digest: Digest) -> bool:
        """Whether the registry itself has the blob in this repository."""
        try:
            self._transport.send("HEAD", f"/v2/{repository}/blobs/{digest}", scope=pull(repository)).close()
        except NotFound:
            return False
        return True

    def blob_size(self, repository: str, digest: Digest) -> int:
        """The size in bytes that the registry states for a blob. Raises NotFound, TransportError."""
        path = f"/v2/{repository}/blobs/{digest}"
        with self._transport.send("HEAD", path, scope=pull(repository)) as reply:
            size = reply.length
        if size is None:
            raise TransportError(f"{reply.shown()}: the registry states no size", url=reply.safe_url)
        return size

    def tags(self, repository: str) -> Iterator[str]:
        """The repository's tags, as many pages as there are."""
        return pages.names(self._transport, f"/v2/{repository}/tags/list", scope=pull(repository), key="tags")

    def repositories(self) -> Iterator[str]:
        """The names in the registry's catalog, which large registries do not offer."""
        return pages.names(self._transport, "/v2/_catalog", scope="registry:catalog:*", key="repositories")

    def referrers(self, repository: str, digest: Digest, artifact_type: str | None = None) -> Index:
        """What refers to a manifest: signatures, bills of materials. An empty index where nothing does."""
        found: list[Descriptor] = []
        path = f"/v2/{repository}/referrers/{digest}"
        if artifact_type is not None:
            path += f"?artifactType={quote(artifact_type, safe='')}"
        try:
            for page in pages.documents(self._transport, path, scope=pull(repository)):
                found.extend(Index.parse(page.body, what=page.shown()).manifests)
        except NotFound:
            # distribution-spec, "Referrers tag schema": registries before 1.1 have an index under a tag.
            found = self._tagged_referrers(repository, digest)
        if artifact_type is not None:
            # Whether the registry has filtered is its own choice.
            found = [one for one in found if one.extra.get("artifactType") == artifact_type]
        return Index.make(tuple(found), {})

    def _tagged_referrers(self, repository: str, digest: Digest) -> list[Descriptor]:
        tag = f"{digest.algorithm[:32]}-{digest.hex[:64]}"
        try:
            answer = self.manifest(repository, tag)
        except NotFound:
            return []
        return list(Index.parse(answer.raw, what=f"{self.registry}/{repository}:{tag}").manifests)

    # Writing

    def mount_blob(self, repository: str, digest: Digest, source: str) -> bool:
        """Has the registry take a blob over from its repository `source`; False where it does not."""
        path = f"/v2/{repository}/blobs/uploads/?mount={digest}&from={quote(source, safe='')}"
        scope = f"{push_scope(repository)} {pull(source)}"
        with self._transport.send("POST", path, scope=scope, ok=(201, 202)) as reply:
            if reply.status == 201:
                return True
            location = reply.headers.get("Location")
        if location:
            # It has begun an upload instead. One that it cannot drop it forgets by itself.
            self._transport.attempt(
                "DELETE", onward(reply.url, location), scope=push_scope(repository), ok=(204, 202, 200)
            )
        return False

    def push_blob(
        self,
        repository: str,
        content: Content,
        *,
        digest: Digest | None = None,
        size: int | None = None,
        sent: Callable[[int], None] | None = None,
    ) -> Pushed:
        """Uploads a blob; `content(offset)` gives its bytes from `offset` on, each time the same.

        Without `digest` it is known at the end. `sent` is told the place in the content that was
        sent, in bytes; it goes back after a failure. Raises DigestMismatch, RegistryError.
        """
        return upload.push(self._transport, repository, content, digest=digest, size=size, sent=sent)

    def push_manifest(self, repository: str, reference: str, raw: bytes, media_type: str) -> Digest:
        """Stores a manifest or index under a tag or its digest; its digest."""
        if len(raw) > MAX_DOCUMENT:
            raise InvalidImage(f"manifest: {len(raw)} bytes, more than the {MAX_DOCUMENT} that are taken")
        digest = Digest(reference) if Digest.is_valid(reference) else Digest.of(raw)
        if not digest.verify(raw):
            raise DigestMismatch(f"manifest: its content is something else than {digest}")
        reply = self._transport.send(
            "PUT",
            f"/v2/{repository}/manifests/{reference}",
            scope=push_scope(repository),
            headers={"Content-Type": media_type},
            body=raw,
            ok=(201, 200, 202),
        )
        reply.close()
        stored = stated_digest(reply.headers)
        if stored is not None and not stored.verify(raw):
            what = f"{reply.shown()}: the registry stored something else: {stored}"
            raise DigestMismatch(what, status=reply.status, url=reply.safe_url)
        return digest

    def delete_manifest(self, repository: str, reference: str) -> None:
        """Deletes the manifest of that digest and all its tags; where the registry can, one tag alone.

        Raises NotFound; RegistryError (UNSUPPORTED) where that is not offered.
        """
        self._delete(repository, f"manifests/{reference}")

    def delete_blob(self, repository: str, digest: Digest) -> None:
        """Deletes a blob. Raises NotFound; RegistryError where deletion is off."""
        self._delete(repository, f"blobs/{digest}")

    def _delete(self, repository: str, rest: str) -> None:
        scope = f"repository:{repository}:delete,pull"
        pauses, repeated = self._transport.pauses(), False
        while True:
            reply = self._transport.attempt(
                "DELETE", f"/v2/{repository}/{rest}", scope=scope, ok=(202, 200, 204)
            )
            if isinstance(reply, Reply):
                reply.close()
                return
            if repeated and isinstance(reply.error, NotFound):
                # The answer to the first one was lost.
                return
            pauses.after(reply)
            repeated = True

    def _sources(self) -> list[Source]:
        """Where to read from, in this order; the registry itself is the last."""
        return [*(mirror for mirror in self._mirrors if mirror.usable), self._registry]


def _credential(registry: str, auth: Authentication) -> Credential | None:
    if auth is None:
        return credentials.find(registry)
    if auth is False:
        return None
    if isinstance(auth, Credential):
        return auth
    if isinstance(auth, tuple) and len(auth) == 2 and all(isinstance(part, str) for part in auth):
        return Credential(*auth)
    # Not with its value: half of a password is one, too.
    raise InvalidOption("auth: must be (user, password), a Credential, False for anonymous, or None")


def _mirror(text: str | Mirror, connect: Callable[..., Transport], insecure: bool | None) -> Source:
    """The mirror at `host[:port][/prefix]`, or at the address of that, or what is configured."""
    if isinstance(text, Mirror):
        host, _, repository = text.location.partition("/")
        transport = connect(host, True, False) if text.insecure else connect(host, None)
        return Source(transport, only=repository, mirror=True)
    scheme, separator, rest = text.rpartition("://")
    host, _, prefix = rest.strip("/").partition("/")
    if (separator and scheme not in ("http", "https")) or "@" in host or not host:
        shown = safe_url(text if separator else f"//{text}").removeprefix("//")
        raise InvalidOption(f"mirrors: {shown!r}: must be host[:port][/prefix] or its address")
    if separator:
        insecure = scheme == "http"
    return Source(connect(host, insecure), f"{prefix}/" if prefix else "", mirror=True)
