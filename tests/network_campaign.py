"""The host of test_campaign_network.py: verbs of networks, each tried in a child that something befalls at
the n-th line that it runs of the code for networks.

Runs as the first process of namespaces of its own (process numbers, links, mounts), so that all that is left
in there was left by a child. Reads "mode step point" lines; answers with words and numbers.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import importlib
import json
import linecache
import os
import pkgutil
import random
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import host_process
import pycontainer as pc
from pycontainer import naming, networks, publishing, session, wiring
from pycontainer import network as network_parts
from pycontainer.supervisor import client

# All that is imported when it is needed, too: an import is no step of the verbs'.
_OF_NETWORKS = [
    importlib.import_module(f"{network_parts.__name__}.{part.name}")
    for part in pkgutil.iter_modules(network_parts.__path__)
]
TRACED = {part.__file__ for part in [*_OF_NETWORKS, client, naming, networks, publishing, wiring]}
SLEEP = ["sleep", "1000"]
STORE = Path(os.environ.get("PYCONTAINER_STORE", "/nonexistent"))
Subject = Any


def network(*, internal: bool = True) -> pc.Network:
    return pc.Network.create("net", internal=internal)


def idle(**options: Any) -> pc.Container:
    return pc.start("host", SLEEP, stop_timeout=0, **options)


def lone() -> Subject:
    return network(), [idle(name="a")]


def pair() -> Subject:
    made = network()
    return made, [idle(network=made, name=name) for name in ("a", "b")]


def parted() -> Subject:
    made, containers = pair()
    made.disconnect(containers[0])
    return made, containers


def impaired() -> Subject:
    made, containers = pair()
    made.impair(delay=0.001)
    return made, containers


def published() -> Subject:
    made = network()
    return made, [idle(network=made, name="a", ports=[80, "53/udp"])]


def publish(subject: Subject) -> Subject:
    made, containers = subject
    containers.append(idle(network=made, name="b", ports=[80, "53/udp"]))
    return subject


def on(subject: Subject, verb: Callable[[Any, Any], object]) -> Subject:
    verb(subject[0], subject[1][0])
    return subject


def removed(subject: Subject) -> Subject:
    subject[0].remove(force=True)
    return subject


# What comes before the step, and the step.
STEPS: dict[str, tuple[Callable[[], Subject], Callable[[Subject], Subject]]] = {
    "create": (lambda: None, lambda _: (network(), [])),
    "create with a way out": (lambda: None, lambda _: (network(internal=False), [])),
    "start": (lambda: (network(), []), publish),
    "stop": (published, lambda subject: on(subject, lambda _, container: container.stop(0))),
    "connect": (lone, lambda subject: on(subject, lambda net, container: net.connect(container))),
    "connect again": (parted, lambda subject: on(subject, lambda net, container: net.connect(container))),
    "disconnect": (pair, lambda subject: on(subject, lambda net, container: net.disconnect(container))),
    "impair": (pair, lambda subject: on(subject, lambda net, _: net.impair(delay=0.001))),
    "heal": (impaired, lambda subject: on(subject, lambda net, _: net.impair())),
    "remove": (impaired, removed),
}


def check(subject: Subject) -> None:
    """What networks and containers say is true, and those on a network reach each other."""
    net, containers = subject
    there = net in pc.Network.list()
    for one in containers:
        listed = there and one in net.containers
        assert listed == (net.name in one.addresses), (one.name, listed, one.addresses)
        if one.status == "running":
            look(one, net if listed else None)
            for port in one.ports.values():
                assert port.host == "127.0.0.1"
    for one in containers:
        if one.status == "running" and "80/tcp" in one.ports:
            with one.listen(80) as listener, socket.create_connection(one.ports[80], timeout=5):
                listener.settimeout(5)
                listener.accept()[0].close()


def look(container: pc.Container, net: pc.Network | None) -> None:
    """Its links and names, as seen from inside."""
    deadline = time.monotonic() + 5
    while True:
        done = container.exec(["cat", "/proc/net/dev", "/etc/hosts"], capture_output=True, text=True)
        have = [line for line in done.stdout.splitlines() if line.lstrip().startswith("eth")]
        # Links of a network that was removed go a moment later.
        if len(have) == (0 if net is None else 1) or time.monotonic() > deadline:
            break
        time.sleep(0.02)
    assert len(have) == (0 if net is None else 1), have
    if net is None:
        return
    for other in net.containers:
        wanted = f"{other.ip_address}\t{other.name} "
        assert wanted in done.stdout, (wanted, done.stdout)
    others = [one.ip_address for one in net.containers if one is not container]
    if others:
        # A refusal is an answer, too: the way there and back is open.
        script = f"exec 3<>/dev/tcp/{others[0]}/9"
        done = container.exec(["bash", "-c", script], capture_output=True, text=True, timeout=10)
        assert "refused" in done.stderr, (done, done.stderr)


def end(subject: Subject) -> None:
    for one in pc.Container.list(all=True):
        one.remove(force=True)
    for made in pc.Network.list():
        made.remove(force=True)


class Trap:
    """Does something at the n-th line that is traced."""

    def __init__(self, point: int, action: Callable[[FrameType], None]) -> None:
        self.passed = 0
        self._point = point
        self._action = action

    def __enter__(self) -> Trap:
        sys.settrace(self._call)
        return self

    def __exit__(self, *error: object) -> None:
        sys.settrace(None)

    def _call(self, frame: FrameType, event: str, argument: object) -> Any:
        return self._line if frame.f_code.co_filename in TRACED else None

    def _line(self, frame: FrameType, event: str, argument: object) -> Any:
        if event == "line" and not _unlike_a_signal(frame):
            self.passed += 1
            if self.passed - 1 == self._point:
                say("at", f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}")
                self._action(frame)
        return self._line


def _unlike_a_signal(frame: FrameType) -> bool:
    """Where what a tracer raises does what no signal's handler can: the line that enters a block is that of
    leaving it, too, and the word `try` itself is no place where signals are looked for; a finalizer's
    exceptions go nowhere."""
    code = linecache.getline(frame.f_code.co_filename, frame.f_lineno).lstrip()
    if code.startswith(("with ", "try:")):
        return True
    above: FrameType | None = frame
    while above is not None and above.f_code.co_name != "__del__":
        above = above.f_back
    return above is not None


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def die(_: FrameType) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def run(step: str, point: int) -> None:
    """SIGKILL at the point, or after so many microseconds where it is negative."""
    before, verb = STEPS[step]
    session.current()
    subject = before()
    trap = Trap(point, die)
    began = time.monotonic()
    if point < 0:
        signal.setitimer(signal.ITIMER_REAL, -point / 1e6)
    else:
        trap.__enter__()
    subject = verb(subject)
    signal.setitimer(signal.ITIMER_REAL, 0)
    trap.__exit__()
    say("passed", trap.passed, int((time.monotonic() - began) * 1e6))
    check(subject)


def bereft(step: str, point: int) -> None:
    """SIGKILL of the supervisor: a typed error in time, or none at all; then all works in this process."""
    before, verb = STEPS[step]
    subject = before()
    struck: list[float] = []

    def strike(_: FrameType | None = None) -> None:
        struck.append(time.monotonic())
        os.kill(supervisor, signal.SIGKILL)

    supervisor = session.current().supervisor.pid
    try:
        if point < 0:
            timer = threading.Timer(-point / 1e6, strike)
            timer.start()
            verb(subject)
            timer.join()
        else:
            with Trap(point, strike):
                verb(subject)
    except pc.PycontainerError as error:
        say("typed", type(error).__name__)
    if struck:
        took = time.monotonic() - struck[-1]
        say("took", int(took * 1e6))
        assert took < 2, took
    host_process.eventually(lambda: host_process.started(supervisor) is None or not struck, 2, "its end")
    if point < 0:
        timer.join()
    # Where nobody has noticed yet, the next one who needs it does.
    with contextlib.suppress(pc.SupervisorError):
        pc.run("host", ["true"])
    afterwards(step, subject)


def interrupted(step: str, point: int) -> None:
    """Ctrl-C: the verb is done or undone, and can be done or undone."""
    before, verb = STEPS[step]
    # What a process has once.
    pc.run("host", ["true"])
    pc.start("host", SLEEP).remove(force=True)
    opened = descriptors()
    subject = before()
    sent: list[float] = []

    def strike(_: FrameType) -> None:
        raise KeyboardInterrupt

    def later() -> None:
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        if point < 0:
            timer = threading.Timer(-point / 1e6, later)
            timer.start()
            verb(subject)
            timer.join()
            time.sleep(1)
        else:
            with Trap(point, strike):
                verb(subject)
    except KeyboardInterrupt:
        if sent:
            say("interrupted", int((time.monotonic() - sent[0]) * 1e6))
    if subject is not None:
        subject[1][:] = pc.Container.list(all=True)
        if step == "stop":
            # It may be about to end.
            subject[1][0].stop(0)
        check(subject)
    afterwards(step, subject)
    gc.collect()
    extra = descriptors() - opened
    if extra > 0:
        say("descriptors", extra)


def afterwards(step: str, subject: Subject) -> None:
    """All of that is given up, and the step succeeds."""
    end(subject)
    assert pc.Network.list() == [] and pc.Container.list(all=True) == []
    before, verb = STEPS[step]
    again = verb(before())
    check(again)
    end(again)


def passing(step: str, point: int) -> None:
    before, verb = STEPS[step]
    check(verb(before()))


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def crowd(_: str, milliseconds: int) -> None:
    """Eight processes make and remove networks and what is on them; again and again one of them is killed."""
    until = time.monotonic() + milliseconds / 1000
    chance = random.Random()
    working = [worker(until) for _ in range(WORKERS)]
    killed = 0
    while time.monotonic() < until:
        time.sleep(chance.uniform(0.02, 0.2))
        place = chance.randrange(WORKERS)
        os.kill(working[place], signal.SIGKILL)
        killed += os.waitstatus_to_exitcode(os.waitpid(working[place], 0)[1]) == -signal.SIGKILL
        working[place] = worker(until)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in working]
    assert statuses == [0] * WORKERS, statuses
    say("killed", killed)


def worker(until: float) -> int:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            while time.monotonic() < until:
                live()
                say("lived")
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid


def live() -> None:
    """What one of them does."""
    with network() as made:
        first, second = (idle(network=made, name=name, ports=[80]) for name in ("a", "b"))
        check((made, [first, second]))
        made.impair(delay=0.001)
        made.disconnect(second)
        made.connect(second)
        check((made, [first, second]))
        first.remove(force=True)
        check((made, [second]))
        second.remove(force=True)


def cycles(_: str, count: int) -> None:
    """Starts and stops on a network, and networks: all that is counted stays as it was."""
    kept = network()
    subject = kept, [idle(network=kept, name="kept", ports=[80])]

    def cycle(number: int) -> None:
        with idle(network=kept, name=f"c{number}", ports=[80, "53/udp"]) as one:
            if number % 10 == 0:
                kept.disconnect(one)
                kept.connect(one)
                kept.impair(delay=0.001)
                kept.impair()
            if number % 30 == 0:
                with pc.Network.create("other", internal=True) as other:
                    other.connect(one)

    for number in range(31):
        cycle(number)
    before = counted()
    for number in range(count):
        cycle(number)
    host_process.eventually(lambda: counted() == before, 3, f"{counted()} as {before}")
    check(subject)
    say("cycles", count)


def counted() -> dict[str, int]:
    gc.collect()
    supervisor = session.current().supervisor.pid
    spaces = set()
    for name in filter(str.isdigit, os.listdir("/proc")):
        # It may just have gone.
        with contextlib.suppress(OSError):
            spaces.add(os.readlink(f"/proc/{name}/ns/net"))
            spaces |= {
                target
                for entry in os.scandir(f"/proc/{name}/fd")
                if (target := os.readlink(entry.path)).startswith("net:")
            }
    return {
        "descriptors": descriptors(),
        "the supervisor's": len(os.listdir(f"/proc/{supervisor}/fd")),
        "threads": threading.active_count(),
        "processes": len(others()),
        "namespaces": len(spaces),
        "members": sum(len(one.containers) for one in pc.Network.list()),
    }


def exhausted(_: str, rooms: int) -> None:
    """No descriptor is left at any place that opens one."""
    made = network()
    with idle(network=made, name="a", ports=[80]):
        pass
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before, failed = descriptors(), 0
    resource.setrlimit(resource.RLIMIT_NOFILE, (before + rooms + 10, hard))
    for room in range(rooms):
        taken: list[int] = []
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        for one in [taken.pop() for _ in range(room)]:
            os.close(one)
        try:
            with idle(network=made, name="a", ports=[80]):
                made.impair(delay=0.001)
                made.impair()
                with pc.Network.create("other", internal=True):
                    pass
        except pc.PycontainerError as error:
            assert "EMFILE" in str(error) or "ENFILE" in str(error), error
            failed += 1
        for one in taken:
            os.close(one)
        made.impair()
        gc.collect()
        assert made.containers == [] and pc.Network.list() == [made]
        host_process.eventually(lambda: descriptors() <= before, 2, f"{descriptors()} as {before}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert 3 < failed < rooms, failed
    check((made, [idle(network=made, name=name, ports=[80]) for name in ("a", "b")]))
    say("failed", failed)


MODES = {"run": run, "bereft": bereft, "interrupted": interrupted, "again": passing}
MODES |= {"crowd": crowd, "cycles": cycles, "exhausted": exhausted}
WORKERS = 8


def state() -> dict[str, Any]:
    """What there is in this process's namespaces."""
    return {
        "processes": others(),
        "links": said("ip", "-o", "link"),
        "addresses": said("ip", "-o", "address"),
        "routes": said("ip", "route", "show", "table", "all")
        + said("ip", "-6", "route", "show", "table", "all"),
        "rules": said("nft", "list", "ruleset") if os.getuid() == 0 else "",
        "namespaces": sorted(os.listdir("/run/netns")) if os.path.isdir("/run/netns") else [],
        "ports": listening(),
        "Unix sockets": unix_sockets(),
        "mounts": Path("/proc/self/mountinfo").read_text(),
        "sysctls": sysctls(),
        "store": host_process.Traces(STORE).left(),
    }


