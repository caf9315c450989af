"""Who a program runs as, and how the account files of a hostile image are read."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from conftest import need
from pycontainer.errors import InvalidImage, InvalidOption, LaunchError
from pycontainer.runtime import user as user_module
from pycontainer.runtime.layered_file import read_layered_file
from pycontainer.runtime.user import (
    MAX_ACCOUNTS,
    Identity,
    host_account_files,
    read_account_files,
    resolve,
)

PASSWD = b"""root:x:0:0:root:/root:/bin/sh
# comment:x:5:5::/:
daemon:x:1:1::/usr/sbin:/bin/sh

  web:x:1000:100:Web,,,:/srv/web:/bin/sh
short:x:7:8
1000:x:0:0::/evil:/bin/sh
+nis:x:9:9::/:
broken:x:abc:5::/:
broken:x:-1:5::/:
broken:x:4294967295:5::/:
broken:x::5::/:
nohome:x:55:55:::
relative:x:56:56::tmp:/bin/sh
web:x:0:0::/second:/bin/sh
big:x:4294967294:4294967294::/big:
\xff:x:60:60::/\xff:
"""
GROUP = b"""root:x:0:
users:x:100:web
adm:x:4:daemon,web
disk:x:6:webber,web2
spaced:x:9: web , other
broken:x:zz:web
wheel:x:10:root
minimal:x:11
2000:x:0:web
"""


def who(user: str | None) -> Identity:
    return resolve(user, PASSWD, GROUP, image="alpine")


@pytest.mark.parametrize(
    ("user", "identity"),
    [
        (None, Identity(0, 0, (0, 10), "/root", "root")),
        ("", Identity(0, 0, (0, 10), "/root", "root")),
        ("root", Identity(0, 0, (0, 10), "/root", "root")),
        ("0", Identity(0, 0, (0, 10), "/root", "root")),
        ("00", Identity(0, 0, (0, 10), "/root", "root")),
        ("web", Identity(1000, 100, (100, 4, 9, 0), "/srv/web", "web")),
        ("1000", Identity(1000, 100, (100, 4, 9, 0), "/srv/web", "web")),
        ("web:adm", Identity(1000, 4, (4,), "/srv/web", "web")),
        ("web:77", Identity(1000, 77, (77,), "/srv/web", "web")),
        ("1000:minimal", Identity(1000, 11, (11,), "/srv/web", "web")),
        ("4242", Identity(4242, 0, (0,), "/", "")),
        ("4242:100", Identity(4242, 100, (100,), "/", "")),
        ("short", Identity(7, 8, (8,), "/", "short")),
        ("nohome", Identity(55, 55, (55,), "/", "nohome")),
        ("relative", Identity(56, 56, (56,), "/", "relative")),
        ("4294967294", Identity(4294967294, 4294967294, (4294967294,), "/big", "big")),
        ("4294967294:2000", Identity(4294967294, 2000, (2000,), "/big", "big")),
        ("\udcff", Identity(60, 60, (60,), "/\udcff", "\udcff")),
    ],
)
def test_users(user: str | None, identity: Identity) -> None:
    assert who(user) == identity


@pytest.mark.parametrize(
    "user",
    [
        "nobody",
        "web:nogroup",
        "broken",
        "+nis",
        "nis",
        "# comment",
        "4294967295",
        "99999999999",
        "-1",
        "+0",
        "+1000",
        "0:4294967295",
        "0:-1",
        ":",
        ":0",
        "web:",
        "a:b:c",
        "x" * 300,
        "0x0",
        "1000 ",
        "\u0661",
    ],
)
def test_refusals_name_user_and_image(user: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        who(user)
    assert repr(user) in str(caught.value)
    assert "alpine" in str(caught.value)


def test_digits_are_never_a_name() -> None:
    for hostile in (b"4242:x:0:0::/:\n", b"+4242:x:0:0::/:\n"):
        assert resolve("4242", hostile, b"").uid == 4242
    with pytest.raises(InvalidOption):
        resolve("99999999999", b"99999999999:x:0:0::/:\n", b"")
    with pytest.raises(InvalidOption):
        resolve("-1", b"-1:x:0:0::/:\n", b"")


def test_no_files_at_all() -> None:
    assert resolve(None, b"", b"") == Identity(0, 0, (0,), "/", "")
    with pytest.raises(InvalidOption):
        resolve("root", b"", b"")


def test_too_many_groups() -> None:
    text = b"".join(b"g%d:x:%d:web\n" % (number, number) for number in range(1, 65600))
    with pytest.raises(InvalidOption, match="more than 65536 groups"):
        resolve("web", PASSWD, text)


def test_a_nul_ends_no_field() -> None:
    with pytest.raises(InvalidOption):
        resolve("a", b"a:x:5:5::/h\0ome:\n", b"")


def test_answers_are_remembered() -> None:
    assert who("web") is who("web")


# The files of an image's layers, topmost first.


def layer(root: Path, files: dict[str, bytes]) -> str:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    root.mkdir(exist_ok=True)
    return str(root)


def whiteout(path: Path) -> None:
    need(os.geteuid() == 0, "the right to make whiteouts (device 0:0)")
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mknod(path, 0o20000, 0)


def test_the_topmost_layer_wins(tmp_path: Path) -> None:
    top = layer(tmp_path / "a", {"etc/passwd": b"top"})
    low = layer(tmp_path / "b", {"etc/passwd": b"low", "etc/group": b"group"})
    assert read_account_files([top, low]) == (b"top", b"group")
    assert read_account_files([low, top]) == (b"low", b"group")
    assert read_account_files([layer(tmp_path / "c", {})]) == (b"", b"")
    assert read_account_files([]) == (b"", b"")


def test_whiteouts_hide_what_is_below(tmp_path: Path) -> None:
    low = layer(tmp_path / "low", {"etc/passwd": b"low", "etc/group": b"low"})
    file_gone, directory_gone = layer(tmp_path / "f", {}), layer(tmp_path / "d", {})
    whiteout(tmp_path / "f/etc/passwd")
    whiteout(tmp_path / "d/etc")
    assert read_account_files([file_gone, low]) == (b"", b"low")
    assert read_account_files([directory_gone, low]) == (b"", b"")
    again = layer(tmp_path / "again", {"etc/group": b"again"})
    assert read_account_files([again, directory_gone, low]) == (b"", b"again")


@pytest.mark.parametrize("attribute", ["trusted.overlay.opaque", "user.overlay.opaque"])
def test_opaque_directories_hide_what_is_below(tmp_path: Path, attribute: str) -> None:
    low = layer(tmp_path / "low", {"etc/passwd": b"low"})
    top = layer(tmp_path / "top", {"etc/group": b"top"})
    try:
        os.setxattr(tmp_path / "top/etc", attribute, b"y")
    except OSError:
        need(False, f"{attribute} on {tmp_path}")
    assert read_account_files([top, low]) == (b"", b"top")


def test_a_file_above_a_directory_hides_it(tmp_path: Path) -> None:
    low = layer(tmp_path / "low", {"etc/passwd": b"low"})
    assert read_account_files([layer(tmp_path / "top", {"etc": b"file"}), low]) == (b"", b"")
    mixed = [layer(tmp_path / "dir", {"etc/group": b"dir"}), str(tmp_path / "top"), low]
    assert read_account_files(mixed) == (b"", b"dir")


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("etc", "real"),
        ("etc", "/real"),
        ("etc", "../../../real"),
        ("etc", "./x/../real"),
        ("etc/passwd", "../real/passwd"),
        ("etc/passwd", "/etc/../../real/passwd"),
        ("etc/passwd", "/hop/passwd"),
    ],
)
def test_links_lead_beneath_the_layers_only(tmp_path: Path, link: str, target: str) -> None:
    top = tmp_path / "top"
    layer(top, {"x/y": b""})
    low = layer(tmp_path / "low", {"real/passwd": b"inside"})
    (top / "hop").symlink_to("/real")
    (top / link).parent.mkdir(exist_ok=True)
    (top / link).symlink_to(target)
    assert read_account_files([str(top), low])[0] == b"inside"


@pytest.mark.parametrize(
    "target", ["/etc/hostname", "../../../../../../../../etc/hostname", "{outside}/secret"]
)
def test_no_link_leads_out(tmp_path: Path, target: str) -> None:
    layer(tmp_path / "outside", {"secret": b"host"})
    top = tmp_path / "top"
    layer(top, {"etc/x": b""})
    (top / "etc/passwd").symlink_to(target.format(outside=tmp_path / "outside"))
    (top / "out").symlink_to(tmp_path / "outside")
    (top / "etc/group").symlink_to("/out/secret")
    assert read_account_files([str(top)]) == (b"", b"")


def test_loops_and_long_ways_end(tmp_path: Path) -> None:
    top = tmp_path / "top"
    layer(top, {"etc/x": b"", "d/x": b""})
    (top / "etc/passwd").symlink_to("group")
    (top / "etc/group").symlink_to("passwd")
    with pytest.raises(InvalidImage, match="too many links"):
        read_account_files([str(top)])
    (top / "etc/passwd").unlink()
    (top / "etc/passwd").symlink_to("/" + "d/../" * 700)
    with pytest.raises(InvalidImage, match="too long a path"):
        read_account_files([str(top)])


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    top = tmp_path / "top"
    layer(top, {"etc/x": b""})
    passwd = top / "etc/passwd"
    os.mkfifo(passwd)
    with pytest.raises(InvalidImage, match="/etc/passwd in the image is no regular file"):
        read_account_files([str(top)])
    passwd.unlink()
    passwd.mkdir()
    with pytest.raises(InvalidImage, match="is a directory"):
        read_account_files([str(top)])
    passwd.rmdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(passwd))
        with pytest.raises(InvalidImage, match="no regular file"):
            read_account_files([str(top)])


def test_files_are_bounded(tmp_path: Path) -> None:
    top = tmp_path / "top"
    layer(top, {"etc/passwd": bytes(MAX_ACCOUNTS)})
    assert len(read_account_files([str(top)])[0]) == MAX_ACCOUNTS
    with (top / "etc/passwd").open("r+b") as file:
        file.truncate(2**40)
    with pytest.raises(InvalidImage, match="longer than"):
        read_account_files([str(top)])


def test_a_missing_layer_is_a_launch_error(tmp_path: Path) -> None:
    with pytest.raises(LaunchError) as caught:
        read_layered_file([str(tmp_path / "gone")], "etc/passwd", limit=1)
    assert caught.value.path == str(tmp_path / "gone")


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    top = layer(tmp_path / "top", {"etc/passwd": b"x"})
    (tmp_path / "top/etc/group").symlink_to("group")
    before = os.listdir("/proc/self/fd")
    with pytest.raises(InvalidImage):
        read_account_files([top, top, top])
    assert os.listdir("/proc/self/fd") == before


def test_the_hosts_files_are_read_again_when_they_change(tmp_path: Path) -> None:
    passwd, group = host_account_files()
    assert resolve("root", passwd, group).uid == 0
    assert host_account_files()[0] is passwd

    path = tmp_path / "passwd"
    path.write_bytes(b"one")
    assert user_module._host_file(str(path)) == b"one"
    path.write_bytes(b"two!")
    assert user_module._host_file(str(path)) == b"two!"
    assert user_module._host_file(str(tmp_path / "missing")) == b""
