"""An image's merged files as a directory of the host, and that nothing of it outlives anybody."""

from __future__ import annotations

import errno
import gc
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import host_process
import layer_tars as tars
from conftest import need, unchanged
from ordinary_user import OrdinaryUser
from pycontainer.errors import LaunchError
from pycontainer.layer.unpacked import chain_ids
from pycontainer.oci.digest import Digest
from pycontainer.snapshot.mounted import mount
from pycontainer.store import LayeredRoot, Store

LAYERS = [
    tars.archive(
        tars.directory(b"etc", mode=b"0000750\0"),
        tars.entry(b"etc/name", b"lower"),
        tars.entry(b"etc/gone", b"x"),
        tars.symlink(b"link", b"etc/name"),
    ),
    tars.archive(tars.entry(b"etc/.wh.gone"), tars.entry(b"etc/name", b"upper"), tars.entry(b"new", b"")),
]

MAKE = f"""
from pathlib import Path
from pycontainer.layer.unpacked import chain_ids
from pycontainer.oci.digest import Digest
from pycontainer.snapshot.mounted import mount
from pycontainer.store import LayeredRoot, Store
LAYERS = {LAYERS!r}
def stacked(store, layers):
    diff_ids = [Digest.of(data) for data in layers]
    chains = chain_ids(diff_ids)
    for chain, below, diff_id, data in zip(chains, [None, *chains], diff_ids, layers):
        lease = store.layers.ensure(chain, below, diff_id, lambda: iter([data]), store.limits)
    return LayeredRoot(store.layers.stack(chains[-1]), store, lease)
"""


def stacked(store: Store, layers: list[bytes]) -> LayeredRoot:
    diff_ids = [Digest.of(data) for data in layers]
    chains = chain_ids(diff_ids)
    lease = None
    for chain, below, diff_id, data in zip(chains, [None, *chains], diff_ids, layers, strict=False):
        lease = store.layers.ensure(chain, below, diff_id, lambda data=data: iter([data]), store.limits)
    return LayeredRoot(store.layers.stack(chains[-1]), store, lease)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    need(os.getuid() == 0, "root")
    gc.collect()
    with Store(tmp_path / "store") as store:
        yield store


def nothing_mounted(store: Path) -> list[str]:
    return [*os.listdir(store / "mounts"), *(p for p in host_process.mounts() if p.startswith(str(store)))]


