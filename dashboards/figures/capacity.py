"""What the Capacity page draws."""

from collections.abc import Mapping
from typing import Any, Final

import polars as pl

from analytics.capacity.ledger import MEANING
from collector.catalogue import POWER
from dashboards.data.capacity import CapacityView
from dashboards.figures.figure import Figure
from dashboards.figures.style import COLOURS, INK, REST_COLOUR, STRONG, axis, empty, titled, without
from dashboards.words import joined, percent

BARS: Final = 24
"""Nodes in one chart; those with least left."""
ROW_PX: Final = 26
_USED: Final = ("in use", "other")
_FREE: Final = ("deployable", "nameplate")
_TITLES: Final = {"power_w": axis(POWER), "devices": "Devices held", "tokens_per_s": "Throughput (tokens/s)"}
UNITS: Final = {"power_w": "W", "devices": "devices", "tokens_per_s": "tokens/s"}


def limits(view: CapacityView, show: str, theme: str) -> Figure:
    """Load while all stands and in the worst failure, of what is safe; the node with least left first."""
    rows = view.charted(show).sort("failure_ratio", "node", descending=[True, False]).head(BARS).reverse()
    if rows.is_empty():
        return without(empty(theme), "no limit is known of these nodes")
    most = max(1.1, float(rows["failure_ratio"].max()) * 1.05, float(rows["derated_ratio"].max() or 0.0) * 1.02)  # type: ignore[arg-type] # numbers
    figure = empty(
        theme,
        x={"title": titled("Share of safe power"), "tickformat": ".0%", "range": [0, most]},
        y={"type": "category", "showgrid": False},
        bargap=0.35,
    )
    names, said = rows["node"].to_list(), [_said(row) for row in rows.iter_rows(named=True)]
    over = rows["failure_ratio"] > 1.0
    figure.add_bar(
        x=rows["load_ratio"].to_list(),
        y=names,
        name="load while all stands",
        orientation="h",
        marker={"color": COLOURS[theme][0], "line": {"width": 0}},
        text=said,
        textposition="none",
        hovertemplate="%{text}<extra></extra>",
    )
    for name, wanted, colour in (
        ("load in the worst failure", ~over, COLOURS[theme][1]),
        ("the same, overloaded", over, STRONG[theme]),
    ):
        part = rows.filter(wanted)
        if part.height:
            figure.add_scatter(
                x=part["failure_ratio"].to_list(),
                y=part["node"].to_list(),
                name=name,
                mode="markers",
                marker={"color": colour, "symbol": "diamond", "size": 11},
                hovertext=[_said(row) for row in part.iter_rows(named=True)],
                hovertemplate="%{hovertext}<extra></extra>",
            )
    derated = rows.filter((pl.col("derated_ratio") - 1.0).abs() > 1e-3)
    if derated.height:
        figure.add_scatter(
            x=derated["derated_ratio"].to_list(),
            y=derated["node"].to_list(),
            name="derated, all units up",
            mode="markers",
            hoverinfo="skip",
            marker={"color": REST_COLOUR[theme], "symbol": "line-ns-open", "size": 14, "line": {"width": 2}},
        )
    figure.add_vline(1.0, line={"color": INK[theme], "width": 1.5, "dash": "dash"})
    return figure


def _said(row: Mapping[str, Any]) -> str:
    case = "as it is" if row["worst_failure"] == "none" else f"with {row['worst_failure']} lost"
    return (
        f"<b>{row['node']}</b> ({row['kind']})<br>carries {joined(row['load_w'], 'W')}, {case} "
        f"{joined(row['failure_load_w'], 'W')}<br>of {joined(row['safe_w'], 'W')} that are safe: "
        f"{joined(row['headroom_w'], 'W')} left"
    )


def runway(view: CapacityView, theme: str) -> Figure:
    """When what runs out does: from the date that a tenth of the paths come before, to that of nine tenths."""
    rows = view.ahead.head(BARS).reverse()
    if rows.is_empty():
        far = view.nodes["horizon"].max() if view.nodes.height else None
        return without(empty(theme), "how load grows is not known yet" if far is None else "nothing runs out in sight")
    figure = empty(
        theme,
        x={"title": titled("Date (UTC)"), "type": "date", "tickformat": "%-d %b\n%Y"},
        y={"type": "category", "showgrid": False},
    )
    bindings = sorted(rows["binding"].unique().to_list())
    named = dict(zip(bindings, COLOURS[theme], strict=False))
    figure.layout["yaxis"].update(categoryorder="array", categoryarray=rows["node"].to_list())
    shown: set[str] = set()
    for row in rows.iter_rows(named=True):
        colour, text = named.get(row["binding"], REST_COLOUR[theme]), _dates(row)
        # What nine in ten paths come before may be beyond what is known: then the line ends where that does.
        end = row["runway_p90"] or row["horizon"]
        figure.add_scatter(
            x=[row["runway_p10"], end],
            y=[row["node"]] * 2,
            mode="lines",
            line={
                "color": colour,
                "width": 7 if row["runway_p90"] else 4,
                "dash": "solid" if row["runway_p90"] else "dot",
            },
            hoverinfo="skip",
            **({"name": row["binding"]} if row["binding"] not in shown else {}),
        )
        shown.add(row["binding"])
        figure.add_scatter(
            x=[row["runway_p10"]],
            y=[row["node"]],
            mode="markers",
            hovertext=text,
            hovertemplate="%{hovertext}<extra></extra>",
            marker={"color": colour, "symbol": "line-ns-open", "size": 15, "line": {"width": 3}},
        )
        if row["runway_p50"] is not None:
            figure.add_scatter(
                x=[row["runway_p50"]],
                y=[row["node"]],
                mode="markers",
                hovertext=text,
                hovertemplate="%{hovertext}<extra></extra>",
                marker={"color": colour, "size": 13, "line": {"color": INK[theme], "width": 1.5}},
            )
    return figure


