"""
Which version of an expectation judges a window, and when it is learned anew.

A window is judged by the latest version in use whose data end before it began; so doing a window again changes nothing,
whatever was learned since. Where that version is older than `REFIT_S` a candidate is learned, and tried on the window,
which neither has seen: it is in use from the next window on, if it is within the budget of promotions. Is it not, then
another is learned when `RETRY_S` have passed.
"""

from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import polars as pl

from analytics.anomalies.calibration import LEVEL_S, ODD_P, is_odd
from analytics.anomalies.expectation import Expectation
from analytics.jobs.job import Window
from analytics.models.comparison import UNKNOWN, Trial
from analytics.models.versions import CHAMPION, RETIRED, Meta, listed, load, offer, promote
from collector.moments import NS

REFIT_S: Final = 7 * 86_400
"""After a week a version is learned anew: by then seasons, drivers and models have moved on."""
RETRY_S: Final = LEVEL_S
"""After one that was not taken: by then all of the past that is learned from is another."""
KIND: Final = "expectation/1"
BY: Final = "job anomaly_scores"


class Learned(NamedTuple):
    """An expectation, what it is called, and the one to try beside it where it is old."""

    detector: Expectation
    version: str
    candidate: Expectation | None = None


def learned(root: Path, model: str, blank: Expectation, past: pl.DataFrame, window: Window) -> Learned:
    """
    The expectation that judges *window*: the version in use of *model*, or one that is learned from *past* now.

    Raises: NotEnoughData (there is none yet, and *past* is too little to learn from), StoreError.
    """
    rows = listed(root, model).with_columns(pl.col("end").to_physical()).sort("end", descending=True)
    alike = 0
    used = pl.col("state").is_in([CHAMPION, RETIRED]) & pl.col("path").is_not_null()
    for row in rows.filter(used).iter_rows(named=True):
        kept = load(root, model, row["version"])
        if kept.meta.kind != KIND or tuple(kept.meta.settings["features"]) != blank.features:
            continue  # of a perfwatt that looked at other columns
        alike += 1
        if row["end"] >= window.start_ns:
            continue
        old = window.start_ns - row["end"] >= REFIT_S * NS and not _just_learned(rows["end"], window)
        return Learned(blank.restored(kept.arrays), row["version"], blank.fit(past) if old else None)
    fitted = blank.fit(past)
    version, state = offer(root, model, fitted.state(), _meta(fitted, past, window), by=BY)
    if state != CHAMPION and not alike:
        # Beside one that looks at other columns, or is of another kind, there is nothing to compare.
        promote(root, model, version, by=BY, reason="what was in use looked at other columns", force=True)
    return Learned(fitted, version)


def _just_learned(ends_ns: pl.Series, window: Window) -> bool:
    """Whether another, taken or not, was learned for *window* or so little before that it would be much the same."""
    return (window.start_ns - ends_ns).is_between(0, RETRY_S * NS, closed="left").any()


def tried(root: Path, model: str, candidate: Expectation, past: pl.DataFrame, window: Window,
          champions: pl.DataFrame, candidates: pl.DataFrame) -> tuple[str, str]:  # fmt: skip
    """
    Offer a candidate, tried on what both judged of *window*; its version and state.

    In:  champions, candidates: what `calibration.judged` gives of either; the error is how far what was expected is
         off, as a logarithm. Whether an alarm is true nobody knows yet, so what counts is how many verdicts differ.

    Raises: StoreError.
    """
    keys = ["subject", "time"]
    both = champions.join(candidates.select(*keys, other_off="off", other_odd=is_odd(ODD_P)), on=keys).sort(keys)
    meta, arrays = _meta(candidate, past, window), candidate.state()
    if both.is_empty():
        return offer(root, model, arrays, meta, by=BY)
    trial = Trial(
        series=(both["subject"].rank("dense").to_numpy()).astype(np.int64),
        time_ns=both["time"].to_physical().to_numpy(),
        truth=np.full(both.height, UNKNOWN),
        champion=both.select(is_odd(ODD_P).cast(pl.Float64)).to_series().to_numpy(),
        candidate=both["other_odd"].cast(pl.Float64).to_numpy(),
        champion_error=both["off"].abs().to_numpy(),
        candidate_error=both["other_off"].abs().to_numpy(),
    )
    return offer(root, model, arrays, meta, trial, by=BY)


def _meta(fitted: Expectation, past: pl.DataFrame, window: Window) -> Meta:
    start_ns = past["time"].to_physical().min()
    assert isinstance(start_ns, int)
    return Meta(
        kind=KIND,
        start_ns=start_ns,
        end_ns=window.start_ns,
        rows=past.height,
        metrics={"usual_deviation": fitted.usual},
        settings={"features": list(fitted.features)},
    )
