"""Volumes: named ones, filled by the first container, and those that an image declares."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import stat
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import pycontainer as pc
from conftest import need
from containers import ROOT, as_root, nothing_left, until
from host_process import Host
from ordinary_user import OrdinaryUser

BUSYBOX = Path("/bin/busybox")


@pytest.fixture(scope="module")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with a shell and something in /data."""
    need(BUSYBOX.exists(), "busybox-static")
    path = tmp_path_factory.mktemp("rootfs")
    for name in ("bin", "etc", "tmp", "data/sub", "empty"):
        (path / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, path / "bin/busybox")
    for name in ("sh", "cat", "ls", "stat", "sleep", "rm", "chown", "chmod", "touch", "wc", "mkdir", "ln"):
        (path / "bin" / name).symlink_to("busybox")
    (path / "data/file").write_text("of the image\n")
    (path / "data/sub/deep").write_text("deep\n")
    (path / "data/link").symlink_to("/etc/passwd")
    (path / "data/program").write_text("#!/bin/sh\n")
    (path / "data/program").chmod(0o4755)
    (path / "data").chmod(0o751)
    (path / "empty").chmod(0o700)
    return path


@pytest.fixture(scope="module")
def image(rootfs: Path) -> pc.Image:
    return pc.Image.from_directory(rootfs)


@pytest.fixture
def volume() -> Iterator[pc.Volume]:
    made = pc.Volume.create()
    yield made
    made.remove(force=True)


def layered(*members: tuple[str, bytes, object]) -> pc.Image:
    """A busybox image with some members of a kind: a link's target, content, or a mode with an owner."""
    need(BUSYBOX.exists(), "busybox-static")
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.add(BUSYBOX.resolve(), "bin/busybox")
        for name in ("sh", "cat", "ls", "stat", "touch"):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(link)
        for name, kind, value in members:
            info = tarfile.TarInfo(name)
            info.type, info.mode = kind, 0o755
            if kind == tarfile.SYMTYPE:
                info.linkname = str(value)
            elif kind == tarfile.CHRTYPE:
                info.devmajor, info.devminor, info.mode = 1, 3, 0o666
            elif isinstance(value, tuple):
                info.mode, info.uid, info.gid = value
            data = value if isinstance(value, bytes) else b""
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    stream.seek(0)
    return pc.Image.from_tar(stream)


def said(image: pc.Image, script: str, **options: object) -> str:
    done = image.run(["/bin/sh", "-c", script], capture_output=True, text=True, timeout=60, **options)
    assert done.returncode == 0, f"{done!r}\n{done.stdout}{done.stderr}"
    return str(done.stdout)


# Named volumes.


def test_made_found_listed_removed() -> None:
    made = pc.Volume.create("first", labels={"of": "tests"})
    try:
        found = pc.Volume.get("first")
        assert found == made and hash(found) == hash(made)
        assert (found.name, found.labels, found.created) == ("first", {"of": "tests"}, made.created)
        assert found.path.is_dir() and not list(found.path.iterdir())
        assert repr(found) == f"<Volume first {found.path}>"
        other = pc.Volume.create()
        assert {volume.name for volume in pc.Volume.list()} >= {"first", other.name}
        assert pc.Volume.list({"of": "tests"}) == pc.Volume.list(["of"]) == [made]
        assert pc.Volume.list({"of": "others"}) == []
        other.remove()
    finally:
        made.remove()
    made.remove()
    assert not made.path.exists()
    with pytest.raises(pc.StoreError, match="no volume 'first'"):
        pc.Volume.get("first")


def test_a_name_is_given_once() -> None:
    made = pc.Volume.create("taken", labels={"a": "b"})
    try:
        with pytest.raises(pc.NameInUse, match="taken"):
            pc.Volume.create("taken")
        again = pc.Volume.create("taken", exist_ok=True)
        assert again == made and again.labels == {"a": "b"}
    finally:
        made.remove()


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "-a", ".making", "a\0b", "x" * 129, 7, "é"])
def test_names_that_cannot_be(name: object) -> None:
    for call in (pc.Volume.create, pc.Volume.get):
        with pytest.raises(pc.InvalidOption, match="name"):
            call(name)  # type: ignore[operator]
    with pytest.raises(pc.InvalidOption):
        pc.Volume.get(None)  # type: ignore[arg-type]


