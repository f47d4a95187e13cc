"""What the Fleet page draws."""

from collections.abc import Mapping
from typing import Any, Final

import polars as pl

from collector.catalogue import ENERGY, POWER, UTILIZATION
from dashboards.data.fleet import View
from dashboards.figures.buckets import Buckets
from dashboards.figures.figure import Figure
from dashboards.figures.style import (
    REST,
    REST_COLOUR,
    SHOWN,
    STRONG,
    axis,
    colours,
    empty,
    short,
    time_axis,
    titled,
    without,
)
from dashboards.words import J_PER_WH

TOKENS_PER_JOULE: Final = "Tokens per joule (tokens/J)"


def power(view: View, theme: str) -> Figure:
    """Mean power of each group in each bucket, stacked to the whole, with the whole's peaks on top."""
    figure = _empty(view, axis(POWER), theme, {"barmode": "stack", "bargap": 0}, tickformat="~s")
    buckets, width_ms = _buckets(view), view.every_s * 1000
    for name, colour, watts in _lines(view, view.groups, "power_mean_w", theme, total=True):
        figure.add_bar(
            **buckets.axis,
            y=watts,
            name=name,
            offset=0,
            width=width_ms,
            marker={"color": colour, "line": {"width": 0}},
            hovertemplate="%{y:.4~s}W",
        )
    # A step needs its last bucket's end, and a gap its own: so each bucket is drawn as a line of two points.
    figure.add_scatter(
        x=buckets.edges_ms,
        y=buckets.values(view.power, "power_max_w").repeat_by(2).explode(),
        name="peak in the bucket",
        mode="lines",
        line={"color": STRONG[theme], "width": 1.2, "shape": "linear"},
        connectgaps=False,
        hovertemplate="%{y:.4~s}W",
    )
    return figure


def utilization(view: View, theme: str) -> Figure:
    """Mean utilisation of each group's devices in each bucket."""
    figure = _empty(view, axis(UTILIZATION), theme, tickformat=".0%", range=[0, 1.02])
    return _with_lines(figure, view, view.utilization, "utilization_ratio", "%{y:.1%}", theme)


def efficiency(view: View, theme: str) -> Figure:
    """Tokens per joule of each group in each bucket, idle energy included."""
    figure = _empty(view, TOKENS_PER_JOULE, theme, tickformat="~g", rangemode="tozero")
    return _with_lines(figure, view, view.efficiency, "tokens_per_joule", "%{y:.3~g} tokens/J", theme)


def energy(view: View, theme: str) -> Figure:
    """Energy of each group in the window; what was modelled and not measured is hatched."""
    coloured = _colours(view, theme)
    watt_hours = {"title": titled(axis(ENERGY, "Wh")), "tickformat": "~s", "rangemode": "tozero"}
    figure = empty(theme, x=watt_hours, y={"type": "category", "showgrid": False}, barmode="stack", bargap=0.35)
    for row in view.table.drop_nulls("energy_j").head(12).reverse().iter_rows(named=True):
        modelled_j = row["energy_j"] * (row["modelled_ratio"] or 0.0)
        for name, joules, pattern in (
            ("measured", row["energy_j"] - modelled_j, ""),
            ("modelled, not measured", modelled_j, "/"),
        ):
            if joules:
                figure.add_bar(
                    x=[joules / J_PER_WH],
                    y=[short(row["group"])],
                    orientation="h",
                    marker={
                        "color": coloured.get(row["group"], REST_COLOUR[theme]),
                        "line": {"width": 0},
                        "pattern": {"shape": pattern, "size": 6, "fillmode": "overlay", "solidity": 0.2},
                    },
                    hovertemplate=f"{row['group']}: %{{x:.4~s}}Wh {name}<extra></extra>",
                )
    return figure


def shown(view: View) -> list[str]:
    """The groups that are drawn by name: those that used most energy, in alphabetical order."""
    return sorted(view.table["group"].head(SHOWN))


def _colours(view: View, theme: str) -> dict[str, str]:
    return colours(view.table["group"].head(SHOWN), theme)


def _lines(view: View, frame: pl.DataFrame, column: str, theme: str, *, total: bool) -> list[tuple[str, str, Any]]:
    """Name, colour and values on the grid of each group shown; with *total* what is left as one more."""
    coloured, buckets = _colours(view, theme), _buckets(view)
    modelled = dict(zip(view.table["group"], view.table["modelled_ratio"].fill_null(0.0), strict=True))
    own = frame["group"].is_in(list(coloured))
    lines = buckets.each(frame.filter(own), column, list(coloured))
    found = [
        (short(name) + _how(modelled[name] if total else 0.0), colour, values)
        for (name, colour), values in zip(coloured.items(), lines, strict=True)
    ]
    if total and not own.all():
        rest = frame.filter(~own)
        summed = rest.group_by("window").agg(pl.col(column).sum())
        found.append((f"{rest['group'].n_unique()} {REST}", REST_COLOUR[theme], buckets.values(summed, column)))
    return found


def _with_lines(figure: Figure, view: View, frame: pl.DataFrame, column: str, hover: str, theme: str) -> Figure:
    for name, colour, ratios in _lines(view, frame, column, theme, total=False):
        if not ratios.is_nan().all():
            figure.add_scatter(
                **_buckets(view).axis,
                y=ratios,
                name=name,
                mode="lines",
                line={"color": colour, "width": 1.6},
                connectgaps=False,
                hovertemplate=hover,
            )
    return figure if figure.data else without(figure, "not measured in this window")


def _buckets(view: View) -> Buckets:
    return Buckets(view.start, view.end, view.every_s)


def _how(modelled_ratio: float) -> str:
    """What a legend adds to the name of a group whose watts are not all measured."""
    return " (modelled)" if modelled_ratio > 0.999 else " (partly modelled)" if modelled_ratio > 0 else ""


def _empty(view: View, title: str, theme: str, layout: Mapping[str, Any] | None = None, **y: Any) -> Figure:
    times, told = time_axis(view.start, view.end), {"title": titled(title), **y}
    return empty(theme, x=times, y=told, hovermode="x unified", **(layout or {}))
