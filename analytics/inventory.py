"""What devices there are: as they described themselves last, and when each was last measured."""

from typing import Final

import polars as pl

from analytics.fleet import Fleet

_TOLD: Final = (
    "host", "vendor", "model", "ordinal", "parent", "partition", "driver_version", "mode", "power_method",
    "power_scope", "power_limit_w", "memory_total_bytes",
)  # fmt: skip

_TYPE: Final = pl.Schema(
    {
        **dict.fromkeys(("model", "sku"), pl.String()),
        **dict.fromkeys(("tdp_w", "flop_per_s", "memory_bandwidth_bytes_per_s"), pl.Float64()),
        "sku_currency": pl.String(),
        "fixed_per_h": pl.Float64(),
    }
)


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


def device_types(devices: pl.LazyFrame, fleet: Fleet) -> pl.LazyFrame:
    """
    What is known of the type of each device, from fleet.toml and the built-in list.

    In:  devices: device, model, time; the latest model counts.
    Out: device, model, sku (the type's name; the model where nobody knows it), tdp_w, flop_per_s (dense BF16),
         memory_bandwidth_bytes_per_s, sku_currency and fixed_per_h (capital and running costs of an hour); null where
         nobody told.
    """
    latest = devices.sort("time").group_by("device").agg(pl.col("model").drop_nulls().last()).collect()
    skus = {model: fleet.sku_of(model) for model in latest["model"].drop_nulls().unique()}
    rows = [
        (model, sku.name, sku.tdp_w, sku.flop_per_s, sku.memory_bandwidth_bytes_per_s, sku.currency, sku.fixed_per_h)
        for model, sku in skus.items()
        if sku is not None
    ]
    known = pl.DataFrame(rows, orient="row", schema=_TYPE)
    return latest.join(known, on="model", how="left").with_columns(pl.coalesce("sku", "model")).lazy()


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
