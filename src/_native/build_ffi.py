"""Builds the extension module `pycontainer._native` with cffi (API mode, abi3).

What Python may call is declared once, in the C headers; this file reads them and hands cffi what
cffi understands.  https://cffi.readthedocs.io/en/stable/cdef.html
"""

from __future__ import annotations

import re
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent if "__file__" in globals() else Path("src/_native").resolve()

HEADERS = ("protocol.h", "client.h")
"""What Python sees, in the order in which a C file would include them."""

SOURCES = ("client.c", "util.c")
"""The host half; every other C file belongs to the supervisor."""

# cffi's generated functions have no prototypes and name all their parameters, used or not.
PREAMBLE = """
#pragma GCC diagnostic ignored "-Wmissing-prototypes"
#pragma GCC diagnostic ignored "-Wunused-parameter"
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
"""

_COMMENT_OR_LITERAL = re.compile(r"/\*.*?\*/|//[^\n]*|\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])+'", re.DOTALL)
_DIRECTIVE = re.compile(r"\s*#\s*(\w+)\s*(.*?)\s*$")
_INTEGER = re.compile(r"(?P<digits>0[xX][0-9a-fA-F]+|[0-9]+)[uUlL]*$")
_ASSERTION = re.compile(r"\b(?:static_assert|_Static_assert)\s*\((?:[^;\"]|\"(?:\\.|[^\"\\])*\")*\)\s*;")


class HeaderError(ValueError):
    """A header holds something that would not reach Python as it stands in C."""


def declarations(path: Path) -> str:
    """The header's declarations as cffi's `cdef` takes them.

    Comments, the include guard, includes and static assertions go; integer macros stay.  Anything
    else that the preprocessor would act upon is an error, because leaving it out would make cffi's
    view differ from the compiler's.
    """
    text = _COMMENT_OR_LITERAL.sub(_blank_comment, path.read_text(encoding="utf-8"))
    lines = [
        _directive(path, number, line) if line.lstrip().startswith("#") else line
        for number, line in enumerate(text.splitlines(), start=1)
    ]
    _check_guard(path, text)
    return _ASSERTION.sub("", "\n".join(lines)) + "\n"


def _blank_comment(match: re.Match[str]) -> str:
    """Keeps the line count, so that errors name the right line."""
    found = match.group()
    return " " + "\n" * found.count("\n") if found.startswith("/") else found


def _directive(path: Path, number: int, line: str) -> str:
    where = f"{path.name}:{number}"
    match = _DIRECTIVE.match(line)
    if match is None or line.rstrip().endswith("\\"):
        raise HeaderError(f"{where}: not understood: {line.strip()}")
    word, rest = match.groups()
    if word == "define":
        return _define(path, where, rest)
    if word == "include":
        if rest.startswith('"') and rest.strip('"') not in HEADERS:
            raise HeaderError(f"{where}: {rest} is not among the headers that Python sees")
        return ""
    if word in {"ifndef", "endif"} and (word == "endif" or rest == _guard(path)):
        return ""
    raise HeaderError(f"{where}: only the include guard and integer macros can be read: {line.strip()}")


def _define(path: Path, where: str, rest: str) -> str:
    name, _, value = rest.partition(" ")
    if name == _guard(path):
        return ""
    number = _INTEGER.match(value.strip().strip("()"))
    if number is None or not name.isidentifier():
        raise HeaderError(f"{where}: macro {name} is not one integer")
    return f"#define {name} {number['digits']}"


def _guard(path: Path) -> str:
    return "PCTR_" + path.name.upper().replace(".", "_")


def _check_guard(path: Path, text: str) -> None:
    """One #ifndef, one #endif: with only these two allowed, nothing else can be conditional."""
    words = [match[1] for line in text.splitlines() if (match := _DIRECTIVE.match(line))]
    if words.count("ifndef") != 1 or words.count("endif") != 1:
        raise HeaderError(f"{path.name}: exactly one include guard, {_guard(path)}, is expected")


def make_builder(here: Path = HERE) -> FFI:
    """The cffi builder of `pycontainer._native`; setup.py asks for it as `ffibuilder`."""
    headers = [name for name in HEADERS if (here / name).exists()]
    builder = FFI()
    for name in headers:
        builder.cdef(declarations(here / name))
    builder.set_source(
        "pycontainer._native",
        PREAMBLE + "".join(f'#include "{name}"\n' for name in headers),
        # Relative to the project, as setuptools wants sources; a clone may lie anywhere.
        sources=[f"src/_native/{name}" for name in SOURCES if (here / name).exists()],
        depends=[str(path) for path in sorted(here.glob("*.h"))],
        include_dirs=[str(here)],
        extra_compile_args=["-std=gnu11", "-fvisibility=hidden"],
    )
    return builder


ffibuilder = make_builder()
