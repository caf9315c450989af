"""A real server as a user would run it: PostgreSQL, seeded once, forked per test."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator

import pytest

import postgres
import pycontainer as pc
from conftest import need
from containers import as_root, nothing_left
from ordinary_user import OrdinaryUser, quote
from postgres import DATA, INITDB, PORT, READY, SOCKET, Client
from pycontainer import wait

pytestmark = as_root

UP = wait.log(READY) & wait.listening(PORT) & wait.file(SOCKET)
SEED = """
CREATE TABLE t (n int PRIMARY KEY, name text);
INSERT INTO t SELECT g, 'name ' || g FROM generate_series(1, 1000) g;
"""


@pytest.fixture(scope="module")
def image() -> Iterator[pc.Image]:
    try:
        root = postgres.root()
    except postgres.Unavailable as error:
        need(False, f"PostgreSQL from {postgres.MIRROR}: {error}")
    made = pc.Image.from_tar(root, config=postgres.CONFIG, tag="postgres-of-tests:1")
    yield made
    made.remove(force=True)


@pytest.fixture(scope="module")
def template(image: pc.Image) -> Iterator[pc.Template]:
    """A cluster with data, shut down in order."""
    with image.create() as container:
        container.prepare(INITDB, timeout=60)
        container.start()
        container.wait_until(UP)
        container.prepare(seed)
        with container.seal() as made:
            yield made


def seed(container: pc.Container) -> None:
    container.exec(["psql", "-qh", "/tmp", "-v", "ON_ERROR_STOP=1", "-c", SEED], check=True)


@pytest.fixture
def database(template: pc.Template) -> Iterator[pc.Container]:
    with template.fork(wait=UP) as container:
        yield container


def count(container: pc.Container, target: int | str = SOCKET) -> int:
    with Client(container.connect(target, timeout=10)) as client:
        return int(client.query("SELECT count(*) FROM t")[0][0] or -1)


@pytest.mark.parametrize("target", [SOCKET, PORT])
def test_it_is_queried_with_nothing_published(database: pc.Container, target: int | str) -> None:
    with Client(database.connect(target, timeout=10)) as client:
        assert client.query("SELECT n, name FROM t WHERE n > 998 ORDER BY n") == [
            ("999", "name 999"),
            ("1000", "name 1000"),
        ]
        with pytest.raises(RuntimeError, match="division by zero"):
            client.query("SELECT 1/0")
    with socket.socket() as mine, pytest.raises(ConnectionRefusedError):
        mine.connect(("127.0.0.1", PORT))


@pytest.mark.parametrize("number", [1, 2])
def test_each_fork_is_fresh_and_its_own(database: pc.Container, number: int) -> None:
    assert count(database) == 1000
    with Client(database.connect(SOCKET)) as client:
        client.query("DELETE FROM t; INSERT INTO t VALUES (-1, 'mine')")
    assert count(database, PORT) == 1


def test_forks_run_side_by_side(template: pc.Template) -> None:
    forks: list[pc.Container] = []
    try:
        for number in range(4):
            forks.append(template.fork(wait=wait.log(READY)))
            with Client(forks[-1].connect(SOCKET)) as client:
                client.query(f"DELETE FROM t WHERE n <= {number}")
        assert [count(fork) for fork in forks] == [1000, 999, 998, 997]
    finally:
        for fork in forks:
            fork.remove(force=True)


def test_psql_inside(database: pc.Container) -> None:
    done = database.exec(
        ["psql", "-Ath", "/tmp", "-c", "SELECT sum(n) FROM t"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "500500\n")


def test_its_healthcheck(template: pc.Template) -> None:
    with template.fork(wait=wait.healthy()) as container:
        assert container.health == "healthy"
        assert count(container) == 1000


def test_its_own_stop_signal_ends_it_in_order_though_a_client_is_there(template: pc.Template) -> None:
    with template.fork(wait=UP) as container, Client(container.connect(PORT)) as client:
        client.query("BEGIN; DELETE FROM t")
        done = container.stop(timeout=20)
        assert (done.returncode, done.cause) == (0, "exited")
        assert "fast shutdown request" in container.logs(text=True)
        assert "database system is shut down" in container.logs(text=True)
        with pytest.raises(RuntimeError, match="administrator command"):
            client.query("SELECT 1")
        container.start()
        assert "was shut down at" in container.logs(text=True)
        assert "not properly shut down" not in container.logs(text=True)
        assert count(container) == 1000


def test_a_crash_is_recovered_from(template: pc.Template) -> None:
    with template.fork(wait=UP) as container:
        with Client(container.connect(SOCKET)) as client:
            client.query("INSERT INTO t VALUES (0, 'kept')")
        container.kill()
        container.start()
        assert "not properly shut down" in container.logs(text=True)
        assert count(container) == 1001


def test_a_server_that_cannot_start_says_why(template: pc.Template) -> None:
    with nothing_left(), pytest.raises(pc.WaitFailed) as caught:
        template.fork(["postgres", "-c", "shared_buffers=nonsense"], wait=UP)
    assert b"invalid value for parameter" in caught.value.logs


def test_its_data_volume_is_used_by_a_second_container(image: pc.Image) -> None:
    script = f'test -s {DATA}/PG_VERSION || {" ".join(INITDB)} >&2 || exit; exec "$@"'
    command = ["sh", "-c", script, "sh", *postgres.CONFIG["cmd"]]
    volume = pc.Volume.create("postgres-of-tests")
    try:
        image.run(
            ["install", "-d", "-o", "postgres", "-g", "postgres", "-m", "700", DATA],
            user="root",
            mounts=[volume.at("/var/lib/postgresql")],
            check=True,
        )
        for number in (1, 2):
            options = {"mounts": [volume.at("/var/lib/postgresql")], "wait": UP}
            with image.start(command, **options) as container:
                if number == 1:
                    seed(container)
                assert ("creating configuration files" in container.logs(text=True)) == (number == 1)
                assert count(container) == 1000
                container.stop(timeout=20)
    finally:
        volume.remove()


@pytest.mark.rootless
def test_as_an_ordinary_user(image: pc.Image, as_user: OrdinaryUser) -> None:
    """From the archive to the query; the image is this user's own."""
    archive = as_user.base / "root.tar"
    shutil.copy(postgres.root(), archive)
    archive.chmod(0o644)
    shutil.copy(postgres.__file__, as_user.base / "postgres.py")
    as_user(
        f"""
        import sys
        sys.path.insert(0, {quote(as_user.base)!r})
        import pycontainer as pc
        from postgres import CONFIG, INITDB, PORT, READY, SOCKET, Client
        image = pc.Image.from_tar({str(archive)!r}, config=CONFIG)
        with image.create() as container:
            container.prepare(INITDB, timeout=60)
            with container.seal() as template:
                for target in (SOCKET, PORT):
                    with template.fork(wait=pc.wait.log(READY)) as fork:
                        with Client(fork.connect(target, timeout=10)) as client:
                            assert client.query("SELECT 6 * 7") == [("42",)]
                        assert fork.stop(timeout=20).returncode == 0
        """,
        timeout=120,
    )
