"""Limits as the values that the kernel's files take, and the files' contents as usage."""

from __future__ import annotations

from pathlib import Path

import pytest

from pycontainer.errors import CapabilityUnavailable, InvalidOption
from pycontainer.runtime.cgroups import CgroupUsage, Limits, accounting, cpus, devices, values
from pycontainer.runtime.cgroups.planning import Template

MIB = 1 << 20
SWAP_V1 = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
SWAP_V2 = ("memory.max", "memory.swap.max")


@pytest.mark.parametrize(
    ("limits", "v1", "v2"),
    [
        (Limits(), [], []),
        (Limits(memory=MIB), [b"1048576", b"2097152"], [b"1048576", b"1048576"]),
        (Limits(memory=MIB, memory_swap=MIB), [b"1048576", b"1048576"], [b"1048576", b"0"]),
        (Limits(memory=MIB, memory_swap=3 * MIB), [b"1048576", b"3145728"], [b"1048576", b"2097152"]),
        (Limits(memory=MIB, memory_swap=-1), [b"1048576", b"-1"], [b"1048576", b"max"]),
        (Limits(memory=-1), [b"-1", b"-1"], [b"max", b"max"]),
    ],
)
def test_memory_and_swap(limits: Limits, v1: list[bytes], v2: list[bytes]) -> None:
    assert [value for _, value in values.memory_v1(limits, SWAP_V1)] == v1
    assert [value for _, value in values.memory_v2(limits, SWAP_V2)] == v2


def test_swap_accounting_is_only_needed_when_swap_was_asked_for() -> None:
    assert values.memory_v1(Limits(memory=MIB), SWAP_V1[:1]) == [("memory.limit_in_bytes", b"1048576")]
    assert values.memory_v2(Limits(memory=MIB, memory_swap=-1), SWAP_V2[:1]) == [("memory.max", b"1048576")]
    for version in (values.memory_v1, values.memory_v2):
        with pytest.raises(CapabilityUnavailable, match=r"memory_swap limit.*swapaccount=1"):
            version(Limits(memory=MIB, memory_swap=2 * MIB), ())


@pytest.mark.parametrize("limits", [Limits(memory_swap=MIB), Limits(memory=2 * MIB, memory_swap=MIB)])
def test_swap_without_room_for_memory_is_refused(limits: Limits) -> None:
    with pytest.raises(InvalidOption, match="memory_swap"):
        values.memory_v1(limits, SWAP_V1)


@pytest.mark.parametrize(
    ("weight", "shares"), [(1, b"10"), (100, b"1024"), (150, b"1536"), (10_000, b"102400")]
)
def test_cpu_weight_has_the_same_default_on_both_versions(weight: int, shares: bytes) -> None:
    assert values.cpu_v1(Limits(cpu_weight=weight), ()) == [("cpu.shares", shares)]
    assert values.cpu_v2(Limits(cpu_weight=weight), ()) == [("cpu.weight", b"%d" % weight)]


@pytest.mark.parametrize(("given", "quota"), [(0.5, b"50000"), (2, b"200000"), (0.001, b"1000")])
def test_cpus(given: float, quota: bytes) -> None:
    assert values.cpu_v1(Limits(cpus=given), ["cpu.cfs_quota_us"]) == [("cpu.cfs_quota_us", quota)]
    assert values.cpu_v2(Limits(cpus=given), ["cpu.max"]) == [("cpu.max", quota + b" 100000")]
    for version in (values.cpu_v1, values.cpu_v2):
        with pytest.raises(CapabilityUnavailable, match="CONFIG_CFS_BANDWIDTH"):
            version(Limits(cpus=given), ())


@pytest.mark.parametrize(("given", "value"), [(7, b"7"), (0, b"0"), (-1, b"max"), (1 << 40, b"max")])
def test_pids(given: int, value: bytes) -> None:
    assert values.pids(Limits(pids=given), ()) == [("pids.max", value)]


def test_io_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "number", lambda device: "8:0")
    limits = Limits(io_max={"/dev/sda": {"wiops": 5, "rbps": MIB}})
    names = ["blkio.throttle.read_bps_device", "blkio.throttle.write_iops_device"]
    assert values.io_v1(limits, names) == [(names[0], b"8:0 1048576"), (names[1], b"8:0 5")]
    assert values.io_v2(limits, ["io.max"]) == [("io.max", b"8:0 rbps=1048576 wiops=5")]
    for version in (values.io_v1, values.io_v2):
        with pytest.raises(CapabilityUnavailable, match=r"io_max.*CONFIG_BLK_DEV_THROTTLING"):
            version(limits, ())


