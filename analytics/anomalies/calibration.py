"""
From deviations to p-values: each subject beside its own past, and all beside what was recently normal.

A sensor's gain differs by up to 5 % from board to board and a slot is warmer than another, lastingly: so what a subject
usually deviates by (its level) is taken off first. How odd the rest is, is its rank among that of recent normal windows
of the same kind, which makes no assumption of how they are distributed (conformal).
"""

from typing import Final

import numpy as np
import polars as pl

from analytics.anomalies.detector import MAD_SIGMA, MOST, Floats

LEVEL_S: Final = 72 * 3600
"""The past that a subject's level is of."""
LEVEL_HOURS: Final = 3
"""Hours of it that must be known: before, a board's gain is not, and it is not judged."""
SURE_HOURS: Final = 12
"""Hours at a work of which a level is sure; a few are often of its first minutes, when it was loading or still cool."""
FEWEST: Final = 2000
"""Normal windows that a rank needs: with fewer nothing could be rarer than 1 in 2000."""
FEWEST_HOURS: Final = 1000
"""The same where windows are hours: a dozen devices have so many in three days."""
GAIN: Final = 0.05
"""How much a board's gain may be off, where nothing is known of it."""
LOOSE: Final = 0.1
"""Where what does the same work is usually further apart than this, it is not alike, and nothing of it is odd."""
ODD_P: Final = 0.001
ODD_RATIO: Final = 0.05
"""What is as rare and as large as this is no part of what is normal, nor of a subject's level."""
BAND_P: Final = 0.01
"""All but this share of normal windows were within what is told as expected."""
_PARTS: Final = 5


def judged(windows: pl.DataFrame, *, since_ns: int, fewest: int = FEWEST, odd_ratio: float = ODD_RATIO) -> pl.DataFrame:
    """
    The p-values of windows from *since_ns* on, beside those of before.

    In:  windows: subject, time, kind, work, group, value, normal (false: known to be not), and `detector.SCORED`, of a
         metric and detector. fewest: how many normal windows a rank needs. odd_ratio: what is off by less is normal.
    Out: the windows from *since_ns* on that could be judged, with score (beside the levels, signed), p_value,
         expected_mid, and expected_low and expected_high: the band of 1 - `BAND_P` of normal windows.
    """
    told = windows.filter(pl.col("score").is_not_null()).with_columns(
        odd=~pl.col("normal").fill_null(True), beside=_beside_group()
    )
    before = pl.col("time").to_physical() < since_ns
    # What is odd beside levels that it shaped itself is left out, and the rest looked at once more.
    first = _beside_levels(told)
    odd = (first["score"].abs() > _usual_most(first)) & (first["off"].abs() >= np.log1p(odd_ratio))
    again = told.with_columns(odd=pl.col("odd") | odd.fill_null(False))
    found = _ranked(_beside_levels(again), before, fewest).filter(~before & pl.col("p_value").is_not_null())
    mid = pl.col("expected") * (pl.col("deviation") - pl.col("off")).exp()
    return found.with_columns(
        expected_mid=mid,
        expected_low=mid * (-pl.col("band") * pl.col("below")).exp(),
        expected_high=mid * (pl.col("band") * pl.col("above")).exp(),
    )


def is_odd(p: float) -> pl.Expr:
    """Whether a row that `judged` gives is as rare as *p*, and far enough off to count."""
    return (pl.col("p_value") <= p) & (pl.col("off").abs() >= float(np.log1p(ODD_RATIO)))


def _beside_group() -> pl.Expr:
    """
    The deviation; of who is compared with peers, from the median of all of them, that itself included.

    Where peers differ lastingly, the median of the others moves by as much when one of them passes from above it to
    below, and by another amount for each who is left. From one median all move alike, which is not the device's.
    """
    value = pl.col("value").cast(pl.Float64).log()
    beside = (value - value.median().over("group", "time")).clip(-MOST, MOST)
    compared = pl.col("peers").is_not_null() & (pl.col("value") > 0)
    return pl.when(compared).then(beside).otherwise("deviation")


def _beside_levels(told: pl.DataFrame) -> pl.DataFrame:
    """
    *told* in its order with `off`, the deviation beside the levels of its work and of its subject, and the score of it.

    Where the members of a group are further apart at a moment than is usual, a deviation means less; and so it does
    until it is known how a subject is at this work.
    """
    of_all = _level(told, "beside", ("kind", "work"))["level"].fill_null(0.0)
    of_work = told.with_columns(off=pl.col("beside") - of_all)
    at_work = _level(of_work, "off", ("subject", "work")).rename({"level": "at_work"})
    at_all = _level(of_work, "off", ("subject",))["level"].alias("at_all")
    of_both = of_work.with_columns(*at_work, at_all).with_columns(off=_beside(pl.col("off")))
    grouped = pl.col("group").is_not_null()
    # What all of a group are off by is not the device's.
    common = pl.when(grouped).then(pl.col("off").median().over("group", "time")).otherwise(0.0)
    of_both = of_both.with_columns(off=pl.col("off") - common)
    apart = pl.when(grouped).then(MAD_SIGMA * pl.col("off").abs().median().over("group", "time"))
    gain = pl.when(pl.col("at_work").is_null()).then(GAIN)
    wider = of_both.with_columns(pl.max_horizontal(name, apart, gain).alias(name) for name in ("below", "above"))
    score = pl.col("off") / pl.when(pl.col("off") < 0).then("below").otherwise("above")
    return wider.with_columns(score=score).drop("at_work", "at_all", "hours")


