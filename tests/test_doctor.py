"""doctor(): true on this host, and with a remedy for each ability that another host lacks."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import need
from containers import nothing_left
from pycontainer import host_checks
from pycontainer.diagnosis import Check, Report, doctor
from pycontainer.errors import CapabilityUnavailable, LaunchError
from pycontainer.host_checks import HostView, NetworkProbe, run_checks
from pycontainer.network import usermode
from pycontainer.network.usermode import Finding

STATUS = "Name:\tpython\nCapEff:\t000001ffffffffff\nCapBnd:\t000001ffffffffff\nNoNewPrivs:\t0\nSeccomp:\t0\n"
GOOD = {
    "proc/self/status": STATUS,
    "proc/self/mountinfo": "22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n",
    "proc/self/uid_map": "0 0 4294967295\n",
    "proc/filesystems": "nodev\tproc\nnodev\toverlay\n\text4\n",
    "proc/sys/kernel/seccomp/actions_avail": "kill_process kill_thread trap errno trace log allow\n",
    "proc/sys/vm/memfd_noexec": "0\n",
    "proc/key-users": "    0:     9 8/8 3/1000000 40/25000000\n 1000:     4 4/4 12/200 40/20000\n",
    "etc/passwd": "root:x:0:0::/root:/bin/sh\nme:x:1000:1000::/home/me:/bin/sh\n",
    "etc/subuid": "me:100000:65536\n",
    "etc/subgid": "1000:100000:65536\n",
    **{f"proc/sys/user/max_{name}_namespaces": "15000\n" for name in host_checks.NAMESPACES},
    **{f"proc/self/ns/{name}": "" for name in host_checks.NAMESPACES},
}

PASTA = Finding("pasta", "/usr/bin/pasta", None)

SET_USER_ID = ("/usr/bin/newuidmap", "/usr/bin/su", "/bin/su", "/usr/bin/passwd")

Changes = dict[str, str | None]
Look = Callable[..., dict[str, Check]]


@pytest.fixture
def look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Look:
    """Checks on a host made of files; a change of None removes a file."""
    store = tmp_path / "store"
    store.mkdir()
    monkeypatch.setenv("PYCONTAINER_STORE", str(store))
    monkeypatch.setattr(host_checks, "MIN_SPACE", 0)
    program = next((path for path in SET_USER_ID if Path(path).exists()), "")
    need(bool(program), "a set-user-ID program such as newuidmap or su")

    def checks(
        uid: int = 0, changes: dict[str, str | None] | None = None, **view: object
    ) -> dict[str, Check]:
        for name, text in {**GOOD, **(changes or {})}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            if text is not None:
                path.write_text(text)
        probe, networks = view.pop("probe", None), view.pop("networks", None)
        settings = {
            "proc": str(tmp_path / "proc"),
            "etc": str(tmp_path / "etc"),
            "modules": str(tmp_path / "modules"),
            "uid": uid,
            "release": "6.1.0-18-amd64",
            "machine": "x86_64",
            "find_program": lambda name: program,
            "helpers": lambda: [PASTA],
            "need_tap": lambda: None,
            "version": lambda path: f"{Path(path).name} 1.0",
            **view,
        }
        found = list(run_checks(HostView(**settings), probe, networks))  # type: ignore[arg-type]
        for check in found:
            assert check.ok == (check.remedy is None) or check.name.startswith("limits"), check
            assert check.detail
        names = [check.name for check in found]
        assert len(set(names)) == len(names)
        return {check.name: check for check in found if not check.name.startswith("limits")}

    return checks


def bad(checks: dict[str, Check]) -> set[str]:
    return {name for name, check in checks.items() if not check.ok} - {"control groups"}


def test_this_host() -> None:
    report = doctor()
    by_name = {check.name: check for check in report.checks}
    assert by_name["kernel"].detail == os.uname().release
    assert by_name["namespace mnt"].ok
    assert report.ok == all(check.ok for check in report.checks if check.needed)
    text = str(report)
    assert all(check.name in text for check in report.checks)
    assert report.summary in text
    assert repr(report).startswith("Report(ok=")
    assert "\n" not in repr(report)


def test_a_good_host(look: Look) -> None:
    assert bad(look(0)) == set()
    assert bad(look(1000)) == set()


@pytest.mark.parametrize("uid", [0, 1000])
@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("overlay", {"proc/filesystems": "\text4\n"}, "modprobe overlay"),
        ("namespace pid", {"proc/self/ns/pid": None}, "CONFIG_PID_NS"),
        ("namespace mnt", {"proc/self/ns/mnt": None}, "CONFIG_NAMESPACES"),
        ("namespace net", {"proc/sys/user/max_net_namespaces": "0\n"}, "user.max_net_namespaces="),
        ("seccomp", {"proc/sys/kernel/seccomp/actions_avail": None}, "CONFIG_SECCOMP_FILTER"),
        ("seccomp", {"proc/sys/kernel/seccomp/actions_avail": "allow errno"}, "CONFIG_SECCOMP_FILTER"),
        ("memfd exec", {"proc/sys/vm/memfd_noexec": "2\n"}, "vm.memfd_noexec=0"),
        (
            "keys",
            {"proc/key-users": " 0: 1 1/1 199/200 4/20000\n 1000: 1 1/1 199/200 4/20000\n"},
            "kernel.keys.maxkeys=2000",
        ),
        (
            "store's file system",
            {"proc/self/mountinfo": "22 1 0:9 / / rw - overlay overlay rw\n"},
            "PYCONTAINER_STORE",
        ),
        (
            "store's file system",
            {"proc/self/mountinfo": "22 1 0:9 / / ro,relatime - ext4 /dev/sda1 rw\n"},
            "PYCONTAINER_STORE",
        ),
    ],
)
def test_what_is_missing_is_said(look: Look, uid: int, name: str, changes: Changes, words: str) -> None:
    checks = look(uid, changes)
    assert bad(checks) == {name}
    assert words in (checks[name].remedy or "")


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        (
            "user namespaces",
            {"proc/sys/kernel/unprivileged_userns_clone": "0\n"},
            "unprivileged_userns_clone=1",
        ),
        (
            "user namespaces",
            {"proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1\n"},
            "AppArmor",
        ),
        ("/etc/subuid", {"etc/subuid": "other:100000:65536\nme:x:y\n"}, "usermod --add-subuids"),
        ("/etc/subgid", {"etc/subgid": None}, "usermod --add-subgids"),
        (
            "no_new_privs",
            {"proc/self/status": STATUS.replace("NoNewPrivs:\t0", "NoNewPrivs:\t1")},
            "NoNewPriv",
        ),
    ],
)
def test_what_an_ordinary_user_needs(look: Look, name: str, changes: Changes, words: str) -> None:
    checks = look(1000, changes)
    assert bad(checks) == {name}
    assert words in (checks[name].remedy or "")
    assert name not in bad(look(0, changes))


def test_the_programs_that_map_identities(look: Look, tmp_path: Path) -> None:
    assert bad(look(1000, find_program=lambda name: None)) == {"newuidmap", "newgidmap"}
    plain = tmp_path / "plain"
    plain.touch()
    checks = look(1000, find_program=lambda name: str(plain))
    assert bad(checks) == {"newuidmap", "newgidmap"}
    assert f"setcap cap_setgid+ep {plain}" in (checks["newgidmap"].remedy or "")


def test_another_store(look: Look, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    assert look(0, store=str(tmp_path / "other" / "new"))["store's space"].detail.endswith(
        f"{tmp_path}/other"
    )


def test_the_mount_that_the_store_is_on(look: Look, tmp_path: Path) -> None:
    root = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
    elsewhere = f"23 22 0:9 / {tmp_path}/store-of-another rw - overlay overlay rw\n"
    escaped = f"24 22 0:9 / {tmp_path}\\040x rw - overlay overlay rw\n"
    assert bad(look(0, {"proc/self/mountinfo": root + elsewhere + escaped})) == set()
    own = f"25 22 0:9 / {tmp_path} rw - nfs4 server:/x rw\n"
    checks = look(0, {"proc/self/mountinfo": own + root})
    assert checks["store's file system"].detail == "nfs4 cannot hold a writable layer"
    covered = f"26 25 0:9 / {tmp_path} rw - xfs /dev/sdb rw\n"
    assert look(0, {"proc/self/mountinfo": root + own + covered})["store's file system"].detail == "xfs"


def test_a_full_disk(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_checks, "MIN_SPACE", 2**80)
    checks = look(0)
    assert bad(checks) == {"store's space"}
    assert "PYCONTAINER_STORE" in (checks["store's space"].remedy or "")


def test_root_without_its_capabilities(look: Look) -> None:
    # Bit 21 is SYS_ADMIN, bit 24 SYS_RESOURCE (linux/capability.h).
    status = STATUS.replace("CapEff:\t000001ffffffffff", "CapEff:\t000001ffffdfffff")
    checks = look(0, {"proc/self/status": status.replace("CapBnd:\t000001ff", "CapBnd:\t000001fe")})
    assert checks["root's capabilities"].detail == "lacks SYS_ADMIN"
    assert checks["root's capabilities"].needed
    checks = look(0, {"proc/self/status": STATUS.replace("CapBnd:\t000001ffff", "CapBnd:\t000001fffe")})
    assert checks["bounding set"].detail == "lacks SYS_RESOURCE"
    assert not checks["bounding set"].needed
    assert "root's capabilities" not in look(1000)


def test_old_kernels_and_other_machines(look: Look) -> None:
    checks = look(0, release="5.4.0-150-generic", machine="riscv64")
    assert bad(checks) == {"kernel", "machine", "system calls"}
    assert checks["system calls"].detail == "not in this kernel: openat2, close_range"
    assert bad(look(0, release="5.11")) == set()
    assert "kernel" in bad(look(0, release="strange"))


def test_a_probe_is_believed(look: Look) -> None:
    off = {"proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1\n"}
    assert look(1000, off, probe=lambda: None)["user namespaces"].ok
    checks = look(1000, probe=lambda: "creating user namespace: EPERM")
    assert checks["user namespaces"].detail == "creating user namespace: EPERM"
    assert not checks["user namespaces"].ok


def fails(error: Exception) -> Callable[[], None]:
    def attempt() -> None:
        raise error

    return attempt


def test_networks_are_tried(look: Look) -> None:
    tried = []
    probe = NetworkProbe(lambda: tried.append("links"), lambda: tried.append("masquerading"))
    checks = look(0, networks=probe)
    assert tried == ["links", "masquerading"]
    assert bad(checks) == set()
    for name in tried:
        assert look(0)[name if name != "links" else "networks"].detail.endswith("not tried")
    assert checks["networks"].detail == "a bridge and links: tried, it works"
    assert checks["masquerading"].detail == "nf_tables: tried, it works"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (LaunchError("a bridge", errno=errno.EOPNOTSUPP), "sudo modprobe -a bridge veth"),
        (LaunchError("a bridge", errno=errno.EPERM), "checks above"),
        (CapabilityUnavailable("this"), "checks above"),
    ],
)
def test_a_kernel_without_bridges(look: Look, error: Exception, words: str) -> None:
    checks = look(1000, networks=NetworkProbe(fails(error), lambda: None))
    assert bad(checks) == {"networks"}
    assert checks["networks"].detail == str(error)
    assert words in (checks["networks"].remedy or "")
    assert not checks["networks"].needed


@pytest.mark.parametrize(
    "code", [errno.ENOENT, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT], ids=errno.errorcode.__getitem__
)
def test_a_kernel_without_nf_tables(look: Look, code: int) -> None:
    error = LaunchError("rules of nf_tables", errno=code)
    checks = look(0, networks=NetworkProbe(lambda: None, fails(error)))
    assert bad(checks) == {"masquerading"}
    assert "sudo modprobe -a nf_tables nft_masq" in (checks["masquerading"].remedy or "")


@pytest.mark.parametrize("uid", [0, 1000])
def test_nothing_carries_networks_to_the_outside(look: Look, uid: int) -> None:
    missing = [Finding("slirp4netns", None, "not installed"), Finding("pasta", None, "not installed")]

    def need_tap() -> None:
        raise AssertionError("nobody needs it")

    checks = look(uid, helpers=lambda: missing, need_tap=need_tap)
    assert bad(checks) == {"outside"}
    assert checks["outside"].detail == "slirp4netns: not installed; pasta: not installed"
    assert "sudo apt-get install passt" in (checks["outside"].remedy or "")
    assert not checks["outside"].needed


def test_the_one_that_is_used_is_told(look: Look) -> None:
    found = [Finding("slirp4netns", "/usr/bin/slirp4netns", "it said no"), PASTA]
    check = look(0, helpers=lambda: found)["outside"]
    assert (check.ok, check.detail) == (True, "pasta 1.0 (/usr/bin/pasta)")
    silent = look(0, helpers=lambda: found, version=lambda path: "")["outside"]
    assert silent.detail == "pasta (/usr/bin/pasta)"


def test_a_tap_device_that_may_not_be_made(look: Look) -> None:
    problem = "/dev/net/tun may not be opened by this user"
    found = [Finding("pasta", "/usr/bin/pasta", problem)]

    def need_tap() -> None:
        raise CapabilityUnavailable(problem, remedy="run: sudo chmod 0666 /dev/net/tun")

    check = look(1000, helpers=lambda: found, need_tap=need_tap)["outside"]
    assert (check.ok, check.detail) == (False, f"pasta: {problem}")
    assert check.remedy == "run: sudo chmod 0666 /dev/net/tun"


def test_one_that_did_not_work(look: Look) -> None:
    found = [Finding("slirp4netns", "/usr/bin/slirp4netns", "it said no"), Finding("pasta", None, "absent")]
    check = look(0, helpers=lambda: found)["outside"]
    assert (check.ok, check.detail) == (False, "slirp4netns: it said no; pasta: absent")
    assert "install passt" in (check.remedy or "")


def test_what_a_program_says_of_itself(tmp_path: Path) -> None:
    program = tmp_path / "program"
    for script, said in (
        ("echo 'program 1.2'; echo more", "program 1.2"),
        ("echo on standard error >&2; exit 1", "on standard error"),
        ("printf 'a\\033[1mb\\377c'", "a[1mb\N{REPLACEMENT CHARACTER}c"),
        ("", ""),
    ):
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        assert HostView().version(str(program)) == said
    assert HostView().version(str(tmp_path / "none")) == ""


def test_this_hosts_networks_are_tried_without_a_trace() -> None:
    doctor()
    with nothing_left():
        checks = {check.name: check for check in doctor().checks}
    assert "not tried" not in checks["networks"].detail + checks["masquerading"].detail
    used = [one for one in usermode.findings() if one.problem is None]
    assert checks["outside"].ok == bool(used)


def test_overlay_as_a_module(look: Look, tmp_path: Path) -> None:
    module = tmp_path / "modules/6.1.0-18-amd64/kernel/fs/overlayfs/overlay.ko.xz"
    module.parent.mkdir(parents=True)
    module.touch()
    assert look(0, {"proc/filesystems": ""})["overlay"].ok


def test_a_host_that_hides_everything(tmp_path: Path) -> None:
    for uid in (0, 1000):
        view = HostView(proc=str(tmp_path), etc=str(tmp_path), modules=str(tmp_path), uid=uid)
        report = Report(tuple(run_checks(view)))
        assert not report.ok
        assert str(report)


def test_the_report() -> None:
    fine = Check("one", True, "a <b>")
    optional = Check("two", False, "none", "do & it", needed=False)
    needed = Check("three", False, "none", "run: it")
    assert Report((fine,)).ok
    assert Report((fine,)).summary == "containers run here"
    assert Report((fine, optional)).ok
    assert Report((fine, optional)).summary == "containers run here; not available: two"
    report = Report((fine, optional, needed))
    assert not report.ok
    assert report.summary == "containers cannot run here yet: three"
    assert str(report).splitlines()[:3] == ["ok  one    a <b>", "no  two    none", "           -> do & it"]
    assert "NO  three  none" in str(report)
    page = report._repr_html_()
    assert "a &lt;b&gt;" in page
    assert "do &amp; it" in page
