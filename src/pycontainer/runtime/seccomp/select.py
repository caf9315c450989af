"""A profile for one container: which rules apply to these capabilities, this machine and this kernel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs

from pycontainer.errors import InvalidOption
from pycontainer.runtime.seccomp.bpf import Decision
from pycontainer.runtime.seccomp.profile import (
    ACTION_MASK,
    ENOSYS,
    ERRNO,
    Condition,
    Profile,
    Rule,
    strictness,
)
from pycontainer.runtime.seccomp.tables import AARCH64, ELSEWHERE, X86_64

# Numbers from here on are calls by x32's convention, on a kernel that has it (asm/unistd.h).
_X32_BIT: Final = 0x40000000


@attrs.frozen
class Machine:
    """`docker` is the name that profiles use, `audit_arch` the kernel's (linux/audit.h)."""

    docker: str
    audit_arch: int
    numbers: Mapping[str, int]


MACHINES: Final = {
    "x86_64": Machine("amd64", 0xC000003E, X86_64),
    "aarch64": Machine("arm64", 0xC00000B7, AARCH64),
}
"""By the name that uname(2) gives the machine."""


def applies(rule: Rule, machine: Machine, capabilities: frozenset[str], kernel: tuple[int, int]) -> bool:
    return not (
        (rule.on_arches and machine.docker not in rule.on_arches)
        or machine.docker in rule.not_on_arches
        or not rule.with_capabilities <= capabilities
        or rule.without_capabilities & capabilities
        or (rule.from_kernel is not None and kernel < rule.from_kernel)
        or (rule.before_kernel is not None and kernel >= rule.before_kernel)
    )


def decisions(
    profile: Profile, machine: Machine, capabilities: frozenset[str], kernel: tuple[int, int]
) -> dict[int, Decision]:
    """What the profile decides for every call that the machine's table knows."""
    rules: dict[str, list[Rule]] = {}
    for rule in profile.rules:
        if applies(rule, machine, capabilities, kernel):
            for name in rule.names:
                rules.setdefault(name, []).append(rule)
    _refuse_unknown(profile, rules)
    fallback: Decision = (((), profile.default),)
    return {
        number: _decide(rules[name], profile.default) if name in rules else fallback
        for name, number in machine.numbers.items()
    }


def _decide(rules: list[Rule], default: int) -> Decision:
    """The rules of one call, the strictest first, with the default at the end; see `profile`."""
    said = [rule for rule in rules if rule.conditions or rule.action != default]
    said.sort(key=lambda rule: strictness(rule.action))
    decision: list[tuple[tuple[Condition, ...], int]] = []
    for rule in said:
        decision.append((rule.conditions, rule.action))
        if not rule.conditions:
            return tuple(decision)
    return (*decision, ((), default))


def _refuse_unknown(profile: Profile, rules: Mapping[str, list[Rule]]) -> None:
    """Refuses a rule that is to hold back a call whose number nobody here knows.

    A rule that gives permission is skipped instead: profiles name calls of all machines and kernels.
    """
    for name in rules.keys() - X86_64.keys() - AARCH64.keys() - ELSEWHERE:
        if any(strictness(rule.action) < strictness(profile.default) for rule in rules[name]):
            raise InvalidOption(
                f"seccomp: syscalls: no system call is called {name!r}, so it cannot be refused"
            )


def unlisted(profile: Profile, machine: Machine) -> list[tuple[int, int]]:
    """The action for numbers that the table does not know, as (first number, action).

    Where the default is an error, they get the one that an older kernel would give: a C library that tries a
    new call first goes on with an old one at ENOSYS, and fails at EPERM.
    """
    unknown = ERRNO | ENOSYS if profile.default & ACTION_MASK == ERRNO else profile.default
    if machine.docker != "amd64":
        return [(0, unknown)]
    return [(0, unknown), (_X32_BIT, ERRNO | ENOSYS)]


# Calls that programs make most often, in groups of falling weight.  Where the kernel skips the filter for
# calls that are always allowed (Linux 5.11), only the place of `ioctl` still matters.
_HOT: Final = (
    (64, "ioctl read write futex"),
    (32, "recvfrom sendto epoll_wait epoll_pwait"),
    (16, "openat close newfstatat fstat"),
    (8, "stat lseek mmap munmap"),
    (4, "poll ppoll recvmsg sendmsg pread64 pwrite64 readv writev"),
)


def weights(machine: Machine) -> dict[int, int]:
    """How much sooner than others a call's number is to be found: see `bpf.generate`."""
    return {
        machine.numbers[name]: weight
        for weight, names in _HOT
        for name in names.split()
        if name in machine.numbers
    }
