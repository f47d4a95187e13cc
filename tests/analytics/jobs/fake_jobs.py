"""Small jobs with known results, and a program that runs them: ``python fake_jobs.py ROOT PAUSE_S``."""

import os
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from analytics.fleet import Fleet
from analytics.jobs.job import DAY_NS, Input, Job, Window
from collector.errors import NotEnoughData

Frames = Mapping[str, pl.LazyFrame]


def hours(frames: Frames, window: Window) -> pl.LazyFrame:
    """Mean power of each device and hour."""
    return (
        _inside(frames["device_samples"], window)
        .group_by("device", pl.col("time").dt.truncate("1h"))
        .agg(power_mean_w=pl.col("power_w").mean(), covered_s=pl.len().cast(pl.Float64))
        .with_columns(window_s=pl.lit(3600, pl.Int32))
    )


def hours_with_power(frames: Frames, window: Window) -> pl.LazyFrame:
    """As `hours`, of readings that have power."""
    samples = frames["device_samples"].filter(pl.col("power_w").is_not_null())
    return hours({"device_samples": samples}, window)


def hours_in_parts(frames: Mapping[str, Any], window: Window) -> dict[str, pl.DataFrame]:
    """As `hours`, from parts, and how many parts there were."""
    parts = frames["device_samples"]
    found = pl.concat([hours({"device_samples": part}, window).collect() for part in parts])
    moment = pl.Series([window.start_ns]).cast(pl.Datetime("ns"))
    count = pl.DataFrame({"incident": ["parts"], "time": moment, "windows": pl.Series([len(parts)], dtype=pl.Int64)})
    return {"device_energy": found, "incidents": count}


def half(frames: Mapping[str, Any], window: Window) -> dict[str, pl.DataFrame]:
    """Gives one of two tables."""
    return {"device_energy": hours(frames, window).collect()}


def slow_hours(frames: Frames, window: Window) -> pl.LazyFrame:
    """As `hours`, with a pause at the end, in which a test kills the process."""
    found = hours(frames, window).collect()
    time.sleep(float(os.environ.get("FAKE_PAUSE_S", "0")))
    return found.lazy()


def peaks(frames: Frames, window: Window) -> pl.LazyFrame:
    """The device with the most power in each hour, judged beside the hour before."""
    of_hours = frames["device_energy"].sort("power_mean_w", "device", descending=True)
    best = of_hours.group_by("time", maintain_order=True).agg(pl.col("device", "power_mean_w").first())
    rose = best.sort("time").with_columns(score=pl.col("power_mean_w") - pl.col("power_mean_w").shift(1))
    return _inside(rose, window).select(
        "time", "score", subject="device", detector=pl.lit("peak"), metric=pl.lit("power_w"), observed="power_mean_w"
    )


def counted(frames: Frames, window: Window) -> pl.DataFrame:
    """How many rows there have been so far: goes on from the day before."""
    before = frames["incidents"].sort("time").select("windows").collect()["windows"]
    rows = _inside(frames["device_samples"], window).select(pl.len()).collect().item()
    moment = pl.Series([window.start_ns]).cast(pl.Datetime("ns"))
    windows = (before[-1] if before.len() else 0) + rows
    return pl.DataFrame({"incident": ["all"], "time": moment, "windows": pl.Series([windows], dtype=pl.Int64)})


def broken(frames: Frames, window: Window) -> pl.LazyFrame:
    """Fails from the second day on."""
    if window.start_ns >= 1_767_225_600 * 10**9 + DAY_NS:
        raise ZeroDivisionError("no devices on the second day")
    return hours(frames, window)


def outside(frames: Frames, window: Window) -> pl.LazyFrame:
    """A row that is not within the window."""
    return hours(frames, window).with_columns(pl.col("time") + pl.duration(days=1))


def thin(frames: Frames, window: Window) -> pl.LazyFrame:
    """Never has enough."""
    raise NotEnoughData("2 days of data, 14 are needed")


BOTH = threading.Barrier(2)


def hours_together(frames: Frames, window: Window) -> pl.LazyFrame:
    """As `hours`, once `counted_together` is at it, too."""
    BOTH.wait(30)
    return hours(frames, window)


def counted_together(frames: Frames, window: Window) -> pl.DataFrame:
    """As `counted`, once `hours_together` is at it, too."""
    BOTH.wait(30)
    return counted(frames, window)


def slow_counted(frames: Frames, window: Window) -> pl.DataFrame:
    """As `counted`, with a pause at the end."""
    found = counted(frames, window)
    time.sleep(float(os.environ.get("FAKE_PAUSE_S", "0")))
    return found


def process(frames: Frames, window: Window) -> pl.DataFrame:
    """The number of the process that it runs in."""
    moment = pl.Series([window.start_ns]).cast(pl.Datetime("ns"))
    return pl.DataFrame({"incident": ["pid"], "time": moment, "windows": pl.Series([os.getpid()], dtype=pl.Int64)})


def ends(frames: Frames, window: Window) -> pl.DataFrame:
    """Ends its process, as the system does when memory is short."""
    os._exit(1)


def priced(frames: Frames, window: Window, fleet: Fleet) -> pl.LazyFrame:
    """Depends on the fleet."""
    return hours(frames, window).with_columns(counter_j=pl.lit(float(len(fleet.sites))))


def _inside(frame: pl.LazyFrame, window: Window) -> pl.LazyFrame:
    start, end = (pl.lit(moment).cast(pl.Datetime("ns")) for moment in (window.start_ns, window.end_ns))
    return frame.filter(pl.col("time").is_between(start, end, closed="left"))


SAMPLES = Input("device_samples")
HOURS = Job(name="hours", function="fake_jobs:hours", inputs=(SAMPLES,), output="device_energy", every="hour")
PEAKS = Job(name="peaks", function="fake_jobs:peaks", inputs=(Input("device_energy", 3600.0),), output="anomaly_scores")
COUNTED = Job(
    name="counted", function="fake_jobs:counted", inputs=(SAMPLES, Input("incidents", None)), output="incidents"
)
JOBS = (HOURS, PEAKS, COUNTED)

if __name__ == "__main__":
    from analytics.jobs.running import run

    os.environ["FAKE_PAUSE_S"] = sys.argv[2]
    slow = (replace(HOURS, function="fake_jobs:slow_hours"), PEAKS, COUNTED)
    run(Path(sys.argv[1]), jobs=slow, tell=lambda outcome, *_: print(outcome.job, outcome.window.start_ns, flush=True))
