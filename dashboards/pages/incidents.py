"""The Incidents page: what is wrong and what was, by site, severity, kind, rule and host."""

from collections.abc import Sequence
from typing import Any, Final

import polars as pl

from dashboards.controls import HOSTS, SITES, Choice, Choices, Values
from dashboards.data import incidents as data
from dashboards.data.incidents import SPANS, STATES, IncidentsView
from dashboards.data.stored import Stored
from dashboards.figures import incidents as figures
from dashboards.figures.style import legend_of
from dashboards.grids import Column, Grid
from dashboards.page import Content, Drawn, Offer, Page
from dashboards.parts import beside, chart, notice, panel, tile, twins, unmade
from dashboards.words import ABSENT, joined, money, scaled, watt_hours, when

_CONTROLS: Final = (
    Choice("state", "State", STATES, "open"),
    Choice("window", "Last seen within", tuple(SPANS), "7d"),
    Choice("severity", "From severity", ("info", "warning", "critical"), "info"),
    SITES,
    HOSTS,
    Choices("kind", "Kinds"),
    Choices("rule", "Rules"),
)
_GRID: Final = Grid(
    name="incidents",
    title="Incidents",
    key="incident",
    columns=(
        Column(name="incident", heading="Incident", width=132, pinned=True, filter=True, link="/incident?id="),
        Column(name="severity", heading="Severity", width=92, filter=True),
        Column(name="state", heading="State", width=88, filter=True),
        Column(name="kind", heading="Kind", width=140, filter=True),
        Column(name="said", heading="Evidence", width=330, flex=4, filter=True),
        Column(name="began", heading="Began (UTC)", width=156),
        Column(name="lasted_s", heading="Lasted (h)", form=",.1f", scale=1 / 3600, width=84),
        Column(name="name", heading="Of", width=150, filter=True),
        Column(name="host", heading="Host", width=130, filter=True),
        Column(name="site", heading="Site", width=96, filter=True),
        Column(name="devices", heading="Devices", form=",.0f", width=84),
        Column(name="wasted_j", heading="Wasted (kWh)", form=",.2f", scale=1 / 3.6e6),
        Column(name="wasted_cost", heading="Cost", form=",.2f", width=80),
        Column(name="currency", heading="Currency", width=88),
        Column(name="lost_tokens", heading="Tokens lost", form=".3~s"),
        Column(name="flaps", heading="Came back", form=",.0f", width=80),
        Column(name="rule", heading="Rules", width=140, filter=True),
    ),
)


def _body() -> Sequence[Any]:
    return (
        panel(_GRID.title, _GRID.component("incidents-incidents"), aside=twins("incidents-incidents", _GRID.title)),
        beside(
            [
                chart("incidents-begun", "When they began", height=240, twin=False),
                chart("incidents-cost", "What they wasted, by kind", height=240, twin=False),
            ]
        ),
    )


def _content(stored: Stored, values: Values, theme: str) -> Content:
    view = data.view(stored, values)
    late = unmade(view.standing)
    begun, cost = figures.begun(view, theme), figures.cost(view, theme)
    rows = view.incidents.with_columns(
        began=pl.col("start").dt.strftime("%Y-%m-%d %H:%M"),
        rule=pl.col("rule").str.replace_all(" ", ", "),
        kind=pl.col("kind").str.replace_all("_", " "),
        # Whom it is about has columns of its own.
        said=pl.col("evidence").str.replace(r"^[^:]*: ", ""),
    )
    found = late if late is not None else None
    if rows.is_empty() and found is None:
        found = notice(
            "No such incident", "None that is chosen here is in the store. State, window and filters say which are."
        )
    return Content(
        notice=found,
        status=f"As of {when(view.end)}. perfwatt jobs run incidents finds them; perfwatt incidents lists the same.",
        tiles=_tiles(view),
        charts={
            "begun": Drawn(figure=begun, words=_begun_words(view), legend=legend_of(begun)),
            "cost": Drawn(figure=cost, words="Energy that brought nothing or was beyond what was expected."),
        },
        grids={"incidents": rows},
    )


def _tiles(view: IncidentsView) -> list[Any]:
    rows = view.incidents
    by = dict(rows.group_by("severity").len().iter_rows())
    opened = rows.filter(pl.col("state") == "open").height
    costs = (
        rows.drop_nulls("wasted_cost")
        .group_by("currency")
        .agg(pl.col("wasted_cost").sum())
        .sort("wasted_cost")
        .reverse()
    )
    amounts = [money(amount, currency) for currency, amount in costs.iter_rows()]
    joules = float(rows["wasted_j"].sum()) if rows["wasted_j"].count() else None
    tokens = float(rows["lost_tokens"].sum()) if rows["lost_tokens"].count() else None
    number, _, unit = (amounts[0] if amounts else ABSENT).partition(" ")
    return [
        tile(
            "incidents-tile-count",
            "Incidents",
            f"{rows.height:,}",
            "",
            [f"{opened} open", f"{rows.height - opened} past"],
        ),
        tile(
            "incidents-tile-critical",
            "Critical",
            f"{by.get('critical', 0)}",
            "",
            [f"{by.get('warning', 0)} warnings", f"{by.get('info', 0)} to know of"],
        ),
        tile("incidents-tile-wasted", "Wasted", *scaled(watt_hours(joules), "Wh"), ["while they lasted"]),
        tile("incidents-tile-cost", "Cost", number, unit, amounts[1:] or ["of the energy wasted"]),
        tile(
            "incidents-tile-tokens",
            "Tokens lost",
            joined(tokens, "") if tokens is not None else ABSENT,
            "",
            ["expected, and did not come"],
        ),
    ]


def _begun_words(view: IncidentsView) -> str:
    rows = view.incidents
    if rows.is_empty():
        return "Nothing to show."
    most = rows.group_by("kind").len().sort("len", "kind", descending=[True, False]).row(0, named=True)
    return f"{rows.height} incidents; most are {most['kind'].replace('_', ' ')} ({most['len']})."


def _offer(stored: Stored, _values: Values) -> Offer:
    return data.known(stored)


def _twin(stored: Stored, values: Values) -> pl.DataFrame:
    return data.view(stored, values).incidents


PAGE: Final = Page(
    name="incidents",
    label="Incidents",
    group="Now",
    title="Incidents",
    about="What is wrong and what was: evidence, cost so far, and what to do about it.",
    controls=_CONTROLS,
    body=_body,
    content=_content,
    offer=_offer,
    twins={"incidents": _twin},
    charts=("begun", "cost"),
    grids=(_GRID,),
)
