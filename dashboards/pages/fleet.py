"""The Fleet page: what the fleet draws, what it used, how busy it was and what came of it."""

from collections.abc import Sequence
from typing import Any, Final

import polars as pl

from analytics.slots import SLOT_S
from dashboards.controls import DEVICES, HOSTS, SITES, UNTIL, WINDOW, Choice, Values
from dashboards.data import fleet
from dashboards.data.fleet import View
from dashboards.data.stored import Stored
from dashboards.figures import fleet as figures
from dashboards.figures.style import legend_of
from dashboards.grids import Column, Grid
from dashboards.page import Content, Drawn, Offer, Page, no_samples
from dashboards.parts import beside, chart, panel, tile, twins
from dashboards.selection import BYS, selection_of
from dashboards.words import apart, joined, length, percent, scaled, watt_hours, when

_CONTROLS: Final = (WINDOW, Choice("by", "Group by", BYS, "host"), UNTIL, SITES, HOSTS, DEVICES)
_CHARTS: Final = {
    "power": figures.power,
    "energy": figures.energy,
    "utilization": figures.utilization,
    "efficiency": figures.efficiency,
}
_GRID: Final = Grid(
    name="groups",
    title="The same in numbers",
    key="group",
    columns=(
        Column(name="group", heading="Group", width=130, flex=2, pinned=True, link="/devices/", link_of="device"),
        Column(name="devices", heading="Devices", form=",.0f"),
        Column(name="power_now_w", heading="Power now (kW)", form=",.3f", scale=1e-3),
        Column(name="power_mean_w", heading="Mean power (kW)", form=",.3f", scale=1e-3),
        Column(name="power_max_w", heading="Peak power (kW)", form=",.3f", scale=1e-3),
        Column(name="energy_j", heading="Energy (kWh)", form=",.3f", scale=1 / 3.6e6),
        Column(name="covered_ratio", heading="Covered (%)", form=".1f", scale=100),
        Column(name="modelled_ratio", heading="Modelled (%)", form=".1f", scale=100),
        Column(name="utilization_ratio", heading="Utilization (%)", form=".1f", scale=100),
        Column(name="tokens", heading="Tokens", form=".4~s"),
        Column(name="tokens_per_joule", heading="Tokens/J", form=".4~g"),
        Column(name="joules_per_token", heading="J/token", form=".4~g"),
    ),
)


def _body() -> Sequence[Any]:
    return (
        chart("fleet-power", "Power over time", height=320),
        beside(
            [
                chart("fleet-energy", "Energy in the window", twin=False),
                chart("fleet-utilization", "Utilization over time"),
                chart("fleet-efficiency", "Tokens per joule over time"),
            ],
            columns=3,
        ),
        panel(_GRID.title, _GRID.component("fleet-groups"), aside=twins("fleet-groups", _GRID.title)),
    )


def _content(stored: Stored, values: Values, theme: str) -> Content:
    view = fleet.view(stored, selection_of(values))
    figures_drawn = {name: draw(view, theme) for name, draw in _CHARTS.items()}
    words = dict(zip(_CHARTS, _captions(view), strict=True))
    return Content(
        notice=no_samples(PAGE.path, _CONTROLS, values, fleet.known(stored, view.selection))
        if view.table.is_empty()
        else None,
        status=_status(view),
        tiles=_tiles(view),
        charts={
            name: Drawn(figure=figure, words=words[name], legend=legend_of(figure))
            for name, figure in figures_drawn.items()
        },
        grids={"groups": _linked(view)},
    )


def _linked(view: View) -> pl.DataFrame:
    """The groups with the device of each, where they are devices."""
    device = pl.col("group") if view.selection.by == "device" else pl.lit(None, pl.String)
    return view.table.with_columns(device=device)


def _offer(stored: Stored, values: Values) -> Offer:
    known = fleet.known(stored, selection_of(values))
    return {"site": known.sites, "host": known.hosts, "device": known.devices}


def _twin(name: str) -> Any:
    def frame(stored: Stored, values: Values) -> pl.DataFrame:
        found: pl.DataFrame = getattr(fleet.view(stored, selection_of(values)), name)
        return found

    return frame


