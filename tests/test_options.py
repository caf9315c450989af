"""Options: every accepted spelling, every refusal by name, and the value as a whole."""

from __future__ import annotations

import logging
import pickle
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import attrs
import pytest

from pycontainer import wait
from pycontainer.errors import InvalidOption
from pycontainer.healthcheck import Healthcheck
from pycontainer.mounts import bind, content, tmpfs
from pycontainer.network_options import Port
from pycontainer.option_values import UNLIMITED, Device, SeccompProfile
from pycontainer.options import Options

NAMES = [field.name for field in attrs.fields(Options)]

CONVERTED: list[tuple[str, Any, Any]] = [
    ("entrypoint", "/bin/tool --flag", ("/bin/tool --flag",)),
    ("entrypoint", ["/bin/sh", Path("/x")], ("/bin/sh", "/x")),
    ("entrypoint", Path("/bin/tool"), ("/bin/tool",)),
    ("entrypoint", "", ()),
    ("entrypoint", [], ()),
    ("env", {"A": "1", "B": None}, (("A", "1"), ("B", None))),
    ("env", ["A=1", "A=2=3", "B="], (("A", "2=3"), ("B", ""))),
    ("env", {"P": Path("/x")}, (("P", "/x"),)),
    ("env", None, ()),
    ("cwd", "/", "/"),
    ("cwd", Path("/a/b"), "/a/b"),
    ("user", 1000, "1000"),
    ("user", "1000:100", "1000:100"),
    ("user", "web:staff", "web:staff"),
    ("hostname", "web-1.example", "web-1.example"),
    ("stdin", True, subprocess.PIPE),
    ("stdin", False, subprocess.DEVNULL),
    ("stdin", subprocess.DEVNULL, subprocess.DEVNULL),
    ("stdin", 7, 7),
    ("pass_fds", [9, 3, 9], (3, 9)),
    ("stop_signal", "SIGINT", 2),
    ("stop_signal", signal.SIGUSR1, 10),
    ("stop_timeout", 0, 0.0),
    ("stop_timeout", "1m", 60.0),
    ("umask", "022", 0o022),
    ("umask", "0o77", 0o077),
    ("umask", 0o27, 0o27),
    ("ulimits", {"nofile": 1024}, (("nofile", 1024, 1024),)),
    ("ulimits", {"RLIMIT_NPROC": (5, "unlimited"), "core": 0}, (("core", 0, 0), ("nproc", 5, UNLIMITED))),
    ("ulimits", {"memlock": "64M"}, (("memlock", 2**26, 2**26),)),
    ("ulimits", {"stack": -1}, (("stack", UNLIMITED, UNLIMITED),)),
    ("shm_size", "1G", 2**30),
    ("devices", ["/dev/fuse"], (Device("/dev/fuse", "/dev/fuse", "rwm"),)),
    ("devices", ["/dev/sda:/dev/xvda:r"], (Device("/dev/sda", "/dev/xvda", "r"),)),
    ("devices", ["/dev/sda:wr"], (Device("/dev/sda", "/dev/sda", "rw"),)),
    ("devices", [("/dev/a", "/dev/b")], (Device("/dev/a", "/dev/b", "rwm"),)),
    ("devices", [("/dev/a", "/dev/b", "m")], (Device("/dev/a", "/dev/b", "m"),)),
    ("memory", "512k", 524288),
    ("memory", 2**40, 2**40),
    ("cpus", "1.5", 1.5),
    ("cpus", 1000, 1000.0),
    ("cpuset", "3,0-1", "0-1,3"),
    ("cpu_weight", 10000, 10000),
    ("pids", -1, -1),
    ("pids", 0, 0),
    ("io_weight", 1, 1),
    ("io_max", {"8:0": {"wbps": "1M", "riops": 5}}, (("8:0", (("riops", 5), ("wbps", 1048576))),)),
    ("network", "host", "host"),
    ("network", "bridge", "bridge"),
    ("ports", {80: 8080}, (Port(80, "tcp", None, 8080),)),
    ("dns", ["10.0.0.1"], ("10.0.0.1",)),
    ("extra_hosts", {"db": "10.0.0.1"}, (("db", "10.0.0.1"),)),
    ("cap_add", ["net_admin", "CAP_SYS_TIME"], ("NET_ADMIN", "SYS_TIME")),
    ("cap_drop", {"ALL"}, ("ALL",)),
    ("seccomp", "unconfined", "unconfined"),
    ("seccomp", "/etc/profile.json", Path("/etc/profile.json")),
    ("seccomp", {"b": 1, "a": []}, SeccompProfile('{"a": [], "b": 1}')),
    ("userns", "host", "host"),
    ("sysctls", {"net.ipv4.ip_forward": 1}, (("net/ipv4/ip_forward", "1"),)),
    ("sysctls", {"net/ipv4/conf/eth0.5/rp_filter": "2"}, (("net/ipv4/conf/eth0.5/rp_filter", "2"),)),
    ("sysctls", {"kernel.shmall": 1, "kernel.msgmax": 9}, (("kernel/msgmax", "9"), ("kernel/shmall", "1"))),
    ("sysctls", {"fs.mqueue.msg_max": 20}, (("fs/mqueue/msg_max", "20"),)),
    ("sysctls", {"kernel.sem": "1 2 3 4"}, (("kernel/sem", "1 2 3 4"),)),
    ("masked_paths", [], ()),
    ("masked_paths", ["/proc/kcore/", "/proc/kcore"], ("/proc/kcore",)),
    ("readonly_paths", ["/proc/sys"], ("/proc/sys",)),
    ("log", "file", "file"),
    ("log", logging.getLogger("x"), logging.getLogger("x")),
    ("healthcheck", "true", Healthcheck(["/bin/sh", "-c", "true"])),
    ("healthcheck", ["CMD", "a", "b"], Healthcheck(["a", "b"])),
    ("healthcheck", ["NONE"], False),
    ("healthcheck", Healthcheck("x", interval="1m"), Healthcheck("x", interval=60)),
    ("wait", wait.log("x") & wait.listening(5), wait.log("x") & wait.listening(5)),
]

