"""What devices there are: as they described themselves last, and when each was last measured."""

from typing import Final

import polars as pl

_TOLD: Final = (
    "host", "vendor", "model", "ordinal", "parent", "partition", "driver_version", "mode", "power_method",
    "power_scope", "power_limit_w", "memory_total_bytes",
)  # fmt: skip


def inventory(devices: pl.LazyFrame, samples: pl.LazyFrame) -> pl.LazyFrame:
    """
    One row for each device that described itself or was measured.

    In:  devices: the table of that name; samples: device, time, host of device_samples.
    Out: device, host, vendor, model, ordinal, parent, partition, driver_version, mode, power_method, power_scope,
         power_limit_w, memory_total_bytes (of the latest description; null without one), samples (rows), first_sample,
         last_sample.
    """
    told = devices.sort("time").group_by("device").agg(pl.col(*_TOLD).last())
    seen = samples.group_by("device").agg(
        pl.col("host").drop_nulls().last().alias("seen_on"),
        samples=pl.len().cast(pl.Int64),
        first_sample=pl.col("time").min(),
        last_sample=pl.col("time").max(),
    )
    return (
        told.join(seen, on="device", how="full", coalesce=True)
        .with_columns(host=pl.coalesce("host", "seen_on"), samples=pl.col("samples").fill_null(0))
        .drop("seen_on")
        .sort("host", "ordinal", "device")
    )


def held(allocations: pl.LazyFrame, start_ns: int | None, end_ns: int) -> pl.LazyFrame:
    """
    The allocations that hold within [start_ns, end_ns), cut to it.

    In:  allocations: the table of that name; of rows with the same workload, device and start the latest counts.
    Out: the same columns, one row for each that overlaps; `end` is never null, nor later than *end_ns*.

    Uncut, a job of months would count for a window of minutes, and one that never ended for centuries.
    """
    last = pl.lit(end_ns).cast(pl.Datetime("ns"))
    first = pl.lit(-(2**62) if start_ns is None else start_ns).cast(pl.Datetime("ns"))
    return (
        allocations.sort("time")
        .unique(["workload", "device", "start"], keep="last", maintain_order=True)
        .with_columns(
            start=pl.max_horizontal("start", first), end=pl.min_horizontal(pl.col("end").fill_null(last), last)
        )
        .filter(pl.col("start") < pl.col("end"))
    )
