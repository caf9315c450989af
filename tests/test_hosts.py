"""Hosts that get in the way: each is a script in a process of its own, which must end well, complain of
nothing (`-W error`) and leave nothing. The supervisor and its containers are nobody's children.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

import host_process

WORKS = """
def works(word="fine"):
    done = pc.run("host", ["echo", word], capture_output=True, text=True, check=True)
    assert done.stdout == word + "\\n", done
"""


def host(script: str, base: Path, **how: object) -> list[str]:
    return host_process.run(WORKS + textwrap.dedent(script), base, **how)  # type: ignore[arg-type]


def test_reaps_every_child(tmp_path: Path) -> None:
    """Loops of waitpid(-1) and wait(2) see no container, take no status from us, and come to an end."""
    script = """
        seen = []
        stop = threading.Event()
        def reap(wait):
            while not stop.is_set():
                try:
                    seen.append(wait())
                except ChildProcessError:
                    time.sleep(0.0005)
        loops = [lambda: os.waitpid(-1, 0), os.wait, lambda: os.waitid(os.P_ALL, 0, os.WEXITED)]
        threads = [threading.Thread(target=reap, args=(loop,)) for loop in loops]
        for thread in threads:
            thread.start()
        for n in range(30):
            works(f"number{n}")
        with pc.start("host", ["sleep", "1000"]) as container:
            for n in range(10):
                assert container.exec(["sh", "-c", f"exit {n}"]).returncode == n
            assert container.stop().returncode == -15
        child = os.spawnlp(os.P_NOWAIT, "true", "true")
        time.sleep(0.2)
        stop.set()
        for thread in threads:
            thread.join()
        pids = [one[0] if isinstance(one, tuple) else one.si_pid for one in seen]
        say(pids == [child])
    """
    assert host(script, tmp_path) == ["True"]


@pytest.mark.parametrize(
    "disposition",
    [
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})",
        "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())",
    ],
)
def test_signal_dispositions(tmp_path: Path, disposition: str) -> None:
    """Neither the supervisor nor a container inherits what the host ignores or blocks."""
    script = """
        DISPOSITION
        works()
        status = pc.run("host", ["cat", "/proc/self/status"], capture_output=True, text=True).stdout
        masks = dict(line.split(":", 1) for line in status.splitlines())
        assert all(int(masks[name], 16) == 0 for name in ("SigBlk", "SigIgn", "SigCgt")), masks
        assert pc.run("host", ["sh", "-c", "exit 7"]).returncode == 7
        assert pc.run("host", ["sh", "-c", "kill -9 $$"]).returncode == -9
        # The program does not read: writing to it meets a closed pipe.
        pc.run("host", ["true"], input=b"x" * 1000000)
        with pc.start("host", ["sleep", "1000"]) as container:
            assert container.exec(["sh", "-c", "exit 3"]).returncode == 3
    """
    host(script.replace("DISPOSITION", disposition), tmp_path)


def test_counts_sigchld(tmp_path: Path) -> None:
    script = """
        count = 0
        def handler(number, frame):
            global count
            count += 1
        signal.signal(signal.SIGCHLD, handler)
        for _ in range(20):
            works()
        with pc.start("host", ["sleep", "1000"]) as container:
            container.exec(["true"])
        time.sleep(0.05)
        say(count)
    """
    assert host(script, tmp_path) == ["0"]


def test_interrupted_by_timers(tmp_path: Path) -> None:
    """Handlers that return: every system call of ours is broken off again and again."""
    script = """
        count = 0
        def handler(number, frame):
            global count
            count += 1
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.0007, 0.0007)
        for n in range(30):
            works(f"number{n}")
        with pc.start("host", ["cat"], stdin=pc.PIPE) as container:
            data = os.urandom(3000000)
            assert container.exec(["cat"], input=data, capture_output=True).stdout == data
        signal.setitimer(signal.ITIMER_REAL, 0)
        say(count > 50)
    """
    assert host(script, tmp_path) == ["True"]


def test_threads_that_end(tmp_path: Path) -> None:
    """A container lives on when the thread that started it ends, and the session's first one too."""
    script = """
        containers = []
        def begin():
            containers.append(pc.start("host", ["sleep", "1000"]))
        for _ in range(5):
            thread = threading.Thread(target=begin)
            thread.start()
            thread.join()
        time.sleep(0.3)
        assert [container.status for container in containers] == ["running"] * 5
        for container in containers:
            assert container.exec(["echo", "here"], capture_output=True).stdout == b"here\\n"
            container.remove(force=True)
    """
    host(script, tmp_path)


