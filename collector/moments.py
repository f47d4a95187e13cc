"""Moments as people type them: ``1h`` ago, an ISO 8601 time, ``@`` and a Unix time, ``now``, ``today``."""

import re
import time
from datetime import datetime, timedelta, tzinfo
from decimal import Decimal, InvalidOperation
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from collector.errors import ConfigError

NS: Final = 1_000_000_000
LONGEST_DAYS: Final = 36_525
"""A century; the store's times span six."""
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_SPAN = re.compile(r"(?:\d+(?:\.\d+)?[smhdw])+")
_PART = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")
# What a TIMESTAMP_NS can hold, rounded to whole years.
_FIRST, _LAST = 1678, 2262
_FORMS: Final = "1h, 2d12h, 2026-05-01T12:00 (with Z or an offset, or in --tz), @1767225600, now, today or yesterday"


def zone(name: str, *, option: str = "--tz") -> ZoneInfo:
    """
    The time zone of an IANA name.

    Raises: ConfigError when there is no such zone.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ConfigError(option, f"no time zone {name!r}; use an IANA name such as UTC or Europe/Berlin") from error


def parse_span(text: str, *, option: str) -> int:
    """
    The nanoseconds of a span such as ``90s``, ``15m``, ``1h30m``, ``7d`` or ``2w``.

    Raises: ConfigError when *text* is no span.
    """
    if not _SPAN.fullmatch(text):
        raise ConfigError(option, f"no span of time {text!r}; write 90s, 15m, 1h30m, 7d or 2w")
    return int(sum(Decimal(number) * _SECONDS[unit] for number, unit in _PART.findall(text)) * NS)


def parse_length(text: str, *, option: str, least_s: float = 1.0) -> int:
    """
    The nanoseconds of a span that time is cut into, or looked back over.

    Raises: ConfigError when *text* is no span, or one of less than *least_s* or more than `LONGEST_DAYS`.
    """
    length = parse_span(text, option=option)
    if not least_s * NS <= length <= LONGEST_DAYS * 86_400 * NS:
        raise ConfigError(option, f"{text} is not between {least_s:g}s and {LONGEST_DAYS}d")
    return length


def parse_moment(text: str, *, option: str, tz: tzinfo, now_ns: int | None = None) -> int:
    """
    The Unix time in nanoseconds that *text* means; a time without a zone is in *tz*.

    Raises: ConfigError when *text* is no moment, or one outside the years 1678 to 2262.
    """
    now = time.time_ns() if now_ns is None else now_ns
    text = text.strip()
    if text == "now":
        return now
    if text in ("today", "yesterday"):
        midnight = datetime.fromtimestamp(now / NS, tz).replace(hour=0, minute=0, second=0, microsecond=0)
        return _nanoseconds(midnight if text == "today" else midnight - timedelta(days=1))
    if _SPAN.fullmatch(text):
        return _bounded(now - parse_span(text, option=option), text, option)
    if text.startswith("@"):
        try:
            return _bounded(int(Decimal(text[1:]) * NS), text, option)
        except (InvalidOperation, ValueError, OverflowError) as error:
            raise ConfigError(option, f"no Unix time {text!r}; write @ and seconds since 1970") from error
    return _iso(text, option, tz)


def parse_window(
    since: str | None, until: str | None, *, tz: tzinfo, now_ns: int | None = None
) -> tuple[int | None, int | None]:
    """
    The window of ``--since`` and ``--until`` in nanoseconds, None where it is open.

    Raises: ConfigError when one is no moment, or when the window is empty.
    """
    now = time.time_ns() if now_ns is None else now_ns
    start = None if since is None else parse_moment(since, option="--since", tz=tz, now_ns=now)
    end = None if until is None else parse_moment(until, option="--until", tz=tz, now_ns=now)
    if start is not None and end is not None and start >= end:
        raise ConfigError("--since", f"{format_moment(start, tz)} is not before --until {format_moment(end, tz)}")
    return start, end


def format_moment(time_ns: int, tz: tzinfo) -> str:
    """ISO 8601 with as many digits as it takes, and Z for UTC: ``2026-05-01T12:00:00.25Z``."""
    seconds, fraction = divmod(time_ns, NS)
    text = datetime.fromtimestamp(seconds, tz).isoformat()
    stamp, offset = text[:19], text[19:]
    digits = f".{fraction:09d}".rstrip("0") if fraction else ""
    return f"{stamp}{digits}{'Z' if offset == '+00:00' else offset}"


def _iso(text: str, option: str, tz: tzinfo) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(option, f"no moment {text!r}; write {_FORMS}") from error
    return _bounded(_nanoseconds(moment if moment.tzinfo else moment.replace(tzinfo=tz)), text, option)


def _nanoseconds(moment: datetime) -> int:
    # timestamp() is a float and off by up to 120 ns in this century; whole microseconds are exact.
    return round(moment.timestamp() - moment.microsecond / 1e6) * NS + moment.microsecond * 1000


def _bounded(time_ns: int, text: str, option: str) -> int:
    year = 1970 + time_ns / NS / 31_556_952
    if not _FIRST <= year < _LAST:
        raise ConfigError(option, f"{text!r} is outside the years {_FIRST} to {_LAST - 1}")
    return time_ns
