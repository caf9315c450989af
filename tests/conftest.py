"""What all tests share: abilities that must be there, an isolated store, leak checks, an ordinary user."""

from __future__ import annotations

import os

import pytest

MUST_WORK = os.environ.get("PYCONTAINER_MUST_WORK") == "1"


def need(available: bool, what: str) -> None:
    """Skips the test when the host lacks `what`; fails it when PYCONTAINER_MUST_WORK=1."""
    if available:
        return
    if MUST_WORK:
        pytest.fail(f"this host must have {what} (PYCONTAINER_MUST_WORK=1)", pytrace=False)
    pytest.skip(f"this host lacks {what}")
