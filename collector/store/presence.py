"""What a store holds: which columns have values, and how many rows and bytes each table has."""

from dataclasses import dataclass

from collector.store import sql
from collector.store.engine import Engine, as_store_error
from collector.store.store import Store


@dataclass(frozen=True, slots=True)
class Holding:
    """A table's part of a store; `first_ns` and `last_ns` are of its rows, None when it has none."""

    table: str
    segments: int
    rows: int
    bytes: int
    first_ns: int | None
    last_ns: int | None
    columns: frozenset[str]


def holdings(store: Store) -> list[Holding]:
    """
    What each table of *store* holds, from the segments' footers alone.

    Raises: StoreError.
    """
    engine = Engine()
    try:
        return [_holding(engine, store, table) for table in store.tables()]
    finally:
        engine.close()


def _holding(engine: Engine, store: Store, table: str) -> Holding:
    segments = store.segments(table)
    listed = f"[{', '.join(sql.text(segment.path) for segment in segments)}]"
    with as_store_error(store.root / table):
        # A segment has only the columns that have a value in it.
        names = engine.run(f"SELECT DISTINCT name FROM parquet_schema({listed}) WHERE type IS NOT NULL")
        ((rows,),) = engine.run(f"SELECT coalesce(sum(num_rows), 0) FROM parquet_file_metadata({listed})")
    return Holding(
        table=table,
        segments=len(segments),
        rows=int(rows),
        bytes=sum(segment.bytes for segment in segments),
        first_ns=min((segment.first_ns for segment in segments), default=None),
        last_ns=max((segment.last_ns for segment in segments), default=None),
        columns=frozenset(str(name) for (name,) in names),
    )
