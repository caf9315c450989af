"""Clients for tests: impatient, anonymous, closed at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fault_registry import FaultRegistry
from pycontainer.distribution.client import Client
from pycontainer.distribution.patience import Patience
from pycontainer.oci.descriptor import Descriptor
from pycontainer.oci.digest import Digest

QUICK = Patience(attempts=4, first=0.005, longest=0.5, total=2.0)
"""As many attempts as a program makes, without the waiting."""

Connect = Callable[..., Client]


@pytest.fixture
def registry() -> Iterator[FaultRegistry]:
    with FaultRegistry() as made:
        yield made


@pytest.fixture
def connect() -> Iterator[Connect]:
    """`connect(host, **options)`: a client that is closed when the test ends."""
    made: list[Client] = []

    def client(host: str, **options: Any) -> Client:
        made.append(Client(host, **{"auth": False, "timeout": 5.0, "patience": QUICK, **options}))
        return made[-1]

    yield client
    for one in made:
        one.close()


def blob_of(data: bytes) -> Descriptor:
    return Descriptor("application/octet-stream", Digest.of(data), len(data))
