"""The parts of a page that shows a plan: placements, proof, what limits it, the next best, what is in conflict."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import polars as pl
from dash import html

from analytics.planning.proof import PROOF
from analytics.planning.result import BINDING, PLACEMENTS, Plan
from dashboards.grids import Column, Grid
from dashboards.parts import panel, remark, small_table
from dashboards.words import ABSENT, percent

PLACED: Final = (
    Column(name="option_shown", heading="Plan", width=96, pinned=True),
    Column(name="site", heading="Site", width=100, filter=True),
    Column(name="rack", heading="Rack", width=130, flex=2, filter=True),
    Column(name="servers", heading="Servers", form=",.0f", width=80),
    Column(name="power_w", heading="Power (kW)", form=",.1f", scale=1e-3),
    Column(name="domain", heading="Feeds", width=190, flex=2, filter=True),
    Column(name="worst_failure", heading="Worst failure", width=150, flex=2),
    Column(name="binding", heading="Least left at", width=130, flex=2),
    Column(name="margin_w", heading="Left there (kW)", form=",.2f", scale=1e-3),
    Column(name="cost", heading="Cost", form=",.0f", width=104),
    Column(name="currency", heading="Currency", width=86),
    Column(name="order_day", heading="Order by", width=104),
    Column(name="start_day", heading="Stands on", width=104),
)
"""The columns of `placed`."""
PROVED: Final = (
    Column(name="case_shown", heading="Lost", width=190, flex=2, pinned=True, filter=True),
    Column(name="site", heading="Site", width=100, filter=True),
    Column(name="node", heading="Least left at", width=150, flex=2, filter=True),
    Column(name="load_w", heading="Carries (kW)", form=",.1f", scale=1e-3),
    Column(name="capacity_w", heading="May carry (kW)", form=",.1f", scale=1e-3),
    Column(name="margin_w", heading="Left (kW)", form=",.2f", scale=1e-3),
    Column(name="dark", heading="Racks without power", form=",.0f", width=100),
    Column(name="checked", heading="Nodes checked", form=",.0f", width=92),
)
"""The columns of `proof`."""
_BINDING: Final = 12


def grid_of(name: str, title: str, columns: Sequence[Column]) -> Grid:
    """A grid of placements or of a proof."""
    return Grid(name=name, title=title, key="key", columns=tuple(columns))


def many(count: int, what: str) -> str:
    """So many of something."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def ends(moments: pl.Series) -> tuple[datetime | None, datetime | None]:
    """The first and the last of some moments."""
    found = moments.drop_nulls().sort().to_list()
    return (found[0], found[-1]) if found else (None, None)


def placements(plan: Plan | None) -> pl.DataFrame:
    """The rows of a plan, and those of the next best."""
    plans = [] if plan is None else [one for one in (plan, plan.runner_up) if one is not None]
    return pl.concat([pl.DataFrame(schema=PLACEMENTS), *(one.placements for one in plans)])


def placed(plan: Plan | None) -> pl.DataFrame:
    """The same as a grid shows them."""
    rows = placements(plan)
    if rows.is_empty():
        return pl.DataFrame()
    return rows.with_columns(
        key=pl.concat_str("option", "rack", "sku", "period", separator="/"),
        option_shown=pl.when(pl.col("option") == 1).then(pl.lit("best")).otherwise(pl.lit("next best")),
        period_shown=pl.col("period") + 1,
        start_day=pl.col("start").dt.strftime("%Y-%m-%d"),
        order_day=pl.col("order_by").dt.strftime("%Y-%m-%d"),
    )


def proof(rows: pl.DataFrame) -> pl.DataFrame:
    """The failure cases of a proof as a grid shows them, that with least left first."""
    if rows.is_empty():
        return pl.DataFrame()
    nothing = pl.col("case") == "none"
    return rows.with_columns(
        key=pl.concat_str("site", "period", "case", separator="/"),
        case_shown=pl.when(nothing).then(pl.lit("nothing")).otherwise("case"),
        period_shown=pl.col("period") + 1,
    ).sort("margin_w", nulls_last=True)


def table_of(plan: Plan | None, name: str) -> pl.DataFrame:
    """The placements, proof or binding limits of a plan, for whoever takes them away; empty without one."""
    if name == "placements":
        return placements(plan)
    empty = pl.DataFrame(schema=PROOF if name == "proof" else BINDING)
    return empty if plan is None else {"proof": plan.proof, "binding": plan.binding}[name]


def conflict(plan: Plan, asked: str, most: str) -> list[Any]:
    """What cannot all be met, and *most*: what could be; *asked* is what the ask itself is called."""
    listed = [html.Li(asked if name.startswith("demand ") and asked else name) for name in plan.conflict]
    return [most, "In conflict are these; without any one of them the rest could be met:", html.Ul(listed)]


def basis(plan: Plan, of: str) -> list[str]:
    """What a cost is of, and how near to the best it is."""
    near = f"within {percent(plan.gap_ratio)} of the best" if plan.gap_ratio > 1e-6 else "no plan costs less"
    return [f"{of}, {near}", plan.basis or ""] if plan.cost is not None else [plan.basis or "without prices"]


def least_left(case: str) -> str:
    """A failure case in words."""
    return "while all stands" if case == "none" else f"{case} lost"


def answer(plan: Plan | None, cost: str, *, by: Sequence[str] = ("site", "rack")) -> Any:
    """The plan beside the next best; of a plan alone the placement says it all."""
    if plan is None or plan.runner_up is None:
        return None
    rows = [("Best", *_option(plan, None, by)), ("Next best", *_option(plan.runner_up, plan.cost, by))]
    caption = "" if plan.cost is not None else "Without prices, servers go where the most loaded node has most left."
    headings = ("Plan", cost, "More than the best", "Where")
    return panel("Answer", small_table(headings, rows, numbers=(1, 2), caption=caption, stacked=True))


def _option(plan: Plan, best: float | None, by: Sequence[str]) -> tuple[str, str, str]:
    groups = plan.placements.group_by(by, maintain_order=True).agg(pl.col("servers").sum())
    where = ", ".join(
        f"{servers} in {places[-1]}" + (f" ({places[0]})" if len(places) > 1 else "")
        for *places, servers in groups.iter_rows()
    )
    if plan.cost is None:
        return ABSENT, ABSENT, where
    over = ABSENT if best is None else f"{plan.cost - best:+,.0f}"
    return f"{plan.cost:,.0f} {plan.currency}", over, where


def binding(plan: Plan | None) -> Any:
    """The limits that leave less than one more server."""
    if plan is None:
        return remark("Nothing is planned.", dim=True)
    # A limit of several places or periods is one.
    rows = plan.binding.unique(["constraint", "case"], keep="first", maintain_order=True)
    if rows.is_empty():
        return remark("Every limit leaves room for one more server; nothing binds yet.", dim=True)
    cells = [
        (ABSENT if row["case"] is None else least_left(row["case"]), f"{row['servers']:.2f} server", row["constraint"])
        for row in rows.head(_BINDING).iter_rows(named=True)
    ]
    more = f" {rows.height - _BINDING} more in the file." if rows.height > _BINDING else ""
    caption = f"Limits that leave less than one more server, and how much of one.{more}"
    return small_table(("In which case", "Room for", "Limit"), cells, numbers=(1,), caption=caption, stacked=True)
