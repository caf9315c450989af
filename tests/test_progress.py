"""Who is told how far a transfer is: nobody, a function, or whoever looks at a terminal or a notebook."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest

import images_made
import pycontainer as pc
from fault_registry import FaultRegistry
from registry_faults import Slow, Status

NAME = "team/app"
ENV = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm", "COLUMNS": "100"}
SCRIPT = """
import os, sys
import pycontainer as pc
progress = eval(os.environ["PROGRESS"])
with pc.Store(os.environ["STORE"]) as store:
    image = pc.pull(os.environ["REF"], progress=progress, store=store)
    print("rich" in sys.modules, flush=True)
    image.push(os.environ["REF"] + "-again", progress=progress)
print("FINISHED", flush=True)
"""


@pytest.fixture
def registry() -> Iterator[FaultRegistry]:
    with FaultRegistry() as running:
        layers = [images_made.layer({f"{number}": os.urandom(300_000)}) for number in range(3)]
        running.put_image(NAME, "1", layers)
        yield running


@pytest.fixture
def store(tmp_path: Path) -> Iterator[pc.Store]:
    with pc.Store(tmp_path / "store") as store:
        yield store


def image_of(registry: FaultRegistry) -> list[str]:
    """The beginnings of its layers' digests, as bars are called."""
    with pc.Registry(registry.host) as there:
        manifest = there.repository(NAME).manifest("1")
    assert isinstance(manifest, pc.Manifest)
    return [layer.digest.hex[:12] for layer in manifest.layers]


def environment(registry: FaultRegistry, tmp_path: Path, progress: object) -> dict[str, str]:
    store = {"STORE": str(tmp_path / "of-another"), "REF": f"{registry.host}/{NAME}:1"}
    return {**ENV, **store, "PROGRESS": repr(progress)}


@pytest.mark.parametrize("progress", [None, True, False])
def test_on_a_terminal(registry: FaultRegistry, tmp_path: Path, progress: bool | None) -> None:
    names = image_of(registry)
    registry.fault(Slow(1_000_000), path="/blobs/", times=None)
    environ = environment(registry, tmp_path, progress)
    child = pexpect.spawn(
        sys.executable, ["-W", "error", "-c", SCRIPT], env=environ, dimensions=(24, 100), timeout=30
    )
    child.expect_exact("FINISHED")
    said = child.before.decode()
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0, said
    if progress is False:
        assert said.split() == ["False"]
        return
    for name in names:
        assert name in said
    for words in ("pulling", "done", r"pushing|exists", r"\d/\d.* KiB", "━"):
        assert re.search(words, said), words
    # The cursor is there again, and on a line of its own.
    assert said.endswith("\n\x1b[?25h")


@pytest.mark.parametrize(("progress", "silent"), [(None, True), (False, True), (True, False)])
def test_without_a_terminal(
    registry: FaultRegistry, tmp_path: Path, progress: bool | None, silent: bool
) -> None:
    command = [sys.executable, "-W", "error", "-c", SCRIPT]
    environ = environment(registry, tmp_path, progress)
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == [str(not silent), "FINISHED"], done.stderr
    assert (done.stderr == "") == silent
    if not silent:
        assert all(name in done.stderr for name in image_of(registry)) and "\x1b" not in done.stderr


