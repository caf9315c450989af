"""The options of isolation and network: each changes what a program may do, and nothing else does."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import pycontainer as pc
from containers import ROOT, as_root, nothing_left, out, python, sh, sleeper
from pycontainer.runtime.isolation import CAPABILITIES, DEFAULT_CAPABILITIES

REFUSES_MKDIR = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}],
}


def capabilities(**options: object) -> set[str]:
    """What the program has, by name."""
    mask = int(out("grep CapEff /proc/self/status", **options).split()[1], 16)
    return {name for name, number in CAPABILITIES.items() if mask >> number & 1}


def status(name: str, **options: object) -> str:
    return out(f"grep '^{name}:' /proc/self/status", **options).split()[1]


def test_default_capabilities() -> None:
    assert capabilities() == set(DEFAULT_CAPABILITIES)
    assert status("CapBnd") == status("CapEff") == status("CapPrm")
    assert status("CapInh") == status("CapAmb") == "0" * 16


def test_cap_add_and_drop() -> None:
    assert capabilities(cap_add=["NET_ADMIN"]) == DEFAULT_CAPABILITIES | {"NET_ADMIN"}
    assert capabilities(cap_drop=["CAP_CHOWN"]) == DEFAULT_CAPABILITIES - {"CHOWN"}
    assert capabilities(cap_drop=["all"], cap_add=["kill"]) == {"KILL"}
    assert capabilities(cap_drop=["ALL"]) == set()


def test_a_dropped_capability_is_missed() -> None:
    assert sh("touch /tmp/x && chown 12 /tmp/x").returncode == 0
    assert sh("touch /tmp/x && chown 12 /tmp/x", cap_drop=["CHOWN"]).returncode != 0


def test_an_added_capability_works() -> None:
    assert sh("mount -t tmpfs tmpfs /mnt").returncode != 0
    assert sh("mount -t tmpfs tmpfs /mnt", cap_add=["SYS_ADMIN"]).returncode == 0


@as_root
def test_a_capability_that_the_host_process_lacks() -> None:
    bounding = int(Path("/proc/self/status").read_text().partition("CapBnd:")[2].split()[0], 16)
    missing = [name for name, number in CAPABILITIES.items() if not bounding >> number & 1]
    if not missing:
        pytest.skip("this host process lacks none")
    with nothing_left(), pytest.raises(pc.CapabilityUnavailable, match=missing[0]):
        sh("true", cap_add=[missing[0]])


def test_no_new_privileges() -> None:
    assert status("NoNewPrivs") == "1"
    assert status("NoNewPrivs", no_new_privileges=False) == "0"
    assert status("NoNewPrivs", privileged=True) == "0"
    assert status("NoNewPrivs", privileged=True, no_new_privileges=True) == "1"


def test_set_id_programs_with_and_without() -> None:
    script = "cp /usr/bin/id /tmp/id; chmod 4755 /tmp/id; exec setpriv --reuid 1234 --clear-groups /tmp/id -u"
    options: dict[str, object] = {"mounts": [pc.tmpfs("/x")]}
    assert out(script, **options) == "1234"
    assert out(script, no_new_privileges=False, **options) == "0"


def test_privileged() -> None:
    found = capabilities(privileged=True)
    assert found > DEFAULT_CAPABILITIES
    assert "SYS_ADMIN" in found
    assert status("Seccomp", privileged=True) == "0"
    assert status("NoNewPrivs", privileged=True) == "0"
    assert (
        out("cat /proc/kcore 2>&1 | head -c 0; mount -t tmpfs tmpfs /mnt && echo ok", privileged=True) == "ok"
    )


def test_seccomp() -> None:
    assert status("Seccomp") == "2"
    assert status("Seccomp", seccomp="unconfined") == "0"
    refused = "import socket; socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET)"
    assert python(refused).returncode != 0
    assert python("import ctypes; print(ctypes.CDLL(None).syscall(435, 0, 0))").stdout == "-1\n"


def test_a_seccomp_profile_as_data_and_as_a_file(tmp_path: Path) -> None:
    assert sh("mkdir /tmp/x").returncode == 0
    assert "not supported" in sh("mkdir /tmp/x", seccomp=REFUSES_MKDIR).stderr
    (tmp_path / "profile.json").write_text(json.dumps(REFUSES_MKDIR))
    assert "not supported" in sh("mkdir /tmp/x", seccomp=tmp_path / "profile.json").stderr
    assert "not supported" in sh("mkdir /tmp/x", seccomp=str(tmp_path / "profile.json")).stderr


def test_a_seccomp_profile_that_was_changed_counts_as_it_is_now(tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW"}))
    options = pc.Options(seccomp=profile)
    for _ in range(3):
        assert sh("mkdir /tmp/x", options=options).returncode == 0
    profile.write_text(json.dumps(REFUSES_MKDIR))
    assert "not supported" in sh("mkdir /tmp/x", options=options).stderr
    profile.unlink()
    with pytest.raises(pc.InvalidOption, match="cannot read"):
        sh("true", options=options)


def test_a_seccomp_profile_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{")
    for profile in (tmp_path / "missing.json", tmp_path / "broken.json", {"defaultAction": "SCMP_ACT_FLY"}):
        with nothing_left(), pytest.raises(pc.PycontainerError, match="seccomp"):
            sh("true", seccomp=profile)


def test_a_seccomp_profile_without_no_new_privileges() -> None:
    assert "not supported" in sh("mkdir /tmp/x", seccomp=REFUSES_MKDIR, no_new_privileges=False).stderr


def test_userns() -> None:
    own = os.readlink("/proc/self/ns/user")
    found = out("readlink /proc/self/ns/user", userns="auto")
    assert (found == own) is ROOT
    if ROOT:
        assert out("readlink /proc/self/ns/user", userns="host") == own
    else:
        with nothing_left(), pytest.raises(pc.CapabilityUnavailable, match="userns"):
            sh("true", userns="host")


def test_sysctls() -> None:
    script = "cat /proc/sys/kernel/shmmni /proc/sys/net/ipv4/ip_forward"
    before = [Path(f"/proc/sys/{name}").read_text() for name in ("kernel/shmmni", "net/ipv4/ip_forward")]
    assert out(script, sysctls={"kernel.shmmni": 123, "net.ipv4.ip_forward": "1"}).split() == ["123", "1"]
    assert [
        Path(f"/proc/sys/{name}").read_text() for name in ("kernel/shmmni", "net/ipv4/ip_forward")
    ] == before
    assert sh("echo 5 > /proc/sys/kernel/shmmni").returncode != 0
    assert (
        out("hostname; echo $HOSTNAME", sysctls={"kernel.hostname": "by-sysctl"}).split() == ["by-sysctl"] * 2
    )
    if ROOT:
        assert out("cat /proc/sys/kernel/domainname", sysctls={"kernel.domainname": "a.org"}) == "a.org"


def test_a_sysctl_that_is_not_there() -> None:
    with nothing_left(), pytest.raises(pc.LaunchError, match="no_such"):
        sh("true", sysctls={"net.ipv4.no_such": 1})


def test_sysctls_of_the_hosts_network_are_refused() -> None:
    with pytest.raises(pc.InvalidOption, match="host"):
        sh("true", network="host", sysctls={"net.ipv4.ip_forward": 1})


def test_masked_paths() -> None:
    assert out("cat /proc/keys /proc/timer_list; ls -A /sys/firmware") == ""
    masked = ["/etc/passwd", "/etc/default"]
    assert out("cat /etc/passwd; ls -A /etc/default", masked_paths=masked) == ""
    assert out("head -c 1 /etc/passwd; ls /etc/default").startswith("r")
    assert out("cat /proc/keys | head -c 1", masked_paths=["/etc/passwd"]) != ""


def test_readonly_paths() -> None:
    assert sh("echo x > /proc/sysrq-trigger").returncode != 0
    assert "Read-only" in sh("touch /tmp/x", readonly_paths=["/tmp"]).stderr
    assert out("touch /srv/x && echo ok", readonly_paths=["/tmp"]) == "ok"
    assert sh("echo 5 > /proc/sys/kernel/shmmni").returncode != 0
    assert sh("echo 5 > /proc/sys/kernel/shmmni", readonly_paths=[]).returncode == 0


def test_no_network() -> None:
    assert out("ls /sys/class/net") == "lo"
    assert out("readlink /proc/self/ns/net") != os.readlink("/proc/self/ns/net")
    loopback = """