def test_io_weight_needs_a_scheduler_that_heeds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(io_weight=10_000)
    monkeypatch.setattr(devices, "weighted_by_bfq", lambda: True)
    monkeypatch.setattr(devices, "weighted_by_cost", lambda *, unknown: False)
    assert values.io_v1(limits, ["blkio.bfq.weight"]) == [("blkio.bfq.weight", b"1000")]
    assert values.io_v2(limits, ["io.weight", "io.bfq.weight"]) == [("io.bfq.weight", b"default 1000")]
    monkeypatch.setattr(devices, "weighted_by_bfq", lambda: False)
    for version in (values.io_v1, values.io_v2):
        with pytest.raises(CapabilityUnavailable, match=r"io_weight.*bfq"):
            version(limits, ["blkio.bfq.weight", "io.weight", "io.bfq.weight"])
    monkeypatch.setattr(devices, "weighted_by_cost", lambda *, unknown: True)
    assert values.io_v2(limits, ["io.weight"]) == [("io.weight", b"default 10000")]


@pytest.mark.parametrize("device", ["/dev/null", "/dev/no-such-device", "0:0", "/etc/passwd"])
def test_io_on_what_is_no_block_device(device: str) -> None:
    with pytest.raises(InvalidOption, match=device):
        devices.number(device)


def test_limits_are_equal_by_value_and_never_by_accident() -> None:
    one, other = ({"8:0": {"rbps": rate}} for rate in (1, 2))
    assert (
        Limits(io_max=one) == Limits(io_max={"8:0": {"rbps": 1}}) == Limits(io_max=(("8:0", (("rbps", 1),)),))
    )
    assert hash(Limits(io_max=one)) == hash(Limits(io_max={"8:0": {"rbps": 1}}))
    assert Limits(io_max=one) != Limits(io_max=other)
    assert values.asked(Limits(io_max=())) == {}


def test_which_controllers_are_asked_for() -> None:
    assert values.asked(Limits(pids=4096)) == {"pids": "pids"}
    assert values.asked(Limits(pids=-1, memory_swap=-1)) == {}
    everything = Limits(memory=1, cpu_weight=5, cpuset="0", pids=1, io_weight=1)
    assert values.asked(everything) == {
        "memory": "memory", "pids": "pids", "cpu": "cpu_weight", "cpuset": "cpuset", "io": "io_weight"
    }  # fmt: skip


def test_cpu_lists() -> None:
    assert cpus.parse(" 0-2,5\n") == {0, 1, 2, 5}
    assert cpus.parse("") == frozenset()
    for wrong in ("2-1", "a", "1-", "0-99999999", "-1"):
        with pytest.raises(InvalidOption, match="cpuset"):
            cpus.parse(wrong)
    with pytest.raises(CapabilityUnavailable, match=r"CPU 4, 5 .*choose from 0-3"):
        cpus.check("3-5", "0-3\n")
    with pytest.raises(InvalidOption, match="no CPU"):
        cpus.check(",", "0-3\n")


FILES = {
    "memory.max_usage_in_bytes": (b"8192\n", CgroupUsage(peak_memory=8192)),
    "memory.peak": (b"4096\n", CgroupUsage(peak_memory=4096)),
    "memory.oom_control": (b"oom_kill_disable 0\nunder_oom 0\noom_kill 2\n", CgroupUsage(oom_kills=2)),
    "memory.events": (b"low 0\nhigh 0\nmax 9\noom 1\noom_kill 3\n", CgroupUsage(oom_kills=3)),
    "cpu.stat": (
        b"usage_usec 30\nuser_usec 1500000\nsystem_usec 250000\n",
        CgroupUsage(user_cpu=1.5, system_cpu=0.25),
    ),
    "io.stat": (
        b"8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n7:0 \n8:16 rbytes=1 wbytes=2\n",
        CgroupUsage(io_read=11, io_write=22),
    ),
    "blkio.throttle.io_service_bytes_recursive": (
        b"8:0 Read 5\n8:0 Write 6\n8:0 Total 11\n8:16 Read 1\nTotal 12\n",
        CgroupUsage(io_read=6, io_write=6),
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_usage_from_each_file(name: str) -> None:
    data, expected = FILES[name]
    plan = Template(collect=(("/x/", f"/{name}"),)).fill("job")
    assert plan.collect == (f"/x/job/{name}",)
    assert accounting.usage(plan, [data]) == expected
    assert accounting.usage(plan, [None]) == CgroupUsage()


def test_usage_of_a_file_that_was_cut_is_not_known() -> None:
    plan = Template(collect=(("/x/", "/io.stat"),)).fill("job")
    cut = b"8:0 rbytes=10 wbytes=20\n" * 1000
    assert accounting.usage(plan, [cut[: accounting.CAP]]) == CgroupUsage()


def test_v1_quota_keeps_within_the_groups_above(tmp_path: Path) -> None:
    outer = tmp_path / "cpu" / "outer"
    outer.mkdir(parents=True)
    for directory, quota, period in ((outer, -1, 100_000), (outer.parent, 30_000, 50_000)):
        (directory / "cpu.cfs_quota_us").write_text(f"{quota}\n")
        (directory / "cpu.cfs_period_us").write_text(f"{period}\n")
    assert cpus.most_quota(str(outer), 400_000) == 60_000
    assert cpus.most_quota(str(outer), 40_000) == 40_000
