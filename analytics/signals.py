"""
What readings tell of how a device was used: activity, links, and the time that held-down clocks cost.

A step's value is the mean of its two ends, as its energy has it. Clocks that are held down cost of each second one less
the clock over the highest clock: at half the clock half the work is lost, whatever the power.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from analytics.cells import Cut, own_edges
from analytics.steps import GROUP, NS, Floats, Ints, Ordered, difference, ordered
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

READ: Final = tuple(
    dict.fromkeys(
        metric
        for metrics in (*GAUGES.values(), *(pair for told in _THROTTLING.values() for pair in told))
        for metric in metrics
        if metric is not None
    )
)
"""All that is looked at here."""
PCIE_LANE_BYTES_PER_S: Final = {1: 0.25e9, 2: 0.5e9, 3: 0.985e9, 4: 1.969e9, 5: 3.938e9, 6: 7.563e9}
"""What a lane carries in one direction, by PCIe generation, after line coding (PCI-SIG)."""
BLOCK_ROWS: Final = 32_768
"""Rows that are worked on at once; their arrays, 256 kB each, stay in the cache."""
MEANS: Final = (
    "activity_ratio", "utilization_ratio", "dram_ratio", "pcie_ratio", "fabric_bytes_per_s",
    *(f"lost_{reason}" for reason in REASONS),
)  # fmt: skip
"""What is averaged over the time in which a device was in use."""


def sums(
    samples: pl.LazyFrame, types: pl.LazyFrame | None = None, *, edges: pl.DataFrame, length_s: float, idle_ratio: float
) -> pl.DataFrame:
    """
    What the steps of each series tell, added up between edges: *edges* (device, edge) and those of windows.

    In:  device, time, and what there is of source and the metrics of `GAUGES` and of throttling. Any row order.
         *types*: device, tdp_w (`analytics.inventory.device_types`), for default power limits that are not read.
         *length_s*: of the windows. *idle_ratio*: a step of which no more was in use was idle.
    Out: part (the device or partition), time (the end of the last step), told_s and idle_s: seconds with utilisation
         and those of them that were idle, judged (whether compute units or tensor pipes were read), and of the steps
         that were not idle, for each of `MEANS`, its integral and, as <name>_s, the seconds in which it was known. A
         step counts where it ends, one that ends on an edge before it; steps over gaps count nowhere.

    A power limit holds clocks down for the reason ``power_cap`` only where it is below the one that the device ships
    with; at that one the device gives what it was bought for. A clock that an operator set is a choice, no loss.
    """
    rows = _read(samples, types)
    if rows.is_empty():
        return pl.DataFrame(schema=_SUMS)
    found = ordered(rows)
    highest, (series, edge) = _highest(found), own_edges(found.heads, edges)
    order = np.argsort(series, kind="stable")
    series, edge = series[order], edge[order]
    done: list[dict[str, NDArray[Any]]] = []
    for low, high, block in _blocks(found):
        a, b = np.searchsorted(series, (low, high))
        own = series[a:b] - low, edge[a:b]
        told = _of_block(block, highest[low:high], own, round(length_s * NS), idle_ratio)
        told["last"] += found.starts[low]
        done.append(told)
    totals = {name: np.concatenate([told[name] for told in done]) for name in done[0]}
    last = totals.pop("last")
    words = {name: found.rows[column].gather(last) for name, column in (("part", "device"), ("time", "time"))}
    absent = [name for name in _SUMS if name not in words and name not in totals]
    of_stretches = pl.DataFrame({**words, **totals}).with_columns(pl.lit(0.0).alias(name) for name in absent)
    return of_stretches.filter(pl.col("steps_s") > 0).select(_SUMS.names())


def _blocks(found: Ordered) -> Iterator[tuple[int, int, Ordered]]:
    """
    Some series at a time: the numbers of the first and of the one after the last, and their rows.

    What is worked out of a block stays in the processor's cache, which makes it four times as fast.
    """
    ends, low = found.ends + 1, 0
    while low < ends.size:
        first = found.starts[low]
        high = max(low + 1, int(np.searchsorted(ends, first + BLOCK_ROWS, side="right")))
        rows = found.rows.slice(first, ends[high - 1] - first)
        yield low, high, Ordered(rows, found.starts[low:high] - first)
        low = high


def _highest(found: Ordered) -> Floats:
    """The highest clock that any source of the device of each series saw; NaN without one."""
    if "clock" not in found.rows.columns:
        return np.full(found.starts.size, np.nan)
    clock = found.heads.with_columns(
        pl.Series("clock", np.fmax.reduceat(found.rows["clock"].to_numpy(), found.starts), nan_to_null=True)
    )
    return clock.select(pl.col("clock").max().over("device")).to_series().to_numpy()


def _of_block(
    found: Ordered, highest: Floats, own: tuple[Ints, Ints], length: int, idle_ratio: float
) -> dict[str, NDArray[Any]]:
    """Of each stretch between edges its last row, the seconds of its steps, and what there is of `_SUMS`."""
    longest = found.span > round(LONGEST_GAP_S * NS)
    cut = Cut.of(found, longest, [length], own)
    told = _Told(found, highest)
    # Rows of a series between two edges are neighbours.
    starts = np.flatnonzero(np.append(True, cut.end[1:] != cut.end[:-1]))
    span_s = np.where(longest, 0.0, found.span / NS)
    totals: dict[str, Floats] = {"steps_s": np.add.reduceat(span_s, starts)}
    utilization = told.middle("utilization")
    used_s = span_s
    if utilization is not None:
        idle = utilization <= idle_ratio
        used_s = np.where(idle, 0.0, span_s)
        totals["told_s"] = np.add.reduceat(np.where(np.isnan(utilization), 0.0, span_s), starts)
        totals["idle_s"] = totals["steps_s"] - np.add.reduceat(used_s, starts)
    used = np.add.reduceat(used_s, starts)
    for name, values in told.means():
        if values is None:
            continue
        unknown = np.isnan(values)
        if unknown.any():
            totals[name] = np.add.reduceat(np.where(unknown, 0.0, values * used_s), starts)
            totals[f"{name}_s"] = np.add.reduceat(np.where(unknown, 0.0, used_s), starts)
        else:
            totals[name], totals[f"{name}_s"] = np.add.reduceat(values * used_s, starts), used
    judged = np.zeros(starts.size, bool)
    for name in ("sm", "tensor"):
        if told.has(name):
            judged |= np.add.reduceat(~np.isnan(told.read(name)) & (span_s > 0), starts) > 0
    last = np.append(starts[1:], found.time.size) - 1
    return {"last": last, "judged": judged, **totals}


_SUMS: Final = pl.Schema(
    {
        "part": pl.String(),
        "time": pl.Datetime("ns"),
        "judged": pl.Boolean(),
        **dict.fromkeys(("told_s", "idle_s", *(f"{name}{end}" for name in MEANS for end in ("", "_s"))), pl.Float64()),
    }
)


def _read(samples: pl.LazyFrame, types: pl.LazyFrame | None) -> pl.DataFrame:
    """Device, source, time, and what was read of gauges (by their names here), counters and flags."""
    known = samples.collect_schema().names()
    pairs = [metric.column for told in _THROTTLING.values() for pair in told for metric in pair if metric]
    gauges = {
        name: pl.coalesce(pl.col(metric.column).cast(pl.Float64) for metric in metrics if metric.column in known)
        for name, metrics in GAUGES.items()
        if any(metric.column in known for metric in metrics)
    }
    rows = samples.select(
        "device",
        pl.col("source") if "source" in known else pl.lit(None, pl.String).alias("source"),
        pl.col("time").cast(pl.Datetime("ns")),
        **gauges,
        **{column: pl.col(column).cast(pl.Float64) for column in pairs if column in known},
    ).collect()
    if types is not None:
        default = "limit_default" if "limit_default" in gauges else pl.lit(None, pl.Float64)
        rows = rows.join(types.select("device", "tdp_w").collect(), on="device", how="left", maintain_order="left")
        rows = rows.with_columns(limit_default=pl.coalesce(default, "tdp_w")).drop("tdp_w")
    # Most devices lack most of it.
    return rows.select(column for column in rows.iter_columns() if column.null_count() < column.len() or
                       column.name in {"device", "source", "time"})  # fmt: skip


@dataclass(frozen=True)
class _Told:
    """
    What each row tells; NaN where it was not read, None where it never was.

    highest: the highest clock of the device of each series.
    """

    found: Ordered
    highest: Floats

    def has(self, column: str) -> bool:
        """Whether it was ever read."""
        return column in self.found.rows.columns

    def read(self, column: str) -> Floats:
        """What was read with each row."""
        return self.found.rows[column].to_numpy()

    def middle(self, column: str) -> Floats | None:
        """The mean of a step's two ends; the later one's where the earlier was not read."""
        if not self.has(column):
            return None
        later = self.read(column)
        earlier = np.empty_like(later)
        earlier[1:] = later[:-1]
        earlier[self.found.starts] = later[self.found.starts]
        unread = np.isnan(earlier)
        if unread.any():
            earlier = np.where(unread, later, earlier)
        return (later + earlier) / 2

    def means(self) -> Iterator[tuple[str, Floats | None]]:
        """Each of `MEANS`."""
        utilization = self.middle("utilization")
        activity = _first(self.middle("sm"), self.middle("graphics"), utilization)
        yield "activity_ratio", _greatest(activity, self.middle("tensor"))
        yield "utilization_ratio", utilization
        yield "dram_ratio", self.middle("dram")
        yield "pcie_ratio", self._pcie()
        yield "fabric_bytes_per_s", _greatest(self.middle("fabric_rx"), self.middle("fabric_tx"))
        for reason, lost in zip(REASONS, self._lost(), strict=True):
            yield f"lost_{reason}", lost

    def _pcie(self) -> Floats | None:
        """What goes over the link, of what it carries."""
        read, generation, width = (self.middle(name) for name in ("pcie_rx", "generation", "width"))
        if read is None or generation is None or width is None:
            return None
        lane, number = np.full(read.size, np.nan), np.round(generation)
        for known, carries in PCIE_LANE_BYTES_PER_S.items():
            lane[number == known] = carries
        carried: Floats = read / (lane * np.where(width > 0, width, np.nan))
        return carried

    def _lost(self) -> Iterator[Floats | None]:
        """
        The share of the time that clocks held down cost, by reason: time times one less the clock over the highest.

        Where reasons overlap, the first of `REASONS` has the time. Without a clock nothing is known to be lost.
        """
        slower = self._slower()
        left: Floats | None = None
        for reason in REASONS:
            share = None if slower is None else self._held_down(reason)
            if share is None or slower is None:
                yield None
                continue
            share = share if left is None else np.minimum(share, left)
            left = (1.0 if left is None else left) - share
            yield share * slower

    def _slower(self) -> Floats | None:
        clock = self.middle("clock")
        if clock is None:
            return None
        most = self.highest[self.found.series]
        if self.has("clock_max"):
            most = _known(self.read("clock_max"), most)
        slower = 1.0 - clock / np.where(most > 0, most, np.nan)
        return np.where(np.isnan(slower), 0.0, np.clip(slower, 0.0, 1.0))

    def _held_down(self, reason: str) -> Floats | None:
        """The share of each step in which clocks were held down: by the counter where it was read, else by the flag."""
        share = None
        for counter, flag in _THROTTLING[reason]:
            told = self.middle(flag.column)
            if counter is not None and self.has(counter.column):
                told = self._by_counter(counter.column, told)
            share = _greatest(share, told)
        if share is None:
            return None
        share = np.where(np.isnan(share), 0.0, np.clip(share, 0.0, 1.0))
        if reason == "power_cap":
            if not (self.has("limit") and self.has("limit_default")):
                return None
            share = np.where(self.read("limit") < CAPPED * self.read("limit_default"), share, 0.0)
        return share

    def _by_counter(self, column: str, otherwise: Floats | None) -> Floats:
        rows = self.found.rows.select("time", column).with_columns(pl.Series(GROUP, self.found.series))
        risen, covered = difference(column, MAX_COUNTER_GAP_S, float("inf"))
        told = rows.select(risen=risen, covered=covered)
        risen_s, covered_s = (told[name].to_numpy() for name in ("risen", "covered"))
        counted = covered_s > 0
        return np.where(
            counted, risen_s / np.where(counted, covered_s, 1.0), np.nan if otherwise is None else otherwise
        )


def _known(value: Floats, otherwise: Floats) -> Floats:
    return np.where(np.isnan(value), otherwise, value)


def _first(*values: Floats | None) -> Floats | None:
    """The first that is known."""
    found: Floats | None = None
    for value in values:
        if value is not None:
            found = value if found is None else _known(found, value)
    return found


def _greatest(one: Floats | None, other: Floats | None) -> Floats | None:
    """The greatest of what is known."""
    if one is None or other is None:
        return other if one is None else one
    return np.fmax(one, other)
