"""The Results page: what benchmarks reported, beside the power they were measured with."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import polars as pl
from dash import html

from dashboards.controls import Choice, Choices, One, Values, write
from dashboards.data import results as data
from dashboards.data.results import ResultsView
from dashboards.data.stored import Stored
from dashboards.figures import results as figures
from dashboards.figures.style import legend_of
from dashboards.grids import Column, Grid
from dashboards.page import Content, Drawn, Offer, Page
from dashboards.parts import beside, chart, heat_table, notice, panel, remark, tile, twins
from dashboards.words import apart, joined, number, percent, scaled

_CONTROLS: Final = (
    Choice("suite", "Suite", data.SUITES, "inference"),
    Choice("scenario", "Scenario", data.SCENARIOS, "Offline"),
    Choice("phase", "Phase", data.PHASES, "result"),
    One("benchmark", "Benchmark", placeholder="the one most ran"),
    Choices("accelerator", "Accelerators"),
    Choices("submitter", "Submitters"),
    Choices("version", "Rounds"),
)
_GRID: Final = Grid(
    name="runs",
    title="Results",
    key="workload",
    columns=(
        Column(name="accelerator", heading="Accelerator", width=230, flex=2, pinned=True, filter=True),
        Column(name="accelerators", heading="Count", form=",.0f", width=70),
        Column(name="system", heading="System", width=230, flex=2, filter=True),
        Column(name="submitter", heading="Submitter", width=110, filter=True),
        Column(name="version", heading="Round", width=74),
        Column(name="division", heading="Division", width=84),
        Column(name="scenario", heading="Scenario", width=110),
        Column(name="samples_per_s", heading="Samples/s", form=".4~s"),
        Column(name="tokens_per_s", heading="Tokens/s", form=".4~s"),
        Column(name="power_mean_w", heading="Mean power (W)", form=",.1f", note="Of all readings from start to end"),
        Column(name="samples_per_joule", heading="Samples/J", form=".4~g"),
        Column(name="joules_per_sample", heading="J/sample", form=".4~g"),
        Column(name="joules_per_token", heading="J/token", form=".4~g"),
        Column(name="power_per_accelerator_w", heading="W per accelerator", form=",.1f", note="Of the whole system"),
        Column(name="energy_j", heading="Energy (kWh)", form=",.3f", scale=1 / 3.6e6),
        Column(name="run_s", heading="Time (s)", form=",.0f"),
        Column(
            name="covered_ratio", heading="Covered (%)", form=".1f", scale=100, note="Share of the run with readings"
        ),
        Column(name="throughput_basis", heading="Throughput by", width=104, note="reported, counted, or from latency"),
        Column(name="verdict", heading="Verdict", width=86),
        Column(name="framework", heading="Framework", width=190, flex=2, filter=True),
    ),
)


def _body() -> Sequence[Any]:
    return (
        beside(
            [
                chart("results-pareto", "Throughput against efficiency", height=380),
                chart("results-leaders", "Most efficient by accelerator", height=380, twin=False),
            ]
        ),
        panel(
            "Samples per joule by accelerator and benchmark",
            html.Div(id="results-matrix"),
            aside=twins("results-best", "Best by accelerator and benchmark"),
        ),
        panel(_GRID.title, _GRID.component("results-runs"), aside=twins("results-runs", _GRID.title)),
    )


def _content(stored: Stored, values: Values, theme: str) -> Content:
    view = data.view(stored, values)
    pareto, leaders = figures.pareto(view, theme), figures.leaders(view, theme)
    return Content(
        notice=_nothing(stored, view),
        status=_status(view),
        tiles=_tiles(view),
        charts={
            "pareto": Drawn(figure=pareto, words=_front_words(view), legend=legend_of(pareto)),
            "leaders": Drawn(figure=leaders, words=_leader_words(view)),
        },
        grids={"runs": view.runs},
        slots={"matrix": _matrix(view, values)},
    )


def _nothing(stored: Stored, view: ResultsView) -> Any:
    if view.runs.height:
        return None
    if data.all_results(stored).is_empty():
        ways = [
            "Bring in submissions to MLPerf: ",
            html.Code("perfwatt import mlperf-inference FOLDER"),
            ", ",
            html.Code("perfwatt import mlperf-training FOLDER"),
            ", or a table of runs by a mapping.",
        ]
        return notice("There are no results in this store", ways)
    text = "There are results in this store, but none of this suite, scenario, phase and choice."
    return notice("Nothing matches the filter", text)


def _status(view: ResultsView) -> str:
    if view.benchmark is None:
        return "No result."
    read = view.runs["power_mean_w"].count()
    power = "all with power" if read == view.runs.height else f"{read} of them with power"
    return (
        f"{view.benchmark}: {view.runs.height} results, {power}. Power is the mean of the analyzer's readings from "
        "a run's start to its end, at the wall unless the recording says otherwise."
    )


def _tiles(view: ResultsView) -> list[Any]:
    runs, work = view.runs, view.work
    best, fastest = _top(runs, view.gain), _top(runs, view.rate)
    watts = runs["power_mean_w"].drop_nulls()
    covered = runs["covered_ratio"].drop_nulls()
    thin = int((covered < 0.9).sum())
    between = f"to {joined(_number(watts.max()), 'W')}" if len(watts) else "no reading"
    return [
        tile(
            "results-tile-count",
            "Results",
            f"{runs.height:,}",
            "",
            [
                f"{runs['system'].n_unique()} systems, {runs['accelerator'].drop_nulls().n_unique()} accelerators",
                f"{runs['submitter'].drop_nulls().n_unique()} submitters",
            ],
        ),
        tile("results-tile-best", "Most per joule", *scaled(best.get(view.gain), f"{work}s/J"), _who(best)),
        tile("results-tile-fastest", "Fastest", *scaled(fastest.get(view.rate), f"{work}s/s"), _who(fastest)),
        tile(
            "results-tile-power",
            "Mean power from",
            *scaled(_number(watts.min()), "W"),
            [between, f"of {len(watts)} results"],
        ),
        tile(
            "results-tile-covered",
            "Readings cover",
            *apart(percent(_number(covered.median()))),
            ["of a run, median"],
            warning=f"{thin} results below 90 %" if thin else "",
        ),
    ]


def _top(runs: pl.DataFrame, column: str) -> Mapping[str, Any]:
    rows = runs.drop_nulls(column).sort(column, descending=True)
    return {} if rows.is_empty() else rows.row(0, named=True)


def _who(row: Mapping[str, Any]) -> list[str]:
    if not row:
        return ["no result has both"]
    many = f"{row['accelerators']} × " if row["accelerators"] else ""
    return [f"{many}{row['accelerator'] or figures.NONE}", " ".join(filter(None, (row["submitter"], row["version"])))]


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _front_words(view: ResultsView) -> str:
    front = view.runs.filter("front")
    if front.is_empty():
        return "No result has both throughput and power."
    names = sorted(front["accelerator"].fill_null(figures.NONE).unique().to_list())
    shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    return (
        f"{front.height} of {view.runs.height} results are beaten by none in both throughput and {view.work}s per "
        f"joule: {shown}. Along a dotted line, power is the same."
    )


def _leader_words(view: ResultsView) -> str:
    best = _top(view.runs, view.gain)
    return f"{best['accelerator'] or figures.NONE} does most per joule." if best else "Nothing to compare."


def _matrix(view: ResultsView, values: Values) -> Any:
    """The most efficient result of each accelerator in each benchmark; the more of the best one, the darker."""
    rows = view.best.with_columns(pl.col("accelerator").fill_null(figures.NONE))
    if rows.is_empty():
        return remark("No result has both throughput and power.", dim=True)
    counts = rows.group_by("benchmark").len().sort("len", "benchmark", descending=[True, False])
    benchmarks = counts["benchmark"].to_list()
    most = dict(rows.group_by("benchmark").agg(pl.col("samples_per_joule").max()).iter_rows())
    found = {(row["accelerator"], row["benchmark"]): row for row in rows.iter_rows(named=True)}
    table = []
    for name in sorted(rows["accelerator"].unique().to_list()):
        cells = []
        for benchmark in benchmarks:
            row = found.get((name, benchmark))
            gain = None if row is None else row["samples_per_joule"]
            said = "" if row is None else f"{row['accelerators']} in {row['system']}; {row['runs']} results"
            cells.append((number(gain), None if gain is None else gain / most[benchmark], said))
        table.append((name, cells))
    links = [_link(benchmark, values) for benchmark in benchmarks]
    words = "Samples per joule of the most efficient result; darker is nearer to the benchmark's best."
    return heat_table("Accelerator", links, table, caption=words)


def _link(benchmark: str, values: Values) -> Any:
    return html.A(
        benchmark, href=f"/results{write(_CONTROLS, {**values, 'benchmark': benchmark})}", className="pw-link"
    )


def _offer(stored: Stored, values: Values) -> Offer:
    return data.known(stored, values)


PAGE: Final = Page(
    name="results",
    label="Results",
    group="Efficiency",
    title="MLPerf results and their power",
    about="Which accelerator did how much per joule, by what submissions to MLPerf measured.",
    controls=_CONTROLS,
    body=_body,
    content=_content,
    offer=_offer,
    twins={
        "runs": lambda stored, values: data.view(stored, values).runs,
        "pareto": lambda stored, values: data.view(stored, values).runs.filter("front"),
        "best": lambda stored, values: data.view(stored, values).best,
        "all": lambda stored, _values: data.all_results(stored),
    },
    charts=("pareto", "leaders"),
    grids=(_GRID,),
    slots=("matrix",),
    linked=("best",),
)
