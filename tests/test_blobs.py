"""Blobs, staged files and locks: whole or not there, and nothing left behind by the dead."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pycontainer.blobs import staging
from pycontainer.blobs.layout import Layout
from pycontainer.blobs.locks import lock_file, try_lock
from pycontainer.errors import NoSpace, StoreCorrupt, StoreError
from pycontainer.oci.digest import Digest


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(str(tmp_path / "layout"))
    os.mkdir(made.root)
    made.create()
    return made


def test_put_and_read(layout: Layout) -> None:
    digest = layout.blobs.put(b"hello")
    assert layout.blobs.put(b"hello") == digest == Digest.of(b"hello")
    assert layout.blobs.read(digest, limit=5) == b"hello"
    assert layout.blobs.size(digest) == 5
    assert [name for _, name in layout.blobs.names()] == [digest]
    assert layout.blobs.delete(digest) == 5 and layout.blobs.delete(digest) == 0
    assert os.listdir(layout.staging) == []


def test_dropped_writer_leaves_nothing(layout: Layout) -> None:
    with pytest.raises(KeyError), layout.blobs.writer() as writer:
        writer.write(b"x" * 3_000_000)
        assert b"".join(writer.chunks()) == b"x" * 3_000_000
        raise KeyError
    assert os.listdir(layout.staging) == [] and not list(layout.blobs.names())


@pytest.mark.parametrize("damage", [b"hellO", b"hell", b"hello!", b""])
def test_damage_is_found_before_the_end_is_reported(layout: Layout, damage: bytes) -> None:
    digest = layout.blobs.put(b"hello")
    Path(layout.blobs.path(digest)).write_bytes(damage)
    with pytest.raises(StoreCorrupt, match=str(digest)):
        layout.blobs.read(digest, limit=100)
    with pytest.raises(StoreCorrupt):
        list(layout.blobs.chunks(digest, size=5))


def test_reads_are_bounded(layout: Layout) -> None:
    digest = layout.blobs.put(b"x" * 100)
    with pytest.raises(StoreCorrupt, match="more than 99"):
        layout.blobs.read(digest, limit=99)
    with pytest.raises(StoreCorrupt, match="missing"):
        layout.blobs.read(Digest.of(b"other"), limit=99)


def test_a_link_is_no_blob(layout: Layout, tmp_path: Path) -> None:
    digest = Digest.of(b"secret")
    (tmp_path / "secret").write_bytes(b"secret")
    os.symlink(tmp_path / "secret", layout.blobs.path(digest))
    with pytest.raises(StoreError):
        layout.blobs.read(digest, limit=99)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk(layout: Layout, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def full(fd: int, data: bytes) -> int:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch, pytest.raises(NoSpace, match=errno.errorcode[code]):
        patch.setattr(os, "write", full)
        layout.blobs.put(b"x")
    assert os.listdir(layout.staging) == []


def test_sweep_takes_only_what_nobody_holds(layout: Layout) -> None:
    (Path(layout.staging) / "left").write_bytes(b"x")
    with staging.StagedFile(layout.staging) as alive:
        staging.sweep(layout.staging)
        assert os.listdir(layout.staging) == [os.path.basename(alive.path)]


def test_layout_is_made_once_and_checked(layout: Layout) -> None:
    layout.create()
    layout.check_marker()
    assert layout.read_index().manifests == ()
    (Path(layout.root) / "index.json").write_text("{")
    with pytest.raises(StoreCorrupt, match=r"index\.json"):
        layout.read_index()


def test_locks_exclude(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    with lock_file(path, shared=True) as first:  # type: ignore[union-attr]
        assert first.fd >= 0
        with lock_file(path, shared=True):  # type: ignore[union-attr]
            assert lock_file(path, wait=False) is None
    assert try_lock(str(tmp_path / "none")) is None


def test_a_deleted_lock_file_locks_nothing(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    old = lock_file(path)
    assert old is not None
    os.unlink(path)
    with lock_file(path, wait=False) as new:  # type: ignore[union-attr]
        assert os.fstat(new.fd).st_ino == os.stat(path).st_ino
    old.release()


def test_a_lock_dies_with_its_process(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    code = (
        "import sys, time; from pycontainer.blobs.locks import lock_file\n"
        "held = lock_file(sys.argv[1]); print('held', flush=True); time.sleep(60)"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE, env=env) as child:
        assert child.stdout is not None and child.stdout.readline() == b"held\n"
        assert lock_file(path, wait=False) is None
        child.send_signal(signal.SIGKILL)
        child.wait()
    with lock_file(path, wait=False):  # type: ignore[union-attr]
        pass


def test_a_forked_child_neither_holds_nor_gives_up_an_exclusive_lock(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    held = lock_file(path)
    assert held is not None
    ready, done = multiprocessing.Pipe()
    pid = os.fork()
    if pid == 0:
        held.release()
        done.send("released")
        done.recv()
        os._exit(0)
    ready.recv()
    assert lock_file(path, wait=False) is None
    held.release()
    with lock_file(path, wait=False):  # type: ignore[union-attr]
        pass
    ready.send("end")
    assert os.waitpid(pid, 0)[1] == 0
    ready.close()
    done.close()
