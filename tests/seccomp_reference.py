"""What seccomp filters are compared with: an interpreter of their programs, and libseccomp's opinion.

libseccomp decides whether a rule's conditions hold; what follows from several rules that hold is said here
once more, in a few lines, from the documentation of `pycontainer.runtime.seccomp.profile`.
"""

from __future__ import annotations

import ctypes
import functools
import os
import struct
from collections.abc import Sequence
from typing import Any

from pycontainer.runtime.seccomp import profile as p

ACTIONS = {
    "SCMP_ACT_KILL_PROCESS": p.KILL_PROCESS,
    "SCMP_ACT_KILL_THREAD": p.KILL_THREAD,
    "SCMP_ACT_KILL": p.KILL_THREAD,
    "SCMP_ACT_TRAP": p.TRAP,
    "SCMP_ACT_ERRNO": p.ERRNO,
    "SCMP_ACT_TRACE": p.TRACE,
    "SCMP_ACT_LOG": p.LOG,
    "SCMP_ACT_ALLOW": p.ALLOW,
}
COMPARISONS = ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ")  # enum scmp_compare, from 1

AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
DOCKER_ARCH = {"x86_64": "amd64", "aarch64": "arm64"}

NOT_MATCHED = p.TRACE | 0x5AFE  # no profile of the tests uses it


class ArgumentLoaded(Exception):
    """The program looked at an argument although it was told not to."""


class Program:
    """A classic BPF program over struct seccomp_data (linux/seccomp.h)."""

    def __init__(self, packed: bytes) -> None:
        assert len(packed) % 8 == 0
        self.instructions = [struct.unpack_from("=HBBI", packed, at) for at in range(0, len(packed), 8)]

    def run(
        self, number: int, arguments: Sequence[int], arch: int, *, blind: bool = False
    ) -> tuple[int, int]:
        """The action, and the instructions it took; `blind` forbids to load arguments."""
        data = struct.pack("=IIQ6Q", number, arch, 0, *arguments, *[0] * (6 - len(arguments)))
        at = accumulator = steps = 0
        while True:
            opcode, true, false, constant = self.instructions[at]
            at, steps = at + 1, steps + 1
            if opcode == 0x06:  # RET
                return constant, steps
            if opcode == 0x20:  # LD W ABS
                assert constant % 4 == 0
                if blind and constant >= 8:
                    raise ArgumentLoaded
                accumulator = struct.unpack_from("=I", data, constant)[0]
            elif opcode == 0x54:  # AND
                accumulator &= constant
            elif opcode == 0x05:  # JA
                at += constant
            else:
                tests = {
                    0x15: accumulator == constant,
                    0x25: accumulator > constant,
                    0x35: accumulator >= constant,
                    0x45: bool(accumulator & constant),
                }
                at += true if tests[opcode] else false


class _Comparison(ctypes.Structure):
    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]


@functools.cache
def library() -> ctypes.CDLL | None:
    try:
        loaded = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        return None
    loaded.seccomp_init.restype = ctypes.c_void_p
    return loaded


def known_to_library(name: str, arch: int) -> bool:
    """A call that this version of libseccomp has for the architecture (pseudo numbers are negative)."""
    lib = library()
    assert lib is not None
    return bool(lib.seccomp_syscall_resolve_name_arch(ctypes.c_uint32(arch), name.encode()) >= 0)


def library_number(name: str, arch: int) -> int:
    lib = library()
    assert lib is not None
    return int(lib.seccomp_syscall_resolve_name_arch(ctypes.c_uint32(arch), name.encode()))


