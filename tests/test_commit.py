"""`Container.commit` and `Container.export`: what a container's files become."""

from __future__ import annotations

import io
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import pycontainer as pc
import shell_root
from containers import as_root, nothing_left, until
from docker_daemon import Docker
from registries import RealRegistry, unique

CHANGES = (
    "echo new > /new; chmod 640 /new; chown 5:6 /new; rm -r /gone; rm /data/a; echo more >> /etc/motd; "
    "rm -r /data/sub; mkdir /data/sub; echo x > /data/sub/x; ln -s new /link; ln /new /hard; "
    "mkdir -m 700 /own"
)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> pc.Image:
    root = shell_root.make(tmp_path_factory.mktemp("root") / "root")
    config = {"cmd": ["sleep", "1000"], "env": {"A": "1"}, "labels": {"of": "base"}, "author": "somebody"}
    return pc.Image.from_directory(root, config=config)


@pytest.fixture
def container(image: pc.Image) -> Iterator[pc.Container]:
    with image.start() as made:
        yield made


@pytest.fixture
def epoch(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    return 1_000_000_000


def changed(container: pc.Container, script: str = CHANGES) -> pc.Container:
    container.exec(["sh", "-ec", script], capture_output=True, check=True)
    return container


def out(image: pc.Image, script: str) -> str:
    done = image.run(["sh", "-ec", script], capture_output=True, text=True, check=True, timeout=60)
    return str(done.stdout)


SEEN = (
    "cat /new /etc/motd /data/sub/x /hard; ls /gone /data/sub/b 2>&1 || true; "
    "stat -c '%n %a %u %g %h' /new /own; ls /"
)


def members(path: Path) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(path) as archive:
        return {member.name: member for member in archive}


def layer_names(image: pc.Image, number: int = -1) -> list[str]:
    raw = image._store.layout.blobs.read(image.layers[number].digest, limit=1 << 30)
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        return archive.getnames()


# Commit.


def test_the_image_has_what_the_container_had(image: pc.Image, container: pc.Container) -> None:
    before = changed(container).exec(["sh", "-c", SEEN], capture_output=True, text=True).stdout
    made = container.commit()
    assert out(made, SEEN) == before
    assert made.layers[:-1] == image.layers
    assert made.config.diff_ids[:-1] == image.config.diff_ids
    assert made.tags == []
    assert container.status == "running"
    assert out(image, "cat /etc/motd; ls /gone") == "of the image\nc\n"


def test_only_changes_are_in_the_layer(container: pc.Container) -> None:
    made = changed(container, "rm /data/a; echo > /new; touch /etc/sub").commit()
    assert layer_names(made) == ["data", "data/.wh.a", "etc", "etc/sub", "new"]


def test_mount_points_are_not(image: pc.Image) -> None:
    mounts = [pc.tmpfs("/a/b"), pc.content("x", "/etc/sub/file"), pc.tmpfs("/data/mine/there")]
    with image.start(mounts=mounts, cwd="/work") as container:
        made = changed(container, "echo > /data/mine/own; echo > /a/b/unseen").commit()
    assert layer_names(made) == ["data", "data/mine", "data/mine/own"]


def test_names_and_config(container: pc.Container) -> None:
    name = f"{unique()}:1"
    made = container.commit(
        name,
        author="me",
        message="the reason",
        env={"B": "2", "A": None},
        cmd=["cat"],
        user="1",
        labels={"x": "y"},
    )
    assert made.tags == [name]
    assert pc.Image.get(name) == made
    config = made.config
    assert (config.author, config.cmd, config.user) == ("me", ("cat",), "1")
    assert (config.env, config.labels) == ({"B": "2"}, {"of": "base", "x": "y"})
    last = made.history[-1]
    assert (last.author, last.comment, last.created_by) == ("me", "the reason", "sleep 1000")
    made.remove()


def test_what_is_not_said_stays(image: pc.Image, container: pc.Container) -> None:
    made = changed(container).commit()
    for name in ("author", "cmd", "env", "labels", "entrypoint", "user", "cwd"):
        assert getattr(made.config, name) == getattr(image.config, name)
    assert made.history[:-1] == image.history
    assert made.history[-1].created_by == "sleep 1000"
    assert made.history[-1].comment is None


def test_the_command_is_the_containers_own(image: pc.Image) -> None:
    with image.create(["echo", "a b"], entrypoint=["/bin/sh", "-c"]) as container:
        assert container.commit().history[-1].created_by == "/bin/sh -c echo 'a b'"


def test_no_change_makes_no_layer(image: pc.Image, container: pc.Container) -> None:
    made = container.commit(message="nothing")
    assert made.layers == image.layers
    assert [step.empty_layer for step in made.history] == [False, True]
    assert made.history[-1].comment == "nothing"


def test_times(image: pc.Image, container: pc.Container) -> None:
    made = changed(container).commit()
    assert made.created is not None
    assert abs(made.created.timestamp() - time.time()) < 100
    assert container.commit(created="2001-02-03T04:05:06Z").config.created == "2001-02-03T04:05:06Z"


def test_the_same_changes_give_the_same_layer(image: pc.Image, epoch: int) -> None:
    made = []
    for seconds in (0, 1.1):
        time.sleep(seconds)
        with image.start(mounts=[pc.tmpfs("/only/for/one")] if seconds else []) as container:
            made.append(changed(container).commit())
    assert made[0].layers == made[1].layers
    assert made[0].id == made[1].id
    assert made[0].created is not None
    assert made[0].created.timestamp() == epoch
    first, second = (layer_names(one) for one in made)
    assert first == second
    assert {".wh.gone", "data/sub/.wh..wh..opq", "new", "hard", "link"} <= set(first)


@pytest.mark.parametrize("state", ["created", "running", "paused", "stopped", "sealed"])
def test_in_every_state(image: pc.Image, state: str) -> None:
    with image.create() as container:
        container.prepare(["sh", "-c", "echo > /new"])
        if state != "created":
            container.start()
        if state == "paused":
            try:
                container.pause()
            except pc.CapabilityUnavailable:
                pytest.skip("no freezer")
        if state == "stopped":
            container.kill()
        if state == "sealed":
            template = container.seal(0)
        made = container.commit()
        assert container.status == ("stopped" if state == "sealed" else state)
        assert layer_names(made) == ["new"]
        if state == "sealed":
            template.remove()
    with pytest.raises(pc.InvalidState):
        container.commit()


def test_a_busy_container_is_paused_meanwhile(image: pc.Image) -> None:
    """Two files that are always written together are of one moment in the image."""
    once = "i=$((i+1)); echo $i > /next; mv /next /a; echo $i > /next; mv /next /z"
    # What lies between them takes a while to be read.
    script = f"head -c 30000000 /dev/zero > /m; i=0; {once}; while :; do {once}; done"
    with image.start(["sh", "-c", script]) as container:
        try:
            container.pause()
            container.unpause()
        except pc.CapabilityUnavailable:
            pytest.skip("no freezer")
        until(lambda: container.exec(["cat", "/z"], capture_output=True).stdout, "it has begun")
        for _ in range(3):
            first, last = map(int, out(container.commit(), "cat /a /z").split())
            assert first - last in (0, 1)
            assert container.status == "running"
        before = container.exec(["cat", "/a"], capture_output=True).stdout
        time.sleep(0.1)
        assert container.exec(["cat", "/a"], capture_output=True).stdout != before


def test_forks_have_a_layer_for_each_generation(image: pc.Image, container: pc.Container) -> None:
    changed(container, "echo 1 > /one; echo 1 > /both")
    with container.seal(0) as first, first.fork() as middle, middle.seal(0) as second:
        with second.fork() as last:
            made = changed(last, "echo 3 > /three; rm /both").commit()
        assert len(made.layers) == len(image.layers) + 2
        assert out(made, "cat /one /three; ls /both 2>&1 || true").startswith("1\n3\n")
        assert [step.created_by for step in made.history[1:]] == ["pycontainer: seal", "sleep 1000"]
        assert [step.empty_layer for step in made.history[1:]] == [False, False]


def test_committed_images_can_be_committed_upon(container: pc.Container) -> None:
    first = changed(container).commit()
    with first.start() as again:
        second = changed(again, "rm /new; echo > /newer").commit()
    assert len(second.layers) == 3
    assert out(second, "ls /new /newer 2>&1 || true").split()[-1] == "/newer"


def test_prune_keeps_what_somebody_holds(container: pc.Container) -> None:
    made = changed(container).commit()
    pc.Store.default().prune()
    assert out(made, "cat /new") == "new\n"


def test_the_host_image_cannot_be_committed() -> None:
    with pc.create("host", ["true"]) as container:
        with pytest.raises(pc.ImageError, match=r"seal\(\)"):
            container.commit()
        with pytest.raises(pc.ImageError, match="from_directory"):
            container.export("/nowhere")


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"ref": "Not/Lower"}, pc.InvalidReference),
        ({"ref": "host"}, pc.InvalidReference),
        ({"author": 3}, pc.InvalidOption),
        ({"message": b"bytes"}, pc.InvalidOption),
        ({"nonsense": 1}, pc.InvalidOption),
        ({"env": ["no equals"]}, pc.InvalidOption),
    ],
)
def test_what_is_refused(container: pc.Container, given: dict[str, object], error: type[Exception]) -> None:
    changed(container)
    before = pc.Image.list()
    with pytest.raises(error):
        container.commit(**given)  # type: ignore[arg-type]
    assert pc.Image.list() == before
    assert container.status == "running"


