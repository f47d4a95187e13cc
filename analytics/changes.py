"""
What changed: drivers, firmware, modes, limits and clocks of devices, frameworks and models of workloads.

A device describes itself anew whenever something about it changes, and engines say what they are with every sample. So
settings over time are there already; here they are put in one form (`settings`), differenced (`changes`), and changes
of the same kind that came one after the other are put together as one rollout (`rollouts`).
"""

from typing import Final

import polars as pl

from analytics.efficiency import current
from analytics.energy import window_start
from collector.catalogue import (
    CLOCK_SM,
    CLOCK_SM_MAX,
    POWER_LIMIT,
    POWER_PROFILE,
    THROTTLING_IDLE,
    THROTTLING_SETTING,
    UTILIZATION,
    Scope,
    metrics,
)

DEVICE_SETTINGS: Final = (
    "driver_version", "firmware_version", "mode", "power_limit", "clock_limit", "clock_lock", "power_profile",
)  # fmt: skip
"""What is set of a device."""
WORKLOAD_SETTINGS: Final = ("framework", "framework_version", "model")
"""What a workload of one name runs on and serves."""
LIMITS: Final = (POWER_LIMIT.column, CLOCK_SM_MAX.column, POWER_PROFILE.column)
"""Those of them that are read with every sample, by column."""
_HELD_DOWN: Final = tuple(
    metric.column
    for metric in metrics(Scope.DEVICE)
    if metric.family == "throttling" and metric not in {THROTTLING_IDLE, THROTTLING_SETTING}
)
READ: Final = (*LIMITS, CLOCK_SM.column, UTILIZATION.column, THROTTLING_SETTING.column, *_HELD_DOWN)
"""What of samples is looked at for limits and locks."""
NO_LOCK: Final = "none"
"""The clock_lock of a device whose clock nothing holds."""
LOCK_S: Final = 300.0
"""A clock is looked at for so long before it is called locked, or free."""
LOCK_BUSY: Final = 0.5
"""Utilisation above which a device would run at its highest clock if nothing held it."""
LOCK_READINGS: Final = 3
LOCK_BELOW: Final = 0.95
"""A clock that stands still below this share of the highest, with nothing that holds it down, is a lock."""
LOCK_STEP_HZ: Final = 15e6
"""Clocks go in steps of this: what moves by no more stands still."""
SETTINGS: Final = (*DEVICE_SETTINGS, *WORKLOAD_SETTINGS)
ROLLOUT_GAP_S: Final = 86_400.0
"""Changes of one kind that are further apart are two rollouts."""
STEADY: Final = 3
"""A setting that the same subject was given more often than this within a rollout is steered, not set."""
ORDINARY_MODE: Final = "default"
"""The mode of a device whose source names none: a mode is only named where it is a special one."""

_LOCK: Final = "clock_lock_hz"
_VERSION: Final = r"^\s*([^\d\s/=@:,;-][^\s/=@:,;]*?)\s*(?:[\s/=@:-]+v?)(\d.*?)\s*$"
_SCHEMA: Final = pl.Schema(
    {
        **dict.fromkeys(("subject", "host", "sku", "what"), pl.String()),
        "time": pl.Datetime("ns"),
        "value": pl.String(),
    }
)


def framework_name(text: pl.Expr) -> pl.Expr:
    """The framework without its version: ``vllm`` of ``vllm 0.11.2`` or ``vllm==0.11.2``."""
    return pl.coalesce(text.str.extract(_VERSION, 1), text)


def framework_version(text: pl.Expr) -> pl.Expr:
    """The version that follows a framework's name; null where none does."""
    return text.str.extract(_VERSION, 2)


def limits(device_samples: pl.LazyFrame) -> pl.LazyFrame:
    """
    A device's limits and locks where they differ from what was before: what of its samples `settings` needs.

    In:  device, source, host, time and what there is of `READ`.
    Out: device, source, host, time, power_limit_w, clock_sm_max_hz, power_profile, and clock_lock_hz as `locks` has it;
         null where not told.
    """
    known = device_samples.collect_schema().names()
    absent = [pl.lit(None, pl.Float64).alias(name) for name in (*READ, _LOCK) if name not in known]
    samples = device_samples.with_columns(absent)
    index = ("device", "source", "host", pl.col("time").cast(pl.Datetime("ns")))
    read = samples.filter(pl.any_horizontal(pl.col(name).is_not_null() for name in LIMITS)).select(*index, *LIMITS)
    # What has been looked at once says what was found.
    locked = samples.filter(pl.col(_LOCK).is_not_null()).select(*index, _LOCK) if _LOCK in known else locks(samples)
    parts = [(read, LIMITS), (locked, (_LOCK,))]
    return pl.concat(
        [
            part.sort("device", "source", "time", maintain_order=True).filter(_differs("device", "source", *names))
            for part, names in parts
        ],
        how="diagonal",
    )


