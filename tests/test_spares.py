"""Writable layers that are used again, and what must never be seen in the next one."""

from __future__ import annotations

import array
import fcntl
import gc
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import leaks
import pycontainer as pc
from conftest import need
from containers import ROOT, until
from host_process import Host, Traces, children, name

BUSYBOX = Path("/bin/busybox")
_GETFLAGS, _SETFLAGS, _NOATIME = 0x80086601, 0x40086602, 0x80


@pytest.fixture(scope="module")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need(BUSYBOX.exists(), "busybox (package busybox-static)")
    root = tmp_path_factory.mktemp("spares") / "root"
    (root / "bin").mkdir(parents=True)
    (root / "etc").mkdir()
    shutil.copy(BUSYBOX, root / "bin")
    for applet in ("sh", "cat", "ls", "stat", "touch", "rm", "rmdir", "mkdir", "mv", "ln", "chmod", "chown"):
        (root / "bin" / applet).symlink_to("busybox")
    (root / "bin/true").symlink_to("busybox")
    (root / "etc/motd").write_text("of the image\n")
    return root


@pytest.fixture(scope="module")
def image(rootfs: Path) -> pc.Image:
    return pc.Image.from_directory(rootfs)


def directories(store: Path | None = None) -> list[Path]:
    """Those of containers, and spare ones."""
    return sorted((store or Path(pc.Store.default().path)).glob("containers/*/*"))


def spares(store: Path | None = None) -> list[Path]:
    return [path for path in directories(store) if leaks.SPARE.fullmatch(path.name)]


def is_clean(spare: Path) -> bool:
    try:
        return sorted(os.listdir(spare)) == ["upper", "work"] and not any(
            os.listdir(spare / name) for name in ("upper", "work")
        )
    except FileNotFoundError:
        return False


def clean_spares() -> list[Path]:
    """Waits until all are as new: the process aside may be about it."""
    leaks.at_rest()
    until(lambda: all(map(is_clean, spares())), "they are as new")
    return spares()


def sh(image: pc.Image, script: str) -> str:
    done = image.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    return str(done.stdout).strip()


@pytest.mark.parametrize(
    "change",
    [
        "chmod 700 /",
        "chmod 1777 /",
        "chown 0:5 /",
        "touch /file",
        "mkdir /directory",
        "rm /etc/motd",
        "mkdir -p /etc/a/b; rmdir /etc/a/b /etc/a",
        "touch /file; rm /file",
        "mkdir /d; mv /etc/motd /d/; mv /d/motd /etc/; rmdir /d",
        "ln -s x /link",
        "mkdir /dev/shm/d; touch /dev/file",
        "i=0; while [ $i -lt 400 ]; do : > /a-file-with-a-rather-long-name-$i; i=$((i+1)); done; rm /a-file*",
    ],
)
def test_nothing_of_the_one_before_is_seen(image: pc.Image, change: str) -> None:
    looks = "stat -c '%a %u %g' /; ls -A / /dev /dev/shm /etc; cat /etc/motd"
    before = sh(image, looks)
    for _ in range(3):
        sh(image, change)
        assert sh(image, looks) == before
    for spare in clean_spares():
        upper, work = spare / "upper", spare / "work"
        assert (upper.stat().st_size, upper.stat().st_mode) == (work.stat().st_size, 0o40755)


def flags(path: Path, more: int = 0) -> int:
    """ioctl_iflags(2)"""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        cell = array.array("L", [0])
        fcntl.ioctl(fd, _GETFLAGS, cell)
        cell[0] |= more
        fcntl.ioctl(fd, _SETFLAGS, cell)
        return int(cell[0])
    finally:
        os.close(fd)


def during_a_run(image: pc.Image, change: Callable[[Path], object], **options: object) -> None:
    """Calls `change` with the upper directory of a running container's layer."""
    theirs, ours = os.pipe()
    thread = threading.Thread(target=image.run, args=(["cat"],), kwargs={"stdin": theirs, **options})
    thread.start()
    try:
        mounted: list[Path] = []

        def there() -> bool:
            mounted[:] = [path for path in directories() if not leaks.SPARE.fullmatch(path.name)]
            return len(mounted) == 1 and (mounted[0] / "work/work").exists()

        until(there, "the container has its layer")
        change(mounted[0] / "upper")
    finally:
        os.close(ours)
        thread.join()
        os.close(theirs)


