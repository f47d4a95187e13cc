"""Tables out of the store: a DuckDB database on its own, or a file of rows."""

import os
import threading
from collections.abc import Iterable
from pathlib import Path

from collector.errors import StoreError
from collector.store import sql, views
from collector.store.engine import as_store_error, connect
from collector.store.files import FILES
from collector.store.schema import TABLES
from collector.store.segments import segments_of
from collector.store.table import Table

_FORMATS = {
    "parquet": "FORMAT parquet, COMPRESSION zstd",
    "csv": "FORMAT csv, HEADER true",
    "jsonl": "FORMAT json",
}


def rows_between(root: Path, table: Table, start_ns: int | None = None, end_ns: int | None = None) -> str:
    """A select of the rows of *table* in [start_ns, end_ns)."""
    listed = views.groups(table, segments_of(root, table.name, start_ns, end_ns))
    rows = sql.typed_rows(table, [([segment.path for segment in some], repeats) for some, repeats in listed])
    bounds = [
        f"time {compare} make_timestamp_ns({bound})"
        for compare, bound in ((">=", start_ns), ("<", end_ns))
        if bound is not None
    ]
    return f"SELECT * FROM ({rows}) WHERE {' AND '.join(bounds)}" if bounds else rows


def export_duckdb(
    root: Path | str,
    file: Path,
    tables: Iterable[str] | None = None,
    start_ns: int | None = None,
    end_ns: int | None = None,
) -> dict[str, int]:
    """
    Write a DuckDB database that holds the rows themselves; gives the number of rows by table.

    *file* is replaced in one rename, or not at all.

    Raises: StoreError.
    """
    chosen = _tables(Path(root), tables)
    temporary = _beside(file)
    with as_store_error(file):
        try:
            connection = connect(temporary)
            try:
                counts: dict[str, int] = {}
                for table in chosen:
                    rows = rows_between(Path(root), table, start_ns, end_ns)
                    name = sql.quoted(table.name)
                    connection.execute(f"CREATE TABLE {name} AS {rows} ORDER BY {sql.order(table)}").fetchall()
                    found = connection.execute(f"SELECT count(*) FROM {name}").fetchone()
                    counts[table.name] = int(found[0]) if found else 0
            finally:
                connection.close()
            FILES.commit(temporary, file)
        finally:
            temporary.unlink(missing_ok=True)
            temporary.with_name(f"{temporary.name}.wal").unlink(missing_ok=True)
    return counts


def export_table(
    root: Path | str,
    table: str,
    file: Path,
    form: str | None = None,
    start_ns: int | None = None,
    end_ns: int | None = None,
) -> int:
    """
    Write a table's rows to *file* as parquet, csv or jsonl (by default as its name ends); gives the number of rows.

    Raises: StoreError.
    """
    (chosen,) = _tables(Path(root), [table])
    form = form or file.suffix.removeprefix(".").lower()
    if form not in _FORMATS:
        raise StoreError(
            file, f"cannot export as {form or 'a file without ending'!r}; formats are {', '.join(_FORMATS)}"
        )
    temporary = _beside(file)
    with as_store_error(file):
        try:
            connection = connect()
            try:
                rows = f"{rows_between(Path(root), chosen, start_ns, end_ns)} ORDER BY {sql.order(chosen)}"
                copied = connection.execute(f"COPY ({rows}) TO {sql.text(temporary)} ({_FORMATS[form]})").fetchone()
            finally:
                connection.close()
            FILES.commit(temporary, file)
        finally:
            temporary.unlink(missing_ok=True)
    return int(copied[0]) if copied else 0


def _tables(root: Path, names: Iterable[str] | None) -> list[Table]:
    if not root.is_dir():
        raise StoreError(root, "no store here: not a folder")
    chosen = list(TABLES) if names is None else list(names)
    unknown = [name for name in chosen if name not in TABLES]
    if unknown:
        raise StoreError(root, f"no table {', '.join(unknown)}; there are {', '.join(TABLES)}")
    return [TABLES[name] for name in chosen]


def _beside(file: Path) -> Path:
    if not file.parent.is_dir():
        raise StoreError(file, f"there is no folder {file.parent}")
    return file.with_name(f".{file.name}.{os.getpid()}.{threading.get_ident()}.tmp")
