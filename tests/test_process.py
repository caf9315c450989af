"""`Container.popen`: a program in a running container, in the shape of `subprocess.Popen`."""

from __future__ import annotations

import functools
import gc
import io
import os
import pickle
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator

import pytest

import pycontainer as pc
from containers import nothing_left, sleeper, unique_seconds, until, with_argument

PIPE = subprocess.PIPE


@pytest.fixture(scope="module")
def container() -> Iterator[pc.Container]:
    with sleeper() as found:
        yield found


def test_shape_of_popen(container: pc.Container) -> None:
    with container.popen(["cat"], stdin=PIPE, stdout=PIPE) as process:
        assert process.args == ["cat"]
        assert process.returncode is None
        assert process.poll() is None
        assert process.stderr is None
        assert isinstance(process.pid, int)
        assert "running" in repr(process)
        process.stdin.write(b"hello")
        process.stdin.close()
        assert process.stdout.read() == b"hello"
    assert process.returncode == 0
    assert process.wait() == process.poll() == 0
    assert "returncode=0" in repr(process)


def test_lines_come_while_the_program_runs(container: pc.Container) -> None:
    script = "echo first; read x; echo second"
    with container.popen(["sh", "-c", script], stdin=PIPE, stdout=PIPE, text=True, bufsize=1) as process:
        lines = iter(process)
        assert next(lines) == "first\n"
        assert process.poll() is None
        process.stdin.write("go\n")
        process.stdin.flush()
        assert list(lines) == ["second\n"]
    assert process.returncode == 0


def test_a_conversation_half_by_half(container: pc.Container) -> None:
    with container.popen(["sort"], stdin=PIPE, stdout=PIPE) as process:
        process.stdin.write(b"b\na\n")
        process.stdin.close()
        assert process.stdout.readlines() == [b"a\n", b"b\n"]


def test_communicate_with_much_in_both_directions(container: pc.Container) -> None:
    data = bytes(range(256)) * 40_000
    process = container.popen(["sh", "-c", "tee /dev/stderr"], stdin=PIPE, stdout=PIPE, stderr=PIPE)
    stdout, stderr = process.communicate(data, timeout=60)
    assert stdout == data
    assert stderr == data
    assert process.returncode == 0


def test_communicate_after_reading_a_part(container: pc.Container) -> None:
    process = container.popen(["printf", "one\\ntwo\\nthree\\n"], stdout=PIPE)
    assert process.stdout.readline() == b"one\n"
    assert process.communicate(timeout=60) == (b"two\nthree\n", b"")


def test_communicate_in_text(container: pc.Container) -> None:
    process = container.popen(["sh", "-c", "cat; printf 'a\\r\\nb'"], stdin=PIPE, stdout=PIPE, text=True)
    assert process.communicate("é\n", timeout=60) == ("é\na\nb", "")


def test_the_end_of_what_wrote_no_text_is_known(container: pc.Container) -> None:
    with container.popen(["sh", "-c", "printf '\\377'; exit 3"], stdout=PIPE, text=True) as process:
        with pytest.raises(UnicodeDecodeError):
            process.communicate(timeout=60)
        assert (process.returncode, process.poll(), process.wait()) == (3, 3, 3)


def test_communicate_without_pipes(container: pc.Container) -> None:
    process = container.popen(["true"])
    assert process.communicate(timeout=60) == (b"", b"")
    assert process.returncode == 0


def test_input_needs_a_pipe(container: pc.Container) -> None:
    with container.popen(["true"]) as process, pytest.raises(pc.InvalidState, match="stdin"):
        process.communicate(b"x")


# Time that runs out: as with Popen, the program goes on.


def timed_out(call: Callable[[], object]) -> pc.Completed:
    with pytest.raises(pc.Timeout) as caught:
        call()
    assert isinstance(caught.value, subprocess.TimeoutExpired)
    result = caught.value.result
    assert (caught.value.stdout, caught.value.stderr) == (result.stdout, result.stderr)
    assert result.cause == "timeout"
    return result


class Gate:
    """Something that a script in a container waits for."""

    def __init__(self, container: pc.Container) -> None:
        self._path = container.path(f"/tmp/gate-{unique_seconds()}")
        # From here on its files are served.
        assert not self._path.exists()
        self.wait = f"while ! test -e {self._path}; do sleep 0.02; done"

    def open(self) -> None:
        self._path.touch()


