"""What a container sees of files: its own root, binds, memory file systems, given content, devices."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

import pycontainer as pc
from containers import PYTHON, as_root, nothing_left, out, python, sh, sleeper
from ordinary_user import OrdinaryUser


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A directory of the host with a file and a subdirectory, for everybody to read."""
    path = tmp_path / "tree"
    (path / "sub").mkdir(parents=True)
    (path / "file").write_text("of the host")
    (path / "sub" / "deep").write_text("deep")
    return path


def fingerprint(path: Path) -> dict[str, tuple[int, int, int, int, str]]:
    """Everything about a tree that a container could change."""
    found = {}
    for entry in [path, *sorted(path.rglob("*"))]:
        info = entry.lstat()
        text = hashlib.sha256(entry.read_bytes()).hexdigest() if stat.S_ISREG(info.st_mode) else ""
        found[str(entry)] = (info.st_mode, info.st_uid, info.st_gid, info.st_mtime_ns, text)
    return found


# The root.


@as_root
def test_the_hosts_files_are_there_and_never_written(tree: Path) -> None:
    # A copy outside /tmp of the host's would hide nothing: the canary lies in the host's own tree.
    before = fingerprint(tree)
    script = f"""
        cat {tree}/file || exit 1
        echo changed > {tree}/file && rm -r {tree}/sub && touch {tree}/new && chmod 700 {tree} || exit 2
        cat {tree}/file; ls {tree}
    """
    assert out(script).split() == ["of", "the", "hostchanged", "file", "new"]
    assert fingerprint(tree) == before


def test_the_system_can_be_written_to_where_root_could() -> None:
    before = os.listdir("/etc"), os.stat("/etc").st_mtime_ns
    made = "/etc/pycontainer-test /tmp/pycontainer-test /var/pycontainer-test /pycontainer-test"
    assert out(f"touch {made} && mkdir /srv/pycontainer-test && rm {made} && echo ok") == "ok"
    assert (os.listdir("/etc"), os.stat("/etc").st_mtime_ns) == before
    assert not any(Path(path).exists() for path in (*made.split(), "/srv/pycontainer-test"))


@as_root
def test_files_of_the_system_can_be_changed() -> None:
    before = fingerprint(Path("/etc/default"))
    out("rm -f /etc/default/*; echo x > /etc/default/pycontainer-test; echo x > /etc/passwd")
    assert fingerprint(Path("/etc/default")) == before
    assert "root" in Path("/etc/passwd").read_text()


@as_root
def test_even_programs_can_be_replaced() -> None:
    before = os.stat("/usr/bin/env")
    assert (
        out("echo fake > /usr/bin/env; cat /usr/bin/env; rm /usr/bin/yes; ls /usr/bin/yes 2>&1 | wc -l")
        == "fake\n1"
    )
    assert os.stat("/usr/bin/env") == before


def test_two_runs_share_nothing() -> None:
    out("echo x > /tmp/left-by-one")
    assert sh("cat /tmp/left-by-one").returncode != 0


def test_run_is_empty_and_the_containers_own() -> None:
    assert out("ls -A /run") == ""
    assert out("touch /run/x && ls /run") == "x"
    assert not Path("/run/x").exists()


def test_the_store_is_hidden() -> None:
    store = pc.Store.default().path
    assert os.listdir(store)
    assert out(f"ls -A {store}") == ""
    assert sh(f"touch {store}/x").returncode != 0


def test_a_read_only_root() -> None:
    result = sh("touch /tmp/x || touch /etc/x || touch /x || touch /usr/x", read_only=True)
    assert result.returncode != 0
    assert result.stderr.count("Read-only file system") == 4
    assert out("touch /dev/shm/x /m/x && echo ok", read_only=True, mounts=[pc.tmpfs("/m")]) == "ok"


def test_the_host_sees_no_mount_of_it(tree: Path) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    with sleeper(mounts=[pc.bind(tree, "/srv/x"), pc.tmpfs("/srv/y"), pc.content("x", "/srv/z")]):
        assert Path("/proc/self/mountinfo").read_text() == before


