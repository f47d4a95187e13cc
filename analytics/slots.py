"""
Readings as rollups of five minutes tell them: weeks, for whoever would look at readings, in a part of the rows.

What is level over a stretch has a reading at its beginning and one at its end, so the steps between have what the
rollup has: its energy to the joule, its times, its means. A slot is one such stretch, or several: it is cut where
something of its device changes (who holds it), and where a part of it was idle.

How long that was is not in a rollup; its least and its mean utilisation are. It is taken that what was in use was so
as much as at most: then the rest of the slot was idle, or less. Which of the two came first is told by the slots
beside it; the idle part draws the least power that was read in the slot.
"""

from datetime import timedelta
from typing import Final

import polars as pl

from analytics.cells import IDLE_RATIO
from analytics.signals import READ
from analytics.steps import KEYS, NS, TEXT, nanoseconds
from collector import catalogue as c
from collector.store.schema import rollup_column

SLOT_S: Final = 300
"""How long the windows of the rollups are: also how far apart two readings may be that belong together."""
COUNTERS: Final = (c.ENERGY, *(metric for metric in READ if metric.kind is c.Kind.COUNTER))
_GAUGES: Final = (*(metric for metric in READ if metric.kind is c.Kind.GAUGE), c.ROW_REMAP_FAILED)
_MEANS: Final = {metric.column: rollup_column(metric, "mean") for metric in _GAUGES}
_RISES: Final = {metric.column: rollup_column(metric, "increase") for metric in COUNTERS}
_USED: Final = (
    c.UTILIZATION, c.ACTIVITY_SM, c.ACTIVITY_GRAPHICS, c.ACTIVITY_TENSOR, c.ACTIVITY_DRAM, c.PCIE_RX, c.FABRIC_RX,
    c.FABRIC_TX,
)  # fmt: skip
"""What is nothing while a device is idle."""
_OWN: Final = ("series", "length_ns", "idle_ns", "idle_first", "least_w")
"""Columns that are of slots only."""
_SLOT: Final = timedelta(seconds=SLOT_S)
_APART_NS: Final = 1_000_000
"""By so much a stretch ends before the next begins, so that each has readings of its own."""


