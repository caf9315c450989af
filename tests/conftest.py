"""What all tests share: abilities that must be there, an isolated store, leak checks, an ordinary user."""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import leaks
import ordinary_user
from pycontainer import Store

# Fixtures around docker-registry, podman and docker.
pytest_plugins = ["registries", "engines"]

MUST_WORK = os.environ.get("PYCONTAINER_MUST_WORK") == "1"

unchanged = leaks.unchanged
"""`with unchanged():` fails when anything is left behind; see leaks.py."""


def need(available: bool, what: str, *, of_root: bool = False) -> None:
    """Skips the test when the host lacks `what`; fails it when PYCONTAINER_MUST_WORK=1. `of_root`: an
    ordinary user may lack it on any host."""
    if available:
        return
    if MUST_WORK and not (of_root and os.getuid() != 0):
        pytest.fail(f"this host must have {what} (PYCONTAINER_MUST_WORK=1)", pytrace=False)
    pytest.skip(f"this host lacks {what}")


def pytest_collection_finish() -> None:
    """The thousands of tests stay; who collects garbage (leaks.py) need not look at all of them each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def store_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The default store of this session, and a temporary directory that nobody else writes to.

    A caller's PYCONTAINER_STORE is kept: an overlay's upper layer cannot lie on every file system.
    """
    base = tmp_path_factory.mktemp("session")
    temporary = base / "tmp"
    temporary.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(temporary))
        patch.setattr(tempfile, "tempdir", str(temporary))
        if "PYCONTAINER_STORE" not in os.environ:
            patch.setenv("PYCONTAINER_STORE", str(base / "store"))
        # What a process has once for all its containers is no leak of the first test with one.
        Store.default().new_container_dir().discard()
        yield Path(os.environ["PYCONTAINER_STORE"])


@pytest.fixture(scope="session")
def ordinary() -> Iterator[ordinary_user.OrdinaryUser | None]:
    who = ordinary_user.account()
    if who is None:
        yield None
        return
    user = ordinary_user.OrdinaryUser.prepare(who)
    yield user
    user.remove()


@pytest.fixture
def as_user(ordinary: ordinary_user.OrdinaryUser | None) -> ordinary_user.OrdinaryUser:
    """`as_user(script, timeout=60, env={}, check=True)` runs Python as an ordinary user."""
    need(ordinary is not None, f"an ordinary user (useradd --create-home {ordinary_user.NAME})")
    assert ordinary is not None
    return ordinary
