"""The oracle of leak tests: what this process and its host hold, before and after.

    with unchanged():
        for _ in range(1000):
            pc.run("host", ["true"])

Warm up first (one run before the block), so that the supervisor and caches are there already.
"""

from __future__ import annotations

import contextlib
import gc
import os
import re
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from host_process import children, name
from pycontainer import SupervisorError, session

READY = "pycontainer-rdy"
"""What a container is called that has no program yet."""

Held = dict[str, Counter[str]]
"""What is held, by kind; each thing as one line of text that a person can act upon."""

CGROUPS = Path("/sys/fs/cgroup")
SPARE = re.compile(r"spare-[0-9]+")
"""What a container's directory is called that nobody has at present."""
STAGING = re.compile(r"tmp|temp|stag|partial|\.lock$", re.IGNORECASE)


@contextlib.contextmanager
def unchanged(
    *, settle: float = 5.0, ignore: tuple[str, ...] = (), store: Path | None = None
) -> Iterator[None]:
    """Fails when mounts, control groups, processes, descriptors, threads, files or keys were left behind
    or taken away.

    The kernel takes some things down late, so up to `settle` seconds may pass until all is as before.
    `ignore` names kinds (keys of what `held` gives) that other programs on a shared machine disturb;
    `store` is the store's directory, $PYCONTAINER_STORE where it is not given.
    """
    # What earlier tests left to the collector would go meanwhile.
    gc.collect()
    at_rest()
    before = held(store)
    yield
    at_rest()
    deadline = time.monotonic() + settle
    while (found := difference(before, held(store), ignore)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not found, "not as before (+ left behind, - gone):\n" + "\n".join(found)


def at_rest() -> None:
    """Removes what this process's supervisor has set up in advance, or is about to, and waits until it is
    gone; the next run counts as the first of its kind."""
    here = session._current
    if here is None or here.closed:
        return
    with here.advance._lock:
        ready, here.advance._last = here.advance._ready, None
    if ready is None:
        return
    with contextlib.suppress(SupervisorError):
        # Takes the place of what was asked for before, and is itself nothing that can be set up.
        here.supervisor.make_ready(here.supervisor.reserve(), b"?", b"", flags=0)
        while here.supervisor.has(ready.job) or READY in map(name, children(here.supervisor.pid)):
            time.sleep(0.002)


def difference(before: Held, after: Held, ignore: tuple[str, ...] = ()) -> list[str]:
    """One line per thing that appeared or went."""
    lines = []
    for kind in before:
        if kind in ignore:
            continue
        gone = before[kind] - after[kind]
        if kind == "processes":
            # What somebody else had left has ended meanwhile.
            gone = Counter({thing: count for thing, count in gone.items() if not thing.startswith("orphan ")})
        if kind == "keys":
            # The kernel gives up a keyring some time after the last process that had it.  keyrings(7)
            gone = Counter()
        for sign, changed in (("+", after[kind] - before[kind]), ("-", gone)):
            lines += [
                f"  {sign} {kind}: {thing}" + (f"  x{n}" if n > 1 else "") for thing, n in changed.items()
            ]
    return lines


def held(store: Path | None = None) -> Held:
    """Everything that a container could leave behind, as it is now."""
    if store is None and "PYCONTAINER_STORE" in os.environ:
        store = Path(os.environ["PYCONTAINER_STORE"])
    return {
        "mounts": mounts(),
        "cgroups": cgroups(),
        "processes": processes(),
        "descriptors": descriptors(),
        "threads": threads(),
        "files": temporary_files(store),
        "keys": keys(),
    }


def mounts() -> Counter[str]:
    """Mount points with type and source; the mounts' numbers say nothing."""
    found: Counter[str] = Counter()
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split()
        found[f"{fields[4]} ({right}) {fields[3]} {fields[5]}"] += 1
    return found


def cgroups() -> Counter[str]:
    """Control group directories of every hierarchy that is mounted."""
    return Counter(directory for directory, _, _ in os.walk(CGROUPS))


def processes() -> Counter[str]:
    """Descendants of this process, zombies too, and orphans that live in another mount namespace.

    An orphan (its parent is PID 1) in a mount namespace that is not ours is what a container leaves
    when nobody killed it.
    """
    table: dict[int, tuple[int, str]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (status := _stat(entry)) is not None:
            table[int(entry.name)] = status
    ours = _mount_namespace(Path("/proc/self"))
    found: Counter[str] = Counter()
    for pid, (parent, text) in table.items():
        if _descends(pid, table):
            found[f"{pid} {text}"] += 1
        elif parent == 1 and ours and _mount_namespace(Path(f"/proc/{pid}")) not in (ours, None):
            found[f"orphan {pid} {text}"] += 1
    return found


def _stat(entry: Path) -> tuple[int, str] | None:
    """Parent, and name with a zombie's mark; None when it has just gone.  proc_pid_stat(5)"""
    try:
        text = (entry / "stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    name, _, rest = text.partition("(")[2].rpartition(")")
    state, parent = rest.split()[:2]
    return int(parent), f"{name}{' zombie' if state == 'Z' else ''}"


def _descends(pid: int, table: dict[int, tuple[int, str]]) -> bool:
    me = os.getpid()
    while pid in table:
        pid = table[pid][0]
        if pid == me:
            return True
    return False


def _mount_namespace(entry: Path) -> str | None:
    """None when it may not be read or the process is gone."""
    try:
        return os.readlink(entry / "ns/mnt")
    except OSError:
        return None


def descriptors() -> Counter[str]:
    """Open files of this process, by number; sockets and pipes without their inode numbers."""
    found: Counter[str] = Counter()
    listing = os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY)
    try:
        for name in os.listdir(listing):
            if int(name) != listing:
                with contextlib.suppress(FileNotFoundError):
                    target = os.readlink(name, dir_fd=listing)
                    found[f"{name} -> {re.sub(r'[0-9]+(?=]$)', '*', target)}"] += 1
    finally:
        os.close(listing)
    return found


def threads() -> Counter[str]:
    """Python's threads by name, and how many the kernel knows (native ones included)."""
    return Counter(thread.name for thread in threading.enumerate()) + Counter(
        {"kernel tasks": len(os.listdir("/proc/self/task"))}
    )


def temporary_files(store: Path | None) -> Counter[str]:
    """The temporary directory's entries, shared memory files, and what is unfinished in the store."""
    found = Counter(entry.path for entry in os.scandir(tempfile.gettempdir()))
    found += Counter(entry.path for entry in os.scandir("/dev/shm"))
    if store is not None and store.is_dir():
        for directory, names, files in os.walk(store):
            deep = Path(directory) != store
            for name in [*names, *files]:
                of_container = Path(directory).parent == store / "containers" and not SPARE.fullmatch(name)
                if STAGING.search(name) or of_container:
                    found[os.path.join(directory, name)] += 1
            if deep and Path(directory) != store / "containers":
                # Below one level lie unpacked layers, which are large and finished.
                names[:] = [name for name in names if STAGING.search(name)]
    return found


def keys() -> Counter[str]:
    """How many keys this user holds: a container's session keyring is one.  keyrings(7)"""
    try:
        lines = Path("/proc/key-users").read_text().splitlines()
    except OSError:
        return Counter()
    counts = {fields[0].rstrip(":"): fields[2].split("/")[0] for fields in map(str.split, lines)}
    return Counter({"keys of this user": int(counts.get(str(os.getuid()), "0"))})
