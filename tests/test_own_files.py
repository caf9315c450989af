"""/etc/hosts, /etc/hostname and /etc/resolv.conf: each container's own, and never its image's."""

from __future__ import annotations

import errno
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pycontainer as pc
import shell_root
from containers import until
from pycontainer.network import names

FILES = ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf")
LOCAL = ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback"]
MULTICAST = ["ff02::1 ip6-allnodes", "ff02::2 ip6-allrouters"]
READ = ["sh", "-c", "for f in hosts hostname resolv.conf; do cat /etc/$f; echo --; done"]

Make = Callable[[Path], None]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root directory that has an /etc, and none of the files."""
    return shell_root.make(tmp_path_factory.mktemp("root") / "root")


@pytest.fixture(scope="module")
def image(root: Path) -> pc.Image:
    return pc.Image.from_directory(root, config={"cmd": ["sleep", "1000"]})


@pytest.fixture(params=["layers", "host"])
def base(request: pytest.FixtureRequest, image: pc.Image) -> pc.Image:
    return image if request.param == "layers" else pc.Image.host()


@pytest.fixture
def network() -> Iterator[pc.Network]:
    with pc.Network.create("of-files", internal=True) as made:
        yield made


def changed(root: Path, to: Path, change: Make) -> pc.Image:
    """An image of the same root with a change."""
    shutil.copytree(root, to, symlinks=True)
    change(to)
    return pc.Image.from_directory(to, config={"cmd": ["sleep", "1000"]})


def lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


def read(image: pc.Image, **options: object) -> list[list[str]]:
    """The lines of the three files in a new container."""
    done = image.run(READ, capture_output=True, text=True, timeout=60, **options)
    assert done.returncode == 0, done.stderr
    return [lines(part) for part in done.stdout.split("--\n")[:-1]]


def see(container: pc.Container, script: str) -> str:
    done = container.exec(["sh", "-c", script], capture_output=True, text=True, timeout=60)
    return str(done.stdout + done.stderr).strip()


# What they say.


def test_without_a_network(base: pc.Image) -> None:
    hosts, hostname, resolver = read(base, hostname="me")
    assert hosts == [*LOCAL, *MULTICAST, "127.0.1.1 me"]
    assert (hostname, resolver) == (["me"], [])


def test_the_host_name_is_the_id_where_nobody_says_one(base: pc.Image) -> None:
    with base.start(["sleep", "1000"]) as container:
        assert see(container, "cat /etc/hostname") == see(container, "uname -n") == container.id[:12]
        assert see(container, "tail -n 1 /etc/hosts").split() == ["127.0.1.1", container.id[:12]]


def test_a_host_name_among_the_sysctls(base: pc.Image) -> None:
    assert read(base, sysctls={"kernel.hostname": "me"})[1] == ["me"]


def test_the_hosts_network(base: pc.Image) -> None:
    hosts, hostname, resolver = read(base, network="host", hostname="me")
    assert hosts == lines(Path("/etc/hosts").read_text())
    assert hostname == ["me"]
    assert resolver == lines(Path("/etc/resolv.conf").read_text())


def test_more_hosts_and_name_servers_in_the_hosts_network(base: pc.Image) -> None:
    extra = {"db": ["10.0.0.1", "fd00::1"]}
    hosts, _, resolver = read(base, network="host", extra_hosts=extra, dns=["10.0.0.53"])
    assert hosts == [*lines(Path("/etc/hosts").read_text()), "10.0.0.1 db", "fd00::1 db"]
    assert resolver == ["nameserver 10.0.0.53"]


def test_a_last_line_without_an_end(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("10.0.0.1 a")
    assert names.host_file(str(tmp_path / "hosts")) == "10.0.0.1 a\n"
    (tmp_path / "hosts").write_text("")
    assert names.host_file(str(tmp_path / "hosts")) == ""
    assert names.host_file(str(tmp_path / "missing")) == ""


def test_more_hosts_and_name_servers(base: pc.Image) -> None:
    extra = {"db": "10.0.0.1", "cache": ["10.0.0.2", "fd00::2"]}
    hosts, _, resolver = read(base, hostname="me", extra_hosts=extra, dns=["10.0.0.53", "fd00::53"])
    more = ["10.0.0.1 db", "10.0.0.2 cache", "fd00::2 cache"]
    assert hosts == [*LOCAL, *MULTICAST, *more, "127.0.1.1 me"]
    assert resolver == ["nameserver 10.0.0.53", "nameserver fd00::53"]


def test_on_a_network(base: pc.Image, network: pc.Network) -> None:
    with base.start(["sleep", "1000"], network=network, name="own", hostname="me", aliases=["web"]) as one:
        four, *six = one.addresses[network.name]
        own = [f"{address} me" for address in (four, *six)]
        found = lines(see(one, "cat /etc/hosts"))
        assert found == [*LOCAL, *MULTICAST, *own, f"{four} web own me {one.id[:12]}"]
        assert see(one, "cat /etc/hostname /etc/resolv.conf") == f"me\nnameserver {network.gateway}"


def test_of_a_shared_network(base: pc.Image, network: pc.Network) -> None:
    with (
        base.start(["sleep", "1000"], network=network, hostname="first") as first,
        base.start(["sleep", "1000"], network=first, hostname="second", extra_hosts={"x": "10.0.0.1"}) as two,
    ):
        assert see(two, "cat /etc/hostname") == "second"
        hosts = lines(see(two, "cat /etc/hosts"))
        assert f"{first.ip_address} second" in hosts
        assert f"{first.ip_address} first {first.id[:12]}" in hosts
        assert "10.0.0.1 x" in hosts
        assert two.addresses == first.addresses


def test_of_a_shared_network_that_is_the_hosts(base: pc.Image) -> None:
    with base.start(["sleep", "1000"], network="host") as first:
        assert read(base, network=first)[0] == lines(Path("/etc/hosts").read_text())


# What the image has at their places.


def test_an_image_without_etc(root: Path, tmp_path: Path) -> None:
    def change(to: Path) -> None:
        shutil.rmtree(to / "etc")

    image = changed(root, tmp_path / "root", change)
    assert read(image, user="0", hostname="me")[1] == ["me"]
    with image.start() as container:
        assert container.diff() == []


def test_an_image_that_has_them(root: Path, tmp_path: Path) -> None:
    def change(to: Path) -> None:
        for path in FILES:
            (to / path[1:]).write_text("of the image\n")

    image = changed(root, tmp_path / "root", change)
    with image.start(hostname="me") as container:
        assert "of the image" not in see(container, "cat " + " ".join(FILES))
        container.exec(["sh", "-c", "echo mine > /etc/hostname; echo 10.0.0.9 mine >> /etc/hosts"])
        assert see(container, "cat /etc/hostname") == "mine"
        assert container.diff() == []
        container.export(tmp_path / "flat.tar")
        committed = container.commit()
    with tarfile.open(tmp_path / "flat.tar") as tar:
        for path in FILES:
            file = tar.extractfile(path[1:])
            assert file is not None
            assert file.read() == b"of the image\n"
    with committed.mount() as seen:
        assert [(seen / path[1:]).read_text() for path in FILES] == ["of the image\n"] * 3
    assert len(committed.layers) == len(image.layers)


STUB = "run/systemd/resolve/stub-resolv.conf"
LINKS = {
    "relative": (f"../{STUB}", {}),
    "absolute": (f"/{STUB}", {}),
    "out and in again": (f"../../../{STUB}", {}),
    "to a link": ("/run/a", {"run/a": "b/../c", "run/c": "/data/there"}),
    "through a directory that is a link": ("/var/run/x", {"var/run": "/run"}),
    "through a link that leads nowhere": ("/var/run/x", {"var/run": "../new/run"}),
    "to what is there": ("../data/a", {}),
    "past what is there once it is made": ("../run/new/../../data/a", {}),
    "eight": ("l1", {f"etc/l{n}": f"l{n + 1}" for n in range(1, 8)}),
}


@pytest.mark.parametrize(("target", "more"), LINKS.values(), ids=LINKS)
def test_a_link(root: Path, tmp_path: Path, target: str, more: dict[str, str]) -> None:
    """As most distributions have it: often it leads nowhere in an image."""
    links = {"etc/resolv.conf": target} | more

    def change(to: Path) -> None:
        for name, where in links.items():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            (to / name).symlink_to(where)

    image = changed(root, tmp_path / "root", change)
    assert read(image, dns=["10.0.0.53"], read_only=True)[2] == ["nameserver 10.0.0.53"]
    with image.start(dns=["10.0.0.53"]) as container:
        for _ in range(2):
            assert see(container, "cat /etc/resolv.conf") == "nameserver 10.0.0.53"
            container.restart(timeout=0)
        assert container.diff() == []
        with container.commit().mount() as seen:
            for name, where in links.items():
                assert os.readlink(seen / name) == where
            assert not (seen / "new").exists()
            assert (seen / "data/a").read_text() == "a\n"
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "new").exists()


REFUSED_LINKS = {
    "to itself": ("resolv.conf", {}),
    "nine": ("l1", {f"etc/l{n}": f"l{n + 1}" for n in range(1, 9)}),
    "longer and longer": ("x/l", {"etc/x/l": "x/" * 1000 + "l", "etc/x/x": "x"}),
    "to a directory that is not there": ("/run/x/", {}),
    "to a directory": ("/data", {}),
    "into the kernel's own": ("/proc/version", {}),
}


@pytest.mark.parametrize(("target", "more"), REFUSED_LINKS.values(), ids=REFUSED_LINKS)
def test_a_link_that_nothing_can_be_made_of(
    root: Path, tmp_path: Path, target: str, more: dict[str, str]
) -> None:
    def change(to: Path) -> None:
        for name, where in {"etc/resolv.conf": target, **more}.items():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            (to / name).symlink_to(where)

    image = changed(root, tmp_path / "root", change)
    with pytest.raises(pc.LaunchError, match=r"/etc/resolv\.conf"):
        read(image)


@pytest.mark.parametrize("path", FILES)
def test_a_directory_at_their_place(root: Path, tmp_path: Path, path: str) -> None:
    image = changed(root, tmp_path / "root", lambda to: (to / path[1:]).mkdir())
    with pytest.raises(pc.LaunchError, match=path) as caught:
        read(image)
    assert caught.value.errno is not None


def test_a_mount_of_the_callers_at_a_link_that_leads_nowhere(root: Path, tmp_path: Path) -> None:
    def change(to: Path) -> None:
        (to / "cache").symlink_to("/var/cache/deep")
        (to / "file").symlink_to("made/file")

    image = changed(root, tmp_path / "root", change)
    mounts = [pc.tmpfs("/cache/sub"), pc.content("text", "/file")]
    done = image.run(
        ["sh", "-c", "cat /file /made/file; touch /cache/sub/x; ls /var/cache/deep/sub"],
        mounts=mounts,
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("texttextx\n", "")


# Whose they are.


def test_the_callers_mounts_win(base: pc.Image, tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("of the caller\n")
    mounts = [pc.bind(tmp_path / "hosts", "/etc/hosts"), pc.content("x\n", "/etc/hostname")]
    mounts += [pc.content("nameserver 10.0.0.1\n", "/etc/resolv.conf")]
    found = read(base, mounts=mounts, hostname="me", dns=["10.0.0.2"])
    assert found == [["of the caller"], ["x"], ["nameserver 10.0.0.1"]]
    assert (tmp_path / "hosts").read_text() == "of the caller\n"


def test_a_mount_above_them_wins(image: pc.Image, tmp_path: Path) -> None:
    for path in FILES:
        (tmp_path / path.rpartition("/")[2]).write_text("of the caller\n")
    assert read(image, mounts=[pc.bind(tmp_path, "/etc")]) == [["of the caller"]] * 3
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["hostname", "hosts", "resolv.conf"]


def test_a_callers_hosts_stay_as_they_are_when_somebody_comes(
    base: pc.Image, network: pc.Network, tmp_path: Path
) -> None:
    (tmp_path / "hosts").write_text("of the caller\n")
    mounts = [pc.bind(tmp_path / "hosts", "/etc/hosts")]
    with (
        base.start(["sleep", "1000"], network=network, mounts=mounts) as first,
        base.start(["sleep", "1000"], network=network),
    ):
        assert see(first, "cat /etc/hosts") == "of the caller"
    assert (tmp_path / "hosts").read_text() == "of the caller\n"


def test_a_root_that_is_read_only(base: pc.Image, network: pc.Network) -> None:
    with base.start(["sleep", "1000"], read_only=True, network=network, hostname="me") as container:
        assert see(container, "cat /etc/hostname") == "me"
        for path in FILES:
            assert "Read-only file system" in see(container, f"echo x > {path}")
        # Which is for the programs in it.
        with base.start(["sleep", "1000"], network=network, name="later"):
            assert " later " in see(container, "cat /etc/hosts").replace("\t", " ")


def test_as_any_user(base: pc.Image) -> None:
    try:
        found = read(base, user="1000:1000", hostname="me")
    except pc.CapabilityUnavailable:
        pytest.skip("this user's namespace holds root alone")
    assert found[1] == ["me"]
    done = base.run(["sh", "-c", "echo x > /etc/hosts"], user="1000:1000", capture_output=True, text=True)
    assert "ermission denied" in done.stderr


def test_nobody_removes_or_moves_them(base: pc.Image) -> None:
    with base.start(["sleep", "1000"]) as container:
        assert "busy" in see(container, "rm /etc/hosts").lower()
        assert "busy" in see(container, "mv /etc/hosts /etc/other").lower()


def test_a_start_renews_them(base: pc.Image) -> None:
    with base.start(["sleep", "1000"], hostname="me") as container:
        see(container, "echo x > /etc/hosts; echo x > /etc/hostname; echo x > /etc/resolv.conf")
        assert see(container, "cat /etc/hosts /etc/hostname /etc/resolv.conf") == "x\nx\nx"
        container.restart(timeout=0)
        assert see(container, "cat /etc/hostname /etc/resolv.conf") == "me"
        assert lines(see(container, "cat /etc/hosts"))[:2] == LOCAL


def test_each_fork_has_its_own(base: pc.Image) -> None:
    with base.create(["sleep", "1000"], hostname="first", dns=["10.0.0.1"]) as container:
        container.prepare(["sh", "-c", "cat /etc/hostname /etc/resolv.conf > /tmp/seen; echo x > /etc/hosts"])
        with container.seal() as template, template.fork(hostname="second") as fork:
            assert see(fork, "cat /tmp/seen") == "first\nnameserver 10.0.0.1"
            assert see(fork, "cat /etc/hostname /etc/resolv.conf") == "second\nnameserver 10.0.0.1"
            assert lines(see(fork, "cat /etc/hosts"))[-1] == "127.0.1.1 second"
            assert not [change for change in fork.diff() if change.path.startswith("/etc")]
            with fork.seal() as again, again.fork() as deeper:
                assert see(deeper, "cat /etc/hostname") == "second"


def test_what_is_read_and_copied_from_outside_is_the_layers(image: pc.Image) -> None:
    """Mounts are no part of a container's files, nor are these."""
    with image.start(hostname="me") as container:
        assert container.path("/etc/hostname").read_text() == "me\n"
    with image.create() as created:
        assert not created.path("/etc/hostname").exists()


