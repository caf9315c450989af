"""Credentials as podman and docker write them, and helpers that are real programs on a PATH of their own."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import need, unchanged
from ordinary_user import OrdinaryUser
from pycontainer.distribution import credential_helper
from pycontainer.distribution.auth_files import MAX_FILE
from pycontainer.distribution.credentials import Credential, find
from pycontainer.errors import AuthError
from registries import RealRegistry

HOST = "registry.example.com:5000"


def coded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def entry(text: str = "me:pw") -> dict[str, str]:
    return {"auth": coded(text)}


class Place:
    """A home directory with helpers; `find` looks nowhere else."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bin = path / "bin"
        self.bin.mkdir()
        self.environ = {
            "HOME": str(path),
            "XDG_RUNTIME_DIR": str(path / "run"),
            "PATH": f"{self.bin}:/usr/bin:/bin",
        }

    def write(self, name: str, document: Any) -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(document if isinstance(document, bytes) else json.dumps(document).encode())
        return path

    def docker(self, **document: Any) -> Path:
        return self.write(".docker/config.json", document)

    def helper(self, name: str, script: str) -> Path:
        path = self.bin / f"docker-credential-{name}"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    def find(self, registry: str = HOST, repository: str | None = None) -> Credential | None:
        return find(registry, repository=repository, environ=self.environ)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


# -- files -----------------------------------------------------------------------------------------


def test_nothing_configured(place: Place) -> None:
    assert place.find() is None
    assert find(HOST, environ={"XDG_RUNTIME_DIR": "/nonexistent", "HOME": "/nonexistent"}) is None


def test_the_order_of_the_files(place: Place) -> None:
    """Each file that is written comes before those written earlier."""
    for name in (
        ".docker/config.json",
        ".config/containers/auth.json",
        "run/containers/auth.json",
        "named.json",
    ):
        path = place.write(name, {"auths": {HOST: entry(f"{name}:pw")}})
        if name == "named.json":
            place.environ["REGISTRY_AUTH_FILE"] = str(path)
        found = place.find()
        assert found is not None and found.username == name


def test_places_that_variables_name(place: Place) -> None:
    place.write("docker/config.json", {"auths": {HOST: entry("d:pw")}})
    place.environ["DOCKER_CONFIG"] = str(place.path / "docker")
    assert place.find() == Credential("d", "pw")
    place.write("config/containers/auth.json", {"auths": {HOST: entry("c:pw")}})
    place.environ["XDG_CONFIG_HOME"] = str(place.path / "config")
    assert place.find() == Credential("c", "pw")


def test_a_file_that_does_not_know_the_registry_is_passed_over(place: Place) -> None:
    place.write("run/containers/auth.json", {"auths": {"other.example.com": entry(), HOST: {}}})
    place.docker(auths={HOST: entry("d:pw")})
    assert place.find() == Credential("d", "pw")


def test_the_named_file_is_the_only_one(place: Place) -> None:
    place.docker(auths={HOST: entry()})
    place.environ["REGISTRY_AUTH_FILE"] = str(place.write("empty.json", b""))
    assert place.find() is None
    place.environ["REGISTRY_AUTH_FILE"] = "/dev/null"
    assert place.find() is None
    place.environ["REGISTRY_AUTH_FILE"] = missing = str(place.path / "missing.json")
    with pytest.raises(AuthError, match=f"{missing}: cannot be read: No such file"):
        place.find()
    place.environ["REGISTRY_AUTH_FILE"] = ""
    assert place.find() == Credential("me", "pw")


@pytest.mark.parametrize(
    "keys, registry, repository, expected",
    [
        (["docker.io"], "docker.io", None, 0),
        (["https://index.docker.io/v1/"], "docker.io", None, 0),
        (["index.docker.io"], "docker.io", "library/debian", 0),
        (["https://registry-1.docker.io/v2/"], "docker.io", None, 0),
        (["index.docker.io/v1/"], "docker.io", None, 0),
        (["docker.io.evil.example.net"], "docker.io", None, None),
        (["docker.io"], "docker.io.evil.example.net", None, None),
        (["https://example.com/v1/"], "example.com", None, 0),
        (["http://example.com/v2/"], "example.com", "a", 0),
        (["https://example.com"], "example.com", None, 0),
        (["example.com/"], "example.com", None, 0),
        (["Example.com"], "example.COM", None, 0),
        (["example.com:5000"], "example.com", None, None),
        (["example.com"], "example.com:5000", None, None),
        (["example.com", "example.com/a", "example.com/a/b"], "example.com", "a/b", 2),
        (["example.com", "example.com/a", "example.com/a/b"], "example.com", "a/c", 1),
        (["example.com", "example.com/a", "example.com/a/b"], "example.com", "aa", 0),
        (["example.com", "example.com/a", "example.com/a/b"], "example.com", None, 0),
        (["example.com/a"], "example.com", "b", None),
        (["example.com/a"], "example.com", None, None),
        (["docker.io/team"], "docker.io", "team/app", 0),
    ],
)
def test_keys(
    place: Place, keys: list[str], registry: str, repository: str | None, expected: int | None
) -> None:
    place.docker(auths={key: entry(f"{number}:pw") for number, key in enumerate(keys)})
    found = place.find(registry, repository)
    assert (None if found is None else found.username) == (None if expected is None else str(expected))


