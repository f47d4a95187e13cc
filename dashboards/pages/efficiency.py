"""The Efficiency page: how much of the fleet does work, where the rest goes, what does the same for fewer joules."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import polars as pl
from dash import html

from dashboards.controls import HOSTS, SITES, UNTIL, WINDOWS, Choice, Values
from dashboards.data import efficiency as data
from dashboards.data import fleet
from dashboards.data.efficiency import EfficiencyView
from dashboards.data.stored import Stored
from dashboards.figures import efficiency as figures
from dashboards.figures.efficiency import cause_of
from dashboards.figures.style import legend_of
from dashboards.grids import Column, Grid
from dashboards.page import Content, Drawn, Offer, Page, no_samples
from dashboards.parts import beside, chart, funnel, panel, remark, small_table, tile, twins
from dashboards.selection import selection_of
from dashboards.words import ABSENT, apart, joined, length, number, percent, scaled, watt_hours, when

_CONTROLS: Final = (
    Choice("window", "Window", tuple(WINDOWS), "6h"),
    Choice("by", "League by", tuple(data.PER), "type"),
    Choice("measure", "Joules per", data.MEASURES, "token"),
    Choice("against", "Against", tuple(data.AGAINST), "throughput"),
    UNTIL,
    SITES,
    HOSTS,
)
_STEPS: Final = {
    "total": "Total",
    "allocated": "Allocated",
    "active": "Active",
    "effective": "Effective",
}
_LOST: Final = {
    "allocated": "held by nobody, or failed",
    "active": "idle, failed or not measured",
    "effective": "stalled or at low activity",
}
_GRID: Final = Grid(
    name="league",
    title="League: joules for the same work",
    key="row",
    columns=(
        Column(name="name", heading="Name", width=170, flex=2, pinned=True, filter=True),
        Column(name="rank", heading="Rank", form=",.0f", width=66),
        Column(name="within", heading="Ranked within", width=190, flex=2, filter=True),
        Column(name="joules", heading="J per unit", form=".4~g", note="Joules per token, sample or step"),
        Column(name="low", heading="at least", form=".4~g", note="Lower end of the interval"),
        Column(name="high", heading="at most", form=".4~g", note="Upper end of the interval"),
        Column(name="rate", heading="Units/s per device", form=".4~s"),
        Column(name="amount", heading="Units", form=".4~s"),
        Column(name="latency_p99_s", heading="p99 latency (s)", form=".3~g"),
        Column(name="first_token_s", heading="First token (s)", form=".3~g"),
        Column(name="workloads", heading="Jobs", form=",.0f", width=66),
        Column(name="devices", heading="Devices", form=",.0f", width=80),
        Column(name="device_h", heading="Device-hours", form=",.1f"),
        Column(name="covered_ratio", heading="Covered (%)", form=".1f", scale=100),
        Column(name="modelled_ratio", heading="Modelled (%)", form=".1f", scale=100),
        Column(name="unranked", heading="Not ranked because", width=240, flex=3),
    ),
)


def _body() -> Sequence[Any]:
    return (
        panel("The fleet's funnel", html.Div(id="efficiency-funnel"), aside=twins("efficiency-funnel", "The funnel")),
        beside(
            [
                chart("efficiency-waste", "Waste by cause", height=300),
                chart("efficiency-front", "Joules against throughput or latency", height=300, twin=False),
            ]
        ),
        panel("What to do about it", html.Div(id="efficiency-advice")),
        panel(_GRID.title, _GRID.component("efficiency-league"), aside=twins("efficiency-league", _GRID.title)),
    )


def _content(stored: Stored, values: Values, theme: str) -> Content:
    selection = selection_of(values)
    view = data.view(stored, values)
    waste, front = figures.waste(view, theme), figures.front(view, theme)
    known = fleet.known(stored, selection) if view.funnel.is_empty() else None
    return Content(
        notice=None if known is None else no_samples(PAGE.path, _CONTROLS, values, known),
        status=_status(view, selection.window_s),
        tiles=_tiles(view),
        charts={
            "waste": Drawn(figure=waste, words=_waste_words(view)),
            "front": Drawn(figure=front, words=_front_words(view), legend=legend_of(front)),
        },
        grids={"league": _league(view)},
        slots={"funnel": _funnel(view), "advice": _advice(view)},
    )


def _status(view: EfficiencyView, window_s: int) -> str:
    seen = f"{length(window_s)} until {when(view.end)}"
    judged = _steps(view).get("active", {}).get("judged_ratio")
    by = f"{percent(judged)} of the time in use is judged by the activity of compute units, the rest by utilization."
    told = f"{seen}. {by if judged is not None else 'No device was in use.'}"
    if view.slot_s is None:
        return f"{told} The same as perfwatt funnel and waste."
    return f"{told} Worked out from means of {length(view.slot_s)}; perfwatt funnel and waste look at each reading."


def _steps(view: EfficiencyView) -> dict[str, Mapping[str, Any]]:
    return {row["step"]: row for row in view.funnel.iter_rows(named=True)}


def _tiles(view: EfficiencyView) -> list[Any]:
    steps = _steps(view)
    total, effective = steps.get("total"), steps.get("effective")
    if total is None or effective is None:
        return []
    lost_w = (total["power_mean_w"] or 0.0) - (effective["power_mean_w"] or 0.0)
    lost_j = (total["energy_j"] or 0.0) - (effective["energy_j"] or 0.0)
    lost = view.waste.filter(pl.col("cause") != "useful")
    worst = lost.sort("device_h", descending=True).row(0, named=True) if lost.height else None
    best = view.league.filter(pl.col("rank") == 1).sort("device_h", descending=True)
    unit = f"J/{view.measure}"
    return [
        tile(
            "efficiency-tile-effective",
            "Effective devices",
            f"{effective['devices']:,.1f}",
            f"of {total['devices']:,.1f}",
            [f"{percent(effective['ratio'])} of the device-hours", "more than half of the compute units active"],
        ),
        tile(
            "efficiency-tile-power",
            "Power without use",
            *scaled(lost_w, "W"),
            [f"of {joined(total['power_mean_w'], 'W')}, mean", f"{joined(watt_hours(lost_j), 'Wh')} in the window"],
        ),
        tile(
            "efficiency-tile-cost",
            "Cost without use",
            *_money(view.funnel_cost, "lost_cost"),
            [f"of {' + '.join(_amounts(view.funnel_cost, 'cost', 'total'))}", *_basis(view)]
            if view.funnel_cost.height
            else ["fleet.toml tells no price"],
        ),
        tile(
            "efficiency-tile-worst",
            "Largest loss",
            *(apart(f"{worst['device_h']:,.1f} device-h") if worst else (ABSENT, "")),
            [cause_of(worst), f"{percent(worst['time_ratio'])} of the time"] if worst else ["nothing was wasted"],
        ),
        tile(
            "efficiency-tile-best",
            f"Least {unit}",
            *(scaled(best[f"joules_per_{view.measure}"][0], unit) if best.height else (ABSENT, unit)),
            [str(best[view.per][0]), _within(best.row(0, named=True), view)]
            if best.height
            else ["not enough evidence to rank"],
        ),
    ]


def _amounts(rows: pl.DataFrame, column: str, step: str | None = None) -> list[str]:
    """Amounts of money, one for each currency; *step* of the funnel, or the sum of what all steps lose."""
    chosen = rows if step is None else rows.filter(pl.col("step") == step)
    sums = chosen.group_by("currency").agg(pl.col(column).sum()).sort(column, descending=True)
    return [f"{amount:,.2f} {currency}" for currency, amount in sums.iter_rows()]


def _money(rows: pl.DataFrame, column: str) -> tuple[str, str]:
    """The largest amount for a tile, the other currencies in its unit."""
    if rows.is_empty():
        return ABSENT, ""
    first, *others = _amounts(rows, column)
    amount, unit = apart(first)
    return amount, " + ".join([unit, *others])


def _basis(view: EfficiencyView) -> list[str]:
    told = {
        "energy": "energy alone; devices have no price",
        "devices": "devices alone; energy has no price",
        "energy+devices": "energy and devices",
    }
    return sorted({told[name] for name in view.funnel_cost["cost_basis"].drop_nulls().unique()})


def _funnel(view: EfficiencyView) -> Any:
    steps = _steps(view)
    if not steps:
        return remark("No device was read in this window.", dim=True)
    rows = []
    for name, label in _STEPS.items():
        row = steps[name]
        money = " + ".join(_amounts(view.funnel_cost, "cost", name)) if view.funnel_cost.height else ABSENT
        lost = ""
        if name in _LOST and row["lost_device_h"]:
            lost = f"−{row['lost_devices']:,.1f}: {_LOST[name]} ({joined(row['lost_power_w'], 'W')})"
        cells = (f"{row['devices']:,.1f}", percent(row["ratio"]), joined(row["power_mean_w"], "W"), money, lost)
        rows.append((label, row["ratio"] or 0.0, cells))
    return funnel(("Step", "Of the total", "Devices", "Share", "Mean power", "Cost", "Lost on the way"), rows)


def _advice(view: EfficiencyView) -> Any:
    rows = figures.lost(view).drop_nulls("advice")
    if rows.is_empty():
        return remark("Nothing was wasted in this window.", dim=True)
    costs: dict[tuple[str, str | None], list[str]] = {}
    for row in view.waste_cost.iter_rows(named=True):
        costs.setdefault((row["cause"], row["reason"]), []).append(f"{row['cost']:,.2f} {row['currency']}")
    lines = [
        (
            cause_of(row),
            joined(watt_hours(row["energy_j"]), "Wh"),
            " + ".join(costs.get((row["cause"], row["reason"]), [ABSENT])),
            row["advice"],
        )
        for row in rows.iter_rows(named=True)
    ]
    small = view.waste.filter(pl.col("cause") != "useful").height - rows.height
    rest = f" {small} more of less than {percent(figures.LEAST_RATIO)} of the time are in the file." if small else ""
    caption = f"Dearest first; each joule and each second of a device has one cause.{rest}"
    return small_table(("Cause", "Energy", "Cost", "What to do"), lines, numbers=(1, 2), caption=caption, stacked=True)


def _league(view: EfficiencyView) -> pl.DataFrame:
    """The league under names that are the same whatever it is of."""
    joules = f"joules_per_{view.measure}"
    names = {
        "name": view.per,
        "joules": joules,
        "low": f"{joules}_low",
        "high": f"{joules}_high",
        "rate": f"{view.measure}s_per_s_per_device",
        "amount": f"{view.measure}s",
    }
    within = [_within(row, view) for row in view.league.iter_rows(named=True)]
    return view.league.with_row_index("row").with_columns(
        pl.col("row").cast(pl.String), pl.Series("within", within, dtype=pl.String),
        *(pl.col(column).alias(name) for name, column in names.items()),
    )  # fmt: skip


def _within(row: Mapping[str, Any], view: EfficiencyView) -> str:
    return "; ".join(str(row[name] or "unknown") for name in view.within if name != view.per)


def _waste_words(view: EfficiencyView) -> str:
    lost = view.waste.filter(pl.col("cause") != "useful")
    if lost.is_empty():
        return "All of the time was of use."
    share = float(lost["time_ratio"].sum())
    first = lost.sort("device_h", descending=True).row(0, named=True)
    return (
        f"{percent(share)} of the device-hours were of no use, most of them {cause_of(first)}: "
        f"{number(first['device_h'])} device-hours, {joined(watt_hours(first['energy_j']), 'Wh')}."
    )


def _front_words(view: EfficiencyView) -> str:
    won = view.league.filter("front")
    if won.is_empty():
        return "Nothing is ranked: there is too little evidence, or no work was counted."
    names = sorted({str(name) for name in won[view.per]})
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return (
        f"Ringed: nothing of the same {' and '.join(view.within) or 'kind'} needs fewer joules and does as well "
        f"({shown}). Hollow: not ranked. Bars: intervals."
    )


def _offer(stored: Stored, values: Values) -> Offer:
    known = fleet.known(stored, selection_of(values))
    return {"site": known.sites, "host": known.hosts}


PAGE: Final = Page(
    name="efficiency",
    label="Efficiency",
    group="Efficiency",
    title="Efficiency and waste",
    about="How much of the fleet does work, where the rest goes, and what does the same for fewer joules.",
    controls=_CONTROLS,
    body=_body,
    content=_content,
    offer=_offer,
    twins={
        "league": lambda stored, values: data.view(stored, values).league,
        "funnel": lambda stored, values: data.view(stored, values).funnel,
        "waste": lambda stored, values: data.view(stored, values).waste,
    },
    charts=("waste", "front"),
    grids=(_GRID,),
    slots=("funnel", "advice"),
    linked=("funnel",),
)
