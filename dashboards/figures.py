"""Frames as figures: what a page draws, in the light and in the dark."""

from datetime import UTC, datetime, timedelta
from typing import Any, Final

import plotly.graph_objects as go
import polars as pl

from collector.catalogue import ENERGY, POWER, UTILIZATION, Metric
from dashboards.data import View

SHOWN: Final = 8
"""Groups with a colour of their own; the rest are one."""
REST: Final = "others"
# Okabe and Ito's colours, which the colour-blind can tell apart; each stands out from white and from dark grey.
COLOURS: Final = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8a7fd0", "#a3a33b")
_REST_COLOUR: Final = "#9aa0a6"
_INK: Final = {"light": "#343a40", "dark": "#c9cdd2"}
_GRID: Final = {"light": "#e9ecef", "dark": "#3b3f45"}
_PEAK: Final = {"light": "#c92a2a", "dark": "#ff8787"}
_PAPER: Final = {"light": "#ffffff", "dark": "#25282c"}

J_PER_WH: Final = 3600.0
TOKENS_PER_JOULE: Final = "Tokens per joule (tokens/J)"


def power(view: View, theme: str) -> go.Figure:
    """Mean power of each group in each bucket, stacked to the whole, with the whole's peaks on top."""
    figure = _empty(view, axis(POWER), theme, tickformat="~s")
    grid = _grid(view)
    width_ms = view.every_s * 1000
    for name, colour, values in _lines(view, view.groups, "power_mean_w", total=True):
        figure.add_bar(
            x=grid,
            y=values,
            name=name,
            offset=0,
            width=width_ms,
            marker={"color": colour, "line": {"width": 0}},
            hovertemplate="%{y:.4~s}W",
        )
    peaks = _on_grid(view, view.power, "power_max_w")
    # A step needs its last bucket's end, and a gap its own: so each bucket is drawn as a line of two points.
    figure.add_scatter(
        x=[edge for start in grid for edge in (start, start + timedelta(seconds=view.every_s))],
        y=[peak for peak in peaks for _ in (0, 1)],
        name="peak in the bucket",
        mode="lines",
        line={"color": _PEAK[theme], "width": 1.2, "shape": "linear"},
        connectgaps=False,
        hovertemplate="%{y:.4~s}W",
    )
    figure.update_layout(barmode="stack", bargap=0)
    return figure


def utilization(view: View, theme: str) -> go.Figure:
    """Mean utilisation of each group's devices in each bucket."""
    figure = _empty(view, axis(UTILIZATION), theme, tickformat=".0%", range=[0, 1.02])
    return _with_lines(figure, view, view.utilization, "utilization_ratio", "%{y:.1%}")


def efficiency(view: View, theme: str) -> go.Figure:
    """Tokens per joule of each group in each bucket, idle energy included."""
    figure = _empty(view, TOKENS_PER_JOULE, theme, tickformat="~g", rangemode="tozero")
    return _with_lines(figure, view, view.efficiency, "tokens_per_joule", "%{y:.3~g} tokens/J")


def energy(view: View, theme: str) -> go.Figure:
    """Energy of each group in the window; what was modelled and not measured is hatched."""
    colours = _colours(view)
    figure = _empty(view, "", theme)
    for row in view.table.drop_nulls("energy_j").head(12).reverse().iter_rows(named=True):
        modelled_j = row["energy_j"] * (row["modelled_ratio"] or 0.0)
        for name, joules, pattern in (
            ("measured", row["energy_j"] - modelled_j, ""),
            ("modelled, not measured", modelled_j, "/"),
        ):
            if joules:
                figure.add_bar(
                    x=[joules / J_PER_WH],
                    y=[_short(row["group"])],
                    orientation="h",
                    marker={
                        "color": colours.get(row["group"], _REST_COLOUR),
                        "line": {"width": 0},
                        "pattern": {"shape": pattern, "size": 6},
                    },
                    hovertemplate=f"{row['group']}: %{{x:.4~s}}Wh {name}<extra></extra>",
                )
    figure.update_layout(barmode="stack", bargap=0.35, hovermode="closest", showlegend=False)
    figure.update_xaxes(
        title=axis(ENERGY, "Wh"), type="linear", tickformat="~s", rangemode="tozero", autorange=True, range=None
    )
    figure.update_yaxes(type="category", showgrid=False, automargin=True)
    return figure