@pytest.mark.parametrize(
    "fields, expected",
    [
        (entry("me:a:b"), Credential("me", "a:b")),
        (entry("me:pw\0\0"), Credential("me", "pw")),
        (entry("m\xe9:p\xe4"), Credential("m\xe9", "p\xe4")),
        ({"username": "me", "password": "pw"}, Credential("me", "pw")),
        ({"username": "other", "password": "x", **entry()}, Credential("me", "pw")),
        ({**entry("me:"), "identitytoken": "i"}, Credential("me", "", "i")),
        (entry("<token>:i"), Credential(identity_token="i")),
        ({"registrytoken": "r"}, Credential(registry_token="r")),
        ({}, None),
        (None, None),
        (entry(":"), None),
        ({"username": "me"}, None),
        ({"auth": "", "email": "me@example.com"}, None),
    ],
)
def test_entries(place: Place, fields: Any, expected: Credential | None) -> None:
    place.docker(auths={HOST: fields})
    assert place.find() == expected


@pytest.mark.parametrize(
    "document, field",
    [
        (b"{", "is not JSON"),
        (b'{"auths": "s3cret', "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[" * 100000, "is not JSON"),
        (b"[]", "must hold a JSON object"),
        (b" " * (MAX_FILE + 1), "larger than"),
        ({"auths": []}, "auths: must be an object"),
        ({"auths": {HOST: "s3cret"}}, r"auths\['registry.example.com:5000'\]: must be an object"),
        ({"auths": {HOST: {"auth": 5}}}, r"\['auth'\]: must be a string"),
        ({"auths": {HOST: {"auth": "s3cret!"}}}, r"\['auth'\]: must be user:password in base64"),
        ({"auths": {HOST: {"auth": coded("s3cret")}}}, r"\['auth'\]: must be user:password in base64"),
        ({"auths": {HOST: {"auth": base64.b64encode(b"s3cret:\xff").decode()}}}, "in base64"),
        ({"auths": {HOST: {"username": "a\nb", "password": "s3cret"}}}, "holds a control character"),
        ({"credsStore": 1}, "credsStore: must be a string"),
        ({"credHelpers": {HOST: {}}}, r"credHelpers\['registry.example.com:5000'\]: must be a string"),
    ],
)
def test_malformed_files_are_named(place: Place, document: Any, field: str) -> None:
    path = place.write(".docker/config.json", document)
    with pytest.raises(AuthError, match=field) as caught:
        place.find()
    assert str(path) in str(caught.value)
    assert "s3cret" not in str(caught.value) and caught.value.__context__ is None


def test_other_entries_do_not_matter(place: Place) -> None:
    place.docker(auths={"other.example.com": {"auth": 5}, "": [], HOST: entry()})
    assert place.find() == Credential("me", "pw")


def test_directories_and_pipes_do_not_block(place: Place) -> None:
    (place.path / ".docker/config.json").mkdir(parents=True)
    with pytest.raises(AuthError, match="Is a directory"):
        place.find()
    (place.path / ".docker/config.json").rmdir()
    os.mkfifo(place.path / ".docker/config.json")
    assert place.find() is None


def test_files_of_others(as_user: OrdinaryUser, tmp_path: Path) -> None:
    """After su, XDG_RUNTIME_DIR is somebody else's and closed: as if it were not there. A file that is there
    and cannot be read is told."""
    done = as_user(
        """
        import os, tempfile
        from pycontainer.distribution.credentials import find
        from pycontainer.errors import AuthError
        home = tempfile.mkdtemp()
        closed = os.path.join(home, "closed")
        os.makedirs(closed + "/containers")
        open(closed + "/containers/auth.json", "w").close()
        os.chmod(closed, 0)
        environ = {"HOME": home, "XDG_RUNTIME_DIR": closed}
        assert find("example.com", environ=environ) is None
        os.mkdir(home + "/.docker")
        os.close(os.open(home + "/.docker/config.json", os.O_CREAT | os.O_WRONLY, 0))
        try:
            find("example.com", environ=environ)
        except AuthError as error:
            assert "config.json: cannot be read: Permission denied" in str(error), error
            print("told")
        """
    )
    assert "told" in done.stdout


