"""The first page: what the fleet draws, what it used, how busy it was and what came of it."""

from typing import Any, Final

import dash_ag_grid as dag
import dash_mantine_components as dmc
import polars as pl
from dash import Dash, Input, Output, State, dcc, html, no_update

from collector.errors import TelemetryError
from dashboards import figures
from dashboards.controls import REFRESH_S, chart, choice, choices, tile
from dashboards.data import FleetData, Known, View
from dashboards.selection import BYS, WINDOWS, Selection, from_query, moment, to_query
from dashboards.words import joined, length, percent, scaled, when

PATH: Final = "/"
TITLE: Final = "Fleet power and efficiency"
NAME: Final = "Fleet"

_CONTROLS: Final = tuple(f"fleet-{name}" for name in ("window", "by", "sites", "hosts", "devices", "until"))
_CHARTS: Final = ("power", "energy", "utilization", "efficiency")


def layout(data: FleetData, search: str) -> Any:
    """The page as its URL's query says it."""
    chosen = from_query(search)
    try:
        known = data.known(chosen)
    except TelemetryError:
        # The callback below meets the same error and shows it.
        known = Known(sites=(), hosts=(), devices=(), newest=None)
    until = None if chosen.until is None else chosen.until.strftime("%Y-%m-%d %H:%M:%S")
    return dmc.Stack(
        [
            dcc.Interval(id="fleet-tick", interval=REFRESH_S * 1000, disabled=chosen.until is not None),
            html.Div(
                [
                    choice("fleet-window", "Window", list(WINDOWS), chosen.window),
                    choice("fleet-by", "Group by", BYS, chosen.by),
                    dmc.DateTimePicker(
                        id="fleet-until",
                        label="Until (UTC)",
                        value=until,
                        placeholder="now, live",
                        valueFormat="YYYY-MM-DD HH:mm:ss",
                        withSeconds=True,
                        clearable=True,
                        size="sm",
                        className="pw-until",
                    ),
                    choices("fleet-sites", "Sites", known.sites, chosen.sites),
                    choices("fleet-hosts", "Hosts", known.hosts, chosen.hosts),
                    choices("fleet-devices", "Devices", known.devices, chosen.devices),
                ],
                className="pw-filters",
            ),
            html.Div(id="fleet-notice", role="status"),
            dmc.Text(id="fleet-status", size="sm", c="dimmed"),
            html.Div(id="fleet-tiles", className="pw-tiles"),
            chart("fleet-power", "Power over time", height=340),
            dmc.SimpleGrid(
                [
                    chart("fleet-energy", "Energy in the window"),
                    chart("fleet-utilization", "Utilization over time"),
                    chart("fleet-efficiency", "Tokens per joule over time"),
                ],
                cols={"base": 1, "md": 3},
                spacing="sm",
            ),
            dmc.Paper(
                [
                    dmc.Group(
                        [
                            dmc.Title("The same in numbers", order=2, size="h5"),
                            dmc.Button("Download CSV", id="fleet-csv", size="xs", variant="default"),
                        ],
                        justify="space-between",
                        mb="xs",
                    ),
                    _table(),
                ],
                withBorder=True,
                p="sm",
                radius="md",
            ),
        ],
        gap="sm",
    )


def register(app: Dash, data: FleetData) -> None:
    """Connect the page to its data."""

    @app.callback(
        Output("fleet-notice", "children"),
        Output("fleet-status", "children"),
        Output("fleet-tiles", "children"),
        *(Output(f"fleet-{name}", "figure") for name in _CHARTS),
        *(Output(f"fleet-{name}-words", "children") for name in _CHARTS),
        Output("fleet-table", "rowData"),
        Output("fleet-table", "style"),
        *(Input(name, "value") for name in _CONTROLS),
        Input("theme", "data"),
        Input("fleet-tick", "n_intervals"),
    )
    def show(*given: Any) -> tuple[Any, ...]:
        return _shown(data, _selection(*given[: len(_CONTROLS)]), given[len(_CONTROLS)] or "light")

    @app.callback(
        Output("url", "search"),
        Output("fleet-tick", "disabled"),
        *(Input(name, "value") for name in _CONTROLS),
        prevent_initial_call=True,
    )
    def remember(*given: Any) -> tuple[str, bool]:
        selection = _selection(*given)
        return to_query(selection), selection.until is not None

    @app.callback(
        *(Output(f"fleet-{name}", "data") for name in ("sites", "hosts", "devices")),
        Input("fleet-tick", "n_intervals"),
        *(State(name, "value") for name in _CONTROLS),
        prevent_initial_call=True,
    )
    def offer(_ticks: int, *given: Any) -> tuple[Any, ...]:
        return _offered(data, _selection(*given))

    on_client: Any = app.clientside_callback
    on_client(
        "function(n) { return n ? true : window.dash_clientside.no_update; }",
        Output("fleet-table", "exportDataAsCsv"),
        Input("fleet-csv", "n_clicks"),
        prevent_initial_call=True,
    )


def _selection(window: str, by: str, sites: Any, hosts: Any, devices: Any, until: str | None) -> Selection:
    chosen = from_query(f"?window={window}&by={by}")
    return Selection(
        window=chosen.window,
        by=chosen.by,
        sites=tuple(sites or ()),
        hosts=tuple(hosts or ()),
        devices=tuple(devices or ()),
        until=moment(until),
    )


def _offered(data: FleetData, selection: Selection) -> tuple[Any, ...]:
    try:
        known = data.known(selection)
    except TelemetryError:
        return no_update, no_update, no_update
    chosen = (selection.sites, selection.hosts, selection.devices)
    offered = zip((known.sites, known.hosts, known.devices), chosen, strict=True)
    return tuple(sorted({*values, *picked}) for values, picked in offered)


