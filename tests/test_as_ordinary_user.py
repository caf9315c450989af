"""The tests of the public interface once more, as an ordinary user, each file in a pytest of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from containers import as_root
from ordinary_user import OrdinaryUser

HERE = Path(__file__).resolve().parent

FILES = (
    "test_persist.py",
    "test_persist_network.py",
    "test_run.py",
    "test_advance.py",
    "test_network_pool.py",
    "test_spares.py",
    "test_exec.py",
    "test_process.py",
    "test_streams.py",
    "test_terminal.py",
    "test_container_life.py",
    "test_limits.py",
    "test_files_in_container.py",
    "test_paths.py",
    "test_copy_files.py",
    "test_served.py",
    "test_images_run.py",
    "test_lifecycle.py",
    "test_volumes.py",
    "test_diff.py",
    "test_commit.py",
    "test_templates.py",
    "test_export.py",
    "test_changeset.py",
    "test_isolation_options.py",
    "test_wait.py",
    "test_health.py",
    "test_connect.py",
    "test_impair.py",
    "test_listen.py",
    "test_own_files.py",
    "test_networks.py",
    "test_network_proof.py",
    "test_networks_host.py",
    "test_adapters.py",
    "test_logs.py",
    "test_attach.py",
    "test_stats.py",
    "test_events.py",
    "test_forwarder.py",
    "test_resolver.py",
    "test_resolver_upstream.py",
    "test_resolver_containers.py",
)


@pytest.fixture(scope="module")
def checkout(ordinary: OrdinaryUser | None, tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """A copy of the tests where the user can read it."""
    if ordinary is None:
        return None
    copy = ordinary.base / "checkout"
    shutil.copytree(HERE, copy / "tests", ignore=shutil.ignore_patterns("__pycache__", "native"))
    shutil.copy(HERE.parent / "pyproject.toml", copy)
    return copy


@as_root
@pytest.mark.rootless
@pytest.mark.parametrize("file", FILES)
def test_passes_as_an_ordinary_user(as_user: OrdinaryUser, checkout: Path, file: str) -> None:
    arguments = ["-q", "--no-header", "-p", "no:cacheprovider", "--tb=short", f"tests/{file}"]
    done = subprocess.run(
        as_user.command([sys.executable, "-m", "pytest", *arguments]),
        env=as_user.environment(),
        cwd=checkout,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    if done.returncode != 0:
        pytest.fail(f"as {as_user.account.pw_name}:\n{done.stdout}{done.stderr}", pytrace=False)
