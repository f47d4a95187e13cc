"""
League tables and Pareto fronts: what did the same work for fewer joules.

Only like is compared with like: rows are ranked within a model (or within what the caller says), because a token of a
large model is more work than one of a small. A driver changes while a job runs, so work is cut into windows, and each
belongs to what its devices were then. A row is ranked where there is enough evidence, and otherwise says what lacks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import polars as pl

from analytics.attribution import COUNTED, ENERGY, OWNER
from analytics.boards import with_meters
from analytics.energy import seconds
from analytics.intervals import BOUNDS, total
from analytics.measures import QUANTILES, TIMES, latencies, mean_time
from analytics.work import work_of
from collector import catalogue as c

Key = Literal["workload", "sku", "driver_version", "framework", "team", "site", "model", "user", "name", "host"]
Measure = Literal["token", "sample", "step"]
Axis = Literal["throughput", "request", "first_token", "token", "p50", "p90", "p99"]

ALIKE: Final[Mapping[str, tuple[Key, ...]]] = {
    "driver_version": ("model", "sku"),
    "framework": ("model", "sku"),
    "model": ("sku",),
}
"""What rows must share to be ranked, by what they are of, where it is more than a model."""
SEVERAL: Final = "several"
"""The key of work that was done on more than one at once: a group of two device types has one number of tokens."""
WINDOW: Final = "1h"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a row needs to be ranked: shares of time with energy and with counters, amounts of work and device-hours."""

    covered_ratio: float = 0.9
    counted_ratio: float = 0.9
    device_h: float = 1.0
    token: float = 100_000.0
    sample: float = 1_000.0
    step: float = 100.0


COUNTERS: Final[Mapping[Measure, str]] = {
    "token": c.TOKENS_OUT.column,
    "sample": c.SAMPLES.column,
    "step": c.STEPS.column,
}
AXES: Final[Mapping[Axis, str]] = {
    "throughput": "per_s_per_device",
    "request": "request_s",
    "first_token": "first_token_s",
    "token": "token_s",
    "p50": "latency_p50_s",
    "p90": "latency_p90_s",
    "p99": "latency_p99_s",
}
"""What a Pareto front has against joules, and its column; of throughput more is better, of times less."""
_SECONDS: Final = tuple(metric.column for pair in TIMES.values() for metric in pair)


def runs(
    lines: pl.LazyFrame,
    workload_samples: pl.LazyFrame,
    *,
    devices: pl.LazyFrame | None = None,
    types: pl.LazyFrame | None = None,
    hosts: Mapping[str, str] | None = None,
    by: str = WINDOW,
) -> pl.LazyFrame:
    """
    What each device did for each workload in each window, and what it was then.

    In:  lines of `analytics.attribution.attribute` by windows of *by*; workload_samples as
         `analytics.efficiency.efficiency` takes them; *devices*: the table, for drivers; *types*: device, sku
         (`analytics.inventory.device_types`); *hosts*: each host's site.
    Out: workload, window, device, host, name, user, team, model, framework, sku, driver_version, site, span_s,
         covered_s, energy_j, energy_low_j, energy_high_j, modelled_j, and, of the workload's group in the window:
         work_s (how long its counters were read), held_s, tokens_out, samples, steps, latencies and sums of times.
    """
    owned = lines.filter(pl.col("kind").is_in(["used", "idle"]))
    keys = ["workload", "window", "device"]
    value = {name: pl.col(name).drop_nulls().last() for name in ("host", *OWNER[1:])}
    used = (
        owned.group_by(keys)
        .agg(
            **value,
            **{name: pl.col(name).sum() for name in ("span_s", "covered_s", *ENERGY, "modelled_j")},
            known=(pl.col(BOUNDS[0]).is_not_null() | pl.col("energy_j").is_null()).all(),
        )
        .with_columns(pl.when("known").then(name).alias(name) for name in BOUNDS)
    )
    site = pl.col("host").replace_strict(dict(hosts or {}), default=None, return_dtype=pl.String)
    used = used.drop("known").with_columns(site=site, held_s=pl.col("span_s").max().over("workload", "window"))
    if types is None:
        used = used.with_columns(sku=pl.lit(None, pl.String))
    else:
        used = used.join(types.select("device", "sku"), on="device", how="left")
    window_s = seconds(by)
    done = work_of(workload_samples, window_s, more=_SECONDS).join(
        latencies(workload_samples, by), on=["workload", "window"], how="left"
    )
    called = [name for name in ("model", "framework") if name in workload_samples.collect_schema().names()]
    names = workload_samples.group_by("workload").agg(pl.col(name).drop_nulls().last() for name in called)
    told = _driven(used, devices, window_s).join(done, on=["workload", "window"], how="left")
    told = with_meters(told.join(names, on="workload", how="left"), devices)
    lacking = [name for name in ("model", "framework") if name not in called]
    return told.with_columns(pl.lit(None, pl.String).alias(name) for name in lacking).sort(keys)