def test_many_threads(tmp_path: Path) -> None:
    script = """
        idle = threading.Event()
        crowd = [threading.Thread(target=idle.wait) for _ in range(200)]
        for thread in crowd:
            thread.start()
        failures = []
        def busy(n):
            try:
                for k in range(5):
                    works(f"{n}-{k}")
            except BaseException as error:
                failures.append(error)
        workers = [threading.Thread(target=busy, args=(n,)) for n in range(8)]
        for thread in workers:
            thread.start()
        for thread in workers:
            thread.join()
        idle.set()
        for thread in crowd:
            thread.join()
        assert failures == [], failures
    """
    host(script, tmp_path)


def test_daemon_thread_at_the_end(tmp_path: Path) -> None:
    """The interpreter ends while another thread is within a call."""
    script = """
        works()
        calls = [
            lambda: pc.run("host", ["sleep", "1000"], capture_output=True),
            lambda: pc.start("host", ["sleep", "1000"]).wait(),
        ]
        for call in calls:
            threading.Thread(target=call, daemon=True).start()
        time.sleep(0.3)
    """
    host(script, tmp_path)


FORKS = {
    "exits": "sys.exit(0)",
    "exits at once": "os._exit(0)",
    "uses it": "works('child'); sys.exit(0)",
    "uses it much": """
with pc.start("host", ["sleep", "1000"]) as own:
    assert own.exec(["echo", "own"], capture_output=True).stdout == b"own\\n"
    works('child')
sys.exit(0)
""",
    "collects": "import gc; container = None; gc.collect(); sys.exit(0)",
    "leaves the with block": "container.__exit__(None, None, None); sys.exit(0)",
    "closes all": "os.closerange(3, 1000); os._exit(0)",
    "touches": """
for verb in (container.wait, container.kill, container.stop, lambda: container.exec(["true"])):
    try:
        verb()
    except pc.InvalidState:
        continue
    raise AssertionError(verb)
sys.exit(0)
""",
}


@pytest.mark.parametrize("kind", FORKS)
def test_fork(tmp_path: Path, kind: str) -> None:
    """A child by os.fork() is another host; the parent's containers are the parent's."""
    script = f"""
        container = pc.start("host", ["sh", "-c", "read line; echo got $line; exit 5"], stdin=pc.PIPE)
        waiting = pc.start("host", ["sleep", "1000"])
        for _ in range(3):
            pid = os.fork()
            if pid == 0:
                os.close(0)
                exec(compile({FORKS[kind]!r}, "child", "exec"))
                os._exit(9)
            assert os.waitpid(pid, 0)[1] == 0
            assert container.status == "running"
            works()
        container.stdin.write(b"this\\n")
        result = container.wait(timeout=10)
        assert (result.returncode, result.stdout) == (5, b"got this\\n"), result
        assert waiting.status == "running"
        container.remove()
        waiting.remove(force=True)
    """
    # From Python 3.12 on forking with threads is deprecated: our reader's thread is one.
    host(script, tmp_path, flags=("-W", "error", "-W", "ignore::DeprecationWarning"))


def test_multiprocessing(tmp_path: Path) -> None:
    script = """
        import multiprocessing
        container = pc.start("host", ["sleep", "1000"])
        works()
        def work(n):
            works(f"worker{n}")
            return n * n
        with multiprocessing.get_context("fork").Pool(3) as pool:
            assert pool.map(work, range(12)) == [n * n for n in range(12)]
            assert container.exec(["echo", "alive"], capture_output=True).stdout == b"alive\\n"
            pool.close()
            pool.join()
        assert container.status == "running"
        assert container.stop().returncode == -15
        container.remove()
    """
    host(script, tmp_path, flags=("-W", "error", "-W", "ignore::DeprecationWarning"))


def test_fork_while_threads_start_containers(tmp_path: Path) -> None:
    """No lock of ours stays locked in the child, and no pipe that it holds keeps the parent waiting."""
    script = """
        works()
        stop = threading.Event()
        failures, slowest = [], [0.0]
        def busy():
            try:
                while not stop.is_set():
                    began = time.monotonic()
                    works()
                    slowest[0] = max(slowest[0], time.monotonic() - began)
            except BaseException as error:
                failures.append(error)
        threads = [threading.Thread(target=busy) for _ in range(3)]
        for thread in threads:
            thread.start()
        children = []
        for _ in range(15):
            pid = os.fork()
            if pid == 0:
                time.sleep(3)
                works("child")
                os._exit(0)
            children.append(pid)
            time.sleep(0.02)
        stop.set()
        for thread in threads:
            thread.join()
        slow = slowest[0]
        assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 15
        assert failures == [], failures
        assert slow < 2.0, slow
    """
    host(script, tmp_path, flags=("-W", "error", "-W", "ignore::DeprecationWarning"))


