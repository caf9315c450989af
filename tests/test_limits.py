"""Limits of memory, processors, processes and io, as the container feels them, and what was used."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

import pycontainer as pc
from conftest import need
from containers import PYTHON, ROOT, nothing_left, out, python, sh, sleeper
from pycontainer.runtime import cgroups

pytestmark = pytest.mark.cgroup

MIB = 2**20
EAT = "import sys; data = bytearray(int(sys.argv[1])); page = data[::4096]; data[::4096] = b'x' * len(page)"


def available(controller: str) -> bool:
    return cgroups.host().controllers[controller].available


def require(*controllers: str) -> None:
    """An ordinary user has what was delegated; root must have all that this kernel has."""
    for name in controllers:
        if not available(name) and not ROOT:
            pytest.skip(f"no {name} controller is delegated to this user")
        need(available(name), f"the {name} controller")


# Memory.


def test_memory_is_enforced_and_the_cause_told() -> None:
    require("memory")
    with nothing_left():
        result = python(EAT, 256 * MIB, memory="64M")
    assert (result.returncode, result.cause) == (-9, "oom")
    assert result.stdout == ""
    assert python(EAT, 16 * MIB, memory="64M").returncode == 0


def test_out_of_memory_is_an_error_of_its_own() -> None:
    require("memory")
    with pytest.raises(pc.OutOfMemory) as caught:
        python(EAT, 256 * MIB, memory="64M", check=True)
    assert isinstance(caught.value, pc.ExitError)
    assert "memory" in str(caught.value)
    assert caught.value.result.cause == "oom"


def test_a_child_that_is_killed_for_memory_is_told_too() -> None:
    require("memory")
    code = f"import subprocess; subprocess.run({[*PYTHON, EAT, str(256 * MIB)]!r}); raise SystemExit(5)"
    result = python(code, memory="64M")
    assert (result.returncode, result.cause) == (5, "oom")


def test_a_program_that_handles_it_has_succeeded() -> None:
    require("memory")
    code = f"import subprocess; subprocess.run({[*PYTHON, EAT, str(256 * MIB)]!r})"
    result = python(code, memory="64M")
    assert (result.returncode, result.cause) == (0, "exited")


def test_memory_of_an_exec() -> None:
    require("memory")
    with sleeper(memory="64M") as container:
        done = container.exec([*PYTHON, EAT, str(256 * MIB)], capture_output=True)
        assert (done.returncode, done.cause) == (-9, "oom")
        after = container.exec(["sh", "-c", "exit 3"])
        assert (after.returncode, after.cause) == (3, "exited")


def test_files_in_memory_count() -> None:
    require("memory")
    result = sh("head -c 200000000 /dev/zero > /m/file", memory="32M", mounts=[pc.tmpfs("/m")])
    assert result.cause == "oom"


def test_without_swap_there_is_none() -> None:
    """`memory_swap` equal to `memory`: no swap, whether the host has some or not."""
    require("memory")
    assert python(EAT, 100 * MIB, memory="32M", memory_swap="32M").cause == "oom"


def test_memory_swap_is_written() -> None:
    require("memory")
    try:
        with sleeper(memory="64M", memory_swap="96M") as container:
            script = (
                "cat /sys/fs/cgroup/memory.swap.max 2>/dev/null"
                " || cat /sys/fs/cgroup/memory/memory.memsw.limit_in_bytes"
            )
            done = container.exec(["sh", "-c", script], capture_output=True, text=True)
            assert int(done.stdout) in (32 * MIB, 96 * MIB)
    except pc.CapabilityUnavailable as error:
        assert "swap" in str(error)
        assert error.remedy


def test_the_limit_is_visible_inside() -> None:
    require("memory")
    script = "cat /sys/fs/cgroup/memory.max 2>/dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes"
    assert int(out(script, memory="64M")) == 64 * MIB


def test_peak_memory_is_plausible() -> None:
    require("memory")
    small, large = python(EAT, MIB).usage.peak_memory, python(EAT, 64 * MIB).usage.peak_memory
    assert small is not None
    assert large is not None
    assert 64 * MIB <= large < 128 * MIB
    assert small < 48 * MIB


# Processors.


BURN = """
import sys, threading, time
end = time.monotonic() + float(sys.argv[1])
while time.monotonic() < end: pass
"""


def test_cpus_are_enforced() -> None:
    require("cpu")
    usage = python(BURN, 1.0, cpus=0.2).usage
    used = usage.user_cpu + usage.system_cpu
    assert used < 0.5 * usage.wall
    assert used > 0.02


def test_cpus_are_visible() -> None:
    require("cpu")
    script = "cat /sys/fs/cgroup/cpu.max 2>/dev/null || cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us"
    assert int(out(script, cpus=1.5).split()[0]) == 150_000


def test_cpu_weight() -> None:
    require("cpu")
    script = "cat /sys/fs/cgroup/cpu.weight 2>/dev/null || cat /sys/fs/cgroup/cpu/cpu.shares"
    low, high = (int(out(script, cpu_weight=weight)) for weight in (10, 1000))
    assert low < high
    assert high // low in range(20, 200)


def test_cpuset() -> None:
    if not available("cpuset"):
        with nothing_left(), pytest.raises(pc.CapabilityUnavailable, match="cpuset"):
            sh("true", cpuset="0")
        return
    code = "import os; print(sorted(os.sched_getaffinity(0)))"
    last = max(os.sched_getaffinity(0))
    assert python(code, cpuset=str(last)).stdout == f"[{last}]\n"
    assert python(code, cpuset=[0]).stdout == "[0]\n"


def test_a_cpu_that_is_not_there() -> None:
    with nothing_left(), pytest.raises((pc.CapabilityUnavailable, pc.InvalidOption), match=r"8000|cpuset"):
        sh("true", cpuset="8000")


def test_cpu_time_covers_all_processes() -> None:
    require("cpu")
    script = "for i in 1 2; do (i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done) & done; wait"
    usage = sh(script, cpus=64).usage
    assert usage.user_cpu + usage.system_cpu > 0.03


# Processes.


FORK = """
import os, time
made = 0
try:
    for made in range(100):
        if os.fork() == 0:
            time.sleep(100)
