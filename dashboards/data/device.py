"""What the Device page shows: everything of one device over a window."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import polars as pl

from analytics.boards import calibrated
from analytics.capacity.tree import trees
from analytics.energy import over_time
from analytics.fleet import Fleet
from analytics.frames import scan
from analytics.inventory import held
from analytics.known import column_sum
from analytics.quality import EVENTS, quality
from analytics.steps import NUMBERS, TEXT, readings, usual_period_s
from collector.catalogue import (
    ACTIVITY_DRAM,
    ACTIVITY_SM,
    ACTIVITY_TENSOR,
    CATALOGUE,
    CLOCK_MEMORY,
    CLOCK_SM,
    POWER,
    TEMPERATURE,
    TEMPERATURE_MEMORY,
    UTILIZATION,
    UTILIZATION_MEMORY,
    Kind,
    Metric,
)
from dashboards.controls import Values
from dashboards.data import incidents
from dashboards.data.fleet import STEPS_S, bucket_s
from dashboards.data.stored import NS, Stored, utc
from dashboards.selection import selection_of

USE: Final = (UTILIZATION, ACTIVITY_SM, ACTIVITY_TENSOR, ACTIVITY_DRAM, UTILIZATION_MEMORY)
CLOCKS: Final = (CLOCK_SM, CLOCK_MEMORY)
TEMPERATURES: Final = (TEMPERATURE, TEMPERATURE_MEMORY)
REASONS: Final = tuple(
    metric
    for metric in CATALOGUE
    if metric.name.startswith(("throttling_", "throttle_")) and not metric.name.endswith(("idle", "low_utilization"))
)
"""What holds clocks down; that nothing runs does not."""
_MEANS: Final = (*USE, *CLOCKS, *TEMPERATURES)
_LIMIT: Final = "power_limit_w"
_READ: Final = tuple(
    dict.fromkeys((*TEXT, "time", *NUMBERS, _LIMIT, *(metric.column for metric in (*_MEANS, *REASONS))))
)
"""What is read of the samples."""
_OF_WORKLOADS: Final = ("workload", "name", "user", "team", "start", "end", "share")
_TABLES: Final = ("device_samples", "<devices", "<allocations", "<events", "<calibrations", "<incidents")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceView:
    """
    One device in one window; None and empty is what was not measured.

    told: what it last said of itself. power: window, power_mean_w, power_min_w, power_max_w, covered_ratio.
    limit: time, power_limit_w where it changed. means: window and the mean of each of `USE`, `CLOCKS`, `TEMPERATURES`,
    by column. throttled: window, reason, ratio (of the window's time). workloads: workload, name, user, team, start,
    end, share. incidents: as `analytics.anomalies.listed`. place: what it is in, from its rack up, as (kind, name).
    quality: its row of `analytics.quality.quality`.
    """

    device: str
    told: Mapping[str, Any]
    start: datetime
    end: datetime
    every_s: int
    power: pl.DataFrame
    limit: pl.DataFrame
    means: pl.DataFrame
    throttled: pl.DataFrame
    workloads: pl.DataFrame
    incidents: pl.DataFrame
    place: tuple[tuple[str, str], ...]
    quality: Mapping[str, Any]
    power_now_w: float | None
    read_at: datetime | None
    energy_j: float | None
    covered_ratio: float
    counter_ratio: float | None
    hottest_c: float | None


def view(stored: Stored, values: Values) -> DeviceView | None:
    """
    The device and window that the page's controls ask for; None where the device is not known.

    Raises: StoreError, ConfigError (fleet.toml).
    """
    device, selection = str(values["id"]), selection_of(values)
    end_ns = selection.at(stored.now_ns())
    every_s = bucket_s(selection.window_s)
    start_ns = (end_ns - selection.window_s * NS) // (every_s * NS) * every_s * NS
    end_ns = end_ns if selection.until is not None else end_ns // NS * NS + NS
    fits = stored.version(("calibrations",), None, None)
    key = ("device", device, start_ns, selection.until, stored.version(_TABLES, start_ns, end_ns), fits)
    return stored.kept(key, lambda: _work_out(stored, device, start_ns, end_ns, every_s))


def known(stored: Stored) -> list[str]:
    """All devices that ever described themselves, and those of the last hour's readings."""
    newest_ns = stored.newest_ns() or 0
    hour = newest_ns - 3600 * NS, newest_ns + NS
    key = ("devices", stored.version(("<devices", "device_samples"), *hour))
    return stored.kept(key, lambda: _known(stored, *hour))


def _known(stored: Stored, start_ns: int, end_ns: int) -> list[str]:
    seen = scan(stored.store(), "device_samples", start_ns, end_ns).select("device").unique().collect()["device"]
    return sorted({*stored.boards().select("device").collect()["device"], *seen})


def _work_out(stored: Stored, device: str, start_ns: int, end_ns: int, every_s: int) -> DeviceView | None:
    store = stored.store()
    mine = pl.col("device") == device
    samples = scan(store, "device_samples", start_ns, end_ns, mine, columns=_READ).collect()
    board = stored.boards().filter(mine).collect().lazy()
    described = board.sort("time").last().collect()
    if samples.is_empty() and described.is_empty() and device not in known(stored):
        return None
    told = described.row(0, named=True) if described.height else {}
    rows = readings(samples.lazy()).collect()
    # No finer than the readings: what lies between two of them is not a gap.
    least_s = max(every_s, usual_period_s(rows))
    every_s = next((step for step in STEPS_S if step >= least_s), every_s)
    drawn = readings(calibrated(samples.lazy(), board)).collect()
    found = over_time([drawn], every_s=every_s, by=("device",), within_ns=(start_ns, end_ns), devices=board)
    used = found.devices
    joules, covered_s = column_sum(used, "energy_j"), float(used["covered_s"].sum() or 0.0)
    one = _one_source(samples)
    last = samples.drop_nulls(POWER.column).sort("time").tail(1)
    seen = samples["host"].drop_nulls()
    host = told.get("host") or (str(seen[0]) if seen.len() else None)
    before = pl.col("time").to_physical() < end_ns
    judged = quality(
        [rows],
        devices=board,
        events=_lost(stored).filter((pl.col("host") == pl.lit(host, pl.String)) & before).lazy(),
        calibrations=_fits(stored).filter(mine & before).lazy(),
        start_ns=start_ns,
        end_ns=end_ns,
    ).filter(mine)
    work = _workloads(stored, device, start_ns, end_ns)
    return DeviceView(
        device=device,
        told={**told, "host": host},
        start=utc(start_ns),
        end=utc(end_ns),
        every_s=every_s,
        power=found.power["device"].sort("window"),
        limit=_changes(one, _LIMIT),
        means=_means(one, every_s),
        throttled=_throttled(one, every_s),
        workloads=work,
        incidents=incidents.of_device(stored, device, work["workload"].drop_nulls().unique(), start_ns, end_ns),
        place=_place(stored.fleet(), host),
        quality=judged.row(0, named=True) if judged.height else {},
        power_now_w=last[POWER.column].item() if last.height else None,
        read_at=utc(int(last["time"].cast(pl.Int64).item())) if last.height else None,
        energy_j=joules,
        covered_ratio=covered_s / ((end_ns - start_ns) / NS),
        counter_ratio=(float(used["counter_j"].sum() or 0.0) / joules) if joules else None,
        hottest_c=_most(one, TEMPERATURE.column),
    )


def _one_source(samples: pl.DataFrame) -> pl.DataFrame:
    """The readings of the source that read most."""
    most = samples.group_by("source").len().sort("len", "source", descending=[True, False])
    return samples.sort("time") if most.height < 2 else samples.filter(source=most["source"][0]).sort("time")


def _means(samples: pl.DataFrame, every_s: int) -> pl.DataFrame:
    return (
        samples.group_by(window=pl.col("time").dt.truncate(f"{every_s}s"))
        .agg(pl.col(metric.column).mean() for metric in _MEANS)
        .sort("window")
    )


def _changes(samples: pl.DataFrame, column: str) -> pl.DataFrame:
    """The first and the last value of *column*, and where it changed."""
    rows = samples.select("time", column).drop_nulls()
    value = pl.col(column)
    return rows.filter(value.ne_missing(value.shift(1)) | value.ne_missing(value.shift(-1)))


def reason_of(metric: Metric) -> str:
    """
    What holds clocks down, by the metric that tells it.

    >>> from collector.catalogue import THROTTLING_POWER
    >>> reason_of(THROTTLING_POWER)
    'power'
    """
    return metric.name.removeprefix("throttling_").removeprefix("throttle_").replace("_", " ")


def _throttled(samples: pl.DataFrame, every_s: int) -> pl.DataFrame:
    """The share of each window in which each reason held clocks down: by its counter where there is one."""
    told = _told_by(samples)
    if not told:
        return pl.DataFrame(schema={"window": pl.Datetime("ns"), "reason": pl.String, "ratio": pl.Float64})
    counters = [metric for metric in told if metric.kind is Kind.COUNTER]
    rise = {metric.column: pl.col(metric.column).diff() for metric in counters}
    # A fall is a reset of the counter, and tells nothing of its step.
    stepped = samples.with_columns(
        *(pl.when(value >= 0).then(value).alias(column) for column, value in rise.items()),
        span_s=pl.col("time").diff().dt.total_nanoseconds() / NS,
    )
    wide = stepped.group_by(window=pl.col("time").dt.truncate(f"{every_s}s")).agg(
        (
            (pl.col(metric.column).sum() / pl.col("span_s").filter(pl.col(metric.column).is_not_null()).sum())
            if metric.kind is Kind.COUNTER
            else pl.col(metric.column).mean()
        ).alias(reason_of(metric))
        for metric in told
    )
    return (
        wide.unpivot(index="window", variable_name="reason", value_name="ratio")
        .drop_nulls()
        .filter(pl.col("ratio").is_not_nan())
        .with_columns(pl.col("ratio").clip(0.0, 1.0))
        .sort("window", "reason")
    )


def _told_by(samples: pl.DataFrame) -> list[Metric]:
    """Of each reason the metric that tells it: its counter, which misses nothing between two readings, or its flag."""
    found: dict[str, Metric] = {}
    for metric in REASONS:
        if samples[metric.column].count() and (metric.kind is Kind.COUNTER or reason_of(metric) not in found):
            found[reason_of(metric)] = metric
    return list(found.values())


def _lost(stored: Stored) -> pl.DataFrame:
    """All events that tell why something was not read."""
    key = ("lost and back", stored.version(("<events",), None, None))
    return stored.kept(key, lambda: scan(stored.store(), "events", where=pl.col("kind").is_in(EVENTS)).collect())


def _fits(stored: Stored) -> pl.DataFrame:
    """All calibrations."""
    key = ("fits", stored.version(("<calibrations",), None, None))
    return stored.kept(key, lambda: scan(stored.store(), "calibrations").collect())


def _holding(stored: Stored, start_ns: int) -> pl.DataFrame:
    """What was told of the allocations that were not over at *start_ns*, of all devices."""
    key = ("holding", start_ns, stored.version(("<allocations",), None, None))
    return stored.kept(key, lambda: _read_holding(stored, start_ns))


def _read_holding(stored: Stored, start_ns: int) -> pl.DataFrame:
    told = scan(stored.store(), "allocations", columns=("time", "device", *_OF_WORKLOADS)).collect()
    since = pl.col("time").to_physical() > start_ns
    goes_on = pl.col("end").is_null() | (pl.col("end").to_physical() > start_ns)
    last = told.filter(~since).sort("time").unique(["workload", "device", "start"], keep="last", maintain_order=True)
    return pl.concat([last.filter(goes_on), told.filter(since)])


def _workloads(stored: Stored, device: str, start_ns: int, end_ns: int) -> pl.DataFrame:
    told = (pl.col("device") == device) & (pl.col("time").to_physical() < end_ns)
    return (
        held(_holding(stored, start_ns).filter(told).lazy(), start_ns, end_ns)
        .select(_OF_WORKLOADS)
        .sort("start", "workload", descending=[True, False])
        .collect()
    )


def _place(fleet: Fleet | None, host: str | None) -> tuple[tuple[str, str], ...]:
    """What a host is in: its rack, what feeds that, level by level, its site."""
    if fleet is None or host is None:
        return ()
    site = fleet.site_of([host]).get(host)
    if site is None:
        return ()
    tree = next(tree for tree in trees(fleet) if tree.site.name == site)
    rack = fleet.rack_of([host]).get(host)
    found = [("rack", rack)] if rack is not None else []
    level = list(tree.racks[rack]) if rack is not None else []
    seen = set[str]()
    while level:
        nodes = [tree.nodes[tree.at[name]] for name in level if name not in seen]
        found += [(node.kind, node.name) for node in nodes if node.kind != "site"]
        seen |= {node.name for node in nodes}
        level = list(dict.fromkeys(parent for node in nodes for parent in node.parents))
    return (*found, ("site", site))


def _most(frame: pl.DataFrame, column: str) -> float | None:
    most = frame[column].max()
    return float(most) if isinstance(most, int | float) else None
