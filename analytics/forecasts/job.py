"""The job of forecasts: power of each site, devices held by each team, tokens of each model."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final

import polars as pl

from analytics.cost import PRICED_S
from analytics.fleet import Fleet
from analytics.forecasts.forecast import forecast
from analytics.forecasts.learned import in_use
from analytics.forecasts.series import devices_series, power_of_windows
from analytics.frames import nanoseconds
from analytics.jobs.job import NS, Window
from collector.errors import NotEnoughData

DAYS: Final = 28
"""So many days are learned from: four weeks have each day of the week four times."""
STEP_S: Final = round(PRICED_S)
SUBJECTS: Final = {"power": ("site", "power_w"), "devices": ("team", "devices"), "tokens": ("model", "tokens_per_s")}
"""What each kind of series is of, and its metric."""


def forecasts(frames: Mapping[str, pl.LazyFrame], window: Window, fleet: Fleet, root: Path) -> pl.DataFrame:
    """
    Quantiles of what power, demand and throughput will be; see `analytics.forecasts.forecast.forecast`.

    In:  device_energy, efficiency, allocations, of `DAYS` before the end of the window.
    Out: the table forecasts. Each kind of series is learned by itself, since watts tell nothing of tokens; its model is
         a version in the store of *root* (``forecast/power_w`` ...), learned anew when it is due.

    Raises: NotEnoughData (of no kind is there enough history), StoreError.
    """
    until_ns = window.until_ns
    since_ns = window.end_ns - DAYS * 86_400 * NS
    made, reasons = [], []
    for kind in SUBJECTS:
        series = history(kind, frames, fleet, since_ns, until_ns)
        scope, metric = SUBJECTS[kind]
        try:
            learn = partial(in_use, root, f"forecast/{metric}")
            found = forecast(_until(series, until_ns), step_s=STEP_S, learn=learn)
        except ValueError as error:
            reasons.append(f"{kind}: {error}")
            continue
        if not found.is_empty() and nanoseconds(found["time"][0]) < window.start_ns:
            # It was issued then, and is the earlier window's.
            reasons.append(f"{kind}: no step of {STEP_S / 60:.0f} minutes is over since the day began")
        else:
            name = pl.col("series").str.strip_prefix(f"{kind}/")
            made.append(found.with_columns(scope=pl.lit(scope), name=name, metric=pl.lit(metric)))
    if not made:
        raise NotEnoughData("; ".join(reasons))
    return pl.concat(made)


def history(kind: str, frames: Mapping[str, pl.LazyFrame], fleet: Fleet, since_ns: int, until_ns: int) -> pl.LazyFrame:
    """What was, of a kind of `SUBJECTS`: series (kind and name), time, value, by `STEP_S`."""
    if kind == "power":
        return _power(frames["device_energy"], fleet)
    if kind == "devices":
        return devices_series(frames["allocations"], since_ns, until_ns, step_s=STEP_S)
    return _tokens(frames["efficiency"])


def _until(series: pl.LazyFrame, until_ns: int) -> pl.LazyFrame:
    # What is issued at midnight would be of the next day's window.
    last_ns = (until_ns - 1) // (STEP_S * NS) * STEP_S * NS
    return series.filter(pl.col("time").to_physical() < last_ns)


def _power(device_energy: pl.LazyFrame, fleet: Fleet) -> pl.LazyFrame:
    """Mean power of each site's devices by step."""
    hosts = fleet.site_of(device_energy.select("host").drop_nulls().unique().collect()["host"])
    return power_of_windows(device_energy.rename({"time": "window"}), step_s=STEP_S, place="site", hosts=hosts)


def _tokens(efficiency: pl.LazyFrame) -> pl.LazyFrame:
    """Tokens per second of each model by step."""
    return (
        efficiency.filter(pl.col("tokens_per_s").is_not_null())
        .group_by(series=pl.concat_str(pl.lit("tokens/"), pl.coalesce("model", pl.lit("unknown"))), time="time")
        .agg(value=pl.col("tokens_per_s").sum())
    )
