"""The Plans page: which servers come where and when, period by period, at which cost, and the proof that they hold."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import polars as pl
from dash import html

from analytics.planning.result import Plan
from dashboards import planned
from dashboards.controls import One, Values
from dashboards.data import plans as data
from dashboards.data.plans import PlansView
from dashboards.data.stored import Stored
from dashboards.figures import plans as figures
from dashboards.figures.style import legend_of
from dashboards.grids import Column
from dashboards.page import Content, Drawn, Page
from dashboards.parts import answered, beside, chart, heat_table, notice, panel, remark, small_table, tile, twins
from dashboards.words import ABSENT, date_apart, joined, money, money_apart, scaled, when

_CONTROLS: Final = (One("plan", "Plan", placeholder="the first"),)
_PERIOD: Final = Column(name="period_shown", heading="Period", form=",.0f", width=72)
_PLACED: Final = planned.grid_of("placements", "Placement", (planned.PLACED[0], _PERIOD, *planned.PLACED[1:]))
_PROOF: Final = planned.grid_of(
    "proof",
    "Proof: every failure case of every period in which something changes",
    (planned.PROVED[0], _PERIOD, *planned.PROVED[1:]),
)
_CHARTS: Final = {"servers": figures.servers, "money": figures.money, "margins": figures.margins}


def _body() -> Sequence[Any]:
    tables = (("periods", "Period by period"), ("binding", "What limits it at the end"))
    periods, binding = (
        panel(title, html.Div(id=f"plans-{name}"), aside=twins(f"plans-{name}", title)) for name, title in tables
    )
    return (
        answered(
            periods,
            beside(
                [
                    chart("plans-servers", "Servers that stand, by site and type", twin=False),
                    chart("plans-money", "What is bought, and what may be", twin=False),
                    chart("plans-margins", "Least power left in any failure", twin=False),
                ],
                columns=3,
            ),
            html.Div(id="plans-answer"),
            panel(_PLACED.title, _PLACED.component("plans-placements"), aside=twins("plans-placements", _PLACED.title)),
        ),
        beside(
            [binding, panel("What was asked for", html.Div(id="plans-asked"))],
        ),
        answered(panel(_PROOF.title, _PROOF.component("plans-proof"), aside=twins("plans-proof", _PROOF.title))),
        panel("Plans that were kept", html.Div(id="plans-kept"), aside=twins("plans-kept", "Plans that were kept")),
    )


def _content(stored: Stored, values: Values, theme: str) -> Content:
    view = data.view(stored, values)
    drawn = {name: draw(view, theme) for name, draw in _CHARTS.items()}
    words = dict(zip(_CHARTS, _captions(view), strict=True))
    found = view.plan if view.plan is not None and view.plan.found else None
    return Content(
        notice=_nothing(view),
        status=_status(view),
        tiles=_tiles(view),
        charts={
            name: Drawn(figure=figure, words=words[name], legend=legend_of(figure)) for name, figure in drawn.items()
        },
        grids={
            "placements": planned.placed(found),
            "proof": planned.proof(planned.table_of(found, "proof")),
        },
        slots={
            "periods": _periods(view),
            "answer": planned.answer(found, "Cost up to the end", by=("site",)),
            "binding": planned.binding(found),
            "asked": _asked(view),
            "kept": _kept(view),
        },
    )


def _nothing(view: PlansView) -> Any:
    if view.why is not None:
        ways = [
            f"{view.why}. A file such as plan.toml beside fleet.toml is shown here; ",
            html.Code("perfwatt plan FILE --keep"),
            " keeps what it answers.",
        ]
        return notice("There is no plan to show", ways, color="yellow")
    plan = view.plan
    if plan is None or plan.found:
        return None
    if plan.status != "infeasible":
        return notice("No plan in time", plan.refusal(), color="yellow")
    told = ", ".join(f"{amount:g} of {name}" for name, amount in plan.most.items())
    most = f"At most {told}, each by itself. " if told else ""
    return notice("There is no such plan", planned.conflict(plan, "", most), color="red")


def _status(view: PlansView) -> str:
    plan = view.plan
    if plan is None:
        return "No plan."
    request = plan.request
    spans = f"{planned.many(request.periods, 'period')} of {request.period_days:g} days from {request.start:%Y-%m-%d}"
    loads = f"by the load of {', '.join(view.surveyed)}"
    grows = f", which grows by {request.growth_ratio_per_year:.0%} a year" if request.growth_ratio_per_year else ""
    before = ""
    if view.kept_at is not None:
        cost = "" if view.kept_cost is None else f" at {view.kept_cost:,.0f} {plan.currency or ''}".rstrip()
        before = f" It was kept on {when(view.kept_at)}{cost}; what is shown is by the load of now."
    refused = f" Left out: {'; '.join(view.refused)}." if view.refused else ""
    return f"{view.name}: {spans}, {loads}{grows.replace('%', ' %')}.{before}{refused}"


def _tiles(view: PlansView) -> list[Any]:
    plan = view.plan
    if plan is None or not plan.found:
        return []
    placed, rows = plan.placements, view.periods
    order, start = planned.ends(placed["order_by"])[0], planned.ends(placed["start"])[0]
    least = rows.drop_nulls("margin_w").sort("margin_w").head(1).to_dicts()
    spent = float(rows["capital"].sum()) if rows["capital"].count() else None
    budget = float(rows["budget"].sum()) if rows["budget"].count() else None
    return [
        tile(
            "plans-tile-servers", "Servers", f"{int(placed['servers'].sum()):,}", "",
            [f"at {planned.many(placed['site'].n_unique(), 'site')}", joined(float(placed["power_w"].sum()), "W")],
        ),
        tile(
            "plans-tile-cost", "Cost up to the end", *money_apart(plan.cost, plan.currency),
            planned.basis(plan, "discounted"),
        ),
        tile(
            "plans-tile-capital", "Capital", *money_apart(spent, plan.currency),
            ["no budget is told" if budget is None else f"of {money(budget, plan.currency)} that may be spent"],
        ),
        tile(
            "plans-tile-order", "First order", *date_apart(order),
            [f"first servers stand on {start:%Y-%m-%d}" if start else "nothing is placed"],
        ),
        tile(
            "plans-tile-margin", "Least power left", *scaled(least[0]["margin_w"] if least else None, "W"),
            [f"at {least[0]['node']}, {planned.least_left(least[0]['case'])}", f"in period {least[0]['period'] + 1}"]
            if least else [],
        ),
        tile(
            "plans-tile-proof", "Failure cases", f"{plan.proof.height:,}", "walked",
            [f"{int(plan.proof['checked'].sum()):,} nodes and circuits checked", "none overloaded by the new servers"],
        ),
    ]  # fmt: skip


def _captions(view: PlansView) -> list[str]:
    rows = view.periods
    if rows.is_empty():
        return ["Nothing to show." for _ in _CHARTS]
    last = rows.row(-1, named=True)
    least = rows.drop_nulls("margin_w").sort("margin_w").head(1).to_dicts()
    spent = "Nobody told prices." if last["capital"] is None else _spent(rows)
    place = (
        f"{joined(least[0]['margin_w'], 'W')} in period {least[0]['period'] + 1}, at {least[0]['node']}, "
        f"{planned.least_left(least[0]['case'])}."
        if least
        else "Nothing is placed."
    )
    return [f"{last['standing']:,} servers at the end, {joined(last['standing_w'], 'W')}.", spent, place]


def _spent(rows: pl.DataFrame) -> str:
    currency, spent = rows["currency"][0], float(rows["capital"].sum())
    left = rows["left"][-1]
    rest = f"; {left:,.0f} {currency} is left at the end" if left is not None else ""
    return f"{spent:,.0f} {currency} in all{rest}."


def _periods(view: PlansView) -> Any:
    rows = view.periods
    if rows.is_empty():
        return remark("There is no plan.", dim=True)
    currency = rows["currency"][0] or ""
    assert view.plan is not None
    cells = [
        (
            str(row["period"] + 1), _day(row["start"]), _day(row["order_by"]),
            f"{row['servers']:,}", joined(row["power_w"], "W"), _amount(row["capital"]), _amount(row["left"]),
            _amount(row["cost"]), ABSENT if row["margin_w"] is None else joined(row["margin_w"], "W"),
            _where(view.plan, row["period"]),
        )
        for row in rows.iter_rows(named=True)
    ]  # fmt: skip
    money = f" ({currency})" if currency else ""
    headings = (
        "Period", "From", "Order by", "New servers", "New power", f"Capital{money}", f"Budget left{money}",
        f"Cost{money}", "Least left", "Where",
    )  # fmt: skip
    caption = "Cost: of the servers that come in the period, up to the end of the plan, discounted to its start."
    return small_table(headings, cells, numbers=range(3, 9), caption=caption)


def _day(moment: datetime | None) -> Any:
    return ABSENT if moment is None else html.Span(f"{moment:%Y-%m-%d}", className="pw-whole-word")


def _amount(value: float | None) -> str:
    return ABSENT if value is None else f"{value:,.0f}"


def _where(plan: Plan, period: int) -> Any:
    """What comes in a period, and to which sites."""
    mine = plan.placements.filter(pl.col("period") == period)
    sums = mine.group_by("site", "sku", maintain_order=True).agg(pl.col("servers").sum())
    told = [f"{servers} {sku} at {site}" for site, sku, servers in sums.iter_rows()]
    parts = [f"{part}," for part in told[:-1]] + told[-1:]
    return html.Span([part for told in parts for part in (html.Span(told, className="pw-whole-word"), " ")] or ABSENT)


def _asked(view: PlansView) -> Any:
    if view.plan is None:
        return remark("Nothing is asked for.", dim=True)
    request = view.plan.request
    amounts = data.asked(request)
    most = max((amount for told in amounts.values() for amount in told), default=0.0) or 1.0
    rows = [
        (
            f"{demand.name} ({' or '.join(demand.skus)})",
            [(f"{amount:,g}" if amount else "", amount / most, demand.unit) for amount in amounts[demand.name]],
        )
        for demand in request.demands
    ]
    units = sorted({demand.unit for demand in request.demands})
    return heat_table(
        "Demand", [str(period + 1) for period in range(request.periods)], rows,
        caption=f"How much more from each period on, in {', '.join(units)}.",
    )  # fmt: skip


def _kept(view: PlansView) -> Any:
    if view.kept.is_empty():
        way = html.Code("perfwatt plan FILE --keep")
        return remark(["None was kept. ", way, " keeps what it answers."], dim=True)
    rows = [
        (
            html.A(row["plan"], href=f"/plans?plan={row['plan']}", className="pw-link"),
            when(row["time"]), row["status"], _amount(row["servers"]),
            ABSENT if row["cost"] is None else f"{row['cost']:,.0f} {row['currency']}",
        )
        for row in view.kept.head(20).iter_rows(named=True)
    ]  # fmt: skip
    return small_table(("Plan", "Kept", "Status", "Servers", "Cost"), rows, numbers=(3, 4), caption="The latest first.")


def _twin(name: str) -> Any:
    def frame(stored: Stored, values: Values) -> pl.DataFrame:
        view = data.view(stored, values)
        if name in {"periods", "kept"}:
            found: pl.DataFrame = getattr(view, name)
            return found
        return planned.table_of(view.plan if view.plan is not None and view.plan.found else None, name)

    return frame


PAGE: Final = Page(
    name="plans",
    label="Plans",
    group="Capacity",
    title="Plans: what comes where and when",
    about="Servers by site and period at least cost, within budget, safe in every single failure; or what forbids it.",
    controls=_CONTROLS,
    body=_body,
    content=_content,
    offer=data.known,
    twins={name: _twin(name) for name in ("periods", "placements", "proof", "binding", "kept")},
    charts=tuple(_CHARTS),
    grids=(_PLACED, _PROOF),
    slots=("periods", "answer", "binding", "asked", "kept"),
    linked=("periods", "binding", "kept"),
)