def test_a_store_of_its_own(tmp_path: Path, image: pc.Image) -> None:
    with pc.Store(tmp_path / "store") as store:
        made = pc.Volume.create("mine", store=store)
        assert pc.Volume.list(store=store) == [made]
        assert "mine" not in {volume.name for volume in pc.Volume.list()}
        said(image, "echo x > /v/x", mounts=[made.at("/v")])
        assert (made.path / "x").read_text() == "x\n"
        store.prune()
        assert pc.Volume.get("mine", store=store).path.joinpath("x").exists()
        with image.create(["/bin/sh"], mounts=[made.at("/v")]), pytest.raises(pc.StoreBusy):
            made.remove()
        made.remove()


def test_files_outlive_the_container(image: pc.Image, volume: pc.Volume) -> None:
    said(image, "echo kept > /v/file; mkdir /v/d; touch /v/d/e", mounts=[volume.at("/v")])
    assert said(image, "cat /w/file; ls /w/d", mounts=[volume.at("/w")]) == "kept\ne\n"
    assert (
        pc.run("host", ["cat", "/v/file"], capture_output=True, mounts=[volume.at("/v")]).stdout == b"kept\n"
    )


def test_read_only(image: pc.Image, volume: pc.Volume) -> None:
    done = image.run(
        ["/bin/touch", "/v/x"], capture_output=True, text=True, mounts=[volume.at("/v", ro=True)]
    )
    assert "Read-only" in done.stderr


def test_the_first_container_fills_it(image: pc.Image, volume: pc.Volume) -> None:
    seen = said(image, "cat /data/file /data/sub/deep; stat -c %a:%u:%g /data", mounts=[volume.at("/data")])
    assert seen == "of the image\ndeep\n751:0:0\n"
    said(image, "rm /data/file; echo changed > /data/sub/deep", mounts=[volume.at("/data")])
    assert said(image, "ls /data; cat /data/sub/deep", mounts=[volume.at("/data")]).split() == [
        "link", "program", "sub", "changed",
    ]  # fmt: skip


def test_kinds_modes_owners_links_and_attributes_are_the_images(volume: pc.Volume) -> None:
    image = layered(
        ("d", tarfile.DIRTYPE, (0o2770, 33, 44)),
        ("d/file", tarfile.REGTYPE, (0o640, 55, 66)),
        ("d/setid", tarfile.REGTYPE, (0o4755, 0, 0)),
        ("d/link", tarfile.SYMTYPE, "../../etc/shadow"),
        ("d/pipe", tarfile.FIFOTYPE, (0o600, 1, 2)),
    )
    look = "cd /d; for f in . file setid link pipe; do stat -c '%n %a %u %g %F' $f; done"
    before = said(image, look)
    assert said(image, look, mounts=[volume.at("/d")]) == before
    assert said(image, look, mounts=[volume.at("/d")]) == before
    assert ". 2770 33 44 directory" in before


def test_an_empty_directory_gives_its_look(image: pc.Image, volume: pc.Volume) -> None:
    assert said(image, "stat -c %a /empty", mounts=[volume.at("/empty")]) == "700\n"


def test_nothing_is_copied(image: pc.Image) -> None:
    """Where the volume has something, where the image has no directory, and with nocopy."""
    for dst, options, before in (
        ("/data", {"nocopy": True}, False),
        ("/nothing/here", {}, False),
        ("/data", {}, True),
    ):
        volume = pc.Volume.create()
        if before:
            (volume.path / "mine").write_text("x")
        mounts = [volume.at(dst, **options)]  # type: ignore[arg-type]
        assert said(image, f"ls {dst}", mounts=mounts).split() == (["mine"] if before else [])
        volume.remove()


def test_a_volume_over_a_file_is_refused(image: pc.Image, volume: pc.Volume) -> None:
    with pytest.raises(pc.LaunchError):
        image.run(["/bin/ls"], mounts=[volume.at("/data/file")])


def test_it_is_filled_read_only_too(image: pc.Image, volume: pc.Volume) -> None:
    assert said(image, "cat /data/file", mounts=[volume.at("/data", ro=True)]) == "of the image\n"


def test_the_host_image_fills_for_root(volume: pc.Volume) -> None:
    done = pc.run("host", ["ls", "/etc"], capture_output=True, mounts=[volume.at("/etc")])
    assert (b"passwd" in done.stdout.split()) == ROOT
    assert (volume.path / "passwd").exists() == ROOT