# Kept true.


def added(container: pc.Container) -> list[str]:
    return lines(see(container, "cat /etc/hosts"))[4:]


def test_what_a_program_adds_stays_when_somebody_comes(base: pc.Image, network: pc.Network) -> None:
    with base.start(["sleep", "1000"], network=network, hostname="me") as first:
        see(first, "echo 10.0.0.99 added >> /etc/hosts")
        before = added(first)
        with base.start(["sleep", "1000"], network=network, name="later") as later:
            found = added(first)
            assert found[-1] == "10.0.0.99 added"
            assert f"{later.ip_address} later {later.id[:12]}" in found
        until(lambda: added(first) == before, "the other one is forgotten")


def test_they_follow_the_networks_that_it_is_connected_to(base: pc.Image, network: pc.Network) -> None:
    with (
        base.start(["sleep", "1000"], hostname="me") as container,
        base.start(["sleep", "1000"], network=container) as follower,
        pc.Network.create("second-of-files", internal=True) as second,
    ):
        both = (container, follower)
        before = see(container, "cat /etc/hosts")
        assert lines(before)[4:] == ["127.0.1.1 me"]
        assert [see(one, "cat /etc/resolv.conf") for one in both] == ["", ""]
        network.connect(container)
        four, six = container.addresses["of-files"]
        own = [f"{four} me", f"{six} me", f"{four} me {container.id[:12]}"]
        assert added(container) == own
        assert [see(one, "cat /etc/resolv.conf") for one in both] == [f"nameserver {network.gateway}"] * 2
        second.connect(container)
        servers = f"nameserver {network.gateway}\nnameserver {second.gateway}"
        assert [see(one, "cat /etc/resolv.conf") for one in both] == [servers] * 2
        second.disconnect(container)
        assert added(container) == own
        network.remove(force=True)
        assert see(container, "cat /etc/hosts") == before
        assert [see(one, "cat /etc/resolv.conf") for one in both] == ["", ""]


