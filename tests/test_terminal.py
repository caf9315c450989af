"""Programs with a terminal: `tty=True`, its size, its input and what it is to the host's own."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest

import pycontainer as pc
from containers import nothing_left, out, python, sh, sleeper, until


def test_all_three_streams_are_one_terminal() -> None:
    result = sh("test -t 0 && test -t 1 && test -t 2 && tty", tty=True)
    assert result.returncode == 0
    assert result.stdout.strip() == "/dev/pts/0"
    assert result.stderr == ""


def test_without_it_there_is_none() -> None:
    assert sh("test -t 0 || test -t 1 || test -t 2").returncode == 1
    assert sh("echo x > /dev/tty").returncode != 0


def test_it_is_the_controlling_terminal_of_a_session_of_its_own() -> None:
    code = (
        "import os; print(os.getsid(0) == os.getpid() == os.tcgetpgrp(0)); open('/dev/tty', 'w').write('ok')"
    )
    assert python(code, tty=True).stdout.split() == ["True", "ok"]


def test_its_user_owns_it() -> None:
    assert sh("stat -c %u $(tty); stat -c %u /dev/console", tty=True, user="1234").stdout.split()[0] == "1234"
    assert sh("echo x > $(tty)", tty=True, user="1234").stdout.strip() == "x"


def test_term_is_set_and_may_be_changed() -> None:
    assert out("echo $TERM", tty=True) == "xterm"
    assert out("echo $TERM", tty=True, env={"TERM": "dumb"}) == "dumb"
    assert out("echo ${TERM-none}") == "none"


def test_its_first_size() -> None:
    assert out("stty size", tty=True) == "24 80"


def test_input_goes_through_the_terminal() -> None:
    done = pc.run("host", ["head", "-n", "1"], input=b"typed\n", stdout=pc.PIPE, tty=True, timeout=60)
    assert done.stdout.split(b"\r\n")[:2] == [b"typed", b"typed"]


@pytest.mark.parametrize("stdin", [None, subprocess.DEVNULL])
def test_empty_input_is_an_end_of_file_on_a_terminal_too(stdin: Any) -> None:
    assert sh("cat; echo done", tty=True, stdin=stdin, timeout=60).stdout == "done\n"
    with pc.start("host", ["sleep", "600"]) as container:
        done = container.exec(["cat"], tty=True, stdin=stdin, capture_output=True, timeout=60)
        assert (done.returncode, done.stdout) == (0, b"")


def test_much_output_through_a_terminal_is_whole() -> None:
    done = pc.run("host", ["seq", "200000"], stdout=pc.PIPE, tty=True, timeout=60)
    assert done.stdout.split() == [str(n).encode() for n in range(1, 200_001)]


def test_status_and_timeout() -> None:
    assert sh("exit 3", tty=True).returncode == 3
    with nothing_left(), pytest.raises(pc.Timeout) as caught:
        sh("echo early; sleep 1000", tty=True, timeout=2)
    assert caught.value.stdout == "early\n"


def test_a_start_that_fails_leaves_no_terminal() -> None:
    with nothing_left():
        with pytest.raises(pc.LaunchError):
            pc.run("host", ["/no/such"], tty=True)
        with pytest.raises(pc.LaunchError):
            pc.start("host", ["/no/such"], tty=True)


def test_what_a_terminal_cannot_be() -> None:
    read, write = os.pipe()
    try:
        for options in ({"stderr": write}, {"stdin": read}):
            with nothing_left(), pytest.raises(pc.InvalidOption, match="tty"):
                pc.run("host", ["true"], tty=True, **options)  # type: ignore[arg-type]
    finally:
        os.close(read)
        os.close(write)


WATCH_SIZE = "trap 'stty size' WINCH; stty size; while :; do sleep 0.02; done"


def test_resizing_a_container() -> None:
    script = "trap 'stty size | tee /tmp/size' WINCH; stty size | tee /tmp/size; while :; do sleep 0.02; done"
    with pc.start("host", ["sh", "-c", script], tty=True) as container:

        def shown(text: bytes) -> Callable[[], bool]:
            return lambda: container.exec(["cat", "/tmp/size"], capture_output=True).stdout == text

        until(shown(b"24 80\n"), "the first size")
        container.resize(50, 132)
        until(shown(b"50 132\n"), "the new size")
        container.kill()
        assert container.wait(60).stdout == b"24 80\r\n50 132\r\n"


def test_a_container_without_a_terminal_has_no_size() -> None:
    with sleeper() as container, pytest.raises((OSError, pc.InvalidState), match="terminal"):
        container.resize(10, 10)


def test_typing_into_a_container() -> None:
    script = "read line; echo got $line"
    with pc.start("host", ["sh", "-c", script], tty=True, stdin=pc.PIPE) as container:
        assert container.stdin is not None
        container.stdin.write(b"this\n")
        assert container.wait(60).stdout.split(b"\r\n") == [b"this", b"got this", b""]


def test_typing_an_interrupt() -> None:
    with pc.start("host", ["sleep", "1000"], tty=True, stdin=pc.PIPE) as container:
        assert container.stdin is not None
        time.sleep(0.1)
        container.stdin.write(b"\x03")
        assert container.wait(60).returncode == -signal.SIGINT


def test_a_terminal_for_a_joining_program() -> None:
    with sleeper() as container:
        done = container.exec(["sh", "-c", "tty; stty size"], tty=True, capture_output=True, text=True)
        assert done.returncode == 0
        assert done.stdout.split()[-2:] == ["24", "80"]
        with container.popen(["sh", "-c", WATCH_SIZE], tty=True, stdin=pc.PIPE, stdout=pc.PIPE) as process:
            assert process.stdout.readline() == b"24 80\r\n"
            process.resize(33, 44)
            assert process.stdout.readline() == b"33 44\r\n"
            process.stdin.write(b"\x03")
            process.stdin.flush()
            assert process.wait(60) == -signal.SIGINT


def test_a_terminal_that_was_closed_has_no_size() -> None:
    with pc.start("host", ["sleep", "600"]) as container:
        process = container.popen(["true"], tty=True, stdout=pc.PIPE)
        process.communicate(timeout=60)
        with pytest.raises(pc.InvalidState, match="resize"):
            process.resize(10, 10)


def test_a_shell_on_a_terminal_line_by_line() -> None:
    with sleeper() as container, container.popen(["cat"], tty=True, stdin=pc.PIPE, stdout=pc.PIPE) as process:
        process.stdin.write(b"one\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"one\r\n"
        assert process.stdout.readline() == b"one\r\n"
        process.stdin.write(b"\x04")
        process.stdin.flush()
        assert process.stdout.read() == b""
        assert process.wait(60) == 0


def test_communicate_on_a_terminal() -> None:
    with sleeper() as container:
        process = container.popen(["head", "-n", "1"], tty=True, stdin=pc.PIPE, stdout=pc.PIPE)
        stdout, stderr = process.communicate(b"line\n", timeout=60)
        assert (stdout, stderr) == (b"line\r\nline\r\n", b"")


def test_communicate_on_a_terminal_goes_on_after_a_timeout() -> None:
    script = "trap 'stty size' WINCH; head -n 1; while :; do sleep 0.02; done"
    with sleeper() as container, nothing_left():
        process = container.popen(["sh", "-c", script], tty=True, stdin=pc.PIPE, stdout=pc.PIPE)

        def read(data: bytes | None = None) -> bytes:
            with pytest.raises(pc.Timeout) as caught:
                process.communicate(data, timeout=0.1)
            return bytes(caught.value.stdout)

        read(b"line\n")
        until(lambda: read().count(b"line\r\n") == 2, "echo and answer")
        assert process.poll() is None
        process.resize(33, 44)
        until(lambda: read().endswith(b"33 44\r\n"), "the new size")
        process.kill()
        assert process.communicate(timeout=60)[0] == b"line\r\nline\r\n33 44\r\n"
        assert process.returncode == -signal.SIGKILL
        with pytest.raises(pc.InvalidState, match="resize"):
            process.resize(10, 10)


def test_the_hosts_terminals_are_not_there() -> None:
    ours, theirs = os.openpty()
    try:
        assert sorted(out("ls /dev/pts", tty=True).split()) == ["0", "ptmx"]
    finally:
        os.close(ours)
        os.close(theirs)


def test_faking_input_is_refused() -> None:
    """TIOCSTI pushes bytes into a terminal's input, which the host's shell would read afterwards."""
    code = """
import fcntl, termios, errno
try:
    fcntl.ioctl(0, termios.TIOCSTI, b'x')
except OSError as error:
    print(errno.errorcode[error.errno])
"""
    assert python(code, tty=True).stdout.strip() in ("EPERM", "EIO")
