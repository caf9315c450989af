"""Seccomp filters: libseccomp's decisions, the default profile's promises, and the real kernel."""

from __future__ import annotations

import errno
import itertools
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import need
from pycontainer.errors import CapabilityUnavailable, InvalidOption
from pycontainer.runtime.isolation import CAPABILITIES, DEFAULT_CAPABILITIES
from pycontainer.runtime.seccomp import bpf, compile_filter
from pycontainer.runtime.seccomp import default as default_data
from pycontainer.runtime.seccomp import profile as p
from pycontainer.runtime.seccomp.parse import parse
from pycontainer.runtime.seccomp.tables import AARCH64, ELSEWHERE, X86_64
from seccomp_reference import (
    ACTIONS,
    AUDIT_ARCH,
    COMPARISONS,
    Program,
    Reference,
    known_to_library,
    library,
    library_number,
)

NUMBERS = {"x86_64": X86_64, "aarch64": AARCH64}
EVERYTHING = frozenset(CAPABILITIES)
NOTHING: frozenset[str] = frozenset()
ALL_BITS = (1 << 64) - 1

both_arches = pytest.mark.parametrize("arch", list(NUMBERS))


def program(
    seccomp: Any, capabilities: frozenset[str] = DEFAULT_CAPABILITIES, arch: str = "x86_64"
) -> Program:
    packed = compile_filter(seccomp, capabilities, arch)
    assert packed is not None
    return Program(packed)


def decide(compiled: Program, arch: str, name: str, *arguments: int) -> int:
    return compiled.run(NUMBERS[arch][name], arguments, AUDIT_ARCH[arch])[0]


def refusal(number: int) -> int:
    return p.ERRNO | number


def as_json(profile: p.Profile) -> dict[str, Any]:
    """A profile's values in Docker's JSON form (for one without limits of kernel and architecture)."""
    names = {value: name for name, value in ACTIONS.items()}

    def action(value: int) -> str:
        return names[value & p.ACTION_MASK]

    def argument(one: p.Condition) -> dict[str, Any]:
        rest = {"value": one.mask, "valueTwo": one.value} if one.op == "MASKED_EQ" else {"value": one.value}
        return {"index": one.index, "op": f"SCMP_CMP_{one.op}", **rest}

    rules = [
        {
            "names": list(rule.names),
            "action": action(rule.action),
            "errnoRet": rule.action & 0xFFFF,
            "args": [argument(one) for one in rule.conditions],
            "includes": {"caps": [f"CAP_{name}" for name in sorted(rule.with_capabilities)]},
            "excludes": {"caps": [f"CAP_{name}" for name in sorted(rule.without_capabilities)]},
        }
        for rule in profile.rules
    ]
    return {
        "defaultAction": action(profile.default),
        "defaultErrnoRet": profile.default & 0xFFFF,
        "syscalls": rules,
    }


DEFAULT_AS_JSON = as_json(default_data.default_profile())


def interesting(profile: dict[str, Any], name: str) -> Iterator[list[int]]:
    """Arguments around each value that a rule of the call compares with."""
    values: dict[int, set[int]] = {}
    for rule in profile["syscalls"]:
        if name in rule["names"]:
            for one in rule.get("args") or []:
                around = values.setdefault(one["index"], {0, ALL_BITS})
                for value in (one["value"], one.get("valueTwo", 0), one["value"] & one.get("valueTwo", 0)):
                    around |= {
                        value,
                        value - 1,
                        value + 1,
                        value ^ 1 << 32,
                        value | 1 << 63,
                        value & 0xFFFFFFFF,
                    }
    choices = [sorted(value & ALL_BITS for value in values.get(index, {0})) for index in range(6)]
    total = 1
    for some in choices:
        total *= len(some)
    if total <= 400:
        yield from (list(chosen) for chosen in itertools.product(*choices))
        return
    pick = random.Random(name)
    for _ in range(400):
        yield [pick.choice(some) for some in choices]


def assert_equal_to_reference(
    profile: dict[str, Any],
    arch: str,
    capabilities: frozenset[str],
    names: Iterable[str],
    *,
    seccomp: Any = None,
) -> int:
    """Compares for all the calls and counts the comparisons."""
    compiled = program(profile if seccomp is None else seccomp, capabilities, arch)
    reference = Reference(profile, arch, NUMBERS[arch], capabilities, kernel=kernel())
    compared = 0
    for name in names:
        for arguments in interesting(profile, name):
            ours = compiled.run(NUMBERS[arch][name], arguments, AUDIT_ARCH[arch])[0]
            theirs = reference.decide(name, arguments)
            assert ours == theirs, f"{name}{arguments} on {arch}: {ours:#x}, the reference says {theirs:#x}"
            compared += 1
    return compared