@pytest.mark.skipif(not ROOT, reason="such attributes are root's")
@pytest.mark.parametrize(
    "change",
    [
        lambda upper: os.setxattr(upper, "user.mark", b"1"),
        lambda upper: os.setxattr(upper, "trusted.overlay.opaque", b"y"),
        lambda upper: flags(upper, _NOATIME),
    ],
    ids=["attribute", "opaque", "flags"],
)
def test_what_stat_does_not_show(image: pc.Image, change: Callable[[Path], object]) -> None:
    """Done from outside: a container with the capabilities for it can do some of the same."""
    sh(image, "true")
    clean_spares()
    during_a_run(image, change)
    sh(image, "true")
    for spare in clean_spares():
        assert set(os.listxattr(spare / "upper")) <= {"trusted.overlay.uuid"}
        assert flags(spare / "upper") == flags(spare / "work")


def inodes() -> set[int]:
    return {(spare / "upper").stat().st_ino for spare in clean_spares()}


def test_an_unused_layer_is_the_next_ones(image: pc.Image) -> None:
    for _ in range(4):
        sh(image, "true")
    made = inodes()
    seen: list[int] = []
    for _ in range(4):
        during_a_run(image, lambda upper: seen.append(upper.stat().st_ino))
        sh(image, "true")
    assert made.issuperset(seen) and len(seen) == 4
    assert inodes() == made


def mounted_at(directory: Path) -> int:
    """When overlay began to work there, in nanoseconds; 0 where nothing is mounted."""
    try:
        return (directory / "work/work").stat().st_ctime_ns
    except FileNotFoundError:
        return 0


def test_an_unused_root_stays_mounted_for_the_next_one(image: pc.Image) -> None:
    leaks.at_rest()
    again = 0
    for _ in range(5):
        sh(image, "true")
        leaks.at_rest()
        before = {mounted_at(spare) for spare in spares()}
        seen: list[int] = []
        during_a_run(image, lambda upper, seen=seen: seen.append(mounted_at(upper.parent)))
        again += before.issuperset(seen)
    assert again >= 2, "where nobody is slow, all of them"
    made = {(spare / "upper").stat().st_ino for spare in spares()}
    until(lambda: all(map(is_clean, spares())), "nobody wants them any more", seconds=2)
    assert inodes() == made, "the directories stay"


@pytest.mark.parametrize("change", ["touch /file; rm /file", "chmod 700 /", "rm /etc/motd"])
def test_what_was_written_to_is_not_mounted_again(image: pc.Image, change: str) -> None:
    sh(image, "true")
    for _ in range(4):
        assert sh(image, f"stat -c %a /; cat /etc/motd; {change}") == "755\nof the image"


def test_each_image_has_its_own(rootfs: Path, tmp_path: Path) -> None:
    images = []
    for title in ("a", "b", "c"):
        shutil.copytree(rootfs, tmp_path / title, symlinks=True)
        (tmp_path / title / "etc/motd").write_text(title)
        images.append(pc.Image.from_directory(tmp_path / title))
    for _ in range(4):
        assert [sh(image, "cat /etc/motd; rm /etc/motd") for image in images] == ["a", "b", "c"]
        assert [sh(image, "cat /etc/motd") for image in images] == ["a", "b", "c"]


def test_layers_that_are_others_under_the_same_name(rootfs: Path) -> None:
    image = pc.Image.from_directory(rootfs)
    for _ in range(3):
        assert sh(image, "cat /etc/motd") == "of the image"
        (layer,) = image.rootfs().lower
        os.rename(layer, f"{layer}-old")
        shutil.copytree(f"{layer}-old", layer, symlinks=True)
        (Path(layer) / "etc/motd").write_text("another")
        assert sh(image, "cat /etc/motd") == "another"
        shutil.rmtree(layer)
        os.rename(f"{layer}-old", layer)


@pytest.mark.skipif(not ROOT, reason="these are root's")
@pytest.mark.parametrize(
    "options", [{"privileged": True}, {"seccomp": "unconfined"}], ids=["privileged", "no filter"]
)
def test_with_more_rights_it_is_nobody_elses(image: pc.Image, options: dict[str, object]) -> None:

    def seconds_until_clean() -> float:
        clean_spares()
        during_a_run(image, lambda upper: upper, **options)
        begun = time.monotonic()
        until(lambda: all(map(is_clean, spares())), "it is as new")
        return time.monotonic() - begun

    # One that is kept for the next container is not before 0.3 s are over.
    assert min(seconds_until_clean() for _ in range(4)) < 0.25