class _Context:
    """A libseccomp filter for one architecture."""

    def __init__(self, default: int, arch: int) -> None:
        lib = library()
        assert lib is not None
        self.lib = lib
        self.pointer = ctypes.c_void_p(lib.seccomp_init(ctypes.c_uint32(default)))
        self.native = lib.seccomp_arch_native() & 0xFFFFFFFF
        if arch != self.native:
            assert lib.seccomp_arch_add(self.pointer, ctypes.c_uint32(arch)) == 0
            assert lib.seccomp_arch_remove(self.pointer, ctypes.c_uint32(self.native)) == 0

    def add(self, action: int, number: int, arguments: Sequence[dict[str, Any]]) -> None:
        comparisons = [
            _Comparison(
                one["index"],
                COMPARISONS.index(one["op"].removeprefix("SCMP_CMP_")) + 1,
                one["value"],
                one.get("valueTwo", 0),
            )
            for one in arguments
        ]
        code = self.lib.seccomp_rule_add_array(
            self.pointer,
            ctypes.c_uint32(action),
            ctypes.c_int(number),
            ctypes.c_uint(len(comparisons)),
            (_Comparison * len(comparisons))(*comparisons),
        )
        # EEXIST: another rule says the same or more.
        assert code in (0, -17), os.strerror(-code)

    def export(self) -> Program:
        descriptor = os.memfd_create("filter")
        try:
            assert self.lib.seccomp_export_bpf(self.pointer, descriptor) == 0
            return Program(os.pread(descriptor, 1 << 20, 0))
        finally:
            os.close(descriptor)
            self.lib.seccomp_release(self.pointer)


def applies(rule: dict[str, Any], arch: str, capabilities: frozenset[str], kernel: tuple[int, int]) -> bool:
    """Docker's `includes` and `excludes`."""
    held = {f"CAP_{name}" for name in capabilities}
    includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}

    def reached(restriction: dict[str, Any]) -> bool:
        major, minor = restriction["minKernel"].split(".")
        return kernel >= (int(major), int(minor))

    if includes.get("arches") and DOCKER_ARCH[arch] not in includes["arches"]:
        return False
    if not held.issuperset(includes.get("caps") or []) or held.intersection(excludes.get("caps") or []):
        return False
    if DOCKER_ARCH[arch] in (excludes.get("arches") or []):
        return False
    if "minKernel" in includes and not reached(includes):
        return False
    return not ("minKernel" in excludes and reached(excludes))


def value_of(action: str, errno: int | None) -> int:
    value = ACTIONS[action]
    return value | (1 if errno is None else errno) if value in (p.ERRNO, p.TRACE) else value


class Reference:
    """What a profile decides according to libseccomp: a filter for each action says where that matches."""

    def __init__(
        self,
        profile: dict[str, Any],
        arch: str,
        numbers: dict[str, int],
        capabilities: frozenset[str] = frozenset(),
        kernel: tuple[int, int] = (6, 1),
    ) -> None:
        self.arch = AUDIT_ARCH[arch]
        self.default = value_of(profile["defaultAction"], profile.get("defaultErrnoRet"))
        lib = library()
        assert lib is not None
        self.native = lib.seccomp_arch_native() & 0xFFFFFFFF
        self.known = {name for name in numbers if known_to_library(name, self.arch)}
        self.numbers = numbers
        rules: list[tuple[int, str, list[dict[str, Any]]]] = []
        for rule in profile["syscalls"]:
            if applies(rule, arch, capabilities, kernel):
                rules += self._split(rule)
        self.actions = list(dict.fromkeys(action for action, _, _ in rules))
        own = {action: _Context(NOT_MATCHED, self.arch) for action in self.actions}
        raw = {action: _Context(NOT_MATCHED, self.native) for action in self.actions}
        for action, name, arguments in rules:
            if name in self.known:
                own[action].add(action, library_number(name, self.native), arguments)
            elif name in numbers:
                # Too new for this libseccomp, which takes unknown numbers for the native architecture only.
                raw[action].add(action, numbers[name], arguments)
        self.own = {action: context.export() for action, context in own.items()}
        self.raw = {action: context.export() for action, context in raw.items()}

    def _split(self, rule: dict[str, Any]) -> list[tuple[int, str, list[dict[str, Any]]]]:
        """A rule for each name; as in the OCI runtimes, for each comparison where an argument has several."""
        action = value_of(rule["action"], rule.get("errnoRet"))
        arguments = rule.get("args") or []
        if not arguments and action == self.default:
            return []
        several = len({one["index"] for one in arguments}) < len(arguments)
        sets = [[one] for one in arguments] if several else [arguments]
        return [(action, name, chosen) for name in rule["names"] for chosen in sets]

    def decide(self, name: str, arguments: Sequence[int]) -> int:
        programs, arch = (self.own, self.arch) if name in self.known else (self.raw, self.native)
        number = self.numbers[name]
        matching = [one for one in self.actions if programs[one].run(number, arguments, arch)[0] == one]
        return min(matching, key=p.strictness, default=self.default)
