"""The compiled parts: what the header reader accepts, what setup.py makes, and what it listens to."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import elf
from conftest import need

ROOT = Path(__file__).resolve().parent.parent
NATIVE = ROOT / "src" / "_native"
PACKAGE = ROOT / "src" / "pycontainer"


@pytest.fixture(scope="module")
def build_ffi() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("build_ffi", NATIVE / "build_ffi.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module


@pytest.fixture(scope="module")
def native() -> Any:
    return importlib.import_module("pycontainer._native")


def header(tmp_path: Path, body: str) -> Path:
    path = tmp_path / "sample.h"
    path.write_text(f"#ifndef PCTR_SAMPLE_H\n#define PCTR_SAMPLE_H\n{body}\n#endif\n")
    return path


def read(build_ffi: ModuleType, path: Path) -> list[str]:
    return [line.strip() for line in build_ffi.declarations(path).splitlines() if line.strip()]


def test_headers_become_declarations(build_ffi: ModuleType, tmp_path: Path) -> None:
    body = """
#include <stdint.h>
#include "protocol.h"
/* a comment; with #if inside
   and another line */
#define PCTR_ROOM 16
#define PCTR_MANY 0xffffffffu  /* said beside it */
#  define PCTR_BIG (68719476736ull)
struct s { char text[PCTR_ROOM]; };   // the end
static_assert(sizeof(struct s) == PCTR_ROOM, "a ; in the text");
int pctr_f(const char *path);
"""
    assert read(build_ffi, header(tmp_path, body)) == [
        "#define PCTR_ROOM 16",
        "#define PCTR_MANY 0xffffffff",
        "#define PCTR_BIG 68719476736",
        "struct s { char text[PCTR_ROOM]; };",
        "int pctr_f(const char *path);",
    ]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("#if 1", "sample.h:3: only the include guard"),
        ("#ifdef __x86_64__", "sample.h:3: only the include guard"),
        ("#ifndef PCTR_OTHER", "sample.h:3: only the include guard"),
        ("#undef PCTR_ROOM", "sample.h:3: only the include guard"),
        ("#pragma pack(1)", "sample.h:3: only the include guard"),
        ("#define PCTR_SUM (A | B)", "sample.h:3: macro PCTR_SUM is not one integer"),
        ("#define PCTR_EMPTY", "sample.h:3: macro PCTR_EMPTY is not one integer"),
        ("#define PCTR_F(x) 1", "sample.h:3: macro PCTR_F.x. is not one integer"),
        ('#define PCTR_TEXT "1"', "sample.h:3: macro PCTR_TEXT is not one integer"),
        ("#define PCTR_LONG \\\n 1", "sample.h:3: not understood"),
        ('#include "util.h"', "sample.h:3: .* not among the headers"),
        ("/* two\n lines */\n#if 1", "sample.h:5: only the include guard"),
    ],
)
def test_headers_that_python_would_misread_are_refused(
    build_ffi: ModuleType, tmp_path: Path, line: str, complaint: str
) -> None:
    with pytest.raises(build_ffi.HeaderError, match=complaint):
        build_ffi.declarations(header(tmp_path, line))


def test_a_header_without_guard_is_refused(build_ffi: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "sample.h"
    path.write_text("int pctr_f(void);\n")
    with pytest.raises(build_ffi.HeaderError, match="exactly one include guard, PCTR_SAMPLE_H"):
        build_ffi.declarations(path)


def test_every_header_that_python_sees_is_there(build_ffi: ModuleType) -> None:
    assert [name for name in (*build_ffi.HEADERS, *build_ffi.SOURCES) if not (NATIVE / name).exists()] == []


def test_the_module_holds_what_the_headers_declare(build_ffi: ModuleType, native: Any) -> None:
    """cffi compares each size, offset and value with the compiler's when it is first used."""
    _, structs, _ = native.ffi.list_types()
    assert {"pctr_request", "pctr_plan", "pctr_op", "pctr_record"} <= set(structs)
    for name in structs:
        assert native.ffi.typeof(f"struct {name}").fields
    for header_name in build_ffi.HEADERS:
        text = build_ffi.declarations(NATIVE / header_name)
        for name, value in re.findall(r"#define (\w+) (\w+)", text):
            assert getattr(native.lib, name) == int(value, 0)
        for name in re.findall(r"^(?:\w+ )+\*?(pctr_\w+)\(", text, re.MULTILINE):
            assert callable(getattr(native.lib, name))


def test_structures_have_no_holes(native: Any) -> None:
    """A hole would carry whatever was in memory to the other process."""
    for name in ("pctr_request", "pctr_plan", "pctr_op", "pctr_record"):
        kind = native.ffi.typeof(f"struct {name}")
        used = sum(native.ffi.sizeof(field.type) for _, field in kind.fields)
        assert used == native.ffi.sizeof(kind), name


