"""
What readings tell of how a device was used, step by step: activity, links, and the time that held-down clocks cost.

A step's value is the mean of its two ends, as its energy has it. Clocks that are held down cost of each second one less
the clock over the highest clock: at half the clock half the work is lost, whatever the power.
"""

from collections.abc import Iterator
from typing import Final

import polars as pl

from analytics.steps import GROUP, difference, in_order, nanoseconds
from collector import catalogue as c
from collector.gaps import LONGEST_GAP_S, MAX_COUNTER_GAP_S

CAPPED: Final = 0.99
"""A power limit below this share of the one that the device ships with is a cap."""
REASONS: Final = ("thermal", "power_brake", "hardware", "power_cap", "sync")
"""Why clocks were held down. Where reasons overlap, the first has the time."""
GAUGES: Final = {
    "utilization": (c.UTILIZATION,),
    "sm": (c.ACTIVITY_SM,),
    "graphics": (c.ACTIVITY_GRAPHICS,),
    "tensor": (c.ACTIVITY_TENSOR,),
    "dram": (c.ACTIVITY_DRAM,),
    "clock": (c.CLOCK_SM, c.CLOCK_GRAPHICS),
    "clock_max": (c.CLOCK_SM_MAX, c.CLOCK_GRAPHICS_MAX),
    "limit": (c.POWER_LIMIT,),
    "limit_default": (c.POWER_LIMIT_DEFAULT,),
    "pcie_rx": (c.PCIE_RX,),
    "generation": (c.PCIE_GENERATION,),
    "width": (c.PCIE_WIDTH,),
    "fabric_rx": (c.FABRIC_RX,),
    "fabric_tx": (c.FABRIC_TX,),
}
"""What a step tells of a device besides its energy, and the metrics that tell it, the first that was read."""

_THROTTLING: Final = {
    "thermal": (
        (c.THROTTLE_THERMAL, c.THROTTLING_THERMAL),
        (c.THROTTLE_THERMAL_HARDWARE, c.THROTTLING_THERMAL_HARDWARE),
    ),
    "power_brake": ((c.THROTTLE_POWER_BRAKE, c.THROTTLING_POWER_BRAKE),),
    "hardware": ((None, c.THROTTLING_HARDWARE),),
    "power_cap": ((c.THROTTLE_POWER, c.THROTTLING_POWER),),
    "sync": ((c.THROTTLE_SYNC, c.THROTTLING_SYNC),),
}
"""For each reason the counter of seconds and the flag that tell of it; those of a reason may overlap."""

_NS: Final = 1_000_000_000


def signals(samples: pl.LazyFrame, types: pl.LazyFrame | None = None) -> pl.LazyFrame:
    """
    What each step of each series tells.

    In:  device, time, and what there is of source and the metrics of `GAUGES` and of throttling. Any row order.
         *types*: device, tdp_w (`analytics.inventory.device_types`), for default power limits that are not read.
    Out: part (the device or partition), time (the step's end), span_s, a column for each of `GAUGES` (null where not
         read), and for each of `REASONS` a share of the time lost (lost_thermal, ...). Steps over gaps are left out.

    A power limit holds clocks down for the reason ``power_cap`` only where it is below the one that the device ships
    with; at that one the device gives what it was bought for. A clock that an operator set is a choice, no loss.
    """
    known = samples.collect_schema().names()

    def read(metric: c.Metric | None) -> pl.Expr:
        return pl.col(metric.column) if metric and metric.column in known else pl.lit(None, pl.Float64)

    of_all = [pair for pairs in _THROTTLING.values() for pair in pairs]
    counters = [counter for counter, _ in of_all if counter and counter.column in known]
    source = pl.col("source") if "source" in known else pl.lit(None, pl.String)
    rows = samples.select(
        "time", part="device", source=source,
        **{name: pl.coalesce(*(read(metric) for metric in metrics)) for name, metrics in GAUGES.items()},
        **{counter.column: read(counter) for counter in counters},
        **{flag.column: read(flag) for _, flag in of_all},
    )  # fmt: skip
    if types is not None:
        rows = rows.join(types.select("tdp_w", part="device"), on="part", how="left")
        rows = rows.with_columns(limit_default=pl.coalesce("limit_default", "tdp_w"))
    rows = in_order(rows, ("part", "source"), [counter.column for counter in counters])
    same = pl.col(GROUP) == pl.col(GROUP).shift(1)
    span_s = (nanoseconds("time") - nanoseconds("time").shift(1)) / _NS
    rises = {counter: difference(counter.column, MAX_COUNTER_GAP_S, float("inf")) for counter in counters}

    def held_down(reason: str) -> pl.Expr:
        """The share of the step in which clocks were held down: by the counter where it was read, else by the flag."""
        told = []
        for counter, flag in _THROTTLING[reason]:
            if counter in rises:
                risen, covered = rises[counter]
                told.append(pl.when(covered > 0).then(risen / covered).otherwise(_middle(flag.column)))
            else:
                told.append(_middle(flag.column))
        share = pl.max_horizontal(told).clip(0.0, 1.0).fill_null(0.0)
        if reason == "power_cap":
            capped = pl.col("limit") < CAPPED * pl.col("limit_default")
            share = pl.when(capped).then(share).otherwise(0.0)
        return share

    return (
        rows.with_columns(
            *(_middle(name).alias(name) for name in GAUGES if name not in {"limit", "limit_default", "clock_max"}),
            *(held_down(reason).alias(f"held_{reason}") for reason in REASONS),
            span_s=pl.when(same).then(span_s),
        )
        .with_columns(clock_max=pl.coalesce("clock_max", pl.col("clock").max().over("part")))
        .filter((pl.col("span_s") > 0) & (pl.col("span_s") <= LONGEST_GAP_S))
        .with_columns(_losses())
        .select("part", "time", "span_s", *GAUGES, *(f"lost_{reason}" for reason in REASONS))
    )


def _middle(column: str) -> pl.Expr:
    """The mean of a step's two ends; the later one's where the earlier was not read."""
    earlier = pl.when(pl.col(GROUP) == pl.col(GROUP).shift(1)).then(pl.col(column).shift(1))
    return (pl.col(column) + earlier.fill_null(pl.col(column))) / 2


def _losses() -> Iterator[pl.Expr]:
    """
    The share of the time that clocks held down cost, by reason: time times one less the clock over the highest.

    Where reasons overlap, the first of `REASONS` has the time. Without a clock nothing is known to be lost.
    """
    slower = 1.0 - pl.col("clock") / pl.when(pl.col("clock_max") > 0).then("clock_max")
    slower = slower.clip(0.0, 1.0).fill_null(0.0)
    left = pl.lit(1.0)
    for reason in REASONS:
        share = pl.min_horizontal(pl.col(f"held_{reason}"), left)
        left = left - share
        yield (share * slower).alias(f"lost_{reason}")
