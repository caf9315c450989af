"""Starting a keeper: a fresh interpreter, nobody's child, in no one's session."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from pycontainer.blobs.failures import store_errors
from pycontainer.blobs.locks import Lock
from pycontainer.errors import CapabilityUnavailable, SupervisorError
from pycontainer.keeping import control

LOG = "keeper.log"

_BEGIN_SECONDS = 60.0
"""How long a keeper may take to begin, on a machine that is busy."""

# The first process ends at once, so that the keeper is nobody's child.
_PROGRAM = """\
import os, sys
if os.fork():
    os._exit(0)
os.setsid()
sys.path[:0] = [sys.argv[1]]
sys.path += [path for path in sys.argv[2].split(os.pathsep) if path and path not in sys.path]
from pycontainer.keeping.keeper import main
main(sys.argv[3], sys.argv[4], int(sys.argv[5]), int(sys.argv[6]))
"""

_KEPT = (
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "TMPDIR",
    "TZ",
    "XDG_RUNTIME_DIR",
    "LD_LIBRARY_PATH",
)
"""Of this process's environment: the rest may be secret, and a keeper's is there for long."""


def environ() -> dict[str, str]:
    """What a container's keepers have as their environment, those too that other processes begin later."""
    return {name: value for name, value in os.environ.items() if name in _KEPT or name.startswith("LC_")}


def begin(store: str, container: str, directory: str, held: Lock, env: dict[str, str]) -> socket.socket:
    """Starts the keeper of the container in `directory`; gives the first connection to it.

    `held` is the lock that says that it lives; the keeper takes it over. Raises CapabilityUnavailable,
    StoreError, SupervisorError where it dies, and what making the container raises.
    """
    with held:
        link = _spawn(store, container, directory, held.fd, env)
        # Closed, not unlocked: that would reach the keeper's copy.
        os.close(held.detach())
    try:
        control.ask(link, "status", {}, control.deadline_in(_BEGIN_SECONDS))
    except SupervisorError as error:
        if link.fileno() >= 0:
            raise
        raise SupervisorError(
            "starting a keeper, which ended at once", hint=_last_words(directory)
        ) from error
    except TimeoutError as error:
        raise SupervisorError("starting a keeper", errno=error.errno) from error
    except BaseException:
        link.close()
        raise
    return link


def _last_words(directory: str) -> str | None:
    """What a keeper said last that died of an error."""
    try:
        lines = Path(directory, LOG).read_text(errors="replace").split("\n")
    except FileNotFoundError:
        return None
    return next((line for line in reversed(lines) if line), None)


def _spawn(store: str, container: str, directory: str, held: int, env: dict[str, str]) -> socket.socket:
    if not sys.executable:
        raise CapabilityUnavailable(
            "persist=True: this program does not know its Python interpreter (sys.executable)"
        )
    package = str(Path(__file__).resolve().parents[2])
    others = os.pathsep.join(path for path in sys.path if os.path.isabs(path) and path != package)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs, store_errors("starting a keeper in", directory):
        try:
            log = os.open(
                os.path.join(directory, LOG), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600
            )
            with open(log, "wb", buffering=0) as errors:
                child = subprocess.Popen(
                    [
                        *(sys.executable, "-I", "-c", _PROGRAM, package, others),
                        *(store, container, str(held), str(theirs.fileno())),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    cwd="/",
                    env=env,
                    pass_fds=(held, theirs.fileno()),
                )
            child.wait()
        except BaseException:
            ours.close()
            raise
    return ours


def ready_for_signals() -> None:
    """In the keeper: what the process that began it had blocked or ignored."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
