"""The series that show an incident: what its rules looked at, before, during and after, with their limits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

import polars as pl

from analytics.anomalies.findings import STEP_NS, STEP_S, progress, value_of, windows_of
from analytics.anomalies.incidents import subjects_of
from analytics.anomalies.rules import (
    NODE_DAYS,
    EventRule,
    HeadroomRule,
    MissingRule,
    Rule,
    Rules,
    ScoreRule,
    StalledRule,
    ThresholdRule,
    Value,
)
from collector.catalogue import CATALOGUE
from collector.moments import NS
from collector.store.schema import STATISTICS, rollup_column

SERIES: Final = pl.Schema(
    {
        "subject": pl.String(), "time": pl.Datetime("ns"), "value": pl.Float64(), "low": pl.Float64(),
        "mid": pl.Float64(), "high": pl.Float64(),
    }
)  # fmt: skip
_DAY_NS: Final = 86_400_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """
    What one rule looked at.

    series: `SERIES`, a row for each subject and moment; low, mid and high are what was expected, where a detector told.
    `title` names the value with its unit, `limits` what it was held against, `counted` whether values are how many in
    `step_ns`; otherwise they hold for it.
    """

    rule: str
    title: str
    series: pl.DataFrame
    limits: Mapping[str, float] = field(default_factory=dict)
    counted: bool = False
    step_ns: int = STEP_NS


def evidence(
    row: Mapping[str, Any],
    rules: Rules,
    *,
    rollups: pl.LazyFrame,
    workload_rollups: pl.LazyFrame,
    events: pl.LazyFrame,
    anomaly_scores: pl.LazyFrame,
    headroom: pl.LazyFrame,
    types: pl.LazyFrame,
    start_ns: int,
    end_ns: int,
) -> tuple[list[Evidence], dict[str, str]]:
    """
    What each rule of an incident looked at in [start_ns, end_ns), the one that speaks first first; and why there is
    nothing to show of the others, by rule.

    In:  row of the table incidents; the tables device_rollups, workload_rollups, events, anomaly_scores, headroom;
         types: device, tdp_w, as `analytics.inventory.device_types` gives them.
    """
    places = subjects_of(row)
    names = [place.name for place in places]
    found: list[Evidence] = []
    without: dict[str, str] = {}
    for name in str(row["rule"] or "").split():
        rule = rules.named(name)
        if isinstance(rule, ThresholdRule):
            told = _threshold(rule, rollups.join(types.select("device", "tdp_w"), on="device", how="left"), names)
        elif isinstance(rule, MissingRule):
            told = _missing(rule, rollups, names, start_ns, end_ns)
        elif isinstance(rule, EventRule):
            told = _events(rule, rules, events, names, start_ns, end_ns)
        elif isinstance(rule, ScoreRule):
            told = _score(rule, anomaly_scores, names)
        elif isinstance(rule, StalledRule):
            told = _stalled(rule, workload_rollups, names)
        elif isinstance(rule, HeadroomRule):
            told = _headroom(rule, headroom, [str(row["name"])])
        else:
            without[name] = "there is no such rule any more, or it is not enabled"
            continue
        values = told.series["value"]
        if values.count() and not (isinstance(rule, EventRule) and values.sum() == 0):
            found.append(told)
        else:
            without[name] = "what it looked at is no longer in the store"
    return found, without


def _threshold(rule: ThresholdRule, rollups: pl.LazyFrame, names: Sequence[str]) -> Evidence:
    windows = windows_of(rollups.filter(pl.col("device").is_in(names)))
    measured = windows.select(
        value_of([value]).count().alias(str(at)) for at, value in enumerate(rule.values)
    ).collect()
    first = next((at for at, count in enumerate(measured.row(0)) if count), 0)
    return Evidence(
        rule=rule.name,
        title=_title(rule.values[first]),
        series=_series(windows.select("time", subject="device", value=value_of(rule.values))),
        limits={"limit": rule.raise_limit, "clear": rule.clear_limit},
    )


def _missing(rule: Rule, rollups: pl.LazyFrame, names: Sequence[str], start_ns: int, end_ns: int) -> Evidence:
    """Readings in each window; none where nothing was read."""
    rows = windows_of(rollups.filter(pl.col("device").is_in(names))).select("time", subject="device", value="rows")
    grid = _grid(names, start_ns, end_ns).join(rows, on=["subject", "time"], how="left")
    series = _series(grid.with_columns(pl.col("value").fill_null(0)))
    return Evidence(rule=rule.name, title="Readings in five minutes", series=series, counted=True)


def _events(
    rule: EventRule, rules: Rules, events: pl.LazyFrame, names: Sequence[str], start_ns: int, end_ns: int
) -> Evidence:
    """Events in each window."""
    other = {code for one in rules.of(EventRule) if one.event == rule.event for code in one.codes}
    kind = pl.col("kind") == rule.event
    if rule.codes:
        kind &= pl.col("code").is_in(sorted(rule.codes))
    elif rule.other_codes:
        kind &= ~pl.col("code").is_in(sorted(other)).fill_null(False)
    step = f"{STEP_NS}ns"
    rows = (
        events.filter(kind)
        .with_columns(subject=pl.coalesce("device", "host"), time=pl.col("time").dt.truncate(step))
        .filter(pl.col("subject").is_in(names))
        .group_by("subject", "time")
        .agg(value=pl.len())
    )
    grid = _grid(names, start_ns, end_ns).join(rows, on=["subject", "time"], how="left")
    told = " ".join(["Events", rule.event.replace("_", " "), *sorted(rule.codes)])
    series = _series(grid.with_columns(pl.col("value").fill_null(0)))
    return Evidence(rule=rule.name, title=f"{told} in five minutes", series=series, counted=True)


def _score(rule: ScoreRule, scores: pl.LazyFrame, names: Sequence[str]) -> Evidence:
    mine = scores.filter(
        pl.col("subject").is_in(names), pl.col("metric") == rule.metric, pl.col("window_s") == rule.window_s
    )
    if rule.detectors:
        mine = mine.filter(pl.col("detector").is_in(list(rule.detectors)))
    first = mine.sort("detector").unique(["subject", "time"], keep="first")
    rows = first.select(
        "subject", "time", value="observed", low="expected_low", mid="expected_mid", high="expected_high"
    ).collect()
    title, step_ns = _title(Value(left=rule.metric)), rule.window_s * NS
    return Evidence(rule=rule.name, title=title, series=_series(rows.lazy()), step_ns=step_ns)


def _stalled(rule: StalledRule, workload_rollups: pl.LazyFrame, names: Sequence[str]) -> Evidence:
    """What each workload made a second."""
    rows = progress(workload_rollups.filter(pl.col("workload").is_in(names))).collect()
    what = rows["what"][0] if rows.height else "steps"
    series = _series(rows.lazy().select("time", subject="workload", value=pl.col("made") / STEP_S))
    return Evidence(rule=rule.name, title=f"{what.capitalize()} per second", series=series)


def _headroom(rule: HeadroomRule, headroom: pl.LazyFrame, names: Sequence[str]) -> Evidence:
    time = pl.col("time").to_physical()
    days = {name: (pl.col(column).to_physical() - time) / _DAY_NS for name, column in NODE_DAYS.items()}
    rows = headroom.filter(pl.col("node").is_in(names)).with_columns(**days)
    told = rows.select("time", subject="node", value=value_of(rule.values))
    return Evidence(
        rule=rule.name,
        title=_title(rule.values[0]),
        series=_series(told),
        limits={"limit": rule.raise_limit, "clear": rule.clear_limit},
        step_ns=_DAY_NS,
    )


def _series(rows: pl.LazyFrame) -> pl.DataFrame:
    known = rows.collect_schema().names()
    none = pl.lit(None, pl.Float64)
    told = rows.select(
        "subject",
        pl.col("time").cast(pl.Datetime("ns")),
        *(pl.col(name).cast(pl.Float64) if name in known else none.alias(name) for name in SERIES.names()[2:]),
    )
    return told.sort("subject", "time").collect()


def _grid(names: Sequence[str], start_ns: int, end_ns: int) -> pl.LazyFrame:
    """Every window of every subject."""
    first = start_ns // STEP_NS * STEP_NS
    times = pl.int_range(first, end_ns, STEP_NS, eager=True).cast(pl.Datetime("ns")).alias("time")
    subjects = pl.DataFrame({"subject": list(names)}, schema={"subject": pl.String})
    return subjects.join(times.to_frame(), how="cross").lazy()


def _title(value: Value) -> str:
    """
    What an axis says of a value.

    >>> _title(Value(left="power_limit_mean_w", sign="/", right="tdp_w"))
    'Power limit over TDP'
    >>> _title(Value(left="throttle_thermal_increase_s", sign="/", right="covered_s"))
    'Share of the time: throttle thermal'
    >>> _title(Value(left="temperature_max_c"))
    'Temperature, max (°C)'
    """
    if value.sign is None or value.right is None:
        return _named(value.left)
    plain = _named(value.left).partition(" (")[0].partition(",")[0]
    if value.right == "covered_s":
        return f"Share of the time: {plain.lower()}"
    joint = "over" if value.sign == "/" else "less"
    return f"{plain} {joint} {_named(value.right).partition(' (')[0].partition(',')[0].replace('Tdp w', 'TDP')}"


def _named(column: str) -> str:
    return _titles().get(column, column.replace("_", " ").capitalize())


@cache
def _titles() -> dict[str, str]:
    """The title of each metric's column, and of its rollups, which say which statistic they are."""
    found = {metric.column: metric.title for metric in CATALOGUE}
    found["resistance_c_per_w"] = "Warming by each watt (°C/W)"
    for metric in CATALOGUE:
        name, _, unit = metric.title.partition(" (")
        for statistic in STATISTICS[metric.kind]:
            said = {"mean": "", "increase": "" if metric.unit.suffix == "s" else " in five minutes"}
            told = f"{name}{said.get(statistic, f', {statistic}')}"
            found[rollup_column(metric, statistic)] = f"{told} ({unit}" if unit else told
    return found
