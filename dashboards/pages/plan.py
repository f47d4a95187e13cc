"""The Plan page: where so many servers of a kind go, with the proof, what limits it, and the next best."""

from collections.abc import Sequence
from typing import Any, Final

import polars as pl
from dash import html

from analytics.planning.result import Plan
from dashboards import planned
from dashboards.controls import SITES, Choice, One, Values, Whole
from dashboards.data import plan as data
from dashboards.data.plan import PlanView
from dashboards.data.stored import Stored
from dashboards.figures import plan as figures
from dashboards.figures.style import legend_of
from dashboards.page import Content, Drawn, Offer, Page
from dashboards.parts import answered, beside, chart, notice, panel, tile, twins
from dashboards.words import ABSENT, date_apart, joined, money_apart, scaled

_CONTROLS: Final = (
    One("sku", "Servers of", placeholder="the smallest"),
    Whole("count", "How many", "1", 1, 10_000),
    SITES,
    Choice("power", "Planned with", data.POWERS, "peak"),
)
_PLACED: Final = planned.grid_of("placements", "Placement", planned.PLACED)
_PROOF: Final = planned.grid_of("proof", "Proof: every failure case, walked through", planned.PROVED)


def _body() -> Sequence[Any]:
    return (
        answered(
            html.Div(id="plan-answer"),
            panel(_PLACED.title, _PLACED.component("plan-placements"), aside=twins("plan-placements", _PLACED.title)),
            beside(
                [
                    chart("plan-margins", "Power left in each failure case", height=420, twin=False),
                    panel("What limits it", html.Div(id="plan-binding"), aside=twins("plan-binding", "What limits it")),
                ]
            ),
            panel(_PROOF.title, _PROOF.component("plan-proof"), aside=twins("plan-proof", _PROOF.title)),
        ),
    )


def _content(stored: Stored, values: Values, theme: str) -> Content:
    view = data.view(stored, values)
    margins = figures.margins(view, theme)
    return Content(
        notice=_nothing(view),
        status=_status(view),
        tiles=_tiles(view),
        charts={"margins": Drawn(figure=margins, words=_margin_words(view), legend=legend_of(margins))},
        grids={
            "placements": planned.placed(view.shown),
            "proof": planned.proof(planned.table_of(view.shown, "proof")),
        },
        slots={"answer": planned.answer(view.shown, "Cost a year"), "binding": planned.binding(view.shown)},
    )


def _nothing(view: PlanView) -> Any:
    if view.why is not None:
        ways = [f"{view.why}. ", html.Code("perfwatt fleet check FILE"), " checks a fleet.toml."]
        return notice("There is nothing to plan with", ways, color="yellow")
    plan = view.plan
    if plan is None or plan.found:
        return None
    asked = f"{planned.many(view.count, 'server')} of {view.sku}"
    if plan.status != "infeasible":
        return notice("No plan in time", plan.refusal(), color="yellow")
    most = sum(plan.most.values())
    below = f"At most {most:g} fit; where they go is shown below. " if view.shown is not None else "None fits. "
    return notice(f"There is no room for {asked}", planned.conflict(plan, asked, below), color="red")


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


def _tiles(view: PlanView) -> list[Any]:
    plan = view.shown
    if plan is None:
        return _no_tiles(view)
    placed, proof = plan.placements, plan.proof
    count, watts = int(placed["servers"].sum()), float(placed["power_w"].sum())
    racks, sites = placed["rack"].n_unique(), placed["site"].n_unique()
    least = proof.drop_nulls("margin_w").sort("margin_w").head(1).to_dicts()
    start, order = planned.ends(placed["start"])[1], planned.ends(placed["order_by"])[0]
    return [
        tile(
            "plan-tile-servers",
            "Placed" if count == view.count else f"Fit, of {view.count}",
            f"{count:,}",
            f"{view.sku}",
            [f"in {planned.many(racks, 'rack')} of {planned.many(sites, 'site')}", joined(watts, "W")],
        ),
        tile("plan-tile-cost", "Cost", *money_apart(plan.cost, plan.currency), planned.basis(plan, "a year")),
        tile(
            "plan-tile-margin",
            "Least power left",
            *scaled(least[0]["margin_w"] if least else None, "W"),
            [f"at {least[0]['node']}", planned.least_left(least[0]["case"])] if least else [],
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


def _margin_words(view: PlanView) -> str:
    rows = figures.cases(view)
    if rows.is_empty():
        return "No placement, no proof."
    first = rows.row(0, named=True)
    shown = f"The {figures.BARS} of {rows.height} cases with least left. " if rows.height > figures.BARS else ""
    left = f"{joined(first['margin_w'], 'W')} of {joined(first['capacity_w'], 'W')}"
    return f"{shown}Least is left at {first['node']}: {left}."


def _twin(name: str) -> Any:
    def frame(stored: Stored, values: Values) -> pl.DataFrame:
        return planned.table_of(data.view(stored, values).shown, name)

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
