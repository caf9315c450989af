"""Registries, and the repositories on them (distribution-spec)."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pycontainer.errors import InvalidOption, InvalidReference, NotFound, RegistryError, TransportError
from pycontainer.image import Image, wanted_platform
from pycontainer.oci.descriptor import Descriptor
from pycontainer.oci.digest import Digest
from pycontainer.oci.manifest import Index, Manifest
from pycontainer.oci.media_types import INDEXES
from pycontainer.oci.platform import Platform
from pycontainer.oci.reference import DEFAULT_TAG, Reference
from pycontainer.store import Store
from pycontainer.transfer.display import reporting

if TYPE_CHECKING:
    from pycontainer.distribution.client import Client
    from pycontainer.distribution.credentials import Credential
    from pycontainer.transfer.events import Report


_Path = str | os.PathLike[str]


class Registry:
    """A server that holds repositories, by its name in references: "docker.io", "127.0.0.1:5000".

    `insecure` allows plain HTTP (None: loopback may speak it); `verify` is False, or a file of CA
    certificates; `cert` is a file with a client certificate and its key, or both files; `timeout` is
    seconds without an answer; `mirrors` are asked first for what is read. `auth` is (user, password),
    None for what the configuration files of docker and podman say (config.json, auth.json,
    credential helpers), False for nobody. Nothing is sent before the first request. Safe from any
    thread; a context manager that closes it.
    """

    def __init__(
        self,
        name: str,
        *,
        insecure: bool | None = None,
        auth: tuple[str, str] | Credential | bool | None = None,
        verify: bool | str | os.PathLike[str] = True,
        cert: _Path | tuple[_Path, _Path] | None = None,
        timeout: float = 30.0,
        mirrors: Sequence[str] = (),
    ) -> None:
        """Raises InvalidReference where `name` is no host[:port], InvalidOption, and AuthError where
        a configuration file or credential helper is broken."""
        from pycontainer.distribution.client import Client

        self.name = _registry(name)
        _check(insecure, timeout, mirrors)
        self._client: Client = Client(
            self.name,
            insecure=insecure,
            auth=auth,
            verify=_verify(verify),
            cert=_cert(cert),
            timeout=timeout,
            mirrors=mirrors,
        )

    def repository(self, name: str) -> Repository:
        """The repository `name`, which need not exist yet. Raises InvalidReference."""
        return Repository(self, name)

    def repositories(self) -> Iterator[Repository]:
        """All repositories, as far as the registry lists them (many forbid it). Raises RegistryError."""
        for name in self._client.repositories():
            try:
                found = Repository(self, name)
            except InvalidReference as error:
                raise TransportError(
                    f"{self.name}: the catalog lists what is no repository: {error}"
                ) from None
            yield found

    def ping(self) -> None:
        """Raises RegistryError unless it answers as a registry does, with these credentials."""
        self._client.ping()

    def close(self) -> None:
        """Closes its connections, for good: whoever waits for an answer gets TransportError."""
        self._client.close()

    def __enter__(self) -> Registry:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Registry {self.name}>"


class Repository:
    """The tagged versions of one image on a registry. All methods raise RegistryError's kinds."""

    def __init__(self, registry: Registry, name: str) -> None:
        if not isinstance(name, str):
            raise InvalidReference(f"repository {name!r}: must be a string")
        reference = Reference.parse(f"{registry.name}/{name}")
        if reference.tag is not None or reference.digest is not None:
            raise InvalidReference(f"repository {name!r}: must be a name alone")
        self.registry = registry
        self._reference = reference.with_defaults()
        self.name = self._reference.repository
        self._client = registry._client

    def tags(self) -> Iterator[str]:
        """Its tags, in the registry's order. Raises NotFound where there is no such repository."""
        return self._client.tags(self.name)

    def resolve(self, reference: str = DEFAULT_TAG) -> Descriptor:
        """What a tag or digest stands for now; no body is fetched. Raises NotFound."""
        return self._client.resolve(self.name, self._text(reference))

    def pull(
        self,
        reference: str = DEFAULT_TAG,
        *,
        platform: str | Platform | None = None,
        progress: bool | Report | None = None,
        timeout: float | None = None,
        store: Store | None = None,
    ) -> Image:
        """Pulls a tag or digest; see `Image.pull`."""
        from pycontainer.transfer.deadline import ended_after
        from pycontainer.transfer.pull import pull

        store = store or Store.default()
        wanted = wanted_platform(platform)
        parsed = self._parsed(reference)
        with (
            ended_after(timeout, "pull", str(parsed)) as deadline,
            reporting(progress) as report,
        ):
            made = pull(store, self._client, parsed, platform=wanted, report=report, deadline=deadline)
        return Image(store, made.entry, made)._pulled(str(parsed))

    def push(
        self,
        image: Image,
        *tags: str,
        compression: str = "gzip",
        progress: bool | Report | None = None,
        timeout: float | None = None,
    ) -> Descriptor:
        """Pushes an image under `tags` ("latest" unless given); gives the manifest that it has there.

        What is in the store as it was pulled or loaded is pushed byte for byte; layers made here are
        compressed on the way ("gzip", "zstd" or "none"). A second push sends only what is missing.
        `timeout` is seconds for all of it; when they are over, everything has ended before `Timeout` is
        raised. Raises InvalidReference for a tag, ImageError, RegistryError and StoreError.
        """
        from pycontainer.transfer.deadline import ended_after

        if not isinstance(image, Image):
            raise InvalidOption(f"image={image!r}: must be an Image, as Image.get() gives")
        for tag in tags:
            parsed = self._parsed(tag)
            if parsed.digest is not None:
                raise InvalidReference(f"{tag!r}: a digest follows from the content; give a tag")
        tags = tags or (DEFAULT_TAG,)
        with (
            ended_after(timeout, "push", str(self._parsed(tags[0]))) as deadline,
            reporting(progress) as report,
        ):
            return image._push_to(
                self._client, self.name, tags, compression=compression, report=report, deadline=deadline
            )

    def copy(
        self,
        reference: str,
        target: Repository,
        *tags: str,
        progress: bool | Report | None = None,
        timeout: float | None = None,
    ) -> Descriptor:
        """Copies a tag or digest with everything it refers to into another repository, also on another
        registry, as bytes: nothing is unpacked, all platforms come along. Under `tags` there, or the
        same tag. `timeout` as for `push`."""
        from pycontainer.transfer.copy import copy
        from pycontainer.transfer.deadline import ended_after

        if not isinstance(target, Repository):
            raise InvalidOption(f"target={target!r}: must be a Repository, as registry.repository() gives")
        for tag in tags:
            target._parsed(tag)
        parsed = self._parsed(reference)
        names = tags or ((parsed.tag,) if parsed.tag is not None else ())
        with (
            ended_after(timeout, "copy", str(parsed)) as deadline,
            reporting(progress) as report,
        ):
            return copy(
                self._client,
                self.name,
                self._text(reference),
                target._client,
                target.name,
                names,
                report=report,
                deadline=deadline,
            )

    def delete(self, reference: str) -> None:
        """Deletes a tag or, by digest, a manifest with all its tags.

        Registries without deletion of single tags delete the tag's manifest. Raises NotFound, and
        RegistryError where the registry allows no deletion.
        """
        parsed = self._parsed(reference)
        if parsed.digest is not None:
            self._client.delete_manifest(self.name, parsed.digest)
            return
        assert parsed.tag is not None
        try:
            self._client.delete_manifest(self.name, parsed.tag)
        except NotFound:
            raise
        except RegistryError as error:
            # The tag is no digest to registries older than version 1.1 of the specification.
            if error.status not in (400, 405):
                raise
            self._client.delete_manifest(self.name, self.resolve(parsed.tag).digest)

    def manifest(self, reference: str = DEFAULT_TAG) -> Manifest | Index:
        """The manifest of one image or the index of several, verified; `raw` holds its bytes."""
        text = self._text(reference)
        answer = self._client.manifest(self.name, text)
        what = f"{self._reference.registry}/{self.name} {text}"
        if answer.media_type in INDEXES:
            return Index.parse(answer.raw, what=what)
        return Manifest.parse(answer.raw, what=what)

    def blob(self, digest: str | Descriptor) -> BlobStream:
        """A blob as a stream for reading. The read that would come to the end raises DigestMismatch
        instead where the content is not what `digest` says."""
        if not isinstance(digest, Descriptor):
            wanted = Digest(digest)
            digest = Descriptor("application/octet-stream", wanted, self._client.blob_size(self.name, wanted))
        return BlobStream(digest, self._client.blob(self.name, digest))

    def referrers(self, reference: str, *, artifact_type: str | None = None) -> tuple[Descriptor, ...]:
        """What refers to an image: signatures, attestations (distribution-spec, "Listing Referrers")."""
        digest = self._parsed(reference).digest or self.resolve(reference).digest
        return self._client.referrers(self.name, digest, artifact_type).manifests

    def _parsed(self, reference: str) -> Reference:
        """A tag or digest of this repository. Raises InvalidReference."""
        if not isinstance(reference, str):
            raise InvalidReference(f"{reference!r}: must be a tag or digest")
        mark = "@" if Digest.is_valid(reference) else ":"
        return Reference.parse(f"{self._reference.registry}/{self.name}{mark}{reference}")

    def _text(self, reference: str) -> str:
        parsed = self._parsed(reference)
        return str(parsed.digest or parsed.tag)

    def __repr__(self) -> str:
        return f"<Repository {self.registry.name}/{self.name}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Repository):
            return NotImplemented
        return (self.registry.name, self.name) == (other.registry.name, other.name)

    def __hash__(self) -> int:
        return hash((self.registry.name, self.name))


