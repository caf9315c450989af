"""A thousand runs leave nothing: everything that `leaks.py` looks at is as flat as it was before.

The host is a process of its own. What belongs to it alone (descriptors, threads, its supervisor's
descriptors and children, its containers' directories and control groups) must be the same to the
last one; what the whole machine shares (mounts, keys, orphans) may move by what others do meanwhile,
which is far less than a thing for every run.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import host_process

SCRIPT = """
    sys.path.insert(0, os.environ["TESTS"])
    import gc, pathlib, resource
    import host_process, leaks
    runs = int(os.environ["RUNS"])
    root = os.environ["ROOT"]
    os.makedirs(root + "/bin")
    image = pc.Image.from_directory(root)
    container = pc.start("host", ["sleep", "100000"])

    def fails(call):
        try:
            call()
        except (pc.LaunchError, pc.Timeout, pc.InvalidOption):
            return
        raise AssertionError("no error")

    def started():
        with pc.start("host", ["sleep", "1000"], memory="64M") as one:
            assert one.exec(["echo", "x"], capture_output=True).stdout == b"x\\n"

    mix = [
        *[lambda: pc.run("host", ["true"], check=True)] * 6,
        lambda: pc.run("host", ["cat"], input=b"x" * 100000, capture_output=True, memory="64M", cpus=1),
        lambda: pc.run("host", ["echo", "x"], tty=True, stdout=pc.PIPE),
        *[lambda: container.exec(["true"], check=True)] * 4,
        lambda: container.popen(["cat"], stdin=pc.PIPE, stdout=pc.PIPE).communicate(b"x"),
        started,
        lambda: fails(lambda: pc.run("host", ["/no/such/program"])),
        lambda: fails(lambda: pc.run(image, ["/bin/no-such-program"])),
        lambda: fails(lambda: pc.run("host", ["true"], mounts=[pc.bind("/no/such", "/mnt")])),
        lambda: fails(lambda: pc.run("host", ["true"], user="no-such-user")),
        lambda: fails(lambda: pc.run("host", ["sh", "-c", "sleep 100 & sleep 100"], timeout=0.01)),
        lambda: fails(lambda: container.exec(["/no/such/program"])),
    ]
    supervisor = client.default().pid

    def own():
        gc.collect()
        store = pathlib.Path(session.current().store.path)
        traces = host_process.Traces(store)
        below = [path for owner in traces.cgroups() for path, _, _ in os.walk(owner)]
        return {
            "descriptors": leaks.descriptors(),
            "threads": leaks.threads(),
            "supervisor's descriptors": len(os.listdir(f"/proc/{supervisor}/fd")),
            "processes": len(host_process.family(supervisor)),
            "control groups": sorted(below),
            "store": [sorted(store.glob(part)) for part in ("containers/*/*", "staging/*", "hosts/*")],
            "temporary files": sorted(os.listdir(os.environ["TMPDIR"])),
        }

    def shared():
        return leaks.Counter({
            "mounts": sum(leaks.mounts().values()), "keys": sum(leaks.keys().values()),
            "shared memory": len(os.listdir("/dev/shm")),
            "orphans": sum(1 for line in leaks.processes() if line.startswith("orphan"))})

    def memory():
        with open(f"/proc/{supervisor}/statm") as statm:
            return int(statm.read().split()[1]) * resource.getpagesize()

    for call in mix * 2:
        call()
    before, machine, size = own(), shared(), memory()
    for n in range(runs):
        mix[n % len(mix)]()
    deadline = time.monotonic() + 10
    while (after := own()) != before and time.monotonic() < deadline:
        time.sleep(0.05)
    for kind in before:
        assert after[kind] == before[kind], (kind, before[kind], after[kind])
    # The kernel gives up a keyring some time after the last process that had it.  keyrings(7)
    while (more := shared() - machine) and max(more.values()) >= runs / 20 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not more or max(more.values()) < runs / 20, (machine, more)
    assert memory() - size < 128 * 1024, (size, memory())
    assert client.default().pid == supervisor
    container.remove(force=True)
"""


def flat(base: Path, runs: int) -> None:
    (base / "tmp").mkdir()
    env = {
        "TESTS": str(Path(__file__).parent),
        "ROOT": str(base / "root"),
        "RUNS": str(runs),
        "TMPDIR": str(base / "tmp"),
    }
    host_process.run(SCRIPT, base, env=env, timeout=240)


def test_flat_after_two_hundred(tmp_path: Path) -> None:
    flat(tmp_path, 200)


@pytest.mark.slow
def test_flat_after_a_thousand(tmp_path: Path) -> None:
    flat(tmp_path, 1000)
