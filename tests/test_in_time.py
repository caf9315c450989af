"""`timeout=` of what reads and writes images and containers' files: time runs out, and all has ended."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import signal
import socket
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pycontainer as pc
import shell_root
from conftest import unchanged
from containers import until
from host_process import children
from keepers import all_removed, keeper_of, supervisor_of
from pycontainer.archive.beside import Replacing
from pycontainer.supervisor import client
from test_deadlines import SECONDS, runs_out

__all__ = ["all_removed"]

FILES = 3000
MUCH = f"mkdir /new; i=0; while [ $i -lt {FILES} ]; do echo $i > /new/$i; i=$((i + 1)); done"
OTHERS = ("cgroups", "keys", "processes")
"""What other programs on this machine have; the children that do the work are looked at each."""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """So many files that nothing is done with all of them in a moment."""
    root = shell_root.make(tmp_path_factory.mktemp("tree") / "root")
    (root / "many").mkdir()
    for number in range(FILES):
        (root / f"many/{number}").write_bytes(os.urandom(10_000))
    return root


@pytest.fixture(scope="module")
def image(tree: Path) -> pc.Image:
    made = pc.Image.from_directory(tree, config={"cmd": ["sleep", "1000"]})
    made.rootfs()
    return made


@pytest.fixture(scope="module")
def archive(image: pc.Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "image.tar"
    image.save(path)
    return path


@pytest.fixture
def store(tmp_path: Path) -> Iterator[pc.Store]:
    with pc.Store(tmp_path / "store") as store:
        assert pc.Image.list(store=store) == []
        yield store
        assert store.check() == []
        assert os.listdir(store.layout.staging) == []
        assert pc.Image.list(store=store) == []
        store.prune()
        assert os.listdir(store.layers.root) == []


@pytest.fixture(params=["created", "running"])
def container(request: pytest.FixtureRequest, image: pc.Image) -> Iterator[pc.Container]:
    """One that changed much."""
    with image.create() as made:
        if request.param == "running":
            made.start()
            made.exec(["sh", "-ec", MUCH], check=True)
        else:
            made.prepare(["sh", "-ec", MUCH])
        yield made


@contextlib.contextmanager
def stopped_child(supervisor: int | None = None) -> Iterator[list[int]]:
    """The next child that the supervisor has is stopped, and gone in the end."""
    parent = client.default().pid if supervisor is None else supervisor
    before, found, over = set(children(parent)), list[int](), threading.Event()

    def watch() -> None:
        while not over.is_set():
            for pid in set(children(parent)) - before:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
                    found.append(pid)
                    return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()
    assert len(found) == 1
    # Another process's goes a moment after this one has hung up.
    seconds = 0.0 if supervisor is None else 5.0
    until(lambda: found[0] not in children(parent), "the child's end", seconds=seconds)


@contextlib.contextmanager
def stopped_agent(container: pc.Container, seconds: float) -> Iterator[None]:
    """What serves the container's files is stopped, at once or after some seconds, and gone in the end."""
    parent = client.default().pid
    container._close_files()
    before = set(children(parent))
    container.path("/").is_dir()
    (agent,) = set(children(parent)) - before
    timer = threading.Timer(seconds, os.kill, (agent, signal.SIGSTOP))
    timer.start()
    if not seconds:
        timer.join()
    yield
    timer.join()
    assert agent not in children(parent)


@pytest.fixture(autouse=True)
def supervisor() -> int:
    return client.default().pid


def stalls(call: Callable[[], object], *words: str, supervisor: int | None = None) -> None:
    """`call` runs out of time while the child that does its work is stopped."""
    with unchanged(ignore=OTHERS), stopped_child(supervisor):
        runs_out(call, *words)


def test_from_directory(tree: Path, store: pc.Store) -> None:
    def make() -> object:
        return pc.Image.from_directory(tree, timeout=SECONDS, store=store)

    stalls(make, "from_directory", str(tree))


def test_unpacking(tree: Path, store: pc.Store, archive: Path) -> None:
    """Of the archive's layer, by a child, while this process feeds it."""
    stalls(lambda: pc.Image.load(archive, timeout=SECONDS, store=store), "load", str(archive))
    with io.BytesIO() as file:
        with tarfile.open(fileobj=file, mode="w") as tar:
            tar.add(tree, ".")
        file.seek(0)
        stalls(lambda: pc.Image.from_tar(file, timeout=SECONDS, store=store), "from_tar", "the archive")


