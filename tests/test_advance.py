"""Containers set up in advance: used where they fit, as private as any, and gone when nobody wants them."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import threading
import time
import weakref
from pathlib import Path

import pytest

import leaks
import pycontainer as pc
from conftest import need
from containers import ROOT, nothing_left, out, sh, until
from host_process import Host, Traces, children, name, started
from pycontainer import advance, session
from pycontainer.supervisor import client

BUSYBOX = Path("/bin/busybox")


def ready() -> advance.Ready | None:
    return session.current().advance._ready


def ready_children() -> list[int]:
    return [pid for pid in children(client.default().pid) if name(pid) == leaks.READY]


def twice(script: str = "hostname", **options: object) -> advance.Ready:
    """Two runs of a kind; what was set up for the third."""
    for _ in range(2):
        out(script, **options)
    found = ready()
    assert found is not None
    until(ready_children, "it is set up")
    return found


@pytest.fixture(params=["host", "layers"])
def image(request: pytest.FixtureRequest, tmp_path: Path) -> pc.Image:
    return pc.Image.host() if request.param == "host" else make_image(tmp_path / "root")


def make_image(root: Path) -> pc.Image:
    need(BUSYBOX.exists(), "busybox (package busybox-static)")
    (root / "bin").mkdir(parents=True)
    shutil.copy(BUSYBOX, root / "bin")
    for applet in ("sh", "hostname", "cat", "ls", "touch", "id", "env", "sleep"):
        (root / "bin" / applet).symlink_to("busybox")
    image = pc.Image.from_directory(root)
    image.rootfs()
    return image


def test_the_third_of_a_kind_is_there_already(image: pc.Image) -> None:
    with nothing_left():
        found = twice(image=image)
        assert out("hostname", image=image) == found.container[:12]
        assert out("hostname", image=image) != found.container[:12]


@pytest.fixture
def in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the test does between two runs, it counts as no time."""
    monkeypatch.setattr(advance, "_SHORT", 60.0)


@pytest.mark.usefixtures("in_a_row")
def test_in_a_row_it_is_set_up_beside_the_program(image: pc.Image) -> None:
    with nothing_left():
        twice(image=image)
        first = ready()
        thread = threading.Thread(target=out, args=("sleep 2",), kwargs={"image": image})
        thread.start()
        until(lambda: ready() not in (None, first), "the next one is asked for")
        time.sleep(0.5)
        (pid,) = ready_children()
        assert thread.is_alive(), "it is set up while the program runs"
        thread.join()
        found = ready()
        assert found is not None and ready_children() == [pid], "its time counts from here"
        assert out("hostname", image=image) == found.container[:12]
        until(lambda: not ready_children(), "nobody wanted the next one", seconds=5)


@pytest.mark.usefixtures("in_a_row")
def test_beside_a_program_that_does_not_end_well_it_goes(image: pc.Image) -> None:
    seconds = []
    with nothing_left():
        for _ in range(4):
            twice(image=image)
            with pytest.raises(pc.Timeout):
                image.run(["sleep", "1000"], timeout=0.1)
            begun = time.monotonic()
            until(lambda: not ready_children(), "it is gone")
            seconds.append(time.monotonic() - begun)
    assert min(seconds) < 0.25, "not only when nobody asked for it"


def test_what_is_not_used_goes_by_itself(image: pc.Image) -> None:
    with nothing_left():
        twice(image=image)
        until(lambda: not ready_children(), "nobody wanted it", seconds=5)
    # Asked for after it is gone: set up anew, under the same name.
    found = twice(image=image)
    leaks.at_rest()
    assert out("hostname", image=image) == found.container[:12]


def test_each_is_as_new(image: pc.Image) -> None:
    for _ in range(4):
        assert out("ls /tmp/mark 2>/dev/null; echo $MARK; mkdir -p /tmp; touch /tmp/mark", image=image) == ""
        assert sh("echo $MARK", image=image, env={"MARK": "1"}).stdout == "1\n"
        assert sh("echo $MARK", image=image).stdout == "\n"


def test_program_and_environment_are_those_of_the_call(image: pc.Image) -> None:
    twice(image=image)
    assert image.run(["cat"], input=b"other", capture_output=True).stdout == b"other"
    twice(image=image, user="7:8")
    assert out("id -u; id -g", image=image, user="7:8") == "7\n8"
    assert out("id -u", image=image) == "0"


