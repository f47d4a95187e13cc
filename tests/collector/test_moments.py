"""Times as people type them."""

from datetime import UTC
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.errors import ConfigError
from collector.moments import NS, format_moment, parse_length, parse_moment, parse_span, parse_window, zone

NOW = 1_767_268_800 * NS  # 2026-01-01T12:00:00Z
BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("now", NOW),
        ("1h", NOW - 3600 * NS),
        ("2d12h", NOW - 216_000 * NS),
        ("1.5m", NOW - 90 * NS),
        ("today", NOW - 43_200 * NS),
        ("yesterday", NOW - 129_600 * NS),
        ("@1767268800", NOW),
        ("@1767268800.000000001", NOW + 1),
        ("2026-01-01T12:00:00Z", NOW),
        ("2026-01-01T13:00:00+01:00", NOW),
        ("2026-01-01 12:00", NOW),
        ("2026-01-01", NOW - 43_200 * NS),
        ("2026-01-01T12:00:00.123456", NOW + 123_456_000),
    ],
)
def test_a_moment_is_a_span_ago_iso_or_epoch(text: str, expected: int) -> None:
    assert parse_moment(text, option="--since", tz=UTC, now_ns=NOW) == expected


def test_a_time_without_a_zone_is_in_the_zone_asked_for() -> None:
    assert parse_moment("2026-01-01T13:00", option="--since", tz=BERLIN) == NOW


@pytest.mark.parametrize(
    "text", ["", "1", "h", "-1h", "1y", "@", "@x", "@1e400", "2026-13-01", "9999-01-01", "@9e18", "99999999w"]
)
def test_what_is_no_moment_is_refused_with_the_option_named(text: str) -> None:
    with pytest.raises(ConfigError, match="--since"):
        parse_moment(text, option="--since", tz=UTC, now_ns=NOW)


def test_an_empty_window_is_refused() -> None:
    with pytest.raises(ConfigError, match="is not before --until"):
        parse_window("1h", "2h", tz=UTC, now_ns=NOW)
    assert parse_window(None, None, tz=UTC) == (None, None)


def test_an_unknown_zone_is_refused() -> None:
    for name in ("Mars/Olympus", "../etc/passwd", ""):
        with pytest.raises(ConfigError, match="no time zone"):
            zone(name)


def test_a_span_is_what_it_says() -> None:
    assert parse_span("1h30m", option="--by") == 5400 * NS
    with pytest.raises(ConfigError, match="--by"):
        parse_span("soon", option="--by")


@given(st.integers(-(2**62), 2**62))
def test_what_is_written_can_be_read_to_the_microsecond(time_ns: int) -> None:
    whole = time_ns // 1000 * 1000
    assert parse_moment(format_moment(whole, UTC), option="-", tz=UTC) == whole


def test_a_moment_has_as_many_digits_as_it_takes() -> None:
    assert format_moment(NOW, UTC) == "2026-01-01T12:00:00Z"
    assert format_moment(NOW + 250_000_001, UTC) == "2026-01-01T12:00:00.250000001Z"
    assert format_moment(NOW, BERLIN) == "2026-01-01T13:00:00+01:00"


@pytest.mark.parametrize("text", ["0s", "0h", "0.5s", "9999w"])
def test_a_window_is_neither_nothing_nor_longer_than_a_century(text: str) -> None:
    with pytest.raises(ConfigError, match=f"--by: {text} is not between 1s and 36525d"):
        parse_length(text, option="--by")
    assert parse_length("1h30m", option="--by") == 5400 * NS
