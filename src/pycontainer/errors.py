"""Every error that pycontainer raises, one tree with one root.

PycontainerError
├── InvalidReference (ValueError)
├── InvalidOption (ValueError)
├── ImageError
│   ├── ImageNotFound
│   ├── InvalidImage
│   ├── UnsafeLayer
│   └── UnsupportedPlatform
├── RegistryError
│   ├── AuthError
│   ├── NotFound
│   ├── RateLimited
│   ├── DigestMismatch
│   └── TransportError
├── LaunchError
│   └── SupervisorError
├── CapabilityUnavailable
├── ContainerError
│   ├── ContainerNotFound
│   ├── InvalidState
│   ├── NameInUse
│   ├── PortInUse
│   └── WaitFailed
├── ExitError (subprocess.CalledProcessError)
│   └── OutOfMemory
├── Timeout (subprocess.TimeoutExpired)
└── StoreError
    ├── StoreCorrupt
    ├── StoreBusy
    └── NoSpace
"""

from __future__ import annotations

import errno as _errno
import subprocess
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pycontainer.completed import Completed


class PycontainerError(Exception):
    """The root: `except pc.PycontainerError` catches everything the library raises on purpose."""


class InvalidReference(PycontainerError, ValueError):
    """A string that is not an image reference, digest or name of the distribution specification."""


class InvalidOption(PycontainerError, ValueError):
    """An option whose value cannot mean anything: wrong unit, range, name or combination."""


class ImageError(PycontainerError):
    """Something about an image: absent, malformed, hostile or made for another machine."""


class ImageNotFound(ImageError):
    """No image of that name in the store (and pulling was not asked for, or not possible)."""


class InvalidImage(ImageError):
    """An image, config, manifest or archive that breaks its specification."""


class UnsafeLayer(ImageError):
    """A layer that tries to reach outside its own tree, or exceeds the limits set for layers."""


class UnsupportedPlatform(ImageError):
    """No variant of the image is made for the platform that was asked for."""


class RegistryError(PycontainerError):
    """A registry's refusal or failure.

    `status` is the HTTP status (None when there was no answer), `code` the distribution
    specification's error code, `url` the request's address without credentials.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        url: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.url = url


class AuthError(RegistryError):
    """Credentials are missing, wrong or not enough for what was asked."""


class NotFound(RegistryError):
    """The registry has no such repository, tag, manifest or blob."""


class RateLimited(RegistryError):
    """The registry asks for patience; `retry_after` is in seconds, None where it did not say."""

    def __init__(self, message: str, *, retry_after: float | None = None, **kwargs: Any) -> None:
        super().__init__(message, **kwargs)
        self.retry_after = retry_after


class DigestMismatch(RegistryError):
    """Content that is not what its digest or size says; nothing of it was kept."""


class TransportError(RegistryError):
    """No usable answer: name resolution, connection, TLS, time-out or a broken body."""


class LaunchError(PycontainerError):
    """A process or container could not be started; nothing of it is left.

    `stage` says what was being done ("mounting proc"), `errno` the kernel's refusal (an `errno`
    value, or None), `path` the file or directory concerned (or None) and `hint` the remedy
    where the cause is known (or None).
    """

    def __init__(
        self,
        stage: str,
        *,
        errno: int | None = None,
        path: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.stage = stage
        self.errno = errno
        self.path = path
        self.hint = hint
        text = stage if path is None else f"{stage} {path}"
        if errno is not None:
            text += f": {_errno.errorcode.get(errno, errno)}"
        super().__init__(text if hint is None else f"{text} ({hint})")


class SupervisorError(LaunchError):
    """The native supervisor could not be started, refused a request, or died with its containers."""


class CapabilityUnavailable(PycontainerError):
    """This host cannot give what was asked for; `missing` names it, `remedy` says what would help."""

    def __init__(self, missing: str, *, remedy: str | None = None) -> None:
        self.missing = missing
        self.remedy = remedy
        super().__init__(missing if remedy is None else f"{missing} ({remedy})")


class ContainerError(PycontainerError):
    """Something about a container as a whole."""


class ContainerNotFound(ContainerError):
    """No container of that id or name."""


class InvalidState(ContainerError):
    """The container's state (created, running, paused, stopped) forbids what was asked."""


class NameInUse(ContainerError):
    """Another container already has that name."""


class PortInUse(ContainerError):
    """A port to be published is taken."""


class WaitFailed(ContainerError):
    """The container died, or time ran out, before it was ready; `logs` holds the log's tail."""

    def __init__(self, message: str, *, logs: bytes = b"") -> None:
        super().__init__(message)
        self.logs = logs


class ExitError(PycontainerError, subprocess.CalledProcessError):
    """`check=True` and the program did not exit with 0; `result` is the whole `Completed`."""

    def __init__(self, result: Completed) -> None:
        subprocess.CalledProcessError.__init__(
            self, result.returncode, result.args, result.stdout, result.stderr
        )
        self.result = result

    def __reduce__(self) -> tuple[type[ExitError], tuple[Completed]]:
        return type(self), (self.result,)

    def __str__(self) -> str:
        return subprocess.CalledProcessError.__str__(self)


class OutOfMemory(ExitError):
    """The kernel killed the program because the container's memory limit was reached."""

    def __str__(self) -> str:
        return f"{super().__str__()} The container ran out of memory."


class Timeout(PycontainerError, subprocess.TimeoutExpired):
    """Time ran out. What the call itself had started is dead (`run`, `exec`, `prepare`, a pull, a
    commit, a copy); what it only waited for goes on as it was (`wait`, `communicate`).

    `result` holds what was captured until then; its `returncode` is None where the program goes on.
    """

    def __init__(self, result: Completed, timeout: float) -> None:
        subprocess.TimeoutExpired.__init__(self, result.args, timeout, result.stdout, result.stderr)
        self.result = result

    def __reduce__(self) -> tuple[type[Timeout], tuple[Completed, float]]:
        return type(self), (self.result, self.timeout)

    def __str__(self) -> str:
        return subprocess.TimeoutExpired.__str__(self)


class StoreError(PycontainerError):
    """The store on disk refuses: damaged, busy or full."""


class StoreCorrupt(StoreError):
    """Content in the store is not what its name says."""


class StoreBusy(StoreError):
    """Another process holds what is needed and did not give it back in time."""


class NoSpace(StoreError):
    """The store's file system is full (ENOSPC or EDQUOT); nothing half-written was kept."""
