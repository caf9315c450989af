"""Control groups of the kernel that runs here, whichever version it has."""

from __future__ import annotations

import glob
import os
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest

from conftest import need
from containers import until
from ordinary_user import OrdinaryUser
from pycontainer.errors import CapabilityUnavailable, InvalidOption
from pycontainer.runtime import cgroups
from pycontainer.runtime.cgroups import CgroupPlan, Host, Limits, Owner

pytestmark = pytest.mark.cgroup

MIB = 1 << 20
SLEEP = "import time; time.sleep(60)"


@pytest.fixture(scope="module")
def host() -> Host:
    found = cgroups.host()
    need(os.geteuid() == 0, "root")
    for name in ("memory", "pids", "cpu"):
        need(found.controllers[name].available, f"the {name} controller: {found.controllers[name].reason}")
    return found


@pytest.fixture
def owner(host: Host) -> Iterator[Owner]:
    name = f"test{uuid.uuid4().hex[:12]}"
    found = cgroups.prepare_owner(host, name)
    yield found
    assert cgroups.remove_owner(found) == ()
    assert name not in cgroups.owners(host)


def make(plan: CgroupPlan) -> None:
    """The supervisor's half: directories and limits."""
    for directory in plan.directories:
        os.mkdir(directory, 0o755)
    write(plan.writes)


def write(writes: tuple[tuple[str, bytes], ...]) -> None:
    for path, value in writes:
        Path(path).write_bytes(value)


def joining(plan: CgroupPlan) -> Callable[[], None]:
    """The child's half. On v2 the supervisor clones into the group; here the child goes by itself."""
    files = plan.procs if plan.into is None else (f"{plan.into}/cgroup.procs",)

    def join() -> None:
        for path in files:
            fd = os.open(path, os.O_WRONLY)
            os.write(fd, b"0")
            os.close(fd)

    return join


def start(plan: CgroupPlan, code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-S", "-c", textwrap.dedent(code), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=joining(plan),
    )


def run(plan: CgroupPlan, code: str) -> tuple[int, str]:
    with start(plan, code) as child:
        output, _ = child.communicate(timeout=60)
    return child.returncode, output


def finish(plan: CgroupPlan) -> cgroups.CgroupUsage:
    """The supervisor's cleanup: collect, then remove."""
    usage = cgroups.usage(plan, [Path(path).read_bytes()[:4096] for path in plan.collect])
    for directory in plan.remove:
        os.rmdir(directory)
    return usage


def value(plan: CgroupPlan, v1: str, v2: str) -> str:
    """The one control file of the container that has this name."""
    name = v2 if plan.version == 2 else v1
    (path,) = [path for path in (f"{d}/{name}" for d in plan.directories) if os.path.exists(path)]
    return Path(path).read_text().strip()


def test_a_whole_life_with_the_default_limits(owner: Owner) -> None:
    plan = cgroups.plan(owner, "job1", Limits(pids=4096))
    make(plan)
    assert value(plan, "pids.max", "pids.max") == "4096"
    code, output = run(plan, "b = bytearray(32 << 20); print(open('/proc/self/cgroup').read())")
    assert code == 0
    usage = finish(plan)
    mine = [line for line in output.splitlines() if line.endswith(f"/pycontainer-{owner.name}/job1")]
    assert len(mine) == len(plan.directories) == (2 if plan.version == 1 else 1)
    assert usage.oom_kills == 0
    if any(path.endswith(("memory.peak", "max_usage_in_bytes")) for path in plan.collect):
        assert usage.peak_memory is not None and 32 * MIB < usage.peak_memory < 256 * MIB
    if plan.version == 2:
        assert usage.user_cpu is not None and usage.system_cpu is not None
        assert 0 < usage.user_cpu + usage.system_cpu < 60
    assert not any(os.path.exists(path) for path in plan.directories)