def test_a_request_that_is_too_long_for_a_message(image: pc.Image) -> None:
    long = "x" * 100_000
    twice(image=image)
    assert image.run(["sh", "-c", "echo ${#1}", "sh", long], capture_output=True).stdout == b"100000\n"


@pytest.mark.cgroup
def test_limits_and_usage() -> None:
    if not ROOT:
        pytest.skip("limits are root's here")
    twice("hostname", memory="64M", pids=10)
    result = sh("head -c 200000000 /dev/zero | tail -c 150000000 >/dev/null", memory="64M", pids=10)
    assert result.cause == "oom"
    twice("hostname", memory="64M", pids=10)
    result = sh("hostname", memory="64M", pids=10)
    assert 0 < result.usage.wall < 10 and 0 < (result.usage.peak_memory or 0) < 64 << 20


def test_one_that_dies_is_not_missed(image: pc.Image) -> None:
    with nothing_left():
        for _ in range(3):
            twice(image=image)
            for pid in ready_children():
                os.kill(pid, signal.SIGKILL)
                until(lambda pid=pid: started(pid) is None, "it is dead")
            assert out("echo fine", image=image) == "fine"


def test_each_kind_has_its_own(image: pc.Image) -> None:
    """Where anything else is wanted than what was set up, that is what there is."""
    changed = image.configure(env={"WHO": "other"}, cwd="/usr")
    changed.rootfs()
    with nothing_left():
        for options in (
            {"hostname": "a"},
            {"read_only": True},
            {"extra_hosts": {"x": "1.2.3.4"}},
            {"umask": 0},
        ):
            found = twice(image=image)
            assert out("hostname", image=image, **options) != found.container[:12]
        found = twice(image=image)
        assert out("echo $WHO; pwd", image=changed) == "other\n/usr"
        assert out("hostname", image=changed) != found.container[:12]


def test_layers_that_were_replaced(tmp_path: Path) -> None:
    image = make_image(tmp_path / "root")
    digest = image.digest
    twice(image=image)
    image.remove(force=True)
    del image
    pc.Store.default().prune()
    image = pc.Image.from_directory(tmp_path / "root")
    assert image.digest == digest
    assert out("cat /bin/busybox | head -c 4 | cat", image=image).endswith("ELF")


def test_what_may_have_changed_is_never_set_up_in_advance(tmp_path: Path) -> None:
    leaks.at_rest()
    for options in (
        {"mounts": [pc.bind(tmp_path, "/mnt")]},
        {"cwd": f"/missing-{os.getpid()}"},
        {"network": "host"},
        {"init": False},
    ):
        for _ in range(3):
            out("true", **options)
        assert not ready_children(), options


def test_beside_containers_that_are_served(image: pc.Image) -> None:
    """Those who serve files, ports and names are there for long; they keep nobody busy."""
    with pc.start("host", ["sleep", "1000"]) as lasting:
        assert lasting.path("/etc/passwd").exists()
        lasting.forward(80)
        found = twice(image=image)
        assert out("hostname", image=image) == found.container[:12]


def test_failures_and_interruptions_order_nothing() -> None:
    leaks.at_rest()
    for _ in range(3):
        with pytest.raises(pc.LaunchError):
            pc.run("host", ["/no/such/program"])
    for _ in range(3):
        with pytest.raises(pc.Timeout):
            pc.run("host", ["sleep", "1000"], timeout=0.05)
    time.sleep(0.05)
    assert not ready_children()


def test_it_ends_with_the_host(tmp_path: Path) -> None:
    script = """
for _ in range(2):
    pc.run("host", ["true"], check=True)
say("ready", client.default().pid)
time.sleep(0.02)
os.kill(os.getpid(), signal.SIGKILL)
"""
    with Host(script, tmp_path) as host:
        _, supervisor = host.line().split()
        found = Traces(host.store, supervisor=int(supervisor))
        host.process.wait()
        found.await_nothing(1.0)


def test_a_store_is_not_kept_by_what_ran_in_it(tmp_path: Path) -> None:
    need(BUSYBOX.exists(), "busybox (package busybox-static)")
    (tmp_path / "root/bin").mkdir(parents=True)
    shutil.copy(BUSYBOX, tmp_path / "root/bin")
    store = pc.Store(tmp_path / "store")
    image = pc.Image.from_directory(tmp_path / "root", store=store)
    for _ in range(3):
        assert image.run(["/bin/busybox", "true"]).returncode == 0
    known = weakref.ref(store)
    del image, store
    gc.collect()
    assert known() is None
