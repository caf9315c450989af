"""Programs docker-credential-NAME, which keep passwords elsewhere (docker-credential-helpers)."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress

from pycontainer.errors import AuthError
from pycontainer.oci._document import shorten

TIMEOUT = 10.0
"""Seconds: what a helper may take that asks a keyring, or a cloud for a token."""

MAX_OUTPUT = 64 << 10

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
# What every helper says, by their common protocol, on standard output, with or without status 1.
_NOT_FOUND = b"credentials not found"


def ask(name: str, server: str, environ: Mapping[str, str], where: str) -> tuple[str, str] | None:
    """(user, secret) of the helper `name` for `server`, None where it has none.

    `where` names the configuration that asks for it. Raises AuthError, which names helper and exit
    status: what the helper wrote may hold secrets and is never told.
    """
    if not _NAME.fullmatch(name):
        raise AuthError(f"{where}: {shorten(name)} is not the name of a credential helper")
    program = f"docker-credential-{name}"
    # A relative entry would run what lies in the directory that the host program happens to be in.
    directories = [part for part in environ.get("PATH", os.defpath).split(":") if os.path.isabs(part)]
    path = shutil.which(program, path=":".join(directories)) if directories else None
    if path is None:
        raise AuthError(f"{where}: the credential helper {program} is not on PATH")
    status, output = _run(path, server, environ)
    if _NOT_FOUND in output.lower() and not output.lstrip().startswith(b"{"):
        return None
    if status != 0:
        raise AuthError(f"{path}: ended with status {status} when asked for {server}")
    found = _parse(output)
    if found is None:
        raise AuthError(f"{path}: did not answer with a user name and a secret when asked for {server}")
    # Some say this way that they know nothing.
    return found if found[1] else None


def _run(path: str, server: str, environ: Mapping[str, str]) -> tuple[int, bytes]:
    """Exit status and output of `path get`. It is dead, and reaped, however this ends.

    It has a session of its own: it cannot ask on the host's terminal, gets no Ctrl-C of the host's and
    is killed with what it started. Its input is a memory file: if it does not read, nobody gets SIGPIPE.
    """
    deadline = time.monotonic() + TIMEOUT
    with open(os.memfd_create("server", os.MFD_CLOEXEC), "w+b", buffering=0) as question:
        question.write(server.encode())
        question.seek(0)
        try:
            process = subprocess.Popen(
                [path, "get"],
                stdin=question,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=dict(environ),
                bufsize=0,
                start_new_session=True,
            )
        except OSError as error:
            raise AuthError(f"{path}: cannot be run: {os.strerror(error.errno or 0)}") from None
    try:
        output = _read(process, deadline)
        if output is not None and len(output) > MAX_OUTPUT:
            raise AuthError(f"{path}: wrote more than the {MAX_OUTPUT} bytes that are read")
        status = None if output is None else _wait(process, deadline)
    finally:
        _end(process)
    if output is None or status is None:
        raise AuthError(f"{path}: did not end within {TIMEOUT:g} s")
    return status, output


def _read(process: subprocess.Popen[bytes], deadline: float) -> bytes | None:
    """What it writes, up to somewhat more than the limit; None when time is up."""
    assert process.stdout is not None
    fd = process.stdout.fileno()
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    output = b""
    while len(output) <= MAX_OUTPUT:
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            return None
        piece = os.read(fd, MAX_OUTPUT)
        if not piece:
            break
        output += piece
    return output


def _wait(process: subprocess.Popen[bytes], deadline: float) -> int | None:
    """The exit status, None when time is up. `Popen.wait` would hold a Ctrl-C back for 250 ms."""
    while process.poll() is None:
        if time.monotonic() >= deadline:
            return None
        time.sleep(0.002)
    return process.returncode


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kills its group unless it has ended well: what it leaves running then, such as an agent, may stay."""
    assert process.stdout is not None
    process.stdout.close()
    if process.returncode is None:
        # Not reaped by us, so the number is still the group's; a host that reaps everything comes first.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _parse(output: bytes) -> tuple[str, str] | None:
    try:
        answer = json.loads(output)
    except (ValueError, RecursionError):
        return None
    if not isinstance(answer, dict):
        return None
    user, secret = answer.get("Username"), answer.get("Secret")
    return (user, secret) if isinstance(user, str) and isinstance(secret, str) else None
