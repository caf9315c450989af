"""Images: what containers start from."""

from __future__ import annotations

import builtins
import functools
import os
import re
import threading
from collections.abc import Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any, Literal

import attrs

from pycontainer import in_time
from pycontainer.blobs.locks import Lock
from pycontainer.errors import (
    ImageError,
    ImageNotFound,
    InvalidImage,
    InvalidOption,
    InvalidReference,
)
from pycontainer.happenings import emit
from pycontainer.oci._document import MAX_DOCUMENT
from pycontainer.oci.config import History, ImageConfig, check_changes
from pycontainer.oci.descriptor import Descriptor
from pycontainer.oci.digest import Digest
from pycontainer.oci.manifest import Manifest
from pycontainer.oci.platform import Platform
from pycontainer.oci.reference import Reference
from pycontainer.oci.times import parse_time
from pycontainer.store import LayeredRoot, RootFS, Store

if TYPE_CHECKING:
    import datetime
    from contextlib import AbstractContextManager
    from pathlib import Path

    from pycontainer.completed import Completed
    from pycontainer.container import Container
    from pycontainer.distribution.client import Client
    from pycontainer.distribution.credentials import Credential
    from pycontainer.store.assemble import Made
    from pycontainer.store.catalog import Entry
    from pycontainer.transfer.deadline import Deadline
    from pycontainer.transfer.events import Report

ConfigLike = ImageConfig | Mapping[str, Any]

HOST = "host"
_ID = re.compile(r"(?:sha256:)?[0-9a-f]{12,64}")
_WHOLE_ID = re.compile(r"sha256:[0-9a-f]{12,64}|[0-9a-f]{64}")