REFUSED: list[tuple[str, Any]] = [
    ("entrypoint", ["a\0b"]),
    ("entrypoint", [5]),
    ("entrypoint", 5),
    ("env", ["A"]),
    ("env", "A=1"),
    ("env", {"": "x"}),
    ("env", {"A=B": "x"}),
    ("env", {"A": 5}),
    ("env", {"A": "x\0"}),
    ("env", {"A": "x" * 131072}),
    ("env", {5: "x"}),
    ("env", [5]),
    ("cwd", "relative"),
    ("cwd", "/a/../b"),
    ("cwd", ""),
    ("user", ""),
    ("user", "a:b:c"),
    ("user", "a:"),
    ("user", ":1"),
    ("user", -1),
    ("user", 2**32 - 1),
    ("user", True),
    ("user", "a\nb"),
    ("hostname", ""),
    ("hostname", "x" * 65),
    ("hostname", "a b"),
    ("hostname", "-a"),
    ("hostname", "a/b"),
    ("hostname", "ä"),
    ("tty", 1),
    ("init", "no"),
    ("stdin", "text"),
    ("stdin", subprocess.STDOUT),
    ("stdin", 1.5),
    ("pass_fds", [2]),
    ("pass_fds", [-1]),
    ("pass_fds", 5),
    ("pass_fds", range(3, 200)),
    ("stop_signal", "NOPE"),
    ("stop_timeout", -1),
    ("stop_timeout", None),
    ("umask", "9"),
    ("umask", 0o1000),
    ("ulimits", {"nofiles": 5}),
    ("ulimits", {"nofile": (5, 4)}),
    ("ulimits", {"nofile": ("unlimited", 4)}),
    ("ulimits", {"nofile": (1, 2, 3)}),
    ("ulimits", {"nofile": -2}),
    ("ulimits", {"nofile": True}),
    ("ulimits", ["nofile=5"]),
    ("ulimits", "nofile=5"),
    ("mounts", ["/a:/b"]),
    ("mounts", bind("/a", "/b")),
    ("mounts", [bind("/a", "/b"), tmpfs("/b/")]),
    ("read_only", "false"),
    ("shm_size", 0),
    ("shm_size", "-64M"),
    ("devices", ["dev/fuse"]),
    ("devices", ["/dev/a:/dev/b:x"]),
    ("devices", ["/dev/a:/dev/b:"]),
    ("devices", ["/dev/a:b:c:d"]),
    ("devices", "/dev/fuse"),
    ("devices", [5]),
    ("devices", ["/dev/a", "/dev/b:/dev/a"]),
    ("devices", ["/dev/a:/../b"]),
    ("memory", -1),
    ("memory", "-64M"),
    ("memory", "511k"),
    ("memory", 0),
    ("memory", "lots"),
    ("memory_swap", -2),
    ("memory_swap", "x"),
    ("memory_swap", True),
    ("cpus", 0),
    ("cpus", -1),
    ("cpus", "nan"),
    ("cpus", float("inf")),
    ("cpus", True),
    ("cpus", "two"),
    ("cpus", 10**400),
    ("cpuset", "2-1"),
    ("cpu_weight", 0),
    ("cpu_weight", 10001),
    ("pids", -2),
    ("pids", 2**22 + 1),
    ("pids", "100"),
    ("io_weight", 0),
    ("io_max", {"sda": {"rbps": 1}}),
    ("io_max", {"8:0": {"rate": 1}}),
    ("io_max", {"8:0": {"rbps": 0}}),
    ("io_max", {"8:0": {}}),
    ("io_max", {"8:0": 5}),
    ("io_max", ["8:0"]),
    ("network", "default"),
    ("network", None),
    ("ports", {0: 80}),
    ("dns", ["example.com"]),
    ("extra_hosts", {"db": "example.com"}),
    ("aliases", ["a b"]),
    ("ip_address", "10.0.0.0/8"),
    ("cap_add", ["NET_ADMN"]),
    ("cap_add", "NET_ADMIN"),
    ("cap_drop", [5]),
    ("privileged", 1),
    ("seccomp", None),
    ("seccomp", ""),
    ("seccomp", {"a": object()}),
    ("seccomp", 5),
    ("no_new_privileges", 1),
    ("userns", "keep-id"),
    ("sysctls", {"vm.swappiness": 1}),
    ("sysctls", {"kernel.core_pattern": "|/bin/x"}),
    ("sysctls", {"kernel.shmx/../core_pattern": "x"}),
    ("sysctls", {"net/../kernel/core_pattern": "x"}),
    ("sysctls", {"net": "x"}),
    ("sysctls", {"net.": "x"}),
    ("sysctls", {"/net/x": "x"}),
    ("sysctls", {"net.a\0b": "x"}),
    ("sysctls", {"kernel.semx": "x"}),
    ("sysctls", {"net.x": ""}),
    ("sysctls", {"net.x": "a\nb"}),
    ("sysctls", {"net.x": True}),
    ("sysctls", {5: "x"}),
    ("sysctls", "net.x=1"),
    ("masked_paths", ["proc"]),
    ("masked_paths", "/proc"),
    ("readonly_paths", ["/"]),
    ("name", "-x"),
    ("name", "a b"),
    ("labels", ["a=b"]),
    ("labels", {"": "x"}),
    ("annotations", {"a": 1}),
    ("log", "syslog"),
    ("log", None),
    ("restart", "sometimes"),
    ("persist", "yes"),
    ("restart", "on-failure:-1"),
    ("healthcheck", True),
    ("healthcheck", []),
    ("healthcheck", 5),
    ("healthcheck", ["CMD-SHELL"]),
    ("wait", "ready"),
    ("wait", 5),
]


