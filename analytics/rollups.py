"""
Energy from rollups: months in seconds, with the figures that raw readings give.

Rollups hold the same sums, step by step, as `analytics.cells` makes; what is not rolled up yet, and the parts of hours
at the ends of a window, are made from readings, and the judgement of counters and sources is made over both.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import numpy as np
import polars as pl

from analytics.boards import fits_of
from analytics.cells import CELLS, EXTREMES, HOUR_S, cells, judged
from analytics.energy import (
    Swings,
    Windows,
    energy_of_cells,
    mean_utilization,
    of_boards,
    power_of_groups,
    seconds,
    without_partitions,
)
from analytics.frames import Spliced, over_devices
from analytics.slots import SLOT_S
from analytics.steps import JOULES, NS, TEXT, nanoseconds, ordered, readings

WINDOWS_S: Final = (3600, SLOT_S)
"""The windows of rollups that energy is made from, the coarser first."""
"""How long a swing of a host lasts that is seen in rollups."""
SUMS: Final = {
    "mixed_j": "energy_j",
    "mixed_s": "energy_covered_s",
    "counter_j": "energy_increase_j",
    "power_j": "energy_power_j",
    "power_s": "energy_power_s",
    "both_counter_j": "energy_both_counter_j",
    "both_power_j": "energy_both_power_j",
    "mixed_modelled_j": "energy_modelled_j",
    "power_modelled_j": "energy_power_modelled_j",
}
"""What rollups call the sums of `analytics.steps.JOULES`."""
UNJUDGED: Final = pl.Schema(
    {
        **{name: kind for name, kind in CELLS.items() if name in TEXT or kind == pl.Datetime("ns")},
        "readings": pl.Int64(),
        **dict.fromkeys(("max_gap_s", *EXTREMES, *JOULES), pl.Float64()),
    }
)
"""Cells whose sources are not chosen yet."""


def unjudged(rollups: pl.LazyFrame) -> pl.LazyFrame:
    """
    Rollups of one length, an hour or less, as cells of all sources: `UNJUDGED`.

    In:  rows of the table device_rollups. Those without energy (of before there was any) are left out.
    """
    length = (pl.col("window_s").cast(pl.Int64) * NS).cast(pl.Duration("ns"))
    hour = round(HOUR_S * NS)
    return rollups.filter(pl.col("energy_covered_s").is_not_null()).select(
        *TEXT,
        begin="time",
        time=pl.col("time") + length,
        hour=(nanoseconds("time") // hour * hour).cast(pl.Datetime("ns")),
        max_gap_s="max_gap_s",
        readings="rows",
        **{name: pl.col(name) for name in EXTREMES},
        **{name: pl.col(SUMS[name]) for name in JOULES},
    ).select(UNJUDGED.names())  # fmt: skip


def of_readings(
    samples: pl.LazyFrame, *, start_ns: int | None, end_ns: int | None, lengths_s: Sequence[float] = ()
) -> pl.LazyFrame:
    """
    Cells of all sources from readings, of the hours that begin in [start_ns, end_ns): `UNJUDGED`.

    In:  samples of whole devices as `analytics.energy.energy` takes them, from an hour before to an hour after: a step
         into the hours, and one out of them, is shared with them.
    """

    def of_rows(rows: pl.DataFrame) -> pl.DataFrame:
        found = cells(ordered(rows), lengths_s=lengths_s, judge=False).frame
        if found.is_empty():
            return pl.DataFrame(schema=UNJUDGED)
        inside = [] if start_ns is None else [nanoseconds("hour") >= start_ns]
        inside += [] if end_ns is None else [nanoseconds("hour") < end_ns]
        return found.filter(*inside).select(UNJUDGED.names())

    return readings(samples).map_batches(
        of_rows, schema=UNJUDGED, predicate_pushdown=False, projection_pushdown=False, slice_pushdown=False
    )


def energy_of_rollups(found: Spliced, *, by: str | None = None, devices: pl.LazyFrame | None = None) -> pl.LazyFrame:
    """
    As `analytics.energy.energy`, from rollups and the readings before and after them.

    In:  found: of `analytics.frames.spliced`; *devices* as `analytics.energy.energy` takes them. The windows of *by*
         must be whole numbers of those of the rollups.

    What is a gap follows each device's interval in the hour that was rolled up, not in the whole window: in an hour in
    which a device was read fewer than four times, 10 s are a gap.
    """
    lengths_s = () if by is None else (seconds(by),)
    start_ns, end_ns = found.hours_ns
    parts = [_calibrated(unjudged(without_partitions(found.rollups, devices)), devices)]
    for samples, low, high in ((found.before, None, start_ns), (found.after, end_ns, None)):
        of_part = partial(_of_part, devices=devices, start_ns=low, end_ns=high, lengths_s=lengths_s)
        parts += [over_devices(of_part, samples).lazy()] if samples else []
    return energy_of_cells(judged(pl.concat(parts)), None if by is None else seconds(by), devices)


def windows_of_rollups(
    found: Spliced, *, every_s: float, within_ns: tuple[int, int], devices: pl.LazyFrame | None = None
) -> Windows:
    """
    As `analytics.energy.over_time` by host and device, from rollups of five minutes and the readings around them.

    In:  found: of `analytics.frames.spliced` with windows of 300 s, of which *every_s* is a whole number; *within_ns*:
         the stretch that it is of; *devices* as `analytics.energy.energy` takes them.

    What a device drew at most and least is of its readings; of a host, or more, it is the mean of five minutes. Of the
    columns of `energy` there are those that add up, power_mean_w, power_min_w, power_max_w and max_gap_s.
    """
    length, slot = round(every_s * NS), round(SLOT_S * NS)
    window = (nanoseconds("window") // length * length).cast(pl.Datetime("ns"))
    fine = energy_of_rollups(found, by=f"{SLOT_S}s", devices=devices).with_columns(pl.col("host").fill_null("unknown"))
    fine = fine.collect().lazy()
    covered_s, joules = pl.col("covered_s").sum(), pl.when(pl.col("covered_s").sum() > 0).then(pl.col("energy_j").sum())
    coarse = (
        fine.group_by("device", window=window)
        .agg(
            pl.col("host").last(), covered_s, pl.col("counter_j", "modelled_j").sum(), energy_j=joules,
            power_mean_w=joules / covered_s, power_min_w=pl.col("power_min_w").min(),
            power_max_w=pl.col("power_max_w").max(), max_gap_s=pl.col("max_gap_s").max(),
        )
        .sort("device", "window")
        .collect()
    )  # fmt: skip
    swings = (
        fine.select("device", "host", window=window, at="window", fine_w="power_mean_w")
        .join(coarse.lazy().select("device", "window", "power_mean_w"), on=["device", "window"])
        .group_by("host", "at")
        .agg(swing=(pl.col("fine_w") - pl.col("power_mean_w")).sum())
        .sort("host")
        .collect()
    )
    first, slots = within_ns[0] // length, length // slot
    count = (within_ns[1] - 1) // length - first + 1
    of: dict[str, np.ndarray] = {}
    for (host,), rows in swings.group_by("host", maintain_order=True):
        of[str(host)] = np.zeros(count * slots)
        of[str(host)][(rows["at"].to_physical().to_numpy() - first * length) // slot] = rows["swing"].to_numpy()
    mean = pl.col("power_mean_w")
    extremes = coarse.select(
        "window", group="device", high=pl.col("power_max_w") - mean, low=pl.col("power_min_w") - mean
    )
    by_device = power_of_groups(coarse, extremes, pl.col("device"), every_s)
    utilization = mean_utilization(_utilization(found, length, devices)).collect()
    return Windows(coarse, {"device": by_device}, utilization, Swings(of, length, slots, first))


def _utilization(found: Spliced, length: int, devices: pl.LazyFrame | None) -> pl.LazyFrame:
    """Sums and numbers of the readings of utilisation of each device in windows of *length* nanoseconds."""
    mean, rows = pl.col("utilization_mean_ratio"), pl.col("rows").cast(pl.Float64)
    told = [
        found.rollups.select("device", "host", "time", sum=mean * rows, n=pl.when(mean.is_not_null()).then(rows)),
        found.rest.select(
            "device", "host", "time", sum="utilization_ratio",
            n=pl.col("utilization_ratio").is_not_null().cast(pl.Float64),
        ),
    ]  # fmt: skip
    window = (nanoseconds("time") // length * length).cast(pl.Datetime("ns"))
    whole = [without_partitions(some, devices).with_columns(window=window) for some in told]
    return pl.concat(whole).filter(pl.col("n") > 0).drop("time")


def _calibrated(cells: pl.LazyFrame, devices: pl.LazyFrame | None) -> pl.LazyFrame:
    """Cells of what sensors showed, with what calibrated boards drew: as `analytics.boards.calibrated` of readings."""
    fits = fits_of(devices)
    if fits.is_empty():
        return cells
    modelled_j = pl.col("power_modelled_j")
    own = pl.col("gain_ratio").is_not_null() & ~((modelled_j > 0).fill_null(False))
    drawn_j = ((pl.col("power_j") - pl.col("offset_w") * pl.col("power_s")) / pl.col("gain_ratio")).clip(0.0)
    values = {
        **{name: ((pl.col(name) - pl.col("offset_w")) / pl.col("gain_ratio")).clip(0.0) for name in EXTREMES},
        **dict.fromkeys(("power_j", "mixed_j"), drawn_j),
    }
    # Their counters were never compared with the meter: of modelled power, too, only the power counts.
    uncounted = {
        "mixed_j": pl.col("power_j"), "mixed_s": pl.col("power_s"), "mixed_modelled_j": modelled_j,
        **dict.fromkeys(("counter_j", "both_counter_j", "both_power_j"), pl.lit(0.0)),
    }  # fmt: skip
    fitted = pl.col("gain_ratio").is_not_null()
    return (
        cells.join(fits.lazy().select("device", "gain_ratio", "offset_w"), on="device", how="left")
        .with_columns(pl.when(fitted).then(value).otherwise(name).alias(name) for name, value in uncounted.items())
        .with_columns(pl.when(own).then(value).otherwise(name).alias(name) for name, value in values.items())
        .select(UNJUDGED.names())
    )


def _of_part(samples: pl.LazyFrame, *, devices: pl.LazyFrame | None, **more: Any) -> pl.LazyFrame:
    return of_readings(of_boards(samples, devices), **more)
