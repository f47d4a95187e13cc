"""The Device page: everything of one device over a window."""

from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import quote

import polars as pl
from dash import html

from dashboards.controls import UNTIL, WINDOWS, Choice, One, Values
from dashboards.data import device as data
from dashboards.data.device import DeviceView
from dashboards.data.stored import Stored
from dashboards.figures import device as figures
from dashboards.figures.style import legend_of
from dashboards.grids import Column, Grid
from dashboards.page import Content, Drawn, Offer, Page
from dashboards.parts import beside, chart, facts, notice, panel, tile, twins
from dashboards.power_tree import kind_of
from dashboards.words import ABSENT, apart, joined, length, percent, scaled, watt_hours, when

_CONTROLS: Final = (
    One("id", "Device", placeholder="choose a device"),
    Choice("window", "Window", tuple(WINDOWS), "6h"),
    UNTIL,
)
_CHARTS: Final = {
    "power": ("Power", figures.power),
    "use": ("Utilization and activity", figures.use),
    "clocks": ("Clocks", figures.clocks),
    "temperature": ("Temperature", figures.temperatures),
    "throttled": ("What held its clocks down", figures.throttled),
}
_WORKLOADS: Final = Grid(
    name="workloads",
    title="Jobs that held it",
    key="key",
    columns=(
        Column(name="workload", heading="Job", width=170, flex=2, link="/job?id="),
        Column(name="name", heading="Name", width=130),
        Column(name="user", heading="User", width=96),
        Column(name="team", heading="Team", width=96),
        Column(name="share", heading="Share (%)", form=",.0f", scale=100, width=80),
        Column(name="from", heading="From (UTC)", width=136),
        Column(name="to", heading="To (UTC)", width=136),
    ),
)
_INCIDENTS: Final = Grid(
    name="incidents",
    title="Incidents",
    key="incident",
    columns=(
        Column(name="incident", heading="Incident", width=130, link="/incident?id="),
        Column(name="severity", heading="Severity", width=90),
        Column(name="state", heading="State", width=84),
        Column(name="kind", heading="Kind", width=130),
        Column(name="began", heading="Began (UTC)", width=136),
        Column(name="evidence", heading="Evidence", width=220, flex=3),
    ),
)


def _body() -> Sequence[Any]:
    first, *others = [chart(f"device-{name}", title, height=260) for name, (title, _) in _CHARTS.items()]
    return (
        first,
        html.Div(id="device-facts"),
        beside(others),
        beside(
            [
                panel(grid.title, grid.component(f"device-{grid.name}"), aside=twins(f"device-{grid.name}", grid.title))
                for grid in (_WORKLOADS, _INCIDENTS)
            ]
        ),
    )


def _content(stored: Stored, values: Values, theme: str) -> Content:
    view = data.view(stored, values) if values["id"] else None
    if view is None:
        return Content(notice=_nothing(stored, str(values["id"] or "")))
    drawn = {name: draw(view, theme) for name, (_, draw) in _CHARTS.items()}
    words = _words(view)
    return Content(
        notice=None if view.read_at is not None or view.means.height else _silent(stored),
        status=f"{_span(view)} until {when(view.end)}. Each point is {length(view.every_s)}; shaded: incidents.",
        tiles=_tiles(view),
        charts={
            name: Drawn(figure=figure, words=words[name], legend=legend_of(figure)) for name, figure in drawn.items()
        },
        grids={"workloads": _workloads(view), "incidents": _incidents(view)},
        slots={"facts": _facts(view)},
    )


def _nothing(stored: Stored, device: str) -> Any:
    known = data.known(stored)[:8]
    if not known:
        return notice("No device is known", "No agent has written a sample into this store yet.")
    links = [part for name in known for part in (_link(name), ", ")][:-1]
    return notice(f"There is no device {device}" if device else "Choose a device", ["There are ", *links, " ..."])


def _silent(stored: Stored) -> Any:
    newest_ns = stored.newest_ns()
    if newest_ns is None:
        return notice("The store is empty", "No agent has written a sample into this store yet.")
    return notice("Not read in this window", "Choose another window or another end of it to see when it was.")


def _span(view: DeviceView) -> str:
    """The window on offer that this is, which begins with a whole step."""
    span_s = (view.end - view.start).total_seconds()
    return length(min(WINDOWS.values(), key=lambda window_s: abs(window_s - span_s)))


def _link(device: str) -> Any:
    return html.A(device, href=f"/devices/{quote(device, safe='')}", className="pw-link")


def _tiles(view: DeviceView) -> list[Any]:
    span = _span(view)
    limit = view.limit["power_limit_w"].tail(1).to_list() or [view.told.get("power_limit_w")]
    used = view.means["utilization_ratio"].mean()
    held = view.throttled.group_by("reason").agg(pl.col("ratio").mean()).sort("ratio", descending=True)
    worst = held.row(0, named=True) if held.height else None
    opened = view.incidents.filter(pl.col("state") == "open").height
    modelled = view.quality.get("modelled_ratio") or 0.0
    return [
        tile(
            "device-tile-power",
            "Power, last read",
            *scaled(view.power_now_w, "W"),
            [f"limit {joined(limit[0], 'W')}", when(view.read_at)],
            warning=f"{percent(modelled)} modelled, not measured" if modelled else "",
        ),
        tile(
            "device-tile-energy",
            "Energy",
            *scaled(watt_hours(view.energy_j), "Wh"),
            [f"{percent(view.covered_ratio)} of {span} covered", f"{percent(view.counter_ratio)} by hardware counter"],
        ),
        tile(
            "device-tile-use",
            "Utilization",
            *apart(percent(float(used) if isinstance(used, int | float) else None)),
            [f"mean over {span}"],
        ),
        tile(
            "device-tile-heat",
            "Hottest",
            ABSENT if view.hottest_c is None else f"{view.hottest_c:.0f}",
            "°C",
            [f"in {span}"],
        ),
        tile(
            "device-tile-throttled",
            "Held down",
            *apart(percent(worst["ratio"] if worst else None)),
            [f"of the time by {worst['reason']}" if worst and worst["ratio"] else "by nothing that it tells of"],
        ),
        tile(
            "device-tile-incidents",
            "Incidents",
            f"{view.incidents.height}",
            "",
            [f"{opened} open", f"in {span}"],
        ),
    ]