def test_the_module_exports_nothing_but_itself(native: Any) -> None:
    """A symbol such as `pctr_close` must not meet one of the same name in another library."""
    need(shutil.which("nm") is not None, "nm (binutils)")
    done = subprocess.run(
        ["nm", "--dynamic", "--defined-only", native.__file__], capture_output=True, text=True, check=True
    )
    names = {line.split()[-1] for line in done.stdout.splitlines()}
    assert {name for name in names if not name.startswith(("_init", "_fini"))} == {"PyInit__native"}


def test_the_supervisor_is_a_small_static_program() -> None:
    program = PACKAGE / "_supervisor"
    assert os.access(program, os.X_OK)
    assert program.stat().st_mode & 0o777 == 0o755
    assert elf.is_static(program)
    assert not elf.has_executable_stack(program)
    assert program.stat().st_size < 2 << 20


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy with the smallest supervisor that there is: how it is compiled matters here, not what."""
    copy = tmp_path / "project"
    (copy / "src").mkdir(parents=True)
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    (copy / "README.md").write_text("A copy.\n")
    shutil.copytree(NATIVE, copy / "src" / "_native")
    for path in (copy / "src" / "_native").glob("*.c"):
        if path.name not in {"client.c", "util.c"}:
            path.unlink()
    (copy / "src" / "_native" / "main.c").write_text("int\nmain(void)\n{\n    return 0;\n}\n")
    (copy / "src" / "pycontainer").mkdir()
    for name in ("__init__.py", "_version.py"):
        (copy / "src" / "pycontainer" / name).write_text('__version__ = "0"\n')
    return copy


def build(project: Path, *options: str, **env: str) -> subprocess.CompletedProcess[str]:
    dropped = {"CC", "CFLAGS", "LDFLAGS", "PYCONTAINER_WERROR"}
    clean = {name: value for name, value in os.environ.items() if name not in dropped}
    return subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--inplace", *options],
        cwd=project,
        env=clean | env,
        capture_output=True,
        text=True,
    )


def compiler_script(path: Path, body: str) -> str:
    """A compiler that writes down its arguments first."""
    path.write_text(f'#!/bin/sh\necho "$*" >> {path}.log\n{body}\nexec gcc "$@"\n')
    path.chmod(0o755)
    return str(path)


@pytest.mark.slow
def test_the_build_listens_to_the_environment(project: Path, tmp_path: Path) -> None:
    script = compiler_script(tmp_path / "cc", "")
    done = build(project, CC=script, CFLAGS="-DPCTR_SAMPLE=1", LDFLAGS="-Wl,--build-id=none")
    assert done.returncode == 0, done.stdout + done.stderr
    calls = Path(f"{script}.log").read_text().splitlines()
    for built in ("client.o", "_supervisor"):
        call = next(line for line in calls if (built in line and "client.c" in line) or "main.c" in line)
        assert "-DPCTR_SAMPLE=1" in call and "-Wswitch-enum" in call and "-Werror" not in call
    assert "--build-id=none" in next(line for line in calls if "-o" in line and "_supervisor" in line)
    assert elf.is_static(project / "src" / "pycontainer" / "_supervisor")


@pytest.mark.slow
def test_without_a_static_c_library_the_supervisor_is_dynamic(project: Path, tmp_path: Path) -> None:
    script = compiler_script(tmp_path / "cc", 'case " $* " in *" -static "*) exit 1;; esac')
    done = build(project, CC=script)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no static C library" in done.stderr
    program = project / "src" / "pycontainer" / "_supervisor"
    assert not elf.is_static(program)
    assert subprocess.run([program]).returncode == 0


@pytest.mark.slow
def test_warnings_are_errors_where_asked(project: Path) -> None:
    sloppy = project / "src" / "_native" / "sloppy.c"
    sloppy.write_text("int pctr_f(int unused);\n\nint\npctr_f(int unused)\n{\n    return 0;\n}\n")
    done = build(project)
    assert done.returncode == 0 and "unused parameter" in done.stderr
    sloppy.touch()
    done = build(project, "--force", PYCONTAINER_WERROR="1")
    assert done.returncode != 0
    assert "the supervisor could not be compiled" in done.stderr


@pytest.mark.slow
def test_a_second_build_makes_only_what_is_older_than_its_sources(project: Path) -> None:
    program = project / "src" / "pycontainer" / "_supervisor"
    assert build(project).returncode == 0
    first = program.stat()
    assert build(project).returncode == 0
    assert program.stat().st_ino == first.st_ino
    os.utime(project / "src" / "_native" / "protocol.h")
    assert build(project).returncode == 0
    assert program.stat().st_ino != first.st_ino