# Binds.


def test_a_bind_is_the_hosts_own_directory(tree: Path) -> None:
    tree.chmod(0o777)
    assert out("cat /data/file /data/sub/deep; echo new > /data/made", mounts=[pc.bind(tree, "/data")])
    assert (tree / "made").read_text() == "new\n"
    assert (tree / "made").stat().st_uid == os.getuid()


def test_a_read_only_bind(tree: Path) -> None:
    before = fingerprint(tree)
    result = sh("cat /data/file; echo x > /data/file", mounts=[pc.bind(tree, "/data", ro=True)])
    assert result.stdout == "of the host"
    assert "Read-only" in result.stderr
    assert sh("touch /data/sub/x; rm /data/file", mounts=[pc.bind(tree, "/data", ro=True)]).returncode != 0
    assert sh("mount -o remount,rw /data", mounts=[pc.bind(tree, "/data", ro=True)]).returncode != 0
    assert fingerprint(tree) == before


def test_a_bind_of_a_file(tree: Path) -> None:
    mounts = [pc.bind(tree / "file", "/etc/hostname", ro=True), pc.bind(tree / "file", "/new/place/for/it")]
    assert out("cat /etc/hostname /new/place/for/it", mounts=mounts) == "of the hostof the host"
    assert "Read-only" in sh("echo x > /etc/hostname", mounts=mounts).stderr
    out("echo written > /new/place/for/it", mounts=mounts)
    assert (tree / "file").read_text() == "written\n"


def test_a_relative_source_starts_at_the_current_directory(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tree)
    assert out("cat /x", mounts=[pc.bind("file", "/x")]) == "of the host"


def test_a_missing_source_is_named_and_never_made(tree: Path) -> None:
    with nothing_left(), pytest.raises(pc.LaunchError, match=str(tree / "missing")) as caught:
        sh("true", mounts=[pc.bind(tree / "missing", "/data")])
    assert caught.value.path == str(tree / "missing")
    assert not (tree / "missing").exists()


def test_a_directory_does_not_go_onto_a_file(tree: Path) -> None:
    with nothing_left(), pytest.raises(pc.LaunchError, match="/etc/hostname"):
        sh("true", mounts=[pc.bind(tree, "/etc/hostname")])


def test_flags_of_a_bind(tree: Path) -> None:
    program = tree / "program"
    program.write_text("#!/bin/sh\necho ran\n")
    program.chmod(0o755)
    assert out("/d/program", mounts=[pc.bind(tree, "/d")]) == "ran"
    assert sh("/d/program", mounts=[pc.bind(tree, "/d", noexec=True)]).returncode == 126
    flags = pc.bind(tree, "/d", nosuid=True, nodev=True, noexec=True, ro=True)
    shown = out("grep ' /d ' /proc/self/mountinfo", mounts=[flags]).split()[5].split(",")
    assert {"ro", "nosuid", "nodev", "noexec"} <= set(shown)


IN_A_NAMESPACE = """
import sys, subprocess
import pycontainer as pc
from pycontainer import mounts
tree = sys.argv[1]
subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tree + "/sub"], check=True)
open(tree + "/sub/below", "w").write("x")
def seen(**options):
    bind = mounts.bind(tree, "/d", **options)
    command = ["sh", "-c", "ls /d/sub; touch /d/sub/x"]
    return pc.run("host", command, mounts=[bind], capture_output=True, text=True)
assert seen().stdout == "below\\n", seen()
assert seen(recursive=False).stdout == "deep\\n"
assert "Read-only" in seen(ro=True).stderr, seen(ro=True)
"""