def test_out_of_memory_is_counted(owner: Owner) -> None:
    plan = cgroups.plan(owner, "oom", Limits(memory=48 * MIB, memory_swap=48 * MIB, pids=100))
    make(plan)
    assert value(plan, "memory.limit_in_bytes", "memory.max") == str(48 * MIB)
    code, _ = run(plan, "bytearray(512 << 20)")
    usage = finish(plan)
    assert code == -signal.SIGKILL
    assert usage.oom_kills == 1
    assert usage.peak_memory is None or usage.peak_memory <= 48 * MIB


def test_a_fork_bomb_meets_the_limit(owner: Owner) -> None:
    plan = cgroups.plan(owner, "bomb", Limits(pids=8))
    make(plan)
    code, output = run(
        plan,
        """
        import errno, os, signal, time
        children = []
        try:
            for _ in range(64):
                pid = os.fork()
                if pid == 0:
                    time.sleep(60)
                    os._exit(0)
                children.append(pid)
        except OSError as error:
            print(len(children), errno.errorcode[error.errno])
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        """,
    )
    finish(plan)
    assert (code, output.split()) == (0, ["7", "EAGAIN"])


def test_cpu_time_is_bounded(owner: Owner) -> None:
    plan = cgroups.plan(owner, "cpu", Limits(cpus=0.2, cpu_weight=50))
    make(plan)
    assert value(plan, "cpu.shares", "cpu.weight") == ("512" if plan.version == 1 else "50")
    code, _ = run(plan, "import time; end = time.monotonic() + 1\nwhile time.monotonic() < end: pass")
    assert code == 0
    throttled = dict(line.split() for line in value(plan, "cpu.stat", "cpu.stat").splitlines())[
        "nr_throttled"
    ]
    finish(plan)
    assert int(throttled) > 0


def test_cpu_time_beyond_what_the_groups_above_have(owner: Owner) -> None:
    """v1 refuses a larger quota than the parent's, v2 takes it: the container gets what there is."""
    above = Path(owner.controlled("cpu") or "")
    if owner.host.unified is None:
        (above / "cpu.cfs_quota_us").write_bytes(b"50000")
    else:
        (above / "cpu.max").write_bytes(b"50000 100000")
    plan = cgroups.plan(owner, "above", Limits(cpus=2))
    make(plan)
    write(cgroups.update(plan, Limits(cpus=4)))
    assert value(plan, "cpu.cfs_quota_us", "cpu.max") == ("50000" if plan.version == 1 else "400000 100000")
    finish(plan)


def test_joining_does_not_wait_for_a_grace_period(owner: Owner) -> None:
    """`cgroup.procs` would, milliseconds each time; see CgroupPlan.procs."""
    plan = cgroups.plan(owner, "join", Limits(pids=1))
    assert [os.path.basename(path) for path in plan.procs] == ["tasks"] * len(plan.procs)
    assert bool(plan.procs) != bool(plan.into)


def test_cpu_time_beyond_what_the_host_has(owner: Owner) -> None:
    plan = cgroups.plan(owner, "manycpus", Limits(cpus=64))
    make(plan)
    finish(plan)


def test_cpuset(owner: Owner) -> None:
    found = owner.host.controllers["cpuset"]
    if not found.available:
        with pytest.raises(CapabilityUnavailable, match="cpuset limit"):
            cgroups.plan(owner, "cpuset", Limits(cpuset="0"))
        return
    last = max(os.sched_getaffinity(0))
    plan = cgroups.plan(owner, "cpuset", Limits(cpuset=str(last)))
    make(plan)
    code, output = run(plan, "import os; print(os.sched_getaffinity(0))")
    finish(plan)
    assert (code, output.strip()) == (0, f"{{{last}}}")
    with pytest.raises(CapabilityUnavailable, match="CPU 8000 is not among"):
        cgroups.plan(owner, "cpuset", Limits(cpuset="0,8000"))


