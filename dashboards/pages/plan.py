"""The Plan page: where so many servers of a kind go, with the proof, what limits it, and the next best."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import dash_mantine_components as dmc
import polars as pl
from dash import html

from analytics.planning.proof import PROOF
from analytics.planning.result import BINDING, Plan
from dashboards.controls import SITES, Choice, One, Values, Whole
from dashboards.data import plan as data
from dashboards.data.plan import PlanView
from dashboards.data.stored import Stored
from dashboards.figures import plan as figures
from dashboards.figures.style import legend_of
from dashboards.grids import Column, Grid
from dashboards.page import Content, Drawn, Offer, Page
from dashboards.parts import chart, notice, panel, small_table, tile, twins
from dashboards.words import ABSENT, date_apart, joined, percent, scaled

_CONTROLS: Final = (
    One("sku", "Servers of", placeholder="the smallest"),
    Whole("count", "How many", "1", 1, 10_000),
    SITES,
    Choice("power", "Planned with", data.POWERS, "peak"),
)
_PLACED: Final = Grid(
    name="placements",
    title="Placement",
    key="key",
    columns=(
        Column(name="option_shown", heading="Plan", width=96, pinned=True),
        Column(name="site", heading="Site", width=100, filter=True),
        Column(name="rack", heading="Rack", width=130, flex=2, filter=True),
        Column(name="servers", heading="Servers", form=",.0f", width=80),
        Column(name="power_w", heading="Power (kW)", form=",.1f", scale=1e-3),
        Column(name="domain", heading="Feeds", width=190, flex=2, filter=True),
        Column(name="worst_failure", heading="Worst failure", width=150, flex=2),
        Column(name="binding", heading="Least left at", width=130, flex=2),
        Column(name="margin_w", heading="Left there (kW)", form=",.2f", scale=1e-3),
        Column(name="cost", heading="Cost a year", form=",.0f", width=104),
        Column(name="currency", heading="Currency", width=86),
        Column(name="order_day", heading="Order by", width=104),
        Column(name="start_day", heading="Stands on", width=104),
    ),
)
_PROOF: Final = Grid(
    name="proof",
    title="Proof: every failure case, walked through",
    key="key",
    columns=(
        Column(name="case_shown", heading="Lost", width=190, flex=2, pinned=True, filter=True),
        Column(name="site", heading="Site", width=100, filter=True),
        Column(name="node", heading="Least left at", width=150, flex=2, filter=True),
        Column(name="load_w", heading="Carries (kW)", form=",.1f", scale=1e-3),
        Column(name="capacity_w", heading="May carry (kW)", form=",.1f", scale=1e-3),
        Column(name="margin_w", heading="Left (kW)", form=",.2f", scale=1e-3),
        Column(name="dark", heading="Racks without power", form=",.0f", width=100),
        Column(name="checked", heading="Nodes checked", form=",.0f", width=92),
    ),
)


def _body() -> Sequence[Any]:
    return (
        html.Div(id="plan-answer"),
        panel(_PLACED.title, _PLACED.component("plan-placements"), aside=twins("plan-placements", _PLACED.title)),
        dmc.SimpleGrid(
            [
                chart("plan-margins", "Power left in each failure case", height=420, twin=False),
                panel("What limits it", html.Div(id="plan-binding"), aside=twins("plan-binding", "What limits it")),
            ],
            cols={"base": 1, "md": 2},
            spacing="sm",
        ),
        panel(_PROOF.title, _PROOF.component("plan-proof"), aside=twins("plan-proof", _PROOF.title)),
    )


def _content(stored: Stored, values: Values, theme: str) -> Content:
    view = data.view(stored, values)
    margins = figures.margins(view, theme)
    return Content(
        notice=_nothing(view),
        status=_status(view),
        tiles=_tiles(view),
        charts={"margins": Drawn(figure=margins, words=_margin_words(view), legend=legend_of(margins))},
        grids={"placements": _placements(view), "proof": _proof(view)},
        slots={"answer": _answer(view), "binding": _binding(view)},
    )


def _nothing(view: PlanView) -> Any:
    if view.why is not None:
        ways = [f"{view.why}. ", html.Code("perfwatt fleet check FILE"), " checks a fleet.toml."]
        return notice("There is nothing to plan with", ways, color="yellow")
    plan = view.plan
    if plan is None or plan.found:
        return None
    asked = f"{_many(view.count, 'server')} of {view.sku}"
    if plan.status != "infeasible":
        return notice("No plan in time", plan.refusal(), color="yellow")
    most = sum(plan.most.values())
    below = f"At most {most:g} fit; where they go is shown below. " if view.shown is not None else "None fits. "
    listed = [html.Li(asked if name == f"demand {view.sku}" else name) for name in plan.conflict]
    text = [below, "In conflict are these; without any one of them the rest could be met:", html.Ul(listed)]
    return notice(f"There is no room for {asked}", text, color="red")


def _status(view: PlanView) -> str:
    if view.plan is None:
        return "No plan."
    surveyed = f"By the load of {', '.join(view.surveyed)}, each server at its {_power(view.plan)}."
    refused = f" Left out: {'; '.join(view.refused)}." if view.refused else ""
    alone = view.shown is not None and view.shown.runner_up is None
    other = " There is no other place for them, so there is no next best." if alone else ""
    return f"{surveyed} Safe is what holds in every single failure of a feed, unit or cord.{other}{refused}"


def _power(plan: Plan) -> str:
    return "nameplate" if plan.request.nameplate else "peak"


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def _tiles(view: PlanView) -> list[Any]:
    plan = view.shown
    if plan is None:
        return _no_tiles(view)
    placed, proof = plan.placements, plan.proof
    count, watts = int(placed["servers"].sum()), float(placed["power_w"].sum())
    racks, sites = placed["rack"].n_unique(), placed["site"].n_unique()
    least = proof.drop_nulls("margin_w").sort("margin_w").head(1).to_dicts()
    start, order = _ends(placed["start"])[1], _ends(placed["order_by"])[0]
    cost = (ABSENT, "") if plan.cost is None else scaled(plan.cost, plan.currency or "")
    return [
        tile(
            "plan-tile-servers",
            "Placed" if count == view.count else f"Fit, of {view.count}",
            f"{count:,}",
            f"{view.sku}",
            [f"in {_many(racks, 'rack')} of {_many(sites, 'site')}", joined(watts, "W")],
        ),
        tile("plan-tile-cost", "Cost", *cost, _basis(plan)),
        tile(
            "plan-tile-margin",
            "Least power left",
            *scaled(least[0]["margin_w"] if least else None, "W"),
            [f"at {least[0]['node']}", "while all stands" if least[0]["case"] == "none" else f"{least[0]['case']} lost"]
            if least
            else [],
        ),
        tile(
            "plan-tile-proof",
            "Failure cases",
            f"{proof.height:,}",
            "walked",
            [f"{int(proof['checked'].sum()):,} nodes and circuits checked", "none overloaded by the new servers"],
        ),
        tile(
            "plan-tile-start",
            "Stands on",
            *date_apart(start),
            [f"order by {order:%Y-%m-%d}" if order else "no lead time told"],
        ),
    ]


def _no_tiles(view: PlanView) -> list[Any]:
    """None fits, or it is not known."""
    if view.plan is None:
        return []
    conflict = [f"{len(view.plan.conflict)} constraints in conflict"] if view.plan.conflict else ["not known in time"]
    return [
        tile(
            "plan-tile-servers", f"Fit, of {view.count}", "0" if view.plan.conflict else ABSENT, str(view.sku), conflict
        )
    ]


def _ends(moments: pl.Series) -> tuple[datetime | None, datetime | None]:
    """The first and the last of some moments."""
    found = moments.drop_nulls().sort().to_list()
    return (found[0], found[-1]) if found else (None, None)


def _basis(plan: Plan) -> list[str]:
    near = f"within {percent(plan.gap_ratio)} of the best" if plan.gap_ratio > 1e-6 else "no plan costs less"
    return [f"a year, {near}", plan.basis or ""] if plan.cost is not None else [plan.basis or "without prices"]


def _answer(view: PlanView) -> Any:
    """The plan beside the next best; of a plan alone the placement says it all."""
    plan = view.shown
    if plan is None or plan.runner_up is None:
        return None
    rows = [("Best", *_option(plan, None)), ("Next best", *_option(plan.runner_up, plan.cost))]
    caption = "" if plan.cost is not None else "Without prices, servers go where the most loaded node has most left."
    headings = ("Plan", "Cost a year", "More than the best", "Where")
    return panel("Answer", small_table(headings, rows, numbers=(1, 2), caption=caption, stacked=True))


def _option(plan: Plan, best: float | None) -> tuple[str, str, str]:
    placed = plan.placements.group_by("site", "rack", maintain_order=True).agg(pl.col("servers").sum())
    where = ", ".join(f"{servers} in {rack} ({site})" for site, rack, servers in placed.iter_rows())
    if plan.cost is None:
        return ABSENT, ABSENT, where
    over = ABSENT if best is None else f"{plan.cost - best:+,.0f}"
    return f"{plan.cost:,.0f} {plan.currency}", over, where


def _binding(view: PlanView) -> Any:
    if view.shown is None:
        return dmc.Text("Above is what is in conflict." if view.plan else "Nothing is planned.", size="sm", c="dimmed")
    rows = view.shown.binding
    if rows.is_empty():
        return dmc.Text("Every limit leaves room for one more server; nothing binds yet.", size="sm", c="dimmed")
    cells = [
        ("while all stands" if row["case"] in {None, "none"} else f"{row['case']} lost", f"{row['servers']:.2f} server",
         row["constraint"])
        for row in rows.head(12).iter_rows(named=True)
    ]  # fmt: skip
    more = f" {rows.height - 12} more in the file." if rows.height > 12 else ""
    caption = f"Limits that leave less than one more server, and how much of one.{more}"
    return small_table(("In which case", "Room for", "Limit"), cells, numbers=(1,), caption=caption, stacked=True)


def _margin_words(view: PlanView) -> str:
    rows = figures.cases(view)
    if rows.is_empty():
        return "No placement, no proof."
    first = rows.row(0, named=True)
    shown = f"The {figures.BARS} of {rows.height} cases with least left. " if rows.height > figures.BARS else ""
    left = f"{joined(first['margin_w'], 'W')} of {joined(first['capacity_w'], 'W')}"
    return f"{shown}Least is left at {first['node']}: {left}."


def _placements(view: PlanView) -> pl.DataFrame:
    rows = view.placements
    if rows.is_empty():
        return pl.DataFrame()
    return rows.with_columns(
        key=pl.concat_str("option", "rack", "sku", "period", separator="/"),
        option_shown=pl.when(pl.col("option") == 1).then(pl.lit("best")).otherwise(pl.lit("next best")),
        start_day=pl.col("start").dt.strftime("%Y-%m-%d"),
        order_day=pl.col("order_by").dt.strftime("%Y-%m-%d"),
    )


def _proof(view: PlanView) -> pl.DataFrame:
    if view.shown is None or view.shown.proof.is_empty():
        return pl.DataFrame()
    nothing = pl.col("case") == "none"
    return view.shown.proof.with_columns(
        key=pl.concat_str("site", "period", "case", separator="/"),
        case_shown=pl.when(nothing).then(pl.lit("nothing")).otherwise("case"),
    ).sort("margin_w", nulls_last=True)


def _twin(name: str) -> Any:
    def frame(stored: Stored, values: Values) -> pl.DataFrame:
        view = data.view(stored, values)
        if name == "placements":
            return view.placements
        empty = pl.DataFrame(schema=PROOF if name == "proof" else BINDING)
        return empty if view.shown is None else {"proof": view.shown.proof, "binding": view.shown.binding}[name]

    return frame


def _offer(stored: Stored, values: Values) -> Offer:
    return data.known(stored, values)


PAGE: Final = Page(
    name="plan",
    label="Plan",
    group="Capacity",
    title="Plan: where the next servers go",
    about="Racks that take so many servers at least cost, safe in every single failure; or what forbids it.",
    controls=_CONTROLS,
    body=_body,
    content=_content,
    offer=_offer,
    twins={name: _twin(name) for name in ("placements", "proof", "binding")},
    charts=("margins",),
    grids=(_PLACED, _PROOF),
    slots=("answer", "binding"),
    linked=("binding",),
)