@as_root
def test_mounts_below_a_bind_come_along_or_not(tree: Path) -> None:
    program = ["unshare", "--mount", PYTHON[0], "-c", IN_A_NAMESPACE, str(tree)]
    environment = os.environ | {"PYTHONPATH": str(Path(next(iter(pc.__path__))).parent)}
    done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_links_in_a_target_stay_inside(tree: Path) -> None:
    """A link in the image leads within the container's root, never to the host's file."""
    (tree / "link").symlink_to("/etc")
    before = os.stat("/etc/pycontainer-no-such") if Path("/etc/pycontainer-no-such").exists() else None
    assert (
        out(f"cat {tree}/link/bound; cat /etc/bound", mounts=[pc.content("x", f"{tree}/link/bound")]) == "xx"
    )
    assert before is None
    assert not Path("/etc/bound").exists()


# Memory file systems.


def test_a_tmpfs_is_empty_and_ends_with_the_container(tree: Path) -> None:
    assert out(f"ls -A {tree}; touch {tree}/x && echo ok", mounts=[pc.tmpfs(tree)]) == "ok"
    assert not (tree / "x").exists()


def test_the_size_of_a_tmpfs_is_enforced() -> None:
    script = "head -c 2000000 /dev/zero > /m/file; stat -c %s /m/file"
    small = sh(script, mounts=[pc.tmpfs("/m", size="1M")])
    assert "No space left" in small.stderr
    assert int(small.stdout) <= 2**20
    assert out(script, mounts=[pc.tmpfs("/m", size="4M")]) == "2000000"


def test_options_of_a_tmpfs() -> None:
    mounts = [pc.tmpfs("/m", mode=0o750, uid=12, gid=34)]
    assert out("stat -c '%a %u %g' /m", mounts=mounts) == "750 12 34"
    assert out("stat -c %a /m", mounts=[pc.tmpfs("/m")]) == "1777"
    assert sh("touch /m/x", mounts=[pc.tmpfs("/m", ro=True)]).returncode != 0
    assert "No space" in sh("touch /m/1 /m/2 /m/3 /m/4 /m/5 /m/6", mounts=[pc.tmpfs("/m", inodes=4)]).stderr
    script = "printf '#!/bin/sh\\necho ran' > /m/p; chmod 755 /m/p; /m/p"
    assert sh(script, mounts=[pc.tmpfs("/m")]).returncode == 126
    assert out(script, mounts=[pc.tmpfs("/m", noexec=False)]) == "ran"


def test_shm_size() -> None:
    script = "df -B1 --output=size /dev/shm | tail -1"
    assert int(out(script)) == 64 * 2**20
    assert int(out(script, shm_size="8M")) == 8 * 2**20
    assert "No space" in sh("head -c 2000000 /dev/zero > /dev/shm/x", shm_size="1M").stderr


# Given content.


def test_content() -> None:
    data = bytes(range(256)) * 100
    mount = pc.content(data, "/made/here/file", mode=0o640, uid=12, gid=34)
    result = sh("cat /made/here/file; stat -c '%a %u %g' /made/here/file >&2", mounts=[mount], text=False)
    assert result.stdout == data
    assert result.stderr == b"640 12 34\n"


def test_content_as_text_over_a_file_of_the_image() -> None:
    before = Path("/etc/passwd").read_bytes()
    assert out(
        "cat /etc/passwd; id -un", mounts=[pc.content("königin:x:0:0::/:/bin/sh\n", "/etc/passwd")]
    ) == ("königin:x:0:0::/:/bin/sh\nkönigin")
    assert Path("/etc/passwd").read_bytes() == before


def test_content_may_be_written_by_its_owner_and_stays_inside() -> None:
    mount = pc.content("a", "/etc/made", mode=0o644)
    assert out("echo b >> /etc/made; cat /etc/made", mounts=[mount]) == "ab"
    assert sh("echo b >> /etc/made", mounts=[mount], user="1234").returncode != 0
    assert out("cat /etc/made", mounts=[mount]) == "a"


def test_much_content() -> None:
    data = os.urandom(4 * 2**20)
    result = pc.run(
        "host", ["sha256sum", "/big"], mounts=[pc.content(data, "/big")], capture_output=True, text=True
    )
    assert result.stdout.split()[0] == hashlib.sha256(data).hexdigest()