def disk() -> str | None:
    """A whole disk of this machine, MAJOR:MINOR; a loop device will do."""
    found = sorted(glob.glob("/sys/block/*/dev"))
    return Path(found[0]).read_text().strip() if found else None


def test_io_rates(owner: Owner) -> None:
    need(owner.host.controllers["io"].available, "the io controller")
    device = disk()
    need(device is not None, "a block device")
    assert device is not None
    plan = cgroups.plan(owner, "io", Limits(io_max={device: {"rbps": 5 * MIB, "wiops": 90}}))
    make(plan)
    assert f"{5 * MIB}" in value(plan, "blkio.throttle.read_bps_device", "io.max")
    assert "90" in value(plan, "blkio.throttle.write_iops_device", "io.max")
    usage = finish(plan)
    assert usage.io_read == usage.io_write == 0


def test_io_on_a_device_that_is_not_there(owner: Owner) -> None:
    need(owner.host.controllers["io"].available, "the io controller")
    with pytest.raises(InvalidOption, match="/dev/none: No such file"):
        cgroups.plan(owner, "io", Limits(io_max={"/dev/none": {"rbps": 1}}))


def test_io_weight_is_refused_where_nothing_heeds_it(owner: Owner) -> None:
    rows = {name: given for name, given, _, _ in cgroups.describe(owner.host)}
    if rows["io_weight"]:
        cgroups.plan(owner, "weight", Limits(io_weight=10))
        return
    with pytest.raises(CapabilityUnavailable, match=r"io_weight limit.*bfq"):
        cgroups.plan(owner, "weight", Limits(io_weight=10))


def test_a_container_sees_its_own_groups_and_no_others(owner: Owner) -> None:
    plan = cgroups.plan(owner, "view", Limits(pids=33))
    make(plan)
    # The container's own sysfs; here nothing else may be mounted there (EBUSY for a second cgroup2).
    script = ["set -e", "mount -t tmpfs none /sys/fs/cgroup"]
    for mount in plan.mounts:
        data = f"-o {mount.data}" if mount.data else ""
        script += [
            f"mkdir -p {mount.destination}",
            f"mount -t {mount.fstype} {data} none {mount.destination}",
        ]
    script.append("cat /sys/fs/cgroup/pids.max || cat /sys/fs/cgroup/pids/pids.max; cat /proc/self/cgroup")
    argv = ["unshare", "-Cm", "sh", "-c", "; ".join(script)]
    code, output = run(plan, f"import os; os.close(2); os.execvp('unshare', {argv!r})")
    finish(plan)
    assert code == 0
    first, *groups = output.split()
    assert first == "33"
    joined = [line for line in groups if line.endswith(":/")]
    assert len(joined) >= len(plan.directories)
    assert owner.name not in output


def state(plan: CgroupPlan) -> str:
    return value(plan, "freezer.state", "cgroup.freeze")


def test_freeze_and_thaw(owner: Owner) -> None:
    need(owner.host.controllers["freezer"].available, "the freezer")
    plan = cgroups.plan(owner, "frozen", Limits(pids=9), freezer=True)
    make(plan)
    with start(plan, "import time\nwhile True: print('tick', flush=True); time.sleep(0.01)") as child:
        assert child.stdout is not None
        child.stdout.readline()
        write(plan.freeze)
        assert state(plan) in ("FROZEN", "FREEZING", "1")
        write(plan.thaw)
        assert state(plan) in ("THAWED", "0")
        child.kill()
    finish(plan)


def test_kill_file(owner: Owner) -> None:
    plan = cgroups.plan(owner, "kill", Limits(pids=9))
    if plan.kill is None:
        assert plan.version == 1 or not os.path.exists(f"{plan.into}/cgroup.kill")
        return
    make(plan)
    with start(plan, SLEEP) as child:
        Path(plan.kill).write_bytes(b"1")
        assert child.wait(10) == -signal.SIGKILL
    finish(plan)


