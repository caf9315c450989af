"""requests and urllib3 on a container's ports, with nothing published: `Container.connect` makes their
connections.

    session.mount("http://web/", pc.adapters.HTTPAdapter(container, port=80))
    session.get("http://web/index.html")

    pool = pc.adapters.HTTPConnectionPool(container, "/run/web.sock")
    pool.request("GET", "/index.html")

Everything else (keep-alive, timeouts, retries, streaming, TLS, errors) is as the two packages have it. What
they need not be taught: `asyncio.open_connection(sock=container.connect(80))` gives a reader and a writer,
`http.client.HTTPConnection` takes `container.connect(80)` as its `sock`.

This module imports requests and urllib3; `pycontainer` imports it when it is used.
"""

from __future__ import annotations

import socket
from functools import partial
from typing import TYPE_CHECKING, Any

import requests.adapters
import urllib3
from urllib3 import connection
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

from pycontainer.connecting import Target, parse_target
from pycontainer.errors import PycontainerError
from pycontainer.units import refuse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pycontainer.container import Container

__all__ = ["HTTPAdapter", "HTTPConnectionPool", "HTTPSConnectionPool"]

_POOL_SIZE = 10
_NO_USE = ("source_address", "_proxy", "_proxy_headers", "_proxy_config")
"""What urllib3's pools take, too, and what has no meaning for a connection that begins in the container."""


class _Inside(connection.HTTPConnection):
    """Connected by the container instead of by this process's own network.

    TLS begins after this, on whatever `_new_conn` gave: the hook that all of urllib3's connections share.
    """

    def __init__(self, *args: Any, container: Container, target: int | str, **options: Any) -> None:
        self._container = container
        self._target = target
        super().__init__(*args, **options)

    def _new_conn(self) -> socket.socket:
        try:
            made = self._container.connect(self._target, timeout=self.timeout)
        except TimeoutError as error:
            where = _shown(self._container, self._target)
            raise ConnectTimeoutError(self, f"no connection to {where} within {self.timeout} s") from error
        except (OSError, PycontainerError) as error:
            where = _shown(self._container, self._target)
            raise NewConnectionError(self, f"no connection to {where}: {error}") from error
        try:
            made.settimeout(self.timeout)
            for option in self.socket_options or ():
                # Options of TCP are no Unix socket's.
                if made.family != socket.AF_UNIX or option[0] == socket.SOL_SOCKET:
                    made.setsockopt(*option)
        except BaseException:
            made.close()
            raise
        return made


class _InsideTls(_Inside, connection.HTTPSConnection):
    """The name that is verified is the URL's, or urllib3's `server_hostname`."""


class HTTPConnectionPool(urllib3.HTTPConnectionPool):
    """Connections to one port (or to the path of a Unix socket) of one container.

    `host` is the name in the Host header. `options` are those of urllib3.HTTPConnectionPool: timeout,
    maxsize, block, headers, retries, socket_options and so on. Raises InvalidOption.
    """

    ConnectionCls = _Inside

    def __init__(
        self, container: Container, port: Target, *, host: str = "localhost", **options: Any
    ) -> None:
        target = parse_target(port)
        named = target if isinstance(target, int) else None
        self._begin(container, target, host, named, options)

    def _begin(
        self,
        container: Container,
        target: int | str,
        host: str,
        port: int | None,
        options: Mapping[str, Any],
    ) -> None:
        for name in _NO_USE:
            if options.get(name) is not None:
                raise refuse(name, options[name], "is of no use for connections made in a container")
        super().__init__(host, port, container=container, target=target, **options)

    @classmethod
    def _of_url(
        cls, container: Container, target: int | str | None, host: str, port: int, **options: Any
    ) -> HTTPConnectionPool:
        """For a URL with that host and port; without a target, the port is one of the container's."""
        made = cls.__new__(cls)
        made._begin(container, port if target is None else target, host, port, options)
        return made


class HTTPSConnectionPool(HTTPConnectionPool, urllib3.HTTPSConnectionPool):
    """The same with TLS; `options` are those of urllib3.HTTPSConnectionPool: also ca_certs, ssl_context,
    cert_file, server_hostname and so on. `host` is the name that the certificate must have."""

    ConnectionCls = _InsideTls


class HTTPAdapter(requests.adapters.HTTPAdapter):
    """Mount it for the addresses that are the container's: `session.mount("http://web/", adapter)`.

    All of them lead to `port`, the number of a port or the path of a Unix socket as the container has it;
    where it is None the URL's own port counts (`session.mount("http://web:", adapter)`, with no slash at the
    end, since requests compares beginnings). Host names are never looked up, they are for the Host header
    and for TLS, so "https://web/" works as well.

    Proxies, whoever asks for them, are left out: none can reach the container. A redirect to an address for
    which another adapter is mounted leaves the container, as requests does it for any server.

    The other options are those of requests.adapters.HTTPAdapter. Raises InvalidOption; requests made with it
    raise what requests raises: ConnectionError where nobody listens or the container does not run,
    ConnectTimeout, ReadTimeout.
    """

    __attrs__ = (*requests.adapters.HTTPAdapter.__attrs__, "_container", "_target")

    def __init__(
        self,
        container: Container,
        port: Target | None = None,
        *,
        pool_connections: int = _POOL_SIZE,
        pool_maxsize: int = _POOL_SIZE,
        max_retries: urllib3.Retry | int = 0,
        pool_block: bool = False,
    ) -> None:
        self._container = container
        self._target = None if port is None else parse_target(port)
        super().__init__(pool_connections, pool_maxsize, max_retries, pool_block)

    def __repr__(self) -> str:
        return f"<HTTPAdapter to {_shown(self._container, self._target)}>"

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = {
            "http": partial(HTTPConnectionPool._of_url, self._container, self._target),
            "https": partial(HTTPSConnectionPool._of_url, self._container, self._target),
        }

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: bool | str = True,
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        return super().send(request, stream, timeout, verify, cert, None)


def _shown(container: Container, target: int | str | None) -> str:
    named = f"container {container.name or container.id[:12]}"
    if target is None:
        return f"the URL's port of {named}"
    return f"{'port ' if isinstance(target, int) else ''}{target} of {named}"