# -- helpers ---------------------------------------------------------------------------------------

ANSWER = """read server; printf '{"ServerURL":"%s","Username":"u-%s","Secret":"pw"}' "$server" "$server" """


def test_a_helper_for_one_registry(place: Place) -> None:
    place.helper("one", ANSWER)
    place.docker(credHelpers={HOST: "one"}, auths={HOST: entry(), "b.example.com": entry("b:pw")})
    assert place.find() == Credential(f"u-{HOST}", "pw")
    assert place.find("b.example.com") == Credential("b", "pw")


def test_a_store_for_every_registry(place: Place) -> None:
    place.helper("all", ANSWER)
    place.helper("one", 'echo \'{"Username":"special","Secret":"pw"}\'')
    place.docker(credsStore="all", credHelpers={"b.example.com": "one"}, auths={HOST: {}})
    assert place.find() == Credential(f"u-{HOST}", "pw")
    assert place.find("b.example.com") == Credential("special", "pw")


def test_docker_io_has_two_names(place: Place) -> None:
    place.helper("all", ANSWER)
    place.docker(credsStore="all")
    assert place.find("docker.io") == Credential("u-https://index.docker.io/v1/", "pw")
    place.helper(
        "all",
        """read server; test "$server" = docker.io || { echo credentials not found; exit 1; }
        echo '{"Username":"podman","Secret":"pw"}'""",
    )
    assert place.find("index.docker.io") == Credential("podman", "pw")
    place.helper(
        "all",
        """read server; test "$server" = docker.io || { echo '{"Username":"","Secret":""}'; exit; }
        echo '{"Username":"podman","Secret":"pw"}'""",
    )
    place.docker(credHelpers={"https://index.docker.io/v1/": "all"})
    assert place.find("docker.io") == Credential("podman", "pw")


def test_an_identity_token(place: Place) -> None:
    place.helper("all", 'echo \'{"Username":"<token>","Secret":"i"}\'')
    place.docker(credsStore="all")
    assert place.find() == Credential(identity_token="i")


@pytest.mark.parametrize(
    "script",
    [
        "echo credentials not found in native keychain; exit 1",
        "echo Credentials not found; exit 1",
        # Where the host ignores SIGCHLD, every status reads as 0.
        "echo credentials not found in native keychain",
        'echo \'{"ServerURL":"x","Username":"","Secret":""}\'',
    ],
)
def test_a_helper_that_knows_nothing(place: Place, script: str) -> None:
    place.helper("all", script)
    place.docker(credsStore="all", auths={HOST: entry()})
    assert place.find() == Credential("me", "pw")
    place.docker(credHelpers={HOST: "all"}, auths={HOST: entry()})
    assert place.find() is None


@pytest.mark.parametrize(
    "script, complaint",
    [
        ("echo s3cret; echo s3cret >&2; exit 3", "ended with status 3"),
        ("echo s3cret; kill -9 $$", "ended with status -9"),
        ("echo s3cret", "did not answer with a user name"),
        ("echo '[\"s3cret\"]'", "did not answer with a user name"),
        ('echo \'{"Username": 5, "Secret": "s3cret"}\'', "did not answer with a user name"),
        ("exit 0", "did not answer with a user name"),
        ("exec yes s3cret", "more than the 65536 bytes"),
    ],
)
def test_helpers_that_fail(place: Place, script: str, complaint: str) -> None:
    path = place.helper("bad", script)
    place.docker(credHelpers={HOST: "bad"}, auths={HOST: entry()})
    with unchanged(), pytest.raises(AuthError, match=complaint) as caught:
        place.find()
    assert str(path) in str(caught.value)
    assert "s3cret" not in str(caught.value) and caught.value.__context__ is None


@pytest.mark.parametrize(
    "name", ["", "../evil", "a/b", ".hidden", "-x", "a b", "a;b", "a\u0000b", "x" * 65, "\xe9"]
)
def test_names_that_are_no_names(place: Place, name: str) -> None:
    place.docker(credHelpers={HOST: name})
    with pytest.raises(AuthError, match=r"is not the name of|control character"):
        place.find()


