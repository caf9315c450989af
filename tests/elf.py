"""The little of ELF that the tests of built files need.  elf(5)"""

from __future__ import annotations

import struct
from pathlib import Path

PT_INTERP = 3
PT_GNU_STACK = 0x6474E551
PF_X = 1


def segments(path: Path) -> list[tuple[int, int]]:
    """(type, flags) of each program header of a 64-bit file."""
    data = path.read_bytes()
    assert data[:5] == b"\x7fELF\x02", f"{path} is not a 64-bit ELF file"
    order = "<" if data[5] == 1 else ">"
    (offset,) = struct.unpack_from(f"{order}Q", data, 32)
    size, count = struct.unpack_from(f"{order}HH", data, 54)
    return [struct.unpack_from(f"{order}II", data, offset + number * size) for number in range(count)]


def is_static(path: Path) -> bool:
    """It asks for no dynamic loader."""
    return PT_INTERP not in {kind for kind, _ in segments(path)}


def has_executable_stack(path: Path) -> bool:
    """The kernel makes the stack executable when the header asks for it or is not there."""
    return all(kind != PT_GNU_STACK or flags & PF_X for kind, flags in segments(path))