def test_new_limits_for_a_running_container(owner: Owner) -> None:
    plan = cgroups.plan(owner, "update", Limits(memory=64 * MIB, pids=10))
    make(plan)
    for memory in (128 * MIB, 32 * MIB, 640 * MIB):
        write(cgroups.update(plan, Limits(memory=memory, memory_swap=memory, pids=20)))
        assert value(plan, "memory.limit_in_bytes", "memory.max") == str(memory)
    write(cgroups.update(plan, Limits(memory=16 * MIB)))
    write(cgroups.update(plan, Limits(memory=2048 * MIB)))
    assert value(plan, "memory.limit_in_bytes", "memory.max") == str(2048 * MIB)
    assert value(plan, "pids.max", "pids.max") == "20"
    write(cgroups.update(plan, Limits(pids=-1)))
    assert value(plan, "pids.max", "pids.max") == "max"
    if plan.version == 1:
        write(cgroups.update(plan, Limits(memory=16 * MIB, memory_swap=64 * MIB)))
        write(cgroups.update(plan, Limits(memory=24 * MIB)))
        assert value(plan, "memory.memsw.limit_in_bytes", "") == str(64 * MIB)
    finish(plan)


def test_limits_that_are_lifted(owner: Owner) -> None:
    """Every control file is as in a group that never had a limit."""
    before = Limits(memory=64 * MIB, memory_swap=96 * MIB, cpus=0.5, cpu_weight=50)
    plan, fresh = cgroups.plan(owner, "lifted", before), cgroups.plan(owner, "fresh", Limits(cpu_weight=100))
    make(plan)
    make(fresh)
    names = (
        ("memory.limit_in_bytes", "memory.max"),
        ("cpu.cfs_quota_us", "cpu.max"),
        ("cpu.shares", "cpu.weight"),
    )
    assert all(value(plan, *name) != value(fresh, *name) for name in names)
    limits, over = cgroups.changes(before, Limits(), ["memory", "memory_swap", "cpus", "cpu_weight"])
    assert (limits, over) == (Limits(), before)
    write(cgroups.lift(plan, over))
    assert all(value(plan, *name) == value(fresh, *name) for name in names)
    for swap in ("memory.memsw.limit_in_bytes", "memory.swap.max"):
        assert {file.read_text() for file in controls(plan, swap)} == {
            file.read_text() for file in controls(fresh, swap)
        }
    finish(plan)
    finish(fresh)


def controls(plan: cgroups.CgroupPlan, name: str) -> list[Path]:
    return [path for directory in plan.directories if (path := Path(directory) / name).exists()]


def test_swap_follows_memory_again(owner: Owner) -> None:
    before = Limits(memory=32 * MIB, memory_swap=32 * MIB)
    plan = cgroups.plan(owner, "swap", before)
    make(plan)
    limits, over = cgroups.changes(before, Limits(memory=32 * MIB), ["memory_swap"])
    write((*cgroups.lift(plan, over), *cgroups.update(plan, limits)))
    assert value(plan, "memory.limit_in_bytes", "memory.max") == str(32 * MIB)
    for name, bytes in (("memory.memsw.limit_in_bytes", 64 * MIB), ("memory.swap.max", 32 * MIB)):
        assert [int(file.read_text()) for file in controls(plan, name)] in ([], [bytes])
    finish(plan)


def test_memory_alone_is_not_lifted_from_both() -> None:
    before = Limits(memory=32 * MIB, memory_swap=64 * MIB)
    with pytest.raises(InvalidOption, match="memory_swap=67108864 limits memory and swap together"):
        cgroups.changes(before, Limits(memory_swap=64 * MIB), ["memory"])