def test_who_may_have_handed_it_on_leaves_none(rootfs: Path, tmp_path: Path) -> None:
    """A descriptor of its root, sent through a socket, would be a way into the next container."""
    (tmp_path / "shared").mkdir()
    ours, theirs = socket.socketpair()
    at = tmp_path / "store"
    image = pc.Image.from_directory(rootfs, store=pc.Store(at))
    with ours, theirs:
        for options in (
            {"stdin": theirs},
            {"stdout": theirs},
            {"pass_fds": (theirs.fileno(),)},
            {"mounts": [pc.bind(tmp_path / "shared", "/etc")]},
            {"network": "host"},
        ):
            for _ in range(3):
                # Without an init process, none is set up in advance, which had nothing to hand on yet.
                assert image.run(["true"], init=False, **options).returncode == 0
            assert not directories(at), options
    assert image.run(["true"], init=False).returncode == 0
    until(lambda: spares(at), "one that was alone leaves its own")


def test_without_the_process_aside(rootfs: Path, tmp_path: Path) -> None:
    """It is killed with all that it was asked for: containers go on, and nothing stays mounted."""
    script = """
        image = pc.Image.from_directory(os.environ["ROOT"])
        for count in range(60):
            seen = image.run(["ls", "/"], capture_output=True).stdout
            assert seen == b"bin\\ndev\\netc\\nproc\\nsys\\n", seen
            if count == 5:
                say(client.default().pid)
            time.sleep(0.005)
        say("done")
    """
    with Host(script, tmp_path, env={"ROOT": str(rootfs)}) as host:
        (aside,) = [pid for pid in children(int(host.line())) if name(pid) == "pycontainer-net"]
        os.kill(aside, signal.SIGSTOP)
        time.sleep(0.05)
        os.kill(aside, signal.SIGKILL)
        assert host.line(30) == "done"
        host.finish(timeout=30)
        Traces(host.store).await_nothing(2.0)


@pytest.mark.skipif(not ROOT, reason="mounts on the host")
def test_the_file_system_of_a_store_can_be_unmounted(rootfs: Path, tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tmp_path], check=True)
    try:
        with pc.Store(tmp_path / "store") as store:
            image = pc.Image.from_directory(rootfs, store=store)
            for _ in range(5):
                sh(image, "true")
        del store, image
        gc.collect()
    finally:
        until(
            lambda: subprocess.run(["umount", tmp_path], capture_output=True).returncode == 0,
            "nothing is mounted on it any more",
        )


def test_many_at_once(image: pc.Image) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: sh(image, f"ls -A /; echo > /mark-{n % 2 or ''}"), range(64)))
    assert len(set(found)) == 1
    assert len(clean_spares()) <= 8


def test_of_another_store(rootfs: Path, tmp_path: Path) -> None:
    for title in ("a", "b", "a", "b"):
        image = pc.Image.from_directory(rootfs, store=pc.Store(tmp_path / title))
        for _ in range(3):
            assert sh(image, "ls -d /mark 2>/dev/null; touch /mark; ls /mark") == "/mark"
            sh(image, "true")


SCRIPT = """
    import pathlib
    image = pc.Image.from_directory(os.environ["ROOT"])
    for _ in range(3):
        image.run(["true"])
    store = pathlib.Path(pc.Store.default().path)
    deadline = time.monotonic() + 5
    while not list(store.glob("containers/*/spare-*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    say(len(list(store.glob("containers/*/spare-*"))) > 0, client.default().pid)
    {end}
"""


def test_they_go_with_their_process(rootfs: Path, tmp_path: Path) -> None:
    with Host(SCRIPT.format(end=""), tmp_path, env={"ROOT": str(rootfs)}) as host:
        assert host.line(30).startswith("True")
        host.finish(timeout=30)
        Traces(host.store).await_nothing(2.0)


def test_they_are_found_after_a_death(rootfs: Path, tmp_path: Path) -> None:
    """The host and its supervisor are killed at once: the next one that opens the store removes them."""
    end = "os.kill(client.default().pid, signal.SIGKILL); os.kill(os.getpid(), signal.SIGKILL)"
    with Host(SCRIPT.format(end=end), tmp_path, env={"ROOT": str(rootfs)}) as host:
        supervisor = int(host.line(30).split()[1])
        host.process.wait(10)
        until(lambda: not Path(f"/proc/{supervisor}").exists(), "its supervisor is gone")
        assert spares(host.store)
    pc.Store(host.store).recover()
    until(lambda: directories(host.store) == [], "they are swept")
