"""`Container.diff`: what a container changed, and nothing that setting it up put there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import pycontainer as pc
import shell_root
from containers import as_root, nothing_left
from docker_daemon import Docker


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> pc.Image:
    return pc.Image.from_directory(shell_root.make(tmp_path_factory.mktemp("root") / "root"))


@pytest.fixture
def container(image: pc.Image) -> Iterator[pc.Container]:
    with image.start(["sleep", "1000"]) as made:
        yield made


def changes(container: pc.Container) -> dict[str, str]:
    found = container.diff()
    assert found == sorted(found, key=lambda change: change.path)
    assert all(isinstance(change, pc.Change) for change in found)
    shown = {change.path: change.kind for change in found}
    assert len(shown) == len(found)
    return shown


def after(container: pc.Container, script: str) -> dict[str, str]:
    container.exec(["sh", "-ec", script], capture_output=True, check=True)
    return changes(container)


def test_nothing(image: pc.Image) -> None:
    with image.create(["sleep", "1000"]) as container:
        assert container.diff() == []
        container.start()
        assert container.diff() == []
        container.kill()
        assert container.diff() == []


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo > /new", {"/new": "added"}),
        ("mkdir -p /x/y; echo > /x/y/z", {"/x": "added", "/x/y": "added", "/x/y/z": "added"}),
        ("ln -s a /link; mkfifo /fifo", {"/link": "added", "/fifo": "added"}),
        ("echo more >> /etc/motd", {"/etc/motd": "modified"}),
        ("chmod 600 /etc/motd", {"/etc/motd": "modified"}),
        ("chmod 711 /data", {"/data": "modified"}),
        ("touch -t 200001010000 /data/sub", {"/data/sub": "modified"}),
        ("rm /data/a", {"/data": "modified", "/data/a": "deleted"}),
        ("rm -r /gone", {"/gone": "deleted"}),
        ("echo > /data/sub/new", {"/data/sub": "modified", "/data/sub/new": "added"}),
        ("mv /data/a /data/b", {"/data": "modified", "/data/a": "deleted", "/data/b": "added"}),
        ("rm -r /data; echo > /data", {"/data": "modified"}),
        ("rm /etc/motd; mkdir /etc/motd; echo > /etc/motd/in",
         {"/etc": "modified", "/etc/motd": "modified", "/etc/motd/in": "added"}),
        ("echo > /new; rm /new", {}),
    ],
)  # fmt: skip
def test_what_the_layer_says(container: pc.Container, script: str, expected: dict[str, str]) -> None:
    assert after(container, script) == expected


def test_a_directory_that_was_made_anew_hides_what_was_there(container: pc.Container) -> None:
    script = "rm -r /data; mkdir /data /data/sub; echo > /data/sub/new; echo again > /data/a"
    assert after(container, script) == {
        "/data": "modified",
        "/data/a": "modified",
        "/data/sub": "modified",
        "/data/sub/b": "deleted",
        "/data/sub/new": "added",
    }


def test_mount_points_are_none(image: pc.Image, tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "file").write_text("")
    (image_link := tmp_path / "link").mkdir()
    mounts = [
        pc.tmpfs("/scratch"),
        pc.bind(tmp_path / "dir", "/a/b/c"),
        pc.bind(tmp_path / "file", "/etc/sub/file"),
        pc.content("text", "/data/sub/content"),
        pc.bind(image_link, "/empty/there"),
    ]
    with image.create(["sleep", "1000"], mounts=mounts, cwd="/work/here") as container:
        assert changes(container) == {}
        container.start()
        assert changes(container) == {}
        assert after(container, "echo > /a/b/c/outside; echo > /scratch/x") == {}
        container.kill()
        assert changes(container) == {}
        container.start()
        assert after(container, "echo > /a/b/own; echo > /data/sub/own") == {
            "/a": "added",
            "/a/b": "added",
            "/a/b/own": "added",
            "/data/sub": "modified",
            "/data/sub/own": "added",
        }
    assert not any(os.listxattr(tmp_path / name) for name in ("dir", "file"))


def test_a_mount_point_behind_a_link_is_none_either(image: pc.Image) -> None:
    with image.create(["sleep", "1000"]) as first:
        first.prepare(["ln", "-s", "/data/sub", "/short"])
        with first.seal() as template, template.fork(mounts=[pc.tmpfs("/short/x/y")]) as container:
            assert changes(container) == {}


def test_a_directory_made_by_the_program_is_one_though_empty(container: pc.Container) -> None:
    assert after(container, "mkdir /mine; : > /mine/empty") == {"/mine": "added", "/mine/empty": "added"}


def test_what_only_its_owner_may_enter(container: pc.Container) -> None:
    script = "mkdir /x; echo > /x/y; chmod 0 /x/y /x; chmod 700 /data"
    assert after(container, script) == {"/x": "added", "/x/y": "added", "/data": "modified"}


def test_of_another_owner(container: pc.Container) -> None:
    assert after(container, "chown 1000:1000 /data/sub; echo > /n; chown 33 /n") == {
        "/data/sub": "modified",
        "/n": "added",
    }


def test_odd_names(container: pc.Container) -> None:
    script = (
        "cd /tmp; echo > 'a b'; echo > \"$(printf 'n\\nl')\"; echo > \"$(printf 'b\\377')\"; echo > .wh.x"
    )
    found = after(container, script)
    assert found == {"/tmp": "modified", **{
        f"/tmp/{name}": "added" for name in ("a b", "n\nl", "b\udcff", ".wh.x")
    }}  # fmt: skip


def test_stopped_paused_and_sealed(image: pc.Image) -> None:
    with image.start(["sleep", "1000"]) as container:
        expected = after(container, "echo > /new")
        container.kill()
        assert changes(container) == expected
        with container.seal() as template:
            assert changes(container) == expected
            with template.fork() as fork:
                assert changes(fork) == {}
                assert after(fork, "rm /new; echo > /other") == {"/new": "deleted", "/other": "added"}
    with pytest.raises(pc.InvalidState, match="diff"):
        container.diff()


def test_on_the_host_image() -> None:
    with pc.start("host", ["sleep", "1000"], mounts=[pc.tmpfs("/opt/for/mount")]) as container:
        assert changes(container) == {}
        script = "mkdir /opt/own; echo > /opt/own/x; rm /etc/passwd /etc/group; echo > /etc/group"
        found = after(container, script)
        expected = {
            "/opt": "modified",
            "/opt/own": "added",
            "/opt/own/x": "added",
            "/etc": "modified",
            "/etc/passwd": "deleted",
            "/etc/group": "modified",
        }
        assert found == expected
        container.kill()
        assert changes(container) == expected
        with container.seal() as template, template.fork() as fork:
            assert changes(fork) == {}
            assert after(fork, "rm -r /opt/own") == {"/opt": "modified", "/opt/own": "deleted"}


def test_at_the_top_of_the_host_image() -> None:
    with pc.start("host", ["sleep", "1000"]) as container:
        found = after(
            container, "mkdir /of-its-own; echo > /of-its-own/x; echo > /alone; ls /bin /usr > /dev/null"
        )
        assert found == {"/of-its-own": "added", "/of-its-own/x": "added", "/alone": "added"}
        with container.seal(0) as first, first.fork() as middle:
            assert after(middle, "cat /alone; rm /alone; echo > /of-its-own/y") == {
                "/alone": "deleted",
                "/of-its-own": "modified",
                "/of-its-own/y": "added",
            }
            middle.restart(0)
            with middle.seal(0) as second, second.fork() as last:
                assert after(
                    last, "test ! -e /alone; rm /of-its-own/x; rmdir /opt/not-there 2> /dev/null || true"
                ) == {
                    "/of-its-own": "modified",
                    "/of-its-own/x": "deleted",
                }


def test_a_created_one_on_the_host_image() -> None:
    with pc.create("host", ["true"]) as container:
        assert container.diff() == []


def test_nothing_is_left(container: pc.Container) -> None:
    container.diff()
    with nothing_left():
        for _ in range(10):
            container.diff()


def test_only_what_changed_is_looked_at(image: pc.Image) -> None:
    """Listing a directory of the image's would need its names; a large one costs nothing."""
    with image.create(["sleep", "1000"]) as first:
        first.prepare(["sh", "-c", "mkdir /many; cd /many; for i in $(seq 3000); do : > $i; done"])
        with first.seal() as template, template.fork() as container:
            found = after(container, "rm /many/7; echo > /many/8")
            assert found == {"/many": "modified", "/many/7": "deleted", "/many/8": "modified"}


