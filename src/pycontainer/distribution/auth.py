"""One registry's authentication: which Authorization a request carries (distribution-spec, RFC 9110 11)."""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Callable, Sequence

import attrs

from pycontainer.distribution.challenge import Challenge, parse
from pycontainer.distribution.credentials import Credential
from pycontainer.distribution.failures import Closed
from pycontainer.distribution.realm import Realm
from pycontainer.distribution.scopes import widened
from pycontainer.distribution.tokens import Fetch, Token, basic, fetch_token
from pycontainer.errors import RegistryError

# A thread that waits for another one's token notices that often that nobody wants it any more.
_SLICE = 0.05

MAX_TOKENS = 512
"""Scopes whose tokens are kept: those used last."""


class Auth:
    """What to send to one registry with one credential (None: anonymously). Safe from several threads.

    `trusted(host)` says whether plain HTTP to `host` ("name" or "name:port", lower case, without
    port 80) may carry credentials: loopback, or this very registry where it is used insecurely. `check`
    is called while another thread fetches a token; what it raises ends the wait.
    Call `answer` for the registry's own 401 only, never for one from where a redirect has led.
    """

    def __init__(
        self,
        registry: str,
        credential: Credential | None,
        fetch: Fetch,
        *,
        trusted: Callable[[str], bool],
        check: Callable[[], None],
    ) -> None:
        self.registry = registry
        self._credential = credential
        self._fetch = fetch
        self._trusted = trusted
        self._check = check
        self._basic = self._given = None
        if credential is not None:
            self._basic = basic(credential)
            self._given = f"Bearer {credential.registry_token}" if credential.registry_token else None
        self._state = _State()

    def through(self, fetch: Fetch, *, trusted: Callable[[str], bool], check: Callable[[], None]) -> Auth:
        """The same with the same tokens, for a client with connections of its own."""
        other = copy.copy(self)
        other._fetch, other._trusted, other._check = fetch, trusted, check
        return other

    def header(self, scope: str) -> str | None:
        """The Authorization to send at once, None where none is known yet; nothing is fetched.

        `scope` is one or several of "repository:team/app:pull,push", separated by spaces; may be empty.
        """
        if self._given is not None:
            return self._given
        state = self._current()
        slot = state.slots.get(scope)
        token = None if slot is None else slot.token
        if token is not None and token.usable():
            return token.header
        return self._basic if state.basic else None

    def answer(self, challenges: Sequence[str], scope: str, sent: str | None = None) -> str | None:
        """After a 401 with these WWW-Authenticate values: what to send next, None where nothing is left.

        `sent` is the Authorization that the refused request carried: a cached value is given again only
        where it is another one, so callers must hand it over. Raises AuthError (a malformed challenge, a
        realm that must not see the credentials, a token server's refusal), RateLimited, TransportError.
        """
        if self._given is not None:
            return None if sent == self._given else self._given
        offered = {challenge.scheme: challenge for challenge in reversed(parse(challenges))}
        # A token tells less than a password, so it is tried first.
        if "bearer" in offered:
            token = self._bearer(offered["bearer"], scope, sent)
            if token is not None:
                return token.header
        if "basic" not in offered or self._basic is None or self._basic == sent:
            return None
        self._current().basic = True
        return self._basic

    def _bearer(self, challenge: Challenge, scope: str, sent: str | None) -> Token | None:
        """A token other than the one that was sent; one thread fetches it, the others wait for it."""
        realm = Realm.parse(challenge.parameters, self.registry, self._trusted)
        asked = widened(scope, challenge.parameters.get("scope", ""))
        state = self._current()
        slot = state.slot(asked)
        before = slot.failure
        claim = object()
        try:
            slot.claim(claim, self._check)
            token = slot.token
            refused = token is not None and token.header == sent
            if token is not None and refused and token.is_fresh_renewal():
                # Fetched because of a refusal, and refused at once: its age is not the reason.
                return None
            if token is None or refused or token.realm != realm or not token.usable():
                token = self._renew(slot, before, realm, asked, renewal=refused)
        finally:
            slot.give_up(claim)
        if asked != scope:
            state.slot(scope).token = token
        return token

    def _renew(
        self, slot: _Slot, before: RegistryError | None, realm: Realm, scope: str, *, renewal: bool
    ) -> Token:
        """Fetches a token into the claimed slot; what failed while this thread waited is not tried again."""
        if slot.failure is not None and slot.failure is not before:
            raise copy.copy(slot.failure)
        try:
            slot.token = fetch_token(realm, scope, self._credential, self._fetch, renewal=renewal)
        except Closed:
            raise
        except RegistryError as error:
            # A copy has no traceback, which would keep alive what the frames hold.
            slot.failure = copy.copy(error)
            raise
        return slot.token

    def _current(self) -> _State:
        """This process's state: after a fork, locks may be held by threads that only the parent has."""
        if self._state.pid != os.getpid():
            self._state = _State()
        return self._state

    def __repr__(self) -> str:
        return f"<Auth {self.registry}: {self._credential!r}>"


@attrs.define(eq=False)
class _Slot:
    """One scope's token. One thread has claimed it while it is fetched; it may be read without."""

    token: Token | None = None
    failure: RegistryError | None = None
    _claim: object = None
    _changed: threading.Condition = attrs.field(factory=threading.Condition)

    def claim(self, claim: object, check: Callable[[], None]) -> None:
        """Waits until nobody else has it. Wherever in here Ctrl-C comes, `give_up` puts it right."""
        with self._changed:
            while self._claim is not None:
                self._changed.wait(_SLICE)
                check()
            self._claim = claim

    def give_up(self, claim: object) -> None:
        with self._changed:
            if self._claim is claim:
                self._claim = None
                self._changed.notify()


class _State:
    def __init__(self) -> None:
        self.pid = os.getpid()
        self.basic = False
        self.slots: dict[str, _Slot] = {}
        self._lock = threading.Lock()

    def slot(self, scope: str) -> _Slot:
        with self._lock:
            # Taken out and put back, so that the first is the one not used for longest.
            slot = self.slots.pop(scope, None) or _Slot()
            self.slots[scope] = slot
            if len(self.slots) > MAX_TOKENS:
                del self.slots[next(iter(self.slots))]
        return slot