def test_communicate_times_out_and_is_called_again_after_a_kill(container: pc.Container) -> None:
    seconds = unique_seconds()
    with nothing_left():
        process = container.popen(["sh", "-c", f"echo early; echo wrong >&2; setsid -f sleep {seconds}; "
                                   f"sleep {seconds}"], stdout=PIPE, stderr=PIPE, text=True)  # fmt: skip
        until(lambda: len(with_argument(seconds)) == 2, "both sleep")
        found = timed_out(lambda: process.communicate(timeout=0.3))
        assert (found.stdout, found.stderr, found.returncode) == ("early\n", "wrong\n", None)
        assert found.usage.wall > 0
        assert (process.poll(), len(with_argument(seconds))) == (None, 2)
        process.kill()
        assert process.communicate() == ("early\n", "wrong\n")
        assert process.communicate() == ("early\n", "wrong\n")
        assert process.returncode == -signal.SIGKILL
        assert with_argument(seconds) == []


def test_nothing_is_lost_however_often_time_runs_out(container: pc.Container) -> None:
    """What was not sent is sent later, and what was read is there in the end."""
    data = bytes(range(256)) * 40_000
    gate = Gate(container)
    script = f"sleep 0.2; head -c 5000000; {gate.wait}; cat; sleep 0.2; echo end >&2; exit 3"
    with nothing_left():
        process = container.popen(["sh", "-c", script], stdin=PIPE, stdout=PIPE, stderr=PIPE)
        before = timed_out(lambda: process.communicate(data, timeout=0.05))
        for seconds in [0, 0, -1, *[0.03] * 8]:
            now = timed_out(functools.partial(process.communicate, timeout=seconds))
            assert data.startswith(now.stdout)
            assert now.stdout.startswith(before.stdout)
            before = now
        gate.open()
        with pytest.raises(ValueError, match="communicate") as refused:
            process.communicate(b"more")
        assert isinstance(refused.value, pc.InvalidOption)
        out, err = process.communicate(timeout=60)
        assert out == data
        assert (err, process.returncode) == (b"end\n", 3)


def test_communicate_without_any_time_gets_on(container: pc.Container) -> None:
    process = container.popen(["head", "-c", "1000000"], stdin=PIPE, stdout=PIPE)
    first: bytes | None = bytes(1_000_000)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            assert process.communicate(first, timeout=0) == (bytes(1_000_000), b"")
            return
        except pc.Timeout:
            first = None
            time.sleep(0.001)
    pytest.fail("it does not end")


def test_wait_times_out_and_the_program_goes_on(container: pc.Container) -> None:
    seconds = unique_seconds()
    with nothing_left():
        process = container.popen(["sh", "-c", f"setsid -f sleep {seconds}; sleep {seconds}"])
        until(lambda: len(with_argument(seconds)) == 2, "both sleep")
        for _ in range(2):
            found = timed_out(lambda: process.wait(timeout=0.2))
            assert (found.returncode, found.stdout, found.stderr) == (None, b"", b"")
            assert (process.poll(), process.returncode) == (None, None)
            assert "running" in repr(process)
        assert len(with_argument(seconds)) == 2
        process.kill()
        assert process.wait(60) == -signal.SIGKILL
        assert with_argument(seconds) == []
    assert container.status == "running"


def test_a_result_without_an_end_says_so(container: pc.Container) -> None:
    with container.popen(["sh", "-c", "while :; do :; done"]) as process:
        found = timed_out(lambda: process.wait(timeout=0.1))

        def used() -> float:
            usage = timed_out(lambda: process.wait(timeout=0.1)).usage
            return usage.user_cpu + usage.system_cpu

        until(lambda: used() > 0, "it has used a tick")
        process.kill()
    assert "returncode=None, cause='timeout'" in repr(found)
    with pytest.raises(pc.InvalidState, match="not ended"):
        found.check_returncode()
    copy = pickle.loads(pickle.dumps(pc.Timeout(found, 0.1)))
    assert (copy.result.returncode, copy.timeout) == (None, 0.1)