class Image:
    """An image in a store. Made by the class methods; two are equal where they are the same image.

    While an `Image` made here is alive, `Store.prune()` keeps its layers even if it has no name.
    """

    def __init__(self, store: Store, entry: Entry, made: Made | None = None) -> None:
        self._store = store
        self._entry = entry
        self._lease: Lock | None = None
        self._rootfs: RootFS | None = None
        self._lock = threading.Lock()
        if made is not None:
            self._lease = made.lease
            self.__dict__["_manifest"], self.__dict__["config"] = made.manifest, made.config

    @staticmethod
    def host() -> Image:
        """This machine's own root file system, read-only; containers write to a layer of their own."""
        from pycontainer.host_image import host_image

        return host_image()

    @classmethod
    def scratch(cls, *, store: Store | None = None) -> Image:
        """An image without any file, for this machine's platform. Raises StoreError.

        It has one layer, an empty one: a manifest without layers is none (image-manifest-schema.json).
        """
        from pycontainer.store import assemble

        store = store or Store.default()
        made = assemble.scratch(store)
        return cls(store, made.entry, made)

    @classmethod
    def from_directory(
        cls,
        path: str | os.PathLike[str],
        *,
        config: ConfigLike | None = None,
        tag: str | None = None,
        timeout: float | None = None,
        store: Store | None = None,
    ) -> Image:
        """An image of the files below `path`; the same tree always gives the same image.

        The caller's own user and group become root; other owners keep their numbers. Times are
        those of the files, at most SOURCE_DATE_EPOCH. Sockets are left out. Raises ImageError
        naming a file that cannot be read or changed meanwhile, InvalidOption for `config`,
        InvalidReference for `tag`, StoreError, and Timeout after `timeout` seconds.
        """
        from pycontainer.store import assemble

        name, wanted = complete_name(tag), _config(config)
        store = store or Store.default()
        with in_time.limited(timeout, "from_directory", path):
            made = assemble.from_directory(store, os.fspath(path), wanted, name)
        return cls(store, made.entry, made)

    @classmethod
    def from_tar(
        cls,
        path_or_file: str | os.PathLike[str] | IO[bytes],
        *,
        config: ConfigLike | None = None,
        tag: str | None = None,
        timeout: float | None = None,
        store: Store | None = None,
    ) -> Image:
        """An image of the files in a tar archive, plain or compressed with gzip, zstd, xz or bzip2.

        A file object is read to its end and stays open. Raises InvalidImage and UnsafeLayer for a
        bad archive, ImageError where it cannot be read, and otherwise as `from_directory`. Pipes and
        sockets that `open`, `Popen` or `makefile` made are waited for until `timeout` at most; what
        another object's `read` waits for nobody can break off, so there time is up when it returns.
        """
        from pycontainer.store import assemble

        name, wanted = complete_name(tag), _config(config)
        store = store or Store.default()
        if not isinstance(path_or_file, (str, bytes, os.PathLike)):
            shown = str(getattr(path_or_file, "name", "the archive"))
            with in_time.limited(timeout, "from_tar", shown):
                made = assemble.from_tar(store, path_or_file, shown, wanted, name)
            return cls(store, made.entry, made)
        path = os.fspath(path_or_file)
        with in_time.limited(timeout, "from_tar", path):
            try:
                file = open(path, "rb", buffering=0, opener=in_time.opener)  # noqa: SIM115 - errors of what follows are not ours
            except OSError as error:
                raise ImageError(f"{path}: cannot be read: {os.strerror(error.errno or 0)}") from error
            with file:
                made = assemble.from_tar(store, file, path, wanted, name)
        return cls(store, made.entry, made)

    @classmethod
    def pull(
        cls,
        ref: str,
        *,
        platform: str | Platform | None = None,
        auth: tuple[str, str] | Credential | bool | None = None,
        progress: bool | Report | None = None,
        timeout: float | None = None,
        store: Store | None = None,
    ) -> Image:
        """Pulls `ref` from its registry, unless the store has what the registry has under that name.

        `platform` is "os/architecture[/variant]", by default this machine's. `auth` as for
        `Registry`. `progress` True shows how far it is, None does where stderr is a terminal, and in
        a notebook; a function is called with `Progress` events. `timeout` is seconds for all of
        it; when they are over, everything has ended before `Timeout` is raised. Where it fails, layers that
        came through whole stay for the next pull, or `Store.prune`; nothing else does.

        Raises InvalidReference, UnsupportedPlatform, InvalidImage and UnsafeLayer, RegistryError's
        kinds, StoreError's, and Timeout.
        """
        from pycontainer.transfer.clients import client_for
        from pycontainer.transfer.deadline import ended_after
        from pycontainer.transfer.display import reporting
        from pycontainer.transfer.pull import pull

        reference, wanted = _pullable(ref), wanted_platform(platform)
        store = store or Store.default()
        with (
            ended_after(timeout, "pull", str(reference)) as deadline,
            client_for(reference, auth) as (client, there),
            reporting(progress) as report,
        ):
            made = pull(
                store,
                client,
                reference,
                repository=there,
                platform=wanted,
                report=report,
                deadline=deadline,
            )
        return cls(store, made.entry, made)._pulled(str(reference))

    def _pulled(self, name: str) -> Image:
        emit("pull", self.id, name=name)
        return self

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, timeout: float | None = None, store: Store | None = None
    ) -> builtins.list[Image]:
        """The images in a docker-archive, oci-archive or OCI layout directory, compressed or not, with
        the names that they have there, in its order.

        Raises InvalidImage and UnsafeLayer for a bad archive, ImageError where it cannot be read,
        UnsupportedPlatform, StoreError, and Timeout after `timeout` seconds. An image is there as a whole
        or not at all.
        """
        from pycontainer.archive.load import load

        store = store or Store.default()
        with in_time.limited(timeout, "load", path):
            loaded = load(store, os.fspath(path))
        return [cls(store, made.entry, made) for made in loaded]

    @classmethod
    def get(cls, ref: str, *, store: Store | None = None) -> Image:
        """The local image of that name, ID (at least 12 hex digits of it) or digest; nothing is pulled.

        Raises ImageNotFound, also where several IDs begin so, and InvalidReference.
        """
        if ref == HOST:
            return cls.host()
        store = store or Store.default()
        entry = _find(store, ref)
        if entry is None:
            raise ImageNotFound(f"no image {ref!r} in {store!r}")
        return cls(store, entry)

    @classmethod
    def list(cls, *, store: Store | None = None) -> list[Image]:
        """All images in the store, in the order of their digests. Raises StoreError."""
        store = store or Store.default()
        return [cls(store, entry) for entry in store.catalog.images()]

    @property
    def id(self) -> str:
        """The image's ID: the digest of its config ("host" for the host image)."""
        return self._entry.id

    @property
    def digest(self) -> str | None:
        """The digest of its manifest (None for the host image)."""
        return self._entry.manifest.digest

    @property
    def tags(self) -> builtins.list[str]:
        """Its names in the store now, as short as they can be written, sorted. Raises StoreError."""
        names = self._store.catalog.tags(self._entry.manifest.digest)
        return sorted(Reference.parse(name).familiar() for name in names)

    @functools.cached_property
    def config(self) -> ImageConfig:
        """What to run and how. Raises ImageNotFound where it was removed, InvalidImage and StoreCorrupt."""
        with self._told_if_removed():
            raw = self._store.layout.blobs.read(self._manifest.config.digest, limit=MAX_DOCUMENT)
        return ImageConfig.parse(raw, what=f"config of image {self.id}")

    @functools.cached_property
    def _manifest(self) -> Manifest:
        with self._told_if_removed():
            raw = self._store.layout.blobs.read(self._entry.manifest.digest, limit=MAX_DOCUMENT)
        return Manifest.parse(raw, what=f"manifest of image {self.id}")

    def _told_if_removed(self) -> AbstractContextManager[None]:
        from pycontainer.store.removed import told_if_removed

        return told_if_removed(self._store, self._entry.manifest.digest, self.id)

    @property
    def layers(self) -> tuple[Descriptor, ...]:
        """The descriptors of its layers' blobs, lowest first."""
        return self._manifest.layers

    @property
    def history(self) -> tuple[History, ...]:
        """How it came to be, as far as its config says."""
        return self.config.history

    @property
    def size(self) -> int:
        """Bytes of its config and layers, as they are stored and would be transferred."""
        return self._manifest.config.size + sum(layer.size for layer in self._manifest.layers)

    @property
    def platform(self) -> Platform:
        """The system and CPU that it is made for."""
        return self.config.platform

    @property
    def created(self) -> datetime.datetime | None:
        """When it was made, as far as its config says."""
        text = self.config.created
        return None if text is None else parse_time(text, "created")

    def tag(self, ref: str) -> None:
        """Gives the image the name `ref`, taking it from another one. Raises ImageNotFound where it
        was removed, InvalidReference and StoreError."""
        name = complete_name(ref)
        assert name is not None
        if not self._store.catalog.tag(name, self._entry.manifest.digest):
            raise ImageNotFound(f"image {self.id} was removed")

    def untag(self, ref: str) -> None:
        """Takes the name `ref` away. Raises ImageNotFound where the image does not have it."""
        name = complete_name(ref)
        assert name is not None
        if not self._store.catalog.untag(name, self._entry.manifest.digest):
            raise ImageNotFound(f"image {self.id} has no name {ref!r}")

    def remove(self, force: bool = False) -> None:
        """Removes the image from the store; containers that run from it keep their files until they end.

        Raises ImageError where it has several names, unless `force` is true, and StoreError.
        """
        names = self.tags
        if len(names) > 1 and not force:
            shown = ", ".join(names)
            raise ImageError(f"image {self.id} has several names, which force=True removes: {shown}")
        self._store.catalog.remove(self._entry.manifest.digest)
        with self._lock:
            self._rootfs = None
            if self._lease is not None:
                self._lease.release()
                self._lease = None
        self._store.collect_now()

    def push(
        self,
        ref: str | None = None,
        *,
        auth: tuple[str, str] | Credential | bool | None = None,
        compression: str = "gzip",
        progress: bool | Report | None = None,
        timeout: float | None = None,
    ) -> Descriptor:
        """Pushes the image as `ref`, or under its only name; gives the manifest that the registry has.

        `auth`, `progress` and `timeout` as for `pull`, `compression` and errors as for `Repository.push`.
        Raises ImageError where `ref` is needed.
        """
        from pycontainer.transfer.clients import client_for
        from pycontainer.transfer.deadline import ended_after
        from pycontainer.transfer.display import reporting

        if ref is None:
            names = self.tags
            if len(names) != 1:
                raise ImageError(f"image {self.id} has {len(names)} names: say which one to push, push(ref)")
            ref = names[0]
        name = complete_name(ref)
        assert name is not None
        reference = Reference.parse(name)
        assert reference.tag is not None
        tags = (reference.tag,)
        with (
            ended_after(timeout, "push", name) as deadline,
            client_for(reference, auth, writing=True) as (client, there),
            reporting(progress) as report,
        ):
            return self._push_to(
                client, there, tags, compression=compression, report=report, deadline=deadline
            )

    def _push_to(
        self,
        client: Client,
        repository: str,
        tags: Sequence[str],
        *,
        compression: str,
        report: Report | None,
        deadline: Deadline,
    ) -> Descriptor:
        from pycontainer.transfer.push import push

        with self._told_if_removed():
            pushed = push(
                self._store,
                client,
                self._manifest,
                self.config,
                repository,
                tags,
                compression=compression,
                report=report,
                deadline=deadline,
            )
        emit("push", self.id, name=repository, tags=tuple(tags), digest=str(pushed.digest))
        return pushed

    def save(
        self,
        path: str | os.PathLike[str],
        format: Literal["oci-archive", "docker-archive", "oci"] = "oci-archive",
        *,
        timeout: float | None = None,
    ) -> None:
        """Writes the image with its names to a file, or with `format="oci"` to an OCI layout directory
        (a new one, or one to which it is added). The same image gives the same bytes.

        Raises InvalidOption, ImageError where it cannot be written, ImageNotFound where the image was
        removed, NoSpace, StoreCorrupt, and Timeout after `timeout` seconds; an existing file is replaced
        when the new one is complete.
        """
        from pycontainer.archive.save import save

        with in_time.limited(timeout, "save", path), self._told_if_removed():
            names = self._store.catalog.tags(self._entry.manifest.digest)
            save(self._store, self._manifest, self.config, names, os.fspath(path), format)

    def export(self, path: str | os.PathLike[str], *, timeout: float | None = None) -> None:
        """Writes the files that a container would see as one flat tar archive, without the config.

        Raises ImageError where it cannot be written, NoSpace, what unpacking raises, and Timeout after
        `timeout` seconds; what was at `path` before is there then.
        """
        from pycontainer.archive.export import export

        with in_time.limited(timeout, "export", path):
            root = self.rootfs()
            assert isinstance(root, LayeredRoot)
            export(root, os.fspath(path))

    def mount(self, *, timeout: float | None = None) -> AbstractContextManager[Path]:
        """Shows the files that a container would see below a directory, read-only, as long as the
        context lasts.

        As root it is a mount; for an ordinary user, whom the kernel lets mount nothing, the path leads
        through another process. Raises LaunchError, what unpacking raises, and Timeout where that takes
        longer than `timeout` seconds.
        """
        from pycontainer.snapshot.mounted import mount

        with in_time.limited(timeout, "mount", self):
            root = self.rootfs()
        assert isinstance(root, LayeredRoot)
        return mount(self._store, root)

    def configure(self, **changes: Any) -> Image:
        """A new image, without a name, of the same files with another config.

        Takes the fields of `ImageConfig` that describe execution (`env, cmd, entrypoint, user, cwd,
        labels, ports, volumes, stop_signal, healthcheck, author, created`). `env` and `labels` are
        added to what is there; None as a value removes. Raises InvalidOption naming a bad one.
        """
        from pycontainer.store import assemble

        config = changed(self.config, changes)
        made = assemble.reconfigured(self._store, self._manifest, config, None)
        return Image(self._store, made.entry, made)

    def rootfs(self) -> RootFS:
        """What a container's root is made of; unpacked first where that was not done yet.

        Raises what unpacking raises, ImageNotFound where the image was removed, StoreCorrupt where content
        is damaged.
        """
        # Read without the lock: every start comes through here.
        found = self._rootfs
        if found is None:
            with in_time.locked(self._lock):
                found = self._rootfs = self._rootfs or self._unpack()
        return found

    def _unpack(self) -> RootFS:
        from pycontainer.layer.unpacked import chain_ids
        from pycontainer.store import assemble

        with self._told_if_removed():
            lease = assemble.unpack(self._store, self._manifest, self.config)
        chains = chain_ids(self.config.diff_ids)
        lower = self._store.layers.stack(chains[-1]) if chains else ()
        if self._lease is not None:
            self._lease.release()
            self._lease = None
        return LayeredRoot(lower or (self._store.empty_tree(),), self._store, lease)

    def run(self, args: Any = None, **options: Any) -> Completed:
        """Runs a program in a new container and waits for it; see `pycontainer.run`."""
        from pycontainer.runner import run

        return run(self, args, **options)

    def create(self, args: Any = None, **options: Any) -> Container:
        """Makes a container without starting it; see `pycontainer.create`."""
        from pycontainer.runner import create

        return create(self, args, **options)

    def start(self, args: Any = None, **options: Any) -> Container:
        """Starts a program in a new container; see `pycontainer.start`."""
        from pycontainer.runner import start

        return start(self, args, **options)

    def __repr__(self) -> str:
        return f"<Image {self.id[:19]} {self._entry.manifest.digest[:19]}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Image):
            return NotImplemented
        return (self.id, self.digest) == (other.id, other.digest)

    def __hash__(self) -> int:
        return hash((self.id, self.digest))


