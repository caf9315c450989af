"""Connections: pooled, shared by threads, of one process, and to be cut from another thread."""

from __future__ import annotations

import errno
import logging
import os
import socket
import sys
import threading
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, ClassVar

import requests
import requests.adapters
import requests.utils
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import (
    ConnectTimeoutError,
    LocationParseError,
    NameResolutionError,
    NewConnectionError,
)

from pycontainer.distribution.address import is_loopback, origin, safe_url
from pycontainer.distribution.reaching import connected
from pycontainer.errors import InvalidOption

# Connections kept for the next request, per host; more than that may be in use at a time.
_KEPT = 16


_sending = threading.local()


class _Discreet(logging.Filter):
    """Takes secrets out of what urllib3 logs of our requests: addresses that storage is reached by are keys.

    Other people's requests in the same program are logged as ever.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if getattr(_sending, "ours", False) and isinstance(record.args, tuple):
            record.args = tuple(
                safe_url(one) if isinstance(one, str) and "?" in one else one for one in record.args
            )
        return True


for _name in ("urllib3.connectionpool", "urllib3.connection"):
    logging.getLogger(_name).addFilter(_Discreet())


class Tls:
    """How servers are verified and what this client shows them."""

    def __init__(self, verify: bool | str, cert: str | tuple[str, str] | None) -> None:
        self.verify = verify
        self.cert = cert
        if verify is True:
            # As `requests` has it: these name the authorities for a whole machine.
            self.verify = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True
        files = [("verify", self.verify)] if isinstance(self.verify, str) else []
        files += [("cert", path) for path in ([cert] if isinstance(cert, str) else cert or ())]
        for option, path in files:
            if not os.path.exists(path):
                raise InvalidOption(f"{option}={path!r}: there is no such file")


class Wires:
    """The connections of one client in one process."""

    def __init__(self, tls: Tls, timeout: float) -> None:
        self.pid = os.getpid()
        self._tls = tls
        # Connecting takes one or two round trips; an answer may take the registry a while.
        self._timeout = (min(timeout, 10.0), timeout)
        self._lock = threading.Lock()
        self._open: weakref.WeakSet[HTTPConnection] = weakref.WeakSet()
        self._greeting: set[socket.socket] = set()
        self._is_cut = False
        self._proxies: dict[tuple[str, str, int], dict[str, str]] = {}
        self._adapter = _Adapter(self, trusting=tls.verify is False)

    def send(self, method: str, url: str, headers: Mapping[str, str], body: Any) -> requests.Response:
        """One request on the wire; raises what `failures.WIRE_ERRORS` names.

        Not through a Session: it would read netrc, keep cookies, and read the whole body of a redirect.
        """
        prepared = requests.Request(method, url, headers=dict(headers), data=body).prepare()
        _sending.ours = True
        try:
            return self._adapter.send(
                prepared,
                stream=True,
                timeout=self._timeout,
                verify=self._tls.verify,
                cert=self._tls.cert,
                proxies=self._proxies_for(url),
            )
        finally:
            _sending.ours = False

    def _proxies_for(self, url: str) -> dict[str, str]:
        """What HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY say; this machine is never behind one."""
        where = origin(url)
        found = self._proxies.get(where)
        if found is None:
            found = {} if is_loopback(where[1]) else requests.utils.get_environ_proxies(url, no_proxy=None)
            self._proxies[where] = found
        return found

    def check(self) -> None:
        """Raises OSError after a cut: nothing is connected any more."""
        if self._is_cut:
            raise _aborted()

    def greeting(self, sock: socket.socket) -> socket.socket:
        """Notes that a proxy or TLS is talked to over `sock`, whose descriptor changes hands meanwhile: gives
        another one of the same connection, for `opened`."""
        second = sock.dup()
        with self._lock:
            if not self._is_cut:
                self._greeting.add(second)
                return second
        second.close()
        raise _aborted()

    def opened(self, connection: HTTPConnection | None, second: socket.socket) -> None:
        """Notes that this is over; `connection` is None where it failed."""
        with self._lock:
            self._greeting.discard(second)
            if connection is not None:
                self._open.add(connection)
        second.close()
        if connection is not None:
            # Once it is known: a cut between the two is met by one or the other.
            self.check()

    def cut(self) -> None:
        """Ends every connection, also those that are being made; who waits on one in another thread finds it
        closed."""
        with self._lock:
            self._is_cut = True
            connections = list(self._open)
            for second in self._greeting:
                with suppress(OSError):
                    second.shutdown(socket.SHUT_RDWR)
        for connection in connections:
            sock = connection.sock
            if isinstance(sock, socket.socket):
                try:
                    # Not SSLSocket.shutdown, which takes the TLS state away from its reader.
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)
                except OSError:
                    # Closed by the other side, or by its own thread, in the same moment.
                    continue
        self._adapter.close()


def _aborted() -> OSError:
    return ConnectionAbortedError(errno.ECONNABORTED, os.strerror(errno.ECONNABORTED))


class _Adapter(requests.adapters.HTTPAdapter):
    """Pools whose connections are known to their Wires."""

    def __init__(self, wires: Wires, *, trusting: bool) -> None:
        self._pools = _pools(wires, trusting=trusting)
        super().__init__(pool_connections=8, pool_maxsize=_KEPT, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kwargs)
        if not proxy.lower().startswith("socks"):
            manager.pool_classes_by_scheme = self._pools
        return manager

    def close(self) -> None:
        """Closes idle connections, and those in use when they come back."""
        # A pool that is only forgotten, as it is there, closes them when it is collected: a traceback that
        # it is part of may keep it for long.
        for manager in (self.poolmanager, *self.proxy_manager.values()):
            known = manager.pools.keys()
            for pool in filter(None, map(manager.pools.get, known)):
                pool.close()
        super().close()


class _Cuttable(HTTPConnection):
    """A connection that its Wires can end from its very beginning on."""

    wires: ClassVar[Callable[[], Wires | None]]
    _second: socket.socket | None = None

    def connect(self) -> None:
        owner = self._owner()
        made: HTTPConnection | None = None
        try:
            super().connect()
            made = self
        finally:
            second, self._second = self._second, None
            if second is not None:
                owner.opened(made, second)

    def _new_conn(self) -> socket.socket:
        """As urllib3's, and with its exceptions."""
        owner = self._owner()
        try:
            sock = connected(
                self._dns_host,
                self.port or 0,
                float(self.timeout or 0),
                owner.check,
                self.socket_options or (),
            )
        except UnicodeError:
            raise LocationParseError(self._dns_host) from None
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        except TimeoutError as error:
            raise ConnectTimeoutError(self, f"Connection to {self.host} timed out.") from error
        except OSError as error:
            raise NewConnectionError(self, f"Failed to establish a new connection: {error}") from error
        try:
            self._second = owner.greeting(sock)
        except BaseException:
            sock.close()
            raise
        sys.audit("http.client.connect", self, self.host, self.port)
        return sock

    def _owner(self) -> Wires:
        owner = type(self).wires()
        assert owner is not None  # it is sending
        return owner


def _pools(wires: Wires, *, trusting: bool) -> dict[str, type[HTTPConnectionPool]]:
    # The connections know their Wires weakly: pools and Wires would keep each other alive otherwise.
    known = weakref.ref(wires)

    class Plain(_Cuttable, HTTPConnection):
        wires = known

    class Secure(_Cuttable, HTTPSConnection):
        wires = known

        def connect(self) -> None:
            super().connect()
            if trusting:
                # verify=False was asked for: no warning at each request, which `-W error` would raise.
                self.is_verified = True

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}
