"""The source archive and the wheel: what is in them, and that they install on every Python we promise."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

import elf
from conftest import need

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
VERSIONS = ("3.10", "3.11", "3.12", "3.13")
MACHINE = sysconfig.get_platform().replace("-", "_").replace(".", "_")


def run(*command: str | Path, cwd: Path | None = None, **env: str) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        env=clean_environment() | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}"
    return done.stdout


def clean_environment() -> dict[str, str]:
    dropped = {"PYTHONPATH", "CFLAGS", "LDFLAGS", "CC", "VIRTUAL_ENV", "PYTHONHOME"}
    return {name: value for name, value in os.environ.items() if name not in dropped}


def source_files() -> list[Path]:
    """The project's files: those that git knows, or would after `git add`."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    names = [os.fsdecode(name) for name in listing.stdout.split(b"\0") if name]
    return [Path(name) for name in names if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean copy, so that neither old build products help nor new ones stay."""
    need((ROOT / ".git").exists() and shutil.which("git") is not None, "git and a checkout of the project")
    copy = tmp_path_factory.mktemp("checkout")
    for name in source_files():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def archives(checkout: Path) -> dict[str, Path]:
    """`python -m build`: the source archive, and the wheel made from that archive."""
    run(sys.executable, "-m", "build", "--outdir", "dist", ".", cwd=checkout)
    found = {path.suffix: path for path in (checkout / "dist").iterdir()}
    assert set(found) == {".gz", ".whl"}
    return {"sdist": found[".gz"], "wheel": found[".whl"]}


def python_of(version: str) -> Path | None:
    """An interpreter of that version that runs: on PATH, or one of pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    named = shutil.which(f"python{version}")
    candidates = [*([Path(named)] if named else []), *sorted(pyenv.glob(f"{version}.*/bin/python{version}"))]
    for candidate in candidates:
        probe = subprocess.run([candidate, "-c", "import venv, ensurepip"], capture_output=True)
        if probe.returncode == 0:
            return candidate
    return None


def test_wheel_is_for_every_python_from_3_10(archives: dict[str, Path]) -> None:
    version = re.search(r'__version__ = "(.+)"', (ROOT / "src/pycontainer/_version.py").read_text())
    assert version is not None
    assert archives["wheel"].name == f"pycontainer_oci-{version[1]}-cp310-abi3-{MACHINE}.whl"


def test_wheel_holds_the_package_and_nothing_else(archives: dict[str, Path]) -> None:
    with zipfile.ZipFile(archives["wheel"]) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    package = {
        str(path.relative_to("src"))
        for path in source_files()
        if path.is_relative_to("src/pycontainer") and path.suffix in {".py", ".pyi", ".typed"}
    }
    assert names == package | {
        "pycontainer/_native.abi3.so",
        "pycontainer/_supervisor",
        "pycontainer/py.typed",
    }


def test_wheel_metadata(archives: dict[str, Path]) -> None:
    with zipfile.ZipFile(archives["wheel"]) as wheel:
        names = {Path(name).name: name for name in wheel.namelist() if ".dist-info/" in name}
        metadata = wheel.read(names["METADATA"]).decode()
        assert "LICENSE" in names
    assert "License-Expression: Apache-2.0\n" in metadata
    assert "Requires-Python: >=3.10\n" in metadata
    required = set(re.findall(r"^Requires-Dist: ([\w-]+)(?!.*extra ==)", metadata, re.MULTILINE))
    assert required == {"attrs", "cffi", "isal", "requests", "rich", "tomli", "urllib3", "zstandard"}


def test_supervisor_in_the_wheel_is_a_static_program(archives: dict[str, Path], tmp_path: Path) -> None:
    with zipfile.ZipFile(archives["wheel"]) as wheel:
        info = wheel.getinfo("pycontainer/_supervisor")
        assert info.external_attr >> 16 & 0o777 == 0o755
        program = Path(wheel.extract(info, tmp_path))
    assert elf.is_static(program)


def test_sdist_holds_what_a_build_and_the_tests_need(archives: dict[str, Path]) -> None:
    with tarfile.open(archives["sdist"]) as sdist:
        members = sdist.getmembers()
    names = {member.name.partition("/")[2] for member in members if member.isfile()}
    modes = {member.name.partition("/")[2]: member.mode for member in members}
    wanted = {str(path) for path in source_files() if path.parts[0] in {"src", "tests", "scripts"}}
    wanted |= {"pyproject.toml", "setup.py", "README.md", "LICENSE", "CHANGELOG.md"}
    assert wanted - names == set()
    assert modes["scripts/test"] & 0o111
    built = {name for name in names if re.search(r"\.so$|\.o$|\.pyc$|/_supervisor$", name)}
    assert built == set()


@pytest.mark.parametrize("version", VERSIONS)
def test_wheel_installs_and_runs(version: str, archives: dict[str, Path], tmp_path: Path) -> None:
    """One wheel for every version: the stable ABI is what it says."""
    python = python_of(version)
    need(python is not None, f"Python {version} with venv")
    assert python is not None
    installed = install(python, tmp_path, str(archives["wheel"]))
    assert (
        installed
        == tmp_path.resolve() / "venv" / "lib" / f"python{version}" / "site-packages" / "pycontainer"
    )
    assert os.access(installed / "_supervisor", os.X_OK)


def test_sdist_installs(archives: dict[str, Path], tmp_path: Path) -> None:
    """`pip install` of the archive: cffi and the compiler run on the user's machine."""
    installed = install(Path(sys.executable), tmp_path, str(archives["sdist"]))
    assert elf.is_static(installed / "_supervisor")


def test_editable_install_builds_beside_the_sources(checkout: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(checkout, copy, ignore=shutil.ignore_patterns("build", "dist", "*.egg-info"))
    installed = install(Path(sys.executable), tmp_path, "--editable", str(copy))
    assert installed == copy / "src" / "pycontainer"
    assert elf.is_static(installed / "_supervisor")
    assert [path.name for path in installed.glob("_native*")] == ["_native.abi3.so"]


def install(python: Path, where: Path, *what: str) -> Path:
    """Installs into a fresh environment, imports every public name, and says where the package lies."""
    run(python, "-m", "venv", where / "venv")
    fresh = where / "venv" / "bin" / "python"
    run(fresh, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *what)
    code = (
        "import pycontainer, pycontainer._native as n; n.ffi.sizeof('struct pctr_record'); "
        "[getattr(pycontainer, name) for name in pycontainer.__all__]; print(pycontainer.__path__[0])"
    )
    return Path(run(fresh, "-W", "error", "-c", code, cwd=where).strip().splitlines()[-1])