def test_a_file_that_no_layer_can_hold(container: pc.Container) -> None:
    with pytest.raises(pc.InvalidImage, match=r"\.wh\.x"):
        changed(container, "echo > /tmp/.wh.x").commit()
    assert container.status == "running"


def test_nothing_but_the_image_is_left(container: pc.Container) -> None:
    changed(container).commit().remove()
    with nothing_left():
        for _ in range(3):
            container.commit().remove()


def test_from_several_threads(image: pc.Image) -> None:
    made: list[pc.Image] = []

    def one(number: int) -> None:
        with image.start() as container:
            made.append(changed(container, f"echo {number} > /n").commit())

    threads = [threading.Thread(target=one, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(out(each, "cat /n") for each in made) == ["0\n", "1\n", "2\n", "3\n"]


def test_through_a_registry(container: pc.Container, plain_registry: RealRegistry, tmp_path: Path) -> None:
    ref = f"{plain_registry.host}/{unique()}:1"
    made = changed(container).commit(ref)
    expected = out(made, SEEN)
    made.push()
    with pc.Store(tmp_path / "other") as other:
        pulled = pc.Image.pull(ref, store=other)
        assert (pulled.id, pulled.config.diff_ids) == (made.id, made.config.diff_ids)
        assert out(pulled, SEEN) == expected
        assert other.check() == []


@as_root
def test_docker_loads_it(container: pc.Container, docker: Docker, tmp_path: Path) -> None:
    name = f"{unique()}:1"
    made = changed(container).commit(name)
    made.save(tmp_path / "saved", "docker-archive")
    docker("load", "-i", tmp_path / "saved")
    assert docker("image", "inspect", "--format", "{{.Id}}", name).strip() == made.id
    seen = docker(
        "run", "--rm", "--network=none", name, "sh", "-c", "cat /new /data/sub/x; ls /data /data/sub"
    )
    docker("rmi", "--force", name)
    assert seen == out(made, "cat /new /data/sub/x; ls /data /data/sub")


# Export.


def test_an_export_is_what_the_container_sees(container: pc.Container, tmp_path: Path) -> None:
    changed(container).export(tmp_path / "all.tar")
    found = members(tmp_path / "all.tar")
    assert {"new", "link", "data/sub/x", "etc/motd", "bin/busybox"} <= found.keys()
    assert not {"gone", "gone/c", "data/a", "data/sub/b", "proc", "sys", "dev"} & found.keys()
    assert (found["new"].mode, found["new"].uid, found["new"].gid) == (0o640, 5, 6) or found["new"].islnk()
    with tarfile.open(tmp_path / "all.tar") as archive:
        motd = archive.extractfile("etc/motd")
        assert motd is not None
        assert motd.read() == b"of the image\nmore\n"


def test_one_without_changes_is_the_images(image: pc.Image, tmp_path: Path) -> None:
    image.export(tmp_path / "image.tar")
    with image.create(mounts=[pc.tmpfs("/a/b")], cwd="/work") as container:
        container.export(tmp_path / "created.tar")
        container.start()
        container.export(tmp_path / "running.tar")
        container.kill()
        container.export(tmp_path / "stopped.tar")
    wanted = (tmp_path / "image.tar").read_bytes()
    for state in ("created", "running", "stopped"):
        assert (tmp_path / f"{state}.tar").read_bytes() == wanted, state


def test_what_is_mounted_is_not_exported(image: pc.Image, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here/secret").write_text("")
    mounts = [pc.bind(tmp_path / "here", "/data"), pc.tmpfs("/tmp")]
    with image.start(mounts=mounts) as container:
        changed(container, "echo > /tmp/x; echo > /data/y; echo > /new").export(tmp_path / "all.tar")
        found = members(tmp_path / "all.tar")
        assert {"data/a", "new"} <= found.keys()
        assert not {"data/secret", "data/y", "tmp/x"} & found.keys()


def test_a_forks_export_has_all_generations(container: pc.Container, tmp_path: Path) -> None:
    changed(container)
    with container.seal(0) as template, template.fork() as fork:
        changed(fork, "rm /new; echo > /newer").export(tmp_path / "all.tar")
    found = members(tmp_path / "all.tar")
    assert {"newer", "link"} <= found.keys()
    assert not {"new", "gone"} & found.keys()


def test_an_export_that_cannot_be_written(container: pc.Container, tmp_path: Path) -> None:
    with nothing_left():
        with pytest.raises(pc.ImageError, match="cannot be written"):
            container.export(tmp_path / "missing" / "all.tar")
        with pytest.raises(pc.ImageError):
            container.export(tmp_path)
    assert container.status == "running"
