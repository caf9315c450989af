"""The true registries that other tests use: each answers those whom it shall, and ends with its fixture."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import requests

import registries
from registries import Certificates, RealRegistry


def test_plain(plain_registry: RealRegistry) -> None:
    assert requests.get(plain_registry.url + "/v2/", timeout=10).status_code == 200


def test_basic(basic_registry: RealRegistry, tmp_path: Path) -> None:
    url = basic_registry.url + "/v2/"
    assert requests.get(url, timeout=10).status_code == 401
    assert requests.get(url, auth=("user", "wrong"), timeout=10).status_code == 401
    assert requests.get(url, auth=(registries.USER, registries.PASSWORD), timeout=10).status_code == 200
    assert basic_registry.docker_config(tmp_path).stat().st_size > 0


def test_tls(tls_registry: RealRegistry, certificates: Certificates) -> None:
    url = tls_registry.url + "/v2/"
    assert requests.get(url, verify=str(certificates.authority), timeout=10).status_code == 200
    named = url.replace("127.0.0.1", "localhost")
    assert requests.get(named, verify=str(certificates.authority), timeout=10).status_code == 200
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(url, timeout=10)


def test_client_certificate(client_certificate_registry: RealRegistry, certificates: Certificates) -> None:
    url, ca = client_certificate_registry.url + "/v2/", str(certificates.authority)
    assert requests.get(url, verify=ca, cert=certificates.client, timeout=10).status_code == 200
    with pytest.raises(requests.exceptions.ConnectionError):
        requests.get(url, verify=ca, timeout=10)


def test_it_ends_and_keeps_its_files(tmp_path: Path) -> None:
    with registries.serve(tmp_path / "r") as registry:
        started = requests.post(registry.url + "/v2/a/b/blobs/uploads/", timeout=10)
        done = requests.put(started.headers["Location"], params={"digest": DIGEST}, data=b"hello", timeout=10)
        assert done.status_code == 201
    assert not os.path.exists(f"/proc/{registry.pid}")
    with registries.serve(tmp_path / "r") as registry:
        blob = requests.get(f"{registry.url}/v2/a/b/blobs/{DIGEST}", timeout=10)
        assert blob.content == b"hello"
        assert requests.delete(blob.url, timeout=10).status_code == 202


DIGEST = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
