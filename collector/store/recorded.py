"""Rows of a store in the order of time, as plain values: what a replay reads."""

from collections.abc import Iterator
from typing import Any

from collector.store import sql
from collector.store.store import Store

_ROWS = 4_000


def recorded(store: Store, table: str, start_ns: int, end_ns: int) -> Iterator[dict[str, Any]]:
    """
    The rows of *table* in [start_ns, end_ns), by time: values by column, without those that are null.

    Times are integers of nanoseconds. The store is looked at when the first row is asked for.
    Raises: StoreError.
    """
    columns = store.table(table).columns
    if not store.segments(table, start_ns, end_ns):
        return
    picked = ", ".join(
        f"epoch_ns({sql.quoted(column.name)})" if column.type == "TIMESTAMP_NS" else sql.quoted(column.name)
        for column in columns
    )
    keys = ", ".join(sql.quoted(name) for name in ("time", *store.table(table).keys))
    within = f"time >= make_timestamp_ns({start_ns}) AND time < make_timestamp_ns({end_ns})"
    names = [column.name for column in columns]
    with store.connect(threads=1) as connection:
        found = connection.execute(f"SELECT {picked} FROM {sql.quoted(table)} WHERE {within} ORDER BY {keys}")
        while rows := found.fetchmany(_ROWS):
            for row in rows:
                yield {name: value for name, value in zip(names, row, strict=True) if value is not None}


def extent(store: Store) -> tuple[int, int] | None:
    """From when until before when the store's samples go, to the millisecond; None: there are none."""
    ends = [
        (segment.first_ns, segment.last_ns)
        for table in store.tables()
        if table.endswith("_samples")
        for segment in store.segments(table)
    ]
    return (min(first for first, _ in ends), max(last for _, last in ends) + 1) if ends else None
