"""Classic BPF for seccomp: a tree over system call numbers, with the calls' argument checks as leaves.

The program is built as a graph of nodes in which equal parts are one node, and written from its end, because
jumps only go forward and their length must be known.  Two properties matter to the kernel:

- Until a call's own checks, nothing but the architecture and the number is loaded.  Linux 5.11 and newer then
  finds out at load time which calls are always allowed, and does not run the filter for those at all
  (seccomp_is_const_allow in kernel/seccomp.c).
- Jumps reach 255 instructions; farther ones go through an instruction of their own.
"""

from __future__ import annotations

import bisect
import struct
from collections.abc import Mapping, Sequence
from typing import Final

from pycontainer.errors import InvalidOption
from pycontainer.runtime.seccomp.profile import KILL_PROCESS, Condition

# A call's decision: each entry's action holds when all its conditions do, and the first that does decides.
Decision = tuple[tuple[tuple[Condition, ...], int], ...]

MAX_INSTRUCTIONS: Final = 4096  # BPF_MAXINSNS, linux/bpf_common.h

# linux/bpf_common.h
_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_AND: Final = 0x54  # BPF_ALU | BPF_AND | BPF_K
_JUMP: Final = 0x05  # BPF_JMP | BPF_JA
_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_GREATER: Final = 0x25  # BPF_JMP | BPF_JGT | BPF_K
_AT_LEAST: Final = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K

# struct seccomp_data, linux/seccomp.h
_NUMBER_AT: Final = 0
_ARCH_AT: Final = 4
_ARGUMENTS_AT: Final = 16

_U32: Final = 0xFFFFFFFF


class _Graph:
    """Nodes, each made once: (opcode, constant, next node where true, next node where false)."""

    def __init__(self) -> None:
        self.nodes: list[tuple[int, int, int, int]] = []
        self._ids: dict[tuple[int, int, int, int], int] = {}

    def _node(self, opcode: int, constant: int, true: int = -1, false: int = -1) -> int:
        key = (opcode, constant, true, false)
        if key not in self._ids:
            self._ids[key] = len(self.nodes)
            self.nodes.append(key)
        return self._ids[key]

    def ret(self, action: int) -> int:
        return self._node(_RETURN, action)

    def load(self, offset: int, following: int) -> int:
        return self._node(_LOAD, offset, self._loaded(offset, following, 2))

    def branch(self, opcode: int, constant: int, true: int, false: int) -> int:
        return true if true == false else self._node(opcode, constant, true, false)

    def _loaded(self, offset: int, node: int, depth: int) -> int:
        """The node without loads of what the accumulator already holds, `depth` branches down.

        A comparison has at most two branches, and what follows those was made by `load` itself.
        """
        opcode, constant, true, false = self.nodes[node]
        if opcode == _LOAD and constant == offset:
            return true
        if opcode not in (_EQUAL, _GREATER, _AT_LEAST) or depth == 0:
            return node
        true, false = self._loaded(offset, true, depth - 1), self._loaded(offset, false, depth - 1)
        return self.branch(opcode, constant, true, false)

    def condition(self, condition: Condition, true: int, false: int) -> int:
        """`true` where the 64-bit comparison holds; BPF compares 32 bits, so the halves in turn."""
        low_at = _ARGUMENTS_AT + 8 * condition.index
        high_at = low_at + 4
        high, low = condition.value >> 32, condition.value & _U32
        op = condition.op
        if op in ("NE", "LT", "LE"):
            true, false = false, true
        if op in ("EQ", "NE", "MASKED_EQ"):
            mask = condition.mask if op == "MASKED_EQ" else _U32 << 32 | _U32
            node = self._equal(low_at, low, mask & _U32, true, false)
            return self._equal(high_at, high, mask >> 32, node, false)
        compare = _GREATER if op in ("GT", "LE") else _AT_LEAST
        node = self.load(low_at, self.branch(compare, low, true, false))
        node = self.branch(_EQUAL, high, node, false)
        return self.load(high_at, self.branch(_GREATER, high, true, node))

    def _equal(self, offset: int, value: int, mask: int, true: int, false: int) -> int:
        if mask == 0:
            return true
        compare = self.branch(_EQUAL, value & mask, true, false)
        if compare == true or mask == _U32:
            return true if compare == true else self.load(offset, compare)
        return self._node(_LOAD, offset, self._node(_AND, mask, compare))

    def decision(self, decision: Decision) -> int:
        node = -1
        for conditions, action in reversed(decision):
            true = self.ret(action)
            if not conditions:
                node = true
                continue
            false = node
            for condition in reversed(conditions):
                true = self.condition(condition, true, false)
            node = true
        return node

    def search(self, starts: Sequence[int], targets: Sequence[int], weights: Sequence[int]) -> int:
        """A tree that finds the range a number lies in: range i starts at starts[i] and ends before the next.

        Each step halves the weight that is left, so that what is called often is found early.
        """
        if len(starts) == 1:
            return targets[0]
        half, left, cut = sum(weights) / 2, weights[0], 1
        while cut < len(starts) - 1 and left + weights[cut] / 2 < half:
            left += weights[cut]
            cut += 1
        below = self.search(starts[:cut], targets[:cut], weights[:cut])
        above = self.search(starts[cut:], targets[cut:], weights[cut:])
        return self.branch(_AT_LEAST, starts[cut], above, below)