def _driven(used: pl.LazyFrame, devices: pl.LazyFrame | None, window_s: float) -> pl.LazyFrame:
    """With each device's driver in each window: what it last told of, else its first; `SEVERAL` where it changed."""
    if devices is None:
        return used.with_columns(driver_version=pl.lit(None, pl.String))
    at = pl.col("time").cast(pl.Datetime("ns"))
    told = devices.filter(pl.col("driver_version").is_not_null()).select("device", at=at, told="driver_version")
    first = told.sort("at").group_by("device").agg(first=pl.col("told").first())
    used = used.join(first, on="device", how="left").with_columns(
        end=(pl.col("window").to_physical() + round(window_s * _NS)).cast(pl.Datetime("ns"))
    )
    for edge in ("window", "end"):
        used = used.sort(edge).join_asof(
            told.sort("at").rename({"told": f"at_{edge}"}), left_on=edge, right_on="at", by="device",
            strategy="backward", check_sortedness=False, allow_exact_matches=edge == "window",
        ).drop("at")  # fmt: skip
    before, after = pl.coalesce("at_window", "first"), pl.coalesce("at_end", "first")
    driver = pl.when(before == after).then(before).when(before.is_not_null()).then(pl.lit(SEVERAL))
    return used.with_columns(driver_version=driver).drop("first", "end", "at_window", "at_end")


def alike(per: Key, within: Sequence[Key] | None = None) -> tuple[Key, ...]:
    """What rows of a league must share to be ranked together: *within*, or what suits *per*."""
    return ALIKE.get(per, ("model",)) if within is None else tuple(within)


def league(
    told: pl.LazyFrame,
    *,
    per: Key,
    within: Sequence[Key] | None = None,
    measure: Measure = "token",
    evidence: Evidence = Evidence(),
) -> pl.LazyFrame:
    """
    What each SKU, driver, framework, team, site or model needs for a token, a sample or a step, ranked.

    In:  told as `runs` gives it; *within*: what rows share that are ranked together; not given, the model, and for
         drivers and frameworks the SKU too, for models the SKU.
    Out: *within*, *per* (``several`` where a group's devices differ in it), rank (1 is the best within *within*; null
         where evidence lacks), joules_per_token, joules_per_token_low, joules_per_token_high, tokens_per_joule (also
         tokens/s/W), tokens, tokens_per_s_per_device, workloads, devices, device_h, covered_ratio (with energy),
         counted_ratio (of the time held, with counters), request_s, first_token_s, token_s, latency_p50_s,
         latency_p90_s, latency_p99_s (means, weighted by time), modelled_ratio, unranked (why). With *measure*
         ``sample`` or ``step`` it is samples or steps instead of tokens.

    Windows in which a workload's counters were read for less than nine tenths of the time that it held devices are left
    out of joules and tokens alike, and count against counted_ratio. What of the rest has no energy is taken at the mean
    of what has.
    """
    groups = [*(name for name in alike(per, within) if name != per), per]
    counter = COUNTERS[measure]
    place = ["workload", "window"]
    told = told.collect().lazy()
    # A group's tokens are one number, so they belong to what all of its devices are, or to nobody.
    shared = [
        pl.when(pl.col(name).n_unique().over(place) > 1).then(pl.lit(SEVERAL)).otherwise(name).alias(name)
        for name in dict.fromkeys(groups)
        if name != "workload"
    ]
    rows = told.with_columns(shared).with_columns(
        counted=(pl.col(counter).is_not_null() & (pl.col("work_s") >= COUNTED * pl.col("held_s"))).fill_null(False)
    )
    kept = rows.filter("counted").collect().lazy()
    of_groups = kept.unique(place, keep="first").group_by(groups).agg(
        amount=pl.col(counter).sum(),
        work_s=pl.col("work_s").sum(),
        **{name: mean_time(name) for name in TIMES},
        **{name: _weighted(name) for name in QUANTILES},
    )  # fmt: skip
    of_devices = rows.group_by(groups).agg(
        workloads=pl.col("workload").n_unique(),
        devices=pl.col("device").n_unique(),
        held=pl.col("span_s").sum(),
        counted=pl.col("span_s").filter("counted").sum(),
        covered=pl.col("covered_s").filter("counted").sum(),
        modelled_ratio=pl.col("modelled_j").sum()
        / pl.when(pl.col("energy_j").sum() > 0).then(pl.col("energy_j").sum()),
    )
    amount, joules = pl.col("amount"), pl.col("energy_j")
    some, full = pl.when(amount > 0), pl.col("counted") / _above_zero(pl.col("covered"))
    found = (
        of_devices.join(total(kept, groups), on=groups, how="left", nulls_equal=True)
        .join(of_groups, on=groups, how="left", nulls_equal=True)
        .with_columns(
            device_h=pl.col("counted") / 3600.0,
            covered_ratio=pl.col("covered") / _above_zero(pl.col("counted")),
            counted_ratio=pl.col("counted") / _above_zero(pl.col("held")),
            value=some.then(joules * full / amount),
            low=some.then(pl.col(BOUNDS[0]) * full / amount),
            high=some.then(pl.col(BOUNDS[1]) * full / amount),
        )
        .with_columns(unranked=_lacking(per, measure, evidence))
    )
    ranked = pl.when(pl.col("unranked").is_null()).then("value")
    order = groups[:-1]
    rank = ranked.rank("min").over(order) if order else ranked.rank("min")
    return (
        found.with_columns(rank=rank.cast(pl.UInt32))
        .select(
            *groups, "rank",
            **{f"joules_per_{measure}": pl.col("value"), f"joules_per_{measure}_low": pl.col("low"),
               f"joules_per_{measure}_high": pl.col("high"), f"{measure}s_per_joule": 1.0 / pl.col("value"),
               f"{measure}s": amount, f"{measure}s_per_s_per_device": some.then(amount / pl.col("counted"))},
            workloads="workloads", devices="devices", device_h="device_h", covered_ratio="covered_ratio",
            counted_ratio="counted_ratio", **{name: pl.col(name) for name in (*TIMES, *QUANTILES, "modelled_ratio")},
            unranked="unranked",
        )
        .sort(*order, "rank", f"joules_per_{measure}", per, nulls_last=True)
    )  # fmt: skip


