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