def others() -> list[str]:
    mine = {1, os.getpid()}
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return [
        f"{pid} {host_process.name(pid)}" for pid in pids if pid not in mine and host_process.started(pid)
    ]


def said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def listening() -> list[str]:
    found = []
    for table in ("tcp", "tcp6", "udp", "udp6", "raw", "raw6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if not table.startswith("tcp") or fields[3] == "0A":
                found.append(f"{table} {fields[1]}")
    return sorted(found)


def unix_sockets() -> list[str]:
    lines = Path("/proc/net/unix").read_text().splitlines()[1:]
    return sorted(fields[7] for line in lines if len(fields := line.split()) > 7)


def sysctls() -> dict[str, str]:
    found = {}
    for directory, _, files in os.walk("/proc/sys/net"):
        for name in files:
            path = f"{directory}/{name}"
            if "conntrack_count" not in name and "entropy" not in name:
                try:
                    found[path] = Path(path).read_text()
                except OSError as error:
                    found[path] = str(error.errno)
    return found


def judge(before: dict[str, Any], began: float) -> None:
    deadline = began + 1.0
    while (left := others() + host_process.Traces(STORE).left()) and time.monotonic() < deadline:
        time.sleep(0.005)
    gone = time.monotonic() - began
    now = state()
    different = {key: (before[key], now[key]) for key in before if now[key] != before[key]}
    say("left", json.dumps({"left": left, **different}) if left or different else "nothing")
    say("gone", int(gone * 1e6))


def attempt(mode: str, step: str, point: int) -> int:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            faulthandler.dump_traceback_later(60, exit=True)
            MODES[mode](step, point)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def serve() -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=os.getuid() == 0, capture_output=True)
    # Addresses of IPv6 are there a moment later.
    attempt("again", "create", 0)
    time.sleep(0.1)
    before = state()
    say("ready")
    for line in sys.stdin:
        mode, step, point = line.rstrip("\n").split("\t")
        status = attempt(mode, step, int(point))
        judge(before, time.monotonic())
        say("ended", status)


def main() -> None:
    """As the first process, nothing but an init."""
    assert os.getpid() == 1
    server = os.fork()
    if server == 0:
        serve()
        return
    while True:
        pid, status = os.wait()
        if pid == server:
            sys.exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
