"""The Capacity page: what is left at each node in its worst failure, until when, where power is stranded."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import polars as pl
from dash import html

from dashboards.controls import SITES, Choice, One, Values
from dashboards.data import capacity as data
from dashboards.data.capacity import CapacityView, plan_query
from dashboards.data.stored import Stored
from dashboards.figures import capacity as figures
from dashboards.figures.style import legend_of
from dashboards.grids import Column, Grid
from dashboards.page import Content, Drawn, Offer, Page
from dashboards.parts import badge, beside, chart, notice, panel, remark, small_table, tile, twins
from dashboards.words import ABSENT, apart, date_apart, joined, money, percent, scaled

_CONTROLS: Final = (
    Choice("show", "Chart", data.SHOWN, "domains"),
    SITES,
    One("series", "Forecast of", placeholder="the site that draws most"),
)
_NODES: Final = Grid(
    name="nodes",
    title="Nodes of the power tree",
    key="node",
    columns=(
        Column(name="shown", heading="Node", width=200, flex=2, pinned=True, filter=True),
        Column(name="kind", heading="Kind", width=86, filter=True),
        Column(name="site", heading="Site", width=96, filter=True),
        Column(name="load_p50_w", heading="Load p50 (kW)", form=",.1f", scale=1e-3, note="While all stands"),
        Column(name="load_w", heading="Load that counts (kW)", form=",.1f", scale=1e-3, note="A high percentile"),
        Column(
            name="derated_w", heading="Derated (kW)", form=",.1f", scale=1e-3, note="What it may carry day and night"
        ),
        Column(name="safe_w", heading="Safe (kW)", form=",.1f", scale=1e-3, note="Whatever single failure comes"),
        Column(name="failure_load_w", heading="Load in worst failure (kW)", form=",.1f", scale=1e-3, width=104),
        Column(name="headroom_w", heading="Headroom (kW)", form=",.1f", scale=1e-3, width=100),
        Column(name="worst_failure", heading="Worst failure", width=170, flex=2, filter=True),
        Column(name="exceedance_ratio", heading="Minutes over (%)", form=".2f", scale=100),
        Column(name="servers", heading="Servers that fit", form=",.0f", width=86),
        Column(name="stranded_w", heading="Stranded (kW)", form=",.1f", scale=1e-3),
        Column(name="runway_p10_day", heading="Runs out p10", width=124),
        Column(name="runway_p50_day", heading="p50", width=124),
        Column(name="runway_p90_day", heading="p90", width=124),
        Column(name="binding", heading="First to bind", width=140, flex=2, filter=True),
        Column(name="order_by_day", heading="Order by", width=104),
        Column(
            name="oversubscription_ratio", heading="Oversubscribed", form=".2f", width=110, note="Nameplates over safe"
        ),
        Column(name="covered_ratio", heading="Covered (%)", form=".1f", scale=100),
        Column(name="modelled_ratio", heading="Modelled (%)", form=".1f", scale=100),
    ),
)
_METHODS: Final = Grid(
    name="methods",
    title="The forecast by horizon",
    key="horizon",
    columns=(
        Column(name="horizon", heading="Ahead", width=86, pinned=True),
        Column(name="target_shown", heading="Of (UTC)", width=140, flex=2),
        Column(name="unit", heading="Unit", width=80),
        Column(name="q10", heading="p10", form=".4~s"),
        Column(name="q50", heading="p50", form=".4~s"),
        Column(name="q90", heading="p90", form=".4~s"),
        Column(name="method", heading="Method", width=130, flex=2),
        Column(name="better", heading="Better than the best baseline (%)", form=".1f", width=130, scale=100),
        Column(name="coverage_ratio", heading="Fell in p10 to p90 (%)", form=".1f", scale=100, width=110),
        Column(name="outcomes", heading="Outcomes tested", form=",.0f", width=100),
        Column(name="history_days", heading="Days learned", form=".1f"),
    ),
)
_RUNWAY: Final = ("runway_p10", "runway_p50", "runway_p90")


def _body() -> Sequence[Any]:
    return (
        panel("What to do", html.Div(id="capacity-advice"), aside=twins("capacity-recommendations", "What to do")),
        beside(
            [
                chart("capacity-limits", "Load against safe power, least left first", height=420, twin=False),
                chart("capacity-runway", "Runway: when it runs out", height=420),
                chart("capacity-stranded", "Stranded power by cause", height=340),
                chart("capacity-forecast", "Forecast", height=340),
            ]
        ),
        panel(_NODES.title, _NODES.component("capacity-nodes"), aside=twins("capacity-nodes", _NODES.title)),
        panel(_METHODS.title, _METHODS.component("capacity-methods")),
    )


def _content(stored: Stored, values: Values, theme: str) -> Content:
    view, show = data.view(stored, values), str(values["show"])
    drawn = {
        "limits": (figures.limits(view, show, theme), _limit_words(view, show)),
        "runway": (figures.runway(view, theme), _runway_words(view)),
        "stranded": (figures.stranded(view, theme), _stranded_words(view)),
        "forecast": (figures.forecast(view, theme), _forecast_words(view)),
    }
    return Content(
        notice=_nothing(view),
        status=_status(view),
        tiles=_tiles(view),
        charts={
            name: Drawn(figure=figure, words=words, legend=legend_of(figure)) for name, (figure, words) in drawn.items()
        },
        grids={"nodes": _nodes(view), "methods": _methods(view)},
        slots={"advice": _advice(view)},
    )


def _nothing(view: CapacityView) -> Any:
    told = view.standing
    if view.nodes.height or told.state == "failed":
        title = "Capacity is not up to date" if view.nodes.height else "The job of capacity could not tell"
        return notice(title, [told.says, " ", html.Code(told.command)], color="yellow") if told.says else None
    ways = [
        "Describe sites, power tree and racks in the store's fleet.toml (",
        html.Code("perfwatt fleet check FILE"),
        " checks one), and run ",
        html.Code(told.command),
        ".",
    ]
    return notice("Capacity has not been worked out yet", ways)


def _status(view: CapacityView) -> str:
    if view.as_of is None:
        return "No capacity."
    basis = view.nodes["load_basis"].drop_nulls()
    start = view.nodes["start"].min()
    assert isinstance(start, datetime)
    counted = f" The load that counts is the {basis[0]}." if len(basis) else ""
    safe = "Power that is safe is so in any single failure."
    return f"As of {_when(view.as_of)}, by load since {_when(start)}.{counted} {safe}"


def _when(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _tiles(view: CapacityView) -> list[Any]:
    nodes = view.nodes.filter(pl.col("kind") != "group")
    least = _first(nodes.drop_nulls("headroom_w").filter(pl.col("kind") != "rack").sort("headroom_w", "node"))
    over = nodes.filter(pl.col("headroom_w") < 0).height
    soon = _first(view.ahead)
    sites = nodes.filter(pl.col("kind") == "site")
    installed = _sum(view.stranded.filter(pl.col("cause") == "installed"))
    causes = view.stranded.filter(~pl.col("cause").is_in(["installed", "in use", "other", "deployable", "nameplate"]))
    stranded = _sum(causes)
    sku = view.stranded["sku"].drop_nulls()
    usable = _sum(view.stranded.filter(pl.col("cause").is_in(["deployable", "nameplate"])))
    covered = nodes["covered_ratio"].drop_nulls()
    return [
        tile(
            "capacity-tile-headroom",
            "Least headroom",
            *scaled(least.get("headroom_w"), "W"),
            [least.get("node", ABSENT), _lost(least.get("worst_failure"))],
            warning=f"{over} nodes overloaded in a failure" if over else "",
        ),
        tile(
            "capacity-tile-runway",
            "Runs out first",
            *date_apart(soon.get("runway_p50") or soon.get("runway_p10")),
            [
                f"{soon['binding']} of {soon['node']}",
                f"order by {_day(soon['order_by'])}" if soon["order_by"] else "no lead time told",
            ]
            if soon
            else [_sight(view)],
        ),
        tile(
            "capacity-tile-servers",
            "More servers fit",
            f"{sites['servers'].sum():,}" if sites["servers"].count() else ABSENT,
            "",
            [
                f"of {sku[0]}, in all sites" if len(sku) else "no SKU tells what a server draws",
                f"{joined(usable, 'W')} usable",
            ],
        ),
        tile(
            "capacity-tile-stranded",
            "Stranded",
            *scaled(stranded if installed else None, "W"),
            [
                f"{percent(stranded / installed)} of {joined(installed, 'W')} installed"
                if installed
                else "no rated domain feeds racks"
            ],
        ),
        tile(
            "capacity-tile-covered",
            "Load measured",
            *apart(percent(_least(covered))),
            [
                "of the time and hosts, least of all nodes",
                f"{percent(_most(nodes['modelled_ratio']))} modelled at most",
            ],
        ),
    ]


def _sight(view: CapacityView) -> str:
    far = view.nodes["horizon"].max() if view.nodes.height else None
    return "how load grows is not known yet" if not isinstance(far, datetime) else f"nothing up to {_day(far)}"


def _sum(rows: pl.DataFrame) -> float:
    return float(rows["power_w"].sum())


def _least(values: pl.Series) -> float | None:
    found = values.min()
    return float(found) if isinstance(found, int | float) else None


def _most(values: pl.Series) -> float | None:
    found = values.max()
    return float(found) if isinstance(found, int | float) else None


def _first(rows: pl.DataFrame) -> Mapping[str, Any]:
    return rows.row(0, named=True) if rows.height else {}


def _lost(case: str | None) -> str:
    return "" if case is None else "while all stands" if case == "none" else f"with {case} lost"


def _day(moment: datetime | None) -> str:
    return ABSENT if moment is None else f"{moment:%Y-%m-%d}"


def _limit_words(view: CapacityView, show: str) -> str:
    rows = view.charted(show)
    if rows.is_empty():
        return ""
    shown = f"The {figures.BARS} of {rows.height} nodes with least left. " if rows.height > figures.BARS else ""
    over = rows.filter(pl.col("headroom_w") < 0).sort("headroom_w")
    if over.is_empty():
        return f"{shown}All {rows.height} nodes hold in every single failure."
    node, most = over["node"][0], joined(-float(over["headroom_w"][0]), "W")
    return f"{shown}{over.height} of {rows.height} nodes would be overloaded in a failure, {node} the most, by {most}."


def _runway_words(view: CapacityView) -> str:
    rows = view.ahead
    if rows.is_empty():
        return _sight(view).capitalize() + "."
    first = rows.row(0, named=True)
    share = f"{percent(first['runs_out_ratio'])} of {first['paths']} paths up to {_day(first['horizon'])}"
    return (
        f"{first['binding'].capitalize()} of {first['node']} is the first to run out, in {share}. A line goes from the "
        "date that one path in ten comes before to that of nine in ten (dotted: beyond what is known); the dot is the "
        "median."
    )


def _stranded_words(view: CapacityView) -> str:
    rows = view.stranded.filter(pl.col("cause") != "installed")
    if rows.is_empty():
        return "No domain that feeds racks has a rating."
    whole = _sum(view.stranded.filter(pl.col("cause") == "installed"))
    told = rows.group_by("cause", "meaning").agg(pl.col("power_w").sum())
    lost = told.filter(~pl.col("cause").is_in(["in use", "other", "deployable", "nameplate"])).sort(
        "power_w", descending=True
    )
    most = lost.row(0, named=True) if lost.height else None
    why = f" Most is lost to {most['cause']}: {most['meaning']} ({joined(most['power_w'], 'W')})." if most else ""
    return f"The bars add up to the {joined(whole, 'W')} that the domains which feed racks are rated for.{why}"


def _forecast_words(view: CapacityView) -> str:
    rows = view.forecast
    if rows.is_empty():
        return "Nothing is forecast yet; perfwatt jobs run forecasts does it where there is enough history."
    parts = [_by(str(method), part) for (method,), part in rows.group_by("method", maintain_order=True)]
    how = "at each horizon what erred least on days that it was not fitted on"
    return f"{view.series}, issued {_when(rows['time'][0])}. By {'; '.join(parts)}: {how}."


def _by(method: str, part: pl.DataFrame) -> str:
    """The horizons at which a method was taken, and how much better it was there."""
    ends = dict.fromkeys(_ahead(seconds) for seconds in (part["horizon_s"].min(), part["horizon_s"].max()))
    known = part.filter(pl.col("loss") < pl.col("baseline_loss"))
    gains = (1 - known["loss"] / known["baseline_loss"]).sort().to_list()
    better = " to ".join(dict.fromkeys(percent(gain) for gain in (gains[0], gains[-1]))) if gains else ""
    said = f" ({better} less error than the best baseline)" if better else ""
    return f"{method.replace('_', ' ')} at {' to '.join(ends)}{said}"


def _ahead(seconds: Any) -> str:
    return f"{seconds / 3600:g} h" if seconds >= 3600 else f"{seconds / 60:g} min"


def _nodes(view: CapacityView) -> pl.DataFrame:
    day = "%Y-%m-%d"
    # Beyond what was looked at is something else than not known.
    later = pl.concat_str(pl.lit("after "), pl.col("horizon").dt.strftime(day))
    days = [pl.coalesce(pl.col(name).dt.strftime(day), later).alias(f"{name}_day") for name in _RUNWAY]
    days.append(pl.col("order_by").dt.strftime(day).alias("order_by_day"))
    # An indent that is no blank: the grid would collapse it.
    indent = pl.lit("\u2003").repeat_by(pl.col("depth").fill_null(0)).list.join("")
    return view.nodes.with_columns(*days, shown=pl.concat_str(indent, "node")) if view.nodes.height else pl.DataFrame()


def _methods(view: CapacityView) -> pl.DataFrame:
    if view.forecast.is_empty():
        return pl.DataFrame()
    return view.forecast.with_columns(
        horizon=pl.Series([_ahead(seconds) for seconds in view.forecast["horizon_s"]], dtype=pl.String),
        target_shown=pl.col("target").dt.strftime("%Y-%m-%d %H:%M"),
        unit=pl.col("metric").replace_strict(figures.UNITS, default=None, return_dtype=pl.String),
        better=1 - pl.col("loss") / pl.col("baseline_loss"),
    )


def _advice(view: CapacityView) -> Any:
    if view.recommendations.is_empty():
        return remark("Nothing is due." if view.nodes.height else "Nothing is known yet.", dim=True)
    order = {kind: at for at, kind in enumerate(("move", "buy", "place", "relieve", "cord", "plan", "measure"))}
    found = view.recommendations.with_columns(
        rank=pl.col("kind").replace_strict(order, default=len(order), return_dtype=pl.Int64)
    )
    rows = [
        (badge(row["kind"]), row["site"] or ABSENT, _effect(row), _cost(row), _sentence(row))
        for row in found.sort("rank", "effect_mid", descending=[False, True], nulls_last=True).iter_rows(named=True)
    ]
    caption = (
        "Effects are watts that move, are placed or become usable. What names servers was walked through in every "
        "failure case."
    )
    return small_table(
        ("Kind", "Site", "Effect", "Price", "What to do"), rows, numbers=(2, 3), caption=caption, stacked=True
    )


def _effect(row: Mapping[str, Any]) -> str:
    middle, high, unit = row["effect_mid"], row["effect_high"], row["effect_unit"] or ""
    if middle is None:
        return ABSENT
    # What half of the outcomes do not need is no effect of nothing.
    return f"up to {joined(high, unit)}" if middle == 0 and high else joined(middle, unit)


def _cost(row: Mapping[str, Any]) -> str:
    return ABSENT if row["cost"] is None else money(row["cost"], row["currency"])


def _sentence(row: Mapping[str, Any]) -> Any:
    query = plan_query(row["query"])
    words = str(row["summary"])
    # Others begin with the name of a place, which is written as it is.
    sentence = (words[:1].upper() + words[1:] if row["kind"] in {"move", "place"} else words) + "."
    if query is None:
        return sentence
    return [sentence, " ", html.A("Plan it", href=f"/plan{query}", className="pw-link")]


def _offer(stored: Stored, values: Values) -> Offer:
    return data.known(stored, values)


PAGE: Final = Page(
    name="capacity",
    label="Capacity",
    group="Capacity",
    title="Capacity: what is left, and until when",
    about="Headroom of every node if any single feed or unit fails, when it runs out, and where power is stranded.",
    controls=_CONTROLS,
    body=_body,
    content=_content,
    offer=_offer,
    twins={
        "nodes": lambda stored, values: data.view(stored, values).nodes,
        "runway": lambda stored, values: data.view(stored, values).ahead,
        "stranded": lambda stored, values: data.view(stored, values).stranded,
        "forecast": lambda stored, values: data.view(stored, values).forecast,
        "recommendations": lambda stored, values: data.view(stored, values).recommendations,
    },
    charts=("limits", "runway", "stranded", "forecast"),
    grids=(_NODES, _METHODS),
    slots=("advice",),
    linked=("recommendations",),
)
