"""A registry in memory (distribution-spec 1.1) that does whatever a test tells it to do wrong.

    with FaultRegistry() as registry:
        registry.put_image("team/app", "1", layers=[tar])
        registry.fault(Truncate(1000), method="GET", path="/blobs/", times=2)
        ...                             # pull f"{registry.host}/team/app:1"
        assert registry.bytes_sent("GET", "/blobs/") <= 1.1 * size

The faults are in registry_faults.py, the server below in scripted_http.py, token service in
registry_tokens.py, makers of images in images_made.py.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import secrets
import ssl
import threading
import urllib.parse
from collections.abc import Sequence
from typing import Any

import attrs

import images_made
from registry_faults import error_body
from registry_tokens import Access, TokenService, basic_user
from scripted_http import Reply, Request, Service

NAME = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*"
TAG = r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}"
DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
MAX_MANIFEST = 4 << 20


class Refused(Exception):
    """A request that is answered with an error of the distribution specification."""

    def __init__(self, status: int, code: str, message: str = "", **headers: str) -> None:
        body = error_body(code, message or code.replace("_", " ").lower())
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.reply = Reply(status, {"Content-Type": "application/json", **named}, body)


@attrs.define
class Stored:
    """A manifest or index. `digest` is what it is called, which a hostile registry need not compute."""

    raw: bytes
    media_type: str
    digest: str


@attrs.define
class Upload:
    """An upload under way; `state` must be in every request to it, as its last Location has it."""

    data: bytearray = attrs.field(factory=bytearray)
    state: str = attrs.field(factory=lambda: secrets.token_hex(8))
    lock: threading.Lock = attrs.field(factory=threading.Lock)


@attrs.define
class Repository:
    """Everything of one name."""

    blobs: dict[str, bytes] = attrs.field(factory=dict)
    manifests: dict[str, Stored] = attrs.field(factory=dict)
    tags: dict[str, str] = attrs.field(factory=dict)
    uploads: dict[str, Upload] = attrs.field(factory=dict)


def digest_of(data: bytes | bytearray, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


class FaultRegistry(Service):
    """The registry. What may differ between true registries is an attribute:

    `deletes`, `mounts`, `single_post` (POST with ?digest=), `chunks` (PATCH), `referrers_api`,
    `catalog`: whether it can; `relative_locations`; `page`: most entries of a list at once;
    `min_chunk`: said as OCI-Chunk-Min-Length, and a smaller PATCH refused;
    `rolling_state`: only the newest Location of an upload is known, as with docker-registry;
    `checks_references`: manifests are refused while their blobs are missing.
    """

    def __init__(
        self, *, auth: str | None = None, access: Access | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        """`auth` is None (open to all), "basic" or "bearer"; `access` says who may do what."""
        super().__init__(tls=tls)
        if auth not in (None, "basic", "bearer"):
            raise ValueError(f"auth: {auth}")
        self.auth = auth
        self.access = access or Access()
        self.tokens = TokenService(self.access, service="fault-registry", tls=tls)
        self.repositories: dict[str, Repository] = {}
        self.deletes = self.mounts = self.single_post = self.chunks = self.referrers_api = self.catalog = True
        self.relative_locations = False
        self.rolling_state = False
        self.checks_references = True
        self.page: int | None = None
        self.min_chunk = 0
        self._ids = itertools.count(1)
        self._change = threading.RLock()

    def __enter__(self) -> FaultRegistry:
        super().__enter__()
        if self.auth == "bearer":
            self.tokens.__enter__()
        return self

    def close(self) -> None:
        super().close()
        self.tokens.close()
        self._failures.extend(self.tokens._failures)

    # Filling

    def repository(self, name: str) -> Repository:
        """The repository, made where there is none."""
        with self._change:
            return self.repositories.setdefault(name, Repository())

    def put_blob(
        self, repository: str, data: bytes, *, algorithm: str = "sha256", digest: str | None = None
    ) -> str:
        """Stores a blob; under `digest`, true or not, where that is given. Returns its digest."""
        named = digest or digest_of(data, algorithm)
        self.repository(repository).blobs[named] = data
        return named

    def put_manifest(
        self,
        repository: str,
        reference: str | None,
        raw: bytes,
        media_type: str,
        *,
        algorithm: str = "sha256",
        digest: str | None = None,
    ) -> str:
        """Stores any bytes as a manifest, unchecked; under `digest`, true or not, and under a tag."""
        named = digest or digest_of(raw, algorithm)
        kept = self.repository(repository)
        kept.manifests[named] = Stored(raw, media_type, named)
        if reference is not None:
            kept.tags[reference] = named
        return named

    def put(self, repository: str, tag: str | None, image: images_made.Image | images_made.Index) -> str:
        """Stores an image or index of images_made with all its parts; returns its digest."""
        for part in image.images if isinstance(image, images_made.Index) else ():
            self.put(repository, None, part)
        for digest, data in image.blobs.items():
            self.put_blob(repository, data, digest=digest)
        return self.put_manifest(repository, tag, image.raw, image.media_type, digest=image.digest)

    def put_image(
        self, repository: str, tag: str | None, layers: Sequence[bytes], **options: Any
    ) -> images_made.Image:
        """Makes an image of these tar archives (options: see `images_made.Image.make`) and stores it."""
        image = images_made.Image.make(layers, **options)
        self.put(repository, tag, image)
        return image

    def put_index(
        self,
        repository: str,
        tag: str | None,
        images: Sequence[images_made.Image | images_made.Index],
        **options: Any,
    ) -> images_made.Index:
        """Makes an index of these images (options: see `images_made.Index.make`) and stores all."""
        index = images_made.Index.make(images, **options)
        self.put(repository, tag, index)
        return index

    def expire_tokens(self) -> None:
        """No token that was given so far is good any more."""
        self.tokens.grants.clear()

    # Answering

    def answer(self, request: Request) -> Reply:
        try:
            reply = self._route(request)
        except Refused as refused:
            request.body.drain()
            reply = refused.reply
        reply.headers.setdefault("Docker-Distribution-API-Version", "registry/2.0")
        return reply

    def _route(self, request: Request) -> Reply:
        path = request.path
        if path in ("/v2", "/v2/"):
            self._allow(request, "", "")
            return Reply(200, {"Content-Type": "application/json"}, b"{}")
        if path == "/v2/_catalog":
            self._allow(request, "registry:catalog", "*")
            return self._catalog(request)
        for pattern, handle in (
            (rf"/v2/({NAME})/manifests/([^/]+)", self._manifest),
            (rf"/v2/({NAME})/blobs/uploads/?()", self._start_upload),
            (rf"/v2/({NAME})/blobs/uploads/([^/]+)", self._upload),
            (rf"/v2/({NAME})/blobs/([^/]+)", self._blob),
            (rf"/v2/({NAME})/tags/list()", self._tags),
            (rf"/v2/({NAME})/referrers/([^/]+)", self._referrers),
        ):
            form = re.fullmatch(pattern, path)
            if form is not None:
                reads = request.method in ("GET", "HEAD") and "/uploads/" not in path
                action = "pull" if reads else "delete" if request.method == "DELETE" else "push"
                if "/uploads/" in path:
                    action = "push"
                self._allow(request, f"repository:{form[1]}", action)
                return handle(request, form[1], form[2])
        raise Refused(404, "NAME_UNKNOWN" if path.startswith("/v2/") else "NOT_FOUND")

    def _allow(self, request: Request, resource: str, action: str) -> None:
        """Refused where this request may not do this; no resource: where it is not authenticated at all."""
        if self.auth is None:
            return
        if self.auth == "basic":
            user = basic_user(request.authorization, self.access.users)
            if user and (not resource or self.access.allowed(user, resource, action)):
                return
            if user and resource:
                raise Refused(403, "DENIED")
            if user == "" and resource and self.access.allowed("", resource, action):
                return
            raise Refused(401, "UNAUTHORIZED", WWW_Authenticate='Basic realm="fault-registry"')
        grant = self.tokens.grant(request.authorization)
        if grant is not None and (not resource or action in grant.actions.get(resource, ())):
            return
        wanted = "pull,push" if action == "push" else action
        challenge = f'Bearer realm="{self.tokens.realm}",service="{self.tokens.service}"'
        if resource:
            challenge += f',scope="{resource}:{wanted}"'
        if request.authorization is not None:
            challenge += f',error="{"insufficient_scope" if grant else "invalid_token"}"'
        raise Refused(401, "UNAUTHORIZED", WWW_Authenticate=challenge)

    def _known(self, name: str) -> Repository:
        repository = self.repositories.get(name)
        if repository is None:
            raise Refused(404, "NAME_UNKNOWN", f"repository {name} is not known")
        return repository

    # Manifests

    def _manifest(self, request: Request, name: str, reference: str) -> Reply:
        if not re.fullmatch(TAG, reference) and not DIGEST.fullmatch(reference):
            raise Refused(400, "DIGEST_INVALID" if ":" in reference else "TAG_INVALID")
        if request.method == "PUT":
            return self._put_manifest(request, name, reference)
        repository = self._known(name)
        stored = repository.manifests.get(repository.tags.get(reference, reference))
        if stored is None:
            raise Refused(404, "MANIFEST_UNKNOWN", f"manifest {reference} is not known")
        if request.method == "DELETE":
            return self._delete_manifest(repository, reference)
        if request.method not in ("GET", "HEAD"):
            raise Refused(405, "UNSUPPORTED")
        headers = {"Content-Type": stored.media_type, "Docker-Content-Digest": stored.digest}
        return Reply(200, {**headers, "Etag": f'"{stored.digest}"'}, stored.raw)

    def _put_manifest(self, request: Request, name: str, reference: str) -> Reply:
        if int(request.headers.get("content-length", 0)) > MAX_MANIFEST:
            raise Refused(413, "SIZE_INVALID")
        raw = request.body.read()
        media_type = request.headers.get("content-type", "")
        try:
            document = json.loads(raw)
            if document.get("mediaType", media_type) != media_type:
                raise Refused(400, "MANIFEST_INVALID", "Content-Type and mediaType differ")
        except (ValueError, AttributeError):
            raise Refused(400, "MANIFEST_INVALID", "no JSON object") from None
        algorithm = reference.partition(":")[0] if ":" in reference else "sha256"
        digest = digest_of(raw, algorithm)
        if ":" in reference and digest != reference:
            raise Refused(400, "DIGEST_INVALID", f"the manifest has {digest}")
        with self._change:
            repository = self.repository(name)
            if self.checks_references:
                self._check_references(repository, document)
            tag = None if ":" in reference else reference
            self.put_manifest(name, tag, raw, media_type, digest=digest)
        headers: dict[str, Any] = {
            "Location": self._place(f"/v2/{name}/manifests/{digest}"),
            "Docker-Content-Digest": digest,
        }
        if document.get("subject") and self.referrers_api:
            headers["OCI-Subject"] = document["subject"]["digest"]
        return Reply(201, headers)

    def _check_references(self, repository: Repository, document: dict[str, Any]) -> None:
        for part in [document.get("config"), *document.get("layers", ())]:
            if part and not part.get("urls") and part["digest"] not in repository.blobs:
                raise Refused(404, "MANIFEST_BLOB_UNKNOWN", f"blob {part['digest']} is not known")
        for part in document.get("manifests", ()):
            if part["digest"] not in repository.manifests:
                raise Refused(404, "MANIFEST_BLOB_UNKNOWN", f"manifest {part['digest']} is not known")

    def _delete_manifest(self, repository: Repository, reference: str) -> Reply:
        if not self.deletes:
            raise Refused(405, "UNSUPPORTED")
        with self._change:
            if ":" not in reference:
                del repository.tags[reference]
            else:
                del repository.manifests[reference]
                for tag in [tag for tag, digest in repository.tags.items() if digest == reference]:
                    del repository.tags[tag]
        return Reply(202)

    # Blobs

    def _blob(self, request: Request, name: str, digest: str) -> Reply:
        if not DIGEST.fullmatch(digest):
            raise Refused(400, "DIGEST_INVALID")
        repository = self._known(name)
        data = repository.blobs.get(digest)
        if data is None:
            raise Refused(404, "BLOB_UNKNOWN", f"blob {digest} is not known")
        if request.method == "DELETE":
            if not self.deletes:
                raise Refused(405, "UNSUPPORTED")
            del repository.blobs[digest]
            return Reply(202)
        if request.method not in ("GET", "HEAD"):
            raise Refused(405, "UNSUPPORTED")
        return ranged(request, data, {"Docker-Content-Digest": digest})

    # Uploads

    def _start_upload(self, request: Request, name: str, _: str) -> Reply:
        if request.method != "POST":
            raise Refused(405, "UNSUPPORTED")
        query = request.query
        repository = self.repository(name)
        if "mount" in query and self.mounts:
            found = self._mountable(request, query["mount"], query.get("from"))
            if found is not None:
                repository.blobs[query["mount"]] = found
                return self._created(name, query["mount"])
        if "digest" in query and self.single_post:
            data = request.body.read()
            self._check_digest(data, query["digest"])
            repository.blobs[query["digest"]] = data
            return self._created(name, query["digest"])
        number = f"{next(self._ids):04d}-{secrets.token_hex(4)}"
        upload = repository.uploads[number] = Upload()
        headers = {"OCI-Chunk-Min-Length": str(self.min_chunk)} if self.min_chunk else {}
        return self._progress(202, name, number, upload, headers)

    def _mountable(self, request: Request, digest: str, source: str | None) -> bytes | None:
        if source is None or source not in self.repositories:
            return None
        if self.auth is not None:
            try:
                self._allow(request, f"repository:{source}", "pull")
            except Refused:
                return None
        return self.repositories[source].blobs.get(digest)

    def _upload(self, request: Request, name: str, number: str) -> Reply:
        upload = self._known(name).uploads.get(number)
        if upload is None:
            raise Refused(404, "BLOB_UPLOAD_UNKNOWN")
        if request.query.get("_state") != self._state(upload):
            raise Refused(404, "BLOB_UPLOAD_INVALID", "the Location that was given is another")
        if request.method == "GET":
            return self._progress(204, name, number, upload)
        if request.method == "DELETE":
            del self._known(name).uploads[number]
            return Reply(204)
        if request.method not in ("PATCH", "PUT"):
            raise Refused(405, "UNSUPPORTED")
        if request.method == "PATCH" and not self.chunks:
            raise Refused(405, "UNSUPPORTED")
        with upload.lock:
            self._receive(request, name, number, upload)
            if request.method == "PATCH":
                if 0 < request.received < self.min_chunk:
                    raise Refused(400, "SIZE_INVALID", "the chunk is too small")
                return self._progress(202, name, number, upload)
            return self._finish(request, name, number, upload)

    def _receive(
        self, request: Request, name: str, number: str, upload: Upload, limit: int | None = None
    ) -> None:
        """Appends the request's body; what has arrived is kept when the connection breaks."""
        said = re.fullmatch(r"(?:bytes[ =])?(\d+)-(\d+)(?:/.*)?", request.headers.get("content-range", ""))
        if "content-range" in request.headers and (said is None or int(said[1]) != len(upload.data)):
            raise Refused(
                416,
                "BLOB_UPLOAD_INVALID",
                f"{len(upload.data)} bytes are here",
                **{"Location": self._upload_place(name, number, upload), "Range": _range(upload)},
            )
        for piece in request.body.pieces(limit):
            upload.data += piece

    def _finish(self, request: Request, name: str, number: str, upload: Upload) -> Reply:
        digest = request.query.get("digest", "")
        repository = self._known(name)
        try:
            self._check_digest(upload.data, digest)
        finally:
            del repository.uploads[number]
        repository.blobs[digest] = bytes(upload.data)
        return self._created(name, digest)

    def _check_digest(self, data: bytes | bytearray, digest: str) -> None:
        if not DIGEST.fullmatch(digest) or digest_of(data, digest.partition(":")[0]) != digest:
            raise Refused(400, "DIGEST_INVALID", f"what was sent is not {digest}")

    def keep_part(self, request: Request, count: int) -> None:
        """Takes `count` bytes of an upload's body, as a registry does whose client then goes away."""
        form = re.fullmatch(rf"/v2/({NAME})/blobs/uploads/([^/]+)", request.path)
        if form is not None and (upload := self._known(form[1]).uploads.get(form[2])) is not None:
            with upload.lock:
                self._receive(request, form[1], form[2], upload, count)

    def _place(self, path: str) -> str:
        return path if self.relative_locations else self.url + path

    def _upload_place(self, name: str, number: str, upload: Upload) -> str:
        return self._place(f"/v2/{name}/blobs/uploads/{number}?_state={self._state(upload)}")

    def _state(self, upload: Upload) -> str:
        return upload.state + (f".{len(upload.data)}" if self.rolling_state else "")

    def _progress(
        self, status: int, name: str, number: str, upload: Upload, more: dict[str, str] | None = None
    ) -> Reply:
        place = self._upload_place(name, number, upload)
        return Reply(
            status, {"Location": place, "Range": _range(upload), "Docker-Upload-UUID": number, **(more or {})}
        )

    def _created(self, name: str, digest: str) -> Reply:
        return Reply(
            201, {"Location": self._place(f"/v2/{name}/blobs/{digest}"), "Docker-Content-Digest": digest}
        )

    # Lists

    def _catalog(self, request: Request) -> Reply:
        if not self.catalog:
            raise Refused(404, "UNSUPPORTED")
        names, headers = self._page(request, sorted(self.repositories))
        return _json({"repositories": names}, headers)

    def _tags(self, request: Request, name: str, _: str) -> Reply:
        tags, headers = self._page(request, sorted(self._known(name).tags))
        return _json({"name": name, "tags": tags}, headers)

    def _page(self, request: Request, names: list[str]) -> tuple[list[str], dict[str, str]]:
        """The part of a sorted list that `n` and `last` ask for, and the Link to the next one."""
        asked = request.query.get("n", "")
        if asked and not asked.isdecimal():
            raise Refused(400, "PAGINATION_NUMBER_INVALID")
        names = [name for name in names if name > request.query.get("last", "")]
        count = min(int(asked) if asked else len(names), self.page or len(names))
        part = names[:count]
        if len(part) == len(names) or not part:
            return part, {}
        query = urllib.parse.urlencode({"last": part[-1], "n": count})
        return part, {"Link": f'<{self._place(request.path)}?{query}>; rel="next"'}

    def _referrers(self, request: Request, name: str, digest: str) -> Reply:
        if not self.referrers_api:
            raise Refused(404, "NOT_FOUND")
        if not DIGEST.fullmatch(digest):
            raise Refused(400, "DIGEST_INVALID")
        repository = self.repositories.get(name, Repository())
        found = [entry for stored in repository.manifests.values() if (entry := _referrer(stored, digest))]
        headers: dict[str, str] = {}
        wanted = request.query.get("artifactType")
        if wanted:
            found = [entry for entry in found if entry["artifactType"] == wanted]
            headers["OCI-Filters-Applied"] = "artifactType"
        if self.page is not None:
            by_digest = {entry["digest"]: entry for entry in found}
            part, more = self._page(request, sorted(by_digest))
            found, headers = [by_digest[each] for each in part], {**headers, **more}
        document = {"schemaVersion": 2, "mediaType": images_made.OCI_INDEX, "manifests": found}
        return _json(document, {**headers, "Content-Type": images_made.OCI_INDEX})


