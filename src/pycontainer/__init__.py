"""Containers as a library: see README.md for a tour.

Everything public is a name of this package, loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pycontainer import adapters as adapters
    from pycontainer import wait as wait
    from pycontainer._version import __version__ as __version__
    from pycontainer.attaching import Attachment as Attachment
    from pycontainer.changes import Change as Change
    from pycontainer.completed import Completed as Completed
    from pycontainer.completed import Usage as Usage
    from pycontainer.container import Container as Container
    from pycontainer.diagnosis import Report as Report
    from pycontainer.diagnosis import doctor as doctor
    from pycontainer.errors import AuthError as AuthError
    from pycontainer.errors import CapabilityUnavailable as CapabilityUnavailable
    from pycontainer.errors import ContainerError as ContainerError
    from pycontainer.errors import ContainerNotFound as ContainerNotFound
    from pycontainer.errors import DigestMismatch as DigestMismatch
    from pycontainer.errors import ExitError as ExitError
    from pycontainer.errors import ImageError as ImageError
    from pycontainer.errors import ImageNotFound as ImageNotFound
    from pycontainer.errors import InvalidImage as InvalidImage
    from pycontainer.errors import InvalidOption as InvalidOption
    from pycontainer.errors import InvalidReference as InvalidReference
    from pycontainer.errors import InvalidState as InvalidState
    from pycontainer.errors import LaunchError as LaunchError
    from pycontainer.errors import NameInUse as NameInUse
    from pycontainer.errors import NoSpace as NoSpace
    from pycontainer.errors import NotFound as NotFound
    from pycontainer.errors import OutOfMemory as OutOfMemory
    from pycontainer.errors import PortInUse as PortInUse
    from pycontainer.errors import PycontainerError as PycontainerError
    from pycontainer.errors import RateLimited as RateLimited
    from pycontainer.errors import RegistryError as RegistryError
    from pycontainer.errors import StoreBusy as StoreBusy
    from pycontainer.errors import StoreCorrupt as StoreCorrupt
    from pycontainer.errors import StoreError as StoreError
    from pycontainer.errors import SupervisorError as SupervisorError
    from pycontainer.errors import Timeout as Timeout
    from pycontainer.errors import TransportError as TransportError
    from pycontainer.errors import UnsafeLayer as UnsafeLayer
    from pycontainer.errors import UnsupportedPlatform as UnsupportedPlatform
    from pycontainer.errors import WaitFailed as WaitFailed
    from pycontainer.files.paths import ContainerPath as ContainerPath
    from pycontainer.happenings import Event as Event
    from pycontainer.happenings import Events as Events
    from pycontainer.happenings import events as events
    from pycontainer.health import HealthResult as HealthResult
    from pycontainer.healthcheck import Healthcheck as Healthcheck
    from pycontainer.image import Image as Image
    from pycontainer.image import pull as pull
    from pycontainer.logs.reading import Logs as Logs
    from pycontainer.measuring import Stats as Stats
    from pycontainer.mounts import bind as bind
    from pycontainer.mounts import content as content
    from pycontainer.mounts import tmpfs as tmpfs
    from pycontainer.networks import Network as Network
    from pycontainer.oci.config import ImageConfig as ImageConfig
    from pycontainer.oci.descriptor import Descriptor as Descriptor
    from pycontainer.oci.manifest import Index as Index
    from pycontainer.oci.manifest import Manifest as Manifest
    from pycontainer.oci.platform import Platform as Platform
    from pycontainer.options import Options as Options
    from pycontainer.process import Process as Process
    from pycontainer.processes import ProcessInfo as ProcessInfo
    from pycontainer.registry import Registry as Registry
    from pycontainer.registry import Repository as Repository
    from pycontainer.runner import create as create
    from pycontainer.runner import run as run
    from pycontainer.runner import start as start
    from pycontainer.store import Problem as Problem
    from pycontainer.store import Store as Store
    from pycontainer.streams import DEVNULL as DEVNULL
    from pycontainer.streams import PIPE as PIPE
    from pycontainer.streams import STDOUT as STDOUT
    from pycontainer.templates import Template as Template
    from pycontainer.transfer.events import Progress as Progress
    from pycontainer.volume import Volume as Volume

_MODULES = {
    "Attachment": "attaching",
    "AuthError": "errors",
    "CapabilityUnavailable": "errors",
    "Change": "changes",
    "Completed": "completed",
    "Container": "container",
    "ContainerError": "errors",
    "ContainerNotFound": "errors",
    "ContainerPath": "files.paths",
    "DEVNULL": "streams",
    "Descriptor": "oci.descriptor",
    "DigestMismatch": "errors",
    "Event": "happenings",
    "Events": "happenings",
    "ExitError": "errors",
    "HealthResult": "health",
    "Healthcheck": "healthcheck",
    "Image": "image",
    "ImageConfig": "oci.config",
    "ImageError": "errors",
    "ImageNotFound": "errors",
    "Index": "oci.manifest",
    "InvalidImage": "errors",
    "InvalidOption": "errors",
    "InvalidReference": "errors",
    "InvalidState": "errors",
    "LaunchError": "errors",
    "Logs": "logs.reading",
    "Manifest": "oci.manifest",
    "NameInUse": "errors",
    "Network": "networks",
    "NoSpace": "errors",
    "NotFound": "errors",
    "Options": "options",
    "OutOfMemory": "errors",
    "PIPE": "streams",
    "Platform": "oci.platform",
    "PortInUse": "errors",
    "Problem": "store",
    "Process": "process",
    "ProcessInfo": "processes",
    "Progress": "transfer.events",
    "PycontainerError": "errors",
    "RateLimited": "errors",
    "Registry": "registry",
    "RegistryError": "errors",
    "Report": "diagnosis",
    "Repository": "registry",
    "STDOUT": "streams",
    "Stats": "measuring",
    "Store": "store",
    "StoreBusy": "errors",
    "StoreCorrupt": "errors",
    "StoreError": "errors",
    "SupervisorError": "errors",
    "Template": "templates",
    "Timeout": "errors",
    "TransportError": "errors",
    "UnsafeLayer": "errors",
    "UnsupportedPlatform": "errors",
    "Usage": "completed",
    "Volume": "volume",
    "WaitFailed": "errors",
    "__version__": "_version",
    "adapters": "",
    "bind": "mounts",
    "content": "mounts",
    "create": "runner",
    "doctor": "diagnosis",
    "events": "happenings",
    "pull": "image",
    "run": "runner",
    "start": "runner",
    "tmpfs": "mounts",
    "wait": "",
}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    """PEP 562: a name's module is imported when the name is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Without a module it is one itself.
    module = import_module(f"pycontainer.{_MODULES[name] or name}")
    value = globals()[name] = getattr(module, name) if _MODULES[name] else module
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