def _find(store: Store, ref: str) -> Entry | None:
    """A name wins over an ID that looks like one."""
    catalog = store.catalog
    is_id = isinstance(ref, str) and _ID.fullmatch(ref) is not None
    try:
        reference = Reference.complete(ref)
    except InvalidReference:
        if not is_id:
            raise
    else:
        if reference.digest is not None:
            return catalog.by_manifest(reference.digest)
        entry = catalog.by_tag(str(reference))
        if entry is not None or not is_id:
            return entry
    found = catalog.by_id("sha256:" + ref.removeprefix("sha256:"))
    if not found and Digest.is_valid(ref):
        return catalog.by_manifest(Digest(ref))
    if len({entry.id for entry in found}) > 1:
        raise ImageNotFound(f"{ref!r} is the beginning of several image IDs in {store!r}")
    return found[0] if found else None


def is_whole_id(ref: str) -> bool:
    """Whether `ref` can only be an ID: hex digits alone may be a repository's name, if they are fewer."""
    return _WHOLE_ID.fullmatch(ref) is not None


def complete_name(ref: str | None) -> str | None:
    """A name to be given, written out; InvalidReference where it cannot be one."""
    if ref is None:
        return None
    if ref == HOST:
        raise InvalidReference("'host' always means this machine's own root file system")
    reference = Reference.complete(ref)
    if reference.digest is not None:
        raise InvalidReference(f"{ref!r}: a name that is given to an image has no digest")
    return str(reference)