def test_cpus_that_are_given_back(owner: Owner) -> None:
    if owner.controlled("cpuset") is None:
        return  # as `test_cpuset` has it
    before = Limits(cpuset="0")
    plan = cgroups.plan(owner, "lifted", before)
    make(plan)
    everybody = os.sched_getaffinity(0)
    with start(
        plan, "import os, time; print(*os.sched_getaffinity(0), flush=True); time.sleep(1000)"
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "0\n"
        write(cgroups.lift(plan, cgroups.changes(before, Limits(), ["cpuset"])[1]))
        assert os.sched_getaffinity(child.pid) == everybody
        kill_all(plan)
    finish(plan)


def test_rates_that_are_lifted(owner: Owner) -> None:
    if owner.controlled("io") is None:
        pytest.skip("no io limits here")
    number = next(Path("/sys/block").glob("*/dev")).read_text().strip()
    before = Limits(io_max={number: {"rbps": 10 * MIB, "wiops": 100}})
    plan = cgroups.plan(owner, "rates", before)
    make(plan)
    files = ("io.max", "blkio.throttle.read_bps_device", "blkio.throttle.write_iops_device")

    def rates() -> str:
        return "".join(file.read_text() for name in files for file in controls(plan, name))

    assert str(10 * MIB) in rates() and "100" in rates()
    now = Limits(io_max={number: {"rbps": 20 * MIB}})
    limits, over = cgroups.changes(before, now, ["io_max"])
    assert over == Limits(io_max={number: {"wiops": 100}})
    write((*cgroups.lift(plan, over), *cgroups.update(plan, limits)))
    assert str(20 * MIB) in rates() and "100" not in rates().replace(number, "")
    write(cgroups.lift(plan, cgroups.changes(now, Limits(), ["io_max"])[1]))
    assert rates() == ""
    finish(plan)


def test_limits_that_need_another_controller(owner: Owner) -> None:
    """v1: everybody in the container is moved to a new group; v2: it gets the controller."""
    plan = cgroups.plan(owner, "widened", Limits(pids=50))
    if not plan.directories:
        pytest.skip("no control groups here")
    make(plan)
    fork = "import os, time; os.fork(); os.fork(); print(flush=True); time.sleep(1000)"
    with start(plan, fork) as child:
        until(lambda: len(members(plan.directories[0])) == 4, "all processes are there")
        limits = Limits(cpus=0.5, cpu_weight=50)
        wider, added = cgroups.widen(plan, owner, limits)
        if added is not None:
            cgroups.join(plan, added)
        write(cgroups.update(wider, limits))
        place = dict(wider.places)["cpu"]
        assert members(place) == members(plan.directories[0])
        assert value(wider, "cpu.cfs_quota_us", "cpu.max") in ("50000", "50000 100000")
        assert cgroups.widen(wider, owner, limits) == (wider, None)
        write(cgroups.update(wider, Limits(cpus=0.25)))
        assert value(wider, "cpu.cfs_quota_us", "cpu.max") in ("25000", "25000 100000")
        if added is not None:
            assert [str(Path(path).parent) for path in wider.procs] == [*wider.directories]
        kill_all(plan)
        child.wait(10)
    until(lambda: not any(map(members, wider.directories)), "all have gone")
    finish(attrs.evolve(wider, remove=wider.directories))


def members(directory: str) -> set[str]:
    return set(Path(directory, "cgroup.procs").read_text().split())


def kill_all(plan: CgroupPlan) -> None:
    for pid in members(plan.directories[0]):
        os.kill(int(pid), signal.SIGKILL)


def test_a_job_that_exists_already_is_an_error(owner: Owner) -> None:
    plan = cgroups.plan(owner, "twice", Limits(pids=1))
    make(plan)
    with pytest.raises(FileExistsError):
        make(cgroups.plan(owner, "twice", Limits(pids=1)))
    finish(plan)


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "a\nb", "x" * 200])
def test_names_that_are_no_names(owner: Owner, name: str) -> None:
    with pytest.raises(InvalidOption):
        cgroups.plan(owner, name, Limits(pids=1))
    with pytest.raises(InvalidOption):
        cgroups.prepare_owner(owner.host, name)


