"""A bundle for OCI runtimes with the options that everybody here has."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

from benchmarks import hosts
from benchmarks.competitors.base import CAPABILITIES, MEMORY, PIDS

_DOCKER_PROFILE = Path("/usr/share/containers/seccomp.json")
_ARCHITECTURES = {"x86_64": ("SCMP_ARCH_X86_64", "amd64"), "aarch64": ("SCMP_ARCH_AARCH64", "arm64")}
_MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
)
_READONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


def write(bundle: Path, root: Path, args: list[str]) -> None:
    """Writes `bundle`/config.json. The bundle's name is that of the control group, so one is for one
    container at a time."""
    bundle.mkdir(exist_ok=True)
    config = _config(root, args, f"/{hosts.PARENT}/{bundle.name}")
    (bundle / "config.json").write_text(json.dumps(config, indent=1))


def _config(root: Path, args: list[str], cgroup: str) -> dict[str, Any]:
    seccomp = _seccomp()
    capabilities = [f"CAP_{name}" for name in CAPABILITIES]
    linux: dict[str, Any] = {
        "cgroupsPath": cgroup,
        "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")],
        "resources": {"memory": {"limit": MEMORY}, "pids": {"limit": PIDS}},
        "maskedPaths": list(_MASKED),
        "readonlyPaths": list(_READONLY),
    }
    if seccomp is not None:
        linux["seccomp"] = seccomp
    return {
        "ociVersion": "1.0.2",
        "hostname": "bench",
        "root": {"path": str(root), "readonly": True},
        "process": {
            "args": args,
            "cwd": "/",
            "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
            "user": {"uid": 0, "gid": 0},
            "noNewPrivileges": True,
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
        },
        "mounts": _mounts(),
        "linux": linux,
    }


def _mounts() -> list[dict[str, Any]]:
    hidden = ["nosuid", "noexec", "nodev"]

    def mount(destination: str, kind: str, *options: str) -> dict[str, Any]:
        return {"destination": destination, "type": kind, "source": kind, "options": list(options)}

    return [
        mount("/proc", "proc", *hidden),
        mount("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        mount("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
        mount("/dev/shm", "tmpfs", *hidden, "mode=1777", "size=65536k"),
        mount("/dev/mqueue", "mqueue", *hidden),
        mount("/sys", "sysfs", *hidden, "ro"),
        mount("/sys/fs/cgroup", "cgroup", *hidden, "relatime", "ro"),
    ]


def _seccomp() -> dict[str, Any] | None:
    """Docker's default profile in the runtime specification's form: its conditions on capabilities and
    architectures decided, since that form has none."""
    if not _DOCKER_PROFILE.exists() or platform.machine() not in _ARCHITECTURES:
        return None
    architecture, name = _ARCHITECTURES[platform.machine()]
    profile = json.loads(_DOCKER_PROFILE.read_text())
    held = {f"CAP_{capability}" for capability in CAPABILITIES}
    rules = []
    for rule in profile["syscalls"]:
        only, never = rule.get("includes", {}), rule.get("excludes", {})
        if not set(only.get("caps", ())) <= held or set(never.get("caps", ())) & held:
            continue
        if name not in only.get("arches", (name,)) or name in never.get("arches", ()):
            continue
        keys = ("names", "action", "args", "errnoRet")
        rules.append({key: rule[key] for key in keys if rule.get(key)})
    return {"defaultAction": profile["defaultAction"], "architectures": [architecture], "syscalls": rules}