def locks(device_samples: pl.LazyFrame) -> pl.LazyFrame:
    """
    Whether an operator's setting (``nvidia-smi -lgc``, application clocks) holds the clock of a busy device.

    In:  device, source, host, time and `READ`, null where not read.
    Out: device, source, host, time (the start of a stretch of `LOCK_S`), clock_lock_hz: the clock that it is held at, 0
         where it is free. Of a stretch with too few busy readings, or in which heat or a power limit held clocks down,
         nothing is told: a lock above what they leave does not show.

    No driver gives a lock back. What tells it is the flag for an operator's setting, and where that is not raised, a
    clock that stands still below the highest one with no reason of the driver's for it.
    """
    clock, highest, flag = pl.col(CLOCK_SM.column), pl.col(CLOCK_SM_MAX.column), pl.col(THROTTLING_SETTING.column)
    others = pl.any_horizontal((pl.col(name) > 0).fill_null(False) for name in _HELD_DOWN)
    busy = (pl.col(UTILIZATION.column) > LOCK_BUSY) & clock.is_not_null() & flag.is_not_null()
    still, middle = clock.max() - clock.min() <= LOCK_STEP_HZ, clock.median()
    most = highest.drop_nulls().last()
    free = (middle >= LOCK_BELOW * most).fill_null(True)
    # The highest clock is read more seldom than the clock.
    told = device_samples.sort("device", "source", "time").with_columns(highest.forward_fill().over("device", "source"))
    return (
        told.filter(busy.fill_null(False))
        .group_by("device", "source", time=window_start("time", LOCK_S))
        .agg(
            pl.col("host").last(),
            n=pl.len(),
            others=others.any(),
            lock=pl.when(still & ((flag.mean() > 0.5) | ~free)).then(middle),
            told=still | free,
        )
        .filter((pl.col("n") >= LOCK_READINGS) & ~pl.col("others") & pl.col("told"))
        .select("device", "source", "host", "time", pl.col("lock").fill_null(0.0).alias(_LOCK))
    )


def settings(devices: pl.LazyFrame, device_samples: pl.LazyFrame | None = None) -> pl.LazyFrame:
    """
    What was set of each device, from when on.

    In:  devices: the table of that name; *device_samples*, or `limits` of them, which say earlier than a description
         that a limit changed.
    Out: subject (the device), host, sku, what (one of `DEVICE_SETTINGS`), time, value: a row when it is first known
         and whenever it is another. Limits are in whole watts and megahertz; a clock_lock is ``none`` where nothing
         holds the clock of a busy device (see `locks`).

    Of several sources the one counts that said so last, because two may write one version in two ways. What a source
    does not tell is not a change.
    """
    known = devices.collect_schema().names()
    told = devices.with_columns(pl.lit(None, pl.String).alias(name) for name in _TOLD if name not in known)
    described = told.select(
        "source", "host", subject="device", time=pl.col("time").cast(pl.Datetime("ns")), sku="model",
        driver_version="driver_version", firmware_version="firmware_version",
        mode=pl.col("mode").fill_null(ORDINARY_MODE), power_limit=_watts("power_limit_w"),
    )  # fmt: skip
    parts = [described.unpivot(index=_INDEX, variable_name="what", value_name="value")]
    if device_samples is not None:
        read = limits(device_samples).select(
            "source", "host", subject="device", time="time", sku=pl.lit(None, pl.String),
            power_limit=_watts(POWER_LIMIT.column), clock_limit=_megahertz(CLOCK_SM_MAX.column),
            clock_lock=pl.when(pl.col(_LOCK) == 0).then(pl.lit(NO_LOCK)).otherwise(_megahertz(_LOCK)),
            power_profile=pl.col(POWER_PROFILE.column).cast(pl.Int64).cast(pl.String),
        )  # fmt: skip
        parts.append(read.unpivot(index=_INDEX, variable_name="what", value_name="value"))
    rows = pl.concat(parts, how="diagonal").filter(pl.col("value").is_not_null())
    of = ["subject", "what", "source"]
    rows = rows.sort(*of, "time", maintain_order=True)
    # Of a source that reads a limit every second only the changes are kept, before anything is compared.
    rows = rows.filter(_differs(*of, "value"))
    last = rows.group_by("subject", "what", "source").agg(pl.col("time").max())
    chosen = last.sort("time", "source").unique(["subject", "what"], keep="last").select(of)
    skus = described.group_by("subject").agg(pl.col("sku").drop_nulls().last())
    return (
        rows.join(chosen, on=of, nulls_equal=True)
        .drop("sku")
        .join(skus, on="subject", how="left")
        .select(*_SCHEMA)
        .sort("subject", "what", "time")
    )