def test_the_owner_may_be_prepared_twice(owner: Owner) -> None:
    again = cgroups.prepare_owner(owner.host, owner.name)
    one, other = (cgroups.plan(who, "job", Limits(pids=5, cpus=1)) for who in (owner, again))
    assert one == other
    assert cgroups.plan(owner, "job", Limits(pids=5, cpus=1)) == one


OWNER = """
import os, subprocess, sys
sys.path[:0] = sys.argv[2:]
from pycontainer.runtime import cgroups
from pycontainer.runtime.cgroups import Limits
owner = cgroups.prepare_owner(cgroups.host(), sys.argv[1])
for number in range(3):
    plan = cgroups.plan(owner, f"job{number}", Limits(pids=20, memory=64 << 20), freezer=True)
    for directory in plan.directories:
        os.mkdir(directory)
    files = plan.procs or (plan.into + "/cgroup.procs",)
    def join():
        for path in files:
            fd = os.open(path, os.O_WRONLY)
            os.write(fd, b"0")
            os.close(fd)
    child = subprocess.Popen(["sleep", "60"], preexec_fn=join, start_new_session=True)
    print(child.pid, flush=True)
for path, value in plan.freeze:
    open(path, "wb").write(value)
os.mkdir(plan.directories[0] + "/below")
print("ready", flush=True)
sys.stdin.read()
"""


def test_sweep_after_the_owner_was_killed(host: Host) -> None:
    need(host.controllers["freezer"].available, "the freezer")
    name = f"test{uuid.uuid4().hex[:12]}"
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, name, *sys.path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as dying:
        assert dying.stdout is not None
        jobs = [int(dying.stdout.readline()) for _ in range(3)]
        assert dying.stdout.readline() == "ready\n"
        dying.kill()
    assert all(alive(pid) for pid in jobs)
    assert name in cgroups.owners(host)
    assert cgroups.sweep(host, name) == ()
    assert not any(alive(pid) for pid in jobs)
    assert name not in cgroups.owners(host)
    assert cgroups.sweep(host, name) == ()


def alive(pid: int) -> bool:
    """Whether it runs; a zombie that nobody has reaped is dead."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def test_sweep_kills_no_one_else(owner: Owner) -> None:
    plan = cgroups.plan(owner, "bystander", Limits(pids=9))
    make(plan)
    with start(plan, SLEEP) as child:
        assert cgroups.sweep(owner.host, f"{owner.name}x") == ()
        time.sleep(0.05)
        assert child.poll() is None
        child.kill()
    finish(plan)


def test_removing_an_owner_ends_what_still_runs(host: Host) -> None:
    owner = cgroups.prepare_owner(host, f"test{uuid.uuid4().hex[:12]}")
    plan = cgroups.plan(owner, "left", Limits(pids=9))
    make(plan)
    with start(plan, SLEEP) as child:
        assert cgroups.remove_owner(owner) == ()
        assert child.wait(10) == -signal.SIGKILL


def test_nobody_sweeps_himself(host: Host) -> None:
    owner = cgroups.prepare_owner(host, f"test{uuid.uuid4().hex[:12]}")
    plan = cgroups.plan(owner, "self", Limits(pids=50))
    make(plan)
    code, output = run(
        plan,
        f"""
        import sys
        sys.path[:0] = {sys.path!r}
        from pycontainer.errors import InvalidState
        from pycontainer.runtime import cgroups
        try:
            cgroups.sweep(cgroups.host(), {owner.name!r}, timeout=0)
        except InvalidState as error:
            print(error)
        """,
    )
    assert code == 0
    assert f"pycontainer-{owner.name}" in output
    assert cgroups.remove_owner(owner) == ()


@pytest.mark.rootless
def test_an_ordinary_user_gets_limits_or_the_reason(as_user: OrdinaryUser) -> None:
    """Without delegation a limit that was asked for is refused, and the default one left out."""
    done = as_user(
        """
        from pycontainer.errors import CapabilityUnavailable
        from pycontainer.runtime import cgroups
        from pycontainer.runtime.cgroups import Limits
        host = cgroups.host()
        owner = cgroups.prepare_owner(host, "ordinary")
        default = cgroups.plan(owner, "job", Limits(pids=4096), optional=frozenset({"pids"}))
        if host.controllers["pids"].available:
            assert default.directories
        else:
            assert not default.directories and not default.procs and default.into is None, default
            for limits in (Limits(pids=4096), Limits(memory=1 << 30)):
                try:
                    cgroups.plan(owner, "job", limits)
                except CapabilityUnavailable as error:
                    assert error.remedy, error
                else:
                    raise AssertionError(limits)
        assert cgroups.remove_owner(owner) == ()
        print("fine")
        """
    )
    assert "fine" in str(done if isinstance(done, str) else done.stdout)


DELEGATED = """
import os, signal, subprocess, sys
from pathlib import Path
from pycontainer.runtime import cgroups
from pycontainer.runtime.cgroups import Limits
owner = cgroups.prepare_owner(cgroups.host(), "delegated")
plan = cgroups.plan(owner, "job", Limits(pids=30, memory=48 << 20, memory_swap=48 << 20))
for directory in plan.directories:
    os.mkdir(directory)
