"""The store: many processes, killed at any moment, and it is clean when it is opened next."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import need
from ordinary_user import OrdinaryUser
from pycontainer.errors import ImageError, StoreBusy, StoreCorrupt, StoreError
from pycontainer.image import Image
from pycontainer.layer.unpacked import chain_ids
from pycontainer.oci.digest import Digest
from pycontainer.store import Store
from pycontainer.store.store import default_path

ENV = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
START = "import os, signal, sys\n"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as opened:
        yield opened


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    path = tmp_path / "tree"
    (path / "bin").mkdir(parents=True)
    for number in range(50):
        (path / "bin" / f"file{number}").write_bytes(bytes([number]) * 40_000)
    return path


def clean(store: Store) -> bool:
    """Whether nothing half-made is in the store."""
    left = [name for name in os.listdir(store.layers.root) if name.endswith((".new", ".old"))]
    return os.listdir(store.layout.staging) == left == list(Path(store.path).glob("containers/*/*"))


def test_opening_makes_it_and_is_repeatable(tmp_path: Path) -> None:
    for _ in range(2):
        with Store(tmp_path / "a" / "b") as store:
            assert store.check() == [] and store.prune() == 0
            assert clean(store)
    assert os.stat(tmp_path / "a" / "b").st_mode & 0o777 == 0o700
    assert repr(store) == f"Store({str(tmp_path / 'a' / 'b')!r})"


def test_a_run_opens_no_database(store: Store) -> None:
    Image.host().rootfs()
    store.new_container_dir().discard()
    assert not os.path.exists(os.path.join(store.path, "catalog.db"))


def test_default_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYCONTAINER_STORE", str(tmp_path / "mine"))
    assert default_path() == str(tmp_path / "mine")
    assert Store.default() is Store.default()
    monkeypatch.delenv("PYCONTAINER_STORE")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_path() == "/var/lib/pycontainer"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_DATA_HOME", "/x")
    assert default_path() == "/x/pycontainer"


def test_somebody_elses_store_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "theirs").mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(StoreError, match="belongs to user"):
        Store(tmp_path / "theirs")


def test_no_place_for_a_store(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"file.*(ENOTDIR|EEXIST)"):
        Store(tmp_path / "file" / "store")


def test_container_directories_are_removed_when_nobody_holds_them(store: Store) -> None:
    alive = store.new_container_dir()
    with Store(store.path) as other:
        for _ in range(30):
            dead = other.new_container_dir()
            (Path(dead.upper) / "file").touch()
        supervisor = os.dup(dead.group.fd)
        del dead
    del other
    store.recover()
    assert len(os.listdir(os.path.join(store.path, "containers"))) == 2
    os.close(supervisor)
    store.recover()
    (group,) = os.listdir(os.path.join(store.path, "containers"))
    assert os.path.join(store.path, "containers", group) == alive.group.path
    assert os.path.isdir(alive.upper) and os.path.isdir(alive.work)


def test_a_forked_child_has_a_place_of_its_own(store: Store) -> None:
    group = store.new_container_dir().group
    child = os.fork()
    if child == 0:
        os._exit(store.new_container_dir().group.path == group.path)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    store.recover()
    assert os.listdir(os.path.join(store.path, "containers")) == [os.path.basename(group.path)]


def test_a_copy_of_the_descriptor_keeps_an_owner_alive(store: Store) -> None:
    owner = store.owner()
    supervisor = os.dup(owner.fd)
    owner.hand_over()
    assert store.dead_owners() == []
    os.close(supervisor)
    (dead,) = store.dead_owners()
    assert dead.id == owner.id
    assert store.dead_owners() == []  # one process at a time tidies up
    dead.forget()
    assert store.dead_owners() == [] and not os.path.exists(owner.path)


def test_damage_is_found(store: Store, tree: Path) -> None:
    image = Image.from_directory(tree, tag="x", store=store)
    assert store.check() == []
    blob = Path(store.layout.blobs.root) / "sha256" / image.layers[0].digest.hex
    good = blob.read_bytes()
    blob.write_bytes(good[:1000] + b"!" + good[1001:])
    (problem,) = store.check()
    assert (problem.kind, problem.name) == ("blob", image.layers[0].digest)
    blob.write_bytes(good[:1000])
    assert {problem.kind for problem in store.check()} == {"blob", "image"}
    blob.unlink()
    (problem,) = store.check()
    assert problem.kind == "image" and "missing" in problem.message


def test_damage_beside_the_blobs_is_found(store: Store, tree: Path) -> None:
    image = Image.from_directory(tree, tag="x", store=store)
    index = Path(store.path) / "index.json"
    document = json.loads(index.read_text())
    index.write_text(json.dumps({**document, "manifests": []}))
    assert [problem.kind for problem in store.check()] == ["layout"]
    index.write_text(json.dumps(document))
    (Path(store.layout.blobs.root) / "sha256" / "junk").touch()
    layer = Path(store.layers.directory(image.layers[0].digest))
    (layer / "layer.json").write_text("{}")
    assert sorted(problem.kind for problem in store.check()) == ["blob", "layer"]


def test_a_database_that_is_none(tmp_path: Path) -> None:
    with Store(tmp_path / "store") as store:
        Path(store.path, "catalog.db").write_bytes(b"nonsense" * 1000)
        with pytest.raises(StoreCorrupt, match=r"catalog\.db"):
            Image.list(store=store)


def test_an_index_left_behind_is_rewritten(tmp_path: Path, tree: Path) -> None:
    with Store(tmp_path / "store") as store:
        Image.from_directory(tree, tag="x", store=store)
        old = (Path(store.path) / "index.json").read_bytes()
        Image.get("x", store=store).tag("y")
        (Path(store.path) / "index.json").write_bytes(old)
    with Store(tmp_path / "store") as store:
        Image.get("y", store=store)
        assert store.check() == []


def test_prune_keeps_what_is_named_or_in_use(store: Store, tree: Path) -> None:
    Image.from_directory(tree, tag="named", store=store)
    (tree / "more").write_text("more")
    used = Image.from_directory(tree, store=store)
    root = used.rootfs()
    (tree / "third").write_text("third")
    third = Image.from_directory(tree, store=store).id
    freed = store.prune()
    assert freed >= 4_000_000
    assert {image.id for image in Image.list(store=store)} == {Image.get("named", store=store).id, used.id}
    del used
    store.prune()
    assert len(Image.list(store=store)) == 2
    del root
    assert store.prune() > 0 and store.check() == []
    assert [image.tags for image in Image.list(store=store)] == [["named:latest"]]
    assert third not in {image.id for image in Image.list(store=store)}
    Image.get("named", store=store).remove()
    assert store.prune() == 0 and list(store.layout.blobs.names()) == [] == os.listdir(store.layers.root)


def test_prune_comes_in_where_somebody_always_writes(store: Store) -> None:
    over = threading.Event()
    begun = [0] * 4

    def write(number: int) -> None:
        while not over.is_set():
            with store.writing():
                begun[number] += 1
                time.sleep(0.1)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(len(begun))]
    for thread in threads:
        thread.start()
        time.sleep(0.02)
    try:
        for _ in range(3):
            before = list(begun)
            assert store.prune(timeout=20) == 0
            time.sleep(0.3)
            # And lets them in again.
            assert all(now > was for now, was in zip(begun, before, strict=True))
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_prune_gives_up_where_somebody_writes_for_long(store: Store) -> None:
    """Others begin meanwhile."""
    waited: list[float] = []

    def write() -> None:
        while not over.is_set():
            began = time.monotonic()
            with store.writing():
                waited.append(time.monotonic() - began)
            time.sleep(0.01)

    over = threading.Event()
    thread = threading.Thread(target=write)
    with store.writing():
        thread.start()
        with pytest.raises(StoreBusy, match="for 4 s"):
            store.prune(timeout=4)
        over.set()
        thread.join()
    assert 0.3 < max(waited) < 3.5 and len(waited) > 10
    assert store.prune() == 0


def test_prune_keeps_the_layers_below_one_in_use(store: Store) -> None:
    bodies = [bytes(1024), bytes(10240)]
    diff_ids = [Digest.of(body) for body in bodies]
    lower, upper = chain_ids(diff_ids)
    store.layers.ensure(lower, None, diff_ids[0], lambda: iter(bodies[:1]), store.limits).release()
    lease = store.layers.ensure(upper, lower, diff_ids[1], lambda: iter(bodies[1:]), store.limits)
    assert store.prune() == 0 and store.layers.chains() == sorted([lower, upper])
    assert store.check() == []
    lease.release()
    assert store.prune() == 11264 and store.layers.chains() == []


def test_a_removed_layer_is_unpacked_again(store: Store, tree: Path) -> None:
    image = Image.from_directory(tree, tag="x", store=store)
    shutil.rmtree(store.layers.directory(image.layers[0].digest))
    (lower,) = Image.get("x", store=store).rootfs().lower  # type: ignore[union-attr]
    assert os.listdir(os.path.join(lower, "bin"))


def test_threads_and_forks(store: Store, tree: Path) -> None:
    Image.from_directory(tree, tag="x", store=store)
    stop, failures = threading.Event(), []

    def work() -> None:
        while not stop.is_set():
            try:
                Image.get("x", store=store).tag("y")
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                Image.get("x", store=store).tag("z")
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == [] and store.check() == []


def test_four_processes_make_the_same_image(tmp_path: Path, tree: Path) -> None:
    code = START + (
        "from pycontainer.image import Image; from pycontainer.store import Store\n"
        "sys.stdin.readline()\n"
        "print(Image.from_directory(sys.argv[2], tag='x', store=Store(sys.argv[1])).digest)"
    )
    command = [sys.executable, "-W", "error", "-c", code, str(tmp_path / "store"), str(tree)]
    children = [
        subprocess.Popen(command, env=ENV, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    digests = {child.communicate(timeout=60)[0] for child in children}
    assert [child.returncode for child in children] == [0] * 4
    with Store(tmp_path / "store") as store:
        assert digests == {f"{Image.get('x', store=store).digest}\n"}
        assert store.check() == [] and clean(store)
        assert len(store.layers.chains()) == 1 and len(Image.list(store=store)) == 1


KILL = (
    START
    + """
