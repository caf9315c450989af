"""Building and running the test programs of tests/native, with the sanitisers on."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from pathlib import Path

import attrs
import pytest

from conftest import need

NATIVE = Path(__file__).resolve().parent / "native"
SOURCES = Path(__file__).resolve().parent.parent / "src" / "_native"
PARTS = [
    "tar",
    "tar_pax",
    "tar_sparse",
    "beneath",
    "tree",
    "layer",
    "layer_dirs",
    "layer_notes",
    "layer_adopt",
]
WARNINGS = ["-Wall", "-Wextra", "-Wshadow", "-Wswitch-enum", "-Wmissing-prototypes", "-Werror"]
SANITISED = ["-std=c11", "-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]

# Nothing allocates, so nothing leaks; and leak detection needs ptrace, which seccomp may refuse.
ENVIRONMENT = {"ASAN_OPTIONS": "detect_leaks=0"}


@attrs.frozen
class Programs:
    """The directory that holds them; whoever may not enter it gets a copy."""

    base: Path

    def path(self, name: str) -> str:
        return str(self.base / name)


def build(base: Path) -> Programs:
    """Compiles the parts once and links each program with them."""
    compiler = ["gcc", *SANITISED, *WARNINGS, f"-I{SOURCES}"]
    running = [
        subprocess.Popen([*compiler, "-c", str(SOURCES / f"{part}.c"), "-o", str(base / f"{part}.o")])
        for part in PARTS
    ]
    assert [each.wait() for each in running] == [0] * len(PARTS)
    objects = [str(base / f"{part}.o") for part in PARTS]
    for name, options in {
        "layer_apply": [],
        "tree_remove": [],
        "unit_tar": [],
        "fuzz_layer": ["-DPCTR_REPLAY"],
    }.items():
        source = str(NATIVE / f"{name}.c")
        subprocess.run([*compiler, *options, source, *objects, "-o", str(base / name)], check=True)
    base.chmod(0o755)
    return Programs(base)


def shared(factory: pytest.TempPathFactory) -> Programs:
    """The programs, built once for all the tests of a session."""
    need(shutil.which("gcc") is not None, "gcc")
    return _built(factory.getbasetemp() / "native-programs")


@functools.cache
def _built(base: Path) -> Programs:
    base.mkdir()
    return build(base)


def build_fuzzer(base: Path) -> Path:
    """The libFuzzer program, by clang."""
    sources = [str(SOURCES / f"{part}.c") for part in PARTS]
    options = [*SANITISED, "-fsanitize=fuzzer", f"-I{SOURCES}"]
    target = base / "fuzz"
    subprocess.run(["clang", *options, str(NATIVE / "fuzz_layer.c"), *sources, "-o", str(target)], check=True)
    return target


def has_fuzzer(base: Path) -> bool:
    """Whether clang is here with its fuzzing runtime, which some systems package apart."""
    if shutil.which("clang") is None:
        return False
    probe = base / "probe.c"
    probe.write_text(
        "#include <stddef.h>\n#include <stdint.h>\n"
        "int LLVMFuzzerTestOneInput(const uint8_t *d, size_t s) { (void)d; (void)s; return 0; }\n"
    )
    argv = ["clang", *SANITISED, "-fsanitize=fuzzer", str(probe), "-o", str(base / "probe")]
    return subprocess.run(argv, capture_output=True).returncode == 0


@attrs.frozen
class Result:
    """What a program printed: its `name value` lines, numbers as numbers."""

    values: dict[str, str]

    def __getitem__(self, name: str) -> int:
        return int(self.values[name])

    @property
    def path(self) -> bytes:
        return bytes.fromhex(self.values["path"])

    @property
    def what(self) -> str:
        return self.values["what"]


def run(argv: list[str], *, data: bytes = b"") -> Result:
    """Runs a program to its end, with `data` on a pipe, and checks that it leaked no descriptor.

    A sanitiser's finding ends it with a status of its own."""
    done = subprocess.run(argv, input=data, capture_output=True, env=os.environ | ENVIRONMENT, timeout=120)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    lines = (line.partition(" ") for line in done.stdout.decode().splitlines())
    result = Result({name: value for name, _, value in lines})
    assert result["leaked"] == 0
    return result