@pytest.mark.parametrize(("name", "given", "final"), CONVERTED, ids=lambda value: str(value)[:30])
def test_what_is_accepted_and_what_it_becomes(name: str, given: Any, final: Any) -> None:
    options = Options(**{name: given})
    assert getattr(options, name) == final
    assert type(getattr(options, name)) is type(final)
    assert attrs.evolve(options) == options
    assert Options.merge(Options(tty=True), {name: given}) == Options(tty=True, **{name: given})
    hash(options)


@pytest.mark.parametrize(("name", "given"), REFUSED, ids=lambda value: str(value)[:30])
def test_what_is_refused_names_the_option(name: str, given: Any) -> None:
    with pytest.raises(InvalidOption) as caught:
        Options(**{name: given})
    with pytest.raises(InvalidOption, match=re.escape(str(caught.value))):
        Options.merge(Options(tty=True), {name: given})
    assert str(caught.value).startswith(name)
    assert len(str(caught.value)) < 400


def test_defaults() -> None:
    options = Options()
    assert (options.init, options.no_new_privileges, options.stop_timeout) == (True, None, 10.0)
    assert (options.network, options.seccomp, options.userns) == ("none", "default", "auto")
    assert (options.pids, options.memory, options.masked_paths) == (None, None, None)
    assert repr(options) == "Options()"


def test_each_option_has_a_refusal() -> None:
    assert {name for name, _ in REFUSED} == set(NAMES)


