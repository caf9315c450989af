"""Networks and the process that has them: its own namespace, its forks, its end, its supervisor's end."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import textwrap
from pathlib import Path

import pytest

import host_process
import pycontainer as pc
from containers import ROOT, sleeper, unique_seconds, until, with_argument
from host_process import Host, Traces, eventually

COMMANDS = (
    ["ip", "-o", "link"],
    ["ip", "-o", "address"],
    ["ip", "route", "show", "table", "all"],
    ["ip", "-6", "route", "show", "table", "all"],
    ["ip", "rule"],
    ["ip", "netns"],
    *([["nft", "list", "ruleset"]] if ROOT else []),
)
PASSING = re.compile(r"(valid_lft|preferred_lft|expires) \S+")
"""What changes by itself."""


def own_network() -> dict[str, str]:
    """All that this process's own network namespace has."""
    found = {}
    for command in COMMANDS:
        done = subprocess.run(command, capture_output=True, text=True)
        found[" ".join(command)] = PASSING.sub("", done.stdout + done.stderr)
    for path in [
        Path("/proc/sys/net/ipv4/ip_forward"),
        *Path("/proc/sys/net").glob("ipv?/conf/*/forwarding"),
    ]:
        found[str(path)] = path.read_text()
    return found


def namespaces() -> set[str]:
    """The network namespaces that any process of this user's is in or has a descriptor of."""
    found = set()
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            # Another user's, or it has just gone.
            with contextlib.suppress(OSError):
                found.add(os.readlink(process / "ns/net"))
                for entry in os.scandir(process / "fd"):
                    with contextlib.suppress(OSError):
                        target = os.readlink(entry.path)
                        if target.startswith("net:"):
                            found.add(target)
    return found


def namespace_of(container: pc.Container) -> str:
    done = container.exec(["readlink", "/proc/self/ns/net"], capture_output=True, text=True, check=True)
    return str(done.stdout).strip()


def test_the_hosts_own_network_is_as_it_was() -> None:
    before = own_network()
    with pc.Network.create("unseen", internal=True) as network, sleeper(network=network) as first:
        assert own_network() == before
        with sleeper() as second:
            network.connect(second)
            network.disconnect(first)
            first.forward(80)
            assert own_network() == before
    assert own_network() == before


def test_a_network_is_gone_with_its_namespace() -> None:
    with pc.Network.create("gone", internal=True) as network:
        with sleeper(network=network) as container:
            own = namespace_of(container)
            (switch,) = {os.readlink(f"/proc/self/fd/{network._switch.fd}")}
            assert {own, switch} <= namespaces()
        until(lambda: own not in namespaces(), "the container's namespace is gone")
        assert switch in namespaces()
    until(lambda: switch not in namespaces(), "the network's namespace is gone")


