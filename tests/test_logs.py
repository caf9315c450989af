"""`logs()`: what a container wrote, in memory, in files, told on; as a whole, by lines, as it comes."""

from __future__ import annotations

import datetime
import logging
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pycontainer as pc
from containers import PYTHON, nothing_left, sleeper, until
from pycontainer.logs import files, memory
from pycontainer.logs.files import FileLog, LogFiles
from pycontainer.logs.journal import Journal, Log
from pycontainer.logs.lines import LONGEST_LINE, Blocks, Entry, Lines
from pycontainer.logs.memory import MemoryLog
from pycontainer.logs.reading import Logs
from pycontainer.output import Taking


def written(script: str, **options: Any) -> pc.Container:
    """A container that has run a shell script to its end."""
    container = pc.start("host", ["sh", "-c", script], **options)
    container.wait(60)
    return container


def view(log: Log, **options: Any) -> Logs:
    chosen: dict[str, Any] = {"tail": None, "since": None, "follow": False, "text": False} | options
    return Logs(Journal(log, lambda: False), "a test", **chosen)


@pytest.fixture(params=["memory", "file"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Log:
    return MemoryLog() if request.param == "memory" else FileLog(str(tmp_path / "log"))


def test_both_streams_in_the_order_of_their_arrival() -> None:
    with nothing_left(), written("echo a; sleep 0.05; echo b >&2; sleep 0.05; echo c") as container:
        assert container.logs().read() == b"a\nb\nc\n"
        assert [(line.stream, line.data) for line in container.logs().entries()] == [
            ("stdout", b"a\n"),
            ("stderr", b"b\n"),
            ("stdout", b"c\n"),
        ]
        assert container.wait(60).stdout == b"a\nc\n"
        assert container.logs() == b"a\nb\nc\n"


def test_everything_that_one_does_with_logs() -> None:
    with written("echo one; echo two; printf three") as container:
        logs = container.logs()
        assert list(logs) == [b"one\n", b"two\n", b"three"]
        assert list(logs) == list(logs), "it can be iterated over again"
        assert b"".join(logs) == logs.read() == bytes(logs) == b"one\ntwo\nthree"
        assert b"two" in logs
        assert b"four" not in logs
        assert logs == b"one\ntwo\nthree"
        assert logs == [b"one\n", b"two\n", b"three"]
        assert logs == container.logs()
        assert logs != b"one"
        assert logs != 5
        assert len(logs) == 3
        assert logs
        assert logs.splitlines() == [b"one", b"two", b"three"]
        assert logs.decode() == str(logs) == "one\ntwo\nthree"
        assert logs.strip() == b"one\ntwo\nthree"
        assert (logs[0], logs[-1], logs[1:]) == (b"one\n", b"three", [b"two\n", b"three"])
        assert logs.split() == logs.split(b"\n") == [b"one", b"two", b"three"]
        assert (logs.count(b"e"), logs.startswith(b"one"), logs.endswith(b"\n")) == (3, True, False)
        with pytest.raises(TypeError):
            container.logs(follow=True)[0]
        assert next(container.logs()) == b"one\n"
        text = container.logs(text=True)
        assert list(text) == ["one\n", "two\n", "three"]
        assert "two" in text
        assert text == text.read() == "one\ntwo\nthree"
        assert bytes(text) == b"one\ntwo\nthree"
        assert "\n" not in repr(logs)
        with pytest.raises(TypeError):
            hash(logs)


def test_none_yet() -> None:
    with pc.create("host", ["true"]) as container:
        logs = container.logs()
        assert (logs.read(), len(logs), bool(logs), list(logs), logs.lost) == (b"", 0, False, [], 0)
        assert container.logs(text=True).read() == ""


def test_a_log_that_was_taken_stays_as_it_was() -> None:
    with pc.start("host", ["cat"], stdin=pc.PIPE) as container:
        before = container.logs()
        assert container.stdin is not None
        container.stdin.write(b"later\n")
        until(lambda: container.logs(), "the line is there")
        assert before.read() == b""


def test_tail() -> None:
    with written("seq 10") as container:
        assert container.logs(tail=3).read() == b"8\n9\n10\n"
        assert container.logs(tail=0).read() == b""
        assert len(container.logs(tail=100)) == 10
        assert list(container.logs(tail=2, follow=True)) == [b"9\n", b"10\n"]
        for wrong in (-1, "all", 1.5, True):
            with pytest.raises(pc.InvalidOption, match="tail"):
                container.logs(tail=wrong)  # type: ignore[arg-type]


def test_since() -> None:
    with pc.start("host", ["sh", "-c", "echo early; sleep 0.6; echo late"]) as container:
        until(lambda: container.logs(), "the first line is there")
        time.sleep(0.1)
        moment = time.time()
        container.wait(60)
        zone = datetime.timezone(datetime.timedelta(hours=5))
        for since in (
            moment,
            datetime.datetime.fromtimestamp(moment),
            datetime.datetime.fromtimestamp(moment, zone),
            datetime.datetime.fromtimestamp(moment).isoformat(),
            datetime.datetime.fromtimestamp(moment, zone).isoformat(" "),
            datetime.datetime.fromtimestamp(moment, zone.utc).strftime("%Y-%m-%dT%H:%M:%S.%f123Z"),
            time.time() - moment,
            datetime.timedelta(seconds=time.time() - moment),
        ):
            assert container.logs(since=since).read() == b"late\n", since
        assert container.logs(since="1m").read() == b"early\nlate\n"
        assert container.logs(since=moment, follow=True).read() == b"late\n"
        assert container.logs(since="2001-02-03").read() == b"early\nlate\n"
        for wrong in ("yesterday", "2001-02-30", "2001-02-03T12:00:00 o'clock", -1, float("nan")):
            with pytest.raises(pc.InvalidOption, match="since"):
                container.logs(since=wrong)


def test_following_to_the_end() -> None:
    script = "for i in 1 2 3; do echo $i; sleep 0.1; done; printf part; sleep 0.1; echo ial; printf end"
    with nothing_left(), pc.start("host", ["sh", "-c", script]) as container:
        logs = container.logs(follow=True)
        assert next(logs) == b"1\n"
        assert container.status == "running"
        assert list(logs) == [b"2\n", b"3\n", b"partial\n", b"end"]
        with pytest.raises(TypeError, match="length"):
            len(logs)
        assert container.logs(follow=True).read() == b"1\n2\n3\npartial\nend"


def test_following_ends_with_a_container_that_says_nothing() -> None:
    with pc.start("host", ["sleep", "0.3"]) as container:
        assert list(container.logs(follow=True)) == []
    with pc.start("host", ["sh", "-c", "exec >/dev/null 2>&1; sleep 0.3"]) as container:
        assert container.logs(follow=True).read() == b""
        assert container.status == "stopped"


def in_thread(call: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(call()))
    thread.start()
    return thread, found


def test_following_from_before_the_start() -> None:
    with pc.create("host", ["echo", "hello"]) as container:
        thread, found = in_thread(lambda: container.logs(follow=True).read())
        time.sleep(0.1)
        container.start()
        thread.join(30)
        assert found == [b"hello\n"]
    with pc.create("host", ["sleep", "0.2"]) as container:
        thread, found = in_thread(lambda: container.logs(follow=True).read())
        time.sleep(0.1)
        container.start()
        thread.join(30)
        assert found == [b""]


def test_removing_a_container_ends_following() -> None:
    with pc.create("host", ["true"]) as container:
        thread, found = in_thread(lambda: container.logs(follow=True).read())
        time.sleep(0.1)
    thread.join(30)
    assert found == [b""]


def test_closing_ends_following() -> None:
    with nothing_left(), sleeper() as container:
        logs = container.logs(follow=True)
        thread, found = in_thread(lambda: list(logs))
        time.sleep(0.1)
        logs.close()
        thread.join(30)
        assert found == [[]]
        with container.logs(follow=True) as logs:
            pass
        assert list(logs) == []
        assert container.status == "running"
        assert container._journal._listeners == ()


def test_searching_while_following_waits_for_nothing_more() -> None:
    with pc.start("host", ["sh", "-c", "sleep 0.1; echo ready; sleep 1000"]) as container:
        assert b"ready" in container.logs(follow=True)


def test_logs_go_on_over_restarts() -> None:
    script = "echo start; printf 'no end'; exit 1"
    with nothing_left(), pc.start("host", ["sh", "-c", script], restart="on-failure:2") as container:
        assert list(container.logs(follow=True)) == [b"start\n", b"no end"] * 3
        assert container.logs().read() == b"start\nno end" * 3
        container.start()
        until(lambda: len(container.logs()) > 6, "it has written once more")
        container.stop()


def test_a_restart_that_is_called_off_ends_following() -> None:
    with pc.start("host", ["sh", "-c", "sleep 0.1; exit 1"], restart="always") as container:
        thread, _ = in_thread(lambda: container.logs(follow=True).read())
        until(lambda: container.restarts > 0, "it was started again")
        container.stop(timeout=0)
        thread.join(30)
        assert not thread.is_alive()


def test_a_terminals_lines() -> None:
    with written("echo one; echo two", tty=True) as container:
        assert container.logs().read() == b"one\r\ntwo\r\n"
        assert list(container.logs(text=True)) == ["one\n", "two\n"]


def test_bytes_that_are_no_text() -> None:
    with written(r"printf '\377\376\n\000\n'") as container:
        assert container.logs().read() == b"\xff\xfe\n\0\n"
        assert container.logs(text=True).read() == "��\n\0\n"


def test_a_flood_without_a_reader() -> None:
    """A gigabyte; the container is not held up, and memory stays flat."""
    with pc.start("host", ["sh", "-c", "head -c 1G /dev/zero; echo; echo last"]) as container:
        follower = container.logs(follow=True)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert container.wait(120).returncode == 0
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown < 32 * 1024, f"{grown} KiB"
        logs = container.logs()
        assert list(logs)[-1] == b"last\n"
        assert len(logs.read()) + logs.lost == 2**30 + 6
        assert len(follower.read()) + follower.lost == 2**30 + 6
        assert follower.lost > 2**29


def test_a_loud_stream_does_not_push_out_a_quiet_one() -> None:
    with written("echo reason >&2; head -c 5M /dev/zero") as container:
        assert b"reason\n" in container.logs()


def test_single_bytes_take_no_memory_without_a_bound() -> None:
    log = MemoryLog()
    for number in range(100_000):
        log.append(number, "stdout", b"\n")
    assert len(log._pieces["stdout"]) <= memory.KEEP // 32 + 1
    log = MemoryLog()
    for _ in range(100_000):
        log.append(0.0, "stdout", b"x")
    assert len(log._pieces["stdout"]) < 100
    assert view(log).read() == b"x" * 100_000


def test_what_was_read_is_not_read_again(log: Log) -> None:
    """However little arrives between two looks, also where it is put together with what was there."""
    cursor, seen = log.end(), b""
    for number in range(50):
        log.append(0.0, "stdout", b"%d" % number)
        entries, cursor, lost = log.read(cursor)
        seen += b"".join([entry.data for entry in entries])
        assert lost == 0
    assert seen == b"".join(b"%d" % number for number in range(50))
    assert log.read(cursor) == ([], cursor, 0)
    log.remove()


def test_a_follower_that_fell_behind_is_told(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "KEEP", 1000)
    monkeypatch.setattr(files, "SIZE", 500)
    monkeypatch.setattr(files, "COUNT", 2)
    cursor = log.end()
    for number in range(300):
        log.append(float(number), "stdout", b"line %d\n" % number)
    total, seen, lost = sum(len(b"line %d\n" % number) for number in range(300)), 0, 0
    while (found := log.read(cursor))[0]:
        entries, cursor, missing = found
        seen += sum(len(entry.data) for entry in entries)
        lost += missing
    assert seen + lost == total
    assert lost > 0
    assert view(log).lost == lost
    assert view(log, tail=1).read() == b"line 299\n"
    log.remove()


def test_lines_of_two_streams_are_never_mixed() -> None:
    lines = Lines()
    entries = [Entry(1, "stdout", b"a"), Entry(2, "stderr", b"x\ny"), Entry(3, "stdout", b"b\r\nc\rd")]
    assert list(lines.feed(entries)) == [Entry(2, "stderr", b"x\n"), Entry(1, "stdout", b"ab\r\n")]
    assert list(lines.feed([Entry(4, "stderr", b"")])) == [Entry(2, "stderr", b"y")]
    assert list(lines.rest()) == [Entry(3, "stdout", b"c\rd")]
    assert list(lines.rest()) == []


def test_a_line_without_an_end_comes_in_pieces() -> None:
    lines, size = Lines(), 0
    for _ in range(40):
        for line in lines.feed([Entry(0, "stdout", b"x" * 65536)]):
            assert len(line.data) == LONGEST_LINE
            size += len(line.data)
    assert size + sum(len(line.data) for line in lines.rest()) == 40 * 65536
    blocks, size = Blocks(), 0
    for _ in range(40):
        size += sum(len(block.data) for block in blocks.feed([Entry(0, "stdout", b"x" * 65536)]))
    assert size >= 39 * 65536 - LONGEST_LINE


# In files.


def test_a_log_in_files_goes_with_its_container() -> None:
    with nothing_left(), written("echo a; echo b >&2", log="file") as container:
        assert isinstance(container._journal.log, FileLog)
        directory = Path(container._journal.log.directory)
        assert container.logs().read() == read_files(directory).read() == b"a\nb\n"
        assert container.wait(60).stdout == b"a\n"
        assert [path.stat().st_mode & 0o777 for path in directory.iterdir()] == [0o600]
    assert not directory.exists()


def read_files(directory: Path) -> Logs:
    return view(LogFiles(str(directory)))


def test_a_log_in_files_is_followed() -> None:
    script = "for i in 1 2 3; do echo $i; sleep 0.1; done"
    with pc.start("host", ["sh", "-c", script], log="file") as container:
        assert list(container.logs(follow=True)) == [b"1\n", b"2\n", b"3\n"]


def test_another_process_reads_the_files(tmp_path: Path) -> None:
    log = FileLog(str(tmp_path / "log"))
    log.append(5.0, "stderr", b"written here\n")
    code = (
        "import sys; from pycontainer.logs.files import LogFiles; "
        "print(*LogFiles(sys.argv[1]).read((0, 0, 0))[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, log.directory], capture_output=True, text=True, check=True
    )
    assert done.stdout == "Entry(time=5.0, stream='stderr', data=b'written here\\n')\n"
    log.remove()


def test_files_are_rotated_and_read_across(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "SIZE", 1000)
    monkeypatch.setattr(files, "COUNT", 4)
    log = FileLog(str(tmp_path / "log"))
    expected = [b"line %d\n" % number for number in range(500)]
    for line in expected:
        log.append(0.0, "stdout", line)
    names = sorted(os.listdir(log.directory))
    assert len(names) == 4
    assert all((tmp_path / "log" / name).stat().st_size < 1100 for name in names)
    logs = view(log)
    found = list(logs)
    assert found == expected[-len(found) :]
    assert len(found) > 50
    assert sum(map(len, expected)) == logs.lost + sum(map(len, found))
    assert view(log, tail=30).read() == b"".join(expected[-30:])
    log.remove()


def test_the_next_writer_goes_on_after_one_that_was_killed(tmp_path: Path) -> None:
    log = FileLog(str(tmp_path / "log"))
    log.append(0.0, "stdout", b"whole\n")
    log.close()
    (newest,) = (tmp_path / "log").iterdir()
    with newest.open("ab") as file:
        file.write(b"\0" * 9)
    again = FileLog(log.directory)
    assert again.end()[2] == 6
    again.append(0.0, "stdout", b"next\n")
    assert view(LogFiles(log.directory)).read() == b"whole\nnext\n"
    assert again.end() == LogFiles(log.directory).end()
    again.remove()
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_told_to_the_readers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = FileLog(str(tmp_path / "log"))
    log.append(0.0, "stdout", b"before\n")
    true_pwrite = os.pwrite

    def full(fd: int, data: bytes, offset: int) -> int:
        return true_pwrite(fd, data[:3], offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        log.append(0.0, "stdout", b"lost 1\n")
        log.append(0.0, "stdout", b"lost 2\n")
    log.append(0.0, "stdout", b"after\n")
    logs = view(log)
    assert (logs.read(), logs.lost) == (b"before\nafter\n", 14)
    log.remove()


# Told on.


def test_to_a_logger(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("containers.web")
    caplog.set_level(logging.DEBUG)
    script = r"echo 100%s; echo bad >&2; printf '\377\n'; printf end"
    with nothing_left(), written(script, log=logger, name="web") as container:
        found = {(r.name, r.levelname, r.getMessage(), r.container, r.stream) for r in caplog.records}  # type: ignore[attr-defined]
        assert found == {
            ("containers.web", "INFO", "100%s", "web", "stdout"),
            ("containers.web", "WARNING", "bad", "web", "stderr"),
            ("containers.web", "INFO", "�", "web", "stdout"),
            ("containers.web", "INFO", "end", "web", "stdout"),
        }
        assert b"bad\n" in container.logs()


@pytest.mark.parametrize("slow", ["taking it in", "telling it"])
def test_the_end_is_told_after_the_last_line(monkeypatch: pytest.MonkeyPatch, slow: str) -> None:
    """One that no newline ends becomes one at the end alone."""
    told: list[str] = []
    at_end, read = Journal.at_end, Taking.read

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if slow == "telling it":
                time.sleep(0.3)
            told.append(record.getMessage())

    def late(journal: Journal) -> None:
        time.sleep(0.3)
        at_end(journal)

    def slowly(taking: Taking, fd: int) -> bool:
        time.sleep(0.3)
        return read(taking, fd)

    if slow == "taking it in":
        monkeypatch.setattr(Journal, "at_end", late)
        monkeypatch.setattr(Taking, "read", slowly)
    logger = logging.Logger("containers.slow")
    logger.addHandler(Handler())
    with nothing_left(), written("printf end; sleep 0.2", log=logger):
        assert told == ["end"]


def test_inherited(capfd: pytest.CaptureFixture[str]) -> None:
    script = "printf half; sleep 0.1; echo ' line'; echo error >&2; printf end"
    with nothing_left(), written(script, log="inherit") as container:
        assert container.logs() != b""
    assert capfd.readouterr() == ("half line\nend", "error\n")


INHERIT = """
import sys, time, os
import pycontainer as pc
script = "head -c 20M /dev/zero | tr '\\\\0' x | fold -w 99; echo; echo last"
with pc.start("host", ["sh", "-c", script], log="inherit") as c:
    sys.stderr.write(str(c.wait(60).returncode))
"""


def test_what_is_inherited_waits_for_a_slow_reader_and_is_whole() -> None:
    code = INHERIT
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        time.sleep(1)
        assert process.poll() is None
        out, err = process.communicate(timeout=60)
    assert err == b"0"
    assert out.endswith(b"x\nlast\n")
    assert out.count(b"x") == 20 * 2**20
    assert {len(line) for line in out.splitlines()[:-2]} == {99}


def test_inheriting_where_nobody_reads() -> None:
    code = INHERIT
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.read(100)
        process.stdout.close()
        _, err = process.communicate(timeout=60)
    assert err == b"0"


def test_a_logger_that_raises_hears_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: told.append(args.exc_type))

    class Strange(logging.Logger):
        def log(self, *_: Any, **__: Any) -> None:
            raise KeyError("strange")

    with nothing_left(), written("seq 100000", log=Strange("x")) as container:
        assert container.logs(tail=1) == b"100000\n"
    assert told == [KeyError]


def test_a_logger_that_blocks_holds_up_its_container_alone() -> None:
    go_on = threading.Event()

    class Slow(logging.Logger):
        def log(self, *_: Any, **__: Any) -> None:
            go_on.wait(60)

    script = "yes 0123456789012345678901234567890123456789 | head -c 10M"
    with nothing_left(), pc.start("host", ["sh", "-c", script], log=Slow("x")) as container:
        with pc.start("host", ["sh", "-c", script]) as other:
            assert other.wait(60).returncode == 0
        assert container.status == "running"
        assert container._journal.forward is not None
        assert container._journal.forward._size < 2 * 2**20
        go_on.set()
        assert container.wait(60).returncode == 0


def test_run_takes_no_log() -> None:
    with pytest.raises(pc.InvalidOption, match="log"):
        pc.run("host", ["true"], log="file")


def test_a_forked_child_has_no_logs() -> None:
    with pc.start("host", [*PYTHON, "print('x', flush=True); import time; time.sleep(1000)"]) as container:
        until(lambda: container.logs(), "the line is there")
        child = os.fork()
        if child == 0:
            code = 1
            try:
                container.logs()
            except pc.InvalidState:
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