def _facts(view: DeviceView) -> Any:
    told, judged = view.told, view.quality
    place = [f"{name} ({kind_of(kind)})" for kind, name in view.place]
    memory = told.get("memory_total_bytes")
    slot = "" if told.get("ordinal") is None else f", number {told['ordinal']}"
    pairs: list[tuple[str, Any]] = [
        ("Model", told.get("model") or ABSENT),
        ("Host", f"{told.get('host') or ABSENT}{slot}"),
        ("Place in the power tree", " ‹ ".join(place) or "not in fleet.toml"),
        ("Driver", " ".join(filter(None, (told.get("driver_version"), told.get("firmware_version")))) or ABSENT),
        ("Memory", ABSENT if memory is None else f"{memory / 2**30:,.0f} GiB"),
        ("Serial, bus", ", ".join(filter(None, (told.get("serial"), told.get("bus")))) or ABSENT),
        ("Trust", _trust(view)),
        ("Power is of", ", ".join(filter(None, (told.get("power_scope"), told.get("power_method")))) or ABSENT),
        ("Read every", _seconds(judged.get("period_s"))),
        ("Sensor updates every", _sensor(judged, "update_period_s")),
        ("Sensor averages over", _sensor(judged, "sensor_window_s", told.get("power_window_s"))),
        ("Counter over power", ABSENT if not judged.get("agreement_ratio") else f"{judged['agreement_ratio']:.3f}"),
        ("Calibrated", _calibrated(judged)),
        ("Gaps", judged.get("gap_reasons") or "none"),
    ]
    return panel(view.device, facts([(name, value) for name, value in pairs if value]))


def _trust(view: DeviceView) -> Any:
    verdict, reason = view.quality.get("verdict"), view.quality.get("reason")
    link = html.A("Data quality", href="/quality", className="pw-link")
    return html.Span([f"{verdict or ABSENT}{f': {reason}' if reason else ''} (", link, ")"])


def _seconds(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.3g} s"


def _sensor(judged: Any, column: str, said: float | None = None) -> str:
    if judged.get(column) is not None:
        return f"{_seconds(judged[column])}, found in its readings"
    if said is not None:
        return f"{_seconds(said)}, as its source says"
    return f"not known: {judged['sensor_reason']}" if judged.get("sensor_reason") else ABSENT


def _calibrated(judged: Any) -> str:
    age_s = judged.get("calibration_age_s")
    if not judged.get("calibrated") or age_s is None:
        return "no; perfwatt calibrate does it beside a meter"
    return f"{age_s / 86_400:.0f} days ago"


def _workloads(view: DeviceView) -> pl.DataFrame:
    form = "%Y-%m-%d %H:%M"
    return view.workloads.with_columns(
        pl.col("start").dt.strftime(form).alias("from"),
        pl.col("end").dt.strftime(form).alias("to"),
        key=pl.format("{} {}", "workload", "start"),
    )


def _incidents(view: DeviceView) -> pl.DataFrame:
    return view.incidents.with_columns(
        began=pl.col("start").dt.strftime("%Y-%m-%d %H:%M"),
        kind=pl.col("kind").str.replace_all("_", " "),
        evidence=pl.col("evidence").str.replace(r"^[^:]*: ", ""),
    )


def _words(view: DeviceView) -> dict[str, str]:
    most = view.power["power_max_w"].max()
    peak = joined(float(most), "W") if isinstance(most, int | float) else ABSENT
    tells = ", ".join(view.throttled["reason"].unique().sort())
    return {
        "power": f"Mean of each step, with the least and the most in it; the highest reading is {peak}.",
        "use": "Means; activity is of compute units, tensor pipes and memory, where the device tells them.",
        "clocks": "Means of each step.",
        "temperature": f"Means of each step; the hottest reading is {_celsius(view.hottest_c)}.",
        "throttled": f"It tells of {tells}." if tells else "It does not tell.",
    }


def _celsius(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.0f} °C"


def _offer(stored: Stored, _values: Values) -> Offer:
    return {"id": data.known(stored)}


def _twin(name: str) -> Any:
    def frame(stored: Stored, values: Values) -> pl.DataFrame:
        view = data.view(stored, values)
        if view is None:
            return pl.DataFrame(schema={"device": pl.String})
        if name in ("use", "clocks", "temperature"):
            metrics = {"use": data.USE, "clocks": data.CLOCKS, "temperature": data.TEMPERATURES}[name]
            return view.means.select("window", *(metric.column for metric in metrics))
        found: pl.DataFrame = getattr(view, name)
        return found

    return frame


PAGE: Final = Page(
    name="device",
    at="/devices",
    of="id",
    label="",
    group="Now",
    within="fleet",
    title="Device",
    about="Everything of one device: what it draws and does, what holds it down, whose it was, and what to trust.",
    controls=_CONTROLS,
    body=_body,
    content=_content,
    offer=_offer,
    twins={name: _twin(name) for name in (*_CHARTS, "workloads", "incidents")},
    charts=tuple(_CHARTS),
    grids=(_WORKLOADS, _INCIDENTS),
    slots=("facts",),
    live=True,
)
