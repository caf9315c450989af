"""`prepare`, `seal` and templates: containers that begin where another one was frozen."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import pycontainer as pc
import shell_root
from containers import nothing_left, unique_seconds, until, with_argument
from host_process import Host
from host_process import run as run_host


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> pc.Image:
    root = shell_root.make(tmp_path_factory.mktemp("root") / "root")
    return pc.Image.from_directory(root, config={"cmd": ["sleep", "1000"]})


@pytest.fixture(params=["layers", "host"])
def base(request: pytest.FixtureRequest, image: pc.Image) -> pc.Image:
    return image if request.param == "layers" else pc.Image.host()


def seeded(base: pc.Image, script: str = "echo seed > /opt-file", **options: object) -> pc.Container:
    """A container that never ran but for what prepared it. /tmp is there on both images."""
    container = base.create(["sleep", "1000"], **options)
    return container.prepare(["sh", "-ec", script])


def see(container: pc.Container, script: str) -> str:
    done = container.exec(["sh", "-c", script], capture_output=True, text=True, timeout=60)
    return str(done.stdout + done.stderr).strip()


@pytest.fixture
def template(base: pc.Image) -> Iterator[pc.Template]:
    with seeded(base, "echo seed > /tmp/file; mkdir /tmp/dir; echo > /tmp/dir/x").seal() as made:
        yield made


# Prepare.


def test_a_command_runs_in_a_container_that_runs(base: pc.Image) -> None:
    with base.start(["sleep", "1000"]) as container:
        assert container.prepare(["sh", "-c", "echo $$ > /tmp/pid"]) is container
        assert container.status == "running"
        assert int(see(container, "cat /tmp/pid")) > 1


def test_a_command_runs_alone_in_one_that_does_not(base: pc.Image) -> None:
    with base.create(["sleep", "1000"], entrypoint=["/no/such/program"], env={"A": "1"}) as container:
        assert container.prepare(["sh", "-c", "echo $A > /tmp/said"]) is container
        assert (container.status, container.exit_code, container.started_at) == ("created", None, None)
        container.prepare(["sh", "-c", "cat /tmp/said /tmp/said > /tmp/twice"])
        with container.seal() as template, template.fork(entrypoint=[]) as fork:
            assert see(fork, "cat /tmp/twice") == "1\n1"


def test_a_stopped_one_stays_as_it_ended(base: pc.Image) -> None:
    with base.start(["sh", "-c", "exit 3"]) as container:
        container.wait(60)
        container.prepare(["sh", "-c", "echo > /tmp/x"])
        assert (container.status, container.exit_code) == ("stopped", 3)


def test_a_function_gets_the_container(base: pc.Image) -> None:
    with base.create(["sleep", "1000"]) as container:
        seen = []
        assert container.prepare(seen.append) is container
        assert seen == [container]
        with pytest.raises(ZeroDivisionError):
            container.prepare(lambda _: 1 / 0)


@pytest.mark.parametrize("running", [False, True])
def test_a_command_that_fails(base: pc.Image, running: bool) -> None:
    with nothing_left(), base.create(["sleep", "1000"]) as container:
        if running:
            container.start()
        with pytest.raises(pc.ExitError) as caught:
            container.prepare(["sh", "-c", "echo out; echo wrong >&2; exit 7"])
        assert (caught.value.returncode, caught.value.stdout, caught.value.stderr) == (
            7,
            b"out\n",
            b"wrong\n",
        )
        with pytest.raises(pc.LaunchError):
            container.prepare(["/no/such/program"])
        assert container.status == ("running" if running else "created")


@pytest.mark.parametrize("running", [False, True])
def test_a_command_that_takes_too_long(base: pc.Image, running: bool) -> None:
    seconds = unique_seconds()
    with base.create(["sleep", "1000"]) as container:
        if running:
            container.start()
        with pytest.raises(pc.Timeout) as caught:
            container.prepare(["sh", "-c", f"echo begun; sleep {seconds}; :"], timeout=0.5)
        assert caught.value.stdout == b"begun\n"
        assert not with_argument(seconds)
        assert container.status == ("running" if running else "created")


# Seal.


def test_sealing_stops_for_good(base: pc.Image) -> None:
    with base.start(["sleep", "1000"]) as container:
        template = container.seal(timeout=0)
        assert isinstance(template, pc.Template)
        assert container.status == "stopped"
        for refused in (
            container.start,
            container.restart,
            container.seal,
            lambda: container.prepare(["true"]),
            lambda: container.path("/tmp").exists(),
        ):
            with pytest.raises(pc.InvalidState, match="sealed"):
                refused()
        container.remove()
        with template.fork() as fork:
            assert fork.status == "running"
        template.remove()


def test_one_that_never_ran_can_be_sealed(base: pc.Image) -> None:
    with base.create(["sleep", "1000"]) as container, container.seal() as template, template.fork() as fork:
        assert container.status == "stopped"
        assert fork.status == "running"
        assert fork.diff() == []


def test_a_removed_one_cannot(base: pc.Image) -> None:
    container = base.create(["sleep", "1000"])
    container.remove()
    with pytest.raises(pc.InvalidState):
        container.seal()


def test_a_restart_policy_ends_with_it(base: pc.Image) -> None:
    with base.start(["sh", "-c", "sleep 0.05; exit 1"], restart="always") as container:
        template = container.seal(timeout=0)
        time.sleep(0.5)
        assert container.status == "stopped"
        template.remove()


def test_the_files_written_from_outside_are_in_it(base: pc.Image) -> None:
    with base.create(["sleep", "1000"]) as container:
        container.prepare(lambda c: c.path("/tmp/from-outside").write_text("text"))
        with container.seal() as template, template.fork() as fork:
            assert see(fork, "cat /tmp/from-outside") == "text"


# Fork.


def test_forks_begin_with_the_files_and_keep_apart(template: pc.Template) -> None:
    with template.fork() as one, template.fork() as two:
        assert (
            see(one, "cat /tmp/file; rm -r /tmp/file /tmp/dir; mkdir /tmp/dir; echo one > /tmp/own") == "seed"
        )
        assert see(two, "cat /tmp/file; ls /tmp/dir; echo two > /tmp/own") == "seed\nx"
        assert see(one, "cat /tmp/own; ls /tmp/dir /tmp/file 2>&1").startswith("one")
        assert see(two, "cat /tmp/own /tmp/file") == "two\nseed"
        with template.fork() as three:
            assert see(three, "cat /tmp/file /tmp/own; ls /tmp/dir").split("\n")[0] == "seed"


def test_deletions_are_sealed_too(base: pc.Image) -> None:
    again = "mkdir -p /etc/sub; echo > /etc/sub/old"
    with seeded(base, again).seal() as first, first.fork() as middle:
        middle.prepare(["sh", "-ec", "rm /etc/passwd; rm -r /etc/sub; mkdir /etc/sub; echo > /etc/sub/new"])
        with middle.seal(0) as template, template.fork() as fork:
            assert "o such file" in see(fork, "cat /etc/passwd")
            assert see(fork, "ls /etc/sub") == "new"


def test_a_fork_has_the_options_of_the_container(base: pc.Image) -> None:
    with base.create(
        ["sleep", "1000"], name="the-seed", env={"A": "1"}, cwd="/tmp", labels={"l": "x"}, hostname="called"
    ) as container, container.seal() as template:  # fmt: skip
        with template.fork() as fork:
            assert see(fork, "echo $A $(pwd) $(hostname 2> /dev/null || cat /proc/sys/kernel/hostname)") == (
                "1 /tmp called"
            )
            assert (fork.name, fork.labels, fork.image, fork.args) == (
                None,
                container.labels,
                template.image,
                ["sleep", "1000"],
            )
            assert fork.id != container.id
        with template.fork(["sh", "-c", "echo $A; pwd"], env={"A": "2"}, cwd="/", name="mine") as fork:
            assert fork.name == "mine"
            done = fork.wait(60)
            assert done.stdout == b"2\n/\n"
        with template.fork(options=pc.Options(cwd="/")) as fork:
            assert see(fork, "echo .$A $(pwd)") == ". /"


def test_a_fork_has_the_mounts_of_the_container(base: pc.Image, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here/file").write_text("outside\n")
    with base.start(["sleep", "1000"], mounts=[pc.bind(tmp_path / "here", "/tmp/there")]) as container:
        container.prepare(["sh", "-c", "echo changed >> /tmp/there/file"])
        with container.seal(0) as template:
            with template.fork() as fork:
                assert see(fork, "cat /tmp/there/file") == "outside\nchanged"
            # What is mounted is no part of the template.
            with template.fork(mounts=[]) as fork:
                assert see(fork, "ls /tmp/there") == ""


@pytest.mark.parametrize("given", [{"nonsense": 1}, {"memory": "much"}, {"persist": True}])
def test_a_fork_that_cannot_be(template: pc.Template, given: dict[str, object]) -> None:
    with nothing_left():
        with pytest.raises((TypeError, pc.InvalidOption)):
            template.fork(**given)
        with pytest.raises(pc.LaunchError):
            template.fork(["/no/such/program"])
        with template.fork(name="taken"), pytest.raises(pc.NameInUse):
            template.fork(name="taken")


def test_forks_of_forks(base: pc.Image) -> None:
    container = seeded(base, "mkdir /tmp/numbers; echo 0 > /tmp/numbers/0")
    for number in range(1, 5):
        with container.seal(0) as template:
            container.remove()
            container = template.fork()
        assert see(container, f"cd /tmp/numbers; rm {number - 1}; echo {number} > {number}; cat *") == str(
            number
        )
    assert len(container.diff()) == 3
    container.remove(force=True)


def test_forks_are_restarted_on_their_own_layer(template: pc.Template) -> None:
    with template.fork() as fork:
        see(fork, "echo own > /tmp/own")
        fork.restart(timeout=0)
        assert see(fork, "cat /tmp/own /tmp/file") == "own\nseed"


def test_three_hundred_generations(base: pc.Image) -> None:
    # It takes long enough for a neighbour's supervisor to come or go.
    with nothing_left(ignore=("processes",)):
        container = seeded(base, "echo 0 > /tmp/first")
        for number in range(300):
            template = container.seal(0)
            container.remove()
            container = template.fork()
            template.remove()
            if number % 10 == 0:
                container.exec(
                    ["sh", "-c", f"echo {number} > /tmp/last; : > /tmp/of-generation-{number}"], check=True
                )
        assert see(container, "cat /tmp/first /tmp/last; ls /tmp/of-generation-* | wc -l").split() == [
            "0",
            "290",
            "30",
        ]
        assert container.diff() == []
        container.remove(force=True)


def test_too_many_generations_are_an_error_that_says_what_to_do(image: pc.Image) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pycontainer.templates.MAX_LAYERS", 3)
        with (
            seeded(image, ":").seal() as first,
            first.fork() as one,
            one.seal(0) as second,
            second.fork() as two,
            two.seal(0) as third,
            pytest.raises(pc.InvalidState, match="commit"),
        ):
            third.fork()


# The template's life.


def test_forks_keep_what_they_stand_on(base: pc.Image) -> None:
    container = seeded(base, "echo seed > /tmp/file")
    template = container.seal()
    fork = template.fork()
    template.remove()
    container.remove()
    assert see(fork, "cat /tmp/file") == "seed"
    fork.restart(timeout=0)
    assert see(fork, "cat /tmp/file") == "seed"
    with fork.seal(0) as second, second.fork() as again:
        fork.remove()
        assert see(again, "cat /tmp/file") == "seed"


def test_a_removed_template_forks_no_more(base: pc.Image) -> None:
    template = seeded(base).seal()
    template.remove()
    template.remove()
    template.close()
    with pytest.raises(pc.InvalidState, match="removed"):
        template.fork()
    assert "removed" in repr(template)


def test_nothing_is_left(base: pc.Image) -> None:
    base.run(["true"])
    with nothing_left():
        container = seeded(base)
        with container.seal() as template:
            forks = [template.fork() for _ in range(3)]
            for fork in forks[:2]:
                fork.remove(force=True)
        container.remove()
        forks[2].remove(force=True)


def test_the_directory_goes_with_the_last_one(image: pc.Image) -> None:
    container = seeded(image, "mkdir -m 0 /closed; chown 7 /closed")
    directory = Path(container._layer.directory.path)  # type: ignore[union-attr]
    template = container.seal()
    container.remove()
    fork = template.fork()
    template.remove()
    assert directory.exists()
    fork.remove(force=True)
    assert not directory.exists()


def test_nobody_writes_to_a_sealed_layer(image: pc.Image) -> None:
    container = seeded(image, "mkdir /tree; echo > /tree/x")
    upper = Path(container._layer.upper)  # type: ignore[union-attr]
    with container.seal() as template:
        before = _looks(upper)
        for _ in range(3):
            with template.fork() as fork:
                see(fork, "echo more >> /tree/x; rm -r /tree; mkdir /tree; chmod 700 /tree; echo > /new")
        assert _looks(upper) == before


def _looks(path: Path) -> list[tuple[str, os.stat_result]]:
    return [(str(each), each.lstat()[:9]) for each in (path, *sorted(path.rglob("*")))]  # type: ignore[misc]


def test_several_threads_fork_at_once(template: pc.Template) -> None:
    forks: list[pc.Container] = []
    threads = [threading.Thread(target=lambda: forks.append(template.fork())) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({fork.id for fork in forks}) == 16
    template.remove()
    for fork in forks:
        assert see(fork, "cat /tmp/file") == "seed"
        fork.remove(force=True)


def test_a_forked_process_has_no_part_in_it(template: pc.Template) -> None:
    child = os.fork()
    if child == 0:
        try:
            with pytest.raises(pc.InvalidState):
                template.fork()
            template.remove()
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    with template.fork() as fork:
        assert see(fork, "cat /tmp/file") == "seed"


def test_it_goes_with_a_process_that_is_killed(image: pc.Image, store_path: Path, tmp_path: Path) -> None:
    before = _directories(store_path)
    image.tag("killed:1")
    script = """
        image = pc.Image.get("killed:1")
        container = image.create(["sleep", "1000"]).prepare(["sh", "-c", "mkdir -m 0 /x"])
        template = container.seal()
        forks = [template.fork() for _ in range(3)]
        say(*(fork.pid for fork in forks))
        time.sleep(100)
        """
    with Host(script, tmp_path, store=store_path) as host:
        pids = host.line().split()
        os.kill(host.pid, signal.SIGKILL)
    assert len(pids) == 3
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "the forks are gone")
    until(lambda: _directories(store_path) == before, "the layers are gone")


def _directories(store: Path) -> set[Path]:
    return set((store / "containers").glob("*/*"))


def test_the_repr_is_one_line(template: pc.Template) -> None:
    assert repr(template).startswith("<Template ")
    assert "\n" not in repr(template)


def test_an_interrupt_while_preparing_leaves_nothing(tmp_path: Path) -> None:
    seconds = unique_seconds()
    script = f"""
        container = pc.create("host", ["sleep", "1000"])
        threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        try:
            container.prepare(["sleep", "{seconds}"])
        except KeyboardInterrupt:
            say(container.status)
        container.prepare(["true"])
        container.remove()
        """
    assert run_host(script, tmp_path) == ["created"]
    assert not with_argument(seconds)