def test_no_time_at_all_is_enough_after_the_end(container: pc.Container) -> None:
    process = container.popen(["sh", "-c", "exit 4"])

    def ended() -> bool:
        try:
            return process.wait(timeout=0) == 4
        except pc.Timeout:
            return False

    until(ended, "the end")


def test_what_a_program_left_behind_may_be_killed_to_end_communicate(container: pc.Container) -> None:
    seconds = unique_seconds()
    with nothing_left():
        process = container.popen(["sh", "-c", f"echo x; sleep {seconds} & exit 5"], stdout=PIPE)
        until(lambda: process.poll() is not None, "the end")
        found = timed_out(lambda: process.communicate(timeout=0.2))
        # It has ended, but not its output.
        assert (found.stdout, found.returncode) == (b"x\n", 5)
        process.kill()
        assert process.communicate(timeout=60) == (b"x\n", b"")
        assert process.returncode == 5


def test_a_text_that_is_cut_within_a_character_is_whole_in_the_end(container: pc.Container) -> None:
    gate = Gate(container)
    script = f"printf '\\303'; {gate.wait}; printf '\\251'"
    process = container.popen(["sh", "-c", script], stdout=PIPE, text=True)
    until(lambda: timed_out(lambda: process.communicate(timeout=0.1)).stdout == "\ufffd", "half of it")
    gate.open()
    assert process.communicate(timeout=60) == ("é", "")


@pytest.mark.parametrize("tty", [False, True])
def test_leaving_after_a_timeout_leaves_nothing(container: pc.Container, tty: bool) -> None:
    gates = [Gate(container), Gate(container)]

    def begin(gate: Gate) -> pc.Process:
        script = f"echo x; {gate.wait}"
        process = container.popen(["sh", "-c", script], stdin=PIPE, stdout=PIPE, tty=tty)
        until(lambda: b"x" in timed_out(lambda: process.communicate(timeout=0.1)).stdout, "its word")
        return process

    with nothing_left():
        with begin(gates[0]) as process:
            gates[0].open()
        assert process.returncode is not None
        assert process.communicate(timeout=60)[0].split() == [b"x"]
        before = len(os.listdir("/proc/self/fd"))
        process = begin(gates[1])
        pid = process.pid
        del process
        gc.collect()
        assert len(os.listdir("/proc/self/fd")) == before
        gates[1].open()
        until(lambda: not os.path.exists(f"/proc/{pid}"), "the end")


def test_one_thread_waits_while_another_communicates(container: pc.Container) -> None:
    """Who waits does not keep the other from reading, without which the end would never come."""
    process = container.popen(["head", "-c", "1000000", "/dev/zero"], stdout=PIPE)
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(process.wait(60)))
    thread.start()
    time.sleep(0.2)
    assert len(process.communicate(timeout=60)[0]) == 1_000_000
    thread.join()
    assert codes == [0]


def test_input_that_the_program_does_not_want(container: pc.Container) -> None:
    process = container.popen(["true"], stdin=PIPE, stdout=PIPE)
    process.wait(60)
    process.stdin.write(b"x")
    assert process.communicate(timeout=60) == (b"", b"")


