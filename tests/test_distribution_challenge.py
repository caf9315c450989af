"""WWW-Authenticate as servers write it, and as hostile ones do (RFC 9110 11.6.1)."""

from __future__ import annotations

import random
import time
from contextlib import suppress

import pytest

from pycontainer.distribution.challenge import MAX_PARTS, MAX_TEXT, Challenge, parse
from pycontainer.distribution.scopes import widened
from pycontainer.errors import AuthError

HUB = (
    'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",'
    'scope="repository:library/debian:pull"'
)
TWO = "repository:a:pull,push repository:b:pull,delete"


@pytest.mark.parametrize(
    "value, expected",
    [
        (
            HUB,
            [
                Challenge(
                    "bearer",
                    {
                        "realm": "https://auth.docker.io/token",
                        "service": "registry.docker.io",
                        "scope": "repository:library/debian:pull",
                    },
                )
            ],
        ),
        ('BASIC REALM="Registry Realm"', [Challenge("basic", {"realm": "Registry Realm"})]),
        ("Basic", [Challenge("basic")]),
        ("", []),
        (" , ,", []),
        (r'Basic realm="a \"b\" \\ c"', [Challenge("basic", {"realm": r'a "b" \ c'})]),
        ('Basic realm=""', [Challenge("basic", {"realm": ""})]),
        ('Basic realm="a, Bearer realm=b"', [Challenge("basic", {"realm": "a, Bearer realm=b"})]),
        ('Basic realm = "x" ,\tcharset=UTF-8', [Challenge("basic", {"realm": "x", "charset": "UTF-8"})]),
        (
            'Negotiate, NTLM TlRMTVNT==, Basic realm="x"',
            [Challenge("negotiate"), Challenge("ntlm"), Challenge("basic", {"realm": "x"})],
        ),
        (
            'Basic realm="x", Bearer realm="y",service="z",,',
            [Challenge("basic", {"realm": "x"}), Challenge("bearer", {"realm": "y", "service": "z"})],
        ),
        (
            "Bearer realm=https://example.com:5001/token?a=b,service=s",
            [Challenge("bearer", {"realm": "https://example.com:5001/token?a=b", "service": "s"})],
        ),
        ('Basic realm="caf\xe9"', [Challenge("basic", {"realm": "caf\xe9"})]),
    ],
)
def test_grammar(value: str, expected: list[Challenge]) -> None:
    assert parse([value]) == expected


def test_several_headers_are_one_list() -> None:
    assert [one.scheme for one in parse([HUB, 'Basic realm="x"'])] == ["bearer", "basic"]


@pytest.mark.parametrize(
    "value",
    [
        'realm="x"',
        'Basic realm="x',
        'Basic realm="x\\',
        'Basic realm="x" charset=y',
        'Basic realm="x", realm="y"',
        'Basic realm="x", Realm="y"',
        'Basic realm="a\r\nX-Injected: 1"',
        'Basic realm="a\x7f"',
        'Basic "x"',
        'Basic/realm="x"',
        "\x00",
        "=",
        "Basic x y",
    ],
)
def test_malformed(value: str) -> None:
    with pytest.raises(AuthError, match="WWW-Authenticate") as caught:
        parse([value])
    assert "\r" not in str(caught.value) and "\x00" not in str(caught.value)


def test_bounds() -> None:
    with pytest.raises(AuthError, match="characters"):
        parse(["Basic" + " " * MAX_TEXT])
    with pytest.raises(AuthError, match="characters"):
        parse(["a" * 1024] * 17)
    with pytest.raises(AuthError, match="challenges"):
        parse([",".join(["Basic"] * (MAX_PARTS + 1))])
    with pytest.raises(AuthError, match="parameters"):
        parse(["Basic " + ",".join(f"a{number}=b" for number in range(MAX_PARTS + 1))])


def test_any_text_is_parsed_or_refused_quickly() -> None:
    """Every position is read a few times at most: the largest inputs of the worst kinds take milliseconds."""
    chance = random.Random(9)
    pieces = ["Bearer", " ", "=", ",", '"', "\\", "realm", "a" * 50, "\t", "=" * 9, "\xff", "/"]
    for _ in range(3000):
        text = "".join(chance.choices(pieces, k=chance.randint(1, 40)))
        try:
            for one in parse([text]):
                assert one.scheme == one.scheme.lower()
        except AuthError:
            pass
    for unit in (' =","', '\\"', "a ", "a=", ', "', "a,", '"\\'):
        started = time.process_time()
        with suppress(AuthError):
            parse(["Basic " + unit * ((MAX_TEXT - 8) // len(unit))])
        assert time.process_time() - started < 5


@pytest.mark.parametrize(
    "ours, theirs, expected",
    [
        ("repository:a/b:pull", "", "repository:a/b:pull"),
        ("", "repository:a/b:pull", ""),
        ("repository:a/b:pull", "repository:a/b:pull,push", "repository:a/b:pull,push"),
        ("repository:a/b:pull", "repository:a/c:pull,push", "repository:a/b:pull"),
        ("repository:a/b:pull", "repository:a/b:pull,push repository:c:*", "repository:a/b:pull,push"),
        ("repository:a:pull,push repository:b:pull", "repository:b:delete", TWO),
        ("registry:catalog:*", "registry:catalog:*", "registry:catalog:*"),
        ("repository:a:pull", "repository:a:*", "repository:a:pull,*"),
        ("repository:a:pull", "repository:a:pu\xe9,x&y=z,,", "repository:a:pull"),
        ("repository:a:pull", "nonsense :: :pull repository:a", "repository:a:pull"),
    ],
)
def test_scopes_widen_for_the_same_resource_only(ours: str, theirs: str, expected: str) -> None:
    assert widened(ours, theirs) == expected


def test_a_challenge_adds_few_actions() -> None:
    many = ",".join("a" * length for length in range(1, 200))
    assert len(widened("repository:a:pull", f"repository:a:{many}")) < 200