def axis(metric: Metric, unit: str | None = None) -> str:
    """An axis title from the catalogue, with another unit of the same quantity where people use one."""
    return metric.title if unit is None else metric.title.replace(f"({metric.unit.symbol})", f"({unit})")


def shown(view: View) -> list[str]:
    """The groups that are drawn by name: those that used most energy, in alphabetical order."""
    return sorted(view.table["group"].head(SHOWN))


def _colours(view: View) -> dict[str, str]:
    return dict(zip(shown(view), COLOURS, strict=False))


def _lines(view: View, frame: pl.DataFrame, column: str, *, total: bool) -> list[tuple[str, str, list[float | None]]]:
    """Name, colour and values on the grid of each group shown; with *total* what is left as one more."""
    colours = _colours(view)
    modelled = dict(zip(view.table["group"], view.table["modelled_ratio"].fill_null(0.0), strict=True))
    found = [
        (
            _short(name) + _how(modelled[name] if total else 0.0),
            colours[name],
            _on_grid(view, frame.filter(pl.col("group") == name), column),
        )
        for name in colours
    ]
    rest = frame.filter(~pl.col("group").is_in(list(colours)))
    if total and not rest.is_empty():
        summed = rest.group_by("window").agg(pl.col(column).sum())
        found.append((f"{rest['group'].n_unique()} {REST}", _REST_COLOUR, _on_grid(view, summed, column)))
    return found


def _with_lines(figure: go.Figure, view: View, frame: pl.DataFrame, column: str, hover: str) -> go.Figure:
    grid = _grid(view)
    for name, colour, values in _lines(view, frame, column, total=False):
        if any(value is not None for value in values):
            figure.add_scatter(
                x=grid,
                y=values,
                name=name,
                mode="lines",
                line={"color": colour, "width": 1.6},
                connectgaps=False,
                hovertemplate=hover,
            )
    if not figure.data:
        figure.add_annotation(
            text="not measured in this window",
            showarrow=False,
            x=0.5,
            y=0.5,
            xref="paper",
            yref="paper",
            font={"size": 13},
        )
        figure.update_yaxes(showticklabels=False)
    return figure


def _grid(view: View) -> list[Any]:
    step = timedelta(seconds=view.every_s)
    return pl.datetime_range(view.start, view.end, step, closed="left", eager=True).dt.replace_time_zone(None).to_list()


def _on_grid(view: View, frame: pl.DataFrame, column: str) -> list[float | None]:
    """The values at each bucket; None where nothing was covered, so that a gap is seen as one."""
    grid = pl.DataFrame({"window": _grid(view)}, schema={"window": pl.Datetime("ns")})
    return grid.join(frame.select("window", column), on="window", how="left")[column].to_list()


def _how(modelled_ratio: float) -> str:
    """What a legend adds to the name of a group whose watts are not all measured."""
    return " (modelled)" if modelled_ratio > 0.999 else " (partly modelled)" if modelled_ratio > 0 else ""


def _naive(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(tzinfo=None)


def _short(name: str) -> str:
    """A long id by its two ends."""
    return name if len(name) <= 22 else f"{name[:12]}…{name[-8:]}"


def _empty(view: View, title: str, theme: str, **y: Any) -> go.Figure:
    figure = go.Figure()
    ink, grid = _INK[theme], _GRID[theme]
    lines = {"gridcolor": grid, "zerolinecolor": grid, "linecolor": grid, "ticks": "", "automargin": True}
    figure.update_layout(
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, -apple-system, Segoe UI, Roboto, sans-serif", "size": 12, "color": ink},
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        hovermode="x unified",
        hoverlabel={"bgcolor": _PAPER[theme], "bordercolor": grid, "font": {"color": ink}},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0, "itemwidth": 30, "traceorder": "normal"},
        showlegend=True,
        uirevision="keep",
        xaxis={**lines, "type": "date", "showgrid": False, "range": [_naive(view.start), _naive(view.end)]},
        yaxis={**lines, "title": {"text": title, "standoff": 10}, **y},
    )
    return figure
