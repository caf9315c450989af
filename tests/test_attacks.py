"""Attacks from inside a container and by its image, judged by a canary outside.

The canary is a tree on the host with hashes and inode numbers; beside it stand the host's mounts, a
few values below /proc/sys, the owners of its devices, the installed supervisor, and a process.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import leaks
import pycontainer as pc
from conftest import need
from ordinary_user import OrdinaryUser
from pycontainer.mounts import content
from pycontainer.runtime import isolation
from pycontainer.runtime.isolation import capability_mask

PRELUDE = (Path(__file__).resolve().parent / "hostile.py").read_text()
PYTHON = ["/usr/bin/python3", "-I", "-c"]
SYSCTLS = ("kernel/hostname", "kernel/domainname", "kernel/core_pattern", "kernel/msgmax", "vm/swappiness")
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
DEFAULTS = capability_mask(isolation.DEFAULT_CAPABILITIES)

AS_USER = """
import sys
import pycontainer as pc
done = pc.run("host", {command!r}, capture_output=True, timeout=60, **{options!r})
sys.stdout.write(done.stdout.decode())
sys.stderr.write(done.stderr.decode())
sys.exit(done.returncode)
"""


class Canary:
    """Files that nothing in a container may reach."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "below").mkdir(parents=True)
        (path / "file").write_text("canary")
        (path / "below/file").write_text("canary below")
        (path / "link").symlink_to("file")
        self.process = subprocess.Popen(["sleep", "600"])
        self.before = self.state()

    def state(self) -> dict[str, Any]:
        installed = Path(pc.__file__).parent / "_supervisor"
        state: dict[str, Any] = {"supervisor": hashlib.sha256(installed.read_bytes()).hexdigest()}
        for path in [self.path, *sorted(self.path.rglob("*"))]:
            found = path.lstat()
            content = path.read_bytes() if path.is_file() else b""
            state[str(path)] = (found.st_ino, found.st_mode, found.st_uid, found.st_gid, content)
        for name in SYSCTLS:
            state[name] = Path("/proc/sys", name).read_text()
        for name in DEVICES:
            found = Path("/dev", name).lstat()
            state[f"/dev/{name}"] = (found.st_mode, found.st_uid, found.st_gid)
        state["mounts"] = leaks.mounts()
        state["process"] = Path(f"/proc/{self.process.pid}/stat").read_text().split()[2] not in "ZT"
        return state

    def check(self) -> None:
        after = self.state()
        changed = {name: after.get(name) for name in after if after[name] != self.before.get(name)}
        assert (changed, after.keys()) == ({}, self.before.keys())

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(autouse=True)
def canary(tmp_path: Path) -> Iterator[Canary]:
    made = Canary(tmp_path / "canary")
    try:
        yield made
        made.check()
    finally:
        made.end()


@pytest.fixture
def as_root() -> None:
    need(os.getuid() == 0, "root")


Attack = Callable[..., Any]


@pytest.fixture(params=["root", "ordinary"])
def attack(request: pytest.FixtureRequest) -> Attack:
    """`attack(code, **options)` runs it in a container, and gives what it `answer`ed.

    Once as root's container, once as an ordinary user's."""
    if request.param == "root":
        need(os.getuid() == 0, "root")
        return inside
    user: OrdinaryUser | None = request.getfixturevalue("ordinary")
    need(user is not None, "an ordinary user")
    assert user is not None

    def run(code: str, **options: Any) -> Any:
        done = user(AS_USER.format(command=[*PYTHON, PRELUDE + code], options=options))
        return json.loads(done.stdout)

    return run


