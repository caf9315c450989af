"""The tests' own tools can fail: a check that cannot is worth nothing."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import conftest
import leaks
import ordinary_user
from conftest import need, unchanged

DISTURBED = ("cgroups", "keys", "files")
"""Kinds that another program on the same machine may change during these few milliseconds."""


def leak_descriptor() -> Callable[[], None]:
    fd = os.open("/", os.O_PATH)
    return lambda: os.close(fd)


def leak_thread() -> Callable[[], None]:
    end = threading.Event()
    thread = threading.Thread(target=end.wait, name="left-behind")
    thread.start()

    def stop() -> None:
        end.set()
        thread.join()

    return stop


def leak_child() -> Callable[[], None]:
    child = subprocess.Popen(["sleep", "60"])

    def stop() -> None:
        child.kill()
        child.wait()

    return stop


def leak_zombie() -> Callable[[], None]:
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    return lambda: child.wait() and None


def leak_file() -> Callable[[], None]:
    handle, name = tempfile.mkstemp(prefix="left-behind-")
    os.close(handle)
    return lambda: os.unlink(name)


def leak_store_entry() -> Callable[[], None]:
    path = Path(os.environ["PYCONTAINER_STORE"]) / "containers" / "somebody" / "left-behind"
    path.mkdir(parents=True)
    return path.rmdir


@pytest.mark.parametrize(
    ("leak", "said"),
    [
        (leak_descriptor, "+ descriptors"),
        (leak_thread, "+ threads: left-behind"),
        (leak_child, "sleep"),
        (leak_zombie, "true zombie"),
        (leak_file, "left-behind-"),
        (leak_store_entry, "containers/somebody/left-behind"),
    ],
)
def test_unchanged_sees(leak: Callable[[], Callable[[], None]], said: str) -> None:
    mend: Callable[[], None] | None = None
    try:
        with pytest.raises(AssertionError, match="not as before") as caught, unchanged(settle=0.05):
            mend = leak()
        assert said in str(caught.value)
    finally:
        if mend is not None:
            mend()


def test_unchanged_sees_what_went() -> None:
    before = {"files": leaks.Counter(["a", "b"])}
    assert leaks.difference(before, {"files": leaks.Counter(["b", "c"])}) == ["  + files: c", "  - files: a"]


def test_unchanged_waits_for_late_ends() -> None:
    with unchanged(settle=5, ignore=DISTURBED):
        thread = threading.Thread(target=threading.Event().wait, args=(0.1,))
        thread.start()
    thread.join()


def test_unchanged_says_nothing_about_nothing() -> None:
    with unchanged(ignore=DISTURBED):
        subprocess.run(["true"], check=True)


def test_need_skips_or_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    need(True, "anything")
    monkeypatch.setattr(conftest, "MUST_WORK", False)
    with pytest.raises(pytest.skip.Exception, match="lacks wings"):
        need(False, "wings")
    monkeypatch.setattr(conftest, "MUST_WORK", True)
    with pytest.raises(pytest.fail.Exception, match="must have wings"):
        need(False, "wings")


@pytest.mark.rootless
def test_as_user_is_another_user_with_the_same_package(as_user: ordinary_user.OrdinaryUser) -> None:
    done = as_user(
        """
        import json, os, pathlib, sys
        import attrs, cffi, pycontainer, pycontainer.errors
        home = pathlib.Path.home()
        (home / "file").write_text("mine")
        status = pathlib.Path("/proc/self/status").read_text().split()
        print(json.dumps({
            "uid": os.getuid(), "groups": os.getgroups(), "home": str(home),
            "version": sys.version_info[:2], "caps": status[status.index("CapEff:") + 1],
            "writable": [os.access(os.environ[name], os.W_OK) for name in ("XDG_RUNTIME_DIR", "TMPDIR")],
        }))
        """
    )
    seen = json.loads(done.stdout)
    assert seen["uid"] == as_user.account.pw_uid != 0
    assert 0 not in seen["groups"]
    assert seen["home"] == str(as_user.base / "home")
    assert int(seen["caps"], 16) == 0
    assert seen["writable"] == [True, True]
    assert (as_user.base / "home" / "file").stat().st_uid == as_user.account.pw_uid


@pytest.mark.rootless
def test_as_user_leaves_no_mount(as_user: ordinary_user.OrdinaryUser) -> None:
    with unchanged(ignore=DISTURBED):
        as_user("pass")


@pytest.mark.rootless
def test_as_user_shows_what_failed(as_user: ordinary_user.OrdinaryUser) -> None:
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        as_user("1 / 0")
    assert as_user("raise SystemExit(3)", check=False).returncode == 3
