"""`attach()`: the streams and the terminal of a running container."""

from __future__ import annotations

import gc
import os
import signal
import time

import pytest
from pexpect import EOF, fdpexpect

import pycontainer as pc
from containers import nothing_left, sleeper, until

TALK = "while read line; do echo out $line; echo err $line >&2; done; echo over"


def talker() -> pc.Container:
    return pc.start("host", ["sh", "-c", TALK], stdin=pc.PIPE)


def shell() -> pc.Container:
    return pc.start("host", ["sh"], tty=True, env={"PS1": "$ "})


def test_a_conversation() -> None:
    with nothing_left(), talker() as container:
        with container.attach() as one:
            assert one.stderr is not None
            assert one.stdin is container.stdin
            assert one.write(b"hello\n") == 6
            assert one.stdout.readline() == b"out hello\n"
            assert one.stderr.readline() == b"err hello\n"
            one.write(b"again\n")
            assert one.read(100) == b"out again\n"
        assert container.status == "running"
        container.kill()


def test_closing_the_input_is_the_programs_end_of_file() -> None:
    for closed_by in ("attachment", "container"):
        with nothing_left(), talker() as container, container.attach() as attachment:
            file = attachment.stdin if closed_by == "attachment" else container.stdin
            assert file is not None
            file.close()
            assert attachment.read() == b"over\n"
            assert container.wait(60).returncode == 0


def test_detaching_leaves_the_input_open() -> None:
    with talker() as container:
        container.attach().close()
        with container.attach() as attachment:
            attachment.write(b"still\n")
            assert attachment.stdout.readline() == b"out still\n"


def test_several_at_once_see_the_same() -> None:
    with nothing_left(), talker() as container:
        with container.attach() as one, container.attach() as two:
            one.write(b"x\n")
            two.write(b"y\n")
            for attachment in (one, two):
                assert attachment.stdout.readline() == b"out x\n"
                assert attachment.stdout.readline() == b"out y\n"
        with container.attach() as late:
            late.write(b"z\n")
            assert late.stdout.readline() == b"out z\n"
        assert container.logs().read().count(b"out") == 3


def test_its_lines_as_they_come() -> None:
    script = "echo out; sleep 0.1; echo err >&2; sleep 0.1; printf end"
    with (
        nothing_left(),
        pc.create("host", ["sh", "-c", script]) as container,
        container.attach() as attachment,
    ):
        container.start()
        assert list(attachment) == [b"out\n", b"err\n", b"end"]


def test_attached_before_the_start_one_misses_nothing() -> None:
    with pc.create("host", ["cat"], stdin=pc.PIPE) as container, container.attach() as attachment:
        assert attachment.stdin is None
        with pytest.raises(pc.InvalidState, match="stdin=PIPE"):
            attachment.write(b"x")
        container.start()
        attachment.write(b"first\n")
        assert attachment.stdout.readline() == b"first\n"


def test_it_goes_on_over_restarts() -> None:
    with (
        nothing_left(),
        pc.create("host", ["sh", "-c", "echo x; exit 1"], restart="on-failure:2") as container,
        container.attach() as attachment,
    ):
        container.start()
        assert attachment.read() == b"x\n" * 3


def test_one_that_ended_has_nothing_to_attach_to() -> None:
    with pc.start("host", ["true"]) as container:
        container.wait(60)
        with pytest.raises(pc.InvalidState, match="attach"):
            container.attach()
    with pytest.raises(pc.InvalidState, match="attach"):
        container.attach()


def test_who_does_not_read_holds_up_nobody() -> None:
    with (
        nothing_left(),
        pc.create("host", ["sh", "-c", "head -c 20M /dev/zero; echo end >&2"]) as container,
        container.attach() as attachment,
    ):
        assert attachment.stderr is not None
        container.start()
        assert container.wait(60).returncode == 0
        assert attachment.stderr.read() == b"end\n"
        rest = attachment.read()
        assert len(rest) + attachment.lost == 20 * 2**20
        assert attachment.lost > 2**20


def test_one_that_is_forgotten_is_detached() -> None:
    for tty in (False, True):
        with sleeper(tty=tty) as container, container.attach(), nothing_left():
            container.attach()
            gc.collect()


def test_whose_reader_closed_its_end() -> None:
    with nothing_left(), talker() as container, container.attach() as attachment:
        attachment.stdout.close()
        attachment.write(b"x\n")
        assert attachment.stderr is not None
        assert attachment.stderr.readline() == b"err x\n"


def test_a_forked_child_does_not_keep_it_open() -> None:
    with talker() as container, container.attach() as attachment:
        child = os.fork()
        if child == 0:
            time.sleep(30)
            os._exit(0)
        container.kill()
        try:
            assert attachment.read() == b""
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


# Terminals.