for path, value in plan.writes:
    Path(path).write_bytes(value)
def join():
    for path in plan.procs or [plan.into + "/cgroup.procs"]:
        Path(path).write_bytes(b"0")
child = subprocess.run([sys.executable, "-S", "-c", "bytearray(512 << 20)"], preexec_fn=join)
usage = cgroups.usage(plan, [Path(path).read_bytes() for path in plan.collect])
assert child.returncode == -signal.SIGKILL and usage.oom_kills == 1, (child, usage)
for directory in plan.remove:
    os.rmdir(directory)
assert cgroups.remove_owner(owner) == ()
print("fine")
"""


@pytest.mark.rootless
def test_an_ordinary_user_with_delegated_groups(owner: Owner, as_user: OrdinaryUser) -> None:
    """What systemd's Delegate= gives: the directory and the files that cgroup-v2.rst names."""
    plan = cgroups.plan(owner, "user", Limits(pids=200))
    make(plan)
    leaves = []
    for directory in plan.directories:
        for name in ("", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control", "tasks"):
            if os.path.exists(f"{directory}/{name}"):
                os.chown(f"{directory}/{name}", as_user.account.pw_uid, as_user.account.pw_gid)
        # On v2 the group that hands controllers on holds no processes; v1 has no such rule.
        leaf = f"{directory}/leaf" if plan.version == 2 else directory
        if leaf != directory:
            os.mkdir(leaf)
            leaves.append(leaf)
    into = attrs.evolve(plan, into=leaves[0]) if leaves else plan
    done = subprocess.run(
        as_user.command([sys.executable, "-c", DELEGATED]),
        env=as_user.environment(),
        cwd=as_user.base / "home",
        capture_output=True,
        text=True,
        preexec_fn=joining(into),
    )
    for leaf in leaves:
        os.rmdir(leaf)
    finish(plan)
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr


def test_the_error_names_the_limit_and_the_remedy(host: Host) -> None:
    without = attrs.evolve(
        host,
        controllers={**host.controllers, "pids": cgroups.Controller("pids", None, "gone", "bring it back")},
    )
    owner = cgroups.prepare_owner(without, f"test{uuid.uuid4().hex[:12]}")
    with pytest.raises(CapabilityUnavailable) as caught:
        cgroups.plan(owner, "job", Limits(pids=4096))
    assert (caught.value.missing, caught.value.remedy) == ("pids limit: gone", "bring it back")
    left_out = cgroups.plan(owner, "job", Limits(pids=4096), optional=frozenset({"pids"}))
    assert left_out.directories and not left_out.writes
    assert cgroups.remove_owner(owner) == ()
