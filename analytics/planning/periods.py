"""A plan period by period: what comes, what it costs, and what is left of the budget."""

from typing import Any, Final

import polars as pl

from analytics.fleet import Fleet
from analytics.planning.prices import capital
from analytics.planning.result import Plan

PERIODS: Final = pl.Schema(
    {
        "period": pl.Int64(), "start": pl.Datetime("ns"), "end": pl.Datetime("ns"), "order_by": pl.Datetime("ns"),
        "servers": pl.Int64(), "standing": pl.Int64(), "power_w": pl.Float64(), "standing_w": pl.Float64(),
        "cost": pl.Float64(), "capital": pl.Float64(), "budget": pl.Float64(), "left": pl.Float64(),
        "currency": pl.String(), "margin_w": pl.Float64(), "node": pl.String(), "case": pl.String(),
    }
)  # fmt: skip


def by_period(told: Plan, fleet: Fleet) -> pl.DataFrame:
    """
    What a plan does in each of its periods; empty of a plan that is none.

    Out: `PERIODS`: servers and power_w of what comes in the period, standing and standing_w of all that came so far;
    order_by: when the first of them has to be ordered; cost: what those that come cost up to the end of the plan;
    capital: what buying them costs, budget: what may be spent on that in the period, left: of it and, where it carries,
    of the periods before (null without a budget); all money in the plan's currency, null without prices. margin_w: what
    is left at the node that has least in the failure case that leaves least.

    Raises: ConfigError (a price that nobody told).
    """
    if not told.found:
        return pl.DataFrame(schema=PERIODS)
    request, rows = told.request, []
    each = {} if told.cost is None else {name: _capital(told, fleet, name) for name in told.placements["sku"].unique()}
    standing, standing_w, left = 0, 0.0, 0.0
    for period in range(request.periods):
        mine = told.placements.filter(pl.col("period") == period)
        servers, watts = int(mine["servers"].sum()), float(mine["power_w"].sum())
        standing, standing_w = standing + servers, standing_w + watts
        spent = sum(each[sku] * count for sku, count in mine.select("sku", "servers").iter_rows()) if each else 0.0
        budget = None if request.budget is None or told.cost is None else request.budget[period]
        left = 0.0 if budget is None else (left if request.budget_carries else 0.0) + budget - spent
        rows.append({
            "period": period, "start": request.begin(period).replace(tzinfo=None),
            "end": request.begin(period + 1).replace(tzinfo=None), "order_by": mine["order_by"].min(),
            "servers": servers, "standing": standing, "power_w": watts, "standing_w": standing_w,
            "cost": None if told.cost is None else float(mine["cost"].sum()),
            "capital": None if told.cost is None else spent, "budget": budget,
            "left": None if budget is None else left, "currency": told.currency, **_least(told, period),
        })  # fmt: skip
    return pl.DataFrame(rows, schema=PERIODS, orient="row")


def proved(told: Plan, period: int) -> pl.DataFrame:
    """
    The proof of the sites that have servers by *period*: rows of `analytics.planning.proof.PROOF`.

    Periods between which nothing changes at a site are proved as one, which is called by its last.
    """
    sites = told.placements.filter(pl.col("period") <= period)["site"].unique()
    later = told.proof.filter(pl.col("site").is_in(sites.implode()), pl.col("period") >= period)
    return later.filter(pl.col("period") == pl.col("period").min().over("site"))


def _least(told: Plan, period: int) -> dict[str, Any]:
    rows = proved(told, period).drop_nulls("margin_w").sort("margin_w", "site", "case").head(1)
    return next(rows.select("margin_w", "node", "case").iter_rows(named=True), {})


def _capital(told: Plan, fleet: Fleet, name: str) -> float:
    """What a server of a SKU costs to buy, in the plan's currency."""
    sku = fleet.sku(name)
    assert sku is not None
    assert sku.currency is not None
    return capital(sku) * told.request.rate(sku.currency, f"sku {name}")