def test_a_shell_session() -> None:
    with nothing_left(), shell() as container:
        with container.attach() as attachment:
            session = fdpexpect.fdspawn(attachment, timeout=30)
            session.sendline("echo $((6 * 7))")
            session.expect_exact("42\r\n")
            session.sendline("test -t 0 && test -t 1 && tty")
            session.expect_exact("/dev/pts/0\r\n")
            attachment.resize(50, 132)
            session.sendline("stty size")
            session.expect_exact("50 132\r\n")
            session.sendline("sleep 1000")
            time.sleep(0.2)
            session.send("\x03")
            session.sendline("echo interrupted=$?")
            session.expect_exact("interrupted=130\r\n")
            session.send("\x04")
            session.expect(EOF)
        assert container.wait(60).returncode == 0


def test_bash_with_line_editing() -> None:
    with pc.start("host", ["bash", "--norc", "--noprofile"], tty=True) as container:
        with container.attach() as attachment:
            session = fdpexpect.fdspawn(attachment.fileno(), timeout=30)
            session.sendline("echo a$((1 + 1))b")
            session.expect_exact("a2b\r\n")
            session.send("echo wrogn\x7f\x7fng\n")
            session.expect_exact("wrong\r\n")
        with container.attach() as attachment:
            assert attachment.stdin is not None
            attachment.stdin.close()
            assert attachment.read().endswith(b"exit\r\n")
        assert container.wait(60).returncode == 0


def test_a_terminals_end_of_file_after_part_of_a_line() -> None:
    with pc.start("host", ["cat"], tty=True) as container, container.attach() as attachment:
        assert (attachment.stderr, attachment.stdin is None) == (None, False)
        attachment.write(b"part")
        assert attachment.stdin is not None
        attachment.stdin.close()
        assert attachment.read() == b"partpart"


def test_closing_a_containers_own_terminal_input() -> None:
    with pc.start("host", ["cat"], tty=True, stdin=pc.PIPE) as container:
        assert container.stdin is not None
        container.stdin.write(b"typed\n")
        container.stdin.close()
        assert container.wait(60).stdout == b"typed\r\ntyped\r\n"


def test_a_terminal_in_several_hands() -> None:
    with nothing_left(), shell() as container:
        with container.attach() as one, container.attach() as two:
            one.write(b"echo from $((1))\n")
            two.write(b"echo from $((2))\n")
            for attachment in (one, two):
                seen = b""
                while not (b"from 1\r\n" in seen and b"from 2\r\n" in seen):
                    seen += attachment.read(1000)
        assert container.status == "running"


def test_typing_before_the_start() -> None:
    with (
        nothing_left(),
        pc.create("host", ["head", "-n", "1"], tty=True) as container,
        container.attach() as attachment,
    ):
        attachment.write(b"early\n")
        container.start()
        assert attachment.read() == b"early\r\nearly\r\n"


def test_more_typed_than_a_program_reads() -> None:
    """A terminal takes 4 KiB that nobody reads; what is more waits here, and the output still comes."""
    script = "stty -icanon -echo; sleep 0.2; echo ready; sleep 1000"
    with pc.start("host", ["sh", "-c", script], tty=True) as container, container.attach() as attachment:
        assert attachment.stdout.readline() == b"ready\r\n"
        attachment.write(b"x" * 60_000)
        container.exec(["sh", "-c", "echo over > /dev/pts/0"])
        assert attachment.stdout.readline() == b"over\r\n"


def test_who_was_given_the_descriptor_may_close_it() -> None:
    with nothing_left(), shell() as container, container.attach() as attachment:
        os.close(attachment.fileno())
        until(lambda: container._journal._listeners == (), "it is detached")


# What `run` types.


def typed(args: list[str], data: bytes) -> bytes:
    done = pc.run("host", args, tty=True, input=data, stdout=pc.PIPE, timeout=30)
    assert done.returncode == 0
    return bytes(done.stdout)


def test_input_to_a_terminal_has_an_end() -> None:
    assert typed(["cat"], b"line\n") == b"line\r\nline\r\n"
    assert typed(["cat"], b"part") == b"partpart"
    assert typed(["cat"], b"") == b""
    assert b"42\r\n" in typed(["sh"], b"PS1=\necho $((6 * 7))\n")
    assert b"42\r\n" in typed(["bash", "--norc"], b"echo $((6 * 7))\n")
    assert typed(["sh", "-c", "cat; cat"], b"once\n").count(b"once") == 2


def test_communicate_with_a_terminal_has_an_end() -> None:
    with sleeper() as container:
        process = container.popen(["cat"], tty=True, stdin=pc.PIPE, stdout=pc.PIPE)
        assert process.communicate(b"line\n", timeout=30) == (b"line\r\nline\r\n", b"")


def test_a_program_that_repeats_all_that_is_typed_is_not_fed_for_ever() -> None:
    script = "stty raw echo; echo ready; dd bs=1 count=40 2>/dev/null >/dev/null; sleep 0.2"
    assert typed(["sh", "-c", script], b"x\n").count(b"\x04") < 200
