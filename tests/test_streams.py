"""Standard streams: where they come from and go to, in any amount, without deadlock or loss."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path

import pytest

import pycontainer as pc
from containers import SECONDS, nothing_left, out, sh

MUCH = 50 * 2**20


def test_fifty_megabytes_both_ways() -> None:
    data = os.urandom(2**20) * (MUCH // 2**20)
    result = pc.run("host", ["cat"], input=data, capture_output=True, timeout=120)
    assert len(result.stdout) == MUCH
    assert hashlib.sha256(result.stdout).digest() == hashlib.sha256(data).digest()


def test_both_outputs_at_once() -> None:
    script = "head -c 5000000 /dev/zero & head -c 5000000 /dev/zero >&2; wait"
    result = sh(script, text=False)
    assert (len(result.stdout), len(result.stderr)) == (5_000_000, 5_000_000)


def test_input_that_nobody_reads_does_no_harm() -> None:
    result = pc.run("host", ["true"], input=b"x" * 5_000_000, capture_output=True, timeout=SECONDS)
    assert result.returncode == 0


def test_input_that_is_read_in_part() -> None:
    result = pc.run(
        "host", ["head", "-c", "3"], input=b"abcdef" * 10**6, capture_output=True, timeout=SECONDS
    )
    assert result.stdout == b"abc"


@pytest.mark.parametrize("data", [b"abc", bytearray(b"abc"), memoryview(b"abc")])
def test_input_may_be_anything_like_bytes(data: object) -> None:
    assert pc.run("host", ["cat"], input=data, capture_output=True).stdout == b"abc"


def test_empty_input_is_an_end_of_file_at_once() -> None:
    assert pc.run("host", ["cat"], input=b"", capture_output=True, timeout=SECONDS).stdout == b""


def test_stdin_is_empty_unless_given() -> None:
    assert pc.run("host", ["cat"], capture_output=True, timeout=SECONDS).stdout == b""
    assert out("readlink /proc/self/fd/0") == "/dev/null"


def test_text_in_and_out() -> None:
    result = pc.run("host", ["cat"], input="grüße\n", capture_output=True, text=True)
    assert result.stdout == "grüße\n"
    assert result.stderr == ""


def test_text_has_universal_newlines() -> None:
    assert sh("printf 'a\\r\\nb\\rc\\n'").stdout == "a\nb\nc\n"


def test_encoding_and_errors_imply_text() -> None:
    latin = pc.run("host", ["printf", r"\351"], capture_output=True, encoding="latin-1")
    assert latin.stdout == "é"
    replaced = pc.run("host", ["printf", r"\351"], capture_output=True, errors="replace")
    assert replaced.stdout == "\N{REPLACEMENT CHARACTER}"
    back = pc.run("host", ["cat"], input="é", capture_output=True, encoding="latin-1")
    assert back.stdout == "é"


def test_bytes_that_are_no_text_raise() -> None:
    with nothing_left(), pytest.raises(UnicodeDecodeError):
        pc.run("host", ["printf", r"\377"], capture_output=True, text=True)


def test_wrong_input_is_refused() -> None:
    for wrong in ("text", 3, ["x"]):
        with nothing_left(), pytest.raises(pc.InvalidOption, match="input"):
            pc.run("host", ["cat"], input=wrong)
    with pytest.raises(pc.InvalidOption, match="stdin"):
        pc.run("host", ["cat"], input=b"x", stdin=pc.DEVNULL)
    with pytest.raises(pc.InvalidOption, match="capture_output"):
        pc.run("host", ["cat"], capture_output=True, stdout=pc.PIPE)


def test_one_stream_at_a_time() -> None:
    script = ["sh", "-c", "echo out; echo err >&2"]
    only = pc.run("host", script, stdout=pc.PIPE, stderr=pc.DEVNULL)
    assert (only.stdout, only.stderr) == (b"out\n", b"")
    other = pc.run("host", script, stdout=pc.DEVNULL, stderr=pc.PIPE)
    assert (other.stdout, other.stderr) == (b"", b"err\n")


def test_stderr_into_stdout_keeps_the_order() -> None:
    script = "for i in 1 2 3 4 5; do echo o$i; echo e$i >&2; done"
    result = pc.run("host", ["sh", "-c", script], stdout=pc.PIPE, stderr=pc.STDOUT)
    assert result.stdout.split() == [f"{kind}{n}".encode() for n in range(1, 6) for kind in "oe"]
    assert result.stderr == b""


def test_stderr_into_a_file_that_is_stdout(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file:
        pc.run("host", ["sh", "-c", "echo a; echo b >&2"], stdout=file, stderr=pc.STDOUT)
    assert (tmp_path / "out").read_bytes() == b"a\nb\n"


def test_files_and_descriptors(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"from a file")
    with (tmp_path / "in").open("rb") as source, (tmp_path / "out").open("wb") as target:
        pc.run("host", ["cat"], stdin=source, stdout=target, check=True)
        pc.run("host", ["sh", "-c", "echo err >&2"], stderr=target.fileno(), check=True)
    assert (tmp_path / "out").read_bytes() == b"from a fileerr\n"


def test_a_files_position_is_shared(tmp_path: Path) -> None:
    path = tmp_path / "in"
    path.write_bytes(b"abcdef")
    with path.open("rb", buffering=0) as source:
        source.seek(2)
        assert pc.run("host", ["head", "-c", "2"], stdin=source, capture_output=True).stdout[:2] == b"cd"


def test_a_temporary_file_in_memory_is_no_file() -> None:
    import io

    with nothing_left(), pytest.raises(pc.InvalidOption, match="stdout"):
        pc.run("host", ["true"], stdout=io.BytesIO())


def test_a_closed_file_is_refused() -> None:
    with tempfile.TemporaryFile() as file:
        pass
    with nothing_left(), pytest.raises(pc.InvalidOption, match="stdin"):
        pc.run("host", ["true"], stdin=file)


def test_a_pipe_of_the_callers() -> None:
    read, write = os.pipe()
    with os.fdopen(read, "rb") as reader:
        pc.run("host", ["echo", "x"], stdout=write)
        os.close(write)
        assert reader.read() == b"x\n"


def test_none_is_this_processs_own(capfd: pytest.CaptureFixture[str]) -> None:
    pc.run("host", ["sh", "-c", "echo out; echo err >&2"])
    assert capfd.readouterr() == ("out\n", "err\n")


def host_program(code: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    """Another host process, with streams of its own."""
    program = [sys.executable, "-W", "error", "-c", "import pycontainer as pc\n" + textwrap.dedent(code)]
    environment = os.environ | {"PYTHONPATH": str(Path(next(iter(pc.__path__))).parent)}
    return subprocess.run(program, env=environment, timeout=SECONDS, check=True, **options)  # type: ignore[call-overload,no-any-return]


def test_a_terminal_of_the_hosts_is_written_to_but_never_handed_over() -> None:
    ours, theirs = os.openpty()
    code = (
        "pc.run('host', ['sh', '-c', 'test -t 1 || echo no terminal; readlink /proc/self/fd/1 | cut -c1-4'])"
    )
    try:
        host_program(code, stdin=theirs, stdout=theirs, stderr=theirs)
        os.set_blocking(ours, False)
        assert os.read(ours, 1000).split(b"\r\n") == [b"no terminal", b"pipe", b""]
    finally:
        os.close(ours)
        os.close(theirs)


def test_what_is_typed_at_a_terminal_of_the_hosts_is_passed_on() -> None:
    """The terminal itself would let the program type into it, and change it."""
    ours, theirs = os.openpty()
    script = "test -t 0 || echo no terminal; cat"
    try:
        os.write(ours, b"one\ntwo\n")
        threading.Timer(0.3, os.write, (ours, b"three\n\x04")).start()
        done = pc.run("host", ["sh", "-c", script], stdin=theirs, capture_output=True, timeout=SECONDS)
        assert done.stdout == b"no terminal\none\ntwo\nthree\n"
        os.write(ours, b"four\n")
        assert pc.run("host", ["true"], stdin=theirs, timeout=SECONDS).returncode == 0
        with pytest.raises(pc.Timeout):
            pc.run("host", ["sleep", "60"], stdin=theirs, timeout=0.2)
        with pc.start("host", ["sleep", "60"]) as container:
            os.write(ours, b"five\n")
            joined = container.exec(["head", "-n", "1"], stdin=theirs, capture_output=True, timeout=SECONDS)
            assert joined.stdout in (b"four\n", b"five\n")
            with pytest.raises(pc.InvalidOption, match="terminal"):
                container.popen(["cat"], stdin=theirs)
        with pytest.raises(pc.InvalidOption, match="terminal"):
            pc.start("host", ["cat"], stdin=theirs)
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_host_whose_streams_are_closed() -> None:
    code = """
        import os
        for fd in (0, 1, 2): os.close(fd)
        command = ["sh", "-c", "cat; echo kept; echo kept >&2"]
        result = pc.run("host", command, input=b"in ", capture_output=True)
        os._exit(0 if (result.stdout, result.stderr) == (b"in kept\\n", b"kept\\n") else 1)
    """
    host_program(code)


def test_a_slow_reader_slows_the_program_and_loses_nothing() -> None:
    read, write = os.pipe()
    seen = 0

    def reader() -> None:
        nonlocal seen
        with os.fdopen(read, "rb", buffering=0) as file:
            while data := file.read(2**16):
                seen += len(data)
                time.sleep(0.0005)

    thread = threading.Thread(target=reader)
    thread.start()
    pc.run("host", ["head", "-c", "8000000", "/dev/zero"], stdout=write, check=True, timeout=SECONDS)
    os.close(write)
    thread.join()
    assert seen == 8_000_000


def test_the_output_of_a_program_that_dies_at_once_is_whole() -> None:
    for _ in range(20):
        assert len(sh("head -c 60000 /dev/zero; kill -KILL $$", text=False).stdout) == 60_000