def _status(view: View) -> str:
    peaks = "peaks are kept" if view.peaks_s < SLOT_S else f"peaks are means of {length(view.peaks_s)}"
    buckets = f"Each point is {length(view.every_s)}; {peaks}."
    return f"{length(view.selection.window_s)} until {when(view.end)}. {buckets} {_gap(view)}"


def _gap(view: View) -> str:
    return f"Readings more than {view.max_gap_s:.0f} s apart leave a gap."


def _tiles(view: View) -> list[Any]:
    totals, window = view.totals, length(view.selection.window_s)
    covered = f"{percent(totals.covered_ratio)} of {window} covered"
    modelled_now = totals.power_now_modelled_w
    latest = f"{totals.power_now_devices} of {totals.devices} devices"
    modelled = totals.modelled_ratio or 0.0
    hint = f"{percent(modelled)} modelled, not measured" if modelled else ""
    counted = f"{percent(totals.counter_ratio)} by hardware counter"
    mean = f"mean {joined(totals.power_mean_w, 'W')} over {window}"
    tokens = "no tokens counted" if totals.tokens is None else f"{joined(totals.tokens, '')} tokens in {window}"
    per_token = None if not totals.tokens_per_joule else 1 / totals.tokens_per_joule
    return [
        tile(
            "fleet-tile-power",
            "Power now",
            *scaled(totals.power_now_w, "W"),
            [latest, when(totals.power_now_at)]
            if totals.power_now_devices
            else [latest, "no reading in the last moments"],
            warning=f"{joined(modelled_now, 'W')} modelled, not measured" if modelled_now else "",
        ),
        tile("fleet-tile-peak", "Peak power", *scaled(totals.power_peak_w, "W"), [mean, covered]),
        tile(
            "fleet-tile-energy",
            "Energy",
            *scaled(watt_hours(totals.energy_j), "Wh"),
            [covered, counted] if totals.energy_j is not None else [covered],
            warning=hint,
        ),
        tile(
            "fleet-tile-utilization",
            "Utilization",
            *apart(percent(totals.utilization_ratio)),
            [f"mean over {window}", f"{totals.utilization_devices} of {totals.devices} devices report it"],
        ),
        tile(
            "fleet-tile-efficiency",
            "Tokens per joule",
            *scaled(totals.tokens_per_joule, "tokens/J"),
            [tokens, "idle energy included" if per_token is None else f"{joined(per_token, 'J')}/token, idle included"],
            warning=hint if totals.tokens_per_joule is not None else "",
        ),
    ]


def _captions(view: View) -> list[str]:
    """What each chart says, in words."""
    totals, rows = view.totals, view.table
    if rows.is_empty():
        return ["Nothing to show." for _ in _CHARTS]
    by = view.selection.by
    first = rows.row(0, named=True)
    share = None if not totals.energy_j or first["energy_j"] is None else first["energy_j"] / totals.energy_j
    lowest = joined(_extreme(view.power, "power_min_w", lowest=True), "W")
    drawn = len(figures.shown(view))
    named = (
        f"{rows.height} {by}s" if rows.height <= drawn else f"the {drawn} of {rows.height} {by}s that used most energy"
    )
    hatched = " Hatched: modelled, not measured." if totals.modelled_ratio else ""
    most = joined(watt_hours(first["energy_j"]), "Wh")
    return [
        f"Stacked means by {by}; from {lowest} to {joined(totals.power_peak_w, 'W')}, peaks included.",
        f"{first['group']} used most: {most}, {percent(share)} of the whole.{hatched}",
        f"Mean of each {by}'s devices; {named}.",
        f"All tokens generated over all energy, idle included; {named}.",
    ]


def _extreme(frame: pl.DataFrame, column: str, *, lowest: bool) -> float | None:
    found = frame[column].min() if lowest else frame[column].max()
    return float(found) if isinstance(found, int | float) else None


PAGE: Final = Page(
    name="fleet",
    label="Fleet",
    group="Now",
    title="Fleet power and efficiency",
    about="What the fleet draws, what it used, how busy it was and what came of it.",
    controls=_CONTROLS,
    body=_body,
    content=_content,
    offer=_offer,
    twins={
        "groups": _twin("table"),
        "power": _twin("power"),
        "utilization": _twin("utilization"),
        "efficiency": _twin("efficiency"),
    },
    charts=tuple(_CHARTS),
    grids=(_GRID,),
    live=True,
)