_NS: Final = 1_000_000_000


def _above_zero(value: pl.Expr) -> pl.Expr:
    return pl.when(value > 0).then(value)


def _weighted(name: str) -> pl.Expr:
    weight = pl.when(pl.col(name).is_not_null()).then("work_s").sum()
    return (pl.col(name) * pl.col("work_s")).sum() / _above_zero(weight)


def _lacking(per: str, measure: Measure, evidence: Evidence) -> pl.Expr:
    """Why a row is not ranked; null where it is."""
    least = {"token": evidence.token, "sample": evidence.sample, "step": evidence.step}[measure]
    amount = pl.col("amount").fill_null(0.0)

    def percent(name: str) -> pl.Expr:
        return (pl.col(name) * 100).round(0).cast(pl.Int64).cast(pl.String)

    reasons = [
        (pl.col(per).is_null(), pl.lit(f"no {per} is known")),
        (pl.col(per) == SEVERAL, pl.lit(f"on devices of several at once, so whose {measure}s they are is not known")),
        (amount <= 0, pl.lit(f"no {measure}s were counted")),
        (pl.col("modelled_ratio") > 0, pl.lit("some of the energy is modelled, not measured")),
        (
            pl.col("counted_ratio") < evidence.counted_ratio,
            pl.format(f"counters were read in {{}} % of the time; {evidence.counted_ratio:.0%} is needed",
                      percent("counted_ratio")),
        ),
        (
            (pl.col("covered_ratio") < evidence.covered_ratio).fill_null(True),
            pl.format(f"{{}} % of the time has energy; {evidence.covered_ratio:.0%} is needed",
                      percent("covered_ratio").fill_null("0")),
        ),
        (
            amount < least,
            pl.format(f"{{}} {measure}s; {least:,.0f} are needed", amount.round(0).cast(pl.Int64).cast(pl.String)),
        ),
        (
            pl.col("device_h") < evidence.device_h,
            pl.format(f"{{}} device-hours; {evidence.device_h:g} are needed",
                      pl.col("device_h").round(2).cast(pl.String)),
        ),
    ]  # fmt: skip
    return pl.coalesce(pl.when(lacks.fill_null(False)).then(why) for lacks, why in reasons)


def pareto(
    table: pl.LazyFrame, *, axis: Axis = "throughput", measure: Measure = "token", within: Sequence[str] = ("model",)
) -> pl.LazyFrame:
    """
    Which rows of a league nothing beats in both joules and throughput (or latency).

    In:  table as `league` gives it.
    Out: the same rows and front: true for a row such that no other of *within* needs no more joules and does no less
         per second (or takes no longer), and is better in one of them; null for a row that is not ranked or was not
         timed, which is not compared. The front comes first, by joules.
    """
    known = table.collect_schema().names()
    groups = [name for name in within if name in known]
    joules = f"joules_per_{measure}"
    column = f"{measure}s_{AXES[axis]}" if axis == "throughput" else AXES[axis]
    better = pl.col(column) if axis == "throughput" else -pl.col(column)
    compared = pl.col("rank").is_not_null() & pl.col(joules).is_not_null() & pl.col(column).is_finite()
    rows = table.with_columns(__gain=pl.when(compared).then(better)).with_row_index("__row")
    best = (
        rows.filter(pl.col("__gain").is_not_null())
        .group_by(*groups, joules)
        .agg(__best=pl.col("__gain").max())
        .sort(*groups, joules)
    )
    before = pl.col("__best").cum_max().shift(1)
    best = best.with_columns(__before=before.over(groups) if groups else before)
    front = (pl.col("__gain") == pl.col("__best")) & ((pl.col("__best") > pl.col("__before")).fill_null(True))
    return (
        rows.join(best, on=[*groups, joules], how="left", nulls_equal=True)
        .with_columns(front=pl.when(pl.col("__gain").is_not_null()).then(front))
        .sort(*groups, pl.col("front").fill_null(False).not_(), joules, "__row", nulls_last=True)
        .drop("__row", "__gain", "__best", "__before")
    )
