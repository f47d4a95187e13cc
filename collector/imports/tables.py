"""Frames as the store's tables want them."""

from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl

from collector.catalogue import Metric
from collector.sample import Allocation, Event
from collector.store.schema import TABLES

_TYPES: dict[str, pl.DataType] = {
    "VARCHAR": pl.String(),
    "TIMESTAMP_NS": pl.Datetime("ns"),
    "DOUBLE": pl.Float64(),
    "INTEGER": pl.Int32(),
    "BIGINT": pl.Int64(),
}


def schema(table: str) -> dict[str, pl.DataType]:
    """The columns of *table* with their polars types."""
    return {column.name: _TYPES[column.type] for column in TABLES[table]}


def shaped(table: str, data: pl.DataFrame) -> pl.DataFrame:
    """*data* in the column order and types of *table*, without columns that hold nothing; sorted by key and time."""
    types = schema(table)
    unknown = set(data.columns) - set(types)
    assert not unknown, f"{table} has no columns {sorted(unknown)}"
    keys = [*TABLES[table].keys, "time"]
    columns = [name for name in types if name in data.columns and (name in keys or data[name].null_count() < len(data))]
    missing = [name for name in keys if name not in data.columns]
    return (
        data.select(pl.col(name).cast(types[name]) for name in columns)
        .with_columns(pl.lit(None, types[name]).alias(name) for name in missing)
        .sort(keys)
        .select(name for name in types if name in keys or name in columns)
    )


def rows(table: str, records: Iterable[Mapping[str, Any]]) -> pl.DataFrame:
    """A frame of *table* from records; times are nanoseconds."""
    types = schema(table)
    data = pl.DataFrame(
        list(records), schema={name: pl.Int64() if kind == pl.Datetime("ns") else kind for name, kind in types.items()}
    )
    times = [name for name, kind in types.items() if kind == pl.Datetime("ns")]
    return shaped(table, data.with_columns(pl.from_epoch(pl.col(name), "ns") for name in times))


def event_row(event: Event, source: str) -> dict[str, Any]:
    """An event as a record of the events table."""
    return {
        "host": event.host,
        "kind": event.kind,
        "time": event.time_ns,
        "device": event.device,
        "code": event.code,
        "source": source,
        "severity": event.severity.value,
        "message": event.message,
        "value": event.value,
    }


def allocation_row(allocation: Allocation, source: str) -> dict[str, Any]:
    """An allocation as a record of the allocations table."""
    return {
        "workload": allocation.workload,
        "device": allocation.device,
        "start": allocation.start_ns,
        "time": allocation.time_ns,
        "end": allocation.end_ns,
        "source": source,
        "host": allocation.host,
        "name": allocation.name,
        "user": allocation.user,
        "team": allocation.team,
        "share": allocation.share,
    }


def implausible(metric: Metric) -> pl.Expr:
    """Whether a value of *metric*'s column cannot be true."""
    value = pl.col(metric.column)
    wrong = value.is_nan() | value.is_infinite()
    if metric.low is not None:
        wrong |= value < metric.low
    if metric.high is not None:
        wrong |= value > metric.high
    return wrong.fill_null(False)
