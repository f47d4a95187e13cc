"""
What incidents cost so far: joules that brought nothing, what those cost, tokens that did not come.

Each incident is reckoned by itself: two that a workload suffers from at once both count its loss. What is not known
(no energy read, no price, no rate to compare with) stays null.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import polars as pl

from analytics.anomalies.incidents import Incident
from analytics.anomalies.places import Places
from analytics.anomalies.rules import Rules
from analytics.cost import PRICED_S, rates
from analytics.fleet import Fleet
from analytics.known import sum_of
from collector.moments import NS

BASELINE_WINDOWS: Final = 8
"""Fewer windows of a workload before an incident are no rate to compare with: two hours of quarter-hours."""

_J_PER_KWH: Final = 3.6e6
_LENGTH_NS: Final = round(PRICED_S * NS)


def impacts(
    incidents: Iterable[Incident],
    rules: Rules,
    places: Places,
    fleet: Fleet,
    *,
    device_energy: pl.LazyFrame,
    job_energy: pl.LazyFrame,
    efficiency: pl.LazyFrame,
    facility_samples: pl.LazyFrame,
    start_ns: int,
    until_ns: int,
) -> pl.DataFrame:
    """
    What incidents cost within a window.

    In:  device_energy and job_energy in the window; efficiency from days before, for the rate to compare with;
         facility_samples for published prices.
    Out: incident, wasted_j, wasted_cost (with the facility's share, where fleet.toml tells the PUE), currency,
         lost_tokens, workload (the one that suffers, where it is one); null where not known.

    By the rule's `waste` the energy is all that the affected devices drew, or what was beyond the expected, or of the
    workloads on them as large a share as they are behind their own median rate before it began.
    """
    spans = _spans(incidents, rules, places, start_ns, until_ns)
    if spans.is_empty():
        return pl.DataFrame(schema=_OUT)
    slow = _behind(spans, job_energy, efficiency)
    energy = pl.concat([_all_of(spans, device_energy), _excess(spans), slow.select(_ENERGY)])
    cost = _priced(energy, fleet, facility_samples)
    lost = slow.group_by("incident").agg(
        lost_tokens=pl.when(pl.col("lost").count() > 0).then(pl.col("lost").sum()),
        workload=pl.when(pl.col("workload").n_unique() == 1).then(pl.col("workload").first()),
    )
    wasted = energy.group_by("incident").agg(
        wasted_j=pl.when(pl.col("wasted_j").count() > 0).then(pl.col("wasted_j").sum())
    )
    ids = spans.select("incident").unique()
    found = ids.join(wasted, on="incident", how="left").join(cost, on="incident", how="left")
    return found.join(lost, on="incident", how="left").select(_OUT.names())


_OUT: Final = pl.Schema(
    {
        "incident": pl.String(), "wasted_j": pl.Float64(), "wasted_cost": pl.Float64(), "currency": pl.String(),
        "lost_tokens": pl.Float64(), "workload": pl.String(),
    }
)  # fmt: skip
_ENERGY: Final = ("incident", "time", "site", "wasted_j")


def _spans(incidents: Iterable[Incident], rules: Rules, places: Places, start_ns: int, until_ns: int) -> pl.DataFrame:
    """One row for each incident and affected device: when, within the window, and which energy counts."""
    rows = []
    for one in incidents:
        waste = next((rule.waste for rule in one.rules(rules) if rule.waste), None)
        if waste is None or one.into is not None:
            continue
        end_ns = one.end_ns(rules, until_ns)
        first, last = max(start_ns, one.start_ns), until_ns if end_ns is None else end_ns
        beyond = [
            s.excess * _share(s.start_ns, s.end_ns, start_ns) for s in one.stretches if s.excess is not None
        ]  # what was expected is not known of all
        members = sorted(one.members)
        rows += [
            {
                "incident": one.id, "waste": waste, "scope": member.scope, "name": member.name,
                "site": places.site(member), "began": one.start_ns, "first": first, "last": last,
                "excess": max(0.0, sum(beyond)) / len(members) if waste == "excess" and beyond else None,
            }
            for member in members
        ]  # fmt: skip
    return pl.DataFrame(rows, schema=_SPANS)


_SPANS: Final = pl.Schema(
    {
        "incident": pl.String(), "waste": pl.String(), "scope": pl.String(), "name": pl.String(), "site": pl.String(),
        "began": pl.Int64(), "first": pl.Int64(), "last": pl.Int64(), "excess": pl.Float64(),
    }
)  # fmt: skip


def _share(first_ns: int, last_ns: int, since_ns: int) -> float:
    return 1.0 if last_ns <= first_ns else max(0, last_ns - max(first_ns, since_ns)) / (last_ns - first_ns)


def _overlap() -> pl.Expr:
    """Which share of a window lies within the incident."""
    time, length = pl.col("time").to_physical(), pl.col("window_s").cast(pl.Int64) * NS
    inside = pl.min_horizontal(time + length, "last") - pl.max_horizontal(time, "first")
    return (inside / length).clip(0.0, 1.0)


def _all_of(spans: pl.DataFrame, device_energy: pl.LazyFrame) -> pl.DataFrame:
    """All energy of the affected devices."""
    whole = spans.filter((pl.col("waste") == "all") & (pl.col("scope") == "device"))
    energy = device_energy.select("device", "time", "window_s", "energy_j")
    found = whole.lazy().join(energy, left_on="name", right_on="device").filter(_overlap() > 0)
    return found.select("incident", "time", "site", wasted_j=pl.col("energy_j") * _overlap()).collect()


def _excess(spans: pl.DataFrame) -> pl.DataFrame:
    """What was beyond the expected, spread over the windows that prices go by."""
    first, last = pl.col("first"), pl.col("last")
    cut = (
        spans.filter(pl.col("excess").is_not_null() & (last > first))
        .with_columns(part=pl.int_ranges(first // _LENGTH_NS, (last - 1) // _LENGTH_NS + 1))
        .explode("part", empty_as_null=True, keep_nulls=True)
        .with_columns(begin=pl.col("part") * _LENGTH_NS)
    )
    inside = pl.min_horizontal(pl.col("begin") + _LENGTH_NS, last) - pl.max_horizontal("begin", first)
    return cut.select(
        "incident", "site", time=pl.col("begin").cast(pl.Datetime("ns")),
        wasted_j=pl.col("excess") * inside / (last - first),
    ).select(_ENERGY)  # fmt: skip


def _behind(spans: pl.DataFrame, job_energy: pl.LazyFrame, efficiency: pl.LazyFrame) -> pl.DataFrame:
    """What the workloads on the affected devices were behind, window by window."""
    keys = ["incident", "waste", "site", "workload", "began", "first", "last"]
    held = job_energy.filter(pl.col("workload").is_not_null()).select("device", "workload", "time", "window_s")
    of_devices = spans.lazy().filter(pl.col("scope") == "device").join(held, left_on="name", right_on="device")
    themselves = spans.lazy().filter(pl.col("scope") == "workload").with_columns(workload="name").select(keys)
    # A workload on two affected devices suffers once.
    suffering = pl.concat([of_devices.filter(_overlap() > 0).select(keys), themselves]).unique(["incident", "workload"])
    rates_of = efficiency.select("workload", "time", "window_s", "tokens_per_s", "energy_j")
    told = suffering.join(rates_of, on="workload")
    earlier = told.filter(pl.col("time").to_physical() + pl.col("window_s").cast(pl.Int64) * NS <= pl.col("began"))
    usual = earlier.group_by("incident", "workload").agg(
        usual=pl.col("tokens_per_s").median(), known=pl.col("tokens_per_s").count()
    )
    usual = usual.filter((pl.col("known") >= BASELINE_WINDOWS) & (pl.col("usual") > 0)).drop("known")
    behind = (1.0 - pl.col("tokens_per_s") / pl.col("usual")).clip(0.0, 1.0)
    seconds = pl.col("window_s") * _overlap()
    return (
        told.filter(_overlap() > 0)
        .join(usual, on=["incident", "workload"])
        .select(
            "incident", "workload", "time", "site",
            wasted_j=pl.when(pl.col("waste") == "slow").then(pl.col("energy_j") * behind * _overlap()),
            lost=pl.col("usual") * behind * seconds,
        )
        .collect()
    )  # fmt: skip


def _priced(energy: pl.DataFrame, fleet: Fleet, facility_samples: pl.LazyFrame) -> pl.DataFrame:
    """The cost of each incident's energy; one of which a part has no price has none."""
    told = energy.filter(pl.col("wasted_j").is_not_null()).with_columns(
        window=(pl.col("time").to_physical() // _LENGTH_NS * _LENGTH_NS).cast(pl.Datetime("ns")),
        pue=pl.col("site").replace_strict(fleet.pue, default=1.0, return_dtype=pl.Float64),
    )
    windows = told["window"].unique().sort().cast(pl.Datetime("us")).to_list()
    prices = rates(fleet, windows, facility_samples).select("site", "window", "currency", "price_per_kwh").collect()
    cost = pl.col("wasted_j") / _J_PER_KWH * pl.col("pue") * pl.col("price_per_kwh")
    whole = cost.is_not_null().all() & (pl.col("currency").n_unique() == 1)
    return (
        told.join(prices, on=["site", "window"], how="left")
        .group_by("incident")
        .agg(wasted_cost=pl.when(whole).then(cost.sum()), currency=pl.when(whole).then(pl.col("currency").first()))
    )


def with_impacts(
    rows: Iterable[Mapping[str, Any]], found: pl.DataFrame, before: Iterable[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Rows of incidents with what they cost so far: within the window, and before it."""
    of_window = {row["incident"]: row for row in found.iter_rows(named=True)}
    earlier = {row["incident"]: row for row in before}
    return [{**row, **_added(of_window.get(row["incident"]), earlier.get(row["incident"]))} for row in rows]


def _added(now: Mapping[str, Any] | None, before: Mapping[str, Any] | None) -> dict[str, Any]:
    told = [one for one in (before, now) if one is not None]
    currencies = {one["currency"] for one in told if one["currency"] is not None}
    # Money of two currencies is no sum; nor is what is priced of one day and not of the other.
    same = len(currencies) == 1 and all(one["wasted_cost"] is not None for one in told if one["wasted_j"] is not None)
    return {
        "wasted_j": sum_of(one["wasted_j"] for one in told),
        "lost_tokens": sum_of(one["lost_tokens"] for one in told),
        "wasted_cost": sum_of(one["wasted_cost"] for one in told) if same else None,
        "currency": currencies.pop() if same else None,
        "workload": next((one["workload"] for one in reversed(told) if one["workload"]), None),
    }