def test_helpers_are_found_by_absolute_entries_of_path_only(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.helper("all", ANSWER)
    place.docker(credsStore="all")
    monkeypatch.chdir(place.bin)
    for path in ("", ".", ":/usr/bin", "../bin:.", "/nonexistent"):
        place.environ["PATH"] = path
        with pytest.raises(AuthError, match="docker-credential-all is not on PATH"):
            place.find()
    place.environ["PATH"] = f".:{place.bin}:/usr/bin"
    assert place.find() is not None


def test_a_helper_that_cannot_be_run(place: Place) -> None:
    path = place.helper("bad", "")
    path.write_bytes(b"\x7fELF no program")
    place.docker(credsStore="bad")
    with pytest.raises(AuthError, match="cannot be run: Exec format error"):
        place.find()


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pid: int) -> bool:
    deadline = time.monotonic() + 5
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not alive(pid)


@pytest.mark.parametrize("ending", ["wait", "exec >&-; wait", "exit 0"])
def test_a_helper_that_hangs_is_killed_with_what_it_started(
    place: Place, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    """Also where it closes its output first, and where it goes and its child keeps the output open."""
    monkeypatch.setattr(credential_helper, "TIMEOUT", 0.5)
    output = ">&-" if "exec" in ending else ""
    place.helper("slow", f"sleep 60 {output} & echo $! > {place.path}/pid; {ending}")
    place.docker(credsStore="slow")
    with unchanged(), pytest.raises(AuthError, match=r"did not end within 0\.5 s"):
        place.find()
    assert gone(int((place.path / "pid").read_text()))


def test_ctrl_c_kills_the_helper(place: Place) -> None:
    place.helper(
        "slow", f"echo $$ > {place.path}/pid.new; mv {place.path}/pid.new {place.path}/pid; sleep 60"
    )
    place.docker(credsStore="slow")
    pressed: list[float] = []

    def press() -> None:
        while not (place.path / "pid").exists():
            time.sleep(0.01)
        pressed.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        place.find()
    took = time.monotonic() - pressed[0]
    thread.join()
    assert took < 1
    assert gone(int((place.path / "pid").read_text()))


def test_a_helper_has_its_own_session_and_leaves_the_host_alone(place: Place) -> None:
    """Not the host's other children, not its signal mask, not its descriptors."""
    other = os.spawnv(os.P_NOWAIT, "/bin/sh", ["sh", "-c", "exit 7"])
    place.helper(
        "seen",
        f"""ls -l /proc/$$/fd > {place.path}/descriptors
        printf '{{"Username":"%s","Secret":"%s"}}' "$(cut -d ' ' -f 6 /proc/$$/stat)" $$""",
    )
    place.docker(credsStore="seen")
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with open(place.path / "leak", "w") as leak:
        os.set_inheritable(leak.fileno(), True)
        found = place.find()
    # Its session is itself.
    assert found is not None and found.username == found.password != ""
    listed = (place.path / "descriptors").read_text()
    assert "pipe:" in listed and "leak" not in listed
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
    assert os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]) == 7


def test_a_helper_that_does_not_read_is_no_sigpipe(place: Place) -> None:
    place.helper("deaf", 'exec <&-; echo \'{"Username":"u","Secret":"pw"}\'')
    place.docker(credsStore="deaf")
    before = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        assert place.find() == Credential("u", "pw")
    finally:
        signal.signal(signal.SIGPIPE, before)


@pytest.mark.parametrize("handling", [signal.SIG_IGN, lambda *_: reap()])
def test_a_host_that_reaps_everything(place: Place, handling: Callable[..., object]) -> None:
    place.helper("all", ANSWER)
    place.docker(credsStore="all")
    before = signal.signal(signal.SIGCHLD, handling)
    try:
        assert place.find() == Credential(f"u-{HOST}", "pw")
    finally:
        signal.signal(signal.SIGCHLD, before)


def reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


# -- what other tools write ------------------------------------------------------------------------


@pytest.mark.parametrize("tool", ["skopeo", "podman", "docker"])
def test_what_other_tools_log_in_with(place: Place, basic_registry: RealRegistry, tool: str) -> None:
    """`login` checks with the registry and writes its file, which is found without a word about where."""
    need(shutil.which(tool) is not None, tool)
    (place.path / "run").mkdir(mode=0o700)
    assert basic_registry.user is not None and basic_registry.password is not None
    options = [] if tool == "docker" else ["--tls-verify=false"]
    done = subprocess.run(
        [tool, "login", *options, "--username", basic_registry.user, "--password-stdin", basic_registry.host],
        input=basic_registry.password,
        env={**os.environ, **place.environ, "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert place.find(basic_registry.host) == Credential(basic_registry.user, basic_registry.password)
    assert place.find(basic_registry.host, "team/app") == place.find(basic_registry.host)
