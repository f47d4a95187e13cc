"""
What to do about capacity: one row for each thing, with its evidence.

Effects are watts: low, mid and high by the 95th percentile, the percentile that counts, and the maximum of the load.
Power that is moved or left free costs no performance, so there is no risk to tell.
"""

import hashlib
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import polars as pl

from analytics.capacity.assessment import Assessment
from analytics.capacity.headroom import METHOD, Survey
from analytics.capacity.ledger import ledger
from analytics.capacity.runway import short_w
from analytics.capacity.tree import NOTHING
from analytics.fleet import Sku

ADVICE: Final = pl.Schema(
    {
        "recommendation": pl.String(), "time": pl.Datetime("ns"), "kind": pl.String(), "scope": pl.String(),
        "name": pl.String(), "site": pl.String(), "summary": pl.String(), "start": pl.Datetime("ns"),
        "end": pl.Datetime("ns"), "samples": pl.Int64(), "covered_ratio": pl.Float64(), "baseline": pl.String(),
        "proposed": pl.String(), "effect_low": pl.Float64(), "effect_mid": pl.Float64(), "effect_high": pl.Float64(),
        "effect_unit": pl.String(), "risk_low": pl.Float64(), "risk_mid": pl.Float64(), "risk_high": pl.Float64(),
        "cost": pl.Float64(), "saving_per_year": pl.Float64(), "currency": pl.String(), "price_basis": pl.String(),
        "method_version": pl.String(), "query": pl.String(), "state": pl.String(), "reason": pl.String(),
        "realised": pl.Float64(),
    }
)  # fmt: skip

SOON_DAYS: Final = 90
"""How far ahead an order has to be due to be recommended."""


def advice(
    found: Assessment,
    rows: pl.DataFrame,
    *,
    sku: Sku | None = None,
    paths: Mapping[str, pl.DataFrame] | None = None,
    without: Collection[str] = (),
) -> pl.DataFrame:
    """
    Recommendations from an assessment.

    In:  rows: `analytics.capacity.assessment.nodes` of it; *sku*: the server that is to fit; *paths*: as
         *rows* were made with; *without*: nodes whose overload something else ends.
    Out: `ADVICE`, the columns of the table recommendations. Kinds: ``move`` (a node is overloaded in a failure case),
         ``cord`` (a rack has one feed, or two that fail together), ``buy`` (it runs out within the horizon), ``plan``
         (what planning by measured load instead of nameplates makes usable), ``measure`` (hosts of which too little
         is known).
    """
    told: list[dict[str, Any]] = []
    for one in found.surveys:
        own = rows.filter(site=one.tree.site.name)
        over = own.filter(~pl.col("node").is_in(list(without)))
        ahead = (paths or {}).get(one.tree.site.name)
        for part in (_overloads(one, over), _cords(one), _purchases(one, own, ahead), _padding(one, sku), _gaps(one)):
            told.extend(part)
    for site, reason in found.refused.items():
        told.append(_needs_data(site, reason))
    return pl.DataFrame(told, schema=ADVICE, orient="row")


def recommendation(found: Survey, kind: str, scope: str, name: str, *, key: str = "", **values: Any) -> dict[str, Any]:
    """
    A row of `ADVICE` about a place, of the window that was looked at; *values* are its columns.

    `show` names what `perfwatt capacity` shows as evidence, where no query does; *key* tells rows of one kind and name
    apart.
    """
    site, load = found.tree.site.name, found.load
    window = f"--since @{load.start_ns // 1_000_000_000} --until @{load.end_ns // 1_000_000_000}"
    samples = int(load.power_w.size) if load.measured else 0
    return {
        **dict.fromkeys(ADVICE.names()),
        "recommendation": _id(kind, scope, f"{name}/{key}" if key else name), "time": load.end_ns, "kind": kind,
        "scope": scope, "name": name, "site": site, "start": load.start_ns, "end": load.end_ns, "samples": samples,
        "covered_ratio": load.covered_ratio, "effect_unit": "W", "method_version": METHOD,
        "query": f"perfwatt capacity --show {values.pop('show', 'nodes')} {window}", "state": "new", **values,
    }  # fmt: skip


def _id(kind: str, scope: str, name: str) -> str:
    return hashlib.blake2b(f"{kind}/{scope}/{name}".encode(), digest_size=8).hexdigest()


def kw(watts: float) -> str:
    """Watts in kilowatts."""
    return f"{watts / 1000.0:,.1f} kW"


def _overloads(found: Survey, rows: pl.DataFrame) -> Iterator[dict[str, Any]]:
    for one in rows.filter(pl.col("headroom_w") < 0).iter_rows(named=True):
        name, safe, over = one["node"], one["safe_w"], -one["headroom_w"]
        minutes = _worst_minutes(found, name, one["worst_failure"])
        low, high = (max(0.0, float(np.quantile(minutes, q)) - safe) for q in (0.95, 1.0))
        case = "as it is" if one["worst_failure"] == NOTHING else f"with {one['worst_failure']} lost"
        yield recommendation(
            found, "move", one["kind"], name,
            summary=f"{name} carries {kw(one['failure_load_w'])} {case} and may carry {kw(safe)}: "
                    f"move {kw(over)} elsewhere; overloaded so in {100 * one['exceedance_ratio']:.1f} % of minutes",
            baseline=f"{kw(one['failure_load_w'])} {case}", proposed=f"at most {kw(safe)}",
            effect_low=min(low, over), effect_mid=over, effect_high=max(high, over), show="nodes",
        )  # fmt: skip


def _worst_minutes(found: Survey, name: str, failure: str) -> np.ndarray:
    if name not in found.tree.at:
        return found.rows[name] if name in found.rows else np.zeros(1)
    case = next(case for case in found.tree.cases if case.name == failure)
    return found.case_w(case, found.tree.at[name])


