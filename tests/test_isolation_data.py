"""The defaults as data: complete, consistent, and true to the kernel's headers; the capability options."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import pytest

from conftest import need
from pycontainer.errors import CapabilityUnavailable, InvalidOption
from pycontainer.runtime import isolation
from pycontainer.runtime.isolation import (
    CAPABILITIES,
    DEFAULT_CAPABILITIES,
    capability_mask,
    masked_paths,
    resolve_capabilities,
)

FULL = (1 << 41) - 1


def resolve(
    add: list[str] | None = None,
    drop: list[str] | None = None,
    *,
    privileged: bool = False,
    bounding: int = FULL,
) -> frozenset[str]:
    return resolve_capabilities(add or [], drop or [], privileged=privileged, bounding=bounding)


def test_capability_numbers_are_the_kernels() -> None:
    header = Path("/usr/include/linux/capability.h")
    need(header.exists(), "linux/capability.h")
    defined = re.findall(r"^#define CAP_(\w+)\s+(\d+)$", header.read_text(), re.MULTILINE)
    assert {name: int(number) for name, number in defined} == dict(CAPABILITIES)


def test_there_are_forty_one_capabilities() -> None:
    assert list(CAPABILITIES.values()) == list(range(41))
    assert CAPABILITIES.keys() > DEFAULT_CAPABILITIES
    assert len(DEFAULT_CAPABILITIES) == 11


def test_mask() -> None:
    assert capability_mask([]) == 0
    assert capability_mask(["CHOWN", "KILL"]) == 0b100001
    assert capability_mask(CAPABILITIES) == FULL


def test_mount_flags_are_the_c_librarys() -> None:
    header = Path("/usr/include/linux/mount.h")
    need(header.exists(), "linux/mount.h")
    text = header.read_text()
    for name in ("MS_RDONLY", "MS_NOSUID", "MS_NODEV", "MS_NOEXEC", "MS_STRICTATIME"):
        value = re.search(rf"^#define {name}\s+(\S+)", text, re.MULTILINE)
        assert value is not None
        shift = re.fullmatch(r"\(1<<(\d+)\)", value[1])
        assert getattr(isolation, name) == (1 << int(shift[1]) if shift else int(value[1]))


def test_devices_are_the_hosts() -> None:
    for device in isolation.DEVICES:
        found = os.stat(f"/dev/{device.name}")
        assert stat.S_ISCHR(found.st_mode)
        assert (os.major(found.st_rdev), os.minor(found.st_rdev)) == (device.major, device.minor)


def test_a_mount_point_comes_after_what_it_lies_in() -> None:
    seen: list[str] = []
    for mount in isolation.DEFAULT_MOUNTS:
        assert not any(earlier.startswith(mount.destination + "/") for earlier in seen)
        assert mount.destination not in seen
        seen.append(mount.destination)
    assert seen == ["/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys", "/sys/fs/cgroup"]


def test_what_shows_the_host_is_mounted_read_only() -> None:
    flags = {mount.destination: mount.flags for mount in isolation.DEFAULT_MOUNTS}
    assert all(value & isolation.MS_NOSUID for value in flags.values())
    assert flags["/sys"] & flags["/sys/fs/cgroup"] & isolation.MS_RDONLY


def test_data_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        CAPABILITIES["CHOWN"] = 7  # type: ignore[index]
    with pytest.raises(AttributeError):
        isolation.DEVICES[0].mode = 0  # type: ignore[misc]


def test_masks_include_the_thermal_counters_that_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolation, "_PROCESSORS", str(tmp_path))
    for name in (
        "cpu0/thermal_throttle",
        "cpu12/thermal_throttle",
        "cpu2/thermal_throttle",
        "cpu1/cache",
        "cpufreq/thermal_throttle",
    ):
        (tmp_path / name).mkdir(parents=True)
    masked_paths.cache_clear()
    found = masked_paths()
    assert found[: len(isolation.MASKED_PATHS)] == isolation.MASKED_PATHS
    assert found[len(isolation.MASKED_PATHS) :] == tuple(
        f"{tmp_path}/cpu{number}/thermal_throttle" for number in (0, 2, 12)
    )
    (tmp_path / "cpu0/thermal_throttle").rmdir()
    assert masked_paths() is found, "looked up once"
    masked_paths.cache_clear()
    monkeypatch.setattr(isolation, "_PROCESSORS", str(tmp_path / "absent"))
    assert masked_paths() == isolation.MASKED_PATHS
    masked_paths.cache_clear()


def test_this_hosts_masks_exist() -> None:
    assert all(Path(path).exists() for path in masked_paths()[len(isolation.MASKED_PATHS) :])


def test_defaults() -> None:
    assert resolve() == DEFAULT_CAPABILITIES
    assert resolve(privileged=True) == CAPABILITIES.keys()


@pytest.mark.parametrize("spelling", ["CAP_SYS_ADMIN", "SYS_ADMIN", "sys_admin", "cap_sys_admin"])
def test_spellings(spelling: str) -> None:
    assert resolve([spelling]) == DEFAULT_CAPABILITIES | {"SYS_ADMIN"}
    assert resolve(drop=[spelling], privileged=True) == CAPABILITIES.keys() - {"SYS_ADMIN"}


def test_drop() -> None:
    assert resolve(drop=["CHOWN", "NET_RAW"]) == DEFAULT_CAPABILITIES - {"CHOWN"}
    assert resolve(drop=["ALL"]) == frozenset()


def test_add_is_put_on_top_of_what_is_left() -> None:
    assert resolve(["CHOWN"], ["CHOWN", "KILL"]) == DEFAULT_CAPABILITIES - {"KILL"}
    assert resolve(["KILL"], ["all"]) == {"KILL"}


def test_all_but() -> None:
    assert resolve(["ALL"], ["SYS_ADMIN"]) == CAPABILITIES.keys() - {"SYS_ADMIN"}
    assert resolve(["ALL", "KILL"]) == CAPABILITIES.keys()


def test_adding_all_and_dropping_all_means_nothing() -> None:
    with pytest.raises(InvalidOption, match=r"cap_add and cap_drop"):
        resolve(["ALL"], ["ALL"])


def test_sets_are_cut_down_to_the_bounding_set() -> None:
    without = FULL & ~capability_mask(["SYS_RESOURCE", "CHOWN"])
    assert resolve(bounding=without) == DEFAULT_CAPABILITIES - {"CHOWN"}
    assert resolve(["ALL"], bounding=without) == CAPABILITIES.keys() - {"CHOWN", "SYS_RESOURCE"}
    assert resolve(privileged=True, bounding=without) == CAPABILITIES.keys() - {"CHOWN", "SYS_RESOURCE"}
    assert resolve(["KILL"], bounding=without) == DEFAULT_CAPABILITIES - {"CHOWN"}


@pytest.mark.parametrize("privileged", [False, True])
@pytest.mark.parametrize("drop", [[], ["ALL"], ["SYS_RESOURCE"]])
def test_a_named_capability_that_the_host_lacks(privileged: bool, drop: list[str]) -> None:
    with pytest.raises(CapabilityUnavailable) as caught:
        resolve(["sys_resource"], drop, privileged=privileged, bounding=FULL & ~(1 << 24))
    assert caught.value.missing == "capability CAP_SYS_RESOURCE"
    assert caught.value.remedy is not None


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("SYS_ADMN", "did you mean SYS_ADMIN?"),
        ("cap_net_bindservice", "did you mean NET_BIND_SERVICE?"),
        ("zzz", "no capability is called 'zzz'"),
        ("", "no capability is called ''"),
        (7, "7 is not a capability's name"),
    ],
)
def test_unknown_names(name: str, says: str) -> None:
    with pytest.raises(InvalidOption, match=re.escape(says)) as caught:
        resolve([name])
    assert "cap_add" in str(caught.value)
    with pytest.raises(InvalidOption, match="cap_drop"):
        resolve(drop=[name])


def test_a_string_is_not_a_list() -> None:
    with pytest.raises(InvalidOption, match="cap_add takes a list"):
        resolve_capabilities("KILL", [], privileged=False, bounding=FULL)