def inside(code: str, **options: Any) -> Any:
    done = pc.run("host", [*PYTHON, PRELUDE + code], capture_output=True, text=True, timeout=60, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """A test that would hang fails."""

    def ring(number: int, frame: object) -> None:
        raise TimeoutError(f"took longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root for an image: a static busybox, and nothing else."""
    program = shutil.which("busybox")
    need(program is not None, "busybox (apt-get install busybox-static)")
    assert program is not None
    path = tmp_path / "root"
    (path / "bin").mkdir(parents=True)
    shutil.copy(program, path / "bin/busybox")
    for name in ("sh", "cat", "echo", "ls", "id", "pwd", "mount"):
        (path / "bin" / name).symlink_to("busybox")
    return path


def sh(root: Path, script: str, **options: Any) -> pc.Completed:
    image = pc.Image.from_directory(root)
    return image.run(["/bin/sh", "-c", script], capture_output=True, text=True, timeout=60, **options)


REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ETXTBSY, errno.ENOENT}

# Class 1: the supervisor's own program.

OVERWRITE = """
found = {}
for path in ("/proc/1/exe", "/proc/self/exe"):
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC):
        if path == "/proc/1/exe":
            found[f"{path} {flags}"] = opening(path, flags)
try:
    program = os.open("/proc/1/exe", os.O_RDONLY)
except OSError as error:
    found["read"] = error.errno
else:
    found["again"] = opening(f"/proc/self/fd/{program}", os.O_WRONLY)
    found["truncate"] = attempt(os.truncate, f"/proc/self/fd/{program}", 0)
answer(found)
"""


def test_the_program_of_process_one_cannot_be_overwritten(attack: Attack) -> None:
    found = attack(OVERWRITE)
    assert "again" not in found
    assert set(found.values()) <= REFUSED


@pytest.mark.usefixtures("as_root")
def test_nor_by_a_privileged_container() -> None:
    found = inside(OVERWRITE, privileged=True)
    assert set(found.values()) <= REFUSED
    assert pc.run("host", ["true"]).returncode == 0


def test_an_image_that_executes_what_executes_it(root: Path) -> None:
    """/proc/self/exe of a joining process is the supervisor's program: in there it only ends."""
    (root / "bin/self").symlink_to("/proc/self/exe")
    (root / "bin/script").write_text("#!/proc/self/exe\n")
    (root / "bin/script").chmod(0o755)
    image = pc.Image.from_directory(root)
    with within(30), image.start(["/bin/busybox", "sleep", "60"]) as container:
        for program in ("/bin/self", "/bin/script", "/proc/self/exe"):
            for run in (image.run, container.exec):
                with contextlib.suppress(pc.LaunchError):
                    assert run([program], capture_output=True).returncode != 0


# Class 2: descriptors and the working directory.


@pytest.mark.parametrize("place", [f"/proc/self/fd/{n}" for n in range(3, 12)] + [
    "/proc/1/cwd", "/proc/self/cwd", "/proc/self/root", "/proc/thread-self/cwd",
])  # fmt: skip
def test_the_working_directory_is_inside(place: str, canary: Canary) -> None:
    script = f"test ! -e ./{canary.path.relative_to('/')}/inside-out; stat -c %m .; cat ../../../../.marker"
    with pc.start("host", ["sh", "-c", "echo mine > /.marker; sleep 60"]) as container:
        time.sleep(0.05)
        for run in (container.exec, lambda *args, **named: pc.run("host", *args, **named)):
            try:
                done = run(["sh", "-c", script], cwd=place, capture_output=True, text=True)
            except pc.LaunchError:
                continue
            # Where it leads at all, it leads to the container's own root.
            assert run == container.exec
            assert done.stdout == "/\nmine\n"


def test_a_working_directory_in_the_config_that_is_a_link(root: Path, canary: Canary) -> None:
    (root / "out").symlink_to("../../../../../.." + str(canary.path))
    (root / "descriptor").symlink_to("/proc/self/fd/3")
    for place in ("/out", "/out/new", "/descriptor", "/proc/self/fd/3"):
        image = pc.Image.from_directory(root, config={"WorkingDir": place})
        try:
            done = image.run(["/bin/sh", "-c", "pwd; echo x > created"], capture_output=True, text=True)
        except pc.LaunchError:
            continue
        assert done.stdout.startswith(str(canary.path))


# Class 3: who joins.

INSPECT = """
found = {}
found["attach"] = -call("ptrace", PTRACE_ATTACH, 1, 0, 0)
found["mem"] = opening("/proc/1/mem", os.O_RDWR)
found["environ"] = opening("/proc/1/environ", os.O_RDONLY)
# Their numbers are told, what they are is not.
for name in os.listdir("/proc/1/fd"):
    found["fd"] = attempt(os.readlink, "/proc/1/fd/" + name)
    found["open fd"] = opening("/proc/1/fd/" + name, os.O_RDONLY)
found["root"] = attempt(os.readlink, "/proc/1/root")
memory = ctypes.create_string_buffer(64)
local = (ctypes.c_ulong * 2)(ctypes.addressof(memory), 64)
remote = (ctypes.c_ulong * 2)(0x400000, 64)
found["vm"] = -call("process_vm_readv", 1, local, 1, remote, 1, 0)
one = call("pidfd_open", 1, 0)
found["getfd"] = -call("pidfd_getfd", one, 3, 0)
answer(found)
"""


def test_process_one_cannot_be_inspected(attack: Attack) -> None:
    assert set(attack(INSPECT).values()) <= {errno.EPERM, errno.EACCES}


@pytest.mark.usefixtures("as_root")
def test_process_one_has_nothing_to_give() -> None:
    """CAP_SYS_PTRACE may take it over: that must gain neither capabilities nor privileges."""
    status = "answer({line.split(':')[0]: line.split()[-1] for line in open('/proc/1/status')})"
    for options in ({}, {"cap_add": ["SYS_PTRACE"]}, {"no_new_privileges": False}):
        found = inside(status, **options)
        assert int(found["CapPrm"], 16) == int(found["CapEff"], 16) == capability_mask(["KILL"])
        assert found["NoNewPrivs"] == "1"


HIJACK = """
seen, got = set(), []
end = time.monotonic() + 2.5
while time.monotonic() < end:
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) in (1, os.getpid()):
            continue
        pid = int(name)
        try:
            with open(f"/proc/{pid}/comm") as file:
                early = file.read().startswith("pycontainer")
            if not early:
                continue
            seen.add(pid)
            taken = call("ptrace", PTRACE_ATTACH, pid, 0, 0) == 0
            with open(f"/proc/{pid}/status") as file:
                status = dict(line.split(":", 1) for line in file)
            if taken:
                if int(status["CapPrm"], 16) & ~%d or status["Name"].strip().startswith("pycontainer"):
                    got.append(status)
                os.kill(pid, signal.SIGKILL)
            # Where the supervisor's program lies; of a process that has ended nothing can be read.
            memory = os.open(f"/proc/{pid}/mem", os.O_RDWR)
            try:
                taken = os.pread(memory, 8, 0x400000)
            finally:
                os.close(memory)
            with open(f"/proc/{pid}/comm") as file:
                if taken and file.read().startswith("pycontainer"):
                    got.append("mem")
        except OSError:
            continue
answer([len(seen), got])
"""


@pytest.mark.usefixtures("as_root")
def test_a_process_that_joins_cannot_be_taken_over() -> None:
    with pc.start("host", ["sleep", "60"]) as container:
        thief = container.popen([*PYTHON, PRELUDE + HIJACK % DEFAULTS], stdout=-1)
        while thief.poll() is None:
            container.exec(["true"], capture_output=True)
        out = thief.communicate()[0]
    seen, got = json.loads(out)
    # An exec is over so soon that the thief meets few of them; one would do.
    assert seen > 0
    assert got == []


# Class 4: links where something is mounted or made.

LINKS = ["/", "../../../../..", "{canary}", "../../../../../..{canary}", "/proc/self/fd/3", "self"]


@pytest.mark.parametrize(
    "name", ["proc", "sys", "dev", "dev/pts", "dev/shm", "sys/fs/cgroup", "proc/sys", "etc"]
)
@pytest.mark.parametrize("target", LINKS)
def test_links_where_the_container_mounts_its_own(name: str, target: str, root: Path, canary: Canary) -> None:
    link = root / name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(target.format(canary=canary.path))
    for options in ({}, {"network": "host"}):
        try:
            done = sh(root, "cat /proc/mounts; echo x > /dev/shm/x", **options)
        except pc.LaunchError as error:
            # Whatever is not covered by a mount of the container's is refused.
            assert error.errno in (errno.ELOOP, errno.ENOENT, errno.EXDEV, errno.ENOTDIR)
            assert name in ("proc", "sys", "dev", "etc")
            continue
        assert name not in ("proc", "sys", "dev")
        assert "proc /proc proc rw,nosuid,nodev,noexec" in done.stdout


@pytest.mark.parametrize("target", ["{canary}", "../../../../../../../..{canary}"])
def test_mount_targets_behind_links(target: str, root: Path, canary: Canary, tmp_path: Path) -> None:
    (root / "data").symlink_to(target.format(canary=canary.path))
    # Where a link leads nowhere within the root, that is made there.
    done = sh(root, "cat /data/content; ls -d /data/", mounts=[content("content", "/data/content")])
    assert (done.stdout, done.stderr) == ("content/data/\n", "")
    root.joinpath(canary.path.relative_to("/")).mkdir(parents=True)
    (tmp_path / "shared").mkdir()
    mounts = [
        content("content", "/data/content"),
        content("content", "/data/deep/er/content"),
        pc.tmpfs("/data/memory"),
        pc.bind(tmp_path / "shared", "/data/shared"),
        pc.bind(canary.path / "file", "/data/file", ro=True),
    ]
    script = (
        "cat /data/content /data/file; echo x > /data/memory/x; echo y > /data/shared/y; echo z > /data/z"
    )
    done = sh(root, script, mounts=mounts)
    assert (done.stdout, done.stderr) == ("contentcanary", "")
    assert sorted(os.listdir(tmp_path / "shared")) == ["y"]


@pytest.mark.parametrize(
    "target", ["/proc", "/proc/sys/kernel", "../proc/1", "/proc/self", "/sys", "/sys/kernel"]
)
def test_mount_targets_that_lead_into_the_kernels_file_systems(target: str, root: Path) -> None:
    (root / "data").symlink_to(target)
    for mount in (content("forged", "/data/hostname"), pc.tmpfs("/data"), content("x", "/data/status")):
        with pytest.raises(pc.LaunchError) as caught:
            sh(root, "true", mounts=[mount])
        assert caught.value.errno in (errno.EXDEV, errno.ENOENT, errno.EACCES, errno.EROFS)


def test_the_caller_may_name_a_file_of_procfs_itself() -> None:
    done = pc.run(
        "host", ["cat", "/proc/uptime"], mounts=[content("7 7\n", "/proc/uptime")], capture_output=True
    )
    assert done.stdout == b"7 7\n"


# Class 5: a procfs of the image's own.


@pytest.mark.usefixtures("as_root")
def test_sysctls_never_reach_a_file_of_the_image(root: Path, canary: Canary) -> None:
    fake = root / "proc/sys/kernel"
    fake.mkdir(parents=True)
    (fake / "msgmax").symlink_to(canary.path / "file")
    with contextlib.suppress(pc.LaunchError):
        done = sh(root, "cat /proc/sys/kernel/msgmax", sysctls={"kernel.msgmax": 9000})
        assert done.stdout == "9000\n"
    shutil.rmtree(root / "proc")
    (root / "proc").symlink_to("elsewhere")
    (root / "elsewhere/sys/kernel").mkdir(parents=True)
    (root / "elsewhere/sys/kernel/msgmax").write_text("1")
    with pytest.raises(pc.LaunchError):
        sh(root, "true", sysctls={"kernel.msgmax": 9000})


# Class 8: accounts.


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_link_out(path: Path) -> None:
    path.symlink_to("../../../../../../../../../../etc/passwd")


def make_absolute_link(path: Path) -> None:
    path.symlink_to("/proc/self/environ")


def make_directory(path: Path) -> None:
    path.mkdir()


def make_huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**25)


