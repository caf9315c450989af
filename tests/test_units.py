"""Sizes, durations, signals and CPU lists as people write them."""

from __future__ import annotations

import datetime
import signal

import pytest

from pycontainer.errors import InvalidOption
from pycontainer.units import parse_cpuset, parse_duration, parse_int, parse_signal, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (0, 0),
        (268435456, 268435456),
        ("512", 512),
        ("512b", 512),
        ("64k", 65536),
        ("64K", 65536),
        ("64 KiB", 65536),
        ("256M", 268435456),
        ("256mb", 268435456),
        ("10MiB", 10485760),
        ("1.5G", 1610612736),
        ("0.1T", 109951162777),
        ("2P", 2251799813685248),
        (" 1g ", 1073741824),
    ],
)
def test_sizes_are_binary(text: int | str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "value",
    [
        -1,
        "-1",
        "-1M",
        "",
        " ",
        "M",
        "1X",
        "1.M",
        ".5M",
        "1e6",
        "1,5G",
        "0x10",
        "\u0661k",
        "1KK",
        "1iB2",
        True,
        1.5,
        None,
        2**63,
        "8388608T",
        "9" * 40,
        b"1M",
        [1],
    ],
)
def test_no_size_names_the_option(value: object) -> None:
    with pytest.raises(InvalidOption, match=r"^memory="):
        parse_size(value, option="memory")  # type: ignore[arg-type]


def test_size_below_the_minimum() -> None:
    assert parse_size("512k", low=524288) == 524288
    with pytest.raises(InvalidOption, match="at least 524288"):
        parse_size("511k", low=524288)
    with pytest.raises(InvalidOption, match="at least 524288"):
        parse_size(1, low=524288)


def test_a_long_value_is_cut() -> None:
    with pytest.raises(InvalidOption) as caught:
        parse_size("x" * 5000)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (0, 0.0),
        (10, 10.0),
        (0.25, 0.25),
        ("10", 10.0),
        ("1.5", 1.5),
        ("500ms", 0.5),
        ("1m30s", 90.0),
        ("1h", 3600.0),
        ("2d", 172800.0),
        (datetime.timedelta(minutes=2), 120.0),
    ],
)
def test_durations_are_seconds(value: float | str | datetime.timedelta, seconds: float) -> None:
    result = parse_duration(value)
    assert result == pytest.approx(seconds)
    assert type(result) is float


@pytest.mark.parametrize(
    "value",
    [
        -1,
        -0.5,
        "-1s",
        "",
        "s",
        "1x",
        "1s2",
        "1 s 2",
        "1.2.3s",
        float("inf"),
        float("nan"),
        "inf",
        True,
        None,
        10**400,
        datetime.timedelta(seconds=-1),
    ],
)
def test_no_duration_names_the_option(value: object) -> None:
    with pytest.raises(InvalidOption, match=r"^stop_timeout="):
        parse_duration(value, option="stop_timeout")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (15, 15),
        ("15", 15),
        ("TERM", 15),
        ("SIGTERM", 15),
        ("sigterm", 15),
        (signal.SIGKILL, 9),
        ("RTMIN", signal.SIGRTMIN),
        ("SIGRTMIN+3", signal.SIGRTMIN + 3),
        ("RTMAX-1", signal.SIGRTMAX - 1),
        (64, 64),
    ],
)
def test_signals(value: int | str, number: int) -> None:
    result = parse_signal(value)
    assert result == number
    assert type(result) is int


@pytest.mark.parametrize(
    "value",
    [
        0,
        -9,
        65,
        "0",
        "65",
        "999999999999",
        "",
        "NOPE",
        "SIG",
        "RTMIN-1",
        "RTMAX+1",
        "RTMIN+",
        "SIG_BLOCK",
        True,
        9.0,
        "SIGSIGTERM",
        "\u0661",
    ],
)
def test_no_signal_names_the_option(value: object) -> None:
    with pytest.raises(InvalidOption, match=r"^stop_signal="):
        parse_signal(value, option="stop_signal")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("0", "0"),
        ("0-2,4", "0-2,4"),
        ("4, 2,1,0", "0-2,4"),
        ("0-3,2-5", "0-5"),
        ([3, 1, 2], "1-3"),
        (range(2), "0-1"),
        ({7}, "7"),
        ("8191", "8191"),
    ],
)
def test_cpu_lists_are_canonical(value: str, text: str) -> None:
    assert parse_cpuset(value) == text


@pytest.mark.parametrize(
    "value",
    ["", ",", "0,", "2-1", "-1", "a", "0-", "8192", "0-99999", "0;1", [], [-1], [True], ["0"], 3, None],
)
def test_no_cpu_list_names_the_option(value: object) -> None:
    with pytest.raises(InvalidOption, match=r"^cpuset="):
        parse_cpuset(value)  # type: ignore[arg-type]


def test_integers_are_not_flags() -> None:
    assert parse_int(5, option="pids", low=-1) == 5
    for value in (True, "5", 5.0, None, 2**64):
        with pytest.raises(InvalidOption, match=r"^pids="):
            parse_int(value, option="pids", low=-1)  # type: ignore[arg-type]
