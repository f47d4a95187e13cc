"""
What comparisons are made of: each workload in windows of a few minutes, with what it measured and what was set.

Windows that are not wholly measured, in which a device came or went, or in which a setting had just changed, are left
out: they are neither before nor after.
"""

from collections.abc import Mapping
from typing import Final

import polars as pl

from analytics.changes import DEVICE_SETTINGS, framework_name, framework_version, settings
from analytics.changes import READ as SETTINGS_READ
from analytics.efficiency import current, efficiency
from analytics.energy import seconds
from analytics.inventory import held as held_in
from analytics.work import work_of
from collector.catalogue import CLOCK_SM, LATENCY_P50, TEMPERATURE, UTILIZATION

WINDOW: Final = "5m"
COVERED: Final = 0.9
"""The share of a window's device-seconds that must be measured."""
SETTLE_S: Final = 900.0
"""How long after a change of a device its windows are left out: engines warm up, caches fill."""
MIXED: Final = "mixed"
"""What a group has of a setting that its devices do not have in common."""

WINDOWS: Final = pl.Schema(
    {
        "workload": pl.String(),
        "window": pl.Datetime("ns"),
        **dict.fromkeys(
            ("name", "user", "team", "model", "framework", "framework_version", "host", "site", "sku"), pl.String()
        ),
        **dict.fromkeys(DEVICE_SETTINGS, pl.String()),
        "boards": pl.UInt64(),
        "devices": pl.UInt32(),
        **dict.fromkeys(
            (
                "joules_per_token", "joules_per_step", "joules_per_sample", "samples_per_joule", "tokens_per_s_per_w",
                "tokens_per_s", "steps_per_s", LATENCY_P50.column, "power_mean_w", TEMPERATURE.column, CLOCK_SM.column,
                UTILIZATION.column, "load", "mix",
            ),
            pl.Float64(),
        ),
        "asked": pl.Boolean(),
    }
)  # fmt: skip
"""The columns of `windows`."""

READ: Final = (
    "device", "time", "source", "host", "power_method", "power_scope", "power_w", "energy_j",
    *dict.fromkeys((UTILIZATION.column, TEMPERATURE.column, CLOCK_SM.column, *SETTINGS_READ)),
)  # fmt: skip
"""The columns of device_samples that are looked at."""

_NS: Final = 1_000_000_000


def windows(
    device_samples: pl.LazyFrame,
    workload_samples: pl.LazyFrame,
    allocations: pl.LazyFrame,
    devices: pl.LazyFrame,
    *,
    by: str = WINDOW,
    sites: Mapping[str, str] | None = None,
    settle_s: float = SETTLE_S,
    max_gap_s: float | None = None,
) -> pl.LazyFrame:
    """
    Workloads by windows, ready to be compared.

    In:  as `analytics.efficiency.efficiency`; devices: the table of that name; *sites*: each host's site.
    Out: `WINDOWS`: workload, window (its start), whose it is, what ran, host (all of them), site, sku, what was set of
         the devices (`analytics.changes.DEVICE_SETTINGS`), boards (a number for the set of devices), devices (how
         many), then what was measured (power_mean_w is of one device), and what it is matched by: utilization_ratio,
         load (tokens/s of one device), mix (prompt tokens for each that was generated), asked: whether requests decide
         how much work there is.

    A setting that devices of a group do not share is ``mixed``, one that nobody told null.
    """
    length_s = seconds(by)
    samples = device_samples.collect().lazy()
    work = workload_samples.collect().lazy()
    # What runs still ends, for now, with the last that was seen.
    ends = samples.select(pl.col("time").max().cast(pl.Datetime("ns")).to_physical().fill_null(0)).collect().item()
    allocations = held_in(allocations, None, ends).collect().lazy()
    held = _members(allocations, _ends(samples), length_s)
    state = _states(settings(devices, samples))
    joined = (
        held.with_columns(until=(pl.col("window").to_physical() + round(length_s * _NS)).cast(pl.Datetime("ns")))
        .sort("until")
        .join_asof(
            state, left_on="until", right_on="known", by="device", strategy="backward", check_sortedness=False
        )
        .join(_gauges(samples, length_s), on=["device", "window"], how="left")
    )  # fmt: skip
    settled = pl.col("since") + pl.duration(nanoseconds=round(settle_s * _NS)) <= pl.col("window")
    site = pl.col("host").replace_strict(dict(sites or {}), default=None, return_dtype=pl.String)
    groups = (
        joined.with_columns(site=site)
        .group_by("workload", "window")
        .agg(
            boards=pl.col("device").hash().bitwise_xor(),
            held=pl.len(),
            settled=settled.fill_null(True).all(),
            host=pl.col("host").drop_nulls().unique().sort().str.join(","),
            site=_common("site"),
            sku=_common("sku"),
            **{name: _common(name) for name in DEVICE_SETTINGS},
            **{name: pl.col(name).mean() for name in (TEMPERATURE.column, CLOCK_SM.column)},
        )
        .filter("settled")
    )
    found = efficiency(samples, work, allocations, by=by, max_gap_s=max_gap_s, devices=devices)
    asked = work_of(work, None).select("workload", asked=pl.col("requests").fill_null(0.0) > 0)
    pace = work_of(work, length_s).select("workload", "window", "work_s")
    return (
        found.filter(pl.col("covered_ratio") >= COVERED)
        .join(groups, on=["workload", "window"])
        .filter(pl.col("held") == pl.col("devices"))
        .join(pace, on=["workload", "window"], how="left")
        .join(asked, on="workload", how="left")
        .join(_engines(work, length_s), on=["workload", "window"], how="left")
        .with_columns(
            steps_per_s=pl.when(pl.col("work_s") > 0).then(pl.col("steps") / pl.col("work_s")),
            load=pl.col("tokens_per_s") / pl.col("devices"),
            mix=pl.when(pl.col("tokens") > 0).then(pl.col("tokens_in") / pl.col("tokens")),
            asked=pl.col("asked").fill_null(False),
        )
        .select(pl.col(name).cast(kind) for name, kind in WINDOWS.items())
        .sort("workload", "window")
    )