def _beside(off: pl.Expr) -> pl.Expr:
    """
    *off* beside the subject's level at its work, or at all where that is not known.

    While the level at its work is of less than `SURE_HOURS`, only as much counts as is off beside both levels.
    """
    at_work, at_all = off - pl.col("at_work"), off - pl.col("at_all")
    both = pl.when(at_work * at_all > 0).then(at_work.sign() * pl.min_horizontal(at_work.abs(), at_all.abs()))
    unsure = pl.col("at_work").is_not_null() & (pl.col("hours") < SURE_HOURS)
    return pl.when(unsure).then(both.otherwise(0.0)).otherwise(pl.coalesce(at_work, at_all))


def _level(told: pl.DataFrame, column: str, keys: tuple[str, ...]) -> pl.DataFrame:
    """
    For each row the median of *column* in the hours before among rows of the same *keys*, what is odd left out.

    Out: level (null where too few hours are known), hours (that it is of).
    """
    length = f"{LEVEL_S}s"
    hour = pl.col("time").dt.truncate("1h")
    hours = (
        told.group_by(*keys, hour=hour)
        .agg(hourly=pl.col(column).filter(~pl.col("odd")).median())
        .sort(*keys, "hour")
        .with_columns(
            level=pl.col("hourly")
            .rolling_median_by("hour", window_size=length, closed="left", min_samples=LEVEL_HOURS)
            .over(keys),
            hours=pl.col("hourly")
            .is_not_null()
            .cast(pl.Int32)
            .rolling_sum_by("hour", window_size=length, closed="left")
            .over(keys),
        )
    )
    found = told.select(*keys, hour=hour).join(
        hours, on=[*keys, "hour"], how="left", nulls_equal=True, maintain_order="left"
    )
    return found.select("level", "hours")


def _usual_most(told: pl.DataFrame) -> pl.Series:
    """
    For each row the size that scores of its work seldom pass (`ODD_P`): the median of what parts of its subjects say.

    A fault of hours is in more than so few of all windows: by a rank among them it would hide itself. It is of one
    subject or some, so other parts tell what is usual.
    """
    part = pl.col("subject").rank("dense") % _PARTS
    most = (
        told.filter(~pl.col("odd"))
        .group_by("kind", "work", part=part)
        .agg(most=pl.col("score").abs().quantile(1 - ODD_P))
        .group_by("kind", "work")
        .agg(pl.col("most").median())
    )
    keys = ["kind", "work"]
    return told.select(keys).join(most, on=keys, how="left", nulls_equal=True, maintain_order="left")["most"]


def _ranked(told: pl.DataFrame, before: pl.Expr, fewest: int) -> pl.DataFrame:
    """
    *told* in its order, with p-values beside normal windows of before, and the size of a score at `BAND_P`.

    What does the same work is compared where there is enough of it (a notebook's power jumps, a training's does not),
    else all of the same kind.
    """
    p_value, band = np.full(told.height, np.nan), np.full(told.height, np.nan)
    size, off = (told[name].abs().fill_null(np.nan).to_numpy() for name in ("score", "off"))
    normal = told.select(before & ~pl.col("odd")).to_series().to_numpy() & ~np.isnan(size)
    # The wider first, so that the narrower has the last word.
    for keys in (("kind",), ("kind", "work")):
        alike = pl.concat_str(pl.col(keys).fill_null(""), separator="|")
        same = told.select(alike.rank("dense")).to_series().to_numpy()
        for one in np.unique(same):
            mine = same == one
            known = np.sort(size[mine & normal])
            if len(keys) > 1 and known.size and MAD_SIGMA * np.median(off[mine & normal]) > LOOSE:
                p_value[mine] = np.nan
            elif known.size >= fewest:
                p_value[mine] = ranks(size[mine], known)
                band[mine] = np.quantile(known, 1 - BAND_P)
    return told.with_columns(p_value=pl.Series(p_value, nan_to_null=True), band=pl.Series(band, nan_to_null=True))


def ranks(size: Floats, known: Floats) -> Floats:
    """The share of *known* (sorted) and the value itself that are at least as large; NaN stays NaN."""
    found = (1.0 + known.size - np.searchsorted(known, size, side="left")) / (known.size + 1.0)
    return np.where(np.isnan(size), np.nan, found)