def test_asyncio(tmp_path: Path) -> None:
    script = """
        import asyncio
        async def main():
            shell = await asyncio.create_subprocess_exec("sh", "-c", "sleep 0.2; exit 6")
            many = [asyncio.to_thread(works, f"number{n}") for n in range(10)]
            with await asyncio.to_thread(pc.start, "host", ["sleep", "1000"]) as container:
                await asyncio.gather(*many)
                assert (await asyncio.to_thread(container.exec, ["true"])).returncode == 0
            assert await shell.wait() == 6
        asyncio.run(main())
    """
    host(script, tmp_path)


@pytest.mark.parametrize("closed", ["(0,)", "(1,)", "(2,)", "(0, 1)", "(0, 1, 2)"])
def test_without_standard_streams(tmp_path: Path, closed: str) -> None:
    script = f"""
        for fd in {closed}:
            os.close(fd)
        works()
        assert pc.run("host", ["sh", "-c", "echo out; echo err >&2; cat"]).returncode == 0
        with pc.start("host", ["cat"], stdin=pc.PIPE) as container:
            assert container.exec(["cat"], input=b"x", capture_output=True).stdout == b"x"
            container.stdin.write(b"hello")
            container.stdin.close()
            assert container.wait().stdout == b"hello"
        os._exit(0)
    """
    said = host_process.run(WORKS + textwrap.dedent(script), tmp_path, quiet=False)
    assert set(said) <= {"out"}


def test_low_descriptors_are_taken(tmp_path: Path) -> None:
    """Ours have numbers beyond what select(2) can take."""
    script = """
        import resource
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 6000), hard))
        taken = [os.open("/dev/null", os.O_RDONLY) for _ in range(2000)]
        works()
        assert pc.run("host", ["sh", "-c", "cat; ls /proc/self/fd"], input=b"", capture_output=True, text=True
            ).stdout.split() == ["0", "1", "2", "3"]
        image = pc.Image.scratch()
        try:
            pc.run(image, ["/nothing"])
        except pc.LaunchError:
            pass
        assert pc.run("host", ["tty"], tty=True, capture_output=True).returncode == 0
        with pc.start("host", ["cat"], stdin=pc.PIPE) as container:
            process = container.popen(["cat"], stdin=pc.PIPE, stdout=pc.PIPE)
            assert process.communicate(b"there")[0] == b"there"
    """
    host(script, tmp_path)


EXHAUSTED = """
import gc, resource
def opened():
    return len(os.listdir("/proc/self/fd"))
for call in CALLS:
    call()
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
failed = 0
before = opened()
limit = before + 40
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
for room in range(0, 30):
    taken = []
    try:
        while True:
            taken.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
    for fd in taken[-room:] if room else ():
        os.close(fd)
    del taken[len(taken) - room:]
    for call in CALLS:
        if FRESH and client._current is not None:
            client._current.died()
        try:
            call()
        except pc.PycontainerError as error:
            failed += 1
            assert "EMFILE" in str(error) or "ENFILE" in str(error), error
    for fd in taken:
        os.close(fd)
    gc.collect()
    now = opened()
    assert now <= before + 4 * FRESH, (room, before, now)
say("failed", failed > 3)
works()
"""


@pytest.mark.parametrize("fresh", [False, True])
def test_no_descriptor_is_left(tmp_path: Path, fresh: bool) -> None:
    """EMFILE at each place where something is opened: a typed error, nothing leaks, and later all works.

    `fresh`: with a new supervisor each time, whose own descriptors come and go.
    """
    script = """
        def started():
            with pc.start("host", ["sleep", "1000"], stdin=pc.PIPE) as container:
                container.exec(["true"], capture_output=True)
        calls = [
            lambda: pc.run("host", ["echo", "x"], input=b"x", capture_output=True),
            lambda: pc.run("host", ["echo", "x"], tty=True, stdout=pc.PIPE),
            started,
        ]
    """
    body = EXHAUSTED.replace("CALLS", "calls").replace("FRESH", str(fresh))
    assert host(textwrap.dedent(script) + body, tmp_path) == ["failed True"]