def test_signals(container: pc.Container) -> None:
    script = "trap 'echo usr1; exit 5' USR1; echo ready; while :; do sleep 0.01; done"
    with container.popen(["sh", "-c", script], stdout=PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        process.send_signal("USR1")
        assert process.stdout.read() == b"usr1\n"
    assert process.returncode == 5


def test_terminate_and_kill(container: pc.Container) -> None:
    process = container.popen(["sleep", "1000"])
    process.terminate()
    assert process.wait(60) == -signal.SIGTERM
    process = container.popen(["sleep", "1000"])
    process.kill()
    assert process.wait(60) == -signal.SIGKILL


def test_a_signal_to_the_dead_is_nothing(container: pc.Container) -> None:
    process = container.popen(["true"])
    process.wait(60)
    process.terminate()
    process.kill()
    process.send_signal(signal.SIGINT)
    assert process.returncode == 0


def test_a_stopped_program_goes_on(container: pc.Container) -> None:
    with container.popen(["cat"], stdin=PIPE, stdout=PIPE, bufsize=0) as process:
        process.send_signal(signal.SIGSTOP)
        process.stdin.write(b"x")
        process.send_signal(signal.SIGCONT)
        assert process.stdout.read(1) == b"x"
        process.stdin.close()


def test_leaving_the_context_closes_and_waits(container: pc.Container) -> None:
    with nothing_left():
        with container.popen(["sh", "-c", "cat >/dev/null; exit 6"], stdin=PIPE, stdout=PIPE) as process:
            pass
        assert process.returncode == 6
        assert process.stdin.closed
        assert process.stdout.closed


def test_leaving_the_context_by_an_error_does_not_hang(container: pc.Container) -> None:
    began = time.monotonic()
    with pytest.raises(ZeroDivisionError), container.popen(["sleep", "1000"], stdout=PIPE):
        raise ZeroDivisionError
    assert time.monotonic() - began < 20


def test_stderr_into_stdout(container: pc.Container) -> None:
    process = container.popen(["sh", "-c", "echo a; echo b >&2"], stdout=PIPE, stderr=subprocess.STDOUT)
    assert process.communicate(timeout=60) == (b"a\nb\n", b"")


def test_files_are_of_the_kind_that_popen_gives(container: pc.Container) -> None:
    with container.popen(["cat"], stdin=PIPE, stdout=PIPE) as process:
        assert isinstance(process.stdin, io.BufferedWriter)
        assert isinstance(process.stdout, io.BufferedReader)
    with container.popen(["cat"], stdin=PIPE, stdout=PIPE, encoding="latin-1") as process:
        assert isinstance(process.stdin, io.TextIOWrapper)
        assert process.stdout.encoding == "latin-1"
        process.stdin.write("é")
        process.stdin.close()
        assert process.stdout.read() == "é"
    with container.popen(["cat"], stdin=PIPE, stdout=PIPE, bufsize=0) as process:
        assert isinstance(process.stdin, io.FileIO)


def test_a_failed_start_leaves_nothing(container: pc.Container) -> None:
    with nothing_left(), pytest.raises(pc.LaunchError, match="no-such-program"):
        container.popen(["no-such-program"], stdin=PIPE, stdout=PIPE, stderr=PIPE)


def test_streams_are_given_as_to_popen(container: pc.Container) -> None:
    """True is PIPE for the option `stdin`, and nothing but a mistake elsewhere."""
    for verb in (container.popen, container.exec):
        with pytest.raises(pc.InvalidOption, match="encoding='klingon'"):
            verb(["true"], encoding="klingon")
        with pytest.raises(pc.InvalidOption, match="stdout=True"):
            verb(["true"], stdout=True)
    with pytest.raises(pc.InvalidOption, match="bufsize"):
        container.popen(["true"], bufsize="1")  # type: ignore[arg-type]
    assert container.popen(["cat"], stdin=True, stdout=PIPE).communicate(b"x", timeout=60) == (b"x", b"")
    assert container.exec(["cat"], stdin=True, capture_output=True).stdout == b""


def test_iterating_needs_a_pipe(container: pc.Container) -> None:
    with container.popen(["true"]) as process, pytest.raises(pc.InvalidState, match="stdout"):
        iter(process)


def test_two_threads_may_wait(container: pc.Container) -> None:
    process = container.popen(["sleep", "0.3"])
    codes: list[int] = []
    threads = [threading.Thread(target=lambda: codes.append(process.wait(60))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [0] * 4


def test_communicate_in_one_thread_and_kill_in_another(container: pc.Container) -> None:
    process = container.popen(["sleep", "1000"], stdout=PIPE)
    timer = threading.Timer(0.3, process.kill)
    timer.start()
    assert process.communicate(timeout=60) == (b"", b"")
    timer.join()
    assert process.returncode == -signal.SIGKILL


def test_many_at_once(container: pc.Container) -> None:
    with nothing_left():
        processes = [
            container.popen(["sh", "-c", f"read x; echo {n}"], stdin=PIPE, stdout=PIPE) for n in range(20)
        ]
        found = [process.communicate(b"\n", timeout=60)[0] for process in processes]
        assert found == [f"{n}\n".encode() for n in range(20)]
        del processes


def test_a_program_that_outlives_its_reader_dies_with_the_container() -> None:
    seconds = unique_seconds()
    with sleeper() as container:
        container.popen(["sleep", seconds], stdout=PIPE).stdout.close()
        until(lambda: with_argument(seconds), "the program runs")
    until(lambda: not with_argument(seconds), "the program is gone")
