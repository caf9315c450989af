"""Each failure whose cause is known comes with a remedy that a person can follow."""

from __future__ import annotations

import errno
import itertools
from pathlib import Path

import pytest

from pycontainer.runtime import hints
from pycontainer.runtime.hints import HINTS, Hint, hint_for


@pytest.fixture
def sysctls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A /proc/sys that a test may write."""
    monkeypatch.setattr(hints, "PROC_SYS", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("row", HINTS, ids=lambda row: f"{row.stages[0]}-{errno.errorcode[row.errors[0]]}")
def test_each_row_is_reached_and_gives_a_sentence(row: Hint, sysctls: Path) -> None:
    if row.sysctl:
        path = sysctls / row.sysctl[0]
        path.parent.mkdir(parents=True)
        path.write_text(row.sysctl[1] + "\n")
    stages = [stage.replace("*", "") or "elsewhere" for stage in row.stages]
    rootless = [True, False] if row.rootless is None else [row.rootless]
    texts = {
        hint_for(stage, number, "/the/path", rootless=kind)
        for stage, number, kind in itertools.product(stages, row.errors, rootless)
    }
    text = row.text.replace("{path}", "/the/path")
    assert text in texts, "an earlier row hides this one"
    assert len(text) >= 20
    assert "  " not in text
    assert text[0].islower() or text.startswith(("AppArmor", "/the/path"))
    assert not text.endswith(".")


def test_every_stage_is_one_that_failures_name() -> None:
    failure = pytest.importorskip("pycontainer.supervisor.failure", exc_type=ImportError)
    known = set(failure._WORDS.values())
    for row in HINTS:
        for stage in row.stages:
            if not stage.endswith("*") and not stage.startswith("mounting "):
                assert stage in known


@pytest.mark.parametrize(
    ("stage", "number", "rootless", "words"),
    [
        ("creating process", errno.EAGAIN, False, "pids.max"),
        ("creating namespaces", errno.ENOSPC, True, "user.max_*_namespaces"),
        ("creating process", errno.EPERM, False, "CAP_SYS_ADMIN"),
        ("mounting overlay", errno.EPERM, True, "5.11"),
        ("mounting overlay", errno.EINVAL, False, "PYCONTAINER_STORE"),
        ("mounting overlay", errno.ENOSPC, False, "fs.mount-max"),
        ("mounting proc", errno.EPERM, True, "systempaths=unconfined"),
        ("mounting sysfs", errno.EPERM, True, 'network="host"'),
        ("joining session keyring", errno.EDQUOT, False, "kernel.keys.maxkeys"),
        ("creating control group", errno.EACCES, True, "Delegate=yes"),
        ("bind mounting", errno.ENOENT, False, "/p does not exist"),
        ("changing directory", errno.ENOENT, False, "no directory /p"),
        ("executing", errno.ENOENT, False, "no program /p"),
        ("executing", errno.EACCES, True, "chmod +x"),
        ("executing", errno.ENOEXEC, True, "another processor"),
        ("setting user and groups", errno.EINVAL, True, "/etc/subuid"),
        ("anything", errno.EMFILE, False, "ulimit -n"),
    ],
)
def test_known_causes(sysctls: Path, stage: str, number: int, rootless: bool, words: str) -> None:
    assert words in (hint_for(stage, number, "/p", rootless=rootless) or "")


def test_a_sysctl_decides_between_causes(sysctls: Path) -> None:
    general = hint_for("creating process", errno.EPERM, None, rootless=True)
    (sysctls / "kernel").mkdir()
    (sysctls / "kernel/apparmor_restrict_unprivileged_userns").write_text("1\n")
    apparmor = hint_for("creating process", errno.EPERM, None, rootless=True)
    (sysctls / "kernel/unprivileged_userns_clone").write_text("0\n")
    switched_off = hint_for("creating process", errno.EPERM, None, rootless=True)
    assert "AppArmor" in (apparmor or "")
    assert "unprivileged_userns_clone=1" in (switched_off or "")
    assert len({general, apparmor, switched_off}) == 3
    assert hint_for("creating process", errno.EPERM, None, rootless=False) not in (apparmor, switched_off)


def test_an_unknown_cause_gets_no_guess() -> None:
    assert hint_for("executing", errno.EXDEV, "/p", rootless=False) is None
    assert hint_for("setting hostname", errno.EPERM, None, rootless=False) is None


def test_a_missing_path_leaves_a_sentence() -> None:
    assert "{path}" not in (hint_for("executing", errno.ENOENT, None, rootless=False) or "{path}")