def of_slots(
    rollups: pl.LazyFrame, edges: pl.LazyFrame, ends: pl.LazyFrame, *, idle_ratio: float = IDLE_RATIO
) -> pl.DataFrame:
    """
    Readings that have what rollups have.

    In:  *rollups*: rows of device_rollups, of windows of `SLOT_S`; *edges*: device, edge: when something of it changes;
         *ends*: device, source, and what `COUNTERS` showed at the end of the rollups, so that readings go on from
         there.
    Out: of `analytics.steps.TEXT`, time, power_w, and of `COUNTERS` and the gauges of `analytics.signals.READ` what
         there is; by device, source and time. For whoever takes steps of up to `SLOT_S` for covered, what is covered is
         as long as in the rollups; a gap of less than that is bridged.
    """
    slots = _read(rollups, idle_ratio)
    parts = _parts(slots, edges)
    twice = pl.int_range(2 * parts.height, eager=True)
    parts = parts[twice // 2].with_columns(last=twice % 2 == 1)
    told = slots[parts["slot"]].hstack(parts.drop("slot"))
    counters = [metric.column for metric in COUNTERS if metric.column in slots.columns]
    idle, mixed, last_one = pl.col("idle"), pl.col("idle_ns") > 0, pl.col("last")
    span = pl.col("to") - pl.col("at")
    used_ns = pl.col("length_ns") - pl.col("idle_ns")
    # Of energy a part has as much as its power makes; of other counters, as its time does.
    part_w = (
        pl.when(idle)
        .then("least_w")
        .otherwise((pl.col("power_w") * pl.col("length_ns") - pl.col("least_w") * pl.col("idle_ns")) / used_ns)
    )
    of_power = span * pl.col("part_w") / (pl.col("length_ns") * pl.col("power_w"))
    shares = {name: span / pl.col("length_ns") for name in counters}
    if c.ENERGY.column in shares:
        shares[c.ENERGY.column] = pl.when(of_power.is_finite()).then(of_power).otherwise(shares[c.ENERGY.column])
    used = [metric.column for metric in _USED if metric.column in slots.columns]
    told = told.with_columns(part_w=pl.when(mixed).then(part_w).otherwise("power_w")).with_columns(
        (pl.col(name) * pl.when(last_one).then(share).otherwise(0.0)).cum_sum().over("series").alias(name)
        for name, share in shares.items()
    )
    anchor = (
        told.lazy()
        .group_by("series")
        .agg(*(pl.col(name).max() for name in counters), *(pl.col(k).first() for k in KEYS))
    )
    shift = anchor.join(ends, on=list(KEYS), how="left", nulls_equal=True, suffix="_end").select(
        "series", *((pl.col(f"{name}_end") - pl.col(name)).fill_null(0.0).alias(f"{name}_shift") for name in counters)
    )
    return (
        told.lazy()
        .join(shift, on="series", maintain_order="left")
        .with_columns(
            *(pl.col(name) + pl.col(f"{name}_shift") for name in counters),
            *(
                pl.when(idle)
                .then(pl.col(name) * 0.0)
                .otherwise(pl.col(name) * pl.col("length_ns") / used_ns)
                .alias(name)
                for name in used
            ),
            power_w="part_w",
            time=(nanoseconds("time") + pl.when(last_one).then(pl.col("to") - _APART_NS).otherwise("at")).cast(
                pl.Datetime("ns")
            ),
        )
        .select(name for name in slots.columns if name not in _OWN)
        .collect()
    )


def _read(rollups: pl.LazyFrame, idle_ratio: float) -> pl.DataFrame:
    """The rollups as rows of means and increases, in order, with how long each is covered and idle."""
    means = {name: pl.col(column) for name, column in (_MEANS | _RISES).items()}
    least, mean, most = (pl.col(rollup_column(c.UTILIZATION, which)) for which in ("min", "mean", "max"))
    with_energy_s = pl.col("energy_covered_s")
    covered_s = pl.when(with_energy_s > 0).then(with_energy_s).otherwise("covered_s")
    rows = (
        rollups.filter(pl.col("covered_s") > 0)
        .select(
            *TEXT, "time", **means, power_w=pl.col("energy_power_j") / pl.col("energy_power_s"),
            least_w=rollup_column(c.POWER, "min"), length_ns=(covered_s * NS).cast(pl.Int64),
            # A step from idle to use is of use: of so many readings, one step less.
            idle=pl.when((least <= idle_ratio) & (mean > idle_ratio))
            .then(1 - mean / most - 1 / pl.col("rows"))
            .clip(0.0, 0.99),
            busy=mean,
        )
        .sort(*KEYS, "time")
        .collect()
    )  # fmt: skip
    absent = [name for name in (*_MEANS, *_RISES) if rows[name].null_count() == rows.height]
    bare_ns = SLOT_S * NS - pl.col("length_ns")
    later = pl.col("busy").shift(-1) >= pl.col("busy").shift(1)
    return (
        rows.drop(absent).with_columns(
            series=pl.struct(KEYS).rle_id(), idle_first=later.fill_null(True),
            idle_ns=(pl.col("length_ns") * pl.col("idle").fill_null(0.0)).cast(pl.Int64),
        )
        # Where nothing was read in the slot before, what is covered of a slot is its end.
        .with_columns(time=pl.col("time") + pl.when(_goes_on()).then(0).otherwise(bare_ns).cast(pl.Duration("ns")))
        .drop("idle", "busy")
    )  # fmt: skip


def _goes_on() -> pl.Expr:
    """Whether the slot before is of the row before."""
    same = (pl.col("series") == pl.col("series").shift(1)) & (pl.col("time").diff() == pl.lit(_SLOT))
    return same.fill_null(False)


def _parts(slots: pl.DataFrame, edges: pl.LazyFrame) -> pl.DataFrame:
    """
    The stretches of slots.

    Out: slot (its row), at, to: nanoseconds from its beginning, idle; in order.
    """
    rows = slots.lazy().select("device", "time", "length_ns", "idle_ns", "idle_first").with_row_index("slot")
    edges = edges.select("device", "edge", slot_time=pl.col("edge").cast(pl.Datetime("ns")).dt.truncate(_SLOT))
    inside = (
        edges.unique()
        .join(rows.with_columns(slot_time=pl.col("time").dt.truncate(_SLOT)), on=["device", "slot_time"])
        .with_columns(at=nanoseconds("edge") - nanoseconds("time"))
        .filter((pl.col("at") > 0) & (pl.col("at") < pl.col("length_ns")))
    )
    idle = rows.filter(pl.col("idle_ns") > 0).select(
        "slot", at=pl.when("idle_first").then("idle_ns").otherwise(pl.col("length_ns") - pl.col("idle_ns"))
    )
    cuts = pl.concat([rows.select("slot", at=pl.lit(0, pl.Int64)), idle, inside.select("slot", "at")], how="vertical")
    to = pl.when(pl.col("slot").shift(-1) == pl.col("slot")).then(pl.col("at").shift(-1)).otherwise("length_ns")
    middle, border = (pl.col("at") + pl.col("to")) / 2, pl.col("length_ns") - pl.col("idle_ns")
    return (
        cuts.unique()
        .sort("slot", "at")
        .join(rows.select("slot", "length_ns", "idle_ns", "idle_first"), on="slot", maintain_order="left")
        .with_columns(to=to)
        .filter(pl.col("to") - pl.col("at") > 2 * _APART_NS)
        .select(
            "slot", "at", "to",
            idle=pl.when("idle_first").then(middle < pl.col("idle_ns")).otherwise(middle > border),
        )
        .collect()
    )  # fmt: skip