@pytest.mark.parametrize("make", [make_fifo, make_link_out, make_absolute_link, make_directory, make_huge])
def test_account_files_that_are_no_files(make: Callable[[Path], None], root: Path) -> None:
    (root / "etc").mkdir()
    make(root / "etc/passwd")
    with within(20):
        with pytest.raises(pc.PycontainerError):
            sh(root, "id", user="daemon")
        with contextlib.suppress(pc.PycontainerError):
            assert sh(root, "id -u; id -g", user="7:7").stdout == "7\n7\n"


def test_digits_are_numbers_whatever_the_image_calls_so(root: Path) -> None:
    (root / "etc").mkdir()
    (root / "etc/passwd").write_text("1000:x:0:0::/:/bin/sh\n0:x:5:5::/:/bin/sh\n-1:x:0:0::/:/bin/sh\n")
    (root / "etc/group").write_text("1000:x:0:\n")
    assert sh(root, "id -u; id -g", user="1000").stdout.split()[0] == "1000"
    assert sh(root, "id -u", user="0").stdout == "0\n"
    for user in ("4294967295", "-1", "99999999999999999999", "1000:4294967295", "1e3"):
        with pytest.raises(pc.PycontainerError):
            sh(root, "id -u", user=user)


# Class 7: what is shared with the host, and what must not be.