def kernel() -> tuple[int, int]:
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int(minor)


# The tables


@both_arches
def test_numbers_are_libseccomps(arch: str) -> None:
    need(library() is not None, "libseccomp.so.2")
    known = [name for name in NUMBERS[arch] if known_to_library(name, AUDIT_ARCH[arch])]
    assert len(known) > 280
    assert {name: library_number(name, AUDIT_ARCH[arch]) for name in known} == {
        name: NUMBERS[arch][name] for name in known
    }


def test_numbers_are_the_headers() -> None:
    header = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
    need(header.exists() or os.uname().machine != "x86_64", "asm/unistd_64.h")
    if header.exists():
        found = re.findall(r"^#define __NR_(\w+) (\d+)$", header.read_text(), re.MULTILINE)
        assert {name: X86_64.get(name) for name, _ in found} == {name: int(number) for name, number in found}


def test_new_calls_have_one_number_everywhere() -> None:
    new = {name: number for name, number in X86_64.items() if number >= 424}
    assert new == {name: number for name, number in AARCH64.items() if number >= 424}
    assert len(new) >= 47, "complete up to Linux 6.19"
    assert not ELSEWHERE & (X86_64.keys() | AARCH64.keys())


# The same decisions as libseccomp's


@both_arches
@pytest.mark.parametrize(
    "capabilities",
    [DEFAULT_CAPABILITIES, EVERYTHING, NOTHING, frozenset({"SYS_ADMIN"}), frozenset({"BPF", "SYS_PTRACE"})],
    ids=["default", "everything", "nothing", "admin", "some"],
)
def test_default_profile_decides_like_libseccomp(arch: str, capabilities: frozenset[str]) -> None:
    need(library() is not None, "libseccomp.so.2")
    compared = assert_equal_to_reference(
        DEFAULT_AS_JSON, arch, capabilities, NUMBERS[arch], seccomp="default"
    )
    assert compared > len(NUMBERS[arch]) + 30