class _Writer:
    """The program from its end: position 0 is the last instruction."""

    def __init__(self, nodes: Sequence[tuple[int, int, int, int]]) -> None:
        self._nodes = nodes
        self._code: list[tuple[int, int, int, int]] = []
        self._positions: dict[int, int] = {}

    def _append(self, opcode: int, constant: int, true: int = 0, false: int = 0) -> int:
        self._code.append((opcode, true, false, constant))
        return len(self._code) - 1

    def _within(self, node: int, reach: int) -> int:
        """The node's position, within a jump's length even when `reach` more instructions come between."""
        position = self._positions[node]
        if len(self._code) - position - 1 + reach <= 255:
            return position
        opcode, constant, _, _ = self._nodes[node]
        if opcode == _RETURN:
            # As long as a jump to the other copy, and one step less to run.
            copy = self._append(_RETURN, constant)
        else:
            copy = self._append(_JUMP, len(self._code) - position - 1)
        self._positions[node] = copy
        return copy

    def _next(self, node: int) -> None:
        """Makes the node follow directly."""
        distance = len(self._code) - self._positions[node] - 1
        if distance:
            self._append(_JUMP, distance)

    def write(self, node: int) -> None:
        """Writes the node and all that follow it, those first."""
        pending = [node]
        while pending:
            current = pending[-1]
            opcode, constant, true, false = self._nodes[current]
            missing = [n for n in (true, false) if n >= 0 and n not in self._positions]
            if missing:
                pending.append(missing[0])
                continue
            pending.pop()
            if current not in self._positions:
                self._positions[current] = self._emit(opcode, constant, true, false)

    def _emit(self, opcode: int, constant: int, true: int, false: int) -> int:
        if opcode == _RETURN:
            return self._append(opcode, constant)
        if false < 0:
            self._next(true)
            return self._append(opcode, constant)
        self._within(true, 1)  # the detour of `false` may come between
        at_false = self._within(false, 0)
        at_true = self._positions[true]
        here = len(self._code)
        return self._append(opcode, constant, here - at_true - 1, here - at_false - 1)

    def packed(self) -> bytes:
        if len(self._code) > MAX_INSTRUCTIONS:
            raise InvalidOption(
                f"seccomp: the profile makes a filter of {len(self._code)} instructions, "
                f"the kernel takes {MAX_INSTRUCTIONS}"
            )
        return b"".join(struct.pack("=HBBI", *instruction) for instruction in reversed(self._code))


def generate(
    audit_arch: int,
    decisions: Mapping[int, Decision],
    default: Sequence[tuple[int, int]],
    hot: Mapping[int, int],
) -> bytes:
    """The filter as an array of `struct sock_filter` (linux/filter.h), in the machine's byte order.

    `decisions` says what happens to the call numbers it has, `default` gives the action of all others as
    (first number, action) in rising order from 0, and `hot` the weight of numbers that are called more often
    than the rest, whose weight is 1.  A call by any other architecture's convention than `audit_arch`
    (linux/audit.h) kills the process: its numbers mean other calls.
    """
    graph = _Graph()
    starts, targets, weights = _ranges(graph, decisions, default, hot)
    tree = graph.load(_NUMBER_AT, graph.search(starts, targets, weights))
    kill = graph.ret(KILL_PROCESS)
    top = graph.load(_ARCH_AT, graph.branch(_EQUAL, audit_arch, tree, kill))
    writer = _Writer(graph.nodes)
    writer.write(top)
    return writer.packed()


def _ranges(
    graph: _Graph,
    decisions: Mapping[int, Decision],
    default: Sequence[tuple[int, int]],
    hot: Mapping[int, int],
) -> tuple[list[int], list[int], list[int]]:
    """Neighbouring numbers with one fate, as one range: starts, nodes and weights."""
    bounds = [start for start, _ in default]
    changes = {start: graph.ret(action) for start, action in default}
    for number in decisions:
        # After a call come the numbers of the default, unless the next has a decision of its own.
        action = default[bisect.bisect_right(bounds, number + 1) - 1][1]
        changes.setdefault(number + 1, graph.ret(action))
    changes.update((number, graph.decision(decision)) for number, decision in decisions.items())
    starts: list[int] = []
    targets: list[int] = []
    weights: list[int] = []
    for number in sorted(changes):
        if not targets or targets[-1] != changes[number]:
            starts.append(number)
            targets.append(changes[number])
            weights.append(1)
        weights[-1] += hot.get(number, 1) - 1
    return starts, targets, weights