def test_streams_of_another_user_leave_the_hosts_files_alone(tmp_path: Path, canary: Canary) -> None:
    """The canary watches the owners of /dev/null and the others."""
    need(os.getuid() == 0, "root")
    with (tmp_path / "out").open("wb") as out:
        pc.run("host", ["id"], user="1234", stdout=out, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert (tmp_path / "out").stat().st_uid == 0
    named = tmp_path / "pipe"
    os.mkfifo(named)
    fd = os.open(named, os.O_RDWR)
    try:
        pc.run("host", ["id"], user="1234", stdout=fd)
    finally:
        os.close(fd)
    assert named.stat().st_uid == 0


MAKE_NODES = """
import stat
partitions = [line.split()[:2] for line in open("/proc/partitions").read().splitlines()[2:]]
nodes = [(stat.S_IFBLK, int(major), int(minor)) for major, minor in partitions[:1]]
nodes.append((stat.S_IFCHR, 1, 9))  # urandom: where this one opens, so does every other
found = {}
for place in sys.argv[1:]:
    for kind, major, minor in nodes:
        path = f"{place}/node-{major}-{minor}"
        made = attempt(os.mknod, path, kind | 0o666, os.makedev(major, minor))
        found[path] = [made, opening(path, os.O_RDONLY), opening(path, os.O_RDWR)]
        if made == 0:
            os.unlink(path)
answer(found)
"""


def make_nodes(places: list[str], **options: Any) -> dict[str, list[int]]:
    command = [*PYTHON, PRELUDE + MAKE_NODES, *places]
    done = pc.run("host", command, capture_output=True, check=True, timeout=60, **options)
    found: dict[str, list[int]] = json.loads(done.stdout)
    return found


@pytest.fixture
def mknod(as_root: None) -> None:
    bounding = int(Path("/proc/self/status").read_text().split("CapBnd:")[1].split()[0], 16)
    need(bool(bounding & capability_mask(["MKNOD"])), "CAP_MKNOD")


@pytest.mark.usefixtures("mknod")
@pytest.mark.parametrize("caps", [["MKNOD"], []])
def test_a_device_that_may_be_made_cannot_be_opened(caps: list[str]) -> None:
    places = ["/", "/tmp", "/dev", "/dev/shm", "/run", "/mnt/tmpfs"]
    for path, (made, *opened) in make_nodes(places, cap_add=caps, mounts=[pc.tmpfs("/mnt/tmpfs")]).items():
        assert made == (0 if caps else errno.EPERM), path
        assert set(opened) == {errno.EACCES if caps else errno.ENOENT}, path


@pytest.mark.usefixtures("mknod")
def test_nor_in_a_bind_mount(tmp_path: Path) -> None:
    (tmp_path / "bind").mkdir()
    mounts = [pc.bind(tmp_path / "bind", "/mnt/bind")]
    for path, (_, *opened) in make_nodes(["/mnt/bind"], cap_add=["MKNOD"], mounts=mounts).items():
        assert set(opened) == {errno.EACCES}, path


CGROUPS = """
found = {}
for directory, names, files in os.walk("/sys/fs/cgroup"):
    found[directory] = attempt(os.mkdir, directory + "/escape")
    for name in files:
        if name in ("release_agent", "notify_on_release", "cgroup.procs", "tasks", "memory.limit_in_bytes",
                    "memory.max", "pids.max", "devices.allow"):
            found[f"{directory}/{name}"] = opening(f"{directory}/{name}", os.O_WRONLY)
found["remount"] = -call("mount", b"none", b"/sys/fs/cgroup", 0, 0x20, 0)
found["mount v1"] = -call("mount", b"none", b"/mnt", b"cgroup", 0, b"memory")
found["mount v2"] = -call("mount", b"none", b"/mnt", b"cgroup2", 0, 0)
found["umount"] = -call("umount2", b"/sys/fs/cgroup", 2)
answer(found)
"""


def test_control_groups_are_out_of_reach(attack: Attack) -> None:
    found = attack(CGROUPS)
    # ENOENT: where an ordinary user has no control groups to see, there is nothing mounted.
    assert set(found.values()) <= {errno.EROFS, errno.EPERM, errno.EACCES, errno.ENOENT}


CONNECT = """
import socket
with socket.socket(socket.AF_UNIX) as any_socket:
    answer(attempt(any_socket.connect, b"\\0" + sys.argv[1].encode()))
"""


def test_abstract_sockets_of_the_host_are_not_there() -> None:
    name = f"pycontainer-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(b"\0" + name.encode())
        server.listen()
        command = [*PYTHON, PRELUDE + CONNECT, name]
        found = [
            json.loads(pc.run("host", command, capture_output=True, network=network).stdout)
            for network in ("none", "host")
        ]
    # With the host's network, its abstract sockets come along: that is what it means.
    assert found == [errno.ECONNREFUSED, 0]


OWN_SOCKET = """
import os, socket, sys
import pycontainer as pc
with socket.socket(socket.AF_UNIX) as server:
    server.bind("/srv/agent")
    server.listen()
    done = pc.run("host", {command!r}, capture_output=True)
    os.unlink("/srv/agent")
sys.stdout.write(done.stdout.decode())
"""

CONNECT_PATH = """
import socket
with socket.socket(socket.AF_UNIX) as any_socket:
    answer(attempt(any_socket.connect, "/srv/agent"))
"""


@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize(
    "mount",
    [
        "true",
        "mount -t tmpfs -o mode=1777 tmpfs /srv",
    ],
)
def test_sockets_in_an_ordinary_users_files_are_not_there(mount: str, as_user: OrdinaryUser) -> None:
    """An agent's or a terminal multiplexer's socket in /tmp or /home is a way to be that user outside."""
    script = OWN_SOCKET.format(command=[*PYTHON, PRELUDE + CONNECT_PATH])
    if mount == "true":
        script = script.replace("/srv/agent", f"/var/tmp/pycontainer-test-{os.getpid()}")
    setup = f'{mount}; exec "$@"'
    command = as_user.command([sys.executable, "-W", "error", "-c", script])
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", setup, "sh", *command],
        env=as_user.environment(),
        cwd=as_user.base / "home",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) in (errno.ECONNREFUSED, errno.ENOENT)