def _cords(found: Survey) -> Iterator[dict[str, Any]]:
    paired = any(len(pool) > 1 for pool in found.tree.racks.values())
    for rack in found.racks:
        peak = found.peak_w(rack.name)
        if not rack.feeds or peak <= 0:
            continue
        lost = [case.name for case in found.tree.cases if tuple(rack.feeds) in found.tree.dark(case)]
        minutes = found.rows[rack.name]
        effect: dict[str, Any] = {
            "effect_low": float(np.quantile(minutes, 0.5)),
            "effect_mid": peak,
            "effect_high": float(minutes.max()),
        }
        if len(rack.feeds) > 1 and lost:
            yield recommendation(
                found, "cord", "rack", rack.name, baseline=f"both feeds fail with {lost[0]}", show="cases",
                summary=f"{rack.name} ({kw(peak)}) has feeds {' and '.join(rack.feeds)}, and both fail with {lost[0]}",
                proposed="feeds that nothing takes away together", **effect,
            )  # fmt: skip
        elif len(rack.feeds) == 1 and paired:
            yield recommendation(
                found, "cord", "rack", rack.name, baseline=f"one feed, {rack.feeds[0]}", show="cases",
                summary=f"{rack.name} ({kw(peak)}) hangs on {rack.feeds[0]} alone, where others here have two feeds",
                proposed="a second feed", **effect,
            )  # fmt: skip


def _purchases(found: Survey, rows: pl.DataFrame, ahead: pl.DataFrame | None) -> Iterator[dict[str, Any]]:
    """What runs out by itself and is to be ordered soon; what is above it has a row of its own."""
    soon = pl.from_epoch(pl.lit(found.load.end_ns), time_unit="ns").dt.offset_by(f"{SOON_DAYS}d")
    due = rows.filter(pl.col("runway_p10").is_not_null() & (pl.col("order_by") <= soon) & (pl.col("kind") != "rack"))
    own = due.filter(~pl.col("binding").str.starts_with("power of "))
    end = datetime.fromtimestamp(found.load.end_ns / 1e9, tz=UTC).replace(tzinfo=None)
    # Two feeds of the same racks run out at once, and are bought together.
    alike = ["kind", "binding", "runway_p10", "runway_p50", "runway_p90", "order_by"]
    for _, part in own.group_by(alike, maintain_order=True):
        one, names = part.row(0, named=True), " and ".join(part["node"])
        dates = " / ".join(day(one[f"runway_p{percent}"]) for percent in (10, 50, 90))
        late = one["order_by"] < end
        of = ahead if one["binding"] == "power" else None
        low, mid, high = (None, None, None) if of is None else short_w(found, of, one["node"])
        lacks = "" if high is None else f", {kw(high)} are lacking by then in one path of ten"
        yield recommendation(
            found, "buy", one["kind"], one["node"], baseline=f"runs out {dates} (p10/p50/p90)",
            summary=f"{names}: {one['binding']} runs out {dates} (p10/p50/p90), in "
                    f"{100 * one['runs_out_ratio']:.0f} % of {one['paths']} paths up to {day(one['horizon'])}{lacks}; "
                    f"{'it was to be ordered' if late else 'order'} by {day(one['order_by'])}, as the lead time is "
                    f"{one['lead_days']:g} days",
            proposed=f"more {one['binding']} by {day(one['runway_p10'])}", effect_low=low, effect_mid=mid,
            effect_high=high, effect_unit=None if high is None else "W",
        )  # fmt: skip


def day(moment: datetime | None) -> str:
    """A date; none is beyond what is known."""
    return "beyond" if moment is None else f"{moment:%Y-%m-%d}"


def _padding(found: Survey, sku: Sku | None) -> Iterator[dict[str, Any]]:
    if sku is None or not found.load.measured:
        return
    lines = dict(ledger(found, sku).select("cause", "power_w").iter_rows())
    padding = lines.get("nameplate", 0.0)
    if padding > 0:
        yield recommendation(
            found, "plan", "site", found.tree.site.name, show="ledger",
            summary=f"{found.tree.site.name}: planned by measured peaks instead of nameplates, {kw(padding)} more can "
                    f"be used by servers of {sku.name}, safe in every single failure",
            baseline=f"{kw(lines['deployable'])} by nameplates",
            proposed=f"{kw(lines['deployable'] + padding)} by measured peaks",
            effect_low=padding, effect_mid=padding, effect_high=padding,
        )  # fmt: skip


def _gaps(found: Survey) -> Iterator[dict[str, Any]]:
    site = found.tree.site.name
    unknown = sorted({host for leaf in found.load.leaves for host in leaf.unknown})
    for hosts, lacks in ((unknown, "neither power nor nameplate is known"),
                         (sorted(found.load.partial), "only the accelerators are known")):  # fmt: skip
        if hosts:
            few = ", ".join(hosts[:3]) + (" ..." if len(hosts) > 3 else "")
            row = recommendation(
                found, "measure", "site", site, summary=f"{site}: of {len(hosts)} hosts ({few}) {lacks}",
                baseline=lacks, effect_unit=None,
                proposed="read the platform's power, or give [sku.server] or nameplate_w in fleet.toml",
            )  # fmt: skip
            yield {**row, "recommendation": _id("measure", lacks, site)}


def _needs_data(site: str, reason: str) -> dict[str, Any]:
    return {
        **dict.fromkeys(ADVICE.names()), "recommendation": _id("measure", "site", site), "kind": "measure",
        "scope": "site", "name": site, "site": site, "summary": reason, "method_version": METHOD,
        "state": "needs_data", "reason": reason, "query": "perfwatt capacity",
    }  # fmt: skip
