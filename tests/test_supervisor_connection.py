"""The connection to the supervisor while threads use it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from pycontainer import SupervisorError, _sys
from pycontainer.supervisor import client, plan


@pytest.fixture
def supervisor() -> Iterator[client.Supervisor]:
    made = client.Supervisor()
    yield made
    made.close()


def test_it_is_given_up_while_a_request_is_sent(
    supervisor: client.Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a thread that found the supervisor dead: the number must not be another socket's meanwhile, for
    example that of the channel which the request makes. It would be sent there, and nobody would answer."""
    request = _sys.request

    def late(sock: int, *rest: Any) -> None:
        supervisor.close()
        request(sock, *rest)

    monkeypatch.setattr(_sys, "request", late)
    job = supervisor.start(plan.encode(plan.Data()), flags=client.START["WORK"])
    assert supervisor.closed
    try:
        assert job.wait(10) is not None
    except SupervisorError:
        assert job.lost
    with pytest.raises(SupervisorError):
        supervisor.start(plan.encode(plan.Data()), flags=client.START["WORK"])