TERMINAL = """
import termios
found = []
for request in (termios.TIOCSTI, termios.TIOCSTI | 1 << 32, 0x541C, 0x541C | 0xFFFFFFFF << 32):
    found.append(-call("ioctl", 0, request, ctypes.c_char_p(b"x")))
answer(found)
"""


def test_a_terminal_takes_no_forged_input(attack: Attack) -> None:
    """The kernel looks at 32 bits of the request, so a filter must, too (CVE-2019-10063)."""
    assert set(attack(TERMINAL, tty=True)) == {errno.EPERM}


CALLS = """
found = {}
own = os.open("/proc/self/ns/mnt", os.O_RDONLY)
found["setns"] = call("setns", own, 0)
for name, flags in (("user", CLONE_NEWUSER), ("mnt", CLONE_NEWNS), ("pid", 0x20000000), ("net", 0x40000000)):
    found["unshare " + name] = call("unshare", flags)
    found["clone " + name] = call("clone", flags | signal.SIGCHLD, 0, 0, 0, 0)
    if found["clone " + name] == 0:
        os._exit(0)
found["mount"] = call("mount", b"tmpfs", b"/mnt", b"tmpfs", 0, 0)
found["bind"] = call("mount", b"/", b"/mnt", 0, 0x1000, 0)
found["remount"] = call("mount", 0, b"/proc/sys", 0, 0x1020, 0)
found["umount"] = call("umount2", b"/proc/sys", 2)
for name in ("pivot_root", "swapon", "open_tree", "fsopen", "move_mount", "mount_setattr", "bpf", "add_key",
             "request_key", "keyctl", "perf_event_open", "open_by_handle_at", "init_module", "kexec_load",
             "userfaultfd", "settimeofday", "syslog", "reboot", "io_uring_setup"):
    if name != "reboot":
        found[name] = call(name, 0, 0, 0, 0, 0)
found["socket vsock"] = call("socket", 40, 1, 0)
found["socket alg"] = call("socket", 38, 5, 0)
found["clone3"] = call("clone3", 0, 0)
answer(found)
"""


