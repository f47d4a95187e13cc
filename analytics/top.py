"""What devices, hosts and workloads do now, in a line each: the data of ``perfwatt top``."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import polars as pl

from analytics.efficiency import efficiency
from analytics.frames import scan
from analytics.inventory import held
from analytics.known import mean_of, sum_of
from analytics.subjects import By

_NS: Final = 1_000_000_000
_NOW: Final = (
    "power_w",
    "power_limit_w",
    "utilization_ratio",
    "temperature_c",
    "memory_used_bytes",
    "memory_total_bytes",
)
_DAY_NS: Final = 86_400 * _NS
STALE_PERIODS: Final = 3.5
"""A device that was not read for this many of its own periods is stale: three misses are no accident."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """
    One device, host or workload, now; None is what was not measured.

    `trend` is the mean of each part of the window, the oldest first: watts, or of a workload tokens per second. `age_s`
    is the time since the last reading (None: none in the window) and `stale` whether that is too long.
    """

    name: str
    about: str = ""
    power_w: float | None = None
    power_limit_w: float | None = None
    utilization_ratio: float | None = None
    temperature_c: float | None = None
    memory_ratio: float | None = None
    devices: int = 1
    tokens_per_s: float | None = None
    joules_per_token: float | None = None
    age_s: float | None = None
    stale: bool = False
    modelled: bool = False
    host: str = ""
    trend: tuple[float | None, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """
    All lines of one kind, and what they sum to; `power_w` is of devices that are not stale.

    `trouble` is what whoever looks should know besides: what could not be read.
    """

    by: By
    now_ns: int
    window_s: float
    lines: tuple[Line, ...] = ()
    power_w: float | None = None
    devices: int = 0
    stale: int = 0
    modelled: int = 0
    unit: str = field(default="W")
    trouble: str = ""


def overview(root: Path | str, *, by: By, now_ns: int, window_s: float = 600.0, parts: int = 20) -> Overview:
    """
    What the store at *root* tells of the *window_s* before *now_ns*, in *parts* for the trend.

    Raises: StoreError.
    """
    start_ns = now_ns - round(window_s * _NS)
    samples = scan(root, "device_samples", start_ns, now_ns + 1)
    known = scan(root, "devices", None, now_ns + 1)
    part_ns = max((now_ns - start_ns) // parts, 1)
    found = _devices(samples, start_ns, part_ns)
    told = _told(known)
    lines = [_device_line(row, told.get(row["device"], {}), parts, now_ns) for row in found.iter_rows(named=True)]
    hosts, seen = set(found["host"].to_list()), {line.name for line in lines}
    for device, facts in told.items():
        # Silent, though it was described today or its host is heard of: a device that is missing must be seen to be.
        if device not in seen and (facts["host"] in hosts or now_ns - facts["told_ns"] < _DAY_NS):
            lines.append(_silent_line(device, facts, parts))
    parts_of = {device for device, facts in told.items() if facts["parent"] is not None}
    whole = [line for line in lines if line.name not in parts_of]
    if by is By.HOST:
        shown = _host_lines(whole, parts)
    elif by is By.WORKLOAD:
        shown = _workload_lines(root, samples, known, start_ns, now_ns, part_ns, parts)
    else:
        shown = lines
    return Overview(
        by=by,
        now_ns=now_ns,
        window_s=window_s,
        lines=tuple(shown),
        power_w=sum_of(line.power_w for line in whole if not line.stale),
        devices=len(whole),
        stale=sum(line.stale for line in whole),
        modelled=sum(line.modelled for line in whole),
        unit="tokens/s" if by is By.WORKLOAD else "W",
    )


def _devices(samples: pl.LazyFrame, start_ns: int, part_ns: int) -> pl.DataFrame:
    """A row for each device: its last values, its period, and its mean power in each part of the window."""
    rows = samples.select(
        "device", "source", "time", "host", "power_method", *_NOW,
        part=(pl.col("time").cast(pl.Int64) - start_ns) // part_ns,
    )  # fmt: skip
    # Of several sources of a device the one that was read last, and of those the one read more often; never their mix.
    best = (
        rows.group_by("device", "source")
        .agg(last=pl.col("time").max().dt.truncate("10s"), reads=pl.len())
        .sort("last", "reads", "source")
        .group_by("device")
        .agg(pl.col("source").last())
    )
    mine = rows.join(best, on=["device", "source"], nulls_equal=True).sort("time").collect()
    trend = (
        mine.filter(pl.col("power_w").is_not_null())
        .group_by("device", "part", maintain_order=True)
        .agg(pl.col("power_w").mean())
        .group_by("device")
        .agg(parts=pl.col("part"), watts=pl.col("power_w"))
    )
    return (
        mine.group_by("device")
        .agg(
            pl.col("host", "power_method", *_NOW).drop_nulls().last(),
            last_ns=pl.col("time").last().cast(pl.Int64),
            period_ns=pl.col("time").cast(pl.Int64).diff().median(),
        )
        .join(trend, on="device", how="left")
        .sort("host", "device")
    )


def _told(known: pl.LazyFrame) -> dict[str, dict[str, Any]]:
    """What each device last said of itself."""
    facts = ("host", "model", "ordinal", "parent", "power_limit_w", "memory_total_bytes")
    latest = known.sort("time").group_by("device").agg(pl.col(*facts).last(), told_ns=pl.col("time").last())
    rows = latest.with_columns(pl.col("told_ns").cast(pl.Int64)).sort("host", "ordinal").collect()
    return {row.pop("device"): row for row in rows.iter_rows(named=True)}


def _about(host: str | None, facts: dict[str, Any]) -> str:
    ordinal = facts.get("ordinal")
    place = f"{host or '?'}:{ordinal}" if ordinal is not None else host or "?"
    return f"{place} {facts.get('model') or ''}".strip()


def _device_line(row: dict[str, Any], facts: dict[str, Any], parts: int, now_ns: int) -> Line:
    age_s = (now_ns - row["last_ns"]) / _NS
    used, total = row["memory_used_bytes"], row["memory_total_bytes"] or facts.get("memory_total_bytes")
    stale = is_stale(age_s, row["period_ns"])
    return Line(
        name=row["device"],
        about=_about(row["host"], facts),
        # What a device drew when it was last heard of is not what it draws now.
        power_w=None if stale else row["power_w"],
        power_limit_w=row["power_limit_w"] or facts.get("power_limit_w"),
        utilization_ratio=None if stale else row["utilization_ratio"],
        temperature_c=None if stale else row["temperature_c"],
        memory_ratio=used / total if used is not None and total and not stale else None,
        age_s=age_s,
        stale=stale,
        modelled=row["power_method"] == "modelled",
        host=row["host"] or "?",
        trend=spread(row["parts"], row["watts"], parts),
    )


def _silent_line(device: str, facts: dict[str, Any], parts: int) -> Line:
    return Line(
        name=device,
        about=_about(facts["host"], facts),
        power_limit_w=facts["power_limit_w"],
        stale=True,
        host=facts["host"] or "?",
        trend=(None,) * parts,
    )


def is_stale(age_s: float, period_ns: float | None) -> bool:
    """Whether *age_s* is too long for something that is read every *period_ns* (None: read once, so not known)."""
    return age_s > max(STALE_PERIODS * (period_ns or 10 * _NS) / _NS, 15.0)


def spread(places: list[int] | None, values: list[float] | None, parts: int) -> tuple[float | None, ...]:
    """*values* at their *places* among *parts*; None where there is none."""
    found = dict(zip(places or (), values or (), strict=True))
    return tuple(found.get(place) for place in range(parts))


def _host_lines(whole: list[Line], parts: int) -> list[Line]:
    hosts: dict[str, list[Line]] = {}
    for line in whole:
        hosts.setdefault(line.host, []).append(line)
    return [_host_line(host, lines, parts) for host, lines in sorted(hosts.items())]


def _host_line(host: str, lines: list[Line], parts: int) -> Line:
    fresh = [line for line in lines if not line.stale]
    temperatures = [line.temperature_c for line in fresh if line.temperature_c is not None]
    return Line(
        name=host,
        about=f"{len(fresh)} of {len(lines)} devices" if len(fresh) < len(lines) else f"{len(lines)} devices",
        power_w=sum_of(line.power_w for line in fresh),
        power_limit_w=sum_of(line.power_limit_w for line in fresh),
        utilization_ratio=mean_of(line.utilization_ratio for line in fresh),
        temperature_c=max(temperatures, default=None),
        memory_ratio=mean_of(line.memory_ratio for line in fresh),
        devices=len(lines),
        modelled=any(line.modelled for line in fresh),
        host=host,
        age_s=min((line.age_s for line in lines if line.age_s is not None), default=None),
        stale=not fresh,
        trend=tuple(sum_of(line.trend[part] for line in lines) for part in range(parts)),
    )


def _workload_lines(
    root: Path | str, samples: pl.LazyFrame, known: pl.LazyFrame, start_ns: int, now_ns: int, part_ns: int, parts: int
) -> list[Line]:
    work = scan(root, "workload_samples", start_ns, now_ns + 1)
    allocations = held(scan(root, "allocations", None, now_ns + 1), start_ns, now_ns)
    whole = efficiency(samples, work, allocations, devices=known).collect()
    # Windows of `efficiency` begin at multiples of their length.
    by_part = efficiency(samples, work, allocations, by=f"{part_ns / _NS:g}s", devices=known).collect()
    first = start_ns // part_ns
    read = work.group_by("workload").agg(
        last=pl.col("time").max().cast(pl.Int64), period=pl.col("time").sort().cast(pl.Int64).diff().median()
    )
    ages = {name: (last, period) for name, last, period in read.collect().iter_rows()}
    trends: dict[str, dict[int, float]] = {}
    for name, window, rate in by_part.select("workload", pl.col("window").cast(pl.Int64), "tokens_per_s").iter_rows():
        if rate is not None:
            trends.setdefault(name, {})[window // part_ns - first] = rate
    lines = []
    for row in whole.iter_rows(named=True):
        last, period = ages.get(row["workload"], (None, None))
        age_s = None if last is None else (now_ns - last) / _NS
        mean_w = row["power_mean_w"]
        lines.append(
            Line(
                name=row["workload"],
                about=" ".join(str(row[key]) for key in ("team", "model") if row[key]),
                power_w=None if mean_w is None else mean_w * row["devices"],
                utilization_ratio=row["utilization_ratio"],
                devices=row["devices"] or 0,
                tokens_per_s=row["tokens_per_s"],
                joules_per_token=row["joules_per_token"],
                age_s=age_s,
                stale=age_s is not None and is_stale(age_s, period),
                trend=tuple(trends.get(row["workload"], {}).get(part) for part in range(1, parts + 1)),
            )
        )
    return lines
