"""
From deviations to p-values: each subject beside its own past, and all beside what was recently normal.

A sensor's gain differs by up to 5 % from board to board and a slot is warmer than another, lastingly: so what a subject
usually deviates by (its level) is taken off first. How odd the rest is, is its rank among that of recent normal windows
of the same kind, which makes no assumption of how they are distributed (conformal).
"""

from typing import Final, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from analytics.anomalies.detector import MAD_SIGMA, MOST, Floats
from analytics.anomalies.groups import Groups, Ints, numbered, pairs
from collector.moments import NS

HOUR_S: Final = 3600
LEVEL_S: Final = 72 * HOUR_S
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

Truths = NDArray[np.bool_]


def judged(windows: pl.DataFrame, *, since_ns: int, fewest: int = FEWEST, odd_ratio: float = ODD_RATIO) -> pl.DataFrame:
    """
    The p-values of windows from *since_ns* on, beside those of before.

    In:  windows: subject, time, kind, work, group, value, normal (false: known to be not), and `detector.SCORED`, of a
         metric and detector. fewest: how many normal windows a rank needs. odd_ratio: what is off by less is normal.
    Out: the windows from *since_ns* on that could be judged, with score (beside the levels, signed), p_value,
         expected_mid, and expected_low and expected_high: the band of 1 - `BAND_P` of normal windows.
    """
    told = windows.filter(pl.col("score").is_not_null())
    alike = _Alike(told)
    beside, normal = _beside_group(told, alike), told["normal"].fill_null(True).to_numpy()
    # What is odd beside levels that it shaped itself is left out, and the rest looked at once more.
    first = _beside_levels(told, alike, beside, normal)
    odd = (np.abs(first.score) > _usual_most(first.score, alike, normal)) & (np.abs(first.off) >= np.log1p(odd_ratio))
    normal = normal & ~odd
    found = _beside_levels(told, alike, beside, normal)
    since = told["time"].to_physical().to_numpy() >= since_ns
    p_value, band = _ranked(found, alike, normal & ~since, since, fewest)
    mid = told["expected"] * _exp(told["deviation"].to_numpy() - found.off)
    judgement = {
        **found._asdict(), "p_value": p_value, "expected_mid": mid,
        "expected_low": mid * _exp(-band * found.below), "expected_high": mid * _exp(band * found.above),
    }  # fmt: skip
    columns = (pl.Series(name, values, nan_to_null=True) for name, values in judgement.items())
    return told.with_columns(columns).filter(pl.Series(since & ~np.isnan(p_value)))


def is_odd(p: float) -> pl.Expr:
    """Whether a row that `judged` gives is as rare as *p*, and far enough off to count."""
    return (pl.col("p_value") <= p) & (pl.col("off").abs() >= float(np.log1p(ODD_RATIO)))


class _Alike:
    """
    Which windows belong together.

    kind, work: the number of each one's. by_work, by_both, by_subject: those of a work, of a subject at a work, of a
    subject, by the hour. grouped: whether it has peers. by_moment: those of one group and time. part: one of `_PARTS`
    of the subjects.
    """

    def __init__(self, told: pl.DataFrame) -> None:
        time_ns = told["time"].to_physical().to_numpy()
        subject, group = numbered(told["subject"]), numbered(told["group"])
        self.kind = numbered(told["kind"])
        self.work = pairs(self.kind, numbered(told["work"]))
        self.by_work, self.by_both, self.by_subject = (
            _Hours(number, time_ns) for number in (self.work, pairs(subject, self.work), subject)
        )
        self.grouped: Truths = group >= 0
        self.by_moment = Groups(pairs(group, time_ns))
        self.part: Ints = told["subject"].rank("dense").to_numpy() % _PARTS


class _Hours:
    """The hours of each of whom *number* tells apart."""

    def __init__(self, number: Ints, time_ns: Ints) -> None:
        hour = time_ns // (HOUR_S * NS)
        hour -= hour.min(initial=0)
        # So far apart that one's past never reaches into another's.
        length = LEVEL_S // HOUR_S
        self._groups = Groups(number * (int(hour.max(initial=0)) + length + 1) + hour)

    def levels(self, values: Floats) -> tuple[Floats, Ints]:
        """For each row the median of the hours before (NaN: of too few), and of how many hours it is."""
        length = f"{LEVEL_S // HOUR_S}i"
        hourly = pl.col("hourly")
        found = pl.DataFrame(
            {"hour": self._groups.numbers, "hourly": self._groups.medians(values)}, nan_to_null=True
        ).select(
            level=hourly.rolling_median_by("hour", window_size=length, closed="left", min_samples=LEVEL_HOURS),
            hours=hourly.is_not_null().cast(pl.Int32).rolling_sum_by("hour", window_size=length, closed="left"),
        )
        level, hours = (
            found[name].fill_null(missing).to_numpy() for name, missing in (("level", np.nan), ("hours", 0))
        )
        return level[self._groups.of_row], hours[self._groups.of_row]