def test_a_container_uses_it_until_it_is_removed(image: pc.Image) -> None:
    volume = pc.Volume.create()
    container = image.create(["/bin/sleep", "100"], name="user-of-it", mounts=[volume.at("/v")])
    assert volume.used_by == ["user-of-it"]
    with pytest.raises(pc.StoreBusy, match="user-of-it"):
        volume.remove()
    container.start()
    container.kill()
    with pytest.raises(pc.StoreBusy, match="user-of-it"):
        volume.remove()
    container.remove()
    assert volume.used_by == []
    volume.remove()


def test_a_run_uses_it_until_its_end(image: pc.Image, volume: pc.Volume) -> None:
    mounts = [volume.at("/v")]
    thread = threading.Thread(target=lambda: image.run(["/bin/sleep", "1.5"], mounts=mounts))
    thread.start()
    until(lambda: volume.used_by, "it is used")
    with pytest.raises(pc.StoreBusy):
        volume.remove()
    thread.join()
    assert volume.used_by == []
    with pytest.raises(pc.LaunchError):
        image.run(["/no/such"], mounts=mounts)
    with pytest.raises(pc.Timeout):
        image.run(["/bin/sleep", "100"], mounts=mounts, timeout=0.3)
    assert volume.used_by == []


def test_removed_by_force(image: pc.Image) -> None:
    volume = pc.Volume.create()
    with image.start(["/bin/sleep", "100"], mounts=[volume.at("/v")]) as container:
        container.exec(["touch", "/v/x"], check=True)
        volume.remove(force=True)
        assert not volume.path.exists()
        assert container.exec(["ls", "/v"], capture_output=True).stdout == b""
    with pytest.raises(pc.StoreError, match="no volume"):
        image.run(["/bin/ls"], mounts=[volume.at("/v")])


def test_what_fails_leaves_nothing(image: pc.Image, volume: pc.Volume) -> None:
    gone = pc.Volume.create()
    gone.remove()
    with nothing_left():
        for mounts in ([volume.at("/v"), gone.at("/w")], [volume.at("/data"), gone.at("/w")]):
            with pytest.raises(pc.StoreError, match="no volume"):
                image.create(["/bin/ls"], mounts=mounts)
        assert volume.used_by == []
        assert not list((volume.path.parent.parent / ".making").iterdir())


def test_options_are_checked(volume: pc.Volume) -> None:
    for dst in ("relative", "/", "/a/../b", ""):
        with pytest.raises(pc.InvalidOption, match="volume dst"):
            volume.at(dst)
    with pytest.raises(pc.InvalidOption, match="ro"):
        volume.at("/v", ro="yes")  # type: ignore[arg-type]
    assert "\n" not in repr(volume.at("/v"))
    with pytest.raises(pc.InvalidOption, match="two mounts"):
        pc.Options(mounts=[volume.at("/v"), pc.tmpfs("/v")])


# At once, killed, as somebody else.


def test_eight_processes_fill_it_once(tmp_path: Path, rootfs: Path) -> None:
    """Each sees all of it, and what the first ones wrote stays."""
    script = """
        image = pc.Image.get("filler")
        volume = pc.Volume.create("shared", exist_ok=True)
        say("ready")
        sys.stdin.readline()
        for turn in range(3):
            mark = f"echo x > /data/.{os.getpid()}-{turn}"
            done = image.run(
                ["/bin/sh", "-c", f"ls /data | wc -l; cat /data/file; {mark}"],
                capture_output=True, text=True, timeout=60, mounts=[volume.at("/data")],
            )
            lines = done.stdout.splitlines()
            assert lines == ["4", "of the image"], (done, done.stderr)
        say("done")
    """
    store = tmp_path / "store"
    with pc.Store(store) as opened:
        pc.Image.from_directory(rootfs, tag="filler", store=opened)
    hosts = []
    try:
        for number in range(8):
            base = tmp_path / str(number)
            base.mkdir()
            hosts.append(Host(script, base, store=store, stdin=-1))
        for host in hosts:
            assert host.line() == "ready"
        for host in hosts:
            assert host.process.stdin is not None
            host.process.stdin.write(b"\n")
            host.process.stdin.close()
        for host in hosts:
            assert host.line() == "done", host.errors()
    finally:
        for host in hosts:
            host.__exit__(None, None, None)
    with pc.Store(store) as opened:
        shared = pc.Volume.get("shared", store=opened)
        assert len(list(shared.path.glob(".*-*"))) == 8 * 3
        assert shared.used_by == []
        shared.remove()
        assert opened.check() == []


