"""
Sample paths of load: what the peaks of each day may become.

`paths` is a simple generator that needs no model: a straight line through the days, and a moving-block bootstrap
(Künsch, 1989) of what it leaves. For each path the residuals are drawn in blocks of a week and the line is fitted
again, so that paths differ by what the trend may be as well as by the weather of each day. All nodes draw the same
blocks: what was joint stays joint.

A forecast of any other kind serves as well, as a frame of the same form.
"""

from datetime import timedelta
from typing import Final

import numpy as np
import polars as pl

from analytics.capacity.headroom import Survey
from analytics.capacity.load import MINUTES_A_DAY
from analytics.capacity.tree import Floats
from collector.errors import NotEnoughData

PATHS: Final = pl.Schema({"node": pl.String(), "path": pl.Int64(), "time": pl.Datetime("ns"), "power_w": pl.Float64()})
MIN_DAYS: Final = 14
"""Two weeks: a trend through less is the difference between days of the week."""
REACH: Final = 4
"""A trend is carried on for so many times the days that it was seen in."""
BLOCK_DAYS: Final = 7
WHOLE_DAY: Final = 0.5
"""A day counts where so much of it is measured."""


def daily_peaks(found: Survey) -> pl.DataFrame:
    """
    The peak of each day at the site and each of its domains, by the same percentile as headroom.

    Out: node, day, power_w. Days of which less than half is measured are left out.
    """
    days, at = np.unique(found.load.times.astype("datetime64[D]"), return_inverse=True)
    names = list(found.tree.at)
    parts = []
    for number, day in enumerate(days):
        inside = at == number
        if inside.sum() >= WHOLE_DAY * MINUTES_A_DAY:
            peaks = found.peak(found.normal_w[:, inside])
            parts.append(pl.DataFrame({"node": names, "day": [day.item()] * len(names), "power_w": peaks}))
    schema = {"node": pl.String(), "day": pl.Date(), "power_w": pl.Float64()}
    return pl.concat([pl.DataFrame(schema=schema), *parts])


def paths(daily: pl.DataFrame, *, days: int = 365, count: int = 400, seed: int = 0) -> pl.DataFrame:
    """
    Paths of the daily peaks of each node.

    In:  daily: node, day, power_w, as `daily_peaks` gives them.
    Out: `PATHS`: node, path (from 0; the same number is one future of all nodes), time (midnight of each of *days*
         days after the last, or of `REACH` times the days that are known where that is less), power_w (never below 0).

    Raises: NotEnoughData.
    """
    wide = daily.sort("day").pivot(on="node", index="day", values="power_w").drop_nulls()
    nodes = [name for name in wide.columns if name != "day"]
    if (missing := MIN_DAYS - wide.height) > 0:
        raise NotEnoughData(
            f"runway: peaks of {wide.height} days are known, {MIN_DAYS} are needed: {missing} more days"
        )
    days = min(days, REACH * wide.height)
    last = wide["day"].cast(pl.Datetime("ns"))[-1]
    ahead = futures(wide.select(nodes).to_numpy(), days=days, count=count, seed=seed)
    times = pl.Series([last + timedelta(days=day) for day in range(1, days + 1)], dtype=pl.Datetime("ns"))
    frame = pl.DataFrame({"path": np.repeat(np.arange(count), days), "time": pl.concat([times] * count)})
    return pl.concat(
        frame.select(pl.lit(node).alias("node"), "path", "time", power_w=pl.Series(ahead[:, :, at].ravel()))
        for at, node in enumerate(nodes)
    ).cast(PATHS)


def futures(history: Floats, *, days: int, count: int, seed: int) -> Floats:
    """
    Futures of several series together, of which each row of *history* is a day: paths by days by series.

    The line is fitted by least squares; see the module for what is drawn.
    """
    rng = np.random.default_rng(seed)
    length, series = history.shape
    now = np.arange(length) - (length - 1)
    design = np.column_stack([np.ones(length), now])
    line = np.linalg.lstsq(design, history, rcond=None)[0]
    rest = history - design @ line
    # Residuals of a fit are smaller than the noise by the two degrees of freedom that the fit took.
    rest *= np.sqrt(length / (length - design.shape[1]))
    project = np.linalg.pinv(design)
    ahead = np.column_stack([np.ones(days), np.arange(1, days + 1)])
    found = np.empty((count, days, series))
    for path in range(count):
        again = project @ (design @ line + rest[_blocks(rng, length, length)])
        found[path] = ahead @ again + rest[_blocks(rng, length, days)]
    return np.maximum(found, 0.0)


def _blocks(rng: np.random.Generator, length: int, wanted: int) -> np.ndarray:
    """Days in blocks of a week, of a history that is a circle."""
    starts = rng.integers(0, length, -(-wanted // BLOCK_DAYS))
    return ((starts[:, None] + np.arange(BLOCK_DAYS)) % length).ravel()[:wanted]
