"""Running a piece of Python as an ordinary user while the tests run as root.

The checkout, the environment or the interpreter may lie below a directory that only root may enter
(/root).  Then, in a mount namespace of that one process, such a directory is replaced by an empty one
that has nothing but these below it: the very same files run, at the same paths, and nothing stays
mounted.
"""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import attrs

import pycontainer

NAME = os.environ.get("PYCONTAINER_TEST_USER", "pctest")
"""An account with a range in /etc/subuid and /etc/subgid: `useradd --create-home pctest`."""


_SECONDS_TO_TIDY = 20

PUBLIC = Path(tempfile.gettempdir())
"""Where everyone may go; taken before the tests get a temporary directory of their own."""


def account() -> pwd.struct_passwd | None:
    """The ordinary user of the tests: this process's own when it is not root."""
    if os.getuid() != 0:
        return pwd.getpwuid(os.getuid())
    try:
        return pwd.getpwnam(NAME)
    except KeyError:
        return None


def barrier(path: Path) -> Path | None:
    """The first directory on the way to `path` that not everyone may enter."""
    way = [*reversed(path.parents), path]
    return next((step for step in way if not step.stat().st_mode & stat.S_IXOTH), None)


def places() -> list[Path]:
    """What it takes to run: interpreter, environment, and the package where it is not in there."""
    wanted = {Path(entry).resolve() for entry in (sys.base_prefix, sys.prefix)} | {package_root()}
    return sorted(path for path in wanted if not any(parent in wanted for parent in path.parents))


def package_root() -> Path:
    return Path(next(iter(pycontainer.__path__))).resolve().parent


@attrs.frozen
class OrdinaryUser:
    """Runs Python snippets as `account`; `base` holds home, run (XDG_RUNTIME_DIR) and tmp."""

    account: pwd.struct_passwd
    base: Path

    @classmethod
    def prepare(cls, who: pwd.struct_passwd) -> OrdinaryUser:
        base = Path(tempfile.mkdtemp(prefix="pctest-", dir=PUBLIC))
        base.chmod(0o755)
        for name in ("home", "run", "tmp"):
            (base / name).mkdir(mode=0o700)
            os.chown(base / name, who.pw_uid, who.pw_gid)
        return cls(who, base)

    def remove(self) -> None:
        """Waits for the supervisor of the last script, which may be removing what that left."""
        until = time.monotonic() + _SECONDS_TO_TIDY
        while True:
            try:
                shutil.rmtree(self.base)
                return
            except OSError:
                if time.monotonic() > until:
                    raise
            time.sleep(0.02)

    def __call__(
        self,
        script: str,
        *,
        timeout: float = 60,
        env: dict[str, str] | None = None,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Runs `script` (dedented) under `python -W error`; with `check`, a failure shows its stderr."""
        done = subprocess.run(
            self.command([sys.executable, "-W", "error", "-c", textwrap.dedent(script)]),
            env=self.environment() | (env or {}),
            cwd=self.base / "home",
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if check and done.returncode != 0:
            raise AssertionError(
                f"as {self.account.pw_name}: status {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done

    def environment(self) -> dict[str, str]:
        """Of a fresh login."""
        kept = {name: os.environ[name] for name in ("PYCONTAINER_MUST_WORK", "LANG") if name in os.environ}
        return kept | {
            "HOME": str(self.base / "home"),
            "USER": self.account.pw_name,
            "LOGNAME": self.account.pw_name,
            "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "XDG_RUNTIME_DIR": str(self.base / "run"),
            "TMPDIR": str(self.base / "tmp"),
            "PYTHONPATH": str(package_root()),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYCONTAINER_STORE": str(self.base / "home" / "store"),
        }

    def command(self, argv: list[str]) -> list[str]:
        """The command line that runs `argv` as the user, with everything of `places` in his reach."""
        if os.getuid() == self.account.pw_uid:
            return argv
        ids = [f"--reuid={self.account.pw_uid}", f"--regid={self.account.pw_gid}", "--init-groups"]
        argv = ["setpriv", *ids, *argv]
        hidden = {path: blocked for path in places() if (blocked := barrier(path)) is not None}
        if not hidden:
            return argv
        script = "\n".join(["set -e", *opened(hidden), 'exec "$@"'])
        return ["unshare", "--mount", "sh", "-c", script, "sh", *argv]


def opened(hidden: dict[Path, Path]) -> list[str]:
    """Shell commands that put each path (below its barrier) where it was, with an open way to it."""
    aside = [f"mkdir /mnt/{n}; mount --bind {quote(path)} /mnt/{n}" for n, path in enumerate(hidden)]
    cover = [f"mount -t tmpfs -o mode=755 tmpfs {quote(blocked)}" for blocked in sorted(set(hidden.values()))]
    back = [f"mkdir -p {quote(path)}; mount --move /mnt/{n} {quote(path)}" for n, path in enumerate(hidden)]
    # A tmpfs as scratch space, since nothing may be written to the host's own directories.
    return ["umask 022", "mount -t tmpfs tmpfs /mnt", *aside, *cover, *back, "umount /mnt"]


def quote(path: Path) -> str:
    return shlex.quote(str(path))
