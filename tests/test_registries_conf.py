"""registries.conf as its manual has it: prefixes, wildcards, mirrors, files that add to each other."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pycontainer.distribution import registries_conf
from pycontainer.distribution.registries_conf import Mirror, Settings, lookup
from pycontainer.errors import InvalidOption


def settings(tmp_path: Path, text: str, name: str) -> Settings:
    path = tmp_path / "registries.conf"
    path.write_text(text)
    registry, _, repository = name.partition("/")
    return lookup(registry, repository, environ={"CONTAINERS_REGISTRIES_CONF": str(path)})


# The manual's own example, with hosts of ours.
MANUAL = """
unqualified-search-registries = ["example.com"]
short-name-mode = "permissive"

[aliases]
"fedora" = "registry.example.com/fedora"

[[registry]]
prefix = "example.com/foo"
insecure = false
blocked = false
location = "internal.example.com/bar"

[[registry.mirror]]
location = "mirror-0.example.com/mirror-for-foo"

[[registry.mirror]]
location = "mirror-1.example.com/mirrors/foo"
insecure = true

[[registry]]
location = "registry.example.com"

[[registry.mirror]]
location = "mirror.registry.example.com"
"""


def test_the_manuals_example(tmp_path: Path) -> None:
    assert settings(tmp_path, MANUAL, "example.com/foo/image") == Settings(
        "internal.example.com/bar/image",
        mirrors=(
            Mirror("mirror-0.example.com/mirror-for-foo/image"),
            Mirror("mirror-1.example.com/mirrors/foo/image", insecure=True),
        ),
    )
    assert settings(tmp_path, MANUAL, "registry.example.com/image") == Settings(
        "registry.example.com/image", mirrors=(Mirror("mirror.registry.example.com/image"),)
    )
    for name in ("example.com/foobar/image", "example.com/image", "docker.io/library/fedora"):
        assert settings(tmp_path, MANUAL, name) == Settings(name)


def test_the_longest_prefix_wins(tmp_path: Path) -> None:
    places = [
        "a.example.com",
        "a.example.com/x",
        "a.example.com/x/y",
        "a.example.com:5000",
        "docker.io/library",
    ]
    text = "".join(f'[[registry]]\nprefix = "{place}"\nlocation = "n{n}"\n' for n, place in enumerate(places))
    for name, expected in (
        ("a.example.com/z", "n0/z"),
        ("a.example.com/xy", "n0/xy"),
        ("a.example.com/x", "n1"),
        ("a.example.com/x/z", "n1/z"),
        ("a.example.com/x/y/z", "n2/z"),
        ("A.Example.com/x/y/z", "n2/z"),
        ("a.example.com:5000/x", "n3/x"),
        ("a.example.com:5001/x", "a.example.com:5001/x"),
        ("docker.io/library/debian", "n4/debian"),
        ("docker.io/team/app", "docker.io/team/app"),
        ("b.a.example.com/x", "b.a.example.com/x"),
    ):
        assert settings(tmp_path, text, name).location == expected


def test_wildcards(tmp_path: Path) -> None:
    text = """
    [[registry]]
    prefix = "*.example.com"
    insecure = true
    [[registry.mirror]]
    location = "mirror.example.net/all"
    [[registry]]
    prefix = "*.b.Example.com"
    blocked = true
    [[registry]]
    location = "e.b.example.com"
    [[registry]]
    prefix = "*.example.org"
    location = "example.net/org"
    """
    found = settings(tmp_path, text, "a.example.com:5000/x")
    assert found == Settings(
        "a.example.com:5000/x", insecure=True, mirrors=(Mirror("mirror.example.net/all/x"),)
    )
    assert settings(tmp_path, text, "a.a.EXAMPLE.com/x").insecure
    assert settings(tmp_path, text, "a.b.example.com/x") == Settings("a.b.example.com/x", blocked=True)
    assert settings(tmp_path, text, "e.b.example.com/x") == Settings("e.b.example.com/x")
    assert settings(tmp_path, text, "a.example.org/x").location == "example.net/org/x"
    for name in ("example.com/x", "evilexample.com/x", "a.example.com.evil.net/x", "c/a.example.com/x"):
        assert settings(tmp_path, text, name) == Settings(name)


def test_mirrors_for_some_references_only(tmp_path: Path) -> None:
    text = """
    [[registry]]
    location = "a.example.com"
    mirror-by-digest-only = true
    mirror = [{location = "m.example.com"}]
    [[registry]]
    location = "b.example.com"
    mirror = [
        {location = "m.example.com/", pull-from-mirror = "tag-only"},
        {location = "n.example.com", pull-from-mirror = ""},
    ]
    """
    assert settings(tmp_path, text, "a.example.com/x").mirrors == (
        Mirror("m.example.com/x", pull="digest-only"),
    )
    assert settings(tmp_path, text, "b.example.com/x").mirrors == (
        Mirror("m.example.com/x", pull="tag-only"),
        Mirror("n.example.com/x"),
    )


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("[[registry]", "is not TOML"),
        ("a = 1\na = 2", "is not TOML"),
        ("x = " + "[" * 5000, "is not TOML"),
        ("registry = 1", "registry: must be an array"),
        ("registry = [1]", r"registry\[0\]: must be a table"),
        ("[[registry]]", r"registry\[0\]: needs a prefix or a location"),
        ("[[registry]]\nlocation = 1", r"registry\[0\].location: must be a string"),
        ('[[registry]]\nlocation = "https://a"', r"registry\[0\].location: 'https://a' is not host"),
        ('[[registry]]\nlocation = "a b"', "is not host"),
        ('[[registry]]\nprefix = "a.example.com/x:1.0"', "is not host"),
        ('[[registry]]\nprefix = "*.example.com/x"', "a wildcard is"),
        ('[[registry]]\nprefix = "*"', "a wildcard is"),
        ('[[registry]]\nprefix = "a.*.com"', "is not host"),
        ('[[registry]]\nlocation = "a"\ninsecure = "yes"', r"registry\[0\].insecure: must be true or false"),
        ('[[registry]]\nlocation = "a"\nblocked = 1', r"registry\[0\].blocked: must be true or false"),
        ('[[registry]]\nlocation = "a"\nmirror = {}', r"registry\[0\].mirror: must be an array"),
        ('[[registry]]\nlocation = "a"\n[[registry.mirror]]', r"registry\[0\].mirror\[0\]: needs a location"),
        (
            '[[registry]]\nlocation = "a"\nmirror = [{location = "m", pull-from-mirror = "x"}]',
            r"mirror\[0\].pull-from-mirror: must be one of",
        ),
        (
            '[[registry]]\nlocation = "a"\n[[registry]]\nlocation = "a"\nblocked = true',
            "two tables differ on the prefix 'a'",
        ),
        ('[registries.block]\nregistries = ["a"]', "registries.block: is of version 1"),
        ('[registries.insecure]\nregistries = ["a"]', "registries.insecure: is of version 1"),
        ("#" * ((1 << 20) + 1), "larger than"),
    ],
)
def test_malformed_files_are_named(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(InvalidOption, match=complaint) as caught:
        settings(tmp_path, text, "a/x")
    assert str(tmp_path / "registries.conf") in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "missing", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(InvalidOption, match=f"{path}: cannot be read: {why}"):
            lookup("a", "x", environ={"CONTAINERS_REGISTRIES_CONF": str(path)})
    latin = tmp_path / "latin.conf"
    latin.write_bytes(b"# caf\xe9")
    with pytest.raises(InvalidOption, match="is not TOML"):
        lookup("a", "x", environ={"CONTAINERS_REGISTRIES_CONF": str(latin)})


def test_what_search_lists_say_does_not_matter(tmp_path: Path) -> None:
    text = '[registries.search]\nregistries = ["a"]\n[registries.block]\nregistries = []'
    assert settings(tmp_path, text, "a/x") == Settings("a/x")


def one(location: str, target: str) -> str:
    return f'[[registry]]\nprefix = "{location}"\nlocation = "{target}"\n'


def test_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's file replaces the system's; what is dropped in beside them adds to it, the user's last."""
    system, user = tmp_path / "etc/registries.conf", tmp_path / "home/.config/containers/registries.conf"
    monkeypatch.setattr(registries_conf, "SYSTEM", str(system))
    environ = {"HOME": str(tmp_path / "home")}

    def location(name: str) -> str:
        return lookup(name, "x", environ=environ).location.partition("/")[0]

    assert location("a") == "a"
    for path in (system, user):
        (path.parent / "registries.conf.d").mkdir(parents=True)
    system.write_text(one("a", "system") + one("b", "system"))
    assert (location("a"), location("b")) == ("system", "system")
    user.write_text(one("a", "user"))
    assert (location("a"), location("b")) == ("user", "b")
    dropped = system.parent / "registries.conf.d"
    (dropped / "20.conf").write_text(one("b", "twenty") + one("c", "twenty"))
    (dropped / "10.conf").write_text(one("b", "ten") + one("d", "ten"))
    (dropped / "30.txt").write_text(one("b", "thirty"))
    assert [location(name) for name in "abcd"] == ["user", "twenty", "twenty", "ten"]
    (user.parent / "registries.conf.d/00.conf").write_text(one("a", "dropped") + one("c", "dropped"))
    assert [location(name) for name in "abcd"] == ["dropped", "twenty", "dropped", "ten"]
    named = tmp_path / "named[1].conf"
    named.write_text(one("d", "named"))
    environ["CONTAINERS_REGISTRIES_CONF"] = str(named)
    assert [location(name) for name in "abcd"] == ["a", "b", "c", "named"]
    (tmp_path / "named[1].conf.d").mkdir()
    (tmp_path / "named[1].conf.d/1.conf").write_text(one("a", "beside"))
    assert [location(name) for name in "abcd"] == ["beside", "b", "c", "named"]


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    assert settings(tmp_path, one("a", "b"), "a/x").location == "b/x"
    before = os.stat(tmp_path / "registries.conf")
    assert settings(tmp_path, one("a", "c"), "a/x").location == "c/x"
    (tmp_path / "new").write_text(one("a", "d"))
    os.utime(tmp_path / "new", ns=(before.st_atime_ns, before.st_mtime_ns))
    os.rename(tmp_path / "new", tmp_path / "registries.conf")
    environ = {"CONTAINERS_REGISTRIES_CONF": str(tmp_path / "registries.conf")}
    assert lookup("a", "x", environ=environ).location == "d/x"
