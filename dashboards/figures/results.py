"""What the Results page draws."""

from collections.abc import Mapping
from itertools import groupby
from math import floor
from typing import Any, Final

import polars as pl

from dashboards.data.results import ResultsView
from dashboards.figures.figure import Figure
from dashboards.figures.style import (
    INK,
    REST,
    REST_COLOUR,
    SHOWN,
    STRONG,
    colours,
    empty,
    log_axis,
    short,
    titled,
    without,
)
from dashboards.words import joined, scaled

NONE: Final = "no accelerator"
BARS: Final = 14


def pareto(view: ResultsView, theme: str) -> Figure:
    """Throughput against work per joule; lines of equal power, and the front that nothing beats."""
    rows = view.runs.drop_nulls([view.rate, view.gain]).with_columns(pl.col("accelerator").fill_null(NONE))
    if rows.is_empty():
        return without(empty(theme), "no result with throughput and power")
    x, y = view.rate, view.gain
    figure = empty(
        theme,
        x={"title": titled(f"Throughput ({view.work}s/s)"), "tickformat": "~s", **log_axis(rows[x])},
        y={
            "title": titled(f"{view.work.capitalize()}s per joule ({view.work}s/J)"),
            "tickformat": "~g",
            **log_axis(rows[y]),
        },
        hovermode="closest",
    )
    _equal_power(figure, rows["power_mean_w"], theme)
    for name, colour, part in _coloured(rows, theme):
        figure.add_scatter(
            x=part[x].to_list(),
            y=part[y].to_list(),
            name=name,
            mode="markers",
            marker={"color": colour, "size": 8, "opacity": 0.85, "line": {"width": 0}},
            text=_said(part, view),
            hovertemplate="%{text}<extra></extra>",
        )
    for _, of_scenario in groupby(rows.filter("front").sort("scenario", x).iter_rows(named=True), _scenario):
        points = list(of_scenario)
        figure.add_scatter(
            x=[row[x] for row in points],
            y=[row[y] for row in points],
            name="nothing beats these",
            mode="lines+markers",
            line={"color": STRONG[theme], "width": 1.4, "shape": "vh"},
            marker={"color": "rgba(0,0,0,0)", "size": 12, "line": {"color": STRONG[theme], "width": 1.4}},
            hoverinfo="skip",
        )
    return figure


def leaders(view: ResultsView, theme: str) -> Figure:
    """The most efficient result of each accelerator."""
    rows = (
        view.runs.drop_nulls(view.gain)
        .with_columns(pl.col("accelerator").fill_null(NONE))
        .sort(view.gain, descending=True)
        .unique("accelerator", keep="first", maintain_order=True)
        .head(BARS)
        .reverse()
    )
    if rows.is_empty():
        return without(empty(theme), "no result with throughput and power")
    named = {name: colour for name, colour, _ in _coloured(view.runs, theme)}
    figure = empty(
        theme,
        x={"title": titled(f"{view.work.capitalize()}s per joule"), "tickformat": "~s", "rangemode": "tozero"},
        y={"type": "category", "showgrid": False},
        hovermode="closest",
        bargap=0.3,
    )
    figure.add_bar(
        x=rows[view.gain].to_list(),
        y=[short(name, 28) for name in rows["accelerator"]],
        orientation="h",
        marker={"color": [named.get(name, REST_COLOUR[theme]) for name in rows["accelerator"]], "line": {"width": 0}},
        text=_said(rows, view),
        textposition="none",
        hovertemplate="%{text}<extra></extra>",
    )
    return figure


def _coloured(rows: pl.DataFrame, theme: str) -> list[tuple[str, str, pl.DataFrame]]:
    """Name, colour and rows of each accelerator with most results; the rest as one, first, so that it lies below."""
    rows = rows.with_columns(pl.col("accelerator").fill_null(NONE))
    counts = rows.group_by("accelerator").len().sort("len", "accelerator", descending=[True, False])
    named = colours(counts["accelerator"].head(SHOWN), theme)
    rest = rows.filter(~pl.col("accelerator").is_in(list(named)))
    found = [(f"{rest['accelerator'].n_unique()} {REST}", REST_COLOUR[theme], rest)] if not rest.is_empty() else []
    return found + [(name, named[name], rows.filter(pl.col("accelerator") == name)) for name in named]


def _equal_power(figure: Figure, watts: pl.Series, theme: str) -> None:
    """A dotted line for each power of ten of watts: along it, throughput over efficiency is that power."""
    (left, right), (bottom, top) = (figure.layout[axis]["range"] for axis in ("xaxis", "yaxis"))
    low, high = log_axis(watts)["range"]
    for decade in range(floor(low), floor(high) + 2):
        figure.add_scatter(
            x=[10**left, 10**right],
            y=[10 ** (left - decade), 10 ** (right - decade)],
            mode="lines",
            line={"color": REST_COLOUR[theme], "width": 0.8, "dash": "dot"},
            hoverinfo="skip",
        )
        # Its name stands where it leaves the figure, to the right or at the top.
        end = (right, right - decade) if right - decade <= top else (top + decade, top)
        if left < end[0] and bottom < end[1]:
            figure.add_annotation(
                x=end[0],
                y=end[1],
                text=_round(10.0**decade),
                showarrow=False,
                xanchor="right",
                yanchor="top",
                font={"size": 10, "color": INK[theme]},
            )


def _round(watts: float) -> str:
    number, unit = scaled(watts, "W")
    return f"{float(number):g} {unit}"


def _said(rows: pl.DataFrame, view: ResultsView) -> list[str]:
    return [_words(row, view) for row in rows.iter_rows(named=True)]


def _words(row: Mapping[str, Any], view: ResultsView) -> str:
    many = f"{row['accelerators']} × " if row["accelerators"] else ""
    who = " ".join(filter(None, (row["submitter"], row["version"], row["scenario"])))
    rate, gain = joined(row[view.rate], f"{view.work}s/s"), joined(row[view.gain], f"{view.work}s/J")
    return "<br>".join(
        (f"<b>{many}{row['accelerator'] or NONE}</b>", row["system"] or "", who, f"{rate}, {gain}",
         joined(row["power_mean_w"], "W"))
    )  # fmt: skip


def _scenario(row: Mapping[str, Any]) -> object:
    return row["scenario"]