def test_small_hard_limit_of_descriptors(tmp_path: Path) -> None:
    """The supervisor has that limit too: one start too many is refused, the others live on."""
    script = """
        import resource
        resource.setrlimit(resource.RLIMIT_NOFILE, (96, 96))
        containers = []
        try:
            for _ in range(60):
                containers.append(pc.start("host", ["sleep", "1000"]))
        except pc.PycontainerError as error:
            assert "EMFILE" in str(error), error
        else:
            raise AssertionError("60 containers with 96 descriptors")
        assert len(containers) >= 10
        assert [one.status for one in containers] == ["running"] * len(containers)
        containers.pop().remove(force=True)
        containers.pop().remove(force=True)
        works()
        for one in containers:
            one.remove(force=True)
        works()
    """
    host(script, tmp_path)


def test_supervisor_without_descriptors(tmp_path: Path) -> None:
    """The host has room where the supervisor has none."""
    script = """
        import resource
        works()
        pid = client.default().pid
        containers = [pc.start("host", ["sleep", "1000"]) for _ in range(3)]
        used = len(os.listdir(f"/proc/{pid}/fd"))
        refused = 0
        for room in range(12):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + room, 1 << 12))
            try:
                works()
            except pc.PycontainerError as error:
                assert "EMFILE" in str(error), error
                refused += 1
            assert client.default().pid == pid
            assert [one.status for one in containers] == ["running"] * 3
        assert 0 < refused < 12, refused
        works()
        for one in containers:
            one.remove(force=True)
    """
    host(script, tmp_path)


def test_deleted_working_directory(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    script = f"""
        os.chdir({str(gone)!r})
        os.rmdir({str(gone)!r})
        works()
        assert pc.run("host", ["pwd"], capture_output=True, text=True).stdout == "/\\n"
    """
    host(script, tmp_path)


@pytest.mark.parametrize("mask", ["0", "0o777", "0o077"])
def test_umask(tmp_path: Path, mask: str) -> None:
    script = f"""
        os.umask({mask})
        works()
        shell = "umask; touch /tmp/new; stat -c %a /tmp/new"
        found = pc.run("host", ["sh", "-c", shell], capture_output=True)
        assert found.stdout == b"0022\\n644\\n", found
        image = pc.Image.scratch()
        with pc.create(image, ["/nothing"]) as container:
            assert container.status == "created"
        assert os.umask({mask}) == {mask}
    """
    host(script, tmp_path)


def test_no_new_privs(tmp_path: Path) -> None:
    script = """
        import ctypes
        PR_SET_NO_NEW_PRIVS = 38
        assert ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
        works()
    """
    host(script, tmp_path)


def test_child_subreaper(tmp_path: Path) -> None:
    """Such a host adopts orphans by its own wish, so the supervisor is its child; all else is the same."""
    script = """
        import ctypes
        PR_SET_CHILD_SUBREAPER = 36
        assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
        works()
        with pc.start("host", ["sleep", "1000"]) as container:
            assert os.waitpid(-1, os.WNOHANG) == (0, 0)
            container.exec(["true"])
            assert os.waitpid(-1, os.WNOHANG) == (0, 0)
            pid = client.default().pid
            os.kill(pid, signal.SIGKILL)
            try:
                container.wait(timeout=5)
            except pc.PycontainerError as error:
                assert type(error).__name__ == "SupervisorError", error
        works()
        assert client.default().pid != pid
    """
    host(script, tmp_path)


@pytest.mark.parametrize(
    "name", ["with space", "a,b:c", "quo'te\"s", "back\\slash", "lower=x,upper", "ünï", "%s{}"]
)
def test_store_with_an_odd_name(tmp_path: Path, name: str) -> None:
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    script = """
        works()
        image = pc.Image.from_directory(os.environ["ROOT"])
        with pc.create(image, ["/nothing"]) as container:
            assert container.status == "created"
        try:
            pc.run(image, ["/nothing"])
        except pc.LaunchError as error:
            assert error.stage == "executing", error
    """
    host(script, tmp_path, store=tmp_path / name, env={"ROOT": str(root)})


def test_program_that_reads_the_hosts_input(tmp_path: Path) -> None:
    """stdin is empty unless given: the host's own input is not taken."""
    script = """
        works()
        assert pc.run("host", ["cat"], capture_output=True).stdout == b""
        assert pc.run("host", ["cat"], stdin=sys.stdin, capture_output=True).stdout == b""
    """
    host(script, tmp_path)
