"""Debian's docker-registry on loopback, for tests against a true registry: plain, with users, with TLS.

The fixtures of one session share a registry each, so a test uses repositories of its own (see
`unique`); `fresh_registry` is a test's own. conftest.py makes them known to all tests.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import re
import shutil
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from conftest import need

USER, PASSWORD = "user", "secret with: signs"
START_SECONDS = 20.0

_numbers = itertools.count(1)


def unique(word: str = "app") -> str:
    """A repository's name that no other test of this session uses."""
    return f"tests/{word}-{os.getpid()}-{next(_numbers)}"


@attrs.frozen
class Certificates:
    """An authority of the tests' own and what it signed: PEM files. A pair is certificate and key."""

    authority: Path
    server: tuple[str, str]
    """For localhost and 127.0.0.1."""
    misnamed: tuple[str, str]
    """For example.com, on the same authority."""
    client: tuple[str, str]

    def server_context(self, *, clients: bool = False, misnamed: bool = False) -> ssl.SSLContext:
        """For a server (`FaultRegistry(tls=...)`); `clients`: who connects must show a certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*(self.misnamed if misnamed else self.server))
        if clients:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.authority)
        return context

    @classmethod
    def make(cls, directory: Path) -> Certificates:
        """New keys and certificates, by openssl(1); good for two days."""
        directory.mkdir(parents=True, exist_ok=True)
        authority = directory / "ca.pem"
        issuer = ["-CA", str(authority), "-CAkey", str(directory / "ca.key")]
        _certificate(directory, "ca", _AUTHORITY, [])
        here = _LEAF.format(usage="serverAuth", names="DNS:localhost,IP:127.0.0.1")
        return cls(
            authority,
            _certificate(directory, "server", here, issuer),
            _certificate(
                directory, "misnamed", _LEAF.format(usage="serverAuth", names="DNS:example.com"), issuer
            ),
            _certificate(
                directory, "client", _LEAF.format(usage="clientAuth", names="DNS:client.example.com"), issuer
            ),
        )


# Key usage and key identifiers are what Python 3.13 insists on (VERIFY_X509_STRICT).
_AUTHORITY = """
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
"""
_LEAF = """
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = {usage}
subjectAltName = {names}
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""


def _certificate(directory: Path, name: str, extensions: str, issuer: list[str]) -> tuple[str, str]:
    config = directory / f"{name}.cnf"
    config.write_text(
        "[req]\ndistinguished_name = dn\nx509_extensions = ext\nprompt = no\n"
        f"[dn]\nCN = {name}\n[ext]{extensions}"
    )
    made = str(directory / f"{name}.pem"), str(directory / f"{name}.key")
    command = ["openssl", "req", "-x509", "-config", str(config), "-days", "2", "-nodes", *issuer]
    command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-out", made[0], "-keyout", made[1]]
    subprocess.run(command, check=True, capture_output=True)
    return made


@attrs.frozen
class RealRegistry:
    """A docker-registry that runs. `host` is as it stands in references, `pid` the process's."""

    host: str
    url: str
    pid: int
    storage: Path
    log: Path
    certificates: Certificates | None = None
    user: str | None = None
    password: str | None = None

    def docker_config(self, directory: Path) -> Path:
        """Writes a config.json with this registry's user into `directory`; its path."""
        words = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        path = directory / "config.json"
        path.write_text(json.dumps({"auths": {self.host: {"auth": words}}}))
        return path


