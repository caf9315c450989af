"""Wrong wishes: each gives its typed error that names the thing, and leaves nothing."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import host_process
import leaks
import ordinary_user
import pycontainer as pc
from conftest import need
from pycontainer.supervisor import client

SHARED = ("cgroups", "keys", "files", "processes")
"""What other programs on the machine change too; ours are looked at one by one below."""


@pytest.fixture(autouse=True)
def nothing_left(store_path: Path, image: pc.Image) -> Iterator[None]:
    pc.run(image, ["/bin/busy"], check=True)
    with leaks.unchanged(ignore=SHARED):
        yield
    supervisor = client.default().pid
    own = {"pycontainer-sup", "pycontainer-net"}
    host_process.eventually(
        lambda: {host_process.name(pid) for pid, _ in host_process.family(supervisor)} <= own,
        5,
        "no processes",
    )
    traces = host_process.Traces(store_path)
    with_owner = [path for path in traces.cgroups() if os.listdir(path) and _containers_below(path)]
    assert with_owner == []
    left = [path.name for path in store_path.glob("containers/*/*")]
    assert [name for name in left if not leaks.SPARE.fullmatch(name)] == []


def _containers_below(owner: str) -> list[str]:
    return [entry.name for entry in os.scandir(owner) if entry.is_dir()]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> pc.Image:
    """Programs that cannot be executed, each in its own way, and one that can."""
    need(shutil.which("gcc") is not None, "gcc")
    root = tmp_path_factory.mktemp("image") / "root"
    for name in ("bin", "etc", "dir"):
        (root / name).mkdir(parents=True)
    (root / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\n")
    files = {
        "garbage": b"\x00\x01\x02",
        "script": b"#!/no/such/interpreter\n",
        "script-of-dir": b"#!/dir\n",
        "endless": b"#!/bin/endless\n",
        "arm": b"\x7fELF\x02\x01\x01"
        + bytes(9)
        + struct.pack("<HHIQQQIHHHHHH", 2, 183, 1, 0, 0, 0, 0, 64, 0, 0, 0, 0, 0),
        "cut-off": b"\x7fELF\x02\x01\x01",
        "empty": b"",
    }
    for name, data in files.items():
        (root / "bin" / name).write_bytes(data)
        (root / "bin" / name).chmod(0o755)
    argv = ["gcc", "-static", "-x", "c", "-", "-o", str(root / "bin/busy")]
    subprocess.run(argv, input=b"int main(void) { return 0; }", check=True)
    (root / "bin/not-executable").write_bytes(b"#!/bin/sh\n")
    (root / "bin/loop").symlink_to("loop")
    return pc.Image.from_directory(root)


ERRORS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "user": ({"user": "nobody-of-that-name"}, pc.PycontainerError, "nobody-of-that-name"),
    "group": ({"user": "root:no-such-group"}, pc.PycontainerError, "no-such-group"),
    "user's number": ({"user": "4294967295"}, pc.InvalidOption, "4294967295"),
    "negative memory": ({"memory": -1}, pc.InvalidOption, "memory"),
    "memory in words": ({"memory": "much"}, pc.InvalidOption, "much"),
    "no cpus": ({"cpus": 0}, pc.InvalidOption, "cpus"),
    "cpus that are not there": ({"cpuset": "4000"}, pc.PycontainerError, "4000"),
    "pids": ({"pids": -5}, pc.InvalidOption, "pids"),
    "memory below any program": ({"memory": "4k"}, pc.PycontainerError, ""),
    "bind source": ({"mounts": [pc.bind("/no/such/source", "/mnt")]}, pc.PycontainerError, "/no/such/source"),
    "bind target": ({"mounts": [pc.bind("/etc", "/proc/self/x")]}, pc.PycontainerError, "/proc/self/x"),
    "file over directory": ({"mounts": [pc.bind("/etc/passwd", "/usr")]}, pc.PycontainerError, "/usr"),
    "relative cwd": ({"cwd": "etc"}, pc.InvalidOption, "cwd"),
    "cwd is a file": ({"cwd": "/etc/passwd"}, pc.LaunchError, "/etc/passwd"),
    "sysctl": ({"sysctls": {"net.ipv4.no_such_thing": "1"}}, pc.PycontainerError, "no_such_thing"),
    "sysctl's value": ({"sysctls": {"net.ipv4.ip_forward": "x"}}, pc.PycontainerError, "ip_forward"),
    "sysctl of the host": ({"sysctls": {"kernel.panic": "1"}}, pc.PycontainerError, "kernel.panic"),
    "ulimit": ({"ulimits": {"no_such_limit": 1}}, pc.InvalidOption, "no_such_limit"),
    "ulimit beyond ours": ({"ulimits": {"nofile": 1 << 40}}, pc.PycontainerError, ""),
    "capability": ({"cap_add": ["NO_SUCH_CAP"]}, pc.InvalidOption, "NO_SUCH_CAP"),
    "seccomp": ({"seccomp": {"defaultAction": "NO"}}, pc.PycontainerError, "NO"),
    "seccomp file": ({"seccomp": "/no/such/profile.json"}, pc.PycontainerError, "/no/such/profile.json"),
    "network": ({"network": "wireless"}, pc.InvalidOption, "wireless"),
    "environment": ({"env": {"A=B": "1"}}, pc.InvalidOption, "A=B"),
    "environment with NUL": ({"env": {"A": "\0"}}, pc.InvalidOption, "A"),
    "hostname": ({"hostname": "a" * 100}, pc.PycontainerError, "a" * 20),
    "umask": ({"umask": 0o7777777}, pc.InvalidOption, "umask"),
    "device": ({"devices": ["/dev/no-such-device"]}, pc.PycontainerError, "/dev/no-such-device"),
    "pass_fds": ({"pass_fds": [9999]}, pc.InvalidOption, "9999"),
    "stdout": ({"stdout": 9999}, pc.InvalidOption, "9999"),
    "timeout": ({"timeout": "soon"}, pc.InvalidOption, "soon"),
    "shm_size": ({"shm_size": -1}, pc.InvalidOption, "shm_size"),
    "input of text": ({"input": "text"}, pc.InvalidOption, "input"),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_bad_option(kind: str) -> None:
    options, error, names = ERRORS[kind]
    with pytest.raises(error) as caught:
        pc.run("host", ["true"], **options)
    assert isinstance(caught.value, pc.PycontainerError)
    assert names in str(caught.value)


def test_no_such_option() -> None:
    with pytest.raises(TypeError, match="memmory"):
        pc.run("host", ["true"], memmory="1G")


PROGRAMS = {
    "/bin/missing": "ENOENT",
    "/bin/garbage": "ENOEXEC",
    "/bin/script": "ENOENT",
    "/bin/script-of-dir": "EACCES",
    "/bin/endless": "ELOOP",
    "/bin/arm": "ENOEXEC",
    "/bin/cut-off": "ENOEXEC",
    "/bin/empty": "ENOEXEC",
    "/bin/not-executable": "EACCES",
    "/bin/loop": "ELOOP",
    "/dir": "EACCES",
    "missing": "ENOENT",
    "/bin/garbage/below": "ENOENT",
    "x" * 300: "ENOENT",
}


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("init", [True, False])
def test_bad_program(image: pc.Image, program: str, init: bool) -> None:
    calls: list[Callable[[], object]] = [
        lambda: pc.run(image, [program], init=init),
        lambda: pc.start(image, [program], init=init),
    ]
    for call in calls:
        with pytest.raises(pc.LaunchError) as caught:
            call()
        assert caught.value.stage == "executing"
        assert os.path.basename(program)[:200] in str(caught.value)
        if len(program) < 255:
            assert PROGRAMS[program] in str(caught.value), caught.value


def test_bad_program_in_a_container() -> None:
    with pc.start("host", ["sleep", "1000"]) as container:
        for verb in (container.exec, container.popen):
            with pytest.raises(pc.LaunchError, match="/no/such/program"):
                verb(["/no/such/program"])
            with pytest.raises(pc.LaunchError, match="/etc/passwd"):
                verb(["/etc/passwd"])
        assert container.status == "running"


@pytest.mark.parametrize(
    "args",
    [["echo", "a\0b"], ["a\0b"], [], [""], [b""], 5, [5]],
)
def test_bad_arguments(args: Any) -> None:
    with pytest.raises(pc.InvalidOption, match="args"):
        pc.run("host", args)


def test_too_many_arguments() -> None:
    """execve(2): E2BIG for a single long one; a plan that the supervisor does not take is an error too."""
    for args in (["true", "x" * 200_000], ["true", *["x" * 1000] * 10_000], ["true", *["x" * 1000] * 20_000]):
        with pytest.raises(pc.LaunchError) as caught:
            pc.run("host", args)
        assert caught.value.errno is not None


def test_bad_images(tmp_path: Path) -> None:
    with pytest.raises(pc.ImageNotFound, match="no/such-image"):
        pc.run("no/such-image:1", ["true"], pull="never")
    with pytest.raises(pc.InvalidReference, match="Not A Name"):
        pc.run("Not A Name", ["true"])
    with pytest.raises(pc.PycontainerError, match="no-such-directory"):
        pc.Image.from_directory(tmp_path / "no-such-directory")
    (tmp_path / "file").write_bytes(b"not a tar")
    with pytest.raises(pc.PycontainerError):
        pc.Image.from_directory(tmp_path / "file")
    with pytest.raises(pc.PycontainerError):
        pc.Image.from_tar(tmp_path / "file")
    with pytest.raises(pc.LaunchError, match="/bin/true"):
        pc.run(pc.Image.scratch(), ["/bin/true"])


@pytest.mark.rootless
def test_as_ordinary_user(as_user: ordinary_user.OrdinaryUser) -> None:
    """What only root may have, and what this user may not read."""
    as_user("""
        import os, pathlib
        import pycontainer as pc
        pc.run("host", ["true"])
        def fails(names, **options):
            try:
                pc.run("host", ["true"], **options)
            except pc.PycontainerError as error:
                assert names in str(error), error
            else:
                raise AssertionError(options)
        fails("/root/x", mounts=[pc.bind("/root/x", "/mnt")])
        fails("kernel.panic", sysctls={"kernel.panic": "1"})
        try:
            pc.Image.from_directory("/var/lib")  # some of it is for root alone
        except pc.PycontainerError as error:
            assert "/var/lib/" in str(error) and "EACCES" in str(error), error
        else:
            raise AssertionError("a directory that cannot be read")
        store = pathlib.Path(os.environ["PYCONTAINER_STORE"])
        assert list(store.glob("containers/*/*")) == [] and os.listdir(store / "staging") == []
        assert pc.run("host", ["echo", "fine"], capture_output=True).stdout == b"fine\\n"
    """)