def test_calls_that_change_the_world_are_refused(attack: Attack) -> None:
    found = attack(CALLS)
    assert found.pop("clone3") == -errno.ENOSYS
    # An address family that is filtered out answers as one that the kernel does not have.
    for name in ("socket vsock", "socket alg"):
        assert found.pop(name) in (-errno.EPERM, -errno.EAFNOSUPPORT, -errno.EINVAL)
    assert set(found.values()) <= {-errno.EPERM, -errno.ENOSYS}, found


# Signals.


def test_killing_everything_in_sight_kills_nothing_outside(attack: Attack, canary: Canary) -> None:
    code = f"""
found = [attempt(os.kill, pid, 0) for pid in ({canary.process.pid}, {os.getpid()})]
child = os.fork()
if child == 0:
    time.sleep(60)
found.append(attempt(os.kill, -1, signal.SIGKILL))
os.waitpid(child, 0)
answer(found)
"""
    # A host's number may be a small one that is somebody's in there, too.
    assert attack(code)[2] == 0


def test_process_one_survives_its_own_container(attack: Attack) -> None:
    code = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
found = [attempt(os.kill, 1, number) for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM)]
orphan = os.fork()
if orphan == 0:
    if os.fork() == 0:
        os._exit(0)
    os._exit(0)