class _Beside(NamedTuple):
    """
    Windows beside the levels of their work and of their subject; NaN is not known.

    off: the deviation beside them. below, above: how much is usual to either side. score: the one over the other.
    """

    off: Floats
    below: Floats
    above: Floats
    score: Floats


def _beside_group(told: pl.DataFrame, alike: _Alike) -> Floats:
    """
    The deviation; of who is compared with peers, from the median of all of them, that itself included.

    Where peers differ lastingly, the median of the others moves by as much when one of them passes from above it to
    below, and by another amount for each who is left. From one median all move alike, which is not the device's.
    """
    value = told["value"].cast(pl.Float64)
    logarithm = value.log().fill_null(np.nan).to_numpy()
    with np.errstate(invalid="ignore"):
        beside = (logarithm - alike.by_moment.over(logarithm)).clip(-MOST, MOST)
    compared = (told["peers"].is_not_null() & (value > 0)).fill_null(False).to_numpy()
    return np.where(compared, beside, told["deviation"].to_numpy())


def _beside_levels(told: pl.DataFrame, alike: _Alike, beside: Floats, normal: Truths) -> _Beside:
    """
    The deviation beside the levels of its work and of its subject, which are of *normal* windows, and the score of it.

    Where the members of a group are further apart at a moment than is usual, a deviation means less; and so it does
    until it is known how a subject is at this work.
    """

    def levels(hours: _Hours, values: Floats) -> tuple[Floats, Ints]:
        return hours.levels(np.where(normal, values, np.nan))

    off = beside - np.nan_to_num(levels(alike.by_work, beside)[0])
    (at_work, hours), (at_all, _) = levels(alike.by_both, off), levels(alike.by_subject, off)
    off = _beside(off - at_work, off - at_all, hours)
    # What all of a group are off by is not the device's.
    off = off - np.where(alike.grouped, alike.by_moment.over(off), 0.0)
    apart = np.where(alike.grouped, MAD_SIGMA * alike.by_moment.over(np.abs(off)), np.nan)
    gain = np.where(np.isnan(at_work), GAIN, np.nan)
    below, above = (np.fmax(np.fmax(told[name].to_numpy(), apart), gain) for name in ("below", "above"))
    return _Beside(off, below, above, off / np.where(off < 0, below, above))


def _beside(at_work: Floats, at_all: Floats, hours: Ints) -> Floats:
    """
    What is off beside the subject's level at its work, or at all where that is not known.

    While the level at its work is of less than `SURE_HOURS`, only as much counts as is off beside both levels.
    """
    both = np.where(at_work * at_all > 0, np.sign(at_work) * np.fmin(np.abs(at_work), np.abs(at_all)), 0.0)
    known = np.where(hours < SURE_HOURS, both, at_work)
    return np.where(np.isnan(at_work), at_all, known)


def _usual_most(score: Floats, alike: _Alike, normal: Truths) -> Floats:
    """
    For each row the size that scores of its work seldom pass (`ODD_P`): the median of what parts of its subjects say.

    A fault of hours is in more than so few of all windows: by a rank among them it would hide itself. It is of one
    subject or some, so other parts tell what is usual.
    """
    columns = {"work": alike.work, "part": alike.part, "size": np.abs(score)}
    most = (
        pl.DataFrame(columns, nan_to_null=True)
        .filter(pl.Series(normal))
        .group_by("work", "part")
        .agg(most=pl.col("size").quantile(1 - ODD_P))
        .group_by("work")
        .agg(pl.col("most").median())
    )
    return pl.Series(alike.work).replace_strict(most["work"], most["most"], default=None).fill_null(np.nan).to_numpy()


def _ranked(found: _Beside, alike: _Alike, normal: Truths, since: Truths, fewest: int) -> tuple[Floats, Floats]:
    """
    The p-values of rows *since* beside *normal* windows of before, and the size of a score at `BAND_P`.

    What does the same work is compared where there is enough of it (a notebook's power jumps, a training's does not),
    else all of the same kind.
    """
    size, off = np.abs(found.score), np.abs(found.off)
    normal = normal & ~np.isnan(size)
    p_value, band = np.full(len(size), np.nan), np.full(len(size), np.nan)
    # The wider first, so that the narrower has the last word.
    for same, narrow in ((alike.kind, False), (alike.work, True)):
        for one in np.unique(same):
            of_it = same == one
            mine, theirs = of_it & since, of_it & normal
            known = np.sort(size[theirs])
            if narrow and known.size and MAD_SIGMA * np.median(off[theirs]) > LOOSE:
                p_value[mine] = np.nan
            elif known.size >= fewest:
                p_value[mine] = ranks(size[mine], known)
                band[mine] = np.quantile(known, 1 - BAND_P)
    return p_value, band


def _exp(values: Floats) -> pl.Series:
    return pl.Series(values).exp()


def ranks(size: Floats, known: Floats) -> Floats:
    """The share of *known* (sorted) and the value itself that are at least as large; NaN stays NaN."""
    found = (1.0 + known.size - np.searchsorted(known, size, side="left")) / (known.size + 1.0)
    return np.where(np.isnan(size), np.nan, found)
