"""
The tables, derived from the catalogue.

A row is found by its key columns and `time`; a later row with the same key replaces an earlier one.
Only ever add columns.
"""

from typing import Final

from collector.catalogue import POWER, TEMPERATURE, UTILIZATION, Kind, Metric, Scope, metrics
from collector.store.derived import DERIVED_TABLES
from collector.store.sketch import TYPE as SKETCH
from collector.store.table import TIME, Column, Table, text
from collector.units import JOULE, SECOND

VERSION: Final = 1
"""Stored in each segment; a segment with a higher number is refused."""


def _measured(scope: Scope) -> tuple[Column, ...]:
    return tuple(Column(metric.column, "DOUBLE", metric) for metric in metrics(scope))


DEVICE_SAMPLES: Final = Table(
    "device_samples",
    ("device", "source"),
    (*text("device"), TIME, *text("source", "host", "power_method", "power_scope"), *_measured(Scope.DEVICE)),
)
HOST_SAMPLES: Final = Table(
    "host_samples", ("host", "source"), (*text("host"), TIME, *text("source"), *_measured(Scope.HOST))
)
WORKLOAD_SAMPLES: Final = Table(
    "workload_samples",
    ("workload", "source"),
    (*text("workload"), TIME, *text("source", "host", "model", "framework"), *_measured(Scope.WORKLOAD)),
)
FACILITY_SAMPLES: Final = Table(
    "facility_samples",
    ("meter", "source"),
    (*text("meter"), TIME, *text("source", "host", "site"), *_measured(Scope.FACILITY)),
)
DEVICES: Final = Table(
    "devices",
    ("device", "source"),
    (
        *text("device"),
        TIME,
        *text("source", "host", "vendor", "model"),
        Column("ordinal", "INTEGER"),
        *text("parent", "partition", "serial", "bus", "driver_version", "firmware_version", "mode"),
        *text("power_method", "power_scope"),
        Column("power_window_s", "DOUBLE"),
        Column("power_limit_w", "DOUBLE"),
        Column("memory_total_bytes", "DOUBLE"),
    ),
    shared=True,
    states=True,
)
ALLOCATIONS: Final = Table(
    "allocations",
    ("workload", "device", "start"),
    (
        *text("workload", "device"),
        Column("start", "TIMESTAMP_NS"),
        TIME,
        Column("end", "TIMESTAMP_NS"),
        *text("source", "host", "name", "user", "team"),
        Column("share", "DOUBLE"),
    ),
    shared=True,
    states=True,
)
PROCESSES: Final = Table(
    "processes",
    ("device", "pid", "source"),
    (
        *text("device"),
        Column("pid", "BIGINT"),
        TIME,
        *text("source", "host", "name", "user"),
        Column("memory_used_bytes", "DOUBLE"),
        Column("utilization_ratio", "DOUBLE"),
    ),
)
EVENTS: Final = Table(
    "events",
    ("host", "kind", "device", "code", "source"),
    (
        *text("host", "kind"),
        TIME,
        *text("device", "code", "source", "severity", "message"),
        Column("value", "DOUBLE"),
    ),
    shared=True,
)
CALIBRATIONS: Final = Table(
    "calibrations",
    ("device", "metric"),
    (
        *text("device", "metric"),
        TIME,
        *text("source", "reference"),
        Column("start", "TIMESTAMP_NS"),
        Column("end", "TIMESTAMP_NS"),
        *(
            Column(name, "DOUBLE")
            for name in (
                "gain_ratio",
                "offset_w",
                "gain_error_ratio",
                "offset_error_w",
                "gain_offset_covariance_w",
            )
        ),
        Column("readings", "BIGINT"),
        *(
            Column(name, "DOUBLE")
            for name in (
                "residual_w",
                "explained_ratio",
                "reference_error_ratio",
                "update_period_s",
                "window_s",
                "window_error_s",
                "lag_s",
            )
        ),
    ),
    shared=True,
)
"""What a person decided on a device's sensor: shown = gain x true + offset, beside which reference, and how sure."""

RESULTS: Final = Table(
    "results",
    ("workload",),
    (
        *text("workload"),
        TIME,
        *text("source", "host", "suite", "version", "division", "submitter", "system", "benchmark", "scenario"),
        *text("phase", "accelerator"),
        Column("accelerators", "BIGINT"),
        Column("nodes", "BIGINT"),
        *text("framework", "metric", "verdict"),
        Column("start", "TIMESTAMP_NS"),
        Column("end", "TIMESTAMP_NS"),
        *(
            Column(name, "DOUBLE")
            for name in ("samples", "tokens", "samples_per_query", "samples_per_s", "tokens_per_s")
        ),
        *(Column(f"latency_{which}_s", "DOUBLE", unit=SECOND) for which in ("mean", "p50", "p90", "p99")),
    ),
    shared=True,
)
"""
Runs of a benchmark, and what each reported: on which system, under which rules, from when until when, how fast.

`time` is the end. Power is not here: it is that of the hosts which `allocations` give to the workload, and of `host`.
`metric` is what the benchmark itself counts: samples_per_s, tokens_per_s, p90_latency_ns, p99_latency_ns, train_s.
"""

