"""An exported image: one flat archive of what a container would see, for any tool that reads tar."""

from __future__ import annotations

import io
import json
import os
import resource
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

import pycontainer as pc
from conftest import need
from containers import as_root, nothing_left
from pycontainer.archive.export import export
from pycontainer.layer import apply
from pycontainer.layer.limits import Limits
from pycontainer.store import LayeredRoot, Store

LOWEST = {
    "etc/passwd": b"root",
    "etc/gone": b"1",
    "opaque/old": b"1",
    "replaced/file": b"1",
    "kept": b"1",
    "usr/bin/tool": b"tool",
}
MIDDLE = {"etc/.wh.gone": b"", "opaque/.wh..wh..opq": b"", "opaque/new": b"2", "kept2": b"2"}
TOP = {"replaced": b"3", "etc/.wh.never": b"", ".wh.kept2": b""}
MERGED = ["etc", "etc/passwd", "kept", "opaque", "opaque/new", "replaced", "usr", "usr/bin", "usr/bin/tool"]


def layer(directory: Path, files: Mapping[str, bytes]) -> str:
    """An unpacked layer in the form that containers' roots are made of."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode, member.mtime = len(content), 0o4750, 1_500_000_000
            member.pax_headers = {"SCHILY.xattr.user.note": "kept", "SCHILY.xattr.user.overlay.opaque": "y"}
            archive.addfile(member, io.BytesIO(content))
    directory.mkdir()
    apply.apply(iter([buffer.getvalue()]), str(directory), Limits())
    return str(directory)


@pytest.fixture
def root(tmp_path: Path) -> LayeredRoot:
    layers = [layer(tmp_path / str(n), files) for n, files in enumerate((LOWEST, MIDDLE, TOP))]
    return LayeredRoot(tuple(reversed(layers)), Store.default())


def members(path: Path) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(path) as archive:
        return {member.name: member for member in archive}


def test_layers_are_merged(root: LayeredRoot, tmp_path: Path) -> None:
    with nothing_left():
        export(root, str(tmp_path / "out.tar"))
    found = members(tmp_path / "out.tar")
    assert list(found) == MERGED
    assert found["replaced"].isreg() and found["replaced"].size == 1
    assert found["usr/bin/tool"].mode == 0o4750 and found["usr/bin/tool"].mtime == 1_500_000_000
    assert {(member.uid, member.gid) for member in found.values()} == {(0, 0)}
    attributes = {name for member in found.values() for name in member.pax_headers}
    assert attributes <= {"SCHILY.xattr.user.note"}


def test_one_layer(tmp_path: Path) -> None:
    """Its whiteouts, which hide nothing, do not show either."""
    export(LayeredRoot((layer(tmp_path / "0", LOWEST | TOP),), Store.default()), str(tmp_path / "out.tar"))
    assert list(members(tmp_path / "out.tar")) == [
        "etc",
        "etc/gone",
        "etc/passwd",
        "kept",
        "opaque",
        "opaque/old",
        "replaced",
        "usr",
        "usr/bin",
        "usr/bin/tool",
    ]


def test_the_same_bytes_each_time(root: LayeredRoot, tmp_path: Path) -> None:
    for name in ("a", "b"):
        export(root, str(tmp_path / name))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_other_tools_read_it(root: LayeredRoot, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    export(root, str(tmp_path / "out.tar"))
    listed = subprocess.run(["tar", "-tf", tmp_path / "out.tar"], check=True, capture_output=True, text=True)
    assert [name.rstrip("/") for name in listed.stdout.split()] == MERGED
    subprocess.run(["tar", "-xf", tmp_path / "out.tar", "-C", tmp_path / "tree"], check=True)
    assert (tmp_path / "tree" / "replaced").read_bytes() == b"3"


def test_it_is_what_it_was_made_of(tmp_path: Path) -> None:
    """directory -> image -> archive -> image: the same image."""
    without = shutil.ignore_patterns("__pycache__", "native")
    shutil.copytree(Path(__file__).parent, tmp_path / "tree", ignore=without)
    image = pc.Image.from_directory(tmp_path / "tree")
    image.export(tmp_path / "out.tar")
    assert pc.Image.from_tar(tmp_path / "out.tar").layers == image.layers


def test_what_is_there_already(root: LayeredRoot, tmp_path: Path) -> None:
    target = tmp_path / "dir" / "target"
    target.parent.mkdir()
    target.write_bytes(b"old")
    os.symlink("dir/target", tmp_path / "link")
    export(root, str(tmp_path / "link"))
    assert (tmp_path / "link").is_symlink() and list(members(target)) == MERGED
    with pytest.raises(pc.ImageError, match="dir: is there already"):
        export(root, str(tmp_path / "dir"))
    with pytest.raises(pc.ImageError, match="ENOENT"):
        export(root, str(tmp_path / "missing" / "out"))


def test_nothing_half_written_stays(tmp_path: Path) -> None:
    """A full disk, as far as a process's own limit is one."""
    root = LayeredRoot((layer(tmp_path / "0", {"big": bytes(4 << 20)}),), Store.default())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with nothing_left(), pytest.raises(pc.ImageError, match="out/file: cannot be written: EFBIG"):
            export(root, str(tmp_path / "out" / "file"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path / "out") == ["file"]
    assert (tmp_path / "out" / "file").read_bytes() == b"old"


def test_layers_that_are_gone(tmp_path: Path) -> None:
    with nothing_left(), pytest.raises(pc.LaunchError):
        export(LayeredRoot((str(tmp_path / "missing"),), Store.default()), str(tmp_path / "out"))
    assert os.listdir(tmp_path) == []


@as_root
def test_crun_runs_it(tmp_path: Path) -> None:
    need(shutil.which("crun") is not None and shutil.which("busybox") is not None, "crun and busybox")
    tree, bundle = tmp_path / "tree", tmp_path / "bundle"
    for path in (tree / "bin", tree / "dev", tree / "proc", bundle / "rootfs"):
        path.mkdir(parents=True)
    shutil.copy(str(shutil.which("busybox")), tree / "bin" / "busybox")
    os.symlink("busybox", tree / "bin" / "sh")
    pc.Image.from_directory(tree).export(tmp_path / "out.tar")
    subprocess.run(["tar", "-xpf", tmp_path / "out.tar", "-C", bundle / "rootfs"], check=True)
    command = ["/bin/sh", "-c", "echo $((6 * 7)) && busybox cat /proc/self/comm"]
    config = {
        "ociVersion": "1.0.2",
        "process": {"args": command, "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}},
        "root": {"path": "rootfs"},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {"namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts")]},
    }
    (bundle / "config.json").write_text(json.dumps(config))
    # It refuses a hybrid of control groups v1 and v2, even when it is to use none.
    script = 'umount /sys/fs/cgroup/unified 2> /dev/null; exec crun --cgroup-manager=disabled "$@"'
    argv = ["unshare", "--mount", "sh", "-c", script, "sh", "--root", str(tmp_path / "state"), "run"]
    done = subprocess.run(
        [*argv, "--bundle", str(bundle), f"pctr-{os.getpid()}"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "42\nbusybox\n", "")