import socket
server = socket.create_server(("127.0.0.1", 80))
client = socket.create_connection(server.getsockname())
client.sendall(b"x")
print(server.accept()[0].recv(1))
try: socket.create_connection(("192.0.2.1", 80), timeout=3)
except OSError as error: print(error.errno)
"""
    assert python(loopback).stdout.split() == ["b'x'", "101"]


def test_the_hosts_network() -> None:
    assert out("readlink /proc/self/ns/net", network="host") == os.readlink("/proc/self/ns/net")
    assert set(out("ls /sys/class/net", network="host").split()) == set(os.listdir("/sys/class/net"))


def test_the_hosts_network_reaches_the_host() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code = f"import socket; socket.create_connection(('127.0.0.1', {port}), timeout=5)"
        assert python(code, network="host").returncode == 0
        assert python(code).returncode != 0


def test_namespaces_of_its_own() -> None:
    kinds = ("mnt", "pid", "ipc", "uts", "net", "cgroup")
    links = out("; ".join(f"readlink /proc/self/ns/{kind}" for kind in kinds)).split()
    for kind, link in zip(kinds, links, strict=True):
        assert link != os.readlink(f"/proc/self/ns/{kind}"), kind


def test_processes_of_the_host_are_out_of_sight() -> None:
    assert len(out("ls /proc | grep -c '^[0-9]'").split()) == 1
    assert int(out("ls -d /proc/[0-9]* | wc -l")) <= 4


def test_ipc_of_its_own() -> None:
    with sleeper() as container:
        assert container.exec(["ipcmk", "-M", "4096"], capture_output=True).returncode == 0
        inside = container.exec(["ipcs", "-m"], capture_output=True, text=True).stdout
        assert inside.count("0x") == 1
        assert out("ipcs -m").count("0x") == 0