def test_many_mounts() -> None:
    mounts: list[object] = [pc.content(str(n), f"/many/file{n}") for n in range(40)]
    mounts += [pc.tmpfs(f"/many/tmpfs{n}") for n in range(20)]
    assert out("cat /many/file* | wc -c; ls -d /many/tmpfs* | wc -l", mounts=mounts).split() == ["70", "20"]


def test_the_repr_of_content_hides_it() -> None:
    assert "swordfish" not in repr(pc.content("swordfish", "/secret"))


# Mounts where the image is read-only, and into each other.


@as_root
def test_mounts_below_places_that_are_read_only(tree: Path) -> None:
    mounts = [pc.bind(tree, "/usr/share/pycontainer-test/deep"), pc.content("x", "/usr/lib/pycontainer-test")]
    assert (
        out("cat /usr/share/pycontainer-test/deep/file /usr/lib/pycontainer-test", mounts=mounts)
        == "of the hostx"
    )
    assert not Path("/usr/share/pycontainer-test").exists()
    assert not Path("/usr/lib/pycontainer-test").exists()


def test_mounts_with_a_read_only_root(tree: Path) -> None:
    mounts = [pc.bind(tree, "/made/d"), pc.content("x", "/etc/made"), pc.tmpfs("/made/t")]
    assert out("cat /made/d/file /etc/made; touch /made/t/x", mounts=mounts, read_only=True) == "of the hostx"


def test_mounts_into_mounts(tree: Path) -> None:
    mounts = [pc.tmpfs("/t"), pc.bind(tree, "/t/in", ro=True), pc.content("x", "/t/file")]
    assert out("cat /t/in/file /t/file", mounts=mounts) == "of the hostx"


def test_mounts_within_others_in_any_order(tmp_path: Path) -> None:
    """As with container engines, the outer one comes first."""
    (tmp_path / "file").write_text("bound")
    mounts = [pc.content("given", "/t/in/file"), pc.bind(tmp_path, "/t/b"), pc.tmpfs("/t/in"), pc.tmpfs("/t")]
    assert out("cat /t/in/file /t/b/file", mounts=mounts) == "givenbound"


