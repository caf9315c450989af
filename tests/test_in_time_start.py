"""`timeout=` of what makes and starts containers: time runs out, and what was begun is gone."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pycontainer as pc
import shell_root
from conftest import unchanged
from keepers import all_removed
from test_deadlines import LATE, SECONDS, runs_out
from test_in_time import OTHERS, archive, changed_by_another_thread, image, stalls, tree

__all__ = ["all_removed", "archive", "image", "tree"]

SPEAK = ["sh", "-c", "echo out; echo err >&2; exec sleep 1000"]
NEVER = pc.wait.log("never")
LONG = 2.0
"""Seconds in which a program has spoken, on a busy machine, too."""


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> pc.Image:
    made = pc.Image.from_directory(shell_root.make(tmp_path_factory.mktemp("shell") / "root"))
    made.rootfs()
    return made


@pytest.fixture
def packed(archive: Path, tmp_path: Path) -> Iterator[pc.Image]:
    """An image whose layer has to be unpacked."""
    with pc.Store(tmp_path / "store") as store:
        (loaded,) = pc.Image.load(archive, store=store)
        for layer in Path(store.layers.root).iterdir():
            shutil.rmtree(layer) if layer.is_dir() else layer.unlink()
        yield pc.Image.get(loaded.id, store=store)
        assert store.check() == []


def speaks(call: Callable[[], object]) -> None:
    """`call`, which is given LONG, waits in vain for a program that speaks; its words are not lost."""
    began = time.monotonic()
    with pytest.raises(pc.Timeout) as caught:
        call()
    assert LONG <= time.monotonic() - began < LONG + LATE
    error = caught.value
    assert (error.timeout, error.result.cause, error.result.returncode) == (LONG, "timeout", -9)
    assert (error.output, error.stderr) == (b"out\n", b"err\n")


@pytest.mark.parametrize("verb", ["run", "create", "start", "mount"])
def test_unpacking(packed: pc.Image, verb: str) -> None:
    calls: dict[str, tuple[Callable[[], object], tuple[str, ...]]] = {
        "run": (lambda: packed.run(["true", "x"], timeout=SECONDS), ("true", "x")),
        "create": (lambda: packed.create(["true"], timeout=SECONDS), ("create", str(packed))),
        "start": (lambda: packed.start(["true"], timeout=SECONDS), ("start", str(packed))),
        "mount": (lambda: packed.mount(timeout=SECONDS), ("mount", str(packed))),
    }
    call, words = calls[verb]
    before = pc.Container.list(all=True)
    stalls(call, *words)
    assert pc.Container.list(all=True) == before
    packed.run(["true"], check=True, timeout=60)


def test_a_new_container_that_does_not_become_ready(shell: pc.Image) -> None:
    before = pc.Container.list(all=True)
    with unchanged(ignore=OTHERS):
        speaks(lambda: shell.start(SPEAK, wait=NEVER, timeout=LONG))
        assert pc.Container.list(all=True) == before


def test_one_that_is_there(shell: pc.Image) -> None:
    """It is there afterwards, too, and starts again."""
    with shell.create(SPEAK, wait=NEVER, restart="always") as container:
        for _ in range(2):
            speaks(lambda: container.start(LONG))
            assert container.status == "stopped"
            assert container.exit_code == -9
        assert container.logs(text=True).read().count("out\n") == 2


def test_one_that_becomes_ready(shell: pc.Image) -> None:
    with shell.start(SPEAK, wait=pc.wait.log("out"), timeout=60) as container:
        assert container.status == "running"
        container.stop(0)
        assert container.start(60).status == "running"


def test_a_persistent_one(shell: pc.Image) -> None:
    before = pc.Container.list(all=True)
    speaks(lambda: shell.start(SPEAK, wait=NEVER, persist=True, timeout=LONG))
    assert pc.Container.list(all=True) == before
    with shell.create(SPEAK, wait=NEVER, persist=True) as container:
        speaks(lambda: container.start(LONG))
        assert container.status == "stopped"
        assert container.exit_code == -9


def test_a_fork(shell: pc.Image) -> None:
    with shell.create(SPEAK) as container, container.seal() as template:
        before = pc.Container.list(all=True)
        with unchanged(ignore=OTHERS):
            speaks(lambda: template.fork(wait=NEVER, timeout=LONG))
        assert pc.Container.list(all=True) == before
        template.fork(timeout=60).remove(force=True)


def test_another_thread_that_changes_it(shell: pc.Image) -> None:
    """Is waited for, no longer than there is time."""
    with shell.create(SPEAK) as container:
        with changed_by_another_thread(container):
            runs_out(lambda: container.start(SECONDS), "start", container.id[:12])
        assert container.start(60).status == "running"


@pytest.mark.parametrize("timeout", ["soon", float("nan"), True])
def test_bad_times(shell: pc.Image, timeout: object) -> None:
    calls: list[Callable[..., object]] = [shell.run, shell.create, shell.start]
    for call in calls:
        with pytest.raises(pc.InvalidOption, match="timeout"):
            call(["true"], timeout=timeout)
    with pytest.raises(pc.InvalidOption, match="timeout"):
        shell.mount(timeout=timeout)  # type: ignore[arg-type]
    with shell.create(["true"]) as container:
        with pytest.raises(pc.InvalidOption, match="timeout"):
            container.start(timeout)  # type: ignore[arg-type]
        assert container.status == "created"