import itertools
store_path, point = sys.argv[1], int(sys.argv[3])
count = itertools.count()
def trap(event, args):
    # Every change of the file system, as the interpreter's own audit events tell of it.
    if event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "sqlite3.connect",
                 "fcntl.flock") or (event == "open" and str(args[0]).startswith(store_path)):
        if next(count) == point:
            os.kill(os.getpid(), signal.SIGKILL)
from pycontainer.image import Image
from pycontainer.store import Store
import pycontainer.store.assemble, sqlite3, tarfile
sys.addaudithook(trap)
store = Store(sys.argv[1])
STEP
sys.addaudithook(lambda event, args: None)
print(next(count))
"""
)
STEPS = {
    "from_directory": "Image.from_directory(sys.argv[2], tag='new', store=store)",
    "tag": "Image.get('old', store=store).tag('new')",
    "configure": "Image.get('old', store=store).configure(env={'A': 'b'}).tag('new')",
    "remove": "Image.get('old', store=store).remove()",
    "prune": "Image.get('old', store=store).untag('old'); store.prune()",
}


@pytest.mark.parametrize("step", STEPS)
def test_sigkill_at_every_step(
    tmp_path: Path, tree: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = tmp_path / "template"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("other")
    with Store(template) as store:
        Image.from_directory(tmp_path / "other", tag="old", store=store)
    path = tmp_path / "store"

    def run(point: int) -> subprocess.CompletedProcess[str]:
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(template, path)
        command = [sys.executable, "-c", KILL.replace("STEP", STEPS[step]), str(path), str(tree), str(point)]
        return subprocess.run(command, env=ENV, capture_output=True, text=True, check=False)

    whole = run(-1)
    assert whole.returncode == 0, whole.stderr
    points = range(int(whole.stdout))
    for point in random.Random(step).sample(points, min(len(points), 12)):
        assert run(point).returncode == -signal.SIGKILL
        with Store(path) as store:
            started = time.monotonic()
            assert clean(store), f"killed at {point}"
            assert store.check() == [], f"killed at {point}"
            assert time.monotonic() - started < 1
            if step in ("from_directory", "tag", "configure"):
                monkeypatch.setattr(sys, "argv", ["", "", str(tree)])
                exec(STEPS[step], {"Image": Image, "store": store, "sys": sys})
                assert Image.get("new", store=store).tags
            else:
                for image in Image.list(store=store):
                    image.remove()
                store.prune()
                assert list(store.layout.blobs.names()) == []
            assert store.check() == [] and clean(store)


def test_sigkill_while_a_layer_is_unpacked(tmp_path: Path, tree: Path) -> None:
    """At any moment of it, the supervisor's child being busy in the directory included."""
    for number in range(2000):
        (tree / f"small{number}").write_bytes(b"x" * 1000)
    code = START + (
        "from pycontainer.image import Image; from pycontainer.store import Store\n"
        "store = Store(sys.argv[1]); print('open', flush=True)\n"
        "Image.from_directory(sys.argv[2], tag='x', store=store)"
    )
    path = tmp_path / "store"
    interrupted = 0
    for _ in range(8):
        command = [sys.executable, "-c", code, str(path), str(tree)]
        with subprocess.Popen(command, env=ENV, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None and child.stdout.readline() == b"open\n"
            layers = path / "layers"
            while child.poll() is None and not any(name.endswith(".new") for name in os.listdir(layers)):
                time.sleep(0.001)
            time.sleep(random.random() / 50)
            child.kill()
            child.wait()
        with Store(path) as store:
            interrupted += not store.layers.chains()
            assert clean(store) and store.check() == []
            shutil.rmtree(layers)
            layers.mkdir()
    assert interrupted


def test_a_failed_extraction_leaves_the_store_as_it_was(store: Store, tmp_path: Path) -> None:
    (tmp_path / "bad.tar").write_bytes(b"this is no archive" * 1000)
    with pytest.raises(ImageError):
        Image.from_tar(tmp_path / "bad.tar", store=store)
    assert list(store.layout.blobs.names()) == [] and store.layers.chains() == [] and clean(store)
    assert Image.list(store=store) == []


def test_other_tools_read_the_store(store: Store, tree: Path) -> None:
    image = Image.from_directory(tree, tag="x:1", config={"env": {"A": "b"}}, store=store)
    need(shutil.which("skopeo") is not None, "skopeo")
    name = f"oci:{store.path}:docker.io/library/x:1"
    shown = subprocess.run(["skopeo", "inspect", name], capture_output=True, check=True)
    assert json.loads(shown.stdout)["Digest"] == image.digest
    assert json.loads(shown.stdout)["Env"] == ["A=b"]
    need(shutil.which("umoci") is not None, "umoci")
    listed = subprocess.run(["umoci", "list", "--layout", store.path], capture_output=True, check=True)
    assert listed.stdout == b"docker.io/library/x:1\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="umoci needs --rootless for others, and drops owners then")
def test_umoci_unpacks_the_same_tree(store: Store, tree: Path, tmp_path: Path) -> None:
    need(shutil.which("umoci") is not None, "umoci")
    Image.from_directory(tree, tag="x:1", store=store)
    image = f"{store.path}:docker.io/library/x:1"
    command = ["umoci", "unpack", "--image", image, str(tmp_path / "bundle")]
    subprocess.run(command, check=True, capture_output=True)
    subprocess.run(["diff", "-r", tree, tmp_path / "bundle" / "rootfs"], check=True)


def test_an_ordinary_users_store(as_user: OrdinaryUser) -> None:
    """Made, unpacked, pruned and removed by a user whose layers hold files of other ids."""
    script = """
import io, os, tarfile, tempfile
from pycontainer.image import Image
from pycontainer.store import Store
out = io.BytesIO()
with tarfile.open(fileobj=out, mode="w") as tar:
    for name, uid, mode in (("dir", 1, 0o700), ("dir/file", 5, 0o600), ("none", 0, 0o000)):
        member = tarfile.TarInfo(name)
        member.uid = member.gid = uid
        member.mode = mode
        member.type = tarfile.DIRTYPE if name == "dir" else tarfile.REGTYPE
        tar.addfile(member)
out.seek(0)
with tempfile.TemporaryDirectory() as base, Store(base + "/store") as store:
    image = Image.from_tar(out, tag="x", store=store)
    assert os.listdir(image.rootfs().lower[0])
    os.mkdir(base + "/tree")
    open(base + "/tree/file", "w").close()
    os.utime(base + "/tree/file", (1, 1))
    os.chmod(base + "/tree/file", 0o644)
    own = Image.from_directory(base + "/tree", store=store).layers[0].digest
    assert store.check() == [], store.check()
    image.remove()
    del image
    assert store.prune() > 0 and not os.listdir(store.layers.root)
    print(own)
"""
    with tempfile.TemporaryDirectory() as base, Store(base + "/store") as store:
        (Path(base) / "tree").mkdir()
        (Path(base) / "tree" / "file").touch(0o644)
        os.utime(Path(base) / "tree" / "file", (1, 1))
        os.chmod(Path(base) / "tree" / "file", 0o644)
        same = Image.from_directory(base + "/tree", store=store).layers[0].digest
    assert as_user(script).stdout.strip() == same


def test_the_catalog_is_sqlite(store: Store, tree: Path) -> None:
    Image.from_directory(tree, tag="x", store=store)
    store.close()
    database = sqlite3.connect(os.path.join(store.path, "catalog.db"))
    assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert database.execute("SELECT name FROM tags").fetchall() == [("docker.io/library/x:latest",)]
    database.close()


def test_a_store_that_is_forgotten_says_nothing(tmp_path: Path) -> None:
    """Nor does one whose catalog cannot be opened; Python 3.13 warns of connections that nobody closes."""
    script = f"""
import gc, os
from pycontainer.image import Image
from pycontainer.store import Store
from pycontainer.errors import StoreError
store = Store({str(tmp_path / "store")!r})
assert Image.list(store=store) == []
del store
gc.collect()
store = Store({str(tmp_path / "other")!r})
os.mkdir(store.path + "/catalog.db")
try:
    Image.list(store=store)
except StoreError as error:
    print(error)
del store
gc.collect()
"""
    command = [sys.executable, "-W", "error", "-X", "dev", "-c", script]
    done = subprocess.run(command, env=ENV, capture_output=True, text=True, check=True)
    assert done.stdout == f"{tmp_path}/other/catalog.db: unable to open database file\n"
    assert done.stderr == ""