HOST = """
    first = pc.Network.create("first", internal=True)
    second = pc.Network.create("second", internal=True)
    made = [pc.start("host", ["sleep", "1000"], network=first, ports=[80]) for _ in range(3)]
    made.append(pc.start("host", ["sleep", "1000"], network=made[0]))
    second.connect(made[1])
    second.impair(delay=0.001)
    own = {one.exec(["readlink", "/proc/self/ns/net"], capture_output=True, text=True).stdout.strip()
           for one in made}
    own |= {os.readlink(f"/proc/self/fd/{network._switch.fd}") for network in (first, second)}
    say(session.current().supervisor.pid, *own)
    signal.pause()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_host_that_is_killed_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    before = own_network()
    with Host(HOST, tmp_path) as host:
        supervisor, *own = host.line().split()
        assert len(own) == 5
        assert set(own) <= namespaces()
        traces = Traces(host.store, supervisor=int(supervisor))
        os.kill(host.pid, number)
        host.process.wait(10)
        traces.await_nothing(5.0)
        eventually(lambda: not namespaces() & set(own), 5.0, "its namespaces are gone")
    assert own_network() == before


def test_a_host_that_ends_without_a_word_leaves_nothing(tmp_path: Path) -> None:
    """And complains of nothing."""
    lines = host_process.run(
        """
        network = pc.Network.create("left", internal=True)
        made = [pc.start("host", ["sleep", "1000"], network=network, ports=[80]) for _ in range(2)]
        made[1].forward("53/udp")
        say(*[os.readlink(f"/proc/self/fd/{one}") for one in (network._switch.fd, made[0]._wiring.namespace)])
        """,
        tmp_path,
    )
    own = set(lines[0].split())
    assert len(own) == 2
    eventually(lambda: not namespaces() & own, 5.0, "its namespaces are gone")


def test_after_the_supervisors_death_the_network_works_again(tmp_path: Path) -> None:
    lines = host_process.run(
        """
        network = pc.Network.create("again", internal=True, subnet="10.6.0.0/24")
        network.impair(delay=0.001)
        held = pc.start("host", ["sleep", "1000"], network=network, name="held", ports=[80])
        old = [pc.start("host", ["sleep", "1000"], network=network, ports=[80]) for _ in range(2)]
        old[0].forward("53/udp")
        network.disconnect(old[1])
        os.kill(session.current().supervisor.pid, signal.SIGKILL)
        began = time.monotonic()
        try:
            held.wait(60)
        except pc.PycontainerError as error:
            say(type(error).__name__)
        for use in (old[0].exec, lambda args: old[0].forward(81), lambda args: network.connect(old[1])):
            try:
                use(["true"])
            except pc.PycontainerError as error:
                say("typed")
        assert time.monotonic() - began < 2, time.monotonic() - began
        network.impair()
        with pc.start("host", ["sleep", "1000"], network=network, name="new") as new:
            assert network.containers == [new], network.containers
            hosts = new.exec(["cat", "/etc/hosts"], capture_output=True, text=True, check=True).stdout
            assert "new" in hosts and "held" not in hosts, hosts
            done = pc.run("host", ["cat", "/etc/hosts"], network=network, capture_output=True, text=True)
            assert new.ip_address in done.stdout
            held.remove()
            with pc.start("host", ["sleep", "1000"], network=network, name="held") as again:
                sock = again.listen(7000)
                ask = "import socket; socket.create_connection(('held', 7000), 10)"
                new.exec([sys.executable, "-I", "-S", "-c", ask], check=True)
                sock.close()
        for one in old:
            one.remove(force=True)
        network.remove()
        # Every address was given back.
        assert not network._members and not network._parted
        assert not network._members and not network._parted
        """,
        tmp_path,
    )
    assert lines == ["SupervisorError", *["typed"] * (len(lines) - 1)]
    assert len(lines) >= 3


def test_a_fork_of_the_host_has_nothing_of_it(tmp_path: Path) -> None:
    host_process.run(
        """
        import socket
        network = pc.Network.create("forked", internal=True)
        one = pc.start("host", ["sleep", "1000"], network=network, ports=[80])
        where = one.ports[80]
        own = {os.readlink(f"/proc/self/fd/{fd}") for fd in (network._switch.fd, one._wiring.namespace)}
        ready, done = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                held = set()
                for fd in os.listdir("/proc/self/fd"):
                    try:
                        held.add(os.readlink(f"/proc/self/fd/{fd}"))
                    except OSError:
                        pass
                assert not held & own, held
                assert pc.Network.list() == []
                for use in (lambda: network.connect(one), lambda: network.disconnect(one),
                            lambda: pc.start("host", ["true"], network=network)):
                    try:
                        use()
                    except pc.InvalidState:
                        pass
                    else:
                        raise AssertionError("not refused")
                network.remove(force=True)
                with pc.Network.create("forked", internal=True) as mine:
                    with pc.start("host", ["sleep", "1000"], network=mine, name="mine") as second:
                        assert second.ip_address
                os.write(ready[1], b"x")
                os.read(done[0], 1)
                status = 0
            finally:
                os._exit(status)
        assert os.read(ready[0], 1) == b"x"
        assert one.status == "running"
        assert network.containers == [one]
        # The child keeps neither the port nor the namespaces.
        one.remove(force=True)
        with socket.create_server(where):
            pass
        network.remove()
        os.write(done[1], b"x")
        assert os.waitpid(child, 0)[1] == 0
        for fd in (*ready, *done):
            os.close(fd)
        """,
        tmp_path,
    )


def test_eight_processes_have_different_subnets(tmp_path: Path) -> None:
    script = """
        import ipaddress
        for round in range(4):
            made = [pc.Network.create(f"n{number}", internal=True) for number in range(3)]
            with pc.start("host", ["sleep", "1000"], network=made[0]) as container:
                assert container.ip_address == str(made[0].subnet[2])
            say(*[network.subnet for network in made])
            sys.stdin.readline()
            for network in made:
                network.remove()
        """
    with contextlib.ExitStack() as stack:
        hosts = []
        for number in range(8):
            base = tmp_path / str(number)
            base.mkdir()
            hosts.append(stack.enter_context(Host(script, base, stdin=subprocess.PIPE)))
        for _ in range(4):
            found = [subnet for host in hosts for subnet in host.line().split()]
            assert len(set(found)) == 24
            for host in hosts:
                assert host.process.stdin is not None
                host.process.stdin.write(b"\n")
                host.process.stdin.flush()
        for host in hosts:
            host.finish()
            assert host.process.stdin is not None
            host.process.stdin.close()


HELD = """
import collections, gc, re

