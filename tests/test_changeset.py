"""What a container has changed, as a layer: overlay's upper directory written as an OCI changeset."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import pycontainer as pc
from conftest import need
from containers import SECONDS, nothing_left
from pycontainer.archive.export import merged
from pycontainer.layer import apply
from pycontainer.layer.diff import of_upper
from pycontainer.layer.limits import Limits
from pycontainer.store import LayeredRoot

BUSYBOX = Path("/bin/busybox")

CHANGES = """
set -e
cd /data
rm gone
rm -r opaque; mkdir opaque; echo new > opaque/new
rm -r away
rm -r file-now; echo x > file-now
rm dir-now; mkdir dir-now; touch dir-now/below
echo more >> kept/grown
chmod 4711 kept/mode
chown 5:6 kept/mode 2> /dev/null || true
ln kept/grown kept/second
ln -s ../gone kept/link
mkfifo kept/fifo
mv renamed elsewhere
mkdir -p deep/er; echo 1 > deep/er/file
touch made; rm made
"""

LOOK = "cd /data; find . | sort | while read -r name; do stat -c '%n %a %u %g %F %s %N' \"$name\"; done"


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> pc.Image:
    need(BUSYBOX.exists(), "busybox-static")
    tree = tmp_path_factory.mktemp("image")
    data = tree / "data"
    for name in ("bin", "data/opaque", "data/away/x", "data/file-now", "data/kept", "data/renamed/in"):
        (tree / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, tree / "bin" / "busybox")
    (tree / "bin" / "sh").symlink_to("busybox")
    for name in ("gone", "opaque/old", "dir-now", "kept/grown", "kept/mode", "renamed/in/file", "away/x/y"):
        (data / name).write_text("old")
    made = pc.Image.from_directory(tree)
    made.rootfs()
    return made


@pytest.fixture
def container(image: pc.Image) -> Iterator[pc.Container]:
    environment = {"PATH": "/bin"}
    with nothing_left(), pc.start(image, ["/bin/busybox", "sleep", "1000"], env=environment) as started:
        yield started


def upper(container: pc.Container) -> str:
    """The writable layer of the container; an unused one may lie beside it."""
    (found,) = Path(os.environ["PYCONTAINER_STORE"]).glob(f"containers/*/{container.id}/upper")
    return str(found)


def sh(container: pc.Container, script: str) -> str:
    command = ["/bin/sh", "-c", f"busybox --install -s /bin 2> /dev/null; {script}"]
    done = container.exec(command, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def names(data: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return archive.getnames()


def test_an_untouched_container(container: pc.Container) -> None:
    """Mount points apart, there is nothing."""
    found = names(b"".join(of_upper(upper(container)).chunks()))
    assert not [name for name in found if name.startswith("data")]


def test_the_layer_brings_the_changes(container: pc.Container, image: pc.Image, tmp_path: Path) -> None:
    sh(container, CHANGES)
    inside = sh(container, LOOK)
    data = b"".join(of_upper(upper(container)).chunks())
    found = {*names(data)}
    assert {"data/.wh.gone", "data/.wh.away", "data/.wh.renamed", "data/opaque/.wh..wh..opq"} <= found
    assert "data/.wh.made" not in found
    layer = tmp_path / "layer"
    layer.mkdir()
    apply.apply(iter([data]), str(layer), Limits())
    below = image.rootfs()
    assert isinstance(below, LayeredRoot)
    root = LayeredRoot((str(layer), *below.lower), below.store)
    again = pc.Image.from_tar(io.BytesIO(b"".join(merged(root).chunks())))
    looked = again.run(["/bin/sh", "-c", LOOK], env={"PATH": "/bin"}, capture_output=True, text=True)
    assert looked.stdout == inside
    assert "file-now" in inside and "data/gone" not in inside


def test_a_container_that_swaps_directories_for_links(container: pc.Container, tmp_path: Path) -> None:
    """It gets typed errors and streams, none with anything from outside of its own layer."""
    (tmp_path / "secret").write_text("of the host")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "secret").write_text("of the host")
    sh(container, f"mkdir -p /data/x /data/y; ln -s {tmp_path} /data/link; echo mine > /data/x/secret")
    swap = "while :; do busybox mv /data/x /data/z; busybox mv /data/link /data/x; "
    swap += "busybox mv /data/x /data/link; busybox mv /data/z /data/x; done"
    with container.popen(["/bin/sh", "-c", swap]) as process:
        whole = 0
        for _ in range(100):
            try:
                data = b"".join(of_upper(upper(container)).chunks())
            except pc.ImageError:
                continue
            whole += 1
            assert b"of the host" not in data
        process.kill()
    assert whole


def test_what_looks_like_a_whiteout(container: pc.Container) -> None:
    sh(container, "touch /data/.wh.kept")
    with pytest.raises(pc.InvalidImage, match=r"upper/data/\.wh\.kept: in a layer"):
        list(of_upper(upper(container)).chunks())