def test_a_change_is_a_value() -> None:
    one = pc.Change("added", "/x")
    assert one == pc.Change("added", "/x")
    assert hash(one) == hash(pc.Change("added", "/x"))
    assert (one.kind, one.path, repr(one)) == ("added", "/x", "Change('added', '/x')")


@as_root
def test_docker_says_the_same(image: pc.Image, docker: Docker, tmp_path: Path) -> None:
    script = (
        "echo > /data/sub/new; rm /data/a; echo >> /etc/motd; rm -r /gone; mkdir -p /x/y; echo > /x/y/z; "
        "chmod 711 /empty; rm -r /etc/sub; echo > /etc/sub"
    )
    image.save(tmp_path / "saved", "docker-archive")
    ref = docker("load", "-i", tmp_path / "saved").split()[-1]
    docker("run", "--network=none", "--name=diffed", ref, "sh", "-ec", script)
    letters = {"A": "added", "C": "modified", "D": "deleted"}
    theirs = {line[2:]: letters[line[0]] for line in docker("diff", "diffed").splitlines()}
    docker("rm", "diffed")
    docker("rmi", "--force", ref)
    with image.start(["sleep", "1000"]) as container:
        ours = after(container, script)
    # What docker mounts there itself.
    for path in ("/dev", "/proc", "/sys", "/.dockerenv", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"):
        theirs.pop(path, None)
    assert ours == theirs


def test_a_path_that_no_layer_can_hold_is_an_error_that_says_so(container: pc.Container) -> None:
    deep = "/".join(["d" * 200] * 12)
    script = f"cd /tmp; mkdir -p one/{deep} two/{deep}; mv one two/{deep}/"
    container.exec(["sh", "-ec", script], check=True)
    with pytest.raises(pc.ImageError, match="longer"):
        container.diff()