def until(condition: Callable[[], object], seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_it_shows(store: Store) -> None:
    root = stacked(store, LAYERS)
    with unchanged(store=Path(store.path)):
        with mount(store, root) as path:
            assert sorted(os.listdir(path)) == ["etc", "link", "new"]
            assert os.listdir(path / "etc") == ["name"]
            assert (path / "link").read_text() == "upper"
            assert (path / "etc").stat().st_mode & 0o777 == 0o750
            assert path.resolve() == path
            assert subprocess.check_output(["cat", path / "etc/name"]) == b"upper"
            with pytest.raises(OSError) as caught:
                (path / "new").write_text("x")
            assert caught.value.errno == errno.EROFS
            flags = os.statvfs(path).f_flag
            assert flags & (os.ST_RDONLY | os.ST_NOSUID | os.ST_NODEV) == 7
            assert path.parent.stat().st_mode & 0o777 == 0o700
        assert not path.exists()
    assert nothing_mounted(Path(store.path)) == []


def test_one_layer_and_none(store: Store) -> None:
    with mount(store, stacked(store, LAYERS[:1])) as path:
        assert (path / "etc/name").read_text() == "lower"
    with mount(store, LayeredRoot((store.empty_tree(),), store)) as path:
        assert os.listdir(path) == []


def test_it_goes_whatever_is_raised_and_whoever_uses_it(store: Store) -> None:
    root = stacked(store, LAYERS)
    with unchanged(store=Path(store.path)):
        with pytest.raises(ZeroDivisionError), mount(store, root) as path:
            kept = os.open(path, os.O_RDONLY)
            _ = 1 / 0
        assert nothing_mounted(Path(store.path)) == []
        os.close(kept)


def test_several_at_once(store: Store) -> None:
    root = stacked(store, LAYERS)
    with mount(store, root) as one, mount(store, root) as two:
        assert one != two
        assert os.listdir(one / "etc") == os.listdir(two / "etc")


def test_a_failure_leaves_nothing(store: Store) -> None:
    with unchanged(store=Path(store.path)):
        with pytest.raises(LaunchError, match="overlay"), mount(store, LayeredRoot(("/no", "/no2"), store)):
            pass
        assert os.listdir(store.path + "/mounts") == []


def test_prune_keeps_the_layers(store: Store) -> None:
    root = stacked(store, LAYERS)
    with mount(store, root) as path:
        assert store.prune() == 0
        assert (path / "etc/name").read_text() == "upper"
    del root
    assert store.prune() > 0


def test_a_forked_child_leaves_it_alone(store: Store) -> None:
    root = stacked(store, LAYERS)
    context = mount(store, root)
    path = context.__enter__()
    child = os.fork()
    if child == 0:
        context.__exit__(None, None, None)
        os._exit(0 if (path / "etc/name").read_text() == "upper" else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert (path / "etc/name").read_text() == "upper"
    context.__exit__(None, None, None)
    assert nothing_mounted(Path(store.path)) == []


HOLD = """
{make}
store = Store.default()
root = stacked(store, LAYERS)
with mount(store, root) as path:
    say(path, client.default().pid)
    {then}
say("left")
"""


def host(tmp_path: Path, then: str = "time.sleep(1000)") -> host_process.Host:
    need(os.getuid() == 0, "root")
    script = HOLD.format(make=MAKE, then=then)
    return host_process.Host(script, tmp_path)


def test_a_killed_host(tmp_path: Path) -> None:
    Store(tmp_path / "store").close()
    with unchanged(store=tmp_path / "store"), host(tmp_path) as running:
        path, supervisor = running.line().split()
        assert os.listdir(path + "/etc") == ["name"]
        traces = host_process.Traces(running.store, supervisor=int(supervisor))
        os.kill(running.pid, signal.SIGKILL)
        traces.await_nothing(2.0)
        until(lambda: not nothing_mounted(running.store))


def test_a_killed_host_and_supervisor(tmp_path: Path) -> None:
    Store(tmp_path / "store").close()
    with unchanged(store=tmp_path / "store"), host(tmp_path) as running:
        path, supervisor = running.line().split()
        os.kill(int(supervisor), signal.SIGSTOP)
        os.kill(running.pid, signal.SIGKILL)
        os.kill(int(supervisor), signal.SIGKILL)
        running.process.wait()
        until(lambda: host_process.started(int(supervisor)) is None)
        assert os.listdir(path + "/etc") == ["name"]
        with Store(running.store):
            assert nothing_mounted(running.store) == []


def test_a_killed_supervisor(tmp_path: Path) -> None:
    then = 'os.kill(client.default().pid, signal.SIGKILL); time.sleep(0.3); say(os.listdir(path / "etc"))'
    Store(tmp_path / "store").close()
    with unchanged(store=tmp_path / "store"), host(tmp_path, then) as running:
        running.line()
        assert running.finish() == ["['name']", "left"]
        assert nothing_mounted(running.store) == []


def test_a_mount_in_use_is_not_swept(tmp_path: Path) -> None:
    with host(tmp_path) as running:
        path, _ = running.line().split()
        with Store(running.store) as other:
            other.recover()
            assert os.listdir(path + "/etc") == ["name"]


def test_as_an_ordinary_user(as_user: OrdinaryUser) -> None:
    script = f"""
import os, subprocess, time
{MAKE}
from pycontainer.supervisor import client
store = Store.default()
for layers, name in ((LAYERS, "upper"), (LAYERS[:1], "lower")):
    root = stacked(store, layers)
    with mount(store, root) as path:
        pid = path.parts[2]
        assert (path / "etc/name").read_text() == name
        assert subprocess.check_output(["cat", path / "etc/name"], text=True) == name
        assert ("gone" in os.listdir(path / "etc")) == (name == "lower")
        assert {{each.name for each in path.iterdir()}} >= {{"etc", "link"}}
        try:
            (path / "etc/name").write_text("x")
        except OSError as error:
            assert error.errno == 30, error
        else:
            raise AssertionError
    assert not os.path.exists(f"/proc/{{pid}}")

# Killed, it takes the process that held the mount along.
reading, writing = os.pipe()
if os.fork() == 0:
    with mount(store, root) as path:
        os.write(writing, f"{{os.getpid()}} {{path}}".encode())
        time.sleep(1000)
killed, path = os.read(reading, 1000).decode().split()
assert os.listdir(path)
os.kill(int(killed), 9)
os.wait()
deadline = time.monotonic() + 5
while os.path.exists(path) and time.monotonic() < deadline:
    time.sleep(0.01)
assert not os.path.exists(path)
assert os.listdir(store.path + "/mounts") == []
"""
    as_user(script)
