"""The Data quality page: which numbers not to trust, and why."""

from collections.abc import Sequence
from typing import Any, Final

import polars as pl

from analytics.quality import AGREES
from dashboards.controls import HOSTS, SITES, UNTIL, Choice, Values
from dashboards.controls import WINDOWS as LENGTHS
from dashboards.data import fleet
from dashboards.data import quality as data
from dashboards.data.quality import QualityView
from dashboards.data.stored import Stored
from dashboards.figures import quality as figures
from dashboards.figures.style import legend_of
from dashboards.grids import Column, Grid
from dashboards.page import Content, Drawn, Offer, Page, no_samples
from dashboards.parts import beside, chart, panel, tile, twins
from dashboards.selection import selection_of
from dashboards.words import apart, joined, length, percent, when

_CONTROLS: Final = (Choice("window", "Window", tuple(LENGTHS), "24h"), UNTIL, SITES, HOSTS)
_GRID: Final = Grid(
    name="devices",
    title="Devices, the least to be trusted first",
    key="device",
    columns=(
        Column(name="device", heading="Device", width=180, flex=2, pinned=True, filter=True, link="/devices/"),
        Column(name="verdict", heading="Verdict", width=86, filter=True),
        Column(name="reason", heading="Why", width=320, flex=4, filter=True),
        Column(name="host", heading="Host", width=130, filter=True),
        Column(name="covered_ratio", heading="Covered (%)", form=".1f", scale=100),
        Column(name="gaps", heading="Gaps", form=",.0f", width=74),
        Column(name="longest_gap_s", heading="Longest gap (s)", form=",.0f"),
        Column(name="gap_reasons", heading="Gaps by reason", width=180, flex=2),
        Column(name="agreement_ratio", heading="Counter over power", form=".3f", note="1 where both tell the same"),
        Column(name="power_method", heading="Power by", width=96),
        Column(name="modelled_ratio", heading="Modelled (%)", form=".1f", scale=100),
        Column(name="period_s", heading="Read every (s)", form=".3~g"),
        Column(name="update_period_s", heading="Sensor updates (s)", form=".3~g"),
        Column(name="sensor_window_s", heading="Sensor window (s)", form=".3~g"),
        Column(name="sensor_seen_ratio", heading="Sensor sees (%)", form=".0f", scale=100),
        Column(name="calibration_age_s", heading="Calibrated (days ago)", form=",.0f", scale=1 / 86_400),
        Column(name="late", heading="Late", form=",.0f", width=74),
        Column(name="duplicates", heading="Twice", form=",.0f", width=74),
        Column(name="clock_jumps", heading="Clock jumps", form=",.0f"),
    ),
)


def _body() -> Sequence[Any]:
    return (
        beside(
            [
                chart("quality-verdicts", "Verdict by host", twin=False),
                chart("quality-gaps", "Gaps by reason"),
                chart("quality-agreement", "Coverage and agreement", twin=False),
            ],
            columns=3,
        ),
        panel(_GRID.title, _GRID.component("quality-devices"), aside=twins("quality-devices", "Devices")),
    )


def _content(stored: Stored, values: Values, theme: str) -> Content:
    selection = selection_of(values)
    view = data.view(stored, selection)
    verdicts, gaps, agreement = (draw(view, theme) for draw in (figures.verdicts, figures.gaps, figures.agreement))
    return Content(
        notice=no_samples(PAGE.path, _CONTROLS, values, fleet.known(stored, selection))
        if view.devices.is_empty()
        else None,
        status=_status(view, selection.window_s),
        tiles=_tiles(view),
        charts={
            "verdicts": Drawn(figure=verdicts, words=_verdict_words(view), legend=legend_of(verdicts)),
            "gaps": Drawn(figure=gaps, words=_gap_words(view)),
            "agreement": Drawn(figure=agreement, words=_agreement_words(view), legend=legend_of(agreement)),
        },
        grids={"devices": view.devices},
    )


