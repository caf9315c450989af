"""Which groups a process may use, on machines made of plain files."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from pycontainer.runtime.cgroups import Host, describe, discover, parents

ALL = "cpuset cpu io memory pids"


class Machine:
    """A made-up /proc/self and the trees that it names, below one directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.proc = root / "proc"
        self.proc.mkdir()
        self.mountinfo: list[str] = ["22 1 8:1 / / rw - ext4 /dev/vda1 rw"]
        self.cgroup: list[str] = []

    def mount(self, point: str, fstype: str, options: str = "", root: str = "/") -> None:
        number = 30 + len(self.mountinfo)
        extra = f",{options}" if options else ""
        self.mountinfo.append(
            f"{number} 22 0:{number} {root} {point} rw,nosuid shared:9 - {fstype} {fstype} rw{extra}"
        )

    def group(
        self, path: str, *, controllers: str = "", procs: str = "", real_root: bool = False, v1: bool = False
    ) -> Path:
        directory = self.root / path.lstrip("/")
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "cgroup.procs").write_text(procs)
        if v1:
            (directory / "tasks").write_text(procs)
            return directory
        (directory / "cgroup.controllers").write_text(controllers + "\n")
        (directory / "cgroup.subtree_control").write_text(controllers + "\n")
        if not real_root:
            (directory / "cgroup.type").write_text("domain\n")
        return directory

    def host(self, uid: int = 0) -> Host:
        (self.proc / "mountinfo").write_text("\n".join(self.mountinfo) + "\n")
        (self.proc / "cgroup").write_text("\n".join(self.cgroup) + "\n")
        return discover(proc=str(self.proc), prefix=str(self.root), uid=uid)

    def path(self, path: str) -> str:
        return f"{self.root}{path}"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def only_writable(patch: pytest.MonkeyPatch, machine: Machine, paths: Iterable[str]) -> None:
    """Root may write everywhere, so what an ordinary user may write is said here."""
    allowed = {machine.path(path) for path in paths}
    patch.setattr(parents, "_writable", lambda directory, control: directory in allowed)


def available(host: Host) -> set[str]:
    return {name for name, controller in host.controllers.items() if controller.available}


def test_nothing_mounted(machine: Machine) -> None:
    host = machine.host()
    assert host.version == "none"
    assert available(host) == set()
    assert all(controller.reason and controller.remedy for controller in host.controllers.values())


def test_v1_below_the_group_of_the_process(machine: Machine) -> None:
    for point, options in (("memory", "memory"), ("cpu,cpuacct", "cpu,cpuacct"), ("blkio", "blkio")):
        machine.mount(f"/sys/fs/cgroup/{point}", "cgroup", options)
        machine.group(f"/sys/fs/cgroup/{point}", v1=True)
    machine.group("/sys/fs/cgroup/memory/outer/inner", v1=True)
    machine.mount("/sys/fs/cgroup/systemd", "cgroup", "name=systemd")
    machine.cgroup = ["4:memory:/outer/inner", "3:blkio:/", "2:cpu,cpuacct:/", "1:name=systemd:/"]
    host = machine.host()
    assert host.version == "v1"
    assert host.unified is None
    assert available(host) == {"memory", "cpu", "io"}
    memory, cpu, io = (host.controllers[name].hierarchy for name in ("memory", "cpu", "io"))
    assert memory and memory.parent == machine.path("/sys/fs/cgroup/memory/outer/inner")
    assert cpu and cpu.names == ("cpu", "cpuacct")
    assert cpu.parent == machine.path("/sys/fs/cgroup/cpu,cpuacct")
    assert io and io.names == ("blkio",)


def test_v1_group_that_was_removed_gives_what_is_left_above_it(machine: Machine) -> None:
    machine.mount("/sys/fs/cgroup/pids", "cgroup", "pids")
    machine.group("/sys/fs/cgroup/pids/a", v1=True)
    machine.cgroup = ["8:pids:/a/b (deleted)"]
    hierarchy = machine.host().controllers["pids"].hierarchy
    assert hierarchy and hierarchy.parent == machine.path("/sys/fs/cgroup/pids/a")