@pytest.mark.parametrize("whose", ["the program's", "the caller's"])
def test_name_servers_that_somebody_chose_stay(base: pc.Image, network: pc.Network, whose: str) -> None:
    chosen = {"dns": ["10.0.0.53"]} if whose == "the caller's" else {}
    with base.start(["sleep", "1000"], **chosen) as container:
        if not chosen:
            see(container, "echo nameserver 10.0.0.53 > /etc/resolv.conf")
        for _ in range(2):
            network.connect(container)
            assert see(container, "cat /etc/resolv.conf") == "nameserver 10.0.0.53"
            network.disconnect(container)
            assert see(container, "cat /etc/resolv.conf") == "nameserver 10.0.0.53"


@pytest.mark.parametrize(
    "damage",
    [": > /etc/hosts", "echo mine > /etc/hosts", "head -c 3000000 /dev/zero >> /etc/hosts"],
    ids=["emptied", "replaced", "very long"],
)
def test_what_a_program_ruined_is_written_anew(base: pc.Image, network: pc.Network, damage: str) -> None:
    with base.start(["sleep", "1000"], network=network, hostname="me") as first:
        before = added(first)
        see(first, damage)
        with base.start(["sleep", "1000"], network=network, name="later") as later:
            assert added(first) == [*before, f"{later.ip_address} later {later.id[:12]}"]
        until(lambda: added(first) == before, "the other one is forgotten")
        assert int(see(first, "wc -c < /etc/hosts")) < 1000


def test_one_that_cannot_be_written_harms_nobody_else(
    image: pc.Image, network: pc.Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program may fill the file system that it lies on."""
    write = names.HostsFile.write
    tried = []

    def full(file: names.HostsFile, text: str) -> None:
        tried.append(text)
        if " 10.0.0.1 " in text.replace("\t", " ").replace("\n", " "):
            raise OSError(errno.ENOSPC, "full")
        write(file, text)

    with (
        image.start(network=network, extra_hosts={"x": "10.0.0.1"}) as first,
        image.start(network=network) as other,
    ):
        monkeypatch.setattr(names.HostsFile, "write", full)
        with image.start(network=network, name="later") as later:
            line = f"{later.ip_address} later {later.id[:12]}"
            assert line in added(other)
            assert line not in added(first)
        assert len(tried) >= 3
