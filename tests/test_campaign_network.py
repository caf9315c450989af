"""SIGKILL of the host and of the supervisor, and Ctrl-C, at any line of what networks do; eight processes of
which some are killed; hundreds of starts; no descriptor left: as root, and as an ordinary user.

All of it happens in namespaces of its own (network_campaign.py), so that what is left there is seen as it is.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

import host_process
import network_campaign
import ordinary_user
from conftest import need
from containers import as_root
from network_campaign import STEPS
from ordinary_user import OrdinaryUser
from pycontainer.network import usermode

pytestmark = as_root

NEVER = 10**9
# A timer's signal ends the child as abruptly.
KILLED = (-signal.SIGKILL, -signal.SIGALRM)
POINTS = int(os.environ.get("PYCONTAINER_CAMPAIGN_POINTS", "2"))
TIMES = int(os.environ.get("PYCONTAINER_CAMPAIGN_TIMES", "1"))
SECONDS = float(os.environ.get("PYCONTAINER_CAMPAIGN_SECONDS", "3"))


@attrs.define
class Campaign:
    server: subprocess.Popen[str]
    errors: Path
    rootless: bool
    lengths: dict[str, list[int]] = attrs.field(factory=dict)
    """How many lines each step passes, and how many microseconds it takes."""

    def ask(self, mode: str, step: str, number: int) -> dict[str, list[str]]:
        """What the child said, the words behind each first one; nothing of it may be left after a second."""
        assert self.server.stdin is not None and self.server.stdout is not None
        seen = self.errors.stat().st_size
        self.server.stdin.write(f"{mode}\t{step}\t{number}\n")
        self.server.stdin.flush()
        said: dict[str, list[str]] = {}
        while "ended" not in said:
            line = self.server.stdout.readline()
            assert line, f"the server ended: {self.errors.read_text()}"
            first, *words = line.split()
            said.setdefault(first, []).extend(words)
        said["errors"] = [self.errors.read_bytes()[seen:].decode()]
        assert said["left"] == ["nothing"], (mode, step, number, said)
        assert mode == "run" or int(said["ended"][0]) == 0, (mode, step, number, said["errors"][0])
        return said


@pytest.fixture(scope="module", params=["root", "ordinary user"])
def campaign(
    request: pytest.FixtureRequest, ordinary: OrdinaryUser | None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Campaign]:
    for program in ("unshare", "ip", "nft"):
        need(shutil.which(program) is not None, program)
    base = tmp_path_factory.mktemp("network")
    command = [sys.executable, "-W", "error", network_campaign.__file__]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYCONTAINER_STORE": str(base / "store")}
    rootless = request.param != "root"
    if rootless:
        need(ordinary is not None, f"an ordinary user (useradd --create-home {ordinary_user.NAME})")
        assert ordinary is not None
        place = ordinary.base / "campaign"
        place.mkdir()
        for module in (network_campaign, host_process, ordinary_user):
            shutil.copy(str(module.__file__), place)
        command[-1] = str(place / "network_campaign.py")
        command = ordinary.command(command)
        env = ordinary.environment() | {"PYCONTAINER_STORE": str(ordinary.base / "home/campaign")}
    own = ["unshare", "--net", "--pid", "--fork", "--mount", "--mount-proc", "--kill-child"]
    inside = ["sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    with (base / "errors").open("wb") as errors:
        process = subprocess.Popen(
            [*own, *inside, *command],
            env=env,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
    with process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == "ready\n", (base / "errors").read_text()
        yield Campaign(process, base / "errors", rootless)
        process.stdin.close()


@pytest.fixture(params=STEPS)
def step(request: pytest.FixtureRequest, campaign: Campaign) -> str:
    name: str = request.param
    if name == "create with a way out":
        problem = usermode.device_problem()
        need(problem is None, f"a way out of networks: {problem}")
        open_to_all = os.stat(usermode.DEVICE).st_mode & 0o006 == 0o006
        need(not campaign.rootless or open_to_all, f"{usermode.DEVICE} that everyone may open")
        need(any(usermode.installed()), "pasta or slirp4netns")
    return name


def moments(campaign: Campaign, step: str) -> list[int]:
    """Lines, and (negative) microseconds, at which something is to happen."""
    if step not in campaign.lengths:
        campaign.lengths[step] = [int(word) for word in campaign.ask("run", step, NEVER)["passed"]]
    points, took = campaign.lengths[step]
    chance = random.Random()
    found = chance.sample(range(points), min(points, POINTS))
    found += [-chance.randint(1, max(2, took)) for _ in range(TIMES)]
    return chance.sample(found, (len(found) + 2) // 3) if campaign.rootless else found


def test_killed_at_any_moment(campaign: Campaign, step: str) -> None:
    """No process, link, address, route, rule, port, socket, mount or sysctl of the host's is left or changed,
    and the same step works at once."""
    killed, slowest = 0, 0
    tries = moments(campaign, step)
    for moment in tries:
        said = campaign.ask("run", step, moment)
        status = int(said["ended"][0])
        assert status in (0, *KILLED), (moment, said)
        killed += status in KILLED
        slowest = max(slowest, int(said["gone"][0]))
    campaign.ask("again", step, 0)
    assert killed >= len(tries) // 4
    # For docs/reliability.md; shown by pytest -rP.
    print(f"{step}: {killed} of {len(tries)} killed, all gone after at most {slowest / 1000:.0f} ms")


def test_the_supervisor_is_killed_at_any_moment(campaign: Campaign, step: str) -> None:
    """A typed error within two seconds, or success; then all works in the same process."""
    tries = moments(campaign, step)
    typed = sum("typed" in campaign.ask("bereft", step, moment) for moment in tries)
    print(f"{step}: {typed} errors in {len(tries)} tries")


def test_interrupted_at_any_moment(campaign: Campaign, step: str) -> None:
    """Done or undone; raised within 100 ms (and what this machine's other work takes)."""
    slowest, lost = 0, 0
    tries = moments(campaign, step)
    for moment in tries:
        said = campaign.ask("interrupted", step, moment)
        slowest = max(slowest, *map(int, said.get("interrupted", ["0"])), 0)
        lost += sum(map(int, said.get("descriptors", [])))
    assert slowest < 250_000, slowest
    # Between a call of the interpreter's own and its result, as with `os.open`.
    assert lost <= 1 + len(tries) // 20
    print(
        f"{step}: {len(tries)} tries, raised after at most {slowest / 1000:.0f} ms, {lost} descriptors lost"
    )


def test_eight_processes_of_which_some_are_killed(campaign: Campaign) -> None:
    said = campaign.ask("crowd", "", int(SECONDS * 1000 / (2 if campaign.rootless else 1)))
    lines = campaign.errors.read_text()
    assert not said["errors"][0], said["errors"][0]
    assert "lived" in said and int(said["killed"][0]) > 3, (said, lines)
    print(f"{said['killed'][0]} killed")


def test_hundreds_of_starts_leave_all_as_it_was(campaign: Campaign) -> None:
    campaign.ask("cycles", "", 30 if campaign.rootless else 300)


def test_without_descriptors(campaign: Campaign) -> None:
    assert int(campaign.ask("exhausted", "", 40)["failed"][0]) > 3
