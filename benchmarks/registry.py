"""Debian's docker-registry on loopback, open to all, with its files in a directory of ours."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from benchmarks.debian import Layer, Layers
from benchmarks.harness import Unavailable
from benchmarks.programs import find_program

_SECONDS_TO_START = 20
_SECONDS_TO_ANSWER = 60
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class Registry:
    """`host` is as it stands in references; closing ends the process. Its files are the caller's."""

    def __init__(self, place: Path) -> None:
        """Raises `Unavailable`."""
        self._storage = place / "storage"
        config, log = place / "config.yml", place / "log"
        # JSON is YAML, too. Its log is what tells the port; one of every request would cost time.
        config.write_text(
            json.dumps(
                {
                    "version": 0.1,
                    "log": {"level": "info", "accesslog": {"disabled": True}},
                    "storage": {"filesystem": {"rootdirectory": str(self._storage)}},
                    "http": {"addr": "127.0.0.1:0", "secret": "benchmarks"},
                }
            )
        )
        environ = {name: value for name, value in os.environ.items() if not name.startswith("REGISTRY_")}
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [find_program("docker-registry"), "serve", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environ,
                # A Ctrl-C at the terminal is for the harness, which then stops us in order.
                start_new_session=True,
            )
        try:
            self.host = f"127.0.0.1:{self._port(log)}"
        except BaseException:
            self.close()
            raise

    def _port(self, log: Path) -> int:
        until = time.monotonic() + _SECONDS_TO_START
        while time.monotonic() < until and self._process.poll() is None:
            form = re.search(r"listening on 127\.0\.0\.1:(\d+)", log.read_text())
            if form is not None:
                return int(form[1])
            time.sleep(0.02)
        raise Unavailable("docker-registry does not start")

    def put_image(self, repository: str, image: Layers) -> str:
        """Puts the image there as `latest`; its reference."""
        layers = []
        for layer in image.layers:
            with layer.gz.open("rb") as file:
                layers.append(self._put_blob(repository, _LAYER, file))
        config = {
            "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, "amd64"),
            "os": "linux",
            "config": {"Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": [_digest_of(layer.tar) for layer in image.layers]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": self._put_blob(repository, _CONFIG, json.dumps(config).encode()),
            "layers": layers,
        }
        path = f"/v2/{repository}/manifests/latest"
        self._ask("PUT", path, json.dumps(manifest).encode(), {"Content-Type": _MANIFEST})
        return f"{self.host}/{repository}:latest"

    def blob_path(self, repository: str, layer: Layer) -> str:
        """The path of a URL, for who fetches a layer without a client."""
        return f"/v2/{repository}/blobs/{_digest_of(layer.gz)}"

    def _put_blob(self, repository: str, media_type: str, content: bytes | IO[bytes]) -> dict[str, Any]:
        if isinstance(content, bytes):
            size, digest = len(content), f"sha256:{hashlib.sha256(content).hexdigest()}"
        else:
            size, digest = os.fstat(content.fileno()).st_size, _digest_of(Path(content.name))
        where = urlsplit(self._ask("POST", f"/v2/{repository}/blobs/uploads/", b"", {}))
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        self._ask("PUT", f"{where.path}?{where.query}&digest={digest}", content, headers)
        return {"mediaType": media_type, "digest": digest, "size": size}

    def _ask(self, method: str, path: str, body: bytes | IO[bytes], headers: Mapping[str, str]) -> str:
        """The Location of the answer."""
        connection = http.client.HTTPConnection(self.host, timeout=_SECONDS_TO_ANSWER)
        try:
            connection.request(method, path, body, dict(headers))
            answer = connection.getresponse()
            said = answer.read()
            if answer.status >= 300:
                raise Unavailable(f"docker-registry: {method} {path}: {answer.status} {said[:200]!r}")
            return answer.getheader("Location", "")
        finally:
            connection.close()

    def empty(self) -> None:
        """Forgets all that was pushed: this registry keeps nothing about its files in memory."""
        shutil.rmtree(self._storage, ignore_errors=True)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def _digest_of(path: Path) -> str:
    hashed = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            hashed.update(piece)
    return f"sha256:{hashed.hexdigest()}"