def held():
    gc.collect()
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            pass
    return collections.Counter(re.sub("[0-9]+", "*", one) for one in found if not one.startswith("pipe:"))

def lost(before):
    found = held() - before
    return found - collections.Counter({"socket:[*]": 3, "anon_inode:[eventfd]": 2, "/dev/null": 3})

"""
"""Its descriptors, but for what Python itself loses now and then: os.open(), os.pipe() and os.eventfd()
interrupted at their return, and socket.socketpair() on its way from one kind of object to the other."""


def test_interrupted_starts_leave_nothing(tmp_path: Path) -> None:
    host_process.run(
        HELD
        + textwrap.dedent("""
        def ring(*_):
            raise KeyboardInterrupt
        signal.signal(signal.SIGALRM, ring)
        network = pc.Network.create("rung", internal=True)
        with pc.start("host", ["sleep", "1000"], network=network, ports=[80]):
            pass
        before = held()
        interrupted = strays = 0
        for step in range(150):
            container = None
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0001 + step * 0.0001)
                container = pc.create("host", ["sleep", "1000"], network=network, ports=[80])
                container.start()
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                interrupted += 1
            if container is not None:
                container.remove(force=True)
            container = None
            gc.collect()
            # One that was interrupted on its way out of create() is nobody's, but can be found.
            for found in pc.Container.list(all=True):
                found.remove(force=True)
                strays += 1
            assert network.containers == [], (step, network._members)
        assert interrupted > 20, interrupted
        assert strays < 4, strays
        end = time.monotonic() + 10
        while lost(before) and time.monotonic() < end:
            time.sleep(0.05)
        assert not lost(before), lost(before)
        assert not network._members and not network._parted
        with pc.start("host", ["sleep", "1000"], network=network, ports=[80]) as last:
            assert network.containers == [last]
        network.remove()
        """),
        tmp_path,
        # Within a finaliser or Python's own socketpair() it is told to nobody but standard error.
        flags=(),
        quiet=False,
    )


def test_interrupted_making_leaves_nothing(tmp_path: Path) -> None:
    host_process.run(
        HELD
        + textwrap.dedent("""
        def ring(*_):
            raise KeyboardInterrupt
        signal.signal(signal.SIGALRM, ring)
        with pc.Network.create("first", internal=True):
            pass
        before = held()
        interrupted = 0
        for step in range(60):
            network = None
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.00005 + step * 0.00005)
                network = pc.Network.create("rung", internal=True)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                interrupted += 1
            for one in pc.Network.list():
                one.remove()
        assert interrupted > 5, interrupted
        assert not lost(before), lost(before)
        """),
        tmp_path,
        flags=(),
        quiet=False,
    )


def test_ctrl_c_ends_a_start_at_once(tmp_path: Path) -> None:
    """A real one, while it is not ready."""
    seconds = unique_seconds()
    with Host(
        """
        network = pc.Network.create("held", internal=True)
        try:
            pc.start("host", ["sleep", os.environ["SECONDS"]], network=network, wait=pc.wait.log("never"))
        except KeyboardInterrupt:
            assert network.containers == []
            network.remove()
            say("interrupted")
        """,
        tmp_path,
        env={"SECONDS": seconds},
    ) as host:
        eventually(lambda: len(with_argument(seconds)) > 0, 10.0, "it has started")
        os.kill(host.pid, signal.SIGINT)
        assert host.line() == "interrupted"
        host.finish()
