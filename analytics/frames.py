"""The store as LazyFrames, the schema checked at the door."""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

import polars as pl

from collector.errors import StoreError
from collector.store import Store
from collector.store.schema import VERSION, Table

Moment = datetime | int
"""A time: a datetime (without a zone it is UTC), or nanoseconds since 1970."""

TYPES = {
    "VARCHAR": pl.String(),
    "DOUBLE": pl.Float64(),
    "BIGINT": pl.Int64(),
    "INTEGER": pl.Int32(),
    "BOOLEAN": pl.Boolean(),
    "TIMESTAMP_NS": pl.Datetime("ns"),
}


_TICKS_NS: dict[pl.DataType, int] = {pl.Datetime("ms"): 1_000_000, pl.Datetime("us"): 1_000, pl.Datetime("ns"): 1}


def schema(table: Table) -> pl.Schema:
    """The columns of *table* as `scan` gives them."""
    return pl.Schema({column.name: TYPES[column.type] for column in table})


def nanoseconds(moment: Moment) -> int:
    """A moment as nanoseconds since 1970."""
    if isinstance(moment, int):
        return moment
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    delta = aware - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * 1_000_000_000 + delta.microseconds * 1_000


def scan(
    store: Store | Path | str,
    table: str,
    start: Moment | None = None,
    end: Moment | None = None,
    where: pl.Expr | None = None,
) -> pl.LazyFrame:
    """
    The rows of *table* in [start, end) for which *where* holds, in the schema's columns and types.

    Out: every column of the table: metrics as Float64, `time` as Datetime("ns") in UTC, what was not measured as null.
    Only segments that can hold such rows are opened. Collect it within minutes: superseded files are deleted after a
    grace. The order of rows is not defined.

    Raises: StoreError (no store, no such table, a segment that is damaged or of a newer schema).
    """
    opened = store if isinstance(store, Store) else Store(store)
    found = opened.table(table)
    start_ns = None if start is None else nanoseconds(start)
    end_ns = None if end is None else nanoseconds(end)
    parts: list[pl.LazyFrame] = []
    for segments, repeats in opened.groups(table, start_ns, end_ns):
        rows = _rows(found, [segment.path for segment in segments], start_ns, end_ns)
        parts.append(rows.unique([*found.keys, "time"], keep="last", maintain_order=True) if repeats else rows)
    frame = pl.concat(parts) if parts else pl.LazyFrame(schema=schema(found))
    return frame if where is None else frame.filter(where)


def latest(
    store: Store | Path | str, table: str, start: Moment | None = None, end: Moment | None = None
) -> pl.LazyFrame:
    """
    The last row of each key of *table* in [start, end): the present state, where a later row replaces an earlier one.

    Out: as `scan`, one row for each key.
    """
    opened = store if isinstance(store, Store) else Store(store)
    keys = list(opened.table(table).keys)
    return scan(opened, table, start, end).sort("time").unique(keys, keep="last", maintain_order=True)


def _rows(table: Table, paths: Sequence[Path], start_ns: int | None, end_ns: int | None) -> pl.LazyFrame:
    """The rows of some segments within a window in the schema's types, in the order of the paths."""
    runs: list[tuple[pl.Schema, list[Path]]] = []
    for path in paths:
        stored = _stored_schema(path)
        # Neighbours that store the same types are one scan; a column that some lack does not make two.
        if runs and _alike(runs[-1][0], stored):
            runs[-1][0].update(stored)
            runs[-1][1].append(path)
        else:
            runs.append((pl.Schema(stored), [path]))
    return pl.concat([_typed(table, stored, run, start_ns, end_ns) for stored, run in runs])


def _alike(one: pl.Schema, other: pl.Schema) -> bool:
    return all(one.get(name, kind) == kind for name, kind in other.items())


def _typed(
    table: Table, stored: pl.Schema, paths: list[Path], start_ns: int | None, end_ns: int | None
) -> pl.LazyFrame:
    rows = pl.scan_parquet(
        paths, schema=stored, missing_columns="insert", extra_columns="ignore", hive_partitioning=False, glob=False
    )
    # In the unit that is stored, so that row groups outside the window are skipped by their statistics.
    time = stored["time"]
    ticks = _TICKS_NS[time]
    for bound, compare in ((start_ns, pl.Expr.ge), (end_ns, pl.Expr.lt)):
        if bound is not None:
            # Rounded up for both: a moment between two ticks is after the first of them.
            rows = rows.filter(compare(pl.col("time"), pl.lit(-(-bound // ticks), dtype=pl.Int64).cast(time)))
    return rows.select(_column(name, kind, stored.get(name)) for name, kind in schema(table).items())


def _column(name: str, kind: pl.DataType, stored: pl.DataType | None) -> pl.Expr:
    if stored is None:
        return pl.lit(None, dtype=kind).alias(name)
    return pl.col(name) if stored == kind else pl.col(name).cast(kind)


# A segment never changes, so what its footer says is read once; a day of one writer is some dozens of files.
@lru_cache(maxsize=20_000)
def _stored_schema(path: Path) -> pl.Schema:
    """
    The columns that a segment has.

    Raises: StoreError.
    """
    try:
        version = pl.read_parquet_metadata(path).get("perfwatt_schema")
        stored = pl.read_parquet_schema(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise StoreError(path, f"the segment cannot be read: {str(error).splitlines()[0]}") from error
    if version is None:
        raise StoreError(path, "not a segment of perfwatt: it carries no schema version")
    if int(version) > VERSION:
        raise StoreError(path, f"schema version {version} is newer than {VERSION}, the newest that this perfwatt reads")
    return pl.Schema(stored)