@pytest.mark.parametrize("kind", ["pipe", "buffered", "socket", "slow"])
def test_a_tar_that_does_not_come(store: pc.Store, kind: str) -> None:
    begin = b"\0" * 100
    with contextlib.ExitStack() as held:
        if kind == "slow":
            file = held.enter_context(_Slow())
        elif kind == "socket":
            ours, theirs = socket.socketpair()
            held.enter_context(ours)
            held.enter_context(theirs)
            theirs.sendall(begin)
            file = held.enter_context(ours.makefile("rb"))
        else:
            reader, writer = os.pipe()
            held.callback(os.close, writer)
            os.write(writer, begin)
            file = held.enter_context(open(reader, "rb", buffering=0 if kind == "pipe" else -1))
        with unchanged(ignore=OTHERS):
            name = str(getattr(file, "name", "the archive"))
            runs_out(lambda: pc.Image.from_tar(file, timeout=SECONDS, store=store), "from_tar", name)
            assert not file.closed


class _Slow(io.RawIOBase):
    """Ever more of an archive."""

    def read(self, size: int = -1) -> bytes:
        time.sleep(0.02)
        return b"\0" * 512


@pytest.mark.parametrize("writer", [False, True])
def test_a_named_pipe(store: pc.Store, tmp_path: Path, writer: bool) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    held = os.open(path, os.O_RDWR) if writer else -1
    with unchanged(ignore=OTHERS):
        runs_out(lambda: pc.Image.from_tar(path, timeout=SECONDS, store=store), "from_tar", str(path))
        runs_out(lambda: pc.Image.load(path, timeout=SECONDS, store=store), "load", str(path))
    if writer:
        os.close(held)


def test_named_pipes_in_time(archive: Path, tmp_path: Path) -> None:
    """Whoever writes may come later."""
    os.mkfifo(path := tmp_path / "pipe")
    with (
        pc.Store(tmp_path / "store") as store,
        subprocess.Popen(["sh", "-c", 'sleep 0.3; cat "$0" > "$1"', archive, path]) as process,
    ):
        (image,) = pc.Image.load(path, timeout=60, store=store)
        assert process.wait() == 0
        with subprocess.Popen(["tar", "c", "-C", archive.parent, "."], stdout=subprocess.PIPE) as tar:
            assert tar.stdout is not None
            pc.Image.from_tar(tar.stdout, timeout=60, store=store)
        assert image in pc.Image.list(store=store)


@pytest.mark.parametrize("there", [False, True])
def test_image_export(image: pc.Image, tmp_path: Path, there: bool) -> None:
    stays_as_it_was(lambda path: image.export(path, timeout=SECONDS), "export", tmp_path, there)


def stays_as_it_was(export: Callable[[Path], object], verb: str, directory: Path, there: bool) -> None:
    path = directory / "out"
    if there:
        path.write_text("before")
    stalls(lambda: export(path), verb, str(path))
    assert os.listdir(directory) == (["out"] if there else [])
    assert not there or path.read_text() == "before"


