"""The tables as DuckDB views over exact lists of files: never a superseded one beside its successor."""

import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import duckdb

from collector.store import sql
from collector.store.engine import as_store_error, check_version, connect
from collector.store.files import Files
from collector.store.schema import TABLES
from collector.store.segments import Segment, segments_of
from collector.store.table import Table

DATABASE = "perfwatt.duckdb"


def groups(table: Table, segments: Sequence[Segment]) -> list[tuple[list[Segment], bool]]:
    """
    *segments* in groups, with True those in which a later row may replace an earlier one (same keys, same time).

    In a shared table that is all of them. Otherwise a row belongs to one writer, which marks the segments that may
    repeat a row: then its segments of that day, up to the last one marked, are such a group.
    """
    if table.shared:
        return [(list(segments), True)] if segments else []
    last_marked: dict[tuple[str, object], int] = {}
    for segment in segments:
        if segment.repeats:
            place = (segment.writer, segment.date)
            last_marked[place] = max(last_marked.get(place, 0), segment.last)
    plain: list[Segment] = []
    marked: dict[tuple[str, object], list[Segment]] = {}
    for segment in segments:
        place = (segment.writer, segment.date)
        if segment.first <= last_marked.get(place, -1):
            marked.setdefault(place, []).append(segment)
        else:
            plain.append(segment)
    return ([(plain, False)] if plain else []) + [(some, True) for some in marked.values()]


def table_view(connection: duckdb.DuckDBPyConnection, root: Path, table: Table) -> str:
    """
    The rows of *table* now, as a select.

    Raises: StoreError (a segment of a newer schema).
    """
    segments = segments_of(root, table.name)
    _check_versions(connection, [segment.path for segment in segments])
    listed = groups(table, segments)
    return sql.typed_rows(table, [([segment.path for segment in some], repeats) for some, repeats in listed])


# A segment never changes, so its version is read once; publishing looks at the new ones only.
_CHECKED: set[Path] = set()


def _check_versions(connection: duckdb.DuckDBPyConnection, paths: Sequence[Path]) -> None:
    new = [path for path in paths if path not in _CHECKED]
    if new:
        versions = dict.fromkeys(map(str, new), 0)
        for name, key, value in connection.execute(sql.metadata(new)).fetchall():
            if key == sql.VERSION_KEY:
                versions[name] = int(value)
        for name, version in versions.items():
            check_version(name, version)
        if len(_CHECKED) > 100_000:
            _CHECKED.clear()
        _CHECKED.update(new)


def statements(connection: duckdb.DuckDBPyConnection, root: Path, schema: str | None = None) -> Iterator[str]:
    """Statements that make a view for each table, and for the latest of what replaces itself."""
    into = f"{sql.quoted(schema)}." if schema else ""
    for table in TABLES.values():
        yield f"CREATE VIEW {into}{sql.quoted(table.name)} AS {table_view(connection, root, table)}"
    for table in (table for table in TABLES.values() if table.states):
        keys = ", ".join(sql.quoted(name) for name in table.keys)
        yield (
            f"CREATE VIEW {into}{sql.quoted(table.now)} AS SELECT * FROM {into}{sql.quoted(table.name)} "
            f"QUALIFY row_number() OVER (PARTITION BY {keys} ORDER BY time DESC) = 1"
        )


def publish(root: Path, files: Files) -> Path:
    """
    Write the views database and put it in place of the one before, in one rename.

    Raises: StoreError.
    """
    final = root / DATABASE
    temporary = root / f".{DATABASE}.{os.getpid()}.{threading.get_ident()}.tmp"
    with as_store_error(final):
        try:
            connection = connect(temporary, threads=1)
            try:
                for statement in statements(connection, root):
                    connection.execute(statement).fetchall()
            finally:
                connection.close()
            files.commit(temporary, final)
        finally:
            temporary.unlink(missing_ok=True)
            temporary.with_name(f"{temporary.name}.wal").unlink(missing_ok=True)
    return final
