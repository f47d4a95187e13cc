"""The Jobs page: all jobs of a window, what each used, achieved and wasted."""

from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import quote

import polars as pl

from analytics.known import column_sum
from dashboards.controls import UNTIL, WINDOWS, Choice, Choices, Values
from dashboards.data import fleet
from dashboards.data import jobs as data
from dashboards.data.jobs import JobsView
from dashboards.data.stored import Stored
from dashboards.figures import jobs as figures
from dashboards.figures.style import legend_of
from dashboards.grids import Column, Grid
from dashboards.page import Content, Drawn, Page, no_samples
from dashboards.parts import beside, chart, panel, tile, twins
from dashboards.selection import selection_of
from dashboards.words import ABSENT, apart, joined, length, percent, scaled, watt_hours, when

_CONTROLS: Final = (
    Choice("window", "Window", tuple(WINDOWS), "6h"),
    UNTIL,
    Choices("team", "Teams"),
    Choices("user", "Users"),
    Choices("model", "Models"),
)
_GRID: Final = Grid(
    name="jobs",
    title="Jobs",
    key="workload",
    columns=(
        Column(name="workload", heading="Job", width=210, flex=2, pinned=True, filter=True, link="/job?id="),
        Column(name="name", heading="Name", width=130, filter=True),
        Column(name="user", heading="User", width=96, filter=True),
        Column(name="team", heading="Team", width=96, filter=True),
        Column(name="model", heading="Model", width=150, filter=True),
        Column(name="devices", heading="Devices", form=",.0f", width=80),
        Column(name="device_h", heading="Device-hours", form=",.1f"),
        Column(name="energy_j", heading="Energy (kWh)", form=",.3f", scale=1 / 3.6e6),
        Column(name="power_mean_w", heading="W per device", form=",.0f"),
        Column(name="useful_ratio", heading="Of use (%)", form=".1f", scale=100, note="Share of its device-hours"),
        Column(name="wasted_j", heading="Wasted (kWh)", form=",.3f", scale=1 / 3.6e6),
        Column(name="worst", heading="Most lost", width=104, filter=True),
        Column(name="cost", heading="Energy cost", form=",.2f"),
        Column(name="currency", heading="Currency", width=84),
        Column(name="joules_per_token", heading="J/token", form=".4~g"),
        Column(name="tokens", heading="Tokens", form=".4~s"),
        Column(name="joules_per_step", heading="J/step", form=".4~g"),
        Column(name="covered_ratio", heading="Covered (%)", form=".1f", scale=100),
        Column(name="started", heading="Started (UTC)", width=140),
        Column(name="ended", heading="Ended (UTC)", width=140),
    ),
)


def _body() -> Sequence[Any]:
    return (
        beside(
            [
                chart("jobs-energy", "Jobs that used most", height=340, twin=False),
                chart("jobs-teams", "Teams", height=340, twin=False),
            ]
        ),
        panel(_GRID.title, _GRID.component("jobs-jobs"), aside=twins("jobs-jobs", _GRID.title)),
    )


def _content(stored: Stored, values: Values, theme: str) -> Content:
    selection = selection_of(values)
    view = data.view(stored, values)
    energy, teams = figures.energy(view, theme), figures.teams(view, theme)
    return Content(
        notice=_nothing(stored, values) if view.jobs.is_empty() else None,
        status=f"{length(selection.window_s)} until {when(view.end)}. Energy is of devices while a job held them.",
        tiles=_tiles(view),
        charts={
            "energy": Drawn(figure=energy, words=_energy_words(view), legend=legend_of(energy)),
            "teams": Drawn(figure=teams, words=_team_words(view), legend=legend_of(teams)),
        },
        grids={"jobs": _shown(view.jobs)},
    )


def _nothing(stored: Stored, values: Values) -> Any:
    return no_samples(PAGE.path, _CONTROLS, values, fleet.known(stored, selection_of(values)))


def _shown(jobs: pl.DataFrame) -> pl.DataFrame:
    """The jobs with their times to the minute."""
    form = "%Y-%m-%d %H:%M"
    return jobs.with_columns(started=pl.col("start").dt.strftime(form), ended=pl.col("end").dt.strftime(form))


def _tiles(view: JobsView) -> list[Any]:
    jobs = view.jobs
    running = jobs["end"].null_count()
    joules, wasted = (column_sum(jobs, name) for name in ("energy_j", "wasted_j"))
    hours = float(jobs["device_h"].sum() or 0.0)
    useful = float((jobs["device_h"] * jobs["useful_ratio"]).sum() or 0.0) / hours if hours else None
    worst = jobs.drop_nulls("wasted_j").sort("wasted_j", descending=True)
    costs = jobs.drop_nulls("cost").group_by("currency").agg(pl.col("cost").sum()).sort("cost", descending=True)
    amounts = [f"{amount:,.2f} {currency}" for currency, amount in costs.iter_rows()]
    return [
        tile("jobs-tile-count", "Jobs", f"{jobs.height:,}", "",
             [f"{running} still running", f"{hours:,.0f} device-hours"]),
        tile("jobs-tile-energy", "Energy", *scaled(watt_hours(joules), "Wh"), ["of devices that jobs held"]),
        tile("jobs-tile-cost", "Energy cost", *(apart(amounts[0]) if amounts else (ABSENT, "")),
             amounts[1:] or ["at the price of each quarter-hour" if amounts else "fleet.toml tells no price"]),
        tile("jobs-tile-useful", "Of use", *apart(percent(useful)), ["of the device-hours that jobs held"]),
        tile(
            "jobs-tile-wasted",
            "Wasted",
            *scaled(watt_hours(wasted), "Wh"),
            [f"most by {worst['workload'][0]}"] if worst.height else ["no energy was measured"],
            href=f"/job?id={quote(worst['workload'][0], safe='')}" if worst.height else "",
        ),
    ]  # fmt: skip


def _energy_words(view: JobsView) -> str:
    rows = view.jobs.drop_nulls("energy_j")
    if rows.is_empty():
        return "No energy was measured."
    first, whole = rows.row(0, named=True), float(rows["energy_j"].sum())
    shown = min(rows.height, figures.BARS)
    return (
        f"{first['workload']} used most: {joined(watt_hours(first['energy_j']), 'Wh')}, "
        f"{percent(first['energy_j'] / whole if whole else None)} of all jobs. Shown: {shown} of {rows.height}."
    )


def _team_words(view: JobsView) -> str:
    rows = view.jobs.drop_nulls("energy_j")
    if rows.is_empty():
        return "No energy was measured."
    sums = rows.group_by("team").agg(pl.col("energy_j", "wasted_j").sum()).sort("wasted_j", descending=True)
    first = sums.row(0, named=True)
    share = percent(first["wasted_j"] / first["energy_j"] if first["energy_j"] else None)
    amount = joined(watt_hours(first["wasted_j"]), "Wh")
    return f"{first['team'] or 'Jobs of no team'} wasted most: {amount}, {share} of its energy."


PAGE: Final = Page(
    name="jobs",
    label="Jobs",
    group="Efficiency",
    title="Jobs",
    about="What each job used, achieved and wasted; a job's name leads to its report.",
    controls=_CONTROLS,
    body=_body,
    content=_content,
    offer=data.known,
    twins={"jobs": lambda stored, values: data.view(stored, values).jobs},
    charts=("energy", "teams"),
    grids=(_GRID,),
)