def _configuration(
    directory: Path, *, users: bool, certificates: Certificates | None, clients: bool, deletes: bool
) -> dict[str, Any]:
    """What docker-registry reads; JSON is YAML, too."""
    http: dict[str, Any] = {"addr": "127.0.0.1:0", "secret": "tests"}
    if certificates is not None:
        certificate, key = certificates.server
        http["tls"] = {"certificate": certificate, "key": key}
        if clients:
            http["tls"]["clientcas"] = [str(certificates.authority)]
    found: dict[str, Any] = {
        "version": 0.1,
        "log": {"level": "info", "accesslog": {"disabled": False}},
        "storage": {
            "filesystem": {"rootdirectory": str(directory / "storage")},
            "delete": {"enabled": deletes},
        },
        "http": http,
    }
    if users:
        line = subprocess.run(
            ["htpasswd", "-C", "4", "-Bbn", USER, PASSWORD], check=True, capture_output=True, text=True
        )
        (directory / "htpasswd").write_text(line.stdout)
        found["auth"] = {"htpasswd": {"realm": "tests", "path": str(directory / "htpasswd")}}
    return found


@contextlib.contextmanager
def serve(
    directory: Path,
    *,
    users: bool = False,
    certificates: Certificates | None = None,
    clients: bool = False,
    deletes: bool = True,
) -> Iterator[RealRegistry]:
    """A docker-registry whose files are in `directory`, until the block ends; starting again keeps them.

    `users`: USER with PASSWORD only; `certificates`: TLS; `clients`: who connects needs a certificate.
    """
    program = shutil.which("docker-registry")
    need(program is not None, "docker-registry")
    need(not users or shutil.which("htpasswd") is not None, "htpasswd (apache2-utils)")
    assert program is not None
    directory.mkdir(parents=True, exist_ok=True)
    config, log = directory / "config.yml", directory / "log"
    config.write_text(
        json.dumps(
            _configuration(
                directory, users=users, certificates=certificates, clients=clients, deletes=deletes
            )
        )
    )
    # REGISTRY_* variables would override the configuration; no proxy lies in between.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("REGISTRY_")}
    with open(log, "wb") as out:
        process = subprocess.Popen(
            [program, "serve", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environ,
        )
    try:
        port = _listening(process, log)
        scheme = "https" if certificates else "http"
        yield RealRegistry(
            host=f"127.0.0.1:{port}",
            url=f"{scheme}://127.0.0.1:{port}",
            pid=process.pid,
            storage=directory / "storage",
            log=log,
            certificates=certificates,
            user=USER if users else None,
            password=PASSWORD if users else None,
        )
    finally:
        process.kill()
        process.wait()


def _listening(process: subprocess.Popen[bytes], log: Path) -> int:
    """The port, which it tells once it takes connections."""
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        form = re.search(r"listening on 127\.0\.0\.1:(\d+)", log.read_text())
        if form is not None:
            return int(form[1])
        time.sleep(0.01)
    raise AssertionError(f"docker-registry does not start:\n{log.read_text()}")


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Keys and certificates of an authority that nobody trusts."""
    need(shutil.which("openssl") is not None, "openssl")
    return Certificates.make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def plain_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRegistry]:
    """Plain HTTP, open to all."""
    with serve(tmp_path_factory.mktemp("plain-registry")) as registry:
        yield registry


@pytest.fixture(scope="session")
def basic_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRegistry]:
    """Plain HTTP, basic authentication as USER."""
    with serve(tmp_path_factory.mktemp("basic-registry"), users=True) as registry:
        yield registry


@pytest.fixture(scope="session")
def tls_registry(
    tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Iterator[RealRegistry]:
    """HTTPS under the tests' own authority."""
    with serve(tmp_path_factory.mktemp("tls-registry"), certificates=certificates) as registry:
        yield registry


@pytest.fixture(scope="session")
def client_certificate_registry(
    tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Iterator[RealRegistry]:
    """HTTPS for those who show a certificate of the tests' own authority."""
    directory = tmp_path_factory.mktemp("client-certificate-registry")
    with serve(directory, certificates=certificates, clients=True) as registry:
        yield registry


@pytest.fixture
def fresh_registry(tmp_path: Path) -> Iterator[RealRegistry]:
    """Plain HTTP, empty, of this test alone."""
    with serve(tmp_path / "registry") as registry:
        yield registry