def wanted_platform(platform: str | Platform | None) -> Platform | None:
    """The platform to pull for, None for this machine's. Raises InvalidOption."""
    return platform if platform is None or isinstance(platform, Platform) else Platform.parse(platform)


def _pullable(ref: str) -> Reference:
    """What to pull; InvalidReference where it can be no image of a registry."""
    if ref == HOST:
        raise InvalidReference("'host' is this machine's own root file system, in no registry")
    return Reference.complete(ref)


def pull(
    ref: str,
    *,
    platform: str | Platform | None = None,
    auth: tuple[str, str] | Credential | bool | None = None,
    progress: bool | Report | None = None,
    timeout: float | None = None,
    store: Store | None = None,
) -> Image:
    """Pulls an image; see `Image.pull`."""
    return Image.pull(ref, platform=platform, auth=auth, progress=progress, timeout=timeout, store=store)


def _config(config: ConfigLike | None) -> ImageConfig:
    try:
        return ImageConfig.of(_with_healthcheck(config) if isinstance(config, Mapping) else config)
    except InvalidImage as error:
        raise InvalidOption(str(error)) from None


def changed(config: ImageConfig, changes: Mapping[str, Any], step: History | None = None) -> ImageConfig:
    """The config with changes as `Image.configure` takes them, and the step that they are in its history.
    Raises InvalidOption."""
    try:
        values = check_changes(_merged(config, changes), what="configure" if step is None else "commit")
    except InvalidImage as error:
        raise InvalidOption(str(error)) from None
    step = step or History(created=config.created, created_by="pycontainer: configure", empty_layer=True)
    return attrs.evolve(config, **values, history=(*config.history, step))


def _merged(config: ImageConfig, changes: Mapping[str, Any]) -> dict[str, Any]:
    """`changes` with env and labels added to what the config has; a value of None removes a name."""
    merged = dict(changes)
    for key in ("env", "labels"):
        added = changes.get(key)
        if isinstance(added, Mapping):
            both = {**getattr(config, key), **added}
            merged[key] = {name: value for name, value in both.items() if value is not None}
    return _with_healthcheck(merged)


def _with_healthcheck(config: Mapping[str, Any]) -> dict[str, Any]:
    """A healthcheck as the option takes it becomes what an image's config says. Raises InvalidOption."""
    from pycontainer.healthcheck import for_image

    return {key: for_image(value) if key == "healthcheck" else value for key, value in config.items()}