def _range(upload: Upload) -> str:
    # Nothing and one byte look the same, as with the registries in use.
    return f"0-{max(0, len(upload.data) - 1)}"


def _json(document: Any, headers: dict[str, str]) -> Reply:
    return Reply(200, {"Content-Type": "application/json", **headers}, json.dumps(document).encode())


def _referrer(stored: Stored, digest: str) -> dict[str, Any] | None:
    """The descriptor of a manifest that says `digest` is its subject."""
    try:
        document = json.loads(stored.raw)
        if document["subject"]["digest"] != digest:
            return None
    except (ValueError, KeyError, TypeError):
        return None
    kind = document.get("artifactType") or document.get("config", {}).get("mediaType", "")
    entry = {
        "mediaType": stored.media_type,
        "digest": stored.digest,
        "size": len(stored.raw),
        "artifactType": kind,
    }
    if document.get("annotations"):
        entry["annotations"] = document["annotations"]
    return entry


def ranged(request: Request, data: bytes, headers: dict[str, str]) -> Reply:
    """The bytes that Range asks for, as RFC 9110 has it; several ranges at once are answered with all."""
    known = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", **headers}
    form = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", ""))
    if form is None or form[0] == "bytes=-" or request.method == "HEAD":
        return Reply(200, dict(known), data)
    size = len(data)
    start = int(form[1]) if form[1] else max(0, size - int(form[2]))
    end = min(int(form[2]) + 1 if form[1] and form[2] else size, size)
    if start >= size or start >= end:
        return Reply(416, {"Content-Range": f"bytes */{size}"})
    said = f"bytes {start}-{end - 1}/{size}"
    return Reply(206, {**known, "Content-Range": said}, memoryview(data)[start:end])


class Storage(Service):
    """Another host that registries redirect to: bytes by path; a request with credentials is refused."""

    def __init__(self, files: dict[str, bytes] | None = None, *, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(tls=tls)
        self.files = files or {}

    def answer(self, request: Request) -> Reply:
        if request.authorization is not None:
            return Reply(400, body=b"only one way to authenticate is allowed")
        data = self.files.get(request.path)
        return Reply(404, body=b"nothing here") if data is None else ranged(request, data, {})
