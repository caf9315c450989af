"""Plans as the supervisor checks them, and the whole supervisor, under the sanitisers.

A sanitised supervisor is linked dynamically and started in place of the real one. Leak detection is
off: it needs ptrace, and a container's child borrows its parent's memory (vfork) until it execs.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

import host_process
import native_programs
from conftest import need
from native_programs import ENVIRONMENT, NATIVE, SANITISED, SOURCES, WARNINGS

HOST_ONLY = "client.c"
CORPUS = NATIVE / "corpus-plan"


def compile_program(target: Path, *sources: Path, options: tuple[str, ...] = ()) -> Path:
    need(shutil.which("gcc") is not None, "gcc")
    argv = ["gcc", *SANITISED, *WARNINGS, *options, f"-I{SOURCES}", *map(str, sources), "-o", str(target)]
    subprocess.run(argv, check=True)
    return target


def test_units(tmp_path: Path) -> None:
    program = compile_program(tmp_path / "unit", NATIVE / "unit_plan.c", SOURCES / "plan.c")
    subprocess.run([program], check=True, env=ENVIRONMENT, timeout=60)


def test_corpus(tmp_path: Path) -> None:
    """Real plans, and each cut off and changed in many places."""
    sources = (NATIVE / "fuzz_plan.c", SOURCES / "plan.c")
    program = compile_program(tmp_path / "replay", *sources, options=("-DPCTR_REPLAY",))
    seeds = sorted(CORPUS.iterdir())
    assert len(seeds) >= 3
    files = [*seeds]
    for seed in seeds:
        data = seed.read_bytes()
        for step in range(0, min(len(data), 4000), 7):
            for change in (data[:step], data[:step] + b"\xff" + data[step + 1 :]):
                files.append(tmp_path / f"{seed.name}-{len(files)}")
                files[-1].write_bytes(change)
    subprocess.run([program, *files], check=True, env=ENVIRONMENT, timeout=60)


@pytest.mark.slow
def test_fuzzing(tmp_path: Path) -> None:
    need(native_programs.has_fuzzer(tmp_path), "clang with libFuzzer")
    target = tmp_path / "fuzz"
    argv = ["clang", *SANITISED, "-fsanitize=fuzzer", f"-I{SOURCES}"]
    subprocess.run([*argv, NATIVE / "fuzz_plan.c", SOURCES / "plan.c", "-o", target], check=True)
    corpus = tmp_path / "corpus"
    shutil.copytree(CORPUS, corpus)
    fuzz = [
        target,
        "-runs=200000",
        "-max_len=8192",
        "-max_total_time=20",
        f"-artifact_prefix={tmp_path}/",
        corpus,
    ]
    subprocess.run(fuzz, check=True, env=ENVIRONMENT, timeout=60, stderr=subprocess.DEVNULL)


RUNS = """
    import pathlib
    from pycontainer import _sys
    _sys.PROGRAM = pathlib.Path(os.environ["SANITISED"])
    def ok(**options):
        done = pc.run("host", ["sh", "-c", "echo out; echo err >&2"], capture_output=True, **options)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"out\\n", b"err\\n"), (options, done)
    ok()
    ok(init=False)
    ok(memory="64M", pids=50, cpus=1, read_only=True, network="host", hostname="name")
    ok(mounts=[pc.bind("/etc", "/mnt", ro=True), pc.tmpfs("/var/tmp"), pc.content("x", "/run/x")])
    ok(user="1000:1000", cwd="/tmp", umask=0o77, ulimits={"nofile": 100}, env={"A": "b" * 100000})
    ok(seccomp="unconfined", privileged=True)
    assert pc.run("host", ["tty"], tty=True, stdout=pc.PIPE).stdout == b"/dev/pts/0\\r\\n"
    assert pc.run("host", ["cat"], input=b"x" * 3000000, capture_output=True).stdout == b"x" * 3000000
    for wrong in ({"cwd": "/etc/passwd"}, {"mounts": [pc.bind("/no/such", "/mnt")]}):
        try:
            ok(**wrong)
        except pc.LaunchError:
            continue
        raise AssertionError(wrong)
    try:
        pc.run("host", ["/no/such/program"])
    except pc.LaunchError:
        pass
    try:
        pc.run("host", ["sleep", "1000"], timeout=0.2)
    except pc.Timeout:
        pass
    root = pathlib.Path(os.environ["SANITISED"]).parent / "root"
    (root / "bin").mkdir(parents=True)
    image = pc.Image.from_directory(root)
    try:
        pc.run(image, ["/bin/x"])
    except pc.LaunchError:
        pass
    with pc.start("host", ["cat"], stdin=pc.PIPE) as container:
        for n in range(5):
            assert container.exec(["sh", "-c", f"exit {n}"]).returncode == n
        assert container.popen(["cat"], stdin=pc.PIPE, stdout=pc.PIPE).communicate(b"y")[0] == b"y"
        try:
            container.exec(["sh", "-c", "sleep 1000 & sleep 1000"], timeout=0.2)
        except pc.Timeout:
            pass
        container.kill("TERM")
        assert container.wait(timeout=10).returncode == -15
    ok()
    with open(f"/proc/{client.default().pid}/maps") as maps:
        say("libasan" in maps.read())
"""


def test_sanitised_supervisor(tmp_path: Path) -> None:
    """No report, which would go into the log file, in a representative set of runs."""
    sources = sorted(path for path in SOURCES.glob("*.c") if path.name != HOST_ONLY)
    log = tmp_path / "report"
    options = tmp_path / "options.c"
    # The supervisor has no environment, and /dev/null for its standard streams.
    options.write_text(
        "const char *__asan_default_options(void);\n"
        f'const char *__asan_default_options(void) {{ return "detect_leaks=0:log_path={log}"; }}\n'
        "const char *__ubsan_default_options(void);\n"
        f'const char *__ubsan_default_options(void) {{ return "log_path={log}:print_stacktrace=1"; }}\n'
    )
    program = compile_program(tmp_path / "supervisor", *sources, options, options=("-std=gnu11",))
    lines = host_process.run(RUNS, tmp_path, env={"SANITISED": str(program)}, timeout=90)
    reports = [path.read_text() for path in tmp_path.glob("report*")]
    assert reports == []
    assert lines == ["True"]