except BlockingIOError:
    print(made)
"""


def test_pids_are_enforced() -> None:
    require("pids")
    with nothing_left():
        assert 5 <= int(python(FORK, pids=20).stdout) < 20


def test_pids_default_and_unlimited() -> None:
    require("pids")
    script = (
        "cat /sys/fs/cgroup/pids.max 2>/dev/null || cat /sys/fs/cgroup/pids/pids.max 2>/dev/null || echo none"
    )
    assert out(script) == "4096"
    # Without any limit there may be no group at all.
    assert out(script, pids=-1) in ("max", "none")
    assert out(script, pids=0) in ("max", "none")
    assert out(script, pids=100) == "100"


def test_a_fork_bomb_is_killed_at_once() -> None:
    require("pids")
    bomb = "import os, time\nwhile True:\n    try: os.fork()\n    except OSError: time.sleep(0.01)"
    began = time.monotonic()
    with nothing_left(), pytest.raises(pc.Timeout):
        python(bomb, pids=200, timeout=0.5)
    assert time.monotonic() - began < 20


# Io.


def disk() -> str | None:
    """major:minor of the disk below the store."""
    directory = Path(os.environ["PYCONTAINER_STORE"]).parent
    number = os.stat(directory).st_dev
    name = f"{os.major(number)}:{os.minor(number)}"
    sysfs = Path(f"/sys/dev/block/{name}")
    if not sysfs.exists():
        return None
    if (sysfs / "partition").exists():
        return (sysfs.resolve().parent / "dev").read_text().strip()
    return name


def test_io_max_is_written_or_refused() -> None:
    name = disk()
    if name is None:
        pytest.skip("the store is on no block device")
    limits = {name: {"rbps": "1M", "wiops": 100}}
    try:
        with sleeper(io_max=limits) as container:
            script = (
                "cat /sys/fs/cgroup/io.max 2>/dev/null"
                " || cat /sys/fs/cgroup/blkio/blkio.throttle.read_bps_device"
            )
            shown = container.exec(["sh", "-c", script], capture_output=True, text=True).stdout
            assert name in shown
            assert str(MIB) in shown
    except pc.CapabilityUnavailable as error:
        assert "io" in str(error)
        assert error.remedy


def test_io_weight_is_written_or_refused() -> None:
    try:
        with sleeper(io_weight=300) as container:
            script = (
                "cat /sys/fs/cgroup/io.weight /sys/fs/cgroup/io.bfq.weight"
                " /sys/fs/cgroup/blkio/blkio.weight /sys/fs/cgroup/blkio/blkio.bfq.weight 2>/dev/null"
            )
            shown = container.exec(["sh", "-c", script], capture_output=True, text=True).stdout
            assert any(word.isdigit() and int(word) > 100 for word in shown.split())
    except pc.CapabilityUnavailable as error:
        assert "io" in str(error)
        assert error.remedy


def test_a_device_that_is_not_there() -> None:
    with nothing_left(), pytest.raises((pc.InvalidOption, pc.CapabilityUnavailable)):
        sh("true", io_max={"/dev/no-such-disk": {"rbps": 1}})


# What cannot be had.


@pytest.mark.parametrize(
    ("controller", "options"),
    [
        ("memory", {"memory": "64M"}),
        ("cpu", {"cpus": 1}),
        ("pids", {"pids": 10}),
        ("cpuset", {"cpuset": "0"}),
    ],
)
def test_a_limit_is_enforced_or_refused(controller: str, options: dict[str, object]) -> None:
    if available(controller):
        assert sh("exit 3", **options).returncode == 3
        return
    with nothing_left(), pytest.raises(pc.CapabilityUnavailable) as caught:
        sh("true", **options)
    assert caught.value.missing
    assert caught.value.remedy


def test_limits_of_containers_side_by_side() -> None:
    """Each has its own: one that dies of its limit takes nobody along."""
    require("memory")
    with sleeper(memory="64M") as container:
        threads = [threading.Thread(target=python, args=(EAT, 256 * MIB), kwargs={"memory": "64M"})
                   for _ in range(4)]  # fmt: skip
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert container.status == "running"