@as_root
def test_killed_while_it_is_filled(tmp_path: Path, rootfs: Path) -> None:
    """What is left of the copy goes with the next opener; the next container fills it anew."""
    big = tmp_path / "big"
    shutil.copytree(rootfs, big, symlinks=True)
    for number in range(300):
        (big / "data" / str(number)).write_bytes(os.urandom(100_000))
    store = tmp_path / "store"
    with pc.Store(store) as opened:
        pc.Image.from_directory(big, tag="big", store=opened)
        volume = pc.Volume.create("v", store=opened)
    script = """
        image, volume = pc.Image.get("big"), pc.Volume.get("v")
        pc.run("host", ["true"])
        say("now")
        image.run(["/bin/ls"], mounts=[volume.at("/data")])
        say("done")
    """
    making = store / "volumes/.making"
    for _ in range(5):
        with Host(script, tmp_path, store=store) as host:
            assert host.line() == "now"
            until(lambda: making.is_dir() and any(making.glob("*/data/?")), "it copies")
            os.kill(host.pid, signal.SIGKILL)
            host.process.wait()
        assert not list(volume.path.iterdir())
        until(lambda: swept(store), "the next opener removed the copy")
    image = pc.Image.get("big", store=pc.Store(store))
    assert said(image, "ls /data | wc -l", mounts=[volume.at("/data")]) == "304\n"
    assert volume.used_by == []
    volume.remove()


def swept(store: Path) -> bool:
    pc.Store(store).close()
    return not list((store / "volumes/.making").iterdir())


def test_those_of_a_killed_process_use_it_no_more(tmp_path: Path) -> None:
    script = """
        volume = pc.Volume.create("v")
        container = pc.start("host", ["sleep", "1000"], mounts=[volume.at("/v")], name="theirs")
        say("up")
        time.sleep(100)
    """
    with Host(script, tmp_path) as host:
        assert host.line() == "up"
        with pc.Store(host.store) as store:
            volume = pc.Volume.get("v", store=store)
            assert volume.used_by == ["theirs"]
            with pytest.raises(pc.StoreBusy, match="theirs"):
                volume.remove()
            host.process.kill()
            host.process.wait()
            until(lambda: volume.used_by == [], "nobody uses it")
            volume.remove()


def test_interrupted_while_it_is_filled(tmp_path: Path, rootfs: Path) -> None:
    big = tmp_path / "big"
    shutil.copytree(rootfs, big, symlinks=True)
    for number in range(300):
        (big / "data" / str(number)).write_bytes(os.urandom(100_000))
    script = """
        image, volume = pc.Image.from_directory(os.environ["ROOTFS"]), pc.Volume.create("v")
        pc.run("host", ["true"])
        making = volume.path.parent.parent / ".making"
        say("now")
        try:
            image.run(["/bin/ls"], mounts=[volume.at("/data")])
        except KeyboardInterrupt:
            say(len(list(volume.path.iterdir())), len(list(making.iterdir())), volume.used_by)
    """
    with Host(script, tmp_path, env={"ROOTFS": str(big)}) as host:
        assert host.line() == "now"
        making = host.store / "volumes/.making"
        until(lambda: making.is_dir() and any(making.glob("*/data/*")), "it copies")
        os.kill(host.pid, signal.SIGINT)
        assert host.line() == "0 0 []", host.errors()


def test_threads_hammer_one_name(image: pc.Image) -> None:
    """Made, used and removed from all sides: every answer is one that is meant to be."""
    failures: list[BaseException] = []

    def hammer() -> None:
        try:
            for _ in range(6):
                try:
                    volume = pc.Volume.create("hammered", exist_ok=True)
                    said(image, "cat /data/file", mounts=[volume.at("/data")])
                    volume.remove()
                except pc.StoreBusy:
                    pass
                except pc.StoreError as error:
                    assert "no volume" in str(error), error
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=hammer) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    pc.Volume.create("hammered", exist_ok=True).remove()


# What an image declares.


