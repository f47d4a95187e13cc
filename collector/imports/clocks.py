"""Clocks that are not UTC: local time with a zone to name, and logs whose clock is whole hours off."""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl

from collector.errors import ConfigError

QUARTER_S = 900
"""Zones differ by multiples of a quarter of an hour."""
_LIMIT_S = 26 * 3600
"""From UTC-12 to UTC+14."""
_OFFSET = re.compile(r"^(?:UTC|GMT)?([+-])([0-9]{1,2}):?([0-9]{2})?$")


_EARLIEST, _LATEST = datetime(1678, 1, 1), datetime(2262, 1, 1)
"""What nanoseconds can hold. A year -2024, or the 9999 of an end that is not known, comes out as another year."""


def has_offset(form: str) -> bool:
    """Whether times of this form say how far they are off UTC."""
    return "%z" in form or "%:z" in form


def parsed(text: pl.Expr, form: str | None = None) -> pl.Expr:
    """
    *text* as times in nanoseconds, null where it is none that they can hold.

    In UTC where the form has an offset, or is not given: ISO 8601 with offsets.
    """
    utc = "UTC" if form is None or has_offset(form) else None
    fine, coarse = (
        text.str.to_datetime(form, time_unit=unit, time_zone=utc, strict=False).dt.replace_time_zone(None)
        for unit in ("ns", "us")
    )
    return pl.when(coarse.is_between(_EARLIEST, _LATEST)).then(fine)


@dataclass(frozen=True, slots=True)
class Zone:
    """A fixed offset from UTC, or a zone of the IANA database by name."""

    name: str
    offset_s: int | None

    def utc(self, local: pl.Series) -> tuple[pl.Series, int]:
        """
        The UTC times of *local* times in the order they were written, and how many could mean either of two times.

        In the hour that autumn repeats, what comes after a step back is the second; a time that spring skips is null.
        """
        if self.offset_s is not None:
            return local.dt.offset_by(f"{-self.offset_s}s"), 0
        first, second = (
            local.dt.replace_time_zone(self.name, ambiguous=which, non_existent="null")
            .dt.convert_time_zone("UTC")
            .dt.replace_time_zone(None)
            for which in ("earliest", "latest")
        )
        frame = pl.DataFrame({"local": local, "first": first, "second": second}).with_columns(
            twice=pl.col("first") != pl.col("second"),
            back=pl.col("local").diff() < timedelta(minutes=-30),
        )
        stepped = (pl.col("back").fill_null(False) & pl.col("twice")).cum_sum().over(pl.col("local").dt.date()) > 0
        chosen = frame.with_columns(stepped=stepped & pl.col("twice"))
        unsure = chosen.filter("twice").height if not chosen["stepped"].any() else 0
        return chosen.select(pl.when("stepped").then("second").otherwise("first").alias("time"))["time"], unsure


def zone_of(text: str, *, key: str = "--tz") -> Zone:
    """
    The zone that *text* names: ``UTC``, ``+01:00``, ``Europe/Berlin``.

    Raises: ConfigError.
    """
    if text.upper() in {"UTC", "Z", "GMT"}:
        return Zone("UTC", 0)
    found = _OFFSET.match(text.strip())
    if found:
        sign, hours, minutes = found.groups()
        offset_s = (int(hours) * 3600 + int(minutes or 0) * 60) * (1 if sign == "+" else -1)
        if abs(offset_s) > _LIMIT_S or int(minutes or 0) > 59:
            raise ConfigError(key, f"{text!r} is no offset between -26:00 and +26:00")
        return Zone(text, offset_s)
    try:
        pl.Series([0], dtype=pl.Datetime("ns")).dt.replace_time_zone(text)
    except pl.exceptions.PolarsError as error:
        raise ConfigError(key, f"{text!r} is neither UTC, an offset as +01:00 nor a zone as Europe/Berlin") from error
    return Zone(text, None)


def out_of_order(column: str, *, limit_s: int = 60, end_days: int = 30) -> pl.Expr:
    """
    Whether a line's time lies more than *limit_s* outside the times of its neighbours: a damaged date or hour.

    A gap and a restart are no such thing: time goes on from one neighbour to the other. The first and the last line
    have one neighbour only, and are believed up to *end_days* from it.
    """
    time, before, after = pl.col(column), pl.col(column).shift(1), pl.col(column).shift(-1)
    limit = timedelta(seconds=limit_s)
    earliest, latest = pl.min_horizontal(before, after), pl.max_horizontal(before, after)
    between = before.is_not_null() & after.is_not_null()
    return (
        pl.when(between)
        .then((time < earliest - limit) | (time > latest + limit))
        .otherwise((time - earliest).abs() > timedelta(days=end_days))
        .fill_null(False)
    )


def hours(shift_s: float) -> str:
    """A shift as people say it: ``+5:00 h``."""
    minutes = round(abs(shift_s) / 60)
    return f"{'-' if shift_s < 0 else '+'}{minutes // 60}:{minutes % 60:02d} h"


@dataclass(frozen=True, slots=True)
class Shift:
    """
    What to add to a log's clock, and how much of the run it then covers.

    `others` are shifts that explain the log as well: with any, the shift is a guess and must not be used.
    """

    seconds: int
    covered: float
    others: tuple[int, ...] = ()


def find_shift(first_s: float, last_s: float, begin_s: float, end_s: float) -> Shift:
    """
    The shift by which a log from *first_s* to *last_s* covers the run from *begin_s* to *end_s*.

    None if the log covers the run as it is, but for a tenth of it and half a quarter of an hour at most (more may be a
    clock an hour off beside a long run). Else whole hours before halves before quarters, and within each the one that
    covers most. Where nothing fits: a shift of 0 with what it covers.
    """
    run_s = max(end_s - begin_s, 1e-9)
    enough = 1 - min(0.1, QUARTER_S / 2 / run_s)

    def covered(shift: float) -> float:
        return max(0.0, min(last_s + shift, end_s) - max(first_s + shift, begin_s)) / run_s

    if covered(0) >= enough:
        return Shift(0, covered(0))
    tried: set[int] = set()
    for step in (4 * QUARTER_S, 2 * QUARTER_S, QUARTER_S):
        steps = set(range(-_LIMIT_S, _LIMIT_S + 1, step)) - tried
        tried |= steps
        fits = [shift for shift in steps if covered(shift) >= enough]
        if fits:
            best = max(fits, key=lambda shift: (covered(shift), -abs(shift)))
            return Shift(best, covered(best), tuple(sorted(shift for shift in fits if shift != best)))
    return Shift(0, covered(0))