def test_an_unknown_option_names_the_nearest() -> None:
    with pytest.raises(TypeError, match=r"'memroy'\. Did you mean 'memory'\?"):
        Options(memroy="1G")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"'memroy'\. Did you mean 'memory'\?"):
        Options.merge(Options(), {"memroy": "1G"})
    with pytest.raises(TypeError, match=r"'zzzz'$"):
        Options.merge(None, {"zzzz": 1})
    with pytest.raises(TypeError):
        Options("1G")  # type: ignore[misc]


def test_merge_replaces_whole_options() -> None:
    base = Options(memory="64M", env={"A": "1"}, cap_add=["NET_ADMIN"])
    merged = Options.merge(base, {"memory": None, "env": {"B": "2"}})
    assert merged == Options(env={"B": "2"}, cap_add=["NET_ADMIN"])
    assert base.memory == 2**26
    assert Options.merge(base, {}) is base
    assert Options.merge(None, {"memory": "64M"}) == Options(memory=2**26)
    with pytest.raises(InvalidOption, match=r"^options="):
        Options.merge({"memory": 1}, {})  # type: ignore[arg-type]


def test_options_that_contradict_each_other() -> None:
    with pytest.raises(InvalidOption, match="needs memory"):
        Options(memory_swap="1G")
    with pytest.raises(InvalidOption, match="below memory"):
        Options(memory="1G", memory_swap="512M")
    assert Options(memory="1G", memory_swap="1G").memory_swap == 2**30
    assert Options(memory="1G", memory_swap=-1).memory_swap == -1
    with pytest.raises(InvalidOption, match="host's with network"):
        Options(network="host", sysctls={"net.ipv4.ip_forward": 1})
    assert Options(network="host", sysctls={"kernel.msgmax": 1}).sysctls
    with pytest.raises(InvalidOption, match="contradicts hostname"):
        Options(hostname="a", sysctls={"kernel.hostname": "b"})
    with pytest.raises(InvalidOption, match="below memory"):
        Options.merge(Options(memory="1G", memory_swap="1G"), {"memory": "2G"})


def test_a_value_is_frozen_hashable_and_can_be_sent_to_another_process() -> None:
    options = Options(
        env={"A": "1"},
        memory="64M",
        mounts=[content("x", "/f")],
        seccomp={"syscalls": []},
        devices=["/dev/null"],
    )
    assert pickle.loads(pickle.dumps(options)) == options
    assert hash(options) == hash(attrs.evolve(options))
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        options.memory = 5  # type: ignore[misc]


def test_what_the_caller_changes_later_changes_nothing() -> None:
    env = {"A": "1"}
    options = Options(env=env)
    env["A"] = "2"
    assert options.env == (("A", "1"),)


def test_repr_is_one_line_without_secrets() -> None:
    options = Options(env={"TOKEN": "hunter2", "GONE": None}, mounts=[content("hunter2", "/f")], tty=True)
    assert "hunter2" not in repr(options)
    assert "'TOKEN': '***', 'GONE': None" in repr(options)
    assert "tty=True" in repr(options)
    assert "\n" not in repr(options)
    for name, value in (("env", {"TOKEN": 5}), ("env", {"TOKEN": "hunter2\0"}), ("env", {"T=": "hunter2"})):
        with pytest.raises(InvalidOption) as caught:
            Options(**{name: value})
        assert "hunter2" not in str(caught.value)


def test_a_file_may_be_standard_input(tmp_path: Path) -> None:
    with (tmp_path / "f").open("wb") as file:
        assert Options(stdin=file).stdin is file


def test_limits_for_a_control_group() -> None:
    limits = Options().limits()
    assert (limits.memory, limits.cpus, limits.pids, limits.io_max) == (None, None, 4096, ())
    assert Options(pids=0).limits().pids == -1
    assert Options(pids=7).limits().pids == 7
    full = Options(
        memory="64M",
        memory_swap=-1,
        cpus=0.5,
        cpuset="0-1",
        cpu_weight=50,
        io_weight=200,
        io_max={"8:0": {"rbps": "1M"}},
    ).limits()
    assert (full.memory, full.memory_swap, full.cpus) == (2**26, -1, 0.5)
    assert (full.cpuset, full.cpu_weight, full.io_weight) == ("0-1", 50, 200)
    assert full.io_max == (("8:0", (("rbps", 2**20),)),)