def workload_settings(workload_samples: pl.LazyFrame, allocations: pl.LazyFrame) -> pl.LazyFrame:
    """
    What ran under each name on each host, from when on.

    In:  workload_samples: workload, time, and what there is of host, model, framework; allocations: workload, name,
         device, start, host.
    Out: as `settings`; subject is the workload's name and the host (``chat@node-1``), so that a new run of the same
         service is the same subject; a workload without a name is its own.
    """
    names = current(allocations).group_by("workload").agg(pl.col("name").drop_nulls().last())
    wanted = {"host": pl.String(), "model": pl.String(), "framework": pl.String()}
    known = workload_samples.collect_schema().names()
    rows = workload_samples.with_columns(pl.lit(None, t).alias(n) for n, t in wanted.items() if n not in known)
    subject = pl.concat_str(pl.coalesce("name", "workload"), pl.col("host"), separator="@", ignore_nulls=True)
    framework = pl.col("framework")
    return (
        rows.join(names, on="workload", how="left")
        .select(
            "host", "model", subject=subject, sku=pl.lit(None, pl.String), time=pl.col("time").cast(pl.Datetime("ns")),
            framework=framework_name(framework), framework_version=framework_version(framework),
        )
        .unpivot(index=["subject", "host", "sku", "time"], variable_name="what", value_name="value")
        .filter(pl.col("value").is_not_null())
        .sort("subject", "what", "time", maintain_order=True)
        .filter(_differs("subject", "what", "value"))
        .select(*_SCHEMA)
    )  # fmt: skip


def changes(found: pl.LazyFrame) -> pl.LazyFrame:
    """
    The changes in `settings` or `workload_settings`.

    Out: subject, host, sku, what, before, after, time. Where something was first known, nothing changed.
    """
    same = (pl.col("subject") == pl.col("subject").shift(1)) & (pl.col("what") == pl.col("what").shift(1))
    return (
        found.sort("subject", "what", "time")
        .with_columns(before=pl.when(same).then(pl.col("value").shift(1)))
        .filter(pl.col("before").is_not_null() & (pl.col("before") != pl.col("value")))
        .select("subject", "host", "sku", "what", "before", after="value", time="time")
    )


def rollouts(found: pl.LazyFrame, *, gap_s: float = ROLLOUT_GAP_S) -> pl.LazyFrame:
    """
    Changes of one kind that follow each other, together.

    In:  `changes`. Out: what, before, after, first, last (times of the first and the last subject's change), subjects,
         hosts and changes (counts), sku (all of them), where (the hosts, at most eight named), steered: whether
         subjects were set to and fro more than `STEADY` times each, as a power controller does.
    """
    kind = ["what", "before", "after"]
    apart = pl.col("time") - pl.col("time").shift(1) > pl.duration(nanoseconds=round(gap_s * 1e9))
    begins = (_differs(*kind) | apart).fill_null(True)
    hosts = pl.col("host").drop_nulls().unique().sort()
    more = pl.when(hosts.len() > _NAMED).then(pl.format(" and {} more", hosts.len() - _NAMED)).otherwise(pl.lit(""))
    return (
        found.sort(*kind, "time", "subject")
        .with_columns(rollout=begins.cum_sum())
        .group_by("rollout", *kind)
        .agg(
            first=pl.col("time").min(),
            last=pl.col("time").max(),
            subjects=pl.col("subject").n_unique().cast(pl.Int64),
            hosts=pl.col("host").drop_nulls().n_unique().cast(pl.Int64),
            changes=pl.len().cast(pl.Int64),
            sku=pl.col("sku").drop_nulls().unique().sort().str.join(", "),
            where=pl.concat_str(hosts.head(_NAMED).str.join(", "), more),
        )
        .with_columns(
            sku=pl.when(pl.col("sku") != "").then("sku"), steered=pl.col("changes") > STEADY * pl.col("subjects")
        )
        .drop("rollout")
        .sort("first", *kind)
    )


_INDEX: Final = ("subject", "host", "sku", "source", "time")
_TOLD: Final = ("source", "host", "model", "driver_version", "firmware_version", "mode", "power_limit_w")
_NAMED: Final = 8


def _watts(column: str) -> pl.Expr:
    return pl.col(column).cast(pl.Float64).round(0).cast(pl.Int64).cast(pl.String) + " W"


def _megahertz(column: str) -> pl.Expr:
    return (pl.col(column) / 1e6).round(0).cast(pl.Int64).cast(pl.String) + " MHz"


def _differs(*columns: str) -> pl.Expr:
    """Whether a row is another than the one before it."""
    return pl.any_horizontal(pl.col(name).ne_missing(pl.col(name).shift(1)) for name in columns)
