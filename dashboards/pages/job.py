"""The Job page: one job's report, as `perfwatt report job` has it, with its power and utilisation over time."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC
from typing import Any, Final

import polars as pl
from dash import html

from analytics import report_words
from analytics.report_records import DeviceUse, Finding, JobReport
from dashboards.controls import One, Values
from dashboards.data import jobs as data
from dashboards.data.jobs import JobView
from dashboards.data.stored import Stored
from dashboards.figures import jobs as figures
from dashboards.figures.style import legend_of
from dashboards.grids import Column, Grid
from dashboards.page import Content, Drawn, Offer, Page
from dashboards.parts import beside, chart, facts, notice, panel, remark, small_table, tile, twins
from dashboards.words import ABSENT, apart, joined, length, number, percent, scaled, watt_hours

_CONTROLS: Final = (One("id", "Job", placeholder="choose a job"),)
_GRID: Final = Grid(
    name="devices",
    title="Its devices",
    key="device",
    columns=(
        Column(name="device", heading="Device", width=180, flex=2, pinned=True, link="/devices/"),
        Column(name="host", heading="Host", width=130),
        Column(name="sku", heading="Model", width=130),
        Column(name="power_mean_w", heading="Mean power (W)", form=",.0f"),
        Column(name="power_max_w", heading="Peak power (W)", form=",.0f"),
        Column(name="power_limit_w", heading="Limit (W)", form=",.0f"),
        Column(name="energy_j", heading="Energy (kWh)", form=",.3f", scale=1 / 3.6e6),
        Column(name="utilization_ratio", heading="Utilization (%)", form=".0f", scale=100),
        Column(name="sm_ratio", heading="Units active (%)", form=".0f", scale=100),
        Column(name="tensor_ratio", heading="Tensor pipes (%)", form=".0f", scale=100),
        Column(name="memory_ratio", heading="Memory used (%)", form=".0f", scale=100),
        Column(name="temperature_max_c", heading="Hottest (°C)", form=".0f"),
        Column(name="clock_busy_hz", heading="Clock while busy (MHz)", form=",.0f", scale=1e-6),
        Column(name="idle_ratio", heading="Idle (%)", form=".1f", scale=100),
        Column(name="covered_ratio", heading="Covered (%)", form=".1f", scale=100),
        Column(name="throttled", heading="Held down by", width=180, flex=2),
    ),
)


def _body() -> Sequence[Any]:
    return (
        html.Div(id="job-facts"),
        html.Div(id="job-findings"),
        beside(
            [
                chart("job-power", "Power over time", height=300),
                chart("job-utilization", "Utilization over time", height=300),
            ]
        ),
        html.Div(id="job-waste"),
        panel(_GRID.title, _GRID.component("job-devices"), aside=twins("job-devices", _GRID.title)),
    )


def _content(stored: Stored, values: Values, theme: str) -> Content:
    workload = str(values["id"])
    view = data.job(stored, workload) if workload else None
    if view is None:
        return Content(notice=_nothing(stored, workload))
    power, utilization = figures.power(view, theme), figures.utilization(view, theme)
    return Content(
        status=f"The same as perfwatt report job {workload}",
        tiles=_tiles(view.report),
        charts={
            "power": Drawn(figure=power, words=_power_words(view), legend=legend_of(power)),
            "utilization": Drawn(figure=utilization, words=_busy_words(view), legend=legend_of(utilization)),
        },
        grids={"devices": _devices(view.report)},
        slots={"facts": _facts(view.report), "findings": _findings(view.report), "waste": _waste(view.report)},
    )


def _nothing(stored: Stored, workload: str) -> Any:
    known = data.workloads(stored)[:8]
    links = [part for name in known for part in (html.A(name, href=f"/job?id={name}", className="pw-link"), ", ")][:-1]
    if not known:
        return notice("No job is known", "Nothing was allocated to anybody in this store.")
    title = "Choose a job" if not workload else f"There is no job {workload}"
    return notice(title, ["The latest are ", *links, "."])


def _tiles(report: JobReport) -> list[Any]:
    energy, money, work = report.energy, report.money, report.work
    lost = [line for line in report.waste if line.cause not in data.USEFUL]
    wasted = sum(line.energy_j or 0.0 for line in lost)
    total = money.total if money.total is not None else money.energy
    per = next(
        (
            (value, unit)
            for value, unit in (
                (work.joules_per_token, "J/token"),
                (work.joules_per_step, "J/step"),
                (work.joules_per_sample, "J/sample"),
            )
            if value is not None
        ),
        None,
    )
    modelled = energy.modelled_ratio or 0.0
    return [
        tile(
            "job-tile-energy",
            "Energy",
            *scaled(watt_hours(energy.energy_j), "Wh"),
            [
                f"{percent(energy.covered_ratio)} of the time covered",
                f"{joined(energy.power_mean_w, 'W')} a device, mean",
            ],
            warning=f"{percent(modelled)} modelled, not measured" if modelled else "",
        ),
        tile(
            "job-tile-cost",
            "Cost",
            *((f"{total:,.2f}", money.currency or "") if total is not None else (ABSENT, "")),
            ["energy and devices" if money.total is not None else "energy alone"]
            if total is not None
            else ["fleet.toml tells no price"],
        ),
        tile(
            "job-tile-work",
            per[1] if per else "Joules for its work",
            *(scaled(per[0], per[1]) if per else (ABSENT, "")),
            [f"best run {number(report.standing.best)}, median {number(report.standing.median)}"]
            if report.standing
            else ["no other runs to compare with"],
        ),
        tile(
            "job-tile-wasted",
            "Wasted",
            *apart(percent(sum(line.ratio for line in lost))),
            ["of its device-hours", joined(watt_hours(wasted), "Wh")],
        ),
        tile(
            "job-tile-findings",
            "To change",
            f"{len(report.findings)}",
            "findings",
            [report.findings[0].kind.replace("_", " ")]
            if report.findings
            else list(report.thin[:1]) or ["nothing found"],
        ),
    ]


def _facts(report: JobReport) -> Any:
    throttled = ", ".join(f"{one.reason.replace('_', ' ')} {percent(one.ratio)}" for one in report.throttled)
    slow = report.imbalance
    pairs = [
        ("Who", report_words.who(report)),
        ("Where", report_words.where(report)),
        ("When", report_words.when(report, UTC)),
        ("Energy", report_words.energy(report)),
        ("Cost", report_words.cost(report)),
        ("Work", report_words.work(report)),
        ("Standing", report_words.standing(report)),
        *([("Throttled", f"{throttled} of the time")] if throttled else []),
        *(
            [("Slowest", f"{slow.device}: {percent(slow.behind_ratio)} below the median clock of the others")]
            if slow is not None
            else []
        ),
    ]
    return panel(report.workload, facts(pairs))


def _findings(report: JobReport) -> Any:
    if not report.findings:
        why = f" Not known: {'; '.join(report.thin)}." if report.thin else ""
        return panel("What to change", remark(f"Nothing was found.{why}"))
    rows = [(one.text, _worth(one, report), html.Code(one.change, className="pw-code")) for one in report.findings]
    note = f"Not known: {'; '.join(report.thin)}." if report.thin else "At most what the change can save."
    table = small_table(("Finding", "Up to", "Change"), rows, numbers=(1,), caption=note, stacked=True)
    return panel("What to change", table)


def _worth(one: Finding, report: JobReport) -> str:
    """What goes into a finding, the most that the change can save."""
    if one.energy_j is None:
        return ABSENT
    money = f", {one.cost:,.2f} {report.money.currency or ''}".rstrip() if one.cost is not None else ""
    return f"{joined(watt_hours(one.energy_j), 'Wh')}{money}"


def _waste(report: JobReport) -> Any:
    rows = [
        (
            line.cause + (f" ({line.reason.replace('_', ' ')})" if line.reason else ""),
            percent(line.ratio),
            length_of(line.device_s),
            joined(watt_hours(line.energy_j), "Wh"),
            ABSENT if line.cost is None else f"{line.cost:,.2f} {report.money.currency or ''}",
        )
        for line in report.waste
    ]
    if not rows:
        return panel("Where its time went", remark("All of its device time was of use."))
    headings = ("Cause", "Share", "Device time", "Energy", "Cost")
    return panel("Where its time went", small_table(headings, rows, numbers=(1, 2, 3, 4)))


def length_of(seconds: float) -> str:
    """Device time in hours, or minutes where it is little."""
    return f"{seconds / 3600:,.1f} h" if seconds >= 3600 else f"{seconds / 60:,.0f} min"


def _devices(report: JobReport) -> pl.DataFrame:
    rows = [_row(device) for device in report.devices]
    return pl.DataFrame(rows, infer_schema_length=None)


def _row(device: DeviceUse) -> dict[str, Any]:
    held = ", ".join(f"{one.reason.replace('_', ' ')} {percent(one.ratio)}" for one in device.throttled)
    idle = device.idle_s / device.allocated_s if device.allocated_s else None
    return {
        **asdict(device),
        "memory_ratio": device.memory_ratio,
        "idle_ratio": idle,
        "throttled": held or None,
    }


def _power_words(view: JobView) -> str:
    peak = view.power["power_max_w"].max()
    shown = f"Each point is {length(view.every_s)}; dotted lines are its start and end."
    if not isinstance(peak, int | float):
        return "Power was not measured."
    return f"The highest reading of one device is {joined(float(peak), 'W')}. {shown}"


def _busy_words(view: JobView) -> str:
    mean = view.utilization["utilization_ratio"].mean()
    return f"Mean {percent(float(mean) if isinstance(mean, int | float) else None)} over devices and time."


def _offer(stored: Stored, _values: Values) -> Offer:
    return {"id": data.workloads(stored)}


def _twin(name: str) -> Any:
    def frame(stored: Stored, values: Values) -> pl.DataFrame:
        view = data.job(stored, str(values["id"]))
        if view is None:
            return pl.DataFrame(schema={"device": pl.String})
        if name == "devices":
            return _devices(view.report)
        found: pl.DataFrame = getattr(view, name)
        return found

    return frame


PAGE: Final = Page(
    name="job",
    label="",
    group="Efficiency",
    within="jobs",
    title="Job",
    about="One job: what it used, achieved, wasted and cost, how it compares, and which flag to change.",
    controls=_CONTROLS,
    body=_body,
    content=_content,
    offer=_offer,
    twins={name: _twin(name) for name in ("devices", "power", "utilization")},
    charts=("power", "utilization"),
    grids=(_GRID,),
    slots=("facts", "findings", "waste"),
)