DOCKER_FORM: dict[str, Any] = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "defaultErrnoRet": 1,
    "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]}],
    "syscalls": [
        {"names": ["read", "write", "openat", "cachestat", "waitpid", "send"], "action": "SCMP_ACT_ALLOW"},
        {
            "names": ["socket"],
            "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": 38, "op": "SCMP_CMP_LT"}],
        },
        {
            "names": ["socket"],
            "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": 39, "op": "SCMP_CMP_EQ"}],
        },
        {
            "names": ["socket"],
            "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": 40, "op": "SCMP_CMP_GT"}],
            "comment": "all but AF_ALG and AF_VSOCK",
        },
        {
            "names": ["clone"],
            "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}],
            "includes": None,
            "excludes": {"caps": ["CAP_SYS_ADMIN"], "arches": ["s390", "s390x"]},
        },
        {"names": ["clone", "mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
        {
            "names": ["clone3"],
            "action": "SCMP_ACT_ERRNO",
            "errnoRet": 38,
            "args": [],
            "excludes": {"caps": ["CAP_SYS_ADMIN"]},
        },
        {"names": ["arch_prctl"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64", "x32"]}},
        {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
        {"names": ["kcmp"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "99.0"}},
        {"names": ["getpid"], "action": "SCMP_ACT_ALLOW", "excludes": {"minKernel": "4.8"}},
        {"names": ["getppid"], "action": "SCMP_ACT_ALLOW", "excludes": {"minKernel": "99.0"}},
        {
            "names": ["prctl"],
            "action": "SCMP_ACT_ALLOW",
            "args": [
                {"index": 0, "value": 15, "op": "SCMP_CMP_EQ"},
                {"index": 0, "value": 16, "op": "SCMP_CMP_EQ"},
                {"index": 1, "value": 7, "op": "SCMP_CMP_GE"},
            ],
        },
        {
            "names": ["fcntl"],
            "action": "SCMP_ACT_TRACE",
            "errnoRet": 7,
            "args": [
                {"index": 0, "value": 1 << 40, "op": "SCMP_CMP_LE"},
                {"index": 1, "value": 7, "op": "SCMP_CMP_NE"},
            ],
        },
        {"names": ["reboot"], "action": "SCMP_ACT_KILL"},
        {"names": ["swapon"], "action": "SCMP_ACT_KILL_PROCESS"},
        {"names": ["sync"], "action": "SCMP_ACT_LOG"},
        {"names": ["acct"], "action": "SCMP_ACT_TRAP"},
        {"names": ["gettid"], "action": "SCMP_ACT_ERRNO"},
    ],
}


@both_arches
@pytest.mark.parametrize("capabilities", [NOTHING, frozenset({"SYS_ADMIN"})], ids=["nothing", "admin"])
def test_dockers_form_decides_like_libseccomp(arch: str, capabilities: frozenset[str]) -> None:
    need(library() is not None, "libseccomp.so.2")
    assert_equal_to_reference(DOCKER_FORM, arch, capabilities, NUMBERS[arch])


@both_arches
@pytest.mark.parametrize(
    "path", [path for path in (Path("/usr/share/containers/seccomp.json"),) if path.exists()], ids=str
)
def test_installed_profiles_decide_like_libseccomp(arch: str, path: Path) -> None:
    need(library() is not None, "libseccomp.so.2")
    for capabilities in (DEFAULT_CAPABILITIES, EVERYTHING):
        assert_equal_to_reference(
            json.loads(path.read_text()), arch, capabilities, NUMBERS[arch], seccomp=path
        )


def random_profile(pick: random.Random, calls: list[str]) -> dict[str, Any]:
    values = [
        0,
        1,
        5,
        0xFF,
        0xFFFF0000,
        0xFFFFFFFF,
        1 << 32,
        (1 << 32) + 5,
        1 << 63,
        ALL_BITS,
        pick.getrandbits(64),
    ]
    actions = [*pick.sample(sorted(set(ACTIONS) - {"SCMP_ACT_KILL"}), 2), "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"]

    def argument(index: int) -> dict[str, Any]:
        op = pick.choice(COMPARISONS)
        second = {"valueTwo": pick.choice(values)} if op == "MASKED_EQ" else {}
        return {"index": index, "value": pick.choice(values), "op": f"SCMP_CMP_{op}", **second}

    def rule() -> dict[str, Any]:
        indexes = pick.sample(range(6), pick.choice([0, 1, 1, 1, 2, 3]))
        return {
            "names": pick.sample(calls, pick.randint(1, 3)),
            "action": pick.choice(actions),
            "errnoRet": 2,
            "args": [argument(index) for index in indexes],
        }

    default = pick.choice(["SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_LOG"])
    return {
        "defaultAction": default,
        "defaultErrnoRet": 1,
        "syscalls": [rule() for _ in range(pick.randint(1, 14))],
    }


@both_arches
@pytest.mark.parametrize("seed", range(25))
def test_random_profiles_decide_like_libseccomp(arch: str, seed: int) -> None:
    need(library() is not None, "libseccomp.so.2")
    pick = random.Random(seed)
    calls = pick.sample(sorted(AARCH64), 5)
    assert_equal_to_reference(random_profile(pick, calls), arch, NOTHING, [*calls, "read"])


@both_arches
def test_far_jumps(arch: str) -> None:
    """A program in which most jumps are too long for one instruction."""
    need(library() is not None, "libseccomp.so.2")
    calls = sorted(AARCH64)[::2]
    rules = [
        {
            "names": [name],
            "action": "SCMP_ACT_ERRNO",
            "errnoRet": place + 1,
            "args": [{"index": place % 6, "value": place << 31, "op": f"SCMP_CMP_{COMPARISONS[place % 6]}"}],
        }
        for place, name in enumerate(calls)
    ]
    profile = {"defaultAction": "SCMP_ACT_LOG", "syscalls": rules}
    assert len(program(profile, arch=arch).instructions) > 900
    assert_equal_to_reference(profile, arch, DEFAULT_CAPABILITIES, AARCH64)


@pytest.mark.parametrize("between", range(240, 262))
@pytest.mark.parametrize("order", [1, 2])
def test_both_jumps_at_the_limit(between: int, order: int) -> None:
    """Where neither target is near: making one reachable moves the other away."""
    graph = bpf._Graph()
    one, two = graph.load(24, graph.ret(1)), graph.load(28, graph.ret(2))
    filler = graph.branch(bpf._EQUAL, 0, one, two)
    for place in range(between):
        filler = graph.load(16 + 4 * (place % 2), filler)
    true, false = (one, two) if order == 1 else (two, one)
    top = graph.load(0, graph.branch(bpf._EQUAL, 5, filler, graph.branch(bpf._EQUAL, 6, true, false)))
    writer = bpf._Writer(graph.nodes)
    writer.write(top)
    compiled = Program(writer.packed())
    assert [compiled.run(number, [0, 0], 0)[0] for number in (5, 6, 7)] == [1, order, 3 - order]


def test_a_filter_longer_than_the_kernel_takes() -> None:
    def profile(length: int) -> dict[str, Any]:
        arguments = [{"index": 1, "value": 3 * value, "op": "SCMP_CMP_EQ"} for value in range(length)]
        return {
            "defaultAction": "SCMP_ACT_ERRNO",
            "syscalls": [{"names": ["ioctl"], "action": "SCMP_ACT_ALLOW", "args": arguments}],
        }

    compiled = program(profile(900))
    assert 1800 < len(compiled.instructions) <= 4096
    assert decide(compiled, "x86_64", "ioctl", 0, 2697) == p.ALLOW
    assert decide(compiled, "x86_64", "ioctl", 0, 2698) == refusal(1)
    with pytest.raises(InvalidOption, match="4096"):
        compile_filter(profile(3000), NOTHING, "x86_64")


# Several rules of one call, and calls that nobody knows


def rules(*syscalls: dict[str, Any], default: str = "SCMP_ACT_ERRNO", **rest: Any) -> dict[str, Any]:
    return {"defaultAction": default, "syscalls": list(syscalls), **rest}


ALLOW_IOCTL = {"names": ["ioctl"], "action": "SCMP_ACT_ALLOW"}
REFUSE_TIOCSTI = {
    "names": ["ioctl"],
    "action": "SCMP_ACT_ERRNO",
    "errnoRet": 5,
    "args": [{"index": 1, "value": 0x5412, "op": "SCMP_CMP_EQ"}],
}


@pytest.mark.parametrize("order", [(ALLOW_IOCTL, REFUSE_TIOCSTI), (REFUSE_TIOCSTI, ALLOW_IOCTL)])
def test_the_strictest_rule_decides(order: tuple[dict[str, Any], ...]) -> None:
    compiled = program(rules(*order))
    assert decide(compiled, "x86_64", "ioctl", 0, 0x5412) == refusal(5)
    assert decide(compiled, "x86_64", "ioctl", 0, 0x5413) == p.ALLOW


def test_a_rule_that_repeats_the_default_says_nothing() -> None:
    allowed = {**REFUSE_TIOCSTI, "action": "SCMP_ACT_ALLOW", "errnoRet": None}
    compiled = program(rules({"names": ["ioctl"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}, allowed))
    assert decide(compiled, "x86_64", "ioctl", 0, 0x5412) == p.ALLOW
    assert decide(compiled, "x86_64", "ioctl", 0, 0x5413) == refusal(1)


@both_arches
def test_unknown_numbers(arch: str) -> None:
    unknown = [max(NUMBERS[arch].values()) + 1, 500, 1000, 0x3FFFFFFF, 400, 0xFFFFFFFF]
    for seccomp, expected in [
        ("default", refusal(errno.ENOSYS)),
        (rules(), refusal(errno.ENOSYS)),
        (rules(defaultErrnoRet=13), refusal(errno.ENOSYS)),
        (rules(default="SCMP_ACT_KILL_PROCESS"), p.KILL_PROCESS),
        (rules(default="SCMP_ACT_TRAP"), p.TRAP),
        (rules(default="SCMP_ACT_ALLOW"), p.ALLOW),
    ]:
        compiled = program(seccomp, arch=arch)
        for number in unknown:
            x32 = arch == "x86_64" and number == 0xFFFFFFFF
            found = compiled.run(number, [], AUDIT_ARCH[arch])[0]
            assert found == (refusal(errno.ENOSYS) if x32 else expected), (seccomp, number)


@pytest.mark.parametrize("seccomp", ["default", rules(default="SCMP_ACT_ALLOW"), rules(ALLOW_IOCTL)])
def test_x32_does_not_exist(seccomp: Any) -> None:
    compiled = program(seccomp, EVERYTHING)
    for number in [*X86_64.values(), 512, 547]:
        assert compiled.run(0x40000000 | number, [], AUDIT_ARCH["x86_64"])[0] == refusal(errno.ENOSYS)


@both_arches
@pytest.mark.parametrize("seccomp", ["default", rules(default="SCMP_ACT_ALLOW")])
def test_other_architectures_are_killed(arch: str, seccomp: Any) -> None:
    compiled = program(seccomp, EVERYTHING, arch)
    other = set(AUDIT_ARCH.values()) - {AUDIT_ARCH[arch]}
    for audit_arch in [*other, 0x40000003, 0x40000028, 0, 0xFFFFFFFF]:  # i386 and arm among them
        for number in (0, 1, 20, 500):
            assert compiled.run(number, [], audit_arch)[0] == p.KILL_PROCESS


def test_a_call_that_does_not_exist_can_be_allowed_but_not_refused() -> None:
    assert program(rules({"names": ["raed", "frobnicate"], "action": "SCMP_ACT_ALLOW"}))
    assert program(rules({"names": ["chown32"], "action": "SCMP_ACT_KILL"}, default="SCMP_ACT_ALLOW"))
    with pytest.raises(InvalidOption, match="'raed'"):
        program(rules({"names": ["raed"], "action": "SCMP_ACT_KILL"}, default="SCMP_ACT_ALLOW"))


# The default profile


@both_arches
def test_every_call_of_the_default_profile_exists(arch: str) -> None:
    named = [name for _, names in (*default_data.ALLOWED, *default_data.UNLOCKED) for name in names.split()]
    assert set(named) <= X86_64.keys() | AARCH64.keys()
    always = [name for _, names in default_data.ALLOWED for name in names.split()]
    assert len(always) == len(set(always))
    assert {capability for capability, _ in default_data.UNLOCKED} <= CAPABILITIES.keys()


@both_arches
def test_default_profile_namespaces(arch: str) -> None:
    ours, admin = program("default", arch=arch), program("default", frozenset({"SYS_ADMIN"}), arch)
    namespaces = [0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000]
    for flag in namespaces:
        for flags in (flag, flag | 17, flag | 0x3D0F00, flag | 1 << 32):
            assert decide(ours, arch, "clone", flags) == refusal(errno.EPERM)
            assert decide(admin, arch, "clone", flags) == p.ALLOW
    for flags in (17, 0x3D0F00, 0x1200011, 0x80 | 17, 1 << 32 | 17):  # fork, pthread_create, ...
        assert decide(ours, arch, "clone", flags) == p.ALLOW
    assert decide(ours, arch, "clone3") == refusal(errno.ENOSYS)
    assert decide(admin, arch, "clone3") == p.ALLOW
    for name in ("unshare", "setns", "mount", "umount2", "pivot_root", "open_tree", "move_mount", "fsopen"):
        assert decide(ours, arch, name) == refusal(errno.EPERM)
        assert decide(admin, arch, name) == p.ALLOW


@both_arches
@pytest.mark.parametrize("capabilities", [DEFAULT_CAPABILITIES, EVERYTHING], ids=["default", "everything"])
def test_default_profile_arguments(arch: str, capabilities: frozenset[str]) -> None:
    compiled = program("default", capabilities, arch)
    for upper in (0, 1 << 32, 1 << 63):
        for name in ("socket", "socketpair"):
            for family in range(64):
                expected = refusal(errno.EAFNOSUPPORT) if family in (38, 40) else p.ALLOW
                assert decide(compiled, arch, name, upper | family, 5) == expected
        for request in range(0x5400, 0x5480):
            expected = refusal(errno.EPERM) if request in (0x5412, 0x541C) else p.ALLOW
            assert decide(compiled, arch, "ioctl", 0, upper | request) == expected
        for persona in (0, 8, 0x20000, 0x20008, 0xFFFFFFFF):
            assert decide(compiled, arch, "personality", upper | persona) == p.ALLOW
        for persona in (0x40000, 0x100000, 0x400000, 0x20001, 0x7FFFFFFF):
            assert decide(compiled, arch, "personality", upper | persona) == refusal(errno.EPERM)


@both_arches
def test_default_profile_refuses_whatever_the_capabilities(arch: str) -> None:
    compiled = program("default", EVERYTHING, arch)
    refused = {name for name in NUMBERS[arch] if decide(compiled, arch, name) != p.ALLOW}
    assert refused == NUMBERS[arch].keys() & {
        *("add_key", "request_key", "keyctl", "userfaultfd"),
        *("io_uring_setup", "io_uring_enter", "io_uring_register"),
        *("kexec_load", "kexec_file_load", "swapon", "swapoff", "migrate_pages", "move_pages"),
        *("_sysctl", "afs_syscall", "create_module", "get_kernel_syms", "getpmsg", "nfsservctl", "putpmsg"),
        *("query_module", "security", "sysfs", "tuxcall", "uselib", "ustat", "vserver"),
    }


def test_default_profile_needs_capabilities() -> None:
    none = program("default", NOTHING)
    for capability, names in default_data.UNLOCKED:
        holder = program("default", frozenset({capability}))
        for name in names.split():
            assert decide(holder, "x86_64", name) == p.ALLOW
            if name not in ("clone", "clone3"):
                assert decide(none, "x86_64", name) == refusal(errno.EPERM)


@both_arches
def test_what_is_always_allowed_is_found_without_looking_at_arguments(arch: str) -> None:
    """Linux 5.11 then never runs the filter for it (see `bpf`)."""
    compiled = program("default", arch=arch)
    for name in (name for _, names in default_data.ALLOWED for name in names.split()):
        if name in NUMBERS[arch] and name not in ("socket", "socketpair", "ioctl"):
            assert compiled.run(NUMBERS[arch][name], [], AUDIT_ARCH[arch], blind=True)[0] == p.ALLOW


@both_arches
def test_few_instructions_per_call(arch: str) -> None:
    compiled = program("default", arch=arch)
    assert len(compiled.instructions) <= 128

    def steps(name: str) -> int:
        return compiled.run(NUMBERS[arch][name], [], AUDIT_ARCH[arch])[1]

    assert max(steps("read"), steps("write")) <= 7
    assert max(map(steps, ("futex", "openat", "close", "newfstatat", "epoll_pwait"))) <= 10
    assert max(map(steps, NUMBERS[arch])) <= 16


# The option


def test_unconfined() -> None:
    assert compile_filter("unconfined", NOTHING) is None


def test_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidOption, match="'vax'"):
        compile_filter("default", NOTHING, "vax")
    riscv = os.uname_result(("Linux", "host", "6.1.0", "#1", "riscv64"))
    monkeypatch.setattr(os, "uname", lambda: riscv)
    with pytest.raises(CapabilityUnavailable, match="riscv64"):
        # A set that no other test in this process has compiled a filter for.
        compile_filter("default", frozenset({"KILL", "WAKE_ALARM"}))


def test_programs_are_remembered() -> None:
    assert compile_filter("default", DEFAULT_CAPABILITIES) is compile_filter(
        "default", frozenset(DEFAULT_CAPABILITIES)
    )
    assert compile_filter("default", DEFAULT_CAPABILITIES) != compile_filter("default", EVERYTHING)
    profile = rules(ALLOW_IOCTL, REFUSE_TIOCSTI)
    turned = dict(reversed(profile.items()))
    assert list(turned) != list(profile)
    assert compile_filter(profile, NOTHING) is compile_filter(turned, NOTHING)
    before = compile_filter(profile, NOTHING)
    profile["syscalls"].pop()
    assert compile_filter(profile, NOTHING) != before, "a changed dict is another profile"


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    first, second, third = rules(REFUSE_TIOCSTI), rules({**REFUSE_TIOCSTI, "errnoRet": 6}), rules(ALLOW_IOCTL)
    path.write_text(json.dumps(first))
    compiled = compile_filter(path, NOTHING)
    assert compiled == compile_filter(first, NOTHING)
    assert compile_filter(str(path), NOTHING) is compiled
    changed = path.stat().st_mtime_ns
    path.write_text(json.dumps(second))
    os.utime(path, ns=(changed, changed + 1))
    assert compile_filter(path, NOTHING) == compile_filter(second, NOTHING), "another time of change"
    path.write_text(json.dumps(third))
    os.utime(path, ns=(changed, changed + 1))
    assert compile_filter(path, NOTHING) == compile_filter(third, NOTHING), "another size"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "No such file"),
        (b"{", "not JSON"),
        (b"\xff", "cannot read"),
        (b"[" * 100_000, "not JSON"),
        (b" " * (5 << 20), "more than"),
        (b"[]", "profile: must be an object"),
    ],
)
def test_bad_files(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "profile.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidOption, match=says):
        compile_filter(path, NOTHING)


def test_a_directory_is_not_a_profile(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match=re.escape(str(tmp_path))):
        compile_filter(tmp_path, NOTHING)


def test_a_misspelt_name_is_taken_for_a_path() -> None:
    with pytest.raises(InvalidOption, match=r'unconfned.*"default" and "unconfined"'):
        compile_filter("unconfned", NOTHING)


@pytest.mark.parametrize("value", [7, None, b"default", ["default"]])
def test_other_types(value: Any) -> None:
    with pytest.raises(InvalidOption, match="seccomp: takes"):
        compile_filter(value, NOTHING)


def one(**fields: Any) -> dict[str, Any]:
    return rules({"names": ["read"], "action": "SCMP_ACT_ALLOW", **fields})


def argument(**fields: Any) -> dict[str, Any]:
    return one(args=[{"index": 0, "value": 1, "op": "SCMP_CMP_EQ", **fields}])


@pytest.mark.parametrize(
    ("profile", "says"),
    [
        ({}, "defaultAction: is missing"),
        ({"defaultAction": "SCMP_ACT_ALOW"}, "defaultAction: 'SCMP_ACT_ALOW' is not one of SCMP_ACT_KILL"),
        ({"defaultAction": 7}, "defaultAction: must be a string"),
        ({"defaultAction": "SCMP_ACT_NOTIFY"}, "defaultAction: SCMP_ACT_NOTIFY is not supported"),
        (rules(defaultErrnoRet=4096), "defaultErrnoRet: must be a number from 0 to 4095"),
        (rules(defaultErrnoRet=-1), "defaultErrnoRet: must be"),
        (rules(defaultErrnoRet=True), "defaultErrnoRet: must be"),
        (rules(defaultErrnoRet=1.0), "defaultErrnoRet: must be"),
        (rules(defaultErrno="EFOO"), "defaultErrno: 'EFOO' is not the name"),
        (rules(defaultErrno="errorcode"), "defaultErrno: 'errorcode' is not the name"),
        (rules(flags=["SECCOMP_FILTER_FLAG_LOG"]), "flags: is not supported"),
        (rules(listenerPath="/run/x"), "listenerPath: is not supported"),
        (rules(syscall=[]), "profile: has no field called 'syscall'"),
        (rules(architectures="SCMP_ARCH_X86_64"), "architectures: must be a list"),
        (rules(archMap=[{"architecture": 1}]), r"archMap[0].architecture: must be a string"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": {}}, "syscalls: must be a list"),
        (rules({"names": ["read"]}), "syscalls[0].action: is missing"),
        (rules({"action": "SCMP_ACT_ALLOW"}), "syscalls[0].names: is empty"),
        (rules(ALLOW_IOCTL, {"names": "read"}), "syscalls[1].names: must be a list"),
        (one(names=["read", 0]), "syscalls[0].names[1]: must be a string"),
        (one(name="write"), "syscalls[0].name: stands beside names"),
        (one(arg=[]), "syscalls[0]: has no field called 'arg'"),
        (one(action="SCMP_ACT_ERRNO", errnoRet="EPERM"), "syscalls[0].errnoRet: must be a number"),
        (one(action="SCMP_ACT_ERRNO", errno="EFOO"), "syscalls[0].errno: 'EFOO' is not the name"),
        (one(args=[7]), "syscalls[0].args[0]: must be an object"),
        (argument(index=6), "syscalls[0].args[0].index: must be a number from 0 to 5"),
        (argument(index=None), "syscalls[0].args[0].index: is missing"),
        (argument(value=1 << 64), "syscalls[0].args[0].value: must be a number"),
        (argument(value="1"), "syscalls[0].args[0].value: must be a number"),
        (argument(op="EQ"), "syscalls[0].args[0].op: 'EQ' is not one of SCMP_CMP_NE"),
        (argument(op="SCMP_CMP_MASKED_EQ", valueTwo=-1), "syscalls[0].args[0].valueTwo: must be"),
        (argument(mask=1), "syscalls[0].args[0]: has no field called 'mask'"),
        (one(includes=[]), "syscalls[0].includes: must be an object"),
        (one(includes={"cap": []}), "syscalls[0].includes: has no field called 'cap'"),
        (one(includes={"caps": ["CAP_SYS_ADMN"]}), "syscalls[0].includes.caps[0]: no capability"),
        (one(excludes={"minKernel": "5"}), "syscalls[0].excludes.minKernel: must be"),
        (one(comment={1, 2}), "not JSON"),
    ],
)
def test_malformed_profiles(profile: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidOption, match=re.escape(says)) as caught:
        compile_filter(profile, NOTHING)
    assert str(caught.value).startswith("seccomp: ")


def test_both_forms_of_a_name_and_of_an_error() -> None:
    profile = rules(
        {"name": "read", "action": "SCMP_ACT_ERRNO", "errno": "EINVAL", "errnoRet": 22},
        {"names": ["write"], "action": "SCMP_ACT_ERRNO", "errno": "ENOSYS"},
        defaultErrno="EACCES",
    )
    compiled = program(profile)
    assert [decide(compiled, "x86_64", name) for name in ("read", "write", "getpid")] == [
        refusal(errno.EINVAL),
        refusal(errno.ENOSYS),
        refusal(errno.EACCES),
    ]


def test_the_runtime_specifications_form() -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X32"],
        "flags": [],
        "syscalls": [{"names": ["getcwd", "chmod"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}],
    }
    compiled = program(profile)
    assert decide(compiled, "x86_64", "chmod") == refusal(13)
    assert decide(compiled, "x86_64", "chown") == p.ALLOW


def test_the_default_profile_survives_dockers_form() -> None:
    assert parse(DEFAULT_AS_JSON) == default_data.default_profile()


def test_importing_loads_neither_json_nor_tables() -> None:
    code = (
        "import sys; before = set(sys.modules); import pycontainer.runtime.seccomp;"
        "print('\\n'.join(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(done.stdout.split())
    assert "pycontainer.runtime.seccomp.compile" in loaded
    assert not loaded & {"json", "attr"}
    assert {name for name in loaded if name.startswith("pycontainer.runtime.seccomp.")} == {
        "pycontainer.runtime.seccomp.compile"
    }


# The real kernel


CHILD = Path(__file__).with_name("seccomp_child.py")


def under_filter(seccomp: Any, check: str) -> Any:
    """What seccomp_child.py's check finds with the filter loaded."""
    need(os.uname().machine in NUMBERS, "an x86-64 or aarch64 kernel")
    packed = compile_filter(seccomp, DEFAULT_CAPABILITIES)
    assert packed is not None
    request = {"filter": packed.hex(), "check": check, "numbers": NUMBERS[os.uname().machine]}
    done = subprocess.run(
        [sys.executable, str(CHILD)],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_kernel_refuses_what_the_default_profile_refuses() -> None:
    found = under_filter("default", "refusals")
    assert found == {
        "clone NEWUSER": errno.EPERM,
        "clone NEWUSER and a high bit": errno.EPERM,
        "clone3": errno.ENOSYS,
        "unshare nothing": errno.EPERM,
        "setns": errno.EPERM,
        "AF_ALG": errno.EAFNOSUPPORT,
        "AF_ALG and a high bit": errno.EAFNOSUPPORT,
        "AF_VSOCK": errno.EAFNOSUPPORT,
        "TIOCSTI": errno.EPERM,
        "TIOCSTI and a high bit": errno.EPERM,
        "TIOCLINUX": errno.EPERM,
        "TCGETS": errno.ENOTTY,
        "keyctl": errno.EPERM,
        "io_uring_setup": errno.EPERM,
        "personality without randomisation": errno.EPERM,
        "personality query": 0,
        "unknown number": errno.ENOSYS,
        "AF_INET": 0,
        "AF_UNIX": 0,
        "AF_NETLINK": 0,
        "fork": 0,
    }


def test_the_same_calls_get_through_without_the_profile() -> None:
    """So that the refusals above are the profile's and not the kernel's."""
    found = under_filter(rules(default="SCMP_ACT_ALLOW"), "refusals")
    assert found["unshare nothing"] == 0
    assert found["TIOCSTI"] == found["TIOCSTI and a high bit"] == errno.ENOTTY
    assert found["clone3"] == errno.EINVAL
    assert found["keyctl"] != errno.EPERM
    assert found["personality without randomisation"] == 0


def test_programs_run_under_the_default_profile() -> None:
    found = under_filter("default", "programs")
    assert found == {"mode": "2", "ls": 0, "python": "threads 4, child 0, socket True, tmp True"}


# A 64-bit program on aarch64 has no other convention, and user-mode Linux takes this one for its own.
@pytest.mark.skipif(
    os.uname().machine != "x86_64" or "User Mode Linux" in Path("/proc/cpuinfo").read_text(),
    reason="no second way into this kernel",
)
def test_a_call_by_another_architectures_convention_kills() -> None:
    assert under_filter("default", "foreign")["killed by"] == "SIGSYS"
