"""Containers from images of one's own: directories, archives, an empty one, and what configs say."""

from __future__ import annotations

import contextlib
import io
import shutil
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import leaks
import pycontainer as pc
from conftest import need
from containers import nothing_left, sleeper, until

BUSYBOX = Path("/bin/busybox")
PASSWD = "root:x:0:0::/root:/bin/sh\nalice:x:1000:1001::/home/alice:/bin/sh\n"
GROUP = "root:x:0:\nalice:x:1001:\nusers:x:100:alice\n"


@pytest.fixture(scope="module")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a static busybox and a user."""
    need(BUSYBOX.exists(), "busybox-static")
    path = tmp_path_factory.mktemp("rootfs")
    for name in ("bin", "etc", "root", "home/alice", "tmp"):
        (path / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, path / "bin/busybox")
    for name in (
        "sh",
        "cat",
        "ls",
        "id",
        "env",
        "pwd",
        "echo",
        "sleep",
        "touch",
        "rm",
        "stat",
        "mkdir",
        "hostname",
    ):
        (path / "bin" / name).symlink_to("busybox")
    (path / "etc/passwd").write_text(PASSWD)
    (path / "etc/group").write_text(GROUP)
    (path / "etc/motd").write_text("of the image\n")
    (path / "tmp").chmod(0o1777)
    return path


@pytest.fixture(scope="module")
def image(rootfs: Path) -> Iterator[pc.Image]:
    yield pc.Image.from_directory(rootfs)


def output(image: pc.Image, script: str, **options: object) -> list[str]:
    done = image.run(["sh", "-c", script], capture_output=True, text=True, timeout=60, **options)
    assert done.returncode == 0, f"{done!r}\n{done.stderr}"
    return str(done.stdout).split()


def containers() -> list[str]:
    leaks.at_rest()
    found = Path(pc.Store.default().path).glob("containers/*/*")
    return [path.name for path in found if not leaks.SPARE.fullmatch(path.name)]


def test_a_directory(image: pc.Image) -> None:
    assert output(image, "cat /etc/motd") == ["of", "the", "image"]
    assert output(image, "ls /") == ["bin", "dev", "etc", "home", "proc", "root", "sys", "tmp"]


def test_what_is_written_is_thrown_away(image: pc.Image, rootfs: Path) -> None:
    with nothing_left():
        output(image, "echo x > /etc/motd; rm /etc/passwd; mkdir /new; touch /new/file")
    assert (
        output(image, "cat /etc/motd; ls /new 2>/dev/null; cat /etc/passwd | head -c 4 2>/dev/null || true")[
            0
        ]
        == "of"
    )
    assert (rootfs / "etc/motd").read_text() == "of the image\n"
    assert containers() == []


def test_nothing_stays_whatever_the_end(image: pc.Image) -> None:
    with nothing_left():
        with pytest.raises(pc.LaunchError):
            image.run(["/no/such"])
        with pytest.raises(pc.Timeout):
            image.run(["sh", "-c", "touch /x; sleep 1000"], timeout=0.5)
        with pytest.raises(pc.InvalidOption):
            image.run(["true"], user="nobody-like-that")
        with image.start(["sleep", "1000"]) as container:
            container.exec(["sh", "-c", "mkdir -p /a/b/c; touch /a/b/c/d"], check=True)
            assert len(containers()) == 1
        with image.create(["sleep", "1000"]):
            pass
    assert containers() == []


def test_a_tree_of_a_container_that_nobody_may_enter_is_removed(image: pc.Image) -> None:
    output(
        image,
        "mkdir -p /locked/deep; touch /locked/deep/file; chmod 0 /locked/deep/file /locked/deep /locked",
    )
    until(lambda: containers() == [], "the tree is gone")


def test_containers_side_by_side_have_layers_of_their_own(image: pc.Image) -> None:
    with image.start(["sleep", "1000"]) as one, image.start(["sleep", "1000"]) as two:
        one.exec(["sh", "-c", "echo one > /etc/motd"], check=True)
        two.exec(["sh", "-c", "echo two > /etc/motd"], check=True)
        assert one.exec(["cat", "/etc/motd"], capture_output=True).stdout == b"one\n"
        assert two.exec(["cat", "/etc/motd"], capture_output=True).stdout == b"two\n"


def test_many_threads_on_one_image(image: pc.Image) -> None:
    found: list[str] = []
    threads = [threading.Thread(target=lambda n=n: found.extend(output(image, f"echo {n} > /n; cat /n")))
               for n in range(16)]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found, key=int) == [str(n) for n in range(16)]


def owned_by_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    return member


def test_an_archive(rootfs: Path, tmp_path: Path) -> None:
    path = tmp_path / "image.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(rootfs, arcname=".", filter=owned_by_root)
    assert output(pc.Image.from_tar(path), "cat /etc/motd") == ["of", "the", "image"]
    with path.open("rb") as file:
        assert output(pc.Image.from_tar(file), "cat /etc/motd") == ["of", "the", "image"]


def test_an_archive_in_memory() -> None:
    need(BUSYBOX.exists(), "busybox-static")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(BUSYBOX.resolve(), "bin/busybox")
        link = tarfile.TarInfo("bin/sh")
        link.type, link.linkname = tarfile.SYMTYPE, "busybox"
        archive.addfile(link)
    buffer.seek(0)
    assert output(pc.Image.from_tar(buffer), "echo works") == ["works"]


def test_nothing_but_a_mounted_program() -> None:
    need(BUSYBOX.exists(), "busybox-static")
    image = pc.Image.scratch()
    done = image.run(["/busybox", "ls", "/"], mounts=[pc.bind(BUSYBOX, "/busybox", ro=True)],
                     capture_output=True, text=True, timeout=60)  # fmt: skip
    assert done.stdout.split() == ["busybox", "dev", "etc", "proc", "sys"]
    with nothing_left(), pytest.raises(pc.InvalidOption, match="nothing to run"):
        image.run()
    with nothing_left(), pytest.raises(pc.LaunchError, match="/bin/sh"):
        image.run(["/bin/sh"])
    assert containers() == []


def test_command_and_entrypoint_of_the_config(image: pc.Image) -> None:
    def said(image: pc.Image, *args: object, **options: object) -> str:
        return str(image.run(*args, capture_output=True, text=True, **options).stdout).strip()

    with_command = image.configure(cmd=["echo", "command"])
    assert said(with_command) == "command"
    assert said(with_command, ["echo", "other"]) == "other"
    both = image.configure(entrypoint=["echo", "entry"], cmd=["command"])
    assert said(both) == "entry command"
    assert said(both, ["mine"]) == "entry mine"
    assert said(both, ["mine"], entrypoint=["echo"]) == "mine"
    assert said(both, entrypoint=["echo"]) == ""


def test_environment_of_the_config(image: pc.Image) -> None:
    configured = image.configure(env={"A": "1", "PATH": "/nowhere:/bin"})
    assert output(configured, "echo $A $PATH $B", env={"B": "2"}) == ["1", "/nowhere:/bin", "2"]
    assert "A=1" not in output(image, "env")


def test_user_of_the_config(image: pc.Image) -> None:
    alice = image.configure(user="alice")
    assert output(alice, "id -u; id -g; id -G; echo $HOME") == ["1000", "1001", "1001", "100", "/home/alice"]
    assert output(alice, "id -u", user="root") == ["0"]
    assert output(image, "id -u; id -g", user="alice:users") == ["1000", "100"]


def test_user_names_are_the_images_own(image: pc.Image) -> None:
    with pytest.raises(pc.InvalidOption, match="daemon"):
        image.run(["true"], user="daemon")


def test_working_directory_of_the_config(image: pc.Image) -> None:
    configured = image.configure(cwd="/made/for/it")
    assert output(configured, "pwd") == ["/made/for/it"]
    assert output(configured, "pwd", cwd="/etc") == ["/etc"]
    with configured.start(["sleep", "1000"]) as container:
        assert container.exec(["pwd"], capture_output=True).stdout == b"/made/for/it\n"


def test_stop_signal_of_the_config(image: pc.Image) -> None:
    script = "trap 'exit 3' QUIT; trap 'exit 4' TERM; touch /ready; while :; do sleep 0.02; done"
    with image.configure(stop_signal="SIGQUIT").start(["sh", "-c", script]) as container:
        until(lambda: container.exec(["ls", "/ready"], capture_output=True).returncode == 0, "it is ready")
        assert container.stop().returncode == 3


def test_config_with_the_image_at_once(rootfs: Path) -> None:
    image = pc.Image.from_directory(rootfs, config={"cmd": ["pwd"], "cwd": "/etc", "env": {"A": "1"}})
    assert image.run(capture_output=True).stdout == b"/etc\n"


def test_by_its_name(rootfs: Path) -> None:
    image = pc.Image.from_directory(rootfs, tag="run-by-name:1")
    try:
        assert pc.run("run-by-name:1", ["echo", "x"], capture_output=True).stdout == b"x\n"
        assert pc.run(image.id, ["echo", "x"], capture_output=True).stdout == b"x\n"
    finally:
        image.remove()
    with pytest.raises(pc.ImageNotFound):
        pc.run("run-by-name:1", ["true"], pull="never")


def test_a_read_only_root(image: pc.Image) -> None:
    assert image.run(["touch", "/x"], read_only=True).returncode != 0
    assert image.run(["touch", "/x"]).returncode == 0


def test_mounts_and_options_work_as_on_the_host_image(image: pc.Image, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("bound")
    mounts = [pc.bind(tmp_path, "/deep/in", ro=True), pc.tmpfs("/t", size="1M"), pc.content("c", "/c")]
    options = {"mounts": mounts, "hostname": "box", "env": {"A": "1"}}
    assert output(image, "cat /deep/in/file; echo; cat /c; echo; hostname; echo $A", **options) == [
        "bound", "c", "box", "1",
    ]  # fmt: skip


def test_links_of_an_image_lead_nowhere_outside(rootfs: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(rootfs, copy, symlinks=True)
    outside = tmp_path / "outside"
    outside.mkdir()
    (copy / "way-out").symlink_to(outside)
    image = pc.Image.from_directory(copy)
    # The link leads nowhere in the container: the target is made in there, or refused.
    with contextlib.suppress(pc.LaunchError):
        assert output(image, "cat /way-out/x", mounts=[pc.content("x", "/way-out/x")]) == ["x"]
    with contextlib.suppress(pc.LaunchError):
        output(image, "true", cwd="/way-out/y")
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("name", ["proc", "sys", "dev"])
def test_an_image_whose_proc_is_a_link_is_refused(rootfs: Path, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(rootfs, copy, symlinks=True)
    (copy / name).symlink_to("/tmp")
    image = pc.Image.from_directory(copy)
    # Unpacking it takes another lease, so descriptors change.
    with nothing_left(ignore=("descriptors",)), pytest.raises(pc.LaunchError, match=f"/{name}"):
        image.run(["true"])


def test_an_image_outlives_its_removal_while_it_runs(rootfs: Path) -> None:
    (rootfs / "etc/other").write_text("another image")
    image = pc.Image.from_directory(rootfs)
    with image.start(["sleep", "1000"]) as container:
        image.remove()
        done = container.exec(["cat", "/etc/other"], capture_output=True)
        assert done.stdout == b"another image"
    (rootfs / "etc/other").unlink()


def test_the_host_image_has_no_directory() -> None:
    with sleeper():
        assert containers() == []