def _shown(data: FleetData, selection: Selection, theme: str) -> tuple[Any, ...]:
    try:
        view = data.view(selection)
        notice = _nothing(data.known(selection), selection) if view.table.is_empty() else None
    except TelemetryError as error:
        wrong = dmc.Alert(str(error), title="The store cannot be read", color="red", variant="light")
        return (wrong, *(no_update for _ in range(4 + 2 * len(_CHARTS))))
    drawn = (
        figures.power(view, theme),
        figures.energy(view, theme),
        figures.utilization(view, theme),
        figures.efficiency(view, theme),
    )
    return notice, _status(view), _tiles(view), *drawn, *_captions(view), _rows(view), _height(view)


def _nothing(known: Known, selection: Selection) -> Any:
    """Why the page is empty, and the way to where something is."""
    if known.newest is None:
        text = "No agent has written a sample into this store yet. The page follows as soon as one does."
        return dmc.Alert(text, title="The store is empty", color="blue", variant="light")
    if known.hosts:
        text = "There are samples in this window, but none of the sites, hosts and devices chosen."
        return dmc.Alert(text, title="Nothing matches the filter", color="blue", variant="light")
    query = to_query(Selection(window=selection.window, by=selection.by, until=known.newest))
    newest = f"The newest sample of this store is from {when(known.newest)}. "
    link = html.A("Show the window up to it", href=f"{PATH}{query}", className="pw-link")
    return dmc.Alert([newest, link, "."], title="No sample in this window", color="blue", variant="light")


def _status(view: View) -> str:
    buckets = f"Each point is {length(view.every_s)}; peaks are kept."
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
            *scaled(None if totals.energy_j is None else totals.energy_j / figures.J_PER_WH, "Wh"),
            [covered, counted] if totals.energy_j is not None else [covered],
            warning=hint,
        ),
        tile(
            "fleet-tile-utilization",
            "Utilization",
            *_parts(percent(totals.utilization_ratio)),
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


def _parts(text: str) -> tuple[str, str]:
    number, _, unit = text.partition(" ")
    return number, unit


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
    return [
        f"Stacked means by {by}; from {lowest} to {joined(totals.power_peak_w, 'W')}, peaks included.",
        f"{first['group']} used most: {joined(_wh(first['energy_j']), 'Wh')}, {percent(share)} of the whole.{hatched}",
        f"Mean of each {by}'s devices; {named}.",
        f"All tokens generated over all energy, idle included; {named}.",
    ]


def _wh(joules: float | None) -> float | None:
    return None if joules is None else joules / figures.J_PER_WH


def _extreme(frame: pl.DataFrame, column: str, *, lowest: bool) -> float | None:
    found = frame[column].min() if lowest else frame[column].max()
    return float(found) if isinstance(found, int | float) else None


_NUMBERS: Final = (
    ("devices", "Devices", ",.0f"),
    ("power_now_kw", "Power now (kW)", ",.3f"),
    ("power_mean_kw", "Mean power (kW)", ",.3f"),
    ("power_max_kw", "Peak power (kW)", ",.3f"),
    ("energy_kwh", "Energy (kWh)", ",.3f"),
    ("covered_percent", "Covered (%)", ".1f"),
    ("modelled_percent", "Modelled (%)", ".1f"),
    ("utilization_percent", "Utilization (%)", ".1f"),
    ("tokens", "Tokens", ",.0f"),
    ("tokens_per_joule", "Tokens/J", ".4f"),
    ("joules_per_token", "J/token", ".4f"),
)


def _rows(view: View) -> list[dict[str, Any]]:
    """The table's rows, in the units of its headings, which the CSV has too."""
    thousandth, hundred = 1e-3, 100.0
    return (
        view.table.select(
            "group",
            "devices",
            power_now_kw=pl.col("power_now_w") * thousandth,
            power_mean_kw=pl.col("power_mean_w") * thousandth,
            power_max_kw=pl.col("power_max_w") * thousandth,
            energy_kwh=pl.col("energy_j") / 3.6e6,
            covered_percent=pl.col("covered_ratio") * hundred,
            modelled_percent=pl.col("modelled_ratio") * hundred,
            utilization_percent=pl.col("utilization_ratio") * hundred,
            tokens=pl.col("tokens"),
            tokens_per_joule=pl.col("tokens_per_joule"),
            joules_per_token=pl.col("joules_per_token"),
        )
    ).to_dicts()


def _height(view: View) -> dict[str, str]:
    """As high as its rows, up to a dozen."""
    return {"height": f"{68 + 42 * min(max(view.table.height, 1), 12)}px"}


def _table() -> Any:
    columns: list[dict[str, Any]] = [
        {"field": "group", "headerName": "Group", "pinned": "left", "minWidth": 130, "flex": 2, "filter": True}
    ]
    for field, heading, form in _NUMBERS:
        columns.append(
            {
                "field": field,
                "headerName": heading,
                "type": "rightAligned",
                "minWidth": 98,
                "flex": 1,
                # The CSV has every digit, and nothing where nothing was measured.
                "useValueFormatterForExport": False,
                "valueFormatter": {"function": f"params.value == null ? '–' : d3.format('{form}')(params.value)"},
            }
        )
    return dag.AgGrid(
        id="fleet-table",
        columnDefs=columns,
        rowData=[],
        getRowId="params.data.group",
        defaultColDef={"sortable": True, "resizable": True, "wrapHeaderText": True, "autoHeaderHeight": True},
        csvExportParams={"fileName": "perfwatt-fleet.csv"},
        dashGridOptions={"domLayout": "normal", "animateRows": False, "suppressNoRowsOverlay": True},
        style={"height": "110px"},
    )
