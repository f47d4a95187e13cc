"""Rows of one table as columns: what is sealed, and held until five minutes of it are merged."""

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from collector.catalogue import Metric
from collector.store.plain import plain_segment
from collector.store.rows import Row
from collector.store.table import Table


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of *table*, sorted by keys and time, each once; the columns that have a value, None where a row has none."""

    table: Table
    columns: Mapping[str, Sequence[Any]]

    @property
    def times_ns(self) -> Sequence[int]:
        """When each row was."""
        return self.columns["time"]

    def __len__(self) -> int:
        return len(self.times_ns)

    def row_keys(self) -> list[tuple[Any, ...]]:
        """What finds each row: the values of the table's keys, then its time."""
        return list(zip(*(self.columns[name] for name in (*self.table.keys, "time")), strict=True))

    def encoded(self) -> bytes:
        """
        The batch as a segment's content.

        Raises: StoreError for a value that is not of its column's type.
        """
        return plain_segment(self.table, self.columns, len(self))


def batch_of(table: Table, rows: Iterable[Row]) -> Batch:
    """*rows*, of which a later one replaces an earlier one of the same keys and time."""
    latest = {row.key: row for row in rows}
    try:
        keys = sorted(latest)
    except TypeError:  # some keys are null
        keys = sorted(latest, key=_nulls_last)
    measured = [latest[key].measured for key in keys]
    others = [latest[key].others for key in keys]
    names = set[str]().union(*others)
    by_metric = _transposed(measured)
    key_columns = dict(zip((*table.keys, "time"), zip(*keys, strict=True), strict=True))
    columns: dict[str, Sequence[Any]] = {}
    for column in table:
        if column.name in key_columns:
            columns[column.name] = key_columns[column.name]
        elif (metric := column.metric) is not None and metric in by_metric:
            columns[column.name] = _compact(by_metric[metric])
        elif column.name in names:
            columns[column.name] = [values.get(column.name) for values in others]
    return Batch(table, columns)


def _transposed(measured: Sequence[Mapping[Metric, float]]) -> Mapping[Metric, Sequence[float | None]]:
    """The values of each metric, row by row."""
    shapes = {tuple(values) for values in measured}
    if len(shapes) == 1:  # usually: then there is nothing to look up
        return dict(zip(*shapes, zip(*(values.values() for values in measured), strict=True), strict=True))
    return {metric: [values.get(metric) for values in measured] for metric in set[Metric]().union(*measured)}


def joined(table: Table, batches: Sequence[Batch]) -> Batch:
    """The rows of two or more *batches*, of which none has a row that another has."""
    keys = [key for batch in batches for key in batch.row_keys()]
    in_order = itemgetter(*sorted(range(len(keys)), key=keys.__getitem__))
    columns: dict[str, Sequence[Any]] = {}
    for column in table:
        parts = [batch.columns.get(column.name) for batch in batches]
        if any(part is not None for part in parts):
            whole: list[Any] = []
            for part, batch in zip(parts, batches, strict=True):
                whole += part if part is not None else [None] * len(batch)
            values = in_order(whole)
            columns[column.name] = _compact(values) if column.type == "DOUBLE" else values
    return Batch(table, columns)


def _compact(values: Sequence[Any]) -> Sequence[Any]:
    """Numbers as an array, which takes a quarter of the memory, unless some are missing."""
    try:
        return array("d", values)
    except TypeError:
        return values


def _nulls_last(key: tuple[Any, ...]) -> tuple[tuple[bool, Any], ...]:
    return tuple((value is None, "" if value is None else value) for value in key)
