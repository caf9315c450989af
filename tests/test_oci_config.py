"""Image configs: round trips, hostile documents, and what callers may write."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest

from pycontainer.errors import InvalidImage
from pycontainer.oci.config import ImageConfig, check_changes

DIFF_ID = "sha256:" + "0" * 64
DOCUMENT: dict[str, Any] = {
    "created": "2020-01-02T03:04:05.678Z",
    "author": "somebody",
    "architecture": "arm64",
    "os": "linux",
    "variant": "v8",
    "os.version": "kept",
    "config": {
        "User": "1000:users",
        "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
        "Env": ["PATH=/bin", "EMPTY=", "EQUALS=a=b"],
        "Entrypoint": ["/init"],
        "Cmd": ["--flag", ""],
        "Volumes": {"/data": {}},
        "WorkingDir": "/srv",
        "Labels": {"a": "b", "empty": ""},
        "StopSignal": "SIGRTMIN+3",
        "Healthcheck": {"Test": ["CMD", "true"], "Interval": 1},
        "ArgsEscaped": True,
    },
    "rootfs": {"type": "layers", "diff_ids": [DIFF_ID]},
    "history": [{"created_by": "x", "empty_layer": True, "odd": 1}],
}


def raw(**config: Any) -> bytes:
    return json.dumps({**DOCUMENT, "config": config}).encode()


def test_everything_survives() -> None:
    source = json.dumps(DOCUMENT).encode()
    config = ImageConfig.parse(source)
    assert config.raw == source
    assert config.env == {"PATH": "/bin", "EMPTY": "", "EQUALS": "a=b"}
    assert (config.entrypoint, config.cmd, config.cwd) == (("/init",), ("--flag", ""), "/srv")
    assert config.exposed_ports == ("53/udp", "80/tcp") and config.volumes == ("/data",)
    assert config.extra == {"os.version": "kept"} and config.extra_config == {"ArgsEscaped": True}
    assert str(config.platform) == "linux/arm64/v8"
    assert json.loads(json.dumps(config.document())) == DOCUMENT


def test_a_changed_copy_has_new_bytes_and_the_unknown_fields() -> None:
    config = ImageConfig.parse(json.dumps(DOCUMENT).encode())
    changed = attrs.evolve(config, user="2000")
    assert changed.digest != config.digest
    assert json.loads(changed.raw)["config"] == {**DOCUMENT["config"], "User": "2000"}


def test_nulls_count_as_absent() -> None:
    config = ImageConfig.parse(raw(Entrypoint=None, Cmd=None, Env=None, Volumes=None, Labels=None, User=None))
    assert config == attrs.evolve(config, entrypoint=None, cmd=None, env={}, volumes=(), labels={}, user="")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"Env": ["NOEQUALS"]}, r"Env\[0\]: 'NOEQUALS' has no '='"),
        ({"Env": ["=x"]}, "Env: '' cannot be"),
        ({"Env": ["A=\0"]}, r"Env\[0\]: holds a NUL"),
        ({"Env": "A=b"}, "Env: must be a list"),
        ({"Env": [1]}, r"Env\[0\]: must be a string"),
        ({"Env": ["A=" + "x" * 200_000]}, r"Env\[0\]: .* more than"),
        ({"Env": ["A=b"] * 5000}, "Env: 5000 entries"),
        ({"User": "4294967295"}, "User: .* is no id"),
        ({"User": "99999999999999999999"}, "User: .* is no id"),
        ({"User": "-1"}, "User"),
        ({"User": "+0"}, "User"),
        ({"User": "a:b:c"}, "User"),
        ({"User": "root\n"}, "User"),
        ({"User": "../etc"}, "User"),
        ({"User": "x" * 1000}, "User"),
        ({"User": 0}, "User: must be a string, not int"),
        ({"Cmd": "sh"}, "Cmd"),
        ({"Cmd": ["a\0b"]}, "Cmd"),
        ({"Entrypoint": [["x"]]}, "Entrypoint"),
        ({"WorkingDir": "srv"}, "WorkingDir"),
        ({"WorkingDir": "/" + "x" * 5000}, "WorkingDir"),
        ({"Volumes": {"data": {}}}, "Volumes"),
        ({"Volumes": {"": {}}}, "Volumes"),
        ({"Volumes": 1}, "Volumes"),
        ({"ExposedPorts": {"0": {}}}, "ExposedPorts"),
        ({"ExposedPorts": {"65536/tcp": {}}}, "ExposedPorts"),
        ({"ExposedPorts": {"80/x": {}}}, "ExposedPorts"),
        ({"ExposedPorts": {"٨": {}}}, "ExposedPorts"),
        ({"Labels": {"a": 1}}, "Labels"),
        ({"Labels": {"": "x"}}, "Labels"),
        ({"Labels": []}, "Labels"),
        ({"StopSignal": "SIGKILL; rm"}, "StopSignal"),
        ({"Healthcheck": []}, "Healthcheck"),
    ],
)
def test_hostile_config_is_refused_by_name(config: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidImage, match="image config: config: " + message):
        ImageConfig.parse(raw(**config))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"config": []}, "config"),
        ({"architecture": None}, "architecture"),
        ({"architecture": "a/b"}, "architecture"),
        ({"os": 1}, "os"),
        ({"created": "yesterday"}, "created"),
        ({"rootfs": None}, "rootfs"),
        ({"rootfs": {"type": "other"}}, "type"),
        ({"rootfs": {"type": "layers", "diff_ids": ["x"]}}, r"diff_ids\[0\]"),
        ({"rootfs": {"type": "layers", "diff_ids": [DIFF_ID] * 501}}, "diff_ids"),
        ({"history": [{"empty_layer": "no"}]}, "empty_layer"),
        ({"history": [{}] * 5000}, "history"),
    ],
)
def test_malformed_document_is_refused_by_name(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidImage, match=field):
        ImageConfig.parse(json.dumps({**DOCUMENT, **change}).encode())


def test_callers_may_use_either_spelling() -> None:
    ours = ImageConfig.of({"env": {"A": "b"}, "cmd": ["x"], "cwd": "/", "ports": [80], "user": 5})
    theirs = ImageConfig.of(
        {"Env": ["A=b"], "Cmd": ["x"], "WorkingDir": "/", "ExposedPorts": {"80": {}}, "User": "5"}
    )
    assert ours == theirs
    assert ImageConfig.of(ours) is ours
    assert ImageConfig.parse(ours.raw) == ours


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"command": ["x"]}, "command: no such field"),
        ({"diff_ids": []}, "diff_ids: no such field"),
        ({"cmd": ["x"], "Cmd": ["y"]}, "given twice"),
        ({"cmd": "x"}, "cmd: must be a list"),
        ({"os": None}, "os"),
    ],
)
def test_callers_mistakes_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidImage, match=message):
        check_changes(values, what="config")
