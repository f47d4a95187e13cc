"""
The tables, derived from the catalogue.

A row is found by its key columns and `time`; a later row with the same key replaces an earlier one.
Only ever add columns.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from collector.catalogue import Metric, Scope, metrics

VERSION: Final = 1
"""Stored in each segment; a segment with a higher number is refused."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column by name and DuckDB type, with the metric it holds where it holds one."""

    name: str
    type: str
    metric: Metric | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """
    A table: its key columns (which, with `time`, find a row and sort a segment), then the rest.

    Every table has a column `time` (TIMESTAMP_NS, UTC), by whose day it is partitioned. Of a `shared` table several
    writers may write the same row and readers look for the latest; in the others a row belongs to one writer.
    """

    name: str
    keys: tuple[str, ...]
    columns: tuple[Column, ...]
    shared: bool = False

    def __iter__(self) -> Iterator[Column]:
        return iter(self.columns)

    @property
    def names(self) -> tuple[str, ...]:
        """The column names, in order."""
        return tuple(column.name for column in self.columns)


TIME: Final = Column("time", "TIMESTAMP_NS")


def _text(*names: str) -> tuple[Column, ...]:
    return tuple(Column(name, "VARCHAR") for name in names)


def _measured(scope: Scope) -> tuple[Column, ...]:
    return tuple(Column(metric.column, "DOUBLE", metric) for metric in metrics(scope))


DEVICE_SAMPLES: Final = Table(
    "device_samples",
    ("device", "source"),
    (*_text("device"), TIME, *_text("source", "host", "power_method", "power_scope"), *_measured(Scope.DEVICE)),
)
HOST_SAMPLES: Final = Table(
    "host_samples", ("host", "source"), (*_text("host"), TIME, *_text("source"), *_measured(Scope.HOST))
)
WORKLOAD_SAMPLES: Final = Table(
    "workload_samples",
    ("workload", "source"),
    (*_text("workload"), TIME, *_text("source", "host", "model", "framework"), *_measured(Scope.WORKLOAD)),
)
FACILITY_SAMPLES: Final = Table(
    "facility_samples",
    ("meter", "source"),
    (*_text("meter"), TIME, *_text("source", "host", "site"), *_measured(Scope.FACILITY)),
)
DEVICES: Final = Table(
    "devices",
    ("device", "source"),
    (
        *_text("device"),
        TIME,
        *_text("source", "host", "vendor", "model"),
        Column("ordinal", "INTEGER"),
        *_text("parent", "partition", "serial", "bus", "driver_version", "firmware_version", "mode"),
        *_text("power_method", "power_scope"),
        Column("power_window_s", "DOUBLE"),
        Column("power_limit_w", "DOUBLE"),
        Column("memory_total_bytes", "DOUBLE"),
    ),
    shared=True,
)
ALLOCATIONS: Final = Table(
    "allocations",
    ("workload", "device", "start"),
    (
        *_text("workload", "device"),
        Column("start", "TIMESTAMP_NS"),
        TIME,
        Column("end", "TIMESTAMP_NS"),
        *_text("source", "host", "name", "user", "team"),
        Column("share", "DOUBLE"),
    ),
    shared=True,
)
PROCESSES: Final = Table(
    "processes",
    ("device", "pid", "source"),
    (
        *_text("device"),
        Column("pid", "BIGINT"),
        TIME,
        *_text("source", "host", "name", "user"),
        Column("memory_used_bytes", "DOUBLE"),
        Column("utilization_ratio", "DOUBLE"),
    ),
)
EVENTS: Final = Table(
    "events",
    ("host", "kind", "device", "code", "source"),
    (
        *_text("host", "kind"),
        TIME,
        *_text("device", "code", "source", "severity", "message"),
        Column("value", "DOUBLE"),
    ),
    shared=True,
)

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
    )
}

SAMPLE_TABLES: Final = {
    Scope.DEVICE: DEVICE_SAMPLES,
    Scope.HOST: HOST_SAMPLES,
    Scope.WORKLOAD: WORKLOAD_SAMPLES,
    Scope.FACILITY: FACILITY_SAMPLES,
}
SUBJECT: Final = {Scope.DEVICE: "device", Scope.HOST: "host", Scope.WORKLOAD: "workload", Scope.FACILITY: "meter"}
"""The column that holds a sample's subject, by scope."""