@pytest.mark.parametrize("format", ["oci-archive", "docker-archive", "oci"])
def test_save(image: pc.Image, tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To a slow disk."""
    path = tmp_path / "out"
    write = Replacing.write

    def slow(file: Replacing, chunk: bytes) -> None:
        time.sleep(0.1)
        write(file, chunk)

    with monkeypatch.context() as patch, unchanged(ignore=OTHERS):
        patch.setattr(Replacing, "write", slow)
        runs_out(lambda: image.save(path, format, timeout=SECONDS), "save", str(path))  # type: ignore[arg-type]
    assert os.listdir(tmp_path) == []
    image.save(path, format, timeout=60)  # type: ignore[arg-type]


def test_a_layout_that_somebody_else_writes(image: pc.Image, tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        runs_out(lambda: image.save(tmp_path, "oci", timeout=SECONDS), "save", str(tmp_path))
    finally:
        os.close(fd)


def test_a_store_that_somebody_else_prunes(archive: Path, tree: Path, store: pc.Store) -> None:
    with store._exclusive(0), unchanged(ignore=OTHERS):
        runs_out(lambda: pc.Image.load(archive, timeout=SECONDS, store=store), "load", str(archive))
        runs_out(lambda: store.check(timeout=SECONDS), "check", store.path)


def test_check(store: pc.Store, archive: Path) -> None:
    (image,) = pc.Image.load(archive, store=store)
    stalls(lambda: store.check(timeout=SECONDS), "check", store.path)
    image.remove()


@pytest.mark.parametrize("there", [False, True])
def test_container_export(container: pc.Container, tmp_path: Path, there: bool) -> None:
    stays_as_it_was(lambda path: container.export(path, timeout=SECONDS), "export", tmp_path, there)


def test_diff(container: pc.Container) -> None:
    stalls(lambda: container.diff(timeout=SECONDS), "diff", container.id[:12])
    assert "/new/1" in [change.path for change in container.diff(timeout=60)]


def test_commit(container: pc.Container) -> None:
    before, status = pc.Image.list(), container.status
    stalls(lambda: container.commit("new", timeout=SECONDS), "commit", container.id[:12])
    assert pc.Image.list() == before
    assert container.status == status
    container.commit(timeout=60).remove()


@contextlib.contextmanager
def changed_by_another_thread(container: pc.Container) -> Iterator[None]:
    there, over = threading.Event(), threading.Event()

    def hold() -> None:
        with container._changing:
            there.set()
            over.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    there.wait()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_another_thread_that_changes_it(container: pc.Container, tmp_path: Path) -> None:
    """Is waited for, no longer than there is time."""
    with changed_by_another_thread(container):
        runs_out(lambda: container.diff(timeout=SECONDS), "diff", container.id[:12])
        runs_out(
            lambda: container.copy_out("/many", tmp_path, timeout=SECONDS), "copy_out", "/many", str(tmp_path)
        )


@pytest.mark.parametrize("stops", [0.0, 0.1])
def test_copies(container: pc.Container, tree: Path, tmp_path: Path, stops: float) -> None:
    """Their agent is stopped, before or in the midst; the next copy has another one."""
    source, copy = str(tree / "many"), str(tmp_path / "copy")
    with stopped_agent(container, stops):
        runs_out(lambda: container.copy_in(source, "/copy", timeout=SECONDS), "copy_in", source, "/copy")
    with stopped_agent(container, stops):
        runs_out(lambda: container.copy_out("/many", copy, timeout=SECONDS), "copy_out", "/many", copy)
    container.copy_in(source, "/copy", timeout=60)
    container.copy_out("/copy", tmp_path / "out", timeout=60)
    assert sum(len(names) for _, _, names in os.walk(tmp_path / "out")) >= FILES


def test_copies_of_much(container: pc.Container, tree: Path, tmp_path: Path) -> None:
    """Nothing stops; there is too much of it."""
    (tmp_path / "tree").mkdir()
    big = tmp_path / "tree/big"
    with open(big, "wb") as file:
        for _ in range(64):
            file.write(os.urandom(1 << 20))
    before = set(container.path("/").iterdir())
    with pytest.raises(pc.Timeout):
        container.copy_in(tree, "/copy", timeout=0.05)
    with pytest.raises(pc.Timeout):
        container.copy_in(big, "/big", timeout=0.001)
    assert {str(path) for path in set(container.path("/").iterdir()) - before} <= {"/copy"}
    with pytest.raises(pc.Timeout):
        container.copy_out("/many", tmp_path / "out", timeout=0.05)
    left = list((tmp_path / "out").rglob(".*")) if (tmp_path / "out").exists() else []
    assert left == []


def test_persistent_containers(image: pc.Image, tmp_path: Path, tree: Path) -> None:
    """Their keeper does the work, and ends it."""
    with image.start(persist=True) as container:
        container.exec(["sh", "-ec", MUCH], check=True)
        supervisor = supervisor_of(keeper_of(container))
        path, name = tmp_path / "out", container.id[:12]
        calls: list[tuple[Callable[[], object], list[str]]] = [
            (lambda: container.export(path, timeout=SECONDS), ["export", str(path)]),
            (lambda: container.diff(timeout=SECONDS), ["diff", name]),
            (lambda: container.commit(timeout=SECONDS), ["commit", name]),
        ]
        for call, words in calls:
            with stopped_child(supervisor), pytest.raises(pc.Timeout) as caught:
                call()
            assert (caught.value.timeout, caught.value.cmd) == (SECONDS, words)
        assert os.listdir(tmp_path) == []
        source = str(tree / "many")
        with stopped_child(supervisor):
            runs_out(lambda: container.copy_in(source, "/copy", timeout=SECONDS), "copy_in", source, "/copy")
        container.copy_in(source, "/copy", timeout=60)
        container.export(path, timeout=60)


@pytest.mark.parametrize("timeout", ["soon", float("nan"), True])
def test_what_is_no_time(image: pc.Image, tmp_path: Path, timeout: float) -> None:
    with image.create() as container:
        calls: list[Callable[[], object]] = [
            lambda: container.copy_in(tmp_path, "/", timeout=timeout),
            lambda: container.copy_out("/", tmp_path, timeout=timeout),
            lambda: container.diff(timeout=timeout),
            lambda: container.export(tmp_path / "out", timeout=timeout),
            lambda: container.commit(timeout=timeout),
            lambda: image.save(tmp_path / "out", timeout=timeout),
            lambda: image.export(tmp_path / "out", timeout=timeout),
            lambda: pc.Image.load(tmp_path / "out", timeout=timeout),
            lambda: pc.Image.from_tar(tmp_path / "out", timeout=timeout),
            lambda: pc.Image.from_directory(tmp_path, timeout=timeout),
            lambda: pc.Store.default().check(timeout=timeout),
        ]
        for call in calls:
            with pytest.raises(pc.InvalidOption, match="timeout"):
                call()
    assert os.listdir(tmp_path) == []
