"""What a program in a container is and sees, compared with the defaults in runtime/isolation.py."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import inside
import inside_probe
from conftest import need
from ordinary_user import OrdinaryUser
from pycontainer.runtime import isolation
from pycontainer.runtime.isolation import capability_mask

Report = dict[str, Any]
HERE = Path(__file__).resolve().parent
PROBE = (HERE / "inside_probe.py").read_text()
BOUNDING = int(inside_probe.status()["CapBnd"], 16)
FLAGS = {
    isolation.MS_RDONLY: "ro",
    isolation.MS_NOSUID: "nosuid",
    isolation.MS_NODEV: "nodev",
    isolation.MS_NOEXEC: "noexec",
}
DEFAULTS = capability_mask(isolation.DEFAULT_CAPABILITIES)

AS_USER = """
print(json.dumps(WAYS[{way!r}]({probe!r})))
"""


@pytest.fixture(scope="module")
def reports(request: pytest.FixtureRequest) -> Callable[[str, str], Report]:
    """`reports(who, way)`: each container is made once, and looked at by many tests."""
    made: dict[tuple[str, str], Report] = {}

    def report(who: str, way: str) -> Report:
        if (who, way) not in made:
            made[who, way] = _report(who, way, request)
        return made[who, way]

    return report


def _report(who: str, way: str, request: pytest.FixtureRequest) -> Report:
    if who == "root":
        need(os.getuid() == 0, "root")
        return inside.WAYS[way](PROBE)
    user: OrdinaryUser | None = request.getfixturevalue("ordinary")
    need(user is not None, "an ordinary user (useradd --create-home pctest)")
    assert user is not None
    script = (HERE / "inside.py").read_text() + AS_USER.format(way=way, probe=PROBE)
    found: Report = json.loads(user(script).stdout)
    return found


EVERYONE = [(who, way) for who in ("root", "ordinary") for way in inside.WAYS]
ROOT, ORDINARY = ("root", "run"), ("ordinary", "run")
each = pytest.mark.parametrize(("who", "way"), EVERYONE, ids=lambda word: str(word).replace(" ", ""))
each_owner = pytest.mark.parametrize(("who", "way"), [ROOT, ORDINARY])

Reports = Callable[[str, str], Report]


def at(report: Report, path: str) -> dict[str, Any]:
    """The mount that is seen at `path`: the last one there."""
    found: dict[str, Any] = [mount for mount in report["mounts"] if mount["at"] == path][-1]
    return found


@each
def test_namespaces_are_its_own(reports: Reports, who: str, way: str) -> None:
    own = {"mnt", "pid", "ipc", "uts", "cgroup"}
    own |= set() if way == "network=host" else {"net"}
    own |= {"user"} if who == "ordinary" else set()
    for name in ("mnt", "pid", "ipc", "uts", "cgroup", "net", "user"):
        ours, theirs = os.readlink(f"/proc/self/ns/{name}"), reports(who, way)["namespaces"][name]
        # An ordinary user's test may run in a mount namespace of its own; that is not ours either.
        assert (ours != theirs) == (name in own), name


@each
def test_capabilities_are_the_default_ones(reports: Reports, who: str, way: str) -> None:
    status = reports(who, way)["status"]
    bounding = DEFAULTS & (BOUNDING if who == "root" else ~0)
    # execve(2) of a user that is not root leaves it none.
    kept = 0 if "user" in way else bounding
    found = {name: int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
    assert found == {"CapInh": 0, "CapPrm": kept, "CapEff": kept, "CapBnd": bounding, "CapAmb": 0}


@each
def test_it_is_filtered_and_gains_no_privileges(reports: Reports, who: str, way: str) -> None:
    status = reports(who, way)["status"]
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


@each
def test_the_keyring_is_out_of_reach(reports: Reports, who: str, way: str) -> None:
    assert reports(who, way)["keyring"] == -errno.EPERM


@each
def test_ids_and_groups_are_set(reports: Reports, who: str, way: str) -> None:
    uid = 1000 if "user" in way else 0
    uids, gids, groups = reports(who, way)["ids"]
    assert uids == [uid] * 3
    assert len(set(gids)) == 1
    assert set(groups) <= {*gids}


@each
def test_it_leads_a_session_of_its_own(reports: Reports, who: str, way: str) -> None:
    report = reports(who, way)
    assert report["session"] == report["pid"]
    assert (report["pid"] == 1) == (way == "init=False")


@each
def test_it_has_the_standard_streams_and_nothing_else(reports: Reports, who: str, way: str) -> None:
    report = reports(who, way)
    assert set(report["descriptors"]) == {"0", "1", "2"}
    if "tty" in way:
        assert report["terminal"].startswith("/dev/pts/")
        assert set(report["descriptors"].values()) == {report["terminal"]}
    else:
        assert report["terminal"] is None
        assert not any("/dev/pts" in target for target in report["descriptors"].values())


@each
def test_default_mounts_are_there_with_their_flags(reports: Reports, who: str, way: str) -> None:
    report = reports(who, way)
    for mount in isolation.DEFAULT_MOUNTS:
        if mount.destination == "/sys/fs/cgroup" and who == "ordinary":
            continue  # whether there are control groups to see depends on what the host delegates
        found = at(report, mount.destination)
        wanted = {name for bit, name in FLAGS.items() if mount.flags & bit}
        if mount.destination == "/sys/fs/cgroup":
            assert "ro" in found["flags"]
            continue
        assert wanted <= set(found["flags"]), mount.destination
        assert found["type"] == mount.fstype
        for word in mount.data.split(","):
            # A group's number is shown as the reader's namespace has it, or as the host has it.
            if word.startswith("size=") or (word.startswith("gid=") and who == "root"):
                assert word in found["data"].split(","), mount.destination


@each
def test_no_mount_is_shared_with_the_host(reports: Reports, who: str, way: str) -> None:
    assert [mount["at"] for mount in reports(who, way)["mounts"] if mount["shared"]] == []


@each
def test_nothing_of_the_host_is_mounted_writable(reports: Reports, who: str, way: str) -> None:
    """Apart from device nodes: overlays, memory and the kernel's own file systems are the container's."""
    own = {"overlay", "tmpfs", "proc", "devpts", "mqueue", "sysfs", "cgroup", "cgroup2"}
    for mount in reports(who, way)["mounts"]:
        if mount["type"] not in own and mount["root"] != "/null":
            assert "ro" in mount["flags"] or mount["at"].startswith("/dev/"), mount


@each
def test_devices_and_links_are_the_default_ones(reports: Reports, who: str, way: str) -> None:
    report = reports(who, way)
    console = {"console"} if way == "tty" else set()
    nodes = {device.name for device in isolation.DEVICES}
    links = dict(isolation.DEVICE_LINKS)
    below = {"pts", "shm", "mqueue"}
    assert set(report["dev"]) == nodes | set(links) | below | console
    for device in isolation.DEVICES:
        found = report["dev"][device.name]
        assert (found["kind"], found["device"]) == ("node", [device.major, device.minor])
        assert stat.S_IMODE(found["mode"]) == device.mode
    assert {name: report["dev"][name]["target"] for name in links} == links


@each
def test_masked_paths_show_nothing(reports: Reports, who: str, way: str) -> None:
    for path in isolation.masked_paths():
        found = reports(who, way)["masked"][path]
        if found["kind"] == "directory":
            assert found["entries"] == [], path
        elif found["kind"] != "absent":
            assert (found["device"], found["bytes"]) == ([1, 3], 0), path
    assert reports(who, way)["masked"]["/etc/hostname"]["kind"] == "file"


@each_owner
def test_what_the_host_has_is_among_the_masked(reports: Reports, who: str, way: str) -> None:
    """A mask that finds nothing to hide proves nothing: some of these are on every kernel."""
    masked = reports(who, way)["masked"]
    assert masked["/proc/keys"]["kind"] == "node"
    assert masked["/proc/timer_list"]["kind"] == "node"
    for path in isolation.masked_paths():
        assert (masked[path]["kind"] == "absent") <= (not os.path.exists(path)), path


@each
def test_readonly_paths_are_read_only(reports: Reports, who: str, way: str) -> None:
    report = reports(who, way)
    assert set(report["readonly"].values()) <= {True, None}
    assert report["readonly"]["/proc/sys"] is True
    wanted = {errno.EROFS} if "user" not in way and who == "root" else {errno.EROFS, errno.EACCES}
    for path, error in report["writes"].items():
        assert error in wanted or (error == errno.ENOENT and not os.path.exists(path)), path


@each
def test_it_sees_its_own_control_group_as_the_root(reports: Reports, who: str, way: str) -> None:
    for line in reports(who, way)["cgroups"]:
        assert line.endswith(":/"), line


@each
def test_network_is_the_loopback_alone(reports: Reports, who: str, way: str) -> None:
    report = reports(who, way)
    if way == "network=host":
        assert set(report["interfaces"]) == set(inside_probe.interfaces())
    else:
        assert report["interfaces"] == {"lo": True}
        assert report["loops_back"]


@each
def test_place_mask_and_name(reports: Reports, who: str, way: str) -> None:
    report = reports(who, way)
    assert (report["cwd"], report["umask"]) == ("/", 0o022)
    assert len(report["hostname"]) == 12
    int(report["hostname"], 16)


@each
def test_limits_are_the_hosts_unless_given(reports: Reports, who: str, way: str) -> None:
    for name, limits in reports(who, way)["limits"].items():
        assert tuple(limits) == resource.getrlimit(getattr(resource, name)), name


@pytest.mark.parametrize("way", ["run", "exec", "init=False"])
def test_processes_are_limited(reports: Reports, way: str) -> None:
    assert reports("root", way)["pids_limit"] == str(isolation.DEFAULT_PIDS)


# Options that change it.


@pytest.fixture
def as_root() -> None:
    need(os.getuid() == 0, "root")


def capabilities(report: Report) -> set[int]:
    return {int(report["status"][name], 16) for name in ("CapPrm", "CapEff", "CapBnd")}


def bit(name: str) -> int:
    return capability_mask([name])


pytestmark = pytest.mark.usefixtures("store_path")


@pytest.mark.usefixtures("as_root")
class TestOptions:
    def test_cap_add(self) -> None:
        need(bool(BOUNDING & bit("NET_RAW")), "CAP_NET_RAW")
        assert capabilities(inside.run(PROBE, cap_add=["NET_RAW"])) == {DEFAULTS & BOUNDING | bit("NET_RAW")}

    def test_cap_drop(self) -> None:
        assert capabilities(inside.run(PROBE, cap_drop=["ALL"])) == {0}
        assert capabilities(inside.run(PROBE, cap_drop=["CHOWN"])) == {DEFAULTS & BOUNDING & ~bit("CHOWN")}

    def test_exec_may_have_others(self) -> None:
        assert capabilities(inside.executed(PROBE, {}, cap_drop=["ALL"])) == {0}

    def test_privileged(self) -> None:
        report = inside.run(PROBE, privileged=True)
        assert capabilities(report) == {BOUNDING}
        assert (report["status"]["NoNewPrivs"], report["status"]["Seccomp"]) == ("0", "0")
        assert set(report["readonly"].values()) <= {False, None}
        assert report["masked"]["/proc/timer_list"]["kind"] == "file"
        assert "rw" in at(report, "/sys")["flags"]
        # It is still a container.
        assert report["interfaces"] == {"lo": True}
        assert report["namespaces"]["pid"] != os.readlink("/proc/self/ns/pid")

    def test_seccomp_unconfined_and_the_keyring_is_still_its_own(self) -> None:
        first = inside.run(PROBE, seccomp="unconfined")
        second = inside.executed(PROBE, {}, seccomp="unconfined")
        assert first["status"]["Seccomp"] == second["status"]["Seccomp"] == "0"
        need(first["keyring"] != -errno.ENOSYS, "kernel keyrings")
        numbers = [first["keyring"], second["keyring"], host_keyring()]
        assert min(numbers[:2]) > 0
        assert len(set(numbers)) == 3

    def test_a_seccomp_profile_of_the_callers_own(self, tmp_path: Path) -> None:
        profile = {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["sethostname", "keyctl"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}],
        }
        assert inside.run(PROBE, seccomp=profile)["keyring"] == -95
        file = tmp_path / "profile.json"
        file.write_text(json.dumps(profile))
        assert inside.run(PROBE, seccomp=file)["keyring"] == -95

    def test_privileges_may_be_gained_where_asked(self) -> None:
        report = inside.run(PROBE, no_new_privileges=False)
        assert (report["status"]["NoNewPrivs"], report["status"]["Seccomp"]) == ("0", "2")

    def test_sysctls(self) -> None:
        script = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/msgmax"
        wanted = {"net.ipv4.ip_unprivileged_port_start": "80", "kernel.msgmax": 9000}
        before = Path("/proc/sys/kernel/msgmax").read_text()
        result = inside.pc.run("host", ["sh", "-c", script], sysctls=wanted, capture_output=True, text=True)
        assert result.stdout.split() == ["80", "9000"]
        assert Path("/proc/sys/kernel/msgmax").read_text() == before

    def test_masked_paths_replace_the_defaults(self) -> None:
        report = inside.run(PROBE, masked_paths=["/etc/hostname", "/usr/share", "/no/such/path"])
        assert report["masked"]["/etc/hostname"]["device"] == [1, 3]
        assert report["masked"]["/proc/timer_list"]["kind"] == "file"
        assert inside.run(PROBE, masked_paths=[])["masked"]["/etc/hostname"]["kind"] == "file"

    def test_readonly_paths_replace_the_defaults(self) -> None:
        script = "echo x > /etc/x; echo y > /srv/y && cat /srv/y"
        result = inside.pc.run(
            "host", ["sh", "-c", script], readonly_paths=["/etc"], capture_output=True, text=True
        )
        assert result.stdout == "y\n"
        assert "Read-only file system" in result.stderr
        assert inside.run(PROBE, readonly_paths=[])["readonly"]["/proc/sys"] is False

    def test_userns_host_is_what_root_has(self) -> None:
        ours = os.readlink("/proc/self/ns/user")
        assert inside.run(PROBE, userns="host")["namespaces"]["user"] == ours


def host_keyring() -> int:
    """This process's session keyring, made where it has none."""
    libc = ctypes.CDLL(None, use_errno=True)
    number = libc.syscall(inside_probe.KEYCTL, 0, ctypes.c_int(inside_probe.SESSION_KEYRING), 1)
    return int(number)