def _dates(row: Mapping[str, Any]) -> str:
    dates = " / ".join(
        f"{row[key]:%Y-%m-%d}" if row[key] else "beyond" for key in ("runway_p10", "runway_p50", "runway_p90")
    )
    order = f"<br>order by {row['order_by']:%Y-%m-%d}, {row['lead_days']:g} days ahead" if row["order_by"] else ""
    return (
        f"<b>{row['node']}</b>: {row['binding']} runs out {dates} (p10/p50/p90)<br>"
        f"in {percent(row['runs_out_ratio'])} of {row['paths']} paths up to {row['horizon']:%Y-%m-%d}{order}"
    )


def stranded(view: CapacityView, theme: str) -> Figure:
    """Every watt of the domains that feed racks, by what it is kept from."""
    sums = view.stranded.filter(pl.col("cause") != "installed").group_by("cause").agg(pl.col("power_w").sum())
    told = dict(sums.iter_rows())
    rows = [cause for cause in reversed(MEANING) if abs(told.get(cause, 0.0)) >= 1.0]
    if not rows:
        return without(empty(theme), "no domain that feeds racks has a rating")
    figure = empty(
        theme,
        x={"title": titled(axis(POWER)), "tickformat": "~s", "rangemode": "tozero"},
        y={"type": "category", "showgrid": False},
        bargap=0.3,
    )
    for name, causes, colour in (
        ("in use", _USED, COLOURS[theme][0]),
        ("usable", _FREE, COLOURS[theme][2]),
        ("stranded", (), COLOURS[theme][1]),
    ):
        own = [cause for cause in rows if (cause in causes if causes else cause not in (*_USED, *_FREE))]
        if own:
            figure.add_bar(
                x=[told[cause] for cause in own],
                y=own,
                name=name,
                orientation="h",
                marker={"color": colour, "line": {"width": 0}},
                hovertext=[MEANING[cause] for cause in own],
                hovertemplate="%{y}: %{x:.4~s}W<br>%{hovertext}<extra></extra>",
            )
    figure.layout["yaxis"].update(categoryorder="array", categoryarray=rows)
    return figure


def forecast(view: CapacityView, theme: str) -> Figure:
    """What was, and what will be: the median between the quantiles of 5 and 95, and of 10 and 90, in 100."""
    rows = view.forecast
    if rows.is_empty():
        return without(empty(theme), "nothing is forecast yet")
    metric = str(rows["metric"][0])
    unit, colour = UNITS.get(metric, ""), COLOURS[theme][0]
    figure = empty(
        theme,
        x={"title": titled("Time (UTC)"), "type": "date", "tickformat": "%H:%M\n%-d %b"},
        y={"title": titled(_TITLES.get(metric, metric)), "tickformat": "~s", "rangemode": "tozero"},
        hovermode="x",
    )
    if view.before.height:
        figure.add_scatter(
            x=view.before["time"].to_list(),
            y=view.before["value"].to_list(),
            name="measured",
            mode="lines",
            line={"color": INK[theme], "width": 1.4},
            hovertemplate=f"%{{y:.4~s}}{unit}<extra>measured</extra>",
        )
    targets = rows["target"].to_list()
    for low, high, name, opacity in (("q05", "q95", "5 to 95 in 100", 0.18), ("q10", "q90", "10 to 90 in 100", 0.32)):
        figure.add_scatter(
            x=[*targets, *reversed(targets)],
            y=[*rows[high].to_list(), *reversed(rows[low].to_list())],
            mode="none",
            fill="toself",
            fillcolor=_faint(colour, opacity),
            hoverinfo="skip",
            marker={"color": _faint(colour, 2 * opacity)},
            name=name,
        )
    figure.add_scatter(
        x=targets,
        y=rows["q50"].to_list(),
        name="median",
        mode="lines+markers",
        line={"color": colour, "width": 2},
        marker={"color": colour, "size": 6},
        hovertext=[
            f"{joined(low, unit)} to {joined(high, unit)} in 80 of 100"
            for low, high in rows.select("q10", "q90").iter_rows()
        ],
        hovertemplate=f"%{{y:.4~s}}{unit}<br>%{{hovertext}}<extra>median</extra>",
    )
    return figure


def _faint(colour: str, opacity: float) -> str:
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"