def test_what_is_written_to_a_declared_volume_is_not_the_containers(image: pc.Image) -> None:
    declared = image.configure(volumes=["/data", "/new/one"])
    script = "cat /data/file; stat -c %a /data; echo x > /data/file; echo y > /new/one/y; echo z > /tmp/z"
    with declared.start(["/bin/sh", "-c", f"{script}; sleep 100"]) as container:
        upper = Path(container._layer.directory.upper)  # type: ignore[union-attr]
        until(lambda: (upper / "tmp/z").exists(), "it wrote")
        assert container.exec(["cat", "/data/file", "/new/one/y"], capture_output=True).stdout == b"x\ny\n"
        assert not (upper / "data/file").exists()
        assert not (upper / "new/one/y").exists()
        container.stop(0)
        container.start()
        until(lambda: container.exec(["ls", "/new/one"], capture_output=True).stdout == b"y\n", "it is kept")
    assert not upper.exists()
    assert said(declared, "cat /data/file; ls /new/one") == "of the image\n"


def test_a_mount_of_the_callers_comes_first(image: pc.Image, volume: pc.Volume, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    declared = image.configure(volumes=["/data", "/data/sub", "/empty/below"])
    assert said(declared, "ls /data", mounts=[pc.bind(tmp_path, "/data", ro=True)]) == "mine\n"
    mounts = [pc.tmpfs("/data/sub")]
    assert said(declared, "cat /data/file; ls /data/sub", mounts=mounts) == "of the image\n"
    # Not into what the caller shows there.
    said(declared, "touch /empty/x /empty/below-x", mounts=[volume.at("/empty")])
    assert sorted(path.name for path in volume.path.iterdir()) == ["below-x", "x"]


def test_declared_volumes_are_written_to_on_a_read_only_root(image: pc.Image) -> None:
    declared = image.configure(volumes=["/data"])
    assert said(declared, "echo x > /data/file; cat /data/file", read_only=True) == "x\n"


def test_forks_begin_with_what_was_in_them(image: pc.Image) -> None:
    """A database image keeps its data in one."""
    declared = image.configure(volumes=["/data"])
    with declared.create(["/bin/sleep", "100"]) as container:
        container.prepare(["/bin/sh", "-c", "echo seeded > /data/seed; rm /data/file"])
        with container.seal() as template, template.fork() as one, template.fork() as two:
            one.exec(["/bin/sh", "-c", "echo one > /data/seed"], check=True)
            assert two.exec(["cat", "/data/seed"], capture_output=True).stdout == b"seeded\n"
            assert b"file" not in two.exec(["ls", "/data"], capture_output=True).stdout.split()


def test_nothing_stays_of_declared_volumes(image: pc.Image) -> None:
    declared = image.configure(volumes=["/data"])
    said(declared, "true")
    with nothing_left():
        said(declared, "echo x > /data/file; chmod 0 /data")


@pytest.mark.parametrize("name", ["/proc", "/proc/sys/kernel", "/sys/fs/cgroup", "/dev/shm", "/dev/../proc"])
def test_declared_over_what_every_container_has(image: pc.Image, name: str) -> None:
    """Left out: an image says nothing about these."""

    def mounted(image: pc.Image) -> list[list[str]]:
        lines = said(image, "cat /proc/1/comm > /dev/null && cat /proc/mounts").splitlines()
        # In the order of their making, as a rule; the root may have been another container's.
        return sorted(line.split()[:3] for line in lines)

    assert mounted(image.configure(volumes=[name])) == mounted(image)


def test_declared_as_the_root(image: pc.Image) -> None:
    for name in ("/", "/data/../..", "//"):
        with pytest.raises(pc.InvalidImage, match="root"):
            image.configure(volumes=[name]).run(["/bin/ls"])


def test_declared_by_the_thousand(image: pc.Image) -> None:
    with pytest.raises(pc.InvalidImage, match="at most"):
        image.configure(volumes=[f"/v{number}" for number in range(1000)]).run(["/bin/ls"])
    many = image.configure(volumes=[f"/v{number}" for number in range(256)])
    assert said(many, "ls -d /v* | wc -l") == "256\n"


# Hostile images.

CANARY = "out of the host's canary"


@pytest.mark.parametrize("how", ["declared", "named"])
@pytest.mark.parametrize(
    "target", ["/proc", "/proc/sys", "/sys", "../../../../../../../../canary", "/host-canary", "."]
)
def test_a_link_where_a_volume_goes(tmp_path: Path, volume: pc.Volume, how: str, target: str) -> None:
    """It leads nowhere but within the root, and onto none of the kernel's own files."""
    canary = tmp_path / "canary"
    canary.mkdir()
    (canary / "file").write_text(CANARY)
    if "canary" in target:
        target = os.path.relpath(canary, "/") if target.startswith("..") else str(canary)
        target = "../" * 20 + target if not target.startswith("/") else target
    image = layered(("v", tarfile.SYMTYPE, target))
    options = {"mounts": [volume.at("/v")]} if how == "named" else {}
    if how == "declared":
        image = image.configure(volumes=["/v"])
    script = "ls /v; cat /proc/mounts > /dev/null; echo attack > /v/file"
    seen = ""
    # One that leads nowhere is no place for a mount.
    with contextlib.suppress(pc.LaunchError):
        done = image.run(["/bin/sh", "-c", script], capture_output=True, text=True, timeout=60, **options)
        seen = done.stdout
        assert target not in ("/proc", "/proc/sys", "/sys"), "it lay over the kernel's files"
    assert CANARY not in seen
    assert (canary / "file").read_text() == CANARY
    assert sorted(os.listdir(canary)) == ["file"]


@as_root
def test_a_device_in_a_volume_opens_nothing(volume: pc.Volume) -> None:
    image = layered(("d", tarfile.DIRTYPE, b""), ("d/null", tarfile.CHRTYPE, b""))
    for options in ({"mounts": [volume.at("/d")]}, {}):
        chosen = image if options else image.configure(volumes=["/d"])
        done = chosen.run(["/bin/sh", "-c", "cat /d/null"], capture_output=True, text=True, **options)
        assert "Permission denied" in done.stderr, done
    assert stat.S_ISCHR((volume.path / "null").stat().st_mode)


def test_links_in_the_images_directory_are_copied_as_links(tmp_path: Path, volume: pc.Volume) -> None:
    canary = tmp_path / "canary"
    canary.mkdir()
    (canary / "file").write_text(CANARY)
    image = layered(
        ("d", tarfile.DIRTYPE, b""),
        ("d/escape", tarfile.SYMTYPE, str(canary)),
        ("d/file", tarfile.SYMTYPE, str(canary / "file")),
    )
    script = "cat /d/file /d/escape/file; echo x > /d/file; touch /d/escape/x; true"
    assert CANARY not in said(image, script, mounts=[volume.at("/d")])
    assert sorted(os.listdir(canary)) == ["file"] and (canary / "file").read_text() == CANARY
    assert os.readlink(volume.path / "escape") == str(canary)


def test_a_container_that_swaps_links_while_others_start(image: pc.Image, volume: pc.Volume) -> None:
    """What a container does in a volume moves nobody's mount."""
    mounts = [volume.at("/v")]
    swap = "while :; do mkdir -p /v/a; rm -rf /v/a; ln -s /etc /v/a; rm -f /v/a; done"
    with image.start(["/bin/sh", "-c", swap], mounts=mounts):
        end = time.monotonic() + 1
        while time.monotonic() < end:
            said(image, "ls /v; true", mounts=mounts)
    assert (volume.path.parent / "data").is_dir()


def test_as_an_ordinary_user_files_of_other_ids(as_user: OrdinaryUser, rootfs: Path) -> None:
    """They belong to others in that user's range; the volume is removed all the same."""
    copy = as_user.base / "rootfs"
    shutil.copytree(rootfs, copy, symlinks=True)
    for path in (copy, copy / "data", copy / "empty"):
        path.chmod(0o755)
    as_user(f"""
        import pycontainer as pc
        image = pc.Image.from_directory({str(copy)!r})
        volume = pc.Volume.create("mine")
        def said(script):
            how = dict(capture_output=True, text=True, mounts=[volume.at("/data")])
            done = image.run(["/bin/sh", "-c", script], **how)
            assert done.returncode == 0, (done, done.stderr)
            return done.stdout
        assert said("cat /data/file; chown 33 /data/file /data/sub; chmod 700 /data/sub") == "of the image\\n"
        assert said("stat -c %u /data/file /data/sub") == "33\\n33\\n"
        assert said("chown 44:44 /data; chmod 700 /data; cat /data/file") == "of the image\\n"
        assert said("stat -c %u:%a /data") == "44:700\\n"
        volume.remove()
        assert pc.Volume.list() == [] and not volume.path.exists()
    """)