def _status(view: QualityView, window_s: int) -> str:
    return f"{length(window_s)} until {when(view.end)}. The same judgement as perfwatt quality."


def _tiles(view: QualityView) -> list[Any]:
    devices = view.devices
    counts = {name: int((devices["verdict"] == name).sum()) for name in data.VERDICTS}
    modelled = _mean(devices, "modelled_ratio")
    disagree = devices.filter(~pl.col("agreement_ratio").is_between(*AGREES)).height
    compared = devices["agreement_ratio"].count()
    calibrated = int(devices["calibrated"].sum()) if devices.height else 0
    doubtful = counts["fair"] + counts["poor"]
    return [
        tile(
            "quality-tile-good",
            "To be trusted",
            f"{counts['good']:,}",
            "devices",
            [f"of {devices.height:,}", f"{counts['fair']} fair, {counts['poor']} poor"],
            warning=f"{doubtful} in doubt" if doubtful else "",
        ),
        tile(
            "quality-tile-covered",
            "Covered",
            *apart(percent(_mean(devices, "covered_ratio"))),
            ["mean of the devices", _gap_sum(view)],
        ),
        tile(
            "quality-tile-agreement",
            "Counters that agree",
            f"{compared - disagree:,}",
            f"of {compared:,}",
            ["with integrated power within 10 %", f"{devices.height - compared} devices have nothing to compare"],
            warning=f"{disagree} disagree" if disagree else "",
        ),
        tile(
            "quality-tile-modelled",
            "Modelled",
            *apart(percent(modelled)),
            ["mean share of energy that is", "modelled and not measured"],
        ),
        tile(
            "quality-tile-calibrated",
            "Calibrated",
            f"{calibrated:,}",
            "devices",
            ["beside a reference meter", "the others carry ±5 %"],
        ),
    ]


def _mean(frame: pl.DataFrame, column: str) -> float | None:
    value = frame[column].mean()
    return float(value) if isinstance(value, int | float) else None


def _gap_sum(view: QualityView) -> str:
    hours = float(view.devices["gap_s"].sum() or 0.0) / 3600
    return f"{hours:,.1f} device-hours without readings" if hours else "no gap"


def _verdict_words(view: QualityView) -> str:
    poor = view.devices.filter(pl.col("verdict") == "poor")
    if poor.is_empty():
        return "No device is poor."
    first = poor.row(0, named=True)
    count = "1 device is" if poor.height == 1 else f"{poor.height} devices are"
    return f"{count} poor; {first['device']}: {first['reason']}."


def _gap_words(view: QualityView) -> str:
    if view.gaps.is_empty():
        return "Every device was read throughout."
    first = view.gaps.row(0, named=True)
    return f"Most of it: {first['reason'].replace('_', ' ')}, {joined(first['gap_s'] / 3600, 'device-hours')}."


def _agreement_words(view: QualityView) -> str:
    outside = view.devices.filter(~pl.col("agreement_ratio").is_between(*AGREES)).height
    return (
        f"{outside} counters differ from integrated power by more than a tenth. Dotted: where a verdict changes. "
        "Hollow: no counter to compare."
    )


def _offer(stored: Stored, values: Values) -> Offer:
    known = fleet.known(stored, selection_of(values))
    return {"site": known.sites, "host": known.hosts}


PAGE: Final = Page(
    name="quality",
    label="Data quality",
    group="Now",
    title="Which numbers to trust",
    about="Coverage, gaps and why, counters against power, what sensors see: what each figure rests on.",
    controls=_CONTROLS,
    body=_body,
    content=_content,
    offer=_offer,
    twins={
        "devices": lambda stored, values: data.view(stored, selection_of(values)).devices,
        "gaps": lambda stored, values: data.view(stored, selection_of(values)).gaps,
    },
    charts=("verdicts", "gaps", "agreement"),
    grids=(_GRID,),
)