def test_without_stderr(registry: FaultRegistry, store: pc.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a windowed program has it, and one whose stderr was closed."""
    ref = f"{registry.host}/{NAME}:1"
    monkeypatch.setattr(sys, "stderr", None)
    first = pc.pull(ref, store=store)
    with open(os.devnull, "w") as closed:
        monkeypatch.setattr(sys, "stderr", closed)
    assert pc.pull(ref, store=store) == first


@pytest.mark.parametrize("kind", ["ZMQInteractiveShell", "TerminalInteractiveShell", None])
def test_in_a_notebook(
    registry: FaultRegistry,
    store: pc.Store,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    kind: str | None,
) -> None:
    """There stderr is no terminal: one picture is shown and then replaced by the next, nothing written."""
    pictures: list[str] = []
    shell = None if kind is None else type(kind, (), {})()

    def display(picture: str, *, display_id: bool) -> types.SimpleNamespace:
        assert display_id and kind == "ZMQInteractiveShell"
        return types.SimpleNamespace(update=pictures.append)

    package, inside = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    package.get_ipython = lambda: shell  # type: ignore[attr-defined]
    inside.display, inside.HTML = display, str  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", inside)
    names = image_of(registry)
    slow = registry.fault(Slow(1_000_000), path="/blobs/", times=None)
    image = pc.pull(f"{registry.host}/{NAME}:1", store=store)
    pc.pull(f"{registry.host}/{NAME}:1", progress=False, store=store)
    assert capfd.readouterr() == ("", "")
    if kind != "ZMQInteractiveShell":
        assert pictures == []
        return
    assert len(pictures) > 2 and "pulling" in "".join(pictures)
    assert all(re.search(f"{name}.*done.*KiB", pictures[-1]) for name in names), pictures[-1]
    # What fails is shown as far as it came.
    slow.stop()
    registry.fault(Status(403), method="POST|PATCH|PUT", times=None)
    pictures.clear()
    with pytest.raises(pc.AuthError):
        image.push(f"{registry.host}/other/app:1")
    assert len(pictures) > 0


# Functions


def test_a_function_is_told_everything(
    registry: FaultRegistry, store: pc.Store, capfd: pytest.CaptureFixture[str]
) -> None:
    seen: list[pc.Progress] = []
    threads = set()

    def report(event: pc.Progress) -> None:
        threads.add(threading.get_ident())
        seen.append(event)

    ref = f"{registry.host}/{NAME}:1"
    image = pc.pull(ref, progress=report, store=store)
    for layer in image.layers:
        steps = [event for event in seen if event.digest == layer.digest]
        assert steps[-1].step == "done" and steps[-1].done == steps[-1].total == layer.size
        assert [event.done for event in steps] == sorted(event.done for event in steps)
        assert {event.total for event in steps} == {layer.size}
    seen.clear()
    pc.pull(ref, progress=report, store=store)
    assert {event.step for event in seen} == {"exists"} and len(seen) == 3
    seen.clear()
    image.push(f"{registry.host}/other/app:1", progress=report)
    assert {layer.digest for layer in image.layers} <= {event.digest for event in seen}
    with pc.Registry(registry.host) as there:
        repository, other = there.repository(NAME), there.repository("third/app")
        for call in (
            lambda: repository.pull("1", progress=report, store=store),
            lambda: repository.push(image, "2", progress=report),
            lambda: repository.copy("1", other, progress=report),
        ):
            seen.clear()
            call()
            assert {layer.digest for layer in image.layers} <= {event.digest for event in seen}
    assert capfd.readouterr() == ("", "") and "rich" not in repr(seen)


class Enough(Exception):
    pass


@pytest.mark.parametrize("what", ["pull", "push", "copy"])
@pytest.mark.parametrize("kind", [Enough, KeyboardInterrupt])
def test_what_a_function_raises_ends_it(
    registry: FaultRegistry, store: pc.Store, what: str, kind: type[BaseException]
) -> None:
    """It comes out as it is; nothing is left, and the next attempt is a whole one."""

    def report(event: pc.Progress) -> None:
        seen.append(event)
        if len(seen) == 4:
            raise kind

    seen: list[pc.Progress] = []
    image = pc.pull(f"{registry.host}/{NAME}:1", store=store) if what != "pull" else None
    registry.mounts = False
    with pc.Registry(registry.host) as there:
        repository, other = there.repository(NAME), there.repository("other/app")
        call: dict[str, Callable[..., Any]] = {
            "pull": lambda **how: repository.pull("1", store=store, **how),
            "push": lambda **how: other.push(image, "1", **how),
            "copy": lambda **how: repository.copy("1", other, **how),
        }
        with pytest.raises(kind):
            call[what](progress=report)
        assert len(seen) == 4
        assert [each.name for each in threading.enumerate() if "pycontainer" in each.name] == []
        assert "other/app" not in registry.repositories or not registry.repositories["other/app"].tags
        assert os.listdir(store.layout.staging) == [] and store.check() == []
        call[what]()
    assert len(pc.Image.list(store=store)) == 1


@pytest.mark.parametrize("bad", [1, 0, "yes", "", [], object()])
def test_bad_values(registry: FaultRegistry, store: pc.Store, bad: Any) -> None:
    image = pc.Image.scratch(store=store)
    ref = f"{registry.host}/{NAME}:1"
    with pc.Registry(registry.host) as there:
        repository = there.repository(NAME)
        for call in (
            lambda: pc.pull(ref, progress=bad, store=store),
            lambda: image.push(ref, progress=bad),
            lambda: repository.pull("1", progress=bad, store=store),
            lambda: repository.push(image, progress=bad),
            lambda: repository.copy("1", repository, progress=bad),
        ):
            with pytest.raises(pc.InvalidOption, match="progress="):
                call()
    assert registry.log == []