os.waitpid(orphan, 0)
time.sleep(0.1)
states = ""
for name in filter(str.isdigit, os.listdir("/proc")):
    with open(f"/proc/{name}/stat") as file:
        states += file.read().rpartition(")")[2].split()[0]
answer([found, "Z" in states or "T" in states])
"""
    assert attack(code) == [[0, 0, 0], False]


FORGE = """
CARRIER = 63
got = []
signal.signal(CARRIER, lambda number, frame: got.append(number))
for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP):
    info = ctypes.create_string_buffer(128)
    # si_signo, si_errno, si_code (SI_QUEUE), padding, si_pid, si_uid, si_value; siginfo is the sender's word
    struct.pack_into("=iiiiiiQ", info, 0, CARRIER, 0, -1, 0, 0, 0, number)
    assert call("rt_sigqueueinfo", int(sys.argv[1]) if len(sys.argv) > 1 else 1, CARRIER, info) == 0
end = time.monotonic() + 5
while not got and time.monotonic() < end:
    time.sleep(0.01)
answer(len(got) > 0)
os._exit(0)  # before Python takes its handler away: more of them may be on their way
"""


def test_the_carrier_signal_cannot_be_forged(attack: Attack) -> None:
    """It is passed on to the program as what it is, and not as what it would carry."""
    assert attack(FORGE) is True


def test_a_program_cannot_escape_its_timeout_by_stopping_its_reaper() -> None:
    script = "kill -STOP $PPID; sleep 60"
    with pc.start("host", ["sleep", "60"]) as container, within(20):
        with pytest.raises(pc.Timeout):
            container.exec(["sh", "-c", script], timeout=0.3)
        held = "(while :; do kill -STOP $PPID 2> /dev/null || exit; done) & sleep 60"
        with pytest.raises(pc.Timeout):
            container.exec(["sh", "-c", held], timeout=0.3)
        assert container.exec(["true"]).returncode == 0


# Class 11: floods.


def test_a_flood_of_output_leaves_memory_flat() -> None:
    def peak() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB

    pc.run("host", ["true"])
    before = peak()
    with pc.start("host", ["head", "-c", str(512 * 2**20), "/dev/zero"]) as container:
        done = container.wait(timeout=60)
    assert done.returncode == 0
    pc.run("host", ["head", "-c", str(256 * 2**20), "/dev/zero"], stdout=subprocess.DEVNULL)
    assert peak() - before < 16 * 1024
