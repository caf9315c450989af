"""Builds the two compiled parts: the extension module (through cffi) and the supervisor program.

Everything that can be declared is in pyproject.toml.  Environment: CC, CFLAGS and LDFLAGS as usual;
PYCONTAINER_WERROR=1 turns compiler warnings into errors.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext

NATIVE = Path("src/_native")
HOST_ONLY = {"client.c"}
"""C files of the extension module alone; all others make up the supervisor."""

WARNINGS = ["-Wall", "-Wextra", "-Wshadow", "-Wswitch-enum"]
HARDENING = ["-fstack-protector-strong", "-D_FORTIFY_SOURCE=2"]
CODE = ["-std=gnu11", "-O2", "-g0", "-fno-plt", "-ffunction-sections", "-fdata-sections"]
# Without separate code pages the program is three pages smaller and maps with fewer calls.
LINK = ["-Wl,--gc-sections", "-Wl,-z,noseparate-code", "-Wl,-z,relro", "-Wl,-z,noexecstack", "-s"]


def compiler() -> list[str]:
    """CC, else what Python was built with where it is installed, else `cc`."""
    if "CC" in os.environ:
        return shlex.split(os.environ["CC"])
    built_with = shlex.split(sysconfig.get_config_var("CC") or "")
    return built_with if built_with and shutil.which(built_with[0]) else ["cc"]


def flags(name: str) -> list[str]:
    return shlex.split(os.environ.get(name, ""))


def warnings() -> list[str]:
    return [*WARNINGS, *(["-Werror"] if os.environ.get("PYCONTAINER_WERROR") == "1" else [])]


class BuildNative(build_ext):
    """The extension module, then the supervisor beside the package's Python files."""

    def build_extensions(self) -> None:
        for extension in self.extensions:
            extension.extra_compile_args += warnings()
        super().build_extensions()

    def run(self) -> None:
        super().run()
        self._build_supervisor(Path(self._supervisor_path()))

    def get_outputs(self) -> list[str]:
        return [*super().get_outputs(), os.path.join(self.build_lib, "pycontainer", "_supervisor")]

    def get_output_mapping(self) -> dict[str, str]:
        mapping = super().get_output_mapping()
        if self.inplace:
            built = os.path.join(self.build_lib, "pycontainer", "_supervisor")
            mapping[built] = self._supervisor_path()
        return mapping

    def _supervisor_path(self) -> str:
        """In the source tree for editable installs and `--inplace`, in the build tree otherwise."""
        package = "src" if self.inplace else self.build_lib
        return os.path.join(package, "pycontainer", "_supervisor")

    def _build_supervisor(self, target: Path) -> None:
        sources = sorted(path for path in NATIVE.glob("*.c") if path.name not in HOST_ONLY)
        inputs = [*sources, *NATIVE.glob("*.h"), Path(__file__)]
        if not self.force and target.exists() and newest(inputs) <= target.stat().st_mtime:
            return
        linked = Path(self.build_temp, "_supervisor")
        linked.parent.mkdir(parents=True, exist_ok=True)
        command = [*compiler(), *CODE, *warnings(), *HARDENING, *flags("CFLAGS"), f"-I{NATIVE}"]
        self._run(
            [*command, *self._static(), *map(str, sources), "-o", str(linked), *LINK, *flags("LDFLAGS")]
        )
        install_program(linked, target)

    def _static(self) -> list[str]:
        """`-static` where libc.a is there: no loader to wait for, no library that differs inside a root."""
        probe = Path(self.build_temp, "static_probe")
        command = [*compiler(), "-static", "-x", "c", "-", "-o", str(probe)]
        done = subprocess.run(command, input=b"int main(void) { return 0; }", capture_output=True)
        if done.returncode == 0:
            probe.unlink()
            return ["-static"]
        print("warning: no static C library, the supervisor is linked dynamically", file=sys.stderr)
        return []

    @staticmethod
    def _run(command: list[str]) -> None:
        print(shlex.join(command), flush=True)
        done = subprocess.run(command)
        if done.returncode != 0:
            raise SystemExit(f"error: the supervisor could not be compiled (status {done.returncode})")


def newest(paths: list[Path]) -> float:
    return max(path.stat().st_mtime for path in paths)


def install_program(source: Path, target: Path) -> None:
    """Puts it there by rename: a running supervisor keeps its old file (no ETXTBSY)."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{target.name}.{os.getpid()}")
    shutil.copyfile(source, temporary)
    temporary.chmod(0o755)
    temporary.replace(target)


# A free-threaded interpreter has no stable ABI before Python 3.15; cffi then builds for that version alone.
ABI3 = {} if sysconfig.get_config_var("Py_GIL_DISABLED") else {"bdist_wheel": {"py_limited_api": "cp310"}}

setup(
    cffi_modules=["src/_native/build_ffi.py:ffibuilder"],
    cmdclass={"build_ext": BuildNative},
    options=ABI3,
)
