"""What the pages of jobs draw."""

from datetime import datetime, timedelta
from typing import Any, Final

import polars as pl

from analytics.report_records import DeviceUse
from collector.catalogue import POWER, UTILIZATION
from dashboards.data.jobs import JobsView, JobView
from dashboards.data.stored import utc
from dashboards.figures.figure import Figure
from dashboards.figures.style import (
    COLOURS,
    REST,
    REST_COLOUR,
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

BARS: Final = 14


def energy(view: JobsView, theme: str) -> Figure:
    """Energy of the jobs that used most, and what of it brought nothing."""
    rows = view.jobs.drop_nulls("energy_j").head(BARS).reverse()
    return _bars(rows, "workload", theme) if rows.height else without(empty(theme), "no job in this window")


def teams(view: JobsView, theme: str) -> Figure:
    """Energy of the teams, and what of it brought nothing."""
    rows = view.jobs.drop_nulls("energy_j").with_columns(pl.col("team").fill_null("no team"))
    if rows.is_empty():
        return without(empty(theme), "no job in this window")
    sums = rows.group_by("team").agg(pl.col("energy_j", "wasted_j").sum()).sort("energy_j", "team").tail(BARS)
    return _bars(sums, "team", theme)


def power(view: JobView, theme: str) -> Figure:
    """Mean power of each device, stacked to the job's, in windows."""
    figure = _over_time(view, axis(POWER), theme, tickformat="~s")
    figure.layout.update(barmode="stack", bargap=0)
    for name, colour, rows in _devices(view, view.power.rename({"group": "device"}), theme):
        sums = rows.group_by("window").agg(pl.col("power_mean_w").sum()).sort("window")
        figure.add_bar(
            x=sums["window"].to_list(),
            y=sums["power_mean_w"].to_list(),
            name=name,
            offset=0,
            width=view.every_s * 1000,
            marker={"color": colour, "line": {"width": 0}},
            hovertemplate="%{y:.4~s}W",
        )
    return figure if figure.data else without(figure, "not measured")


def utilization(view: JobView, theme: str) -> Figure:
    """Mean utilisation of each device in windows; of many, of those shown and the mean of the others."""
    figure = _over_time(view, axis(UTILIZATION), theme, tickformat=".0%", range=[0, 1.02])
    for name, colour, rows in _devices(view, view.utilization, theme):
        means = rows.group_by("window").agg(pl.col("utilization_ratio").mean()).sort("window")
        grid = _with_gaps(means, view.every_s)
        figure.add_scatter(
            x=grid["window"].to_list(),
            y=grid["utilization_ratio"].to_list(),
            name=name,
            mode="lines",
            line={"color": colour, "width": 1.5},
            connectgaps=False,
            hovertemplate="%{y:.1%}",
        )
    return figure if figure.data else without(figure, "not measured")


def _bars(rows: pl.DataFrame, column: str, theme: str) -> Figure:
    """Energy of each row: what was of use, and what was not."""
    figure = empty(
        theme,
        x={"title": titled("Energy (Wh)"), "tickformat": "~s", "rangemode": "tozero"},
        y={"type": "category", "showgrid": False},
        barmode="stack",
        bargap=gap_of(rows.height),
    )
    wasted = rows["wasted_j"].fill_null(0.0)
    for name, joules, colour in (
        ("of use", rows["energy_j"] - wasted, COLOURS[theme][0]),
        ("idle, stalled or at low activity", wasted, COLOURS[theme][1]),
    ):
        figure.add_bar(
            x=(joules / J_PER_WH).to_list(),
            y=[short(label, 26) for label in rows[column]],
            name=name,
            orientation="h",
            marker={"color": colour, "line": {"width": 0}},
            hovertemplate=f"%{{y}}: %{{x:.4~s}}Wh {name}<extra></extra>",
        )
    return figure


def _devices(view: JobView, frame: pl.DataFrame, theme: str) -> list[tuple[str, str, pl.DataFrame]]:
    """Name, colour and rows of the devices shown, and of the others as one."""
    called = {device.device: _called(device) for device in view.report.devices}
    frame = frame.with_columns(name=pl.col("device").replace(called))
    named = colours(sorted(frame["name"].unique()), theme)
    found = [(short(name), colour, frame.filter(pl.col("name") == name)) for name, colour in named.items()]
    rest = frame.filter(~pl.col("name").is_in(list(named)))
    if not rest.is_empty():
        found.append((f"{rest['device'].n_unique()} {REST}", REST_COLOUR[theme], rest))
    return found


def _called(device: DeviceUse) -> str:
    """A device by its place in its host, where that is known: people know it by that."""
    if device.host is None or device.ordinal is None:
        return device.device
    return f"{device.host}:{device.ordinal}"


def _with_gaps(rows: pl.DataFrame, every_s: int) -> pl.DataFrame:
    """A row without values where a window is missing, so that a gap is seen as one."""
    if rows.is_empty():
        return rows
    first, last = rows["window"].min(), rows["window"].max()
    assert isinstance(first, datetime)
    assert isinstance(last, datetime)
    grid = pl.datetime_range(first, last, timedelta(seconds=every_s), time_unit="ns", eager=True)
    return grid.alias("window").to_frame().join(rows, on="window", how="left")


def _over_time(view: JobView, title: str, theme: str, **y: Any) -> Figure:
    figure = empty(theme, x=time_axis(view.start, view.end), y={"title": titled(title), **y}, hovermode="x unified")
    for edge_ns in (view.report.start_ns, view.report.end_ns):
        if edge_ns is not None and view.start <= utc(edge_ns) <= view.end:
            at = utc(edge_ns).replace(tzinfo=None)
            figure.add_vline(at, line={"color": STRONG[theme], "width": 1, "dash": "dot"})
    return figure
