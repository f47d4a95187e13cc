"""What the Plans page draws."""

from typing import Any

import polars as pl

from collector.catalogue import POWER
from dashboards.data.plans import PlansView
from dashboards.figures.figure import Figure
from dashboards.figures.style import (
    COLOURS,
    INK,
    REST,
    REST_COLOUR,
    STRONG,
    axis,
    colours,
    empty,
    short,
    titled,
    without,
)
from dashboards.words import joined

_NONE = "there is no plan to draw"


def servers(view: PlansView, theme: str) -> Figure:
    """Servers that stand in each period, by site and SKU."""
    if view.plan is None or not view.plan.found:
        return without(empty(theme), _NONE)
    figure = _over_periods(view, theme, "Servers that stand", tickformat="~d", rangemode="tozero")
    rows = view.plan.placements.with_columns(group=pl.concat_str("site", "sku", separator=" · "))
    totals = rows.group_by("group").agg(pl.col("servers").sum()).sort("servers", "group", descending=[True, False])
    named = colours(totals["group"], theme)
    for name, colour in [*named.items(), (REST, REST_COLOUR[theme])]:
        mine = rows.filter(pl.col("group") == name if name != REST else ~pl.col("group").is_in(list(named)))
        if mine.height:
            counts = dict(mine.group_by("period").agg(pl.col("servers").sum()).iter_rows())
            come = [counts.get(period, 0) for period in range(view.periods.height)]
            figure.add_bar(
                x=_labels(view),
                y=[sum(come[: at + 1]) for at in range(len(come))],
                name=short(name, 30),
                marker={"color": colour, "line": {"width": 0}},
                hovertemplate=f"{name}: %{{y:,}}<extra></extra>",
            )
    return figure


def money(view: PlansView, theme: str) -> Figure:
    """What is bought in each period against what may be spent."""
    rows = view.periods
    if rows.is_empty() or not rows["capital"].count():
        return without(empty(theme), "without prices" if rows.height else _NONE)
    currency = rows["currency"][0]
    figure = _over_periods(view, theme, f"Capital ({currency})", tickformat="~s", rangemode="tozero")
    figure.add_bar(
        x=_labels(view),
        y=rows["capital"].to_list(),
        name="spent on servers",
        marker={"color": COLOURS[theme][0], "line": {"width": 0}},
        hovertemplate=f"%{{y:,.0f}} {currency} spent<extra></extra>",
    )
    if rows["budget"].count():
        may = rows["capital"] + rows["left"]
        figure.add_scatter(
            x=_labels(view),
            y=may.to_list(),
            name="may be spent"
            + (", what is left carried on" if view.plan and view.plan.request.budget_carries else ""),
            mode="lines+markers",
            line={"color": STRONG[theme], "width": 1.6, "shape": "hvh"},
            marker={"color": STRONG[theme], "size": 7},
            hovertemplate=f"%{{y:,.0f}} {currency} may be spent<extra></extra>",
        )
    return figure


def margins(view: PlansView, theme: str) -> Figure:
    """What is left in each period at the node that has least, in the failure that leaves least."""
    rows = view.periods
    if rows.is_empty() or not rows["margin_w"].count():
        return without(empty(theme), _NONE)
    figure = _over_periods(
        view, theme, axis(POWER).replace("Power", "Least power left"), tickformat="~s", rangemode="tozero"
    )
    figure.add_scatter(
        x=_labels(view),
        y=rows["margin_w"].to_list(),
        mode="lines+markers",
        showlegend=False,
        line={"color": INK[theme], "width": 1.4},
        marker={"color": COLOURS[theme][0], "size": 10},
        hovertext=[
            "nothing is placed yet"
            if row["node"] is None
            else f"{joined(row['margin_w'], 'W')} at {row['node']}, "
            + ("while all stands" if row["case"] == "none" else f"{row['case']} lost")
            for row in rows.iter_rows(named=True)
        ],
        hovertemplate="%{hovertext}<extra></extra>",
    )
    return figure


def _labels(view: PlansView) -> list[str]:
    """What the periods are called: their number, and the month in which they begin."""
    return [f"{row['period'] + 1}<br>{row['start']:%b %y}" for row in view.periods.iter_rows(named=True)]


def _over_periods(view: PlansView, theme: str, title: str, **y: Any) -> Figure:
    # With many periods not each has its name below it.
    step = -(-view.periods.height // 7)
    labels = _labels(view)
    return empty(
        theme,
        x={"type": "category", "showgrid": False, "tickvals": labels[::step], "title": titled("Period, from")},
        y={"title": titled(title), **y},
        barmode="stack",
        bargap=0.35,
    )
