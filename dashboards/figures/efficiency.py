"""What the Efficiency page draws."""

from collections.abc import Mapping
from typing import Any, Final

import polars as pl

from analytics.leagues import AXES
from dashboards.data.efficiency import EfficiencyView
from dashboards.figures.figure import Figure
from dashboards.figures.style import (
    COLOURS,
    REST,
    REST_COLOUR,
    STRONG,
    colours,
    empty,
    gap_of,
    log_axis,
    short,
    titled,
    without,
)
from dashboards.words import joined, percent, watt_hours

CAUSES: Final = ("failed", "unallocated", "unmeasured", "idle", "stalled", "underused", "throttled")
"""The causes of waste, in the order in which they are asked."""
LEAST_RATIO: Final = 1e-3
"""What takes less of the time than this is in the file alone."""
_TIMES: Final = {"first_token_s": "Time to first token (s)", "latency_p99_s": "99th percentile of latency (s)"}


def waste(view: EfficiencyView, theme: str) -> Figure:
    """Device-hours without use, by cause, and beside them what they drew."""
    rows = lost(view)
    if rows.is_empty():
        return without(empty(theme), "nothing was wasted in this window" if view.waste.height else "no device here")
    named = dict(zip(CAUSES, COLOURS[theme], strict=False))
    rows = rows.sort("device_h").tail(12)
    figure = empty(
        theme,
        x={"title": titled("Without use (device-hours)"), "rangemode": "tozero", "tickformat": "~s"},
        y={"type": "category", "showgrid": False},
        bargap=gap_of(rows.height),
    )
    figure.add_bar(
        x=rows["device_h"].to_list(),
        y=[cause_of(row) for row in rows.iter_rows(named=True)],
        orientation="h",
        marker={"color": [named.get(cause, REST_COLOUR[theme]) for cause in rows["cause"]], "line": {"width": 0}},
        text=[f"{percent(row['time_ratio'])} of the time" for row in rows.iter_rows(named=True)],
        textposition="auto",
        cliponaxis=False,
        hovertext=[joined(watt_hours(row["energy_j"]), "Wh") for row in rows.iter_rows(named=True)],
        hovertemplate="%{y}: %{x:.3~s} device-hours, %{hovertext}, %{text}<extra></extra>",
    )
    return figure


def lost(view: EfficiencyView) -> pl.DataFrame:
    """The waste without what is too little to be shown."""
    return view.waste.filter(pl.col("cause") != "useful", pl.col("time_ratio") >= LEAST_RATIO)


def front(view: EfficiencyView, theme: str) -> Figure:
    """Joules for the same work against throughput or latency; what nothing beats is joined by a line."""
    joules, axis = f"joules_per_{view.measure}", column_of(view)
    rows = view.league.drop_nulls([joules, axis])
    if rows.is_empty():
        return without(empty(theme), f"no {view.measure}s with energy and {view.axis.replace('_', ' ')} in this window")
    figure = empty(
        theme,
        x={"title": titled(axis_title(view)), "tickformat": "~s", **log_axis(rows[axis])},
        y={
            "title": titled(f"Energy per {view.measure} (J/{view.measure})"),
            "tickformat": "~g",
            **log_axis(rows[joules]),
        },
        hovermode="closest",
    )
    # What is compared with one another has one colour; the names of the points are what the league is of.
    within = [name for name in view.within if name != view.per]
    group = (
        pl.concat_str([pl.col(name).fill_null("unknown") for name in within], separator="; ")
        if within
        else pl.lit("all")
    )
    rows = rows.with_columns(group=group)
    named = colours(rows["group"].unique().sort(), theme)
    for name, colour in [*named.items(), (REST, REST_COLOUR[theme])]:
        chosen = pl.col("group") == name if name != REST else ~pl.col("group").is_in(list(named))
        part = rows.filter(chosen)
        if part.is_empty():
            continue
        best = part.filter("front").sort(axis)
        figure.add_scatter(
            x=best[axis].to_list(),
            y=best[joules].to_list(),
            mode="lines",
            line={"color": colour, "width": 1.2, "shape": "hv"},
            hoverinfo="skip",
        )
        figure.add_scatter(
            x=part[axis].to_list(),
            y=part[joules].to_list(),
            name=short(name, 30),
            mode="markers",
            marker={
                "color": colour,
                "size": 10,
                "symbol": ["circle" if rank is not None else "circle-open" for rank in part["rank"]],
                "line": {
                    "color": [STRONG[theme] if won else colour for won in part["front"].fill_null(False)],
                    "width": 1.6,
                },
            },
            error_y=_errors(part, joules),
            text=[_said(row, view) for row in part.iter_rows(named=True)],
            hovertemplate="%{text}<extra></extra>",
        )
    return figure


def _errors(rows: pl.DataFrame, joules: str) -> dict[str, Any]:
    """The interval of each point, where it has one."""
    value, low, high = (rows[name] for name in (joules, f"{joules}_low", f"{joules}_high"))
    return {
        "type": "data",
        "symmetric": False,
        "array": (high - value).to_list(),
        "arrayminus": (value - low).to_list(),
        "thickness": 1,
        "width": 3,
    }


def _said(row: Mapping[str, Any], view: EfficiencyView) -> str:
    name = row[view.per] or "unknown"
    joules = joined(row[f"joules_per_{view.measure}"], f"J/{view.measure}")
    value = row[column_of(view)]
    against = joined(value, f"{view.measure}s/s per device") if view.axis == "throughput" else joined(value, "s")
    lines = [f"<b>{name}</b>", row["group"], f"{joules}, {against}", f"{row['device_h']:,.1f} device-hours"]
    return "<br>".join([*lines, *([f"not ranked: {row['unranked']}"] if row["unranked"] else [])])


def column_of(view: EfficiencyView) -> str:
    """The column of the league that a front has against joules."""
    column = AXES[view.axis]
    return f"{view.measure}s_{column}" if view.axis == "throughput" else column


def axis_title(view: EfficiencyView) -> str:
    """The title of that axis."""
    if view.axis == "throughput":
        return f"Throughput of a device ({view.measure}s/s)"
    return _TIMES[column_of(view)]


def cause_of(row: Mapping[str, Any]) -> str:
    """A cause and its reason as people say them."""
    return f"{row['cause']} ({row['reason'].replace('_', ' ')})" if row["reason"] else str(row["cause"])
