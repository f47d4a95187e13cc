"""What the pages of incidents draw."""

from datetime import timedelta
from typing import Any, Final

import polars as pl

from analytics.anomalies.evidence import Evidence
from collector.catalogue import POWER
from dashboards.data.incidents import DEVICES, IncidentsView, IncidentView
from dashboards.data.stored import utc
from dashboards.figures.figure import Figure
from dashboards.figures.style import (
    COLOURS,
    INK,
    STRONG,
    axis,
    colours,
    empty,
    gap_of,
    short,
    time_axis,
    titled,
    without,
)
from dashboards.words import J_PER_WH

SEVERITIES: Final = ("critical", "warning", "info")
_COLOUR_OF: Final = {"critical": 5, "warning": 1, "info": 4}
_BARS: Final = 12


def begun(view: IncidentsView, theme: str) -> Figure:
    """How many incidents began on each day, by severity."""
    rows = view.incidents
    if rows.is_empty():
        return without(empty(theme), "no incident")
    figure = empty(
        theme,
        x={"type": "date", "showgrid": False, "tickformat": "%-d %b"},
        y={"title": titled("Incidents begun"), "rangemode": "tozero"},
        barmode="stack",
        bargap=0.25,
    )
    days = rows.group_by("severity", day=pl.col("start").dt.truncate("1d")).agg(count=pl.len()).sort("day")
    if days["count"].sum() < 8:
        figure.layout["yaxis"].update(dtick=1)
    for severity in SEVERITIES:
        some = days.filter(pl.col("severity") == severity)
        if some.height:
            figure.add_bar(
                x=some["day"].to_list(),
                y=some["count"].to_list(),
                name=severity,
                marker={"color": _severity(severity, theme), "line": {"width": 0}},
                hovertemplate=f"%{{x|%-d %b}}: %{{y}} {severity}<extra></extra>",
            )
    return figure


def cost(view: IncidentsView, theme: str) -> Figure:
    """Energy that the incidents of each kind wasted."""
    sums = view.incidents.group_by("kind").agg(pl.col("wasted_j").sum()).filter(pl.col("wasted_j") > 0)
    if sums.is_empty():
        return without(empty(theme), "no energy is known to be wasted")
    rows = sums.sort("wasted_j").tail(_BARS)
    figure = empty(
        theme,
        x={"title": titled("Energy wasted (Wh)"), "tickformat": "~s", "rangemode": "tozero"},
        y={"type": "category", "showgrid": False},
        bargap=gap_of(rows.height),
    )
    figure.add_bar(
        x=(rows["wasted_j"] / J_PER_WH).to_list(),
        y=[kind.replace("_", " ") for kind in rows["kind"]],
        orientation="h",
        marker={"color": COLOURS[theme][0], "line": {"width": 0}},
        hovertemplate="%{y}: %{x:.3~s}Wh<extra></extra>",
    )
    return figure


def evidence(view: IncidentView, told: Evidence | None, theme: str) -> Figure:
    """What a rule looked at, for each device, with its limits or what was expected."""
    if told is None:
        return without(empty(theme), "nothing is kept of what its rules looked at")
    ratio = told.title.startswith("Share of") or " over " in told.title
    most = told.series["value"].max()
    form = ".0%" if ratio else "~s" if isinstance(most, float) and most >= 1000 else "~g"
    # What it is a share of is in the caption.
    figure = _over_time(view, told.title.partition(":")[0], theme, tickformat=form)
    subjects = (
        told.series.group_by("subject").agg(pl.col("value").max()).sort("value", descending=True, nulls_last=True)
    )
    shown = colours(subjects["subject"].head(DEVICES), theme)
    first = told.series.filter(pl.col("subject") == subjects["subject"][0])
    if first["low"].count() or first["high"].count():
        _band(figure, first, theme)
    for name, colour in shown.items():
        rows = told.series.filter(pl.col("subject") == name)
        common = {
            "x": rows["time"].to_list(),
            "y": rows["value"].to_list(),
            "name": short(name),
            "hovertemplate": "%{y:.3~g}" if not ratio else "%{y:.1%}",
        }
        if told.counted:
            figure.add_bar(**common, offset=0, width=told.step_ns / 1e6, marker={"color": colour, "line": {"width": 0}})
        else:
            line = {"color": colour, "width": 1.6, "shape": "hv"}
            figure.add_scatter(**common, mode="lines", line=line, connectgaps=False)
    for name, limit in told.limits.items():
        if name == "limit" or limit != told.limits["limit"]:
            dash = "solid" if name == "limit" else "dot"
            figure.add_hline(limit, line={"color": STRONG[theme], "width": 1.4, "dash": dash})
    return figure


def power(view: IncidentView, theme: str) -> Figure:
    """Mean power of each device."""
    if view.power.is_empty():
        return without(empty(theme), "no power was measured")
    figure = _over_time(view, axis(POWER), theme, tickformat="~s", rangemode="tozero")
    names = view.power["subject"].unique().sort().head(DEVICES)
    for name, colour in colours(names, theme).items():
        rows = view.power.filter(pl.col("subject") == name).upsample("time", every="5m")
        figure.add_scatter(
            x=rows["time"].to_list(),
            y=rows["value"].to_list(),
            name=short(name),
            mode="lines",
            line={"color": colour, "width": 1.6},
            connectgaps=False,
            hovertemplate="%{y:.4~s}W",
        )
    return figure


def _band(figure: Figure, rows: pl.DataFrame, theme: str) -> None:
    """What was expected, between the least and the most."""
    colour = INK[theme]
    for name, fill in (("low", None), ("high", "tonexty")):
        figure.add_scatter(
            x=rows["time"].to_list(),
            y=rows[name].to_list(),
            mode="lines",
            line={"color": colour, "width": 0.8, "dash": "dot"},
            fill=fill,
            fillcolor=f"rgba({int(colour[1:3], 16)}, {int(colour[3:5], 16)}, {int(colour[5:7], 16)}, 0.15)",
            hoverinfo="skip",
        )


def _over_time(view: IncidentView, title: str, theme: str, **y: Any) -> Figure:
    figure = empty(theme, x=time_axis(view.start, view.end), y={"title": titled(title), **y}, hovermode="x unified")
    ended_ns = view.row["end"] or view.row["last"]
    ends = [utc(ns).replace(tzinfo=None) for ns in (view.row["start"], ended_ns)]
    shade = COLOURS[theme][_COLOUR_OF.get(view.row["severity"], 4)]
    figure.add_vrect(ends[0], max(ends[1], ends[0] + timedelta(minutes=1)), fillcolor=shade, opacity=0.14)
    return figure


def _severity(word: str, theme: str) -> str:
    return COLOURS[theme][_COLOUR_OF[word]]