class BlobStream(io.RawIOBase):
    """A blob, read from the registry as it is read here; iterating over it gives its pieces."""

    def __init__(self, descriptor: Descriptor, pieces: Iterator[bytes]) -> None:
        self.descriptor = descriptor
        self._pieces = pieces
        self._left = memoryview(b"")
        self._failure: BaseException | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            piece = self._next()
            if piece is None:
                return 0
            self._left = memoryview(piece)
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count

    def __iter__(self) -> Iterator[bytes]:
        if self._left:
            yield bytes(self._left)
            self._left = memoryview(b"")
        while (piece := self._next()) is not None:
            yield piece

    def _next(self) -> bytes | None:
        """The next piece, None at the end. A failure stays one: what follows it is no end."""
        if self.closed:
            raise ValueError("I/O operation on closed file")
        if self._failure is not None:
            raise self._failure
        try:
            return next(self._pieces, None)
        except BaseException as error:
            self._failure = error
            raise

    def close(self) -> None:
        """Ends the transfer, also in its midst."""
        close = getattr(self._pieces, "close", None)
        if close is not None:
            close()
        super().close()

    def __repr__(self) -> str:
        return f"<BlobStream {self.descriptor.digest}>"


def _registry(name: object) -> str:
    """A registry's name as it stands in complete references. Raises InvalidReference."""
    problem = f"registry {name!r}: must be host[:port], without a scheme or path"
    try:
        reference = Reference.parse(f"{name}/name")
    except InvalidReference as error:
        raise InvalidReference(f"{problem}: {error}") from None
    found = reference.with_defaults().registry
    if reference.registry != name or found is None:
        raise InvalidReference(problem)
    return found


def _check(insecure: object, timeout: object, mirrors: object) -> None:
    if insecure is not None and not isinstance(insecure, bool):
        raise InvalidOption(f"insecure={insecure!r}: must be True, False or None")
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise InvalidOption(f"timeout={timeout!r}: must be a number of seconds")
    if isinstance(mirrors, str):
        raise InvalidOption(f"mirrors={mirrors!r}: must be a sequence of registries")


def _verify(verify: object) -> bool | str:
    if isinstance(verify, bool):
        return verify
    return _path("verify", verify, "must be True, False or a file of CA certificates")


def _cert(cert: object) -> str | tuple[str, str] | None:
    wanted = "must be a file, or a certificate's and its key's"
    if cert is None:
        return None
    if not isinstance(cert, tuple):
        return _path("cert", cert, wanted)
    if len(cert) != 2:
        raise InvalidOption(f"cert={cert!r}: {wanted}")
    return _path("cert", cert[0], wanted), _path("cert", cert[1], wanted)


def _path(option: str, value: object, wanted: str) -> str:
    if isinstance(value, (str, os.PathLike)) and isinstance(path := os.fspath(value), str):
        return path
    raise InvalidOption(f"{option}={value!r}: {wanted}")
