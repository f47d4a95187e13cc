"""What the Device page draws."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

import polars as pl

from collector.catalogue import POWER, TEMPERATURE, UTILIZATION, Metric
from dashboards.data.device import CLOCKS, TEMPERATURES, USE, DeviceView
from dashboards.figures.buckets import Buckets
from dashboards.figures.figure import Figure
from dashboards.figures.style import COLOURS, STRONG, axis, colours, empty, time_axis, titled, without

_HZ_PER_MHZ: Final = 1e6


def power(view: DeviceView, theme: str) -> Figure:
    """Mean power with the least and the most of each step, and the limit."""
    if not view.power["power_mean_w"].count():
        return without(empty(theme), "not measured in this window")
    figure = _over_time(view, axis(POWER), theme, tickformat="~s", rangemode="tozero")
    buckets, colour = _buckets(view), COLOURS[theme][0]
    for column, fill in (("power_min_w", None), ("power_max_w", "tonexty")):
        figure.add_scatter(
            **buckets.axis,
            y=buckets.values(view.power, column),
            mode="lines",
            line={"width": 0, "color": colour},
            fill=fill,
            fillcolor=f"rgba({int(colour[1:3], 16)}, {int(colour[3:5], 16)}, {int(colour[5:7], 16)}, 0.22)",
            connectgaps=False,
            hoverinfo="skip",
        )
    figure.add_scatter(
        **buckets.axis,
        y=buckets.values(view.power, "power_mean_w"),
        name="mean power",
        mode="lines",
        line={"color": colour, "width": 1.6},
        connectgaps=False,
        hovertemplate="%{y:.4~s}W",
    )
    if view.limit.height:
        figure.add_scatter(
            x=view.limit["time"].to_list(),
            y=view.limit["power_limit_w"].to_list(),
            name="power limit",
            mode="lines",
            line={"color": STRONG[theme], "width": 1.4, "shape": "hv"},
            hovertemplate="%{y:.4~s}W",
        )
    return figure


def use(view: DeviceView, theme: str) -> Figure:
    """How busy it was, as far as it tells."""
    figure = _over_time(view, axis(UTILIZATION), theme, tickformat=".0%", range=[0, 1.02])
    return _with_means(figure, view, USE, theme, "%{y:.1%}")


def clocks(view: DeviceView, theme: str) -> Figure:
    """Its clocks."""
    figure = _over_time(view, "Clock (MHz)", theme, tickformat="~f", rangemode="tozero")
    return _with_means(figure, view, CLOCKS, theme, "%{y:.0f} MHz", scale=1 / _HZ_PER_MHZ)


def temperatures(view: DeviceView, theme: str) -> Figure:
    """How hot it was."""
    figure = _over_time(view, axis(TEMPERATURE), theme, tickformat="~f")
    return _with_means(figure, view, TEMPERATURES, theme, "%{y:.0f} °C")


def throttled(view: DeviceView, theme: str) -> Figure:
    """The share of the time in which each reason held its clocks down."""
    rows = view.throttled.filter(pl.col("ratio") > 0)
    if view.throttled.is_empty():
        return without(empty(theme), "it does not tell what holds its clocks down")
    if rows.is_empty():
        return without(empty(theme), "nothing held its clocks down")
    figure = _over_time(view, "Share of the time", theme, tickformat=".0%", rangemode="tozero")
    buckets = _buckets(view)
    for name, colour in colours(rows["reason"].unique().sort(), theme).items():
        figure.add_scatter(
            **buckets.axis,
            y=buckets.values(rows.filter(pl.col("reason") == name), "ratio").fill_nan(0.0),
            name=name,
            mode="lines",
            line={"color": colour, "width": 1.6, "shape": "hv"},
            hovertemplate="%{y:.1%}",
        )
    return figure


def _with_means(
    figure: Figure, view: DeviceView, metrics: Sequence[Metric], theme: str, hover: str, *, scale: float = 1.0
) -> Figure:
    buckets = _buckets(view)
    for metric, colour in zip(metrics, COLOURS[theme], strict=False):
        if view.means[metric.column].count():
            figure.add_scatter(
                **buckets.axis,
                y=buckets.values(view.means, metric.column, scale),
                name=metric.name.replace("_", " "),
                mode="lines",
                line={"color": colour, "width": 1.5},
                connectgaps=False,
                hovertemplate=hover,
            )
    return figure if figure.data else without(figure, "not measured in this window")


def _buckets(view: DeviceView) -> Buckets:
    return Buckets(view.start, view.end, view.every_s)


def _over_time(view: DeviceView, title: str, theme: str, **y: Any) -> Figure:
    figure = empty(theme, x=time_axis(view.start, view.end), y={"title": titled(title), **y}, hovermode="x unified")
    for row in view.incidents.iter_rows(named=True):
        last = row["end"] or row["last"]
        figure.add_vrect(
            max(row["start"], view.start.replace(tzinfo=None)),
            max(last, row["start"] + timedelta(seconds=view.every_s)),
            fillcolor=STRONG[theme],
            opacity=0.12,
        )
    return figure
