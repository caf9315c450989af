"""What a seccomp profile says, as values: the form in which a parsed and the built-in profile are the same.

A profile is a default action and rules.  Where several rules of one call match, the strictest action
decides, as the kernel decides among several filters (seccomp(2)); the order of the rules matters only
between two error numbers, where the first one stands.  A rule without conditions that repeats the default
action says nothing, as in the OCI runtimes.
"""

from __future__ import annotations

from typing import Final, Literal

import attrs

# Return values of a filter (linux/seccomp.h): the action above, 16 bits of data below.
KILL_PROCESS: Final = 0x80000000
KILL_THREAD: Final = 0x00000000
TRAP: Final = 0x00030000
ERRNO: Final = 0x00050000
TRACE: Final = 0x7FF00000
LOG: Final = 0x7FFC0000
ALLOW: Final = 0x7FFF0000

ACTION_MASK: Final = 0xFFFF0000

# linux/errno.h of both architectures.
EPERM: Final = 1
ENOSYS: Final = 38
EAFNOSUPPORT: Final = 97

Comparison = Literal["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"]


@attrs.frozen
class Condition:
    """A comparison of a call's argument `index` (0 to 5) as an unsigned 64-bit number with `value`.

    MASKED_EQ looks only at the bits that are set in `mask`.
    """

    index: int
    op: Comparison
    value: int
    mask: int = 0xFFFFFFFFFFFFFFFF


@attrs.frozen
class Rule:
    """`action` for each call in `names` when every condition holds, and where the rule applies at all.

    Architectures have Docker's names ("amd64", "arm64"), capabilities none of `CAP_`, kernel versions are
    (major, minor); empty and None mean no restriction.
    """

    names: tuple[str, ...]
    action: int
    conditions: tuple[Condition, ...] = ()
    with_capabilities: frozenset[str] = frozenset()
    without_capabilities: frozenset[str] = frozenset()
    on_arches: frozenset[str] = frozenset()
    not_on_arches: frozenset[str] = frozenset()
    from_kernel: tuple[int, int] | None = None
    before_kernel: tuple[int, int] | None = None


@attrs.frozen
class Profile:
    """`default` is the action for a call that no rule matches."""

    default: int
    rules: tuple[Rule, ...]


def strictness(action: int) -> int:
    """Smaller is stricter; the kernel compares the actions as signed numbers (seccomp_run_filters)."""
    kind = action & ACTION_MASK
    return kind - (1 << 32) if kind >= 1 << 31 else kind