def test_v1_in_a_container_that_sees_the_host_s_paths(machine: Machine) -> None:
    """docker without a cgroup namespace: the mount's root is the container's group."""
    machine.mount("/sys/fs/cgroup/pids", "cgroup", "pids", root="/docker/0123")
    machine.group("/sys/fs/cgroup/pids/job", v1=True)
    machine.cgroup = ["8:pids:/docker/0123/job"]
    hierarchy = machine.host().controllers["pids"].hierarchy
    assert hierarchy and hierarchy.own == machine.path("/sys/fs/cgroup/pids/job")


def test_hybrid_uses_the_v1_controllers(machine: Machine) -> None:
    machine.mount("/sys/fs/cgroup/pids", "cgroup", "pids")
    machine.group("/sys/fs/cgroup/pids", v1=True)
    machine.mount("/sys/fs/cgroup/unified", "cgroup2")
    machine.group("/sys/fs/cgroup/unified", controllers="hugetlb", real_root=True)
    machine.cgroup = ["8:pids:/", "0::/"]
    host = machine.host()
    assert host.version == "hybrid"
    assert host.unified is None
    assert available(host) == {"pids"}


def test_v1_for_a_user_who_may_not_write(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.mount("/sys/fs/cgroup/pids", "cgroup", "pids")
    machine.group("/sys/fs/cgroup/pids", v1=True)
    machine.cgroup = ["8:pids:/"]
    only_writable(monkeypatch, machine, ())
    pids = machine.host(uid=1000).controllers["pids"]
    assert not pids.available
    assert "may not make groups" in pids.reason
    assert "root" in pids.remedy


def systemd(machine: Machine) -> None:
    """A usual desktop: pure v2, a terminal in the user's own manager, an ssh session outside of it."""
    base = "/sys/fs/cgroup"
    machine.mount(base, "cgroup2")
    machine.group(base, controllers=ALL, real_root=True, procs="2\n3\n")
    machine.group(f"{base}/user.slice/user-1000.slice", controllers="cpu memory pids")
    machine.group(f"{base}/user.slice", controllers="cpu memory pids")
    manager = f"{base}/user.slice/user-1000.slice/user@1000.service"
    machine.group(manager, controllers="cpu memory pids")
    machine.group(f"{manager}/app.slice", controllers="memory pids")
    machine.group(f"{manager}/app.slice/term.scope", controllers="memory pids", procs="77\n")
    machine.group(f"{base}/user.slice/user-1000.slice/session-2.scope", controllers="pids", procs="99\n")


MANAGER = "/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service"


def test_v2_root_goes_below_the_visible_root(machine: Machine) -> None:
    systemd(machine)
    machine.cgroup = ["0::/user.slice/user-1000.slice/session-2.scope"]
    host = machine.host(uid=0)
    assert host.version == "v2"
    assert host.unified and host.unified.parent == machine.path("/sys/fs/cgroup")
    assert available(host) == {"memory", "pids", "cpu", "cpuset", "io", "freezer"}


def test_v2_root_in_a_delegated_service_stays_there(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    systemd(machine)
    service = machine.group("/sys/fs/cgroup/ci.service", controllers="memory pids")
    machine.group("/sys/fs/cgroup/ci.service/main", controllers="memory pids", procs="12\n")
    machine.cgroup = ["0::/ci.service/main"]
    monkeypatch.setattr(os, "getxattr", lambda path, name: b"1" if path == str(service) else b"0")
    host = machine.host(uid=0)
    assert host.unified and host.unified.parent == str(service)
    assert "cpu" not in available(host)
    assert "delegated" in host.controllers["cpu"].reason


def test_v2_user_in_a_delegated_session(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The terminal's own scope holds processes; the manager's group hands on more than app.slice."""
    systemd(machine)
    machine.cgroup = [f"0::{MANAGER.removeprefix('/sys/fs/cgroup')}/app.slice/term.scope"]
    only_writable(monkeypatch, machine, (MANAGER, f"{MANAGER}/app.slice", f"{MANAGER}/app.slice/term.scope"))
    host = machine.host(uid=1000)
    assert host.unified and host.unified.parent == machine.path(MANAGER)
    assert available(host) == {"memory", "pids", "cpu", "freezer"}
    assert "Delegate=" in host.controllers["io"].remedy


def test_v2_user_takes_the_nearest_of_equals(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    systemd(machine)
    machine.group(MANAGER, controllers="memory pids")
    machine.cgroup = [f"0::{MANAGER.removeprefix('/sys/fs/cgroup')}/app.slice/term.scope"]
    only_writable(monkeypatch, machine, (MANAGER, f"{MANAGER}/app.slice", f"{MANAGER}/app.slice/term.scope"))
    host = machine.host(uid=1000)
    assert host.unified and host.unified.parent == machine.path(f"{MANAGER}/app.slice")


def test_v2_user_in_an_ssh_session_has_nothing(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The manager's group is writable but not above us: moving there is not permitted."""
    systemd(machine)
    machine.cgroup = ["0::/user.slice/user-1000.slice/session-2.scope"]
    only_writable(monkeypatch, machine, (MANAGER, f"{MANAGER}/app.slice"))
    host = machine.host(uid=1000)
    assert host.unified and host.unified.parent is None
    assert available(host) == set()
    assert "session-2.scope" in host.controllers["pids"].reason
    assert "systemd-run --user" in host.controllers["pids"].remedy


def test_v2_in_a_container_whose_root_holds_processes(machine: Machine) -> None:
    """A cgroup namespace's root is not the real one: no internal processes."""
    machine.mount("/sys/fs/cgroup", "cgroup2")
    machine.group("/sys/fs/cgroup", controllers=ALL, procs="1\n7\n")
    machine.cgroup = ["0::/"]
    host = machine.host()
    assert host.unified and host.unified.parent == machine.path("/sys/fs/cgroup")
    assert available(host) == {"freezer"}
    assert "holds processes itself" in host.controllers["memory"].reason
    assert "init/cgroup.procs" in host.controllers["memory"].remedy


def test_v2_in_a_container_whose_processes_were_moved(machine: Machine) -> None:
    machine.mount("/sys/fs/cgroup", "cgroup2")
    machine.group("/sys/fs/cgroup", controllers=ALL)
    machine.group("/sys/fs/cgroup/init", controllers=ALL, procs="1\n7\n")
    machine.cgroup = ["0::/init"]
    host = machine.host()
    assert host.unified and host.unified.parent == machine.path("/sys/fs/cgroup")
    assert "memory" in available(host)


def test_v2_outside_of_the_mounted_part(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.mount("/sys/fs/cgroup", "cgroup2")
    machine.group("/sys/fs/cgroup", controllers=ALL)
    machine.cgroup = ["0::/../../elsewhere"]
    only_writable(monkeypatch, machine, ())
    host = machine.host(uid=1000)
    assert host.unified and host.unified.own is None
    assert "outside" in host.controllers["pids"].reason


def test_mount_points_are_unescaped_and_may_be_hidden(machine: Machine) -> None:
    machine.mount("/sys/fs/cgroup", "cgroup2")
    machine.mount("/sys/fs/cgroup", "tmpfs")
    machine.mount("/mnt/with\\040space", "cgroup2")
    machine.group("/mnt/with space", controllers=ALL, real_root=True)
    machine.cgroup = ["0::/"]
    host = machine.host()
    assert host.unified and host.unified.mount == machine.path("/mnt/with space")


def test_description_names_each_controller_and_a_remedy(machine: Machine) -> None:
    rows = describe(machine.host())
    assert [row[0] for row in rows] == ["memory", "pids", "cpu", "cpuset", "io", "freezer", "io_weight"]
    assert all(remedy for _, given, _, remedy in rows if not given)