SUBJECT: Final = {Scope.DEVICE: "device", Scope.HOST: "host", Scope.WORKLOAD: "workload", Scope.FACILITY: "meter"}
"""The column that holds a sample's subject, by scope."""
STATISTICS: Final = {Kind.GAUGE: ("min", "mean", "max"), Kind.COUNTER: ("increase",)}
"""What a rollup keeps of a metric, by kind."""
SKETCHED: Final = (POWER, UTILIZATION, TEMPERATURE)
"""The metrics whose distribution a rollup keeps, too: what capacity is planned and cooling is judged by."""
SKETCHED_FINEST: Final = (POWER,)
"""Those of them that the shortest windows keep as well; the others would be as large there as the readings."""
ENERGY_SUMS: Final = (
    "energy_j", "energy_covered_s", "energy_increase_j", "energy_power_j", "energy_power_s", "energy_both_counter_j",
    "energy_both_power_j", "energy_modelled_j", "energy_power_modelled_j",
)  # fmt: skip
"""What a rollup of devices has of energy, exact; whoever adds it up decides whether the counter is to be trusted."""
_SUMS_HELP: Final = (
    "by the counter where it is good, else by power", "of energy_j", "by the counter", "by power", "of energy_power_j",
    "by the counter, while there is power, too", "by power, while there is a counter, too",
    "of energy_j that is modelled, not measured", "of energy_power_j that is modelled, not measured",
)  # fmt: skip


_COVERED_HELP: Final = "Between samples no further apart than 3.5 of their own intervals, from 10 s to 300 s."


def rollup_column(metric: Metric, statistic: str) -> str:
    """
    The column of a rollup: the unit still ends the name.

    >>> from collector.catalogue import POWER
    >>> rollup_column(POWER, "max")
    'power_max_w'
    """
    return "_".join(word for word in (metric.name, statistic, metric.unit.suffix) if word)


def _rollup(scope: Scope, *others: str) -> Table:
    subject = SUBJECT[scope]
    words = {"host": "The host.", "model": "The model.", "framework": "The framework."} | {
        "power_method": "How the source measured power.", "power_scope": "What the power is of.",
    }  # fmt: skip
    return Table(
        f"{scope.value}_rollups",
        (subject, "source", "window_s"),
        (
            Column(subject, "VARCHAR", help=f"The {subject}."),
            TIME,
            Column("source", "VARCHAR", help="The source that read it; each has rows of its own."),
            Column("window_s", "INTEGER", unit=SECOND, help="Length: 300, 3600, or 86400 once the day is over."),
            *(Column(name, "VARCHAR", help=words[name]) for name in ("host", *others)),
            Column("rows", "BIGINT", help="Samples, one on the edge of two windows in the earlier."),
            Column("covered_s", "DOUBLE", unit=SECOND, help=_COVERED_HELP),
            *(
                Column(rollup_column(metric, statistic), "DOUBLE", metric)
                for metric in metrics(scope)
                for statistic in STATISTICS[metric.kind]
                if rollup_column(metric, statistic) not in ENERGY_SUMS
            ),
            *(_energy() if scope is Scope.DEVICE else ()),
            *(
                Column(rollup_column(m, "sketch"), SKETCH, unit=m.unit, help=f"The distribution of `{m.column}`.")
                for m in SKETCHED
                if m.scope is scope
            ),
        ),
        help=f"What the samples of each {subject} were over windows that start at `time`: what flows between two "
        "samples (energy, seconds, bytes, tokens) is shared by time between the windows that they are in, what happens "
        "(an error) is of the window in which it was seen, so that sums over windows are exact.",
    )


def _energy() -> tuple[Column, ...]:
    # Without a metric, whose resolution they would be rounded to.
    units = {"j": JOULE, "s": SECOND}
    sums = (
        Column(name, "DOUBLE", unit=units[name[-1]], help=f"{'Joules' if name.endswith('_j') else 'Seconds'} {told}.")
        for name, told in zip(ENERGY_SUMS, _SUMS_HELP, strict=True)
    )
    return (Column("max_gap_s", "DOUBLE", unit=SECOND, help="Readings of power further apart were a gap."), *sums)


DEVICE_ROLLUPS: Final = _rollup(Scope.DEVICE, "power_method", "power_scope")
WORKLOAD_ROLLUPS: Final = _rollup(Scope.WORKLOAD, "model", "framework")

TABLES: Final = {
    table.name: table
    for table in (
        DEVICE_SAMPLES,
        HOST_SAMPLES,
        WORKLOAD_SAMPLES,
        FACILITY_SAMPLES,
        DEVICES,
        ALLOCATIONS,
        PROCESSES,
        EVENTS,
        CALIBRATIONS,
        RESULTS,
        DEVICE_ROLLUPS,
        WORKLOAD_ROLLUPS,
        *DERIVED_TABLES,
    )
}

SAMPLE_TABLES: Final = {
    Scope.DEVICE: DEVICE_SAMPLES,
    Scope.HOST: HOST_SAMPLES,
    Scope.WORKLOAD: WORKLOAD_SAMPLES,
    Scope.FACILITY: FACILITY_SAMPLES,
}
ROLLUP_TABLES: Final = {DEVICE_SAMPLES.name: DEVICE_ROLLUPS, WORKLOAD_SAMPLES.name: WORKLOAD_ROLLUPS}
"""The table of rollups of a table of samples."""
