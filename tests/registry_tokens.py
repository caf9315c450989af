"""The token service of the fault registry (distribution-spec's companion, "Token Authentication")."""

from __future__ import annotations

import base64
import json
import secrets
import ssl
import time
import urllib.parse
from collections.abc import Mapping

import attrs

from registry_faults import error_body
from scripted_http import Reply, Request, Service


def basic_user(header: str | None, users: Mapping[str, str]) -> str | None:
    """The user whom a Basic Authorization names rightly; "" where there is none, None where it is wrong."""
    if header is None:
        return ""
    kind, _, value = header.partition(" ")
    try:
        name, colon, password = base64.b64decode(value, validate=True).decode().partition(":")
    except ValueError:
        return None
    right = kind.lower() == "basic" and colon and users.get(name) == password
    return name if right else None


@attrs.define
class Grant:
    """What one token allows, and until when."""

    user: str
    actions: dict[str, set[str]]
    """"repository:NAME" or "registry:catalog" -> actions."""
    until: float


@attrs.define
class Access:
    """Who may do what. `public` repositories are for anybody to pull; a user may do all unless listed."""

    users: dict[str, str] = attrs.field(factory=lambda: {"user": "secret"})
    public: set[str] = attrs.field(factory=set)
    only: dict[str, set[str]] = attrs.field(factory=dict)
    """User -> the repositories that he may use; users who are not named may use all."""

    def allowed(self, user: str, resource: str, action: str) -> bool:
        kind, _, name = resource.partition(":")
        if not user:
            return kind == "repository" and name in self.public and action == "pull"
        return kind == "registry" or user not in self.only or name in self.only[user]


class TokenService(Service):
    """Gives tokens at `/token`, by GET (basic) and by POST (OAuth 2: password and refresh tokens).

    `life` is how long a token is good for, `said` what `expires_in` says of it (None: nothing), in
    seconds. `refresh_tokens` maps identity tokens to users. `wide` gives tokens for more than was asked.
    """

    def __init__(self, access: Access, *, service: str, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(tls=tls)
        self.access, self.service = access, service
        self.life: float = 300
        self.said: int | None = 300
        self.post = True
        self.field = "token"
        """Where the token stands: "token", "access_token", or "both"."""
        self.refresh_tokens: dict[str, str] = {}
        self.grants: dict[str, Grant] = {}

    @property
    def realm(self) -> str:
        return f"{self.url}/token"

    def fetches(self) -> int:
        """How many tokens were asked for."""
        return self.count("GET|POST", "^/token$")

    def answer(self, request: Request) -> Reply:
        if request.path != "/token" or request.method not in ("GET", "POST"):
            return Reply(404, body=b"no such page")
        if request.method == "POST":
            if not self.post:
                return Reply(405, body=error_body("UNSUPPORTED"))
            return self._post(
                dict(urllib.parse.parse_qsl(request.body.read().decode(), keep_blank_values=True))
            )
        user = basic_user(request.authorization, self.access.users)
        if user is None:
            return self._refused()
        scopes = [value for name, value in request.query_list if name == "scope"]
        offline = request.query.get("offline_token") == "true"
        return self._token(user, request.query.get("service", ""), scopes, offline=offline)

    def _post(self, form: dict[str, str]) -> Reply:
        if form.get("grant_type") == "refresh_token":
            user = self.refresh_tokens.get(form.get("refresh_token", ""))
        elif form.get("grant_type") == "password":
            name = form.get("username", "")
            user = name if name and self.access.users.get(name) == form.get("password") else None
        else:
            return Reply(400, body=error_body("UNSUPPORTED"))
        if user is None or not form.get("client_id"):
            return self._refused()
        scopes = form.get("scope", "").split()
        return self._token(
            user, form.get("service", ""), scopes, offline=form.get("access_type") == "offline"
        )

    def _refused(self) -> Reply:
        headers = {"Content-Type": "application/json", "WWW-Authenticate": 'Basic realm="tokens"'}
        return Reply(401, dict(headers), error_body("UNAUTHORIZED", "wrong credentials"))

    def _token(self, user: str, service: str, scopes: list[str], *, offline: bool) -> Reply:
        if service != self.service:
            return Reply(400, body=error_body("DENIED", f"no such service: {service}"))
        actions: dict[str, set[str]] = {}
        for scope in scopes:
            resource, _, wanted = scope.rpartition(":")
            granted = {word for word in wanted.split(",") if self.access.allowed(user, resource, word)}
            actions.setdefault(resource, set()).update(granted)
        token = secrets.token_urlsafe(24)
        self.grants[token] = Grant(user, actions, time.monotonic() + self.life)
        names = ("token", "access_token") if self.field == "both" else (self.field,)
        document: dict[str, object] = dict.fromkeys(names, token)
        document["issued_at"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        if self.said is not None:
            document["expires_in"] = self.said
        if offline and user:
            document["refresh_token"] = secrets.token_urlsafe(24)
            self.refresh_tokens[str(document["refresh_token"])] = user
        return Reply(200, {"Content-Type": "application/json"}, json.dumps(document).encode())

    def grant(self, header: str | None) -> Grant | None:
        """What the token in an Authorization header allows now; None where it is none of ours or over."""
        kind, _, token = (header or "").partition(" ")
        found = self.grants.get(token) if kind.lower() == "bearer" else None
        return found if found is not None and found.until > time.monotonic() else None