def of_workload(found: pl.LazyFrame, wanted: str) -> pl.LazyFrame:
    """The windows of the workload, the name or the model *wanted*."""
    return found.filter(pl.any_horizontal(pl.col(name) == wanted for name in ("workload", "name", "model")))


def _ends(samples: pl.LazyFrame) -> pl.LazyFrame:
    return samples.group_by("device").agg(
        host=pl.col("host").drop_nulls().last(), seen=pl.col("time").max().cast(pl.Datetime("ns"))
    )


def _members(allocations: pl.LazyFrame, ends: pl.LazyFrame, length_s: float) -> pl.LazyFrame:
    """The devices that a workload held through the whole of a window: workload, window, device, host."""
    length = round(length_s * _NS)
    start = pl.col("start").to_physical()
    end = pl.min_horizontal(pl.col("end"), pl.col("seen")).to_physical()
    first, last = (start + length - 1) // length, end // length
    return (
        current(allocations)
        .join(ends, on="device")
        .with_columns(part=pl.int_ranges(first, pl.max_horizontal(first, last)))
        .explode("part", empty_as_null=False, keep_nulls=False)
        .select("workload", "device", "host", window=(pl.col("part") * length).cast(pl.Datetime("ns")))
        .unique(["workload", "device", "window"])
    )


def _states(found: pl.LazyFrame) -> pl.LazyFrame:
    """Settings as they stood from `known` on: device, sku, each of them, and since when (null: as first known)."""
    rows = found.select("subject", "time", "sku", "what", "value").collect()
    wide = rows.pivot(on="what", index=["subject", "time", "sku"], values="value", aggregate_function="last")
    absent = [pl.lit(None, pl.String).alias(name) for name in DEVICE_SETTINGS if name not in wide.columns]
    wide = wide.with_columns(absent).sort("subject", "time")
    started = {name: pl.col(name).forward_fill().over("subject") for name in DEVICE_SETTINGS}
    before = {name: value.shift(1).over("subject") for name, value in started.items()}
    # To become known is no change.
    changed = pl.any_horizontal(
        pl.col(name).is_not_null() & before[name].is_not_null() & (pl.col(name) != before[name])
        for name in DEVICE_SETTINGS
    )
    return (
        wide.with_columns(__changed=changed)
        .with_columns(
            **started,
            since=pl.when("__changed").then("time").forward_fill().over("subject"),
        )
        .select(
            "sku", *DEVICE_SETTINGS, "since", device="subject", known="time",
        )
        .sort("known")
        .lazy()
    )  # fmt: skip


def _common(name: str) -> pl.Expr:
    """What the devices of a group have in common."""
    distinct = pl.col(name).n_unique()
    return pl.when(distinct == 1).then(pl.col(name).first()).otherwise(pl.lit(MIXED))


def _gauges(samples: pl.LazyFrame, length_s: float) -> pl.LazyFrame:
    length = round(length_s * _NS)
    names = samples.collect_schema().names()
    wanted = (TEMPERATURE.column, CLOCK_SM.column)
    columns = [
        pl.col(name).mean() if name in names else pl.lit(None, pl.Float64).first().alias(name) for name in wanted
    ]
    window = (pl.col("time").cast(pl.Datetime("ns")).to_physical() // length * length).cast(pl.Datetime("ns"))
    return samples.group_by("device", window=window).agg(columns)


def _engines(work: pl.LazyFrame, length_s: float) -> pl.LazyFrame:
    """What the engine of a workload was in each window, and its latency."""
    length = round(length_s * _NS)
    wanted = {"framework": pl.String(), LATENCY_P50.column: pl.Float64()}
    known = work.collect_schema().names()
    rows = work.with_columns(pl.lit(None, kind).alias(name) for name, kind in wanted.items() if name not in known)
    window = (pl.col("time").cast(pl.Datetime("ns")).to_physical() // length * length).cast(pl.Datetime("ns"))
    framework = pl.col("framework").drop_nulls().last()
    return (
        rows.group_by("workload", window=window)
        .agg(framework, pl.col(LATENCY_P50.column).mean())
        .with_columns(
            framework=framework_name(pl.col("framework")), framework_version=framework_version(pl.col("framework"))
        )
    )
