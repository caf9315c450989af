"""`Container.exec`: one more program in a running container, waited for."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

import pycontainer as pc
from containers import PYTHON, as_root, nothing_left, sleeper, unique_seconds, until, with_argument


@pytest.fixture(scope="module")
def container() -> Iterator[pc.Container]:
    with sleeper(env={"OWN": "of the container"}, hostname="exec-box", mounts=[pc.tmpfs("/shared")]) as found:
        yield found


def words(container: pc.Container, script: str, **options: object) -> list[str]:
    done = container.exec(["sh", "-c", script], capture_output=True, text=True, timeout=60, **options)
    assert done.returncode == 0, f"{done!r}\n{done.stderr}"
    return str(done.stdout).split()


def test_gives_a_completed_as_run_does(container: pc.Container) -> None:
    done = container.exec(["sh", "-c", "cat; echo err >&2; exit 3"], input=b"in", capture_output=True)
    assert isinstance(done, pc.Completed)
    assert (done.returncode, done.cause, done.stdout, done.stderr) == (3, "exited", b"in", b"err\n")
    assert 0 < done.usage.wall < 60


def test_check_raises(container: pc.Container) -> None:
    with pytest.raises(pc.ExitError) as caught:
        container.exec(["sh", "-c", "echo x; exit 2"], capture_output=True, check=True)
    assert (caught.value.returncode, caught.value.stdout) == (2, b"x\n")


def test_death_by_a_signal_is_its_negative_number(container: pc.Container) -> None:
    done = container.exec(["sh", "-c", "kill -KILL $$"])
    assert (done.returncode, done.cause) == (-signal.SIGKILL, "signaled")


def test_is_in_the_same_container(container: pc.Container) -> None:
    assert words(container, "echo there > /shared/file; hostname") == ["exec-box"]
    assert words(container, "cat /shared/file; cat /proc/1/comm; ls /proc | grep -c '^[0-9]'")[0] == "there"
    kinds = ("pid", "net", "ipc", "uts", "mnt", "cgroup")
    first = [f"readlink /proc/$(pidof sleep | tr ' ' '\\n' | sort -n | head -1)/ns/{kind}" for kind in kinds]
    mine = [f"readlink /proc/self/ns/{kind}" for kind in kinds]
    assert words(container, "; ".join(first)) == words(container, "; ".join(mine))


@pytest.mark.cgroup
def test_is_in_the_same_control_groups(container: pc.Container) -> None:
    own, other = (words(container, f"cat /proc/{pid}/cgroup") for pid in ("self", 1))
    assert own == other


def test_has_the_containers_isolation(container: pc.Container) -> None:
    keys = "CapBnd|CapEff|CapPrm|NoNewPrivs|Seccomp:"
    mine = words(container, f"grep -E '{keys}' /proc/self/status")
    first = words(container, f"grep -E '{keys}' /proc/1/status")
    program = container.exec(
        ["sh", "-c", f"grep -E '{keys}' /proc/$(pidof sleep | tr ' ' '\\n' | tail -1)/status"],
        capture_output=True, text=True,
    ).stdout.split()  # fmt: skip
    assert mine == program
    assert dict(zip(mine[::2], mine[1::2], strict=True))["NoNewPrivs:"] == "1"
    assert first


def test_environment(container: pc.Container) -> None:
    assert words(container, "echo $OWN; echo $NEW", env={"NEW": "1"}) == ["of", "the", "container", "1"]
    assert words(container, "echo ${OWN-gone}", env={"OWN": None}) == ["gone"]


def test_cwd(container: pc.Container) -> None:
    assert words(container, "pwd", cwd="/usr") == ["/usr"]
    assert words(container, "pwd") == ["/"]
    with pytest.raises(pc.LaunchError, match="/not/there"):
        container.exec(["true"], cwd="/not/there")


def test_user(container: pc.Container) -> None:
    assert words(container, "id -u; id -g; id -G", user="1234:2345") == ["1234", "2345", "2345"]
    assert words(container, "id -un; echo $HOME", user="daemon") == ["daemon", "/usr/sbin"]
    assert words(container, "grep CapEff /proc/self/status", user="daemon")[1] == "0" * 16
    with pytest.raises(pc.InvalidOption, match="nobody-like-that"):
        container.exec(["true"], user="nobody-like-that")


def test_umask_and_ulimits(container: pc.Container) -> None:
    assert words(container, "umask; ulimit -n", umask=0o077, ulimits={"nofile": 50}) == ["0077", "50"]


def test_capabilities(container: pc.Container) -> None:
    assert words(container, "grep CapEff /proc/self/status", cap_drop=["ALL"])[1] == "0" * 16


def test_pass_fds(container: pc.Container) -> None:
    read, write = os.pipe()
    with os.fdopen(read, "rb") as reader:
        code = f"import os; os.write({write}, b'through')"
        container.exec([*PYTHON, code], pass_fds=[write], check=True)
        os.close(write)
        assert reader.read() == b"through"


def test_options_of_the_whole_container_are_refused(container: pc.Container) -> None:
    with pytest.raises(TypeError, match="memory"):
        container.exec(["true"], memory="64M")


def test_a_missing_program_is_named(container: pc.Container) -> None:
    with nothing_left(), pytest.raises(pc.LaunchError, match="no-such-program") as caught:
        container.exec(["no-such-program"])
    assert caught.value.hint
    assert container.exec(["true"]).returncode == 0


def test_a_timeout_kills_all_that_the_program_started_and_nothing_else(container: pc.Container) -> None:
    seconds = unique_seconds()
    script = f"echo early; sleep {seconds} & setsid -f sh -c 'sleep {seconds}; true'; sleep {seconds}"
    with nothing_left(), pytest.raises(pc.Timeout) as caught:
        container.exec(["sh", "-c", script], capture_output=True, timeout=2)
    assert (caught.value.stdout, caught.value.result.cause) == (b"early\n", "timeout")
    assert with_argument(seconds) == []
    assert container.status == "running"
    assert container.exec(["true"]).returncode == 0


def test_what_a_program_leaves_behind_lives_on_in_the_container() -> None:
    seconds = unique_seconds()
    with sleeper() as container:
        script = f"setsid -f sleep {seconds} >/dev/null 2>&1; echo done"
        done = container.exec(["sh", "-c", script], capture_output=True, timeout=60)
        assert done.stdout == b"done\n"
        until(lambda: len(with_argument(seconds)) == 1, "it runs")
    until(lambda: not with_argument(seconds), "it is gone with the container")


def test_a_timeout_counts_while_a_left_behind_program_holds_the_output(container: pc.Container) -> None:
    """As with `subprocess`, the output ends when its last writer does."""
    seconds = unique_seconds()
    began = time.monotonic()
    with pytest.raises(pc.Timeout) as caught:
        container.exec(["sh", "-c", f"sleep {seconds} & echo done"], capture_output=True, timeout=0.7)
    assert time.monotonic() - began < 20
    assert caught.value.stdout == b"done\n"


def test_the_containers_end_ends_the_program() -> None:
    with sleeper() as container:
        seconds = unique_seconds()
        process = container.popen(["sleep", seconds])
        container.kill()
        assert process.wait(30) == -signal.SIGKILL
        until(lambda: not with_argument(seconds), "the program is gone")


def test_needs_a_running_container() -> None:
    with pc.create("host", ["sleep", "1000"]) as container:
        with pytest.raises(pc.InvalidState, match="not started"):
            container.exec(["true"])
        container.start()
        container.kill()
        with pytest.raises(pc.InvalidState, match="not running"):
            container.exec(["true"])


def test_works_without_init() -> None:
    with sleeper(init=False) as container:
        assert words(container, "cat /proc/1/comm; echo $OWN") == ["sleep"]
        with pytest.raises(pc.Timeout):
            container.exec(["sleep", "1000"], timeout=0.3)
        assert container.exec(["true"]).returncode == 0


def test_works_in_the_hosts_network() -> None:
    with sleeper(network="host") as container:
        assert words(container, "readlink /proc/self/ns/net") == [os.readlink("/proc/self/ns/net")]


def test_nothing_piles_up(container: pc.Container) -> None:
    container.exec(["true"])
    with nothing_left():
        for _ in range(20):
            container.exec(["sh", "-c", "cat; exit 1"], input=b"x", capture_output=True, user="daemon")


@as_root
def test_a_privileged_program_in_an_ordinary_container(container: pc.Container) -> None:
    usual = int(words(container, "grep CapEff /proc/self/status")[1], 16)
    more = int(words(container, "grep CapEff /proc/self/status", privileged=True)[1], 16)
    assert more & usual == usual != more