def test_source_and_target_of_one_kind(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for source, target in ((tmp_path, "/etc/passwd"), (tmp_path / "file", "/etc")):
        with nothing_left(), pytest.raises(pc.LaunchError, match=r"two files|a file and a directory"):
            sh("true", mounts=[pc.bind(source, target)])


def test_a_target_that_a_link_leads_into_proc(tmp_path: Path) -> None:
    (tmp_path / "version").symlink_to("/proc/version")
    image = pc.Image.from_directory(tmp_path)
    with pytest.raises(pc.LaunchError, match="a link in the image leads from /version"):
        image.run(["/program"], mounts=[pc.content("mine", "/version")])


def test_a_tmpfs_below_dev_and_run() -> None:
    assert out("touch /dev/t/x /run/t/x && echo ok", mounts=[pc.tmpfs("/dev/t"), pc.tmpfs("/run/t")]) == "ok"


# Devices.


def test_the_usual_devices() -> None:
    names = out("ls /dev").split()
    usual = "null zero full random urandom tty fd stdin stdout stderr ptmx pts shm"
    assert set(usual.split()) <= set(names)
    assert not {"sda", "vda", "mem", "kmsg", "loop0", "fuse"} & set(names)
    assert out("head -c 3 /dev/zero | wc -c; echo x > /dev/null; head -c 8 /dev/urandom | wc -c").split() == [
        "3",
        "8",
    ]
    assert "No space" in sh("head -c 1 /dev/zero > /dev/full").stderr


def test_a_device_of_the_hosts() -> None:
    assert sh("test -c /dev/other").returncode == 1
    assert out("head -c 5 /dev/other | od -An -tx1", devices=["/dev/zero:/dev/other"]).split() == ["00"] * 5
    assert out("echo x > /dev/deep/null && echo ok", devices=[("/dev/null", "/dev/deep/null", "rw")]) == "ok"


@as_root
@pytest.mark.parametrize("options", [{}, {"cap_add": ["MKNOD"]}, {"privileged": True}], ids=str)
def test_the_hosts_node_stays_as_it_is(tmp_path: Path, options: dict[str, Any]) -> None:
    """It is written to as a device, and is a file of the host's all the same."""
    node = tmp_path / "node"
    os.mknod(node, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    before = node.lstat()
    script = (
        "echo x > /dev/other && echo written; chmod 666 /dev/other; chown 1:1 /dev/other; touch /dev/other"
    )
    found = sh(script, devices=[f"{node}:/dev/other"], **options)
    assert found.stdout == "written\n"
    assert found.stderr.count("Read-only file system") == 3
    assert node.lstat() == before


def test_a_missing_device_is_named() -> None:
    with nothing_left(), pytest.raises(pc.LaunchError, match="/dev/no-such-device"):
        sh("true", devices=["/dev/no-such-device"])


@as_root
def test_a_directory_of_devices_is_its_nodes_alone(tmp_path: Path) -> None:
    """Whoever could write to the directory itself could remove the host's nodes."""
    (tmp_path / "deep").mkdir()
    os.mknod(tmp_path / "zero", 0o666 | stat.S_IFCHR, os.makedev(1, 5))
    os.mknod(tmp_path / "deep" / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    (tmp_path / "file").write_text("no device")
    script = (
        "ls -R /dev/d; test -c /dev/d/zero && echo node; rm -f /dev/d/zero /dev/d/deep/null; touch /dev/d/new"
    )
    assert out(script, devices=[(str(tmp_path), "/dev/d")]).split() == (
        ["/dev/d:", "deep", "zero", "/dev/d/deep:", "null", "node"]
    )
    assert sorted(os.listdir(tmp_path)) == ["deep", "file", "zero"]
    assert os.listdir(tmp_path / "deep") == ["null"]
    # Looked at anew each time.
    (tmp_path / "deep" / "null").unlink()
    assert out(script, devices=[(str(tmp_path), "/dev/d")]).split() == ["/dev/d:", "zero", "node"]


def test_what_is_no_device_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for wrong, why in ((tmp_path / "file", "no device node"), (tmp_path, "holds no device node")):
        with nothing_left(), pytest.raises(pc.InvalidOption, match=f"{wrong} .*{why}"):
            sh("true", devices=[(str(wrong), "/dev/x")])


def test_access_that_cannot_be_limited_is_refused() -> None:
    with nothing_left(), pytest.raises(pc.CapabilityUnavailable, match="/dev/zero"):
        sh("true", devices=["/dev/zero:/dev/zero:r"])


def test_device_nodes_cannot_be_used_where_they_were_not_given() -> None:
    code = """
import os, stat
try:
    os.mknod("/tmp/disk", stat.S_IFBLK | 0o600, os.makedev(254, 0))
    open("/tmp/disk", "rb").read(1)
except PermissionError:
    print("refused")
"""
    assert python(code).stdout == "refused\n"


@as_root
def test_a_mount_in_tmp_leaves_an_ordinary_user_a_tmp(as_user: OrdinaryUser) -> None:
    """The kernel lets no overlay of a user namespace hide what is mounted below."""
    place = Path(tempfile.mkdtemp(dir="/tmp"))
    subprocess.run(["mount", "-t", "tmpfs", "mounted-in-tmp", place], check=True)
    try:
        as_user("""
            import pycontainer as pc
            found = pc.run("host", ["sh", "-c", "touch /tmp/x && stat -c %a /tmp"], capture_output=True)
            assert found.stdout == b"1777\\n", found
        """)
    finally:
        subprocess.run(["umount", place], check=True)
        place.rmdir()
